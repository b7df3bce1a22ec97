//! The process that becomes rsync: `waltgate confined-rsync`, a hidden subcommand.
//!
//! Its standard input is a socket, over which the directory comes first, then goes one answer, and
//! then comes what rsync reads. There are two processes. The outer one makes namespaces and the root
//! in them, waits for the inner one, and ends as it does; it ends it when the gateway is gone. The
//! inner one is process 1 of its namespace, enters the root, gives up its rights and executes rsync;
//! it is killed with the outer one (PR_SET_PDEATHSIG), and all that rsync started with it.

mod program;
mod rights;
mod root;

use std::ffi::OsString;
use std::io::{self, IoSlice, IoSliceMut, Write};
use std::mem::MaybeUninit;
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus};

use nix::sched::{CloneFlags, unshare};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use rustix::process::{
    Pid, PidfdFlags, Signal, getpid, kill_process, pidfd_open, set_parent_process_death_signal,
};

use super::{SELF, SUBCOMMAND};
use crate::sftp::Owner;

/// The answer that rsync runs. Any other is a reason in words.
pub(super) const READY: [u8; 1] = [0];
/// For rsync to end by itself once nobody is at the other end: it keeps what it was told to.
const GRACE: Timespec = Timespec { tv_sec: 5, tv_nsec: 0 };
/// What the inner process is told by.
const INNER: &str = "--inner";
/// Rather this process than the gateway, when memory runs out: proc(5), oom_score_adj.
const OOM_SCORE: &str = "500";

/// What the subcommand is told.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// UID:GID that all files are made as.
    #[arg(long, value_parser = owner)]
    owner: Option<Owner>,
    /// The namespaces are made already; how the program is started in them.
    #[arg(long)]
    inner: Option<program::Start>,
    /// What rsync is told.
    #[arg(last = true)]
    arguments: Vec<OsString>,
}

fn owner(text: &str) -> Result<Owner, String> {
    let numbers = text.split_once(':').map(|(uid, gid)| (uid.parse(), gid.parse()));
    match numbers {
        Some((Ok(uid), Ok(gid))) => Ok(Owner { uid, gid }),
        _ => Err("not UID:GID".to_owned()),
    }
}

/// Gives the process its directory.
pub(super) fn hand_over(socket: &UnixStream, directory: BorrowedFd<'_>) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut beside = SendAncillaryBuffer::new(&mut space);
    let descriptors = [directory];
    if !beside.push(SendAncillaryMessage::ScmRights(&descriptors)) {
        return Err(io::Error::other("no room for a descriptor"));
    }
    sendmsg(socket, &[IoSlice::new(&[0])], &mut beside, SendFlags::NOSIGNAL)?;
    Ok(())
}

fn take_over(socket: &UnixStream) -> io::Result<OwnedFd> {
    let mut byte = [0];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut beside = RecvAncillaryBuffer::new(&mut space);
    let mut parts = [IoSliceMut::new(&mut byte)];
    recvmsg(socket, &mut parts, &mut beside, RecvFlags::CMSG_CLOEXEC)?;
    let descriptor = beside.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    descriptor.ok_or_else(|| io::Error::other("no directory was handed over"))
}

/// Becomes rsync. Returns if that cannot be, or with the exit code of rsync.
///
/// # Errors
/// What was not told over the socket: that there is none.
pub fn run(arguments: &Arguments) -> io::Result<u8> {
    let socket = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    let done = match &arguments.inner {
        Some(program) => enter(&socket, program, arguments).map(|never| match never {}),
        None => confine(&socket, arguments).and_then(|inner| follow(inner, &socket)),
    };
    let status = match done {
        Ok(status) => status,
        Err(error) => {
            (&socket).write_all(error.to_string().as_bytes())?;
            return Ok(1);
        }
    };
    if let Some(signal) = status.signal().and_then(Signal::from_named_raw) {
        // Whoever waits sees the same.
        kill_process(getpid(), signal)?;
    }
    Ok(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
}

/// What failed, for the line that the gateway logs.
fn failed<E: Into<io::Error>>(what: &'static str) -> impl FnOnce(E) -> io::Error {
    move |error| io::Error::other(format!("{what}: {}", error.into()))
}

/// Makes the namespaces and the root, and starts the inner process.
fn confine(socket: &UnixStream, arguments: &Arguments) -> io::Result<Child> {
    let directory = take_over(socket)?;
    let program = program::Program::find()?;
    std::fs::write("/proc/self/oom_score_adj", OOM_SCORE).map_err(failed("oom_score_adj"))?;
    let tree = root::detached(&directory)?;
    let namespaces = CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWPID
        | CloneFlags::CLONE_NEWNET
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWUTS;
    unshare(namespaces).map_err(failed("cannot make namespaces for rsync"))?;
    root::make(&tree, &directory, &program)?;
    let mut inner = Command::new(SELF);
    inner.arg(SUBCOMMAND).arg(INNER).arg(program.start().as_str());
    if let Some(Owner { uid, gid }) = arguments.owner {
        inner.arg(format!("--owner={uid}:{gid}"));
    }
    inner.arg("--").args(&arguments.arguments).env_clear();
    inner.spawn().map_err(failed("cannot start the process for rsync in its namespaces"))
}

/// Waits for the end of the inner process; ends it when the other end of the socket is gone.
fn follow(mut inner: Child, socket: &UnixStream) -> io::Result<ExitStatus> {
    let pid = i32::try_from(inner.id()).ok().and_then(Pid::from_raw).ok_or(Errno::SRCH)?;
    let process = pidfd_open(pid, PidfdFlags::empty())?;
    let ended = |patience: Option<&Timespec>, socket: Option<&UnixStream>| loop {
        let mut watched = vec![PollFd::new(&process, PollFlags::IN)];
        // Only its hang-up is of interest, which is always told.
        watched.extend(socket.map(|socket| PollFd::new(socket, PollFlags::empty())));
        match poll(&mut watched, patience) {
            Err(Errno::INTR) => {}
            Err(error) => return Err(io::Error::from(error)),
            Ok(_) => return Ok(!watched[0].revents().is_empty()),
        }
    };
    if !ended(None, Some(socket))? && !ended(Some(&GRACE), None)? {
        inner.kill()?;
    }
    inner.wait()
}

/// Enters the root and executes rsync.
fn enter(
    socket: &UnixStream,
    program: &program::Start,
    arguments: &Arguments,
) -> io::Result<std::convert::Infallible> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    root::enter()?;
    rights::give_up(arguments.owner)?;
    let mut rsync = program.command();
    rsync.args(&arguments.arguments).env_clear();
    (&*socket).write_all(&READY)?;
    let error = rsync.exec();
    // Nobody listens to the socket any more.
    eprintln!("waltgate: cannot run rsync: {error}");
    Err(error)
}
