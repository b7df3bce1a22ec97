//! Where nodes and images are looked up: [`static_toml`] and [`walt_http`] behind one trait.

pub mod image_resolution;
pub mod static_toml;
pub mod walt_http;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;

use crate::config::{BootMode, NodeOptions};
use crate::names::{AccountName, Login, NodeName};

/// A node or device, as far as an inventory knows it.
#[derive(Debug, Clone)]
pub struct NodeRecord {
    /// Its name.
    pub name: NodeName,
    /// Where its SSH server listens.
    pub address: SocketAddr,
    /// The login when the username names none.
    pub login: Login,
    /// MAC address, lower case with colons, if known.
    pub mac: Option<String>,
    /// Whether it has booted, if the inventory knows.
    pub booted: Option<bool>,
    /// The image it boots, `OWNER/NAME:TAG`, if known.
    pub image: Option<String>,
    /// How it keeps its files.
    pub boot_mode: BootMode,
    /// Its /persist directory on this machine, if configured for it alone.
    pub persist: Option<PathBuf>,
    /// `mount.persist` of WalT; true unless said otherwise.
    pub mounts_persist: bool,
    /// How to connect.
    pub options: NodeOptions,
}

impl NodeRecord {
    /// Whether its address is on one of its `networks`; others are never connected to.
    pub fn is_on_allowed_network(&self) -> bool {
        self.options.networks.iter().any(|network| network.contains(self.address.ip()))
    }

    /// The owner part of the image it boots.
    pub fn image_owner(&self) -> Option<&str> {
        self.image.as_deref()?.split_once('/').map(|(owner, _)| owner)
    }
}

/// An image that the WalT server lists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageRecord {
    /// `OWNER/NAME:TAG`
    pub fullname: String,
    /// The owner.
    pub user: String,
    /// The engine's identifier of the image, without "sha256:".
    pub id: String,
    /// Whether a node boots it.
    pub in_use: bool,
}

/// How far an inventory's answer can be trusted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Freshness {
    /// It describes now.
    Fresh,
    /// The source does not answer; this is its last good answer.
    Stale {
        /// How old the last good answer is.
        age: Duration,
        /// Why there is no newer one.
        reason: String,
    },
    /// The source never answered.
    Never {
        /// Why.
        reason: String,
    },
}

/// One source of nodes and images. All answers come from memory, at once.
#[async_trait]
pub trait Inventory: Send + Sync {
    /// What the log and messages call this source: "the configuration", "the WalT server".
    fn label(&self) -> &'static str;
    /// The node of this name.
    fn node(&self, name: &NodeName) -> Option<NodeRecord>;
    /// All nodes, sorted by name.
    fn nodes(&self) -> Vec<NodeRecord>;
    /// The images that this source lists, sorted by full name.
    fn images(&self) -> Vec<ImageRecord>;
    /// How old the answers are.
    fn freshness(&self) -> Freshness;
    /// Tells the source that the engine's images changed, and reads its lists again.
    async fn images_changed(&self) -> Result<(), InventoryError>;
}

/// Why a source could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum InventoryError {
    /// The request failed or was answered with an error or with something else than expected.
    #[error("GET {url}: {reason}")]
    Http {
        /// What was asked.
        url: String,
        /// What went wrong.
        reason: String,
    },
}

/// An account's view of who may use what: used where an owner matters.
pub fn owned_by(record: &NodeRecord, account: &AccountName) -> bool {
    record.image_owner() == Some(account.as_str())
}

// TEMP STUB
#[allow(missing_docs)]
#[derive(Default)]
pub struct Inventories;
#[allow(missing_docs)]
pub struct UnknownNode {
    pub similar: Vec<String>,
    pub stale: Option<String>,
}
#[allow(missing_docs)]
impl Inventories {
    pub fn node(&self, n: &NodeName) -> Result<NodeRecord, UnknownNode> {
        let e = |k: &str| std::env::var(k).unwrap();
        Ok(NodeRecord {
            name: n.clone(),
            address: e("NODE_ADDR").parse().unwrap(),
            login: Login::root(),
            mac: None,
            booted: None,
            image: None,
            boot_mode: BootMode::Network,
            persist: None,
            mounts_persist: true,
            options: NodeOptions {
                networks: vec!["127.0.0.0/8".parse().unwrap()],
                identity: e("NODE_ID").into(),
                known_hosts: e("NODE_KH").into(),
                host_key_alias: Some("walt.node".into()),
                host_key_policy: crate::config::HostKeyPolicy::Strict,
                connect: Duration::from_secs(10),
                boot_wait: Duration::from_secs(30),
                persist_root: "/x".into(),
            },
        })
    }
    pub fn nodes(&self) -> Vec<NodeRecord> {
        vec![]
    }
    pub fn freshness(&self) -> Freshness {
        Freshness::Fresh
    }
}
