/* Record batches: header, every codec, records, headers. What passes the check reads without
 * error, and reads the same once it was built anew. */
#include "broker/base/crc32c.h"
#include "broker/base/endian.h"
#include "broker/batch.h"
#include "fs/jsonl.h"
#include "tests/fuzz/fuzz.h"

#define LIMIT (1 << 20)

static bool same(const uint8_t *a, int64_t a_length, const uint8_t *b, int64_t b_length)
{
    return a_length == b_length && !a == !b &&
           (a_length <= 0 || memcmp(a, b, (size_t)a_length) == 0);
}

/* A record of a checked batch, in the other two forms that it can be had. */
static void look_at_record(const struct kq_record *record)
{
    kq_autobuf struct kq_buf line = {0}, scratch = {0};
    struct kq_record again;
    MUST(kq_jsonl_format(record, &line) == 0);
    int r = kq_jsonl_parse(line.data, line.length, 0, &scratch, &again);
    MUST(r == (record->timestamp < -1 ? -EINVAL : 0));
    if (r < 0)
        return;
    MUST(again.timestamp == record->timestamp && again.header_count == record->header_count);
    MUST(same(again.key, again.key_length, record->key, record->key_length));
    MUST(same(again.value, again.value_length, record->value, record->value_length));
}

/* Builds the batch anew; 0, or that its timestamps are too far apart for it. */
static int rebuild(const uint8_t *bytes, const struct kq_batch_header *header,
                   struct kq_buf *scratch, struct kq_buf *out)
{
    struct kq_record_reader reader;
    struct kq_record record;
    struct kq_batch_builder builder;
    int r;
    MUST(kq_batch_begin(&builder, out, 0) == 0);
    MUST(kq_record_reader_open(&reader, bytes, header, LIMIT, scratch) == 0);
    while ((r = kq_record_next(&reader, &record)) == 0) {
        look_at_record(&record);
        r = kq_batch_add(&builder, record.timestamp, record.key, record.key_length, record.value,
                         record.value_length, record.headers, record.headers_length,
                         record.header_count);
        MUST(r == 0 || r == -EINVAL);
        if (r < 0)
            return r;
    }
    MUST(r == KQ_END);
    kq_batch_finish(&builder);
    return 0;
}

static void compare(const uint8_t *bytes, const struct kq_batch_header *header,
                    const struct kq_buf *built)
{
    kq_autobuf struct kq_buf scratch = {0}, scratch2 = {0};
    struct kq_batch_header header2;
    struct kq_record_reader reader, reader2;
    struct kq_record record, record2;
    MUST(kq_batch_header_read(built->data, built->length, &header2) == 0);
    MUST(header2.size == built->length && header2.record_count == header->record_count);
    MUST(kq_batch_check_records(built->data, &header2, LIMIT, &scratch2) == 0);
    header2.base_offset = header->base_offset;
    MUST(kq_record_reader_open(&reader, bytes, header, LIMIT, &scratch) == 0);
    MUST(kq_record_reader_open(&reader2, built->data, &header2, LIMIT, &scratch2) == 0);
    while (kq_record_next(&reader, &record) == 0) {
        MUST(kq_record_next(&reader2, &record2) == 0);
        MUST(record.offset == record2.offset && record.timestamp == record2.timestamp);
        MUST(same(record.key, record.key_length, record2.key, record2.key_length));
        MUST(same(record.value, record.value_length, record2.value, record2.value_length));
        MUST(same(record.headers, (int64_t)record.headers_length, record2.headers,
                  (int64_t)record2.headers_length));
    }
}

/* Damage that a checksum does not hide must end in an error, not in a crash. */
static void read_on(const uint8_t *bytes, const struct kq_batch_header *header,
                    struct kq_buf *scratch)
{
    struct kq_record_reader reader;
    struct kq_record record;
    struct kq_header h;
    if (kq_record_reader_open(&reader, bytes, header, LIMIT, scratch) != 0)
        return;
    for (int32_t count = 0; kq_record_next(&reader, &record) == 0; count++) {
        const uint8_t *at = record.headers;
        MUST(count < header->record_count);
        while (kq_header_next(&record, &at, &h) == 0)
            MUST(at > record.headers && at <= record.headers + record.headers_length);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
    kq_autobuf struct kq_buf scratch = {0}, built = {0};
    struct kq_batch_header header;
    uint8_t *copy = fuzz_copy(bytes, length);
    int r = kq_batch_header_read(copy, length, &header);
    MUST(r == 0 || r == -EBADMSG || (r == KQ_PARTIAL && length < KQ_BATCH_HEADER));
    if (r == 0 && header.size <= length) {
        kq_store_be32(copy + 17, kq_crc32c(0, copy + 21, header.size - 21));
        MUST(kq_batch_header_read(copy, length, &header) == 0);
        MUST(kq_batch_check_crc(copy, &header) == 0);
        r = kq_batch_check_records(copy, &header, LIMIT, &scratch);
        MUST(r == 0 || r == -EBADMSG || r == -EFBIG);
        if (r < 0)
            read_on(copy, &header, &scratch);
        else if (rebuild(copy, &header, &scratch, &built) == 0)
            compare(copy, &header, &built);
    }
    free(copy);
    return 0;
}
