//! The nodes and images of a WalT server, read again and again from its web API.

mod api;
mod lists;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use self::api::Api;
use self::lists::{Images, Nodes, Parsed};
use super::{Freshness, ImageRecord, Inventory, InventoryError, NodeRecord};
use crate::config::{NodeOptions, Walt};
use crate::names::NodeName;

/// Bound on each request.
const REQUEST_DEADLINE: Duration = Duration::from_secs(10);

/// The lists are read at most this often, whatever the configuration says.
const SHORTEST_REFRESH: Duration = Duration::from_millis(100);

const LABEL: &str = "the WalT server";

/// What the WalT server last said.
pub struct WaltInventory {
    api: Api,
    refresh: Duration,
    node_defaults: NodeOptions,
    /// Numbers the readings, so that a slow one does not replace a later one.
    readings: AtomicU64,
    state: watch::Sender<State>,
}

#[derive(Default)]
struct State {
    /// The reading that the lists are from; 0: none has ended yet.
    reading: u64,
    nodes: List<Nodes>,
    images: List<Images>,
}

/// The last good answer, and how the last attempt went.
#[derive(Default)]
struct List<T> {
    entries: T,
    /// When `entries` was read.
    read: Option<Instant>,
    /// Why the last attempt gave nothing.
    failure: Option<String>,
    /// What was already complained of.
    complaints: BTreeSet<String>,
}

/// What a reading changed, for the log.
enum Change {
    Away(String),
    Back,
}

impl WaltInventory {
    /// Starts reading the lists, at once and then every `refresh`, until `cancel` is cancelled;
    /// the task ends then.
    ///
    /// # Errors
    /// The API's address is not one of plain HTTP.
    pub fn spawn(
        config: &Walt,
        node_defaults: NodeOptions,
        cancel: CancellationToken,
    ) -> Result<(Arc<Self>, JoinHandle<()>), InventoryError> {
        let inventory = Arc::new(Self::new(config, node_defaults, REQUEST_DEADLINE)?);
        let reader = Arc::clone(&inventory);
        let task = tokio::spawn(async move {
            // `None` is the wanted end: reading alone never ends.
            let _: Option<()> = cancel.run_until_cancelled(reader.read_forever()).await;
        });
        Ok((inventory, task))
    }

    fn new(
        config: &Walt,
        node_defaults: NodeOptions,
        request_deadline: Duration,
    ) -> Result<Self, InventoryError> {
        Ok(Self {
            api: Api::new(&config.api, request_deadline)?,
            refresh: config.refresh.max(SHORTEST_REFRESH),
            node_defaults,
            readings: AtomicU64::new(0),
            state: watch::Sender::new(State::default()),
        })
    }

    /// Waits until the first reading has ended, well or not, `deadline` at most; returns how it
    /// stands then.
    pub async fn wait_first(&self, deadline: Duration) -> Freshness {
        let mut state = self.state.subscribe();
        let first = state.wait_for(|state| state.reading > 0);
        // Past the deadline, and if no reading can come any more, the freshness tells.
        let _ = tokio::time::timeout(deadline, first).await;
        self.freshness()
    }

    async fn read_forever(&self) {
        loop {
            self.read_lists().await;
            tokio::time::sleep(self.refresh).await;
        }
    }

    async fn read_lists(&self) {
        let reading = self.readings.fetch_add(1, Ordering::Relaxed) + 1;
        let (nodes, images) = tokio::join!(
            self.read("nodes", |body| lists::nodes(body, &self.node_defaults)),
            self.read("images", lists::images),
        );
        let mut change = None;
        let mut complaints = Vec::new();
        self.state.send_modify(|state| {
            if reading < state.reading {
                return;
            }
            let was_away = state.failure().is_some();
            state.reading = reading;
            complaints.extend(state.nodes.take(nodes));
            complaints.extend(state.images.take(images));
            change = match state.failure() {
                Some(reason) if !was_away => Some(Change::Away(reason.to_owned())),
                None if was_away => Some(Change::Back),
                _ => None,
            };
        });
        self.log(change, &complaints);
    }

    async fn read<T>(
        &self,
        resource: &str,
        parse: impl FnOnce(&[u8]) -> Result<Parsed<T>, String>,
    ) -> Result<Parsed<T>, InventoryError> {
        let body: Bytes = self.api.read(resource).await?;
        parse(&body).map_err(|reason| self.api.error(resource, reason))
    }

    fn log(&self, change: Option<Change>, complaints: &[String]) {
        match change {
            Some(Change::Away(reason)) => {
                tracing::warn!("{LABEL} does not answer, its last lists stay in use: {reason}");
            }
            Some(Change::Back) => tracing::info!("{LABEL} answers again"),
            None => {}
        }
        for complaint in complaints {
            tracing::warn!("{LABEL}: {complaint}");
        }
    }

    fn freshness_at(&self, now: Instant) -> Freshness {
        let state = self.state.borrow();
        if state.reading == 0 {
            return Freshness::Never { reason: "the first request is under way".to_owned() };
        }
        let failed =
            [(&state.nodes.failure, state.nodes.read), (&state.images.failure, state.images.read)];
        // The node list comes first: it is what most questions are about.
        for (failure, read) in failed {
            let Some(reason) = failure.clone() else {
                continue;
            };
            return match read {
                Some(read) => Freshness::Stale { age: now.saturating_duration_since(read), reason },
                None => Freshness::Never { reason },
            };
        }
        Freshness::Fresh
    }
}

impl State {
    fn failure(&self) -> Option<&str> {
        let failure = self.nodes.failure.as_ref();
        failure.or(self.images.failure.as_ref()).map(String::as_str)
    }
}

impl<T> List<T> {
    /// Replaces the entries by a good answer, else notes why there is none. Returns the
    /// complaints that the answer before did not give cause for.
    fn take(&mut self, answer: Result<Parsed<T>, InventoryError>) -> Vec<String> {
        match answer {
            Ok(parsed) => {
                self.entries = parsed.entries;
                self.read = Some(Instant::now());
                self.failure = None;
                let complaints = BTreeSet::from_iter(parsed.complaints);
                let new = complaints.difference(&self.complaints).cloned().collect();
                self.complaints = complaints;
                new
            }
            Err(error) => {
                self.failure = Some(match error {
                    InventoryError::Http { reason, .. } => reason,
                    other => other.to_string(),
                });
                Vec::new()
            }
        }
    }
}

#[async_trait]
impl Inventory for WaltInventory {
    fn label(&self) -> &'static str {
        LABEL
    }

    fn node(&self, name: &NodeName) -> Option<NodeRecord> {
        self.state.borrow().nodes.entries.get(name).cloned()
    }

    fn nodes(&self) -> Vec<NodeRecord> {
        self.state.borrow().nodes.entries.values().cloned().collect()
    }

    fn images(&self) -> Vec<ImageRecord> {
        self.state.borrow().images.entries.values().cloned().collect()
    }

    fn freshness(&self) -> Freshness {
        self.freshness_at(Instant::now())
    }

    async fn images_changed(&self) -> Result<(), InventoryError> {
        // The answer is the list of images, which is read below with that of nodes.
        self.api.read("images?refresh=true").await?;
        self.read_lists().await;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
