//! The root that rsync sees: the directory, and nothing else.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{CWD, StatVfsMountFlags};
use rustix::mount::{
    MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, mount,
    mount_bind, mount_change, mount_remount, move_mount, open_tree, unmount,
};
use rustix::process::pivot_root;

use super::failed;
use super::program::Program;

/// Where the root is made. Every system has this directory, and none of it is needed in between.
const NEW: &str = "/dev";
/// The directory that is served, in the root.
const SERVED: &str = "persist";
/// The program's files, in the root.
const PROGRAM: &str = "program";
/// Of the small file systems in memory, mount(2).
const SMALL: &str = "size=64k,mode=755";

/// A mount of the directory that is nowhere yet. A mount can be taken from the namespace that the
/// descriptor is of, and only there.
pub(super) fn detached(directory: &OwnedFd) -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    open_tree(directory, "", flags).map_err(failed("cannot take a mount of the directory"))
}

/// Makes the root, in a mount namespace that only this process and its children have.
pub(super) fn make(tree: &OwnedFd, directory: &OwnedFd, program: &Program) -> io::Result<()> {
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/", private).map_err(failed("cannot make mounts private"))?;
    let inert = MountFlags::NOSUID | MountFlags::NODEV;
    in_memory(Path::new(NEW), inert | MountFlags::NOEXEC)?;
    let served = Path::new(NEW).join(SERVED);
    fs::create_dir(&served)?;
    move_mount(tree.as_fd(), "", CWD, &served, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        .map_err(failed("cannot mount the directory"))?;
    // What is mounted in the directory later stays out, as it does of an NFS export.
    mount_change(&served, private)?;
    let mut flags = inert | MountFlags::NOEXEC;
    if rustix::fs::fstatvfs(directory)?.f_flag.contains(StatVfsMountFlags::RDONLY) {
        flags |= MountFlags::RDONLY;
    }
    restrict(&served, flags)?;
    let programs = Path::new(NEW).join(PROGRAM);
    fs::create_dir(&programs)?;
    in_memory(&programs, inert)?;
    for (name, file) in &program.files {
        let place = programs.join(name);
        File::create(&place)?;
        mount_bind(file, &place).map_err(failed("cannot mount a file of rsync's"))?;
        restrict(&place, inert | MountFlags::RDONLY)?;
    }
    restrict(&programs, inert | MountFlags::RDONLY)?;
    restrict(Path::new(NEW), inert | MountFlags::NOEXEC | MountFlags::RDONLY)
}

/// Makes it the root of this process. The working directory has the program's files; no path leads
/// there, once it is left.
pub(super) fn enter() -> io::Result<()> {
    std::env::set_current_dir(NEW)?;
    // The old root comes to lie over the new one, pivot_root(2).
    pivot_root(".", ".").map_err(failed("cannot enter the root of rsync"))?;
    unmount(".", UnmountFlags::DETACH).map_err(failed("cannot leave the host's files"))?;
    let programs = Path::new("/").join(PROGRAM);
    std::env::set_current_dir(&programs)?;
    // Covers it for all who come by its name.
    let inert = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    in_memory(&programs, inert | MountFlags::RDONLY)
}

fn in_memory(place: &Path, flags: MountFlags) -> io::Result<()> {
    let options = std::ffi::CString::new(SMALL)?;
    mount("waltgate", place, "tmpfs", flags, options.as_c_str())
        .map_err(failed("cannot mount a file system in memory"))
}

/// Sets the flags of one mount.
fn restrict(place: &Path, flags: MountFlags) -> io::Result<()> {
    mount_remount(place, MountFlags::BIND | flags, "").map_err(failed("cannot restrict a mount"))
}
