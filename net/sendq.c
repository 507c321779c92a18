#include "net/sendq.h"

#include <limits.h>

#include "broker/base/mem.h"
#include "net/resident.h"

#define PARTS_AT_ONCE 64
#define PIECE ((size_t)1024 * 1024) /* of a file, looked up in the page cache at once */
#define AHEAD (4 * PIECE)
#define COLD_PASSES_MAX 3

struct kq_chunk {
    TAILQ_ENTRY(kq_chunk) next;
    const uint8_t *bytes; /* NULL: of a file */
    size_t left;
    void *memory;
    struct kq_extent extent;
    int64_t position; /* of the file: what comes next */
};

void kq_sendq_init(struct kq_sendq *queue)
{
    *queue = (struct kq_sendq){0};
    TAILQ_INIT(&queue->chunks);
}

static void drop_first(struct kq_sendq *queue)
{
    struct kq_chunk *chunk = TAILQ_FIRST(&queue->chunks);
    TAILQ_REMOVE(&queue->chunks, chunk, next);
    if (!chunk->bytes)
        kq_extent_unref(&chunk->extent);
    free(chunk->memory);
    free(chunk);
    queue->warm_until = 0;
    queue->cold_passes = 0;
}

void kq_sendq_release(struct kq_sendq *queue)
{
    while (!TAILQ_EMPTY(&queue->chunks))
        drop_first(queue);
    queue->sent = queue->added;
}

static int add(struct kq_sendq *queue, const struct kq_chunk *filled)
{
    struct kq_chunk *chunk = kq_memdup(filled, sizeof(*filled));
    if (!chunk)
        return -ENOMEM;
    TAILQ_INSERT_TAIL(&queue->chunks, chunk, next);
    queue->added += chunk->left;
    return 0;
}

int kq_sendq_add_memory(struct kq_sendq *queue, const uint8_t *bytes, size_t length)
{
    struct kq_chunk chunk = {.bytes = bytes, .left = length};
    return add(queue, &chunk);
}

int kq_sendq_add_file_consume(struct kq_sendq *queue, const struct kq_extent *extent)
{
    struct kq_chunk chunk = {
        .left = extent->length, .extent = *extent, .position = extent->position};
    return add(queue, &chunk);
}

void kq_sendq_own(struct kq_sendq *queue, void *memory)
{
    TAILQ_LAST(&queue->chunks, kq_chunks)->memory = memory;
}

/* LENGTH bytes from the front have gone. */
static void take(struct kq_sendq *queue, size_t length)
{
    queue->sent += length;
    for (;;) {
        struct kq_chunk *chunk = TAILQ_FIRST(&queue->chunks);
        /* The analyzer does not see what TAILQ_REMOVE did to the one before. */
        if (!chunk || length < chunk->left) { /* NOLINT(clang-analyzer-unix.Malloc) */
            if (chunk) {
                chunk->left -= length;
                chunk->position += (int64_t)length;
                if (chunk->bytes)
                    chunk->bytes += length;
            }
            return;
        }
        length -= chunk->left;
        drop_first(queue);
    }
}

static ssize_t write_memory(struct kq_sendq *queue, struct kq_transport *transport)
{
    struct iovec parts[PARTS_AT_ONCE];
    int count = 0;
    struct kq_chunk *chunk = TAILQ_FIRST(&queue->chunks);
    for (; chunk && chunk->bytes && count < PARTS_AT_ONCE; chunk = TAILQ_NEXT(chunk, next))
        parts[count++] = (struct iovec){(void *)chunk->bytes, chunk->left};
    ssize_t n = kq_transport_writev(transport, parts, count, chunk != NULL);
    if (n > 0)
        take(queue, (size_t)n);
    return n;
}

/* Are the WANTED bytes that come next in the page cache? If that is not known yet, the piece of
 * LENGTH bytes is looked up that they begin. */
static bool is_warm(struct kq_sendq *queue, const struct kq_chunk *chunk, size_t wanted,
                    size_t length)
{
    if (chunk->position + (int64_t)wanted <= queue->warm_until ||
        queue->cold_passes >= COLD_PASSES_MAX)
        return true;
    if (!kq_resident(chunk->extent.fd, chunk->position, length))
        return false;
    queue->warm_until = chunk->position + (int64_t)length;
    queue->cold_passes = 0;
    return true;
}

/* > 0: bytes sent, BUDGET at most; 0: they are not cached; -EAGAIN; -errno. */
static ssize_t send_file(struct kq_sendq *queue, struct kq_transport *transport, size_t budget,
                         struct kq_cold *ret_cold)
{
    struct kq_chunk *chunk = TAILQ_FIRST(&queue->chunks);
    size_t length = chunk->left < PIECE ? chunk->left : PIECE;
    size_t wanted = length < budget ? length : budget;
    if (!is_warm(queue, chunk, wanted, length)) {
        size_t ahead = chunk->left - length;
        *ret_cold = (struct kq_cold){&chunk->extent, chunk->position, length,
                                     ahead < AHEAD ? ahead : AHEAD};
        return 0;
    }
    ssize_t n = kq_transport_sendfile(transport, chunk->extent.fd, chunk->position, wanted);
    if (n == 0)
        return -EIO;
    if (n == -EAGAIN)
        queue->warm_until = 0; /* who knows when it goes on */
    if (n > 0) {
        queue->sent_from_files += (uint64_t)n;
        queue->cold_passes = 0;
        take(queue, (size_t)n);
    }
    return n;
}

int kq_sendq_write(struct kq_sendq *queue, struct kq_transport *transport, size_t budget,
                   struct kq_cold *ret_cold)
{
    size_t done = 0;
    for (;;) {
        struct kq_chunk *chunk = TAILQ_FIRST(&queue->chunks);
        if (!chunk)
            return KQ_SENDQ_EMPTY;
        if (done >= budget)
            return KQ_SENDQ_MORE;
        ssize_t n = chunk->bytes ? write_memory(queue, transport)
                                 : send_file(queue, transport, budget - done, ret_cold);
        if (n == 0)
            return KQ_SENDQ_COLD;
        if (n == -EAGAIN)
            return KQ_SENDQ_FULL;
        if (n < 0)
            return (int)n;
        done += (size_t)n;
    }
}

void kq_sendq_warmed(struct kq_sendq *queue)
{
    queue->cold_passes++;
}
