//! What single values may be.

use super::*;

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
        ("limits", "max_startups = 1.5", "max_startups: must be an integer, not a float"),
        ("limits", "idle_minutes = \"1\"", "idle_minutes: must be a number, not a string"),
        (
            "image_defaults",
            "network = 1",
            "network: must be true, false or \"host\", not an integer",
        ),
        (
            "image_defaults",
            "network = \"none\"",
            "network: must be true, false or \"host\", not \"none\"",
        ),
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
            "lobby: \"all-nodes\" is not a valid node name: a letter, then letters, \
             digits and \"-\", two to 63 characters, but none of my-nodes, free-nodes and all-nodes",
        ),
        (
            "auth",
            "guest = \"Guest\"",
            "guest: \"Guest\" is not a valid account name: lower-case letters and digits, with \
             single \"-\" or \"_\" between them, 32 characters at most, but neither \"library\" nor \"localhost\"",
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
            "kind = \"podman\"",
            "kind: must be \"auto\" or \"docker\" or \"embedded\", not \"podman\"",
        ),
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
            "disk = \"100K\"",
            "disk: must be at least \"1M\", or \"0\" for no limit",
        ),
        (
            "image_defaults",
            "disk = \"much\"",
            "disk: \"much\" is not a size on disk, such as \"512M\" or \"2G\", or \"0\" for no limit",
        ),
        ("image_defaults", "cpus = 1e9", "cpus: must be between 0 and 8192, not 1e9"),
        ("image_defaults", "cpus = nan", "cpus: must be between 0 and 8192, not nan"),
        ("image_defaults", "cpus = 0.001", "cpus: must be at least 0.01, or 0 for no limit"),
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
fn password_hashes_must_be_argon2id_and_are_never_repeated() {
    for wrong in ["hunter2", "$2b$12$hunter2hunter2", &STRONG.replace("argon2id", "argon2i")] {
        let message = mistake("accounts.alice", &format!("password = \"{wrong}\""));
        assert!(message.ends_with("; make one with \"waltgate hash-password\""), "{message}");
        assert!(!message.contains(wrong) && !message.contains("hunter2"), "{message}");
    }
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
fn secrets_do_not_print() {
    let config = config(&format!("[accounts.alice]\npassword = \"{STRONG}\"\n"));
    let printed = format!("{config:?}");
    assert!(printed.contains("PasswordHash(..)"));
    assert!(!printed.contains("argon2id") && !printed.contains("c29tZXNhbHQ"), "{printed}");
    let api = mistake("walt", "api = \"http://admin:hunter2@walt/api\"");
    assert!(!api.contains("hunter2"), "{api}");
}
