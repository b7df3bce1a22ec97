//! Trees that try to lead outside.

use std::os::unix::fs::symlink;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;

/// Whatever is asked, nothing beside the root is seen or changed.
async fn expect_shut_in(client: &mut Client, tree: &Tree, top: &str, directory: &str) {
    let directory = format!("{top}{directory}");
    let (bait, stolen) = (format!("{top}/bait"), format!("{top}/stolen"));
    let (bait, stolen) = (bait.as_bytes(), stolen.as_bytes());
    let secret = format!("{directory}/secret");
    let new = format!("{directory}/new");
    let (secret, new) = (secret.as_bytes(), new.as_bytes());
    if let Ok(handle) = client.open(secret, READ).await {
        let read = client.read(&handle, 0, 100).await.unwrap_or_default();
        assert_ne!(&read[..], b"secret");
        client.close(&handle).await;
    }
    if let Ok(handle) = client.open(new, WRITE | CREATE).await {
        client.write(&handle, 0, b"planted").await;
        client.close(&handle).await;
    }
    client.paths(14, &[new, &[0; 4]]).await;
    client.paths(18, &[bait, new]).await;
    client.extended("posix-rename@openssh.com", &[bait, secret]).await;
    client.extended("hardlink@openssh.com", &[secret, stolen]).await;
    client.paths(20, &[b"x", new]).await;
    client.paths(13, &[secret]).await;
    let shut = |request: &mut Writer| {
        request.string(secret);
        request.uint32(4);
        request.uint32(0);
    };
    client.status(9, shut).await;
    let found: Vec<_> = fs::read_dir(tree.outside()).unwrap().map(|e| e.unwrap()).collect();
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(fs::read(tree.outside().join("secret")).unwrap(), b"secret");
    let taken = fs::read(tree.path("stolen")).unwrap_or_default();
    assert_ne!(taken, b"secret");
}

#[tokio::test]
async fn no_link_and_no_dots_lead_outside() {
    let tree = Tree::new();
    let mut client = Client::greeted(&tree).await;
    expect_no_way_out(&mut client, &tree, "").await;
}

#[tokio::test]
async fn no_link_and_no_dots_lead_out_of_a_mounted_root() {
    let tree = Tree::new();
    let mut client = Client::greets(tree.alone()).await;
    expect_no_way_out(&mut client, &tree, "/persist").await;
}

async fn expect_no_way_out(client: &mut Client, tree: &Tree, top: &str) {
    let outside = tree.outside();
    symlink(&outside, tree.path("absolute")).unwrap();
    symlink("../outside", tree.path("relative")).unwrap();
    symlink("/../../../../../../../../proc/self/cwd/..", tree.path("far")).unwrap();
    symlink("absolute", tree.path("chain")).unwrap();
    fs::write(tree.path("bait"), "bait").unwrap();
    let outside = outside.to_str().unwrap();
    for directory in [
        "/absolute",
        "/relative",
        "/chain",
        "/far",
        "/../outside",
        "/../../outside",
        "/home/../../outside",
        outside,
    ] {
        expect_shut_in(client, tree, top, directory).await;
    }
    assert_eq!(client.finish().await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_race_leads_outside() {
    let tree = Tree::new();
    let mut client = Client::greeted(&tree).await;
    expect_no_race_out(&mut client, &tree, "").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_race_leads_out_of_a_mounted_root() {
    let tree = Tree::new();
    let mut client = Client::greets(tree.alone()).await;
    expect_no_race_out(&mut client, &tree, "/persist").await;
}

async fn expect_no_race_out(client: &mut Client, tree: &Tree, top: &str) {
    fs::create_dir(tree.path("real")).unwrap();
    fs::create_dir(tree.path("real/deep")).unwrap();
    symlink(tree.outside(), tree.path("trap")).unwrap();
    fs::write(tree.path("bait"), "bait").unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let swapper = {
        let (stop, real, trap) = (Arc::clone(&stop), tree.path("real"), tree.path("trap"));
        let moving = (tree.path("real/deep"), tree.path("deep"));
        std::thread::spawn(move || {
            let mut swaps = 0_u32;
            while !stop.load(Ordering::Relaxed) {
                let flags = rustix::fs::RenameFlags::EXCHANGE;
                let cwd = rustix::fs::CWD;
                rustix::fs::renameat_with(cwd, &real, cwd, &trap, flags).unwrap();
                rustix::fs::renameat_with(cwd, &real, cwd, &trap, flags).unwrap();
                // What `..` is changes under those who go through it.
                fs::rename(&moving.0, &moving.1).unwrap();
                fs::rename(&moving.1, &moving.0).unwrap();
                swaps += 1;
            }
            swaps
        })
    };
    for _ in 0..150 {
        expect_shut_in(client, tree, top, "/real").await;
        expect_shut_in(client, tree, top, "/real/deep/../../../outside").await;
        fs::remove_file(tree.path("stolen")).ok();
        fs::write(tree.path("bait"), "bait").unwrap();
    }
    stop.store(true, Ordering::Relaxed);
    assert!(swapper.join().unwrap() > 0);
    client.finish().await;
}

#[tokio::test]
async fn what_is_no_file_is_not_opened() {
    let tree = Tree::new();
    let pipe = std::process::Command::new("mkfifo").arg(tree.path("pipe")).status().unwrap();
    assert!(pipe.success());
    let _socket = std::os::unix::net::UnixListener::bind(tree.path("socket")).unwrap();
    symlink("pipe", tree.path("link")).unwrap();
    let mut client = Client::greeted(&tree).await;
    for path in ["/pipe", "/link", "/socket", "/home"] {
        for flags in [READ, WRITE, READ | WRITE | CREATE] {
            assert_eq!(client.open(path, flags).await, Err(FAILURE), "{path}");
        }
        let size = |request: &mut Writer| {
            request.string(path.as_bytes());
            request.uint32(1);
            request.uint64(0);
        };
        assert_eq!(client.status(9, size).await, FAILURE);
    }
    assert_eq!(client.finish().await, 0);
}

#[tokio::test]
async fn files_of_the_kernel_are_seen_and_not_opened() {
    let root = Root::open(std::path::Path::new("/proc"), b"/").unwrap();
    let mut client = Client::of(crate::sftp::serve(root));
    client.send(vec![0, 0, 0, 5, 1, 0, 0, 0, 3]).await;
    client.answer().await;
    assert_eq!(client.ask(17, |request| request.string(b"/version")).await.0, 105);
    assert_eq!(client.open("/version", READ).await, Err(PERMISSION_DENIED));
    assert_eq!(client.open("/sys/kernel/hostname", WRITE).await, Err(PERMISSION_DENIED));
    assert_eq!(client.paths(14, &[b"/sys/kernel/new", &[0; 4]]).await, PERMISSION_DENIED);
    // A link of the kernel leads anywhere.
    assert_eq!(client.open("/self/root/etc/passwd", READ).await, Err(NO_SUCH_FILE));
    assert_eq!(client.finish().await, 0);
}
