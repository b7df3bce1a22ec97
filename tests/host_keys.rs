//! A node whose host key changed, and the administrator's answer to it.

#![allow(clippy::unwrap_used, reason = "a set-up that fails fails the test")]

mod support;

use support::gateway::waltgate;
use support::{Finished, Gateway, Node, Testbed};

/// Gives the node a new host key.
fn change_host_key(testbed: &Testbed, node: &mut Node, name: &str) {
    node.use_host_key(&testbed.generate_key(name, "ed25519"));
    node.reboot();
}

/// The command that a refusal shows, as it would be pasted.
#[track_caller]
fn command_shown(refused: &Finished) -> Vec<String> {
    let (_, command) = refused.stderr.split_once("waltgate accept-host-key ").unwrap();
    let words = command.trim_end().split(' ').map(|word| word.trim_matches('\'').to_owned());
    let words: Vec<String> = words.collect();
    assert!(matches!(words.as_slice(), [_, _, c, _] if c == "-c"), "{refused:?}");
    words
}

fn accept(words: &[String]) -> Finished {
    let words = words.iter().map(String::as_str);
    waltgate(&["accept-host-key"].into_iter().chain(words).collect::<Vec<_>>(), b"")
}

#[test]
fn the_command_that_a_refusal_shows_accepts_the_changed_key() {
    let testbed = Testbed::new();
    let mut node = testbed.sshd("rpi1");
    let gateway = testbed.gateway().node(&node).start();
    gateway.ssh("rpi1").command("true").run().expect_success();
    change_host_key(&testbed, &mut node, "second");

    let refused = gateway.ssh("rpi1").command("true").run().expect_code(255);
    // The file of known hosts is another program's: the old key stays in it.
    let said = accept(&command_shown(&refused)).expect_success();
    assert!(said.text().contains("known_hosts:1 is accepted as well"), "{said:?}");
    gateway.ssh("rpi1").command("true").run().expect_success().expect_stderr("");

    // Once more: of the gateway's own keys, only the last is accepted.
    change_host_key(&testbed, &mut node, "third");
    let refused = gateway.ssh("rpi1").command("true").run().expect_code(255);
    accept(&command_shown(&refused)).expect_success();
    gateway.ssh("rpi1").command("true").run().expect_success();
    node.use_host_key(&testbed.path("second"));
    node.reboot();
    gateway.ssh("rpi1").command("true").run().expect_code(255);
}

#[test]
fn an_unknown_key_is_accepted_by_the_same_command() {
    let testbed = Testbed::new();
    testbed.write("known_hosts", "");
    let node = testbed.sshd("rpi1");
    let gateway = testbed.gateway().node(&node).start();
    let refused = gateway.ssh("rpi1").command("true").run().expect_code(255);
    let said = accept(&command_shown(&refused)).expect_success();
    assert!(!said.text().contains("as well"), "{said:?}");
    gateway.ssh("rpi1").command("true").run().expect_success();
}

#[test]
fn a_key_that_the_node_does_not_present_is_not_accepted() {
    let testbed = Testbed::new();
    let mut node = testbed.sshd("rpi1");
    let gateway = testbed.gateway().node(&node).start();
    change_host_key(&testbed, &mut node, "second");
    let refused = gateway.ssh("rpi1").command("true").run().expect_code(255);
    let mut words = command_shown(&refused);
    let presented = words[1].clone();

    words[1] = "SHA256:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA".to_owned();
    let other = accept(&words).expect_code(1);
    assert!(other.stderr.contains(&presented), "{other:?}");
    words[1] = presented;
    words[0] = "rpi2".to_owned();
    let unknown = accept(&words).expect_code(1);
    assert!(unknown.stderr.contains("rpi2"), "{unknown:?}");
    gateway.ssh("rpi1").command("true").run().expect_code(255);
}

#[test]
fn a_key_is_not_accepted_of_a_node_that_is_off() {
    let testbed = Testbed::new();
    let mut node = testbed.sshd("rpi1");
    let gateway = testbed.gateway().node(&node).start();
    node.unplug();
    let config = gateway.config().display().to_string();
    let words = ["rpi1", "SHA256:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", "-c", &config]
        .map(str::to_owned);
    let said = accept(&words).expect_code(1);
    assert!(said.stderr.contains("rpi1") && said.stderr.contains("cannot connect"), "{said:?}");
}

#[test]
fn a_device_with_a_login_of_its_own_is_known_from_its_first_login_on() {
    let testbed = Testbed::new();
    testbed.write("known_hosts", "");
    let mut camera = testbed.sshd_off("camera1");
    camera.add_login("pi");
    camera.start();
    let mut gateway =
        testbed.gateway().node_with(&camera, "host_key_policy = \"accept-new\"").start();
    let login = |gateway: &Gateway| {
        gateway.ssh("pi.camera1").command("echo $(id -un) on $(hostname)").run()
    };
    login(&gateway).expect_success().expect_stdout("pi on camera1\n").expect_stderr("");
    let here = testbed.path("copied").display().to_string();
    let copied = gateway.scp("pi.camera1", &["REMOTE:/etc/hostname", &here]);
    copied.run().expect_success();
    assert_eq!(testbed.read("copied"), "camera1\n");
    let default = gateway.ssh("camera1").command("id -un").run();
    default.expect_success().expect_stdout("root\n");
    let nobody = gateway.ssh("ghost.camera1").command("id -un").run().expect_code(255);
    nobody.expect_one_gateway_line().expect_stderr_with(&["camera1", "key for ghost"]);

    // The key is the gateway's to keep: in its state, not in the file of another program.
    assert_eq!(testbed.read("known_hosts"), "");
    let kept = testbed.read("state/known_hosts");
    let key = testbed.read("node_host_key.pub");
    let key = key.split(' ').nth(1).unwrap();
    assert_eq!(kept.trim(), format!("camera1 ssh-ed25519 {key}"));
    assert_eq!(gateway.stop(), Some(0));
    gateway.restart();
    login(&gateway).expect_success();

    change_host_key(&testbed, &mut camera, "second");
    let refused = login(&gateway).expect_code(255).expect_one_gateway_line();
    assert!(refused.stderr.contains("HOST KEY HAS CHANGED"), "{refused:?}");
    let recorded = format!("{}:", testbed.path("state/known_hosts").display());
    assert!(refused.stderr.contains(&recorded), "{refused:?}");
    let command = command_shown(&refused);
    assert_eq!(command[0], "camera1");
    accept(&command).expect_success();
    login(&gateway).expect_success().expect_stdout("pi on camera1\n").expect_stderr("");
}
