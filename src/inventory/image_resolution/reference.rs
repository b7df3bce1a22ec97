//! Image references as container engines write them.

use std::fmt;
use std::str::FromStr;

use crate::names::quoted;
use crate::target::ImageName;

/// The tag that is implied and not shown.
pub(super) const LATEST: &str = "latest";

/// The longest reference that is looked at: engines take 255 characters of name, 128 of tag, and a
/// digest.
const MAX_BYTES: usize = 1024;

/// A reference to an image: `[REGISTRY/][OWNER/]NAME[:TAG][@DIGEST]`.
///
/// `docker.io/`, `docker.io/library/` and `localhost/` are not seen by users: an image with such a
/// prefix has no registry here. The engine still gets the text as it wrote it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ImageReference {
    engine_text: String,
    registry: Option<String>,
    owner: Option<String>,
    name: String,
    tag: Option<String>,
    digest: Option<String>,
}

/// A text that is not an image reference.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{} is not an image reference: {rule}", quoted(text))]
pub struct ReferenceError {
    /// The offending text, as given.
    pub text: String,
    /// What it should have been, in words.
    pub rule: &'static str,
}

impl ImageReference {
    /// What the engine must be given to find this image.
    pub fn engine_text(&self) -> &str {
        &self.engine_text
    }

    /// The registry, if users see one: `registry.example:5000`.
    pub fn registry(&self) -> Option<&str> {
        self.registry.as_deref()
    }

    /// Whose image it is; `None` for images like `alpine`.
    pub fn owner(&self) -> Option<&str> {
        self.owner.as_deref()
    }

    /// The name. With slashes if the repository's path has more than two parts.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The tag, `latest` when it was implied; `None` for a reference by digest only.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest: `sha256:...`.
    pub fn digest(&self) -> Option<&str> {
        self.digest.as_deref()
    }

    /// `[REGISTRY/][OWNER/]NAME:TAG`, the same for all texts that mean the same to users.
    pub fn canonical(&self) -> String {
        let name = self.full_name();
        if self.tag() == Some(LATEST) { format!("{name}:{LATEST}") } else { name }
    }

    /// The name that says the most about it, if users can type one.
    pub(super) fn typed(&self) -> Option<ImageName> {
        if self.registry.is_some() {
            return None;
        }
        let owner = self.owner().map(str::parse).transpose().ok()?;
        let tag = self.tag().filter(|tag| *tag != LATEST).map(str::parse).transpose().ok()?;
        // Only a digest is none.
        self.tag()?;
        Some(ImageName { owner, name: self.name.parse().ok()?, tag })
    }

    /// `[REGISTRY/][OWNER/]NAME[:TAG]`, the tag `latest` hidden.
    pub(super) fn full_name(&self) -> String {
        [self.registry(), self.owner()]
            .into_iter()
            .flatten()
            .map(|part| format!("{part}/"))
            .chain([self.name_and_tag()])
            .collect()
    }

    /// `NAME[:TAG]`, the tag `latest` hidden.
    pub(super) fn name_and_tag(&self) -> String {
        match (self.tag(), self.digest()) {
            (Some(LATEST), _) => self.name.clone(),
            (Some(tag), _) => format!("{}:{tag}", self.name),
            (None, Some(digest)) => format!("{}@{digest}", self.name),
            (None, None) => self.name.clone(),
        }
    }
}

impl fmt::Display for ImageReference {
    /// What the engine must be given.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.engine_text)
    }
}

impl FromStr for ImageReference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        let refused = |rule| ReferenceError { text: text.to_owned(), rule };
        if text.len() > MAX_BYTES {
            return Err(refused("it is too long"));
        }
        let (named, digest) = match text.split_once('@') {
            Some((named, digest)) => (named, Some(digest)),
            None => (text, None),
        };
        if digest.is_some_and(|digest| !is_digest(digest)) {
            return Err(refused("after \"@\" there must be ALGORITHM:HEX"));
        }
        let (repository, tag) = split_tag(named);
        if tag.is_some_and(|tag| !is_tag(tag)) {
            return Err(refused("a tag has letters, digits, \"_\", \".\" and \"-\", 128 at most"));
        }
        let (registry, path) = split_registry(repository);
        if !registry.is_none_or(is_registry) {
            return Err(refused("before the first \"/\" there must be HOST or HOST:PORT"));
        }
        if !path.split('/').all(is_path_component) {
            return Err(refused(
                "a name has lower-case letters and digits, with single \".\", \"_\", \"__\" or \
                 dashes between them",
            ));
        }
        let (registry, path) = without_noise(registry, path);
        let (owner, name) = match path.split_once('/') {
            // What is on another registry, or deeper, belongs to nobody here.
            Some((owner, name)) if registry.is_none() && !name.contains('/') => (Some(owner), name),
            _ => (None, path),
        };
        let implied = digest.is_none().then_some(LATEST);
        Ok(Self {
            engine_text: text.to_owned(),
            registry: registry.map(str::to_owned),
            owner: owner.map(str::to_owned),
            name: name.to_owned(),
            tag: tag.or(implied).map(str::to_owned),
            digest: digest.map(str::to_owned),
        })
    }
}

/// A ":" before the last "/" is a registry's port.
fn split_tag(named: &str) -> (&str, Option<&str>) {
    match named.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => (repository, Some(tag)),
        _ => (named, None),
    }
}

/// The first component is a registry if it looks like a host, as engines have it.
fn split_registry(repository: &str) -> (Option<&str>, &str) {
    match repository.split_once('/') {
        Some((first, path)) if first == "localhost" || first.contains(['.', ':']) => {
            (Some(first), path)
        }
        _ => (None, repository),
    }
}

fn without_noise<'a>(registry: Option<&'a str>, path: &'a str) -> (Option<&'a str>, &'a str) {
    match registry {
        None | Some("docker.io" | "index.docker.io") => {
            (None, path.strip_prefix("library/").unwrap_or(path))
        }
        Some("localhost") => (None, path),
        other => (other, path),
    }
}

fn is_registry(text: &str) -> bool {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (text, None),
    };
    let host_characters = |b: u8| b.is_ascii_alphanumeric() || b".-[]:".contains(&b);
    host.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '[')
        && host.bytes().all(host_characters)
        && port.is_none_or(|port| port.parse::<u16>().is_ok())
}

/// The OCI distribution specification's `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`.
fn is_path_component(text: &str) -> bool {
    let alphanumeric = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = text.as_bytes();
    bytes.first().is_some_and(alphanumeric)
        && bytes.last().is_some_and(alphanumeric)
        && bytes.split(alphanumeric).all(|separator| {
            matches!(separator, b"" | b"." | b"_" | b"__") || all_dashes(separator)
        })
}

fn all_dashes(bytes: &[u8]) -> bool {
    bytes.iter().all(|&b| b == b'-')
}

/// The OCI distribution specification's `[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}`.
fn is_tag(text: &str) -> bool {
    text.len() <= 128
        && text.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
}

fn is_digest(text: &str) -> bool {
    text.split_once(':').is_some_and(|(algorithm, hex)| {
        !algorithm.is_empty()
            && algorithm.bytes().all(|b| b.is_ascii_alphanumeric() || b"+._-".contains(&b))
            && hex.len() >= 32
            && hex.bytes().all(|b| b.is_ascii_hexdigit())
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn reference(text: &str) -> ImageReference {
        text.parse().unwrap()
    }

    fn parts(text: &str) -> [Option<String>; 4] {
        let reference = reference(text);
        assert_eq!(reference.engine_text(), text);
        [reference.registry, reference.owner, Some(reference.name), reference.tag]
    }

    #[test]
    fn registry_owner_name_and_tag() {
        for (text, [registry, owner, name, tag]) in [
            ("alpine", ["", "", "alpine", "latest"]),
            ("alpine:3.20", ["", "", "alpine", "3.20"]),
            ("alice/pc", ["", "alice", "pc", "latest"]),
            ("localhost/alice/pc:v2", ["", "alice", "pc", "v2"]),
            ("docker.io/alice/pc:latest", ["", "alice", "pc", "latest"]),
            ("docker.io/library/alpine:3.20", ["", "", "alpine", "3.20"]),
            ("library/alpine", ["", "", "alpine", "latest"]),
            ("localhost/pc:latest", ["", "", "pc", "latest"]),
            ("a/b/c:1", ["", "", "a/b/c", "1"]),
            (
                "registry.example:5000/x/alpine:3.20",
                ["registry.example:5000", "", "x/alpine", "3.20"],
            ),
            ("localhost:5000/x", ["localhost:5000", "", "x", "latest"]),
            ("[::1]:5000/x:y", ["[::1]:5000", "", "x", "y"]),
        ] {
            let wanted = [registry, owner, name, tag]
                .map(|part| (!part.is_empty()).then(|| part.to_owned()));
            assert_eq!(parts(text), wanted, "{text}");
        }
    }

    #[test]
    fn digest_stands_for_the_tag() {
        let digest = format!("sha256:{}", "ab".repeat(32));
        let by_digest = reference(&format!("docker.io/alice/pc@{digest}"));
        assert_eq!((by_digest.owner(), by_digest.name()), (Some("alice"), "pc"));
        assert_eq!(by_digest.tag(), None);
        assert_eq!(by_digest.digest(), Some(digest.as_str()));
        let both = reference(&format!("alpine:3.20@{digest}"));
        assert_eq!(both.tag(), Some("3.20"));
    }

    #[test]
    fn other_texts_are_refused() {
        let long = "a".repeat(2000);
        for text in [
            "",
            "<none>:<none>",
            "PC",
            "alice/",
            "/pc",
            "pc:",
            "pc@sha256",
            "pc@sha256:zz",
            "a//b",
            "pc__-x",
            "-pc",
            "pc-",
            "pc:-x",
            "ho st.x/pc",
            "host.x:99999/pc",
            "pc\n",
            &long,
        ] {
            assert!(text.parse::<ImageReference>().is_err(), "{text:?}");
        }
        let error = "PC".parse::<ImageReference>().unwrap_err().to_string();
        assert!(error.starts_with("\"PC\" is not an image reference: a name has"));
    }

    proptest! {
        #[test]
        fn engine_text_is_what_was_parsed(text in "[a-zA-Z0-9./:@_-]{0,40}") {
            if let Ok(reference) = text.parse::<ImageReference>() {
                prop_assert_eq!(reference.engine_text(), text);
            }
        }

        #[test]
        fn arbitrary_text_does_not_panic(text in ".*") {
            let _ = text.parse::<ImageReference>();
        }
    }
}
