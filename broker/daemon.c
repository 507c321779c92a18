#include "broker/daemon.h"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>

#include "broker/base/clock.h"
#include "broker/base/diag.h"

/* --- Into the background --- */

static int ready_pipe = -1; /* the child's end; -1: in the foreground */
static pid_t child;

static void hand_on(int signal_number)
{
    kill(child, signal_number);
}

static void wait_for_child(int fd)
{
    struct sigaction action = {.sa_handler = hand_on, .sa_flags = SA_RESTART};
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGHUP, &action, NULL);
    char byte;
    ssize_t n;
    do
        n = read(fd, &byte, 1);
    while (n < 0 && errno == EINTR);
    if (n == 1)
        _exit(EXIT_SUCCESS);
    int status;
    while (waitpid(child, &status, 0) < 0 && errno == EINTR)
        ;
    if (WIFSIGNALED(status)) {
        kq_diag(LOG_ERR, "killed while starting: %s", strsignal(WTERMSIG(status)));
        _exit(EXIT_FAILURE);
    }
    _exit(WEXITSTATUS(status));
}

int kq_daemon_detach(void)
{
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) < 0) {
        kq_diag(LOG_ERR, "pipe: %s", strerror(errno));
        return -errno;
    }
    child = fork();
    if (child < 0) {
        kq_diag(LOG_ERR, "fork: %s", strerror(errno));
        close(ends[0]);
        close(ends[1]);
        return -errno;
    }
    if (child > 0) {
        close(ends[1]);
        wait_for_child(ends[0]);
    }
    close(ends[0]);
    ready_pipe = ends[1];
    return 0;
}

void kq_daemon_notify(const char *state)
{
    const char *path = getenv("NOTIFY_SOCKET");
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    size_t length = path ? strlen(path) : 0;
    if (length < 2 || length >= sizeof(address.sun_path))
        return;
    memcpy(address.sun_path, path, length);
    if (path[0] == '@')
        address.sun_path[0] = '\0';
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return;
    socklen_t size = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + length);
    if (sendto(fd, state, strlen(state), MSG_NOSIGNAL, (struct sockaddr *)&address, size) < 0)
        kq_diag(LOG_WARNING, "cannot tell the service manager `%s`: %s", state, strerror(errno));
    close(fd);
}

void kq_daemon_ready(void)
{
    kq_daemon_notify("READY=1");
    if (ready_pipe < 0)
        return;
    setsid();
    openlog("kqfs", LOG_PID, LOG_DAEMON);
    kq_diag_to_syslog(true);
    if (chdir("/") < 0)
        kq_diag(LOG_WARNING, "chdir /: %s", strerror(errno));
    int nowhere = open("/dev/null", O_RDWR | O_CLOEXEC);
    for (int fd = 0; nowhere >= 0 && fd <= STDERR_FILENO; fd++)
        dup2(nowhere, fd);
    if (nowhere > STDERR_FILENO)
        close(nowhere);
    if (write(ready_pipe, "", 1) < 0)
        kq_diag(LOG_WARNING, "the process that started this one is gone");
    close(ready_pipe);
    ready_pipe = -1;
}

/* --- Signals --- */

static pthread_t thread;
static void (*stop_function)(void);
static bool (*hangup_function)(void);
static const char *progress_text;
static atomic_bool stopping, quiet, ending;

static sigset_t stop_signals(void)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGHUP);
    return set;
}

void kq_signals_stop(void)
{
    if (!atomic_exchange(&stopping, true))
        stop_function();
}

static void *take_signals(void *unused)
{
    sigset_t set = stop_signals();
    bool terminal = isatty(STDERR_FILENO);
    int64_t started_ns = kq_clock_mono_ns();
    while (!ending) {
        bool talk = terminal && !quiet;
        struct timespec second = {.tv_sec = 1};
        int got = talk ? sigtimedwait(&set, NULL, &second) : sigwaitinfo(&set, NULL);
        if (ending)
            break;
        if (got == SIGHUP && hangup_function && hangup_function())
            continue;
        if (got > 0)
            kq_signals_stop();
        if (got < 0 && errno == EAGAIN && !quiet)
            kq_diag(LOG_NOTICE, "%s (%lld s so far)", progress_text,
                    (long long)((kq_clock_mono_ns() - started_ns) / 1000000000));
    }
    return NULL;
}

int kq_signals_start(void (*on_stop)(void), const char *progress)
{
    sigset_t set = stop_signals();
    stop_function = on_stop;
    progress_text = progress;
    signal(SIGPIPE, SIG_IGN);
    int r = pthread_sigmask(SIG_BLOCK, &set, NULL);
    if (r == 0)
        r = pthread_create(&thread, NULL, take_signals, NULL);
    if (r) {
        kq_diag(LOG_ERR, "cannot start the thread that takes signals: %s", strerror(r));
        return -r;
    }
    pthread_setname_np(thread, "kqfs-signals");
    return 0;
}

void kq_signals_on_hangup(bool (*reload)(void))
{
    hangup_function = reload;
}

void kq_signals_quiet(void)
{
    quiet = true;
}

bool kq_signals_stopping(void)
{
    return stopping;
}

void kq_signals_end(void)
{
    ending = true;
    /* It waits for just that. NOLINTNEXTLINE(bugprone-bad-signal-to-kill-thread,cert-pos44-c) */
    pthread_kill(thread, SIGTERM);
    pthread_join(thread, NULL);
}
