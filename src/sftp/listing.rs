//! The entries of a directory, as `SSH_FXP_READDIR` and ls(1) tell them.

use chrono::{DateTime, Local, TimeDelta};
use rustix::fs::{AtFlags, Dir, FileType, Stat};
use rustix::io::Errno;

use super::access::{Links, kind};
use super::accounts::Accounts;
use super::attributes;
use super::error::FileError;
use super::root::Root;
use super::wire::Writer;

/// About how long one answer gets. Every client takes packets of this size, and a directory of
/// 50,000 entries needs a hundred of them.
const ANSWER_BYTES: usize = 64 * 1024;

/// A directory that is being read.
pub(super) struct Listing {
    directory: Dir,
    path: Vec<u8>,
    /// For all entries alike: half a year before is where ls(1) tells the year.
    now: DateTime<Local>,
    /// What was told last, and of when: entries that were made together share it.
    date: (i64, String),
}

impl Listing {
    pub(super) fn open(root: &Root, path: &[u8]) -> Result<Self, FileError> {
        let path = root.absolute(path).into_owned();
        let directory = root.locate(&path, Links::Follow)?.open_directory()?;
        Ok(Self {
            directory: Dir::new(directory)?,
            path,
            now: Local::now(),
            date: Default::default(),
        })
    }

    /// Appends entries to an answer; returns how many.
    pub(super) fn read(
        &mut self,
        root: &Root,
        accounts: &Accounts,
        answer: &mut Writer,
    ) -> Result<u32, FileError> {
        let mut count = 0;
        while answer.len() < ANSWER_BYTES {
            let Some(entry) = self.directory.read() else { break };
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            let stat = if name == b".." {
                // Of the root it is the root itself.
                match root.locate(&[&self.path, b"/..".as_slice()].concat(), Links::Follow) {
                    // What is around a mounted root is somebody else's.
                    Err(FileError::System(Errno::XDEV)) => {
                        rustix::fs::fstat(self.directory.fd()?).map_err(FileError::from)
                    }
                    parent => parent.and_then(|parent| parent.stat()),
                }
            } else {
                rustix::fs::statat(self.directory.fd()?, name, AtFlags::SYMLINK_NOFOLLOW)
                    .map_err(FileError::from)
            };
            // It was removed just now, or only its name can be read.
            let Ok(stat) = stat else { continue };
            answer.string(name);
            if self.date.0 != stat.st_mtime || self.date.1.is_empty() {
                self.date = (stat.st_mtime, date(stat.st_mtime, &self.now));
            }
            answer.string(&long_name(name, &stat, accounts, &self.date.1));
            attributes::write(answer, &stat);
            count += 1;
        }
        Ok(count)
    }
}

impl Root {
    /// A mounted root as an entry of the directory that it is mounted in.
    pub(super) fn entry(&self) -> std::io::Result<Vec<u8>> {
        let name = self.mounted_at().unwrap_or_default();
        let path = [b"/", name].concat();
        let found = self.locate(&path, Links::Keep).and_then(|directory| directory.stat());
        let stat = found.map_err(std::io::Error::other)?;
        let mut entry = Writer::part();
        entry.string(name);
        let date = date(stat.st_mtime, &Local::now());
        entry.string(&long_name(name, &stat, &Accounts::read(self), &date));
        attributes::write(&mut entry, &stat);
        Ok(entry.into_bytes())
    }
}

/// A line of `ls -l`, in the form that the draft recommends.
pub(super) fn long_name(name: &[u8], stat: &Stat, accounts: &Accounts, date: &str) -> Vec<u8> {
    let user = accounts.user(stat.st_uid).map_or_else(|| stat.st_uid.to_string(), str::to_owned);
    let group = accounts.group(stat.st_gid).map_or_else(|| stat.st_gid.to_string(), str::to_owned);
    let mut line = format!(
        "{} {:>4} {user:<8} {group:<8} {:>8} {} ",
        permissions(stat),
        stat.st_nlink,
        stat.st_size,
        date,
    )
    .into_bytes();
    line.extend(name);
    line
}

fn date(seconds: i64, now: &DateTime<Local>) -> String {
    let Some(time) = DateTime::from_timestamp(seconds, 0) else {
        return seconds.to_string();
    };
    let time = time.with_timezone(&Local);
    let age = now.signed_duration_since(time);
    let is_recent = age >= TimeDelta::zero() && age < TimeDelta::days(182);
    time.format(if is_recent { "%b %e %H:%M" } else { "%b %e  %Y" }).to_string()
}

fn permissions(stat: &Stat) -> String {
    let kind = match kind(stat) {
        FileType::RegularFile => '-',
        FileType::Directory => 'd',
        FileType::Symlink => 'l',
        FileType::Fifo => 'p',
        FileType::Socket => 's',
        FileType::CharacterDevice => 'c',
        FileType::BlockDevice => 'b',
        FileType::Unknown => '?',
    };
    let mode = stat.st_mode;
    let mut text = String::from(kind);
    for (shift, special, letter) in [(6, 0o4000, 's'), (3, 0o2000, 's'), (0, 0o1000, 't')] {
        let bits = mode >> shift;
        text.push(if bits & 4 != 0 { 'r' } else { '-' });
        text.push(if bits & 2 != 0 { 'w' } else { '-' });
        text.push(match (mode & special != 0, bits & 1 != 0) {
            (false, false) => '-',
            (false, true) => 'x',
            (true, false) => letter.to_ascii_uppercase(),
            (true, true) => letter,
        });
    }
    text
}
