//! Who a client is.
//!
//! The [`Authenticator`] turns credentials into an [`Identity`], and says what the identity may
//! reach. [`host_keys`] is the other direction: how the gateway proves itself.

mod access;
mod addresses;
mod authenticator;
mod authorized_keys;
mod certificate;
mod forward_permits;
pub mod host_keys;
mod key_files;
pub(crate) mod password_hash;
mod passwords;
mod wildcard;

use crate::names::AccountName;

pub use authenticator::{AuthSetupError, Authenticator, Methods};
pub use forward_permits::ForwardPermit;
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
    /// `permitopen=`: where forwarded connections may go; empty: anywhere.
    pub permit_open: Vec<ForwardPermit>,
    /// `permitlisten=`: where the target may listen for the client; empty: anywhere.
    pub permit_listen: Vec<ForwardPermit>,
}

impl Restrictions {
    /// What both leave, the ones of a certificate and those of the entry with its authority's key.
    /// Only an entry has permits of forwards. `None`: each forces another command.
    fn and(self, entry: &Self) -> Option<Self> {
        let forced_command = match (self.forced_command, &entry.forced_command) {
            (Some(one), Some(other)) if one != *other => return None,
            (one, other) => one.or_else(|| other.clone()),
        };
        Some(Self {
            no_pty: self.no_pty || entry.no_pty,
            no_port_forwarding: self.no_port_forwarding || entry.no_port_forwarding,
            no_agent_forwarding: self.no_agent_forwarding || entry.no_agent_forwarding,
            no_x11_forwarding: self.no_x11_forwarding || entry.no_x11_forwarding,
            forced_command,
            permit_open: entry.permit_open.clone(),
            permit_listen: entry.permit_listen.clone(),
        })
    }

    /// Whether a connection may be opened to a port of `host`, as the client names it.
    pub fn permit_open_tcp(&self, host: &str, port: u16) -> bool {
        let permits = &self.permit_open;
        !self.no_port_forwarding
            && (permits.is_empty() || permits.iter().any(|permit| permit.opens(host, port)))
    }

    /// Whether a connection may be opened to a Unix socket. sshd lets a key with `permitopen=` have
    /// them all; it can name none, so here it has none.
    pub fn permit_open_unix(&self) -> bool {
        !self.no_port_forwarding && self.permit_open.is_empty()
    }

    /// Whether the target may listen on `address`, as the client sends it; port 0: one it chooses.
    pub fn permit_listen_tcp(&self, address: &str, port: u16) -> bool {
        let permits = &self.permit_listen;
        !self.no_port_forwarding
            && (permits.is_empty() || permits.iter().any(|permit| permit.listens(address, port)))
    }

    /// Whether the target may listen on a Unix socket; with `permitlisten=` as above.
    pub fn permit_listen_unix(&self) -> bool {
        !self.no_port_forwarding && self.permit_listen.is_empty()
    }
}
