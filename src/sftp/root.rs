//! The directory beneath which all paths are resolved.

use std::borrow::Cow;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{AtFlags, Gid, Mode, OFlags, RenameFlags, ResolveFlags, Uid};
use rustix::io::Errno;

use super::access::{self, Access, Links, Located};
use super::accounts::Accounts;
use super::error::FileError;
use super::real_path::{Place, names};
use super::room::{self, Room};

/// As many symbolic links as the kernel follows in one path, path_resolution(7).
pub(super) const MOST_LINKS: usize = 40;
/// How often a path is tried again that somebody renames meanwhile.
const ATTEMPTS: usize = 64;

/// A directory that is `/`, or what is mounted there, for all that is done through it. The kernel
/// resolves every path beneath it (RESOLVE_IN_ROOT and RESOLVE_BENEATH of openat2(2)): no `..`, link
/// or race leads out of it. Blocks.
pub struct Root {
    directory: OwnedFd,
    home: Vec<u8>,
    /// The name in `/` at which it is mounted. What leads out of it is somebody else's: EXDEV.
    mounted_at: Option<&'static [u8]>,
    owner: Option<Owner>,
    /// How paths are resolved, besides beneath the directory.
    resolve: ResolveFlags,
    /// What may be written; `None`: as much as there is on the disk.
    room: Option<Arc<Room>>,
}

/// Numbers of a user and a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// The user's.
    pub uid: u32,
    /// The group's.
    pub gid: u32,
}

impl Root {
    /// Opens a directory of the host. `home` is where relative paths start, an absolute path
    /// beneath it.
    ///
    /// # Errors
    /// That the directory cannot be opened.
    pub fn open(path: &Path, home: &[u8]) -> std::io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::open(path, flags, Mode::empty())?;
        let resolve = ResolveFlags::empty();
        let home = home.to_owned();
        Ok(Self { directory, home, mounted_at: None, owner: None, resolve, room: None })
    }

    /// A directory that is open already, as the directory `name` of `/`. What is made in it belongs
    /// to `owner` for good, if there is one, as if exported over NFS with `all_squash`; and else to
    /// this process.
    pub fn mounted(directory: OwnedFd, name: &'static [u8], owner: Option<Owner>) -> Self {
        let resolve = ResolveFlags::empty();
        let home = b"/".to_vec();
        Self { directory, home, mounted_at: Some(name), owner, resolve, room: None }
    }

    /// The same, for what is on its own file system and which the kernel can resolve without
    /// waiting for the disk: all else fails with EAGAIN or EXDEV.
    pub(super) fn in_memory(&self) -> std::io::Result<Self> {
        Ok(Self {
            directory: self.directory.try_clone()?,
            home: self.home.clone(),
            mounted_at: self.mounted_at,
            owner: self.owner,
            resolve: ResolveFlags::CACHED | ResolveFlags::NO_XDEV,
            room: self.room.clone(),
        })
    }

    /// The same, in which no more can be written than there is room.
    pub fn with_room(self, room: Option<Arc<Room>>) -> Self {
        Self { room, ..self }
    }

    /// Takes the room for a file that is to reach to `end`.
    pub(super) fn extend(&self, file: &File, end: u64) -> Result<(), Errno> {
        room::extend(self.room.as_deref(), file, end)
    }

    /// The directory itself.
    pub(super) fn top(&self) -> Result<OwnedFd, FileError> {
        self.open_beneath(b".", OFlags::PATH)
    }

    pub(super) fn mounted_at(&self) -> Option<&'static [u8]> {
        self.mounted_at
    }

    /// Whether files may be given to somebody.
    pub(super) fn allow_owner(&self, uid: u32, gid: u32) -> Result<(), FileError> {
        match self.owner {
            Some(owner) if owner != (Owner { uid, gid }) => Err(Errno::PERM.into()),
            _ => Ok(()),
        }
    }

    /// Makes what was just made belong to whom it should.
    fn settle_owner(&self, made: impl AsFd) -> Result<(), FileError> {
        let Some(Owner { uid, gid }) = self.owner else { return Ok(()) };
        let (uid, gid) = (Uid::from_raw_unchecked(uid), Gid::from_raw_unchecked(gid));
        Ok(rustix::fs::chownat(made, "", Some(uid), Some(gid), AtFlags::EMPTY_PATH)?)
    }

    /// Starts relative paths in the home that the root's own list of users tells, if there is one.
    pub fn at_home_of(mut self, user: &str) -> Self {
        let accounts = Accounts::read(&self);
        if let Some(home) = accounts.home(user).filter(|home| home.starts_with(b"/"))
            && self
                .locate(home, Links::Follow)
                .and_then(|file| file.kind())
                .is_ok_and(|kind| kind.is_dir())
        {
            self.home = home.to_owned();
        }
        self
    }

    /// The content of a regular file, cut off after `limit` bytes.
    ///
    /// # Errors
    /// There is none, or it cannot be read.
    pub fn read_file(&self, path: &[u8], limit: u64) -> std::io::Result<Vec<u8>> {
        let mut content = Vec::new();
        self.open_file(path, Access::READ, 0)?.take(limit).read_to_end(&mut content)?;
        Ok(content)
    }

    /// Whether a path leads to a file that somebody may execute.
    pub fn has_program(&self, path: &[u8]) -> bool {
        self.locate(path, Links::Follow)
            .and_then(|file| file.stat())
            .is_ok_and(|stat| access::kind(&stat).is_file() && stat.st_mode & 0o111 != 0)
    }

    /// Whether a path leads to a directory, and the mode of what is there; `None`: nothing.
    ///
    /// # Errors
    /// That the path cannot be followed.
    pub fn mode(&self, path: &[u8]) -> std::io::Result<Option<(bool, u32)>> {
        let stat = self.locate(path, Links::Follow).and_then(|file| file.stat());
        match stat {
            Ok(stat) => Ok(Some((access::kind(&stat).is_dir(), stat.st_mode))),
            Err(error) if error.leads_nowhere() => Ok(None),
            Err(error) => Err(std::io::Error::other(error)),
        }
    }

    /// The content of a regular file, refused past `limit` bytes.
    ///
    /// # Errors
    /// That there is no such file, or that it cannot be read.
    pub fn content(&self, path: &[u8], limit: usize) -> std::io::Result<Vec<u8>> {
        let located = self.locate(path, Links::Follow).map_err(|error| {
            if error.leads_nowhere() {
                return std::io::ErrorKind::NotFound.into();
            }
            std::io::Error::other(error)
        })?;
        let file = located.open(Access::READ).map_err(std::io::Error::other)?;
        let mut content = Vec::new();
        let most = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
        file.take(most).read_to_end(&mut content)?;
        if content.len() > limit {
            return Err(std::io::Error::other(format!("larger than {limit} bytes")));
        }
        Ok(content)
    }

    pub(super) fn home(&self) -> &[u8] {
        &self.home
    }

    /// The path from the root; what is relative starts at home.
    pub(super) fn absolute<'a>(&self, path: &'a [u8]) -> Cow<'a, [u8]> {
        if path.starts_with(b"/") {
            return Cow::Borrowed(path);
        }
        Cow::Owned([self.home.as_slice(), b"/", path].concat())
    }

    /// Finds a file of any kind without opening it.
    pub(super) fn locate(&self, path: &[u8], links: Links) -> Result<Located, FileError> {
        let flags = match links {
            Links::Follow => OFlags::PATH,
            Links::Keep => OFlags::PATH | OFlags::NOFOLLOW,
        };
        Ok(Located::new(self.resolve(&self.absolute(path), flags)?))
    }

    /// Opens a regular file; a new one gets `mode` less the usual umask.
    pub(super) fn open_file(
        &self,
        path: &[u8],
        access: Access,
        mode: u32,
    ) -> Result<File, FileError> {
        if !access.create {
            return self.locate(path, Links::Follow)?.open(access);
        }
        let mut path = self.absolute(path).into_owned();
        for _ in 0..MOST_LINKS {
            if !access.exclusive {
                match self.locate(&path, Links::Follow) {
                    Ok(file) => return file.open(access),
                    Err(error) if error.is_not_found() => {}
                    Err(error) => return Err(error),
                }
            }
            match self.create_file(&path, access, mode) {
                Err(FileError::System(Errno::EXIST)) if !access.exclusive => {}
                result => return result,
            }
            // Somebody else made it just now, or it is a link to a file that is yet to be made.
            if let Ok(target) = self.locate(&path, Links::Keep).and_then(|link| link.link_target())
            {
                path = if target.starts_with(b"/") {
                    target
                } else {
                    [split(&path).0, b"/", &target].concat()
                };
            }
        }
        Err(Errno::LOOP.into())
    }

    /// Makes a file that is not there.
    pub(super) fn create_file(
        &self,
        path: &[u8],
        access: Access,
        mode: u32,
    ) -> Result<File, FileError> {
        let (directory, name) = self.parent(path)?;
        // With O_EXCL no link is followed, and nothing that exists is opened.
        let flags = access.flags() | OFlags::CREATE | OFlags::EXCL;
        let mode_at_birth = Mode::from_raw_mode(access::masked(mode) & 0o777);
        let file = rustix::fs::openat(&directory, name, flags, mode_at_birth)?;
        self.settle_owner(&file)?;
        access::settle_mode(&file, mode)?;
        Ok(file.into())
    }

    /// Makes a directory of `mode` less the usual umask.
    pub(super) fn make_directory(&self, path: &[u8], mode: u32) -> Result<(), FileError> {
        if self.names_a_directory(path) {
            self.locate(path, Links::Follow)?;
            return Err(Errno::EXIST.into());
        }
        let (directory, name) = self.parent(path)?;
        let mode_at_birth = Mode::from_raw_mode(access::masked(mode) & 0o777);
        rustix::fs::mkdirat(&directory, name, mode_at_birth)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let made = rustix::fs::openat(&directory, name, flags, Mode::empty())?;
        self.settle_owner(&made)?;
        access::settle_mode(made, mode)
    }

    pub(super) fn remove_file(&self, path: &[u8]) -> Result<(), FileError> {
        let (directory, name) = self.parent(path)?;
        Ok(rustix::fs::unlinkat(directory, name, AtFlags::empty())?)
    }

    pub(super) fn remove_directory(&self, path: &[u8]) -> Result<(), FileError> {
        let (directory, name) = self.parent(path)?;
        Ok(rustix::fs::unlinkat(directory, name, AtFlags::REMOVEDIR)?)
    }

    /// Renames; what is there already is replaced only if asked.
    pub(super) fn rename(&self, from: &[u8], to: &[u8], replace: bool) -> Result<(), FileError> {
        let (from_directory, from_name) = self.parent(from)?;
        let (to_directory, to_name) = self.parent(to)?;
        if replace {
            rustix::fs::renameat(from_directory, from_name, to_directory, to_name)?;
            return Ok(());
        }
        let flags = RenameFlags::NOREPLACE;
        match rustix::fs::renameat_with(&from_directory, from_name, &to_directory, to_name, flags) {
            // Not every file system can; the draft asks for no atomicity.
            Err(Errno::INVAL | Errno::NOSYS) => {
                match rustix::fs::statat(&to_directory, to_name, AtFlags::SYMLINK_NOFOLLOW) {
                    Err(Errno::NOENT) => {}
                    Err(error) => return Err(error.into()),
                    Ok(_) => return Err(Errno::EXIST.into()),
                }
                Ok(rustix::fs::renameat(from_directory, from_name, to_directory, to_name)?)
            }
            renamed => Ok(renamed?),
        }
    }

    pub(super) fn hard_link(&self, from: &[u8], to: &[u8]) -> Result<(), FileError> {
        let (from_directory, from_name) = self.parent(from)?;
        let (to_directory, to_name) = self.parent(to)?;
        let flags = AtFlags::empty();
        Ok(rustix::fs::linkat(from_directory, from_name, to_directory, to_name, flags)?)
    }

    /// Makes a symbolic link; `target` is any text.
    pub(super) fn symbolic_link(&self, target: &[u8], path: &[u8]) -> Result<(), FileError> {
        let (directory, name) = self.parent(path)?;
        rustix::fs::symlinkat(target, &directory, name)?;
        if self.owner.is_some() {
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            self.settle_owner(rustix::fs::openat(&directory, name, flags, Mode::empty())?)?;
        }
        Ok(())
    }

    /// The directory that a path's last name is in, and that name.
    pub(super) fn parent<'a>(&self, path: &'a [u8]) -> Result<(OwnedFd, &'a [u8]), FileError> {
        if path.is_empty() {
            return Err(Errno::NOENT.into());
        }
        if self.names_a_directory(path) || self.is_the_mount(path) {
            return Err(Errno::BUSY.into());
        }
        let (directory, name) = split(path);
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let directory = self.resolve(&self.absolute(directory), flags)?;
        access::refuse_the_kernels(&directory)?;
        Ok((directory, name))
    }

    /// Whether a path ends in no name of its own but in `/`, `.` or `..`.
    fn names_a_directory(&self, path: &[u8]) -> bool {
        matches!(split(path).1, b"" | b"." | b"..")
    }

    /// Whether a path is that of the root itself, mounted.
    fn is_the_mount(&self, path: &[u8]) -> bool {
        self.mounted_at.is_some_and(|name| below(&self.absolute(path), name) == Some(b"."))
    }

    fn resolve(&self, path: &[u8], flags: OFlags) -> Result<OwnedFd, FileError> {
        match self.resolve_directly(path, flags) {
            // A link may name a path as it is seen from outside.
            Err(FileError::System(Errno::XDEV)) if self.mounted_at.is_some() => {
                let keep = flags.contains(OFlags::NOFOLLOW);
                match self.place(path, if keep { Links::Keep } else { Links::Follow })? {
                    Place::Here(path) => self.resolve_directly(&path, flags),
                    Place::Elsewhere(_) => Err(Errno::XDEV.into()),
                }
            }
            resolved => resolved,
        }
    }

    /// Resolves without looking at links that name paths as they are seen from outside.
    pub(super) fn resolve_directly(
        &self,
        path: &[u8],
        flags: OFlags,
    ) -> Result<OwnedFd, FileError> {
        match self.mounted_at {
            Some(name) => self.open_beneath(below(path, name).ok_or(Errno::XDEV)?, flags),
            // Not needed by the kernel, but a path that begins at the root of the host does not occur.
            None => self.open_beneath(from_here(path), flags),
        }
    }

    fn open_beneath(&self, path: &[u8], flags: OFlags) -> Result<OwnedFd, FileError> {
        let confined = match self.mounted_at {
            Some(_) => ResolveFlags::BENEATH,
            None => ResolveFlags::IN_ROOT,
        };
        let resolve = confined | self.resolve | ResolveFlags::NO_MAGICLINKS;
        for _ in 0..ATTEMPTS {
            let flags = flags | OFlags::CLOEXEC;
            match rustix::fs::openat2(self.directory.as_fd(), path, flags, Mode::empty(), resolve) {
                // Something was renamed while `..` was resolved, openat2(2).
                Err(Errno::AGAIN) if !resolve.contains(ResolveFlags::CACHED) => {}
                Err(Errno::INTR) => {}
                opened => return Ok(opened?),
            }
        }
        Err(FileError::Unstable)
    }
}

/// An absolute path, as one from the directory that is its root.
fn from_here(path: &[u8]) -> &[u8] {
    let start = path.iter().position(|byte| *byte != b'/').unwrap_or(path.len());
    if start == path.len() { b"." } else { &path[start..] }
}

/// The rest of an absolute path whose first name is `name`, as one from there.
pub(super) fn below<'a>(path: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let mut rest = from_here(path);
    while let Some(behind) = rest.strip_prefix(b"./") {
        rest = from_here(behind);
    }
    match rest.strip_prefix(name)? {
        [] => Some(b"."),
        behind @ [b'/', ..] => Some(from_here(behind)),
        _ => None,
    }
}

/// Whether a path is one of the directory `name` of `/` or beneath it, by what is written in it.
pub(crate) fn is_within(path: &[u8], name: &[u8]) -> bool {
    path.starts_with(b"/")
        && !names(path).iter().any(|name| name == b"..")
        && below(path, name).is_some()
}

/// The path of the directory, and the last name; slashes behind that are left out.
pub(super) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    let end = path.iter().rposition(|byte| *byte != b'/').map_or(0, |last| last + 1);
    let trimmed = &path[..end];
    match trimmed.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => (&trimmed[..=slash], &trimmed[slash + 1..]),
        None if end == 0 && !path.is_empty() => (b"/", b""),
        None => (b".", trimmed),
    }
}
