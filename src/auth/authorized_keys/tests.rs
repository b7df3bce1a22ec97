use chrono::FixedOffset;
use russh::keys::key::safe_rng;
use russh::keys::{Algorithm, PrivateKey};

use super::*;

fn key() -> (PublicKey, String) {
    let key = PrivateKey::random(&mut safe_rng(), Algorithm::Ed25519).unwrap();
    let text = key.public_key().to_openssh().unwrap();
    (key.public_key().clone(), text)
}

fn one(line: &str) -> Result<Entry, EntryError> {
    let (mut entries, mut errors) = parse(line);
    match (entries.pop(), errors.pop()) {
        (Some(entry), None) => Ok(entry),
        (None, Some((1, err))) => Err(err),
        other => panic!("{other:?}"),
    }
}

fn with(options: &str) -> Result<Entry, EntryError> {
    one(&format!("{options} {} alice@home", key().1))
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn at(text: &str) -> DateTime<Utc> {
    text.parse().unwrap()
}

#[test]
fn plain_keys_comments_and_blank_lines_are_read() {
    let (a, text_a) = key();
    let (b, text_b) = key();
    let file = format!("# mine\n\n{text_a}\r\n  {text_b}  at the office, #2  \n\t#x\n");
    let (entries, errors) = parse(&file);
    assert_eq!(errors, []);
    let keys: Vec<_> = entries.iter().map(|entry| entry.key.key_data()).collect();
    assert_eq!(keys, [a.key_data(), b.key_data()]);
    assert!(entries.iter().all(|entry| entry.restrictions == Restrictions::default()));
}

#[test]
fn restrict_forbids_all_and_later_options_give_back() {
    let all = with("restrict").unwrap().restrictions;
    let forbidden = Restrictions {
        no_pty: true,
        no_port_forwarding: true,
        no_agent_forwarding: true,
        no_x11_forwarding: true,
        ..Restrictions::default()
    };
    assert_eq!(all, forbidden);
    let some = with("restrict,PTY,port-forwarding").unwrap().restrictions;
    assert_eq!(some, Restrictions { no_pty: false, no_port_forwarding: false, ..forbidden });
    assert!(with("pty,restrict").unwrap().restrictions.no_pty);
}

#[test]
fn each_negative_option_forbids_its_own_thing() {
    let of = |option| with(option).unwrap().restrictions;
    let none = Restrictions::default;
    assert_eq!(of("no-pty"), Restrictions { no_pty: true, ..none() });
    assert_eq!(of("no-port-forwarding"), Restrictions { no_port_forwarding: true, ..none() });
    assert_eq!(of("no-agent-forwarding"), Restrictions { no_agent_forwarding: true, ..none() });
    assert_eq!(of("no-X11-forwarding"), Restrictions { no_x11_forwarding: true, ..none() });
    assert_eq!(of("no-user-rc"), none());
}

#[test]
fn a_forced_command_keeps_its_blanks_commas_and_quotes() {
    let entry = with(r#"no-pty,command="echo \"a, b\" \\x",restrict"#).unwrap();
    let command = entry.restrictions.forced_command;
    assert_eq!(command.as_deref(), Some(r#"echo "a, b" \\x"#));
}

#[test]
fn from_limits_where_the_key_works() {
    let entry = with(r#"from="10.0.0.0/8,!10.9.*""#).unwrap();
    let now = at("2030-01-01T00:00:00Z");
    assert!(entry.admits(ip("10.1.1.1"), now));
    assert!(entry.admits(ip("::ffff:10.1.1.1"), now));
    assert!(!entry.admits(ip("10.9.1.1"), now));
    assert!(!entry.admits(ip("192.168.1.1"), now));
}

#[test]
fn the_key_stops_working_at_its_expiry_time() {
    let entry = with(r#"expiry-time="20300102030405Z""#).unwrap();
    assert!(entry.admits(ip("::1"), at("2030-01-02T03:04:04Z")));
    assert!(!entry.admits(ip("::1"), at("2030-01-02T03:04:05Z")));
    let earliest = with(r#"expiry-time="20300102Z",expiry-time="20400102Z""#).unwrap();
    assert!(!earliest.admits(ip("::1"), at("2035-01-01T00:00:00Z")));
}

#[test]
fn expiry_times_have_the_formats_of_sshd() {
    let zone = FixedOffset::east_opt(2 * 3600).unwrap();
    let parsed = |text| expiry(text, &zone);
    assert_eq!(parsed("20300102"), Some(at("2030-01-01T22:00:00Z")));
    assert_eq!(parsed("20300102Z"), Some(at("2030-01-02T00:00:00Z")));
    assert_eq!(parsed("203001020304"), Some(at("2030-01-02T01:04:00Z")));
    assert_eq!(parsed("20300102030405"), Some(at("2030-01-02T01:04:05Z")));
    assert_eq!(parsed("203001020304UTC"), Some(at("2030-01-02T03:04:00Z")));
    for wrong in
        ["", "Z", "2030", "20301302", "2030010225", "203001022560", "+2030010", "2030-01-02"]
    {
        assert_eq!(parsed(wrong), None, "{wrong:?}");
    }
}

#[test]
fn an_entry_with_an_option_that_is_not_supported_is_skipped() {
    let unknown = |option: &str| EntryError::UnknownOption(option.to_owned());
    assert_eq!(with("no-pty,verify-required"), Err(unknown("verify-required")));
    assert_eq!(with("permitopen"), Err(unknown("permitopen")));
    assert_eq!(with(r#"cert-authority="x""#), Err(unknown("cert-authority")));
    assert_eq!(with(r#"restrict="x""#), Err(unknown("restrict")));
    assert_eq!(with("from"), Err(unknown("from")));
}

#[test]
fn permits_of_forwards_add_up_and_give_back_nothing() {
    let keys = with(r#"permitopen="rpi1:22",permitlisten="8080",PermitOpen="[::1]:*""#).unwrap();
    let of = keys.restrictions;
    assert!(of.permit_open_tcp("rpi1", 22) && of.permit_open_tcp("::1", 7));
    assert!(!of.permit_open_tcp("rpi1", 23) && !of.permit_open_unix());
    assert!(of.permit_listen_tcp("", 8080));
    assert!(!of.permit_listen_tcp("", 8081) && !of.permit_listen_unix());

    let one_way = with(r#"permitopen="rpi1:22""#).unwrap().restrictions;
    assert!(one_way.permit_listen_tcp("", 0) && one_way.permit_listen_unix());
    let other_way = with(r#"permitlisten="8080""#).unwrap().restrictions;
    assert!(other_way.permit_open_tcp("rpi9", 1) && other_way.permit_open_unix());

    for nothing in [r#"restrict,permitopen="*:*",permitlisten="*""#, "no-port-forwarding"] {
        let nothing = with(nothing).unwrap().restrictions;
        assert!(!nothing.permit_open_tcp("rpi1", 22) && !nothing.permit_open_unix());
        assert!(!nothing.permit_listen_tcp("", 8080) && !nothing.permit_listen_unix());
    }
    let wrong = with(r#"permitopen="rpi1""#).unwrap_err().to_string();
    assert_eq!(
        wrong,
        "option \"permitopen\" is wrong, so the key is ignored: it must be HOST:PORT, with an \
         IPv6 address in square brackets"
    );
    assert!(matches!(with(r#"permitlisten="a:b""#), Err(EntryError::BadOption(..))));
}

#[test]
fn options_without_an_effect_are_no_mistakes() {
    let none = Restrictions::default();
    for option in [r#"environment="A=b c""#, r#"tunnel="1""#, r#"principals="ops""#, "user-rc"] {
        let entry = with(option).unwrap();
        assert_eq!((entry.restrictions.clone(), entry.is_authority()), (none.clone(), false));
    }
    assert!(matches!(with(r#"environment="=b""#), Err(EntryError::BadOption(..))));
    assert!(matches!(with(r#"environment="A""#), Err(EntryError::BadOption(..))));
}

#[test]
fn an_authority_certifies_the_principals_it_is_given_or_its_account() {
    let alice = "alice".parse().unwrap();
    let certifies = |options: &str, principals: &[&str]| {
        let principals: Vec<_> = principals.iter().map(|&name| name.to_owned()).collect();
        with(options).unwrap().certifies(&alice, &principals)
    };
    assert!(certifies("cert-authority", &["bob", "alice"]));
    assert!(!certifies("cert-authority", &["bob"]));
    assert!(!certifies("cert-authority", &[]), "an empty list fits no one");
    let listed = r#"Cert-Authority,principals="ops,Team A",no-pty"#;
    assert!(certifies(listed, &["Team A"]));
    assert!(!certifies(listed, &["alice", "Team"]));
    assert!(!certifies("no-pty", &["alice"]));
    assert!(matches!(
        with(r#"principals="a",principals="b""#),
        Err(EntryError::BadOption("principals", _))
    ));
}

#[test]
fn damaged_lines_are_skipped_with_their_line_number() {
    let (good, text) = key();
    let file = format!(
        "{text}\nssh-ed25519 AAAA\nhello\nfrom=\"10.0.0.1 {text}\nno-pty,,pty {text}\n\
         from=\"x.example\" {text}\ncommand=\"a\",command=\"b\" {text}\n\
         expiry-time=\"soon\" {text}\nfrom=10.0.0.1 {text}\nssh-ed25519\n"
    );
    let (entries, errors) = parse(&file);
    assert_eq!(entries.len(), 1);
    assert_eq!(entries[0].key.key_data(), good.key_data());
    let lines: Vec<_> = errors.iter().map(|(line, _)| *line).collect();
    assert_eq!(lines, [2, 3, 4, 5, 6, 7, 8, 9, 10]);
    assert!(matches!(errors[0].1, EntryError::BadKey(_)));
    assert_eq!(errors[1].1, EntryError::NotAKey);
    assert_eq!(errors[3].1, EntryError::BadSyntax);
    assert_eq!(
        errors[4].1.to_string(),
        "option \"from\" is wrong, so the key is ignored: \"x.example\" is a host name, and \
         clients are known by address only"
    );
    assert_eq!(errors[7].1, EntryError::BadSyntax);
    assert_eq!(errors[8].1, EntryError::NotAKey);
}

#[test]
fn a_key_never_takes_the_place_of_the_options() {
    let (_, text) = key();
    assert!(one(&format!("no-pty {text}")).unwrap().restrictions.no_pty);
    assert_eq!(one(&format!("no-pty no-x11-forwarding {text}")), Err(EntryError::NotAKey));
}
