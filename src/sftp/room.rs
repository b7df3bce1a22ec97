//! How much may still be written beneath a root.

use std::fs::File;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::io::Errno;
use tokio::sync::Notify;

/// Bytes that files may take, shared by all who write them. Who knows what they take in truth sets
/// that now and then; what is written through a [`Root`](super::Root) is counted in between.
#[derive(Debug)]
pub struct Room {
    limit: u64,
    used: AtomicU64,
    refused: Notify,
}

impl Room {
    /// As much as this, of which nothing is used.
    pub fn new(limit: u64) -> Self {
        Self { limit, used: AtomicU64::new(0), refused: Notify::new() }
    }

    /// So many bytes are used, whatever was counted.
    pub fn set_used(&self, bytes: u64) {
        self.used.store(bytes, Ordering::Relaxed);
    }

    /// Resolves when something was refused since the last time.
    pub async fn refused(&self) {
        self.refused.notified().await;
    }

    fn take(&self, bytes: u64) -> Result<(), Errno> {
        let fitting = |used: u64| used.checked_add(bytes).filter(|used| *used <= self.limit);
        match self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fitting) {
            Ok(_) => Ok(()),
            Err(_) => {
                self.refused.notify_one();
                Err(Errno::DQUOT)
            }
        }
    }
}

/// Takes the room for a file that is to reach to `end`: also a hole takes its size, since it may be
/// saved as zeros.
pub(super) fn extend(room: Option<&Room>, file: &File, end: u64) -> Result<(), Errno> {
    let Some(room) = room else { return Ok(()) };
    let now = u64::try_from(rustix::fs::fstat(file)?.st_size).unwrap_or_default();
    match end.checked_sub(now) {
        Some(0) | None => Ok(()),
        Some(more) => room.take(more),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_for_what_files_grow_by() {
        let room = Room::new(100);
        let file = tempfile::tempfile().unwrap();
        file.set_len(50).unwrap();
        extend(Some(&room), &file, 40).unwrap();
        extend(Some(&room), &file, 150).unwrap();
        file.set_len(150).unwrap();
        assert_eq!(extend(Some(&room), &file, 151), Err(Errno::DQUOT));
        assert_eq!(extend(Some(&room), &file, u64::MAX), Err(Errno::DQUOT));
        room.set_used(90);
        extend(Some(&room), &file, 151).unwrap();
        extend(None, &file, u64::MAX).unwrap();
    }
}
