//! A session channel of the client: its input is read all the time, its output waits for the
//! client's window.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use russh::server::{Handle, Msg};
use russh::{ChannelMsg, ChannelReadHalf, ChannelWriteHalf};
use tokio::sync::{Notify, mpsc, watch};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::connection::{Connection, CountedChannel};
use super::screen::Screen;
use crate::backend::{ExitStatus, Gone, Program, PtyRequest, WindowSize, X11Request, visible};
use crate::relay::spool::{Consumer, Piece, Producer, Stream, spool};
use crate::relay::{ClientOutput, ControlRequests, InputEof};

/// `SSH_EXTENDED_DATA_STDERR`, RFC 4254 section 5.2.
const STDERR: u32 = 1;
/// Requests before the program starts that may wait to be looked at.
const SETUP_QUEUE: usize = 256;
/// Signals that may wait to be delivered.
const SIGNAL_QUEUE: usize = 16;
/// What ctrl-C sends.
const INTERRUPT_KEY: u8 = 0x03;

/// A request that prepares or starts the program.
#[derive(Debug)]
pub(super) enum SetupRequest {
    Pty(PtyRequest),
    Env(String, String),
    Agent,
    X11(X11Request),
    Start(Program),
}

/// The parts of an open session channel.
pub(super) struct SessionChannel {
    pub(super) output: Arc<ChannelOutput>,
    pub(super) input: Consumer<InputEof>,
    pub(super) setup: mpsc::Receiver<SetupRequest>,
    pub(super) control: ControlRequests,
    pub(super) keys: Arc<InterruptKey>,
}

/// What a channel carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A program, whose exit status comes last. The program's EOF is held back until then: a
    /// client that has sent its own EOF closes the channel on receiving ours, and russh answers
    /// that with our close at once, after which no exit status can follow.
    Session,
    /// A forwarded connection, whose EOF is passed on at once.
    Forward,
}

/// Splits a channel. The second part must be polled for as long as the first is used: it reads
/// what the client sends, and never ends.
pub(super) fn open(
    channel: russh::Channel<Msg>,
    handle: Handle,
    connection: &Arc<Connection>,
    kind: Kind,
) -> (SessionChannel, impl Future<Output = ()> + use<>) {
    let (read, write) = channel.split();
    let (producer, input) = spool(connection.input_spool());
    let (setup_sender, setup) = mpsc::channel(SETUP_QUEUE);
    let (window_sender, window) = watch::channel(WindowSize::default());
    let (signal_sender, signals) = mpsc::channel(SIGNAL_QUEUE);
    connection.touch();
    let output = Arc::new(ChannelOutput {
        write,
        handle,
        kind,
        closed: CancellationToken::new(),
        eof_sent: AtomicBool::new(false),
        screen: Mutex::new(None),
        connection: connection.clone(),
        _counted: connection.count_channel(),
    });
    let keys = Arc::new(InterruptKey::default());
    let reader = Reader {
        output: output.clone(),
        producer: Some(producer),
        setup: setup_sender,
        window: window_sender,
        signals: signal_sender,
        keys: keys.clone(),
    };
    let control = ControlRequests { window, signals };
    (SessionChannel { output, input, setup, control, keys }, reader.run(read))
}

/// Watches for ctrl-C while the gateway itself, and no program, is at the client's terminal.
#[derive(Debug, Default)]
pub(super) struct InterruptKey {
    armed: AtomicBool,
    pressed: Notify,
}

impl InterruptKey {
    /// Starts or stops watching; a press from before is forgotten.
    pub(super) fn arm(&self, armed: bool) {
        self.armed.store(armed, Ordering::Relaxed);
        self.forget();
    }

    /// Forgets a press that nobody waited for.
    pub(super) fn forget(&self) {
        let mut pressed = Box::pin(self.pressed.notified());
        // A stored permit is used up by being looked at; without one this does nothing.
        let _ = pressed.as_mut().enable();
    }

    /// Waits for ctrl-C.
    pub(super) async fn pressed(&self) {
        self.pressed.notified().await;
    }

    fn look_at(&self, bytes: &[u8]) {
        if self.armed.load(Ordering::Relaxed) && bytes.contains(&INTERRUPT_KEY) {
            self.pressed.notify_one();
        }
    }
}

/// Where output for the client goes.
pub(super) struct ChannelOutput {
    write: ChannelWriteHalf<Msg>,
    handle: Handle,
    kind: Kind,
    closed: CancellationToken,
    eof_sent: AtomicBool,
    /// The client's terminal, if there is one.
    screen: Mutex<Option<Screen>>,
    connection: Arc<Connection>,
    _counted: CountedChannel,
}

impl ChannelOutput {
    /// The client has a terminal of this width in characters; 0: not known.
    pub(super) fn is_a_terminal(&self, columns: u32) {
        *self.screen() = Some(Screen::new(columns));
    }

    fn screen(&self) -> MutexGuard<'_, Option<Screen>> {
        self.screen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something goes on in the session.
    pub(super) fn touch(&self) {
        self.connection.touch();
    }

    /// Writes without calling it traffic.
    async fn send(&self, stream: Stream, bytes: Bytes) -> Result<(), Gone> {
        let write = async {
            match stream {
                Stream::Data => self.write.data_bytes(bytes).await,
                Stream::Stderr => self.write.extended_data_bytes(STDERR, bytes).await,
            }
        };
        // russh's writer waits for a window that a closed channel will never get.
        tokio::select! {
            biased;
            () = self.closed.cancelled() => Err(Gone),
            written = write => Self::or_gone(written),
        }
    }

    /// Ends a session: exit status, EOF, close, in this order (RFC 4254 section 6.10).
    pub(super) async fn conclude(&self, status: &ExitStatus) {
        if self.closed.is_cancelled() {
            return;
        }
        let id = self.write.id();
        let sent = match status {
            ExitStatus::Code(code) => self.write.exit_status(*code).await.map_err(drop),
            ExitStatus::Signal { name, core_dumped, message } => {
                let signal = crate::ssh::signal::from_name(name);
                let language = String::new();
                self.handle
                    .exit_signal_request(id, signal, *core_dumped, message.clone(), language)
                    .await
            }
        };
        if sent.is_err() {
            debug!("the client went away before the end of its session was told");
        }
        self.close().await;
    }

    /// Ends the channel: EOF, close.
    pub(super) async fn close(&self) {
        if self.closed.is_cancelled() {
            return;
        }
        if self.send_eof().await.is_err() || self.write.close().await.is_err() {
            debug!("the client went away before its channel was closed");
        }
    }

    async fn send_eof(&self) -> Result<(), Gone> {
        if self.eof_sent.swap(true, Ordering::Relaxed) {
            return Ok(());
        }
        Self::or_gone(self.write.eof().await)
    }

    fn or_gone<T>(result: Result<T, russh::Error>) -> Result<T, Gone> {
        result.map_err(|_| Gone)
    }
}

#[async_trait]
impl ClientOutput for ChannelOutput {
    async fn write(&self, stream: Stream, bytes: Bytes) -> Result<(), Gone> {
        self.touch();
        let due = match (stream, &mut *self.screen()) {
            (Stream::Data, Some(screen)) => {
                screen.follow(&bytes);
                screen.due()
            }
            _ => Vec::new(),
        };
        self.send(stream, bytes).await?;
        if due.is_empty() { Ok(()) } else { self.send(Stream::Data, due.into()).await }
    }

    async fn notice(&self, line: &str) -> Result<(), Gone> {
        let line = format!("waltgate: {line}");
        let due = self.screen().as_mut().map(|screen| {
            screen.hold(&line);
            screen.due()
        });
        match due {
            Some(due) if due.is_empty() => Ok(()),
            Some(due) => self.send(Stream::Data, due.into()).await,
            None => self.send(Stream::Stderr, format!("{}\n", visible(&line)).into()).await,
        }
    }

    async fn eof(&self) -> Result<(), Gone> {
        match self.kind {
            Kind::Session => Ok(()),
            Kind::Forward => self.send_eof().await,
        }
    }

    async fn gone(&self) {
        tokio::select! {
            () = self.closed.cancelled() => {}
            () = self.connection.ending() => {}
        }
    }
}

/// Reads the channel.
struct Reader {
    output: Arc<ChannelOutput>,
    /// `None` after the client's EOF.
    producer: Option<Producer<InputEof>>,
    setup: mpsc::Sender<SetupRequest>,
    window: watch::Sender<WindowSize>,
    signals: mpsc::Sender<String>,
    keys: Arc<InterruptKey>,
}

impl Reader {
    async fn run(mut self, mut channel: ChannelReadHalf) {
        loop {
            let message = tokio::select! {
                message = channel.wait() => message,
                // The client may still be there, to be told why; nothing more is taken from it.
                () = self.output.connection.ending(), if self.producer.is_some() => {
                    self.producer = None;
                    continue;
                }
            };
            match message {
                Some(ChannelMsg::Data { data }) => self.take(data).await,
                Some(ChannelMsg::Eof) => self.take_eof().await,
                Some(ChannelMsg::Close) | None => break,
                Some(other) => self.request(other),
            }
        }
        self.output.closed.cancel();
        // What was read is still carried: the queue ends after it. The session's own end decides
        // when the task ends.
        drop(self);
        std::future::pending().await
    }

    async fn take(&self, data: Bytes) {
        let Some(producer) = &self.producer else { return };
        self.output.touch();
        self.keys.look_at(&data);
        tokio::select! {
            () = producer.push(Piece::Bytes(Stream::Data, data)) => {}
            () = self.output.connection.ending() => {}
        }
    }

    /// RFC 4254 section 5.3 allows one; what comes after it is dropped.
    async fn take_eof(&mut self) {
        if let Some(producer) = self.producer.take() {
            producer.push(Piece::Mark(InputEof)).await;
        }
    }

    fn request(&self, message: ChannelMsg) {
        match message {
            ChannelMsg::RequestPty {
                term,
                col_width,
                row_height,
                pix_width,
                pix_height,
                terminal_modes,
                ..
            } => {
                let size = WindowSize {
                    columns: col_width,
                    rows: row_height,
                    width_pixels: pix_width,
                    height_pixels: pix_height,
                };
                let modes =
                    terminal_modes.into_iter().map(|(code, value)| (code as u8, value)).collect();
                self.set_up(SetupRequest::Pty(PtyRequest { term, size, modes }));
            }
            ChannelMsg::SetEnv { variable_name, variable_value, .. } => {
                self.set_up(SetupRequest::Env(variable_name, variable_value));
            }
            ChannelMsg::AgentForward { .. } => self.set_up(SetupRequest::Agent),
            ChannelMsg::RequestX11 {
                single_connection,
                x11_authentication_protocol: protocol,
                x11_authentication_cookie: cookie,
                x11_screen_number: screen,
                ..
            } => {
                let request = X11Request { single_connection, protocol, cookie, screen };
                self.set_up(SetupRequest::X11(request));
            }
            ChannelMsg::RequestShell { .. } => self.set_up(SetupRequest::Start(Program::Shell)),
            ChannelMsg::Exec { command, .. } => {
                self.set_up(SetupRequest::Start(Program::Exec(command.into())));
            }
            ChannelMsg::RequestSubsystem { name, .. } => {
                self.set_up(SetupRequest::Start(Program::Subsystem(name)));
            }
            ChannelMsg::WindowChange { col_width, row_height, pix_width, pix_height } => {
                if let Some(screen) = &mut *self.output.screen() {
                    screen.resize(col_width);
                }
                self.window.send_replace(WindowSize {
                    columns: col_width,
                    rows: row_height,
                    width_pixels: pix_width,
                    height_pixels: pix_height,
                });
            }
            ChannelMsg::Signal { signal } => self.signal(crate::ssh::signal::name(signal)),
            // RFC 4254 defines no extended data from client to server; the rest is answered by
            // the handler.
            _ => {}
        }
    }

    fn signal(&self, name: String) {
        if self.signals.try_send(name).is_err() {
            debug!("too many signals wait to be delivered; one is dropped");
        }
    }

    fn set_up(&self, request: SetupRequest) {
        if self.setup.try_send(request).is_err() {
            debug!("a request after the program's start, or too many before it, is ignored");
        }
    }
}
