//! Accepts TCP connections, within limits, and drains them at shutdown.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, info, warn};

use crate::config::Limits;
use crate::server::Server;
use crate::workers::Workers;

/// Pause after accept(2) failed for want of descriptors or memory.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);
/// How long connections may take to end at shutdown. All but saving a large container is a matter
/// of seconds; killed in the middle, its changes would be lost.
const DRAIN: Duration = Duration::from_secs(30 * 60);

/// Accepts on all sockets until `shutdown`, then waits for the connections to end.
pub async fn serve(
    sockets: Vec<TcpListener>,
    server: Arc<Server>,
    workers: Arc<Workers>,
    limits: &Limits,
    shutdown: CancellationToken,
) {
    let startups = Startups::new(limits.max_startups, limits.max_startups_per_source);
    let connections = TaskTracker::new();
    let next_id = Arc::new(AtomicU64::new(1));
    let accepting = TaskTracker::new();
    for socket in sockets {
        accepting.spawn(accept(
            socket,
            server.clone(),
            workers.clone(),
            startups.clone(),
            connections.clone(),
            next_id.clone(),
            shutdown.clone(),
        ));
    }
    accepting.close();
    accepting.wait().await;
    connections.close();
    if !connections.is_empty() {
        info!(connections = connections.len(), "shutting down");
    }
    if tokio::time::timeout(DRAIN, connections.wait()).await.is_err() {
        warn!(connections = connections.len(), "not ended within {} s", DRAIN.as_secs());
    }
}

async fn accept(
    socket: TcpListener,
    server: Arc<Server>,
    workers: Arc<Workers>,
    startups: Startups,
    connections: TaskTracker,
    next_id: Arc<AtomicU64>,
    shutdown: CancellationToken,
) {
    loop {
        let accepted = tokio::select! {
            accepted = socket.accept() => accepted,
            () = shutdown.cancelled() => return,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                if !is_about_one_connection(&error) {
                    warn!(%error, "cannot accept connections; trying again");
                    tokio::time::sleep(ACCEPT_RETRY).await;
                }
                continue;
            }
        };
        let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
        match startups.begin(peer.ip()) {
            Ok(startup) => {
                let id = next_id.fetch_add(1, Ordering::Relaxed);
                let (server, shutdown) = (server.clone(), shutdown.clone());
                workers.spawn(&connections, peer.ip(), async move {
                    match bound_to_this_thread(stream) {
                        Ok(stream) => server.serve(stream, peer, id, startup, shutdown).await,
                        Err(error) => warn!(%peer, %error, "cannot serve a connection"),
                    }
                });
            }
            Err(limit) => refuse(&stream, peer, limit),
        }
    }
}

/// The same stream, whose events arrive at the thread that asks for it.
fn bound_to_this_thread(stream: TcpStream) -> io::Result<TcpStream> {
    TcpStream::from_std(stream.into_std()?)
}

fn is_about_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::Interrupted
    )
}

/// Tells the client, if it is there to listen, before the connection is dropped. RFC 4253 section
/// 4.2 allows lines before the identification.
fn refuse(stream: &TcpStream, peer: SocketAddr, limit: &'static str) {
    info!(%peer, "refused: {limit} reached");
    let line = b"Too many connections are waiting to log in; try again in a moment.\r\n";
    if let Err(error) = stream.try_write(line) {
        debug!(%peer, %error, "the refusal could not be told");
    }
}

/// Counts connections that have not authenticated yet.
#[derive(Clone)]
struct Startups {
    counts: Arc<Mutex<Counts>>,
    max: usize,
    max_per_source: usize,
}

#[derive(Default)]
struct Counts {
    all: usize,
    by_source: HashMap<IpAddr, usize>,
}

/// One connection that has not authenticated yet.
struct Startup {
    startups: Startups,
    source: IpAddr,
}

impl Startups {
    fn new(max: usize, max_per_source: usize) -> Self {
        Self { counts: Arc::default(), max, max_per_source }
    }

    /// Counts one in, or names the limit that was reached.
    fn begin(&self, source: IpAddr) -> Result<Startup, &'static str> {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if counts.all >= self.max {
            return Err("max_startups");
        }
        let from_source = counts.by_source.entry(source).or_default();
        if *from_source >= self.max_per_source {
            return Err("max_startups_per_source");
        }
        *from_source += 1;
        counts.all += 1;
        Ok(Startup { startups: self.clone(), source })
    }
}

impl Drop for Startup {
    fn drop(&mut self) {
        let mut counts = self.startups.counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts.all -= 1;
        if let Some(from_source) = counts.by_source.get_mut(&self.source) {
            *from_source -= 1;
            if *from_source == 0 {
                counts.by_source.remove(&self.source);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn startups_are_limited_per_source_and_in_all_and_given_back() {
        let startups = Startups::new(3, 2);
        let [a, b] = [IpAddr::from([127, 0, 0, 1]), IpAddr::from([127, 0, 0, 2])];
        let first = startups.begin(a).unwrap_or_else(|limit| panic!("{limit}"));
        let _second = startups.begin(a).unwrap_or_else(|limit| panic!("{limit}"));
        assert_eq!(startups.begin(a).err(), Some("max_startups_per_source"));
        let _third = startups.begin(b).unwrap_or_else(|limit| panic!("{limit}"));
        assert_eq!(startups.begin(b).err(), Some("max_startups"));
        drop(first);
        assert!(startups.begin(a).is_ok());
        assert_eq!(startups.counts.lock().unwrap().all, 2);
    }
}
