//! What can be behind a target, as the server sees it.
//!
//! A [`Backend`] attaches to a target once per client connection. The [`Attachment`] starts the
//! sessions of that connection and is closed with it. A session is three independent ends, so
//! that neither direction ever waits for the other: [`Stdin`], [`Control`] and [`Output`].
//!
//! All types here are plain: nothing of russh or of a container engine crosses this boundary.

pub mod image;
pub mod lobby;
pub mod node;
mod tcp;

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use crate::auth::Identity;
use crate::names::{AccountName, NodeName};
use crate::target::Target;

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
            Self::Subsystem(name) => write!(f, "subsystem {name}"),
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

/// The far end of a connection that the client forwards, RFC 4254 section 7.2.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StreamTarget {
    /// `direct-tcpip`: a name or address as the target sees it, and a port.
    Tcp {
        /// The host.
        host: String,
        /// The port.
        port: u16,
    },
    /// `direct-streamlocal@openssh.com`: a socket's path on the target.
    Unix {
        /// The path.
        path: String,
    },
}

impl fmt::Display for StreamTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } => write!(f, "{host} port {port}"),
            Self::Unix { path } => f.write_str(path),
        }
    }
}

/// Where the target is to listen for the client, RFC 4254 section 7.1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listen {
    /// `tcpip-forward`; port 0: any.
    Tcp {
        /// The address, in the RFC's notation ("" is everywhere).
        address: String,
        /// The port.
        port: u16,
    },
    /// `streamlocal-forward@openssh.com`: a socket's path on the target.
    Unix {
        /// The path.
        path: String,
    },
}

/// A connection that arrived on the target and is meant for the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Arrival {
    /// On a [`Listen::Tcp`].
    Tcp {
        /// The address that was asked for.
        address: String,
        /// The port it arrived on.
        port: u32,
        /// Where it came from.
        originator: (String, u32),
    },
    /// On a [`Listen::Unix`].
    Unix {
        /// The socket's path.
        path: String,
    },
    /// For the client's agent.
    Agent,
    /// For the client's display.
    X11 {
        /// Where it came from.
        originator: (String, u32),
    },
}

/// The target's end of an [`Arrival`], which waits for the client's answer.
#[async_trait]
pub trait ArrivedConnection: Send {
    /// The client took it.
    async fn accept(self: Box<Self>) -> BackendSession;
    /// The client did not.
    async fn refuse(self: Box<Self>);
}

/// The client, as far as a target may open channels to it.
pub trait ClientChannels: Send + Sync {
    /// Offers a connection; it is relayed, or refused, in a task of the client's connection.
    fn offer(&self, arrival: Arrival, connection: Box<dyn ArrivedConnection>);
}

/// Why a forwarded connection was not opened, RFC 4254 section 5.1.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// The target, or the gateway for it, does not allow it.
    #[error("not allowed: {0}")]
    Prohibited(String),
    /// Nothing answers there.
    #[error("cannot connect: {0}")]
    Failed(String),
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

/// Who is asking, from where: what a backend may know of a client.
#[derive(Debug, Clone)]
pub struct Caller {
    /// Who it is.
    pub identity: Arc<Identity>,
    /// The client's address, for records.
    pub peer: std::net::SocketAddr,
    /// The gateway's own number for this connection, unique while it runs.
    pub connection: u64,
}

impl Caller {
    /// The account.
    pub fn account(&self) -> &AccountName {
        &self.identity.account
    }
}

/// What a client typed at a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// A line, without its end, trimmed.
    Line(String),
    /// ctrl-C, or ctrl-D on an empty line.
    Interrupted,
    /// The client is gone; nobody will answer.
    Gone,
}

/// Why a wait was cut short by the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interrupt {
    /// ctrl-C on a terminal.
    Key,
    /// The channel was closed or the connection is gone.
    Gone,
}

/// The client's side of a session, while no program of the target has it: notices before the
/// program starts, questions after it ended. Everything goes to the channel's standard error, so
/// that a command's output stays clean.
#[async_trait]
pub trait Console: Send {
    /// Whether the client asked for a terminal.
    fn is_terminal(&self) -> bool;
    /// One line of text, without its end. Embedded control characters are made visible.
    async fn say(&mut self, line: &str);
    /// A line that replaces the status before it on a terminal. Elsewhere only the first status
    /// of a run is printed, as a line of its own.
    async fn status(&mut self, text: &str);
    /// Erases the status line of a terminal, if one is shown, and ends the run.
    async fn end_status(&mut self);
    /// Waits until the client presses ctrl-C (on a terminal) or goes away. Other input is kept
    /// for the program. Dropping the future loses nothing.
    async fn interrupted(&mut self) -> Interrupt;
    /// Asks a question on a terminal, with line editing. Input typed before the question was
    /// asked is discarded by [`Console::discard_input`] only.
    async fn ask(&mut self, prompt: &str) -> Answer;
    /// Forgets input that was typed and not read, as after a shell that ended.
    fn discard_input(&mut self);
}

/// Opens targets.
pub trait Backend: Send + Sync {
    /// Prepares a target for one client connection. Does no I/O.
    fn attach(
        &self,
        caller: Caller,
        client: Arc<dyn ClientChannels>,
        target: &Target,
    ) -> Result<Arc<dyn Attachment>, BackendError>;
}

/// A target, held for one client connection.
#[async_trait]
pub trait Attachment: Send + Sync {
    /// Starts a session. May wait (a node booting) while it keeps the client informed.
    async fn start(
        &self,
        request: &SessionRequest,
        console: &mut dyn Console,
    ) -> Result<BackendSession, BackendError>;

    /// Called once for every session that started, when its relay has ended: questions, saving.
    /// The console is of no use after [`SessionEnd::ClientGone`]. The status that the client gets
    /// is returned: the program's own, unless this step failed.
    async fn finish(
        &self,
        request: &SessionRequest,
        end: &SessionEnd,
        console: &mut dyn Console,
    ) -> Result<(), BackendError>;

    /// Opens a connection from the target's side, for a forward of the client's. Its output ends
    /// without an exit status.
    async fn connect(&self, to: &StreamTarget) -> Result<BackendSession, StreamError> {
        Err(StreamError::Prohibited(format!("this target forwards nothing (asked for {to})")))
    }

    /// Listens on the target's side for the client. Returns the port (0 for a socket).
    async fn listen(&self, on: &Listen) -> Result<u32, StreamError> {
        Err(StreamError::Prohibited(format!("this target listens nowhere (asked for {on:?})")))
    }

    /// Ends what [`Attachment::listen`] began.
    async fn stop_listening(&self, on: &Listen) -> Result<(), StreamError> {
        Err(StreamError::Prohibited(format!("nothing listens there ({on:?})")))
    }

    /// The client's connection ended: releases everything. Idempotent, bounded in time.
    async fn close(&self);
}

/// Where a failed wait for a node stood, for the message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NodeFailure {
    /// TCP: refused, unreachable, timed out.
    Unreachable(String),
    /// The SSH handshake failed.
    Handshake(String),
    /// The node does not accept the gateway's key.
    KeyRefused {
        /// The login that was tried.
        login: String,
        /// The gateway's private key file.
        identity: String,
    },
    /// The gateway has no host key for it and the policy is strict.
    HostKeyUnknown {
        /// Where the key should be recorded.
        known_hosts: String,
        /// SHA-256 fingerprint of the key presented.
        fingerprint: String,
    },
    /// Another host key than the recorded one was presented.
    HostKeyChanged {
        /// Where the recorded key is, `FILE:LINE`.
        recorded: String,
        /// SHA-256 fingerprint of the key presented.
        fingerprint: String,
    },
    /// The session channel or a request on it was refused.
    RequestRefused(String),
    /// The gateway's own key file cannot be used.
    Identity(String),
    /// An established connection ended during a session.
    ConnectionLost,
}

/// Why a target could not be opened or a session not finished. Each variant names the object;
/// `server::refusal` words them for the client.
#[derive(Debug, thiserror::Error)]
pub enum BackendError {
    /// No such node; `similar` are the closest names, best first.
    #[error("no node or device named {name}")]
    UnknownNode {
        /// As asked for.
        name: NodeName,
        /// The closest existing names.
        similar: Vec<String>,
        /// Says how old the inventory's list is, when it is not fresh.
        stale: Option<String>,
    },
    /// The node's address is not on an allowed network.
    #[error("node {name} has address {address}, outside the allowed networks")]
    AddressRefused {
        /// Which node.
        name: NodeName,
        /// Its address.
        address: std::net::IpAddr,
    },
    /// The node could not be used.
    #[error("node {name}: {failure:?}")]
    Node {
        /// Which node.
        name: NodeName,
        /// What happened.
        failure: NodeFailure,
    },
    /// The node did not boot in time.
    #[error("node {name} did not boot within {seconds} s: {last}")]
    BootTimeout {
        /// Which node.
        name: NodeName,
        /// How long was waited.
        seconds: u64,
        /// The last failure.
        last: String,
    },
    /// The user pressed ctrl-C, or went away, during a wait.
    #[error("interrupted by the client")]
    Interrupted,
    /// The target needs something this request cannot give, in words for the user.
    #[error("{0}")]
    Unsupported(String),
    /// Image targets.
    #[error(transparent)]
    Image(#[from] image::ImageError),
}
