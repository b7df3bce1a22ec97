//! The life of a container: made, started, brought to rest, removed.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{Mutex, OwnedMutexGuard, watch};
use tokio::task::AbortHandle;
use tokio::time::timeout;

use super::changes;
use super::engine::{ContainerSpec, Engine, EngineError, ExecSpec, ProcessState, ProcessStreams};
use super::error::ImageError;
use super::inspection::{Inspection, OS_SHUTDOWN, OS_START};
use super::ownership::Ownership;
use super::slots::{AccountSlot, AccountSlots};
use crate::backend::Caller;
use crate::config::ImageDefaults;

const LABEL_GATEWAY: &str = "waltgate.gateway";
const LABEL_RUN: &str = "waltgate.run";
const LABEL_ACCOUNT: &str = "waltgate.account";
const LABEL_IMAGE: &str = "waltgate.image";
const LABEL_SESSION: &str = "waltgate.session";
/// Starts the name of every container. Labels of a container can come from its image as well,
/// names cannot.
const NAME_PREFIX: &str = "waltgate-";

/// For an operating system to shut down by itself.
const SHUTDOWN: Duration = Duration::from_secs(30);
/// For it to do so when told by signal instead.
const STOP: Duration = Duration::from_secs(10);
/// For a killed container to be seen as ended.
const KILL: Duration = Duration::from_secs(10);
/// How long a save that is under way is waited for before its container is removed anyway.
const SAVE: Duration = Duration::from_secs(600);

/// Keeps a shell that is process 1 alive, with nothing but the shell itself, until its input ends.
const WAIT_FOR_EOF: &str = "while read -r line; do :; done";

/// What process 1 is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// The user's first shell.
    ShellIsFirst,
    /// A shell that waits, beside which commands run.
    Kept,
    /// The image's init.
    Os,
}

/// How a container came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// Process 1 exited with this code.
    Exited(u32),
    /// The engine does not know it any more, or does not answer.
    Lost,
}

/// The image that a container was made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct BaseImage {
    pub(super) id: String,
    /// `OWNER/NAME:TAG`
    pub(super) fullname: String,
    /// As its user would say it.
    pub(super) shown: String,
}

/// What a new container needs besides its image.
pub(super) struct NewContainer<'a> {
    pub(super) caller: &'a Caller,
    pub(super) base: BaseImage,
    pub(super) inspection: Arc<Inspection>,
    pub(super) mode: Mode,
    pub(super) shell: &'static str,
    /// Process 1, for [`Mode::ShellIsFirst`].
    pub(super) argv: Vec<String>,
    /// Its variables.
    pub(super) env: Vec<String>,
    pub(super) defaults: &'a ImageDefaults,
}

/// Makes containers and finds those that were left behind.
pub(super) struct Containers {
    engine: Arc<dyn Engine>,
    ownership: Ownership,
    slots: AccountSlots,
    made: AtomicU64,
}

/// A container of a session. [`Container::remove`] it; dropping it leaves it running.
pub(super) struct Container {
    engine: Arc<dyn Engine>,
    pub(super) id: String,
    pub(super) mode: Mode,
    pub(super) base: BaseImage,
    pub(super) inspection: Arc<Inspection>,
    pub(super) shell: &'static str,
    ended: watch::Receiver<Option<Ending>>,
    tasks: Vec<AbortHandle>,
    /// The gateway itself sent a signal to process 1.
    signalled: AtomicBool,
    /// Held while it is saved or removed; the slot in it is gone once it is removed.
    slot: Arc<Mutex<Option<AccountSlot>>>,
}

/// Keeps a container from being removed.
pub(super) struct Held(OwnedMutexGuard<Option<AccountSlot>>);

impl Containers {
    pub(super) fn new(engine: Arc<dyn Engine>, ownership: Ownership, slots: AccountSlots) -> Self {
        Self { engine, ownership, slots, made: AtomicU64::new(0) }
    }

    pub(super) fn engine(&self) -> &Arc<dyn Engine> {
        &self.engine
    }

    /// A container that will not be started.
    pub(super) async fn create_for_inspection(&self, image_id: &str) -> Result<String, ImageError> {
        let spec = ContainerSpec {
            image_id: image_id.to_owned(),
            argv: vec!["/".to_owned()],
            working_dir: "/".to_owned(),
            ..self.spec().await?
        };
        Ok(self.engine.create(&spec).await?)
    }

    /// Makes and starts a container. The streams are those of process 1 when it is the user's.
    pub(super) async fn start(
        &self,
        new: NewContainer<'_>,
    ) -> Result<(Container, Option<ProcessStreams>), ImageError> {
        let slot = self.slots.take(new.caller.account())?;
        let mut spec = self.spec().await?;
        spec.labels.extend([
            (LABEL_ACCOUNT.to_owned(), new.caller.account().to_string()),
            (LABEL_IMAGE.to_owned(), new.base.fullname.clone()),
            (LABEL_SESSION.to_owned(), new.caller.connection.to_string()),
        ]);
        spec.image_id.clone_from(&new.base.id);
        spec.argv = match new.mode {
            Mode::ShellIsFirst => new.argv,
            Mode::Kept => [new.shell, "-c", WAIT_FOR_EOF].map(str::to_owned).to_vec(),
            Mode::Os => vec![OS_START.to_owned()],
        };
        spec.env = new.env;
        spec.working_dir = new.inspection.working_dir.to_owned();
        spec.hostname.clone_from(&new.defaults.hostname);
        spec.tty = matches!(new.mode, Mode::ShellIsFirst | Mode::Os);
        spec.stdin = matches!(new.mode, Mode::ShellIsFirst | Mode::Kept);
        spec.memory = new.defaults.memory;
        spec.pids = new.defaults.pids;
        spec.network = new.defaults.network;
        spec.read_only_binds = cpuinfo_bind(&new.inspection);
        spec.boots_an_os = new.mode == Mode::Os;

        let id = self.engine.create(&spec).await?;
        match self.run(&id, new.mode).await {
            Ok((streams, tasks, ended)) => Ok((
                Container {
                    engine: Arc::clone(&self.engine),
                    id,
                    mode: new.mode,
                    base: new.base,
                    inspection: new.inspection,
                    shell: new.shell,
                    ended,
                    tasks,
                    signalled: AtomicBool::new(false),
                    slot: Arc::new(Mutex::new(Some(slot))),
                },
                streams,
            )),
            Err(error) => {
                if let Err(error) = self.engine.remove(&id).await {
                    tracing::warn!(container = id, %error, "container is left behind");
                }
                Err(error.into())
            }
        }
    }

    #[allow(clippy::type_complexity)]
    async fn run(
        &self,
        id: &str,
        mode: Mode,
    ) -> Result<
        (Option<ProcessStreams>, Vec<AbortHandle>, watch::Receiver<Option<Ending>>),
        EngineError,
    > {
        let streams = match mode {
            // Before the start, so that nothing is missed.
            Mode::ShellIsFirst | Mode::Kept => {
                Some(self.engine.attach(id, mode == Mode::ShellIsFirst).await?)
            }
            Mode::Os => None,
        };
        self.engine.start(id).await?;
        let (ending, ended) = watch::channel(None);
        let mut tasks = vec![
            tokio::spawn(watch_for_the_end(Arc::clone(&self.engine), id.to_owned(), ending))
                .abort_handle(),
        ];
        let streams = match (mode, streams) {
            (Mode::Kept, Some(mut streams)) => {
                // Holds the input open, which is what process 1 waits on.
                tasks.push(
                    tokio::spawn(async move { while streams.output.next().await.is_some() {} })
                        .abort_handle(),
                );
                None
            }
            (_, streams) => streams,
        };
        Ok((streams, tasks, ended))
    }

    async fn spec(&self) -> Result<ContainerSpec, ImageError> {
        let run = self.ownership.run().await?;
        let number = self.made.fetch_add(1, Ordering::Relaxed);
        Ok(ContainerSpec {
            name: format!("{NAME_PREFIX}{}-{number}", run.id),
            labels: BTreeMap::from([
                (LABEL_GATEWAY.to_owned(), run.gateway.clone()),
                (LABEL_RUN.to_owned(), run.id.clone()),
            ]),
            ..ContainerSpec::default()
        })
    }

    /// Removes what ended runs of this gateway left behind; returns how many containers. One that
    /// cannot be removed does not keep the others.
    pub(super) async fn reap(&self) -> Result<usize, ImageError> {
        let run = self.ownership.run().await?;
        let containers = self.engine.containers(LABEL_GATEWAY, &run.gateway).await?;
        let mut removed = 0;
        let mut failed = None;
        for container in containers {
            let owner = container.labels.get(LABEL_RUN).map_or("", String::as_str);
            let is_ours = container.name.starts_with(&format!("{NAME_PREFIX}{owner}-"));
            if !is_ours || run.is_alive(owner) {
                continue;
            }
            if let Err(error) = self.engine.remove(&container.id).await {
                failed = Some(error);
                continue;
            }
            tracing::info!(
                container = container.name,
                image = container.labels.get(LABEL_IMAGE),
                account = container.labels.get(LABEL_ACCOUNT),
                "removed a container left by an earlier run"
            );
            removed += 1;
        }
        if let Some(error) = failed {
            return Err(error.into());
        }
        for other in run.all() {
            if !run.is_alive(&other) {
                run.forget(&other);
            }
        }
        Ok(removed)
    }
}

async fn watch_for_the_end(
    engine: Arc<dyn Engine>,
    id: String,
    ending: watch::Sender<Option<Ending>>,
) {
    let end = match engine.wait(&id).await {
        Ok(code) => Ending::Exited(code),
        Err(error) => {
            tracing::warn!(container = id, %error, "lost sight of a container");
            Ending::Lost
        }
    };
    ending.send_replace(Some(end));
}

fn cpuinfo_bind(inspection: &Inspection) -> Vec<(PathBuf, String)> {
    inspection.cpuinfo.iter().map(|path| (path.clone(), "/proc/cpuinfo".to_owned())).collect()
}

impl Container {
    pub(super) fn engine(&self) -> &Arc<dyn Engine> {
        &self.engine
    }

    /// How it ended, if it has.
    pub(super) fn ending(&self) -> Option<Ending> {
        *self.ended.borrow()
    }

    /// Waits for its end.
    pub(super) async fn ended(&self) -> Ending {
        let mut ended = self.ended.clone();
        // The sender is gone without a word only when the watching task was aborted.
        match ended.wait_for(Option::is_some).await {
            Ok(ending) => ending.unwrap_or(Ending::Lost),
            Err(_) => Ending::Lost,
        }
    }

    /// Whether its end was somebody else's doing: neither its process 1's own nor the gateway's.
    pub(super) async fn died(&self) -> bool {
        match self.ended().await {
            Ending::Lost => true,
            // Process 1 of this mode ends by itself only with the gateway's stream.
            Ending::Exited(_) if self.mode == Mode::Kept => true,
            Ending::Exited(code) if code > 128 && !self.signalled.load(Ordering::Relaxed) => {
                self.engine.was_killed(&self.id).await.unwrap_or(true)
            }
            Ending::Exited(_) => false,
        }
    }

    /// What to tell a user whose session ended with the container.
    pub(super) async fn cause_of_death(&self) -> String {
        match self.ending() {
            None => "the container engine lost its program".to_owned(),
            Some(Ending::Lost) => "the container engine does not answer, or removed it".to_owned(),
            Some(Ending::Exited(code)) if self.died().await => {
                format!("it was ended from outside, with code {code}")
            }
            Some(Ending::Exited(_)) => match self.mode {
                Mode::Os => "its operating system shut down".to_owned(),
                Mode::ShellIsFirst | Mode::Kept => "its first shell has ended".to_owned(),
            },
        }
    }

    /// Sends a signal to process 1.
    pub(super) async fn signal(&self, name: &str) -> Result<(), EngineError> {
        self.signalled.store(true, Ordering::Relaxed);
        self.engine.kill(&self.id, name).await
    }

    /// Whether its user changed any file.
    pub(super) async fn is_changed(&self) -> Result<bool, EngineError> {
        let mount_points: &[&str] = match self.mode {
            Mode::Os => &["/run", "/tmp"],
            Mode::ShellIsFirst | Mode::Kept => &[],
        };
        let changes = self.engine.diff(&self.id).await?;
        Ok(changes::user_changed_something(&changes, mount_points))
    }

    /// Ends all programs in it, gently where there is an operating system. What did not go as it
    /// should is returned, in words for the user.
    pub(super) async fn come_to_rest(&self) -> Option<String> {
        if self.ending().is_some() {
            return None;
        }
        self.signalled.store(true, Ordering::Relaxed);
        if self.mode != Mode::Os {
            self.kill().await;
            return None;
        }
        let shut_down = timeout(SHUTDOWN, async {
            self.run_shutdown().await?;
            self.ended().await;
            Ok::<_, EngineError>(())
        })
        .await;
        let problem = match shut_down {
            Ok(Ok(())) => return None,
            Ok(Err(error)) => format!("{OS_SHUTDOWN} could not be run ({error})"),
            Err(_) => {
                format!("the operating system did not shut down within {} s", SHUTDOWN.as_secs())
            }
        };
        match self.engine.stop(&self.id, STOP).await {
            Ok(()) => {}
            Err(error) => {
                tracing::warn!(container = self.id, %error, "container does not stop");
                self.kill().await;
            }
        }
        Some(format!("Warning: {problem}; it was stopped instead."))
    }

    async fn run_shutdown(&self) -> Result<(), EngineError> {
        let spec = ExecSpec {
            argv: vec![OS_SHUTDOWN.to_owned()],
            working_dir: "/".to_owned(),
            ..ExecSpec::default()
        };
        let exec = self.engine.create_exec(&self.id, &spec).await?;
        let mut streams = self.engine.start_exec(&exec, false).await?;
        while streams.output.next().await.is_some() {}
        if let Ok(ProcessState::Exited(code)) = self.engine.exec_state(&exec).await
            && code != 0
        {
            // It may well be ended by the very shutdown that it asked for.
            tracing::debug!(container = self.id, code, "shutdown script");
        }
        Ok(())
    }

    async fn kill(&self) {
        let killed = timeout(KILL, async {
            self.engine.kill(&self.id, "KILL").await?;
            self.ended().await;
            Ok::<_, EngineError>(())
        })
        .await;
        match killed {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                // It may have ended by itself in the meantime.
                tracing::debug!(container = self.id, %error, "container was not killed");
            }
            Err(_) => tracing::warn!(container = self.id, "container does not die"),
        }
    }

    /// Keeps it from being removed; `None` when that has happened already.
    pub(super) async fn hold(&self) -> Option<Held> {
        let slot = Arc::clone(&self.slot).lock_owned().await;
        slot.is_some().then_some(Held(slot))
    }

    /// Makes an image of it.
    pub(super) async fn commit(&self, reference: &str, held: Held) -> Result<String, EngineError> {
        let committed = self.engine.commit(&self.id, &self.base.id, reference).await;
        drop(held.0);
        committed
    }

    /// Removes it, once a save that is under way is done. Idempotent.
    pub(super) async fn remove(&self) {
        let Ok(mut slot) = timeout(SAVE, self.slot.lock()).await else {
            tracing::error!(container = self.id, "a save takes too long, container is left");
            return;
        };
        let Some(taken) = slot.take() else {
            return;
        };
        self.signalled.store(true, Ordering::Relaxed);
        for task in &self.tasks {
            task.abort();
        }
        if let Err(error) = self.engine.remove(&self.id).await {
            // Its label gets it reaped at the next start.
            tracing::error!(container = self.id, %error, "container is left behind");
        }
        drop(taken);
    }
}
