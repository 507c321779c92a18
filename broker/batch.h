/* Record batch v2: Kafka's unit of storage and transfer (big-endian).
 *
 *   0 baseOffset i64 · 8 batchLength i32 (bytes after it) · 12 partitionLeaderEpoch i32 · 16 magic
 *   i8 = 2 · 17 crc u32 (CRC-32C over 21…end) · 21 attributes i16 · 23 lastOffsetDelta i32 ·
 *   27 baseTimestamp i64 · 35 maxTimestamp i64 · 43 producerId i64 · 51 producerEpoch i16 ·
 *   53 baseSequence i32 · 57 recordCount i32 · 61 records
 *
 * Base offset and leader epoch lie outside the checksum: the log patches them.
 * Source: Kafka's documentation, "Message format"; KIP-98. No call here touches a disk; any thread,
 * no shared state.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "broker/base/buf.h"
#include "broker/base/err.h"

#define KQ_BATCH_OVERHEAD 12 /* baseOffset and batchLength, which batchLength does not count */
#define KQ_BATCH_HEADER 61
#define KQ_BATCH_CRC_FROM 21 /* the checksum covers all from here to the batch's end */

enum kq_codec {
    KQ_CODEC_NONE = 0,
    KQ_CODEC_GZIP = 1,
    KQ_CODEC_SNAPPY = 2,
    KQ_CODEC_LZ4 = 3,
    KQ_CODEC_ZSTD = 4,
};

enum kq_batch_attribute {
    KQ_ATTRIBUTE_CODEC = 0x07,
    KQ_ATTRIBUTE_LOG_APPEND_TIME = 0x08,
    KQ_ATTRIBUTE_TRANSACTIONAL = 0x10,
    KQ_ATTRIBUTE_CONTROL = 0x20,
    KQ_ATTRIBUTE_DELETE_HORIZON = 0x40,
};

struct kq_batch_header {
    int64_t base_offset;
    uint32_t size; /* of the whole batch in bytes: batchLength + 12 */
    int32_t leader_epoch;
    uint32_t crc;
    int16_t attributes;
    int32_t last_offset_delta;
    int64_t base_timestamp, max_timestamp; /* ms */
    int64_t producer_id;                   /* -1: none */
    int16_t producer_epoch;
    int32_t base_sequence;
    int32_t record_count;
};

static inline int64_t kq_batch_next_offset(const struct kq_batch_header *header)
{
    return header->base_offset + header->last_offset_delta + 1;
}

/* The gate for bytes from a disk or a client: reads the header at BYTES.
 *   0           RET is filled; header fields are sane by themselves (magic 2, sizes and counts not
 *               negative, record count fits the size), nothing behind the header was looked at
 *   KQ_PARTIAL  LENGTH < 61 bytes
 *   -EBADMSG    not a v2 batch */
int kq_batch_header_read(const void *bytes, size_t length, struct kq_batch_header *ret);

/* Does the checksum of the whole batch (HEADER.size bytes at BYTES) hold? 0 or -EBADMSG. */
int kq_batch_check_crc(const void *bytes, const struct kq_batch_header *header);

/* As kq_batch_check_crc, and walks every record (decompressing at most LIMIT bytes): count, deltas
 * and lengths must agree exactly. For batches from clients. SCRATCH as in kq_record_reader_open.
 * 0; -EBADMSG; -EFBIG above LIMIT; -ENOMEM. */
int kq_batch_check_records(const void *bytes, const struct kq_batch_header *header, size_t limit,
                           struct kq_buf *scratch);

/* Patches base offset and leader epoch in place; the checksum stays right. */
void kq_batch_patch(void *bytes, int64_t base_offset, int32_t leader_epoch);

/* --- Reading records --- */

struct kq_record {
    int64_t offset;
    int64_t timestamp;    /* ms; the batch's max timestamp where it is log append time */
    const uint8_t *key;   /* NULL: null key */
    int32_t key_length;   /* -1: null */
    const uint8_t *value; /* NULL: null value (tombstone) */
    int32_t value_length; /* -1: null */
    const uint8_t
        *headers; /* HEADER_COUNT times: varint length, name, varint length or -1, value */
    size_t headers_length;
    int32_t header_count;
};

struct kq_record_reader {
    const uint8_t *at, *end; /* what is left of the (decompressed) records */
    int64_t base_offset, base_timestamp;
    int64_t append_time; /* -1, or the timestamp of all records */
    int32_t left;        /* records still to come */
    int32_t last_offset_delta;
    int64_t next_offset_delta; /* the least that the next record may have: offsets ascend */
};

/* Begins reading the records of the whole batch at BYTES. Compressed records are decompressed into
 * SCRATCH (emptied first; the caller owns it; it must outlive the reader), at most LIMIT bytes.
 * 0; -EBADMSG; -EFBIG; -ENOMEM. The checksum is not looked at. */
int kq_record_reader_open(struct kq_record_reader *reader, const void *bytes,
                          const struct kq_batch_header *header, size_t limit,
                          struct kq_buf *scratch);

/* The next record; its pointers go into the batch or SCRATCH. 0; KQ_END after the last; -EBADMSG.
 */
int kq_record_next(struct kq_record_reader *reader, struct kq_record *ret);

/* Reads one record that lies whole at [at, end) of an uncompressed batch: for those that hold a
 * window of a batch only. BASE_* are the batch's. Returns its size in bytes in RET_SIZE.
 * 0; KQ_PARTIAL if the window ends before the record does; -EBADMSG. */
int kq_record_parse(const uint8_t *at, const uint8_t *end, int64_t base_offset,
                    int64_t base_timestamp, int64_t append_time, struct kq_record *ret,
                    size_t *ret_size);

/* One header of a record; *AT starts at record->headers and moves on. 0; KQ_END; -EBADMSG. */
struct kq_header {
    const uint8_t *name;
    int32_t name_length;
    const uint8_t *value; /* NULL: null */
    int32_t value_length; /* -1: null */
};
int kq_header_next(const struct kq_record *record, const uint8_t **at, struct kq_header *ret);

/* --- Building --- */

/* Builds one uncompressed batch behind what OUT already holds. Base offset 0, leader epoch 0, no
 * producer id. */
struct kq_batch_builder {
    struct kq_buf *out;
    size_t start;           /* of the batch in OUT */
    int64_t base_timestamp; /* of the first record */
    int64_t max_timestamp;
    int32_t count;
    int16_t attributes;
};

/* ATTRIBUTES: 0 or KQ_ATTRIBUTE_LOG_APPEND_TIME. -ENOMEM. */
int kq_batch_begin(struct kq_batch_builder *builder, struct kq_buf *out, int16_t attributes);

/* Adds a record. KEY, VALUE may be NULL (null). HEADERS: as in struct kq_record, HEADER_COUNT of
 * them in HEADERS_LENGTH bytes. -ENOMEM; -EFBIG if the batch would pass 2^31 - 1 bytes or records;
 * -EINVAL if the timestamp is further from the batch's first than an i64 can say: the batch is then
 * as before. */
int kq_batch_add(struct kq_batch_builder *builder, int64_t timestamp, const void *key,
                 int32_t key_length, const void *value, int32_t value_length, const void *headers,
                 size_t headers_length, int32_t header_count);

/* The fast path: adds each piece of [bytes, bytes + length) that DELIMITER ends as a record with
 * null key, no headers and timestamp TIMESTAMP; LENGTH ends right behind a delimiter. A piece
 * longer than MAX_VALUE bytes: -EMSGSIZE. -ENOMEM, -EFBIG. After an error abandon the batch. */
int kq_batch_add_lines(struct kq_batch_builder *builder, int64_t timestamp, const uint8_t *bytes,
                       size_t length, uint8_t delimiter, size_t max_value);

/* Fills the header and the checksum: the batch is bytes [builder->start, out->length). It must hold
 * a record. */
void kq_batch_finish(struct kq_batch_builder *builder);

/* Writes HEADER to the first 61 of its SIZE bytes at BYTES and computes the checksum anew over what
 * stands behind them; HEADER's own crc counts for nothing. */
void kq_batch_header_write(void *bytes, const struct kq_batch_header *header);

/* Removes what was built since kq_batch_begin. */
void kq_batch_abandon(struct kq_batch_builder *builder);

/* --- Variable-length numbers (zigzag), as in records --- */

/* Writes at most 10 bytes at AT; returns how many. */
size_t kq_varint_write(uint8_t *at, int64_t value);
size_t kq_varint_size(int64_t value);

/* Reads at *AT before END and moves *AT on. 0; KQ_PARTIAL; -EBADMSG (longer than 10 bytes). */
int kq_varint_read(const uint8_t **at, const uint8_t *end, int64_t *ret);
