//! Translates what russh reports into the gateway's own terms, and delegates.
//!
//! Callbacks run inside the connection's loop, so whatever one waits for, every channel of the
//! connection waits for. Before authentication that is harmless; after it only remote forwards wait,
//! as russh wants their answer at once.

use std::collections::HashSet;
use std::sync::Arc;

use russh::keys::Certificate;
use russh::server::{
    Auth, ChannelOpenHandle, Handle, Msg, PublicKeyOffer, Session, VerifiedPublicKey,
};
use russh::{Channel, ChannelId, ChannelOpenFailure, Pty};
use tracing::{Instrument, info};

use super::connection::Connection;
use super::{forward, session};
use crate::auth::{Identity, Restrictions};
use crate::backend::{Listen, StreamTarget};
use crate::names::AccountName;
use crate::target::{Username, UsernameError};

/// One client's handler.
pub(super) struct ClientHandler {
    connection: Arc<Connection>,
    /// The latest successful authentication; russh calls `auth_succeeded` next.
    accepted: Option<(Identity, Result<Username, UsernameError>)>,
    /// Session channels on which a program was started: one each (RFC 4254 section 6.5).
    started: HashSet<ChannelId>,
}

impl ClientHandler {
    pub(super) fn new(connection: Arc<Connection>) -> Self {
        Self { connection, accepted: None, started: HashSet::new() }
    }

    fn parse(&self, user: &str) -> Result<Username, UsernameError> {
        Username::parse(user, &self.connection.server.lobby)
    }

    fn conclude(
        &mut self,
        identity: Option<Identity>,
        username: Result<Username, UsernameError>,
    ) -> Auth {
        match identity {
            Some(identity) => {
                self.accepted = Some((identity, username));
                Auth::Accept
            }
            // russh would take a method off its list once it has failed.
            None => Auth::Reject {
                proceed_with_methods: Some(self.connection.server.methods.clone()),
                partial_success: false,
            },
        }
    }

    /// Whether a program may be started on the channel; the client is answered.
    fn start(&mut self, channel: ChannelId, session: &mut Session) -> Result<(), russh::Error> {
        if self.started.insert(channel) {
            session.channel_success(channel)
        } else {
            session.channel_failure(channel)
        }
    }

    async fn forward(
        &self,
        channel: Channel<Msg>,
        to: StreamTarget,
        reply: ChannelOpenHandle,
        handle: Handle,
    ) {
        let connection = &self.connection;
        if !connection.may_open(&to) {
            info!(parent: &connection.span, %to, "forward refused: the credentials forbid it");
            reply.reject(ChannelOpenFailure::AdministrativelyProhibited).await;
            return;
        }
        let Some(slot) = connection.forward_slot() else {
            reply.reject(ChannelOpenFailure::ResourceShortage).await;
            return;
        };
        let serving = forward::run(channel, handle, to, reply, connection.clone(), slot);
        connection.sessions.spawn(serving.instrument(connection.span.clone()));
    }

    fn restrictions(&self) -> Option<&Restrictions> {
        self.connection.identity().map(|identity| &identity.restrictions)
    }
}

/// The account named before "+", if any.
fn claimed(username: &Result<Username, UsernameError>) -> Option<&AccountName> {
    username.as_ref().ok()?.account.as_ref()
}

impl russh::server::Handler for ClientHandler {
    type Error = russh::Error;

    async fn auth_none(&mut self, user: &str) -> Result<Auth, Self::Error> {
        let username = self.parse(user);
        let identity = self
            .connection
            .server
            .authenticator
            .source_network(claimed(&username), self.connection.peer.ip());
        Ok(self.conclude(identity, username))
    }

    async fn auth_password(&mut self, user: &str, password: &str) -> Result<Auth, Self::Error> {
        let username = self.parse(user);
        let identity = self
            .connection
            .server
            .authenticator
            .password(claimed(&username), self.connection.peer.ip(), password)
            .await;
        if identity.is_none() {
            info!(parent: &self.connection.span, "wrong password or account");
        }
        Ok(self.conclude(identity, username))
    }

    async fn auth_publickey_offered(
        &mut self,
        user: &str,
        offer: PublicKeyOffer<'_>,
    ) -> Result<Auth, Self::Error> {
        let username = self.parse(user);
        let authenticator = &self.connection.server.authenticator;
        let peer = self.connection.peer.ip();
        let known =
            authenticator.offers_public_key(claimed(&username), peer, offer.public_key).await;
        Ok(if known { Auth::Accept } else { Auth::reject() })
    }

    async fn auth_publickey(
        &mut self,
        user: &str,
        key: VerifiedPublicKey<'_>,
    ) -> Result<Auth, Self::Error> {
        let username = self.parse(user);
        let authenticator = &self.connection.server.authenticator;
        let peer = self.connection.peer.ip();
        let identity = authenticator.public_key(claimed(&username), peer, key.public_key).await;
        Ok(self.conclude(identity, username))
    }

    async fn auth_openssh_certificate(
        &mut self,
        user: &str,
        certificate: &Certificate,
    ) -> Result<Auth, Self::Error> {
        let username = self.parse(user);
        let authenticator = &self.connection.server.authenticator;
        let peer = self.connection.peer.ip();
        let identity = authenticator.certificate(claimed(&username), peer, certificate).await;
        Ok(self.conclude(identity, username))
    }

    async fn auth_succeeded(&mut self, session: &mut Session) -> Result<(), Self::Error> {
        let Some((identity, username)) = self.accepted.take() else {
            return Err(russh::Error::Inconsistent);
        };
        let method = identity.method.clone();
        self.connection.identify(identity, username, session.handle());
        info!(parent: &self.connection.span, method, "authenticated");
        Ok(())
    }

    async fn channel_open_session(
        &mut self,
        channel: Channel<Msg>,
        reply: ChannelOpenHandle,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        let Some(slot) = self.connection.session_slot() else {
            info!(parent: &self.connection.span, "max_sessions_per_connection reached");
            reply.reject(ChannelOpenFailure::ResourceShortage).await;
            return Ok(());
        };
        reply.accept().await;
        let serving = session::run(channel, session.handle(), self.connection.clone(), slot);
        self.connection.sessions.spawn(serving.instrument(self.connection.span.clone()));
        Ok(())
    }

    async fn channel_open_direct_tcpip(
        &mut self,
        channel: Channel<Msg>,
        host_to_connect: &str,
        port_to_connect: u32,
        _originator_address: &str,
        _originator_port: u32,
        reply: ChannelOpenHandle,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        let Ok(port) = u16::try_from(port_to_connect) else {
            reply.reject(ChannelOpenFailure::ConnectFailed).await;
            return Ok(());
        };
        let to = StreamTarget::Tcp { host: host_to_connect.to_owned(), port };
        self.forward(channel, to, reply, session.handle()).await;
        Ok(())
    }

    async fn channel_open_direct_streamlocal(
        &mut self,
        channel: Channel<Msg>,
        socket_path: &str,
        reply: ChannelOpenHandle,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        let to = StreamTarget::Unix { path: socket_path.to_owned() };
        self.forward(channel, to, reply, session.handle()).await;
        Ok(())
    }

    async fn channel_close(
        &mut self,
        channel: ChannelId,
        _session: &mut Session,
    ) -> Result<(), Self::Error> {
        self.started.remove(&channel);
        Ok(())
    }

    async fn pty_request(
        &mut self,
        channel: ChannelId,
        _term: &str,
        _col_width: u32,
        _row_height: u32,
        _pix_width: u32,
        _pix_height: u32,
        _modes: &[(Pty, u32)],
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        if self.restrictions().is_none_or(|restrictions| restrictions.no_pty) {
            session.channel_failure(channel)
        } else {
            session.channel_success(channel)
        }
    }

    async fn x11_request(
        &mut self,
        channel: ChannelId,
        _single_connection: bool,
        _x11_auth_protocol: &str,
        _x11_auth_cookie: &str,
        _x11_screen_number: u32,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        let allowed =
            self.restrictions().is_some_and(|restrictions| !restrictions.no_x11_forwarding);
        if allowed && self.connection.target_runs_programs() {
            session.channel_success(channel)
        } else {
            session.channel_failure(channel)
        }
    }

    async fn agent_request(
        &mut self,
        _channel: ChannelId,
        _session: &mut Session,
    ) -> Result<bool, Self::Error> {
        let allowed =
            self.restrictions().is_some_and(|restrictions| !restrictions.no_agent_forwarding);
        Ok(allowed && self.connection.target_runs_programs())
    }

    async fn tcpip_forward(
        &mut self,
        address: &str,
        port: &mut u32,
        _session: &mut Session,
    ) -> Result<bool, Self::Error> {
        let Ok(asked) = u16::try_from(*port) else { return Ok(false) };
        let on = Listen::Tcp { address: address.to_owned(), port: asked };
        let listening = forward::listen(&self.connection, &on).await;
        if let Some(chosen) = listening {
            *port = chosen;
        }
        Ok(listening.is_some())
    }

    async fn cancel_tcpip_forward(
        &mut self,
        address: &str,
        port: u32,
        _session: &mut Session,
    ) -> Result<bool, Self::Error> {
        let Ok(port) = u16::try_from(port) else { return Ok(false) };
        let on = Listen::Tcp { address: address.to_owned(), port };
        Ok(forward::stop_listening(&self.connection, &on).await)
    }

    async fn streamlocal_forward(
        &mut self,
        socket_path: &str,
        _session: &mut Session,
    ) -> Result<bool, Self::Error> {
        let on = Listen::Unix { path: socket_path.to_owned() };
        Ok(forward::listen(&self.connection, &on).await.is_some())
    }

    async fn cancel_streamlocal_forward(
        &mut self,
        socket_path: &str,
        _session: &mut Session,
    ) -> Result<bool, Self::Error> {
        let on = Listen::Unix { path: socket_path.to_owned() };
        Ok(forward::stop_listening(&self.connection, &on).await)
    }

    async fn env_request(
        &mut self,
        channel: ChannelId,
        _variable_name: &str,
        _variable_value: &str,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        session.channel_success(channel)
    }

    async fn shell_request(
        &mut self,
        channel: ChannelId,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        self.start(channel, session)
    }

    async fn exec_request(
        &mut self,
        channel: ChannelId,
        _data: &[u8],
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        self.start(channel, session)
    }

    async fn subsystem_request(
        &mut self,
        channel: ChannelId,
        _name: &str,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        self.start(channel, session)
    }

    async fn window_change_request(
        &mut self,
        channel: ChannelId,
        _col_width: u32,
        _row_height: u32,
        _pix_width: u32,
        _pix_height: u32,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        session.channel_success(channel)
    }

    async fn signal(
        &mut self,
        channel: ChannelId,
        _signal: russh::Sig,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        session.channel_success(channel)
    }
}
