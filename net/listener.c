#include "net/listener.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "broker/base/clock.h"
#include "broker/base/diag.h"
#include "broker/base/mem.h"

#define BACKLOG 4096 /* the kernel takes net.core.somaxconn where that is less */
#define ACCEPTS_AT_ONCE 64

static void set_name(struct kq_listener *listener)
{
    const struct kq_address *address = &listener->address;
    struct sockaddr_storage bound;
    socklen_t length = sizeof(bound);
    struct kq_host_port port = {.port = address->host.port};
    if (address->is_unix) {
        const struct sockaddr_un *name = (const struct sockaddr_un *)&address->socket;
        snprintf(listener->name, sizeof(listener->name), "unix://%s", name->sun_path);
        return;
    }
    if (port.port == 0 && getsockname(listener->fd, (struct sockaddr *)&bound, &length) == 0)
        kq_address_format(&bound, &port);
    const char *host = address->host.host;
    bool brackets = strchr(host, ':') != NULL;
    const char *scheme = address->tls    ? address->sasl ? "sasl_ssl" : "ssl"
                         : address->sasl ? "sasl_plaintext"
                                         : "plaintext";
    snprintf(listener->name, sizeof(listener->name), "%s://%s%s%s:%u", scheme, brackets ? "[" : "",
             host, brackets ? "]" : "", port.port);
}

static int report(const struct kq_listener *listener, int error)
{
    const char *remedy = error == EADDRINUSE
                             ? "; another process listens there: end it or choose another port"
                         : error == EACCES        ? "; ports below 1024 need CAP_NET_BIND_SERVICE"
                         : error == EADDRNOTAVAIL ? "; this host has no such address"
                                                  : "";
    if (listener->address.is_unix && error == EADDRINUSE)
        remedy = "; another process listens there: end it or choose another path";
    else if (listener->address.is_unix)
        remedy = "";
    kq_diag(LOG_ERR, "cannot listen at %s: %s%s", listener->name, strerror(error), remedy);
    return -error;
}

/* Is the file a socket at which nobody listens any more? Then it is in nobody's way. */
static bool is_stale(const struct kq_address *address)
{
    const struct sockaddr_un *name = (const struct sockaddr_un *)&address->socket;
    struct stat st;
    if (lstat(name->sun_path, &st) < 0 || !S_ISSOCK(st.st_mode))
        return false;
    kq_autoclose int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    return fd >= 0 && connect(fd, (const struct sockaddr *)name, address->socket_length) < 0 &&
           errno == ECONNREFUSED;
}

static int bind_unix(struct kq_listener *listener)
{
    const struct sockaddr *name = (const struct sockaddr *)&listener->address.socket;
    socklen_t length = listener->address.socket_length;
    const char *path = ((const struct sockaddr_un *)name)->sun_path;
    int r = bind(listener->fd, name, length);
    if (r < 0 && errno == EADDRINUSE && is_stale(&listener->address) && unlink(path) == 0)
        r = bind(listener->fd, name, length);
    if (r < 0)
        return errno == EEXIST ? -EADDRINUSE : -errno;
    listener->bound_path = true;
    /* Everybody may connect, and is asked for credentials then. */
    return chmod(path, 0666) < 0 ? -errno : 0;
}

static int bind_tcp(struct kq_listener *listener)
{
    int on = 1, off = 0;
    const struct kq_address *address = &listener->address;
    setsockopt(listener->fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    if (address->socket.ss_family == AF_INET6)
        setsockopt(listener->fd, IPPROTO_IPV6, IPV6_V6ONLY, address->host.host[0] ? &on : &off,
                   sizeof(on));
    int r = bind(listener->fd, (const struct sockaddr *)&address->socket, address->socket_length);
    return r < 0 ? -errno : 0;
}

/* "Every address" where this host has no IPv6. */
static void use_ipv4(struct kq_address *address)
{
    struct sockaddr_in any = {.sin_family = AF_INET, .sin_port = htons(address->host.port)};
    memcpy(&address->socket, &any, sizeof(any));
    address->socket_length = sizeof(any);
}

static int open_socket(struct kq_listener *listener)
{
    struct kq_address *address = &listener->address;
    int type = SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK;
    listener->fd = socket(address->socket.ss_family, type, 0);
    if (listener->fd < 0 && errno == EAFNOSUPPORT && !address->is_unix && !address->host.host[0]) {
        use_ipv4(address);
        listener->fd = socket(AF_INET, type, 0);
    }
    if (listener->fd < 0)
        return -errno;
    return address->is_unix ? bind_unix(listener) : bind_tcp(listener);
}

int kq_listener_new(const struct kq_address *address, struct kq_listener **ret)
{
    struct kq_listener *listener = kq_zalloc(sizeof(*listener));
    if (!listener)
        return -ENOMEM;
    listener->address = *address;
    listener->fd = -1;
    int r = open_socket(listener);
    set_name(listener);
    if (r < 0) {
        report(listener, -r);
        kq_listener_free(listener);
        return r;
    }
    *ret = listener;
    return 0;
}

void kq_listener_free(struct kq_listener *listener)
{
    if (!listener)
        return;
    if (listener->bound_path)
        unlink(((struct sockaddr_un *)&listener->address.socket)->sun_path);
    if (listener->fd >= 0)
        close(listener->fd);
    free(listener);
}

/* --- Accepting --- */

static void retry_at(struct kq_listener *listener, int64_t at_ns)
{
    kq_loop_set_timer(listener->loop, &listener->retry, at_ns);
}

static void accept_some(struct kq_task *task)
{
    struct kq_listener *listener =
        (struct kq_listener *)((char *)task - offsetof(struct kq_listener, task));
    int64_t retry_ns = 0;
    for (int i = 0; listener->fd >= 0; i++) {
        if (i == ACCEPTS_AT_ONCE) {
            kq_loop_soon(listener->loop, &listener->task);
            return;
        }
        int fd = accept4(listener->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (fd < 0 && errno == EAGAIN)
            return;
        if (fd < 0 && (errno == EINTR || errno == ECONNABORTED || errno == EPROTO))
            continue;
        if (!listener->accepted(listener, fd < 0 ? -errno : fd, &retry_ns)) {
            retry_at(listener, retry_ns);
            return;
        }
    }
}

static void retry(struct kq_timer *timer)
{
    struct kq_listener *listener =
        (struct kq_listener *)((char *)timer - offsetof(struct kq_listener, retry));
    kq_loop_soon(listener->loop, &listener->task);
}

static void ready(struct kq_watch *watch, uint32_t events)
{
    struct kq_listener *listener =
        (struct kq_listener *)((char *)watch - offsetof(struct kq_listener, watch));
    if (!listener->retry.set)
        kq_loop_soon(listener->loop, &listener->task);
}

int kq_listener_start(struct kq_listener *listener, struct kq_loop *loop)
{
    listener->loop = loop;
    listener->watch.ready = ready;
    listener->task.run = accept_some;
    listener->retry.expire = retry;
    if (listen(listener->fd, BACKLOG) < 0)
        return report(listener, errno);
    int r = kq_loop_watch(loop, &listener->watch, listener->fd, EPOLLIN);
    return r < 0 ? report(listener, -r) : 0;
}

void kq_listener_stop(struct kq_listener *listener)
{
    if (!listener->loop)
        return;
    kq_loop_cancel_timer(listener->loop, &listener->retry);
    kq_loop_forget(listener->loop, &listener->task);
    if (listener->fd >= 0)
        close(listener->fd);
    listener->fd = -1;
}
