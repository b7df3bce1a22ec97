//! rsync's three streams and its end, as a session.

use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus as ProcessStatus;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use rustix::net::Shutdown;
use rustix::process::Signal;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::net::UnixStream;
use tokio::process::{Child, ChildStderr, ChildStdout};
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::backend::{
    BackendSession, Control, ExitStatus, Gone, Output, OutputEvent, Stdin, WindowSize,
};

/// Bytes read at once: what a pipe holds, pipe(7).
const READ: usize = 64 * 1024;
/// For the process to end once its input is gone; it gives rsync a few seconds itself.
const END: Duration = Duration::from_secs(10);

/// The session of a process that has become rsync.
pub(super) fn of(mut child: Child, input: UnixStream) -> io::Result<BackendSession> {
    let (Some(stdout), Some(stderr)) = (child.stdout.take(), child.stderr.take()) else {
        return Err(io::Error::other("it has no pipes"));
    };
    let input = Arc::new(input);
    let (ended, end) = watch::channel(None);
    let given_up = CancellationToken::new();
    // Ends with the process, which ends with the socket.
    tokio::spawn(follow(child, ended, given_up.clone()));
    Ok(BackendSession {
        stdin: Box::new(Input(Arc::clone(&input))),
        control: Arc::new(Ending { input, end: end.clone(), given_up }),
        output: Box::new(Streams {
            stdout: Some(stdout),
            stderr: Some(stderr),
            buffers: [BytesMut::new(), BytesMut::new()],
            end,
            is_over: false,
        }),
        output_is_shared: false,
    })
}

async fn follow(
    mut child: Child,
    ended: watch::Sender<Option<ExitStatus>>,
    given_up: CancellationToken,
) {
    let by_itself = tokio::select! {
        status = child.wait() => Some(status),
        () = given_up.cancelled() => None,
    };
    let status = match by_itself {
        Some(status) => status,
        None => match timeout(END, child.wait()).await {
            Ok(status) => status,
            Err(_) => {
                if let Err(error) = child.start_kill() {
                    tracing::warn!(%error, "rsync of a session that ended cannot be killed");
                }
                child.wait().await
            }
        },
    };
    match status {
        Ok(status) => ended.send_replace(Some(status_of(status))),
        Err(error) => {
            tracing::warn!(%error, "rsync cannot be waited for");
            None
        }
    };
}

fn status_of(status: ProcessStatus) -> ExitStatus {
    let code = status.code().and_then(|code| u32::try_from(code).ok());
    match (code, status.signal()) {
        (None, Some(number)) => ExitStatus::Signal {
            name: signal_name(number),
            core_dumped: false,
            message: String::new(),
        },
        (code, _) => ExitStatus::Code(code.unwrap_or(255)),
    }
}

/// The name without "SIG", RFC 4254 section 6.10.
fn signal_name(number: i32) -> String {
    let known = match Signal::from_named_raw(number) {
        Some(Signal::ABORT) => "ABRT",
        Some(Signal::FPE) => "FPE",
        Some(Signal::HUP) => "HUP",
        Some(Signal::ILL) => "ILL",
        Some(Signal::INT) => "INT",
        Some(Signal::KILL) => "KILL",
        Some(Signal::PIPE) => "PIPE",
        Some(Signal::SEGV) => "SEGV",
        Some(Signal::TERM) => "TERM",
        _ => return format!("{number}@waltgate"),
    };
    known.to_owned()
}

struct Input(Arc<UnixStream>);

#[async_trait]
impl Stdin for Input {
    async fn write(&mut self, mut data: Bytes) -> Result<(), Gone> {
        while !data.is_empty() {
            self.0.writable().await.map_err(|_| Gone)?;
            match self.0.try_write(&data) {
                Ok(written) => drop(data.split_to(written)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return Err(Gone),
            }
        }
        Ok(())
    }

    async fn eof(&mut self) -> Result<(), Gone> {
        rustix::net::shutdown(&*self.0, Shutdown::Write).map_err(|_| Gone)
    }
}

struct Ending {
    input: Arc<UnixStream>,
    end: watch::Receiver<Option<ExitStatus>>,
    given_up: CancellationToken,
}

impl Ending {
    /// The process sees that nobody is at the other end, and ends rsync.
    fn hang_up(&self) {
        if let Err(error) = rustix::net::shutdown(&*self.input, Shutdown::Both) {
            tracing::debug!(%error, "the socket of rsync");
        }
        self.given_up.cancel();
    }
}

#[async_trait]
impl Control for Ending {
    async fn window_change(&self, _size: WindowSize) -> Result<(), Gone> {
        Ok(())
    }

    async fn signal(&self, name: &str) -> Result<(), Gone> {
        if matches!(name, "HUP" | "INT" | "KILL" | "TERM") {
            Self::hang_up(self);
        }
        Ok(())
    }

    /// Waits for the end, so that nothing is changed any more afterwards.
    async fn hang_up(&self) {
        Self::hang_up(self);
        let mut end = self.end.clone();
        // Without a sender it has ended.
        end.wait_for(Option::is_some).await.ok();
    }
}

struct Streams {
    /// `None` after their ends.
    stdout: Option<ChildStdout>,
    stderr: Option<ChildStderr>,
    buffers: [BytesMut; 2],
    end: watch::Receiver<Option<ExitStatus>>,
    is_over: bool,
}

#[async_trait]
impl Output for Streams {
    async fn next(&mut self) -> Option<OutputEvent> {
        let [out, err] = &mut self.buffers;
        while self.stdout.is_some() || self.stderr.is_some() {
            tokio::select! {
                piece = piece(&mut self.stdout, out) => match piece {
                    Some(piece) => return Some(OutputEvent::Stdout(piece)),
                    None => self.stdout = None,
                },
                piece = piece(&mut self.stderr, err) => match piece {
                    Some(piece) => return Some(OutputEvent::Stderr(piece)),
                    None => self.stderr = None,
                },
            }
            if self.stdout.is_none() && self.stderr.is_none() {
                return Some(OutputEvent::Eof);
            }
        }
        if self.is_over {
            return None;
        }
        let status = self.end.wait_for(Option::is_some).await.ok().and_then(|end| end.clone());
        self.is_over = true;
        status.map(OutputEvent::Exit)
    }
}

/// What can be read; `None` at the end. Never ends without a stream.
async fn piece(
    stream: &mut Option<impl AsyncRead + Unpin>,
    buffer: &mut BytesMut,
) -> Option<Bytes> {
    let Some(stream) = stream else { return std::future::pending().await };
    buffer.reserve(READ);
    match stream.read_buf(buffer).await {
        Ok(0) => None,
        Ok(_) => Some(buffer.split().freeze()),
        Err(error) => {
            tracing::debug!(%error, "a pipe of rsync");
            None
        }
    }
}
