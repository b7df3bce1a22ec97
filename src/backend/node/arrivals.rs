//! What a node opens towards the gateway: the client gets it if it asked for it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use russh::client::{ChannelOpenHandle, Msg};
use russh::{Channel, ChannelOpenFailure};
use tracing::warn;

use super::session;
use crate::backend::{Arrival, ArrivedConnection, BackendSession, ClientChannels};

/// One node connection's way to its client. Refuses everything before it has one.
#[derive(Default)]
pub(super) struct Arrivals {
    client: OnceLock<Arc<dyn ClientChannels>>,
    agent: AtomicBool,
    x11: AtomicBool,
    forwards: AtomicBool,
}

impl Arrivals {
    /// The connection is this client's from now on, and never anybody else's.
    pub(super) fn belong_to(&self, client: Arc<dyn ClientChannels>) {
        if self.client.set(client).is_err() {
            warn!("a node connection has its client already; it stays with that one");
        }
    }

    /// A session of the client's offered its agent.
    pub(super) fn allow_agent(&self) {
        self.agent.store(true, Ordering::Relaxed);
    }

    /// A session of the client's offered its display.
    pub(super) fn allow_x11(&self) {
        self.x11.store(true, Ordering::Relaxed);
    }

    /// The client asked the node to listen somewhere.
    pub(super) fn allow_forwards(&self) {
        self.forwards.store(true, Ordering::Relaxed);
    }

    /// Passes a channel on, or refuses it when the client never asked for its kind: ssh(1) would
    /// warn its user of a break-in attempt. Which forward a connection belongs to is the client's to judge.
    pub(super) fn take(&self, arrival: Arrival, channel: Channel<Msg>, reply: ChannelOpenHandle) {
        let wanted = match arrival {
            Arrival::Agent => self.agent.load(Ordering::Relaxed),
            Arrival::X11 { .. } => self.x11.load(Ordering::Relaxed),
            Arrival::Tcp { .. } | Arrival::Unix { .. } => self.forwards.load(Ordering::Relaxed),
        };
        match self.client.get() {
            Some(client) if wanted => {
                client.offer(arrival, Box::new(NodeChannel { channel, reply }));
            }
            _ => warn!(?arrival, "the node opened a channel that nobody asked for; refused"),
        }
    }
}

struct NodeChannel {
    channel: Channel<Msg>,
    reply: ChannelOpenHandle,
}

#[async_trait]
impl ArrivedConnection for NodeChannel {
    async fn accept(self: Box<Self>) -> BackendSession {
        self.reply.accept().await;
        session::stream(self.channel)
    }

    async fn refuse(self: Box<Self>) {
        self.reply.reject(ChannelOpenFailure::ConnectFailed).await;
    }
}
