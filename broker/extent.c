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
