// Makes system calls in a container and says how each was answered, a line each.
//
//   probe refused        calls that the filter refuses
//   probe others         calls that it answers otherwise or lets pass
//   probe nobody P...    runs a program as a user without rights
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/timex.h>
#include <sys/wait.h>
#include <unistd.h>

static void tell(const char *name, long result) {
    printf("%s %s\n", name, result == -1 ? strerrorname_np(errno) : "done");
    fflush(stdout);
}

// By number, so that no C library comes in between; each with as many arguments as there are.
#define TRY(name, ...) tell(#name, syscall(SYS_##name, ##__VA_ARGS__, 0, 0, 0, 0, 0, 0))

static void refused(void) {
    // Without a filter none of these ends in EPERM for want of a capability ...
    struct timex nothing;
    memset(&nothing, 0, sizeof nothing);
    TRY(unshare, 0);
    TRY(setns, -1);
    TRY(keyctl, 0, -3);
    TRY(add_key, "user", "waltgate", "x", 1, -2);
    TRY(request_key, "user", "waltgate");
    TRY(perf_event_open);
    TRY(io_uring_setup);
    TRY(userfaultfd, -1);
    TRY(kcmp, getpid(), getpid());
    TRY(pidfd_getfd, -1, -1);
    TRY(get_mempolicy);
    TRY(mbind);
    TRY(move_pages);
    TRY(open_tree, -1, "");
    TRY(fanotify_init, -1);
    TRY(clock_adjtime, 0, &nothing);
    TRY(settimeofday);
    // ... and the others are refused twice.
    TRY(bpf, -1);
    TRY(mount);
    TRY(umount2);
    TRY(pivot_root);
    TRY(open_by_handle_at, -1);
    TRY(init_module);
    TRY(delete_module, "waltgate");
    TRY(kexec_load);
    TRY(reboot);
    TRY(syslog, 10);
    TRY(swapon);
    TRY(acct, "/nowhere");
    // SIGCHLD alone is how fork(2) is made.
    long flags[] = {CLONE_NEWUSER, CLONE_NEWNS, CLONE_NEWPID, CLONE_NEWNET, CLONE_NEWUSER | CLONE_NEWNET};
    for (unsigned number = 0; number < sizeof flags / sizeof *flags; number++) {
        long made = syscall(SYS_clone, flags[number] | SIGCHLD, 0, 0, 0, 0);
        if (made == 0)
            _exit(0);
        tell("clone", made);
    }
#ifdef __x86_64__
    // The same kernel through the door of 32-bit programs: unshare(0).
    int answer;
    __asm__ volatile("int $0x80" : "=a"(answer) : "a"(310), "b"(0) : "memory", "r8", "r9", "r10", "r11");
    errno = -answer;
    tell("unshare32", answer < 0 ? -1 : 0);
#endif
}

static void *thread(void *nothing) {
    return nothing;
}

static void others(void) {
    TRY(clone3);
    tell("unheard-of", syscall(4000));
    tell("vsock", syscall(SYS_socket, 40, 1, 0));
    tell("bsd", syscall(SYS_personality, 6));
    tell("personality", syscall(SYS_personality, 0xffffffff));
    tell("inet", syscall(SYS_socket, 2, 1, 0));
    TRY(memfd_create, "waltgate");
    TRY(chroot, "/");
    pthread_t made;
    errno = pthread_create(&made, NULL, thread, NULL);
    tell("thread", errno ? -1 : pthread_join(made, NULL));
    int status;
    pid_t child = fork();
    if (child == 0)
        _exit(ptrace(PTRACE_TRACEME, 0, 0, 0) ? 1 : 0);
    tell("fork", waitpid(child, &status, 0));
    printf("ptrace %d\n", status);
#ifdef __x86_64__
    child = fork();
    if (child == 0) {
        // getpid() of x32, where that is another architecture.
        syscall(0x40000000 | SYS_getpid);
        _exit(0);
    }
    waitpid(child, &status, 0);
    printf("x32 %s\n", WIFSIGNALED(status) ? sigabbrev_np(WTERMSIG(status)) : "done");
#endif
}

int main(int count, char **arguments) {
    if (count > 2 && !strcmp(arguments[1], "nobody")) {
        if (setgid(99) || setuid(99))
            return 1;
        execvp(arguments[2], arguments + 2);
        return 2;
    }
    if (count > 1 && !strcmp(arguments[1], "refused"))
        refused();
    else
        others();
    return 0;
}
