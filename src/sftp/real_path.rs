//! The path of a file without links and dots.

use std::collections::VecDeque;

use rustix::io::Errno;

use super::access::Links;
use super::error::FileError;
use super::root::{MOST_LINKS, Root};

impl Root {
    /// The absolute path without links, `.` and `..`. The last name need not exist, which is
    /// what clients ask for before they make it.
    pub(super) fn real_path(&self, path: &[u8]) -> Result<Vec<u8>, FileError> {
        let mut rest: VecDeque<Vec<u8>> = names(&self.absolute(path));
        let mut found: Vec<Vec<u8>> = Vec::new();
        let mut links = 0;
        while let Some(name) = rest.pop_front() {
            if name == b".." {
                found.pop();
                continue;
            }
            found.push(name);
            let here = joined(&found);
            let target = match self.locate(&here, Links::Keep) {
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
        Ok(joined(&found))
    }
}

fn names(path: &[u8]) -> VecDeque<Vec<u8>> {
    path.split(|byte| *byte == b'/')
        .filter(|name| !name.is_empty() && *name != b".")
        .map(<[u8]>::to_owned)
        .collect()
}

fn joined(names: &[Vec<u8>]) -> Vec<u8> {
    if names.is_empty() {
        return b"/".to_vec();
    }
    names.iter().flat_map(|name| std::iter::once(&b'/').chain(name)).copied().collect()
}
