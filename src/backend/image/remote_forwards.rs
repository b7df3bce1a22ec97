//! Where a client asked to be listened for it: `-R`. That holds for the connection, and so in each
//! container that the connection has, one after the other.

use std::io;
use std::sync::Arc;

use tokio::sync::Mutex;
use tokio_util::sync::DropGuard;

use super::arrivals::{Arrivals, Listener};
use super::interior::{Interior, blocking};
use crate::backend::{Arrival, Listen, StreamError};
use crate::sftp::BoundSocket;

/// A connection's remote forwards.
#[derive(Default)]
pub(super) struct RemoteForwards {
    all: Mutex<Vec<RemoteForward>>,
}

struct RemoteForward {
    /// With the port that was chosen.
    on: Listen,
    open: Option<Open>,
}

/// Listening goes on until this is dropped.
struct Open {
    _until: DropGuard,
    file: Option<BoundSocket>,
}

impl RemoteForwards {
    /// Begins one; the port, 0 for a socket.
    pub(super) async fn begin(
        &self,
        on: &Listen,
        interior: &Arc<Interior>,
        arrivals: &Arrivals,
    ) -> Result<u32, StreamError> {
        let mut all = self.all.lock().await;
        let (on, open) = open(on, interior, arrivals)
            .await
            .map_err(|error| StreamError::Failed(error.to_string()))?;
        let port = match &on {
            Listen::Tcp { port, .. } => u32::from(*port),
            Listen::Unix { .. } => 0,
        };
        all.push(RemoteForward { on, open: Some(open) });
        Ok(port)
    }

    /// Ends one; whether there was one.
    pub(super) async fn end(&self, on: &Listen) -> bool {
        let mut all = self.all.lock().await;
        let Some(index) = all.iter().position(|forward| forward.on == *on) else { return false };
        if let Some(open) = all.swap_remove(index).open {
            open.close().await;
        }
        true
    }

    /// The container's files are about to be looked at: nothing of the forwards may be among them.
    pub(super) async fn withdraw_files(&self) {
        self.withdraw_if(|open| open.file.is_some()).await;
    }

    /// The container ends.
    pub(super) async fn withdraw(&self) {
        self.withdraw_if(|_| true).await;
    }

    async fn withdraw_if(&self, concerned: impl Fn(&Open) -> bool + Send) {
        for forward in self.all.lock().await.iter_mut() {
            if let Some(open) = forward.open.take_if(|open| concerned(open)) {
                open.close().await;
            }
        }
    }

    /// Goes on with those that were withdrawn, perhaps in another container.
    pub(super) async fn resume(&self, interior: &Arc<Interior>, arrivals: &Arrivals) {
        for forward in self.all.lock().await.iter_mut().filter(|forward| forward.open.is_none()) {
            match open(&forward.on, interior, arrivals).await {
                Ok((_, open)) => forward.open = Some(open),
                Err(error) => {
                    let on = &forward.on;
                    tracing::warn!(?on, %error, "a remote forward does not go on");
                }
            }
        }
    }
}

async fn open(
    on: &Listen,
    interior: &Arc<Interior>,
    arrivals: &Arrivals,
) -> io::Result<(Listen, Open)> {
    let until = arrivals.until();
    // From here on, also if nobody waits for the end of this.
    let guard = until.clone().drop_guard();
    match on {
        Listen::Tcp { address, port } => {
            let (port, listeners) = interior.listen_on_loopback(*port).await?;
            for listener in listeners {
                let address = address.clone();
                arrivals.offer_all(Listener::Tcp(listener), interior, &until, move |originator| {
                    Arrival::Tcp { address: address.clone(), port: u32::from(port), originator }
                });
            }
            let on = Listen::Tcp { address: address.clone(), port };
            Ok((on, Open { _until: guard, file: None }))
        }
        Listen::Unix { path } => {
            let (listener, file) = interior.listen_on_socket(path).await?;
            let arrival = Arrival::Unix { path: path.clone() };
            arrivals
                .offer_all(Listener::Unix(listener), interior, &until, move |_| arrival.clone());
            Ok((on.clone(), Open { _until: guard, file: Some(file) }))
        }
    }
}

impl Open {
    async fn close(self) {
        let Some(file) = self.file else { return };
        if let Err(error) = blocking(move || file.remove()).await {
            tracing::warn!(%error, "the socket of a remote forward stays in a container");
        }
    }
}
