#include "broker/text.h"

#include <string.h>

const struct kq_rendering *kq_rendering_at(const struct kq_renderings *renderings, int64_t offset,
                                           int64_t *ret_until)
{
    size_t low = 0, high = renderings->count;
    while (high - low > 1) {
        size_t middle = low + (high - low) / 2;
        if (renderings->at[middle].from_offset <= offset)
            low = middle;
        else
            high = middle;
    }
    if (ret_until)
        *ret_until = low + 1 < renderings->count ? renderings->at[low + 1].from_offset : INT64_MAX;
    return &renderings->at[low];
}

static uint8_t *put(uint8_t *to, const void *bytes, size_t length)
{
    if (length)
        memcpy(to, bytes, length);
    return to + length;
}

uint8_t *kq_text_write(const struct kq_rendering *rendering, const struct kq_record *record,
                       uint8_t *to)
{
    if (rendering->separator_length && record->key_length >= 0) {
        to = put(to, record->key, (size_t)record->key_length);
        to = put(to, rendering->separator, rendering->separator_length);
    }
    if (record->value_length > 0)
        to = put(to, record->value, (size_t)record->value_length);
    return put(to, rendering->delimiter, rendering->delimiter_length);
}

int kq_text_length_of_batch(const struct kq_renderings *renderings, const void *bytes,
                            const struct kq_batch_header *header, int64_t from, int64_t to,
                            size_t limit, struct kq_buf *scratch, int64_t *ret)
{
    int64_t length = 0, until = INT64_MIN;
    const struct kq_rendering *rendering = NULL;
    struct kq_record_reader reader;
    struct kq_record record;
    if (header->attributes & KQ_ATTRIBUTE_CONTROL) {
        *ret = 0;
        return 0;
    }
    int r = kq_record_reader_open(&reader, bytes, header, limit, scratch);
    if (r < 0)
        return r;
    while ((r = kq_record_next(&reader, &record)) == 0) {
        if (record.offset < from || record.offset >= to)
            continue;
        if (!rendering || record.offset >= until)
            rendering = kq_rendering_at(renderings, record.offset, &until);
        length += kq_text_length(rendering, &record);
    }
    if (r != KQ_END)
        return r;
    *ret = length;
    return 0;
}
