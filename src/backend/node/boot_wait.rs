//! Waits for a node that is booting, while the client is kept informed and can give up.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::MissedTickBehavior;
use tracing::info;

use super::spares::Spares;
use super::upstream::{ConnectError, Upstream};
use crate::backend::{BackendError, ClientChannels, Console, NodeFailure};
use crate::inventory::{Inventories, NodeRecord};
use crate::names::Login;

/// Between two attempts, and between two updates of the status line.
const EVERY: Duration = Duration::from_secs(1);

/// Connects to a node; if it looks as if it were booting, again and again for its
/// `boot_wait_seconds`. The node is looked up anew each time: its address and state may change.
pub(super) async fn connect(
    mut node: NodeRecord,
    login: &Login,
    inventory: &Inventories,
    spares: &Spares,
    client: &Arc<dyn ClientChannels>,
    console: &mut dyn Console,
) -> Result<Upstream, BackendError> {
    let bound = node.options.boot_wait;
    let started = Instant::now();
    let mut waiting: Option<String> = None;
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // The first tick is at once.
    ticks.tick().await;
    loop {
        if !node.is_on_allowed_network() {
            let address = node.address.ip();
            return Err(BackendError::AddressRefused { name: node.name, address });
        }
        let attempted = {
            let attempt = attempt(&node, login, inventory, spares, client);
            tokio::pin!(attempt);
            loop {
                tokio::select! {
                    attempted = &mut attempt => break attempted,
                    _ = ticks.tick(), if waiting.is_some() => {
                        let reason = waiting.as_deref().unwrap_or_default();
                        let terminal = console.is_terminal();
                        let text = status(&node, reason, started.elapsed(), terminal);
                        console.status(&text).await;
                    }
                    _ = console.interrupted() => return Err(BackendError::Interrupted),
                }
            }
        };
        let failure = match attempted {
            Ok(upstream) => {
                console.end_status().await;
                return Ok(upstream);
            }
            Err(error) if error.may_be_booting && !bound.is_zero() => error.failure,
            Err(error) => {
                return Err(BackendError::Node { name: node.name, failure: error.failure });
            }
        };
        let reason = short(failure);
        if waiting.is_none() {
            info!(node = %node.name, reason, "waiting for the node to boot");
        }
        if started.elapsed() >= bound {
            let seconds = bound.as_secs();
            return Err(BackendError::BootTimeout { name: node.name, seconds, last: reason });
        }
        console.status(&status(&node, &reason, started.elapsed(), console.is_terminal())).await;
        waiting = Some(reason);
        tokio::select! {
            _ = ticks.tick() => {}
            _ = console.interrupted() => return Err(BackendError::Interrupted),
        }
        if let Ok(latest) = inventory.node(&node.name) {
            node = latest;
        }
    }
}

async fn attempt(
    node: &NodeRecord,
    login: &Login,
    inventory: &Inventories,
    spares: &Spares,
    client: &Arc<dyn ClientChannels>,
) -> Result<Upstream, ConnectError> {
    if said_to_boot(node, inventory) && !node.options.boot_wait.is_zero() {
        return Err(ConnectError {
            failure: NodeFailure::Unreachable("the WalT server says it is booting".to_owned()),
            may_be_booting: true,
        });
    }
    spares.connect(node, login, client.clone()).await
}

/// Whether the inventory knows that the node is booting. An old answer says nothing about now; then
/// only the connection itself tells.
pub(super) fn said_to_boot(node: &NodeRecord, inventory: &Inventories) -> bool {
    node.booted == Some(false) && inventory.stale().is_none()
}

fn status(node: &NodeRecord, reason: &str, waited: Duration, terminal: bool) -> String {
    let name = &node.name;
    let bound = node.options.boot_wait.as_secs();
    if terminal {
        let waited = waited.as_secs();
        format!("Waiting for {name} to boot: {waited} s of {bound} ({reason}); ctrl-C gives up.")
    } else {
        format!("waltgate: waiting up to {bound} s for node {name} to boot ({reason})")
    }
}

fn short(failure: NodeFailure) -> String {
    match failure {
        NodeFailure::Unreachable(reason) | NodeFailure::Handshake(reason) => reason,
        other => format!("{other:?}"),
    }
}
