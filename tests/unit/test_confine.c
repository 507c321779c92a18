/* What a confined broker cannot do: each case in a process of its own, since it is for good. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "broker/base/diag.h"
#include "broker/confine.h"

#define LACKS_IT 77

static char data[] = "/tmp/kqfs-confine-XXXXXX";
static char outside[] = "/tmp/kqfs-outside-XXXXXX";

/* The exit status of ACT's process once it is confined, or 128 and its signal. */
static int confined(int (*act)(void), bool kill)
{
    int status;
    pid_t pid = fork();
    if (pid == 0) {
        struct kq_confine_options options = {.data = data, .kill = kill, .require = true};
        kq_diag_set_level(LOG_EMERG);
        prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
        int r = kq_confine_broker(&options);
        _exit(r == -ENOTSUP ? LACKS_IT : r < 0 ? 99 : act());
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    int code = WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
    if (code == LACKS_IT)
        skip();
    return code;
}

/* How many of the acts are not refused with ERROR, as a mask. */
static int refused(const long *results, size_t count)
{
    int wrong = 0;
    for (size_t i = 0; i < count; i++)
        if (results[i] != -EPERM && results[i] != -EACCES)
            wrong |= 1 << i;
    return wrong;
}

static long result(long r)
{
    return r < 0 ? -errno : r;
}

static int other_powers(void)
{
    struct rlimit limit = {10, 10};
    char *none[] = {NULL};
    long results[7];
    results[0] = result(execve("/bin/true", none, none));
    results[1] = result(ptrace(PTRACE_TRACEME, 0, NULL, NULL));
    results[2] = result(mount("none", data, "tmpfs", 0, NULL));
    results[3] = result(socket(AF_PACKET, SOCK_RAW, 0));
    results[4] = result(unshare(CLONE_NEWUSER));
    results[5] = result(setrlimit(RLIMIT_NOFILE, &limit));
    results[6] = result(syscall(SYS_bpf, 0, NULL, 0));
    return refused(results, kq_array_size(results));
}

static void it_starts_traces_and_mounts_nothing(void **state)
{
    assert_int_equal(confined(other_powers, false), 0);
}

/* What it says meanwhile goes to a file of its own. */
static int refused_mount(void)
{
    char path[64], said[512] = "";
    snprintf(path, sizeof(path), "%s/said", data);
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0 || dup2(fd, STDERR_FILENO) < 0)
        return 64;
    kq_diag_set_level(LOG_INFO);
    bool fails = result(mount("none", data, "tmpfs", 0, NULL)) == -EPERM;
    ssize_t n = pread(fd, said, sizeof(said) - 1, 0);
    unlink(path);
    return fails && n > 0 && strstr(said, "the system call mount (") && strstr(said, "was refused")
               ? 0
               : 1;
}

static void what_is_refused_fails_with_eperm_and_is_reported(void **state)
{
    assert_int_equal(confined(refused_mount, false), 0);
}

static int processes(void)
{
    return result(fork()) == -EPERM ? 0 : 1;
}

static void it_makes_no_processes(void **state)
{
    assert_int_equal(confined(processes, false), 0);
}

static int memory(void)
{
    void *both = mmap(NULL, 4096, PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    void *plain = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return both == MAP_FAILED && plain != MAP_FAILED ? 0 : 1;
}

static void what_it_can_write_it_cannot_execute(void **state)
{
    assert_int_equal(confined(memory, false), 0);
}

static int files(void)
{
    char inside[64], to[64];
    long results[3];
    snprintf(inside, sizeof(inside), "%s/file", data);
    snprintf(to, sizeof(to), "%s/renamed", data);
    int fd = open(inside, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0 || write(fd, "x", 1) != 1 || rename(inside, to) < 0 || truncate(to, 0) < 0 ||
        unlink(to) < 0)
        return 64;
    int passwd = open("/etc/passwd", O_RDONLY | O_CLOEXEC);
    results[0] = result(open(outside, O_RDONLY | O_CLOEXEC));
    results[1] = result(open("/etc/passwd", O_WRONLY | O_APPEND | O_CLOEXEC));
    results[2] = result(unlink(outside));
    return passwd < 0 ? 65 : refused(results, kq_array_size(results));
}

static void it_reads_and_writes_its_own_files_only(void **state)
{
    assert_int_equal(confined(files, false), 0);
}

static void *connect_outside(void *unused)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    to.sin_port = htons(9);
    long r = fd < 0 ? 0 : result(connect(fd, (struct sockaddr *)&to, sizeof(to)));
    bool denied = r == -EACCES || (r == -ECONNREFUSED && kq_landlock_version() < 4);
    return denied ? NULL : (void *)1;
}

static int threads(void)
{
    void *answer;
    pthread_t thread;
    if (pthread_create(&thread, NULL, connect_outside, NULL) != 0)
        return 1;
    pthread_join(thread, &answer);
    return answer ? 2 : 0;
}

static void its_threads_run_and_connect_to_nobody(void **state)
{
    assert_int_equal(confined(threads, false), 0);
}

static void where_it_is_asked_for_a_refused_call_ends_it(void **state)
{
    assert_int_equal(confined(other_powers, true), 128 + SIGSYS);
}

static int set_up(void **state)
{
    int fd = mkstemp(outside);
    return mkdtemp(data) && fd >= 0 ? close(fd) : -1;
}

static int tear_down(void **state)
{
    return unlink(outside) < 0 || rmdir(data) < 0 ? -1 : 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(it_starts_traces_and_mounts_nothing),
        cmocka_unit_test(what_is_refused_fails_with_eperm_and_is_reported),
        cmocka_unit_test(it_makes_no_processes),
        cmocka_unit_test(what_it_can_write_it_cannot_execute),
        cmocka_unit_test(it_reads_and_writes_its_own_files_only),
        cmocka_unit_test(its_threads_run_and_connect_to_nobody),
        cmocka_unit_test(where_it_is_asked_for_a_refused_call_ends_it),
    };
#if defined(__has_feature)
#if __has_feature(thread_sanitizer)
    puts("SKIP: ThreadSanitizer's own thread makes calls that a confined process may not make");
    return 77;
#endif
#endif
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
