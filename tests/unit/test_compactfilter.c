#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <stdio.h>
#include <string.h>

#include "broker/base/endian.h"
#include "broker/base/fault.h"
#include "broker/codec.h"
#include "broker/compactfilter.h"

#define NOW INT64_C(1700000000000)
#define DAY INT64_C(86400000)

struct bench {
    struct kq_compact_map *map;
    struct kq_compact_txns txns;
    struct kq_compact_filter filter;
    struct kq_buf in, out;
    struct kq_batch_header header; /* of IN */
    struct kq_compact_filtered result;
};

static int set_up(void **state)
{
    static struct bench bench;
    bench = (struct bench){0};
    assert_int_equal(kq_compact_map_new(1000 * KQ_COMPACT_SLOT, 0.9, &bench.map), 0);
    bench.filter = (struct kq_compact_filter){
        .map = bench.map,
        .map_end = INT64_MAX,
        .now_ms = NOW,
        .delete_retention_ms = DAY,
        .limit = 1 << 20,
        .txns = &bench.txns,
    };
    *state = &bench;
    return 0;
}

static int take_down(void **state)
{
    struct bench *bench = *state;
    kq_fault_disarm();
    kq_compact_map_free(bench->map);
    kq_compact_txns_release(&bench->txns);
    kq_compact_filter_release(&bench->filter);
    kq_buf_release(&bench->in);
    kq_buf_release(&bench->out);
    return 0;
}

/* --- Batches --- */

static void put(struct bench *bench, const char *key, int64_t offset)
{
    assert_true(kq_compact_map_put(bench->map, key, strlen(key), offset));
}

/* SPEC: words `key=value`, `key` (a tombstone), `=value` (no key); timestamps 1000, 1001, … */
static void make(struct bench *bench, int64_t base, const char *spec)
{
    struct kq_batch_builder builder;
    char words[400];
    int64_t timestamp = 1000;
    snprintf(words, sizeof(words), "%s", spec);
    bench->in.length = 0;
    assert_int_equal(kq_batch_begin(&builder, &bench->in, 0), 0);
    for (char *word = strtok(words, " "); word; word = strtok(NULL, " ")) {
        char *value = strchr(word, '=');
        if (value)
            *value++ = '\0';
        assert_int_equal(kq_batch_add(&builder, timestamp++, *word ? word : NULL,
                                      (int32_t)strlen(word), value,
                                      value ? (int32_t)strlen(value) : -1, "\2h\2v", 4, 1),
                         0);
    }
    kq_batch_finish(&builder);
    kq_batch_patch(bench->in.data, base, 3);
    assert_int_equal(kq_batch_header_read(bench->in.data, bench->in.length, &bench->header), 0);
}

/* The header of IN is as in bench->header from now on. */
static void seal(struct bench *bench)
{
    bench->header.size = (uint32_t)bench->in.length;
    kq_batch_header_write(bench->in.data, &bench->header);
    assert_int_equal(kq_batch_header_read(bench->in.data, bench->in.length, &bench->header), 0);
}

static void compress(struct bench *bench, enum kq_codec codec)
{
    struct kq_buf packed = {0};
    assert_int_equal(kq_codec_compress(codec, 0, bench->in.data + KQ_BATCH_HEADER,
                                       bench->in.length - KQ_BATCH_HEADER, &packed),
                     0);
    bench->in.length = KQ_BATCH_HEADER;
    assert_int_equal(kq_buf_append(&bench->in, packed.data, packed.length), 0);
    kq_buf_release(&packed);
    bench->header.attributes |= (int16_t)codec;
    seal(bench);
}

static void marker(struct bench *bench, int64_t offset, int64_t producer_id, int type)
{
    struct kq_batch_builder builder;
    uint8_t key[4] = {0, 0, 0, (uint8_t)type}, value[6] = {0};
    bench->in.length = 0;
    assert_int_equal(kq_batch_begin(&builder, &bench->in, 0), 0);
    assert_int_equal(
        kq_batch_add(&builder, 1000, key, sizeof(key), value, sizeof(value), NULL, 0, 0), 0);
    kq_batch_finish(&builder);
    kq_batch_patch(bench->in.data, offset, 3);
    assert_int_equal(kq_batch_header_read(bench->in.data, bench->in.length, &bench->header), 0);
    bench->header.attributes = KQ_ATTRIBUTE_CONTROL | KQ_ATTRIBUTE_TRANSACTIONAL;
    bench->header.producer_id = producer_id;
    bench->header.producer_epoch = 5;
    seal(bench);
}

static void transactional(struct bench *bench, int64_t producer_id)
{
    bench->header.attributes |= KQ_ATTRIBUTE_TRANSACTIONAL;
    bench->header.producer_id = producer_id;
    bench->header.producer_epoch = 5;
    bench->header.base_sequence = 70;
    seal(bench);
}

static int run(struct bench *bench, bool keep_empty)
{
    bench->out.length = 0;
    return kq_compact_batch(&bench->filter, bench->in.data, &bench->header, keep_empty, &bench->out,
                            &bench->result);
}

/* What OUT holds, one word a record: `offset@timestamp:key=value`. */
static const char *shown(struct bench *bench)
{
    static char text[1000];
    struct kq_batch_header header;
    struct kq_record_reader reader;
    struct kq_record record;
    kq_autobuf struct kq_buf scratch = {0};
    size_t at = 0;
    int r;
    text[0] = '\0';
    if (bench->out.length == 0)
        return "gone";
    assert_int_equal(kq_batch_header_read(bench->out.data, bench->out.length, &header), 0);
    assert_int_equal(header.size, bench->out.length);
    assert_int_equal(bench->result.length, bench->out.length);
    assert_int_equal(kq_batch_check_crc(bench->out.data, &header), 0);
    assert_int_equal(kq_record_reader_open(&reader, bench->out.data, &header, 1 << 20, &scratch),
                     0);
    while ((r = kq_record_next(&reader, &record)) == 0) {
        assert_int_equal(record.header_count, 1);
        at += (size_t)snprintf(text + at, sizeof(text) - at, "%s%lld@%lld:%.*s%s%.*s",
                               at ? " " : "", (long long)record.offset, (long long)record.timestamp,
                               record.key_length, record.key ? (const char *)record.key : "",
                               record.value ? "=" : "",
                               record.value_length > 0 ? record.value_length : 0,
                               record.value ? (const char *)record.value : "");
    }
    assert_int_equal(r, KQ_END);
    return text;
}

static struct kq_batch_header out_header(struct bench *bench)
{
    struct kq_batch_header header;
    assert_int_equal(kq_batch_header_read(bench->out.data, bench->out.length, &header), 0);
    return header;
}

/* --- Messages --- */

static void the_last_message_of_each_key_stays(void **state)
{
    struct bench *bench = *state;
    put(bench, "a", 12);
    put(bench, "b", 11);
    put(bench, "c", 99);
    make(bench, 10, "a=1 b=2 a=3 c=4");
    assert_int_equal(run(bench, false), 0);
    assert_string_equal(shown(bench), "11@1001:b=2 12@1002:a=3");
    assert_true(bench->result.changed);
    assert_int_equal(bench->result.messages_in, 4);
    assert_int_equal(bench->result.messages_out, 2);
}

static void a_batch_of_which_all_stays_is_the_same_to_the_byte(void **state)
{
    struct bench *bench = *state;
    put(bench, "a", 10);
    put(bench, "b", 5); /* an older one: this one is past what the map saw */
    make(bench, 10, "a=1 b=2");
    assert_int_equal(run(bench, false), 0);
    assert_false(bench->result.changed);
    assert_int_equal(bench->out.length, bench->in.length);
    assert_memory_equal(bench->out.data, bench->in.data, bench->in.length);
}

static void what_the_map_has_not_seen_stays(void **state)
{
    struct bench *bench = *state;
    put(bench, "a", 13);
    bench->filter.map_end = 11;
    make(bench, 10, "a=1 a=2 =3 a=4");
    assert_int_equal(run(bench, false), 0);
    assert_string_equal(shown(bench), "11@1001:a=2 12@1002:=3 13@1003:a=4");
}

static void messages_without_key_go_and_are_counted(void **state)
{
    struct bench *bench = *state;
    put(bench, "a", 11);
    make(bench, 10, "=1 a=2 =3");
    assert_int_equal(run(bench, false), 0);
    assert_string_equal(shown(bench), "11@1001:a=2");
    assert_int_equal(bench->result.keyless, 2);
}

static void offsets_producer_and_epoch_are_kept(void **state)
{
    struct bench *bench = *state;
    put(bench, "a", 99);
    put(bench, "b", 99);
    put(bench, "c", 12);
    put(bench, "d", 99);
    make(bench, 10, "a=1 b=2 c=3 d=4");
    bench->header.producer_id = 77;
    bench->header.producer_epoch = 6;
    bench->header.base_sequence = 1234;
    seal(bench);
    assert_int_equal(run(bench, false), 0);
    struct kq_batch_header header = out_header(bench);
    assert_int_equal(header.base_offset, 10);
    assert_int_equal(header.last_offset_delta, 3);
    assert_int_equal(header.record_count, 1);
    assert_int_equal(header.producer_id, 77);
    assert_int_equal(header.producer_epoch, 6);
    assert_int_equal(header.base_sequence, 1234);
    assert_int_equal(header.leader_epoch, 3);
    assert_int_equal(header.base_timestamp, 1002);
    assert_int_equal(header.max_timestamp, 1002);
    assert_int_equal(header.attributes, 0);
}

static void every_codec_is_kept(void **state)
{
    struct bench *bench = *state;
    put(bench, "a", 99);
    put(bench, "b", 11);
    for (int codec = KQ_CODEC_GZIP; codec <= KQ_CODEC_ZSTD; codec++) {
        make(bench, 10, "a=1 b=2");
        compress(bench, (enum kq_codec)codec);
        assert_int_equal(run(bench, false), 0);
        assert_string_equal(shown(bench), "11@1001:b=2");
        assert_int_equal(out_header(bench).attributes, codec);
    }
}

static void log_append_time_stays_the_time_of_all(void **state)
{
    struct bench *bench = *state;
    put(bench, "a", 99);
    put(bench, "b", 11);
    make(bench, 10, "a=1 b=2");
    bench->header.attributes |= KQ_ATTRIBUTE_LOG_APPEND_TIME;
    bench->header.max_timestamp = 5555;
    seal(bench);
    assert_int_equal(run(bench, false), 0);
    assert_string_equal(shown(bench), "11@5555:b=2");
    assert_int_equal(out_header(bench).max_timestamp, 5555);
}

/* --- Batches without messages --- */

static void a_batch_that_loses_all_goes(void **state)
{
    struct bench *bench = *state;
    put(bench, "a", 99);
    make(bench, 10, "a=1 a=2");
    assert_int_equal(run(bench, false), 0);
    assert_string_equal(shown(bench), "gone");
    assert_true(bench->result.changed);
}

static void the_header_of_a_batch_may_be_wanted_alone(void **state)
{
    struct bench *bench = *state;
    put(bench, "a", 99);
    make(bench, 10, "a=1 a=2");
    compress(bench, KQ_CODEC_LZ4);
    assert_int_equal(run(bench, true), 0);
    struct kq_batch_header header = out_header(bench);
    assert_int_equal(header.size, KQ_BATCH_HEADER);
    assert_int_equal(header.record_count, 0);
    assert_int_equal(header.base_offset, 10);
    assert_int_equal(header.last_offset_delta, 1);
    assert_int_equal(header.attributes, 0);
    assert_int_equal(header.base_timestamp, -1);
    assert_int_equal(header.max_timestamp, 1001);
    assert_string_equal(shown(bench), "");
    /* And it goes once nobody wants it any more. */
    bench->in.length = 0;
    assert_int_equal(kq_buf_append(&bench->in, bench->out.data, bench->out.length), 0);
    bench->header = header;
    assert_int_equal(run(bench, true), 0);
    assert_false(bench->result.changed);
    assert_int_equal(run(bench, false), 0);
    assert_string_equal(shown(bench), "gone");
}

static void the_last_batch_of_a_producer_keeps_its_header(void **state)
{
    struct bench *bench = *state;
    const struct kq_compact_producer producers[] = {{5, 3, 0}, {77, 11, 0}, {78, -1, 5}};
    bench->filter.producers = producers;
    bench->filter.producer_count = 3;
    put(bench, "a", 99);
    make(bench, 10, "a=1 a=2");
    bench->header.producer_id = 77;
    bench->header.base_sequence = 8;
    seal(bench);
    assert_int_equal(run(bench, false), 0);
    assert_string_equal(shown(bench), "");
    assert_int_equal(out_header(bench).base_sequence, 8);
    make(bench, 8, "a=1 a=2");
    bench->header.producer_id = 77;
    seal(bench);
    assert_int_equal(run(bench, false), 0);
    assert_string_equal(shown(bench), "gone");
}

/* --- Tombstones --- */

static void a_tombstone_is_dated_when_it_is_met_first_and_goes_after_its_time(void **state)
{
    struct bench *bench = *state;
    put(bench, "a", 10);
    put(bench, "b", 11);
    make(bench, 10, "a b=2");
    assert_int_equal(run(bench, false), 0);
    assert_true(bench->result.changed);
    assert_string_equal(shown(bench), "10@1000:a 11@1001:b=2");
    struct kq_batch_header header = out_header(bench);
    assert_int_equal(header.attributes, KQ_ATTRIBUTE_DELETE_HORIZON);
    assert_int_equal(header.base_timestamp, NOW + DAY);
    assert_int_equal(header.max_timestamp, 1001);

    bench->in.length = 0;
    assert_int_equal(kq_buf_append(&bench->in, bench->out.data, bench->out.length), 0);
    bench->header = header;
    bench->filter.now_ms = NOW + DAY - 1;
    assert_int_equal(run(bench, false), 0);
    assert_false(bench->result.changed); /* the date does not move */
    bench->filter.now_ms = NOW + DAY;
    assert_int_equal(run(bench, false), 0);
    assert_string_equal(shown(bench), "11@1001:b=2");
    assert_int_equal(out_header(bench).base_timestamp, NOW + DAY);
}

static void an_older_tombstone_of_a_key_goes_at_once(void **state)
{
    struct bench *bench = *state;
    put(bench, "a", 99);
    make(bench, 10, "a");
    assert_int_equal(run(bench, false), 0);
    assert_string_equal(shown(bench), "gone");
}

static void a_date_beyond_all_time_is_the_end_of_time(void **state)
{
    struct bench *bench = *state;
    put(bench, "a", 10);
    bench->filter.delete_retention_ms = INT64_MAX;
    make(bench, 10, "a");
    assert_int_equal(run(bench, false), 0);
    assert_int_equal(out_header(bench).base_timestamp, INT64_MAX);
    assert_string_equal(shown(bench), "10@1000:a");
}

/* --- Transactions --- */

/* ABORTED is known from an index, where it has been. */
static void expect_aborted(struct bench *bench, const struct kq_compact_aborted *aborted)
{
    struct kq_compact_aborted again;
    uint8_t raw[KQ_ABORTED_ENTRY];
    kq_compact_aborted_write(raw, aborted);
    assert_int_equal(kq_compact_aborted_read(raw, &again), 0);
    assert_int_equal(kq_compact_txns_expect(&bench->txns, &again, 1), 0);
}

static void aborted_messages_go_and_their_marker_stays_once_more(void **state)
{
    struct bench *bench = *state;
    const struct kq_compact_aborted aborted = {
        .producer_id = 9, .first_offset = 10, .last_offset = 12, .last_stable = 13};
    put(bench, "a", 10);
    put(bench, "b", 11);
    expect_aborted(bench, &aborted);
    make(bench, 10, "a=1 b=2");
    transactional(bench, 9);
    assert_int_equal(run(bench, false), 0);
    assert_string_equal(shown(bench), "gone");
    marker(bench, 12, 9, 0);
    assert_int_equal(run(bench, false), 0);
    assert_false(bench->result.changed); /* no date yet */
    assert_int_equal(bench->result.aborted.first_offset, 10);
    assert_int_equal(bench->result.aborted.last_stable, 13);

    /* The next cleaning meets nothing of it, dates the marker, and the one after drops it. */
    kq_compact_txns_release(&bench->txns);
    expect_aborted(bench, &aborted);
    assert_int_equal(run(bench, false), 0);
    assert_true(bench->result.changed);
    assert_int_equal(bench->result.aborted.first_offset, -1);
    assert_int_equal(out_header(bench).base_timestamp, NOW + DAY);
    bench->in.length = 0;
    assert_int_equal(kq_buf_append(&bench->in, bench->out.data, bench->out.length), 0);
    bench->header = out_header(bench);
    assert_int_equal(run(bench, false), 0);
    assert_false(bench->result.changed);
    bench->filter.now_ms = NOW + DAY;
    assert_int_equal(run(bench, false), 0);
    assert_int_equal(bench->out.length, 0);
}

static void another_transaction_of_the_producer_is_not_aborted(void **state)
{
    struct bench *bench = *state;
    expect_aborted(bench, &(struct kq_compact_aborted){9, 10, 12, 13});
    put(bench, "a", 20);
    make(bench, 10, "a=1");
    transactional(bench, 9);
    assert_int_equal(run(bench, false), 0);
    assert_string_equal(shown(bench), "gone");
    /* Its marker is missing: what comes behind where that was is none of it. */
    make(bench, 20, "a=2");
    transactional(bench, 9);
    assert_int_equal(run(bench, false), 0);
    assert_string_equal(shown(bench), "20@1000:a=2");
    marker(bench, 21, 9, 1);
    assert_int_equal(run(bench, false), 0);
    assert_false(bench->result.changed);
}

static void a_commit_of_which_nothing_is_left_is_dated(void **state)
{
    struct bench *bench = *state;
    marker(bench, 21, 9, 1);
    assert_int_equal(run(bench, false), 0);
    assert_int_equal(out_header(bench).attributes, KQ_ATTRIBUTE_CONTROL |
                                                       KQ_ATTRIBUTE_TRANSACTIONAL |
                                                       KQ_ATTRIBUTE_DELETE_HORIZON);
}

static void transactions_are_told_apart_whatever_the_order_of_their_ends(void **state)
{
    struct bench *bench = *state;
    expect_aborted(bench, &(struct kq_compact_aborted){4, 30, 40, 20});
    expect_aborted(bench, &(struct kq_compact_aborted){3, 20, 50, 51});
    for (int64_t producer = 1; producer <= 4; producer++) {
        make(bench, 30 + producer, "a=1");
        put(bench, "a", 30 + producer);
        transactional(bench, producer);
        assert_int_equal(run(bench, false), 0);
        assert_int_equal(bench->out.length == 0, producer > 2);
    }
}

/* --- Failures --- */

static void damaged_records_are_refused_and_nothing_is_written(void **state)
{
    struct bench *bench = *state;
    put(bench, "a", 99);
    make(bench, 10, "a=1 a=2");
    bench->in.data[KQ_BATCH_HEADER] ^= 4;
    seal(bench);
    assert_int_equal(run(bench, false), -EBADMSG);
    assert_int_equal(bench->out.length, 0);
    make(bench, 10, "a=1 a=2");
    bench->header.attributes |= KQ_CODEC_ZSTD;
    seal(bench);
    assert_int_equal(run(bench, false), -EBADMSG);
    make(bench, 10, "a=1 a=2");
    compress(bench, KQ_CODEC_GZIP);
    bench->filter.limit = 10;
    assert_int_equal(run(bench, false), -EFBIG);
}

static void every_allocation_may_fail(void **state)
{
    struct bench *bench = *state;
    bool delivered = true;
    put(bench, "a", 99);
    put(bench, "b", 11);
    for (long nth = 1; delivered; nth++) {
        expect_aborted(bench, &(struct kq_compact_aborted){9, 10, 12, 13});
        make(bench, 10, "a=1 b=2");
        compress(bench, KQ_CODEC_SNAPPY);
        transactional(bench, nth % 2 ? 9 : 10);
        kq_buf_release(&bench->out);
        kq_compact_filter_release(&bench->filter);
        kq_fault_arm(KQ_FAULT_MEMORY, nth, ENOMEM, false);
        int r = run(bench, false);
        delivered = kq_fault_disarm();
        assert_int_equal(r, delivered ? -ENOMEM : 0);
        kq_compact_txns_release(&bench->txns);
    }
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, take_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(the_last_message_of_each_key_stays),
        TEST(a_batch_of_which_all_stays_is_the_same_to_the_byte),
        TEST(what_the_map_has_not_seen_stays),
        TEST(messages_without_key_go_and_are_counted),
        TEST(offsets_producer_and_epoch_are_kept),
        TEST(every_codec_is_kept),
        TEST(log_append_time_stays_the_time_of_all),
        TEST(a_batch_that_loses_all_goes),
        TEST(the_header_of_a_batch_may_be_wanted_alone),
        TEST(the_last_batch_of_a_producer_keeps_its_header),
        TEST(a_tombstone_is_dated_when_it_is_met_first_and_goes_after_its_time),
        TEST(an_older_tombstone_of_a_key_goes_at_once),
        TEST(a_date_beyond_all_time_is_the_end_of_time),
        TEST(aborted_messages_go_and_their_marker_stays_once_more),
        TEST(another_transaction_of_the_producer_is_not_aborted),
        TEST(a_commit_of_which_nothing_is_left_is_dated),
        TEST(transactions_are_told_apart_whatever_the_order_of_their_ends),
        TEST(damaged_records_are_refused_and_nothing_is_written),
        TEST(every_allocation_may_fail),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
