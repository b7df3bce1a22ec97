//! The output of a node as whole lines behind its name.

use bytes::{BufMut, Bytes, BytesMut};

use crate::backend::OutputEvent;
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

    /// The lines that are whole with these bytes; empty if none is.
    pub(super) fn push(&mut self, bytes: &[u8]) -> Bytes {
        let mut whole = BytesMut::new();
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            let mut part = part;
            while self.unfinished.len() + part.len() > LONGEST_LINE && part.last() != Some(&b'\n') {
                let (fits, rest) = part.split_at(LONGEST_LINE - self.unfinished.len());
                self.unfinished.put_slice(fits);
                self.take(&mut whole);
                whole.put_u8(b'\n');
                part = rest;
            }
            self.unfinished.put_slice(part);
            if part.last() == Some(&b'\n') {
                self.take(&mut whole);
            }
        }
        whole.freeze()
    }

    /// What is left at the end, as a line.
    pub(super) fn finish(&mut self) -> Bytes {
        let mut rest = BytesMut::new();
        if !self.unfinished.is_empty() {
            self.take(&mut rest);
            rest.put_u8(b'\n');
        }
        rest.freeze()
    }

    fn take(&mut self, whole: &mut BytesMut) {
        whole.put_slice(&self.prefix);
        whole.put_slice(&self.unfinished);
        self.unfinished.clear();
    }
}

/// A line of the gateway's own: on standard error, where there is one.
pub(super) fn notice(line: &str, has_terminal: bool) -> OutputEvent {
    if has_terminal {
        OutputEvent::Stdout(Bytes::from(format!("{line}\r\n")))
    } else {
        OutputEvent::Stderr(Bytes::from(format!("{line}\n")))
    }
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
        assert_eq!(lines.push(b"on"), "");
        assert_eq!(lines.push(b"e\ntwo\nthr"), "n: one\nn: two\n");
        assert_eq!(lines.push(b"ee"), "");
        assert_eq!(lines.finish(), "n: three\n");
        assert_eq!(lines.finish(), "");
        assert_eq!(lines.push(b"\n"), "n: \n");
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
}
