/* The checks that a client's batch has to pass, and the changes that a topic asks for.
 *
 * Source: Kafka's LogValidator and UnifiedLog.analyzeAndValidateRecords, for magic 2 and batches
 * from clients. No call here touches a disk; any thread, no shared state.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "broker/batch.h"

struct kq_batch_rules {
    int64_t max_bytes;     /* max.message.bytes: of the batch as sent */
    size_t limit;          /* decompressed bytes that are looked at at most */
    int64_t now_ms;        /* wall clock */
    int64_t before_max_ms; /* message.timestamp.before.max.ms */
    int64_t after_max_ms;  /* message.timestamp.after.max.ms */
    bool append_time;      /* message.timestamp.type is LogAppendTime */
    bool needs_keys;       /* cleanup.policy has `compact` */
    bool zstd;             /* the client may send it */
    /* As kq_produce's of this name; NULL: the first record to blame ends the check. */
    struct kq_buf *blamed;
};

struct kq_batch_verdict {
    struct kq_batch_header header;
    int64_t max_timestamp; /* of the records */
    int32_t record_index;  /* the first record to blame, -1: the batch */
    const char *reason;    /* static; NULL where it passed */
};

/* Checks all of [bytes, bytes + length), which must be one batch. WINDOW: as in kq_codec_stream.
 * 0: RET is filled. KQ_CORRUPT, KQ_INVALID_RECORD, KQ_TOO_LARGE, KQ_INVALID_TIMESTAMP,
 * KQ_UNSUPPORTED_CODEC, KQ_TRANSACTIONAL (broker/produce.h says when): RET has reason and
 * record_index. -EFBIG: more than LIMIT bytes to look at; -ENOMEM. */
int kq_batch_validate(const uint8_t *bytes, size_t length, const struct kq_batch_rules *rules,
                      struct kq_buf *window, struct kq_batch_verdict *ret);

/* Puts ATTRIBUTES and MAX_TIMESTAMP into the batch and makes its checksum right, in place; HEADER
 * follows. */
void kq_batch_stamp(uint8_t *bytes, struct kq_batch_header *header, int16_t attributes,
                    int64_t max_timestamp);

/* Appends the batch, which passed, to OUT with its records compressed by CODEC at LEVEL (as in
 * kq_codec_compress; KQ_CODEC_NONE: not compressed). SCRATCH is emptied first. 0; -EFBIG: it would
 * pass 2^31 - 1 bytes, or more than LIMIT decompressed; -ENOMEM; -EBADMSG. */
int kq_batch_recompress(const uint8_t *bytes, const struct kq_batch_header *header,
                        enum kq_codec codec, int level, size_t limit, struct kq_buf *scratch,
                        struct kq_buf *out);

/* The same, as CONFIG, whose compression.type is not `producer`, says. */
struct kq_topic_config;
int kq_batch_store_as(const struct kq_topic_config *config, const uint8_t *bytes,
                      const struct kq_batch_header *header, struct kq_buf *scratch,
                      struct kq_buf *out);
