//! Connections that the client forwards, RFC 4254 section 7: `-L`, `-D`, `-W`, `-J`, and `-R`.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use russh::ChannelOpenFailure;
use russh::server::{ChannelOpenHandle, Handle, Msg};
use tokio::time::timeout;
use tracing::{debug, info};

use super::channel::{self, Kind, SessionChannel};
use super::connection::{Connection, Slot};
use crate::backend::{BackendSession, Listen, StreamError, StreamTarget};
use crate::relay::{self, Counters, Notices};

/// How long a target may take to begin or end listening: the client's other channels wait.
const REMOTE_FORWARD: Duration = Duration::from_secs(15);

/// Opens the far end, only then the channel (what a server that speaks first says would be lost
/// otherwise), and relays until both have ended.
pub(super) async fn run(
    channel: russh::Channel<Msg>,
    handle: Handle,
    to: StreamTarget,
    reply: ChannelOpenHandle,
    connection: Arc<Connection>,
    _slot: Slot,
) {
    let opened = match connection.attach() {
        Ok(attachment) => tokio::select! {
            opened = attachment.connect(&to) => opened,
            () = connection.ending() => Err(StreamError::Failed("the client is gone".to_owned())),
        },
        Err(refusal) => Err(StreamError::Prohibited(refusal.line)),
    };
    let session = match opened {
        Ok(session) => session,
        Err(error) => {
            info!(%to, %error, "forward refused");
            let failure = match error {
                StreamError::Prohibited(_) => ChannelOpenFailure::AdministrativelyProhibited,
                StreamError::Failed(_) => ChannelOpenFailure::ConnectFailed,
            };
            return reply.reject(failure).await;
        }
    };
    reply.accept().await;
    relay(channel, handle, &connection, session, &to.to_string()).await;
}

/// Relays between an open channel and a connection on the target's side until both have ended.
pub(super) async fn relay(
    channel: russh::Channel<Msg>,
    handle: Handle,
    connection: &Arc<Connection>,
    session: BackendSession,
    what: &str,
) {
    let (channel, reader) = channel::open(channel, handle, connection, Kind::Forward);
    let SessionChannel { output, mut input, mut control, .. } = channel;
    let counters = Counters::default();
    let relaying = async {
        let client = relay::Client {
            input: &mut input,
            control: &mut control,
            output: output.as_ref(),
            notices: &mut Notices::none(),
        };
        relay::run(client, session, &connection.output_spool(), &counters).await;
        output.close().await;
    };
    tokio::select! {
        () = reader => {}
        () = relaying => {}
    }
    debug!(
        what,
        received_bytes = counters.received.load(Ordering::Relaxed),
        sent_bytes = counters.sent.load(Ordering::Relaxed),
        "forward ended"
    );
}

/// Asks the target to listen; the port it chose. russh wants the answer in its callback, so the
/// connection's other channels wait for the target, within its deadlines.
pub(super) async fn listen(connection: &Arc<Connection>, on: &Listen) -> Option<u32> {
    if !connection.may_listen(on) {
        info!(parent: &connection.span, ?on, "remote forward refused: the credentials forbid it");
        return None;
    }
    let listening = match connection.attach() {
        Ok(attachment) => match timeout(REMOTE_FORWARD, attachment.listen(on)).await {
            Ok(listening) => listening,
            Err(_) => Err(StreamError::Failed("the target does not answer".to_owned())),
        },
        Err(refusal) => Err(StreamError::Prohibited(refusal.line)),
    };
    match listening {
        Ok(port) => Some(port),
        Err(error) => {
            info!(parent: &connection.span, ?on, %error, "remote forward refused");
            None
        }
    }
}

/// Ends what [`listen`] began; whether it had.
pub(super) async fn stop_listening(connection: &Arc<Connection>, on: &Listen) -> bool {
    match connection.attach() {
        Ok(attachment) => {
            matches!(timeout(REMOTE_FORWARD, attachment.stop_listening(on)).await, Ok(Ok(())))
        }
        Err(_) => false,
    }
}
