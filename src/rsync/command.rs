//! The command line that a client runs to have an rsync on the other side.
//!
//! Only what stock clients send is understood, by a list of options: `server_options` of rsync's
//! options.c is what they are made by, from version 2.6 to 3.5. Names of files in them are no
//! danger, as rsync is shut in; they decide whether the command is one of the directory alone.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use crate::sftp::{Root, is_within};
use crate::shell_words::{self, Char, plain};

/// Options of one letter, without values. Not `s`, with which the paths come later than the command.
const LETTERS: &[u8] = b"ACDEHIJKLNORSUWXbcdgklmnopqrtuvxyz";
/// Options of one letter with a number behind.
const LETTERS_WITH_NUMBERS: &[u8] = b"@B";

/// What stands behind `--NAME`.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Takes {
    Nothing,
    /// A value that names no file.
    Value,
    /// The path of a directory or file of the server's; relative to where files are put.
    Path,
    /// Where the names of files come from: `-` is the client, else a path.
    List,
    /// Pairs of users or groups. Names are the node's to know.
    Numbers,
}

/// Not among them, so that the node decides: what reads or writes devices (`copy-devices`,
/// `write-devices`), writes files elsewhere (`log-file`, `only-write-batch`), is no transfer
/// (`daemon`), asks for somebody else's rights (`copy-as`) or needs files of the system (`iconv`).
const OPTIONS: &[(&str, Takes)] = &[
    ("append", Takes::Nothing),
    ("backup-dir", Takes::Path),
    ("block-size", Takes::Value),
    ("bwlimit", Takes::Value),
    ("checksum-choice", Takes::Value),
    ("checksum-seed", Takes::Value),
    ("compare-dest", Takes::Path),
    ("compress-choice", Takes::Value),
    ("compress-level", Takes::Value),
    ("compress-threads", Takes::Value),
    ("copy-dest", Takes::Path),
    ("copy-unsafe-links", Takes::Nothing),
    ("debug", Takes::Value),
    ("delay-updates", Takes::Nothing),
    ("delete", Takes::Nothing),
    ("delete-after", Takes::Nothing),
    ("delete-before", Takes::Nothing),
    ("delete-delay", Takes::Nothing),
    ("delete-during", Takes::Nothing),
    ("delete-excluded", Takes::Nothing),
    ("delete-missing-args", Takes::Nothing),
    ("dirs", Takes::Nothing),
    ("existing", Takes::Nothing),
    ("fake-super", Takes::Nothing),
    ("files-from", Takes::List),
    ("force", Takes::Nothing),
    ("from0", Takes::Nothing),
    ("fsync", Takes::Nothing),
    ("fuzzy", Takes::Nothing),
    ("group", Takes::Nothing),
    ("groupmap", Takes::Numbers),
    ("hard-links", Takes::Nothing),
    ("ignore-errors", Takes::Nothing),
    ("ignore-existing", Takes::Nothing),
    ("ignore-missing-args", Takes::Nothing),
    ("ignore-times", Takes::Nothing),
    ("info", Takes::Value),
    ("inplace", Takes::Nothing),
    ("link-dest", Takes::Path),
    ("links", Takes::Nothing),
    ("list-only", Takes::Nothing),
    ("log-format", Takes::Value),
    ("max-alloc", Takes::Value),
    ("max-delete", Takes::Value),
    ("max-size", Takes::Value),
    ("min-size", Takes::Value),
    ("mkpath", Takes::Nothing),
    ("modify-window", Takes::Value),
    ("msgs2stderr", Takes::Nothing),
    ("munge-links", Takes::Nothing),
    ("new-compress", Takes::Nothing),
    ("no-W", Takes::Nothing),
    ("no-implied-dirs", Takes::Nothing),
    ("no-msgs2stderr", Takes::Nothing),
    ("no-r", Takes::Nothing),
    ("no-relative", Takes::Nothing),
    ("no-specials", Takes::Nothing),
    ("numeric-ids", Takes::Nothing),
    ("old-compress", Takes::Nothing),
    ("one-file-system", Takes::Nothing),
    ("open-noatime", Takes::Nothing),
    ("owner", Takes::Nothing),
    ("partial", Takes::Nothing),
    ("partial-dir", Takes::Path),
    ("perms", Takes::Nothing),
    ("preallocate", Takes::Nothing),
    ("recursive", Takes::Nothing),
    ("remove-sent-files", Takes::Nothing),
    ("remove-source-files", Takes::Nothing),
    ("safe-links", Takes::Nothing),
    ("size-only", Takes::Nothing),
    ("skip-compress", Takes::Value),
    ("specials", Takes::Nothing),
    ("stats", Takes::Nothing),
    ("stderr", Takes::Value),
    ("suffix", Takes::Value),
    ("super", Takes::Nothing),
    ("temp-dir", Takes::Path),
    ("timeout", Takes::Value),
    ("times", Takes::Nothing),
    ("use-qsort", Takes::Nothing),
    ("usermap", Takes::Numbers),
];

/// `rsync --server [--sender] OPTION... . PATH...`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    /// `--sender`: to the client.
    gives: bool,
    options: Vec<Vec<u8>>,
    /// Paths that options name.
    named: Vec<Vec<u8>>,
    words: Vec<Vec<Char>>,
}

impl Command {
    /// Understands the command line of an rsync client. `None`: it is something else, or more than
    /// a transfer of files that the command line names.
    pub fn parse(line: &[u8]) -> Option<Self> {
        let mut words = shell_words::split(line)?.into_iter();
        if plain(&words.next()?) != b"rsync" || plain(&words.next()?) != b"--server" {
            return None;
        }
        let mut command =
            Self { gives: false, options: Vec::new(), named: Vec::new(), words: Vec::new() };
        loop {
            let word = plain(&words.next()?);
            if word == b"." {
                break;
            }
            if word == b"--sender" {
                command.gives = true;
            } else if let Some(option) = word.strip_prefix(b"--") {
                let value = command.take_long(option, || words.next().map(|word| plain(&word)))?;
                command.options.push(word);
                command.options.extend(value);
                continue;
            } else if !are_letters(word.strip_prefix(b"-")?) {
                return None;
            }
            command.options.push(word);
        }
        command.words.extend(words);
        let has_a_target = command.gives || command.words.len() == 1;
        (has_a_target && !command.words.is_empty()).then_some(command)
    }

    /// Takes an option; returns the next word, if that is its value.
    fn take_long(
        &mut self,
        option: &[u8],
        next: impl FnOnce() -> Option<Vec<u8>>,
    ) -> Option<Option<Vec<u8>>> {
        let mut parts = option.splitn(2, |byte| *byte == b'=');
        let (name, value) = (parts.next()?, parts.next());
        let (_, takes) = OPTIONS.iter().find(|(known, _)| known.as_bytes() == name)?;
        if *takes == Takes::Nothing {
            return value.is_none().then_some(None);
        }
        let (value, next) = match value {
            Some(value) => (value.to_owned(), None),
            None => next().map(|next| (next.clone(), Some(next)))?,
        };
        // What is an option is no value, whoever reads it.
        if next.as_ref().is_some_and(|next| next.starts_with(b"-") && next != b"-") {
            return None;
        }
        match takes {
            Takes::List if value == b"-" => {}
            Takes::Path | Takes::List => self.named.push(value),
            Takes::Numbers if !value.iter().all(|byte| b"0123456789*:,-".contains(byte)) => {
                return None;
            }
            Takes::Nothing | Takes::Value | Takes::Numbers => {}
        }
        Some(next)
    }

    /// Whether every path in it is in the directory `name` of `/`.
    pub fn is_within(&self, name: &[u8]) -> bool {
        let paths: Vec<_> = self.words.iter().map(|word| plain(word)).collect();
        let Some(target) = paths.first() else { return false };
        let is_named_within = |path: &Vec<u8>| match path.as_slice() {
            absolute @ [b'/', ..] => is_within(absolute, name),
            relative => is_within(&without_dots(target, relative), name),
        };
        paths.iter().all(|path| is_within(path, name)) && self.named.iter().all(is_named_within)
    }

    /// The arguments that rsync gets, with the paths that the words stand for. `None`: some lead
    /// out of the root. Blocks.
    pub(crate) fn arguments(&self, root: &Root, name: &[u8]) -> Option<Vec<OsString>> {
        let mut arguments = vec![b"--server".to_vec()];
        arguments.extend(self.options.iter().cloned());
        arguments.push(b".".to_vec());
        for path in self.words.iter().flat_map(|word| root.expand(word)) {
            // What is given is followed only with a slash behind; a wildcard may match `..`.
            let follows = !self.gives || path.ends_with(b"/");
            if !is_within(&path, name) || root.leads_out(&path, follows) {
                return None;
            }
            arguments.push(path);
        }
        Some(arguments.into_iter().map(OsString::from_vec).collect())
    }
}

/// Options of one letter each; behind `e` stands what the client can do.
fn are_letters(word: &[u8]) -> bool {
    let [first, rest @ ..] = word else { return false };
    if LETTERS_WITH_NUMBERS.contains(first) {
        let number = rest.strip_prefix(b"-").unwrap_or(rest);
        return !number.is_empty() && number.iter().all(u8::is_ascii_digit);
    }
    let end = word.iter().position(|byte| *byte == b'e').unwrap_or(word.len());
    let (letters, version) = word.split_at(end);
    // With nothing behind, the next word would be its value.
    version != b"e"
        && letters.iter().all(|letter| LETTERS.contains(letter))
        && version.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'.')
}

/// A relative path from a directory on, with each `..` taken out as if there were no links. One too
/// many stays.
fn without_dots(directory: &[u8], relative: &[u8]) -> Vec<u8> {
    let mut names: Vec<&[u8]> = Vec::new();
    for name in directory.split(|byte| *byte == b'/').chain(relative.split(|byte| *byte == b'/')) {
        match name {
            b"" | b"." => {}
            b".." if names.last().is_some_and(|last| *last != b"..") => {
                names.pop();
            }
            name => names.push(name),
        }
    }
    let mut path = b"/".to_vec();
    path.extend(names.join(&b'/'));
    path
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn is_of_persist(line: &str) -> Option<bool> {
        Command::parse(line.as_bytes()).map(|command| command.is_within(b"persist"))
    }

    #[test]
    fn the_lines_of_all_clients_are_understood() {
        for line in [
            "rsync --server -vlogDtpre.iLsfxCIvu . /persist/x/",
            "rsync --server --sender -vlogDtpre.iLsfxCIvu . /persist/a '/persist/b c' /persist/*",
            "rsync --server -vvnlHogDtpAXrze31.14iLsfxCIvu --delete --partial-dir .part --inplace . /persist",
            "rsync --server -re. --link-dest=../before --temp-dir /persist/tmp . /persist/backup/now",
            "rsync --server --sender -de.LsfxC . /persist/",
            "rsync --server --sender -lre.LsfxC --files-from=- --from0 . /persist/",
            "rsync --server -tre.LsfxC -B2048 -@-1 --log-format=%i --usermap=0:5,*:7 . /persist/x",
            "rsync --server --sender -lHogDtpre.iLsfx --bwlimit=100 --compress-choice=zstd . /persist/x",
        ] {
            assert_eq!(is_of_persist(line), Some(true), "{line}");
        }
    }

    #[test]
    fn a_path_elsewhere_makes_it_the_nodes() {
        for line in [
            "rsync --server -re. . /tmp/x",
            "rsync --server -re. . persist/x",
            "rsync --server -re. . '~/x'",
            "rsync --server -re. . /persist/../etc",
            "rsync --server -re. . /persistent",
            "rsync --server --sender -re. . /persist/x /etc",
            "rsync --server -re. --temp-dir /tmp . /persist/x",
            "rsync --server -re. --temp-dir=/tmp . /persist/x",
            "rsync --server -re. --link-dest ../../etc . /persist/x",
            "rsync --server --sender -re. --files-from /etc/passwd . /persist/x",
        ] {
            assert_eq!(is_of_persist(line), Some(false), "{line}");
        }
    }

    #[test]
    fn what_no_client_sends_is_the_nodes() {
        for line in [
            "rsync --server --daemon .",
            "rsync --server --daemon --config=/persist/c . /persist",
            "rsync --daemon --server . /persist/x",
            "rsync --server --sender -re. --log-file=/persist/log . /persist",
            "rsync --server -re. --copy-devices . /persist/x",
            "rsync --server -re. --write-devices . /persist/x",
            "rsync --server -re. --copy-as=root . /persist/x",
            "rsync --server -re. --usermap=a:root . /persist/x",
            "rsync --server -re. --iconv=utf8 . /persist/x",
            "rsync --server -re. --rsh=sh . /persist/x",
            "rsync --server -re. --rsync-path=sh . /persist/x",
            "rsync --server -re. --only-write-batch=/persist/b . /persist/x",
            "rsync --server -re. --no-such-option . /persist/x",
            "rsync --server -re. --delete=x . /persist/x",
            "rsync --server -re. --temp-dir",
            "rsync --server -e sh . /persist/x",
            "rsync --server '-resh -c' . /persist/x",
            "rsync --server -sre. . /persist/x",
            "rsync --server -re.",
            "rsync --server -re. .",
            "rsync --server -re. . /persist/a /persist/b",
            "rsync --server -re. /persist/x",
            "rsync --server -re. . /persist/$HOME",
            "rsync --server -re. . /persist/x; reboot",
            "/usr/bin/rsync --server -re. . /persist/x",
            "rsync -a /persist/x /persist/y",
            "rsync",
        ] {
            assert_eq!(is_of_persist(line), None, "{line}");
        }
    }

    fn word() -> impl Strategy<Value = String> {
        let known = prop::sample::select(vec![
            "rsync",
            "--server",
            "--sender",
            ".",
            "-re.iLsfx",
            "-e",
            "--temp-dir",
            "--files-from",
            "--delete",
            "--daemon",
            "--link-dest=../x",
            "/persist/x",
            "/persist/../etc",
            "/etc",
            "..",
            "'/persist/a b'",
            "--partial-dir=/tmp",
            "--",
            "-",
        ]);
        prop_oneof![9 => known.prop_map(str::to_owned), 1 => "[ -~]{0,8}"]
    }

    proptest! {
        #[test]
        fn any_line_of_persist_has_no_path_elsewhere(words in prop::collection::vec(word(), 0..9)) {
            let line = format!("rsync --server {}", words.join(" "));
            if is_of_persist(&line) == Some(true) {
                let mut split = shell_words::split(line.as_bytes()).unwrap().into_iter();
                let is_elsewhere = |word: Vec<Char>| {
                    let path = plain(&word);
                    path.starts_with(b"/") && !is_within(&path, b"persist")
                };
                prop_assert!(!split.clone().any(is_elsewhere), "{}", line);
                prop_assert!(!split.any(|word| plain(&word) == b"--daemon"), "{}", line);
            }
        }
    }
}
