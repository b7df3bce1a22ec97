//! File attributes, section 5 of the draft.

use rustix::fs::{Stat, Timespec, Timestamps};

use super::request::Malformed;
use super::wire::{Reader, Writer};

const SIZE: u32 = 1;
const UIDGID: u32 = 2;
const PERMISSIONS: u32 = 4;
const ACMODTIME: u32 = 8;
const EXTENDED: u32 = 1 << 31;

/// What of a file's attributes is to be set.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Attributes {
    /// Length in bytes.
    pub size: Option<u64>,
    /// Numbers of user and group.
    pub owner: Option<(u32, u32)>,
    /// Permissions, with the file's type above them, which is ignored.
    pub mode: Option<u32>,
    /// Access and modification, seconds since 1970.
    pub times: Option<(u32, u32)>,
}

impl Attributes {
    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        let flags = reader.uint32()?;
        let mut attributes = Self::default();
        if flags & SIZE != 0 {
            attributes.size = Some(reader.uint64()?);
        }
        if flags & UIDGID != 0 {
            attributes.owner = Some((reader.uint32()?, reader.uint32()?));
        }
        if flags & PERMISSIONS != 0 {
            attributes.mode = Some(reader.uint32()?);
        }
        if flags & ACMODTIME != 0 {
            attributes.times = Some((reader.uint32()?, reader.uint32()?));
        }
        if flags & EXTENDED != 0 {
            for _ in 0..reader.uint32()? {
                reader.string()?;
                reader.string()?;
            }
        }
        Ok(attributes)
    }

    /// The mode of a file that is made with them.
    pub(super) fn file_mode(&self) -> u32 {
        self.mode.unwrap_or(0o666)
    }
}

/// Appends all that is known of a file.
pub(super) fn write(writer: &mut Writer, stat: &Stat) {
    writer.uint32(SIZE | UIDGID | PERMISSIONS | ACMODTIME);
    writer.uint64(u64::try_from(stat.st_size).unwrap_or(0));
    writer.uint32(stat.st_uid);
    writer.uint32(stat.st_gid);
    writer.uint32(stat.st_mode);
    writer.uint32(seconds(stat.st_atime));
    writer.uint32(seconds(stat.st_mtime));
}

/// Appends what can be said of a directory that is made up.
pub(super) fn write_directory(writer: &mut Writer, mode: u32) {
    const DIRECTORY: u32 = 0o040_000;
    writer.uint32(PERMISSIONS);
    writer.uint32(DIRECTORY | mode);
}

/// The nearest time that the protocol can say.
fn seconds(time: i64) -> u32 {
    u32::try_from(time.max(0)).unwrap_or(u32::MAX)
}

/// Access and modification for utimensat(2).
pub(super) fn timestamps(accessed: i64, modified: i64) -> Timestamps {
    let whole = |seconds| Timespec { tv_sec: seconds, tv_nsec: 0 };
    Timestamps { last_access: whole(accessed), last_modification: whole(modified) }
}
