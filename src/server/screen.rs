//! What a program has on its client's terminal, as far as it matters for a line of the gateway's own
//! among its output: whether such a line would split a control sequence or a character, and whether
//! the program draws on the whole screen. After ECMA-48 and xterm's control sequences.

use crate::backend::visible;

const BELL: u8 = 0x07;
const CANCEL: u8 = 0x18;
const SUBSTITUTE: u8 = 0x1a;
const ESCAPE: u8 = 0x1b;
/// Parameters of one control sequence that are looked at.
const MOST_PARAMETERS: usize = 32;
/// Private modes that switch to the alternate screen and back.
const ALTERNATE_SCREEN: [&[u8]; 3] = [b"47", b"1047", b"1049"];
/// The width assumed when the client does not know its own.
const USUAL_COLUMNS: u32 = 80;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Text,
    /// After ESC, perhaps with intermediate bytes.
    Escape,
    /// After ESC [.
    ControlSequence,
    /// In a string that ST ends: an OSC, say, which sets a window's title.
    ControlString,
    /// After an ESC in such a string.
    EndOfString,
}

/// A terminal, followed through its output.
#[derive(Debug)]
pub(super) struct Screen {
    columns: u32,
    state: State,
    parameters: Vec<u8>,
    /// So many bytes of a character in UTF-8 are still to come.
    missing: u8,
    is_alternate: bool,
    /// The cursor is at the beginning of a line, as far as that is known.
    is_at_line_start: bool,
    /// What could not be shown yet.
    held: Vec<String>,
}

impl Screen {
    /// A new terminal; `columns` is 0 if its width is not known.
    pub(super) fn new(columns: u32) -> Self {
        Self {
            columns,
            state: State::Text,
            parameters: Vec::new(),
            missing: 0,
            is_alternate: false,
            is_at_line_start: false,
            held: Vec::new(),
        }
    }

    /// It has another width now.
    pub(super) fn resize(&mut self, columns: u32) {
        self.columns = columns;
    }

    /// Takes note of output.
    pub(super) fn follow(&mut self, output: &[u8]) {
        let mut rest = output;
        while let Some((&byte, behind)) = rest.split_first() {
            if self.state == State::Text && byte != ESCAPE {
                let end = rest.iter().position(|byte| *byte == ESCAPE).unwrap_or(rest.len());
                self.text(&rest[..end]);
                rest = &rest[end..];
                continue;
            }
            self.control(byte);
            rest = behind;
        }
    }

    fn text(&mut self, text: &[u8]) {
        for byte in &text[text.len().saturating_sub(4)..] {
            self.missing = match byte {
                0x80..=0xbf => self.missing.saturating_sub(1),
                0xc2..=0xdf => 1,
                0xe0..=0xef => 2,
                0xf0..=0xf4 => 3,
                _ => 0,
            };
        }
        self.is_at_line_start = text.last() == Some(&b'\n');
    }

    fn control(&mut self, byte: u8) {
        self.missing = 0;
        self.state = match (self.state, byte) {
            (_, CANCEL | SUBSTITUTE) => State::Text,
            (State::Text | State::Escape | State::ControlSequence, ESCAPE) => State::Escape,
            (State::Text, _) => State::Text,
            (State::Escape, b'[') => {
                self.parameters.clear();
                State::ControlSequence
            }
            (State::Escape, b']' | b'P' | b'X' | b'^' | b'_') => State::ControlString,
            // A full reset.
            (State::Escape, b'c') => {
                self.is_alternate = false;
                State::Text
            }
            (State::Escape, 0x30..=0x7e) => State::Text,
            (State::ControlSequence, 0x40..=0x7e) => {
                self.set_modes(byte);
                State::Text
            }
            (State::ControlSequence, _) => {
                if self.parameters.len() < MOST_PARAMETERS {
                    self.parameters.push(byte);
                }
                State::ControlSequence
            }
            (State::ControlString, BELL) | (State::EndOfString, b'\\') => State::Text,
            (State::ControlString | State::EndOfString, ESCAPE) => State::EndOfString,
            (State::EndOfString, _) => State::ControlString,
            (state, _) => state,
        };
    }

    fn set_modes(&mut self, last: u8) {
        let is_set = match last {
            b'h' => true,
            b'l' => false,
            _ => return,
        };
        if let Some(modes) = self.parameters.strip_prefix(b"?")
            && modes.split(|byte| *byte == b';').any(|mode| ALTERNATE_SCREEN.contains(&mode))
        {
            self.is_alternate = is_set;
        }
    }

    /// Takes a line to be shown.
    pub(super) fn hold(&mut self, line: &str) {
        self.held.push(visible(line));
    }

    /// What is to be written for the lines that were held, if this is a moment for it.
    pub(super) fn due(&mut self) -> Vec<u8> {
        if self.state != State::Text || self.missing > 0 || self.held.is_empty() {
            return Vec::new();
        }
        let lines = std::mem::take(&mut self.held);
        if self.is_alternate {
            // A program that draws on the whole screen, such as an editor, keeps its cursor and all
            // but the last row, which it draws again when it is asked to or has something to say
            // there. No more than a row: what wraps would scroll.
            let columns = if self.columns == 0 { USUAL_COLUMNS } else { self.columns };
            let fitting = usize::try_from(columns).unwrap_or(usize::MAX).saturating_sub(1);
            let row: String = lines.join("; ").chars().take(fitting).collect();
            return format!("\x1b7\x1b[999;1H\x1b[0;7m{row}\x1b[0m\x1b[K\x1b8").into_bytes();
        }
        let before = if self.is_at_line_start { "" } else { "\r\n" };
        self.is_at_line_start = true;
        format!("{before}{}\r\n", lines.join("\r\n")).into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(output: &[&[u8]]) -> String {
        let mut screen = Screen::new(20);
        for piece in output {
            screen.follow(piece);
        }
        screen.hold("waltgate: a line that is long");
        String::from_utf8(screen.due()).unwrap()
    }

    #[test]
    fn a_line_among_text_is_a_line_of_its_own() {
        assert_eq!(after(&[b"$ ls"]), "\r\nwaltgate: a line that is long\r\n");
        assert_eq!(after(&[b"x\r\n"]), "waltgate: a line that is long\r\n");
        assert_eq!(after(&[b"\x1b]0;title\x07$ \x1b[1;31mred\x1b[m"]).find("walt"), Some(2));
    }

    #[test]
    fn a_line_waits_for_the_end_of_a_sequence_or_character() {
        for half in
            [&b"\x1b"[..], b"\x1b[1;3", b"\x1b]0;ti", b"\x1bP1$r\x1b", b"\xe2\x82", b"\x1b("]
        {
            assert_eq!(after(&[b"text", half]), "", "{half:x?}");
        }
        let mut screen = Screen::new(80);
        screen.follow(b"\x1b[3");
        screen.hold("one");
        screen.hold("two");
        assert_eq!(screen.due(), b"");
        screen.follow(b"1mred");
        assert_eq!(screen.due(), b"\r\none\r\ntwo\r\n");
        assert_eq!(screen.due(), b"");
        for whole in
            [&b"\x1b[31m"[..], b"\x1b]0;t\x1b\\", b"\xe2\x82\xac", b"\x1b(B", b"\x1b[1\x18"]
        {
            assert_ne!(after(&[whole]), "", "{whole:x?}");
        }
    }

    #[test]
    fn a_full_screen_keeps_its_cursor_and_all_rows_but_the_last() {
        let shown = "\x1b7\x1b[999;1H\x1b[0;7mwaltgate: a line th\x1b[0m\x1b[K\x1b8";
        assert_eq!(after(&[b"\x1b[?10", b"49h\x1b[2J~\r\n~"]), shown);
        assert_eq!(after(&[b"\x1b[?1;47h"]), shown);
        assert_eq!(after(&[b"\x1b[?1049h~\x1b[?1049l$ "]).find("walt"), Some(2));
        assert_eq!(after(&[b"\x1b[1049h"]).find("walt"), Some(2));
    }

    #[test]
    fn what_a_line_says_cannot_steer_the_terminal() {
        let mut screen = Screen::new(80);
        screen.hold("a\x1b[2J");
        assert_eq!(screen.due(), b"\r\na\\u{1b}[2J\r\n");
    }
}
