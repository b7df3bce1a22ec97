//! The streams of a process: three pipes, or a terminal.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use rustix::fd::OwnedFd;
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::termios::{Winsize, tcsetwinsize};
use tokio::io::{AsyncReadExt, AsyncWrite};
use tokio::net::unix::pipe;

use crate::backend::WindowSize;
use crate::backend::image::engine::{OutputChunk, ProcessOutput, ProcessStreams};

/// As much as is read at once: what a pipe holds, pipe(7).
const PIECE: usize = 64 << 10;

/// Makes three pipes: the process's ends, and the gateway's.
pub(super) fn pipes(stdin: bool) -> io::Result<(Vec<OwnedFd>, ProcessStreams)> {
    let (input, writer) = pipe_with(PipeFlags::CLOEXEC)?;
    let (stdout, output) = pipe_with(PipeFlags::CLOEXEC)?;
    let (stderr, errors) = pipe_with(PipeFlags::CLOEXEC)?;
    let writer: Box<dyn AsyncWrite + Send + Unpin> = if stdin {
        Box::new(InputPipe(Some(pipe::Sender::from_owned_fd(writer)?)))
    } else {
        Box::new(InputPipe(None))
    };
    let streams = ProcessStreams {
        stdin: writer,
        output: Box::new(OutputPipes {
            stdout: Some(pipe::Receiver::from_owned_fd(stdout)?),
            stderr: Some(pipe::Receiver::from_owned_fd(stderr)?),
        }),
    };
    Ok((vec![input, output, errors], streams))
}

/// Shutting it down closes it, which is the end of the process's input.
struct InputPipe(Option<pipe::Sender>);

impl AsyncWrite for InputPipe {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.0 {
            Some(pipe) => Pin::new(pipe).poll_write(context, data),
            None => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0 = None;
        Poll::Ready(Ok(()))
    }
}

struct OutputPipes {
    stdout: Option<pipe::Receiver>,
    stderr: Option<pipe::Receiver>,
}

#[async_trait]
impl ProcessOutput for OutputPipes {
    async fn next(&mut self) -> Option<OutputChunk> {
        while self.stdout.is_some() || self.stderr.is_some() {
            tokio::select! {
                data = read(&mut self.stdout), if self.stdout.is_some() => match data {
                    Some(data) => return Some(OutputChunk::Stdout(data)),
                    None => self.stdout = None,
                },
                data = read(&mut self.stderr), if self.stderr.is_some() => match data {
                    Some(data) => return Some(OutputChunk::Stderr(data)),
                    None => self.stderr = None,
                },
            }
        }
        None
    }
}

/// The next piece. Dropping the future loses nothing: it is read in the poll that returns it.
async fn read(source: &mut Option<pipe::Receiver>) -> Option<Bytes> {
    let source = source.as_mut()?;
    // No memory is taken while nothing comes.
    source.readable().await.ok()?;
    let mut data = BytesMut::with_capacity(PIECE);
    match source.read_buf(&mut data).await {
        Ok(1..) => Some(data.freeze()),
        Ok(0) => None,
        Err(error) => {
            tracing::debug!(%error, "output of a program");
            None
        }
    }
}

/// The gateway's end of a terminal.
#[derive(Clone)]
pub(super) struct Terminal(Arc<OwnedFd>);

impl Terminal {
    /// Takes over a terminal's master.
    pub(super) fn new(master: OwnedFd) -> io::Result<Self> {
        fcntl_setfl(&master, fcntl_getfl(&master)? | OFlags::NONBLOCK)?;
        Ok(Self(Arc::new(master)))
    }

    /// Sets its size.
    pub(super) fn resize(&self, size: WindowSize) -> io::Result<()> {
        let (Ok(rows), Ok(columns)) = (u16::try_from(size.rows), u16::try_from(size.columns))
        else {
            // A terminal's size is kept in 16 bits, ioctl_tty(2).
            return Ok(());
        };
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        Ok(tcsetwinsize(&self.0, size)?)
    }

    /// Its two directions. To the system a terminal is no pipe, but it is read and written as one:
    /// the error that ends its output, EIO of pty(7), says that no process has it any more.
    pub(super) fn streams(&self) -> io::Result<ProcessStreams> {
        let input = pipe::Sender::from_owned_fd_unchecked(self.0.try_clone()?)?;
        Ok(ProcessStreams {
            stdin: Box::new(TerminalInput(input)),
            output: Box::new(self.output()?),
        })
    }

    /// Reads and drops all that is written to it, in a task of its own.
    pub(super) fn drain(&self) -> io::Result<()> {
        let mut output = self.output()?;
        tokio::spawn(async move { while output.next().await.is_some() {} });
        Ok(())
    }

    fn output(&self) -> io::Result<OutputPipes> {
        let output = pipe::Receiver::from_owned_fd_unchecked(self.0.try_clone()?)?;
        Ok(OutputPipes { stdout: Some(output), stderr: None })
    }
}

/// A terminal has no end of input but the key for it.
struct TerminalInput(pipe::Sender);

impl AsyncWrite for TerminalInput {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, data)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
