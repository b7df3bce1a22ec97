//! What requests do to files.

use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};

use super::*;

#[tokio::test]
async fn paths_are_resolved_from_home_and_from_the_root() {
    let tree = Tree::new();
    fs::create_dir_all(tree.path("a/b")).unwrap();
    symlink("/a", tree.path("link")).unwrap();
    symlink("..", tree.path("a/b/up")).unwrap();
    symlink("loop", tree.path("loop")).unwrap();
    let mut client = Client::greeted(&tree).await;
    for (path, real) in [
        ("", "/home"),
        (".", "/home"),
        ("..", "/"),
        ("../../..", "/"),
        ("x", "/home/x"),
        ("/", "/"),
        ("//a/./b//", "/a/b"),
        ("/link/b", "/a/b"),
        ("/link/b/up/b", "/a/b"),
        ("/link/..", "/"),
        ("/a/new", "/a/new"),
    ] {
        let found = client.name(16, path.as_bytes()).await.unwrap();
        assert_eq!(String::from_utf8(found).unwrap(), real, "{path}");
    }
    assert_eq!(client.name(16, b"/no/such").await, Err(NO_SUCH_FILE));
    assert_eq!(client.name(16, b"/loop").await, Err(NO_SUCH_FILE));
    assert_eq!(client.name(19, b"/link").await.unwrap(), b"/a");
    assert_eq!(client.name(19, b"/a").await, Err(BAD_MESSAGE));
    let expand = |path: &'static [u8]| {
        move |request: &mut Writer| {
            request.string(b"expand-path@openssh.com");
            request.string(path);
        }
    };
    let (_, answer) = client.ask(200, expand(b"~/x")).await;
    assert_eq!(answer[8..15], *b"/home/x");
    assert_eq!(client.finish().await, 0);
}

#[tokio::test]
async fn reads_that_overlap_are_answered_in_order_and_see_the_writes_before_them() {
    let tree = Tree::new();
    let mut client = Client::greeted(&tree).await;
    let handle = client.open("/file", READ | WRITE | CREATE).await.unwrap();
    // Nobody waits for an answer in between.
    for round in 0..100_u32 {
        let data = round.to_be_bytes().repeat(2000);
        let mut requests = Vec::new();
        let mut write = Writer::answer(6, round * 10);
        write.string(&handle);
        write.uint64(0);
        write.string(&data);
        requests.extend(write.finish());
        for part in 0..4 {
            let mut read = Writer::answer(5, round * 10 + 1 + part);
            read.string(&handle);
            read.uint64(u64::from(part) * 2000);
            read.uint32(2000);
            requests.extend(read.finish());
        }
        client.send(requests).await;
        for part in 0..5_u32 {
            let answer = client.answer().await;
            assert_eq!(answer[1..5], (round * 10 + part).to_be_bytes());
            if part > 0 {
                assert!(answer[9..] == data[..2000], "round {round}, part {part}");
            }
        }
    }
    client.close(&handle).await;
    assert_eq!(client.finish().await, 0);
}

#[tokio::test]
async fn files_are_opened_as_the_flags_say() {
    let tree = Tree::new();
    let mut client = Client::greeted(&tree).await;
    assert_eq!(client.open("/file", READ).await, Err(NO_SUCH_FILE));
    assert_eq!(client.open("/file", WRITE).await, Err(NO_SUCH_FILE));
    let first = client.open("/file", WRITE | CREATE | EXCLUSIVE).await.unwrap();
    assert_eq!(client.write(&first, 0, b"first").await, OK);
    assert_eq!(client.open("/file", WRITE | CREATE | EXCLUSIVE).await, Err(FAILURE));
    let appending = client.open("/file", WRITE | APPEND).await.unwrap();
    assert_eq!(client.write(&appending, 0, b"+more").await, OK);
    assert_eq!(fs::read(tree.path("file")).unwrap(), b"first+more");
    assert_ne!(client.read(&appending, 0, 9).await, Ok(Bytes::new()));
    let reading = client.open("/file", READ).await.unwrap();
    assert_ne!(client.write(&reading, 0, b"x").await, OK);
    let truncated = client.open("/file", WRITE | CREATE | 0x10).await.unwrap();
    assert_eq!(fs::read(tree.path("file")).unwrap(), b"");
    assert_eq!(client.open("/home", WRITE).await, Err(FAILURE));
    for handle in [first, appending, reading, truncated] {
        assert_eq!(client.close(&handle).await, OK);
    }
    // The link leads to a file that is made then.
    symlink("/home/new", tree.path("dangling")).unwrap();
    symlink("dangling", tree.path("twice")).unwrap();
    let handle = client.open("/twice", WRITE | CREATE).await.unwrap();
    client.close(&handle).await;
    assert!(tree.path("home/new").exists());
    assert_eq!(client.open("/twice", WRITE | CREATE | EXCLUSIVE).await, Err(FAILURE));
}

#[tokio::test]
async fn uploads_that_are_not_finished_are_told_at_the_end() {
    let tree = Tree::new();
    let mut client = Client::greeted(&tree).await;
    let handle = client.open("half\x1b", WRITE | CREATE).await.unwrap();
    assert_eq!(client.write(&handle, 0, b"half").await, OK);
    assert_eq!(client.finish().await, 1);
    assert_eq!(
        client.stderr,
        "waltgate: /home/half\\u{1b} was still being written when the session ended\n"
    );
    assert_eq!(fs::read(tree.path("home/half\x1b")).unwrap(), b"half");
}

#[tokio::test]
async fn a_client_that_drops_its_connection_ended_well_if_nothing_was_left_undone() {
    let tree = Tree::new();
    for (closes, ends, well) in
        [(true, true, true), (false, true, false), (true, false, true), (false, false, false)]
    {
        let mut client = Client::greeted(&tree).await;
        let handle = client.open("file", WRITE | CREATE).await.unwrap();
        if closes {
            client.close(&handle).await;
        }
        // It waits for input again.
        let next = client.session.output.next();
        assert!(futures_util::FutureExt::now_or_never(next).is_none());
        if ends {
            client.session.stdin.eof().await.unwrap();
        }
        let ended = client.session.control.ended_on_eof().await;
        assert_eq!(ended, well.then_some(ExitStatus::Code(0)));
    }
    // A request that nobody has looked at.
    let mut client = Client::greeted(&tree).await;
    client.request(17, |request| request.string(b".")).await;
    client.session.stdin.eof().await.unwrap();
    assert_eq!(client.session.control.ended_on_eof().await, None);
}

#[tokio::test]
async fn a_full_disk_is_said_to_be_one() {
    // /dev/full fails as a full disk does, but it is a device: a file system of a given size stands
    // in for it.
    let tree = Tree::new();
    let small = tree.path("small");
    fs::create_dir(&small).unwrap();
    let mounted = std::process::Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=64k", "tmpfs"])
        .arg(&small)
        .status();
    if !mounted.is_ok_and(|status| status.success()) {
        eprintln!("skipped: nothing can be mounted here");
        return;
    }
    let mut client = Client::greeted(&tree).await;
    let handle = client.open("/small/file", WRITE | CREATE).await.unwrap();
    let data = vec![7; 100_000];
    assert_eq!(client.write(&handle, 0, &data).await, FAILURE);
    assert_eq!(client.close(&handle).await, OK);
    let code = client.finish().await;
    std::process::Command::new("umount").arg(&small).status().unwrap();
    assert_eq!(code, 1);
    assert_eq!(client.stderr, "waltgate: /small/file was not written: No space left on device\n");
}

#[tokio::test]
async fn renames_replace_only_where_they_may() {
    let tree = Tree::new();
    fs::write(tree.path("a"), "a").unwrap();
    fs::write(tree.path("b"), "b").unwrap();
    let mut client = Client::greeted(&tree).await;
    assert_eq!(client.paths(18, &[b"/a", b"/b"]).await, FAILURE);
    assert_eq!(client.paths(18, &[b"/a", b"/c"]).await, OK);
    assert_eq!(client.extended("posix-rename@openssh.com", &[b"/c", b"/b"]).await, OK);
    assert_eq!(fs::read(tree.path("b")).unwrap(), b"a");
    assert_eq!(client.extended("hardlink@openssh.com", &[b"/b", b"/hard"]).await, OK);
    assert_eq!(fs::metadata(tree.path("b")).unwrap().nlink(), 2);
    // The target first, as OpenSSH has it.
    assert_eq!(client.paths(20, &[b"any thing", b"/soft"]).await, OK);
    assert_eq!(fs::read_link(tree.path("soft")).unwrap().to_str(), Some("any thing"));
    for path in [&b"/"[..], b"/home/..", b"/home/."] {
        assert_ne!(client.paths(13, &[path]).await, OK);
        assert_ne!(client.paths(15, &[path]).await, OK);
        assert_ne!(client.paths(18, &[path, b"/x"]).await, OK);
    }
    assert_eq!(client.paths(15, &[b"/home/"]).await, OK);
    assert_eq!(client.finish().await, 0);
}

#[tokio::test]
async fn attributes_are_set_on_files_and_on_links_themselves() {
    let tree = Tree::new();
    fs::write(tree.path("file"), "content").unwrap();
    symlink("file", tree.path("link")).unwrap();
    let mut client = Client::greeted(&tree).await;
    let attributes = |path: &'static [u8]| {
        move |request: &mut Writer| {
            request.string(path);
            request.uint32(1 | 4 | 8);
            request.uint64(3);
            request.uint32(0o104_640);
            request.uint32(0);
            // Later than 2038.
            request.uint32(u32::MAX);
        }
    };
    assert_eq!(client.status(9, attributes(b"/link")).await, OK);
    let metadata = fs::metadata(tree.path("file")).unwrap();
    assert_eq!((metadata.len(), metadata.permissions().mode()), (3, 0o104_640));
    assert_eq!((metadata.atime(), metadata.mtime()), (0, i64::from(u32::MAX)));

    let times = |request: &mut Writer| {
        request.string(b"lsetstat@openssh.com");
        request.string(b"/link");
        request.uint32(8);
        request.uint32(5);
        request.uint32(6);
    };
    assert_eq!(client.status(200, times).await, OK);
    assert_eq!(fs::symlink_metadata(tree.path("link")).unwrap().mtime(), 6);
    assert_eq!(fs::metadata(tree.path("file")).unwrap().mtime(), i64::from(u32::MAX));
    let mode = |request: &mut Writer| {
        request.string(b"lsetstat@openssh.com");
        request.string(b"/link");
        request.uint32(4);
        request.uint32(0);
    };
    assert_eq!(client.status(200, mode).await, UNSUPPORTED);

    // Before 1970: the protocol cannot say it.
    let old = rustix::fs::Timestamps {
        last_access: rustix::fs::Timespec { tv_sec: -1, tv_nsec: 0 },
        last_modification: rustix::fs::Timespec { tv_sec: -1_000_000, tv_nsec: 0 },
    };
    rustix::fs::utimensat(rustix::fs::CWD, tree.path("file"), &old, rustix::fs::AtFlags::empty())
        .unwrap();
    let (kind, answer) = client.ask(17, |request| request.string(b"/file")).await;
    assert_eq!((kind, &answer[24..]), (105, &[0; 8][..]));
    assert_eq!(client.finish().await, 0);
}

#[tokio::test]
async fn times_that_the_protocol_cannot_say_are_the_nearest_that_it_can() {
    let tree = Tree::new();
    for (name, seconds, said) in [("before", -1000, 0), ("behind", 1_i64 << 33, u32::MAX)] {
        fs::write(tree.path(name), "").unwrap();
        let time = rustix::fs::Timespec { tv_sec: seconds, tv_nsec: 0 };
        let times = rustix::fs::Timestamps { last_access: time, last_modification: time };
        let flags = rustix::fs::AtFlags::empty();
        rustix::fs::utimensat(rustix::fs::CWD, tree.path(name), &times, flags).unwrap();
        for (mut client, top) in tree.views().await {
            let path = format!("{top}/{name}");
            let (kind, answer) = client.ask(17, |request| request.string(path.as_bytes())).await;
            assert_eq!(kind, 105);
            let times = [said.to_be_bytes(), said.to_be_bytes()].concat();
            assert_eq!(answer[answer.len() - 8..], times);
            let top = format!("{top}/");
            let (kind, handle) = client.ask(11, |request| request.string(top.as_bytes())).await;
            assert_eq!(kind, 102);
            let (kind, _) = client.ask(12, |request| request.string(&handle[4..])).await;
            assert_eq!(kind, 104);
            assert_eq!(client.finish().await, 0);
        }
    }
}

#[tokio::test]
async fn directories_are_listed_whole_with_names_of_users() {
    let tree = Tree::new();
    fs::create_dir(tree.path("etc")).unwrap();
    fs::write(tree.path("etc/passwd"), "toor:x:0:0::/home:/bin/sh\nbroken\n").unwrap();
    fs::create_dir(tree.path("many")).unwrap();
    for number in 0..3000 {
        fs::write(tree.path("many").join(number.to_string()), "").unwrap();
    }
    let mut client = Client::greeted(&tree).await;
    let (_, handle) = client.ask(11, |request| request.string(b"/many")).await;
    let handle = handle.slice(4..);
    let mut names = Vec::new();
    loop {
        let (kind, answer) = client.ask(12, |request| request.string(&handle)).await;
        if kind == 101 {
            assert_eq!(Reader::new(&answer).uint32().unwrap(), EOF);
            break;
        }
        assert!(answer.len() < 70_000);
        let mut reader = Reader::new(&answer);
        for _ in 0..reader.uint32().unwrap() {
            names.push(reader.string().unwrap().to_owned());
            let long = String::from_utf8_lossy(reader.string().unwrap()).into_owned();
            assert!(long.contains(" toor ") || rustix::process::getuid().as_raw() != 0, "{long}");
            super::super::attributes::Attributes::read(&mut reader).unwrap();
        }
    }
    assert_eq!(names.len(), 3002);
    assert_eq!(client.close(&handle).await, OK);
    assert_eq!(client.finish().await, 0);
}

#[tokio::test]
async fn data_is_copied_on_the_server_and_holes_stay_holes() {
    let tree = Tree::new();
    let mut client = Client::greeted(&tree).await;
    let from = client.open("/from", READ | WRITE | CREATE).await.unwrap();
    let zeros = vec![0; 200_000];
    for part in 0..50 {
        assert_eq!(client.write(&from, part * 200_000, &zeros).await, OK);
    }
    assert_eq!(client.write(&from, 10_000_000, b"end").await, OK);
    let written = fs::metadata(tree.path("from")).unwrap();
    assert_eq!(written.len(), 10_000_003);
    assert!(written.blocks() < 100, "{} blocks", written.blocks());
    // Zeros over data are zeros.
    assert_eq!(client.write(&from, 9_999_000, &vec![0; 5000]).await, OK);

    let to = client.open("/to", WRITE | CREATE).await.unwrap();
    let copy = |request: &mut Writer| {
        request.string(b"copy-data");
        request.string(&from);
        request.uint64(9_999_990);
        request.uint64(0);
        request.string(&to);
        request.uint64(2);
    };
    assert_eq!(client.status(200, copy).await, OK);
    // Two bytes of nothing, and from 9,999,990 to the end at 10,004,000.
    assert_eq!(fs::metadata(tree.path("to")).unwrap().len(), 2 + 4010);
    client.close(&from).await;
    client.close(&to).await;
    assert_eq!(client.finish().await, 0);
    let mut end = [1; 3];
    fs::File::open(tree.path("from")).unwrap().read_exact_at(&mut end, 10_000_000).unwrap();
    assert_eq!(end, [0; 3]);
}

#[tokio::test]
async fn whatever_makes_files_larger_needs_room() {
    let tree = Tree::new();
    let room = Arc::new(Room::new(100_000));
    let root = tree.root().with_room(Some(Arc::clone(&room)));
    let mut client = Client::greets(super::super::serve(root)).await;
    let file = client.open("/file", READ | WRITE | CREATE).await.unwrap();
    assert_eq!(client.write(&file, 0, &[1; 60_000]).await, OK);
    assert_eq!(client.write(&file, 0, &[2; 60_000]).await, OK);
    assert_eq!(client.write(&file, 60_000, &[1; 60_000]).await, FAILURE);
    // Also a hole.
    assert_eq!(client.write(&file, 1 << 40, b"1").await, FAILURE);
    let set_size = |request: &mut Writer| {
        request.string(b"/file");
        request.uint32(1);
        request.uint64(1 << 40);
    };
    assert_eq!(client.status(9, set_size).await, FAILURE);
    let set_open_size = |request: &mut Writer| {
        request.string(&file);
        request.uint32(1);
        request.uint64(1 << 40);
    };
    assert_eq!(client.status(10, set_open_size).await, FAILURE);
    let copy = client.open("/copy", WRITE | CREATE).await.unwrap();
    let copy_all = |request: &mut Writer| {
        request.string(b"copy-data");
        request.string(&file);
        request.uint64(0);
        request.uint64(0);
        request.string(&copy);
        request.uint64(0);
    };
    assert_eq!(client.status(200, copy_all).await, FAILURE);
    let append = client.open("/file", WRITE | APPEND).await.unwrap();
    assert_eq!(client.write(&append, 0, &[1; 60_000]).await, FAILURE);
    assert_eq!(fs::metadata(tree.path("file")).unwrap().len(), 60_000);
    assert_eq!(fs::metadata(tree.path("copy")).unwrap().len(), 0);

    room.set_used(0);
    assert_eq!(client.status(200, copy_all).await, OK);
    assert_eq!(client.write(&append, 0, &[1; 40_000]).await, OK);
    assert_eq!(fs::metadata(tree.path("file")).unwrap().len(), 100_000);
}
