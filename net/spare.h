/* Memory of large requests that is used again by the next ones.
 *
 * What malloc(3) gives for a large request are fresh pages, each of which costs a fault, and what
 * it takes back it may keep. So a loop keeps the memory of a few large requests that have gone for
 * those that come; when none has come for a while it is given back. The loop's thread only.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "net/loop.h"

#define KQ_SPARES 2 /* more than a connection that is busy has at a time are not of use */
#define KQ_SPARE_LEAST ((size_t)128 * 1024)
#define KQ_SPARE_MOST ((size_t)2 * 1024 * 1024)

/* Zero-initialised but for LOOP, whose timers it uses, has none. */
struct kq_spares {
    void *at[KQ_SPARES];
    unsigned count;
    bool used; /* since the timer was set */
    struct kq_timer timer;
    struct kq_loop *loop;
};

/* MEMORY of malloc(3), NULL included, is not wanted any more: it is kept for later, or freed. */
void kq_spares_give(struct kq_spares *spares, void *memory);

/* Memory for a frame of SIZE bytes of which LEAST are needed now: at least that many, at most twice
 * SIZE. The caller's; RET_CAPACITY is what may be used of it, at most SIZE. NULL: there is none. */
void *kq_spares_take(struct kq_spares *spares, size_t least, size_t size, size_t *ret_capacity);

/* Frees them; the loop has ended. */
void kq_spares_release(struct kq_spares *spares);
