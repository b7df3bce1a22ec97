//! Records for tests.

use std::path::PathBuf;
use std::time::Duration;

use super::{ImageRecord, NodeRecord};
use crate::config::{BootMode, HostKeyPolicy, NodeOptions, OtherOwner};
use crate::names::Login;

pub(super) fn node_options() -> NodeOptions {
    NodeOptions {
        networks: vec!["192.0.2.0/24".parse().unwrap()],
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
    }
}

pub(super) fn node_record(name: &str, address: &str) -> NodeRecord {
    NodeRecord {
        name: name.parse().unwrap(),
        address: address.parse().unwrap(),
        login: Login::root(),
        mac: None,
        booted: None,
        image: None,
        boot_mode: BootMode::Network,
        persist: None,
        mounts_persist: true,
        options: node_options(),
    }
}

pub(super) fn image_record(fullname: &str) -> ImageRecord {
    ImageRecord {
        fullname: fullname.to_owned(),
        user: "alice".to_owned(),
        id: "807e87105526".to_owned(),
        in_use: false,
    }
}
