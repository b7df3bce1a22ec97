//! OpenSSH's extensions of the protocol, described in its file PROTOCOL.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::atomic::Ordering;

use rustix::fs::{StatVfs, StatVfsMountFlags};
use rustix::io::Errno;

use super::access::Links;
use super::framing::MOST_BYTES;
use super::handles::MOST_PER_SESSION;
use super::request::{Extension, extension};
use super::server::{Answer, MOST_DATA, Server, answer, name, set};
use super::status::Refusal;
use super::wire::{Reader, Writer};

/// What is offered to clients, with versions.
pub(super) const OFFERED: [(&str, &str); 11] = [
    (extension::POSIX_RENAME, "1"),
    (extension::STATVFS, "2"),
    (extension::FSTATVFS, "2"),
    (extension::HARDLINK, "1"),
    (extension::FSYNC, "1"),
    (extension::LSETSTAT, "1"),
    (extension::LIMITS, "1"),
    (extension::EXPAND_PATH, "1"),
    (extension::COPY_DATA, "1"),
    (extension::HOME_DIRECTORY, "1"),
    (extension::USERS_GROUPS_BY_ID, "1"),
];

/// How much is copied between two looks at whether the client is still there.
const COPY_STEP: usize = 8 << 20;
/// For file systems that do not copy by themselves.
const COPY_BUFFER: usize = 128 << 10;

pub(super) fn perform(server: &Server, id: u32, extension: Extension<'_>) -> Answer {
    let root = &server.root;
    match extension {
        Extension::PosixRename { from, to } => {
            root.rename(from, to, true)?;
            server.forget_failures(from);
            server.forget_failures(to);
            Ok(None)
        }
        Extension::Statvfs { path } => {
            Ok(Some(file_system(id, &root.locate(path, Links::Follow)?.statvfs()?)))
        }
        Extension::Fstatvfs { handle } => {
            Ok(Some(file_system(id, &rustix::fs::fstatvfs(&server.file(handle)?.file)?)))
        }
        Extension::Hardlink { from, to } => Ok(root.hard_link(from, to).map(|()| None)?),
        Extension::Fsync { handle } => {
            let open = server.file(handle)?;
            Ok(rustix::fs::fsync(&open.file).map(|()| None).inspect_err(|errno| {
                server.note_failure(&open.path, (*errno).into());
            })?)
        }
        Extension::Lsetstat { path, attributes } => {
            let file = root.locate(path, Links::Keep)?;
            if file.kind()?.is_symlink() && (attributes.mode.is_some() || attributes.size.is_some())
            {
                return Err(Errno::OPNOTSUPP.into());
            }
            set(root, &file, &attributes)
        }
        Extension::Limits => Ok(Some(limits(id))),
        Extension::ExpandPath { path } => {
            Ok(Some(name(id, &root.real_path(&expanded(server, path)?)?)))
        }
        Extension::CopyData { from, offset, length, to, to_offset } => {
            let (from, to) = (server.file(from)?, server.file(to)?);
            let copied = copy(server, (&from.file, offset), (&to.file, to_offset), length);
            copied.map(|()| None).map_err(|errno| {
                server.note_failure(&to.path, errno.into());
                errno.into()
            })
        }
        Extension::HomeDirectory { user } => Ok(Some(name(id, &home_of(server, user)?))),
        Extension::UsersGroupsById { users, groups } => names_of(server, id, users, groups),
        Extension::Unknown => Err(Refusal::unsupported()),
    }
}

fn limits(id: u32) -> Writer {
    let mut limits = Writer::answer(answer::EXTENDED_REPLY, id);
    limits.uint64(MOST_BYTES.into());
    limits.uint64(MOST_DATA.into());
    limits.uint64(MOST_DATA.into());
    limits.uint64(MOST_PER_SESSION as u64);
    limits
}

fn file_system(id: u32, stat: &StatVfs) -> Writer {
    let mut flags = 0;
    for (flag, sent) in [(StatVfsMountFlags::RDONLY, 1), (StatVfsMountFlags::NOSUID, 2)] {
        if stat.f_flag.contains(flag) {
            flags |= sent;
        }
    }
    let mut answer = Writer::answer(answer::EXTENDED_REPLY, id);
    for value in [
        stat.f_bsize,
        stat.f_frsize,
        stat.f_blocks,
        stat.f_bfree,
        stat.f_bavail,
        stat.f_files,
        stat.f_ffree,
        stat.f_favail,
        stat.f_fsid,
        flags,
        stat.f_namemax,
    ] {
        answer.uint64(value);
    }
    answer
}

/// `~` and `~USER` at the front of a path.
fn expanded(server: &Server, path: &[u8]) -> Result<Vec<u8>, Refusal> {
    let Some(behind) = path.strip_prefix(b"~") else {
        return Ok(path.to_owned());
    };
    let end = behind.iter().position(|byte| *byte == b'/').unwrap_or(behind.len());
    let (user, rest) = behind.split_at(end);
    Ok([home_of(server, user)?.as_slice(), rest].concat())
}

fn home_of(server: &Server, user: &[u8]) -> Result<Vec<u8>, Refusal> {
    if user.is_empty() {
        return Ok(server.root.home().to_owned());
    }
    let home = std::str::from_utf8(user).ok().and_then(|user| server.accounts().home(user));
    home.map(<[u8]>::to_owned).ok_or_else(|| Errno::NOENT.into())
}

fn names_of(server: &Server, id: u32, users: &[u8], groups: &[u8]) -> Answer {
    let accounts = server.accounts();
    let mut answer = Writer::answer(answer::EXTENDED_REPLY, id);
    let mut list = |numbers: &[u8], named: &dyn Fn(u32) -> Option<String>| {
        let mut names = Vec::new();
        let mut numbers = Reader::new(numbers);
        while !numbers.is_at_end() {
            let name = named(numbers.uint32()?).unwrap_or_default();
            names.extend(u32::try_from(name.len()).unwrap_or(0).to_be_bytes());
            names.extend(name.into_bytes());
            if names.len() > MOST_DATA as usize / 2 {
                return Err(Refusal::from(Errno::NAMETOOLONG));
            }
        }
        answer.string(&names);
        Ok(())
    };
    list(users, &|uid| accounts.user(uid).map(str::to_owned))?;
    list(groups, &|gid| accounts.group(gid).map(str::to_owned))?;
    Ok(Some(answer))
}

/// Copies within the server; a length of 0 means to the end.
fn copy(
    server: &Server,
    (from, mut from_offset): (&File, u64),
    (to, mut to_offset): (&File, u64),
    length: u64,
) -> Result<(), Errno> {
    let mut rest = if length == 0 { u64::MAX } else { length };
    if i64::try_from(from_offset).is_err() || i64::try_from(to_offset).is_err() {
        return Err(Errno::INVAL);
    }
    let mut by_kernel = true;
    let mut room_to = 0;
    while rest > 0 {
        if server.is_cancelled.load(Ordering::Relaxed) {
            return Err(Errno::CANCELED);
        }
        let step = usize::try_from(rest).unwrap_or(COPY_STEP).min(COPY_STEP);
        let size = u64::try_from(rustix::fs::fstat(from)?.st_size).unwrap_or_default();
        let end = to_offset.saturating_add(size.saturating_sub(from_offset).min(step as u64));
        if end > room_to {
            server.root.extend(to, end)?;
            room_to = end;
        }
        let copied = if by_kernel {
            let (mut source, mut sink) = (from_offset, to_offset);
            let copied =
                rustix::fs::copy_file_range(from, Some(&mut source), to, Some(&mut sink), step);
            match copied {
                Err(Errno::XDEV | Errno::OPNOTSUPP | Errno::NOSYS) => {
                    by_kernel = false;
                    continue;
                }
                copied => copied?,
            }
        } else {
            let mut buffer = vec![0; step.min(COPY_BUFFER)];
            let failed = |error| Errno::from_io_error(&error).unwrap_or(Errno::IO);
            let read = from.read_at(&mut buffer, from_offset).map_err(failed)?;
            to.write_all_at(&buffer[..read], to_offset).map_err(failed)?;
            read
        } as u64;
        if copied == 0 {
            break;
        }
        from_offset += copied;
        to_offset += copied;
        rest -= copied;
    }
    Ok(())
}
