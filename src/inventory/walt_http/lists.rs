//! The WalT server's lists of nodes and images, from JSON.
//!
//! What the gateway does not need may be missing or of any kind. An entry without what it needs
//! is left out with a complaint; the rest of the list stands.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use serde_json::{Map, Value};

use crate::config::{BootMode, NodeOptions};
use crate::inventory::{ImageRecord, NodeRecord};
use crate::names::{Login, NodeName, quoted};

/// Where nodes run their SSH server.
const SSH_PORT: u16 = 22;

/// A list, and what was wrong with entries that are not in it or not complete.
#[derive(Debug, Default)]
pub(super) struct Parsed<T> {
    pub(super) entries: T,
    pub(super) complaints: Vec<String>,
}

pub(super) type Nodes = BTreeMap<NodeName, NodeRecord>;

/// By full name.
pub(super) type Images = BTreeMap<String, ImageRecord>;

/// Reads the answer of `/nodes`; an error is about the answer as a whole.
pub(super) fn nodes(body: &[u8], defaults: &NodeOptions) -> Result<Parsed<Nodes>, String> {
    let mut parsed = Parsed::<Nodes>::default();
    for entry in entries(body, "nodes")? {
        match node(&entry, defaults) {
            Ok(record) => {
                parsed.complaints.extend(mac_complaint(&entry, &record));
                parsed.entries.insert(record.name.clone(), record);
            }
            Err(complaint) => parsed.complaints.push(complaint),
        }
    }
    Ok(parsed)
}

/// Reads the answer of `/images`; an error is about the answer as a whole.
pub(super) fn images(body: &[u8]) -> Result<Parsed<Images>, String> {
    let mut parsed = Parsed::<Images>::default();
    for entry in entries(body, "images")? {
        match image(&entry) {
            Ok(record) => {
                parsed.entries.insert(record.fullname.clone(), record);
            }
            Err(complaint) => parsed.complaints.push(complaint),
        }
    }
    Ok(parsed)
}

fn entries(body: &[u8], key: &str) -> Result<Vec<Value>, String> {
    let answer: Value =
        serde_json::from_slice(body).map_err(|error| format!("the answer is not JSON: {error}"))?;
    match answer {
        Value::Object(mut answer) => match answer.remove(key) {
            Some(Value::Array(entries)) => Ok(entries),
            _ => Err(format!("the answer has no list \"{key}\"")),
        },
        _ => Err(format!("the answer is not an object with a list \"{key}\"")),
    }
}

fn node(entry: &Value, defaults: &NodeOptions) -> Result<NodeRecord, String> {
    let name = text(entry, "name")
        .ok_or_else(|| format!("a node without a name is left out: {}", excerpt(entry)))?;
    let name: NodeName = name.parse().map_err(|error| format!("a node is left out: {error}"))?;
    let address: IpAddr = text(entry, "ip").and_then(|ip| ip.parse().ok()).ok_or_else(|| {
        let ip = entry.get("ip").map_or("nothing".to_owned(), excerpt);
        format!("node {name} is left out: its \"ip\" is {ip}, not an IP address")
    })?;
    let config = entry.get("config").and_then(Value::as_object);
    Ok(NodeRecord {
        name,
        address: SocketAddr::new(address, SSH_PORT),
        login: Login::root(),
        mac: text(entry, "mac").and_then(mac_address),
        booted: entry.get("booted").and_then(Value::as_bool),
        image: text(entry, "image").map(str::to_owned),
        boot_mode: boot_mode(config),
        persist: None,
        mounts_persist: mounts_persist(config),
        options: defaults.clone(),
    })
}

fn image(entry: &Value) -> Result<ImageRecord, String> {
    let needed = |key: &str| {
        text(entry, key)
            .map(str::to_owned)
            .ok_or_else(|| format!("an image without \"{key}\" is left out: {}", excerpt(entry)))
    };
    let id = needed("id")?;
    Ok(ImageRecord {
        fullname: needed("fullname")?,
        user: needed("user")?,
        id: id.strip_prefix("sha256:").unwrap_or(&id).to_owned(),
        in_use: entry.get("in_use").and_then(Value::as_bool).unwrap_or(false),
    })
}

fn mac_complaint(entry: &Value, record: &NodeRecord) -> Option<String> {
    let mac = entry.get("mac").filter(|mac| !mac.is_null())?;
    record.mac.is_none().then(|| {
        format!(
            "node {} has no /persist on this machine: its \"mac\" is {}, not a MAC address",
            record.name,
            excerpt(mac)
        )
    })
}

/// Checked strictly, because it becomes a part of a path.
fn mac_address(text: &str) -> Option<String> {
    let is_byte = |part: &str| part.len() == 2 && part.bytes().all(|b| b.is_ascii_hexdigit());
    (text.split(':').count() == 6 && text.split(':').all(is_byte)).then(|| text.to_lowercase())
}

fn boot_mode(config: Option<&Map<String, Value>>) -> BootMode {
    match setting(config, "boot.mode").and_then(Value::as_str) {
        Some("hybrid-volatile") => BootMode::HybridVolatile,
        Some("hybrid-persistent") => BootMode::HybridPersistent,
        _ => BootMode::Network,
    }
}

fn mounts_persist(config: Option<&Map<String, Value>>) -> bool {
    setting(config, "mount.persist").and_then(Value::as_bool).unwrap_or(true)
}

fn setting<'a>(config: Option<&'a Map<String, Value>>, key: &str) -> Option<&'a Value> {
    config?.get(key)
}

fn text<'a>(entry: &'a Value, key: &str) -> Option<&'a str> {
    entry.get(key).and_then(Value::as_str)
}

/// Enough of a foreign value to recognise it, on one line.
fn excerpt(value: &Value) -> String {
    match value {
        Value::String(text) => quoted(text),
        other => quoted(&other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inventory::test_data::node_options;

    fn node_list(entries: &str) -> Parsed<Nodes> {
        nodes(format!(r#"{{"nodes": [{entries}]}}"#).as_bytes(), &node_options()).unwrap()
    }

    #[test]
    fn documented_node_is_read() {
        let parsed = node_list(
            r#"{"name": "vn-dummy", "model": "pc-x86-64", "virtual": true,
                "image": "alice/pc-x86-64-default:latest", "booted": true,
                "ip": "192.168.222.5", "mac": "52:54:00:BB:1b:b9",
                "config": {"netsetup": 1, "expose": "none", "mount.persist": true}}"#,
        );
        assert!(parsed.complaints.is_empty());
        let node = &parsed.entries[&"vn-dummy".parse::<NodeName>().unwrap()];
        assert_eq!(node.address.to_string(), "192.168.222.5:22");
        assert_eq!(node.login, Login::root());
        assert_eq!(node.mac.as_deref(), Some("52:54:00:bb:1b:b9"));
        assert_eq!(node.booted, Some(true));
        assert_eq!(node.image_owner(), Some("alice"));
        assert_eq!(node.boot_mode, BootMode::Network);
        assert!(node.mounts_persist);
        assert_eq!(node.options.identity, node_options().identity);
    }

    #[test]
    fn config_decides_on_persist_and_boot_mode() {
        for (config, persist, mode) in [
            (r#"{"mount.persist": false}"#, false, BootMode::Network),
            (r#"{"boot.mode": "network-volatile"}"#, true, BootMode::Network),
            (r#"{"boot.mode": "hybrid-volatile"}"#, true, BootMode::HybridVolatile),
            (r#"{"boot.mode": "hybrid-persistent"}"#, true, BootMode::HybridPersistent),
            (r#"{"boot.mode": 7, "mount.persist": "?"}"#, true, BootMode::Network),
            ("null", true, BootMode::Network),
            ("[1]", true, BootMode::Network),
        ] {
            let parsed =
                node_list(&format!(r#"{{"name": "rpi1", "ip": "192.0.2.1", "config": {config}}}"#));
            let node = parsed.entries.values().next().unwrap();
            assert_eq!((node.mounts_persist, node.boot_mode), (persist, mode), "{config}");
        }
    }

    #[test]
    fn bad_entries_are_left_out_and_the_rest_stands() {
        let parsed = node_list(
            r#"{"name": "rpi1", "ip": "192.0.2.300"}, {"name": "rpi2", "ip": null}, {"name": "rpi3"},
               {"name": "a/../b", "ip": "192.0.2.1"}, {"ip": "192.0.2.1"}, 7,
               {"name": "rpi9", "ip": "2001:db8::9", "color": {}}"#,
        );
        let names: Vec<&str> = parsed.entries.keys().map(NodeName::as_str).collect();
        assert_eq!(names, ["rpi9"]);
        assert_eq!(parsed.complaints.len(), 6);
        assert_eq!(
            parsed.complaints[0],
            r#"node rpi1 is left out: its "ip" is "192.0.2.300", not an IP address"#
        );
        assert!(parsed.complaints[3].starts_with(r#"a node is left out: "a/../b" is not"#));
    }

    #[test]
    fn mac_that_is_none_never_becomes_a_path() {
        let parsed = node_list(r#"{"name": "rpi1", "ip": "192.0.2.1", "mac": "../../etc"}"#);
        assert_eq!(parsed.entries.values().next().unwrap().mac, None);
        assert!(parsed.complaints[0].contains(r#"its "mac" is "../../etc", not a MAC address"#));
    }

    #[test]
    fn images_are_read() {
        let parsed = images(
            br#"{"num_images": 2, "images": [
                {"fullname": "alice/pc-2:latest", "user": "alice", "id": "sha256:807e",
                 "in_use": true, "created": "2024-03-12 14:52:47", "compatibility": ["pc-x86-64"]},
                {"fullname": "alice/pc-3:latest", "user": "alice", "id": "907e"},
                {"fullname": "alice/pc-4:latest", "user": 5, "id": "907e"}]}"#,
        )
        .unwrap();
        let read: Vec<(&str, &str, bool)> = parsed
            .entries
            .values()
            .map(|image| (image.fullname.as_str(), image.id.as_str(), image.in_use))
            .collect();
        assert_eq!(
            read,
            [("alice/pc-2:latest", "807e", true), ("alice/pc-3:latest", "907e", false)]
        );
        assert!(parsed.complaints[0].starts_with("an image without \"user\" is left out"));
    }

    #[test]
    fn answers_that_are_no_list_are_refused() {
        for (body, wanted) in [
            ("<html>", "the answer is not JSON"),
            ("[]", "the answer is not an object"),
            ("{}", "the answer has no list \"images\""),
            (r#"{"images": 3}"#, "the answer has no list \"images\""),
        ] {
            let error = images(body.as_bytes()).unwrap_err();
            assert!(error.starts_with(wanted), "{error}");
        }
    }
}
