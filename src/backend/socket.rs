//! A connected socket of the gateway's own as a relayed session.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{BackendSession, Control, Gone, Output, OutputEvent, Stdin, WindowSize};

/// Bytes read at once.
const READ: usize = 32 * 1024;

/// Has every write sent as it is: what is forwarded may be single keystrokes.
pub(super) fn send_at_once(stream: &TcpStream) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "cannot switch off Nagle's algorithm");
    }
}

/// The ends of a TCP connection. `keeps` lives as long as they do.
pub(super) fn tcp(stream: TcpStream, keeps: impl Send + Sync + 'static) -> BackendSession {
    let (read, write) = stream.into_split();
    session(read, write, keeps)
}

/// The same of a connection between Unix sockets.
pub(super) fn unix(stream: UnixStream, keeps: impl Send + Sync + 'static) -> BackendSession {
    let (read, write) = stream.into_split();
    session(read, write, keeps)
}

/// It has ended when both directions have.
fn session(
    read: impl AsyncRead + Send + Unpin + 'static,
    write: impl AsyncWrite + Send + Unpin + 'static,
    keeps: impl Send + Sync + 'static,
) -> BackendSession {
    let input_ended = CancellationToken::new();
    let hung_up = CancellationToken::new();
    BackendSession {
        stdin: Box::new(Write {
            write,
            _ended: input_ended.clone().drop_guard(),
            ended: input_ended.clone(),
        }),
        control: Arc::new(HangUp { token: hung_up.clone(), _keeps: keeps }),
        output: Box::new(Read { read: Some(read), buffer: BytesMut::new(), input_ended, hung_up }),
        output_is_shared: false,
    }
}

struct Write<W> {
    write: W,
    ended: CancellationToken,
    _ended: DropGuard,
}

#[async_trait]
impl<W: AsyncWrite + Send + Unpin> Stdin for Write<W> {
    async fn write(&mut self, data: Bytes) -> Result<(), Gone> {
        let written = self.write.write_all(&data).await;
        written.map_err(|_| {
            self.ended.cancel();
            Gone
        })
    }

    async fn eof(&mut self) -> Result<(), Gone> {
        self.ended.cancel();
        self.write.shutdown().await.map_err(|_| Gone)
    }
}

struct Read<R> {
    /// `None` after the peer's end of stream.
    read: Option<R>,
    buffer: BytesMut,
    input_ended: CancellationToken,
    hung_up: CancellationToken,
}

#[async_trait]
impl<R: AsyncRead + Send + Unpin> Output for Read<R> {
    async fn next(&mut self) -> Option<OutputEvent> {
        let Some(read) = &mut self.read else {
            tokio::select! {
                () = self.input_ended.cancelled() => {}
                () = self.hung_up.cancelled() => {}
            }
            return None;
        };
        self.buffer.reserve(READ);
        let count = tokio::select! {
            count = read.read_buf(&mut self.buffer) => count.unwrap_or(0),
            () = self.hung_up.cancelled() => 0,
        };
        if count == 0 {
            self.read = None;
            return Some(OutputEvent::Eof);
        }
        Some(OutputEvent::Stdout(self.buffer.split().freeze()))
    }
}

struct HangUp<K> {
    token: CancellationToken,
    _keeps: K,
}

#[async_trait]
impl<K: Send + Sync> Control for HangUp<K> {
    async fn window_change(&self, _size: WindowSize) -> Result<(), Gone> {
        Ok(())
    }

    async fn signal(&self, _name: &str) -> Result<(), Gone> {
        Ok(())
    }

    async fn hang_up(&self) {
        self.token.cancel();
    }
}
