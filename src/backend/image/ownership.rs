//! Whose containers are whose.
//!
//! Several gateways can use one engine, and one gateway can be restarted. A gateway is known by a
//! random number in its state directory, a run of it by a file there that the process keeps
//! locked: the kernel releases the lock however the process ends. A container whose run is not
//! locked any more is left over.

use std::fs::{File, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::OnceCell;

use super::error::ImageError;

const GATEWAY_FILE: &str = "gateway-id";
const RUNS_DIRECTORY: &str = "runs";
/// The kernel's source of random identifiers, random(4).
const RANDOM_UUID: &str = "/proc/sys/kernel/random/uuid";

/// This run of this gateway.
#[derive(Debug)]
pub(super) struct Run {
    /// The gateway's identifier.
    pub(super) gateway: String,
    /// This run's identifier.
    pub(super) id: String,
    runs: PathBuf,
    _lock: File,
}

/// Finds out who this gateway is when it first matters.
pub(super) struct Ownership {
    state_dir: PathBuf,
    run: OnceCell<Arc<Run>>,
}

impl Ownership {
    pub(super) fn new(state_dir: PathBuf) -> Self {
        Self {
            state_dir,
            run: OnceCell::new(),
        }
    }

    pub(super) async fn run(&self) -> Result<Arc<Run>, ImageError> {
        self.run
            .get_or_try_init(async || {
                let state_dir = self.state_dir.clone();
                tokio::task::spawn_blocking(move || Run::begin(&state_dir))
                    .await
                    .unwrap_or_else(|error| {
                        Err(state_error(
                            "reading",
                            &self.state_dir,
                            io::Error::other(error),
                        ))
                    })
                    .map(Arc::new)
            })
            .await
            .cloned()
    }
}

impl Run {
    fn begin(state_dir: &Path) -> Result<Self, ImageError> {
        let runs = state_dir.join(RUNS_DIRECTORY);
        std::fs::create_dir_all(&runs).map_err(|error| state_error("creating", &runs, error))?;
        let gateway = gateway_id(&state_dir.join(GATEWAY_FILE))?;
        let id = random_id()?;
        let path = runs.join(&id);
        let lock = File::create_new(&path)
            .and_then(|file| file.lock().map(|()| file))
            .map_err(|error| state_error("locking", &path, error))?;
        Ok(Self {
            gateway,
            id,
            runs,
            _lock: lock,
        })
    }

    /// Whether the process that `run` stands for is alive.
    pub(super) fn is_alive(&self, run: &str) -> bool {
        run == self.id
            || self.file_of(run).is_some_and(|path| {
                File::open(path)
                    .is_ok_and(|file| matches!(file.try_lock(), Err(TryLockError::WouldBlock)))
            })
    }

    /// Forgets a run that is not alive, when nothing of it is left.
    pub(super) fn forget(&self, run: &str) {
        if let Some(path) = self.file_of(run)
            && let Err(error) = std::fs::remove_file(&path)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(path = %path.display(), %error, "file of an ended run is left behind");
        }
    }

    /// All runs that have a file.
    pub(super) fn all(&self) -> Vec<String> {
        std::fs::read_dir(&self.runs)
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect()
    }

    fn file_of(&self, run: &str) -> Option<PathBuf> {
        // The name comes from a label that anyone can give a container.
        let is_name = !run.is_empty() && run.bytes().all(|byte| byte.is_ascii_hexdigit());
        is_name.then(|| self.runs.join(run))
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
    ImageError::State {
        operation,
        path: path.display().to_string(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_alive_as_long_as_its_file_is_locked() {
        let directory = tempfile::tempdir().unwrap();
        let first = Run::begin(directory.path()).unwrap();
        let second = Run::begin(directory.path()).unwrap();
        assert_eq!(first.gateway, second.gateway);
        assert_ne!(first.id, second.id);
        assert!(second.is_alive(&first.id) && second.is_alive(&second.id));
        let ended = first.id.clone();
        drop(first);
        assert!(!second.is_alive(&ended));
        second.forget(&ended);
        assert_eq!(second.all(), std::slice::from_ref(&second.id));
        assert!(!second.is_alive(&ended));
        assert!(!second.is_alive("../gateway-id") && !second.is_alive(""));
    }
}
