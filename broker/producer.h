/* The producers with an id that write to one partition: what each wrote last, so that a batch which
 * is sent again is known, and the transactions that are open.
 *
 * Of each the last five batches are kept, as many as a client may have under way. A producer that
 * is not seen for long is forgotten, and so is the one seen longest ago where there are too many;
 * what it sends then is taken as it comes, as Kafka does. One that was never here begins with
 * sequence 0: were its second batch taken where the first one failed, the first could not follow.
 *
 * Source: KIP-98, KIP-360; Kafka's ProducerStateManager, ProducerAppendInfo, ProducerStateEntry.
 * Memory only. Not locked: the log's lock guards it.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/queue.h>

#include "broker/base/buf.h"
#include "broker/batch.h"
#include "broker/uthash.h"

#define KQ_PRODUCER_BATCHES 5
#define KQ_NO_SEQUENCE (-1)

struct kq_producer_batch {
    int64_t last_offset;
    int64_t timestamp; /* the largest in it */
    int32_t last_sequence;
    int32_t offset_delta; /* of the last message */
};

struct kq_producer_entry {
    int64_t id;
    int64_t seen_ms;     /* wall clock of the last append */
    int64_t timestamp;   /* the largest of the last batch; of a marker */
    int64_t transaction; /* its first offset, -1: none is open */
    int32_t coordinator_epoch;
    int16_t epoch;
    uint8_t batch_count;
    struct kq_producer_batch batches[KQ_PRODUCER_BATCHES]; /* the last one is the newest */
    UT_hash_handle hh;
    TAILQ_ENTRY(kq_producer_entry) by_use;   /* the one seen longest ago first */
    TAILQ_ENTRY(kq_producer_entry) by_start; /* of its transaction, where one is open */
};

TAILQ_HEAD(kq_producer_list, kq_producer_entry);

struct kq_producers {
    struct kq_producer_entry *by_id;
    struct kq_producer_list used, open;
    size_t count;
    size_t max;        /* entries; those with an open transaction may be more */
    int64_t forgotten; /* ids up to this one may have been here and be forgotten */
};

void kq_producers_init(struct kq_producers *producers, size_t max, int64_t forgotten);

/* Forgets all of them; FORGOTTEN as in the struct. It is as after kq_producers_init then. */
void kq_producers_clear(struct kq_producers *producers, int64_t forgotten);

/* May the batch of messages with HEADER, which has a producer id, be appended now?
 * 0; KQ_READY: it was already, RET says where; KQ_OUT_OF_ORDER_SEQUENCE; KQ_FENCED_PRODUCER;
 * KQ_TRANSACTIONAL: it is not part of the transaction that is open. */
int kq_producers_check(const struct kq_producers *producers, const struct kq_batch_header *header,
                       struct kq_producer_batch *ret);

/* Sees to it that kq_producers_note needs no memory for ID: to be called before its batch is
 * written; kq_producers_unreserve takes it back if the batch was not. -ENOMEM. */
int kq_producers_reserve(struct kq_producers *producers, int64_t id);
void kq_producers_unreserve(struct kq_producers *producers, int64_t id);

/* The batch of messages with HEADER is in the log. Takes what it says as true. 0; -ENOMEM, unless
 * there is room for its id. */
int kq_producers_note(struct kq_producers *producers, const struct kq_batch_header *header,
                      int64_t now_ms);

/* A transaction that ended. */
struct kq_producer_end {
    int64_t first_offset; /* -1: none was open */
    int64_t last_stable;  /* the first offset of those that still are, else behind the marker */
};

/* As kq_producers_note, for a control batch that ends a transaction. */
int kq_producers_note_end(struct kq_producers *producers, const struct kq_batch_header *header,
                          int32_t coordinator_epoch, int64_t now_ms, struct kq_producer_end *ret);

/* Forgets those that were not seen since BEFORE_MS and have no open transaction. RET_OLDEST_MS:
 * when the oldest of the others was seen, INT64_MAX where there is none. Returns how many went. */
size_t kq_producers_expire(struct kq_producers *producers, int64_t before_ms,
                           int64_t *ret_oldest_ms);

/* The last offset of ENTRY's open transaction. */
int64_t kq_producer_last_offset(const struct kq_producer_entry *entry);

/* Open transactions that have no message at START or behind are none any more. Were there some? */
bool kq_producers_drop_open(struct kq_producers *producers, int64_t start);

/* The first offset that is not decided: of the oldest open transaction; INT64_MAX. */
int64_t kq_producers_unstable(const struct kq_producers *producers);

struct kq_producer_entry *kq_producers_find(const struct kq_producers *producers, int64_t id);

/* --- `.snapshot`: Kafka's file (version 1), and behind its entries what else is known of them ---
 */

/* Appends the file's bytes to OUT. -ENOMEM. */
int kq_producers_write(const struct kq_producers *producers, struct kq_buf *out);

/* Fills PRODUCERS, which is empty, from the file's bytes. RET_OURS: this broker wrote it; else the
 * producers count as seen at NOW_MS. 0; -EBADMSG: damaged or of another version, PRODUCERS is empty
 * again; -ENOMEM. */
int kq_producers_read(struct kq_producers *producers, const void *bytes, size_t length,
                      int64_t now_ms, bool *ret_ours);

/* Sequence + DELTA: they wrap from 2^31 - 1 to 0. */
static inline int32_t kq_sequence_add(int32_t sequence, int32_t delta)
{
    return (int32_t)(((int64_t)sequence + delta) & INT32_MAX);
}
