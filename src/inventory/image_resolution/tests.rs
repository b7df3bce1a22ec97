use super::*;

fn alice() -> AccountName {
    "alice".parse().unwrap()
}

fn references(texts: &[&str]) -> Vec<ImageReference> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn resolved(name: &str, available: &[&str]) -> Result<String, ResolveError> {
    with_aliases(name, &[], available)
}

fn with_aliases(
    name: &str,
    aliases: &[(&str, &str)],
    available: &[&str],
) -> Result<String, ResolveError> {
    let aliases = aliases
        .iter()
        .map(|(alias, reference)| (alias.parse().unwrap(), (*reference).to_owned()))
        .collect();
    resolve(&name.parse().unwrap(), &alice(), &aliases, &references(available))
        .map(|image| image.engine_text().to_owned())
}

fn similar(name: &str, available: &[&str]) -> Vec<String> {
    match resolved(name, available) {
        Err(ResolveError::Unknown { similar, .. }) => similar,
        other => panic!("{other:?}"),
    }
}

const PC_OF_ALL: [&str; 4] = [
    "bob/pc:latest",
    "docker.io/library/pc:latest",
    "localhost/waltplatform/pc:latest",
    "localhost/alice/pc:latest",
];

#[test]
fn own_image_comes_before_the_platforms_before_nobodys_before_anothers() {
    let without = |count: usize| resolved("pc", &PC_OF_ALL[..PC_OF_ALL.len() - count]);
    assert_eq!(without(0).unwrap(), "localhost/alice/pc:latest");
    assert_eq!(without(1).unwrap(), "localhost/waltplatform/pc:latest");
    assert_eq!(without(2).unwrap(), "docker.io/library/pc:latest");
    assert_eq!(without(3).unwrap(), "bob/pc:latest");
    assert!(without(4).is_err());
}

#[test]
fn several_other_owners_are_listed() {
    let available = ["carol/pc:v2", "localhost/bob/pc:v2", "bob/pc:latest"];
    let error = resolved("pc_v2", &available).unwrap_err();
    assert_eq!(
        error.to_string(),
        "several images are named pc_v2: bob.pc_v2, carol.pc_v2; \
         say whose, as in image.bob.pc_v2"
    );
}

#[test]
fn same_owner_under_two_prefixes_is_one_image() {
    let available = ["localhost/bob/pc:latest", "docker.io/bob/pc:latest"];
    assert_eq!(resolved("pc", &available).unwrap(), available[0]);
}

#[test]
fn explicit_owner_means_that_owner_only() {
    assert_eq!(resolved("bob.pc", &PC_OF_ALL).unwrap(), "bob/pc:latest");
    assert!(matches!(resolved("carol.pc", &PC_OF_ALL), Err(ResolveError::Unknown { .. })));
}

#[test]
fn tag_must_be_the_one_asked_for() {
    let available = ["alice/pc:v1", "waltplatform/pc:latest"];
    assert_eq!(resolved("pc", &available).unwrap(), available[1]);
    assert_eq!(resolved("pc_latest", &available).unwrap(), available[1]);
    assert_eq!(resolved("pc_v1", &available).unwrap(), available[0]);
    assert!(resolved("pc_v2", &available).is_err());
}

#[test]
fn alias_comes_first_unless_owner_or_tag_is_given() {
    let aliases = [("pc", "registry.example:5000/x/pc:3.20")];
    let of = |name: &str| with_aliases(name, &aliases, &["alice/pc:latest"]).unwrap();
    assert_eq!(of("pc"), "registry.example:5000/x/pc:3.20");
    assert_eq!(of("alice.pc"), "alice/pc:latest");
    assert_eq!(of("pc_latest"), "alice/pc:latest");
}

#[test]
fn alias_that_is_no_reference_names_its_section() {
    let error = with_aliases("pc", &[("pc", "No Reference")], &[]).unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("[images.pc] of the gateway's configuration: \"No Reference\" is not")
    );
}

#[test]
fn image_of_another_registry_is_reached_by_alias_only() {
    let available = ["registry.example/alice/pc:latest", "registry.example/pc:latest"];
    assert!(resolved("pc", &available).is_err());
    assert!(resolved("alice.pc", &available).is_err());
}

#[test]
fn unknown_image_names_the_closest_as_they_are_typed() {
    let available = [
        "localhost/alice/pc-debian:latest",
        "waltplatform/pc-debiann:latest",
        "docker.io/library/pc-debian:v2",
        "bob/nanopi:latest",
    ];
    assert_eq!(similar("pc-debain", &available), ["pc-debian", "pc-debiann"]);
    assert_eq!(similar("bob.nanopy", &available), ["bob.nanopi"]);
    assert_eq!(similar("nanopi_v2", &available), ["bob.nanopi"]);
    assert!(similar("camera", &available).is_empty());
}

#[test]
fn aliases_are_suggested_too() {
    match with_aliases("alpin", &[("alpine", "alpine:3.20")], &["alpine:3.20"]) {
        Err(ResolveError::Unknown { similar, .. }) => assert_eq!(similar, ["alpine"]),
        other => panic!("{other:?}"),
    }
}

#[test]
fn image_is_saved_to_the_account_whoever_owns_it() {
    for (name, wanted) in [
        ("pc", "alice/pc:latest"),
        ("pc_v2", "alice/pc:v2"),
        ("bob.pc_v2", "alice/pc:v2"),
        ("waltplatform.pc", "alice/pc:latest"),
    ] {
        assert_eq!(save_target(&alice(), &name.parse().unwrap()), wanted);
    }
}

#[test]
fn saved_image_is_what_the_same_name_finds_next() {
    let name: ImageName = "pc_v2".parse().unwrap();
    let saved = save_target(&alice(), &name);
    let available = ["waltplatform/pc:v2", "bob/pc:v2", saved.as_str()];
    assert_eq!(resolved("pc_v2", &available).unwrap(), saved);
}

#[test]
fn a_listing_has_the_names_that_lead_to_the_images() {
    let aliases = [("short", "registry.example/team/big:v1"), ("gone", "nobody/gone")]
        .map(|(alias, reference)| (alias.parse().unwrap(), reference.to_owned()));
    let available = references(&[
        "registry.example/team/big:v1",
        "localhost/alice/pc:latest",
        "docker.io/alice/pc:latest",
        "waltplatform/pc:latest",
        "waltplatform/rpi:latest",
        "docker.io/library/alpine:latest",
        "docker.io/library/pc:latest",
        "bob/pc:latest",
        "bob/own:v2",
        "bob/own@sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
        "registry.example/team/other:v1",
    ]);
    let listed = listing(&alice(), &aliases.into(), &available);
    let listed: Vec<_> =
        listed.iter().map(|(name, image)| format!("{name} {}", image.engine_text())).collect();
    assert_eq!(
        listed,
        [
            "alpine docker.io/library/alpine:latest",
            "bob.own_v2 bob/own:v2",
            "bob.pc bob/pc:latest",
            "pc localhost/alice/pc:latest",
            "rpi waltplatform/rpi:latest",
            "short registry.example/team/big:v1",
            "waltplatform.pc waltplatform/pc:latest",
        ]
    );
}
