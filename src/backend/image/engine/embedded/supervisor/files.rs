//! The files of a container: an overlay in the supervisor's own mount namespace, which ends with
//! the last process in it and takes all mounts with it.

use std::fs::{self, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};

use nix::sched::{CloneFlags, unshare};
use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_change, unmount,
};

use super::super::record::{Directory, Record};
use super::host_mounts;
use super::spec::ETC_FILES;

/// Directories that something is mounted on in every container.
const MOUNT_POINTS: [&str; 4] = ["proc", "sys", "dev", "etc"];

/// Where the parts of a mounted container are.
pub(super) struct Files {
    /// Its root directory.
    pub(super) rootfs: PathBuf,
    /// In memory: what the runtime keeps, and files of the container's own.
    pub(super) run: PathBuf,
}

/// Mounts the files of a container.
pub(super) fn mount_files(directory: &Directory, record: &Record) -> io::Result<Files> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    // What is unmounted on the host is not kept mounted here; nothing goes the other way.
    mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)?;
    let mut needed = record.layers.clone();
    needed.push(directory.path().to_owned());
    needed.extend(record.read_only_binds.iter().map(|(source, _)| source.clone()));
    host_mounts::leave(&needed)?;
    let run = directory.path().join("run");
    mount("tmpfs", &run, "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, c"mode=700,size=16m")?;
    let rootfs = directory.path().join("merged");
    like_the_images_root(directory, record)?;
    // One page holds all options of mount(2), so the directories get short names.
    let names = run.join("overlay");
    fs::create_dir(&names)?;
    for (number, layer) in record.layers.iter().rev().enumerate() {
        symlink(layer, names.join(number.to_string()))?;
    }
    for (name, target) in [("u", "upper"), ("w", "work"), ("i", "init"), ("j", "init-work")] {
        symlink(directory.path().join(target), names.join(name))?;
    }
    std::env::set_current_dir(&names)?;
    let image = (0..record.layers.len()).map(|number| number.to_string()).collect::<Vec<_>>();
    let image = image.join(":");
    overlay(&rootfs, &format!("lowerdir={image},upperdir=i,workdir=j"))?;
    let made = make_mount_points(&rootfs);
    unmount(&rootfs, UnmountFlags::empty())?;
    made?;
    overlay(&rootfs, &format!("lowerdir=i:{image},upperdir=u,workdir=w"))?;
    std::env::set_current_dir("/")?;
    Ok(Files { rootfs, run })
}

fn overlay(target: &Path, options: &str) -> io::Result<()> {
    // Without what ties an upper directory to the layers it was made on: it becomes a layer itself.
    let options = format!("{options},redirect_dir=off,metacopy=off,index=off");
    let options = std::ffi::CString::new(options)?;
    Ok(mount("overlay", target, "overlay", MountFlags::NODEV, options.as_c_str())?)
}

/// The root directory of an overlay is the upper one's.
fn like_the_images_root(directory: &Directory, record: &Record) -> io::Result<()> {
    let Some(top) = record.layers.last() else {
        return Err(io::Error::new(ErrorKind::InvalidData, "an image without layers"));
    };
    let root = fs::metadata(top)?;
    for name in ["upper", "init"] {
        let own = directory.path().join(name);
        chown(&own, Some(root.uid()), Some(root.gid()))?;
        fs::set_permissions(&own, Permissions::from_mode(root.mode() & 0o7777))?;
    }
    Ok(())
}

/// Makes what the runtime mounts on, where the image lacks it: below the container's own files,
/// so that none of it is seen as a change or saved.
fn make_mount_points(rootfs: &Path) -> io::Result<()> {
    for name in MOUNT_POINTS {
        match fs::symlink_metadata(rootfs.join(name)) {
            Ok(found) if found.is_dir() => {}
            Ok(_) => {
                fs::remove_file(rootfs.join(name))?;
                fs::create_dir(rootfs.join(name))?;
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {
                fs::create_dir(rootfs.join(name))?;
            }
            Err(error) => return Err(error),
        }
    }
    let etc = rootfs.join("etc");
    for name in ETC_FILES {
        let file = etc.join(name);
        // A link, say to what systemd-resolved keeps, would be followed to somewhere else.
        if !fs::symlink_metadata(&file).is_ok_and(|found| found.is_file()) {
            match fs::remove_file(&file) {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            fs::File::create_new(&file)?;
        }
    }
    Ok(())
}

/// Writes the container's own files of /etc.
pub(super) fn write_etc(directory: &Path, record: &Record, resolver: &str) -> io::Result<()> {
    fs::create_dir_all(directory)?;
    let write = |name: &str, text: &str| {
        let path = directory.join(name);
        fs::write(&path, text)?;
        // They are root's in the container, and everybody reads them.
        fs::set_permissions(path, Permissions::from_mode(0o644))
    };
    write("hostname", &format!("{}\n", record.hostname))?;
    write(
        "hosts",
        &format!(
            "127.0.0.1\tlocalhost\n127.0.1.1\t{}\n::1\tlocalhost ip6-localhost ip6-loopback\n",
            record.hostname
        ),
    )?;
    write("resolv.conf", resolver)
}
