//! Credentials in, [`Identity`] out.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use chrono::{DateTime, Utc};
use ipnetwork::IpNetwork;
use russh::keys::{Certificate, HashAlg, PublicKey};

use super::access::AllowLists;
use super::key_files::KeyFiles;
use super::passwords::Passwords;
use super::{HashPasswordError, Identity, Restrictions, certificate};
use crate::config::Config;
use crate::names::{AccountName, NodeName};
use crate::target::{NodeSelector, Target};

/// Why no client could be authenticated as configured.
#[derive(Debug, thiserror::Error)]
pub enum AuthSetupError {
    /// `[auth] trusted_user_ca` gives no key.
    #[error("[auth] trusted_user_ca: {path} holds no usable public key: {reason}")]
    TrustedUserCa {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The hash that stands in for accounts without a password could not be made.
    #[error("password checking could not be set up")]
    Passwords(#[source] HashPasswordError),
}

/// The methods worth offering to a client (RFC 4252 section 7 and 8).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Methods {
    /// Some account has a password.
    pub password: bool,
    /// Keys or certification authorities are configured.
    pub public_key: bool,
}

/// Tells who a client is. `claimed` is always the account that its username names, if any;
/// `peer` is its address.
///
/// `None` never says why: the client must not learn whether an account exists. The log does.
#[derive(Debug)]
pub struct Authenticator {
    open_networks: Vec<IpNetwork>,
    guest: AccountName,
    key_files: Arc<KeyFiles>,
    passwords: Passwords,
    allow_lists: AllowLists,
}

impl Authenticator {
    /// Reads the key files and hashes a password once: blocks for some tens of milliseconds.
    ///
    /// # Errors
    /// Certification authorities that are configured but cannot be read.
    pub fn new(config: &Config) -> Result<Self, AuthSetupError> {
        let auth = &config.auth;
        let key_files = KeyFiles::open(auth.accounts_dir.clone(), auth.trusted_user_ca.clone());
        let keys = key_files.refresh();
        if let Some(path) = auth.trusted_user_ca.as_ref().filter(|_| keys.authorities().is_empty())
        {
            let of_the_file = format!("{}:", path.display());
            let reason = keys.problems().iter().find_map(|problem| {
                problem.strip_prefix(of_the_file.as_str()).map(|rest| rest.trim_start().to_owned())
            });
            let reason = reason.unwrap_or_else(|| "it is empty".to_owned());
            return Err(AuthSetupError::TrustedUserCa { path: path.clone(), reason });
        }
        Ok(Self {
            open_networks: auth.open_networks.clone(),
            guest: auth.guest.clone(),
            key_files: Arc::new(key_files),
            passwords: Passwords::new(&config.accounts).map_err(AuthSetupError::Passwords)?,
            allow_lists: AllowLists::new(config),
        })
    }

    /// What is worth offering.
    pub fn methods(&self) -> Methods {
        Methods { password: !self.passwords.is_empty(), public_key: self.key_files.is_configured() }
    }

    /// Key files and lines that are ignored, one line of text each, `FILE[:LINE]: why`. Looks at
    /// the files again: blocks on the file system.
    pub fn problems(&self) -> Vec<String> {
        self.key_files.refresh().problems().to_vec()
    }

    /// A client of an open network: whom it claims to be, or else the guest.
    pub fn source_network(&self, claimed: Option<&AccountName>, peer: IpAddr) -> Option<Identity> {
        let peer = peer.to_canonical();
        let network = self.open_networks.iter().find(|network| network.contains(peer))?;
        Some(Identity {
            account: claimed.unwrap_or(&self.guest).clone(),
            restrictions: Restrictions::default(),
            method: format!("open network {network}"),
        })
    }

    /// Whether it is worth the client's while to sign with this key.
    ///
    /// SSH asks this without telling whether the key comes with a certificate. Where certificates
    /// are trusted, the answer is therefore always yes, and the signature decides.
    pub async fn offers_public_key(
        &self,
        claimed: Option<&AccountName>,
        peer: IpAddr,
        key: &PublicKey,
    ) -> bool {
        let certified = self.key_files.current().await.trust_certificates();
        certified || self.public_key(claimed, peer, key).await.is_some()
    }

    /// A client that has proved to have `key`: the account that lists it. A key that several
    /// accounts list needs the claim.
    pub async fn public_key(
        &self,
        claimed: Option<&AccountName>,
        peer: IpAddr,
        key: &PublicKey,
    ) -> Option<Identity> {
        let keys = self.key_files.current().await;
        let entries = keys.entries(key.key_data());
        let account = match claimed {
            Some(account) => account,
            None => {
                let (first, _) = entries.first()?;
                if entries.iter().any(|(account, _)| account != first) {
                    tracing::info!(%peer, "a key of several accounts, and none is claimed");
                    return None;
                }
                first
            }
        };
        let now = DateTime::<Utc>::from(SystemTime::now());
        let mut own = entries.iter().filter(|(owner, _)| owner == account).peekable();
        own.peek()?;
        let Some((_, entry)) = own.find(|(_, entry)| entry.admits(peer, now)) else {
            tracing::info!(%peer, %account, "a listed key, refused by from= or expiry-time=");
            return None;
        };
        Some(Identity {
            account: account.clone(),
            restrictions: entry.restrictions.clone(),
            method: format!("publickey {}", key.fingerprint(HashAlg::Sha256)),
        })
    }

    /// A client that has proved to have the key of `certificate`: its principal, or the account that
    /// lists the key that signed it as an authority.
    pub async fn certificate(
        &self,
        claimed: Option<&AccountName>,
        peer: IpAddr,
        certificate: &Certificate,
    ) -> Option<Identity> {
        let keys = self.key_files.current().await;
        let now = SystemTime::now();
        let entries = keys.authority_entries(certificate.signature_key());
        let found = match certificate::identity(certificate, keys.authorities(), claimed, peer, now)
        {
            Err(_) if !entries.is_empty() => {
                certificate::identity_of_entries(certificate, entries, claimed, peer, now)
            }
            found => found,
        };
        match found {
            Ok(identity) => Some(identity),
            Err(reason) => {
                tracing::info!(%peer, %reason, "a certificate is refused");
                None
            }
        }
    }

    /// A client that gave a password: the account whose password it is. Hashes at least once, on
    /// threads that may block, as many at once as there are processors.
    pub async fn password(
        &self,
        claimed: Option<&AccountName>,
        peer: IpAddr,
        password: &str,
    ) -> Option<Identity> {
        let Some(account) = self.passwords.account(claimed, password).await else {
            tracing::info!(%peer, "a password is refused");
            return None;
        };
        Some(Identity {
            account,
            restrictions: Restrictions::default(),
            method: "password".to_owned(),
        })
    }

    /// Whether `[accounts.NAME] allow` lets a client use a target. A set of nodes is allowed if
    /// each one that is named is; of a keyword's nodes [`Authenticator::allows_node`] tells.
    pub fn allows(&self, identity: &Identity, target: &Target) -> bool {
        self.allow_lists.allow(&identity.account, target)
    }

    /// Whether a client may use a node that a part of a set stands for: by the node's name, or by
    /// the keyword that brings it in.
    pub fn allows_node(&self, identity: &Identity, by: &NodeSelector, node: &NodeName) -> bool {
        self.allow_lists.allow_node(&identity.account, by, node)
    }
}

#[cfg(test)]
mod tests;
