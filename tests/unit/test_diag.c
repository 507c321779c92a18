/* What the operator hears. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include "broker/base/clock.h"
#include "broker/base/diag.h"
#include "tests/unit/said.h"

static void a_line_goes_to_stderr_under_the_programs_name(void **state)
{
    int pipes[2], before = dup(STDERR_FILENO);
    char line[100] = {0};
    assert_int_equal(pipe(pipes), 0);
    dup2(pipes[1], STDERR_FILENO);
    errno = EXDEV;
    kq_diag(LOG_ERR, "%s is full", "/var");
    int kept = errno;
    dup2(before, STDERR_FILENO);
    close(pipes[1]);
    assert_true(read(pipes[0], line, sizeof(line) - 1) > 0);
    assert_string_equal(line, "kqfs: /var is full\n");
    assert_int_equal(kept, EXDEV);
    close(pipes[0]);
    close(before);
}

static void lines_below_the_level_are_dropped(void **state)
{
    said_clear();
    kq_diag(LOG_DEBUG, "detail");
    assert_int_equal(said_count, 0);
    kq_diag_set_level(LOG_DEBUG);
    kq_diag(LOG_DEBUG, "detail");
    assert_string_equal(said, "detail");
    kq_diag_set_level(LOG_ERR);
    kq_diag(LOG_WARNING, "warning");
    assert_int_equal(said_count, 1);
    kq_diag_set_level(LOG_INFO);
    kq_diag_set_tap(NULL);
    kq_diag(LOG_INFO, "untapped");
    assert_int_equal(said_count, 1);
}

static void repeat(void)
{
    kq_diag_limited(60000, LOG_WARNING, "again");
}

static void what_repeats_is_said_once_an_interval_and_counted(void **state)
{
    said_clear();
    for (int i = 0; i < 10; i++)
        repeat();
    assert_int_equal(said_count, 1);
    kq_diag_limited(60000, LOG_WARNING, "elsewhere"); /* a place of its own */
    assert_int_equal(said_count, 2);
    kq_clock_shift_ms(60001);
    said_clear();
    repeat();
    assert_int_equal(said_count, 2); /* what was left out, and the line */
    assert_string_equal(said, "again");
    kq_clock_shift_ms(0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_line_goes_to_stderr_under_the_programs_name),
        cmocka_unit_test(lines_below_the_level_are_dropped),
        cmocka_unit_test(what_repeats_is_said_once_an_interval_and_counted),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
