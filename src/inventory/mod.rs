//! Where nodes and images are looked up: [`static_toml`] and [`walt_http`] behind one trait, and
//! [`Inventories`], which asks all of them.

mod composite;
pub mod image_resolution;
mod similar;
pub mod static_toml;
#[cfg(test)]
mod test_data;
pub mod walt_http;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;

use crate::config::{BootMode, NodeOptions};
use crate::names::{AccountName, Login, NodeName};

pub use composite::{Inventories, UnknownNode};

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
    /// The configured address cannot be asked at all.
    #[error("[walt] api = {url:?}: {reason}")]
    ApiUrl {
        /// As configured.
        url: String,
        /// What is wrong with it, and what to write.
        reason: String,
    },
    /// The request failed or was answered with an error or with something else than expected.
    #[error("GET {url}: {reason}")]
    Http {
        /// What was asked.
        url: String,
        /// What went wrong.
        reason: String,
    },
}

/// The owner of the images that come with WalT. A node that boots one of them is free.
pub const PLATFORM_OWNER: &str = "waltplatform";

/// Whether the account owns the node: the node boots an image of the account.
pub fn owned_by(record: &NodeRecord, account: &AccountName) -> bool {
    record.image_owner() == Some(account.as_str())
}

/// Whose the node is, if anybody's but the account's: the owner of the image that it boots.
pub fn other_owner<'a>(record: &'a NodeRecord, account: &AccountName) -> Option<&'a str> {
    record.image_owner().filter(|_| !is_free(record) && !owned_by(record, account))
}

/// Whether nobody uses the node: it boots an image of [`PLATFORM_OWNER`].
pub fn is_free(record: &NodeRecord) -> bool {
    record.image_owner() == Some(PLATFORM_OWNER)
}

#[cfg(test)]
mod tests {
    use super::test_data::node_record;
    use super::*;

    #[test]
    fn owner_of_the_image_owns_the_node() {
        let mut record = node_record("rpi1", "192.0.2.1:22");
        let alice: AccountName = "alice".parse().unwrap();
        assert!(!owned_by(&record, &alice) && !is_free(&record));
        record.image = Some("alice/pc:latest".to_owned());
        assert!(owned_by(&record, &alice) && !is_free(&record));
        record.image = Some("waltplatform/pc:latest".to_owned());
        assert!(!owned_by(&record, &alice) && is_free(&record));
    }
}
