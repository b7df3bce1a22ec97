//! What a username asks for.
//!
//! A [`Target`] exists only if it parsed; whether it exists on the testbed is the inventory's
//! question, asked after authentication.

mod username;

use std::fmt;

use crate::names::{AccountName, ImageLabel, ImageTag, Login, NodeName};

pub use username::UsernameError;

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
    /// The gateway itself.
    Lobby,
}

/// Nodes, and the login to use on them.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct NodesTarget {
    /// `None`: the node's configured login, root unless said otherwise.
    pub login: Option<Login>,
    /// One selector or more, in the order typed.
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
    /// The node, when the target is exactly one named node or device.
    pub fn single(&self) -> Option<&NodeName> {
        match self.selectors.as_slice() {
            [NodeSelector::Name(name)] => Some(name),
            _ => None,
        }
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
