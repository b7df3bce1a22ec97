//! A session channel on a node, as the relay sees it.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use russh::client::Msg;
use russh::{Channel, ChannelMsg, ChannelReadHalf, ChannelWriteHalf, Pty};
use tokio::time::timeout;
use tracing::debug;

use crate::backend::{
    BackendSession, Control, ExitStatus, Gone, NodeFailure, Output, OutputEvent, Program,
    SessionRequest, Stdin, WindowSize, X11Request,
};

/// `SSH_EXTENDED_DATA_STDERR`, RFC 4254 section 5.2.
const STDERR: u32 = 1;

/// Makes the client's requests on a fresh channel, and waits for the node's answers.
pub(super) async fn start(
    channel: Channel<Msg>,
    request: &SessionRequest,
    bound: Duration,
) -> Result<BackendSession, NodeFailure> {
    let (mut read, write) = channel.split();
    match request_all(&mut read, &write, request, bound).await {
        Ok(()) => Ok(ends(read, write)),
        Err(failure) => {
            // All was asked for at once, so the program may run all the same.
            if write.close().await.is_err() {
                debug!("the node went away before its channel was closed");
            }
            Err(failure)
        }
    }
}

async fn request_all(
    read: &mut ChannelReadHalf,
    write: &ChannelWriteHalf<Msg>,
    request: &SessionRequest,
    bound: Duration,
) -> Result<(), NodeFailure> {
    // All requests go out at once; the answers come in the same order.
    let mut answers_due = Vec::new();
    let lost = |_| NodeFailure::ConnectionLost;
    for (name, value) in &request.env {
        write.set_env(false, name, value).await.map_err(lost)?;
    }
    if request.agent {
        write.agent_forward(false).await.map_err(lost)?;
    }
    if let Some(x11) = &request.x11 {
        let X11Request { single_connection, protocol, cookie, screen } = x11;
        write
            .request_x11(false, *single_connection, protocol, cookie, *screen)
            .await
            .map_err(lost)?;
    }
    if let Some(pty) = &request.pty {
        let modes: Vec<(Pty, u32)> = pty
            .modes
            .iter()
            .filter_map(|&(code, value)| Pty::from_u8(code).map(|code| (code, value)))
            .collect();
        let WindowSize { columns, rows, width_pixels, height_pixels } = pty.size;
        write
            .request_pty(true, &pty.term, columns, rows, width_pixels, height_pixels, &modes)
            .await
            .map_err(lost)?;
        answers_due.push("a terminal".to_owned());
    }
    match &request.program {
        Program::Shell => {
            write.request_shell(true).await.map_err(lost)?;
            answers_due.push("a shell".to_owned());
        }
        Program::Exec(command) => {
            write.exec(true, command.to_vec()).await.map_err(lost)?;
            answers_due.push("the command".to_owned());
        }
        Program::Subsystem(name) => {
            write.request_subsystem(true, name.clone()).await.map_err(lost)?;
            answers_due.push(format!("the subsystem \"{name}\""));
        }
    }
    for what in answers_due {
        match timeout(bound, answer(read)).await {
            Ok(Some(true)) => {}
            Ok(Some(false)) => return Err(NodeFailure::RequestRefused(what)),
            Ok(None) => return Err(NodeFailure::ConnectionLost),
            Err(_) => {
                let seconds = bound.as_secs();
                let what = format!("{what} (no answer within {seconds} s)");
                return Err(NodeFailure::RequestRefused(what));
            }
        }
    }
    Ok(())
}

/// The ends of a connection that was opened on the node.
pub(super) fn stream(channel: Channel<Msg>) -> BackendSession {
    let (read, write) = channel.split();
    ends(read, write)
}

fn ends(read: ChannelReadHalf, write: ChannelWriteHalf<Msg>) -> BackendSession {
    let write = Arc::new(write);
    BackendSession {
        stdin: Box::new(ChannelStdin(write.clone())),
        control: Arc::new(ChannelControl(write)),
        output: Box::new(ChannelOutput { read, ended: false }),
        output_is_shared: true,
    }
}

/// The answer to one request. Nothing else comes before the program has started.
async fn answer(read: &mut ChannelReadHalf) -> Option<bool> {
    loop {
        match read.wait().await? {
            ChannelMsg::Success => return Some(true),
            ChannelMsg::Failure => return Some(false),
            ChannelMsg::Close => return None,
            ChannelMsg::WindowAdjusted { .. } => {}
            other => debug!(?other, "unexpected before the program's start"),
        }
    }
}

struct ChannelStdin(Arc<ChannelWriteHalf<Msg>>);

#[async_trait]
impl Stdin for ChannelStdin {
    async fn write(&mut self, data: Bytes) -> Result<(), Gone> {
        self.0.data_bytes(data).await.map_err(|_| Gone)
    }

    async fn eof(&mut self) -> Result<(), Gone> {
        self.0.eof().await.map_err(|_| Gone)
    }
}

struct ChannelControl(Arc<ChannelWriteHalf<Msg>>);

#[async_trait]
impl Control for ChannelControl {
    async fn window_change(&self, size: WindowSize) -> Result<(), Gone> {
        let WindowSize { columns, rows, width_pixels, height_pixels } = size;
        self.0.window_change(columns, rows, width_pixels, height_pixels).await.map_err(|_| Gone)
    }

    async fn signal(&self, name: &str) -> Result<(), Gone> {
        self.0.signal(crate::ssh::signal::from_name(name)).await.map_err(|_| Gone)
    }

    async fn hang_up(&self) {
        // sshd and dropbear send SIGHUP to the program of a closed channel.
        if self.0.close().await.is_err() {
            debug!("the node went away before its channel was closed");
        }
    }
}

struct ChannelOutput {
    read: ChannelReadHalf,
    ended: bool,
}

#[async_trait]
impl Output for ChannelOutput {
    async fn next(&mut self) -> Option<OutputEvent> {
        while !self.ended {
            match self.read.wait().await {
                Some(ChannelMsg::Data { data }) => return Some(OutputEvent::Stdout(data)),
                Some(ChannelMsg::ExtendedData { data, ext: STDERR }) => {
                    return Some(OutputEvent::Stderr(data));
                }
                Some(ChannelMsg::Eof) => return Some(OutputEvent::Eof),
                Some(ChannelMsg::ExitStatus { exit_status }) => {
                    return Some(OutputEvent::Exit(ExitStatus::Code(exit_status)));
                }
                Some(ChannelMsg::ExitSignal {
                    signal_name, core_dumped, error_message, ..
                }) => {
                    return Some(OutputEvent::Exit(ExitStatus::Signal {
                        name: crate::ssh::signal::name(signal_name),
                        core_dumped,
                        message: error_message,
                    }));
                }
                Some(ChannelMsg::Close) | None => self.ended = true,
                Some(_) => {}
            }
        }
        None
    }
}
