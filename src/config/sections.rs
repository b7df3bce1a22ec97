//! What each section holds, but for the nodes': keys, defaults, ranges.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use ipnetwork::IpNetwork;

use super::reader::{Fault, Read, Root, Value};
use super::values::{
    choice, container_network, count, decimal, disk, distinct, image_reference, integer, list,
    listen_address, memory, network, optional_path, parsed, path, processors, string, text,
};
use super::{
    Account, Auth, ContainerNetwork, Engine, EngineKind, ImageDefaults, Limits, OnCommandSuccess,
    PasswordHash, Server, Walt,
};
use crate::auth::password_hash;
use crate::names::{AccountName, ImageLabel, NodeName};

const HOUR: u64 = 3600;
const MINUTE: f64 = 60.0;
const MEBIBYTE: u64 = 1 << 20;

/// `[server]`. `None` only after an error that was reported.
pub(super) fn server(root: &mut Root<'_, '_>, base: &Path) -> Option<Server> {
    let mut section = root.section_or_empty("server");
    let listen = section
        .take("listen", distinct(listen_address))
        .unwrap_or_else(|| vec![SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 2222)]);
    let host_keys = section.take("host_keys", distinct(path(base))).unwrap_or_else(|| {
        vec![base.join("keys/ssh_host_ed25519_key"), base.join("keys/ssh_host_ecdsa_key")]
    });
    let state_dir =
        section.take("state_dir", path(base)).unwrap_or_else(|| "/var/lib/waltgate".into());
    let lobby = section.take("lobby", parsed).or_else(|| NodeName::from_str("walt").ok());
    section.finish();
    Some(Server { listen, host_keys, state_dir, lobby: lobby? })
}

/// `[limits]`
pub(super) fn limits(root: &mut Root<'_, '_>) -> Limits {
    let mut section = root.section_or_empty("limits");
    let login_grace = section.take("login_grace_seconds", integer(1..=HOUR)).unwrap_or(30);
    let idle = section.take("idle_minutes", decimal(0.0..=525_600.0)).unwrap_or(0.0);
    let spool = section.take("spool_megabytes", integer(0..=1 << 20)).unwrap_or(256);
    let limits = Limits {
        login_grace: Duration::from_secs(login_grace),
        max_startups: section.take("max_startups", count(1..=100_000)).unwrap_or(100),
        max_startups_per_source: section
            .take("max_startups_per_source", count(1..=100_000))
            .unwrap_or(10),
        max_auth_attempts: section.take("max_auth_attempts", count(1..=100)).unwrap_or(6),
        max_sessions_per_connection: section
            .take("max_sessions_per_connection", count(1..=10_000))
            .unwrap_or(64),
        max_containers_per_account: section
            .take("max_containers_per_account", count(1..=10_000))
            .unwrap_or(8),
        max_unsaved_per_account: section
            .take("max_unsaved_per_account", count(0..=10_000))
            .unwrap_or(32),
        idle: (idle > 0.0).then(|| Duration::from_secs_f64(idle * MINUTE)),
        spool_bytes: spool * MEBIBYTE,
        rekey_bytes: section
            .take("rekey_megabytes", count(1..=1024))
            .unwrap_or(1024)
            .saturating_mul(1 << 20),
    };
    section.finish();
    limits
}

/// `[auth]`. `None` only after an error that was reported.
pub(super) fn auth(
    root: &mut Root<'_, '_>,
    base: &Path,
    accounts: &BTreeMap<AccountName, Account>,
) -> Option<Auth> {
    let mut section = root.section_or_empty("auth");
    let accounts_dir = section
        .take("accounts_dir", optional_path(base))
        .unwrap_or_else(|| Some(base.join("keys/accounts")));
    let trusted_user_ca = section.take("trusted_user_ca", optional_path(base)).flatten();
    let open_networks = section.take("open_networks", list(network)).unwrap_or_default();
    for network in &open_networks {
        if !is_private(network) {
            let message = format!(
                "{network} reaches beyond private networks, and clients from there need no credentials"
            );
            section.warn("open_networks", message);
        }
    }
    let guest = section.take("guest", parsed).or_else(|| AccountName::from_str("guest").ok());
    let no_password = accounts.values().all(|account| account.password.is_none());
    if accounts_dir.is_none()
        && trusted_user_ca.is_none()
        && open_networks.is_empty()
        && no_password
    {
        section.warn(
            "accounts_dir",
            "nobody can log in: there are no keys, no certification authority, no open networks \
             and no passwords",
        );
    }
    section.finish();
    Some(Auth { accounts_dir, trusted_user_ca, open_networks, guest: guest? })
}

fn is_private(network: &IpNetwork) -> bool {
    [network.network(), network.broadcast()].iter().all(|end| match end {
        IpAddr::V4(ip) => ip.is_loopback() || ip.is_private() || ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local(),
    })
}

/// `[accounts.*]`
pub(super) fn accounts(root: &mut Root<'_, '_>) -> BTreeMap<AccountName, Account> {
    let mut accounts = BTreeMap::new();
    for (name, mut section) in root.named_sections("accounts") {
        let password = section.take("password", password_phc);
        if let Some((_, Some(weakness))) = &password {
            section.warn("password", *weakness);
        }
        let account = Account {
            password: password.map(|(hash, _)| hash),
            allow: section
                .take("allow", distinct(target_pattern))
                .unwrap_or_else(|| vec!["*".to_owned()]),
        };
        match name.parse::<AccountName>() {
            Ok(name) => {
                accounts.insert(name, account);
            }
            Err(err) => section.error_here(err.to_string()),
        }
        section.finish();
    }
    accounts
}

/// A PHC string, and what is weak about it. Its text is never repeated in a message.
fn password_phc(value: &Value<'_>) -> Read<(PasswordHash, Option<&'static str>)> {
    let phc = text(value)?;
    match password_hash::check(phc) {
        Ok(weakness) => Ok((PasswordHash::new(phc.to_owned()), weakness)),
        Err(rule) => {
            Err(Fault::at(value, format!("{rule}; make one with \"waltgate hash-password\"")))
        }
    }
}

fn target_pattern(value: &Value<'_>) -> Read<String> {
    let pattern = text(value)?;
    let allowed =
        |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-' | b'*' | b'?');
    if pattern.is_empty() || !pattern.bytes().all(allowed) {
        let message = format!(
            "\"{}\" matches no target; patterns look like \"rpi*\", \"image.OWNER.NAME_TAG\" or \
             \"walt\", with \"*\" and \"?\"",
            pattern.escape_debug()
        );
        return Err(Fault::at(value, message));
    }
    Ok(pattern.to_owned())
}

/// `[walt]`
pub(super) fn walt(root: &mut Root<'_, '_>) -> Option<Walt> {
    let mut section = root.section("walt")?;
    let api = section.take("api", api_url).unwrap_or_else(|| "http://localhost/api/v1".to_owned());
    let refresh = section.take("refresh_seconds", integer(1..=HOUR)).unwrap_or(5);
    section.finish();
    Some(Walt { api, refresh: Duration::from_secs(refresh) })
}

fn api_url(value: &Value<'_>) -> Read<String> {
    let url = text(value)?;
    let fault = || {
        // The text is not repeated: it could hold a password.
        let message = "must be a plain HTTP address, such as \"http://localhost/api/v1\"";
        Fault::at(value, message)
    };
    let parsed: hyper::Uri = url.parse().map_err(|_| fault())?;
    let authority = parsed.authority().ok_or_else(fault)?;
    let plain = parsed.scheme_str() == Some("http")
        && !authority.as_str().contains('@')
        && !authority.host().is_empty()
        && parsed.query().is_none();
    if plain { Ok(url.trim_end_matches('/').to_owned()) } else { Err(fault()) }
}

/// `[engine]`
pub(super) fn engine(root: &mut Root<'_, '_>, base: &Path) -> Engine {
    let mut section = root.section_or_empty("engine");
    let kind = section.take("kind", engine_kind).unwrap_or(EngineKind::Auto);
    let socket = section.take("socket", |value| socket_path(value, base));
    section.finish();
    Engine { kind, socket }
}

fn engine_kind(value: &Value<'_>) -> Read<EngineKind> {
    choice(&[
        ("auto", EngineKind::Auto),
        ("docker", EngineKind::Docker),
        ("embedded", EngineKind::Embedded),
    ])(value)
}

fn socket_path(value: &Value<'_>, base: &Path) -> Read<PathBuf> {
    let given = text(value)?;
    let path = given.strip_prefix("unix://").unwrap_or(given);
    let is_url = path.contains("://");
    let is_relative_url = path.len() < given.len() && !path.starts_with('/');
    if path.is_empty() || path.contains('\0') || is_url || is_relative_url {
        let message = "must be a socket on this machine, such as \"unix:///run/docker.sock\"";
        return Err(Fault::at(value, message));
    }
    Ok(base.join(path))
}

/// `[image_defaults]`
pub(super) fn image_defaults(root: &mut Root<'_, '_>) -> ImageDefaults {
    let mut section = root.section_or_empty("image_defaults");
    let keep_hours = section.take("keep_unsaved_hours", integer(0..=8784));
    // The kernel's own limit on process numbers.
    let pids = section.take("pids", integer(0..=1 << 22)).unwrap_or(0);
    let on_success =
        choice(&[("save", OnCommandSuccess::Save), ("discard", OnCommandSuccess::Discard)]);
    let network = section.take("network", container_network);
    if network == Some(ContainerNetwork::Host) {
        section.warn(
            "network",
            "containers use the host's own network: their programs reach what listens on its \
             loopback, listen on its addresses, and log in here as any account if that is an \
             open network",
        );
    }
    let defaults = ImageDefaults {
        hostname: section.take("hostname", hostname).unwrap_or_else(|| "image-shell".to_owned()),
        memory: section.take("memory", memory).flatten(),
        pids: (pids > 0).then_some(pids),
        cpus: section.take("cpus", processors).flatten(),
        disk: section.take("disk", disk).flatten(),
        network: network.unwrap_or(ContainerNetwork::Own),
        keep_unsaved: Duration::from_secs(keep_hours.unwrap_or(24) * HOUR),
        on_command_success: section
            .take("on_command_success", on_success)
            .unwrap_or(OnCommandSuccess::Save),
    };
    section.finish();
    defaults
}

/// One label of RFC 1123, or several with dots, within what Linux takes.
fn hostname(value: &Value<'_>) -> Read<String> {
    let name = string(value)?;
    let is_label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    if name.len() <= 63 && name.split('.').all(is_label) {
        Ok(name)
    } else {
        let message = format!("\"{}\" is not a host name", name.escape_debug());
        Err(Fault::at(value, message))
    }
}

/// `[images.*]`
pub(super) fn images(root: &mut Root<'_, '_>) -> BTreeMap<ImageLabel, String> {
    let mut images = BTreeMap::new();
    for (name, mut section) in root.named_sections("images") {
        let reference = section.require("ref", image_reference);
        match name.parse::<ImageLabel>() {
            Ok(name) => images.extend(reference.map(|reference| (name, reference))),
            Err(err) => section.error_here(err.to_string()),
        }
        section.finish();
    }
    images
}
