//! Puts the parts together: the only file that names them all.

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, info, warn};

use crate::auth::host_keys::{self, HostKeyError};
use crate::auth::{AuthSetupError, Authenticator};
use crate::backend::image::catalogue::Catalogue;
use crate::backend::image::{BINFMT_MISC, ImageBackend, ImageParts};
use crate::backend::lobby::Lobby;
use crate::backend::node::{NodeBackend, NodeSet, OwnHostKeys, SetAccess};
use crate::backend::{Attachment, Backend, BackendError, Caller, ClientChannels};
use crate::config::{Config, HostKeyPolicy};
use crate::inventory::static_toml::StaticInventory;
use crate::inventory::walt_http::WaltInventory;
use crate::inventory::{Freshness, Inventories, Inventory, InventoryError};
use crate::listener;
use crate::names::NodeName;
use crate::relay::spool::{DiskBudget, Patience, SpoolLimits};
use crate::server::Server;
use crate::target::{NodesTarget, Target};
use crate::workers::Workers;

/// What one direction of a channel may keep in memory before it goes to disk.
const SPOOL_MEMORY: usize = 512 * 1024;
/// So many channels may have filled their part of the disk at once, in the whole gateway.
const SPOOLS_AT_ONCE: u64 = 16;
/// Between two looks at what sessions left in the engine: unsaved changes whose time is over.
const LOOK_AGAIN: Duration = Duration::from_secs(30);
/// How long the start waits for the WalT server's first answer before it goes on without.
const FIRST_ANSWER: Duration = Duration::from_secs(5);

/// Why the gateway cannot start.
#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
    /// The state directory, or a directory in it.
    #[error("cannot create {}: {source}", directory.display())]
    StateDirectory {
        /// Which.
        directory: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A host key cannot be used or created.
    #[error(transparent)]
    HostKey(#[from] HostKeyError),
    /// What clients are authenticated by cannot be read.
    #[error(transparent)]
    Auth(#[from] AuthSetupError),
    /// The WalT server's address is of no use.
    #[error(transparent)]
    Inventory(#[from] InventoryError),
    /// A listening address is taken or not of this machine.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The system has no threads left.
    #[error("cannot start the threads that run connections: {0}")]
    Workers(io::Error),
}

/// A gateway that listens; clients are served once [`Gateway::run`] is awaited.
pub struct Gateway {
    sockets: Vec<TcpListener>,
    parts: Parts,
    server: Arc<Server>,
    workers: Arc<Workers>,
    config: Config,
    background: TaskTracker,
    stop_background: CancellationToken,
}

/// The parts that `waltgate check` tries too.
pub(crate) struct Parts {
    pub(crate) inventory: Arc<Inventories>,
    pub(crate) walt: Option<Arc<WaltInventory>>,
    pub(crate) images: Arc<ImageBackend>,
    pub(crate) nodes: Arc<NodeBackend>,
}

impl Parts {
    /// Makes the parts. Polling of the WalT server starts on `background`.
    pub(crate) fn new(
        config: &Config,
        background: &TaskTracker,
        stop: &CancellationToken,
    ) -> Result<Self, GatewayError> {
        let mut sources: Vec<Arc<dyn Inventory>> =
            vec![Arc::new(StaticInventory::new(&config.nodes))];
        let walt = match &config.walt {
            Some(walt) => {
                let (source, reading) =
                    WaltInventory::spawn(walt, config.node_defaults.clone(), stop.clone())?;
                background.spawn(reading);
                sources.push(source.clone());
                Some(source)
            }
            None => None,
        };
        let inventory = Arc::new(Inventories::new(sources));
        let nodes =
            Arc::new(NodeBackend::new(inventory.clone(), own_host_keys(config), background, stop));
        let catalogue = Arc::new(Catalogue::new(
            config.images.clone(),
            inventory.clone(),
            config.server.lobby.clone(),
        ));
        let images = Arc::new(ImageBackend::new(ImageParts {
            engine: config.engine.clone(),
            defaults: config.image_defaults.clone(),
            max_containers_per_account: config.limits.max_containers_per_account,
            max_unsaved_per_account: config.limits.max_unsaved_per_account,
            state_dir: config.server.state_dir.clone(),
            lobby: config.server.lobby.clone(),
            binfmt_misc: BINFMT_MISC.into(),
            names: catalogue.clone(),
            listener: catalogue,
        }));
        Ok(Self { inventory, walt, images, nodes })
    }
}

impl Gateway {
    /// Creates what is missing (state directory, host keys), reads what is there, and listens.
    pub async fn start(config: Config) -> Result<Self, GatewayError> {
        let spool = config.server.state_dir.join("spool");
        create_private(&config.server.state_dir)?;
        create_private(&spool)?;
        let paths = config.server.host_keys.clone();
        let keys = tokio::task::spawn_blocking(move || host_keys::load_or_create(&paths))
            .await
            .map_err(|error| GatewayError::StateDirectory {
            directory: spool.clone(),
            source: io::Error::other(error),
        })??;
        warn_of_unchecked_host_keys(&config);

        let background = TaskTracker::new();
        let stop_background = CancellationToken::new();
        let authenticator = Arc::new(Authenticator::new(&config)?);
        let parts = Parts::new(&config, &background, &stop_background)?;
        let sockets = listen(&config.server.listen).await?;
        let backend = Backends {
            nodes: parts.nodes.clone(),
            images: parts.images.clone(),
            inventory: parts.inventory.clone(),
            authenticator: authenticator.clone(),
            lobby: config.server.lobby.clone(),
        };
        let limits = SpoolLimits {
            memory: SPOOL_MEMORY,
            disk: config.limits.spool_bytes,
            directory: spool,
            budget: DiskBudget::new(config.limits.spool_bytes.saturating_mul(SPOOLS_AT_ONCE)),
            // Each connection has its own.
            patience: Patience::none(),
        };
        let server = Arc::new(Server::new(
            authenticator,
            Arc::new(backend),
            config.limits.clone(),
            config.server.lobby.clone(),
            limits,
            keys,
        ));
        let workers = Arc::new(Workers::start().map_err(GatewayError::Workers)?);
        Ok(Self { sockets, parts, server, workers, config, background, stop_background })
    }

    /// The addresses it listens on, with the ports the system chose.
    ///
    /// # Errors
    /// getsockname(2) failed.
    pub fn addresses(&self) -> io::Result<Vec<SocketAddr>> {
        self.sockets.iter().map(TcpListener::local_addr).collect()
    }

    /// Serves clients until `shutdown`, then ends their sessions and cleans up.
    pub async fn run(self, shutdown: CancellationToken) {
        if let Some(walt) = &self.parts.walt
            && walt.wait_first(FIRST_ANSWER).await != Freshness::Fresh
        {
            warn!("starting without the WalT server's lists; they are asked for again and again");
        }
        let images = self.parts.images.clone();
        self.background.spawn(warn_of_lacks(images.clone()));
        let stop = self.stop_background.clone();
        self.background.spawn(async move { stop.run_until_cancelled(look_after(&images)).await });
        for address in self.addresses().unwrap_or_default() {
            info!("listening on {address}");
        }
        let limits = &self.config.limits;
        listener::serve(self.sockets, self.server, self.workers.clone(), limits, shutdown).await;
        self.stop_background.cancel();
        self.background.close();
        self.background.wait().await;
        info!("stopped");
    }
}

/// Says once what containers cannot have here. That no engine answers is said by who uses it.
async fn warn_of_lacks(images: Arc<ImageBackend>) {
    if let Ok(engine) = images.check().await {
        for lack in engine.lacks {
            warn!("{}: {lack}", engine.product);
        }
    }
}

/// Looks after what sessions and killed gateways left in the engine, for as long as it is polled.
async fn look_after(images: &ImageBackend) {
    let mut was_failing = false;
    loop {
        match images.reap().await {
            Ok(removed) => {
                if removed > 0 {
                    info!(removed, "removed containers that were left behind");
                }
                was_failing = false;
            }
            Err(error) if was_failing => debug!(%error, "containers are still not looked after"),
            Err(error) => {
                warn!(%error, "containers that were left behind cannot be looked after yet");
                was_failing = true;
            }
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// Sends each kind of target to its backend.
struct Backends {
    nodes: Arc<NodeBackend>,
    images: Arc<ImageBackend>,
    inventory: Arc<Inventories>,
    authenticator: Arc<Authenticator>,
    lobby: NodeName,
}

impl Backend for Backends {
    fn attach(
        &self,
        caller: Caller,
        client: Arc<dyn ClientChannels>,
        target: &Target,
    ) -> Result<Arc<dyn Attachment>, BackendError> {
        match target {
            Target::Image(image) => Ok(self.images.attach(caller, client, image.clone())),
            Target::Nodes(nodes) => self.attach_node(caller, client, nodes),
            Target::Lobby(_) => Ok(Arc::new(self.lobby(caller))),
        }
    }
}

impl Backends {
    fn lobby(&self, caller: Caller) -> Lobby {
        let identity = caller.identity.clone();
        let authenticator = self.authenticator.clone();
        let allows = move |target: &Target| authenticator.allows(&identity, target);
        Lobby::new(caller, self.lobby.clone(), self.inventory.clone(), self.images.clone(), allows)
    }

    fn attach_node(
        &self,
        caller: Caller,
        client: Arc<dyn ClientChannels>,
        target: &NodesTarget,
    ) -> Result<Arc<dyn Attachment>, BackendError> {
        match target.single() {
            Some(name) => Ok(self.nodes.attach(caller, client, name.clone(), target.login.clone())),
            None => {
                let (identity, authenticator) =
                    (caller.identity.clone(), self.authenticator.clone());
                let allows: SetAccess = Box::new(move |selector, name| {
                    authenticator.allows_node(&identity, selector, name)
                });
                let set = NodeSet::new(target.clone(), allows);
                Ok(self.nodes.attach_set(caller, client, set))
            }
        }
    }
}

/// The file in which the gateway records the host keys of nodes, under the nodes' names.
pub(crate) fn own_host_keys(config: &Config) -> OwnHostKeys {
    OwnHostKeys::new(config.server.state_dir.join("known_hosts"), config.file.clone())
}

fn create_private(directory: &Path) -> Result<(), GatewayError> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .map_err(|source| GatewayError::StateDirectory { directory: directory.to_owned(), source })
}

async fn listen(addresses: &[SocketAddr]) -> Result<Vec<TcpListener>, GatewayError> {
    let mut sockets = Vec::with_capacity(addresses.len());
    for &address in addresses {
        let socket = TcpListener::bind(address)
            .await
            .map_err(|source| GatewayError::Listen { address, source })?;
        sockets.push(socket);
    }
    Ok(sockets)
}

fn warn_of_unchecked_host_keys(config: &Config) {
    if config.node_defaults.host_key_policy == HostKeyPolicy::Off {
        warn!("HOST KEYS OF NODES ARE NOT CHECKED: host_key_policy is \"off\" in [node_defaults]");
    }
    for (name, node) in &config.nodes {
        if node.options.host_key_policy == HostKeyPolicy::Off {
            warn!("THE HOST KEY OF {name} IS NOT CHECKED: its host_key_policy is \"off\"");
        }
    }
}
