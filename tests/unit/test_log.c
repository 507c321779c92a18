#include "broker/log_internal.h"
#include "log_kit.h"

#include <pthread.h>
#include <stdatomic.h>

static void appended_batches_get_ascending_offsets_and_can_be_read(void **state)
{
    struct kit *kit = *state;
    struct kq_log_appended appended;
    kit_open(kit);
    for (int i = 0; i < 1000; i++) {
        assert_int_equal(kit_append(kit, 3, 50, 1000 + i, i, true, &appended), 0);
        assert_int_equal(appended.base_offset, i * 3);
        assert_int_equal(appended.next_offset, i * 3 + 3);
    }
    assert_int_equal(kit_read_all(kit, 0, NULL, NULL), 1000);
    assert_int_equal(kit_read_all(kit, 1501, NULL, NULL), 500);
    kit_text_bounds(kit, 0, 3000 * 51);
}

static void a_log_that_was_closed_opens_as_it_was(void **state)
{
    struct kit *kit = *state;
    kit->config.segment_bytes = 20000;
    kit_open(kit);
    for (int i = 0; i < 1000; i++)
        assert_int_equal(kit_append(kit, 3, 50, 1000 + i, i, true, NULL), 0);
    kit_close(kit);
    kit_open(kit);
    assert_int_equal(kit->recovery.truncated_bytes, 0);
    assert_int_equal(kit->recovery.rebuilt_indexes, 0);
    assert_int_equal(kit_end_offset(kit), 3000);
    assert_int_equal(kit_read_all(kit, 0, NULL, NULL), 1000);
    kit_text_bounds(kit, 0, 3000 * 51);
    assert_int_equal(kit_append(kit, 3, 50, 5000, 1000, true, NULL), 0);
    kit_text_bounds(kit, 0, 3003 * 51);
}

static void every_offset_finds_its_batch(void **state)
{
    struct kit *kit = *state;
    struct kq_extent extent;
    kit->config.segment_bytes = 50000;
    kit_open(kit);
    for (int i = 0; i < 2000; i++)
        assert_int_equal(kit_append(kit, 1 + i % 5, 40, i, i, true, NULL), 0);
    int64_t end = kit_end_offset(kit), text = 0;
    for (int64_t offset = 0; offset < end; offset++) {
        assert_int_equal(kq_log_read(kit->log, offset, 100, true, true, &extent), 0);
        assert_true(extent.base_offset <= offset && offset < extent.base_offset + 5);
        assert_int_equal(extent.text, extent.base_offset * 41);
        struct kq_extent by_text;
        text = extent.text + 7;
        assert_int_equal(kq_log_read_text(kit->log, text, 100, true, &by_text), 0);
        assert_int_equal(by_text.base_offset, extent.base_offset);
        assert_int_equal(by_text.text, extent.text);
        assert_int_equal(by_text.position, extent.position);
        kq_extent_unref(&by_text);
        kq_extent_unref(&extent);
    }
    assert_int_equal(kq_log_read(kit->log, end, 100, true, true, &extent), KQ_END);
    assert_int_equal(kq_log_read(kit->log, end + 1, 100, true, true, &extent), KQ_BEYOND);
    assert_int_equal(kq_log_read_text(kit->log, end * 41, 100, true, &extent), KQ_END);
    assert_int_equal(kq_log_read_text(kit->log, end * 41 + 1, 100, true, &extent), KQ_BEYOND);
}

static void a_killed_broker_loses_nothing(void **state)
{
    struct kit *kit = *state;
    kit->config.segment_bytes = 40000;
    kit_open(kit);
    for (int i = 0; i < 1000; i++) {
        assert_int_equal(kit_append(kit, 3, 50, 1000 + i, i, true, NULL), 0);
        if (i == 500)
            assert_int_equal(kit_sync(kit), 0);
    }
    struct kq_log_bounds bounds;
    kq_log_bounds(kit->log, &bounds);
    assert_int_equal(bounds.recovery_point, 1503);
    kit->checkpoint.recovery_point = bounds.recovery_point;
    kit_crash(kit);
    kit_open(kit);
    assert_int_equal(kit_end_offset(kit), 3000);
    assert_int_equal(kit_read_all(kit, 0, NULL, NULL), 1000);
    kit_text_bounds(kit, 0, 3000 * 51);
}

/* --- Many threads --- */

#define WRITERS 3
#define EACH 1500

struct crowd {
    struct kit *kit;
    atomic_int writers;
    _Atomic int64_t read_end;
};

static void *write_many(void *argument)
{
    struct crowd *crowd = argument;
    for (int i = 0; i < EACH; i++) {
        assert_true(kit_append(crowd->kit, 1 + i % 3, 60, i, i, i % 50 != 0, NULL) >= 0);
        if (i % 100 == 0)
            assert_int_equal(kit_sync(crowd->kit), 0);
    }
    atomic_fetch_sub(&crowd->writers, 1);
    return NULL;
}

static void expect_next(void *context, const uint8_t *bytes, const struct kq_batch_header *header)
{
    int64_t *next = context;
    if (*next >= 0)
        assert_int_equal(header->base_offset, *next);
    *next = kq_batch_next_offset(header);
}

static void *read_many(void *argument)
{
    struct crowd *crowd = argument;
    int64_t next = -1;
    while (atomic_load(&crowd->writers) > 0) {
        struct kq_log_text_bounds text;
        struct kq_extent extent;
        struct kq_log_bounds bounds;
        kq_log_bounds(crowd->kit->log, &bounds);
        if (next < bounds.start)
            next = -1;
        int r = kit_read_all(crowd->kit, kq_max64(next, bounds.start), expect_next, &next);
        if (r == KQ_GONE)
            next = -1;
        assert_true(kq_log_text_bounds(crowd->kit->log, true, &text) == 0);
        assert_true(text.start <= text.end);
        if (kq_log_read_text(crowd->kit->log, (text.start + text.end) / 2, 1000, true, &extent) ==
            0)
            kq_extent_unref(&extent);
        if (kq_log_read(crowd->kit->log, (bounds.start + bounds.end) / 2, 1000, true, true,
                        &extent) == 0)
            kq_extent_unref(&extent);
    }
    return NULL;
}

static void *keep_house(void *argument)
{
    struct crowd *crowd = argument;
    struct kq_log *log = crowd->kit->log;
    for (int64_t round = 0; atomic_load(&crowd->writers) > 0; round++) {
        struct kq_log_bounds bounds;
        struct kq_log_range range;
        int64_t next_ms, offset, timestamp;
        assert_int_equal(kq_log_housekeep(log, 1000, &next_ms), 0);
        kq_log_trim(log);
        kq_log_next_range(log, 0, true, &range);
        kq_log_find_time(log, round % EACH, true, &offset, &timestamp);
        kq_log_bounds(log, &bounds);
        if (round % 5 == 0)
            assert_int_equal(kq_log_delete_before(log, kq_min64(bounds.start + 10, bounds.end)), 0);
        assert_int_equal(kq_log_reserve(log, 3000), 0);
        assert_int_equal(kq_log_reserve(log, -3000), 0);
    }
    return NULL;
}

/* Who was given a batch asks for what follows it: that must not be beyond the end. */
static void *watch_end(void *argument)
{
    struct crowd *crowd = argument;
    struct kq_log *log = crowd->kit->log;
    while (atomic_load(&crowd->writers) > 0) {
        struct kq_segment *active = kq_log_segment_at(log, INT64_MAX);
        struct kq_log_bounds bounds;
        for (int i = 0; i < 1000; i++) {
            struct kq_published state;
            kq_segment_published(active, &state);
            kq_log_bounds(log, &bounds);
            assert_true(state.next_offset <= bounds.end);
        }
        kq_segment_unref(active);
    }
    return NULL;
}

static void writers_readers_syncs_and_retention_do_not_disturb_each_other(void **state)
{
    struct kit *kit = *state;
    struct crowd crowd = {.kit = kit, .writers = WRITERS};
    pthread_t threads[WRITERS + 4];
    kit->config.segment_bytes = 8000;
    kit->config.index_interval_bytes = 500;
    kit->config.retention_bytes = 60000;
    kit->shared.max_open_files = 12;
    kit_open(kit);
    for (int i = 0; i < WRITERS; i++)
        pthread_create(&threads[i], NULL, write_many, &crowd);
    pthread_create(&threads[WRITERS], NULL, read_many, &crowd);
    pthread_create(&threads[WRITERS + 1], NULL, read_many, &crowd);
    pthread_create(&threads[WRITERS + 2], NULL, keep_house, &crowd);
    pthread_create(&threads[WRITERS + 3], NULL, watch_end, &crowd);
    for (size_t i = 0; i < kq_array_size(threads); i++)
        pthread_join(threads[i], NULL);
    struct kq_log_text_bounds text;
    assert_int_equal(kit_end_offset(kit), WRITERS * EACH * 2);
    assert_int_equal(kq_log_text_bounds(kit->log, true, &text), 0);
    assert_int_equal(text.end, WRITERS * EACH * 2 * 61);
}

/* --- Appending: what can go wrong --- */

static void a_refused_write_leaves_no_trace(void **state)
{
    struct kit *kit = *state;
    kit_open(kit);
    assert_int_equal(kit_append(kit, 1, 1000, 1, 1, true, NULL), 0);
    int64_t size = kit_size(kit, "00000000000000000000.log");
    const int errors[] = {ENOSPC, EDQUOT, EIO};
    for (size_t i = 0; i < kq_array_size(errors); i++) {
        kq_fault_arm(KQ_FAULT_WRITE, 1, errors[i], false);
        assert_int_equal(kit_append(kit, 1, 1000, 1, 2, true, NULL), -errors[i]);
        kq_fault_disarm();
        assert_int_equal(kit_end_offset(kit), 1);
    }
    assert_int_equal(kit_append(kit, 1, 10, 1, 3, true, NULL), 0);
    assert_true(kit_size(kit, "00000000000000000000.log") < size + 500);
    assert_int_equal(kit_read_all(kit, 0, NULL, NULL), 2);
}

static void a_sync_that_fails_ends_writing_but_not_reading(void **state)
{
    struct kit *kit = *state;
    kit_open(kit);
    assert_int_equal(kit_append(kit, 1, 100, 1, 1, true, NULL), 0);
    kq_fault_arm(KQ_FAULT_SYNC, 1, EIO, false);
    assert_int_equal(kit_sync(kit), -EIO);
    kq_fault_disarm();
    assert_int_equal(kit_append(kit, 1, 100, 1, 2, true, NULL), -EROFS);
    assert_true(kit_sync(kit) < 0);
    assert_int_equal(kit_read_all(kit, 0, NULL, NULL), 1);
    kq_log_close(kit->log);
    kit_open(kit);
    assert_int_equal(kit_append(kit, 1, 100, 1, 2, true, NULL), 0);
}

static bool is_synced(struct kit *kit)
{
    struct kq_log_bounds bounds;
    kq_log_wait_sync(kit->log);
    kq_log_bounds(kit->log, &bounds);
    return bounds.recovery_point == bounds.end;
}

static void who_syncs_each_append_has_the_next_one_synced_unasked_but_no_other(void **state)
{
    struct kit *kit = *state;
    kit_open(kit);
    for (int i = 0; i < 10; i++) {
        assert_int_equal(kit_append(kit, 1, 100, 1, 1, true, NULL), 0);
        assert_int_equal(kit_sync(kit), 0);
    }
    kq_log_wait_sync(kit->log); /* one that is about to end takes no more */
    assert_int_equal(kit_append(kit, 1, 100, 1, 1, true, NULL), 0);
    assert_true(is_synced(kit));
    assert_int_equal(kit_sync(kit), 0);
    for (int i = 0; i < 10; i++) {
        assert_int_equal(kit_append(kit, 1, 100, 1, 1, true, NULL), 0);
        assert_int_equal(is_synced(kit), i == 0);
    }
}

static void what_is_not_a_batch_is_refused(void **state)
{
    struct kit *kit = *state;
    struct kq_log_appended appended;
    uint8_t bytes[200] = {0};
    struct kq_log_append append = {.bytes = bytes, .length = sizeof(bytes), .text_length = -1};
    kit_open(kit);
    assert_int_equal(kq_log_append(kit->log, &append, &appended), -EINVAL);
}

static void flush_messages_asks_for_a_sync(void **state)
{
    struct kit *kit = *state;
    kit->config.flush_messages = 3;
    kit_open(kit);
    assert_int_equal(kit_append(kit, 2, 10, 1, 1, true, NULL), 0);
    assert_int_equal(kit_append(kit, 1, 10, 1, 1, true, NULL), KQ_MUST_SYNC);
    assert_int_equal(kit_sync(kit), 0);
    assert_int_equal(kit_append(kit, 2, 10, 1, 1, true, NULL), 0);
}

static atomic_int sync_reports;

static void count_report(void *context, int64_t bytes)
{
    sync_reports++;
}

static void the_recovery_point_follows_by_itself(void **state)
{
    struct kit *kit = *state;
    struct kq_log_bounds bounds;
    kit->shared.trail_bytes = 100000;
    kit->shared.synced = count_report;
    kit_open(kit);
    for (int i = 0; i < 200; i++)
        assert_int_equal(kit_append(kit, 1, 1000, 1, 1, true, NULL), 0);
    do
        kq_log_bounds(kit->log, &bounds);
    while (bounds.recovery_point == 0);
    assert_true(bounds.recovery_point <= bounds.end);
    assert_int_equal(kit_sync(kit), 0);
    while (sync_reports == 0)
        usleep(1000); /* it comes after the recovery point was moved */
}

static void segments_roll_by_size_by_time_and_by_index(void **state)
{
    struct kit *kit = *state;
    struct kq_log_range range;
    kit->config.segment_bytes = 1000;
    kit->config.segment_ms = 5000;
    kit_open(kit);
    assert_int_equal(kit_append(kit, 1, 700, 1000, 1, true, NULL), 0);
    assert_int_equal(kq_log_next_range(kit->log, 0, true, &range), KQ_END);
    assert_int_equal(kit_append(kit, 1, 700, 1000, 2, true, NULL), 0); /* by size */
    assert_int_equal(kit_append(kit, 1, 10, 6001, 3, true, NULL), 0);  /* by time */
    kit->config.segment_bytes = 1 << 20;
    kit->config.segment_index_bytes = 24;
    kit->config.index_interval_bytes = 0;
    kq_log_set_config(kit->log, &kit->config);
    for (int i = 0; i < 8; i++)
        assert_int_equal(kit_append(kit, 1, 10, 6002, 4, true, NULL), 0);
    static const int64_t bases[] = {0, 1, 2};
    int64_t from = 0;
    for (size_t i = 0; i < kq_array_size(bases); i++) {
        assert_int_equal(kq_log_next_range(kit->log, from, true, &range), 0);
        assert_int_equal(range.base_offset, bases[i]);
        from = range.next_offset;
    }
    assert_true(from > 3 && from < 11); /* the index was full */
}

static void a_time_finds_the_first_message_that_is_not_older(void **state)
{
    struct kit *kit = *state;
    int64_t offset, timestamp;
    kit->config.segment_bytes = 30000;
    kit_open(kit);
    for (int i = 0; i < 1000; i++)
        assert_int_equal(kit_append(kit, 2, 40, 1000 + i * 10, i, true, NULL), 0);
    for (int i = 0; i < 1000; i += 7) {
        assert_int_equal(kq_log_find_time(kit->log, 1000 + i * 10 - 3, true, &offset, &timestamp),
                         0);
        assert_int_equal(offset, i * 2);
        assert_int_equal(timestamp, 1000 + i * 10);
    }
    assert_int_equal(kq_log_find_time(kit->log, 1000 + 9991, true, &offset, &timestamp), KQ_END);
    assert_int_equal(kq_log_find_time(kit->log, 0, true, &offset, &timestamp), 0);
    assert_int_equal(offset, 0);
}

static void an_index_that_is_not_in_memory_is_not_waited_for(void **state)
{
    struct kit *kit = *state;
    struct kq_extent extent;
    kit->config.segment_bytes = 30000;
    kit_open(kit);
    for (int i = 0; i < 1000; i++)
        assert_int_equal(kit_append(kit, 2, 40, 1000, i, true, NULL), 0);
    kit_close(kit);
    kit_open(kit);
    assert_int_equal(kq_log_read(kit->log, 5, 100, false, false, &extent), KQ_WOULD_BLOCK);
    assert_int_equal(kq_log_read(kit->log, 5, 100, false, true, &extent), 0);
    kq_extent_unref(&extent);
    assert_int_equal(kq_log_read(kit->log, 5, 100, false, false, &extent), 0);
    kq_extent_unref(&extent);
}

static void an_extent_outlives_trimming_retention_and_the_log(void **state)
{
    struct kit *kit = *state;
    struct kq_extent extent;
    struct kq_batch_header header;
    uint8_t bytes[2000];
    kit->config.segment_bytes = 1000;
    kit_open(kit);
    for (int i = 0; i < 20; i++)
        assert_int_equal(kit_append(kit, 1, 400, 1, i, true, NULL), 0);
    assert_int_equal(kq_log_read(kit->log, 0, 1, false, true, &extent), 0);
    for (int i = 0; i < 3; i++)
        kq_log_trim(kit->log);
    assert_int_equal(kq_log_delete_before(kit->log, 20), 0);
    kq_log_close(kit->log);
    kit->log = NULL;
    assert_int_equal(pread(extent.fd, bytes, extent.length, extent.position), extent.length);
    assert_int_equal(kq_batch_header_read(bytes, extent.length, &header), 0);
    assert_int_equal(kq_batch_check_crc(bytes, &header), 0);
    kq_extent_unref(&extent);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, kit_setup, kit_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(appended_batches_get_ascending_offsets_and_can_be_read),
        TEST(a_log_that_was_closed_opens_as_it_was),
        TEST(every_offset_finds_its_batch),
        TEST(a_killed_broker_loses_nothing),
        TEST(writers_readers_syncs_and_retention_do_not_disturb_each_other),
        TEST(a_refused_write_leaves_no_trace),
        TEST(a_sync_that_fails_ends_writing_but_not_reading),
        TEST(who_syncs_each_append_has_the_next_one_synced_unasked_but_no_other),
        TEST(what_is_not_a_batch_is_refused),
        TEST(flush_messages_asks_for_a_sync),
        TEST(the_recovery_point_follows_by_itself),
        TEST(segments_roll_by_size_by_time_and_by_index),
        TEST(a_time_finds_the_first_message_that_is_not_older),
        TEST(an_index_that_is_not_in_memory_is_not_waited_for),
        TEST(an_extent_outlives_trimming_retention_and_the_log),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
