#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "broker/guard.h"

static void one_that_is_closed_lets_nobody_in_until_it_opens(void **state)
{
    struct kq_guard guard = {0};
    assert_true(kq_guard_enter(&guard));
    kq_guard_leave(&guard);
    kq_guard_close(&guard);
    assert_false(kq_guard_enter(&guard));
    kq_guard_open(&guard);
    assert_true(kq_guard_enter(&guard));
    kq_guard_leave(&guard);
    assert_int_equal(guard.users, 0);
}

#define THREADS 3
#define ROUNDS 5000

static struct kq_guard guard;
/* Odd only while the guard is closed. Relaxed: the guard alone keeps the two apart. */
static atomic_int guarded;
static atomic_bool stop;
static atomic_int started;

static void *use(void *argument)
{
    long sum = 0;
    atomic_fetch_add(&started, 1);
    while (!atomic_load(&stop)) {
        if (!kq_guard_enter(&guard))
            continue;
        for (int i = 0; i < 200; i++)
            sum += atomic_load_explicit(&guarded, memory_order_relaxed) & 1;
        kq_guard_leave(&guard);
    }
    return (void *)sum;
}

static void closing_waits_for_all_who_are_in(void **state)
{
    pthread_t threads[THREADS];
    void *odd;
    atomic_store(&stop, false);
    for (int i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, use, NULL), 0);
    while (atomic_load(&started) < THREADS)
        ;
    for (int i = 0; i < ROUNDS; i++) {
        kq_guard_close(&guard);
        atomic_fetch_add_explicit(&guarded, 1, memory_order_relaxed);
        sched_yield();
        atomic_fetch_add_explicit(&guarded, 1, memory_order_relaxed);
        kq_guard_open(&guard);
    }
    atomic_store(&stop, true);
    for (int i = 0; i < THREADS; i++) {
        pthread_join(threads[i], &odd);
        assert_null(odd);
    }
    assert_int_equal(guard.users, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_that_is_closed_lets_nobody_in_until_it_opens),
        cmocka_unit_test(closing_waits_for_all_who_are_in),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
