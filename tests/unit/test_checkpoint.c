#include "tests/unit/ground.h"

#include "broker/base/fault.h"
#include "broker/checkpoint.h"

static int dirfd_of(struct ground *ground)
{
    int fd = open(ground->path, O_RDONLY | O_DIRECTORY);
    assert_true(fd >= 0);
    return fd;
}

static void what_was_written_is_found(void **state)
{
    kq_autoclose int fd = dirfd_of(*state);
    struct kq_checkpoint_writer writer = {0};
    struct kq_checkpoint checkpoint = {0};
    assert_int_equal(kq_checkpoint_add(&writer, "orders", 10, 4711), 0);
    assert_int_equal(kq_checkpoint_add(&writer, "orders", 2, INT64_MAX), 0);
    assert_int_equal(kq_checkpoint_add(&writer, "bills", 0, 0), 0);
    assert_int_equal(kq_checkpoint_write(&writer, fd, "c"), 0);
    assert_int_equal(kq_checkpoint_read(fd, "c", &checkpoint), 0);
    assert_int_equal(checkpoint.count, 3);
    assert_int_equal(kq_checkpoint_find(&checkpoint, "orders", 10, -1), 4711);
    assert_int_equal(kq_checkpoint_find(&checkpoint, "orders", 2, -1), INT64_MAX);
    assert_int_equal(kq_checkpoint_find(&checkpoint, "bills", 0, -1), 0);
    assert_int_equal(kq_checkpoint_find(&checkpoint, "orders", 1, -1), -1);
    assert_int_equal(kq_checkpoint_find(&checkpoint, "order", 2, -5), -5);
    kq_checkpoint_release(&checkpoint);
}

static void the_text_is_kafkas(void **state)
{
    kq_autoclose int fd = dirfd_of(*state);
    struct kq_checkpoint_writer writer = {0};
    char text[64] = "";
    assert_int_equal(kq_checkpoint_add(&writer, "orders", 1, 42), 0);
    assert_int_equal(kq_checkpoint_write(&writer, fd, "c"), 0);
    int file = openat(fd, "c", O_RDONLY);
    assert_true(read(file, text, sizeof(text) - 1) > 0);
    close(file);
    assert_string_equal(text, "0\n1\norders 1 42\n");
}

static void an_empty_one_is_fine_and_a_missing_one_is_told(void **state)
{
    kq_autoclose int fd = dirfd_of(*state);
    struct kq_checkpoint_writer writer = {0};
    struct kq_checkpoint checkpoint = {0};
    assert_int_equal(kq_checkpoint_read(fd, "c", &checkpoint), -ENOENT);
    assert_int_equal(kq_checkpoint_find(&checkpoint, "orders", 0, 7), 7);
    assert_int_equal(kq_checkpoint_write(&writer, fd, "c"), 0);
    assert_int_equal(kq_checkpoint_read(fd, "c", &checkpoint), 0);
    assert_int_equal(kq_checkpoint_find(&checkpoint, "orders", 0, 7), 7);
    kq_checkpoint_release(&checkpoint);
}

static void what_is_no_checkpoint_is_refused(void **state)
{
    static const char *const texts[] = {
        "",
        "0",
        "0\n",
        "1\n0\n",
        "0\n1\n",
        "0\n-1\n",
        "0\n2\na 0 1\n",
        "0\n1\na 0 1\nb 0 1\n",
        "0\n0\n\n",
        "0\n1\na 0 1",
        "0\n1\na 0 -1\n",
        "0\n1\na -1 0\n",
        "0\n1\na 0\n",
        "0\n1\na 0 1 2\n",
        "0\n1\n 0 1\n",
        "0\n1\na 0 9223372036854775808\n",
        "0\n1\na 4294967296 1\n",
        "0\n2147483647\na 0 1\n",
        "x\n0\n",
    };
    struct kq_checkpoint checkpoint = {0};
    kq_autoclose int fd = dirfd_of(*state);
    for (size_t i = 0; i < kq_array_size(texts); i++) {
        ground_write(*state, "c", texts[i]);
        assert_int_equal(kq_checkpoint_read(fd, "c", &checkpoint), -EBADMSG);
        assert_null(checkpoint.entries);
    }
}

static void after_any_failure_the_old_one_stands(void **state)
{
    kq_autoclose int fd = dirfd_of(*state);
    struct kq_checkpoint_writer writer = {0};
    struct kq_checkpoint checkpoint = {0};
    assert_int_equal(kq_checkpoint_add(&writer, "a", 0, 1), 0);
    assert_int_equal(kq_checkpoint_write(&writer, fd, "c"), 0);
    bool delivered = true;
    for (long nth = 1; delivered; nth++) {
        kq_fault_arm(~0u, nth, EIO, false);
        int r = kq_checkpoint_add(&writer, "a", 0, 2);
        if (r == 0)
            r = kq_checkpoint_write(&writer, fd, "c");
        delivered = kq_fault_disarm();
        kq_buf_release(&writer.lines);
        writer.count = 0;
        assert_int_equal(r < 0, delivered);
        assert_int_equal(kq_checkpoint_read(fd, "c", &checkpoint), 0);
        assert_int_equal(kq_checkpoint_find(&checkpoint, "a", 0, -1), delivered ? 1 : 2);
        kq_checkpoint_release(&checkpoint);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        GROUND_TEST(what_was_written_is_found),
        GROUND_TEST(the_text_is_kafkas),
        GROUND_TEST(an_empty_one_is_fine_and_a_missing_one_is_told),
        GROUND_TEST(what_is_no_checkpoint_is_refused),
        GROUND_TEST(after_any_failure_the_old_one_stands),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
