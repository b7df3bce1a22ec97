//! Which image of the engine a user means by a name. No I/O.

mod reference;

use std::collections::BTreeMap;

use super::PLATFORM_OWNER;
use super::similar::closest;
use crate::names::{AccountName, ImageLabel, ImageTag};
use crate::target::ImageName;

pub use reference::{ImageReference, ReferenceError};

/// Why a name leads to no image, or to several.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ResolveError {
    /// There is none.
    #[error("no image named {name}")]
    Unknown {
        /// As asked for.
        name: ImageName,
        /// Up to three names close to it that the account could have typed, best first.
        similar: Vec<String>,
    },
    /// Several owners have one, and the account is none of them.
    #[error(
        "several images are named {name}: {}; say whose, as in image.{}",
        candidates.iter().map(ImageName::to_string).collect::<Vec<_>>().join(", "),
        candidates.first().unwrap_or(name)
    )]
    Ambiguous {
        /// As asked for.
        name: ImageName,
        /// What can be asked for instead, sorted.
        candidates: Vec<ImageName>,
    },
    /// The configuration's alias is not an image reference.
    #[error("[images.{alias}] of the gateway's configuration: {source}")]
    Alias {
        /// Which alias.
        alias: ImageLabel,
        /// What is wrong with it.
        source: ReferenceError,
    },
}

/// Finds the image that `account` means by `name` among those `available` in the engine.
///
/// Without an owner, in this order: an alias of the configuration (if no tag is given either, as
/// an alias has its own); the account's; [`PLATFORM_OWNER`]'s; nobody's; the only other owner's.
/// With an owner: that owner's only. Of references that differ in nothing a user sees, as
/// `localhost/alice/pc` and `docker.io/alice/pc` do, the first one is taken.
///
/// # Errors
/// No image has the name, several owners have one, or the alias cannot be read.
pub fn resolve(
    name: &ImageName,
    account: &AccountName,
    aliases: &BTreeMap<ImageLabel, String>,
    available: &[ImageReference],
) -> Result<ImageReference, ResolveError> {
    if let Some(found) = alias(name, aliases) {
        return found;
    }
    let tag = tag_text(name);
    let same_name: Vec<&ImageReference> = available
        .iter()
        .filter(|image| {
            image.name() == name.name.as_str()
                && image.tag() == Some(tag)
                && image.registry().is_none()
        })
        .collect();
    let of_owner = |owner: Option<&str>| {
        same_name.iter().find(|image| image.owner() == owner).map(|&image| image.clone())
    };
    let found = match &name.owner {
        Some(owner) => of_owner(Some(owner.as_str())),
        None => of_owner(Some(account.as_str()))
            .or_else(|| of_owner(Some(PLATFORM_OWNER)))
            .or_else(|| of_owner(None)),
    };
    match found {
        Some(image) => Ok(image),
        None if name.owner.is_none() => only_other_owner(name, &same_name)?
            .ok_or_else(|| unknown(name, account, aliases, available)),
        None => Err(unknown(name, account, aliases, available)),
    }
}

/// What `account` may type to reach each of the images that are `available` in the engine, sorted; each
/// with the image it leads to. Whose it is, is told of other accounts' images only, or where it must be typed.
/// An image to which aliases lead has several names.
pub fn listing(
    account: &AccountName,
    aliases: &BTreeMap<ImageLabel, String>,
    available: &[ImageReference],
) -> Vec<(ImageName, ImageReference)> {
    let leads_to = |name: &ImageName| resolve(name, account, aliases, available).ok();
    let of_aliases = aliases.keys().filter_map(|alias| {
        let name = ImageName { owner: None, name: alias.clone(), tag: None };
        let image = leads_to(&name)?.canonical();
        let found = available.iter().find(|available| available.canonical() == image)?;
        Some((name, found.clone()))
    });
    let of_images = available.iter().filter_map(|image| {
        let full = image.typed()?;
        let is_anothers =
            image.owner().is_some_and(|owner| owner != account.as_str() && owner != PLATFORM_OWNER);
        let short = (!is_anothers).then(|| ImageName { owner: None, ..full.clone() });
        let leads_here = |name: &ImageName| leads_to(name).as_ref() == Some(image);
        let name = short.into_iter().chain([full]).find(leads_here)?;
        Some((name, image.clone()))
    });
    let mut listed: Vec<_> = of_aliases.chain(of_images).collect();
    listed.sort_by_cached_key(|(name, _)| name.to_string());
    listed.dedup_by(|one, other| one.0 == other.0);
    listed
}

/// Where the account's changes to the image it calls `name` are saved under the same name:
/// `ACCOUNT/NAME:TAG`, whoever owns the original, which is thereby cloned and not overwritten.
/// That the name is not [reserved](ImageLabel::is_reserved) is for the caller to check.
pub fn save_target(account: &AccountName, name: &ImageName) -> String {
    format!("{account}/{}:{}", name.name, tag_text(name))
}

fn tag_text(name: &ImageName) -> &str {
    name.tag.as_ref().map_or(reference::LATEST, ImageTag::as_str)
}

fn alias(
    name: &ImageName,
    aliases: &BTreeMap<ImageLabel, String>,
) -> Option<Result<ImageReference, ResolveError>> {
    if name.owner.is_some() || name.tag.is_some() {
        return None;
    }
    let reference = aliases.get(&name.name)?;
    Some(
        reference
            .parse()
            .map_err(|source| ResolveError::Alias { alias: name.name.clone(), source }),
    )
}

/// `images` all have the name and tag that were asked for.
fn only_other_owner(
    name: &ImageName,
    images: &[&ImageReference],
) -> Result<Option<ImageReference>, ResolveError> {
    let mut by_owner: BTreeMap<&str, &ImageReference> = BTreeMap::new();
    for &image in images {
        if let Some(owner) = image.owner() {
            by_owner.entry(owner).or_insert(image);
        }
    }
    if by_owner.len() < 2 {
        return Ok(by_owner.into_values().next().cloned());
    }
    let candidates = by_owner
        .keys()
        .filter_map(|owner| owner.parse().ok())
        .map(|owner| ImageName { owner: Some(owner), ..name.clone() })
        .collect();
    Err(ResolveError::Ambiguous { name: name.clone(), candidates })
}

fn unknown(
    name: &ImageName,
    account: &AccountName,
    aliases: &BTreeMap<ImageLabel, String>,
    available: &[ImageReference],
) -> ResolveError {
    let tag = name.tag.clone().filter(|tag| !tag.is_latest());
    let asked = ImageName { tag, ..name.clone() };
    let candidates = listing(account, aliases, available).into_iter().map(|(listed, image)| {
        // Who named no owner mistyped the rest.
        let compared = match &name.owner {
            Some(_) => image.typed().unwrap_or_else(|| listed.clone()),
            None => ImageName { owner: None, ..listed.clone() },
        };
        (compared.to_string(), listed.to_string())
    });
    ResolveError::Unknown { name: name.clone(), similar: closest(&asked.to_string(), candidates) }
}

#[cfg(test)]
mod tests;
