//! What Podman lists of a container's differences that is its own doing.

use crate::backend::image::engine::{Change, ChangeKind};

/// Where Podman puts files of its own. It leaves these out of the list, but not the directory that
/// they are in.
pub(super) const TOUCHED: &str = "/etc";

/// What Podman writes into a container whose image has no such file, when it runs programs as a
/// user that it was told by number.
const WRITTEN: [(&str, &[u8]); 2] =
    [("/etc/group", b"0:x:0:0\n"), ("/etc/passwd", b"0:*:0:0:container user:/:/bin/sh\n")];

/// Those of the changes that are files of Podman's own; `content` reads one.
pub(super) fn written_by_podman(
    changes: &[Change],
    content: impl Fn(&str) -> Option<Vec<u8>>,
) -> Vec<String> {
    let is_own = |change: &&Change| {
        change.kind == ChangeKind::Added
            && WRITTEN
                .iter()
                .any(|(path, text)| change.path == *path && content(path).as_deref() == Some(*text))
    };
    changes.iter().filter(is_own).map(|change| change.path.clone()).collect()
}

/// Takes a modified `/etc` out when nothing in it is listed.
pub(super) fn without_podmans_own(changes: &[Change]) -> Vec<Change> {
    let mut changes = changes.to_vec();
    let is_below = |change: &Change| {
        change.path.strip_prefix(TOUCHED).is_some_and(|rest| rest.starts_with('/'))
    };
    if !changes.iter().any(is_below) {
        changes.retain(|change| change.path != TOUCHED || change.kind != ChangeKind::Modified);
    }
    changes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_directory_in_which_nothing_is_listed_is_taken_out() {
        let change = |path: &str, kind| Change { path: path.to_owned(), kind };
        let etc = change("/etc", ChangeKind::Modified);
        assert_eq!(without_podmans_own(std::slice::from_ref(&etc)), []);
        let file = change("/etc/motd", ChangeKind::Modified);
        let both = vec![etc, file];
        assert_eq!(without_podmans_own(&both), both);
        let deleted = vec![change("/etc", ChangeKind::Deleted)];
        assert_eq!(without_podmans_own(&deleted), deleted);
    }
}
