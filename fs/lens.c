#include "fs/lens.h"

#include <string.h>

#include "broker/base/crc32c.h"
#include "broker/base/io.h"

#define VERIFY_PIECE ((int64_t)256 * 1024)    /* a batch up to this size is read once for both */
#define VERIFY_AT_ONCE ((int64_t)1024 * 1024) /* by a thread on which others wait */

static int read_file(const struct kq_lens *lens, int fd, void *to, size_t length, int64_t position,
                     size_t need)
{
    ssize_t n = lens->may_block ? kq_io_pread(fd, to, length, position)
                                : kq_io_pread_cached(fd, to, length, position);
    if (n >= (ssize_t)need)
        return (int)n;
    if (n < 0 && n != -EAGAIN)
        return (int)n;
    return lens->may_block ? -EBADMSG : -EAGAIN;
}

int kq_lens_move(struct kq_lens *lens, int fd, int64_t position, size_t need, int64_t end)
{
    size_t length =
        (size_t)kq_min64((int64_t)(need > lens->piece ? need : lens->piece), end - position);
    lens->fd = -1;
    lens->buf->length = 0;
    int r = kq_buf_reserve(lens->buf, length + KQ_LENS_SLACK);
    if (r < 0)
        return r;
    int n = read_file(lens, fd, lens->buf->data, length, position, need);
    if (n < 0)
        return n == -EAGAIN ? KQ_WOULD_BLOCK : n;
    lens->buf->length = (size_t)n;
    lens->fd = fd;
    lens->position = position;
    return 0;
}

int kq_lens_copy(struct kq_lens *lens, int fd, int64_t position, size_t length, uint8_t *to)
{
    if (kq_lens_has(lens, fd, position, length)) {
        memcpy(to, lens->buf->data + (position - lens->position), length);
        return 0;
    }
    int n = read_file(lens, fd, to, length, position, length);
    return n >= 0 ? 0 : n == -EAGAIN ? KQ_WOULD_BLOCK : n;
}

int kq_lens_verify(struct kq_lens *lens, const struct kq_extent *extent, int64_t position,
                   const struct kq_batch_header *header)
{
    int64_t at = position + KQ_BATCH_CRC_FROM, end = position + header->size;
    uint32_t crc = 0;
    if (kq_likely(kq_extent_is_verified(extent, position, header->size)))
        return 0;
    if (!lens->may_block && header->size > VERIFY_AT_ONCE)
        return KQ_WOULD_BLOCK;
    while (at < end) {
        const uint8_t *bytes;
        size_t length;
        bool whole = header->size <= VERIFY_PIECE; /* from its front: its records come next */
        int64_t from = whole ? position : at;
        int64_t need = kq_min64(end - from, VERIFY_PIECE);
        int r = kq_lens_at(lens, extent->fd, from, (size_t)need, extent->position + extent->length,
                           &bytes, &length);
        if (r != 0)
            return r;
        crc = kq_crc32c(crc, bytes + (at - from), (size_t)(need - (at - from)));
        at = from + need;
    }
    return kq_extent_verify(extent, position, header, crc);
}
