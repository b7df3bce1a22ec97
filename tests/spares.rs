//! Connections to a node that wait for the next client, and those that one client has.

#![allow(clippy::unwrap_used, reason = "a set-up that fails fails the test")]

mod support;

use std::process::Stdio;

use support::process::{Process, bound_command};
use support::{Gateway, Node, Testbed, WaltApi, eventually};

/// Prints the gateway's port of the connection that the session is on.
const PORT: &str = "set -- $SSH_CONNECTION; echo $2";

/// A test bed with one OpenSSH node, rpi1, behind a gateway.
fn one_node() -> (Testbed, Node, Gateway) {
    let testbed = Testbed::new();
    let node = testbed.sshd("rpi1");
    let gateway = testbed.gateway().node(&node).start();
    (testbed, node, gateway)
}

/// The gateway's port of each connection that logged in to the node, in order.
fn logins(node: &Node) -> Vec<String> {
    let port = |line: &str| Some(line.split_once(" port ")?.1.split(' ').next()?.to_owned());
    node.log().lines().filter(|line| line.contains("Accepted publickey")).filter_map(port).collect()
}

fn wait_for_logins(node: &Node, count: usize) -> Vec<String> {
    eventually("the node has a spare connection", || logins(node).len() >= count);
    logins(node)
}

#[track_caller]
fn port_of_a_session(gateway: &Gateway) -> String {
    let said = gateway.ssh("rpi1").command(PORT).run().expect_success().expect_stderr("");
    said.text().trim_end().to_owned()
}

#[test]
fn a_login_takes_the_connection_that_was_made_after_the_last_one() {
    let (_testbed, node, gateway) = one_node();
    let mut used = vec![port_of_a_session(&gateway)];
    for login in 1..=3 {
        assert_eq!(wait_for_logins(&node, login + 1).len(), login + 1);
        used.push(port_of_a_session(&gateway));
    }
    assert_eq!(used, wait_for_logins(&node, 5)[..4]);
}

#[test]
fn clients_never_share_a_connection() {
    let (_testbed, node, gateway) = one_node();
    let clients: Vec<_> = (1..=3)
        .map(|client| {
            let session = gateway.ssh("rpi1").command(&format!("{PORT}; read -r end")).start();
            session.expect_stdout("\n");
            wait_for_logins(&node, client + 1);
            session
        })
        .collect();
    let mut ports: Vec<_> = clients.iter().map(|client| client.stdout.text()).collect();
    ports.sort();
    ports.dedup();
    assert_eq!(ports.len(), clients.len(), "{ports:?}");
}

#[test]
fn nothing_of_one_client_reaches_the_next() {
    let (testbed, node, gateway) = one_node();
    let socket = testbed.path("agent");
    let mut agent = bound_command("ssh-agent");
    let agent = Process::spawn(agent.arg("-D").arg("-a").arg(&socket).stdout(Stdio::null()));
    eventually("the agent listens", || socket.exists());
    let first = gateway
        .ssh("rpi1")
        .env("SSH_AUTH_SOCK", &socket)
        .option(&["-A", "-o", "IdentityAgent=SSH_AUTH_SOCK"])
        .option(&["-R", &format!("/tmp/forwarded:{}", socket.display())])
        .command("test -S \"$SSH_AUTH_SOCK\" && test -S /tmp/forwarded && echo have; read -r end")
        .start();
    first.expect_stdout("have\n");
    let spare = wait_for_logins(&node, 2).remove(1);

    // While the first one is there: its connection must not be what the second one gets.
    let said = gateway.ssh("rpi1").command(&format!("echo \"<$SSH_AUTH_SOCK>\"; {PORT}")).run();
    said.expect_success().expect_stdout(&format!("<>\n{spare}\n"));
    first.kill();
    agent.kill();
}

#[test]
fn a_node_that_was_restarted_is_logged_in_to_anew() {
    let (_testbed, mut node, gateway) = one_node();
    port_of_a_session(&gateway);
    wait_for_logins(&node, 2);
    node.reboot();
    let port = port_of_a_session(&gateway);
    assert_eq!(logins(&node).first(), Some(&port));
}

#[test]
fn a_spare_connection_that_does_not_answer_holds_nobody_up() {
    let (_testbed, node, gateway) = one_node();
    // Stops the server's process of the other connection, once nothing is left of its login.
    let freeze = "while sleep 0.1; do \
                      pgrep -f '^sshd.*\\[net\\]$' >/dev/null && continue; \
                      for server in $(pgrep -f '^sshd(-session)?: root'); do \
                          [ $server = $PPID ] || exec kill -STOP $server; \
                      done; \
                  done";
    gateway.ssh("rpi1").command(freeze).run().expect_success();
    let [first, spare] = &wait_for_logins(&node, 2)[..] else { panic!("{}", node.log()) };
    let port = port_of_a_session(&gateway);
    assert!(port != *first && port != *spare, "{port}\n{}", node.log());
}

#[test]
fn a_node_that_moved_is_looked_for_at_its_new_address() {
    let testbed = Testbed::new();
    let before = testbed.sshd_off("before").on_port_22().started();
    let after = testbed.sshd_off("after").on_port_22().started();
    let walt = WaltApi::start();
    walt.add_node("rpi1", &before.address().ip().to_string(), "alice/rpi-default:latest", true);
    let gateway = testbed.gateway().tables(&walt.table()).start();
    gateway.ssh("rpi1").command("hostname").run().expect_success().expect_stdout("before\n");
    wait_for_logins(&before, 2);

    walt.move_node("rpi1", &after.address().ip().to_string());
    // Two requests later, the answer to the first has been read.
    let asked = walt.requests().len();
    let lists = || walt.requests()[asked..].iter().filter(|path| path.contains("/nodes")).count();
    eventually("the gateway has read the new list", || lists() >= 2);
    gateway.ssh("rpi1").command("hostname").run().expect_success().expect_stdout("after\n");
}

#[test]
fn spare_connections_can_be_switched_off_for_a_node() {
    let testbed = Testbed::new();
    let (without, with) = (testbed.sshd("rpi1"), testbed.sshd("rpi2"));
    let gateway =
        testbed.gateway().node_with(&without, "spare_connections = false").node(&with).start();
    for _ in 0..2 {
        gateway.ssh("rpi1").command("true").run().expect_success();
    }
    // Had there been one to rpi1, it would have been begun earlier.
    gateway.ssh("rpi2").command("true").run().expect_success();
    wait_for_logins(&with, 2);
    assert_eq!(logins(&without).len(), 2);
}

#[test]
fn a_spare_connection_is_kept_alive_and_closed_with_the_gateway() {
    let testbed = Testbed::new();
    let node = testbed.sshd_off("rpi1");
    node.configure("LogLevel DEBUG1\n");
    let node = node.started();
    let gateway = testbed.gateway().node(&node).start();
    gateway.ssh("rpi1").command("true").run().expect_success();
    eventually("the node is asked on an idle connection", || {
        node.log().contains("keepalive@openssh.com")
    });
    assert_eq!(gateway.stop(), Some(0));
    eventually("the node was told", || node.log().matches("Disconnected from user").count() == 2);
}

#[test]
fn another_connection_is_made_when_a_node_takes_no_more_sessions_on_one() {
    let testbed = Testbed::new();
    let node = testbed.sshd_off("rpi1");
    // What is not in a Match block has a value already.
    node.configure("Match all\nMaxSessions 2\n");
    let node = node.started();
    let gateway = testbed.gateway().node(&node).start();
    let socket = testbed.path("control").display().to_string();
    let command = format!("{PORT}; read -r end");
    let master = gateway.ssh("rpi1").option(&["-M", "-S", &socket]).command(&command).start();
    master.expect_stdout("\n");
    let mut sessions = vec![master];
    for _ in 0..4 {
        let through = gateway.ssh("rpi1").option(&["-S", &socket]).command(&command).start();
        through.expect_stdout("\n");
        sessions.push(through);
    }
    let ports: Vec<_> = sessions.iter().map(|session| session.stdout.text()).collect();
    assert_eq!(ports[0], ports[1], "{ports:?}");
    assert_eq!(ports[2], ports[3], "{ports:?}");
    assert!(ports[0] != ports[2] && ports[2] != ports[4] && ports[0] != ports[4], "{ports:?}");
    // The master's connection carries the others.
    for session in sessions.into_iter().rev() {
        session.finish();
    }
}

#[test]
fn a_connection_made_with_a_key_that_was_withdrawn_is_not_taken() {
    let (testbed, node, gateway) = one_node();
    port_of_a_session(&gateway);
    wait_for_logins(&node, 2);
    // The administrator forgets the node's host key.
    testbed.write("known_hosts", "");
    let said = gateway.ssh("rpi1").command("true").run().expect_code(255);
    said.expect_stderr_with(&["host key"]);
}
