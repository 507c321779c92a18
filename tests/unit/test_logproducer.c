/* The producers of a log: what was acknowledged is known when it is sent again, whatever happens
 * between, and opening the log takes no longer for it. */
#include "tests/unit/producer_kit.h"

static void damage(struct kit *kit, const char *name)
{
    char path[256];
    kit_path(kit, name, path);
    int fd = open(path, O_WRONLY);
    assert_true(fd >= 0);
    assert_int_equal(pwrite(fd, "\xff\xff", 2, 4), 2);
    close(fd);
}

/* --- Appending --- */

static void a_batch_sent_again_is_in_the_log_once(void **state)
{
    struct kit *kit = *state;
    kit_open(kit);
    append_plain(kit);
    for (int i = 0; i < 7; i++)
        assert_int_equal(append(kit, ID, 3 * i, 3), 0);
    for (int i = 2; i < 7; i++)
        assert_duplicate(kit, ID, 3 * i, 3, 1 + 3 * i);
    assert_int_equal(append(kit, ID, 0, 3), KQ_OUT_OF_ORDER_SEQUENCE);
    assert_int_equal(append(kit, ID, 22, 3), KQ_OUT_OF_ORDER_SEQUENCE);
    assert_int_equal(append_sized(kit, ID, 1, 0, 1, 20, NULL), 0);
    assert_int_equal(append(kit, ID, 21, 3), KQ_FENCED_PRODUCER);
    assert_int_equal(kit_end_offset(kit), 23);
    assert_int_equal(kit_read_all(kit, 0, NULL, NULL), 9);
}

static void a_write_that_fails_was_never_there(void **state)
{
    struct kit *kit = *state;
    kit_open(kit);
    kq_fault_arm(KQ_FAULT_WRITE, 1, ENOSPC, false);
    assert_int_equal(append(kit, ID, 0, 3), -ENOSPC);
    assert_true(kq_fault_disarm());
    assert_int_equal(append(kit, ID, 3, 1), KQ_OUT_OF_ORDER_SEQUENCE);
    assert_int_equal(append(kit, ID, 0, 3), 0);
    kq_fault_arm(KQ_FAULT_WRITE, 1, EIO, false);
    assert_int_equal(append(kit, ID, 3, 3), -EIO);
    kq_fault_disarm();
    assert_int_equal(append(kit, ID, 3, 2), 0);
    assert_duplicate(kit, ID, 0, 3, 0);
    assert_duplicate(kit, ID, 3, 2, 3);
}

static void without_memory_nothing_is_appended(void **state)
{
    struct kit *kit = *state;
    kit_open(kit);
    for (long nth = 1;; nth++) {
        kq_fault_arm(KQ_FAULT_MEMORY, nth, ENOMEM, false);
        int r = append(kit, ID, 0, 3);
        if (!kq_fault_disarm()) {
            assert_int_equal(r, 0);
            break;
        }
        assert_int_equal(r, -ENOMEM);
        assert_int_equal(kit_end_offset(kit), 0);
    }
}

static void a_duplicate_that_is_not_synced_must_be_where_the_topic_says_so(void **state)
{
    struct kit *kit = *state;
    struct kq_log_appended appended;
    kit->config.flush_messages = 1;
    kit_open(kit);
    assert_int_equal(append(kit, ID, 0, 3), KQ_MUST_SYNC);
    assert_int_equal(append_sized(kit, ID, 0, 0, 3, 20, &appended), KQ_MUST_SYNC);
    assert_true(appended.duplicate);
    assert_int_equal(kit_sync(kit), 0);
    assert_duplicate(kit, ID, 0, 3, 0);
}

static void an_idle_producer_is_forgotten(void **state)
{
    struct kit *kit = *state;
    int64_t next_ms, now_ms = kq_clock_wall_ms();
    kit_open(kit);
    assert_int_equal(append(kit, ID, 0, 3), 0);
    assert_int_equal(kq_log_housekeep(kit->log, now_ms + 1000, &next_ms), 0);
    assert_true(next_ms >= now_ms + 86400000 && next_ms <= now_ms + 86400000 + 60000);
    assert_duplicate(kit, ID, 0, 3, 0);
    assert_int_equal(kq_log_housekeep(kit->log, now_ms + 86400000 + 60000, &next_ms), 0);
    assert_int_equal(next_ms, INT64_MAX);
    assert_int_equal(append(kit, ID, 7, 3), 0); /* taken as it comes */
}

/* --- Restarts --- */

static void write_some(struct kit *kit)
{
    for (int i = 0; i < 6; i++) {
        assert_int_equal(append(kit, ID, 2 * i, 2), 0);
        append_plain(kit);
        assert_int_equal(append(kit, ID + 1, i, 1), 0);
    }
}

static void check_some(struct kit *kit)
{
    for (int i = 1; i < 6; i++) {
        assert_duplicate(kit, ID, 2 * i, 2, 4 * i);
        assert_duplicate(kit, ID + 1, i, 1, 4 * i + 3);
    }
    assert_int_equal(append(kit, ID, 0, 2), KQ_OUT_OF_ORDER_SEQUENCE);
    assert_int_equal(append(kit, ID, 13, 1), KQ_OUT_OF_ORDER_SEQUENCE);
    assert_int_equal(append(kit, ID + 2, 1, 1), KQ_OUT_OF_ORDER_SEQUENCE);
}

static void after_a_clean_stop_they_are_known(void **state)
{
    struct kit *kit = *state;
    kit_open(kit);
    write_some(kit);
    kit_close(kit);
    assert_string_equal(snapshots(kit), "0 24 ");
    kit_open(kit);
    check_some(kit);
    kit_close(kit); /* nothing has changed */
    assert_string_equal(snapshots(kit), "0 24 ");
    kit_open(kit);
    check_some(kit);
}

static void after_a_crash_they_are_known(void **state)
{
    struct kit *kit = *state;
    kit_open(kit);
    write_some(kit);
    crash(kit);
    check_some(kit);
    crash(kit);
    check_some(kit);
}

static void after_a_crash_behind_a_checkpoint_they_are_known(void **state)
{
    struct kit *kit = *state;
    kit_open(kit);
    write_some(kit);
    sync_and_checkpoint(kit);
    assert_int_equal(kit->checkpoint.recovery_point, 24);
    assert_string_equal(snapshots(kit), "0 24 ");
    crash(kit);
    check_some(kit);
    for (int i = 0; i < 10; i++)
        append_plain(kit);
    sync_and_checkpoint(kit); /* without a change there is no need for a snapshot */
    assert_int_equal(kit->checkpoint.recovery_point, 34);
    assert_string_equal(snapshots(kit), "0 24 ");
    crash(kit);
    check_some(kit);
}

static void what_is_not_synced_needs_no_snapshot(void **state)
{
    struct kit *kit = *state;
    kit_open(kit);
    append_plain(kit);
    assert_int_equal(kit_sync(kit), 0);
    assert_int_equal(append(kit, ID, 0, 1), 0);
    checkpoint(kit);
    assert_int_equal(kit->checkpoint.recovery_point, 1);
    assert_string_equal(snapshots(kit), "0 ");
}

static void of_the_snapshots_within_a_segment_two_stay(void **state)
{
    struct kit *kit = *state;
    kit_open(kit);
    for (int i = 0; i < 5; i++) {
        assert_int_equal(append(kit, ID, i, 1), 0);
        sync_and_checkpoint(kit);
    }
    assert_string_equal(snapshots(kit), "0 4 5 ");
    crash(kit);
    assert_int_equal(append(kit, ID, 5, 1), 0);
    sync_and_checkpoint(kit);
    assert_string_equal(snapshots(kit), "0 5 6 ");
}

static void a_recovery_point_waits_for_its_snapshot(void **state)
{
    struct kit *kit = *state;
    kit_open(kit);
    append_plain(kit);
    assert_int_equal(append(kit, ID, 0, 1), 0);
    assert_int_equal(kit_sync(kit), 0);
    kq_fault_arm(KQ_FAULT_OPEN | KQ_FAULT_WRITE | KQ_FAULT_SYNC | KQ_FAULT_RENAME, 1, EIO, true);
    checkpoint(kit);
    kq_fault_disarm();
    assert_int_equal(kit->checkpoint.recovery_point, 1);
    checkpoint(kit);
    assert_int_equal(kit->checkpoint.recovery_point, 2);
}

/* --- Segments --- */

static void a_segment_begins_with_a_snapshot_and_takes_it_along(void **state)
{
    struct kit *kit = *state;
    kit->config.segment_bytes = 1000;
    kit_open(kit);
    for (int i = 0; i < 20; i++)
        assert_int_equal(append_sized(kit, ID, 0, i, 1, 150, NULL), 0);
    assert_string_equal(snapshots(kit), "0 4 8 12 16 ");
    assert_int_equal(kq_log_delete_before(kit->log, 9), 0);
    assert_string_equal(snapshots(kit), "0 4 8 12 16 "); /* two may stay without theirs */
    assert_int_equal(kq_log_delete_before(kit->log, 17), 0);
    assert_string_equal(snapshots(kit), "8 12 16 ");
    crash(kit);
    struct kq_log_appended appended;
    assert_int_equal(append_sized(kit, ID, 0, 15, 1, 150, &appended), 0);
    assert_true(appended.duplicate);
    assert_int_equal(appended.base_offset, 15); /* gone, but known */
}

static void where_nothing_has_an_id_no_snapshots_come(void **state)
{
    struct kit *kit = *state;
    kit->config.segment_bytes = 1000;
    kit_open(kit);
    for (int i = 0; i < 50; i++)
        append_plain(kit);
    assert_string_equal(snapshots(kit), "0 ");
    assert_int_equal(kq_log_delete_before(kit->log, kit_end_offset(kit)), 0);
    kit_close(kit);
    assert_string_equal(snapshots(kit), "0 "); /* the last one stays: it says whose log this is */
}

/* How many reads an opening takes. */
static long count_reads(struct kit *kit)
{
    for (long n = 1;; n++) {
        kq_fault_arm(KQ_FAULT_READ, n, EIO, true);
        int r = kit_try_open(kit);
        bool failed = kq_fault_disarm();
        if (r == 0) {
            kq_log_close(kit->log);
            kit->log = NULL;
        }
        if (!failed)
            return n;
        assert_true(n < 1000);
    }
}

static void opening_does_not_read_what_lies_before(void **state)
{
    struct kit *kit = *state;
    long reads[2];
    kit_open(kit);
    assert_int_equal(append(kit, ID, 0, 1), 0);
    for (int round = 0; round < 2; round++) {
        for (int i = 0; i < 1000 * (1 + round * 8); i++)
            append_plain(kit);
        sync_and_checkpoint(kit);
        append_plain(kit);
        kit_crash(kit);
        reads[round] = count_reads(kit);
        kit_open(kit);
        assert_duplicate(kit, ID, 0, 1, 0);
    }
    assert_in_range(reads[1], 1, reads[0] + 20); /* one buffer of index entries is scanned */
}

/* --- Damage and loss --- */

static int reported;

static void tap(int priority, const char *line)
{
    reported += strstr(line, "producers at offset 24 cannot be read") != NULL;
}

static void a_damaged_snapshot_is_rebuilt_from_the_log_and_reported(void **state)
{
    struct kit *kit = *state;
    kq_diag_set_level(LOG_DEBUG);
    kit_open(kit);
    write_some(kit);
    sync_and_checkpoint(kit);
    append_plain(kit);
    kit_close(kit);
    damage(kit, "00000000000000000024.snapshot");
    kq_diag_set_tap(tap);
    kit_open(kit);
    kq_diag_set_tap(NULL);
    assert_int_equal(reported, 1);
    check_some(kit);
    crash(kit);
    check_some(kit);
}

static void missing_snapshots_are_rebuilt_from_the_log(void **state)
{
    struct kit *kit = *state;
    kit_open(kit);
    write_some(kit);
    kit_close(kit);
    remove_file(kit, "00000000000000000024.snapshot");
    remove_file(kit, "00000000000000000000.snapshot");
    kit_open(kit);
    check_some(kit);
    assert_string_equal(snapshots(kit), "24 ");
    crash(kit);
    check_some(kit);
}

/* A snapshot at a roll may be lost with the power until another was synced. */
static void one_that_a_crash_left_is_not_relied_upon(void **state)
{
    struct kit *kit = *state;
    kit->config.segment_bytes = 1000;
    kit_open(kit);
    for (int i = 0; i < 5; i++)
        assert_int_equal(append_sized(kit, ID, 0, i, 1, 150, NULL), 0);
    assert_string_equal(snapshots(kit), "0 4 ");
    kit_crash(kit); /* without a checkpoint */
    remove_file(kit, "00000000000000000004.log");
    remove_file(kit, "00000000000000000004.index");
    remove_file(kit, "00000000000000000004.timeindex");
    kit_open(kit); /* nothing is behind it */
    append_plain(kit);
    sync_and_checkpoint(kit);
    kit_crash(kit);
    remove_file(kit, "00000000000000000004.snapshot"); /* now the power fails */
    kit_open(kit);
    struct kq_log_appended appended;
    for (int i = 0; i < 4; i++) {
        assert_int_equal(append_sized(kit, ID, 0, i, 1, 150, &appended), 0);
        assert_true(appended.duplicate);
    }
}

/* Kafka has run since, and has died: it moves its recovery point on without a snapshot. */
static void kafkas_recovery_point_says_nothing_of_producers(void **state)
{
    struct kit *kit = *state;
    kit_open(kit);
    write_some(kit);
    assert_int_equal(kit_sync(kit), 0);
    kit_crash(kit);
    kit->checkpoint.recovery_point = 24;
    kit->checkpoint.epochs_begun = 3;
    kit_open(kit);
    check_some(kit);
    kit->checkpoint.epochs_begun = 0;
    checkpoint(kit);
    assert_string_equal(snapshots(kit), "0 24 ");
    crash(kit);
    check_some(kit);
}

/* The one at the last checkpoint is on disk; what the system had not written yet is gone. */
static void snapshots_behind_the_end_go_with_what_is_lost(void **state)
{
    struct kit *kit = *state;
    char path[256];
    kit->config.segment_bytes = 1 << 20;
    kit_open(kit);
    write_some(kit);
    sync_and_checkpoint(kit);
    int64_t synced = kit_size(kit, "00000000000000000000.log");
    assert_int_equal(append(kit, ID, 12, 2), 0);
    assert_int_equal(kit_sync(kit), 0);
    kq_log_checkpoint(kit->log); /* written, but not the broker's file that names the point */
    assert_string_equal(snapshots(kit), "0 24 26 ");
    kit_crash(kit);
    kit_path(kit, "00000000000000000000.log", path);
    assert_int_equal(truncate(path, synced), 0);
    kit_open(kit);
    assert_string_equal(snapshots(kit), "0 24 ");
    check_some(kit);
    assert_int_equal(append(kit, ID, 12, 1), 0);
    assert_int_equal(kit_end_offset(kit), 25);
}

/* The older snapshot must not be taken for all there is. */
static void on_a_full_disk_a_damaged_snapshot_stays_as_a_warning(void **state)
{
    struct kit *kit = *state;
    kit_open(kit);
    write_some(kit);
    sync_and_checkpoint(kit);
    kit_crash(kit);
    damage(kit, "00000000000000000024.snapshot");
    for (int round = 0; round < 2; round++) {
        kq_fault_arm(KQ_FAULT_WRITE, 1, ENOSPC, true);
        kit_open(kit);
        kq_fault_disarm();
        assert_string_equal(snapshots(kit), "0 24 ");
        check_some(kit);
        kit_crash(kit);
    }
    kit_open(kit);
    check_some(kit);
    damage(kit, "00000000000000000024.snapshot"); /* again, but the log does not end there now */
    append_plain(kit);
    crash(kit);
    assert_string_equal(snapshots(kit), "0 25 ");
    check_some(kit);
}

static void on_a_full_disk_a_snapshot_behind_the_end_is_not_believed(void **state)
{
    struct kit *kit = *state;
    char path[256];
    kit_open(kit);
    assert_int_equal(append(kit, ID, 0, 1), 0);
    sync_and_checkpoint(kit);
    int64_t synced = kit_size(kit, "00000000000000000000.log");
    assert_int_equal(append(kit, ID, 1, 1), 0);
    assert_int_equal(kit_sync(kit), 0);
    kq_log_checkpoint(kit->log);
    kit_crash(kit);
    kit_path(kit, "00000000000000000000.log", path);
    assert_int_equal(truncate(path, synced), 0);
    kq_fault_arm(KQ_FAULT_WRITE, 1, ENOSPC, true);
    kit_open(kit);
    kq_fault_disarm();
    append_plain(kit);
    assert_string_equal(snapshots(kit), "0 1 2 ");
    crash(kit);
    assert_int_equal(append(kit, ID, 1, 1), 0);
    assert_int_equal(kit_end_offset(kit), 3);
    assert_duplicate(kit, ID, 0, 1, 0);
}

static void a_log_without_its_files_knows_nobody(void **state)
{
    struct kit *kit = *state;
    kit_open(kit);
    write_some(kit);
    sync_and_checkpoint(kit);
    kit_crash(kit);
    remove_file(kit, "00000000000000000000.log");
    remove_file(kit, "00000000000000000000.index");
    remove_file(kit, "00000000000000000000.timeindex");
    kit_open(kit);
    assert_int_equal(kit_end_offset(kit), 24);
    check_some(kit); /* but for the snapshot, which still says what was there */
}

/* --- Faults: whatever fails, nothing that was acknowledged is taken twice --- */

static void try_life(struct kit *kit, long nth, bool *ret_failed)
{
    int32_t next = 0;
    int64_t offset_of[40];
    kit->config.segment_bytes = 1000;
    kit_open(kit);
    kq_fault_arm(KQ_FAULT_OPEN | KQ_FAULT_WRITE | KQ_FAULT_SYNC | KQ_FAULT_RENAME, nth, EIO, false);
    for (int i = 0; i < 12; i++) {
        struct kq_log_appended appended;
        if (append_sized(kit, ID, 0, next, 1, 150, &appended) == 0)
            offset_of[next++] = appended.base_offset;
        if (i == 6 && kit_sync(kit) == 0)
            checkpoint(kit);
    }
    *ret_failed = kq_fault_disarm();
    crash(kit);
    assert_true(next >= 5);
    for (int i = next - 5; i < next; i++) {
        struct kq_log_appended appended;
        assert_int_equal(append_sized(kit, ID, 0, i, 1, 150, &appended), 0);
        assert_true(appended.duplicate);
        assert_int_equal(appended.base_offset, offset_of[i]);
    }
    assert_int_equal(append_sized(kit, ID, 0, next, 1, 150, NULL), 0);
}

static void whatever_fails_nothing_is_taken_twice(void **state)
{
    bool failed = true;
    for (long nth = 1; failed; nth++) {
        struct kit kit;
        kit_begin_fast(&kit);
        try_life(&kit, nth, &failed);
        kit_end(&kit);
        assert_true(nth < 200);
    }
}

static void an_opening_that_fails_can_be_tried_again(void **state)
{
    struct kit *kit = *state;
    kit_open(kit);
    write_some(kit);
    sync_and_checkpoint(kit);
    assert_int_equal(append(kit, ID, 12, 2), 0);
    kit_crash(kit);
    for (long nth = 1;; nth++) {
        kq_fault_arm(KQ_FAULT_OPEN | KQ_FAULT_READ | KQ_FAULT_WRITE | KQ_FAULT_RENAME |
                         KQ_FAULT_MEMORY,
                     nth, EIO, false);
        int r = kit_try_open(kit);
        bool failed = kq_fault_disarm();
        if (r == 0) {
            for (int i = 2; i < 6; i++)
                assert_duplicate(kit, ID, 2 * i, 2, 4 * i);
            assert_duplicate(kit, ID, 12, 2, 24);
            kit_crash(kit);
        }
        if (!failed)
            break;
        assert_true(nth < 1000);
    }
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, kit_setup, kit_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_batch_sent_again_is_in_the_log_once),
        TEST(a_write_that_fails_was_never_there),
        TEST(without_memory_nothing_is_appended),
        TEST(a_duplicate_that_is_not_synced_must_be_where_the_topic_says_so),
        TEST(an_idle_producer_is_forgotten),
        TEST(after_a_clean_stop_they_are_known),
        TEST(after_a_crash_they_are_known),
        TEST(after_a_crash_behind_a_checkpoint_they_are_known),
        TEST(what_is_not_synced_needs_no_snapshot),
        TEST(of_the_snapshots_within_a_segment_two_stay),
        TEST(a_recovery_point_waits_for_its_snapshot),
        TEST(a_segment_begins_with_a_snapshot_and_takes_it_along),
        TEST(where_nothing_has_an_id_no_snapshots_come),
        TEST(opening_does_not_read_what_lies_before),
        TEST(a_damaged_snapshot_is_rebuilt_from_the_log_and_reported),
        TEST(missing_snapshots_are_rebuilt_from_the_log),
        TEST(one_that_a_crash_left_is_not_relied_upon),
        TEST(kafkas_recovery_point_says_nothing_of_producers),
        TEST(snapshots_behind_the_end_go_with_what_is_lost),
        TEST(on_a_full_disk_a_damaged_snapshot_stays_as_a_warning),
        TEST(on_a_full_disk_a_snapshot_behind_the_end_is_not_believed),
        TEST(a_log_without_its_files_knows_nobody),
        TEST(whatever_fails_nothing_is_taken_twice),
        TEST(an_opening_that_fails_can_be_tried_again),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
