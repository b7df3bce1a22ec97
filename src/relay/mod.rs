//! Carries a running session: bytes, EOF, window changes, signals and the exit status between
//! the client's channel and the backend's session.
//!
//! The directions never wait for each other, and out-of-band requests overtake data. All of it
//! runs in the task of the client's channel: a byte takes no hop of its own here.

pub mod spool;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::{broadcast, mpsc, watch};
use tracing::warn;

use crate::backend::{
    BackendSession, Control, ExitStatus, Gone, Output, OutputEvent, SessionEnd, Stdin, WindowSize,
};
use spool::{Consumer, Piece, SpoolLimits, Stream, spool};

/// How long a backend may take over hanging up.
const HANG_UP: Duration = Duration::from_secs(5);

/// How long a program may take over the last input of a client that is gone.
const LAST_INPUT: Duration = Duration::from_secs(10);

/// The client's EOF, as a mark in its input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InputEof;

/// The client's requests that overtake its data.
#[derive(Debug)]
pub struct ControlRequests {
    /// The terminal's size, RFC 4254 section 6.7: only the latest matters.
    pub window: watch::Receiver<WindowSize>,
    /// Signal names without "SIG", RFC 4254 section 6.9.
    pub signals: mpsc::Receiver<String>,
}

/// The client's channel, as far as output goes to it.
#[async_trait]
pub trait ClientOutput: Send + Sync {
    /// Waits until the client's window took the bytes.
    async fn write(&self, stream: Stream, bytes: Bytes) -> Result<(), Gone>;
    /// Shows a line of the gateway's own, without its end. Never called during a write.
    async fn notice(&self, line: &str) -> Result<(), Gone>;
    /// No more output will follow.
    async fn eof(&self) -> Result<(), Gone>;
    /// Resolves when the channel was closed by the client or its connection is gone.
    async fn gone(&self);
}

/// The client's side of a session.
pub struct Client<'a> {
    /// Its input, already being read into the queue.
    pub input: &'a mut Consumer<InputEof>,
    /// Its out-of-band requests.
    pub control: &'a mut ControlRequests,
    /// Where output goes.
    pub output: &'a dyn ClientOutput,
    /// What the gateway has to say to it meanwhile.
    pub notices: &'a mut Notices,
}

/// Lines of the gateway's own that come while a program runs.
pub struct Notices(Option<broadcast::Receiver<String>>);

impl Notices {
    /// Those that come from now on.
    pub fn from(source: &broadcast::Sender<String>) -> Self {
        Self(Some(source.subscribe()))
    }

    /// None ever.
    pub fn none() -> Self {
        Self(None)
    }

    /// The next one. Dropping the future loses nothing.
    async fn next(&mut self) -> String {
        while let Some(source) = &mut self.0 {
            match source.recv().await {
                Ok(line) => return line,
                // A client that takes nothing misses the oldest ones.
                Err(broadcast::error::RecvError::Lagged(_)) => {}
                Err(broadcast::error::RecvError::Closed) => self.0 = None,
            }
        }
        std::future::pending().await
    }
}

/// Bytes carried, for the log.
#[derive(Debug, Default)]
pub struct Counters {
    /// From the client to the backend.
    pub received: AtomicU64,
    /// From the backend to the client.
    pub sent: AtomicU64,
}

/// Runs a session to its end.
pub async fn run(
    client: Client<'_>,
    session: BackendSession,
    limits: &SpoolLimits,
    counters: &Counters,
) -> SessionEnd {
    let Client { input, control, output, notices } = client;
    let BackendSession { mut stdin, control: backend, output: mut source, output_is_shared } =
        session;

    let outward = async {
        if output_is_shared {
            carry_shared_output(source.as_mut(), output, notices, limits, counters).await
        } else {
            carry_output(source.as_mut(), output, notices, counters).await
        }
    };
    let inward = carry_input(input, stdin.as_mut(), counters);
    let controlling = carry_control(control, backend.as_ref());
    tokio::pin!(outward, inward, controlling);
    let (mut input_carried, mut control_carried) = (false, false);
    loop {
        tokio::select! {
            // What is typed after a window change must find the new size, as in a direct session.
            biased;
            () = &mut controlling, if !control_carried => control_carried = true,
            () = &mut inward, if !input_carried => input_carried = true,
            ended = &mut outward => match ended {
                Ok(Some(status)) => return SessionEnd::Exited(status),
                Ok(None) => return SessionEnd::BackendLost,
                Err(Gone) => break,
            },
            () = output.gone() => break,
        }
    }
    // What the client sent before it closed is still meant for the program.
    if !input_carried && tokio::time::timeout(LAST_INPUT, inward).await.is_err() {
        warn!("the last input of a client that went away was not taken and is dropped");
    }
    if let Ok(Some(status)) = tokio::time::timeout(HANG_UP, backend.ended_on_eof()).await {
        return SessionEnd::Exited(status);
    }
    hang_up(&backend).await;
    SessionEnd::ClientGone
}

async fn hang_up(backend: &Arc<dyn Control>) {
    if tokio::time::timeout(HANG_UP, backend.hang_up()).await.is_err() {
        warn!("the session's backend did not hang up within {} s", HANG_UP.as_secs());
    }
}

async fn carry_input(input: &mut Consumer<InputEof>, stdin: &mut dyn Stdin, counters: &Counters) {
    let mut open = true;
    loop {
        let piece = match input.pop().await {
            Ok(Some(piece)) => piece,
            Ok(None) => return,
            Err(error) => {
                // Bytes are lost: going on would corrupt what the program reads.
                warn!(%error, "cannot read back spooled input");
                return;
            }
        };
        // After the program stopped reading, input is still taken and dropped, so that the
        // client can go on to send its EOF and the connection is not held up.
        if !open {
            continue;
        }
        let taken = match piece {
            Piece::Bytes(_, bytes) => {
                let len = bytes.len() as u64;
                let taken = stdin.write(bytes).await;
                counters.received.fetch_add(len, Ordering::Relaxed);
                taken
            }
            Piece::Mark(InputEof) => stdin.eof().await,
        };
        open = taken.is_ok();
    }
}

async fn carry_control(requests: &mut ControlRequests, backend: &dyn Control) {
    let ControlRequests { window, signals } = requests;
    loop {
        let done = tokio::select! {
            changed = window.changed() => {
                if changed.is_err() {
                    return;
                }
                let size = *window.borrow_and_update();
                backend.window_change(size).await
            }
            Some(name) = signals.recv() => backend.signal(&name).await,
        };
        if done.is_err() {
            return;
        }
    }
}

/// The program's exit status, `None` if its backend went away without one.
type Ended = Result<Option<ExitStatus>, Gone>;

async fn carry_output(
    source: &mut dyn Output,
    client: &dyn ClientOutput,
    notices: &mut Notices,
    counters: &Counters,
) -> Ended {
    let mut status = None;
    loop {
        let event = tokio::select! {
            event = source.next() => event,
            line = notices.next() => Some(OutputEvent::Notice(line)),
        };
        let Some(event) = event else { return Ok(status) };
        deliver(event, client, counters, &mut status).await?;
    }
}

async fn deliver(
    event: OutputEvent,
    client: &dyn ClientOutput,
    counters: &Counters,
    status: &mut Option<ExitStatus>,
) -> Result<(), Gone> {
    let (stream, bytes) = match event {
        OutputEvent::Stdout(bytes) => (Stream::Data, bytes),
        OutputEvent::Stderr(bytes) => (Stream::Stderr, bytes),
        OutputEvent::Notice(line) => return client.notice(&line).await,
        OutputEvent::Eof => return client.eof().await,
        OutputEvent::Exit(ended) => {
            *status = Some(ended);
            return Ok(());
        }
    };
    let len = bytes.len() as u64;
    client.write(stream, bytes).await?;
    counters.sent.fetch_add(len, Ordering::Relaxed);
    Ok(())
}

/// A mark in the output queue.
enum OutputMark {
    Notice(String),
    Eof,
    Exit(ExitStatus),
}

/// As [`carry_output`], but reads on while the client does not.
async fn carry_shared_output(
    source: &mut dyn Output,
    client: &dyn ClientOutput,
    notices: &mut Notices,
    limits: &SpoolLimits,
    counters: &Counters,
) -> Ended {
    let (producer, mut consumer) = spool(limits.clone());
    let reading = async move {
        while let Some(event) = source.next().await {
            producer
                .push(match event {
                    OutputEvent::Stdout(bytes) => Piece::Bytes(Stream::Data, bytes),
                    OutputEvent::Stderr(bytes) => Piece::Bytes(Stream::Stderr, bytes),
                    OutputEvent::Notice(line) => Piece::Mark(OutputMark::Notice(line)),
                    OutputEvent::Eof => Piece::Mark(OutputMark::Eof),
                    OutputEvent::Exit(status) => Piece::Mark(OutputMark::Exit(status)),
                })
                .await;
        }
    };
    let writing = async {
        let mut status = None;
        loop {
            let popped = tokio::select! {
                popped = consumer.pop() => popped,
                line = notices.next() => {
                    client.notice(&line).await?;
                    continue;
                }
            };
            let event = match popped {
                Ok(None) => return Ok(status),
                Ok(Some(Piece::Bytes(Stream::Data, bytes))) => OutputEvent::Stdout(bytes),
                Ok(Some(Piece::Bytes(Stream::Stderr, bytes))) => OutputEvent::Stderr(bytes),
                Ok(Some(Piece::Mark(OutputMark::Notice(line)))) => OutputEvent::Notice(line),
                Ok(Some(Piece::Mark(OutputMark::Eof))) => OutputEvent::Eof,
                Ok(Some(Piece::Mark(OutputMark::Exit(status)))) => OutputEvent::Exit(status),
                Err(error) => {
                    warn!(%error, "cannot read back spooled output");
                    return Ok(None);
                }
            };
            deliver(event, client, counters, &mut status).await?;
        }
    };
    tokio::pin!(reading, writing);
    let mut all_read = false;
    loop {
        tokio::select! {
            () = &mut reading, if !all_read => all_read = true,
            ended = &mut writing => return ended,
        }
    }
}
