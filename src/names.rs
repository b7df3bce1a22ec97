//! The names people type: accounts, nodes, logins, images.
//!
//! Each is a type that exists only if its text is valid, so no other part of the gateway checks
//! a name again. All are plain text with no I/O behind them.

use std::fmt;
use std::str::FromStr;

/// Why a text is not a name of the wanted kind. The message says what is allowed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{} is not a valid {kind}: {rule}", quoted(text))]
pub struct NameError {
    /// The offending text, as given.
    pub text: String,
    /// What it should have been: "node name", "account name", ...
    pub kind: &'static str,
    /// The rule that it breaks, in words.
    pub rule: &'static str,
}

/// What people type for groups of nodes; no node may be called so.
pub(crate) const NODE_KEYWORDS: [&str; 3] = ["my-nodes", "free-nodes", "all-nodes"];

/// The text between quotes, on one line whatever is in it, and not longer than a line.
pub(crate) fn quoted(text: &str) -> String {
    const SHOWN: usize = 60;
    let mut characters = text.chars();
    let shown: String = characters.by_ref().take(SHOWN).flat_map(char::escape_debug).collect();
    let rest = if characters.next().is_some() { "..." } else { "" };
    format!("\"{shown}{rest}\"")
}

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $max:literal, $rule:literal, $valid:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(String);

        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, NameError> {
                let valid: fn(&str) -> bool = $valid;
                if text.len() <= $max && valid(text) {
                    Ok(Self(text.to_owned()))
                } else {
                    Err(NameError { text: text.to_owned(), kind: $kind, rule: $rule })
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }
    };
}

name_type!(
    /// Who a client is. Also the owner part of the images that account saves, hence the
    /// repository-name characters of the OCI distribution specification.
    AccountName, "account name", 32,
    "lower-case letters and digits, with single \"-\" or \"_\" between them, 32 characters at most, \
     but neither \"library\" nor \"localhost\"",
    |text| {
        // Container engines read "library/pc" and "localhost/pc" as "pc" of nobody.
        !matches!(text, "" | "library" | "localhost")
            && text.split(['-', '_']).all(|part| {
                !part.is_empty()
                    && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
            })
    }
);

name_type!(
    /// A node or device, `^[a-zA-Z][a-zA-Z0-9-]+$` as WalT has it.
    NodeName, "node name", 63,
    "a letter, then letters, digits and \"-\", two to 63 characters, \
     but none of my-nodes, free-nodes and all-nodes",
    |text| {
        text.len() >= 2
            && !NODE_KEYWORDS.contains(&text)
            && text.starts_with(|c: char| c.is_ascii_alphabetic())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    }
);

name_type!(
    /// A login name on a node or device: useradd(8)'s characters, and upper case, which devices
    /// have. Not "image", which is how the name of an image starts.
    Login, "login name", 32,
    "a letter or \"_\", then letters, digits, \"_\" and \"-\", 32 characters at most, \
     but not \"image\"",
    |text| {
        text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && !text.eq_ignore_ascii_case("image")
            && text
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
    }
);

name_type!(
    /// The name part of an image, `[a-z0-9-]+` as WalT has it.
    ImageLabel, "image name", 128,
    "lower-case letters, digits and \"-\", a letter or digit at both ends, 128 characters at most",
    // Container engines refuse a "-" at the end of a name, though not of a tag.
    |text| image_part(text) && !text.ends_with('-')
);

name_type!(
    /// The tag part of an image, `[a-z0-9-]+` as WalT has it.
    ImageTag, "image tag", 128,
    "lower-case letters, digits and \"-\", starting with a letter or digit, 128 characters at most",
    image_part
);

fn image_part(text: &str) -> bool {
    // A leading "-" is valid to WalT's pattern but not to any container engine.
    text.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

impl Login {
    /// The login every WalT node has.
    pub fn root() -> Self {
        Self("root".to_owned())
    }
}

impl ImageLabel {
    /// Whether WalT keeps this name for itself, so that no image can be saved under it.
    pub fn is_reserved(&self) -> bool {
        self.0 == "default"
    }
}

impl ImageTag {
    /// The tag that is implied and not shown.
    pub fn latest() -> Self {
        Self("latest".to_owned())
    }

    /// Whether this is the implied tag.
    pub fn is_latest(&self) -> bool {
        self.0 == "latest"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_with_another_meaning_are_not_names() {
        assert!("all-nodes".parse::<NodeName>().is_err());
        assert!("my-nodes".parse::<NodeName>().is_err());
        assert!("image".parse::<Login>().is_err());
        assert!("Image".parse::<Login>().is_err());
        assert!("library".parse::<AccountName>().is_err());
        assert!("localhost".parse::<AccountName>().is_err());
    }

    #[test]
    fn what_container_engines_refuse_is_not_an_image_name() {
        for text in ["pc-", "-pc", "PC", "pc_1", ""] {
            assert!(text.parse::<ImageLabel>().is_err(), "{text}");
        }
        assert!("pc--2".parse::<ImageLabel>().is_ok());
    }

    #[test]
    fn default_is_reserved() {
        let reserved = |text: &str| text.parse::<ImageLabel>().unwrap().is_reserved();
        assert!(reserved("default"));
        assert!(!reserved("pc-default"));
    }

    #[test]
    fn error_stays_on_one_short_line() {
        let text = format!("a\r\n\x1b[31m{}", "x".repeat(10_000));
        let message = text.parse::<NodeName>().unwrap_err().to_string();
        assert!(message.starts_with(r#""a\r\n\u{1b}[31mxx"#), "{message}");
        assert!(!message.contains(char::is_control) && message.len() < 250);
    }
}
