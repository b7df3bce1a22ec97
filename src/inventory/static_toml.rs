//! The nodes and devices of the configuration file.

use std::collections::BTreeMap;

use async_trait::async_trait;

use super::{Freshness, ImageRecord, Inventory, InventoryError, NodeRecord};
use crate::config::Node;
use crate::names::NodeName;

/// Nodes that never change while the gateway runs.
#[derive(Debug, Clone)]
pub struct StaticInventory {
    nodes: BTreeMap<NodeName, NodeRecord>,
}

impl StaticInventory {
    /// Takes the `[nodes.*]` of a configuration.
    pub fn new(nodes: &BTreeMap<NodeName, Node>) -> Self {
        let nodes = nodes.iter().map(|(name, node)| (name.clone(), record(name, node))).collect();
        Self { nodes }
    }
}

fn record(name: &NodeName, node: &Node) -> NodeRecord {
    NodeRecord {
        name: name.clone(),
        address: node.address,
        login: node.login.clone(),
        mac: node.mac.clone(),
        booted: None,
        image: None,
        boot_mode: node.boot_mode,
        persist: node.persist.clone(),
        mounts_persist: true,
        options: node.options.clone(),
    }
}

#[async_trait]
impl Inventory for StaticInventory {
    fn label(&self) -> &'static str {
        "the configuration"
    }

    fn node(&self, name: &NodeName) -> Option<NodeRecord> {
        self.nodes.get(name).cloned()
    }

    fn nodes(&self) -> Vec<NodeRecord> {
        self.nodes.values().cloned().collect()
    }

    fn images(&self) -> Vec<ImageRecord> {
        Vec::new()
    }

    fn freshness(&self) -> Freshness {
        Freshness::Fresh
    }

    async fn images_changed(&self) -> Result<(), InventoryError> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::config::BootMode;
    use crate::inventory::test_data::node_options;

    #[test]
    fn configured_node_keeps_what_the_file_says() {
        let node = Node {
            address: "192.0.2.10:2022".parse().unwrap(),
            login: "pi".parse().unwrap(),
            mac: Some("52:54:00:bb:1b:b9".to_owned()),
            persist: Some(PathBuf::from("/srv/persist/rpi1")),
            boot_mode: BootMode::HybridPersistent,
            options: node_options(),
        };
        let name: NodeName = "rpi1".parse().unwrap();
        let inventory = StaticInventory::new(&BTreeMap::from([(name.clone(), node)]));

        let record = inventory.node(&name).unwrap();
        assert_eq!(record.address.to_string(), "192.0.2.10:2022");
        assert_eq!(record.login.as_str(), "pi");
        assert_eq!(record.mac.as_deref(), Some("52:54:00:bb:1b:b9"));
        assert_eq!(record.persist, Some(PathBuf::from("/srv/persist/rpi1")));
        assert_eq!(record.boot_mode, BootMode::HybridPersistent);
        assert_eq!((record.booted, record.image), (None, None));
        assert!(inventory.node(&"rpi2".parse().unwrap()).is_none());
        assert_eq!(inventory.freshness(), Freshness::Fresh);
    }
}
