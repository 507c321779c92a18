#include "fs/textplace.h"

#include "fs/anchor.h"
#include "fs/handle.h"
#include "fs/scratch.h"

#define BLOCK 512          /* unit of st_blocks */
#define SEARCH_PIECE 16384 /* bytes of the log to read at once when looking for one message */

/* Where no byte of the log has to be read: OFFSET is the first retained one, or the end.
 * KQ_PARTIAL: it lies between. */
static int find_edge(struct kq_partition *partition, int64_t offset, bool may_block,
                     int64_t *ret_text)
{
    for (;;) {
        struct kq_log_bounds before, after;
        struct kq_log_text_bounds text;
        kq_bounds(partition, &before);
        int r = kq_text_bounds(partition, may_block, &text);
        if (r != 0)
            return r;
        kq_bounds(partition, &after);
        if (offset < after.start)
            return KQ_GONE;
        if (offset > after.last_stable)
            return KQ_BEYOND;
        /* Offsets and text are told apart: trust what did not move in between. */
        if (offset == before.start && offset == after.start) {
            *ret_text = text.start;
            return 0;
        }
        if (offset < after.last_stable && before.start == after.start)
            return KQ_PARTIAL;
        if (offset == before.last_stable && offset == after.last_stable) {
            *ret_text = text.end;
            return 0;
        }
    }
}

static struct kq_lens search_lens(struct kq_scratch *scratch, bool may_block)
{
    return (struct kq_lens){
        .buf = &scratch->window, .fd = -1, .piece = SEARCH_PIECE, .may_block = may_block};
}

int kq_find_base(struct kq_partition *partition, int64_t offset, bool may_block,
                 struct kq_text_base *ret)
{
    for (;;) {
        struct kq_log_text_bounds bounds;
        struct kq_text_base base;
        int r = find_edge(partition, offset, may_block, &base.text);
        if (r == KQ_PARTIAL)
            r = kq_text_of_offset(partition, offset, may_block, &base.text);
        if (r == 0)
            r = kq_text_bounds(partition, may_block, &bounds);
        base.packed = base.text;
        base.layout = 0;
        if (r == 0 && bounds.layout > 0)
            r = kq_text_pack(partition, base.text, may_block, &base.packed, &base.layout);
        if (r != 0)
            return r;
        base.removed = bounds.removed;
        base.settled = bounds.settled;
        if (base.layout == bounds.layout) { /* all of it is told of one layout */
            *ret = base;
            return 0;
        }
    }
}

int kq_find_message(const struct kq_access *access, int64_t offset, bool may_block,
                    struct kq_cursor *cursor, struct kq_record_head *ret)
{
    struct kq_scratch *scratch = kq_scratch();
    struct kq_record_head head;
    if (!scratch)
        return -ENOMEM;
    struct kq_lens lens = search_lens(scratch, may_block);
    int r = kq_cursor_seek_offset(cursor, &lens, offset, false);
    if (r == 0)
        r = kq_cursor_head(cursor, &lens, &head);
    if (r == KQ_GONE || r == KQ_END || r == KQ_BEYOND || (r == 0 && head.offset != offset))
        return -ENOENT;
    if (r == 0)
        *ret = head;
    return r;
}

int kq_find_segment(struct kq_partition *partition, int64_t offset, uint64_t layout, bool may_block,
                    struct kq_log_range *ret)
{
    struct kq_log_range range;
    int r = kq_next_range(partition, offset, may_block, &range);
    if (r == KQ_END || (r == 0 && range.base_offset != offset))
        return -ENOENT;
    if (r == 0 && range.layout != layout)
        return -ESTALE;
    if (r == 0)
        *ret = range;
    return r;
}

/* --- For the tree --- */

/* To look at sizes: who may do so, the kernel has decided. */
static int looking_access(struct kq_partition *partition, struct kq_access *ret)
{
    const struct kq_caller broker = {.uid = 0, .gid = 0, .kernel_checked = true};
    return kq_partition_access(partition, &broker, KQ_RIGHT_READ, ret);
}

static int value_length(const struct kq_node *node, bool may_block, int64_t *ret)
{
    struct kq_access access;
    struct kq_cursor cursor;
    struct kq_record_head head;
    int r = looking_access(node->part->partition, &access);
    if (r < 0)
        return r;
    kq_cursor_init(&cursor, &access);
    r = kq_find_message(&access, node->offset, may_block, &cursor, &head);
    if (r == 0)
        *ret = kq_max64(head.value_length, 0);
    kq_cursor_release(&cursor);
    return r;
}

/* Byte 0 of a node whose text begins at its offset. */
static int node_base(struct kq_fs *fs, const struct kq_node *node, bool may_block,
                     struct kq_text_base *ret)
{
    if (kq_anchor_find(fs->handles->anchors, node->part, node->offset, node->layout, ret))
        return 0;
    int r = kq_find_base(node->part->partition, node->offset, may_block, ret);
    /* p0's node was overtaken: the kernel looks the name up again. An offset has no other node. */
    if (r == KQ_GONE)
        return node->view == KQ_VIEW_TEXT ? -ESTALE : -ENOENT;
    return r == KQ_BEYOND ? -ENOENT : r;
}

/* How many blocks are retained of a file with SIZE bytes whose byte 0 is BASE. */
static int64_t count_blocks(const struct kq_text_base *base,
                            const struct kq_log_text_bounds *bounds, int64_t size)
{
    int64_t gone = kq_max64(bounds->start - base->text, 0);
    return (kq_max64(size - gone, 0) + BLOCK - 1) / BLOCK;
}

static int growing_size(struct kq_fs *fs, const struct kq_node *node, bool may_block,
                        int64_t *ret_size, int64_t *ret_blocks)
{
    struct kq_log_text_bounds bounds;
    struct kq_text_base base;
    int r = node_base(fs, node, may_block, &base);
    if (r == 0)
        r = kq_text_bounds(node->part->partition, may_block, &bounds);
    if (r != 0)
        return r;
    *ret_size = kq_max64(bounds.end - base.removed - base.packed, 0);
    *ret_blocks = count_blocks(&base, &bounds, *ret_size);
    return 0;
}

/* p<N>.log: all text there ever was, and what is left of it. */
static int log_size(const struct kq_node *node, bool may_block, int64_t *ret_size,
                    int64_t *ret_blocks)
{
    struct kq_partition *partition = node->part->partition;
    struct kq_log_text_bounds bounds;
    uint64_t layout;
    int r = kq_text_bounds(partition, may_block, &bounds);
    int64_t packed = r == 0 ? bounds.start : 0;
    if (r == 0 && bounds.layout > 0)
        r = kq_text_pack(partition, bounds.start, may_block, &packed, &layout);
    if (r != 0)
        return r;
    *ret_size = bounds.end;
    *ret_blocks = (kq_max64(bounds.end - bounds.removed - packed, 0) + BLOCK - 1) / BLOCK;
    return 0;
}

int kq_view_size(struct kq_fs *fs, const struct kq_node *node, bool may_block, int64_t *ret_size,
                 int64_t *ret_blocks)
{
    const struct kq_view_row *row = kq_view_row(node->view);
    struct kq_log_range range = {0};
    int64_t size = 0;
    int r = 0;
    if (!node->part) {
        *ret_size = *ret_blocks = 0;
        return 0;
    }
    kq_fspart_settle(fs, node->part);
    if (row->format == KQ_FORMAT_VALUE)
        r = value_length(node, may_block, &size);
    else if (node->view == KQ_VIEW_SEGMENT)
        r = kq_find_segment(node->part->partition, node->offset, node->layout, may_block, &range);
    else if (node->view == KQ_VIEW_LOG)
        return log_size(node, may_block, ret_size, ret_blocks);
    else if (row->format == KQ_FORMAT_TEXT && !row->stream)
        return growing_size(fs, node, may_block, ret_size, ret_blocks);
    if (r != 0)
        return r;
    *ret_size = size + range.text_length;
    *ret_blocks = (*ret_size + BLOCK - 1) / BLOCK;
    return 0;
}

int kq_view_exists(struct kq_fs *fs, const struct kq_node *node, bool may_block)
{
    struct kq_log_bounds bounds;
    struct kq_log_range range;
    int64_t length;
    kq_fspart_settle(fs, node->part);
    if (node->view == KQ_VIEW_SEGMENT)
        return kq_find_segment(node->part->partition, node->offset, node->layout, may_block,
                               &range);
    if (node->view == KQ_VIEW_OFFSET_VALUE)
        return value_length(node, may_block, &length);
    kq_bounds(node->part->partition, &bounds);
    return node->offset < bounds.start || node->offset > bounds.last_stable ? -ENOENT : 0;
}
