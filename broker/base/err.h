/* Two kinds of failure, in one int.
 *
 *   0        done
 *   < 0      fatal for this call: a negated errno; pass it on
 *   > 0      one of the conditions below, where the call's contract names it; the caller must
 *            handle it
 *
 * Results come back through `ret_` arguments, last in the list and untouched unless the call
 * returned 0 (or a condition whose contract says otherwise).
 */
#pragma once

#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <unistd.h>

enum kq_condition {
    KQ_END = 1,     /* there is nothing further: end of the log, of a batch, of a list */
    KQ_WOULD_BLOCK, /* the answer may wait for a disk: ask again from a thread that may block */
    KQ_MUST_SYNC,   /* done, but the policy asks for kq_sync() before it is acknowledged */
    KQ_GONE,        /* the offset or text position lies before the log start */
    KQ_BEYOND,      /* the offset or text position lies after the end */
    KQ_READY,       /* nothing to wait for: it is there already */
    KQ_PARTIAL,     /* part of an item; more bytes are needed */
    KQ_HOLE,        /* the text there was cleaned away by compaction */

    /* A client's batch was refused; broker/produce.h says when. */
    KQ_CORRUPT,
    KQ_INVALID_RECORD,
    KQ_TOO_LARGE,
    KQ_INVALID_TIMESTAMP,
    KQ_UNSUPPORTED_CODEC,
    KQ_OUT_OF_ORDER_SEQUENCE,
    KQ_FENCED_PRODUCER,
    KQ_TRANSACTIONAL,
};

#define kq_likely(x) __builtin_expect(!!(x), 1)
#define kq_unlikely(x) __builtin_expect(!!(x), 0)
#define kq_array_size(a) (sizeof(a) / sizeof((a)[0]))
#define kq_printf_like(text, first) __attribute__((format(printf, text, first)))

static inline void kq_free_p(void *pointer)
{
    free(*(void **)pointer);
}

static inline void kq_close_p(int *fd)
{
    if (*fd >= 0)
        close(*fd);
}

/* The variable is freed (closed) when it leaves its scope. */
#define kq_autofree __attribute__((cleanup(kq_free_p)))
#define kq_autoclose __attribute__((cleanup(kq_close_p)))

static inline int64_t kq_min64(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static inline int64_t kq_max64(int64_t a, int64_t b)
{
    return a > b ? a : b;
}
