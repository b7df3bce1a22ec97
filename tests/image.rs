//! Shells and commands in containers of images, on a real engine.

#![allow(clippy::unwrap_used, reason = "a set-up that fails fails the test")]

mod support;

use support::{Engine, Gateway, Image, Terminal, Testbed, WaltApi, eventually};

const LIMITED_NOTE: &str =
    "Note: this is a limited virtual environment (with just the shell process).";
const OS_NOTE: &str = "Note: the OS was started in a virtual environment.";

fn gateway(testbed: &Testbed, engine: &Engine) -> Gateway {
    testbed.gateway().engine(engine).start()
}

#[track_caller]
fn expect_no_container(image: &Image<'_>) {
    eventually("no container is left", || !image.has_containers());
}

/// Ends the shell, so that the save dialogue comes.
fn leave(terminal: &mut Terminal) {
    terminal.send("exit\r");
}

#[test]
fn a_limited_image_runs_just_the_shell() {
    let testbed = Testbed::new();
    let engine = Engine::connect();
    let image = engine.image("guest", "limited");
    let gateway = gateway(&testbed, &engine);

    let mut terminal = gateway.login(&image.user());
    terminal.expect(LIMITED_NOTE);
    terminal.expect("# ");
    terminal.send("hostname; pwd; echo $TERM; stty size; cat /proc/1/comm\r");
    terminal.expect("\nimage-shell\r\n/root\r\nxterm\r\n24 80\r\nsh\r\n");
    terminal.resize(100, 30);
    // What is typed may arrive before the new size.
    terminal.send("until [ \"$(stty size)\" = '30 100' ]; do sleep 0.1; done; echo re''sized\r");
    terminal.expect("resized");
    leave(&mut terminal);
    // Nothing was changed, so there is nothing to ask.
    terminal.wait();
    expect_no_container(&image);
}

#[test]
fn an_image_with_an_init_starts_its_operating_system() {
    let testbed = Testbed::new();
    let engine = Engine::connect();
    let image = engine.image("guest", "os");
    let gateway = gateway(&testbed, &engine);

    let mut terminal = gateway.login(&image.user());
    terminal.expect(OS_NOTE);
    terminal.expect("# ");
    terminal.send("cat /proc/1/comm /run/booted\r");
    terminal.expect("\ninit\r\nbooted\r\n");
    leave(&mut terminal);
    terminal.wait();
    expect_no_container(&image);
}

#[test]
fn a_command_has_its_own_input_output_error_and_status() {
    let testbed = Testbed::new();
    let engine = Engine::connect();
    let image = engine.image("guest", "limited");
    let gateway = gateway(&testbed, &engine);
    let data: Vec<u8> = (0..=255).cycle().take(100_000).collect();

    let said = gateway.ssh(&image.user()).command("cat; echo err >&2; exit 3").stdin(&data).run();
    let said = said.expect_code(3);
    assert!(said.stdout == data, "{} bytes came back", said.stdout.len());
    assert!(said.stderr.starts_with("err\n"), "{said:?}");
    expect_no_container(&image);
}

#[test]
fn ctrl_c_interrupts_the_program_not_the_shell() {
    let testbed = Testbed::new();
    let engine = Engine::connect();
    let image = engine.image("guest", "limited");
    let gateway = gateway(&testbed, &engine);

    let mut terminal = gateway.login(&image.user());
    terminal.expect("# ");
    // A program of its own: between two commands the shell itself may get the signal.
    terminal.send("sh -c 'echo asleep; exec sleep 1000'\r");
    terminal.expect("\nasleep");
    terminal.send("\x03");
    terminal.expect("# ");
    terminal.send("echo code $?\r");
    terminal.expect("code 130");
    leave(&mut terminal);
    terminal.wait();
}

#[test]
fn the_lobby_lists_the_images_that_an_account_may_use_and_the_nodes_that_boot_them() {
    let testbed = Testbed::new();
    let engine = Engine::connect();
    let own = engine.image("guest", "limited");
    let shared = engine.image("waltplatform", "limited");
    let anothers = engine.image("bob", "limited");
    let walt = WaltApi::start();
    let fullname = |owner: &str, image: &Image<'_>| format!("{owner}/{}:latest", image.name());
    walt.add_image(&fullname("guest", &own), "1", true);
    walt.add_node("rpi1", "127.0.0.1", &fullname("guest", &own), true);
    walt.add_node("rpi2", "127.0.0.2", &fullname("guest", &own), true);
    let gateway = testbed
        .gateway()
        .engine(&engine)
        .tables(&format!("{}\n[accounts.eve]\nallow = [\"walt\", \"image.bob.*\"]", walt.table()))
        .start();
    let listed = |account: &str| {
        let said = gateway.ssh(&format!("{account}+walt")).command("images").run();
        let text = said.expect_success().text();
        let lines = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "));
        lines.collect::<Vec<_>>()
    };
    let its_name = |image: &Image<'_>| format!("image.{}", image.name());
    let of_bob = format!("image.bob.{}", anothers.name());

    let seen = listed("guest");
    assert!(seen.contains(&format!("{} rpi1 rpi2", its_name(&own))), "{seen:?}");
    assert!(seen.contains(&its_name(&shared)) && seen.contains(&of_bob), "{seen:?}");
    assert!(listed("bob").contains(&its_name(&anothers)));
    let seen = listed("eve");
    assert!(seen.contains(&of_bob), "{seen:?}");
    assert!(seen.iter().all(|line| line.starts_with("image.bob.")), "{seen:?}");

    let said = gateway.ssh("image.there-is-no-such-image").command("true").run();
    said.expect_stderr_with(&[
        "no image named there-is-no-such-image",
        "\"ssh walt@... images\" lists the images",
    ]);
}

#[test]
fn enter_overwrites_ones_own_image_after_a_confirmation() {
    let testbed = Testbed::new();
    let engine = Engine::connect();
    let image = engine.image_with(
        "guest",
        "limited",
        &["ENV COLOUR=blue", "WORKDIR /tmp", "ENTRYPOINT [\"/bin/sh\"]", "LABEL some=label"],
    );
    let gateway = gateway(&testbed, &engine);
    let own = image.owned_by("guest");
    let configuration = || {
        let all = engine.configuration(&own);
        ["Env", "Entrypoint", "Cmd", "Labels", "WorkingDir", "User", "Hostname"]
            .map(|key| all.get(key).cloned().unwrap_or_default())
    };
    let before = configuration();

    let mut terminal = gateway.login(&image.user());
    terminal.expect("# ");
    terminal.send("echo changed >/etc/motto\r");
    terminal.expect("# ");
    leave(&mut terminal);
    terminal.expect("Enter");
    terminal.send("\r");
    terminal.expect("y/n");
    terminal.send("y\r");
    terminal.expect(&format!("Image {} updated.", image.name()));
    assert_eq!(terminal.wait(), Some(0));
    assert_eq!(image.file_in(&own, "/etc/motto"), "changed");
    // Only files change.
    assert_eq!(configuration(), before);
    expect_no_container(&image);
}

#[test]
fn a_new_name_makes_a_new_image_and_a_taken_or_bad_one_is_asked_again() {
    let testbed = Testbed::new();
    let engine = Engine::connect();
    let image = engine.image("guest", "limited");
    let taken = engine.image("guest", "limited");
    let gateway = gateway(&testbed, &engine);
    let new_name = format!("{}-new", image.name());
    let new = format!("guest/{new_name}");

    let mut terminal = gateway.login(&image.user());
    terminal.expect("# ");
    terminal.send("echo changed >/etc/motto\r");
    terminal.expect("# ");
    leave(&mut terminal);
    terminal.expect("Enter");
    for refused in [taken.name(), "Not A Name", "default"] {
        terminal.send(format!("{refused}\r"));
        terminal.expect("Enter");
    }
    terminal.send(format!("{new_name}\r"));
    terminal.expect(&format!("New image {new_name} saved."));
    assert_eq!(terminal.wait(), Some(0));
    assert_eq!(image.file_in(&new, "/etc/motto"), "changed");
    assert!(!engine.has_file(&image.owned_by("guest"), "/etc/motto"));
    expect_no_container(&image);
    engine.remove_image(&new);
}

#[test]
fn input_that_has_ended_answers_no_question_and_waits_for_none() {
    let testbed = Testbed::new();
    let engine = Engine::connect();
    let image = engine.image("guest", "limited");
    let gateway = gateway(&testbed, &engine);
    let typed = "touch /root/changed; exit 3\n";
    let said = gateway.ssh(&image.user()).option(&["-tt"]).stdin(typed).run().expect_code(3);
    assert!(said.text().contains("was not saved"), "{said:?}");
    expect_no_container(&image);
}

#[test]
fn ctrl_c_at_the_question_discards_the_changes() {
    let testbed = Testbed::new();
    let engine = Engine::connect();
    let image = engine.image("guest", "limited");
    let gateway = gateway(&testbed, &engine);
    let own = image.owned_by("guest");
    let id = || engine.image_id(&own);
    let before = id();

    let mut terminal = gateway.login(&image.user());
    terminal.expect("# ");
    terminal.send("echo changed >/etc/motto\r");
    terminal.expect("# ");
    leave(&mut terminal);
    terminal.expect("Enter");
    terminal.send("\x03");
    terminal.wait();
    assert_eq!(id(), before);
    expect_no_container(&image);
}

#[test]
fn a_command_that_succeeds_saves_what_it_changed_and_one_that_fails_does_not() {
    let testbed = Testbed::new();
    let engine = Engine::connect();
    let image = engine.image("guest", "limited");
    let gateway = gateway(&testbed, &engine);
    let own = image.owned_by("guest");

    let run = |command: &str| gateway.ssh(&image.user()).command(command).run();
    run("echo saved >/etc/motto").expect_success();
    assert_eq!(image.file_in(&own, "/etc/motto"), "saved");
    run("echo lost >/etc/motto; exit 1").expect_code(1);
    assert_eq!(image.file_in(&own, "/etc/motto"), "saved");
    run("cat /etc/motto").expect_success().expect_stdout("saved\n");
    expect_no_container(&image);
}

#[test]
fn an_image_of_the_platform_is_cloned_by_a_save() {
    let testbed = Testbed::new();
    let engine = Engine::connect();
    let image = engine.image("waltplatform", "limited");
    let gateway = gateway(&testbed, &engine);
    let id = || engine.image_id(&image.owned_by("waltplatform"));
    let before = id();

    gateway.ssh(&image.user()).command("echo mine >/etc/motto").run().expect_success();
    assert_eq!(id(), before);
    assert_eq!(image.file_in(&image.owned_by("guest"), "/etc/motto"), "mine");
    // From now on the name means the account's own.
    gateway.ssh(&image.user()).command("cat /etc/motto").run().expect_stdout("mine\n");
}

#[test]
fn no_container_is_left_after_a_disconnect() {
    let testbed = Testbed::new();
    let engine = Engine::connect();
    let image = engine.image("guest", "limited");
    let gateway = gateway(&testbed, &engine);

    let mut terminal = gateway.login(&image.user());
    terminal.expect("# ");
    let session = gateway.ssh(&image.user()).command("echo ready; sleep 1000").start();
    session.expect_stdout("ready");
    assert!(image.has_containers());
    terminal.kill();
    session.kill();
    expect_no_container(&image);
}

#[test]
fn no_container_is_left_after_a_stop() {
    let testbed = Testbed::new();
    let engine = Engine::connect();
    let image = engine.image("guest", "limited");
    let gateway = gateway(&testbed, &engine);

    let session = gateway.ssh(&image.user()).command("echo ready; sleep 1000").start();
    session.expect_stdout("ready");
    assert_eq!(gateway.stop(), Some(0));
    assert!(!image.has_containers());
}

#[test]
fn a_killed_gateways_containers_are_reaped_when_it_starts_again() {
    let testbed = Testbed::new();
    let engine = Engine::connect();
    let image = engine.image("guest", "limited");
    let mut gateway = gateway(&testbed, &engine);

    let session = gateway.ssh(&image.user()).command("echo ready; sleep 1000").start();
    session.expect_stdout("ready");
    gateway.kill();
    assert!(image.has_containers());
    gateway.restart();
    expect_no_container(&image);
    gateway.ssh(&image.user()).command("echo alive").run().expect_stdout("alive\n");
}

#[test]
fn a_container_that_dies_is_reported() {
    let testbed = Testbed::new();
    let engine = Engine::connect();
    let image = engine.image("guest", "limited");
    let gateway = gateway(&testbed, &engine);

    let session = gateway.ssh(&image.user()).command("echo ready; sleep 1000").start();
    session.expect_stdout("ready");
    for container in engine.containers_of(&image) {
        engine.remove_container(&container);
    }
    let said = session.finish();
    assert_ne!(said.code, Some(0), "{said:?}");
    said.expect_stderr_with(&["waltgate: ", image.name()]);
    gateway.ssh(&image.user()).command("echo alive").run().expect_stdout("alive\n");
}

#[test]
fn an_unknown_image_names_the_closest_ones() {
    let testbed = Testbed::new();
    let engine = Engine::connect();
    let image = engine.image("guest", "limited");
    let gateway = gateway(&testbed, &engine);

    let said = gateway.ssh(&format!("{}x", image.user())).command("true").run();
    said.expect_code(255).expect_stderr_with(&["waltgate: ", image.name()]);
}

#[test]
fn an_engine_that_does_not_answer_is_reported_with_69() {
    let testbed = Testbed::new();
    let gateway = testbed
        .gateway()
        .tables("[engine]\nkind = \"docker\"\nsocket = \"unix:///nonexistent/docker.sock\"")
        .start();

    let said = gateway.ssh("image.pc-x86-64-default").command("true").run();
    said.expect_code(69).expect_one_gateway_line();
}

#[test]
fn an_image_without_a_shell_is_reported() {
    let testbed = Testbed::new();
    let engine = Engine::connect();
    let empty = testbed.path("empty.tar");
    testbed.write("motd", "there is nothing else");
    let mut tar = std::process::Command::new("tar");
    support::process::run_tool(
        tar.arg("-C").arg(testbed.path("")).arg("-cf").arg(&empty).arg("motd"),
    );
    let name = format!("empty-{}", std::process::id());
    let reference = format!("guest/{name}");
    engine.import(&empty, &reference);
    let gateway = gateway(&testbed, &engine);

    let said = gateway.ssh(&format!("image.{name}")).command("true").run();
    engine.remove_image(&reference);
    assert_ne!(said.code, Some(0), "{said:?}");
    said.expect_one_gateway_line().expect_stderr_with(&[&name, "/bin/sh"]);
}

#[test]
fn who_writes_much_is_warned_also_within_a_program_that_has_the_whole_screen() {
    let testbed = Testbed::new();
    let engine = Engine::connect();
    let image = engine.image("guest", "limited");
    let tables = "[image_defaults]\ndisk = \"10M\"";
    let gateway = testbed.gateway().engine(&engine).tables(tables).start();
    let write = "dd if=/dev/zero of=/root/much bs=1M count=9 2>/dev/null";
    let warning = "waltgate: ";
    let warning_end = " MB of 10.4 MB on disk are used; past that, all programs are ended";

    let login = || {
        let discard = ["-o", "SetEnv=WALTGATE_SAVE_AS=discard"];
        gateway.ssh(&image.user()).option(&discard).on_terminal()
    };
    let mut terminal = login();
    terminal.expect("# ");
    terminal.send(format!("{write}\r"));
    terminal.expect(&format!("\r\n{warning}"));
    terminal.expect(&format!("{warning_end}\r\n"));
    terminal.send("rm /root/much; exit\r");
    terminal.wait();

    let mut terminal = login();
    terminal.expect("# ");
    terminal.send(format!("printf '\\033[?1049h'; {write}\r"));
    terminal.expect(&format!("\x1b7\x1b[999;1H\x1b[0;7m{warning}"));
    terminal.expect(&format!("{warning_end}\x1b[0m\x1b[K\x1b8"));
    terminal.send("rm /root/much; exit\r");
    terminal.wait();

    let command = format!("{write}; read go; rm /root/much");
    let mut session = gateway.ssh(&image.user()).command(&command).start();
    session.expect_stderr(warning);
    session.expect_stderr(warning_end);
    session.send("go\n");
    session.finish().expect_success().expect_stdout("");
    expect_no_container(&image);
}
