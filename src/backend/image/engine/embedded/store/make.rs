//! New images.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use chrono::{SecondsFormat, Utc};
use libcontainer::oci_spec::image::{
    Descriptor, DescriptorBuilder, Digest, ImageConfiguration, ImageManifestBuilder, MediaType,
    SCHEMA_VERSION,
};
use serde_json::{Map, Value, json};

use super::blobs::Blob;
use super::compression::{self, Compression};
use super::error::{During, StoreError};
use super::hashing::Hashing;
use super::pack::{Form, pack};
use super::{Store, StoredImage, canonical, digest_of, hex_of, index, merged};
use crate::backend::image::engine::Publication;

/// A layer that was just made.
struct NewLayer {
    blob: Descriptor,
    diff_id: String,
}

impl Store {
    /// Makes an image of a configuration and layers that were added before, the lowest first; an
    /// image that had this name loses it. Returns the new one's identifier. The caller keeps a lock
    /// ([`Store::hold`]).
    ///
    /// # Errors
    /// That the layers are damaged or not those of the configuration, or that the disk is full.
    /// Then there is no new image, and the name is where it was.
    pub fn add_image(
        &self,
        config: &[u8],
        layers: Vec<Descriptor>,
        reference: Option<&str>,
    ) -> Result<String, StoreError> {
        let what = "the image's configuration";
        let parsed = ImageConfiguration::from_reader(config).map_err(StoreError::document(what))?;
        let diff_ids = parsed.rootfs().diff_ids();
        if diff_ids.len() != layers.len() {
            let reason =
                format!("{} layers are described, {} are there", diff_ids.len(), layers.len());
            return Err(StoreError::invalid(what, reason));
        }
        if layers.is_empty() {
            return Err(StoreError::invalid(what, "an image without layers has no files"));
        }
        let mut described = Vec::with_capacity(layers.len());
        for (diff_id, layer) in diff_ids.iter().zip(layers) {
            let blob = digest_of(&layer)?;
            self.0.layers.unpacked(hex_of(diff_id)?, blob, || self.0.blobs.file(blob))?;
            described.push(self.with_its_media_type(layer)?);
        }
        let config = self.add_blob(&mut &config[..], None)?;
        let config_descriptor = descriptor(MediaType::ImageConfig, &config)?;
        let manifest = ImageManifestBuilder::default()
            .schema_version(SCHEMA_VERSION)
            .media_type(MediaType::ImageManifest)
            .config(config_descriptor)
            .layers(described)
            .build()
            .and_then(|manifest| manifest.to_string())
            .map_err(StoreError::document("the image's manifest"))?;
        let manifest = self.add_blob(&mut manifest.as_bytes(), None)?;
        let entry = descriptor(MediaType::ImageManifest, &manifest)?;
        let name = reference.map(canonical);
        self.0.index.change(|entries| {
            if let Some(name) = &name {
                let lost: Vec<_> = entries
                    .iter()
                    .filter(|other| index::name_of(other) == Some(name))
                    .map(|other| index::entry(other, None))
                    .collect();
                entries.retain(|other| index::name_of(other) != Some(name));
                for lost in lost {
                    if !entries.iter().any(|other| other.digest() == lost.digest()) {
                        entries.push(lost);
                    }
                }
                // It has a name now.
                entries.retain(|other| {
                    other.digest() != entry.digest() || index::name_of(other).is_some()
                });
                entries.push(index::entry(&entry, Some(name)));
            } else if !entries.iter().any(|other| other.digest() == entry.digest()) {
                entries.push(index::entry(&entry, None));
            }
            Ok(())
        })?;
        Ok(config.digest)
    }

    /// Makes an image without a name of an image and what an upper directory changes of it.
    ///
    /// # Errors
    /// That there is no such image, that the files cannot be read, or that the disk is full.
    pub fn commit(&self, base_id: &str, upper: &Path) -> Result<String, StoreError> {
        self.making(|| self.commit_held(base_id, upper))
    }

    fn commit_held(&self, base_id: &str, upper: &Path) -> Result<String, StoreError> {
        let base = self.image(base_id)?;
        let layer = self.layer_of(upper, Form::Upper)?;
        let mut config = self.config_of(&base)?;
        let created = now();
        append_layer(&mut config, &layer.diff_id, &created, json!({"created": &created}))?;
        let mut layers = base.manifest.layers().clone();
        layers.push(layer.blob);
        self.add_image(&written(&config), layers, None)
    }

    /// Makes an image without a name that has the files of another in a single layer.
    ///
    /// # Errors
    /// As [`Store::commit`].
    pub fn flatten(
        &self,
        id: &str,
        labels: &BTreeMap<String, String>,
    ) -> Result<String, StoreError> {
        self.making(|| self.flatten_held(id, labels))
    }

    fn flatten_held(
        &self,
        id: &str,
        labels: &BTreeMap<String, String>,
    ) -> Result<String, StoreError> {
        let image = self.image(id)?;
        let directories = self.layer_directories(&image)?;
        let scratch = self.scratch()?;
        let mut layer = None;
        merged::look(&directories, scratch.path(), |tree| {
            layer = Some(self.layer_of(tree, Form::Tree));
            Ok(())
        })
        .during("reading the layers of image", Path::new(id))?;
        let layer = layer.ok_or_else(|| StoreError::NoImage(id.to_owned()))??;
        let mut config = self.config_of(&image)?;
        let created = now();
        set(&mut config, "rootfs", json!({"type": "layers", "diff_ids": []}));
        set(&mut config, "history", json!([]));
        append_layer(&mut config, &layer.diff_id, &created, json!({"created": &created}))?;
        let run = config.entry("config").or_insert_with(|| json!({}));
        if let Some(run) = run.as_object_mut() {
            set(run, "Labels", json!(labels));
        }
        self.add_image(&written(&config), vec![layer.blob], None)
    }

    /// Makes a named image of the files of one and the configuration of another.
    ///
    /// # Errors
    /// That one of them is gone, that their layers do not belong together, or that the disk is
    /// full.
    pub fn publish(&self, publication: &Publication) -> Result<String, StoreError> {
        self.making(|| self.publish_held(publication))
    }

    fn publish_held(&self, publication: &Publication) -> Result<String, StoreError> {
        let base = self.image(&publication.base)?;
        let files = self.image(&publication.files)?;
        let mut config = self.config_of(&base)?;
        let is_merged = files.layers.len() == 1 && !base.layers.is_empty();
        let continues =
            files.layers.len() == base.layers.len() + 1 && files.layers.starts_with(&base.layers);
        if !continues && !is_merged {
            let what = format!("image {}", publication.files);
            return Err(StoreError::invalid(what, format!("not made of {}", publication.base)));
        }
        if !continues {
            // None of the steps before made the only layer.
            for step in
                config.get_mut("history").and_then(Value::as_array_mut).into_iter().flatten()
            {
                if let Some(step) = step.as_object_mut() {
                    set(step, "empty_layer", Value::Bool(true));
                }
            }
        }
        let Some((newest, others)) = files.layers.split_last() else {
            return Err(StoreError::NoImage(publication.files.clone()));
        };
        let others: Vec<String> = others.iter().map(|hex| format!("sha256:{hex}")).collect();
        set(&mut config, "rootfs", json!({"type": "layers", "diff_ids": others}));
        let created = now();
        let step = json!({
            "created": &created,
            "created_by": publication.created_by,
            "author": publication.author,
            "comment": publication.comment,
        });
        append_layer(&mut config, newest, &created, step)?;
        let layers = files.manifest.layers().clone();
        self.add_image(&written(&config), layers, Some(&publication.reference))
    }

    /// The archive of a directory, as content of the store.
    fn layer_of(&self, directory: &Path, form: Form) -> Result<NewLayer, StoreError> {
        let blob = self.0.blobs.begin()?;
        let archive = || {
            let compressed = compression::writer(blob)?;
            let (compressed, diff_id) = pack(directory, form, Hashing::new(compressed))?.finish();
            let mut blob = compressed.finish()?;
            blob.flush()?;
            Ok::<_, std::io::Error>((blob, diff_id))
        };
        let (blob, diff_id) = archive().during("saving the files of", directory)?;
        let blob = self.0.blobs.finish(blob)?;
        Ok(NewLayer { blob: descriptor(MediaType::ImageLayerZstd, &blob)?, diff_id })
    }

    /// Whoever made an archive may have been wrong about how its layers are compressed.
    fn with_its_media_type(&self, mut layer: Descriptor) -> Result<Descriptor, StoreError> {
        let blob = digest_of(&layer)?.to_owned();
        let path = self.0.blobs.path(&blob);
        let file = self.0.blobs.file(&blob)?;
        let size = file.metadata().during("inspecting", &path)?.len();
        let (_, compression) = compression::reader(file).during("reading", &path)?;
        layer.set_media_type(match compression {
            Compression::None => MediaType::ImageLayer,
            Compression::Gzip => MediaType::ImageLayerGzip,
            Compression::Zstd => MediaType::ImageLayerZstd,
        });
        layer.set_size(size);
        Ok(layer)
    }

    /// The configuration as it was written, with what others have put into it.
    fn config_of(&self, image: &StoredImage) -> Result<Map<String, Value>, StoreError> {
        let text = self.0.blobs.document(&image.id)?;
        serde_json::from_slice(&text).map_err(|error| {
            StoreError::invalid(format!("the configuration of image {}", image.id), error)
        })
    }
}

fn append_layer(
    config: &mut Map<String, Value>,
    diff_id: &str,
    created: &str,
    step: Value,
) -> Result<(), StoreError> {
    let diff_ids = config
        .get_mut("rootfs")
        .and_then(|rootfs| rootfs.get_mut("diff_ids"))
        .and_then(Value::as_array_mut)
        .ok_or_else(|| StoreError::invalid("the image's configuration", "it has no layers"))?;
    diff_ids.push(json!(format!("sha256:{diff_id}")));
    let history = config.entry("history").or_insert_with(|| json!([]));
    if let Some(history) = history.as_array_mut() {
        history.push(step);
    } else {
        // Some builders write null for none.
        *history = json!([step]);
    }
    set(config, "created", json!(created));
    Ok(())
}

fn set(object: &mut Map<String, Value>, name: &str, value: Value) {
    object.insert(name.to_owned(), value);
}

fn written(config: &Map<String, Value>) -> Vec<u8> {
    // A map with strings as keys can always be written.
    serde_json::to_vec(config).unwrap_or_default()
}

pub(super) fn now() -> String {
    Utc::now().to_rfc3339_opts(SecondsFormat::Nanos, true)
}

pub(super) fn descriptor(media_type: MediaType, blob: &Blob) -> Result<Descriptor, StoreError> {
    let what = || format!("content sha256:{}", blob.digest);
    let digest: Digest =
        format!("sha256:{}", blob.digest).parse().map_err(StoreError::document(what()))?;
    DescriptorBuilder::default()
        .media_type(media_type)
        .digest(digest)
        .size(blob.size)
        .build()
        .map_err(StoreError::document(what()))
}
