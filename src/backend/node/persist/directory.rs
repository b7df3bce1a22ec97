//! Which directory of this machine is a node's /persist.

use std::path::Path;

use rustix::fd::OwnedFd;
use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use tracing::warn;

use crate::inventory::NodeRecord;

/// What is known here of a node's /persist.
pub(super) enum Persist {
    Directory(OwnedFd),
    /// The node has none, and why.
    Absent(String),
    /// It is not on this machine, as far as is known.
    Unknown,
}

/// Opens the directory. Blocks.
pub(super) fn find(node: &NodeRecord) -> Persist {
    if !node.mounts_persist {
        return Persist::Absent("it has none, its setting mount.persist is false".to_owned());
    }
    if let Some(path) = &node.persist {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        return match rustix::fs::open(path, flags, Mode::empty()) {
            Ok(directory) => Persist::Directory(directory),
            Err(error) => Persist::Absent(format!(
                "{}: {error}; see persist of [nodes.{}]",
                path.display(),
                node.name
            )),
        };
    }
    let Some(mac) = &node.mac else { return Persist::Unknown };
    open_beneath(&node.options.persist_root, mac)
}

/// Opens `<root>/<mac>/persist`. It may be a link, which is followed this once and must stay beneath
/// the root; it is the WalT server's, not the node's.
fn open_beneath(root: &Path, mac: &str) -> Persist {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let Ok(directory) = rustix::fs::open(root, flags, Mode::empty()) else {
        return Persist::Unknown;
    };
    let open = |path: &Path, flags: OFlags, resolve: ResolveFlags| {
        let resolve = resolve | ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        rustix::fs::openat2(&directory, path, flags, Mode::empty(), resolve)
    };
    let link = Path::new(mac).join("persist");
    let as_it_is = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let found = match open(&link, as_it_is, ResolveFlags::empty()) {
        Ok(found) => found,
        Err(Errno::NOENT) => return Persist::Unknown,
        Err(error) => return refused(root, &link, error),
    };
    let target = match rustix::fs::readlinkat(&found, "", Vec::new()) {
        Ok(target) => target.to_string_lossy().into_owned(),
        // No link: the directory itself.
        Err(Errno::NOENT | Errno::INVAL) => {
            return match open(&link, flags, ResolveFlags::NO_SYMLINKS) {
                Ok(directory) => Persist::Directory(directory),
                Err(error) => refused(root, &link, error),
            };
        }
        Err(error) => return refused(root, &link, error),
    };
    let target = match Path::new(&target).strip_prefix(root) {
        Ok(beneath) => beneath.to_owned(),
        Err(_) => Path::new(mac).join(target),
    };
    match open(&target, flags, ResolveFlags::NO_SYMLINKS) {
        Ok(directory) => Persist::Directory(directory),
        Err(Errno::NOENT) => {
            Persist::Absent("it has none, its directory does not exist on the server".to_owned())
        }
        Err(error) => refused(root, &link, error),
    }
}

fn refused(root: &Path, path: &Path, error: Errno) -> Persist {
    let path = root.join(path);
    warn!(path = %path.display(), %error, "the /persist of a node is not served");
    let reason = match error {
        Errno::XDEV | Errno::LOOP => format!("it leads out of {}", root.display()),
        error => error.to_string(),
    };
    Persist::Absent(format!("{}: {reason}", path.display()))
}
