#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "fs/removals.h"

enum { TAR = 100, RM = 101, BESIDE = TAR + KQ_REMOVALS_SLOTS, TOPIC = 7, OTHER = 8 };

static int set_up(void **state)
{
    static struct kq_removals removals;
    kq_removals_init(&removals);
    *state = &removals;
    return 0;
}

static int take_down(void **state)
{
    kq_removals_destroy(*state);
    return 0;
}

/* As often as is allowed, each 10 ms after the one before, from AT_MS on. */
static void use_up(struct kq_removals *removals, int64_t at_ms)
{
    for (int i = 0; i < KQ_REMOVALS_IN_A_ROW; i++)
        assert_true(kq_removals_may(removals, TAR, TOPIC, "append", true, at_ms + 10 * i));
}

static void who_goes_on_and_on_is_stopped_and_stays_so(void **state)
{
    use_up(*state, 0);
    for (int i = 0; i < 3; i++)
        assert_false(kq_removals_may(*state, TAR, TOPIC, "append", true, 200 + i));
}

static void who_does_something_else_in_between_begins_anew(void **state)
{
    use_up(*state, 0);
    assert_true(kq_removals_may(*state, TAR, TOPIC, "p0", true, 200));
    use_up(*state, 210);
    assert_true(kq_removals_may(*state, TAR, OTHER, "append", true, 400));
    use_up(*state, 410);
    assert_false(kq_removals_may(*state, TAR, TOPIC, "append", true, 600));
}

static void who_takes_time_may(void **state)
{
    use_up(*state, 0);
    assert_true(kq_removals_may(*state, TAR, TOPIC, "append", true, 5000));
}

static void what_removes_something_may_always(void **state)
{
    for (int i = 0; i < 3 * KQ_REMOVALS_IN_A_ROW; i++)
        assert_true(kq_removals_may(*state, TAR, TOPIC, "p0", false, i));
}

static void others_are_not_held_up(void **state)
{
    use_up(*state, 0);
    assert_true(kq_removals_may(*state, RM, TOPIC, "append", true, 200));
    assert_true(kq_removals_may(*state, BESIDE, TOPIC, "append", true, 200));
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, take_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(who_goes_on_and_on_is_stopped_and_stays_so),
        TEST(who_does_something_else_in_between_begins_anew),
        TEST(who_takes_time_may),
        TEST(what_removes_something_may_always),
        TEST(others_are_not_held_up),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
