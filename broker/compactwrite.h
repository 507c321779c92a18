/* A compacted segment while it is written: batches into a .log and its indexes, all of them still
 * `.cleaned` (compactswap.h). Memory is bounded: a small buffer a file. One thread. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "broker/base/buf.h"
#include "broker/batch.h"
#include "broker/compacttxn.h"

/* One file that is written from its front. */
struct kq_spool {
    int fd;
    int64_t position; /* of what is in BYTES */
    struct kq_buf bytes;
};

enum kq_compact_file { /* as kq_swap_kinds has them */
                       KQ_COMPACT_OFFSETS,
                       KQ_COMPACT_TIMES,
                       KQ_COMPACT_TEXTS,
                       KQ_COMPACT_HOLES,
                       KQ_COMPACT_ABORTED,
                       KQ_COMPACT_LOG,
                       KQ_COMPACT_FILES,
};

struct kq_compact_writer {
    int dirfd; /* of the log; borrowed */
    int64_t base, text_base;
    int32_t interval;
    struct kq_spool files[KQ_COMPACT_FILES];

    /* What was written so far. */
    int64_t size;
    int64_t first_timestamp, max_timestamp, max_offset;
    int64_t indexed, last_time; /* position and time of the last entries */
    int64_t text;               /* bytes of text */
    int64_t batch_text;         /* where that of the next batch begins */
    int64_t removed;            /* bytes of holes before that */
};

/* INTERVAL: index.interval.bytes. TEXT_BASE: the text position of the segment's first byte.
 * -ENOSPC, -errno; release it in any case. */
int kq_compact_writer_open(struct kq_compact_writer *writer, int dirfd, int64_t base,
                           int64_t text_base, int32_t interval);

/* Closes the files and removes those that are still .cleaned. */
void kq_compact_writer_release(struct kq_compact_writer *writer);

/* A message of the next batch stays: its text, LENGTH bytes, stood at PLACE, relative to TEXT_BASE.
 */
int kq_compact_writer_message(struct kq_compact_writer *writer, int64_t place, int64_t length);

/* The next batch: HEADER.size bytes. */
int kq_compact_writer_batch(struct kq_compact_writer *writer, const struct kq_batch_header *header,
                            const void *bytes);

int kq_compact_writer_aborted(struct kq_compact_writer *writer,
                              const struct kq_compact_aborted *aborted);

/* All was written; SPAN: bytes of text up to the next segment, holes included. After 0 the files
 * are whole and on disk, and their names too. */
int kq_compact_writer_finish(struct kq_compact_writer *writer, int64_t span);
