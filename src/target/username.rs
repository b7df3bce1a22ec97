//! The username grammar.

/// Why a username is not one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct UsernameError {
    /// One line for the user.
    pub message: String,
}
