/* Disk I/O: whole reads and writes, faults, and files that are replaced at once or not at all. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "broker/base/fault.h"
#include "broker/base/io.h"
#include "tests/unit/directory.h"

static int dir = -1;
static char path[DIRECTORY_BYTES];

static int make_directory(void **state)
{
    directory_make(path, NULL);
    dir = open(path, O_RDONLY | O_DIRECTORY);
    return dir < 0 ? -1 : 0;
}

/* Names in the directory; removed as they are counted. */
static int empty_directory(void)
{
    int count = 0;
    DIR *list = fdopendir(openat(dir, ".", O_RDONLY | O_DIRECTORY));
    for (struct dirent *entry; (entry = readdir(list));)
        if (entry->d_name[0] != '.') {
            count++;
            unlinkat(dir, entry->d_name, 0);
        }
    closedir(list);
    return count;
}

static int remove_directory(void **state)
{
    close(dir);
    return directory_remove(path);
}

static void reads_and_writes_are_whole(void **state)
{
    char bytes[20] = {0};
    kq_autoclose int fd = kq_io_open(dir, "file", O_RDWR | O_CREAT, 0600);
    assert_true(fd >= 0);
    assert_true(fcntl(fd, F_GETFD) & FD_CLOEXEC);
    assert_int_equal(kq_io_pwrite(fd, "0123456789", 10, 5), 0);
    assert_int_equal(kq_io_pread(fd, bytes, 20, 3), 12);
    assert_memory_equal(bytes, "\0\0000123456789", 12);
    assert_int_equal(kq_io_pread(fd, bytes, 4, 15), 0);
    assert_int_equal(kq_io_truncate(fd, 7), 0);
    assert_int_equal(kq_io_pread(fd, bytes, 20, 0), 7);
    assert_int_equal(kq_io_datasync(fd), 0);
    assert_int_equal(kq_io_sync(fd), 0);
    assert_int_equal(kq_io_pread(-1, bytes, 1, 0), -EBADF);
    assert_int_equal(kq_io_open(dir, "none", O_RDONLY, 0), -ENOENT);
}

static void many_parts_are_written_behind_each_other(void **state)
{
    enum { PARTS = 3000 }; /* more than one writev(2) takes */
    static struct iovec parts[PARTS];
    static char all[PARTS * 3];
    kq_autoclose int fd = kq_io_open(dir, "parts", O_RDWR | O_CREAT, 0600);
    for (int i = 0; i < PARTS; i++)
        parts[i] = (struct iovec){.iov_base = "abc", .iov_len = (size_t)(i % 4)};
    assert_int_equal(kq_io_pwritev(fd, parts, PARTS, 0), 0);
    ssize_t length = kq_io_pread(fd, all, sizeof(all), 0);
    assert_int_equal(length, PARTS / 4 * 6);
    for (ssize_t i = 0; i < length; i += 6)
        assert_memory_equal(all + i, "aababc", 6);
}

static void what_the_cache_holds_is_read_at_once(void **state)
{
    char bytes[8] = {0};
    kq_autoclose int fd = kq_io_open(dir, "cached", O_RDWR | O_CREAT, 0600);
    assert_int_equal(kq_io_pwrite(fd, "12345", 5, 0), 0);
    assert_int_equal(kq_io_pread_cached(fd, bytes, 8, 0), 5);
    assert_memory_equal(bytes, "12345", 5);
    assert_int_equal(kq_io_pread_cached(fd, bytes, 8, 5), 0);
}

static void reserved_space_does_not_change_the_size(void **state)
{
    struct stat st;
    kq_autoclose int fd = kq_io_open(dir, "reserved", O_RDWR | O_CREAT, 0600);
    int r = kq_io_reserve(fd, 0, 1 << 20);
    assert_true(r == 0 || r == -EOPNOTSUPP);
    assert_int_equal(fstat(fd, &st), 0);
    assert_int_equal(st.st_size, 0);
    if (r == 0)
        assert_true(st.st_blocks * 512 >= 1 << 20);
}

static void each_call_reports_the_fault_that_was_asked_for(void **state)
{
    char bytes[8];
    kq_autoclose int fd = kq_io_open(dir, "faults", O_RDWR | O_CREAT, 0600);
    kq_fault_arm(~0u, 1, EDQUOT, true);
    assert_int_equal(kq_io_open(dir, "faults", O_RDONLY, 0), -EDQUOT);
    assert_int_equal(kq_io_pread(fd, bytes, 8, 0), -EDQUOT);
    assert_int_equal(kq_io_pread_cached(fd, bytes, 8, 0), -EDQUOT);
    assert_int_equal(kq_io_pwrite(fd, bytes, 8, 0), -EDQUOT);
    assert_int_equal(kq_io_datasync(fd), -EDQUOT);
    assert_int_equal(kq_io_sync(fd), -EDQUOT);
    assert_int_equal(kq_io_sync_dir(dir), -EDQUOT);
    assert_int_equal(kq_io_truncate(fd, 0), -EDQUOT);
    assert_int_equal(kq_io_reserve(fd, 0, 1), -EDQUOT);
    assert_int_equal(kq_io_rename(dir, "faults", dir, "other"), -EDQUOT);
    assert_int_equal(kq_io_unlink(dir, "faults", false), -EDQUOT);
    assert_int_equal(kq_io_mkdir(dir, "directory", 0700), -EDQUOT);
    assert_true(kq_fault_disarm());
    assert_int_equal(faccessat(dir, "faults", F_OK, 0), 0);
}

static void slurp_reads_regular_files_within_the_limit(void **state)
{
    kq_autobuf struct kq_buf buf = {0};
    assert_int_equal(kq_io_replace(dir, "slurped", "12345", 5, 0600), 0);
    assert_int_equal(kq_buf_append(&buf, "x", 1), 0);
    assert_int_equal(kq_io_slurp(dir, "slurped", 5, &buf), 0);
    assert_int_equal(buf.length, 6);
    assert_memory_equal(buf.data, "x12345", 6);
    assert_int_equal(kq_io_slurp(dir, "slurped", 4, &buf), -EFBIG);
    assert_int_equal(kq_io_slurp(dir, "none", 4, &buf), -ENOENT);
    assert_int_equal(kq_io_slurp(dir, ".", 4096, &buf), -EINVAL);
    assert_int_equal(symlinkat("slurped", dir, "link"), 0);
    assert_int_equal(kq_io_slurp(dir, "link", 5, &buf), -ELOOP);
    assert_int_equal(buf.length, 6);
}

/* Whatever fails: the old content or the new, whole, and nothing beside it. */
static void a_file_is_replaced_whole_or_not_at_all(void **state)
{
    for (long nth = 1;; nth++) {
        kq_autobuf struct kq_buf buf = {0};
        struct stat st;
        empty_directory();
        assert_int_equal(kq_io_replace(dir, "name", "old", 3, 0640), 0);
        kq_fault_arm(~(unsigned)KQ_FAULT_MEMORY, nth, EIO, false);
        int r = kq_io_replace(dir, "name", "newer", 5, 0640);
        bool failed = kq_fault_disarm();
        assert_int_equal(r, failed ? -EIO : 0);
        assert_int_equal(kq_io_slurp(dir, "name", 100, &buf), 0);
        assert_true((buf.length == 3 && memcmp(buf.data, "old", 3) == 0) ||
                    (buf.length == 5 && memcmp(buf.data, "newer", 5) == 0));
        if (!failed)
            assert_int_equal(buf.length, 5);
        assert_int_equal(fstatat(dir, "name", &st, 0), 0);
        assert_int_equal(empty_directory(), 1);
        if (!failed)
            break;
        assert_true(nth < 50);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_and_writes_are_whole),
        cmocka_unit_test(many_parts_are_written_behind_each_other),
        cmocka_unit_test(what_the_cache_holds_is_read_at_once),
        cmocka_unit_test(reserved_space_does_not_change_the_size),
        cmocka_unit_test(each_call_reports_the_fault_that_was_asked_for),
        cmocka_unit_test(slurp_reads_regular_files_within_the_limit),
        cmocka_unit_test(a_file_is_replaced_whole_or_not_at_all),
    };
    return cmocka_run_group_tests(tests, make_directory, remove_directory);
}
