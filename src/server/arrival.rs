//! Channels that the target opens to the client: remote forwards, agent, X11.

use std::sync::{Arc, Weak};

use russh::server::{Handle, Msg};
use tracing::{Instrument, debug};

use super::connection::Connection;
use super::forward;
use crate::backend::{Arrival, ArrivedConnection, ClientChannels};

/// A connection's client, as its target sees it. Weak, as the connection holds the target.
pub(super) struct ClientSide(Weak<Connection>);

impl ClientSide {
    pub(super) fn of(connection: &Arc<Connection>) -> Self {
        Self(Arc::downgrade(connection))
    }
}

impl ClientChannels for ClientSide {
    fn offer(&self, arrival: Arrival, arrived: Box<dyn ArrivedConnection>) {
        // Without a connection, dropping the offer refuses it.
        let Some(connection) = self.0.upgrade() else { return };
        let Some(slot) = connection.forward_slot() else { return };
        let span = connection.span.clone();
        let tracker = connection.sessions.clone();
        tracker.spawn(
            async move {
                serve(arrival, arrived, &connection).await;
                drop(slot);
            }
            .instrument(span),
        );
    }
}

async fn serve(
    arrival: Arrival,
    arrived: Box<dyn ArrivedConnection>,
    connection: &Arc<Connection>,
) {
    let Some(handle) = connection.handle() else { return arrived.refuse().await };
    let what = format!("{arrival:?}");
    let opened = tokio::select! {
        opened = open(&handle, arrival) => opened,
        () = connection.ending() => Err(russh::Error::Disconnect),
    };
    match opened {
        Ok(channel) => {
            let session = arrived.accept().await;
            forward::relay(channel, handle, connection, session, &what).await;
        }
        Err(error) => {
            debug!(what, %error, "the client refused a channel");
            arrived.refuse().await;
        }
    }
}

async fn open(handle: &Handle, arrival: Arrival) -> Result<russh::Channel<Msg>, russh::Error> {
    match arrival {
        Arrival::Tcp { address, port, originator: (from, from_port) } => {
            handle.channel_open_forwarded_tcpip(address, port, from, from_port).await
        }
        Arrival::Unix { path } => handle.channel_open_forwarded_streamlocal(path).await,
        Arrival::Agent => handle.channel_open_agent().await,
        Arrival::X11 { originator: (from, from_port) } => {
            handle.channel_open_x11(from, from_port).await
        }
    }
}
