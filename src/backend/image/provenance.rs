//! Who saved an image, from where and when: written into its history, and read from there.

use std::time::SystemTime;

use super::engine::HistoryEntry;
use crate::backend::ago;

/// Starts the "created by" of a save, before the gateway's identifier.
const MADE_BY: &str = "waltgate ";

/// What a save notes in the history of its image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Provenance {
    /// The name that it was saved under, `OWNER/NAME:TAG`.
    pub(super) fullname: String,
    /// Who.
    pub(super) account: String,
    /// The client's address.
    pub(super) peer: String,
    /// The name of the container.
    pub(super) container: String,
}

impl Provenance {
    /// The "created by" of saves by the gateway.
    pub(super) fn created_by(gateway: &str) -> String {
        format!("{MADE_BY}{gateway}")
    }

    /// The comment.
    pub(super) fn comment(&self) -> String {
        let Self { fullname, account, peer, container } = self;
        format!("saved as {fullname} by {account} from {peer}, container {container}")
    }

    /// What a save noted, if the entry is of one.
    pub(super) fn of(entry: &HistoryEntry) -> Option<Self> {
        if !entry.created_by.starts_with(MADE_BY) {
            return None;
        }
        let (fullname, rest) = entry.comment.strip_prefix("saved as ")?.split_once(" by ")?;
        let (account, rest) = rest.split_once(" from ")?;
        let (peer, container) = rest.split_once(", container ")?;
        Some(Self {
            fullname: fullname.to_owned(),
            account: account.to_owned(),
            peer: peer.to_owned(),
            container: container.to_owned(),
        })
    }
}

/// Who made an image, from its history, newest first: "saved by bob from 192.0.2.7 3 min ago".
pub(super) fn last_saved(history: &[HistoryEntry]) -> Option<String> {
    let newest = history.first()?;
    let Provenance { account, peer, .. } = Provenance::of(newest)?;
    let age = SystemTime::now().duration_since(newest.created).unwrap_or_default();
    // From an image that anyone may have made: not trusted to be plain text.
    Some(format!("saved by {} from {} {}", account.escape_debug(), peer.escape_debug(), ago(age)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_save_notes_is_read_again() {
        let provenance = Provenance {
            fullname: "bob/pc:latest".to_owned(),
            account: "bob".to_owned(),
            peer: "2001:db8::7".to_owned(),
            container: "waltgate-0123-4".to_owned(),
        };
        let mut entry = HistoryEntry {
            created: SystemTime::now(),
            created_by: Provenance::created_by("0123456789abcdef"),
            comment: provenance.comment(),
        };
        assert_eq!(Provenance::of(&entry), Some(provenance));
        let told = last_saved(std::slice::from_ref(&entry)).unwrap();
        assert_eq!(told, "saved by bob from 2001:db8::7 just now");
        entry.created_by = "RUN true".to_owned();
        assert_eq!(last_saved(&[entry]), None);
    }
}
