//! The first session of a connection makes its container; the others join it.

use std::sync::Arc;

use super::conclusion::Fate;
use super::{Current, Inner, Started, State};
use crate::backend::SessionRequest;
use crate::backend::image::container::{BaseImage, Mode};
use crate::backend::image::containers::NewContainer;
use crate::backend::image::engine::Process;
use crate::backend::image::error::ImageError;
use crate::backend::image::naming::shown_to;
use crate::backend::image::session;

impl Inner {
    pub(super) async fn start(
        self: &Arc<Self>,
        request: &SessionRequest,
    ) -> Result<Started, ImageError> {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let mut state = self.state.lock().await;
            if state.closed {
                return Err(ImageError::Closing);
            }
            let Some(current) = &mut state.current else {
                return self.start_first(&mut state, request).await;
            };
            let has_ended = current.container.ending().is_some();
            if current.active == 0 && (has_ended || request.is_interactive()) {
                // Nobody uses it and nothing changed in it: a shell gets one that suits it.
                let container = Arc::clone(&current.container);
                state.current = None;
                container.remove().await;
                continue;
            }
            if current.concluding || has_ended {
                // Its sessions are about to end; what they leave is what this one starts from.
                drop(state);
                changed.await;
                continue;
            }
            let session = session::start_beside(&current.container, request).await?;
            current.active += 1;
            return Ok(Started { session, mode: current.container.mode, note: None });
        }
    }

    async fn start_first(
        self: &Arc<Self>,
        state: &mut State,
        request: &SessionRequest,
    ) -> Result<Started, ImageError> {
        let shared = &self.shared;
        let account = self.caller.account();
        let host = shared.engine.info().await?;
        let available = shared.engine.image_references().await?;
        let resolved = shared.names.resolve(&self.image, account, &available)?;
        let image = shared.engine.image(&resolved.reference).await?;
        let base = BaseImage {
            id: image.id,
            shown: shown_to(account, &resolved.fullname),
            fullname: resolved.fullname,
        };
        let note = shared.emulation.note(&base.shown, &image.architecture, &host.architecture)?;
        let inspection = shared.inspections.of(&base.id, &shared.containers).await?;
        let shell =
            inspection.shell.ok_or_else(|| ImageError::NoShell { image: base.shown.clone() })?;
        let mode = match (request.is_interactive(), inspection.boots_an_os) {
            (true, true) => Mode::Os,
            (true, false) => Mode::ShellIsFirst,
            (false, _) => Mode::Kept,
        };
        let is_first_process = mode == Mode::ShellIsFirst;
        let (container, streams) = shared
            .containers
            .start(NewContainer {
                caller: &self.caller,
                base,
                inspection,
                mode,
                shell,
                argv: session::argv(request, shell),
                env: if is_first_process { session::env(request) } else { Vec::new() },
                defaults: &shared.defaults,
            })
            .await?;
        let container = Arc::new(container);
        let session = match streams {
            Some(streams) => {
                let process = Process::First(container.id.clone());
                Ok(session::begin(&container, process, request, streams).await)
            }
            None => session::start_beside(&container, request).await,
        };
        let session = match session {
            Ok(session) => session,
            Err(error) => {
                let error = if container.ending().is_some() {
                    ImageError::ContainerDied {
                        image: container.base.shown.clone(),
                        reason: container.cause_of_death().await,
                    }
                } else {
                    error.into()
                };
                container.remove().await;
                return Err(error);
            }
        };
        tracing::info!(
            %account,
            image = container.base.fullname,
            container = container.id,
            mode = ?container.mode,
            "container started"
        );
        state.current = Some(Current {
            container,
            active: 1,
            concluding: false,
            command_failed: false,
            decision: None,
        });
        Ok(Started { session, mode, note })
    }

    /// A session was made for a client that had gone away meanwhile: it ends as one does whose
    /// client goes away.
    pub(super) async fn give_up(&self, started: Started) {
        started.session.control.hang_up().await;
        let ended = self.session_ended(|current| {
            current.command_failed = true;
            true
        });
        if let Some((container, true)) = ended.await {
            self.concluded(&container, Fate::Discarded).await;
        }
    }
}
