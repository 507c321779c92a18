/* The readers that wait for messages of one partition.
 *
 * An append that nobody waits for costs one atomic operation here; arming and taking back are O(1).
 * No wake-up is lost: the waiter is counted before it looks at the end of the log a last time, and
 * the appender publishes the new end before it looks at the count. Both do so by a
 * read-modify-write of one word, which puts the two into an order.
 */
#pragma once

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "broker/broker.h"

struct kq_waiters {
    pthread_mutex_t lock;
    struct kq_waiter *first;
    atomic_uint armed; /* how many, or soon will be */
    int ended;         /* 0, or the negated errno for those who come now */
};

void kq_waiters_init(struct kq_waiters *waiters);
void kq_waiters_destroy(struct kq_waiters *waiters); /* none is armed */

/* Arms WAITER for offsets behind OFFSET. END is asked, with CONTEXT, after the waiter can be seen
 * by appenders; it never blocks and returns what OFFSET is compared with. 0; KQ_READY; or what
 * kq_waiters_end was given. */
int kq_waiters_arm(struct kq_waiters *waiters, struct kq_waiter *waiter, int64_t offset,
                   int64_t (*end)(void *context), void *context);

/* See kq_unwait. */
int kq_waiters_disarm(struct kq_waiters *waiters, struct kq_waiter *waiter);

/* After the end was published: is there anybody to wake? */
static inline bool kq_waiters_any(struct kq_waiters *waiters)
{
    return atomic_fetch_add_explicit(&waiters->armed, 0, memory_order_acq_rel) > 0;
}

/* Calls those whose offset is before STABLE, or, where they are UNSTABLE, before END. */
void kq_waiters_wake(struct kq_waiters *waiters, int64_t stable, int64_t end);

/* Calls all with WHY and refuses new ones with ERROR (< 0). */
void kq_waiters_end(struct kq_waiters *waiters, enum kq_wake why, int error);

/* How many wait in this process. */
int64_t kq_waiters_parked(void);
