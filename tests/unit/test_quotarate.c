#include "broker/quotarate.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

static const struct kq_quota_windows eleven = {.count = 11, .ms = 1000};

static int set_up(void **state)
{
    *state = calloc(1, kq_quota_rate_size(&eleven));
    return !*state;
}

static int take_down(void **state)
{
    free(*state);
    return 0;
}

static int64_t excess(void *rate, double amount, double limit, int64_t now_ms)
{
    return kq_quota_rate_excess_ms(rate, &eleven, amount, limit, now_ms);
}

static void what_all_windows_allow_is_allowed_at_once(void **state)
{
    assert_int_equal(excess(*state, 1000, 100, 5000), 0);
    assert_int_equal(excess(*state, 1001, 100, 5000), 10);
}

/* (O - T) / T * W, O over W = 10 s: 20 s with nothing bring 3000 down to 100 a second. */
static void who_takes_more_waits_until_the_rate_is_the_limit(void **state)
{
    kq_quota_rate_add(*state, &eleven, 3000, 5000);
    assert_int_equal(excess(*state, 0, 100, 5000), 20000);
    assert_int_equal(excess(*state, 0, 300, 5000), 0);
    assert_int_equal(excess(*state, 0, 1e-9, 5000), INT32_MAX);
}

static void time_goes_on_within_the_last_window(void **state)
{
    kq_quota_rate_add(*state, &eleven, 2000, 5000);
    /* After 500 ms the span is 10.5 s, so that 952.4 of 1904.8 a 10 s are too much. */
    assert_int_equal(excess(*state, 0, 100, 5000), 10000);
    assert_int_equal(excess(*state, 0, 100, 5500), 9500);
    assert_int_equal(excess(*state, 0, 100, 15000), 10000);
    assert_int_equal(excess(*state, 0, 100, 15999), 9001);
}

static void what_is_older_than_the_windows_is_forgotten(void **state)
{
    kq_quota_rate_add(*state, &eleven, 2000, 5000);
    assert_false(kq_quota_rate_is_empty(*state, &eleven, 15999));
    assert_true(kq_quota_rate_is_empty(*state, &eleven, 16000));
    assert_int_equal(excess(*state, 1000, 100, 16000), 0);
}

static void the_oldest_sample_lies_partly_in_the_windows(void **state)
{
    kq_quota_rate_add(*state, &eleven, 500, 5000);
    kq_quota_rate_add(*state, &eleven, 500, 5900);
    /* Begun at 5000, it had something at 5900, and counts with its whole time until 16900. */
    assert_false(kq_quota_rate_is_empty(*state, &eleven, 16899));
    assert_int_equal(excess(*state, 0, 1000 / 11.899, 16899), 0);
    assert_int_equal(excess(*state, 1, 1000 / 11.899, 16899), 12);
    assert_true(kq_quota_rate_is_empty(*state, &eleven, 16900));
}

static void a_steady_rate_is_measured_as_it_is(void **state)
{
    for (int64_t now_ms = 0; now_ms < 600000; now_ms += 100) {
        kq_quota_rate_add(*state, &eleven, 10, now_ms);
        if (now_ms < 20000)
            continue;
        assert_int_equal(excess(*state, 0, 102, now_ms), 0);
        assert_true(excess(*state, 0, 97, now_ms) > 0);
    }
}

static void a_single_window_has_one_millisecond_at_least(void **state)
{
    const struct kq_quota_windows one = {.count = 1, .ms = 1000};
    struct kq_quota_rate *rate = *state;
    assert_int_equal(kq_quota_rate_excess_ms(rate, &one, 1, 1000, 0), 0);
    assert_int_equal(kq_quota_rate_excess_ms(rate, &one, 2, 1000, 0), 1);
    for (int64_t now_ms = 0; now_ms < 10000; now_ms += 999)
        kq_quota_rate_add(rate, &one, 1, now_ms);
    assert_int_equal(rate->count, 2);
}

static void a_clock_that_lags_behind_does_no_harm(void **state)
{
    kq_quota_rate_add(*state, &eleven, 1000, 5000);
    kq_quota_rate_add(*state, &eleven, 1000, 4990);
    assert_int_equal(excess(*state, 0, 100, 4980), 10000);
    assert_false(kq_quota_rate_is_empty(*state, &eleven, 15999));
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, take_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(what_all_windows_allow_is_allowed_at_once),
        TEST(who_takes_more_waits_until_the_rate_is_the_limit),
        TEST(time_goes_on_within_the_last_window),
        TEST(what_is_older_than_the_windows_is_forgotten),
        TEST(the_oldest_sample_lies_partly_in_the_windows),
        TEST(a_steady_rate_is_measured_as_it_is),
        TEST(a_single_window_has_one_millisecond_at_least),
        TEST(a_clock_that_lags_behind_does_no_harm),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
