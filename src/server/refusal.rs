//! What a client is told when something fails, and with which exit status. The only place that
//! words failures for users; the full chain of causes goes to the log.

use crate::backend::image::ImageError;
use crate::backend::{BackendError, NodeFailure};
use crate::target::UsernameError;

/// The other end could not be reached, as ssh(1) has it.
const UNREACHABLE: u32 = 255;
/// EX_UNAVAILABLE of sysexits(3).
const UNAVAILABLE: u32 = 69;
/// EX_TEMPFAIL of sysexits(3).
const TRY_AGAIN: u32 = 75;
/// EX_NOPERM of sysexits(3).
const NOT_ALLOWED: u32 = 77;
/// What a shell reports for a program that SIGINT ended.
const INTERRUPTED: u32 = 130;

/// A failure, worded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    /// One line; empty: there is nothing to say.
    pub(super) line: String,
    /// The exit status of the session.
    pub(super) status: u32,
}

impl Refusal {
    fn new(status: u32, line: impl Into<String>) -> Self {
        Self { line: line.into(), status }
    }

    /// The username does not parse.
    pub(super) fn bad_username(error: &UsernameError) -> Self {
        Self::new(UNREACHABLE, error.to_string())
    }

    /// The account may not use the target.
    pub(super) fn not_allowed(account: &str, target: &str) -> Self {
        Self::new(
            NOT_ALLOWED,
            format!("account {account} is not allowed to use {target}; ask the administrator"),
        )
    }

    /// The gateway or a limit ends the session.
    pub(super) fn ended(reason: &str) -> Self {
        Self::new(UNREACHABLE, reason)
    }
}

impl From<&BackendError> for Refusal {
    fn from(error: &BackendError) -> Self {
        match error {
            BackendError::UnknownNode { name, similar, stale } => {
                let mut line = format!("there is no node or device named {name}");
                if !similar.is_empty() {
                    line += &format!("; did you mean {}?", similar.join(" or "));
                }
                if let Some(stale) = stale {
                    line += &format!(" ({stale})");
                }
                Self::new(UNREACHABLE, line)
            }
            BackendError::UnknownNodes { stale, .. } => {
                let stale = stale.as_ref().map(|why| format!(" ({why})")).unwrap_or_default();
                Self::new(UNREACHABLE, format!("{error}{stale}; nothing was started"))
            }
            BackendError::AddressRefused { name, address } => Self::new(
                NOT_ALLOWED,
                format!(
                    "node {name} has address {address}, which is outside the networks this \
                     gateway may connect to; ask the administrator to extend \"networks\""
                ),
            ),
            BackendError::InUse { name, owner } => Self::new(
                NOT_ALLOWED,
                format!(
                    "node {name} is in use by {owner}; ask them, log in as {owner}+{name} if you \
                     are {owner}, or open a shell on a terminal, which asks before it goes on"
                ),
            ),
            BackendError::Node { name, failure } => {
                Self::new(UNREACHABLE, format!("node {name}: {}", node_failure(failure)))
            }
            BackendError::BootTimeout { name, seconds, last } => Self::new(
                UNREACHABLE,
                format!("node {name} did not come up within {seconds} s ({last}); is it powered?"),
            ),
            BackendError::Interrupted => Self::new(INTERRUPTED, ""),
            BackendError::Unsupported(what) => Self::new(UNAVAILABLE, what.clone()),
            BackendError::Image(error) => image(error),
        }
    }
}

fn node_failure(failure: &NodeFailure) -> String {
    match failure {
        NodeFailure::Unreachable(reason) => format!("cannot connect: {reason}"),
        NodeFailure::Handshake(reason) => format!("the SSH handshake failed: {reason}"),
        NodeFailure::KeyRefused { login, identity } => format!(
            "it does not accept the gateway's key for {login}; ask the administrator to \
             authorise {identity} there"
        ),
        NodeFailure::HostKeyUnknown { known_hosts, accept, fingerprint } => format!(
            "its host key {fingerprint} is not known; ask the administrator to add it to \
             {known_hosts}, or to run: {accept}"
        ),
        NodeFailure::HostKeyChanged { recorded, accept, fingerprint } => format!(
            "ITS HOST KEY HAS CHANGED to {fingerprint}, or something pretends to be the node; \
             the old key is at {recorded}; if the change is expected, ask the administrator to \
             run: {accept}"
        ),
        NodeFailure::RequestRefused(what) => format!("it refused {what}"),
        NodeFailure::Identity(reason) => format!("the gateway's own key cannot be used: {reason}"),
        NodeFailure::ConnectionLost => "the connection to it was lost; if it is rebooting, its \
             changes outside /persist are gone"
            .to_owned(),
    }
}

fn image(error: &ImageError) -> Refusal {
    let status = match error {
        ImageError::EngineUnavailable(_)
        | ImageError::NoEmulator { .. }
        | ImageError::FilesOutOfReach { .. }
        | ImageError::NoRsync { .. } => UNAVAILABLE,
        ImageError::CommitFailed { .. }
        | ImageError::BaseChanged { .. }
        | ImageError::SavedAside { .. }
        | ImageError::SiblingFailed { .. }
        | ImageError::SiblingLost { .. }
        | ImageError::Undecided { .. }
        | ImageError::NameTaken { .. }
        | ImageError::TooManyContainers { .. }
        | ImageError::TooManyUnsaved { .. } => TRY_AGAIN,
        _ => UNREACHABLE,
    };
    Refusal::new(status, error.to_string())
}
