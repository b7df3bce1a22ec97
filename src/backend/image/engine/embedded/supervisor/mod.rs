//! The process that looks after one container: `waltgate container-supervisor DIRECTORY`, a hidden
//! subcommand of the gateway's own program.
//!
//! It has a mount namespace of its own, in which the container's files are mounted, and is the
//! parent of all processes that are started in the container. When the gateway goes away, in
//! whatever way, it kills the container, notes that in the container's directory and ends. When it
//! is killed itself, the kernel kills the container (PR_SET_PDEATHSIG), and the mounts end with
//! the last process. libcontainer, which changes the directory, the name and other traits of the
//! process that uses it, is used here only.

mod children;
mod container;
mod files;
mod host_mounts;
mod loopback;
mod network;
mod spec;
#[cfg(feature = "seccomp")]
mod system_calls;
/// Without what it takes to make a filter.
#[cfg(not(feature = "seccomp"))]
mod system_calls {
    pub(super) const CAPABILITY: Option<&str> = None;

    pub(super) fn confine() -> std::io::Result<()> {
        Ok(())
    }
}
mod workload;

use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, SystemTime};

use rustix::fd::{AsFd, OwnedFd};
use rustix::process::Signal;

use self::children::{Children, End};
use self::container::Container;
use super::cgroups::Cgroups;
use super::message::{self, Answer, Done, Event, Request};
use super::record::{Directory, Exit};

/// Whether libcontainer was built with what that takes.
pub(super) const FILTERS_SYSTEM_CALLS: bool = cfg!(feature = "seccomp");

pub(super) use self::network::{PROGRAM as NETWORK_PACKAGE, is_available as has_network};

/// For the programs beside process 1 to be seen as ended; the kernel kills them with it.
const LAST_PROGRAMS: Duration = Duration::from_secs(5);

/// Looks after the container in this directory until it ends. Standard input is the socket of
/// requests, standard output the pipe of events.
///
/// # Errors
/// That processes cannot be waited for, events cannot be told, or that what is left of the
/// container cannot be removed. The gateway finds it later.
pub fn run(directory: &Path) -> io::Result<()> {
    let events = io::stdout();
    let mut events = Events(events.as_fd().try_clone_to_owned()?.into());
    let socket = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    match Supervisor::new(directory, socket) {
        Ok(supervisor) => {
            events.tell(&Event::Ready)?;
            supervisor.run(&mut events)
        }
        Err(error) => events.tell(&Event::Failed(error.to_string())),
    }
}

struct Events(std::fs::File);

impl Events {
    fn tell(&mut self, event: &Event) -> io::Result<()> {
        let mut line = serde_json::to_vec(event)?;
        line.push(b'\n');
        match self.0.write_all(&line) {
            // The gateway is gone: nobody waits for it.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            told => told,
        }
    }
}

struct Supervisor {
    socket: UnixStream,
    directory: Directory,
    container: Container,
    children: Children,
    /// Held as long as the process lives.
    _lock: std::fs::File,
}

impl Supervisor {
    fn new(directory: &Path, socket: UnixStream) -> io::Result<Self> {
        let directory = Directory::at(directory.to_owned());
        let lock = directory
            .try_lock()?
            .ok_or_else(|| io::Error::other("another process of the gateway has this container"))?;
        // As the usual runtimes do; the gateway's own may let nobody else read.
        rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
        let record = directory.record()?;
        let files = files::mount_files(&directory, &record)?;
        let cgroups = Cgroups::of_this_machine();
        cgroups.hide_if_useless()?;
        let container = Container::new(&directory, record, files, cgroups)?;
        Ok(Self { socket, directory, container, children: Children::default(), _lock: lock })
    }

    fn run(mut self, events: &mut Events) -> io::Result<()> {
        loop {
            let ready = self.children.wait(&self.socket, None)?;
            for (number, end) in ready.ended {
                match number {
                    None => return self.conclude(events, end),
                    Some(number) => {
                        events.tell(&Event::ProgramEnded { number, code: end.code })?;
                    }
                }
            }
            if !ready.request {
                continue;
            }
            match message::receive(&self.socket) {
                Ok(Some((request, descriptors))) => {
                    let (answer, terminal) = self.answer(request, descriptors);
                    let beside: Vec<_> = terminal.iter().map(AsFd::as_fd).collect();
                    if message::send(&self.socket, &answer, &beside).is_err() {
                        return self.abandon(events);
                    }
                }
                // The gateway is gone.
                Ok(None) | Err(_) => return self.abandon(events),
            }
        }
    }

    fn answer(&mut self, request: Request, descriptors: Vec<OwnedFd>) -> (Answer, Option<OwnedFd>) {
        let made = match request {
            Request::Create => self.container.create(descriptors).and_then(|(pid, terminal)| {
                self.children.add(None, pid)?;
                Ok((Done::Made { pid }, terminal))
            }),
            Request::Start => self.container.start().map(|()| (Done::Done, None)),
            Request::Exec(program) => {
                self.container.exec(&program, descriptors).and_then(|(pid, terminal)| {
                    self.children.add(Some(program.number), pid)?;
                    Ok((Done::Made { pid }, terminal))
                })
            }
            Request::Signal(number) => self.signal(number).map(|()| (Done::Done, None)),
        };
        match made {
            Ok((done, terminal)) => (Ok(done), terminal),
            Err(error) => {
                let ended = self.children.end_strangers(self.container.network_process());
                let left = ended.err().map(|left| format!("; a process is left: {left}"));
                (Err(format!("{error}{}", left.unwrap_or_default())), None)
            }
        }
    }

    fn signal(&self, number: i32) -> io::Result<()> {
        let signal = Signal::from_named_raw(number)
            .ok_or_else(|| io::Error::other(format!("there is no signal {number}")))?;
        self.directory.note_signal()?;
        self.children.signal_first(signal)
    }

    /// The gateway is gone: so is the container, soon.
    fn abandon(mut self, events: &mut Events) -> io::Result<()> {
        if !self.children.has_first() {
            return self.container.remove();
        }
        self.children.signal_first(Signal::KILL)?;
        loop {
            let ready = self.children.wait_for_ends(None)?;
            if let Some((_, end)) = ready.into_iter().find(|(number, _)| number.is_none()) {
                return self.conclude(events, end);
            }
        }
    }

    /// Process 1 has ended.
    fn conclude(mut self, events: &mut Events, end: End) -> io::Result<()> {
        let deadline = std::time::Instant::now() + LAST_PROGRAMS;
        let mut told = Ok(());
        while !self.children.is_empty() {
            let left = deadline.saturating_duration_since(std::time::Instant::now());
            let ended = self.children.wait_for_ends(Some(left))?;
            if ended.is_empty() {
                break;
            }
            for (number, end) in ended {
                if let Some(number) = number {
                    told = told.and(events.tell(&Event::ProgramEnded { number, code: end.code }));
                }
            }
        }
        self.directory.note_exit(Exit {
            code: end.code,
            by_signal: end.by_signal,
            at: SystemTime::now(),
        })?;
        told = told.and(events.tell(&Event::FirstEnded { code: end.code }));
        self.container.remove()?;
        told
    }
}
