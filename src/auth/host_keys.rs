//! The gateway's own keys.

use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use russh::keys::key::safe_rng;
use russh::keys::ssh_key::LineEnding;
use russh::keys::ssh_key::private::RsaKeypair;
use russh::keys::{Algorithm, EcdsaCurve, PrivateKey, decode_secret_key, ssh_key};
use tempfile::NamedTempFile;

/// A file beyond this size is not a key.
const LARGEST_FILE: u64 = 1 << 16;

/// What NIST SP 800-57 puts on a level with ECDSA P-256 and Ed25519.
const RSA_BITS: usize = 3072;

/// Why a host key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum HostKeyError {
    /// The file is there, but cannot be read.
    #[error("host key {path} cannot be read")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Others can read the file.
    #[error("host key {path} can be used by others (mode {mode:04o}); chmod 600 {path}")]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// A passphrase would be needed at every start.
    #[error(
        "host key {path} is encrypted, and nobody is there to type the passphrase; remove it \
         with: ssh-keygen -p -f {path}"
    )]
    Encrypted {
        /// The file.
        path: PathBuf,
    },
    /// Not a private key.
    #[error("host key {path} is not a private key in OpenSSH or PEM format")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What the parser says.
        #[source]
        source: russh::keys::Error,
    },
    /// A key that clients would refuse.
    #[error("host key {path} is {algorithm}; use Ed25519, ECDSA, or RSA with 2048 bits or more")]
    Unsuitable {
        /// The file.
        path: PathBuf,
        /// Its type.
        algorithm: String,
    },
    /// The random key could not be made.
    #[error("host key {path} could not be generated")]
    Generate {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: ssh_key::Error,
    },
    /// The new key could not be written.
    #[error("host key {path} could not be created")]
    Create {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// The keys of these files, in order. A file that is missing is created, with `.pub` beside it:
/// RSA if its name contains "rsa", ECDSA P-256 if it contains "ecdsa", else Ed25519. Blocks on
/// the file system, and for seconds while it makes an RSA key.
///
/// # Errors
/// The first file that cannot be used. Files that exist are never written.
pub fn load_or_create(paths: &[PathBuf]) -> Result<Vec<PrivateKey>, HostKeyError> {
    paths
        .iter()
        .map(|path| match load(path) {
            Err(HostKeyError::Unreadable { source, .. })
                if source.kind() == io::ErrorKind::NotFound =>
            {
                create(path)
            }
            loaded => loaded,
        })
        .collect()
}

fn load(path: &Path) -> Result<PrivateKey, HostKeyError> {
    let unreadable = |source| HostKeyError::Unreadable { path: path.to_owned(), source };
    // Looked at before it is opened: opening a named pipe would wait for its other end.
    if !fs::metadata(path).map_err(unreadable)?.is_file() {
        return Err(unreadable(io::Error::other("it is not a regular file")));
    }
    let file = File::open(path).map_err(unreadable)?;
    let mode = file.metadata().map_err(unreadable)?.mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(HostKeyError::Exposed { path: path.to_owned(), mode });
    }
    let mut text = String::new();
    file.take(LARGEST_FILE).read_to_string(&mut text).map_err(unreadable)?;
    decode(path, &text)
}

fn decode(path: &Path, text: &str) -> Result<PrivateKey, HostKeyError> {
    let path = path.to_owned();
    // Not every encrypted format is told apart from a damaged one by the decoder.
    if text.contains("-----BEGIN ENCRYPTED ") || text.contains("Proc-Type: 4,ENCRYPTED") {
        return Err(HostKeyError::Encrypted { path });
    }
    let key = match decode_secret_key(text, None) {
        Ok(key) if key.is_encrypted() => return Err(HostKeyError::Encrypted { path }),
        Ok(key) => key,
        Err(russh::keys::Error::KeyIsEncrypted) => return Err(HostKeyError::Encrypted { path }),
        Err(source) => return Err(HostKeyError::Malformed { path, source }),
    };
    let suitable = match key.algorithm() {
        Algorithm::Ed25519 | Algorithm::Ecdsa { .. } => true,
        Algorithm::Rsa { .. } => key.key_data().rsa().is_some_and(|rsa| rsa.key_size() >= 2048),
        _ => false,
    };
    if suitable {
        Ok(key)
    } else {
        let algorithm = key.algorithm().to_string();
        Err(HostKeyError::Unsuitable { path, algorithm })
    }
}

fn create(path: &Path) -> Result<PrivateKey, HostKeyError> {
    let generated = generate(path)
        .and_then(|key| Ok((key.to_openssh(LineEnding::LF)?, key.public_key().to_openssh()?, key)));
    let (private, public, key) =
        generated.map_err(|source| HostKeyError::Generate { path: path.to_owned(), source })?;
    let failed = |source| HostKeyError::Create { path: path.to_owned(), source };

    let dir = path.parent().unwrap_or(Path::new("/"));
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed)?;
    let file = temporary(dir, private.as_bytes(), 0o600).map_err(failed)?;
    if let Err(err) = file.persist_noclobber(path) {
        return if err.error.kind() == io::ErrorKind::AlreadyExists {
            // Another process was faster; its key is the one that clients will know.
            load(path)
        } else {
            Err(failed(err.error))
        };
    }
    // What the private key belongs to is derived from it, so an older file is of no use.
    let mut public_path = path.as_os_str().to_owned();
    public_path.push(".pub");
    temporary(dir, format!("{public}\n").as_bytes(), 0o644)
        .and_then(|file| file.persist(&public_path).map_err(|err| err.error))
        .map_err(failed)?;
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(failed)?;
    tracing::info!(path = %path.display(), algorithm = %key.algorithm(), "created a host key");
    Ok(key)
}

/// A file that is complete on disk before it gets its name.
fn temporary(dir: &Path, content: &[u8], mode: u32) -> io::Result<NamedTempFile> {
    let mut file =
        tempfile::Builder::new().permissions(Permissions::from_mode(mode)).tempfile_in(dir)?;
    file.write_all(content)?;
    file.as_file().sync_all()?;
    Ok(file)
}

fn generate(path: &Path) -> Result<PrivateKey, ssh_key::Error> {
    let algorithm = algorithm_for(path);
    let mut key = match algorithm {
        // `PrivateKey::random` makes larger ones, which cost clients time at every login.
        Algorithm::Rsa { .. } => RsaKeypair::random(&mut safe_rng(), RSA_BITS)?.into(),
        algorithm => PrivateKey::random(&mut safe_rng(), algorithm)?,
    };
    key.set_comment("waltgate");
    Ok(key)
}

fn algorithm_for(path: &Path) -> Algorithm {
    let name = path.file_name().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
    if name.contains("ecdsa") {
        Algorithm::Ecdsa { curve: EcdsaCurve::NistP256 }
    } else if name.contains("rsa") {
        Algorithm::Rsa { hash: None }
    } else {
        Algorithm::Ed25519
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o777
    }

    fn write_key(path: &Path, text: &str, mode: u32) {
        fs::write(path, text).unwrap();
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }

    fn error(path: &Path) -> HostKeyError {
        load_or_create(&[path.to_owned()]).unwrap_err()
    }

    #[test]
    fn missing_keys_are_created_for_the_owner_only_and_stay_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let keys_dir = dir.path().join("etc/keys");
        let paths = [
            keys_dir.join("ssh_host_ed25519_key"),
            keys_dir.join("ssh_host_ecdsa_key"),
            keys_dir.join("ssh_host_rsa_key"),
        ];
        let created = load_or_create(&paths).unwrap();
        let algorithms: Vec<_> = created.iter().map(|key| key.algorithm().to_string()).collect();
        assert_eq!(algorithms, ["ssh-ed25519", "ecdsa-sha2-nistp256", "ssh-rsa"]);
        assert_eq!(created[2].key_data().rsa().unwrap().key_size(), 3072);
        assert_eq!(mode(&keys_dir), 0o700);
        for (path, key) in paths.iter().zip(&created) {
            assert_eq!(mode(path), 0o600);
            let text = fs::read_to_string(path).unwrap();
            assert!(text.starts_with("-----BEGIN OPENSSH PRIVATE KEY-----\n"));
            let public = path.with_extension("pub");
            assert_eq!(mode(&public), 0o644);
            let public = fs::read_to_string(&public).unwrap();
            assert_eq!(public, format!("{}\n", key.public_key().to_openssh().unwrap()));
        }
        assert_eq!(fs::read_dir(&keys_dir).unwrap().count(), 6, "no temporary file is left");

        let loaded = load_or_create(&paths).unwrap();
        for (loaded, created) in loaded.iter().zip(&created) {
            assert_eq!(loaded.public_key(), created.public_key());
        }
    }

    #[test]
    fn a_key_that_others_can_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("host_key");
        load_or_create(std::slice::from_ref(&path)).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
        assert_eq!(
            error(&path).to_string(),
            format!(
                "host key {0} can be used by others (mode 0640); chmod 600 {0}",
                path.display()
            )
        );
    }

    #[test]
    fn an_encrypted_key_is_refused_as_such() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("host_key");
        let key = PrivateKey::random(&mut safe_rng(), Algorithm::Ed25519).unwrap();
        let key = key.encrypt(&mut safe_rng(), "secret").unwrap();
        write_key(&path, &key.to_openssh(LineEnding::LF).unwrap(), 0o600);
        assert!(matches!(error(&path), HostKeyError::Encrypted { .. }));
        let pem = "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n";
        write_key(&path, pem, 0o600);
        assert!(matches!(error(&path), HostKeyError::Encrypted { .. }));
    }

    #[test]
    fn what_is_not_a_key_is_refused_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("host_key");
        for text in ["", "hello", "-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n"] {
            write_key(&path, text, 0o600);
            assert!(matches!(error(&path), HostKeyError::Malformed { .. }), "{text:?}");
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
        assert!(matches!(error(dir.path()), HostKeyError::Unreadable { .. }));
    }

    #[test]
    fn a_place_that_cannot_be_written_is_an_error_with_the_path() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        let path = file.join("host_key");
        let message = error(&path).to_string();
        assert!(message.contains(&path.display().to_string()), "{message}");
    }

    #[test]
    fn two_starts_at_once_end_up_with_one_key() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("host_key");
        let keys: Vec<_> = std::thread::scope(|scope| {
            let starts: Vec<_> = (0..8)
                .map(|_| scope.spawn(|| load_or_create(std::slice::from_ref(&path)).unwrap()))
                .collect();
            starts.into_iter().flat_map(|start| start.join().unwrap()).collect()
        });
        for key in &keys {
            assert_eq!(key.public_key().key_data(), keys[0].public_key().key_data());
        }
    }
}
