//! Images that are not as they should be, in the image backend alone: one clear line each, nothing
//! lost, nothing left behind.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support_engine;

use bytes::Bytes;
use support_engine::*;
use waltgate::backend::ExitStatus;

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
