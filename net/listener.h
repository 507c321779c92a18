/* One address at which connections are taken. */
#pragma once

#include <stdatomic.h>
#include <stdbool.h>
#include <sys/queue.h>

#include "broker/base/timers.h"
#include "net/address.h"
#include "net/loop.h"

struct kq_tls;

struct kq_listener {
    struct kq_address address;
    struct kq_tls *tls;            /* NULL: it takes plain connections; the server's */
    char name[KQ_HOST_BYTES + 32]; /* as it is written, with the port that it got */
    int fd;
    bool bound_path; /* a unix socket's file is there and ours */
    struct kq_watch watch;
    struct kq_task task;
    struct kq_timer retry;
    struct kq_loop *loop; /* that accepts; NULL: none yet */
    /* FD: a new connection, the callee's own from now on, or the negated errno with which accept(2)
     * failed. False: take no more before *RETRY_NS. On the loop. */
    bool (*accepted)(struct kq_listener *listener, int fd, int64_t *retry_ns);
    void *context;
    STAILQ_ENTRY(kq_listener) list;
};

/* Binds ADDRESS. A unix socket's file that nobody listens at is replaced. 0; -EADDRINUSE, …
 * (reported in one line that names the remedy); -ENOMEM. */
int kq_listener_new(const struct kq_address *address, struct kq_listener **ret);

/* Begins to take connections on LOOP. 0; -errno (reported). */
int kq_listener_start(struct kq_listener *listener, struct kq_loop *loop);

/* Takes no more; on its loop, or after that was stopped. */
void kq_listener_stop(struct kq_listener *listener);

/* Closes it and removes the file of a unix socket. NULL is fine. */
void kq_listener_free(struct kq_listener *listener);
