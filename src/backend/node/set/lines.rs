//! The output of a node as whole lines behind its name.

use bytes::{BufMut, Bytes, BytesMut};

use crate::backend::{OutputEvent, visible};
use crate::names::NodeName;

/// A longer line is shown in pieces of this many bytes.
const LONGEST_LINE: usize = 64 * 1024;

/// Of the 256 colours of xterm those that are read on black and on white.
const COLOURS: [u8; 8] = [33, 35, 129, 166, 37, 162, 64, 172];

/// The names of a set's nodes, aligned, each in a colour on a terminal.
pub(super) struct Prefixes(Vec<Bytes>);

impl Prefixes {
    pub(super) fn new(names: &[NodeName], coloured: bool) -> Self {
        let width = names.iter().map(|name| name.as_str().len()).max().unwrap_or_default() + 1;
        let prefix = |(index, name): (usize, &NodeName)| {
            let name = format!("{name}:");
            let text = if coloured {
                let colour = COLOURS[index % COLOURS.len()];
                format!("\x1b[38;5;{colour}m{name:<width$}\x1b[0m ")
            } else {
                format!("{name:<width$} ")
            };
            Bytes::from(text)
        };
        Self(names.iter().enumerate().map(prefix).collect())
    }

    pub(super) fn of(&self, index: usize) -> Bytes {
        self.0.get(index).cloned().unwrap_or_default()
    }
}

/// One of a node's streams. Lines end with a line feed; their bytes are passed as they are.
pub(super) struct Lines {
    prefix: Bytes,
    unfinished: BytesMut,
}

impl Lines {
    pub(super) fn new(prefix: Bytes) -> Self {
        Self { prefix, unfinished: BytesMut::new() }
    }

    /// Takes some of the bytes, all in the end, and gives the lines that are whole with them: no
    /// more than [`LONGEST_LINE`] bytes and one line, as a name may be longer than what is behind
    /// it.
    pub(super) fn take_from(&mut self, bytes: &mut &[u8]) -> Bytes {
        let mut whole = BytesMut::new();
        while !bytes.is_empty() && whole.len() < LONGEST_LINE {
            let room = &bytes[..bytes.len().min(LONGEST_LINE - self.unfinished.len())];
            let end = room.iter().position(|byte| *byte == b'\n').map(|at| at + 1);
            let (part, rest) = bytes.split_at(end.unwrap_or(room.len()));
            self.unfinished.put_slice(part);
            *bytes = rest;
            if end.is_some() {
                self.show(&mut whole);
            } else if self.unfinished.len() == LONGEST_LINE {
                self.show(&mut whole);
                whole.put_u8(b'\n');
            }
        }
        whole.freeze()
    }

    /// What is left at the end, as a line.
    pub(super) fn finish(&mut self) -> Bytes {
        let mut rest = BytesMut::new();
        if !self.unfinished.is_empty() {
            self.show(&mut rest);
            rest.put_u8(b'\n');
        }
        rest.freeze()
    }

    fn show(&mut self, whole: &mut BytesMut) {
        whole.put_slice(&self.prefix);
        whole.put_slice(&self.unfinished);
        self.unfinished.clear();
    }
}

/// A line of the gateway's own behind `prefix`: on standard error, where there is one.
pub(super) fn notice(prefix: &[u8], line: &str, has_terminal: bool) -> OutputEvent {
    // Nodes have a word in it.
    let line = visible(line);
    let (event, end): (fn(Bytes) -> OutputEvent, _) =
        if has_terminal { (OutputEvent::Stdout, "\r\n") } else { (OutputEvent::Stderr, "\n") };
    event([prefix, line.as_bytes(), end.as_bytes()].concat().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<NodeName> {
        names.iter().map(|name| name.parse().unwrap()).collect()
    }

    fn lines() -> Lines {
        Lines::new(Bytes::from_static(b"n: "))
    }

    impl Lines {
        fn push(&mut self, mut bytes: &[u8]) -> Vec<u8> {
            let mut shown = Vec::new();
            while !bytes.is_empty() {
                shown.extend(self.take_from(&mut bytes));
            }
            shown
        }
    }

    #[test]
    fn names_are_aligned() {
        let prefixes = Prefixes::new(&names(&["rpi1", "rpi-long"]), false);
        assert_eq!(prefixes.of(0), "rpi1:     ");
        assert_eq!(prefixes.of(1), "rpi-long: ");
        let coloured = Prefixes::new(&names(&["rpi1", "rpi2"]), true);
        assert!(coloured.of(0).ends_with(b"mrpi1:\x1b[0m "), "{:?}", coloured.of(0));
        assert_ne!(coloured.of(0), coloured.of(1));
    }

    #[test]
    fn lines_are_whole_whatever_pieces_they_come_in() {
        let mut lines = lines();
        assert_eq!(lines.push(b"on"), b"");
        assert_eq!(lines.push(b"e\ntwo\nthr"), b"n: one\nn: two\n");
        assert_eq!(lines.push(b"ee"), b"");
        assert_eq!(lines.finish(), "n: three\n");
        assert_eq!(lines.finish(), "");
        assert_eq!(lines.push(b"\n"), b"n: \n");
    }

    #[test]
    fn bytes_of_a_line_are_not_changed() {
        let line: Vec<u8> = (0..=255).filter(|byte| *byte != b'\n').chain([b'\n']).collect();
        assert_eq!(lines().push(&line), [b"n: ", line.as_slice()].concat());
    }

    #[test]
    fn an_endless_line_comes_in_pieces() {
        let mut lines = lines();
        let shown = lines.push(&vec![b'x'; 3 * LONGEST_LINE - 1]);
        assert_eq!(shown.iter().filter(|byte| **byte == b'\n').count(), 2);
        assert!(lines.unfinished.len() < LONGEST_LINE);
        assert_eq!(lines.finish().len(), LONGEST_LINE - 1 + "n: \n".len());
    }

    #[test]
    fn short_lines_behind_a_long_name_do_not_grow_without_bound() {
        let mut lines = Lines::new(Bytes::from(vec![b'n'; 60]));
        let input = vec![b'\n'; 32 * 1024];
        let mut left = input.as_slice();
        let mut shown = 0;
        while !left.is_empty() {
            let piece = lines.take_from(&mut left);
            assert!(piece.len() <= LONGEST_LINE + 61, "{}", piece.len());
            shown += piece.len();
        }
        assert_eq!(shown, 61 * input.len());
    }

    #[test]
    fn a_line_of_the_gateway_cannot_be_forged_by_a_node() {
        let OutputEvent::Stderr(shown) = notice(b"", "a\r\nwaltgate: b\x1b[2J", false) else {
            panic!("a notice is for standard error");
        };
        assert_eq!(shown, "a\\r\\nwaltgate: b\\u{1b}[2J\n");
    }
}
