//! An image for another CPU: programs of Debian for arm64, run through qemu.

#![allow(clippy::unwrap_used, reason = "a set-up that fails fails the test")]

mod support;

use support::{Engine, Gateway, Testbed, eventually};

const EMULATOR: &str = "/proc/sys/fs/binfmt_misc/qemu-aarch64";

/// Whether the kernel runs such programs here.
fn is_emulated() -> bool {
    let is_emulated = std::fs::exists(EMULATOR).unwrap();
    if !is_emulated {
        eprintln!("skipped: no {EMULATOR}; run the tests with `make test`");
    }
    is_emulated
}

fn gateway(testbed: &Testbed, engine: &Engine) -> Gateway {
    testbed.gateway().engine(engine).start()
}

#[test]
fn a_shell_for_another_cpu_runs_and_says_so_once() {
    if !is_emulated() {
        return;
    }
    let testbed = Testbed::new();
    let engine = Engine::shared();
    let image = engine.debian_image("guest", "arm64", "arm64");
    let gateway = gateway(&testbed, &engine);

    let note = format!("Note: image {} is for arm64; it runs under CPU emulation", image.name());
    let mut terminal = gateway.login(&image.user());
    terminal.expect(&note);
    terminal.expect("Note: this is a limited virtual environment");
    terminal.expect("# ");
    terminal.send("uname -m; stty size; exit\r");
    terminal.expect("\naarch64\r\n24 80\r\n");
    terminal.expect("was not changed: nothing to save.");
    assert_eq!(terminal.wait(), Some(0));
    assert_eq!(terminal.screen().matches(&note).count(), 1);
    eventually("no container is left", || !image.has_containers());
}

#[test]
fn commands_and_files_are_saved_as_an_image_for_the_same_cpu() {
    if !is_emulated() {
        return;
    }
    let testbed = Testbed::new();
    let engine = Engine::shared();
    let image = engine.debian_image("guest", "arm64", "arm64");
    let gateway = gateway(&testbed, &engine);
    let own = image.owned_by("guest");

    let command = "uname -m; cat; echo changed >/etc/motd";
    let said = gateway.ssh(&image.user()).command(command).stdin("input").run();
    let said = said.expect_success().expect_stdout("aarch64\ninput");
    assert_eq!(said.stderr.matches("CPU emulation").count(), 1, "{said:?}");
    assert_eq!(engine.architecture(&own), "arm64");

    let sent = testbed.write("sent", "through scp").display().to_string();
    let back = testbed.path("back").display().to_string();
    gateway.scp(&image.user(), &[&sent, "REMOTE:sent"]).run().expect_success();
    gateway.scp(&image.user(), &["REMOTE:sent", &back]).run().expect_success();
    assert_eq!(testbed.read("back"), "through scp");
    assert_eq!(engine.architecture(&own), "arm64");
    let said = gateway.ssh(&image.user()).command("cat /etc/motd sent; exit 3").run();
    said.expect_code(3).expect_stdout("changed\nthrough scp");
}
