//! Content under its digest, as in an OCI image layout.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use sha2::{Digest, Sha256};
use tempfile::NamedTempFile;

use super::error::{During, StoreError};

/// As much as is read at once.
const PIECE: usize = 64 << 10;
/// Documents (manifests, configurations) are refused past this; registries refuse above 4 MiB.
const LARGEST_DOCUMENT: u64 = 16 << 20;

/// Content in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blob {
    /// Its SHA-256 in hexadecimal.
    pub digest: String,
    /// Bytes.
    pub size: u64,
}

/// The content of a store.
#[derive(Debug, Clone)]
pub(super) struct Blobs {
    directory: PathBuf,
    half_made: PathBuf,
}

/// Content on its way into the store.
pub(super) struct NewBlob {
    file: NamedTempFile,
    hash: Sha256,
    size: u64,
}

impl NewBlob {
    /// What was written until now.
    pub(super) fn file(&self) -> &File {
        self.file.as_file()
    }

    /// Bytes.
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// SHA-256 in hexadecimal.
    pub(super) fn digest(&self) -> String {
        hex(&self.hash.clone().finalize())
    }
}

impl Write for NewBlob {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let written = self.file.write(data)?;
        self.hash.update(&data[..written]);
        self.size += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Blobs {
    pub(super) fn open(root: &Path, half_made: PathBuf) -> Result<Self, StoreError> {
        let directory = root.join("blobs").join("sha256");
        fs::create_dir_all(&directory).during("making", &directory)?;
        Ok(Self { directory, half_made })
    }

    /// Content that is not there until [`Blobs::finish`].
    pub(super) fn begin(&self) -> Result<NewBlob, StoreError> {
        let file =
            NamedTempFile::new_in(&self.half_made).during("making a file in", &self.half_made)?;
        Ok(NewBlob { file, hash: Sha256::new(), size: 0 })
    }

    /// Keeps it, safe from a power failure.
    pub(super) fn finish(&self, new: NewBlob) -> Result<Blob, StoreError> {
        let blob = Blob { digest: new.digest(), size: new.size };
        let path = self.path(&blob.digest);
        new.file.as_file().sync_all().during("writing", &path)?;
        new.file.persist(&path).map_err(|error| {
            StoreError::system(format!("keeping {}", path.display()), error.error)
        })?;
        Ok(blob)
    }

    /// Takes all that can be read; refused unless its digest is the one expected.
    pub(super) fn add(
        &self,
        content: &mut dyn Read,
        expected: Option<&str>,
    ) -> Result<Blob, StoreError> {
        let mut new = self.begin()?;
        copy(content, &mut new)?;
        if let Some(expected) = expected {
            let digest = new.digest();
            if digest != expected {
                return Err(StoreError::invalid(
                    format!("content sha256:{expected}"),
                    format!("damaged: its digest is sha256:{digest}"),
                ));
            }
        }
        self.finish(new)
    }

    pub(super) fn path(&self, digest: &str) -> PathBuf {
        self.directory.join(digest)
    }

    pub(super) fn file(&self, digest: &str) -> Result<File, StoreError> {
        let path = self.path(digest);
        File::open(&path).during("opening", &path)
    }

    /// Since when it is there.
    pub(super) fn added(&self, digest: &str) -> Result<SystemTime, StoreError> {
        let path = self.path(digest);
        fs::metadata(&path).and_then(|found| found.modified()).during("inspecting", &path)
    }

    /// The whole of a small one.
    pub(super) fn document(&self, digest: &str) -> Result<Vec<u8>, StoreError> {
        let path = self.path(digest);
        let mut content = Vec::new();
        self.file(digest)?
            .take(LARGEST_DOCUMENT + 1)
            .read_to_end(&mut content)
            .during("reading", &path)?;
        if content.len() as u64 > LARGEST_DOCUMENT {
            return Err(StoreError::invalid(path.display().to_string(), "larger than 16 MiB"));
        }
        Ok(content)
    }

    /// Removes all but these; returns how many bytes that freed.
    pub(super) fn retain(&self, is_needed: impl Fn(&str) -> bool) -> Result<u64, StoreError> {
        let mut freed = 0;
        for entry in fs::read_dir(&self.directory).during("listing", &self.directory)? {
            let entry = entry.during("listing", &self.directory)?;
            if entry.file_name().to_str().is_some_and(&is_needed) {
                continue;
            }
            let path = entry.path();
            let size = entry.metadata().during("inspecting", &path)?.len();
            match fs::remove_file(&path) {
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                removed => {
                    removed.during("removing", &path)?;
                    freed += size;
                }
            }
        }
        Ok(freed)
    }
}

/// Copies, telling a reader that fails from a store that does.
pub(super) fn copy(content: &mut dyn Read, new: &mut NewBlob) -> Result<(), StoreError> {
    let mut piece = vec![0; PIECE];
    loop {
        let read = match content.read(&mut piece) {
            Ok(0) => return Ok(()),
            Ok(read) => read,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(StoreError::system("reading the content", error)),
        };
        new.write_all(&piece[..read])
            .map_err(|error| StoreError::system("writing into the image store", error))?;
    }
}

/// In hexadecimal.
pub(super) fn hex(digest: &[u8]) -> String {
    use std::fmt::Write;
    digest.iter().fold(String::with_capacity(2 * digest.len()), |mut text, byte| {
        // Writing into a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
