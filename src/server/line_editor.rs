//! Editing of one line on a terminal in raw mode: what the client's terminal driver would do.

/// What a byte of input led to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Edit {
    /// Nothing, or these bytes are to be echoed.
    Echo(Vec<u8>),
    /// Enter.
    Done(String),
    /// ctrl-C, or ctrl-D on an empty line.
    Interrupted,
}

/// Longest line in bytes; more is not taken.
const LONGEST: usize = 512;

/// The line so far.
#[derive(Debug, Default)]
pub(super) struct LineEditor {
    line: String,
    /// Bytes of a UTF-8 character that is not complete.
    partial: Vec<u8>,
    escape: Escape,
}

#[derive(Debug, Default, PartialEq, Eq)]
enum Escape {
    #[default]
    None,
    Started,
    Sequence,
}

impl LineEditor {
    /// The line so far.
    pub(super) fn line(&self) -> &str {
        &self.line
    }

    /// Takes one byte.
    pub(super) fn take(&mut self, byte: u8) -> Edit {
        if self.in_escape_sequence(byte) {
            return Edit::Echo(Vec::new());
        }
        match byte {
            b'\r' | b'\n' => Edit::Done(std::mem::take(&mut self.line).trim().to_owned()),
            0x03 => Edit::Interrupted,
            0x04 if self.line.is_empty() => Edit::Interrupted,
            0x08 | 0x7f => self.erase(1),
            0x15 => self.erase(self.line.chars().count()),
            0x17 => self.erase(self.last_word()),
            0x1b => {
                self.escape = Escape::Started;
                Edit::Echo(Vec::new())
            }
            0x00..=0x1f => Edit::Echo(Vec::new()),
            _ => self.character(byte),
        }
    }

    /// Arrow and function keys: swallowed, as there is nothing to move in.
    fn in_escape_sequence(&mut self, byte: u8) -> bool {
        match self.escape {
            Escape::None => return false,
            Escape::Started if matches!(byte, b'[' | b'O') => self.escape = Escape::Sequence,
            Escape::Started => self.escape = Escape::None,
            // ECMA-48: a control sequence ends with a byte from 0x40 to 0x7e.
            Escape::Sequence if (0x40..=0x7e).contains(&byte) => self.escape = Escape::None,
            Escape::Sequence => {}
        }
        true
    }

    fn character(&mut self, byte: u8) -> Edit {
        self.partial.push(byte);
        let echo = match std::str::from_utf8(&self.partial) {
            Ok(text) if self.line.len() + text.len() <= LONGEST => {
                self.line.push_str(text);
                std::mem::take(&mut self.partial)
            }
            Err(error) if error.error_len().is_none() => Vec::new(),
            _ => {
                self.partial.clear();
                Vec::new()
            }
        };
        Edit::Echo(echo)
    }

    fn last_word(&self) -> usize {
        let kept = self.line.trim_end();
        let start = kept.rfind(char::is_whitespace).map_or(0, |at| at + 1);
        self.line[start..].chars().count()
    }

    fn erase(&mut self, characters: usize) -> Edit {
        let mut echo = Vec::new();
        for _ in 0..characters {
            if self.line.pop().is_some() {
                echo.extend_from_slice(b"\x08 \x08");
            }
        }
        Edit::Echo(echo)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(bytes: &[u8]) -> (Vec<u8>, Option<Edit>) {
        let mut editor = LineEditor::default();
        let mut echoed = Vec::new();
        for &byte in bytes {
            match editor.take(byte) {
                Edit::Echo(echo) => echoed.extend(echo),
                end => return (echoed, Some(end)),
            }
        }
        (echoed, None)
    }

    fn line(bytes: &[u8]) -> String {
        match typed(bytes).1 {
            Some(Edit::Done(line)) => line,
            other => panic!("no line: {other:?}"),
        }
    }

    #[test]
    fn backspace_and_kill_edit_the_line() {
        assert_eq!(line(b"abx\x7fc\r"), "abc");
        assert_eq!(line(b"wrong\x15right\r"), "right");
        assert_eq!(line(b"one two\x17three\r"), "one three");
        assert_eq!(line(b"\x7f\x7fok\n"), "ok");
    }

    #[test]
    fn multibyte_characters_are_echoed_and_erased_whole() {
        assert_eq!(typed("é".as_bytes()).0, "é".as_bytes());
        assert_eq!(line("aé\x7fb\r".as_bytes()), "ab");
    }

    #[test]
    fn invalid_utf8_and_escape_sequences_are_swallowed() {
        assert_eq!(line(b"a\xff\xc3(b\r"), "ab");
        assert_eq!(line(b"a\x1b[1;5Cb\x1bOAc\r"), "abc");
    }

    #[test]
    fn control_c_and_control_d_interrupt() {
        assert_eq!(typed(b"abc\x03").1, Some(Edit::Interrupted));
        assert_eq!(typed(b"\x04").1, Some(Edit::Interrupted));
        assert_eq!(line(b"a\x04b\r"), "ab");
    }

    #[test]
    fn the_line_is_bounded() {
        let mut long = vec![b'x'; 10_000];
        long.push(b'\r');
        assert_eq!(line(&long).len(), LONGEST);
    }
}
