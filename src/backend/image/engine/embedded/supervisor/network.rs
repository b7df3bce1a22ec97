//! A container's way out: a user-mode network stack of its own.
//!
//! slirp4netns is used when it is installed. It needs no privileges on the host's network, no
//! bridge, no address range and no firewall rules, so there is nothing to clean up and nothing
//! that could clash with what an administrator has set up. It resolves names by itself, as the
//! host does. It ends with the supervisor, however that ends. Without it a container has its
//! loopback only.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::AsFd;
use rustix::process::Pid;

/// The program.
pub(in super::super) const PROGRAM: &str = "slirp4netns";
/// Its name server, slirp4netns(1).
const NAME_SERVER: &str = "nameserver 10.0.2.3\n";
/// For it to be ready.
const READY: Timespec = Timespec { tv_sec: 10, tv_nsec: 0 };

/// The user-mode network stack of one container.
pub(super) struct Network {
    program: Child,
}

impl Network {
    /// The name that the program is run by, if it is installed and the kernel has what it needs.
    pub(super) fn helper() -> Option<&'static str> {
        is_available().then_some(PROGRAM)
    }

    /// Text of /etc/resolv.conf for a container.
    pub(super) fn resolver(helper: Option<&str>) -> String {
        let of_the_host = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
        if helper.is_none() {
            return of_the_host;
        }
        let kept = of_the_host.lines().filter(|line| {
            ["search", "domain", "options"].iter().any(|word| line.starts_with(word))
        });
        kept.fold(NAME_SERVER.to_owned(), |text, line| format!("{text}{line}\n"))
    }

    /// Connects the network namespace of a process.
    pub(super) fn start(helper: &str, pid: i32) -> io::Result<Self> {
        let mut program = Command::new(helper)
            .args(["--configure", "--mtu=65520", "--disable-host-loopback", "--enable-sandbox"])
            // They end with the supervisor: its pipes are these.
            .args(["--exit-fd=0", "--ready-fd=1"])
            .arg(pid.to_string())
            .arg("tap0")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()?;
        let Some(ready) = program.stdout.take() else {
            return Err(io::Error::other("no pipe"));
        };
        let network = Self { program };
        let mut watched = [PollFd::new(&ready, PollFlags::IN)];
        let is_ready = poll(&mut watched, Some(&READY))? > 0;
        let mut byte = [0; 1];
        let ready = ready.as_fd().try_clone_to_owned()?;
        if !is_ready || File::from(ready).read(&mut byte)? == 0 {
            network.end()?;
            return Err(io::Error::other(format!("{helper} cannot connect the container")));
        }
        Ok(network)
    }

    /// The program.
    pub(super) fn process(&self) -> Option<Pid> {
        i32::try_from(self.program.id()).ok().and_then(Pid::from_raw)
    }

    /// Ends it.
    pub(super) fn end(mut self) -> io::Result<()> {
        self.program.kill()?;
        self.program.wait().map(drop)
    }
}

/// Whether containers can have a network.
pub(in super::super) fn is_available() -> bool {
    let in_path = |directory: PathBuf| directory.join(PROGRAM).is_file();
    Path::new("/dev/net/tun").exists()
        && std::env::var_os("PATH").is_some_and(|path| std::env::split_paths(&path).any(in_path))
}
