/* Reading text with holes, which compaction left.
 *
 * Happy path: a run of reads goes on with its cursor, which walks from message to message and does
 * not see the holes between them, in the segments as they were when it came to them. Its place is
 * kept as an offset besides: so it finds back when the cursor had to be given up, whatever was
 * cleaned meanwhile. A seek is exact: through the layout in which the file was opened, as long as
 * that holds; what lies behind all holes is found in any. Failure modes: ESTALE for a seek to what
 * was moved, and for a message that was cleaned away when half of it was handed over. */
#include "fs/handle.h"
#include "fs/reading.h"
#include "fs/render.h"
#include "fs/scratch.h"
#include "fs/textplace.h"

struct cleaned {
    struct kq_handle *handle;
    struct kq_partition *partition;
    const struct kq_log_text_bounds *bounds;
    int64_t position;
    size_t size;
    bool may_block;
    struct kq_cursor *cursor;
    struct kq_lens lens;
    struct kq_reading_on on; /* as it was when the read began */
};

/* --- Where a seek leads --- */

/* Of a segment: it has its own layout, which lasts as long as it is not compacted anew. */
static int seek_in_segment(struct cleaned *read, int64_t *ret_text)
{
    const struct kq_handle *handle = read->handle;
    struct kq_log_range range;
    uint64_t layout;
    int64_t packed;
    int r;
    do {
        r = kq_find_segment(read->partition, handle->reading.first_offset,
                            handle->reading.base.layout, read->may_block, &range);
        if (r == 0 && range.layout == 0) {
            *ret_text = range.text_start + read->position;
            return 0;
        }
        if (r == 0)
            r = kq_text_pack(read->partition, range.text_start, read->may_block, &packed, &layout);
        if (r == 0)
            r = kq_text_unpack(read->partition, packed + read->position, layout, read->may_block,
                               ret_text);
    } while (r == KQ_GONE);
    return r == -ENOENT ? -ESTALE : r;
}

static int seek_in_base(struct cleaned *read, int64_t *ret_text)
{
    const struct kq_text_base *base = &read->handle->reading.base;
    int64_t packed = base->packed + read->position;
    if (packed + base->removed >= base->settled) {
        *ret_text = packed + base->removed;
        return 0;
    }
    int r = kq_text_unpack(read->partition, packed, base->layout, read->may_block, ret_text);
    return r == KQ_GONE ? -ESTALE : r;
}

static int seek_in_log(struct cleaned *read, int64_t *ret_text)
{
    struct kq_reading *reading = &read->handle->reading;
    int64_t text, next;
    pthread_mutex_lock(&reading->lock);
    bool may_skip = kq_log_run_may_skip(&reading->run, read->position);
    struct kq_log_run before = reading->run;
    int r = kq_log_run_place(&reading->run, read->position, read->bounds->start, &text);
    pthread_mutex_unlock(&reading->lock);
    if (r < 0)
        return r;
    r = kq_text_next(read->partition, text, read->may_block, &next);
    pthread_mutex_lock(&reading->lock);
    if (r == KQ_WOULD_BLOCK)
        reading->run = before; /* the worker begins it once more */
    else if (r == 0 && next > text && may_skip)
        kq_log_run_skip(&reading->run, read->position, next);
    pthread_mutex_unlock(&reading->lock);
    if (r == KQ_GONE || (r == 0 && next > text && !may_skip))
        return -ESTALE;
    if (r == KQ_BEYOND)
        return KQ_END;
    *ret_text = next;
    return r;
}

/* Byte 0 is the first of what is there now, in any layout. */
static int seek_to_front(struct cleaned *read)
{
    int r =
        kq_cursor_seek_offset(read->cursor, &read->lens, read->handle->reading.first_offset, false);
    return r == KQ_GONE ? -ESTALE : r == KQ_BEYOND ? KQ_END : r;
}

/* Puts the cursor at the read's position. KQ_END: nothing is there yet. */
static int seek(struct cleaned *read)
{
    int64_t text;
    if (read->position == 0 && read->handle->view != KQ_VIEW_LOG)
        return seek_to_front(read);
    int r = read->handle->view == KQ_VIEW_LOG       ? seek_in_log(read, &text)
            : read->handle->view == KQ_VIEW_SEGMENT ? seek_in_segment(read, &text)
                                                    : seek_in_base(read, &text);
    if (r != 0)
        return r;
    if (text < read->bounds->start)
        return -ESTALE;
    if (text >= read->bounds->end)
        return KQ_END;
    r = kq_cursor_seek_text(read->cursor, &read->lens, text);
    return r == KQ_HOLE || r == KQ_GONE ? -ESTALE : r;
}

/* --- How a run goes on --- */

static bool goes_on(const struct cleaned *read)
{
    return read->on.position == read->position;
}

/* Where reads before there were holes would leave the cursor; -1: that cannot be said. */
static int64_t text_before_holes(struct cleaned *read)
{
    struct kq_reading *reading = &read->handle->reading;
    int64_t text = -1;
    if (reading->base.layout > 0)
        return -1;
    if (read->handle->view != KQ_VIEW_LOG)
        return reading->base.text + read->position;
    pthread_mutex_lock(&reading->lock);
    if (reading->run.started && reading->run.next == read->position)
        text = read->position + reading->run.shift;
    pthread_mutex_unlock(&reading->lock);
    return text;
}

/* The cursor is where it was given back, unless somebody else read meanwhile. */
static bool has_cursor(struct cleaned *read)
{
    const struct kq_cursor *cursor = read->cursor;
    if (!kq_cursor_is_placed(cursor) || cursor->text < 0)
        return false;
    return cursor->by_text ? cursor->text == text_before_holes(read)
                           : goes_on(read) && cursor->text == read->position;
}

/* Back to where the run was, by offset. */
static int find_back(struct cleaned *read)
{
    struct kq_record_head head;
    int r = kq_cursor_seek_offset(read->cursor, &read->lens, read->on.offset, false);
    if (r == 0 && read->on.skip > 0) {
        r = kq_cursor_head(read->cursor, &read->lens, &head);
        if (r == 0 && head.offset != read->on.offset)
            r = -ESTALE;
        read->cursor->skip = read->on.skip;
    }
    return r == KQ_GONE ? -ESTALE : r == KQ_BEYOND ? KQ_END : r;
}

static int place(struct cleaned *read)
{
    struct kq_log_bounds bounds;
    bool has = has_cursor(read);
    int64_t next = has ? read->cursor->next_offset : goes_on(read) ? read->on.offset : INT64_MAX;
    kq_bounds(read->partition, &bounds);
    if (next < bounds.start)
        return -ESTALE; /* retention took what follows */
    if (has)
        return 0;
    return goes_on(read) ? find_back(read) : seek(read);
}

/* Where the run is behind LENGTH more bytes. */
static int note(struct cleaned *read, size_t length)
{
    struct kq_cursor *cursor = read->cursor;
    struct kq_record_head head;
    struct kq_reading_on on = {
        .position = read->position + (int64_t)length,
        .offset = cursor->next_offset,
        .skip = cursor->skip,
    };
    if (cursor->in_batch && cursor->left > 0 && cursor->skip > 0) {
        int r = kq_cursor_head(cursor, &read->lens, &head);
        if (r != 0)
            return r;
        on.offset = head.offset;
    }
    cursor->by_text = false; /* its own count of text does not see the holes: a mark from here on */
    cursor->text = on.position;
    read->on = on;
    return 0;
}

/* --- A read --- */

static int64_t bytes_left(const struct cleaned *read)
{
    const struct kq_reading *reading = &read->handle->reading;
    if (read->handle->view == KQ_VIEW_LOG)
        return INT64_MAX; /* the run may have passed over holes: its end is that of the log */
    if (read->handle->view == KQ_VIEW_SEGMENT)
        return reading->length - read->position;
    return read->bounds->end - reading->base.removed - reading->base.packed - read->position;
}

/* Read->on is where the run was before, or is behind what was rendered. */
static int render(struct cleaned *read, struct kq_scratch *scratch, size_t *ret_length)
{
    struct kq_log_bounds bounds;
    size_t length = 0;
    scratch->reply.length = 0;
    int r = kq_buf_reserve(&scratch->reply, read->size + KQ_RENDER_SLACK);
    if (r < 0)
        return r;
    kq_bounds(read->partition, &bounds);
    kq_cursor_begin(read->cursor, bounds.last_stable);
    r = place(read);
    if (r == 0)
        r = note(read, 0);
    if (r != 0)
        return r;
    struct kq_reading_on begin = read->on;
    r = kq_render_text(read->cursor, &read->lens, scratch->reply.data, read->size, &length);
    int noted = r == KQ_WOULD_BLOCK ? r : note(read, length);
    if (noted != 0) {
        read->on = begin;
        return noted;
    }
    *ret_length = length;
    return r;
}

static int read_here(struct cleaned *read, struct kq_scratch *scratch, size_t *ret_length)
{
    struct kq_reading *reading = &read->handle->reading;
    struct kq_cursor before = *read->cursor;
    size_t length = 0;
    int r = render(read, scratch, &length);
    if (r == KQ_WOULD_BLOCK) {
        kq_cursor_go_back(read->cursor, &before);
    } else if (r != 0 && r != KQ_END) {
        read->cursor->text = -1;
        if (r == -EBADMSG)
            kq_report_damage(read->cursor);
        /* What came before the failure is good; the next read meets it. A page of a sealed file
         * must not be cut short. */
        if (length > 0 && !read->handle->row->sealed)
            r = 0;
    }
    if (read->handle->view == KQ_VIEW_LOG) {
        pthread_mutex_lock(&reading->lock);
        if (reading->run.next == read->position)
            kq_log_run_advance(&reading->run, (int64_t)length);
        pthread_mutex_unlock(&reading->lock);
    }
    kq_reading_give(read->handle, read->cursor, -1, &read->on);
    *ret_length = length;
    return r == KQ_END ? 0 : r;
}

int kq_read_cleaned(struct kq_handle *handle, const struct kq_log_text_bounds *bounds,
                    int64_t position, size_t size, bool may_block, size_t *ret_length)
{
    struct kq_scratch *scratch = kq_scratch();
    int64_t damage;
    struct cleaned read = {
        .handle = handle,
        .partition = handle->part->partition,
        .bounds = bounds,
        .position = position,
        .may_block = may_block,
    };
    read.cursor = kq_reading_take(handle, &damage, &read.on);
    if (handle->view == KQ_VIEW_LOG)
        size = kq_log_run_limit(position, size);
    read.size = (size_t)kq_max64(0, kq_min64(bytes_left(&read), (int64_t)size));
    read.lens = (struct kq_lens){.buf = scratch ? &scratch->window : NULL,
                                 .fd = -1,
                                 .piece = kq_lens_piece(read.size),
                                 .may_block = may_block};
    *ret_length = 0;
    if (scratch && read.cursor && read.size > 0)
        return read_here(&read, scratch, ret_length);
    if (read.cursor)
        kq_reading_give(handle, read.cursor, damage, &read.on);
    return scratch && read.cursor ? 0 : -ENOMEM;
}
