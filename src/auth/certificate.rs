//! OpenSSH user certificates: PROTOCOL.certkeys, and TrustedUserCAKeys of sshd_config(5).

use std::net::IpAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use russh::keys::ssh_key::Fingerprint;
use russh::keys::ssh_key::certificate::CertType;
use russh::keys::{Algorithm, Certificate, HashAlg};

use super::addresses::{AddressList, AddressListError};
use super::{Identity, Restrictions};
use crate::names::AccountName;

/// Why a certificate is refused, for the log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum CertificateError {
    #[error("it is not a user certificate")]
    NotForUsers,
    #[error("it is signed with {0}, which is not accepted")]
    WeakSignature(&'static str),
    #[error("it is not signed by a trusted authority, or not valid now")]
    Untrusted,
    #[error("it has the critical option \"{0}\", which is not supported")]
    CriticalOption(String),
    #[error("its source-address is wrong: {0}")]
    SourceAddress(AddressListError),
    #[error("it may not be used from {0}")]
    Source(IpAddr),
    #[error("it names no principal that is an account")]
    NoPrincipal,
    #[error("it names several principals, and the username does not say which")]
    SeveralPrincipals,
    #[error("it is not for the account that the username names")]
    OtherPrincipal,
}

/// The identity that a certificate gives to a client from `peer` at `now`. That the client has
/// the certified key is for the caller to know.
pub(super) fn identity(
    certificate: &Certificate,
    authorities: &[Fingerprint],
    claimed: Option<&AccountName>,
    peer: IpAddr,
    now: SystemTime,
) -> Result<Identity, CertificateError> {
    if certificate.cert_type() != CertType::User {
        return Err(CertificateError::NotForUsers);
    }
    // As sshd's CASignatureAlgorithms: SHA-1 signatures can be forged.
    match certificate.signature().algorithm() {
        Algorithm::Rsa { hash: None } => return Err(CertificateError::WeakSignature("ssh-rsa")),
        Algorithm::Dsa => return Err(CertificateError::WeakSignature("ssh-dss")),
        _ => {}
    }
    // A clock before 1970 makes every certificate too young.
    let seconds = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    certificate.validate_at(seconds, authorities).map_err(|_| CertificateError::Untrusted)?;

    let mut restrictions = extensions(certificate);
    for (name, value) in certificate.critical_options().iter() {
        match name.as_str() {
            "force-command" => restrictions.forced_command = Some(value.clone()),
            "source-address" => {
                let list = AddressList::networks(value).map_err(CertificateError::SourceAddress)?;
                if !list.contains(peer) {
                    return Err(CertificateError::Source(peer));
                }
            }
            _ => {
                return Err(CertificateError::CriticalOption(name.escape_debug().to_string()));
            }
        }
    }
    let account = principal(certificate, claimed)?;
    let method = format!(
        "certificate \"{}\" serial {} of {}",
        certificate.key_id().escape_debug(),
        certificate.serial(),
        certificate.signature_key().fingerprint(HashAlg::Sha256)
    );
    Ok(Identity { account, restrictions, method })
}

/// What the certificate does not permit.
fn extensions(certificate: &Certificate) -> Restrictions {
    let lacks = |name: &str| !certificate.extensions().contains_key(name);
    Restrictions {
        no_pty: lacks("permit-pty"),
        no_port_forwarding: lacks("permit-port-forwarding"),
        no_agent_forwarding: lacks("permit-agent-forwarding"),
        no_x11_forwarding: lacks("permit-X11-forwarding"),
        forced_command: None,
    }
}

/// The account among the principals. An empty list, which would fit anyone, fits no one: so
/// does sshd with TrustedUserCAKeys.
fn principal(
    certificate: &Certificate,
    claimed: Option<&AccountName>,
) -> Result<AccountName, CertificateError> {
    let mut accounts: Vec<AccountName> =
        certificate.valid_principals().iter().filter_map(|name| name.parse().ok()).collect();
    accounts.sort();
    accounts.dedup();
    match (claimed, accounts.as_slice()) {
        (_, []) => Err(CertificateError::NoPrincipal),
        (Some(claimed), accounts) if accounts.contains(claimed) => Ok(claimed.clone()),
        (Some(_), _) => Err(CertificateError::OtherPrincipal),
        (None, [account]) => Ok(account.clone()),
        (None, _) => Err(CertificateError::SeveralPrincipals),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::time::Duration;

    use russh::keys::PrivateKey;
    use russh::keys::key::safe_rng;
    use russh::keys::ssh_key::certificate::Builder;

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
        assert_eq!(
            identity.method,
            format!("certificate \"alice\\n@home\" serial 7 of {fingerprint}")
        );
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
            forced_command: None,
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
}
