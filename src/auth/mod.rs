//! Who a client is.
//!
//! The [`Authenticator`] turns credentials into an [`Identity`], and says what the identity may
//! reach. [`host_keys`] is the other direction: how the gateway proves itself.

mod access;
mod addresses;
mod authenticator;
mod authorized_keys;
mod certificate;
pub mod host_keys;
mod key_files;
pub(crate) mod password_hash;
mod passwords;
mod wildcard;

use crate::names::AccountName;

pub use authenticator::{AuthSetupError, Authenticator, Methods};
pub use password_hash::{HashPasswordError, hash_password};

/// An authenticated client. Only this module's parts create one from credentials.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The account.
    pub account: AccountName,
    /// What the credentials restrict.
    pub restrictions: Restrictions,
    /// Which credentials, for the log: "publickey SHA256:...", "password", "open network 10.0.0.0/8".
    pub method: String,
}

/// What an authorized_keys entry (sshd(8), AUTHORIZED_KEYS FILE FORMAT) or a certificate forbids.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Restrictions {
    /// `no-pty` or `restrict`.
    pub no_pty: bool,
    /// `no-port-forwarding` or `restrict`.
    pub no_port_forwarding: bool,
    /// `no-agent-forwarding` or `restrict`.
    pub no_agent_forwarding: bool,
    /// `no-X11-forwarding` or `restrict`.
    pub no_x11_forwarding: bool,
    /// `command=`: runs instead of whatever the client asked for.
    pub forced_command: Option<String>,
}
