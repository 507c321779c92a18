/* From a listener's new descriptor to a connection on one of the loops: whether there is room for
 * it, who it is, which loop takes it. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

struct kq_listener;
struct kq_server;
struct kq_acceptor;

/* For SERVER's listeners; a descriptor is set aside for when there are none left. 0; -ENOMEM,
 * -errno. */
int kq_acceptor_new(struct kq_server *server, struct kq_acceptor **ret);
void kq_acceptor_free(struct kq_acceptor *acceptor); /* NULL is fine */

struct kq_arrived;

/* What ARRIVED holds becomes a connection, or, where R < 0 or that fails, is let go. Any thread. */
void kq_acceptor_begin(struct kq_server *server, struct kq_arrived *arrived, int r);
void kq_acceptor_drop(struct kq_server *server, struct kq_arrived *arrived);

/* See struct kq_listener; its context is the acceptor. */
bool kq_acceptor_take(struct kq_listener *listener, int fd, int64_t *retry_ns);
