/* Deadlines.
 *
 * A heap of them costs no allocation and O(log n) a change; the owner of a loop asks it for the
 * next one. kq_timers adds a thread of its own for those who have no loop; it sleeps while nothing
 * is due.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

/* Lives in its owner's memory; zero-initialised is unset. */
struct kq_timer {
    void (*expire)(struct kq_timer *timer);    /* set by the owner before the first use */
    int64_t at_ns;                             /* kq_clock_mono_ns() */
    struct kq_timer *child, *sibling, *parent; /* the heap's own (a pairing heap) */
    bool set;
    bool running; /* kq_timers': EXPIRE was called once; says more only with its lock held */
};

/* --- One thread's heap: no lock --- */

struct kq_timer_heap {
    struct kq_timer *root;
};

/* Sets TIMER, or moves it where it is set. */
void kq_timer_heap_set(struct kq_timer_heap *heap, struct kq_timer *timer, int64_t at_ns);
void kq_timer_heap_cancel(struct kq_timer_heap *heap, struct kq_timer *timer); /* unset is fine */

/* When the next one is due; INT64_MAX: none is set. */
int64_t kq_timer_heap_next_ns(const struct kq_timer_heap *heap);

/* Unsets and calls those due at NOW_NS, the earliest first; they may set and cancel timers, and
 * free the one they were called for. One set to a time that is due already runs in the same call.
 */
void kq_timer_heap_run(struct kq_timer_heap *heap, int64_t now_ns);

/* --- With a thread --- */

struct kq_timers;

/* NAME (at most 15 bytes) shows in ps -L. 0; -errno. */
int kq_timers_new(const char *name, struct kq_timers **ret);
/* Those that are set are forgotten; none is running when this returns. NULL is fine. */
void kq_timers_free(struct kq_timers *timers);

/* Sets TIMER, or moves it; EXPIRE is called on the thread of TIMERS with no lock held and must be
 * quick; it may free the timer. Any thread, also from EXPIRE. */
void kq_timers_set(struct kq_timers *timers, struct kq_timer *timer, int64_t at_ns);

/* True: EXPIRE will not be called (any more). False: it is running or about to run on the timers'
 * thread; the owner must let it happen. Never blocks. */
bool kq_timers_cancel(struct kq_timers *timers, struct kq_timer *timer);

/* Cancels. True: TIMER was set, and that call of EXPIRE will not come. False: it was not set, or
 * the call has begun, whatever follows. For owners that count their calls. Never blocks. */
bool kq_timers_take(struct kq_timers *timers, struct kq_timer *timer);
