//! Who works in which image, so that they can be told of each other.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use crate::backend::{Caller, in_words};
use crate::names::AccountName;

/// All containers in use.
#[derive(Default)]
pub(super) struct Presences {
    all: Arc<Mutex<Vec<Entry>>>,
    entered: AtomicU64,
}

/// A connection's container is in use; until this is dropped.
pub(super) struct Presence {
    number: u64,
    image: String,
    all: Arc<Mutex<Vec<Entry>>>,
}

struct Entry {
    number: u64,
    image: String,
    account: AccountName,
    peer: IpAddr,
    since: Instant,
}

impl Presences {
    /// Notes that the caller works in the image `OWNER/NAME:TAG`.
    pub(super) fn enter(&self, caller: &Caller, image: &str) -> Presence {
        let number = self.entered.fetch_add(1, Ordering::Relaxed);
        self.all.lock().unwrap_or_else(PoisonError::into_inner).push(Entry {
            number,
            image: image.to_owned(),
            account: caller.account().clone(),
            peer: caller.peer.ip(),
            since: Instant::now(),
        });
        Presence { number, image: image.to_owned(), all: Arc::clone(&self.all) }
    }
}

impl Presence {
    /// Who else works in the same image, in containers of their own: a line for each.
    pub(super) fn others(&self, shown: &str) -> Vec<String> {
        let all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter()
            .filter(|entry| entry.image == self.image && entry.number != self.number)
            .map(|entry| {
                format!(
                    "Note: image {shown} is open in another session too: by {} from {}, for {}.",
                    entry.account,
                    entry.peer,
                    in_words(entry.since.elapsed()),
                )
            })
            .collect()
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|entry| entry.number != self.number);
    }
}
