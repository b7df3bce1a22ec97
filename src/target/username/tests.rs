use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use super::*;
use crate::names::{AccountName, ImageTag, Login};

fn lobby() -> NodeName {
    "walt".parse().unwrap()
}

fn parse(text: &str) -> Result<Username, UsernameError> {
    Username::parse(text, &lobby())
}

fn target(text: &str) -> Target {
    parse(text).unwrap().target
}

fn message(text: &str) -> String {
    parse(text).unwrap_err().to_string()
}

fn image(owner: Option<&str>, name: &str, tag: Option<&str>) -> Target {
    Target::Image(ImageName {
        owner: owner.map(|owner| owner.parse().unwrap()),
        name: name.parse().unwrap(),
        tag: tag.map(|tag| tag.parse().unwrap()),
    })
}

fn nodes(login: Option<&str>, names: &[&str]) -> Target {
    Target::Nodes(NodesTarget {
        login: login.map(|login| login.parse().unwrap()),
        selectors: names.iter().map(|name| name.parse().unwrap()).collect(),
    })
}

#[test]
fn both_forms_name_the_same_image() {
    let cases = [
        ("pc", "pc", image(None, "pc", None)),
        ("pc_v2", "pc:v2", image(None, "pc", Some("v2"))),
        ("alice.pc", "alice/pc", image(Some("alice"), "pc", None)),
        ("alice.pc_v2", "alice/pc:v2", image(Some("alice"), "pc", Some("v2"))),
        (
            "my_team.pc-x86-64_v2",
            "my_team/pc-x86-64:v2",
            image(Some("my_team"), "pc-x86-64", Some("v2")),
        ),
        ("image.pc", "image/pc", image(Some("image"), "pc", None)),
    ];
    for (scp_form, walt_form, expected) in cases {
        assert_eq!(target(&format!("image.{scp_form}")), expected);
        assert_eq!(target(&format!("image.{walt_form}")), expected);
        assert_eq!(expected.to_string(), format!("image.{scp_form}"));
    }
}

#[test]
fn nodes_alone_with_login_and_in_sets() {
    assert_eq!(target("rpi1"), nodes(None, &["rpi1"]));
    assert_eq!(target("pi.rpi1"), nodes(Some("pi"), &["rpi1"]));
    assert_eq!(target("rpi1,rpi2"), nodes(None, &["rpi1", "rpi2"]));
    assert_eq!(
        target("Admin.my-nodes,rpi1,free-nodes,all-nodes"),
        nodes(Some("Admin"), &["my-nodes", "rpi1", "free-nodes", "all-nodes"])
    );
    assert_eq!(
        target("my-nodes"),
        Target::Nodes(NodesTarget { login: None, selectors: vec![NodeSelector::MyNodes] })
    );
}

#[test]
fn a_name_that_comes_again_is_dropped() {
    assert_eq!(
        target("rpi2,my-nodes,rpi1,rpi2,my-nodes"),
        nodes(None, &["rpi2", "my-nodes", "rpi1"])
    );
}

#[test]
fn account_comes_before_the_target() {
    for (text, target) in [
        ("alice+rpi1", nodes(None, &["rpi1"])),
        ("alice+pi.rpi1", nodes(Some("pi"), &["rpi1"])),
        ("alice+image.bob/pc:v2", image(Some("bob"), "pc", Some("v2"))),
        ("alice+walt", Target::Lobby(lobby())),
    ] {
        let username = parse(text).unwrap();
        assert_eq!(username.account, Some("alice".parse().unwrap()));
        assert_eq!(username.target, target);
    }
}

#[test]
fn lobby_wins_over_a_node_of_its_name() {
    assert_eq!(target("walt"), Target::Lobby(lobby()));
    assert_eq!(target("walt,walt"), Target::Lobby(lobby()));
    assert_eq!(target("root.walt"), nodes(Some("root"), &["walt"]));
    assert_eq!(target("walt,rpi1"), nodes(None, &["walt", "rpi1"]));
    let gate: NodeName = "gate".parse().unwrap();
    let username = Username::parse("gate", &gate).unwrap();
    assert_eq!(username.target, Target::Lobby(gate.clone()));
    assert_eq!(Username::parse("walt", &gate).unwrap().target, nodes(None, &["walt"]));
}

#[test]
fn a_node_may_be_called_image() {
    assert_eq!(target("image"), nodes(None, &["image"]));
    assert_eq!(target("root.image"), nodes(Some("root"), &["image"]));
}

#[test]
fn reserved_image_name_parses() {
    assert_eq!(target("image.default"), image(None, "default", None));
}

#[test]
fn errors_say_what_to_type() {
    for (text, wanted) in [
        ("", "type NODE, LOGIN.NODE or image.NAME"),
        ("alice+", "type NODE, LOGIN.NODE or image.NAME"),
        ("+rpi1", r#""" is not a valid account name: lower-case letters"#),
        ("Alice+rpi1", "type ACCOUNT+TARGET"),
        ("rpi1,,rpi2", r#"an empty name in "rpi1,,rpi2": type names with one comma"#),
        ("rpi1,", "as in rpi1,rpi2"),
        ("root.", "an empty name"),
        ("root.rpi1,pi.rpi2", "type one login for all nodes"),
        ("root@rpi1", "type root.rpi1"),
        (
            "alice/pc:v2",
            r#""alice/pc:v2" is an image's name, not a node's: type image.alice.pc_v2"#,
        ),
        ("pc:v2", "type image.pc_v2"),
        ("image.", "as in image.pc-x86-64-default"),
        ("image.pc,pc2", "type one image"),
        ("image.alice/pc_v2", "type image.alice.pc_v2"),
        ("image.alice.pc:v2", "type image.alice.pc_v2"),
        ("image.docker.io/library/alpine:3.20", "under [images]"),
        ("image.registry:5000/alpine", "under [images]"),
        ("image.PC", r#""PC" is not a valid image name: lower-case letters"#),
        ("image.pc_V2", r#""V2" is not a valid image tag"#),
        ("image.pc_", r#""" is not a valid image tag"#),
        ("image.Bob.pc", r#""Bob" is not a valid account name"#),
        ("Image.pc", "image.NAME for an image"),
        ("rpi_1", r#""rpi_1" is not a valid node name: a letter"#),
        ("9.rpi1", "type LOGIN.NODE"),
        ("alice+bob+rpi1", r#""bob+rpi1" is not a valid node name"#),
    ] {
        let message = message(text);
        assert!(message.contains(wanted), "{text}: {message}");
    }
}

#[test]
fn longer_than_the_bound_is_refused() {
    let longest = vec!["rpi1"; 205].join(",");
    assert_eq!(longest.len(), MAX_USERNAME_BYTES);
    assert_eq!(target(&longest), nodes(None, &["rpi1"]));
    let longer = format!("{longest}0");
    assert_eq!(message(&longer), "the user name has 1025 bytes: type 1024 at most");
}

fn account() -> impl Strategy<Value = AccountName> {
    "[a-z0-9]{1,8}([-_][a-z0-9]{1,8}){0,2}".prop_filter_map("reserved", |text| text.parse().ok())
}

fn node() -> impl Strategy<Value = NodeName> {
    "[a-zA-Z][a-zA-Z0-9-]{1,62}".prop_filter_map("keyword", |text| text.parse().ok())
}

fn login() -> impl Strategy<Value = Login> {
    "[a-zA-Z_][a-zA-Z0-9_-]{0,31}".prop_filter_map("reserved", |text| text.parse().ok())
}

fn label() -> impl Strategy<Value = ImageLabel> {
    prop_oneof!["[a-z0-9]([a-z0-9-]{0,126}[a-z0-9])?", Just("default".to_owned())]
        .prop_map(|text| text.parse().unwrap())
}

fn tag() -> impl Strategy<Value = ImageTag> {
    prop_oneof!["[a-z0-9][a-z0-9-]{0,127}", Just("latest".to_owned())]
        .prop_map(|text| text.parse().unwrap())
}

fn image_names() -> impl Strategy<Value = ImageName> {
    (option::of(account()), label(), option::of(tag())).prop_map(|(owner, name, tag)| ImageName {
        owner,
        name,
        tag,
    })
}

fn selector() -> impl Strategy<Value = NodeSelector> {
    prop_oneof![
        5 => node().prop_map(NodeSelector::Name),
        1 => Just(NodeSelector::MyNodes),
        1 => Just(NodeSelector::FreeNodes),
        1 => Just(NodeSelector::AllNodes),
    ]
}

fn nodes_targets() -> impl Strategy<Value = NodesTarget> {
    (option::of(login()), vec(selector(), 1..10)).prop_map(|(login, typed)| {
        let mut selectors = Vec::new();
        for selector in typed {
            if !selectors.contains(&selector) {
                selectors.push(selector);
            }
        }
        NodesTarget { login, selectors }
    })
}

fn targets() -> impl Strategy<Value = Target> {
    prop_oneof![
        4 => image_names().prop_map(Target::Image),
        4 => nodes_targets()
            .prop_map(Target::Nodes)
            .prop_filter("the lobby's name", |target| target.to_string() != "walt"),
        1 => Just(Target::Lobby(lobby())),
    ]
}

fn usernames() -> impl Strategy<Value = Username> {
    (option::of(account()), targets()).prop_map(|(account, target)| Username { account, target })
}

/// Texts made of the grammar's own pieces reach further into the parser than arbitrary ones.
fn almost_usernames() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        Just("image.".to_owned()),
        Just("my-nodes".to_owned()),
        Just("walt".to_owned()),
        "[-+.,_/:@]",
        "[a-zA-Z0-9]{1,4}",
        "\\PC",
    ];
    vec(piece, 0..12).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn displayed_username_parses_to_itself(username in usernames()) {
        prop_assert_eq!(parse(&username.to_string()), Ok(username));
    }

    #[test]
    fn displayed_image_name_parses_to_itself(name in image_names()) {
        prop_assert_eq!(name.to_string().parse(), Ok(name));
    }

    #[test]
    fn displayed_nodes_parse_to_themselves(nodes in nodes_targets()) {
        prop_assert_eq!(nodes.to_string().parse(), Ok(nodes));
    }

    #[test]
    fn displayed_username_needs_no_quoting_and_suits_scp(username in usernames()) {
        let text = username.to_string();
        prop_assert!(text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.,+".contains(&b)));
    }

    #[test]
    fn both_image_forms_are_the_same(name in image_names()) {
        let owner = name.owner.as_ref().map_or(String::new(), |owner| format!("{owner}/"));
        let tag = name.tag.as_ref().map_or(String::new(), |tag| format!(":{tag}"));
        prop_assert_eq!(format!("{owner}{}{tag}", name.name).parse(), Ok(name));
    }

    #[test]
    fn any_text_gives_a_username_or_one_line(text in prop_oneof![".*", almost_usernames()]) {
        match parse(&text) {
            Ok(username) => prop_assert_eq!(parse(&username.to_string()), Ok(username)),
            Err(error) => prop_assert!(!error.to_string().contains(char::is_control)),
        }
    }
}
