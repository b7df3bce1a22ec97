//! What a client lends to the node it logs in to: its agent and its display.

#![allow(clippy::unwrap_used, reason = "a set-up that fails fails the test")]

mod support;
mod support_forward;

use std::fs;
use std::path::Path;
use std::process::Command;

use support::process::run_tool;
use support::{DEADLINE, Gateway, Node, Testbed};
use support_forward::{Agent, COOKIE, with_display, x_server};

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
