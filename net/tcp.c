#include "net/tcp.h"

#include <errno.h>
#include <sys/epoll.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <unistd.h>

static ssize_t tcp_read(struct kq_transport *transport, void *bytes, size_t length)
{
    ssize_t n;
    do
        n = recv(transport->fd, bytes, length, MSG_DONTWAIT);
    while (n < 0 && errno == EINTR);
    return n < 0 ? -errno : n;
}

static ssize_t tcp_writev(struct kq_transport *transport, const struct iovec *parts, int count,
                          bool more)
{
    struct msghdr message = {.msg_iov = (struct iovec *)parts, .msg_iovlen = (size_t)count};
    int flags = MSG_DONTWAIT | MSG_NOSIGNAL | (more ? MSG_MORE : 0);
    ssize_t n;
    do
        n = sendmsg(transport->fd, &message, flags);
    while (n < 0 && errno == EINTR);
    return n < 0 ? -errno : n;
}

static ssize_t tcp_sendfile(struct kq_transport *transport, int fd, int64_t position, size_t length)
{
    off_t at = position;
    ssize_t n;
    do
        n = sendfile(transport->fd, fd, &at, length);
    while (n < 0 && errno == EINTR);
    return n < 0 ? -errno : n;
}

static void tcp_shutdown(struct kq_transport *transport)
{
    shutdown(transport->fd, SHUT_WR);
}

static unsigned tcp_wants(const struct kq_transport *transport, bool writing)
{
    return writing ? EPOLLOUT : EPOLLIN;
}

static void tcp_close(struct kq_transport *transport)
{
    if (transport->fd >= 0)
        close(transport->fd);
    transport->fd = -1;
}

static const struct kq_transport_class tcp_class = {
    .read = tcp_read,
    .writev = tcp_writev,
    .sendfile = tcp_sendfile,
    .shutdown = tcp_shutdown,
    .wants = tcp_wants,
    .close = tcp_close,
    .short_read_is_last = true,
};

void kq_tcp_init_consume_fd(struct kq_transport *ret, int fd)
{
    *ret = (struct kq_transport){.class = &tcp_class, .fd = fd};
}
