//! A directory becomes a layer's archive (pax).

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fd::{AsFd, AsRawFd, OwnedFd};
use rustix::fs::{
    AtFlags, Dir, FileType, Mode, OFlags, Stat, fgetxattr, flistxattr, fstat, lgetxattr,
    llistxattr, major, minor, openat, readlinkat, statat,
};
use rustix::io::Errno;
use tar_core::EntryType;
use tar_core::builder::EntryBuilder;

use super::whiteouts::{OPAQUE_MARK, OPAQUE_XATTR, WHITEOUT, is_kept_xattr};

const BLOCK: u64 = 512;
/// As much as is read at once.
const PIECE: usize = 64 << 10;
const PERMISSIONS: u32 = 0o7777;

/// What a directory holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// Differences in the form of overlayfs: devices and attributes of its become whiteouts.
    Upper,
    /// A whole tree. What an upper directory would hide is not there.
    Tree,
}

/// Writes the archive of a directory, with the directory itself as "./".
pub(super) fn pack<W: Write>(directory: &Path, form: Form, into: W) -> io::Result<W> {
    let flags = OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let root = rustix::fs::open(directory, flags, Mode::empty())?;
    let mut packer = Packer { form, into, links: HashMap::new() };
    packer.header(Path::new("./"), EntryType::Directory, &fstat(&root)?, &xattrs(&root)?, b"")?;
    packer.directory(&root, Path::new(""))?;
    // The end of an archive, tar(5).
    packer.into.write_all(&[0; 2 * BLOCK as usize])?;
    packer.into.flush()?;
    Ok(packer.into)
}

struct Packer<W> {
    form: Form,
    into: W,
    /// Files of several names, by device and number, under the first of them.
    links: HashMap<(u64, u64), PathBuf>,
}

impl<W: Write> Packer<W> {
    fn directory(&mut self, directory: &OwnedFd, path: &Path) -> io::Result<()> {
        if self.form == Form::Upper && is_opaque(directory)? {
            self.mark(&path.join(std::ffi::OsStr::from_bytes(OPAQUE_MARK)))?;
        }
        let mut names = Vec::new();
        for entry in Dir::read_from(directory)? {
            let name = entry?.file_name().to_owned();
            if !matches!(name.as_bytes(), b"." | b"..") {
                names.push(name);
            }
        }
        // So that the same tree is the same archive.
        names.sort();
        for name in names {
            let inside = path.join(std::ffi::OsStr::from_bytes(name.as_bytes()));
            let packed = self.entry(directory, name.as_bytes(), &inside);
            packed.map_err(|error| {
                io::Error::new(error.kind(), format!("/{}: {error}", inside.display()))
            })?;
        }
        Ok(())
    }

    fn entry(&mut self, directory: &OwnedFd, name: &[u8], path: &Path) -> io::Result<()> {
        let stat = match statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
            // It was there a moment ago: somebody is still at work.
            Err(Errno::NOENT) => return Ok(()),
            stat => stat?,
        };
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind == FileType::CharacterDevice && stat.st_rdev == 0 {
            return match self.form {
                Form::Upper => {
                    let mut hidden = WHITEOUT.to_vec();
                    hidden.extend_from_slice(name);
                    self.mark(&path.with_file_name(std::ffi::OsStr::from_bytes(&hidden)))
                }
                Form::Tree => Ok(()),
            };
        }
        if kind != FileType::Directory && stat.st_nlink > 1 {
            if let Some(first) = self.links.get(&(stat.st_dev, stat.st_ino)).cloned() {
                let first = first.as_os_str().as_bytes();
                return self.header(path, EntryType::Link, &stat, &[], first);
            }
            self.links.insert((stat.st_dev, stat.st_ino), path.to_owned());
        }
        let open = |flags: OFlags| {
            let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
            openat(directory, name, flags, Mode::empty())
        };
        match kind {
            FileType::Directory => {
                let inner = open(OFlags::DIRECTORY)?;
                let with_slash = path.join("");
                let stat = fstat(&inner)?;
                self.header(&with_slash, EntryType::Directory, &stat, &xattrs(&inner)?, b"")?;
                self.directory(&inner, path)
            }
            FileType::RegularFile => {
                let file = open(OFlags::RDONLY)?;
                let stat = fstat(&file)?;
                self.header(path, EntryType::Regular, &stat, &xattrs(&file)?, b"")?;
                self.content(File::from(file), u64::try_from(stat.st_size).unwrap_or(0))
            }
            FileType::Symlink => {
                let target = readlinkat(directory, name, Vec::new())?;
                let attributes = named_xattrs(directory, name)?;
                self.header(path, EntryType::Symlink, &stat, &attributes, target.as_bytes())
            }
            kind @ (FileType::CharacterDevice | FileType::BlockDevice | FileType::Fifo) => {
                let entry = match kind {
                    FileType::CharacterDevice => EntryType::Char,
                    FileType::BlockDevice => EntryType::Block,
                    _ => EntryType::Fifo,
                };
                self.header(path, entry, &stat, &named_xattrs(directory, name)?, b"")
            }
            // A socket is nothing without the process that made it, and no archive takes one.
            _ => Ok(()),
        }
    }

    /// A file that says something by its name only.
    fn mark(&mut self, path: &Path) -> io::Result<()> {
        let mut entry = EntryBuilder::new_ustar();
        entry.path(path.as_os_str().as_bytes()).entry_type(EntryType::Regular);
        entry.mode(0).and_then(|entry| entry.size(0)).map_err(io::Error::other)?;
        self.into.write_all(&entry.finish_bytes())
    }

    fn header(
        &mut self,
        path: &Path,
        kind: EntryType,
        stat: &Stat,
        xattrs: &[(Vec<u8>, Vec<u8>)],
        link: &[u8],
    ) -> io::Result<()> {
        let mut entry = EntryBuilder::new_ustar();
        entry.path(path.as_os_str().as_bytes()).link_name(link).entry_type(kind);
        let size = if kind == EntryType::Regular { stat.st_size } else { 0 };
        // Before 1970 is a time that few archives can tell.
        let seconds = u64::try_from(stat.st_mtime).unwrap_or(0);
        entry
            .mode(stat.st_mode & PERMISSIONS)
            .and_then(|entry| entry.uid(stat.st_uid.into()))
            .and_then(|entry| entry.gid(stat.st_gid.into()))
            .and_then(|entry| entry.size(u64::try_from(size).unwrap_or(0)))
            .and_then(|entry| entry.mtime(seconds))
            .map_err(io::Error::other)?;
        if matches!(kind, EntryType::Char | EntryType::Block) {
            entry.device(major(stat.st_rdev), minor(stat.st_rdev)).map_err(io::Error::other)?;
        }
        if stat.st_mtime >= 0 && stat.st_mtime_nsec > 0 {
            entry.add_pax("mtime", format!("{seconds}.{:09}", stat.st_mtime_nsec));
        }
        for (name, value) in xattrs {
            let name = std::str::from_utf8(name).map_err(io::Error::other)?;
            entry.add_pax(&format!("SCHILY.xattr.{name}"), value);
        }
        self.into.write_all(&entry.finish_bytes())
    }

    /// As many bytes as the header has said, also of a file that somebody cuts or extends now.
    fn content(&mut self, mut file: File, size: u64) -> io::Result<()> {
        let mut piece = vec![0; PIECE];
        let mut left = size;
        while left > 0 {
            let most = piece.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            let read = match file.read(&mut piece[..most]) {
                Ok(0) => {
                    piece.fill(0);
                    most
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                read => read?,
            };
            self.into.write_all(&piece[..read])?;
            left -= read as u64;
        }
        let padding = size.next_multiple_of(BLOCK) - size;
        io::copy(&mut io::repeat(0).take(padding), &mut self.into)?;
        Ok(())
    }
}

/// Whether nothing in an upper directory comes from below.
pub(super) fn is_opaque(directory: &OwnedFd) -> io::Result<bool> {
    let mut value = [0; 1];
    match fgetxattr(directory, OPAQUE_XATTR, &mut value) {
        Ok(_) => Ok(value == *b"y"),
        Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::RANGE) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

type Attributes = Vec<(Vec<u8>, Vec<u8>)>;

fn xattrs(file: &impl AsFd) -> io::Result<Attributes> {
    kept(|names| flistxattr(file, names), |name, value| fgetxattr(file, name, value))
}

/// Those of what cannot be opened.
fn named_xattrs(directory: &OwnedFd, name: &[u8]) -> io::Result<Attributes> {
    let path = format!("/proc/self/fd/{}", directory.as_raw_fd());
    let path = Path::new(&path).join(std::ffi::OsStr::from_bytes(name));
    kept(|names| llistxattr(&path, names), |name, value| lgetxattr(&path, name, value))
}

fn kept(
    list: impl Fn(&mut [u8]) -> Result<usize, Errno>,
    get: impl Fn(&[u8], &mut [u8]) -> Result<usize, Errno>,
) -> io::Result<Attributes> {
    // Most files have none, and most others a few short ones.
    let names = match whole(&list) {
        Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
        names => names?,
    };
    let mut attributes = Vec::new();
    for name in names.split(|byte| *byte == 0).filter(|name| is_kept_xattr(name)) {
        match whole(&|value: &mut [u8]| get(name, value)) {
            Ok(value) => attributes.push((name.to_vec(), value)),
            Err(Errno::NODATA) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(attributes)
}

/// What a call of xattr(7) gives, which refuses a buffer that is too small.
fn whole(call: &impl Fn(&mut [u8]) -> Result<usize, Errno>) -> Result<Vec<u8>, Errno> {
    let mut buffer = vec![0; 256];
    loop {
        match call(&mut buffer) {
            Ok(length) => {
                buffer.truncate(length);
                return Ok(buffer);
            }
            // XATTR_SIZE_MAX is 64 KiB.
            Err(Errno::RANGE) if buffer.len() < 64 << 10 => buffer.resize(64 << 10, 0),
            Err(error) => return Err(error),
        }
    }
}
