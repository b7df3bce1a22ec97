//! A connection's container of an image, and the sessions that share it.

mod conclusion;
mod ending;
mod forwards;
mod offer;
mod start;

use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::{Mutex, Notify};

use super::Shared;
use super::arrivals::Arrivals;
use super::container::{Container, Mode};
use super::dialogue::Decision;
use super::error::ImageError;
use super::files::SFTP;
use super::interior::Interior;
use super::presence::Presence;
use super::remote_forwards::RemoteForwards;
use crate::backend::{
    Attachment, BackendError, BackendSession, Caller, ClientChannels, Console, Listen, Program,
    SessionEnd, SessionRequest, StreamError, StreamTarget,
};
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
    arrivals: Arrivals,
    forwards: RemoteForwards,
}

#[derive(Default)]
struct State {
    closed: bool,
    current: Option<Current>,
}

/// The container, as its sessions see it.
struct Current {
    container: Arc<Container>,
    interior: Arc<Interior>,
    presence: Presence,
    /// For the first session to tell.
    notes: Vec<String>,
    /// Sessions that started and are not finished.
    active: usize,
    /// The last session ended and its changes are being dealt with.
    concluding: bool,
    /// A command failed.
    command_failed: bool,
    /// The client of a session went away before its end.
    client_lost: bool,
    /// What a session that ended decided for all.
    decision: Option<Decision>,
}

struct Started {
    session: BackendSession,
    mode: Mode,
    notes: Vec<String>,
}

impl ImageAttachment {
    pub(super) fn new(
        shared: Arc<Shared>,
        caller: Caller,
        client: Arc<dyn ClientChannels>,
        image: ImageName,
    ) -> Self {
        Self {
            inner: Arc::new(Inner {
                shared,
                caller,
                image,
                state: Mutex::default(),
                changed: Notify::new(),
                asking: Mutex::default(),
                arrivals: Arrivals::new(client),
                forwards: RemoteForwards::default(),
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
        if let Program::Subsystem(name) = &request.program
            && name != SFTP
        {
            return Err(BackendError::Unsupported(format!(
                "images have no subsystem {}; sftp is the only one",
                name.escape_debug()
            )));
        }
        Decision::beforehand(self.inner.caller.account(), request)?;
        let resumed =
            if request.is_interactive() { self.inner.offer(console).await? } else { None };
        // A task of its own: a container that is half made when the client loses patience is
        // made and then removed, never forgotten.
        let mut starting = {
            let (inner, request) = (Arc::clone(&self.inner), request.clone());
            tokio::spawn(async move { inner.start(&request, resumed).await })
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
        for note in &started.notes {
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

    async fn connect(&self, to: &StreamTarget) -> Result<BackendSession, StreamError> {
        self.inner.interior().await?.connect(to).await
    }

    async fn listen(&self, on: &Listen) -> Result<u32, StreamError> {
        let inner = &self.inner;
        inner.forwards.begin(on, &inner.interior().await?, &inner.arrivals).await
    }

    async fn stop_listening(&self, on: &Listen) -> Result<(), StreamError> {
        if self.inner.forwards.end(on).await {
            return Ok(());
        }
        Err(StreamError::Failed("the container does not listen there".to_owned()))
    }

    async fn close(&self) {
        self.inner.close().await;
    }
}

impl Inner {
    async fn close(&self) {
        let mut state = self.state.lock().await;
        state.closed = true;
        let current = state.current.take();
        drop(state);
        self.changed.notify_waiters();
        if let Some(current) = current {
            self.forwards.withdraw().await;
            if current.active > 0 {
                self.conclude_unattended(&current.container).await;
            } else {
                current.container.remove().await;
            }
        }
        self.arrivals.close().await;
    }
}
