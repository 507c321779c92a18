#include "fs/reading.h"

#include "broker/base/diag.h"
#include "broker/base/mem.h"
#include "fs/handle.h"
#include "fs/render.h"
#include "fs/scratch.h"
#include "fs/textplace.h"

#define JSONL_KEEP (256 * 1024)

void kq_reading_init(struct kq_reading *reading)
{
    *reading = (struct kq_reading){.length = INT64_MAX, .damage = -1, .on.position = -1};
    pthread_mutex_init(&reading->lock, NULL);
}

static void free_cursor(struct kq_cursor *cursor)
{
    if (cursor)
        kq_cursor_release(cursor);
    free(cursor);
}

void kq_reading_release(struct kq_reading *reading)
{
    free_cursor(reading->cursor);
    kq_buf_release(&reading->bytes);
    pthread_mutex_destroy(&reading->lock);
}

void kq_report_damage(const struct kq_cursor *cursor)
{
    struct kq_partition *partition = cursor->access.partition;
    kq_diag_limited(1000, LOG_ERR,
                    "%s/p%d: damaged at offset %lld or behind it; later offsets can be read "
                    "through by-offset",
                    kq_topic_name(kq_partition_topic(partition)), kq_partition_number(partition),
                    (long long)cursor->next_offset);
}

/* --- Text --- */

struct kq_cursor *kq_reading_take(struct kq_handle *handle, int64_t *ret_damage,
                                  struct kq_reading_on *ret_on)
{
    struct kq_reading *reading = &handle->reading;
    pthread_mutex_lock(&reading->lock);
    struct kq_cursor *cursor = reading->cursor;
    *ret_damage = reading->damage;
    *ret_on = reading->on;
    reading->cursor = NULL;
    pthread_mutex_unlock(&reading->lock);
    if (!cursor && (cursor = kq_alloc(sizeof(*cursor))))
        kq_cursor_init(cursor, &handle->access);
    return cursor;
}

void kq_reading_give(struct kq_handle *handle, struct kq_cursor *cursor, int64_t damage,
                     const struct kq_reading_on *on)
{
    struct kq_reading *reading = &handle->reading;
    pthread_mutex_lock(&reading->lock);
    struct kq_cursor *surplus = reading->cursor;
    reading->cursor = cursor;
    reading->damage = damage;
    reading->on = *on;
    pthread_mutex_unlock(&reading->lock);
    free_cursor(surplus);
}

void kq_cursor_go_back(struct kq_cursor *cursor, const struct kq_cursor *before)
{
    bool same_file = cursor->extent.owner == before->extent.owner &&
                     cursor->extent.position == before->extent.position;
    struct kq_buf inflated = cursor->inflated;
    if (before->extent.owner && same_file && !before->inflated_batch)
        *cursor = *before;
    else
        cursor->text = -1;
    cursor->inflated = inflated;
}

/* Text [TEXT, TEXT + SIZE), which has been published, into the scratch. */
static int render_at(struct kq_cursor *cursor, int64_t text, size_t size, bool may_block,
                     struct kq_scratch *scratch, size_t *ret_length)
{
    struct kq_lens lens = {
        .buf = &scratch->window, .fd = -1, .piece = kq_lens_piece(size), .may_block = may_block};
    scratch->reply.length = 0;
    int r = kq_buf_reserve(&scratch->reply, size + KQ_RENDER_SLACK);
    if (r < 0)
        return r;
    kq_cursor_begin(cursor, INT64_MAX);
    if (!kq_cursor_is_placed(cursor) || cursor->text != text)
        r = kq_cursor_seek_text(cursor, &lens, text);
    if (r == 0)
        r = kq_render_text(cursor, &lens, scratch->reply.data, size, ret_length);
    return r;
}

static const struct kq_reading_on nowhere = {.position = -1};

/* Was text cleaned away since the read began? */
static bool is_cleaned(const struct kq_handle *handle)
{
    struct kq_log_bounds bounds;
    kq_bounds(handle->part->partition, &bounds);
    return bounds.layout > 0;
}

/* KQ_HOLE: text was cleaned away meanwhile, nothing was read. */
static int read_text(struct kq_handle *handle, int64_t text, int64_t position, size_t size,
                     bool may_block, size_t *ret_length)
{
    size_t length = 0;
    int64_t damage;
    struct kq_reading_on on_before;
    struct kq_scratch *scratch = kq_scratch();
    struct kq_cursor *cursor = kq_reading_take(handle, &damage, &on_before);
    if (!scratch || !cursor) {
        free_cursor(cursor);
        return -ENOMEM;
    }
    struct kq_cursor before = *cursor;
    /* A search would find what follows the damage, as if nothing had been there. */
    int r = text == damage ? -EBADMSG : render_at(cursor, text, size, may_block, scratch, &length);
    if (r == KQ_END && is_cleaned(handle))
        r = KQ_HOLE;
    if (r == KQ_WOULD_BLOCK || r == KQ_HOLE)
        kq_cursor_go_back(cursor, &before);
    else if (r != 0)
        cursor->text = -1;
    if (r == -EBADMSG || r == KQ_END) { /* there should be text: its index is wrong, or the log */
        kq_report_damage(cursor);
        damage = text + (int64_t)length;
    }
    /* What came before the failure is good; the next read meets it. A page of a sealed file must
     * not be cut short. */
    bool failed = r != KQ_WOULD_BLOCK && r != KQ_HOLE && r != 0;
    if (failed && length > 0 && !handle->row->sealed)
        r = 0;
    const struct kq_reading_on on = {
        .position = position + (int64_t)length,
        .offset = cursor->next_offset,
        .skip = cursor->skip,
    };
    kq_reading_give(handle, cursor, damage, r == 0 ? &on : failed ? &nowhere : &on_before);
    if (r == KQ_END)
        r = -EIO;
    if (r == 0)
        *ret_length = length;
    return r;
}

static int read_positions(struct kq_handle *handle, int64_t position, size_t size, bool may_block,
                          size_t *ret_length)
{
    struct kq_reading *reading = &handle->reading;
    struct kq_log_text_bounds bounds;
    bool is_log = handle->view == KQ_VIEW_LOG;
    int64_t text = reading->base.text + position;
    int r = kq_text_bounds(handle->part->partition, may_block, &bounds);
    if (r != 0)
        return r;
    if (kq_unlikely(bounds.layout > 0))
        return kq_read_cleaned(handle, &bounds, position, size, may_block, ret_length);
    if (is_log) {
        size = kq_log_run_limit(position, size);
        pthread_mutex_lock(&reading->lock);
        r = kq_log_run_place(&reading->run, position, bounds.start, &text);
        pthread_mutex_unlock(&reading->lock);
    } else if (text < bounds.start) {
        r = -ESTALE;
    }
    if (r < 0)
        return r;
    int64_t left = kq_min64(bounds.end - text, reading->length - position);
    *ret_length = 0;
    if (left > 0)
        r = read_text(handle, text, position, (size_t)kq_min64(left, (int64_t)size), may_block,
                      ret_length);
    if (r == KQ_HOLE) {
        r = kq_text_bounds(handle->part->partition, may_block, &bounds);
        return r != 0 ? r : kq_read_cleaned(handle, &bounds, position, size, may_block, ret_length);
    }
    if (r == 0 && is_log) {
        pthread_mutex_lock(&reading->lock);
        if (reading->run.next == position)
            kq_log_run_advance(&reading->run, (int64_t)*ret_length);
        pthread_mutex_unlock(&reading->lock);
    }
    return r;
}

/* --- One value --- */

static int read_value(struct kq_handle *handle, int64_t position, size_t size, bool may_block,
                      size_t *ret_length)
{
    struct kq_record_head head;
    struct kq_reading_on on_before;
    int64_t damage;
    struct kq_scratch *scratch = kq_scratch();
    struct kq_cursor *cursor = kq_reading_take(handle, &damage, &on_before);
    int r = scratch && cursor ? 0 : -ENOMEM;
    struct kq_lens lens = {
        .buf = scratch ? &scratch->window : NULL, .fd = -1, .piece = 64, .may_block = may_block};
    if (r == 0 && kq_cursor_is_placed(cursor))
        r = kq_cursor_head(cursor, &lens, &head);
    else if (r == 0)
        r = kq_find_message(&handle->access, handle->reading.first_offset, may_block, cursor,
                            &head);
    int64_t left = r == 0 ? kq_max64(head.value_length - position, 0) : 0;
    size_t length = (size_t)kq_min64(left, (int64_t)size);
    if (r == 0) {
        scratch->reply.length = 0;
        r = kq_buf_reserve(&scratch->reply, length + 1);
    }
    if (r == 0)
        r = kq_cursor_copy(cursor, &lens, head.value_at + position, length, scratch->reply.data);
    if (r == -EBADMSG)
        kq_report_damage(cursor);
    if (r == 0)
        kq_reading_give(handle, cursor, damage, &nowhere);
    else
        free_cursor(cursor);
    if (r == 0)
        *ret_length = length;
    return r == -ENOENT ? -ESTALE : r;
}

/* --- JSON lines --- */

/* Makes the handle's buffer begin at POSITION, which must lie in it, or be the file's start. */
static int turn_to(struct kq_reading *reading, int64_t position)
{
    if (position == 0 && reading->bytes_at > 0) {
        free_cursor(reading->cursor);
        reading->cursor = NULL;
        reading->bytes_at = 0;
        reading->bytes.length = 0;
    }
    int64_t into = position - reading->bytes_at;
    if (into < 0 || into > (int64_t)reading->bytes.length)
        return -ESPIPE;
    kq_buf_drop_front(&reading->bytes, (size_t)into);
    if (reading->bytes.length == 0)
        kq_buf_clear(&reading->bytes, JSONL_KEEP);
    reading->bytes_at = position;
    return 0;
}

static int fill_jsonl(struct kq_handle *handle, size_t size, bool may_block)
{
    struct kq_reading *reading = &handle->reading;
    struct kq_scratch *scratch = kq_scratch();
    struct kq_log_bounds bounds;
    if (!reading->cursor) {
        if (!(reading->cursor = kq_alloc(sizeof(*reading->cursor))))
            return -ENOMEM;
        kq_cursor_init(reading->cursor, &handle->access);
        reading->cursor->next_offset = reading->first_offset;
    }
    struct kq_cursor *cursor = reading->cursor;
    kq_bounds(handle->part->partition, &bounds);
    if (cursor->next_offset < bounds.start)
        return -ESTALE;
    if (!scratch)
        return -ENOMEM;
    struct kq_lens lens = {
        .buf = &scratch->window, .fd = -1, .piece = kq_lens_piece(size), .may_block = may_block};
    int r = 0;
    kq_cursor_begin(cursor, bounds.last_stable);
    if (!kq_cursor_is_placed(cursor))
        r = kq_cursor_seek_offset(cursor, &lens, cursor->next_offset, false);
    if (r == 0)
        r = kq_render_jsonl(cursor, &lens, &reading->bytes, size);
    if (r == -EBADMSG)
        kq_report_damage(cursor);
    return r;
}

/* Copied: once the request is answered, the handle may be gone before its lock is given back. */
static int copy_out(const struct kq_buf *from, size_t size, size_t *ret_length)
{
    struct kq_scratch *scratch = kq_scratch();
    size_t length = from->length < size ? from->length : size;
    if (!scratch)
        return -ENOMEM;
    scratch->reply.length = 0;
    int r = kq_buf_append(&scratch->reply, from->data, length);
    if (r == 0)
        *ret_length = length;
    return r;
}

static int read_jsonl(struct kq_handle *handle, int64_t position, size_t size, bool may_block,
                      size_t *ret_length)
{
    struct kq_reading *reading = &handle->reading;
    if (may_block)
        pthread_mutex_lock(&reading->lock);
    else if (pthread_mutex_trylock(&reading->lock) != 0)
        return KQ_WOULD_BLOCK;
    int r = turn_to(reading, position);
    if (r == 0 && reading->bytes.length < size)
        r = fill_jsonl(handle, size, may_block);
    if (r == KQ_END || (r != KQ_WOULD_BLOCK && r != -ESPIPE && reading->bytes.length > 0))
        r = 0;
    if (r == 0)
        r = copy_out(&reading->bytes, size, ret_length);
    pthread_mutex_unlock(&reading->lock);
    return r;
}

/* --- All --- */

static int read_control(struct kq_handle *handle, int64_t position, size_t size, size_t *ret_length)
{
    struct kq_buf bytes = handle->reading.bytes;
    size_t before = (size_t)kq_min64(position, (int64_t)bytes.length);
    bytes.data += before;
    bytes.length -= before;
    return copy_out(&bytes, size, ret_length);
}

int kq_read_file(struct kq_handle *handle, int64_t position, size_t size, bool may_block,
                 const uint8_t **ret, size_t *ret_length)
{
    size_t length = 0;
    int r = 0;
    if (handle->row->format == KQ_FORMAT_CONTROL)
        r = read_control(handle, position, size, &length);
    else if (handle->row->format == KQ_FORMAT_JSONL)
        r = read_jsonl(handle, position, size, may_block, &length);
    else if (handle->row->format == KQ_FORMAT_VALUE)
        r = read_value(handle, position, size, may_block, &length);
    else if (handle->part)
        r = read_positions(handle, position, size, may_block, &length);
    if (r != 0)
        return r;
    *ret = length ? kq_scratch()->reply.data : NULL;
    *ret_length = length;
    return 0;
}
