/* Record batches: known bytes both ways, what must be refused, and by chance that what was built
 * reads back. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "broker/base/crc32c.h"
#include "broker/base/endian.h"
#include "broker/base/fault.h"
#include "broker/batch.h"
#include "broker/codec.h"
#include "tests/unit/chance.h"

#define LIMIT (1 << 20)

/* Made by an encoder that shares nothing with ours: timestamps 1700000000000 and -5 and +1000 ms,
 * (null, "first"), ("key", null), ("", "") with headers h = x and n = null. */
static const uint8_t known[] = {
    0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x56, 0x00, 0x00,
    0x00, 0x00, 0x02, 0xc7, 0x42, 0xcf, 0x6d, 0x00, 0x00, 0x00, 0x00, 0x00, 0x02, 0x00,
    0x00, 0x01, 0x8b, 0xcf, 0xe5, 0x68, 0x00, 0x00, 0x00, 0x01, 0x8b, 0xcf, 0xe5, 0x6b,
    0xe8, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
    0xff, 0x00, 0x00, 0x00, 0x03, 0x16, 0x00, 0x00, 0x00, 0x01, 0x0a, 0x66, 0x69, 0x72,
    0x73, 0x74, 0x00, 0x12, 0x00, 0x09, 0x02, 0x06, 0x6b, 0x65, 0x79, 0x01, 0x00, 0x1c,
    0x00, 0xd0, 0x0f, 0x04, 0x00, 0x00, 0x04, 0x02, 0x68, 0x02, 0x78, 0x02, 0x6e, 0x01,
};
static const uint8_t known_headers[] = {0x02, 'h', 0x02, 'x', 0x02, 'n', 0x01};
#define KNOWN_MS INT64_C(1700000000000)

static void a_known_batch_reads_as_what_it_says(void **state)
{
    struct kq_batch_header header;
    struct kq_record_reader reader;
    struct kq_record record;
    struct kq_header h;
    assert_int_equal(kq_batch_header_read(known, sizeof(known), &header), 0);
    assert_int_equal(header.size, sizeof(known));
    assert_int_equal(header.record_count, 3);
    assert_int_equal(header.base_timestamp, KNOWN_MS);
    assert_int_equal(header.max_timestamp, KNOWN_MS + 1000);
    assert_int_equal(header.producer_id, -1);
    assert_int_equal(kq_batch_check_crc(known, &header), 0);
    header.base_offset = 40;
    assert_int_equal(kq_record_reader_open(&reader, known, &header, LIMIT, NULL), 0);
    assert_int_equal(kq_record_next(&reader, &record), 0);
    assert_int_equal(record.offset, 40);
    assert_int_equal(record.timestamp, KNOWN_MS);
    assert_null(record.key);
    assert_int_equal(record.value_length, 5);
    assert_memory_equal(record.value, "first", 5);
    assert_int_equal(kq_record_next(&reader, &record), 0);
    assert_int_equal(record.timestamp, KNOWN_MS - 5);
    assert_memory_equal(record.key, "key", 3);
    assert_null(record.value);
    assert_int_equal(record.value_length, -1);
    assert_int_equal(kq_record_next(&reader, &record), 0);
    assert_int_equal(record.offset, 42);
    assert_int_equal(record.key_length, 0);
    assert_int_equal(record.header_count, 2);
    const uint8_t *at = record.headers;
    assert_int_equal(kq_header_next(&record, &at, &h), 0);
    assert_memory_equal(h.name, "h", 1);
    assert_memory_equal(h.value, "x", 1);
    assert_int_equal(kq_header_next(&record, &at, &h), 0);
    assert_null(h.value);
    assert_int_equal(kq_header_next(&record, &at, &h), KQ_END);
    assert_int_equal(kq_record_next(&reader, &record), KQ_END);
}

static void the_builder_makes_the_known_bytes(void **state)
{
    kq_autobuf struct kq_buf out = {0};
    struct kq_batch_builder builder;
    assert_int_equal(kq_buf_append(&out, "before", 6), 0);
    assert_int_equal(kq_batch_begin(&builder, &out, 0), 0);
    assert_int_equal(kq_batch_add(&builder, KNOWN_MS, NULL, -1, "first", 5, NULL, 0, 0), 0);
    assert_int_equal(kq_batch_add(&builder, KNOWN_MS - 5, "key", 3, NULL, -1, NULL, 0, 0), 0);
    assert_int_equal(kq_batch_add(&builder, KNOWN_MS + 1000, "", 0, "", 0, known_headers,
                                  sizeof(known_headers), 2),
                     0);
    kq_batch_finish(&builder);
    assert_int_equal(out.length, 6 + sizeof(known));
    assert_memory_equal(out.data + 6, known, sizeof(known));
    kq_batch_abandon(&builder);
    assert_int_equal(out.length, 6);
}

static void patching_offset_and_epoch_keeps_the_checksum(void **state)
{
    struct kq_batch_header header;
    uint8_t bytes[sizeof(known)];
    memcpy(bytes, known, sizeof(known));
    kq_batch_patch(bytes, INT64_C(1) << 40, 7);
    assert_int_equal(kq_batch_header_read(bytes, sizeof(bytes), &header), 0);
    assert_int_equal(header.base_offset, INT64_C(1) << 40);
    assert_int_equal(header.leader_epoch, 7);
    assert_int_equal(kq_batch_next_offset(&header), (INT64_C(1) << 40) + 3);
    assert_int_equal(kq_batch_check_crc(bytes, &header), 0);
}

/* The checksum made right again, so that only the records' own rules can refuse. */
static int check_with_crc(uint8_t *bytes, size_t length)
{
    kq_autobuf struct kq_buf scratch = {0};
    struct kq_batch_header header;
    kq_store_be32(bytes + 17, kq_crc32c(0, bytes + 21, length - 21));
    int r = kq_batch_header_read(bytes, length, &header);
    if (r == 0 && header.size > length)
        r = -EBADMSG;
    return r != 0 ? r : kq_batch_check_records(bytes, &header, LIMIT, &scratch);
}

static void every_flipped_bit_is_noticed(void **state)
{
    kq_autobuf struct kq_buf scratch = {0};
    for (size_t bit = 17 * 8; bit < sizeof(known) * 8; bit++) {
        uint8_t bytes[sizeof(known)];
        struct kq_batch_header header;
        memcpy(bytes, known, sizeof(known));
        bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);
        int r = kq_batch_header_read(bytes, sizeof(bytes), &header);
        if (r == 0)
            r = kq_batch_check_records(bytes, &header, LIMIT, &scratch);
        assert_int_equal(r, -EBADMSG);
    }
}

static void headers_out_of_bounds_are_refused(void **state)
{
    static const struct {
        size_t at;
        uint8_t bytes[4];
    } bad[] = {
        {8, {0xff, 0xff, 0xff, 0xff}},  /* batch length negative */
        {8, {0, 0, 0, 48}},             /* shorter than the header */
        {16, {1, 0, 0, 0}},             /* magic */
        {0, {0x80, 0, 0, 0}},           /* offset negative */
        {0, {0x7f, 0xff, 0xff, 0xff}},  /* fine by itself, see below */
        {23, {0xff, 0xff, 0xff, 0xff}}, /* last offset delta negative */
        {57, {0xff, 0xff, 0xff, 0xff}}, /* record count negative */
        {57, {0, 0, 0, 4}},             /* more records than offsets */
    };
    struct kq_batch_header header;
    uint8_t bytes[sizeof(known)];
    for (size_t i = 0; i < kq_array_size(bad); i++) {
        memcpy(bytes, known, sizeof(known));
        memcpy(bytes + bad[i].at, bad[i].bytes, bad[i].at == 16 ? 1 : 4);
        if (bad[i].at == 0 && bad[i].bytes[0] == 0x7f) /* the last offset would not fit */
            memset(bytes + 4, 0xff, 4);
        assert_int_equal(kq_batch_header_read(bytes, sizeof(bytes), &header), -EBADMSG);
    }
    assert_int_equal(kq_batch_header_read(known, 60, &header), KQ_PARTIAL);
    memcpy(bytes, known, sizeof(known));
    kq_store_be32(bytes + 23, 100); /* offsets enough, but 7 bytes a record are not there */
    kq_store_be32(bytes + 57, 6);
    assert_int_equal(kq_batch_header_read(bytes, sizeof(bytes), &header), -EBADMSG);
}

static void records_that_do_not_agree_are_refused(void **state)
{
    static const struct {
        size_t at;
        uint8_t byte;
        const char *what;
    } bad[] = {
        {61, 0x18, "a length that reaches into the next record"},
        {61, 0x01, "a negative length"},
        {64, 0x02, "an offset that does not ascend"},
        {64, 0x01, "a negative offset"},
        {65, 0x03, "a key length below -1"},
        {66, 0x0c, "a value longer than its record"},
        {66, 0x08, "a value shorter than its record"},
        {72, 0x02, "headers that are not there"},
        {90, 0x02, "fewer headers than bytes for them"},
        {90, 0x06, "more headers than there are"},
        {60, 2, "fewer records than there are"},
    };
    uint8_t bytes[sizeof(known)];
    memcpy(bytes, known, sizeof(known));
    assert_int_equal(check_with_crc(bytes, sizeof(bytes)), 0);
    for (size_t i = 0; i < kq_array_size(bad); i++) {
        memcpy(bytes, known, sizeof(known));
        bytes[bad[i].at] = bad[i].byte;
        if (check_with_crc(bytes, sizeof(bytes)) != -EBADMSG)
            fail_msg("%s was accepted", bad[i].what);
    }
}

static void bytes_behind_the_last_record_are_refused(void **state)
{
    uint8_t bytes[sizeof(known)];
    memcpy(bytes, known, sizeof(known));
    kq_store_be32(bytes + 23, 1);
    kq_store_be32(bytes + 57, 2);
    assert_int_equal(check_with_crc(bytes, sizeof(bytes)), -EBADMSG);
    kq_store_be32(bytes + 8, 83 - 12); /* where the second record ends */
    assert_int_equal(check_with_crc(bytes, 83), 0);
}

static void a_count_of_headers_meets_its_bytes_first(void **state)
{
    struct kq_record record;
    size_t size;
    /* 2^32 headers: 0 in 32 bits */
    const uint8_t bytes[] = {2 * 12, 0, 0, 0, 1, 1, 0x80, 0x80, 0x80, 0x80, 0x20, 0x00, 0x01};
    assert_int_equal(kq_record_parse(bytes, bytes + sizeof(bytes), 0, 0, -1, &record, &size),
                     -EBADMSG);
}

static void only_compaction_may_leave_gaps(void **state)
{
    kq_autobuf struct kq_buf scratch = {0};
    struct kq_batch_header header;
    struct kq_record_reader reader;
    struct kq_record record;
    uint8_t bytes[sizeof(known)];
    memcpy(bytes, known, sizeof(known));
    kq_store_be32(bytes + 23, 9);
    bytes[64] = 4 << 1; /* offsets 4, … */
    bytes[76] = 5 << 1;
    bytes[87] = 9 << 1;
    assert_int_equal(check_with_crc(bytes, sizeof(bytes)), -EBADMSG);
    assert_int_equal(kq_batch_header_read(bytes, sizeof(bytes), &header), 0);
    assert_int_equal(kq_record_reader_open(&reader, bytes, &header, LIMIT, &scratch), 0);
    assert_int_equal(kq_record_next(&reader, &record), 0);
    assert_int_equal(record.offset, 4);
    assert_int_equal(kq_record_next(&reader, &record), 0);
    assert_int_equal(kq_record_next(&reader, &record), 0);
    assert_int_equal(record.offset, 9);
    assert_int_equal(kq_record_next(&reader, &record), KQ_END);
}

static void log_append_time_is_the_time_of_all_records(void **state)
{
    kq_autobuf struct kq_buf out = {0};
    struct kq_batch_builder builder;
    struct kq_batch_header header;
    struct kq_record_reader reader;
    struct kq_record record;
    assert_int_equal(kq_batch_begin(&builder, &out, KQ_ATTRIBUTE_LOG_APPEND_TIME), 0);
    assert_int_equal(kq_batch_add(&builder, 5, NULL, -1, "a", 1, NULL, 0, 0), 0);
    assert_int_equal(kq_batch_add(&builder, 9, NULL, -1, "b", 1, NULL, 0, 0), 0);
    kq_batch_finish(&builder);
    assert_int_equal(kq_batch_header_read(out.data, out.length, &header), 0);
    assert_int_equal(kq_record_reader_open(&reader, out.data, &header, LIMIT, NULL), 0);
    assert_int_equal(kq_record_next(&reader, &record), 0);
    assert_int_equal(record.timestamp, 9);
}

static void a_window_that_ends_early_is_partial(void **state)
{
    struct kq_record record;
    size_t size;
    for (size_t length = 0; length < 12; length++)
        assert_int_equal(kq_record_parse(known + 61, known + 61 + length, 0, 0, -1, &record, &size),
                         KQ_PARTIAL);
    assert_int_equal(kq_record_parse(known + 61, known + 73, 7, 0, 99, &record, &size), 0);
    assert_int_equal(size, 12);
    assert_int_equal(record.offset, 7);
    assert_int_equal(record.timestamp, 99);
}

static void compressed_batches_read_as_plain_ones(void **state)
{
    for (int codec = KQ_CODEC_GZIP; codec <= KQ_CODEC_ZSTD; codec++) {
        kq_autobuf struct kq_buf out = {0}, scratch = {0};
        assert_int_equal(kq_buf_append(&out, known, 61), 0);
        assert_int_equal(kq_codec_compress(codec, 0, known + 61, sizeof(known) - 61, &out), 0);
        out.data[22] = (uint8_t)codec;
        kq_store_be32(out.data + 8, (uint32_t)out.length - 12);
        assert_int_equal(check_with_crc(out.data, out.length), 0);
        struct kq_batch_header header;
        assert_int_equal(kq_batch_header_read(out.data, out.length, &header), 0);
        size_t most = sizeof(known) - 61;
        assert_int_equal(kq_batch_check_records(out.data, &header, most, &scratch), 0);
        assert_int_equal(kq_batch_check_records(out.data, &header, most - 1, &scratch), -EFBIG);
        out.data[22] = 5;
        assert_int_equal(check_with_crc(out.data, out.length), -EBADMSG);
    }
}

static void varints_read_back_and_have_their_bounds(void **state)
{
    static const int64_t values[] = {0,   -1,   1,         63,        -64,       64,
                                     -65, 8191, INT32_MAX, INT32_MIN, INT64_MAX, INT64_MIN};
    for (size_t i = 0; i < kq_array_size(values); i++) {
        uint8_t bytes[10];
        int64_t value;
        size_t size = kq_varint_write(bytes, values[i]);
        assert_int_equal(size, kq_varint_size(values[i]));
        for (size_t have = 0; have < size; have++) {
            const uint8_t *at = bytes;
            assert_int_equal(kq_varint_read(&at, bytes + have, &value), KQ_PARTIAL);
            assert_ptr_equal(at, bytes);
        }
        const uint8_t *at = bytes;
        assert_int_equal(kq_varint_read(&at, bytes + size, &value), 0);
        assert_true(value == values[i]);
        assert_ptr_equal(at, bytes + size);
    }
    const uint8_t endless[11] = {0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x02, 0x00};
    const uint8_t *at = endless;
    int64_t value;
    assert_int_equal(kq_varint_read(&at, endless + sizeof(endless), &value), -EBADMSG);
}

/* What kq_batch_add_lines made of TEXT must read back as its lines. */
static void check_lines(const struct kq_buf *out, const uint8_t *text, size_t length)
{
    kq_autobuf struct kq_buf scratch = {0};
    struct kq_batch_header header;
    struct kq_record_reader reader;
    struct kq_record record;
    assert_int_equal(kq_batch_header_read(out->data, out->length, &header), 0);
    assert_int_equal(header.size, out->length);
    assert_int_equal(kq_batch_check_records(out->data, &header, LIMIT, &scratch), 0);
    assert_int_equal(kq_record_reader_open(&reader, out->data, &header, LIMIT, &scratch), 0);
    while (kq_record_next(&reader, &record) == 0) {
        assert_int_equal(record.timestamp, KNOWN_MS);
        assert_null(record.key);
        assert_true((size_t)record.value_length < length);
        assert_memory_equal(record.value, text, (size_t)record.value_length);
        assert_int_equal(text[record.value_length], '\n');
        assert_null(memchr(record.value, '\n', (size_t)record.value_length));
        text += record.value_length + 1;
        length -= (size_t)record.value_length + 1;
    }
    assert_int_equal(length, 0);
}

static void lines_of_any_length_become_records(void **state)
{
    static uint8_t text[1 << 16];
    for (int round = 0; round < 300; round++) {
        size_t most = (size_t[]){2, 40, 600, 70000}[round % 4], length = 1 + chance(sizeof(text));
        size_t next = 0;
        for (size_t i = 0; i < length; i++) {
            text[i] = (uint8_t)('a' + i % 26);
            if (i == next || i == length - 1) {
                text[i] = '\n';
                next = i + 1 + chance(most);
            }
        }
        kq_autobuf struct kq_buf out = {0};
        struct kq_batch_builder builder;
        assert_int_equal(kq_batch_begin(&builder, &out, 0), 0);
        assert_int_equal(kq_batch_add_lines(&builder, KNOWN_MS, text, length, '\n', LIMIT), 0);
        kq_batch_finish(&builder);
        check_lines(&out, text, length);
    }
}

static size_t add_line(uint8_t *text, size_t at, size_t length)
{
    memset(text + at, 'a' + (int)(length % 26), length);
    text[at + length] = '\n';
    return at + length + 1;
}

/* Byte for byte what kq_batch_add makes of each line. */
static void check_as_if_one_by_one(const struct kq_buf *batch, const uint8_t *text, size_t length)
{
    kq_autobuf struct kq_buf out = {0};
    struct kq_batch_builder builder;
    assert_int_equal(kq_batch_begin(&builder, &out, 0), 0);
    for (const uint8_t *end; length > 0; length -= (size_t)(end + 1 - text), text = end + 1) {
        end = memchr(text, '\n', length);
        assert_int_equal(
            kq_batch_add(&builder, KNOWN_MS, NULL, -1, text, (int32_t)(end - text), NULL, 0, 0), 0);
    }
    kq_batch_finish(&builder);
    assert_int_equal(batch->length, out.length);
    assert_memory_equal(batch->data, out.data, out.length);
}

/* A number takes a byte more from 64 on, and from 8192. */
static void lines_whose_numbers_take_a_byte_more_become_records(void **state)
{
    static const size_t lengths[] = {62,   63,   64,   65,   8181, 8182, 8183,
                                     8184, 8185, 8189, 8190, 8191, 8192, 8193};
    static uint8_t text[1 << 20];
    size_t length = 0;
    for (int i = 0; i < 62; i++)
        length = add_line(text, length, 100);
    for (size_t i = 0; i < kq_array_size(lengths); i++)
        length = add_line(text, length, lengths[i]);
    for (int i = 0; i < 8192; i++)
        length = add_line(text, length, 64 + (size_t)i % 40);
    kq_autobuf struct kq_buf out = {0};
    struct kq_batch_builder builder;
    assert_int_equal(kq_batch_begin(&builder, &out, 0), 0);
    assert_int_equal(kq_batch_add_lines(&builder, KNOWN_MS, text, length, '\n', LIMIT), 0);
    kq_batch_finish(&builder);
    check_as_if_one_by_one(&out, text, length);
}

static void a_line_above_the_limit_is_refused(void **state)
{
    kq_autobuf struct kq_buf out = {0};
    struct kq_batch_builder builder;
    const uint8_t text[] = "four\nfive5\n";
    assert_int_equal(kq_batch_begin(&builder, &out, 0), 0);
    assert_int_equal(kq_batch_add_lines(&builder, 0, text, 11, '\n', 5), 0);
    assert_int_equal(kq_batch_add_lines(&builder, 0, text, 11, '\n', 4), -EMSGSIZE);
    kq_batch_abandon(&builder);
    assert_int_equal(out.length, 0);
}

static void timestamps_too_far_apart_are_refused(void **state)
{
    kq_autobuf struct kq_buf out = {0};
    struct kq_batch_builder builder;
    assert_int_equal(kq_batch_begin(&builder, &out, 0), 0);
    assert_int_equal(kq_batch_add(&builder, -2, NULL, -1, "a", 1, NULL, 0, 0), 0);
    size_t length = out.length;
    assert_int_equal(kq_batch_add(&builder, INT64_MAX, NULL, -1, "b", 1, NULL, 0, 0), -EINVAL);
    assert_int_equal(out.length, length);
    assert_int_equal(kq_batch_add(&builder, INT64_MIN + 9, NULL, -1, "c", 1, NULL, 0, 0), 0);
    kq_batch_finish(&builder);
    assert_int_equal(check_with_crc(out.data, out.length), 0);
}

static void no_memory_leaves_the_batch_as_it_was(void **state)
{
    kq_autobuf struct kq_buf out = {0};
    struct kq_batch_builder builder;
    char big[4096] = {0};
    assert_int_equal(kq_batch_begin(&builder, &out, 0), 0);
    assert_int_equal(kq_batch_add(&builder, 1, NULL, -1, "a", 1, NULL, 0, 0), 0);
    size_t length = out.length;
    kq_fault_arm(KQ_FAULT_MEMORY, 1, ENOMEM, true);
    assert_int_equal(kq_batch_add(&builder, 1, NULL, -1, big, sizeof(big), NULL, 0, 0), -ENOMEM);
    assert_true(kq_fault_disarm());
    assert_int_equal(out.length, length);
    assert_int_equal(builder.count, 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_known_batch_reads_as_what_it_says),
        cmocka_unit_test(the_builder_makes_the_known_bytes),
        cmocka_unit_test(patching_offset_and_epoch_keeps_the_checksum),
        cmocka_unit_test(every_flipped_bit_is_noticed),
        cmocka_unit_test(headers_out_of_bounds_are_refused),
        cmocka_unit_test(records_that_do_not_agree_are_refused),
        cmocka_unit_test(bytes_behind_the_last_record_are_refused),
        cmocka_unit_test(a_count_of_headers_meets_its_bytes_first),
        cmocka_unit_test(only_compaction_may_leave_gaps),
        cmocka_unit_test(log_append_time_is_the_time_of_all_records),
        cmocka_unit_test(a_window_that_ends_early_is_partial),
        cmocka_unit_test(compressed_batches_read_as_plain_ones),
        cmocka_unit_test(varints_read_back_and_have_their_bounds),
        cmocka_unit_test(lines_of_any_length_become_records),
        cmocka_unit_test(lines_whose_numbers_take_a_byte_more_become_records),
        cmocka_unit_test(a_line_above_the_limit_is_refused),
        cmocka_unit_test(timestamps_too_far_apart_are_refused),
        cmocka_unit_test(no_memory_leaves_the_batch_as_it_was),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
