//! Images to archives that everybody takes: an OCI image layout that is what `docker save` writes
//! as well.

use std::collections::HashMap;
use std::io::{self, Read, Write};

use libcontainer::oci_spec::image::{
    ANNOTATION_REF_NAME, Descriptor, ImageIndexBuilder, ImageManifestBuilder, MediaType,
    SCHEMA_VERSION,
};
use serde_json::json;
use sha2::{Digest, Sha256};
use tar_core::EntryType;
use tar_core::builder::EntryBuilder;

use super::blobs::{Blob, hex};
use super::compression;
use super::error::{During, StoreError};
use super::make::descriptor;
use super::{Store, digest_of, index};

const BLOCK: u64 = 512;
/// containerd's, which newer versions of Docker read names from.
const IMAGE_NAME: &str = "io.containerd.image.name";

impl Store {
    /// Writes an image as an archive. The layers are in it without compression: not every program
    /// that takes such archives knows zstd.
    ///
    /// # Errors
    /// That there is no such image, that it cannot be read, or that the archive cannot be written.
    pub fn export(&self, reference: &str, into: impl Write) -> Result<(), StoreError> {
        let _hold = self.hold()?;
        let image = self.image(reference)?;
        let mut layers = Vec::with_capacity(image.layers.len());
        for (diff_id, layer) in image.layers.iter().zip(image.manifest.layers()) {
            let mut plain = self.plain(layer)?;
            let size = io::copy(&mut plain, &mut io::sink()).during("reading", &self.0.root)?;
            let blob = Blob { digest: diff_id.clone(), size };
            layers.push((descriptor(MediaType::ImageLayer, &blob)?, layer));
        }
        let config = self.document(&image.id)?;
        let manifest = ImageManifestBuilder::default()
            .schema_version(SCHEMA_VERSION)
            .media_type(MediaType::ImageManifest)
            .config(image.manifest.config().clone())
            .layers(layers.iter().map(|(layer, _)| layer.clone()).collect::<Vec<_>>())
            .build()
            .and_then(|manifest| manifest.to_string())
            .map_err(StoreError::document("the image's manifest"))?;
        let manifest_blob =
            Blob { digest: hex(&Sha256::digest(&manifest)), size: manifest.len() as u64 };
        let name = image.references.iter().find(|name| **name == super::canonical(reference));
        let mut entry = descriptor(MediaType::ImageManifest, &manifest_blob)?;
        entry.set_annotations(name.map(|name| {
            let full_name = format!("docker.io/{name}");
            HashMap::from([
                (ANNOTATION_REF_NAME.to_owned(), name.clone()),
                (IMAGE_NAME.to_owned(), full_name),
            ])
        }));
        let index = ImageIndexBuilder::default()
            .schema_version(SCHEMA_VERSION)
            .manifests([entry])
            .build()
            .and_then(|index| index.to_string())
            .map_err(StoreError::document("the index"))?;
        let docker = json!([{
            "Config": path_of(&image.id),
            "RepoTags": name.map(|name| vec![name]),
            "Layers": image.layers.iter().map(|diff_id| path_of(diff_id)).collect::<Vec<_>>(),
        }]);

        let mut archive = Writer { into };
        archive.file("oci-layout", index::LAYOUT.1.as_bytes())?;
        archive.file("index.json", index.as_bytes())?;
        archive.file("manifest.json", docker.to_string().as_bytes())?;
        archive.directory("blobs/")?;
        archive.directory("blobs/sha256/")?;
        archive.file(&path_of(&manifest_blob.digest), manifest.as_bytes())?;
        archive.file(&path_of(&image.id), &config)?;
        let mut done = Vec::new();
        for (plain, stored) in layers {
            // The same layer may be in an image twice.
            if !done.contains(plain.digest()) {
                archive.content(&path_of(digest_of(&plain)?), plain.size(), self.plain(stored)?)?;
                done.push(plain.digest().clone());
            }
        }
        archive.end()
    }

    fn plain(&self, layer: &Descriptor) -> Result<Box<dyn Read + Send>, StoreError> {
        let file = self.open_blob(digest_of(layer)?)?;
        Ok(compression::reader(file).during("reading", &self.0.root)?.0)
    }
}

fn path_of(digest: &str) -> String {
    format!("blobs/sha256/{digest}")
}

struct Writer<W> {
    into: W,
}

impl<W: Write> Writer<W> {
    fn directory(&mut self, path: &str) -> Result<(), StoreError> {
        self.header(path, EntryType::Directory, 0o755, 0)
    }

    fn file(&mut self, path: &str, content: &[u8]) -> Result<(), StoreError> {
        self.content(path, content.len() as u64, content)
    }

    fn content(&mut self, path: &str, size: u64, mut content: impl Read) -> Result<(), StoreError> {
        self.header(path, EntryType::Regular, 0o644, size)?;
        let copied = io::copy(&mut content, &mut self.into).map_err(failed)?;
        if copied != size {
            return Err(StoreError::invalid(path, "it has changed while it was read"));
        }
        let padding = size.next_multiple_of(BLOCK) - size;
        io::copy(&mut io::repeat(0).take(padding), &mut self.into).map_err(failed)?;
        Ok(())
    }

    fn header(
        &mut self,
        path: &str,
        kind: EntryType,
        mode: u32,
        size: u64,
    ) -> Result<(), StoreError> {
        let mut entry = EntryBuilder::new_ustar();
        entry.path(path).entry_type(kind);
        entry
            .mode(mode)
            .and_then(|entry| entry.size(size))
            .and_then(|entry| entry.mtime(0))
            .map_err(|error| StoreError::invalid(path, error))?;
        self.into.write_all(&entry.finish_bytes()).map_err(failed)
    }

    /// The end of an archive, tar(5).
    fn end(mut self) -> Result<(), StoreError> {
        self.into.write_all(&[0; 2 * BLOCK as usize]).map_err(failed)?;
        self.into.flush().map_err(failed)
    }
}

fn failed(error: io::Error) -> StoreError {
    StoreError::system("writing the archive", error)
}
