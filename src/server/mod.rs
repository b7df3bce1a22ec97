//! Speaks SSH with the client: the only home of `russh::server`.
//!
//! [`Server::serve`] runs one connection: handshake and authentication within the grace time
//! ([`handler`]), then its session channels ([`session`]) until the client leaves, stays idle too
//! long, or the gateway shuts down.

mod arrival;
mod channel;
mod connection;
mod console;
mod forced_command;
mod forward;
mod handler;
mod line_editor;
mod refusal;
mod screen;
mod session;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use russh::keys::{PrivateKey, ssh_encoding};
use russh::server::Config;
use russh::{Disconnect, MethodKind, MethodSet};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, debug, field, info, info_span, warn};

use self::connection::Connection;
use self::handler::ClientHandler;
use crate::auth::Authenticator;
use crate::backend::{Backend, in_words};
use crate::config::Limits;
use crate::names::NodeName;
use crate::relay::spool::SpoolLimits;
use crate::ssh::algorithms;
use crate::ssh::peer_watch::PeerWatch;
use crate::ssh::stream::CancellableStream;

/// Window of a channel towards the client, in bytes, as OpenSSH's.
const WINDOW: u32 = 2 * 1024 * 1024;
/// Packets of a channel that russh may queue before the channel's reader takes them. It grants new
/// window when they come and not when they are taken, so a longer queue is memory and nothing else:
/// an upload fills it.
const CHANNEL_BUFFER: usize = 16;
/// Messages to the client that may wait to be written.
const EVENT_BUFFER: usize = 32;
/// How long before an idle connection is closed its terminals are told; a quarter of the limit where
/// that is shorter.
const IDLE_WARNING: Duration = Duration::from_secs(60);
/// How long a client gets to leave by itself after its sessions have ended.
const LEAVE: Duration = Duration::from_secs(1);
/// How long a client gets to take the last messages and leave.
const FAREWELL: Duration = Duration::from_secs(3);

/// What every connection needs.
pub struct Server {
    authenticator: Arc<Authenticator>,
    backend: Arc<dyn Backend>,
    limits: Limits,
    lobby: NodeName,
    spool: SpoolLimits,
    methods: MethodSet,
    ssh: Arc<Config>,
}

impl Server {
    /// Puts the parts together. `spool` bounds what one stalled direction of a channel may keep.
    pub fn new(
        authenticator: Arc<Authenticator>,
        backend: Arc<dyn Backend>,
        limits: Limits,
        lobby: NodeName,
        spool: SpoolLimits,
        host_keys: Vec<PrivateKey>,
    ) -> Self {
        let mut methods = MethodSet::empty();
        methods.push(MethodKind::PublicKey);
        if authenticator.methods().password {
            methods.push(MethodKind::Password);
        }
        let ssh = Arc::new(Config {
            server_id: algorithms::identification(),
            methods: methods.clone(),
            limits: rekey_limits(limits.rekey_bytes),
            // Passwords cost the same time whether right, wrong or without an account; a refused
            // public key tells nothing and need not cost any.
            auth_rejection_time: Duration::ZERO,
            auth_rejection_time_initial: Some(Duration::ZERO),
            keys: host_keys,
            window_size: WINDOW,
            channel_buffer_size: CHANNEL_BUFFER,
            event_buffer_size: EVENT_BUFFER,
            preferred: algorithms::preferred(),
            // OpenSSH's first attempt, "none", counts here but not in sshd's MaxAuthTries.
            max_auth_attempts: limits.max_auth_attempts + 1,
            inactivity_timeout: None,
            // The kernel asks whether the client's machine is there (ssh/peer_watch.rs). A client
            // that is stopped, as by ssh's escape ~^Z, answers nothing and is there all the same.
            keepalive_interval: None,
            nodelay: true,
            ..Config::default()
        });
        Self { authenticator, backend, limits, lobby, spool, methods, ssh }
    }

    /// Serves one connection until it ends. `startup` is held until the client has authenticated.
    pub async fn serve(
        self: Arc<Self>,
        stream: TcpStream,
        peer: SocketAddr,
        id: u64,
        startup: impl Send,
        shutdown: CancellationToken,
    ) {
        let span = info_span!(
            "connection",
            id,
            %peer,
            account = field::Empty,
            target = field::Empty
        );
        let connection = Arc::new(Connection::new(self, peer, id, span.clone()));
        run(connection, stream, startup, shutdown).instrument(span).await;
    }
}

async fn run(
    connection: Arc<Connection>,
    stream: TcpStream,
    startup: impl Send,
    shutdown: CancellationToken,
) {
    if let Err(error) = stream.set_nodelay(true) {
        debug!(%error, "cannot switch off Nagle's algorithm");
    }
    // Whatever way this function ends, russh's task ends with it.
    let stream_end = CancellationToken::new();
    let _end_with_us = stream_end.clone().drop_guard();
    let peer_watch = PeerWatch::of(&stream);
    let stream = CancellableStream::new(stream, &stream_end);
    let handler = ClientHandler::new(connection.clone());
    let ssh = connection.server.ssh.clone();
    let running = async { russh::server::run_stream(ssh, stream, handler).await?.await };
    tokio::pin!(running);

    let grace = connection.server.limits.login_grace;
    tokio::select! {
        ended = &mut running => return log_end(ended, "before authentication"),
        () = connection.authenticated.cancelled() => {}
        () = tokio::time::sleep(grace) => {
            return info!("not authenticated within {} s", grace.as_secs());
        }
        () = shutdown.cancelled() => return,
    }
    drop(startup);

    tokio::select! {
        ended = &mut running => log_end(ended, "by the client"),
        () = peer_watch.broken() => info!("the connection broke"),
        () = idle(connection.server.limits.idle, || connection.idle_for(), |left| {
            connection.say(idle_warning(connection.idle_for(), left));
        }) => {
            let limit = exactly(connection.server.limits.idle.unwrap_or_default());
            info!("closing after {limit} without traffic");
            end(&connection, &format!("closed after {limit} without traffic"), running).await;
        }
        () = shutdown.cancelled() => {
            end(&connection, "the gateway is shutting down", running).await;
        }
    }
    connection.end("the client went away");
    // Nothing can be told any more; this also wakes who waits for the client's window.
    stream_end.cancel();
    connection.sessions.close();
    connection.sessions.wait().await;
    if let Some(attachment) = connection.detach() {
        attachment.close().await;
    }
    debug!("connection closed");
}

/// New keys after this many bytes in one direction, or an hour.
fn rekey_limits(bytes: usize) -> russh::Limits {
    russh::Limits { rekey_write_limit: bytes, rekey_read_limit: bytes, ..Default::default() }
}

/// Lets the sessions tell their clients why they end, then says goodbye.
async fn end(
    connection: &Connection,
    reason: &str,
    running: impl Future<Output = Result<(), russh::Error>>,
) {
    connection.end(reason);
    let farewell = async {
        connection.sessions.close();
        connection.sessions.wait().await;
        // ssh(1) leaves by itself when its last session has ended, and shows all that was said;
        // after a disconnect message it shows nothing more.
        tokio::time::sleep(LEAVE).await;
        if let Some(handle) = connection.handle() {
            // Goes out after the sessions' last words; a client that is gone misses nothing.
            let goodbye = handle.disconnect(Disconnect::ByApplication, reason.into(), "".into());
            if goodbye.await.is_err() {
                debug!("the client left first");
            }
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        ended = running => log_end(ended, "by the gateway"),
        () = farewell => {}
        () = tokio::time::sleep(FAREWELL) => debug!("the client did not take its leave in time"),
    }
}

/// Resolves when `idle_for`, the time in which no data passed, has reached `limit`; without a limit
/// never. Each time that is near, `warn` is told how much is left.
async fn idle(limit: Option<Duration>, idle_for: impl Fn() -> Duration, warn: impl Fn(Duration)) {
    let Some(limit) = limit else {
        return std::future::pending().await;
    };
    let warning = limit - IDLE_WARNING.min(limit / 4);
    let mut is_warned = false;
    loop {
        let idle = idle_for();
        let left = limit.saturating_sub(idle);
        if left.is_zero() {
            return;
        }
        let next = if idle < warning {
            is_warned = false;
            warning - idle
        } else {
            if !is_warned {
                warn(left);
            }
            is_warned = true;
            left
        };
        tokio::time::sleep(next).await;
    }
}

fn idle_warning(idle: Duration, left: Duration) -> String {
    // To the second above: what is left is never more than what is said.
    let left = Duration::from_secs(left.as_secs_f64().ceil() as u64);
    let (idle, left) = (in_words(idle), exactly(left));
    format!("idle for {idle}; the connection is closed in {left} unless you type")
}

/// A time in minutes if that is a whole number, else in seconds.
fn exactly(time: Duration) -> String {
    match time.as_secs() {
        seconds if seconds >= 60 && seconds % 60 == 0 => format!("{} min", seconds / 60),
        seconds => format!("{seconds} s"),
    }
}

fn log_end(ended: Result<(), russh::Error>, by: &str) {
    use russh::Error;
    match ended {
        Ok(()) | Err(Error::Disconnect | Error::HUP | Error::IO(_)) => debug!("closed {by}"),
        Err(Error::SshEncoding(ssh_encoding::Error::CharacterEncoding)) => warn!(
            "the client sent text that is not UTF-8, such as an environment variable's value, \
             which is not supported; connection closed"
        ),
        Err(error) => warn!(%error, "SSH protocol error, connection closed"),
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn traffic_puts_off_the_end_of_an_idle_connection() {
        let start = tokio::time::Instant::now();
        // Data passed at 30 s, after the first look and before the second.
        let looks = Cell::new(0);
        let idle_for = || {
            looks.set(looks.get() + 1);
            let last = if looks.get() > 1 { Duration::from_secs(30) } else { Duration::ZERO };
            start.elapsed() - last
        };
        idle(Some(Duration::from_secs(60)), idle_for, |_| {}).await;
        assert_eq!(start.elapsed().as_secs(), 90);
    }

    #[tokio::test(start_paused = true)]
    async fn each_time_that_the_end_is_near_it_is_announced_once() {
        let start = tokio::time::Instant::now();
        let (last, warnings) = (Cell::new(0), std::cell::RefCell::new(Vec::new()));
        let idle_for = || start.elapsed() - Duration::from_secs(last.get());
        let warn = |left: Duration| {
            warnings.borrow_mut().push((start.elapsed().as_secs(), left.as_secs()));
            if warnings.borrow().len() == 1 {
                // Something is typed right now.
                last.set(start.elapsed().as_secs());
            }
        };
        idle(Some(Duration::from_secs(600)), idle_for, warn).await;
        assert_eq!(warnings.take(), [(540, 60), (1080, 60)]);
        assert_eq!(start.elapsed().as_secs(), 1140);

        let short = tokio::time::Instant::now();
        let warn = |left: Duration| warnings.borrow_mut().push((0, left.as_secs()));
        idle(Some(Duration::from_secs(60)), || short.elapsed(), warn).await;
        assert_eq!(warnings.take(), [(0, 15)]);
    }

    #[test]
    fn times_are_told_as_they_were_set() {
        let minute = Duration::from_secs(60);
        assert_eq!(
            [exactly(minute), exactly(minute * 10), exactly(minute / 40)],
            ["1 min", "10 min", "1 s"]
        );
        assert_eq!(exactly(minute * 3 / 2), "90 s");
        assert_eq!(
            idle_warning(minute * 9, minute - Duration::from_millis(2)),
            "idle for 9 min; the connection is closed in 1 min unless you type"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_limit_nothing_is_idle_too_long() {
        let idle = idle(None, || Duration::MAX, |_| {});
        let day = Duration::from_secs(24 * 60 * 60);
        assert!(tokio::time::timeout(day, idle).await.is_err());
    }
}
