//! Which nodes a set is.

use std::fmt;

use crate::backend::BackendError;
use crate::inventory::{Inventories, NodeRecord, PLATFORM_OWNER, is_free, owned_by};
use crate::names::{AccountName, Login, NodeName};
use crate::target::{NodeSelector, NodesTarget};

/// Whether the account may use a node, named by itself or brought in by a keyword.
pub type SetAccess = Box<dyn Fn(&NodeSelector, &NodeName) -> bool + Send + Sync>;

/// A set as it was asked for. Which nodes that is, is looked up at each session.
pub struct NodeSet {
    target: NodesTarget,
    allows: SetAccess,
}

impl fmt::Debug for NodeSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("NodeSet").field(&self.target).finish()
    }
}

impl NodeSet {
    /// `allows` is asked for each node.
    pub fn new(target: NodesTarget, allows: SetAccess) -> Self {
        Self { target, allows }
    }

    pub(super) fn login(&self) -> Option<Login> {
        self.target.login.clone()
    }

    /// The nodes, each once: those named, in this order, and those of keywords by name. What a
    /// keyword brings in that the account may not use is left out.
    pub(super) fn expand(
        &self,
        inventory: &Inventories,
        account: &AccountName,
    ) -> Result<Vec<NodeName>, BackendError> {
        let mut names = Vec::new();
        let mut unknown = Vec::new();
        for selector in &self.target.selectors {
            match selector {
                NodeSelector::Name(name) if inventory.node(name).is_err() => {
                    unknown.push(name.clone());
                }
                NodeSelector::Name(name) => names.push(name.clone()),
                keyword => {
                    let nodes = inventory.nodes().into_iter();
                    let chosen = nodes.filter(|node| chooses(keyword, node, account));
                    names.extend(
                        chosen.map(|node| node.name).filter(|name| (self.allows)(keyword, name)),
                    );
                }
            }
        }
        if !unknown.is_empty() {
            return Err(BackendError::UnknownNodes { names: unknown, stale: inventory.stale() });
        }
        let mut once = Vec::with_capacity(names.len());
        for name in names {
            if !once.contains(&name) {
                once.push(name);
            }
        }
        if once.is_empty() {
            return Err(BackendError::Unsupported(self.nothing(account)));
        }
        Ok(once)
    }

    /// Why there is no node in the set.
    fn nothing(&self, account: &AccountName) -> String {
        match self.target.selectors.as_slice() {
            [NodeSelector::MyNodes] => format!("no node runs an image of {account}"),
            [NodeSelector::FreeNodes] => {
                format!("no node that {account} may use is free: runs an image of {PLATFORM_OWNER}")
            }
            _ => format!("there is no node in {} that {account} may use", self.target),
        }
    }
}

fn chooses(keyword: &NodeSelector, node: &NodeRecord, account: &AccountName) -> bool {
    match keyword {
        NodeSelector::Name(name) => node.name == *name,
        NodeSelector::MyNodes => owned_by(node, account),
        NodeSelector::FreeNodes => is_free(node),
        NodeSelector::AllNodes => true,
    }
}
