//! Image targets against a real container engine: the part of the conformance suite that every
//! engine passes which is about sessions and saves. `support_engine/selection.rs` says which.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support_engine;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use support_engine::*;
use tokio::task::JoinSet;
use tokio::time::timeout;
use waltgate::backend::image::engine::{ContainerSpec, ExecSpec, Lack, Limit};
use waltgate::backend::image::{ImageBackend, ImageError};
use waltgate::backend::{
    BackendError, ExitStatus, Program, SessionEnd, SessionRequest, WindowSize,
};
use waltgate::config::{ContainerNetwork, OnCommandSuccess};

const OK: Option<ExitStatus> = Some(ExitStatus::Code(0));

#[tokio::test]
async fn a_shell_is_process_1_on_a_terminal_of_the_clients_size() {
    let bench = Bench::new();
    bench.image("pc", Kind::Limited);
    let attachment = bench.attach("pc");
    let mut console = FakeConsole::new(true, &[]);
    let mut session = attachment.start(&shell(), &mut console).await.unwrap();
    assert_eq!(
        console.seen,
        ["Note: this is a limited virtual environment (with just the shell process).", ""]
    );
    read_until(&mut session, "# ").await;
    let script = "stty size; echo me=$$ $(hostname) $PWD $TERM $LANG $COLOUR; cat /proc/cpuinfo; echo 'do''ne'\n";
    session.stdin.write(Bytes::from_static(script.as_bytes())).await.unwrap();
    let seen = read_until(&mut session, "done").await;
    assert!(seen.contains("37 91\r\n"), "{seen}");
    assert!(seen.contains("me=1 image-shell /root xterm-256color C.UTF-8 blue\r\n"), "{seen}");
    assert!(seen.contains("processor : made up\r\n"), "{seen}");

    let size = WindowSize { columns: 132, rows: 50, ..WindowSize::default() };
    session.control.window_change(size).await.unwrap();
    session.stdin.write(Bytes::from_static(b"stty size; exit 3\n")).await.unwrap();
    let outcome = drain(&mut session).await;
    assert!(outcome.text().contains("50 132\r\n"), "{}", outcome.text());
    assert_eq!(outcome.exit, Some(ExitStatus::Code(3)));
    attachment.finish(&shell(), &outcome.end(), &mut console).await.unwrap();
    assert!(console.text().ends_with("Image pc was not changed: nothing to save."));
    assert!(bench.containers().is_empty());
}

#[tokio::test]
async fn ctrl_c_interrupts_the_program_and_not_the_shell() {
    let bench = Bench::new();
    bench.image("pc", Kind::Limited);
    let attachment = bench.attach("pc");
    let mut console = FakeConsole::new(true, &[]);
    let mut session = attachment.start(&shell(), &mut console).await.unwrap();
    session
        .stdin
        .write(Bytes::from_static(b"sh -c \"echo go'i'ng; exec sleep 1000\"\n"))
        .await
        .unwrap();
    read_until(&mut session, "going").await;
    session.stdin.write(Bytes::from_static(b"\x03")).await.unwrap();
    // ctrl-C also flushes what was typed behind it.
    read_until(&mut session, "# ").await;
    session.stdin.write(Bytes::from_static(b"exit 4\n")).await.unwrap();
    assert_eq!(drain(&mut session).await.exit, Some(ExitStatus::Code(4)));
    attachment.close().await;
}

#[tokio::test]
async fn a_command_has_separate_streams_an_exit_code_and_an_end_of_input() {
    let bench = Bench::new();
    bench.image("pc", Kind::Limited);
    let attachment = bench.attach("pc");
    let (outcome, console, finished) =
        run(&attachment, &command("cat; echo oops >&2; exit 7"), "some input", &[]).await;
    assert_eq!(outcome.stdout, b"some input");
    assert_eq!(outcome.stderr, b"oops\n");
    assert_eq!(outcome.exit, Some(ExitStatus::Code(7)));
    assert_eq!(finished, Ok(()));
    assert_eq!(console.text(), "", "nothing is said about a command that changed nothing");

    let (outcome, ..) = run(&attachment, &command("kill -TERM $$"), "", &[]).await;
    assert_eq!(outcome.exit, Some(ExitStatus::Code(143)));
    assert_eq!(bench.containers().len(), 1, "an unchanged container waits for more");
    attachment.close().await;
    assert!(bench.containers().is_empty());
}

#[tokio::test]
async fn a_shell_without_a_terminal_reads_its_script_from_the_client() {
    let bench = Bench::new();
    bench.image("pc", Kind::Limited);
    let attachment = bench.attach("pc");
    let request = SessionRequest::new(Program::Shell);
    let (outcome, console, _) = run(&attachment, &request, "echo $((6*7))\nexit 5\n", &[]).await;
    assert_eq!(outcome.stdout, b"42\n");
    assert_eq!(outcome.exit, Some(ExitStatus::Code(5)));
    assert_eq!(console.text(), "");
    attachment.close().await;
}

#[tokio::test]
async fn all_byte_values_pass_both_ways_without_a_terminal() {
    let bench = Bench::new();
    bench.image("pc", Kind::Limited);
    let attachment = bench.attach("pc");
    let mut console = FakeConsole::new(false, &[]);
    let request = command("cat");
    let mut session = attachment.start(&request, &mut console).await.unwrap();
    let bytes: Vec<u8> = (0..=255).cycle().take(256 * 40).collect();
    session.stdin.write(Bytes::from(bytes.clone())).await.unwrap();
    session.stdin.eof().await.unwrap();
    let outcome = drain(&mut session).await;
    assert_eq!(outcome.stdout, bytes);
    attachment.close().await;
}

#[tokio::test]
async fn all_byte_values_pass_both_ways_on_a_raw_terminal() {
    let bench = Bench::new();
    bench.image("pc", Kind::Limited);
    let attachment = bench.attach("pc");
    // First as process 1, then beside it.
    for request in [shell(), SessionRequest { pty: Some(pty()), ..command("sh") }] {
        let mut console = FakeConsole::new(true, &[]);
        let mut session = attachment.start(&request, &mut console).await.unwrap();
        let line = b"stty raw -echo; printf rea''dy; dd bs=1 count=511 2>/dev/null; exit 0\n";
        session.stdin.write(Bytes::from_static(line)).await.unwrap();
        read_until(&mut session, "ready").await;
        // The engine holds a NUL back until it knows the next byte, so it is not the last one.
        let bytes: Vec<u8> = (0..=255).chain((1..=255).rev()).collect();
        session.stdin.write(Bytes::from(bytes.clone())).await.unwrap();
        let outcome = drain(&mut session).await;
        assert_eq!(outcome.stdout, bytes);
        assert_eq!(outcome.exit, OK);
        attachment.finish(&request, &outcome.end(), &mut console).await.unwrap();
    }
    attachment.close().await;
}

#[tokio::test]
async fn a_terminal_whose_output_begins_like_a_frame_header_is_read_as_it_is() {
    let bench = Bench::new();
    bench.image("pc", Kind::Limited);
    let attachment = bench.attach("pc");
    let request = SessionRequest {
        pty: Some(pty()),
        ..command(
            "printf '\\000\\001\\002'; sleep 1; printf '\\001\\000\\000\\000\\000\\000\\000\\001x'",
        )
    };
    let (outcome, ..) = run(&attachment, &request, "", &[]).await;
    assert_eq!(outcome.stdout, b"\x00\x01\x02\x01\0\0\0\0\0\0\x01x");
    attachment.close().await;
}

#[tokio::test]
async fn large_output_is_complete() {
    let bench = Bench::new();
    bench.image("pc", Kind::Limited);
    let attachment = bench.attach("pc");
    let request = command("dd if=/dev/zero bs=65536 count=320 2>/dev/null; echo e >&2");
    let (outcome, ..) = run(&attachment, &request, "", &[]).await;
    assert_eq!(outcome.stdout.len(), 20 << 20);
    assert_eq!(outcome.stderr, b"e\n");
    assert_eq!(outcome.exit, OK);
    attachment.close().await;
}

#[tokio::test]
async fn a_signal_reaches_the_command() {
    let bench = Bench::new();
    bench.image("pc", Kind::Limited);
    let attachment = bench.attach("pc");
    let mut console = FakeConsole::new(false, &[]);
    let request = command("trap 'echo caught; exit 9' TERM; echo ready; while :; do sleep 1; done");
    let mut session = attachment.start(&request, &mut console).await.unwrap();
    read_until(&mut session, "ready").await;
    session.control.signal("TERM").await.unwrap();
    let outcome = drain(&mut session).await;
    assert_eq!(outcome.stdout, b"caught\n");
    assert_eq!(outcome.exit, Some(ExitStatus::Code(9)));
    attachment.close().await;
}

#[tokio::test]
async fn subsystems_other_than_sftp_are_refused_in_words() {
    let bench = Bench::new();
    bench.image("pc", Kind::Limited);
    let attachment = bench.attach("pc");
    let request = SessionRequest::new(Program::Subsystem("netconf".to_owned()));
    let error = start_error(&attachment, &request).await;
    assert_eq!(error.to_string(), "images have no subsystem netconf; sftp is the only one");
    assert!(bench.containers().is_empty());
}

#[tokio::test]
async fn containers_share_a_network_where_that_is_the_hosts_only() {
    // The engine's host may be elsewhere, so two containers are asked.
    for (network, is_shared) in
        [(ContainerNetwork::Loopback, false), (ContainerNetwork::Host, true)]
    {
        let bench = Bench::with(|defaults| defaults.network = network);
        bench.image("pc", Kind::Limited);
        let ask = "readlink /proc/self/ns/net; readlink /proc/self/ns/uts; hostname; echo";
        let (first, second) = (bench.attach("pc"), bench.attach("pc"));
        let mut console = FakeConsole::new(false, &[]);
        // It stays, so that its numbers are not given away again.
        let staying = command(&format!("{ask}; cat"));
        let mut session = first.start(&staying, &mut console).await.unwrap();
        let first_says = read_until(&mut session, "\n\n").await;
        let (outcome, ..) = run(&second, &command(ask), "", &[]).await;
        let second_says = outcome.text();
        let [one, other] = [&first_says, &second_says].map(|said| {
            let lines: Vec<_> = said.split_whitespace().collect();
            <[&str; 3]>::try_from(lines).unwrap()
        });
        assert_eq!(one[0] == other[0], is_shared, "{one:?} {other:?}");
        assert_ne!(one[1], other[1], "each has a host name of its own");
        assert_eq!(one[2], "image-shell");
        session.stdin.eof().await.unwrap();
        let outcome = drain(&mut session).await;
        first.finish(&staying, &outcome.end(), &mut console).await.unwrap();
        first.close().await;
        second.close().await;
    }
}

#[tokio::test]
async fn an_operating_system_is_started_and_shut_down() {
    let bench = Bench::new();
    bench.image("pc", Kind::Os);
    let attachment = bench.attach("pc");
    let mut console = FakeConsole::new(true, &["booted"]);
    let mut session = attachment.start(&shell(), &mut console).await.unwrap();
    assert_eq!(console.seen, ["Note: the OS was started in a virtual environment.", ""]);
    session
        .stdin
        .write(Bytes::from_static(
            b"cat /proc/1/comm; stty size; until [ -e /etc/booted ]; do sleep 1; done; exit\n",
        ))
        .await
        .unwrap();
    let outcome = drain(&mut session).await;
    assert!(outcome.text().contains("init\r\n"), "{}", outcome.text());
    assert!(outcome.text().contains("37 91\r\n"), "{}", outcome.text());
    attachment.finish(&shell(), &outcome.end(), &mut console).await.unwrap();
    assert!(console.text().ends_with("New image booted saved."), "{}", console.text());
    assert!(!console.text().contains("Warning"), "{}", console.text());
    assert_eq!(bench.file("booted", "/etc/shut-down").as_deref(), Some(""));
    assert!(bench.containers().is_empty());
}

#[tokio::test]
async fn what_a_boot_writes_is_no_change_and_not_saved() {
    let bench = Bench::new();
    bench.image("pc", Kind::BootWrites);
    let attachment = bench.attach("pc");
    let (_, console, finished) = run(&attachment, &shell(), "exit\n", &[]).await;
    assert_eq!(finished, Ok(()));
    assert!(console.text().contains("was not changed: nothing to save"), "{}", console.text());

    let work = "cat /etc/boot/id /etc/motd; echo mine >/etc/boot/mine; exit\n";
    let (outcome, console, finished) = run(&attachment, &shell(), work, &["saved"]).await;
    assert_eq!(finished, Ok(()));
    assert!(outcome.text().contains("1\r\nhello\r\n2\r\n"), "{}", outcome.text());
    assert!(console.text().ends_with("New image saved saved."), "{}", console.text());
    assert_eq!(bench.file("saved", "/etc/boot/mine").as_deref(), Some("mine\n"));
    assert_eq!(bench.file("saved", "/etc/boot/id"), None);
    assert_eq!(bench.file("saved", "/etc/motd").as_deref(), Some("hello\n"));
    assert_eq!(bench.file("saved", "/etc/cpuinfo").as_deref(), Some("processor : made up\n"));
    assert_eq!(bench.file("saved", "/var/log/wtmp").as_deref(), Some(""));
}

#[tokio::test]
async fn what_a_boot_wrote_and_its_user_changed_is_saved() {
    let bench = Bench::new();
    bench.image("pc", Kind::BootWrites);
    let attachment = bench.attach("pc");
    let work = "echo 3 >/etc/boot/id; echo 4 >>/etc/motd; exit\n";
    let (_, console, finished) = run(&attachment, &shell(), work, &["saved"]).await;
    assert_eq!(finished, Ok(()), "{}", console.text());
    assert_eq!(bench.file("saved", "/etc/boot/id").as_deref(), Some("3\n"));
    assert_eq!(bench.file("saved", "/etc/motd").as_deref(), Some("hello\n2\n4\n"));
    let (_, console, finished) =
        run(&attachment, &shell(), "chmod 700 /etc; exit\n", &["mode"]).await;
    assert_eq!(finished, Ok(()), "{}", console.text());
    assert!(console.text().ends_with("New image mode saved."), "{}", console.text());
}

#[tokio::test]
async fn what_a_user_does_where_the_system_writes_too_is_a_change() {
    let bench = Bench::new();
    bench.image("pc", Kind::BootWrites);
    for (number, work) in [
        "chmod 711 /var/log",
        "mkdir -p /var/lib/systemd/timers; echo mine >/var/lib/systemd/timers/mine",
        "echo other >/etc/tuned.away",
    ]
    .into_iter()
    .enumerate()
    {
        let attachment = bench.attach("pc");
        let name = format!("saved-{number}");
        let work = format!("{work}; exit\n");
        let (_, console, finished) = run(&attachment, &shell(), &work, &[&name]).await;
        assert_eq!(finished, Ok(()), "{work}");
        let text = console.text();
        assert!(text.ends_with(&format!("New image {name} saved.")), "{work}: {text}");
    }
    assert_eq!(bench.file("saved-2", "/etc/tuned").as_deref(), Some("other\n"));
}

#[tokio::test]
async fn a_directory_whose_mode_was_changed_is_a_change_whatever_else_is_none_in_it() {
    let bench = Bench::new();
    bench.image("pc", Kind::Limited);
    let attachment = bench.attach("pc");
    let history = "echo history >/root/.ash_history; exit\n";
    let (_, console, finished) = run(&attachment, &shell(), history, &[]).await;
    assert_eq!(finished, Ok(()));
    assert!(console.text().contains("nothing to save"), "{}", console.text());

    for (name, directory) in [("home", "/root"), ("settings", "/etc")] {
        let attachment = bench.attach("pc");
        let work = format!("chmod 711 {directory}; {history}");
        let (_, console, finished) = run(&attachment, &shell(), &work, &[name]).await;
        assert_eq!(finished, Ok(()), "{directory}: {}", console.text());
        let saved = format!("New image {name} saved.");
        assert!(console.text().ends_with(&saved), "{directory}: {}", console.text());
    }
}

#[tokio::test]
async fn a_shell_whose_container_is_removed_is_lost() {
    let bench = Bench::new();
    bench.image("pc", Kind::Limited);
    let attachment = bench.attach("pc");
    let mut console = FakeConsole::new(true, &[]);
    let mut session = attachment.start(&shell(), &mut console).await.unwrap();
    session.stdin.write(Bytes::from_static(b"echo rea''dy\n")).await.unwrap();
    read_until(&mut session, "ready").await;
    let (engine, container) = (Arc::clone(&bench.engine), bench.containers().remove(0));
    // The engine inside the gateway removes it with the help of this test's own runtime.
    tokio::task::spawn_blocking(move || engine.remove_container(&container)).await.unwrap();
    let outcome = drain(&mut session).await;
    assert_eq!(outcome.exit, None, "{}", outcome.text());
    let error = attachment.finish(&shell(), &outcome.end(), &mut console).await.unwrap_err();
    assert!(error.to_string().contains("pc"), "{error}");
}

#[tokio::test]
async fn what_a_boot_wrote_is_known_to_the_next_run_of_the_gateway() {
    let bench = Bench::with(|defaults| defaults.keep_unsaved = PATIENCE);
    bench.image("pc", Kind::BootWrites);
    let attachment = bench.attach("pc");
    let mut console = FakeConsole::new(true, &[]);
    let session = attachment.start(&shell(), &mut console).await.unwrap();
    let container = bench.containers().remove(0);
    bench.engine.kill_container(&container);
    // As if the gateway had been killed too: nobody has the claim any more.
    drop((session, attachment));
    bench.restarted().reap().await.unwrap();
    // It holds no changes, or it would be kept.
    assert!(bench.containers().is_empty());
}

#[tokio::test]
async fn enter_and_a_confirmation_overwrite_the_image() {
    let bench = Bench::new();
    bench.image("pc", Kind::Limited);
    *bench.listener.nodes.lock().unwrap() = vec!["rpi1".to_owned(), "rpi2".to_owned()];
    let attachment = bench.attach("pc");
    let (_, console, finished) =
        run(&attachment, &shell(), "echo new > /root/file; exit\n", &["", "n", "", "y"]).await;
    assert_eq!(finished, Ok(()));
    let text = console.text();
    assert!(text.contains("new image name"), "{text}");
    assert!(text.contains("2 nodes boot it (rpi1, rpi2)"), "{text}");
    assert!(text.contains("Image pc updated."), "{text}");
    assert!(text.contains("walt node reboot rpi1,rpi2"), "{text}");
    assert_eq!(bench.file("pc", "/root/file").as_deref(), Some("new\n"));
    assert_eq!(bench.listener.told.load(Ordering::SeqCst), 1);
    assert!(bench.containers().is_empty());
}

#[tokio::test]
async fn a_save_changes_files_only() {
    let bench = Bench::new();
    let reference = bench.image("pc", Kind::Limited);
    let config = || bench.engine.image_config(&reference);
    let before = config();
    let text = before.to_string();
    assert!(text.contains("walt.node.models") && text.contains("COLOUR=blue"), "{text}");
    for (request, input, answers) in [
        (shell(), "rm /etc/motd; touch /root/a; exit\n", &["", "y"][..]),
        (command("touch /root/b"), "", &[]),
    ] {
        let attachment = bench.attach("pc");
        let (_, console, finished) = run(&attachment, &request, input, answers).await;
        assert_eq!(finished, Ok(()));
        assert!(console.text().contains("Image pc updated."), "{}", console.text());
        attachment.close().await;
    }
    assert_eq!(config(), before);
    assert_eq!(bench.file("pc", "/etc/motd"), None);
    assert_eq!(bench.file("pc", "/root/a").as_deref(), Some(""));
    assert_eq!(bench.file("pc", "/root/b").as_deref(), Some(""));
}

#[tokio::test]
async fn a_new_name_is_asked_again_until_it_can_be_used() {
    let bench = Bench::new();
    bench.image("pc", Kind::Limited);
    bench.image("taken", Kind::Limited);
    let attachment = bench.attach("pc");
    let answers = ["Not Valid", "default", "taken", "fresh"];
    let (_, console, finished) =
        run(&attachment, &shell(), "touch /root/file; exit\n", &answers).await;
    assert_eq!(finished, Ok(()));
    let text = console.text();
    assert!(text.contains("\"Not Valid\" is not a valid image name"), "{text}");
    assert!(text.contains("\"default\" is a reserved name."), "{text}");
    assert!(text.contains("Image taken exists already; choose another name."), "{text}");
    assert!(text.ends_with("New image fresh saved."), "{text}");
    assert_eq!(bench.file("fresh", "/root/file").as_deref(), Some(""));
    assert_eq!(bench.file("pc", "/root/file"), None);
}

#[tokio::test]
async fn ctrl_c_or_a_lost_client_saves_nothing() {
    for answers in [&["^C"][..], &["", "^C"], &[]] {
        let bench = Bench::new();
        bench.image("pc", Kind::Limited);
        let attachment = bench.attach("pc");
        let (_, console, finished) =
            run(&attachment, &shell(), "touch /root/file; exit\n", answers).await;
        assert_eq!(finished.is_err(), answers.is_empty(), "{finished:?}");
        assert!(console.text().ends_with("Image pc was not saved."), "{}", console.text());
        assert_eq!(bench.file("pc", "/root/file"), None);
        assert!(bench.containers().is_empty());
    }
}

#[tokio::test]
async fn an_image_changed_by_somebody_else_is_not_overwritten() {
    let bench = Bench::new();
    let reference = bench.image("pc", Kind::Limited);
    let (first, second) = (bench.attach("pc"), bench.attach("pc"));
    let mut console = FakeConsole::new(true, &["", "mine"]);
    let mut session = first.start(&shell(), &mut console).await.unwrap();
    session.stdin.write(Bytes::from_static(b"touch /root/first; exit\n")).await.unwrap();
    let outcome = drain(&mut session).await;

    let (_, _, finished) = run(&second, &command("touch /root/second"), "", &[]).await;
    assert_eq!(finished, Ok(()));
    let saved = bench.engine.image_id(&reference);

    first.finish(&shell(), &outcome.end(), &mut console).await.unwrap();
    assert!(console.text().contains("was changed by somebody else"), "{}", console.text());
    assert!(console.text().ends_with("New image mine saved."), "{}", console.text());
    assert_eq!(bench.engine.image_id(&reference), saved);
    assert_eq!(bench.file("mine", "/root/first").as_deref(), Some(""));
    first.close().await;
    second.close().await;
}

#[tokio::test]
async fn somebody_elses_image_is_cloned_by_the_save() {
    let (bench, owner) = (Bench::new(), Bench::new());
    owner.image("pc", Kind::Limited);
    let attachment = bench.attach_of(owner.account.as_str(), "pc");
    let (_, console, finished) =
        run(&attachment, &shell(), "echo mine > /root/file; exit\n", &["", "y"]).await;
    assert_eq!(finished, Ok(()));
    let text = console.text();
    assert!(text.contains(&format!("{}/pc is not yours", owner.account)), "{text}");
    assert!(text.ends_with("New image pc saved."), "{text}");
    assert_eq!(bench.file("pc", "/root/file").as_deref(), Some("mine\n"));
    assert_eq!(owner.file("pc", "/root/file"), None);

    // Now that a copy exists, the original's name leads to it no more.
    let attachment = bench.attach_of(owner.account.as_str(), "pc");
    let (_, _, finished) = run(&attachment, &command("touch /root/x"), "", &[]).await;
    let told = "image pc exists already: the changes are saved as pc-conflict-1 instead";
    assert_eq!(finished, Err(told.to_owned()));
    assert_eq!(bench.file("pc", "/root/x"), None);
    assert_eq!(bench.file("pc-conflict-1", "/root/x").as_deref(), Some(""));
}

#[tokio::test]
async fn a_command_that_succeeds_is_saved_and_one_that_fails_is_not() {
    let bench = Bench::new();
    bench.image("pc", Kind::Limited);
    let attachment = bench.attach("pc");
    let (outcome, console, finished) =
        run(&attachment, &command("touch /root/bad; exit 6"), "", &[]).await;
    assert_eq!(outcome.exit, Some(ExitStatus::Code(6)));
    assert_eq!(finished, Ok(()));
    assert_eq!(
        console.seen,
        ["Image pc was not saved: the command failed, its changes are discarded."]
    );
    let (_, console, finished) = run(&attachment, &command("touch /root/good"), "", &[]).await;
    assert_eq!(finished, Ok(()));
    assert_eq!(console.said(), ["Image pc updated."]);
    // The next command sees what was saved, and nothing else.
    let (outcome, console, _) = run(&attachment, &command("ls /root"), "", &[]).await;
    assert_eq!(outcome.stdout, b"good\n");
    assert_eq!(console.text(), "");
    attachment.close().await;
    assert!(bench.containers().is_empty());
}

#[tokio::test]
async fn commands_are_not_saved_where_the_configuration_says_so() {
    let bench = Bench::with(|defaults| defaults.on_command_success = OnCommandSuccess::Discard);
    bench.image("pc", Kind::Limited);
    let attachment = bench.attach("pc");
    let (_, console, finished) = run(&attachment, &command("touch /root/file"), "", &[]).await;
    assert_eq!(finished, Ok(()));
    assert!(console.text().contains("was not saved"), "{}", console.text());
    assert_eq!(bench.file("pc", "/root/file"), None);
    attachment.close().await;
}

#[tokio::test]
async fn a_walt_server_that_cannot_be_told_is_a_warning() {
    let bench = Bench::new();
    bench.image("pc", Kind::Limited);
    *bench.listener.failure.lock().unwrap() = Some("connection refused".to_owned());
    let attachment = bench.attach("pc");
    let (_, console, finished) = run(&attachment, &command("touch /root/file"), "", &[]).await;
    assert_eq!(finished, Ok(()));
    assert_eq!(console.said()[0], "Image pc updated.");
    assert!(console.said()[1].contains("connection refused"), "{}", console.text());
    attachment.close().await;
}

#[tokio::test]
async fn sessions_of_a_connection_share_a_container_that_is_saved_once() {
    let bench = Bench::new();
    bench.image("pc", Kind::Limited);
    let attachment = bench.attach("pc");
    let waits = command("touch /root/one; echo ready; read -r line; echo $line");
    let mut console = FakeConsole::new(false, &[]);
    let mut first = attachment.start(&waits, &mut console).await.unwrap();
    read_until(&mut first, "ready").await;

    let (outcome, other, finished) =
        run(&attachment, &command("ls /root; touch /root/two"), "", &[]).await;
    assert_eq!(outcome.stdout, b"one\n");
    assert_eq!(finished, Ok(()));
    assert_eq!(other.text(), "", "not the last one: nothing is saved yet");
    assert_eq!(bench.containers().len(), 1);

    // A shell beside them ends earlier: its answer stands for all.
    let (_, asked, finished) =
        run(&attachment, &shell(), "touch /root/three; exit\n", &["ours"]).await;
    assert_eq!(finished, Ok(()));
    assert!(asked.text().contains("is saved when the last of them ends"), "{}", asked.text());
    assert_eq!(bench.file("ours", "/root/one"), None);

    first.stdin.write(Bytes::from_static(b"bye\n")).await.unwrap();
    let outcome = drain(&mut first).await;
    assert_eq!(outcome.stdout, b"bye\n");
    attachment.finish(&waits, &outcome.end(), &mut console).await.unwrap();
    assert_eq!(console.said(), ["New image ours saved."]);
    for file in ["/root/one", "/root/two", "/root/three"] {
        assert_eq!(bench.file("ours", file).as_deref(), Some(""));
    }
    assert_eq!(bench.file("pc", "/root/one"), None);
    assert!(bench.containers().is_empty());
}

#[tokio::test]
async fn sessions_beside_a_first_shell_end_with_it() {
    let bench = Bench::new();
    bench.image("pc", Kind::Limited);
    let attachment = bench.attach("pc");
    let mut console = FakeConsole::new(true, &["^C"]);
    let mut first = attachment.start(&shell(), &mut console).await.unwrap();
    let beside = command("echo ready; sleep 1000");
    let mut other_console = FakeConsole::new(false, &[]);
    let mut other = attachment.start(&beside, &mut other_console).await.unwrap();
    read_until(&mut other, "ready").await;
    first.stdin.write(Bytes::from_static(b"touch /root/x; exit\n")).await.unwrap();
    let ended = drain(&mut first).await;
    assert_eq!(ended.exit, OK);
    let lost = drain(&mut other).await;
    assert_eq!(lost.exit, None);
    let error = attachment.finish(&beside, &lost.end(), &mut other_console).await.unwrap_err();
    assert!(error.to_string().contains("its first shell has ended"), "{error}");
    attachment.finish(&shell(), &ended.end(), &mut console).await.unwrap();
    assert!(console.text().ends_with("Image pc was not saved."), "{}", console.text());
    assert!(bench.containers().is_empty());
}

#[tokio::test]
async fn a_container_killed_from_outside_loses_the_session() {
    let bench = Bench::new();
    bench.image("pc", Kind::Limited);
    for request in [shell(), command("echo ready; sleep 1000")] {
        let attachment = bench.attach("pc");
        let mut console = FakeConsole::new(request.pty.is_some(), &[]);
        let mut session = attachment.start(&request, &mut console).await.unwrap();
        if request.pty.is_some() {
            read_until(&mut session, "# ").await;
        } else {
            read_until(&mut session, "ready").await;
        }
        bench.engine.kill_container(&bench.containers()[0]);
        let outcome = drain(&mut session).await;
        assert_eq!(outcome.exit, None);
        let error =
            attachment.finish(&request, &SessionEnd::BackendLost, &mut console).await.unwrap_err();
        assert!(error.to_string().contains("the container of image pc is gone"), "{error}");
        assert!(bench.containers().is_empty());
    }
}

#[tokio::test]
async fn a_container_that_ends_while_programs_start_in_it_is_gone_at_once() {
    let bench = Bench::new();
    let image = bench.image("pc", Kind::Limited);
    let engine = bench.engine.connect();
    let spec = ContainerSpec {
        image_id: engine.image(&image).await.unwrap().id,
        argv: ["/bin/sh", "-c", "read line"].map(str::to_owned).to_vec(),
        working_dir: "/".to_owned(),
        labels: [("waltgate.account".to_owned(), bench.account.to_string())].into(),
        stdin: true,
        ..ContainerSpec::default()
    };
    let program = ExecSpec {
        argv: vec!["/bin/true".to_owned()],
        working_dir: "/".to_owned(),
        ..ExecSpec::default()
    };
    for number in 0..30 {
        let name = format!("{}-{number}", bench.account);
        let container =
            engine.create(&ContainerSpec { name, ..spec.clone() }).await.expect("it is made");
        let first = engine.attach(&container, false).await.unwrap();
        engine.start(&container).await.unwrap();
        let mut starts = JoinSet::new();
        for _ in 0..8 {
            let (engine, container, program) =
                (Arc::clone(&engine), container.clone(), program.clone());
            starts.spawn(async move {
                // Some are too late, and refused.
                let exec = engine.create_exec(&container, &program).await?;
                engine.start_exec(&exec, false).await.map(drop)
            });
        }
        // One runs: the others are on their way.
        starts.join_next().await.unwrap().unwrap().unwrap();
        // Its input ends, and it with it.
        drop(first);
        let ended = timeout(PATIENCE, engine.wait(&container)).await;
        ended.expect("it ends").unwrap();
        timeout(PATIENCE, starts.join_all()).await.expect("all starts are answered");
        engine.remove(&container).await.unwrap();
    }
}

#[tokio::test]
async fn changes_survive_the_death_of_an_interactive_container() {
    let bench = Bench::new();
    bench.image("pc", Kind::Limited);
    let attachment = bench.attach("pc");
    let mut console = FakeConsole::new(true, &["rescued"]);
    let mut session = attachment.start(&shell(), &mut console).await.unwrap();
    session.stdin.write(Bytes::from_static(b"touch /root/x; echo do''ne\n")).await.unwrap();
    read_until(&mut session, "done").await;
    bench.engine.kill_container(&bench.containers()[0]);
    assert_eq!(drain(&mut session).await.exit, None);
    attachment.finish(&shell(), &SessionEnd::BackendLost, &mut console).await.unwrap();
    assert!(console.text().ends_with("New image rescued saved."), "{}", console.text());
    assert_eq!(bench.file("rescued", "/root/x").as_deref(), Some(""));
}

#[tokio::test]
async fn a_client_that_leaves_takes_its_container_with_it() {
    let bench = Bench::new();
    bench.image("pc", Kind::Limited);
    let attachment = bench.attach("pc");
    let mut console = FakeConsole::new(true, &[]);
    let mut session = attachment.start(&shell(), &mut console).await.unwrap();
    session.stdin.write(Bytes::from_static(b"touch /root/x; echo do''ne\n")).await.unwrap();
    read_until(&mut session, "done").await;
    session.control.hang_up().await;
    drain(&mut session).await;
    attachment.finish(&shell(), &SessionEnd::ClientGone, &mut console).await.unwrap();
    assert!(bench.containers().is_empty());
    assert_eq!(bench.file("pc", "/root/x"), None);
}

#[tokio::test]
async fn an_image_that_the_engine_forgets_for_a_moment_is_found() {
    let bench = Bench::new();
    bench.image("pc", Kind::Limited);
    let engine = Arc::new(failing::Failing::forgetful(bench.engine.connect(), 2));
    let backend = ImageBackend::with_engine(bench.parts(&defaults()), engine);
    let attachment = attach(&backend, &bench.account, None, "pc");
    let (outcome, ..) = run(&attachment, &command("true"), "", &[]).await;
    assert_eq!(outcome.exit, OK);
}

#[tokio::test]
async fn close_removes_a_running_container_and_one_that_is_just_being_made() {
    let bench = Bench::new();
    bench.image("pc", Kind::Limited);
    let running = bench.attach("pc");
    let mut console = FakeConsole::new(true, &[]);
    running.start(&shell(), &mut console).await.unwrap();
    assert_eq!(bench.containers().len(), 1);
    running.close().await;
    running.close().await;
    assert!(bench.containers().is_empty());

    let attachment = bench.attach("pc");
    let mut console = FakeConsole::new(true, &[]);
    console.leave.notify_one();
    let error = attachment.start(&shell(), &mut console).await.err().unwrap();
    assert!(matches!(error, BackendError::Interrupted), "{error}");
    attachment.close().await;
    let error = start_error(&attachment, &shell()).await;
    assert!(matches!(error, BackendError::Image(ImageError::Closing)), "{error}");
    assert!(bench.containers().is_empty());
}

#[tokio::test]
async fn an_account_has_a_limited_number_of_containers() {
    let bench = Bench::new();
    bench.image("pc", Kind::Limited);
    let attachments: Vec<_> = (0..3).map(|_| bench.attach("pc")).collect();
    for attachment in &attachments[..2] {
        let (outcome, ..) = run(attachment, &command("true"), "", &[]).await;
        assert_eq!(outcome.exit, OK);
    }
    let error = start_error(&attachments[2], &command("true")).await;
    assert!(error.to_string().contains("has 2 containers already"), "{error}");
    attachments[0].close().await;
    let (outcome, ..) = run(&attachments[2], &command("true"), "", &[]).await;
    assert_eq!(outcome.exit, OK);
    for attachment in attachments {
        attachment.close().await;
    }
}

/// Writes a file of so many mebibytes.
fn write(file: &str, mebibytes: u32) -> String {
    format!("dd if=/dev/zero of=/root/{file} bs=1M count={mebibytes} 2>/dev/null; ")
}

#[tokio::test]
async fn a_container_that_writes_too_much_warns_its_sessions_and_ends_and_can_be_resumed() {
    let bench = Bench::with(|defaults| {
        (defaults.disk, defaults.keep_unsaved) = (Some(20 << 20), Duration::from_secs(3600));
    });
    bench.image("pc", Kind::Limited);
    let attachment = bench.attach("pc");
    let mut console = FakeConsole::new(false, &[]);
    let request = command(&format!(
        "{} read go; {} echo written; sleep 1000",
        write("much", 17),
        write("more", 8)
    ));
    let mut session = attachment.start(&request, &mut console).await.unwrap();
    let notice = read_notice(&mut session).await;
    let end = " MB of 20.9 MB on disk are used; past that, all programs are ended";
    assert!(notice.ends_with(end), "{notice}");
    // Who comes later is warned too.
    let beside = command("sleep 1000");
    let mut second = attachment.start(&beside, &mut console).await.unwrap();
    assert_eq!(read_notice(&mut second).await, notice);

    session.stdin.write(Bytes::from_static(b"go\n")).await.unwrap();
    for (request, session) in [(&request, &mut session), (&beside, &mut second)] {
        let outcome = drain(session).await;
        assert_eq!(outcome.exit, None, "nobody is told that a program ended by itself");
        let finished = attachment.finish(request, &SessionEnd::BackendLost, &mut console).await;
        assert_eq!(
            finished.unwrap_err().to_string(),
            "the container of image pc is gone: it wrote more than 20.9 MB to disk, so its \
             programs were ended"
        );
    }
    assert!(console.text().contains("The changes are kept for 1 h"), "{}", console.text());
    attachment.close().await;
    assert!(bench.file("pc", "/root/much").is_none(), "nothing is saved");

    let attachment = bench.attach("pc");
    let mut console = FakeConsole::new(true, &["r", "clean"]);
    let mut session = attachment.start(&shell(), &mut console).await.unwrap();
    read_notice(&mut session).await;
    let clean = "rm /root/m*; echo mine >/root/mine; exit\n";
    session.stdin.write(Bytes::from_static(clean.as_bytes())).await.unwrap();
    let outcome = drain(&mut session).await;
    attachment.finish(&shell(), &outcome.end(), &mut console).await.unwrap();
    assert!(console.text().contains("New image clean saved."), "{}", console.text());
    assert_eq!(bench.file("clean", "/root/mine").as_deref(), Some("mine\n"));
    assert!(bench.file("clean", "/root/much").is_none());
}

#[tokio::test]
async fn an_engine_elsewhere_says_itself_how_much_is_written() {
    let bench = Bench::new();
    bench.image("pc", Kind::Limited);
    let engine = Arc::new(failing::Failing::without(bench.engine.connect(), vec![]));
    let mut limited = defaults();
    limited.disk = Some(4 << 20);
    let backend = ImageBackend::with_engine(bench.parts(&limited), engine);
    let attachment = attach(&backend, &bench.account, None, "pc");
    let request = command(&format!("{} sleep 1000", write("much", 6)));
    let (outcome, _, finished) = run(&attachment, &request, "", &[]).await;
    assert_eq!(outcome.exit, None);
    let error = finished.unwrap_err();
    assert!(error.contains("it wrote more than 4.1 MB to disk"), "{error}");
}

#[tokio::test]
async fn a_session_says_which_limit_of_the_configuration_its_engine_cannot_enforce() {
    let bench = Bench::new();
    bench.image("pc", Kind::Limited);
    let limits = vec![Limit::Processes, Limit::Processors];
    let lack = Lack::Limits { limits, reason: "this is a test" };
    let engine = Arc::new(failing::Failing::without(bench.engine.connect(), vec![lack]));
    let mut limited = defaults();
    limited.cpus = Some(500);
    let note = "Note: containers have no limits of processes and processor time: this is a test.";
    for (defaults, said) in [(defaults(), ""), (limited, note)] {
        let backend =
            ImageBackend::with_engine(bench.parts(&defaults), Arc::clone(&engine) as Arc<_>);
        let attachment = attach(&backend, &bench.account, None, "pc");
        let (_, console, _) = run(&attachment, &command("true"), "", &[]).await;
        assert_eq!(console.text(), said);
        attachment.close().await;
    }
}

#[tokio::test]
async fn what_a_shell_wrote_until_its_disk_was_full_can_be_saved() {
    for kind in [Kind::Limited, Kind::Os] {
        let bench = Bench::with(|defaults| {
            (defaults.disk, defaults.keep_unsaved) = (Some(4 << 20), Duration::from_secs(3600));
        });
        bench.image("pc", kind);
        let attachment = bench.attach("pc");
        let input = format!("echo mine >/root/mine; {} sleep 1000\n", write("much", 6));
        let (outcome, console, finished) = run(&attachment, &shell(), &input, &["full"]).await;
        assert_eq!((outcome.exit, finished), (None, Ok(())));
        let said = console.text();
        assert!(said.contains("is gone: it wrote more than 4.1 MB to disk, so its"), "{said}");
        assert!(said.contains("If you disconnect instead of answering"), "{said}");
        assert_eq!(bench.file("full", "/root/mine").as_deref(), Some("mine\n"));
        assert!(bench.containers().is_empty());
    }
}

/// Control groups as a container of either version of them sees its own.
#[tokio::test]
async fn a_container_gets_no_more_memory_processes_and_processors_than_the_configuration_says() {
    let bench = Bench::with(|defaults| {
        (defaults.memory, defaults.pids, defaults.cpus) = (Some(64 << 20), Some(50), Some(1500));
    });
    bench.image("pc", Kind::Limited);
    let attachment = bench.attach("pc");
    let look = "cd /sys/fs/cgroup; cat memory/memory.limit_in_bytes memory.max; \
                cat pids/pids.max pids.max; cat cpu/cpu.cfs_quota_us cpu.max; exit 0";
    let (outcome, console, _) = run(&attachment, &command(look), "", &[]).await;
    let seen = outcome.text();
    let lines: Vec<_> = seen.lines().map(|line| line.split(' ').next().unwrap()).collect();
    assert_eq!(lines, ["67108864", "50", "150000"], "{seen}");
    assert_eq!(console.text(), "", "all of these can be enforced here");

    let fill = "dd if=/dev/zero of=/dev/null bs=100M count=1 2>/dev/null; echo ended with $?";
    let (outcome, ..) = run(&attachment, &command(fill), "", &[]).await;
    assert_eq!(outcome.text(), "ended with 137\n");
    attachment.close().await;
}

#[tokio::test]
async fn an_image_without_a_shell_and_an_unknown_image_are_refused() {
    let bench = Bench::new();
    bench.image("empty", Kind::NoShell);
    let error = start_error(&bench.attach("empty"), &shell()).await;
    assert!(error.to_string().contains("no /bin/bash or /bin/sh"), "{error}");
    let error = start_error(&bench.attach("nothing"), &shell()).await;
    assert!(error.to_string().contains("no image named nothing"), "{error}");
    assert!(bench.containers().is_empty());
}

#[tokio::test]
async fn a_missing_engine_is_reported_and_found_when_it_comes() {
    let bench = Bench::new();
    bench.image("pc", Kind::Limited);
    let Some(socket) = bench.engine.socket() else { return };
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("engine.sock");
    let backend = backend(path.clone(), bench.state.path(), &defaults(), &bench.listener);
    let error = backend.check().await.unwrap_err();
    assert!(matches!(error, ImageError::EngineUnavailable(_)), "{error}");
    assert!(error.to_string().contains(&path.display().to_string()), "{error}");
    let attachment = attach(&backend, &bench.account, None, "pc");
    let error = start_error(&attachment, &shell()).await;
    assert!(matches!(error, BackendError::Image(ImageError::EngineUnavailable(_))), "{error}");
    // The engine comes up.
    std::os::unix::fs::symlink(socket, &path).unwrap();
    let (outcome, ..) = run(&attachment, &command("echo here"), "", &[]).await;
    assert_eq!(outcome.stdout, b"here\n");
    // It goes, and comes again.
    std::fs::remove_file(&path).unwrap();
    let error = backend.check().await.unwrap_err();
    assert!(matches!(error, ImageError::EngineUnavailable(_)), "{error}");
    std::os::unix::fs::symlink(socket, &path).unwrap();
    assert!(backend.check().await.is_ok());
    attachment.close().await;
}

#[tokio::test]
async fn an_engine_that_dies_under_a_session_is_reported_in_one_line() {
    let bench = Bench::new();
    bench.image("pc", Kind::Limited);
    let Some(socket) = bench.engine.socket() else { return };
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("engine.sock");
    let mut engine = failing::proxy(socket, &path);
    let backend = backend(path.clone(), bench.state.path(), &defaults(), &bench.listener);
    for request in [shell(), command("echo ready; sleep 1000")] {
        let attachment = attach(&backend, &bench.account, None, "pc");
        let mut console = FakeConsole::new(request.pty.is_some(), &[]);
        let mut session = attachment.start(&request, &mut console).await.unwrap();
        let mark = if request.pty.is_some() { "# " } else { "ready" };
        read_until(&mut session, mark).await;
        engine.shutdown().await;
        std::fs::remove_file(&path).unwrap();
        let outcome = drain(&mut session).await;
        assert_eq!(outcome.exit, None);
        let error = attachment.finish(&request, &outcome.end(), &mut console).await.unwrap_err();
        assert!(error.to_string().contains("container of image pc is gone"), "{error}");
        attachment.close().await;
        engine = failing::proxy(socket, &path);
    }
    for container in bench.containers() {
        bench.engine.remove_container(&container);
    }
}

#[tokio::test]
async fn a_save_that_fails_is_reported_and_can_be_tried_again() {
    let bench = Bench::new();
    bench.image("pc", Kind::Limited);
    let parts = bench.parts(&defaults());
    let engine = Arc::new(failing::Failing::full_disk(bench.engine.connect(), 2));
    let backend = ImageBackend::with_engine(parts, engine);

    let attachment = attach(&backend, &bench.account, None, "pc");
    let (_, _, finished) = run(&attachment, &command("touch /root/x"), "", &[]).await;
    let error = finished.unwrap_err();
    assert!(error.contains("image pc was not saved"), "{error}");
    assert!(error.contains("no space left on device"), "{error}");

    let answers = ["second", "second"];
    let (_, console, finished) =
        run(&attachment, &shell(), "touch /root/y; exit\n", &answers).await;
    assert_eq!(finished, Ok(()));
    let text = console.text();
    assert!(text.contains("Image second was not saved"), "{text}");
    assert!(text.ends_with("New image second saved."), "{text}");
    assert_eq!(bench.file("second", "/root/y").as_deref(), Some(""));
    assert_eq!(bench.file("pc", "/root/x"), None);
    assert!(bench.containers().is_empty());
}

#[tokio::test]
async fn an_image_for_another_cpu_needs_an_emulator_and_says_so() {
    let bench = Bench::new();
    bench.image("rpi", Kind::Limited);
    bench.relabel("rpi", "riscv64");
    let binfmt_misc = tempfile::tempdir().unwrap();
    let mut parts = bench.parts(&defaults());
    parts.binfmt_misc = binfmt_misc.path().to_owned();
    let backend = ImageBackend::with_engine(parts, bench.engine.connect());
    let attachment = attach(&backend, &bench.account, None, "rpi");
    let error = start_error(&attachment, &command("true")).await;
    assert!(error.to_string().contains("qemu-user-static"), "{error}");
    assert!(bench.containers().is_empty());

    std::fs::write(binfmt_misc.path().join("qemu-riscv64"), "enabled\n").unwrap();
    let (outcome, console, _) = run(&attachment, &command("true"), "", &[]).await;
    assert_eq!(outcome.exit, OK);
    assert_eq!(
        console.seen,
        ["Note: image rpi is for riscv64; it runs under CPU emulation, which is slower."]
    );
    attachment.close().await;
}

#[tokio::test]
async fn only_what_nobody_uses_is_reaped() {
    let (bench, other) = (Bench::new(), Bench::new());
    bench.image("pc", Kind::Limited);
    other.image("pc", Kind::Limited);
    let (attachment, others) = (bench.attach("pc"), other.attach("pc"));
    let mut console = FakeConsole::new(false, &[]);
    let request = command("sleep 1000");
    let _session = attachment.start(&request, &mut console).await.unwrap();
    let _other_session = others.start(&request, &mut console).await.unwrap();

    let restarted = bench.restarted();
    assert_eq!(restarted.reap().await.unwrap(), 0, "the first run is alive");
    assert_eq!(bench.containers().len(), 1);

    // What a killed run leaves: a container that nobody claims.
    let gateway = std::fs::read_to_string(bench.state.path().join("gateway-id")).unwrap();
    let run = format!("{:0>16}", std::process::id());
    let labels = [
        format!("waltgate.gateway={}", gateway.trim()),
        format!("waltgate.run={run}"),
        format!("waltgate.account={}", bench.account),
    ];
    let leftover = bench.engine.create_container(
        &format!("waltgate-{run}-0"),
        &labels,
        &format!("{}/pc", bench.account),
    );
    assert!(bench.containers().contains(&leftover));
    assert_eq!(restarted.reap().await.unwrap(), 1);
    assert!(!bench.containers().contains(&leftover));
    assert_eq!(bench.containers().len(), 1);
    assert_eq!(other.containers().len(), 1);
    attachment.close().await;
    others.close().await;
}

async fn start_error(
    attachment: &Arc<dyn waltgate::backend::Attachment>,
    request: &SessionRequest,
) -> BackendError {
    let mut console = FakeConsole::new(request.pty.is_some(), &[]);
    match attachment.start(request, &mut console).await {
        Ok(_) => panic!("the session started"),
        Err(error) => error,
    }
}
