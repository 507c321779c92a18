#include "fs/cursor.h"

#include <assert.h>

#include "broker/produce.h"
#include "fs/varint.h"

#define WHOLE_SEGMENT UINT32_MAX
#define HEAD_BYTES 48 /* what lies before a record's key at most, and then some */
#define VARINT_BYTES 10

void kq_cursor_init(struct kq_cursor *cursor, const struct kq_access *access)
{
    *cursor = (struct kq_cursor){.access = *access, .limit = INT64_MAX, .rendering_until = -1};
}

void kq_cursor_release(struct kq_cursor *cursor)
{
    kq_extent_unref(&cursor->extent);
    kq_buf_release(&cursor->inflated);
    kq_cursor_init(cursor, &cursor->access);
}

void kq_cursor_begin(struct kq_cursor *cursor, int64_t limit)
{
    cursor->limit = limit;
    cursor->rendering_until = -1;
}

void kq_cursor_render_as(struct kq_cursor *cursor, int64_t offset)
{
    if (offset < cursor->rendering_until && offset >= cursor->rendering.from_offset)
        return;
    kq_partition_rendering(cursor->access.partition, offset, &cursor->rendering,
                           &cursor->rendering_until);
}

/* --- Bytes --- */

static int64_t extent_end(const struct kq_extent *extent)
{
    return extent->position + extent->length;
}

int kq_cursor_bytes(struct kq_cursor *cursor, struct kq_lens *lens, int64_t at, size_t need,
                    const uint8_t **ret, size_t *ret_length)
{
    int64_t most = cursor->records_end - at;
    if (!cursor->inflated_batch) {
        int r = kq_lens_at(lens, cursor->extent.fd, at, need, extent_end(&cursor->extent), ret,
                           ret_length);
        if (r != 0)
            return r;
        *ret_length = (size_t)kq_min64((int64_t)*ret_length, most);
        return 0;
    }
    *ret = cursor->inflated.data + at;
    *ret_length = (size_t)most;
    return 0;
}

int kq_cursor_copy(struct kq_cursor *cursor, struct kq_lens *lens, int64_t at, size_t length,
                   uint8_t *to)
{
    if (length == 0)
        return 0;
    if (cursor->inflated_batch) {
        memcpy(to, cursor->inflated.data + at, length);
        return 0;
    }
    return kq_lens_copy(lens, cursor->extent.fd, at, length, to);
}

/* --- Batches --- */

static void leave_batch(struct kq_cursor *cursor)
{
    cursor->next_offset = kq_batch_next_offset(&cursor->batch);
    cursor->batch_at += cursor->batch.size;
    cursor->in_batch = false;
    kq_buf_clear(&cursor->inflated, 0);
}

static int inflate(struct kq_cursor *cursor, struct kq_lens *lens)
{
    const uint8_t *bytes;
    size_t length;
    struct kq_topic_config config;
    struct kq_record_reader reader;
    kq_topic_config(kq_partition_topic(cursor->access.partition), &config);
    int r = kq_lens_at(lens, cursor->extent.fd, cursor->batch_at, cursor->batch.size,
                       extent_end(&cursor->extent), &bytes, &length);
    if (r == 0)
        r = kq_record_reader_open(&reader, bytes, &cursor->batch,
                                  (size_t)config.log.max_batch_bytes, &cursor->inflated);
    if (r == 0)
        r = kq_buf_reserve(&cursor->inflated, KQ_LENS_SLACK);
    if (r != 0)
        return r;
    cursor->record_at = 0;
    cursor->records_end = (int64_t)cursor->inflated.length;
    return 0;
}

static int open_batch(struct kq_cursor *cursor, struct kq_lens *lens)
{
    cursor->inflated_batch = (cursor->batch.attributes & KQ_ATTRIBUTE_CODEC) != KQ_CODEC_NONE;
    if (cursor->inflated_batch) {
        int r = inflate(cursor, lens);
        if (r != 0)
            return r;
    } else {
        cursor->record_at = cursor->batch_at + KQ_BATCH_HEADER;
        cursor->records_end = cursor->batch_at + cursor->batch.size;
    }
    cursor->left = cursor->batch.record_count;
    cursor->skip = 0;
    cursor->in_batch = true;
    return 0;
}

/* The extent is used up: what follows it. */
static int next_extent(struct kq_cursor *cursor)
{
    struct kq_extent next;
    int r = kq_read_next(&cursor->access, &cursor->extent, WHOLE_SEGMENT, &next);
    if (r != 0)
        return r;
    if (next.holes || cursor->extent.holes)
        cursor->by_text = false;
    /* What lay between was lost: the text that follows is not the text at this place. */
    if (cursor->by_text && next.text > cursor->text) {
        kq_extent_unref(&next);
        return -EBADMSG;
    }
    kq_extent_unref(&cursor->extent);
    cursor->extent = next;
    cursor->batch_at = next.position;
    return 0;
}

/* Offsets are not in the checksum. They ascend, up to the one behind the extent. */
static bool is_in_place(const struct kq_cursor *cursor, const struct kq_batch_header *header)
{
    int64_t end = cursor->extent.next_offset;
    return header->base_offset >= cursor->next_offset &&
           (end < 0 || header->base_offset < end - header->last_offset_delta);
}

/* Markers of transactions and what was aborted are no messages. */
static int is_hidden(struct kq_cursor *cursor, const struct kq_lens *lens, bool *ret)
{
    *ret = cursor->batch.attributes & KQ_ATTRIBUTE_CONTROL;
    if (*ret || !(cursor->batch.attributes & KQ_ATTRIBUTE_TRANSACTIONAL))
        return 0;
    return kq_is_aborted(&cursor->access, &cursor->batch, lens->may_block, ret);
}

static int next_batch(struct kq_cursor *cursor, struct kq_lens *lens)
{
    const uint8_t *bytes;
    size_t length;
    int64_t end = extent_end(&cursor->extent);
    int r = 0;
    cursor->batch.size = 0;
    if (cursor->batch_at == end) {
        r = next_extent(cursor);
        end = extent_end(&cursor->extent);
    }
    if (r == 0 && end - cursor->batch_at < KQ_BATCH_HEADER)
        r = -EBADMSG;
    if (r == 0)
        r = kq_lens_at(lens, cursor->extent.fd, cursor->batch_at, KQ_BATCH_HEADER, end, &bytes,
                       &length);
    if (r != 0)
        return r;
    struct kq_batch_header header;
    if (kq_batch_header_read(bytes, length, &header) != 0 ||
        (int64_t)header.size > end - cursor->batch_at || !is_in_place(cursor, &header))
        return -EBADMSG;
    if (header.base_offset >= cursor->limit)
        return KQ_END;
    cursor->batch = header;
    r = kq_lens_verify(lens, &cursor->extent, cursor->batch_at, &header);
    bool hidden = false;
    if (r == 0)
        r = is_hidden(cursor, lens, &hidden);
    if (r != 0)
        return r;
    if (hidden) {
        leave_batch(cursor);
        return 0;
    }
    return open_batch(cursor, lens);
}

int kq_cursor_enter(struct kq_cursor *cursor, struct kq_lens *lens)
{
    while (!cursor->in_batch || cursor->left == 0) {
        if (cursor->in_batch)
            leave_batch(cursor);
        int r = next_batch(cursor, lens);
        if (r != 0)
            return r;
    }
    return 0;
}

/* Is there a batch behind the damaged one, or the end, where its size says? */
static int check_behind(struct kq_cursor *cursor, struct kq_lens *lens, int64_t behind)
{
    struct kq_batch_header header;
    const uint8_t *bytes;
    size_t length;
    int64_t end = extent_end(&cursor->extent);
    if (behind == end)
        return 0;
    if (cursor->batch.size == 0 || end - behind < KQ_BATCH_HEADER)
        return -EBADMSG;
    int r = kq_lens_at(lens, cursor->extent.fd, behind, KQ_BATCH_HEADER, end, &bytes, &length);
    if (r == 0 &&
        (kq_batch_header_read(bytes, length, &header) != 0 || !is_in_place(cursor, &header) ||
         header.base_offset > kq_batch_next_offset(&cursor->batch)))
        r = -EBADMSG;
    return r;
}

int kq_cursor_pass_damage(struct kq_cursor *cursor, struct kq_lens *lens)
{
    int64_t behind = cursor->batch_at + cursor->batch.size;
    if (!kq_cursor_is_placed(cursor))
        return -EBADMSG;
    int r = check_behind(cursor, lens, behind);
    if (r == -EBADMSG)
        r = lens->may_block ? kq_extent_resync(&cursor->extent, cursor->batch_at, &behind)
                            : KQ_WOULD_BLOCK;
    if (r != 0)
        return r;
    cursor->batch_at = behind;
    cursor->in_batch = false;
    cursor->left = 0;
    cursor->skip = 0;
    kq_buf_clear(&cursor->inflated, 0);
    return 0;
}

/* --- Records --- */

/* What stands before a record's key. */
static int parse_start(const struct kq_cursor *cursor, const uint8_t *bytes, size_t length,
                       struct kq_record_head *ret)
{
    const uint8_t *end = bytes + length;
    struct kq_varint size = kq_varint_at(bytes, end);
    if (!size.next || size.value < 1)
        return -EBADMSG;
    int64_t from = cursor->record_at, left = cursor->records_end - (from + (size.next - bytes));
    if (size.value > left)
        return -EBADMSG;
    if (size.value < end - size.next)
        end = size.next + size.value;
    struct kq_varint timestamp = kq_varint_at(size.next + (end > size.next), end);
    struct kq_varint delta = timestamp.next ? kq_varint_at(timestamp.next, end) : timestamp;
    struct kq_varint key = delta.next ? kq_varint_at(delta.next, end) : delta;
    if (!key.next || delta.value < 0 || delta.value > INT32_MAX)
        return -EBADMSG;
    ret->offset = cursor->batch.base_offset + delta.value;
    ret->key_at = from + (key.next - bytes);
    ret->end = from + (size.next - bytes) + size.value;
    if (key.value < -1 || key.value > ret->end - ret->key_at)
        return -EBADMSG;
    ret->key_length = (int32_t)key.value;
    return 0;
}

int kq_cursor_head(struct kq_cursor *cursor, struct kq_lens *lens, struct kq_record_head *ret)
{
    const uint8_t *bytes;
    size_t length;
    struct kq_record_head head;
    size_t need = (size_t)kq_min64(HEAD_BYTES, cursor->records_end - cursor->record_at);
    int r = kq_cursor_bytes(cursor, lens, cursor->record_at, need, &bytes, &length);
    if (r == 0)
        r = parse_start(cursor, bytes, length, &head);
    if (r != 0)
        return r;
    int64_t value_size_at = head.key_at + kq_max64(head.key_length, 0);
    need = (size_t)kq_min64(VARINT_BYTES, head.end - value_size_at);
    r = kq_cursor_bytes(cursor, lens, value_size_at, need, &bytes, &length);
    if (r != 0)
        return r;
    struct kq_varint value = kq_varint_at(bytes, bytes + need);
    if (!value.next || value.value < -1)
        return -EBADMSG;
    head.value_at = value_size_at + (value.next - bytes);
    if (value.value > head.end - head.value_at)
        return -EBADMSG;
    head.value_length = (int32_t)value.value;
    *ret = head;
    return 0;
}

void kq_cursor_pass(struct kq_cursor *cursor, const struct kq_record_head *head)
{
    cursor->record_at = head->end;
    cursor->next_offset = head->offset + 1;
    cursor->skip = 0;
    cursor->left--;
}

int kq_cursor_peek(struct kq_cursor *cursor, struct kq_lens *lens, struct kq_record *ret,
                   int64_t *ret_size)
{
    const uint8_t *bytes;
    size_t length, size;
    int r = kq_cursor_enter(cursor, lens);
    if (r != 0)
        return r;
    int64_t left = cursor->records_end - cursor->record_at;
    size_t need = (size_t)kq_min64(VARINT_BYTES, left);
    r = kq_cursor_bytes(cursor, lens, cursor->record_at, need, &bytes, &length);
    if (r != 0)
        return r;
    struct kq_varint record = kq_varint_at(bytes, bytes + length);
    if (!record.next || record.value < 1 || record.value > left - (record.next - bytes))
        return -EBADMSG;
    need = (size_t)(record.next - bytes + record.value);
    r = kq_cursor_bytes(cursor, lens, cursor->record_at, need, &bytes, &length);
    if (r != 0)
        return r;
    const struct kq_batch_header *batch = &cursor->batch;
    int64_t append_time =
        batch->attributes & KQ_ATTRIBUTE_LOG_APPEND_TIME ? batch->max_timestamp : -1;
    r = kq_record_parse(bytes, bytes + length, batch->base_offset, batch->base_timestamp,
                        append_time, ret, &size);
    if (r != 0)
        return -EBADMSG;
    *ret_size = (int64_t)size;
    return 0;
}

void kq_cursor_step(struct kq_cursor *cursor, const struct kq_record *record, int64_t size)
{
    cursor->record_at += size;
    cursor->next_offset = record->offset + 1;
    cursor->skip = 0;
    cursor->by_text = false;
    cursor->left--;
}

/* --- Seeking --- */

static void place(struct kq_cursor *cursor, const struct kq_extent *extent)
{
    kq_extent_unref(&cursor->extent);
    cursor->extent = *extent;
    cursor->batch_at = extent->position;
    cursor->text = extent->text;
    cursor->by_text = extent->text >= 0;
    cursor->next_offset = extent->base_offset;
    cursor->in_batch = false;
    cursor->left = 0;
    cursor->skip = 0;
}

/* Goes on to the record that holds text position TEXT. */
static int pass_text(struct kq_cursor *cursor, struct kq_lens *lens, int64_t text)
{
    while (cursor->text < text) {
        struct kq_record_head head;
        int r = kq_cursor_enter(cursor, lens);
        if (r == 0)
            r = kq_cursor_head(cursor, lens, &head);
        if (r != 0)
            return r;
        kq_cursor_render_as(cursor, head.offset);
        int64_t length = kq_head_text_length(&cursor->rendering, &head);
        if (cursor->text + length > text) {
            cursor->skip = text - cursor->text;
            cursor->text = text;
            return 0;
        }
        cursor->text += length;
        kq_cursor_pass(cursor, &head);
    }
    return 0;
}

int kq_cursor_seek_text(struct kq_cursor *cursor, struct kq_lens *lens, int64_t text)
{
    struct kq_extent extent;
    int r = kq_read_text(&cursor->access, text, WHOLE_SEGMENT, lens->may_block, &extent);
    if (r != 0)
        return r;
    place(cursor, &extent);
    return pass_text(cursor, lens, text);
}

int kq_cursor_seek_offset(struct kq_cursor *cursor, struct kq_lens *lens, int64_t offset,
                          bool want_text)
{
    struct kq_extent extent;
    int r = kq_read(&cursor->access, offset, WHOLE_SEGMENT, want_text, lens->may_block, &extent);
    if (r != 0)
        return r;
    place(cursor, &extent);
    for (;;) {
        struct kq_record_head head;
        r = kq_cursor_enter(cursor, lens);
        if (r == 0)
            r = kq_cursor_head(cursor, lens, &head);
        if (r != 0)
            return r;
        if (head.offset >= offset)
            return 0;
        if (want_text) {
            kq_cursor_render_as(cursor, head.offset);
            cursor->text += kq_head_text_length(&cursor->rendering, &head);
        }
        kq_cursor_pass(cursor, &head);
    }
}
