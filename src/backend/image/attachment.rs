//! A connection's container of an image, and the sessions that share it.

use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::{Mutex, Notify};

use super::Shared;
use super::container::{BaseImage, Container, Mode, NewContainer};
use super::engine::Process;
use super::error::ImageError;
use super::naming::shown_to;
use super::save::{Decision, Question, sentence};
use super::session;
use crate::backend::{
    Attachment, BackendError, BackendSession, Caller, Console, ExitStatus, Program, SessionEnd,
    SessionRequest,
};
use crate::config::OnCommandSuccess;
use crate::target::ImageName;

const NOTE_OS: &str = "Note: the OS was started in a virtual environment.";
const NOTE_LIMITED: &str =
    "Note: this is a limited virtual environment (with just the shell process).";

pub(super) struct ImageAttachment {
    inner: Arc<Inner>,
}

struct Inner {
    shared: Arc<Shared>,
    caller: Caller,
    image: ImageName,
    state: Mutex<State>,
    /// Tells of changes of the state.
    changed: Notify,
    /// One question at a time.
    asking: Mutex<()>,
}

#[derive(Default)]
struct State {
    closed: bool,
    current: Option<Current>,
}

/// The container, as its sessions see it.
struct Current {
    container: Arc<Container>,
    /// Sessions that started and are not finished.
    active: usize,
    /// The last session ended and its changes are being dealt with.
    concluding: bool,
    /// A command failed, or its client went away.
    command_failed: bool,
    /// What an interactive session that ended decided for all.
    decision: Option<Decision>,
}

struct Started {
    session: BackendSession,
    mode: Mode,
    note: Option<String>,
}

impl ImageAttachment {
    pub(super) fn new(shared: Arc<Shared>, caller: Caller, image: ImageName) -> Self {
        Self {
            inner: Arc::new(Inner {
                shared,
                caller,
                image,
                state: Mutex::default(),
                changed: Notify::new(),
                asking: Mutex::default(),
            }),
        }
    }
}

#[async_trait]
impl Attachment for ImageAttachment {
    async fn start(
        &self,
        request: &SessionRequest,
        console: &mut dyn Console,
    ) -> Result<BackendSession, BackendError> {
        if let Program::Subsystem(name) = &request.program {
            return Err(BackendError::Unsupported(format!(
                "subsystem {name} is not supported for images in this version; scp -O and rsync work if the image has them"
            )));
        }
        // A task of its own: a container that is half made when the client loses patience is
        // made and then removed, never forgotten.
        let mut starting = {
            let (inner, request) = (Arc::clone(&self.inner), request.clone());
            tokio::spawn(async move { inner.start(&request).await })
        };
        let started = tokio::select! {
            started = &mut starting => started,
            _ = console.interrupted() => {
                let inner = Arc::clone(&self.inner);
                tokio::spawn(async move {
                    if let Ok(Ok(started)) = starting.await {
                        inner.give_up(started).await;
                    }
                });
                return Err(BackendError::Interrupted);
            }
        };
        let started = started.map_err(|_| ImageError::Closing)??;
        if let Some(note) = &started.note {
            console.say(note).await;
        }
        if request.is_interactive() {
            console
                .say(match started.mode {
                    Mode::Os => NOTE_OS,
                    Mode::ShellIsFirst | Mode::Kept => NOTE_LIMITED,
                })
                .await;
            console.say("").await;
        }
        Ok(started.session)
    }

    async fn finish(
        &self,
        request: &SessionRequest,
        end: &SessionEnd,
        console: &mut dyn Console,
    ) -> Result<(), BackendError> {
        Ok(self.inner.finish(request, end, console).await?)
    }

    async fn close(&self) {
        self.inner.close().await;
    }
}

impl Inner {
    async fn start(self: &Arc<Self>, request: &SessionRequest) -> Result<Started, ImageError> {
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
    async fn give_up(&self, started: Started) {
        started.session.control.hang_up().await;
        let ended = self.session_ended(|current| {
            current.command_failed = true;
            true
        });
        if let Some((container, true)) = ended.await {
            self.concluded(&container, Fate::Discarded).await;
        }
    }

    async fn finish(
        &self,
        request: &SessionRequest,
        end: &SessionEnd,
        console: &mut dyn Console,
    ) -> Result<(), ImageError> {
        let is_interactive = request.is_interactive();
        let succeeded = *end == SessionEnd::Exited(ExitStatus::Code(0));
        let asks = is_interactive && *end != SessionEnd::ClientGone;
        let Some((container, is_last)) = self
            .session_ended(|current| {
                current.command_failed |= !is_interactive && !succeeded;
                // Whoever asks goes on being counted until there is an answer.
                !asks
            })
            .await
        else {
            return Ok(());
        };
        if *end == SessionEnd::BackendLost {
            let cause = container.cause_of_death().await;
            let image = container.base.shown.clone();
            if !asks || !container.is_changed().await.unwrap_or(false) {
                let is_last = is_last || (asks && self.counted_out().await.is_some());
                if is_last {
                    self.concluded(&container, Fate::Discarded).await;
                }
                return Err(ImageError::ContainerDied { image, reason: cause });
            }
            // Its files are still there.
            console.say(&format!("The container of image {image} is gone: {cause}.")).await;
        }
        if !asks {
            return if is_last {
                self.conclude(&container, is_interactive, end, console).await
            } else {
                Ok(())
            };
        }
        if is_last {
            return self.conclude(&container, true, end, console).await;
        }
        self.decide_for_all(&container, console).await;
        match self.counted_out().await {
            Some(container) => self.conclude(&container, true, end, console).await,
            None => Ok(()),
        }
    }

    /// Counts a session out that was still counted; returns the container if it was the last.
    async fn counted_out(&self) -> Option<Arc<Container>> {
        let (container, is_last) = self.session_ended(|_| true).await?;
        is_last.then_some(container)
    }

    /// Notes the end of a session. `leaves` records what is to be known about it, and says
    /// whether it is counted out even when it is not the last one. Returns the container and
    /// whether this was the last session; the last one has the container to itself.
    async fn session_ended(
        &self,
        leaves: impl FnOnce(&mut Current) -> bool + Send,
    ) -> Option<(Arc<Container>, bool)> {
        let mut state = self.state.lock().await;
        let current = state.current.as_mut()?;
        let leaves = leaves(current);
        let is_last = current.active <= 1;
        if is_last {
            current.concluding = true;
        } else if leaves {
            current.active -= 1;
        }
        Some((Arc::clone(&current.container), is_last))
    }

    /// An interactive session ends before others: its answer stands for all.
    async fn decide_for_all(&self, container: &Arc<Container>, console: &mut dyn Console) {
        let _asking = self.asking.lock().await;
        if self.decision().await.is_some() {
            return;
        }
        match container.is_changed().await {
            Ok(true) => {}
            Ok(false) => {
                // The sessions that go on may change something yet.
                console
                    .say("Nothing was changed so far; other sessions still use the container.")
                    .await;
                return;
            }
            Err(error) => {
                console.say(&sentence(&error.into())).await;
                return;
            }
        }
        let decision = self.shared.saves.ask(&self.question(container), console).await;
        match &decision {
            Decision::Save(target) => {
                console
                    .say(&format!(
                        "Other sessions still use the container; image {} is saved when the last of them ends.",
                        target.shown
                    ))
                    .await;
            }
            Decision::Abandon => console.say(&not_saved(container)).await,
        }
        if let Some(current) = &mut self.state.lock().await.current {
            current.decision = Some(decision);
        }
    }

    /// The last session ended: saves, asks, or throws away.
    async fn conclude(
        &self,
        container: &Arc<Container>,
        is_interactive: bool,
        end: &SessionEnd,
        console: &mut dyn Console,
    ) -> Result<(), ImageError> {
        let result = match (self.decision().await, is_interactive, end) {
            (Some(Decision::Save(target)), _, _) => {
                container.come_to_rest().await;
                let question = self.question(container);
                match self.shared.saves.save(container, &question, &target, console).await {
                    Ok(()) => Ok(Fate::Saved),
                    Err(error) if is_interactive && *end != SessionEnd::ClientGone => {
                        console.say(&sentence(&error)).await;
                        Ok(self.ask_until_settled(container, console).await)
                    }
                    Err(error) => Err(error),
                }
            }
            (Some(Decision::Abandon), _, _) => Ok(Fate::Discarded),
            (None, _, SessionEnd::ClientGone) => Ok(Fate::Discarded),
            (None, true, _) => Ok(self.conclude_with_questions(container, console).await),
            (None, false, _) => self.conclude_commands(container, end, console).await,
        };
        let fate = match &result {
            Ok(fate) => *fate,
            Err(_) => Fate::Discarded,
        };
        self.concluded(container, fate).await;
        result.map(drop)
    }

    async fn conclude_with_questions(
        &self,
        container: &Arc<Container>,
        console: &mut dyn Console,
    ) -> Fate {
        if let Some(warning) = container.come_to_rest().await {
            console.say(&warning).await;
        }
        match container.is_changed().await {
            Ok(true) => {}
            Ok(false) => {
                console
                    .say(&format!(
                        "Image {} was not changed: nothing to save.",
                        container.base.shown
                    ))
                    .await;
                return Fate::Unchanged;
            }
            Err(error) => {
                // Whether there is anything to save is not known: better to ask.
                tracing::warn!(container = container.id, %error, "changes are not known");
            }
        }
        self.ask_until_settled(container, console).await
    }

    /// Asks what is to become of the changes, until that has happened.
    async fn ask_until_settled(
        &self,
        container: &Arc<Container>,
        console: &mut dyn Console,
    ) -> Fate {
        let question = self.question(container);
        loop {
            let decision = self.shared.saves.ask(&question, console).await;
            let Decision::Save(target) = decision else {
                console.say(&not_saved(container)).await;
                return Fate::Discarded;
            };
            match self.shared.saves.save(container, &question, &target, console).await {
                Ok(()) => return Fate::Saved,
                Err(error) => console.say(&sentence(&error)).await,
            }
        }
    }

    async fn conclude_commands(
        &self,
        container: &Arc<Container>,
        end: &SessionEnd,
        console: &mut dyn Console,
    ) -> Result<Fate, ImageError> {
        if !container.is_changed().await? {
            return Ok(Fate::Unchanged);
        }
        let failed = match &self.state.lock().await.current {
            Some(current) => current.command_failed,
            None => true,
        };
        let image = &container.base.shown;
        if failed && *end == SessionEnd::Exited(ExitStatus::Code(0)) {
            // This one must not hear that all went well.
            return Err(ImageError::SiblingFailed { image: image.clone() });
        }
        if failed {
            console
                .say(&format!(
                    "Image {image} was not saved: the command failed, its changes are discarded."
                ))
                .await;
            return Ok(Fate::Discarded);
        }
        if self.shared.defaults.on_command_success == OnCommandSuccess::Discard {
            console
                .say(&format!(
                    "Image {image} was not saved: changes made by commands are discarded here."
                ))
                .await;
            return Ok(Fate::Discarded);
        }
        container.come_to_rest().await;
        let question = self.question(container);
        let target = question.same_name();
        self.shared.saves.save(container, &question, &target, console).await?;
        Ok(Fate::Saved)
    }

    /// The container's end, or the beginning of its wait for the next session. Changes that
    /// nobody saved end here, and nowhere else.
    async fn concluded(&self, container: &Arc<Container>, fate: Fate) {
        let is_kept = fate == Fate::Unchanged && container.ending().is_none();
        if fate == Fate::Discarded {
            tracing::info!(
                account = %self.caller.account(),
                image = container.base.fullname,
                container = container.id,
                "container is thrown away without saving"
            );
        }
        if !is_kept {
            container.remove().await;
        }
        let mut state = self.state.lock().await;
        match &mut state.current {
            Some(current) if is_kept => {
                current.active = 0;
                current.concluding = false;
                current.command_failed = false;
            }
            current => *current = None,
        }
        drop(state);
        self.changed.notify_waiters();
    }

    async fn close(&self) {
        let mut state = self.state.lock().await;
        state.closed = true;
        let current = state.current.take();
        drop(state);
        self.changed.notify_waiters();
        if let Some(current) = current {
            if current.active > 0 {
                tracing::info!(
                    account = %self.caller.account(),
                    image = current.container.base.fullname,
                    container = current.container.id,
                    "container is removed with its connection"
                );
            }
            current.container.remove().await;
        }
    }

    async fn decision(&self) -> Option<Decision> {
        let state = self.state.lock().await;
        state.current.as_ref()?.decision.clone()
    }

    fn question<'a>(&'a self, container: &'a Container) -> Question<'a> {
        Question { container, account: self.caller.account(), image: &self.image }
    }
}

/// What became of a container's changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Saved,
    Discarded,
    Unchanged,
}

fn not_saved(container: &Container) -> String {
    format!("Image {} was not saved.", container.base.shown)
}
