//! The example file and the documentation keep up with the code.

use std::net::IpAddr;

use super::*;

#[test]
fn the_example_file_loads_and_opens_loopback_only() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/waltgate.toml");
    let (config, warnings) = Config::load(&path).unwrap();
    assert_eq!(warnings, []);
    let loopback = |ip: IpAddr| ip.is_loopback();
    assert!(config.auth.open_networks.iter().all(|network| loopback(network.network())));
    assert!(config.server.listen.iter().all(|address| loopback(address.ip())));
    assert_eq!(config.node_defaults.host_key_policy, HostKeyPolicy::Strict);
}

/// The example shows every key there is: those that it leaves out stand behind a "#".
#[test]
fn the_example_file_is_complete_and_right_even_where_it_is_commented_out() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/waltgate.toml");
    let text = fs::read_to_string(&path).unwrap();
    // "#key = value" and "#[section]" are configuration, "# text" is explanation.
    let all: String = text
        .lines()
        .map(|line| match line.strip_prefix('#') {
            Some(rest) if !rest.is_empty() && !rest.starts_with(' ') => format!("{rest}\n"),
            _ => format!("{line}\n"),
        })
        .collect();
    let loaded = load(&all);
    assert!(loaded.result.is_ok(), "{}", loaded.result.unwrap_err());
    let table: toml::Table = all.parse().unwrap();
    let keys =
        |section: &toml::Value| section.as_table().unwrap().keys().cloned().collect::<Vec<_>>();
    let mut shown: Vec<String> = Vec::new();
    for (name, section) in &table {
        match name.as_str() {
            "accounts" | "nodes" | "images" => {
                for entry in section.as_table().unwrap().values() {
                    shown.extend(keys(entry).iter().map(|key| format!("{name}.*.{key}")));
                }
            }
            _ => shown.extend(keys(section).iter().map(|key| format!("{name}.{key}"))),
        }
    }
    shown.sort();
    shown.dedup();
    let mut expected: Vec<&str> = "server.listen server.host_keys server.state_dir server.lobby \
        limits.login_grace_seconds limits.max_startups limits.max_startups_per_source \
        limits.max_auth_attempts limits.max_sessions_per_connection \
        limits.max_containers_per_account limits.max_unsaved_per_account \
        limits.idle_minutes limits.spool_megabytes \
        limits.rekey_megabytes \
        auth.accounts_dir auth.trusted_user_ca auth.open_networks auth.guest \
        accounts.*.password accounts.*.allow walt.api walt.refresh_seconds \
        node_defaults.networks node_defaults.identity node_defaults.known_hosts \
        node_defaults.host_key_alias node_defaults.host_key_policy \
        node_defaults.connect_seconds node_defaults.boot_wait_seconds \
        node_defaults.spare_connections node_defaults.other_owner \
        node_defaults.persist_root node_defaults.persist_owner nodes.*.address nodes.*.login \
        nodes.*.mac nodes.*.persist \
        nodes.*.boot_mode nodes.*.host_key_policy engine.kind engine.socket \
        image_defaults.hostname image_defaults.memory image_defaults.pids \
        image_defaults.cpus image_defaults.disk \
        image_defaults.network image_defaults.keep_unsaved_hours \
        image_defaults.on_command_success images.*.ref"
        .split_whitespace()
        .collect();
    expected.sort_unstable();
    assert_eq!(shown, expected);

    let document = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/configuration.md");
    let document = fs::read_to_string(document).unwrap();
    for key in expected {
        let key = key.rsplit('.').next().unwrap();
        assert!(document.contains(&format!("| `{key}` |")), "docs/configuration.md lacks {key}");
    }
}
