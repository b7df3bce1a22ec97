//! A queue between a sender that must not be kept waiting and a receiver that may be slow.
//!
//! russh grants window on receipt and stops reading a connection while one channel's queue is
//! full, so a channel left unread stalls its siblings. Every channel is therefore read all the
//! time; what its receiver cannot take yet waits here: in memory first, then in an unlinked
//! temporary file, up to a cap. Past the cap the sender is kept waiting.
//!
//! A receiver that is merely slower than the sender is no reason to write to disk: the sender is
//! then held back for short whiles, as long as that helps and nobody else suffers ([`Patience`]).
//!
//! One producer, one consumer, strictly first in, first out.

mod limits;

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::Notify;
use tokio::time::Instant;
use tracing::warn;

pub use self::limits::{DiskBudget, Patience, SpoolLimits};

/// Which of a session's two byte streams, RFC 4254 section 5.2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// `SSH_MSG_CHANNEL_DATA`.
    Data,
    /// `SSH_MSG_CHANNEL_EXTENDED_DATA` of type stderr.
    Stderr,
}

/// What is queued: bytes, or a mark between bytes such as EOF.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece<M> {
    /// Bytes of a stream. Their borders carry no meaning.
    Bytes(Stream, Bytes),
    /// Anything else, in its place.
    Mark(M),
}

/// What a piece in memory takes besides its bytes: one-byte packets must not cost more than the
/// limit says.
const OVERHEAD: usize = 128;

/// The largest piece read back from disk at once.
const DISK_READ: usize = 128 * 1024;

enum Entry<M> {
    Memory(Piece<M>),
    /// `len` bytes of a stream from `start`, an offset that only grows; its place in the file is
    /// `start % limits.disk`.
    Disk {
        stream: Stream,
        start: u64,
        len: u64,
    },
}

struct State<M> {
    entries: VecDeque<Entry<M>>,
    memory: usize,
    disk: u64,
    /// Offset of the next byte written to disk.
    tail: u64,
    file: Option<Arc<File>>,
    /// The disk failed once; from then on only memory is used.
    disk_failed: bool,
    /// Pieces taken so far.
    taken: u64,
    /// What `taken` was when patience with the receiver last ended.
    patience_ended_at: Option<u64>,
    producer_gone: bool,
    consumer_gone: bool,
}

struct Shared<M> {
    limits: SpoolLimits,
    state: Mutex<State<M>>,
    filled: Notify,
    drained: Notify,
}

impl<M> Shared<M> {
    fn lock(&self) -> MutexGuard<'_, State<M>> {
        // Every critical section leaves the state consistent, so a panic elsewhere is harmless.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The sending end. Dropping it ends the queue after what is in it.
pub struct Producer<M>(Arc<Shared<M>>);

/// The receiving end. After it is dropped, everything sent is discarded at once.
pub struct Consumer<M>(Arc<Shared<M>>);

/// Makes a queue.
pub fn spool<M>(limits: SpoolLimits) -> (Producer<M>, Consumer<M>) {
    let shared = Arc::new(Shared {
        limits,
        state: Mutex::new(State {
            entries: VecDeque::new(),
            memory: 0,
            disk: 0,
            tail: 0,
            file: None,
            disk_failed: false,
            taken: 0,
            patience_ended_at: None,
            producer_gone: false,
            consumer_gone: false,
        }),
        filled: Notify::new(),
        drained: Notify::new(),
    });
    (Producer(shared.clone()), Consumer(shared))
}

enum Place {
    Memory,
    Full,
    Discard,
}

impl<M> Producer<M> {
    /// Queues a piece. Waits only while both memory and disk are full.
    pub async fn push(&self, piece: Piece<M>) {
        let (stream, bytes) = match piece {
            Piece::Bytes(stream, bytes) => (stream, bytes),
            mark @ Piece::Mark(_) => {
                self.0.lock().entries.push_back(Entry::Memory(mark));
                self.0.filled.notify_one();
                return;
            }
        };
        if bytes.is_empty() {
            return;
        }
        loop {
            match self.place(bytes.len()) {
                Place::Discard => return,
                Place::Memory => {
                    let mut state = self.0.lock();
                    state.memory += bytes.len() + OVERHEAD;
                    state.entries.push_back(Entry::Memory(Piece::Bytes(stream, bytes)));
                    break;
                }
                Place::Full => {}
            }
            if self.receiver_makes_room().await {
                continue;
            }
            let Some(start) = self.reserve_disk(bytes.len() as u64) else {
                self.0.drained.notified().await;
                continue;
            };
            match self.write(start, bytes.clone()).await {
                Ok(file) => {
                    self.record(file, stream, start, bytes.len() as u64);
                    break;
                }
                Err(error) => {
                    warn!(
                        directory = %self.0.limits.directory.display(),
                        %error,
                        "cannot spool to disk, a slow receiver will hold up its connection"
                    );
                    self.0.limits.budget.give_back(bytes.len() as u64);
                    self.0.lock().disk_failed = true;
                }
            }
        }
        self.0.filled.notify_one();
    }

    fn place(&self, len: usize) -> Place {
        let state = self.0.lock();
        if state.consumer_gone {
            Place::Discard
        } else if state.disk == 0
            && (state.memory == 0 || state.memory + len + OVERHEAD <= self.0.limits.memory)
        {
            Place::Memory
        } else {
            Place::Full
        }
    }

    /// Waits for the receiver to take something; `false`: it does not, or others suffer.
    async fn receiver_makes_room(&self) -> bool {
        let patience = &self.0.limits.patience;
        if !patience.is_any() {
            return false;
        }
        {
            let state = self.0.lock();
            let taken_nothing_since = state.patience_ended_at == Some(state.taken);
            // To wait until all of a file was read back would be long.
            if taken_nothing_since || (state.disk > 0 && patience.others_wait()) {
                return false;
            }
        }
        tokio::select! {
            () = self.0.drained.notified() => true,
            () = patience.ends(Instant::now()) => {
                let mut state = self.0.lock();
                state.patience_ended_at = Some(state.taken);
                false
            }
        }
    }

    /// The offset at which `len` bytes may be written; `None` past the cap or without a disk.
    fn reserve_disk(&self, len: u64) -> Option<u64> {
        let state = self.0.lock();
        let limits = &self.0.limits;
        let fits = !state.disk_failed && state.disk + len <= limits.disk;
        (fits && limits.budget.take(len)).then_some(state.tail)
    }

    async fn write(&self, start: u64, bytes: Bytes) -> io::Result<Arc<File>> {
        let file = self.0.lock().file.clone();
        let directory = self.0.limits.directory.clone();
        let ring = self.0.limits.disk;
        tokio::task::spawn_blocking(move || {
            let file = match file {
                Some(file) => file,
                None => Arc::new(tempfile::tempfile_in(directory)?),
            };
            let at = start % ring;
            let until_wrap = usize::try_from(ring - at).unwrap_or(usize::MAX).min(bytes.len());
            file.write_all_at(&bytes[..until_wrap], at)?;
            file.write_all_at(&bytes[until_wrap..], 0)?;
            Ok(file)
        })
        .await
        .map_err(io::Error::other)?
    }

    fn record(&self, file: Arc<File>, stream: Stream, start: u64, len: u64) {
        let mut state = self.0.lock();
        if state.consumer_gone {
            self.0.limits.budget.give_back(len);
            return;
        }
        state.file = Some(file);
        state.tail = start + len;
        state.disk += len;
        match state.entries.back_mut() {
            Some(Entry::Disk { stream: last, len: last_len, .. }) if *last == stream => {
                *last_len += len;
            }
            _ => state.entries.push_back(Entry::Disk { stream, start, len }),
        }
    }
}

impl<M> Drop for Producer<M> {
    fn drop(&mut self) {
        self.0.lock().producer_gone = true;
        self.0.filled.notify_one();
    }
}

enum Next<M> {
    Piece(Piece<M>),
    Read { file: Arc<File>, stream: Stream, start: u64, len: usize },
    Empty,
    End,
}

impl<M> Consumer<M> {
    /// The next piece, `None` after the last. Dropping the future loses nothing.
    ///
    /// # Errors
    /// What was written to disk cannot be read back: the stream is broken.
    pub async fn pop(&mut self) -> io::Result<Option<Piece<M>>> {
        loop {
            match self.next() {
                Next::Piece(piece) => {
                    self.0.drained.notify_one();
                    return Ok(Some(piece));
                }
                Next::Read { file, stream, start, len } => {
                    let bytes = self.read(file, start, len).await?;
                    self.forget(len as u64);
                    self.0.drained.notify_one();
                    return Ok(Some(Piece::Bytes(stream, bytes)));
                }
                Next::End => return Ok(None),
                Next::Empty => self.0.filled.notified().await,
            }
        }
    }

    /// Puts bytes back at the front, to be popped next.
    pub fn unpop(&mut self, stream: Stream, bytes: Bytes) {
        if bytes.is_empty() {
            return;
        }
        let mut state = self.0.lock();
        state.memory += bytes.len() + OVERHEAD;
        state.entries.push_front(Entry::Memory(Piece::Bytes(stream, bytes)));
    }

    /// Drops all bytes that wait now; marks stay.
    pub fn discard_queued(&mut self) {
        let mut state = self.0.lock();
        state.entries.retain(|entry| matches!(entry, Entry::Memory(Piece::Mark(_))));
        state.memory = 0;
        self.0.limits.budget.give_back(std::mem::take(&mut state.disk));
        state.tail = 0;
        drop(state);
        self.0.drained.notify_one();
    }

    fn next(&mut self) -> Next<M> {
        let mut state = self.0.lock();
        match state.entries.front() {
            Some(Entry::Memory(_)) => {}
            Some(&Entry::Disk { stream, start, len }) => {
                let Some(file) = state.file.clone() else {
                    return Next::End;
                };
                let len = usize::try_from(len).unwrap_or(DISK_READ).min(DISK_READ);
                return Next::Read { file, stream, start, len };
            }
            None if state.producer_gone => return Next::End,
            None => return Next::Empty,
        }
        match state.entries.pop_front() {
            Some(Entry::Memory(piece)) => {
                if let Piece::Bytes(_, bytes) = &piece {
                    state.memory -= bytes.len() + OVERHEAD;
                }
                state.taken += 1;
                Next::Piece(piece)
            }
            _ => Next::Empty,
        }
    }

    async fn read(&self, file: Arc<File>, start: u64, len: usize) -> io::Result<Bytes> {
        let ring = self.0.limits.disk;
        tokio::task::spawn_blocking(move || {
            let mut bytes = vec![0; len];
            let at = start % ring;
            let until_wrap = usize::try_from(ring - at).unwrap_or(usize::MAX).min(len);
            file.read_exact_at(&mut bytes[..until_wrap], at)?;
            file.read_exact_at(&mut bytes[until_wrap..], 0)?;
            Ok(Bytes::from(bytes))
        })
        .await
        .map_err(io::Error::other)?
    }

    /// Takes `read` bytes off the disk entry at the front.
    fn forget(&mut self, read: u64) {
        let mut state = self.0.lock();
        state.disk -= read;
        state.taken += 1;
        self.0.limits.budget.give_back(read);
        if let Some(Entry::Disk { start, len, .. }) = state.entries.front_mut() {
            *start += read;
            *len -= read;
            if *len == 0 {
                state.entries.pop_front();
            }
        }
        if state.disk == 0 {
            // Gives the space back; the next spill starts a new file.
            state.file = None;
            state.tail = 0;
        }
    }
}

impl<M> Drop for Consumer<M> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.consumer_gone = true;
        state.entries.clear();
        state.file = None;
        self.0.limits.budget.give_back(std::mem::take(&mut state.disk));
        drop(state);
        self.0.drained.notify_one();
    }
}

#[cfg(test)]
mod tests;
