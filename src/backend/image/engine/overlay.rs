//! What a container wrote, in the upper directory that overlayfs keeps it in. It is only reached on
//! the engine's own host, as root.
//!
//! Names in it are the container's: no symbolic link is followed on the way to one.

use std::collections::BTreeMap;
use std::fs::{File, Metadata};
use std::io::{self, BufRead, BufReader};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::backend::image::engine::WrittenFile;

/// The largest file that [`content`] reads.
const CONTENT_BYTES: u64 = 4096;
/// The largest file whose content is compared.
const COMPARED_BYTES: u64 = 64 << 20;
const BLOCK: usize = 64 << 10;

/// Attributes that are overlayfs's own notes, and the one of a directory through which nothing of the
/// layers below is seen (Documentation/filesystems/overlayfs.rst).
const OVERLAY: &[u8] = b"trusted.overlay.";
const OPAQUE: &[u8] = b"trusted.overlay.opaque";
/// The longest list of names, and the longest value, that Linux has: xattr(7).
const ATTRIBUTE_BYTES: usize = 64 << 10;

/// Makes the paths what they are in the image: takes out what the container wrote there, also that
/// something was removed. Directories are taken out if nothing is left in them. Blocks.
pub(super) fn revert(upper: &Path, paths: &[String]) -> io::Result<()> {
    // What is in a directory comes before it.
    let mut paths: Vec<&String> = paths.iter().collect();
    paths.sort_by(|one, other| other.cmp(one));
    for path in paths {
        let Some((parent, name)) = parent_of(upper, path)? else { continue };
        let place = in_directory(&parent, name);
        let is_directory = match std::fs::symlink_metadata(&place) {
            Ok(file) => file.is_dir(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        if !is_directory {
            std::fs::remove_file(&place)?;
            continue;
        }
        match std::fs::remove_dir(&place) {
            Err(error) if error.kind() != io::ErrorKind::DirectoryNotEmpty => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// The content of a small regular file that the container wrote. Blocks.
pub(super) fn content(upper: &Path, path: &str) -> Option<Vec<u8>> {
    let (parent, name) = parent_of(upper, path).ok()??;
    let place = in_directory(&parent, name);
    let file = std::fs::symlink_metadata(&place).ok()?;
    if !file.is_file() || file.len() > CONTENT_BYTES {
        return None;
    }
    std::fs::read(place).ok()
}

/// All that is in the directory, and below. Blocks.
pub(super) fn written(upper: &Path) -> io::Result<Vec<WrittenFile>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let top = rustix::fs::openat(CWD, upper, flags, Mode::empty())?;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    let mut files = Vec::new();
    let mut directories = vec![String::new()];
    while let Some(path) = directories.pop() {
        let relative = if path.is_empty() { "." } else { path.trim_start_matches('/') };
        let directory = match rustix::fs::openat2(&top, relative, flags, Mode::empty(), resolve) {
            Ok(directory) => directory,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::NAMETOOLONG) => continue,
            Err(error) => return Err(error.into()),
        };
        for entry in Dir::read_from(&directory)? {
            let entry = entry?;
            let Ok(name) = entry.file_name().to_str() else { continue };
            if matches!(name, "." | "..") {
                continue;
            }
            let stat = match rustix::fs::statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => stat,
                // Its programs may run.
                Err(Errno::NOENT) => continue,
                Err(error) => return Err(error.into()),
            };
            let path = format!("{path}/{name}");
            let is_directory = FileType::from_raw_mode(stat.st_mode).is_dir();
            if is_directory {
                directories.push(path.clone());
            }
            files.push(WrittenFile {
                path,
                is_directory,
                mode: stat.st_mode,
                uid: stat.st_uid,
                gid: stat.st_gid,
                size: u64::try_from(stat.st_size).unwrap_or_default(),
                inode: stat.st_ino,
                modified: (stat.st_mtime, nanoseconds(stat.st_mtime_nsec)),
                changed: (stat.st_ctime, nanoseconds(stat.st_ctime_nsec)),
            });
        }
    }
    Ok(files)
}

/// A part of a second, whose type is another on each architecture.
fn nanoseconds(part: impl TryInto<i64>) -> i64 {
    part.try_into().unwrap_or_default()
}

/// Those of the paths at which the upper directory has what the image's tree has there. A larger file
/// than is worth reading is taken for another one. Blocks.
pub(super) fn as_in_image(
    upper: &Path,
    tree: &Path,
    paths: Vec<String>,
) -> io::Result<Vec<String>> {
    let mut same = Vec::new();
    for path in paths {
        let Some((parent, name)) = parent_of(upper, &path)? else { continue };
        let new = in_directory(&parent, name);
        let compared = match parent_of(tree, &path)? {
            Some((parent, name)) => is_same(&new, &in_directory(&parent, name)),
            None => std::fs::symlink_metadata(&new).map(|file| is_whiteout(&file)),
        };
        match compared {
            Ok(true) => same.push(path),
            Ok(false) => {}
            // Its programs may run.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(same)
}

fn is_same(new: &Path, old: &Path) -> io::Result<bool> {
    let new_file = std::fs::symlink_metadata(new)?;
    let old_file = match std::fs::symlink_metadata(old) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(is_whiteout(&new_file)),
        Err(error) => return Err(error),
    };
    // The mode has the type in it.
    let known = |file: &Metadata| (file.mode(), file.uid(), file.gid(), file.rdev());
    if known(&new_file) != known(&old_file) || attributes(new)? != attributes(old)? {
        return Ok(false);
    }
    let kind = new_file.file_type();
    if kind.is_dir() {
        // One that hides what the image has in it was made anew.
        return Ok(attribute(new, OPAQUE)?.is_none());
    }
    if kind.is_symlink() {
        return Ok(std::fs::read_link(new)? == std::fs::read_link(old)?);
    }
    if !kind.is_file() {
        return Ok(true);
    }
    let state = |file: &Metadata| (file.len(), file.mtime(), file.mtime_nsec());
    Ok(state(&new_file) == state(&old_file)
        && new_file.len() <= COMPARED_BYTES
        && has_same_content(new, old)?)
}

fn has_same_content(one: &Path, other: &Path) -> io::Result<bool> {
    let mut one = BufReader::with_capacity(BLOCK, File::open(one)?);
    let mut other = BufReader::with_capacity(BLOCK, File::open(other)?);
    loop {
        let (some, others) = (one.fill_buf()?, other.fill_buf()?);
        let length = some.len().min(others.len());
        if some[..length] != others[..length] {
            return Ok(false);
        }
        if length == 0 {
            return Ok(some.len() == others.len());
        }
        one.consume(length);
        other.consume(length);
    }
}

/// overlayfs notes what is gone as a device of no number.
fn is_whiteout(file: &Metadata) -> bool {
    file.file_type().is_char_device() && file.rdev() == 0
}

/// The extended attributes of a file, other than those of overlayfs itself.
fn attributes(file: &Path) -> io::Result<BTreeMap<Vec<u8>, Vec<u8>>> {
    let mut names = vec![0; ATTRIBUTE_BYTES];
    let length = match rustix::fs::llistxattr(file, &mut names) {
        Ok(length) => length,
        Err(Errno::OPNOTSUPP) => 0,
        Err(error) => return Err(error.into()),
    };
    let names = names[..length].split(|byte| *byte == 0);
    let mut found = BTreeMap::new();
    for name in names.filter(|name| !name.is_empty() && !name.starts_with(OVERLAY)) {
        if let Some(value) = attribute(file, name)? {
            found.insert(name.to_owned(), value);
        }
    }
    Ok(found)
}

fn attribute(file: &Path, name: &[u8]) -> io::Result<Option<Vec<u8>>> {
    let mut value = vec![0; ATTRIBUTE_BYTES];
    match rustix::fs::lgetxattr(file, name, &mut value) {
        Ok(length) => {
            value.truncate(length);
            Ok(Some(value))
        }
        Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// The directory that a path is in, and its name there; `None` if there is no such directory.
fn parent_of<'a>(upper: &Path, path: &'a str) -> io::Result<Option<(OwnedFd, &'a str)>> {
    let Some((parent, name)) = path.trim_start_matches('/').rsplit_once('/').or_else(|| {
        let name = path.trim_start_matches('/');
        (!name.is_empty()).then_some((".", name))
    }) else {
        return Ok(None);
    };
    if matches!(name, "" | "." | "..") {
        return Ok(None);
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let top = rustix::fs::openat(CWD, upper, flags, Mode::empty())?;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    match rustix::fs::openat2(&top, parent, flags, Mode::empty(), resolve) {
        Ok(directory) => Ok(Some((directory, name))),
        // Removed, or replaced by something else.
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR | rustix::io::Errno::LOOP) => {
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

/// A name in an open directory.
fn in_directory(directory: &OwnedFd, name: &str) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd())).join(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_taken_out_and_links_lead_nowhere() {
        let outside = tempfile::tempdir().unwrap();
        std::fs::write(outside.path().join("file"), "kept").unwrap();
        let upper = tempfile::tempdir().unwrap();
        let at = |path: &str| upper.path().join(path);
        std::fs::create_dir_all(at("var/lib/x")).unwrap();
        std::fs::write(at("var/lib/x/seed"), "1").unwrap();
        std::fs::write(at("var/lib/mine"), "1").unwrap();
        std::os::unix::fs::symlink(outside.path(), at("etc")).unwrap();
        let paths =
            ["/var/lib/x", "/var/lib/x/seed", "/etc/file", "/..", "/", "/none/here", "/var"]
                .map(str::to_owned);

        revert(upper.path(), &paths).unwrap();
        assert!(!at("var/lib/x").exists());
        assert!(at("var/lib/mine").exists());
        assert!(outside.path().join("file").exists());
        assert_eq!(content(upper.path(), "/var/lib/mine").as_deref(), Some(&b"1"[..]));
        assert_eq!(content(upper.path(), "/etc/file"), None);
    }
}
