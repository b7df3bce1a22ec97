//! The server's part of scp's older protocol: `scp -t` takes files, `scp -f` gives them.
//!
//! Clients start it as a command line, which [`Command::parse`] understands as a shell would.
//! The two sides take turns: a line that announces something, an answer of one byte, data, an
//! answer. One conversation has a thread of its own, as nearly all of it is waiting for the other
//! side or for the disk.

mod command;
mod conversation;
mod sink;
mod source;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use self::command::Direction;
use self::conversation::Conversation;
use super::root::Root;
use crate::backend::{
    BackendSession, Control, ExitStatus, Gone, Output, OutputEvent, Stdin, WindowSize,
};

pub use self::command::Command;

/// Pieces of input, each at most one SSH packet, that wait to be written.
const INPUT_PIECES: usize = 8;
/// Pieces of output, each at most a block of a file, that wait for the client.
const OUTPUT_PIECES: usize = 2;
/// A directory's depth is bounded by the length of paths, and each level takes some of this.
const STACK_BYTES: usize = 16 << 20;

/// Runs a command on the files of a root, in a session of its own.
///
/// The session exits with 0 when everything was copied, and else with 1.
///
/// # Errors
/// That no thread can be started.
///
/// # Panics
/// Outside a Tokio runtime.
pub fn serve(root: Root, command: Command) -> std::io::Result<BackendSession> {
    let (pieces, input) = mpsc::channel(INPUT_PIECES);
    let (output, events) = mpsc::channel(OUTPUT_PIECES);
    let cancelled = CancellationToken::new();
    let (running, ended) = watch::channel(None);
    let takes = command.direction == Direction::Take;
    let mut conversation =
        Conversation::new(Handle::current(), input, output, cancelled.clone(), command.is_verbose);
    std::thread::Builder::new().name("scp".to_owned()).stack_size(STACK_BYTES).spawn(
        move || {
            let code = run(&root, &command, &mut conversation);
            // The files are let go before the end is told.
            drop(root);
            running.send_replace(Some(code));
            conversation.end(code);
            drop(running);
        },
    )?;
    let has_ended = Arc::new(AtomicBool::new(false));
    Ok(BackendSession {
        stdin: Box::new(ScpInput { pieces: Some(pieces), has_ended: Arc::clone(&has_ended) }),
        control: Arc::new(ScpControl { cancelled, ended, takes, has_ended }),
        output: Box::new(ScpOutput { events }),
        output_is_shared: false,
    })
}

fn run(root: &Root, command: &Command, conversation: &mut Conversation) -> u32 {
    let paths = command.paths(root);
    let ended = match command.direction {
        Direction::Take => sink::run(root, command, &paths, conversation),
        Direction::Give => source::run(root, command, &paths, conversation),
    };
    u32::from(ended.is_err() || conversation.has_failed())
}

struct ScpInput {
    /// `None` after the end.
    pieces: Option<mpsc::Sender<Bytes>>,
    has_ended: Arc<AtomicBool>,
}

#[async_trait]
impl Stdin for ScpInput {
    async fn write(&mut self, data: Bytes) -> Result<(), Gone> {
        let pieces = self.pieces.as_ref().ok_or(Gone)?;
        pieces.send(data).await.map_err(|_| Gone)
    }

    async fn eof(&mut self) -> Result<(), Gone> {
        self.has_ended.store(true, Ordering::Relaxed);
        self.pieces = None;
        Ok(())
    }
}

struct ScpControl {
    cancelled: CancellationToken,
    /// The exit code; without a sender when the thread is done.
    ended: watch::Receiver<Option<u32>>,
    /// Files go to the server.
    takes: bool,
    /// The client said that no more will come.
    has_ended: Arc<AtomicBool>,
}

#[async_trait]
impl Control for ScpControl {
    async fn window_change(&self, _size: WindowSize) -> Result<(), Gone> {
        Ok(())
    }

    async fn signal(&self, name: &str) -> Result<(), Gone> {
        if matches!(name, "HUP" | "INT" | "KILL" | "TERM") {
            self.cancelled.cancel();
        }
        Ok(())
    }

    /// The end of the input ends a sink, which has nothing to say then that it could wait for.
    async fn ended_on_eof(&self) -> Option<ExitStatus> {
        if !self.takes || !self.has_ended.load(Ordering::Relaxed) {
            return None;
        }
        let mut ended = self.ended.clone();
        let code = *ended.wait_for(Option::is_some).await.ok()?;
        (code == Some(0)).then_some(ExitStatus::Code(0))
    }

    /// Waits for the end, so that nothing is changed any more afterwards.
    async fn hang_up(&self) {
        self.cancelled.cancel();
        let mut ended = self.ended.clone();
        while ended.changed().await.is_ok() {}
    }
}

struct ScpOutput {
    events: mpsc::Receiver<OutputEvent>,
}

#[async_trait]
impl Output for ScpOutput {
    async fn next(&mut self) -> Option<OutputEvent> {
        self.events.recv().await
    }
}
