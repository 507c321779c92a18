/* GETATTR and SETATTR. */
#include "tests/unit/kernel.h"

#include <dirent.h>

#include "fs/attr.h"

static struct fuse_attr attributes_of(struct kernel *kernel, const char *path)
{
    uint64_t node = kernel_node(kernel, path);
    struct fuse_attr_out out;
    assert_int_equal(kernel_getattr(kernel, node, &out), 0);
    kernel_forget(kernel, node);
    return out.attr;
}

static int set(struct kernel *kernel, const char *path, const struct fuse_setattr_in *in,
               struct fuse_attr_out *ret)
{
    uint64_t node = kernel_node(kernel, path);
    struct fuse_attr_out out;
    ssize_t n = kernel_call(kernel, FUSE_SETATTR, node, in, sizeof(*in), NULL, 0, ret ? ret : &out,
                            sizeof(out));
    kernel_forget(kernel, node);
    return n < 0 ? (int)n : 0;
}

static int set_mode(struct kernel *kernel, const char *path, mode_t mode)
{
    struct fuse_setattr_in in = {.valid = FATTR_MODE, .mode = mode};
    return set(kernel, path, &in, NULL);
}

static int set_size(struct kernel *kernel, const char *path, uint64_t size)
{
    struct fuse_setattr_in in = {.valid = FATTR_SIZE, .size = size};
    return set(kernel, path, &in, NULL);
}

static void owner_group_and_mode_change_together_and_are_answered(void **state)
{
    struct kernel *kernel = *state;
    struct fuse_setattr_in in = {
        .valid = FATTR_MODE | FATTR_UID | FATTR_GID, .mode = 0604, .uid = 7, .gid = 8};
    struct fuse_attr_out out;
    assert_int_equal(set(kernel, "orders/p0", &in, &out), 0);
    assert_int_equal(out.attr.mode, S_IFREG | 0604);
    assert_int_equal(out.attr.uid, 7);
    assert_int_equal(out.attr.gid, 8);
    assert_int_equal(attributes_of(kernel, "orders/p0.stream").mode, S_IFREG | 0604);
    assert_int_equal(attributes_of(kernel, "orders/p1").uid, 10);
    in = (struct fuse_setattr_in){.valid = FATTR_GID, .gid = 9};
    assert_int_equal(set(kernel, "orders/p0", &in, &out), 0);
    assert_int_equal(out.attr.uid, 7);
    assert_int_equal(out.attr.gid, 9);
}

static void directories_keep_their_sticky_bit_and_may_be_setgid(void **state)
{
    struct kernel *kernel = *state;
    assert_int_equal(set_mode(kernel, "orders", S_ISGID | 0711), 0);
    assert_int_equal(attributes_of(kernel, "orders").mode, S_IFDIR | S_ISGID | S_ISVTX | 0711);
}

static void nothing_is_ever_setuid_nor_a_file_setgid(void **state)
{
    struct kernel *kernel = *state;
    assert_int_equal(set_mode(kernel, "orders", S_ISUID | 0711), -EPERM);
    assert_int_equal(set_mode(kernel, "orders/p0", S_ISUID | 0711), -EPERM);
    assert_int_equal(set_mode(kernel, "orders/p0", S_ISGID | 0711), -EPERM);
    assert_int_equal(attributes_of(kernel, "orders/p0").mode, S_IFREG | 0640);
}

static void what_shows_another_cannot_be_changed(void **state)
{
    static const char *const paths[] = {
        "orders/append", "orders/p0.log",         "orders/p0.jsonl", "orders/by-offset",
        ".kqfs/metrics", "orders/by-offset/p0/0", ".kqfs",
    };
    struct kernel *kernel = *state;
    for (size_t i = 0; i < kq_array_size(paths); i++)
        assert_int_equal(set_mode(kernel, paths[i], 0777), -EPERM);
}

static void nothing_is_truncated(void **state)
{
    struct kernel *kernel = *state;
    assert_int_equal(kernel_append(kernel, "orders/p0", "kept\n"), 0);
    for (uint64_t size = 0; size < 9; size++) {
        assert_int_equal(set_size(kernel, "orders/p0", size), -EPERM);
        assert_int_equal(set_size(kernel, "orders/p0.log", size), -EPERM);
    }
    assert_int_equal(set_size(kernel, "orders/append", 1), -EPERM);
    assert_int_equal(set_size(kernel, "orders/append", 0), 0);
    kernel_assert_text(kernel, "orders/p0", "kept\n");
}

static void a_size_that_is_refused_changes_no_mode_either(void **state)
{
    struct kernel *kernel = *state;
    struct fuse_setattr_in in = {.valid = FATTR_MODE | FATTR_SIZE, .mode = 0600};
    assert_int_equal(set(kernel, "orders/p0", &in, NULL), -EPERM);
    assert_int_equal(attributes_of(kernel, "orders/p0").mode, S_IFREG | 0640);
}

/* The thread of this process that raises IN_MODIFY for those who watch. */
static pid_t find_watcher(struct kernel *kernel)
{
    pid_t found = 0;
    while (!found) { /* it may not have begun */
        DIR *tasks = opendir("/proc/self/task");
        for (struct dirent *entry; (entry = readdir(tasks));)
            if (kq_notifier_is_self(kernel->fs.notifier, atoi(entry->d_name)))
                found = atoi(entry->d_name);
        closedir(tasks);
    }
    return found;
}

static void the_brokers_own_watcher_may_set_the_size_that_there_is(void **state)
{
    struct kernel *kernel = *state;
    assert_int_equal(kernel_append(kernel, "orders/p0", "kept\n"), 0);
    kernel->who.pid = (uint32_t)find_watcher(kernel);
    assert_int_equal(set_size(kernel, "orders/p0.log", 5), 0);
    assert_int_equal(set_size(kernel, "orders/p0.log", 0), 0);
    kernel->who.pid = (uint32_t)getpid();
    assert_int_equal(set_size(kernel, "orders/p0.log", 5), -EPERM);
    assert_int_equal(attributes_of(kernel, "orders/p0.log").size, 5);
    kernel_assert_text(kernel, "orders/p0", "kept\n");
}

static void times_are_those_of_the_log_and_cannot_be_set(void **state)
{
    struct kernel *kernel = *state;
    struct fuse_setattr_in in = {.valid = FATTR_MTIME | FATTR_ATIME, .mtime = 5, .atime = 5};
    struct fuse_attr_out out;
    assert_int_equal(kernel_append(kernel, "orders/p0", "now\n"), 0);
    uint64_t before = attributes_of(kernel, "orders/p0").mtime;
    assert_true(before > 1700000000);
    assert_int_equal(set(kernel, "orders/p0", &in, &out), 0);
    assert_int_equal(out.attr.mtime, before);
}

static int add_one(struct kq_attributes *attributes, void *argument)
{
    attributes->gid++;
    return 0;
}

static void *add_often(void *argument)
{
    struct kernel *kernel = argument;
    struct kq_node node;
    assert_int_equal(kq_node_resolve(kernel->fs.nodes, FUSE_ROOT_ID, &node), 0);
    for (int i = 0; i < 50; i++)
        assert_int_equal(kq_attr_change(&kernel->fs, &node, &ground_caller, add_one, NULL), 0);
    return NULL;
}

static void changes_at_the_same_time_all_count(void **state)
{
    struct kernel *kernel = *state;
    pthread_t threads[3];
    struct kq_attributes root;
    for (int i = 0; i < 3; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, add_often, kernel), 0);
    for (int i = 0; i < 3; i++)
        pthread_join(threads[i], NULL);
    kq_attributes_peek(kernel->ground.broker, NULL, NULL, &root);
    assert_int_equal(root.gid, 150);
}

static int refuse(struct kq_attributes *attributes, void *argument)
{
    attributes->mode = 0;
    return -EDOM;
}

static void a_change_that_fails_leaves_all_as_it_was(void **state)
{
    struct kernel *kernel = *state;
    struct kq_attributes before, after;
    struct kq_node node;
    assert_int_equal(kq_node_resolve(kernel->fs.nodes, FUSE_ROOT_ID, &node), 0);
    kq_attributes_peek(kernel->ground.broker, NULL, NULL, &before);
    assert_int_equal(kq_attr_change(&kernel->fs, &node, &ground_caller, refuse, NULL), -EDOM);
    kernel->ground.denied = KQ_RIGHT_CHANGE_ATTRIBUTES;
    assert_int_equal(kq_attr_change(&kernel->fs, &node, &ground_caller, add_one, NULL), -EACCES);
    kq_attributes_peek(kernel->ground.broker, NULL, NULL, &after);
    assert_int_equal(after.mode, before.mode);
    assert_int_equal(after.gid, before.gid);
}

static void a_node_that_is_not_known_is_stale(void **state)
{
    struct kernel *kernel = *state;
    struct fuse_setattr_in in = {.valid = FATTR_MODE};
    struct fuse_attr_out out;
    uint64_t node = kernel_node(kernel, "orders");
    kernel_forget(kernel, node);
    assert_int_equal(kernel_getattr(kernel, node, &out), -ESTALE);
    assert_int_equal(kernel_simple(kernel, FUSE_SETATTR, node, &in, sizeof(in), NULL), -ESTALE);
    assert_int_equal(kernel_getattr(kernel, UINT64_MAX, &out), -ESTALE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        KERNEL_TEST(owner_group_and_mode_change_together_and_are_answered),
        KERNEL_TEST(directories_keep_their_sticky_bit_and_may_be_setgid),
        KERNEL_TEST(nothing_is_ever_setuid_nor_a_file_setgid),
        KERNEL_TEST(what_shows_another_cannot_be_changed),
        KERNEL_TEST(nothing_is_truncated),
        KERNEL_TEST(a_size_that_is_refused_changes_no_mode_either),
        KERNEL_TEST(the_brokers_own_watcher_may_set_the_size_that_there_is),
        KERNEL_TEST(times_are_those_of_the_log_and_cannot_be_set),
        KERNEL_TEST(changes_at_the_same_time_all_count),
        KERNEL_TEST(a_change_that_fails_leaves_all_as_it_was),
        KERNEL_TEST(a_node_that_is_not_known_is_stale),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
