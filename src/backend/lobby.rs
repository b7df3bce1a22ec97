//! The gateway itself as a target: says who the client is and what there is to use.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use super::{
    Attachment, BackendError, BackendSession, Caller, Console, Control, ExitStatus, Gone, Output,
    OutputEvent, Program, SessionEnd, SessionRequest, Stdin, WindowSize,
};
use crate::inventory::{Freshness, Inventories};
use crate::names::NodeName;

/// The lobby, for one client connection.
pub struct Lobby {
    caller: Caller,
    name: NodeName,
    inventory: Arc<Inventories>,
}

impl Lobby {
    /// `name` is the lobby's configured name.
    pub fn new(caller: Caller, name: NodeName, inventory: Arc<Inventories>) -> Self {
        Self {
            caller,
            name,
            inventory,
        }
    }

    fn greeting(&self) -> String {
        let account = self.caller.account();
        let mut text = format!(
            "This is waltgate {}. You are {account}.\n\n\
             In place of \"{}\" in your ssh command, write\n  \
             NODE          for a shell on a node\n  \
             image.NAME    for a shell in an image; what you change can be saved\n\n",
            env!("CARGO_PKG_VERSION"),
            self.name,
        );
        let nodes = self.inventory.nodes();
        if nodes.is_empty() {
            text += "No nodes are known.\n";
        } else {
            text += "Nodes:\n";
        }
        for node in nodes {
            let state = match node.booted {
                Some(true) => "booted",
                Some(false) => "not booted",
                None => "",
            };
            let image = node.image.as_deref().unwrap_or_default();
            let line = format!("  {:<20} {:<10}  {image}", node.name.as_str(), state);
            text += line.trim_end();
            text.push('\n');
        }
        if let Freshness::Stale { reason, .. } | Freshness::Never { reason } =
            self.inventory.freshness()
        {
            text += &format!("This list may be out of date: {reason}\n");
        }
        text
    }
}

#[async_trait]
impl Attachment for Lobby {
    async fn start(
        &self,
        request: &SessionRequest,
        _console: &mut dyn Console,
    ) -> Result<BackendSession, BackendError> {
        if request.program != Program::Shell {
            return Err(BackendError::Unsupported(format!(
                "\"{}\" is the gateway itself and runs no commands; name a node or an image",
                self.name
            )));
        }
        let mut text = self.greeting();
        if request.pty.is_some() {
            text = text.replace('\n', "\r\n");
        }
        let events = vec![
            OutputEvent::Exit(ExitStatus::Code(0)),
            OutputEvent::Stdout(Bytes::from(text)),
        ];
        Ok(BackendSession {
            stdin: Box::new(Nothing),
            control: Arc::new(Nothing),
            output: Box::new(Said(events)),
            output_is_shared: false,
        })
    }

    async fn finish(
        &self,
        _request: &SessionRequest,
        _end: &SessionEnd,
        _console: &mut dyn Console,
    ) -> Result<(), BackendError> {
        Ok(())
    }

    async fn close(&self) {}
}

/// What is still to be said, last first.
struct Said(Vec<OutputEvent>);

#[async_trait]
impl Output for Said {
    async fn next(&mut self) -> Option<OutputEvent> {
        self.0.pop()
    }
}

/// A program that takes nothing.
struct Nothing;

#[async_trait]
impl Stdin for Nothing {
    async fn write(&mut self, _data: Bytes) -> Result<(), Gone> {
        Err(Gone)
    }

    async fn eof(&mut self) -> Result<(), Gone> {
        Err(Gone)
    }
}

#[async_trait]
impl Control for Nothing {
    async fn window_change(&self, _size: WindowSize) -> Result<(), Gone> {
        Err(Gone)
    }

    async fn signal(&self, _name: &str) -> Result<(), Gone> {
        Err(Gone)
    }

    async fn hang_up(&self) {}
}
