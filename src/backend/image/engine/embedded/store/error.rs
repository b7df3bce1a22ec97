//! What goes wrong in the image store.

use std::io;
use std::path::Path;

use libcontainer::oci_spec::OciSpecError;

/// Why the store did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// There is no such image.
    #[error("image {0}: not found")]
    NoImage(String),
    /// The system refused.
    #[error("{what}: {source}")]
    System {
        /// What was done, to what.
        what: String,
        /// The system's answer.
        source: io::Error,
    },
    /// What came from outside is not what it claims to be.
    #[error("{what}: {reason}")]
    Invalid {
        /// The archive, blob or document.
        what: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A container, or something else, is made of the image.
    #[error("image {0} is in use by a container; remove that first")]
    InUse(String),
}

impl StoreError {
    /// Whether the image that was asked about does not exist.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::NoImage(_))
    }

    pub(super) fn invalid(what: impl Into<String>, reason: impl ToString) -> Self {
        Self::Invalid { what: what.into(), reason: reason.to_string() }
    }

    pub(super) fn system(what: impl Into<String>, source: impl Into<io::Error>) -> Self {
        Self::System { what: what.into(), source: source.into() }
    }

    /// The error of a document that cannot be written or read.
    pub(super) fn document(what: impl Into<String>) -> impl FnOnce(OciSpecError) -> Self {
        move |error| match error {
            OciSpecError::Io(source) => Self::System { what: what.into(), source },
            error => Self::invalid(what, error),
        }
    }
}

/// Names what was done when the system refuses.
pub(super) trait During<T> {
    /// What was done to a file.
    fn during(self, doing: &str, path: &Path) -> Result<T, StoreError>;
}

impl<T, E: Into<io::Error>> During<T> for Result<T, E> {
    fn during(self, doing: &str, path: &Path) -> Result<T, StoreError> {
        self.map_err(|error| StoreError::system(format!("{doing} {}", path.display()), error))
    }
}
