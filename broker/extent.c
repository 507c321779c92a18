#include "broker/extent.h"

#include "broker/file.h"

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
