//! What can be behind a target, as the server sees it.
//!
//! A [`Backend`] attaches to a target once per client connection. The [`Attachment`] starts the
//! sessions of that connection and is closed with it. A session is three independent ends, so
//! that neither direction ever waits for the other: [`Stdin`], [`Control`] and [`Output`].
//!
//! All types here are plain: nothing of russh or of a container engine crosses this boundary.

mod age;
mod console;
mod error;
pub mod image;
pub mod lobby;
pub mod node;
mod session;
mod socket;
mod stream;

use std::sync::Arc;

use async_trait::async_trait;

use crate::auth::Identity;
use crate::names::AccountName;
use crate::target::Target;

pub(crate) use self::age::{ago, in_words, size};
pub(crate) use self::console::visible;
pub use self::console::{Answer, Console, Interrupt};
pub use self::error::{BackendError, NodeFailure};
pub use self::session::{
    BackendSession, Control, ExitStatus, Gone, Output, OutputEvent, Program, PtyRequest,
    SessionEnd, SessionRequest, Stdin, WindowSize, X11Request,
};
pub use self::stream::{
    Arrival, ArrivedConnection, ClientChannels, Listen, StreamError, StreamTarget,
};

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
    /// The console is of no use after [`SessionEnd::ClientGone`]. The client gets the program's own
    /// status, unless this step fails.
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
