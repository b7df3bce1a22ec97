//! A mounted root and what is around it, in one view.

use std::os::unix::fs::symlink;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use rustix::fs::{Mode, OFlags};

use super::*;
use crate::backend::{Console, Control, Gone, Output, Stdin, WindowSize};
use crate::sftp::split::{Surroundings, serve};

/// Around the root is another tree, or nobody answers.
struct Around(Option<PathBuf>);

/// A server that says these bytes, whatever it is asked.
struct Talks(Vec<u8>);

#[async_trait]
impl Surroundings for Talks {
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

struct Listens;

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

struct Says(VecDeque<Bytes>);

#[async_trait]
impl Output for Says {
    async fn next(&mut self) -> Option<OutputEvent> {
        self.0.pop_front().map(OutputEvent::Stdout)
    }
}

#[async_trait]
impl Surroundings for Around {
    fn name(&self) -> String {
        "node rpi1".to_owned()
    }

    async fn open(&self, _: bool, _: &mut dyn Console) -> Result<BackendSession, String> {
        let path = self.0.as_ref().ok_or("connection refused")?;
        Ok(crate::sftp::serve(Root::open(path, b"/home").unwrap()))
    }
}

/// Around the root is a tree whose server has no extensions; what it is asked is noted.
struct Plain(PathBuf, Arc<Mutex<Vec<u8>>>);

#[async_trait]
impl Surroundings for Plain {
    fn name(&self) -> String {
        "node rpi1".to_owned()
    }

    async fn open(&self, _: bool, _: &mut dyn Console) -> Result<BackendSession, String> {
        let session = crate::sftp::serve(Root::open(&self.0, b"/home").unwrap());
        let kinds = Kinds(session.stdin, Frames::default(), Arc::clone(&self.1));
        let output = Box::new(Unextended(session.output, false));
        Ok(BackendSession { stdin: Box::new(kinds), output, ..session })
    }
}

struct Kinds(Box<dyn Stdin>, Frames, Arc<Mutex<Vec<u8>>>);

#[async_trait]
impl Stdin for Kinds {
    async fn write(&mut self, data: Bytes) -> Result<(), Gone> {
        self.1.feed(&data);
        while let Some(packet) = self.1.next_frame().unwrap() {
            self.2.lock().unwrap().push(packet[0]);
        }
        self.0.write(data).await
    }

    async fn eof(&mut self) -> Result<(), Gone> {
        self.0.eof().await
    }
}

struct Unextended(Box<dyn Output>, bool);

#[async_trait]
impl Output for Unextended {
    async fn next(&mut self) -> Option<OutputEvent> {
        match self.0.next().await {
            // The greeting is one piece.
            Some(OutputEvent::Stdout(_)) if !std::mem::replace(&mut self.1, true) => {
                Some(OutputEvent::Stdout(Bytes::from_static(&[0, 0, 0, 5, 2, 0, 0, 0, 3])))
            }
            event => event,
        }
    }
}

impl Tree {
    fn mounted(&self) -> Root {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::open(self.path(""), flags, Mode::empty()).unwrap();
        Root::mounted(directory, b"persist", None)
    }

    /// A session with this tree at `/persist`, and nothing around it that answers.
    pub(super) fn alone(&self) -> BackendSession {
        serve(self.mounted(), Arc::new(Around(None))).unwrap()
    }

    /// A session with this tree at `/persist` of a node whose server says these bytes.
    pub(super) fn beside(&self, far: Vec<u8>) -> BackendSession {
        serve(self.mounted(), Arc::new(Talks(far))).unwrap()
    }

    /// A session with this tree at `/persist` of another one.
    pub(super) fn within(&self, other: &Tree) -> BackendSession {
        serve(self.mounted(), Arc::new(Around(Some(other.path(""))))).unwrap()
    }
}

impl Client {
    async fn names_in(&mut self, path: &[u8]) -> Vec<String> {
        let (kind, answer) = self.ask(11, |request| request.string(path)).await;
        assert_eq!(kind, 102);
        let handle = answer.slice(4..);
        let mut names = Vec::new();
        loop {
            let (kind, answer) = self.ask(12, |request| request.string(&handle)).await;
            let mut reader = Reader::new(&answer);
            let count = reader.uint32().unwrap();
            if kind == 101 {
                assert_eq!(count, EOF);
                break;
            }
            for _ in 0..count {
                names.push(String::from_utf8(reader.string().unwrap().to_owned()).unwrap());
                reader.string().unwrap();
                crate::sftp::attributes::Attributes::read(&mut reader).unwrap();
            }
        }
        assert_eq!(self.close(&handle).await, OK);
        names.retain(|name| name != "." && name != "..");
        names.sort();
        names
    }
}

#[tokio::test]
async fn the_root_is_among_what_is_around_it() {
    let (disk, node) = (Tree::new(), Tree::new());
    fs::write(disk.path("here"), "").unwrap();
    fs::write(node.path("there"), "").unwrap();
    let mut client = Client::greets(disk.within(&node)).await;
    assert_eq!(client.names_in(b"/").await, ["home", "persist", "there"]);
    assert_eq!(client.names_in(b"/persist").await, ["here", "home"]);
    assert_eq!(client.names_in(b"/persist/..").await, ["home", "persist", "there"]);
    // The node mounts it itself.
    fs::create_dir(node.path("persist")).unwrap();
    assert_eq!(client.names_in(b"//.").await, ["home", "persist", "there"]);
    assert_eq!(client.finish().await, 0);
}

#[tokio::test]
async fn paths_cross_the_border_as_on_one_machine() {
    let (disk, node) = (Tree::new(), Tree::new());
    fs::create_dir_all(disk.path("a/b")).unwrap();
    fs::create_dir_all(node.path("far/deep")).unwrap();
    symlink("far/deep", node.path("link")).unwrap();
    symlink("/far", disk.path("away")).unwrap();
    symlink("../../far/deep", disk.path("a/up")).unwrap();
    symlink("/persist/a", disk.path("same")).unwrap();
    symlink("loop", disk.path("loop")).unwrap();
    let mut client = Client::greets(disk.within(&node)).await;
    for (path, leads_to) in [
        (".", "/home"),
        ("", "/home"),
        ("new", "/home/new"),
        ("../persist/a", "/persist/a"),
        ("/persist", "/persist"),
        ("/persist/", "/persist"),
        ("/persist/a/../../far", "/far"),
        ("/persist/../persist/a", "/persist/a"),
        ("/far/../persist/a/b/..", "/persist/a"),
        ("/link/../../persist/a", "/persist/a"),
        ("/persist/away/deep", "/far/deep"),
        ("/persist/a/up", "/far/deep"),
        ("/persist/same/b", "/persist/a/b"),
        ("/persist/../..", "/"),
        ("/persistent", "/persistent"),
    ] {
        let found = client.name(16, path.as_bytes()).await;
        assert_eq!(found.as_deref(), Ok(leads_to.as_bytes()), "{path}");
    }
    assert_eq!(client.name(16, b"/persist/loop/x").await, Err(NO_SUCH_FILE));
    assert_eq!(client.finish().await, 0);
}

#[tokio::test]
async fn requests_on_both_sides_fail_as_between_file_systems() {
    let (disk, node) = (Tree::new(), Tree::new());
    fs::write(disk.path("here"), "here").unwrap();
    fs::write(node.path("there"), "there").unwrap();
    symlink("/home", disk.path("away")).unwrap();
    let mut client = Client::greets(disk.within(&node)).await;
    let (here, there): (&[u8], &[u8]) = (b"/persist/here", b"/there");
    for (from, to) in [(here, &b"/new"[..]), (there, b"/persist/new"), (here, b"/persist/away/x")] {
        assert_eq!(client.paths(18, &[from, to]).await, FAILURE);
        assert_eq!(client.extended("posix-rename@openssh.com", &[from, to]).await, FAILURE);
        assert_eq!(client.extended("hardlink@openssh.com", &[from, to]).await, FAILURE);
    }
    let near = client.open(here, READ).await.unwrap();
    let far = client.open(b"/copy", WRITE | CREATE).await.unwrap();
    let copy = |request: &mut Writer| {
        request.string(b"copy-data");
        request.string(&near);
        request.uint64(0);
        request.uint64(0);
        request.string(&far);
        request.uint64(0);
    };
    assert_eq!(client.status(200, copy).await, FAILURE);
    assert_eq!(client.write(&far, 0, b"far").await, OK);
    assert_eq!(client.read(&near, 0, 9).await.unwrap(), "here");
    assert_eq!(client.close(&near).await, OK);
    assert_eq!(client.close(&far).await, OK);
    // Both on the far side, by a link of the near one.
    assert_eq!(client.paths(18, &[b"/copy", b"/home/moved"]).await, OK);
    let moved = [&b"/persist/away/moved"[..], b"/persist/away/again"];
    assert_eq!(client.paths(18, &moved).await, OK);
    assert_eq!(fs::read(node.path("home/again")).unwrap(), b"far");
    assert_eq!(fs::read(disk.path("here")).unwrap(), b"here");
    assert_eq!(client.finish().await, 0);
}

#[tokio::test]
async fn handles_of_one_session_and_side_are_no_others() {
    let (disk, node) = (Tree::new(), Tree::new());
    fs::write(disk.path("here"), "here").unwrap();
    let mut client = Client::greets(disk.within(&node)).await;
    let mut other = Client::greets(disk.within(&node)).await;
    let near = client.open("/persist/here", READ).await.unwrap();
    assert_eq!(other.read(&near, 0, 4).await, Err(FAILURE));
    assert_eq!(other.close(&near).await, FAILURE);
    assert_eq!(other.read(b"", 0, 4).await, Err(FAILURE));
    assert_eq!(client.read(&near, 0, 4).await.unwrap(), "here");
    assert_eq!(other.finish().await, 0);
}

#[tokio::test]
async fn without_surroundings_the_rest_is_said_to_be_off() {
    let disk = Tree::new();
    fs::write(disk.path("here"), "here").unwrap();
    let mut client = Client::greets(disk.alone()).await;
    let near = client.open("/persist/here", READ).await.unwrap();
    assert_eq!(client.read(&near, 0, 4).await.unwrap(), "here");
    client.request(17, |request| request.string(b"/etc")).await;
    assert_eq!(client.answer().await[0], 101);
    assert_eq!(client.stderr, "waltgate: node rpi1 does not answer: connection refused\n");
    assert_eq!(client.names_in(b"/").await, ["persist"]);
    assert_eq!(client.name(16, b".").await.unwrap(), b"/");
    assert_eq!(client.name(16, b"/persist/..").await.unwrap(), b"/");
    assert_eq!(client.name(16, b"/etc/../persist").await.unwrap(), b"/persist");
    assert_eq!(client.open("/etc/passwd", READ).await, Err(FAILURE));
    assert_eq!(client.finish().await, 0);
}

#[tokio::test]
async fn what_the_far_side_has_no_extension_for_is_done_without_or_refused() {
    let (disk, node) = (Tree::new(), Tree::new());
    for name in ["a", "b"] {
        fs::write(node.path(name), name).unwrap();
        fs::write(disk.path(name), name).unwrap();
    }
    let kinds = Arc::new(Mutex::new(Vec::new()));
    let plain = Plain(node.path(""), Arc::clone(&kinds));
    let mut client = Client::greets(serve(disk.mounted(), Arc::new(plain)).unwrap()).await;
    let rename = "posix-rename@openssh.com";
    assert_eq!(client.extended(rename, &[b"/a", b"/home/moved"]).await, OK);
    // What would be replaced is not.
    assert_eq!(client.extended(rename, &[b"/home/moved", b"/b"]).await, FAILURE);
    assert_eq!(fs::read(node.path("b")).unwrap(), b"b");
    assert_eq!(fs::read(node.path("home/moved")).unwrap(), b"a");
    assert_eq!(client.extended(rename, &[b"/persist/a", b"/persist/b"]).await, OK);
    assert_eq!(client.extended("hardlink@openssh.com", &[b"/b", b"/c"]).await, UNSUPPORTED);
    assert_eq!(client.extended("hardlink@openssh.com", &[b"/persist/b", b"/persist/c"]).await, OK);
    let handle = client.open("/b", READ | WRITE).await.unwrap();
    let fsync = |request: &mut Writer| {
        request.string(b"fsync@openssh.com");
        request.string(&handle);
    };
    let (_, answer) = client.ask(200, fsync).await;
    let mut reader = Reader::new(&answer);
    assert_eq!(reader.uint32().unwrap(), UNSUPPORTED);
    assert_eq!(reader.string().unwrap(), b"node rpi1 has no fsync@openssh.com");
    for (path, leads_to) in [
        ("~", Ok(&b"/home"[..])),
        ("~//moved", Ok(b"/home/moved")),
        ("/b", Ok(b"/b")),
        ("~user/x", Err(UNSUPPORTED)),
    ] {
        let expand = |request: &mut Writer| {
            request.string(b"expand-path@openssh.com");
            request.string(path.as_bytes());
        };
        let (kind, answer) = client.ask(200, expand).await;
        let mut reader = Reader::new(&answer);
        let first = reader.uint32().unwrap();
        let found = if kind == 104 { Ok(reader.string().unwrap()) } else { Err(first) };
        assert_eq!(found, leads_to, "{path}");
    }
    assert_eq!(client.close(&handle).await, OK);
    assert!(!kinds.lock().unwrap().contains(&200));
    assert_eq!(client.finish().await, 0);
}

#[tokio::test]
async fn where_nothing_is_mounted_what_is_missing_there_is_said_to_be() {
    let node = Tree::new();
    fs::create_dir(node.path("persist")).unwrap();
    fs::write(node.path("persist/own"), "own").unwrap();
    let reason = "/persist of node rpi1: it has none";
    let session = crate::sftp::serve(Root::open(&node.path(""), b"/home").unwrap());
    let session = crate::sftp::unmounted(session, b"persist", reason.to_owned());
    let mut client = Client::greets(session).await;
    for (path, words) in [
        ("/persist/none", reason),
        ("//./persist/none/x", reason),
        ("/persist/../none", "No such file or directory"),
        ("/none", "No such file or directory"),
    ] {
        let (_, answer) = client.ask(17, |request| request.string(path.as_bytes())).await;
        let mut reader = Reader::new(&answer);
        assert_eq!(reader.uint32().unwrap(), NO_SUCH_FILE, "{path}");
        assert_eq!(reader.string().unwrap(), words.as_bytes(), "{path}");
    }
    // What it has there itself is no less there.
    let handle = client.open("/persist/own", READ).await.unwrap();
    assert_eq!(client.read(&handle, 0, 9).await.unwrap(), "own");
    assert_eq!(client.stderr, "");
    assert_eq!(client.finish().await, 0);
    assert_eq!(client.stderr, format!("waltgate: {reason}\n"));
}

#[tokio::test]
async fn a_stream_that_makes_no_sense_ends_the_session() {
    let (disk, node) = (Tree::new(), Tree::new());
    let mut client = Client::greets(disk.within(&node)).await;
    client.send(vec![0xff; 20]).await;
    assert_eq!(client.drain().await, 1);
    assert!(client.stderr.contains("not understood"), "{}", client.stderr);
}
