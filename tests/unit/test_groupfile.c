/* Files of groups: what they show, what reading commits, who may have a partition. */
#include "tests/unit/tree.h"

#include <fcntl.h>

#include "broker/base/fault.h"
#include "fs/attr.h"
#include "fs/dir.h"
#include "fs/groups.h"

struct stage {
    struct tree *tree;
    struct kq_fs *fs;
    struct kq_group *group;
    int64_t number;
};

static struct stage set_up(void **state)
{
    struct stage stage = {.tree = *state, .fs = &((struct tree *)*state)->fs};
    struct kq_attributes attributes = {.uid = 7, .gid = 8, .mode = 0721};
    assert_int_equal(kq_group_make(stage.fs, &ground_caller, "billing", &attributes), 0);
    assert_int_equal(kq_group_named(stage.fs, "billing", false, &stage.number), 0);
    assert_int_equal(kq_group_find(stage.fs->broker, stage.number, &stage.group), 0);
    return stage;
}

static void tear_down(struct stage *stage)
{
    kq_group_unref(stage->group);
}

/* The node of VIEW; the kernel knows it. */
static uint64_t enter(struct stage *stage, enum kq_view view, int32_t partition,
                      struct kq_node *ret)
{
    struct kq_partition *of = NULL;
    uint64_t number;
    bool of_topic = kq_view_row(view)->per_topic;
    if (partition >= 0)
        assert_int_equal(kq_partition_get(stage->tree->topic, partition, &of), 0);
    assert_int_equal(kq_node_remember(stage->fs->nodes, view, of_topic ? stage->tree->topic : NULL,
                                      of, view == KQ_VIEW_GROUPS ? 0 : stage->number, 0, &number),
                     0);
    kq_partition_unref(of);
    assert_int_equal(kq_node_resolve(stage->fs->nodes, number, ret), 0);
    return number;
}

/* An open file; NULL where it cannot be opened, and *RET_R says why. */
static struct kq_handle *open_file(struct stage *stage, enum kq_view view, int flags,
                                   const struct kq_caller *caller, int *ret_r)
{
    struct kq_node node;
    struct kq_handle *handle;
    uint64_t number = enter(stage, view, 0, &node);
    assert_int_equal(kq_handle_new(stage->fs, &node, &handle), 0);
    int r = kq_group_file_new(handle, &node, caller, flags, &handle->group);
    kq_node_forget(stage->fs->nodes, number, 1);
    if (ret_r)
        *ret_r = r;
    else
        assert_int_equal(r, 0);
    if (r == 0)
        return handle;
    kq_handle_free(handle);
    return NULL;
}

static struct kq_handle *open_text(struct stage *stage)
{
    return open_file(stage, KQ_VIEW_GROUP_TEXT, O_RDONLY, &ground_caller, NULL);
}

static int open_refused(struct stage *stage, const struct kq_caller *caller)
{
    int r;
    assert_null(open_file(stage, KQ_VIEW_GROUP_TEXT, O_RDONLY, caller, &r));
    return r;
}

/* The next SIZE - 1 bytes at *POSITION, which moves on, must be TEXT. */
static void reads(struct kq_handle *handle, int64_t *position, size_t size, const char *text)
{
    const uint8_t *bytes;
    size_t length;
    assert_int_equal(kq_group_file_read(handle->group, *position, size, true, &bytes, &length), 0);
    assert_int_equal(length, strlen(text));
    assert_memory_equal(bytes, text, length);
    *position += (int64_t)length;
}

static int read_fails(struct kq_handle *handle, int64_t position)
{
    const uint8_t *bytes;
    size_t length;
    return kq_group_file_read(handle->group, position, 4096, true, &bytes, &length);
}

static void shows(struct stage *stage, enum kq_view view, const char *text)
{
    int64_t position = 0;
    struct kq_handle *handle = open_file(stage, view, O_RDONLY, &ground_caller, NULL);
    reads(handle, &position, 4096, text);
    reads(handle, &position, 4096, "");
    kq_handle_free(handle);
}

static int set_offset(struct stage *stage, const char *text)
{
    struct kq_handle *handle =
        open_file(stage, KQ_VIEW_GROUP_OFFSET, O_WRONLY, &ground_caller, NULL);
    int r = kq_group_file_write(handle->group, text, strlen(text));
    kq_handle_free(handle);
    return r;
}

/* --- Reading --- */

static void what_was_handed_over_is_committed_by_the_next_read(void **state)
{
    struct stage stage = set_up(state);
    int64_t position = 0;
    for (int i = 0; i < 6; i++)
        tree_append(stage.tree, 0, "12345");
    shows(&stage, KQ_VIEW_GROUP_OFFSET, "");
    shows(&stage, KQ_VIEW_GROUP_LAG, "6\n");
    struct kq_handle *handle = open_text(&stage);
    reads(handle, &position, 13, "12345\n12345\n");
    shows(&stage, KQ_VIEW_GROUP_OFFSET, "");
    reads(handle, &position, 7, "12345\n");
    shows(&stage, KQ_VIEW_GROUP_OFFSET, "2\n");
    kq_handle_free(handle); /* what the last read handed over comes again */
    shows(&stage, KQ_VIEW_GROUP_LAG, "4\n");
    position = 0;
    handle = open_text(&stage);
    reads(handle, &position, 4096, "12345\n12345\n12345\n12345\n");
    reads(handle, &position, 4096, "");
    shows(&stage, KQ_VIEW_GROUP_OFFSET, "6\n");
    tree_append(stage.tree, 0, "more");
    reads(handle, &position, 4096, "more\n");
    kq_handle_free(handle);
    shows(&stage, KQ_VIEW_GROUP_LAG, "1\n");
    tear_down(&stage);
}

static void a_message_counts_when_all_of_it_was_handed_over(void **state)
{
    struct stage stage = set_up(state);
    int64_t position = 0;
    tree_append(stage.tree, 0, "a");
    tree_append(stage.tree, 0, "bcdefghi");
    struct kq_handle *handle = open_text(&stage);
    reads(handle, &position, 6, "a\nbcd");
    reads(handle, &position, 4, "efg");
    shows(&stage, KQ_VIEW_GROUP_OFFSET, "1\n");
    reads(handle, &position, 4096, "hi\n");
    shows(&stage, KQ_VIEW_GROUP_OFFSET, "1\n");
    reads(handle, &position, 4096, "");
    shows(&stage, KQ_VIEW_GROUP_OFFSET, "2\n");
    kq_handle_free(handle);
    tear_down(&stage);
}

/* The kernel makes several requests of a large read(2), unless one comes back short. */
static void a_reply_is_always_short(void **state)
{
    struct stage stage = set_up(state);
    int64_t position = 0;
    tree_append(stage.tree, 0, "123456789");
    struct kq_handle *handle = open_text(&stage);
    reads(handle, &position, 10, "123456789");
    reads(handle, &position, 1, "\n");
    kq_handle_free(handle);
    tear_down(&stage);
}

static void text_is_read_in_order(void **state)
{
    struct stage stage = set_up(state);
    int64_t position = 0;
    tree_append(stage.tree, 0, "abc");
    struct kq_handle *handle = open_text(&stage);
    assert_int_equal(read_fails(handle, 2), -ESPIPE);
    reads(handle, &position, 4096, "abc\n");
    assert_int_equal(read_fails(handle, 0), -ESPIPE);
    reads(handle, &position, 4096, "");
    kq_handle_free(handle);
    tear_down(&stage);
}

static void what_cannot_be_committed_is_not_read_past(void **state)
{
    struct stage stage = set_up(state);
    int64_t position = 0;
    tree_append(stage.tree, 0, "abc");
    struct kq_handle *handle = open_text(&stage);
    reads(handle, &position, 4096, "abc\n");
    kq_fault_arm(KQ_FAULT_WRITE, 1, ENOSPC, true);
    assert_int_equal(read_fails(handle, position), -ENOSPC);
    assert_true(kq_fault_disarm());
    reads(handle, &position, 4096, "");
    shows(&stage, KQ_VIEW_GROUP_OFFSET, "1\n");
    kq_handle_free(handle);
    tear_down(&stage);
}

static void a_reader_that_retention_overtook_is_told_once(void **state)
{
    struct stage stage = set_up(state);
    int64_t position = 0;
    for (int i = 0; i < 3; i++)
        tree_append(stage.tree, 0, "old");
    struct kq_handle *handle = open_text(&stage);
    reads(handle, &position, 5, "old\n");
    tree_drop(stage.tree, 0);
    tree_append(stage.tree, 0, "new");
    assert_int_equal(read_fails(handle, position), -ESTALE);
    reads(handle, &position, 4096, "new\n");
    reads(handle, &position, 4096, "");
    shows(&stage, KQ_VIEW_GROUP_OFFSET, "4\n");
    kq_handle_free(handle);
    tear_down(&stage);
}

/* --- Who has the partition --- */

static void a_partition_has_one_reader_until_its_file_is_closed(void **state)
{
    struct stage stage = set_up(state);
    int64_t position = 0, second_position = 0;
    tree_append(stage.tree, 0, "abc");
    struct kq_handle *first = open_text(&stage), *second;
    assert_int_equal(open_refused(&stage, &ground_caller), KQ_GROUP_OWNED);
    assert_int_equal(set_offset(&stage, "0\n"), KQ_GROUP_OWNED);
    reads(first, &position, 3, "ab");
    kq_group_file_flush(first->group); /* close(2), perhaps of one descriptor of several */
    second = open_text(&stage);
    assert_int_equal(read_fails(first, position), KQ_GROUP_OWNED);
    reads(second, &second_position, 4096, "abc\n");
    kq_handle_free(second);
    reads(first, &position, 4096, "c\n"); /* nobody has read on */
    second_position = 0;
    kq_group_file_flush(first->group);
    second = open_text(&stage);
    reads(second, &second_position, 4096, "abc\n");
    reads(second, &second_position, 4096, "");
    kq_handle_free(second);
    tree_append(stage.tree, 0, "def");
    reads(first, &position, 4096, "def\n"); /* the second one has committed abc */
    kq_handle_free(first);
    tear_down(&stage);
}

static void a_reader_of_a_deleted_group_is_told(void **state)
{
    struct stage stage = set_up(state);
    struct kq_handle *handle = open_text(&stage);
    assert_int_equal(kq_group_unmake(stage.fs, &ground_caller, "billing"), 0);
    assert_int_equal(read_fails(handle, 0), -ESTALE);
    kq_handle_free(handle);
    tear_down(&stage);
}

static void a_reader_needs_to_commit_and_to_read(void **state)
{
    struct stage stage = set_up(state);
    stage.tree->ground.denied = KQ_RIGHT_WRITE;
    assert_int_equal(open_refused(&stage, &ground_caller), -EACCES);
    stage.tree->ground.denied = KQ_RIGHT_READ;
    assert_int_equal(open_refused(&stage, &ground_caller), -EACCES);
    stage.tree->ground.denied = 0;
    tear_down(&stage);
}

/* --- The offset --- */

static void an_offset_is_set_by_a_number_or_a_word(void **state)
{
    struct stage stage = set_up(state);
    for (int i = 0; i < 5; i++)
        tree_append(stage.tree, 0, "x");
    assert_int_equal(set_offset(&stage, "3\n"), 0);
    shows(&stage, KQ_VIEW_GROUP_OFFSET, "3\n");
    shows(&stage, KQ_VIEW_GROUP_LAG, "2\n");
    assert_int_equal(set_offset(&stage, "latest"), 0);
    shows(&stage, KQ_VIEW_GROUP_OFFSET, "5\n");
    assert_int_equal(set_offset(&stage, "earliest\n"), 0);
    shows(&stage, KQ_VIEW_GROUP_OFFSET, "0\n");
    static const char *const bad[] = {
        "",     "\n",  "x",   " 1", "+1",      "-1",     "1 2",
        "1\n2", "1.0", "0x1", "1 ", "latest ", "Latest", "123456789012345678901234567890123"};
    for (size_t i = 0; i < kq_array_size(bad); i++)
        assert_int_equal(set_offset(&stage, bad[i]), -EINVAL);
    assert_int_equal(set_offset(&stage, "6"), -ERANGE);
    assert_int_equal(set_offset(&stage, "99999999999999999999"), -ERANGE);
    shows(&stage, KQ_VIEW_GROUP_OFFSET, "0\n");
    tear_down(&stage);
}

/* --- Directories --- */

static void names_of(struct stage *stage, enum kq_view view, char *names)
{
    struct kq_node node;
    struct kq_dir *dir;
    struct kq_dir_item item;
    uint64_t number = enter(stage, view, -1, &node);
    assert_int_equal(kq_dir_new(&node, &dir), 0);
    names[0] = '\0';
    for (off_t at = 0; kq_dir_next(stage->fs, &node, dir, at, true, &item) == 0; at = item.next) {
        sprintf(names + strlen(names), "%s ", item.name);
        if (item.place.view != KQ_VIEW_NONE) {
            struct fuse_entry_param entry;
            assert_int_equal(kq_place_enter(stage->fs, &item.place, true, &entry), 0);
            assert_int_equal(entry.attr.st_ino, item.inode);
            kq_node_forget(stage->fs->nodes, entry.ino, 1);
        }
        kq_place_release(&item.place);
    }
    kq_dir_free(dir);
    kq_node_forget(stage->fs->nodes, number, 1);
}

static void what_is_listed_takes_nothing_away(void **state)
{
    struct stage stage = set_up(state);
    struct kq_attributes attributes = {.uid = 1, .mode = 0700};
    char names[200];
    assert_int_equal(kq_group_make(stage.fs, &ground_caller, "a/b", &attributes), 0);
    assert_int_equal(kq_group_make(stage.fs, &ground_caller, "alpha", &attributes), 0);
    names_of(&stage, KQ_VIEW_GROUPS, names);
    assert_string_equal(names, ". .. alpha billing ");
    names_of(&stage, KQ_VIEW_GROUP, names);
    assert_string_equal(names, ". .. ");
    tree_append(stage.tree, 0, "x");
    assert_int_equal(set_offset(&stage, "1"), 0);
    names_of(&stage, KQ_VIEW_GROUP, names);
    assert_string_equal(names, ". .. orders ");
    names_of(&stage, KQ_VIEW_GROUP_TOPIC, names);
    assert_string_equal(names, ". .. p0.lag p0.offset p1.lag p1.offset ");
    tear_down(&stage);
}

static void an_offset_is_removed_by_name(void **state)
{
    struct stage stage = set_up(state);
    struct kq_node node;
    tree_append(stage.tree, 0, "x");
    assert_int_equal(set_offset(&stage, "1"), 0);
    uint64_t number = enter(&stage, KQ_VIEW_GROUP_TOPIC, -1, &node);
    assert_int_equal(kq_group_forget_offset(stage.fs, &node, &ground_caller, 0), 0);
    kq_node_forget(stage.fs->nodes, number, 1);
    shows(&stage, KQ_VIEW_GROUP_OFFSET, "");
    tear_down(&stage);
}

/* --- Owner and mode --- */

static void reading_is_shown_to_those_who_may_commit(void **state)
{
    struct stage stage = set_up(state);
    struct kq_node node;
    struct kq_attributes attributes;
    static const struct {
        enum kq_view view;
        mode_t mode;
    } wanted[] = {
        {KQ_VIEW_GROUP, 0721},        {KQ_VIEW_GROUP_TOPIC, 0721}, {KQ_VIEW_GROUP_TEXT, 0440},
        {KQ_VIEW_GROUP_OFFSET, 0620}, {KQ_VIEW_GROUP_LAG, 0620},
    };
    for (size_t i = 0; i < kq_array_size(wanted); i++) {
        bool of_partition = kq_view_row(wanted[i].view)->per_partition;
        uint64_t number = enter(&stage, wanted[i].view, of_partition ? 0 : -1, &node);
        assert_int_equal(kq_group_node_attributes(stage.fs, &node, &attributes), 0);
        assert_int_equal(attributes.mode, wanted[i].mode);
        assert_int_equal(attributes.uid, 7);
        assert_int_equal(attributes.gid, 8);
        kq_attributes_release(&attributes);
        kq_node_forget(stage.fs->nodes, number, 1);
    }
    tear_down(&stage);
}

static void an_acl_is_shown_the_same_way(void **state)
{
    /* version 2; user:: rwx, user:1000 rw-, group:: r--, mask rw-, other --- */
    static const uint8_t acl[] = {2, 0,   0,   0,   1,   0,   7,  0, 255, 255, 255, 255, 2,   0,  6,
                                  0, 232, 3,   0,   0,   4,   0,  4, 0,   255, 255, 255, 255, 16, 0,
                                  6, 0,   255, 255, 255, 255, 32, 0, 0,   0,   255, 255, 255, 255};
    struct stage stage = set_up(state);
    struct kq_node node;
    struct kq_attributes shown;
    struct kq_attributes attributes = {
        .uid = 7, .gid = 8, .mode = 0760, .acl = (uint8_t *)acl, .acl_length = sizeof(acl)};
    uint64_t group = enter(&stage, KQ_VIEW_GROUP, -1, &node);
    assert_int_equal(kq_group_node_change(stage.fs, &node, &ground_caller, &attributes), 0);
    kq_node_forget(stage.fs->nodes, group, 1);
    uint64_t text = enter(&stage, KQ_VIEW_GROUP_TEXT, 0, &node);
    assert_int_equal(kq_group_node_attributes(stage.fs, &node, &shown), 0);
    assert_int_equal(shown.acl_length, sizeof(acl));
    static const uint8_t bits[] = {4, 4, 0, 4, 0};
    for (size_t i = 0; i < kq_array_size(bits); i++)
        assert_int_equal(shown.acl[4 + 8 * i + 2], bits[i]);
    kq_attributes_release(&shown);
    kq_node_forget(stage.fs->nodes, text, 1);
    tear_down(&stage);
}

static void a_group_that_is_gone_is_stale(void **state)
{
    struct stage stage = set_up(state);
    struct kq_node node;
    struct stat stat;
    uint64_t number = enter(&stage, KQ_VIEW_GROUP, -1, &node);
    assert_int_equal(kq_group_unmake(stage.fs, &ground_caller, "billing"), 0);
    assert_int_equal(kq_group_unmake(stage.fs, &ground_caller, "billing"), KQ_GROUP_NOT_FOUND);
    assert_int_equal(kq_attr_get(stage.fs, &node, true, &stat), -ESTALE);
    assert_int_equal(kq_group_named(stage.fs, "billing", true, &stage.number), -ENOENT);
    kq_node_forget(stage.fs->nodes, number, 1);
    tear_down(&stage);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, tree_setup, tree_teardown)
    const struct CMUnitTest tests[] = {
        TEST(what_was_handed_over_is_committed_by_the_next_read),
        TEST(a_message_counts_when_all_of_it_was_handed_over),
        TEST(a_reply_is_always_short),
        TEST(text_is_read_in_order),
        TEST(what_cannot_be_committed_is_not_read_past),
        TEST(a_reader_that_retention_overtook_is_told_once),
        TEST(a_partition_has_one_reader_until_its_file_is_closed),
        TEST(a_reader_of_a_deleted_group_is_told),
        TEST(a_reader_needs_to_commit_and_to_read),
        TEST(an_offset_is_set_by_a_number_or_a_word),
        TEST(what_is_listed_takes_nothing_away),
        TEST(an_offset_is_removed_by_name),
        TEST(reading_is_shown_to_those_who_may_commit),
        TEST(an_acl_is_shown_the_same_way),
        TEST(a_group_that_is_gone_is_stale),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
