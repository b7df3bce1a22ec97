//! The life of a container: brought to rest, saved, removed.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::{Mutex, OwnedMutexGuard, watch};
use tokio::task::AbortHandle;
use tokio::time::timeout;

use super::disk::Disk;
use super::engine::{Engine, EngineError, ExecSpec, ProcessState};
use super::inspection::{Inspection, OS_SHUTDOWN};
use super::naming::SaveTarget;
use super::ownership::Claim;
use super::slots::AccountSlot;
use super::{boot, changes};
use crate::backend::BackendSession;
use crate::names::AccountName;

/// For the engine to tell of an end that it knows of.
const TOLD: Duration = Duration::from_secs(5);
/// For an operating system to shut down by itself.
const SHUTDOWN: Duration = Duration::from_secs(30);
/// For it to do so when told by signal instead.
const STOP: Duration = Duration::from_secs(10);
/// For a killed container to be seen as ended.
const KILL: Duration = Duration::from_secs(10);
/// How long a save that is under way is waited for before its container is removed anyway.
const SAVE: Duration = Duration::from_secs(600);

/// As many digits of an identifier as the engines' own tools show.
const SHORT_ID: usize = 12;

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

impl Mode {
    /// What a label says of it.
    pub(super) fn label(self) -> &'static str {
        match self {
            Self::ShellIsFirst => "shell",
            Self::Kept => "commands",
            Self::Os => "os",
        }
    }

    /// The one that a label tells of.
    pub(super) fn labelled(label: &str) -> Option<Self> {
        [Self::ShellIsFirst, Self::Kept, Self::Os].into_iter().find(|mode| mode.label() == label)
    }
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

/// A container of a session. [`Container::remove`] it, or [`Container::leave`] it behind; dropping
/// it leaves it running.
pub(super) struct Container {
    pub(super) engine: Arc<dyn Engine>,
    pub(super) id: String,
    pub(super) name: String,
    pub(super) mode: Mode,
    pub(super) base: BaseImage,
    /// Whose it is.
    pub(super) account: AccountName,
    /// Where a save goes that is given no other name.
    pub(super) same: SaveTarget,
    pub(super) inspection: Arc<Inspection>,
    pub(super) shell: &'static str,
    pub(super) ended: watch::Receiver<Option<Ending>>,
    pub(super) tasks: Vec<AbortHandle>,
    /// The gateway itself sent a signal to process 1.
    pub(super) signalled: AtomicBool,
    /// What it writes to disk, if that is limited.
    pub(super) disk: Option<Arc<Disk>>,
    /// What the boot of its operating system wrote, once that is known.
    pub(super) boot: OnceLock<boot::Record>,
    /// Held while it is saved or removed; empty once it is removed or left behind.
    pub(super) tenure: Arc<Mutex<Option<Tenure>>>,
}

/// What the user of a container has besides it.
pub(super) struct Tenure {
    /// That no other process takes it for left behind.
    pub(super) claim: Claim,
    /// Its place among the account's containers; one that only rests needs none.
    pub(super) slot: Option<AccountSlot>,
}

/// Keeps a container from being removed.
pub(super) struct Held {
    _tenure: OwnedMutexGuard<Option<Tenure>>,
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

    /// Whether it has ended or is about to be told as ended. An engine refuses to run anything in it
    /// before it tells so: Podman calls it neither running nor exited meanwhile.
    pub(super) async fn has_ended(&self) -> bool {
        timeout(TOLD, self.ended()).await.is_ok()
    }

    /// Whether its end was somebody else's doing: neither its process 1's own nor the gateway's.
    pub(super) async fn died(&self) -> bool {
        match self.ended().await {
            _ if self.wrote_too_much().is_some() => true,
            Ending::Lost => true,
            // Process 1 of this mode ends by itself only with the gateway's stream.
            Ending::Exited(_) if self.mode == Mode::Kept => true,
            Ending::Exited(code) if code > 128 && !self.signalled.load(Ordering::Relaxed) => {
                self.engine.was_killed(&self.id).await.unwrap_or(true)
            }
            Ending::Exited(_) => false,
        }
    }

    /// Its limit on disk, if its programs were ended because of that.
    pub(super) fn wrote_too_much(&self) -> Option<&Disk> {
        self.disk.as_deref().filter(|disk| disk.is_over())
    }

    /// A session in it, which is warned of what concerns all of them.
    pub(super) fn warned(&self, session: BackendSession) -> BackendSession {
        match &self.disk {
            Some(disk) => BackendSession { output: disk.warn_in(session.output), ..session },
            None => session,
        }
    }

    /// The status of an operating system that ended by itself.
    pub(super) async fn failed_boot(&self) -> Option<u32> {
        match self.ending() {
            Some(Ending::Exited(code)) if self.mode == Mode::Os && !self.died().await => Some(code),
            _ => None,
        }
    }

    /// What to tell a user whose session ended with the container.
    pub(super) async fn cause_of_death(&self) -> String {
        if let Some(disk) = self.wrote_too_much() {
            return disk.reason();
        }
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
        let of_the_boot = self.written_by_the_boot().await?;
        Ok(changes::user_changed_something(&changes, mount_points, &of_the_boot)
            || self.has_altered_directories().await?)
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

    /// Its identifier as users see and type it.
    pub(super) fn short_id(&self) -> &str {
        self.id.get(..SHORT_ID).unwrap_or(&self.id)
    }

    /// Keeps it from being removed; `None` when that has happened already.
    pub(super) async fn hold(&self) -> Option<Held> {
        let tenure = Arc::clone(&self.tenure).lock_owned().await;
        tenure.is_some().then_some(Held { _tenure: tenure })
    }

    /// Makes an image without a name of it. What a boot wrote is taken out of it first.
    pub(super) async fn commit(&self, _held: &Held) -> Result<String, EngineError> {
        let of_the_boot = self.written_by_the_boot().await?;
        // Underneath a running container nothing may be changed.
        if !of_the_boot.is_empty() && self.ending().is_some() {
            self.engine.restore(&self.id, of_the_boot.into_iter().collect()).await?;
        }
        self.engine.commit(&self.id).await
    }

    /// Removes it, once a save that is under way is done. Idempotent.
    pub(super) async fn remove(&self) {
        let Some(Tenure { claim, slot }) = self.end_tenure().await else {
            return;
        };
        match self.engine.remove(&self.id).await {
            Ok(()) => claim.settle(),
            // Its label gets it looked at again.
            Err(error) => {
                tracing::error!(container = self.id, %error, "container is left behind");
            }
        }
        drop(slot);
    }

    /// Leaves it to be found again, stopped, with its files. Idempotent.
    pub(super) async fn leave(&self) {
        drop(self.end_tenure().await);
    }

    async fn end_tenure(&self) -> Option<Tenure> {
        let Ok(mut tenure) = timeout(SAVE, self.tenure.lock()).await else {
            tracing::error!(container = self.id, "a save takes too long, container is left");
            return None;
        };
        let taken = tenure.take()?;
        self.signalled.store(true, Ordering::Relaxed);
        for task in &self.tasks {
            task.abort();
        }
        Some(taken)
    }
}
