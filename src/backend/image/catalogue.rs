//! Images as the inventory knows them: names, aliases, and the nodes that boot them.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;

use super::{ImageError, ImageListener, ImageNames, ResolvedImage};
use crate::inventory::Inventories;
use crate::inventory::image_resolution::{ImageReference, ResolveError, resolve};
use crate::names::{AccountName, ImageLabel};
use crate::target::ImageName;

/// Finds images by the rules of [`crate::inventory::image_resolution`], and keeps the WalT server
/// informed.
pub struct Catalogue {
    aliases: BTreeMap<ImageLabel, String>,
    inventory: Arc<Inventories>,
}

impl Catalogue {
    /// `aliases` are those of the configuration.
    pub fn new(aliases: BTreeMap<ImageLabel, String>, inventory: Arc<Inventories>) -> Self {
        Self { aliases, inventory }
    }
}

impl ImageNames for Catalogue {
    fn resolve(
        &self,
        name: &ImageName,
        account: &AccountName,
        available: &[String],
    ) -> Result<ResolvedImage, ImageError> {
        // What does not parse is no image that a user could name.
        let available: Vec<ImageReference> =
            available.iter().filter_map(|reference| reference.parse().ok()).collect();
        let image = resolve(name, account, &self.aliases, &available).map_err(refused)?;
        Ok(ResolvedImage { reference: image.engine_text().to_owned(), fullname: image.canonical() })
    }
}

fn refused(error: ResolveError) -> ImageError {
    match error {
        ResolveError::Unknown { name, similar } => {
            ImageError::UnknownImage { name: name.to_string(), similar }
        }
        ResolveError::Ambiguous { name, candidates } => ImageError::AmbiguousImage {
            name: name.to_string(),
            candidates: candidates.iter().map(|image| format!("image.{image}")).collect(),
        },
        error @ ResolveError::Alias { .. } => ImageError::BadAlias(error.to_string()),
    }
}

#[async_trait]
impl ImageListener for Catalogue {
    async fn images_changed(&self) -> Result<(), String> {
        self.inventory.images_changed().await.map_err(|error| error.to_string())
    }

    fn nodes_running(&self, fullname: &str) -> Vec<String> {
        self.inventory
            .nodes()
            .into_iter()
            .filter(|node| node.image.as_deref() == Some(fullname))
            .map(|node| node.name.to_string())
            .collect()
    }
    fn is_in_use(&self, fullname: &str) -> bool {
        self.inventory.images().iter().any(|image| image.in_use && image.fullname == fullname)
    }
}
