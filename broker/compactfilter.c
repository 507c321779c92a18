#include "broker/compactfilter.h"

#include <string.h>

#include "broker/codec.h"

#define RECORD_OVERHEAD 48 /* at most: attributes and the varints of a record */

/* One batch on its way. */
struct pass {
    struct kq_compact_filter *filter;
    const uint8_t *bytes;
    const struct kq_batch_header *header;
    bool discard;    /* none of its messages stays */
    bool marks_none; /* a marker of a transaction of which nothing is left */
    bool has_horizon;
    bool tombstones; /* among those that stay */
    int32_t kept;
    int64_t max_timestamp; /* of those that stay */
};

void kq_compact_filter_release(struct kq_compact_filter *filter)
{
    kq_buf_release(&filter->inflated);
    kq_buf_release(&filter->records);
}

/* --- What stays --- */

static bool is_kept(const struct pass *pass, const struct kq_record *record,
                    struct kq_compact_filtered *result)
{
    const struct kq_compact_filter *filter = pass->filter;
    if (pass->discard)
        return false;
    if (pass->header->attributes & KQ_ATTRIBUTE_CONTROL || record->offset >= filter->map_end)
        return true;
    if (!record->key) {
        result->keyless++;
        return false;
    }
    if (record->offset < kq_compact_map_get(filter->map, record->key, (size_t)record->key_length))
        return false;
    return record->value || !pass->has_horizon || filter->now_ms < pass->header->base_timestamp;
}

/* Decides about every message; a byte each in filter->records says how. */
static int decide(struct pass *pass, struct kq_record_reader *reader,
                  struct kq_compact_filtered *result)
{
    struct kq_compact_filter *filter = pass->filter;
    bool control = pass->header->attributes & KQ_ATTRIBUTE_CONTROL;
    struct kq_record record;
    int r;
    while ((r = kq_record_next(reader, &record)) == 0) {
        uint8_t kept = is_kept(pass, &record, result);
        result->messages_in++;
        if (kept) {
            pass->tombstones |= !record.value;
            pass->max_timestamp =
                pass->kept ? kq_max64(pass->max_timestamp, record.timestamp) : record.timestamp;
            pass->kept++;
        }
        r = kq_buf_append(&filter->records, &kept, 1);
        if (r == 0 && filter->message && !control)
            r = filter->message(filter->context, &record, kept);
        if (r < 0)
            return r;
    }
    result->messages_out = pass->kept;
    return r == KQ_END ? 0 : r;
}

static bool is_last_of_producer(const struct kq_compact_filter *filter,
                                const struct kq_batch_header *header)
{
    size_t low = 0, high = filter->producer_count;
    if (header->producer_id < 0)
        return false;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (filter->producers[middle].producer_id < header->producer_id)
            low = middle + 1;
        else
            high = middle;
    }
    if (low == filter->producer_count || filter->producers[low].producer_id != header->producer_id)
        return false;
    const struct kq_compact_producer *producer = &filter->producers[low];
    if (producer->last_offset >= 0)
        return kq_batch_next_offset(header) - 1 == producer->last_offset;
    return (header->attributes & KQ_ATTRIBUTE_CONTROL) && header->producer_epoch == producer->epoch;
}

static int look_at_transaction(struct pass *pass, struct kq_compact_filtered *result)
{
    struct kq_compact_filter *filter = pass->filter;
    const struct kq_batch_header *header = pass->header;
    enum kq_compact_marker marker;
    if (!(header->attributes & KQ_ATTRIBUTE_CONTROL))
        return kq_compact_txns_batch(filter->txns, header, &pass->discard);
    int r = kq_compact_marker_read(pass->bytes, header, &marker);
    if (r == 0)
        r = kq_compact_txns_marker(filter->txns, header, marker, &pass->marks_none,
                                   &result->aborted);
    /* A marker outlives its messages as a tombstone does. */
    pass->discard =
        pass->marks_none && pass->has_horizon && header->base_timestamp <= filter->now_ms;
    return r;
}

/* --- Writing what stays --- */

static int put_record(struct kq_buf *out, const struct kq_record *record, int64_t timestamp_delta,
                      int64_t offset_delta)
{
    size_t key = record->key ? (size_t)record->key_length : 0;
    size_t value = record->value ? (size_t)record->value_length : 0;
    size_t body = 1 + kq_varint_size(timestamp_delta) + kq_varint_size(offset_delta) +
                  kq_varint_size(record->key_length) + key + kq_varint_size(record->value_length) +
                  value + kq_varint_size(record->header_count) + record->headers_length;
    int r = kq_buf_reserve(out, body + RECORD_OVERHEAD);
    if (r < 0)
        return r;
    uint8_t *at = out->data + out->length;
    at += kq_varint_write(at, (int64_t)body);
    *at++ = 0;
    at += kq_varint_write(at, timestamp_delta);
    at += kq_varint_write(at, offset_delta);
    at += kq_varint_write(at, record->key_length);
    at = key ? mempcpy(at, record->key, key) : at;
    at += kq_varint_write(at, record->value_length);
    at = value ? mempcpy(at, record->value, value) : at;
    at += kq_varint_write(at, record->header_count);
    at = record->headers_length ? mempcpy(at, record->headers, record->headers_length) : at;
    out->length = (size_t)(at - out->data);
    return 0;
}

/* The records that stay, behind OUT, with timestamps from BASE on; of INT64_MIN: from that of the
 * first one, which goes to RET_BASE. */
static int put_records(struct pass *pass, struct kq_record_reader reader, int64_t base,
                       struct kq_buf *out, int64_t *ret_base)
{
    const struct kq_buf *kept = &pass->filter->records;
    struct kq_record record;
    int64_t delta;
    int r = 0;
    for (size_t i = 0; r == 0 && (r = kq_record_next(&reader, &record)) == 0; i++) {
        if (!kept->data[i])
            continue;
        base = base == INT64_MIN ? record.timestamp : base;
        if (__builtin_sub_overflow(record.timestamp, base, &delta))
            return -EBADMSG;
        r = put_record(out, &record, delta, record.offset - pass->header->base_offset);
    }
    *ret_base = base;
    return r == KQ_END ? 0 : r;
}

static int compress(const struct pass *pass, struct kq_buf *out, size_t from)
{
    enum kq_codec codec = pass->header->attributes & KQ_ATTRIBUTE_CODEC;
    kq_autobuf struct kq_buf plain = {0};
    if (codec == KQ_CODEC_NONE)
        return 0;
    int r = kq_buf_append(&plain, out->data + from, out->length - from);
    out->length = from;
    return r < 0 ? r : kq_codec_compress(codec, 0, plain.data, plain.length, out);
}

static int finish(struct kq_buf *out, size_t start, const struct kq_batch_header *header)
{
    struct kq_batch_header whole = *header;
    if (out->length - start > INT32_MAX)
        return -EFBIG;
    whole.size = (uint32_t)(out->length - start);
    kq_batch_header_write(out->data + start, &whole);
    return 0;
}

/* The batch anew, with what stays and, if SET_HORIZON, the time at which tombstones may go. */
static int rewrite(struct pass *pass, const struct kq_record_reader *reader, bool set_horizon,
                   struct kq_buf *out)
{
    const struct kq_compact_filter *filter = pass->filter;
    struct kq_batch_header header = *pass->header;
    size_t start = out->length;
    int64_t base = INT64_MIN;
    if (set_horizon) {
        header.attributes |= KQ_ATTRIBUTE_DELETE_HORIZON;
        if (__builtin_add_overflow(filter->now_ms, filter->delete_retention_ms, &base))
            base = INT64_MAX;
    } else if (pass->has_horizon) {
        base = header.base_timestamp;
    }
    int r = kq_buf_reserve(out, KQ_BATCH_HEADER);
    if (r < 0)
        return r;
    out->length += KQ_BATCH_HEADER;
    r = put_records(pass, *reader, base, out, &header.base_timestamp);
    if (r == 0)
        r = compress(pass, out, start + KQ_BATCH_HEADER);
    if (r < 0)
        return r;
    header.record_count = pass->kept;
    if (!(header.attributes & KQ_ATTRIBUTE_LOG_APPEND_TIME))
        header.max_timestamp = pass->max_timestamp;
    return finish(out, start, &header);
}

/* Nothing but the header, as Kafka's DefaultRecordBatch.writeEmptyHeader has it. */
static int write_empty(const struct pass *pass, struct kq_buf *out)
{
    struct kq_batch_header header = *pass->header;
    size_t start = out->length;
    int r = kq_buf_reserve(out, KQ_BATCH_HEADER);
    if (r < 0)
        return r;
    out->length += KQ_BATCH_HEADER;
    header.attributes &= (int16_t) ~(KQ_ATTRIBUTE_CODEC | KQ_ATTRIBUTE_DELETE_HORIZON);
    header.base_timestamp = -1;
    header.record_count = 0;
    return finish(out, start, &header);
}

static int write_rest(struct pass *pass, const struct kq_record_reader *reader, bool keep_empty,
                      struct kq_buf *out, bool *ret_changed)
{
    const struct kq_batch_header *header = pass->header;
    bool set_horizon =
        pass->kept > 0 && !pass->has_horizon && (pass->tombstones || pass->marks_none);
    *ret_changed = true;
    if (pass->kept == 0 && !keep_empty && !is_last_of_producer(pass->filter, header))
        return 0;
    if (pass->kept == header->record_count && !set_horizon) {
        *ret_changed = false;
        return kq_buf_append(out, pass->bytes, header->size);
    }
    return pass->kept == 0 ? write_empty(pass, out) : rewrite(pass, reader, set_horizon, out);
}

int kq_compact_batch(struct kq_compact_filter *filter, const uint8_t *bytes,
                     const struct kq_batch_header *header, bool keep_empty, struct kq_buf *out,
                     struct kq_compact_filtered *ret)
{
    struct pass pass = {
        .filter = filter,
        .bytes = bytes,
        .header = header,
        .has_horizon = header->attributes & KQ_ATTRIBUTE_DELETE_HORIZON,
    };
    struct kq_compact_filtered result = {.aborted = {.first_offset = -1}};
    struct kq_record_reader reader = {0};
    size_t start = out->length;
    filter->records.length = 0;
    int r = look_at_transaction(&pass, &result);
    if (r == 0)
        r = kq_record_reader_open(&reader, bytes, header, filter->limit, &filter->inflated);
    struct kq_record_reader again = reader;
    if (r == 0)
        r = decide(&pass, &reader, &result);
    if (r == 0)
        r = write_rest(&pass, &again, keep_empty, out, &result.changed);
    if (r < 0) {
        out->length = start;
        return r;
    }
    result.length = out->length - start;
    *ret = result;
    return 0;
}
