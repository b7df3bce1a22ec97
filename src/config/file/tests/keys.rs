//! Every key arrives where it belongs, and so does every default.

use std::path::PathBuf;
use std::time::Duration;

use super::*;
use crate::config::{
    BootMode, ContainerNetwork, EngineKind, FileOwner, OnCommandSuccess, OtherOwner,
};

#[test]
fn an_empty_file_gives_safe_defaults() {
    let Loaded { dir, result } = load("");
    let (config, warnings) = result.unwrap();
    assert_eq!(warnings, []);
    assert_eq!(config.server.listen, ["0.0.0.0:2222".parse().unwrap()]);
    assert_eq!(
        config.server.host_keys,
        [dir.path().join("keys/ssh_host_ed25519_key"), dir.path().join("keys/ssh_host_ecdsa_key")]
    );
    assert_eq!(config.server.state_dir, PathBuf::from("/var/lib/waltgate"));
    assert_eq!(config.server.lobby.as_str(), "walt");
    assert_eq!(config.limits.login_grace, Duration::from_secs(30));
    assert_eq!(config.limits.max_startups, 100);
    assert_eq!(config.limits.max_startups_per_source, 10);
    assert_eq!(config.limits.max_auth_attempts, 6);
    assert_eq!(config.limits.max_sessions_per_connection, 64);
    assert_eq!(config.limits.max_containers_per_account, 8);
    assert_eq!(config.limits.max_unsaved_per_account, 32);
    assert_eq!(config.limits.idle, None);
    assert_eq!(config.limits.spool_bytes, 256 << 20);
    assert_eq!(config.limits.rekey_bytes, 1 << 30);
    assert_eq!(config.auth.accounts_dir, Some(dir.path().join("keys/accounts")));
    assert_eq!(config.auth.trusted_user_ca, None);
    assert_eq!(config.auth.open_networks, []);
    assert_eq!(config.auth.guest.as_str(), "guest");
    assert!(config.accounts.is_empty());
    assert!(config.walt.is_none());
    let node = &config.node_defaults;
    assert_eq!(node.networks, []);
    assert_eq!(node.identity, PathBuf::from("/root/.ssh/id_rsa"));
    assert_eq!(node.known_hosts, PathBuf::from("/var/lib/walt/ssh/known_hosts.nodes"));
    assert_eq!(node.host_key_alias.as_deref(), Some("walt.node"));
    assert_eq!(node.host_key_policy, HostKeyPolicy::Strict);
    assert_eq!(node.connect, Duration::from_secs(10));
    assert_eq!(node.boot_wait, Duration::from_secs(120));
    assert!(node.spare_connections);
    assert_eq!(node.other_owner, OtherOwner::Warn);
    assert_eq!(node.persist_root, PathBuf::from("/var/lib/walt/nodes"));
    assert!(config.nodes.is_empty());
    assert_eq!(config.engine.kind, EngineKind::Auto);
    assert_eq!(config.engine.socket, None);
    let image = &config.image_defaults;
    assert_eq!(image.hostname, "image-shell");
    assert_eq!(image.memory, None);
    assert_eq!(image.pids, None);
    assert_eq!((image.cpus, image.disk), (None, None));
    assert_eq!(image.network, ContainerNetwork::Own);
    assert_eq!(image.keep_unsaved, Duration::from_secs(24 * 3600));
    assert_eq!(image.on_command_success, OnCommandSuccess::Save);
    assert!(config.images.is_empty());
}

#[test]
fn every_key_is_read() {
    let Loaded { dir, result } = load(format!(
        r#"
        [server]
        listen = ["127.0.0.1:22", "[::1]:0"]
        host_keys = ["a_key", "/etc/b_key"]
        state_dir = "state"
        lobby = "gate"
        [limits]
        login_grace_seconds = 1
        max_startups = 2
        max_startups_per_source = 3
        max_auth_attempts = 4
        max_sessions_per_connection = 5
        max_containers_per_account = 6
        max_unsaved_per_account = 0
        idle_minutes = 7.5
        spool_megabytes = 0x08
        rekey_megabytes = 9
        [auth]
        accounts_dir = "/accounts"
        trusted_user_ca = "ca.pub"
        open_networks = ["127.0.0.0/8", "::1"]
        guest = "visitor"
        [accounts.alice]
        password = "{STRONG}"
        allow = ["rpi*", "image.*", "walt"]
        [accounts.bob]
        [walt]
        api = "http://walt.example:8080/api/v1/"
        refresh_seconds = 1_000
        [node_defaults]
        networks = ["192.168.152.0/22"]
        identity = "id"
        known_hosts = "known"
        host_key_alias = ""
        host_key_policy = "accept-new"
        connect_seconds = 3
        boot_wait_seconds = 0
        spare_connections = false
        other_owner = "refuse"
        persist_root = "persist"
        persist_owner = "1000:100"
        [nodes.rpi1]
        address = "192.168.152.10"
        login = "pi"
        mac = "52-54-00-BB-1B-B9"
        persist = "/srv/rpi1"
        boot_mode = "hybrid-persistent"
        networks = ["192.168.152.10"]
        identity = "/root/id"
        known_hosts = "/root/known"
        host_key_alias = "rpi1"
        host_key_policy = "strict"
        connect_seconds = 4
        boot_wait_seconds = 5
        spare_connections = true
        other_owner = "warn"
        persist_root = "/p"
        persist_owner = ""
        [nodes.rpi2]
        address = "192.168.152.11:2022"
        [engine]
        kind = "docker"
        socket = "unix:///run/docker.sock"
        [image_defaults]
        hostname = "box.lab"
        memory = "2G"
        pids = 100
        cpus = 1.5
        disk = "10G"
        network = false
        keep_unsaved_hours = 1
        on_command_success = "discard"
        [images.alpine]
        ref = "registry.example:5000/library/alpine:3.20"
        "#
    ));
    let (config, warnings) = result.unwrap();
    let base = dir.path();
    assert!(warnings.is_empty(), "{warnings:?}");
    assert_eq!(config.server.host_keys, [base.join("a_key"), "/etc/b_key".into()]);
    assert_eq!(config.server.listen.len(), 2);
    assert_eq!(config.server.state_dir, base.join("state"));
    assert_eq!(config.server.lobby.as_str(), "gate");
    let limits = &config.limits;
    assert_eq!(limits.login_grace, Duration::from_secs(1));
    assert_eq!(
        (limits.max_startups, limits.max_startups_per_source, limits.max_auth_attempts),
        (2, 3, 4)
    );
    assert_eq!((limits.max_sessions_per_connection, limits.max_containers_per_account), (5, 6));
    assert_eq!(limits.max_unsaved_per_account, 0);
    assert_eq!(limits.idle, Some(Duration::from_secs(450)));
    assert_eq!(limits.spool_bytes, 8 << 20);
    assert_eq!(limits.rekey_bytes, 9 << 20);
    assert_eq!(config.auth.accounts_dir, Some("/accounts".into()));
    assert_eq!(config.auth.trusted_user_ca, Some(base.join("ca.pub")));
    assert_eq!(config.auth.open_networks.len(), 2);
    assert_eq!(config.auth.guest.as_str(), "visitor");
    let alice = &config.accounts[&"alice".parse().unwrap()];
    assert_eq!(alice.password.as_ref().unwrap().expose(), STRONG);
    assert_eq!(alice.allow, ["rpi*", "image.*", "walt"]);
    let bob = &config.accounts[&"bob".parse().unwrap()];
    assert_eq!((bob.password.clone(), bob.allow.clone()), (None, vec!["*".to_owned()]));
    let walt = config.walt.unwrap();
    assert_eq!(walt.api, "http://walt.example:8080/api/v1");
    assert_eq!(walt.refresh, Duration::from_secs(1000));

    let rpi1 = &config.nodes[&"rpi1".parse().unwrap()];
    assert_eq!(rpi1.address, "192.168.152.10:22".parse().unwrap());
    assert_eq!(rpi1.login.as_str(), "pi");
    assert_eq!(rpi1.mac.as_deref(), Some("52:54:00:bb:1b:b9"));
    assert_eq!(rpi1.persist, Some("/srv/rpi1".into()));
    assert_eq!(rpi1.boot_mode, BootMode::HybridPersistent);
    assert_eq!(rpi1.options.networks, ["192.168.152.10/32".parse().unwrap()]);
    assert_eq!(rpi1.options.identity, PathBuf::from("/root/id"));
    assert_eq!(rpi1.options.known_hosts, PathBuf::from("/root/known"));
    assert_eq!(rpi1.options.host_key_alias.as_deref(), Some("rpi1"));
    assert_eq!(rpi1.options.host_key_policy, HostKeyPolicy::Strict);
    assert_eq!(rpi1.options.connect, Duration::from_secs(4));
    assert_eq!(rpi1.options.boot_wait, Duration::from_secs(5));
    assert!(rpi1.options.spare_connections);
    assert_eq!(rpi1.options.other_owner, OtherOwner::Warn);
    assert_eq!(rpi1.options.persist_root, PathBuf::from("/p"));
    assert_eq!(rpi1.options.persist_owner, None);

    let rpi2 = &config.nodes[&"rpi2".parse().unwrap()];
    assert_eq!(rpi2.address, "192.168.152.11:2022".parse().unwrap());
    assert_eq!(rpi2.login.as_str(), "root");
    assert_eq!(rpi2.options.networks, ["192.168.152.0/22".parse().unwrap()]);
    assert_eq!(rpi2.options.identity, base.join("id"));
    assert_eq!(rpi2.options.known_hosts, base.join("known"));
    assert_eq!(rpi2.options.host_key_alias, None);
    assert_eq!(rpi2.options.host_key_policy, HostKeyPolicy::AcceptNew);
    assert_eq!(rpi2.options.connect, Duration::from_secs(3));
    assert_eq!(rpi2.options.boot_wait, Duration::ZERO);
    assert!(!rpi2.options.spare_connections);
    assert_eq!(rpi2.options.other_owner, OtherOwner::Refuse);
    assert_eq!(rpi2.options.persist_root, base.join("persist"));
    assert_eq!(rpi2.options.persist_owner, Some(FileOwner { uid: 1000, gid: 100 }));

    assert_eq!(config.engine.kind, EngineKind::Docker);
    assert_eq!(config.engine.socket, Some("/run/docker.sock".into()));
    let image = &config.image_defaults;
    assert_eq!(image.hostname, "box.lab");
    assert_eq!(
        (image.memory, image.pids, image.network),
        (Some(2 << 30), Some(100), ContainerNetwork::Loopback)
    );
    assert_eq!((image.cpus, image.disk), (Some(1500), Some(10 << 30)));
    assert_eq!(image.keep_unsaved, Duration::from_secs(3600));
    assert_eq!(image.on_command_success, OnCommandSuccess::Discard);
    let alias: Vec<_> = config.images.values().collect();
    assert_eq!(alias, ["registry.example:5000/library/alpine:3.20"]);
}
