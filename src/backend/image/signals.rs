//! Signals to the programs of containers, sent from here: engines signal process 1 only.

use rustix::process::{Pid, Signal, kill_process_group};

/// Signals the process group of a container's program, if it can be seen. `engine_pid` is the
/// number that the engine has for it. Blocks on /proc.
pub(super) fn send_to_group(engine_pid: Option<i32>, container: &str, signal: Signal) {
    let pid = engine_pid.and_then(|pid| seen_from_here(pid, container));
    let Some(pid) = pid.and_then(Pid::from_raw) else {
        tracing::debug!("the program of a session cannot be seen, so it gets no signal");
        return;
    };
    if let Err(error) = kill_process_group(pid, signal) {
        tracing::debug!(%error, "signal to a program");
    }
}

/// The number that a process of a container has here, given the one that its engine sees: another
/// if the engine runs in a process namespace of its own (pid_namespaces(7)). Blocks on /proc.
fn seen_from_here(engine_pid: i32, container: &str) -> Option<i32> {
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
fn is_in_container(pid: i32, container: &str) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/cgroup"))
        .is_ok_and(|cgroups| cgroups.contains(container))
}

/// The signals of RFC 4254 section 6.10.
pub(super) fn named(name: &str) -> Option<Signal> {
    Some(match name {
        "ABRT" => Signal::ABORT,
        "ALRM" => Signal::ALARM,
        "FPE" => Signal::FPE,
        "HUP" => Signal::HUP,
        "ILL" => Signal::ILL,
        "INT" => Signal::INT,
        "KILL" => Signal::KILL,
        "PIPE" => Signal::PIPE,
        "QUIT" => Signal::QUIT,
        "SEGV" => Signal::SEGV,
        "TERM" => Signal::TERM,
        "USR1" => Signal::USR1,
        "USR2" => Signal::USR2,
        _ => return None,
    })
}
