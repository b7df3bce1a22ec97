//! Checks passwords, at the same cost whether or not there is such an account.

use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZero;
use std::sync::Arc;

use futures_util::future::join_all;
use tokio::sync::Semaphore;

use super::password_hash::{self, HashPasswordError, LONGEST_PASSWORD};
use crate::config::{Account, PasswordHash};
use crate::names::AccountName;

/// Whether a password (first) has a hash (second).
type Verify = dyn Fn(&str, &str) -> bool + Send + Sync;

/// The accounts' password hashes.
pub(super) struct Passwords {
    hashes: BTreeMap<AccountName, PasswordHash>,
    /// Verified in place of a hash that does not exist; nobody knows its password.
    dummy: PasswordHash,
    /// A place per processor: hashing more at once only takes more memory.
    places: Arc<Semaphore>,
    verify: Arc<Verify>,
}

impl fmt::Debug for Passwords {
    /// Names the accounts only.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.hashes.keys()).finish()
    }
}

impl Passwords {
    pub(super) fn new(
        accounts: &BTreeMap<AccountName, Account>,
    ) -> Result<Self, HashPasswordError> {
        Self::with_verify(accounts, Arc::new(password_hash::verify))
    }

    fn with_verify(
        accounts: &BTreeMap<AccountName, Account>,
        verify: Arc<Verify>,
    ) -> Result<Self, HashPasswordError> {
        let hashes = accounts
            .iter()
            .filter_map(|(name, account)| Some((name.clone(), account.password.clone()?)))
            .collect();
        let processors = std::thread::available_parallelism().map_or(1, NonZero::get);
        // Any text does: what counts is that its hash costs what a real one costs.
        let dummy = PasswordHash::new(password_hash::hash_password("no account's password")?);
        Ok(Self { hashes, dummy, places: Arc::new(Semaphore::new(processors)), verify })
    }

    /// Whether any account has a password.
    pub(super) fn is_empty(&self) -> bool {
        self.hashes.is_empty()
    }

    /// The account whose password this is; `None` if it is wrong, or if several have it and
    /// `claimed` does not say which. At least one hash is verified in every case.
    pub(super) async fn account(
        &self,
        claimed: Option<&AccountName>,
        password: &str,
    ) -> Option<AccountName> {
        let mut candidates: Vec<_> = match claimed {
            Some(name) => self.hashes.get_key_value(name).into_iter().collect(),
            None => self.hashes.iter().collect(),
        };
        let fits = password.len() <= LONGEST_PASSWORD;
        let password: Arc<str> = if fits { password.into() } else { Arc::default() };
        if candidates.is_empty() {
            // The answer is of no interest, only the time that it takes.
            self.verify(&password, &self.dummy).await;
            return None;
        }
        let answers =
            join_all(candidates.iter().map(|(_, hash)| self.verify(&password, hash))).await;
        let mut answers = answers.into_iter();
        candidates.retain(|_| fits && answers.next() == Some(true));
        match candidates.as_slice() {
            [(name, _)] => Some((*name).clone()),
            _ => None,
        }
    }

    async fn verify(&self, password: &Arc<str>, hash: &PasswordHash) -> bool {
        let Ok(place) = Arc::clone(&self.places).acquire_owned().await else {
            return false;
        };
        let (password, hash) = (Arc::clone(password), hash.clone());
        let verify = Arc::clone(&self.verify);
        let hashing = tokio::task::spawn_blocking(move || {
            // Moved here, so that the place stays taken when the client does not wait.
            let _place = place;
            verify(&password, hash.expose())
        });
        hashing.await.unwrap_or_else(|err| {
            tracing::error!(%err, "a password could not be verified");
            false
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// Accounts whose "hash" is the password itself, and the log of what was verified.
    fn passwords(accounts: &[(&str, Option<&str>)]) -> (Passwords, Arc<Mutex<Vec<String>>>) {
        let accounts = accounts
            .iter()
            .map(|(name, password)| {
                let password = password.map(|text| PasswordHash::new(text.to_owned()));
                (name.parse().unwrap(), Account { password, allow: vec!["*".into()] })
            })
            .collect();
        let log = Arc::new(Mutex::new(Vec::new()));
        let verify = {
            let log = Arc::clone(&log);
            move |password: &str, hash: &str| {
                log.lock().unwrap().push(hash.to_owned());
                password == hash
            }
        };
        (Passwords::with_verify(&accounts, Arc::new(verify)).unwrap(), log)
    }

    async fn login(passwords: &Passwords, claimed: Option<&str>, password: &str) -> Option<String> {
        let claimed: Option<AccountName> = claimed.map(|name| name.parse().unwrap());
        let account = passwords.account(claimed.as_ref(), password).await;
        account.map(|name| name.to_string())
    }

    #[tokio::test]
    async fn the_right_password_gives_the_account() {
        let (passwords, _) = passwords(&[("alice", Some("a")), ("bob", Some("b"))]);
        assert_eq!(login(&passwords, Some("alice"), "a").await.as_deref(), Some("alice"));
        assert_eq!(login(&passwords, None, "b").await.as_deref(), Some("bob"));
        assert_eq!(login(&passwords, Some("alice"), "b").await, None);
        assert_eq!(login(&passwords, None, "c").await, None);
    }

    #[tokio::test]
    async fn a_shared_password_needs_the_account() {
        let (passwords, _) = passwords(&[("alice", Some("x")), ("bob", Some("x"))]);
        assert_eq!(login(&passwords, None, "x").await, None);
        assert_eq!(login(&passwords, Some("bob"), "x").await.as_deref(), Some("bob"));
    }

    #[tokio::test]
    async fn an_account_that_has_no_password_costs_one_verification_of_the_dummy() {
        let (passwords, log) = passwords(&[("alice", Some("a")), ("bob", None)]);
        for claimed in ["bob", "nobody"] {
            log.lock().unwrap().clear();
            assert_eq!(login(&passwords, Some(claimed), "a").await, None);
            assert_eq!(*log.lock().unwrap(), [passwords.dummy.expose()]);
        }
        log.lock().unwrap().clear();
        assert_eq!(login(&passwords, Some("alice"), "wrong").await, None);
        assert_eq!(*log.lock().unwrap(), ["a"]);
    }

    #[tokio::test]
    async fn no_accounts_at_all_cost_a_verification_too() {
        let (passwords, log) = passwords(&[]);
        assert!(passwords.is_empty());
        assert_eq!(login(&passwords, None, "a").await, None);
        assert_eq!(login(&passwords, Some("alice"), "a").await, None);
        assert_eq!(*log.lock().unwrap(), [passwords.dummy.expose(), passwords.dummy.expose()]);
    }

    #[tokio::test]
    async fn without_a_claim_every_hash_is_verified_even_after_a_match() {
        let accounts = [("alice", Some("a")), ("bob", Some("b")), ("carol", Some("c"))];
        let (passwords, log) = passwords(&accounts);
        assert_eq!(login(&passwords, None, "a").await.as_deref(), Some("alice"));
        let mut seen = log.lock().unwrap().clone();
        seen.sort();
        assert_eq!(seen, ["a", "b", "c"]);
    }

    #[tokio::test]
    async fn an_overlong_password_never_matches_and_costs_the_same() {
        let long = "x".repeat(LONGEST_PASSWORD + 1);
        let (passwords, log) = passwords(&[("alice", Some(&long)), ("bob", Some(""))]);
        assert_eq!(login(&passwords, Some("alice"), &long).await, None);
        assert_eq!(login(&passwords, Some("bob"), &long).await, None);
        assert_eq!(log.lock().unwrap().len(), 2);
    }

    #[tokio::test]
    async fn no_more_hashes_are_computed_at_once_than_there_are_places() {
        let running = Arc::new(AtomicUsize::new(0));
        let most = Arc::new(AtomicUsize::new(0));
        let verify = {
            let (running, most) = (Arc::clone(&running), Arc::clone(&most));
            move |_: &str, _: &str| {
                most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                std::thread::yield_now();
                running.fetch_sub(1, Ordering::SeqCst);
                false
            }
        };
        let hash = || Some(PasswordHash::new("h".into()));
        let accounts = (0..64)
            .map(|n| {
                let account = Account { password: hash(), allow: vec!["*".into()] };
                (format!("user{n}").parse().unwrap(), account)
            })
            .collect();
        let mut passwords = Passwords::with_verify(&accounts, Arc::new(verify)).unwrap();
        passwords.places = Arc::new(Semaphore::new(1));
        assert_eq!(login(&passwords, None, "x").await, None);
        assert_eq!(most.load(Ordering::SeqCst), 1);
    }
}
