//! The administrator says that a node's new host key is the right one.
//!
//! The key is told by its fingerprint and asked of the node again, so that no other than the one
//! that was looked at is recorded. It goes into the gateway's own file, under the node's name:
//! files of other programs are left as they are.

use std::borrow::Cow;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use russh::client::Config;
use russh::keys::{HashAlg, PublicKey, PublicKeyOrCertificate};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::host_key::{HostKeys, OwnHostKeys, lock};
use crate::backend::NodeFailure;
use crate::inventory::NodeRecord;
use crate::ssh::algorithms;

/// What was done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accepted {
    /// The file in which the key is recorded now.
    pub recorded_in: PathBuf,
    /// Other keys that the node may still present, `FILE:LINE`.
    pub still_accepted: Vec<String>,
}

/// Why a key was not accepted.
#[derive(Debug, thiserror::Error)]
pub enum AcceptError {
    /// The node is on no network that may be connected to.
    #[error("its address {0} is outside the networks this gateway may connect to")]
    AddressRefused(std::net::IpAddr),
    /// The node did not present a key.
    #[error("its host key cannot be asked for: {0}")]
    NoKey(String),
    /// It presents another key than the one given.
    #[error(
        "it presents {presented}, not {expected}; compare that with the node's own \
         (ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub) before you accept it"
    )]
    OtherKey {
        /// Fingerprint of the key that the node presents now.
        presented: String,
        /// The fingerprint given.
        expected: String,
    },
    /// The key cannot be recorded.
    #[error("cannot record its key in {}: {source}", file.display())]
    Record {
        /// The gateway's own file.
        file: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Records the key that the node presents if its SHA-256 fingerprint is `expected`, in place of
/// the gateway's own. TCP and the key exchange are each bounded by `connect_seconds`.
///
/// # Errors
/// Nothing was changed.
pub async fn accept_host_key(
    node: &NodeRecord,
    own: &OwnHostKeys,
    expected: &str,
) -> Result<Accepted, AcceptError> {
    if !node.is_on_allowed_network() {
        return Err(AcceptError::AddressRefused(node.address.ip()));
    }
    let known = HostKeys::read(node, own).map_err(|failure| match failure {
        NodeFailure::Handshake(reason) => AcceptError::NoKey(reason),
        other => AcceptError::NoKey(format!("{other:?}")),
    })?;
    let key = presented_key(node, &known).await.map_err(AcceptError::NoKey)?;
    let presented = key.fingerprint(HashAlg::Sha256).to_string();
    if presented != expected {
        return Err(AcceptError::OtherKey { presented, expected: expected.to_owned() });
    }
    replace_recorded(&own.file, node.name.as_str(), &key)
        .map_err(|source| AcceptError::Record { file: own.file.clone(), source })?;
    Ok(Accepted { recorded_in: own.file.clone(), still_accepted: known.others(&key, &own.file) })
}

/// Goes as far into a handshake as it takes to be shown the host key.
async fn presented_key(node: &NodeRecord, known: &HostKeys) -> Result<PublicKey, String> {
    let bound = node.options.connect;
    let no_answer = |_| format!("no answer within {} s", bound.as_secs());
    let stream = timeout(bound, TcpStream::connect(node.address))
        .await
        .map_err(no_answer)?
        .map_err(|error| format!("cannot connect: {error}"))?;
    let mut preferred = algorithms::preferred();
    preferred.key = Cow::Owned(known.preferred_algorithms(&preferred.key));
    let config = Config { client_id: algorithms::identification(), preferred, ..Config::default() };
    let seen = Seen::default();
    let connecting = russh::client::connect_stream(Arc::new(config), stream, seen.clone());
    let ended = timeout(bound, connecting).await.map_err(no_answer)?;
    let key = seen.0.lock().unwrap_or_else(PoisonError::into_inner).take();
    key.ok_or_else(|| match ended {
        Ok(_) => "it presented none".to_owned(),
        Err(error) => error.to_string(),
    })
}

/// Keeps the key that is presented, and goes no further.
#[derive(Clone, Default)]
struct Seen(Arc<Mutex<Option<PublicKey>>>);

impl russh::client::Handler for Seen {
    type Error = russh::Error;

    async fn check_server_key(
        &mut self,
        presented: &PublicKeyOrCertificate,
    ) -> Result<bool, Self::Error> {
        let key = presented.public_key();
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(key);
        Ok(false)
    }
}

/// Has `file` hold this key alone for the name. A reader finds the old file or the new one.
fn replace_recorded(file: &Path, name: &str, key: &PublicKey) -> io::Result<()> {
    let directory = file.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(directory)?;
    let _locked = lock(file)?;
    let before = match fs::read_to_string(file) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(error),
    };
    let mut new = tempfile::NamedTempFile::new_in(directory)?;
    for line in before.lines().filter(|line| line.split_whitespace().next() != Some(name)) {
        writeln!(new, "{line}")?;
    }
    let key = key.to_openssh().map_err(io::Error::other)?;
    writeln!(new, "{name} {key}")?;
    // The gateway may run as another user than the administrator.
    let like = fs::metadata(file).or_else(|_| fs::metadata(directory))?;
    std::os::unix::fs::fchown(new.as_file(), Some(like.uid()), Some(like.gid()))?;
    new.as_file().sync_all()?;
    new.persist(file)?;
    Ok(())
}
