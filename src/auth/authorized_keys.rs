//! The authorized_keys format: sshd(8), AUTHORIZED_KEYS FILE FORMAT.
//!
//! An entry that asks for something the gateway does not do is skipped and reported: granting
//! more than its author meant would be worse than granting nothing.

use std::fmt::Display;
use std::net::IpAddr;

use chrono::{DateTime, Local, NaiveDate, NaiveDateTime, TimeZone, Utc};
use russh::keys::PublicKey;

use super::Restrictions;
use super::addresses::AddressList;
use super::forward_permits::ForwardPermit;
use crate::names::AccountName;

/// One usable line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    /// The key.
    pub(super) key: PublicKey,
    /// What its options restrict.
    pub(super) restrictions: Restrictions,
    from: Option<AddressList>,
    expires: Option<DateTime<Utc>>,
    /// `cert-authority`: the key signs certificates, and does not log in itself.
    authority: Option<Authority>,
}

/// For which certificates the key of a `cert-authority` entry stands.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Authority {
    /// `principals=`: those of which a certificate must have one; by default the account's name.
    principals: Option<Vec<String>>,
}

impl Entry {
    /// Whether the key is a certification authority.
    pub(super) fn is_authority(&self) -> bool {
        self.authority.is_some()
    }

    /// Whether a certificate for `principals` that the key signed is one for `account`, whose
    /// entry this is.
    pub(super) fn certifies(&self, account: &AccountName, principals: &[String]) -> bool {
        self.authority.as_ref().is_some_and(|authority| match &authority.principals {
            Some(wanted) => principals.iter().any(|principal| wanted.contains(principal)),
            None => principals.iter().any(|principal| principal == account.as_str()),
        })
    }

    /// Whether `from=` and `expiry-time=` let a client from `peer` use the key at `now`.
    pub(super) fn admits(&self, peer: IpAddr, now: DateTime<Utc>) -> bool {
        self.from.as_ref().is_none_or(|from| from.contains(peer))
            && self.expires.is_none_or(|expires| now < expires)
    }
}

/// Why a line is skipped.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum EntryError {
    #[error("a public key was expected, as in \"ssh-ed25519 AAAA... comment\"")]
    NotAKey,
    #[error("the public key is damaged or of a type that is not supported: {0}")]
    BadKey(String),
    #[error("option \"{0}\" is not supported, so the key is ignored")]
    UnknownOption(String),
    #[error("option \"{0}\" is wrong, so the key is ignored: {1}")]
    BadOption(&'static str, String),
    #[error("the options are not separated by commas, or a quote is not closed")]
    BadSyntax,
    #[error("the options are not UTF-8 text")]
    NotText,
}

/// All usable entries of a file, and what is wrong with the other lines, by line number from 1.
pub(super) fn parse(text: &str) -> (Vec<Entry>, Vec<(usize, EntryError)>) {
    let mut entries = Vec::new();
    let mut errors = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        match parse_line(line) {
            Ok(entry) => entries.push(entry),
            Err(err) => errors.push((index + 1, err)),
        }
    }
    (entries, errors)
}

/// `KEYTYPE BASE64 [COMMENT]`, with any blanks between.
pub(super) fn parse_key(text: &str) -> Result<PublicKey, EntryError> {
    let mut fields = text.split_whitespace();
    let (Some(kind), Some(data)) = (fields.next(), fields.next()) else {
        return Err(EntryError::NotAKey);
    };
    if !is_key_type(kind) {
        return Err(EntryError::NotAKey);
    }
    PublicKey::from_openssh(&format!("{kind} {data}"))
        .map_err(|err| EntryError::BadKey(err.to_string()))
}

/// No option starts like a key type.
fn is_key_type(word: &str) -> bool {
    ["ssh-", "ecdsa-sha2-", "sk-"].iter().any(|prefix| word.starts_with(prefix))
}

fn parse_line(line: &str) -> Result<Entry, EntryError> {
    let mut entry_options = Options::default();
    let key = if is_key_type(line) {
        parse_key(line)?
    } else {
        let (options, key) = split_options(line)?;
        if options.contains(char::REPLACEMENT_CHARACTER) {
            return Err(EntryError::NotText);
        }
        let key = parse_key(key)?;
        for option in split_commas(options)? {
            entry_options.apply(option)?;
        }
        key
    };
    let Options { restrictions, from, expires, authority, principals } = entry_options;
    // As in sshd, principals= on a key that is no authority has no effect.
    let authority = authority.then_some(Authority { principals });
    Ok(Entry { key, restrictions, from, expires, authority })
}

/// Cuts at the first blank that is not quoted.
fn split_options(line: &str) -> Result<(&str, &str), EntryError> {
    let end = unquoted(line, |c| c == ' ' || c == '\t').next().ok_or(EntryError::NotAKey)?;
    Ok((&line[..end], line[end..].trim_start()))
}

fn split_commas(options: &str) -> Result<Vec<&str>, EntryError> {
    let mut parts = Vec::new();
    let mut start = 0;
    for comma in unquoted(options, |c| c == ',') {
        parts.push(&options[start..comma]);
        start = comma + 1;
    }
    parts.push(&options[start..]);
    if parts.iter().any(|part| part.is_empty()) { Err(EntryError::BadSyntax) } else { Ok(parts) }
}

/// Where the wanted characters are outside of quotes. `\"` does not end a quote.
fn unquoted(text: &str, wanted: impl Fn(char) -> bool) -> impl Iterator<Item = usize> {
    let mut quoted = false;
    let mut previous = ' ';
    text.char_indices().filter_map(move |(at, c)| {
        if c == '"' && previous != '\\' {
            quoted = !quoted;
        }
        previous = c;
        (!quoted && wanted(c)).then_some(at)
    })
}

/// The options so far; later ones override earlier ones, as in `restrict,pty`.
#[derive(Default)]
struct Options {
    restrictions: Restrictions,
    from: Option<AddressList>,
    expires: Option<DateTime<Utc>>,
    authority: bool,
    principals: Option<Vec<String>>,
}

impl Options {
    fn apply(&mut self, option: &str) -> Result<(), EntryError> {
        let (name, value) = match option.split_once('=') {
            Some((name, value)) => (name, Some(unquote(value)?)),
            None => (option, None),
        };
        // sshd compares option names without regard to case.
        match (name.to_ascii_lowercase().as_str(), value) {
            ("from", Some(list)) => self.set_from(&list),
            ("command", Some(command)) => self.set_command(command),
            ("expiry-time", Some(time)) => self.set_expiry(&time),
            ("permitopen", Some(permit)) => {
                let permit = ForwardPermit::open(&permit);
                self.restrictions.permit_open.push(permit.map_err(bad("permitopen"))?);
                Ok(())
            }
            ("permitlisten", Some(permit)) => {
                let permit = ForwardPermit::listen(&permit);
                self.restrictions.permit_listen.push(permit.map_err(bad("permitlisten"))?);
                Ok(())
            }
            ("principals", Some(list)) => self.set_principals(&list),
            ("environment", Some(setting)) => check_environment(&setting),
            // There are no tunnels to force a device on.
            ("tunnel", Some(_)) => Ok(()),
            (flag, None) => self.set_flag(flag, option),
            _ => Err(EntryError::UnknownOption(name.escape_debug().to_string())),
        }
    }

    fn set_flag(&mut self, flag: &str, option: &str) -> Result<(), EntryError> {
        let restrictions = &mut self.restrictions;
        match flag {
            "restrict" => {
                restrictions.no_pty = true;
                restrictions.no_port_forwarding = true;
                restrictions.no_agent_forwarding = true;
                restrictions.no_x11_forwarding = true;
            }
            "pty" => restrictions.no_pty = false,
            "no-pty" => restrictions.no_pty = true,
            "port-forwarding" => restrictions.no_port_forwarding = false,
            "no-port-forwarding" => restrictions.no_port_forwarding = true,
            "agent-forwarding" => restrictions.no_agent_forwarding = false,
            "no-agent-forwarding" => restrictions.no_agent_forwarding = true,
            "x11-forwarding" => restrictions.no_x11_forwarding = false,
            "no-x11-forwarding" => restrictions.no_x11_forwarding = true,
            "cert-authority" => self.authority = true,
            // The gateway has no ~/.ssh/rc, and never asks security keys for a touch.
            "user-rc" | "no-user-rc" | "no-touch-required" => {}
            _ => return Err(EntryError::UnknownOption(option.escape_debug().to_string())),
        }
        Ok(())
    }

    fn set_from(&mut self, list: &str) -> Result<(), EntryError> {
        if self.from.is_some() {
            return Err(EntryError::BadOption("from", "it is given twice".to_owned()));
        }
        let list = AddressList::patterns(list).map_err(bad("from"))?;
        self.from = Some(list);
        Ok(())
    }

    fn set_principals(&mut self, list: &str) -> Result<(), EntryError> {
        if self.principals.is_some() {
            return Err(EntryError::BadOption("principals", "it is given twice".to_owned()));
        }
        self.principals = Some(list.split(',').map(str::to_owned).collect());
        Ok(())
    }

    fn set_command(&mut self, command: String) -> Result<(), EntryError> {
        if self.restrictions.forced_command.is_some() {
            return Err(EntryError::BadOption("command", "it is given twice".to_owned()));
        }
        self.restrictions.forced_command = Some(command);
        Ok(())
    }

    /// Of several times the earliest counts, as in sshd.
    fn set_expiry(&mut self, time: &str) -> Result<(), EntryError> {
        let expires = expiry(time, &Local).ok_or_else(|| {
            let rule = "it must be YYYYMMDD[HHMM[SS]][Z]".to_owned();
            EntryError::BadOption("expiry-time", rule)
        })?;
        self.expires = Some(self.expires.map_or(expires, |earlier| earlier.min(expires)));
        Ok(())
    }
}

/// `NAME=value`, which has no effect: sshd ignores it too unless PermitUserEnvironment says otherwise.
fn check_environment(setting: &str) -> Result<(), EntryError> {
    let is_name = |name: &str| {
        !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
    };
    match setting.split_once('=') {
        Some((name, _)) if is_name(name) => Ok(()),
        _ => Err(EntryError::BadOption("environment", "it must be NAME=value".to_owned())),
    }
}

fn bad<E: Display>(option: &'static str) -> impl Fn(E) -> EntryError {
    move |err| EntryError::BadOption(option, err.to_string())
}

/// The text within quotes, where only `\"` has a meaning.
fn unquote(value: &str) -> Result<String, EntryError> {
    let inner = value.strip_prefix('"').ok_or(EntryError::BadSyntax)?;
    let end = {
        let mut previous = '"';
        let mut closing = inner.char_indices().filter(|(_, c)| {
            let closes = *c == '"' && previous != '\\';
            previous = *c;
            closes
        });
        closing.next().ok_or(EntryError::BadSyntax)?.0
    };
    if end + 1 != inner.len() {
        return Err(EntryError::BadSyntax);
    }
    Ok(inner[..end].replace("\\\"", "\""))
}

/// `YYYYMMDD[HHMM[SS]]`, in the zone given unless `Z` or `UTC` follows.
fn expiry<Z: TimeZone>(text: &str, zone: &Z) -> Option<DateTime<Utc>> {
    let (digits, utc) = match text.strip_suffix('Z').or_else(|| text.strip_suffix("UTC")) {
        Some(digits) => (digits, true),
        None => (text, false),
    };
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let naive: NaiveDateTime = match digits.len() {
        8 => NaiveDate::parse_from_str(digits, "%Y%m%d").ok()?.and_hms_opt(0, 0, 0)?,
        12 => NaiveDateTime::parse_from_str(&format!("{digits}00"), "%Y%m%d%H%M%S").ok()?,
        14 => NaiveDateTime::parse_from_str(digits, "%Y%m%d%H%M%S").ok()?,
        _ => return None,
    };
    if utc {
        Some(naive.and_utc())
    } else {
        // An hour that a clock change repeats counts the first time; one that it skips is no time.
        naive.and_local_timezone(zone.clone()).earliest().map(|time| time.to_utc())
    }
}

#[cfg(test)]
mod tests;
