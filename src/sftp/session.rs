//! SFTP as a session: packets in and out, requests beside each other where that makes no
//! difference.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::task::TaskTracker;

use super::error::FileError;
use super::framing::Frames;
use super::handles::Mark;
use super::request::kind;
use super::root::Root;
use super::server::{Done, NotGreeted, Server};
use crate::backend::{
    BackendSession, Control, ExitStatus, Gone, Output, OutputEvent, Stdin, WindowSize,
};

/// Pieces of input, each at most one SSH packet, that wait to be looked at.
const INPUT_PIECES: usize = 8;
/// The same where each is a whole request.
const INPUT_REQUESTS: usize = 1;
/// Requests that are answered beside each other: while one answer is on its way the next two are
/// being read from the disk. Bounds memory, together with the longest answer.
const BESIDE: usize = 3;
/// Requests that are done in one go, and the bytes of them after which no further one is added.
const IN_ONE_GO: usize = 16;
const IN_ONE_GO_BYTES: usize = 64 * 1024;

/// Serves the files of a root in a session of its own.
///
/// The session exits with 0 when the client's input ends between requests and no file is left
/// open for writing, and else with 1 and the reasons on standard error.
pub fn serve(root: Root) -> BackendSession {
    let (input, control, output) = ends(root, INPUT_PIECES);
    BackendSession {
        stdin: Box::new(input),
        control: Arc::new(control),
        output: Box::new(output),
        output_is_shared: false,
    }
}

/// The ends of a session whose input comes a whole request at a time.
pub(super) fn of_requests(root: Root) -> (SftpInput, SftpControl, SftpOutput) {
    ends(root, INPUT_REQUESTS)
}

fn ends(root: Root, most_pieces: usize) -> (SftpInput, SftpControl, SftpOutput) {
    let server = Arc::new(Server::new(root));
    let (pieces, input) = mpsc::channel(most_pieces);
    let tasks = TaskTracker::new();
    let progress = Arc::new(Progress::default());
    let control = SftpControl {
        server: Arc::clone(&server),
        tasks: tasks.clone(),
        progress: Arc::clone(&progress),
    };
    let output = SftpOutput {
        server,
        tasks,
        input,
        is_open: true,
        progress: Arc::clone(&progress),
        taken: 0,
        frames: Frames::default(),
        next: None,
        running: VecDeque::new(),
        at_once: Vec::new(),
        alone: false,
        elsewhere: Vec::new(),
        ending: None,
        last: None,
    };
    (SftpInput { pieces: Some(pieces), progress }, control, output)
}

/// How far the session is.
#[derive(Default)]
struct Progress {
    /// Pieces of input that came.
    received: AtomicU64,
    /// Pieces in which every request is answered.
    answered: AtomicU64,
    /// The client said that no more will come.
    has_ended: AtomicBool,
}

pub(super) struct SftpInput {
    /// `None` after the end.
    pieces: Option<mpsc::Sender<Bytes>>,
    progress: Arc<Progress>,
}

#[async_trait]
impl Stdin for SftpInput {
    async fn write(&mut self, data: Bytes) -> Result<(), Gone> {
        let pieces = self.pieces.as_ref().ok_or(Gone)?;
        self.progress.received.fetch_add(1, Ordering::Relaxed);
        pieces.send(data).await.map_err(|_| Gone)
    }

    async fn eof(&mut self) -> Result<(), Gone> {
        self.progress.has_ended.store(true, Ordering::Relaxed);
        self.pieces = None;
        Ok(())
    }
}

pub(super) struct SftpControl {
    server: Arc<Server>,
    tasks: TaskTracker,
    progress: Arc<Progress>,
}

impl SftpControl {
    /// What the session's handles begin with.
    pub(super) fn mark(&self) -> Mark {
        self.server.mark()
    }
}

#[async_trait]
impl Control for SftpControl {
    async fn window_change(&self, _size: WindowSize) -> Result<(), Gone> {
        Ok(())
    }

    async fn signal(&self, _name: &str) -> Result<(), Gone> {
        Ok(())
    }

    /// Well, if all that was asked for is answered and every file that was written is closed. Some
    /// clients take no other leave than to drop the connection when they are done.
    async fn ended_on_eof(&self) -> Option<ExitStatus> {
        let Progress { received, answered, .. } = &*self.progress;
        if received.load(Ordering::Relaxed) != answered.load(Ordering::Relaxed) {
            return None;
        }
        let unfinished = close(&self.server).await;
        unfinished.is_empty().then_some(ExitStatus::Code(0))
    }

    /// Waits for what is being done, so that nothing is changed any more afterwards.
    async fn hang_up(&self) {
        self.server.is_cancelled.store(true, Ordering::Relaxed);
        self.tasks.close();
        self.tasks.wait().await;
    }
}

/// What became of some requests.
struct Answers {
    packets: Vec<u8>,
    /// Requests that are not for these files after all.
    elsewhere: Vec<Bytes>,
    /// The rest of the input is not to be looked at.
    not_greeted: bool,
}

pub(super) struct SftpOutput {
    server: Arc<Server>,
    tasks: TaskTracker,
    input: mpsc::Receiver<Bytes>,
    /// More input may come.
    is_open: bool,
    progress: Arc<Progress>,
    /// Pieces of input that were looked at.
    taken: u64,
    frames: Frames,
    /// A packet that waits for those before it.
    next: Option<Bytes>,
    /// In the order of their requests, which is the order of the answers too.
    running: VecDeque<JoinHandle<Answers>>,
    /// Answers to requests before those that run.
    at_once: Vec<u8>,
    /// What runs must have the files to itself.
    alone: bool,
    /// Requests that are not for these files after all, in their order.
    elsewhere: Vec<Bytes>,
    /// All is over; what is open is being closed.
    ending: Option<JoinHandle<VecDeque<OutputEvent>>>,
    /// What is still to be told when all is over.
    last: Option<VecDeque<OutputEvent>>,
}

/// What comes of requests.
pub(super) enum Step {
    Event(OutputEvent),
    /// Requests whose paths lead out of a mounted root, with the paths that they lead to.
    Elsewhere(Vec<Bytes>),
}

#[async_trait]
impl Output for SftpOutput {
    async fn next(&mut self) -> Option<OutputEvent> {
        loop {
            match self.next_step().await? {
                Step::Event(event) => return Some(event),
                // Nothing leads out of a root that is all there is.
                Step::Elsewhere(_) => {}
            }
        }
    }
}

impl SftpOutput {
    /// The next of what comes. Dropping the future loses nothing.
    pub(super) async fn next_step(&mut self) -> Option<Step> {
        loop {
            if !self.elsewhere.is_empty() {
                return Some(Step::Elsewhere(std::mem::take(&mut self.elsewhere)));
            }
            if let Some(last) = &mut self.last {
                return last.pop_front().map(Step::Event);
            }
            if let Some(ending) = &mut self.ending {
                let last = ending.await;
                self.last = Some(last.unwrap_or_else(|error| {
                    tracing::error!(%error, "the end of a session was not reached");
                    VecDeque::from([OutputEvent::Eof, OutputEvent::Exit(ExitStatus::Code(1))])
                }));
                continue;
            }
            let started = self.start_what_may_run();
            if !self.at_once.is_empty() {
                // What is not understood will not be the next time either.
                let answers = std::mem::take(&mut self.at_once);
                return Some(Step::Event(OutputEvent::Stdout(answers.into())));
            }
            if let Err(reason) = started {
                self.end(Some(reason));
                continue;
            }
            let may_start_more =
                self.is_open && !self.alone && self.next.is_none() && self.running.len() < BESIDE;
            let answered = match self.running.front_mut() {
                None if !self.is_open => {
                    self.end(None);
                    continue;
                }
                None => {
                    if !self.frames.has_part() {
                        self.progress.answered.store(self.taken, Ordering::Relaxed);
                    }
                    let piece = self.input.recv().await;
                    self.take(piece);
                    continue;
                }
                Some(first) if may_start_more => tokio::select! {
                    biased;
                    answers = first => answers,
                    piece = self.input.recv() => {
                        self.take(piece);
                        continue;
                    }
                },
                Some(first) => first.await,
            };
            self.running.pop_front();
            self.alone = false;
            match answered {
                Ok(Answers { not_greeted: true, .. }) => {
                    self.end(Some("it does not begin as SFTP does".to_owned()));
                }
                Ok(answers) => {
                    self.elsewhere = answers.elsewhere;
                    if !answers.packets.is_empty() {
                        return Some(Step::Event(OutputEvent::Stdout(answers.packets.into())));
                    }
                }
                Err(error) => {
                    tracing::error!(%error, "a request on files was not answered");
                    self.end(Some("internal error".to_owned()));
                }
            }
        }
    }

    fn take(&mut self, piece: Option<Bytes>) {
        match piece {
            Some(piece) => {
                self.taken += 1;
                self.frames.feed_owned(piece);
            }
            None => self.is_open = false,
        }
    }

    /// Requests on one file must have the results that they have one after the other (section 3
    /// of the draft). Requests that change nothing run beside each other; any other runs when all
    /// before it are done, and all behind it wait.
    fn start_what_may_run(&mut self) -> Result<(), String> {
        while !self.alone && self.running.len() < BESIDE {
            let Some(packet) = self.next_packet()? else { return Ok(()) };
            if self.running.is_empty()
                && let Some(answer) = self.server.answer_at_once(&packet)
            {
                self.at_once.extend(answer);
                if self.at_once.len() < IN_ONE_GO_BYTES {
                    continue;
                }
                return Ok(());
            }
            if changes_nothing(&packet) {
                self.run(vec![packet]);
                continue;
            }
            if !self.running.is_empty() {
                self.next = Some(packet);
                return Ok(());
            }
            let mut bytes = packet.len();
            let mut packets = vec![packet];
            while packets.len() < IN_ONE_GO && bytes < IN_ONE_GO_BYTES {
                let Some(packet) = self.next_packet()? else { break };
                if changes_nothing(&packet) {
                    self.next = Some(packet);
                    break;
                }
                bytes += packet.len();
                packets.push(packet);
            }
            self.alone = true;
            self.run(packets);
        }
        Ok(())
    }

    /// The next packet that is here already.
    fn next_packet(&mut self) -> Result<Option<Bytes>, String> {
        if let Some(packet) = self.next.take() {
            return Ok(Some(packet));
        }
        loop {
            if let Some(packet) = self.frames.next_frame().map_err(|error| error.to_string())? {
                return Ok(Some(packet));
            }
            match self.input.try_recv() {
                Ok(piece) => self.take(Some(piece)),
                Err(mpsc::error::TryRecvError::Empty) => return Ok(None),
                Err(mpsc::error::TryRecvError::Disconnected) => {
                    self.is_open = false;
                    return Ok(None);
                }
            }
        }
    }

    fn run(&mut self, packets: Vec<Bytes>) {
        let server = Arc::clone(&self.server);
        self.running.push_back(self.tasks.spawn_blocking(move || {
            let mut answers =
                Answers { packets: Vec::new(), elsewhere: Vec::new(), not_greeted: false };
            for packet in packets {
                if server.is_cancelled.load(Ordering::Relaxed) {
                    break;
                }
                match server.answer(&packet) {
                    Ok(Done::Answer(packet)) if answers.packets.is_empty() => {
                        answers.packets = packet;
                    }
                    Ok(Done::Answer(packet)) => answers.packets.extend(packet),
                    Ok(Done::Elsewhere(request)) => answers.elsewhere.push(request.into()),
                    Err(NotGreeted) => {
                        answers.not_greeted = true;
                        break;
                    }
                }
            }
            answers
        }));
    }

    /// Nothing more is done: `reason`, if the client's input is not understood, or it ended.
    fn end(&mut self, reason: Option<String>) {
        self.input.close();
        self.running.clear();
        self.server.is_cancelled.store(true, Ordering::Relaxed);
        self.tasks.close();
        let mut complaints = Vec::new();
        if let Some(reason) = reason {
            complaints.push(format!("the client's SFTP is not understood: {reason}"));
        } else if self.frames.has_part() || !self.progress.has_ended.load(Ordering::Relaxed) {
            complaints.push("the client's input ended in the middle".to_owned());
        }
        let (server, tasks) = (Arc::clone(&self.server), self.tasks.clone());
        self.ending = Some(tokio::spawn(async move {
            tasks.wait().await;
            conclusion(complaints, close(&server).await)
        }));
    }
}

/// The last that a session says.
fn conclusion(
    mut complaints: Vec<String>,
    unfinished: Vec<(Vec<u8>, Option<FileError>)>,
) -> VecDeque<OutputEvent> {
    for (path, error) in unfinished {
        let path = String::from_utf8_lossy(&path).escape_debug().to_string();
        complaints.push(match error {
            Some(error) => format!("{path} was not written: {error}"),
            None => format!("{path} was still being written when the session ended"),
        });
    }
    let code = u32::from(!complaints.is_empty());
    let mut last: VecDeque<_> = complaints
        .into_iter()
        .map(|line| OutputEvent::Stderr(format!("waltgate: {line}\n").into()))
        .collect();
    last.extend([OutputEvent::Eof, OutputEvent::Exit(ExitStatus::Code(code))]);
    last
}

/// Closes all that is open; returns what was not written to its end, and why.
async fn close(server: &Arc<Server>) -> Vec<(Vec<u8>, Option<FileError>)> {
    let server = Arc::clone(server);
    // It may block.
    let closing = tokio::task::spawn_blocking(move || server.close());
    closing.await.unwrap_or_else(|error| {
        tracing::error!(%error, "the files of a session were not closed");
        Vec::new()
    })
}

fn changes_nothing(packet: &[u8]) -> bool {
    matches!(
        packet.first(),
        Some(
            &kind::READ
                | &kind::LSTAT
                | &kind::FSTAT
                | &kind::STAT
                | &kind::READLINK
                | &kind::REALPATH
        )
    )
}
