/* The door for producers over the wire: one batch as a client sent it, checked and appended.
 *
 * Happy path: the batch is read once (checksum, header, records), its offset and leader epoch are
 * patched, and it is appended as it is: its checksum stays the client's. Compressed records are
 * decompressed piece by piece, only to be checked. A producer with an id has its sequence checked,
 * appended and remembered in one step, so that a batch that is sent again is not appended again.
 *
 * Failure modes: a batch that is refused changes nothing. The condition says why, RET has the
 * record and the reason in words.
 *
 * Source of the checks: Kafka's LogValidator, ProducerAppendInfo and UnifiedLog; KIP-98, KIP-360.
 * Any thread.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "broker/broker.h"

enum kq_produce_flags {
    KQ_PRODUCE_ZSTD = 1 << 0,      /* the client may send zstd: Produce 7 and later */
    KQ_PRODUCE_MAY_BLOCK = 1 << 1, /* this thread may wait for a disk and may compute for long */
};

struct kq_produce {
    uint8_t *bytes; /* all of the request's records for one partition; changed in place */
    size_t length;
    unsigned flags; /* of enum kq_produce_flags */
    /* Room to decompress and recompress in, of this thread, emptied first. It may grow; it is given
     * back with no more than KQ_PRODUCE_KEEP bytes. */
    struct kq_buf *scratch;
    /* Gets a struct kq_blamed for each record whose key or timestamp is refused, in order, the
     * first KQ_BLAMED_MAX of them; emptied first. NULL: only the first counts. */
    struct kq_buf *blamed;
};

#define KQ_PRODUCE_KEEP (1024 * 1024)

/* KIP-467: the client is told of each, and may send the others again. */
struct kq_blamed {
    int32_t index;
    const char *reason; /* static */
};
#define KQ_BLAMED_MAX 10000

struct kq_produced {
    int64_t base_offset;      /* of the batch; of the earlier one where it is a DUPLICATE */
    int64_t next_offset;      /* behind it: what acks=all and kq_wait are about */
    int64_t log_append_time;  /* ms; -1 unless message.timestamp.type is LogAppendTime */
    int64_t log_start_offset; /* of the partition; set with every condition, too */
    bool duplicate;           /* it was appended before, nothing was done now */
    int32_t record_index;     /* of the first record to blame, -1: the batch as a whole */
    const char *reason;       /* in words, for error_message; static; NULL where it was taken */
};

/* Checks and appends one batch, wakes waiters, tells listeners.
 *   0                          appended (or a duplicate): RET says where
 *   KQ_MUST_SYNC               the same, but the topic's flush.messages asks for kq_sync() before
 *                              it is acknowledged
 *   KQ_WOULD_BLOCK             without KQ_PRODUCE_MAY_BLOCK only: it would take long (much to
 *                              decompress, to recompress for compression.type, a disk); nothing
 *                              was done and BYTES are as they came: call again where it may block
 * Refused, nothing was done; RET's reason, record_index and log_start_offset are set:
 *   KQ_CORRUPT                 CORRUPT_MESSAGE: checksum, or a length that does not fit
 *   KQ_INVALID_RECORD          INVALID_RECORD: not one v2 batch, counts, offsets, a record's
 *                              structure, control batches, a null key on a compacted topic,
 *                              what decompresses to more than is read (max_batch_bytes)
 *   KQ_TOO_LARGE               MESSAGE_TOO_LARGE: the batch as sent is above max.message.bytes
 *   KQ_INVALID_TIMESTAMP       INVALID_TIMESTAMP: outside message.timestamp.before.max.ms,
 *                              after.max.ms, or a client that says LogAppendTime
 *   KQ_UNSUPPORTED_CODEC       UNSUPPORTED_COMPRESSION_TYPE: zstd without KQ_PRODUCE_ZSTD
 *   KQ_OUT_OF_ORDER_SEQUENCE   OUT_OF_ORDER_SEQUENCE_NUMBER
 *   KQ_FENCED_PRODUCER         INVALID_PRODUCER_EPOCH: a newer epoch was seen
 *   KQ_TRANSACTIONAL           INVALID_TXN_STATE: transactions do not exist here yet; also a batch
 *                              without one of a producer whose transaction is open (imported logs)
 * -EACCES, -ESTALE, -ENOMEM and as kq_log_append. */
int kq_produce_batch(const struct kq_access *access, const struct kq_produce *produce,
                     struct kq_produced *ret);

/* compression.type for the mount: appends the batch at BYTES, one that was built here, to OUT as
 * CONFIG says it is to be stored. 0; KQ_END: it is to be stored as it is, or would not become
 * smaller; -ENOMEM. */
int kq_produce_compress(const struct kq_topic_config *config, const uint8_t *bytes, size_t length,
                        struct kq_buf *out);

/* --- Producer ids --- */

/* A producer id that was never given out before in the life of the data directory, nor seen in a
 * log that was taken over; its epoch is 0. InitProducerId without a transactional id gets one
 * whatever id and epoch it names, as in Kafka: such producers count their epochs themselves
 * (KIP-360). Ids come in blocks; only a new block waits for the disk: KQ_WOULD_BLOCK unless
 * MAY_BLOCK. 0; KQ_WOULD_BLOCK; -EROFS, -ENOSPC, -errno. */
int kq_producer_id_new(struct kq_broker *broker, bool may_block, int64_t *ret);

/* IDEMPOTENT_WRITE: may CALLER make a topic, or write to any partition of any topic? Asks partition
 * by partition until one is found: call it where it may take long. 0; -EACCES. */
int kq_producer_id_access(struct kq_broker *broker, const struct kq_caller *caller);

/* --- Transactions, of logs that were imported from Kafka --- */

struct kq_aborted {
    int64_t producer_id;
    int64_t first_offset; /* of the transaction; its batches are aborted up to its control batch */
    int64_t last_offset;  /* of that control batch */
};

/* The aborted transactions that overlap the offsets [FROM, TO), by last offset: what
 * aborted_transactions of a Fetch with READ_COMMITTED lists. Where there are none RET_COUNT is 0
 * and RET NULL, at the cost of one load; free RET with free(3).
 * 0; KQ_WOULD_BLOCK unless MAY_BLOCK, where an index must be read; -EACCES, -ESTALE, -ENOMEM,
 * -errno. */
int kq_aborted(const struct kq_access *access, int64_t from, int64_t to, bool may_block,
               struct kq_aborted **ret, size_t *ret_count);

/* Was the batch with HEADER, one that is transactional and no control batch, aborted? As
 * kq_aborted. */
int kq_is_aborted(const struct kq_access *access, const struct kq_batch_header *header,
                  bool may_block, bool *ret);

/* --- Leader epochs: all of them never block --- */

#define KQ_NO_EPOCH (-1)

/* The epoch with which batches are appended now: 0, or that with which an imported log ended, which
 * never goes back. */
int32_t kq_leader_epoch(struct kq_partition *partition);

/* The epoch of the batch at OFFSET, as ListOffsets answers it; KQ_NO_EPOCH where none is recorded.
 */
int32_t kq_leader_epoch_at(struct kq_partition *partition, int64_t offset);

/* OffsetForLeaderEpoch, as Kafka's LeaderEpochFileCache answers it: the largest known epoch <=
 * EPOCH and the offset at which the next one begins (the log's end behind the last; for an EPOCH
 * before the first, EPOCH itself and where the first begins). 0; KQ_END: EPOCH is negative or newer
 * than the present one: answer -1 and -1. */
int kq_leader_epoch_end(struct kq_partition *partition, int32_t epoch, int32_t *ret_epoch,
                        int64_t *ret_end);

/* What a client may say of when a message was made: counted from the clock. AFTER_MAX_MS >= 0;
 * BEFORE_MAX_MS INT64_MAX: as old as it likes. */
void kq_timestamp_bounds(int64_t now_ms, int64_t before_max_ms, int64_t after_max_ms,
                         int64_t *ret_oldest, int64_t *ret_newest);
