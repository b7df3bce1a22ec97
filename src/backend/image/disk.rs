//! What a container may write to disk.
//!
//! Few engines can bound it, so it is measured, by walking through the container's own files. That
//! takes its time where there are many, so it is done no more often than what it costs allows, and
//! early when the whole file system has filled by as much as would matter.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use super::engine::usage::bytes_below;
use super::engine::{Engine, EngineError};
use crate::backend::{Output, OutputEvent, size};
use crate::sftp::Room;

/// Between two looks at how full the file system is.
const LOOK: Duration = Duration::from_secs(1);
/// Files are measured that often at the least.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// The same where only the engine can measure.
const PAUSE_OF_ENGINES: Duration = Duration::from_secs(10);
/// The pause after a measurement is at least so many times what that took; fewer when the limit may
/// have been passed since.
const REST: u32 = 20;
const SHORT_REST: u32 = 4;
/// What uploads leave free of the limit, and what a container may write that was over it when it was
/// resumed, so that its user can clean up: one part in so many.
const SLACK: u64 = 64;

/// What one container writes to disk.
pub(super) struct Disk {
    limit: u64,
    /// What is left for files that the gateway itself writes into it.
    room: Arc<Room>,
    /// Past this its programs are ended. Known when it was first measured.
    end: OnceLock<u64>,
    is_over: AtomicBool,
    warning: watch::Sender<Option<String>>,
}

impl Disk {
    /// Of a container that may write `limit` bytes.
    pub(super) fn new(limit: u64) -> Self {
        Self {
            limit,
            room: Arc::new(Room::new(limit - limit / SLACK)),
            end: OnceLock::new(),
            is_over: AtomicBool::new(false),
            warning: watch::Sender::new(None),
        }
    }

    /// What is left for files that the gateway itself writes into the container.
    pub(super) fn room(&self) -> Arc<Room> {
        Arc::clone(&self.room)
    }

    /// Whether the programs were ended because there was too much.
    pub(super) fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }

    /// Why they were, in words.
    pub(super) fn reason(&self) -> String {
        format!("it wrote more than {} to disk, so its programs were ended", size(self.limit))
    }

    /// The output of a session in the container, with warnings among it.
    pub(super) fn warn_in(&self, output: Box<dyn Output>) -> Box<dyn Output> {
        let mut warning = self.warning.subscribe();
        // One that was given before counts too.
        warning.mark_changed();
        Box::new(WarnedOutput { output, warning })
    }

    /// Measures until the container is gone, and ends its programs when they have written too much.
    pub(super) async fn watch(self: Arc<Self>, engine: Arc<dyn Engine>, container: String) {
        let mut is_failing = false;
        loop {
            match self.watch_until_it_fails(engine.as_ref(), &container).await {
                Ok(()) => return,
                Err(error) if error.is_not_found() => return,
                Err(error) if is_failing => {
                    tracing::debug!(container, %error, "disk use is still not known");
                }
                Err(error) => {
                    tracing::warn!(container, %error, "disk use is not known");
                    is_failing = true;
                }
            }
            sleep(LONGEST_PAUSE).await;
        }
    }

    async fn watch_until_it_fails(
        &self,
        engine: &dyn Engine,
        container: &str,
    ) -> Result<(), EngineError> {
        let upper = engine.upper_directory(container).await?;
        loop {
            let begun = Instant::now();
            let filled = match &upper {
                Some(upper) => filled(upper.clone()).await,
                None => None,
            };
            let used = match &upper {
                Some(upper) => self.walk(container, upper.clone()).await?,
                None => engine.written_bytes(container).await?,
            };
            let measured = Measured { at: Instant::now(), took: begun.elapsed(), used, filled };
            self.room.set_used(used);
            if self.judge(used) {
                tracing::warn!(container, used, limit = self.limit, "too much was written to disk");
                self.is_over.store(true, Ordering::Relaxed);
                return engine.kill(container, "KILL").await;
            }
            self.pause(&measured, upper.as_deref()).await;
        }
    }

    async fn walk(&self, container: &str, upper: PathBuf) -> Result<u64, EngineError> {
        let refused = |reason: String| EngineError::Refused {
            operation: "measuring container",
            object: container.to_owned(),
            reason,
        };
        // Past the end it does not matter how much it is. This also ends the walk when nobody waits
        // for it any more.
        let end = self.end.get().copied();
        let wanted = self.room();
        let walk = tokio::task::spawn_blocking(move || {
            bytes_below(&upper, |so_far| {
                end.is_none_or(|end| so_far <= end) && Arc::strong_count(&wanted) > 1
            })
        });
        match walk.await.map_err(|error| refused(error.to_string()))? {
            Ok(bytes) => Ok(bytes),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let (operation, object) = ("measuring container", container.to_owned());
                Err(EngineError::NotFound { operation, object })
            }
            Err(error) => Err(refused(error.to_string())),
        }
    }

    /// Warns, or takes a warning back. Whether it is too much.
    fn judge(&self, used: u64) -> bool {
        let end = *self.end.get_or_init(|| {
            if used < self.limit { self.limit } else { used.saturating_add(self.limit / SLACK) }
        });
        if used > end {
            return true;
        }
        self.warning.send_if_modified(|warning| {
            let is_much = used >= self.much();
            let changes = is_much != warning.is_some();
            if changes {
                *warning = is_much.then(|| self.warn(used, end));
            }
            changes
        });
        false
    }

    /// Enough to warn.
    fn much(&self) -> u64 {
        self.limit / 5 * 4
    }

    fn warn(&self, used: u64, end: u64) -> String {
        format!(
            "{} of {} on disk are used; past that, all programs are ended",
            size(used),
            size(end)
        )
    }

    /// Waits until it is time to measure again.
    async fn pause(&self, last: &Measured, upper: Option<&Path>) {
        // Who was refused a file may make room and try again.
        let refused = timeout(LOOK.max(last.took * SHORT_REST), self.room.refused());
        if refused.await.is_ok() {
            return sleep(LOOK.max(last.took * SHORT_REST)).await;
        }
        loop {
            let filled = match upper {
                Some(upper) => filled(upper.to_owned()).await,
                None => None,
            };
            if self.is_due(last, last.at.elapsed(), filled) {
                return;
            }
            sleep(LOOK).await;
        }
    }

    /// Whether to measure again, so long after the last time, with so much in the file system.
    fn is_due(&self, last: &Measured, since: Duration, filled: Option<u64>) -> bool {
        let end = self.end.get().copied().unwrap_or(self.limit);
        let (Some(before), Some(now)) = (last.filled, filled) else {
            return since >= PAUSE_OF_ENGINES.max(last.took * REST);
        };
        let grown = now.saturating_sub(before);
        if grown > end.saturating_sub(last.used) {
            return since >= last.took * SHORT_REST;
        }
        let is_near = last.used >= self.much();
        let room = self.much().saturating_sub(last.used);
        let may_matter = is_near || grown >= room / 4;
        since >= last.took * REST && (may_matter || since >= LONGEST_PAUSE)
    }
}

/// What a measurement found.
struct Measured {
    at: Instant,
    took: Duration,
    used: u64,
    /// Bytes in the whole file system; `None`: not known.
    filled: Option<u64>,
}

/// How many bytes of a file system are in use.
async fn filled(directory: PathBuf) -> Option<u64> {
    let asking = tokio::task::spawn_blocking(move || {
        let told = rustix::fs::statvfs(&directory).ok()?;
        Some(told.f_blocks.saturating_sub(told.f_bfree).saturating_mul(told.f_frsize))
    });
    asking.await.ok()?
}

struct WarnedOutput {
    output: Box<dyn Output>,
    warning: watch::Receiver<Option<String>>,
}

#[async_trait]
impl Output for WarnedOutput {
    async fn next(&mut self) -> Option<OutputEvent> {
        loop {
            tokio::select! {
                event = self.output.next() => return event,
                // An error: the container is gone, and the end of the output comes.
                Ok(()) = self.warning.changed() => {
                    let warning = self.warning.borrow_and_update().clone();
                    if let Some(warning) = warning {
                        return Some(OutputEvent::Notice(warning));
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: u64 = 1000;

    fn second(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_warning_is_given_once_and_again_after_room_was_made() {
        let disk = Disk::new(LIMIT);
        let mut warning = disk.warning.subscribe();
        let mut heard = |used| {
            assert!(!disk.judge(used));
            let is_new = warning.has_changed().unwrap();
            is_new && warning.borrow_and_update().is_some()
        };
        assert_eq!([799, 800, 1000].map(&mut heard), [false, true, false]);
        assert_eq!([100, 900].map(&mut heard), [false, true]);
        assert!(disk.judge(1001));
    }

    #[test]
    fn what_was_over_the_limit_can_be_resumed_to_make_room() {
        let disk = Disk::new(LIMIT);
        assert!(!disk.judge(1500));
        assert!(!disk.judge(1515));
        assert!(disk.judge(1516));
    }

    #[test]
    fn measuring_costs_little_and_comes_early_when_it_may_matter() {
        let disk = Disk::new(LIMIT);
        let last =
            |used| Measured { at: Instant::now(), took: second(1), used, filled: Some(5000) };
        let due = |used, since, filled| disk.is_due(&last(used), second(since), Some(filled));
        assert!(!due(0, 59, 5000), "nothing happens");
        assert!(due(0, 60, 5000));
        assert!(due(0, 20, 5200), "a quarter of what is left until the warning");
        assert!(!due(0, 19, 5200), "a twentieth of the time at most");
        assert!(due(0, 4, 6001), "it may all be the container's");
        assert!(!due(0, 3, 6001));
        assert!(due(900, 20, 4000), "near the limit");
        assert!(disk.is_due(&Measured { filled: None, ..last(0) }, second(20), None));
        assert!(!disk.is_due(&Measured { filled: None, ..last(0) }, second(19), None));
    }
}
