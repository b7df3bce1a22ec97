//! Which control groups containers can have on this machine: cgroups(7) v1, v2, or the hybrid of
//! both.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::fs::{Access, access, statfs};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use rustix::process::{Pid, Signal, kill_process};

use crate::backend::image::engine::{Lack, Limit};

const ROOT: &str = "/sys/fs/cgroup";
/// All containers of all gateways are below this one.
const PARENT: &str = "waltgate";
/// statfs(2)
const CGROUP2_SUPER_MAGIC: i64 = 0x6367_7270;
/// What limits need; of v1 also the end of a container.
const NEEDED: [&str; 2] = ["memory", "pids"];
const DEVICES: &str = "devices";
/// The controllers of v2 that are not in use by v1.
const CONTROLLERS: &str = "cgroup.controllers";
/// The controller of both versions, and the file of v1 that there is with bandwidth control only.
const PROCESSORS: &str = "cpu";
const QUOTA: &str = "cpu.cfs_quota_us";
/// Only the freezer of v1 has it.
const FREEZER: &str = "freezer.state";
/// What systemd keeps its own groups in, under v1 and under the hybrid.
const WITHOUT_LIMITS: [&str; 2] = ["systemd", "unified"];
/// For killed processes to leave a control group, and how often that is looked at.
const EMPTY: Duration = Duration::from_secs(5);
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// What there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// None that can be written.
    Absent,
    /// A hierarchy for each controller, with or without the one for devices.
    V1 { devices: bool },
    /// One hierarchy, with or without the controllers for limits: those may be in use by v1.
    V2 { limits: bool },
}

/// The control groups of this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cgroups(Kind);

impl Cgroups {
    /// Looks. Changes nothing.
    pub(super) fn of_this_machine() -> Self {
        let root = Path::new(ROOT);
        let is_writable = |path: &Path| path.is_dir() && access(path, Access::WRITE_OK).is_ok();
        let Ok(found) = statfs(root) else {
            return Self(Kind::Absent);
        };
        #[allow(clippy::unnecessary_cast, reason = "its type depends on the architecture")]
        let is_unified = found.f_type as i64 == CGROUP2_SUPER_MAGIC;
        if is_unified {
            if !is_writable(root) {
                return Self(Kind::Absent);
            }
            return Self(Kind::V2 { limits: NEEDED.iter().all(|name| has_controller(name)) });
        }
        if !NEEDED.iter().all(|name| is_writable(&root.join(name))) {
            return Self(Kind::Absent);
        }
        Self(Kind::V1 { devices: is_writable(&root.join(DEVICES)) })
    }

    /// Whether limits of memory and processes can be set.
    pub(super) fn can_limit(self) -> bool {
        matches!(self.0, Kind::V1 { .. } | Kind::V2 { limits: true })
    }

    /// Whether containers have some.
    pub(super) fn are_usable(self) -> bool {
        self.0 != Kind::Absent
    }

    /// Which limits they cannot enforce, and why.
    pub(super) fn lack(self) -> Option<Lack> {
        if !self.are_usable() {
            let limits = vec![Limit::Memory, Limit::Processes, Limit::Processors];
            return Some(Lack::Limits { limits, reason: "the control groups cannot be written" });
        }
        let (mut limits, mut reason) = (vec![], "the control groups have no controllers for them");
        if !self.can_limit() {
            limits.extend([Limit::Memory, Limit::Processes]);
        }
        if !self.limit_processors() {
            if limits.is_empty() {
                reason = "the control groups of this machine have no bandwidth control";
            }
            limits.push(Limit::Processors);
        }
        (!limits.is_empty()).then_some(Lack::Limits { limits, reason })
    }

    /// Whether they limit the share of the processors.
    pub(super) fn limit_processors(self) -> bool {
        match self.0 {
            Kind::Absent => false,
            Kind::V1 { .. } => {
                access(Path::new(ROOT).join(PROCESSORS).join(QUOTA), Access::WRITE_OK).is_ok()
            }
            // Groups have `cpu.max`, their root has not; that bandwidth control was compiled in is
            // taken for granted.
            Kind::V2 { .. } => has_controller(PROCESSORS),
        }
    }

    /// Whether they say which devices a container may open. Those of v2 need a BPF program for
    /// that, which libcontainer loads with a C library only.
    pub(super) fn guard_devices(self) -> bool {
        self.0 == Kind::V1 { devices: true }
    }

    /// What a container may only read, so that it cannot change its own limits. An init writes to
    /// the hierarchies that have none.
    pub(super) fn read_only_in(self, has_an_init: bool) -> Vec<PathBuf> {
        let Kind::V1 { .. } = self.0 else {
            // The one hierarchy is mounted as it was asked for.
            return Vec::new();
        };
        let hierarchies = fs::read_dir(ROOT).into_iter().flatten().filter_map(Result::ok);
        let is_the_inits =
            |path: &Path| has_an_init && WITHOUT_LIMITS.iter().any(|name| path.ends_with(name));
        hierarchies
            .map(|hierarchy| hierarchy.path())
            .filter(|path| path.is_dir() && !is_the_inits(path))
            .collect()
    }

    /// The path of a container's, from the root of each hierarchy.
    pub(super) fn path_of(self, id: &str) -> PathBuf {
        Path::new("/").join(PARENT).join(id)
    }

    /// Takes them out of sight where they cannot be used, so that libcontainer does without. Only
    /// for a mount namespace of one's own.
    pub(super) fn hide_if_useless(self) -> io::Result<()> {
        if self.are_usable() || !Path::new(ROOT).is_dir() {
            return Ok(());
        }
        match unmount(ROOT, UnmountFlags::DETACH) {
            // It was none.
            Ok(()) | Err(rustix::io::Errno::INVAL) => {}
            Err(error) => return Err(error.into()),
        }
        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        Ok(mount("tmpfs", ROOT, "tmpfs", flags, c"mode=755,size=4k")?)
    }

    /// Kills what is left in a container's.
    pub(super) fn kill(self, id: &str) -> io::Result<()> {
        self.directories(id)?.iter().try_for_each(|directory| kill_in(directory).map(drop))
    }

    /// Kills what is left in a container's, and removes it. Of a container whose supervisor lives
    /// nothing must be removed.
    pub(super) fn remove(self, id: &str) -> io::Result<()> {
        let deadline = Instant::now() + EMPTY;
        for directory in self.directories(id)? {
            remove_tree(&directory, deadline)?;
        }
        Ok(())
    }

    fn directories(self, id: &str) -> io::Result<Vec<PathBuf>> {
        let own = Path::new(PARENT).join(id);
        let candidates = match self.0 {
            Kind::Absent => vec![],
            Kind::V2 { .. } => vec![Path::new(ROOT).join(own)],
            Kind::V1 { .. } => fs::read_dir(ROOT)?
                .map(|entry| Ok(entry?.path().join(&own)))
                .collect::<io::Result<_>>()?,
        };
        Ok(candidates.into_iter().filter(|path| path.is_dir()).collect())
    }
}

/// Whether the one hierarchy of v2 has a controller, cgroups(7).
fn has_controller(wanted: &str) -> bool {
    fs::read_to_string(Path::new(ROOT).join(CONTROLLERS))
        .is_ok_and(|names| names.split_whitespace().any(|name| name == wanted))
}

/// Removes a control group with those in it: an init makes some.
fn remove_tree(directory: &Path, deadline: Instant) -> io::Result<()> {
    let failed = |error: io::Error| {
        io::Error::new(error.kind(), format!("control group {}: {error}", directory.display()))
    };
    loop {
        let left = match kill_in(directory) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            left => left.map_err(failed)?,
        };
        // One of the processes may have made another since the last look.
        for inner in fs::read_dir(directory).map_err(failed)? {
            let inner = inner.map_err(failed)?;
            if inner.file_type().map_err(failed)?.is_dir() {
                remove_tree(&inner.path(), deadline)?;
            }
        }
        match fs::remove_dir(directory) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            // A process that was killed is in it a moment longer, and v1 tells nobody when it
            // is gone.
            Err(error) if error.kind() == ErrorKind::ResourceBusy && Instant::now() < deadline => {
                sleep(LOOK_AGAIN);
            }
            Err(error) => {
                let left: Vec<_> = left.iter().map(|process| process.as_raw_pid()).collect();
                return Err(failed(io::Error::new(
                    error.kind(),
                    format!("{error}, with processes {left:?}"),
                )));
            }
            Ok(()) => return Ok(()),
        }
    }
}

/// Kills the processes in a control group, and tells which.
fn kill_in(directory: &Path) -> io::Result<Vec<Pid>> {
    // Frozen processes do not die.
    match File::options().write(true).open(directory.join(FREEZER)) {
        Ok(mut freezer) => freezer.write_all(b"THAWED")?,
        // Of another hierarchy. To ask for it to be created would be refused.
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let listed = fs::read_to_string(directory.join("cgroup.procs"))?;
    let processes: Vec<_> =
        listed.lines().filter_map(|line| line.parse().ok().and_then(Pid::from_raw)).collect();
    for process in &processes {
        match kill_process(*process, Signal::KILL) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(processes)
}
