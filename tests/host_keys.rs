//! A node whose host key changed, and the administrator's answer to it.

#![allow(clippy::unwrap_used, reason = "a set-up that fails fails the test")]

mod support;

use support::gateway::waltgate;
use support::{Finished, Node, Testbed};

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
