//! Unix sockets in a directory tree: connected to and made, never outside of the tree.
//!
//! The kernel takes a socket's address as a path of the host. So paths are resolved by [`Root`], and
//! the address that is used is the descriptor that came of it, in /proc/self/fd. All of it blocks,
//! but for connecting.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use tokio::net::UnixStream;

use super::access::{self, Links, Located};
use super::root::Root;

/// Connections that wait to be accepted; OpenSSH's own bound.
const BACKLOG: i32 = 128;
/// `TMPFS_MAGIC` of linux/magic.h.
const TMPFS: i64 = 0x0102_1994;

/// A socket that was found, whatever becomes of its path.
pub struct FoundSocket(Located);

/// A listening socket's file, and the directory that it is in.
pub struct BoundSocket {
    directory: OwnedFd,
    name: Vec<u8>,
    /// Device and number of the file: another of the same name is left alone.
    identity: (u64, u64),
    /// When the directory had last changed before, and when by the making of the socket.
    changed: (Timespec, Timespec),
}

/// A directory in memory that only its owner may use.
pub struct PrivateDirectory {
    parent: OwnedFd,
    name: Vec<u8>,
    directory: OwnedFd,
    files: Vec<Vec<u8>>,
}

impl Root {
    /// Finds the socket at a path. Links are followed.
    ///
    /// # Errors
    /// There is no file, or it is no socket.
    pub fn socket(&self, path: &[u8]) -> io::Result<FoundSocket> {
        let file = self.locate(path, Links::Follow)?;
        if file.kind()? != FileType::Socket {
            return Err(io::Error::other("not a socket"));
        }
        access::refuse_the_kernels(&file)?;
        Ok(FoundSocket(file))
    }

    /// Makes a socket that only its owner may connect to, and listens on it. Whatever has its path
    /// already stays.
    ///
    /// # Errors
    /// The path is taken or too long, or its directory is not there.
    pub fn listen_on_socket(&self, path: &[u8]) -> io::Result<(UnixListener, BoundSocket)> {
        let (directory, name) = self.parent(path)?;
        listen_in(directory, name)
    }

    /// Makes a directory that only its owner may use, on a file system that is kept in memory.
    ///
    /// # Errors
    /// The path is taken, its directory is not there, or it is not in memory.
    pub fn private_directory(&self, path: &[u8]) -> io::Result<PrivateDirectory> {
        let (parent, name) = self.parent(path)?;
        #[allow(clippy::unnecessary_cast, reason = "its size differs between architectures")]
        let file_system = rustix::fs::fstatfs(&parent)?.f_type as i64;
        if file_system != TMPFS {
            return Err(io::Error::other("not a file system in memory"));
        }
        rustix::fs::mkdirat(&parent, name, Mode::RWXU)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let directory = rustix::fs::openat(&parent, name, flags, Mode::empty())?;
        Ok(PrivateDirectory { parent, name: name.to_owned(), directory, files: Vec::new() })
    }
}

impl FoundSocket {
    /// Connects to it.
    ///
    /// # Errors
    /// Nobody listens, or more wait than its listener allows.
    pub async fn connect(&self) -> io::Result<UnixStream> {
        UnixStream::connect(self.0.magic_link()).await
    }
}

impl BoundSocket {
    /// Removes the socket's file. If nothing else happened in its directory, that looks as if it
    /// had never been there.
    ///
    /// # Errors
    /// The directory does not let it go.
    pub fn remove(self) -> io::Result<()> {
        if !self.is_there()? {
            return Ok(());
        }
        let before = modified(&rustix::fs::fstat(&self.directory)?);
        rustix::fs::unlinkat(&self.directory, &self.name, AtFlags::empty())?;
        let (original, made) = self.changed;
        if before == made {
            let omitted = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT };
            let times = Timestamps { last_access: omitted, last_modification: original };
            rustix::fs::utimensat(&self.directory, "", &times, AtFlags::EMPTY_PATH)?;
        }
        Ok(())
    }

    /// Whether the file still is the one that was made.
    fn is_there(&self) -> io::Result<bool> {
        match rustix::fs::statat(&self.directory, &self.name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(identity(&stat) == self.identity),
            Err(Errno::NOENT) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

impl PrivateDirectory {
    /// Makes a socket in it and listens.
    ///
    /// # Errors
    /// The name is taken.
    pub fn listen_on_socket(&mut self, name: &str) -> io::Result<UnixListener> {
        let (listener, _) = listen_in(self.directory.try_clone()?, name.as_bytes())?;
        self.files.push(name.as_bytes().to_owned());
        Ok(listener)
    }

    /// Makes a file in it.
    ///
    /// # Errors
    /// The name is taken, or the memory is full.
    pub fn write_file(&mut self, name: &str, content: &[u8]) -> io::Result<()> {
        use std::io::Write;

        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let mode = Mode::RUSR | Mode::WUSR;
        let file = rustix::fs::openat(&self.directory, name, flags, mode)?;
        self.files.push(name.as_bytes().to_owned());
        std::fs::File::from(file).write_all(content)
    }

    /// Removes it, with what was made in it here. What others put in it stays.
    ///
    /// # Errors
    /// There is more in it, or it is gone already.
    pub fn remove(self) -> io::Result<()> {
        for file in &self.files {
            match rustix::fs::unlinkat(&self.directory, file, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(rustix::fs::unlinkat(&self.parent, &self.name, AtFlags::REMOVEDIR)?)
    }
}

fn listen_in(directory: OwnedFd, name: &[u8]) -> io::Result<(UnixListener, BoundSocket)> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    // Of a socket without a file, this is the mode that its file will have.
    rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    let original = modified(&rustix::fs::fstat(&directory)?);
    let mut address = PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd()));
    address.push(OsStr::from_bytes(name));
    rustix::net::bind(&socket, &SocketAddrUnix::new(&address)?)?;
    let stat = rustix::fs::statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW)?;
    let made = modified(&rustix::fs::fstat(&directory)?);
    rustix::net::listen(&socket, BACKLOG)?;
    let bound = BoundSocket {
        directory,
        name: name.to_owned(),
        identity: identity(&stat),
        changed: (original, made),
    };
    Ok((socket.into(), bound))
}

#[allow(clippy::unnecessary_cast, reason = "their sizes differ between architectures")]
fn identity(stat: &rustix::fs::Stat) -> (u64, u64) {
    (stat.st_dev as u64, stat.st_ino as u64)
}

#[allow(clippy::unnecessary_cast, reason = "their sizes differ between architectures")]
fn modified(stat: &rustix::fs::Stat) -> Timespec {
    Timespec { tv_sec: stat.st_mtime as i64, tv_nsec: stat.st_mtime_nsec as _ }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::{Duration, SystemTime};

    use super::*;

    fn tree() -> (tempfile::TempDir, Root) {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("srv")).unwrap();
        let root = Root::open(directory.path(), b"/").unwrap();
        (directory, root)
    }

    #[test]
    fn a_socket_that_is_removed_leaves_no_trace() {
        let (directory, root) = tree();
        let srv = directory.path().join("srv");
        let long_ago = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
        fs::File::open(&srv).unwrap().set_modified(long_ago).unwrap();
        let (_listener, file) = root.listen_on_socket(b"/srv/socket").unwrap();
        assert!(root.socket(b"srv/socket").is_ok());
        file.remove().unwrap();
        assert!(root.socket(b"/srv/socket").is_err());
        assert_eq!(fs::metadata(&srv).unwrap().modified().unwrap(), long_ago);
    }

    #[test]
    fn what_others_changed_beside_a_socket_or_put_in_its_place_stays() {
        let (directory, root) = tree();
        let srv = directory.path().join("srv");
        let long_ago = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
        fs::File::open(&srv).unwrap().set_modified(long_ago).unwrap();
        let (_listener, file) = root.listen_on_socket(b"/srv/socket").unwrap();
        fs::remove_file(srv.join("socket")).unwrap();
        fs::write(srv.join("socket"), "mine").unwrap();
        file.remove().unwrap();
        assert_eq!(fs::read_to_string(srv.join("socket")).unwrap(), "mine");
        assert_ne!(fs::metadata(&srv).unwrap().modified().unwrap(), long_ago);
    }

    #[test]
    fn a_path_that_is_taken_is_refused() {
        let (directory, root) = tree();
        fs::write(directory.path().join("srv/file"), "").unwrap();
        let refused = root.listen_on_socket(b"/srv/file").err().unwrap();
        assert_eq!(refused.kind(), io::ErrorKind::AddrInUse);
        assert!(root.socket(b"/srv/file").is_err());
    }
}
