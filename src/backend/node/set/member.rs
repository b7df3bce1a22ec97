//! One node's part of a set's session.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::{Semaphore, broadcast, mpsc, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::input::{MemberInput, Piece};
use super::lines::{self, Lines};
use crate::backend::node::words;
use crate::backend::{
    Answer, Attachment, BackendError, BackendSession, Console, Control, ExitStatus, Interrupt,
    Output, OutputEvent, SessionRequest, Stdin, WindowSize,
};
use crate::names::NodeName;

/// How long a node may take over hanging up.
const HANG_UP: Duration = Duration::from_secs(5);

/// What the client asks of all nodes besides input.
pub(super) struct Orders {
    pub(super) window: watch::Receiver<Option<WindowSize>>,
    pub(super) signals: broadcast::Receiver<String>,
    /// The client is gone.
    pub(super) hang_up: CancellationToken,
}

/// A node, before its part begins.
pub(super) struct Member {
    pub(super) name: NodeName,
    pub(super) attachment: Arc<dyn Attachment>,
    pub(super) request: Arc<SessionRequest>,
    pub(super) prefix: Bytes,
    pub(super) output: mpsc::Sender<OutputEvent>,
    pub(super) input: MemberInput,
    pub(super) orders: Orders,
    pub(super) turns: Arc<Semaphore>,
}

/// A node, after its part has ended.
pub(super) struct Ended {
    pub(super) name: NodeName,
    pub(super) outcome: Outcome,
}

/// How a node's part ended.
#[derive(Debug)]
pub(super) enum Outcome {
    Exited(ExitStatus),
    /// The command did not run to its end there, and why.
    Failed(String),
}

impl Member {
    /// Runs the command on the node, from its turn to its end.
    pub(super) async fn run(self) -> Ended {
        let Self { name, attachment, request, prefix, output, mut input, mut orders, turns } = self;
        let has_terminal = request.pty.is_some();
        let mut shown = Shown::new(prefix, output, has_terminal);
        let outcome = async {
            let hang_up = orders.hang_up.clone();
            let Some(turn) = hang_up.run_until_cancelled(turns.acquire()).await else {
                return Outcome::Failed("not begun".to_owned());
            };
            let mut console = MemberConsole {
                shown: &mut shown,
                has_terminal,
                waiting_told: false,
                interrupted: input.interrupted.clone(),
                hang_up: hang_up.clone(),
            };
            let started = attachment.start(&request, &mut console).await;
            let session = match started {
                Ok(session) => session,
                Err(BackendError::Interrupted) => return Outcome::Failed("interrupted".to_owned()),
                Err(error) => {
                    let reason = words::of(error);
                    shown.notice(&reason).await;
                    return Outcome::Failed(reason);
                }
            };
            drop(turn);
            input.runs.store(true, Ordering::Relaxed);
            carry(session, &mut input, &mut orders, &mut shown).await
        }
        .await;
        Ended { name, outcome }
    }
}

/// Carries everything between the client and a node's program, until that ends.
async fn carry(
    session: BackendSession,
    input: &mut MemberInput,
    orders: &mut Orders,
    shown: &mut Shown,
) -> Outcome {
    let BackendSession { mut stdin, control, mut output, .. } = session;
    let (lost, hang_up) = (input.lost.clone(), orders.hang_up.clone());
    let failure = {
        let feeding = feed(&mut input.pieces, stdin.as_mut());
        let ordering = pass_on(&mut orders.window, &mut orders.signals, control.as_ref());
        let showing = show(output.as_mut(), shown);
        tokio::pin!(feeding, ordering, showing);
        let (mut fed, mut ordered) = (false, false);
        loop {
            tokio::select! {
                () = &mut ordering, if !ordered => ordered = true,
                () = &mut feeding, if !fed => fed = true,
                status = &mut showing => return match status {
                    Some(status) => Outcome::Exited(status),
                    None => Outcome::Failed("its connection was lost".to_owned()),
                },
                () = lost.cancelled() => break "it did not take its input in time",
                () = hang_up.cancelled() => break "the client went away",
            }
        }
    };
    shown.notice(failure).await;
    if timeout(HANG_UP, control.hang_up()).await.is_err() {
        debug!("a node did not hang up in time");
    }
    Outcome::Failed(failure.to_owned())
}

/// When the program reads no more, the queue is closed, so that the client does not wait for it.
async fn feed(pieces: &mut mpsc::Receiver<Piece>, stdin: &mut dyn Stdin) {
    while let Some(piece) = pieces.recv().await {
        let taken = match piece {
            Piece::Bytes(bytes) => stdin.write(bytes).await,
            Piece::Eof => stdin.eof().await,
        };
        if taken.is_err() {
            break;
        }
    }
    pieces.close();
}

async fn pass_on(
    window: &mut watch::Receiver<Option<WindowSize>>,
    signals: &mut broadcast::Receiver<String>,
    control: &dyn Control,
) {
    loop {
        let done = tokio::select! {
            changed = window.changed() => {
                if changed.is_err() {
                    return;
                }
                let size = *window.borrow_and_update();
                match size {
                    Some(size) => control.window_change(size).await,
                    None => Ok(()),
                }
            }
            signal = signals.recv() => match signal {
                Ok(name) => control.signal(&name).await,
                Err(broadcast::error::RecvError::Lagged(missed)) => {
                    debug!(missed, "signals came faster than a node takes them");
                    Ok(())
                }
                Err(broadcast::error::RecvError::Closed) => return,
            },
        };
        if done.is_err() {
            return;
        }
    }
}

/// Shows all output; the exit status, if there was one.
async fn show(output: &mut dyn Output, shown: &mut Shown) -> Option<ExitStatus> {
    let mut status = None;
    while let Some(event) = output.next().await {
        match event {
            OutputEvent::Stdout(bytes) => shown.stdout(&bytes).await,
            OutputEvent::Stderr(bytes) => shown.stderr(&bytes).await,
            OutputEvent::Notice(line) => shown.notice(&line).await,
            OutputEvent::Eof => {}
            OutputEvent::Exit(ended) => status = Some(ended),
        }
    }
    shown.finish().await;
    status
}

/// What the client sees of a node. Nothing more when the client is gone: its end comes another way.
struct Shown {
    stdout: Lines,
    stderr: Lines,
    prefix: Bytes,
    output: mpsc::Sender<OutputEvent>,
    has_terminal: bool,
}

impl Shown {
    fn new(prefix: Bytes, output: mpsc::Sender<OutputEvent>, has_terminal: bool) -> Self {
        let (stdout, stderr) = (Lines::new(prefix.clone()), Lines::new(prefix.clone()));
        Self { stdout, stderr, prefix, output, has_terminal }
    }

    async fn stdout(&mut self, bytes: &[u8]) {
        let mut left = bytes;
        while !left.is_empty() {
            let lines = self.stdout.take_from(&mut left);
            self.send(OutputEvent::Stdout, lines).await;
        }
    }

    async fn stderr(&mut self, bytes: &[u8]) {
        let mut left = bytes;
        while !left.is_empty() {
            let lines = self.stderr.take_from(&mut left);
            self.send(OutputEvent::Stderr, lines).await;
        }
    }

    async fn finish(&mut self) {
        let (stdout, stderr) = (self.stdout.finish(), self.stderr.finish());
        self.send(OutputEvent::Stdout, stdout).await;
        self.send(OutputEvent::Stderr, stderr).await;
    }

    /// A line of the gateway's own about this node.
    async fn notice(&mut self, line: &str) {
        self.deliver(lines::notice(&self.prefix, line, self.has_terminal)).await;
    }

    async fn send(&self, event: fn(Bytes) -> OutputEvent, lines: Bytes) {
        if !lines.is_empty() {
            self.deliver(event(lines)).await;
        }
    }

    async fn deliver(&self, event: OutputEvent) {
        if self.output.send(event).await.is_err() {
            debug!("output of a node has nobody to go to");
        }
    }
}

/// What a node's start has to say goes among the output; nobody can be asked.
struct MemberConsole<'a> {
    shown: &'a mut Shown,
    has_terminal: bool,
    waiting_told: bool,
    interrupted: CancellationToken,
    hang_up: CancellationToken,
}

#[async_trait]
impl Console for MemberConsole<'_> {
    fn is_terminal(&self) -> bool {
        // A status line of one's own is not to be had.
        false
    }

    async fn say(&mut self, line: &str) {
        self.shown.notice(line).await;
    }

    async fn status(&mut self, text: &str) {
        if !std::mem::replace(&mut self.waiting_told, true) {
            self.shown.notice(text).await;
        }
    }

    async fn end_status(&mut self) {
        self.waiting_told = false;
    }

    async fn interrupted(&mut self) -> Interrupt {
        tokio::select! {
            () = self.hang_up.cancelled() => Interrupt::Gone,
            () = self.interrupted.cancelled(), if self.has_terminal => Interrupt::Key,
        }
    }

    async fn ask(&mut self, _prompt: &str) -> Answer {
        Answer::Gone
    }

    fn discard_input(&mut self) {}
}
