//! Which system calls the programs of a container may make: a filter of seccomp(2).
//!
//! Root in a container has lost the capabilities that most of the dangerous calls need. The filter
//! is for what is left: calls that reach code of the kernel that a container has no use for, calls
//! that need no capability but see beyond the container (keyrings, performance counters), and new
//! namespaces, in which a program would get all capabilities back and with them the rest of the
//! kernel. What Docker documents as blocked by default is blocked, for the same reasons.
//!
//! What is not known is not there: a call in neither list answers ENOSYS, as on a kernel without
//! it, and a C library that is newer than this list does the same with older calls. A call that is
//! refused answers EPERM. `clone3` is in neither list: its flags are in memory, where no filter
//! can look, and all C libraries fall back to `clone`.

use std::io;

use libcontainer::oci_spec::OciSpecError;
use libcontainer::oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompArgBuilder,
    LinuxSeccompBuilder, LinuxSeccompOperator, LinuxSyscall, LinuxSyscallBuilder,
};
use libcontainer::seccomp::initialize_seccomp;
use rustix::thread::{CapabilitySet, capabilities, set_capabilities};

use crate::error_chain::chain;

/// errno(3)
const EPERM: u32 = 1;
const ENOSYS: u32 = 38;
const EAFNOSUPPORT: u32 = 97;

/// Calls of x86 and ARM that may be made with any arguments.
const ALLOWED: &str = "\
    _llseek _newselect accept accept4 access adjtimex alarm arch_prctl arm_fadvise64_64 \
    arm_sync_file_range bind brk cacheflush cachestat capget capset chdir chmod chown chown32 \
    chroot clock_getres clock_getres_time64 clock_gettime clock_gettime64 clock_nanosleep \
    clock_nanosleep_time64 close close_range connect copy_file_range creat dup dup2 dup3 \
    epoll_create epoll_create1 epoll_ctl epoll_pwait epoll_pwait2 epoll_wait eventfd eventfd2 \
    execve execveat exit exit_group faccessat faccessat2 fadvise64 fadvise64_64 fallocate \
    fanotify_mark fchdir fchmod fchmodat fchmodat2 fchown fchown32 fchownat fcntl fcntl64 \
    fdatasync fgetxattr flistxattr flock fork fremovexattr fsetxattr fstat fstat64 fstatat64 \
    fstatfs fstatfs64 fsync ftruncate ftruncate64 futex futex_requeue futex_time64 futex_wait \
    futex_waitv futex_wake futimesat get_robust_list get_thread_area get_tls getcpu getcwd \
    getdents getdents64 getegid getegid32 geteuid geteuid32 getgid getgid32 getgroups getgroups32 \
    getitimer getpeername getpgid getpgrp getpid getppid getpriority getrandom getresgid \
    getresgid32 getresuid getresuid32 getrlimit getrusage getsid getsockname getsockopt gettid \
    gettimeofday getuid getuid32 getxattr getxattrat inotify_add_watch inotify_init inotify_init1 \
    inotify_rm_watch io_cancel io_destroy io_getevents io_pgetevents io_pgetevents_time64 io_setup \
    io_submit ioctl ioprio_get ioprio_set ipc kill landlock_add_rule landlock_create_ruleset \
    landlock_restrict_self lchown lchown32 lgetxattr link linkat listen listxattr listxattrat \
    llistxattr lremovexattr lseek lsetxattr lstat lstat64 madvise map_shadow_stack membarrier \
    memfd_create memfd_secret mincore mkdir mkdirat mknod mknodat mlock mlock2 mlockall mmap mmap2 \
    modify_ldt mprotect mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedreceive_time64 \
    mq_timedsend mq_timedsend_time64 mq_unlink mremap mseal msgctl msgget msgrcv msgsnd msync \
    munlock munlockall munmap name_to_handle_at nanosleep newfstatat nice open openat openat2 \
    pause pidfd_open pidfd_send_signal pipe pipe2 pkey_alloc pkey_free pkey_mprotect poll ppoll \
    ppoll_time64 prctl pread64 preadv preadv2 prlimit64 process_madvise process_mrelease \
    process_vm_readv process_vm_writev pselect6 pselect6_time64 ptrace pwrite64 pwritev pwritev2 \
    read readahead readdir readlink readlinkat readv recv recvfrom recvmmsg recvmmsg_time64 \
    recvmsg remap_file_pages removexattr removexattrat rename renameat renameat2 restart_syscall \
    riscv_flush_icache riscv_hwprobe rmdir rseq rt_sigaction rt_sigpending rt_sigprocmask \
    rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait rt_sigtimedwait_time64 \
    rt_tgsigqueueinfo sched_get_priority_max sched_get_priority_min sched_getaffinity \
    sched_getattr sched_getparam sched_getscheduler sched_rr_get_interval \
    sched_rr_get_interval_time64 sched_setaffinity sched_setattr sched_setparam sched_setscheduler \
    sched_yield seccomp select semctl semget semop semtimedop semtimedop_time64 send sendfile \
    sendfile64 sendmmsg sendmsg sendto set_robust_list set_thread_area set_tid_address set_tls \
    setdomainname setfsgid setfsgid32 setfsuid setfsuid32 setgid setgid32 setgroups setgroups32 \
    sethostname setitimer setpgid setpriority setregid setregid32 setresgid setresgid32 setresuid \
    setresuid32 setreuid setreuid32 setrlimit setsid setsockopt setuid setuid32 setxattr \
    setxattrat shmat shmctl shmdt shmget shutdown sigaction sigaltstack signal signalfd signalfd4 \
    sigpending sigprocmask sigreturn sigsuspend socketcall socketpair splice stat stat64 statfs \
    statfs64 statx symlink symlinkat sync sync_file_range sync_file_range2 syncfs sysinfo tee \
    tgkill time timer_create timer_delete timer_getoverrun timer_gettime timer_gettime64 \
    timer_settime timer_settime64 timerfd_create timerfd_gettime timerfd_gettime64 timerfd_settime \
    timerfd_settime64 times tkill truncate truncate64 ugetrlimit umask uname unlink unlinkat utime \
    utimensat utimensat_time64 utimes vfork vhangup vmsplice wait4 waitid waitpid write writev";

/// Calls that are refused, with what they would open.
const REFUSED: [&str; 12] = [
    // What the whole kernel runs: its modules, programs of its own, the next kernel, its end.
    "bpf create_module delete_module finit_module init_module get_kernel_syms query_module \
     kexec_file_load kexec_load reboot",
    // Its clocks, which no namespace has for itself.
    "clock_adjtime clock_adjtime64 clock_settime clock_settime64 settimeofday stime",
    // Its keyrings, which know no namespaces.
    "add_key keyctl request_key",
    // Its log, its accounting, its counters; they tell of other containers and of the host.
    "acct lookup_dcookie perf_event_open syslog",
    // Mounts, quotas and swap, and files by numbers that pass by the container's root directory.
    "fsconfig fsmount fsopen fspick mount mount_setattr move_mount open_by_handle_at open_tree \
     pivot_root quotactl quotactl_fd swapoff swapon umount umount2",
    // Namespaces: new ones and other ones.
    "setns unshare",
    // Watching all files of a mount.
    "fanotify_init",
    // Another process's files and kernel objects.
    "kcmp pidfd_getfd",
    // Memory of chosen nodes, which limits of memory do not count.
    "get_mempolicy mbind migrate_pages move_pages set_mempolicy set_mempolicy_home_node",
    // Where many holes of the kernel were: its own queue of calls that no filter sees, and pages
    // that wait for a program.
    "io_uring_enter io_uring_register io_uring_setup userfaultfd",
    // Ports of the hardware.
    "ioperm iopl",
    // Of old, and used by nothing.
    "_sysctl nfsservctl sysfs uselib ustat vm86 vm86old",
];

/// Flags of `clone` that make namespaces.
const NEW_NAMESPACES: [u64; 7] = [
    0x0002_0000, // CLONE_NEWNS
    0x0200_0000, // CLONE_NEWCGROUP
    0x0400_0000, // CLONE_NEWUTS
    0x0800_0000, // CLONE_NEWIPC
    0x1000_0000, // CLONE_NEWUSER
    0x2000_0000, // CLONE_NEWPID
    0x4000_0000, // CLONE_NEWNET
];

/// What `personality` may set: Linux with 64 or 32 bits, each with or without the version number
/// of old, and nothing, which asks. Other ones are those of other systems.
const PERSONALITIES: [u64; 5] = [0x0, 0x8, 0x2_0000, 0x2_0008, 0xffff_ffff];

/// Sockets to the hypervisor's side of a virtual machine, vsock(7), which no namespace keeps in.
const AF_VSOCK: u64 = 40;

/// What it takes to set up a filter that leaves set-user-ID programs their effect (without
/// no_new_privs), seccomp(2).
pub(super) const CAPABILITY: Option<&str> = Some("CAP_SYS_ADMIN");

/// Sets up the filter for this process and all that it becomes, and gives up [`CAPABILITY`].
pub(super) fn confine() -> io::Result<()> {
    let filter = filter().map_err(io::Error::other)?;
    initialize_seccomp(&filter).map_err(|error| io::Error::other(chain(&error)))?;
    let mut held = capabilities(None)?;
    for set in [&mut held.effective, &mut held.permitted] {
        set.remove(CapabilitySet::SYS_ADMIN);
    }
    Ok(set_capabilities(None, held)?)
}

/// The filter of every program in every container.
fn filter() -> Result<LinuxSeccomp, OciSpecError> {
    let mut calls =
        vec![call(ALLOWED.split_whitespace(), LinuxSeccompAction::ScmpActAllow).build()?];
    for refused in REFUSED {
        calls.push(refusal(refused.split_whitespace(), EPERM).build()?);
    }
    let all = NEW_NAMESPACES.iter().sum();
    calls.push(allowed_if("clone", masked(all, 0)?)?);
    for flag in NEW_NAMESPACES {
        calls.push(refusal(["clone"], EPERM).args([masked(flag, flag)?]).build()?);
    }
    for value in PERSONALITIES {
        calls.push(allowed_if("personality", argument(value, LinuxSeccompOperator::ScmpCmpEq)?)?);
    }
    calls.push(allowed_if("socket", argument(AF_VSOCK, LinuxSeccompOperator::ScmpCmpNe)?)?);
    let vsock = argument(AF_VSOCK, LinuxSeccompOperator::ScmpCmpEq)?;
    calls.push(refusal(["socket"], EAFNOSUPPORT).args([vsock]).build()?);
    LinuxSeccompBuilder::default()
        .default_action(LinuxSeccompAction::ScmpActErrno)
        .default_errno_ret(ENOSYS)
        .architectures(architectures())
        .syscalls(calls)
        .build()
}

/// The kernel runs programs of these. A program of another one that it ran nevertheless would be
/// killed at its first call; that of x32 is one, which Debian's kernels do not run.
fn architectures() -> Vec<Arch> {
    match std::env::consts::ARCH {
        "x86_64" => vec![Arch::ScmpArchX86_64, Arch::ScmpArchX86],
        "aarch64" => vec![Arch::ScmpArchAarch64, Arch::ScmpArchArm],
        _ => vec![Arch::ScmpArchNative],
    }
}

fn call<'a>(
    names: impl IntoIterator<Item = &'a str>,
    action: LinuxSeccompAction,
) -> LinuxSyscallBuilder {
    let names: Vec<_> = names.into_iter().map(str::to_owned).collect();
    LinuxSyscallBuilder::default().names(names).action(action)
}

fn refusal<'a>(names: impl IntoIterator<Item = &'a str>, error: u32) -> LinuxSyscallBuilder {
    call(names, LinuxSeccompAction::ScmpActErrno).errno_ret(error)
}

fn allowed_if(name: &str, condition: LinuxSeccompArg) -> Result<LinuxSyscall, OciSpecError> {
    call([name], LinuxSeccompAction::ScmpActAllow).args([condition]).build()
}

/// Of the first argument.
fn argument(value: u64, operator: LinuxSeccompOperator) -> Result<LinuxSeccompArg, OciSpecError> {
    LinuxSeccompArgBuilder::default().index(0_usize).value(value).op(operator).build()
}

/// The bits of a mask in the first argument.
fn masked(mask: u64, bits: u64) -> Result<LinuxSeccompArg, OciSpecError> {
    // libcontainer has the two the other way round than the specification. Should that change, no
    // `clone` is allowed any more, and no container starts.
    LinuxSeccompArgBuilder::default()
        .index(0_usize)
        .value(bits)
        .value_two(mask)
        .op(LinuxSeccompOperator::ScmpCmpMaskedEq)
        .build()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_call_is_in_two_lists() {
        let refused = REFUSED.iter().flat_map(|list| list.split_whitespace());
        let mut seen = BTreeSet::from(["clone", "clone3", "personality", "socket"]);
        for name in ALLOWED.split_whitespace().chain(refused) {
            assert!(seen.insert(name), "{name}");
        }
    }
}
