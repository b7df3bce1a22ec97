//! A layer's archive becomes a directory in the form that overlayfs takes.
//!
//! Archives come from strangers. Every path is resolved beneath the layer's directory by the kernel
//! (openat2(2)), through no symbolic link, also not one that the archive itself has made.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Seek, SeekFrom};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, RawMode, ResolveFlags, Timespec, Timestamps, Uid,
    XattrFlags, chownat, fchmod, fchown, fsetxattr, futimens, linkat, lsetxattr, makedev, mkdirat,
    mknodat, openat, openat2, symlinkat, unlinkat, utimensat,
};
use rustix::io::Errno;

use super::tar::{Archive, Content, Entry, EntryKind};
use super::whiteouts::{OPAQUE_MARK, OPAQUE_XATTR, RESERVED, WHITEOUT, is_kept_xattr};

/// As much as is written at once; this much of zeros becomes a hole.
const PIECE: usize = 64 << 10;
const PERMISSIONS: u32 = 0o7777;

/// Unpacks an archive into an empty directory. Returns the source, read to its end.
pub(super) fn unpack<R: Read>(source: R, directory: &Path) -> io::Result<R> {
    let flags = OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let root = rustix::fs::open(directory, flags, Mode::empty())?;
    let mut layer = Layer { root, parent: None, times: Vec::new() };
    let mut archive = Archive::new(source);
    while let Some(entry) = archive.next_entry()? {
        layer
            .make(&entry, &mut archive.content())
            .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", shown(&entry))))?;
    }
    layer.set_times()?;
    archive.finish()
}

struct Layer {
    root: OwnedFd,
    /// The directory of the entry before, which most often is that of the next one too.
    parent: Option<(PathBuf, OwnedFd)>,
    /// Of directories, which change whenever something is made in them.
    times: Vec<(PathBuf, (u64, u32))>,
}

impl Layer {
    fn make<R: Read>(&mut self, entry: &Entry, content: &mut Content<'_, R>) -> io::Result<()> {
        let path = inside(&entry.path)?;
        let Some(name) = path.file_name().map(OsStrExt::as_bytes) else {
            // The root directory itself.
            if entry.kind != EntryKind::Directory {
                return Err(refused("it has no name"));
            }
            self.times.push((path, entry.mtime));
            return attributes(&self.root, entry);
        };
        self.enter(path.parent().unwrap_or(Path::new("")))?;
        let Some((_, parent)) = &self.parent else {
            return Err(refused("it is in no directory"));
        };
        let parent = parent.as_fd();
        if let Some(hidden) = name.strip_prefix(WHITEOUT) {
            return whiteout(parent, name, hidden);
        }
        if matches!(entry.kind, EntryKind::Directory) {
            let made = directory(parent, name)?;
            self.times.push((path, entry.mtime));
            return attributes(&made, entry);
        }
        match unlinkat(parent, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(Errno::ISDIR) => return Err(refused("it replaces a directory of the same layer")),
            Err(error) => return Err(error.into()),
        }
        match &entry.kind {
            EntryKind::File => {
                let mut file = new_file(parent, name)?;
                let size = write(content, &mut file, u64::MAX)?;
                file.set_len(size)?;
                attributes(&file, entry)?;
                Ok(futimens(&file, &times(entry.mtime))?)
            }
            EntryKind::Sparse(parts, size) => {
                let mut file = new_file(parent, name)?;
                for (offset, length) in parts {
                    file.seek(SeekFrom::Start(*offset))?;
                    write(content, &mut file, *length)?;
                }
                file.set_len(*size)?;
                attributes(&file, entry)?;
                Ok(futimens(&file, &times(entry.mtime))?)
            }
            EntryKind::HardLink(target) => {
                let target = inside(target)?;
                let Some(target_name) = target.file_name() else {
                    return Err(refused("it is a link to the root directory"));
                };
                let above = beneath(&self.root, target.parent().unwrap_or(Path::new("")))?;
                Ok(linkat(above, target_name.as_bytes(), parent, name, AtFlags::empty())?)
            }
            EntryKind::SymbolicLink(target) => {
                symlinkat(target.as_slice(), parent, name)?;
                special(parent, name, entry, None)
            }
            EntryKind::CharacterDevice(major, minor) => {
                device(parent, name, entry, FileType::CharacterDevice, makedev(*major, *minor))
            }
            EntryKind::BlockDevice(major, minor) => {
                device(parent, name, entry, FileType::BlockDevice, makedev(*major, *minor))
            }
            EntryKind::Fifo => device(parent, name, entry, FileType::Fifo, 0),
            EntryKind::Directory => Ok(()),
            EntryKind::Unknown(flag) => {
                Err(refused(&format!("no kind of file has the type flag {flag:#04x}")))
            }
        }
    }

    /// Opens the directory of the next entry, made if the archive has left it out.
    fn enter(&mut self, path: &Path) -> io::Result<()> {
        if self.parent.as_ref().is_some_and(|(entered, _)| entered == path) {
            return Ok(());
        }
        let opened = match beneath(&self.root, path) {
            Err(Errno::NOENT) => {
                let mut opened = beneath(&self.root, Path::new("."))?;
                for name in path.components() {
                    opened = directory(opened.as_fd(), name.as_os_str().as_bytes())?;
                }
                opened
            }
            opened => opened?,
        };
        self.parent = Some((path.to_owned(), opened));
        Ok(())
    }

    fn set_times(&self) -> io::Result<()> {
        for (path, time) in self.times.iter().rev() {
            let above = beneath(&self.root, path.parent().unwrap_or(Path::new("")))?;
            let name = path.file_name().map_or(&b"."[..], OsStrExt::as_bytes);
            utimensat(above, name, &times(*time), AtFlags::SYMLINK_NOFOLLOW)?;
        }
        Ok(())
    }
}

/// The path from the layer's root.
fn inside(path: &[u8]) -> io::Result<PathBuf> {
    let path = Path::new(std::ffi::OsStr::from_bytes(path));
    let mut inside = PathBuf::new();
    for component in path.components() {
        match component {
            std::path::Component::Normal(name) => inside.push(name),
            std::path::Component::RootDir | std::path::Component::CurDir => {}
            _ => return Err(refused("it leads out of the layer")),
        }
    }
    Ok(inside)
}

fn beneath(root: &OwnedFd, path: &Path) -> Result<OwnedFd, Errno> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    let flags = OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    openat2(root, path, flags, Mode::empty(), resolve)
}

/// Makes a directory unless it is there, and opens it.
fn directory(parent: BorrowedFd<'_>, name: &[u8]) -> io::Result<OwnedFd> {
    match mkdirat(parent, name, Mode::from_raw_mode(0o755)) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(error) => return Err(error.into()),
    }
    let flags = OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    openat(parent, name, flags, Mode::empty()).map_err(|error| match error {
        Errno::NOTDIR | Errno::LOOP => refused("it is below something that is no directory"),
        error => error.into(),
    })
}

fn new_file(parent: BorrowedFd<'_>, name: &[u8]) -> io::Result<File> {
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    Ok(File::from(openat(parent, name, flags, Mode::from_raw_mode(0o600))?))
}

/// Writes content from where the file stands, with holes for zeros; returns where it ends.
fn write(content: &mut impl Read, file: &mut File, most: u64) -> io::Result<u64> {
    let mut content = content.take(most);
    let mut at = file.stream_position()?;
    let mut piece = vec![0; PIECE];
    loop {
        match content.read(&mut piece) {
            Ok(0) => return Ok(at),
            Ok(read) => {
                let data = &piece[..read];
                if read < PIECE || data.iter().any(|byte| *byte != 0) {
                    file.write_all_at(data, at)?;
                }
                at += read as u64;
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

fn whiteout(parent: BorrowedFd<'_>, name: &[u8], hidden: &[u8]) -> io::Result<()> {
    if name == OPAQUE_MARK {
        return Ok(fsetxattr(parent, OPAQUE_XATTR, b"y", XattrFlags::empty())?);
    }
    if name.starts_with(RESERVED) {
        // What the union file system of before overlayfs kept of its own.
        return Ok(());
    }
    if hidden.is_empty() || hidden == b"." || hidden == b".." {
        return Err(refused("it hides nothing"));
    }
    match mknodat(parent, hidden, FileType::CharacterDevice, Mode::empty(), 0) {
        // What the layer itself has is not hidden by it.
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn device(
    parent: BorrowedFd<'_>,
    name: &[u8],
    entry: &Entry,
    kind: FileType,
    number: u64,
) -> io::Result<()> {
    mknodat(parent, name, kind, Mode::from_raw_mode(0o600), number)?;
    special(parent, name, entry, Some(mode_of(entry)))
}

/// The attributes of what cannot be opened.
fn special(
    parent: BorrowedFd<'_>,
    name: &[u8],
    entry: &Entry,
    mode: Option<Mode>,
) -> io::Result<()> {
    let (uid, gid) = owner_of(entry)?;
    chownat(parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
    if let Some(mode) = mode {
        // It was made a moment ago, in a directory that is nobody else's.
        rustix::fs::chmodat(parent, name, mode, AtFlags::empty())?;
    }
    for (attribute, value) in entry.xattrs.iter().filter(|(name, _)| is_kept_xattr(name)) {
        let mut path = PathBuf::from(format!("/proc/self/fd/{}", parent.as_raw_fd()));
        path.push(std::ffi::OsStr::from_bytes(name));
        tolerated(lsetxattr(&path, attribute.as_slice(), value, XattrFlags::empty()))?;
    }
    Ok(utimensat(parent, name, &times(entry.mtime), AtFlags::SYMLINK_NOFOLLOW)?)
}

fn attributes(file: impl AsFd, entry: &Entry) -> io::Result<()> {
    let (uid, gid) = owner_of(entry)?;
    fchown(&file, Some(uid), Some(gid))?;
    // After the owner, as a change of that takes the set-user-ID bit away.
    fchmod(&file, mode_of(entry))?;
    for (attribute, value) in entry.xattrs.iter().filter(|(name, _)| is_kept_xattr(name)) {
        tolerated(fsetxattr(&file, attribute.as_slice(), value, XattrFlags::empty()))?;
    }
    Ok(())
}

/// File systems without such attributes exist, and kinds of files that cannot have them.
fn tolerated(set: Result<(), Errno>) -> io::Result<()> {
    match set {
        Ok(()) | Err(Errno::OPNOTSUPP | Errno::PERM) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn owner_of(entry: &Entry) -> io::Result<(Uid, Gid)> {
    let number = |number: u64| {
        // All ones mean "unchanged", chown(2).
        u32::try_from(number)
            .ok()
            .filter(|number| *number != u32::MAX)
            .ok_or_else(|| refused(&format!("no user or group has the number {number}")))
    };
    Ok((Uid::from_raw(number(entry.uid)?), Gid::from_raw(number(entry.gid)?)))
}

fn mode_of(entry: &Entry) -> Mode {
    Mode::from_raw_mode((entry.mode & PERMISSIONS) as RawMode)
}

fn times((seconds, nanoseconds): (u64, u32)) -> Timestamps {
    let time = Timespec {
        tv_sec: i64::try_from(seconds).unwrap_or(i64::MAX),
        tv_nsec: nanoseconds.into(),
    };
    Timestamps { last_access: time, last_modification: time }
}

fn refused(reason: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, reason)
}

fn shown(entry: &Entry) -> String {
    format!("{:?}", String::from_utf8_lossy(&entry.path))
}
