//! Removing images, and what no image needs any more.

use std::collections::HashSet;
use std::fs;
use std::io::ErrorKind;
use std::time::{Duration, SystemTime};

use libcontainer::oci_spec::image::Descriptor;
use rustix::fs::FlockOperation;

use super::error::{During, StoreError};
use super::{ADDING, CONTAINERS, Store, StoredImage, canonical, digest_of, index, locks};

/// What tells which image a container is made of, in its directory.
const RECORD: &str = "container.json";
/// A save makes an image without a name and then one with a name of it; nobody wants it for longer.
const ABANDONED: Duration = Duration::from_secs(3600);

/// What was removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Freed {
    /// Images without a name.
    pub images: usize,
    /// Bytes of manifests, configurations and layers; unpacked ones took more.
    pub bytes: u64,
}

impl Store {
    /// Takes a name away. An image without one is removed, unless a container is made of it.
    ///
    /// # Errors
    /// That no image has this name, or that the index cannot be written.
    pub fn remove(&self, reference: &str) -> Result<(), StoreError> {
        let name = canonical(reference);
        let image = self.image(reference)?;
        self.0.index.change(|entries| {
            let is_in_use = self.images_in_use()?.contains(&image.id);
            let before = entries.len();
            entries.retain(|entry| index::name_of(entry) != Some(name.as_str()));
            if entries.len() == before {
                return Err(StoreError::NoImage(reference.to_owned()));
            }
            let is_listed = entries.iter().any(|entry| entry.digest() == image.entry.digest());
            if is_in_use && !is_listed {
                entries.push(index::entry(&image.entry, None));
            }
            Ok(())
        })?;
        self.collect_if_idle()
    }

    /// Images without a name.
    ///
    /// # Errors
    /// That the index or one of them cannot be read.
    pub fn unnamed_images(&self) -> Result<Vec<StoredImage>, StoreError> {
        let mut images = self.images()?;
        images.retain(|image| image.references.is_empty());
        Ok(images)
    }

    /// Removes an image without a name, unless a container is made of it; whether it did.
    ///
    /// # Errors
    /// That the index cannot be written.
    pub fn remove_unnamed(&self, id: &str) -> Result<bool, StoreError> {
        let image = match self.image(id) {
            Err(error) if error.is_not_found() => return Ok(false),
            image => image?,
        };
        let removed = self.0.index.change(|entries| {
            if self.images_in_use()?.contains(&image.id) {
                return Ok(false);
            }
            let is_it = |entry: &Descriptor| entry.digest() == image.entry.digest();
            if entries.iter().any(|entry| is_it(entry) && index::name_of(entry).is_some()) {
                return Ok(false);
            }
            let before = entries.len();
            entries.retain(|entry| !is_it(entry));
            Ok(entries.len() < before)
        })?;
        if removed {
            self.collect_if_idle()?;
        }
        Ok(removed)
    }

    /// Removes images without a name that nothing is made of, unless they are of the last hour, and
    /// what no image needs. Waits for those who add something.
    ///
    /// # Errors
    /// That something cannot be removed. What was removed until then is, and nothing is half there.
    pub fn gc(&self) -> Result<Freed, StoreError> {
        let _alone = locks::locked(&self.0.root.join(ADDING), FlockOperation::LockExclusive)?;
        // Whoever makes a container has the lock as well.
        let in_use = self.images_in_use()?;
        let old = SystemTime::now() - ABANDONED;
        let mut images = 0;
        for image in self.listed()?.iter().filter(|image| image.references.is_empty()) {
            if in_use.contains(&image.id) || self.0.blobs.added(digest_of(&image.entry)?)? > old {
                continue;
            }
            self.0.index.change(|entries| {
                entries.retain(|entry| entry.digest() != image.entry.digest());
                Ok(())
            })?;
            images += 1;
        }
        self.remove_half_made()?;
        Ok(Freed { images, bytes: self.collect()? })
    }

    /// Does what makes an image, while nobody cleans up. Of what it added in vain, say until the disk
    /// was full, nothing is kept.
    pub(super) fn making<T>(
        &self,
        make: impl FnOnce() -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let made = self.hold().and_then(|_hold| make());
        if made.is_err() {
            self.collect_if_idle()?;
        }
        made
    }

    /// Cleans up, unless somebody is adding something. The next one will.
    ///
    /// # Errors
    /// That something cannot be removed.
    pub fn collect_if_idle(&self) -> Result<(), StoreError> {
        if let Some(_alone) = locks::locked_if_free(&self.0.root.join(ADDING))? {
            self.collect()?;
        }
        Ok(())
    }

    /// Removes what killed processes left half made.
    pub(super) fn tidy(&self) -> Result<(), StoreError> {
        if let Some(_alone) = locks::locked_if_free(&self.0.root.join(ADDING))? {
            self.remove_half_made()?;
        }
        Ok(())
    }

    fn remove_half_made(&self) -> Result<(), StoreError> {
        let half_made = &self.0.half_made;
        for entry in fs::read_dir(half_made).during("listing", half_made)? {
            let path = entry.during("listing", half_made)?.path();
            let is_directory = fs::symlink_metadata(&path).is_ok_and(|found| found.is_dir());
            let removed =
                if is_directory { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            match removed {
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                removed => removed.during("removing", &path)?,
            }
        }
        Ok(())
    }

    /// Removes content and layers that no listed image has. Only for whoever has the lock alone.
    fn collect(&self) -> Result<u64, StoreError> {
        let mut blobs = HashSet::new();
        let mut layers = HashSet::new();
        for image in self.listed()? {
            blobs.insert(digest_of(&image.entry)?.to_owned());
            blobs.insert(image.id);
            for layer in image.manifest.layers() {
                blobs.insert(digest_of(layer)?.to_owned());
            }
            layers.extend(image.layers);
        }
        self.0.layers.retain(|diff_id| layers.contains(diff_id))?;
        self.0.blobs.retain(|digest| blobs.contains(digest))
    }

    /// The identifiers of images that containers are made of.
    fn images_in_use(&self) -> Result<HashSet<String>, StoreError> {
        let containers = self.0.root.join(CONTAINERS);
        let entries = match fs::read_dir(&containers) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(HashSet::new()),
            entries => entries.during("listing", &containers)?,
        };
        let mut in_use = HashSet::new();
        for entry in entries {
            let path = entry.during("listing", &containers)?.path().join(RECORD);
            let text = match fs::read(&path) {
                // It is being made or removed.
                Err(error)
                    if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) =>
                {
                    continue;
                }
                text => text.during("reading", &path)?,
            };
            let record: serde_json::Value = serde_json::from_slice(&text)
                .map_err(|error| StoreError::invalid(path.display().to_string(), error))?;
            if let Some(id) = record.get("image_id").and_then(serde_json::Value::as_str) {
                in_use.insert(id.to_owned());
            }
        }
        Ok(in_use)
    }
}
