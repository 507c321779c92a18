#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "broker/options.h"
#include "tests/unit/said.h"

/* Splits LINE at blanks and parses it as a command line. */
static int parse(const char *line, enum kq_act *ret_act, struct kq_config **ret)
{
    char copy[512], *argv[32];
    int argc = 0;
    said_clear();
    snprintf(copy, sizeof(copy), "%s", line);
    for (char *word = strtok(copy, " "); word; word = strtok(NULL, " "))
        argv[argc++] = word;
    argv[argc] = NULL;
    return kq_options_parse(argc, argv, ret_act, ret);
}

static struct kq_config *taken(const char *line, enum kq_act expected)
{
    struct kq_config *config;
    enum kq_act act;
    assert_int_equal(parse(line, &act, &config), 0);
    assert_int_equal(act, expected);
    return config;
}

static void refused(const char *line, const char *expected)
{
    struct kq_config *config = NULL;
    enum kq_act act;
    assert_int_equal(parse(line, &act, &config), -EINVAL);
    assert_null(config);
    assert_int_equal(said_count, 1);
    if (!strstr(said, expected))
        fail_msg("%s: said `%s`", line, said);
}

static void one_argument_is_the_mountpoint_and_two_begin_with_the_data(void **state)
{
    struct kq_config *config = taken("kqfs /m", KQ_ACT_SERVE);
    assert_string_equal(config->mountpoint, "/m");
    kq_config_free(config);
    config = taken("kqfs /d /m -o ro", KQ_ACT_SERVE);
    assert_string_equal(config->data, "/d");
    assert_string_equal(config->mountpoint, "/m");
    assert_string_equal(config->mount_options, "ro");
    kq_config_free(config);
}

static void options_stand_before_and_after_the_arguments(void **state)
{
    struct kq_config *config =
        taken("kqfs -f /m --num.partitions=3 --data /d --topic.retention.ms 9", KQ_ACT_SERVE);
    assert_true(config->foreground);
    assert_int_equal(config->default_partitions, 3);
    assert_int_equal(config->topic.log.retention_ms, 9);
    kq_config_free(config);
}

static void debug_implies_the_foreground_and_s_one_receiver(void **state)
{
    struct kq_config *config = taken("kqfs -d -s /m", KQ_ACT_SERVE);
    assert_true(config->debug && config->foreground);
    assert_int_equal(config->max_receivers, 1);
    kq_config_free(config);
}

static void help_and_version_need_no_mountpoint(void **state)
{
    kq_config_free(taken("kqfs -h", KQ_ACT_HELP));
    kq_config_free(taken("kqfs --version", KQ_ACT_VERSION));
}

static void mistakes_are_one_line_each(void **state)
{
    refused("kqfs", "no MOUNTPOINT given");
    refused("kqfs a b c", "`c`: one MOUNTPOINT");
    refused("kqfs --what /m", "no option --what");
    refused("kqfs -x /m", "no option -x");
    refused("kqfs /m --data", "--data needs a value");
    refused("kqfs --data /x /d /m", "both name the data directory");
    refused("kqfs --config /nonexistent/f /m", "/nonexistent/f: no such file");
    refused("kqfs --topic.what 1 /m", "no option --topic.what");
    refused("kqfs --topic.retention.ms soon /m", "retention.ms: `soon`: not a whole number");
    refused("kqfs --topic.delimiter= /m", "command line: delimiter: must not be empty");
    refused("kqfs --foreground=maybe /m", "neither true nor false");
}

static void what_this_build_lacks_is_refused_by_name(void **state)
{
    refused("kqfs kafka://localhost:9092 /m", "remote brokers are not part of this build");
}

static void without_a_mount_there_has_to_be_a_listener(void **state)
{
    refused("kqfs --no-mount", "nothing to serve without --listen");
    struct kq_config *config = taken("kqfs --no-mount --listen plaintext://:9092", KQ_ACT_SERVE);
    assert_null(config->mountpoint);
    assert_string_equal(config->listen, "plaintext://:9092");
    kq_config_free(config);
}

static void listen_given_again_is_one_more(void **state)
{
    struct kq_config *config =
        taken("kqfs --listen a://b --listen c://d --listen e://f /m", KQ_ACT_SERVE);
    assert_string_equal(config->listen, "a://b c://d e://f");
    kq_config_free(config);
}

static void mount_calls_its_helper_with_other_letters(void **state)
{
    struct kq_config *config =
        taken("/sbin/mount.fuse.kqfs /d /m -n -v -o rw,noauto", KQ_ACT_SERVE);
    assert_false(config->foreground);
    kq_config_free(config);
    kq_config_free(taken("mount.fuse.kqfs /d /m -f -o rw", KQ_ACT_NOTHING));
    config = taken("mount.fuse.kqfs /d /m -s -o rw", KQ_ACT_SERVE);
    assert_true(config->sloppy);
    assert_int_not_equal(config->max_receivers, 1);
    kq_config_free(config);
    refused("mount.fuse.kqfs /d /m -N /proc/1/ns/mnt", "namespace");
}

static size_t columns(const char *line)
{
    size_t n = 0;
    for (; *line && *line != '\n'; line++)
        n += ((unsigned char)*line & 0xc0) != 0x80;
    return n;
}

static void help_fits_a_screen(void **state)
{
    char *text, line[512];
    size_t length;
    int lines = 0;
    setenv("HOME", "/home/user", 1);
    unsetenv("XDG_DATA_HOME");
    FILE *to = open_memstream(&text, &length);
    kq_options_print_help(to);
    fclose(to);
    FILE *from = fmemopen(text, length, "r");
    while (fgets(line, sizeof(line), from)) {
        if (columns(line) > 80)
            fail_msg("too wide: %s", line);
        lines++;
    }
    assert_in_range(lines, 10, 24);
    fclose(from);
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_argument_is_the_mountpoint_and_two_begin_with_the_data),
        cmocka_unit_test(options_stand_before_and_after_the_arguments),
        cmocka_unit_test(debug_implies_the_foreground_and_s_one_receiver),
        cmocka_unit_test(help_and_version_need_no_mountpoint),
        cmocka_unit_test(mistakes_are_one_line_each),
        cmocka_unit_test(what_this_build_lacks_is_refused_by_name),
        cmocka_unit_test(without_a_mount_there_has_to_be_a_listener),
        cmocka_unit_test(listen_given_again_is_one_more),
        cmocka_unit_test(mount_calls_its_helper_with_other_letters),
        cmocka_unit_test(help_fits_a_screen),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
