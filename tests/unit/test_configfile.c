#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <fcntl.h>

#include "broker/base/mem.h"
#include "broker/config.h"
#include "tests/unit/said.h"

static int parse(const char *text, struct kq_config **ret)
{
    said_clear();
    assert_int_equal(kq_config_new(ret), 0);
    return kq_config_parse(*ret, "f", text, strlen(text));
}

static void refused(const char *text, const char *line)
{
    struct kq_config *config;
    assert_int_equal(parse(text, &config), -EINVAL);
    assert_string_equal(said, line);
    assert_int_equal(said_count, 1);
    kq_config_free(config);
}

static void comments_blanks_indents_crlf_and_bom_are_fine(void **state)
{
    struct kq_config *config;
    assert_int_equal(parse("\xef\xbb\xbf; first\n# second\n\n  [broker]\r\n"
                           "  num.partitions = 3 ; why\r\n\tmax.topics=9\n[topic]\n"
                           "retention.ms : 77",
                           &config),
                     0);
    assert_int_equal(config->default_partitions, 3);
    assert_int_equal(config->max_topics, 9);
    assert_int_equal(config->topic.log.retention_ms, 77);
    kq_config_free(config);
}

static void an_empty_file_changes_nothing(void **state)
{
    struct kq_config *config;
    assert_int_equal(parse("", &config), 0);
    kq_config_free(config);
    assert_int_equal(parse("\n\n", &config), 0);
    kq_config_free(config);
}

static void note_user(void *context, const char *name, uint32_t uid)
{
    size_t length = strlen(context);
    snprintf((char *)context + length, 256 - length, "%s=%u,", name, uid);
}

static void users_may_have_any_names(void **state)
{
    struct kq_config *config, *again;
    char users[256] = "", same[256] = "";
    kq_autobuf struct kq_buf text = {0};
    assert_int_equal(parse("[users]\nCN\\075b,O\\075a b = 7\napp1 = 1000\n", &config), 0);
    assert_int_equal(
        kq_config_set(config, KQ_ORIGIN_COMMAND_LINE, "here", 0, NULL, "users.app1", "8"), 0);
    kq_config_each_user(config, note_user, users);
    assert_string_equal(users, "CN=b,O=a b=7,app1=8,");
    assert_int_equal(config->user_count, 2);
    assert_true(kq_config_knows("users.whatever"));
    assert_int_equal(kq_config_format(config, &text), 0);
    assert_int_equal(kq_config_new(&again), 0);
    assert_int_equal(kq_config_parse(again, "f", (char *)text.data, text.length), 0);
    kq_config_each_user(again, note_user, same);
    assert_string_equal(same, users);
    kq_config_free(again);
    kq_config_free(config);
}

static void lists_may_have_several_lines(void **state)
{
    struct kq_config *config, *again;
    kq_autobuf struct kq_buf text = {0};
    kq_autobuf struct kq_buf file = {0};
    assert_int_equal(kq_buf_append_string(&file, "[tls]\n"), 0);
    for (int i = 0; i < 20; i++)
        assert_int_equal(
            kq_buf_printf(&file, "ssl.principal.mapping.rules = RULE:^CN=user%d,O=Org$/u%d/,\n", i,
                          i),
            0);
    assert_int_equal(kq_buf_append_string(&file, "[net]\n"), 0);
    for (int i = 0; i < 20; i++)
        assert_int_equal(kq_buf_printf(&file, "listen = plaintext://127.0.0.1:%d\n", 1000 + i), 0);
    assert_int_equal(kq_buf_append(&file, "", 1), 0);
    assert_int_equal(parse((char *)file.data, &config), 0);
    assert_true(strlen(config->certificate_rules) > 400);
    assert_true(strlen(config->listen) > 400);
    assert_int_equal(kq_config_format(config, &text), 0);
    assert_int_equal(kq_config_new(&again), 0);
    assert_int_equal(kq_config_parse(again, "f", (char *)text.data, text.length), 0);
    assert_string_equal(again->certificate_rules, config->certificate_rules);
    assert_string_equal(again->listen, config->listen);
    kq_config_free(again);
    kq_config_free(config);
}

static void each_mistake_is_one_line_with_file_line_and_key(void **state)
{
    refused("num.partitions=1\n",
            "f:1: num.partitions: stands before any section; there are [broker], [mount], [net], "
            "[tls], [sasl], [audit], [users], [topic]");
    refused("[broker]\n\nx=1\n", "f:3: x: no such setting in section broker (kqfs.conf(5) lists "
                                 "them)");
    refused("[brok]\nx=1\n", "f:2: brok: no such section; there are [broker], [mount], [net], "
                             "[tls], [sasl], [audit], [users], [topic]");
    refused("[users]\napp1 = alice\n", "f:2: [users] app1: a uid is a number from 0 to 4294967294");
    refused("[users]\napp1 = 4294967295\n",
            "f:2: [users] app1: a uid is a number from 0 to 4294967294");
    refused("[users]\napp1 = 1\napp2 = 1\napp1 = 1\n",
            "f:4: [users] app1: set twice, first in line 2");
    refused("[broker]\nmax.topics=1\nmax.topics=1\n",
            "f:3: max.topics: set twice, first in line 2");
    refused("[topic]\nretention.ms=1\nretention.ms=1\n",
            "f:3: retention.ms: set twice, first in line 2");
    refused("[topic]\nx=1\n", "f:2: x: no such topic setting (kqfs.conf(5) lists them)");
    refused("[topic]\nretention.ms=soon\n", "f:2: retention.ms: `soon`: not a whole number");
    refused("[mount]\noptions=ro,what\n", "f:2: what: no such mount option (kqfs(1) lists them)");
    refused("[mount]\nforeground\n", "f:2: neither `[section]` nor `name = value`");
    refused("[mount\nforeground=true\n", "f:1: neither `[section]` nor `name = value`");
}

static void a_setting_twice_is_refused_where_the_command_line_set_it_too(void **state)
{
    struct kq_config *config;
    static const char text[] = "[broker]\nmax.topics=1\nmax.topics=1\n";
    said_clear();
    assert_int_equal(kq_config_new(&config), 0);
    assert_int_equal(kq_config_set(config, KQ_ORIGIN_COMMAND_LINE, "", 0, NULL, "max.topics", "2"),
                     0);
    assert_int_equal(kq_config_parse(config, "f", text, strlen(text)), -EINVAL);
    kq_config_free(config);
}

static void a_line_too_long_is_refused_and_never_cut(void **state)
{
    struct kq_config *config;
    char text[10000] = "[broker]\ndata=/";
    memset(text + strlen(text), 'x', sizeof(text) - strlen(text) - 1);
    assert_int_equal(parse(text, &config), -EINVAL);
    assert_non_null(strstr(said, "f:2: a line has at most"));
    kq_config_free(config);
}

static void a_comment_may_be_longer_than_a_line(void **state)
{
    struct kq_config *config;
    char text[1000] = "  ; ";
    memset(text + strlen(text), 'x', 600);
    strcat(text, "\n[broker]\nmax.topics = 9");
    assert_int_equal(parse(text, &config), 0);
    assert_int_equal(config->max_topics, 9);
    kq_config_free(config);
}

static void a_path_holds_any_byte_as_in_fstab(void **state)
{
    struct kq_config *config;
    assert_int_equal(parse("[broker]\ndata = /a\\040\\134040\\b\\040\n"
                           "[mount]\noptions=mountpoint=/m\\054\\040,fsname=\\040\n",
                           &config),
                     0);
    assert_string_equal(config->data, "/a \\040\\b ");
    assert_string_equal(config->mountpoint, "/m, ");
    assert_string_equal(config->mount_options, "fsname=\\040");
    kq_config_free(config);
}

static void topic_settings_that_need_each_other_may_come_in_any_order(void **state)
{
    struct kq_config *config;
    assert_int_equal(parse("[topic]\ndelimiter=\nkey.separator=a\nframing=write\n", &config), 0);
    assert_int_equal(kq_config_check(config), 0);
    kq_config_free(config);
}

static void topic_settings_that_do_not_fit_together_are_one_line_with_place_and_key(void **state)
{
    struct kq_config *config;
    assert_int_equal(parse("[topic]\n\ndelimiter=\n", &config), 0);
    config->file = kq_strdup("/f");
    assert_int_equal(kq_config_check(config), -EINVAL);
    assert_string_equal(said, "/f:3: delimiter: must not be empty where framing is `line`");
    assert_int_equal(said_count, 1);
    assert_int_equal(
        kq_config_set(config, KQ_ORIGIN_COMMAND_LINE, "", 0, NULL, "topic.delimiter", "b"), 0);
    assert_int_equal(kq_config_check(config), 0);
    assert_int_equal(
        kq_config_set(config, KQ_ORIGIN_MOUNT_OPTION, "", 0, NULL, "topic.key.separator", "abc"),
        0);
    assert_int_equal(kq_config_check(config), -EINVAL);
    assert_string_equal(said, "-o: key.separator: must not contain the delimiter");
    kq_config_free(config);
}

static void a_nul_byte_is_refused(void **state)
{
    struct kq_config *config;
    said_clear();
    assert_int_equal(kq_config_new(&config), 0);
    assert_int_equal(kq_config_parse(config, "f", "[broker]\n\0\n", 11), -EINVAL);
    assert_string_equal(said, "f:2: a NUL byte; is this a text file?");
    kq_config_free(config);
}

static void a_file_that_is_not_there_is_left_to_the_caller(void **state)
{
    struct kq_config *config;
    said_clear();
    assert_int_equal(kq_config_new(&config), 0);
    assert_int_equal(kq_config_read_file(config, "/nonexistent/kqfs.conf"), -ENOENT);
    assert_int_equal(said_count, 0);
    assert_int_equal(kq_config_read_file(config, "/") < 0, 1);
    assert_int_equal(said_count, 1);
    kq_config_free(config);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(comments_blanks_indents_crlf_and_bom_are_fine),
        cmocka_unit_test(an_empty_file_changes_nothing),
        cmocka_unit_test(users_may_have_any_names),
        cmocka_unit_test(lists_may_have_several_lines),
        cmocka_unit_test(each_mistake_is_one_line_with_file_line_and_key),
        cmocka_unit_test(a_setting_twice_is_refused_where_the_command_line_set_it_too),
        cmocka_unit_test(a_line_too_long_is_refused_and_never_cut),
        cmocka_unit_test(a_comment_may_be_longer_than_a_line),
        cmocka_unit_test(a_path_holds_any_byte_as_in_fstab),
        cmocka_unit_test(topic_settings_that_need_each_other_may_come_in_any_order),
        cmocka_unit_test(topic_settings_that_do_not_fit_together_are_one_line_with_place_and_key),
        cmocka_unit_test(a_nul_byte_is_refused),
        cmocka_unit_test(a_file_that_is_not_there_is_left_to_the_caller),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
