//! What the options of stock ssh change about a session on a node: nothing but what they say.

#![allow(clippy::unwrap_used, reason = "a set-up that fails fails the test")]

mod support;

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use support::{Client, DEADLINE, Finished, Gateway, Node, Testbed, eventually};

const MEBIBYTE: usize = 1024 * 1024;

fn one_node() -> (Testbed, Node, Gateway) {
    let testbed = Testbed::new();
    let node = testbed.sshd("rpi1");
    let gateway = testbed.gateway().node(&node).start();
    (testbed, node, gateway)
}

/// Bytes that do not repeat in step with any buffer.
fn data(length: usize) -> Vec<u8> {
    let mut state = 1_u32;
    let mut byte = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    (0..length).map(|_| byte()).collect()
}

/// Sends data to the node and back, with these options.
#[track_caller]
fn assert_round_trip(gateway: &Gateway, options: &[&str], length: usize) -> String {
    let data = data(length);
    let said = gateway.ssh("rpi1").option(options).command("exec cat").stdin(&data).run();
    let said = said.expect_success();
    assert!(said.stdout == data, "{} of {length} bytes came back", said.stdout.len());
    said.stderr
}

#[test]
fn new_keys_in_the_middle_of_a_transfer_when_the_client_asks() {
    let (_testbed, _node, gateway) = one_node();
    let options = ["-v", "-o", "RekeyLimit=1M"];
    let debug = assert_round_trip(&gateway, &options, 24 * MEBIBYTE);
    assert!(debug.matches("SSH2_MSG_NEWKEYS received").count() > 8, "{debug}");
}

#[test]
fn new_keys_in_the_middle_of_a_transfer_when_the_gateway_asks() {
    let testbed = Testbed::new();
    let node = testbed.sshd("rpi1");
    let gateway = testbed.gateway().node(&node).limits("rekey_megabytes = 1").start();
    let debug = assert_round_trip(&gateway, &["-v"], 24 * MEBIBYTE);
    assert!(debug.matches("SSH2_MSG_NEWKEYS received").count() > 8, "{debug}");
}

#[test]
fn new_keys_in_the_middle_of_a_transfer_when_the_node_asks() {
    let testbed = Testbed::new();
    let mut node = testbed.sshd_off("rpi1");
    node.configure("RekeyLimit 1M\nLogLevel DEBUG1\n");
    node.start();
    let gateway = testbed.gateway().node(&node).start();
    assert_round_trip(&gateway, &[], 24 * MEBIBYTE);
    let log = node.log();
    assert!(log.matches("SSH2_MSG_NEWKEYS received").count() > 8, "{log}");
}

#[test]
fn new_keys_when_all_ask_at_once() {
    let testbed = Testbed::new();
    let mut node = testbed.sshd_off("rpi1");
    node.configure("RekeyLimit 1M\n");
    node.start();
    let gateway = testbed.gateway().node(&node).limits("rekey_megabytes = 1").start();
    assert_round_trip(&gateway, &["-o", "RekeyLimit=1M"], 24 * MEBIBYTE);
}

#[test]
fn keepalives_of_the_client_are_answered_while_nothing_else_is_said() {
    let (_testbed, _node, gateway) = one_node();
    let options = ["-o", "ServerAliveInterval=1", "-o", "ServerAliveCountMax=1"];
    let said = gateway.ssh("rpi1").option(&options).command("sleep 4; echo alive").run();
    said.expect_success().expect_stdout("alive\n").expect_stderr("");
}

#[test]
fn sessions_are_those_of_a_direct_connection() {
    let (testbed, node, gateway) = one_node();
    let identity = testbed.path("identity");
    let config = testbed.path("ssh_config");
    // Input is typed when this was said: a terminal shows it between what the program says.
    for (option, command, typed_after) in [
        ("-T", "id; pwd; umask; ulimit -a; cat; exit 7", ""),
        ("-T", "echo out; echo err >&2; kill -KILL $$", ""),
        ("-T", "env | grep -v ^SSH_ | sort", ""),
        ("-T", "exec >&- 2>&-; exit 3", ""),
        ("-T", "no-such-program", ""),
        (
            "-tt",
            "stty -a; echo $TERM; [ -t 0 -a -t 1 -a -t 2 ]; s=$?; echo end; cat; exit $s",
            "end",
        ),
        ("-tt", "echo out; echo err >&2; cat", "err"),
    ] {
        // Bytes that a terminal gives a meaning to, with the end of input last.
        let ssh = |client: Client| {
            let client = client.option(&[option]).command(command);
            if typed_after.is_empty() {
                return client.stdin("in\n\x04").run();
            }
            let mut running = client.start();
            running.expect_stdout(&format!("{typed_after}\r\n"));
            running.send("in\n\x04");
            running.finish()
        };
        let direct = ssh(Client::ssh(&config, node.address(), "root").identity(&identity));
        let said = ssh(gateway.ssh("rpi1"));
        let all = |said: &Finished| (said.text(), said.stderr.clone(), said.code);
        assert_eq!(all(&said), all(&direct), "{command}");
    }
}

#[test]
fn n_gives_the_program_no_input() {
    let (_testbed, _node, gateway) = one_node();
    let said = gateway.ssh("rpi1").option(&["-n"]).command("wc -c").stdin("unheard").run();
    said.expect_success().expect_stdout("0\n");
}

#[test]
fn capital_n_starts_nothing_and_stays() {
    let (_testbed, node, gateway) = one_node();
    let waiting = gateway.ssh("rpi1").option(&["-N", "-v"]).start();
    waiting.expect_stderr("Entering interactive session");
    gateway.ssh("rpi1").command("echo beside").run().expect_success().expect_stdout("beside\n");
    assert!(waiting.process.wait(std::time::Duration::ZERO).is_none(), "it stays");
    waiting.kill();
    assert_eq!(node.log().matches("Accepted publickey").count(), 1, "{}", node.log());
}

#[test]
fn tt_gives_a_terminal_without_one_and_capital_t_takes_it_away() {
    let (_testbed, _node, gateway) = one_node();
    let tty = |option: &str| gateway.ssh("rpi1").option(&[option]).command("tty; exit 3").run();
    let said = tty("-tt").expect_code(3);
    assert!(said.text().starts_with("/dev/pts/"), "{said:?}");
    let said = tty("-T").expect_code(3);
    assert_eq!(said.text(), "not a tty\n", "{said:?}");
}

#[test]
fn s_asks_for_a_subsystem_by_name() {
    let (_testbed, _node, gateway) = one_node();
    // SSH_FXP_INIT, version 3, of the SFTP protocol.
    let mut client = gateway.ssh("rpi1").option(&["-s"]).command("sftp").start();
    client.send([0, 0, 0, 5, 1, 0, 0, 0, 3]);
    // SSH_FXP_VERSION, after four bytes of length.
    let kind = client.stdout.wait_for(0, DEADLINE, |answer| answer.get(4).copied());
    assert_eq!(kind, Some(2));
    client.finish().expect_success();
    let said = gateway.ssh("rpi1").option(&["-s"]).command("no-such-thing").run();
    said.expect_code(255).expect_one_gateway_line().expect_stderr_with(&["no-such-thing"]);
}

#[test]
fn escape_dot_ends_the_client_and_the_program() {
    let (_testbed, node, gateway) = one_node();
    let command =
        "trap 'echo gone >/persist/end; exit' HUP; echo ready; while sleep 0.1; do :; done";
    let mut terminal = gateway.ssh("rpi1").option(&["-t"]).command(command).on_terminal();
    terminal.expect("ready");
    terminal.send("\r~.");
    assert_eq!(terminal.wait(), Some(255));
    eventually("the shell was hung up", || node.persist().join("end").exists());
}

#[test]
fn a_break_harms_nothing() {
    let (_testbed, _node, gateway) = one_node();
    let mut terminal = gateway.login("rpi1");
    terminal.expect("# ");
    terminal.send("\r~B");
    terminal.send("echo still ''here\r");
    terminal.expect("still here");
    terminal.send("exit 5\r");
    assert_eq!(terminal.wait(), Some(5));
}

#[test]
fn long_command_lines_run() {
    let (_testbed, _node, gateway) = one_node();
    for length in [4096, 100_000] {
        let word = "x".repeat(length - "printf %s ".len() - " | wc -c".len());
        let said = gateway.ssh("rpi1").command(&format!("printf %s {word} | wc -c")).run();
        said.expect_success().expect_stdout(&format!("{}\n", word.len()));
    }
}

#[test]
fn a_command_line_longer_than_a_packet_ends_the_connection_and_nothing_else() {
    let (_testbed, _node, gateway) = one_node();
    let word = "x".repeat(100_000);
    let said = gateway.ssh("rpi1").arguments(std::iter::repeat_n(&word, 11)).run();
    assert_eq!(said.expect_code(255).text(), "");
    gateway.ssh("rpi1").command("echo alive").run().expect_success().expect_stdout("alive\n");
}

#[test]
fn an_environment_that_is_not_utf_8_ends_the_connection_and_nothing_else() {
    let (_testbed, _node, gateway) = one_node();
    let client = |value: &[u8]| {
        gateway
            .ssh("rpi1")
            .option(&["-o", "SendEnv LC_TEST"])
            .env("LC_TEST", OsString::from_vec(value.to_vec()))
            .command("printf %s \"$LC_TEST\"")
            .run()
    };
    assert_eq!(client(b"caf\xe9").expect_code(255).text(), "");
    gateway.expect_log("not UTF-8");
    client("café".as_bytes()).expect_success().expect_stdout("café");
}
