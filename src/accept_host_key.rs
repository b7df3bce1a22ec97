//! `waltgate accept-host-key`: records that a node's new host key is the right one.

use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::backend::node::{Accepted, accept_host_key};
use crate::config::Config;
use crate::gateway::{Parts, own_host_keys};
use crate::names::NodeName;

/// How long the WalT server gets to answer.
const WALT_ANSWER: Duration = Duration::from_secs(15);

/// Accepts the key with this SHA-256 fingerprint for a node of the inventory. A running gateway
/// uses it from the node's next connection on.
///
/// # Errors
/// The node is unknown or does not present that key, or it cannot be recorded; nothing was changed.
pub async fn run(config: &Config, name: &str, fingerprint: &str) -> anyhow::Result<Accepted> {
    if !fingerprint.starts_with("SHA256:") {
        bail!(
            "{fingerprint:?} is not a fingerprint; give one as ssh-keygen -l shows it, SHA256:..."
        );
    }
    let background = TaskTracker::new();
    let stop = CancellationToken::new();
    let accepted = accept(config, name, fingerprint, &background, &stop).await;
    stop.cancel();
    background.close();
    background.wait().await;
    accepted
}

async fn accept(
    config: &Config,
    name: &str,
    fingerprint: &str,
    background: &TaskTracker,
    stop: &CancellationToken,
) -> anyhow::Result<Accepted> {
    let name: NodeName = name.parse().map_err(|error| anyhow!("{error}"))?;
    let parts = Parts::new(config, background, stop)?;
    if let Some(walt) = &parts.walt {
        // Without an answer, the node may still be one of the configuration.
        walt.wait_first(WALT_ANSWER).await;
    }
    let node = parts.inventory.node(&name).map_err(|unknown| {
        let stale = unknown.stale.as_ref().map(|why| format!(" ({why})")).unwrap_or_default();
        anyhow!("{unknown}{stale}")
    })?;
    accept_host_key(&node, &own_host_keys(config), fingerprint)
        .await
        .with_context(|| format!("node {name}"))
}
