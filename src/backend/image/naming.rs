//! Names of images: what the engine calls them, what people call them.

use async_trait::async_trait;

use super::error::ImageError;
use crate::inventory::image_resolution::ImageReference;
use crate::names::{AccountName, ImageLabel, ImageTag, NameError};
use crate::target::ImageName;

/// An image that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResolvedImage {
    /// As the engine knows it.
    pub reference: String,
    /// `OWNER/NAME:TAG`, or what [`canonical_reference`] makes of the reference.
    pub fullname: String,
}

/// An image in a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedImage {
    /// What the account calls it.
    pub name: ImageName,
    /// As in [`ResolvedImage`].
    pub fullname: String,
}

/// Finds the image that a name stands for.
pub trait ImageNames: Send + Sync {
    /// The image that `name` means to `account`, out of the references that the engine has.
    fn resolve(
        &self,
        name: &ImageName,
        account: &AccountName,
        available: &[String],
    ) -> Result<ResolvedImage, ImageError>;

    /// The names by which `account` reaches the images that the engine has, sorted.
    fn list(&self, account: &AccountName, available: &[String]) -> Vec<ListedImage>;
}

/// Who wants to know about saved images, and knows who boots them.
#[async_trait]
pub trait ImageListener: Send + Sync {
    /// The engine has a new image. An error says who could not be told, and why.
    async fn images_changed(&self) -> Result<(), String>;
    /// The nodes that boot the image `OWNER/NAME:TAG`.
    fn nodes_running(&self, fullname: &str) -> Vec<String>;
    /// Whether the WalT server says that a node boots the image, listed or not.
    fn is_in_use(&self, fullname: &str) -> bool;
}

/// A reference without the registry parts that mean nothing, and with its tag.
pub fn canonical_reference(reference: &str) -> String {
    match reference.parse::<ImageReference>() {
        Ok(parsed) => parsed.canonical(),
        // Whatever it is, it is no name that could be saved under.
        Err(_) => reference.to_owned(),
    }
}

/// Where a save goes: always to an image of the account itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SaveTarget {
    /// `OWNER/NAME:TAG`
    pub(super) fullname: String,
    /// What the owner calls it.
    pub(super) shown: String,
}

impl SaveTarget {
    pub(super) fn new(account: &AccountName, name: &ImageLabel, tag: Option<&ImageTag>) -> Self {
        let latest = ImageTag::latest();
        let tag = tag.unwrap_or(&latest);
        Self {
            fullname: format!("{account}/{name}:{tag}"),
            shown: if tag.is_latest() { name.to_string() } else { format!("{name}:{tag}") },
        }
    }

    /// Parses what somebody typed as a new name: `NAME` or `NAME:TAG`. The error is for them.
    pub(super) fn typed(account: &AccountName, text: &str) -> Result<Self, String> {
        let (name, tag) = name_and_tag(text).map_err(|error| error.to_string())?;
        if name.is_reserved() {
            return Err(format!("\"{name}\" is a reserved name"));
        }
        Ok(Self::new(account, &name, tag.as_ref()))
    }

    /// Parses what [`SaveTarget::shown`] was.
    pub(super) fn reparsed(account: &AccountName, shown: &str) -> Option<Self> {
        let (name, tag) = name_and_tag(shown).ok()?;
        Some(Self::new(account, &name, tag.as_ref()))
    }

    /// The names to use instead, in turn, when somebody else was first: `NAME-conflict-1` and on.
    pub(super) fn aside(&self) -> impl Iterator<Item = Self> {
        let (repository, tag) =
            self.fullname.rsplit_once(':').unwrap_or((self.fullname.as_str(), ""));
        let (name, shown_tag) = self.shown.split_once(':').unwrap_or((&self.shown, ""));
        (1..).map(move |number: u64| Self {
            fullname: format!("{repository}-conflict-{number}:{tag}"),
            shown: if shown_tag.is_empty() {
                format!("{name}-conflict-{number}")
            } else {
                format!("{name}-conflict-{number}:{shown_tag}")
            },
        })
    }

    /// The reference of this image in the engine, if it exists.
    pub(super) fn existing<'a>(&self, available: &'a [String]) -> Option<&'a str> {
        available
            .iter()
            .map(String::as_str)
            .find(|reference| canonical_reference(reference) == self.fullname)
    }

    /// How to ask the engine for this name when no image has it: in full, since short names
    /// mean different registries to different engines.
    pub(super) fn new_reference(&self) -> String {
        format!("docker.io/{}", self.fullname)
    }
}

fn name_and_tag(text: &str) -> Result<(ImageLabel, Option<ImageTag>), NameError> {
    match text.split_once(':') {
        Some((name, tag)) => Ok((name.parse()?, Some(tag.parse()?))),
        None => Ok((text.parse()?, None)),
    }
}

/// A full name as `account` would say it.
pub(super) fn shown_to(account: &AccountName, fullname: &str) -> String {
    let name = fullname.strip_suffix(":latest").unwrap_or(fullname);
    name.strip_prefix(account.as_str())
        .and_then(|rest| rest.strip_prefix('/'))
        .unwrap_or(name)
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registry_noise_and_the_implied_tag_do_not_matter() {
        for reference in ["alice/pc", "docker.io/alice/pc:latest", "localhost/alice/pc:latest"] {
            assert_eq!(canonical_reference(reference), "alice/pc:latest");
        }
        assert_eq!(canonical_reference("docker.io/library/alpine"), "alpine:latest");
        assert_eq!(
            canonical_reference("registry.example:5000/x/alpine"),
            "registry.example:5000/x/alpine:latest"
        );
    }

    #[test]
    fn a_typed_name_is_validated() {
        let alice: AccountName = "alice".parse().unwrap();
        let typed = |text| SaveTarget::typed(&alice, text);
        assert_eq!(typed("pc-2").unwrap().fullname, "alice/pc-2:latest");
        assert_eq!(typed("pc:old").unwrap().shown, "pc:old");
        for bad in ["", "Pc", "a b", "bob/pc", "default", "pc:", "pc:a:b", "../x"] {
            assert!(typed(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_name_aside_keeps_its_tag() {
        let alice: AccountName = "alice".parse().unwrap();
        let aside = |text| {
            let target = SaveTarget::typed(&alice, text).unwrap();
            let aside = target.aside().nth(1).unwrap();
            assert_eq!(SaveTarget::reparsed(&alice, &aside.shown).as_ref(), Some(&aside));
            aside
        };
        assert_eq!(aside("pc").fullname, "alice/pc-conflict-2:latest");
        assert_eq!(aside("pc:old").shown, "pc-conflict-2:old");
    }

    #[test]
    fn own_images_are_shown_without_their_owner() {
        let alice: AccountName = "alice".parse().unwrap();
        assert_eq!(shown_to(&alice, "alice/pc:latest"), "pc");
        assert_eq!(shown_to(&alice, "alicex/pc:1"), "alicex/pc:1");
    }
}
