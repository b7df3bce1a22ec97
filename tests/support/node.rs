//! Real SSH servers as nodes, each in namespaces of its own.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::thread;

use super::log::{Log, end_of};
use super::process::{Process, bound_command};
use super::testbed::{Testbed, unused_address};
use super::{DEADLINE, eventually};

const NODE_SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/demo/node.sh");

/// A node with a volatile root file system and a /persist that stays.
pub(crate) struct Node {
    name: String,
    server: &'static str,
    address: SocketAddr,
    directory: PathBuf,
    running: Option<(Process, Log)>,
}

impl Node {
    /// A node that is switched off.
    pub(crate) fn new(testbed: &Testbed, name: &str, server: &'static str) -> Self {
        let directory = testbed.path(format!("nodes/{name}"));
        fs::create_dir_all(directory.join("persist")).unwrap();
        fs::create_dir_all(directory.join("overlay")).unwrap();
        let node = Self {
            name: name.to_owned(),
            server,
            address: unused_address(),
            directory,
            running: None,
        };
        node.use_host_key(&testbed.path("node_host_key"));
        node.authorize(&testbed.path("identity.pub"));
        node
    }

    /// Its name.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Where its SSH server listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The process that all of its own descend from; it must run.
    pub(crate) fn pid(&self) -> u32 {
        self.running.as_ref().unwrap().0.pid()
    }

    /// Its /persist, as seen from outside.
    pub(crate) fn persist(&self) -> PathBuf {
        self.directory.join("persist")
    }

    /// From its next start on, accepts this public key only.
    pub(crate) fn authorize(&self, public_key: &Path) {
        fs::copy(public_key, self.directory.join("authorized_keys")).unwrap();
    }

    /// From its next start on, presents this host key.
    pub(crate) fn use_host_key(&self, private_key: &Path) {
        fs::copy(private_key, self.directory.join("host_key")).unwrap();
    }

    /// From its next start on, has these lines at the end of its sshd_config.
    pub(crate) fn configure(&self, lines: &str) {
        fs::write(self.directory.join("sshd_config.extra"), lines).unwrap();
    }

    /// From its next start on, has this login too, which takes the same keys. For sshd only.
    pub(crate) fn add_login(&self, login: &str) {
        let account = format!("{login}:x:4711:65534::/persist:/bin/sh\n");
        fs::write(self.directory.join("passwd.extra"), account).unwrap();
        // The usual file is in a directory of root's alone.
        fs::copy(self.directory.join("authorized_keys"), self.persist().join("keys")).unwrap();
        self.configure(&format!("Match User {login}\nAuthorizedKeysFile /persist/keys\n"));
    }

    /// The same node at SSH's own port, where nodes that a WalT server lists are looked for.
    pub(crate) fn on_port_22(mut self) -> Self {
        self.address.set_port(22);
        self
    }

    /// The same node, started.
    pub(crate) fn started(mut self) -> Self {
        self.start();
        self
    }

    /// Starts it and waits until it accepts connections.
    pub(crate) fn start(&mut self) {
        assert!(self.running.is_none(), "{} runs already", self.name);
        let mut process = Process::spawn(
            bound_command("unshare")
                .args(["--pid", "--fork", "--kill-child", "--mount", "--uts", "sh", NODE_SCRIPT])
                .arg(&self.directory)
                .args([&self.name, self.server])
                .args([self.address.ip().to_string(), self.address.port().to_string()])
                .env_clear()
                .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::piped()),
        );
        let log = Log::collect(process.stderr.take().unwrap());
        // Each server says so once it listens.
        let listening = log.wait_for(0, DEADLINE, |log| {
            end_of(log, "Server listening on").or_else(|| end_of(log, "Not backgrounding"))
        });
        assert!(listening.is_some(), "node {} does not start:\n{}", self.name, log.text());
        self.running = Some((process, log));
    }

    /// Pulls the plug: its server and all sessions on it are gone when this returns.
    pub(crate) fn unplug(&mut self) {
        if let Some((process, _)) = self.running.take() {
            process.kill();
            eventually("the node's server is gone", || TcpStream::connect(self.address).is_err());
        }
    }

    /// A reboot: everything outside /persist is lost.
    pub(crate) fn reboot(&mut self) {
        self.unplug();
        self.start();
    }

    /// What its server logged since it was started.
    pub(crate) fn log(&self) -> String {
        self.running.as_ref().map(|(_, log)| log.text()).unwrap_or_default()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("--- log of node {}\n{}", self.name, self.log());
        }
    }
}
