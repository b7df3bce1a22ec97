//! Notices that a peer is gone although its stream is not read.
//!
//! russh leaves a transport unread while a channel's receiver is full. What a dead peer's end says
//! is then never read either, and no SSH keepalive is sent; the kernel still knows. It also answers
//! for a client that is stopped, which SSH keepalives would count as gone.

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use rustix::net::sockopt;
use tokio::io::Interest;
use tokio::net::TcpStream;
use tracing::debug;

/// Silence before the kernel asks whether the peer is there, the pause between two questions, and
/// how many may go unanswered: tcp(7), TCP_KEEPIDLE and its neighbours.
const SILENCE: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_secs(15);
const UNANSWERED: u32 = 4;

/// Watches a TCP connection for errors.
pub(crate) struct PeerWatch(Option<TcpStream>);

impl PeerWatch {
    /// Switches the kernel's keepalive on, and watches. Without success it notices nothing.
    pub(crate) fn of(stream: &TcpStream) -> Self {
        Self(watch(stream).inspect_err(|error| debug!(%error, "cannot watch a connection")).ok())
    }

    /// Resolves when the connection is broken: reset, or without an answer for too long.
    pub(crate) async fn broken(&self) {
        let Some(socket) = &self.0 else {
            return std::future::pending().await;
        };
        // An error of the watch itself is no news of the peer.
        if socket.ready(Interest::ERROR).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// The same connection once more, for its errors only.
fn watch(stream: &TcpStream) -> io::Result<TcpStream> {
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, SILENCE)?;
    sockopt::set_tcp_keepintvl(stream, PAUSE)?;
    sockopt::set_tcp_keepcnt(stream, UNANSWERED)?;
    // epoll(7) knows a socket by its descriptor: russh's is registered already.
    let descriptor = stream.as_fd().try_clone_to_owned()?;
    TcpStream::from_std(descriptor.into())
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn a_reset_is_noticed_on_a_stream_that_nobody_reads() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (ours, _) = listener.accept().await.unwrap();
        let watch = PeerWatch::of(&ours);
        // Unread data is there, and the end behind it cannot be seen by reading.
        client.writable().await.unwrap();
        client.try_write(&[0; 1024]).unwrap();
        assert!(futures_util::poll!(Box::pin(watch.broken())).is_pending());
        sockopt::set_socket_linger(&client, Some(Duration::ZERO)).unwrap();
        drop(client);
        watch.broken().await;
    }
}
