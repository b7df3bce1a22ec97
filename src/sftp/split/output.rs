//! What goes to the client: the answers of both sides, as they come.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::{mpsc, watch};

use super::answers::Answers;
use super::far::Far;
use super::offers::Offers;
use crate::backend::{ExitStatus, Output, OutputEvent};
use crate::sftp::framing::Frames;
use crate::sftp::session::{SftpOutput, Step};

/// What the router and the far side have to tell.
pub(super) enum Event {
    /// An answer to the client, with its length.
    Answer(Bytes),
    /// A line for the user.
    Said(String),
    /// The same, of which only the first is shown until another line.
    Status(String),
    /// The far side's output.
    Opened(Box<dyn Output>),
}

/// Requests that are on their way to the far side.
type Forwarding = Pin<Box<dyn Future<Output = ()> + Send>>;

pub(super) struct SplitOutput {
    near: SftpOutput,
    /// How the near side ended.
    near_ended: Option<ExitStatus>,
    far: Arc<Far>,
    answers: Arc<Answers>,
    far_output: Option<FarOutput>,
    far_failed: bool,
    /// Told what the far side has; gone with it.
    offers: Option<watch::Sender<Option<Offers>>>,
    events: mpsc::Receiver<Event>,
    forwarding: Option<Forwarding>,
    shows_status: bool,
    ready: VecDeque<OutputEvent>,
    is_over: bool,
}

struct FarOutput {
    output: Box<dyn Output>,
    frames: Frames,
    is_greeted: bool,
}

impl SplitOutput {
    pub(super) fn new(
        near: SftpOutput,
        far: Arc<Far>,
        answers: Arc<Answers>,
        events: mpsc::Receiver<Event>,
        offers: watch::Sender<Option<Offers>>,
    ) -> Self {
        Self {
            near,
            near_ended: None,
            far,
            answers,
            far_output: None,
            far_failed: false,
            offers: Some(offers),
            events,
            forwarding: None,
            shows_status: false,
            ready: VecDeque::new(),
            is_over: false,
        }
    }

    fn end_if_all_ended(&mut self) {
        let Some(status) = self.near_ended.clone() else { return };
        // The router has ended before the near side; what it said comes first.
        while let Ok(event) = self.events.try_recv() {
            self.take_event(event);
        }
        let near_failed = status != ExitStatus::Code(0);
        // The near side ends with the client's input, or when that makes no sense.
        if !near_failed && (self.far_output.is_some() || self.forwarding.is_some()) {
            return;
        }
        let code = u32::from(near_failed || self.far_failed);
        self.ready.push_back(OutputEvent::Eof);
        self.ready.push_back(OutputEvent::Exit(ExitStatus::Code(code)));
        self.is_over = true;
    }

    fn take_event(&mut self, event: Event) {
        match event {
            Event::Answer(answer) => self.ready.push_back(OutputEvent::Stdout(answer)),
            Event::Said(line) => self.say(&line),
            Event::Status(_) if self.shows_status => {}
            Event::Status(line) => {
                self.say(&line);
                self.shows_status = true;
            }
            Event::Opened(output) => {
                let frames = Frames::default();
                self.far_output = Some(FarOutput { output, frames, is_greeted: false });
            }
        }
    }

    fn say(&mut self, line: &str) {
        self.shows_status = false;
        self.ready.push_back(OutputEvent::Stderr(format!("waltgate: {line}\n").into()));
    }

    fn take_near(&mut self, step: Option<Step>) {
        match step {
            Some(Step::Event(OutputEvent::Eof)) => {}
            Some(Step::Event(OutputEvent::Exit(status))) => self.near_ended = Some(status),
            Some(Step::Event(event)) => self.ready.push_back(event),
            Some(Step::Elsewhere(requests)) => {
                let far = Arc::clone(&self.far);
                self.forwarding = Some(Box::pin(async move {
                    for request in requests {
                        if far.send(request, false).await.is_err() {
                            tracing::debug!("a request was not passed on: the session has ended");
                        }
                    }
                }));
            }
            None => {
                self.near_ended.get_or_insert(ExitStatus::Code(1));
            }
        }
    }

    fn take_far(&mut self, event: Option<OutputEvent>) {
        match event {
            Some(OutputEvent::Stdout(bytes)) => {
                if let Err(reason) = self.take_answers(bytes) {
                    self.lose_far(&reason);
                }
            }
            Some(event @ (OutputEvent::Stderr(_) | OutputEvent::Notice(_))) => {
                self.ready.push_back(event);
            }
            Some(OutputEvent::Eof) => {}
            Some(OutputEvent::Exit(status)) => self.far_failed |= status != ExitStatus::Code(0),
            None => {
                self.lose_far("its connection ended");
            }
        }
    }

    fn take_answers(&mut self, bytes: Bytes) -> Result<(), String> {
        let Some(far) = &mut self.far_output else { return Ok(()) };
        far.frames.feed_owned(bytes);
        while let Some(packet) = far.frames.next_with_length().map_err(|error| error.to_string())? {
            if !far.is_greeted {
                let Some(offers) = Offers::read(&packet[4..]) else {
                    return Err("what runs there is no SFTP server".to_owned());
                };
                if let Some(told) = &self.offers {
                    told.send_replace(Some(offers));
                }
                far.is_greeted = true;
                continue;
            }
            match self.answers.take(packet) {
                Some(answer) => self.ready.push_back(OutputEvent::Stdout(answer)),
                None => tracing::trace!("an answer that is not the client's"),
            }
        }
        Ok(())
    }

    /// Its files cannot be reached any more in this session: handles of theirs would mean something
    /// else to another server.
    fn lose_far(&mut self, reason: &str) {
        self.far_output = None;
        self.offers = None;
        let name = self.far.name();
        let line = format!("{name}: {reason}; a new session may reach it again");
        let unanswered = self.answers.lose(&line);
        // At its end by the client's own it has nothing to say.
        if !unanswered.is_empty() {
            self.far_failed = true;
            self.say(&line);
        }
        self.ready.extend(unanswered.into_iter().map(OutputEvent::Stdout));
    }
}

#[async_trait]
impl Output for SplitOutput {
    async fn next(&mut self) -> Option<OutputEvent> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(event);
            }
            if self.is_over {
                return None;
            }
            tokio::select! {
                Some(event) = self.events.recv() => self.take_event(event),
                event = next_of(&mut self.far_output) => self.take_far(event),
                () = done(&mut self.forwarding) => self.forwarding = None,
                step = self.near.next_step(),
                    if self.near_ended.is_none() && self.forwarding.is_none() =>
                {
                    self.take_near(step);
                }
            }
            self.end_if_all_ended();
        }
    }
}

/// Never ends without an output.
async fn next_of(far: &mut Option<FarOutput>) -> Option<OutputEvent> {
    match far {
        Some(far) => far.output.next().await,
        None => std::future::pending().await,
    }
}

/// Never ends if nothing is on its way.
async fn done(forwarding: &mut Option<Forwarding>) {
    match forwarding {
        Some(forwarding) => forwarding.await,
        None => std::future::pending().await,
    }
}
