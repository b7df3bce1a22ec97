//! The connections to its node that one client connection has.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::upstream::Upstream;
use crate::backend::{BackendError, Console};
use crate::inventory::NodeRecord;

/// Before a session that waits for another one's connection says so.
const UNNOTICED_WAIT: Duration = Duration::from_secs(1);

/// Never shared with another client connection: nothing of one user's may reach another.
#[derive(Default)]
pub(super) struct Upstreams {
    connected: Mutex<Vec<Arc<Upstream>>>,
    /// Held while a connection is made, which may take as long as a node boots, so that all that
    /// start together share it. What is connected can be used meanwhile.
    connecting: tokio::sync::Mutex<()>,
}

/// The right to make the next connection.
pub(super) type Turn<'a> = tokio::sync::MutexGuard<'a, ()>;

impl Upstreams {
    /// Those that are up, the latest first.
    pub(super) fn live(&self) -> Vec<Arc<Upstream>> {
        let mut connected = self.lock();
        connected.retain(|upstream| !upstream.is_closed());
        connected.iter().rev().cloned().collect()
    }

    /// Adds one.
    pub(super) fn add(&self, upstream: Upstream) -> Arc<Upstream> {
        let upstream = Arc::new(upstream);
        self.lock().push(upstream.clone());
        upstream
    }

    /// Takes all out, to close them.
    pub(super) fn take(&self) -> Vec<Arc<Upstream>> {
        std::mem::take(&mut *self.lock())
    }

    /// Waits until no other connection is being made. The client is told and can give up.
    pub(super) async fn turn(
        &self,
        node: &NodeRecord,
        console: &mut dyn Console,
    ) -> Result<Turn<'_>, BackendError> {
        tokio::select! {
            turn = self.connecting.lock() => return Ok(turn),
            _ = console.interrupted() => return Err(BackendError::Interrupted),
            () = tokio::time::sleep(UNNOTICED_WAIT) => {}
        }
        let (name, bound) = (&node.name, node.options.boot_wait.as_secs());
        let text = if console.is_terminal() {
            format!("Waiting for {name}, up to {bound} s; ctrl-C gives up.")
        } else {
            format!("waltgate: waiting up to {bound} s for node {name}")
        };
        console.status(&text).await;
        tokio::select! {
            turn = self.connecting.lock() => Ok(turn),
            _ = console.interrupted() => Err(BackendError::Interrupted),
        }
    }

    /// The same for what nobody can be told of.
    pub(super) async fn silent_turn(&self) -> Turn<'_> {
        self.connecting.lock().await
    }

    /// `None` if another connection is being made.
    pub(super) fn try_turn(&self) -> Option<Turn<'_>> {
        self.connecting.try_lock().ok()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Upstream>>> {
        self.connected.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
