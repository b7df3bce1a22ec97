//! russh's callbacks for a connection to a node.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use russh::Channel;
use russh::client::{ChannelOpenHandle, Msg, Session};
use russh::keys::PublicKeyOrCertificate;
use tokio_util::sync::DropGuard;

use super::arrivals::Arrivals;
use super::host_key::HostKeys;
use crate::backend::{Arrival, NodeFailure};

/// Why the host key was refused, carried past russh, which only knows yes and no.
#[derive(Debug, Clone, Default)]
pub(super) struct Verdict(Arc<Mutex<Option<NodeFailure>>>);

impl Verdict {
    pub(super) fn take(&self) -> Option<NodeFailure> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn set(&self, failure: NodeFailure) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(failure);
    }
}

/// Judges the node's key, and passes on the channels that the node opens.
pub(super) struct NodeHandler {
    pub(super) host_keys: Arc<HostKeys>,
    pub(super) verdict: Verdict,
    pub(super) arrivals: Arc<Arrivals>,
    /// russh drops the handler when the connection has ended.
    pub(super) _ended: DropGuard,
}

impl russh::client::Handler for NodeHandler {
    type Error = russh::Error;

    async fn check_server_key(
        &mut self,
        presented: &PublicKeyOrCertificate,
    ) -> Result<bool, Self::Error> {
        let host_keys = self.host_keys.clone();
        let key = presented.public_key();
        let judged = tokio::task::spawn_blocking(move || host_keys.judge(&key))
            .await
            .map_err(|error| russh::Error::IO(io::Error::other(error)))?;
        match judged {
            Ok(()) => Ok(true),
            Err(failure) => {
                self.verdict.set(failure);
                Ok(false)
            }
        }
    }

    async fn server_channel_open_forwarded_tcpip(
        &mut self,
        channel: Channel<Msg>,
        connected_address: &str,
        connected_port: u32,
        originator_address: &str,
        originator_port: u32,
        reply: ChannelOpenHandle,
        _session: &mut Session,
    ) -> Result<(), Self::Error> {
        let arrival = Arrival::Tcp {
            address: connected_address.to_owned(),
            port: connected_port,
            originator: (originator_address.to_owned(), originator_port),
        };
        self.arrivals.take(arrival, channel, reply);
        Ok(())
    }

    async fn server_channel_open_forwarded_streamlocal(
        &mut self,
        channel: Channel<Msg>,
        socket_path: &str,
        reply: ChannelOpenHandle,
        _session: &mut Session,
    ) -> Result<(), Self::Error> {
        let arrival = Arrival::Unix { path: socket_path.to_owned() };
        self.arrivals.take(arrival, channel, reply);
        Ok(())
    }

    async fn server_channel_open_agent_forward(
        &mut self,
        channel: Channel<Msg>,
        reply: ChannelOpenHandle,
        _session: &mut Session,
    ) -> Result<(), Self::Error> {
        self.arrivals.take(Arrival::Agent, channel, reply);
        Ok(())
    }

    async fn server_channel_open_x11(
        &mut self,
        channel: Channel<Msg>,
        originator_address: &str,
        originator_port: u32,
        reply: ChannelOpenHandle,
        _session: &mut Session,
    ) -> Result<(), Self::Error> {
        let originator = (originator_address.to_owned(), originator_port);
        self.arrivals.take(Arrival::X11 { originator }, channel, reply);
        Ok(())
    }

    // russh accepts the following by default. A node has no business opening them: dropping the
    // reply refuses.

    async fn server_channel_open_session(
        &mut self,
        _channel: Channel<Msg>,
        _reply: ChannelOpenHandle,
        _session: &mut Session,
    ) -> Result<(), Self::Error> {
        Ok(())
    }

    async fn server_channel_open_direct_tcpip(
        &mut self,
        _channel: Channel<Msg>,
        _host_to_connect: &str,
        _port_to_connect: u32,
        _originator_address: &str,
        _originator_port: u32,
        _reply: ChannelOpenHandle,
        _session: &mut Session,
    ) -> Result<(), Self::Error> {
        Ok(())
    }

    async fn server_channel_open_direct_streamlocal(
        &mut self,
        _channel: Channel<Msg>,
        _socket_path: &str,
        _reply: ChannelOpenHandle,
        _session: &mut Session,
    ) -> Result<(), Self::Error> {
        Ok(())
    }
}
