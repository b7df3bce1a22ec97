//! The username grammar.
//!
//! ```text
//! username = [ account "+" ] target
//! target   = "image." image          a container of an image
//!          | [ login "." ] nodes     nodes or devices
//!          | lobby                   the gateway itself
//! nodes    = name *( "," name )      names, my-nodes, free-nodes, all-nodes
//! image    = [ owner "." ] name [ "_" tag ]
//!          | [ owner "/" ] name [ ":" tag ]
//! ```
//!
//! The characters that separate parts occur in no part that could stand there, so every text has
//! one reading at most.

use std::str::FromStr;

use super::{ImageName, NodeSelector, NodesTarget, Target, Username};
use crate::names::{ImageLabel, NameError, NodeName, quoted};

/// The longest username that is looked at.
pub const MAX_USERNAME_BYTES: usize = 1024;

/// What an image target starts with.
const IMAGE_PREFIX: &str = "image.";

/// Why a username is not one. Each message is one line that says what to type instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UsernameError {
    /// Nothing was asked for.
    #[error("no target in the user name: type NODE, LOGIN.NODE or image.NAME")]
    Empty,
    /// More than [`MAX_USERNAME_BYTES`].
    #[error("the user name has {length} bytes: type {MAX_USERNAME_BYTES} at most")]
    TooLong {
        /// Its length in bytes.
        length: usize,
    },
    /// What stands in front of "+" is not an account.
    #[error("{0}; type ACCOUNT+TARGET, or the target alone")]
    Account(NameError),
    /// What stands in front of "." is not a login.
    #[error("{0}; type LOGIN.NODE, or image.NAME for an image")]
    Login(NameError),
    /// A node or device with an impossible name.
    #[error(transparent)]
    Node(NameError),
    /// Two commas in a row, or one at an end.
    #[error(
        "an empty name in {}: type names with one comma between them, as in rpi1,rpi2",
        quoted(set)
    )]
    EmptyNodeName {
        /// The set as typed.
        set: String,
    },
    /// Each node of a set with its own login, or a name with a domain.
    #[error(
        "more than one \".\" in {}: type one login for all nodes, and names without domain, as in root.rpi1,rpi2",
        quoted(text)
    )]
    SeveralLogins {
        /// What was typed.
        text: String,
    },
    /// `login@node`.
    #[error("\"@\" in a user name: type {suggestion}")]
    AtSign {
        /// What was meant.
        suggestion: Target,
    },
    /// An image without "image.".
    #[error("{} is an image's name, not a node's: type {suggestion}", quoted(text))]
    ImageWithoutPrefix {
        /// What was typed.
        text: String,
        /// What was meant.
        suggestion: Target,
    },
    /// Nothing after "image.".
    #[error("no image name after \"image.\": type one, as in image.pc-x86-64-default")]
    EmptyImageName,
    /// A set of images.
    #[error("a comma in the image name {}: type one image", quoted(text))]
    SeveralImages {
        /// What was typed.
        text: String,
    },
    /// Separators of both forms.
    #[error("{} mixes two ways to name an image: type image.{suggestion}", quoted(text))]
    MixedImageForms {
        /// What was typed.
        text: String,
        /// What was meant.
        suggestion: ImageName,
    },
    /// A reference to another registry.
    #[error(
        "{} has more parts than OWNER/NAME:TAG: images of other registries need a short name under [images] of the gateway's configuration",
        quoted(text)
    )]
    RegistryReference {
        /// What was typed.
        text: String,
    },
    /// Owner, name or tag of an image.
    #[error("{0}; type image.NAME, image.OWNER.NAME or image.OWNER.NAME_TAG")]
    Image(NameError),
}

impl Username {
    /// Reads the user name of an SSH client. `lobby` is what the gateway itself is called; a node
    /// of the same name is reached as `LOGIN.NAME`.
    ///
    /// # Errors
    /// The first thing that is wrong with the text. Whether its names exist is not looked at.
    pub fn parse(text: &str, lobby: &NodeName) -> Result<Self, UsernameError> {
        if text.len() > MAX_USERNAME_BYTES {
            return Err(UsernameError::TooLong { length: text.len() });
        }
        let (account, target) = match text.split_once('+') {
            None => (None, text),
            Some((account, target)) => {
                let account = account.parse().map_err(UsernameError::Account)?;
                (Some(account), target)
            }
        };
        let target = Target::parse(target, lobby)?;
        Ok(Self { account, target })
    }
}

impl Target {
    /// Reads a username without its account. See [`Username::parse`].
    ///
    /// # Errors
    /// The first thing that is wrong with the text.
    pub fn parse(text: &str, lobby: &NodeName) -> Result<Self, UsernameError> {
        if let Some(image) = text.strip_prefix(IMAGE_PREFIX) {
            return image.parse().map(Self::Image);
        }
        match text.parse::<NodesTarget>()? {
            NodesTarget { login: None, selectors }
                if selectors == [NodeSelector::Name(lobby.clone())] =>
            {
                Ok(Self::Lobby(lobby.clone()))
            }
            nodes => Ok(Self::Nodes(nodes)),
        }
    }
}

impl FromStr for NodesTarget {
    type Err = UsernameError;

    /// Reads `[login.]nodes`. A name that comes again is dropped.
    fn from_str(text: &str) -> Result<Self, UsernameError> {
        if text.is_empty() {
            return Err(UsernameError::Empty);
        }
        if let Some(error) = image_without_prefix(text).or_else(|| at_sign(text)) {
            return Err(error);
        }
        let (login, set) = match text.split_once('.') {
            None => (None, text),
            Some((_, set)) if set.contains('.') => {
                let text = text.to_owned();
                return Err(UsernameError::SeveralLogins { text });
            }
            Some((login, set)) => {
                let login = login.parse().map_err(UsernameError::Login)?;
                (Some(login), set)
            }
        };
        let mut selectors = Vec::new();
        for name in set.split(',') {
            if name.is_empty() {
                let set = set.to_owned();
                return Err(UsernameError::EmptyNodeName { set });
            }
            let selector = name.parse().map_err(UsernameError::Node)?;
            // Linear, but of a bounded text.
            if !selectors.contains(&selector) {
                selectors.push(selector);
            }
        }
        Ok(Self { login, selectors })
    }
}

impl FromStr for NodeSelector {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        match text {
            "my-nodes" => Ok(Self::MyNodes),
            "free-nodes" => Ok(Self::FreeNodes),
            "all-nodes" => Ok(Self::AllNodes),
            name => name.parse().map(Self::Name),
        }
    }
}

impl FromStr for ImageName {
    type Err = UsernameError;

    /// Reads an image's name in either form, without "image.".
    fn from_str(text: &str) -> Result<Self, UsernameError> {
        if text.is_empty() {
            return Err(UsernameError::EmptyImageName);
        }
        if text.contains(',') {
            let text = text.to_owned();
            return Err(UsernameError::SeveralImages { text });
        }
        let parsed = if has_walt_separator(text) {
            image_name(text, '/', ':')
        } else {
            image_name(text, '.', '_')
        };
        parsed.map_err(|error| explain_image_error(text, error))
    }
}

/// A text with neither of these is in the scp-safe form, or has a name only.
fn has_walt_separator(text: &str) -> bool {
    text.contains(['/', ':'])
}

/// The owner is split off first: its name may have a "_", which no image name has.
fn image_name(text: &str, after_owner: char, before_tag: char) -> Result<ImageName, NameError> {
    let (owner, rest) = match text.split_once(after_owner) {
        Some((owner, rest)) => (Some(owner.parse()?), rest),
        None => (None, text),
    };
    let (name, tag) = match rest.split_once(before_tag) {
        Some((name, tag)) => (name, Some(tag.parse()?)),
        None => (rest, None),
    };
    let name: ImageLabel = name.parse()?;
    Ok(ImageName { owner, name, tag })
}

fn explain_image_error(text: &str, error: NameError) -> UsernameError {
    if !has_walt_separator(text) {
        return UsernameError::Image(error);
    }
    let first = text.split_once('/').map_or("", |(first, _)| first);
    if first.contains(['.', ':']) || text.matches('/').count() > 1 {
        let text = text.to_owned();
        return UsernameError::RegistryReference { text };
    }
    let scp_form = text.replace('/', ".").replace(':', "_");
    match image_name(&scp_form, '.', '_') {
        Ok(suggestion) => {
            let text = text.to_owned();
            UsernameError::MixedImageForms { text, suggestion }
        }
        Err(_) => UsernameError::Image(error),
    }
}

/// `alice/pc:v2` can only be an image.
fn image_without_prefix(text: &str) -> Option<UsernameError> {
    if !has_walt_separator(text) {
        return None;
    }
    let suggestion = Target::Image(image_name(text, '/', ':').ok()?);
    let text = text.to_owned();
    Some(UsernameError::ImageWithoutPrefix { text, suggestion })
}

/// `ssh root@rpi1@gateway` asks for the user `root@rpi1`.
fn at_sign(text: &str) -> Option<UsernameError> {
    let (login, node) = text.split_once('@')?;
    let suggestion = Target::Nodes(NodesTarget {
        login: Some(login.parse().ok()?),
        selectors: vec![node.parse().ok()?],
    });
    Some(UsernameError::AtSign { suggestion })
}

#[cfg(test)]
mod tests;
