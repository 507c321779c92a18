/* GETXATTR, SETXATTR, LISTXATTR and REMOVEXATTR. */
#include "tests/unit/kernel.h"

#include <linux/limits.h>
#include <sys/xattr.h>

#define RETENTION "user.kqfs.retention.ms"
#define ACCESS "system.posix_acl_access"
#define DEFAULT "system.posix_acl_default"

/* Length of the value, or -errno. */
static int get(struct kernel *kernel, const char *path, const char *name, char *ret, uint32_t room)
{
    struct fuse_getxattr_in in = {.size = room};
    struct fuse_getxattr_out out = {0};
    uint64_t node = kernel_node(kernel, path);
    ssize_t n = kernel_call(kernel, name ? FUSE_GETXATTR : FUSE_LISTXATTR, node, &in, sizeof(in),
                            name, name ? strlen(name) + 1 : 0, room ? ret : (char *)&out,
                            room ? room : sizeof(out));
    kernel_forget(kernel, node);
    return n < 0 || room ? (int)n : (int)out.size;
}

static int set_bytes(struct kernel *kernel, const char *path, const char *name, const void *value,
                     size_t size, int flags)
{
    /* As without FUSE_SETXATTR_EXT: two numbers, the name, the value. */
    const uint32_t in[2] = {(uint32_t)size, (uint32_t)flags};
    uint64_t node = kernel_node(kernel, path);
    size_t length = strlen(name) + 1;
    char *tail = malloc(length + size);
    memcpy(tail, name, length);
    memcpy(tail + length, value, size);
    ssize_t n =
        kernel_call(kernel, FUSE_SETXATTR, node, in, sizeof(in), tail, length + size, NULL, 0);
    free(tail);
    kernel_forget(kernel, node);
    return (int)n;
}

static int set(struct kernel *kernel, const char *path, const char *name, const char *value,
               int flags)
{
    return set_bytes(kernel, path, name, value, strlen(value), flags);
}

static int drop(struct kernel *kernel, const char *path, const char *name)
{
    uint64_t node = kernel_node(kernel, path);
    int r = kernel_simple(kernel, FUSE_REMOVEXATTR, node, NULL, 0, name);
    kernel_forget(kernel, node);
    return r;
}

static void assert_value(struct kernel *kernel, const char *path, const char *name,
                         const char *expected)
{
    char value[256] = "";
    int n = get(kernel, path, name, value, sizeof(value) - 1);
    assert_int_equal(n, strlen(expected));
    value[n] = '\0';
    assert_string_equal(value, expected);
}

static void a_topic_shows_every_setting_and_lists_its_own(void **state)
{
    struct kernel *kernel = *state;
    char names[1024];
    assert_value(kernel, "orders", RETENTION, "604800000");
    assert_value(kernel, "orders", "user.kqfs.delimiter", "\\n");
    assert_int_equal(get(kernel, "orders", NULL, names, sizeof(names)), 0);
    assert_int_equal(set(kernel, "orders", RETENTION, "60000", 0), 0);
    assert_value(kernel, "orders", RETENTION, "60000");
    assert_int_equal(get(kernel, "orders", NULL, names, sizeof(names)), sizeof(RETENTION));
    assert_string_equal(names, RETENTION);
    assert_int_equal(drop(kernel, "orders", RETENTION), 0);
    assert_value(kernel, "orders", RETENTION, "604800000");
}

static void sizes_are_as_in_getxattr(void **state)
{
    struct kernel *kernel = *state;
    char value[16];
    assert_int_equal(get(kernel, "orders", RETENTION, NULL, 0), 9);
    assert_int_equal(get(kernel, "orders", RETENTION, value, 8), -ERANGE);
    assert_int_equal(get(kernel, "orders", RETENTION, value, 9), 9);
    assert_int_equal(set(kernel, "orders", RETENTION, "1", 0), 0);
    assert_int_equal(get(kernel, "orders", NULL, NULL, 0), sizeof(RETENTION));
    assert_int_equal(get(kernel, "orders", NULL, value, 4), -ERANGE);
}

static void flags_are_as_in_setxattr(void **state)
{
    struct kernel *kernel = *state;
    assert_int_equal(set(kernel, "orders", RETENTION, "1", XATTR_REPLACE), -ENODATA);
    assert_int_equal(set(kernel, "orders", RETENTION, "1", XATTR_CREATE), 0);
    assert_int_equal(set(kernel, "orders", RETENTION, "2", XATTR_CREATE), -EEXIST);
    assert_int_equal(set(kernel, "orders", RETENTION, "3", XATTR_REPLACE), 0);
    assert_value(kernel, "orders", RETENTION, "3");
    assert_int_equal(drop(kernel, "orders", RETENTION), 0);
    assert_int_equal(drop(kernel, "orders", RETENTION), -ENODATA);
}

static void a_bad_value_or_name_changes_nothing(void **state)
{
    struct kernel *kernel = *state;
    assert_int_equal(set(kernel, "orders", RETENTION, "soon", 0), -EINVAL);
    assert_int_equal(set_bytes(kernel, "orders", RETENTION, "1\0", 2, 0), -EINVAL);
    assert_int_equal(set(kernel, "orders", RETENTION, "", 0), -EINVAL);
    assert_int_equal(set(kernel, "orders", "user.kqfs.no.such", "1", 0), -EOPNOTSUPP);
    assert_int_equal(set(kernel, "orders", "user.mime_type", "x", 0), -EOPNOTSUPP);
    assert_int_equal(set(kernel, "orders", "security.selinux", "x", 0), -EOPNOTSUPP);
    assert_int_equal(set(kernel, "orders", "user.kqfs.delimiter", "", 0), -EINVAL);
    assert_value(kernel, "orders", RETENTION, "604800000");
    assert_int_equal(get(kernel, "orders", NULL, NULL, 0), 0);
}

static void a_value_longer_than_any_is_refused(void **state)
{
    struct kernel *kernel = *state;
    char *value = calloc(1, XATTR_SIZE_MAX + 1);
    memset(value, '1', XATTR_SIZE_MAX + 1);
    assert_int_equal(set_bytes(kernel, "orders", RETENTION, value, XATTR_SIZE_MAX + 1, 0), -E2BIG);
    assert_int_equal(set_bytes(kernel, "orders", RETENTION, value, XATTR_SIZE_MAX, 0), -EINVAL);
    free(value);
}

static void a_partition_shows_its_bounds_and_takes_none(void **state)
{
    static const char *const names[] = {"start", "end", "high_watermark", "bytes"};
    struct kernel *kernel = *state;
    char name[64], list[256], expected[256] = "";
    size_t length = 0;
    assert_int_equal(kernel_append(kernel, "orders/p0", "one\ntwo\nhalf"), 0);
    assert_value(kernel, "orders/p0", "user.kqfs.start", "0");
    assert_value(kernel, "orders/p0", "user.kqfs.end", "3");
    assert_value(kernel, "orders/p0.log", "user.kqfs.high_watermark", "3");
    for (size_t i = 0; i < kq_array_size(names); i++) {
        snprintf(name, sizeof(name), "user.kqfs.%s", names[i]);
        length += (size_t)sprintf(expected + length, "%s", name) + 1;
        assert_int_equal(set(kernel, "orders/p0", name, "9", 0), -EPERM);
        assert_int_equal(drop(kernel, "orders/p0", name), -EPERM);
    }
    assert_int_equal(get(kernel, "orders/p0", NULL, list, sizeof(list)), length);
    assert_memory_equal(list, expected, length);
    assert_int_equal(set(kernel, "orders/p0", RETENTION, "9", 0), -EOPNOTSUPP);
    assert_int_equal(get(kernel, "orders/p0.stream", "user.kqfs.end", NULL, 0), -EOPNOTSUPP);
    assert_int_equal(get(kernel, "orders/by-offset", "user.kqfs.end", NULL, 0), -EOPNOTSUPP);
}

static void who_may_not_configure_is_refused(void **state)
{
    struct kernel *kernel = *state;
    kernel->ground.denied = ~0u;
    assert_int_equal(set(kernel, "orders", RETENTION, "1", 0), -EACCES);
    kernel->ground.denied = 0;
    assert_value(kernel, "orders", RETENTION, "604800000");
}

/* --- ACLs --- */

/* user::rw- user:7:rw- group::r-- mask::rw- other::--- */
static const uint8_t acl[] = {2,  0, 0, 0,                         //
                              1,  0, 6, 0, 0xff, 0xff, 0xff, 0xff, //
                              2,  0, 6, 0, 7,    0,    0,    0,    //
                              4,  0, 4, 0, 0xff, 0xff, 0xff, 0xff, //
                              16, 0, 6, 0, 0xff, 0xff, 0xff, 0xff, //
                              32, 0, 0, 0, 0xff, 0xff, 0xff, 0xff};

static mode_t mode_of(struct kernel *kernel, const char *path)
{
    struct fuse_attr_out out;
    uint64_t node = kernel_node(kernel, path);
    assert_int_equal(kernel_getattr(kernel, node, &out), 0);
    kernel_forget(kernel, node);
    return out.attr.mode & 07777;
}

static void an_acl_is_kept_shown_and_is_the_mode(void **state)
{
    struct kernel *kernel = *state;
    uint8_t back[64];
    assert_int_equal(get(kernel, "orders/p0", ACCESS, NULL, 0), -ENODATA);
    assert_int_equal(set_bytes(kernel, "orders/p0", ACCESS, acl, sizeof(acl), 0), 0);
    assert_int_equal(mode_of(kernel, "orders/p0"), 0660);
    assert_int_equal(get(kernel, "orders/p0", ACCESS, (char *)back, sizeof(back)), sizeof(acl));
    assert_memory_equal(back, acl, sizeof(acl));
    assert_int_equal(get(kernel, "orders/p0.stream", ACCESS, NULL, 0), sizeof(acl));
    assert_int_equal(drop(kernel, "orders/p0", ACCESS), 0);
    assert_int_equal(get(kernel, "orders/p0", ACCESS, NULL, 0), -ENODATA);
}

static void a_default_acl_is_for_directories_that_store_it(void **state)
{
    struct kernel *kernel = *state;
    char names[256] = "";
    assert_int_equal(set_bytes(kernel, "orders/p0", DEFAULT, acl, sizeof(acl), 0), -EACCES);
    assert_int_equal(drop(kernel, "orders/p0", DEFAULT), 0);
    assert_int_equal(set_bytes(kernel, "orders", DEFAULT, acl, sizeof(acl), 0), 0);
    assert_int_equal(get(kernel, "orders", DEFAULT, NULL, 0), sizeof(acl));
    assert_int_equal(get(kernel, "orders/by-time", DEFAULT, NULL, 0), -ENODATA);
    assert_true(get(kernel, "orders", NULL, names, sizeof(names)) > 0);
    assert_string_equal(names, DEFAULT);
    assert_int_equal(drop(kernel, "orders", DEFAULT), 0);
    assert_int_equal(get(kernel, "orders", DEFAULT, NULL, 0), -ENODATA);
}

static void acls_of_what_shows_another_cannot_be_set(void **state)
{
    static const char *const paths[] = {"orders/append", "orders/p0.log", "orders/by-offset",
                                        ".kqfs/metrics"};
    struct kernel *kernel = *state;
    for (size_t i = 0; i < kq_array_size(paths); i++)
        assert_int_equal(set_bytes(kernel, paths[i], ACCESS, acl, sizeof(acl), 0), -EPERM);
    assert_int_equal(set_bytes(kernel, "orders", ACCESS, acl, sizeof(acl) - 1, 0), -EINVAL);
}

static void without_the_kernels_help_no_acl_is_stored(void **state)
{
    struct kernel *kernel = *state;
    kernel->fs.posix_acl = false;
    assert_int_equal(set_bytes(kernel, "orders", ACCESS, acl, sizeof(acl), 0), -EOPNOTSUPP);
    assert_int_equal(get(kernel, "orders", ACCESS, NULL, 0), -EOPNOTSUPP);
    assert_int_equal(get(kernel, "orders", NULL, NULL, 0), 0);
}

static void an_acl_of_one_who_is_not_in_the_group_drops_setgid(void **state)
{
    struct kernel *kernel = *state;
    const struct kq_attributes setgid = {.uid = 1000, .gid = 4321, .mode = S_ISGID | 0777};
    struct kq_topic *topic = ground_find(&kernel->ground, "orders");
    assert_int_equal(kq_attributes_set(kernel->ground.broker, topic, NULL, &ground_caller, &setgid),
                     0);
    assert_int_equal(set_bytes(kernel, "orders", ACCESS, acl, sizeof(acl), 0), 0); /* by root */
    assert_true(mode_of(kernel, "orders") & S_ISGID);
    kernel->who.uid = kernel->who.gid = 1000;
    assert_int_equal(set_bytes(kernel, "orders", DEFAULT, acl, sizeof(acl), 0), 0);
    assert_true(mode_of(kernel, "orders") & S_ISGID);
    kernel->who.gid = 4321;
    assert_int_equal(set_bytes(kernel, "orders", ACCESS, acl, sizeof(acl), 0), 0);
    assert_true(mode_of(kernel, "orders") & S_ISGID);
    kernel->who.gid = 1000;
    assert_int_equal(set_bytes(kernel, "orders", ACCESS, acl, sizeof(acl), 0), 0);
    assert_false(mode_of(kernel, "orders") & S_ISGID);
    kq_topic_unref(topic);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        KERNEL_TEST(a_topic_shows_every_setting_and_lists_its_own),
        KERNEL_TEST(sizes_are_as_in_getxattr),
        KERNEL_TEST(flags_are_as_in_setxattr),
        KERNEL_TEST(a_bad_value_or_name_changes_nothing),
        KERNEL_TEST(a_value_longer_than_any_is_refused),
        KERNEL_TEST(a_partition_shows_its_bounds_and_takes_none),
        KERNEL_TEST(who_may_not_configure_is_refused),
        KERNEL_TEST(an_acl_is_kept_shown_and_is_the_mode),
        KERNEL_TEST(a_default_acl_is_for_directories_that_store_it),
        KERNEL_TEST(acls_of_what_shows_another_cannot_be_set),
        KERNEL_TEST(without_the_kernels_help_no_acl_is_stored),
        KERNEL_TEST(an_acl_of_one_who_is_not_in_the_group_drops_setgid),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
