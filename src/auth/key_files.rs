//! The files that say which keys are whose: `accounts_dir` and `trusted_user_ca`.
//!
//! They are read again when one of them changes, which is noticed at the next use: a key that
//! was removed does not work once more.

use std::collections::HashMap;
use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use russh::keys::HashAlg;
use russh::keys::ssh_key::Fingerprint;
use russh::keys::ssh_key::public::KeyData;

use super::authorized_keys::{self, Entry};
use crate::names::AccountName;

/// A file beyond this size does not hold keys.
const LARGEST_FILE: u64 = 1 << 20;

/// What the files said when they were last read.
#[derive(Debug, Default)]
pub(super) struct Keys {
    /// The entries of each key, by account, in the order of the account's file.
    listed: HashMap<KeyData, Vec<(AccountName, Entry)>>,
    /// The same of the entries with `cert-authority`, whose keys log nobody in.
    account_authorities: HashMap<KeyData, Vec<(AccountName, Entry)>>,
    /// Fingerprints of the trusted certification authorities.
    authorities: Vec<Fingerprint>,
    /// Files and lines that are ignored, each in one line of text.
    problems: Vec<String>,
}

impl Keys {
    /// Where a key is listed.
    pub(super) fn entries(&self, key: &KeyData) -> &[(AccountName, Entry)] {
        self.listed.get(key).map_or(&[], Vec::as_slice)
    }

    /// Where a key is listed as a certification authority of an account.
    pub(super) fn authority_entries(&self, key: &KeyData) -> &[(AccountName, Entry)] {
        self.account_authorities.get(key).map_or(&[], Vec::as_slice)
    }

    /// Whether any certificate can be good.
    pub(super) fn trust_certificates(&self) -> bool {
        !self.authorities.is_empty() || !self.account_authorities.is_empty()
    }

    pub(super) fn authorities(&self) -> &[Fingerprint] {
        &self.authorities
    }

    pub(super) fn problems(&self) -> &[String] {
        &self.problems
    }
}

/// The files, and what they said.
#[derive(Debug)]
pub(super) struct KeyFiles {
    accounts_dir: Option<PathBuf>,
    trusted_user_ca: Option<PathBuf>,
    last: Mutex<Reading>,
}

/// What was read, and when it has to be read again.
#[derive(Debug, Default)]
struct Reading {
    keys: Arc<Keys>,
    stamps: Stamps,
    /// Whether a later change is certain to change a stamp.
    settled: bool,
}

/// What tells a changed file from an unchanged one.
#[derive(Debug, Default, PartialEq, Eq)]
struct Stamps(Vec<(PathBuf, Option<Stamp>)>);

#[derive(Debug, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    size: u64,
    mode: u32,
    /// Status change time in seconds and nanoseconds: moves with every write, even one that sets
    /// the modification time back.
    changed: (i64, i64),
}

impl Stamp {
    fn of(path: &Path) -> Option<Self> {
        let metadata = fs::metadata(path).ok()?;
        Some(Self {
            inode: metadata.ino(),
            size: metadata.size(),
            mode: metadata.mode(),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        })
    }
}

impl Stamps {
    /// File systems keep time in steps of up to two seconds. Two changes within one step leave
    /// the same stamp, so one that is younger proves nothing.
    fn are_older_than_a_step(&self) -> bool {
        const STEP: i64 = 2;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).ok();
        let now = now.and_then(|since| i64::try_from(since.as_secs()).ok()).unwrap_or(0);
        self.0.iter().all(|(_, stamp)| {
            stamp.as_ref().is_none_or(|stamp| stamp.changed.0.saturating_add(STEP) < now)
        })
    }
}

impl KeyFiles {
    /// Reads the files. Blocks on the file system.
    pub(super) fn open(accounts_dir: Option<PathBuf>, trusted_user_ca: Option<PathBuf>) -> Self {
        let files = Self { accounts_dir, trusted_user_ca, last: Mutex::default() };
        files.refresh();
        files
    }

    /// What the files say now. They are looked at on a thread that may block.
    pub(super) async fn current(self: &Arc<Self>) -> Arc<Keys> {
        if self.accounts_dir.is_none() && self.trusted_user_ca.is_none() {
            return Arc::default();
        }
        let files = Arc::clone(self);
        tokio::task::spawn_blocking(move || files.refresh()).await.unwrap_or_else(|err| {
            tracing::error!(%err, "the key files could not be read");
            Arc::default()
        })
    }

    /// Whether there are files that public keys may be in.
    pub(super) fn is_configured(&self) -> bool {
        self.accounts_dir.is_some() || self.trusted_user_ca.is_some()
    }

    /// Reads the files if they changed. Blocks on the file system.
    pub(super) fn refresh(&self) -> Arc<Keys> {
        // Nothing panics while it is held; if ever, what is in there is still whole.
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        // Taken before reading: what changes meanwhile is noticed the next time.
        let stamps = self.stamps();
        if !last.settled || last.stamps != stamps {
            let settled = stamps.are_older_than_a_step();
            let keys = Arc::new(self.read_all());
            for problem in keys.problems.iter().filter(|new| !last.keys.problems.contains(new)) {
                tracing::warn!("{problem}");
            }
            *last = Reading { keys, stamps, settled };
        }
        Arc::clone(&last.keys)
    }

    fn stamps(&self) -> Stamps {
        let mut paths: Vec<PathBuf> =
            self.accounts_dir.iter().chain(&self.trusted_user_ca).cloned().collect();
        if let Some(dir) = &self.accounts_dir {
            // That it cannot be listed is reported by reading it.
            paths.extend(account_files(dir).unwrap_or_default());
        }
        let with_stamp = |path: PathBuf| {
            let stamp = Stamp::of(&path);
            (path, stamp)
        };
        Stamps(paths.into_iter().map(with_stamp).collect())
    }

    fn read_all(&self) -> Keys {
        let mut keys = Keys::default();
        if let Some(dir) = &self.accounts_dir {
            read_accounts(dir, &mut keys);
        }
        if let Some(file) = &self.trusted_user_ca {
            read_authorities(file, &mut keys);
        }
        keys
    }
}

/// The `*.pub` files of a directory, sorted.
fn account_files(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "pub") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn read_accounts(dir: &Path, keys: &mut Keys) {
    let files = fs::metadata(dir)
        .and_then(|metadata| safe_mode(&metadata))
        .and_then(|()| account_files(dir));
    let files = match files {
        Ok(files) => files,
        Err(err) => {
            keys.problems.push(format!("{}: no account has a public key: {err}", dir.display()));
            return;
        }
    };
    for path in files {
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        let account: AccountName = match name.parse() {
            Ok(account) => account,
            Err(err) => {
                keys.problems.push(format!("{}: ignored: {err}", path.display()));
                continue;
            }
        };
        let text = match read_text(&path) {
            Ok(text) => text,
            Err(err) => {
                keys.problems.push(format!("{}: ignored: {err}", path.display()));
                continue;
            }
        };
        let (entries, errors) = authorized_keys::parse(&text);
        for entry in entries {
            let keys = match entry.is_authority() {
                true => &mut keys.account_authorities,
                false => &mut keys.listed,
            };
            let listed = keys.entry(entry.key.key_data().clone()).or_default();
            listed.push((account.clone(), entry));
        }
        for (line, err) in errors {
            keys.problems.push(format!("{}:{line}: {err}", path.display()));
        }
    }
}

fn read_authorities(path: &Path, keys: &mut Keys) {
    let text = match read_text(path) {
        Ok(text) => text,
        Err(err) => {
            keys.problems.push(format!("{}: no certificate is trusted: {err}", path.display()));
            return;
        }
    };
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        match authorized_keys::parse_key(line) {
            Ok(key) => keys.authorities.push(key.fingerprint(HashAlg::Sha256)),
            Err(err) => {
                keys.problems.push(format!("{}:{}: {err}", path.display(), index + 1));
            }
        }
    }
}

/// Reads a file of keys, unless others than its owner could have written it.
fn read_text(path: &Path) -> io::Result<String> {
    // Looked at before it is opened: opening a named pipe would wait for its other end.
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    let file = File::open(path)?;
    safe_mode(&file.metadata()?)?;
    let mut bytes = Vec::new();
    file.take(LARGEST_FILE + 1).read_to_end(&mut bytes)?;
    if u64::try_from(bytes.len()).is_ok_and(|length| length > LARGEST_FILE) {
        return Err(io::Error::other("it is larger than 1 MiB"));
    }
    // Comments may be in any encoding.
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// As StrictModes of sshd_config(5).
fn safe_mode(metadata: &Metadata) -> io::Result<()> {
    if metadata.mode() & 0o022 == 0 {
        Ok(())
    } else {
        Err(io::Error::other("others than its owner may write to it; chmod go-w it"))
    }
}
