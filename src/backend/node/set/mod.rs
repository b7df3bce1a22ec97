//! Several nodes at once: a command runs on all of them, each with a connection of its own.
//!
//! What the client sends goes to all; what the nodes say comes back in whole lines behind their
//! names; the exit status is the highest of all. A node that is off, slow or stuck holds up its own
//! part only.

mod input;
mod lines;
mod member;
mod members;
mod report;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use futures_util::future::join_all;
use tokio::sync::{Semaphore, broadcast, mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument;

use self::input::SetStdin;
use self::lines::Prefixes;
use self::member::{Member, Orders};
pub use self::members::{NodeSet, SetAccess};
use self::report::Report;
use super::NodeBackend;
use crate::backend::{
    Attachment, BackendError, BackendSession, Caller, ClientChannels, Console, Control, ExitStatus,
    Gone, Listen, Output, OutputEvent, Program, SessionEnd, SessionRequest, StreamError,
    StreamTarget, WindowSize,
};
use crate::names::NodeName;
use crate::sftp::scp;

/// Nodes that are being connected to at the same time. Programs that run do not count: those that
/// wait for the client's input could otherwise wait for others that wait for their turn.
const AT_ONCE: usize = 64;
/// Pieces of output that wait for the client; the nodes wait behind them.
const OUTPUT_PIECES: usize = 64;
/// Names in a refusal.
const NAMED: usize = 8;
/// Signals that wait for a node.
const SIGNALS: usize = 16;
/// How a client of rsync starts the other end.
const RSYNC: &[u8] = b"rsync --server ";

/// A set of nodes, for one client connection.
pub(super) struct NodeSetAttachment {
    backend: Arc<NodeBackend>,
    caller: Caller,
    client: Arc<dyn ClientChannels>,
    set: NodeSet,
    /// Those used so far: the sessions of one client connection share them.
    nodes: Mutex<BTreeMap<NodeName, Arc<dyn Attachment>>>,
    tasks: TaskTracker,
}

impl NodeSetAttachment {
    pub(super) fn new(
        backend: Arc<NodeBackend>,
        caller: Caller,
        client: Arc<dyn ClientChannels>,
        set: NodeSet,
    ) -> Self {
        let (nodes, tasks) = (Mutex::default(), TaskTracker::new());
        Self { backend, caller, client, set, nodes, tasks }
    }

    fn node(&self, name: &NodeName) -> Arc<dyn Attachment> {
        let mut nodes = self.nodes.lock().unwrap_or_else(PoisonError::into_inner);
        let attach = || {
            let (caller, client) = (self.caller.clone(), self.client.clone());
            self.backend.attach(caller, client, name.clone(), self.set.login())
        };
        nodes.entry(name.clone()).or_insert_with(attach).clone()
    }

    /// What a set cannot do, in words that say what can be done instead.
    fn refusal(&self, request: &SessionRequest, names: &[NodeName]) -> Option<BackendError> {
        let one_by_one = |command: &str| {
            let mut all = names.iter().take(NAMED).map(NodeName::as_str).collect::<Vec<_>>();
            if names.len() > NAMED {
                all.push("...");
            }
            let all = all.join(" ");
            format!("files go to one node at a time: for n in {all}; do {command}; done")
        };
        let refusal = match &request.program {
            Program::Shell if request.pty.is_some() => {
                "several nodes at once run commands, not shells on a terminal; add a command, or \
                 name one node"
                    .to_owned()
            }
            Program::Subsystem(_) => one_by_one("scp FILE $n@GATEWAY:"),
            Program::Exec(line) if scp::Command::parse(line).is_some() => {
                one_by_one("scp FILE $n@GATEWAY:")
            }
            Program::Exec(line) if line.starts_with(RSYNC) => one_by_one("rsync FILE $n@GATEWAY:"),
            Program::Exec(_) | Program::Shell => return None,
        };
        Some(BackendError::Unsupported(refusal))
    }
}

#[async_trait]
impl Attachment for NodeSetAttachment {
    async fn start(
        &self,
        request: &SessionRequest,
        _console: &mut dyn Console,
    ) -> Result<BackendSession, BackendError> {
        let names = self.set.expand(&self.backend.inventory, self.caller.account())?;
        if let Some(refusal) = self.refusal(request, &names) {
            return Err(refusal);
        }
        let has_terminal = request.pty.is_some();
        // A display is one program's.
        let request = Arc::new(SessionRequest { x11: None, ..request.clone() });
        let (output, came) = mpsc::channel(OUTPUT_PIECES);
        let (window, _) = watch::channel(request.pty.as_ref().map(|pty| pty.size));
        let (signals, _) = broadcast::channel(SIGNALS);
        let hang_up = CancellationToken::new();
        let turns = Arc::new(Semaphore::new(AT_ONCE));
        let prefixes = Prefixes::new(&names, has_terminal);

        let mut stdin = SetStdin::new(has_terminal);
        let mut running = JoinSet::new();
        for (index, name) in names.iter().enumerate() {
            let member = Member {
                name: name.clone(),
                attachment: self.node(name),
                request: Arc::clone(&request),
                prefix: prefixes.of(index),
                output: output.clone(),
                input: stdin.add(),
                orders: Orders {
                    window: window.subscribe(),
                    signals: signals.subscribe(),
                    hang_up: hang_up.child_token(),
                },
                turns: Arc::clone(&turns),
            };
            running.spawn(member.run().in_current_span());
        }
        let report = Report::new(names);
        self.tasks.spawn(conclude(running, report, output, has_terminal).in_current_span());
        Ok(BackendSession {
            stdin: Box::new(stdin),
            control: Arc::new(SetControl { window, signals, hang_up }),
            output: Box::new(SetOutput(came)),
            // Another session of the client may use the same connections to the nodes.
            output_is_shared: true,
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

    async fn connect(&self, _to: &StreamTarget) -> Result<BackendSession, StreamError> {
        Err(one_node_only())
    }

    async fn listen(&self, _on: &Listen) -> Result<u32, StreamError> {
        Err(one_node_only())
    }

    async fn close(&self) {
        self.tasks.close();
        self.tasks.wait().await;
        let nodes = std::mem::take(&mut *self.nodes.lock().unwrap_or_else(PoisonError::into_inner));
        join_all(nodes.values().map(|node| node.close())).await;
    }
}

fn one_node_only() -> StreamError {
    StreamError::Prohibited("several nodes at once forward nothing; name one node".to_owned())
}

/// Waits for all nodes, then says which failed, and ends the session.
async fn conclude(
    mut running: JoinSet<member::Ended>,
    mut report: Report,
    output: mpsc::Sender<OutputEvent>,
    has_terminal: bool,
) {
    while let Some(ended) = running.join_next().await {
        match ended {
            Ok(ended) => report.add(ended),
            Err(error) => tracing::error!(%error, "a node's part of a set ended in disorder"),
        }
    }
    let status = report.exit_status();
    let summary = report.summary().map(|line| lines::notice(b"", &line, has_terminal));
    let last = [OutputEvent::Eof, OutputEvent::Exit(ExitStatus::Code(status))];
    for event in summary.into_iter().chain(last) {
        if output.send(event).await.is_err() {
            tracing::debug!("the client went away before all nodes had ended");
            return;
        }
    }
}

struct SetOutput(mpsc::Receiver<OutputEvent>);

#[async_trait]
impl Output for SetOutput {
    async fn next(&mut self) -> Option<OutputEvent> {
        self.0.recv().await
    }
}

struct SetControl {
    window: watch::Sender<Option<WindowSize>>,
    signals: broadcast::Sender<String>,
    hang_up: CancellationToken,
}

#[async_trait]
impl Control for SetControl {
    async fn window_change(&self, size: WindowSize) -> Result<(), Gone> {
        self.window.send_replace(Some(size));
        Ok(())
    }

    async fn signal(&self, name: &str) -> Result<(), Gone> {
        // An error: no node is running any more.
        self.signals.send(name.to_owned()).map(drop).map_err(|_| Gone)
    }

    async fn hang_up(&self) {
        self.hang_up.cancel();
    }
}
