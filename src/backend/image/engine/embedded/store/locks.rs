//! Locks between processes that use one store: the gateway, and commands.

use std::fs::File;
use std::path::Path;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use super::error::{During, StoreError};

/// Keeps a lock as long as it is there. One that its process loses by dying is free again.
#[derive(Debug)]
pub struct Lock(#[allow(dead_code, reason = "held, not read")] File);

/// Takes a lock, waiting for those who have it.
pub(super) fn locked(path: &Path, operation: FlockOperation) -> Result<Lock, StoreError> {
    let file = File::open(path).during("opening", path)?;
    loop {
        match flock(&file, operation) {
            Err(Errno::INTR) => {}
            locked => {
                locked.during("locking", path)?;
                return Ok(Lock(file));
            }
        }
    }
}

/// Takes a lock unless somebody has it.
pub(super) fn locked_if_free(path: &Path) -> Result<Option<Lock>, StoreError> {
    let file = File::open(path).during("opening", path)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(Lock(file))),
        Err(Errno::WOULDBLOCK) => Ok(None),
        Err(error) => Err(error).during("locking", path),
    }
}
