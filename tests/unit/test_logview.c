#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <errno.h>

#include "fs/logview.h"

/* Reads 100 bytes at POSITION while text is retained from START on. */
static int64_t read_at(struct kq_log_run *run, int64_t position, int64_t start)
{
    int64_t text;
    int r = kq_log_run_place(run, position, start, &text);
    if (r < 0)
        return r;
    kq_log_run_advance(run, 100);
    return text;
}

static void without_a_hole_every_read_is_exact(void **state)
{
    struct kq_log_run run = {0};
    assert_int_equal(read_at(&run, 500, 0), 500);
    assert_int_equal(read_at(&run, 600, 0), 600);
    assert_int_equal(read_at(&run, 0, 0), 0);
    assert_int_equal(read_at(&run, 123, 0), 123);
}

static void a_run_from_zero_starts_at_the_first_retained_message_and_goes_on(void **state)
{
    struct kq_log_run run = {0};
    assert_int_equal(read_at(&run, 0, 1000), 1000);
    assert_int_equal(read_at(&run, 100, 1000), 1100);
    assert_int_equal(read_at(&run, 200, 1150), 1200);
}

static void the_first_read_of_a_handle_inside_the_hole_starts_a_run(void **state)
{
    struct kq_log_run run = {0};
    assert_int_equal(read_at(&run, 300, 1000), 1000);
    assert_int_equal(read_at(&run, 400, 1000), 1100);
}

static void a_later_seek_is_exact(void **state)
{
    struct kq_log_run run = {0};
    assert_int_equal(read_at(&run, 0, 1000), 1000);
    assert_int_equal(read_at(&run, 1500, 1000), 1500);
    assert_int_equal(read_at(&run, 1600, 1000), 1600);
    assert_int_equal(read_at(&run, 500, 1000), -ESTALE);
    assert_int_equal(read_at(&run, 0, 1000), 1000);
}

static void a_run_that_is_overtaken_is_stale_and_stays_so(void **state)
{
    struct kq_log_run run = {0};
    assert_int_equal(read_at(&run, 0, 1000), 1000);
    assert_int_equal(read_at(&run, 100, 5000), -ESTALE);
    assert_int_equal(read_at(&run, 100, 5000), -ESTALE);
    assert_int_equal(read_at(&run, 6000, 5000), 6000);
    assert_int_equal(read_at(&run, 0, 5000), 5000);
}

static void a_read_at_zero_that_gave_nothing_may_start_again(void **state)
{
    struct kq_log_run run = {0};
    int64_t text;
    assert_int_equal(kq_log_run_place(&run, 0, 1000, &text), 0);
    kq_log_run_advance(&run, 0);
    assert_int_equal(read_at(&run, 0, 2000), 2000);
}

static void a_checksum_of_the_first_bytes_cannot_be_had(void **state)
{
    assert_int_equal(kq_log_run_limit(0, 512), 511);
    assert_int_equal(kq_log_run_limit(512, 512), 512);
    assert_int_equal(kq_log_run_limit(0, 131072), 131072);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(without_a_hole_every_read_is_exact),
        cmocka_unit_test(a_run_from_zero_starts_at_the_first_retained_message_and_goes_on),
        cmocka_unit_test(the_first_read_of_a_handle_inside_the_hole_starts_a_run),
        cmocka_unit_test(a_later_seek_is_exact),
        cmocka_unit_test(a_run_that_is_overtaken_is_stale_and_stays_so),
        cmocka_unit_test(a_read_at_zero_that_gave_nothing_may_start_again),
        cmocka_unit_test(a_checksum_of_the_first_bytes_cannot_be_had),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
