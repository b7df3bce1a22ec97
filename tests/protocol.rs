//! RFC 4254 between clients and nodes that say what stock programs rarely or never say.

#![allow(clippy::unwrap_used, reason = "a set-up that fails fails the test")]

mod support;
mod support_protocol;

use russh::{ChannelMsg, Sig, client, server};

use support::{Gateway, Testbed};
use support_protocol::{NodeSession, PlayedClient, PlayedNode, next, read_to_end, soon};

/// Section 6.10, and one of an implementation's own.
const SIGNALS: [&str; 14] = [
    "ABRT",
    "ALRM",
    "FPE",
    "HUP",
    "ILL",
    "INT",
    "KILL",
    "PIPE",
    "QUIT",
    "SEGV",
    "TERM",
    "USR1",
    "USR2",
    "INFO@openssh.com",
];

/// A signal's name without "SIG".
fn text(signal: Sig) -> String {
    match signal {
        Sig::Custom(name) => name,
        known => format!("{known:?}"),
    }
}

struct Bed {
    node: PlayedNode,
    gateway: Gateway,
    _testbed: Testbed,
}

impl Bed {
    async fn with(node: server::Config) -> Self {
        let testbed = Testbed::new();
        let node = PlayedNode::start(&testbed, node).await;
        let gateway = testbed.gateway().tables(&node.table()).start();
        Self { node, gateway, _testbed: testbed }
    }

    async fn new() -> Self {
        Self::with(server::Config::default()).await
    }

    /// Both ends of a session with a command.
    async fn session(&mut self) -> (russh::Channel<client::Msg>, NodeSession, PlayedClient) {
        let client = PlayedClient::connect(&self.gateway, "played", client::Config::default());
        let client = client.await;
        let channel = client.exec(b"anything").await;
        let mut session = self.node.session().await;
        assert_eq!(session.command().await, b"anything");
        (channel, session, client)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_signal_reaches_the_node_in_order() {
    let mut bed = Bed::new().await;
    let (channel, mut node, _client) = bed.session().await;
    for name in SIGNALS {
        channel.signal(Sig::Custom(name.to_owned())).await.unwrap();
    }
    for name in SIGNALS {
        let Some(ChannelMsg::Signal { signal }) = next(&mut node.channel).await else {
            panic!("{name} is missing");
        };
        assert_eq!(text(signal), name);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_exit_signal_keeps_its_core_flag_and_message() {
    let mut bed = Bed::new().await;
    for (number, name) in SIGNALS.into_iter().enumerate() {
        let (mut channel, node, _client) = bed.session().await;
        let (core, said) = (number % 2 == 0, format!("{name}: stoppé, {number}"));
        let signal = Sig::Custom(name.to_owned());
        let id = node.channel.id();
        node.handle
            .exit_signal_request(id, signal, core, said.clone(), String::new())
            .await
            .unwrap();
        node.channel.eof().await.unwrap();
        node.channel.close().await.unwrap();
        let Some(ChannelMsg::ExitSignal { signal_name, core_dumped, error_message, .. }) =
            next(&mut channel).await
        else {
            panic!("no exit signal for {name}");
        };
        assert_eq!((text(signal_name).as_str(), core_dumped, error_message), (name, core, said));
        assert!(matches!(next(&mut channel).await, Some(ChannelMsg::Eof)));
        assert!(matches!(next(&mut channel).await, Some(ChannelMsg::Close) | None));
    }
}

/// What a node may say at the end, in any order that ends with its close.
#[derive(Debug, Clone, Copy)]
enum Last {
    Data,
    Eof,
    Status,
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_is_whole_in_whatever_order_the_node_says_it() {
    use Last::{Data, Eof, Status};
    let mut bed = Bed::new().await;
    for order in [
        [Data, Eof, Status].as_slice(),
        [Data, Status, Eof].as_slice(),
        [Status, Data, Eof].as_slice(),
        [Data, Status].as_slice(),
        [Status, Data].as_slice(),
    ] {
        let (mut channel, node, _client) = bed.session().await;
        for last in order {
            match last {
                Data => node.channel.data_bytes(b"last words".as_slice()).await.unwrap(),
                Eof => node.channel.eof().await.unwrap(),
                Status => node.channel.exit_status(42).await.unwrap(),
            }
        }
        node.channel.close().await.unwrap();

        let mut heard = Vec::new();
        while let Some(message) = next(&mut channel).await {
            heard.push(match message {
                ChannelMsg::Data { data } => String::from_utf8(data.to_vec()).unwrap(),
                ChannelMsg::ExitStatus { exit_status } => format!("exit {exit_status}"),
                ChannelMsg::Eof => "EOF".to_owned(),
                ChannelMsg::Close => break,
                other => panic!("{order:?}: {other:?}"),
            });
        }
        assert_eq!(heard, ["last words", "exit 42", "EOF"], "{order:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_close_without_an_exit_status_is_no_success() {
    let mut bed = Bed::new().await;
    let (mut channel, node, _client) = bed.session().await;
    node.channel.close().await.unwrap();
    let mut status = None;
    while let Some(message) = next(&mut channel).await {
        match message {
            ChannelMsg::ExitStatus { exit_status } => status = Some(exit_status),
            ChannelMsg::Close => break,
            _ => {}
        }
    }
    assert_eq!(status, Some(255));
}

#[tokio::test(flavor = "multi_thread")]
async fn each_direction_outlives_the_end_of_the_other() {
    let mut bed = Bed::new().await;
    let (mut channel, mut node, _client) = bed.session().await;

    // The client has said all; the node has not.
    channel.data_bytes(b"question".as_slice()).await.unwrap();
    channel.eof().await.unwrap();
    assert!(matches!(next(&mut node.channel).await, Some(ChannelMsg::Data { .. })));
    assert!(matches!(next(&mut node.channel).await, Some(ChannelMsg::Eof)));
    node.channel.data_bytes(b"answer".as_slice()).await.unwrap();
    assert!(matches!(next(&mut channel).await, Some(ChannelMsg::Data { .. })));
    node.channel.exit_status(0).await.unwrap();
    node.channel.close().await.unwrap();
    assert!(matches!(next(&mut channel).await, Some(ChannelMsg::ExitStatus { exit_status: 0 })));

    // The other way round.
    let (channel, mut node, _client) = bed.session().await;
    node.channel.eof().await.unwrap();
    channel.data_bytes(b"still there?".as_slice()).await.unwrap();
    assert!(matches!(next(&mut node.channel).await, Some(ChannelMsg::Data { .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_close_by_the_client_closes_the_nodes_channel_after_what_was_sent() {
    let mut bed = Bed::new().await;
    let (channel, mut node, _client) = bed.session().await;
    channel.data_bytes(b"last".as_slice()).await.unwrap();
    channel.close().await.unwrap();
    assert_eq!(read_to_end(&mut node.channel).await, b"last");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_follows_a_window_change_finds_the_new_size() {
    let mut bed = Bed::new().await;
    let client = PlayedClient::connect(&bed.gateway, "played", client::Config::default()).await;
    let channel = client.session().await;
    channel.request_pty(false, "xterm", 80, 24, 0, 0, &[]).await.unwrap();
    channel.exec(false, "anything").await.unwrap();
    let mut node = bed.node.session().await;
    node.command().await;

    const CHANGES: u32 = 200;
    for columns in 1..=CHANGES {
        channel.window_change(columns, 24, 0, 0).await.unwrap();
        channel.data_bytes(columns.to_be_bytes().to_vec()).await.unwrap();
    }
    let (mut size, mut typed) = (0, Vec::new());
    while typed.len() < CHANGES as usize * 4 {
        match next(&mut node.channel).await {
            Some(ChannelMsg::WindowChange { col_width, .. }) => size = col_width,
            Some(ChannelMsg::Data { data }) => {
                typed.extend_from_slice(&data);
                // Sizes in between may be skipped.
                let latest = typed.len() / 4;
                assert!(size as usize >= latest, "{latest} was typed at the size {size}");
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(size, CHANGES);
}

#[tokio::test(flavor = "multi_thread")]
async fn command_lines_arrive_as_they_are() {
    let mut bed = Bed::new().await;
    let client = PlayedClient::connect(&bed.gateway, "played", client::Config::default()).await;
    let long = |length: usize| b"echo \xff '\n' ".iter().copied().cycle().take(length).collect();
    // The last is about the longest that OpenSSH can send: a request is one packet.
    let commands: [Vec<u8>; 4] = [vec![], long(4096), long(100_000), long(250_000)];
    for command in commands {
        let _channel = client.exec(&command).await;
        let mut node = bed.node.session().await;
        assert!(node.command().await == command, "{} bytes", command.len());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_lobby_takes_neither_agent_nor_display() {
    let bed = Bed::new().await;
    let client = PlayedClient::connect(&bed.gateway, "walt", client::Config::default()).await;
    let mut channel = client.session().await;
    channel.agent_forward(true).await.unwrap();
    assert!(matches!(next(&mut channel).await, Some(ChannelMsg::Failure)));
    channel.request_x11(true, false, "MIT-MAGIC-COOKIE-1", "00", 0).await.unwrap();
    assert!(matches!(next(&mut channel).await, Some(ChannelMsg::Failure)));
    channel.request_shell(true).await.unwrap();
    assert!(matches!(next(&mut channel).await, Some(ChannelMsg::Success)));
    assert!(!read_to_end(&mut channel).await.is_empty());
}

/// What is sent through small windows and packets.
fn sample() -> Vec<u8> {
    (0..20_000_u32).map(|n| (n % 251) as u8).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn windows_and_packets_of_any_size_carry_everything() {
    for (window, packet) in [(2, 1), (7, 64), (64, 5), (4096, 9), (u32::MAX, 32 * 1024)] {
        let node = server::Config {
            window_size: window,
            maximum_packet_size: packet,
            ..server::Config::default()
        };
        let client = client::Config {
            window_size: window,
            maximum_packet_size: packet,
            ..client::Config::default()
        };
        let mut bed = Bed::with(node).await;
        let client = PlayedClient::connect(&bed.gateway, "played", client).await;
        let mut channel = client.exec(b"anything").await;
        let mut node = bed.node.session().await;
        node.command().await;

        let length = if window == 2 { 500 } else { sample().len() };
        let sent = &sample()[..length];
        let (node_reads, node_writes) = node.channel.split();
        let upward = async {
            let (mut reads, mut heard) = (node_reads, Vec::new());
            while heard.len() < length {
                if let Some(ChannelMsg::Data { data }) = soon("data", reads.wait()).await {
                    assert!(data.len() <= packet as usize, "a packet of {} bytes", data.len());
                    heard.extend_from_slice(&data);
                }
            }
            heard
        };
        let answering = async {
            node_writes.data_bytes(sent.to_vec()).await.unwrap();
            node_writes.exit_status(0).await.unwrap();
        };
        channel.data_bytes(sent.to_vec()).await.unwrap();
        let downward = async {
            let mut heard = Vec::new();
            while heard.len() < length {
                if let Some(ChannelMsg::Data { data }) = next(&mut channel).await {
                    assert!(data.len() <= packet as usize, "a packet of {} bytes", data.len());
                    heard.extend_from_slice(&data);
                }
            }
            heard
        };
        let (up, down, ()) = tokio::join!(upward, downward, answering);
        assert!(up == sent && down == sent, "window {window}, packets of {packet}");
    }
}
