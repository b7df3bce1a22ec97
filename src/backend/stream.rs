//! Connections that are forwarded, to the target's side and from it.

use std::fmt;

use async_trait::async_trait;

use super::BackendSession;

/// The far end of a connection that the client forwards, RFC 4254 section 7.2.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StreamTarget {
    /// `direct-tcpip`: a name or address as the target sees it, and a port.
    Tcp {
        /// The host.
        host: String,
        /// The port.
        port: u16,
    },
    /// `direct-streamlocal@openssh.com`: a socket's path on the target.
    Unix {
        /// The path.
        path: String,
    },
}

impl fmt::Display for StreamTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // Both are the client's words and go to the log.
            Self::Tcp { host, port } => write!(f, "{} port {port}", host.escape_debug()),
            Self::Unix { path } => write!(f, "{}", path.escape_debug()),
        }
    }
}

/// Where the target is to listen for the client, RFC 4254 section 7.1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listen {
    /// `tcpip-forward`; port 0: any.
    Tcp {
        /// The address, in the RFC's notation ("" is everywhere).
        address: String,
        /// The port.
        port: u16,
    },
    /// `streamlocal-forward@openssh.com`: a socket's path on the target.
    Unix {
        /// The path.
        path: String,
    },
}

/// A connection that arrived on the target and is meant for the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Arrival {
    /// On a [`Listen::Tcp`].
    Tcp {
        /// The address that was asked for.
        address: String,
        /// The port it arrived on.
        port: u32,
        /// Where it came from.
        originator: (String, u32),
    },
    /// On a [`Listen::Unix`].
    Unix {
        /// The socket's path.
        path: String,
    },
    /// For the client's agent.
    Agent,
    /// For the client's display.
    X11 {
        /// Where it came from.
        originator: (String, u32),
    },
}

/// The target's end of an [`Arrival`], which waits for the client's answer.
#[async_trait]
pub trait ArrivedConnection: Send {
    /// The client took it.
    async fn accept(self: Box<Self>) -> BackendSession;
    /// The client did not.
    async fn refuse(self: Box<Self>);
}

/// The client, as far as a target may open channels to it.
pub trait ClientChannels: Send + Sync {
    /// Offers a connection; it is relayed, or refused, in a task of the client's connection.
    fn offer(&self, arrival: Arrival, connection: Box<dyn ArrivedConnection>);
}

/// Why a forwarded connection was not opened, RFC 4254 section 5.1.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// The target, or the gateway for it, does not allow it.
    #[error("not allowed: {0}")]
    Prohibited(String),
    /// Nothing answers there.
    #[error("cannot connect: {0}")]
    Failed(String),
}
