//! `scp -f`: gives files to the client.

use std::fs::File;
use std::os::unix::fs::FileExt;

use rustix::fs::{Dir, Stat};

use super::command::Command;
use super::conversation::{Conversation, Response, Stop};
use crate::sftp::access::{self, Access, Links, Located, MODE_BITS};
use crate::sftp::error::FileError;
use crate::sftp::root::Root;

/// Of a file, read at once.
const BLOCK_BYTES: usize = 128 * 1024;

pub(super) fn run(
    root: &Root,
    command: &Command,
    paths: &[Vec<u8>],
    conversation: &mut Conversation,
) -> Result<(), Stop> {
    conversation.response()?;
    let source = Source { root, command };
    for path in paths {
        source.give(path, conversation)?;
    }
    Ok(())
}

struct Source<'a> {
    root: &'a Root,
    command: &'a Command,
}

impl Source<'_> {
    /// Gives a file or a directory; what cannot be read is told.
    fn give(&self, path: &[u8], conversation: &mut Conversation) -> Result<(), Stop> {
        let end = path.iter().rposition(|byte| *byte != b'/').map_or(path.len(), |last| last + 1);
        let path = if path.starts_with(b"/") && end == path.len() && path.iter().all(is_slash) {
            b"/"
        } else {
            &path[..end]
        };
        let found = self
            .root
            .locate(path, Links::Follow)
            .and_then(|located| located.stat().map(|stat| (located, stat)));
        let (located, stat) = match found {
            Ok(found) => found,
            Err(error) => return conversation.complain_about(path, error),
        };
        if access::kind(&stat).is_dir() && self.command.is_recursive {
            return self.give_directory(path, &located, &stat, conversation);
        }
        let file = match located.open(Access::READ) {
            Ok(file) => file,
            Err(error) => return conversation.complain_about(path, error),
        };
        drop(located);
        self.give_file(path, &file, &stat, conversation)
    }

    fn give_file(
        &self,
        path: &[u8],
        file: &File,
        stat: &Stat,
        conversation: &mut Conversation,
    ) -> Result<(), Stop> {
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        if self.announce(b'C', path, stat, size, conversation)? == Response::Skip {
            return Ok(());
        }
        let mut failure: Option<std::io::Error> = None;
        let mut offset = 0;
        while offset < size {
            let length = usize::try_from(size - offset).unwrap_or(BLOCK_BYTES).min(BLOCK_BYTES);
            let mut block = vec![0; length];
            if failure.is_none() {
                match file.read_at(&mut block, offset) {
                    // It became shorter: what was announced is sent, in zeros.
                    Ok(0) => failure = Some(rustix::io::Errno::IO.into()),
                    Ok(read) => block.truncate(read),
                    Err(error) => failure = Some(error),
                }
            }
            offset += block.len() as u64;
            conversation.send(block)?;
        }
        match failure {
            None => conversation.accept()?,
            Some(error) => {
                let errno = rustix::io::Errno::from_io_error(&error);
                let error = FileError::from(errno.unwrap_or(rustix::io::Errno::IO));
                conversation.complain_about(path, error)?;
            }
        }
        conversation.response().map(drop)
    }

    fn give_directory(
        &self,
        path: &[u8],
        directory: &Located,
        stat: &Stat,
        conversation: &mut Conversation,
    ) -> Result<(), Stop> {
        let entries = directory.open_directory().and_then(|directory| Ok(Dir::new(directory)?));
        let entries = match entries {
            Ok(entries) => entries,
            Err(error) => return conversation.complain_about(path, error),
        };
        if self.announce(b'D', path, stat, 0, conversation)? == Response::Skip {
            return Ok(());
        }
        for entry in entries {
            let entry = match entry {
                Ok(entry) => entry,
                Err(error) => {
                    conversation.complain_about(path, FileError::from(error))?;
                    break;
                }
            };
            let name = entry.file_name().to_bytes();
            if !matches!(name, b"." | b"..") {
                self.give(&[path, b"/", name].concat(), conversation)?;
            }
        }
        conversation.send(&b"E\n"[..])?;
        conversation.response().map(drop)
    }

    /// Says what comes, and with `-p` how old it is.
    fn announce(
        &self,
        kind: u8,
        path: &[u8],
        stat: &Stat,
        size: u64,
        conversation: &mut Conversation,
    ) -> Result<Response, Stop> {
        if self.command.preserves {
            let (modified, accessed) = (stat.st_mtime.max(0), stat.st_atime.max(0));
            conversation.send(format!("T{modified} 0 {accessed} 0\n"))?;
            if conversation.response()? == Response::Skip {
                return Ok(Response::Skip);
            }
        }
        let line = [
            format!("{}{:04o} {size} ", char::from(kind), stat.st_mode & MODE_BITS).as_bytes(),
            &announced_name(path),
        ]
        .concat();
        conversation.detail("Sending file modes: ", &line)?;
        conversation.send([&line, b"\n".as_slice()].concat())?;
        conversation.response()
    }
}

fn is_slash(byte: &u8) -> bool {
    *byte == b'/'
}

/// The last name of a path. A line's end in it would end the line: it is sent as OpenSSH sends it,
/// in the notation of vis(1).
fn announced_name(path: &[u8]) -> Vec<u8> {
    let name = path.rsplit(is_slash).next().unwrap_or(path);
    if !name.contains(&b'\n') {
        return name.to_owned();
    }
    name.iter()
        .flat_map(|byte| match byte {
            b'\n' => &b"\\^J"[..],
            byte => std::slice::from_ref(byte),
        })
        .copied()
        .collect()
}
