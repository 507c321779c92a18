/* From names to nodes, and what stat(2) shows of them. */
#include "tests/unit/tree.h"

#include "broker/base/clock.h"
#include "fs/attr.h"
#include "fs/place.h"

/* Walks PATH from the root as the kernel does. 0 with the last entry, whose node stays known. */
static int walk(struct tree *tree, const char *path, struct fuse_entry_param *ret)
{
    char copy[256], *rest = copy;
    uint64_t number = FUSE_ROOT_ID;
    snprintf(copy, sizeof(copy), "%s", path);
    for (char *name; (name = strsep(&rest, "/"));) {
        struct kq_node parent;
        struct kq_place place;
        assert_int_equal(kq_node_resolve(tree->fs.nodes, number, &parent), 0);
        int r = kq_place_find(&tree->fs, &parent, name, &ground_caller, true, &place);
        if (r == 0) {
            r = kq_place_enter(&tree->fs, &place, true, ret);
            kq_place_release(&place);
        }
        kq_node_forget(tree->fs.nodes, number, 1);
        if (r != 0)
            return r;
        number = ret->ino;
    }
    return 0;
}

static struct stat stat_of(struct tree *tree, const char *path)
{
    struct fuse_entry_param entry;
    if (walk(tree, path, &entry) != 0)
        fail_msg("%s is not there", path);
    kq_node_forget(tree->fs.nodes, entry.ino, 1);
    return entry.attr;
}

static void assert_missing(struct tree *tree, const char *path)
{
    struct fuse_entry_param entry;
    if (walk(tree, path, &entry) != -ENOENT)
        fail_msg("%s is there", path);
}

static void assert_link(struct tree *tree, const char *path, const char *wanted)
{
    char target[KQ_LINK_BYTES];
    struct fuse_entry_param entry;
    struct kq_node node;
    assert_int_equal(walk(tree, path, &entry), 0);
    assert_int_equal(kq_node_resolve(tree->fs.nodes, entry.ino, &node), 0);
    assert_int_equal(kq_link_target(&node, target), strlen(wanted));
    assert_string_equal(target, wanted);
    assert_int_equal(entry.attr.st_size, strlen(wanted));
    assert_int_equal(entry.entry_timeout, 0);
    kq_node_forget(tree->fs.nodes, entry.ino, 1);
}

static void links_lead_to_offsets(void **state)
{
    struct tree *tree = *state;
    assert_link(tree, "orders/by-offset/p0/earliest", "0");
    assert_link(tree, "orders/by-offset/p0/latest", "0");
    tree_append(tree, 0, "one");
    tree_append(tree, 0, "two");
    assert_link(tree, "orders/by-offset/p0/latest", "2");
    assert_link(tree, "orders/by-time/p0/1000", "../../by-offset/p0/0");
    assert_link(tree, "orders/by-time/p0/1970-01-01T00:00:00Z", "../../by-offset/p0/0");
    assert_link(tree, "orders/by-time/p0/1001", "../../by-offset/p0/2");
    assert_link(tree, "orders/by-time/p1/0", "../../by-offset/p1/0");
    tree_drop(tree, 0);
    assert_link(tree, "orders/by-offset/p0/earliest", "2");
}

static void offsets_open_from_the_first_retained_to_the_end(void **state)
{
    struct tree *tree = *state;
    tree_append(tree, 0, "one");
    tree_append(tree, 0, "two");
    assert_int_equal(stat_of(tree, "orders/by-offset/p0/0").st_size, 8);
    assert_int_equal(stat_of(tree, "orders/by-offset/p0/1").st_size, 4);
    assert_int_equal(stat_of(tree, "orders/by-offset/p0/2").st_size, 0);
    assert_int_equal(stat_of(tree, "orders/by-offset/p0/1.value").st_size, 3);
    assert_missing(tree, "orders/by-offset/p0/3");
    assert_missing(tree, "orders/by-offset/p0/2.value");
    assert_missing(tree, "orders/by-offset/p0/latest.value");
    stat_of(tree, "orders/by-offset/p0/latest.stream");
    tree_drop(tree, 0);
    assert_missing(tree, "orders/by-offset/p0/1");
    stat_of(tree, "orders/by-offset/p0/2");
}

static void what_is_not_there_is_not_there(void **state)
{
    struct tree *tree = *state;
    assert_missing(tree, "bills");
    assert_missing(tree, "orders/p2");
    assert_missing(tree, "orders/p2.log");
    assert_missing(tree, "orders/by-offset/p2");
    assert_missing(tree, ".kqfs/segments/orders/p0/00000000000000000000");
    assert_missing(tree, "orders/by-segment/p0/00000000000000000000");
    assert_missing(tree, ".kqfs/.kqfs");
}

/* A node of p0 shows what is retained from its start on; the next LOOKUP after retention gives
 * another, and programs still see the same file. */
static void p0_gets_a_new_node_and_keeps_its_inode_when_its_front_goes(void **state)
{
    struct tree *tree = *state;
    struct fuse_entry_param before, after;
    tree_append(tree, 0, "one");
    assert_int_equal(walk(tree, "orders/p0", &before), 0);
    tree_drop(tree, 0);
    tree_append(tree, 0, "three");
    assert_int_equal(walk(tree, "orders/p0", &after), 0);
    assert_int_not_equal(before.ino, after.ino);
    assert_int_equal(before.attr.st_ino, after.attr.st_ino);
    assert_int_equal(before.attr.st_size, 4);
    assert_int_equal(after.attr.st_size, 6);
    assert_int_equal(stat_of(tree, "orders/p0.log").st_size, 10);
    kq_node_forget(tree->fs.nodes, before.ino, 1);
    kq_node_forget(tree->fs.nodes, after.ino, 1);
}

static void append_answers_each_lookup_with_a_node_of_its_own(void **state)
{
    struct tree *tree = *state;
    struct fuse_entry_param a, b;
    assert_int_equal(walk(tree, "orders/append", &a), 0);
    assert_int_equal(walk(tree, "orders/append", &b), 0);
    assert_int_not_equal(a.ino, b.ino);
    assert_int_equal(a.attr.st_ino, b.attr.st_ino);
    assert_int_equal(a.attr.st_size, 0);
    assert_true(a.entry_timeout == 0 && a.attr_timeout == 0);
    kq_node_forget(tree->fs.nodes, a.ino, 1);
    kq_node_forget(tree->fs.nodes, b.ino, 1);
}

/* What grows, and what nobody could name in a notification, the kernel asks for each time. */
static void the_kernel_keeps_only_what_is_notified(void **state)
{
    struct tree *tree = *state;
    static const char *const kept[] = {"orders", "orders/by-offset/p0", "orders/p0.stream",
                                       "orders/p0.jsonl", ".kqfs"};
    static const char *const asked[] = {"orders/p0", "orders/p0.log", "orders/by-offset/p0/0",
                                        "orders/append"};
    struct fuse_entry_param entry;
    for (size_t i = 0; i < kq_array_size(kept); i++) {
        assert_int_equal(walk(tree, kept[i], &entry), 0);
        assert_true(entry.attr_timeout == 1.0 && entry.entry_timeout > 0);
        kq_node_forget(tree->fs.nodes, entry.ino, 1);
    }
    for (size_t i = 0; i < kq_array_size(asked); i++) {
        assert_int_equal(walk(tree, asked[i], &entry), 0);
        assert_true(entry.attr_timeout == 0);
        kq_node_forget(tree->fs.nodes, entry.ino, 1);
    }
}

static void views_show_owner_and_mode_of_their_partition(void **state)
{
    struct tree *tree = *state;
    struct kq_partition *p0;
    struct kq_attributes attributes = {.uid = 70, .gid = 80, .mode = 0604};
    assert_int_equal(kq_partition_get(tree->topic, 0, &p0), 0);
    assert_int_equal(
        kq_attributes_set(tree->fs.broker, tree->topic, p0, &ground_caller, &attributes), 0);
    kq_partition_unref(p0);
    static const char *const of_p0[] = {"orders/p0", "orders/p0.log", "orders/p0.jsonl.stream",
                                        "orders/append", "orders/by-offset/p0/0"};
    for (size_t i = 0; i < kq_array_size(of_p0); i++) {
        struct stat stat = stat_of(tree, of_p0[i]);
        assert_int_equal(stat.st_mode, S_IFREG | 0604);
        assert_int_equal(stat.st_uid, 70);
        assert_int_equal(stat.st_gid, 80);
    }
    assert_int_equal(stat_of(tree, "orders/p1").st_mode, S_IFREG | 0640);
    assert_int_equal(stat_of(tree, "orders/by-offset/p0").st_mode, S_IFDIR | S_ISVTX | 0750);
    assert_int_equal(stat_of(tree, "orders").st_uid, 7);
    assert_int_equal(stat_of(tree, ".kqfs/version").st_uid, 3);
    assert_int_equal(stat_of(tree, ".kqfs/version").st_mode, S_IFREG | 0444);
}

static void directories_count_their_subdirectories(void **state)
{
    struct tree *tree = *state;
    assert_int_equal(stat_of(tree, "orders").st_nlink, 5);
    assert_int_equal(stat_of(tree, "orders/by-offset").st_nlink, 4);
    assert_int_equal(stat_of(tree, "orders/by-offset/p0").st_nlink, 2);
    assert_int_equal(stat_of(tree, "orders/p0").st_nlink, 1);
}

/* make(1), rsync(1) and tail -F go by it. */
static void the_time_of_a_partition_is_that_of_its_last_append(void **state)
{
    struct tree *tree = *state;
    tree_append(tree, 0, "one");
    struct stat before = stat_of(tree, "orders/p0"), other = stat_of(tree, "orders/p1");
    kq_clock_shift_ms(5000);
    tree_append(tree, 0, "two");
    struct stat after = stat_of(tree, "orders/p0");
    kq_clock_shift_ms(0);
    assert_true(after.st_mtim.tv_sec >= before.st_mtim.tv_sec + 4);
    assert_int_equal(stat_of(tree, "orders/p1").st_mtim.tv_sec, other.st_mtim.tv_sec);
    assert_int_equal(stat_of(tree, "orders/p0.log").st_mtim.tv_sec, after.st_mtim.tv_sec);
}

/* ESTALE makes the kernel look up each name on the way again. */
static void nothing_is_found_in_a_topic_that_was_deleted(void **state)
{
    struct tree *tree = *state;
    struct fuse_entry_param entry;
    struct kq_node parent;
    struct kq_place place;
    assert_int_equal(walk(tree, "orders", &entry), 0);
    assert_int_equal(kq_topic_delete(tree->topic, &ground_caller, false), 0);
    assert_int_equal(kq_node_resolve(tree->fs.nodes, entry.ino, &parent), 0);
    assert_int_equal(kq_place_find(&tree->fs, &parent, "p0", &ground_caller, true, &place),
                     -ESTALE);
    kq_node_forget(tree->fs.nodes, entry.ino, 1);
    assert_missing(tree, "orders");
}

#define TREE_TEST(name) cmocka_unit_test_setup_teardown(name, tree_setup, tree_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TREE_TEST(links_lead_to_offsets),
        TREE_TEST(offsets_open_from_the_first_retained_to_the_end),
        TREE_TEST(what_is_not_there_is_not_there),
        TREE_TEST(p0_gets_a_new_node_and_keeps_its_inode_when_its_front_goes),
        TREE_TEST(append_answers_each_lookup_with_a_node_of_its_own),
        TREE_TEST(the_kernel_keeps_only_what_is_notified),
        TREE_TEST(views_show_owner_and_mode_of_their_partition),
        TREE_TEST(directories_count_their_subdirectories),
        TREE_TEST(the_time_of_a_partition_is_that_of_its_last_append),
        TREE_TEST(nothing_is_found_in_a_topic_that_was_deleted),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
