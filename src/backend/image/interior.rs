//! The inside of a connection's container: its network and its sockets, as its programs see them.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::net::UnixListener as StdUnixListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::OnceCell;
use tokio::time::timeout;

use super::container::Container;
use super::network::Network;
use super::{files, host_names};
use crate::backend::{BackendSession, StreamError, StreamTarget, socket};
use crate::sftp::{BoundSocket, Root};

/// For a connection to be made: longer than the kernel tries.
const CONNECTING: Duration = Duration::from_secs(150);
/// Connections that wait to be accepted; OpenSSH's own bound.
const BACKLOG: u32 = 128;

/// What is reached in a container from outside, whatever the image has. Whoever holds one keeps the
/// container from being exchanged for another.
pub(super) struct Interior {
    container: Arc<Container>,
    network: OnceCell<Network>,
    lendings: AtomicUsize,
}

impl Interior {
    pub(super) fn of(container: &Arc<Container>) -> Arc<Self> {
        Arc::new(Self {
            container: Arc::clone(container),
            network: OnceCell::new(),
            lendings: AtomicUsize::new(0),
        })
    }

    /// Counts what is lent to sessions, from 0.
    pub(super) fn next_lending(&self) -> usize {
        self.lendings.fetch_add(1, Ordering::Relaxed)
    }

    /// The container's root directory.
    pub(super) async fn root(&self) -> io::Result<Root> {
        files::root_of(&self.container).await.map_err(io::Error::other)
    }

    /// Opens a connection from inside.
    pub(super) async fn connect(
        self: &Arc<Self>,
        to: &StreamTarget,
    ) -> Result<BackendSession, StreamError> {
        let connecting = async {
            match to {
                StreamTarget::Tcp { host, port } => {
                    let stream = self.connect_tcp(host, *port).await?;
                    Ok(socket::tcp(stream, Arc::clone(self)))
                }
                StreamTarget::Unix { path } => {
                    let (root, path) = (self.root().await?, path.clone());
                    let found = blocking(move || root.socket(path.as_bytes())).await?;
                    Ok(socket::unix(found.connect().await?, Arc::clone(self)))
                }
            }
        };
        let connected: io::Result<_> = match timeout(CONNECTING, connecting).await {
            Ok(connected) => connected,
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        };
        connected.map_err(|error| StreamError::Failed(error.to_string()))
    }

    async fn connect_tcp(&self, host: &str, port: u16) -> io::Result<TcpStream> {
        let mut failure = io::Error::other("no such host");
        for address in host_names::addresses(&self.container, host).await? {
            let socket = self.network().await?.tcp_socket(address).await;
            // A container may have one kind of addresses only.
            let connected = match socket {
                Ok(socket) => socket.connect(SocketAddr::new(address, port)).await,
                Err(error) => Err(error),
            };
            match connected {
                Ok(stream) => {
                    socket::send_at_once(&stream);
                    return Ok(stream);
                }
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }

    /// Listens on the loopback addresses; 0 is any port. Nobody outside the container can connect,
    /// like with a server that has no GatewayPorts, sshd_config(5).
    pub(super) async fn listen_on_loopback(
        &self,
        port: u16,
    ) -> io::Result<(u16, Vec<TcpListener>)> {
        let listener = self.tcp_listener(Ipv4Addr::LOCALHOST.into(), port).await?;
        let port = listener.local_addr()?.port();
        let mut listeners = vec![listener];
        match self.tcp_listener(Ipv6Addr::LOCALHOST.into(), port).await {
            Ok(listener) => listeners.push(listener),
            // The container may have no IPv6.
            Err(error) => tracing::debug!(%error, "listening on ::1 in a container"),
        }
        Ok((port, listeners))
    }

    async fn tcp_listener(&self, address: IpAddr, port: u16) -> io::Result<TcpListener> {
        let socket = self.network().await?.tcp_socket(address).await?;
        // What a former connection left in the kernel does not matter.
        socket.set_reuseaddr(true)?;
        socket.bind(SocketAddr::new(address, port))?;
        socket.listen(BACKLOG)
    }

    /// Listens on a socket of its own.
    pub(super) async fn listen_on_socket(
        &self,
        path: &str,
    ) -> io::Result<(tokio::net::UnixListener, BoundSocket)> {
        let (root, path) = (self.root().await?, path.to_owned());
        let (listener, file): (StdUnixListener, _) =
            blocking(move || root.listen_on_socket(path.as_bytes())).await?;
        Ok((tokio::net::UnixListener::from_std(listener)?, file))
    }

    async fn network(&self) -> io::Result<&Network> {
        let opened = self.network.get_or_try_init(|| Network::of(&self.container));
        opened.await.map_err(io::Error::other)
    }
}

/// Runs what blocks on files.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}
