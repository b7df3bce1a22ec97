//! The processes that a supervisor started in its container.

use std::fs;
use std::io;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::{AsFd, OwnedFd};
use rustix::io::Errno;
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, WaitOptions, kill_process, pidfd_open,
    pidfd_send_signal, waitid, waitpid,
};

/// Of this process, which has one thread, proc(5).
const CHILDREN: &str = "/proc/thread-self/children";

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct End {
    /// 128+n after signal n.
    pub(super) code: u32,
    pub(super) by_signal: bool,
}

struct Child {
    /// That of the gateway's request; process 1 has none.
    number: Option<u64>,
    pid: Pid,
    process: OwnedFd,
}

/// The processes that have not been seen to end.
#[derive(Default)]
pub(super) struct Children(Vec<Child>);

/// What happened.
pub(super) struct Ready {
    /// Processes that ended, by number.
    pub(super) ended: Vec<(Option<u64>, End)>,
    /// Something can be read from the socket.
    pub(super) request: bool,
}

impl Children {
    /// Takes a child of this process.
    pub(super) fn add(&mut self, number: Option<u64>, pid: i32) -> io::Result<()> {
        let pid = Pid::from_raw(pid).ok_or_else(|| io::Error::other("no process was made"))?;
        let process = pidfd_open(pid, PidfdFlags::empty())?;
        self.0.push(Child { number, pid, process });
        Ok(())
    }

    /// Ends the children of this process that are neither among these nor `other`: what a process
    /// was to become that could not be made. As long as one of them is not waited for, process 1
    /// cannot end, pid_namespaces(7).
    pub(super) fn end_strangers(&self, other: Option<Pid>) -> io::Result<()> {
        let listed = fs::read_to_string(CHILDREN)?;
        let strangers: Vec<_> = listed
            .split_whitespace()
            .filter_map(|pid| pid.parse().ok().and_then(Pid::from_raw))
            .filter(|pid| Some(*pid) != other && self.0.iter().all(|child| child.pid != *pid))
            .collect();
        for stranger in &strangers {
            match kill_process(*stranger, Signal::KILL) {
                Ok(()) | Err(Errno::SRCH) => {}
                Err(error) => return Err(error.into()),
            }
        }
        strangers.into_iter().try_for_each(wait_for_end)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn has_first(&self) -> bool {
        self.first().is_some()
    }

    /// Sends a signal to process 1.
    pub(super) fn signal_first(&self, signal: Signal) -> io::Result<()> {
        let first = self.first().ok_or_else(|| io::Error::other("it does not run"))?;
        Ok(pidfd_send_signal(&first.process, signal)?)
    }

    fn first(&self) -> Option<&Child> {
        self.0.iter().find(|child| child.number.is_none())
    }

    /// Waits for ends and requests.
    pub(super) fn wait(
        &mut self,
        socket: &UnixStream,
        patience: Option<Duration>,
    ) -> io::Result<Ready> {
        self.poll(Some(socket), patience)
    }

    /// Waits for ends. None within the time: an empty list.
    pub(super) fn wait_for_ends(
        &mut self,
        patience: Option<Duration>,
    ) -> io::Result<Vec<(Option<u64>, End)>> {
        Ok(self.poll(None, patience)?.ended)
    }

    fn poll(
        &mut self,
        socket: Option<&UnixStream>,
        patience: Option<Duration>,
    ) -> io::Result<Ready> {
        let mut watched: Vec<PollFd<'_>> = socket
            .map(AsFd::as_fd)
            .into_iter()
            .chain(self.0.iter().map(|child| child.process.as_fd()))
            .map(|descriptor| PollFd::from_borrowed_fd(descriptor, PollFlags::IN))
            .collect();
        let patience = patience.map(Timespec::try_from).transpose().map_err(io::Error::other)?;
        match poll(&mut watched, patience.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let mut ready = watched.iter().map(|descriptor| !descriptor.revents().is_empty());
        let request = socket.is_some() && ready.next() == Some(true);
        let ready: Vec<bool> = ready.collect();
        let mut ended = Vec::new();
        for index in (0..ready.len()).rev().filter(|index| ready[*index]) {
            if let Some(end) = reap(&self.0[index].process)? {
                ended.push((self.0.remove(index).number, end));
            }
        }
        // Others are told before process 1, which is the first of all.
        Ok(Ready { ended, request })
    }
}

fn wait_for_end(pid: Pid) -> io::Result<()> {
    loop {
        match waitpid(Some(pid), WaitOptions::empty()) {
            Err(Errno::INTR) => {}
            Ok(_) | Err(Errno::CHILD) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}

fn reap(process: &OwnedFd) -> io::Result<Option<End>> {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
    let Some(status) = waitid(WaitId::PidFd(process.as_fd()), options)? else {
        return Ok(None);
    };
    let number = |status: Option<i32>| status.and_then(|status| u32::try_from(status).ok());
    Ok(Some(match number(status.exit_status()) {
        Some(code) => End { code, by_signal: false },
        None => {
            End { code: 128 + number(status.terminating_signal()).unwrap_or(0), by_signal: true }
        }
    }))
}
