#include "broker/validate.h"

#include "broker/base/crc32c.h"
#include "broker/base/endian.h"
#include "broker/codec.h"
#include "broker/produce.h"

enum {
    AT_LENGTH = 8,
    AT_MAGIC = 16,
    AT_CRC = 17,
    AT_ATTRIBUTES = 21,
    AT_MAX_TIMESTAMP = 35,
};

#define MAGIC 2
#define NO_TIMESTAMP (-1)

static int refuse(struct kq_batch_verdict *verdict, int condition, const char *reason)
{
    verdict->reason = reason;
    return condition;
}

/* --- Records --- */

struct records {
    const struct kq_batch_rules *rules;
    struct kq_batch_verdict *verdict;
    int64_t oldest, newest; /* timestamps that are taken */
    int32_t seen;
    int blamed_for; /* the condition; 0: none is to blame yet */
    struct kq_blamed first;
};

/* One record will not do; those behind it are looked at, too, where somebody wants to know. */
static int blame(struct records *records, int condition, const char *reason)
{
    struct kq_buf *blamed = records->rules->blamed;
    const struct kq_blamed one = {records->seen, reason};
    if (!blamed)
        return refuse(records->verdict, condition, reason);
    if (!records->blamed_for)
        records->first = one;
    if (!records->blamed_for || records->blamed_for == condition)
        records->blamed_for = condition;
    else
        records->blamed_for = KQ_INVALID_RECORD;
    records->seen++;
    return blamed->length < KQ_BLAMED_MAX * sizeof(one) ? kq_buf_append(blamed, &one, sizeof(one))
                                                        : 0;
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

static int check_record(struct records *records, const struct kq_record *record)
{
    struct kq_batch_verdict *verdict = records->verdict;
    verdict->record_index = records->seen;
    if (records->seen == verdict->header.record_count)
        return refuse(verdict, KQ_INVALID_RECORD, "there are more records than the batch says");
    if (record->offset != records->seen)
        return refuse(verdict, KQ_INVALID_RECORD, "the offset does not follow the one before");
    if (record->header_count > 0 && check_headers(record) < 0)
        return refuse(verdict, KQ_INVALID_RECORD, "the headers are malformed");
    if (records->rules->needs_keys && !record->key)
        return blame(records, KQ_INVALID_RECORD, "a message of a compacted topic needs a key");
    if (record->timestamp != NO_TIMESTAMP &&
        (record->timestamp < records->oldest || record->timestamp > records->newest))
        return blame(records, KQ_INVALID_TIMESTAMP,
                     "the timestamp is outside message.timestamp.before.max.ms and "
                     "message.timestamp.after.max.ms");
    verdict->max_timestamp = kq_max64(verdict->max_timestamp, record->timestamp);
    records->seen++;
    return 0;
}

/* The whole records of [*AT, END); moves *AT behind them. */
static int check_run(struct records *records, const uint8_t **at, const uint8_t *end)
{
    struct kq_record record;
    size_t size;
    while (*at < end) {
        int r = kq_record_parse(*at, end, 0, records->verdict->header.base_timestamp, -1, &record,
                                &size);
        if (r == KQ_PARTIAL)
            return 0;
        if (r < 0) {
            records->verdict->record_index = records->seen;
            return refuse(records->verdict, KQ_INVALID_RECORD, "the record is malformed");
        }
        r = check_record(records, &record);
        if (r != 0)
            return r;
        *at += size;
    }
    return 0;
}

static int drain(void *context, struct kq_buf *window)
{
    const uint8_t *at = window->data;
    if (window->length == 0)
        return 0;
    int r = check_run(context, &at, window->data + window->length);
    if (r == 0 && at > window->data)
        kq_buf_drop_front(window, (size_t)(at - window->data));
    return r;
}

static int check_plain(struct records *records, const uint8_t *at, const uint8_t *end,
                       bool *ret_rest)
{
    int r = check_run(records, &at, end);
    *ret_rest = at < end;
    return r;
}

static int check_compressed(struct records *records, const uint8_t *bytes, struct kq_buf *window,
                            bool *ret_rest)
{
    const struct kq_batch_header *header = &records->verdict->header;
    int r = kq_codec_stream(header->attributes & KQ_ATTRIBUTE_CODEC, bytes + KQ_BATCH_HEADER,
                            header->size - KQ_BATCH_HEADER, records->rules->limit, window, drain,
                            records);
    *ret_rest = window->length > 0;
    if (r == -EBADMSG || r == -EINVAL) {
        records->verdict->record_index = -1;
        return refuse(records->verdict, KQ_INVALID_RECORD, "the records cannot be decompressed");
    }
    return r;
}

/* The sums stay within an i64. */
void kq_timestamp_bounds(int64_t now_ms, int64_t before_max_ms, int64_t after_max_ms,
                         int64_t *ret_oldest, int64_t *ret_newest)
{
    if (before_max_ms == INT64_MAX || __builtin_sub_overflow(now_ms, before_max_ms, ret_oldest))
        *ret_oldest = INT64_MIN;
    if (__builtin_add_overflow(now_ms, after_max_ms, ret_newest))
        *ret_newest = INT64_MAX;
}

static void bound_timestamps(struct records *records)
{
    const struct kq_batch_rules *rules = records->rules;
    records->oldest = INT64_MIN;
    records->newest = INT64_MAX;
    if (!rules->append_time)
        kq_timestamp_bounds(rules->now_ms, rules->before_max_ms, rules->after_max_ms,
                            &records->oldest, &records->newest);
}

static int check_records(const uint8_t *bytes, const struct kq_batch_rules *rules,
                         struct kq_buf *window, struct kq_batch_verdict *verdict)
{
    struct records records = {.rules = rules, .verdict = verdict};
    bool rest;
    bound_timestamps(&records);
    verdict->max_timestamp = NO_TIMESTAMP;
    int r =
        verdict->header.attributes & KQ_ATTRIBUTE_CODEC
            ? check_compressed(&records, bytes, window, &rest)
            : check_plain(&records, bytes + KQ_BATCH_HEADER, bytes + verdict->header.size, &rest);
    if (r != 0)
        return r;
    verdict->record_index = -1;
    if (rest)
        return refuse(verdict, KQ_INVALID_RECORD, "the last record is cut off");
    if (records.seen != verdict->header.record_count)
        return refuse(verdict, KQ_INVALID_RECORD, "there are fewer records than the batch says");
    if (records.blamed_for) {
        verdict->record_index = records.first.index;
        return refuse(verdict, records.blamed_for, records.first.reason);
    }
    return 0;
}

/* --- The batch --- */

static int check_length(const uint8_t *bytes, size_t length, const struct kq_batch_rules *rules,
                        struct kq_batch_verdict *verdict)
{
    if (length < KQ_BATCH_HEADER)
        return refuse(verdict, KQ_INVALID_RECORD, "there is no record batch");
    uint32_t rest = kq_load_be32(bytes + AT_LENGTH);
    if (rest > INT32_MAX || rest < KQ_BATCH_HEADER - KQ_BATCH_OVERHEAD ||
        rest > length - KQ_BATCH_OVERHEAD)
        return refuse(verdict, KQ_CORRUPT, "the batch is not as long as it says");
    if (bytes[AT_MAGIC] != MAGIC)
        return refuse(verdict, KQ_INVALID_RECORD, "only record batches of version 2 are taken");
    if (rest < length - KQ_BATCH_OVERHEAD)
        return refuse(verdict, KQ_INVALID_RECORD, "there is more than one record batch");
    if ((int64_t)length > rules->max_bytes)
        return refuse(verdict, KQ_TOO_LARGE, "the batch is larger than max.message.bytes");
    return 0;
}

static int check_attributes(const struct kq_batch_rules *rules, struct kq_batch_verdict *verdict)
{
    int16_t attributes = verdict->header.attributes;
    int codec = attributes & KQ_ATTRIBUTE_CODEC;
    if (codec > KQ_CODEC_ZSTD)
        return refuse(verdict, KQ_UNSUPPORTED_CODEC, "the compression is unknown");
    if (codec == KQ_CODEC_ZSTD && !rules->zstd)
        return refuse(verdict, KQ_UNSUPPORTED_CODEC,
                      "zstd needs version 7 or later of the Produce request");
    if (attributes & KQ_ATTRIBUTE_CONTROL)
        return refuse(verdict, KQ_INVALID_RECORD, "clients may not write control batches");
    if (attributes & KQ_ATTRIBUTE_DELETE_HORIZON)
        return refuse(verdict, KQ_INVALID_RECORD, "clients may not set a delete horizon");
    if (attributes & KQ_ATTRIBUTE_TRANSACTIONAL)
        return refuse(verdict, KQ_TRANSACTIONAL, "transactions are not available");
    if (attributes & KQ_ATTRIBUTE_LOG_APPEND_TIME)
        return refuse(verdict, KQ_INVALID_TIMESTAMP,
                      "producers may not set the timestamp type to LogAppendTime");
    return 0;
}

static int check_numbers(struct kq_batch_verdict *verdict)
{
    const struct kq_batch_header *header = &verdict->header;
    if (header->base_offset != 0)
        return refuse(verdict, KQ_INVALID_RECORD, "the base offset of a batch to append is 0");
    if (header->record_count <= 0 || header->record_count != (int64_t)header->last_offset_delta + 1)
        return refuse(verdict, KQ_INVALID_RECORD, "offsets and number of records do not agree");
    if (header->producer_id >= 0 && (header->producer_epoch < 0 || header->base_sequence < 0))
        return refuse(verdict, KQ_INVALID_RECORD,
                      "a producer id comes with an epoch and a sequence number");
    return 0;
}

int kq_batch_validate(const uint8_t *bytes, size_t length, const struct kq_batch_rules *rules,
                      struct kq_buf *window, struct kq_batch_verdict *ret)
{
    ret->record_index = -1;
    ret->reason = NULL;
    if (rules->blamed)
        rules->blamed->length = 0;
    int r = check_length(bytes, length, rules, ret);
    if (r != 0)
        return r;
    if (kq_batch_header_read(bytes, length, &ret->header) != 0)
        return refuse(ret, KQ_INVALID_RECORD, "offsets and number of records do not agree");
    if (kq_batch_check_crc(bytes, &ret->header) < 0)
        return refuse(ret, KQ_CORRUPT, "the checksum is wrong");
    r = check_attributes(rules, ret);
    if (r == 0)
        r = check_numbers(ret);
    return r != 0 ? r : check_records(bytes, rules, window, ret);
}

/* --- Changes --- */

static void set_crc(uint8_t *bytes, struct kq_batch_header *header)
{
    header->crc = kq_crc32c(0, bytes + AT_ATTRIBUTES, header->size - AT_ATTRIBUTES);
    kq_store_be32(bytes + AT_CRC, header->crc);
}

void kq_batch_stamp(uint8_t *bytes, struct kq_batch_header *header, int16_t attributes,
                    int64_t max_timestamp)
{
    header->attributes = attributes;
    header->max_timestamp = max_timestamp;
    kq_store_be16(bytes + AT_ATTRIBUTES, (uint16_t)attributes);
    kq_store_be64(bytes + AT_MAX_TIMESTAMP, (uint64_t)max_timestamp);
    set_crc(bytes, header);
}
