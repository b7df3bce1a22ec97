//! The names people type: accounts, nodes, logins, images.
//!
//! Each is a type that exists only if its text is valid, so no other part of the gateway checks
//! a name again. All are plain text with no I/O behind them.

use std::fmt;
use std::str::FromStr;

/// Why a text is not a name of the wanted kind. The message says what is allowed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{text}\" is not a valid {kind}: {rule}")]
pub struct NameError {
    /// The offending text, as given.
    pub text: String,
    /// What it should have been: "node name", "account name", ...
    pub kind: &'static str,
    /// The rule that it breaks, in words.
    pub rule: &'static str,
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
    "lower-case letters and digits, with single \"-\" or \"_\" between them, 32 characters at most",
    |text| {
        !text.is_empty()
            && text.split(['-', '_']).all(|part| {
                !part.is_empty()
                    && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
            })
    }
);

name_type!(
    /// A node or device, `^[a-zA-Z][a-zA-Z0-9-]+$` as WalT has it.
    NodeName, "node name", 63,
    "a letter, then letters, digits and \"-\", two to 63 characters",
    |text| {
        text.len() >= 2
            && text.starts_with(|c: char| c.is_ascii_alphabetic())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    }
);

name_type!(
    /// A login name on a node or device: useradd(8)'s characters.
    Login, "login name", 32,
    "a lower-case letter or \"_\", then lower-case letters, digits, \"_\" and \"-\", 32 characters at most",
    |text| {
        text.starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
            && text.bytes().all(|b| {
                b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'-'
            })
    }
);

name_type!(
    /// The name part of an image, `[a-z0-9-]+` as WalT has it.
    ImageLabel, "image name", 128,
    "lower-case letters, digits and \"-\", starting with a letter or digit, 128 characters at most",
    image_part
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
