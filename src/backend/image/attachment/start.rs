//! The first session of a connection makes its container; the others join it.

use std::sync::Arc;

use super::{Current, Inner, Started, State};
use crate::backend::image::container::{BaseImage, Container, Mode};
use crate::backend::image::containers::NewContainer;
use crate::backend::image::dialogue::Decision;
use crate::backend::image::engine::{Process, ProcessStreams};
use crate::backend::image::error::ImageError;
use crate::backend::image::files;
use crate::backend::image::naming::{SaveTarget, shown_to};
use crate::backend::image::session;
use crate::backend::{BackendSession, SessionRequest};

impl Inner {
    /// Starts a session: in the connection's container, else in the one that is resumed, else in a
    /// new one.
    pub(super) async fn start(
        self: &Arc<Self>,
        request: &SessionRequest,
        mut resumed: Option<Container>,
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
                return match resumed.take() {
                    Some(container) => self.start_again(&mut state, request, container).await,
                    None => self.start_first(&mut state, request).await,
                };
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
            let session = files::start_beside(&current.container, request).await?;
            current.active += 1;
            return Ok(Started { session, mode: current.container.mode, notes: Vec::new() });
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
        let same = SaveTarget::new(account, &self.image.name, self.image.tag.as_ref());
        if let Some(Decision::Save(target)) = Decision::beforehand(account, request)?
            && target.fullname != base.fullname
            && target.existing(&available).is_some()
        {
            // Better now than after the work.
            return Err(ImageError::NameTaken { image: target.shown });
        }
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
                same,
                inspection,
                mode,
                shell,
                argv: session::argv(request, shell),
                env: if is_first_process { session::env(request) } else { Vec::new() },
                defaults: &shared.defaults,
            })
            .await?;
        let container = Arc::new(container);
        let session = match first_session(&container, request, streams).await {
            Ok(session) => session,
            Err(error) => {
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
        let notes = note.into_iter().collect();
        Ok(self.begin(state, request, session, container, notes))
    }

    /// Goes on with a container that was left behind.
    async fn start_again(
        &self,
        state: &mut State,
        request: &SessionRequest,
        container: Container,
    ) -> Result<Started, ImageError> {
        self.shared.reopen(&container);
        let (container, streams) = self.shared.containers.resume(container).await?;
        let container = Arc::new(container);
        let session = match first_session(&container, request, streams).await {
            Ok(session) => session,
            Err(error) => {
                self.shared.keep(&container).await;
                return Err(error);
            }
        };
        tracing::info!(
            account = %container.account,
            image = container.base.fullname,
            container = container.id,
            mode = ?container.mode,
            "container started again, with its unsaved changes"
        );
        Ok(self.begin(state, request, session, container, Vec::new()))
    }

    fn begin(
        &self,
        state: &mut State,
        request: &SessionRequest,
        session: BackendSession,
        container: Arc<Container>,
        mut notes: Vec<String>,
    ) -> Started {
        let presence = self.shared.presences.enter(&self.caller, &container.base.fullname);
        if request.pty.is_some() {
            notes.extend(presence.others(&container.base.shown));
        }
        let mode = container.mode;
        state.current = Some(Current {
            container,
            presence,
            active: 1,
            concluding: false,
            command_failed: false,
            client_lost: false,
            decision: None,
        });
        Started { session, mode, notes }
    }

    /// A session was made for a client that had gone away meanwhile: it ends as one does whose
    /// client goes away.
    pub(super) async fn give_up(&self, started: Started) {
        started.session.control.hang_up().await;
        let ended = self.session_ended(|current| {
            current.client_lost = true;
            true
        });
        if let Some((container, true)) = ended.await {
            self.conclude_unattended(&container).await;
        }
    }
}

/// A session in a container that has none: process 1 itself if its streams are given, else
/// beside it.
async fn first_session(
    container: &Arc<Container>,
    request: &SessionRequest,
    streams: Option<ProcessStreams>,
) -> Result<BackendSession, ImageError> {
    if let Some(streams) = streams {
        let process = Process::First(container.id.clone());
        return Ok(session::begin(container, process, request, streams).await);
    }
    match files::start_beside(container, request).await {
        Ok(session) => Ok(session),
        Err(error) if container.ending().is_none() => Err(error),
        Err(_) => Err(ImageError::ContainerDied {
            image: container.base.shown.clone(),
            reason: container.cause_of_death().await,
        }),
    }
}
