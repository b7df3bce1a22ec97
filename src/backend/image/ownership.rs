//! Whose containers are whose.
//!
//! Several gateways can use one engine, and one gateway can be restarted. A gateway is known by a
//! random number in its state directory. A container that is in use has a *claim*: a file there,
//! named like the container, which the process that uses it keeps locked. The kernel releases the
//! lock however the process ends; a container whose file is not locked was left behind. Claims are
//! made before their containers, so that no moment of a crash leaves one that is taken for in use.

use std::fs::{File, TryLockError};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::OnceCell;

use super::error::ImageError;

const GATEWAY_FILE: &str = "gateway-id";
const CLAIMS_DIRECTORY: &str = "containers";
/// The kernel's source of random identifiers, random(4).
const RANDOM_UUID: &str = "/proc/sys/kernel/random/uuid";

/// This run of this gateway.
#[derive(Debug)]
pub(super) struct Run {
    /// The gateway's identifier.
    pub(super) gateway: String,
    /// This run's identifier.
    pub(super) id: String,
    claims: PathBuf,
}

/// The exclusive use of a container, among all processes of this gateway. Ends when dropped, or
/// with the process.
#[derive(Debug)]
pub(super) struct Claim {
    path: PathBuf,
    lock: File,
}

/// Finds out who this gateway is when it first matters.
pub(super) struct Ownership {
    state_dir: PathBuf,
    run: OnceCell<Arc<Run>>,
}

impl Ownership {
    pub(super) fn new(state_dir: PathBuf) -> Self {
        Self { state_dir, run: OnceCell::new() }
    }

    pub(super) async fn run(&self) -> Result<Arc<Run>, ImageError> {
        self.run
            .get_or_try_init(async || {
                let state_dir = self.state_dir.clone();
                tokio::task::spawn_blocking(move || Run::begin(&state_dir))
                    .await
                    .unwrap_or_else(|error| {
                        Err(state_error("reading", &self.state_dir, io::Error::other(error)))
                    })
                    .map(Arc::new)
            })
            .await
            .cloned()
    }
}

impl Run {
    fn begin(state_dir: &Path) -> Result<Self, ImageError> {
        let claims = state_dir.join(CLAIMS_DIRECTORY);
        std::fs::create_dir_all(&claims)
            .map_err(|error| state_error("creating", &claims, error))?;
        let gateway = gateway_id(&state_dir.join(GATEWAY_FILE))?;
        Ok(Self { gateway, id: random_id()?, claims })
    }

    /// Claims the container of this name, existing or not; `None` when it is in use.
    pub(super) fn claim(&self, container: &str) -> Result<Option<Claim>, ImageError> {
        // The name may be one that somebody else gave a container.
        if container.is_empty()
            || !container.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        {
            return Ok(None);
        }
        let path = self.claims.join(container);
        let failed = |error| state_error("locking", &path, error);
        let file =
            File::options().create(true).truncate(false).write(true).open(&path).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Claim { path, lock: file })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(failed(error)),
        }
    }

    /// The names of all containers that have or had a claim and were not seen to be gone.
    pub(super) fn claimed(&self) -> Result<Vec<String>, ImageError> {
        let failed = |error| state_error("reading", &self.claims, error);
        std::fs::read_dir(&self.claims)
            .map_err(failed)?
            .map(|entry| Ok(entry.map_err(failed)?.file_name().to_string_lossy().into_owned()))
            .collect()
    }

    /// How many containers may have been left behind: a look at the disk only.
    pub(super) fn unclaimed(&self) -> Result<usize, ImageError> {
        let mut unclaimed = 0;
        for name in self.claimed()? {
            unclaimed += usize::from(self.claim(&name)?.is_some());
        }
        Ok(unclaimed)
    }
}

impl Claim {
    /// Notes something about the container, in place of what was noted before. It survives this
    /// process, and is gone with the container. Blocks.
    pub(super) fn note(&self, text: &[u8]) -> io::Result<()> {
        let mut file = &self.lock;
        self.lock.set_len(0)?;
        file.seek(SeekFrom::Start(0))?;
        file.write_all(text)
    }

    /// What was noted, perhaps in part. Blocks.
    pub(super) fn noted(&self) -> io::Result<Vec<u8>> {
        std::fs::read(&self.path)
    }

    /// The container is gone, and with it what there was to claim.
    pub(super) fn settle(self) {
        if let Err(error) = std::fs::remove_file(&self.path)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(path = %self.path.display(), %error, "a container's file is left behind");
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        // Closing would do, but not while a process that is just being started has a copy.
        if let Err(error) = self.lock.unlock() {
            tracing::warn!(path = %self.path.display(), %error, "a container stays claimed");
        }
    }
}

fn gateway_id(path: &Path) -> Result<String, ImageError> {
    let read = || {
        std::fs::read_to_string(path)
            .map(|text| text.trim().to_owned())
            .map_err(|error| state_error("reading", path, error))
    };
    if path.exists() {
        return read();
    }
    // Written aside and linked, so that two gateways that start at once agree on one number and
    // none of them reads half of it.
    let id = random_id()?;
    let directory = path.parent().unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(directory)
        .map_err(|error| state_error("creating", path, error))?;
    writeln!(file, "{id}")
        .and_then(|()| file.as_file().sync_all())
        .map_err(|error| state_error("writing", path, error))?;
    match file.persist_noclobber(path) {
        Ok(_) => Ok(id),
        Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => read(),
        Err(error) => Err(state_error("creating", path, error.error)),
    }
}

fn random_id() -> Result<String, ImageError> {
    let uuid = std::fs::read_to_string(RANDOM_UUID)
        .map_err(|error| state_error("reading", Path::new(RANDOM_UUID), error))?;
    Ok(uuid.trim().replace('-', "").chars().take(16).collect())
}

pub(super) fn state_error(operation: &'static str, path: &Path, source: io::Error) -> ImageError {
    ImageError::State { operation, path: path.display().to_string(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_is_claimed_once_at_a_time_and_remembered_until_it_is_gone() {
        let directory = tempfile::tempdir().unwrap();
        let first = Run::begin(directory.path()).unwrap();
        let second = Run::begin(directory.path()).unwrap();
        assert_eq!(first.gateway, second.gateway);
        assert_ne!(first.id, second.id);
        let claim = first.claim("waltgate-1").unwrap().unwrap();
        assert!(first.claim("waltgate-1").unwrap().is_none());
        assert!(second.claim("waltgate-1").unwrap().is_none());
        assert_eq!(second.unclaimed().unwrap(), 0);
        drop(claim);
        assert_eq!(second.unclaimed().unwrap(), 1);
        assert_eq!(second.claimed().unwrap(), ["waltgate-1"]);
        second.claim("waltgate-1").unwrap().unwrap().settle();
        assert!(first.claimed().unwrap().is_empty());
        assert!(first.claim("../gateway-id").unwrap().is_none());
    }
}
