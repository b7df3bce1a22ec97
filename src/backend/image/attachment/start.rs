//! The first session of a connection makes its container; the others join it.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use super::{Current, Inner, Started, State};
use crate::backend::image::container::{BaseImage, Container, Mode};
use crate::backend::image::dialogue::Decision;
use crate::backend::image::engine::{Lack, Limit, Process, ProcessStreams};
use crate::backend::image::error::ImageError;
use crate::backend::image::interior::Interior;
use crate::backend::image::lent::{self, lend};
use crate::backend::image::naming::{SaveTarget, shown_to};
use crate::backend::image::{ResolvedImage, containers, files, session};
use crate::backend::{BackendSession, SessionRequest};
use crate::config::{ContainerNetwork, ImageDefaults};

/// How long a session waits for the save of its account's last one.
const OWN_SAVE: Duration = Duration::from_secs(60);

/// How often an image is looked up that the engine does not list.
const LOOKUPS: u32 = 5;

/// How long after a lookup the next one follows.
const NEXT_LOOKUP: Duration = Duration::from_millis(100);

/// A container that was just started.
pub(super) struct NewContainer {
    pub(super) container: Arc<Container>,
    /// Those of process 1, if that is the session.
    streams: Option<ProcessStreams>,
    /// What its first session is to be told.
    pub(super) notes: Vec<String>,
}

/// Whether the configuration counts on what the engine cannot do.
fn is_missed(lack: &Lack, defaults: &ImageDefaults) -> bool {
    match lack {
        Lack::Network { .. } => defaults.network == ContainerNetwork::Own,
        Lack::Filter => false,
        Lack::Limits { limits, .. } => limits.iter().any(|limit| match limit {
            Limit::Memory => defaults.memory.is_some(),
            Limit::Processes => defaults.pids.is_some(),
            Limit::Processors => defaults.cpus.is_some(),
        }),
    }
}

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
            let is_replaced = request.is_interactive() && !current.has_forwarded_connections();
            if current.active == 0 && (has_ended || is_replaced) {
                // Nobody uses it and nothing changed in it: a shell gets one that suits it.
                self.dismiss(&mut state).await;
                continue;
            }
            if current.concluding || has_ended {
                // Its sessions are about to end; what they leave is what this one starts from.
                drop(state);
                changed.await;
                continue;
            }
            let lent = lend(request, &current.interior, &self.arrivals).await;
            let session = files::start_beside(&current.container, request, lent).await?;
            let session = current.container.warned(session);
            current.active += 1;
            let notes = std::mem::take(&mut current.notes);
            return Ok(Started { session, mode: current.container.mode, notes });
        }
    }

    /// Removes a container that nobody uses.
    pub(super) async fn dismiss(&self, state: &mut State) {
        if let Some(current) = state.current.take() {
            self.forwards.withdraw().await;
            current.container.remove().await;
        }
    }

    async fn start_first(
        self: &Arc<Self>,
        state: &mut State,
        request: &SessionRequest,
    ) -> Result<Started, ImageError> {
        let NewContainer { container, streams, notes } = self.new_container(Some(request)).await?;
        let interior = Interior::of(&container);
        let session = match self.first_session(&interior, &container, request, streams).await {
            Ok(session) => session,
            Err(error) => {
                self.forwards.withdraw().await;
                container.remove().await;
                return Err(error);
            }
        };
        Ok(self.begin(state, request, session, self.enter(container, interior, notes)))
    }

    /// Finds the image that the client named; with the references of all that the engine has.
    ///
    /// Under load, Podman 4.3 leaves an image out of its list now and then, and nothing tells when
    /// it is back: what seems unknown is looked up again before the client is told so.
    async fn look_up(&self) -> Result<(ResolvedImage, Vec<String>), ImageError> {
        let shared = &self.shared;
        let mut left = LOOKUPS;
        loop {
            let available = shared.engine.image_references().await?;
            left -= 1;
            match shared.names.resolve(&self.image, self.caller.account(), &available) {
                Err(ImageError::UnknownImage { .. }) if left > 0 => {
                    tokio::time::sleep(NEXT_LOOKUP).await;
                }
                found => return Ok((found?, available)),
            }
        }
    }

    /// Makes the connection's container, as its first session or else a forward needs it.
    pub(super) async fn new_container(
        &self,
        request: Option<&SessionRequest>,
    ) -> Result<NewContainer, ImageError> {
        let shared = &self.shared;
        let account = self.caller.account();
        let host = shared.engine.info().await?;
        shared.room_for_one_more(account).await?;
        let (mut resolved, mut available) = self.look_up().await?;
        let saved = shared.presences.saved(account, &resolved.fullname);
        // Past this, two sessions go on from the same image, and the second is told at its save.
        if timeout(OWN_SAVE, saved).await == Ok(true) {
            (resolved, available) = self.look_up().await?;
        }
        let image = shared.engine.image(&resolved.reference).await?;
        let base = BaseImage {
            id: image.id,
            shown: shown_to(account, &resolved.fullname),
            fullname: resolved.fullname,
        };
        let same = SaveTarget::new(account, &self.image.name, self.image.tag.as_ref());
        if let Some(request) = request
            && let Some(Decision::Save(target)) = Decision::beforehand(account, request)?
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
        let mode = match (request, inspection.boots_an_os) {
            (Some(request), true) if request.is_interactive() => Mode::Os,
            (Some(request), false)
                if request.is_interactive() && is_display_certain(request, &shared.defaults) =>
            {
                Mode::ShellIsFirst
            }
            _ => Mode::Kept,
        };
        let (argv, env) = match request {
            Some(request) if mode == Mode::ShellIsFirst => (
                session::argv(request, shell),
                [session::env(request), lent::env_of_first(request)].concat(),
            ),
            _ => (Vec::new(), Vec::new()),
        };
        let (container, streams) = shared
            .containers
            .start(containers::NewContainer {
                caller: &self.caller,
                base,
                same,
                inspection,
                mode,
                shell,
                argv,
                env,
                defaults: &shared.defaults,
            })
            .await?;
        tracing::info!(
            %account,
            image = container.base.fullname,
            container = container.id,
            mode = ?container.mode,
            "container started"
        );
        let mut notes: Vec<String> = note.into_iter().collect();
        let missed = host.lacks.iter().filter(|lack| is_missed(lack, &shared.defaults));
        notes.extend(missed.map(|lack| format!("Note: {lack}.")));
        Ok(NewContainer { container: Arc::new(container), streams, notes })
    }

    /// Goes on with a container that was left behind.
    async fn start_again(
        &self,
        state: &mut State,
        request: &SessionRequest,
        container: Container,
    ) -> Result<Started, ImageError> {
        self.shared.reopen(&container);
        let (container, streams) =
            self.shared.containers.resume(container, &self.shared.defaults).await?;
        let container = Arc::new(container);
        let interior = Interior::of(&container);
        let session = match self.first_session(&interior, &container, request, streams).await {
            Ok(session) => session,
            Err(error) => {
                self.forwards.withdraw().await;
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
        Ok(self.begin(state, request, session, self.enter(container, interior, Vec::new())))
    }

    /// A session in a container that has none: process 1 itself if its streams are given, else
    /// beside it. All that is forwarded to it is there before it starts.
    async fn first_session(
        &self,
        interior: &Arc<Interior>,
        container: &Arc<Container>,
        request: &SessionRequest,
        streams: Option<ProcessStreams>,
    ) -> Result<BackendSession, ImageError> {
        self.forwards.resume(interior, &self.arrivals).await;
        let lent = lend(request, interior, &self.arrivals).await;
        if let Some(streams) = streams {
            let process = Process::First(container.id.clone());
            return Ok(session::begin(container, process, request, streams, lent).await);
        }
        match files::start_beside(container, request, lent).await {
            Ok(session) => Ok(session),
            Err(error) if !container.has_ended().await => Err(error),
            Err(_) if let Some(code) = container.failed_boot().await => {
                Err(ImageError::NoBoot { image: container.base.shown.clone(), code })
            }
            Err(_) => Err(ImageError::ContainerDied {
                image: container.base.shown.clone(),
                reason: container.cause_of_death().await,
            }),
        }
    }

    /// A container without sessions becomes the connection's own.
    pub(super) fn enter(
        &self,
        container: Arc<Container>,
        interior: Arc<Interior>,
        notes: Vec<String>,
    ) -> Current {
        let presence = self.shared.presences.enter(&self.caller, &container.base.fullname);
        Current {
            container,
            interior,
            presence,
            notes,
            active: 0,
            concluding: false,
            command_failed: false,
            client_lost: false,
            decision: None,
        }
    }

    fn begin(
        &self,
        state: &mut State,
        request: &SessionRequest,
        session: BackendSession,
        mut current: Current,
    ) -> Started {
        let mut notes = std::mem::take(&mut current.notes);
        if request.pty.is_some() {
            notes.extend(current.presence.others(&current.container.base.shown));
        }
        current.active = 1;
        let mode = current.container.mode;
        let session = current.container.warned(session);
        state.current = Some(current);
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

/// Whether it is known before the container runs which display its programs will have. Displays
/// are ports, and those of the host's network others have too.
fn is_display_certain(request: &SessionRequest, defaults: &ImageDefaults) -> bool {
    request.x11.is_none() || defaults.network != ContainerNetwork::Host
}
