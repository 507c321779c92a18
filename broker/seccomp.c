/* seccomp(2) through libseccomp: the system calls that each of the two processes needs. */
#include "broker/confine.h"

#include "broker/base/diag.h"

#ifdef KQ_HAVE_SECCOMP
#include <sched.h>
#include <seccomp.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <ucontext.h>

#define SAID_MS 1000

/* The lists follow what brokers and helpers were seen to do once they are confined, in the tests of
 * tests/integration: tests/lint/seccomp-trace tells, and compares. The lists that begin with kept_
 * have what was not seen there, and why it is let through all the same. */
static const char *const common[] = {
    /* files, memory, the end */
    "close",    "exit_group", "getpid",  "newfstatat", "openat",
    "readlink", "recvmsg",    "sendmsg", "truncate",
};

static const char *const of_broker[] = {
    /* files below the data directory */
    "access",
    "fallocate",
    "fdatasync",
    "fstatfs",
    "fsync",
    "ftruncate",
    "getdents64",
    "mkdirat",
    "pread64",
    "preadv2",
    "pwrite64",
    "readlinkat",
    "renameat",
    "renameat2",
    "unlink",
    "unlinkat",
    "utimensat",
    /* whether what a Fetch is to send is in memory */
    "cachestat",
    /* threads and memory */
    "brk",
    "exit",
    "futex",
    "gettid",
    "madvise",
    "mremap",
    "munmap",
    "rseq",
    "sched_yield",
    "set_robust_list",
    "sysinfo",
    "tgkill",
    "wait4",
    /* waiting */
    "epoll_ctl",
    "epoll_wait",
    "eventfd2",
    "poll",
    "restart_syscall",
    "rt_sigaction",
    "rt_sigprocmask",
    "rt_sigtimedwait",
    /* the network and the mount */
    "accept4",
    "connect",
    "getpeername",
    "getsockname",
    "getsockopt",
    "listen",
    "read",
    "recvfrom",
    "sendfile",
    "sendto",
    "setsockopt",
    "shutdown",
    "write",
    "writev",
    /* who it is; libraries; the copy of a keytab */
    "fcntl",
    "getegid",
    "geteuid",
    "getgid",
    "getrandom",
    "getuid",
    "lseek",
    "memfd_create",
};

static const char *const of_helper[] = {
    /* what it is there for */
    "mount",
    "openat2",
    "statx",
    "umount2",
};

static const char *const kept_of_broker[] = {
    /* into the background, where seccomp-trace does not follow */
    "chdir",
    "dup2",
    "setsid",
    /* the same by another name: other machines, and versions of libc */
    "accept",
    "dup3",
    "epoll_pwait",
    "faccessat",
    "faccessat2",
    "fstat",
    "lstat",
    "mkdir",
    "open",
    "ppoll",
    "preadv",
    "pselect6",
    "pwritev2",
    "rename",
    "rmdir",
    "stat",
    "statfs",
    "statx",
    /* file systems that cannot do the quicker one; data that are not in memory */
    "pwritev",
    "readahead",
    /* waiting until a disk has room, or who has the directory ends */
    "clock_nanosleep",
    "nanosleep",
    /* the time, where the kernel gives it by system calls only */
    "clock_getres",
    "clock_gettime",
    "gettimeofday",
    "time",
    /* how many processors there are, when many threads want memory */
    "getcpu",
    "sched_getaffinity",
    /* names of users, groups and hosts: glibc, SSSD, nslcd, systemd */
    "bind",
    "getgroups",
    "getppid",
    "getresgid",
    "getresuid",
    "recvmmsg",
    "sendmmsg",
    "socketpair",
    "uname",
    /* Kerberos and OpenSSL */
    "fchmod",
    "getcwd",
    "getrusage",
    "times",
    /* the report of a refused call */
    "rt_sigreturn",
    /* sanitizers, which tests run it with */
    "dup",
    "getrlimit",
    "mincore",
    "pipe",
    "sigaltstack",
};

static const char *const kept_of_helper[] = {
    /* what it says, to stderr or to syslog */
    "connect",
    "fcntl",
    "getegid",
    "geteuid",
    "gettid",
    "getuid",
    "lseek",
    "sendto",
    "write",
    "writev",
    /* memory, libc */
    "brk",
    "futex",
    "getrandom",
    "madvise",
    "mremap",
    "munmap",
    "restart_syscall",
    /* the time, and its zone */
    "clock_getres",
    "clock_gettime",
    "fstat",
    "gettimeofday",
    "lstat",
    "read",
    "stat",
    "time",
    /* a signal that stops it; the report of a refused call; abort(3) */
    "exit",
    "rt_sigaction",
    "rt_sigprocmask",
    "rt_sigreturn",
    "shutdown",
    "tgkill",
    /* the same by another name: other machines, and versions of libc */
    "readlinkat",
    /* sanitizers, which tests run it with */
    "clock_nanosleep",
    "nanosleep",
    "sched_yield",
    "sigaltstack",
};

static int count;

/* Of NAME, which may be newer than the library. */
static int number_of(const char *name)
{
    static const struct {
        const char *name;
        int number;
    } newer[] = {{"cachestat", 451}}; /* the same on every machine */
    for (size_t i = 0; i < kq_array_size(newer); i++)
        if (strcmp(newer[i].name, name) == 0)
            return newer[i].number;
    return seccomp_syscall_resolve_name(name);
}

static int let(scmp_filter_ctx filter, const char *const *names, size_t length)
{
    for (size_t i = 0; i < length; i++) {
        int number = number_of(names[i]);
        if (number == __NR_SCMP_ERROR)
            continue; /* this kind of machine does not have it */
        int r = seccomp_rule_add(filter, SCMP_ACT_ALLOW, number, 0);
        if (r < 0 && r != -EDOM)
            return r;
        count++;
    }
    return 0;
}

/* NAME, where its argument INDEX, of what MASK leaves, is one of VALUES. */
static int let_with(scmp_filter_ctx filter, int number, unsigned index, uint64_t mask,
                    const uint64_t *values, size_t length)
{
    int r = 0;
    for (size_t i = 0; r == 0 && i < length; i++)
        r = seccomp_rule_add(filter, SCMP_ACT_ALLOW, number, 1,
                             SCMP_CMP(index, SCMP_CMP_MASKED_EQ, mask, values[i]));
    count++;
    return r;
}

/* No memory that can be written can be executed. */
static int let_memory(scmp_filter_ctx filter, bool execute)
{
    static const uint64_t values[] = {0, PROT_WRITE, PROT_EXEC};
    size_t length = execute ? 3 : 2;
    int r = let_with(filter, SCMP_SYS(mmap), 2, PROT_WRITE | PROT_EXEC, values, length);
    return r < 0 ? r
                 : let_with(filter, SCMP_SYS(mprotect), 2, PROT_WRITE | PROT_EXEC, values, length);
}

static int let_broker(scmp_filter_ctx filter)
{
    static const uint64_t families[] = {AF_UNIX, AF_INET, AF_INET6, AF_NETLINK};
    static const uint64_t ioctls[] = {TCGETS, FIONBIO, FIONREAD};
    static const uint64_t names[] = {PR_SET_NAME, PR_GET_NAME, 0x53564d41 /* PR_SET_VMA */};
    static const uint64_t thread = CLONE_THREAD, nothing = 0;
    const uint64_t kinds = CLONE_THREAD | CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS |
                           CLONE_NEWIPC | CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNET;
    int r = let(filter, of_broker, kq_array_size(of_broker));
    if (r == 0)
        r = let(filter, kept_of_broker, kq_array_size(kept_of_broker));
    if (r == 0)
        r = let_with(filter, SCMP_SYS(socket), 0, UINT32_MAX, families, kq_array_size(families));
    if (r == 0)
        r = let_with(filter, SCMP_SYS(ioctl), 1, UINT32_MAX, ioctls, kq_array_size(ioctls));
    if (r == 0)
        r = let_with(filter, SCMP_SYS(prctl), 0, UINT32_MAX, names, kq_array_size(names));
    if (r == 0) /* no new limits */
        r = let_with(filter, SCMP_SYS(prlimit64), 2, UINT64_MAX, &nothing, 1);
    if (r == 0)
        r = let_with(filter, SCMP_SYS(clone), 0, kinds, &thread, 1);
    if (r == 0) /* its flags are in memory, where no filter can look: libc uses clone then */
        r = seccomp_rule_add(filter, SCMP_ACT_ERRNO(ENOSYS), SCMP_SYS(clone3), 0);
    return r < 0 ? r : let_memory(filter, true);
}

static int let_helper(scmp_filter_ctx filter)
{
    static const uint64_t unix_family = AF_UNIX;
    int r = let(filter, of_helper, kq_array_size(of_helper));
    if (r == 0)
        r = let(filter, kept_of_helper, kq_array_size(kept_of_helper));
    if (r == 0)
        r = let_with(filter, SCMP_SYS(socket), 0, UINT32_MAX, &unix_family, 1);
    return r < 0 ? r : let_memory(filter, false);
}

/* --- What is refused --- */

#if defined(__x86_64__)
#define HAVE_ANSWER 1
static void set_answer(ucontext_t *context, long value)
{
    context->uc_mcontext.gregs[REG_RAX] = value;
}
#elif defined(__aarch64__)
#define HAVE_ANSWER 1
static void set_answer(ucontext_t *context, long value)
{
    context->uc_mcontext.regs[0] = (unsigned long long)value;
}
#endif

#ifdef HAVE_ANSWER
static bool ends;

/* It interrupts the refused call and nothing else. No function that a report needs makes such a
 * call while it holds a lock, so reporting from here cannot wait for itself. */
static void on_refused(int signal_number, siginfo_t *info, void *context)
{
    if (info->si_code != 1 /* SYS_SECCOMP */)
        return;
    kq_autofree char *name = seccomp_syscall_resolve_num_arch(SCMP_ARCH_NATIVE, info->si_syscall);
    kq_diag_limited(SAID_MS, LOG_CRIT,
                    "the system call %s (%d) was refused: this process never makes it, so it is "
                    "broken or taken over%s",
                    name ? name : "?", info->si_syscall, ends ? "; it ends" : "");
    if (ends) {
        signal(SIGSYS, SIG_DFL);
        raise(SIGSYS);
    }
    set_answer(context, -EPERM);
}

static uint32_t refusal(bool kill)
{
    struct sigaction action = {.sa_sigaction = on_refused, .sa_flags = SA_SIGINFO | SA_NODEFER};
    ends = kill;
    return sigaction(SIGSYS, &action, NULL) < 0 ? SCMP_ACT_KILL_PROCESS : SCMP_ACT_TRAP;
}
#else
static uint32_t refusal(bool kill)
{
    return kill ? SCMP_ACT_KILL_PROCESS : SCMP_ACT_ERRNO(EPERM);
}
#endif

int kq_seccomp_apply(enum kq_seccomp_set set, bool kill)
{
    if (prctl(PR_GET_SECCOMP, 0, 0, 0, 0) < 0)
        return -ENOTSUP;
    scmp_filter_ctx filter = seccomp_init(refusal(kill));
    if (!filter)
        return -ENOMEM;
    count = 0;
    int r = let(filter, common, kq_array_size(common));
    if (r == 0)
        r = set == KQ_SECCOMP_BROKER ? let_broker(filter) : let_helper(filter);
    seccomp_attr_set(filter, SCMP_FLTATR_CTL_OPTIMIZE, 2); /* a search by halves */
    if (r == 0)
        r = seccomp_load(filter);
    seccomp_release(filter);
    return r < 0 ? r : count;
}
#else
int kq_seccomp_apply(enum kq_seccomp_set set, bool kill)
{
    return -ENOTSUP;
}
#endif
