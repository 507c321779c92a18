/* What carries a connection's bytes: a socket as it is, or one inside TLS.
 *
 * The connection and its send queue know only this table, so that another carrier is another table
 * and costs the others nothing. All calls: the connection's loop. None blocks.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

struct kq_transport;

struct kq_transport_class {
    /* Up to LENGTH bytes. > 0: so many came; 0: the peer will send no more; -EAGAIN: none are there
     * yet; -errno: the connection is broken. */
    ssize_t (*read)(struct kq_transport *transport, void *bytes, size_t length);

    /* Writes from COUNT parts (1 to IOV_MAX). > 0: so many bytes were taken, perhaps fewer than
     * given; -EAGAIN; -errno. MORE: further bytes follow at once, a packet need not go yet. */
    ssize_t (*writev)(struct kq_transport *transport, const struct iovec *parts, int count,
                      bool more);

    /* Sends up to LENGTH bytes (> 0) of the file FD from POSITION on. > 0: so many; 0: the file
     * ends before POSITION; -EAGAIN; -errno. May wait for the disk where the page cache lacks them.
     */
    ssize_t (*sendfile)(struct kq_transport *transport, int fd, int64_t position, size_t length);

    /* Tells the peer that nothing more comes. Failure does not matter. */
    void (*shutdown)(struct kq_transport *transport);

    /* Which of EPOLLIN and EPOLLOUT let a read (WRITING: a write) that returned -EAGAIN go on: TLS
     * may have to write before it can read. */
    unsigned (*wants)(const struct kq_transport *transport, bool writing);

    /* Closes the descriptor, frees what is its own. */
    void (*close)(struct kq_transport *transport);

    /* A read that returns less than was asked for has taken all there is: the next one need not be
     * tried before epoll says so (epoll(7)). */
    bool short_read_is_last;

    /* sendfile reads the file into memory. */
    bool copies_files;

    /* What is sent is encrypted here, by the thread that sends it. */
    bool encrypts;
};

struct kq_transport {
    const struct kq_transport_class *class;
    int fd;
    bool ending; /* set by the class: no more is to be read, what is under way is answered */
    void *state; /* the class's own */
};

static inline ssize_t kq_transport_read(struct kq_transport *transport, void *bytes, size_t length)
{
    return transport->class->read(transport, bytes, length);
}

static inline ssize_t kq_transport_writev(struct kq_transport *transport, const struct iovec *parts,
                                          int count, bool more)
{
    return transport->class->writev(transport, parts, count, more);
}

static inline ssize_t kq_transport_sendfile(struct kq_transport *transport, int fd,
                                            int64_t position, size_t length)
{
    return transport->class->sendfile(transport, fd, position, length);
}

static inline void kq_transport_shutdown(struct kq_transport *transport)
{
    transport->class->shutdown(transport);
}

static inline unsigned kq_transport_wants(const struct kq_transport *transport, bool writing)
{
    return transport->class->wants(transport, writing);
}

static inline void kq_transport_close(struct kq_transport *transport)
{
    transport->class->close(transport);
}
