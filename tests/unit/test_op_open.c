/* OPEN, READ and LSEEK. */
#include "tests/unit/kernel.h"

#include "fs/handle.h"

static int try_open(struct kernel *kernel, const char *path, int flags)
{
    uint64_t node = kernel_node(kernel, path), fh = 0;
    int r = kernel_open(kernel, node, flags, &fh);
    if (r == 0)
        assert_int_equal(kernel_close(kernel, node, fh), 0);
    kernel_forget(kernel, node);
    return r;
}

static void partitions_open_for_appending_only(void **state)
{
    static const char *const paths[] = {"orders/p0", "orders/p0.jsonl"};
    struct kernel *kernel = *state;
    for (size_t i = 0; i < kq_array_size(paths); i++) {
        assert_int_equal(try_open(kernel, paths[i], O_RDONLY), 0);
        assert_int_equal(try_open(kernel, paths[i], O_WRONLY | O_APPEND), 0);
        assert_int_equal(try_open(kernel, paths[i], O_RDWR | O_APPEND), 0);
        assert_int_equal(try_open(kernel, paths[i], O_WRONLY), -EPERM);
        assert_int_equal(try_open(kernel, paths[i], O_RDWR), -EPERM);
        assert_int_equal(try_open(kernel, paths[i], O_WRONLY | O_APPEND | O_TRUNC), -EPERM);
        assert_int_equal(try_open(kernel, paths[i], O_RDONLY | O_TRUNC), -EPERM);
    }
}

static void append_opens_in_any_way(void **state)
{
    static const int flags[] = {O_RDONLY, O_WRONLY, O_WRONLY | O_TRUNC, O_RDWR,
                                O_WRONLY | O_APPEND};
    struct kernel *kernel = *state;
    for (size_t i = 0; i < kq_array_size(flags); i++)
        assert_int_equal(try_open(kernel, "orders/append", flags[i]), 0);
    kernel_assert_text(kernel, "orders/append", "");
}

static void views_that_show_are_not_written_to(void **state)
{
    static const char *const paths[] = {"orders/p0.stream",      "orders/p0.log",
                                        "orders/by-offset/p0/0", "orders/by-offset/p0/0.jsonl",
                                        ".kqfs/metrics",         "orders/p0.jsonl.stream"};
    struct kernel *kernel = *state;
    for (size_t i = 0; i < kq_array_size(paths); i++) {
        assert_int_equal(try_open(kernel, paths[i], O_RDONLY), 0);
        assert_int_equal(try_open(kernel, paths[i], O_WRONLY | O_APPEND), -EPERM);
        assert_int_equal(try_open(kernel, paths[i], O_RDWR | O_APPEND), -EPERM);
    }
}

/* What the kernel is told of a file: to keep its pages, to ask for each read, not to seek. */
static uint32_t open_flags(struct kernel *kernel, const char *path, int flags)
{
    struct fuse_open_in in = {.flags = (uint32_t)flags};
    struct fuse_open_out out;
    uint64_t node = kernel_node(kernel, path);
    assert_int_equal(
        kernel_call(kernel, FUSE_OPEN, node, &in, sizeof(in), NULL, 0, &out, sizeof(out)),
        sizeof(out));
    assert_int_equal(kernel_close(kernel, node, out.fh), 0);
    kernel_forget(kernel, node);
    return out.open_flags;
}

static void only_what_never_grows_is_kept_by_the_kernel(void **state)
{
    struct kernel *kernel = *state;
    uint32_t kept = FOPEN_KEEP_CACHE | FOPEN_DIRECT_IO | FOPEN_NONSEEKABLE;
    assert_int_equal(kernel_append(kernel, "orders/p0", "one\n"), 0);
    assert_int_equal(open_flags(kernel, "orders/p0", O_RDONLY) & kept, FOPEN_DIRECT_IO);
    assert_int_equal(open_flags(kernel, "orders/p0.log", O_RDONLY) & kept, FOPEN_DIRECT_IO);
    assert_int_equal(open_flags(kernel, "orders/p0.stream", O_RDONLY) & kept,
                     FOPEN_DIRECT_IO | FOPEN_NONSEEKABLE);
    assert_int_equal(open_flags(kernel, "orders/by-offset/p0/0.value", O_RDONLY) & kept,
                     FOPEN_KEEP_CACHE);
}

static void what_is_gone_or_not_yet_there_does_not_open(void **state)
{
    struct kernel *kernel = *state;
    struct kq_topic *topic = ground_find(&kernel->ground, "orders");
    struct kq_access access = ground_access(topic, 0);
    assert_int_equal(kernel_append(kernel, "orders/p0", "one\ntwo\n"), 0);
    uint64_t first = kernel_node(kernel, "orders/by-offset/p0/0"),
             end = kernel_node(kernel, "orders/by-offset/p0/2"), fh = 0,
             before = kernel_node(kernel, "orders/p0");
    assert_int_equal(kernel_walk(kernel, "orders/by-offset/p0/3"), 0);
    assert_int_equal(errno, ENOENT);
    assert_int_equal(kernel_walk(kernel, "orders/by-offset/p0/2.value"), 0);
    assert_int_equal(kq_delete_records(access.partition, &ground_caller, 1), 0);
    assert_int_equal(kernel_open(kernel, first, O_RDONLY, &fh), -ENOENT);
    assert_int_equal(kernel_open(kernel, before, O_RDONLY, &fh), -ESTALE);
    assert_int_equal(kernel_open(kernel, end, O_RDONLY, &fh), 0);
    assert_int_equal(kernel_close(kernel, end, fh), 0);
    kernel_assert_text(kernel, "orders/p0", "two\n");
    kq_topic_unref(topic);
}

static void open_handles_keep_their_bytes_until_retention_takes_them(void **state)
{
    struct kernel *kernel = *state;
    struct kq_topic *topic = ground_find(&kernel->ground, "orders");
    struct kq_access access = ground_access(topic, 0);
    char text[64];
    assert_int_equal(kernel_append(kernel, "orders/p0", "one\ntwo\n"), 0);
    uint64_t node, fh = kernel_open_path(kernel, "orders/p0", O_RDONLY, &node);
    assert_int_equal(kernel_read(kernel, node, fh, 0, text, 4), 4);
    assert_int_equal(kq_delete_records(access.partition, &ground_caller, 1), 0);
    assert_int_equal(kernel_read(kernel, node, fh, 0, text, 4), -ESTALE);
    assert_int_equal(kernel_read(kernel, node, fh, 4, text, 4), 4);
    assert_memory_equal(text, "two\n", 4);
    assert_int_equal(kernel_append(kernel, "orders/p0", "three\n"), 0);
    assert_int_equal(kernel_read(kernel, node, fh, 8, text, sizeof(text)), 6);
    assert_memory_equal(text, "three\n", 6);
    assert_int_equal(kernel_close(kernel, node, fh), 0);
    kq_topic_unref(topic);
}

static void reads_are_exact_anywhere(void **state)
{
    static const char expected[] = "one\ntwo\nthree\n";
    struct kernel *kernel = *state;
    const size_t length = sizeof(expected) - 1;
    char text[64];
    assert_int_equal(kernel_append(kernel, "orders/p0", expected), 0);
    uint64_t node, fh = kernel_open_path(kernel, "orders/p0", O_RDONLY, &node);
    for (size_t from = 0; from <= length + 2; from++)
        for (size_t size = 1; size <= length + 2; size++) {
            size_t start = from < length ? from : length;
            size_t n = size < length - start ? size : length - start;
            assert_int_equal(kernel_read(kernel, node, fh, (int64_t)from, text, size), n);
            assert_memory_equal(text, expected + start, n);
        }
    assert_int_equal(kernel_close(kernel, node, fh), 0);
}

static void a_half_line_is_read_once_its_file_was_closed(void **state)
{
    struct kernel *kernel = *state;
    uint64_t node, fh = kernel_open_path(kernel, "orders/p0", O_WRONLY | O_APPEND, &node);
    assert_int_equal(kernel_write(kernel, node, fh, O_WRONLY, "one\nha"), 6);
    kernel_assert_text(kernel, "orders/p0", "one\n");
    assert_int_equal(kernel_write(kernel, node, fh, O_WRONLY, "lf"), 2);
    assert_int_equal(kernel_close(kernel, node, fh), 0);
    kernel_assert_text(kernel, "orders/p0", "one\nhalf\n");
}

static void *release(void *argument)
{
    struct kernel *kernel = argument;
    struct kq_handle *handle = LIST_FIRST(&kernel->fs.handles->open);
    struct fuse_release_in in = {.fh = (uintptr_t)handle};
    assert_int_equal(kernel_simple(kernel, FUSE_RELEASE, 0, &in, sizeof(in), NULL), 0);
    return NULL;
}

/* close(2) has returned after FLUSH, and RELEASE is on its way when the next one reads. */
static void who_reads_after_a_close_waits_for_its_half_line(void **state)
{
    struct kernel *kernel = *state;
    pthread_t thread;
    uint64_t node, fh = kernel_open_path(kernel, "orders/p0", O_WRONLY | O_APPEND, &node);
    struct fuse_flush_in flush = {.fh = fh};
    assert_int_equal(kernel_write(kernel, node, fh, O_WRONLY, "half"), 4);
    assert_int_equal(kernel_simple(kernel, FUSE_FLUSH, node, &flush, sizeof(flush), NULL), 0);
    kq_handle_announce_release(fh);
    assert_int_equal(pthread_create(&thread, NULL, release, kernel), 0);
    kernel_assert_text(kernel, "orders/p0", "half\n");
    pthread_join(thread, NULL);
}

static void a_caller_who_may_not_is_refused_whatever_the_kernel_thought(void **state)
{
    struct kernel *kernel = *state;
    kernel->ground.denied = KQ_RIGHT_READ;
    assert_int_equal(try_open(kernel, "orders/p0", O_RDONLY), -EACCES);
    assert_int_equal(try_open(kernel, "orders/p0", O_RDWR | O_APPEND), -EACCES);
    assert_int_equal(try_open(kernel, "orders/p0", O_WRONLY | O_APPEND), 0);
    kernel->ground.denied = KQ_RIGHT_WRITE;
    assert_int_equal(try_open(kernel, "orders/append", O_WRONLY), -EACCES);
    assert_int_equal(try_open(kernel, "orders/append", O_RDONLY), 0);
}

static void an_open_whose_answer_is_not_taken_holds_nothing(void **state)
{
    struct kernel *kernel = *state;
    uint64_t node = kernel_node(kernel, "orders/p0"), fh = 0;
    kernel->refuse = ENODEV;
    kernel_open(kernel, node, O_RDONLY, &fh);
    assert_true(LIST_EMPTY(&kernel->fs.handles->open));
}

static void holes_are_not_looked_for(void **state)
{
    struct kernel *kernel = *state;
    uint64_t node, fh = kernel_open_path(kernel, "orders/p0.log", O_RDONLY, &node);
    struct fuse_lseek_in in = {.fh = fh, .whence = SEEK_HOLE};
    assert_int_equal(kernel_simple(kernel, FUSE_LSEEK, node, &in, sizeof(in), NULL), -ENOSYS);
    assert_int_equal(kernel_close(kernel, node, fh), 0);
}

static void a_node_that_is_not_known_is_stale(void **state)
{
    struct kernel *kernel = *state;
    uint64_t node = kernel_node(kernel, "orders/p0"), fh = 0;
    kernel_forget(kernel, node);
    assert_int_equal(kernel_open(kernel, node, O_RDONLY, &fh), -ESTALE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        KERNEL_TEST(partitions_open_for_appending_only),
        KERNEL_TEST(append_opens_in_any_way),
        KERNEL_TEST(views_that_show_are_not_written_to),
        KERNEL_TEST(only_what_never_grows_is_kept_by_the_kernel),
        KERNEL_TEST(what_is_gone_or_not_yet_there_does_not_open),
        KERNEL_TEST(open_handles_keep_their_bytes_until_retention_takes_them),
        KERNEL_TEST(reads_are_exact_anywhere),
        KERNEL_TEST(a_half_line_is_read_once_its_file_was_closed),
        KERNEL_TEST(who_reads_after_a_close_waits_for_its_half_line),
        KERNEL_TEST(a_caller_who_may_not_is_refused_whatever_the_kernel_thought),
        KERNEL_TEST(an_open_whose_answer_is_not_taken_holds_nothing),
        KERNEL_TEST(holes_are_not_looked_for),
        KERNEL_TEST(a_node_that_is_not_known_is_stale),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
