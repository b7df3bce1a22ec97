//! A node that boots another account's image: who comes is told, and asked where that is possible.

#![allow(clippy::unwrap_used, reason = "a set-up that fails fails the test")]

mod support;
mod support_forward;

use std::io::Read;
use std::net::TcpStream;

use support::{Client, Gateway, Node, Testbed, WaltApi};
use support_forward::{
    local, talk_over_tcp, talkative_server, unused_port, wait_for_port, whole_answer,
};

const QUESTION: &str = "Go on all the same? (y/n): ";

/// A node, rpi1, that boots `image`, and a gateway with more lines in `[node_defaults]`.
fn node_with_image(testbed: &Testbed, image: &str, lines: &str) -> (Node, Gateway) {
    let node = testbed.sshd_off("rpi1").on_port_22().started();
    let walt = WaltApi::start();
    walt.add_node("rpi1", &node.address().ip().to_string(), image, true);
    let gateway = testbed.gateway().more_node_defaults(lines).tables(&walt.table()).start();
    (node, gateway)
}

#[test]
fn a_command_on_somebody_elses_node_goes_on_with_a_warning() {
    let testbed = Testbed::new();
    let (_node, gateway) = node_with_image(&testbed, "alice/rpi-default:latest", "");
    let said = gateway.ssh("bob+rpi1").command("hostname").run().expect_success();
    said.expect_stdout("rpi1\n").expect_stderr_with(&[
        "Node rpi1 seems to be used by another user",
        "alice/rpi-default:latest",
        "alice+rpi1",
    ]);
}

#[test]
fn nobody_is_warned_of_their_own_node_or_of_a_free_one() {
    let testbed = Testbed::new();
    let (_node, gateway) = node_with_image(&testbed, "alice/rpi-default:latest", "");
    let own = gateway.ssh("alice+rpi1").command("true").run();
    own.expect_success().expect_stderr("");

    let testbed = Testbed::new();
    let (_node, gateway) =
        node_with_image(&testbed, "waltplatform/rpi-default:latest", "other_owner = \"refuse\"");
    let free = gateway.ssh("bob+rpi1").command("true").run();
    free.expect_success().expect_stderr("");
}

#[test]
fn a_shell_on_somebody_elses_node_asks_first() {
    let testbed = Testbed::new();
    let (node, gateway) = node_with_image(&testbed, "alice/rpi-default:latest", "");

    let mut shell = gateway.login("bob+rpi1");
    shell.expect("Warning: Node rpi1 seems to be used by another user.");
    shell.expect(QUESTION);
    shell.send("what?\r");
    shell.expect(QUESTION);
    shell.send("n\r");
    assert_eq!(shell.wait(), Some(130));
    assert!(!node.log().contains("Accepted publickey"), "{}", node.log());

    let mut shell = gateway.login("bob+rpi1");
    shell.expect(QUESTION);
    shell.send("y\r");
    shell.expect("Caution: changes outside /persist");
    shell.send("echo o''n $(hostname)\r");
    shell.expect("on rpi1");
    shell.send("exit 3\r");
    assert_eq!(shell.wait(), Some(3));
}

#[test]
fn control_c_at_the_question_leaves_the_node_alone() {
    let testbed = Testbed::new();
    let (node, gateway) = node_with_image(&testbed, "alice/rpi-default:latest", "");
    let mut shell = gateway.login("bob+rpi1");
    shell.expect(QUESTION);
    shell.send("\x03");
    assert_eq!(shell.wait(), Some(130));
    assert!(!node.log().contains("Accepted publickey"), "{}", node.log());
}

#[test]
fn where_other_owners_are_refused_only_a_shell_that_asks_goes_on() {
    let testbed = Testbed::new();
    let (_node, gateway) =
        node_with_image(&testbed, "alice/rpi-default:latest", "other_owner = \"refuse\"");
    let said = gateway.ssh("bob+rpi1").command("echo in").run().expect_code(77);
    said.expect_stdout("").expect_one_gateway_line().expect_stderr_with(&["rpi1", "alice"]);
    let forwarded = gateway.ssh("bob+rpi1").option(&["-W", "localhost:22"]).run();
    assert_ne!(forwarded.code, Some(0), "{forwarded:?}");
    assert_eq!(forwarded.text(), "");

    gateway.ssh("alice+rpi1").command("true").run().expect_success().expect_stderr("");
    let mut shell = gateway.login("bob+rpi1");
    shell.expect(QUESTION);
    shell.send("y\r");
    shell.expect("Caution: changes outside /persist");
    shell.send("exit\r");
    assert_eq!(shell.wait(), Some(0));
}

#[test]
fn who_agreed_once_is_not_asked_again_on_the_same_connection() {
    let testbed = Testbed::new();
    let (_node, gateway) =
        node_with_image(&testbed, "alice/rpi-default:latest", "other_owner = \"refuse\"");
    let socket = testbed.path("mux");
    let control = format!("ControlPath={}", socket.display());
    let first = ["-o", "ControlMaster=yes", "-o", &control, "-tt"];
    let mut shell = gateway.ssh("bob+rpi1").option(&first).on_terminal();
    shell.expect(QUESTION);
    shell.send("y\r");
    shell.expect("Caution: changes outside /persist");

    let beside = gateway.ssh("bob+rpi1").option(&["-o", &control]).command("hostname").run();
    beside.expect_success().expect_stdout("rpi1\n").expect_stderr("");
    shell.send("exit\r");
    shell.wait();
}

/// A login that jumps through the gateway as `account`, with a key that the node itself takes.
fn jump(testbed: &Testbed, gateway: &Gateway, account: &str) -> Client {
    let config = testbed.path("ssh_config");
    let port = gateway.address().port();
    let proxy = format!("ssh -F {} -p {port} -W %h:22 {account}+walt@127.0.0.1", config.display());
    gateway
        .ssh("root")
        .option(&["-o", &format!("ProxyCommand={proxy}"), "-o", "HostName=rpi1"])
        .identity(&testbed.path("identity"))
        .command("hostname")
}

#[test]
fn where_other_owners_are_refused_nothing_is_forwarded_or_jumps() {
    let testbed = Testbed::new();
    let (node, gateway) =
        node_with_image(&testbed, "alice/rpi-default:latest", "other_owner = \"refuse\"");
    let server = talkative_server();
    let forward = |account: &str, way: &str, port: u16| {
        let forward = format!("{port}:{server}");
        let options = ["-N", "-o", "ExitOnForwardFailure=yes", way, &forward];
        gateway.ssh(&format!("{account}+rpi1")).option(&options).start()
    };

    let port = unused_port();
    let client = forward("bob", "-L", port);
    wait_for_port(port);
    let mut heard = Vec::new();
    TcpStream::connect(local(port)).unwrap().read_to_end(&mut heard).unwrap();
    assert_eq!(heard, b"");
    client.kill();
    let refused = forward("bob", "-R", unused_port()).finish().expect_code(255);
    refused.expect_stderr_with(&["remote port forwarding failed"]);
    let asked = gateway.ssh("bob+walt").option(&["-W", "rpi1:22"]).run();
    assert_ne!(asked.code, Some(0), "{asked:?}");
    assert_eq!(asked.text(), "");
    jump(&testbed, &gateway, "bob").run().expect_code(255).expect_stdout("");
    assert!(!node.log().contains("Accepted publickey"), "{}", node.log());

    for way in ["-L", "-R"] {
        let port = unused_port();
        let client = forward("alice", way, port);
        wait_for_port(port);
        assert_eq!(talk_over_tcp(local(port)), whole_answer());
        client.kill();
    }
    jump(&testbed, &gateway, "alice").run().expect_success().expect_stdout("rpi1\n");
}

#[test]
fn where_other_owners_are_warned_of_forwards_and_jumps_go_on() {
    let testbed = Testbed::new();
    let (_node, gateway) = node_with_image(&testbed, "alice/rpi-default:latest", "");
    jump(&testbed, &gateway, "bob").run().expect_success().expect_stdout("rpi1\n");
    let port = unused_port();
    let forward = format!("{port}:{}", talkative_server());
    let client = gateway.ssh("bob+rpi1").option(&["-N", "-L", &forward]).start();
    wait_for_port(port);
    assert_eq!(talk_over_tcp(local(port)), whole_answer());
    client.kill();
}
