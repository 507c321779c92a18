#include "log_kit.h"

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

#define TEST(name) cmocka_unit_test_setup_teardown(name, kit_setup, kit_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(only_so_many_unused_files_stay_open),
        TEST(a_used_file_stays_open_above_the_limit),
        TEST(a_closed_file_opens_again_unless_the_caller_may_not_wait),
        TEST(what_is_not_a_regular_file_is_refused),
        TEST(a_copied_extent_is_released_on_its_own),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
