//! Requests that are answered on the thread that runs the connection.
//!
//! A thread that may block is two wake-ups away, which is most of what a request on a small file
//! costs. So what the kernel has in memory is taken from there, where it can say that it would have
//! to wait for the disk. Changes it makes in memory too, as a rule, but cannot say so: only small
//! ones are made here, on file systems of this machine's own disks, and none while the disk is slow.

use std::fs::File;
use std::io::IoSliceMut;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::io::{Errno, ReadWriteFlags};

use super::access::{Access, Links};
use super::attributes::Attributes;
use super::error::FileError;
use super::handles::OpenFile;
use super::request::{Extension, Request};
use super::root::Root;
use super::server::{Answer, Server, answer, done, real_path, refused, stat};
use super::status::Refusal;
use super::wire::Writer;

/// Data of one request.
const MOST_DATA: usize = 16 * 1024;
/// A file that is cut off or closed: how long that takes grows with what is released or flushed.
const MOST_SIZE: u64 = 1 << 20;
/// Nobody at a keyboard notices.
const PROMPT: Duration = Duration::from_millis(20);
/// How long a disk counts as slow after a change that took longer.
const SLOW_FOR: Duration = Duration::from_secs(5);

/// File systems that make changes in memory and answer RWF_NOWAIT (linux/magic.h): ext2 to ext4,
/// XFS, Btrfs, F2FS, tmpfs.
const LOCAL: [i64; 5] = [0xef53, 0x5846_5342, 0x9123_683e, 0xf2f5_2010, 0x0102_1994];

/// Of all sessions: they share the threads that would wait.
static PACE: Pace = Pace(Mutex::new(None));

/// What of a root can be reached without waiting.
pub(super) struct Memory {
    root: Root,
    device: u64,
}

impl Memory {
    /// `None` if its file system is none of this machine's own, or the kernel too old. Blocks.
    pub(super) fn of(root: &Root) -> Option<Self> {
        let root = root.in_memory().ok()?;
        let top = root.top().ok()?;
        #[allow(clippy::unnecessary_cast, reason = "its size differs between architectures")]
        let file_system = rustix::fs::fstatfs(&top).ok()?.f_type as i64;
        let device = device_of(&top).ok()?;
        LOCAL.contains(&file_system).then_some(Self { root, device })
    }

    /// Whether an open file is on the root's own file system.
    pub(super) fn holds(&self, file: &File) -> bool {
        device_of(file).is_ok_and(|device| device == self.device)
    }

    fn open(&self, path: &[u8], access: Access, mode: u32) -> Result<File, FileError> {
        if !access.create {
            return self.root.locate(path, Links::Follow)?.open(Access { waits: false, ..access });
        }
        match self.root.create_file(path, access, mode) {
            // To cut it off may take long.
            Err(FileError::System(Errno::EXIST)) if !access.exclusive => Err(Errno::AGAIN.into()),
            created => created,
        }
    }
}

#[allow(clippy::unnecessary_cast, reason = "its size differs between architectures")]
fn device_of(file: impl rustix::fd::AsFd) -> Result<u64, Errno> {
    Ok(rustix::fs::fstat(file)?.st_dev as u64)
}

/// Whether changes are made without much waiting.
struct Pace(Mutex<Option<Instant>>);

impl Pace {
    /// Makes a change, unless one was slow a short time ago.
    fn change<T>(&self, change: impl FnOnce() -> T) -> Option<T> {
        let started = Instant::now();
        if self.slow_until().is_some_and(|until| started < until) {
            return None;
        }
        let changed = change();
        if started.elapsed() > PROMPT {
            *self.slow_until() = Some(Instant::now() + SLOW_FOR);
        }
        Some(changed)
    }

    fn slow_until(&self) -> std::sync::MutexGuard<'_, Option<Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Server {
    /// The answer to a request that can be answered without waiting, while no other is being
    /// answered. `None`: [`Server::answer`] has to do it, and nothing is done yet.
    pub(super) fn answer_at_once(&self, packet: &[u8]) -> Option<Vec<u8>> {
        let memory = self.memory()?;
        let (Some(id), Ok(request)) = Request::parse(packet) else { return None };
        let answer = match request {
            Request::Open { path, flags, attributes } => {
                let access = Access::asked(flags);
                let open = || memory.open(path, access, attributes.file_mode());
                let open = || self.open(id, path, access, open);
                match (access.create, access.write) {
                    (true, _) => PACE.change(open)?,
                    (false, false) => open(),
                    // Somebody on the network may hold a lease on it.
                    (false, true) => return None,
                }
            }
            Request::Close { handle } => {
                let open = self.small_file(handle)?;
                if open.writes {
                    drop(open);
                    PACE.change(|| self.close_handle(handle))?
                } else {
                    self.close_handle(handle)
                }
            }
            Request::Read { handle, offset, length } => {
                self.read_at_once(id, handle, offset, length)?
            }
            Request::Write { handle, offset, data } => {
                let open = self.file(handle).ok().filter(|open| open.at_once && !open.appends)?;
                if data.len() > MOST_DATA || !open.writes {
                    return None;
                }
                PACE.change(|| self.write(handle, offset, data))?
            }
            Request::Lstat { path } => stat(&memory.root, id, path, Links::Keep),
            Request::Stat { path } => stat(&memory.root, id, path, Links::Follow),
            Request::Fstat { handle } => {
                self.file(handle).ok().filter(|open| open.at_once)?;
                self.stat_open(id, handle)
            }
            Request::Fsetstat { handle, attributes } => {
                self.set_open_at_once(handle, &attributes)?
            }
            Request::Realpath { path } => real_path(&memory.root, id, path),
            Request::Extended(extension @ Extension::Limits) => {
                super::extensions::perform(self, id, extension)
            }
            _ => return None,
        };
        match answer {
            // The paths that lead elsewhere are looked for by who may wait.
            Err(refusal) if refusal.crosses() || refusal.would_wait() => None,
            Err(refusal) => Some(refused(id, &refusal)),
            Ok(answer) => Some(done(id, answer)),
        }
    }

    fn read_at_once(&self, id: u32, handle: &[u8], offset: u64, length: u32) -> Option<Answer> {
        let open = self.file(handle).ok().filter(|open| open.at_once)?;
        i64::try_from(offset).ok()?;
        let left = size_of(&open.file)?.saturating_sub(offset).min(length.into());
        let left = usize::try_from(left).ok().filter(|left| *left <= MOST_DATA)?;
        // At the end one byte too many, to be told so.
        let mut data = vec![0; left.max(1)];
        let flags = ReadWriteFlags::NOWAIT;
        let read =
            rustix::io::preadv2(&open.file, &mut [IoSliceMut::new(&mut data)], offset, flags);
        // Less than was there is not the end.
        match read {
            Ok(0) if left == 0 => Some(Err(Refusal::end_of_file())),
            Ok(read) if read == left => {
                let mut answer = Writer::answer(answer::DATA, id);
                answer.string(&data[..read]);
                Some(Ok(Some(answer)))
            }
            Ok(_) | Err(_) => None,
        }
    }

    /// Of a file that is open for writing: nobody holds a lease on it.
    fn set_open_at_once(&self, handle: &[u8], attributes: &Attributes) -> Option<Answer> {
        self.small_file(handle).filter(|open| open.writes)?;
        PACE.change(|| self.set_open(handle, attributes))
    }

    fn small_file(&self, handle: &[u8]) -> Option<std::sync::Arc<OpenFile>> {
        let open = self.file(handle).ok().filter(|open| open.at_once)?;
        size_of(&open.file).is_some_and(|size| size <= MOST_SIZE).then_some(open)
    }
}

fn size_of(file: &File) -> Option<u64> {
    u64::try_from(rustix::fs::fstat(file).ok()?.st_size).ok()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::sftp::request::kind;
    use crate::sftp::server::Done;

    const READ: u32 = 1;
    const WRITE: u32 = 2;
    const CREATE: u32 = 8;

    fn request(kind: u8, fields: impl FnOnce(&mut Writer)) -> Vec<u8> {
        let mut request = Writer::answer(kind, 7);
        fields(&mut request);
        request.finish()[4..].to_vec()
    }

    fn of_path(kind: u8, path: &str) -> Vec<u8> {
        request(kind, |request| request.string(path.as_bytes()))
    }

    fn open(path: &str, flags: u32) -> Vec<u8> {
        request(kind::OPEN, |request| {
            request.string(path.as_bytes());
            request.uint32(flags);
            request.uint32(0);
        })
    }

    fn read(handle: &[u8], offset: u64, length: u32) -> Vec<u8> {
        request(kind::READ, |request| {
            request.string(handle);
            request.uint64(offset);
            request.uint32(length);
        })
    }

    fn write(handle: &[u8], offset: u64, data: &[u8]) -> Vec<u8> {
        request(kind::WRITE, |request| {
            request.string(handle);
            request.uint64(offset);
            request.string(data);
        })
    }

    fn answered(server: &Server, request: &[u8]) -> Vec<u8> {
        match server.answer(request) {
            Ok(Done::Answer(packet)) => packet,
            _ => panic!("no answer"),
        }
    }

    /// The handle in an answer.
    fn handle(answer: &[u8]) -> Vec<u8> {
        assert_eq!(answer[4], answer::HANDLE);
        answer[13..].to_vec()
    }

    /// A server that has greeted, of a tree on a file system of this machine's own.
    fn greeted() -> Option<(tempfile::TempDir, Server)> {
        let tree = tempfile::tempdir().unwrap();
        let server = Server::new(Root::open(tree.path(), b"/").unwrap());
        assert!(server.answer(&[kind::INIT, 0, 0, 0, 3]).is_ok());
        if server.memory().is_none() {
            eprintln!("skipped: files are on none of this machine's own file systems");
            return None;
        }
        Some((tree, server))
    }

    #[test]
    fn what_is_answered_at_once_is_what_would_be_answered_otherwise() {
        let Some((tree, server)) = greeted() else { return };
        fs::write(tree.path().join("file"), "content").unwrap();
        symlink("file", tree.path().join("link")).unwrap();
        let file = handle(&answered(&server, &open("/file", READ)));
        let mut requests = vec![read(&file, 0, 300), read(&file, 3, 2), read(&file, 7, 9)];
        requests.push(request(kind::FSTAT, |request| request.string(&file)));
        for path in ["/file", "/link", "/", "link/"] {
            let kinds = [kind::LSTAT, kind::STAT, kind::REALPATH];
            requests.extend(kinds.map(|kind| of_path(kind, path)));
        }
        for request in requests {
            // By then the kernel has in memory what it needs.
            let otherwise = answered(&server, &request);
            assert_eq!(server.answer_at_once(&request), Some(otherwise), "{request:?}");
        }
    }

    #[test]
    fn a_small_file_is_made_and_read_without_a_thread_of_its_own() {
        let Some((tree, server)) = greeted() else { return };
        fs::create_dir(tree.path().join("sub")).unwrap();
        answered(&server, &of_path(kind::STAT, "/sub"));
        // A disk that is slow just now leaves it to a thread.
        let Some(made) = server.answer_at_once(&open("/sub/new", WRITE | CREATE)) else { return };
        let new = handle(&made);
        for request in [
            write(&new, 0, b"content"),
            request(kind::FSETSTAT, |request| {
                request.string(&new);
                request.uint32(4);
                request.uint32(0o640);
            }),
            request(kind::CLOSE, |request| request.string(&new)),
        ] {
            let done =
                server.answer_at_once(&request).unwrap_or_else(|| answered(&server, &request));
            assert_eq!(done[9..13], [0; 4], "{done:?}");
        }
        assert_eq!(fs::read(tree.path().join("sub/new")).unwrap(), b"content");
        let read_back = handle(&server.answer_at_once(&open("/sub/new", READ)).unwrap());
        let data = server.answer_at_once(&read(&read_back, 0, 261_120)).unwrap();
        assert_eq!(data[13..], *b"content");
    }

    #[test]
    fn what_may_take_long_is_not_done_at_once() {
        let Some((tree, server)) = greeted() else { return };
        fs::write(tree.path().join("large"), vec![1; 2 << 20]).unwrap();
        let large = handle(&answered(&server, &open("/large", READ | WRITE)));
        for request in [
            open("/large", WRITE),
            open("/large", WRITE | CREATE),
            read(&large, 0, 32_768),
            write(&large, 0, &[2; 20_000]),
            request(kind::CLOSE, |request| request.string(&large)),
            of_path(kind::REMOVE, "/large"),
            of_path(kind::OPENDIR, "/"),
        ] {
            assert_eq!(server.answer_at_once(&request), None, "{request:?}");
        }
        assert_eq!(fs::read(tree.path().join("large")).unwrap(), vec![1; 2 << 20]);
    }

    #[test]
    fn after_a_slow_change_none_is_made_here_for_a_time() {
        let pace = Pace(Mutex::new(None));
        assert_eq!(pace.change(|| 1), Some(1));
        *pace.slow_until() = Some(Instant::now() + SLOW_FOR);
        assert_eq!(pace.change(|| 2), None);
        *pace.slow_until() = Some(Instant::now());
        assert_eq!(pace.change(|| std::thread::sleep(2 * PROMPT)), Some(()));
        assert_eq!(pace.change(|| 3), None);
    }
}
