//! The client's terminal, lent to a backend while no program has it.

use async_trait::async_trait;

/// What a client typed at a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// A line, without its end, trimmed.
    Line(String),
    /// ctrl-C, or ctrl-D on an empty line.
    Interrupted,
    /// The client is gone; nobody will answer.
    Gone,
}

/// Makes control characters visible, so that no name or message can steer the terminal.
pub(crate) fn visible(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() {
            shown.extend(c.escape_default());
        } else {
            shown.push(c);
        }
    }
    shown
}

/// Why a wait was cut short by the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interrupt {
    /// ctrl-C on a terminal.
    Key,
    /// The channel was closed or the connection is gone.
    Gone,
}

/// The client's side of a session, while no program of the target has it: notices before the
/// program starts, questions after it ended. It goes to the terminal if there is one, else to
/// standard error, so that a command's output stays clean.
#[async_trait]
pub trait Console: Send {
    /// Whether the client asked for a terminal.
    fn is_terminal(&self) -> bool;
    /// One line of text, without its end. Embedded control characters are made visible.
    async fn say(&mut self, line: &str);
    /// A line that replaces the status before it on a terminal. Elsewhere only the first status
    /// of a run is printed, as a line of its own.
    async fn status(&mut self, text: &str);
    /// Erases the status line of a terminal, if one is shown, and ends the run.
    async fn end_status(&mut self);
    /// Waits until the client presses ctrl-C (on a terminal) or goes away. Other input is kept
    /// for the program. Dropping the future loses nothing.
    async fn interrupted(&mut self) -> Interrupt;
    /// Asks a question on a terminal, with line editing. Input typed before the question was
    /// asked is discarded by [`Console::discard_input`] only.
    async fn ask(&mut self, prompt: &str) -> Answer;
    /// Forgets input that was typed and not read, as after a shell that ended.
    fn discard_input(&mut self);
}

#[cfg(test)]
mod tests {
    use super::visible;

    #[test]
    fn escape_sequences_in_messages_are_made_visible() {
        assert_eq!(visible("a\x1b[2Jb\r\nü"), "a\\u{1b}[2Jb\\r\\nü");
    }
}
