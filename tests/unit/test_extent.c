#include "log_kit.h"

#include "broker/base/crc32c.h"
#include "broker/file.h"

static struct kq_file_place place_of(struct kit *kit, unsigned max_open)
{
    mkdirat(kit->shared.dirfd, KIT_LOG, 0700);
    return (struct kq_file_place){
        .dirfd = kit->shared.dirfd, .max_open = max_open, .directory = KIT_LOG};
}

static void only_so_many_unused_files_stay_open(void **state)
{
    struct kit *kit = *state;
    struct kq_file_place place = place_of(kit, 5);
    struct kq_file *files[30];
    int fd;
    for (int i = 0; i < 30; i++) {
        assert_int_equal(kq_file_new(&place, i, KQ_FILE_LOG, &files[i]), 0);
        assert_int_equal(kq_file_use(files[i], KQ_FILE_CREATE, &fd), 0);
        kq_file_done(files[i]);
        assert_true(kq_file_open_count() <= 6);
    }
    for (int i = 0; i < 30; i++)
        kq_file_unref(files[i]);
    assert_int_equal(kq_file_open_count(), 0);
}

static void a_used_file_stays_open_above_the_limit(void **state)
{
    struct kit *kit = *state;
    struct kq_file_place place = place_of(kit, 2);
    struct kq_file *files[10];
    int fds[10];
    for (int i = 0; i < 10; i++) {
        assert_int_equal(kq_file_new(&place, i, KQ_FILE_LOG, &files[i]), 0);
        assert_int_equal(kq_file_use(files[i], KQ_FILE_CREATE, &fds[i]), 0);
    }
    assert_int_equal(kq_file_open_count(), 10);
    for (int i = 0; i < 10; i++) {
        kq_file_trim(files[i]);
        kq_file_trim(files[i]);
        assert_true(fcntl(fds[i], F_GETFD) >= 0);
        kq_file_done(files[i]);
        kq_file_trim(files[i]);
        assert_int_equal(kq_file_open_count(), 9 - i);
        kq_file_unref(files[i]);
    }
}

static void a_closed_file_opens_again_unless_the_caller_may_not_wait(void **state)
{
    struct kit *kit = *state;
    struct kq_file_place place = place_of(kit, 5);
    struct kq_file *file;
    int fd;
    assert_int_equal(kq_file_new(&place, 7, KQ_FILE_INDEX, &file), 0);
    assert_int_equal(kq_file_use(file, 0, &fd), -ENOENT);
    assert_int_equal(kq_file_use(file, KQ_FILE_CREATE | KQ_FILE_NO_BLOCK, &fd), KQ_WOULD_BLOCK);
    assert_int_equal(kq_file_use(file, KQ_FILE_CREATE, &fd), 0);
    kq_file_done(file);
    assert_int_equal(kq_file_use(file, KQ_FILE_NO_BLOCK, &fd), 0);
    kq_file_done(file);
    assert_int_equal(kit_size(kit, "00000000000000000007.index"), 0);
    kq_file_unref(file);
}

static void what_is_not_a_regular_file_is_refused(void **state)
{
    struct kit *kit = *state;
    struct kq_file_place place = place_of(kit, 5);
    struct kq_file *file;
    int fd;
    symlinkat("elsewhere", kit->shared.dirfd, KIT_LOG "/00000000000000000007.log");
    mkdirat(kit->shared.dirfd, KIT_LOG "/00000000000000000008.log", 0700);
    for (int i = 7; i < 9; i++) {
        assert_int_equal(kq_file_new(&place, i, KQ_FILE_LOG, &file), 0);
        assert_int_equal(kq_file_use(file, KQ_FILE_CREATE, &fd), -EINVAL);
        kq_file_unref(file);
    }
}

static void a_copied_extent_is_released_on_its_own(void **state)
{
    struct kit *kit = *state;
    struct kq_extent extent, copy;
    kit_open(kit);
    assert_int_equal(kit_append(kit, 1, 100, 1, 1, true, NULL), 0);
    assert_int_equal(kq_log_read(kit->log, 0, 1000, false, true, &extent), 0);
    copy = extent;
    kq_extent_ref(&copy);
    kq_extent_unref(&extent);
    assert_null(extent.owner);
    kq_extent_unref(&extent);
    kit_close(kit);
    assert_true(fcntl(copy.fd, F_GETFD) >= 0);
    kq_extent_unref(&copy);
    assert_int_equal(kq_file_open_count(), 0);
}

/* --- What is known to be good --- */

static void count_known(void *context, const struct kq_extent *extent,
                        const struct kq_batch_header *header, int64_t position)
{
    *(int *)context += kq_extent_is_verified(extent, position, header->size);
}

static void verify(void *context, const struct kq_extent *extent,
                   const struct kq_batch_header *header, int64_t position)
{
    *(int *)context += kq_extent_verify(extent, position, header, header->crc) == 0;
}

/* Calls SEEN for each batch from OFFSET on; returns what they made of *CONTEXT, which begins with
 * 0.
 */
static int each_batch(struct kit *kit, int64_t offset,
                      void (*seen)(void *context, const struct kq_extent *extent,
                                   const struct kq_batch_header *header, int64_t position))
{
    struct kq_extent extent, next;
    uint8_t bytes[KQ_BATCH_HEADER];
    int count = 0;
    int r = kq_log_read(kit->log, offset, UINT32_MAX, false, true, &extent);
    while (r == 0) {
        for (int64_t at = extent.position; at < extent.position + extent.length;) {
            struct kq_batch_header header;
            assert_int_equal(pread(extent.fd, bytes, sizeof(bytes), at), sizeof(bytes));
            assert_int_equal(kq_batch_header_read(bytes, sizeof(bytes), &header), 0);
            seen(&count, &extent, &header, at);
            at += header.size;
        }
        r = kq_log_read_next(kit->log, &extent, UINT32_MAX, &next);
        kq_extent_unref(&extent);
        extent = next;
    }
    return count;
}

static void append_many(struct kit *kit, int count)
{
    for (int i = 0; i < count; i++)
        assert_int_equal(kit_append(kit, 1, 1000, 1, i, true, NULL), 0);
}

static void what_this_process_appended_is_good_in_every_segment(void **state)
{
    struct kit *kit = *state;
    kit->config.segment_bytes = 20000;
    kit_open(kit);
    append_many(kit, 100);
    assert_int_equal(each_batch(kit, 0, count_known), 100);
}

static void what_was_there_before_is_not_known_to_be_good(void **state)
{
    struct kit *kit = *state;
    kit->config.segment_bytes = 20000;
    kit_open(kit);
    append_many(kit, 100);
    kit_close(kit);
    kit_open(kit);
    /* but for what the opening reads behind the last entry of the index */
    int known = each_batch(kit, 0, count_known);
    assert_true(known < 6);
    append_many(kit, 30);
    assert_int_equal(each_batch(kit, 0, count_known), known + 30);
    assert_int_equal(each_batch(kit, 100, count_known), 30);
}

static void what_recovery_checked_is_good(void **state)
{
    struct kit *kit = *state;
    kit->config.segment_bytes = 20000;
    kit_open(kit);
    append_many(kit, 100);
    kit_crash(kit);
    kit->checkpoint.recovery_point = 0;
    kit_open(kit);
    assert_int_equal(each_batch(kit, 0, count_known), 100);
}

static void damage_that_recovery_passed_is_not_taken_for_good(void **state)
{
    struct kit *kit = *state;
    char path[256];
    kit_open(kit);
    append_many(kit, 100);
    kit_crash(kit);
    kit->checkpoint.recovery_point = 100;
    kit_path(kit, "00000000000000000000.log", path);
    int fd = open(path, O_RDWR);
    int64_t size = kit_size(kit, "00000000000000000000.log");
    assert_int_equal(pwrite(fd, "!", 1, size / 2), 1);
    close(fd);
    kit_open(kit);
    int known = each_batch(kit, 0, count_known);
    assert_true(known > 40 && known < 60);
    assert_int_equal(each_batch(kit, 100 - known, count_known), known);
}

static void what_a_reader_verified_stays_known_while_the_log_is_open(void **state)
{
    struct kit *kit = *state;
    kit->config.segment_bytes = 20000;
    kit->shared.max_open_files = 2;
    kit_open(kit);
    append_many(kit, 100);
    kit_close(kit);
    kit_open(kit);
    assert_true(each_batch(kit, 0, count_known) < 6);
    assert_int_equal(each_batch(kit, 0, verify), 100);
    assert_int_equal(each_batch(kit, 0, count_known), 100);
    kit_close(kit);
    kit_open(kit);
    assert_true(each_batch(kit, 0, count_known) < 6);
}

/* In a sealed segment of batches of ten, the one of 20 says on disk that it ends with 24. */
static void shorten_a_batch(struct kit *kit, bool with_checksum)
{
    struct kq_extent extent;
    uint8_t bytes[2000];
    kit->config.index_interval_bytes = 1 << 30;
    kit->config.segment_bytes = 10000;
    kit_open(kit);
    for (int i = 0; i < 10; i++)
        assert_int_equal(kit_append(kit, 10, 100, 1, i, true, NULL), 0);
    assert_int_equal(kq_log_read(kit->log, 20, 1, false, true, &extent), 0);
    assert_int_equal(pread(extent.fd, bytes, extent.length, extent.position), extent.length);
    kq_store_be32(bytes + 23, 4);
    kq_store_be32(bytes + 57, 5);
    if (with_checksum)
        kq_store_be32(bytes + 17,
                      kq_crc32c(0, bytes + KQ_BATCH_CRC_FROM, extent.length - KQ_BATCH_CRC_FROM));
    assert_int_equal(pwrite(extent.fd, bytes, extent.length, extent.position), extent.length);
    kq_extent_unref(&extent);
    kit_close(kit);
    kit_open(kit);
}

static void messages_that_a_damaged_header_denies_are_damage_and_not_a_gap(void **state)
{
    struct kit *kit = *state;
    struct kq_extent extent;
    shorten_a_batch(kit, false);
    assert_int_equal(kq_log_read(kit->log, 27, 1, false, true, &extent), -EBADMSG);
    assert_int_equal(kq_log_read(kit->log, 33, 1, false, true, &extent), 0);
    assert_int_equal(extent.base_offset, 30);
    kq_extent_unref(&extent);
}

static void a_gap_that_is_one_is_passed_over(void **state)
{
    struct kit *kit = *state;
    struct kq_extent extent;
    shorten_a_batch(kit, true);
    assert_int_equal(kq_log_read(kit->log, 27, 1, false, true, &extent), 0);
    assert_int_equal(extent.base_offset, 30);
    kq_extent_unref(&extent);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, kit_setup, kit_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(only_so_many_unused_files_stay_open),
        TEST(a_used_file_stays_open_above_the_limit),
        TEST(a_closed_file_opens_again_unless_the_caller_may_not_wait),
        TEST(what_is_not_a_regular_file_is_refused),
        TEST(a_copied_extent_is_released_on_its_own),
        TEST(what_this_process_appended_is_good_in_every_segment),
        TEST(what_was_there_before_is_not_known_to_be_good),
        TEST(what_recovery_checked_is_good),
        TEST(damage_that_recovery_passed_is_not_taken_for_good),
        TEST(what_a_reader_verified_stays_known_while_the_log_is_open),
        TEST(messages_that_a_damaged_header_denies_are_damage_and_not_a_gap),
        TEST(a_gap_that_is_one_is_passed_over),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
