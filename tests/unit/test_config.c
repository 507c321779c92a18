#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "broker/base/fault.h"
#include "broker/config.h"
#include "tests/unit/said.h"

static struct kq_config *fresh(void)
{
    struct kq_config *config;
    said_clear();
    assert_int_equal(kq_config_new(&config), 0);
    return config;
}

static int set(struct kq_config *config, enum kq_origin origin, const char *name, const char *value)
{
    return kq_config_set(config, origin, "here", 0, NULL, name, value);
}

static void defaults_are_within_their_own_bounds(void **state)
{
    struct kq_config *config = fresh();
    const struct kq_setting *row;
    for (size_t i = 0; (row = kq_setting_row(i)); i++) {
        if (row->type != KQ_SETTING_NUMBER)
            continue;
        int64_t value = *(int64_t *)((char *)config + row->offset);
        assert_in_range(value, row->least, row->most);
    }
    kq_config_free(config);
}

static void the_higher_origin_wins_in_any_order(void **state)
{
    struct kq_config *config = fresh();
    assert_int_equal(set(config, KQ_ORIGIN_COMMAND_LINE, "num.partitions", "5"), 0);
    assert_int_equal(set(config, KQ_ORIGIN_MOUNT_OPTION, "num.partitions", "4"), 0);
    assert_int_equal(set(config, KQ_ORIGIN_FILE, "num.partitions", "3"), 0);
    assert_int_equal(config->default_partitions, 5);
    assert_int_equal(set(config, KQ_ORIGIN_FILE, "poll.us", "3"), 0);
    assert_int_equal(set(config, KQ_ORIGIN_MOUNT_OPTION, "poll.us", "4"), 0);
    assert_int_equal(config->poll_us, 4);
    assert_int_equal(set(config, KQ_ORIGIN_COMMAND_LINE, "topic.retention.ms", "7"), 0);
    assert_int_equal(set(config, KQ_ORIGIN_FILE, "topic.retention.ms", "8"), 0);
    assert_int_equal(config->topic.log.retention_ms, 7);
    kq_config_free(config);
}

static void a_value_that_does_not_win_is_checked_all_the_same(void **state)
{
    struct kq_config *config = fresh();
    assert_int_equal(set(config, KQ_ORIGIN_COMMAND_LINE, "num.partitions", "5"), 0);
    assert_int_equal(set(config, KQ_ORIGIN_FILE, "num.partitions", "none"), -EINVAL);
    assert_int_equal(set(config, KQ_ORIGIN_COMMAND_LINE, "topic.framing", "line"), 0);
    assert_int_equal(set(config, KQ_ORIGIN_FILE, "topic.framing", "none"), -EINVAL);
    kq_config_free(config);
}

static void numbers_are_whole_and_within_bounds(void **state)
{
    static const char *const bad[] = {"",    " 1", "+1", "1 ", "1k",     "0x10",
                                      "1.0", "-1", "0",  "-",  "100001", "99999999999999999999999"};
    struct kq_config *config = fresh();
    for (size_t i = 0; i < kq_array_size(bad); i++) {
        said_clear();
        assert_int_equal(set(config, KQ_ORIGIN_FILE, "num.partitions", bad[i]), -EINVAL);
        assert_int_equal(said_count, 1);
    }
    assert_int_equal(config->default_partitions, 1);
    assert_int_equal(set(config, KQ_ORIGIN_FILE, "num.partitions", "100000"), 0);
    kq_config_free(config);
}

static void a_complaint_names_place_setting_and_reason(void **state)
{
    struct kq_config *config = fresh();
    assert_int_equal(kq_config_set(config, KQ_ORIGIN_FILE, "f:3", 3, "broker", "max.topics", "x"),
                     -EINVAL);
    assert_string_equal(said, "f:3: max.topics: `x` is not a whole number from 1 to 1000000");
    assert_int_equal(set(config, KQ_ORIGIN_FILE, "max.topic", "1"), -EINVAL);
    assert_non_null(strstr(said, "here: max.topic: no such setting"));
    assert_int_equal(kq_config_set(config, KQ_ORIGIN_FILE, "f:4", 4, "mount", "max.topics", "1"),
                     -EINVAL);
    assert_non_null(strstr(said, "no such setting in section mount"));
    kq_config_free(config);
}

static void paths_become_absolute(void **state)
{
    struct kq_config *config = fresh();
    assert_int_equal(set(config, KQ_ORIGIN_FILE, "data", "/some where"), 0);
    assert_string_equal(config->data, "/some where");
    assert_int_equal(set(config, KQ_ORIGIN_FILE, "data", "x"), 0);
    assert_int_equal(config->data[0], '/');
    assert_string_equal(strrchr(config->data, '/'), "/x");
    assert_int_equal(set(config, KQ_ORIGIN_FILE, "data", ""), -EINVAL);
    kq_config_free(config);
}

static void the_command_lines_own_settings_cannot_stand_in_a_file(void **state)
{
    struct kq_config *config = fresh();
    static const char *const sections[] = {"", "broker", "mount", "topic"};
    for (size_t i = 0; i < kq_array_size(sections); i++)
        assert_int_equal(
            kq_config_set(config, KQ_ORIGIN_FILE, "f:1", 1, sections[i], "config", "/x"), -EINVAL);
    kq_config_free(config);
}

static void assert_same_topics(const struct kq_config *config, const struct kq_config *again)
{
    const char *name;
    for (size_t i = 0; (name = kq_topic_config_name(i)); i++) {
        struct kq_buf one = {0}, other = {0};
        assert_int_equal(kq_topic_config_format(&config->topic, name, &one), 0);
        assert_int_equal(kq_topic_config_format(&again->topic, name, &other), 0);
        assert_int_equal(one.length, other.length);
        if (one.length)
            assert_memory_equal(one.data, other.data, one.length);
        kq_buf_release(&one);
        kq_buf_release(&other);
    }
}

static void what_is_shown_reads_back_as_the_same(void **state)
{
    struct kq_config *config = fresh(), *again = fresh();
    struct kq_buf shown = {0}, shown_again = {0};
    assert_int_equal(set(config, KQ_ORIGIN_COMMAND_LINE, "data", "/d"), 0);
    assert_int_equal(set(config, KQ_ORIGIN_COMMAND_LINE, "mountpoint", "/m"), 0);
    assert_int_equal(set(config, KQ_ORIGIN_COMMAND_LINE, "topic.delimiter", "\\t; \\n"), 0);
    assert_int_equal(set(config, KQ_ORIGIN_COMMAND_LINE, "topic.key.separator", " ;"), 0);
    assert_int_equal(
        kq_config_set_mount_options(config, KQ_ORIGIN_COMMAND_LINE, "-o", 0, "ro,fsname=a\\,b"), 0);
    assert_int_equal(kq_config_format(config, &shown), 0);
    assert_int_equal(kq_config_parse(again, "f", (char *)shown.data, shown.length), 0);
    assert_same_topics(config, again);
    assert_string_equal(config->mount_options, again->mount_options);
    assert_string_equal(config->data, again->data);
    assert_string_equal(config->mountpoint, again->mountpoint);
    assert_int_equal(kq_config_format(again, &shown_again), 0);
    assert_non_null(memmem(shown.data, shown.length, "data = /d ; command line\n", 25));
    assert_non_null(memmem(shown_again.data, shown_again.length, "data = /d ; :2\n", 15));
    kq_buf_release(&shown);
    kq_buf_release(&shown_again);
    kq_config_free(config);
    kq_config_free(again);
}

static void every_section_is_shown(void **state)
{
    struct kq_config *config = fresh();
    kq_autobuf struct kq_buf shown = {0};
    char wanted[100];
    assert_int_equal(kq_config_format(config, &shown), 0);
    for (size_t i = 0; kq_setting_row(i); i++) {
        const struct kq_setting *row = kq_setting_row(i);
        int length = snprintf(wanted, sizeof(wanted), "[%s]\n", row->section ? row->section : "");
        if (row->section && !memmem(shown.data, shown.length, wanted, (size_t)length))
            fail_msg("[%s], where %s stands", row->section, row->name);
    }
    kq_config_free(config);
}

/* Reads back what CONFIG shows. */
static struct kq_config *reread(const struct kq_config *config)
{
    struct kq_config *again = fresh();
    kq_autobuf struct kq_buf shown = {0};
    assert_int_equal(kq_config_format(config, &shown), 0);
    assert_int_equal(kq_config_parse(again, "f", (char *)shown.data, shown.length), 0);
    return again;
}

static void values_with_bytes_that_ini_drops_read_back_as_the_same(void **state)
{
    static const char odd[] = " /a ;b\\040\nc\\ ";
    struct kq_config *config = fresh();
    assert_int_equal(set(config, KQ_ORIGIN_COMMAND_LINE, "data", odd + 1), 0);
    assert_int_equal(set(config, KQ_ORIGIN_COMMAND_LINE, "mountpoint", odd), 0);
    assert_int_equal(kq_config_set_mount_options(config, KQ_ORIGIN_FILE, "-o", 0,
                                                 "ro,subtype=x\\ ;y\\,z\\\\,fsname=s= ,,"),
                     0);
    struct kq_config *again = reread(config);
    assert_string_equal(again->data, odd + 1);
    assert_string_equal(again->mountpoint, config->mountpoint);
    assert_string_equal(again->mount_options, "ro,subtype=x\\040;y\\,z\\\\,fsname=s=\\040");
    kq_config_free(config);
    kq_config_free(again);
}

static void a_value_that_fills_its_line_has_its_origin_in_front(void **state)
{
    char path[400] = "";
    for (size_t length = 150; length < 250; length++) {
        snprintf(path, sizeof(path), "/%0*d", (int)length - 1, 0);
        struct kq_config *config = fresh();
        assert_int_equal(set(config, KQ_ORIGIN_COMMAND_LINE, "mountpoint", path), 0);
        struct kq_config *again = reread(config);
        if (strlen("mountpoint = ") + length <= 198)
            assert_string_equal(again->mountpoint, path);
        else
            assert_null(again->mountpoint);
        kq_config_free(config);
        kq_config_free(again);
    }
}

static void a_list_grows_where_it_is_given_again_from_the_same_place(void **state)
{
    struct kq_config *config = fresh();
    assert_string_equal(config->listen, "");
    assert_int_equal(set(config, KQ_ORIGIN_FILE, "listen", " a://b \t c://d "), 0);
    assert_string_equal(config->listen, "a://b c://d");
    assert_int_equal(set(config, KQ_ORIGIN_COMMAND_LINE, "listen", "e://f,advertised=g:1"), 0);
    assert_string_equal(config->listen, "e://f,advertised=g:1");
    assert_int_equal(set(config, KQ_ORIGIN_COMMAND_LINE, "listen", "h://i"), 0);
    assert_int_equal(set(config, KQ_ORIGIN_MOUNT_OPTION, "listen", "j://k"), 0);
    assert_string_equal(config->listen, "e://f,advertised=g:1 h://i");
    struct kq_config *again = reread(config);
    assert_string_equal(again->listen, config->listen);
    kq_config_free(config);
    kq_config_free(again);
}

static void words_have_no_bytes_that_a_file_could_not_hold(void **state)
{
    struct kq_config *config = fresh();
    assert_int_equal(set(config, KQ_ORIGIN_FILE, "plaintext.user", "two words"), -EINVAL);
    assert_int_equal(set(config, KQ_ORIGIN_FILE, "plaintext.user", "a;b"), -EINVAL);
    assert_int_equal(set(config, KQ_ORIGIN_FILE, "listen", "a://b ;c"), -EINVAL);
    assert_int_equal(set(config, KQ_ORIGIN_FILE, "listen", "a://b\nc"), -EINVAL);
    assert_int_equal(set(config, KQ_ORIGIN_FILE, "plaintext.user", "j\xc3\xb6rg"), 0);
    assert_string_equal(config->plaintext_user, "j\xc3\xb6rg");
    kq_config_free(config);
}

static void a_mode_is_octal(void **state)
{
    static const char *const bad[] = {"", "8", "1000", "-1", "0x1", "7 "};
    struct kq_config *config = fresh();
    for (size_t i = 0; i < kq_array_size(bad); i++)
        assert_int_equal(set(config, KQ_ORIGIN_FILE, "create.umask", bad[i]), -EINVAL);
    assert_int_equal(set(config, KQ_ORIGIN_FILE, "create.umask", "027"), 0);
    assert_int_equal(config->umask, 027);
    struct kq_config *again = reread(config);
    assert_int_equal(again->umask, 027);
    kq_config_free(config);
    kq_config_free(again);
}

static void a_value_is_told_with_whether_it_is_the_default(void **state)
{
    struct kq_config *config = fresh();
    assert_int_equal(set(config, KQ_ORIGIN_FILE, "num.partitions", "7"), 0);
    const struct kq_setting *row;
    for (size_t i = 0; (row = kq_setting_row(i)); i++) {
        kq_autobuf struct kq_buf value = {0};
        bool is_default = false, is_it = strcmp(row->name, "num.partitions") == 0;
        assert_int_equal(kq_config_value(config, i, &value, &is_default), 0);
        assert_int_equal(is_default, !is_it);
        if (is_it)
            assert_memory_equal(value.data, "7", value.length);
    }
    kq_config_free(config);
}

static void every_lack_of_memory_is_reported_and_leaves_nothing_behind(void **state)
{
    bool failed = true;
    for (long nth = 1; failed; nth++) {
        struct kq_config *config = NULL;
        struct kq_buf shown = {0};
        kq_fault_arm(KQ_FAULT_MEMORY, nth, ENOMEM, false);
        int r = kq_config_new(&config);
        if (r == 0)
            r = set(config, KQ_ORIGIN_FILE, "data", "x");
        if (r == 0)
            r = kq_config_set_mount_options(config, KQ_ORIGIN_FILE, "-o", 0, "ro,nodev");
        if (r == 0)
            r = kq_config_parse(config, "f", "[topic]\nretention.ms=1\n", 23);
        if (r == 0)
            r = set(config, KQ_ORIGIN_FILE, "listen", "a://b");
        if (r == 0)
            r = set(config, KQ_ORIGIN_FILE, "listen", "c://d");
        if (r == 0)
            r = kq_config_format(config, &shown);
        failed = kq_fault_disarm();
        assert_int_equal(r, failed ? -ENOMEM : 0);
        kq_config_free(config);
        kq_buf_release(&shown);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(defaults_are_within_their_own_bounds),
        cmocka_unit_test(the_higher_origin_wins_in_any_order),
        cmocka_unit_test(a_value_that_does_not_win_is_checked_all_the_same),
        cmocka_unit_test(numbers_are_whole_and_within_bounds),
        cmocka_unit_test(a_complaint_names_place_setting_and_reason),
        cmocka_unit_test(paths_become_absolute),
        cmocka_unit_test(the_command_lines_own_settings_cannot_stand_in_a_file),
        cmocka_unit_test(what_is_shown_reads_back_as_the_same),
        cmocka_unit_test(every_section_is_shown),
        cmocka_unit_test(values_with_bytes_that_ini_drops_read_back_as_the_same),
        cmocka_unit_test(a_value_that_fills_its_line_has_its_origin_in_front),
        cmocka_unit_test(a_list_grows_where_it_is_given_again_from_the_same_place),
        cmocka_unit_test(words_have_no_bytes_that_a_file_could_not_hold),
        cmocka_unit_test(a_mode_is_octal),
        cmocka_unit_test(a_value_is_told_with_whether_it_is_the_default),
        cmocka_unit_test(every_lack_of_memory_is_reported_and_leaves_nothing_behind),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
