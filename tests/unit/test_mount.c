/* What is said, and done, before anything is mounted. */
#include "tests/unit/ground.h"

#include <errno.h>
#include <sys/mount.h>
#include <unistd.h>

#include "fs/mount.h"

static char *make_directory(void)
{
    static char path[DIRECTORY_BYTES];
    directory_make(path, NULL);
    said_clear();
    return path;
}

static void a_directory_is_fine_and_made_absolute(void **state)
{
    char *path = make_directory(), *absolute = NULL, roundabout[128];
    snprintf(roundabout, sizeof(roundabout), "%s/../%s/.", path, strrchr(path, '/') + 1);
    assert_int_equal(kq_mount_check(roundabout, &absolute), 0);
    assert_string_equal(absolute, path);
    assert_int_equal(said_count, 0);
    free(absolute);
    rmdir(path);
}

static void assert_refused(const char *path, int error, const char *remedy)
{
    char *absolute = NULL;
    said_clear();
    assert_int_equal(kq_mount_check(path, &absolute), -error);
    assert_null(absolute);
    assert_int_equal(said_count, 1);
    assert_non_null(strstr(said, path));
    assert_non_null(strstr(said, remedy));
}

static void each_refusal_is_one_line_with_the_remedy(void **state)
{
    char *path = make_directory(), file[128];
    snprintf(file, sizeof(file), "%s/file", path);
    assert_refused(file, ENOENT, "mkdir");
    close(open(file, O_CREAT | O_WRONLY, 0600));
    assert_refused(file, ENOTDIR, "directory");
    unlink(file);
    rmdir(path);
}

static void a_mount_whose_broker_died_is_recognised(void **state)
{
    char *path = make_directory(), options[64];
    int device = open("/dev/fuse", O_RDWR);
    if (geteuid() != 0 || device < 0)
        skip();
    snprintf(options, sizeof(options), "fd=%d,rootmode=40000,user_id=0,group_id=0", device);
    assert_int_equal(mount("dead", path, "fuse", 0, options), 0);
    close(device);
    assert_refused(path, ENOTCONN, "fusermount3 -u");
    umount(path);
    rmdir(path);
}

static int try_mount(const char *path, const char *options)
{
    static const struct fuse_lowlevel_ops none;
    struct kq_fs fs = {.mountpoint = (char *)path, .options = {.mount_options = options}};
    int r = kq_mount(&fs, &none);
    if (r == 0) {
        fuse_session_unmount(fs.session);
        fuse_session_destroy(fs.session);
    }
    return r;
}

static void options_that_do_not_exist_are_named(void **state)
{
    char *path = make_directory();
    if (access("/dev/fuse", R_OK | W_OK) < 0)
        skip();
    assert_int_equal(try_mount(path, "no_such_option"), -EINVAL);
    assert_int_equal(said_count, 1);
    assert_non_null(strstr(said, "no_such_option"));
    assert_int_equal(try_mount(path, "fsname=log,ro"), 0);
    assert_int_equal(said_count, 1);
    rmdir(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_directory_is_fine_and_made_absolute),
        cmocka_unit_test(each_refusal_is_one_line_with_the_remedy),
        cmocka_unit_test(a_mount_whose_broker_died_is_recognised),
        cmocka_unit_test(options_that_do_not_exist_are_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
