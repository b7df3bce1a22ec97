//! The network of a container, used from here: no program of the image has a part in it.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::net::TcpSocket;
use tokio::sync::oneshot;

use super::container::Container;
use super::host_process::{OutOfReach, open_of_first};

/// A container's network namespace, network_namespaces(7).
pub(super) struct Network(OwnedFd);

impl Network {
    /// That of a container that runs.
    pub(super) async fn of(container: &Container) -> Result<Self, OutOfReach> {
        let opening = open_of_first(container, |proc| {
            let flags = OFlags::RDONLY | OFlags::CLOEXEC;
            rustix::fs::open(proc.join("ns/net"), flags, Mode::empty())
                .map_err(|error| error.to_string())
        });
        Ok(Self(opening.await?))
    }

    /// A socket of the namespace, for addresses like this one. Wherever it is used from, it stays one
    /// of the namespace it was made in.
    pub(super) async fn tcp_socket(&self, address: IpAddr) -> io::Result<TcpSocket> {
        let family = match address {
            IpAddr::V4(_) => AddressFamily::INET,
            IpAddr::V6(_) => AddressFamily::INET6,
        };
        let namespace = self.0.try_clone()?;
        let (sender, made) = oneshot::channel();
        // The thread goes into the namespace and ends there: it never does anything else.
        std::thread::Builder::new().name("container-socket".to_owned()).spawn(move || {
            let socket = make_socket(&namespace, family);
            if sender.send(socket).is_err() {
                tracing::debug!("nobody waits any more for a socket in a container");
            }
        })?;
        let socket = made.await.map_err(io::Error::other)??;
        Ok(TcpSocket::from_std_stream(socket.into()))
    }
}

fn make_socket(namespace: impl AsFd, family: AddressFamily) -> io::Result<OwnedFd> {
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(rustix::net::socket_with(family, SocketType::STREAM, flags, None)?)
}
