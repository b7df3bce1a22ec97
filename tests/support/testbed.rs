//! One test's directory, keys and network addresses.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU8, Ordering};

use tempfile::TempDir;

use super::process::run_tool;
use super::{GatewaySetup, Node};

/// A file system in memory, on every Linux machine.
pub(crate) const MEMORY: &str = "/dev/shm";

/// What the parts of one test share. Declare it first, so that it is dropped last.
pub(crate) struct Testbed {
    directory: TempDir,
}

impl Testbed {
    /// A new directory with the gateway's key for nodes and the host key that all nodes present,
    /// as on a WalT platform.
    pub(crate) fn new() -> Self {
        Self::in_directory(&std::env::temp_dir())
    }

    /// The same in memory, for tests that write much to disk.
    pub(crate) fn in_memory() -> Self {
        Self::in_directory(Path::new(MEMORY))
    }

    fn in_directory(top: &Path) -> Self {
        let directory = tempfile::Builder::new().prefix("waltgate-test-").tempdir_in(top).unwrap();
        let testbed = Self { directory };
        testbed.generate_key("identity", "ed25519");
        testbed.generate_key("node_host_key", "ed25519");
        testbed.write(
            "known_hosts",
            format!("walt.node {}\n", testbed.read("node_host_key.pub").trim_end()),
        );
        testbed
    }

    /// Makes a key pair NAME, NAME.pub and returns the private key's path.
    pub(crate) fn generate_key(&self, name: &str, kind: &str) -> PathBuf {
        let path = self.path(name);
        run_tool(Command::new("ssh-keygen").args(["-q", "-t", kind, "-N", "", "-f"]).arg(&path));
        path
    }

    /// A path in the test's directory.
    pub(crate) fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Reads a file of the test's directory.
    pub(crate) fn read(&self, name: impl AsRef<Path>) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    /// Writes a file of the test's directory, making its parent directories.
    pub(crate) fn write(&self, name: impl AsRef<Path>, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        path
    }

    /// A running OpenSSH node.
    pub(crate) fn sshd(&self, name: &str) -> Node {
        Node::new(self, name, "sshd").started()
    }

    /// A running dropbear node.
    pub(crate) fn dropbear(&self, name: &str) -> Node {
        Node::new(self, name, "dropbear").started()
    }

    /// An OpenSSH node that is switched off.
    pub(crate) fn sshd_off(&self, name: &str) -> Node {
        Node::new(self, name, "sshd")
    }

    /// A gateway to configure and start.
    pub(crate) fn gateway(&self) -> GatewaySetup<'_> {
        GatewaySetup::new(self)
    }
}

/// An address on a loopback network that no other test uses, with a free port.
pub(crate) fn unused_address() -> SocketAddr {
    static CALLS: AtomicU8 = AtomicU8::new(1);
    let call = CALLS.fetch_add(1, Ordering::Relaxed);
    assert_ne!(call, u8::MAX, "a test process has 254 loopback addresses");
    let [.., high, low] = std::process::id().to_be_bytes();
    // 127.64.0.0/10 stays clear of the addresses that people use by hand.
    let address = Ipv4Addr::new(127, 64 | (high & 0x3f), low, call);
    let listener = TcpListener::bind((IpAddr::V4(address), 0)).unwrap();
    listener.local_addr().unwrap()
}
