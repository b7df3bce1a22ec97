//! From the TCP connection to an allowed target: who gets in, who does not, and what they learn.

#![allow(clippy::unwrap_used, reason = "a set-up that fails fails the test")]

mod support;

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use support::client::run;
use support::gateway::hash_password;
use support::process::bound_command;
use support::{DEADLINE, Gateway, GatewaySetup, Testbed, eventually};

/// `[auth]` lines that let in nobody without credentials, and the directory of account keys.
fn closed_auth(testbed: &Testbed) -> String {
    let accounts = testbed.path("accounts");
    fs::create_dir_all(&accounts).unwrap();
    format!("open_networks = []\naccounts_dir = {accounts:?}")
}

/// A key that belongs to an account.
fn account_key(testbed: &Testbed, account: &str) -> PathBuf {
    let key = testbed.generate_key(account, "ed25519");
    testbed.write(format!("accounts/{account}.pub"), testbed.read(format!("{account}.pub")));
    key
}

/// A gateway with alice, who has a password.
fn gateway_with_password<'a>(testbed: &'a Testbed, password: &str) -> GatewaySetup<'a> {
    let hash = hash_password(password);
    testbed
        .gateway()
        .auth(&closed_auth(testbed))
        .tables(&format!("[accounts.alice]\npassword = \"{hash}\""))
}

fn connect(gateway: &Gateway) -> TcpStream {
    let stream = TcpStream::connect(gateway.address()).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream
}

/// Everything the gateway sends until it closes the connection.
#[track_caller]
fn read_to_close(mut stream: &TcpStream) -> Vec<u8> {
    let mut received = Vec::new();
    match stream.read_to_end(&mut received) {
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
        Err(error) => panic!("the gateway keeps the connection: {error}"),
    }
    received
}

#[test]
fn a_public_key_tells_who_the_client_is() {
    let testbed = Testbed::new();
    let auth = closed_auth(&testbed);
    let key = account_key(&testbed, "alice");
    let node = testbed.sshd("rpi1");
    let gateway = testbed
        .gateway()
        .auth(&auth)
        .node(&node)
        .tables("[accounts.alice]\nallow = [\"rpi*\"]")
        .start();

    gateway.ssh("rpi1").identity(&key).command("echo in").run().expect_success();
    gateway.ssh("alice+rpi1").identity(&key).command("echo in").run().expect_success();
    gateway.expect_log("alice");
}

#[test]
fn a_public_key_of_no_account_is_refused() {
    let testbed = Testbed::new();
    let auth = closed_auth(&testbed);
    account_key(&testbed, "alice");
    let stranger = testbed.generate_key("stranger", "ed25519");
    let node = testbed.sshd("rpi1");
    let gateway = testbed.gateway().auth(&auth).node(&node).start();

    gateway
        .ssh("rpi1")
        .identity(&stranger)
        .command("echo in")
        .run()
        .expect_code(255)
        .expect_stdout("")
        .expect_stderr_with(&["permission denied"]);
}

#[test]
fn a_key_does_not_speak_for_another_account() {
    let testbed = Testbed::new();
    let auth = closed_auth(&testbed);
    let alice = account_key(&testbed, "alice");
    account_key(&testbed, "bob");
    let node = testbed.sshd("rpi1");
    let gateway = testbed.gateway().auth(&auth).node(&node).start();

    gateway.ssh("bob+rpi1").identity(&alice).command("true").run().expect_code(255);
}

#[test]
fn keys_of_all_usual_types_are_accepted() {
    let testbed = Testbed::new();
    let auth = closed_auth(&testbed);
    let node = testbed.sshd("rpi1");
    let gateway = testbed.gateway().auth(&auth).node(&node).start();

    for kind in ["rsa", "ecdsa", "ed25519"] {
        let key = testbed.generate_key(kind, kind);
        testbed.write(format!("accounts/{kind}.pub"), testbed.read(format!("{kind}.pub")));
        eventually("a new key file is read", || {
            gateway.ssh("rpi1").identity(&key).command("true").run().code == Some(0)
        });
    }
}

#[test]
fn options_of_a_key_restrict_its_sessions() {
    let testbed = Testbed::new();
    let auth = closed_auth(&testbed);
    let key = account_key(&testbed, "alice");
    let elsewhere = account_key(&testbed, "bob");
    for (account, options) in [("alice", "restrict"), ("bob", "from=\"192.0.2.0/24\"")] {
        let line = format!("{options} {}", testbed.read(format!("{account}.pub")));
        testbed.write(format!("accounts/{account}.pub"), line);
    }
    let node = testbed.sshd("rpi1");
    let gateway = testbed.gateway().auth(&auth).node(&node).start();

    let on_terminal = gateway.ssh("rpi1").identity(&key).option(&["-tt"]).command("tty");
    let said = on_terminal.run();
    assert!(!said.text().contains("/dev/"), "a terminal in spite of restrict: {said:?}");
    gateway.ssh("rpi1").identity(&key).command("echo in").run().expect_stdout("in\n");
    gateway.ssh("rpi1").identity(&elsewhere).command("true").run().expect_code(255);
}

#[test]
fn a_forced_command_knows_what_was_asked_for() {
    let testbed = Testbed::new();
    let node = testbed.sshd("rpi1");
    let key = testbed.generate_key("alice", "ed25519");
    let options = "command=\"printf '<%s>' \\\"$SSH_ORIGINAL_COMMAND\\\"\"";
    testbed.write("accounts/alice.pub", format!("{options} {}", testbed.read("alice.pub")));
    let gateway = testbed.gateway().auth(&closed_auth(&testbed)).node(&node).start();

    let ssh = || gateway.ssh("rpi1").identity(&key);
    let asked = r#"echo 'two  words'; "\$HOME""#;
    ssh().command(asked).run().expect_success().expect_stdout(&format!("<{asked}>"));
    ssh().option(&["-s"]).command("sftp").run().expect_success().expect_stdout("<sftp>");
    let pretended = ssh().option(&["-o", "SetEnv SSH_ORIGINAL_COMMAND=pretended"]).run();
    pretended.expect_success().expect_stdout("<>");
}

#[test]
fn a_password_lets_in_and_a_wrong_one_does_not() {
    let testbed = Testbed::new();
    let node = testbed.sshd("rpi1");
    let gateway = gateway_with_password(&testbed, "open sesame").node(&node).start();

    gateway
        .ssh("alice+rpi1")
        .password("open sesame")
        .command("echo in")
        .run()
        .expect_success()
        .expect_stdout("in\n");
    let said = gateway.ssh("alice+rpi1").password("open barley").command("echo in").run();
    assert_ne!(said.code, Some(0), "{said:?}");
    said.expect_stdout("").expect_stderr_with(&["permission denied"]);
    assert!(!gateway.log().contains("open sesame") && !gateway.log().contains("open barley"));
}

#[test]
fn a_mistyped_password_can_be_typed_again() {
    let testbed = Testbed::new();
    let node = testbed.sshd("rpi1");
    let gateway = gateway_with_password(&testbed, "open sesame").node(&node).start();

    let mut terminal = gateway.login("alice+rpi1");
    terminal.expect("password:");
    terminal.send("open barley\r");
    terminal.expect("password:");
    terminal.send("open sesame\r");
    terminal.expect("root@rpi1:~# ");
    terminal.send("exit\r");
    assert_eq!(terminal.wait(), Some(0));
}

#[test]
fn an_unknown_account_is_told_the_same_as_a_wrong_password() {
    let testbed = Testbed::new();
    let node = testbed.sshd("rpi1");
    let gateway = gateway_with_password(&testbed, "open sesame").node(&node).start();

    let known = gateway.ssh("alice+rpi1").password("wrong").command("true").run();
    let unknown = gateway.ssh("mallory+rpi1").password("wrong").command("true").run();
    let no_node = gateway.ssh("alice+nowhere").password("wrong").command("true").run();
    assert_eq!(known.code, unknown.code);
    assert_eq!(known.stderr.replace("alice", "mallory"), unknown.stderr);
    assert_eq!(known.stderr.replace("rpi1", "nowhere"), no_node.stderr);
}

#[test]
fn an_open_network_asks_for_nothing() {
    let testbed = Testbed::new();
    let node = testbed.sshd("rpi1");
    let gateway = testbed
        .gateway()
        .auth("open_networks = [\"127.0.0.5/32\"]\nguest = \"visitor\"")
        .node(&node)
        .tables("[accounts.bob]\nallow = [\"image.*\"]")
        .start();

    let from_inside = |user: &str| gateway.ssh(user).option(&["-b", "127.0.0.5"]).command("true");
    from_inside("rpi1").run().expect_success();
    gateway.expect_log("visitor");
    // It may say who it is, and then has that account's rights.
    from_inside("bob+rpi1").run().expect_code(77).expect_one_gateway_line();
    gateway.ssh("rpi1").option(&["-b", "127.0.0.6"]).command("true").run().expect_code(255);
}

#[test]
fn a_forbidden_target_is_refused_with_77() {
    let testbed = Testbed::new();
    let node = testbed.sshd("rpi1");
    let gateway = testbed
        .gateway()
        .node(&node)
        .tables("[accounts.guest]\nallow = [\"nano*\", \"walt\"]")
        .start();

    let said = gateway.ssh("rpi1").command("echo in").run();
    said.expect_code(77).expect_stdout("").expect_one_gateway_line().expect_stderr_with(&[
        "guest",
        "rpi1",
        "not allowed",
    ]);
}

#[test]
fn an_unknown_node_names_the_closest_ones() {
    let testbed = Testbed::new();
    let node = testbed.sshd_off("rpi-kitchen");
    let gateway = testbed.gateway().node(&node).start();

    gateway
        .ssh("rpi-kitchn")
        .command("true")
        .run()
        .expect_code(255)
        .expect_one_gateway_line()
        .expect_stderr_with(&["rpi-kitchn", "rpi-kitchen"]);
}

#[test]
fn a_name_that_cannot_be_one_is_explained_after_login() {
    let testbed = Testbed::new();
    let gateway = testbed.gateway().start();

    gateway
        .ssh("image.Not_A.Name!")
        .command("true")
        .run()
        .expect_code(255)
        .expect_one_gateway_line();
}

#[test]
fn garbage_instead_of_a_banner_ends_that_connection_only() {
    let testbed = Testbed::new();
    let node = testbed.sshd("rpi1");
    let gateway = testbed.gateway().node(&node).limits("login_grace_seconds = 5").start();

    let garbage: Vec<u8> =
        (0..4096_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    for junk in [&b"GET / HTTP/1.1\r\nHost: gateway\r\n\r\n"[..], &garbage, &[0; 64]] {
        let mut stream = connect(&gateway);
        stream.write_all(junk).unwrap();
        read_to_close(&stream);
    }
    gateway.ssh("rpi1").command("echo alive").run().expect_success().expect_stdout("alive\n");
}

#[test]
fn a_client_that_stops_mid_handshake_is_let_go_after_the_grace_time() {
    let testbed = Testbed::new();
    let node = testbed.sshd("rpi1");
    let limits = "login_grace_seconds = 1\nmax_startups = 1";
    let gateway = testbed.gateway().node(&node).limits(limits).start();

    let mut stream = connect(&gateway);
    stream.write_all(b"SSH-2.0-stalls\r\n").unwrap();
    let received = read_to_close(&stream);
    assert!(received.starts_with(b"SSH-2.0-"), "{received:?}");
    // Its place is free again.
    eventually("the next client gets in", || {
        gateway.ssh("rpi1").command("true").run().code == Some(0)
    });
}

#[test]
fn a_flood_from_one_source_does_not_keep_others_out() {
    let testbed = Testbed::new();
    let node = testbed.sshd("rpi1");
    let limits = "max_startups_per_source = 3\nlogin_grace_seconds = 600";
    let gateway = testbed.gateway().node(&node).limits(limits).start();

    let held: Vec<_> = (0..3)
        .map(|_| {
            let mut stream = connect(&gateway);
            // Its banner says that the gateway counts it.
            stream.read_exact(&mut [0; 4]).unwrap();
            stream
        })
        .collect();
    let refused = read_to_close(&connect(&gateway));
    assert!(!refused.starts_with(b"SSH-"), "a fourth startup: {refused:?}");
    gateway.ssh("rpi1").option(&["-b", "127.0.0.9"]).command("true").run().expect_success();
    drop(held);
    eventually("the source may connect again", || {
        gateway.ssh("rpi1").command("true").run().code == Some(0)
    });
}

#[test]
fn a_flood_from_everywhere_is_bounded() {
    let testbed = Testbed::new();
    let node = testbed.sshd("rpi1");
    let limits = "max_startups = 2\nlogin_grace_seconds = 600";
    let gateway = testbed.gateway().node(&node).limits(limits).start();
    // A session that is authenticated counts no longer.
    let mut session = gateway.ssh("rpi1").command("cat").start();
    session.send("in\n");
    session.expect_stdout("in\n");

    let held: Vec<_> = (0..2)
        .map(|_| {
            let mut stream = connect(&gateway);
            stream.read_exact(&mut [0; 4]).unwrap();
            stream
        })
        .collect();
    read_to_close(&connect(&gateway));
    session.send("still in\n");
    session.expect_stdout("still in\n");
    drop(held);
    session.finish().expect_success();
}

#[test]
fn too_many_refused_attempts_end_the_connection() {
    let testbed = Testbed::new();
    let auth = closed_auth(&testbed);
    let key = account_key(&testbed, "alice");
    let wrong: Vec<_> =
        (0..4).map(|i| testbed.generate_key(&format!("wrong{i}"), "ed25519")).collect();
    let node = testbed.sshd("rpi1");
    let gateway = testbed.gateway().auth(&auth).node(&node).limits("max_auth_attempts = 3").start();

    let after = |refused: usize| {
        let mut client = gateway.ssh("rpi1");
        for key in &wrong[..refused] {
            client = client.identity(key);
        }
        client.identity(&key).command("true").run()
    };
    after(1).expect_success();
    after(4).expect_code(255);
}

#[test]
fn sessions_of_one_connection_are_limited() {
    let testbed = Testbed::new();
    let node = testbed.sshd("rpi1");
    let limits = "max_sessions_per_connection = 2";
    let gateway = testbed.gateway().node(&node).limits(limits).start();
    let socket = testbed.path("control").display().to_string();

    let mut first = gateway.ssh("rpi1").option(&["-M", "-S", &socket]).command("cat").start();
    first.send("one\n");
    first.expect_stdout("one\n");
    let mut second = gateway.ssh("rpi1").option(&["-S", &socket]).command("cat").start();
    second.send("two\n");
    second.expect_stdout("two\n");
    let third = gateway.ssh("rpi1").option(&["-S", &socket]).command("true").run();
    assert!(third.stderr.contains("refused"), "{third:?}");
    second.finish().expect_success();
    first.finish().expect_success();
}

#[test]
fn an_idle_connection_is_closed_after_a_warning_on_its_terminal_and_a_busy_one_is_not() {
    let testbed = Testbed::new();
    let node = testbed.sshd("rpi1");
    let gateway = testbed.gateway().node(&node).limits("idle_minutes = 0.15").start();
    let idle = gateway.ssh("rpi1").command("echo in; exec cat").start();
    idle.expect_stdout("in\n");
    let count = "n=0; until [ $n = 40 ]; do n=$((n+1)); echo $n; sleep 0.3; done";
    let busy = gateway.ssh("rpi1").command(count).start();

    let mut terminal = gateway.login("rpi1");
    terminal.expect("# ");
    terminal.send("echo wai''ting\r");
    terminal.expect("waiting");
    terminal.expect("waltgate: idle for ");
    terminal.expect("s; the connection is closed in ");
    terminal.expect(" s unless you type\r\n");
    terminal.expect("waltgate: closed after 9 s without traffic");
    assert_eq!(terminal.wait(), Some(255));

    // Where there is no terminal, nobody is bothered before the end.
    idle.finish().expect_code(255).expect_stderr("waltgate: closed after 9 s without traffic\n");
    let busy = busy.finish().expect_success();
    assert!(busy.stdout.ends_with(b"40\n"), "{busy:?}");
}

#[test]
fn host_keys_are_made_once_and_private() {
    let testbed = Testbed::new();
    let mut gateway = testbed.gateway().start();
    let path = testbed.path("gateway_host_key");
    let mode = fs::metadata(&path).unwrap().permissions().mode();
    let key = fs::read(&path).unwrap();
    assert_eq!(mode & 0o777, 0o600);
    gateway.stop();
    gateway.restart();
    assert_eq!(fs::read(&path).unwrap(), key);
}

#[test]
fn a_stop_ends_sessions_and_exits_with_0() {
    let testbed = Testbed::new();
    let node = testbed.sshd("rpi1");
    let gateway = testbed.gateway().node(&node).start();
    let mut session = gateway.ssh("rpi1").command("cat").start();
    session.send("in\n");
    session.expect_stdout("in\n");

    assert_eq!(gateway.stop(), Some(0));
    session.finish().expect_code(255).expect_stderr_with(&["waltgate: "]);
    assert!(TcpStream::connect(gateway.address()).is_err());
}

#[test]
fn names_that_are_none_are_told_in_one_line_after_the_login() {
    let testbed = Testbed::new();
    let gateway = testbed.gateway().start();
    // ssh itself does not take control characters and those that mean something to a shell.
    let with_dbclient = |user: &str| {
        let mut dbclient = bound_command("dbclient");
        let port = gateway.address().port().to_string();
        dbclient.args(["-y", "-y", "-p", &port, "-l", user, "127.0.0.1", "id"]);
        dbclient.env("HOME", testbed.path(""));
        run(dbclient, b"")
    };
    let with_ssh = |user: &str| gateway.ssh(user).command("id").run();
    let long = format!("image.{}", "a".repeat(1200));
    for (user, told) in [
        ("image.UPPER", "\"UPPER\" is not a valid image name"),
        ("image.", "no image name after \"image.\""),
        ("image.a/../b", "images of other registries"),
        ("image.../../etc", "images of other registries"),
        ("image./etc/passwd", "images of other registries"),
        ("image.a,b", "type one image"),
        ("image.a b", "is not a valid image name"),
        ("image.\u{e9}", "is not a valid image name"),
        ("image.bob.x_", "is not a valid image tag"),
        ("UPPER+image.x", "is not a valid account name"),
        ("+image.x", "is not a valid account name"),
        (long.as_str(), "1024 at most"),
        ("image.a\u{1b}[2J", "is not a valid image name"),
        ("image.a\nb", "is not a valid image name"),
        ("image.a\u{7f}", "is not a valid image name"),
        ("image.a;reboot", "is not a valid image name"),
        ("image.$(reboot)", "is not a valid image name"),
    ] {
        let for_dbclient = user.contains(|c: char| c.is_control() || matches!(c, ';' | '$'));
        let refused = if for_dbclient { with_dbclient(user) } else { with_ssh(user) };
        let refused = refused.expect_code(255).expect_stdout("");
        let line = refused.stderr.lines().find(|line| line.starts_with("waltgate: "));
        let line = line.unwrap_or_else(|| panic!("{user:?}: {refused:?}"));
        assert!(line.contains(told), "{user:?}: {refused:?}");
        assert!(!line.contains(char::is_control) && line.len() < 400, "{refused:?}");
        assert_eq!(refused.stderr.matches("waltgate: ").count(), 1, "{refused:?}");
    }
    // An engine is not even looked for.
    assert!(!gateway.log().contains("container engine"), "{}", gateway.log());
    gateway.ssh("walt").run().expect_success();
}
