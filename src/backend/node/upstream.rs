//! A connection to a node: TCP, SSH handshake, host key, authentication.

use std::borrow::Cow;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use russh::client::{Config, Handle, Msg};
use russh::keys::{PrivateKey, PrivateKeyWithHashAlg};
use russh::{Channel, ChannelOpenFailure, Disconnect};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::debug;

use super::arrivals::Arrivals;
use super::handler::{NodeHandler, Verdict};
use super::host_key::{HostKeys, OwnHostKeys};
use crate::backend::{Listen, NodeFailure, StreamError, StreamTarget};
use crate::inventory::NodeRecord;
use crate::names::Login;
use crate::ssh::algorithms;
use crate::ssh::stream::CancellableStream;

/// As WalT's own ServerAliveInterval: a node that loses power is noticed within 20 s.
const KEEPALIVE: Duration = Duration::from_secs(5);
/// Unanswered keepalives before the node counts as gone.
const KEEPALIVES: usize = 3;
/// Window of a channel from the node, in bytes.
const WINDOW: u32 = 2 * 1024 * 1024;
/// Packets of a channel that russh may queue before the channel's reader takes them.
const CHANNEL_BUFFER: usize = 64;

/// For the last message to a node to be sent.
const GOODBYE: Duration = Duration::from_secs(1);

/// Why a node could not be connected to, and whether waiting may help.
#[derive(Debug)]
pub(super) struct ConnectError {
    pub(super) failure: NodeFailure,
    /// It looks like a node that is booting: nothing listens yet, or it hangs up at once.
    pub(super) may_be_booting: bool,
}

/// An authenticated connection to a node.
pub(super) struct Upstream {
    handle: Handle<NodeHandler>,
    /// Channels that the node opens.
    pub(super) arrivals: Arc<Arrivals>,
    ended: CancellationToken,
    _end_with_us: DropGuard,
}

impl Upstream {
    /// Connects and authenticates. `own` are the host keys accepted here. TCP and SSH
    /// are each bounded by the node's `connect_seconds`. It is nobody's yet: see
    /// [`Arrivals::belong_to`].
    pub(super) async fn connect(
        node: &NodeRecord,
        login: &Login,
        own: &OwnHostKeys,
    ) -> Result<Self, ConnectError> {
        let (host_keys, identity) = read_files(node, own).await.map_err(final_failure)?;
        let bound = node.options.connect;
        let stream = match timeout(bound, TcpStream::connect(node.address)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Err(booting(NodeFailure::Unreachable(reason(&error)))),
            Err(_) => return Err(booting(NodeFailure::Unreachable(no_answer(bound)))),
        };
        if let Err(error) = stream.set_nodelay(true) {
            debug!(%error, "cannot switch off Nagle's algorithm");
        }
        let end = CancellationToken::new();
        let end_with_us = end.clone().drop_guard();
        let stream = CancellableStream::new(stream, &end);
        let arrivals = Arc::new(Arrivals::default());
        let verdict = Verdict::default();
        let ended = CancellationToken::new();
        let handler = NodeHandler {
            host_keys: Arc::new(host_keys),
            verdict: verdict.clone(),
            arrivals: arrivals.clone(),
            _ended: ended.clone().drop_guard(),
        };
        let opening = handshake(stream, handler, verdict, identity, node, login);
        let handle = match timeout(bound, opening).await {
            Ok(opened) => opened?,
            Err(_) => return Err(booting(NodeFailure::Handshake(no_answer(bound)))),
        };
        Ok(Self { handle, arrivals, ended, _end_with_us: end_with_us })
    }

    /// Whether the connection has ended.
    pub(super) fn is_closed(&self) -> bool {
        self.handle.is_closed()
    }

    /// Resolves when the connection has ended.
    pub(super) async fn ended(&self) {
        self.ended.cancelled().await;
    }

    /// Asks the node for an answer; whether it gave one before the connection ended. Waits for as
    /// long as keepalives may go unanswered.
    pub(super) async fn answers(&self) -> bool {
        // russh says that all is well also when the connection ends instead.
        self.handle.send_ping().await.is_ok() && !self.is_closed()
    }

    /// Opens a session channel. Bounded by `bound`.
    pub(super) async fn open_session(&self, bound: Duration) -> Result<Channel<Msg>, NodeFailure> {
        match timeout(bound, self.handle.channel_open_session()).await {
            Ok(Ok(channel)) => Ok(channel),
            Ok(Err(russh::Error::ChannelOpenFailure(refusal))) => {
                Err(NodeFailure::RequestRefused(format!("a session channel ({refusal:?})")))
            }
            Ok(Err(_)) => Err(NodeFailure::ConnectionLost),
            Err(_) => Err(NodeFailure::RequestRefused(format!(
                "a session channel ({})",
                no_answer(bound)
            ))),
        }
    }

    /// Opens a connection on the node. Bounded by `bound`.
    pub(super) async fn open_stream(
        &self,
        to: &StreamTarget,
        bound: Duration,
    ) -> Result<Channel<Msg>, StreamError> {
        let opening = async {
            match to {
                StreamTarget::Tcp { host, port } => {
                    let port = u32::from(*port);
                    // The originator is the gateway, as far as the node is concerned.
                    self.handle.channel_open_direct_tcpip(host, port, "127.0.0.1", 0).await
                }
                StreamTarget::Unix { path } => {
                    self.handle.channel_open_direct_streamlocal(path).await
                }
            }
        };
        match timeout(bound, opening).await {
            Ok(Ok(channel)) => Ok(channel),
            Ok(Err(russh::Error::ChannelOpenFailure(
                ChannelOpenFailure::AdministrativelyProhibited,
            ))) => Err(StreamError::Prohibited(format!("the node refuses to open {to}"))),
            Ok(Err(error)) => Err(StreamError::Failed(error.to_string())),
            Err(_) => Err(StreamError::Failed(no_answer(bound))),
        }
    }

    /// Makes the node listen. Bounded by `bound`. Returns the port (0 for a socket).
    pub(super) async fn listen(&self, on: &Listen, bound: Duration) -> Result<u32, StreamError> {
        let asking = async {
            match on {
                Listen::Tcp { address, port } => {
                    let chosen = self.handle.tcpip_forward(address, u32::from(*port)).await?;
                    Ok(if *port == 0 { chosen } else { u32::from(*port) })
                }
                Listen::Unix { path } => self.handle.streamlocal_forward(path).await.map(|()| 0),
            }
        };
        Self::answered(timeout(bound, asking).await, bound)
    }

    /// Ends a [`Upstream::listen`]. Bounded by `bound`.
    pub(super) async fn stop_listening(
        &self,
        on: &Listen,
        bound: Duration,
    ) -> Result<(), StreamError> {
        let asking = async {
            match on {
                Listen::Tcp { address, port } => {
                    self.handle.cancel_tcpip_forward(address, u32::from(*port)).await
                }
                Listen::Unix { path } => self.handle.cancel_streamlocal_forward(path).await,
            }
        };
        Self::answered(timeout(bound, asking).await, bound)
    }

    fn answered<T>(
        answer: Result<Result<T, russh::Error>, tokio::time::error::Elapsed>,
        bound: Duration,
    ) -> Result<T, StreamError> {
        match answer {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(russh::Error::RequestDenied)) => {
                Err(StreamError::Prohibited("the node refuses".to_owned()))
            }
            Ok(Err(error)) => Err(StreamError::Failed(error.to_string())),
            Err(_) => Err(StreamError::Failed(no_answer(bound))),
        }
    }

    /// Says goodbye, and waits until that is sent: dropping this ends the connection as it is. The
    /// node may be gone already.
    pub(super) async fn disconnect(&self) {
        let goodbye = async {
            // Fails only if the connection has ended.
            let sent = self.handle.disconnect(Disconnect::ByApplication, "", "").await;
            if sent.is_ok() {
                self.ended().await;
            }
        };
        if timeout(GOODBYE, goodbye).await.is_err() {
            debug!("a node did not take the disconnect message in time");
        }
    }
}

async fn read_files(
    node: &NodeRecord,
    own: &OwnHostKeys,
) -> Result<(HostKeys, Arc<PrivateKey>), NodeFailure> {
    let node = node.clone();
    let own = own.clone();
    tokio::task::spawn_blocking(move || {
        let host_keys = HostKeys::read(&node, &own)?;
        Ok((host_keys, read_identity(&node.options.identity)?))
    })
    .await
    .map_err(|error| NodeFailure::Identity(error.to_string()))?
}

/// Reads a private key. Blocks on the disk.
pub(super) fn read_identity(file: &PathBuf) -> Result<Arc<PrivateKey>, NodeFailure> {
    match russh::keys::load_secret_key(file, None) {
        Ok(key) => Ok(Arc::new(key)),
        Err(error) => Err(NodeFailure::Identity(format!("{}: {error}", file.display()))),
    }
}

async fn handshake(
    stream: CancellableStream,
    handler: NodeHandler,
    verdict: Verdict,
    identity: Arc<PrivateKey>,
    node: &NodeRecord,
    login: &Login,
) -> Result<Handle<NodeHandler>, ConnectError> {
    let mut preferred = algorithms::preferred();
    preferred.key = Cow::Owned(handler.host_keys.preferred_algorithms(&preferred.key));
    let config = Arc::new(Config {
        client_id: algorithms::identification(),
        preferred,
        window_size: WINDOW,
        channel_buffer_size: CHANNEL_BUFFER,
        keepalive_interval: Some(KEEPALIVE),
        keepalive_max: KEEPALIVES,
        nodelay: true,
        ..Config::default()
    });
    let connected = russh::client::connect_stream(config, stream, handler).await;
    let mut handle = match connected {
        Ok(handle) => handle,
        Err(error) => {
            return Err(match verdict.take() {
                Some(failure) => final_failure(failure),
                None => handshake_failure(&error),
            });
        }
    };

    let hash = if identity.algorithm().is_rsa() {
        handle.best_supported_rsa_hash().await.map_err(|error| handshake_failure(&error))?
    } else {
        None
    };
    let key = PrivateKeyWithHashAlg::new(identity, hash.flatten());
    let accepted = handle
        .authenticate_publickey(login.as_str(), key)
        .await
        .map_err(|error| handshake_failure(&error))?;
    if accepted.success() {
        Ok(handle)
    } else {
        Err(final_failure(NodeFailure::KeyRefused {
            login: login.to_string(),
            identity: node.options.identity.display().to_string(),
        }))
    }
}

fn final_failure(failure: NodeFailure) -> ConnectError {
    ConnectError { failure, may_be_booting: false }
}

fn booting(failure: NodeFailure) -> ConnectError {
    ConnectError { failure, may_be_booting: true }
}

fn handshake_failure(error: &russh::Error) -> ConnectError {
    use russh::Error;
    // sshd that is starting or stopping accepts and hangs up; anything else will not get better.
    let hung_up = matches!(error, Error::Disconnect | Error::HUP | Error::IO(_));
    let reason = match error {
        Error::Disconnect | Error::HUP => "the node closed the connection".to_owned(),
        Error::IO(error) => reason(error),
        other => other.to_string(),
    };
    ConnectError { failure: NodeFailure::Handshake(reason), may_be_booting: hung_up }
}

fn no_answer(bound: Duration) -> String {
    format!("no answer within {} s", bound.as_secs())
}

/// An I/O error in the words of strerror(3), without the number.
fn reason(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        io::ErrorKind::HostUnreachable => "no route to host".to_owned(),
        io::ErrorKind::NetworkUnreachable => "network is unreachable".to_owned(),
        io::ErrorKind::TimedOut => "connection timed out".to_owned(),
        io::ErrorKind::ConnectionReset => "connection reset".to_owned(),
        io::ErrorKind::UnexpectedEof => "the node closed the connection".to_owned(),
        _ => error.to_string(),
    }
}
