/* A Fetch under way: what its partitions have given so far, and what it waits for. */
#pragma once

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "broker/broker.h"
#include "net/message/fetch.h"
#include "net/request.h"
#include "net/topics.h"

struct kq_fetch;

/* One partition of a request. */
struct kq_fetch_part {
    struct kq_fetch *fetch;
    const struct kq_topic_ref *ref;
    const struct kq_fetch_request_partition *asked;
    struct kq_fetch_response_partition *answer;
    struct kq_access access; /* its partition is referenced; NULL: the answer is an error */
    struct kq_extent extent; /* what the answer's records are */
    struct kq_waiter waiter;
    bool armed; /* the waiter's wake will be called, or was and is not looked at yet */
    enum kq_wake why;
    struct kq_fetch_part *next; /* in the list that it is in: woken, unread, read */
};

struct kq_fetch {
    struct kq_request *request;
    struct kq_topic_ref *refs;   /* of the request's topics */
    struct kq_fetch_part *parts; /* in the request's order */
    int32_t count;
    bool committed; /* READ_COMMITTED */
    int64_t max_bytes, min_bytes;
    int64_t bytes;                /* of all extents */
    bool due;                     /* nothing further is waited for */
    bool fenced;                  /* an answer names the leader */
    uint64_t attribute_changes;   /* up to when the caller's rights were asked */
    unsigned identity_changes;    /* the same, of the request */
    struct kq_fetch_part *unread; /* to be read, in this order */
    struct kq_fetch_part *read;   /* to be waited for */

    /* Waking; see fetch_wait.c. */
    atomic_uint news;
    _Atomic(struct kq_fetch_part *) woken;
    struct kq_timer timer;
};

/* --- fetch_read.c --- */

/* Reads PART from the offset that was asked for, instead of what it has so far, and fills its
 * answer. Sets fetch->due where there is nothing to wait for: an error, or more than fits. 0;
 * KQ_WOULD_BLOCK unless MAY_BLOCK: PART is as before. */
int kq_fetch_read(struct kq_fetch_part *part, bool may_block);

/* PART is an error: it has no records. */
void kq_fetch_refuse(struct kq_fetch_part *part, int16_t error);

/* The answer is to go: its offsets become what they are now, and what it holds is counted. */
void kq_fetch_finish(struct kq_fetch_part *part);

/* --- fetch_wait.c --- */

/* What the waits need, before the first of them: fetch->request, parts and count are set. */
void kq_fetch_prepare(struct kq_fetch *fetch);

/* Reads all parts, and waits for them, on a thread of the pool; then has the loop advance. */
void kq_fetch_begin(struct kq_fetch *fetch);

/* Reads what is unread; then waits until there are min_bytes or max_wait_ms are over, or completes
 * the response. Returns what the handler is to return. On the loop. */
enum kq_handled kq_fetch_advance(struct kq_fetch *fetch);
