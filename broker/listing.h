/* What lies in a log's directory. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "broker/base/buf.h"

struct kq_listing {
    struct kq_buf segments; /* struct kq_listed, ascending by base */
    bool has_epochs;        /* leader-epoch-checkpoint */
    /* int64_t each, ascending: offsets of .snapshot files, bases of .txnindex files. */
    struct kq_buf snapshots, aborted;
};

struct kq_listed {
    int64_t base;
    int64_t size;
    bool holes; /* it was compacted: there is a .textholes */
};

static inline size_t kq_listing_count(const struct kq_listing *listing)
{
    return listing->segments.length / sizeof(struct kq_listed);
}

static inline const struct kq_listed *kq_listing_at(const struct kq_listing *listing, size_t i)
{
    return (const struct kq_listed *)(const void *)listing->segments.data + i;
}

/* Lists DIRFD, a log's directory; NAME is for messages. Removes what an interrupted removal or
 * replacement left over, finishes a replacement of segments that was decided (compactswap.h),
 * reports and leaves alone what is not a log's. Release it after any result. -errno. */
int kq_listing_read(int dirfd, const char *name, struct kq_listing *ret);
void kq_listing_release(struct kq_listing *listing);
