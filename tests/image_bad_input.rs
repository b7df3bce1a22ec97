//! Images that are not as they should be, in the image backend alone: one clear line each, nothing
//! lost, nothing left behind.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support_engine;

use std::time::Duration;

use bytes::Bytes;
use support_engine::misbehaving::{Manners, Misbehaving, WRONG};
use support_engine::*;
use waltgate::backend::ExitStatus;
use waltgate::config::ImageDefaults;

const OK: Option<ExitStatus> = Some(ExitStatus::Code(0));

#[tokio::test]
async fn a_start_script_that_fails_is_told_and_can_be_mended_by_a_command() {
    let bench = Bench::new();
    bench.image("pc", Kind::StartFails);
    let attachment = bench.attach("pc");
    let mut console = FakeConsole::new(true, &[]);
    let error = attachment.start(&shell(), &mut console).await.err().unwrap();
    let told = [
        "operating system of image pc did not start",
        "/bin/walt-image-shell-start ended with status 3",
        "ssh image.pc@... COMMAND",
    ];
    for told in told {
        assert!(error.to_string().contains(told), "{error}");
    }
    attachment.close().await;
    assert!(bench.containers().is_empty());

    let attachment = bench.attach("pc");
    let mend = command("rm /bin/walt-image-shell-start");
    let (outcome, _, finished) = run(&attachment, &mend, "", &[]).await;
    assert_eq!((outcome.exit, finished), (OK, Ok(())));
    attachment.close().await;
    let attachment = bench.attach("pc");
    let mut console = FakeConsole::new(true, &[]);
    let mut session = attachment.start(&shell(), &mut console).await.unwrap();
    session.stdin.write(Bytes::from_static(b"exit\n")).await.unwrap();
    let outcome = drain(&mut session).await;
    assert_eq!(outcome.exit, OK);
    attachment.finish(&shell(), &outcome.end(), &mut console).await.unwrap();
    assert!(bench.containers().is_empty());
}

#[tokio::test]
async fn a_start_script_that_does_nothing_does_not_keep_the_shell_away() {
    let bench = Bench::new();
    bench.image("pc", Kind::StartHangs);
    let attachment = bench.attach("pc");
    let mut console = FakeConsole::new(true, &[]);
    let mut session = attachment.start(&shell(), &mut console).await.unwrap();
    session.stdin.write(Bytes::from_static(b"echo i''n; exit 4\n")).await.unwrap();
    read_until(&mut session, "in\r\n").await;
    let outcome = drain(&mut session).await;
    assert_eq!(outcome.exit, Some(ExitStatus::Code(4)));
    attachment.finish(&shell(), &outcome.end(), &mut console).await.unwrap();
    assert!(console.text().ends_with("Image pc was not changed: nothing to save."));
    assert!(bench.containers().is_empty());
}

#[tokio::test]
async fn an_image_that_is_in_use_is_not_removed_or_can_be_saved_all_the_same() {
    let bench = Bench::new();
    let image = bench.image("pc", Kind::Limited);
    let attachment = bench.attach("pc");
    let mut console = FakeConsole::new(true, &["rescued"]);
    let mut session = attachment.start(&shell(), &mut console).await.unwrap();
    session.stdin.write(Bytes::from_static(b"touch /root/x; exit\n")).await.unwrap();
    let outcome = drain(&mut session).await;
    assert_eq!(outcome.exit, OK);
    let is_removed = bench.engine.ask_to_remove_image(&image);
    assert_eq!(bench.file("pc", "/etc/motd").is_none(), is_removed);
    let finished = attachment.finish(&shell(), &outcome.end(), &mut console).await;
    assert!(finished.is_ok(), "{finished:?} {}", console.text());
    assert!(console.text().ends_with("New image rescued saved."), "{}", console.text());
    assert_eq!(bench.file("rescued", "/root/x").as_deref(), Some(""));
    // What was in the image is in the new one.
    assert_eq!(bench.file("rescued", "/etc/motd").as_deref(), Some("hello\n"));
    attachment.close().await;
    assert!(bench.containers().is_empty());
}

#[tokio::test]
async fn an_image_that_is_removed_by_force_while_in_use_is_saved_or_its_session_told() {
    let bench = Bench::with(|defaults| defaults.keep_unsaved = Duration::from_secs(3600));
    for request in [shell(), command("touch /root/x; read -r line; touch /root/y")] {
        let image = bench.image("pc", Kind::Limited);
        let attachment = bench.attach("pc");
        let mut console = FakeConsole::new(request.pty.is_some(), &["rescued"]);
        let mut session = attachment.start(&request, &mut console).await.unwrap();
        if request.pty.is_some() {
            session.stdin.write(Bytes::from_static(b"touch /root/x; echo ma''de\n")).await.unwrap();
            read_until(&mut session, "made").await;
        }
        bench.engine.remove_image(&image);
        let is_gone = bench.containers().is_empty();
        // A program that was killed takes nothing.
        let _ = session.stdin.write(Bytes::from_static(b"touch /root/y; exit\n")).await;
        let outcome = drain(&mut session).await;
        let finished = attachment.finish(&request, &outcome.end(), &mut console).await;
        if is_gone {
            // Podman removes the containers of an image together with it.
            let error = finished.unwrap_err().to_string();
            expect_one_line(&error);
            assert!(error.contains("container of image pc is gone"), "{error} {}", console.text());
            assert!(!console.text().contains('?'), "{}", console.text());
        } else {
            assert!(finished.is_ok(), "{finished:?} {}", console.text());
            let saved = if request.pty.is_some() { "rescued" } else { "pc" };
            for (path, content) in [("/root/y", ""), ("/etc/motd", "hello\n")] {
                assert_eq!(bench.file(saved, path).as_deref(), Some(content), "{path}");
            }
        }
        attachment.close().await;
        assert!(bench.containers().is_empty());
        // It is an image that nobody has by now.
        if bench.file("pc", "/etc/motd").is_none() {
            let mut console = FakeConsole::new(true, &[]);
            let again = bench.attach("pc").start(&shell(), &mut console).await.err().unwrap();
            assert!(again.to_string().contains("no image named pc"), "{again}");
        }
    }
}

#[tokio::test]
async fn layers_without_anything_in_them_are_images_like_others_or_are_refused() {
    let bench = Bench::new();
    let empty_archive = [0; 1024];
    let cases: [(&str, &[&[u8]]); 3] = [
        ("archive", &[&empty_archive]),
        ("nothing", &[&[]]),
        ("both", &[&empty_archive, &[], &empty_archive]),
    ];
    for (name, layers) in cases {
        bench.image(name, Kind::Limited);
        if let Err(said) = bench.add_layers(name, layers) {
            // Some engines want an archive to have an end; what there was stays as it is.
            assert_ne!(name, "archive", "{said}");
        }
        let attachment = bench.attach(name);
        let (_, console, finished) =
            run(&attachment, &command("cat /etc/motd; touch /root/x"), "", &[]).await;
        assert_eq!(finished, Ok(()), "{name}: {}", console.text());
        assert_eq!(bench.file(name, "/root/x").as_deref(), Some(""), "{name}");
        assert_eq!(bench.file(name, "/etc/motd").as_deref(), Some("hello\n"), "{name}");
        attachment.close().await;
    }
    assert!(bench.containers().is_empty());
}

#[tokio::test]
async fn a_layer_that_is_no_archive_is_refused_by_the_engine_and_harms_nothing() {
    let bench = Bench::new();
    bench.image("pc", Kind::Limited);
    let id = bench.engine.image_id(&format!("{}/pc:latest", bench.account));
    let garbage = [b'x'; 2000];
    let loaded = bench.add_layers("pc", &[&garbage]);
    let attachment = bench.attach("pc");
    let mut console = FakeConsole::new(false, &[]);
    match loaded {
        Err(_) => assert_eq!(bench.engine.image_id(&format!("{}/pc:latest", bench.account)), id),
        // The embedded engine's store was given it behind the back of what checks archives.
        Ok(()) => {
            let error = attachment.start(&command("true"), &mut console).await.err().unwrap();
            expect_one_line(&error);
        }
    }
    attachment.close().await;
    bench.image("other", Kind::Limited);
    let attachment = bench.attach("other");
    let (outcome, ..) = run(&attachment, &command("echo here"), "", &[]).await;
    assert_eq!(outcome.stdout, b"here\n");
    attachment.close().await;
    assert!(bench.containers().is_empty());
}

#[tokio::test]
async fn a_root_directory_that_nobody_may_write_to_stays_so() {
    let bench = Bench::new();
    bench.image("pc", Kind::SealedRoot);
    let attachment = bench.attach("pc");
    // The container's root may all the same.
    let line = "stat -c %a / && touch /x && mkdir /d && touch /d/y";
    let (outcome, console, finished) = run(&attachment, &command(line), "", &[]).await;
    assert_eq!((&outcome.exit, finished), (&OK, Ok(())), "{}", console.text());
    // Docker makes it writable in every container.
    let mode = outcome.text();
    assert!(mode == "555\n" || mode == "755\n", "{mode}");
    attachment.close().await;
    assert_eq!(bench.file("pc", "/d/y").as_deref(), Some(""));
    let attachment = bench.attach("pc");
    let (outcome, ..) = run(&attachment, &command("stat -c %a /"), "", &[]).await;
    assert_eq!(outcome.text(), mode);
    // Nobody in a container can make it read-only, which would keep a save from its files.
    let seal = "mount -o remount,ro / || mount --bind -o ro /etc /etc";
    let (outcome, ..) = run(&attachment, &command(seal), "", &[]).await;
    assert_ne!(outcome.exit, OK);
    attachment.close().await;
    assert!(bench.containers().is_empty());
}

/// One line for people, of a length that they read.
#[track_caller]
fn expect_one_line(error: &impl ToString) {
    let line = error.to_string();
    let is_plain = !line.chars().any(char::is_control);
    assert!(is_plain && !line.is_empty() && line.len() < 600, "{line:?}");
}

#[tokio::test]
async fn an_engine_that_answers_wrongly_is_told_in_one_line_and_used_once_it_is_well() {
    let bench = Bench::new();
    bench.image("pc", Kind::Limited);
    let Some(socket) = bench.engine.socket() else { return };
    for manners in WRONG {
        let engine = Misbehaving::before(socket, manners);
        let socket = engine.socket.clone();
        let backend = backend(socket, bench.state.path(), &defaults(), &bench.listener);
        let attachment = attach(&backend, &bench.account, None, "pc");
        expect_one_line(&backend.check().await.unwrap_err());
        let mut console = FakeConsole::new(true, &[]);
        expect_one_line(&attachment.start(&shell(), &mut console).await.err().unwrap());

        engine.turn(Manners::Faithful);
        let (outcome, ..) = run(&attachment, &command("echo here"), "", &[]).await;
        assert_eq!(outcome.stdout, b"here\n", "{manners:?}");

        // It knows the engine by now.
        engine.turn(manners);
        let mut console = FakeConsole::new(false, &[]);
        let other = attach(&backend, &bench.account, None, "pc");
        let error = other.start(&command("true"), &mut console).await.err().unwrap();
        expect_one_line(&error);
        engine.turn(Manners::Faithful);
        let (outcome, ..) = run(&attachment, &command("echo again"), "", &[]).await;
        assert_eq!(outcome.stdout, b"again\n", "{manners:?}");
        other.close().await;
        attachment.close().await;
    }
    assert!(bench.containers().is_empty());
}

#[tokio::test]
async fn an_engine_that_never_answers_is_given_up_by_all_who_wait_for_it_at_once() {
    let bench = Bench::new();
    bench.image("pc", Kind::Limited);
    let Some(socket) = bench.engine.socket() else { return };
    let engine = Misbehaving::before(socket, Manners::Silent);
    let socket = engine.socket.clone();
    let backend = backend(socket, bench.state.path(), &defaults(), &bench.listener);
    // Nothing happens but that time passes.
    tokio::time::pause();
    let attachments: Vec<_> =
        (0..5).map(|_| attach(&backend, &bench.account, None, "pc")).collect();
    let starts = attachments.iter().map(|attachment| async {
        let mut console = FakeConsole::new(true, &[]);
        attachment.start(&shell(), &mut console).await.err().unwrap()
    });
    for error in futures_util::future::join_all(starts).await {
        expect_one_line(&error);
    }
    assert_eq!(engine.connections(), 1, "nobody waits for those before");
    tokio::time::resume();

    engine.turn(Manners::Faithful);
    let (outcome, ..) = run(&attachments[0], &command("echo here"), "", &[]).await;
    assert_eq!(outcome.stdout, b"here\n");
    for attachment in attachments {
        attachment.close().await;
    }
    assert!(bench.containers().is_empty());
}

#[tokio::test]
async fn an_engine_that_answers_slowly_does_all_the_same() {
    let bench = Bench::new();
    bench.image("pc", Kind::Limited);
    let Some(socket) = bench.engine.socket() else { return };
    let engine = Misbehaving::before(socket, Manners::Slow);
    let socket = engine.socket.clone();
    let backend = backend(socket, bench.state.path(), &defaults(), &bench.listener);
    let attachment = attach(&backend, &bench.account, None, "pc");
    let (outcome, _, finished) =
        run(&attachment, &command("touch /root/x; echo did"), "", &[]).await;
    assert_eq!((outcome.stdout, finished), (b"did\n".to_vec(), Ok(())));
    assert_eq!(bench.file("pc", "/root/x").as_deref(), Some(""));
    let (outcome, console, finished) =
        run(&attachment, &shell(), "touch /root/y; exit\n", &["slow"]).await;
    assert_eq!((outcome.exit, finished), (OK, Ok(())), "{}", console.text());
    assert_eq!(bench.file("slow", "/root/y").as_deref(), Some(""));
    attachment.close().await;
    assert!(bench.containers().is_empty());
}

#[tokio::test]
async fn changes_outlast_an_engine_that_goes_wrong_at_the_save() {
    let keeping = |defaults: &mut ImageDefaults| defaults.keep_unsaved = Duration::from_secs(3600);
    let bench = Bench::with(keeping);
    bench.image("pc", Kind::Limited);
    let Some(socket) = bench.engine.socket() else { return };
    let mut defaults = defaults();
    keeping(&mut defaults);
    for manners in WRONG.into_iter().chain([Manners::Silent]) {
        let engine = Misbehaving::before(socket, Manners::Faithful);
        let socket = engine.socket.clone();
        let backend = backend(socket, bench.state.path(), &defaults, &bench.listener);
        let attachment = attach(&backend, &bench.account, None, "pc");
        let mut console = FakeConsole::new(false, &[]);
        let request = command("touch /root/kept");
        let mut session = attachment.start(&request, &mut console).await.unwrap();
        let outcome = drain(&mut session).await;
        assert_eq!(outcome.exit, OK);

        engine.turn(manners);
        if manners == Manners::Silent {
            tokio::time::pause();
        }
        let finished = attachment.finish(&request, &outcome.end(), &mut console).await;
        expect_one_line(&finished.unwrap_err());
        assert!(console.text().contains("The changes are kept for 1 h"), "{}", console.text());
        attachment.close().await;
        if manners == Manners::Silent {
            tokio::time::resume();
        }
        engine.turn(Manners::Faithful);

        let unsaved = backend.list_unsaved(&bench.account).await.unwrap();
        let id = unsaved.lines().nth(1).and_then(|line| line.split_whitespace().next());
        let id = id.unwrap_or_else(|| panic!("{manners:?}: {unsaved}"));
        let mut console = FakeConsole::new(false, &[]);
        let name = format!("saved-{manners:?}").to_lowercase();
        let caller = caller_of(&bench.account);
        backend.save_unsaved(&caller, id, &name, &mut console).await.unwrap();
        assert_eq!(bench.file(&name, "/root/kept").as_deref(), Some(""), "{manners:?}");
        assert!(bench.containers().is_empty());
    }
}
