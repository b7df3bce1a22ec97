//! The gateway itself at the client's terminal: notices before a program starts, questions after
//! it ended. Without a terminal they go to standard error, so that a command's output stays clean. A
//! terminal has one stream for everything: ssh(1) would write what comes on two in any order.

use async_trait::async_trait;
use bytes::{Buf, Bytes};

use super::channel::{ChannelOutput, InterruptKey};
use super::line_editor::{Edit, LineEditor};
use crate::backend::{Answer, Console, Interrupt, visible};
use crate::relay::spool::{Consumer, Piece, Stream};
use crate::relay::{ClientOutput, InputEof};

/// Returns to the start of the line and erases it (ECMA-48 EL).
const ERASE_LINE: &str = "\r\x1b[K";
/// The width assumed when the client does not know its own.
const USUAL_COLUMNS: u32 = 80;

/// Lends the client's channel to a backend.
pub(super) struct ChannelConsole<'a> {
    output: &'a ChannelOutput,
    input: &'a mut Consumer<InputEof>,
    keys: &'a InterruptKey,
    /// The terminal's width in characters; `None`: the client has no terminal.
    columns: Option<u32>,
    status: Status,
}

#[derive(Debug, PartialEq, Eq)]
enum Status {
    None,
    /// On the last line of the terminal, without a line end.
    Shown,
    /// Told as a line of its own, where there is no terminal.
    Told,
}

impl<'a> ChannelConsole<'a> {
    pub(super) fn new(
        output: &'a ChannelOutput,
        input: &'a mut Consumer<InputEof>,
        keys: &'a InterruptKey,
        columns: Option<u32>,
    ) -> Self {
        let columns = columns.map(|columns| if columns == 0 { USUAL_COLUMNS } else { columns });
        Self { output, input, keys, columns, status: Status::None }
    }

    async fn print(&self, text: impl Into<Bytes>) {
        let stream = if self.is_terminal() { Stream::Data } else { Stream::Stderr };
        // A client that is gone shows at the next wait; there is nobody to tell.
        let _ = self.output.write(stream, text.into()).await;
    }

    /// Edits a line until Enter, ctrl-C or the end of the input.
    async fn edit_line(&mut self) -> Answer {
        let mut editor = LineEditor::default();
        loop {
            let popped = tokio::select! {
                biased;
                () = self.output.gone() => return Answer::Gone,
                popped = self.input.pop() => popped,
            };
            let mut bytes = match popped {
                Ok(Some(Piece::Bytes(_, bytes))) => bytes,
                // Nobody will answer, but somebody may read.
                Ok(Some(Piece::Mark(InputEof)) | None) => return Answer::Interrupted,
                Err(_) => return Answer::Gone,
            };
            let mut echoed = Vec::new();
            let mut answer = None;
            while answer.is_none() && bytes.has_remaining() {
                match editor.take(bytes.get_u8()) {
                    Edit::Echo(echo) => echoed.extend(echo),
                    Edit::Done(line) => answer = Some(Answer::Line(line)),
                    Edit::Interrupted => {
                        echoed.extend_from_slice(b"^C");
                        answer = Some(Answer::Interrupted);
                    }
                }
            }
            if answer.is_some() {
                echoed.extend_from_slice(b"\r\n");
            }
            if !echoed.is_empty() {
                self.print(echoed).await;
            }
            if let Some(answer) = answer {
                self.input.unpop(Stream::Data, bytes);
                return answer;
            }
        }
    }
}

#[async_trait]
impl Console for ChannelConsole<'_> {
    fn is_terminal(&self) -> bool {
        self.columns.is_some()
    }

    async fn say(&mut self, line: &str) {
        self.end_status().await;
        let end = if self.is_terminal() { "\r\n" } else { "\n" };
        self.print(format!("{}{end}", visible(line))).await;
    }

    async fn status(&mut self, text: &str) {
        // The gateway works for the client, which is not idle then, also where it shows nothing.
        self.output.touch();
        match self.columns {
            Some(columns) => {
                // A line that wraps could not be erased again.
                let fitting = usize::try_from(columns).unwrap_or(usize::MAX).saturating_sub(1);
                let text: String = visible(text).chars().take(fitting).collect();
                self.print(format!("{ERASE_LINE}{text}")).await;
                self.status = Status::Shown;
            }
            None if self.status == Status::None => {
                self.print(format!("{}\n", visible(text))).await;
                self.status = Status::Told;
            }
            None => {}
        }
    }

    async fn end_status(&mut self) {
        if self.status == Status::Shown {
            self.print(ERASE_LINE).await;
        }
        self.status = Status::None;
    }

    async fn interrupted(&mut self) -> Interrupt {
        tokio::select! {
            () = self.output.gone() => Interrupt::Gone,
            () = self.keys.pressed(), if self.is_terminal() => Interrupt::Key,
        }
    }

    async fn ask(&mut self, prompt: &str) -> Answer {
        self.end_status().await;
        self.print(visible(prompt)).await;
        let answer = self.edit_line().await;
        if answer == Answer::Gone {
            // The client may still be there to read why.
            self.print("\r\n").await;
        }
        // A ctrl-C that answered this question must not interrupt what comes next.
        self.keys.forget();
        answer
    }

    fn discard_input(&mut self) {
        self.input.discard_queued();
    }
}
