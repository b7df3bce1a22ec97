//! The path of a file without links and dots.

use std::collections::VecDeque;

use rustix::fs::OFlags;
use rustix::io::Errno;

use super::access::{Links, Located};
use super::error::FileError;
use super::root::{MOST_LINKS, Root};

/// Where a path leads, without links, `.` and `..`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// Into the root, at this absolute path.
    Here(Vec<u8>),
    /// Out of a mounted root. Behind the point where it leaves, links and `..` are still in it.
    Elsewhere(Vec<u8>),
}

impl Root {
    /// The absolute path without links, `.` and `..`. The last name need not exist, which is
    /// what clients ask for before they make it.
    pub(super) fn real_path(&self, path: &[u8]) -> Result<Vec<u8>, FileError> {
        match self.place(path, Links::Follow)? {
            Place::Here(path) => Ok(path),
            Place::Elsewhere(_) => Err(Errno::XDEV.into()),
        }
    }

    /// Whether a path leads out of a mounted root, by links. `follows`: also by one that is its last
    /// name. What cannot be told does not. Blocks.
    pub(crate) fn leads_out(&self, path: &[u8], follows: bool) -> bool {
        let last = if follows { Links::Follow } else { Links::Keep };
        matches!(self.place(path, last), Ok(Place::Elsewhere(_)))
    }

    /// Where a path leads; the last name need not exist.
    pub(super) fn place(&self, path: &[u8], last: Links) -> Result<Place, FileError> {
        let mut rest: VecDeque<Vec<u8>> = names(&self.absolute(path));
        let mut found: Vec<Vec<u8>> = Vec::new();
        let mut links = 0;
        while let Some(name) = rest.pop_front() {
            if name == b".." {
                found.pop();
                continue;
            }
            found.push(name);
            if !self.begins_here(&found) {
                found.extend(rest);
                return Ok(Place::Elsewhere(joined(&found)));
            }
            if last == Links::Keep && rest.is_empty() {
                break;
            }
            let flags = OFlags::PATH | OFlags::NOFOLLOW;
            let target = match self.resolve_directly(&joined(&found), flags).map(Located::new) {
                Ok(file) if file.kind()?.is_symlink() => file.link_target()?,
                Ok(_) => continue,
                Err(error) if error.is_not_found() && rest.is_empty() => continue,
                Err(error) => return Err(error),
            };
            links += 1;
            if links > MOST_LINKS {
                return Err(Errno::LOOP.into());
            }
            if target.starts_with(b"/") {
                found.clear();
            } else {
                found.pop();
            }
            for name in names(&target).into_iter().rev() {
                rest.push_front(name);
            }
        }
        let path = joined(&found);
        Ok(if self.begins_here(&found) { Place::Here(path) } else { Place::Elsewhere(path) })
    }

    fn begins_here(&self, names: &[Vec<u8>]) -> bool {
        self.mounted_at().is_none_or(|mount| names.first().is_some_and(|first| first == mount))
    }
}

/// The names in a path, without those that are none.
pub(super) fn names(path: &[u8]) -> VecDeque<Vec<u8>> {
    path.split(|byte| *byte == b'/')
        .filter(|name| !name.is_empty() && *name != b".")
        .map(<[u8]>::to_owned)
        .collect()
}

/// The absolute path of these names.
pub(super) fn joined(names: &[Vec<u8>]) -> Vec<u8> {
    if names.is_empty() {
        return b"/".to_vec();
    }
    names.iter().flat_map(|name| std::iter::once(&b'/').chain(name)).copied().collect()
}
