//! What a client has to forward, and what is at the other ends of its forwards.

#![allow(dead_code, reason = "each test crate uses the parts it needs")]

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;

use crate::support::process::{Process, bound_command, run_tool};
use crate::support::{Client, DEADLINE, Testbed, eventually};

pub(crate) const GREETING: &str = "hello, who is there?\n";
pub(crate) const PARALLEL: usize = 100;
pub(crate) const QUESTION: usize = 100_000;

/// Speaks first, reads to the end, then says how much it read.
pub(crate) fn converse(mut stream: impl Read + Write) {
    stream.write_all(GREETING.as_bytes()).unwrap();
    let mut heard = Vec::new();
    stream.read_to_end(&mut heard).unwrap();
    // In one piece: conversations that are shown together mix their pieces.
    stream.write_all(format!("{} bytes\n", heard.len()).as_bytes()).unwrap();
}

/// A server that speaks first, on a port of its own, for as long as the test runs.
pub(crate) fn talkative_server() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || converse(stream));
        }
    });
    address
}

/// Holds a whole conversation with a [`talkative_server`] at the other end.
pub(crate) fn talk(mut stream: impl Read + Write, shut_down: impl FnOnce()) -> String {
    let mut greeting = vec![0; GREETING.len()];
    stream.read_exact(&mut greeting).unwrap();
    assert_eq!(greeting, GREETING.as_bytes());
    stream.write_all(&vec![b'x'; QUESTION]).unwrap();
    stream.flush().unwrap();
    shut_down();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

pub(crate) fn talk_over_tcp(address: SocketAddr) -> String {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    talk(&stream, || stream.shutdown(Shutdown::Write).unwrap())
}

pub(crate) fn unused_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

pub(crate) fn local(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

pub(crate) fn wait_for_port(port: u16) {
    eventually("the forward's port is open", || TcpStream::connect(local(port)).is_ok());
}

pub(crate) fn whole_answer() -> String {
    format!("{QUESTION} bytes\n")
}

/// As many conversations at once as people's tools open.
pub(crate) fn assert_parallel_conversations(port: u16) {
    let talking: Vec<_> =
        (0..PARALLEL).map(|_| thread::spawn(move || talk_over_tcp(local(port)))).collect();
    for one in talking {
        assert_eq!(one.join().unwrap(), whole_answer());
    }
}

/// RFC 1928, as far as a test needs it.
pub(crate) fn socks_connect(proxy: SocketAddr, to: SocketAddr) -> TcpStream {
    let mut stream = socks_ask(proxy, to);
    let mut reply = [0; 10];
    stream.read_exact(&mut reply).unwrap();
    assert_eq!(reply[1], 0, "the proxy connected");
    stream
}

/// The same without waiting for the proxy's answer.
pub(crate) fn socks_ask(proxy: SocketAddr, to: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(proxy).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.write_all(&[5, 1, 0]).unwrap();
    let mut chosen = [0; 2];
    stream.read_exact(&mut chosen).unwrap();
    assert_eq!(chosen, [5, 0]);
    let SocketAddr::V4(to) = to else { panic!("an IPv4 address") };
    let mut request = vec![5, 1, 0, 1];
    request.extend(to.ip().octets());
    request.extend(to.port().to_be_bytes());
    stream.write_all(&request).unwrap();
    stream
}

/// An agent with one key.
pub(crate) struct Agent {
    pub(crate) socket: PathBuf,
    pub(crate) public_key: PathBuf,
    _process: Process,
}

impl Agent {
    pub(crate) fn start(testbed: &Testbed) -> Self {
        let key = testbed.generate_key("mine", "ed25519");
        let socket = testbed.path("agent");
        let mut agent = bound_command("ssh-agent");
        let process = Process::spawn(agent.arg("-D").arg("-a").arg(&socket).stdout(Stdio::null()));
        eventually("the agent listens", || socket.exists());
        run_tool(Command::new("ssh-add").arg("-q").arg(key).env("SSH_AUTH_SOCK", &socket));
        Self { socket, public_key: testbed.path("mine.pub"), _process: process }
    }

    /// A client that lends it.
    pub(crate) fn lent_by(&self, client: Client) -> Client {
        let options = ["-A", "-o", "IdentityAgent=SSH_AUTH_SOCK", "-o", "IdentitiesOnly=no"];
        client.option(&options).env("SSH_AUTH_SOCK", &self.socket)
    }
}

pub(crate) const COOKIE: &str = "00112233445566778899aabbccddeeff";

/// An X server as far as its clients' first words go, and the display's number.
pub(crate) fn x_server() -> (u16, mpsc::Receiver<Vec<u8>>) {
    let (listener, display) = (50..)
        .find_map(|display| {
            let address = SocketAddr::from(([127, 0, 0, 1], 6000 + display));
            Some((TcpListener::bind(address).ok()?, display))
        })
        .unwrap();
    let (sender, heard) = mpsc::channel();
    thread::spawn(move || {
        for stream in listener.incoming() {
            // Byte order, version, lengths; the authentication protocol, padded; the cookie.
            let mut hello = vec![0; 12 + 20 + 16];
            stream.unwrap().read_exact(&mut hello).unwrap();
            if sender.send(hello).is_err() {
                break;
            }
        }
    });
    (display, heard)
}

pub(crate) fn with_display(client: Client, display: u16, authority: &Path) -> Client {
    let options = ["-Y", "-o", "XAuthLocation=/usr/bin/xauth"];
    client
        .option(&options)
        .env("DISPLAY", format!("127.0.0.1:{display}"))
        .env("XAUTHORITY", authority)
}
