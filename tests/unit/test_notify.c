/* Notifications to the kernel, and to those who watch p0.log. */
#include "tests/unit/kernel.h"

#include <poll.h>
#include <sys/inotify.h>

#include "broker/base/clock.h"
#include "broker/base/fault.h"

static void each_is_told_as_what_it_is_in_the_order_of_the_calls(void **state)
{
    struct kernel *kernel = *state;
    kq_notify_entry(&kernel->fs, FUSE_ROOT_ID, "orders");
    kq_notify_inode(&kernel->fs, 77);
    kq_notify_entry(&kernel->fs, 5, "p0");
    kernel_assert_notices(kernel, "entry 1 orders", "inode 77", "entry 5 p0", NULL);
}

static void what_waits_already_is_not_queued_again(void **state)
{
    struct kernel *kernel = *state;
    kernel_close_gate(kernel);
    kq_notify_inode(&kernel->fs, 5);
    kernel_await_gate(kernel);
    for (int i = 0; i < 1000; i++) {
        kq_notify_entry(&kernel->fs, 1, "a");
        kq_notify_inode(&kernel->fs, 6);
        kq_notify_inode(&kernel->fs, 5); /* again: the first is on its way already */
        kq_notify_entry(&kernel->fs, 2, "a");
        kq_notify_entry(&kernel->fs, 1, "ab");
    }
    kernel_open_gate(kernel);
    kernel_assert_notices(kernel, "inode 5", "entry 1 a", "inode 6", "inode 5", "entry 2 a",
                          "entry 1 ab", NULL);
    kq_notify_inode(&kernel->fs, 7);
    kernel_assert_notices(kernel, "inode 7", NULL);
}

static void what_the_kernel_does_not_know_is_not_named(void **state)
{
    struct kernel *kernel = *state;
    kq_notify_entry(&kernel->fs, 0, "orders");
    kq_notify_inode(&kernel->fs, 0);
    kq_notify_inode_now(&kernel->fs, 0);
    kq_notify_inode(&kernel->fs, 8);
    kernel_assert_notices(kernel, "inode 8", NULL);
}

static void what_is_told_now_is_told_on_return(void **state)
{
    struct kernel *kernel = *state;
    kq_notify_inode_now(&kernel->fs, 9);
    assert_true(kernel_has_notice(kernel));
    kernel_assert_notices(kernel, "inode 9", NULL);
}

/* A poll handle as libfuse makes it, with the kernel's number 42. */
static struct fuse_pollhandle *make_poll_handle(struct kernel *kernel)
{
    kernel->keep_polls = true;
    assert_int_equal(kernel_poll(kernel, FUSE_ROOT_ID, 0, 42), 0);
    return kernel->polled;
}

static void a_poll_is_woken_once_even_without_memory(void **state)
{
    struct kernel *kernel = *state;
    kq_notify_poll(&kernel->fs, make_poll_handle(kernel));
    kernel_assert_notices(kernel, "poll 42", NULL);
    struct fuse_pollhandle *ph = make_poll_handle(kernel);
    kq_fault_arm(KQ_FAULT_MEMORY, 1, ENOMEM, true);
    kq_notify_poll(&kernel->fs, ph);
    kq_notify_inode(&kernel->fs, 3); /* the kernel's timeout will do */
    assert_true(kq_fault_disarm());
    assert_true(kernel_has_notice(kernel));
    kq_notify_inode(&kernel->fs, 4);
    kernel_assert_notices(kernel, "poll 42", "inode 4", NULL);
}

static void who_stops_takes_no_more_but_loses_no_poll(void **state)
{
    struct kernel *kernel = *state;
    kernel_close_gate(kernel);
    kq_notify_inode(&kernel->fs, 5);
    kernel_await_gate(kernel);
    kq_notify_inode(&kernel->fs, 6);
    assert_false(kq_notifier_stop(kernel->fs.notifier));
    kq_notify_inode(&kernel->fs, 7);
    kernel_open_gate(kernel);
    while (!kq_notifier_stop(kernel->fs.notifier))
        sched_yield();
    kernel_assert_notices(kernel, "inode 5", "inode 6", NULL);
    kq_notify_poll(&kernel->fs, make_poll_handle(kernel));
    kernel_assert_notices(kernel, "poll 42", NULL);
    assert_false(kernel_has_notice(kernel));
}

/* --- IN_MODIFY --- */

struct watch {
    int fd;
    char path[256];
    struct kq_fspart *part;
    uint64_t node;
};

/* Where the mount would show it lies a plain file instead. */
static struct watch watch_log(struct kernel *kernel)
{
    struct watch watch = {.node = kernel_node(kernel, "orders/p0.log")};
    struct kq_node node;
    snprintf(watch.path, sizeof(watch.path), "%s/orders", kernel->mountpoint);
    mkdir(watch.path, 0700);
    strcat(watch.path, "/p0.log");
    close(open(watch.path, O_WRONLY | O_CREAT, 0600));
    watch.fd = inotify_init1(IN_NONBLOCK);
    assert_true(inotify_add_watch(watch.fd, watch.path, IN_MODIFY) >= 0);
    assert_int_equal(kq_node_resolve(kernel->fs.nodes, watch.node, &node), 0);
    watch.part = node.part;
    return watch;
}

static void end_watch(struct kernel *kernel, struct watch *watch)
{
    close(watch->fd);
    kernel_forget(kernel, watch->node);
}

static void await_modified(const struct watch *watch)
{
    struct inotify_event event;
    struct pollfd fd = {.fd = watch->fd, .events = POLLIN};
    assert_int_equal(poll(&fd, 1, KERNEL_WAIT_S * 1000), 1);
    assert_int_equal(read(watch->fd, &event, sizeof(event)), sizeof(event));
    assert_int_equal(event.mask, IN_MODIFY);
}

static void watchers_hear_at_most_every_100_ms(void **state)
{
    struct kernel *kernel = *state;
    struct watch watch = watch_log(kernel);
    struct inotify_event event;
    int64_t began = kq_clock_mono_ns();
    kq_notify_modified(&kernel->fs, watch.part);
    await_modified(&watch);
    for (int i = 0; i < 100; i++)
        kq_notify_modified(&kernel->fs, watch.part);
    await_modified(&watch);
    assert_true(kq_clock_mono_ns() - began >= 100000000);
    while (!kq_notifier_stop(kernel->fs.notifier))
        sched_yield();
    assert_int_equal(read(watch.fd, &event, sizeof(event)), -1);
    assert_int_equal(errno, EAGAIN);
    end_watch(kernel, &watch);
}

static void the_size_that_is_set_is_the_one_that_there_is(void **state)
{
    struct kernel *kernel = *state;
    struct watch watch = watch_log(kernel);
    struct stat st;
    assert_int_equal(kernel_append(kernel, "orders/p0", "one\ntwo\n"), 0);
    await_modified(&watch); /* the append itself was heard of */
    assert_int_equal(stat(watch.path, &st), 0);
    assert_int_equal(st.st_size, 8);
    end_watch(kernel, &watch);
}

static void a_path_that_is_gone_is_not_worth_a_word(void **state)
{
    struct kernel *kernel = *state;
    struct watch watch = watch_log(kernel);
    unlink(watch.path);
    said_clear();
    kq_notify_modified(&kernel->fs, watch.part);
    while (atomic_load(&watch.part->modified_pending))
        sched_yield();
    while (!kq_notifier_stop(kernel->fs.notifier))
        sched_yield();
    assert_int_equal(said_count, 0);
    end_watch(kernel, &watch);
}

static void what_still_waits_at_the_end_is_let_go(void **state)
{
    struct kernel *kernel = *state;
    struct watch watch = watch_log(kernel);
    kq_notify_modified(&kernel->fs, watch.part);
    await_modified(&watch);
    kq_notify_modified(&kernel->fs, watch.part); /* not due yet */
    unsigned references = atomic_load(&watch.part->references);
    kq_notifier_free(kernel->fs.notifier);
    assert_true(atomic_load(&watch.part->references) <= references);
    assert_int_equal(kq_notifier_new(&kernel->fs, &kernel->fs.notifier), 0);
    end_watch(kernel, &watch);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        KERNEL_TEST(each_is_told_as_what_it_is_in_the_order_of_the_calls),
        KERNEL_TEST(what_waits_already_is_not_queued_again),
        KERNEL_TEST(what_the_kernel_does_not_know_is_not_named),
        KERNEL_TEST(what_is_told_now_is_told_on_return),
        KERNEL_TEST(a_poll_is_woken_once_even_without_memory),
        KERNEL_TEST(who_stops_takes_no_more_but_loses_no_poll),
        KERNEL_TEST(watchers_hear_at_most_every_100_ms),
        KERNEL_TEST(the_size_that_is_set_is_the_one_that_there_is),
        KERNEL_TEST(a_path_that_is_gone_is_not_worth_a_word),
        KERNEL_TEST(what_still_waits_at_the_end_is_let_go),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
