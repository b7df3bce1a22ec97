//! The command line that a client runs to have an scp on the other side.

use super::glob;
use crate::sftp::real_path::names;
use crate::sftp::root::{Root, below};

/// Which way files go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    /// `-t`: from the client.
    Take,
    /// `-f`: to the client.
    Give,
}

/// One byte of a word; a quoted one is no wildcard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Char {
    pub(super) byte: u8,
    pub(super) is_quoted: bool,
}

/// `scp -t PATH` or `scp -f PATH...` with its options.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    pub(super) direction: Direction,
    /// `-r`
    pub(super) is_recursive: bool,
    /// `-p`
    pub(super) preserves: bool,
    /// `-d`: the target must be a directory.
    pub(super) wants_directory: bool,
    /// `-v`
    pub(super) is_verbose: bool,
    words: Vec<Vec<Char>>,
}

impl Command {
    /// Understands the command line of an scp client. `None`: it is something else, or needs a
    /// shell to say what it means (variables, pipes, several commands).
    pub fn parse(line: &[u8]) -> Option<Self> {
        let mut words = words(line)?.into_iter();
        if plain(&words.next()?) != b"scp" {
            return None;
        }
        let mut direction = None;
        let mut command = Self {
            direction: Direction::Take,
            is_recursive: false,
            preserves: false,
            wants_directory: false,
            is_verbose: false,
            words: Vec::new(),
        };
        for word in words.by_ref() {
            let text = plain(&word);
            if text == b"--" {
                break;
            }
            let Some(options) = text.strip_prefix(b"-").filter(|options| !options.is_empty())
            else {
                command.words.push(word);
                break;
            };
            for option in options {
                match option {
                    b't' => direction = Some(Direction::Take),
                    b'f' => direction = Some(Direction::Give),
                    b'r' => command.is_recursive = true,
                    b'p' => command.preserves = true,
                    b'd' => command.wants_directory = true,
                    b'v' => command.is_verbose = true,
                    b'q' => {}
                    _ => return None,
                }
            }
        }
        command.words.extend(words);
        command.direction = direction?;
        Some(command)
    }

    /// Whether every path in it is in the directory `name` of `/`.
    pub fn is_within(&self, name: &[u8]) -> bool {
        let is_within = |word: &Vec<Char>| {
            let path = plain(word);
            path.starts_with(b"/")
                && !names(&path).iter().any(|name| name == b"..")
                && below(&path, name).is_some()
        };
        !self.words.is_empty() && self.words.iter().all(is_within)
    }

    /// The paths that its words stand for. Blocks.
    pub(super) fn paths(&self, root: &Root) -> Vec<Vec<u8>> {
        self.words.iter().flat_map(|word| glob::expand(root, word)).collect()
    }
}

fn plain(word: &[Char]) -> Vec<u8> {
    word.iter().map(|char| char.byte).collect()
}

/// Splits a line as a shell does (POSIX Shell Command Language 2.2), if it has nothing but words.
fn words(line: &[u8]) -> Option<Vec<Vec<Char>>> {
    let mut words = Vec::new();
    let mut word: Option<Vec<Char>> = None;
    let mut bytes = line.iter().copied();
    while let Some(byte) = bytes.next() {
        match byte {
            b' ' | b'\t' => words.extend(word.take()),
            b'\'' => {
                let word = word.get_or_insert_default();
                loop {
                    match bytes.next()? {
                        b'\'' => break,
                        byte => word.push(Char { byte, is_quoted: true }),
                    }
                }
            }
            b'"' => double_quoted(&mut bytes, word.get_or_insert_default())?,
            b'\\' => {
                let byte = bytes.next()?;
                // A line that is continued.
                if byte != b'\n' {
                    word.get_or_insert_default().push(Char { byte, is_quoted: true });
                }
            }
            b'$' | b'`' | b'|' | b'&' | b';' | b'<' | b'>' | b'(' | b')' | b'\n' | b'\0' => {
                return None;
            }
            // A list in braces means something to some shells only.
            b'{' | b'}' => return None,
            b'#' if word.is_none() => return None,
            byte => word.get_or_insert_default().push(Char { byte, is_quoted: false }),
        }
    }
    words.extend(word);
    Some(words)
}

fn double_quoted(bytes: &mut impl Iterator<Item = u8>, word: &mut Vec<Char>) -> Option<()> {
    loop {
        let byte = match bytes.next()? {
            b'"' => return Some(()),
            b'$' | b'`' => return None,
            b'\\' => match bytes.next()? {
                b'\n' => continue,
                byte @ (b'$' | b'`' | b'"' | b'\\') => byte,
                byte => {
                    word.push(Char { byte: b'\\', is_quoted: true });
                    byte
                }
            },
            byte => byte,
        };
        word.push(Char { byte, is_quoted: true });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> (Direction, Vec<String>) {
        let command = Command::parse(line.as_bytes()).unwrap();
        let words = command.words.iter().map(|word| String::from_utf8(plain(word)).unwrap());
        (command.direction, words.collect())
    }

    #[test]
    fn the_lines_of_all_clients_are_understood() {
        for (line, direction, paths) in [
            ("scp -t /tmp", Direction::Take, vec!["/tmp"]),
            ("scp -v -r -p -d -t -- -odd", Direction::Take, vec!["-odd"]),
            ("scp -f a b", Direction::Give, vec!["a", "b"]),
            ("scp -prf 'it'\\''s'", Direction::Give, vec!["it's"]),
            ("scp -t \"a \\\"b\\\" \\c\"", Direction::Take, vec!["a \"b\" \\c"]),
            ("scp  -t  a\\ b", Direction::Take, vec!["a b"]),
            ("scp -t ''", Direction::Take, vec![""]),
            ("scp -t", Direction::Take, vec![]),
        ] {
            let paths: Vec<String> = paths.into_iter().map(str::to_owned).collect();
            assert_eq!(parsed(line), (direction, paths), "{line}");
        }
    }

    #[test]
    fn what_needs_a_shell_is_left_to_one() {
        for line in [
            "scp",
            "scp a b",
            "scp -3 -t a",
            "scp -t $HOME",
            "scp -t \"$HOME\"",
            "scp -t a; reboot",
            "scp -t a && true",
            "scp -t `id`",
            "scp -t 'a",
            "scp -t \"a",
            "scp -t a\\",
            "scp -t a\nreboot",
            "scp -f {a,b}",
            "exec scp -t a",
            "/usr/bin/scp -t a",
            "scp -t #a",
        ] {
            assert_eq!(Command::parse(line.as_bytes()), None, "{line}");
        }
    }
}
