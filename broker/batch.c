#include "broker/batch.h"

#include <assert.h>
#include <limits.h>
#include <string.h>

#include "broker/base/crc32c.h"
#include "broker/base/endian.h"
#include "broker/codec.h"

enum {
    AT_LENGTH = 8,
    AT_LEADER_EPOCH = 12,
    AT_MAGIC = 16,
    AT_CRC = 17,
    AT_ATTRIBUTES = 21, /* from here on the checksum counts */
    AT_LAST_OFFSET_DELTA = 23,
    AT_BASE_TIMESTAMP = 27,
    AT_MAX_TIMESTAMP = 35,
    AT_PRODUCER_ID = 43,
    AT_PRODUCER_EPOCH = 51,
    AT_BASE_SEQUENCE = 53,
    AT_RECORD_COUNT = 57,
};

#define MAGIC 2
#define RECORD_LEAST 7        /* bytes of the smallest record: null key, empty value, no headers */
#define RECORD_OVERHEAD 48    /* at most: attributes and the varints of a record */
#define COPY_AHEAD 32         /* short values are copied in blocks of so many bytes */
#define COPY_BLOCKS_UP_TO 512 /* above, memcpy is quicker */

/* --- Variable-length numbers --- */

static inline uint64_t zigzag(int64_t value)
{
    return (uint64_t)value << 1 ^ (uint64_t)(value >> 63);
}

static inline uint8_t *put_raw(uint8_t *at, uint64_t raw)
{
    for (; kq_unlikely(raw >= 0x80); raw >>= 7)
        *at++ = (uint8_t)(raw | 0x80);
    *at++ = (uint8_t)raw;
    return at;
}

static inline uint8_t *put_varint(uint8_t *at, int64_t value)
{
    return put_raw(at, zigzag(value));
}

static inline size_t raw_size(uint64_t raw)
{
    return (size_t)(63 - __builtin_clzll(raw | 1)) / 7 + 1;
}

size_t kq_varint_write(uint8_t *at, int64_t value)
{
    return (size_t)(put_varint(at, value) - at);
}

size_t kq_varint_size(int64_t value)
{
    return raw_size(zigzag(value));
}

static int read_long_varint(const uint8_t **at, const uint8_t *end, int64_t *ret)
{
    const uint8_t *byte = *at;
    uint64_t raw = 0;
    for (int shift = 0; shift < 70; shift += 7) {
        if (byte == end)
            return KQ_PARTIAL;
        if (shift == 63 && *byte > 1)
            return -EBADMSG;
        raw |= (uint64_t)(*byte & 0x7f) << shift;
        if (*byte++ < 0x80) {
            *ret = (int64_t)(raw >> 1) ^ -(int64_t)(raw & 1);
            *at = byte;
            return 0;
        }
    }
    return -EBADMSG;
}

static inline int read_varint(const uint8_t **at, const uint8_t *end, int64_t *ret)
{
    const uint8_t *byte = *at;
    if (kq_likely(end - byte >= 2)) {
        uint32_t raw = byte[0];
        if (raw < 0x80) {
            *at = byte + 1;
        } else if (byte[1] < 0x80) {
            raw = (raw & 0x7f) | (uint32_t)byte[1] << 7;
            *at = byte + 2;
        } else {
            return read_long_varint(at, end, ret);
        }
        *ret = (int64_t)(raw >> 1) ^ -(int64_t)(raw & 1);
        return 0;
    }
    return read_long_varint(at, end, ret);
}

int kq_varint_read(const uint8_t **at, const uint8_t *end, int64_t *ret)
{
    return read_varint(at, end, ret);
}

/* --- Header --- */

static bool header_is_sane(const struct kq_batch_header *header)
{
    if (header->base_offset < 0 || header->last_offset_delta < 0 || header->record_count < 0)
        return false;
    if (header->base_offset > INT64_MAX - 1 - header->last_offset_delta)
        return false;
    /* Compaction takes records out and leaves the offsets: there may be fewer, never more. */
    if (header->record_count > (int64_t)header->last_offset_delta + 1)
        return false;
    return (header->attributes & KQ_ATTRIBUTE_CODEC) != KQ_CODEC_NONE ||
           (int64_t)header->record_count * RECORD_LEAST <= (int64_t)header->size - KQ_BATCH_HEADER;
}

int kq_batch_header_read(const void *bytes, size_t length, struct kq_batch_header *ret)
{
    const uint8_t *at = bytes;
    if (length < KQ_BATCH_HEADER)
        return KQ_PARTIAL;
    uint32_t batch_length = kq_load_be32(at + AT_LENGTH);
    if (at[AT_MAGIC] != MAGIC || batch_length > INT32_MAX ||
        batch_length < KQ_BATCH_HEADER - KQ_BATCH_OVERHEAD)
        return -EBADMSG;
    struct kq_batch_header header = {
        .base_offset = (int64_t)kq_load_be64(at),
        .size = batch_length + KQ_BATCH_OVERHEAD,
        .leader_epoch = (int32_t)kq_load_be32(at + AT_LEADER_EPOCH),
        .crc = kq_load_be32(at + AT_CRC),
        .attributes = (int16_t)kq_load_be16(at + AT_ATTRIBUTES),
        .last_offset_delta = (int32_t)kq_load_be32(at + AT_LAST_OFFSET_DELTA),
        .base_timestamp = (int64_t)kq_load_be64(at + AT_BASE_TIMESTAMP),
        .max_timestamp = (int64_t)kq_load_be64(at + AT_MAX_TIMESTAMP),
        .producer_id = (int64_t)kq_load_be64(at + AT_PRODUCER_ID),
        .producer_epoch = (int16_t)kq_load_be16(at + AT_PRODUCER_EPOCH),
        .base_sequence = (int32_t)kq_load_be32(at + AT_BASE_SEQUENCE),
        .record_count = (int32_t)kq_load_be32(at + AT_RECORD_COUNT),
    };
    if (!header_is_sane(&header))
        return -EBADMSG;
    *ret = header;
    return 0;
}

int kq_batch_check_crc(const void *bytes, const struct kq_batch_header *header)
{
    const uint8_t *from = (const uint8_t *)bytes + AT_ATTRIBUTES;
    return kq_crc32c(0, from, header->size - AT_ATTRIBUTES) == header->crc ? 0 : -EBADMSG;
}

void kq_batch_patch(void *bytes, int64_t base_offset, int32_t leader_epoch)
{
    kq_store_be64(bytes, (uint64_t)base_offset);
    kq_store_be32((uint8_t *)bytes + AT_LEADER_EPOCH, (uint32_t)leader_epoch);
}

/* --- Reading records --- */

int kq_record_reader_open(struct kq_record_reader *reader, const void *bytes,
                          const struct kq_batch_header *header, size_t limit,
                          struct kq_buf *scratch)
{
    const uint8_t *records = (const uint8_t *)bytes + KQ_BATCH_HEADER;
    size_t length = header->size - KQ_BATCH_HEADER;
    enum kq_codec codec = header->attributes & KQ_ATTRIBUTE_CODEC;
    if (codec != KQ_CODEC_NONE) {
        scratch->length = 0;
        if (codec > KQ_CODEC_ZSTD)
            return -EBADMSG;
        int r = kq_codec_decompress(codec, records, length, limit, scratch);
        if (r < 0)
            return r;
        records = scratch->data;
        length = scratch->length;
    }
    *reader = (struct kq_record_reader){
        .at = records,
        .end = length ? records + length : records,
        .base_offset = header->base_offset,
        .base_timestamp = header->base_timestamp,
        .append_time =
            header->attributes & KQ_ATTRIBUTE_LOG_APPEND_TIME ? header->max_timestamp : -1,
        .left = header->record_count,
        .last_offset_delta = header->last_offset_delta,
        .next_offset_delta = 0,
    };
    return 0;
}

/* A length and so many bytes; -1 is null where NULL is allowed. */
static inline int read_bytes(const uint8_t **at, const uint8_t *end, const uint8_t **ret,
                             int32_t *ret_length)
{
    int64_t length;
    if (read_varint(at, end, &length) != 0 || length < -1 || length > end - *at)
        return -EBADMSG;
    *ret = length < 0 ? NULL : *at;
    *ret_length = (int32_t)length;
    if (length > 0)
        *at += length;
    return 0;
}

/* What lies between a record's length and its end. */
static inline int parse_body(const uint8_t *at, const uint8_t *end, int64_t base_offset,
                             int64_t base_timestamp, int64_t append_time, struct kq_record *ret)
{
    int64_t timestamp_delta, offset_delta, header_count;
    if (end - at < RECORD_LEAST - 1)
        return -EBADMSG;
    at++; /* attributes: none are defined */
    if (read_varint(&at, end, &timestamp_delta) != 0 || read_varint(&at, end, &offset_delta) != 0)
        return -EBADMSG;
    if (offset_delta < 0 || offset_delta > INT32_MAX ||
        __builtin_add_overflow(base_offset, offset_delta, &ret->offset) ||
        __builtin_add_overflow(base_timestamp, timestamp_delta, &ret->timestamp))
        return -EBADMSG;
    if (append_time != -1)
        ret->timestamp = append_time;
    if (read_bytes(&at, end, &ret->key, &ret->key_length) < 0 ||
        read_bytes(&at, end, &ret->value, &ret->value_length) < 0)
        return -EBADMSG;
    /* A header takes two bytes at least: a count that the bytes cannot hold is refused here. */
    if (read_varint(&at, end, &header_count) != 0 || header_count < 0 ||
        header_count > (end - at) / 2 || (header_count == 0 && at != end))
        return -EBADMSG;
    ret->headers = at;
    ret->headers_length = (size_t)(end - at);
    ret->header_count = (int32_t)header_count;
    return 0;
}

static inline int parse_record(const uint8_t *at, const uint8_t *end, int64_t base_offset,
                               int64_t base_timestamp, int64_t append_time, struct kq_record *ret,
                               const uint8_t **ret_next)
{
    int64_t length;
    struct kq_record record;
    int r = read_varint(&at, end, &length);
    if (r != 0)
        return r;
    if (length < 0 || length > INT32_MAX)
        return -EBADMSG;
    if (length > end - at)
        return KQ_PARTIAL;
    r = parse_body(at, at + length, base_offset, base_timestamp, append_time, &record);
    if (r < 0)
        return r;
    *ret = record;
    *ret_next = at + length;
    return 0;
}

int kq_record_parse(const uint8_t *at, const uint8_t *end, int64_t base_offset,
                    int64_t base_timestamp, int64_t append_time, struct kq_record *ret,
                    size_t *ret_size)
{
    const uint8_t *next;
    int r = parse_record(at, end, base_offset, base_timestamp, append_time, ret, &next);
    if (r == 0)
        *ret_size = (size_t)(next - at);
    return r;
}

int kq_record_next(struct kq_record_reader *reader, struct kq_record *ret)
{
    struct kq_record record;
    const uint8_t *next;
    if (reader->left == 0)
        return reader->at == reader->end ? KQ_END : -EBADMSG;
    if (parse_record(reader->at, reader->end, reader->base_offset, reader->base_timestamp,
                     reader->append_time, &record, &next) != 0)
        return -EBADMSG;
    int64_t delta = record.offset - reader->base_offset;
    if (delta < reader->next_offset_delta || delta > reader->last_offset_delta)
        return -EBADMSG;
    reader->next_offset_delta = delta + 1;
    reader->at = next;
    reader->left--;
    *ret = record;
    return 0;
}

int kq_header_next(const struct kq_record *record, const uint8_t **at, struct kq_header *ret)
{
    if (record->headers_length == 0)
        return KQ_END;
    const uint8_t *end = record->headers + record->headers_length, *from = *at;
    struct kq_header header;
    if (from == end)
        return KQ_END;
    if (read_bytes(&from, end, &header.name, &header.name_length) < 0 || header.name_length < 0 ||
        read_bytes(&from, end, &header.value, &header.value_length) < 0)
        return -EBADMSG;
    *ret = header;
    *at = from;
    return 0;
}

static int check_headers(const struct kq_record *record)
{
    const uint8_t *at = record->headers;
    struct kq_header header;
    int32_t count = 0;
    int r;
    while ((r = kq_header_next(record, &at, &header)) == 0)
        count++;
    return r == KQ_END && count == record->header_count ? 0 : -EBADMSG;
}

int kq_batch_check_records(const void *bytes, const struct kq_batch_header *header, size_t limit,
                           struct kq_buf *scratch)
{
    struct kq_record_reader reader;
    struct kq_record record;
    int r = kq_batch_check_crc(bytes, header);
    if (r < 0)
        return r;
    /* A client numbers its records without gaps; only compaction makes some. */
    if (header->record_count != (int64_t)header->last_offset_delta + 1)
        return -EBADMSG;
    r = kq_record_reader_open(&reader, bytes, header, limit, scratch);
    if (r < 0)
        return r;
    while ((r = kq_record_next(&reader, &record)) == 0)
        if (check_headers(&record) < 0)
            return -EBADMSG;
    return r == KQ_END ? 0 : r;
}

/* --- Building --- */

int kq_batch_begin(struct kq_batch_builder *builder, struct kq_buf *out, int16_t attributes)
{
    int r = kq_buf_reserve(out, KQ_BATCH_HEADER);
    if (r < 0)
        return r;
    *builder =
        (struct kq_batch_builder){.out = out, .start = out->length, .attributes = attributes};
    out->length += KQ_BATCH_HEADER;
    return 0;
}

/* The timestamp's distance to the batch's first. */
static int note_timestamp(struct kq_batch_builder *builder, int64_t timestamp, int64_t *ret_delta)
{
    if (builder->count == 0)
        builder->base_timestamp = builder->max_timestamp = timestamp;
    if (__builtin_sub_overflow(timestamp, builder->base_timestamp, ret_delta))
        return -EINVAL;
    builder->max_timestamp = kq_max64(builder->max_timestamp, timestamp);
    return 0;
}

int kq_batch_add(struct kq_batch_builder *builder, int64_t timestamp, const void *key,
                 int32_t key_length, const void *value, int32_t value_length, const void *headers,
                 size_t headers_length, int32_t header_count)
{
    int64_t timestamp_delta = 0, most = INT32_MAX - KQ_BATCH_OVERHEAD;
    key_length = key ? key_length : -1;
    value_length = value ? value_length : -1;
    size_t key_bytes = key ? (size_t)key_length : 0, value_bytes = value ? (size_t)value_length : 0;
    size_t used = builder->out->length - builder->start;
    if (headers_length > INT32_MAX || builder->count == INT32_MAX ||
        used + key_bytes + value_bytes + headers_length + RECORD_OVERHEAD > (size_t)most)
        return -EFBIG;
    int r =
        kq_buf_reserve(builder->out, key_bytes + value_bytes + headers_length + RECORD_OVERHEAD);
    if (r == 0)
        r = note_timestamp(builder, timestamp, &timestamp_delta);
    if (r < 0)
        return r;
    size_t body = 1 + kq_varint_size(timestamp_delta) + kq_varint_size(builder->count) +
                  kq_varint_size(key_length) + key_bytes + kq_varint_size(value_length) +
                  value_bytes + kq_varint_size(header_count) + headers_length;
    uint8_t *at = put_varint(builder->out->data + builder->out->length, (int64_t)body);
    *at++ = 0;
    at = put_varint(put_varint(at, timestamp_delta), builder->count);
    at = put_varint(at, key_length);
    at = key_bytes ? mempcpy(at, key, key_bytes) : at;
    at = put_varint(at, value_length);
    at = value_bytes ? mempcpy(at, value, value_bytes) : at;
    at = put_varint(at, header_count);
    at = headers_length ? mempcpy(at, headers, headers_length) : at;
    builder->out->length = (size_t)(at - builder->out->data);
    builder->count++;
    return 0;
}

/* Copies LENGTH bytes; may read and write COPY_AHEAD - 1 bytes more. */
static inline uint8_t *copy_in_blocks(uint8_t *to, const uint8_t *from, size_t length)
{
    for (size_t done = 0; done < length; done += COPY_AHEAD)
        memcpy(to + done, from + done, COPY_AHEAD);
    return to + length;
}

/* Room for a line of LENGTH bytes; moves *AT along with the buffer. */
static int make_room(struct kq_batch_builder *builder, size_t length, uint8_t **at)
{
    struct kq_buf *out = builder->out;
    out->length = (size_t)(*at - out->data);
    if (out->length - builder->start + length > INT32_MAX - RECORD_OVERHEAD)
        return -EFBIG;
    int r = kq_buf_reserve(out, length + RECORD_OVERHEAD + COPY_AHEAD);
    if (r == 0)
        *at = out->data + out->length;
    return r;
}

/* What lies before the value of most lines: attributes and a timestamp of one byte, no key, and two
 * bytes each for the other numbers. */
#define COMMON_BYTES 9
#define TWO_BYTES_LEAST 64
#define TWO_BYTES_MOST 8191

static inline bool is_common(size_t piece, int64_t count, size_t fixed_size)
{
    return piece - TWO_BYTES_LEAST <= TWO_BYTES_MOST - COMMON_BYTES - TWO_BYTES_LEAST &&
           (uint64_t)count - TWO_BYTES_LEAST <= TWO_BYTES_MOST - TWO_BYTES_LEAST && fixed_size == 2;
}

/* NUMBER, from TWO_BYTES_LEAST to TWO_BYTES_MOST, as its two bytes in the order of memory. */
static inline uint64_t two_bytes(uint64_t number)
{
    return (number << 1 & 0x7f) | 0x80 | number >> 6 << 8;
}

static inline uint8_t *put_common(uint8_t *at, size_t piece, int64_t count, uint8_t timestamp)
{
    uint64_t length = two_bytes(piece);
    kq_store_le64(at, two_bytes(piece + COMMON_BYTES - 1) | (uint64_t)timestamp << 24 |
                          two_bytes((uint64_t)count) << 32 | UINT64_C(1) << 48 | length << 56);
    at[8] = (uint8_t)(length >> 8);
    return at + COMMON_BYTES;
}

static inline uint8_t *put_any(uint8_t *at, size_t piece, int64_t count, const uint8_t fixed[12],
                               size_t fixed_size)
{
    uint64_t raw_piece = (uint64_t)piece << 1, raw_count = (uint64_t)count << 1;
    at = put_raw(at, (fixed_size + raw_size(raw_count) + raw_size(raw_piece) + 2 + piece) << 1);
    memcpy(at, fixed, 12);
    at = put_raw(at + fixed_size, raw_count);
    *at++ = 1; /* key length -1: null */
    return put_raw(at, raw_piece);
}

int kq_batch_add_lines(struct kq_batch_builder *builder, int64_t timestamp, const uint8_t *bytes,
                       size_t length, uint8_t delimiter, size_t max_value)
{
    const uint8_t *end = bytes + length, *next;
    int64_t delta, count = builder->count;
    uint8_t fixed[12] = {0}; /* attributes and timestamp delta: the same for all */
    if (length > INT32_MAX)
        return -EFBIG;
    int r = note_timestamp(builder, timestamp, &delta);
    if (r == 0) /* enough for lines of 40 bytes or more; shorter ones make it grow */
        r = kq_buf_reserve(builder->out, length + length / 4 + RECORD_OVERHEAD + COPY_AHEAD);
    if (r < 0)
        return r;
    size_t fixed_size = 1 + kq_varint_write(fixed + 1, delta);
    uint8_t *at = builder->out->data + builder->out->length;
    const uint8_t *room = builder->out->data + builder->out->capacity;
    for (; bytes < end; bytes = next + 1) {
        next = memchr(bytes, delimiter, (size_t)(end - bytes));
        assert(next);
        size_t piece = (size_t)(next - bytes);
        if (kq_unlikely(piece > max_value))
            return -EMSGSIZE;
        if (kq_unlikely((size_t)(room - at) < piece + RECORD_OVERHEAD + COPY_AHEAD)) {
            if ((r = make_room(builder, piece, &at)) < 0)
                return r;
            room = builder->out->data + builder->out->capacity;
        }
        at = kq_likely(is_common(piece, count, fixed_size))
                 ? put_common(at, piece, count, fixed[1])
                 : put_any(at, piece, count, fixed, fixed_size);
        count++;
        if (piece <= COPY_BLOCKS_UP_TO && (size_t)(end - bytes) >= piece + COPY_AHEAD)
            at = copy_in_blocks(at, bytes, piece);
        else
            at = mempcpy(at, bytes, piece);
        *at++ = 0; /* no headers */
    }
    builder->out->length = (size_t)(at - builder->out->data);
    builder->count = (int32_t)count;
    return builder->out->length - builder->start > INT32_MAX ? -EFBIG : 0;
}

void kq_batch_header_write(void *bytes, const struct kq_batch_header *header)
{
    uint8_t *batch = bytes;
    kq_batch_patch(batch, header->base_offset, header->leader_epoch);
    kq_store_be32(batch + AT_LENGTH, header->size - KQ_BATCH_OVERHEAD);
    batch[AT_MAGIC] = MAGIC;
    kq_store_be16(batch + AT_ATTRIBUTES, (uint16_t)header->attributes);
    kq_store_be32(batch + AT_LAST_OFFSET_DELTA, (uint32_t)header->last_offset_delta);
    kq_store_be64(batch + AT_BASE_TIMESTAMP, (uint64_t)header->base_timestamp);
    kq_store_be64(batch + AT_MAX_TIMESTAMP, (uint64_t)header->max_timestamp);
    kq_store_be64(batch + AT_PRODUCER_ID, (uint64_t)header->producer_id);
    kq_store_be16(batch + AT_PRODUCER_EPOCH, (uint16_t)header->producer_epoch);
    kq_store_be32(batch + AT_BASE_SEQUENCE, (uint32_t)header->base_sequence);
    kq_store_be32(batch + AT_RECORD_COUNT, (uint32_t)header->record_count);
    kq_store_be32(batch + AT_CRC,
                  kq_crc32c(0, batch + AT_ATTRIBUTES, header->size - AT_ATTRIBUTES));
}

void kq_batch_finish(struct kq_batch_builder *builder)
{
    assert(builder->count > 0);
    kq_batch_header_write(builder->out->data + builder->start,
                          &(struct kq_batch_header){
                              .size = (uint32_t)(builder->out->length - builder->start),
                              .attributes = builder->attributes,
                              .last_offset_delta = builder->count - 1,
                              .base_timestamp = builder->base_timestamp,
                              .max_timestamp = builder->max_timestamp,
                              .producer_id = -1,
                              .producer_epoch = -1,
                              .base_sequence = -1,
                              .record_count = builder->count,
                          });
}

void kq_batch_abandon(struct kq_batch_builder *builder)
{
    builder->out->length = builder->start;
}
