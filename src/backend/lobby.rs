//! The gateway itself as a target: says who the client is and what there is to use.

use std::net::SocketAddr;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::net::TcpStream;
use tracing::info;

use super::image::ImageBackend;
use super::{
    Attachment, BackendError, BackendSession, Caller, Console, Control, ExitStatus, Gone, Output,
    OutputEvent, Program, SessionEnd, SessionRequest, Stdin, StreamError, StreamTarget, WindowSize,
    socket,
};
use crate::config::OtherOwner;
use crate::inventory::{Inventories, NodeRecord, other_owner};
use crate::names::NodeName;
use crate::target::{NodesTarget, Target};

/// The lobby, for one client connection.
pub struct Lobby {
    caller: Caller,
    name: NodeName,
    inventory: Arc<Inventories>,
    images: Arc<ImageBackend>,
    allows: Box<dyn Fn(&Target) -> bool + Send + Sync>,
}

impl Lobby {
    /// `name` is the lobby's configured name; `images` knows of images and unsaved changes; `allows` says what the
    /// caller may use.
    pub fn new(
        caller: Caller,
        name: NodeName,
        inventory: Arc<Inventories>,
        images: Arc<ImageBackend>,
        allows: impl Fn(&Target) -> bool + Send + Sync + 'static,
    ) -> Self {
        Self { caller, name, inventory, images, allows: Box::new(allows) }
    }

    /// Runs a command and returns its output.
    async fn command(&self, line: &str, console: &mut dyn Console) -> Result<String, BackendError> {
        let words: Vec<&str> = line.split_whitespace().collect();
        let account = self.caller.account();
        Ok(match words.as_slice() {
            ["images"] => self.images().await?,
            ["unsaved"] => self.images.list_unsaved(account).await?,
            ["save", id, name] => {
                self.images.save_unsaved(&self.caller, id, name, console).await?;
                String::new()
            }
            ["discard", id] => self.images.discard_unsaved(account, id).await?,
            _ => return Err(self.no_command()),
        })
    }

    /// The images that the caller may use, each with the nodes that boot it.
    async fn images(&self) -> Result<String, BackendError> {
        let mut images = self.images.list(self.caller.account()).await?;
        images.retain(|image| (self.allows)(&Target::Image(image.name.clone())));
        if images.is_empty() {
            return Ok("No images are known.\n".to_owned());
        }
        let nodes = self.inventory.nodes();
        let mut text = String::new();
        for image in images {
            let booted_by: Vec<_> = nodes
                .iter()
                .filter(|node| node.image.as_ref() == Some(&image.fullname))
                .filter(|node| self.allows_node(&node.name))
                .map(|node| node.name.as_str())
                .collect();
            let target = Target::Image(image.name).to_string();
            text += format!("{target:<40}  {}", booted_by.join(" ")).trim_end();
            text.push('\n');
        }
        Ok(text)
    }

    fn allows_node(&self, name: &NodeName) -> bool {
        (self.allows)(&Target::Nodes(NodesTarget::one(name.clone())))
    }

    fn no_command(&self) -> BackendError {
        BackendError::Unsupported(format!(
            "\"{}\" is the gateway itself and has these commands only: images, unsaved, save ID NAME, discard ID; for others, name a node or an image",
            self.name
        ))
    }

    fn greeting(&self) -> String {
        let account = self.caller.account();
        let mut text = format!(
            "This is waltgate {}. You are {account}.\n\n\
             In place of \"{}\" in your ssh command, write\n  \
             NODE          for a shell on a node\n  \
             image.NAME    for a shell in an image; what you change can be saved\n  \
             NODE,NODE     and a command, for several nodes; also my-nodes, free-nodes, all-nodes\n\n\
             \"ssh {}@... images\" lists the images, and \"unsaved\" the changes of images that you have not saved yet.\n\n",
            env!("CARGO_PKG_VERSION"),
            self.name,
            self.name,
        );
        let nodes = self.inventory.nodes();
        if nodes.is_empty() {
            text += "No nodes are known.\n";
        } else {
            text += "Nodes:\n";
        }
        for node in nodes.into_iter().filter(|node| self.allows_node(&node.name)) {
            let state = match node.booted {
                Some(true) => "booted",
                Some(false) => "not booted",
                None => "",
            };
            // From another server, so not trusted to be plain text.
            let image = node.image.as_deref().unwrap_or_default().escape_debug();
            let line = format!("  {:<20} {:<10}  {image}", node.name.as_str(), state);
            text += line.trim_end();
            text.push('\n');
        }
        if let Some(stale) = self.inventory.stale() {
            text += &format!("This list may be out of date: {}.\n", stale.escape_debug());
        }
        text
    }
}

#[async_trait]
impl Attachment for Lobby {
    async fn start(
        &self,
        request: &SessionRequest,
        console: &mut dyn Console,
    ) -> Result<BackendSession, BackendError> {
        let mut text = match &request.program {
            Program::Shell => self.greeting(),
            Program::Exec(command) => {
                self.command(&String::from_utf8_lossy(command), console).await?
            }
            Program::Subsystem(_) => return Err(self.no_command()),
        };
        if request.pty.is_some() {
            text = text.replace('\n', "\r\n");
        }
        let events =
            vec![OutputEvent::Exit(ExitStatus::Code(0)), OutputEvent::Stdout(Bytes::from(text))];
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

    /// A jump (`ssh -J`, `ssh -W`): to nodes of the inventory only, by name or address, and only on
    /// the networks allowed for them. Nobody can be asked whether to disturb the node's owner.
    async fn connect(&self, to: &StreamTarget) -> Result<BackendSession, StreamError> {
        let StreamTarget::Tcp { host, port } = to else {
            return Err(StreamError::Prohibited("the gateway forwards to nodes only".to_owned()));
        };
        let node = self
            .inventory
            .nodes()
            .into_iter()
            .find(|node| node.name.as_str() == host || node.address.ip().to_string() == *host)
            .ok_or_else(|| StreamError::Prohibited(format!("{to} is not on a node")))?;
        // Each node is a target of its own as far as the account's patterns are concerned.
        if !self.allows_node(&node.name) {
            return Err(StreamError::Prohibited(format!(
                "{} may not use it",
                self.caller.account()
            )));
        }
        if let Some(owner) = other_owner(&node, self.caller.account()) {
            if node.options.other_owner == OtherOwner::Refuse {
                let (name, owner) = (node.name.clone(), owner.to_owned());
                let refusal = BackendError::InUse { name, owner };
                return Err(StreamError::Prohibited(refusal.to_string()));
            }
            info!(node = %node.name, owner, "a jump to a node that another user owns");
        }
        if !node.is_on_allowed_network() {
            return Err(StreamError::Prohibited(format!("{to} is outside the allowed networks")));
        }
        let address = SocketAddr::new(node.address.ip(), jump_port(&node, *port));
        match tokio::time::timeout(node.options.connect, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                socket::send_at_once(&stream);
                Ok(socket::tcp(stream, ()))
            }
            Ok(Err(error)) => Err(StreamError::Failed(error.to_string())),
            Err(_) => Err(StreamError::Failed("no answer".to_owned())),
        }
    }

    async fn close(&self) {}
}

/// ssh(1) asks for port 22 when it is told nothing else; a node whose SSH server listens elsewhere
/// is meant all the same.
fn jump_port(node: &NodeRecord, asked: u16) -> u16 {
    if asked == 22 { node.address.port() } else { asked }
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
