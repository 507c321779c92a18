/* Lines of the audit log: their form, that nothing of a client gets out of its field, and that they
 * have limits. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <string.h>

#include "broker/authz.h"
#include "broker/base/clock.h"
#include "broker/base/diag.h"
#include "broker/base/fault.h"
#include "broker/base/mem.h"
#include "net/audit.h"

static char last[1100];
static unsigned lines;

static void take_line(int priority, const char *line)
{
    snprintf(last, sizeof(last), "%s", line);
    lines++;
}

static struct kq_audit *make(enum kq_audit_level level, unsigned max_lines)
{
    struct kq_audit_options options = {
        .level = level, .max_lines = max_lines, .repeat_ms = 60000, .max_events = 64};
    struct kq_audit *audit;
    assert_int_equal(kq_audit_new(&options, &audit), 0);
    lines = 0;
    kq_diag_set_tap(take_line);
    return audit;
}

static void end(struct kq_audit *audit)
{
    kq_audit_free(audit);
    kq_diag_set_tap(NULL);
    kq_clock_shift_ms(0);
}

static struct kq_audit_event denied(const char *topic)
{
    return (struct kq_audit_event){.request = "Fetch",
                                   .code = "TOPIC_AUTHORIZATION_FAILED",
                                   .principal = "User:app2",
                                   .uid = 1002,
                                   .peer = "10.0.0.7",
                                   .port = 40112,
                                   .client = "app",
                                   .operation = "Read",
                                   .resource = "Topic",
                                   .name = kq_str_of(topic),
                                   .listener = "plaintext://0.0.0.0:9092"};
}

static void expect_metric(const struct kq_audit *audit, const char *line)
{
    kq_autobuf struct kq_buf metrics = {0};
    assert_int_equal(kq_audit_format(audit, &metrics), 0);
    assert_int_equal(kq_buf_append(&metrics, "", 1), 0);
    if (!strstr((char *)metrics.data, line))
        fail_msg("no `%s` in\n%s", line, metrics.data);
}

static void an_event_is_a_line(void **state)
{
    struct kq_audit *audit = make(KQ_AUDIT_DENIED, 10);
    struct kq_audit_event event = denied("orders");
    kq_audit_note(audit, &event);
    assert_string_equal(
        last, "audit: denied request=Fetch code=TOPIC_AUTHORIZATION_FAILED principal=\"User:app2\" "
              "uid=1002 peer=10.0.0.7 client=\"app\" operation=Read resource=Topic "
              "name=\"orders\" port=40112 listener=\"plaintext://0.0.0.0:9092\" mechanism=- "
              "repeats=0 reason=\"\"");
    event = (struct kq_audit_event){.request = "TLS",
                                    .code = "SSL_AUTHENTICATION_FAILED",
                                    .uid = KQ_UID_UNKNOWN,
                                    .name = KQ_STR_NULL,
                                    .mechanism = "certificate",
                                    .reason = "it has expired"};
    kq_audit_note(audit, &event);
    assert_string_equal(last, "audit: denied request=TLS code=SSL_AUTHENTICATION_FAILED "
                              "principal=\"\" uid=-1 peer=- client=\"\" operation=- resource=- "
                              "name=\"\" port=0 listener=\"\" mechanism=certificate repeats=0 "
                              "reason=\"it has expired\"");
    end(audit);
}

static void what_a_client_chose_stays_in_its_field(void **state)
{
    struct kq_audit *audit = make(KQ_AUDIT_DENIED, 10);
    char longest[2000];
    memset(longest, 'x', sizeof(longest) - 1);
    longest[sizeof(longest) - 1] = '\0';
    struct kq_audit_event event = denied("a\" uid=0\n\x1b[31m\\\x7f\x9b");
    event.client = "\r\nkqfs: audit: allowed";
    event.reason = "no\nline of \"its\" own";
    kq_audit_note(audit, &event);
    assert_non_null(strstr(last, "name=\"a??uid=0??[31m???\" "));
    assert_non_null(strstr(last, "client=\"??kqfs:?audit:?allowed\" "));
    assert_non_null(strstr(last, "reason=\"no?line of ?its? own\""));
    event = denied(longest);
    event.principal = event.client = event.listener = event.reason = event.peer = longest;
    event.mechanism = longest;
    kq_audit_note(audit, &event);
    assert_true(strlen(last) < 1023);
    assert_non_null(strstr(last, "x...\""));
    assert_string_equal(last + strlen(last) - 5, "x...\"");
    end(audit);
}

static void what_happens_again_is_counted_and_said_later(void **state)
{
    struct kq_audit *audit = make(KQ_AUDIT_DENIED, 10);
    struct kq_audit_event event = denied("orders"), other = denied("others");
    for (int i = 0; i < 5; i++) {
        event.port++; /* it connects anew each time */
        kq_audit_note(audit, &event);
    }
    assert_int_equal(lines, 1);
    kq_audit_note(audit, &other);
    assert_int_equal(lines, 2);
    expect_metric(audit, "kqfs_audit_events_total{result=\"denied\"} 6\n");
    expect_metric(audit, "kqfs_audit_lines_total 2\n");
    expect_metric(audit, "kqfs_audit_left_out_total{reason=\"repeated\"} 4\n");
    kq_clock_shift_ms(60001);
    kq_audit_note(audit, &event);
    assert_int_equal(lines, 3);
    assert_non_null(strstr(last, " repeats=4 "));
    kq_audit_sum_up(audit);
    assert_string_equal(last, "audit: left out: 4 repeats, 0 beyond 10 lines a second");
    kq_audit_sum_up(audit);
    assert_int_equal(lines, 4);
    end(audit);
    assert_int_equal(lines, 4); /* all is said */
}

static void lines_of_a_second_are_limited(void **state)
{
    struct kq_audit *audit = make(KQ_AUDIT_DENIED, 3);
    char name[16];
    for (int i = 0; i < 10; i++) {
        snprintf(name, sizeof(name), "t%d", i);
        struct kq_audit_event event = denied(name);
        kq_audit_note(audit, &event);
    }
    assert_int_equal(lines, 3);
    expect_metric(audit, "kqfs_audit_left_out_total{reason=\"limit\"} 7\n");
    kq_clock_shift_ms(1001);
    struct kq_audit_event event = denied("t9"); /* which was not said */
    kq_audit_note(audit, &event);
    assert_int_equal(lines, 4);
    end(audit);
    assert_string_equal(last, "audit: left out: 0 repeats, 7 beyond 3 lines a second");
}

static void more_events_than_are_remembered_are_said_again(void **state)
{
    struct kq_audit *audit = make(KQ_AUDIT_DENIED, 1000000);
    char name[16];
    for (int round = 0; round < 2; round++)
        for (int i = 0; i < 300; i++) {
            snprintf(name, sizeof(name), "t%d", i);
            struct kq_audit_event event = denied(name);
            kq_audit_note(audit, &event);
        }
    assert_true(lines > 500);
    end(audit);
}

static void the_level_says_what_is_noted(void **state)
{
    enum kq_audit_level level = KQ_AUDIT_NONE;
    struct kq_audit_event allowed = denied("orders"), refused = denied("orders");
    allowed.allowed = true;
    allowed.code = "NONE";
    struct kq_audit *audit = make(KQ_AUDIT_DENIED, 10);
    kq_audit_note(audit, &allowed);
    assert_int_equal(lines, 0);
    expect_metric(audit, "kqfs_audit_events_total{result=\"allowed\"} 0\n");
    end(audit);
    audit = make(KQ_AUDIT_ALL, 10);
    kq_audit_note(audit, &allowed);
    assert_memory_equal(last, "audit: allowed request=Fetch code=NONE ", 39);
    end(audit);
    kq_audit_note(NULL, &refused);
    assert_true(kq_audit_parse_level("all", &level) && level == KQ_AUDIT_ALL);
    assert_true(kq_audit_parse_level("none", &level) && level == KQ_AUDIT_NONE);
    assert_false(kq_audit_parse_level("some", &level));
}

static void without_memory_there_is_none(void **state)
{
    struct kq_audit_options options = {.level = KQ_AUDIT_ALL, .max_lines = 1, .max_events = 1};
    struct kq_audit *audit;
    for (int i = 1; i <= 3; i++) {
        kq_fault_arm(KQ_FAULT_MEMORY, i, ENOMEM, false);
        assert_int_equal(kq_audit_new(&options, &audit), -ENOMEM);
        kq_fault_disarm();
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_event_is_a_line),
        cmocka_unit_test(what_a_client_chose_stays_in_its_field),
        cmocka_unit_test(what_happens_again_is_counted_and_said_later),
        cmocka_unit_test(lines_of_a_second_are_limited),
        cmocka_unit_test(more_events_than_are_remembered_are_said_again),
        cmocka_unit_test(the_level_says_what_is_noted),
        cmocka_unit_test(without_memory_there_is_none),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
