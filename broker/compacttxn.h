/* Transactions that a log from Kafka brings along, while it is compacted: which batches were
 * aborted, and when a marker may go.
 *
 * The cleaner reads the log from its front. An aborted transaction is known before its first batch
 * comes, from the .txnindex files (34-byte entries: version i16 = 0, producer id, first offset,
 * last offset, last stable offset, i64 each; aborted.h). A marker may go when nothing of its
 * transaction was met any more; an abort marker that stays keeps its entry.
 *
 * Source: Kafka's CleanedTransactionMetadata, TransactionIndex. One thread.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "broker/base/buf.h"
#include "broker/batch.h"

#define KQ_ABORTED_ENTRY 34

struct kq_compact_aborted {
    int64_t producer_id;
    int64_t first_offset, last_offset; /* the last is the marker's */
    int64_t last_stable;               /* the last stable offset when it ended */
};

void kq_compact_aborted_write(uint8_t *at, const struct kq_compact_aborted *aborted);
/* 0; -EBADMSG: not an entry of a version that is known. */
int kq_compact_aborted_read(const uint8_t *at, struct kq_compact_aborted *ret);

struct kq_compact_txns {
    struct kq_compact_aborted *ahead; /* a heap by first offset: those that did not begin yet */
    size_t ahead_count, ahead_capacity;
    struct kq_compact_ongoing *aborted, *committed; /* hash tables by producer */
};

/* Zero-initialise TXNS. */
void kq_compact_txns_release(struct kq_compact_txns *txns);

/* These are aborted; before the first of their batches comes. -ENOMEM. */
int kq_compact_txns_expect(struct kq_compact_txns *txns, const struct kq_compact_aborted *aborted,
                           size_t count);

/* The next batch, one of messages. RET_DISCARD: it was aborted. -ENOMEM. */
int kq_compact_txns_batch(struct kq_compact_txns *txns, const struct kq_batch_header *header,
                          bool *ret_discard);

enum kq_compact_marker {
    KQ_MARKER_ABORT = 0,
    KQ_MARKER_COMMIT = 1,
    KQ_MARKER_OTHER, /* not about a transaction: stays */
    KQ_MARKER_EMPTY, /* emptied before, and kept for its producer only */
};

/* What the whole control batch at BYTES marks. -EBADMSG. */
int kq_compact_marker_read(const uint8_t *bytes, const struct kq_batch_header *header,
                           enum kq_compact_marker *ret);

/* The next batch, one that marks MARKER. RET_DISCARD: nothing of its transaction is left.
 * RET_ABORTED: the entry that has to stay with it, first_offset -1 where there is none. -ENOMEM. */
int kq_compact_txns_marker(struct kq_compact_txns *txns, const struct kq_batch_header *header,
                           enum kq_compact_marker marker, bool *ret_discard,
                           struct kq_compact_aborted *ret_aborted);
