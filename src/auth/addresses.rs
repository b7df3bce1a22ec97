//! Lists of client addresses: `from=` of authorized_keys and `source-address` of certificates.

use std::net::IpAddr;

use ipnetwork::IpNetwork;

use super::wildcard;

/// A list of addresses, networks and patterns, some of them negated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct AddressList(Vec<Element>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Element {
    negated: bool,
    pattern: Pattern,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Pattern {
    Network(IpNetwork),
    /// Matched against the address as text.
    Wildcard(String),
}

/// Why a list cannot be honoured as it is meant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum AddressListError {
    #[error("\"{0}\" is not an address or network")]
    NotANetwork(String),
    #[error("\"{0}\" has address bits outside of its network mask")]
    HostBits(String),
    #[error("\"{0}\" is a host name, and clients are known by address only")]
    HostName(String),
}

impl AddressList {
    /// The pattern list of `from=` (sshd(8), PATTERNS of ssh_config(5)): addresses, networks,
    /// wildcards, negation with `!`. The gateway does not look up names: sshd neither does by
    /// default, but a list that excludes a host by name would then let it in, so names are errors.
    pub(super) fn patterns(text: &str) -> Result<Self, AddressListError> {
        let element = |given: &str| {
            let (negated, pattern) = match given.strip_prefix('!') {
                Some(pattern) => (true, pattern),
                None => (false, given),
            };
            let wild = pattern.contains(['*', '?']);
            let addressy = |byte: u8| byte.is_ascii_hexdigit() || b".:*?".contains(&byte);
            let pattern = if wild && pattern.bytes().all(addressy) {
                Pattern::Wildcard(pattern.to_ascii_lowercase())
            } else if pattern.contains('/') || pattern.parse::<IpAddr>().is_ok() {
                Pattern::Network(network(pattern)?)
            } else if pattern.is_empty() {
                return Err(AddressListError::NotANetwork(given.to_owned()));
            } else {
                return Err(AddressListError::HostName(given.to_owned()));
            };
            Ok(Element { negated, pattern })
        };
        text.split(',').map(element).collect::<Result<_, _>>().map(Self)
    }

    /// The list of `source-address`: addresses and networks only (PROTOCOL.certkeys).
    pub(super) fn networks(text: &str) -> Result<Self, AddressListError> {
        let element =
            |given| Ok(Element { negated: false, pattern: Pattern::Network(network(given)?) });
        text.split(',').map(element).collect::<Result<_, _>>().map(Self)
    }

    /// Whether a client from `peer` is meant: some element matches, and no negated one does.
    pub(super) fn contains(&self, peer: IpAddr) -> bool {
        let peer = peer.to_canonical();
        let text = peer.to_string();
        let mut found = false;
        for element in &self.0 {
            let matches = match &element.pattern {
                Pattern::Network(network) => network.contains(peer),
                Pattern::Wildcard(pattern) => wildcard::matches(pattern, &text),
            };
            if matches && element.negated {
                return false;
            }
            found |= matches;
        }
        found
    }
}

fn network(text: &str) -> Result<IpNetwork, AddressListError> {
    let network: IpNetwork =
        text.parse().map_err(|_| AddressListError::NotANetwork(text.to_owned()))?;
    if network.ip() == network.network() {
        Ok(network)
    } else {
        Err(AddressListError::HostBits(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admits(list: &str, peer: &str) -> bool {
        AddressList::patterns(list).unwrap().contains(peer.parse().unwrap())
    }

    #[test]
    fn addresses_networks_and_wildcards_match() {
        assert!(admits("10.0.0.0/8", "10.1.2.3"));
        assert!(!admits("10.0.0.0/8", "11.1.2.3"));
        assert!(admits("10.0.0.1,fd00::/8", "fd00::1"));
        assert!(admits("192.168.*.?", "192.168.200.7"));
        assert!(!admits("192.168.*.?", "192.168.200.77"));
        assert!(admits("FD00:*", "fd00::7"));
    }

    #[test]
    fn ipv4_clients_of_an_ipv6_socket_match_ipv4_networks() {
        assert!(admits("10.0.0.0/8", "::ffff:10.1.2.3"));
        assert!(!admits("!10.0.0.1,*", "::ffff:10.0.0.1"));
    }

    #[test]
    fn a_negated_match_wins_wherever_it_stands() {
        assert!(!admits("10.0.0.0/8,!10.0.0.66", "10.0.0.66"));
        assert!(!admits("!10.0.0.66,10.0.0.0/8", "10.0.0.66"));
        assert!(admits("!10.0.0.66,10.0.0.0/8", "10.0.0.67"));
        assert!(!admits("!10.0.0.66", "10.0.0.67"), "exclusions alone admit nobody");
    }

    #[test]
    fn what_cannot_be_honoured_is_an_error() {
        use AddressListError::{HostBits, HostName, NotANetwork};
        let error = |list| AddressList::patterns(list).unwrap_err();
        assert_eq!(error("10.0.0.1/8"), HostBits("10.0.0.1/8".into()));
        assert_eq!(error("*,!evil.example"), HostName("!evil.example".into()));
        assert_eq!(error("*.example"), HostName("*.example".into()));
        assert_eq!(error("10.0.0.0/33"), NotANetwork("10.0.0.0/33".into()));
        assert_eq!(error("10.0.0.1,"), NotANetwork("".into()));
        assert_eq!(AddressList::networks("10.*"), Err(NotANetwork("10.*".into())));
        assert_eq!(AddressList::networks("!10.0.0.1"), Err(NotANetwork("!10.0.0.1".into())));
    }
}
