//! The files of several layers as one tree.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::thread;

use nix::sched::{CloneFlags, unshare};
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};

/// Mounts layers, the lowest first, read-only, and looks into their tree. The mount is seen by this
/// look only and ends with it, however it ends. `scratch` is an empty directory. Blocks.
pub(super) fn look<T: Send>(
    layers: &[PathBuf],
    scratch: &Path,
    look: impl FnOnce(&Path) -> io::Result<T> + Send,
) -> io::Result<T> {
    // overlayfs takes two directories at least.
    if let [only] = layers {
        return look(only);
    }
    thread::scope(|scope| {
        let looker =
            thread::Builder::new().name("layers".to_owned()).spawn_scoped(scope, || {
                // Of this thread alone: its mounts and its working directory.
                unshare(CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS)?;
                mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
                let tree = scratch.join("tree");
                fs::create_dir(&tree)?;
                let names: Vec<String> =
                    (0..layers.len()).map(|number| number.to_string()).collect();
                for (name, layer) in names.iter().zip(layers.iter().rev()) {
                    symlink(layer, scratch.join(name))?;
                }
                // One page holds all options of mount(2), so the directories get short names.
                std::env::set_current_dir(scratch)?;
                let options = format!("lowerdir={}", names.join(":"));
                let options = std::ffi::CString::new(options)?;
                mount("overlay", &tree, "overlay", MountFlags::RDONLY, options.as_c_str())?;
                look(&tree)
            })?;
        looker.join().unwrap_or_else(|_| Err(io::Error::other("the look into it failed")))
    })
}
