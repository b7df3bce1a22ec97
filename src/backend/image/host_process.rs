//! The processes of containers, as this host sees them.

use std::path::{Path, PathBuf};

use super::container::Container;
use super::engine::{EngineError, ProcessState};

/// Why a container's process 1 cannot be reached from here.
#[derive(Debug, thiserror::Error)]
pub(super) enum OutOfReach {
    /// The engine does not tell.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// What is wrong with it, in words.
    #[error("{0}")]
    Because(String),
}

/// Opens something of process 1 of a container that runs, given its directory in /proc of this host.
pub(super) async fn open_of_first<T: Send + 'static>(
    container: &Container,
    open: impl FnOnce(&Path) -> Result<T, String> + Send + 'static,
) -> Result<T, OutOfReach> {
    let because = |reason: &str| OutOfReach::Because(reason.to_owned());
    let engine_pid = match container.engine().state(&container.id).await? {
        ProcessState::Running { host_pid: Some(pid) } => pid,
        ProcessState::Running { host_pid: None } => {
            return Err(because("the engine tells no process number"));
        }
        ProcessState::Exited(_) => return Err(because("it does not run")),
    };
    let id = container.id.clone();
    let opening = tokio::task::spawn_blocking(move || {
        let pid =
            seen_from_here(engine_pid, &id).ok_or("its processes are not seen on this host")?;
        let opened = open(&PathBuf::from(format!("/proc/{pid}")))?;
        // The number might have become another process's meanwhile.
        if is_in_container(pid, &id) { Ok(opened) } else { Err("it ended".to_owned()) }
    });
    match opening.await {
        Ok(opened) => opened.map_err(OutOfReach::Because),
        Err(error) => Err(OutOfReach::Because(error.to_string())),
    }
}

/// The number that a process of a container has here, given the one that its engine sees: another
/// if the engine runs in a process namespace of its own (pid_namespaces(7)). Blocks on /proc.
pub(super) fn seen_from_here(engine_pid: i32, container: &str) -> Option<i32> {
    if is_in_container(engine_pid, container) {
        return Some(engine_pid);
    }
    let processes = std::fs::read_dir("/proc").ok()?;
    processes
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .find(|&pid| has_number(pid, engine_pid) && is_in_container(pid, container))
}

/// Whether a process has `number` in one of the namespaces below ours: NSpid of proc(5).
fn has_number(pid: i32, number: i32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/status")).is_ok_and(|status| {
        status
            .lines()
            .filter_map(|line| line.strip_prefix("NSpid:"))
            .flat_map(str::split_whitespace)
            .any(|field| field.parse() == Ok(number))
    })
}

/// Whether the process of this number, as seen here, is one of the container's.
pub(super) fn is_in_container(pid: i32, container: &str) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/cgroup"))
        .is_ok_and(|cgroups| cgroups.contains(container))
}
