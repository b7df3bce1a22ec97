//! What is no proper packet, and what is too much of everything.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use super::*;

#[tokio::test]
async fn malformed_requests_are_answered_and_the_session_goes_on() {
    let tree = Tree::new();
    let mut client = Client::greeted(&tree).await;
    for kind in 3..=20 {
        // Nothing behind the identifier; a string that claims to be longer than the packet.
        assert_eq!(client.status(kind, |_| {}).await, BAD_MESSAGE, "{kind}");
        assert_eq!(client.status(kind, |request| request.uint32(9)).await, BAD_MESSAGE, "{kind}");
        let huge = |request: &mut Writer| request.uint32(u32::MAX);
        assert_eq!(client.status(kind, huge).await, BAD_MESSAGE, "{kind}");
    }
    assert_eq!(client.extended("statvfs@openssh.com", &[]).await, BAD_MESSAGE);
    assert_eq!(client.extended("no-such@example.org", &[]).await, UNSUPPORTED);
    for unknown in [0, 2, 21, 99, 101, 105, 201, 255] {
        assert_eq!(client.status(unknown, |_| {}).await, UNSUPPORTED);
    }
    // Too short for an identifier.
    client.send(vec![0, 0, 0, 3, 5, 0, 0]).await;
    assert_eq!(client.answer().await[..9], [101, 0, 0, 0, 0, 0, 0, 0, 5]);
    assert_eq!(client.name(16, b".").await.unwrap(), b"/home");
    assert_eq!(client.finish().await, 0);
}

#[tokio::test]
async fn a_stream_that_is_no_sftp_ends_the_session_in_words() {
    let tree = Tree::new();
    for stream in [
        &[0, 0, 0, 0][..],
        &[0, 4, 0, 1, 1],
        &[0xff, 0xff, 0xff, 0xff, 1],
        b"GET / HTTP/1.1\r\n",
        // A request before the greeting.
        &[0, 0, 0, 5, 17, 0, 0, 0, 1],
    ] {
        let mut client = Client::silent(&tree);
        client.send(stream.to_vec()).await;
        assert_eq!(client.drain().await, 1);
        assert!(client.stderr.contains("is not understood"), "{}", client.stderr);
    }
}

#[tokio::test]
async fn input_that_ends_within_a_request_is_a_failure() {
    let tree = Tree::new();
    let mut client = Client::greeted(&tree).await;
    client.send(vec![0, 0, 0, 9, 17, 0]).await;
    assert_eq!(client.finish().await, 1);
    assert!(client.stderr.contains("ended in the middle"), "{}", client.stderr);
}

#[tokio::test]
async fn packets_may_come_in_pieces_of_any_size() {
    let tree = Tree::new();
    let mut client = Client::silent(&tree);
    for piece in [&[0][..], &[0, 0], &[5, 1, 0], &[0, 0, 3]] {
        client.send(piece).await;
    }
    assert_eq!(client.answer().await[0], 2);
    let mut requests = Vec::new();
    for id in 0..1000_u32 {
        let mut request = Writer::answer(16, id);
        request.string(b".");
        requests.extend(request.finish());
    }
    client.send(requests).await;
    for id in 0..1000_u32 {
        assert_eq!(client.answer().await[1..5], id.to_be_bytes());
    }
    assert_eq!(client.finish().await, 0);
}

#[tokio::test]
async fn handles_are_bounded_and_are_the_sessions_own() {
    let tree = Tree::new();
    fs::write(tree.path("file"), "content").unwrap();
    let others = tree.views().await;
    for ((mut client, top), (mut other, _)) in tree.views().await.into_iter().zip(others) {
        let path = format!("{top}/file");
        let mut handles = Vec::new();
        let mut refused = 0;
        for _ in 0..65_536 {
            match client.open(&path, READ).await {
                Ok(handle) => handles.push(handle),
                Err(code) => {
                    assert_eq!(code, FAILURE);
                    refused += 1;
                }
            }
        }
        assert!(handles.len() <= 512 && refused > 65_000, "{} open", handles.len());
        for foreign in [&handles[0][..], b"", b"x", b"12345678", &[0; 300]] {
            assert_eq!(other.read(foreign, 0, 9).await, Err(FAILURE));
            assert_eq!(other.write(foreign, 0, b"x").await, FAILURE);
            assert_eq!(other.close(foreign).await, FAILURE);
            assert_eq!(other.status(8, |request| request.string(foreign)).await, FAILURE);
            assert_eq!(other.status(12, |request| request.string(foreign)).await, FAILURE);
        }
        assert_eq!(&client.read(&handles[0], 0, 9).await.unwrap()[..], b"content");
        assert_eq!(client.close(&handles[0]).await, OK);
        assert_eq!(client.read(&handles[0], 0, 9).await, Err(FAILURE));
        assert!(client.open(&path, READ).await.is_ok());
        assert_eq!(client.finish().await, 0);
        assert_eq!(other.finish().await, 0);
    }
}

#[tokio::test]
async fn offsets_and_sizes_past_what_files_have_are_errors() {
    let tree = Tree::new();
    for (mut client, top) in tree.views().await {
        let path = format!("{top}/file");
        let handle = client.open(&path, READ | WRITE | CREATE).await.unwrap();
        for offset in [1 << 63, u64::MAX, (1 << 63) - 1] {
            assert_ne!(client.write(&handle, offset, b"x").await, OK);
            assert!(client.read(&handle, offset, 1).await.is_err());
        }
        let size = |request: &mut Writer| {
            request.string(path.as_bytes());
            request.uint32(1);
            request.uint64(u64::MAX);
        };
        assert_ne!(client.status(9, size).await, OK);
        assert_eq!(fs::metadata(tree.path("file")).unwrap().len(), 0);
        assert_eq!(client.read(&handle, 0, u32::MAX).await, Err(EOF));
        client.close(&handle).await;
        // A write that failed is not forgotten.
        assert_eq!(client.finish().await, 0);
    }
}

#[tokio::test]
async fn an_overlong_read_gets_as_much_as_a_packet_holds() {
    let tree = Tree::new();
    fs::write(tree.path("file"), vec![7; 1 << 20]).unwrap();
    let mut client = Client::greeted(&tree).await;
    let handle = client.open("/file", READ).await.unwrap();
    assert_eq!(client.read(&handle, 0, u32::MAX).await.unwrap().len(), 261_120);
    assert_eq!(client.read(&handle, 0, 1000).await.unwrap().len(), 1000);
    assert_eq!(client.read(&handle, (1 << 20) - 10, 1000).await.unwrap().len(), 10);
    assert_eq!(client.read(&handle, 1 << 20, 1000).await, Err(EOF));
    assert_eq!(client.finish().await, 0);
}

#[tokio::test]
async fn names_of_any_bytes_are_names_and_overlong_ones_are_refused() {
    let tree = Tree::new();
    let all: Vec<u8> = (1..=255).filter(|byte| *byte != b'/').collect();
    for (mut client, top) in tree.views().await {
        let path = |name: &[u8]| [top.as_bytes(), b"/", name].concat();
        for name in [&all[..200], b"\xff\xfe", b"new\nline", "\u{1f600}".as_bytes()] {
            let handle = client.open(path(name), WRITE | CREATE).await.unwrap();
            assert_eq!(client.close(&handle).await, OK);
            let name = tree.path("").join::<&OsStr>(OsStrExt::from_bytes(name));
            fs::remove_file(name).unwrap();
        }
        let long = [b'a'; 4096];
        for name in [&long[..], &long[..256], b"nul\0byte", &b"a/".repeat(2048)] {
            let name = path(name);
            let refused = client.open(&name, WRITE | CREATE).await.unwrap_err();
            assert!(matches!(refused, BAD_MESSAGE | NO_SUCH_FILE), "{refused}");
            assert_ne!(client.paths(14, &[&name, b""]).await, OK);
            assert_ne!(client.paths(13, &[&name]).await, OK);
            assert_ne!(client.paths(18, &[&name, &path(b"x")]).await, OK);
        }
        assert_eq!(client.finish().await, 0);
    }
}
