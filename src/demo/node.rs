//! A node of the demonstration: a real SSH server with a file system of its own.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use tokio::net::TcpListener;

use super::program::{Service, script_in_namespaces};
use super::{DemoError, make_directory};

/// In namespaces of its own, so that killing it is pulling the plug.
const NAMESPACES: [&str; 5] = ["--pid", "--fork", "--kill-child", "--mount", "--uts"];

/// Which SSH server a node runs.
#[derive(Debug, Clone, Copy)]
pub(super) enum NodeServer {
    OpenSsh,
    Dropbear,
}

/// A running node.
pub(super) struct DemoNode {
    name: &'static str,
    address: SocketAddr,
    service: Service,
}

impl DemoNode {
    /// Starts one that presents `host_key` and lets in the owner of `identity`, and waits until
    /// it accepts connections.
    pub(super) async fn start(
        name: &'static str,
        address: &str,
        server: NodeServer,
        directory: &Path,
        host_key: &Path,
        identity: &Path,
    ) -> Result<Self, DemoError> {
        make_directory(&directory.join("persist"))?;
        make_directory(&directory.join("overlay"))?;
        copy(host_key, &directory.join("host_key"))?;
        copy(&identity.with_extension("pub"), &directory.join("authorized_keys"))?;
        let address = free_port(address)
            .await
            .map_err(|source| DemoError::File { path: PathBuf::from(address), source })?;

        let mut command = script_in_namespaces(&NAMESPACES, include_str!("node.sh"));
        command
            .arg(directory)
            .arg(name)
            .arg(match server {
                NodeServer::OpenSsh => "sshd",
                NodeServer::Dropbear => "dropbear",
            })
            .args([address.ip().to_string(), address.port().to_string()]);
        let service = Service::start(command, name, |line| {
            line.starts_with("Server listening on") || line.ends_with("Not backgrounding")
        })
        .await?;
        Ok(Self { name, address, service })
    }

    /// Its name.
    pub(super) fn name(&self) -> &str {
        self.name
    }

    /// Where its SSH server listens.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Ends it and everything that runs on it.
    pub(super) async fn close(self) {
        self.service.kill().await;
    }
}

/// Another demonstration may have nodes at the same address.
async fn free_port(address: &str) -> io::Result<SocketAddr> {
    let address: IpAddr = address.parse().map_err(io::Error::other)?;
    TcpListener::bind((address, 0)).await?.local_addr()
}

fn copy(from: &Path, to: &Path) -> Result<(), DemoError> {
    std::fs::copy(from, to)
        .map(|_| ())
        .map_err(|source| DemoError::File { path: to.to_owned(), source })
}
