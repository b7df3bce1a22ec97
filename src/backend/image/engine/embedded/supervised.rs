//! A container's supervisor, as the gateway sees it.

use std::collections::HashMap;
use std::io;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::fd::OwnedFd;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::unix::pipe;
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::time::timeout;

use super::message::{self, Answer, Done, Event, Program, Request};
use super::record::Directory;
use super::streams::Terminal;

/// For a supervisor to answer: it makes a process and perhaps a network meanwhile.
const ANSWER: Duration = Duration::from_secs(60);
/// For a supervisor to mount the files.
const START: Duration = Duration::from_secs(60);
/// The hidden subcommand.
pub(super) const SUBCOMMAND: &str = "container-supervisor";

/// How a process stands, as far as has been told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// It was not made yet.
    Prepared,
    /// It runs, under this number.
    Running(i32),
    /// It ended, with this code.
    Ended(u32),
    /// The supervisor is gone without a word about it.
    Lost,
}

/// A process in the container.
pub(super) struct Process {
    standing: watch::Sender<Standing>,
    terminal: Mutex<Option<Terminal>>,
}

impl Process {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            standing: watch::Sender::new(Standing::Prepared),
            terminal: Mutex::new(None),
        })
    }

    /// How it stands now.
    pub(super) fn standing(&self) -> Standing {
        *self.standing.borrow()
    }

    /// Waits for its end.
    pub(super) async fn ended(&self) -> Standing {
        let mut standing = self.standing.subscribe();
        let is_over = |standing: &Standing| matches!(standing, Standing::Ended(_) | Standing::Lost);
        match standing.wait_for(is_over).await {
            Ok(standing) => *standing,
            Err(_) => Standing::Lost,
        }
    }

    /// Its terminal, while it has one.
    pub(super) fn terminal(&self) -> Option<Terminal> {
        lock(&self.terminal).clone()
    }

    fn begin(&self, pid: i32, terminal: Option<Terminal>) {
        *lock(&self.terminal) = terminal;
        // Its end may have been told before this.
        self.standing.send_if_modified(|standing| {
            let is_new = *standing == Standing::Prepared;
            if is_new {
                *standing = Standing::Running(pid);
            }
            is_new
        });
    }

    fn end(&self, end: Standing) {
        // What is left to read of a terminal is read by who has its streams.
        *lock(&self.terminal) = None;
        self.standing.send_if_modified(|standing| {
            let is_first = !matches!(standing, Standing::Ended(_) | Standing::Lost);
            if is_first {
                *standing = end;
            }
            is_first
        });
    }
}

/// A supervisor that lives or has lived. It ends the container when this is dropped.
pub(super) struct Supervised {
    /// Its process.
    pub(super) pid: u32,
    requests: Mutex<UnixStream>,
    /// Process 1.
    pub(super) first: Arc<Process>,
    programs: Arc<Mutex<HashMap<u64, Arc<Process>>>>,
    gone: watch::Receiver<bool>,
}

impl Supervised {
    /// Starts a supervisor, and waits until the files are mounted.
    pub(super) async fn start(program: &Path, directory: &Directory) -> io::Result<Arc<Self>> {
        let (requests, socket) = UnixStream::pair()?;
        requests.set_read_timeout(Some(ANSWER))?;
        requests.set_write_timeout(Some(ANSWER))?;
        let (events, pipe) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        let mut child = Command::new(program)
            .arg(SUBCOMMAND)
            .arg(directory.path())
            .stdin(Stdio::from(OwnedFd::from(socket)))
            .stdout(Stdio::from(pipe))
            // Out of reach of the terminal's ctrl-C: the gateway ends containers in good order.
            .process_group(0)
            .spawn()?;
        let pid = child.id().ok_or_else(|| io::Error::other("it ended at once"))?;
        let mut events = BufReader::new(pipe::Receiver::from_owned_fd(events)?).lines();
        let ready = timeout(START, events.next_line()).await;
        let refusal = match ready {
            Ok(Ok(Some(line))) => match serde_json::from_str(&line) {
                Ok(Event::Ready) => None,
                Ok(Event::Failed(reason)) => Some(reason),
                Ok(_) | Err(_) => Some("it speaks another language".to_owned()),
            },
            Ok(Ok(None)) => Some("it ended without a word".to_owned()),
            Ok(Err(error)) => Some(error.to_string()),
            Err(_) => Some(format!("its files are not mounted after {} s", START.as_secs())),
        };
        if let Some(reason) = refusal {
            child.kill().await?;
            return Err(io::Error::other(reason));
        }
        let (sender, gone) = watch::channel(false);
        let supervised = Arc::new(Self {
            pid,
            requests: Mutex::new(requests),
            first: Process::new(),
            programs: Arc::default(),
            gone,
        });
        let first = Arc::clone(&supervised.first);
        let programs = Arc::clone(&supervised.programs);
        tokio::spawn(follow(child, events, first, programs, sender));
        Ok(supervised)
    }

    /// Whether its process has ended.
    pub(super) fn is_gone(&self) -> bool {
        *self.gone.borrow()
    }

    /// Waits until its process has ended.
    pub(super) async fn gone(&self) {
        let mut gone = self.gone.clone();
        // The sender ends when the process has.
        gone.wait_for(|gone| *gone).await.ok();
    }

    /// Makes process 1, without letting it run. Blocks.
    pub(super) fn create(&self, streams: &[OwnedFd]) -> io::Result<Option<Terminal>> {
        let (pid, terminal) = self.made(&Request::Create, streams)?;
        self.first.begin(pid, terminal.clone());
        Ok(terminal)
    }

    /// Lets process 1 run. Blocks.
    pub(super) fn run_first(&self) -> io::Result<()> {
        self.ask(&Request::Start, &[]).map(drop)
    }

    /// Sends a signal to process 1. Blocks.
    pub(super) fn signal(&self, signal: rustix::process::Signal) -> io::Result<()> {
        self.ask(&Request::Signal(signal.as_raw()), &[]).map(drop)
    }

    /// Runs a program beside process 1. Blocks.
    pub(super) fn exec(
        &self,
        program: Program,
        streams: &[OwnedFd],
    ) -> io::Result<(Arc<Process>, Option<Terminal>)> {
        let number = program.number;
        let process = Process::new();
        lock(&self.programs).insert(number, Arc::clone(&process));
        match self.made(&Request::Exec(program), streams) {
            Ok((pid, terminal)) => {
                process.begin(pid, terminal.clone());
                Ok((process, terminal))
            }
            Err(error) => {
                lock(&self.programs).remove(&number);
                Err(error)
            }
        }
    }

    /// Ends the container and its supervisor. Blocks.
    pub(super) fn dismiss(&self) -> io::Result<()> {
        match lock(&self.requests).shutdown(std::net::Shutdown::Both) {
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(()),
            done => done,
        }
    }

    fn made(&self, request: &Request, streams: &[OwnedFd]) -> io::Result<(i32, Option<Terminal>)> {
        let (done, mut descriptors) = self.ask(request, streams)?;
        let Done::Made { pid } = done else {
            return Err(io::Error::other("no process was made"));
        };
        let terminal = descriptors.pop().map(Terminal::new).transpose()?;
        Ok((pid, terminal))
    }

    fn ask(&self, request: &Request, streams: &[OwnedFd]) -> io::Result<(Done, Vec<OwnedFd>)> {
        let socket = lock(&self.requests);
        message::send(&socket, request, &message::borrowed(streams))?;
        let (answer, descriptors) = message::receive::<Answer>(&socket)?
            .ok_or_else(|| io::Error::other("the container has ended"))?;
        Ok((answer.map_err(io::Error::other)?, descriptors))
    }
}

/// Notes what a supervisor tells, until it ends.
async fn follow(
    mut child: Child,
    mut events: tokio::io::Lines<BufReader<pipe::Receiver>>,
    first: Arc<Process>,
    programs: Arc<Mutex<HashMap<u64, Arc<Process>>>>,
    gone: watch::Sender<bool>,
) {
    while let Ok(Some(line)) = events.next_line().await {
        match serde_json::from_str(&line) {
            Ok(Event::FirstEnded { code }) => first.end(Standing::Ended(code)),
            Ok(Event::ProgramEnded { number, code }) => {
                if let Some(program) = lock(&programs).remove(&number) {
                    program.end(Standing::Ended(code));
                }
            }
            Ok(Event::Failed(reason)) => tracing::warn!(reason, "a container's supervisor"),
            Ok(Event::Ready) => {}
            Err(error) => tracing::warn!(%error, "a container's supervisor"),
        }
    }
    match child.wait().await {
        Ok(status) if status.success() => {}
        Ok(status) => tracing::warn!(%status, "a container's supervisor failed"),
        Err(error) => tracing::warn!(%error, "a container's supervisor"),
    }
    for (_, program) in lock(&programs).drain() {
        program.end(Standing::Lost);
    }
    first.end(Standing::Lost);
    gone.send_replace(true);
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
