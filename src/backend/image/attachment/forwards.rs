//! Forwards of a connection: they open in its container, and make one if there is none.
//!
//! They are no sessions: nothing is saved when they end, and an end of the last session is one
//! whatever they do. A container that they made lives as long as the connection.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use super::start::NewContainer;
use super::{Current, Inner};
use crate::backend::StreamError;
use crate::backend::image::container::Container;
use crate::backend::image::engine::EngineError;
use crate::backend::image::error::ImageError;
use crate::backend::image::interior::Interior;

/// For the sessions that end to leave a container to a forward, or make room for one.
const WAITING: Duration = Duration::from_secs(150);

impl Inner {
    /// The inside of the connection's container, for a forward.
    pub(super) async fn interior(self: &Arc<Self>) -> Result<Arc<Interior>, StreamError> {
        match timeout(WAITING, self.find_interior()).await {
            Ok(found) => found.map_err(|error| StreamError::Failed(error.to_string())),
            Err(_) => Err(StreamError::Failed("its container is not there yet".to_owned())),
        }
    }

    async fn find_interior(self: &Arc<Self>) -> Result<Arc<Interior>, ImageError> {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let state = self.state.lock().await;
            if state.closed {
                return Err(ImageError::Closing);
            }
            match &state.current {
                Some(current) if current.container.ending().is_none() && !current.concluding => {
                    return Ok(Arc::clone(&current.interior));
                }
                // Its sessions are about to end, and with them the container.
                Some(current) if current.active > 0 => {
                    drop(state);
                    changed.await;
                }
                _ => {
                    drop(state);
                    // A task of its own: a container that is half made when the client goes away
                    // is found by the end of its connection.
                    let inner = Arc::clone(self);
                    let making = tokio::spawn(async move { inner.make_for_forwards().await });
                    making.await.map_err(|_| ImageError::Closing)??;
                }
            }
        }
    }

    /// Makes a container, unless a session or another forward did meanwhile.
    async fn make_for_forwards(&self) -> Result<(), ImageError> {
        let mut state = self.state.lock().await;
        if state.closed {
            return Ok(());
        }
        match &state.current {
            Some(current) if current.active == 0 && current.container.ending().is_some() => {
                self.dismiss(&mut state).await;
            }
            Some(_) => return Ok(()),
            None => {}
        }
        let NewContainer { container, notes, .. } = self.new_container(None).await?;
        let interior = Interior::of(&container);
        self.forwards.resume(&interior, &self.arrivals).await;
        state.current = Some(self.enter(container, interior, notes));
        Ok(())
    }

    /// Whether the user of a container that goes on changed any file so far: the sockets of remote
    /// forwards are away while it is looked at.
    pub(super) async fn is_changed_so_far(
        &self,
        container: &Container,
    ) -> Result<bool, EngineError> {
        self.forwards.withdraw_files().await;
        let is_changed = container.is_changed().await;
        if let Some(current) = &self.state.lock().await.current
            && current.container.ending().is_none()
        {
            self.forwards.resume(&current.interior, &self.arrivals).await;
        }
        is_changed
    }
}

impl Current {
    /// Whether a forwarded connection is open in the container.
    pub(super) fn has_forwarded_connections(&self) -> bool {
        // One is the state's own.
        Arc::strong_count(&self.interior) > 1
    }
}
