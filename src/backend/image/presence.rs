//! Who works in which image, so that they can be told of each other.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use tokio::sync::watch;

use crate::backend::{Caller, in_words};
use crate::names::AccountName;

/// All containers in use.
#[derive(Default)]
pub(super) struct Presences {
    all: Arc<watch::Sender<Vec<Entry>>>,
    entered: AtomicU64,
}

/// A connection's container is in use; until this is dropped.
pub(super) struct Presence {
    number: u64,
    image: String,
    all: Arc<watch::Sender<Vec<Entry>>>,
}

struct Entry {
    number: u64,
    image: String,
    account: AccountName,
    peer: IpAddr,
    since: Instant,
    /// Its sessions have ended; what they changed is being saved.
    is_ending: bool,
}

impl Presences {
    /// Notes that the caller works in the image `OWNER/NAME:TAG`.
    pub(super) fn enter(&self, caller: &Caller, image: &str) -> Presence {
        let number = self.entered.fetch_add(1, Ordering::Relaxed);
        let entry = Entry {
            number,
            image: image.to_owned(),
            account: caller.account().clone(),
            peer: caller.peer.ip(),
            since: Instant::now(),
            is_ending: false,
        };
        self.all.send_modify(|all| all.push(entry));
        Presence { number, image: image.to_owned(), all: Arc::clone(&self.all) }
    }

    /// Waits until nothing is being saved any more that the account changed in the image: a client
    /// may be done, and come again, before its changes are saved. Returns whether it waited.
    pub(super) async fn saved(&self, account: &AccountName, image: &str) -> bool {
        let is_saving =
            |entry: &Entry| entry.is_ending && entry.image == image && entry.account == *account;
        let mut all = self.all.subscribe();
        if !all.borrow_and_update().iter().any(is_saving) {
            return false;
        }
        // An error is the end of the sender, which is ours.
        all.wait_for(|all| !all.iter().any(is_saving)).await.is_ok()
    }
}

impl Presence {
    /// Its sessions have ended, and it goes as soon as what they changed is saved.
    pub(super) fn ends(&self) {
        self.set_ending(true);
    }

    /// Nothing was changed, and its container waits for further sessions.
    pub(super) fn goes_on(&self) {
        self.set_ending(false);
    }

    fn set_ending(&self, is_ending: bool) {
        self.all.send_modify(|all| {
            for entry in all.iter_mut().filter(|entry| entry.number == self.number) {
                entry.is_ending = is_ending;
            }
        });
    }

    /// Who else works in the same image, in containers of their own: a line for each.
    pub(super) fn others(&self, shown: &str) -> Vec<String> {
        let all = self.all.borrow();
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
        self.all.send_modify(|all| all.retain(|entry| entry.number != self.number));
    }
}
