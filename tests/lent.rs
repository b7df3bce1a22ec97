//! What a client lends to the node it logs in to: its agent and its display.

#![allow(clippy::unwrap_used, reason = "a set-up that fails fails the test")]

mod support;

use std::fs;
use std::io::Read;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;

use support::process::{Process, bound_command, run_tool};
use support::{Client, DEADLINE, Gateway, Node, Testbed, eventually};

/// An agent with one key.
struct Agent {
    socket: PathBuf,
    public_key: PathBuf,
    _process: Process,
}

impl Agent {
    fn start(testbed: &Testbed) -> Self {
        let key = testbed.generate_key("mine", "ed25519");
        let socket = testbed.path("agent");
        let mut agent = bound_command("ssh-agent");
        let process = Process::spawn(agent.arg("-D").arg("-a").arg(&socket).stdout(Stdio::null()));
        eventually("the agent listens", || socket.exists());
        run_tool(Command::new("ssh-add").arg("-q").arg(key).env("SSH_AUTH_SOCK", &socket));
        Self { socket, public_key: testbed.path("mine.pub"), _process: process }
    }

    /// A client that lends it.
    fn lent_by(&self, client: Client) -> Client {
        let options = ["-A", "-o", "IdentityAgent=SSH_AUTH_SOCK", "-o", "IdentitiesOnly=no"];
        client.option(&options).env("SSH_AUTH_SOCK", &self.socket)
    }
}

/// What ssh needs on a node to log in elsewhere.
const PLAIN: &str = "-F none -o BatchMode=yes -o LogLevel=ERROR -o StrictHostKeyChecking=no \
                     -o UserKnownHostsFile=/dev/null -o IdentityFile=none";

fn node_of(testbed: &Testbed, name: &str, key: &Path) -> Node {
    let mut node = testbed.sshd_off(name);
    node.authorize(key);
    node.start();
    node
}

#[test]
fn a_chain_of_logins_goes_on_with_the_agent_that_was_lent() {
    let testbed = Testbed::new();
    let agent = Agent::start(&testbed);
    let first = testbed.sshd("rpi1");
    // Takes the user's key, which only the agent has, and not the gateway's.
    let second = node_of(&testbed, "rpi2", &agent.public_key);
    let third = node_of(&testbed, "rpi3", &agent.public_key);
    let gateway = testbed.gateway().node(&first).start();
    let login = |node: &Node, command: &str| {
        let address = node.address();
        format!("ssh -A {PLAIN} -p {} root@{} \"{command}\"", address.port(), address.ip())
    };

    let to_third = login(&third, "hostname").replace('"', "'");
    let command = format!("hostname; {}", login(&second, &format!("hostname; {to_third}")));
    let said = agent.lent_by(gateway.ssh("rpi1")).command(&command).run();
    said.expect_success().expect_stdout("rpi1\nrpi2\nrpi3\n");
}

#[test]
fn a_chain_through_the_gateway_logs_in_with_the_agent_that_was_lent() {
    let testbed = Testbed::new();
    let agent = Agent::start(&testbed);
    let (first, second) = (testbed.sshd("rpi1"), testbed.sshd("rpi2"));
    fs::create_dir(testbed.path("accounts")).unwrap();
    fs::copy(&agent.public_key, testbed.path("accounts/alice.pub")).unwrap();
    let auth = format!("open_networks = []\naccounts_dir = {:?}", testbed.path("accounts"));
    let gateway = testbed.gateway().auth(&auth).node(&first).node(&second).start();

    let port = gateway.address().port();
    let command = format!("ssh {PLAIN} -p {port} rpi2@127.0.0.1 hostname");
    let said = agent.lent_by(gateway.ssh("rpi1")).command(&command).run();
    said.expect_success().expect_stdout("rpi2\n");
}

const COOKIE: &str = "00112233445566778899aabbccddeeff";

/// An X server as far as its clients' first words go, and the display's number.
fn x_server() -> (u16, mpsc::Receiver<Vec<u8>>) {
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

/// Three X clients' first words to `$DISPLAY`, with the cookie that xauth(1) knows for it.
const X_CLIENTS: &str = r#"
cookie=$(xauth list "$DISPLAY" | sed 's/.* //')
display=${DISPLAY##*:}
x_client() {
    exec 3<>"/dev/tcp/127.0.0.1/$((6000 + ${display%.*}))"
    {
        printf 'l\0\13\0\0\0\22\0\20\0\0\0MIT-MAGIC-COOKIE-1\0\0'
        printf "$(printf %s "$cookie" | sed 's/../\\x&/g')"
    } >&3
    cat <&3
}
x_client & x_client & x_client
wait
"#;

fn with_display(client: Client, display: u16, authority: &Path) -> Client {
    let options = ["-Y", "-o", "XAuthLocation=/usr/bin/xauth"];
    client
        .option(&options)
        .env("DISPLAY", format!("127.0.0.1:{display}"))
        .env("XAUTHORITY", authority)
}

fn node_with_x11(testbed: &Testbed) -> (Node, Gateway) {
    let mut node = testbed.sshd_off("rpi1");
    node.configure("X11Forwarding yes\n");
    node.start();
    let gateway = testbed.gateway().node(&node).start();
    (node, gateway)
}

#[test]
fn programs_on_the_node_reach_the_clients_display_with_its_cookie() {
    let testbed = Testbed::new();
    let (_node, gateway) = node_with_x11(&testbed);
    let (display, heard) = x_server();
    let authority = testbed.path("authority");
    let name = format!("127.0.0.1:{display}");
    run_tool(Command::new("xauth").arg("-qf").arg(&authority).args(["add", &name, ".", COOKIE]));

    let said = with_display(gateway.ssh("rpi1"), display, &authority).command(X_CLIENTS).run();
    said.expect_success();
    for _ in 0..3 {
        let hello = heard.recv_timeout(DEADLINE).unwrap();
        let cookie: String = hello[32..].iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(cookie, COOKIE);
    }
}

#[test]
fn a_node_that_forwards_no_display_still_runs_the_command() {
    let testbed = Testbed::new();
    let node = testbed.sshd("rpi1");
    let gateway = testbed.gateway().node(&node).start();
    let authority = testbed.path("authority");
    let client = with_display(gateway.ssh("rpi1"), 1, &authority);
    let said = client.command("echo \"<$DISPLAY>\"").run();
    said.expect_success().expect_stdout("<>\n");
}
