//! Why a target could not be opened.

use super::image;
use crate::names::NodeName;

/// Where a failed wait for a node stood, for the message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NodeFailure {
    /// TCP: refused, unreachable, timed out.
    Unreachable(String),
    /// The SSH handshake failed.
    Handshake(String),
    /// The node does not accept the gateway's key.
    KeyRefused {
        /// The login that was tried.
        login: String,
        /// The gateway's private key file.
        identity: String,
    },
    /// The gateway has no host key for it and the policy is strict.
    HostKeyUnknown {
        /// Where the key should be recorded.
        known_hosts: String,
        /// The command that accepts the key.
        accept: String,
        /// SHA-256 fingerprint of the key presented.
        fingerprint: String,
    },
    /// Another host key than the recorded one was presented.
    HostKeyChanged {
        /// Where the recorded key is, `FILE:LINE`.
        recorded: String,
        /// The command that accepts the key.
        accept: String,
        /// SHA-256 fingerprint of the key presented.
        fingerprint: String,
    },
    /// The session channel or a request on it was refused.
    RequestRefused(String),
    /// The gateway's own key file cannot be used.
    Identity(String),
    /// An established connection ended during a session.
    ConnectionLost,
}

/// Why a target could not be opened or a session not finished. Each variant names the object;
/// `server::refusal` words them for the client.
#[derive(Debug, thiserror::Error)]
pub enum BackendError {
    /// No such node; `similar` are the closest names, best first.
    #[error("no node or device named {name}")]
    UnknownNode {
        /// As asked for.
        name: NodeName,
        /// The closest existing names.
        similar: Vec<String>,
        /// Says how old the inventory's list is, when it is not fresh.
        stale: Option<String>,
    },
    /// Several nodes that were asked for at once do not exist.
    #[error("there are no nodes or devices named {}", listed(names))]
    UnknownNodes {
        /// As asked for.
        names: Vec<NodeName>,
        /// Says how old the inventory's list is, when it is not fresh.
        stale: Option<String>,
    },
    /// The node's address is not on an allowed network.
    #[error("node {name} has address {address}, outside the allowed networks")]
    AddressRefused {
        /// Which node.
        name: NodeName,
        /// Its address.
        address: std::net::IpAddr,
    },
    /// Another account uses the node, and nobody is there to be asked.
    #[error("node {name} is in use by {owner}")]
    InUse {
        /// Which node.
        name: NodeName,
        /// Whose image it boots.
        owner: String,
    },
    /// The node could not be used.
    #[error("node {name}: {failure:?}")]
    Node {
        /// Which node.
        name: NodeName,
        /// What happened.
        failure: NodeFailure,
    },
    /// The node did not boot in time.
    #[error("node {name} did not boot within {seconds} s: {last}")]
    BootTimeout {
        /// Which node.
        name: NodeName,
        /// How long was waited.
        seconds: u64,
        /// The last failure.
        last: String,
    },
    /// The user pressed ctrl-C, or went away, during a wait.
    #[error("interrupted by the client")]
    Interrupted,
    /// The target needs something this request cannot give, in words for the user.
    #[error("{0}")]
    Unsupported(String),
    /// Image targets.
    #[error(transparent)]
    Image(#[from] image::ImageError),
}

fn listed(names: &[NodeName]) -> String {
    names.iter().map(NodeName::as_str).collect::<Vec<_>>().join(", ")
}
