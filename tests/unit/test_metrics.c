#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "broker/base/fault.h"
#include "broker/metrics.h"

static struct kq_metric first = {.name = "kqfs_first_total", .help = "Firsts.", .type = KQ_COUNTER};
static struct kq_metric second = {.name = "kqfs_second", .help = "Seconds.", .type = KQ_GAUGE};

static void each_metric_is_shown_once_with_help_and_type(void **state)
{
    struct kq_buf text = {0};
    kq_metric_register(&first);
    kq_metric_register(&second);
    kq_metric_register(&first);
    kq_metric_register(&second);
    kq_metric_add(&first, 40);
    kq_metric_add(&first, 2);
    kq_metric_set(&second, -7);
    assert_int_equal(kq_metrics_format(&text), 0);
    assert_int_equal(kq_buf_append(&text, "", 1), 0);
    assert_string_equal((char *)text.data, "# HELP kqfs_first_total Firsts.\n"
                                           "# TYPE kqfs_first_total counter\n"
                                           "kqfs_first_total 42\n"
                                           "# HELP kqfs_second Seconds.\n"
                                           "# TYPE kqfs_second gauge\n"
                                           "kqfs_second -7\n");
    kq_buf_release(&text);
}

static void lack_of_memory_is_passed_on(void **state)
{
    struct kq_buf text = {0};
    kq_metric_register(&first);
    kq_fault_arm(KQ_FAULT_MEMORY, 1, ENOMEM, true);
    assert_int_equal(kq_metrics_format(&text), -ENOMEM);
    kq_fault_disarm();
    kq_buf_release(&text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_metric_is_shown_once_with_help_and_type),
        cmocka_unit_test(lack_of_memory_is_passed_on),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
