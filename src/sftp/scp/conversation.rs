//! What is said between the two sides.

use bytes::{Buf, Bytes};
use rustix::io::Errno;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::backend::{ExitStatus, OutputEvent};
use crate::sftp::error::FileError;

/// No announcement is longer: OpenSSH's own bound.
const LINE_BYTES: usize = 16 * 1024;

/// Behind the words of EXDEV: what is not beneath a mounted root can be had over SFTP.
const LEADS_AWAY: &str = " (it leads to other files of the node; scp without -O reaches them)";

/// The conversation cannot go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stop;

/// What the other side says to an announcement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Response {
    GoOn,
    /// It does not want this one.
    Skip,
}

/// Talks with the client. Blocks.
pub(super) struct Conversation {
    runtime: Handle,
    input: mpsc::Receiver<Bytes>,
    /// What came and was not looked at.
    rest: Bytes,
    output: mpsc::Sender<OutputEvent>,
    cancelled: CancellationToken,
    is_verbose: bool,
    has_failed: bool,
}

impl Conversation {
    pub(super) fn new(
        runtime: Handle,
        input: mpsc::Receiver<Bytes>,
        output: mpsc::Sender<OutputEvent>,
        cancelled: CancellationToken,
        is_verbose: bool,
    ) -> Self {
        Self {
            runtime,
            input,
            rest: Bytes::new(),
            output,
            cancelled,
            is_verbose,
            has_failed: false,
        }
    }

    /// Whether something was not copied.
    pub(super) fn has_failed(&self) -> bool {
        self.has_failed
    }

    /// Something was not copied, and the client's user knows.
    pub(super) fn note_failure(&mut self) {
        self.has_failed = true;
    }

    /// Up to `most` bytes of what the client sends; none at its end.
    pub(super) fn data(&mut self, most: u64) -> Result<Bytes, Stop> {
        if self.rest.is_empty() {
            let (input, cancelled) = (&mut self.input, &self.cancelled);
            let piece = self.runtime.block_on(async {
                tokio::select! {
                    biased;
                    () = cancelled.cancelled() => Err(Stop),
                    piece = input.recv() => Ok(piece),
                }
            })?;
            self.rest = piece.unwrap_or_default();
        }
        let length = usize::try_from(most).unwrap_or(usize::MAX).min(self.rest.len());
        Ok(self.rest.split_to(length))
    }

    fn byte(&mut self) -> Result<Option<u8>, Stop> {
        if self.rest.is_empty() {
            self.rest = self.data(u64::MAX)?;
        }
        Ok(if self.rest.is_empty() { None } else { Some(self.rest.get_u8()) })
    }

    /// A line without its end; `None` if there are no more.
    pub(super) fn line(&mut self) -> Result<Option<Vec<u8>>, Stop> {
        let Some(first) = self.byte()? else {
            return Ok(None);
        };
        let mut line = Vec::new();
        let mut next = first;
        while next != b'\n' {
            line.push(next);
            if line.len() > LINE_BYTES {
                return Err(self.give_up(b"protocol error: line too long"));
            }
            next = match self.byte()? {
                Some(byte) => byte,
                None => return Err(self.lost()),
            };
        }
        Ok(Some(line))
    }

    /// The answer to what was announced or sent.
    pub(super) fn response(&mut self) -> Result<Response, Stop> {
        let Some(kind) = self.byte()? else {
            return Err(self.lost());
        };
        if kind == 0 {
            return Ok(Response::GoOn);
        }
        // The client has shown it to its user already.
        self.has_failed = true;
        self.line()?;
        if kind == 1 { Ok(Response::Skip) } else { Err(Stop) }
    }

    pub(super) fn send(&mut self, bytes: impl Into<Bytes>) -> Result<(), Stop> {
        self.tell(OutputEvent::Stdout(bytes.into()))
    }

    /// "Go on."
    pub(super) fn accept(&mut self) -> Result<(), Stop> {
        self.send(&b"\0"[..])
    }

    /// Tells the user that something was not copied; it counts as an answer.
    pub(super) fn complain(&mut self, reason: &[u8]) -> Result<(), Stop> {
        self.has_failed = true;
        self.send([b"\x01scp: ".as_slice(), &on_one_line(reason), b"\n"].concat())
    }

    /// Tells about a file.
    pub(super) fn complain_about(&mut self, path: &[u8], error: FileError) -> Result<(), Stop> {
        let mut reason = error.to_string();
        if error == FileError::System(Errno::XDEV) {
            reason.push_str(LEADS_AWAY);
        }
        self.complain(&[path, b": ", reason.as_bytes()].concat())
    }

    /// Tells why it cannot go on.
    pub(super) fn give_up(&mut self, reason: &[u8]) -> Stop {
        match self.complain(reason) {
            Ok(()) | Err(Stop) => Stop,
        }
    }

    pub(super) fn lost(&mut self) -> Stop {
        match self.remark(b"scp: lost connection") {
            Ok(()) | Err(Stop) => Stop,
        }
    }

    /// What `-v` shows.
    pub(super) fn detail(&mut self, what: &str, line: &[u8]) -> Result<(), Stop> {
        if !self.is_verbose {
            return Ok(());
        }
        self.remark(&[what.as_bytes(), line].concat())
    }

    /// Nothing more is said.
    pub(super) fn end(self, code: u32) {
        for event in [OutputEvent::Eof, OutputEvent::Exit(ExitStatus::Code(code))] {
            if self.tell(event) == Err(Stop) {
                tracing::debug!("the client of an scp went away before it ended");
            }
        }
    }

    fn remark(&self, line: &[u8]) -> Result<(), Stop> {
        self.tell(OutputEvent::Stderr([&on_one_line(line), b"\n".as_slice()].concat().into()))
    }

    fn tell(&self, event: OutputEvent) -> Result<(), Stop> {
        let (output, cancelled) = (&self.output, &self.cancelled);
        self.runtime.block_on(async {
            tokio::select! {
                biased;
                () = cancelled.cancelled() => Err(Stop),
                sent = output.send(event) => sent.map_err(|_| Stop),
            }
        })
    }
}

/// Names may have line ends and escape sequences in them.
fn on_one_line(text: &[u8]) -> Vec<u8> {
    text.iter().map(|byte| if byte.is_ascii_control() { b'?' } else { *byte }).collect()
}
