/* Memory, and the faults that a test can ask for. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "broker/base/fault.h"
#include "broker/base/mem.h"

static void without_a_fault_memory_is_what_libc_gives(void **state)
{
    kq_autofree char *zero = kq_zalloc(100);
    for (int i = 0; i < 100; i++)
        assert_int_equal(zero[i], 0);
    kq_autofree char *copy = kq_strdup("text");
    assert_string_equal(copy, "text");
    kq_autofree char *formatted = kq_format("%d-%s", 5, "x");
    assert_string_equal(formatted, "5-x");
    kq_autofree void *empty = kq_memdup(NULL, 0);
    assert_non_null(empty);
    kq_autofree char *grown = kq_realloc(kq_strdup("abc"), 1000);
    assert_string_equal(grown, "abc");
}

static void every_call_fails_when_it_is_its_turn(void **state)
{
    kq_autofree char *old = kq_strdup("old");
    kq_fault_arm(KQ_FAULT_MEMORY, 1, ENOMEM, true);
    assert_null(kq_alloc(1));
    assert_null(kq_zalloc(1));
    assert_null(kq_realloc(old, 100));
    assert_null(kq_memdup("a", 1));
    assert_null(kq_strdup("a"));
    assert_null(kq_format("a"));
    assert_true(kq_fault_disarm());
    assert_string_equal(old, "old");
}

static void only_the_nth_of_its_kind_fails(void **state)
{
    kq_fault_arm(KQ_FAULT_READ | KQ_FAULT_SYNC, 3, EIO, false);
    errno = 0;
    assert_false(kq_fault(KQ_FAULT_READ));
    assert_false(kq_fault(KQ_FAULT_WRITE)); /* not counted */
    assert_false(kq_fault(KQ_FAULT_SYNC));
    assert_true(kq_fault(KQ_FAULT_READ));
    assert_int_equal(errno, EIO);
    for (int i = 0; i < 5; i++)
        assert_false(kq_fault(KQ_FAULT_READ));
    assert_true(kq_fault_disarm());
}

static void a_sticky_fault_goes_on_until_disarmed(void **state)
{
    kq_fault_arm(KQ_FAULT_WRITE, 2, ENOSPC, true);
    assert_false(kq_fault(KQ_FAULT_WRITE));
    for (int i = 0; i < 5; i++)
        assert_true(kq_fault(KQ_FAULT_WRITE));
    assert_true(kq_fault_disarm());
    assert_false(kq_fault(KQ_FAULT_WRITE));
}

static void disarming_says_whether_it_was_delivered(void **state)
{
    kq_fault_arm(KQ_FAULT_WRITE, 2, ENOSPC, false);
    assert_false(kq_fault(KQ_FAULT_WRITE));
    assert_false(kq_fault_disarm());
    kq_fault_arm(KQ_FAULT_WRITE, 2, ENOSPC, false); /* counts from the beginning */
    assert_false(kq_fault(KQ_FAULT_WRITE));
    assert_true(kq_fault(KQ_FAULT_WRITE));
    assert_true(kq_fault_disarm());
}

static void *count_faults(void *faults)
{
    for (int i = 0; i < 10000; i++)
        if (kq_fault(KQ_FAULT_MEMORY))
            ++*(int *)faults;
    return NULL;
}

static void of_many_threads_one_gets_the_fault(void **state)
{
    pthread_t threads[4];
    int faults[4] = {0};
    kq_fault_arm(KQ_FAULT_MEMORY, 20000, ENOMEM, false);
    for (int i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, count_faults, &faults[i]), 0);
    for (int i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    assert_true(kq_fault_disarm());
    assert_int_equal(faults[0] + faults[1] + faults[2] + faults[3], 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(without_a_fault_memory_is_what_libc_gives),
        cmocka_unit_test(every_call_fails_when_it_is_its_turn),
        cmocka_unit_test(only_the_nth_of_its_kind_fails),
        cmocka_unit_test(a_sticky_fault_goes_on_until_disarmed),
        cmocka_unit_test(disarming_says_whether_it_was_delivered),
        cmocka_unit_test(of_many_threads_one_gets_the_fault),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
