#include "broker/extent.h"

#include "broker/file.h"
#include "broker/walk.h"

void kq_extent_ref(const struct kq_extent *extent)
{
    if (extent->owner) {
        kq_file_ref(extent->owner);
        kq_file_use_again(extent->owner);
    }
}

void kq_extent_unref(struct kq_extent *extent)
{
    if (extent->owner) {
        kq_file_done(extent->owner);
        kq_file_unref(extent->owner);
    }
    *extent = (struct kq_extent){.fd = -1, .base_offset = -1, .next_offset = -1, .text = -1};
}

bool kq_extent_is_verified(const struct kq_extent *extent, int64_t position, uint32_t size)
{
    return kq_verified_has(extent->owner->verified, position, size);
}

int kq_extent_verify(const struct kq_extent *extent, int64_t position,
                     const struct kq_batch_header *header, uint32_t crc)
{
    return kq_verified_conclude(extent->owner->verified, position, header, crc);
}

int kq_extent_resync(const struct kq_extent *extent, int64_t position, int64_t *ret)
{
    struct kq_walk walk;
    int64_t end = extent->position + extent->length;
    kq_walk_begin(&walk, extent->fd, extent->owner->base, position, end, KQ_WALK_FAR, true);
    int r = kq_walk_resync(&walk);
    if (r == 0 || r == KQ_END)
        *ret = r == 0 ? walk.position : end;
    kq_walk_end(&walk);
    return r < 0 ? r : 0;
}
