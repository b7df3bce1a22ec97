//! Forwards of a connection: they open in its container, and make one if there is none.
//!
//! They are no sessions: nothing is saved when they end, and an end of the last session is one
//! whatever they do. A container that they made lives as long as the connection.

use std::sync::Arc;

use super::{Current, Inner};
use crate::backend::image::error::ImageError;
use crate::backend::image::interior::Interior;
use crate::backend::{Listen, StreamError};

impl Inner {
    /// The inside of the connection's container, for a forward.
    pub(super) async fn interior(self: &Arc<Self>) -> Result<Arc<Interior>, StreamError> {
        // A task of its own: a container that is half made when the client goes away is found by
        // the end of its connection.
        let inner = Arc::clone(self);
        let finding = tokio::spawn(async move { inner.find_interior().await });
        let found = finding.await.unwrap_or(Err(ImageError::Closing));
        found.map_err(|error| {
            tracing::warn!(%error, "no container for a forward");
            StreamError::Failed(error.to_string())
        })
    }

    async fn find_interior(self: &Arc<Self>) -> Result<Arc<Interior>, ImageError> {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let mut state = self.state.lock().await;
            if state.closed {
                return Err(ImageError::Closing);
            }
            match &state.current {
                None => {
                    let new = self.new_container(None).await?;
                    let interior = Interior::of(&new.container);
                    self.forwards.resume(&interior, &self.arrivals).await;
                    tracing::info!("the container is for forwards");
                    let current = self.enter(new.container, Arc::clone(&interior), new.notes);
                    state.current = Some(current);
                    return Ok(interior);
                }
                Some(current) if current.container.ending().is_none() && !current.concluding => {
                    return Ok(Arc::clone(&current.interior));
                }
                // Nobody is left to deal with its end.
                Some(current) if current.active == 0 => {
                    self.dismiss(&mut state).await;
                }
                Some(_) => {
                    drop(state);
                    changed.await;
                }
            }
        }
    }

    /// Begins to listen in the container for the client.
    pub(super) async fn listen(self: &Arc<Self>, on: &Listen) -> Result<u32, StreamError> {
        let interior = self.interior().await?;
        self.forwards.begin(on, &interior, &self.arrivals).await
    }
}

impl Current {
    /// Whether a forwarded connection is open in the container.
    pub(super) fn has_forwarded_connections(&self) -> bool {
        // One is the state's own.
        Arc::strong_count(&self.interior) > 1
    }
}
