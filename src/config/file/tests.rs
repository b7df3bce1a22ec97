use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::config::{ContainerNetwork, HostKeyPolicy};

mod example;
mod keys;
mod values;

const STRONG: &str = "$argon2id$v=19$m=19456,t=2,p=1$c29tZXNhbHRzb21lc2FsdA$MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE";

struct Loaded {
    dir: tempfile::TempDir,
    result: Result<(Config, Vec<Warning>), ConfigErrors>,
}

fn load(text: impl AsRef<[u8]>) -> Loaded {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("gate.toml");
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    let result = Config::load(&path);
    Loaded { dir, result }
}

impl Loaded {
    fn strip(&self, text: &str) -> Vec<String> {
        let prefix = format!("{}/", self.dir.path().display());
        text.lines().map(|line| line.replace(&prefix, "")).collect()
    }
}

fn errors(text: impl AsRef<[u8]>) -> Vec<String> {
    let loaded = load(text);
    loaded.strip(&loaded.result.as_ref().unwrap_err().to_string())
}

fn config(text: &str) -> Config {
    load(text).result.unwrap().0
}

fn warnings(text: &str) -> Vec<String> {
    let loaded = load(text);
    let (_, warnings) = loaded.result.as_ref().unwrap();
    warnings.iter().flat_map(|warning| loaded.strip(&warning.to_string())).collect()
}

#[test]
fn all_mistakes_are_reported_at_once_in_the_order_of_the_file() {
    let text =
        "[server]\nlisten = []\nlisen = 1\n\n[limits]\nmax_startups = 0\n\n[servr]\n[nodes.x]\n";
    assert_eq!(
        errors(text),
        [
            "gate.toml:2: [server] listen: must not be empty",
            "gate.toml:3: [server] lisen: unknown key; did you mean \"listen\"?",
            "gate.toml:6: [limits] max_startups: must be between 1 and 100000, not 0",
            "gate.toml:8: [servr]: unknown section; did you mean [server]?",
            "gate.toml:9: [nodes.x] address: is missing",
            "gate.toml:9: [nodes.x]: \"x\" is not a valid node name: a letter, then letters, \
             digits and \"-\", two to 63 characters, but none of my-nodes, free-nodes and all-nodes",
        ]
    );
}

#[test]
fn unknown_keys_that_resemble_nothing_list_what_there_is() {
    assert_eq!(
        errors("[engine]\n\nfoobar = 1\n"),
        ["gate.toml:3: [engine] foobar: unknown key; the keys are: kind, socket"]
    );
    assert_eq!(
        errors("[quux]\n"),
        [
            "gate.toml:1: [quux]: unknown section; the sections are: server, limits, accounts, auth, \
          walt, node_defaults, nodes, engine, image_defaults, images"
        ]
    );
    assert_eq!(
        errors("[nodes.rpi1]\naddress = \"127.0.0.1\"\nnetworks = [\"127.0.0.0/8\"]\nadress = 1\n"),
        ["gate.toml:4: [nodes.rpi1] adress: unknown key; did you mean \"address\"?"]
    );
}

#[test]
fn keys_outside_of_their_section_are_reported() {
    assert_eq!(
        errors("listen = []\n"),
        ["gate.toml:1: listen: every key belongs in a section, such as [server]"]
    );
    assert_eq!(errors("server = 1\n"), ["gate.toml:1: [server]: must be a table, not an integer"]);
    assert_eq!(
        errors("[nodes]\naddress = \"127.0.0.1\"\n"),
        ["gate.toml:2: [nodes] address: belongs under a table of its own, [nodes.NAME]"]
    );
    assert_eq!(errors("[[nodes]]\n"), ["gate.toml:1: [nodes]: must be a table, not an array"]);
}

#[test]
fn a_file_that_is_not_toml_is_reported_with_its_line() {
    let syntax = errors("[server]\nlobby = walt\nlisten = [\n");
    assert!(syntax[0].starts_with("gate.toml:2: "), "{syntax:?}");
    let twice = errors("[server]\nlobby = \"aa\"\nlobby = \"bb\"\n");
    assert_eq!(twice, ["gate.toml:3: duplicate key"]);
    let bytes = errors(b"[server]\n\nlobby = \"\xff\"\n");
    assert_eq!(bytes, ["gate.toml:3: is not UTF-8 text"]);
}

#[test]
fn a_file_that_cannot_be_read_is_reported_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("none.toml");
    let err = Config::load(&path).unwrap_err().to_string();
    assert_eq!(
        err,
        format!("{}: cannot be read: No such file or directory (os error 2)", path.display())
    );
    let err = Config::load(dir.path()).unwrap_err().to_string();
    assert!(err.contains(": cannot be read: "), "{err}");
    let huge = errors(" ".repeat((4 << 20) + 1));
    assert_eq!(huge, ["gate.toml: is larger than 4 MiB, which no configuration file is"]);
}

#[test]
fn each_wrong_element_is_reported_at_its_own_line() {
    let text = "[auth]\nopen_networks = [\n  \"10.0.0.0/8\",\n  \"lan\",\n  7,\n]\n";
    assert_eq!(
        errors(text),
        [
            "gate.toml:4: [auth] open_networks: \"lan\" is not a network in CIDR notation, such \
             as \"192.168.152.0/22\"",
            "gate.toml:5: [auth] open_networks: must be a string, not an integer",
        ]
    );
}

#[test]
fn names_of_tables_are_checked() {
    let account = errors("[accounts.Alice]\n");
    assert!(account[0].starts_with("gate.toml:1: [accounts.Alice]: \"Alice\" is not a valid"));
    let image = errors("[images.\"a.b\"]\nref = \"x\"\n");
    assert!(image[0].starts_with("gate.toml:1: [images.a.b]: \"a.b\" is not a valid"));
    let networks = "networks = [\"127.0.0.0/8\"]\naddress = \"127.0.0.1\"\n";
    assert_eq!(
        errors(format!("[nodes.my-nodes]\n{networks}")),
        ["gate.toml:1: [nodes.my-nodes]: \"my-nodes\" is not a valid node name: a letter, then \
          letters, digits and \"-\", two to 63 characters, but none of my-nodes, free-nodes and all-nodes"]
    );
    assert_eq!(
        errors(format!("[nodes.walt]\n{networks}")),
        ["gate.toml:1: [nodes.walt]: has the name of the lobby; change [server] lobby or this one"]
    );
    assert_eq!(errors("[images.x1]\n"), ["gate.toml:1: [images.x1] ref: is missing"]);
}

#[test]
fn static_nodes_must_be_on_an_allowed_network() {
    let text = "[node_defaults]\nnetworks = [\"10.0.0.0/8\"]\n\
                [nodes.n1]\naddress = \"192.168.152.10\"\n\
                [nodes.n2]\naddress = \"10.0.0.1\"\n\
                [nodes.n3]\naddress = \"10.0.0.2\"\nnetworks = [\"fd00::/8\"]\n";
    assert_eq!(
        errors(text),
        [
            "gate.toml:4: [nodes.n1] address: 192.168.152.10 is outside of the allowed networks; \
             add \"192.168.152.10/32\", or the network it is on, to networks in [node_defaults] \
             or here",
            "gate.toml:8: [nodes.n3] address: 10.0.0.2 is outside of the allowed networks; add \
             \"10.0.0.2/32\", or the network it is on, to networks in [node_defaults] or here",
        ]
    );
}

#[test]
fn addresses_are_not_judged_by_networks_that_could_not_be_read() {
    let text = "[node_defaults]\nnetworks = [\"lan\"]\n[nodes.n1]\naddress = \"10.0.0.1\"\n";
    let all = errors(text);
    assert_eq!(all.len(), 1, "{all:?}");
    assert!(all[0].starts_with("gate.toml:2: [node_defaults] networks: "));
}

#[test]
fn without_networks_no_static_node_is_allowed() {
    let all = errors("[nodes.n1]\naddress = \"127.0.0.1\"\n");
    assert_eq!(all.len(), 1);
    assert!(all[0].contains("add \"127.0.0.1/32\""), "{all:?}");
}

#[test]
fn dangerous_settings_are_warned_about() {
    assert_eq!(
        warnings("[auth]\nopen_networks = [\"10.0.0.0/8\", \"0.0.0.0/0\"]\n"),
        ["gate.toml:2: [auth] open_networks: 0.0.0.0/0 reaches beyond private networks, and \
          clients from there need no credentials"]
    );
    assert_eq!(
        warnings("[node_defaults]\n\nhost_key_policy = \"off\"\n"),
        [
            "gate.toml:3: [node_defaults] host_key_policy: host keys are not checked, so any machine \
          on the way can pose as a node; use \"accept-new\" at least"
        ]
    );
    assert_eq!(
        warnings("[auth]\naccounts_dir = \"\"\n"),
        ["gate.toml:2: [auth] accounts_dir: nobody can log in: there are no keys, no \
          certification authority, no open networks and no passwords"]
    );
    assert_eq!(
        warnings("[walt]\n\n[node_defaults]\n"),
        ["gate.toml:3: [node_defaults] networks: no network is listed, so no node that the WalT \
          server names can be reached; list the one of walt-net"]
    );
    let weak = STRONG.replace("m=19456", "m=16");
    assert_eq!(
        warnings(&format!("[accounts.alice]\npassword = \"{weak}\"\n")),
        ["gate.toml:2: [accounts.alice] password: is a weak hash; make a new one with \"waltgate \
          hash-password\""]
    );
}

#[test]
fn hashes_that_everyone_can_read_are_warned_about() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("gate.toml");
    fs::write(&path, format!("[accounts.alice]\npassword = \"{STRONG}\"\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    let (_, warnings) = Config::load(&path).unwrap();
    assert_eq!(warnings.len(), 1);
    assert_eq!(
        warnings[0].to_string(),
        format!(
            "{}: [accounts]: password hashes in a file that everyone can read; chmod o-r it",
            path.display()
        )
    );
}

#[test]
fn the_hosts_network_for_containers_is_warned_about() {
    let text = "[image_defaults]\nnetwork = \"host\"\n";
    assert_eq!(config(text).image_defaults.network, ContainerNetwork::Host);
    let [warning] = &warnings(text)[..] else { panic!("one warning") };
    let expected = "gate.toml:2: [image_defaults] network: containers use the host's own network";
    assert!(warning.starts_with(expected), "{warning}");
    assert_eq!(warnings("[image_defaults]\nnetwork = true\n"), [""; 0]);
}
