//! Answers requests. Blocks.

use std::fs::File;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use rustix::fs::{Gid, Mode, Uid};
use rustix::io::Errno;

use super::access::{Access, Links, Located, MODE_BITS};
use super::accounts::Accounts;
use super::at_once::Memory;
use super::attributes::{self, Attributes};
use super::error::FileError;
use super::extensions;
use super::framing::MOST_BYTES;
use super::handles::{Handles, Mark, Open, OpenFile};
use super::listing::Listing;
use super::real_path::Place;
use super::request::Request;
use super::root::Root;
use super::sparse;
use super::status::Refusal;
use super::wire::Writer;

pub(super) const VERSION: u32 = 3;
/// For data in a packet: room for its header is left. OpenSSH's own limit.
pub(super) const MOST_DATA: u32 = MOST_BYTES - 1024;
/// What is noted about failed writes is bounded.
const MOST_FAILURES: usize = 64;

/// Types of packets that servers send.
pub(super) mod answer {
    pub(in crate::sftp) const VERSION: u8 = 2;
    pub(in crate::sftp) const STATUS: u8 = 101;
    pub(in crate::sftp) const HANDLE: u8 = 102;
    pub(in crate::sftp) const DATA: u8 = 103;
    pub(in crate::sftp) const NAME: u8 = 104;
    pub(in crate::sftp) const ATTRS: u8 = 105;
    pub(in crate::sftp) const EXTENDED_REPLY: u8 = 201;
}

/// An answer to a request, without what all answers have.
pub(super) type Answer = Result<Option<Writer>, Refusal>;

/// What is known of one session.
pub(super) struct Server {
    pub(super) root: Root,
    /// Looked for when the client has greeted.
    memory: OnceLock<Option<Memory>>,
    handles: Mutex<Handles>,
    accounts: OnceLock<Accounts>,
    is_greeted: AtomicBool,
    /// The client went away: what takes long gives up.
    pub(super) is_cancelled: AtomicBool,
    /// Files that were not written as they should have been, and why.
    failures: Mutex<Vec<(Vec<u8>, FileError)>>,
}

/// What became of a request.
pub(super) enum Done {
    /// The packet to send.
    Answer(Vec<u8>),
    /// The packet to send to the server of the files around a mounted root: the request, with the
    /// paths that its own lead to.
    Elsewhere(Vec<u8>),
}

/// The client speaks something else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NotGreeted;

impl Server {
    pub(super) fn new(root: Root) -> Self {
        Self {
            root,
            memory: OnceLock::new(),
            handles: Mutex::default(),
            accounts: OnceLock::new(),
            is_greeted: AtomicBool::new(false),
            is_cancelled: AtomicBool::new(false),
            failures: Mutex::default(),
        }
    }

    /// Does what a packet asks.
    pub(super) fn answer(&self, packet: &[u8]) -> Result<Done, NotGreeted> {
        let (id, request) = Request::parse(packet);
        if let Ok(Request::Init { .. }) = request {
            self.memory.get_or_init(|| Memory::of(&self.root));
            self.is_greeted.store(true, Ordering::Relaxed);
            return Ok(Done::Answer(greeting()));
        }
        if !self.is_greeted.load(Ordering::Relaxed) {
            return Err(NotGreeted);
        }
        // A packet that is too short for an identifier is answered as if it had one.
        let id = id.unwrap_or(0);
        let answer = match request {
            Ok(request) => self.perform(id, request).map_err(|refusal| (refusal, Some(request))),
            Err(malformed) => Err((Refusal::from(malformed), None)),
        };
        Ok(Done::Answer(match answer {
            Ok(answer) => done(id, answer),
            Err((refusal, request)) => {
                if let Some(request) = request.filter(|_| refusal.crosses())
                    && let Some(elsewhere) = self.led_elsewhere(packet, &request)
                {
                    return Ok(Done::Elsewhere(elsewhere));
                }
                refused(id, &refusal)
            }
        }))
    }

    /// The request with the paths that its own lead to, if all of them lead out of the root.
    fn led_elsewhere(&self, packet: &[u8], request: &Request<'_>) -> Option<Vec<u8>> {
        let mut leads_to = Vec::new();
        for (path, links) in request.paths() {
            match self.root.place(path, links) {
                Ok(Place::Elsewhere(path)) => leads_to.push(path),
                Ok(Place::Here(_)) | Err(_) => return None,
            }
        }
        if leads_to.is_empty() { None } else { request.with_paths(packet, &leads_to) }
    }

    /// Closes all that is open; returns what was not written to its end, and why.
    pub(super) fn close(&self) -> Vec<(Vec<u8>, Option<FileError>)> {
        let unfinished = self.handles().close_all();
        let failures = std::mem::take(&mut *self.failures());
        let mut all: Vec<_> =
            failures.into_iter().map(|(path, error)| (path, Some(error))).collect();
        all.extend(unfinished.into_iter().map(|path| (path, None)));
        all
    }

    /// What its handles begin with.
    pub(super) fn mark(&self) -> Mark {
        self.handles().mark()
    }

    fn perform(&self, id: u32, request: Request<'_>) -> Answer {
        match request {
            Request::Init { .. } | Request::Unknown => Err(Refusal::unsupported()),
            Request::Open { path, flags, attributes } => {
                let access = Access::asked(flags);
                let mode = attributes.file_mode();
                self.open(id, path, access, || self.root.open_file(path, access, mode))
            }
            Request::Close { handle } => self.close_handle(handle),
            Request::Read { handle, offset, length } => self.read(id, handle, offset, length),
            Request::Write { handle, offset, data } => self.write(handle, offset, data),
            Request::Lstat { path } => stat(&self.root, id, path, Links::Keep),
            Request::Stat { path } => stat(&self.root, id, path, Links::Follow),
            Request::Fstat { handle } => self.stat_open(id, handle),
            Request::Setstat { path, attributes } => {
                set(&self.root, &self.root.locate(path, Links::Follow)?, &attributes)
            }
            Request::Fsetstat { handle, attributes } => self.set_open(handle, &attributes),
            Request::Opendir { path } => {
                let mut handles = self.handles();
                let counted = handles.reserve()?;
                let listing = Listing::open(&self.root, path)?;
                let handle = handles.add(Open::Directory(Arc::new(Mutex::new(listing))), counted);
                Ok(Some(handle_answer(id, &handle)))
            }
            Request::Readdir { handle } => self.read_directory(id, handle),
            Request::Remove { path } => {
                self.root.remove_file(path)?;
                self.forget_failures(path);
                Ok(None)
            }
            Request::Mkdir { path, attributes } => {
                self.root.make_directory(path, attributes.mode.unwrap_or(0o777))?;
                Ok(None)
            }
            Request::Rmdir { path } => Ok(self.root.remove_directory(path).map(|()| None)?),
            Request::Realpath { path } => real_path(&self.root, id, path),
            Request::Rename { from, to } => {
                self.root.rename(from, to, false)?;
                self.forget_failures(from);
                Ok(None)
            }
            Request::Readlink { path } => {
                let link = self.root.locate(path, Links::Keep)?;
                if !link.kind()?.is_symlink() {
                    return Err(Errno::INVAL.into());
                }
                Ok(Some(name(id, &link.link_target()?)))
            }
            Request::Symlink { target, path } => {
                Ok(self.root.symbolic_link(target, path).map(|()| None)?)
            }
            Request::Extended(extension) => extensions::perform(self, id, extension),
        }
    }

    /// Gives what `open` opens a handle.
    pub(super) fn open(
        &self,
        id: u32,
        path: &[u8],
        access: Access,
        open: impl FnOnce() -> Result<File, FileError>,
    ) -> Answer {
        let mut handles = self.handles();
        let counted = handles.reserve()?;
        let file = open()?;
        let open = OpenFile {
            at_once: self.memory().is_some_and(|memory| memory.holds(&file)),
            file,
            path: self.root.absolute(path).into_owned(),
            writes: access.write,
            appends: access.append,
        };
        let handle = handles.add(Open::File(Arc::new(open)), counted);
        Ok(Some(handle_answer(id, &handle)))
    }

    pub(super) fn close_handle(&self, handle: &[u8]) -> Answer {
        self.handles().remove(handle).map(|_| None).ok_or_else(Refusal::bad_handle)
    }

    fn read(&self, id: u32, handle: &[u8], offset: u64, length: u32) -> Answer {
        let file = self.file(handle)?;
        let length = length.min(MOST_DATA) as usize;
        if i64::try_from(offset).is_err() {
            return Err(Errno::INVAL.into());
        }
        let mut answer = Writer::answer(answer::DATA, id);
        answer.uint32(0);
        let start = answer.len();
        let bytes = answer.bytes();
        bytes.reserve_exact(length);
        let read = rustix::io::pread(&file.file, rustix::buffer::spare_capacity(bytes), offset)?;
        // There may have been more room than was asked for.
        let read = read.min(length);
        bytes.truncate(start + read);
        if read == 0 {
            return Err(Refusal::end_of_file());
        }
        answer.set_uint32(start - 4, u32::try_from(read).unwrap_or(MOST_DATA));
        Ok(Some(answer))
    }

    pub(super) fn write(&self, handle: &[u8], offset: u64, data: &[u8]) -> Answer {
        let open = self.file(handle)?;
        if !open.writes {
            return Err(Errno::BADF.into());
        }
        let end = offset.checked_add(data.len() as u64);
        if end.is_none_or(|end| i64::try_from(end).is_err()) {
            return Err(Errno::INVAL.into());
        }
        let written = self.make_room(&open, offset, data).and_then(|()| {
            if open.appends {
                return std::io::Write::write_all(&mut &open.file, data);
            }
            sparse::write_all_at(&open.file, data, offset)
        });
        written.map(|()| None).map_err(|error| {
            let error = Errno::from_io_error(&error).unwrap_or(Errno::IO).into();
            self.note_failure(&open.path, error);
            error.into()
        })
    }

    fn make_room(&self, open: &OpenFile, offset: u64, data: &[u8]) -> std::io::Result<()> {
        let start = if open.appends { open.file.metadata()?.len() } else { offset };
        Ok(self.root.extend(&open.file, start.saturating_add(data.len() as u64))?)
    }

    pub(super) fn stat_open(&self, id: u32, handle: &[u8]) -> Answer {
        Ok(Some(attributes_of(id, &rustix::fs::fstat(&self.file(handle)?.file)?)))
    }

    pub(super) fn set_open(&self, handle: &[u8], attributes: &Attributes) -> Answer {
        let file = &self.file(handle)?.file;
        if let Some(size) = attributes.size {
            self.root.extend(file, size)?;
            file.set_len(size)?;
        }
        if let Some((uid, gid)) = attributes.owner {
            self.root.allow_owner(uid, gid)?;
            let (uid, gid) = (Uid::from_raw_unchecked(uid), Gid::from_raw_unchecked(gid));
            rustix::fs::fchown(file, Some(uid), Some(gid))?;
        }
        if let Some(mode) = attributes.mode {
            rustix::fs::fchmod(file, Mode::from_raw_mode(mode & MODE_BITS))?;
        }
        if let Some((accessed, modified)) = attributes.times {
            let times = attributes::timestamps(accessed.into(), modified.into());
            rustix::fs::futimens(file, &times)?;
        }
        Ok(None)
    }

    fn read_directory(&self, id: u32, handle: &[u8]) -> Answer {
        let listing = match self.handles().find(handle) {
            Some(Open::Directory(listing)) => listing,
            Some(Open::File(_)) | None => return Err(Refusal::bad_handle()),
        };
        let mut answer = Writer::answer(answer::NAME, id);
        let count_at = answer.len();
        answer.uint32(0);
        let mut listing = listing.lock().unwrap_or_else(PoisonError::into_inner);
        let count = listing.read(&self.root, self.accounts(), &mut answer)?;
        if count == 0 {
            return Err(Refusal::end_of_file());
        }
        answer.set_uint32(count_at, count);
        Ok(Some(answer))
    }

    /// What can be reached without waiting, once the client has greeted.
    pub(super) fn memory(&self) -> Option<&Memory> {
        self.memory.get()?.as_ref()
    }

    pub(super) fn accounts(&self) -> &Accounts {
        self.accounts.get_or_init(|| Accounts::read(&self.root))
    }

    /// The open file that a handle stands for.
    pub(super) fn file(&self, handle: &[u8]) -> Result<Arc<OpenFile>, Refusal> {
        match self.handles().find(handle) {
            Some(Open::File(file)) => Ok(file),
            Some(Open::Directory(_)) | None => Err(Refusal::bad_handle()),
        }
    }

    pub(super) fn note_failure(&self, path: &[u8], error: FileError) {
        let mut failures = self.failures();
        if failures.len() < MOST_FAILURES && !failures.iter().any(|(failed, _)| failed == path) {
            failures.push((path.to_owned(), error));
        }
    }

    /// What is gone or replaced did not fail any more.
    pub(super) fn forget_failures(&self, path: &[u8]) {
        let path = self.root.absolute(path);
        self.failures().retain(|(failed, _)| *failed != *path);
    }

    fn handles(&self) -> MutexGuard<'_, Handles> {
        self.handles.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn failures(&self) -> MutexGuard<'_, Vec<(Vec<u8>, FileError)>> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(super) fn stat(root: &Root, id: u32, path: &[u8], links: Links) -> Answer {
    Ok(Some(attributes_of(id, &root.locate(path, links)?.stat()?)))
}

pub(super) fn real_path(root: &Root, id: u32, path: &[u8]) -> Answer {
    Ok(Some(name(id, &root.real_path(path)?)))
}

fn attributes_of(id: u32, stat: &rustix::fs::Stat) -> Writer {
    let mut answer = Writer::answer(answer::ATTRS, id);
    attributes::write(&mut answer, stat);
    answer
}

/// Sets attributes; the mode after the owner, which takes set-user-ID bits away.
pub(super) fn set(root: &Root, file: &Located, attributes: &Attributes) -> Answer {
    if let Some(size) = attributes.size {
        let file = file.open(Access::WRITE)?;
        root.extend(&file, size)?;
        file.set_len(size)?;
    }
    if let Some((uid, gid)) = attributes.owner {
        root.allow_owner(uid, gid)?;
        file.set_owner(uid, gid)?;
    }
    if let Some(mode) = attributes.mode {
        file.set_mode(mode)?;
    }
    if let Some((accessed, modified)) = attributes.times {
        file.set_times(&attributes::timestamps(accessed.into(), modified.into()))?;
    }
    Ok(None)
}

/// An answer with one name, as `SSH_FXP_REALPATH` has it.
pub(super) fn name(id: u32, path: &[u8]) -> Writer {
    let mut answer = Writer::answer(answer::NAME, id);
    answer.uint32(1);
    answer.string(path);
    answer.string(path);
    answer.uint32(0);
    answer
}

pub(super) fn handle_answer(id: u32, handle: &[u8]) -> Writer {
    let mut answer = Writer::answer(answer::HANDLE, id);
    answer.string(handle);
    answer
}

/// The packet that says that a request was done.
pub(super) fn done(id: u32, answer: Option<Writer>) -> Vec<u8> {
    answer.map_or_else(|| status(id, 0, "success"), Writer::finish)
}

pub(super) fn refused(id: u32, refusal: &Refusal) -> Vec<u8> {
    status(id, refusal.code, &refusal.message)
}

pub(super) fn status(id: u32, code: u32, message: &str) -> Vec<u8> {
    let mut answer = Writer::answer(answer::STATUS, id);
    answer.uint32(code);
    answer.string(message.as_bytes());
    answer.string(b"en");
    answer.finish()
}

fn greeting() -> Vec<u8> {
    let mut greeting = Writer::packet(answer::VERSION);
    greeting.uint32(VERSION);
    for (name, version) in extensions::OFFERED {
        greeting.string(name.as_bytes());
        greeting.string(version.as_bytes());
    }
    greeting.finish()
}
