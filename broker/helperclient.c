/* The broker's side of the helper. */
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>

#include "broker/base/diag.h"
#include "broker/base/mem.h"
#include "broker/confine.h"
#include "broker/helper.h"

static struct client {
    int fd;
    pid_t child; /* 0: a service manager's */
    pthread_mutex_t lock;
    pthread_t watcher;
    bool watched;
    void (*on_loss)(void);
    atomic_bool ending;
    struct kq_privileged privileged;
} client = {.fd = -1, .lock = PTHREAD_MUTEX_INITIALIZER};

/* --- Asking --- */

static int receive(struct kq_helper_answer *ret, int *ret_fd)
{
    union {
        struct cmsghdr header;
        char room[CMSG_SPACE(sizeof(int))];
    } control;
    struct iovec part = {.iov_base = ret, .iov_len = sizeof(*ret)};
    struct msghdr message = {.msg_iov = &part,
                             .msg_iovlen = 1,
                             .msg_control = &control,
                             .msg_controllen = sizeof(control)};
    ssize_t n;
    do
        n = recvmsg(client.fd, &message, MSG_CMSG_CLOEXEC);
    while (n < 0 && errno == EINTR);
    if (n != (ssize_t)sizeof(*ret))
        return -EPIPE;
    const struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    *ret_fd = -1;
    if (header && header->cmsg_type == SCM_RIGHTS)
        memcpy(ret_fd, CMSG_DATA(header), sizeof(*ret_fd));
    return 0;
}

/* 0 with what came; -EPIPE: the helper has gone. */
static int ask(const struct kq_helper_request *request, struct kq_helper_answer *ret, int *ret_fd)
{
    ssize_t n;
    pthread_mutex_lock(&client.lock);
    do
        n = send(client.fd, request, sizeof(*request), MSG_NOSIGNAL);
    while (n < 0 && errno == EINTR);
    int r = n < 0 ? -EPIPE : receive(ret, ret_fd);
    pthread_mutex_unlock(&client.lock);
    return r;
}

/* ACT with NAME. The descriptor where WITH_FD, else 0; -errno. */
static int request(enum kq_helper_act act, const char *name, bool with_fd, bool *ret_device)
{
    struct kq_helper_request request = {.act = act};
    struct kq_helper_answer answer;
    int fd = -1;
    if (strlen(name) >= sizeof(request.name))
        return -ENAMETOOLONG;
    memcpy(request.name, name, strlen(name));
    int r = ask(&request, &answer, &fd);
    if (r < 0)
        return r;
    if (ret_device)
        *ret_device = answer.device;
    client.privileged.pid = answer.pid;
    if (!with_fd || answer.result < 0)
        return answer.result;
    return fd >= 0 ? fd : -EPROTO;
}

static int ask_open(void *context, const char *path)
{
    return request(KQ_HELPER_OPEN, path, true, NULL);
}

static int ask_mount(void *context, bool *ret_device)
{
    return request(KQ_HELPER_MOUNT, "", true, ret_device);
}

static int ask_unmount(void *context)
{
    return request(KQ_HELPER_UNMOUNT, "", false, NULL);
}

static int ask_modified(void *context, const char *topic, int32_t partition, int64_t size)
{
    struct kq_helper_request request = {
        .act = KQ_HELPER_MODIFIED, .partition = partition, .size = size};
    struct kq_helper_answer answer;
    int fd;
    if (strlen(topic) >= sizeof(request.name))
        return -ENAMETOOLONG;
    memcpy(request.name, topic, strlen(topic));
    int r = ask(&request, &answer, &fd);
    return r < 0 ? r : answer.result;
}

static void use(int fd, pid_t child)
{
    client.fd = fd;
    client.child = child;
    client.privileged = (struct kq_privileged){.open = ask_open,
                                               .mount = ask_mount,
                                               .unmount = ask_unmount,
                                               .modified = ask_modified,
                                               .pid = child};
    kq_privileged_use(&client.privileged);
}

/* --- Its life --- */

static void leave_terminal(void)
{
    setsid();
    openlog("kqfs-helper", LOG_PID | LOG_NDELAY, LOG_DAEMON);
    kq_diag_to_syslog(true);
    int nowhere = open("/dev/null", O_RDWR | O_CLOEXEC);
    for (int fd = 0; nowhere >= 0 && fd <= STDERR_FILENO; fd++)
        dup2(nowhere, fd);
    if (nowhere > STDERR_FILENO)
        close(nowhere);
}

/* In the child. Its end is the broker's, not a signal's: what asks a group of processes to stop
 * asks the broker too, which still needs the mount then. */
static _Noreturn void be_helper(const struct kq_helper_options *options, int fd, bool quiet)
{
    struct kq_helper *helper;
    static const int ignored[] = {SIGTERM, SIGINT, SIGHUP, SIGQUIT, SIGPIPE};
    for (size_t i = 0; i < kq_array_size(ignored); i++)
        signal(ignored[i], SIG_IGN);
    if (dup2(fd, STDERR_FILENO + 1) < 0)
        _exit(EXIT_FAILURE);
    fd = STDERR_FILENO + 1;
    if (close_range((unsigned)fd + 1, ~0U, 0) < 0 || chdir("/") < 0)
        _exit(EXIT_FAILURE);
    if (quiet)
        leave_terminal();
    if (kq_helper_new(options, &helper) < 0 || kq_confine_helper(options->require) < 0)
        _exit(EXIT_FAILURE);
    int r = kq_helper_serve(helper, fd);
    kq_helper_free(helper);
    _exit(r < 0 ? EXIT_FAILURE : EXIT_SUCCESS);
}

int kq_helper_fork(const struct kq_helper_options *options, bool quiet)
{
    int ends[2];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) < 0) {
        kq_diag(LOG_ERR, "socketpair: %s", strerror(errno));
        return -errno;
    }
    pid_t child = fork();
    if (child == 0)
        be_helper(options, ends[1], quiet);
    int error = errno;
    close(ends[1]);
    if (child > 0) {
        use(ends[0], child);
        return 0;
    }
    close(ends[0]);
    kq_diag(LOG_ERR, "fork: %s", strerror(error));
    return -error;
}

int kq_helper_connect(const char *path)
{
    struct sockaddr_un name = {.sun_family = AF_UNIX};
    int r = strlen(path) < sizeof(name.sun_path) ? 0 : -ENAMETOOLONG;
    int fd = r < 0 ? -1 : socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    if (r == 0) {
        memcpy(name.sun_path, path, strlen(path));
        r = fd < 0 || connect(fd, (struct sockaddr *)&name, sizeof(name)) < 0 ? -errno : 0;
    }
    if (r == 0) {
        use(fd, 0);
        return 0;
    }
    if (fd >= 0)
        close(fd);
    kq_diag(LOG_ERR,
            "%s: no helper: %s; is kqfs-helper@.socket started, and may this user connect?", path,
            strerror(-r));
    return r;
}

static void *watch(void *unused)
{
    struct pollfd helper = {.fd = client.fd, .events = POLLRDHUP};
    while (poll(&helper, 1, -1) < 0 && errno == EINTR)
        ;
    if (!client.ending) {
        kq_diag(LOG_ERR, "the helper process has gone: nobody can read keys again, wake those who "
                         "watch the mount, or unmount it: the broker ends");
        client.on_loss();
    }
    return NULL;
}

int kq_helper_watch(void (*on_loss)(void))
{
    if (client.fd < 0)
        return 0;
    client.on_loss = on_loss;
    int r = -pthread_create(&client.watcher, NULL, watch, NULL);
    client.watched = r == 0;
    if (r == 0)
        pthread_setname_np(client.watcher, "kqfs-helper");
    else
        kq_diag(LOG_ERR, "cannot start the thread that watches the helper: %s", strerror(-r));
    return r;
}

void kq_helper_end(void)
{
    if (client.fd < 0)
        return;
    client.ending = true;
    shutdown(client.fd, SHUT_RDWR);
    if (client.watched)
        pthread_join(client.watcher, NULL);
    kq_privileged_use(NULL);
    close(client.fd);
    client.fd = -1;
    while (client.child > 0 && waitpid(client.child, NULL, 0) < 0 && errno == EINTR)
        ;
}
