//! What of a container's differences its user made.

use std::collections::HashSet;

use super::engine::Change;

/// What the engine mounts or puts into every container, at these paths and below.
const OF_THE_ENGINE: [&str; 9] = [
    "/proc",
    "/sys",
    "/dev",
    "/etc/hosts",
    "/etc/hostname",
    "/etc/resolv.conf",
    "/run/secrets",
    "/run/.containerenv",
    "/.dockerenv",
];

/// Podman makes this link in images that do not have it.
const MTAB: &str = "/etc/mtab";

/// What a shell writes when it ends, whatever was done in it.
const OF_THE_SHELL: [&str; 3] = ["/root/.bash_history", "/root/.ash_history", "/root/.sh_history"];

/// What is left of the differences when what was put there by the engine or the gateway is taken
/// away.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Left {
    /// Something that its user did.
    Changed,
    /// Directories that the engine lists for what was taken away in them; perhaps they were
    /// modified themselves as well.
    Ways(Vec<Change>),
}

/// `mount_points` are the paths at which something was mounted for this container; they may have
/// been created for it. `of_the_boot` are paths that the operating system wrote, and not the user.
pub(super) fn of_the_user(
    changes: &[Change],
    mount_points: &[&str],
    of_the_boot: &HashSet<String>,
) -> Left {
    let ignored = |path: &str| {
        OF_THE_ENGINE.iter().chain(mount_points).any(|top| is_at_or_below(path, top))
            || path == MTAB
            || OF_THE_SHELL.contains(&path)
            || of_the_boot.contains(path)
    };
    let mut ways = Vec::new();
    for change in changes.iter().filter(|change| !ignored(&change.path)) {
        // A directory is listed as modified when anything below it is listed.
        let is_only_the_way_to_ignored = || {
            let mut below = self::below(changes, &change.path).peekable();
            below.peek().is_some()
                && below.all(|other| {
                    // Directories below are judged by themselves.
                    ignored(&other.path) || self::below(changes, &other.path).next().is_some()
                })
        };
        if !is_only_the_way_to_ignored() {
            return Left::Changed;
        }
        ways.push(change.clone());
    }
    Left::Ways(ways)
}

/// What is listed of the inside of a directory.
fn below<'a>(changes: &'a [Change], directory: &'a str) -> impl Iterator<Item = &'a Change> {
    changes
        .iter()
        .filter(move |other| other.path != directory && is_at_or_below(&other.path, directory))
}

fn is_at_or_below(path: &str, top: &str) -> bool {
    path.strip_prefix(top)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/') || top == "/")
}

#[cfg(test)]
mod tests {
    use super::super::engine::ChangeKind::{self, Added, Deleted, Modified};
    use super::*;

    fn changed(changes: &[(&str, ChangeKind)]) -> bool {
        let changes: Vec<Change> = changes
            .iter()
            .map(|(path, kind)| Change { path: (*path).to_owned(), kind: *kind })
            .collect();
        let of_the_boot = HashSet::from(["/etc/new".to_owned()]);
        of_the_user(&changes, &["/run", "/tmp"], &of_the_boot) == Left::Changed
    }

    #[test]
    fn nothing_and_mount_points_are_no_change() {
        assert!(!changed(&[]));
        assert!(!changed(&[
            ("/etc", Modified),
            ("/etc/hosts", Added),
            ("/etc/mtab", Added),
            ("/proc", Added),
            ("/dev", Modified),
            ("/dev/console", Added),
            ("/run", Added),
            ("/run/lock", Added),
            ("/etc/new", Added),
        ]));
    }

    #[test]
    fn the_shells_history_alone_is_no_change() {
        assert!(!changed(&[("/root", Modified), ("/root/.bash_history", Added)]));
        assert!(changed(&[
            ("/root", Modified),
            ("/root/.bash_history", Added),
            ("/root/notes", Added)
        ]));
    }

    #[test]
    fn directories_on_the_way_to_what_is_no_change_are_none() {
        let way = [("/var", Modified), ("/var/log", Modified), ("/var/log/boot", Added)];
        let judged = |own: &str| {
            let changes = way.map(|(path, kind)| Change { path: path.to_owned(), kind });
            of_the_user(&changes, &[], &HashSet::from([own.to_owned()]))
        };
        let ways =
            way[..2].iter().map(|(path, kind)| Change { path: (*path).to_owned(), kind: *kind });
        assert_eq!(judged("/var/log/boot"), Left::Ways(ways.collect()));
        assert_eq!(judged("/var/log/other"), Left::Changed);
    }

    #[test]
    fn files_and_deletions_are_changes() {
        assert!(changed(&[("/etc", Modified), ("/etc/passwd", Deleted)]));
        assert!(changed(&[("/etc", Modified), ("/etc/hosts2", Added)]));
        assert!(changed(&[("/etc", Modified), ("/etc/hosts", Added), ("/etc/fstab", Modified)]));
    }

    #[test]
    fn a_directory_modified_by_itself_is_a_change() {
        assert!(changed(&[("/root", Modified)]));
        assert!(changed(&[("/srv", Added)]));
    }
}
