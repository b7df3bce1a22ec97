//! Which forwards a key may ask for: `permitopen=` and `permitlisten=` of authorized_keys (sshd(8)).

use super::wildcard;

/// One `HOST:PORT` of such an option.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForwardPermit {
    host: String,
    /// `None`: any port, also one that the target is to choose.
    port: Option<u16>,
}

/// Why the value of such an option cannot be honoured as it is meant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum ForwardPermitError {
    #[error("it must be HOST:PORT, with an IPv6 address in square brackets")]
    NotHostAndPort,
    #[error("its port must be 1 to 65535, or *")]
    BadPort,
}

impl ForwardPermit {
    /// The value of `permitopen=`: the host is literal, or `*` for any.
    pub(super) fn open(text: &str) -> Result<Self, ForwardPermitError> {
        let permit = Self::host_and_port(text)?;
        if permit.host.is_empty() { Err(ForwardPermitError::NotHostAndPort) } else { Ok(permit) }
    }

    /// The value of `permitlisten=`: the host may have wildcards, and a port alone is that port of
    /// any host.
    pub(super) fn listen(text: &str) -> Result<Self, ForwardPermitError> {
        if text.contains(':') {
            let permit = Self::host_and_port(text)?;
            return Ok(Self { host: permit.host.to_ascii_lowercase(), ..permit });
        }
        Ok(Self { host: "*".to_owned(), port: port(text)? })
    }

    fn host_and_port(text: &str) -> Result<Self, ForwardPermitError> {
        let (host, digits) = match text.strip_prefix('[') {
            Some(bracketed) => bracketed.split_once("]:"),
            None => text.split_once(':'),
        }
        .ok_or(ForwardPermitError::NotHostAndPort)?;
        if digits.contains(':') {
            return Err(ForwardPermitError::NotHostAndPort);
        }
        Ok(Self { host: host.to_owned(), port: port(digits)? })
    }

    fn has_port(&self, asked: u16) -> bool {
        self.port.is_none_or(|port| port == asked)
    }

    /// Whether a connection may be opened to what the client names. Names are not looked up.
    pub(super) fn opens(&self, host: &str, port: u16) -> bool {
        self.has_port(port) && (self.host == "*" || self.host == host)
    }

    /// Whether the target may listen where the client says, as it says it: `localhost` is what
    /// ssh(1) sends for no address, and the empty text for all.
    pub(super) fn listens(&self, address: &str, port: u16) -> bool {
        self.has_port(port) && wildcard::matches(&self.host, &address.to_ascii_lowercase())
    }
}

/// `None` for `*`.
fn port(text: &str) -> Result<Option<u16>, ForwardPermitError> {
    if text == "*" {
        return Ok(None);
    }
    let number = text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok());
    match number.flatten() {
        Some(port) if port != 0 => Ok(Some(port)),
        _ => Err(ForwardPermitError::BadPort),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opens(permit: &str, host: &str, port: u16) -> bool {
        ForwardPermit::open(permit).unwrap().opens(host, port)
    }

    fn listens(permit: &str, address: &str, port: u16) -> bool {
        ForwardPermit::listen(permit).unwrap().listens(address, port)
    }

    #[test]
    fn connections_go_to_the_literal_host_and_port() {
        assert!(opens("rpi1:22", "rpi1", 22));
        assert!(!opens("rpi1:22", "rpi1", 23));
        assert!(!opens("rpi1:22", "rpi2", 22));
        assert!(!opens("rpi*:22", "rpi1", 22), "no pattern, as in sshd");
        assert!(!opens("localhost:22", "127.0.0.1", 22), "no lookup, as in sshd");
        assert!(opens("[::1]:80", "::1", 80));
        assert!(opens("rpi1:*", "rpi1", 4711));
        assert!(opens("*:80", "rpi9", 80));
        assert!(!opens("*:80", "rpi9", 81));
    }

    #[test]
    fn listening_matches_patterns_and_a_port_alone_any_address() {
        assert!(listens("8080", "localhost", 8080));
        assert!(listens("8080", "", 8080));
        assert!(!listens("8080", "localhost", 8081));
        assert!(listens("*", "localhost", 0));
        assert!(!listens("8080", "localhost", 0), "a port that the target chooses needs *");
        assert!(listens("localhost:8080", "LOCALHOST", 8080));
        assert!(!listens("localhost:8080", "127.0.0.1", 8080), "another name, as in sshd");
        assert!(listens("10.0.*:*", "10.0.0.9", 1));
        assert!(listens("[::1]:22000", "::1", 22000));
        assert!(!listens(":8080", "localhost", 8080));
        assert!(listens(":8080", "", 8080));
    }

    #[test]
    fn what_is_no_host_and_port_is_an_error() {
        use ForwardPermitError::{BadPort, NotHostAndPort};
        for (text, error) in [
            ("rpi1", NotHostAndPort),
            ("", NotHostAndPort),
            (":22", NotHostAndPort),
            ("::1:22", NotHostAndPort),
            ("[::1]", NotHostAndPort),
            ("rpi1:", BadPort),
            ("rpi1:0", BadPort),
            ("rpi1:+1", BadPort),
            ("rpi1:65536", BadPort),
            ("rpi1:ssh", BadPort),
        ] {
            assert_eq!(ForwardPermit::open(text), Err(error), "{text:?}");
        }
        for (text, error) in [("", BadPort), ("0", BadPort), ("::1:22", NotHostAndPort)] {
            assert_eq!(ForwardPermit::listen(text), Err(error), "{text:?}");
        }
    }
}
