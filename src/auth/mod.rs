//! Who a client is.

use crate::names::AccountName;

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
