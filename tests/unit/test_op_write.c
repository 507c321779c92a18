/* WRITE, FSYNC, FLUSH and RELEASE. */
#include "tests/unit/kernel.h"

#include "broker/base/fault.h"
#include "fs/handle.h"

#define APPEND (O_WRONLY | O_APPEND)

static int64_t end_of(struct kernel *kernel, int32_t number)
{
    struct kq_topic *topic = ground_find(&kernel->ground, "orders");
    struct kq_access access = ground_access(topic, number);
    int64_t end = ground_end(&access);
    kq_topic_unref(topic);
    return end;
}

/* Is all that partition NUMBER has on disk for good? */
static bool is_synced(struct kernel *kernel, int32_t number)
{
    struct kq_topic *topic = ground_find(&kernel->ground, "orders");
    struct kq_access access = ground_access(topic, number);
    struct kq_log_bounds bounds;
    kq_bounds(access.partition, &bounds);
    kq_topic_unref(topic);
    return bounds.recovery_point == bounds.end;
}

static void a_write_is_in_the_log_when_it_returns(void **state)
{
    struct kernel *kernel = *state;
    uint64_t node, fh = kernel_open_path(kernel, "orders/p0", APPEND, &node);
    assert_int_equal(kernel_write(kernel, node, fh, APPEND, "one\ntwo\n"), 8);
    assert_int_equal(end_of(kernel, 0), 2);
    assert_false(is_synced(kernel, 0));
    assert_int_equal(kernel_close(kernel, node, fh), 0);
}

static void the_offset_of_a_write_means_nothing(void **state)
{
    struct kernel *kernel = *state;
    uint64_t node, fh = kernel_open_path(kernel, "orders/p0", APPEND, &node);
    struct fuse_write_in in = {.fh = fh, .size = 4, .offset = 1 << 20};
    for (int i = 0; i < 2; i++)
        assert_true(kernel_call(kernel, FUSE_WRITE, node, &in, sizeof(in), "one\n", 4, NULL, 0) >
                    0);
    assert_int_equal(kernel_close(kernel, node, fh), 0);
    kernel_assert_text(kernel, "orders/p0", "one\none\n");
}

static void fsync_and_o_dsync_return_when_all_is_on_disk(void **state)
{
    struct kernel *kernel = *state;
    uint64_t node, fh = kernel_open_path(kernel, "orders/p0", APPEND, &node);
    assert_int_equal(kernel_write(kernel, node, fh, APPEND, "one\n"), 4);
    assert_int_equal(kernel_fsync(kernel, node, fh), 0);
    assert_true(is_synced(kernel, 0));
    assert_int_equal(kernel_write(kernel, node, fh, APPEND, "two\n"), 4);
    assert_false(is_synced(kernel, 0));
    assert_int_equal(kernel_write(kernel, node, fh, APPEND | O_DSYNC, "three\n"), 6);
    assert_true(is_synced(kernel, 0));
    assert_int_equal(kernel_close(kernel, node, fh), 0);
}

static void fsync_of_append_reaches_every_partition_it_wrote_to(void **state)
{
    struct kernel *kernel = *state;
    struct kq_topic *topic = ground_find(&kernel->ground, "orders");
    assert_int_equal(kq_topic_set_config(topic, &ground_caller, "key.separator", ":"), 0);
    kq_topic_unref(topic);
    uint64_t node, fh = kernel_open_path(kernel, "orders/append", O_WRONLY, &node);
    assert_int_equal(kernel_write(kernel, node, fh, O_WRONLY, "a:1\nb:2\nc:3\nd:4\ne:5\n"), 20);
    assert_true(end_of(kernel, 0) > 0 && end_of(kernel, 1) > 0);
    assert_int_equal(kernel_fsync(kernel, node, fh), 0);
    assert_true(is_synced(kernel, 0) && is_synced(kernel, 1));
    assert_int_equal(kernel_close(kernel, node, fh), 0);
}

static void fsync_by_one_who_reads_syncs_all_the_same(void **state)
{
    struct kernel *kernel = *state;
    assert_int_equal(kernel_append(kernel, "orders/p0", "one\n"), 0);
    assert_int_equal(kernel_append(kernel, "orders/p1", "one\n"), 0);
    uint64_t node, fh = kernel_open_path(kernel, "orders/append", O_RDONLY, &node);
    assert_int_equal(kernel_fsync(kernel, node, fh), 0);
    assert_true(is_synced(kernel, 0) && is_synced(kernel, 1));
    assert_int_equal(kernel_close(kernel, node, fh), 0);
    fh = kernel_open_path(kernel, ".kqfs/version", O_RDONLY, &node);
    assert_int_equal(kernel_fsync(kernel, node, fh), 0);
    assert_int_equal(kernel_close(kernel, node, fh), 0);
}

static void a_topic_that_asks_for_it_is_synced_with_each_write(void **state)
{
    struct kernel *kernel = *state;
    struct kq_topic *topic = ground_find(&kernel->ground, "orders");
    assert_int_equal(kq_topic_set_config(topic, &ground_caller, "flush.messages", "1"), 0);
    kq_topic_unref(topic);
    assert_int_equal(kernel_append(kernel, "orders/p0", "one\nhalf"), 0);
    assert_int_equal(end_of(kernel, 0), 2);
    assert_true(is_synced(kernel, 0)); /* by the close, for the half line */
}

static void a_failed_sync_is_told(void **state)
{
    struct kernel *kernel = *state;
    uint64_t node, fh = kernel_open_path(kernel, "orders/p0", APPEND, &node);
    assert_int_equal(kernel_write(kernel, node, fh, APPEND, "one\n"), 4);
    kq_fault_arm(KQ_FAULT_SYNC, 1, EIO, true);
    assert_int_equal(kernel_fsync(kernel, node, fh), -EIO);
    assert_true(kq_fault_disarm());
    kernel_close(kernel, node, fh);
}

static void a_message_that_is_too_long_is_emsgsize_and_never_cut(void **state)
{
    struct kernel *kernel = *state;
    struct kq_topic *topic = ground_find(&kernel->ground, "orders");
    assert_int_equal(kq_topic_set_config(topic, &ground_caller, "max.message.bytes", "200"), 0);
    kq_topic_unref(topic);
    char line[400];
    memset(line, 'x', sizeof(line));
    line[398] = '\n';
    line[399] = '\0';
    uint64_t node, fh = kernel_open_path(kernel, "orders/p0", APPEND, &node);
    assert_int_equal(kernel_write(kernel, node, fh, APPEND, "one\n"), 4);
    assert_int_equal(kernel_write(kernel, node, fh, APPEND, line), -EMSGSIZE);
    line[398] = '\0';
    assert_int_equal(kernel_write(kernel, node, fh, APPEND, line), -EMSGSIZE);
    assert_int_equal(kernel_write(kernel, node, fh, APPEND, "its end\nnext\n"), 13);
    assert_int_equal(kernel_close(kernel, node, fh), 0);
    kernel_assert_text(kernel, "orders/p0", "one\nnext\n");
}

static void a_malformed_json_line_is_einval_and_nothing_of_its_request_is_there(void **state)
{
    struct kernel *kernel = *state;
    uint64_t node, fh = kernel_open_path(kernel, "orders/p0.jsonl", APPEND, &node);
    assert_int_equal(kernel_write(kernel, node, fh, APPEND, "{\"value\":\"a\"}\n{\"value\":\n"),
                     -EINVAL);
    assert_int_equal(end_of(kernel, 0), 0);
    assert_int_equal(kernel_write(kernel, node, fh, APPEND, "{\"value\":\"b\"}\n"), 14);
    assert_int_equal(kernel_close(kernel, node, fh), 0);
    kernel_assert_text(kernel, "orders/p0", "b\n");
}

static void writers_into_a_topic_that_went_are_told(void **state)
{
    struct kernel *kernel = *state;
    uint64_t node, fh = kernel_open_path(kernel, "orders/p0", APPEND, &node);
    assert_int_equal(kernel_write(kernel, node, fh, APPEND, "half"), 4);
    struct kq_topic *topic = ground_find(&kernel->ground, "orders");
    assert_int_equal(kq_topic_delete(topic, &ground_caller, false), 0);
    kq_topic_unref(topic);
    said_clear();
    assert_int_equal(kernel_write(kernel, node, fh, APPEND, "one\n"), -ESTALE);
    assert_int_equal(kernel_fsync(kernel, node, fh), -ESTALE);
    assert_int_equal(kernel_close(kernel, node, fh), 0);
    assert_int_equal(said_count, 0);
}

static void half_lines_share_a_limit_and_give_it_back(void **state)
{
    struct kernel *kernel = *state;
    kernel->fs.options.max_pending_bytes = 10;
    uint64_t node, first = kernel_open_path(kernel, "orders/p0", APPEND, &node), second = 0;
    assert_int_equal(kernel_open(kernel, node, APPEND, &second), 0);
    assert_int_equal(kernel_write(kernel, node, first, APPEND, "12345678"), 8);
    assert_int_equal(kernel_write(kernel, node, second, APPEND, "one\nabc"), -ENOBUFS);
    assert_int_equal(end_of(kernel, 0), 0);
    assert_int_equal(kernel_close(kernel, node, first), 0);
    assert_int_equal(kernel_write(kernel, node, second, APPEND, "\n1234567890"), 11);
    assert_int_equal(kernel_close(kernel, node, second), 0);
    kernel_assert_text(kernel, "orders/p0", "12345678\n1234567890\n");
    assert_int_equal(atomic_load(&kernel->fs.handles->pending_bytes), 0);
}

/* --- Without memory --- */

/* The line is in the log: that the answer takes memory is no reason to say it is not. */
static void who_waits_for_a_sync_gets_it_without_memory(void **state)
{
    struct kernel *kernel = *state;
    uint64_t node, fh = kernel_open_path(kernel, "orders/p0", APPEND, &node);
    assert_int_equal(kernel_write(kernel, node, fh, APPEND, "one\n"), 4);
    kq_fault_arm(KQ_FAULT_MEMORY, 1, ENOMEM, true);
    ssize_t synced = kernel_fsync(kernel, node, fh),
            written = kernel_write(kernel, node, fh, APPEND | O_DSYNC, "two\n");
    assert_true(kq_fault_disarm());
    assert_int_equal(synced, 0);
    assert_int_equal(written, 4);
    assert_true(is_synced(kernel, 0));
    assert_int_equal(kernel_close(kernel, node, fh), 0);
    uint64_t any = kernel_open_path(kernel, "orders/append", O_WRONLY, &node);
    assert_int_equal(kernel_write(kernel, node, any, O_WRONLY, "three\n"), 6);
    kq_fault_arm(KQ_FAULT_MEMORY, 1, ENOMEM, true);
    synced = kernel_fsync(kernel, node, any);
    assert_true(kq_fault_disarm());
    assert_int_equal(synced, 0);
    assert_true(is_synced(kernel, 0) && is_synced(kernel, 1));
    assert_int_equal(kernel_close(kernel, node, any), 0);
}

struct closing {
    struct kernel *kernel;
    uint64_t node, fh;
    int result;
};

static void *close_it(void *argument)
{
    struct closing *closing = argument;
    closing->result = kernel_close(closing->kernel, closing->node, closing->fh);
    return NULL;
}

/* As on a receiver that has served nothing yet, and so has no memory of earlier requests. */
static int close_elsewhere(struct kernel *kernel, uint64_t node, uint64_t fh)
{
    struct closing closing = {.kernel = kernel, .node = node, .fh = fh, .result = -EDOM};
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, close_it, &closing), 0);
    pthread_join(thread, NULL);
    return closing.result;
}

static void set_config(struct kernel *kernel, const char *name, const char *value)
{
    struct kq_topic *topic = ground_find(&kernel->ground, "orders");
    assert_int_equal(kq_topic_set_config(topic, &ground_caller, name, value), 0);
    kq_topic_unref(topic);
}

static void a_close_waits_for_memory_to_keep_its_half_line(void **state)
{
    struct kernel *kernel = *state;
    bool failed = true;
    long nth = 1;
    for (; failed; nth++) {
        uint64_t node, fh = kernel_open_path(kernel, "orders/append", APPEND, &node);
        assert_int_equal(kernel_write(kernel, node, fh, APPEND, "half|line"), 9);
        /* Every other time what waits is to be looked at anew. */
        set_config(kernel, "delimiter", nth % 2 ? "\\n" : "|");
        kq_fault_arm(KQ_FAULT_MEMORY, nth / 2 + 1, ENOMEM, false);
        int r = close_elsewhere(kernel, node, fh);
        failed = kq_fault_disarm();
        assert_int_equal(r, 0);
        kernel_forget(kernel, node);
        set_config(kernel, "delimiter", "\\n");
    }
    assert_true(nth > 4);
    int64_t messages = end_of(kernel, 0) + end_of(kernel, 1);
    assert_int_equal(messages, nth - 1 + (nth - 1) / 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        KERNEL_TEST(a_write_is_in_the_log_when_it_returns),
        KERNEL_TEST(the_offset_of_a_write_means_nothing),
        KERNEL_TEST(fsync_and_o_dsync_return_when_all_is_on_disk),
        KERNEL_TEST(fsync_of_append_reaches_every_partition_it_wrote_to),
        KERNEL_TEST(fsync_by_one_who_reads_syncs_all_the_same),
        KERNEL_TEST(a_topic_that_asks_for_it_is_synced_with_each_write),
        KERNEL_TEST(a_failed_sync_is_told),
        KERNEL_TEST(a_message_that_is_too_long_is_emsgsize_and_never_cut),
        KERNEL_TEST(a_malformed_json_line_is_einval_and_nothing_of_its_request_is_there),
        KERNEL_TEST(writers_into_a_topic_that_went_are_told),
        KERNEL_TEST(half_lines_share_a_limit_and_give_it_back),
        KERNEL_TEST(who_waits_for_a_sync_gets_it_without_memory),
        KERNEL_TEST(a_close_waits_for_memory_to_keep_its_half_line),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
