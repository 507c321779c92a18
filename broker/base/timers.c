#include "broker/base/timers.h"

#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <time.h>

#include "broker/base/clock.h"
#include "broker/base/err.h"
#include "broker/base/mem.h"

/* --- The pairing heap: `parent` of a first child is its parent, of others the sibling before ---
 */

/* Both are roots; either may be NULL. */
static struct kq_timer *meld(struct kq_timer *a, struct kq_timer *b)
{
    if (!a || !b)
        return a ? a : b;
    if (b->at_ns < a->at_ns) {
        struct kq_timer *swapped = a;
        a = b;
        b = swapped;
    }
    b->sibling = a->child;
    if (b->sibling)
        b->sibling->parent = b;
    b->parent = a;
    a->child = b;
    return a;
}

/* Melds the siblings from FIRST on, in two passes without recursion: there may be a million. */
static struct kq_timer *meld_siblings(struct kq_timer *first)
{
    struct kq_timer *pairs = NULL, *whole = NULL;
    while (first) {
        struct kq_timer *second = first->sibling;
        struct kq_timer *rest = second ? second->sibling : NULL;
        first->sibling = first->parent = NULL;
        if (second)
            second->sibling = second->parent = NULL;
        struct kq_timer *pair = meld(first, second);
        pair->sibling = pairs;
        pairs = pair;
        first = rest;
    }
    while (pairs) {
        struct kq_timer *rest = pairs->sibling;
        pairs->sibling = NULL;
        whole = meld(whole, pairs);
        pairs = rest;
    }
    return whole;
}

void kq_timer_heap_cancel(struct kq_timer_heap *heap, struct kq_timer *timer)
{
    if (!timer->set)
        return;
    struct kq_timer *children = meld_siblings(timer->child);
    if (timer == heap->root) {
        heap->root = children;
    } else {
        if (timer->parent->child == timer)
            timer->parent->child = timer->sibling;
        else
            timer->parent->sibling = timer->sibling;
        if (timer->sibling)
            timer->sibling->parent = timer->parent;
        heap->root = meld(heap->root, children);
    }
    timer->child = timer->sibling = timer->parent = NULL;
    timer->set = false;
}

void kq_timer_heap_set(struct kq_timer_heap *heap, struct kq_timer *timer, int64_t at_ns)
{
    kq_timer_heap_cancel(heap, timer);
    timer->at_ns = at_ns;
    timer->set = true;
    heap->root = meld(heap->root, timer);
}

int64_t kq_timer_heap_next_ns(const struct kq_timer_heap *heap)
{
    return heap->root ? heap->root->at_ns : INT64_MAX;
}

void kq_timer_heap_run(struct kq_timer_heap *heap, int64_t now_ns)
{
    while (heap->root && heap->root->at_ns <= now_ns) {
        struct kq_timer *due = heap->root;
        kq_timer_heap_cancel(heap, due);
        due->expire(due);
    }
}

/* --- With a thread --- */

#define NAME_BYTES 16
#define LONGEST_SLEEP_NS (3600LL * 1000000000)

struct kq_timers {
    pthread_mutex_t lock;
    pthread_cond_t wake;
    pthread_t thread;
    struct kq_timer_heap heap;
    struct kq_timer *running; /* the one being called: an address only, its owner may free it */
    int64_t asleep_until_ns;  /* INT64_MIN: awake, and will look at the heap before it sleeps */
    bool stopping;
    char name[NAME_BYTES];
};

/* Time is asked of the seam, but slept by the true clock: only the difference counts. */
static void sleep_until(struct kq_timers *timers, int64_t at_ns, int64_t now_ns)
{
    timers->asleep_until_ns = at_ns;
    if (at_ns == INT64_MAX) {
        pthread_cond_wait(&timers->wake, &timers->lock);
    } else {
        struct timespec until;
        int64_t left_ns = kq_min64(at_ns - now_ns, LONGEST_SLEEP_NS);
        clock_gettime(CLOCK_MONOTONIC, &until);
        left_ns += until.tv_nsec;
        until.tv_sec += left_ns / 1000000000;
        until.tv_nsec = left_ns % 1000000000;
        pthread_cond_timedwait(&timers->wake, &timers->lock, &until);
    }
    timers->asleep_until_ns = INT64_MIN;
}

/* `running` stays set in the timer itself, which may be gone by the time EXPIRE returns; it counts
 * only together with the address, so that a new timer at the same place is not taken for this. */
static void run_first(struct kq_timers *timers)
{
    struct kq_timer *due = timers->heap.root;
    kq_timer_heap_cancel(&timers->heap, due);
    due->running = true;
    timers->running = due;
    pthread_mutex_unlock(&timers->lock);
    due->expire(due);
    pthread_mutex_lock(&timers->lock);
    timers->running = NULL;
}

static void *work(void *argument)
{
    struct kq_timers *timers = argument;
    pthread_setname_np(pthread_self(), timers->name);
    pthread_mutex_lock(&timers->lock);
    while (!timers->stopping) {
        int64_t now_ns = kq_clock_mono_ns();
        int64_t at_ns = kq_timer_heap_next_ns(&timers->heap);
        if (at_ns <= now_ns)
            run_first(timers);
        else
            sleep_until(timers, at_ns, now_ns);
    }
    pthread_mutex_unlock(&timers->lock);
    return NULL;
}

static int start(struct kq_timers *timers)
{
    sigset_t all, before;
    sigfillset(&all);
    sigdelset(&all, SIGSYS); /* of a system call that is refused: broker/seccomp.c */
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int error = pthread_create(&timers->thread, NULL, work, timers);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return -error;
}

static void destroy(struct kq_timers *timers)
{
    pthread_cond_destroy(&timers->wake);
    pthread_mutex_destroy(&timers->lock);
    free(timers);
}

int kq_timers_new(const char *name, struct kq_timers **ret)
{
    struct kq_timers *timers = kq_zalloc(sizeof(*timers));
    if (!timers)
        return -ENOMEM;
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_mutex_init(&timers->lock, NULL);
    pthread_cond_init(&timers->wake, &monotonic);
    pthread_condattr_destroy(&monotonic);
    strncpy(timers->name, name, NAME_BYTES - 1);
    timers->asleep_until_ns = INT64_MIN;
    int r = start(timers);
    if (r < 0) {
        destroy(timers);
        return r;
    }
    *ret = timers;
    return 0;
}

void kq_timers_free(struct kq_timers *timers)
{
    if (!timers)
        return;
    pthread_mutex_lock(&timers->lock);
    timers->stopping = true;
    pthread_cond_signal(&timers->wake);
    pthread_mutex_unlock(&timers->lock);
    pthread_join(timers->thread, NULL);
    destroy(timers);
}

void kq_timers_set(struct kq_timers *timers, struct kq_timer *timer, int64_t at_ns)
{
    pthread_mutex_lock(&timers->lock);
    kq_timer_heap_set(&timers->heap, timer, at_ns);
    if (at_ns < timers->asleep_until_ns)
        pthread_cond_signal(&timers->wake);
    pthread_mutex_unlock(&timers->lock);
}

bool kq_timers_cancel(struct kq_timers *timers, struct kq_timer *timer)
{
    pthread_mutex_lock(&timers->lock);
    kq_timer_heap_cancel(&timers->heap, timer);
    bool running = timers->running == timer && timer->running;
    pthread_mutex_unlock(&timers->lock);
    return !running;
}

bool kq_timers_take(struct kq_timers *timers, struct kq_timer *timer)
{
    pthread_mutex_lock(&timers->lock);
    bool was_set = timer->set;
    kq_timer_heap_cancel(&timers->heap, timer);
    pthread_mutex_unlock(&timers->lock);
    return was_set;
}
