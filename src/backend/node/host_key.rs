//! Whether a node is the one it says it is.
//!
//! Recorded keys are looked up in the configured known_hosts file under the configured alias (all
//! nodes of a WalT platform share one host key) or the node's address, and in the gateway's own
//! file under the node's name, where `accept-new` records what it sees first.

use std::fs::File;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use russh::keys::known_hosts::{known_host_keys_path, learn_known_hosts_path};
use russh::keys::{Algorithm, HashAlg, PublicKey};
use tracing::{info, warn};

use crate::backend::NodeFailure;
use crate::config::{DEFAULT_FILE, HostKeyPolicy};
use crate::inventory::NodeRecord;

/// Two first sights at once must not both be recorded.
static RECORDING: Mutex<()> = Mutex::new(());

/// The port under which names without a port are recorded.
const DEFAULT_PORT: u16 = 22;

/// The gateway's own file of host keys, and how its administrator accepts one.
#[derive(Debug, Clone)]
pub struct OwnHostKeys {
    pub(super) file: PathBuf,
    config: PathBuf,
}

impl OwnHostKeys {
    /// `config` is the configuration file, as the command is to name it.
    pub fn new(file: PathBuf, config: PathBuf) -> Self {
        Self { file, config }
    }

    /// What the administrator pastes into a shell.
    fn command_to_accept(&self, node: &str, fingerprint: &str) -> String {
        let command = format!("waltgate accept-host-key {node} {fingerprint}");
        if self.config == Path::new(DEFAULT_FILE) {
            return command;
        }
        let config = self.config.display().to_string().replace('\'', r"'\''");
        format!("{command} -c '{config}'")
    }
}

/// What is known of a node's host keys, read before connecting to it.
#[derive(Debug, Clone)]
pub(super) struct HostKeys {
    policy: HostKeyPolicy,
    node: String,
    known_hosts: PathBuf,
    own: OwnHostKeys,
    recorded: Vec<Recorded>,
}

#[derive(Debug, Clone)]
struct Recorded {
    key: PublicKey,
    file: PathBuf,
    line: usize,
}

impl HostKeys {
    /// Reads the files. Blocks on the disk.
    pub(super) fn read(node: &NodeRecord, own: &OwnHostKeys) -> Result<Self, NodeFailure> {
        let options = &node.options;
        let mut recorded = match &options.host_key_alias {
            Some(alias) => look_up(alias, DEFAULT_PORT, &options.known_hosts)?,
            None => {
                let address = node.address.ip().to_string();
                look_up(&address, node.address.port(), &options.known_hosts)?
            }
        };
        recorded.extend(look_up(node.name.as_str(), DEFAULT_PORT, &own.file)?);
        Ok(Self {
            policy: options.host_key_policy,
            node: node.name.to_string(),
            known_hosts: options.known_hosts.clone(),
            own: own.clone(),
            recorded,
        })
    }

    /// The algorithms to ask the node for: those of recorded keys first, as ssh(1) does, or a node
    /// with several keys would present one that nobody recorded.
    pub(super) fn preferred_algorithms(&self, offered: &[Algorithm]) -> Vec<Algorithm> {
        let recorded = |algorithm: &Algorithm| {
            self.recorded.iter().any(|recorded| same_kind(&recorded.key.algorithm(), algorithm))
        };
        let (mut first, rest): (Vec<_>, Vec<_>) = offered.iter().cloned().partition(recorded);
        first.extend(rest);
        first
    }

    /// The places, `FILE:LINE`, of other keys than this that are recorded elsewhere than in `file`.
    pub(super) fn others(&self, key: &PublicKey, file: &Path) -> Vec<String> {
        self.recorded
            .iter()
            .filter(|recorded| recorded.file != file && recorded.key.key_data() != key.key_data())
            .map(|recorded| format!("{}:{}", recorded.file.display(), recorded.line))
            .collect()
    }

    /// Judges the key that the node presents. May record it; blocks on the disk then.
    pub(super) fn judge(&self, presented: &PublicKey) -> Result<(), NodeFailure> {
        if self.recorded.iter().any(|recorded| recorded.key.key_data() == presented.key_data()) {
            return Ok(());
        }
        let fingerprint = presented.fingerprint(HashAlg::Sha256).to_string();
        if self.policy == HostKeyPolicy::Off {
            return Ok(());
        }
        let same_kind_recorded = self
            .recorded
            .iter()
            .find(|recorded| same_kind(&recorded.key.algorithm(), &presented.algorithm()))
            .or_else(|| self.recorded.first());
        match (same_kind_recorded, self.policy) {
            (Some(recorded), _) => Err(self.changed(recorded, fingerprint)),
            (None, HostKeyPolicy::AcceptNew) => self.accept(presented, &fingerprint),
            (None, _) => Err(NodeFailure::HostKeyUnknown {
                known_hosts: self.known_hosts.display().to_string(),
                accept: self.own.command_to_accept(&self.node, &fingerprint),
                fingerprint,
            }),
        }
    }

    fn changed(&self, recorded: &Recorded, fingerprint: String) -> NodeFailure {
        NodeFailure::HostKeyChanged {
            recorded: format!("{}:{}", recorded.file.display(), recorded.line),
            accept: self.own.command_to_accept(&self.node, &fingerprint),
            fingerprint,
        }
    }

    fn accept(&self, key: &PublicKey, fingerprint: &str) -> Result<(), NodeFailure> {
        let _one_at_a_time = RECORDING.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let locked = lock(&self.own.file);
        if let Err(error) = &locked {
            warn!(file = %self.own.file.display(), %error, "cannot lock the file of host keys");
        }
        // Another connection may have recorded a key since ours was begun.
        let recorded = look_up(&self.node, DEFAULT_PORT, &self.own.file)?;
        if let Some(recorded) = recorded.first() {
            if recorded.key.key_data() == key.key_data() {
                return Ok(());
            }
            return Err(self.changed(recorded, fingerprint.to_owned()));
        }
        info!(node = self.node, fingerprint, "recording the host key seen first");
        if let Err(error) = learn_known_hosts_path(&self.node, DEFAULT_PORT, key, &self.own.file) {
            // The node is used all the same: refusing it would not make it any safer.
            warn!(file = %self.own.file.display(), %error, "cannot record a host key");
        }
        Ok(())
    }
}

/// Keeps other processes from changing a file of recorded keys, until the result is dropped: the
/// administrator's command replaces what the gateway adds to. Blocks.
pub(super) fn lock(file: &Path) -> io::Result<File> {
    let mut name = file.as_os_str().to_owned();
    name.push(".lock");
    let lock = File::options().create(true).append(true).mode(0o600).open(name)?;
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive)?;
    Ok(lock)
}

fn look_up(host: &str, port: u16, file: &Path) -> Result<Vec<Recorded>, NodeFailure> {
    let keys = known_host_keys_path(host, port, file).map_err(|error| {
        NodeFailure::Handshake(format!("cannot read {}: {error}", file.display()))
    })?;
    Ok(keys.into_iter().map(|(line, key)| Recorded { key, file: file.to_owned(), line }).collect())
}

/// RSA keys are one kind, whatever hash signs with them.
fn same_kind(a: &Algorithm, b: &Algorithm) -> bool {
    match (a, b) {
        (Algorithm::Rsa { .. }, Algorithm::Rsa { .. }) => true,
        _ => a == b,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use russh::keys::PrivateKey;

    const ED25519: Algorithm = Algorithm::Ed25519;

    fn key() -> PublicKey {
        let private = PrivateKey::random(&mut rand::rng(), ED25519).unwrap();
        private.public_key().clone()
    }

    fn host_keys(policy: HostKeyPolicy, directory: &Path, recorded: &[&PublicKey]) -> HostKeys {
        let known_hosts = directory.join("known_hosts");
        let recorded = recorded
            .iter()
            .enumerate()
            .map(|(at, key)| Recorded {
                key: (*key).clone(),
                file: known_hosts.clone(),
                line: at + 1,
            })
            .collect();
        HostKeys {
            policy,
            node: "rpi1".into(),
            known_hosts,
            own: OwnHostKeys::new(directory.join("accepted"), directory.join("it's.toml")),
            recorded,
        }
    }

    #[test]
    fn strict_takes_only_recorded_keys() {
        let directory = tempfile::tempdir().unwrap();
        let (known, other) = (key(), key());
        let strict = host_keys(HostKeyPolicy::Strict, directory.path(), &[&known]);
        assert_eq!(strict.judge(&known), Ok(()));
        assert!(matches!(
            strict.judge(&other),
            Err(NodeFailure::HostKeyChanged { recorded, accept, .. })
                if recorded.ends_with("known_hosts:1") && accept.ends_with(r"it'\''s.toml'")
        ));
        let empty = host_keys(HostKeyPolicy::Strict, directory.path(), &[]);
        assert!(matches!(empty.judge(&other), Err(NodeFailure::HostKeyUnknown { .. })));
    }

    #[test]
    fn accept_new_records_the_first_key_and_refuses_another() {
        let directory = tempfile::tempdir().unwrap();
        let (first, second) = (key(), key());
        let accepting = host_keys(HostKeyPolicy::AcceptNew, directory.path(), &[]);
        assert_eq!(accepting.judge(&first), Ok(()));
        assert_eq!(accepting.judge(&first), Ok(()));
        assert!(matches!(accepting.judge(&second), Err(NodeFailure::HostKeyChanged { .. })));
        let recorded = look_up("rpi1", 22, &directory.path().join("accepted")).unwrap();
        assert_eq!(recorded.len(), 1);
    }

    #[test]
    fn algorithms_of_recorded_keys_are_asked_for_first() {
        let directory = tempfile::tempdir().unwrap();
        let keys = host_keys(HostKeyPolicy::Strict, directory.path(), &[&key()]);
        let rsa = Algorithm::Rsa { hash: Some(HashAlg::Sha256) };
        assert_eq!(keys.preferred_algorithms(&[rsa.clone(), ED25519]), vec![ED25519, rsa]);
    }
}
