/* Walks the batches of a segment file from one to the next. One thread. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "broker/batch.h"

#define KQ_WALK_NEAR 4096        /* read at once by a look-up */
#define KQ_WALK_FAR (256 * 1024) /* read at once by a scan */

struct kq_walk {
    int fd;
    bool may_block;
    int64_t position; /* of the current batch */
    int64_t end;      /* of what may be read */
    int64_t least;    /* offsets do not fall below this … */
    int64_t most;     /* … nor do they exceed this */
    bool placed;      /* whoever gave the position vouches for the offset of the batch there */
    size_t read_ahead;
    struct kq_buf window; /* bytes of the file from WINDOW_AT on */
    int64_t window_at;
};

/* Begins at POSITION; offsets must lie in what a segment with base offset BASE can hold. The batch
 * at a POSITION above 0 is taken for the one that the caller means. */
void kq_walk_begin(struct kq_walk *walk, int fd, int64_t base, int64_t position, int64_t end,
                   size_t read_ahead, bool may_block);
void kq_walk_end(struct kq_walk *walk);

/* The header of the current batch. A base offset is outside the checksum: one that leaves a gap
 * into which the whole batch behind it fits is damaged.
 * 0; KQ_END; KQ_WOULD_BLOCK; KQ_PARTIAL (the file ends within it); -EBADMSG; -ENOMEM; -errno. */
int kq_walk_header(struct kq_walk *walk, struct kq_batch_header *ret);

/* All bytes of the current batch, valid until the next call. KQ_WOULD_BLOCK; -ENOMEM; -errno. */
int kq_walk_bytes(struct kq_walk *walk, const struct kq_batch_header *header, const uint8_t **ret);

/* On to the batch behind. */
void kq_walk_step(struct kq_walk *walk, const struct kq_batch_header *header);

/* From a damaged place to the next whole batch behind it whose checksum holds. 0; KQ_END (there is
 * none: the position is as before); -ENOMEM; -errno. Reads what lies between; may block. */
int kq_walk_resync(struct kq_walk *walk);
