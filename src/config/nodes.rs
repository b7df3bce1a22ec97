//! `[node_defaults]` and `[nodes.*]`.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnetwork::IpNetwork;

use super::reader::{Fault, Read, Root, Section, Value};
use super::values::{
    boolean, choice, integer, list, mac, network, node_address, parsed, path, text,
};
use super::{BootMode, FileOwner, HostKeyPolicy, Node, NodeOptions, OtherOwner};
use crate::names::{Login, NodeName};

/// `[node_defaults]`; `live` tells whether an inventory will name further nodes.
pub(super) fn node_defaults(root: &mut Root<'_, '_>, base: &Path, live: bool) -> Defaults {
    let mut section = root.section_or_empty("node_defaults");
    let defaults = NodeOptions {
        networks: Vec::new(),
        identity: PathBuf::from("/root/.ssh/id_rsa"),
        known_hosts: PathBuf::from("/var/lib/walt/ssh/known_hosts.nodes"),
        host_key_alias: Some("walt.node".to_owned()),
        host_key_policy: HostKeyPolicy::Strict,
        connect: Duration::from_secs(10),
        boot_wait: Duration::from_secs(120),
        spare_connections: true,
        other_owner: OtherOwner::Warn,
        persist_root: PathBuf::from("/var/lib/walt/nodes"),
        persist_owner: None,
    };
    let options = node_options(&mut section, base, &defaults);
    let networks_known = !section.is_wrong("networks");
    if live && options.networks.is_empty() && networks_known {
        section.warn(
            "networks",
            "no network is listed, so no node that the WalT server names can be reached; list \
             the one of walt-net",
        );
    }
    section.finish();
    Defaults { options, networks_known }
}

/// What nodes inherit.
pub(super) struct Defaults {
    pub(super) options: NodeOptions,
    /// Whether `networks` could be read, so that addresses can be judged by it.
    networks_known: bool,
}

/// The keys that [node_defaults] and [nodes.*] share, over those inherited.
fn node_options(
    section: &mut Section<'_, '_>,
    base: &Path,
    inherited: &NodeOptions,
) -> NodeOptions {
    let policy = choice(&[
        ("strict", HostKeyPolicy::Strict),
        ("accept-new", HostKeyPolicy::AcceptNew),
        ("off", HostKeyPolicy::Off),
    ]);
    let mut seconds = |key, range, default| {
        section.take(key, integer(range)).map_or(default, Duration::from_secs)
    };
    let connect = seconds("connect_seconds", 1..=600, inherited.connect);
    let boot_wait = seconds("boot_wait_seconds", 0..=3600, inherited.boot_wait);
    let policy = section.take("host_key_policy", policy);
    if policy == Some(HostKeyPolicy::Off) {
        section.warn(
            "host_key_policy",
            "host keys are not checked, so any machine on the way can pose as a node; use \
             \"accept-new\" at least",
        );
    }
    NodeOptions {
        networks: section
            .take("networks", list(network))
            .unwrap_or_else(|| inherited.networks.clone()),
        identity: section
            .take("identity", path(base))
            .unwrap_or_else(|| inherited.identity.clone()),
        known_hosts: section
            .take("known_hosts", path(base))
            .unwrap_or_else(|| inherited.known_hosts.clone()),
        host_key_alias: section
            .take("host_key_alias", host_key_alias)
            .unwrap_or_else(|| inherited.host_key_alias.clone()),
        host_key_policy: policy.unwrap_or(inherited.host_key_policy),
        connect,
        boot_wait,
        spare_connections: section
            .take("spare_connections", boolean)
            .unwrap_or(inherited.spare_connections),
        other_owner: section.take("other_owner", other_owner).unwrap_or(inherited.other_owner),
        persist_root: section
            .take("persist_root", path(base))
            .unwrap_or_else(|| inherited.persist_root.clone()),
        persist_owner: section.take("persist_owner", owner).unwrap_or(inherited.persist_owner),
    }
}

/// `UID:GID`; an empty string for nobody.
fn owner(value: &Value<'_>) -> Read<Option<FileOwner>> {
    let text = text(value)?;
    if text.is_empty() {
        return Ok(None);
    }
    let number = |text: &str| text.parse().ok().filter(|number| *number != u32::MAX);
    match text.split_once(':').map(|(uid, gid)| (number(uid), number(gid))) {
        Some((Some(uid), Some(gid))) => Ok(Some(FileOwner { uid, gid })),
        _ => Err(Fault::at(value, "must be the numbers of a user and a group, as \"1000:1000\"")),
    }
}

fn other_owner(value: &Value<'_>) -> Read<OtherOwner> {
    choice(&[("warn", OtherOwner::Warn), ("refuse", OtherOwner::Refuse)])(value)
}

/// A name as known_hosts can hold it; an empty string for none.
fn host_key_alias(value: &Value<'_>) -> Read<Option<String>> {
    let alias = text(value)?;
    let plain =
        |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b':');
    if !alias.bytes().all(plain) {
        let message = format!(
            "\"{}\" is not a name for known_hosts: letters, digits, \".\", \"-\", \"_\" and \":\" only",
            alias.escape_debug()
        );
        return Err(Fault::at(value, message));
    }
    Ok((!alias.is_empty()).then(|| alias.to_owned()))
}

/// `[nodes.*]`
pub(super) fn nodes(
    root: &mut Root<'_, '_>,
    base: &Path,
    defaults: &Defaults,
    lobby: Option<&NodeName>,
) -> BTreeMap<NodeName, Node> {
    let mut nodes = BTreeMap::new();
    for (name, mut section) in root.named_sections("nodes") {
        let address = section.require("address", node_address);
        let login = section.take("login", parsed).unwrap_or_else(Login::root);
        let mac = section.take("mac", mac);
        let persist = section.take("persist", path(base));
        let boot_mode = section.take("boot_mode", boot_mode).unwrap_or_default();
        let options = node_options(&mut section, base, &defaults.options);
        if let Some(address) = address {
            judge_address(&section, address, &options.networks, defaults);
        }
        match name.parse::<NodeName>() {
            Ok(name) if Some(&name) == lobby => {
                section.error_here("has the name of the lobby; change [server] lobby or this one");
            }
            Ok(name) => {
                let node = |address| Node { address, login, mac, persist, boot_mode, options };
                nodes.extend(address.map(node).map(|node| (name, node)));
            }
            Err(err) => section.error_here(err.to_string()),
        }
        section.finish();
    }
    nodes
}

fn boot_mode(value: &Value<'_>) -> Read<BootMode> {
    choice(&[
        ("network", BootMode::Network),
        ("hybrid-volatile", BootMode::HybridVolatile),
        ("hybrid-persistent", BootMode::HybridPersistent),
    ])(value)
}

/// A static node that could never be reached is a mistake to report now, not at the first login.
fn judge_address(
    section: &Section<'_, '_>,
    address: SocketAddr,
    networks: &[IpNetwork],
    defaults: &Defaults,
) {
    let ip = address.ip();
    let judgeable = defaults.networks_known && !section.is_wrong("networks");
    if judgeable && !networks.iter().any(|network| network.contains(ip)) {
        let network = IpNetwork::from(ip);
        let message = format!(
            "{ip} is outside of the allowed networks; add \"{network}\", or the network it is \
             on, to networks in [node_defaults] or here"
        );
        section.error("address", message);
    }
}
