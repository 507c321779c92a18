/* On the disk of the test directory: what the page cache has, and what it lacks. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <cmocka.h>

#include "broker/base/fault.h"
#include "net/resident.h"
#include "tests/unit/directory.h"

#define SIZE ((size_t)8 << 20)

static char path[DIRECTORY_BYTES];
static int fd;

static int setup(void **state)
{
    static uint8_t block[1 << 16];
    directory_make(path, NULL);
    fd = open(path, O_TMPFILE | O_RDWR, 0600);
    for (size_t done = 0; done < SIZE; done += sizeof(block))
        if (write(fd, block, sizeof(block)) != sizeof(block))
            return -1;
    return fsync(fd);
}

static int teardown(void **state)
{
    close(fd);
    return directory_remove(path);
}

static void what_was_just_written_is_there(void **state)
{
    assert_true(kq_resident(fd, 0, SIZE));
    assert_true(kq_resident(fd, 1, 1));
    assert_true(kq_resident(fd, 4095, 2));
    assert_true(kq_resident(fd, 0, 0));
}

static void what_was_dropped_is_not_until_it_is_read_in(void **state)
{
    struct statfs fs;
    assert_int_equal(fstatfs(fd, &fs), 0);
    if (fs.f_type == 0x01021994) /* tmpfs has no other place */
        skip();
    assert_int_equal(posix_fadvise(fd, 0, 0, POSIX_FADV_RANDOM), 0); /* no reading ahead */
    assert_int_equal(posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED), 0);
    assert_false(kq_resident(fd, 0, SIZE));
    assert_false(kq_resident(fd, 100, 1));
    assert_int_equal(kq_resident_make(fd, 1 << 20, 1 << 20, 0), 0);
    assert_true(kq_resident(fd, 1 << 20, 1 << 20));
    assert_false(kq_resident(fd, 0, SIZE));
    assert_false(kq_resident(fd, (1 << 20) - 4096, 8192));
    /* A hole in the middle. */
    assert_int_equal(kq_resident_make(fd, 0, SIZE, 0), 0);
    assert_true(kq_resident(fd, 0, SIZE));
    assert_int_equal(posix_fadvise(fd, 5 << 20, 1 << 20, POSIX_FADV_DONTNEED), 0);
    assert_false(kq_resident(fd, 0, SIZE));
    assert_true(kq_resident(fd, 0, 5 << 20));
}

static void a_page_that_is_still_being_read_is_not_there(void **state)
{
    kq_fault_arm(KQ_FAULT_READ, 1, EAGAIN, false);
    assert_false(kq_resident(fd, 0, SIZE));
    assert_true(kq_fault_disarm());
    kq_fault_arm(KQ_FAULT_READ, 2, EAGAIN, false);
    assert_false(kq_resident(fd, 0, SIZE));
    assert_true(kq_fault_disarm());
}

static void reading_in_may_fail(void **state)
{
    kq_fault_arm(KQ_FAULT_READ, 3, EIO, false);
    assert_int_equal(kq_resident_make(fd, 0, SIZE, 0), -EIO);
    assert_true(kq_fault_disarm());
    assert_int_equal(kq_resident_make(fd, (int64_t)SIZE - 10, 100, 0), 0); /* up to the end */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(what_was_just_written_is_there, setup, teardown),
        cmocka_unit_test_setup_teardown(what_was_dropped_is_not_until_it_is_read_in, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(a_page_that_is_still_being_read_is_not_there, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(reading_in_may_fail, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
