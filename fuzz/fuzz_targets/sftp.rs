//! Any bytes from an SFTP client: the session comes to an end with an exit status, and nothing
//! beside the root is touched.

#![no_main]

use std::path::Path;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};
use waltgate::backend::OutputEvent;
use waltgate::sftp::{Root, serve};

static RUNTIME: LazyLock<Runtime> =
    LazyLock::new(|| Builder::new_current_thread().build().expect("a runtime"));

fn tree() -> TempDir {
    let tree = tempfile::tempdir().expect("a directory");
    std::fs::create_dir(tree.path().join("root")).expect("a root");
    std::fs::write(tree.path().join("secret"), "secret").expect("a file beside it");
    std::os::unix::fs::symlink("../secret", tree.path().join("root/link")).expect("a link");
    tree
}

async fn session(root: &Path, input: &[u8]) -> bool {
    let root = Root::open(root, b"/").expect("the root");
    let mut session = serve(root);
    let greeting: &[u8] = &[0, 0, 0, 5, 1, 0, 0, 0, 3];
    let feeding = async {
        for piece in [greeting].into_iter().chain(input.chunks(100)) {
            if session.stdin.write(piece.to_vec().into()).await.is_err() {
                return;
            }
        }
        session.stdin.eof().await.ok();
    };
    let draining = async {
        let mut exited = false;
        while let Some(event) = session.output.next().await {
            exited |= matches!(event, OutputEvent::Exit(_));
        }
        exited
    };
    tokio::join!(feeding, draining).1
}

fuzz_target!(|input: &[u8]| {
    let tree = tree();
    assert!(RUNTIME.block_on(session(&tree.path().join("root"), input)));
    let secret = std::fs::read(tree.path().join("secret")).expect("the file beside the root");
    assert_eq!(secret, b"secret");
    assert_eq!(std::fs::read_dir(tree.path()).expect("the directory").count(), 2);
});
