//! Spare connections: a node in recent use has one that is authenticated already, so that the next
//! client does not wait for a slow node's handshake.
//!
//! A spare has never been any client's, and the client that takes it keeps it: nothing of one
//! user's agent, display or forwards can reach another. Each is kept by a task of its own.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::debug;

use super::host_key::OwnHostKeys;
use super::upstream::{ConnectError, Upstream};
use crate::backend::ClientChannels;
use crate::config::HostKeyPolicy;
use crate::inventory::NodeRecord;
use crate::names::{Login, NodeName};

/// Spares in all; the one that was made first makes room for another.
const MOST: usize = 32;
/// How long a spare waits to be taken.
const KEPT: Duration = Duration::from_secs(5 * 60);
/// How long a spare alone is waited for, before a new connection is made beside it: it may have
/// died unnoticed, and a node that was switched off says nothing.
const HEAD_START: Duration = Duration::from_millis(250);

/// Makes connections to nodes, and has spares of them.
pub(super) struct Spares {
    own_host_keys: OwnHostKeys,
    /// The oldest first.
    kept: Mutex<VecDeque<Kept>>,
    keepers: TaskTracker,
    stop: CancellationToken,
}

/// A spare, as its keeper's task can be asked for it. Dropping this closes the spare.
struct Kept {
    destination: Destination,
    claim: oneshot::Sender<Claim>,
}

/// Where a keeper sends its spare to.
type Claim = oneshot::Sender<Upstream>;

/// What a spare and the login that takes it must agree on.
#[derive(PartialEq, Eq)]
struct Destination {
    node: NodeName,
    login: Login,
    address: SocketAddr,
    identity: PathBuf,
    known_hosts: PathBuf,
    host_key_alias: Option<String>,
    host_key_policy: HostKeyPolicy,
}

impl Destination {
    fn of(node: &NodeRecord, login: &Login) -> Self {
        Self {
            node: node.name.clone(),
            login: login.clone(),
            address: node.address,
            identity: node.options.identity.clone(),
            known_hosts: node.options.known_hosts.clone(),
            host_key_alias: node.options.host_key_alias.clone(),
            host_key_policy: node.options.host_key_policy,
        }
    }
}

impl Spares {
    /// Keepers run on `keepers` until `stop`.
    pub(super) fn new(
        own_host_keys: OwnHostKeys,
        keepers: TaskTracker,
        stop: CancellationToken,
    ) -> Self {
        Self { own_host_keys, kept: Mutex::default(), keepers, stop }
    }

    /// A connection for a client: the spare if there is a live one, else a new one.
    pub(super) async fn connect(
        &self,
        node: &NodeRecord,
        login: &Login,
        client: Arc<dyn ClientChannels>,
    ) -> Result<Upstream, ConnectError> {
        let dialling = Upstream::connect(node, login, &self.own_host_keys);
        let upstream = match self.claim(node, login) {
            Some(spare) => spare_or(dialling, spare).await?,
            None => dialling.await?,
        };
        upstream.arrivals.belong_to(client);
        Ok(upstream)
    }

    /// Makes a spare for a node that was just used, unless it has one or may have none.
    pub(super) fn replenish(&self, node: &NodeRecord, login: &Login) {
        if !node.options.spare_connections || self.stop.is_cancelled() {
            return;
        }
        let destination = Destination::of(node, login);
        let (claim, claimed) = oneshot::channel();
        {
            let mut kept = self.lock();
            kept.retain(|spare| !spare.claim.is_closed());
            if kept.iter().any(|spare| spare.destination == destination) {
                return;
            }
            // One for a node: the last login's.
            kept.retain(|spare| spare.destination.node != destination.node);
            if kept.len() >= MOST {
                kept.pop_front();
            }
            kept.push_back(Kept { destination, claim });
        }
        let (node, login) = (node.clone(), login.clone());
        let (own, stop) = (self.own_host_keys.clone(), self.stop.clone());
        self.keepers.spawn(async move {
            let files = Files::of(&node, &own).await;
            let connecting = Upstream::connect(&node, &login, &own);
            match stop.run_until_cancelled(connecting).await {
                Some(Ok(upstream)) => {
                    if let Some(claim) = keep(&upstream, &node, claimed, &stop).await
                        && files.is_some()
                        && files == Files::of(&node, &own).await
                    {
                        hand_over(upstream, &node, claim).await;
                    } else {
                        upstream.disconnect().await;
                    }
                }
                Some(Err(error)) => debug!(node = %node.name, ?error, "no spare connection"),
                None => {}
            }
        });
    }

    /// Takes the spare out, whether it is connected yet or not. The receiver gets nothing if it
    /// turns out to be dead.
    fn claim(&self, node: &NodeRecord, login: &Login) -> Option<oneshot::Receiver<Upstream>> {
        let destination = Destination::of(node, login);
        let spare = {
            let mut kept = self.lock();
            let position = kept.iter().position(|spare| spare.destination == destination)?;
            kept.remove(position)?
        };
        let (to_us, given) = oneshot::channel();
        spare.claim.send(to_us).ok()?;
        Some(given)
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Kept>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The spare if it comes soon, else whichever comes first.
async fn spare_or(
    dialling: impl Future<Output = Result<Upstream, ConnectError>>,
    mut spare: oneshot::Receiver<Upstream>,
) -> Result<Upstream, ConnectError> {
    match timeout(HEAD_START, &mut spare).await {
        Ok(Ok(upstream)) => return Ok(upstream),
        Ok(Err(_)) => return dialling.await,
        Err(_) => {}
    }
    tokio::select! {
        Ok(upstream) = spare => Ok(upstream),
        dialled = dialling => dialled,
    }
}

/// Keeps a spare until it is claimed; `None` when it ended or has waited too long.
async fn keep(
    upstream: &Upstream,
    node: &NodeRecord,
    claimed: oneshot::Receiver<Claim>,
    stop: &CancellationToken,
) -> Option<Claim> {
    debug!(node = %node.name, "a spare connection is ready");
    tokio::select! {
        claim = claimed => claim.ok(),
        () = sleep(KEPT) => None,
        () = stop.cancelled() => None,
        () = upstream.ended() => {
            debug!(node = %node.name, "the node ended its spare connection");
            None
        }
    }
}

/// How the files stood by which a node is known and logged in to. A spare that was made by others
/// than those of now is of no use: a key may have been withdrawn.
#[derive(PartialEq, Eq)]
struct Files([Option<Version>; 3]);

/// Inode, time of the last change of any kind, and size.
type Version = (u64, i64, i64, u64);

impl Files {
    async fn of(node: &NodeRecord, own: &OwnHostKeys) -> Option<Self> {
        let files =
            [node.options.identity.clone(), node.options.known_hosts.clone(), own.file.clone()];
        let look = move || {
            Self(files.map(|file| {
                let found = std::fs::metadata(file).ok()?;
                Some((found.ino(), found.ctime(), found.ctime_nsec(), found.len()))
            }))
        };
        tokio::task::spawn_blocking(look).await.ok()
    }
}

/// Gives a spare to the client that claimed it, if the node answers on it.
async fn hand_over(upstream: Upstream, node: &NodeRecord, mut claim: Claim) {
    let alive = tokio::select! {
        answered = timeout(node.options.connect, upstream.answers()) => answered == Ok(true),
        () = claim.closed() => false,
    };
    if !alive {
        debug!(node = %node.name, "the spare connection did not answer in time");
    } else if let Err(unwanted) = claim.send(upstream) {
        unwanted.disconnect().await;
    }
}
