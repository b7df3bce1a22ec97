//! Connections that the client forwards, RFC 4254 section 7: `-L`, `-D`, `-W`, `-J`.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use russh::ChannelOpenFailure;
use russh::server::{ChannelOpenHandle, Handle, Msg};
use tracing::{debug, info};

use super::channel::{self, SessionChannel};
use super::connection::{Connection, Slot};
use crate::backend::{StreamError, StreamTarget};
use crate::relay::{self, Counters};

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
    let (channel, reader) = channel::open(channel, handle, &connection);
    let SessionChannel { output, mut input, mut control, .. } = channel;
    let counters = Counters::default();
    let relaying = async {
        let client =
            relay::Client { input: &mut input, control: &mut control, output: output.as_ref() };
        relay::run(client, session, &connection.server.spool, &counters).await;
        output.close().await;
    };
    tokio::select! {
        () = reader => {}
        () = relaying => {}
    }
    debug!(
        %to,
        received_bytes = counters.received.load(Ordering::Relaxed),
        sent_bytes = counters.sent.load(Ordering::Relaxed),
        "forward ended"
    );
}
