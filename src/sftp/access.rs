//! A file that was found, held without being open: looked at, changed, and opened if it is of a
//! kind that may be.

use std::fs::File;

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Stat, StatVfs, Timestamps, Uid};

use super::error::FileError;

/// What a program without special wishes leaves out of the modes of what it makes.
const UMASK: u32 = 0o022;
/// The bits that chmod(2) sets.
pub(super) const MODE_BITS: u32 = 0o7777;

/// File systems that are the kernel itself (linux/magic.h): proc, sysfs, cgroup, cgroup2, debugfs,
/// tracefs, securityfs, bpf, configfs, fusectl, pstore, efivarfs, binfmt_misc, selinuxfs, smackfs,
/// mqueue. What their files do, they do to the caller or to the whole machine.
const OF_THE_KERNEL: [i64; 16] = [
    0x9fa0,
    0x6265_6572,
    0x0027_e0eb,
    0x6367_7270,
    0x6462_6720,
    0x7472_6163,
    0x7363_6673,
    0xcafe_4a11,
    0x6265_6570,
    0x6573_5543,
    0x6165_676c,
    0xde5e_81e4,
    0x4249_4e4d,
    0xf97c_ff8c,
    0x4341_5d53,
    0x1980_0202,
];

/// Whether a final symbolic link is followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Links {
    Follow,
    Keep,
}

/// How a file is to be opened, in the words of open(2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Access {
    pub(super) read: bool,
    pub(super) write: bool,
    pub(super) append: bool,
    pub(super) create: bool,
    pub(super) exclusive: bool,
    pub(super) truncate: bool,
    /// Until somebody elsewhere gives up a lease, fcntl(2); else the failure is EAGAIN.
    pub(super) waits: bool,
}

/// The open flags of section 6.3 of the draft.
mod open_flags {
    pub(super) const READ: u32 = 1;
    pub(super) const WRITE: u32 = 2;
    pub(super) const APPEND: u32 = 4;
    pub(super) const CREATE: u32 = 8;
    pub(super) const TRUNCATE: u32 = 0x10;
    pub(super) const EXCLUSIVE: u32 = 0x20;
}

impl Access {
    pub(super) const READ: Self = Self {
        read: true,
        write: false,
        append: false,
        create: false,
        exclusive: false,
        truncate: false,
        waits: true,
    };
    /// To a file that is there.
    pub(super) const WRITE: Self = Self { read: false, write: true, ..Self::READ };

    /// What a client asks for.
    pub(super) fn asked(flags: u32) -> Self {
        let asks = |flag| flags & flag != 0;
        Self {
            read: asks(open_flags::READ) || !asks(open_flags::WRITE),
            write: asks(open_flags::WRITE),
            append: asks(open_flags::APPEND),
            create: asks(open_flags::CREATE),
            exclusive: asks(open_flags::EXCLUSIVE),
            truncate: asks(open_flags::TRUNCATE),
            waits: true,
        }
    }

    pub(super) fn flags(self) -> OFlags {
        let mut flags = match (self.read, self.write) {
            (true, true) => OFlags::RDWR,
            (false, true) => OFlags::WRONLY,
            (_, false) => OFlags::RDONLY,
        };
        flags.set(OFlags::APPEND, self.append && self.write);
        flags.set(OFlags::TRUNC, self.truncate && self.write);
        flags.set(OFlags::NONBLOCK, !self.waits);
        flags | OFlags::CLOEXEC | OFlags::NOCTTY
    }
}

/// A file of any kind, held by a descriptor that cannot read or write: O_PATH of open(2).
pub(super) struct Located(OwnedFd);

impl Located {
    pub(super) fn new(fd: OwnedFd) -> Self {
        Self(fd)
    }

    pub(super) fn stat(&self) -> Result<Stat, FileError> {
        Ok(rustix::fs::fstat(&self.0)?)
    }

    pub(super) fn kind(&self) -> Result<FileType, FileError> {
        Ok(kind(&self.stat()?))
    }

    pub(super) fn statvfs(&self) -> Result<StatVfs, FileError> {
        Ok(rustix::fs::fstatvfs(&self.0)?)
    }

    pub(super) fn link_target(&self) -> Result<Vec<u8>, FileError> {
        Ok(rustix::fs::readlinkat(&self.0, "", Vec::new())?.into_bytes())
    }

    /// Opens a regular file, this very one.
    pub(super) fn open(&self, access: Access) -> Result<File, FileError> {
        match self.kind()? {
            FileType::RegularFile => {}
            FileType::Directory if !access.write => return Err(FileError::NotRegular),
            FileType::Directory => return Err(rustix::io::Errno::ISDIR.into()),
            _ => return Err(FileError::NotRegular),
        }
        refuse_the_kernels(&self.0)?;
        Ok(rustix::fs::open(self.magic_link(), access.flags(), Mode::empty())?.into())
    }

    /// Opens a directory for its entries.
    pub(super) fn open_directory(&self) -> Result<OwnedFd, FileError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(rustix::fs::openat(&self.0, ".", flags, Mode::empty())?)
    }

    pub(super) fn set_mode(&self, mode: u32) -> Result<(), FileError> {
        refuse_the_kernels(&self.0)?;
        Ok(rustix::fs::chmod(self.magic_link(), Mode::from_raw_mode(mode & MODE_BITS))?)
    }

    pub(super) fn set_owner(&self, uid: u32, gid: u32) -> Result<(), FileError> {
        refuse_the_kernels(&self.0)?;
        let (uid, gid) = (Uid::from_raw_unchecked(uid), Gid::from_raw_unchecked(gid));
        Ok(rustix::fs::chownat(&self.0, "", Some(uid), Some(gid), AtFlags::EMPTY_PATH)?)
    }

    pub(super) fn set_times(&self, times: &Timestamps) -> Result<(), FileError> {
        refuse_the_kernels(&self.0)?;
        Ok(rustix::fs::utimensat(&self.0, "", times, AtFlags::EMPTY_PATH)?)
    }

    /// The one way from such a descriptor to the file itself: proc_pid_fd(5).
    pub(super) fn magic_link(&self) -> String {
        use std::os::fd::AsRawFd;

        format!("/proc/self/fd/{}", self.0.as_raw_fd())
    }
}

impl AsFd for Located {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

pub(super) fn kind(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

/// The mode with which root's programs make what they are asked to make with `mode`.
pub(super) fn masked(mode: u32) -> u32 {
    mode & MODE_BITS & !UMASK
}

/// Gives a file that was just made its mode, whatever the umask of this process is.
pub(super) fn settle_mode(made: impl AsFd, mode: u32) -> Result<(), FileError> {
    let has = rustix::fs::fstat(&made)?.st_mode & MODE_BITS;
    // Directories may inherit this one.
    let wanted = masked(mode) | (has & 0o2000);
    if has != wanted {
        rustix::fs::fchmod(&made, Mode::from_raw_mode(wanted))?;
    }
    Ok(())
}

pub(super) fn refuse_the_kernels(fd: impl AsFd) -> Result<(), FileError> {
    #[allow(clippy::unnecessary_cast, reason = "its size differs between architectures")]
    let file_system = rustix::fs::fstatfs(fd)?.f_type as i64;
    if OF_THE_KERNEL.contains(&file_system) {
        return Err(FileError::OfTheKernel);
    }
    Ok(())
}
