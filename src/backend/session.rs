//! A session on a target: what a client asks for, and the three ends of what then runs.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

/// A pseudo-terminal's size, RFC 4254 section 6.2. Zero pixels mean "not known".
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct WindowSize {
    /// Width in characters.
    pub columns: u32,
    /// Height in rows.
    pub rows: u32,
    /// Width in pixels.
    pub width_pixels: u32,
    /// Height in pixels.
    pub height_pixels: u32,
}

/// A `pty-req`, RFC 4254 section 6.2.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PtyRequest {
    /// The value of TERM.
    pub term: String,
    /// The size at the start.
    pub size: WindowSize,
    /// Encoded terminal modes, RFC 4254 section 8: opcode and argument, without the end mark.
    pub modes: Vec<(u8, u32)>,
}

/// What runs in the session, RFC 4254 section 6.5.
#[derive(Clone, PartialEq, Eq)]
pub enum Program {
    /// The login shell.
    Shell,
    /// A command line, any bytes.
    Exec(Bytes),
    /// A subsystem, by name.
    Subsystem(String),
}

impl fmt::Debug for Program {
    /// Says the kind only: command lines carry secrets and never reach a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Shell => f.write_str("shell"),
            Self::Exec(_) => f.write_str("exec"),
            Self::Subsystem(name) => write!(f, "subsystem {name:?}"),
        }
    }
}

/// All that a client asked for before its program starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionRequest {
    /// What to run.
    pub program: Program,
    /// The terminal, if one was asked for.
    pub pty: Option<PtyRequest>,
    /// Variables of `env` requests, in order. Values are never logged.
    pub env: Vec<(String, String)>,
    /// Whether the client offers its agent, `auth-agent-req@openssh.com`.
    pub agent: bool,
    /// Whether and how the client offers its display.
    pub x11: Option<X11Request>,
}

/// An `x11-req`, RFC 4254 section 6.3.1.
#[derive(Clone, PartialEq, Eq)]
pub struct X11Request {
    /// Only one connection is to be forwarded.
    pub single_connection: bool,
    /// The X11 authentication protocol.
    pub protocol: String,
    /// The X11 authentication cookie, in hexadecimal: a secret.
    pub cookie: String,
    /// The screen number.
    pub screen: u32,
}

impl fmt::Debug for X11Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("X11Request").finish_non_exhaustive()
    }
}

impl SessionRequest {
    /// A program without terminal, environment or anything forwarded.
    pub fn new(program: Program) -> Self {
        Self { program, pty: None, env: Vec::new(), agent: false, x11: None }
    }

    /// A shell on a terminal: a person is there to read notices and answer questions.
    pub fn is_interactive(&self) -> bool {
        self.pty.is_some() && self.program == Program::Shell
    }
}

/// How a program ended, RFC 4254 section 6.10.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExitStatus {
    /// It exited with this code.
    Code(u32),
    /// A signal ended it.
    Signal {
        /// The name without "SIG": "TERM", or "NAME@domain".
        name: String,
        /// Whether a core was dumped.
        core_dumped: bool,
        /// A message for the user; may be empty.
        message: String,
    },
}

impl fmt::Display for ExitStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit {code}"),
            Self::Signal { name, .. } => write!(f, "signal {name}"),
        }
    }
}

/// How a session came to its end, as the relay saw it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SessionEnd {
    /// The program ended.
    Exited(ExitStatus),
    /// The backend went away without saying how the program ended.
    BackendLost,
    /// The client closed the channel or its connection went away.
    ClientGone,
}

/// A running session: its three ends.
pub struct BackendSession {
    /// Where the client's bytes go.
    pub stdin: Box<dyn Stdin>,
    /// Out-of-band requests; answered at once even while `stdin` is stalled.
    pub control: Arc<dyn Control>,
    /// Where the program's output comes from.
    pub output: Box<dyn Output>,
    /// Whether `output` shares a transport with other sessions, so that leaving it unread would
    /// stall them. The relay then reads on and keeps what the client cannot take yet.
    pub output_is_shared: bool,
}

/// The other side of a session end is gone; what it was is known from [`Output`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the session's program no longer takes input")]
pub struct Gone;

/// The program's standard input.
#[async_trait]
pub trait Stdin: Send {
    /// Waits until the bytes were taken; this is the flow control towards the client.
    async fn write(&mut self, data: Bytes) -> Result<(), Gone>;
    /// The client's EOF. Output goes on (RFC 4254 section 5.3).
    async fn eof(&mut self) -> Result<(), Gone>;
}

/// Requests that overtake data.
#[async_trait]
pub trait Control: Send + Sync {
    /// A `window-change`, RFC 4254 section 6.7.
    async fn window_change(&self, size: WindowSize) -> Result<(), Gone>;
    /// A `signal`, RFC 4254 section 6.9: the name without "SIG".
    async fn signal(&self, name: &str) -> Result<(), Gone>;
    /// How the program ended, when it did so unheard: a client may close its channel at once behind
    /// its EOF, or take no other leave than that. Asked before [`Control::hang_up`].
    async fn ended_on_eof(&self) -> Option<ExitStatus> {
        None
    }
    /// The client closed the channel: the program gets what a closed terminal would give it.
    async fn hang_up(&self);
}

/// What comes from the program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OutputEvent {
    /// Standard output, or the terminal.
    Stdout(Bytes),
    /// Standard error; never with a terminal.
    Stderr(Bytes),
    /// A line of the gateway's own for the client, without its end; no output of the program's.
    Notice(String),
    /// No more output will come; input may still be read.
    Eof,
    /// How the program ended. At most once; data may not follow.
    Exit(ExitStatus),
}

/// The program's output.
#[async_trait]
pub trait Output: Send {
    /// The next event in order, `None` after the last. Dropping the future loses nothing.
    async fn next(&mut self) -> Option<OutputEvent>;
}
