/* LOOKUP, FORGET, READLINK, READDIR and STATFS. */
#include "tests/unit/kernel.h"

static uint64_t open_directory(struct kernel *kernel, uint64_t node)
{
    struct fuse_open_in in = {0};
    struct fuse_open_out out;
    ssize_t n =
        kernel_call(kernel, FUSE_OPENDIR, node, &in, sizeof(in), NULL, 0, &out, sizeof(out));
    assert_int_equal(n, sizeof(out));
    return out.fh;
}

static void close_directory(struct kernel *kernel, uint64_t node, uint64_t fh)
{
    struct fuse_release_in in = {.fh = fh};
    assert_int_equal(kernel_simple(kernel, FUSE_RELEASEDIR, node, &in, sizeof(in), NULL), 0);
}

/* One READDIR of SIZE bytes from *OFFSET on: appends the names to NAMES, each with a blank behind.
 * Returns how many there were. */
static int list_some(struct kernel *kernel, uint64_t node, uint64_t fh, uint64_t *offset,
                     uint32_t size, char *names)
{
    struct fuse_read_in in = {.fh = fh, .offset = *offset, .size = size};
    char *bytes = malloc(size);
    int count = 0;
    ssize_t n = kernel_call(kernel, FUSE_READDIR, node, &in, sizeof(in), NULL, 0, bytes, size);
    assert_in_range(n, 0, size);
    for (ssize_t at = 0; at < n; count++) {
        const struct fuse_dirent *entry = (const void *)(bytes + at);
        sprintf(names + strlen(names), "%.*s ", (int)entry->namelen, entry->name);
        *offset = entry->off;
        at += (ssize_t)FUSE_DIRENT_SIZE(entry);
    }
    free(bytes);
    return count;
}

static void list(struct kernel *kernel, const char *path, uint32_t size, char *names)
{
    uint64_t node = *path ? kernel_node(kernel, path) : FUSE_ROOT_ID;
    uint64_t fh = open_directory(kernel, node), offset = 0;
    names[0] = '\0';
    while (list_some(kernel, node, fh, &offset, size, names) > 0)
        ;
    close_directory(kernel, node, fh);
    if (*path)
        kernel_forget(kernel, node);
}

/* --- LOOKUP --- */

static void a_lookup_answers_node_attributes_and_how_long_they_hold(void **state)
{
    struct kernel *kernel = *state;
    struct fuse_entry_out entry;
    assert_int_equal(kernel_lookup(kernel, FUSE_ROOT_ID, "orders", &entry), 0);
    assert_int_equal(entry.attr.mode, S_IFDIR | S_ISVTX | 0750);
    assert_int_equal(entry.attr_valid, 1);
    assert_true(entry.entry_valid >= 1);
    uint64_t orders = entry.nodeid;
    assert_int_equal(kernel_lookup(kernel, orders, "p0", &entry), 0);
    assert_int_equal(entry.attr.mode, S_IFREG | 0640);
    assert_int_equal(entry.attr_valid, 0);
    assert_int_equal(entry.attr_valid_nsec, 0);
}

static void append_is_another_node_for_each_who_asks_but_one_file(void **state)
{
    struct kernel *kernel = *state;
    struct fuse_entry_out first, second;
    uint64_t orders = kernel_node(kernel, "orders");
    assert_int_equal(kernel_lookup(kernel, orders, "append", &first), 0);
    assert_int_equal(kernel_lookup(kernel, orders, "append", &second), 0);
    assert_int_not_equal(first.nodeid, second.nodeid);
    assert_int_equal(first.attr.ino, second.attr.ino);
    assert_int_equal(first.entry_valid + first.entry_valid_nsec, 0);
}

static void a_name_that_leads_nowhere_is_enoent(void **state)
{
    static const char *const names[] = {"p2", "p00", "px", "notes", "p0.txt", "by-offse"};
    struct kernel *kernel = *state;
    struct fuse_entry_out entry;
    char longest[300];
    uint64_t orders = kernel_node(kernel, "orders");
    for (size_t i = 0; i < kq_array_size(names); i++)
        assert_int_equal(kernel_lookup(kernel, orders, names[i], &entry), -ENOENT);
    assert_int_equal(kernel_lookup(kernel, FUSE_ROOT_ID, "bills", &entry), -ENOENT);
    memset(longest, 'x', 299);
    longest[299] = '\0';
    assert_int_equal(kernel_lookup(kernel, orders, longest, &entry), -ENAMETOOLONG);
}

static void who_is_forgotten_is_stale(void **state)
{
    struct kernel *kernel = *state;
    struct fuse_entry_out entry;
    uint64_t orders = kernel_node(kernel, "orders");
    assert_int_equal(kernel_lookup(kernel, FUSE_ROOT_ID, "orders", &entry), 0);
    kernel_forget(kernel, orders);
    assert_int_equal(kernel_lookup(kernel, orders, "p1", &entry), 0); /* one lookup is left */
    kernel_forget(kernel, entry.nodeid);
    kernel_forget(kernel, orders);
    assert_int_equal(kernel_lookup(kernel, orders, "p0", &entry), -ESTALE);
}

static void many_are_forgotten_in_one_request(void **state)
{
    struct kernel *kernel = *state;
    struct {
        struct fuse_batch_forget_in in;
        struct fuse_forget_one one[2];
    } all = {.in = {.count = 2}};
    struct fuse_attr_out attr;
    all.one[0] = (struct fuse_forget_one){.nodeid = kernel_node(kernel, "orders"), .nlookup = 1};
    all.one[1] = (struct fuse_forget_one){.nodeid = kernel_node(kernel, "orders/p0"), .nlookup = 1};
    kernel_send(kernel, FUSE_BATCH_FORGET, 0, &all, sizeof(all), NULL, 0);
    for (int i = 0; i < 2; i++)
        assert_int_equal(kernel_getattr(kernel, all.one[i].nodeid, &attr), -ESTALE);
}

static void a_lookup_whose_answer_is_not_taken_does_not_count(void **state)
{
    struct kernel *kernel = *state;
    struct fuse_entry_out entry = {0};
    struct fuse_attr_out attr;
    kernel->refuse = ENODEV;
    assert_int_equal(kernel_lookup(kernel, FUSE_ROOT_ID, "orders", &entry), 0);
    assert_int_equal(kernel_getattr(kernel, entry.nodeid, &attr), -ESTALE);
}

static void links_say_where_they_lead(void **state)
{
    struct kernel *kernel = *state;
    char target[256] = "";
    assert_int_equal(kernel_append(kernel, "orders/p0", "one\ntwo\n"), 0);
    uint64_t node = kernel_node(kernel, "orders/by-offset/p0/latest");
    assert_int_equal(
        kernel_call(kernel, FUSE_READLINK, node, NULL, 0, NULL, 0, target, sizeof(target)), 1);
    assert_string_equal(target, "2");
    node = kernel_node(kernel, "orders/p0");
    assert_int_equal(kernel_call(kernel, FUSE_READLINK, node, NULL, 0, NULL, 0, NULL, 0), -EINVAL);
}

/* --- READDIR --- */

static void listings_are_what_may_be_read_once(void **state)
{
    struct kernel *kernel = *state;
    char names[1024];
    list(kernel, "", 4096, names);
    assert_string_equal(names, ". .. orders ");
    list(kernel, "orders", 4096, names);
    assert_string_equal(names, ". .. append by-offset by-segment by-time p0 p1 ");
    list(kernel, "orders/by-offset/p0", 4096, names);
    assert_string_equal(names, ". .. earliest latest ");
    list(kernel, "orders/by-time/p0", 4096, names);
    assert_string_equal(names, ". .. ");
    list(kernel, ".kqfs", 4096, names);
    assert_string_equal(names, ". .. config groups metrics segments users version ");
}

static void a_listing_in_small_pieces_has_each_name_once(void **state)
{
    struct kernel *kernel = *state;
    char all[4096], pieces[4096], name[16];
    for (int i = 0; i < 50; i++) {
        snprintf(name, sizeof(name), "t%d", i);
        kq_topic_unref(ground_topic(&kernel->ground, name, 1));
    }
    list(kernel, "", 65536, all);
    for (uint32_t size = 32; size < 400; size += 40) {
        list(kernel, "", size, pieces);
        assert_string_equal(pieces, all);
    }
}

static void no_name_fits_no_bytes(void **state)
{
    struct kernel *kernel = *state;
    uint64_t fh = open_directory(kernel, FUSE_ROOT_ID), offset = 0;
    char names[256] = "";
    assert_int_equal(list_some(kernel, FUSE_ROOT_ID, fh, &offset, 8, names), 0);
    assert_int_equal(list_some(kernel, FUSE_ROOT_ID, fh, &offset, 4096, names), 3);
    close_directory(kernel, FUSE_ROOT_ID, fh);
}

/* Calls READDIRPLUS and sums up the nodes that came with it. */
static int list_plus(struct kernel *kernel, uint64_t node, uint64_t fh, uint64_t *nodes)
{
    struct fuse_read_in in = {.fh = fh, .size = 8192};
    char bytes[8192];
    int count = 0;
    ssize_t n =
        kernel_call(kernel, FUSE_READDIRPLUS, node, &in, sizeof(in), NULL, 0, bytes, sizeof(bytes));
    assert_in_range(n, 1, sizeof(bytes));
    for (ssize_t at = 0; at < n;) {
        struct fuse_direntplus entry;
        memcpy(&entry, bytes + at, FUSE_NAME_OFFSET_DIRENTPLUS);
        if (entry.entry_out.nodeid)
            nodes[count++] = entry.entry_out.nodeid;
        at += (ssize_t)FUSE_DIRENTPLUS_SIZE(&entry);
    }
    return count;
}

static void names_come_with_nodes_where_they_are_kept(void **state)
{
    struct kernel *kernel = *state;
    uint64_t orders = kernel_node(kernel, "orders"), fh = open_directory(kernel, orders);
    uint64_t nodes[16];
    struct fuse_attr_out attr;
    int count = list_plus(kernel, orders, fh, nodes);
    assert_int_equal(count, 5); /* by-* and the partitions; append is another each time */
    for (int i = 0; i < count; i++) {
        assert_int_equal(kernel_getattr(kernel, nodes[i], &attr), 0);
        kernel_forget(kernel, nodes[i]);
    }
    close_directory(kernel, orders, fh);
}

static void nodes_of_a_listing_that_is_not_taken_do_not_count(void **state)
{
    struct kernel *kernel = *state;
    uint64_t fh = open_directory(kernel, FUSE_ROOT_ID), nodes[16];
    struct fuse_attr_out attr;
    kernel->refuse = ENODEV;
    assert_int_equal(list_plus(kernel, FUSE_ROOT_ID, fh, nodes), 1);
    assert_int_equal(kernel_getattr(kernel, nodes[0], &attr), -ESTALE);
    close_directory(kernel, FUSE_ROOT_ID, fh);
}

static void a_topic_that_went_is_left_out_of_a_listing_under_way(void **state)
{
    struct kernel *kernel = *state;
    uint64_t fh, offset = 0;
    char names[1024] = "";
    kq_topic_unref(ground_topic(&kernel->ground, "a", 1));
    kq_topic_unref(ground_topic(&kernel->ground, "z", 1));
    fh = open_directory(kernel, FUSE_ROOT_ID);
    assert_int_equal(list_some(kernel, FUSE_ROOT_ID, fh, &offset, 100, names), 3);
    assert_string_equal(names, ". .. a ");
    struct kq_topic *topic = ground_find(&kernel->ground, "orders");
    assert_int_equal(kq_topic_delete(topic, &ground_caller, false), 0);
    kq_topic_unref(topic);
    while (list_some(kernel, FUSE_ROOT_ID, fh, &offset, 100, names) > 0)
        ;
    assert_string_equal(names, ". .. a z ");
    close_directory(kernel, FUSE_ROOT_ID, fh);
}

static void only_directories_can_be_listed(void **state)
{
    struct kernel *kernel = *state;
    struct fuse_open_in in = {0};
    uint64_t node = kernel_node(kernel, "orders/p0");
    assert_int_equal(kernel_simple(kernel, FUSE_OPENDIR, node, &in, sizeof(in), NULL), -ENOTDIR);
    kernel_forget(kernel, node);
    assert_int_equal(kernel_simple(kernel, FUSE_OPENDIR, node, &in, sizeof(in), NULL), -ESTALE);
}

static void statfs_tells_of_the_disk_below(void **state)
{
    struct kernel *kernel = *state;
    struct fuse_statfs_out out;
    assert_int_equal(
        kernel_call(kernel, FUSE_STATFS, FUSE_ROOT_ID, NULL, 0, NULL, 0, &out, sizeof(out)),
        sizeof(out));
    assert_int_equal(out.st.namelen, 249);
    assert_true(out.st.blocks > 0);
    assert_true(out.st.bfree <= out.st.blocks);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        KERNEL_TEST(a_lookup_answers_node_attributes_and_how_long_they_hold),
        KERNEL_TEST(append_is_another_node_for_each_who_asks_but_one_file),
        KERNEL_TEST(a_name_that_leads_nowhere_is_enoent),
        KERNEL_TEST(who_is_forgotten_is_stale),
        KERNEL_TEST(many_are_forgotten_in_one_request),
        KERNEL_TEST(a_lookup_whose_answer_is_not_taken_does_not_count),
        KERNEL_TEST(links_say_where_they_lead),
        KERNEL_TEST(listings_are_what_may_be_read_once),
        KERNEL_TEST(a_listing_in_small_pieces_has_each_name_once),
        KERNEL_TEST(no_name_fits_no_bytes),
        KERNEL_TEST(names_come_with_nodes_where_they_are_kept),
        KERNEL_TEST(nodes_of_a_listing_that_is_not_taken_do_not_count),
        KERNEL_TEST(a_topic_that_went_is_left_out_of_a_listing_under_way),
        KERNEL_TEST(only_directories_can_be_listed),
        KERNEL_TEST(statfs_tells_of_the_disk_below),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
