//! A Debian image whose operating system is systemd, started and stopped by WalT's two scripts.

#![allow(clippy::unwrap_used, reason = "a set-up that fails fails the test")]

mod support;

use support::{Engine, Gateway, Image, Terminal, Testbed, eventually};

const OS_NOTE: &str = "Note: the OS was started in a virtual environment.";

fn image(engine: &Engine) -> Image<'_> {
    engine.debian_image("guest", "systemd", host_architecture())
}

/// In Go's words.
fn host_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn gateway(testbed: &Testbed, engine: &Engine) -> Gateway {
    testbed.gateway().engine(engine).start()
}

/// Logs in, to a shell that writes no history.
fn login(gateway: &Gateway, image: &Image<'_>) -> Terminal {
    let mut terminal = gateway.login(&image.user());
    terminal.expect(OS_NOTE);
    prepare(&mut terminal);
    terminal
}

fn prepare(terminal: &mut Terminal) {
    terminal.expect("# ");
    // Nor does it tell the terminal about pasting.
    terminal.send("unset HISTFILE; bind 'set enable-bracketed-paste off'; PS1='rea''dy> '\r");
    terminal.expect("ready> ");
}

/// Runs a command, whose output is not looked at.
fn work(terminal: &mut Terminal, command: &str) {
    terminal.send(format!("({command}) && echo do''ne\r"));
    terminal.expect("\ndone\r\n");
    terminal.expect("ready> ");
}

/// Ends a shell in whose container nothing was changed.
#[track_caller]
fn expect_nothing_to_save(mut terminal: Terminal, image: &Image<'_>) {
    terminal.send("exit\r");
    terminal.expect(&format!("Image {} was not changed: nothing to save.", image.name()));
    assert_eq!(terminal.wait(), Some(0));
    assert!(!terminal.screen().contains("Warning"), "{}", terminal.screen());
    eventually("no container is left", || !image.has_containers());
}

/// Ends a shell, and overwrites the image with what was changed.
#[track_caller]
fn save(mut terminal: Terminal, image: &Image<'_>) {
    terminal.send("exit\r");
    terminal.expect("Enter");
    terminal.send("\r");
    terminal.expect("y/n");
    terminal.send("y\r");
    terminal.expect(&format!("Image {} updated.", image.name()));
    assert_eq!(terminal.wait(), Some(0));
    assert!(!terminal.screen().contains("Warning"), "{}", terminal.screen());
}

#[test]
fn all_services_run_at_the_prompt_and_a_boot_alone_changes_nothing() {
    let testbed = Testbed::new();
    let engine = Engine::shared();
    let image = image(&engine);
    let gateway = gateway(&testbed, &engine);

    let mut terminal = login(&gateway, &image);
    terminal.send("systemctl is-system-running; cat /run/greeter /proc/1/comm\r");
    terminal.expect("\nrunning\r\ngreetings\r\nsystemd\r\n");
    expect_nothing_to_save(terminal, &image);
}

#[test]
fn what_a_user_of_systemd_changes_is_saved_and_nothing_else() {
    let testbed = Testbed::new();
    let engine = Engine::shared();
    let image = image(&engine);
    let gateway = gateway(&testbed, &engine);
    let own = image.owned_by("guest");

    let mut terminal = login(&gateway, &image);
    work(&mut terminal, "echo changed >/etc/motd");
    work(&mut terminal, "systemctl enable extra.service");
    work(&mut terminal, "groupadd colleagues");
    // A halt in good order runs what a service has for its end.
    work(&mut terminal, "systemd-run -q -p ExecStop='/bin/touch /etc/halted' sleep 1000");
    save(terminal, &image);
    let unit = "etc/systemd/system/multi-user.target.wants/extra.service";
    let expected = [
        "etc",
        "etc/group",
        "etc/group-",
        "etc/gshadow",
        "etc/gshadow-",
        "etc/halted",
        "etc/motd",
        "etc/systemd",
        "etc/systemd/system",
        "etc/systemd/system/multi-user.target.wants",
        unit,
    ];
    assert_eq!(engine.last_layer(&own), expected);
    // The shutdown script put it back.
    assert!(image.file_in(&own, "/etc/network/interfaces").contains("auto lo"));
    assert!(!engine.has_file(&own, "/etc/network/interfaces.saved"));

    let mut terminal = login(&gateway, &image);
    terminal.send("systemctl is-active extra.service; cat /run/extra; getent group colleagues\r");
    terminal.expect("\nactive\r\nextra\r\ncolleagues:");
    expect_nothing_to_save(terminal, &image);
}

#[test]
fn a_command_of_the_same_connection_runs_in_the_same_system() {
    let testbed = Testbed::new();
    let engine = Engine::shared();
    let image = image(&engine);
    let gateway = gateway(&testbed, &engine);
    let control = format!("ControlPath={}", testbed.path("mux").display());

    let master = ["-tt", "-o", "ControlMaster=yes", "-o", &control];
    let mut terminal = gateway.ssh(&image.user()).option(&master).on_terminal();
    terminal.expect(OS_NOTE);
    prepare(&mut terminal);
    let sibling = gateway.ssh(&image.user()).option(&["-o", &control]);
    let said = sibling.command("cat /proc/1/comm; touch /run/sibling").run();
    said.expect_success().expect_stdout("systemd\n");
    work(&mut terminal, "ls /run/sibling");
    expect_nothing_to_save(terminal, &image);
}

#[test]
fn a_system_whose_client_vanished_boots_again_with_its_changes() {
    let testbed = Testbed::new();
    let engine = Engine::shared();
    let image = image(&engine);
    let gateway = gateway(&testbed, &engine);

    let mut terminal = login(&gateway, &image);
    work(&mut terminal, "systemctl enable extra.service");
    terminal.kill();
    let unsaved = || gateway.ssh("walt").command("unsaved").run().expect_success().text();
    eventually("the changes are listed", || unsaved().contains(image.name()));

    let mut terminal = gateway.login(&image.user());
    terminal.expect("You have unsaved changes");
    terminal.send("r\r");
    terminal.expect(OS_NOTE);
    prepare(&mut terminal);
    terminal.send("systemctl is-system-running; cat /run/extra\r");
    terminal.expect("\nrunning\r\nextra\r\n");
    save(terminal, &image);
    let wants = "etc/systemd/system/multi-user.target.wants";
    let unit = format!("{wants}/extra.service");
    let expected = ["etc", "etc/systemd", "etc/systemd/system", wants, &unit];
    assert_eq!(engine.last_layer(&image.owned_by("guest")), expected);
}
