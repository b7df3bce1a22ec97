//! This machine's own rsync, run for clients on the files of one directory.
//!
//! rsync takes any path, and resolves it over and over while others change the tree. So it is shut
//! in: [`confinement`] is a process of this program that makes namespaces in which the directory is
//! all there is, gives up what rights rsync does not need, and becomes rsync. [`Command`] tells
//! whether a command line is one for it.

mod command;
pub mod confinement;
mod session;

use std::ffi::OsString;
use std::io;
use std::process::Stdio;
use std::time::Duration;

use rustix::fd::{AsFd, OwnedFd};
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;
use tokio::process::Child;
use tokio::time::timeout;

use crate::backend::BackendSession;
use crate::sftp::Owner;

pub use self::command::Command;

/// The hidden subcommand.
const SUBCOMMAND: &str = "confined-rsync";
/// This program also after it was replaced on disk, proc(5).
const SELF: &str = "/proc/self/exe";
/// For the confinement to be made.
const START: Duration = Duration::from_secs(20);
/// What is kept of a reason why it was not.
const LONGEST_REASON: u64 = 4096;

/// Why rsync does not run.
#[derive(Debug, thiserror::Error)]
pub enum RsyncError {
    /// The process that is to be confined was not started.
    #[error("cannot start the process for rsync: {0}")]
    Start(#[source] io::Error),
    /// It was not confined, and says why.
    #[error("{0}")]
    Refused(String),
    /// It did not become ready in time.
    #[error("the process for rsync is not ready after {} s", START.as_secs())]
    Slow,
}

/// Runs rsync with these arguments where the directory is `/persist`, and nothing else is. What it
/// makes belongs to `owner`, if there is one, and else to root.
///
/// The session's exit status is rsync's own. It ends with the session, and with this process.
///
/// # Errors
/// That rsync is not installed, or cannot be confined. Nothing was done then.
///
/// # Panics
/// Outside a Tokio runtime.
pub async fn serve(
    directory: OwnedFd,
    owner: Option<Owner>,
    arguments: Vec<OsString>,
) -> Result<BackendSession, RsyncError> {
    let (child, input) = start(directory, owner, arguments).await?;
    session::of(child, input).map_err(RsyncError::Start)
}

/// The first line that this machine's rsync says of itself, from where it would serve files.
///
/// # Errors
/// Why it cannot be run there.
pub async fn version() -> Result<String, RsyncError> {
    let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::DIRECTORY;
    let flags = flags | rustix::fs::OFlags::CLOEXEC;
    // Which directory it is makes no difference.
    let directory = rustix::fs::open("/", flags, rustix::fs::Mode::empty());
    let directory = directory.map_err(|error| RsyncError::Start(error.into()))?;
    let (mut child, _input) = start(directory, None, vec!["--version".into()]).await?;
    let mut said = String::new();
    if let Some(output) = &mut child.stdout {
        let read = timeout(START, output.take(LONGEST_REASON).read_to_string(&mut said)).await;
        read.map_err(|_| RsyncError::Slow)?.map_err(RsyncError::Start)?;
    }
    match said.lines().next() {
        Some(line) if line.starts_with("rsync") => Ok(line.to_owned()),
        _ => Err(RsyncError::Refused("rsync does not tell its version".to_owned())),
    }
}

/// Starts the process and waits until it becomes rsync. Its standard input is the socket.
async fn start(
    directory: OwnedFd,
    owner: Option<Owner>,
    arguments: Vec<OsString>,
) -> Result<(Child, UnixStream), RsyncError> {
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().map_err(RsyncError::Start)?;
    let mut command = tokio::process::Command::new(SELF);
    command.arg(SUBCOMMAND);
    if let Some(Owner { uid, gid }) = owner {
        command.arg(format!("--owner={uid}:{gid}"));
    }
    command.arg("--").args(arguments);
    command.env_clear().envs(std::env::var_os("PATH").map(|path| ("PATH", path)));
    command.stdin(OwnedFd::from(theirs)).stdout(Stdio::piped()).stderr(Stdio::piped());
    // Out of reach of the terminal's ctrl-C: sessions are ended in good order.
    command.process_group(0).kill_on_drop(true);
    let child = command.spawn().map_err(RsyncError::Start)?;
    // With it goes the other end of the socket.
    drop(command);
    confinement::hand_over(&ours, directory.as_fd()).map_err(RsyncError::Start)?;
    ours.set_nonblocking(true).map_err(RsyncError::Start)?;
    let mut input = UnixStream::from_std(ours).map_err(RsyncError::Start)?;
    match timeout(START, readiness(&mut input)).await {
        Ok(Ok(None)) => Ok((child, input)),
        Ok(Ok(Some(reason))) => Err(RsyncError::Refused(reason)),
        Ok(Err(error)) => Err(RsyncError::Start(error)),
        Err(_) => Err(RsyncError::Slow),
    }
}

/// Waits until rsync runs; returns why it does not.
async fn readiness(input: &mut UnixStream) -> io::Result<Option<String>> {
    let mut first = [0];
    if input.read(&mut first).await? == 0 {
        return Ok(Some("the process for rsync ended without a word".to_owned()));
    }
    if first == confinement::READY {
        return Ok(None);
    }
    let mut reason = Vec::from(first);
    input.take(LONGEST_REASON).read_to_end(&mut reason).await?;
    Ok(Some(String::from_utf8_lossy(&reason).into_owned()))
}
