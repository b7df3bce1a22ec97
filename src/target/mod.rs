//! What a username asks for.
//!
//! A [`Target`] exists only if it parsed; whether it exists on the testbed is the inventory's
//! question, asked after authentication.

mod username;

use std::fmt;

use crate::names::{AccountName, ImageLabel, ImageTag, Login, NodeName};

pub use username::{MAX_USERNAME_BYTES, UsernameError};

/// A parsed SSH user name: `[account+]target`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Username {
    /// The account the client says it is, where the credentials do not tell.
    pub account: Option<AccountName>,
    /// What it asks for.
    pub target: Target,
}

/// What a client asks for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Target {
    /// A container of an image.
    Image(ImageName),
    /// One or several nodes or devices.
    Nodes(NodesTarget),
    /// The gateway itself, by the name it has in this configuration.
    Lobby(NodeName),
}

/// Nodes, and the login to use on them.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct NodesTarget {
    /// `None`: the node's configured login, root unless said otherwise.
    pub login: Option<Login>,
    /// One selector or more, in the order typed, none twice.
    pub selectors: Vec<NodeSelector>,
}

/// One part of a node set.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum NodeSelector {
    /// One node or device.
    Name(NodeName),
    /// `my-nodes`: nodes that boot an image of the account.
    MyNodes,
    /// `free-nodes`: nodes that boot an image of `waltplatform`.
    FreeNodes,
    /// `all-nodes`.
    AllNodes,
}

/// An image as a user names it. The owner is resolved later.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ImageName {
    /// Whose image; `None`: found by the resolution order.
    pub owner: Option<AccountName>,
    /// The name.
    pub name: ImageLabel,
    /// The tag; `None`: `latest`.
    pub tag: Option<ImageTag>,
}

impl NodesTarget {
    /// One node, with its own login.
    pub fn one(name: NodeName) -> Self {
        Self { login: None, selectors: vec![NodeSelector::Name(name)] }
    }

    /// The node, when the target is exactly one named node or device.
    pub fn single(&self) -> Option<&NodeName> {
        match self.selectors.as_slice() {
            [NodeSelector::Name(name)] => Some(name),
            _ => None,
        }
    }
}

// Each `Display` writes the form that needs no quoting in a shell and that scp takes for a user
// name; parsing it gives the same value again.

impl fmt::Display for Username {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(account) = &self.account {
            write!(f, "{account}+")?;
        }
        self.target.fmt(f)
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Image(image) => write!(f, "image.{image}"),
            Self::Nodes(nodes) => nodes.fmt(f),
            Self::Lobby(name) => name.fmt(f),
        }
    }
}

impl fmt::Display for NodesTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(login) = &self.login {
            write!(f, "{login}.")?;
        }
        for (index, selector) in self.selectors.iter().enumerate() {
            if index > 0 {
                f.write_str(",")?;
            }
            selector.fmt(f)?;
        }
        Ok(())
    }
}

impl fmt::Display for NodeSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => name.fmt(f),
            Self::MyNodes => f.write_str("my-nodes"),
            Self::FreeNodes => f.write_str("free-nodes"),
            Self::AllNodes => f.write_str("all-nodes"),
        }
    }
}

impl fmt::Display for ImageName {
    /// `[owner.]name[_tag]`, without the "image." of a target.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(owner) = &self.owner {
            write!(f, "{owner}.")?;
        }
        self.name.fmt(f)?;
        match &self.tag {
            Some(tag) => write!(f, "_{tag}"),
            None => Ok(()),
        }
    }
}
