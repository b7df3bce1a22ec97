//! Images from archives: those of `docker save` and `podman save`, OCI image layouts, and plain
//! trees of files, compressed or not. What an archive is shows in what is in it, whatever its name.

use std::io::{self, Read};

use libcontainer::oci_spec::image::{Descriptor, ImageIndex, ImageManifest, MediaType};
use serde::Deserialize;
use serde_json::json;

use super::error::{During, StoreError};
use super::make::{descriptor, now};
use super::spool::Spool;
use super::{Store, compression, digest_of, index};
use crate::backend::image::engine::embedded::architecture;

const WHAT: &str = "the archive";
/// An index may be of indexes.
const DEEPEST: usize = 8;

/// One image of manifest.json, as `docker save` writes it.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

impl Store {
    /// Adds the image of an archive under a name; an image that had this name loses it. Returns the
    /// new one's identifier.
    ///
    /// # Errors
    /// That the archive is none, is damaged or has several images, or that the disk is full. Then
    /// nothing of it is kept.
    pub fn import(&self, archive: impl Read + Send, reference: &str) -> Result<String, StoreError> {
        self.making(|| self.import_held(archive, reference))
    }

    fn import_held(
        &self,
        archive: impl Read + Send,
        reference: &str,
    ) -> Result<String, StoreError> {
        let spool = Spool::fill(self.0.blobs.begin()?, archive)?;
        if let Some(images) = spool.document("manifest.json")? {
            return self.import_docker(&spool, &images, reference);
        }
        match spool.document("index.json")? {
            Some(index) if spool.part("oci-layout")?.is_some() => {
                self.import_layout(&spool, &index, reference)
            }
            _ => self.import_tree(&spool, reference),
        }
    }

    fn import_docker(
        &self,
        spool: &Spool,
        images: &[u8],
        reference: &str,
    ) -> Result<String, StoreError> {
        let images: Vec<DockerImage> = serde_json::from_slice(images)
            .map_err(|error| StoreError::invalid("manifest.json of the archive", error))?;
        let image = only(&images, |image| {
            image.repo_tags.as_ref().and_then(|names| names.first()).cloned()
        })?;
        let config = spool.required_document(&image.config)?;
        let mut layers = Vec::with_capacity(image.layers.len());
        for layer in &image.layers {
            let blob = self.add_blob(&mut spool.required(layer)?, None)?;
            layers.push(descriptor(MediaType::ImageLayer, &blob)?);
        }
        self.add_image(&config, layers, Some(reference))
    }

    fn import_layout(
        &self,
        spool: &Spool,
        index: &[u8],
        reference: &str,
    ) -> Result<String, StoreError> {
        let read = |text: &[u8]| {
            ImageIndex::from_reader(text).map_err(StoreError::document("an index of the archive"))
        };
        let index = read(index)?;
        let mut found =
            only(index.manifests(), |entry| index::name_of(entry).map(str::to_owned))?.clone();
        // An image for several platforms is an index again.
        for _ in 0..DEEPEST {
            if *found.media_type() != MediaType::ImageIndex {
                break;
            }
            let inner = read(&spool.required_document(&blob_path(&found)?)?)?;
            found = for_this_machine(inner.manifests())?.clone();
        }
        let manifest = spool.required_document(&blob_path(&found)?)?;
        let manifest = ImageManifest::from_reader(manifest.as_slice())
            .map_err(StoreError::document("the image's manifest"))?;
        let config = blob_path(manifest.config())?;
        let config =
            self.add_blob(&mut spool.required(&config)?, Some(digest_of(manifest.config())?))?;
        let config = self.document(&config.digest)?;
        for layer in manifest.layers() {
            self.add_blob(&mut spool.required(&blob_path(layer)?)?, Some(digest_of(layer)?))?;
        }
        self.add_image(&config, manifest.layers().clone(), Some(reference))
    }

    /// The archive itself is the only layer.
    fn import_tree(&self, spool: &Spool, reference: &str) -> Result<String, StoreError> {
        if !spool.has_parts() {
            return Err(StoreError::invalid(WHAT, "there are no files in it"));
        }
        let blob = self.0.blobs.begin()?;
        let compressed = || {
            let mut compressed = compression::writer(blob)?;
            io::copy(&mut spool.whole(), &mut compressed)?;
            compressed.finish()
        };
        let blob = self.0.blobs.finish(compressed().during("writing into", &self.0.root)?)?;
        let diff_id = spool.digest();
        let files =
            self.0.layers.unpacked(&diff_id, &blob.digest, || self.0.blobs.file(&blob.digest))?;
        let created = now();
        let config = json!({
            "created": &created,
            "architecture": architecture::of_programs(&files),
            "os": "linux",
            "config": {"Cmd": ["/bin/sh"]},
            "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{diff_id}")]},
            "history": [{"created": &created, "created_by": "waltgate image import"}],
        });
        let layer = descriptor(MediaType::ImageLayerZstd, &blob)?;
        self.add_image(config.to_string().as_bytes(), vec![layer], Some(reference))
    }
}

/// The one of a list, which may have names.
fn only<T>(all: &[T], name: impl Fn(&T) -> Option<String>) -> Result<&T, StoreError> {
    match all {
        [only] => Ok(only),
        [] => Err(StoreError::invalid(WHAT, "there is no image in it")),
        several => {
            let names: Vec<_> = several
                .iter()
                .map(|one| name(one).unwrap_or_else(|| "one without a name".to_owned()))
                .collect();
            let reason = format!(
                "there are {} images in it ({}); save them to one archive each",
                several.len(),
                names.join(", ")
            );
            Err(StoreError::invalid(WHAT, reason))
        }
    }
}

/// That of the platforms that this machine can run.
fn for_this_machine(manifests: &[Descriptor]) -> Result<&Descriptor, StoreError> {
    let wanted = architecture::of_this_machine();
    let platforms = || {
        manifests.iter().filter_map(|entry| {
            let platform = entry.platform().as_ref()?;
            Some((entry, platform.os().to_string(), platform.architecture().to_string()))
        })
    };
    let suitable =
        platforms().find(|(_, os, architecture)| os == "linux" && architecture == wanted);
    match (suitable, manifests) {
        (Some((entry, ..)), _) | (None, [entry]) => Ok(entry),
        _ => {
            let known: Vec<_> =
                platforms().map(|(_, os, architecture)| format!("{os}/{architecture}")).collect();
            let reason = format!("there is no linux/{wanted} in it, only {}", known.join(", "));
            Err(StoreError::invalid(WHAT, reason))
        }
    }
}

/// Where an OCI image layout has content.
fn blob_path(descriptor: &Descriptor) -> Result<String, StoreError> {
    Ok(format!("blobs/sha256/{}", digest_of(descriptor)?))
}
