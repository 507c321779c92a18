/* POLL: what is ready, and who is woken when it becomes so. */
#include "tests/unit/kernel.h"

#include <poll.h>

#define READY (POLLIN | POLLRDNORM | POLLOUT | POLLWRNORM)
#define DATA (POLLIN | POLLRDNORM)

static void files_that_do_not_block_are_always_ready(void **state)
{
    static const char *const paths[] = {"orders/p0", "orders/p0.log", "orders/p0.jsonl",
                                        "orders/by-offset/p0/0", ".kqfs/version"};
    struct kernel *kernel = *state;
    for (size_t i = 0; i < kq_array_size(paths); i++) {
        uint64_t node, fh = kernel_open_path(kernel, paths[i], O_RDONLY, &node);
        assert_int_equal(kernel_poll(kernel, node, fh, 1), READY);
        assert_int_equal(kernel_close(kernel, node, fh), 0);
    }
    assert_int_equal(kernel_append(kernel, "orders/p0", "one\n"), 0);
    assert_false(kernel_has_notice(kernel));
}

static void a_stream_is_ready_when_there_is_a_message(void **state)
{
    static const char *const paths[] = {"orders/p0.stream", "orders/p0.jsonl.stream",
                                        "orders/by-offset/p0/0.stream"};
    struct kernel *kernel = *state;
    char text[256];
    for (size_t i = 0; i < kq_array_size(paths); i++) {
        uint64_t node, fh = kernel_open_path(kernel, paths[i], O_RDONLY, &node);
        while (kernel_poll(kernel, node, fh, 0) != 0)
            assert_true(kernel_read(kernel, node, fh, 0, text, sizeof(text)) > 0);
        assert_int_equal(kernel_poll(kernel, node, fh, 7), 0);
        kernel_drop_notices(kernel);
        assert_int_equal(kernel_append(kernel, "orders/p0", "one\n"), 0);
        kernel_assert_notices(kernel, "poll 7", NULL);
        assert_int_equal(kernel_poll(kernel, node, fh, 0), DATA);
        assert_int_equal(kernel_close(kernel, node, fh), 0);
        kernel_drop_notices(kernel);
    }
}

static void the_last_poll_is_the_one_that_is_woken(void **state)
{
    struct kernel *kernel = *state;
    uint64_t node, fh = kernel_open_path(kernel, "orders/p0.stream", O_RDONLY, &node);
    for (uint64_t handle = 1; handle < 50; handle++)
        assert_int_equal(kernel_poll(kernel, node, fh, handle), 0);
    assert_int_equal(kernel_append(kernel, "orders/p0", "one\n"), 0);
    kernel_assert_notices(kernel, "poll 49", NULL);
    assert_int_equal(kernel_append(kernel, "orders/p0", "two\n"), 0);
    assert_int_equal(kernel_close(kernel, node, fh), 0);
    kq_notify_inode(&kernel->fs, 1);
    kernel_assert_notices(kernel, "inode 1", NULL); /* woken once for one poll */
}

static void who_closed_is_not_woken(void **state)
{
    struct kernel *kernel = *state;
    uint64_t node, fh = kernel_open_path(kernel, "orders/p0.stream", O_RDONLY, &node);
    assert_int_equal(kernel_poll(kernel, node, fh, 5), 0);
    assert_int_equal(kernel_close(kernel, node, fh), 0);
    assert_int_equal(kernel_append(kernel, "orders/p0", "one\n"), 0);
    kq_notify_inode(&kernel->fs, 1);
    kernel_assert_notices(kernel, "inode 1", NULL);
}

static void the_end_of_a_topic_wakes(void **state)
{
    struct kernel *kernel = *state;
    uint64_t node, fh = kernel_open_path(kernel, "orders/p0.stream", O_RDONLY, &node);
    assert_int_equal(kernel_poll(kernel, node, fh, 5), 0);
    struct kq_topic *topic = ground_find(&kernel->ground, "orders");
    assert_int_equal(kq_topic_delete(topic, &ground_caller, false), 0);
    kq_topic_unref(topic);
    bool woken = false;
    while (!woken)
        woken = strcmp(kernel_notice(kernel), "poll 5") == 0;
    assert_int_equal(kernel_poll(kernel, node, fh, 0), DATA);
    assert_int_equal(kernel_close(kernel, node, fh), 0);
}

static void the_end_of_the_mount_wakes(void **state)
{
    struct kernel *kernel = *state;
    uint64_t node, fh = kernel_open_path(kernel, "orders/p0.stream", O_RDONLY, &node);
    assert_int_equal(kernel_poll(kernel, node, fh, 5), 0);
    kq_handles_unpark_all(kernel->fs.handles);
    kernel_assert_notices(kernel, "poll 5", NULL);
    assert_int_equal(kernel_close(kernel, node, fh), 0);
}

/* --- Reads that wait --- */

static uint64_t send_read(struct kernel *kernel, uint64_t node, uint64_t fh)
{
    struct fuse_read_in in = {.fh = fh, .size = 4096};
    return kernel_send(kernel, FUSE_READ, node, &in, sizeof(in), NULL, 0);
}

static void a_read_at_the_end_waits_for_a_message_an_interrupt_or_the_end(void **state)
{
    struct kernel *kernel = *state;
    char text[64];
    uint64_t node, fh = kernel_open_path(kernel, "orders/p0.stream", O_RDONLY, &node);
    uint64_t unique = send_read(kernel, node, fh);
    assert_false(kernel_is_answered(kernel, unique));
    assert_int_equal(kernel_append(kernel, "orders/p0", "one\n"), 0);
    assert_int_equal(kernel_answer(kernel, unique, text, sizeof(text)), 4);
    assert_memory_equal(text, "one\n", 4);

    unique = send_read(kernel, node, fh);
    struct fuse_interrupt_in in = {.unique = unique};
    kernel_send(kernel, FUSE_INTERRUPT, 0, &in, sizeof(in), NULL, 0);
    assert_int_equal(kernel_answer(kernel, unique, NULL, 0), -EINTR);

    unique = send_read(kernel, node, fh);
    kq_handles_unpark_all(kernel->fs.handles);
    assert_int_equal(kernel_answer(kernel, unique, NULL, 0), 0);
    assert_int_equal(kernel_close(kernel, node, fh), 0);
}

static void a_read_that_may_not_wait_is_eagain(void **state)
{
    struct kernel *kernel = *state;
    uint64_t node, fh = kernel_open_path(kernel, "orders/p0.stream", O_RDONLY, &node);
    struct fuse_read_in in = {.fh = fh, .size = 4096, .flags = O_NONBLOCK};
    assert_int_equal(kernel_simple(kernel, FUSE_READ, node, &in, sizeof(in), NULL), -EAGAIN);
    assert_int_equal(kernel_close(kernel, node, fh), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        KERNEL_TEST(files_that_do_not_block_are_always_ready),
        KERNEL_TEST(a_stream_is_ready_when_there_is_a_message),
        KERNEL_TEST(the_last_poll_is_the_one_that_is_woken),
        KERNEL_TEST(who_closed_is_not_woken),
        KERNEL_TEST(the_end_of_a_topic_wakes),
        KERNEL_TEST(the_end_of_the_mount_wakes),
        KERNEL_TEST(a_read_at_the_end_waits_for_a_message_an_interrupt_or_the_end),
        KERNEL_TEST(a_read_that_may_not_wait_is_eagain),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
