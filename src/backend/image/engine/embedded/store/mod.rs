//! Images on disk, as an OCI image layout with unpacked layers beside it.
//!
//! ```text
//! oci-layout, index.json     which images there are
//! blobs/sha256/DIGEST        manifests, configurations and layers
//! layers/DIFF-ID/fs          layers unpacked, in the form that overlayfs takes
//! layers/DIFF-ID/of-DIGEST   which content was seen to be that layer
//! containers/ID/             containers, kept by the engine: each holds on to its image
//! tmp/                       what is being made
//! ```
//!
//! Several processes may use a store at once, and any of them may be killed at any moment: things
//! are made in tmp/ and renamed into place. Whoever adds something keeps a shared lock meanwhile
//! ([`Store::hold`]), so that nothing is taken for garbage that is not listed yet. An image's
//! identifier is the digest of its configuration.

mod blobs;
mod changes;
mod collect;
mod compression;
mod error;
mod export;
mod hashing;
mod import;
mod index;
mod layers;
mod locks;
mod make;
mod pack;
mod spool;
mod tar;
mod unpack;
mod whiteouts;

use std::fs::{self, File, Permissions};
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use chrono::DateTime;
use libcontainer::oci_spec::image::{Descriptor, ImageConfiguration, ImageManifest};
use rustix::fs::FlockOperation;

pub use self::blobs::Blob;
pub use self::collect::Freed;
pub use self::compression::{Compression, reader as plain_reader};
pub use self::error::StoreError;
pub use self::locks::Lock;
pub use self::tar::{Archive, Entry, EntryKind};

use self::blobs::Blobs;
use self::error::During;
use self::index::Index;
use self::layers::Layers;
use super::super::{Change, HistoryEntry};
use crate::backend::image::engine::merged;
use crate::backend::image::naming::canonical_reference as canonical;

/// Held by whoever adds to the store; removal waits for it.
const ADDING: &str = "adding.lock";
const HALF_MADE: &str = "tmp";
const CONTAINERS: &str = "containers";
/// Images on disk. All functions block.
#[derive(Debug, Clone)]
pub struct Store(Arc<Parts>);

#[derive(Debug)]
struct Parts {
    root: PathBuf,
    half_made: PathBuf,
    blobs: Blobs,
    index: Index,
    layers: Layers,
}

/// An image of the store.
#[derive(Debug, Clone)]
pub struct StoredImage {
    /// The digest of its configuration, in hexadecimal.
    pub id: String,
    /// Its names.
    pub references: Vec<String>,
    /// How its programs are run, and how it came to be.
    pub config: ImageConfiguration,
    /// The diff IDs of its layers, in hexadecimal, the lowest first.
    pub layers: Vec<String>,
    /// Where its parts are.
    pub manifest: ImageManifest,
    entry: Descriptor,
}

impl StoredImage {
    /// When it was made, if it tells.
    pub fn created(&self) -> Option<SystemTime> {
        self.config.created().as_deref().map(time_of)
    }
}

impl Store {
    /// Opens the store in a directory, made if it is not there, for root's eyes only. Cleans up
    /// after processes that were killed, unless one is at work.
    ///
    /// # Errors
    /// That the directory cannot be made or written.
    pub fn open(root: &Path) -> Result<Self, StoreError> {
        let half_made = root.join(HALF_MADE);
        fs::create_dir_all(&half_made).during("making", &half_made)?;
        // It has programs of strangers that run as root when started.
        fs::set_permissions(root, Permissions::from_mode(0o700)).during("protecting", root)?;
        let adding = root.join(ADDING);
        File::options().create(true).append(true).open(&adding).during("making", &adding)?;
        let store = Self(Arc::new(Parts {
            root: root.to_owned(),
            blobs: Blobs::open(root, half_made.clone())?,
            index: Index::open(root)?,
            layers: Layers::open(root, half_made.clone())?,
            half_made,
        }));
        store.tidy()?;
        Ok(store)
    }

    /// Keeps everything that is there, listed or not, as long as the lock is held. To be taken
    /// before the first part of an image is added, and kept until the image is.
    ///
    /// # Errors
    /// That the lock cannot be taken.
    pub fn hold(&self) -> Result<Lock, StoreError> {
        locks::locked(&self.0.root.join(ADDING), FlockOperation::LockShared)
    }

    /// The names of all images.
    ///
    /// # Errors
    /// That the index cannot be read.
    pub fn references(&self) -> Result<Vec<String>, StoreError> {
        let entries = self.0.index.entries()?;
        Ok(entries.iter().filter_map(index::name_of).map(str::to_owned).collect())
    }

    /// An image, by name or identifier.
    ///
    /// # Errors
    /// That there is none, or that it cannot be read.
    pub fn image(&self, reference: &str) -> Result<StoredImage, StoreError> {
        let _hold = self.hold()?;
        let entries = self.0.index.entries()?;
        let name = canonical(reference);
        let id = reference.strip_prefix("sha256:").unwrap_or(reference);
        let named = entries.iter().find(|entry| index::name_of(entry) == Some(name.as_str()));
        if let Some(named) = named {
            return self.described(&entries, named);
        }
        for entry in &entries {
            let image = self.described(&entries, entry)?;
            if image.id == id {
                return Ok(image);
            }
        }
        Err(StoreError::NoImage(reference.to_owned()))
    }

    /// All images, with a name or without.
    ///
    /// # Errors
    /// That the index or one of them cannot be read.
    pub fn images(&self) -> Result<Vec<StoredImage>, StoreError> {
        let _hold = self.hold()?;
        self.listed()
    }

    /// Whether an image is still there. Once a container is listed that is made of it, this is
    /// the answer for as long as the container is.
    ///
    /// # Errors
    /// That the index cannot be read.
    pub fn has(&self, image: &StoredImage) -> Result<bool, StoreError> {
        // After or before whoever is about to remove it, not between their look and their change.
        let is_it = |entry: &Descriptor| entry.digest() == image.entry.digest();
        self.0.index.change(|entries| Ok(entries.iter().any(is_it)))
    }

    /// Where the layers of an image are unpacked, the lowest first. One that is not, is now. A
    /// layer that an image has twice is told once: the upper one hides the lower one, and overlayfs
    /// takes no directory twice.
    ///
    /// # Errors
    /// That its archive is damaged, or the disk full.
    pub fn layer_directories(&self, image: &StoredImage) -> Result<Vec<PathBuf>, StoreError> {
        let _hold = self.hold()?;
        let is_hidden = |number: usize| image.layers[number + 1..].contains(&image.layers[number]);
        image
            .layers
            .iter()
            .zip(image.manifest.layers())
            .enumerate()
            .filter(|(number, _)| !is_hidden(*number))
            .map(|(_, (diff_id, blob))| {
                let blob = digest_of(blob)?;
                self.0.layers.unpacked(diff_id, blob, || self.0.blobs.file(blob))
            })
            .collect()
    }

    /// How the files of an upper directory differ from an image, in the words of
    /// [`Engine::diff`](crate::backend::image::engine::Engine::diff).
    ///
    /// # Errors
    /// That the files cannot be read.
    pub fn changes(&self, image: &StoredImage, upper: &Path) -> Result<Vec<Change>, StoreError> {
        self.look_into(image, |below| changes::between(below, upper))
    }

    /// Looks into the files of an image.
    pub(super) fn look_into<T: Send>(
        &self,
        image: &StoredImage,
        look: impl FnOnce(&Path) -> io::Result<T> + Send,
    ) -> Result<T, StoreError> {
        let _hold = self.hold()?;
        let layers = self.layer_directories(image)?;
        let scratch = self.scratch()?;
        merged::look(&layers, scratch.path(), look)
            .during("looking into image", Path::new(&image.id))
    }

    /// How an image came to be, newest first.
    ///
    /// # Errors
    /// That there is no such image.
    pub fn history(&self, id: &str) -> Result<Vec<HistoryEntry>, StoreError> {
        let image = self.image(id)?;
        let steps = image.config.history().as_deref().unwrap_or_default();
        let step = |step: &libcontainer::oci_spec::image::History| HistoryEntry {
            created: step.created().as_deref().map_or(UNIX_EPOCH, time_of),
            created_by: step.created_by().clone().unwrap_or_default(),
            comment: step.comment().clone().unwrap_or_default(),
        };
        Ok(steps.iter().rev().map(step).collect())
    }

    /// Adds content, and makes sure that it is what was expected (a SHA-256 in hexadecimal).
    ///
    /// # Errors
    /// That it cannot be read or written, or is something else.
    pub fn add_blob(
        &self,
        content: &mut dyn Read,
        expected: Option<&str>,
    ) -> Result<Blob, StoreError> {
        self.0.blobs.add(content, expected)
    }

    /// Opens content, by its SHA-256 in hexadecimal.
    ///
    /// # Errors
    /// That there is none.
    pub fn open_blob(&self, digest: &str) -> Result<File, StoreError> {
        self.0.blobs.file(digest)
    }

    /// The whole of a small piece of content, refused past 16 MiB.
    ///
    /// # Errors
    /// That there is none, or that it is too large.
    pub fn document(&self, digest: &str) -> Result<Vec<u8>, StoreError> {
        self.0.blobs.document(digest)
    }

    /// All images, for whoever has the lock.
    fn listed(&self) -> Result<Vec<StoredImage>, StoreError> {
        let entries = self.0.index.entries()?;
        let mut images: Vec<StoredImage> = Vec::new();
        for entry in &entries {
            if !images.iter().any(|image| image.entry.digest() == entry.digest()) {
                images.push(self.described(&entries, entry)?);
            }
        }
        Ok(images)
    }

    fn described(
        &self,
        entries: &[Descriptor],
        entry: &Descriptor,
    ) -> Result<StoredImage, StoreError> {
        let manifest = self.0.blobs.document(digest_of(entry)?)?;
        let what = |part: &str| format!("the {part} of image {}", entry.digest());
        let manifest = ImageManifest::from_reader(manifest.as_slice())
            .map_err(StoreError::document(what("manifest")))?;
        let id = digest_of(manifest.config())?.to_owned();
        let config = ImageConfiguration::from_reader(self.0.blobs.document(&id)?.as_slice())
            .map_err(StoreError::document(what("configuration")))?;
        let layers = config
            .rootfs()
            .diff_ids()
            .iter()
            .map(|diff_id| hex_of(diff_id).map(str::to_owned))
            .collect::<Result<Vec<_>, _>>()?;
        if layers.len() != manifest.layers().len() {
            return Err(StoreError::invalid(
                what("manifest"),
                "it has another number of layers than the configuration",
            ));
        }
        let references = entries
            .iter()
            .filter(|other| other.digest() == entry.digest())
            .filter_map(index::name_of)
            .map(str::to_owned)
            .collect();
        Ok(StoredImage { id, references, config, layers, manifest, entry: entry.clone() })
    }

    /// A directory for as long as it is looked at.
    fn scratch(&self) -> Result<tempfile::TempDir, StoreError> {
        tempfile::TempDir::new_in(&self.0.half_made)
            .during("making a directory in", &self.0.half_made)
    }
}

/// A descriptor's digest in hexadecimal.
fn digest_of(descriptor: &Descriptor) -> Result<&str, StoreError> {
    descriptor.as_digest_sha256().ok_or_else(|| unknown_digest(descriptor.digest().as_ref()))
}

/// A digest in hexadecimal, without the algorithm.
fn hex_of(digest: &str) -> Result<&str, StoreError> {
    digest
        .strip_prefix("sha256:")
        .filter(|hex| {
            hex.len() == 64 && hex.bytes().all(|c| c.is_ascii_digit() || (b'a'..=b'f').contains(&c))
        })
        .ok_or_else(|| unknown_digest(digest))
}

fn unknown_digest(digest: &str) -> StoreError {
    StoreError::invalid(format!("digest {digest}"), "only SHA-256 is known")
}

/// A time of RFC 3339.
fn time_of(text: &str) -> SystemTime {
    DateTime::parse_from_rfc3339(text).map_or(UNIX_EPOCH, Into::into)
}
