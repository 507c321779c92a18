/* What the server does from time to time, whether clients ask or not: looking up anew the users of
 * those who are connected, and saying what the audit log has left out.
 *
 * A timer of the first loop has a worker do it, since a look-up may hang (nsswitch.conf(5)): then
 * one thread hangs, and those who are connected keep the groups that they had. */
#pragma once

#include <stdatomic.h>
#include <stdint.h>

#include "broker/base/buf.h"
#include "broker/base/pool.h"
#include "broker/base/timers.h"
#include "net/loop.h"

struct kq_server;

struct kq_upkeep {
    struct kq_server *server;
    struct kq_timer timer;
    struct kq_mail mail; /* to the loop: set the timer */
    struct kq_job job;
    atomic_uint_fast64_t same, changed, failed; /* users looked up anew */
};

/* When the loops run; until they stop. */
void kq_upkeep_start(struct kq_upkeep *upkeep, struct kq_server *server);

/* No more turns begin. On the first loop. */
void kq_upkeep_stop(struct kq_upkeep *upkeep);

/* For .kqfs/metrics. -ENOMEM. */
int kq_upkeep_format(const struct kq_upkeep *upkeep, struct kq_buf *ret);
