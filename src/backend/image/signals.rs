//! Signals to the programs of containers, sent from here: engines signal process 1 only.

use rustix::process::{Pid, Signal, kill_process_group};

use super::host_process::seen_from_here;

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
