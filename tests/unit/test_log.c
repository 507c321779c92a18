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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(appended_batches_get_ascending_offsets_and_can_be_read,
                                        kit_setup, kit_teardown),
        cmocka_unit_test_setup_teardown(a_log_that_was_closed_opens_as_it_was, kit_setup,
                                        kit_teardown),
        cmocka_unit_test_setup_teardown(every_offset_finds_its_batch, kit_setup, kit_teardown),
        cmocka_unit_test_setup_teardown(a_killed_broker_loses_nothing, kit_setup, kit_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
