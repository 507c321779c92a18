/* What a client's batch has to pass, and what is changed in it: batches as Kafka's own client made
 * them, everything that must be refused, and by chance that no damage gets through. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "broker/base/crc32c.h"
#include "broker/base/endian.h"
#include "broker/base/fault.h"
#include "broker/codec.h"
#include "broker/validate.h"
#include "tests/unit/chance.h"

#define NOW INT64_C(1700000000000)

enum {
    AT_LENGTH = 8,
    AT_MAGIC = 16,
    AT_CRC = 17,
    AT_ATTRIBUTES = 21,
    AT_LAST_OFFSET_DELTA = 23,
    AT_BASE_TIMESTAMP = 27,
    AT_MAX_TIMESTAMP = 35,
    AT_PRODUCER_ID = 43,
    AT_PRODUCER_EPOCH = 51,
    AT_BASE_SEQUENCE = 53,
    AT_RECORD_COUNT = 57,
    AT_RECORDS = 61,
};

/* Made by kafka-clients 4.0 (MemoryRecords.idempotentBuilder), one for each codec: producer 4000,
 * epoch 3, sequence 70; (k1, "hello hello hello") with headers h = x and n = null at NOW, (k2,
 * null) at NOW + 5, ("", "") at NOW - 1. */
static const char *const recorded[] = {
    "000000000000000000000062ffffffff028bd598880000000000020000018bcfe568000000018bcfe568050000"
    "000000000fa00003000000460000000340000000046b312268656c6c6f2068656c6c6f2068656c6c6f04026802"
    "78026e0110000a02046b3201000c000104000000",
    "00000000000000000000006bffffffff02b32a4d660001000000020000018bcfe568000000018bcfe568050000"
    "000000000fa0000300000046000000031f8b08000000000000ff7360606060c93654ca48cdc9c9574022599832"
    "982a98f2180518b89858b28d181978181859808a011b3227eb31000000",
    "000000000000000000000070ffffffff0239f51b9f0002000000020000018bcfe568000000018bcfe568050000"
    "000000000fa00003000000460000000382534e415050590000000001000000010000002b313440000000046b31"
    "2268656c6c6f201d065c0402680278026e0110000a02046b3201000c000104000000",
    "00000000000000000000006bffffffff0212ce9aa60003000000020000018bcfe568000000018bcfe568050000"
    "000000000fa00003000000460000000304224d186040822b000000e740000000046b312268656c6c6f200600f0"
    "090402680278026e0110000a02046b3201000c00010400000000000000",
    "00000000000000000000006affffffff02419aa2be0004000000020000018bcfe568000000018bcfe568050000"
    "000000000fa00003000000460000000328b52ffd00586c0100640240000000046b312268656c6c6f2004026802"
    "78026e0110000a02046b3201000c0001040000000100318a12010000",
};

struct trial {
    struct kq_batch_rules rules;
    struct kq_buf bytes, window;
    struct kq_batch_verdict verdict;
};

static int nibble(char c)
{
    return c <= '9' ? c - '0' : c - 'a' + 10;
}

static void take_recorded(struct trial *trial, int codec)
{
    const char *hex = recorded[codec];
    trial->bytes.length = 0;
    for (; *hex; hex += 2) {
        uint8_t byte = (uint8_t)(nibble(hex[0]) << 4 | nibble(hex[1]));
        assert_int_equal(kq_buf_append(&trial->bytes, &byte, 1), 0);
    }
}

static int setup(void **state)
{
    static struct trial trial;
    trial = (struct trial){
        .rules = {.max_bytes = 1 << 20,
                  .limit = 1 << 24,
                  .now_ms = NOW,
                  .before_max_ms = INT64_MAX,
                  .after_max_ms = 3600000,
                  .zstd = true},
    };
    take_recorded(&trial, KQ_CODEC_NONE);
    *state = &trial;
    return 0;
}

static int teardown(void **state)
{
    struct trial *trial = *state;
    kq_fault_disarm();
    kq_buf_release(&trial->bytes);
    kq_buf_release(&trial->window);
    return 0;
}

static int validate(struct trial *trial)
{
    return kq_batch_validate(trial->bytes.data, trial->bytes.length, &trial->rules, &trial->window,
                             &trial->verdict);
}

static void make_crc_right(struct trial *trial)
{
    kq_store_be32(trial->bytes.data + AT_CRC, kq_crc32c(0, trial->bytes.data + AT_ATTRIBUTES,
                                                        trial->bytes.length - AT_ATTRIBUTES));
}

/* It is refused with CONDITION and a reason, RECORD (-1: the whole batch) to blame. */
static void refused(struct trial *trial, int condition, int record)
{
    assert_int_equal(validate(trial), condition);
    assert_non_null(trial->verdict.reason);
    assert_int_equal(trial->verdict.record_index, record);
}

/* The same, with the checksum made right first. */
static void refused_right(struct trial *trial, int condition, int record)
{
    make_crc_right(trial);
    refused(trial, condition, record);
}

/* --- What is taken --- */

static void batches_of_kafkas_client_are_taken(void **state)
{
    struct trial *trial = *state;
    for (int codec = KQ_CODEC_NONE; codec <= KQ_CODEC_ZSTD; codec++) {
        take_recorded(trial, codec);
        assert_int_equal(validate(trial), 0);
        assert_int_equal(trial->verdict.header.attributes & KQ_ATTRIBUTE_CODEC, codec);
        assert_int_equal(trial->verdict.header.producer_id, 4000);
        assert_int_equal(trial->verdict.header.base_sequence, 70);
        assert_int_equal(trial->verdict.max_timestamp, NOW + 5);
        assert_null(trial->verdict.reason);
    }
}

static void no_timestamp_is_no_old_timestamp(void **state)
{
    struct trial *trial = *state;
    struct kq_batch_builder builder;
    trial->rules.before_max_ms = 10;
    trial->bytes.length = 0;
    assert_int_equal(kq_batch_begin(&builder, &trial->bytes, 0), 0);
    assert_int_equal(kq_batch_add(&builder, -1, NULL, -1, "x", 1, NULL, 0, 0), 0);
    kq_batch_finish(&builder);
    assert_int_equal(validate(trial), 0);
    assert_int_equal(trial->verdict.max_timestamp, -1);
}

/* --- What is refused --- */

static void nothing_is_not_a_batch(void **state)
{
    struct trial *trial = *state;
    for (size_t length = 0; length < KQ_BATCH_HEADER; length++) {
        trial->bytes.length = length;
        refused(trial, KQ_INVALID_RECORD, -1);
    }
}

static void a_length_that_does_not_fit_is_refused(void **state)
{
    struct trial *trial = *state;
    size_t whole = trial->bytes.length;
    for (trial->bytes.length = KQ_BATCH_HEADER; trial->bytes.length < whole; trial->bytes.length++)
        refused(trial, KQ_CORRUPT, -1);
    static const uint32_t lengths[] = {0, 48, INT32_MAX, UINT32_MAX, 1u << 31};
    for (size_t i = 0; i < kq_array_size(lengths); i++) {
        kq_store_be32(trial->bytes.data + AT_LENGTH, lengths[i]);
        refused_right(trial, KQ_CORRUPT, -1);
    }
}

static void a_second_batch_is_refused(void **state)
{
    struct trial *trial = *state;
    assert_int_equal(kq_buf_append(&trial->bytes, "", 1), 0);
    refused(trial, KQ_INVALID_RECORD, -1);
    take_recorded(trial, KQ_CODEC_NONE);
    kq_autobuf struct kq_buf copy = {0};
    assert_int_equal(kq_buf_append(&copy, trial->bytes.data, trial->bytes.length), 0);
    assert_int_equal(kq_buf_append(&trial->bytes, copy.data, copy.length), 0);
    refused(trial, KQ_INVALID_RECORD, -1);
}

static void other_versions_are_refused(void **state)
{
    struct trial *trial = *state;
    for (int magic = 0; magic < 256; magic++) {
        trial->bytes.data[AT_MAGIC] = (uint8_t)magic;
        if (magic != 2)
            refused_right(trial, KQ_INVALID_RECORD, -1);
    }
}

static void every_flipped_bit_behind_the_checksum_is_found(void **state)
{
    struct trial *trial = *state;
    for (int codec = KQ_CODEC_NONE; codec <= KQ_CODEC_ZSTD; codec++) {
        take_recorded(trial, codec);
        for (size_t bit = 8 * AT_CRC; bit < 8 * trial->bytes.length; bit++) {
            trial->bytes.data[bit / 8] ^= (uint8_t)(1 << bit % 8);
            int r = validate(trial);
            assert_true(r == KQ_CORRUPT || r == KQ_INVALID_RECORD);
            assert_non_null(trial->verdict.reason);
            trial->bytes.data[bit / 8] ^= (uint8_t)(1 << bit % 8);
        }
    }
}

static void a_batch_is_as_large_as_the_topic_allows(void **state)
{
    struct trial *trial = *state;
    trial->rules.max_bytes = (int64_t)trial->bytes.length;
    assert_int_equal(validate(trial), 0);
    trial->rules.max_bytes--;
    refused(trial, KQ_TOO_LARGE, -1);
}

static void attributes_that_are_not_a_clients_are_refused(void **state)
{
    struct trial *trial = *state;
    static const struct {
        uint16_t attributes;
        int condition;
    } cases[] = {
        {5, KQ_UNSUPPORTED_CODEC},
        {7, KQ_UNSUPPORTED_CODEC},
        {KQ_ATTRIBUTE_CONTROL, KQ_INVALID_RECORD},
        {KQ_ATTRIBUTE_CONTROL | KQ_ATTRIBUTE_TRANSACTIONAL, KQ_INVALID_RECORD},
        {KQ_ATTRIBUTE_TRANSACTIONAL, KQ_TRANSACTIONAL},
        {KQ_ATTRIBUTE_LOG_APPEND_TIME, KQ_INVALID_TIMESTAMP},
        {KQ_ATTRIBUTE_DELETE_HORIZON, KQ_INVALID_RECORD},
    };
    for (size_t i = 0; i < kq_array_size(cases); i++) {
        kq_store_be16(trial->bytes.data + AT_ATTRIBUTES, cases[i].attributes);
        refused_right(trial, cases[i].condition, -1);
    }
    take_recorded(trial, KQ_CODEC_ZSTD);
    trial->rules.zstd = false;
    refused(trial, KQ_UNSUPPORTED_CODEC, -1);
}

static void numbers_that_do_not_agree_are_refused(void **state)
{
    struct trial *trial = *state;
    static const struct {
        int at, bytes;
        int64_t value;
    } cases[] = {
        {0, 8, 1},
        {0, 8, -1},
        {AT_LAST_OFFSET_DELTA, 4, 1},
        {AT_LAST_OFFSET_DELTA, 4, 3},
        {AT_LAST_OFFSET_DELTA, 4, -1},
        {AT_RECORD_COUNT, 4, 2},
        {AT_RECORD_COUNT, 4, 0},
        {AT_RECORD_COUNT, 4, -3},
        {AT_RECORD_COUNT, 4, INT32_MAX},
        {AT_PRODUCER_EPOCH, 2, -1},
        {AT_BASE_SEQUENCE, 4, -1},
    };
    for (size_t i = 0; i < kq_array_size(cases); i++) {
        take_recorded(trial, KQ_CODEC_NONE);
        uint8_t *at = trial->bytes.data + cases[i].at;
        if (cases[i].bytes == 8)
            kq_store_be64(at, (uint64_t)cases[i].value);
        else if (cases[i].bytes == 4)
            kq_store_be32(at, (uint32_t)cases[i].value);
        else
            kq_store_be16(at, (uint16_t)cases[i].value);
        refused_right(trial, KQ_INVALID_RECORD, -1);
    }
}

static void fewer_or_more_records_than_the_batch_says_are_refused(void **state)
{
    struct trial *trial = *state;
    for (int codec = KQ_CODEC_NONE; codec <= KQ_CODEC_ZSTD; codec++) {
        take_recorded(trial, codec);
        kq_store_be32(trial->bytes.data + AT_RECORD_COUNT, 4);
        kq_store_be32(trial->bytes.data + AT_LAST_OFFSET_DELTA, 3);
        refused_right(trial, KQ_INVALID_RECORD, -1);
        kq_store_be32(trial->bytes.data + AT_RECORD_COUNT, 2);
        kq_store_be32(trial->bytes.data + AT_LAST_OFFSET_DELTA, 1);
        refused_right(trial, KQ_INVALID_RECORD, 2);
    }
}

/* In the batch as recorded: the records are 33, 9 and 7 bytes long. */
static void a_malformed_record_is_named(void **state)
{
    struct trial *trial = *state;
    static const struct {
        size_t at;
        uint8_t value;
        int record;
    } cases[] = {
        {AT_RECORDS, 0x42, 0},          /* longer by one: it ends within the next */
        {AT_RECORDS, 0x01, 0},          /* a negative length */
        {AT_RECORDS + 3, 0x02, 0},      /* its offset is 1 */
        {AT_RECORDS + 4, 0x7e, 0},      /* its key goes on behind its end */
        {AT_RECORDS + 25, 0x02, 0},     /* one header, where there are two */
        {AT_RECORDS + 25, 0x06, 0},     /* three */
        {AT_RECORDS + 26, 0x01, 0},     /* a header without a name */
        {AT_RECORDS + 33 + 3, 0x04, 1}, /* the offset leaps */
        {AT_RECORDS + 33 + 3, 0x00, 1}, /* and stays */
        {AT_RECORDS + 33 + 9, 0x0e, -1} /* the last is longer than the batch */,
    };
    for (size_t i = 0; i < kq_array_size(cases); i++) {
        take_recorded(trial, KQ_CODEC_NONE);
        assert_int_not_equal(trial->bytes.data[cases[i].at], cases[i].value);
        trial->bytes.data[cases[i].at] = cases[i].value;
        refused_right(trial, KQ_INVALID_RECORD, cases[i].record);
    }
}

static void records_that_cannot_be_decompressed_are_refused(void **state)
{
    struct trial *trial = *state;
    for (int codec = KQ_CODEC_GZIP; codec <= KQ_CODEC_ZSTD; codec++) {
        take_recorded(trial, codec);
        memset(trial->bytes.data + AT_RECORDS + 8, 0xa5, 12);
        refused_right(trial, KQ_INVALID_RECORD, -1);
    }
}

static void a_null_key_is_refused_where_the_topic_is_compacted(void **state)
{
    struct trial *trial = *state;
    trial->rules.needs_keys = true;
    assert_int_equal(validate(trial), 0); /* an empty key is one */
    trial->bytes.data[AT_RECORDS + 33 + 9 + 4] = 0x01;
    refused_right(trial, KQ_INVALID_RECORD, 2);
    trial->rules.needs_keys = false;
    assert_int_equal(validate(trial), 0);
}

static void timestamps_lie_between_the_bounds(void **state)
{
    struct trial *trial = *state;
    trial->rules.before_max_ms = 1;
    trial->rules.after_max_ms = 5;
    assert_int_equal(validate(trial), 0);
    trial->rules.before_max_ms = 0;
    refused(trial, KQ_INVALID_TIMESTAMP, 2);
    trial->rules.before_max_ms = 1;
    trial->rules.after_max_ms = 4;
    refused(trial, KQ_INVALID_TIMESTAMP, 1);
    trial->rules.append_time = true; /* nobody looks at them then */
    assert_int_equal(validate(trial), 0);
}

static void timestamps_at_the_ends_of_time_do_not_wrap(void **state)
{
    struct trial *trial = *state;
    kq_store_be64(trial->bytes.data + AT_BASE_TIMESTAMP, INT64_MAX - 5);
    make_crc_right(trial);
    refused(trial, KQ_INVALID_TIMESTAMP, 0);
    trial->rules.after_max_ms = INT64_MAX;
    assert_int_equal(validate(trial), 0);
    assert_int_equal(trial->verdict.max_timestamp, INT64_MAX);
    kq_store_be64(trial->bytes.data + AT_BASE_TIMESTAMP, INT64_MAX - 4);
    refused_right(trial, KQ_INVALID_RECORD, 1);
    kq_store_be64(trial->bytes.data + AT_BASE_TIMESTAMP, (uint64_t)INT64_MIN + 1);
    make_crc_right(trial);
    assert_int_equal(validate(trial), 0);
    trial->rules.before_max_ms = INT64_MAX - 1;
    refused(trial, KQ_INVALID_TIMESTAMP, 0);
}

/* --- Bombs and memory --- */

static void make_bomb(struct trial *trial, int codec, size_t value)
{
    kq_autobuf struct kq_buf plain = {0}, value_bytes = {0};
    struct kq_batch_builder builder;
    struct kq_batch_header header;
    assert_int_equal(kq_buf_reserve(&value_bytes, value), 0);
    memset(value_bytes.data, 'x', value);
    assert_int_equal(kq_batch_begin(&builder, &plain, 0), 0);
    for (int i = 0; i < 16; i++)
        assert_int_equal(
            kq_batch_add(&builder, NOW, "k", 1, value_bytes.data, (int32_t)value, NULL, 0, 0), 0);
    kq_batch_finish(&builder);
    assert_int_equal(kq_batch_header_read(plain.data, plain.length, &header), 0);
    trial->bytes.length = 0;
    assert_int_equal(kq_batch_recompress(plain.data, &header, (enum kq_codec)codec, 0, SIZE_MAX,
                                         &trial->window, &trial->bytes),
                     0);
}

static void what_decompresses_to_too_much_is_refused_without_memory_for_it(void **state)
{
    struct trial *trial = *state;
    for (int codec = KQ_CODEC_GZIP; codec <= KQ_CODEC_ZSTD; codec++) {
        make_bomb(trial, codec, 1 << 20);
        kq_buf_release(&trial->window);
        trial->rules.limit = 17 << 20;
        assert_int_equal(validate(trial), 0);
        assert_true(trial->window.capacity <= 4 << 20);
        trial->rules.limit = 15 << 20;
        assert_int_equal(validate(trial), -EFBIG);
    }
}

static void without_memory_it_says_so(void **state)
{
    struct trial *trial = *state;
    for (int codec = KQ_CODEC_GZIP; codec <= KQ_CODEC_ZSTD; codec++) {
        make_bomb(trial, codec, 100000);
        for (long nth = 1;; nth++) {
            kq_buf_release(&trial->window);
            kq_fault_arm(KQ_FAULT_MEMORY, nth, ENOMEM, false);
            int r = validate(trial);
            if (!kq_fault_disarm()) {
                assert_int_equal(r, 0);
                break;
            }
            assert_int_equal(r, -ENOMEM);
            assert_true(nth < 100);
        }
    }
}

/* --- By chance --- */

static void damage_with_a_right_checksum_never_passes_what_reading_refuses(void **state)
{
    struct trial *trial = *state;
    kq_autobuf struct kq_buf scratch = {0};
    int taken = 0;
    for (int round = 0; round < 40000; round++) {
        take_recorded(trial, (int)chance(5));
        for (uint64_t i = 0, flips = 1 + chance(2); i < flips; i++)
            trial->bytes.data[AT_ATTRIBUTES + chance(trial->bytes.length - AT_ATTRIBUTES)] ^=
                (uint8_t)(1 << chance(8));
        make_crc_right(trial);
        int r = validate(trial);
        assert_true(r == 0 || trial->verdict.reason);
        if (r != 0)
            continue;
        taken++;
        assert_int_equal(kq_batch_check_records(trial->bytes.data, &trial->verdict.header,
                                                trial->rules.limit, &scratch),
                         0);
    }
    assert_true(taken > 100);
}

/* --- Changes --- */

static void a_stamp_changes_time_and_checksum_only(void **state)
{
    struct trial *trial = *state;
    kq_autobuf struct kq_buf before = {0};
    assert_int_equal(kq_buf_append(&before, trial->bytes.data, trial->bytes.length), 0);
    assert_int_equal(validate(trial), 0);
    kq_batch_stamp(trial->bytes.data, &trial->verdict.header, KQ_ATTRIBUTE_LOG_APPEND_TIME, 12345);
    struct kq_batch_header header;
    assert_int_equal(kq_batch_header_read(trial->bytes.data, trial->bytes.length, &header), 0);
    assert_int_equal(kq_batch_check_crc(trial->bytes.data, &header), 0);
    assert_int_equal(header.max_timestamp, 12345);
    assert_int_equal(header.attributes, KQ_ATTRIBUTE_LOG_APPEND_TIME);
    assert_int_equal(header.crc, trial->verdict.header.crc);
    assert_int_equal(header.max_timestamp, trial->verdict.header.max_timestamp);
    memcpy(before.data + AT_CRC, trial->bytes.data + AT_CRC, 6);
    memcpy(before.data + AT_MAX_TIMESTAMP, trial->bytes.data + AT_MAX_TIMESTAMP, 8);
    assert_memory_equal(before.data, trial->bytes.data, before.length);
}

static void recompressed_it_says_the_same(void **state)
{
    struct trial *trial = *state;
    kq_autobuf struct kq_buf plain = {0}, out = {0};
    take_recorded(trial, KQ_CODEC_NONE);
    assert_int_equal(kq_buf_append(&plain, trial->bytes.data, trial->bytes.length), 0);
    for (int from = KQ_CODEC_NONE; from <= KQ_CODEC_ZSTD; from++)
        for (int to = KQ_CODEC_NONE; to <= KQ_CODEC_ZSTD; to++) {
            take_recorded(trial, from);
            assert_int_equal(validate(trial), 0);
            out.length = 0;
            assert_int_equal(kq_buf_append(&out, "before", 6), 0);
            assert_int_equal(kq_batch_recompress(trial->bytes.data, &trial->verdict.header,
                                                 (enum kq_codec)to, 0, 1 << 20, &trial->window,
                                                 &out),
                             0);
            assert_memory_equal(out.data, "before", 6);
            trial->bytes.length = 0;
            assert_int_equal(kq_buf_append(&trial->bytes, out.data + 6, out.length - 6), 0);
            assert_int_equal(validate(trial), 0);
            assert_int_equal(trial->verdict.header.attributes, to);
            assert_int_equal(trial->verdict.header.producer_id, 4000);
            if (to == KQ_CODEC_NONE) {
                assert_int_equal(trial->bytes.length, plain.length);
                assert_memory_equal(trial->bytes.data, plain.data, plain.length);
            }
        }
}

static void a_recompression_that_fails_leaves_nothing(void **state)
{
    struct trial *trial = *state;
    kq_autobuf struct kq_buf out = {0};
    make_bomb(trial, KQ_CODEC_GZIP, 1000);
    assert_int_equal(validate(trial), 0);
    assert_int_equal(kq_batch_recompress(trial->bytes.data, &trial->verdict.header, KQ_CODEC_LZ4, 0,
                                         15000, &trial->window, &out),
                     -EFBIG);
    assert_int_equal(out.length, 0);
    for (long nth = 1;; nth++) {
        kq_buf_release(&out);
        kq_buf_release(&trial->window);
        kq_fault_arm(KQ_FAULT_MEMORY, nth, ENOMEM, false);
        int r = kq_batch_recompress(trial->bytes.data, &trial->verdict.header, KQ_CODEC_GZIP, 0,
                                    1 << 20, &trial->window, &out);
        if (!kq_fault_disarm())
            break;
        assert_int_equal(r, -ENOMEM);
        assert_int_equal(out.length, 0);
    }
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(batches_of_kafkas_client_are_taken),
        TEST(no_timestamp_is_no_old_timestamp),
        TEST(nothing_is_not_a_batch),
        TEST(a_length_that_does_not_fit_is_refused),
        TEST(a_second_batch_is_refused),
        TEST(other_versions_are_refused),
        TEST(every_flipped_bit_behind_the_checksum_is_found),
        TEST(a_batch_is_as_large_as_the_topic_allows),
        TEST(attributes_that_are_not_a_clients_are_refused),
        TEST(numbers_that_do_not_agree_are_refused),
        TEST(fewer_or_more_records_than_the_batch_says_are_refused),
        TEST(a_malformed_record_is_named),
        TEST(records_that_cannot_be_decompressed_are_refused),
        TEST(a_null_key_is_refused_where_the_topic_is_compacted),
        TEST(timestamps_lie_between_the_bounds),
        TEST(timestamps_at_the_ends_of_time_do_not_wrap),
        TEST(what_decompresses_to_too_much_is_refused_without_memory_for_it),
        TEST(without_memory_it_says_so),
        TEST(damage_with_a_right_checksum_never_passes_what_reading_refuses),
        TEST(a_stamp_changes_time_and_checksum_only),
        TEST(recompressed_it_says_the_same),
        TEST(a_recompression_that_fails_leaves_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
