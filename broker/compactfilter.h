/* What compaction keeps of one batch.
 *
 * A message stays while it is the last one of its key, and a tombstone until the time is over that
 * is written into its batch when a cleaning first meets it (delete.retention.ms; KIP-534): bit 6 of
 * the attributes is set then, and the base timestamp is that time. Offsets never change: a batch
 * keeps its base and its last offset, producer id, epoch and sequence, and its codec. A batch that
 * loses all its messages goes, unless its producer or the log's end is to be told from it.
 *
 * Source: Kafka's LogCleaner (Cleaner.cleanInto, shouldRetainRecord), MemoryRecords.filterTo.
 * One thread.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "broker/base/buf.h"
#include "broker/batch.h"
#include "broker/compactmap.h"
#include "broker/compacttxn.h"

/* The last thing that an active producer wrote: its batch stays. */
struct kq_compact_producer {
    int64_t producer_id;
    int64_t last_offset; /* of its last batch of messages; -1: it wrote a marker last */
    int16_t epoch;
};

struct kq_compact_filter {
    const struct kq_compact_map *map;
    int64_t map_end; /* messages from this offset on are not in MAP: they stay */
    int64_t now_ms, delete_retention_ms;
    size_t limit; /* decompressed bytes of a batch that are read at most */
    struct kq_compact_txns *txns;
    const struct kq_compact_producer *producers; /* ascending by producer id */
    size_t producer_count;
    /* Called for each message (not of control batches) in order. NULL: not wanted. */
    int (*message)(void *context, const struct kq_record *record, bool kept);
    void *context;
    struct kq_buf inflated, records; /* scratch */
};

struct kq_compact_filtered {
    size_t length; /* bytes that were appended; 0: the batch is gone */
    bool changed;  /* it is not what it was, or gone */
    int64_t messages_in, messages_out;
    int64_t keyless;                   /* messages without a key among those that went */
    struct kq_compact_aborted aborted; /* to be kept in the index; first_offset -1: none */
};

/* Zero-initialise it but for the fields above the scratch. */
void kq_compact_filter_release(struct kq_compact_filter *filter);

/* Appends what is left of the whole batch at BYTES, whose checksum holds, to OUT. KEEP_EMPTY: at
 * least its header stays. 0; -EBADMSG (its records cannot be read); -EFBIG; -ENOMEM; what MESSAGE
 * returned (< 0). */
int kq_compact_batch(struct kq_compact_filter *filter, const uint8_t *bytes,
                     const struct kq_batch_header *header, bool keep_empty, struct kq_buf *out,
                     struct kq_compact_filtered *ret);
