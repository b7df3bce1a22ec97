//! Nodes and devices, over a jump connection of the gateway's own: the only home of
//! `russh::client`.
//!
//! A client connection has one connection to its node, opened with its first session and shared by
//! all of them; another is opened when the node takes no more sessions on the first. For nodes in
//! use, a spare connection is ready for the next client.

mod arrivals;
mod boot_wait;
mod handler;
mod host_key;
mod host_key_acceptance;
mod ownership;
mod persist;
mod session;
mod set;
mod spares;
mod upstream;
mod upstreams;
mod words;

use std::sync::{Arc, Weak};
use std::time::Duration;

use async_trait::async_trait;
use russh::Channel;
use russh::client::Msg;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::debug;

pub use self::host_key::OwnHostKeys;
pub use self::host_key_acceptance::{AcceptError, Accepted, accept_host_key};
use self::ownership::Courtesy;
use self::set::NodeSetAttachment;
pub use self::set::{NodeSet, SetAccess};
use self::spares::Spares;
use self::upstream::Upstream;
use self::upstreams::{Turn, Upstreams};
use super::{
    Attachment, BackendError, BackendSession, Caller, ClientChannels, Console, Listen, NodeFailure,
    SessionEnd, SessionRequest, StreamError, StreamTarget,
};
use crate::config::{BootMode, NodeOptions};
use crate::inventory::{Inventories, NodeRecord};
use crate::names::{Login, NodeName};

/// WalT's own wording.
const CAUTION: &str = "Caution: changes outside /persist will be lost on next node reboot.";

/// How long a node may take to connect somewhere: longer than its kernel tries, so that no channel
/// is given up that the node opens later.
const STREAM_OPENING: Duration = Duration::from_secs(150);

/// Opens nodes.
pub struct NodeBackend {
    inventory: Arc<Inventories>,
    spares: Spares,
}

impl NodeBackend {
    /// In `own_host_keys`, the policy `accept-new` records keys. Spare
    /// connections are kept by tasks on `background` until `stop`.
    pub fn new(
        inventory: Arc<Inventories>,
        own_host_keys: OwnHostKeys,
        background: &TaskTracker,
        stop: &CancellationToken,
    ) -> Self {
        let spares = Spares::new(own_host_keys, background.clone(), stop.clone());
        Self { inventory, spares }
    }

    /// A node, for one client connection. Looked up at each session.
    pub fn attach(
        self: &Arc<Self>,
        caller: Caller,
        client: Arc<dyn ClientChannels>,
        name: NodeName,
        login: Option<Login>,
    ) -> Arc<dyn Attachment> {
        Arc::new_cyclic(|me| NodeAttachment {
            me: me.clone(),
            backend: self.clone(),
            caller,
            client,
            name,
            login,
            courtesy: Courtesy::default(),
            upstreams: Upstreams::default(),
        })
    }
}

impl NodeBackend {
    /// Several nodes, for one client connection.
    pub fn attach_set(
        self: &Arc<Self>,
        caller: Caller,
        client: Arc<dyn ClientChannels>,
        set: NodeSet,
    ) -> Arc<dyn Attachment> {
        Arc::new(NodeSetAttachment::new(self.clone(), caller, client, set))
    }
}

/// Whether a key file can be used to log in to nodes, for `waltgate check`. Blocks on the disk.
///
/// # Errors
/// Why not, in one line.
pub fn check_identity(options: &NodeOptions) -> Result<(), String> {
    match upstream::read_identity(&options.identity) {
        Ok(_) => Ok(()),
        Err(NodeFailure::Identity(reason)) => Err(reason),
        Err(other) => Err(format!("{other:?}")),
    }
}

struct NodeAttachment {
    /// For sessions that turn to the node only when they need it.
    me: Weak<Self>,
    backend: Arc<NodeBackend>,
    caller: Caller,
    client: Arc<dyn ClientChannels>,
    name: NodeName,
    login: Option<Login>,
    courtesy: Courtesy,
    upstreams: Upstreams,
}

impl NodeAttachment {
    fn failed(&self, failure: NodeFailure) -> BackendError {
        BackendError::Node { name: self.name.clone(), failure }
    }

    fn look_up(&self) -> Result<NodeRecord, BackendError> {
        let node = self.backend.inventory.node(&self.name).map_err(|unknown| {
            BackendError::UnknownNode {
                name: self.name.clone(),
                similar: unknown.similar,
                stale: unknown.stale,
            }
        })?;
        if !node.is_on_allowed_network() {
            let address = node.address.ip();
            return Err(BackendError::AddressRefused { name: node.name, address });
        }
        Ok(node)
    }

    /// A fresh session channel, on a connection that is there already or on a new one.
    async fn open_session(
        &self,
        node: &NodeRecord,
        console: &mut dyn Console,
    ) -> Result<(Arc<Upstream>, Channel<Msg>), BackendError> {
        if let Some(opened) = self.open_on_live(node).await {
            return Ok(opened);
        }
        let _turn = self.upstreams.turn(node, console).await?;
        // Another session may have connected meanwhile.
        if let Some(opened) = self.open_on_live(node).await {
            return Ok(opened);
        }
        let upstream = boot_wait::connect(
            node.clone(),
            self.login_on(node),
            &self.backend.inventory,
            &self.backend.spares,
            &self.client,
            console,
        )
        .await?;
        let upstream = self.upstreams.add(upstream);
        let channel = upstream
            .open_session(node.options.connect)
            .await
            .map_err(|failure| self.failed(failure))?;
        Ok((upstream, channel))
    }

    async fn open_on_live(&self, node: &NodeRecord) -> Option<(Arc<Upstream>, Channel<Msg>)> {
        for upstream in self.upstreams.live() {
            match upstream.open_session(node.options.connect).await {
                Ok(channel) => return Some((upstream, channel)),
                Err(failure) => debug!(?failure, "opening another connection to the node"),
            }
        }
        None
    }

    /// A connection that is there already.
    fn live_upstream(&self) -> Option<Arc<Upstream>> {
        self.upstreams.live().into_iter().next()
    }

    /// A new connection. Does not wait for a node to boot, as there is nobody to tell.
    async fn connect_upstream(
        &self,
        node: &NodeRecord,
        turn: Turn<'_>,
    ) -> Result<Arc<Upstream>, StreamError> {
        let connected = self.connect_if_up(node, turn).await;
        connected.map_err(|error| StreamError::Failed(error.to_string()))
    }

    async fn connect_if_up(
        &self,
        node: &NodeRecord,
        _turn: Turn<'_>,
    ) -> Result<Arc<Upstream>, BackendError> {
        // Whoever had the turn before may have connected.
        if let Some(upstream) = self.live_upstream() {
            return Ok(upstream);
        }
        let connecting =
            self.backend.spares.connect(node, self.login_on(node), self.client.clone());
        let upstream = connecting.await.map_err(|error| self.failed(error.failure))?;
        self.replenish_spare();
        Ok(self.upstreams.add(upstream))
    }

    /// Has a connection made ready for the next client, now that the node has shown that it is up.
    fn replenish_spare(&self) {
        // Where the node is may have changed while it booted.
        if let Ok(node) = self.look_up()
            && !boot_wait::said_to_boot(&node, &self.backend.inventory)
        {
            self.backend.spares.replenish(&node, self.login_on(&node));
        }
    }

    fn node_for_stream(&self) -> Result<NodeRecord, StreamError> {
        let node = self.look_up().map_err(|error| StreamError::Failed(error.to_string()))?;
        self.courtesy.allows_forward(&node, self.caller.account())?;
        Ok(node)
    }

    fn login_on<'a>(&'a self, node: &'a NodeRecord) -> &'a Login {
        self.login.as_ref().unwrap_or(&node.login)
    }

    /// Starts a session on the node itself.
    async fn start_on(
        &self,
        node: &NodeRecord,
        request: &SessionRequest,
        console: &mut dyn Console,
    ) -> Result<BackendSession, BackendError> {
        let (upstream, channel) = self.open_session(node, console).await?;
        if request.agent {
            upstream.arrivals.allow_agent();
        }
        if request.x11.is_some() {
            upstream.arrivals.allow_x11();
        }
        let session = session::start(channel, request, node.options.connect)
            .await
            .map_err(|failure| self.failed(failure))?;
        // Not before: it would slow this session's own start down.
        self.replenish_spare();
        if request.is_interactive() && node.boot_mode != BootMode::HybridPersistent {
            console.say(CAUTION).await;
        }
        Ok(session)
    }
}

#[async_trait]
impl Attachment for NodeAttachment {
    async fn start(
        &self,
        request: &SessionRequest,
        console: &mut dyn Console,
    ) -> Result<BackendSession, BackendError> {
        let node = self.look_up()?;
        self.courtesy.show(&node, self.caller.account(), request, console).await?;
        if let Some(me) = self.me.upgrade()
            && let Some(session) =
                persist::start(&me, &node, self.login_on(&node), request, console).await?
        {
            return Ok(session);
        }
        self.start_on(&node, request, console).await
    }

    async fn finish(
        &self,
        _request: &SessionRequest,
        end: &SessionEnd,
        _console: &mut dyn Console,
    ) -> Result<(), BackendError> {
        match end {
            SessionEnd::BackendLost => Err(self.failed(NodeFailure::ConnectionLost)),
            SessionEnd::Exited(_) | SessionEnd::ClientGone => Ok(()),
        }
    }

    async fn connect(&self, to: &StreamTarget) -> Result<BackendSession, StreamError> {
        let node = self.node_for_stream()?;
        let upstream = match self.live_upstream() {
            Some(upstream) => upstream,
            None => self.connect_upstream(&node, self.upstreams.silent_turn().await).await?,
        };
        let channel = upstream.open_stream(to, STREAM_OPENING).await?;
        Ok(session::stream(channel))
    }

    async fn listen(&self, on: &Listen) -> Result<u32, StreamError> {
        let node = self.node_for_stream()?;
        let upstream = match (self.live_upstream(), self.upstreams.try_turn()) {
            (Some(upstream), _) => upstream,
            (None, Some(turn)) => self.connect_upstream(&node, turn).await?,
            // The whole client connection waits for this answer, and the session that connects
            // may wait for a node to boot.
            (None, None) => {
                let name = &node.name;
                return Err(StreamError::Failed(format!("node {name} is not connected yet")));
            }
        };
        upstream.arrivals.allow_forwards();
        upstream.listen(on, node.options.connect).await
    }

    async fn stop_listening(&self, on: &Listen) -> Result<(), StreamError> {
        let node = self.look_up().map_err(|error| StreamError::Failed(error.to_string()))?;
        for upstream in self.upstreams.live() {
            if upstream.stop_listening(on, node.options.connect).await.is_ok() {
                return Ok(());
            }
        }
        Err(StreamError::Failed("the node does not listen there".to_owned()))
    }

    async fn close(&self) {
        for upstream in self.upstreams.take() {
            upstream.disconnect().await;
        }
    }
}
