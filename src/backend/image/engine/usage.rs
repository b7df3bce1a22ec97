//! How much disk the files below a directory take.

use std::collections::HashSet;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::rc::Rc;

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

/// The longest path by which a directory is opened; what is deeper is reached from further down.
const LONGEST_PATH: usize = 2048;
/// What `st_blocks` counts in, stat(2).
const BLOCK: u64 = 512;

/// The bytes that all files below a directory take. Holes count as if they were written, since
/// saving an image may store them as zeros; a file with several names counts once. Programs may
/// change the files meanwhile. `goes_on` is asked with what was counted so far, now and then; if it
/// says no, that is the result. Blocks.
pub(in crate::backend::image) fn bytes_below(
    top: &Path,
    mut goes_on: impl FnMut(u64) -> bool,
) -> io::Result<u64> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    let top = Rc::new(rustix::fs::openat(CWD, top, flags, Mode::empty())?);
    let mut bytes = allocated(&rustix::fs::fstat(&top)?);
    let mut linked = HashSet::new();
    // Where each starts from, and its path from there.
    let mut directories: Vec<(Rc<OwnedFd>, Vec<u8>)> = vec![(top, b".".to_vec())];
    while let Some((from, path)) = directories.pop() {
        if !goes_on(bytes) {
            return Ok(bytes);
        }
        let directory =
            match rustix::fs::openat2(&*from, path.as_slice(), flags, Mode::empty(), resolve) {
                Ok(directory) => Rc::new(directory),
                // Removed, or replaced by something else.
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => continue,
                Err(error) => return Err(error.into()),
            };
        let is_deep = path.len() > LONGEST_PATH;
        for entry in Dir::read_from(&*directory)? {
            let entry = entry?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let stat = match rustix::fs::statat(&*directory, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => stat,
                Err(Errno::NOENT) => continue,
                Err(error) => return Err(error.into()),
            };
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::Directory => {
                    bytes += allocated(&stat);
                    directories.push(if is_deep {
                        (Rc::clone(&directory), name.to_bytes().to_vec())
                    } else {
                        (Rc::clone(&from), [&path, &b"/"[..], name.to_bytes()].concat())
                    });
                }
                FileType::RegularFile if stat.st_nlink < 2 || linked.insert(stat.st_ino) => {
                    let size = u64::try_from(stat.st_size).unwrap_or_default();
                    bytes = bytes.saturating_add(size.max(allocated(&stat)));
                }
                _ => {}
            }
        }
    }
    Ok(bytes)
}

fn allocated(stat: &Stat) -> u64 {
    u64::try_from(stat.st_blocks).unwrap_or_default().saturating_mul(BLOCK)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    fn all(top: &Path) -> u64 {
        bytes_below(top, |_| true).unwrap()
    }

    #[test]
    fn holes_count_links_do_not_and_nothing_outside_does() {
        let tree = tempfile::tempdir().unwrap();
        let at = |path: &str| tree.path().join(path);
        let empty = all(tree.path());
        fs::write(at("file"), vec![1; 100_000]).unwrap();
        let file = all(tree.path()) - empty;
        assert!((100_000..200_000).contains(&file), "{file}");

        fs::hard_link(at("file"), at("same")).unwrap();
        symlink("/usr", at("outside")).unwrap();
        assert_eq!(all(tree.path()) - empty, file);

        fs::File::create(at("hole")).unwrap().set_len(5 << 30).unwrap();
        assert!(all(tree.path()) - empty >= 5 << 30);
        assert!(bytes_below(tree.path(), |_| false).unwrap() < 1 << 20);
    }

    #[test]
    fn no_path_is_too_deep() {
        let tree = tempfile::tempdir().unwrap();
        let name = "d".repeat(200);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let mut directory = rustix::fs::open(tree.path(), flags, Mode::empty()).unwrap();
        // Deeper than any path can say, path_resolution(7).
        for _ in 0..50 {
            rustix::fs::mkdirat(&directory, name.as_str(), Mode::from_raw_mode(0o700)).unwrap();
            directory =
                rustix::fs::openat(&directory, name.as_str(), flags, Mode::empty()).unwrap();
        }
        let new = OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&directory, "file", new, Mode::from_raw_mode(0o600)).unwrap();
        fs::File::from(file).set_len(7 << 30).unwrap();
        assert!(all(tree.path()) >= 7 << 30);
    }
}
