//! Saves and unsaved changes in the image backend alone, also with engines that fail.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support_engine;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use support_engine::*;
use waltgate::backend::image::ImageBackend;
use waltgate::backend::{Caller, ExitStatus, SessionEnd, SessionRequest};

const LONG: Duration = Duration::from_secs(3600);

fn keeping(keep: Duration) -> Bench {
    Bench::with(|defaults| defaults.keep_unsaved = keep)
}

fn caller(bench: &Bench) -> Caller {
    caller_of(&bench.account)
}

/// Touches a file in a shell whose client then goes away.
async fn vanish(attachment: &Arc<dyn waltgate::backend::Attachment>, file: &str) {
    let mut console = FakeConsole::new(true, &["later"]);
    let mut session = attachment.start(&shell(), &mut console).await.unwrap();
    let line = format!("touch {file}; echo do''ne\n");
    session.stdin.write(Bytes::from(line)).await.unwrap();
    read_until(&mut session, "done").await;
    session.control.hang_up().await;
    drain(&mut session).await;
    attachment.finish(&shell(), &SessionEnd::ClientGone, &mut console).await.unwrap();
    attachment.close().await;
}

/// The identifiers in the list of the account's unsaved changes.
async fn listed(backend: &ImageBackend, bench: &Bench) -> Vec<String> {
    let text = backend.list_unsaved(&bench.account).await.unwrap();
    text.lines().skip(1).map(|line| line.split_whitespace().next().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn unsaved_changes_are_removed_when_their_time_is_over() {
    let bench = keeping(LONG);
    bench.image("pc", Kind::Limited);
    vanish(&bench.attach("pc"), "/root/x").await;
    assert_eq!(bench.backend.reap().await.unwrap(), 0);
    assert_eq!(listed(&bench.backend, &bench).await.len(), 1);
    assert_eq!(bench.containers().len(), 1);

    let mut defaults = defaults();
    defaults.keep_unsaved = Duration::from_millis(1);
    let impatient = ImageBackend::with_engine(bench.parts(&defaults), bench.engine.connect());
    assert_eq!(impatient.reap().await.unwrap(), 1);
    assert!(bench.containers().is_empty());
    assert!(listed(&bench.backend, &bench).await.is_empty());
}

#[tokio::test]
async fn an_account_that_left_too_much_unsaved_gets_no_new_container_until_it_has_decided() {
    let bench = keeping(LONG);
    for image in ["pc", "pi", "router"] {
        bench.image(image, Kind::Limited);
    }
    for image in ["pc", "pi"] {
        vanish(&bench.attach(image), "/root/x").await;
    }
    for request in [shell(), command("true")] {
        let mut console = FakeConsole::new(request.pty.is_some(), &[]);
        let refused = bench.attach("router").start(&request, &mut console).await;
        let account = &bench.account;
        assert_eq!(
            refused.map(drop).unwrap_err().to_string(),
            format!(
                "account {account} has left 2 containers with unsaved changes, which is the \
                 limit; \"ssh walt@... unsaved\" lists them, \"ssh walt@... save ID NAME\" or \
                 \"ssh walt@... discard ID\" frees one"
            )
        );
    }
    let other =
        attach(&bench.backend, &"other".parse().unwrap(), Some(bench.account.as_str()), "pc");
    let (outcome, ..) = run(&other, &command("true"), "", &[]).await;
    assert_eq!(outcome.exit, Some(ExitStatus::Code(0)), "other accounts have limits of their own");
    other.close().await;

    // What was left can be resumed all the same.
    let attachment = bench.attach("pi");
    let (.., finished) = run(&attachment, &shell(), "exit\n", &["r", "^C"]).await;
    assert_eq!(finished, Ok(()));
    let (outcome, ..) = run(&bench.attach("router"), &command("true"), "", &[]).await;
    assert_eq!(outcome.exit, Some(ExitStatus::Code(0)));
}

#[tokio::test]
async fn a_client_that_changed_nothing_leaves_nothing() {
    let bench = keeping(LONG);
    bench.image("pc", Kind::Limited);
    let attachment = bench.attach("pc");
    let mut console = FakeConsole::new(true, &[]);
    let mut session = attachment.start(&shell(), &mut console).await.unwrap();
    read_until(&mut session, "# ").await;
    session.control.hang_up().await;
    drain(&mut session).await;
    attachment.finish(&shell(), &SessionEnd::ClientGone, &mut console).await.unwrap();
    assert!(bench.containers().is_empty());
}

#[tokio::test]
async fn changes_that_a_full_disk_kept_from_being_saved_are_kept_and_saved_later() {
    let bench = keeping(LONG);
    bench.image("pc", Kind::Limited);
    let mut defaults = defaults();
    defaults.keep_unsaved = LONG;
    let parts = bench.parts(&defaults);
    let backend = ImageBackend::with_engine(
        parts,
        Arc::new(failing::Failing::full_disk(bench.engine.connect(), 2)),
    );
    let attachment = attach(&backend, &bench.account, None, "pc");
    let (_, console, finished) = run(&attachment, &command("touch /root/x"), "", &[]).await;
    let error = finished.unwrap_err();
    assert!(error.contains("no space left on device"), "{error}");
    assert!(console.text().contains("The changes are kept for 1 h"), "{}", console.text());
    let ids = listed(&backend, &bench).await;
    assert!(console.text().contains(&format!("save {} NAME", ids[0])), "{}", console.text());

    let mut console = FakeConsole::new(false, &[]);
    let caller = caller(&bench);
    let failed = backend.save_unsaved(&caller, &ids[0], "rescued", &mut console).await;
    assert!(failed.unwrap_err().to_string().contains("no space left"));
    assert_eq!(listed(&backend, &bench).await, ids);
    backend.save_unsaved(&caller, &ids[0], "rescued", &mut console).await.unwrap();
    assert_eq!(bench.file("rescued", "/root/x").as_deref(), Some(""));
    assert!(bench.containers().is_empty());
}

#[tokio::test]
async fn changes_survive_an_engine_that_goes_away() {
    let bench = keeping(LONG);
    bench.image("pc", Kind::Limited);
    let Some(socket) = bench.engine.socket() else { return };
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("engine.sock");
    let mut defaults = defaults();
    defaults.keep_unsaved = LONG;
    let mut engine = failing::proxy(socket, &path);
    let backend = backend(path.clone(), bench.state.path(), &defaults, &bench.listener);
    for (number, request) in [command("sh"), shell()].into_iter().enumerate() {
        let attachment = attach(&backend, &bench.account, None, "pc");
        let mut console = FakeConsole::new(request.pty.is_some(), &["later"]);
        let mut session = attachment.start(&request, &mut console).await.unwrap();
        let line = format!("touch /root/{number}; echo do''ne\n");
        session.stdin.write(Bytes::from(line)).await.unwrap();
        read_until(&mut session, "done").await;
        engine.shutdown().await;
        std::fs::remove_file(&path).unwrap();
        let outcome = drain(&mut session).await;
        attachment.finish(&request, &outcome.end(), &mut console).await.unwrap_err();
        attachment.close().await;
        engine = failing::proxy(socket, &path);
    }
    let ids = listed(&backend, &bench).await;
    assert_eq!(ids.len(), 2);
    let mut console = FakeConsole::new(false, &[]);
    // The latest comes first.
    for (id, number) in ids.iter().zip([1, 0]) {
        let name = format!("saved-{number}");
        backend.save_unsaved(&caller(&bench), id, &name, &mut console).await.unwrap();
        assert_eq!(bench.file(&name, &format!("/root/{number}")).as_deref(), Some(""));
    }
    assert!(bench.containers().is_empty());
}

#[tokio::test]
async fn what_another_gateway_left_is_left_alone() {
    let (bench, other) = (keeping(LONG), keeping(LONG));
    bench.image("pc", Kind::Limited);
    vanish(&bench.attach("pc"), "/root/x").await;
    // The same account at another gateway over the same engine.
    assert_eq!(other.backend.reap().await.unwrap(), 0);
    assert!(other.backend.list_unsaved(&bench.account).await.unwrap().starts_with("No unsaved"));
    assert_eq!(bench.containers().len(), 1);
    // Another run of the same one has it; both may look at once.
    let restarted = bench.restarted();
    let (one, two) = tokio::join!(listed(&restarted, &bench), listed(&bench.backend, &bench));
    assert!(one.len() + two.len() >= 1, "{one:?} {two:?}");
    let ids = listed(&restarted, &bench).await;
    restarted.discard_unsaved(&bench.account, &ids[0]).await.unwrap();
    assert!(bench.containers().is_empty());
}

#[tokio::test]
async fn a_resumed_container_still_knows_the_image_it_was_made_of() {
    let bench = keeping(LONG);
    bench.image("pc", Kind::Limited);
    vanish(&bench.attach("pc"), "/root/mine").await;
    let (_, console, finished) =
        run(&bench.attach("pc"), &command("touch /root/other"), "", &[]).await;
    assert_eq!(finished, Ok(()), "{}", console.text());

    let attachment = attach(&bench.restarted(), &bench.account, None, "pc");
    let answers = ["r", "y", "", "pc", "mine"];
    let (outcome, console, finished) =
        run(&attachment, &shell(), "ls /root; exit\n", &answers).await;
    assert_eq!(finished, Ok(()));
    assert!(outcome.text().contains("mine"), "{}", outcome.text());
    let text = console.text();
    assert!(text.contains("Image pc was changed by somebody else"), "{text}");
    assert!(text.contains(&format!("saved by {} from 127.0.0.1", bench.account)), "{text}");
    assert!(!text.contains("to overwrite"), "{text}");
    // A word for yes is no name of an image.
    assert!(text.contains("That is no name"), "{text}");
    assert!(text.ends_with("New image mine saved."), "{text}");
    assert_eq!(bench.file("mine", "/root/mine").as_deref(), Some(""));
    assert_eq!(bench.file("pc", "/root/mine"), None);
    assert!(bench.containers().is_empty());
}

#[tokio::test]
async fn one_of_several_commands_that_vanishes_keeps_the_changes_of_all() {
    let bench = keeping(LONG);
    bench.image("pc", Kind::Limited);
    let attachment = bench.attach("pc");
    let request = command("touch /root/one; echo ready; sleep 1000");
    let mut console = FakeConsole::new(false, &[]);
    let mut first = attachment.start(&request, &mut console).await.unwrap();
    read_until(&mut first, "ready").await;
    let waits = command("echo ready; read -r line; touch /root/two");
    let mut second = attachment.start(&waits, &mut console).await.unwrap();
    read_until(&mut second, "ready").await;
    first.control.hang_up().await;
    drain(&mut first).await;
    attachment.finish(&request, &SessionEnd::ClientGone, &mut console).await.unwrap();
    second.stdin.write(Bytes::from_static(b"go\n")).await.unwrap();
    let outcome = drain(&mut second).await;
    let error = attachment.finish(&waits, &outcome.end(), &mut console).await.unwrap_err();
    assert!(error.to_string().contains("another session of this connection broke"), "{error}");
    assert_eq!(listed(&bench.backend, &bench).await.len(), 1);
    assert_eq!(bench.file("pc", "/root/two"), None);
    bench.backend.discard_unsaved(&bench.account, &bench.containers()[0]).await.unwrap();
    attachment.close().await;
}

#[tokio::test]
async fn saves_say_in_the_history_who_made_them_and_leave_no_old_version() {
    let bench = Bench::new();
    let reference = bench.image("pc", Kind::Limited);
    let id = || bench.engine.image_id(&reference);
    let mut versions = vec![id()];
    for number in 0..3 {
        let attachment = bench.attach("pc");
        // Of the same size, and perhaps within the same second.
        let request = command(&format!("echo {number} >/root/file"));
        let (_, console, finished) = run(&attachment, &request, "", &[]).await;
        assert_eq!(finished, Ok(()), "{}", console.text());
        attachment.close().await;
        versions.push(id());
        assert_eq!(console.said(), ["Image pc updated."], "{number}");
        assert_eq!(bench.file("pc", "/root/file"), Some(format!("{number}\n")));
    }
    let history = bench.engine.history(&reference);
    let saves: Vec<_> = history.iter().filter(|line| line.contains("saved as")).collect();
    assert_eq!(saves.len(), 3, "{history:?}");
    let words = format!("saved as {reference} by {} from 127.0.0.1", bench.account);
    assert!(saves.iter().all(|line| line.contains(&words)), "{history:?}");
    assert!(saves.iter().all(|line| !line.starts_with("0B")), "sizes of layers: {history:?}");
    // What the gateway did not make is not its to remove.
    let exists = |id: &str| bench.engine.has_image(id);
    let left: Vec<bool> = versions.iter().map(|id| exists(id)).collect();
    assert_eq!(left, [true, false, false, true]);
    bench.engine.remove_image(&versions[0]);
}

#[tokio::test]
async fn an_old_version_that_a_node_or_a_container_uses_stays() {
    let bench = keeping(LONG);
    let reference = bench.image("pc", Kind::Limited);
    let save = async |text: &str| {
        let attachment = bench.attach("pc");
        let request = command(&format!("echo {text} >/root/file"));
        let (_, console, finished) = run(&attachment, &request, "", &[]).await;
        assert_eq!(finished, Ok(()), "{}", console.text());
        attachment.close().await;
        bench.engine.image_id(&reference)
    };
    let exists = |id: &str| bench.engine.has_image(id);
    let first = save("first").await;
    vanish(&bench.attach("pc"), "/root/x").await;
    let second = save("second").await;
    assert!(exists(&first), "unsaved changes are made to it");
    *bench.listener.nodes.lock().unwrap() = vec!["rpi1".to_owned()];
    save("third").await;
    assert!(exists(&second), "a node may still run it");
    bench.backend.discard_unsaved(&bench.account, &bench.containers()[0]).await.unwrap();
    bench.listener.nodes.lock().unwrap().clear();
    bench.backend.reap().await.unwrap();
    assert!(!exists(&first) && !exists(&second));
}

#[tokio::test]
async fn layers_are_merged_before_an_engine_takes_no_more() {
    let bench = Bench::new();
    let reference = bench.image("pc", Kind::Limited);
    bench.pile_up("pc", 99);
    let config = bench.engine.image_config(&reference);
    let script = "echo pc >/etc/hostname; echo hosts >/etc/hosts; mkdir /srv; cd /srv; echo a >f; \
                  chown 12:34 f; chmod 4755 f; ln f hard; ln -s f soft; mkfifo fifo; \
                  touch -d @978307200 old; rm /etc/motd";
    let layers = || bench.engine.layers(&reference).len();
    let (_, console, finished) = run(&bench.attach("pc"), &command(script), "", &[]).await;
    assert_eq!(finished, Ok(()), "{}", console.text());
    assert_eq!(
        console.said(),
        [
            "Image pc updated.",
            "Note: image pc had 101 layers, near the most an engine takes; they were merged into one."
        ]
    );
    assert_eq!(layers(), 1);
    assert_eq!(bench.engine.image_config(&reference), config);
    let attachment = bench.attach("pc");
    let look =
        "cd /srv; stat -c '%n %u:%g %a %h %Y %F' f soft fifo old; ls /etc/motd; echo >/srv/new";
    let (outcome, console, finished) = run(&attachment, &command(look), "", &[]).await;
    assert_eq!(finished, Ok(()), "{}", console.text());
    let text = outcome.text();
    assert!(text.starts_with("f 12:34 4755 2 "), "{text}");
    assert!(text.contains("symbolic link\nfifo 0:0 644 1 "), "{text}");
    assert!(text.contains("old 0:0 644 1 978307200 regular empty file\n"), "{text}");
    assert!(String::from_utf8_lossy(&outcome.stderr).contains("/etc/motd: No such file"));
    assert_eq!(layers(), 2);
    attachment.close().await;
    // The engine's own files in a container are not the image's.
    let unused =
        bench.engine.create_container(&format!("{}-unused", bench.account), &[], &reference);
    assert_eq!(bench.engine.connect().diff(&unused).await.unwrap(), []);
    bench.engine.remove_container(&unused);
    // Neither are the images that it took on the way left.
    bench.backend.reap().await.unwrap();
    let id = std::fs::read_to_string(bench.state.path().join("gateway-id")).unwrap();
    let label = format!("waltgate.gateway={}", id.trim());
    assert!(bench.engine.images_labelled(&label).is_empty());
}

#[tokio::test]
async fn a_bad_decision_beforehand_starts_nothing() {
    let bench = Bench::new();
    bench.image("pc", Kind::Limited);
    let request = SessionRequest {
        env: vec![("WALTGATE_SAVE_AS".to_owned(), "No Name".to_owned())],
        ..command("touch /root/x")
    };
    let mut console = FakeConsole::new(false, &[]);
    let error = bench.attach("pc").start(&request, &mut console).await.err().unwrap();
    assert!(
        error.to_string().starts_with("WALTGATE_SAVE_AS: \"No Name\" is not a valid"),
        "{error}"
    );
    assert!(bench.containers().is_empty());
}
