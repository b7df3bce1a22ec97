//! Readers of single values: each takes a TOML value and returns a typed one or says what it
//! should have been.

use std::fmt::Display;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use ipnetwork::IpNetwork;
use toml::de::DeValue;

use super::ContainerNetwork;
use super::reader::{Fault, Read, Value, with_article};

/// The port of a node's SSH server unless its address says another.
const SSH_PORT: u16 = 22;

/// Docker refuses to start a container with less.
const SMALLEST_MEMORY: u64 = 6 << 20;

/// Less is taken by what programs write by the way.
const SMALLEST_DISK: u64 = 1 << 20;

/// What the kernel takes: a millisecond in each period, see `cpu.max` of cgroups(7).
const FEWEST_PROCESSORS: f64 = 0.01;
const MOST_PROCESSORS: f64 = 8192.0;

pub(super) fn string(value: &Value<'_>) -> Read<String> {
    text(value).map(str::to_owned)
}

/// A string, borrowed.
pub(super) fn text<'v>(value: &'v Value<'_>) -> Read<&'v str> {
    value.get_ref().as_str().ok_or_else(|| {
        Fault::at(value, format!("must be a string, not {}", with_article(value.get_ref())))
    })
}

pub(super) fn boolean(value: &Value<'_>) -> Read<bool> {
    value.get_ref().as_bool().ok_or_else(|| {
        let found = with_article(value.get_ref());
        Fault::at(value, format!("must be true or false, not {found}"))
    })
}

/// Whether containers have a network, or which.
pub(super) fn container_network(value: &Value<'_>) -> Read<ContainerNetwork> {
    match value.get_ref() {
        DeValue::Boolean(true) => Ok(ContainerNetwork::Own),
        DeValue::Boolean(false) => Ok(ContainerNetwork::Loopback),
        DeValue::String(word) if word == "host" => Ok(ContainerNetwork::Host),
        DeValue::String(word) => {
            let message =
                format!("must be true, false or \"host\", not \"{}\"", word.escape_debug());
            Err(Fault::at(value, message))
        }
        other => {
            let found = with_article(other);
            Err(Fault::at(value, format!("must be true, false or \"host\", not {found}")))
        }
    }
}

/// An integer within a range.
pub(super) fn integer(range: RangeInclusive<u64>) -> impl Fn(&Value<'_>) -> Read<u64> {
    move |value| {
        let DeValue::Integer(integer) = value.get_ref() else {
            let found = with_article(value.get_ref());
            return Err(Fault::at(value, format!("must be an integer, not {found}")));
        };
        u64::from_str_radix(integer.as_str(), integer.radix())
            .ok()
            .filter(|number| range.contains(number))
            .ok_or_else(|| {
                let (low, high) = (range.start(), range.end());
                Fault::at(value, format!("must be between {low} and {high}, not {integer}"))
            })
    }
}

/// A number within a range, with or without a fraction.
pub(super) fn decimal(range: RangeInclusive<f64>) -> impl Fn(&Value<'_>) -> Read<f64> {
    move |value| {
        let (number, given) = match value.get_ref() {
            DeValue::Integer(integer) => {
                let number = i64::from_str_radix(integer.as_str(), integer.radix());
                (number.ok().map(|number| number as f64), integer.to_string())
            }
            DeValue::Float(float) => (float.as_str().parse().ok(), float.to_string()),
            other => {
                let message = format!("must be a number, not {}", with_article(other));
                return Err(Fault::at(value, message));
            }
        };
        number.filter(|number| range.contains(number)).ok_or_else(|| {
            let (low, high) = (range.start(), range.end());
            Fault::at(value, format!("must be between {low} and {high}, not {given}"))
        })
    }
}

/// A number of processors in thousandths; `None` for 0, no limit.
pub(super) fn processors(value: &Value<'_>) -> Read<Option<u32>> {
    let processors = decimal(0.0..=MOST_PROCESSORS)(value)?;
    if processors == 0.0 {
        return Ok(None);
    }
    if processors < FEWEST_PROCESSORS {
        let message = format!("must be at least {FEWEST_PROCESSORS}, or 0 for no limit");
        return Err(Fault::at(value, message));
    }
    Ok(Some((processors * 1000.0).round() as u32))
}

/// As [`integer`], for counts.
pub(super) fn count(range: RangeInclusive<u32>) -> impl Fn(&Value<'_>) -> Read<usize> {
    let read = integer(u64::from(*range.start())..=u64::from(*range.end()));
    // Cannot saturate: the range is one of 32-bit numbers.
    move |value| Ok(usize::try_from(read(value)?).unwrap_or(usize::MAX))
}

/// An array, of which every wrong element is reported.
pub(super) fn list<T>(read: impl Fn(&Value<'_>) -> Read<T>) -> impl Fn(&Value<'_>) -> Read<Vec<T>> {
    move |value| {
        let DeValue::Array(elements) = value.get_ref() else {
            let found = with_article(value.get_ref());
            return Err(Fault::at(value, format!("must be an array, not {found}")));
        };
        let mut values = Vec::new();
        let mut faults = Vec::new();
        for element in elements.iter() {
            match read(element) {
                Ok(value) => values.push(value),
                Err(more) => faults.extend(more),
            }
        }
        if faults.is_empty() { Ok(values) } else { Err(faults) }
    }
}

/// A list with at least one element and none twice.
pub(super) fn distinct<T: PartialEq>(
    read: impl Fn(&Value<'_>) -> Read<T>,
) -> impl Fn(&Value<'_>) -> Read<Vec<T>> {
    let read = list(read);
    move |value| {
        let values = read(value)?;
        if values.is_empty() {
            return Err(Fault::at(value, "must not be empty"));
        }
        for (index, element) in values.iter().enumerate() {
            if values.iter().take(index).any(|earlier| earlier == element) {
                let place = value.get_ref().get(index).unwrap_or(value);
                return Err(Fault::at(place, "is listed twice"));
            }
        }
        Ok(values)
    }
}

/// One of a few words.
pub(super) fn choice<T: Copy>(words: &[(&str, T)]) -> impl Fn(&Value<'_>) -> Read<T> {
    move |value| {
        let given = text(value)?;
        let found = words.iter().find(|(word, _)| *word == given);
        found.map(|(_, meaning)| *meaning).ok_or_else(|| {
            let all: Vec<_> = words.iter().map(|(word, _)| format!("\"{word}\"")).collect();
            Fault::at(
                value,
                format!("must be {}, not \"{}\"", all.join(" or "), given.escape_debug()),
            )
        })
    }
}

/// Anything with a `FromStr` whose error is a complete message.
pub(super) fn parsed<T: FromStr<Err: Display>>(value: &Value<'_>) -> Read<T> {
    text(value)?.parse().map_err(|err: T::Err| Fault::at(value, err.to_string()))
}

/// A path; a relative one is relative to `base`.
pub(super) fn path(base: &Path) -> impl Fn(&Value<'_>) -> Read<PathBuf> {
    move |value| {
        let given = text(value)?;
        if given.is_empty() || given.contains('\0') {
            return Err(Fault::at(value, "must be the path of a file or directory"));
        }
        Ok(base.join(given))
    }
}

/// As [`path`], or an empty string for none.
pub(super) fn optional_path(base: &Path) -> impl Fn(&Value<'_>) -> Read<Option<PathBuf>> {
    let read = path(base);
    move |value| {
        if text(value)?.is_empty() { Ok(None) } else { read(value).map(Some) }
    }
}

/// `ADDRESS:PORT` to listen on.
pub(super) fn listen_address(value: &Value<'_>) -> Read<SocketAddr> {
    let given = text(value)?;
    given.parse().map_err(|_| {
        let message = format!(
            "\"{}\" is not an address with a port, such as \"0.0.0.0:2222\" or \"[::]:2222\"",
            given.escape_debug()
        );
        Fault::at(value, message)
    })
}

/// `ADDRESS` or `ADDRESS:PORT` of a node.
pub(super) fn node_address(value: &Value<'_>) -> Read<SocketAddr> {
    let given = text(value)?;
    let bare = given.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(given);
    let address = match bare.parse::<IpAddr>() {
        Ok(ip) => Some(SocketAddr::new(ip, SSH_PORT)),
        Err(_) => given.parse::<SocketAddr>().ok().filter(|address| address.port() != 0),
    };
    address.ok_or_else(|| {
        let message = format!(
            "\"{}\" is not an IP address, with or without a port, such as \"192.168.152.10\" or \
             \"[fd00::10]:2022\"",
            given.escape_debug()
        );
        Fault::at(value, message)
    })
}

/// A network in CIDR notation, or one address.
pub(super) fn network(value: &Value<'_>) -> Read<IpNetwork> {
    let given = text(value)?;
    let Ok(network) = given.parse::<IpNetwork>() else {
        let message = format!(
            "\"{}\" is not a network in CIDR notation, such as \"192.168.152.0/22\"",
            given.escape_debug()
        );
        return Err(Fault::at(value, message));
    };
    if network.ip() != network.network() {
        let (base, prefix) = (network.network(), network.prefix());
        let message = format!(
            "\"{given}\" is an address within a network; the network is \"{base}/{prefix}\""
        );
        return Err(Fault::at(value, message));
    }
    Ok(network)
}

/// A memory size in bytes; `None` for "0", no limit.
pub(super) fn memory(value: &Value<'_>) -> Read<Option<u64>> {
    size(value, "a memory size", SMALLEST_MEMORY)
}

/// A size on disk in bytes; `None` for "0", no limit.
pub(super) fn disk(value: &Value<'_>) -> Read<Option<u64>> {
    size(value, "a size on disk", SMALLEST_DISK)
}

/// `smallest`: a whole number of mebibytes.
fn size(value: &Value<'_>, what: &str, smallest: u64) -> Read<Option<u64>> {
    let given = text(value)?;
    let (digits, shift) = match given.as_bytes().last() {
        Some(b'K' | b'k') => (&given[..given.len() - 1], 10),
        Some(b'M' | b'm') => (&given[..given.len() - 1], 20),
        Some(b'G' | b'g') => (&given[..given.len() - 1], 30),
        Some(b'T' | b't') => (&given[..given.len() - 1], 40),
        _ => (given, 0),
    };
    let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    let bytes = plain
        .then(|| digits.parse::<u64>().ok()?.checked_mul(1 << shift))
        .flatten()
        // What the engine's API can carry.
        .filter(|bytes| i64::try_from(*bytes).is_ok());
    match bytes {
        Some(0) => Ok(None),
        Some(bytes) if bytes < smallest => {
            let smallest = smallest >> 20;
            let message = format!("must be at least \"{smallest}M\", or \"0\" for no limit");
            Err(Fault::at(value, message))
        }
        Some(bytes) => Ok(Some(bytes)),
        None => {
            let message = format!(
                "\"{}\" is not {what}, such as \"512M\" or \"2G\", or \"0\" for no limit",
                given.escape_debug()
            );
            Err(Fault::at(value, message))
        }
    }
}

/// A MAC address, returned in lower case with colons.
pub(super) fn mac(value: &Value<'_>) -> Read<String> {
    let given = text(value)?;
    let lower = given.to_ascii_lowercase().replace('-', ":");
    let octets: Vec<_> = lower.split(':').collect();
    let is_octet =
        |octet: &&str| octet.len() == 2 && octet.bytes().all(|byte| byte.is_ascii_hexdigit());
    if octets.len() == 6 && octets.iter().all(is_octet) {
        Ok(lower)
    } else {
        let message = format!(
            "\"{}\" is not a MAC address, such as \"52:54:00:bb:1b:b9\"",
            given.escape_debug()
        );
        Err(Fault::at(value, message))
    }
}

/// `[HOST[:PORT]/]PATH[:TAG][@DIGEST]`, as the OCI distribution specification has the parts.
pub(super) fn image_reference(value: &Value<'_>) -> Read<String> {
    let reference = text(value)?;
    if is_image_reference(reference) {
        Ok(reference.to_owned())
    } else {
        let message = format!(
            "\"{}\" is not an image reference, such as \"registry.example:5000/library/alpine:3.20\"",
            reference.escape_debug()
        );
        Err(Fault::at(value, message))
    }
}

fn is_image_reference(reference: &str) -> bool {
    let (rest, digest) = match reference.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest)),
        None => (reference, None),
    };
    let digest_fits = digest.is_none_or(|digest| {
        digest.strip_prefix("sha256:").is_some_and(|hex| {
            hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'a'..=b'f'))
        })
    });
    let name_start = rest.rfind('/').map_or(0, |slash| slash + 1);
    let (name, tag) = match rest.rfind(':').filter(|colon| *colon >= name_start) {
        Some(colon) => (&rest[..colon], Some(&rest[colon + 1..])),
        None => (rest, None),
    };
    let tag_fits = tag.is_none_or(|tag| {
        (1..=128).contains(&tag.len())
            && !tag.starts_with(['.', '-'])
            && tag.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
    });
    let mut parts = name.split('/').peekable();
    let has_host = name.contains('/')
        && parts.peek().is_some_and(|first| first.contains(['.', ':']) || *first == "localhost");
    let host_fits = !has_host
        || parts.next().is_some_and(|host| {
            host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b':' | b'-'))
        });
    let path_fits = parts.all(|part| {
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        part.bytes().next().is_some_and(plain)
            && part.bytes().last().is_some_and(plain)
            && part.bytes().all(|b| plain(b) || matches!(b, b'.' | b'_' | b'-'))
    });
    digest_fits && tag_fits && host_fits && path_fits
}
