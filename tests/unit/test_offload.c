/* Requests that go on on a worker. */
#include "tests/unit/kernel.h"

#include "broker/base/fault.h"

#define REQUESTS 200

static pthread_t ran_on;
static char argument_was[8];
static void *argument_at;
static atomic_int runs;

static void run(fuse_req_t req, void *argument)
{
    ran_on = pthread_self();
    argument_at = argument;
    memcpy(argument_was, argument, sizeof(argument_was));
    atomic_fetch_add(&runs, 1);
    fuse_reply_err(req, EDOM);
}

static void hand_over_a_copy(fuse_req_t req)
{
    char argument[] = "copied!";
    kq_fs_offload(req, run, argument, sizeof(argument));
    memset(argument, 'x', sizeof(argument));
}

static void a_worker_runs_it_with_a_copy_of_the_argument(void **state)
{
    struct kernel *kernel = *state;
    uint64_t unique = kernel_send_hook(kernel, hand_over_a_copy);
    assert_int_equal(kernel_answer(kernel, unique, NULL, 0), -EDOM);
    assert_false(pthread_equal(ran_on, pthread_self()));
    assert_string_equal(argument_was, "copied!");
}

static char at_home[] = "at home";

static void hand_over_itself(fuse_req_t req)
{
    kq_fs_offload(req, run, at_home, 0);
}

static void what_is_not_copied_is_passed_as_it_is(void **state)
{
    struct kernel *kernel = *state;
    uint64_t unique = kernel_send_hook(kernel, hand_over_itself);
    assert_int_equal(kernel_answer(kernel, unique, NULL, 0), -EDOM);
    assert_ptr_equal(argument_at, at_home);
}

static void without_memory_it_is_answered_at_once_and_not_run(void **state)
{
    struct kernel *kernel = *state;
    atomic_store(&runs, 0);
    kq_fault_arm(KQ_FAULT_MEMORY, 1, ENOMEM, false);
    uint64_t unique = kernel_send_hook(kernel, hand_over_a_copy);
    assert_true(kq_fault_disarm());
    assert_true(kernel_is_answered(kernel, unique));
    assert_int_equal(kernel_answer(kernel, unique, NULL, 0), -ENOMEM);
    assert_int_equal(atomic_load(&runs), 0);
}

/* Several of these run at a time. */
static void count(fuse_req_t req, void *argument)
{
    atomic_fetch_add(&runs, strcmp(argument, "copied!") == 0);
    fuse_reply_err(req, EDOM);
}

static void hand_over_to_count(fuse_req_t req)
{
    char argument[] = "copied!";
    kq_fs_offload(req, count, argument, sizeof(argument));
    memset(argument, 'x', sizeof(argument));
}

static void each_is_answered_once_however_many_wait(void **state)
{
    struct kernel *kernel = *state;
    uint64_t unique[REQUESTS];
    atomic_store(&runs, 0);
    for (int i = 0; i < REQUESTS; i++)
        unique[i] = kernel_send_hook(kernel, hand_over_to_count);
    for (int i = REQUESTS; i-- > 0;)
        assert_int_equal(kernel_answer(kernel, unique[i], NULL, 0), -EDOM);
    assert_int_equal(atomic_load(&runs), REQUESTS);
    assert_true(STAILQ_EMPTY(&kernel->answers));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        KERNEL_TEST(a_worker_runs_it_with_a_copy_of_the_argument),
        KERNEL_TEST(what_is_not_copied_is_passed_as_it_is),
        KERNEL_TEST(without_memory_it_is_answered_at_once_and_not_run),
        KERNEL_TEST(each_is_answered_once_however_many_wait),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
