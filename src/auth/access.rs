//! Who may use which target.

use std::collections::BTreeMap;

use super::wildcard;
use crate::config::Config;
use crate::names::AccountName;
use crate::target::{ImageName, Target};

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

    /// Whether `account` may use `target`: all of it, if it is several nodes.
    pub(super) fn allow(&self, account: &AccountName, target: &Target) -> bool {
        let Some(patterns) = self.patterns.get(account) else {
            return true;
        };
        let allowed = |name: &str| patterns.iter().any(|pattern| wildcard::matches(pattern, name));
        match target {
            Target::Lobby(lobby) => allowed(lobby.as_str()),
            Target::Nodes(nodes) => {
                nodes.selectors.iter().all(|selector| allowed(&selector.to_string()))
            }
            Target::Image(image) => image_names(image).iter().any(|name| allowed(name)),
        }
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
    use crate::target::{NodeSelector, NodesTarget};

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
    fn keywords_are_matched_as_they_are_written() {
        assert!(allows(&["my-nodes"], &nodes(&["my-nodes"])));
        assert!(!allows(&["rpi*"], &nodes(&["all-nodes"])));
        assert!(!allows(&["my-nodes"], &nodes(&["all-nodes"])));
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
