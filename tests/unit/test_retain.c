#include "log_kit.h"

#include "broker/file.h"

#define VALUE 400
#define TEXT (VALUE + 1)

static void append_at(struct kit *kit, int count, int64_t timestamp)
{
    for (int i = 0; i < count; i++)
        assert_int_equal(kit_append(kit, 1, VALUE, timestamp + i, i, true, NULL), 0);
}

static int64_t start_of(struct kit *kit)
{
    struct kq_log_bounds bounds;
    kq_log_bounds(kit->log, &bounds);
    return bounds.start;
}

static int files_in(struct kit *kit, const char *suffix)
{
    char path[256];
    int count = 0;
    kit_path(kit, "", path);
    DIR *directory = opendir(path);
    for (struct dirent *e; (e = readdir(directory));) {
        size_t length = strlen(e->d_name), end = strlen(suffix);
        count += length > end && strcmp(e->d_name + length - end, suffix) == 0;
    }
    closedir(directory);
    return count;
}

static void segments_older_than_retention_ms_go(void **state)
{
    struct kit *kit = *state;
    int64_t next_ms;
    kit->config.segment_bytes = 1000;
    kit->config.retention_ms = 5000;
    kit_open(kit);
    append_at(kit, 10, 1000);
    append_at(kit, 10, 10000);
    assert_int_equal(kq_log_housekeep(kit->log, 6000, &next_ms), 0);
    assert_int_equal(start_of(kit), 0);
    assert_true(next_ms > 6000 && next_ms <= 6002);
    assert_int_equal(kq_log_housekeep(kit->log, 12000, &next_ms), 0);
    assert_int_equal(start_of(kit), 10);
    kit_text_bounds(kit, 10 * TEXT, 20 * TEXT);
    assert_int_equal(files_in(kit, ".log"), 5);
    assert_int_equal(kq_log_housekeep(kit->log, 100000, &next_ms), 0);
    assert_int_equal(start_of(kit), 20);
    assert_int_equal(files_in(kit, ".log"), 1);
    kit_text_bounds(kit, 20 * TEXT, 20 * TEXT);
}

static void segments_above_retention_bytes_go(void **state)
{
    struct kit *kit = *state;
    struct kq_log_bounds bounds;
    int64_t next_ms;
    kit->config.segment_bytes = 1000;
    kit->config.retention_bytes = 3000;
    kit_open(kit);
    append_at(kit, 20, 1000);
    assert_int_equal(kq_log_housekeep(kit->log, 6000, &next_ms), 0);
    kq_log_bounds(kit->log, &bounds);
    assert_true(bounds.bytes >= 3000 && bounds.bytes < 4000);
    assert_int_equal(kit_read_all(kit, bounds.start, NULL, NULL), 20 - (int)bounds.start);
    kit->config.delete_old = false;
    kit->config.retention_bytes = 0;
    kq_log_set_config(kit->log, &kit->config);
    assert_int_equal(kq_log_housekeep(kit->log, 6000, &next_ms), 0);
    assert_int_equal(start_of(kit), bounds.start);
}

static void the_active_segment_rolls_when_its_time_is_over(void **state)
{
    struct kit *kit = *state;
    int64_t next_ms;
    kit->config.segment_ms = 5000;
    kit_open(kit);
    append_at(kit, 3, 1000);
    assert_int_equal(kq_log_housekeep(kit->log, 6000, &next_ms), 0);
    assert_int_equal(next_ms, 6001);
    assert_int_equal(files_in(kit, ".log"), 1);
    assert_int_equal(kq_log_housekeep(kit->log, 6001, &next_ms), 0);
    assert_int_equal(files_in(kit, ".log"), 2);
}

static void deleting_all_leaves_an_empty_log_that_goes_on(void **state)
{
    struct kit *kit = *state;
    struct kq_log_appended appended;
    struct kq_extent extent;
    kit->config.segment_bytes = 2000;
    kit_open(kit);
    append_at(kit, 21, 1000);
    assert_int_equal(kq_log_delete_before(kit->log, 22), KQ_BEYOND);
    assert_int_equal(kq_log_delete_before(kit->log, 21), 0);
    assert_int_equal(start_of(kit), 21);
    assert_int_equal(kit_end_offset(kit), 21);
    assert_int_equal(files_in(kit, ".log"), 1);
    assert_int_equal(kq_log_read(kit->log, 20, 100, false, true, &extent), KQ_GONE);
    assert_int_equal(kq_log_read_text(kit->log, 20 * TEXT, 100, true, &extent), KQ_GONE);
    kit_text_bounds(kit, 21 * TEXT, 21 * TEXT);
    kit_close(kit);
    kit_open(kit);
    kit_text_bounds(kit, 21 * TEXT, 21 * TEXT);
    assert_int_equal(kit_append(kit, 1, VALUE, 1, 1, true, &appended), 0);
    assert_int_equal(appended.base_offset, 21);
    kit_text_bounds(kit, 21 * TEXT, 22 * TEXT);
}

/* A power loss between the two would leave a text position with nothing before it. */
static void what_goes_is_on_disk_before_the_position_behind_it_is(void **state)
{
    struct kit *kit = *state;
    struct kq_log_bounds bounds;
    kit_open(kit);
    append_at(kit, 10, 1000);
    kq_log_bounds(kit->log, &bounds);
    assert_int_equal(bounds.recovery_point, 0);
    assert_int_equal(kq_log_delete_before(kit->log, 10), 0);
    kq_log_bounds(kit->log, &bounds);
    assert_int_equal(bounds.recovery_point, 10);
    append_at(kit, 10, 1000);
    kq_fault_arm(KQ_FAULT_SYNC, 1, EIO, false);
    assert_int_equal(kq_log_delete_before(kit->log, 20), -EIO);
    assert_true(kq_fault_disarm());
    assert_int_equal(start_of(kit), 10);
    assert_int_equal(kit_read_all(kit, 10, NULL, NULL), 10);
}

static void a_start_within_a_batch_has_its_text_position(void **state)
{
    struct kit *kit = *state;
    struct kq_extent extent;
    kit_open(kit);
    for (int i = 0; i < 10; i++)
        assert_int_equal(kit_append(kit, 5, VALUE, 1, i, true, NULL), 0);
    assert_int_equal(kq_log_delete_before(kit->log, 13), 0);
    kit_text_bounds(kit, 13 * TEXT, 50 * TEXT);
    assert_int_equal(kq_log_read(kit->log, 12, 100, false, true, &extent), KQ_GONE);
    assert_int_equal(kq_log_read_text(kit->log, 13 * TEXT, 100, true, &extent), 0);
    assert_int_equal(extent.base_offset, 10);
    kq_extent_unref(&extent);
    kit_close(kit);
    kit_open(kit);
    kit_text_bounds(kit, 13 * TEXT, 50 * TEXT);
}

static void a_reader_overtaken_by_retention_is_told(void **state)
{
    struct kit *kit = *state;
    struct kq_extent extent, next;
    kit->config.segment_bytes = 1000;
    kit_open(kit);
    append_at(kit, 20, 1000);
    assert_int_equal(kq_log_read(kit->log, 0, UINT32_MAX, false, true, &extent), 0);
    assert_int_equal(kq_log_delete_before(kit->log, 10), 0);
    assert_int_equal(kq_log_read_next(kit->log, &extent, UINT32_MAX, &next), KQ_GONE);
    kq_extent_unref(&extent);
    assert_int_equal(kq_log_read(kit->log, 10, UINT32_MAX, false, true, &extent), 0);
    assert_int_equal(kq_log_delete_before(kit->log, extent.next_offset), 0);
    assert_int_equal(kq_log_read_next(kit->log, &extent, UINT32_MAX, &next), 0);
    assert_int_equal(next.base_offset, extent.next_offset);
    kq_extent_unref(&next);
    kq_extent_unref(&extent);
}

static void an_idle_log_keeps_no_file_open(void **state)
{
    struct kit *kit = *state;
    kit->config.segment_bytes = 1000;
    kit_open(kit);
    append_at(kit, 20, 1000);
    assert_true(kq_file_open_count() > 0);
    for (int i = 0; i < 1000 && kq_file_open_count() > 0; i++)
        kq_log_trim(kit->log);
    assert_int_equal(kit_sync(kit), 0);
    for (int i = 0; i < 3; i++)
        kq_log_trim(kit->log);
    assert_int_equal(kq_file_open_count(), 0);
    assert_int_equal(kit_read_all(kit, 0, NULL, NULL), 20);
    append_at(kit, 1, 1000);
}

static void a_removed_log_leaves_nothing(void **state)
{
    struct kit *kit = *state;
    kit_open(kit);
    append_at(kit, 20, 1000);
    kq_log_close(kit->log);
    kit->log = NULL;
    assert_int_equal(kq_log_remove(&kit->shared, KIT_LOG), 0);
    assert_int_equal(faccessat(kit->shared.dirfd, KIT_LOG, F_OK, 0), -1);
    assert_int_equal(kq_log_remove(&kit->shared, KIT_LOG), -ENOENT);
}

/* --- Reservations --- */

static int64_t blocks_of(struct kit *kit)
{
    char path[256];
    struct stat st;
    kit_path(kit, "00000000000000000000.log", path);
    assert_int_equal(stat(path, &st), 0);
    return (int64_t)st.st_blocks * 512;
}

static void reserved_disk_is_set_aside_and_given_back(void **state)
{
    struct kit *kit = *state;
    kit_open(kit);
    append_at(kit, 1, 1000);
    int64_t size = kit_size(kit, "00000000000000000000.log");
    assert_int_equal(kq_log_reserve(kit->log, 3 << 20), 0);
    assert_int_equal(kit_size(kit, "00000000000000000000.log"), size);
    assert_true(blocks_of(kit) >= 3 << 20);
    append_at(kit, 10, 1000);
    assert_true(blocks_of(kit) >= (3 << 20) + 10 * VALUE);
    assert_int_equal(kq_log_reserve(kit->log, -(3 << 20)), 0);
    kq_log_trim(kit->log);
    assert_true(blocks_of(kit) <= 64 << 10);
    assert_int_equal(kit_read_all(kit, 0, NULL, NULL), 11);
}

static void a_reservation_that_cannot_be_had_is_refused(void **state)
{
    struct kit *kit = *state;
    kit_open(kit);
    append_at(kit, 1, 1000);
    kq_fault_arm(KQ_FAULT_ALLOCATE, 1, ENOSPC, true);
    assert_int_equal(kq_log_reserve(kit->log, 1000), -ENOSPC);
    kq_fault_disarm();
    assert_int_equal(kq_log_reserve(kit->log, 1000), 0);
    /* What others reserved is kept for them. */
    kq_fault_arm(KQ_FAULT_ALLOCATE, 1, ENOSPC, true);
    int r = 0;
    for (int i = 0; i < 2000 && r == 0; i++)
        r = kit_append(kit, 1, VALUE, 1, 1, true, NULL);
    kq_fault_disarm();
    assert_int_equal(r, -ENOSPC);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, kit_setup, kit_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(segments_older_than_retention_ms_go),
        TEST(segments_above_retention_bytes_go),
        TEST(the_active_segment_rolls_when_its_time_is_over),
        TEST(deleting_all_leaves_an_empty_log_that_goes_on),
        TEST(what_goes_is_on_disk_before_the_position_behind_it_is),
        TEST(a_start_within_a_batch_has_its_text_position),
        TEST(a_reader_overtaken_by_retention_is_told),
        TEST(an_idle_log_keeps_no_file_open),
        TEST(a_removed_log_leaves_nothing),
        TEST(reserved_disk_is_set_aside_and_given_back),
        TEST(a_reservation_that_cannot_be_had_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
