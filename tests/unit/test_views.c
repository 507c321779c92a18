/* Names under the mountpoint: every form, and what is close to one. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "fs/views.h"

static void assert_name(enum kq_view parent, const char *text, enum kq_view view, int32_t partition,
                        int64_t number)
{
    struct kq_name name;
    if (kq_view_parse(parent, text, &name) != 0)
        fail_msg("%s is refused", text);
    assert_int_equal(name.view, view);
    assert_int_equal(name.partition, partition);
    assert_int_equal(name.number, number);
}

static void assert_none(enum kq_view parent, const char *text)
{
    struct kq_name name = {.partition = 77};
    if (kq_view_parse(parent, text, &name) != -ENOENT)
        fail_msg("%s is taken for view %d", text, name.view);
    assert_int_equal(name.partition, 77);
}

static void a_topic_directory_opens_every_view_of_a_partition(void **state)
{
    enum kq_view topic = KQ_VIEW_TOPIC;
    assert_name(topic, "p0", KQ_VIEW_TEXT, 0, 0);
    assert_name(topic, "p17", KQ_VIEW_TEXT, 17, 0);
    assert_name(topic, "p2147483647", KQ_VIEW_TEXT, INT32_MAX, 0);
    assert_name(topic, "p3.stream", KQ_VIEW_STREAM, 3, 0);
    assert_name(topic, "p3.jsonl", KQ_VIEW_JSONL, 3, 0);
    assert_name(topic, "p3.jsonl.stream", KQ_VIEW_JSONL_STREAM, 3, 0);
    assert_name(topic, "p3.log", KQ_VIEW_LOG, 3, 0);
    assert_name(topic, "append", KQ_VIEW_APPEND, -1, 0);
    assert_name(topic, "by-offset", KQ_VIEW_BY_OFFSET, -1, 0);
    assert_name(topic, "by-time", KQ_VIEW_BY_TIME, -1, 0);
    assert_name(topic, "by-segment", KQ_VIEW_BY_SEGMENT, -1, 0);
}

static void groups_have_a_directory_a_topic_and_three_files_a_partition(void **state)
{
    struct kq_name name;
    assert_name(KQ_VIEW_CONTROL, "groups", KQ_VIEW_GROUPS, -1, 0);
    assert_name(KQ_VIEW_GROUPS, "any name, \xc3\xa4", KQ_VIEW_GROUP, -1, 0);
    assert_int_equal(kq_view_parse(KQ_VIEW_GROUPS, "billing", &name), 0);
    assert_string_equal(name.group, "billing");
    assert_null(name.topic);
    assert_name(KQ_VIEW_GROUP, "orders", KQ_VIEW_GROUP_TOPIC, -1, 0);
    assert_none(KQ_VIEW_GROUP, "or ders");
    assert_name(KQ_VIEW_GROUP_TOPIC, "p7", KQ_VIEW_GROUP_TEXT, 7, 0);
    assert_name(KQ_VIEW_GROUP_TOPIC, "p7.offset", KQ_VIEW_GROUP_OFFSET, 7, 0);
    assert_name(KQ_VIEW_GROUP_TOPIC, "p7.lag", KQ_VIEW_GROUP_LAG, 7, 0);
    assert_none(KQ_VIEW_GROUP_TOPIC, "p7.jsonl");
    assert_none(KQ_VIEW_GROUP_TOPIC, "p07.lag");
}

static void a_user_has_a_file_of_any_name(void **state)
{
    struct kq_name name;
    assert_name(KQ_VIEW_CONTROL, "users", KQ_VIEW_USERS, -1, 0);
    assert_name(KQ_VIEW_CONTROL, "passwd", KQ_VIEW_PASSWD, -1, 0);
    assert_int_equal(kq_view_parse(KQ_VIEW_USERS, "app 1", &name), 0);
    assert_int_equal(name.view, KQ_VIEW_USER);
    assert_string_equal(name.user, "app 1");
    assert_null(name.group);
    assert_none(KQ_VIEW_USER, "app1");
}

static void internal_topics_are_no_directories(void **state)
{
    assert_none(KQ_VIEW_ROOT, "__consumer_offsets");
    assert_none(KQ_VIEW_SEGMENTS, "__consumer_offsets");
    assert_none(KQ_VIEW_GROUP, "__transaction_state");
    assert_name(KQ_VIEW_ROOT, "__consumer_offset", KQ_VIEW_TOPIC, -1, 0);
}

static void what_is_not_exactly_a_partition_is_not_there(void **state)
{
    static const char *const names[] = {
        "",
        "p",
        "p00",
        "p01",
        "p-1",
        "p+1",
        "p 1",
        "p1 ",
        "P1",
        "p1x",
        "p1.",
        "p1.Stream",
        "p1.stream.",
        "p1.stream.jsonl",
        "p1.log2",
        "p1.value",
        "p1.jsonl.",
        "p1.log.stream",
        "p2147483648",
        "p99999999999999999999",
        "appendx",
        "by",
        "by-",
        "0",
        "earliest",
        ".kqfs",
    };
    for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++)
        assert_none(KQ_VIEW_TOPIC, names[i]);
    assert_none(KQ_VIEW_ROOT, ".");
    assert_none(KQ_VIEW_APPEND, "p0");
    assert_none(KQ_VIEW_BY_OFFSET, "p0.stream");
    assert_none(KQ_VIEW_BY_TIME, "append");
}

static void offsets_compose_with_every_format(void **state)
{
    enum kq_view parent = KQ_VIEW_BY_OFFSET_PARTITION;
    assert_name(parent, "0", KQ_VIEW_OFFSET_TEXT, -1, 0);
    assert_name(parent, "42", KQ_VIEW_OFFSET_TEXT, -1, 42);
    assert_name(parent, "9223372036854775807", KQ_VIEW_OFFSET_TEXT, -1, INT64_MAX);
    assert_name(parent, "42.value", KQ_VIEW_OFFSET_VALUE, -1, 42);
    assert_name(parent, "42.jsonl", KQ_VIEW_OFFSET_JSONL, -1, 42);
    assert_name(parent, "42.stream", KQ_VIEW_OFFSET_STREAM, -1, 42);
    assert_name(parent, "42.jsonl.stream", KQ_VIEW_OFFSET_JSONL_STREAM, -1, 42);
    assert_name(parent, "earliest", KQ_VIEW_EARLIEST, -1, 0);
    assert_name(parent, "latest", KQ_VIEW_LATEST, -1, 0);
    static const char *const none[] = {"042",
                                       "00",
                                       "-1",
                                       "+1",
                                       "9223372036854775808",
                                       "4 2",
                                       "42.",
                                       "42.log",
                                       "latest.log",
                                       "latestx",
                                       "p0",
                                       "1e3",
                                       "0x10",
                                       "99999999999999999999999"};
    for (size_t i = 0; i < sizeof(none) / sizeof(*none); i++)
        assert_none(parent, none[i]);
}

static void earliest_and_latest_compose_as_offsets_do(void **state)
{
    struct kq_name name;
    assert_int_equal(kq_view_parse(KQ_VIEW_BY_OFFSET_PARTITION, "latest.stream", &name), 0);
    assert_int_equal(name.view, KQ_VIEW_OFFSET_STREAM);
    assert_int_equal(name.from, KQ_FROM_LATEST);
    assert_int_equal(kq_view_parse(KQ_VIEW_BY_OFFSET_PARTITION, "earliest.jsonl", &name), 0);
    assert_int_equal(name.view, KQ_VIEW_OFFSET_JSONL);
    assert_int_equal(name.from, KQ_FROM_EARLIEST);
    assert_int_equal(kq_view_parse(KQ_VIEW_BY_OFFSET_PARTITION, "7.jsonl", &name), 0);
    assert_int_equal(name.from, KQ_FROM_NUMBER);
}

static void segments_have_twenty_digits(void **state)
{
    enum kq_view links = KQ_VIEW_BY_SEGMENT_PARTITION, files = KQ_VIEW_SEGMENTS_PARTITION;
    assert_name(links, "00000000000000000000", KQ_VIEW_SEGMENT_LINK, -1, 0);
    assert_name(files, "00000000000000001234", KQ_VIEW_SEGMENT, -1, 1234);
    assert_name(files, "09223372036854775807", KQ_VIEW_SEGMENT, -1, INT64_MAX);
    assert_none(files, "09223372036854775808");
    assert_none(files, "0000000000000000000");
    assert_none(files, "000000000000000000000");
    assert_none(files, "0000000000000000123x");
    assert_none(files, "00000000000000000000.log");
    assert_none(links, "0");
}

static void the_root_knows_topics_and_hides_kqfs(void **state)
{
    struct kq_name name;
    char longest[251];
    assert_name(KQ_VIEW_ROOT, ".kqfs", KQ_VIEW_CONTROL, -1, 0);
    assert_int_equal(kq_view_parse(KQ_VIEW_ROOT, "orders", &name), 0);
    assert_int_equal(name.view, KQ_VIEW_TOPIC);
    assert_string_equal(name.topic, "orders");
    memset(longest, 'x', 250);
    longest[250] = '\0';
    assert_none(KQ_VIEW_ROOT, longest);
    longest[249] = '\0';
    assert_int_equal(kq_view_parse(KQ_VIEW_ROOT, longest, &name), 0);
    assert_none(KQ_VIEW_ROOT, "..");
    assert_none(KQ_VIEW_ROOT, "a b");
    assert_none(KQ_VIEW_ROOT, "");
    assert_null(kq_view_listed(KQ_VIEW_ROOT, 0, &name.view));
    assert_int_equal(kq_view_listed_each(KQ_VIEW_ROOT), KQ_VIEW_TOPIC);
}

/* grep -r and cp -r read what is listed: no message may be there twice. */
static void directories_list_each_message_once(void **state)
{
    static const char *const of_topic[] = {"append", "by-offset", "by-segment", "by-time"};
    enum kq_view view;
    for (unsigned i = 0; i < 4; i++)
        assert_string_equal(kq_view_listed(KQ_VIEW_TOPIC, i, &view), of_topic[i]);
    assert_null(kq_view_listed(KQ_VIEW_TOPIC, 4, &view));
    assert_int_equal(kq_view_listed_each(KQ_VIEW_TOPIC), KQ_VIEW_TEXT);
    assert_string_equal(kq_view_listed(KQ_VIEW_BY_OFFSET_PARTITION, 0, &view), "earliest");
    assert_int_equal(view, KQ_VIEW_EARLIEST);
    assert_string_equal(kq_view_listed(KQ_VIEW_BY_OFFSET_PARTITION, 1, &view), "latest");
    assert_null(kq_view_listed(KQ_VIEW_BY_OFFSET_PARTITION, 2, &view));
    assert_int_equal(kq_view_listed_each(KQ_VIEW_BY_OFFSET_PARTITION), KQ_VIEW_NONE);
    assert_null(kq_view_listed(KQ_VIEW_BY_TIME_PARTITION, 0, &view));
    assert_int_equal(kq_view_listed_each(KQ_VIEW_BY_TIME_PARTITION), KQ_VIEW_NONE);
    assert_int_equal(kq_view_listed_each(KQ_VIEW_BY_SEGMENT_PARTITION), KQ_VIEW_SEGMENT_LINK);
    assert_int_equal(kq_view_row(KQ_VIEW_SEGMENT_LINK)->kind, KQ_KIND_LINK);
}

static void every_listed_name_parses_to_what_it_is_listed_as(void **state)
{
    for (enum kq_view parent = KQ_VIEW_ROOT; parent < KQ_VIEW_COUNT; parent++) {
        enum kq_view view;
        const char *text;
        for (unsigned i = 0; (text = kq_view_listed(parent, i, &view)); i++) {
            struct kq_name name;
            assert_int_equal(kq_view_parse(parent, text, &name), 0);
            assert_int_equal(name.view, view);
            assert_int_equal(kq_view_parent(view), parent);
        }
    }
}

static void every_view_but_the_root_has_a_directory_for_a_parent(void **state)
{
    for (enum kq_view view = KQ_VIEW_TOPIC; view < KQ_VIEW_COUNT; view++) {
        enum kq_view parent = kq_view_parent(view);
        assert_int_equal(kq_view_row(parent)->kind, KQ_KIND_DIRECTORY);
        assert_true(kq_view_row(view)->per_topic >= kq_view_row(parent)->per_topic);
        assert_true(kq_view_row(view)->per_partition >= kq_view_row(parent)->per_partition);
    }
}

static int64_t ms_of(const char *text)
{
    int64_t ms = INT64_MIN;
    if (kq_time_parse(text, &ms) != 0)
        fail_msg("%s is refused", text);
    return ms;
}

static void times_are_rfc_3339_or_milliseconds(void **state)
{
    assert_int_equal(ms_of("0"), 0);
    assert_int_equal(ms_of("1795341600000"), 1795341600000);
    assert_int_equal(ms_of("1970-01-01T00:00:00Z"), 0);
    assert_int_equal(ms_of("2026-11-22T10:00:00Z"), 1795341600000);
    assert_int_equal(ms_of("2026-11-22t10:00:00z"), 1795341600000);
    assert_int_equal(ms_of("2026-11-22 10:00:00Z"), 1795341600000);
    assert_int_equal(ms_of("2026-11-22T11:30:00+01:30"), 1795341600000);
    assert_int_equal(ms_of("2026-11-22T02:00:00-08:00"), 1795341600000);
    assert_int_equal(ms_of("2026-11-22T10:00:00.5Z"), 1795341600500);
    assert_int_equal(ms_of("2026-11-22T10:00:00.123000000Z"), 1795341600123);
    assert_int_equal(ms_of("2024-02-29T00:00:00Z"), 1709164800000);
    assert_int_equal(ms_of("1969-12-31T23:59:59Z"), -1000);
    assert_int_equal(ms_of("2016-12-31T23:59:60Z"), ms_of("2017-01-01T00:00:00Z"));
}

/* The first message at or after the time: what is earlier than it must not be found. */
static void fractions_of_a_millisecond_round_up(void **state)
{
    assert_int_equal(ms_of("1970-01-01T00:00:00.0001Z"), 1);
    assert_int_equal(ms_of("1970-01-01T00:00:00.0010Z"), 1);
    assert_int_equal(ms_of("1970-01-01T00:00:00.9991Z"), 1000);
}

static void malformed_times_are_not_there(void **state)
{
    static const char *const none[] = {
        "",
        "now",
        "2026-11-22",
        "2026-11-22T10:00:00",
        "2026-11-22T10:00Z",
        "2026-13-01T00:00:00Z",
        "2026-00-01T00:00:00Z",
        "2026-02-29T00:00:00Z",
        "1900-02-29T00:00:00Z",
        "2026-11-31T00:00:00Z",
        "2026-11-22T24:00:00Z",
        "2026-11-22T10:60:00Z",
        "2026-11-22T10:00:61Z",
        "2026-11-22T10:00:00.Z",
        "2026-11-22T10:00:00+1:00",
        "2026-11-22T10:00:00+24:00",
        "2026-11-22T10:00:00+01:60",
        "2026-11-22T10:00:00Zx",
        "2026-11-22_10:00:00Z",
        "26-11-22T10:00:00Z",
        "-5",
        "007",
        "9223372036854775808",
    };
    for (size_t i = 0; i < sizeof(none) / sizeof(*none); i++) {
        int64_t ms = 5;
        if (kq_time_parse(none[i], &ms) != -ENOENT)
            fail_msg("`%s` is taken for %lld", none[i], (long long)ms);
        assert_int_equal(ms, 5);
    }
}

static void every_day_of_four_centuries_agrees_with_the_c_library(void **state)
{
    char text[64];
    for (int64_t day = -80000; day < 80000; day++) {
        time_t seconds = day * 86400 + 3661;
        struct tm tm;
        gmtime_r(&seconds, &tm);
        strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%SZ", &tm);
        assert_int_equal(ms_of(text), (int64_t)seconds * 1000);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_topic_directory_opens_every_view_of_a_partition),
        cmocka_unit_test(groups_have_a_directory_a_topic_and_three_files_a_partition),
        cmocka_unit_test(a_user_has_a_file_of_any_name),
        cmocka_unit_test(internal_topics_are_no_directories),
        cmocka_unit_test(what_is_not_exactly_a_partition_is_not_there),
        cmocka_unit_test(offsets_compose_with_every_format),
        cmocka_unit_test(earliest_and_latest_compose_as_offsets_do),
        cmocka_unit_test(segments_have_twenty_digits),
        cmocka_unit_test(the_root_knows_topics_and_hides_kqfs),
        cmocka_unit_test(directories_list_each_message_once),
        cmocka_unit_test(every_listed_name_parses_to_what_it_is_listed_as),
        cmocka_unit_test(every_view_but_the_root_has_a_directory_for_a_parent),
        cmocka_unit_test(times_are_rfc_3339_or_milliseconds),
        cmocka_unit_test(fractions_of_a_millisecond_round_up),
        cmocka_unit_test(malformed_times_are_not_there),
        cmocka_unit_test(every_day_of_four_centuries_agrees_with_the_c_library),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
