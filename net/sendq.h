/* What a connection still has to send: runs of memory and ranges of files, in order.
 *
 * One function writes all of it: memory with writev, ranges of files with sendfile(2), straight
 * from the page cache. What the page cache lacks is not waited for: the queue says so, and goes on
 * when somebody has read the range in. One owner, no locking.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/queue.h>

#include "broker/base/err.h"
#include "broker/extent.h"
#include "net/transport.h"

struct kq_chunk;

struct kq_sendq {
    TAILQ_HEAD(kq_chunks, kq_chunk) chunks;
    uint64_t added, sent;     /* bytes, ever */
    uint64_t sent_from_files; /* of `sent`: those that went by sendfile */
    int64_t warm_until;       /* of the first chunk: the file is known to be cached up to here */
    unsigned cold_passes;     /* how often it was read in without that helping */
};

/* Part of a file that has to be read in first. */
struct kq_cold {
    const struct kq_extent *extent; /* of the queue: take a reference to use it later */
    int64_t position;
    size_t length;
    size_t ahead; /* bytes behind it that will be wanted soon */
};

enum kq_sendq_state {
    KQ_SENDQ_EMPTY = 0,
    KQ_SENDQ_MORE, /* BUDGET is used up */
    KQ_SENDQ_FULL, /* the transport takes no more for now */
    KQ_SENDQ_COLD, /* the next bytes of a file are not cached: RET_COLD says which */
};

void kq_sendq_init(struct kq_sendq *queue);
void kq_sendq_release(struct kq_sendq *queue); /* what was not sent is dropped */

/* Bytes that are still to be sent. */
static inline uint64_t kq_sendq_left(const struct kq_sendq *queue)
{
    return queue->added - queue->sent;
}

/* Adds LENGTH (> 0) bytes, which stay valid until they were sent or the queue was released.
 * -ENOMEM.
 */
int kq_sendq_add_memory(struct kq_sendq *queue, const uint8_t *bytes, size_t length);

/* Adds all of EXTENT (not empty), whose reference is the queue's from now on. -ENOMEM: it is still
 * the caller's. */
int kq_sendq_add_file_consume(struct kq_sendq *queue, const struct kq_extent *extent);

/* Frees MEMORY when all that was added so far has been sent, or with the queue. Something was added
 * just before, and nothing was written since. */
void kq_sendq_own(struct kq_sendq *queue, void *memory);

/* Writes up to BUDGET bytes, but all of the memory that one writev takes. Of enum kq_sendq_state;
 * -EIO where a file is shorter than its extent; -errno of the transport: the connection is of no
 * more use. */
int kq_sendq_write(struct kq_sendq *queue, struct kq_transport *transport, size_t budget,
                   struct kq_cold *ret_cold);

/* What KQ_SENDQ_COLD named was read in, or cannot be: the next write tries again. */
void kq_sendq_warmed(struct kq_sendq *queue);
