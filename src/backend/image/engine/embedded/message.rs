//! What the gateway and the supervisor of a container say to each other.
//!
//! Requests and answers go over a socket, one answer for each request, with descriptors beside
//! them. Events come over a pipe, one JSON object a line. Either end sees at once when the other
//! one is gone, however it went.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::unix::net::UnixStream;

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// As many descriptors as one message takes: standard input, output and error.
const MOST_DESCRIPTORS: usize = 3;
/// Above what a program's arguments can be, execve(2).
const LONGEST: usize = 16 << 20;

/// What a supervisor is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Request {
    /// Makes process 1, which waits for [`Request::Start`]. Its three streams are beside it,
    /// unless it has a terminal.
    Create,
    /// Lets process 1 run its program.
    Start,
    /// Runs a program beside process 1, with the three streams beside it unless it has a terminal.
    Exec(Program),
    /// Sends a signal to process 1, by number.
    Signal(i32),
}

/// A program to run beside process 1.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Program {
    /// How its end will be told.
    pub(super) number: u64,
    /// The program and its arguments.
    pub(super) argv: Vec<String>,
    /// `NAME=VALUE`, over the container's own.
    pub(super) env: Vec<String>,
    /// An absolute path.
    pub(super) working_dir: String,
    /// With a terminal.
    pub(super) terminal: bool,
}

/// The answer to a request. The terminal of a new process that has one is beside it.
pub(super) type Answer = Result<Done, String>;

/// What was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Done {
    /// A process was made; this is its number on the host.
    Made {
        /// Process identifier.
        pid: i32,
    },
    /// Nothing else to tell.
    Done,
}

/// What a supervisor tells unasked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Event {
    /// The files are mounted, requests are answered.
    Ready,
    /// They are not, because.
    Failed(String),
    /// Process 1 has ended, and with it all others.
    FirstEnded {
        /// 128+n after signal n.
        code: u32,
    },
    /// A program beside it has ended.
    ProgramEnded {
        /// Which.
        number: u64,
        /// 128+n after signal n.
        code: u32,
    },
}

/// Sends a message with descriptors beside it.
pub(super) fn send(
    mut socket: &UnixStream,
    message: &impl Serialize,
    descriptors: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let body = serde_json::to_vec(message)?;
    let length = u32::try_from(body.len()).map_err(io::Error::other)?.to_be_bytes();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_DESCRIPTORS))];
    let mut beside = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !beside.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::Error::other("too many descriptors for one message"));
    }
    // Four bytes are taken whole or not at all by a socket that was never full.
    let sent = loop {
        match sendmsg(socket, &[IoSlice::new(&length)], &mut beside, SendFlags::NOSIGNAL) {
            Err(rustix::io::Errno::INTR) => {}
            sent => break sent?,
        }
    };
    socket.write_all(&length[sent..])?;
    socket.write_all(&body)
}

/// Receives a message with the descriptors beside it; `None`: the other end is gone.
pub(super) fn receive<T: DeserializeOwned>(
    mut socket: &UnixStream,
) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    let mut length = [0; 4];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_DESCRIPTORS))];
    let mut beside = RecvAncillaryBuffer::new(&mut space);
    let mut parts = [IoSliceMut::new(&mut length)];
    let received = loop {
        match recvmsg(socket, &mut parts, &mut beside, RecvFlags::CMSG_CLOEXEC) {
            Err(rustix::io::Errno::INTR) => {}
            received => break received?.bytes,
        }
    };
    if received == 0 {
        return Ok(None);
    }
    let descriptors = beside
        .drain()
        .filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
            _ => None,
        })
        .flatten()
        .collect();
    socket.read_exact(&mut length[received..])?;
    let length = usize::try_from(u32::from_be_bytes(length)).map_err(io::Error::other)?;
    if length > LONGEST {
        return Err(io::Error::other("a message is too long"));
    }
    let mut body = vec![0; length];
    socket.read_exact(&mut body)?;
    Ok(Some((serde_json::from_slice(&body)?, descriptors)))
}

/// Receives one descriptor, beside any bytes.
pub(super) fn receive_descriptor(socket: &UnixStream) -> io::Result<OwnedFd> {
    let mut bytes = [0; 64];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_DESCRIPTORS))];
    let mut beside = RecvAncillaryBuffer::new(&mut space);
    recvmsg(socket, &mut [IoSliceMut::new(&mut bytes)], &mut beside, RecvFlags::CMSG_CLOEXEC)?;
    let descriptor = beside.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    descriptor.ok_or_else(|| io::Error::other("no descriptor came"))
}

/// Borrows descriptors to send them.
pub(super) fn borrowed(descriptors: &[OwnedFd]) -> Vec<BorrowedFd<'_>> {
    descriptors.iter().map(AsFd::as_fd).collect()
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    #[test]
    fn a_message_arrives_with_its_descriptors() {
        let (here, there) = UnixStream::pair().unwrap();
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        let program = Program {
            number: 7,
            argv: vec!["x".repeat(300_000)],
            env: vec![],
            working_dir: "/".to_owned(),
            terminal: false,
        };
        let request = Request::Exec(program);
        let sent = request.clone();
        let sender = std::thread::spawn(move || send(&here, &sent, &borrowed(&[writer])).unwrap());
        let (received, descriptors) = receive::<Request>(&there).unwrap().unwrap();
        sender.join().unwrap();
        assert_eq!(received, request);
        let [writer] = <[OwnedFd; 1]>::try_from(descriptors).unwrap();
        File::from(writer).write_all(b"through").unwrap();
        let mut text = String::new();
        File::from(reader).read_to_string(&mut text).unwrap();
        assert_eq!(text, "through");
        assert!(receive::<Request>(&there).unwrap().is_none());
    }
}
