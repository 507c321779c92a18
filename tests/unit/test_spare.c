/* Memory that a loop keeps for the next large request. */
#include <malloc.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "broker/base/clock.h"
#include "net/spare.h"

#define KIB ((size_t)1024)

static struct kq_spares spares;

static int setup(void **state)
{
    spares = (struct kq_spares){0};
    return kq_loop_new("test", &spares.loop);
}

static int teardown(void **state)
{
    kq_spares_release(&spares);
    kq_loop_free(spares.loop);
    return 0;
}

static void what_was_given_is_what_the_next_one_gets(void **state)
{
    size_t capacity = 0;
    assert_null(kq_spares_take(&spares, 1, 1024 * KIB, &capacity));
    void *memory = malloc(1024 * KIB);
    kq_spares_give(&spares, memory);
    assert_ptr_equal(kq_spares_take(&spares, 256 * KIB, 900 * KIB, &capacity), memory);
    assert_int_equal(capacity, 900 * KIB);
    assert_null(kq_spares_take(&spares, 256 * KIB, 900 * KIB, &capacity));
    kq_spares_give(&spares, memory);
    assert_ptr_equal(kq_spares_take(&spares, 256 * KIB, 1900 * KIB, &capacity), memory);
    assert_true(capacity >= 1024 * KIB && capacity == malloc_usable_size(memory));
    free(memory);
}

static void none_is_taken_that_is_too_small_or_far_too_large(void **state)
{
    size_t capacity;
    kq_spares_give(&spares, malloc(1024 * KIB));
    assert_null(kq_spares_take(&spares, 1500 * KIB, 3000 * KIB, &capacity));
    assert_null(kq_spares_take(&spares, 200 * KIB, 300 * KIB, &capacity));
    assert_null(kq_spares_take(&spares, KIB, KIB, &capacity));
    assert_int_equal(spares.count, 1);
}

static void only_so_much_is_kept(void **state)
{
    kq_spares_give(&spares, NULL);
    kq_spares_give(&spares, malloc(KQ_SPARE_LEAST / 2));
    kq_spares_give(&spares, malloc(KQ_SPARE_MOST * 2));
    assert_int_equal(spares.count, 0);
    for (int i = 0; i < KQ_SPARES * 2; i++)
        kq_spares_give(&spares, malloc(KQ_SPARE_LEAST));
    assert_int_equal(spares.count, KQ_SPARES);
}

static void what_nobody_takes_is_freed_and_the_timer_rests(void **state)
{
    kq_spares_give(&spares, malloc(KQ_SPARE_LEAST));
    int64_t end_ns = kq_clock_mono_ns() + INT64_C(60000000000);
    while (spares.count && kq_clock_mono_ns() < end_ns) {
        kq_loop_turn(spares.loop);
        sched_yield();
    }
    assert_int_equal(spares.count, 0);
    assert_false(spares.timer.set);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(what_was_given_is_what_the_next_one_gets),
        TEST(none_is_taken_that_is_too_small_or_far_too_large),
        TEST(only_so_much_is_kept),
        TEST(what_nobody_takes_is_freed_and_the_timer_rests),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
