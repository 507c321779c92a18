#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "broker/topicconfig.h"

static const char *shown(const struct kq_topic_config *config, const char *name)
{
    static char text[128];
    struct kq_buf buf = {0};
    assert_int_equal(kq_topic_config_format(config, name, &buf), 0);
    snprintf(text, sizeof(text), "%.*s", (int)buf.length, (char *)buf.data);
    kq_buf_release(&buf);
    return text;
}

static void defaults_are_kafkas(void **state)
{
    static const char *const expected[][2] = {
        {"cleanup.policy", "delete"},
        {"compression.gzip.level", "-1"},
        {"compression.lz4.level", "9"},
        {"compression.type", "producer"},
        {"compression.zstd.level", "3"},
        {"delete.retention.ms", "86400000"},
        {"delimiter", "\\n"},
        {"file.delete.delay.ms", "60000"},
        {"flush.messages", "9223372036854775807"},
        {"flush.ms", "9223372036854775807"},
        {"framing", "line"},
        {"index.interval.bytes", "4096"},
        {"key.separator", ""},
        {"max.compaction.lag.ms", "9223372036854775807"},
        {"max.message.bytes", "1048588"},
        {"message.timestamp.after.max.ms", "3600000"},
        {"message.timestamp.before.max.ms", "9223372036854775807"},
        {"message.timestamp.type", "CreateTime"},
        {"min.cleanable.dirty.ratio", "0.5"},
        {"min.compaction.lag.ms", "0"},
        {"min.insync.replicas", "1"},
        {"preallocate", "false"},
        {"retention.bytes", "-1"},
        {"retention.ms", "604800000"},
        {"segment.bytes", "1073741824"},
        {"segment.index.bytes", "10485760"},
        {"segment.jitter.ms", "0"},
        {"segment.ms", "604800000"},
        {"unclean.leader.election.enable", "false"},
    };
    struct kq_topic_config config;
    kq_topic_config_defaults(&config);
    for (size_t i = 0; i < kq_array_size(expected); i++)
        assert_string_equal(shown(&config, expected[i][0]), expected[i][1]);
    assert_null(kq_topic_config_name(kq_array_size(expected)));
}

static void every_listed_name_is_found_and_takes_what_it_shows(void **state)
{
    struct kq_topic_config config, again;
    kq_topic_config_defaults(&config);
    again = config;
    const char *name;
    for (size_t i = 0; (name = kq_topic_config_name(i)); i++) {
        assert_true(kq_topic_config_known(name));
        assert_int_equal(kq_topic_config_set(&again, name, shown(&config, name), NULL), 0);
    }
    assert_memory_equal(&config, &again, sizeof(config));
}

static void a_value_is_taken_and_shown(void **state)
{
    static const char *const values[][3] = {
        {"retention.ms", "86400000", "86400000"},
        {"retention.bytes", "9223372036854775807", "9223372036854775807"},
        {"segment.bytes", "2147483647", "2147483647"},
        {"cleanup.policy", " delete ", "delete"},
        {"cleanup.policy", "delete,delete", "delete"},
        {"cleanup.policy", "compact", "compact"},
        {"cleanup.policy", "delete, compact", "compact,delete"},
        {"cleanup.policy", "", ""},
        {"compression.type", "uncompressed", "uncompressed"},
        {"compression.type", "zstd", "zstd"},
        {"compression.zstd.level", "-7", "-7"},
        {"message.timestamp.type", "LogAppendTime", "LogAppendTime"},
        {"min.cleanable.dirty.ratio", "1", "1"},
        {"min.cleanable.dirty.ratio", "0.1", "0.1"},
        {"min.cleanable.dirty.ratio", "0.123456789012345678", "0.12345678901234568"},
        {"unclean.leader.election.enable", "False", "false"},
        {"framing", "file", "file"},
        {"delimiter", "\\r\\n", "\\r\\n"},
        {"delimiter", "\n", "\\n"},
        {"delimiter", "\\x00\\xFf", "\\0\\xff"},
        {"key.separator", "\t", "\\t"},
        {"key.separator", "", ""},
    };
    struct kq_topic_config config;
    for (size_t i = 0; i < kq_array_size(values); i++) {
        kq_topic_config_defaults(&config);
        assert_int_equal(kq_topic_config_set(&config, values[i][0], values[i][1], NULL), 0);
        assert_string_equal(shown(&config, values[i][0]), values[i][2]);
    }
}

static void a_bad_value_is_refused_with_the_reason_and_changes_nothing(void **state)
{
    static const char *const values[][2] = {
        {"retention.ms", ""},
        {"retention.ms", "1d"},
        {"retention.ms", "-2"},
        {"retention.ms", " 1"},
        {"retention.ms", "+1"},
        {"retention.ms", "--1"},
        {"retention.ms", "0x10"},
        {"retention.ms", "9223372036854775808"},
        {"segment.bytes", "13"},
        {"segment.bytes", "2147483648"},
        {"segment.ms", "0"},
        {"flush.messages", "0"},
        {"max.message.bytes", "2147483648"},
        {"min.insync.replicas", "2"},
        {"unclean.leader.election.enable", "true"},
        {"unclean.leader.election.enable", "no"},
        {"preallocate", "true"},
        {"min.cleanable.dirty.ratio", "1.1"},
        {"min.cleanable.dirty.ratio", "nan"},
        {"min.cleanable.dirty.ratio", ""},
        {"cleanup.policy", "delete,"},
        {"cleanup.policy", "delete compact"},
        {"cleanup.policy", "deletes"},
        {"compression.type", "brotli"},
        {"compression.type", "none"},
        {"compression.gzip.level", "0"},
        {"compression.gzip.level", "10"},
        {"compression.lz4.level", "0"},
        {"compression.zstd.level", "23"},
        {"message.timestamp.after.max.ms", "-1"},
        {"message.timestamp.type", "createtime"},
        {"framing", "lines"},
        {"delimiter", "\\q"},
        {"delimiter", "\\"},
        {"delimiter", "\\x0"},
        {"delimiter", "12345678901234567"},
        {"cleanup.policy", ","},
        {"min.cleanable.dirty.ratio", "1.5"},
    };
    struct kq_topic_config config, before;
    kq_topic_config_defaults(&before);
    for (size_t i = 0; i < kq_array_size(values); i++) {
        const char *reason = NULL;
        config = before;
        assert_int_equal(kq_topic_config_set(&config, values[i][0], values[i][1], &reason),
                         -EINVAL);
        assert_non_null(reason);
        assert_memory_equal(&config, &before, sizeof(config));
    }
}

static void an_unknown_name_is_told_apart(void **state)
{
    struct kq_topic_config config, before;
    struct kq_buf buf = {0};
    kq_topic_config_defaults(&config);
    before = config;
    assert_int_equal(kq_topic_config_set(&config, "retention.m", "1", NULL), -ENOTSUP);
    assert_int_equal(kq_topic_config_format(&config, "", &buf), -ENOTSUP);
    assert_false(kq_topic_config_known("zzz"));
    assert_memory_equal(&config, &before, sizeof(config));
}

static void every_byte_of_a_delimiter_comes_back(void **state)
{
    struct kq_topic_config config, again;
    kq_topic_config_defaults(&config);
    again = config; /* with what is between the fields */
    config.text.delimiter_length = 2;
    for (unsigned byte = 0; byte < 256; byte++) {
        config.text.delimiter[0] = config.text.delimiter[1] = (uint8_t)byte;
        assert_int_equal(
            kq_topic_config_set(&again, "delimiter", shown(&config, "delimiter"), NULL), 0);
        assert_memory_equal(&config.text, &again.text, sizeof(config.text));
    }
}

static void settings_that_need_each_other_may_come_in_any_order(void **state)
{
    const struct kq_topic_setting settings[] = {{"delimiter", ""}, {"framing", "write"}};
    const struct kq_topic_setting wrong[] = {{"key.separator", "ab"}, {"delimiter", "b"}};
    struct kq_topic_config config, before;
    const char *name = NULL, *reason = NULL;
    kq_topic_config_defaults(&config);
    assert_int_equal(kq_topic_config_set_all(&config, settings, 2, &name, &reason), 0);
    assert_int_equal(config.text.delimiter_length, 0);
    const struct kq_topic_setting line = {"framing", "line"};
    assert_int_equal(kq_topic_config_set_all(&config, &line, 1, &name, &reason), -EINVAL);
    assert_string_equal(name, "delimiter");

    kq_topic_config_defaults(&config);
    before = config;
    assert_int_equal(kq_topic_config_set_all(&config, wrong, 2, &name, &reason), -EINVAL);
    assert_string_equal(name, "key.separator");
    assert_memory_equal(&config, &before, sizeof(config));
}

static void only_three_settings_change_how_text_reads(void **state)
{
    const char *name;
    unsigned count = 0;
    for (size_t i = 0; (name = kq_topic_config_name(i)); i++)
        count += kq_topic_config_is_rendering(name);
    assert_int_equal(count, 3);
    assert_true(kq_topic_config_is_rendering("framing"));
    assert_true(kq_topic_config_is_rendering("delimiter"));
    assert_true(kq_topic_config_is_rendering("key.separator"));
    assert_false(kq_topic_config_is_rendering("no.such"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(defaults_are_kafkas),
        cmocka_unit_test(every_listed_name_is_found_and_takes_what_it_shows),
        cmocka_unit_test(a_value_is_taken_and_shown),
        cmocka_unit_test(a_bad_value_is_refused_with_the_reason_and_changes_nothing),
        cmocka_unit_test(an_unknown_name_is_told_apart),
        cmocka_unit_test(every_byte_of_a_delimiter_comes_back),
        cmocka_unit_test(settings_that_need_each_other_may_come_in_any_order),
        cmocka_unit_test(only_three_settings_change_how_text_reads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
