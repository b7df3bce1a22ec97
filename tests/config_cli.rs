//! `waltgate check` and `waltgate hash-password`.

#![allow(clippy::unwrap_used, reason = "a set-up that fails fails the test")]

mod support;

use std::net::TcpStream;

use support::gateway::{WALTGATE, hash_password, waltgate};
use support::{Finished, Testbed};

fn check(testbed: &Testbed, toml: &str) -> Finished {
    let path = testbed.write("waltgate.toml", toml);
    waltgate(&["check", "-c", path.to_str().unwrap()], b"")
}

#[test]
fn check_names_file_line_and_key_of_a_typo_and_suggests_the_right_one() {
    let testbed = Testbed::new();
    let said =
        check(&testbed, "[server]\nlisten = [\"127.0.0.1:0\"]\n\n[limits]\nmax_startup = 5\n");
    said.expect_code(1).expect_stderr_with(&["waltgate.toml", "5", "max_startup", "max_startups"]);
}

#[test]
fn check_reports_everything_at_once() {
    let testbed = Testbed::new();
    let said = check(
        &testbed,
        "[server]\nlisten = [\"nowhere\"]\n\n[limits]\nmax_startups = -1\n\n\
         [nodes.rpi1]\naddress = \"127.0.0.1\"\nboot_mod = \"network\"\n",
    );
    said.expect_code(1).expect_stderr_with(&["listen", "max_startups", "boot_mod"]);
}

#[test]
fn check_tries_what_the_file_says_also_when_other_parts_of_it_are_wrong() {
    let testbed = Testbed::new();
    let (node, camera) = (testbed.sshd_off("rpi1"), testbed.sshd_off("camera1"));
    let missing = testbed.path("no_such_key");
    testbed.write("ca.pub", "");
    let path = testbed
        .gateway()
        .limits("max_startup = 5")
        .auth(&format!("trusted_user_ca = {:?}", testbed.path("ca.pub")))
        .node_with(&node, &format!("identity = {missing:?}"))
        .node_with(&camera, "identity = \"/nonexistent/other_key\"\nboot_mod = \"network\"")
        .tables("[engine]\nkind = \"docker\"\nsocket = \"unix:///nonexistent/docker.sock\"")
        .tables("[walt]\napi = \"https://127.0.0.1:1/api/v1\"")
        .write("127.0.0.1:0");
    let said = waltgate(&["check", "-c", path.to_str().unwrap()], b"").expect_code(1);
    let said = said.expect_stderr_with(&[
        "max_startup: unknown key",
        "boot_mod: unknown key",
        "[walt] api",
        "no_such_key",
        "ca.pub holds no usable public key",
        "/nonexistent/docker.sock",
    ]);
    assert!(!said.stderr.contains("other_key"), "of a node with a mistake: {said:?}");
    assert!(said.text().contains("note: [walt] api is not tried, as [walt] is wrong"), "{said:?}");

    // Where values are not what is meant, what is wrong with them says nothing.
    let path = testbed.gateway().tables("[engine]\nkynd = \"docker\"").write("127.0.0.1:0");
    let said = waltgate(&["check", "-c", path.to_str().unwrap()], b"").expect_code(1);
    assert_eq!(said.stderr.lines().count(), 2, "and the missing directory of keys: {said:?}");
    assert!(said.text().contains("ok: [server] host_keys"), "{said:?}");
    assert!(said.text().contains("note: [engine] is not tried, as [engine] is wrong"), "{said:?}");
}

#[test]
fn check_reports_an_engine_a_key_and_an_inventory_that_do_not_work() {
    let testbed = Testbed::new();
    let node = testbed.sshd_off("rpi1");
    let missing = testbed.path("no_such_key");
    let path = testbed
        .gateway()
        .node_with(&node, &format!("identity = {missing:?}"))
        .tables("[engine]\nkind = \"docker\"\nsocket = \"unix:///nonexistent/docker.sock\"")
        .tables("[walt]\napi = \"http://127.0.0.1:1/api/v1\"")
        .write("127.0.0.1:0");

    let said = waltgate(&["check", "-c", path.to_str().unwrap()], b"");
    said.expect_code(1).expect_stderr_with(&[
        "/nonexistent/docker.sock",
        "no_such_key",
        "[walt] api",
    ]);
}

#[test]
fn check_says_which_engine_runs_containers_and_what_it_lacks_and_makes_nothing() {
    let testbed = Testbed::new();
    let path = testbed.gateway().tables("[engine]\nkind = \"embedded\"").write("127.0.0.1:0");
    let mut check = std::process::Command::new(WALTGATE);
    // No program is found there.
    let output = check.args(["check", "-c"]).arg(path).env("PATH", "/nonexistent").output();
    let said = String::from_utf8(output.unwrap().stdout).unwrap();
    let engine = testbed.path("state/engine");
    let expected = format!("ok: [engine]: the embedded engine, in {}\n", engine.display());
    assert!(said.contains(&expected), "{said}");
    assert!(said.contains("note: [engine]: containers have no network; the package slirp4netns"));
    assert!(!testbed.path("state").exists());
}

#[test]
fn a_configuration_that_is_wrong_does_not_start() {
    let testbed = Testbed::new();
    let path = testbed.write("waltgate.toml", "[server]\nlistens = [\"127.0.0.1:0\"]\n");
    let said = waltgate(&["serve", "-c", path.to_str().unwrap()], b"");
    assert_ne!(said.code, Some(0));
    said.expect_stderr_with(&["listens", "listen"]);
}

#[test]
fn a_configuration_file_that_is_missing_is_named() {
    let said = waltgate(&["serve", "-c", "/nonexistent/waltgate.toml"], b"");
    assert_ne!(said.code, Some(0));
    said.expect_stderr_with(&["/nonexistent/waltgate.toml"]);
}

#[test]
fn an_address_in_use_is_named() {
    let testbed = Testbed::new();
    let gateway = testbed.gateway().start();
    let other = Testbed::new();
    let path = other.gateway().write(&gateway.address().to_string());
    let said = waltgate(&["serve", "-c", path.to_str().unwrap()], b"");
    assert_ne!(said.code, Some(0));
    said.expect_stderr_with(&[&gateway.address().to_string()]);
    assert!(TcpStream::connect(gateway.address()).is_ok());
}

#[test]
fn hashes_are_argon2id_and_salted() {
    let [first, second] = [hash_password("secret"), hash_password("secret")];
    assert!(first.starts_with("$argon2id$v=19$"), "{first}");
    assert_ne!(first, second);
}

#[test]
fn an_empty_password_is_not_hashed() {
    let said = waltgate(&["hash-password"], b"\n");
    assert_ne!(said.code, Some(0));
    said.expect_stdout("").expect_stderr_with(&["empty"]);
}

#[test]
fn a_password_of_two_lines_is_refused_rather_than_cut() {
    let said = waltgate(&["hash-password"], b"secret\nsecret2\n");
    assert_ne!(said.code, Some(0));
    said.expect_stdout("").expect_stderr_with(&["one line"]);
}
