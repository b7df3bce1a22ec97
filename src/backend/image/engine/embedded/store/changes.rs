//! What an overlay's upper directory changes of the layers below.

use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fd::OwnedFd;
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat, openat, statat};
use rustix::io::Errno;

use super::pack::is_opaque;
use crate::backend::image::engine::{Change, ChangeKind};

/// The differences between an upper directory and the tree below it.
pub(super) fn between(below: &Path, upper: &Path) -> io::Result<Vec<Change>> {
    let flags = OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let upper = rustix::fs::open(upper, flags, Mode::empty())?;
    let below = rustix::fs::open(below, flags, Mode::empty())?;
    let mut changes = Vec::new();
    if !is_same(&rustix::fs::fstat(&below)?, &rustix::fs::fstat(&upper)?) {
        add(&mut changes, Path::new("/"), ChangeKind::Modified);
    }
    directory(&upper, Some(&below), Path::new("/"), &mut changes)?;
    Ok(changes)
}

fn directory(
    upper: &OwnedFd,
    below: Option<&OwnedFd>,
    path: &Path,
    changes: &mut Vec<Change>,
) -> io::Result<()> {
    let names = names_in(upper)?;
    if let Some(below) = below
        && is_opaque(upper)?
    {
        for name in names_in(below)?.iter().filter(|name| !names.contains(name)) {
            add(changes, &path.join(std::ffi::OsStr::from_bytes(name)), ChangeKind::Deleted);
        }
    }
    for name in names {
        let inside = path.join(std::ffi::OsStr::from_bytes(&name));
        let Some(new) = stat(upper, &name)? else { continue };
        let old = match below {
            Some(below) => stat(below, &name)?.filter(|old| !is_whiteout(old)),
            None => None,
        };
        if is_whiteout(&new) {
            if old.is_some() {
                add(changes, &inside, ChangeKind::Deleted);
            }
            continue;
        }
        let is_directory = |stat: &Stat| FileType::from_raw_mode(stat.st_mode).is_dir();
        if !is_directory(&new) {
            let kind = if old.is_some() { ChangeKind::Modified } else { ChangeKind::Added };
            add(changes, &inside, kind);
            continue;
        }
        let inner = open(upper, &name)?;
        match old {
            Some(old) if is_directory(&old) => {
                let before = changes.len();
                let inner_below = match below {
                    Some(below) => Some(open(below, &name)?),
                    None => None,
                };
                // In front of what is in it.
                add(changes, &inside, ChangeKind::Modified);
                directory(&inner, inner_below.as_ref(), &inside, changes)?;
                if changes.len() == before + 1 && is_same(&old, &new) {
                    changes.truncate(before);
                }
            }
            old => {
                let kind = if old.is_some() { ChangeKind::Modified } else { ChangeKind::Added };
                add(changes, &inside, kind);
                directory(&inner, None, &inside, changes)?;
            }
        }
    }
    Ok(())
}

/// overlayfs copies directories up that are only walked through to a file, and a directory in which
/// something was made and removed again has a new time only.
fn is_same(old: &Stat, new: &Stat) -> bool {
    let known = |stat: &Stat| (stat.st_mode, stat.st_uid, stat.st_gid);
    known(old) == known(new)
}

fn is_whiteout(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
}

fn add(changes: &mut Vec<Change>, path: &Path, kind: ChangeKind) {
    changes.push(Change { path: path.to_string_lossy().into_owned(), kind });
}

fn names_in(directory: &OwnedFd) -> io::Result<Vec<Vec<u8>>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory)? {
        let name = entry?.file_name().to_bytes().to_vec();
        if !matches!(name.as_slice(), b"." | b"..") {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

/// `None`: it is not there, or not any more.
fn stat(directory: &OwnedFd, name: &[u8]) -> io::Result<Option<Stat>> {
    match statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn open(directory: &OwnedFd, name: &[u8]) -> io::Result<OwnedFd> {
    let flags = OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    Ok(openat(directory, name, flags, Mode::empty())?)
}
