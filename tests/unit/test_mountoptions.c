#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "broker/config.h"
#include "tests/unit/said.h"

static struct kq_config *config;

static int fresh(void **state)
{
    said_clear();
    return kq_config_new(&config);
}

static int drop(void **state)
{
    kq_config_free(config);
    return 0;
}

static int give(enum kq_origin origin, const char *options)
{
    return kq_config_set_mount_options(config, origin, "-o", 0, options);
}

static void what_only_mount_reads_is_dropped(void **state)
{
    assert_int_equal(give(KQ_ORIGIN_MOUNT_OPTION,
                          "defaults,noauto,user=joe,_netdev,nofail,x-systemd.requires=a.service,"
                          "X-foo,comment=c,default_permissions,relatime,,"),
                     0);
    assert_string_equal(config->mount_options, "");
}

static void what_libfuse_knows_is_handed_on_as_written(void **state)
{
    assert_int_equal(give(KQ_ORIGIN_MOUNT_OPTION, "rw,fsname=a\\,b\\\\c,allow_other,noexec"), 0);
    assert_string_equal(config->mount_options, "rw,fsname=a\\,b\\\\c,allow_other,noexec");
}

static void settings_are_taken_with_their_escapes_removed(void **state)
{
    assert_int_equal(
        give(KQ_ORIGIN_MOUNT_OPTION, "data=/a\\,b,num.partitions=3,topic.retention.ms=5,debug"), 0);
    assert_string_equal(config->data, "/a,b");
    assert_int_equal(config->default_partitions, 3);
    assert_int_equal(config->topic.log.retention_ms, 5);
    assert_true(config->debug);
    assert_string_equal(config->mount_options, "");
}

static void the_files_options_come_before_those_of_the_command_line(void **state)
{
    assert_int_equal(give(KQ_ORIGIN_MOUNT_OPTION, "rw"), 0);
    assert_int_equal(give(KQ_ORIGIN_FILE, "ro,nodev"), 0);
    assert_string_equal(config->mount_options, "ro,nodev,rw");
}

static void mistakes_are_one_line_that_names_the_option(void **state)
{
    static const char *const cases[][2] = {
        {"ro,wat", "-o: wat: no such mount option (kqfs(1) lists them)"},
        {"ro=1", "-o: ro: takes no value"},
        {"fsname", "-o: fsname: needs a value"},
        {"num.partitions", "-o: num.partitions: needs a value"},
        {"num.partitions=x", "-o: num.partitions: `x` is not a whole number from 1 to 100000"},
        {"fsname=a\\", "-o: fsname=a\\: ends in a backslash; write it twice"},
        {"wat=1", "-o: wat: no such setting (kqfs.conf(5) lists them)"},
    };
    for (size_t i = 0; i < kq_array_size(cases); i++) {
        said_clear();
        assert_int_equal(give(KQ_ORIGIN_MOUNT_OPTION, cases[i][0]), -EINVAL);
        assert_string_equal(said, cases[i][1]);
        assert_int_equal(said_count, 1);
    }
}

static void sync_is_refused_rather_than_ignored(void **state)
{
    assert_int_equal(give(KQ_ORIGIN_MOUNT_OPTION, "sync"), -EINVAL);
    assert_non_null(strstr(said, "topic.flush.messages=1"));
}

static void a_sloppy_mount_leaves_out_what_nobody_knows_but_no_bad_value(void **state)
{
    config->sloppy = true;
    assert_int_equal(give(KQ_ORIGIN_MOUNT_OPTION, "wat,wat=3,ro"), 0);
    assert_string_equal(config->mount_options, "ro");
    assert_int_equal(said_count, 2);
    assert_int_equal(give(KQ_ORIGIN_MOUNT_OPTION, "num.partitions=x"), -EINVAL);
    assert_int_equal(give(KQ_ORIGIN_MOUNT_OPTION, "topic.retention.ms=x"), -EINVAL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(what_only_mount_reads_is_dropped, fresh, drop),
        cmocka_unit_test_setup_teardown(what_libfuse_knows_is_handed_on_as_written, fresh, drop),
        cmocka_unit_test_setup_teardown(settings_are_taken_with_their_escapes_removed, fresh, drop),
        cmocka_unit_test_setup_teardown(the_files_options_come_before_those_of_the_command_line,
                                        fresh, drop),
        cmocka_unit_test_setup_teardown(mistakes_are_one_line_that_names_the_option, fresh, drop),
        cmocka_unit_test_setup_teardown(sync_is_refused_rather_than_ignored, fresh, drop),
        cmocka_unit_test_setup_teardown(
            a_sloppy_mount_leaves_out_what_nobody_knows_but_no_bad_value, fresh, drop),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
