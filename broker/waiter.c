#include "broker/waiter.h"

#include <limits.h>

#include "broker/metrics.h"

enum state {
    IDLE,
    ARMED,
    WOKEN, /* its wake function was called or is about to be */
};

static struct kq_metric parked = {
    .name = "kqfs_waiters_parked",
    .help = "Readers that wait for messages now.",
    .type = KQ_GAUGE,
};

int64_t kq_waiters_parked(void)
{
    return atomic_load_explicit(&parked.value, memory_order_relaxed);
}

void kq_waiters_init(struct kq_waiters *waiters)
{
    pthread_mutex_init(&waiters->lock, NULL);
    waiters->first = NULL;
    atomic_init(&waiters->armed, 0);
    waiters->ended = 0;
    kq_metric_register(&parked);
}

void kq_waiters_destroy(struct kq_waiters *waiters)
{
    pthread_mutex_destroy(&waiters->lock);
}

static void link_in(struct kq_waiters *waiters, struct kq_waiter *waiter)
{
    waiter->next = waiters->first;
    waiter->previous = &waiters->first;
    if (waiter->next)
        waiter->next->previous = &waiter->next;
    waiters->first = waiter;
    kq_metric_add(&parked, 1);
}

static void take_out(struct kq_waiters *waiters, struct kq_waiter *waiter)
{
    *waiter->previous = waiter->next;
    if (waiter->next)
        waiter->next->previous = waiter->previous;
    atomic_fetch_sub_explicit(&waiters->armed, 1, memory_order_acq_rel);
    kq_metric_add(&parked, -1);
}

int kq_waiters_arm(struct kq_waiters *waiters, struct kq_waiter *waiter, int64_t offset,
                   int64_t (*end)(void *context), void *context)
{
    pthread_mutex_lock(&waiters->lock);
    int r = waiters->ended;
    if (r == 0) {
        waiter->offset = offset;
        atomic_store(&waiter->state, ARMED);
        link_in(waiters, waiter);
        atomic_fetch_add_explicit(&waiters->armed, 1, memory_order_acq_rel);
        if (end(context) > offset) {
            take_out(waiters, waiter);
            atomic_store(&waiter->state, IDLE);
            r = KQ_READY;
        }
    }
    pthread_mutex_unlock(&waiters->lock);
    return r;
}

int kq_waiters_disarm(struct kq_waiters *waiters, struct kq_waiter *waiter)
{
    pthread_mutex_lock(&waiters->lock);
    int r = KQ_GONE;
    if (atomic_load(&waiter->state) == ARMED) {
        take_out(waiters, waiter);
        atomic_store(&waiter->state, IDLE);
        r = 0;
    }
    pthread_mutex_unlock(&waiters->lock);
    return r;
}

/* With the lock held: those that are due leave the list for one of their own. */
static struct kq_waiter *collect(struct kq_waiters *waiters, int64_t stable, int64_t end)
{
    struct kq_waiter *due = NULL;
    for (struct kq_waiter *waiter = waiters->first, *next; waiter; waiter = next) {
        next = waiter->next;
        if (waiter->offset >= (waiter->unstable ? end : stable))
            continue;
        take_out(waiters, waiter);
        atomic_store(&waiter->state, WOKEN);
        waiter->next = due;
        due = waiter;
    }
    return due;
}

/* A waiter's memory may be gone, or armed again, as soon as it was called. */
static void call(struct kq_waiter *due, enum kq_wake why)
{
    while (due) {
        struct kq_waiter *next = due->next;
        due->wake(due, why);
        due = next;
    }
}

void kq_waiters_wake(struct kq_waiters *waiters, int64_t stable, int64_t end)
{
    pthread_mutex_lock(&waiters->lock);
    struct kq_waiter *due = collect(waiters, stable, end);
    pthread_mutex_unlock(&waiters->lock);
    call(due, KQ_WAKE_DATA);
}

void kq_waiters_end(struct kq_waiters *waiters, enum kq_wake why, int error)
{
    pthread_mutex_lock(&waiters->lock);
    waiters->ended = error;
    struct kq_waiter *due = collect(waiters, INT64_MAX, INT64_MAX);
    pthread_mutex_unlock(&waiters->lock);
    call(due, why);
}
