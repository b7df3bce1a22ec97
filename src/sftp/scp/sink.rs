//! `scp -t`: takes files from the client.

use std::fs::File;

use rustix::fs::Mode;
use rustix::io::Errno;

use super::command::Command;
use super::conversation::{Conversation, Stop};
use crate::sftp::access::{self, Access, Links};
use crate::sftp::attributes;
use crate::sftp::error::FileError;
use crate::sftp::root::Root;
use crate::sftp::sparse;

/// Owner's permissions without which a directory could not be filled.
const FILLABLE: u32 = 0o700;
/// The permission without which a file could not be written.
const WRITABLE: u32 = 0o200;

pub(super) fn run(
    root: &Root,
    command: &Command,
    paths: &[Vec<u8>],
    conversation: &mut Conversation,
) -> Result<(), Stop> {
    let [target] = paths else {
        return Err(conversation.give_up(b"ambiguous target"));
    };
    // What a shell makes of an empty word.
    let target: &[u8] = if target.is_empty() { b"." } else { target };
    let sink = Sink { root, command };
    if command.wants_directory && !sink.is_directory(target) {
        let error = match root.locate(target, Links::Follow) {
            Ok(_) => Errno::NOTDIR.into(),
            Err(error) => error,
        };
        conversation.complain_about(target, error)?;
        return Err(Stop);
    }
    sink.take(target, 0, conversation)
}

struct Sink<'a> {
    root: &'a Root,
    command: &'a Command,
}

/// A `C` or `D` line: `C0644 1234 name`.
#[derive(Debug, PartialEq, Eq)]
struct Announcement {
    is_directory: bool,
    mode: u32,
    size: u64,
    name: Vec<u8>,
}

/// A `T` line: seconds of modification and access.
type Times = (i64, i64);

impl Sink<'_> {
    /// Takes what comes until the end of a directory, or of all.
    fn take(
        &self,
        target: &[u8],
        depth: usize,
        conversation: &mut Conversation,
    ) -> Result<(), Stop> {
        conversation.accept()?;
        let is_directory = self.is_directory(target);
        let mut times = None;
        while let Some(line) = conversation.line()? {
            conversation.detail("Sink: ", &line)?;
            let announcement = match line.split_first() {
                Some((b'E', [])) => {
                    return conversation.accept();
                }
                Some((b'T', rest)) => {
                    times = Some(self.times(rest, conversation)?);
                    conversation.accept()?;
                    continue;
                }
                Some((1, _)) => {
                    // The client could not read something and has told its user.
                    conversation.note_failure();
                    continue;
                }
                Some((2, _)) => return Err(Stop),
                _ => match Announcement::parse(&line) {
                    Ok(announcement) => announcement,
                    Err(reason) => return Err(conversation.give_up(reason)),
                },
            };
            let path = if is_directory {
                [target, b"/", &announcement.name].concat()
            } else {
                target.to_owned()
            };
            let times = times.take();
            if !announcement.is_directory {
                self.take_file(&path, &announcement, times, conversation)?;
            } else if !self.command.is_recursive {
                return Err(conversation.give_up(b"received directory without -r"));
            } else {
                self.take_directory(&path, &announcement, times, depth, conversation)?;
            }
        }
        // Between two files it is the end of all; within a directory something is missing.
        if depth > 0 { Err(conversation.lost()) } else { Ok(()) }
    }

    fn times(&self, line: &[u8], conversation: &mut Conversation) -> Result<Times, Stop> {
        let numbers: Option<Vec<i64>> = std::str::from_utf8(line)
            .ok()
            .and_then(|line| line.split(' ').map(|field| field.parse().ok()).collect());
        match numbers.as_deref() {
            Some([modified, _, accessed, _]) => Ok((*modified, *accessed)),
            _ => Err(conversation.give_up(b"protocol error: times not understood")),
        }
    }

    fn take_directory(
        &self,
        path: &[u8],
        announcement: &Announcement,
        times: Option<Times>,
        depth: usize,
        conversation: &mut Conversation,
    ) -> Result<(), Stop> {
        let wanted = self.wanted_mode(announcement.mode);
        let made = match self.root.locate(path, Links::Follow).and_then(|file| file.stat()) {
            Ok(stat) if access::kind(&stat).is_dir() => Ok(false),
            Ok(_) => Err(Errno::NOTDIR.into()),
            Err(_) => self.root.make_directory(path, wanted | FILLABLE).map(|()| true),
        };
        let made = match made {
            Ok(made) => made,
            Err(error) => return conversation.complain_about(path, error),
        };
        self.take(path, depth + 1, conversation)?;
        let settled = self.root.locate(path, Links::Follow).and_then(|directory| {
            if let Some((modified, accessed)) = times {
                directory.set_times(&attributes::timestamps(accessed, modified))?;
            }
            if made || self.command.preserves {
                directory.set_mode(wanted)?;
            }
            Ok(())
        });
        match settled {
            Ok(()) => Ok(()),
            Err(error) => conversation.complain_about(path, error),
        }
    }

    fn take_file(
        &self,
        path: &[u8],
        announcement: &Announcement,
        times: Option<Times>,
        conversation: &mut Conversation,
    ) -> Result<(), Stop> {
        let wanted = self.wanted_mode(announcement.mode);
        let existed = self.root.locate(path, Links::Follow).is_ok();
        let access = Access { create: true, ..Access::WRITE };
        let file = match self.root.open_file(path, access, wanted | WRITABLE) {
            Ok(file) => file,
            Err(error) => return conversation.complain_about(path, error),
        };
        conversation.accept()?;
        let mut written = Ok(());
        let mut offset = 0;
        while offset < announcement.size {
            let data = conversation.data(announcement.size - offset)?;
            if data.is_empty() {
                return Err(conversation.lost());
            }
            // What cannot be written is read all the same: the client sends it.
            if written.is_ok() {
                let end = offset + data.len() as u64;
                written = self
                    .root
                    .extend(&file, end)
                    .map_err(FileError::from)
                    .and_then(|()| sparse::write_all_at(&file, &data, offset).map_err(failure));
            }
            offset += data.len() as u64;
        }
        let settled = written.and_then(|()| {
            file.set_len(announcement.size).map_err(failure)?;
            // A file that was there before keeps its mode, where that does no harm.
            if self.command.preserves || !existed || wanted & WRITABLE == 0 {
                rustix::fs::fchmod(&file, Mode::from_raw_mode(wanted))?;
            }
            Ok(())
        });
        conversation.response()?;
        let settled = settled.and_then(|()| set_times(&file, times));
        match settled {
            Ok(()) => conversation.accept(),
            Err(error) => conversation.complain_about(path, error),
        }
    }

    /// With `-p` as it is, and else less the usual umask.
    fn wanted_mode(&self, mode: u32) -> u32 {
        if self.command.preserves { mode } else { access::masked(mode) }
    }

    fn is_directory(&self, path: &[u8]) -> bool {
        let kind = self.root.locate(path, Links::Follow).and_then(|file| file.kind());
        kind.is_ok_and(|kind| kind.is_dir())
    }
}

impl Announcement {
    fn parse(line: &[u8]) -> Result<Self, &'static [u8]> {
        let is_directory = match line.first() {
            Some(b'C') => false,
            Some(b'D') => true,
            _ => return Err(b"protocol error: expected control record"),
        };
        let mut fields = line[1..].splitn(3, |byte| *byte == b' ');
        let (Some(mode), Some(size), Some(name)) = (fields.next(), fields.next(), fields.next())
        else {
            return Err(b"protocol error: expected control record");
        };
        if mode.len() != 4 {
            return Err(b"protocol error: bad mode");
        }
        let text = |field| std::str::from_utf8(field).unwrap_or_default();
        let mode = u32::from_str_radix(text(mode), 8)
            .map_err(|_| b"protocol error: bad mode".as_slice())?;
        let size = text(size)
            .parse()
            .ok()
            .filter(|size| i64::try_from(*size).is_ok())
            .ok_or(b"protocol error: size out of range".as_slice())?;
        if matches!(name, b"" | b"." | b"..") || name.contains(&b'/') {
            return Err(b"error: unexpected filename");
        }
        Ok(Self { is_directory, mode, size, name: name.to_owned() })
    }
}

fn set_times(file: &File, times: Option<Times>) -> Result<(), FileError> {
    let Some((modified, accessed)) = times else {
        return Ok(());
    };
    Ok(rustix::fs::futimens(file, &attributes::timestamps(accessed, modified))?)
}

fn failure(error: std::io::Error) -> FileError {
    Errno::from_io_error(&error).unwrap_or(Errno::IO).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_lead_elsewhere_are_no_names() {
        for line in ["C0644 1 a/b", "C0644 1 ..", "C0644 1 .", "D0755 0 ", "C0644 1 /etc/passwd"] {
            assert_eq!(
                Announcement::parse(line.as_bytes()),
                Err(b"error: unexpected filename".as_slice()),
                "{line}"
            );
        }
    }

    #[test]
    fn only_whole_announcements_are_understood() {
        for line in [
            "",
            "X",
            "C",
            "C0644",
            "C0644 1",
            "C644 1 a",
            "C0999 1 a",
            "C0644 -1 a",
            "C0644 9223372036854775808 a",
            "C0644 x a",
        ] {
            assert!(Announcement::parse(line.as_bytes()).is_err(), "{line}");
        }
        let size = i64::MAX as u64;
        let name = b"a b".to_vec();
        assert_eq!(
            Announcement::parse(b"C4755 9223372036854775807 a b"),
            Ok(Announcement { is_directory: false, mode: 0o4755, size, name })
        );
    }
}
