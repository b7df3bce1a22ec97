//! Containers of images.
//!
//! A connection has one container per image, made when its first session starts and shared by the
//! others. When the last session ends, the container's changes are saved or thrown away, and the
//! container with them; a later session of the connection gets a new one, of what was saved. Only
//! a container that nothing changed is kept for it.
//!
//! Changes that nobody decided about, because a client or the gateway went away, stay where they
//! are, in a container that is stopped and left behind; see `unsaved`.
//!
//! - An interactive shell that comes first is process 1 of its container, as with
//!   `walt image shell`; when it ends, sessions that were started beside it end as well. In an
//!   image that can start its operating system, process 1 is that system's init.
//! - A command or transfer does not start the operating system: what a boot writes would
//!   otherwise be saved with every command. Process 1 then is a shell that waits.
//! - Forwards open in the container, and have one made if need be. They are no sessions: a container
//!   that has forwards only is never saved.

mod arrivals;
mod attachment;
mod boot;
pub mod catalogue;
mod changes;
mod container;
mod containers;
mod dialogue;
mod disk;
mod emulation;
pub mod engine;
mod error;
mod files;
mod host_names;
mod host_process;
mod inspection;
mod interior;
mod lent;
mod naming;
mod network;
mod ownership;
mod presence;
mod provenance;
mod remote_forwards;
mod save;
mod session;
mod signals;
mod slots;
mod unsaved;
mod unsaved_commands;

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use crate::backend::{Attachment, Caller, ClientChannels};
use crate::config::{self, EngineKind, ImageDefaults};
use crate::names::{AccountName, NodeName};
use crate::target::ImageName;

use self::attachment::ImageAttachment;
use self::containers::Containers;
use self::emulation::Emulation;
use self::engine::docker::{self, DockerEngine};
use self::engine::embedded::EmbeddedEngine;
use self::engine::{Engine, EngineInfo};
use self::inspection::Inspections;
use self::ownership::Ownership;
use self::presence::Presences;
use self::save::Saves;
use self::slots::AccountSlots;

pub use self::emulation::BINFMT_MISC;
pub use self::error::ImageError;
pub use self::naming::{
    ImageListener, ImageNames, ListedImage, ResolvedImage, canonical_reference,
};

/// What an [`ImageBackend`] is made of.
pub struct ImageParts {
    /// `[engine]`
    pub engine: config::Engine,
    /// `[image_defaults]`
    pub defaults: ImageDefaults,
    /// `max_containers_per_account` of `[limits]`.
    pub max_containers_per_account: usize,
    /// `max_unsaved_per_account` of `[limits]`.
    pub max_unsaved_per_account: usize,
    /// `state_dir` of `[server]`.
    pub state_dir: PathBuf,
    /// `lobby` of `[server]`.
    pub lobby: NodeName,
    /// Where the kernel lists its emulators, [`BINFMT_MISC`] but in tests.
    pub binfmt_misc: PathBuf,
    /// Finds images.
    pub names: Arc<dyn ImageNames>,
    /// Is told about saved images.
    pub listener: Arc<dyn ImageListener>,
}

/// Where the embedded engine keeps everything, for a gateway with this `state_dir`.
pub fn embedded_engine_directory(state_dir: &Path) -> PathBuf {
    state_dir.join("engine")
}

/// Opens image targets.
pub struct ImageBackend {
    shared: Arc<Shared>,
}

/// What all attachments of a backend use.
struct Shared {
    engine: Arc<dyn Engine>,
    defaults: ImageDefaults,
    names: Arc<dyn ImageNames>,
    emulation: Emulation,
    inspections: Inspections,
    containers: Arc<Containers>,
    saves: Arc<Saves>,
    presences: Presences,
    lobby: NodeName,
    /// Containers with unsaved changes that an account may leave; 0: any number.
    max_unsaved: usize,
    /// Names of containers at rest that were seen to hold unsaved changes.
    examined: Mutex<HashSet<String>>,
    /// One at a time looks through what was left behind.
    stock_taking: Arc<tokio::sync::Mutex<()>>,
}

impl ImageBackend {
    /// Puts the parts together. Touches neither the engine nor the disk; only to choose one
    /// (`kind = "auto"`), it is tried whether any listens at its usual place.
    pub fn new(parts: ImageParts) -> Self {
        let docker = || Arc::new(DockerEngine::new(parts.engine.socket.clone()));
        let embedded =
            || Arc::new(EmbeddedEngine::new(embedded_engine_directory(&parts.state_dir)));
        let engine: Arc<dyn Engine> = match parts.engine.kind {
            EngineKind::Docker => docker(),
            EngineKind::Embedded => embedded(),
            EngineKind::Auto if parts.engine.socket.is_some() || docker::somebody_listens() => {
                docker()
            }
            EngineKind::Auto => embedded(),
        };
        Self::with_engine(parts, engine)
    }

    /// The same over an engine that was made elsewhere; `parts.engine` is not looked at.
    pub fn with_engine(parts: ImageParts, engine: Arc<dyn Engine>) -> Self {
        let containers = Arc::new(Containers::new(
            Arc::clone(&engine),
            Ownership::new(parts.state_dir.clone()),
            AccountSlots::new(parts.max_containers_per_account),
        ));
        Self {
            shared: Arc::new(Shared {
                saves: Arc::new(Saves::new(
                    Arc::clone(&engine),
                    Arc::clone(&containers),
                    parts.listener,
                )),
                engine,
                defaults: parts.defaults,
                names: parts.names,
                emulation: Emulation::new(parts.binfmt_misc),
                inspections: Inspections::new(parts.state_dir),
                containers,
                presences: Presences::default(),
                lobby: parts.lobby,
                max_unsaved: parts.max_unsaved_per_account,
                examined: Mutex::default(),
                stock_taking: Arc::default(),
            }),
        }
    }

    /// The container of `image` that a connection has. Nothing happens before its first session or
    /// forward.
    pub fn attach(
        &self,
        caller: Caller,
        client: Arc<dyn ClientChannels>,
        image: ImageName,
    ) -> Arc<dyn Attachment> {
        Arc::new(ImageAttachment::new(Arc::clone(&self.shared), caller, client, image))
    }

    /// Looks after what sessions, or earlier runs of this gateway that were killed, left behind:
    /// unsaved changes are kept until their time is over, everything else is removed. Returns how
    /// many containers were removed. Containers of other gateways are left alone, and those that
    /// any process of this one uses.
    pub async fn reap(&self) -> Result<usize, ImageError> {
        let removed = self.shared.take_stock(None).await?.removed;
        self.shared.saves.tidy().await?;
        Ok(removed)
    }

    /// Whether an engine answers, and which.
    pub async fn check(&self) -> Result<EngineInfo, ImageError> {
        Ok(self.shared.engine.info().await?)
    }

    /// The images that an account can use, by what it calls them.
    pub async fn list(&self, account: &AccountName) -> Result<Vec<ListedImage>, ImageError> {
        Ok(self.shared.names.list(account, &self.references().await?))
    }

    /// The references of all images that the engine has, as it knows them.
    pub async fn references(&self) -> Result<Vec<String>, ImageError> {
        Ok(self.shared.engine.image_references().await?)
    }
}
