//! Images as the inventory knows them: names, aliases, and the nodes that boot them.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;

use super::{ImageError, ImageListener, ImageNames, ListedImage, ResolvedImage};
use crate::inventory::Inventories;
use crate::inventory::image_resolution::{ImageReference, ResolveError, listing, resolve};
use crate::names::{AccountName, ImageLabel, NodeName};
use crate::target::ImageName;

/// Finds images by the rules of [`crate::inventory::image_resolution`], and keeps the WalT server
/// informed.
pub struct Catalogue {
    aliases: BTreeMap<ImageLabel, String>,
    inventory: Arc<Inventories>,
    lobby: NodeName,
}

impl Catalogue {
    /// `aliases` and the lobby's name are those of the configuration.
    pub fn new(
        aliases: BTreeMap<ImageLabel, String>,
        inventory: Arc<Inventories>,
        lobby: NodeName,
    ) -> Self {
        Self { aliases, inventory, lobby }
    }
}

impl ImageNames for Catalogue {
    fn resolve(
        &self,
        name: &ImageName,
        account: &AccountName,
        available: &[String],
    ) -> Result<ResolvedImage, ImageError> {
        let image = resolve(name, account, &self.aliases, &parsed(available))
            .map_err(|error| refused(error, &self.lobby))?;
        Ok(ResolvedImage { reference: image.engine_text().to_owned(), fullname: image.canonical() })
    }

    fn list(&self, account: &AccountName, available: &[String]) -> Vec<ListedImage> {
        listing(account, &self.aliases, &parsed(available))
            .into_iter()
            .map(|(name, image)| ListedImage { name, fullname: image.canonical() })
            .collect()
    }
}

/// What does not parse is no image that a user could name.
fn parsed(references: &[String]) -> Vec<ImageReference> {
    references.iter().filter_map(|reference| reference.parse().ok()).collect()
}

fn refused(error: ResolveError, lobby: &NodeName) -> ImageError {
    match error {
        ResolveError::Unknown { name, similar } => {
            ImageError::UnknownImage { name: name.to_string(), similar, lobby: lobby.clone() }
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
