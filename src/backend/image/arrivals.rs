//! What is opened in a container towards the gateway: its client gets it, if it asked for it.

use std::io;
use std::sync::{Arc, Weak};
use std::time::Duration;

use async_trait::async_trait;
use tokio::net::{TcpListener, UnixListener};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::interior::Interior;
use crate::backend::{Arrival, ArrivedConnection, BackendSession, ClientChannels, socket};

/// Before the next attempt to accept when this process has no descriptors left.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);
/// For sockets to be closed and their files to be removed.
const CLOSING: Duration = Duration::from_secs(10);

/// A socket in a container on which something is waited for.
pub(super) enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// Where a connection came from: address and port, empty and 0 for a Unix socket.
pub(super) type Originator = (String, u32);

/// A connection's way from its containers to its client.
pub(super) struct Arrivals {
    client: Arc<dyn ClientChannels>,
    tasks: TaskTracker,
    closing: CancellationToken,
}

impl Arrivals {
    pub(super) fn new(client: Arc<dyn ClientChannels>) -> Self {
        Self { client, tasks: TaskTracker::new(), closing: CancellationToken::new() }
    }

    /// Ends something that is waited for, and at the latest everything when the connection ends.
    pub(super) fn until(&self) -> CancellationToken {
        self.closing.child_token()
    }

    /// Offers to the client whatever connects, until told to stop.
    pub(super) fn offer_all(
        &self,
        listener: Listener,
        interior: &Arc<Interior>,
        until: &CancellationToken,
        arrival: impl Fn(Originator) -> Arrival + Send + Sync + 'static,
    ) {
        let client = Arc::clone(&self.client);
        // Waiting for connections does not keep a container in use; having one does.
        let interior = Arc::downgrade(interior);
        let until = until.clone();
        self.tasks.spawn(async move {
            loop {
                let accepted = tokio::select! {
                    // What arrives after that has come too late.
                    biased;
                    () = until.cancelled() => return,
                    accepted = listener.accept(&interior) => accepted,
                };
                match accepted {
                    Ok((session, originator)) => {
                        client.offer(arrival(originator), Box::new(Arrived(session)));
                    }
                    Err(error) => {
                        tracing::warn!(%error, "cannot accept connections in a container");
                        sleep(ACCEPT_RETRY).await;
                    }
                }
            }
        });
    }

    /// Does something, which may block, once it is over.
    pub(super) fn afterwards(
        &self,
        until: &CancellationToken,
        last: impl FnOnce() -> io::Result<()> + Send + 'static,
    ) {
        let until = until.clone();
        self.tasks.spawn(async move {
            until.cancelled().await;
            match tokio::task::spawn_blocking(last).await {
                Ok(Ok(())) => {}
                // With the container, everything in it may be gone.
                Ok(Err(error)) => tracing::debug!(%error, "what was lent to a container"),
                Err(error) => tracing::warn!(%error, "what was lent to a container"),
            }
        });
    }

    /// Ends everything. Bounded in time.
    pub(super) async fn close(&self) {
        self.closing.cancel();
        self.tasks.close();
        if timeout(CLOSING, self.tasks.wait()).await.is_err() {
            tracing::warn!("what was lent to a container is not taken back yet");
        }
    }
}

impl Listener {
    async fn accept(&self, interior: &Weak<Interior>) -> io::Result<(BackendSession, Originator)> {
        match self {
            Self::Tcp(listener) => {
                let (stream, from) = listener.accept().await?;
                socket::send_at_once(&stream);
                let originator = (from.ip().to_string(), u32::from(from.port()));
                Ok((socket::tcp(stream, interior.upgrade()), originator))
            }
            Self::Unix(listener) => {
                let (stream, _) = listener.accept().await?;
                Ok((socket::unix(stream, interior.upgrade()), (String::new(), 0)))
            }
        }
    }
}

/// An accepted connection. Dropping it is a refusal.
struct Arrived(BackendSession);

#[async_trait]
impl ArrivedConnection for Arrived {
    async fn accept(self: Box<Self>) -> BackendSession {
        self.0
    }

    async fn refuse(self: Box<Self>) {}
}
