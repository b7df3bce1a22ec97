//! A TCP connection as a relayed session: what a jump through the gateway is.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{BackendSession, Control, Gone, Output, OutputEvent, Stdin, WindowSize};

/// Bytes read at once.
const READ: usize = 32 * 1024;

/// The ends of a connection. It has ended when both directions have.
pub(super) fn session(stream: TcpStream) -> BackendSession {
    let (read, write) = stream.into_split();
    let input_ended = CancellationToken::new();
    let hung_up = CancellationToken::new();
    BackendSession {
        stdin: Box::new(Write {
            write,
            _ended: input_ended.clone().drop_guard(),
            ended: input_ended.clone(),
        }),
        control: Arc::new(HangUp(hung_up.clone())),
        output: Box::new(Read { read: Some(read), buffer: BytesMut::new(), input_ended, hung_up }),
        output_is_shared: false,
    }
}

struct Write {
    write: OwnedWriteHalf,
    ended: CancellationToken,
    _ended: DropGuard,
}

#[async_trait]
impl Stdin for Write {
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

struct Read {
    /// `None` after the peer's end of stream.
    read: Option<OwnedReadHalf>,
    buffer: BytesMut,
    input_ended: CancellationToken,
    hung_up: CancellationToken,
}

#[async_trait]
impl Output for Read {
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

struct HangUp(CancellationToken);

#[async_trait]
impl Control for HangUp {
    async fn window_change(&self, _size: WindowSize) -> Result<(), Gone> {
        Ok(())
    }

    async fn signal(&self, _name: &str) -> Result<(), Gone> {
        Ok(())
    }

    async fn hang_up(&self) {
        self.0.cancel();
    }
}
