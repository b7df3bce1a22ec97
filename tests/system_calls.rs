//! What programs in containers of the embedded engine may ask of the kernel. Needs root, as the
//! engine does.
#![cfg(feature = "seccomp")]
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support_engine;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use support_engine::embedded::{engine_in, script_in};
use support_engine::*;
use waltgate::backend::image::engine::Engine as _;
use waltgate::backend::image::engine::embedded::EmbeddedEngine;
use waltgate::backend::{Attachment, ExitStatus, SessionRequest};

const WALTGATE: &str = env!("CARGO_BIN_EXE_waltgate");

/// capabilities(7)
const CAP_SYS_ADMIN: u32 = 21;

/// Makes a static program of a source in tests/system_calls.
fn compiled(name: &str, options: &[&str]) -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let program = directory.path().join(name);
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/system_calls");
    let made = Command::new("gcc")
        .args(["-static", "-O1", "-Wall", "-Werror", "-o"])
        .arg(&program)
        .args(options)
        .arg(source.join(format!("{name}.c")))
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    (directory, program)
}

/// A bench whose image `pc` has the probe in it.
async fn bench_with_the_probe(kind: Kind) -> Bench {
    let bench = Bench::on_the_embedded_engine(|_| {});
    bench.image("pc", kind);
    let (_directory, program) = compiled("probe", &[]);
    let encoded = BASE64_STANDARD.encode(fs::read(program).unwrap());
    let attachment = bench.attach("pc");
    let store = command("base64 -d >/bin/probe && chmod 755 /bin/probe");
    let (outcome, _, finished) = run(&attachment, &store, &encoded, &[]).await;
    assert_eq!(outcome.exit, Some(ExitStatus::Code(0)), "{outcome:?}");
    finished.unwrap();
    attachment.close().await;
    bench
}

/// What a session's script says. Ends its session.
async fn said(attachment: &Arc<dyn Attachment>, request: &SessionRequest, script: &str) -> String {
    let mut console = FakeConsole::new(request.pty.is_some(), &[]);
    let mut session = attachment.start(request, &mut console).await.unwrap();
    let line = format!("stty -echo 2>/dev/null; echo be''gin; {script}; echo e''nd; exit\n");
    session.stdin.write(Bytes::from(line)).await.unwrap();
    let outcome = drain(&mut session).await;
    // What it changed is of no interest.
    let _ = attachment.finish(request, &outcome.end(), &mut console).await;
    let seen = outcome.text().replace('\r', "");
    let (_, rest) = seen.split_once("begin\n").unwrap_or_else(|| panic!("{seen}"));
    rest.split_once("end\n").unwrap_or_else(|| panic!("{seen}")).0.to_owned()
}

#[track_caller]
fn assert_all_are_refused(answers: &str) {
    assert!(answers.lines().count() > 30, "{answers}");
    for answer in answers.lines() {
        assert!(answer.ends_with(" EPERM"), "{answer}\n{answers}");
    }
}

const STATUS: &str = "grep -hE '^(Seccomp|NoNewPrivs):' /proc/1/status /proc/self/status";
/// Of two processes: a filter, and rights by set-user-ID as ever.
const FILTERED: &str = "NoNewPrivs:\t0\nSeccomp:\t2\nNoNewPrivs:\t0\nSeccomp:\t2\n";

#[tokio::test]
async fn calls_are_refused_to_process_1_and_to_its_children() {
    let bench = bench_with_the_probe(Kind::Limited).await;
    let attachment = bench.attach("pc");
    assert_eq!(said(&attachment, &shell(), STATUS).await, FILTERED);
    assert_all_are_refused(&said(&attachment, &shell(), "probe refused").await);
    attachment.close().await;
}

#[tokio::test]
async fn calls_are_refused_to_programs_beside_process_1() {
    let bench = bench_with_the_probe(Kind::Limited).await;
    let attachment = bench.attach("pc");
    let request = command("exec /bin/sh");
    assert_eq!(said(&attachment, &request, STATUS).await, FILTERED);
    assert_all_are_refused(&said(&attachment, &request, "probe refused").await);
    attachment.close().await;
}

#[tokio::test]
async fn calls_are_refused_in_a_booted_operating_system() {
    let bench = bench_with_the_probe(Kind::Os).await;
    let attachment = bench.attach("pc");
    let script = format!("cat /proc/1/comm; ls /etc/booted; {STATUS}; probe refused");
    let answers = said(&attachment, &shell(), &script).await;
    let rest = answers.strip_prefix("init\n/etc/booted\n").unwrap_or_else(|| panic!("{answers}"));
    let rest = rest.strip_prefix(FILTERED).unwrap_or_else(|| panic!("{answers}"));
    assert_all_are_refused(rest);
    attachment.close().await;
}

#[tokio::test]
async fn what_is_not_known_is_not_there_and_the_rest_works() {
    let bench = bench_with_the_probe(Kind::Limited).await;
    let attachment = bench.attach("pc");
    let (outcome, ..) = run(&attachment, &command("probe others"), "", &[]).await;
    let x32 = if cfg!(target_arch = "x86_64") { "x32 SYS\n" } else { "" };
    let expected = "clone3 ENOSYS\nunheard-of ENOSYS\nvsock EAFNOSUPPORT\nbsd ENOSYS\n\
        personality done\ninet done\nmemfd_create done\nchroot done\nthread done\nfork done\n\
        ptrace 0\n";
    assert_eq!(outcome.text(), format!("{expected}{x32}"));
    attachment.close().await;
}

#[tokio::test]
async fn what_it_took_to_set_up_the_filter_no_program_has() {
    let bench = bench_with_the_probe(Kind::Limited).await;
    let attachment = bench.attach("pc");
    let script = "grep -h ^Cap /proc/1/status /proc/self/status";
    let (outcome, ..) = run(&attachment, &command(script), "", &[]).await;
    let said = outcome.text();
    assert_eq!(said.lines().count(), 10, "{said}");
    for line in said.lines() {
        let set = u64::from_str_radix(line.split_whitespace().nth(1).unwrap(), 16).unwrap();
        assert_eq!(set & (1 << CAP_SYS_ADMIN), 0, "{said}");
    }
    attachment.close().await;
}

#[tokio::test]
async fn a_user_becomes_root_by_su() {
    let bench = bench_with_the_probe(Kind::Limited).await;
    let attachment = bench.attach("pc");
    // Root without a password, and busybox's su, which needs a file of its own for its rights.
    let script = "echo 'root::1::::::' >/etc/shadow; cp --remove-destination /bin/busybox /bin/su; \
        chmod 4755 /bin/su; probe nobody sh -c 'id -u; su -c \"id -u\" root'";
    let (outcome, ..) = run(&attachment, &command(script), "", &[]).await;
    let said = String::from_utf8_lossy(&outcome.stderr);
    assert_eq!(outcome.text(), "99\n0\n", "{said}");
    attachment.close().await;
}

#[tokio::test]
async fn without_a_filter_no_program_runs() {
    let (_compiled, wrapper) = compiled("no_filters", &[&format!("-DPROGRAM=\"{WALTGATE}\"")]);
    let directory = tempfile::tempdir().unwrap();
    let (engine, image) = engine_in(directory.path(), &wrapper);
    let spec = script_in(&image, "/busybox touch /here");

    let container = engine.create(&spec).await.unwrap();
    let refused = engine.start(&container).await.unwrap_err().to_string();
    assert!(refused.contains("filter of system calls"), "{refused}");
    assert_eq!(refused.lines().count(), 1, "{refused}");
    assert!(engine.diff(&container).await.unwrap().is_empty(), "it ran");
    engine.remove(&container).await.unwrap();

    // The same where the kernel has them.
    let engine = EmbeddedEngine::supervised_by(WALTGATE.into(), directory.path().to_owned());
    let container = engine.create(&spec).await.unwrap();
    engine.start(&container).await.unwrap();
    assert_eq!(engine.wait(&container).await.unwrap(), 0);
    assert!(!engine.diff(&container).await.unwrap().is_empty());
    engine.remove(&container).await.unwrap();
}
