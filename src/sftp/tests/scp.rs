//! The older protocol, as clients speak it when all goes wrong.

use std::os::unix::fs::MetadataExt;

use super::*;
use crate::sftp::scp::{Command, serve};

/// What comes back for some input, all of it sent at once.
async fn converse(tree: &Tree, line: &str, input: &[u8]) -> (u32, String, String) {
    let command = Command::parse(line.as_bytes()).unwrap();
    let mut client = Client::of(serve(tree.root(), command).unwrap());
    client.send(input.to_vec()).await;
    let code = client.finish().await;
    let output = client.answers.iter().flatten().copied().collect::<Vec<u8>>();
    (code, String::from_utf8(output).unwrap(), client.stderr)
}

#[tokio::test]
async fn a_sink_takes_files_modes_and_times() {
    let tree = Tree::new();
    let input = b"T7 0 8 0\nD0700 0 d\nT5 0 6 0\nC4755 3 f\nabc\0E\nC0644 0 g\n\0";
    let (code, output, _) = converse(&tree, "scp -r -p -t .", input).await;
    assert_eq!((code, output.as_str()), (0, "\0".repeat(9).as_str()));
    let file = fs::metadata(tree.path("home/d/f")).unwrap();
    assert_eq!((file.mode(), file.mtime(), file.atime()), (0o104_755, 5, 6));
    assert_eq!(fs::read(tree.path("home/d/f")).unwrap(), b"abc");
    assert_eq!(fs::metadata(tree.path("home/d")).unwrap().mtime(), 7);
    assert_eq!(fs::metadata(tree.path("home/g")).unwrap().len(), 0);
}

#[tokio::test]
async fn a_sink_tells_what_is_wrong_and_fails() {
    let tree = Tree::new();
    fs::create_dir_all(tree.path("home/taken/f")).unwrap();
    for (line, input, said) in [
        ("scp -t .", &b"C0644 1 ../x\nx\0"[..], "\0\u{1}scp: error: unexpected filename\n"),
        ("scp -t .", b"C0644 1 /etc/x\nx\0", "\0\u{1}scp: error: unexpected filename\n"),
        ("scp -t .", b"D0755 0 d\nE\n", "\0\u{1}scp: received directory without -r\n"),
        ("scp -t .", b"nonsense\n", "\0\u{1}scp: protocol error: expected control record\n"),
        ("scp -t .", b"T1 2\n", "\0\u{1}scp: protocol error: times not understood\n"),
        ("scp -t taken", b"C0644 1 f\n", "\0\u{1}scp: taken/f: Is a directory\n"),
        ("scp -t no/such", b"C0644 1 f\n", "\0\u{1}scp: no/such: No such file or directory\n"),
        ("scp -d -t none", b"", "\u{1}scp: none: No such file or directory\n"),
        ("scp -t a b", b"", "\u{1}scp: ambiguous target\n"),
        ("scp -t", b"", "\u{1}scp: ambiguous target\n"),
        ("scp -t x", b"C0644 9 x\nshort", "\0\0"),
        ("scp -r -t .", b"D0755 0 open\n", "\0\0"),
        ("scp -t .", b"\x01scp: local: Permission denied\n", "\0"),
        ("scp -t .", b"\x02fatal\n", "\0"),
    ] {
        let (code, output, _) = converse(&tree, line, input).await;
        assert_eq!((code, output.as_str()), (1, said), "{line}");
    }
    let endless = [b"C0644 1 ".as_slice(), &[b'a'; 20_000]].concat();
    let (code, output, _) = converse(&tree, "scp -t .", &endless).await;
    assert_eq!((code, output.as_str()), (1, "\0\u{1}scp: protocol error: line too long\n"));
}

#[tokio::test]
async fn a_source_gives_what_the_client_accepts() {
    let tree = Tree::new();
    fs::create_dir(tree.path("home/d")).unwrap();
    fs::write(tree.path("home/d/f"), "abc").unwrap();
    fs::write(tree.path("home/new\nline"), "x").unwrap();
    let (code, output, _) = converse(&tree, "scp -r -f d", &[0; 5]).await;
    assert_eq!((code, output.as_str()), (0, "D0755 0 d\nC0644 3 f\nabc\0E\n"));
    // The client does not want the file.
    let (code, output, _) = converse(&tree, "scp -r -f d", b"\0\0\x01no\n\0").await;
    assert_eq!((code, output.as_str()), (1, "D0755 0 d\nC0644 3 f\nE\n"));
    let (code, output, _) = converse(&tree, "scp -f n*", &[0; 3]).await;
    assert_eq!((code, output.as_str()), (0, "C0644 1 new\\^Jline\nx\0"));
    let (code, output, said) = converse(&tree, "scp -v -f d none d/f", &[0; 3]).await;
    assert_eq!(code, 1);
    assert_eq!(
        output,
        "\u{1}scp: d: not a regular file\n\u{1}scp: none: No such file or directory\n\
         C0644 3 f\nabc\0"
    );
    assert_eq!(said, "Sending file modes: C0644 3 f\n");
}

#[tokio::test]
async fn a_client_that_closes_behind_its_eof_ended_well_if_all_came() {
    let tree = Tree::new();
    for (input, answers, well) in [(&b"C0644 1 f\nx\0"[..], 3, true), (b"C0644 2 f\nx", 2, false)] {
        let command = Command::parse(b"scp -t .").unwrap();
        let mut client = Client::of(serve(tree.root(), command).unwrap());
        client.send(input).await;
        for _ in 0..answers {
            let answer = client.session.output.next().await;
            assert_eq!(answer, Some(OutputEvent::Stdout(Bytes::from_static(b"\0"))));
        }
        assert_eq!(client.session.control.ended_on_eof().await, None);
        client.session.stdin.eof().await.unwrap();
        let ended = client.session.control.ended_on_eof().await;
        assert_eq!(ended, well.then_some(ExitStatus::Code(0)), "{input:?}");
    }
}

#[tokio::test]
async fn a_client_that_is_gone_ends_a_conversation_that_waits() {
    let tree = Tree::new();
    fs::write(tree.path("large"), vec![7; 8 << 20]).unwrap();
    for line in ["scp -t .", "scp -f /large"] {
        let command = Command::parse(line.as_bytes()).unwrap();
        let mut client = Client::of(serve(tree.root(), command).unwrap());
        client.send(vec![0, 0]).await;
        // Returns when nothing is done any more, although nobody reads.
        client.session.control.hang_up().await;
    }
}
