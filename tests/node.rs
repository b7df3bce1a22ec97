//! Sessions on real nodes: what OpenSSH users expect of a plain ssh to the node, and what the
//! gateway adds.

#![allow(clippy::unwrap_used, reason = "a set-up that fails fails the test")]

mod support;

use std::fs::{self, File};
use std::io::Read;
use std::time::Duration;

use support::{DEADLINE, Gateway, Node, Testbed, WaltApi, eventually};

const CAUTION: &str = "Caution: changes outside /persist will be lost on next node reboot.";
const MEBIBYTE: u64 = 1024 * 1024;

/// A test bed with one OpenSSH node, rpi1, behind a gateway.
fn one_node() -> (Testbed, Node, Gateway) {
    let testbed = Testbed::new();
    let node = testbed.sshd("rpi1");
    let gateway = testbed.gateway().node(&node).start();
    (testbed, node, gateway)
}

/// Some data in which every byte occurs, also in every order of two.
fn all_bytes() -> Vec<u8> {
    (0..=255_u8).flat_map(|a| (0..=255_u8).flat_map(move |b| [a, b])).collect()
}

#[test]
fn a_command_runs_on_the_node() {
    let (_testbed, _node, gateway) = one_node();
    let said = gateway.ssh("rpi1").command("hostname; id -un; pwd").run();
    said.expect_success().expect_stdout("rpi1\nroot\n/root\n").expect_stderr("");
    gateway.ssh("root.rpi1").command("hostname").run().expect_stdout("rpi1\n");
}

#[test]
fn standard_error_stays_apart() {
    let (_testbed, _node, gateway) = one_node();
    let said = gateway.ssh("rpi1").command("echo out; echo err >&2; echo out").run();
    said.expect_success().expect_stdout("out\nout\n").expect_stderr("err\n");
}

#[test]
fn exit_status_comes_back() {
    let (_testbed, _node, gateway) = one_node();
    for code in [0, 1, 3, 126, 255] {
        gateway.ssh("rpi1").command(&format!("exit {code}")).run().expect_code(code);
    }
}

#[test]
fn exit_status_survives_early_stdout_close() {
    let (_testbed, _node, gateway) = one_node();
    let command = "exec >&- 2>&-; read -r line; exit 7";
    gateway.ssh("rpi1").command(command).stdin("go\n").run().expect_code(7);
}

#[test]
fn exit_signal_is_no_success_and_no_lost_node() {
    let (_testbed, _node, gateway) = one_node();
    // ssh(1) has no exit status to return then, which makes it 255.
    let said = gateway.ssh("rpi1").command("kill -TERM $$").run();
    let said = said.expect_code(255);
    assert!(!said.stderr.contains("waltgate: "), "{said:?}");
    gateway.expect_log("TERM");
}

#[test]
fn all_bytes_pass_unchanged_both_ways() {
    let (_testbed, _node, gateway) = one_node();
    let data = all_bytes();
    let said = gateway.ssh("rpi1").command("tee /dev/stderr >/persist/copy; cat /persist/copy");
    let said = said.stdin(&data).run().expect_success();
    assert!(said.stdout == data, "{} of {} bytes came back", said.stdout.len(), data.len());
}

#[test]
fn end_of_input_leaves_the_output_open() {
    let (_testbed, _node, gateway) = one_node();
    let said = gateway.ssh("rpi1").command("wc -c; sleep 1; echo later").stdin("12345").run();
    said.expect_success().expect_stdout("5\nlater\n");
}

#[test]
fn a_shell_without_a_terminal_reads_commands_from_input() {
    let (_testbed, _node, gateway) = one_node();
    let said = gateway.ssh("rpi1").option(&["-T"]).stdin("hostname\nexit 9\n").run();
    let said = said.expect_code(9);
    assert!(said.text().contains("rpi1"), "{said:?}");
    assert!(!said.text().contains("Caution") && !said.stderr.contains("Caution"), "{said:?}");
}

#[test]
fn an_interactive_shell_shows_the_caution_and_follows_the_window() {
    let (_testbed, _node, gateway) = one_node();
    let mut terminal = gateway.login("rpi1");
    terminal.expect(CAUTION);
    terminal.expect("root@rpi1:~# ");
    terminal.send("tty; stty size; echo $TERM\r");
    terminal.expect("/dev/pts/");
    terminal.expect("24 80\r\nxterm");
    terminal.expect("# ");
    terminal.resize(132, 43);
    terminal.send("stty size\r");
    terminal.expect("43 132");
    terminal.expect("# ");
    terminal.send("exit 4\r");
    assert_eq!(terminal.wait(), Some(4));
}

#[test]
fn the_caution_is_for_interactive_shells_on_volatile_nodes_only() {
    let testbed = Testbed::new();
    let node = testbed.sshd("rpi1");
    let lasting = testbed.sshd("disk1");
    let gateway = testbed
        .gateway()
        .node(&node)
        .node_with(&lasting, "boot_mode = \"hybrid-persistent\"")
        .start();

    let said = gateway.ssh("rpi1").option(&["-tt"]).command("echo on a terminal").run();
    let said = said.expect_success();
    assert!(!said.text().contains("Caution") && !said.stderr.contains("Caution"), "{said:?}");
    let mut terminal = gateway.login("disk1");
    terminal.expect("root@disk1:~# ");
    assert!(!terminal.screen().contains("Caution"), "{}", terminal.screen());
    terminal.send("exit\r");
    terminal.wait();
}

#[test]
fn ctrl_c_interrupts_the_program_not_the_session() {
    let (_testbed, _node, gateway) = one_node();
    let mut terminal = gateway.login("rpi1");
    terminal.expect("# ");
    // A program of its own: between two commands the shell itself may get the signal.
    terminal.send("sh -c 'echo asleep; exec sleep 1000'\r");
    terminal.expect("\nasleep");
    terminal.send("\x03");
    terminal.expect("# ");
    terminal.send("echo code $?\r");
    terminal.expect("code 130");
    terminal.send("exit\r");
    terminal.wait();
}

#[test]
fn environment_requests_reach_the_node() {
    let (_testbed, _node, gateway) = one_node();
    let said = gateway
        .ssh("rpi1")
        .option(&["-o", "SendEnv FOO LC_TEST BAR"])
        .env("FOO", "some words")
        .env("LC_TEST", "C.UTF-8")
        .env("BAR", "not accepted by the node")
        .command("echo $FOO, $LC_TEST, $BAR")
        .run();
    said.expect_success().expect_stdout("some words, C.UTF-8,\n");
}

#[test]
fn exit_status_reaches_a_client_that_has_nothing_more_to_say() {
    let (_testbed, _node, gateway) = one_node();
    // The client has sent its EOF and would close the channel if it got the program's now.
    let closing = "exec >&- 2>&-; sleep 0.3; exit 7";
    gateway.ssh("rpi1").command(closing).stdin(b"").run().expect_code(7);
}

#[test]
fn sftp_puts_and_gets() {
    let (testbed, node, gateway) = one_node();
    let data = all_bytes();
    let local = testbed.write("local", &data);
    let back = testbed.path("back");
    let batch = format!(
        "put {} /persist/there\nls -l /persist\nget /persist/there {}\n",
        local.display(),
        back.display()
    );
    gateway.sftp("rpi1", &batch).run().expect_success();
    assert!(fs::read(node.persist().join("there")).unwrap() == data);
    assert!(fs::read(back).unwrap() == data);
}

#[test]
fn scp_copies_both_ways_with_both_protocols() {
    let (testbed, node, gateway) = one_node();
    let data = all_bytes();
    let local = testbed.write("local", &data).display().to_string();
    for protocol in ["-s", "-O"] {
        let back = testbed.path(format!("back{protocol}"));
        let there = format!("REMOTE:/persist/there{protocol}");
        gateway.scp("rpi1", &[protocol, &local, &there]).run().expect_success();
        assert!(fs::read(node.persist().join(format!("there{protocol}"))).unwrap() == data);
        let arguments = [protocol, &there, &back.display().to_string()];
        gateway.scp("rpi1", &arguments).run().expect_success();
        assert!(fs::read(back).unwrap() == data);
    }
}

#[test]
fn a_node_that_boots_late_is_waited_for() {
    let testbed = Testbed::new();
    let mut node = testbed.sshd_off("rpi1");
    let gateway =
        testbed.gateway().more_node_defaults("boot_wait_seconds = 60").node(&node).start();

    let session = gateway.ssh("rpi1").command("hostname").start();
    session.expect_stderr("waiting");
    node.start();
    let said = session.finish().expect_success().expect_stdout("rpi1\n");
    said.expect_one_gateway_line();
}

#[test]
fn a_person_sees_the_wait_and_then_the_shell() {
    let testbed = Testbed::new();
    let mut node = testbed.sshd_off("rpi1");
    let gateway =
        testbed.gateway().more_node_defaults("boot_wait_seconds = 60").node(&node).start();

    let mut terminal = gateway.login("rpi1");
    terminal.expect("aiting for rpi1");
    node.start();
    terminal.expect(CAUTION);
    terminal.expect("root@rpi1:~# ");
    terminal.send("exit\r");
    assert_eq!(terminal.wait(), Some(0));
}

#[test]
fn ctrl_c_ends_the_wait() {
    let testbed = Testbed::new();
    let node = testbed.sshd_off("rpi1");
    let gateway =
        testbed.gateway().more_node_defaults("boot_wait_seconds = 3600").node(&node).start();

    let mut terminal = gateway.login("rpi1");
    terminal.expect("aiting for rpi1");
    terminal.send("\x03");
    assert_ne!(terminal.wait(), Some(0));
}

#[test]
fn a_client_that_goes_away_ends_the_wait() {
    let testbed = Testbed::new();
    let node = testbed.sshd_off("rpi1");
    let gateway =
        testbed.gateway().more_node_defaults("boot_wait_seconds = 3600").node(&node).start();

    let session = gateway.ssh("rpi1").command("true").start();
    session.expect_stderr("waiting");
    session.kill();
    gateway.expect_log("session ended");
}

#[test]
fn a_node_that_does_not_boot_in_time_is_reported() {
    let testbed = Testbed::new();
    let node = testbed.sshd_off("rpi1");
    let gateway = testbed.gateway().more_node_defaults("boot_wait_seconds = 1").node(&node).start();

    let said = gateway.ssh("rpi1").command("true").run();
    said.expect_code(255).expect_stdout("").expect_stderr_with(&["rpi1", "1 s"]);
}

#[test]
fn a_node_that_goes_away_is_told_in_one_line() {
    let (_testbed, mut node, gateway) = one_node();
    let session = gateway.ssh("rpi1").command("echo in; exec sleep 600").start();
    session.expect_stdout("in\n");
    let mut terminal = gateway.login("rpi1");
    terminal.expect("# ");

    node.unplug();
    session
        .finish()
        .expect_code(255)
        .expect_stdout("in\n")
        .expect_one_gateway_line()
        .expect_stderr_with(&["rpi1"]);
    terminal.expect("waltgate: ");
    assert_eq!(terminal.wait(), Some(255));

    node.start();
    gateway.ssh("rpi1").command("hostname").run().expect_success().expect_stdout("rpi1\n");
}

#[test]
fn a_client_that_goes_away_ends_its_program_on_the_node() {
    let (_testbed, node, gateway) = one_node();
    let command = "trap 'echo gone >/persist/end' HUP PIPE TERM; echo ready; \
                   while sleep 0.1; do echo tick; done; echo gone >/persist/end";
    let session = gateway.ssh("rpi1").command(command).start();
    session.expect_stdout("ready");
    session.kill();
    eventually("the program has ended", || node.persist().join("end").exists());
}

#[test]
fn a_node_that_refuses_the_gateways_key_is_reported() {
    let testbed = Testbed::new();
    let mut node = testbed.sshd_off("rpi1");
    testbed.generate_key("other", "ed25519");
    node.authorize(&testbed.path("other.pub"));
    node.start();
    let gateway = testbed.gateway().node(&node).start();

    let said = gateway.ssh("rpi1").command("true").run();
    said.expect_code(255).expect_one_gateway_line().expect_stderr_with(&["rpi1", "key"]);
}

#[test]
fn a_changed_host_key_is_refused() {
    let (testbed, mut node, gateway) = one_node();
    gateway.ssh("rpi1").command("true").run().expect_success();
    node.use_host_key(&testbed.generate_key("new_host_key", "ed25519"));
    node.reboot();

    let said = gateway.ssh("rpi1").command("echo in").run();
    said.expect_code(255).expect_stdout("").expect_one_gateway_line().expect_stderr_with(&[
        "rpi1",
        "host key",
        "changed",
        "known_hosts",
    ]);
}

#[test]
fn an_unknown_host_key_is_refused_when_strict() {
    let testbed = Testbed::new();
    testbed.write("known_hosts", "");
    let node = testbed.sshd("rpi1");
    let gateway = testbed.gateway().node(&node).start();

    let said = gateway.ssh("rpi1").command("echo in").run();
    said.expect_code(255).expect_stdout("").expect_one_gateway_line().expect_stderr_with(&[
        "host key",
        "SHA256:",
        "known_hosts",
    ]);
}

#[test]
fn accept_new_takes_the_first_host_key_and_no_other() {
    let testbed = Testbed::new();
    testbed.write("known_hosts", "");
    let mut node = testbed.sshd("rpi1");
    let mut gateway =
        testbed.gateway().node_with(&node, "host_key_policy = \"accept-new\"").start();

    gateway.ssh("rpi1").command("true").run().expect_success();
    // What was accepted outlives the gateway.
    gateway.stop();
    gateway.restart();
    gateway.ssh("rpi1").command("true").run().expect_success();
    node.use_host_key(&testbed.generate_key("new_host_key", "ed25519"));
    node.reboot();
    let said = gateway.ssh("rpi1").command("true").run();
    said.expect_code(255).expect_stderr_with(&["host key", "changed"]);
}

#[test]
fn policy_off_takes_any_host_key_and_warns_at_the_start() {
    let testbed = Testbed::new();
    testbed.write("known_hosts", "");
    let node = testbed.sshd("rpi1");
    let gateway = testbed.gateway().node_with(&node, "host_key_policy = \"off\"").start();

    gateway.ssh("rpi1").command("true").run().expect_success();
    let log = gateway.log();
    assert!(log.lines().any(|line| line.contains("WARN") && line.contains("rpi1")), "{log}");
}

#[test]
fn an_address_outside_the_networks_is_refused() {
    let testbed = Testbed::new();
    let node = testbed.sshd("rpi1");
    let walt = WaltApi::start();
    let address = node.address().ip().to_string();
    walt.add_node("rpi1", &address, "alice/rpi-default:latest", true);
    let gateway = testbed
        .gateway()
        .node_defaults(&format!(
            "networks = [\"192.0.2.0/24\"]\nidentity = {:?}",
            testbed.path("identity")
        ))
        .tables(&walt.table())
        .start();

    let said = gateway.ssh("rpi1").command("echo in").run();
    said.expect_code(77)
        .expect_stdout("")
        .expect_one_gateway_line()
        .expect_stderr_with(&["rpi1", &address, "networks"]);
}

#[test]
fn an_rsa_identity_opens_nodes() {
    let testbed = Testbed::new();
    let rsa = testbed.generate_key("id_rsa", "rsa");
    let mut node = testbed.sshd_off("rpi1");
    node.authorize(&testbed.path("id_rsa.pub"));
    node.start();
    let gateway = testbed.gateway().node_with(&node, &format!("identity = {rsa:?}")).start();

    gateway.ssh("rpi1").command("true").run().expect_success();
}

#[test]
fn a_large_upload_to_a_slow_reader_takes_little_memory() {
    let (testbed, node, gateway) = one_node();
    let size = 1024 * MEBIBYTE;
    let data = testbed.path("zeroes");
    File::create(&data).unwrap().set_len(size).unwrap();

    // Reads nothing before it is told to.
    let command = "echo ready; while [ ! -e /persist/go ]; do sleep 0.1; done; wc -c";
    let upload = gateway
        .ssh("rpi1")
        .command(command)
        .stdin_file(&data)
        .patience(Duration::from_secs(600))
        .start();
    upload.expect_stdout("ready\n");
    gateway.wait_until_idle();
    assert!(gateway.peak_memory() < 64 * MEBIBYTE, "{} bytes", gateway.peak_memory());

    fs::write(node.persist().join("go"), "").unwrap();
    upload.finish().expect_success().expect_stdout(&format!("ready\n{size}\n"));
    assert!(gateway.peak_memory() < 64 * MEBIBYTE, "{} bytes", gateway.peak_memory());
}

#[test]
fn a_large_download_to_a_slow_client_takes_little_memory() {
    let (_testbed, _node, gateway) = one_node();
    let size = 256 * MEBIBYTE;
    let mut download =
        gateway.ssh("rpi1").command(&format!("head -c {size} /dev/zero")).start_unread();
    gateway.wait_until_idle();
    assert!(gateway.peak_memory() < 64 * MEBIBYTE, "{} bytes", gateway.peak_memory());

    let mut received = 0;
    let mut stdout = download.stdout.take().unwrap();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match stdout.read(&mut buffer).unwrap() {
            0 => break,
            count => received += count as u64,
        }
    }
    assert_eq!(received, size);
    assert_eq!(download.wait(DEADLINE).and_then(|status| status.code()), Some(0));
    assert!(gateway.peak_memory() < 64 * MEBIBYTE, "{} bytes", gateway.peak_memory());
}

#[test]
fn a_stalled_session_does_not_stall_its_sibling() {
    let (testbed, _node, gateway) = one_node();
    let socket = testbed.path("control").display().to_string();
    let mut first = gateway.ssh("rpi1").option(&["-M", "-S", &socket]).command("cat").start();
    first.send("in\n");
    first.expect_stdout("in\n");

    let through = |command: &str| gateway.ssh("rpi1").option(&["-S", &socket]).command(command);
    // Less than what may be kept for a channel that nobody reads.
    let unread = through("head -c 67108864 /dev/zero").start_unread();
    gateway.wait_until_idle();
    through("echo alive").run().expect_success().expect_stdout("alive\n");
    first.send("still in\n");
    first.expect_stdout("still in\n");
    unread.kill();
    first.finish().expect_success();
}

#[test]
fn a_client_that_vanishes_while_it_does_not_read_leaves_nothing_behind() {
    let testbed = Testbed::new();
    let node = testbed.sshd("rpi1");
    let gateway = testbed.gateway().node(&node).limits("spool_megabytes = 1").start();
    let clients: Vec<_> = (0..8)
        .map(|n| gateway.ssh("rpi1").command(&format!("exec yes vanished-{n}")).start_unread())
        .collect();
    gateway.wait_until_idle();
    for client in &clients {
        client.kill();
    }
    eventually("all sessions have ended", || {
        gateway.log().matches("session ended").count() == clients.len()
    });
    let left = || gateway.ssh("rpi1").command("pgrep -f '^yes vanished' | wc -l").run();
    eventually("their programs have ended on the node", || left().stdout == b"0\n");
}

#[test]
fn a_stop_does_not_wait_for_a_client_that_does_not_read() {
    let testbed = Testbed::new();
    let node = testbed.sshd("rpi1");
    let gateway = testbed.gateway().node(&node).limits("spool_megabytes = 1").start();
    let client = gateway.ssh("rpi1").command("cat /dev/zero").start_unread();
    gateway.wait_until_idle();
    assert_eq!(gateway.stop(), Some(0));
    client.kill();
}

#[test]
fn a_dropbear_node_is_a_node_like_any_other() {
    let testbed = Testbed::new();
    let node = testbed.dropbear("nano");
    let gateway = testbed.gateway().node(&node).start();
    let data = all_bytes();

    let said = gateway.ssh("nano").command("cat; echo err >&2; exit 3").stdin(&data).run();
    let said = said.expect_code(3).expect_stderr("err\n");
    assert!(said.stdout == data);

    let mut terminal = gateway.login("nano");
    terminal.expect(CAUTION);
    terminal.expect("root@nano:~# ");
    terminal.resize(100, 30);
    // What is typed may arrive before the new size.
    terminal.send("until [ \"$(stty size)\" = '30 100' ]; do sleep 0.1; done; echo re''sized\r");
    terminal.expect("resized");
    terminal.send("exit 4\r");
    assert_eq!(terminal.wait(), Some(4));

    let local = testbed.write("local", &data).display().to_string();
    let back = testbed.path("back");
    gateway.scp("nano", &["-O", &local, "REMOTE:/persist/there"]).run().expect_success();
    let arguments = ["-O", "REMOTE:/persist/there", &back.display().to_string()];
    gateway.scp("nano", &arguments).run().expect_success();
    assert!(fs::read(back).unwrap() == data);
}

#[test]
fn nodes_of_the_walt_server_are_known_even_while_it_is_away() {
    let testbed = Testbed::new();
    let walt = WaltApi::start();
    // Nothing listens at this address.
    let address = support::testbed::unused_address().ip().to_string();
    walt.add_node("vn-dummy", &address, "alice/pc-x86-64-default:latest", false);
    let gateway = testbed
        .gateway()
        .more_node_defaults("boot_wait_seconds = 3600")
        .tables(&walt.table())
        .start();

    let waiting = gateway.ssh("vn-dummy").command("true").start();
    waiting.expect_stderr("waiting");
    waiting.kill();
    gateway.ssh("vn-dumy").command("true").run().expect_code(255).expect_stderr_with(&["vn-dummy"]);

    walt.set_available(false);
    eventually("the age of the list is told", || {
        let said = gateway.ssh("vn-dumy").command("true").run().expect_code(255);
        said.expect_stderr_with(&["vn-dummy"]).stderr.contains("WalT server")
    });
}
