#include "broker/walk.h"

#include <string.h>

#include "broker/base/io.h"

#define MAGIC_AT 16
#define MAGIC 2

void kq_walk_begin(struct kq_walk *walk, int fd, int64_t base, int64_t position, int64_t end,
                   size_t read_ahead, bool may_block)
{
    *walk = (struct kq_walk){
        .fd = fd,
        .may_block = may_block,
        .position = position,
        .end = end,
        .least = base,
        .most = base > INT64_MAX - INT32_MAX - 1 ? INT64_MAX - 1 : base + INT32_MAX,
        .placed = position > 0,
        .read_ahead = read_ahead,
    };
}

void kq_walk_end(struct kq_walk *walk)
{
    kq_buf_release(&walk->window);
}

/* Makes LENGTH bytes from the position on lie in the window; they are all before the end. */
static int need(struct kq_walk *walk, size_t length, const uint8_t **ret)
{
    int64_t skip = walk->position - walk->window_at;
    if (walk->window.length == 0 || skip < 0 ||
        skip + (int64_t)length > (int64_t)walk->window.length) {
        size_t want = length > walk->read_ahead ? length : walk->read_ahead;
        want = (size_t)kq_min64((int64_t)want, walk->end - walk->position);
        walk->window.length = 0;
        int r = kq_buf_reserve(&walk->window, want);
        if (r < 0)
            return r;
        ssize_t n = walk->may_block
                        ? kq_io_pread(walk->fd, walk->window.data, want, walk->position)
                        : kq_io_pread_cached(walk->fd, walk->window.data, want, walk->position);
        if (!walk->may_block && (n == -EAGAIN || (n >= 0 && (size_t)n < length)))
            return KQ_WOULD_BLOCK;
        if (n < 0)
            return (int)n;
        if ((size_t)n < length)
            return -EBADMSG;
        walk->window.length = (size_t)n;
        walk->window_at = walk->position;
        skip = 0;
    }
    *ret = walk->window.data + skip;
    return 0;
}

/* HEADER, the current batch, leaves a gap. Does a whole batch follow that begins before HEADER
 * ends, but not before the batch before it did? Then these two agree, and HEADER's offset is wrong.
 * 0; -EBADMSG; KQ_WOULD_BLOCK; -ENOMEM; -errno. */
static int check_gap(struct kq_walk *walk, const struct kq_batch_header *header)
{
    struct kq_batch_header next;
    const uint8_t *bytes = NULL;
    int64_t here = walk->position;
    int r = 0;
    walk->position += header->size;
    int64_t left = walk->end - walk->position;
    if (left >= KQ_BATCH_HEADER)
        r = need(walk, KQ_BATCH_HEADER, &bytes);
    if (r == 0 && bytes && kq_batch_header_read(bytes, KQ_BATCH_HEADER, &next) == 0 &&
        next.size <= left && next.base_offset >= walk->least &&
        next.base_offset < kq_batch_next_offset(header)) {
        r = need(walk, next.size, &bytes);
        if (r == 0 && kq_batch_check_crc(bytes, &next) == 0)
            r = -EBADMSG;
    }
    walk->position = here;
    return r;
}

int kq_walk_header(struct kq_walk *walk, struct kq_batch_header *ret)
{
    const uint8_t *bytes = NULL;
    struct kq_batch_header header;
    int64_t left = walk->end - walk->position;
    if (left <= 0)
        return KQ_END;
    if (left < KQ_BATCH_HEADER)
        return KQ_PARTIAL;
    int r = need(walk, KQ_BATCH_HEADER, &bytes);
    if (r != 0)
        return r;
    if (kq_batch_header_read(bytes, KQ_BATCH_HEADER, &header) != 0 ||
        header.base_offset < walk->least ||
        header.base_offset > walk->most - header.last_offset_delta)
        return -EBADMSG;
    if (header.size > left)
        return KQ_PARTIAL;
    if (kq_unlikely(header.base_offset > walk->least) && !walk->placed)
        r = check_gap(walk, &header);
    if (r == 0)
        *ret = header;
    return r;
}

int kq_walk_bytes(struct kq_walk *walk, const struct kq_batch_header *header, const uint8_t **ret)
{
    return need(walk, header->size, ret);
}

void kq_walk_step(struct kq_walk *walk, const struct kq_batch_header *header)
{
    walk->position += header->size;
    walk->least = kq_batch_next_offset(header);
    walk->placed = false;
}

/* Is there a whole batch with a good checksum at the position? 0; KQ_END (no); -errno. */
static int is_batch(struct kq_walk *walk)
{
    struct kq_batch_header header;
    const uint8_t *bytes = NULL;
    int r = kq_walk_header(walk, &header);
    if (r == 0)
        r = kq_walk_bytes(walk, &header, &bytes);
    if (r == 0)
        r = kq_batch_check_crc(bytes, &header);
    return r == -EBADMSG || r > 0 ? KQ_END : r;
}

/* Moves the position on to where the magic byte could be a batch's: most bytes are not. */
static int skip_to_magic(struct kq_walk *walk)
{
    const uint8_t *bytes = NULL;
    while (walk->position <= walk->end - KQ_BATCH_HEADER) {
        int r = need(walk, KQ_BATCH_HEADER, &bytes);
        if (r != 0)
            return r;
        size_t held = walk->window.length - (size_t)(walk->position - walk->window_at);
        const uint8_t *found = memchr(bytes + MAGIC_AT, MAGIC, held - MAGIC_AT);
        if (found) {
            walk->position += found - (bytes + MAGIC_AT);
            return 0;
        }
        walk->position += (int64_t)(held - MAGIC_AT);
    }
    return KQ_END;
}

int kq_walk_resync(struct kq_walk *walk)
{
    int64_t from = walk->position;
    int r;
    walk->placed = false;
    do {
        walk->position++;
        r = skip_to_magic(walk);
        if (r == 0)
            r = is_batch(walk);
    } while (r == KQ_END && walk->position <= walk->end - KQ_BATCH_HEADER);
    if (r != 0)
        walk->position = from;
    return r;
}
