/* What is kept of passwords: in memory, on disk, and after whatever happened to the file. */
#include "broker/users.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "broker/userstore.h"

static char path[] = "/tmp/kqfs-users-XXXXXX";
static int dirfd_;
static struct kq_users *users;
static struct kq_scram_credential one = {.iterations = 4096, .salt_length = 3, .salt = "abc"};

static void open_users(void)
{
    assert_int_equal(kq_users_open(2, dirfd_, &users), 0);
}

static int set_up(void **state)
{
    strcpy(path + strlen(path) - 6, "XXXXXX");
    assert_non_null(mkdtemp(path));
    dirfd_ = open(path, O_RDONLY | O_DIRECTORY);
    open_users();
    return 0;
}

static int tear_down(void **state)
{
    kq_users_close(users);
    unlinkat(dirfd_, KQ_USERS_FILE, 0);
    unlinkat(dirfd_, KQ_USERS_FILE ".damaged", 0);
    close(dirfd_);
    rmdir(path);
    return 0;
}

static int set(const char *name, enum kq_scram_hash hash, const struct kq_scram_credential *what)
{
    struct kq_user_change change = {name, hash, what};
    return kq_users_alter(users, &change, 1);
}

static void reopen(void)
{
    kq_users_close(users);
    open_users();
}

static bool has(const char *name, enum kq_scram_hash hash)
{
    struct kq_scram_credential found;
    return kq_user_find(users, name, hash, &found) == 0 && memcmp(&found, &one, sizeof(one)) == 0;
}

static void test_what_was_set_is_there_after_a_start(void **state)
{
    assert_int_equal(set("alice", KQ_SCRAM_SHA_256, &one), 0);
    assert_int_equal(set("b b%/\xc3\xa4", KQ_SCRAM_SHA_512, &one), 0);
    reopen();
    assert_true(has("alice", KQ_SCRAM_SHA_256));
    assert_false(has("alice", KQ_SCRAM_SHA_512));
    assert_true(has("b b%/\xc3\xa4", KQ_SCRAM_SHA_512));
    assert_int_equal(set("alice", KQ_SCRAM_SHA_256, NULL), 0);
    reopen();
    assert_false(has("alice", KQ_SCRAM_SHA_256));
    assert_true(has("b b%/\xc3\xa4", KQ_SCRAM_SHA_512));
}

static void test_the_secret_stays_and_the_file_is_the_owners_alone(void **state)
{
    uint8_t before[KQ_USERS_SECRET_BYTES], after[KQ_USERS_SECRET_BYTES];
    struct stat st;
    kq_users_secret(users, before);
    reopen();
    kq_users_secret(users, after);
    assert_memory_equal(before, after, sizeof(before));
    assert_int_equal(fstatat(dirfd_, KQ_USERS_FILE, &st, 0), 0);
    assert_int_equal(st.st_mode & 07777, 0600);
}

static void test_what_cannot_be_is_refused_and_changes_nothing(void **state)
{
    struct kq_scram_credential few = one;
    few.iterations = 4095;
    assert_int_equal(set("", KQ_SCRAM_SHA_256, &one), -EINVAL);
    assert_int_equal(set("a\nb", KQ_SCRAM_SHA_256, &one), -EINVAL);
    assert_int_equal(set("a", KQ_SCRAM_SHA_256, &few), -EINVAL);
    assert_int_equal(set("a", KQ_SCRAM_SHA_256, NULL), -ENOENT);
    assert_int_equal(set("a", KQ_SCRAM_SHA_256, &one), 0);
    assert_int_equal(set("b", KQ_SCRAM_SHA_256, &one), 0);
    assert_int_equal(set("c", KQ_SCRAM_SHA_256, &one), -EDQUOT);
    struct kq_user_change both[] = {{"a", KQ_SCRAM_SHA_256, NULL}, {"c", KQ_SCRAM_SHA_256, NULL}};
    assert_int_equal(kq_users_alter(users, both, 2), -ENOENT);
    assert_true(has("a", KQ_SCRAM_SHA_256));
    reopen();
    assert_true(has("a", KQ_SCRAM_SHA_256) && has("b", KQ_SCRAM_SHA_256));
    assert_false(has("c", KQ_SCRAM_SHA_256));
}

static void test_fewer_users_may_be_than_are_there(void **state)
{
    assert_int_equal(set("a", KQ_SCRAM_SHA_256, &one), 0);
    assert_int_equal(set("b", KQ_SCRAM_SHA_256, &one), 0);
    kq_users_close(users);
    assert_int_equal(kq_users_open(1, dirfd_, &users), 0);
    assert_true(has("a", KQ_SCRAM_SHA_256) && has("b", KQ_SCRAM_SHA_256));
    assert_int_equal(set("b", KQ_SCRAM_SHA_512, &one), 0);
    assert_int_equal(set("c", KQ_SCRAM_SHA_256, &one), -EDQUOT);
    assert_int_equal(faccessat(dirfd_, KQ_USERS_FILE ".damaged", F_OK, 0), -1);
}

static int open_file(void)
{
    int fd = openat(dirfd_, KQ_USERS_FILE, O_RDWR);
    assert_true(fd >= 0);
    return fd;
}

static void test_a_change_that_a_crash_has_cut_off_has_not_happened(void **state)
{
    struct stat st;
    assert_int_equal(set("alice", KQ_SCRAM_SHA_256, &one), 0);
    int fd = open_file();
    fstat(fd, &st);
    off_t whole = st.st_size;
    assert_int_equal(set("bob", KQ_SCRAM_SHA_256, &one), 0);
    fstat(fd, &st);
    for (off_t size = st.st_size - 1; size >= whole; size -= 7) {
        assert_int_equal(ftruncate(fd, size), 0);
        reopen();
        assert_true(has("alice", KQ_SCRAM_SHA_256));
        assert_false(has("bob", KQ_SCRAM_SHA_256));
    }
    assert_int_equal(set("bob", KQ_SCRAM_SHA_512, &one), 0);
    reopen();
    assert_true(has("alice", KQ_SCRAM_SHA_256) && has("bob", KQ_SCRAM_SHA_512));
    close(fd);
}

static void test_a_last_change_that_is_not_whole_is_left_out(void **state)
{
    struct stat st;
    static const char zeros[100];
    assert_int_equal(set("alice", KQ_SCRAM_SHA_256, &one), 0);
    int fd = open_file();
    assert_int_equal(fstat(fd, &st), 0);
    assert_int_equal(set("bob", KQ_SCRAM_SHA_256, &one), 0);
    assert_int_equal(pwrite(fd, zeros, sizeof(zeros), st.st_size), sizeof(zeros));
    reopen();
    assert_true(has("alice", KQ_SCRAM_SHA_256));
    assert_false(has("bob", KQ_SCRAM_SHA_256));
    assert_int_equal(set("carol", KQ_SCRAM_SHA_512, &one), 0);
    reopen();
    assert_true(has("alice", KQ_SCRAM_SHA_256) && has("carol", KQ_SCRAM_SHA_512));
    assert_int_equal(faccessat(dirfd_, KQ_USERS_FILE ".damaged", F_OK, 0), -1);
    close(fd);
}

static void test_a_damaged_file_is_put_aside(void **state)
{
    assert_int_equal(set("alice", KQ_SCRAM_SHA_256, &one), 0);
    assert_int_equal(set("bob", KQ_SCRAM_SHA_256, &one), 0);
    int fd = open_file();
    assert_int_equal(pwrite(fd, "f", 1, 250), 1);
    assert_int_equal(pwrite(fd, "e", 1, 251), 1);
    close(fd);
    reopen();
    assert_false(has("alice", KQ_SCRAM_SHA_256) || has("bob", KQ_SCRAM_SHA_256));
    assert_int_equal(faccessat(dirfd_, KQ_USERS_FILE ".damaged", F_OK, 0), 0);
    assert_int_equal(set("bob", KQ_SCRAM_SHA_256, &one), 0);
    reopen();
    assert_true(has("bob", KQ_SCRAM_SHA_256));
}

static void test_the_file_does_not_grow_for_ever(void **state)
{
    struct stat st;
    for (int i = 0; i < 1000; i++)
        assert_int_equal(set("alice", KQ_SCRAM_SHA_512, &one), 0);
    assert_int_equal(fstatat(dirfd_, KQ_USERS_FILE, &st, 0), 0);
    assert_true(st.st_size < 100000);
    reopen();
    assert_true(has("alice", KQ_SCRAM_SHA_512));
}

static void test_lines_are_read_as_they_are_written(void **state)
{
    struct kq_buf text = {0};
    struct kq_scram_credential read;
    enum kq_scram_hash hash;
    assert_int_equal(kq_credential_format(KQ_SCRAM_SHA_512, &one, &text), 0);
    assert_int_equal(kq_credential_parse((char *)text.data, text.length - 1, &hash, &read), 0);
    assert_int_equal(hash, KQ_SCRAM_SHA_512);
    assert_memory_equal(&read, &one, sizeof(one));
    for (size_t cut = 0; cut < text.length - 1; cut++)
        assert_int_equal(kq_credential_parse((char *)text.data, cut, &hash, &read), -EINVAL);
    kq_buf_release(&text);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_what_was_set_is_there_after_a_start),
        TEST(test_the_secret_stays_and_the_file_is_the_owners_alone),
        TEST(test_what_cannot_be_is_refused_and_changes_nothing),
        TEST(test_fewer_users_may_be_than_are_there),
        TEST(test_a_change_that_a_crash_has_cut_off_has_not_happened),
        TEST(test_a_last_change_that_is_not_whole_is_left_out),
        TEST(test_a_damaged_file_is_put_aside),
        TEST(test_the_file_does_not_grow_for_ever),
        TEST(test_lines_are_read_as_they_are_written),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
