#include "net/produce_sync.h"

#include <pthread.h>
#include <stddef.h>

#include "broker/base/mem.h"
#include "net/errmap.h"

#define NS_PER_MS INT64_C(1000000)

struct one {
    struct kq_sync sync;
    struct kq_produce_syncs *all;
    bool finished;
    int error;
};

/* Outlives the request where that does not wait any longer: a sync cannot be taken back. */
struct kq_produce_syncs {
    pthread_mutex_t lock;
    struct kq_request *request; /* NULL: nobody waits */
    const struct kq_produce_wait *waits;
    kq_handle_fn conclude;
    struct kq_timer timer;
    size_t pending;
    size_t count;
    struct one each[];
};

static void free_syncs(struct kq_produce_syncs *all)
{
    pthread_mutex_destroy(&all->lock);
    free(all);
}

/* Errors into the answers; what is not finished has taken too long. With the lock held, or when
 * nothing is pending any more. */
static void note_errors(struct kq_produce_syncs *all)
{
    for (size_t i = 0; i < all->count; i++) {
        int error = all->each[i].finished ? all->each[i].error : -ETIMEDOUT;
        if (error)
            *all->waits[i].error = kq_error_from(error);
    }
}

/* On the loop: all of them are finished. */
static enum kq_handled conclude(struct kq_request *request)
{
    struct kq_produce_waits *waits = request->state;
    struct kq_produce_syncs *all = waits->syncs;
    kq_handle_fn next = all->conclude;
    if (all->timer.set)
        kq_request_cancel_timer(request, &all->timer);
    note_errors(all);
    free_syncs(all);
    request->cancel = NULL;
    return next(request);
}

/* COUNT of them are finished. */
static void count_down(struct kq_produce_syncs *all, size_t count)
{
    pthread_mutex_lock(&all->lock);
    all->pending -= count;
    bool last = all->pending == 0;
    struct kq_request *request = all->request;
    pthread_mutex_unlock(&all->lock);
    if (!last)
        return;
    if (request)
        kq_request_post(request, conclude);
    else
        free_syncs(all);
}

static void synced(struct kq_sync *sync, int error)
{
    struct one *one = (struct one *)sync;
    struct kq_produce_syncs *all = one->all;
    pthread_mutex_lock(&all->lock);
    one->finished = true;
    one->error = error;
    pthread_mutex_unlock(&all->lock);
    count_down(all, 1);
}

/* On the loop: the answer goes as it is, unless the last sync has finished and brings it. */
static void give_up(struct kq_produce_syncs *all)
{
    pthread_mutex_lock(&all->lock);
    struct kq_request *request = all->request;
    kq_handle_fn next = all->conclude;
    bool early = all->pending > 0;
    if (early) {
        note_errors(all);
        if (all->timer.set)
            kq_request_cancel_timer(request, &all->timer);
        request->cancel = NULL;
        all->request = NULL;
    }
    pthread_mutex_unlock(&all->lock);
    if (early)
        kq_request_finish(request, next(request));
}

static void expire(struct kq_timer *timer)
{
    give_up((struct kq_produce_syncs *)((char *)timer - offsetof(struct kq_produce_syncs, timer)));
}

static void cancel(struct kq_request *request)
{
    struct kq_produce_waits *waits = request->state;
    give_up(waits->syncs);
}

static struct kq_produce_syncs *make(size_t count)
{
    struct kq_produce_syncs *all = kq_zalloc(sizeof(*all) + count * sizeof(all->each[0]));
    if (!all)
        return NULL;
    pthread_mutex_init(&all->lock, NULL);
    all->timer.expire = expire;
    all->count = count;
    for (size_t i = 0; i < count; i++) {
        all->each[i].all = all;
        all->each[i].sync.done = synced;
    }
    return all;
}

/* How many are finished already; the others call back. */
static size_t start(struct kq_produce_syncs *all)
{
    size_t finished = 0;
    for (size_t i = 0; i < all->count; i++) {
        int r = kq_sync(all->waits[i].partition, &all->each[i].sync);
        if (r == 0)
            continue;
        pthread_mutex_lock(&all->lock);
        all->each[i].finished = true;
        all->each[i].error = r == KQ_READY ? 0 : r;
        pthread_mutex_unlock(&all->lock);
        finished++;
    }
    return finished;
}

enum kq_handled kq_produce_sync(struct kq_request *request, int32_t timeout_ms, kq_handle_fn next)
{
    struct kq_produce_waits *waits = request->state;
    struct kq_produce_syncs *all = make(waits->count);
    if (!all)
        return KQ_HANDLED_CLOSE;
    all->request = request;
    all->waits = waits->at;
    all->conclude = next;
    all->pending = all->count + 1; /* one more: nobody is ahead of what follows */
    request->cancel = cancel;
    waits->syncs = all;
    if (timeout_ms > 0)
        kq_request_set_timer(request, &all->timer, request->received_ns + timeout_ms * NS_PER_MS);
    count_down(all, start(all) + 1);
    return KQ_HANDLED_PARKED;
}
