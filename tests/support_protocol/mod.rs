//! A client and a node that do what no stock program can be made to do: any signal, any order of
//! the end, windows and packets of any size.

#![allow(dead_code, reason = "each test crate uses the parts it needs")]
#![allow(clippy::unwrap_used, reason = "a test bed that cannot be built fails the test")]

use std::net::SocketAddr;
use std::sync::Arc;

use russh::server::Auth;
use russh::{Channel, ChannelId, ChannelMsg, client, server};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::support::{DEADLINE, Gateway, Testbed};

/// Waits for something that must happen.
pub(crate) async fn soon<T>(what: &str, event: impl Future<Output = T>) -> T {
    let happened = timeout(DEADLINE, event).await;
    happened.unwrap_or_else(|_| panic!("not within {DEADLINE:?}: {what}"))
}

/// A client's connection to the gateway.
pub(crate) struct PlayedClient(client::Handle<AnyServer>);

pub(crate) struct AnyServer;

impl client::Handler for AnyServer {
    type Error = russh::Error;

    async fn check_server_key(
        &mut self,
        _key: &russh::keys::PublicKeyOrCertificate,
    ) -> Result<bool, Self::Error> {
        Ok(true)
    }
}

impl PlayedClient {
    /// Logs in as `user`, from an open network.
    pub(crate) async fn connect(gateway: &Gateway, user: &str, config: client::Config) -> Self {
        let connecting = client::connect(Arc::new(config), gateway.address(), AnyServer);
        let mut handle = soon("the gateway answers", connecting).await.unwrap();
        assert!(handle.authenticate_none(user).await.unwrap().success());
        Self(handle)
    }

    /// A session channel on which nothing runs yet.
    pub(crate) async fn session(&self) -> Channel<client::Msg> {
        soon("a channel opens", self.0.channel_open_session()).await.unwrap()
    }

    /// A session channel with a command.
    pub(crate) async fn exec(&self, command: &[u8]) -> Channel<client::Msg> {
        let mut channel = self.session().await;
        channel.exec(true, command).await.unwrap();
        assert!(matches!(next(&mut channel).await, Some(ChannelMsg::Success)));
        channel
    }
}

/// The next message of a channel but for window adjustments; `None` after its close.
pub(crate) async fn next<M: From<(ChannelId, ChannelMsg)> + Send + Sync + 'static>(
    channel: &mut Channel<M>,
) -> Option<ChannelMsg> {
    loop {
        match soon("the channel's next message", channel.wait()).await {
            Some(ChannelMsg::WindowAdjusted { .. }) => {}
            message => return message,
        }
    }
}

/// All data until the channel's close.
pub(crate) async fn read_to_end<M: From<(ChannelId, ChannelMsg)> + Send + Sync + 'static>(
    channel: &mut Channel<M>,
) -> Vec<u8> {
    let mut all = Vec::new();
    while let Some(message) = next(channel).await {
        match message {
            ChannelMsg::Data { data } => all.extend_from_slice(&data),
            ChannelMsg::Close => break,
            _ => {}
        }
    }
    all
}

/// A node whose sessions the test plays.
pub(crate) struct PlayedNode {
    address: SocketAddr,
    sessions: mpsc::UnboundedReceiver<NodeSession>,
}

/// A session channel that the gateway opened on the node.
pub(crate) struct NodeSession {
    /// What comes on it, requests included, and what goes out.
    pub(crate) channel: Channel<server::Msg>,
    /// For what a channel itself cannot send.
    pub(crate) handle: server::Handle,
}

impl NodeSession {
    /// The command it is to run; what else was asked for is skipped.
    pub(crate) async fn command(&mut self) -> Vec<u8> {
        loop {
            match next(&mut self.channel).await {
                Some(ChannelMsg::Exec { command, .. }) => return command,
                Some(_) => {}
                None => panic!("the channel is closed and nothing was started"),
            }
        }
    }
}

impl PlayedNode {
    /// A node with the host key that all nodes have.
    pub(crate) async fn start(testbed: &Testbed, config: server::Config) -> Self {
        let key = russh::keys::load_secret_key(testbed.path("node_host_key"), None).unwrap();
        let config = Arc::new(server::Config { keys: vec![key], ..config });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, sessions) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let handler = Any { sessions: sender.clone() };
                let running = server::run_stream(config.clone(), stream, handler).await.unwrap();
                tokio::spawn(running);
            }
        });
        Self { address, sessions }
    }

    /// Its table in the gateway's configuration, under the name `played`.
    pub(crate) fn table(&self) -> String {
        format!("[nodes.played]\naddress = \"{}\"\n", self.address)
    }

    /// The next session that the gateway opens.
    pub(crate) async fn session(&mut self) -> NodeSession {
        soon("a session on the node", self.sessions.recv()).await.unwrap()
    }
}

/// Accepts whatever is asked for.
struct Any {
    sessions: mpsc::UnboundedSender<NodeSession>,
}

impl server::Handler for Any {
    type Error = russh::Error;

    async fn auth_publickey_offered(
        &mut self,
        _user: &str,
        _offer: server::PublicKeyOffer<'_>,
    ) -> Result<Auth, Self::Error> {
        Ok(Auth::Accept)
    }

    async fn auth_publickey(
        &mut self,
        _user: &str,
        _key: server::VerifiedPublicKey<'_>,
    ) -> Result<Auth, Self::Error> {
        Ok(Auth::Accept)
    }

    async fn channel_open_session(
        &mut self,
        channel: Channel<server::Msg>,
        reply: server::ChannelOpenHandle,
        session: &mut server::Session,
    ) -> Result<(), Self::Error> {
        reply.accept().await;
        let session = NodeSession { channel, handle: session.handle() };
        // A test that has ended wants no more sessions.
        self.sessions.send(session).ok();
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
        _modes: &[(russh::Pty, u32)],
        session: &mut server::Session,
    ) -> Result<(), Self::Error> {
        session.channel_success(channel)
    }

    async fn shell_request(
        &mut self,
        channel: ChannelId,
        session: &mut server::Session,
    ) -> Result<(), Self::Error> {
        session.channel_success(channel)
    }

    async fn exec_request(
        &mut self,
        channel: ChannelId,
        _command: &[u8],
        session: &mut server::Session,
    ) -> Result<(), Self::Error> {
        session.channel_success(channel)
    }
}
