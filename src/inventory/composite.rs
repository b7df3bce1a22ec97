//! Several inventories as one.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::similar::closest;
use super::{Freshness, ImageRecord, Inventory, InventoryError, NodeRecord};
use crate::names::NodeName;

/// All sources of nodes and images, asked in order: the first that knows a name wins.
#[derive(Clone)]
pub struct Inventories {
    sources: Vec<Arc<dyn Inventory>>,
}

/// No source knows the node.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no node or device named {name}")]
pub struct UnknownNode {
    /// As asked for.
    pub name: NodeName,
    /// Up to three existing names that are close to it, best first.
    pub similar: Vec<String>,
    /// Which source's list is not of now, and why: "the WalT server has not answered for 3 min:
    /// connection refused".
    pub stale: Option<String>,
}

impl Inventories {
    /// Asks `sources` in this order.
    pub fn new(sources: Vec<Arc<dyn Inventory>>) -> Self {
        Self { sources }
    }

    /// The node of this name.
    ///
    /// # Errors
    /// No source has one; the error says what is close to it.
    pub fn node(&self, name: &NodeName) -> Result<NodeRecord, UnknownNode> {
        self.sources.iter().find_map(|source| source.node(name)).ok_or_else(|| self.unknown(name))
    }

    /// All nodes, sorted by name.
    pub fn nodes(&self) -> Vec<NodeRecord> {
        let mut nodes = BTreeMap::new();
        for node in self.sources.iter().flat_map(|source| source.nodes()) {
            nodes.entry(node.name.clone()).or_insert(node);
        }
        nodes.into_values().collect()
    }

    /// All images that a source lists, sorted by full name.
    pub fn images(&self) -> Vec<ImageRecord> {
        let mut images = BTreeMap::new();
        for image in self.sources.iter().flat_map(|source| source.images()) {
            images.entry(image.fullname.clone()).or_insert(image);
        }
        images.into_values().collect()
    }

    /// What to tell a user whose question met a list that is not of now, if any is.
    pub fn stale(&self) -> Option<String> {
        let texts: Vec<String> = self
            .sources
            .iter()
            .filter_map(|source| stale_text(source.label(), &source.freshness()))
            .collect();
        (!texts.is_empty()).then(|| texts.join("; "))
    }

    /// Tells every source that the engine's images changed. A source that fails does not keep
    /// the others from being told.
    ///
    /// # Errors
    /// The first failure; further ones are logged.
    pub async fn images_changed(&self) -> Result<(), InventoryError> {
        let mut first = Ok(());
        for source in &self.sources {
            match source.images_changed().await {
                Err(error) if first.is_err() => {
                    tracing::warn!("{} was not told of changed images: {error}", source.label());
                }
                Err(error) => first = Err(error),
                Ok(()) => {}
            }
        }
        first
    }

    fn unknown(&self, name: &NodeName) -> UnknownNode {
        let names = self.nodes().into_iter().map(|node| {
            let name = node.name.to_string();
            (name.clone(), name)
        });
        UnknownNode {
            name: name.clone(),
            similar: closest(name.as_str(), names),
            stale: self.stale(),
        }
    }
}

fn stale_text(label: &str, freshness: &Freshness) -> Option<String> {
    match freshness {
        Freshness::Fresh => None,
        Freshness::Stale { age, reason } => {
            Some(format!("{label} has not answered for {}: {reason}", age_text(*age)))
        }
        Freshness::Never { reason } => Some(format!("{label} has not answered yet: {reason}")),
    }
}

/// Rounded down to the unit a person would use.
fn age_text(age: Duration) -> String {
    match age.as_secs() {
        seconds @ ..60 => format!("{seconds} s"),
        seconds @ ..3600 => format!("{} min", seconds / 60),
        seconds => format!("{} h", seconds / 3600),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use async_trait::async_trait;

    use super::*;
    use crate::inventory::test_data::{image_record, node_record};

    struct Source {
        nodes: Vec<NodeRecord>,
        images: Vec<ImageRecord>,
        freshness: Freshness,
        failure: Option<&'static str>,
        told: AtomicUsize,
    }

    impl Source {
        fn fresh(nodes: &[(&str, &str)]) -> Self {
            let nodes = nodes.iter().map(|(name, address)| node_record(name, address));
            Self {
                nodes: nodes.collect(),
                images: Vec::new(),
                freshness: Freshness::Fresh,
                failure: None,
                told: AtomicUsize::new(0),
            }
        }
    }

    #[async_trait]
    impl Inventory for Source {
        fn label(&self) -> &'static str {
            "the WalT server"
        }

        fn node(&self, name: &NodeName) -> Option<NodeRecord> {
            self.nodes.iter().find(|node| node.name == *name).cloned()
        }

        fn nodes(&self) -> Vec<NodeRecord> {
            self.nodes.clone()
        }

        fn images(&self) -> Vec<ImageRecord> {
            self.images.clone()
        }

        fn freshness(&self) -> Freshness {
            self.freshness.clone()
        }

        async fn images_changed(&self) -> Result<(), InventoryError> {
            self.told.fetch_add(1, Ordering::Relaxed);
            match self.failure {
                None => Ok(()),
                Some(reason) => Err(InventoryError::Http {
                    url: "http://walt/images".to_owned(),
                    reason: reason.to_owned(),
                }),
            }
        }
    }

    fn inventories(sources: Vec<Source>) -> Inventories {
        Inventories::new(
            sources.into_iter().map(|source| Arc::new(source) as Arc<dyn Inventory>).collect(),
        )
    }

    #[test]
    fn first_source_wins_on_the_same_name() {
        let inventories = inventories(vec![
            Source::fresh(&[("rpi2", "192.0.2.2:22")]),
            Source::fresh(&[("rpi1", "192.0.2.1:22"), ("rpi2", "198.51.100.2:22")]),
        ]);
        let node = |name: &str| inventories.node(&name.parse().unwrap()).unwrap();
        assert_eq!(node("rpi1").address.to_string(), "192.0.2.1:22");
        assert_eq!(node("rpi2").address.to_string(), "192.0.2.2:22");
        let all: Vec<String> = inventories
            .nodes()
            .iter()
            .map(|node| format!("{} {}", node.name, node.address))
            .collect();
        assert_eq!(all, ["rpi1 192.0.2.1:22", "rpi2 192.0.2.2:22"]);
    }

    #[test]
    fn images_of_all_sources_are_merged_and_sorted() {
        let mut first = Source::fresh(&[]);
        first.images = vec![image_record("bob/pc:latest")];
        let mut second = Source::fresh(&[]);
        second.images = vec![image_record("alice/pc:latest"), image_record("bob/pc:latest")];
        let names: Vec<String> = inventories(vec![first, second])
            .images()
            .into_iter()
            .map(|image| image.fullname)
            .collect();
        assert_eq!(names, ["alice/pc:latest", "bob/pc:latest"]);
    }

    #[test]
    fn unknown_node_names_the_closest() {
        let inventories = inventories(vec![
            Source::fresh(&[("rpi1", "192.0.2.1:22")]),
            Source::fresh(&[("rpi2", "192.0.2.2:22"), ("camera", "192.0.2.3:22")]),
        ]);
        let unknown = inventories.node(&"rpi3".parse().unwrap()).unwrap_err();
        assert_eq!(unknown.similar, ["rpi1", "rpi2"]);
        assert_eq!(unknown.stale, None);
        assert_eq!(unknown.to_string(), "no node or device named rpi3");
    }

    #[test]
    fn unknown_node_says_how_old_the_list_is() {
        for (freshness, wanted) in [
            (
                Freshness::Stale {
                    age: Duration::from_secs(200),
                    reason: "connection refused".to_owned(),
                },
                "the WalT server has not answered for 3 min: connection refused",
            ),
            (
                Freshness::Never { reason: "connection refused".to_owned() },
                "the WalT server has not answered yet: connection refused",
            ),
        ] {
            let mut walt = Source::fresh(&[]);
            walt.freshness = freshness;
            let unknown = inventories(vec![Source::fresh(&[]), walt])
                .node(&"rpi1".parse().unwrap())
                .unwrap_err();
            assert_eq!(unknown.stale.as_deref(), Some(wanted));
        }
    }

    #[test]
    fn ages_are_worded_in_one_unit() {
        for (seconds, wanted) in [
            (0, "0 s"),
            (59, "59 s"),
            (60, "1 min"),
            (3599, "59 min"),
            (3600, "1 h"),
            (200_000, "55 h"),
        ] {
            assert_eq!(age_text(Duration::from_secs(seconds)), wanted);
        }
    }

    #[tokio::test]
    async fn every_source_is_told_of_changed_images_although_one_fails() {
        let mut failing = Source::fresh(&[]);
        failing.failure = Some("HTTP 500");
        let (failing, working) = (Arc::new(failing), Arc::new(Source::fresh(&[])));
        let inventories = Inventories::new(vec![failing.clone(), working.clone()]);
        let error = inventories.images_changed().await.unwrap_err();
        assert_eq!(error.to_string(), "GET http://walt/images: HTTP 500");
        assert_eq!(working.told.load(Ordering::Relaxed), 1);
    }
}
