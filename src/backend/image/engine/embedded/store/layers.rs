//! Layers unpacked once, for all images and containers that have them.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use rustix::fs::syncfs;

use super::compression;
use super::error::{During, StoreError};
use super::hashing::Hashing;
use super::unpack::unpack;

/// The directory that overlayfs takes. The one above it has the diff ID as name.
const FILES: &str = "fs";
/// Beside it, followed by the digest of an archive that was found to have these files.
const SEEN: &str = "of-";

/// Unpacked layers.
#[derive(Debug, Clone)]
pub(super) struct Layers {
    directory: PathBuf,
    half_made: PathBuf,
}

impl Layers {
    pub(super) fn open(root: &Path, half_made: PathBuf) -> Result<Self, StoreError> {
        let directory = root.join("layers");
        fs::create_dir_all(&directory).during("making", &directory)?;
        Ok(Self { directory, half_made })
    }

    /// Where a layer is unpacked. If it is not, its archive is, whole or not at all. In any case
    /// the archive, the content `blob`, has been seen to be that of the diff ID.
    pub(super) fn unpacked(
        &self,
        diff_id: &str,
        blob: &str,
        archive: impl FnOnce() -> Result<File, StoreError>,
    ) -> Result<PathBuf, StoreError> {
        let layer = self.directory.join(diff_id);
        let files = layer.join(FILES);
        let seen = format!("{SEEN}{blob}");
        // An archive that is not compressed has the diff ID as its own digest.
        let is_seen = blob == diff_id || layer.join(&seen).exists();
        if is_seen && files.is_dir() {
            return Ok(files);
        }
        let what = format!("layer sha256:{diff_id}");
        let failed = |error: io::Error| match error.kind() {
            ErrorKind::InvalidData | ErrorKind::InvalidInput | ErrorKind::UnexpectedEof => {
                StoreError::invalid(&what, error)
            }
            _ => StoreError::system(format!("unpacking {what}"), error),
        };
        let (plain, _) = compression::reader(archive()?).map_err(failed)?;
        let mut plain = Hashing::new(plain);
        let half = if files.is_dir() {
            io::copy(&mut plain, &mut io::sink()).map_err(failed)?;
            None
        } else {
            let half = tempfile::TempDir::new_in(&self.half_made)
                .during("making a directory in", &self.half_made)?;
            let directory = half.path().join(FILES);
            fs::create_dir(&directory).during("making", &directory)?;
            plain = unpack(plain, &directory).map_err(failed)?;
            Some(half)
        };
        let (_, digest) = plain.finish();
        if digest != diff_id {
            let reason = format!("damaged: its content has the digest sha256:{digest}");
            return Err(StoreError::invalid(&what, reason));
        }
        if let Some(half) = half {
            // Else a power failure could leave the name without the files.
            let written = File::open(half.path()).during("opening", half.path())?;
            syncfs(written).during("writing", half.path())?;
            match fs::rename(half.path(), &layer) {
                // Somebody else was faster.
                Err(error) if error.kind() == ErrorKind::DirectoryNotEmpty => {}
                renamed => {
                    renamed.during("keeping", &layer)?;
                    // It is not there any more, under this name.
                    let _ = half.keep();
                }
            }
        }
        let seen = layer.join(&seen);
        File::create(&seen).during("making", &seen)?;
        Ok(files)
    }

    /// Removes all but these.
    pub(super) fn retain(&self, is_needed: impl Fn(&str) -> bool) -> Result<(), StoreError> {
        for entry in fs::read_dir(&self.directory).during("listing", &self.directory)? {
            let entry = entry.during("listing", &self.directory)?;
            let name = entry.file_name();
            if name.to_str().is_some_and(&is_needed) {
                continue;
            }
            // Out of sight first: half a layer must not be taken for one.
            let half = tempfile::TempDir::new_in(&self.half_made)
                .during("making a directory in", &self.half_made)?;
            fs::rename(entry.path(), half.path().join("layer"))
                .during("removing", &entry.path())?;
            let path = half.path().to_owned();
            half.close().during("removing", &path)?;
        }
        Ok(())
    }
}
