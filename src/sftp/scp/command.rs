//! The command line that a client runs to have an scp on the other side.

use crate::sftp::root::{Root, is_within};
use crate::shell_words::{self, Char, plain};

/// Which way files go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    /// `-t`: from the client.
    Take,
    /// `-f`: to the client.
    Give,
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
        let mut words = shell_words::split(line)?.into_iter();
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
        !self.words.is_empty() && self.words.iter().all(|word| is_within(&plain(word), name))
    }

    /// The paths that its words stand for. Blocks.
    pub(super) fn paths(&self, root: &Root) -> Vec<Vec<u8>> {
        self.words.iter().flat_map(|word| root.expand(word)).collect()
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
