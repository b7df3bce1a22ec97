//! Why something was not done to a file.

use rustix::io::Errno;

/// Why something was not done to a file, worded as the programs of OpenSSH word it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum FileError {
    /// The kernel's answer.
    #[error("{}", in_words(*.0))]
    System(Errno),
    /// A device, a socket or a FIFO: opening one may wait for ever, or do things.
    #[error("not a regular file")]
    NotRegular,
    /// A file of the kernel's own file systems.
    #[error("files of the kernel are not transferred")]
    OfTheKernel,
    /// A path that changes under every attempt to resolve it.
    #[error("the path is being changed by somebody else")]
    Unstable,
}

impl From<Errno> for FileError {
    fn from(errno: Errno) -> Self {
        Self::System(errno)
    }
}

impl From<FileError> for std::io::Error {
    fn from(error: FileError) -> Self {
        match error {
            FileError::System(errno) => errno.into(),
            other => Self::other(other),
        }
    }
}

impl FileError {
    /// Whether there is no such file.
    pub(super) fn is_not_found(self) -> bool {
        self == Self::System(Errno::NOENT)
    }

    /// Whether a path leads to nothing, also because part of it is no directory or a link to
    /// itself.
    pub(super) fn leads_nowhere(self) -> bool {
        matches!(self, Self::System(Errno::NOENT | Errno::NOTDIR | Errno::LOOP))
    }
}

/// strerror(3)
fn in_words(errno: Errno) -> String {
    let mut words = std::io::Error::from(errno).to_string();
    if let Some(end) = words.rfind(" (os error") {
        words.truncate(end);
    }
    words
}
