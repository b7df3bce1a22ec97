//! What the boot of an operating system wrote: nobody's work, and not to be saved.
//!
//! When it has booted, and before its user can do anything, what it wrote is noted, also in the
//! container's claim, for another run of the gateway. What is still the same at the end was not
//! touched by the user and is no change. Anything else is, but for a few files that say nothing
//! but that and when the system ran.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use tokio::time::{interval, timeout};

use super::container::{Container, Mode};
use super::engine::{Change, ChangeKind, EngineError, ExecSpec, OutputChunk, WrittenFile};
use super::host_process;
use super::ownership::Claim;

/// For systemd to start all services.
const BOOT: Duration = Duration::from_secs(30);
/// For an init that does not tell when it has done so.
const QUIET_BOOT: Duration = Duration::from_secs(5);
/// Such an init is taken to be done when it writes nothing for so many looks in a row.
const LOOK: Duration = Duration::from_millis(100);
const QUIET_LOOKS: usize = 4;

/// Names of process 1 before it is the init: of WalT's script, cut off by the kernel (proc(5)),
/// and of the shell that runs it.
const BEFORE_INIT: [&str; 2] = ["walt-image-shel", "sh"];
const SYSTEMD: &str = "systemd";
/// What systemctl(1) says of a system that has booted.
const BOOTED: [&str; 3] = ["running", "degraded", "maintenance"];

/// Files and directories that systems write when they start, run and halt, whatever is done in
/// them: when that was, who was logged in, and random numbers for the next boot. A star stands for
/// any part of a name.
const OF_A_RUN: [&str; 16] = [
    "/var/log/journal",
    "/var/log/journal/*",
    "/var/log/journal/*/*.journal",
    "/var/log/journal/*/*.journal~",
    "/var/log/wtmp",
    "/var/log/wtmp.db",
    "/var/run/utmp",
    "/var/lib/systemd/random-seed",
    "/var/lib/systemd/timers",
    "/var/lib/systemd/timers/stamp-*",
    "/var/lib/systemd/timesync",
    "/var/lib/systemd/timesync/clock",
    "/var/lib/urandom/random-seed",
    "/var/lib/seedrng",
    "/var/lib/seedrng/seed.credit",
    "/var/lib/seedrng/seed.no-credit",
];

/// What a boot wrote, by path.
#[derive(Debug)]
pub(super) struct Record(BTreeMap<String, WrittenFile>);

impl Record {
    /// The record that an earlier run noted, if it came to that.
    pub(super) fn noted(claim: &Claim) -> Option<Self> {
        let text = claim.noted().ok().filter(|text| !text.is_empty())?;
        match serde_json::from_slice::<Vec<WrittenFile>>(&text) {
            Ok(files) => Some(Self::of(files)),
            Err(error) => {
                // Everything counts as changed then, and nothing is lost.
                tracing::debug!(%error, "half a record of a boot");
                None
            }
        }
    }

    fn of(files: Vec<WrittenFile>) -> Self {
        Self(files.into_iter().map(|file| (file.path.clone(), file)).collect())
    }

    /// Whether a file was written by the boot, or by the run of the system, and not by the user.
    fn explains(&self, file: &WrittenFile) -> bool {
        self.0.get(&file.path).is_some_and(|then| is_same(then, file))
            || (!is_removal(file)
                && OF_A_RUN.iter().any(|pattern| is_path_like(&file.path, pattern)))
    }
}

/// Whether a path is one of a pattern, in which a star stands for any part of a name.
fn is_path_like(path: &str, pattern: &str) -> bool {
    let is_name_like = |(name, pattern): (&str, &str)| match pattern.split_once('*') {
        None => name == pattern,
        Some((start, end)) => name
            .strip_prefix(start)
            .and_then(|rest| rest.strip_suffix(end))
            .is_some_and(|rest| !rest.is_empty()),
    };
    path.split('/').count() == pattern.split('/').count()
        && path.split('/').zip(pattern.split('/')).all(is_name_like)
}

/// The times of a directory change with what is in it, which is looked at by itself; those of what
/// is gone change with anything else that goes, since overlayfs has one file for all.
fn is_same(one: &WrittenFile, other: &WrittenFile) -> bool {
    let attributes = |file: &WrittenFile| (file.mode, file.uid, file.gid, file.inode);
    one == other
        || (one.is_directory && attributes(one) == attributes(other))
        || (is_removal(one) && is_removal(other))
}

/// overlayfs notes what is gone as a character device; systems keep none beneath these paths.
fn is_removal(file: &WrittenFile) -> bool {
    const TYPE: u32 = 0o170_000;
    const CHARACTER_DEVICE: u32 = 0o020_000;
    file.mode & TYPE == CHARACTER_DEVICE
}

impl Container {
    /// Waits until the operating system has booted, and notes what that wrote; not what its user
    /// wrote in an earlier session, and nothing if that is not known. Returns whether it is known to
    /// go on starting services.
    pub(super) async fn note_boot(&self, users_own: Option<&HashSet<String>>) -> bool {
        let mut goes_on = false;
        let noted = async {
            goes_on = !self.booted().await?;
            let Some(users_own) = users_own else { return Ok(()) };
            let Some(mut files) = self.engine.written(&self.id).await? else {
                return Ok(());
            };
            files.retain(|file| !users_own.contains(&file.path));
            if let Ok(text) = serde_json::to_vec(&files)
                && let Some(tenure) = &*self.tenure.lock().await
                && let Err(error) = tenure.claim.note(&text)
            {
                tracing::warn!(container = self.id, %error, "record of a boot not written");
            }
            // Set once for each start.
            self.boot.get_or_init(|| Record::of(files));
            Ok::<_, EngineError>(())
        };
        if let Err(error) = noted.await {
            // What the boot wrote counts as changed then.
            tracing::warn!(container = self.id, %error, "what a boot wrote is not known");
        }
        goes_on
    }

    /// Paths that were written by the system and not by its user.
    pub(super) async fn written_by_the_boot(&self) -> Result<HashSet<String>, EngineError> {
        let known = self.written_by_whom().await?;
        Ok(known.map(|(of_the_boot, _)| of_the_boot).unwrap_or_default())
    }

    /// Paths that its user wrote, or might have; `None` if that cannot be told.
    pub(super) async fn written_by_its_user(&self) -> Result<Option<HashSet<String>>, EngineError> {
        Ok(self.written_by_whom().await?.map(|(_, users_own)| users_own))
    }

    /// Paths that were written by the system, and those that its user wrote, or might have.
    async fn written_by_whom(
        &self,
    ) -> Result<Option<(HashSet<String>, HashSet<String>)>, EngineError> {
        let Some(record) = self.boot.get().filter(|_| self.mode == Mode::Os) else {
            return Ok(None);
        };
        let Some(files) = self.engine.written(&self.id).await? else {
            return Ok(None);
        };
        let (of_the_boot, others): (Vec<_>, Vec<_>) =
            files.into_iter().partition(|file| record.explains(file));
        let paths = |files: Vec<WrittenFile>| files.into_iter().map(|file| file.path);
        let mut of_the_boot: HashSet<String> = paths(of_the_boot).collect();
        let mut others: HashSet<String> = paths(others).collect();
        // What a start script puts out of the way, the shutdown script puts back.
        let asked = others.iter().cloned().collect();
        for path in self.engine.as_in_image(&self.id, asked).await?.unwrap_or_default() {
            others.remove(&path);
            of_the_boot.insert(path);
        }
        Ok(Some((of_the_boot, others)))
    }

    /// Whether its user gave one of these directories other attributes than it had in the image or
    /// after the boot. The engine lists them for what else was written in them all the same.
    pub(super) async fn has_altered(&self, directories: &[Change]) -> Result<bool, EngineError> {
        if directories.is_empty() {
            return Ok(false);
        }
        let Some(files) = self.engine.written(&self.id).await? else {
            return Ok(false);
        };
        let booted = self.boot.get().filter(|_| self.mode == Mode::Os);
        let known: BTreeMap<_, _> = files.iter().map(|file| (file.path.as_str(), file)).collect();
        let mut asked = Vec::new();
        for directory in directories {
            // Listed for its attributes only.
            if directory.path == "/" {
                return Ok(true);
            }
            let Some(now) = known.get(directory.path.as_str()) else { continue };
            match booted.and_then(|record| record.0.get(&directory.path)) {
                Some(then) if is_same(then, now) => {}
                Some(then) if then.is_directory => return Ok(true),
                // Where a directory is new, so is what the system wrote in it.
                _ if directory.kind == ChangeKind::Modified => asked.push(directory.path.clone()),
                _ => {}
            }
        }
        let count = asked.len();
        let same = self.engine.as_in_image(&self.id, asked).await?;
        Ok(same.is_some_and(|same| same.len() < count))
    }

    /// Waits, within bounds, until the operating system has booted. Returns false when it says that it
    /// has not yet.
    async fn booted(&self) -> Result<bool, EngineError> {
        let quiet = async {
            let mut looks = interval(LOOK);
            let (mut last, mut same) = (None, 0);
            while same < QUIET_LOOKS && self.ending().is_none() {
                looks.tick().await;
                let name = host_process::open_of_first(self, |process| {
                    std::fs::read_to_string(process.join("comm")).map_err(|error| error.to_string())
                });
                let Ok(name) = name.await else { return Ok(false) };
                if name.trim() == SYSTEMD {
                    return Ok(true);
                }
                let written = self.engine.written(&self.id).await?;
                let is_init = !BEFORE_INIT.contains(&name.trim());
                same = if is_init && last.as_ref() == Some(&written) { same + 1 } else { 0 };
                last = Some(written);
            }
            Ok(false)
        };
        match timeout(QUIET_BOOT, quiet).await {
            Ok(Ok(true)) => {}
            Ok(Ok(false)) | Err(_) => return Ok(true),
            Ok(Err(error)) => return Err(error),
        }
        let started = async {
            let mut attempts = interval(LOOK);
            while self.ending().is_none() {
                // It does not answer before it is ready to.
                attempts.tick().await;
                if self.systemd_has_booted().await? {
                    break;
                }
            }
            Ok(true)
        };
        // Services that take longer are not waited for.
        timeout(BOOT, started).await.unwrap_or(Ok(false))
    }

    async fn systemd_has_booted(&self) -> Result<bool, EngineError> {
        let spec = ExecSpec {
            argv: ["systemctl", "is-system-running", "--wait"].map(str::to_owned).to_vec(),
            working_dir: "/".to_owned(),
            ..ExecSpec::default()
        };
        let exec = self.engine.create_exec(&self.id, &spec).await?;
        let mut streams = self.engine.start_exec(&exec, false).await?;
        let mut said = Vec::new();
        while let Some(chunk) = streams.output.next().await {
            if let OutputChunk::Stdout(data) = chunk {
                said.extend_from_slice(&data);
            }
        }
        let said = String::from_utf8_lossy(&said);
        Ok(BOOTED.contains(&said.trim()))
    }
}
