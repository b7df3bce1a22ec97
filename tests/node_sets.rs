//! Several nodes at once: a command, its input, its output and its end.

#![allow(clippy::unwrap_used, reason = "a set-up that fails fails the test")]

mod support;

use support::{Gateway, Node, Testbed, WaltApi, eventually};

/// Two OpenSSH nodes, rpi1 and node-two, behind a gateway.
fn two_nodes() -> (Testbed, Node, Node, Gateway) {
    let testbed = Testbed::new();
    let (one, two) = (testbed.sshd("rpi1"), testbed.sshd("node-two"));
    let gateway = testbed.gateway().node(&one).node(&two).start();
    (testbed, one, two, gateway)
}

/// The lines of a text in alphabetical order: which node speaks first is not said.
fn sorted(text: &str) -> Vec<&str> {
    let mut lines: Vec<_> = text.lines().collect();
    lines.sort_unstable();
    lines
}

#[test]
fn a_command_runs_on_all_and_each_line_says_where() {
    let (_testbed, _one, _two, gateway) = two_nodes();
    let command = "echo in $(hostname); printf 'no line end'; echo oops >&2";
    let said = gateway.ssh("rpi1,node-two").command(command).run().expect_success();
    assert_eq!(
        sorted(&said.text()),
        [
            "node-two: in node-two",
            "node-two: no line end",
            "rpi1:     in rpi1",
            "rpi1:     no line end"
        ]
    );
    assert_eq!(sorted(&said.stderr), ["node-two: oops", "rpi1:     oops"]);
}

#[test]
fn the_exit_code_is_the_highest_and_who_failed_is_said() {
    let (_testbed, _one, _two, gateway) = two_nodes();
    let command = "case $(hostname) in rpi1) exit 3;; *) exit 5;; esac";
    let said = gateway.ssh("rpi1,node-two").command(command).run().expect_code(5);
    said.expect_stdout("")
        .expect_stderr("waltgate: 2 of 2 nodes failed: rpi1 (exit 3), node-two (exit 5)\n");

    let command = "case $(hostname) in rpi1) kill -KILL $$;; esac";
    let said = gateway.ssh("rpi1,node-two").command(command).run().expect_code(137);
    said.expect_stderr("waltgate: 1 of 2 nodes failed: rpi1 (signal KILL)\n");
}

#[test]
fn a_node_that_is_off_does_not_keep_the_others_from_it() {
    let testbed = Testbed::new();
    let (one, mut two) = (testbed.sshd("rpi1"), testbed.sshd("rpi2"));
    two.unplug();
    let gateway = testbed.gateway().node(&one).node_with(&two, "boot_wait_seconds = 0").start();
    let said = gateway.ssh("rpi1,rpi2").command("hostname").run().expect_code(255);
    said.expect_stdout("rpi1: rpi1\n").expect_stderr_with(&[
        "rpi2: ",
        "connection refused",
        "1 of 2 nodes failed: rpi2",
    ]);
}

#[test]
fn a_node_that_boots_is_waited_for_while_the_others_go_on() {
    let testbed = Testbed::new();
    let (one, mut two) = (testbed.sshd("rpi1"), testbed.sshd("rpi2"));
    two.unplug();
    let gateway = testbed.gateway().node(&one).node(&two).start();
    let session = gateway.ssh("rpi1,rpi2").command("hostname").start();
    session.expect_stdout("rpi1: rpi1\n");
    session.expect_stderr("waiting up to");
    two.start();
    session.finish().expect_success().expect_stdout("rpi1: rpi1\nrpi2: rpi2\n");
}

#[test]
fn input_goes_to_all() {
    let (_testbed, _one, _two, gateway) = two_nodes();
    let input = "line\n".repeat(300_000);
    let said = gateway.ssh("rpi1,node-two").command("sha256sum").stdin(&input).run();
    let text = said.expect_success().text();
    let sums: Vec<_> = text.lines().map(|line| line.split_whitespace().nth(1).unwrap()).collect();
    assert_eq!(sums.len(), 2);
    assert_eq!(sums[0], sums[1]);
    let whole = gateway.ssh("rpi1").command("sha256sum").stdin(&input).run().text();
    assert_eq!(whole.split_whitespace().next(), Some(sums[0]));
}

#[test]
fn a_script_from_a_file_runs_on_all() {
    let (_testbed, _one, _two, gateway) = two_nodes();
    let said = gateway.ssh("rpi1,node-two").option(&["-T"]).stdin("hostname\nexit 4\n").run();
    let said = said.expect_code(4);
    assert_eq!(sorted(&said.text()), ["node-two: node-two", "rpi1:     rpi1"]);
}

#[test]
fn a_program_that_reads_no_input_does_not_keep_it_from_the_others() {
    let (_testbed, _one, _two, gateway) = two_nodes();
    let command = "case $(hostname) in rpi1) head -c 1 >/dev/null;; *) wc -c;; esac";
    let input = "x".repeat(4 << 20);
    let said = gateway.ssh("rpi1,node-two").command(command).stdin(&input).run();
    said.expect_success().expect_stdout("node-two: 4194304\n");
}

#[test]
fn keywords_stand_for_the_nodes_of_now() {
    let testbed = Testbed::new();
    let nodes =
        ["rpi1", "rpi2", "rpi3", "pc1"].map(|name| testbed.sshd_off(name).on_port_22().started());
    let walt = WaltApi::start();
    let images = ["alice/x:latest", "waltplatform/x:latest", "bob/x:latest", "alice/y:latest"];
    for (node, image) in nodes.iter().zip(images) {
        walt.add_node(node.name(), &node.address().ip().to_string(), image, true);
    }
    let gateway = testbed
        .gateway()
        .tables(&format!("{}[accounts.carol]\nallow = [\"rpi*\"]\n", walt.table()))
        .start();
    let on = |user: &str| {
        let said = gateway.ssh(user).command("true; echo").run().expect_success();
        let text = said.text();
        let names = sorted(&text).into_iter().map(|line| line.trim_end_matches([':', ' ']));
        names.map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(on("alice+my-nodes"), ["pc1", "rpi1"]);
    assert_eq!(on("alice+free-nodes"), ["rpi2"]);
    assert_eq!(on("alice+all-nodes"), ["pc1", "rpi1", "rpi2", "rpi3"]);
    assert_eq!(on("alice+rpi1,my-nodes,rpi1"), ["pc1", "rpi1"]);
    // What the account may not use is left out of keywords, and refused by name.
    assert_eq!(on("carol+all-nodes"), ["rpi1", "rpi2", "rpi3"]);
    let refused = gateway.ssh("carol+rpi1,pc1").command("true").run();
    refused.expect_code(77).expect_one_gateway_line();
    let none = gateway.ssh("carol+my-nodes").command("true").run().expect_code(69);
    none.expect_one_gateway_line().expect_stderr_with(&["no node runs an image of carol"]);
}

#[test]
fn nothing_is_started_when_a_name_is_wrong() {
    let (_testbed, one, _two, gateway) = two_nodes();
    let said = gateway.ssh("rpi1,rpi8,node-two,rpi9").command("true").run().expect_code(255);
    said.expect_one_gateway_line().expect_stderr_with(&["rpi8, rpi9", "nothing was started"]);
    assert!(!one.log().contains("Accepted"), "{}", one.log());
}

#[test]
fn shells_files_and_forwards_are_refused_with_what_to_do() {
    let (testbed, _one, _two, gateway) = two_nodes();
    let mut shell = gateway.login("rpi1,node-two");
    shell.expect("add a command");
    assert_eq!(shell.wait(), Some(69));
    let file = testbed.write("file", "x");
    let file = file.to_str().unwrap();
    for options in [vec![file, "REMOTE:/tmp/x"], vec!["-O", file, "REMOTE:/tmp/x"]] {
        let said = gateway.scp("rpi1,node-two", &options).run();
        assert_ne!(said.code, Some(0));
        said.expect_stderr_with(&["for n in rpi1 node-two; do scp FILE $n@"]);
    }
    let forward = gateway.ssh("rpi1,node-two").option(&["-W", "localhost:22"]).run();
    assert_ne!(forward.code, Some(0), "{forward:?}");
    gateway.expect_log("name one node");
}

#[test]
fn control_c_reaches_all() {
    let (_testbed, _one, _two, gateway) = two_nodes();
    let mut session = gateway
        .ssh("rpi1,node-two")
        .option(&["-tt"])
        .command("trap 'echo got it; exit 9' INT; echo ready; while :; do sleep 0.1; done")
        .on_terminal();
    session.expect("ready");
    session.expect("ready");
    session.send("\x03");
    session.expect("got it");
    session.expect("got it");
    assert_eq!(session.wait(), Some(9));
    // Names are coloured on a terminal.
    assert!(session.screen().contains("\x1b[38;5;"), "{}", session.screen());
}

#[test]
fn control_c_ends_the_wait_for_a_node() {
    let testbed = Testbed::new();
    let mut node = testbed.sshd("rpi1");
    node.unplug();
    let other = testbed.sshd("rpi2");
    let gateway = testbed.gateway().node(&node).node(&other).start();
    let mut session = gateway.ssh("rpi1,rpi2").option(&["-tt"]).command("echo in").on_terminal();
    session.expect("waiting up to");
    session.send("\x03");
    session.expect("rpi1 (interrupted)");
    assert_eq!(session.wait(), Some(255));
}

#[test]
fn programs_end_on_all_nodes_when_the_client_goes() {
    let (testbed, _one, _two, gateway) = two_nodes();
    let test = testbed.path("").display().to_string().replace('/', "-");
    // The whole name stands in no command line but that of the program itself.
    let command =
        format!("echo ready; start=in; exec bash -c \"exec -a ${{start}}-$(hostname){test} cat\"");
    let session = gateway.ssh("rpi1,node-two").command(&command).start();
    let runs_on = |node: &str| {
        let name = format!("^in-{node}{test}");
        let found = std::process::Command::new("pgrep").args(["-f", &name]).output().unwrap();
        found.status.success()
    };
    eventually("both run", || runs_on("rpi1") && runs_on("node-two"));
    session.kill();
    eventually("both have ended", || !runs_on("rpi1") && !runs_on("node-two"));
    gateway.wait_until_idle();
}

#[test]
fn more_nodes_than_are_connected_to_at_once_all_get_the_input() {
    let testbed = Testbed::new();
    let node = testbed.sshd_off("node");
    node.configure("MaxStartups 200\n");
    let node = node.started();
    let mut nodes = String::new();
    for number in 1..=70 {
        nodes += &format!("[nodes.n{number}]\naddress = \"{}\"\n", node.address());
    }
    // Spares would double the connections.
    let gateway =
        testbed.gateway().more_node_defaults("spare_connections = false").tables(&nodes).start();
    let input = "x".repeat(2 << 20);
    let said = gateway.ssh("all-nodes").command("wc -c").stdin(&input).run().expect_success();
    assert_eq!(said.text().matches("2097152").count(), 70, "{said:?}");
}
