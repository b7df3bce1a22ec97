//! A node that boots another account's image: who comes is told, and asked where that is possible.

#![allow(clippy::unwrap_used, reason = "a set-up that fails fails the test")]

mod support;

use support::{Gateway, Node, Testbed, WaltApi};

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
