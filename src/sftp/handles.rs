//! What a client has open.

use std::collections::HashMap;
use std::fs::File;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use rustix::io::Errno;
use rustix::process::{Resource, getrlimit};

use super::error::FileError;
use super::listing::Listing;

/// For one session. OpenSSH's clients need as many as there are files in transfer.
pub(super) const MOST_PER_SESSION: usize = 512;
/// For all sessions, where the process has no limit of its own.
const MOST_IN_ALL: usize = 65_536;

/// Counts the handles of all sessions: connections need descriptors too.
static OPEN: AtomicUsize = AtomicUsize::new(0);
/// No number is used twice, so a handle of another session is none of this one's.
static NEXT: AtomicU64 = AtomicU64::new(1);
/// The bytes of a handle: the session's mark and a number.
pub(super) type Handle = [u8; 16];

/// What all handles of a session begin with: random, so that no other server's handle can pass for
/// one of them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Mark([u8; 8]);

impl Default for Mark {
    fn default() -> Self {
        Self(RandomState::new().hash_one(0).to_be_bytes())
    }
}

impl Mark {
    /// Whether a handle has it.
    pub(super) fn is_on(self, handle: &[u8]) -> bool {
        self.number(handle).is_some()
    }

    fn number(self, handle: &[u8]) -> Option<u64> {
        Some(u64::from_be_bytes(handle.strip_prefix(&self.0)?.try_into().ok()?))
    }
}

/// An open file.
pub(super) struct OpenFile {
    pub(super) file: File,
    /// The absolute path by which it was opened.
    pub(super) path: Vec<u8>,
    pub(super) writes: bool,
    pub(super) appends: bool,
    /// Small requests on it need no thread of their own.
    pub(super) at_once: bool,
}

/// What a handle stands for.
#[derive(Clone)]
pub(super) enum Open {
    File(Arc<OpenFile>),
    Directory(Arc<Mutex<Listing>>),
}

/// The handles of one session.
#[derive(Default)]
pub(super) struct Handles {
    mark: Mark,
    open: HashMap<u64, (Open, Counted)>,
}

impl Handles {
    /// Takes a place for one more.
    pub(super) fn reserve(&self) -> Result<Counted, FileError> {
        if self.open.len() >= MOST_PER_SESSION {
            return Err(Errno::MFILE.into());
        }
        Counted::new().ok_or(Errno::NFILE.into())
    }

    pub(super) fn mark(&self) -> Mark {
        self.mark
    }

    /// A handle for what was opened.
    pub(super) fn add(&mut self, open: Open, counted: Counted) -> Handle {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        self.open.insert(number, (open, counted));
        let mut handle = Handle::default();
        handle[..8].copy_from_slice(&self.mark.0);
        handle[8..].copy_from_slice(&number.to_be_bytes());
        handle
    }

    pub(super) fn find(&self, handle: &[u8]) -> Option<Open> {
        self.open.get(&self.mark.number(handle)?).map(|(open, _)| open.clone())
    }

    pub(super) fn remove(&mut self, handle: &[u8]) -> Option<Open> {
        self.open.remove(&self.mark.number(handle)?).map(|(open, _)| open)
    }

    /// Closes all; returns the paths of those that could still be written to.
    pub(super) fn close_all(&mut self) -> Vec<Vec<u8>> {
        self.open
            .drain()
            .filter_map(|(_, (open, _))| match open {
                Open::File(file) if file.writes => Some(file.path.clone()),
                Open::File(_) | Open::Directory(_) => None,
            })
            .collect()
    }
}

/// A place among the handles of all sessions.
pub(super) struct Counted(());

impl Counted {
    fn new() -> Option<Self> {
        let limit = getrlimit(Resource::Nofile).current;
        let most = limit.and_then(|limit| usize::try_from(limit / 2).ok()).unwrap_or(MOST_IN_ALL);
        let counted = Self(());
        // Dropped, it is counted out again.
        (OPEN.fetch_add(1, Ordering::Relaxed) < most).then_some(counted)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        OPEN.fetch_sub(1, Ordering::Relaxed);
    }
}
