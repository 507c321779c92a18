#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <sys/stat.h>

#include "broker/base/mem.h"
#include "broker/options.h"
#include "broker/paths.h"
#include "tests/unit/directory.h"
#include "tests/unit/said.h"

static char directory[DIRECTORY_BYTES];
static struct kq_config *config;

static int make_directory(void **state)
{
    directory_make(directory, NULL);
    if (chdir(directory) < 0)
        return -1;
    return mkdir("m", 0700) || mkdir("d", 0700) || symlink("m", "link") || symlink("loop", "loop");
}

static int remove_directory(void **state)
{
    return chdir("/") || directory_remove(directory);
}

static int check(const char *data, const char *mountpoint)
{
    said_clear();
    kq_config_free(config);
    assert_int_equal(kq_config_new(&config), 0);
    kq_config_set(config, KQ_ORIGIN_COMMAND_LINE, "", 0, NULL, "data", data);
    kq_config_set(config, KQ_ORIGIN_COMMAND_LINE, "", 0, NULL, "mountpoint", mountpoint);
    int code = kq_paths_check(config);
    assert_int_equal(said_count, code != 0);
    return code;
}

static void links_and_dots_are_resolved(void **state)
{
    char expected[128];
    assert_int_equal(check("d/../d/new/", "./link"), 0);
    snprintf(expected, sizeof(expected), "%s/d/new", directory);
    assert_string_equal(config->data, expected);
    snprintf(expected, sizeof(expected), "%s/m", directory);
    assert_string_equal(config->mountpoint, expected);
}

static void data_within_the_mount_is_refused(void **state)
{
    assert_int_equal(check("m/data", "m"), KQ_EXIT_DATA_UNUSABLE);
    assert_int_equal(check("m", "m"), KQ_EXIT_DATA_UNUSABLE);
    assert_int_equal(check("link/data", "m"), KQ_EXIT_DATA_UNUSABLE);
    assert_int_equal(check("d", "/"), KQ_EXIT_DATA_UNUSABLE);
}

static void a_mount_within_the_data_is_refused(void **state)
{
    assert_int_equal(check(".", "m"), KQ_EXIT_MOUNT);
    assert_int_equal(check("d", "m"), 0);
    assert_int_equal(check("mm", "m"), 0); /* a name that only begins alike */
}

static void a_mountpoint_is_a_directory_that_is_there(void **state)
{
    assert_int_equal(check("d", "nowhere"), KQ_EXIT_MOUNT);
    assert_non_null(strstr(said, "mkdir -p"));
    assert_int_equal(check("d", "/dev/null"), KQ_EXIT_MOUNT);
    assert_int_equal(check("d", "loop"), KQ_EXIT_MOUNT);
}

static void the_data_directory_goes_into_fsname_with_its_commas_escaped(void **state)
{
    assert_int_equal(check("a,b\\c", "m"), 0);
    assert_int_equal(
        kq_config_set_mount_options(config, KQ_ORIGIN_MOUNT_OPTION, "-o", 0, "ro,allow_other"), 0);
    kq_autofree char *options = kq_paths_mount_options(config);
    assert_non_null(strstr(options, "/a\\,b\\\\c,subtype=kqfs,ro,allow_other"));
    kq_config_free(config);
    config = NULL;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(links_and_dots_are_resolved),
        cmocka_unit_test(data_within_the_mount_is_refused),
        cmocka_unit_test(a_mount_within_the_data_is_refused),
        cmocka_unit_test(a_mountpoint_is_a_directory_that_is_there),
        cmocka_unit_test(the_data_directory_goes_into_fsname_with_its_commas_escaped),
    };
    return cmocka_run_group_tests(tests, make_directory, remove_directory);
}
