//! What the channels of one client connection share.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use russh::server::Handle;
use tokio::sync::{broadcast, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Span;

use super::Server;
use super::arrival::ClientSide;
use super::refusal::Refusal;
use crate::auth::Identity;
use crate::backend::{Attachment, Caller, Listen, StreamTarget};
use crate::relay::spool::{Patience, SpoolLimits};
use crate::target::{Target, Username, UsernameError};

/// One client connection, from accept to close.
pub(super) struct Connection {
    pub(super) server: Arc<Server>,
    pub(super) peer: SocketAddr,
    pub(super) id: u64,
    pub(super) span: Span,
    /// The tasks of its session channels.
    pub(super) sessions: TaskTracker,
    /// Cancelled when the client has authenticated.
    pub(super) authenticated: CancellationToken,
    client: OnceLock<Client>,
    attachment: Mutex<Option<Arc<dyn Attachment>>>,
    open_sessions: Arc<AtomicUsize>,
    open_forwards: Arc<AtomicUsize>,
    /// How many channels are open, of either kind and direction.
    channels: Arc<watch::Sender<usize>>,
    /// Lines for all its terminals.
    notices: broadcast::Sender<String>,
    ending: CancellationToken,
    ending_reason: OnceLock<String>,
    opened: Instant,
    /// Milliseconds after `opened` at which data last passed.
    last_data: AtomicU64,
}

/// Known once the client has authenticated.
struct Client {
    identity: Arc<Identity>,
    target: Result<Target, UsernameError>,
    handle: Handle,
}

/// Forwarded connections open at once on one client connection.
const MOST_FORWARDS: usize = 1024;

/// Lines of the gateway's own that wait for a terminal that takes nothing.
const NOTICES: usize = 4;

/// How long a client's connection is not read for a target that is slow to take input, while it
/// has one channel. A second one that it opens meanwhile waits as long.
const INPUT_PATIENCE: Duration = Duration::from_millis(40);

/// How long a target's connection is not read for a client that is slow, while it has one
/// channel. Without this, output that nobody wants any more would pile up before a slow client;
/// an interrupt on its way to the target waits as long.
const OUTPUT_PATIENCE: Duration = Duration::from_millis(250);

/// Counts an open channel for as long as it exists.
pub(super) struct Slot(Arc<AtomicUsize>);

impl Slot {
    fn take(open: &Arc<AtomicUsize>, limit: usize) -> Option<Self> {
        open.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |open| {
            (open < limit).then_some(open + 1)
        })
        .ok()
        .map(|_| Self(open.clone()))
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// One of the channels that share the connection, for as long as it exists.
pub(super) struct CountedChannel(Arc<watch::Sender<usize>>);

impl Drop for CountedChannel {
    fn drop(&mut self) {
        self.0.send_modify(|open| *open -= 1);
    }
}

impl Connection {
    pub(super) fn new(server: Arc<Server>, peer: SocketAddr, id: u64, span: Span) -> Self {
        Self {
            server,
            peer,
            id,
            span,
            sessions: TaskTracker::new(),
            authenticated: CancellationToken::new(),
            client: OnceLock::new(),
            attachment: Mutex::new(None),
            open_sessions: Arc::default(),
            open_forwards: Arc::default(),
            channels: Arc::new(watch::Sender::new(0)),
            notices: broadcast::Sender::new(NOTICES),
            ending: CancellationToken::new(),
            ending_reason: OnceLock::new(),
            opened: Instant::now(),
            last_data: AtomicU64::new(0),
        }
    }

    /// Records who the client is and what it asks for. Only the first call counts.
    pub(super) fn identify(
        &self,
        identity: Identity,
        username: Result<Username, UsernameError>,
        handle: Handle,
    ) {
        let target = username.map(|username| username.target);
        self.span.record("account", identity.account.as_str());
        if let Ok(target) = &target {
            self.span.record("target", target.to_string());
        }
        let client = Client { identity: Arc::new(identity), target, handle };
        if self.client.set(client).is_ok() {
            self.authenticated.cancel();
        }
    }

    /// Who the client is, once authenticated.
    pub(super) fn identity(&self) -> Option<&Arc<Identity>> {
        self.client.get().map(|client| &client.identity)
    }

    /// Whether the credentials let the client open a connection to `to`.
    pub(super) fn may_open(&self, to: &StreamTarget) -> bool {
        self.identity().is_some_and(|identity| match to {
            StreamTarget::Tcp { host, port } => identity.restrictions.permit_open_tcp(host, *port),
            StreamTarget::Unix { .. } => identity.restrictions.permit_open_unix(),
        })
    }

    /// Whether the credentials let the client have the target listen.
    pub(super) fn may_listen(&self, on: &Listen) -> bool {
        self.identity().is_some_and(|identity| match on {
            Listen::Tcp { address, port } => {
                identity.restrictions.permit_listen_tcp(address, *port)
            }
            Listen::Unix { .. } => identity.restrictions.permit_listen_unix(),
        })
    }

    /// Whether programs run at the target, which could use an agent or a display of the client's.
    pub(super) fn target_runs_programs(&self) -> bool {
        self.client.get().is_some_and(|client| !matches!(client.target, Ok(Target::Lobby(_))))
    }

    /// The client's SSH transport, once authenticated.
    pub(super) fn handle(&self) -> Option<Handle> {
        self.client.get().map(|client| client.handle.clone())
    }

    /// The target, attached to at the first call. Does no I/O.
    pub(super) fn attach(self: &Arc<Self>) -> Result<Arc<dyn Attachment>, Refusal> {
        let Some(client) = self.client.get() else {
            return Err(Refusal::ended("not authenticated"));
        };
        let target = client.target.as_ref().map_err(Refusal::bad_username)?;
        let identity = &client.identity;
        if !self.server.authenticator.allows(identity, target) {
            return Err(Refusal::not_allowed(identity.account.as_str(), &target.to_string()));
        }
        let mut attachment = self.attachment.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(attachment) = &*attachment {
            return Ok(attachment.clone());
        }
        let caller = Caller { identity: identity.clone(), peer: self.peer, connection: self.id };
        let channels = Arc::new(ClientSide::of(self));
        let attached = self
            .server
            .backend
            .attach(caller, channels, target)
            .map_err(|error| Refusal::from(&error))?;
        Ok(attachment.insert(attached).clone())
    }

    /// Takes the attachment out, to close it.
    pub(super) fn detach(&self) -> Option<Arc<dyn Attachment>> {
        self.attachment.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// A place for one more session, if the limit allows.
    pub(super) fn session_slot(&self) -> Option<Slot> {
        Slot::take(&self.open_sessions, self.server.limits.max_sessions_per_connection)
    }

    /// A place for one more forwarded connection, if the limit allows.
    pub(super) fn forward_slot(&self) -> Option<Slot> {
        Slot::take(&self.open_forwards, MOST_FORWARDS)
    }

    /// Counts a channel among those that share the connection.
    pub(super) fn count_channel(&self) -> CountedChannel {
        self.channels.send_modify(|open| *open += 1);
        CountedChannel(self.channels.clone())
    }

    /// The bounds of a queue for the client's bytes.
    pub(super) fn input_spool(&self) -> SpoolLimits {
        self.spool(INPUT_PATIENCE)
    }

    /// The bounds of a queue for bytes to the client.
    pub(super) fn output_spool(&self) -> SpoolLimits {
        self.spool(OUTPUT_PATIENCE)
    }

    fn spool(&self, alone: Duration) -> SpoolLimits {
        let patience = Patience::new(alone, self.channels.subscribe());
        SpoolLimits { patience, ..self.server.spool.clone() }
    }

    /// Ends all sessions, which tell their clients why.
    pub(super) fn end(&self, reason: &str) {
        // Only the first reason is told.
        let _ = self.ending_reason.set(reason.to_owned());
        self.ending.cancel();
    }

    /// Resolves when the sessions are to end.
    pub(super) async fn ending(&self) {
        self.ending.cancelled().await;
    }

    /// Why the sessions are to end, if the gateway ends them.
    pub(super) fn ending_reason(&self) -> Option<&str> {
        self.ending_reason.get().map(String::as_str)
    }

    /// Where lines for all terminals of the connection come from.
    pub(super) fn notices(&self) -> &broadcast::Sender<String> {
        &self.notices
    }

    /// Says a line on all terminals of the connection.
    pub(super) fn say(&self, line: String) {
        if self.notices.send(line).is_err() {
            tracing::debug!("no terminal is there to show a line");
        }
    }

    /// Notes that data passed.
    pub(super) fn touch(&self) {
        let now = u64::try_from(self.opened.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last_data.store(now, Ordering::Relaxed);
    }

    /// How long no data passed.
    pub(super) fn idle_for(&self) -> Duration {
        let last = Duration::from_millis(self.last_data.load(Ordering::Relaxed));
        self.opened.elapsed().saturating_sub(last)
    }
}
