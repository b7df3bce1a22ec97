//! How requests fail, section 7 of the draft.

use rustix::io::Errno;

use super::error::FileError;
use super::request::Malformed;

/// A status other than success.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) code: u32,
    pub(super) message: String,
    /// The kernel's reason, if it is one.
    errno: Option<Errno>,
}

impl Refusal {
    const END_OF_FILE: u32 = 1;
    const NO_SUCH_FILE: u32 = 2;
    const PERMISSION_DENIED: u32 = 3;
    const FAILURE: u32 = 4;
    const BAD_MESSAGE: u32 = 5;
    const UNSUPPORTED: u32 = 8;

    pub(super) fn end_of_file() -> Self {
        Self { code: Self::END_OF_FILE, message: "end of file".to_owned(), errno: None }
    }

    pub(super) fn bad_handle() -> Self {
        Self::failure("no such handle")
    }

    /// There is no such file, for a reason.
    pub(super) fn missing(reason: String) -> Self {
        Self { code: Self::NO_SUCH_FILE, message: reason, errno: None }
    }

    /// Whether a path leads to another file system.
    pub(super) fn crosses(&self) -> bool {
        self.errno == Some(Errno::XDEV)
    }

    /// Whether it was not done because it would have had to wait.
    pub(super) fn would_wait(&self) -> bool {
        self.errno == Some(Errno::AGAIN)
    }

    /// A failure for which version 3 has no code.
    pub(super) fn failure(message: impl Into<String>) -> Self {
        Self { code: Self::FAILURE, message: message.into(), errno: None }
    }

    pub(super) fn unsupported() -> Self {
        Self::lacking("operation not supported".to_owned())
    }

    /// It is not supported, by what.
    pub(super) fn lacking(message: String) -> Self {
        Self { code: Self::UNSUPPORTED, message, errno: None }
    }
}

impl From<Malformed> for Refusal {
    fn from(malformed: Malformed) -> Self {
        Self { code: Self::BAD_MESSAGE, message: malformed.to_string(), errno: None }
    }
}

impl From<FileError> for Refusal {
    /// Version 3 has few codes; the message tells the rest.
    fn from(error: FileError) -> Self {
        let code = match error {
            FileError::System(Errno::NOENT | Errno::NOTDIR | Errno::BADF | Errno::LOOP) => {
                Self::NO_SUCH_FILE
            }
            FileError::System(Errno::PERM | Errno::ACCESS) | FileError::OfTheKernel => {
                Self::PERMISSION_DENIED
            }
            FileError::System(Errno::INVAL | Errno::NAMETOOLONG) => Self::BAD_MESSAGE,
            FileError::System(Errno::NOSYS | Errno::OPNOTSUPP) => Self::UNSUPPORTED,
            _ => Self::FAILURE,
        };
        let errno = match error {
            FileError::System(errno) => Some(errno),
            _ => None,
        };
        Self { code, message: error.to_string(), errno }
    }
}

impl From<Errno> for Refusal {
    fn from(errno: Errno) -> Self {
        FileError::from(errno).into()
    }
}

impl From<std::io::Error> for Refusal {
    fn from(error: std::io::Error) -> Self {
        Errno::from_io_error(&error).unwrap_or(Errno::IO).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_disks_and_quotas_are_said_in_words() {
        for (errno, words) in [
            (Errno::NOSPC, "No space left on device"),
            (Errno::DQUOT, "Disk quota exceeded"),
            (Errno::FBIG, "File too large"),
        ] {
            let refusal = Refusal::from(errno);
            assert_eq!((refusal.code, refusal.message.as_str()), (Refusal::FAILURE, words));
        }
    }
}
