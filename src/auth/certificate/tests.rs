use std::time::Duration;

use russh::keys::key::safe_rng;
use russh::keys::ssh_key::certificate::Builder;
use russh::keys::{PrivateKey, PublicKey};

use super::*;

const BORN: u64 = 1_900_000_000;
const DIES: u64 = 1_900_003_600;

pub(in super::super) fn new_key() -> PrivateKey {
    PrivateKey::random(&mut safe_rng(), Algorithm::Ed25519).unwrap()
}

/// A certificate for `principals`, changed by `more`, signed by `ca`.
pub(in super::super) fn issue(
    ca: &PrivateKey,
    (born, dies): (u64, u64),
    principals: &[&str],
    more: impl FnOnce(&mut Builder),
) -> Certificate {
    let subject = new_key();
    let key = subject.public_key().key_data().clone();
    let mut builder = Builder::new_with_random_nonce(&mut safe_rng(), key, born, dies).unwrap();
    builder.key_id("alice\n@home").unwrap().serial(7).unwrap();
    builder.all_principals_valid().unwrap();
    for principal in principals {
        builder.valid_principal(*principal).unwrap();
    }
    more(&mut builder);
    builder.sign(ca).unwrap()
}

struct Authority(PrivateKey);

impl Authority {
    fn issue(&self, principals: &[&str], more: impl FnOnce(&mut Builder)) -> Certificate {
        issue(&self.0, (BORN, DIES), principals, more)
    }

    fn at(
        &self,
        seconds: u64,
        certificate: &Certificate,
        claimed: Option<&str>,
        peer: &str,
    ) -> Result<Identity, CertificateError> {
        let claimed = claimed.map(|name| name.parse().unwrap());
        identity(
            certificate,
            &[self.0.fingerprint(HashAlg::Sha256)],
            claimed.as_ref(),
            peer.parse().unwrap(),
            UNIX_EPOCH + Duration::from_secs(seconds),
        )
    }

    fn judge(
        &self,
        certificate: &Certificate,
        claimed: Option<&str>,
    ) -> Result<Identity, CertificateError> {
        self.at(BORN, certificate, claimed, "::ffff:10.0.0.1")
    }
}

fn authority() -> Authority {
    Authority(new_key())
}

#[test]
fn the_only_principal_is_the_account() {
    let ca = authority();
    let certificate = ca.issue(&["alice"], |_| {});
    let identity = ca.judge(&certificate, None).unwrap();
    assert_eq!(identity.account.as_str(), "alice");
    let fingerprint = ca.0.fingerprint(HashAlg::Sha256);
    assert_eq!(identity.method, format!("certificate \"alice\\n@home\" serial 7 of {fingerprint}"));
    assert!(ca.judge(&certificate, Some("alice")).is_ok());
    let other = ca.judge(&certificate, Some("bob"));
    assert_eq!(other, Err(CertificateError::OtherPrincipal));
}

#[test]
fn of_several_principals_the_claimed_one_counts() {
    let ca = authority();
    let certificate = ca.issue(&["alice", "ops", "Not An Account"], |_| {});
    assert_eq!(ca.judge(&certificate, None), Err(CertificateError::SeveralPrincipals));
    assert_eq!(ca.judge(&certificate, Some("ops")).unwrap().account.as_str(), "ops");
}

#[test]
fn a_certificate_without_principals_fits_no_one() {
    let ca = authority();
    let certificate = ca.issue(&[], |_| {});
    assert_eq!(ca.judge(&certificate, None), Err(CertificateError::NoPrincipal));
    assert_eq!(ca.judge(&certificate, Some("root")), Err(CertificateError::NoPrincipal));
}

#[test]
fn only_trusted_authorities_count_and_only_in_time() {
    let ca = authority();
    let certificate = ca.issue(&["alice"], |_| {});
    let untrusted = Err(CertificateError::Untrusted);
    assert_eq!(authority().judge(&certificate, None), untrusted);
    assert_eq!(ca.at(BORN - 1, &certificate, None, "::1"), untrusted);
    assert!(ca.at(DIES - 1, &certificate, None, "::1").is_ok());
    assert_eq!(ca.at(DIES, &certificate, None, "::1"), untrusted);
}

#[test]
fn a_changed_certificate_is_refused() {
    let ca = authority();
    let certificate = ca.issue(&["alice"], |_| {});
    let bytes = certificate.to_bytes().unwrap();
    let at = bytes.windows(5).position(|window| window == b"alice").unwrap();
    let principal = bytes.windows(5).rposition(|window| window == b"alice").unwrap();
    assert_ne!(at, principal, "the first is in the key id");
    let mut forged = bytes.clone();
    forged[principal..principal + 5].copy_from_slice(b"mario");
    let forged = Certificate::from_bytes(&forged).unwrap();
    assert_eq!(forged.valid_principals(), ["mario"]);
    assert_eq!(ca.judge(&forged, None), Err(CertificateError::Untrusted));
}

#[test]
fn host_certificates_are_refused() {
    let ca = authority();
    let certificate = ca.issue(&["alice"], |builder| {
        builder.cert_type(CertType::Host).unwrap();
    });
    assert_eq!(ca.judge(&certificate, None), Err(CertificateError::NotForUsers));
}

#[test]
fn what_is_not_permitted_is_restricted() {
    let ca = authority();
    let bare = ca.judge(&ca.issue(&["alice"], |_| {}), None).unwrap().restrictions;
    let nothing = Restrictions {
        no_pty: true,
        no_port_forwarding: true,
        no_agent_forwarding: true,
        no_x11_forwarding: true,
        ..Restrictions::default()
    };
    assert_eq!(bare, nothing);
    let usual = ca.issue(&["alice"], |builder| {
        for name in [
            "permit-X11-forwarding",
            "permit-agent-forwarding",
            "permit-port-forwarding",
            "permit-pty",
            "permit-user-rc",
            "something@example",
        ] {
            builder.extension(name, "").unwrap();
        }
    });
    assert_eq!(ca.judge(&usual, None).unwrap().restrictions, Restrictions::default());
}

#[test]
fn critical_options_are_honoured_or_refuse() {
    let ca = authority();
    let with = |name: &str, value: &str| {
        ca.issue(&["alice"], |builder| {
            builder.critical_option(name, value).unwrap();
        })
    };
    let forced = ca.judge(&with("force-command", "uptime"), None).unwrap();
    assert_eq!(forced.restrictions.forced_command.as_deref(), Some("uptime"));

    let bound = with("source-address", "10.0.0.0/8,fd00::1");
    assert!(ca.at(BORN, &bound, None, "::ffff:10.9.9.9").is_ok());
    assert!(ca.at(BORN, &bound, None, "fd00::1").is_ok());
    let elsewhere = ca.at(BORN, &bound, None, "192.168.0.1");
    assert_eq!(elsewhere, Err(CertificateError::Source("192.168.0.1".parse().unwrap())));
    let wrong = ca.judge(&with("source-address", "10.*"), None);
    assert!(matches!(wrong, Err(CertificateError::SourceAddress(_))));

    let unknown = ca.judge(&with("verify-required", ""), None);
    assert_eq!(unknown, Err(CertificateError::CriticalOption("verify-required".into())));
}

/// What ssh-keygen makes: `-I alice@home -n alice,ops -O clear -O permit-pty
/// -O force-command='uptime -p' -O source-address=10.0.0.0/8,fd00::/8 -V always:forever`.
#[test]
fn certificates_of_ssh_keygen_are_understood() {
    let ca = PublicKey::from_openssh(&format!("ecdsa-sha2-nistp256 {KEYGEN_CA}")).unwrap();
    let certificate =
        Certificate::from_openssh(&format!("ssh-ed25519-cert-v01@openssh.com {KEYGEN}")).unwrap();
    let authorities = [ca.fingerprint(HashAlg::Sha256)];
    let judge = |peer: &str| {
        let claimed = "ops".parse().unwrap();
        let peer = peer.parse().unwrap();
        identity(&certificate, &authorities, Some(&claimed), peer, SystemTime::now())
    };
    let found = judge("fd00::7").unwrap();
    assert_eq!(found.account.as_str(), "ops");
    assert_eq!(
        found.restrictions,
        Restrictions {
            no_pty: false,
            no_port_forwarding: true,
            no_agent_forwarding: true,
            no_x11_forwarding: true,
            forced_command: Some("uptime -p".to_owned()),
            ..Restrictions::default()
        }
    );
    assert!(matches!(judge("192.168.0.1"), Err(CertificateError::Source(_))));
}

/// As `ssh-keygen -s ca -t ssh-rsa` makes it.
#[test]
fn sha1_signatures_are_refused() {
    let ca = PublicKey::from_openssh(&format!("ssh-rsa {SHA1_CA}")).unwrap();
    let certificate =
        Certificate::from_openssh(&format!("ssh-ed25519-cert-v01@openssh.com {SHA1}")).unwrap();
    let authorities = [ca.fingerprint(HashAlg::Sha256)];
    let peer = "::1".parse().unwrap();
    let found = identity(&certificate, &authorities, None, peer, SystemTime::now());
    assert_eq!(found, Err(CertificateError::WeakSignature("ssh-rsa")));
}

const KEYGEN_CA: &str = "AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBA3x2oqnRTBTFkxTZbHT31nlVhGnUFT9yativ++JUugIRnv3IASiZWJ1Qc8Xg0PGd4KCgvIQpgWV6NEQt7tM1wI=";
const KEYGEN: &str = "AAAAIHNzaC1lZDI1NTE5LWNlcnQtdjAxQG9wZW5zc2guY29tAAAAIOO6q9qk3Re0eKXdCQZPT0y84T9phuEsNE4ffEgfmiRHAAAAIFKLgm8KBoGhJYX0g07NQ79FrNyCSzR00gN9g0IHrKosAAAAAAAAAAAAAAABAAAACmFsaWNlQGhvbWUAAAAQAAAABWFsaWNlAAAAA29wcwAAAAAAAAAA//////////8AAABPAAAADWZvcmNlLWNvbW1hbmQAAAANAAAACXVwdGltZSAtcAAAAA5zb3VyY2UtYWRkcmVzcwAAABcAAAATMTAuMC4wLjAvOCxmZDAwOjovOAAAABIAAAAKcGVybWl0LXB0eQAAAAAAAAAAAAAAaAAAABNlY2RzYS1zaGEyLW5pc3RwMjU2AAAACG5pc3RwMjU2AAAAQQQN8dqKp0UwUxZMU2Wx099Z5VYRp1BU/cmrYr/viVLoCEZ79yAEomVidUHPF4NDxneCgoLyEKYFlejRELe7TNcCAAAAZQAAABNlY2RzYS1zaGEyLW5pc3RwMjU2AAAASgAAACEAiLnLUVRwSq7Tr4408BDS/7dxG+txNYnpH/1aVuRqc/AAAAAhAMAc31mE8sZzEg172/5/tn/t8hrFjL/Il3sGlh+W3IRr";
const SHA1_CA: &str = "AAAAB3NzaC1yc2EAAAADAQABAAABAQDRPrPo2T/mXrfNHYda9714mvUOx71mLU30wW0DosMosaRErNzZ5ceCeaVqKNLnPtXf80CpD5D61Ng2hDLKAY44PPRMSx0vD/USsif1hlJ2t7kQ7Rum9Mtfj5/7jLXvshIXzELtfaQxV3ujtkrPjP8iFh6SX+gqMEJPfxm6LVqM6sAPXaM7TDKPnndTKZGiBd/MCbwIzu9rTSkMr0DWrIyJfrfUqwG+axV4b3sMfogZW8/MG/41rMGMKbUBYAzwcRKnmAc5kBfonJyxQTJk6Z2ERffsuSfXd30AXsG40JvLo/enTJLBaQhHEJKjYrUMUPs/1A1nObSelis5ZSbYIIRN";
const SHA1: &str = "AAAAIHNzaC1lZDI1NTE5LWNlcnQtdjAxQG9wZW5zc2guY29tAAAAIGWXrR8ilY1dU0pjWAPp0iVGrWMm6RY9mXaUmmAE+pwPAAAAIFKLgm8KBoGhJYX0g07NQ79FrNyCSzR00gN9g0IHrKosAAAAAAAAAAAAAAABAAAAAXgAAAAJAAAABWFsaWNlAAAAAAAAAAD//////////wAAAAAAAACCAAAAFXBlcm1pdC1YMTEtZm9yd2FyZGluZwAAAAAAAAAXcGVybWl0LWFnZW50LWZvcndhcmRpbmcAAAAAAAAAFnBlcm1pdC1wb3J0LWZvcndhcmRpbmcAAAAAAAAACnBlcm1pdC1wdHkAAAAAAAAADnBlcm1pdC11c2VyLXJjAAAAAAAAAAAAAAEXAAAAB3NzaC1yc2EAAAADAQABAAABAQDRPrPo2T/mXrfNHYda9714mvUOx71mLU30wW0DosMosaRErNzZ5ceCeaVqKNLnPtXf80CpD5D61Ng2hDLKAY44PPRMSx0vD/USsif1hlJ2t7kQ7Rum9Mtfj5/7jLXvshIXzELtfaQxV3ujtkrPjP8iFh6SX+gqMEJPfxm6LVqM6sAPXaM7TDKPnndTKZGiBd/MCbwIzu9rTSkMr0DWrIyJfrfUqwG+axV4b3sMfogZW8/MG/41rMGMKbUBYAzwcRKnmAc5kBfonJyxQTJk6Z2ERffsuSfXd30AXsG40JvLo/enTJLBaQhHEJKjYrUMUPs/1A1nObSelis5ZSbYIIRNAAABDwAAAAdzc2gtcnNhAAABAMFiqSxGSmMIJEpwUIEMVn+yhgzhveL/+z+gRkQcJTTNFhxSVgAR74KKXCjgE8LpyLX30km1HbMOCegLYOOlysLPpq98Dhll+XVL9OCGrwrPq1ma1nWUwqfM6gfzDO8+iJwEjiJRdu7b/k6FkkQNE6J+bs0SQ4M+oY6Mf//GdUivMDZFsJOlJEeszgpHQ3jbGwqFHfzyrP9k0d6LpLiRqzOU3QPFGUoaUVErhNfAo5uyCLSLUKVJBDbSiLcuC8zbhv2OeaB3or6AK0M2ZEnfoE+9do9PLPCHLFKJkMhvCgpqAcXFH4dNAqSvTUpLldUe79A4TSXTUJAfCvS2fGljRJ8=";
