/* MKDIR, MKNOD, CREATE, UNLINK, RMDIR and what there is none of. */
#include "tests/unit/kernel.h"

#include "fs/handle.h"

/* 0 or -errno; the node is forgotten again. */
static int make_directory(struct kernel *kernel, uint64_t parent, const char *name, mode_t mode,
                          mode_t mask)
{
    struct fuse_mkdir_in in = {.mode = mode, .umask = mask};
    struct fuse_entry_out out;
    ssize_t n = kernel_call(kernel, FUSE_MKDIR, parent, &in, sizeof(in), name, strlen(name) + 1,
                            &out, sizeof(out));
    if (n < 0)
        return (int)n;
    kernel_forget(kernel, out.nodeid);
    return 0;
}

static int make_node(struct kernel *kernel, uint64_t parent, const char *name, mode_t mode)
{
    struct fuse_mknod_in in = {.mode = mode, .umask = 022};
    struct fuse_entry_out out;
    ssize_t n = kernel_call(kernel, FUSE_MKNOD, parent, &in, sizeof(in), name, strlen(name) + 1,
                            &out, sizeof(out));
    if (n < 0)
        return (int)n;
    kernel_forget(kernel, out.nodeid);
    return 0;
}

struct created {
    struct fuse_entry_out entry;
    struct fuse_open_out open;
};

static int create(struct kernel *kernel, uint64_t parent, const char *name, int flags,
                  struct created *ret)
{
    struct fuse_create_in in = {.flags = (uint32_t)flags, .mode = S_IFREG | 0666, .umask = 022};
    ssize_t n = kernel_call(kernel, FUSE_CREATE, parent, &in, sizeof(in), name, strlen(name) + 1,
                            ret, sizeof(*ret));
    return n < 0 ? (int)n : 0;
}

static struct fuse_attr attributes_of(struct kernel *kernel, const char *path)
{
    uint64_t node = kernel_node(kernel, path);
    struct fuse_attr_out out;
    assert_int_equal(kernel_getattr(kernel, node, &out), 0);
    if (node != FUSE_ROOT_ID)
        kernel_forget(kernel, node);
    return out.attr;
}

static int32_t count_partitions(struct kernel *kernel)
{
    struct kq_topic *topic = ground_find(&kernel->ground, "orders");
    int32_t count = kq_topic_partition_count(topic);
    kq_topic_unref(topic);
    return count;
}

/* --- mkdir --- */

static void a_topic_is_its_makers_with_the_mode_that_the_umask_leaves(void **state)
{
    struct kernel *kernel = *state;
    kernel->who.uid = 1001;
    kernel->who.gid = 2002;
    assert_int_equal(make_directory(kernel, FUSE_ROOT_ID, "new", 0777, 027), 0);
    struct fuse_attr topic = attributes_of(kernel, "new"), part = attributes_of(kernel, "new/p0");
    assert_int_equal(topic.uid, 1001);
    assert_int_equal(topic.gid, 2002);
    assert_int_equal(topic.mode, S_IFDIR | S_ISVTX | 0750);
    assert_int_equal(part.uid, 1001);
    assert_int_equal(part.gid, 2002);
    assert_int_equal(part.mode, S_IFREG | 0640);
}

static void a_setgid_root_gives_its_group(void **state)
{
    struct kernel *kernel = *state;
    const struct kq_attributes root = {.gid = 77, .mode = S_ISGID | 0777};
    assert_int_equal(kq_attributes_set(kernel->ground.broker, NULL, NULL, &ground_caller, &root),
                     0);
    kernel->who.gid = 2002;
    assert_int_equal(make_directory(kernel, FUSE_ROOT_ID, "new", 0777, 0), 0);
    struct fuse_attr topic = attributes_of(kernel, "new"), part = attributes_of(kernel, "new/p0");
    assert_int_equal(topic.gid, 77);
    assert_true(topic.mode & S_ISGID);
    assert_int_equal(part.gid, 77);
    assert_false(part.mode & S_ISGID);
}

static void a_default_acl_is_inherited_and_the_umask_left_out(void **state)
{
    /* user::rwx user:1001:rwx group::r-x mask::rwx other::--- */
    static const uint8_t acl[] = {2,  0, 0, 0,                         //
                                  1,  0, 7, 0, 0xff, 0xff, 0xff, 0xff, //
                                  2,  0, 7, 0, 0xe9, 3,    0,    0,    //
                                  4,  0, 5, 0, 0xff, 0xff, 0xff, 0xff, //
                                  16, 0, 7, 0, 0xff, 0xff, 0xff, 0xff, //
                                  32, 0, 0, 0, 0xff, 0xff, 0xff, 0xff};
    struct kernel *kernel = *state;
    struct kq_attributes root = {.mode = 0777,
                                 .default_acl = (uint8_t *)acl,
                                 .default_acl_length = sizeof(acl)},
                         topic_has;
    assert_int_equal(kq_attributes_set(kernel->ground.broker, NULL, NULL, &ground_caller, &root),
                     0);
    assert_int_equal(make_directory(kernel, FUSE_ROOT_ID, "new", 0777, 077), 0);
    assert_int_equal(attributes_of(kernel, "new").mode & 0777, 0770);
    assert_int_equal(attributes_of(kernel, "new/p0").mode & 0777, 0660);
    struct kq_topic *topic = ground_find(&kernel->ground, "new");
    assert_int_equal(kq_attributes_get(kernel->ground.broker, topic, NULL, &topic_has), 0);
    assert_int_equal(topic_has.default_acl_length, sizeof(acl));
    assert_int_equal(topic_has.acl_length, sizeof(acl));
    kq_attributes_release(&topic_has);
    kq_topic_unref(topic);
}

static void directories_are_made_in_the_root_only_and_with_kafkas_names(void **state)
{
    static const char *const bad[] = {"a b", "\xc3\xa4", "a:b", ".kqfs"};
    struct kernel *kernel = *state;
    uint64_t orders = kernel_node(kernel, "orders"), control = kernel_node(kernel, ".kqfs");
    char longest[251];
    assert_int_equal(make_directory(kernel, FUSE_ROOT_ID, "orders", 0777, 0), -EEXIST);
    assert_int_equal(make_directory(kernel, orders, "a", 0777, 0), -EPERM);
    assert_int_equal(make_directory(kernel, control, "a", 0777, 0), -EPERM);
    for (size_t i = 0; i < kq_array_size(bad); i++)
        assert_int_equal(make_directory(kernel, FUSE_ROOT_ID, bad[i], 0777, 0), -EINVAL);
    memset(longest, 'a', 250);
    longest[250] = '\0';
    assert_int_equal(make_directory(kernel, FUSE_ROOT_ID, longest, 0777, 0), -ENAMETOOLONG);
    longest[249] = '\0';
    assert_int_equal(make_directory(kernel, FUSE_ROOT_ID, longest, 0777, 0), 0);
}

static void a_name_longer_than_any_is_refused_everywhere(void **state)
{
    struct kernel *kernel = *state;
    uint64_t orders = kernel_node(kernel, "orders");
    struct created created;
    char name[300];
    memset(name, 'a', 299);
    name[299] = '\0';
    assert_int_equal(make_directory(kernel, FUSE_ROOT_ID, name, 0777, 0), -ENAMETOOLONG);
    assert_int_equal(make_node(kernel, orders, name, S_IFREG), -ENAMETOOLONG);
    assert_int_equal(create(kernel, orders, name, O_WRONLY, &created), -ENAMETOOLONG);
    assert_int_equal(kernel_simple(kernel, FUSE_UNLINK, orders, NULL, 0, name), -ENAMETOOLONG);
    assert_int_equal(kernel_simple(kernel, FUSE_RMDIR, FUSE_ROOT_ID, NULL, 0, name), -ENAMETOOLONG);
}

/* --- touch --- */

static void the_next_partition_is_made_and_an_existing_one_found(void **state)
{
    struct kernel *kernel = *state;
    uint64_t orders = kernel_node(kernel, "orders");
    assert_int_equal(make_node(kernel, orders, "p3", S_IFREG | 0666), -ENOENT);
    assert_int_equal(make_node(kernel, orders, "p2", S_IFREG | 0666), 0);
    assert_int_equal(attributes_of(kernel, "orders/p2").mode, S_IFREG | 0644);
    assert_int_equal(make_node(kernel, orders, "p2", S_IFREG | 0666), -EEXIST);
    assert_int_equal(count_partitions(kernel), 3);
}

static void only_files_of_the_tree_can_be_made(void **state)
{
    static const mode_t kinds[] = {S_IFIFO, S_IFSOCK, S_IFCHR, S_IFBLK};
    struct kernel *kernel = *state;
    uint64_t orders = kernel_node(kernel, "orders");
    for (size_t i = 0; i < kq_array_size(kinds); i++)
        assert_int_equal(make_node(kernel, orders, "p2", kinds[i] | 0666), -EPERM);
    assert_int_equal(make_node(kernel, orders, "p02", S_IFREG | 0666), -EPERM);
    assert_int_equal(make_node(kernel, orders, "notes", S_IFREG | 0666), -EPERM);
    assert_int_equal(make_node(kernel, FUSE_ROOT_ID, "notes", S_IFREG | 0666), -EPERM);
    assert_int_equal(make_node(kernel, orders, "p9.stream", S_IFREG | 0666), -EPERM);
    assert_int_equal(count_partitions(kernel), 2);
}

static void create_opens_what_it_made_for_appending(void **state)
{
    struct kernel *kernel = *state;
    uint64_t orders = kernel_node(kernel, "orders");
    struct created created;
    assert_int_equal(create(kernel, orders, "p2", O_WRONLY | O_CREAT | O_TRUNC, &created), 0);
    assert_int_equal(kernel_write(kernel, created.entry.nodeid, created.open.fh, O_WRONLY, "one\n"),
                     4);
    assert_int_equal(kernel_close(kernel, created.entry.nodeid, created.open.fh), 0);
    kernel_forget(kernel, created.entry.nodeid);
    kernel_assert_text(kernel, "orders/p2", "one\n");
}

static void create_opens_what_there_is_as_open_would(void **state)
{
    struct kernel *kernel = *state;
    uint64_t orders = kernel_node(kernel, "orders");
    struct created created;
    assert_int_equal(kernel_append(kernel, "orders/p0", "kept\n"), 0);
    assert_int_equal(create(kernel, orders, "p0", O_WRONLY | O_CREAT | O_TRUNC, &created), -EPERM);
    assert_int_equal(create(kernel, orders, "p0", O_WRONLY | O_CREAT, &created), -EPERM);
    assert_int_equal(create(kernel, orders, "p0", O_RDWR | O_CREAT | O_EXCL | O_APPEND, &created),
                     -EEXIST);
    assert_int_equal(create(kernel, orders, "p0", O_WRONLY | O_CREAT | O_APPEND, &created), 0);
    assert_int_equal(kernel_close(kernel, created.entry.nodeid, created.open.fh), 0);
    kernel_forget(kernel, created.entry.nodeid);
    assert_int_equal(create(kernel, orders, "append", O_WRONLY | O_CREAT | O_TRUNC, &created), 0);
    assert_int_equal(kernel_close(kernel, created.entry.nodeid, created.open.fh), 0);
    kernel_forget(kernel, created.entry.nodeid);
    kernel_assert_text(kernel, "orders/p0", "kept\n");
}

/* Waits until the worker is through that was answering, and nothing is open. */
static void await_closed(struct kernel *kernel)
{
    struct kq_handles *handles = kernel->fs.handles;
    for (bool open = true; open; sched_yield()) {
        pthread_mutex_lock(&handles->lock);
        open = !LIST_EMPTY(&handles->open);
        pthread_mutex_unlock(&handles->lock);
    }
}

static void await_unknown(struct kernel *kernel, const char *name)
{
    struct kq_topic *topic = ground_find(&kernel->ground, name);
    while (kq_node_find(kernel->fs.nodes, KQ_VIEW_TOPIC, topic, NULL, 0))
        sched_yield();
    kq_topic_unref(topic);
}

/* As when the connection is cut while a worker is at it. */
static void an_answer_that_is_not_taken_leaves_nothing_behind(void **state)
{
    struct kernel *kernel = *state;
    uint64_t orders = kernel_node(kernel, "orders");
    struct created created;
    kernel->refuse = ENODEV;
    create(kernel, orders, "p2", O_WRONLY | O_CREAT, &created);
    await_closed(kernel);
    kernel->refuse = ENODEV;
    struct fuse_mkdir_in in = {.mode = 0777};
    kernel_call(kernel, FUSE_MKDIR, FUSE_ROOT_ID, &in, sizeof(in), "new", 4, NULL, 0);
    await_unknown(kernel, "new");
    assert_int_equal(kernel->refuse, 0);
    assert_int_equal(count_partitions(kernel), 3); /* it was made all the same */
}

/* --- rm --- */

static void unlinking_a_partition_drops_its_messages(void **state)
{
    struct kernel *kernel = *state;
    uint64_t orders = kernel_node(kernel, "orders");
    assert_int_equal(kernel_append(kernel, "orders/p0", "one\ntwo\n"), 0);
    assert_int_equal(kernel_append(kernel, "orders/p1", "kept\n"), 0);
    assert_int_equal(kernel_simple(kernel, FUSE_UNLINK, orders, NULL, 0, "p0"), 0);
    kernel_assert_text(kernel, "orders/p0", "");
    kernel_assert_text(kernel, "orders/p1", "kept\n");
    assert_int_equal(kernel_append(kernel, "orders/p0", "three\n"), 0);
    kernel_assert_text(kernel, "orders/by-offset/p0/2", "three\n");
    assert_int_equal(kernel_simple(kernel, FUSE_UNLINK, orders, NULL, 0, "p7"), -ENOENT);
}

static void what_is_listed_beside_goes_without_a_word_and_stays(void **state)
{
    struct kernel *kernel = *state;
    uint64_t orders = kernel_node(kernel, "orders"), by = kernel_node(kernel, "orders/by-offset"),
             part = kernel_node(kernel, "orders/by-offset/p0");
    assert_int_equal(kernel_append(kernel, "orders/p0", "kept\n"), 0);
    assert_int_equal(kernel_simple(kernel, FUSE_UNLINK, orders, NULL, 0, "append"), 0);
    assert_int_equal(kernel_simple(kernel, FUSE_UNLINK, part, NULL, 0, "earliest"), 0);
    assert_int_equal(kernel_simple(kernel, FUSE_UNLINK, part, NULL, 0, "latest"), 0);
    assert_int_equal(kernel_simple(kernel, FUSE_RMDIR, by, NULL, 0, "p0"), 0);
    assert_int_equal(kernel_simple(kernel, FUSE_RMDIR, orders, NULL, 0, "by-offset"), 0);
    kernel_assert_text(kernel, "orders/by-offset/p0/0", "kept\n");
}

static void what_shows_another_cannot_be_removed(void **state)
{
    static const char *const files[] = {"p0.log", "p0.stream", "p0.jsonl"};
    struct kernel *kernel = *state;
    uint64_t orders = kernel_node(kernel, "orders"), control = kernel_node(kernel, ".kqfs"),
             part = kernel_node(kernel, "orders/by-offset/p0");
    for (size_t i = 0; i < kq_array_size(files); i++)
        assert_int_equal(kernel_simple(kernel, FUSE_UNLINK, orders, NULL, 0, files[i]), -EPERM);
    assert_int_equal(kernel_simple(kernel, FUSE_UNLINK, part, NULL, 0, "0"), -EPERM);
    assert_int_equal(kernel_simple(kernel, FUSE_UNLINK, control, NULL, 0, "metrics"), -EPERM);
    assert_int_equal(kernel_simple(kernel, FUSE_RMDIR, FUSE_ROOT_ID, NULL, 0, ".kqfs"), -EPERM);
    assert_int_equal(kernel_simple(kernel, FUSE_RMDIR, control, NULL, 0, "segments"), -EPERM);
    assert_int_equal(kernel_simple(kernel, FUSE_RMDIR, orders, NULL, 0, "p0"), -EPERM);
    assert_int_equal(kernel_simple(kernel, FUSE_UNLINK, FUSE_ROOT_ID, NULL, 0, "orders"), -EPERM);
}

static void a_topic_with_messages_stays(void **state)
{
    struct kernel *kernel = *state;
    uint64_t orders = kernel_node(kernel, "orders");
    assert_int_equal(kernel_append(kernel, "orders/p1", "kept\n"), 0);
    assert_int_equal(kernel_simple(kernel, FUSE_RMDIR, FUSE_ROOT_ID, NULL, 0, "orders"),
                     -ENOTEMPTY);
    assert_int_equal(kernel_simple(kernel, FUSE_UNLINK, orders, NULL, 0, "p1"), 0);
    assert_int_equal(kernel_simple(kernel, FUSE_RMDIR, FUSE_ROOT_ID, NULL, 0, "orders"), 0);
    assert_int_equal(kernel_walk(kernel, "orders"), 0);
    assert_int_equal(errno, ENOENT);
    assert_int_equal(kernel_simple(kernel, FUSE_RMDIR, FUSE_ROOT_ID, NULL, 0, "orders"), -ENOENT);
    assert_int_equal(make_node(kernel, orders, "p2", S_IFREG | 0666), -ESTALE);
}

/* --- What there is none of --- */

static void there_is_no_link_no_rename(void **state)
{
    struct kernel *kernel = *state;
    uint64_t orders = kernel_node(kernel, "orders"), p0 = kernel_node(kernel, "orders/p0");
    struct fuse_rename2_in rename = {.newdir = FUSE_ROOT_ID};
    struct fuse_link_in link = {.oldnodeid = p0};
    assert_int_equal(
        kernel_call(kernel, FUSE_SYMLINK, orders, NULL, 0, "name\0target", 12, NULL, 0), -EPERM);
    assert_int_equal(kernel_call(kernel, FUSE_RENAME2, FUSE_ROOT_ID, &rename, sizeof(rename),
                                 "orders\0bills", 13, NULL, 0),
                     -EPERM);
    assert_int_equal(
        kernel_call(kernel, FUSE_LINK, orders, &link, sizeof(link), "name", 5, NULL, 0), -EPERM);
    assert_true(kernel_walk(kernel, "orders"));
}

static void a_directory_that_was_forgotten_is_stale(void **state)
{
    struct kernel *kernel = *state;
    uint64_t orders = kernel_node(kernel, "orders");
    struct created created;
    kernel_forget(kernel, orders);
    assert_int_equal(make_directory(kernel, orders, "a", 0777, 0), -ESTALE);
    assert_int_equal(make_node(kernel, orders, "p2", S_IFREG), -ESTALE);
    assert_int_equal(create(kernel, orders, "p2", O_WRONLY, &created), -ESTALE);
    assert_int_equal(kernel_simple(kernel, FUSE_UNLINK, orders, NULL, 0, "p0"), -ESTALE);
    assert_int_equal(kernel_simple(kernel, FUSE_RMDIR, orders, NULL, 0, "by-time"), -ESTALE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        KERNEL_TEST(a_topic_is_its_makers_with_the_mode_that_the_umask_leaves),
        KERNEL_TEST(a_setgid_root_gives_its_group),
        KERNEL_TEST(a_default_acl_is_inherited_and_the_umask_left_out),
        KERNEL_TEST(directories_are_made_in_the_root_only_and_with_kafkas_names),
        KERNEL_TEST(a_name_longer_than_any_is_refused_everywhere),
        KERNEL_TEST(the_next_partition_is_made_and_an_existing_one_found),
        KERNEL_TEST(only_files_of_the_tree_can_be_made),
        KERNEL_TEST(create_opens_what_it_made_for_appending),
        KERNEL_TEST(create_opens_what_there_is_as_open_would),
        KERNEL_TEST(an_answer_that_is_not_taken_leaves_nothing_behind),
        KERNEL_TEST(unlinking_a_partition_drops_its_messages),
        KERNEL_TEST(what_is_listed_beside_goes_without_a_word_and_stays),
        KERNEL_TEST(what_shows_another_cannot_be_removed),
        KERNEL_TEST(a_topic_with_messages_stays),
        KERNEL_TEST(there_is_no_link_no_rename),
        KERNEL_TEST(a_directory_that_was_forgotten_is_stale),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
