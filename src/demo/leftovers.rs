//! The directory of a demonstration, and those of demonstrations that were killed.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{FlockOperation, flock};
use tempfile::TempDir;

const PREFIX: &str = "waltgate-demo-";
/// Locked as long as the demonstration runs.
const LOCK: &str = "lock";

/// The directory of this demonstration.
pub(super) struct Place {
    directory: TempDir,
    _lock: File,
}

impl Place {
    /// Makes one, and removes those that killed demonstrations have left.
    pub(super) fn new() -> io::Result<Self> {
        let above = std::env::temp_dir();
        remove_abandoned(&above)?;
        let directory = tempfile::Builder::new().prefix(PREFIX).tempdir()?;
        let lock = File::create(directory.path().join(LOCK))?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
        Ok(Self { directory, _lock: lock })
    }

    pub(super) fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Removes it.
    pub(super) fn remove(self) -> io::Result<()> {
        self.directory.close()
    }
}

fn remove_abandoned(above: &Path) -> io::Result<()> {
    let me = rustix::process::geteuid().as_raw();
    for entry in fs::read_dir(above)? {
        let entry = entry?;
        let is_ours = entry.file_name().to_str().is_some_and(|name| name.starts_with(PREFIX))
            // Anybody may make anything in there, and nobody's link is followed.
            && entry.metadata().is_ok_and(|found| found.is_dir() && found.uid() == me);
        if !is_ours {
            continue;
        }
        // One that is being made has no lock yet.
        let Ok(lock) = File::open(entry.path().join(LOCK)) else { continue };
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok()
            && let Err(error) = fs::remove_dir_all(entry.path())
        {
            tracing::warn!(directory = %entry.path().display(), %error, "left from before");
        }
    }
    Ok(())
}
