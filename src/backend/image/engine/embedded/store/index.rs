//! Which images there are: index.json of an OCI image layout.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use libcontainer::oci_spec::image::{
    ANNOTATION_REF_NAME, Descriptor, ImageIndex, ImageIndexBuilder, SCHEMA_VERSION,
};
use rustix::fs::FlockOperation;

use super::error::{During, StoreError};
use super::locks::locked;

/// OCI image layout specification: says that this directory is one.
pub(super) const LAYOUT: (&str, &str) = ("oci-layout", r#"{"imageLayoutVersion":"1.0.0"}"#);
const INDEX: &str = "index.json";
const NEW_INDEX: &str = "index.json.new";
const LOCK: &str = "index.lock";

/// The list of a store's images, each a manifest. One with several names is in it for each; one
/// without a name, once.
#[derive(Debug, Clone)]
pub(super) struct Index {
    root: PathBuf,
}

impl Index {
    pub(super) fn open(root: &Path) -> Result<Self, StoreError> {
        let (name, text) = LAYOUT;
        let layout = root.join(name);
        if !layout.try_exists().during("inspecting", &layout)? {
            fs::write(&layout, text).during("writing", &layout)?;
        }
        let lock = root.join(LOCK);
        File::options().create(true).append(true).open(&lock).during("making", &lock)?;
        Ok(Self { root: root.to_owned() })
    }

    /// All entries.
    pub(super) fn entries(&self) -> Result<Vec<Descriptor>, StoreError> {
        let path = self.root.join(INDEX);
        // At once: the reader of JSON asks a file for each byte.
        let index = match fs::read(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            text => ImageIndex::from_reader(text.during("reading", &path)?.as_slice()),
        };
        Ok(index.map_err(StoreError::document(path.display().to_string()))?.manifests().clone())
    }

    /// Changes the list, after and before all others that do. Readers see the old one or the new.
    pub(super) fn change<T>(
        &self,
        change: impl FnOnce(&mut Vec<Descriptor>) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let _lock = locked(&self.root.join(LOCK), FlockOperation::LockExclusive)?;
        let old = self.entries()?;
        let mut new = old.clone();
        let done = change(&mut new)?;
        if new != old {
            self.write(new)?;
        }
        Ok(done)
    }

    fn write(&self, entries: Vec<Descriptor>) -> Result<(), StoreError> {
        let path = self.root.join(INDEX);
        let text = ImageIndexBuilder::default()
            .schema_version(SCHEMA_VERSION)
            .manifests(entries)
            .build()
            .and_then(|index| index.to_string())
            .map_err(StoreError::document(path.display().to_string()))?;
        // Nobody else writes it, thanks to the lock.
        let new = self.root.join(NEW_INDEX);
        let mut file = File::create(&new).during("writing", &new)?;
        file.write_all(text.as_bytes()).during("writing", &new)?;
        file.sync_all().during("writing", &new)?;
        fs::rename(&new, &path).during("writing", &path)?;
        // The new name lasts once the directory is written.
        File::open(&self.root).and_then(|root| root.sync_all()).during("writing", &self.root)
    }
}

/// The name that an entry gives its image.
pub(super) fn name_of(entry: &Descriptor) -> Option<&str> {
    entry.annotations().as_ref()?.get(ANNOTATION_REF_NAME).map(String::as_str)
}

/// An entry with this name, or without one.
pub(super) fn entry(manifest: &Descriptor, name: Option<&str>) -> Descriptor {
    let mut entry = manifest.clone();
    entry.set_annotations(
        name.map(|name| [(ANNOTATION_REF_NAME.to_owned(), name.to_owned())].into()),
    );
    entry
}
