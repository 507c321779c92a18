/* Files that are torn, cut, flipped, foreign or missing: the log opens, says what it did, and
 * serves all that is intact. */
#include "log_kit.h"

#include "broker/base/crc32c.h"

#define BATCHES 60
#define PER_BATCH 2
#define VALUE 60
#define TEXT (VALUE + 1)
#define FIRST_LOG "00000000000000000000.log"

static char reported[8192];

static void remember(int priority, const char *line)
{
    size_t used = strlen(reported);
    snprintf(reported + used, sizeof(reported) - used, "%s\n", line);
}

static void append_batches(struct kit *kit, int from, int to)
{
    for (int i = from; i < to; i++)
        assert_int_equal(kit_append(kit, PER_BATCH, VALUE, 1000 + i * 10, i, true, NULL), 0);
}

/* A log of BATCHES batches in segments of SEGMENT_BYTES, closed. */
static void fill(struct kit *kit, int segment_bytes, bool clean)
{
    kit->config.segment_bytes = segment_bytes;
    kit->config.index_interval_bytes = 400;
    kit_open(kit);
    append_batches(kit, 0, BATCHES);
    if (clean)
        kit_close(kit);
    else
        kit_crash(kit);
}

static void edit(struct kit *kit, const char *name, int64_t position, uint8_t flip)
{
    char path[256];
    uint8_t byte;
    kit_path(kit, name, path);
    int fd = open(path, O_RDWR);
    assert_int_equal(pread(fd, &byte, 1, position), 1);
    byte ^= flip;
    assert_int_equal(pwrite(fd, &byte, 1, position), 1);
    close(fd);
}

static void cut(struct kit *kit, const char *name, int64_t length)
{
    char path[256];
    kit_path(kit, name, path);
    assert_int_equal(truncate(path, length), 0);
}

static void lose(struct kit *kit, const char *name)
{
    char path[256];
    kit_path(kit, name, path);
    assert_int_equal(unlink(path), 0);
}

static void write_file(struct kit *kit, const char *name, const char *text)
{
    char path[256];
    kit_path(kit, name, path);
    FILE *file = fopen(path, "w");
    fputs(text, file);
    fclose(file);
}

/* Every offset, text position and time of [START, END) leads to its batch. */
static void check_range(struct kit *kit, int64_t start, int64_t end)
{
    for (int64_t o = start; o < end; o++) {
        struct kq_extent extent;
        int64_t offset, timestamp, batch = o / PER_BATCH;
        assert_int_equal(kq_log_read(kit->log, o, 1, true, true, &extent), 0);
        assert_int_equal(extent.base_offset, batch * PER_BATCH);
        assert_int_equal(extent.text, batch * PER_BATCH * TEXT);
        kq_extent_unref(&extent);
        assert_int_equal(kq_log_read_text(kit->log, o * TEXT + 5, 1, true, &extent), 0);
        assert_int_equal(extent.base_offset, batch * PER_BATCH);
        assert_int_equal(extent.text, batch * PER_BATCH * TEXT);
        kq_extent_unref(&extent);
        assert_int_equal(kq_log_find_time(kit->log, 1000 + batch * 10, true, &offset, &timestamp),
                         0);
        assert_int_equal(offset, batch * PER_BATCH);
    }
}

static void check_whole(struct kit *kit, int batches)
{
    assert_int_equal(kit_end_offset(kit), batches * PER_BATCH);
    assert_int_equal(kit_read_all(kit, 0, NULL, NULL), batches);
    kit_text_bounds(kit, 0, batches * PER_BATCH * TEXT);
    check_range(kit, 0, batches * PER_BATCH);
}

/* Begins a new directory: for tests that go through many damages. */
static void again(struct kit *kit)
{
    kit_end(kit);
    kit_begin_fast(kit);
}

static int64_t last_batch_size(struct kit *kit, int64_t *ret_position)
{
    struct kq_extent extent;
    assert_int_equal(kq_log_read(kit->log, kit_end_offset(kit) - 1, 1, false, true, &extent), 0);
    int64_t length = extent.length;
    *ret_position = extent.position;
    kq_extent_unref(&extent);
    return length;
}

static void a_tail_cut_at_any_byte_loses_its_batch_only(void **state)
{
    struct kit *kit = *state;
    int64_t position;
    kit->config.index_interval_bytes = 400;
    kit_open(kit);
    append_batches(kit, 0, 5);
    int64_t size = last_batch_size(kit, &position);
    for (int64_t length = 0; length < size; length++) {
        for (int clean = 0; clean < 2; clean++) {
            again(kit);
            kit->config.index_interval_bytes = 400;
            kit_open(kit);
            append_batches(kit, 0, 5);
            if (clean)
                kit_close(kit);
            else
                kit_crash(kit);
            cut(kit, FIRST_LOG, position + length);
            kit->checkpoint.recovery_point = 0;
            kit_open(kit);
            assert_int_equal(kit->recovery.truncated_bytes, length);
            assert_int_equal(kit->recovery.damaged_segments, 0);
            check_whole(kit, 4);
            append_batches(kit, 4, 6);
            check_whole(kit, 6);
        }
    }
}

static void any_flipped_byte_costs_what_is_behind_and_that_is_kept_aside(void **state)
{
    struct kit *kit = *state;
    int64_t position;
    kit_open(kit);
    append_batches(kit, 0, 4);
    int64_t size = last_batch_size(kit, &position);
    assert_int_equal(position, 3 * size);
    for (int64_t at = size; at < 2 * size; at++) {
        /* Base offset and leader epoch are outside the checksum: a base offset shows, if at all, by
         * its neighbours; an epoch means nothing here. */
        if (at - size < 8 || (at - size >= 12 && at - size < 16))
            continue;
        again(kit);
        kit_open(kit);
        append_batches(kit, 0, 4);
        kit_crash(kit);
        edit(kit, FIRST_LOG, at, 0x10);
        kit_open(kit);
        check_whole(kit, 1);
        assert_int_equal(kit->recovery.truncated_bytes, 3 * size);
        assert_int_equal(kit->recovery.damaged_segments, 1);
        assert_int_equal(kit_size(kit, FIRST_LOG ".damaged"), 3 * size);
        append_batches(kit, 1, 8);
        check_whole(kit, 8);
    }
}

static void damage_in_a_sealed_segment_hides_that_place_only(void **state)
{
    struct kit *kit = *state;
    for (int clean = 0; clean < 2; clean++) {
        for (int what = 0; what < 3; what++) {
            static const int64_t at[] = {8 + 3, 16, 70}; /* of the batch: length, magic, a record */
            struct kq_extent extent;
            again(kit);
            fill(kit, 3000, clean);
            int64_t size = kit_size(kit, FIRST_LOG);
            kit_open(kit);
            assert_int_equal(kq_log_read(kit->log, 6, 1, false, true, &extent), 0);
            int64_t position = extent.position;
            kq_extent_unref(&extent);
            if (clean)
                kit_close(kit);
            else
                kit_crash(kit);
            edit(kit, FIRST_LOG, position + at[what], 0x08);
            kit_open(kit);
            assert_int_equal(kit->recovery.damaged_segments, !clean);
            assert_int_equal(kit_size(kit, FIRST_LOG), size);
            assert_int_equal(kit_end_offset(kit), BATCHES * PER_BATCH);
            for (int64_t o = 0; o < BATCHES * PER_BATCH; o++) {
                int r = kq_log_read(kit->log, o, 1, false, true, &extent);
                assert_true(r == 0 || (r == -EBADMSG && o >= 6 && o < 12));
                if (r == 0) {
                    assert_int_equal(extent.base_offset, o / PER_BATCH * PER_BATCH);
                    kq_extent_unref(&extent);
                }
            }
            struct kq_log_text_bounds text;
            assert_int_equal(kq_log_text_bounds(kit->log, true, &text), 0);
            assert_int_equal(text.end, BATCHES * PER_BATCH * TEXT);
            assert_int_equal(kq_log_read(kit->log, 100, 1, true, true, &extent), 0);
            assert_int_equal(extent.text, 100 * TEXT);
            kq_extent_unref(&extent);
        }
    }
}

static void damage_before_the_recovery_point_does_not_cost_what_is_behind(void **state)
{
    struct kit *kit = *state;
    struct kq_extent extent;
    fill(kit, 1 << 20, false);
    kit->checkpoint.recovery_point = BATCHES * PER_BATCH;
    edit(kit, FIRST_LOG, 3 * 200 + 80, 0x10);
    kit_open(kit);
    assert_int_equal(kit->recovery.damaged_segments, 1);
    assert_int_equal(kit->recovery.truncated_bytes, 0);
    assert_int_equal(kit_end_offset(kit), BATCHES * PER_BATCH);
    for (int64_t o = 12; o < BATCHES * PER_BATCH; o++) {
        assert_int_equal(kq_log_read(kit->log, o, 1, false, true, &extent), 0);
        assert_int_equal(extent.base_offset, o / PER_BATCH * PER_BATCH);
        kq_extent_unref(&extent);
    }
}

static int64_t position_of(struct kit *kit, int64_t offset)
{
    struct kq_extent extent;
    kit_open(kit);
    assert_int_equal(kq_log_read(kit->log, offset, 1, false, true, &extent), 0);
    int64_t position = extent.position;
    kq_extent_unref(&extent);
    kit_close(kit);
    return position;
}

/* Of BATCHES batches only the one with offsets 6 and 7 cannot be read. */
static void check_all_but_6_and_7(struct kit *kit)
{
    struct kq_extent extent;
    for (int64_t o = 0; o < BATCHES * PER_BATCH; o++) {
        int r = kq_log_read(kit->log, o, 1, false, true, &extent);
        assert_int_equal(r, o == 6 || o == 7 ? -EBADMSG : 0);
        if (r == 0) {
            assert_int_equal(extent.base_offset, o / PER_BATCH * PER_BATCH);
            kq_extent_unref(&extent);
        }
    }
}

/* No checksum covers it: its neighbours tell. */
static void any_flipped_bit_of_a_synced_base_offset_costs_its_batch_only(void **state)
{
    struct kit *kit = *state;
    for (int bit = 0; bit < 64; bit++) {
        for (int clean = 0; clean < 2; clean++) {
            again(kit);
            fill(kit, 1 << 20, true);
            int64_t position = position_of(kit, 6);
            edit(kit, FIRST_LOG, position + 7 - bit / 8, (uint8_t)(1 << bit % 8));
            kit->checkpoint.clean = clean;
            kit_open(kit);
            assert_int_equal(kit_end_offset(kit), BATCHES * PER_BATCH);
            append_batches(kit, BATCHES, BATCHES + 1);
            kit_close(kit);
            kit->checkpoint.clean = false;
            kit_open(kit);
            assert_int_equal(kit->recovery.damaged_segments, 1);
            assert_int_equal(kit->recovery.truncated_bytes, 0);
            assert_int_equal(kit_end_offset(kit), (BATCHES + 1) * PER_BATCH);
            check_all_but_6_and_7(kit);
        }
    }
}

/* Makes the batch at POSITION claim offsets up to its first + DELTA, under a checksum that holds.
 */
static void claim(struct kit *kit, int64_t position, uint32_t delta)
{
    struct kq_batch_header header;
    uint8_t bytes[1024];
    char path[256];
    kit_path(kit, FIRST_LOG, path);
    int fd = open(path, O_RDWR);
    ssize_t n = pread(fd, bytes, sizeof(bytes), position);
    assert_int_equal(kq_batch_header_read(bytes, (size_t)n, &header), 0);
    assert_true(header.size <= (size_t)n);
    kq_store_be32(bytes + 23, delta);
    kq_store_be32(bytes + 17,
                  kq_crc32c(0, bytes + KQ_BATCH_CRC_FROM, header.size - KQ_BATCH_CRC_FROM));
    assert_int_equal(pwrite(fd, bytes, header.size, position), header.size);
    close(fd);
}

static void a_synced_batch_that_claims_offsets_behind_the_end_hides_nothing(void **state)
{
    struct kit *kit = *state;
    struct kq_extent extent;
    for (int damaged = 0; damaged < 3; damaged++) {
        again(kit);
        fill(kit, 1 << 20, true);
        int64_t next = position_of(kit, 8), third = position_of(kit, 10);
        claim(kit, position_of(kit, 6), 1 << 20);
        if (damaged == 1)
            edit(kit, FIRST_LOG, next + 16, 0x10);
        if (damaged == 2) {
            edit(kit, FIRST_LOG, next + 4, 0x01); /* behind what is claimed */
            edit(kit, FIRST_LOG, third + 16, 0x10);
        }
        kit->checkpoint.clean = false;
        kit_open(kit);
        assert_int_equal(kit_end_offset(kit), BATCHES * PER_BATCH);
        assert_int_equal(kit->recovery.truncated_bytes, 0);
        check_range(kit, 0, 6);
        assert_int_equal(kq_log_read(kit->log, 30, 1, false, true, &extent), 0);
        assert_int_equal(extent.base_offset, 30);
        kq_extent_unref(&extent);
    }
}

static void a_recovery_point_within_a_batch_costs_nothing(void **state)
{
    struct kit *kit = *state;
    fill(kit, 1 << 20, true);
    kit->checkpoint = (struct kq_log_checkpoint){.recovery_point = 7, .log_start = -1};
    kit_open(kit);
    check_whole(kit, BATCHES);
}

static void a_last_batch_with_a_wrong_base_offset_is_kept_aside(void **state)
{
    struct kit *kit = *state;
    struct kq_log_appended appended;
    fill(kit, 1 << 20, true);
    int64_t end = BATCHES * PER_BATCH, position = position_of(kit, end - 1);
    int64_t size = kit_size(kit, FIRST_LOG) - position;
    edit(kit, FIRST_LOG, position + 5, 0x08);
    kit->checkpoint.clean = false;
    kit_open(kit);
    assert_int_equal(kit->recovery.damaged_segments, 1);
    assert_int_equal(kit_size(kit, FIRST_LOG ".damaged"), size);
    assert_int_equal(kit_append(kit, 1, 10, 1, 1, true, &appended), 0);
    assert_int_equal(appended.base_offset, end);
    kit_close(kit);
    kit->checkpoint.clean = false;
    kit_open(kit);
    assert_int_equal(kit_end_offset(kit), end + 1);
}

static void what_a_sealed_segment_loses_at_its_end_is_kept_aside(void **state)
{
    struct kit *kit = *state;
    struct kq_log_range second;
    fill(kit, 3000, true);
    kit_open(kit);
    assert_int_equal(kq_log_next_range(kit->log, 1, true, &second), 0);
    kit_close(kit);
    int64_t position = position_of(kit, second.base_offset - 1);
    int64_t size = kit_size(kit, FIRST_LOG) - position;
    edit(kit, FIRST_LOG, position + 5, 0x08);
    kit->checkpoint = (struct kq_log_checkpoint){.log_start = -1};
    kit_open(kit);
    assert_int_equal(kit->recovery.damaged_segments, 1);
    assert_int_equal(kit->recovery.truncated_bytes, size);
    assert_int_equal(kit_size(kit, FIRST_LOG ".damaged"), size);
    assert_int_equal(kit_end_offset(kit), BATCHES * PER_BATCH);
}

static const char *const index_names[] = {"00000000000000000000.index",
                                          "00000000000000000000.timeindex",
                                          "00000000000000000000.textindex"};

static void an_index_that_is_missing_is_no_loss(void **state)
{
    struct kit *kit = *state;
    for (size_t i = 0; i < kq_array_size(index_names); i++) {
        for (int way = 0; way < 4; way++) {
            again(kit);
            fill(kit, way & 1 ? 3000 : 1 << 20, way & 2);
            char path[256];
            kit_path(kit, index_names[i], path);
            unlink(path);
            kit_open(kit);
            check_whole(kit, BATCHES);
            append_batches(kit, BATCHES, BATCHES + 20);
            check_whole(kit, BATCHES + 20);
        }
    }
}

static void an_index_cut_anywhere_is_no_loss(void **state)
{
    struct kit *kit = *state;
    for (size_t i = 0; i < kq_array_size(index_names); i++) {
        for (int way = 0; way < 4; way++) {
            int64_t size = 1;
            for (int64_t length = 0; length < size; length += 5) {
                again(kit);
                fill(kit, way & 1 ? 3000 : 1 << 20, way & 2);
                size = kit_size(kit, index_names[i]);
                if (size <= 0)
                    break;
                cut(kit, index_names[i], length);
                kit_open(kit);
                check_whole(kit, BATCHES);
            }
        }
    }
}

static void an_index_with_any_flipped_byte_is_no_loss(void **state)
{
    struct kit *kit = *state;
    for (size_t i = 0; i < kq_array_size(index_names); i++) {
        for (int way = 0; way < 4; way++) {
            int64_t size = 1;
            for (int64_t at = 0; at < size; at += 3) {
                again(kit);
                fill(kit, way & 1 ? 3000 : 1 << 20, way & 2);
                size = kit_size(kit, index_names[i]);
                if (size <= 0)
                    break;
                edit(kit, index_names[i], at, 0x41);
                kit_open(kit);
                check_whole(kit, BATCHES);
            }
        }
    }
}

static void an_index_of_garbage_is_no_loss(void **state)
{
    struct kit *kit = *state;
    for (size_t i = 0; i < kq_array_size(index_names); i++) {
        for (int way = 0; way < 4; way++) {
            again(kit);
            fill(kit, way & 1 ? 3000 : 1 << 20, way & 2);
            write_file(kit, index_names[i],
                       "This is not an index, though it is as long as one may well be, and odd.");
            kit_open(kit);
            check_whole(kit, BATCHES);
        }
    }
}

static void all_text_indexes_lost_means_text_is_counted_anew(void **state)
{
    struct kit *kit = *state;
    char command[256];
    fill(kit, 3000, true);
    snprintf(command, sizeof(command), "rm %s/" KIT_LOG "/*.textindex", kit->directory);
    assert_int_equal(system(command), 0);
    kit_open(kit);
    check_whole(kit, BATCHES);
}

static void text_positions_stay_when_the_first_text_index_is_lost_after_retention(void **state)
{
    struct kit *kit = *state;
    struct kq_log_range range;
    char name[64];
    fill(kit, 3000, true);
    kit_open(kit);
    assert_int_equal(kq_log_next_range(kit->log, 30, true, &range), 0);
    int64_t start = range.base_offset;
    assert_int_equal(kq_log_delete_before(kit->log, start), 0);
    kit_text_bounds(kit, start * TEXT, BATCHES * PER_BATCH * TEXT);
    kit_close(kit);
    snprintf(name, sizeof(name), "%020ld.textindex", (long)start);
    lose(kit, name);
    kit_open(kit);
    kit_text_bounds(kit, start * TEXT, BATCHES * PER_BATCH * TEXT);
    check_range(kit, start, BATCHES * PER_BATCH);
}

static void a_missing_middle_segment_is_a_reported_gap(void **state)
{
    struct kit *kit = *state;
    struct kq_log_range first, second;
    struct kq_extent extent;
    char name[64];
    fill(kit, 3000, true);
    kit_open(kit);
    assert_int_equal(kq_log_next_range(kit->log, 1, true, &first), 0);
    assert_int_equal(kq_log_next_range(kit->log, first.next_offset, true, &second), 0);
    kit_close(kit);
    snprintf(name, sizeof(name), "%020ld.log", (long)first.base_offset);
    lose(kit, name);
    kq_diag_set_level(LOG_WARNING);
    kq_diag_set_tap(remember);
    reported[0] = 0;
    kit_open(kit);
    kq_diag_set_tap(NULL);
    assert_non_null(strstr(reported, name));
    assert_int_equal(kq_log_read(kit->log, first.base_offset, 1, true, true, &extent), 0);
    assert_int_equal(extent.base_offset, second.base_offset);
    assert_int_equal(extent.text, second.base_offset * TEXT);
    kq_extent_unref(&extent);
    int lost = (int)(first.next_offset - first.base_offset) / PER_BATCH;
    assert_int_equal(kit_read_all(kit, 0, NULL, NULL), BATCHES - lost);
}

static void offsets_are_not_given_twice_when_the_last_files_are_missing(void **state)
{
    struct kit *kit = *state;
    struct kq_log_appended appended;
    fill(kit, 1 << 20, true);
    lose(kit, FIRST_LOG);
    kit_open(kit);
    assert_int_equal(kit_append(kit, 1, 10, 1, 1, true, &appended), 0);
    assert_int_equal(appended.base_offset, BATCHES * PER_BATCH);
    kit_close(kit);
    kit->checkpoint.recovery_point = 1000;
    kit_open(kit);
    assert_int_equal(kit_append(kit, 1, 10, 1, 1, true, &appended), 0);
    assert_int_equal(appended.base_offset, 1000);
    assert_int_equal(kit_read_all(kit, BATCHES * PER_BATCH, NULL, NULL), 2);
}

static void foreign_names_are_reported_and_left_alone(void **state)
{
    struct kit *kit = *state;
    char path[256];
    fill(kit, 1 << 20, false);
    write_file(kit, "notes.txt", "hello");
    write_file(kit, "0000000000000000000.log", "hello");
    write_file(kit, "99999999999999999999.log", "hello");
    write_file(kit, "kqfs-tmp.1.1", "hello");
    kit_path(kit, "00000000000000009999.log", path);
    mkdir(path, 0700);
    kq_diag_set_level(LOG_WARNING);
    kq_diag_set_tap(remember);
    reported[0] = 0;
    kit_open(kit);
    kq_diag_set_tap(NULL);
    assert_non_null(strstr(reported, "notes.txt"));
    assert_non_null(strstr(reported, "/0000000000000000000.log"));
    assert_non_null(strstr(reported, "99999999999999999999.log"));
    assert_non_null(strstr(reported, "00000000000000009999.log"));
    assert_int_equal(kit_size(kit, "notes.txt"), 5);
    assert_int_equal(kit_size(kit, "kqfs-tmp.1.1"), -1);
    check_whole(kit, BATCHES);
}

static void recovery_reads_the_tail_only(void **state)
{
    struct kit *kit = *state;
    kit->config.index_interval_bytes = 400;
    kit_open(kit);
    append_batches(kit, 0, 3000);
    assert_int_equal(kit_sync(kit), 0);
    append_batches(kit, 3000, 3010);
    kit->checkpoint.recovery_point = 3000 * PER_BATCH;
    int64_t size = kit_size(kit, FIRST_LOG);
    kit_crash(kit);
    kit_open(kit);
    assert_true(kit->recovery.scanned_bytes < size / 3);
    check_range(kit, 5800, 3010 * PER_BATCH);
}

static int setup(void **state)
{
    kq_diag_set_level(LOG_EMERG);
    kq_diag_set_tap(NULL);
    struct kit *kit = malloc(sizeof(*kit));
    kit_begin_fast(kit);
    *state = kit;
    return 0;
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, kit_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_tail_cut_at_any_byte_loses_its_batch_only),
        TEST(any_flipped_byte_costs_what_is_behind_and_that_is_kept_aside),
        TEST(damage_in_a_sealed_segment_hides_that_place_only),
        TEST(damage_before_the_recovery_point_does_not_cost_what_is_behind),
        TEST(any_flipped_bit_of_a_synced_base_offset_costs_its_batch_only),
        TEST(a_synced_batch_that_claims_offsets_behind_the_end_hides_nothing),
        TEST(a_recovery_point_within_a_batch_costs_nothing),
        TEST(a_last_batch_with_a_wrong_base_offset_is_kept_aside),
        TEST(what_a_sealed_segment_loses_at_its_end_is_kept_aside),
        TEST(an_index_that_is_missing_is_no_loss),
        TEST(an_index_cut_anywhere_is_no_loss),
        TEST(an_index_with_any_flipped_byte_is_no_loss),
        TEST(an_index_of_garbage_is_no_loss),
        TEST(all_text_indexes_lost_means_text_is_counted_anew),
        TEST(text_positions_stay_when_the_first_text_index_is_lost_after_retention),
        TEST(a_missing_middle_segment_is_a_reported_gap),
        TEST(offsets_are_not_given_twice_when_the_last_files_are_missing),
        TEST(foreign_names_are_reported_and_left_alone),
        TEST(recovery_reads_the_tail_only),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
