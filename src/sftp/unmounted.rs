//! A server of files in which a directory that clients may look for is not mounted: they are told why.
//!
//! All is the server's own, also what it may have under that name. Only what it knows nothing of is
//! said in other words.

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;

use super::framing::Frames;
use super::request::Request;
use super::root::is_within;
use super::server::{answer, refused};
use super::status::Refusal;
use super::wire::Reader;
use crate::backend::{BackendSession, Gone, Output, OutputEvent, Stdin};

/// Requests that are looked at and not answered. Clients send fewer.
const MOST_ASKED: usize = 4096;

/// Passes a session of an SFTP server on. What does not exist in the directory `mount` of `/` is said
/// not to for this reason, and once more in a line at the end.
pub fn unmounted(session: BackendSession, mount: &'static [u8], reason: String) -> BackendSession {
    let asked = Arc::new(Asked::default());
    let BackendSession { stdin, control, output, output_is_shared } = session;
    let frames = Some(Frames::default());
    BackendSession {
        stdin: Box::new(Input { stdin, mount, frames, asked: Arc::clone(&asked) }),
        control,
        output: Box::new(Answers {
            output,
            frames: Some(Frames::default()),
            asked,
            reason,
            was_missed: false,
            ready: VecDeque::new(),
        }),
        output_is_shared,
    }
}

/// Identifiers of requests for what is in the directory.
#[derive(Default)]
struct Asked(Mutex<HashSet<u32>>);

impl Asked {
    fn lock(&self) -> MutexGuard<'_, HashSet<u32>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Input {
    stdin: Box<dyn Stdin>,
    mount: &'static [u8],
    /// `None` once what comes is not SFTP.
    frames: Option<Frames>,
    asked: Arc<Asked>,
}

impl Input {
    fn look_at(&mut self, data: Bytes) {
        let Some(frames) = &mut self.frames else { return };
        frames.feed_owned(data);
        loop {
            match frames.next_frame() {
                Ok(Some(packet)) => {
                    if let (Some(id), Ok(request)) = Request::parse(&packet) {
                        let mut asked = self.asked.lock();
                        let is_ours = request.paths().any(|(path, _)| is_within(path, self.mount));
                        if is_ours && asked.len() < MOST_ASKED {
                            asked.insert(id);
                        }
                    }
                }
                Ok(None) => return,
                Err(_) => {
                    self.frames = None;
                    return;
                }
            }
        }
    }
}

#[async_trait]
impl Stdin for Input {
    async fn write(&mut self, data: Bytes) -> Result<(), Gone> {
        self.look_at(data.clone());
        self.stdin.write(data).await
    }

    async fn eof(&mut self) -> Result<(), Gone> {
        self.stdin.eof().await
    }
}

struct Answers {
    output: Box<dyn Output>,
    /// `None` once what comes is not SFTP.
    frames: Option<Frames>,
    asked: Arc<Asked>,
    reason: String,
    /// Something was looked for that the mount would have had.
    was_missed: bool,
    ready: VecDeque<OutputEvent>,
}

impl Answers {
    fn take(&mut self, bytes: Bytes) {
        let Some(mut frames) = self.frames.take() else {
            self.ready.push_back(OutputEvent::Stdout(bytes));
            return;
        };
        frames.feed_owned(bytes);
        loop {
            match frames.next_with_length() {
                Ok(Some(packet)) => {
                    let answer = self.in_words(packet);
                    self.ready.push_back(OutputEvent::Stdout(answer));
                }
                Ok(None) => break self.frames = Some(frames),
                Err(_) => break self.ready.push_back(OutputEvent::Stdout(frames.take_rest())),
            }
        }
    }

    fn in_words(&mut self, packet: Bytes) -> Bytes {
        let mut reader = Reader::new(&packet[4..]);
        let (Ok(kind), Ok(id)) = (reader.byte(), reader.uint32()) else { return packet };
        if kind == answer::VERSION || !self.asked.lock().remove(&id) {
            return packet;
        }
        let missing = Refusal::missing(self.reason.clone());
        if kind != answer::STATUS || reader.uint32() != Ok(missing.code) {
            return packet;
        }
        self.was_missed = true;
        refused(id, &missing).into()
    }

    /// The last words come before the end.
    fn end(&mut self) {
        let rest = self.frames.take().map(|mut frames| frames.take_rest()).unwrap_or_default();
        if !rest.is_empty() {
            self.ready.push_back(OutputEvent::Stdout(rest));
        }
        if std::mem::take(&mut self.was_missed) {
            let line = format!("waltgate: {}\n", self.reason);
            self.ready.push_back(OutputEvent::Stderr(line.into()));
        }
    }
}

#[async_trait]
impl Output for Answers {
    async fn next(&mut self) -> Option<OutputEvent> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(event);
            }
            match self.output.next().await {
                Some(OutputEvent::Stdout(bytes)) => self.take(bytes),
                Some(event @ OutputEvent::Stderr(_)) => return Some(event),
                event => {
                    self.end();
                    match event {
                        Some(event) => self.ready.push_back(event),
                        None if self.ready.is_empty() => return None,
                        None => {}
                    }
                }
            }
        }
    }
}
