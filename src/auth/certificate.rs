//! OpenSSH user certificates: PROTOCOL.certkeys, and TrustedUserCAKeys of sshd_config(5).

use std::net::IpAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use russh::keys::ssh_key::Fingerprint;
use russh::keys::ssh_key::certificate::CertType;
use russh::keys::{Algorithm, Certificate, HashAlg};

use super::addresses::{AddressList, AddressListError};
use super::authorized_keys::Entry;
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
    #[error("it fits no cert-authority entry with the key that signed it")]
    NoEntry,
    #[error("its force-command is another than the entry's command=")]
    TwoCommands,
}

/// The identity that a certificate gives to a client from `peer` at `now`, by one of the
/// authorities that stand for all accounts. That the client has the certified key is for the
/// caller to know.
pub(super) fn identity(
    certificate: &Certificate,
    authorities: &[Fingerprint],
    claimed: Option<&AccountName>,
    peer: IpAddr,
    now: SystemTime,
) -> Result<Identity, CertificateError> {
    let restrictions = validate(certificate, authorities, peer, now)?;
    let account = principal(certificate, claimed)?;
    Ok(Identity { account, restrictions, method: method(certificate) })
}

/// The same by the `cert-authority` entries of single accounts: `entries` are those with the key
/// that signed. What either the certificate or the entry forbids is forbidden.
pub(super) fn identity_of_entries(
    certificate: &Certificate,
    entries: &[(AccountName, Entry)],
    claimed: Option<&AccountName>,
    peer: IpAddr,
    now: SystemTime,
) -> Result<Identity, CertificateError> {
    let signer = certificate.signature_key().fingerprint(HashAlg::Sha256);
    let restrictions = validate(certificate, &[signer], peer, now)?;
    let fitting = |(account, entry): &&(AccountName, Entry)| {
        entry.certifies(account, certificate.valid_principals())
            && claimed.is_none_or(|claimed| claimed == account)
            && entry.admits(peer, now.into())
    };
    let mut fitting = entries.iter().filter(fitting);
    let (account, entry) = fitting.next().ok_or(CertificateError::NoEntry)?;
    if fitting.any(|(other, _)| other != account) {
        return Err(CertificateError::SeveralPrincipals);
    }
    let restrictions =
        restrictions.and(&entry.restrictions).ok_or(CertificateError::TwoCommands)?;
    Ok(Identity { account: account.clone(), restrictions, method: method(certificate) })
}

/// That the certificate is good for this client, and what it restricts.
fn validate(
    certificate: &Certificate,
    authorities: &[Fingerprint],
    peer: IpAddr,
    now: SystemTime,
) -> Result<Restrictions, CertificateError> {
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
    Ok(restrictions)
}

/// What the log calls it.
fn method(certificate: &Certificate) -> String {
    format!(
        "certificate \"{}\" serial {} of {}",
        certificate.key_id().escape_debug(),
        certificate.serial(),
        certificate.signature_key().fingerprint(HashAlg::Sha256)
    )
}

/// What the certificate does not permit.
fn extensions(certificate: &Certificate) -> Restrictions {
    let lacks = |name: &str| !certificate.extensions().contains_key(name);
    Restrictions {
        no_pty: lacks("permit-pty"),
        no_port_forwarding: lacks("permit-port-forwarding"),
        no_agent_forwarding: lacks("permit-agent-forwarding"),
        no_x11_forwarding: lacks("permit-X11-forwarding"),
        ..Restrictions::default()
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
pub(super) mod tests;
