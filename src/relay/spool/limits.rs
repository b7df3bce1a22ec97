//! How much a queue may keep, where, and how long a sender is kept waiting before.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

/// How much may wait, and where.
#[derive(Debug, Clone)]
pub struct SpoolLimits {
    /// Bytes kept in memory.
    pub memory: usize,
    /// Bytes kept on disk beyond that; 0: never use the disk.
    pub disk: u64,
    /// Directory of the temporary file.
    pub directory: PathBuf,
    /// What all queues together may keep on disk.
    pub budget: Arc<DiskBudget>,
    /// How long the sender is kept waiting before the disk is used.
    pub patience: Patience,
}

/// How long a sender is kept waiting for a receiver that is slow, before its bytes go to disk.
/// Its transport is not read meanwhile, which slows the source down, and holds up siblings.
#[derive(Debug, Clone)]
pub struct Patience {
    /// How long the receiver may take over the next piece while no sibling is held up.
    alone: Duration,
    /// The channels of the connection that is not read meanwhile; `None`: there is no patience.
    channels: Option<watch::Receiver<usize>>,
}

/// How long one piece may wait while others share the connection. A receiver that takes nothing
/// is waited for once only.
pub(super) const BESIDE_OTHERS: Duration = Duration::from_millis(1);

impl Patience {
    /// Whether there is any.
    pub(super) fn is_any(&self) -> bool {
        self.channels.is_some()
    }

    /// What does not fit into memory goes to disk at once.
    pub fn none() -> Self {
        Self { alone: Duration::ZERO, channels: None }
    }

    /// Waits up to `alone` for each sign of life, where `channels` says that there is just one.
    pub fn new(alone: Duration, channels: watch::Receiver<usize>) -> Self {
        Self { alone, channels: Some(channels) }
    }

    pub(super) fn others_wait(&self) -> bool {
        self.channels.as_ref().is_none_or(|channels| *channels.borrow() > 1)
    }

    /// Resolves when the patience that began at `since` is over.
    pub(super) async fn ends(&self, since: Instant) {
        let mut channels = self.channels.clone();
        loop {
            let patience = if self.others_wait() { BESIDE_OTHERS } else { self.alone };
            let changed = async {
                let Some(channels) = &mut channels else { return std::future::pending().await };
                if channels.changed().await.is_err() {
                    std::future::pending().await
                }
            };
            tokio::select! {
                () = sleep_until(since + patience) => return,
                () = changed => {}
            }
        }
    }
}

/// A bound on what several queues together keep on disk.
#[derive(Debug)]
pub struct DiskBudget {
    limit: u64,
    used: AtomicU64,
}

impl DiskBudget {
    /// At most `limit` bytes.
    pub fn new(limit: u64) -> Arc<Self> {
        Arc::new(Self { limit, used: AtomicU64::new(0) })
    }

    /// Whether `len` more bytes fit; they are counted then.
    pub(super) fn take(&self, len: u64) -> bool {
        let fits = |used: u64| used.checked_add(len).filter(|used| *used <= self.limit);
        self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits).is_ok()
    }

    /// Bytes on disk now.
    #[cfg(test)]
    pub(super) fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    pub(super) fn give_back(&self, len: u64) {
        self.used.fetch_sub(len, Ordering::Relaxed);
    }
}

impl SpoolLimits {
    /// Memory only: for sources that can be left unread without harm to others.
    pub fn memory_only(memory: usize) -> Self {
        let (directory, budget) = (PathBuf::new(), DiskBudget::new(0));
        Self { memory, disk: 0, directory, budget, patience: Patience::none() }
    }
}
