//! A child process that ends with the value that stands for it.

use std::ffi::OsStr;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, ExitStatus};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};

use super::DEADLINE;

/// A command for `program` that the kernel kills when the calling thread ends, so that an
/// interrupted test run leaves nothing behind.
pub(crate) fn bound_command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL"]).arg(program);
    command
}

/// Runs a program of the test bed itself that must succeed; returns its standard output.
#[track_caller]
pub(crate) fn run_tool(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
}

/// A running child process.
pub(crate) struct Process {
    pid: Pid,
    exit: Arc<(Mutex<Option<ExitStatus>>, Condvar)>,
    /// Present if the command asked for a pipe.
    pub(crate) stdin: Option<ChildStdin>,
    /// Present if the command asked for a pipe.
    pub(crate) stdout: Option<ChildStdout>,
    /// Present if the command asked for a pipe.
    pub(crate) stderr: Option<ChildStderr>,
}

impl Process {
    /// Starts it.
    #[track_caller]
    pub(crate) fn spawn(command: &mut Command) -> Self {
        let mut child =
            command.spawn().unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
        let exit = Arc::default();
        let process = Self {
            pid: Pid::from_child(&child),
            exit: Arc::clone(&exit),
            stdin: child.stdin.take(),
            stdout: child.stdout.take(),
            stderr: child.stderr.take(),
        };
        thread::spawn(move || reap(child, &exit));
        process
    }

    /// Its number, as text for /proc.
    pub(crate) fn pid(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    /// Sends a signal, if it still runs.
    pub(crate) fn signal(&self, signal: Signal) {
        // Under the lock it cannot be reaped, so the number is still its own.
        let status = self.exit.0.lock().unwrap();
        if status.is_none() {
            kill_process(self.pid, signal).unwrap();
        }
    }

    /// Waits for its end; `None` when the time is over first.
    pub(crate) fn wait(&self, timeout: Duration) -> Option<ExitStatus> {
        let (status, ended) = &*self.exit;
        let (status, _) = ended
            .wait_timeout_while(status.lock().unwrap(), timeout, |status| status.is_none())
            .unwrap();
        *status
    }

    /// Kills it and waits for its end.
    pub(crate) fn kill(&self) {
        self.signal(Signal::KILL);
        self.wait(DEADLINE);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

fn reap(mut child: Child, exit: &(Mutex<Option<ExitStatus>>, Condvar)) {
    let pid = Pid::from_child(&child);
    // Waits without reaping, so that the number stays taken until the lock is held.
    while let Err(rustix::io::Errno::INTR) =
        waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT)
    {}
    let mut status = exit.0.lock().unwrap();
    *status = Some(child.wait().unwrap_or_else(|_| ExitStatus::from_raw(0xff00)));
    exit.1.notify_all();
}
