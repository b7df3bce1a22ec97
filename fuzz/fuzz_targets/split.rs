//! Any bytes from an SFTP client, and any from the node around the root: the session comes to an
//! end with an exit status, and nothing beside the root is touched.

#![no_main]

use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Arc, LazyLock};

use async_trait::async_trait;
use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};
use waltgate::backend::{
    BackendSession, Console, Control, Gone, Output, OutputEvent, Stdin, WindowSize,
};
use waltgate::sftp::Root;
use waltgate::sftp::split::{Surroundings, serve};

static RUNTIME: LazyLock<Runtime> =
    LazyLock::new(|| Builder::new_current_thread().enable_time().build().expect("a runtime"));

/// A node whose server says these bytes, whatever it is asked.
struct Node(Vec<u8>);

struct Listens;

struct Says(VecDeque<Bytes>);

#[async_trait]
impl Surroundings for Node {
    fn name(&self) -> String {
        "node rpi1".to_owned()
    }

    async fn open(&self, _: bool, _: &mut dyn Console) -> Result<BackendSession, String> {
        Ok(BackendSession {
            stdin: Box::new(Listens),
            control: Arc::new(Listens),
            output: Box::new(Says(self.0.chunks(50).map(Bytes::copy_from_slice).collect())),
            output_is_shared: false,
        })
    }
}

#[async_trait]
impl Stdin for Listens {
    async fn write(&mut self, _: Bytes) -> Result<(), Gone> {
        Ok(())
    }

    async fn eof(&mut self) -> Result<(), Gone> {
        Ok(())
    }
}

#[async_trait]
impl Control for Listens {
    async fn window_change(&self, _: WindowSize) -> Result<(), Gone> {
        Ok(())
    }

    async fn signal(&self, _: &str) -> Result<(), Gone> {
        Ok(())
    }

    async fn hang_up(&self) {}
}

#[async_trait]
impl Output for Says {
    async fn next(&mut self) -> Option<OutputEvent> {
        self.0.pop_front().map(OutputEvent::Stdout)
    }
}

fn tree() -> TempDir {
    let tree = tempfile::tempdir().expect("a directory");
    std::fs::create_dir(tree.path().join("root")).expect("a root");
    std::fs::write(tree.path().join("secret"), "secret").expect("a file beside it");
    std::os::unix::fs::symlink("../secret", tree.path().join("root/link")).expect("a link");
    tree
}

async fn session(root: &Path, client: &[u8], node: &[u8]) -> bool {
    let directory = std::fs::File::open(root).expect("the root");
    let root = Root::mounted(directory.into(), b"persist", None);
    let greeting: &[u8] = &[0, 0, 0, 5, 2, 0, 0, 0, 3];
    let node = Node([greeting, node].concat());
    let mut session = serve(root, Arc::new(node)).expect("a session");
    let greeting: &[u8] = &[0, 0, 0, 5, 1, 0, 0, 0, 3];
    let feeding = async {
        for piece in [greeting].into_iter().chain(client.chunks(100)) {
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

fuzz_target!(|input: (&[u8], &[u8])| {
    let tree = tree();
    assert!(RUNTIME.block_on(session(&tree.path().join("root"), input.0, input.1)));
    let secret = std::fs::read(tree.path().join("secret")).expect("the file beside the root");
    assert_eq!(secret, b"secret");
    assert_eq!(std::fs::read_dir(tree.path()).expect("the directory").count(), 2);
});
