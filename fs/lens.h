/* A buffer on the bytes of a log's file: what a reader looks through, moved along as it goes. It
 * belongs to a thread's scratch and is used for one request. */
#pragma once

#include "broker/base/buf.h"
#include "broker/batch.h"
#include "broker/extent.h"

struct kq_lens {
    struct kq_buf *buf;
    int fd;           /* -1: the buffer holds nothing */
    int64_t position; /* in the file, of the buffer's first byte */
    size_t piece;     /* bytes to fetch at once */
    bool may_block;
};

#define KQ_LENS_MOST (128 * 1024) /* stays in a CPU's own cache until it is decoded */
#define KQ_LENS_SLACK 64 /* bytes behind what is held: copies in blocks read over the end */

/* Bytes of the log to fetch for SIZE bytes of text: it has a tenth more for lines of 100 bytes. */
static inline size_t kq_lens_piece(size_t size)
{
    size_t piece = size + size / 8 + 4096;
    return piece < KQ_LENS_MOST ? piece : KQ_LENS_MOST;
}

/* Makes the buffer begin at POSITION and hold NEED bytes at least; the file has them before END.
 * 0; KQ_WOULD_BLOCK; -EBADMSG (the file ends before); -EIO, -ENOMEM. */
int kq_lens_move(struct kq_lens *lens, int fd, int64_t position, size_t need, int64_t end);

static inline bool kq_lens_has(const struct kq_lens *lens, int fd, int64_t position, size_t length)
{
    int64_t into = position - lens->position;
    return lens->fd == fd && into >= 0 && into + (int64_t)length <= (int64_t)lens->buf->length;
}

/* At least NEED bytes at POSITION of the file, which has them before END; RET_LENGTH: all there are
 * in the buffer. As kq_lens_move. */
static inline int kq_lens_at(struct kq_lens *lens, int fd, int64_t position, size_t need,
                             int64_t end, const uint8_t **ret, size_t *ret_length)
{
    if (kq_unlikely(!kq_lens_has(lens, fd, position, need))) {
        int r = kq_lens_move(lens, fd, position, need, end);
        if (r != 0)
            return r;
    }
    *ret = lens->buf->data + (position - lens->position);
    *ret_length = lens->buf->length - (size_t)(position - lens->position);
    return 0;
}

/* Copies LENGTH bytes at POSITION to TO: what the buffer does not hold, straight from the file.
 * As kq_lens_move. */
int kq_lens_copy(struct kq_lens *lens, int fd, int64_t position, size_t length, uint8_t *to);

/* Is the batch of HEADER, whole in EXTENT at POSITION, good? Reads it and computes its checksum if
 * that is not known. Large ones go through the lens in pieces, and who may not block leaves them to
 * who may. 0; -EBADMSG; KQ_WOULD_BLOCK; -EIO, -ENOMEM. */
int kq_lens_verify(struct kq_lens *lens, const struct kq_extent *extent, int64_t position,
                   const struct kq_batch_header *header);
