//! The mounts of the host that a new mount namespace begins with.
//!
//! As long as any namespace has a mount, its device is in use: a disk that an administrator has
//! unmounted could not be taken out, and a FUSE program would not end, until the last container
//! does. So a supervisor keeps only what it needs.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::mount::{UnmountFlags, unmount};

/// Where programs, their settings and the kernel's own file systems are.
const OF_THE_SYSTEM: [&str; 10] =
    ["/proc", "/sys", "/dev", "/usr", "/etc", "/bin", "/sbin", "/lib", "/lib64", "/run"];

/// Takes all mounts out of this namespace but those of the system and those that lead to
/// `needed`.
pub(super) fn leave(needed: &[PathBuf]) -> io::Result<()> {
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    // What was mounted last covers what was mounted before.
    for line in mounts.lines().rev() {
        // proc_pid_mountinfo(5): the fifth field.
        let Some(path) = line.split(' ').nth(4).map(unescaped) else { continue };
        let is_kept = path == Path::new("/")
            || OF_THE_SYSTEM.iter().any(|top| path.starts_with(top))
            || needed.iter().any(|needed| needed.starts_with(&path));
        if is_kept {
            continue;
        }
        match unmount(&path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
            // Covered by one that is kept, or went with one that it was in.
            Ok(()) | Err(Errno::INVAL | Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Spaces and such are written as \ and three octal digits.
fn unescaped(field: &str) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field.as_bytes();
    while let Some((first, others)) = rest.split_first() {
        let escaped = (*first == b'\\')
            .then(|| others.get(..3))
            .flatten()
            .and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        match escaped {
            Some(byte) => {
                bytes.push(byte);
                rest = &others[3..];
            }
            None => {
                bytes.push(*first);
                rest = others;
            }
        }
    }
    PathBuf::from(OsString::from_vec(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escaped_characters_of_a_path_are_read() {
        assert_eq!(unescaped(r"/a\040b\134c\"), Path::new(r"/a b\c\"));
        assert_eq!(unescaped(r"/plain"), Path::new("/plain"));
    }
}
