//! One container of libcontainer's.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;

use libcontainer::container::Container as Runtime;
use libcontainer::container::builder::ContainerBuilder;
use libcontainer::error::LibcontainerError;
use libcontainer::syscall::syscall::SyscallType;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::{AsFd, OwnedFd};
use rustix::process::Pid;

use super::super::cgroups::Cgroups;
use super::super::message::{self, Program};
use super::super::record::{Directory, Record};
use super::files::{self, Files};
use super::loopback;
use super::network::Network;
use super::spec;
use super::workload::DiesWithItsSupervisor;
use crate::config::ContainerNetwork;
use crate::error_chain::chain;

/// For a terminal to be handed over by a process that was made with one.
const TERMINAL: Timespec = Timespec { tv_sec: 10, tv_nsec: 0 };

/// A container and its mounted files.
pub(super) struct Container {
    id: String,
    record: Record,
    files: Files,
    cgroups: Cgroups,
    runtime: Option<Runtime>,
    network: Option<Network>,
}

impl Container {
    /// Takes mounted files.
    pub(super) fn new(
        directory: &Directory,
        mut record: Record,
        files: Files,
        cgroups: Cgroups,
    ) -> io::Result<Self> {
        if !cgroups.can_limit() {
            (record.memory, record.pids) = (None, None);
        }
        let id = directory
            .path()
            .file_name()
            .and_then(|name| name.to_str())
            .ok_or_else(|| io::Error::other("a container's directory has its identifier as name"))?
            .to_owned();
        Ok(Self { id, record, files, cgroups, runtime: None, network: None })
    }

    /// Makes process 1, which waits. Returns its number, and its terminal if it has one. After an error
    /// processes may be left.
    pub(super) fn create(&mut self, streams: Vec<OwnedFd>) -> io::Result<(i32, Option<OwnedFd>)> {
        if self.runtime.is_some() {
            return Err(io::Error::other("it was made already"));
        }
        let etc = self.files.run.join("etc");
        let helper = match self.record.network {
            ContainerNetwork::Own => Network::helper(),
            ContainerNetwork::Loopback | ContainerNetwork::Host => None,
        };
        files::write_etc(&etc, &self.record, &Network::resolver(helper))?;
        let bundle = self.files.run.join("bundle");
        fs::create_dir_all(&bundle)?;
        let config =
            spec::container(&self.record, &self.id, &self.files.rootfs, &etc, &self.cgroups);
        fs::write(bundle.join("config.json"), serde_json::to_vec(&config)?)?;

        let console = self.record.tty.then(|| Console::new(&self.files, "first")).transpose()?;
        let builder = builder_with(self.builder()?, console.as_ref(), streams)?;
        let runtime = builder
            .as_init(&bundle)
            .with_systemd(false)
            .with_detach(true)
            .build()
            .map_err(|error| failed(&error))?;
        let pid = runtime.pid().map(|pid| pid.as_raw());
        self.runtime = Some(runtime);
        let pid = pid.ok_or_else(|| io::Error::other("no process was made"))?;
        Ok((pid, self.equip(pid, console, helper)?))
    }

    /// Gives process 1 its terminal and its network.
    fn equip(
        &mut self,
        pid: i32,
        console: Option<Console>,
        helper: Option<&str>,
    ) -> io::Result<Option<OwnedFd>> {
        let terminal = console.map(Console::terminal).transpose()?;
        if self.record.network != ContainerNetwork::Host {
            loopback::bring_up(pid)?;
        }
        if let Some(helper) = helper {
            self.network = Some(Network::start(helper, pid)?);
        }
        Ok(terminal)
    }

    /// Lets process 1 run its program.
    pub(super) fn start(&mut self) -> io::Result<()> {
        let runtime = self.runtime.as_mut().ok_or_else(|| io::Error::other("it was not made"))?;
        runtime.start().map_err(|error| failed(&error))
    }

    /// Runs a program beside process 1. Returns its number, and its terminal if it has one.
    pub(super) fn exec(
        &mut self,
        program: &Program,
        streams: Vec<OwnedFd>,
    ) -> io::Result<(i32, Option<OwnedFd>)> {
        let name = format!("program-{}", program.number);
        let process = self.files.run.join(&name);
        let told = spec::program(&self.record, program, &self.cgroups);
        fs::write(&process, serde_json::to_vec(&told)?)?;
        let console = program.terminal.then(|| Console::new(&self.files, &name)).transpose()?;
        let builder = builder_with(self.builder()?, console.as_ref(), streams)?;
        let made = builder
            .as_tenant()
            .with_detach(true)
            .with_process(Some(&process))
            .build()
            .map_err(|error| failed(&error));
        fs::remove_file(&process)?;
        let terminal = match &made {
            Ok(_) => console.map(Console::terminal).transpose()?,
            Err(_) => None,
        };
        Ok((made?.as_raw(), terminal))
    }

    /// Ends what is left of it, and removes its control groups.
    pub(super) fn remove(&mut self) -> io::Result<()> {
        if let Some(mut runtime) = self.runtime.take() {
            runtime.delete(true).map_err(|error| failed(&error))?;
        }
        if let Some(network) = self.network.take() {
            network.end()?;
        }
        Ok(())
    }

    /// What this process has started besides the container's own processes.
    pub(super) fn network_process(&self) -> Option<Pid> {
        self.network.as_ref().and_then(Network::process)
    }

    fn builder(&self) -> io::Result<ContainerBuilder> {
        let state = self.files.run.join("state");
        fs::create_dir_all(&state)?;
        let builder = ContainerBuilder::new(self.id.clone(), SyscallType::default())
            .with_executor(DiesWithItsSupervisor);
        builder.with_root_path(state).map_err(|error| failed(&error))
    }
}

/// Gives a new process its terminal or its three streams.
fn builder_with(
    builder: ContainerBuilder,
    console: Option<&Console>,
    streams: Vec<OwnedFd>,
) -> io::Result<ContainerBuilder> {
    if let Some(console) = console {
        return Ok(builder.with_console_socket(Some(console.path.clone())));
    }
    let [input, output, errors] = match <[OwnedFd; 3]>::try_from(streams) {
        Ok(streams) => streams,
        Err(none) if none.is_empty() => {
            let null = || File::options().read(true).write(true).open("/dev/null");
            [null()?.into(), null()?.into(), null()?.into()]
        }
        Err(_) => return Err(io::Error::other("a process has three streams")),
    };
    Ok(builder.with_stdin(input).with_stdout(output).with_stderr(errors))
}

/// Where libcontainer hands over the terminal of a new process.
struct Console {
    path: PathBuf,
    listener: UnixListener,
}

impl Console {
    fn new(files: &Files, name: &str) -> io::Result<Self> {
        // A socket's own path is short, unix(7), that of the state directory may not be.
        std::env::set_current_dir(&files.run)?;
        let name = format!("{name}.console");
        let listener = UnixListener::bind(&name);
        std::env::set_current_dir("/")?;
        Ok(Self { path: files.run.join(name), listener: listener? })
    }

    fn terminal(self) -> io::Result<OwnedFd> {
        fs::remove_file(&self.path)?;
        wait_for(&self.listener)?;
        let (socket, _) = self.listener.accept()?;
        wait_for(&socket)?;
        message::receive_descriptor(&socket)
    }
}

fn wait_for(descriptor: &impl AsFd) -> io::Result<()> {
    let mut watched = [PollFd::new(descriptor, PollFlags::IN)];
    match poll(&mut watched, Some(&TERMINAL))? {
        0 => Err(ErrorKind::TimedOut.into()),
        _ => Ok(()),
    }
}

fn failed(error: &LibcontainerError) -> io::Error {
    io::Error::other(chain(error))
}
