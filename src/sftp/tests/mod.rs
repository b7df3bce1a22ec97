//! The servers, talked to as clients do.

mod arbitrary;
mod hostile;
mod operations;
mod protocol;
mod scp;
mod split;

use std::collections::VecDeque;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use tempfile::TempDir;

use super::framing::Frames;
use super::room::Room;
use super::root::Root;
use super::wire::{Reader, Writer};
use crate::backend::{BackendSession, ExitStatus, OutputEvent};

/// Status codes of section 7 of the draft.
const OK: u32 = 0;
const EOF: u32 = 1;
const NO_SUCH_FILE: u32 = 2;
const PERMISSION_DENIED: u32 = 3;
const FAILURE: u32 = 4;
const BAD_MESSAGE: u32 = 5;
const UNSUPPORTED: u32 = 8;

/// Open flags of section 6.3.
const READ: u32 = 1;
const WRITE: u32 = 2;
const APPEND: u32 = 4;
const CREATE: u32 = 8;
const EXCLUSIVE: u32 = 0x20;

/// A directory to serve, with one beside it that is not.
struct Tree {
    directory: TempDir,
}

impl Tree {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir_all(directory.path().join("root/home")).unwrap();
        fs::create_dir(directory.path().join("outside")).unwrap();
        fs::write(directory.path().join("outside/secret"), "secret").unwrap();
        Self { directory }
    }

    /// A path in what is served.
    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join("root").join(name)
    }

    /// Clients of the ways to serve it, and where it is for each: as `/`, and as a directory of a
    /// node that does not answer.
    async fn views(&self) -> [(Client, &'static str); 2] {
        [(Client::greeted(self).await, ""), (Client::greets(self.alone()).await, "/persist")]
    }

    fn outside(&self) -> PathBuf {
        self.directory.path().join("outside")
    }

    fn root(&self) -> Root {
        Root::open(&self.path(""), b"/home").unwrap()
    }
}

/// A client of a session.
struct Client {
    session: BackendSession,
    /// What came while something was being sent.
    came: VecDeque<OutputEvent>,
    frames: Frames,
    answers: VecDeque<Bytes>,
    stderr: String,
    exit: Option<ExitStatus>,
    id: u32,
}

impl Client {
    /// One that has greeted.
    async fn greeted(tree: &Tree) -> Self {
        Self::greets(super::serve(tree.root())).await
    }

    async fn greets(session: BackendSession) -> Self {
        let mut client = Self::of(session);
        let mut greeting = Writer::packet(1);
        greeting.uint32(3);
        client.send(greeting.finish()).await;
        assert_eq!(client.answer().await[0], 2);
        client
    }

    fn silent(tree: &Tree) -> Self {
        Self::of(super::serve(tree.root()))
    }

    fn of(session: BackendSession) -> Self {
        Self {
            session,
            came: VecDeque::new(),
            frames: Frames::default(),
            answers: VecDeque::new(),
            stderr: String::new(),
            exit: None,
            id: 0,
        }
    }

    async fn send(&mut self, bytes: impl Into<Bytes>) {
        let BackendSession { stdin, output, .. } = &mut self.session;
        let mut sending = stdin.write(bytes.into());
        let mut is_open = true;
        loop {
            tokio::select! {
                biased;
                sent = &mut sending => return sent.unwrap(),
                event = output.next(), if is_open => match event {
                    Some(event) => self.came.push_back(event),
                    None => is_open = false,
                },
            }
        }
    }

    /// The next of what comes.
    async fn next(&mut self) -> Option<OutputEvent> {
        match self.came.pop_front() {
            Some(event) => Some(event),
            None => self.session.output.next().await,
        }
    }

    /// The next packet.
    async fn answer(&mut self) -> Bytes {
        loop {
            if let Some(answer) = self.frames.next_frame().unwrap() {
                return answer;
            }
            match self.next().await {
                Some(OutputEvent::Stdout(bytes)) => self.frames.feed(&bytes),
                Some(OutputEvent::Stderr(text)) => self.stderr += &String::from_utf8_lossy(&text),
                other => panic!("instead of an answer: {other:?}"),
            }
        }
    }

    /// Makes a request and sends it; returns its identifier.
    async fn request(&mut self, kind: u8, fields: impl FnOnce(&mut Writer)) -> u32 {
        self.id += 1;
        let mut request = Writer::answer(kind, self.id);
        fields(&mut request);
        self.send(request.finish()).await;
        self.id
    }

    /// The answer to a request, without its identifier: type and fields.
    async fn ask(&mut self, kind: u8, fields: impl FnOnce(&mut Writer)) -> (u8, Bytes) {
        let id = self.request(kind, fields).await;
        let answer = self.answer().await;
        assert_eq!(answer[1..5], id.to_be_bytes());
        (answer[0], answer.slice(5..))
    }

    /// The status that a request gets.
    async fn status(&mut self, kind: u8, fields: impl FnOnce(&mut Writer)) -> u32 {
        let (kind, answer) = self.ask(kind, fields).await;
        assert_eq!(kind, 101, "an answer other than a status: {answer:?}");
        Reader::new(&answer).uint32().unwrap()
    }

    async fn open(&mut self, path: impl AsRef<[u8]>, flags: u32) -> Result<Bytes, u32> {
        let (kind, answer) = self
            .ask(3, |request| {
                request.string(path.as_ref());
                request.uint32(flags);
                request.uint32(0);
            })
            .await;
        match kind {
            102 => Ok(answer.slice(4..)),
            _ => Err(Reader::new(&answer).uint32().unwrap()),
        }
    }

    async fn write(&mut self, handle: &[u8], offset: u64, data: &[u8]) -> u32 {
        self.status(6, |request| {
            request.string(handle);
            request.uint64(offset);
            request.string(data);
        })
        .await
    }

    async fn read(&mut self, handle: &[u8], offset: u64, length: u32) -> Result<Bytes, u32> {
        let (kind, answer) = self
            .ask(5, |request| {
                request.string(handle);
                request.uint64(offset);
                request.uint32(length);
            })
            .await;
        match kind {
            103 => Ok(answer.slice(4..)),
            _ => Err(Reader::new(&answer).uint32().unwrap()),
        }
    }

    async fn close(&mut self, handle: &[u8]) -> u32 {
        self.status(4, |request| request.string(handle)).await
    }

    /// A request that has paths only.
    async fn paths(&mut self, kind: u8, paths: &[&[u8]]) -> u32 {
        self.status(kind, |request| paths.iter().for_each(|path| request.string(path))).await
    }

    /// An extended request that has paths only.
    async fn extended(&mut self, name: &str, paths: &[&[u8]]) -> u32 {
        self.status(200, |request| {
            request.string(name.as_bytes());
            paths.iter().for_each(|path| request.string(path));
        })
        .await
    }

    /// The path in an answer that has one.
    async fn name(&mut self, kind: u8, path: &[u8]) -> Result<Vec<u8>, u32> {
        let (kind, answer) = self.ask(kind, |request| request.string(path)).await;
        let mut reader = Reader::new(&answer);
        let first = reader.uint32().unwrap();
        match kind {
            104 => Ok(reader.string().unwrap().to_owned()),
            _ => Err(first),
        }
    }

    /// Ends the input and takes what comes; returns the exit code.
    async fn finish(&mut self) -> u32 {
        self.session.stdin.eof().await.unwrap();
        self.drain().await
    }

    async fn drain(&mut self) -> u32 {
        while let Some(event) = self.next().await {
            match event {
                OutputEvent::Stdout(bytes) => self.answers.push_back(bytes),
                OutputEvent::Stderr(text) => self.stderr += &String::from_utf8_lossy(&text),
                OutputEvent::Eof | OutputEvent::Notice(_) => {}
                OutputEvent::Exit(status) => self.exit = Some(status),
            }
        }
        match self.exit {
            Some(ExitStatus::Code(code)) => code,
            ref other => panic!("ended with {other:?}"),
        }
    }
}
