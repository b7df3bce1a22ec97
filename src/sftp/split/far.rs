//! The far side: opened when it is needed, asked, and lost.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::Surroundings;
use super::answers::{Answers, Asker};
use super::offers::{Asked, Offers};
use super::output::Event;
use super::router::{is_lone_root, is_the_top};
use crate::backend::{Answer, BackendSession, Console, Control, Gone, Interrupt, Stdin};
use crate::sftp::request::{Request, kind};
use crate::sftp::server;
use crate::sftp::status::Refusal;
use crate::sftp::wire::{Reader, Writer};

/// The handle of `/` while only the mounted root is in it. No server's own is like it.
pub(super) const LONE_ROOT: &[u8] = b"waltgate: / with nothing but what is mounted there";
/// How long a far side that could not be opened is not tried again.
const OFF_FOR: Duration = Duration::from_secs(2);
/// How long the far side may take over a question of the gateway's own.
const ANSWER: Duration = Duration::from_secs(10);

/// The server of the files around the root.
pub(super) struct Far {
    surroundings: Arc<dyn Surroundings>,
    answers: Arc<Answers>,
    events: mpsc::Sender<Event>,
    cancelled: CancellationToken,
    /// Held while a request is sent, and while it is opened.
    state: tokio::sync::Mutex<State>,
    is_open: AtomicBool,
    /// The only entry of a lone root was told.
    lone_root_was_read: AtomicBool,
    control: Mutex<Option<Arc<dyn Control>>>,
    /// Told with its greeting; without a sender once it is lost.
    offers: watch::Receiver<Option<Offers>>,
}

enum State {
    Unopened,
    /// The last attempt, and what came of it.
    Off(Instant, String),
    Open(Box<dyn Stdin>),
    /// The client's input ended.
    Ended,
}

impl Far {
    pub(super) fn new(
        surroundings: Arc<dyn Surroundings>,
        answers: Arc<Answers>,
        events: mpsc::Sender<Event>,
        cancelled: &CancellationToken,
        offers: watch::Receiver<Option<Offers>>,
    ) -> Self {
        Self {
            surroundings,
            answers,
            events,
            cancelled: cancelled.clone(),
            state: tokio::sync::Mutex::new(State::Unopened),
            is_open: AtomicBool::new(false),
            lone_root_was_read: AtomicBool::new(false),
            control: Mutex::default(),
            offers,
        }
    }

    /// Whether it was opened.
    pub(super) fn is_open(&self) -> bool {
        self.is_open.load(Ordering::Relaxed)
    }

    /// What they are the files of.
    pub(super) fn name(&self) -> String {
        self.surroundings.name()
    }

    /// Sends a request, with its length. If there is nobody to send it to, the client is answered.
    pub(super) async fn send(&self, packet: Bytes, waits: bool) -> Result<(), Gone> {
        let (Some(id), Ok(request)) = Request::parse(&packet[4..]) else { return Err(Gone) };
        let mut state = self.state.lock().await;
        if let Some(answer) = self.lone_root(id, &request) {
            return self.tell(Event::Answer(answer.into())).await;
        }
        let refused = match self.opened(&mut state, waits).await {
            Ok(stdin) => {
                let packet = match self.as_offered(id, &request).await {
                    Asked::AsIs => packet.clone(),
                    Asked::As(packet) => packet.into(),
                    Asked::Lacking(extension) => {
                        let lacking = format!("{} has no {extension}", self.name());
                        let refusal = Refusal::lacking(lacking);
                        let answer = server::refused(id, &refusal);
                        return self.tell(Event::Answer(answer.into())).await;
                    }
                };
                let asker = self.answers.asker(&request);
                match self.answers.expect(id, &request, asker).await {
                    Ok(()) => {
                        // If it is gone, so is its output, and all that is owed gets an answer.
                        if stdin.write(packet).await.is_err() {
                            tracing::debug!("the far side of an SFTP session takes no requests");
                        }
                        return Ok(());
                    }
                    Err(reason) => reason,
                }
            }
            Err(reason) => {
                if let Some(answer) = top_alone(id, &request) {
                    return self.tell(Event::Answer(answer.into())).await;
                }
                reason
            }
        };
        self.tell(Event::Answer(server::refused(id, &Refusal::failure(refused)).into())).await
    }

    /// What is asked for a request, by the extensions that there are. Waits for the greeting.
    async fn as_offered(&self, id: u32, request: &Request<'_>) -> Asked {
        if !matches!(request, Request::Extended(_)) {
            return Asked::AsIs;
        }
        let mut offers = self.offers.clone();
        match timeout(ANSWER, offers.wait_for(Option::is_some)).await {
            Ok(Ok(offers)) => match offers.as_ref() {
                Some(offers) => offers.asked(id, request),
                None => Asked::AsIs,
            },
            // It is lost, or will answer in its own way.
            Ok(Err(_)) | Err(_) => Asked::AsIs,
        }
    }

    /// Asks for the path of a file without links and dots; `None` if it is not told.
    pub(super) async fn real_path(&self, path: &[u8], waits: bool) -> Option<Vec<u8>> {
        let mut state = self.state.lock().await;
        let stdin = self.opened(&mut state, waits).await.ok()?;
        let id = self.answers.unused_id();
        let mut request = Writer::answer(kind::REALPATH, id);
        request.string(path);
        let packet = Bytes::from(request.finish());
        let (asker, answer) = oneshot::channel();
        let request = Request::Realpath { path };
        self.answers.expect(id, &request, Asker::Gateway(asker)).await.ok()?;
        stdin.write(packet).await.ok()?;
        // The state stays locked: no request of the client's may have this identifier meanwhile.
        let answer = timeout(ANSWER, answer).await.ok()?.ok()?;
        let mut reader = Reader::new(&answer);
        if reader.byte().ok()? != server::answer::NAME {
            return None;
        }
        reader.uint32().ok()?;
        reader.uint32().ok()?;
        reader.string().ok().filter(|path| path.starts_with(b"/")).map(<[u8]>::to_owned)
    }

    pub(super) async fn eof(&self) {
        let mut state = self.state.lock().await;
        if let State::Open(stdin) = &mut *state
            && stdin.eof().await.is_err()
        {
            tracing::debug!("the far side of an SFTP session is gone before its end");
        }
        *state = State::Ended;
    }

    pub(super) async fn hang_up(&self) {
        let control = self.control.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(control) = control {
            control.hang_up().await;
        }
    }

    async fn opened<'a>(
        &self,
        state: &'a mut State,
        waits: bool,
    ) -> Result<&'a mut Box<dyn Stdin>, String> {
        match state {
            State::Ended => return Err("the session has ended".to_owned()),
            State::Off(tried, reason) if tried.elapsed() < OFF_FOR => return Err(reason.clone()),
            State::Unopened | State::Off(..) => match self.open(waits).await {
                Ok(stdin) => *state = State::Open(stdin),
                Err(reason) => {
                    let said = format!("{} does not answer: {reason}", self.name());
                    let is_news = !matches!(state, State::Off(..));
                    *state = State::Off(Instant::now(), said.clone());
                    if is_news {
                        // The output is gone only with the client.
                        self.tell(Event::Said(said.clone())).await.map_err(|Gone| said.clone())?;
                    }
                    return Err(said);
                }
            },
            State::Open(_) => {}
        }
        match state {
            State::Open(stdin) => Ok(stdin),
            _ => Err("the session has ended".to_owned()),
        }
    }

    async fn open(&self, waits: bool) -> Result<Box<dyn Stdin>, String> {
        let mut console = NoticeConsole { events: &self.events, cancelled: &self.cancelled };
        let session = self.surroundings.open(waits, &mut console).await?;
        let BackendSession { mut stdin, control, output, .. } = session;
        let gone = |_| "it went away".to_owned();
        *self.control.lock().unwrap_or_else(PoisonError::into_inner) = Some(control);
        let mut greeting = Writer::packet(kind::INIT);
        greeting.uint32(server::VERSION);
        stdin.write(greeting.finish().into()).await.map_err(gone)?;
        self.events.send(Event::Opened(output)).await.map_err(|_| "the client left".to_owned())?;
        self.is_open.store(true, Ordering::Relaxed);
        Ok(stdin)
    }

    async fn tell(&self, event: Event) -> Result<(), Gone> {
        self.events.send(event).await.map_err(|_| Gone)
    }

    /// The answer to a request on the handle of a `/` that was opened without surroundings. Its
    /// entries are told once.
    fn lone_root(&self, id: u32, request: &Request<'_>) -> Option<Vec<u8>> {
        match request {
            Request::Readdir { handle } if is_lone_root(handle) => {
                Some(if self.lone_root_was_read.swap(true, Ordering::Relaxed) {
                    server::refused(id, &Refusal::end_of_file())
                } else {
                    self.answers.mount_alone(id)
                })
            }
            Request::Close { handle } if is_lone_root(handle) => {
                self.lone_root_was_read.store(false, Ordering::Relaxed);
                Some(server::status(id, 0, "success"))
            }
            _ => None,
        }
    }
}

/// What `/` is while nothing but the mounted root can be reached.
fn top_alone(id: u32, request: &Request<'_>) -> Option<Vec<u8>> {
    let (path, _) = request.paths().next()?;
    if !is_the_top(path) {
        return None;
    }
    match request {
        Request::Realpath { .. } => Some(server::name(id, b"/").finish()),
        Request::Stat { .. } | Request::Lstat { .. } => {
            let mut answer = Writer::answer(server::answer::ATTRS, id);
            crate::sftp::attributes::write_directory(&mut answer, 0o755);
            Some(answer.finish())
        }
        Request::Opendir { .. } => Some(server::handle_answer(id, LONE_ROOT).finish()),
        _ => None,
    }
}

/// Tells on standard error what the far side is waited for.
struct NoticeConsole<'a> {
    events: &'a mpsc::Sender<Event>,
    cancelled: &'a CancellationToken,
}

#[async_trait]
impl Console for NoticeConsole<'_> {
    fn is_terminal(&self) -> bool {
        false
    }

    async fn say(&mut self, line: &str) {
        if self.events.send(Event::Said(line.to_owned())).await.is_err() {
            tracing::debug!("the client of an SFTP session left before it was told");
        }
    }

    async fn status(&mut self, text: &str) {
        let text = text.strip_prefix("waltgate: ").unwrap_or(text);
        if self.events.try_send(Event::Status(text.to_owned())).is_err() {
            tracing::debug!("a client does not read what it waits for");
        }
    }

    async fn end_status(&mut self) {}

    async fn interrupted(&mut self) -> Interrupt {
        self.cancelled.cancelled().await;
        Interrupt::Gone
    }

    async fn ask(&mut self, _prompt: &str) -> Answer {
        Answer::Gone
    }

    fn discard_input(&mut self) {}
}
