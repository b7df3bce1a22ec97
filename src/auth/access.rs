//! Who may use which target.

use std::collections::BTreeMap;

use super::wildcard;
use crate::config::Config;
use crate::names::{AccountName, NodeName};
use crate::target::{ImageName, NodeSelector, Target};

/// The `allow` patterns of `[accounts.*]`.
#[derive(Debug)]
pub(super) struct AllowLists {
    /// Accounts that are not here may use everything.
    patterns: BTreeMap<AccountName, Vec<String>>,
}

impl AllowLists {
    pub(super) fn new(config: &Config) -> Self {
        let patterns = config
            .accounts
            .iter()
            .map(|(name, account)| (name.clone(), account.allow.clone()))
            .collect();
        Self { patterns }
    }

    /// Whether `account` may use `target`: all of it, if it is several nodes. A keyword stands for
    /// those of its nodes that the account may use, which may be none.
    pub(super) fn allow(&self, account: &AccountName, target: &Target) -> bool {
        let Some(patterns) = self.patterns.get(account) else {
            return true;
        };
        let allowed = |name: &str| patterns.iter().any(|pattern| wildcard::matches(pattern, name));
        match target {
            Target::Lobby(lobby) => allowed(lobby.as_str()),
            Target::Nodes(nodes) => nodes.selectors.iter().all(|selector| match selector {
                NodeSelector::Name(name) => allowed(name.as_str()),
                NodeSelector::MyNodes | NodeSelector::FreeNodes | NodeSelector::AllNodes => true,
            }),
            Target::Image(image) => image_names(image).iter().any(|name| allowed(name)),
        }
    }

    /// Whether `account` may use a node that `by` stands for: by its name, or by the keyword.
    pub(super) fn allow_node(
        &self,
        account: &AccountName,
        by: &NodeSelector,
        node: &NodeName,
    ) -> bool {
        let Some(patterns) = self.patterns.get(account) else {
            return true;
        };
        let by = by.to_string();
        patterns.iter().any(|pattern| {
            wildcard::matches(pattern, node.as_str()) || wildcard::matches(pattern, &by)
        })
    }
}

/// How an image can be written in a pattern: the tag `latest` may be left out.
fn image_names(image: &ImageName) -> Vec<String> {
    let owner = image.owner.as_ref().map(|owner| format!("{owner}.")).unwrap_or_default();
    let name = format!("image.{owner}{}", image.name);
    match &image.tag {
        Some(tag) if !tag.is_latest() => vec![format!("{name}_{tag}")],
        _ => vec![format!("{name}_latest"), name],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::Login;
    use crate::target::NodesTarget;

    fn lists(patterns: &[&str]) -> AllowLists {
        let patterns = patterns.iter().map(|pattern| (*pattern).to_owned()).collect();
        AllowLists { patterns: BTreeMap::from([("alice".parse().unwrap(), patterns)]) }
    }

    fn allows(patterns: &[&str], target: &Target) -> bool {
        lists(patterns).allow(&"alice".parse().unwrap(), target)
    }

    fn nodes(names: &[&str]) -> Target {
        let selectors = names
            .iter()
            .map(|name| match *name {
                "my-nodes" => NodeSelector::MyNodes,
                "free-nodes" => NodeSelector::FreeNodes,
                "all-nodes" => NodeSelector::AllNodes,
                name => NodeSelector::Name(name.parse().unwrap()),
            })
            .collect();
        Target::Nodes(NodesTarget { login: Some(Login::root()), selectors })
    }

    fn image(owner: Option<&str>, name: &str, tag: Option<&str>) -> Target {
        Target::Image(ImageName {
            owner: owner.map(|owner| owner.parse().unwrap()),
            name: name.parse().unwrap(),
            tag: tag.map(|tag| tag.parse().unwrap()),
        })
    }

    #[test]
    fn accounts_without_a_list_may_use_everything() {
        let lists = lists(&["rpi1"]);
        let bob = "bob".parse().unwrap();
        assert!(lists.allow(&bob, &nodes(&["pc1", "all-nodes"])));
        assert!(lists.allow(&bob, &image(None, "x", None)));
        assert!(lists.allow(&bob, &Target::Lobby("walt".parse().unwrap())));
    }

    #[test]
    fn every_node_of_a_set_must_be_allowed() {
        assert!(allows(&["rpi*", "pc1"], &nodes(&["rpi1", "rpi2", "pc1"])));
        assert!(!allows(&["rpi*"], &nodes(&["rpi1", "pc1"])));
    }

    #[test]
    fn a_keyword_stands_for_the_nodes_that_are_allowed() {
        assert!(allows(&["rpi*"], &nodes(&["all-nodes"])));
        let allows = |patterns: &[&str], by: NodeSelector, node: &str| {
            lists(patterns).allow_node(&"alice".parse().unwrap(), &by, &node.parse().unwrap())
        };
        assert!(allows(&["rpi*"], NodeSelector::AllNodes, "rpi1"));
        assert!(!allows(&["rpi*"], NodeSelector::AllNodes, "pc1"));
        assert!(allows(&["my-nodes"], NodeSelector::MyNodes, "pc1"));
        assert!(!allows(&["my-nodes"], NodeSelector::AllNodes, "pc1"));
    }

    #[test]
    fn images_match_with_owner_and_tag_as_asked_for() {
        assert!(allows(&["image.*"], &image(Some("bob"), "x", Some("v2"))));
        assert!(allows(&["image.bob.*"], &image(Some("bob"), "x", None)));
        assert!(!allows(&["image.bob.*"], &image(None, "x", None)));
        assert!(!allows(&["image.x"], &image(None, "x", Some("v2"))));
        assert!(allows(&["image.x_v?"], &image(None, "x", Some("v2"))));
        assert!(!allows(&["x"], &image(None, "x", None)), "a node pattern opens no image");
        assert!(!allows(&["image.x"], &nodes(&["image"])));
    }

    #[test]
    fn the_tag_latest_is_implied() {
        for pattern in ["image.x", "image.x_latest"] {
            assert!(allows(&[pattern], &image(None, "x", None)), "{pattern}");
            assert!(allows(&[pattern], &image(None, "x", Some("latest"))), "{pattern}");
        }
    }

    #[test]
    fn the_lobby_is_a_target_like_others() {
        assert!(allows(&["walt"], &Target::Lobby("walt".parse().unwrap())));
        assert!(!allows(&["rpi*"], &Target::Lobby("walt".parse().unwrap())));
    }
}
