#include "tests/unit/log_kit.h"

static void newest_is(struct kit *kit, int64_t offset, int64_t timestamp)
{
    int64_t found_offset, found_timestamp;
    assert_int_equal(kq_log_find_newest(kit->log, true, &found_offset, &found_timestamp), 0);
    assert_int_equal(found_offset, offset);
    assert_int_equal(found_timestamp, timestamp);
}

static void an_empty_log_has_no_newest(void **state)
{
    struct kit *kit = *state;
    int64_t offset, timestamp;
    kit_open(kit);
    assert_int_equal(kq_log_find_newest(kit->log, true, &offset, &timestamp), KQ_END);
    assert_int_equal(kit_append(kit, 2, 40, 7, 0, true, NULL), 0);
    assert_int_equal(kq_log_delete_before(kit->log, 2), 0);
    assert_int_equal(kq_log_find_newest(kit->log, true, &offset, &timestamp), KQ_END);
}

static void the_newest_is_the_first_with_the_largest_time(void **state)
{
    struct kit *kit = *state;
    kit->config.segment_bytes = 3000;
    kit_open(kit);
    for (int i = 0; i < 200; i++) {
        int64_t time = i == 90 || i == 150 ? 5000 : 1000 + i;
        assert_int_equal(kit_append(kit, 2, 40, time, i, true, NULL), 0);
    }
    newest_is(kit, 180, 5000);
    kit_close(kit);
    kit_open(kit);
    newest_is(kit, 180, 5000);
    assert_int_equal(kit_append(kit, 1, 40, 5001, 0, true, NULL), 0);
    newest_is(kit, 400, 5001);
}

/* Messages may bear any time: none is younger than the last one there is. */
static void the_newest_may_be_of_the_last_time_there_is(void **state)
{
    struct kit *kit = *state;
    int64_t next_ms;
    kit->config.segment_bytes = 3000;
    kit->config.retention_ms = INT64_MAX - 1;
    kit_open(kit);
    for (int i = 0; i < 200; i++) {
        int64_t time = i == 90 ? INT64_MAX : i;
        assert_int_equal(kit_append(kit, 2, 40, time, i, true, NULL), 0);
    }
    kit_close(kit);
    kit_open(kit);
    newest_is(kit, 180, INT64_MAX);
    assert_int_equal(kq_log_housekeep(kit->log, INT64_C(1700000000000), &next_ms), 0);
    newest_is(kit, 180, INT64_MAX);
}

/* A batch of three records, at TIME, TIME + 2 and TIME + 1. */
static void append_three(struct kit *kit, int64_t time)
{
    kq_autobuf struct kq_buf bytes = {0};
    struct kq_batch_builder builder;
    struct kq_log_appended appended;
    assert_int_equal(kq_batch_begin(&builder, &bytes, 0), 0);
    static const int64_t after[] = {0, 2, 1};
    for (size_t i = 0; i < kq_array_size(after); i++)
        assert_int_equal(kq_batch_add(&builder, time + after[i], NULL, -1, "v", 1, NULL, 0, 0), 0);
    kq_batch_finish(&builder);
    struct kq_log_append append = {.bytes = bytes.data, .length = bytes.length, .text_length = -1};
    assert_int_equal(kq_log_append(kit->log, &append, &appended), 0);
}

static void the_newest_is_a_record_that_is_retained(void **state)
{
    struct kit *kit = *state;
    kit_open(kit);
    append_three(kit, 9000);
    append_three(kit, 100);
    append_three(kit, 50);
    newest_is(kit, 1, 9002);
    assert_int_equal(kq_log_delete_before(kit->log, 2), 0);
    newest_is(kit, 2, 9001);
    assert_int_equal(kq_log_delete_before(kit->log, 3), 0);
    newest_is(kit, 4, 102);
    assert_int_equal(kq_log_delete_before(kit->log, 5), 0);
    newest_is(kit, 5, 101);
    assert_int_equal(kq_log_delete_before(kit->log, 8), 0);
    newest_is(kit, 8, 51);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(an_empty_log_has_no_newest, kit_setup, kit_teardown),
        cmocka_unit_test_setup_teardown(the_newest_is_the_first_with_the_largest_time, kit_setup,
                                        kit_teardown),
        cmocka_unit_test_setup_teardown(the_newest_may_be_of_the_last_time_there_is, kit_setup,
                                        kit_teardown),
        cmocka_unit_test_setup_teardown(the_newest_is_a_record_that_is_retained, kit_setup,
                                        kit_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
