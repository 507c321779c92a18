#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "broker/waiter.h"

static struct kq_waiters waiters;
static _Atomic int64_t end_now;

static int64_t end(void *context)
{
    return atomic_load_explicit(&end_now, memory_order_relaxed);
}

/* What an appender does. */
static void publish(int64_t to)
{
    atomic_store_explicit(&end_now, to, memory_order_relaxed);
    if (kq_waiters_any(&waiters))
        kq_waiters_wake(&waiters, to, to);
}

struct sleeper {
    struct kq_waiter waiter;
    atomic_int woken;
    enum kq_wake why;
};

static void wake(struct kq_waiter *waiter, enum kq_wake why)
{
    struct sleeper *sleeper = (struct sleeper *)waiter;
    sleeper->why = why;
    atomic_fetch_add(&sleeper->woken, 1);
}

static int arm(struct sleeper *sleeper, int64_t offset)
{
    return kq_waiters_arm(&waiters, &sleeper->waiter, offset, end, NULL);
}

static int set_up(void **state)
{
    kq_waiters_init(&waiters);
    end_now = 0;
    return 0;
}

static int take_down(void **state)
{
    assert_int_equal(atomic_load(&waiters.armed), 0);
    kq_waiters_destroy(&waiters);
    return 0;
}

static void those_behind_whose_offset_there_is_data_are_woken_once(void **state)
{
    struct sleeper at_0 = {.waiter.wake = wake}, at_1 = {.waiter.wake = wake};
    assert_int_equal(arm(&at_0, 0), 0);
    assert_int_equal(arm(&at_1, 1), 0);
    assert_int_equal(kq_waiters_parked(), 2);
    publish(1);
    assert_int_equal(at_0.woken, 1);
    assert_int_equal(at_0.why, KQ_WAKE_DATA);
    assert_int_equal(at_1.woken, 0);
    publish(2);
    publish(3);
    assert_int_equal(at_0.woken, 1);
    assert_int_equal(at_1.woken, 1);
    assert_int_equal(kq_waiters_parked(), 0);
}

static void what_is_there_already_needs_no_waiting(void **state)
{
    struct sleeper sleeper = {.waiter.wake = wake};
    publish(5);
    assert_int_equal(arm(&sleeper, 4), KQ_READY);
    assert_false(kq_waiters_any(&waiters));
    assert_int_equal(sleeper.woken, 0);
}

static void one_that_was_taken_back_is_not_called(void **state)
{
    struct sleeper sleepers[3] = {
        {.waiter.wake = wake}, {.waiter.wake = wake}, {.waiter.wake = wake}};
    for (int i = 0; i < 3; i++)
        assert_int_equal(arm(&sleepers[i], 0), 0);
    assert_int_equal(kq_waiters_disarm(&waiters, &sleepers[1].waiter), 0);
    publish(1);
    assert_int_equal(sleepers[0].woken + sleepers[2].woken, 2);
    assert_int_equal(sleepers[1].woken, 0);
    assert_int_equal(kq_waiters_disarm(&waiters, &sleepers[0].waiter), KQ_GONE);
    assert_int_equal(arm(&sleepers[1], 1), 0);
    assert_int_equal(kq_waiters_disarm(&waiters, &sleepers[1].waiter), 0);
}

static void what_is_not_stable_wakes_only_those_who_want_it(void **state)
{
    struct sleeper stable = {.waiter.wake = wake};
    struct sleeper unstable = {.waiter = {.wake = wake, .unstable = true}};
    assert_int_equal(arm(&stable, 0), 0);
    assert_int_equal(arm(&unstable, 0), 0);
    kq_waiters_wake(&waiters, 0, 5);
    assert_int_equal(stable.woken, 0);
    assert_int_equal(unstable.woken, 1);
    kq_waiters_wake(&waiters, 5, 5);
    assert_int_equal(stable.woken, 1);
}

static void the_end_wakes_all_and_refuses_the_rest(void **state)
{
    struct sleeper sleeper = {.waiter.wake = wake}, late = {.waiter.wake = wake};
    assert_int_equal(arm(&sleeper, 100), 0);
    kq_waiters_end(&waiters, KQ_WAKE_GONE, -ESTALE);
    assert_int_equal(sleeper.woken, 1);
    assert_int_equal(sleeper.why, KQ_WAKE_GONE);
    assert_int_equal(arm(&late, 0), -ESTALE);
    assert_int_equal(late.woken, 0);
}

/* A wake function may arm again, at once. */
static void wake_and_arm(struct kq_waiter *waiter, enum kq_wake why)
{
    wake(waiter, why);
    assert_int_equal(kq_waiters_arm(&waiters, waiter, 1, end, NULL), 0);
}

static void a_wake_function_may_arm_again(void **state)
{
    struct sleeper sleeper = {.waiter.wake = wake_and_arm};
    assert_int_equal(arm(&sleeper, 0), 0);
    publish(1);
    assert_int_equal(sleeper.woken, 1);
    assert_int_equal(kq_waiters_disarm(&waiters, &sleeper.waiter), 0);
}

/* --- Threads --- */

#define ROUNDS 20000

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t turn = PTHREAD_COND_INITIALIZER;
static int64_t consumed;

static void *append_in_turn(void *argument)
{
    for (int64_t i = 1; i <= ROUNDS; i++) {
        publish(i);
        pthread_mutex_lock(&lock);
        while (consumed < i)
            pthread_cond_wait(&turn, &lock);
        pthread_mutex_unlock(&lock);
    }
    return NULL;
}

struct blocked {
    struct kq_waiter waiter;
    pthread_mutex_t lock;
    pthread_cond_t woken;
    bool awake;
};

static void unblock(struct kq_waiter *waiter, enum kq_wake why)
{
    struct blocked *blocked = (struct blocked *)waiter;
    pthread_mutex_lock(&blocked->lock);
    blocked->awake = true;
    pthread_cond_signal(&blocked->woken);
    pthread_mutex_unlock(&blocked->lock);
}

/* A lost wake-up leaves both threads asleep, and the test runs into its time limit. */
static void no_append_slips_by_between_the_look_and_the_sleep(void **state)
{
    pthread_t appender;
    struct blocked blocked = {.waiter.wake = unblock};
    pthread_mutex_init(&blocked.lock, NULL);
    pthread_cond_init(&blocked.woken, NULL);
    consumed = 0;
    assert_int_equal(pthread_create(&appender, NULL, append_in_turn, NULL), 0);
    for (int64_t i = 0; i < ROUNDS; i++) {
        blocked.awake = false;
        int r = kq_waiters_arm(&waiters, &blocked.waiter, i, end, NULL);
        pthread_mutex_lock(&blocked.lock);
        while (r == 0 && !blocked.awake)
            pthread_cond_wait(&blocked.woken, &blocked.lock);
        pthread_mutex_unlock(&blocked.lock);
        assert_true(atomic_load(&end_now) > i);
        pthread_mutex_lock(&lock);
        consumed = i + 1;
        pthread_cond_signal(&turn);
        pthread_mutex_unlock(&lock);
    }
    pthread_join(appender, NULL);
}

static void *append_freely(void *argument)
{
    for (int64_t i = 1; i <= ROUNDS; i++)
        publish(i);
    return NULL;
}

/* Taking back and waking meet: exactly one of them has the waiter. */
static void a_waiter_is_either_taken_back_or_woken(void **state)
{
    pthread_t appender;
    assert_int_equal(pthread_create(&appender, NULL, append_freely, NULL), 0);
    while (atomic_load(&end_now) < ROUNDS) {
        struct sleeper sleeper = {.waiter.wake = wake};
        int r = arm(&sleeper, atomic_load(&end_now));
        if (r == KQ_READY)
            continue;
        if (kq_waiters_disarm(&waiters, &sleeper.waiter) == KQ_GONE)
            while (!atomic_load(&sleeper.woken))
                ;
        else
            assert_int_equal(atomic_load(&sleeper.woken), 0);
    }
    pthread_join(appender, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(those_behind_whose_offset_there_is_data_are_woken_once,
                                        set_up, take_down),
        cmocka_unit_test_setup_teardown(what_is_there_already_needs_no_waiting, set_up, take_down),
        cmocka_unit_test_setup_teardown(one_that_was_taken_back_is_not_called, set_up, take_down),
        cmocka_unit_test_setup_teardown(what_is_not_stable_wakes_only_those_who_want_it, set_up,
                                        take_down),
        cmocka_unit_test_setup_teardown(the_end_wakes_all_and_refuses_the_rest, set_up, take_down),
        cmocka_unit_test_setup_teardown(a_wake_function_may_arm_again, set_up, take_down),
        cmocka_unit_test_setup_teardown(no_append_slips_by_between_the_look_and_the_sleep, set_up,
                                        take_down),
        cmocka_unit_test_setup_teardown(a_waiter_is_either_taken_back_or_woken, set_up, take_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
