//! The rest of a node, for a session that has its /persist from disk.

use std::sync::Arc;

use async_trait::async_trait;
use tokio::time::timeout;

use super::super::{NodeAttachment, session, words};
use crate::backend::{BackendError, BackendSession, Console, NodeFailure, SessionRequest};
use crate::sftp::split;

/// The files of a node around its /persist, as its own SFTP server shows them.
pub(super) struct RestOfNode {
    pub(super) attachment: Arc<NodeAttachment>,
    pub(super) request: SessionRequest,
}

#[async_trait]
impl split::Surroundings for RestOfNode {
    fn name(&self) -> String {
        format!("node {}", self.attachment.name)
    }

    async fn open(&self, waits: bool, console: &mut dyn Console) -> Result<BackendSession, String> {
        let attachment = &self.attachment;
        let started = if waits {
            let node = attachment.look_up().map_err(words::of)?;
            attachment.start_on(&node, &self.request, console).await
        } else {
            self.start_if_up().await
        };
        started.map_err(words::of)
    }
}

impl RestOfNode {
    /// Does not wait for it to boot.
    async fn start_if_up(&self) -> Result<BackendSession, BackendError> {
        let attachment = &self.attachment;
        let node = attachment.look_up()?;
        let bound = node.options.connect;
        let (_, channel) = match attachment.open_on_live(&node).await {
            Some(opened) => opened,
            None => {
                let turn = timeout(bound, attachment.upstreams.silent_turn()).await;
                let turn = turn.map_err(|_| {
                    let reason = "it is waited for in another session".to_owned();
                    attachment.failed(NodeFailure::Unreachable(reason))
                })?;
                let upstream = attachment.connect_if_up(&node, turn).await?;
                let channel = upstream.open_session(bound).await;
                let channel = channel.map_err(|failure| attachment.failed(failure))?;
                (upstream, channel)
            }
        };
        session::start(channel, &self.request, bound)
            .await
            .map_err(|failure| attachment.failed(failure))
    }
}
