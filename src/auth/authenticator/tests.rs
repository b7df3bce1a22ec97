use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use russh::keys::PrivateKey;
use russh::keys::ssh_key::certificate::Builder;

use super::*;
use crate::auth::certificate::tests::{issue, new_key};
use crate::auth::hash_password;
use crate::target::Target;

/// A configuration directory of its own.
struct Site {
    dir: tempfile::TempDir,
    more: String,
}

fn site() -> Site {
    let site = Site { dir: tempfile::tempdir().unwrap(), more: String::new() };
    site.mkdir("keys/accounts");
    site
}

impl Site {
    fn mkdir(&self, name: &str) {
        let path = self.dir.path().join(name);
        fs::create_dir_all(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.dir.path().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    }

    /// Lists keys for an account.
    fn account(&self, name: &str, lines: &[String]) {
        self.write(&format!("keys/accounts/{name}.pub"), &lines.join("\n"));
    }

    fn with(mut self, toml: &str) -> Self {
        self.more.push_str(toml);
        self
    }

    fn try_authenticator(&self) -> Result<Authenticator, AuthSetupError> {
        self.write("gate.toml", &self.more);
        let (config, _) = Config::load(&self.dir.path().join("gate.toml")).unwrap();
        Authenticator::new(&config)
    }

    fn authenticator(&self) -> Authenticator {
        self.try_authenticator().unwrap()
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }
}

fn line(key: &PrivateKey) -> String {
    key.public_key().to_openssh().unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn name(text: &str) -> AccountName {
    text.parse().unwrap()
}

/// The account of a client with this key, after the offer said the same.
async fn by_key(gate: &Authenticator, claimed: Option<&str>, key: &PrivateKey) -> Option<Identity> {
    let claimed = claimed.map(name);
    let (peer, key) = (ip("10.0.0.1"), key.public_key());
    let identity = gate.public_key(claimed.as_ref(), peer, key).await;
    let offered = gate.offers_public_key(claimed.as_ref(), peer, key).await;
    assert_eq!(offered, identity.is_some());
    identity
}

fn account(identity: Option<Identity>) -> Option<String> {
    identity.map(|identity| identity.account.to_string())
}

#[test]
fn open_networks_need_no_credentials() {
    let gate =
        site().with("[auth]\nopen_networks = [\"10.0.0.0/8\", \"fd00::/8\"]\n").authenticator();
    let guest = gate.source_network(None, ip("10.1.2.3")).unwrap();
    assert_eq!(guest.account, name("guest"));
    assert_eq!(guest.method, "open network 10.0.0.0/8");
    assert_eq!(guest.restrictions, Restrictions::default());
    let claimed = gate.source_network(Some(&name("alice")), ip("fd00::1"));
    assert_eq!(account(claimed).as_deref(), Some("alice"));
    let mapped = gate.source_network(None, ip("::ffff:10.1.2.3"));
    assert_eq!(account(mapped).as_deref(), Some("guest"));
    assert_eq!(gate.source_network(Some(&name("alice")), ip("11.0.0.1")), None);
}

#[test]
fn no_network_is_open_by_default() {
    let gate = site().authenticator();
    assert_eq!(gate.source_network(None, ip("127.0.0.1")), None);
    assert_eq!(gate.source_network(None, ip("::1")), None);
}

#[tokio::test]
async fn a_listed_key_gives_its_account() {
    let (key, other) = (new_key(), new_key());
    let site = site();
    site.account("alice", &[line(&key)]);
    let gate = site.authenticator();
    let identity = by_key(&gate, None, &key).await.unwrap();
    assert_eq!(identity.account, name("alice"));
    assert_eq!(identity.method, format!("publickey {}", key.fingerprint(HashAlg::Sha256)));
    assert_eq!(account(by_key(&gate, Some("alice"), &key).await).as_deref(), Some("alice"));
    assert_eq!(by_key(&gate, Some("bob"), &key).await, None);
    assert_eq!(by_key(&gate, None, &other).await, None);
    assert_eq!(gate.problems(), Vec::<String>::new());
}

#[tokio::test]
async fn a_key_of_several_accounts_needs_the_claim() {
    let key = new_key();
    let site = site();
    site.account("alice", &[line(&key)]);
    site.account("ops", &[format!("no-pty {}", line(&key))]);
    let gate = site.authenticator();
    assert_eq!(by_key(&gate, None, &key).await, None);
    let ops = by_key(&gate, Some("ops"), &key).await.unwrap();
    assert_eq!(ops.account, name("ops"));
    assert!(ops.restrictions.no_pty);
    assert!(!by_key(&gate, Some("alice"), &key).await.unwrap().restrictions.no_pty);
}

#[tokio::test]
async fn the_first_entry_that_admits_the_client_counts() {
    let key = new_key();
    let site = site();
    site.account(
        "alice",
        &[
            format!("from=\"192.168.0.0/16\" {}", line(&key)),
            format!("expiry-time=\"20010101Z\",no-pty {}", line(&key)),
            format!("restrict,command=\"uptime\" {}", line(&key)),
            line(&key),
        ],
    );
    let gate = site.authenticator();
    let far = by_key(&gate, None, &key).await.unwrap();
    assert_eq!(far.restrictions.forced_command.as_deref(), Some("uptime"));
    let near = gate.public_key(None, ip("::ffff:192.168.1.1"), key.public_key()).await.unwrap();
    assert_eq!(near.restrictions, Restrictions::default());
}

#[tokio::test]
async fn a_key_that_no_entry_admits_is_refused() {
    let key = new_key();
    let site = site();
    site.account("alice", &[format!("expiry-time=\"20010101Z\" {}", line(&key))]);
    assert_eq!(by_key(&site.authenticator(), None, &key).await, None);
}

#[tokio::test]
async fn changed_files_are_noticed_at_the_next_use() {
    let (key, other) = (new_key(), new_key());
    let site = site();
    let gate = site.authenticator();
    assert_eq!(by_key(&gate, None, &key).await, None);
    site.account("alice", &[line(&key)]);
    assert_eq!(account(by_key(&gate, None, &key).await).as_deref(), Some("alice"));
    site.account("alice", &[line(&other)]);
    assert_eq!(by_key(&gate, None, &key).await, None);
    assert_eq!(account(by_key(&gate, None, &other).await).as_deref(), Some("alice"));
    fs::rename(site.path("keys/accounts/alice.pub"), site.path("keys/accounts/bob.pub")).unwrap();
    assert_eq!(account(by_key(&gate, None, &other).await).as_deref(), Some("bob"));
    fs::remove_file(site.path("keys/accounts/bob.pub")).unwrap();
    assert_eq!(by_key(&gate, None, &other).await, None);
}

#[tokio::test]
async fn an_accounts_directory_may_appear_later() {
    let key = new_key();
    let site = Site { dir: tempfile::tempdir().unwrap(), more: String::new() };
    let gate = site.authenticator();
    let dir = site.path("keys/accounts");
    assert_eq!(
        gate.problems(),
        [format!("{dir}: no account has a public key: No such file or directory (os error 2)")]
    );
    site.mkdir("keys/accounts");
    site.account("alice", &[line(&key)]);
    assert_eq!(account(by_key(&gate, None, &key).await).as_deref(), Some("alice"));
    assert_eq!(gate.problems(), Vec::<String>::new());
}

#[tokio::test]
async fn what_is_ignored_is_reported_by_file_and_line() {
    let key = new_key();
    let site = site();
    site.account("alice", &["# mine".into(), format!("verify-required {}", line(&key))]);
    site.account("Bob", &[line(&key)]);
    site.account("carol", &[line(&key)]);
    let carol = site.path("keys/accounts/carol.pub");
    fs::set_permissions(&carol, fs::Permissions::from_mode(0o664)).unwrap();
    site.mkdir("keys/accounts/dave.pub");
    site.write("keys/accounts/README.md", "not a key");
    let gate = site.authenticator();
    assert_eq!(by_key(&gate, None, &key).await, None);
    let file = |name: &str| site.path(&format!("keys/accounts/{name}.pub"));
    assert_eq!(
        gate.problems(),
        [
            format!(
                "{}: ignored: \"Bob\" is not a valid account name: lower-case letters and \
                 digits, with single \"-\" or \"_\" between them, 32 characters at most, \
                 but neither \"library\" nor \"localhost\"",
                file("Bob")
            ),
            format!(
                "{}:2: option \"verify-required\" is not supported, so the key is ignored",
                file("alice")
            ),
            format!("{carol}: ignored: others than its owner may write to it; chmod go-w it"),
            format!("{}: ignored: it is not a regular file", file("dave")),
        ]
    );
}

#[tokio::test]
async fn a_directory_that_others_can_write_gives_no_keys() {
    let key = new_key();
    let site = site();
    site.account("alice", &[line(&key)]);
    let dir = site.path("keys/accounts");
    fs::set_permissions(Path::new(&dir), fs::Permissions::from_mode(0o777)).unwrap();
    let gate = site.authenticator();
    assert_eq!(by_key(&gate, None, &key).await, None);
    assert_eq!(gate.problems().len(), 1);
    fs::set_permissions(Path::new(&dir), fs::Permissions::from_mode(0o755)).unwrap();
    assert_eq!(account(by_key(&gate, None, &key).await).as_deref(), Some("alice"));
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

#[tokio::test]
async fn certificates_of_a_trusted_authority_give_their_principal() {
    let (ca, old_ca) = (new_key(), new_key());
    let site = site().with("[auth]\ntrusted_user_ca = \"ca.pub\"\n");
    site.write("ca.pub", &format!("# ours\n{}\n", line(&ca)));
    let gate = site.authenticator();
    let peer = ip("10.0.0.1");
    let window = (now() - 60, now() + 3600);
    let good = issue(&ca, window, &["alice"], |_| {});
    let identity = gate.certificate(None, peer, &good).await.unwrap();
    assert_eq!(identity.account, name("alice"));
    assert!(identity.restrictions.no_pty);
    assert_eq!(gate.certificate(Some(&name("bob")), peer, &good).await, None);
    let expired = issue(&ca, (1, 2), &["alice"], |_| {});
    assert_eq!(gate.certificate(None, peer, &expired).await, None);
    let foreign = issue(&old_ca, window, &["alice"], |_| {});
    assert_eq!(gate.certificate(None, peer, &foreign).await, None);

    let key = new_key();
    let offered = gate.offers_public_key(None, peer, key.public_key()).await;
    assert!(offered, "the key could come with a certificate");
    assert_eq!(gate.public_key(None, peer, key.public_key()).await, None);
    assert_eq!(gate.public_key(None, peer, ca.public_key()).await, None);

    site.write("ca.pub", &line(&old_ca));
    assert_eq!(gate.certificate(None, peer, &good).await, None);
    assert!(gate.certificate(None, peer, &foreign).await.is_some());
}

#[tokio::test]
async fn an_authority_of_an_account_certifies_that_account_only() {
    let (ca, own) = (new_key(), new_key());
    let site = site();
    let both = format!("cert-authority,no-pty,command=\"uptime\" {}", line(&ca));
    site.account("alice", &[both, line(&own)]);
    let gate = site.authenticator();
    let peer = ip("10.0.0.1");
    let window = (now() - 60, now() + 3600);
    let permits = |builder: &mut Builder| {
        builder.extension("permit-pty", "").unwrap();
        builder.extension("permit-port-forwarding", "").unwrap();
    };
    let good = issue(&ca, window, &["alice", "bob"], permits);
    assert!(gate.offers_public_key(None, peer, new_key().public_key()).await);
    assert_eq!(gate.public_key(None, peer, ca.public_key()).await, None);
    for claimed in [None, Some(name("alice"))] {
        let found = gate.certificate(claimed.as_ref(), peer, &good).await.unwrap();
        assert_eq!(found.account, name("alice"));
        let restrictions = found.restrictions;
        assert!(restrictions.no_pty && restrictions.no_agent_forwarding);
        assert!(!restrictions.no_port_forwarding);
        assert_eq!(restrictions.forced_command.as_deref(), Some("uptime"));
    }
    assert_eq!(gate.certificate(Some(&name("bob")), peer, &good).await, None);
    for wrong in [
        issue(&ca, window, &["bob"], permits),
        issue(&ca, (1, 2), &["alice"], permits),
        issue(&own, window, &["alice"], permits),
        issue(&ca, window, &["alice"], |builder| {
            builder.critical_option("force-command", "reboot").unwrap();
        }),
    ] {
        assert_eq!(gate.certificate(None, peer, &wrong).await, None);
    }
    // The same authority in two files: the username has to say who.
    site.account("bob", &[format!("cert-authority {}", line(&ca))]);
    assert_eq!(gate.certificate(None, peer, &good).await, None);
    let bob = gate.certificate(Some(&name("bob")), peer, &good).await.unwrap();
    assert_eq!(bob.restrictions.forced_command, None);
}

#[tokio::test]
async fn without_an_authority_no_certificate_is_accepted() {
    let gate = site().authenticator();
    let certificate = issue(&new_key(), (now() - 60, now() + 3600), &["alice"], |_| {});
    assert_eq!(gate.certificate(None, ip("::1"), &certificate).await, None);
}

#[test]
fn an_authority_that_cannot_be_read_stops_the_start() {
    let site = site().with("[auth]\ntrusted_user_ca = \"ca.pub\"\n");
    let message = || site.try_authenticator().unwrap_err().to_string();
    let ca = site.path("ca.pub");
    let prefix = format!("[auth] trusted_user_ca: {ca} holds no usable public key: ");
    assert_eq!(
        message(),
        format!("{prefix}no certificate is trusted: No such file or directory (os error 2)")
    );
    site.write("ca.pub", "# nothing\n");
    assert_eq!(message(), format!("{prefix}it is empty"));
    site.write("ca.pub", "\nhello\n");
    assert_eq!(
        message(),
        format!("{prefix}2: a public key was expected, as in \"ssh-ed25519 AAAA... comment\"")
    );
}

#[tokio::test]
async fn passwords_of_accounts_log_in() {
    let hash = hash_password("correct horse").unwrap();
    let site = site().with(&format!("[accounts.alice]\npassword = \"{hash}\"\n"));
    let gate = site.authenticator();
    let peer = ip("10.0.0.1");
    let alice = gate.password(None, peer, "correct horse").await.unwrap();
    assert_eq!((alice.account, alice.method.as_str()), (name("alice"), "password"));
    assert_eq!(gate.password(None, peer, "correct hors").await, None);
    assert_eq!(gate.password(Some(&name("bob")), peer, "correct horse").await, None);
    assert!(gate.password(Some(&name("alice")), peer, "correct horse").await.is_some());
    assert!(!format!("{gate:?}").contains(&hash));
}

#[test]
fn methods_are_those_that_are_configured() {
    let hash = hash_password("x").unwrap();
    let none = site().with("[auth]\naccounts_dir = \"\"\n").authenticator().methods();
    assert_eq!(none, Methods { password: false, public_key: false });
    let keys = site().authenticator().methods();
    assert_eq!(keys, Methods { password: false, public_key: true });
    let password = site().with(&format!("[accounts.a]\npassword = \"{hash}\"\n"));
    assert_eq!(password.authenticator().methods(), Methods { password: true, public_key: true });
}

#[test]
fn allow_patterns_apply_to_the_identity() {
    let toml = "[auth]\nopen_networks = [\"10.0.0.0/8\"]\n[accounts.alice]\nallow = [\"rpi*\"]\n";
    let gate = site().with(toml).authenticator();
    let identity =
        |claimed: &str| gate.source_network(Some(&name(claimed)), ip("10.0.0.1")).unwrap();
    assert!(!gate.allows(&identity("alice"), &Target::Lobby("walt".parse().unwrap())));
    assert!(gate.allows(&identity("bob"), &Target::Lobby("walt".parse().unwrap())));
}
