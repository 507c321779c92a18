/* Reading the log: by offset, and on from an extent. */
#include <inttypes.h>

#include "broker/base/io.h"
#include "broker/log_internal.h"

/* Of the offsets that STATE's segment has from FOUND on, the share of LENGTH in their BYTES. */
static int64_t share_of_offsets(const struct kq_published *state, const struct kq_found *found,
                                int64_t length, int64_t bytes)
{
    double offsets = (double)(state->next_offset - found->base_offset);
    return kq_max64(1, (int64_t)(offsets * (double)length / (double)bytes + 0.5));
}

int kq_log_make_extent(struct kq_segment *segment, const struct kq_found *found, uint32_t max_bytes,
                       bool may_block, struct kq_extent *ret)
{
    struct kq_published state;
    int fd;
    int r = kq_file_use(segment->file, may_block ? 0 : KQ_FILE_NO_BLOCK, &fd);
    if (r != 0)
        return r;
    kq_file_ref(segment->file);
    kq_segment_published(segment, &state);
    int64_t length = state.size - found->position;
    bool cut = length > max_bytes;
    *ret = (struct kq_extent){
        .fd = fd,
        .length = (uint32_t)(cut ? kq_max64(max_bytes, found->size) : length),
        .position = found->position,
        .base_offset = found->base_offset,
        .next_offset = cut ? -1 : state.next_offset,
        .text = -1,
        .holes = segment->holes != NULL,
        .owner = segment->file,
    };
    if (cut && ret->length == found->size)
        ret->next_offset = found->next_offset;
    else if (cut)
        ret->cut_offsets = share_of_offsets(&state, found, ret->length, length);
    return 0;
}

static int check_offset(struct kq_log *log, int64_t offset)
{
    if (offset < atomic_load_explicit(&log->start, memory_order_acquire))
        return KQ_GONE;
    int64_t end = atomic_load_explicit(&log->end, memory_order_acquire);
    return offset < end ? 0 : offset == end ? KQ_END : KQ_BEYOND;
}

/* The batch with OFFSET, or the next, in the segment that has it. RET_SEGMENT is referenced. */
static int find_offset(struct kq_log *log, int64_t offset, bool may_block,
                       struct kq_segment **ret_segment, struct kq_found *ret)
{
    struct kq_segment *segment = kq_log_segment_at(log, offset);
    int r = KQ_END;
    while (segment && (r = kq_segment_find(segment, &log->map, offset, may_block, ret)) == KQ_END) {
        struct kq_segment *next = kq_log_segment_after(log, segment);
        kq_segment_unref(segment);
        segment = next;
    }
    if (r == 0)
        *ret_segment = segment;
    else
        kq_segment_unref(segment);
    return r;
}

/* Retention may have taken segments since the start was looked at: then a file was missing, or what
 * was found is not what follows OFFSET. */
static int conclude(struct kq_log *log, int64_t offset, int r, int64_t text,
                    struct kq_extent *extent, struct kq_extent *ret)
{
    if ((r < 0 || (r == 0 && extent->base_offset > offset)) &&
        check_offset(log, offset) == KQ_GONE) {
        if (r == 0)
            kq_extent_unref(extent);
        return KQ_GONE;
    }
    if (r == 0) {
        extent->text = text;
        *ret = *extent;
    }
    return r;
}

int kq_log_read(struct kq_log *log, int64_t offset, uint32_t max_bytes, bool want_text,
                bool may_block, struct kq_extent *ret)
{
    struct kq_segment *segment;
    struct kq_found found;
    struct kq_extent extent;
    int64_t text = -1;
    int r = check_offset(log, offset);
    if (r != 0)
        return r;
    r = find_offset(log, offset, may_block, &segment, &found);
    if (r == 0) {
        if (want_text)
            r = kq_log_text_of(log, segment, found.position, may_block, &text);
        if (r == 0)
            r = kq_log_make_extent(segment, &found, max_bytes, may_block, &extent);
        kq_segment_unref(segment);
    }
    return conclude(log, offset, r, text, &extent, ret);
}

/* Fills in what FOUND lacks from the batch's header, unless nothing needs it. */
static int look_at(struct kq_segment *segment, uint32_t max_bytes, struct kq_found *found)
{
    struct kq_published state;
    struct kq_batch_header header;
    struct kq_walk walk;
    int fd;
    kq_segment_published(segment, &state);
    if (found->base_offset >= 0 && state.size - found->position <= max_bytes)
        return 0;
    int r = kq_file_use(segment->file, 0, &fd);
    if (r != 0)
        return r;
    kq_walk_begin(&walk, fd, segment->base, found->position, state.size, KQ_BATCH_HEADER, true);
    r = kq_walk_header(&walk, &header);
    kq_walk_end(&walk);
    kq_file_done(segment->file);
    if (r != 0)
        return r < 0 ? r : -EBADMSG;
    found->base_offset = header.base_offset;
    found->next_offset = kq_batch_next_offset(&header);
    found->size = header.size;
    return 0;
}

/* From SEGMENT (consumed) on: the first that has bytes at *POSITION, or at 0 in a later one. */
static struct kq_segment *with_bytes(struct kq_log *log, struct kq_segment *segment,
                                     int64_t *position)
{
    while (segment && atomic_load_explicit(&segment->size, memory_order_acquire) <= *position) {
        struct kq_segment *next = kq_log_segment_after(log, segment);
        /* Whoever sees the next one sees all that this one will ever have. */
        if (next && atomic_load_explicit(&segment->size, memory_order_acquire) > *position) {
            kq_segment_unref(next);
            break;
        }
        kq_segment_unref(segment);
        segment = next;
        *position = 0;
    }
    return segment;
}

int kq_log_read_next(struct kq_log *log, const struct kq_extent *before, uint32_t max_bytes,
                     struct kq_extent *ret)
{
    if (!before->owner || before->next_offset < 0)
        return -EINVAL;
    int r = check_offset(log, before->next_offset);
    if (r != 0)
        return r;
    int64_t position = before->position + before->length;
    struct kq_segment *segment = kq_log_segment_at(log, before->owner->base);
    if (segment->file != before->owner) {
        kq_segment_unref(segment);
        return kq_log_read(log, before->next_offset, max_bytes, false, true, ret);
    }
    struct kq_segment *from = segment;
    segment = with_bytes(log, segment, &position);
    if (!segment)
        return KQ_END;
    struct kq_found found = {
        .position = position,
        .base_offset = segment == from ? before->next_offset : -1,
        .next_offset = -1,
    };
    struct kq_extent extent;
    int64_t text = -1;
    r = look_at(segment, max_bytes, &found);
    if (r == 0)
        r = kq_log_make_extent(segment, &found, max_bytes, true, &extent);
    if (position == 0)
        text = atomic_load_explicit(&segment->text_base, memory_order_acquire);
    kq_segment_unref(segment);
    return conclude(log, before->next_offset, r, text, &extent, ret);
}

int kq_log_load_batch(struct kq_segment *segment, const struct kq_found *found, bool may_block,
                      struct kq_walk *walk, struct kq_batch_header *ret_header,
                      const uint8_t **ret_bytes)
{
    struct kq_batch_header header;
    const uint8_t *bytes;
    int fd;
    int r = kq_file_use(segment->file, may_block ? 0 : KQ_FILE_NO_BLOCK, &fd);
    if (r != 0)
        return r;
    kq_walk_begin(walk, fd, segment->base, found->position, found->position + found->size,
                  KQ_WALK_NEAR, may_block);
    r = kq_walk_header(walk, &header);
    if (r == 0)
        r = kq_walk_bytes(walk, &header, &bytes);
    if (r == 0)
        r = kq_verified_check(segment->file->verified, found->position, &header, bytes);
    kq_file_done(segment->file);
    if (r != 0) {
        kq_walk_end(walk);
        return r == KQ_PARTIAL ? -EBADMSG : r;
    }
    *ret_header = header;
    *ret_bytes = bytes;
    return 0;
}
