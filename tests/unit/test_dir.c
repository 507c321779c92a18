/* Listings: what is in them, and that they survive what happens between two replies. */
#include "tests/unit/tree.h"

#include "fs/dir.h"

static void make_topic(struct tree *tree, const char *name)
{
    struct kq_topic_spec spec = {.name = name, .partitions = 1};
    struct kq_topic *topic;
    assert_int_equal(kq_topic_create(tree->fs.broker, &ground_caller, &spec, &topic), 0);
    kq_topic_unref(topic);
}

static void delete_topic(struct tree *tree, const char *name)
{
    struct kq_topic *topic;
    assert_int_equal(kq_topic_get(tree->fs.broker, name, &topic), 0);
    assert_int_equal(kq_topic_delete(topic, &ground_caller, false), 0);
    kq_topic_unref(topic);
}

struct listing {
    struct tree *tree;
    struct kq_node node;
    uint64_t number;
    struct kq_dir *dir;
    off_t at;
};

static struct listing open_listing(struct tree *tree, enum kq_view view, int32_t partition)
{
    struct listing listing = {.tree = tree};
    const struct kq_view_row *row = kq_view_row(view);
    struct kq_partition *p = NULL;
    if (partition >= 0)
        assert_int_equal(kq_partition_get(tree->topic, partition, &p), 0);
    assert_int_equal(kq_node_remember(tree->fs.nodes, view, row->per_topic ? tree->topic : NULL, p,
                                      0, 0, &listing.number),
                     0);
    assert_int_equal(kq_node_resolve(tree->fs.nodes, listing.number, &listing.node), 0);
    assert_int_equal(kq_dir_new(&listing.node, &listing.dir), 0);
    kq_partition_unref(p);
    return listing;
}

static void close_listing(struct listing *listing)
{
    kq_dir_free(listing->dir);
    kq_node_forget(listing->tree->fs.nodes, listing->number, 1);
}

/* The next name, or NULL behind the last. */
static const char *next(struct listing *listing)
{
    static struct kq_dir_item item;
    int r = kq_dir_next(&listing->tree->fs, &listing->node, listing->dir, listing->at, true, &item);
    if (r == KQ_END)
        return NULL;
    assert_int_equal(r, 0);
    assert_true(item.next > listing->at);
    listing->at = item.next;
    kq_place_release(&item.place);
    return item.name;
}

static void assert_lists(struct tree *tree, enum kq_view view, int32_t partition,
                         const char *const *names)
{
    struct listing listing = open_listing(tree, view, partition);
    assert_string_equal(next(&listing), ".");
    assert_string_equal(next(&listing), "..");
    for (; *names; names++) {
        const char *name = next(&listing);
        assert_non_null(name);
        assert_string_equal(name, *names);
    }
    assert_null(next(&listing));
    close_listing(&listing);
}

#define LISTS(tree, view, partition, ...)                                                          \
    assert_lists(tree, view, partition, (const char *const[]){__VA_ARGS__ __VA_OPT__(, ) NULL})

static void each_directory_lists_what_may_be_read_once(void **state)
{
    LISTS(*state, KQ_VIEW_ROOT, -1, "orders");
    LISTS(*state, KQ_VIEW_TOPIC, -1, "append", "by-offset", "by-segment", "by-time", "p0", "p1");
    LISTS(*state, KQ_VIEW_BY_OFFSET, -1, "p0", "p1");
    LISTS(*state, KQ_VIEW_BY_OFFSET_PARTITION, 0, "earliest", "latest");
    LISTS(*state, KQ_VIEW_BY_TIME, -1, "p0", "p1");
    LISTS(*state, KQ_VIEW_BY_TIME_PARTITION, 1);
    LISTS(*state, KQ_VIEW_BY_SEGMENT_PARTITION, 0);
    LISTS(*state, KQ_VIEW_CONTROL, -1, "config", "groups", "metrics", "segments", "users",
          "version");
    LISTS(*state, KQ_VIEW_SEGMENTS, -1, "orders");
    LISTS(*state, KQ_VIEW_SEGMENTS_TOPIC, -1, "p0", "p1");
}

static void sealed_segments_are_listed_by_their_first_offset(void **state)
{
    struct tree *tree = *state;
    assert_int_equal(kq_topic_set_config(tree->topic, &ground_caller, "segment.bytes", "1024"), 0);
    char text[700];
    memset(text, 'x', sizeof(text));
    text[sizeof(text) - 1] = '\0';
    for (int i = 0; i < 3; i++)
        tree_append(tree, 0, text);
    LISTS(tree, KQ_VIEW_BY_SEGMENT_PARTITION, 0, "00000000000000000000", "00000000000000000001");
    LISTS(tree, KQ_VIEW_SEGMENTS_PARTITION, 0, "00000000000000000000", "00000000000000000001");
    LISTS(tree, KQ_VIEW_SEGMENTS_PARTITION, 1);
    tree_drop(tree, 0);
    LISTS(tree, KQ_VIEW_SEGMENTS_PARTITION, 0);
}

static void topics_that_come_and_go_move_no_other(void **state)
{
    struct tree *tree = *state;
    static const char *const names[] = {"a", "b", "c", "d", "e"};
    for (size_t i = 0; i < kq_array_size(names); i++)
        make_topic(tree, names[i]);
    struct listing listing = open_listing(tree, KQ_VIEW_ROOT, -1);
    for (int i = 0; i < 4; i++) /* . .. a b */
        assert_non_null(next(&listing));
    delete_topic(tree, "a");
    delete_topic(tree, "d");
    make_topic(tree, "aa");
    assert_string_equal(next(&listing), "c");
    off_t behind_c = listing.at;
    assert_string_equal(next(&listing), "e");
    assert_string_equal(next(&listing), "orders");
    assert_null(next(&listing));
    listing.at = behind_c; /* seekdir(3) */
    assert_string_equal(next(&listing), "e");
    listing.at = 0; /* rewinddir(3) shows what there is now */
    static const char *const now[] = {".", "..", "aa", "b", "c", "e", "orders"};
    for (size_t i = 0; i < kq_array_size(now); i++)
        assert_string_equal(next(&listing), now[i]);
    close_listing(&listing);
}

static void partitions_that_come_while_listing_are_listed(void **state)
{
    struct tree *tree = *state;
    struct kq_attributes attributes = {.mode = 0600};
    struct listing listing = open_listing(tree, KQ_VIEW_BY_TIME, -1);
    for (int i = 0; i < 4; i++) /* . .. p0 p1 */
        assert_non_null(next(&listing));
    assert_int_equal(kq_topic_add_partition(tree->topic, &ground_caller, 2, &attributes), 0);
    assert_string_equal(next(&listing), "p2");
    assert_null(next(&listing));
    close_listing(&listing);
}

static void a_cookie_that_was_never_given_reads_no_stray_bytes(void **state)
{
    struct tree *tree = *state;
    struct listing listing = open_listing(tree, KQ_VIEW_ROOT, -1);
    while (next(&listing))
        ;
    struct kq_dir_item item;
    off_t end = listing.at;
    for (off_t at = 3; at < end; at++)
        assert_int_equal(kq_dir_next(&tree->fs, &listing.node, listing.dir, at, true, &item),
                         -EINVAL);
    assert_int_equal(kq_dir_next(&tree->fs, &listing.node, listing.dir, -1, true, &item), -EINVAL);
    assert_int_equal(kq_dir_next(&tree->fs, &listing.node, listing.dir, INT64_MAX, true, &item),
                     KQ_END);
    close_listing(&listing);
    struct listing segments = open_listing(tree, KQ_VIEW_SEGMENTS_PARTITION, 0);
    assert_int_equal(kq_dir_next(&tree->fs, &segments.node, NULL, INT64_MAX, true, &item), KQ_END);
    close_listing(&segments);
}

static void inodes_and_types_are_those_of_stat(void **state)
{
    struct tree *tree = *state;
    struct listing listing = open_listing(tree, KQ_VIEW_TOPIC, -1);
    struct kq_dir_item item;
    while (kq_dir_next(&tree->fs, &listing.node, NULL, listing.at, true, &item) == 0) {
        listing.at = item.next;
        if (item.place.view == KQ_VIEW_NONE) {
            assert_int_equal(item.mode, S_IFDIR);
            assert_int_equal(item.inode, strcmp(item.name, ".") == 0
                                             ? kq_inode(KQ_VIEW_TOPIC, tree->topic, -1, 0)
                                             : FUSE_ROOT_ID);
            continue;
        }
        struct fuse_entry_param entry;
        assert_int_equal(kq_place_enter(&tree->fs, &item.place, true, &entry), 0);
        assert_int_equal(entry.attr.st_ino, item.inode);
        assert_int_equal(entry.attr.st_mode & S_IFMT, item.mode);
        kq_node_forget(tree->fs.nodes, entry.ino, 1);
        kq_place_release(&item.place);
    }
    close_listing(&listing);
}

static void only_directories_of_topics_that_are_there_open(void **state)
{
    struct tree *tree = *state;
    struct kq_dir *dir;
    struct kq_node file = {.view = KQ_VIEW_METRICS};
    struct kq_node topic = {.view = KQ_VIEW_TOPIC, .topic = tree->topic};
    assert_int_equal(kq_dir_new(&file, &dir), -ENOTDIR);
    assert_int_equal(kq_dir_new(&topic, &dir), 0);
    kq_dir_free(dir);
    assert_int_equal(kq_topic_delete(tree->topic, &ground_caller, false), 0);
    assert_int_equal(kq_dir_new(&topic, &dir), -ESTALE);
}

#define TREE_TEST(name) cmocka_unit_test_setup_teardown(name, tree_setup, tree_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TREE_TEST(each_directory_lists_what_may_be_read_once),
        TREE_TEST(sealed_segments_are_listed_by_their_first_offset),
        TREE_TEST(topics_that_come_and_go_move_no_other),
        TREE_TEST(partitions_that_come_while_listing_are_listed),
        TREE_TEST(a_cookie_that_was_never_given_reads_no_stray_bytes),
        TREE_TEST(inodes_and_types_are_those_of_stat),
        TREE_TEST(only_directories_of_topics_that_are_there_open),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
