/* A segment and its indexes as Kafka writes them, from batches that come one by one. One thread. */
#pragma once

#include "broker/batch.h"
#include "broker/exportlog.h"

struct kq_export_segment {
    const struct kq_export_log *job;
    int64_t base;
    int fd;
    int64_t size;        /* with what is still in BYTES */
    struct kq_buf bytes; /* the end of the file, not written yet */
    struct kq_buf offsets, times;
    int64_t since_index;
    int64_t max_timestamp, max_timestamp_offset;
    int64_t last_time; /* of the last entry in TIMES */
};

/* Makes `<base>.log`. After any result kq_export_segment_release. -errno. */
int kq_export_segment_begin(struct kq_export_segment *segment, const struct kq_export_log *job,
                            int64_t base);

/* The next batch, as it lies at BYTES. */
int kq_export_segment_add(struct kq_export_segment *segment, const uint8_t *bytes,
                          const struct kq_batch_header *header);

/* Writes the rest, and the indexes; syncs. */
int kq_export_segment_end(struct kq_export_segment *segment);

void kq_export_segment_release(struct kq_export_segment *segment);
