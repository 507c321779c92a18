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

/* What libc, and any thread, does. */
static const char *const common[] = {
    "brk",           "clock_getres",   "clock_gettime", "clock_nanosleep", "close",
    "exit",          "exit_group",     "fcntl",         "fstat",           "futex",
    "getegid",       "geteuid",        "getgid",        "getpid",          "getrandom",
    "gettid",        "gettimeofday",   "getuid",        "lseek",           "madvise",
    "mremap",        "munmap",         "nanosleep",     "newfstatat",      "openat",
    "poll",          "ppoll",          "read",          "readlink",        "readlinkat",
    "readv",         "recvfrom",       "recvmsg",       "restart_syscall", "rt_sigaction",
    "rt_sigpending", "rt_sigprocmask", "rt_sigreturn",  "rt_sigtimedwait", "sched_yield",
    "sendmsg",       "sendto",         "shutdown",      "sigaltstack",     "stat",
    "statx",         "tgkill",         "time",          "truncate",        "uname",
    "write",         "writev",         "connect",
};

static const char *const of_broker[] = {
    /* files below the data directory */
    "access",
    "copy_file_range",
    "faccessat",
    "faccessat2",
    "fadvise64",
    "fallocate",
    "fchmod",
    "fchmodat",
    "fdatasync",
    "flock",
    "fstatfs",
    "fsync",
    "ftruncate",
    "getcwd",
    "getdents64",
    "lstat",
    "mincore",
    "mkdir",
    "mkdirat",
    "msync",
    "open",
    "pread64",
    "preadv",
    "preadv2",
    "pwrite64",
    "pwritev",
    "pwritev2",
    "readahead",
    "rename",
    "renameat",
    "renameat2",
    "rmdir",
    "statfs",
    "sync_file_range",
    "umask",
    "unlink",
    "unlinkat",
    "utimensat",
    /* threads */
    "get_robust_list",
    "getcpu",
    "getpriority",
    "ioprio_set",
    "membarrier",
    "rseq",
    "sched_get_priority_max",
    "sched_get_priority_min",
    "sched_getaffinity",
    "sched_getparam",
    "sched_getscheduler",
    "sched_setaffinity",
    "set_robust_list",
    "set_tid_address",
    "setpriority",
    /* waiting */
    "epoll_create1",
    "epoll_ctl",
    "epoll_pwait",
    "epoll_pwait2",
    "epoll_wait",
    "eventfd2",
    "inotify_add_watch",
    "inotify_init1",
    "inotify_rm_watch",
    "pipe",
    "pipe2",
    "pselect6",
    "select",
    "timerfd_create",
    "timerfd_gettime",
    "timerfd_settime",
    "wait4",
    /* the network */
    "accept",
    "accept4",
    "bind",
    "getpeername",
    "getsockname",
    "getsockopt",
    "listen",
    "recvmmsg",
    "sendfile",
    "sendmmsg",
    "setsockopt",
    "socketpair",
    "splice",
    "tee",
    "vmsplice",
    /* what libraries ask of the machine */
    "chdir",
    "dup",
    "dup2",
    "dup3",
    "getgroups",
    "getppid",
    "getresgid",
    "getresuid",
    "getrlimit",
    "getrusage",
    "memfd_create",
    "mlock",
    "munlock",
    "setsid",
    "sysinfo",
    "times",
};

static const char *const of_helper[] = {"mount", "openat2", "umount2"};

static int count;

static int let(scmp_filter_ctx filter, const char *const *names, size_t length)
{
    for (size_t i = 0; i < length; i++) {
        int number = seccomp_syscall_resolve_name(names[i]);
        if (number == __NR_SCMP_ERROR)
            continue; /* newer than the library */
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
