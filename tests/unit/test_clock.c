/* The clocks, and how a test moves them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <time.h>

#include "broker/base/clock.h"

static void both_clocks_run_forward_from_the_true_time(void **state)
{
    int64_t seconds = (int64_t)time(NULL);
    int64_t wall = kq_clock_wall_ms(), mono = kq_clock_mono_ns();
    assert_in_range(wall / 1000, seconds, seconds + 60);
    for (int i = 0; i < 1000; i++) {
        int64_t now = kq_clock_mono_ns();
        assert_true(now >= mono);
        mono = now;
    }
}

static void a_shift_moves_both_and_back(void **state)
{
    int64_t wall = kq_clock_wall_ms(), mono = kq_clock_mono_ns();
    kq_clock_shift_ms(3600000);
    assert_in_range(kq_clock_wall_ms() - wall, 3600000, 3660000);
    assert_in_range((kq_clock_mono_ns() - mono) / 1000000, 3600000, 3660000);
    kq_clock_shift_ms(0);
    assert_in_range(kq_clock_wall_ms() - wall, 0, 60000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(both_clocks_run_forward_from_the_true_time),
        cmocka_unit_test(a_shift_moves_both_and_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
