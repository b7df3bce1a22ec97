use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

use super::*;
use crate::config::{BootMode, EngineKind, HostKeyPolicy, OnCommandSuccess};

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
    assert_eq!(config.limits.idle, None);
    assert_eq!(config.limits.spool_bytes, 256 << 20);
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
    assert_eq!(node.persist_root, PathBuf::from("/var/lib/walt/nodes"));
    assert!(config.nodes.is_empty());
    assert_eq!(config.engine.kind, EngineKind::Auto);
    assert_eq!(config.engine.socket, None);
    let image = &config.image_defaults;
    assert_eq!(image.hostname, "image-shell");
    assert_eq!(image.memory, None);
    assert_eq!(image.pids, None);
    assert!(image.network);
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
        idle_minutes = 7
        spool_megabytes = 0x08
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
        persist_root = "persist"
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
        persist_root = "/p"
        [nodes.rpi2]
        address = "192.168.152.11:2022"
        [engine]
        kind = "docker"
        socket = "unix:///run/docker.sock"
        [image_defaults]
        hostname = "box.lab"
        memory = "2G"
        pids = 100
        network = false
        keep_unsaved_hours = 1
        on_command_success = "discard"
        [images.alpine]
        ref = "registry.example:5000/library/alpine:3.20"
        "#
    ));
    let (config, warnings) = result.unwrap();
    let base = dir.path();
    assert_eq!(warnings, []);
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
    assert_eq!(limits.idle, Some(Duration::from_secs(420)));
    assert_eq!(limits.spool_bytes, 8 << 20);
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
    assert_eq!(rpi1.options.persist_root, PathBuf::from("/p"));

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
    assert_eq!(rpi2.options.persist_root, base.join("persist"));

    assert_eq!(config.engine.kind, EngineKind::Docker);
    assert_eq!(config.engine.socket, Some("/run/docker.sock".into()));
    let image = &config.image_defaults;
    assert_eq!(image.hostname, "box.lab");
    assert_eq!((image.memory, image.pids, image.network), (Some(2 << 30), Some(100), false));
    assert_eq!(image.keep_unsaved, Duration::from_secs(3600));
    assert_eq!(image.on_command_success, OnCommandSuccess::Discard);
    let alias: Vec<_> = config.images.values().collect();
    assert_eq!(alias, ["registry.example:5000/library/alpine:3.20"]);
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
             digits and \"-\", two to 63 characters",
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

/// The one error of a file with this one line below the section's header.
fn mistake(section: &str, line: &str) -> String {
    let all = errors(format!("[{section}]\n{line}\n"));
    let prefix = format!("gate.toml:2: [{section}] ");
    match all.as_slice() {
        [one] => one.strip_prefix(&prefix).unwrap_or_else(|| panic!("{one}")).to_owned(),
        _ => panic!("{all:?}"),
    }
}

#[test]
fn wrong_types_say_what_was_expected_and_found() {
    for (section, line, expected) in [
        ("server", "lobby = 1", "lobby: must be a string, not an integer"),
        ("server", "listen = \"0.0.0.0:1\"", "listen: must be an array, not a string"),
        ("server", "listen = [1]", "listen: must be a string, not an integer"),
        ("limits", "max_startups = \"9\"", "max_startups: must be an integer, not a string"),
        ("limits", "idle_minutes = 1.5", "idle_minutes: must be an integer, not a float"),
        ("image_defaults", "network = 1", "network: must be true or false, not an integer"),
        ("image_defaults", "memory = 0", "memory: must be a string, not an integer"),
        ("auth", "guest = {}", "guest: must be a string, not a table"),
        ("walt", "api = 2020-01-01", "api: must be a string, not a datetime"),
    ] {
        assert_eq!(mistake(section, line), expected);
    }
}

#[test]
fn wrong_values_say_what_is_possible() {
    for (section, line, expected) in [
        (
            "limits",
            "login_grace_seconds = 3601",
            "login_grace_seconds: must be between 1 and 3600, not 3601",
        ),
        ("limits", "idle_minutes = -1", "idle_minutes: must be between 0 and 525600, not -1"),
        (
            "limits",
            "spool_megabytes = 99999999999999999999999",
            "spool_megabytes: must be between 0 and 1048576, not 99999999999999999999999",
        ),
        (
            "server",
            "listen = [\"localhost\"]",
            "listen: \"localhost\" is not an address with a port, such as \"0.0.0.0:2222\" or \
             \"[::]:2222\"",
        ),
        ("server", "listen = [\"[::]:1\", \"[::]:1\"]", "listen: is listed twice"),
        ("server", "host_keys = [\"k\", \"k\"]", "host_keys: is listed twice"),
        ("server", "host_keys = []", "host_keys: must not be empty"),
        ("server", "host_keys = [\"\"]", "host_keys: must be the path of a file or directory"),
        (
            "server",
            "lobby = \"all-nodes\"",
            "lobby: \"all-nodes\" has another meaning in usernames",
        ),
        (
            "auth",
            "guest = \"Guest\"",
            "guest: \"Guest\" is not a valid account name: lower-case letters and digits, with \
             single \"-\" or \"_\" between them, 32 characters at most",
        ),
        (
            "auth",
            "open_networks = [\"lan\"]",
            "open_networks: \"lan\" is not a network in CIDR notation, such as \
             \"192.168.152.0/22\"",
        ),
        (
            "auth",
            "open_networks = [\"192.168.152.10/22\"]",
            "open_networks: \"192.168.152.10/22\" is an address within a network; the network is \
             \"192.168.152.0/22\"",
        ),
        (
            "accounts.alice",
            "allow = [\"alice/x:v2\"]",
            "allow: \"alice/x:v2\" matches no target; patterns look like \"rpi*\", \
             \"image.OWNER.NAME_TAG\" or \"walt\", with \"*\" and \"?\"",
        ),
        ("accounts.alice", "allow = []", "allow: must not be empty"),
        (
            "walt",
            "api = \"https://walt/api\"",
            "api: must be a plain HTTP address, such as \"http://localhost/api/v1\"",
        ),
        (
            "node_defaults",
            "host_key_policy = \"none\"",
            "host_key_policy: must be \"strict\" or \"accept-new\" or \"off\", not \"none\"",
        ),
        (
            "node_defaults",
            "host_key_alias = \"a b\"",
            "host_key_alias: \"a b\" is not a name for known_hosts: letters, digits, \".\", \
             \"-\", \"_\" and \":\" only",
        ),
        (
            "engine",
            "kind = \"embedded\"",
            "kind: \"embedded\" is not available in this version; use \"docker\" or \"auto\"",
        ),
        ("engine", "kind = \"podman\"", "kind: must be \"auto\" or \"docker\", not \"podman\""),
        (
            "engine",
            "socket = \"tcp://1.2.3.4:2375\"",
            "socket: must be a socket on this machine, such as \"unix:///run/docker.sock\"",
        ),
        (
            "engine",
            "socket = \"unix://run/docker.sock\"",
            "socket: must be a socket on this machine, such as \"unix:///run/docker.sock\"",
        ),
        ("image_defaults", "hostname = \"-x\"", "hostname: \"-x\" is not a host name"),
        (
            "image_defaults",
            "on_command_success = \"keep\"",
            "on_command_success: must be \"save\" or \"discard\", not \"keep\"",
        ),
        (
            "images.alpine",
            "ref = \"Alpine\"",
            "ref: \"Alpine\" is not an image reference, such as \
             \"registry.example:5000/library/alpine:3.20\"",
        ),
    ] {
        assert_eq!(mistake(section, line), expected);
    }
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
        ["gate.toml:1: [nodes.my-nodes]: \"my-nodes\" has another meaning in usernames"]
    );
    assert_eq!(
        errors(format!("[nodes.walt]\n{networks}")),
        ["gate.toml:1: [nodes.walt]: has the name of the lobby; change [server] lobby or this one"]
    );
    assert_eq!(errors("[images.x1]\n"), ["gate.toml:1: [images.x1] ref: is missing"]);
}

#[test]
fn memory_sizes_have_binary_units() {
    let memory = |size: &str| {
        config(&format!("[image_defaults]\nmemory = \"{size}\"")).image_defaults.memory
    };
    assert_eq!(memory("0"), None);
    assert_eq!(memory("0G"), None);
    assert_eq!(memory("512M"), Some(512 << 20));
    assert_eq!(memory("2g"), Some(2 << 30));
    assert_eq!(memory("1T"), Some(1 << 40));
    assert_eq!(memory("8192K"), Some(8 << 20));
    assert_eq!(memory("6291456"), Some(6 << 20));
    for wrong in ["", "G", "2GB", "1.5G", "-1", "+2G", "99999999T", "two", "2 G", "é"] {
        assert_eq!(
            mistake("image_defaults", &format!("memory = \"{wrong}\"")),
            format!(
                "memory: \"{wrong}\" is not a memory size, such as \"512M\" or \"2G\", or \"0\" \
                 for no limit"
            )
        );
    }
    assert_eq!(
        mistake("image_defaults", "memory = \"1M\""),
        "memory: must be at least \"6M\", or \"0\" for no limit"
    );
}

#[test]
fn node_addresses_are_ip_addresses_with_or_without_a_port() {
    let address = |text: &str| {
        let text =
            format!("[nodes.n1]\nnetworks = [\"0.0.0.0/0\", \"::/0\"]\naddress = \"{text}\"\n");
        config(&text).nodes[&"n1".parse().unwrap()].address.to_string()
    };
    assert_eq!(address("10.0.0.1"), "10.0.0.1:22");
    assert_eq!(address("10.0.0.1:2022"), "10.0.0.1:2022");
    assert_eq!(address("fd00::1"), "[fd00::1]:22");
    assert_eq!(address("[fd00::1]"), "[fd00::1]:22");
    assert_eq!(address("[fd00::1]:2022"), "[fd00::1]:2022");
    for wrong in ["rpi1", "10.0.0.1:0", "10.0.0.1:99999", "10.0.0", "[fd00::1", ""] {
        assert_eq!(
            mistake("nodes.n1", &format!("address = \"{wrong}\"")),
            format!(
                "address: \"{wrong}\" is not an IP address, with or without a port, such as \
                 \"192.168.152.10\" or \"[fd00::10]:2022\""
            )
        );
    }
}

#[test]
fn wrong_mac_addresses_are_refused() {
    for wrong in ["52:54:00:bb:1b", "52:54:00:bb:1b:b9:00", "52:54:00:bb:1b:xx", "525400bb1bb9"] {
        let text = format!(
            "[nodes.n1]\nmac = \"{wrong}\"\naddress = \"127.0.0.1\"\nnetworks = [\"127.0.0.0/8\"]\n"
        );
        assert_eq!(
            errors(text),
            [format!(
                "gate.toml:2: [nodes.n1] mac: \"{wrong}\" is not a MAC address, such as \
                 \"52:54:00:bb:1b:b9\""
            )]
        );
    }
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
fn password_hashes_must_be_argon2id_and_are_never_repeated() {
    for wrong in ["hunter2", "$2b$12$hunter2hunter2", &STRONG.replace("argon2id", "argon2i")] {
        let message = mistake("accounts.alice", &format!("password = \"{wrong}\""));
        assert!(message.ends_with("; make one with \"waltgate hash-password\""), "{message}");
        assert!(!message.contains(wrong) && !message.contains("hunter2"), "{message}");
    }
}

#[test]
fn secrets_do_not_print() {
    let config = config(&format!("[accounts.alice]\npassword = \"{STRONG}\"\n"));
    let printed = format!("{config:?}");
    assert!(printed.contains("PasswordHash(..)"));
    assert!(!printed.contains("argon2id") && !printed.contains("c29tZXNhbHQ"), "{printed}");
    let api = mistake("walt", "api = \"http://admin:hunter2@walt/api\"");
    assert!(!api.contains("hunter2"), "{api}");
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
fn image_references_are_those_of_container_engines() {
    let digest = format!("alpine@sha256:{}", "0a".repeat(32));
    for good in [
        "alpine",
        "alpine:3.20",
        "library/alpine",
        "localhost/x",
        "localhost:5000/x/y_z:V1.0-rc_1",
        "registry.example/a/b-c.d:latest",
        digest.as_str(),
    ] {
        let text = format!("[images.x]\nref = \"{good}\"\n");
        assert!(config(&text).images.values().eq([good]), "{good}");
    }
    for bad in
        ["", " ", "a b", "/a", "a/", "a//b", "a:", "a:b:c", "-a", "a@sha256:12", "A/b", "a:-x"]
    {
        assert!(mistake("images.x", &format!("ref = \"{bad}\"")).starts_with("ref: "), "{bad}");
    }
}

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
        limits.max_containers_per_account limits.idle_minutes limits.spool_megabytes \
        auth.accounts_dir auth.trusted_user_ca auth.open_networks auth.guest \
        accounts.*.password accounts.*.allow walt.api walt.refresh_seconds \
        node_defaults.networks node_defaults.identity node_defaults.known_hosts \
        node_defaults.host_key_alias node_defaults.host_key_policy \
        node_defaults.connect_seconds node_defaults.boot_wait_seconds \
        node_defaults.persist_root nodes.*.address nodes.*.login nodes.*.mac nodes.*.persist \
        nodes.*.boot_mode nodes.*.host_key_policy engine.kind engine.socket \
        image_defaults.hostname image_defaults.memory image_defaults.pids \
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
