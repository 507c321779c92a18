/* Keeps something open while calls are under way on it. Entering and leaving cost one atomic
 * operation each; closing waits until the last one has left. */
#pragma once

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct kq_guard {
    _Atomic uint32_t users; /* calls under way, and KQ_GUARD_CLOSED */
};

#define KQ_GUARD_CLOSED (1u << 31)

void kq_guard_wake(struct kq_guard *guard);

static inline void kq_guard_leave(struct kq_guard *guard)
{
    if (atomic_fetch_sub(&guard->users, 1) == (KQ_GUARD_CLOSED | 1))
        kq_guard_wake(guard);
}

/* False: it is closed, and the caller is not in. */
static inline bool kq_guard_enter(struct kq_guard *guard)
{
    if (!(atomic_fetch_add(&guard->users, 1) & KQ_GUARD_CLOSED))
        return true;
    kq_guard_leave(guard);
    return false;
}

/* Lets nobody in any more and waits until all are out. One thread at a time. */
void kq_guard_close(struct kq_guard *guard);

void kq_guard_open(struct kq_guard *guard);
