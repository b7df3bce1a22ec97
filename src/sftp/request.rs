//! What clients ask, section 6 of the draft.

use super::access::Links;
use super::attributes::Attributes;
use super::wire::{Reader, Writer};

/// The packet is not what the draft says it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("malformed packet")]
pub struct Malformed;

/// Types of packets that clients send.
pub(super) mod kind {
    pub(in crate::sftp) const INIT: u8 = 1;
    pub(in crate::sftp) const OPEN: u8 = 3;
    pub(in crate::sftp) const CLOSE: u8 = 4;
    pub(in crate::sftp) const READ: u8 = 5;
    pub(in crate::sftp) const WRITE: u8 = 6;
    pub(in crate::sftp) const LSTAT: u8 = 7;
    pub(in crate::sftp) const FSTAT: u8 = 8;
    pub(in crate::sftp) const SETSTAT: u8 = 9;
    pub(in crate::sftp) const FSETSTAT: u8 = 10;
    pub(in crate::sftp) const OPENDIR: u8 = 11;
    pub(in crate::sftp) const READDIR: u8 = 12;
    pub(in crate::sftp) const REMOVE: u8 = 13;
    pub(in crate::sftp) const MKDIR: u8 = 14;
    pub(in crate::sftp) const RMDIR: u8 = 15;
    pub(in crate::sftp) const REALPATH: u8 = 16;
    pub(in crate::sftp) const STAT: u8 = 17;
    pub(in crate::sftp) const RENAME: u8 = 18;
    pub(in crate::sftp) const READLINK: u8 = 19;
    pub(in crate::sftp) const SYMLINK: u8 = 20;
    pub(in crate::sftp) const EXTENDED: u8 = 200;
}

/// A request. Paths and handles are any bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields are those of the draft")]
pub enum Request<'a> {
    /// `SSH_FXP_INIT`
    Init { version: u32 },
    /// `SSH_FXP_OPEN`
    Open { path: &'a [u8], flags: u32, attributes: Attributes },
    /// `SSH_FXP_CLOSE`
    Close { handle: &'a [u8] },
    /// `SSH_FXP_READ`
    Read { handle: &'a [u8], offset: u64, length: u32 },
    /// `SSH_FXP_WRITE`
    Write { handle: &'a [u8], offset: u64, data: &'a [u8] },
    /// `SSH_FXP_LSTAT`
    Lstat { path: &'a [u8] },
    /// `SSH_FXP_FSTAT`
    Fstat { handle: &'a [u8] },
    /// `SSH_FXP_SETSTAT`
    Setstat { path: &'a [u8], attributes: Attributes },
    /// `SSH_FXP_FSETSTAT`
    Fsetstat { handle: &'a [u8], attributes: Attributes },
    /// `SSH_FXP_OPENDIR`
    Opendir { path: &'a [u8] },
    /// `SSH_FXP_READDIR`
    Readdir { handle: &'a [u8] },
    /// `SSH_FXP_REMOVE`
    Remove { path: &'a [u8] },
    /// `SSH_FXP_MKDIR`
    Mkdir { path: &'a [u8], attributes: Attributes },
    /// `SSH_FXP_RMDIR`
    Rmdir { path: &'a [u8] },
    /// `SSH_FXP_REALPATH`
    Realpath { path: &'a [u8] },
    /// `SSH_FXP_STAT`
    Stat { path: &'a [u8] },
    /// `SSH_FXP_RENAME`
    Rename { from: &'a [u8], to: &'a [u8] },
    /// `SSH_FXP_READLINK`
    Readlink { path: &'a [u8] },
    /// `SSH_FXP_SYMLINK`, in the order that OpenSSH sends and not in the draft's.
    Symlink { target: &'a [u8], path: &'a [u8] },
    /// `SSH_FXP_EXTENDED`
    Extended(Extension<'a>),
    /// Something that the draft does not have, or that only servers send.
    Unknown,
}

/// OpenSSH's extensions, described in its file PROTOCOL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields are those of the description")]
pub enum Extension<'a> {
    /// `posix-rename@openssh.com`
    PosixRename { from: &'a [u8], to: &'a [u8] },
    /// `statvfs@openssh.com`
    Statvfs { path: &'a [u8] },
    /// `fstatvfs@openssh.com`
    Fstatvfs { handle: &'a [u8] },
    /// `hardlink@openssh.com`
    Hardlink { from: &'a [u8], to: &'a [u8] },
    /// `fsync@openssh.com`
    Fsync { handle: &'a [u8] },
    /// `lsetstat@openssh.com`
    Lsetstat { path: &'a [u8], attributes: Attributes },
    /// `limits@openssh.com`
    Limits,
    /// `expand-path@openssh.com`
    ExpandPath { path: &'a [u8] },
    /// `copy-data`
    CopyData { from: &'a [u8], offset: u64, length: u64, to: &'a [u8], to_offset: u64 },
    /// `home-directory`
    HomeDirectory { user: &'a [u8] },
    /// `users-groups-by-id@openssh.com`: two lists of numbers, each of four bytes.
    UsersGroupsById { users: &'a [u8], groups: &'a [u8] },
    /// One that is not known here.
    Unknown,
}

impl<'a> Request<'a> {
    /// Reads a packet without its length. The identifier is told, if there is one, also of a
    /// packet that is malformed, so that the failure can be answered. Bytes behind the request
    /// are ignored, as OpenSSH does.
    pub fn parse(packet: &'a [u8]) -> (Option<u32>, Result<Self, Malformed>) {
        let mut reader = Reader::new(packet);
        let Ok(kind) = reader.byte() else {
            return (None, Err(Malformed));
        };
        if kind == kind::INIT {
            return (None, reader.uint32().map(|version| Self::Init { version }));
        }
        match reader.uint32() {
            Ok(id) => (Some(id), Self::body(kind, &mut reader)),
            Err(malformed) => (None, Err(malformed)),
        }
    }

    /// The paths in it, and whether a final link of each is followed. The text of a symbolic link
    /// is none.
    pub(super) fn paths(&self) -> impl Iterator<Item = (&'a [u8], Links)> {
        let (first, second, links) = match *self {
            Self::Open { path, .. }
            | Self::Stat { path }
            | Self::Setstat { path, .. }
            | Self::Opendir { path }
            | Self::Realpath { path }
            | Self::Extended(Extension::Statvfs { path } | Extension::ExpandPath { path }) => {
                (Some(path), None, Links::Follow)
            }
            Self::Lstat { path }
            | Self::Remove { path }
            | Self::Mkdir { path, .. }
            | Self::Rmdir { path }
            | Self::Readlink { path }
            | Self::Symlink { path, .. }
            | Self::Extended(Extension::Lsetstat { path, .. }) => (Some(path), None, Links::Keep),
            Self::Rename { from, to }
            | Self::Extended(
                Extension::PosixRename { from, to } | Extension::Hardlink { from, to },
            ) => (Some(from), Some(to), Links::Keep),
            _ => (None, None, Links::Keep),
        };
        first.into_iter().chain(second).map(move |path| (path, links))
    }

    /// The handles in it.
    pub(super) fn handles(&self) -> impl Iterator<Item = &'a [u8]> {
        let (first, second) = match *self {
            Self::Close { handle }
            | Self::Read { handle, .. }
            | Self::Write { handle, .. }
            | Self::Fstat { handle }
            | Self::Fsetstat { handle, .. }
            | Self::Readdir { handle }
            | Self::Extended(Extension::Fstatvfs { handle } | Extension::Fsync { handle }) => {
                (Some(handle), None)
            }
            Self::Extended(Extension::CopyData { from, to, .. }) => (Some(from), Some(to)),
            _ => (None, None),
        };
        first.into_iter().chain(second)
    }

    /// The packet of this request, with its length, with other paths in it.
    pub(super) fn with_paths(&self, packet: &[u8], paths: &[Vec<u8>]) -> Option<Vec<u8>> {
        let mut reader = Reader::new(packet);
        let kind = reader.byte().ok()?;
        let mut writer = Writer::answer(kind, reader.uint32().ok()?);
        if matches!(self, Self::Extended(_) | Self::Symlink { .. }) {
            writer.string(reader.string().ok()?);
        }
        for path in paths {
            reader.string().ok()?;
            writer.string(path);
        }
        writer.bytes().extend(reader.rest());
        Some(writer.finish())
    }

    fn body(kind: u8, reader: &mut Reader<'a>) -> Result<Self, Malformed> {
        Ok(match kind {
            kind::OPEN => Self::Open {
                path: reader.string()?,
                flags: reader.uint32()?,
                attributes: Attributes::read(reader)?,
            },
            kind::CLOSE => Self::Close { handle: reader.string()? },
            kind::READ => Self::Read {
                handle: reader.string()?,
                offset: reader.uint64()?,
                length: reader.uint32()?,
            },
            kind::WRITE => Self::Write {
                handle: reader.string()?,
                offset: reader.uint64()?,
                data: reader.string()?,
            },
            kind::LSTAT => Self::Lstat { path: reader.string()? },
            kind::FSTAT => Self::Fstat { handle: reader.string()? },
            kind::SETSTAT => {
                Self::Setstat { path: reader.string()?, attributes: Attributes::read(reader)? }
            }
            kind::FSETSTAT => {
                Self::Fsetstat { handle: reader.string()?, attributes: Attributes::read(reader)? }
            }
            kind::OPENDIR => Self::Opendir { path: reader.string()? },
            kind::READDIR => Self::Readdir { handle: reader.string()? },
            kind::REMOVE => Self::Remove { path: reader.string()? },
            kind::MKDIR => {
                Self::Mkdir { path: reader.string()?, attributes: Attributes::read(reader)? }
            }
            kind::RMDIR => Self::Rmdir { path: reader.string()? },
            kind::REALPATH => Self::Realpath { path: reader.string()? },
            kind::STAT => Self::Stat { path: reader.string()? },
            kind::RENAME => Self::Rename { from: reader.string()?, to: reader.string()? },
            kind::READLINK => Self::Readlink { path: reader.string()? },
            kind::SYMLINK => Self::Symlink { target: reader.string()?, path: reader.string()? },
            kind::EXTENDED => Self::Extended(Extension::read(reader)?),
            _ => Self::Unknown,
        })
    }
}

/// Names of extensions, as servers offer them.
pub(super) mod extension {
    pub(in crate::sftp) const POSIX_RENAME: &str = "posix-rename@openssh.com";
    pub(in crate::sftp) const STATVFS: &str = "statvfs@openssh.com";
    pub(in crate::sftp) const FSTATVFS: &str = "fstatvfs@openssh.com";
    pub(in crate::sftp) const HARDLINK: &str = "hardlink@openssh.com";
    pub(in crate::sftp) const FSYNC: &str = "fsync@openssh.com";
    pub(in crate::sftp) const LSETSTAT: &str = "lsetstat@openssh.com";
    pub(in crate::sftp) const LIMITS: &str = "limits@openssh.com";
    pub(in crate::sftp) const EXPAND_PATH: &str = "expand-path@openssh.com";
    pub(in crate::sftp) const COPY_DATA: &str = "copy-data";
    pub(in crate::sftp) const HOME_DIRECTORY: &str = "home-directory";
    pub(in crate::sftp) const USERS_GROUPS_BY_ID: &str = "users-groups-by-id@openssh.com";
}

impl<'a> Extension<'a> {
    /// Its name, if it is known here.
    pub(super) fn name(&self) -> Option<&'static str> {
        Some(match self {
            Self::PosixRename { .. } => extension::POSIX_RENAME,
            Self::Statvfs { .. } => extension::STATVFS,
            Self::Fstatvfs { .. } => extension::FSTATVFS,
            Self::Hardlink { .. } => extension::HARDLINK,
            Self::Fsync { .. } => extension::FSYNC,
            Self::Lsetstat { .. } => extension::LSETSTAT,
            Self::Limits => extension::LIMITS,
            Self::ExpandPath { .. } => extension::EXPAND_PATH,
            Self::CopyData { .. } => extension::COPY_DATA,
            Self::HomeDirectory { .. } => extension::HOME_DIRECTORY,
            Self::UsersGroupsById { .. } => extension::USERS_GROUPS_BY_ID,
            Self::Unknown => return None,
        })
    }

    fn read(reader: &mut Reader<'a>) -> Result<Self, Malformed> {
        let Ok(name) = std::str::from_utf8(reader.string()?) else { return Ok(Self::Unknown) };
        Ok(match name {
            extension::POSIX_RENAME => {
                Self::PosixRename { from: reader.string()?, to: reader.string()? }
            }
            extension::STATVFS => Self::Statvfs { path: reader.string()? },
            extension::FSTATVFS => Self::Fstatvfs { handle: reader.string()? },
            extension::HARDLINK => Self::Hardlink { from: reader.string()?, to: reader.string()? },
            extension::FSYNC => Self::Fsync { handle: reader.string()? },
            extension::LSETSTAT => {
                Self::Lsetstat { path: reader.string()?, attributes: Attributes::read(reader)? }
            }
            extension::LIMITS => Self::Limits,
            extension::EXPAND_PATH => Self::ExpandPath { path: reader.string()? },
            extension::COPY_DATA => Self::CopyData {
                from: reader.string()?,
                offset: reader.uint64()?,
                length: reader.uint64()?,
                to: reader.string()?,
                to_offset: reader.uint64()?,
            },
            extension::HOME_DIRECTORY => Self::HomeDirectory { user: reader.string()? },
            extension::USERS_GROUPS_BY_ID => {
                Self::UsersGroupsById { users: reader.string()?, groups: reader.string()? }
            }
            _ => Self::Unknown,
        })
    }
}
