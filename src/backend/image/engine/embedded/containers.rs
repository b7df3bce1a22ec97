//! All containers that are kept in a directory.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime};

use rustix::fs::{FlockOperation, flock};
use rustix::rand::{GetRandomFlags, getrandom};

use super::cgroups::Cgroups;
use super::record::{self, Directory, Record};
use crate::backend::image::engine::{ContainerSpec, ContainerSummary, ProcessState};

/// For a supervisor to end by itself, and for one whose processes are killed.
const PATIENCE: Duration = Duration::from_secs(5);
const GIVE_UP: Duration = Duration::from_secs(20);
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// What a new container needs.
pub(super) struct NewContainer {
    /// What was asked for.
    pub(super) spec: ContainerSpec,
    /// Unpacked layers of its image, the lowest first.
    pub(super) layers: Vec<PathBuf>,
    /// `NAME=VALUE` of its image.
    pub(super) env: Vec<String>,
}

/// The containers of one engine.
#[derive(Debug, Clone)]
pub(super) struct Containers {
    directory: PathBuf,
    /// Shared by those that make and remove containers, exclusive for who tidies up.
    lock: PathBuf,
    cgroups: Cgroups,
}

impl Containers {
    /// Opens the containers below this directory, told without links, and removes what was interrupted when a gateway
    /// or a supervisor was killed.
    pub(super) fn open(root: &Path) -> io::Result<Self> {
        let directory = root.join("containers");
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&directory)?;
        let lock = root.join("containers.lock");
        let containers = Self { directory, lock, cgroups: Cgroups::of_this_machine() };
        containers.tidy()?;
        Ok(containers)
    }

    fn tidy(&self) -> io::Result<()> {
        let file = self.lock_file()?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            // Another process of the gateway works, and has tidied up before.
            Err(rustix::io::Errno::WOULDBLOCK) => return Ok(()),
            locked => locked?,
        }
        record::tidy(&self.directory)?;
        for id in record::list(&self.directory)? {
            let directory = self.directory(&id)?;
            // Only of those whose supervisor was killed is anything left.
            if directory.try_lock()?.is_some()
                && let Err(error) = self.cgroups.remove(&id)
            {
                tracing::warn!(container = id, %error, "control groups are left behind");
            }
        }
        Ok(())
    }

    fn lock_file(&self) -> io::Result<File> {
        File::options().create(true).append(true).open(&self.lock)
    }

    fn at_work(&self) -> io::Result<File> {
        let file = self.lock_file()?;
        loop {
            match flock(&file, FlockOperation::LockShared) {
                Err(rustix::io::Errno::INTR) => {}
                locked => return Ok(locked.map(|()| file)?),
            }
        }
    }

    /// The directory of a container.
    pub(super) fn directory(&self, id: &str) -> io::Result<Directory> {
        Directory::of(&self.directory, id)
    }

    /// Makes a container.
    pub(super) fn create(&self, new: NewContainer) -> io::Result<String> {
        let NewContainer { spec, layers, env } = new;
        let id = new_id()?;
        let record = Record {
            name: spec.name,
            image_id: spec.image_id,
            layers,
            created: SystemTime::now(),
            labels: spec.labels,
            argv: spec.argv,
            env: env.into_iter().chain(spec.env).collect(),
            working_dir: spec.working_dir,
            hostname: spec.hostname,
            tty: spec.tty,
            stdin: spec.stdin,
            memory: spec.memory,
            pids: spec.pids,
            cpus: spec.cpus,
            network: spec.network,
            read_only_binds: spec.read_only_binds,
            boots_an_os: spec.boots_an_os,
        };
        let _working = self.at_work()?;
        Directory::create(&self.directory, &id, &record)?;
        Ok(id)
    }

    /// How a container stands that this process does not supervise.
    pub(super) fn state(&self, id: &str) -> io::Result<ProcessState> {
        let directory = self.directory(id)?;
        if directory.try_lock()?.is_none() {
            return Ok(ProcessState::Running { host_pid: None });
        }
        Ok(ProcessState::Exited(directory.exit()?.map_or(0, |exit| exit.code)))
    }

    /// Waits for the end of such a container: its gateway is gone, so it comes soon. Blocks.
    pub(super) fn wait(&self, id: &str) -> io::Result<u32> {
        let directory = self.directory(id)?;
        drop(directory.lock()?);
        Ok(directory.exit()?.map_or(0, |exit| exit.code))
    }

    /// Whether a signal was sent to it.
    pub(super) fn was_killed(&self, id: &str) -> io::Result<bool> {
        let directory = self.directory(id)?;
        Ok(directory.was_signalled()? || directory.exit()?.is_some_and(|exit| exit.by_signal))
    }

    /// When it last ended, or else when it was made.
    pub(super) fn last_used(&self, id: &str) -> io::Result<SystemTime> {
        let directory = self.directory(id)?;
        Ok(match directory.exit()? {
            Some(exit) => exit.at,
            None => directory.record()?.created,
        })
    }

    /// Removes a container, after its supervisor has ended. One that does not exist is removed.
    pub(super) fn remove(&self, id: &str) -> io::Result<()> {
        let directory = match self.directory(id) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            directory => directory?,
        };
        let _working = self.at_work()?;
        let _lock = self.lock_ended(&directory, id)?;
        self.cgroups.remove(id)?;
        directory.remove(&self.directory, id)
    }

    /// Takes the lock of a container whose supervisor has been told to end, or was killed. A process
    /// that was left half made has the lock as well, and is killed.
    fn lock_ended(&self, directory: &Directory, id: &str) -> io::Result<File> {
        let begun = Instant::now();
        loop {
            if let Some(lock) = directory.try_lock()? {
                return Ok(lock);
            }
            if begun.elapsed() > PATIENCE {
                self.cgroups.kill(id)?;
            }
            if begun.elapsed() > GIVE_UP {
                return Err(io::Error::new(ErrorKind::TimedOut, "its supervisor does not end"));
            }
            // flock(2) waits without an end.
            sleep(LOOK_AGAIN);
        }
    }

    /// Those that carry a label.
    pub(super) fn labelled(&self, label: &str, value: &str) -> io::Result<Vec<ContainerSummary>> {
        let mut found = Vec::new();
        for id in record::list(&self.directory)? {
            let record = match self.directory(&id).and_then(|directory| directory.record()) {
                // Removed meanwhile.
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                record => record?,
            };
            if record.labels.get(label).is_some_and(|found| found == value) {
                found.push(ContainerSummary {
                    id,
                    name: record.name,
                    image_id: record.image_id,
                    labels: record.labels,
                });
            }
        }
        Ok(found)
    }
}

/// An identifier that nothing else has.
pub(super) fn new_id() -> io::Result<String> {
    let mut bytes = [0; 32];
    let mut filled = 0;
    while filled < bytes.len() {
        filled += getrandom(&mut bytes[filled..], GetRandomFlags::empty())?;
    }
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}
