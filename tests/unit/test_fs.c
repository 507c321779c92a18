/* The tree on a mount of its own, asked by the kernel: what no library call can stand in for. */
#include "tests/unit/ground.h"

#include <errno.h>
#include <sys/inotify.h>
#include <sys/statvfs.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "fs/fs.h"

struct mounted {
    struct ground ground;
    struct kq_fs *fs;
    char path[64];
    pthread_t thread;
    int result;
};

static void *serve(void *argument)
{
    struct mounted *mounted = argument;
    mounted->result = kq_fs_run(mounted->fs);
    return NULL;
}

static int config_text(void *context, struct kq_buf *ret)
{
    return kq_buf_append_string(ret, "[broker]\n");
}

static int mount_setup(void **state)
{
    static struct mounted mounted;
    ground_setup(&mounted.ground);
    mounted.ground.options.new_root = (struct kq_attributes){.mode = 0777};
    ground_open(&mounted.ground);
    snprintf(mounted.path, sizeof(mounted.path), "%.48s-mnt", mounted.ground.path);
    assert_int_equal(mkdir(mounted.path, 0700), 0);
    struct kq_fs_options options = {
        .mountpoint = mounted.path,
        .mount_options = "",
        .max_receivers = 3,
        .max_workers = 3,
        .attribute_timeout_ms = 1000,
        .max_write = 1 << 20,
        .max_pending_bytes = 1 << 20,
        .version = "kqfs test\n",
        .config_text = config_text,
    };
    assert_int_equal(kq_fs_mount(mounted.ground.broker, &options, &mounted.fs), 0);
    assert_int_equal(pthread_create(&mounted.thread, NULL, serve, &mounted), 0);
    *state = &mounted;
    return 0;
}

static int mount_teardown(void **state)
{
    struct mounted *mounted = *state;
    kq_fs_stop(mounted->fs);
    pthread_join(mounted->thread, NULL);
    assert_int_equal(mounted->result, 0);
    kq_fs_free(mounted->fs);
    assert_int_equal(rmdir(mounted->path), 0);
    ground_close(&mounted->ground);
    ground_remove(&mounted->ground);
    return 0;
}

static const char *at(struct mounted *mounted, const char *name)
{
    static char paths[4][128];
    static unsigned turn;
    char *path = paths[turn++ % 4];
    snprintf(path, sizeof(paths[0]), "%s/%s", mounted->path, name);
    return path;
}

#define assert_fails(call, error)                                                                  \
    do {                                                                                           \
        errno = 0;                                                                                 \
        assert_int_equal((call), -1);                                                              \
        assert_int_equal(errno, error);                                                            \
    } while (0)

static void append_text(struct mounted *mounted, const char *name, const char *text)
{
    int fd = open(at(mounted, name), O_WRONLY | O_APPEND);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, strlen(text)), strlen(text));
    close(fd);
}

static off_t size_of(struct mounted *mounted, const char *name)
{
    struct stat stat_buf;
    assert_int_equal(stat(at(mounted, name), &stat_buf), 0);
    return stat_buf.st_size;
}

static mode_t mode_of(struct mounted *mounted, const char *name)
{
    struct stat stat_buf;
    assert_int_equal(stat(at(mounted, name), &stat_buf), 0);
    return stat_buf.st_mode & 07777;
}

static void directories_are_topics(void **state)
{
    struct mounted *m = *state;
    mode_t before = umask(027);
    assert_int_equal(mkdir(at(m, "orders"), 0777), 0);
    umask(before);
    assert_int_equal(mode_of(m, "orders"), S_ISVTX | 0750);
    assert_int_equal(mode_of(m, "orders/p1"), 0640);
    assert_fails(mkdir(at(m, "orders"), 0777), EEXIST);
    assert_fails(mkdir(at(m, "a b"), 0777), EINVAL);
    assert_fails(mkdir(at(m, "orders/x"), 0777), EPERM);
    assert_fails(rename(at(m, "orders"), at(m, "bills")), EPERM);
    append_text(m, "orders/p0", "one\n");
    assert_fails(rmdir(at(m, "orders")), ENOTEMPTY);
    assert_int_equal(unlink(at(m, "orders/p0")), 0);
    assert_int_equal(size_of(m, "orders/p0"), 0);
    assert_int_equal(rmdir(at(m, "orders")), 0);
    assert_fails(access(at(m, "orders"), F_OK), ENOENT);
    assert_fails(rmdir(at(m, ".kqfs")), EPERM);
}

static void files_are_partitions_and_come_in_turn(void **state)
{
    struct mounted *m = *state;
    assert_int_equal(mkdir(at(m, "orders"), 0777), 0);
    assert_fails(open(at(m, "orders/p3"), O_CREAT | O_WRONLY, 0666), ENOENT);
    assert_fails(open(at(m, "orders/file"), O_CREAT | O_WRONLY, 0666), EPERM);
    assert_fails(open(at(m, "file"), O_CREAT | O_WRONLY, 0666), EPERM);
    int fd = open(at(m, "orders/p2"), O_CREAT | O_EXCL | O_WRONLY | O_TRUNC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, "x\n", 2), 2);
    close(fd);
    assert_int_equal(size_of(m, "orders/p2"), 2);
    assert_int_equal(mode_of(m, "orders/p2"), 0600);
    assert_fails(open(at(m, "orders/p2"), O_CREAT | O_EXCL | O_WRONLY, 0600), EEXIST);
    assert_fails(open(at(m, "orders/p2"), O_WRONLY | O_TRUNC), EPERM);
    assert_int_equal(mknod(at(m, "orders/p3"), S_IFREG | 0644, 0), 0);
    assert_fails(mknod(at(m, "orders/p4"), S_IFIFO | 0644, 0), EPERM);
    assert_fails(symlink("p0", at(m, "orders/link")), EPERM);
    assert_fails(link(at(m, "orders/p0"), at(m, "orders/link")), EPERM);
    assert_fails(unlink(at(m, "orders/p0.log")), EPERM);
    assert_int_equal(unlink(at(m, "orders/append")), 0);
    assert_int_equal(unlink(at(m, "orders/by-offset/p0/latest")), 0);
    assert_int_equal(rmdir(at(m, "orders/by-offset/p0")), 0);
    assert_int_equal(rmdir(at(m, "orders/by-offset")), 0);
    assert_int_equal(access(at(m, "orders/by-offset/p0/0"), R_OK), 0);
}

static void attributes_change_where_they_are_stored_and_show_at_once_elsewhere(void **state)
{
    struct mounted *m = *state;
    assert_int_equal(mkdir(at(m, "orders"), 0755), 0);
    static const char *const derived[] = {"orders/p0.stream", "orders/p0.log", "orders/append",
                                          "orders/by-offset/p0/0", "orders/p0.jsonl"};
    for (size_t i = 0; i < kq_array_size(derived); i++)
        assert_int_equal(mode_of(m, derived[i]), 0644);
    assert_int_equal(chmod(at(m, "orders/p0"), 0600), 0);
    for (size_t i = 0; i < kq_array_size(derived); i++) {
        assert_int_equal(mode_of(m, derived[i]), 0600);
        assert_fails(chmod(at(m, derived[i]), 0666), EPERM);
    }
    assert_int_equal(mode_of(m, "orders/by-time/p1"), S_ISVTX | 0755);
    assert_int_equal(chmod(at(m, "orders"), 0700), 0);
    assert_int_equal(mode_of(m, "orders"), S_ISVTX | 0700);
    assert_int_equal(mode_of(m, "orders/by-time/p1"), S_ISVTX | 0700);
    assert_fails(chmod(at(m, "orders/p0"), S_ISUID | 0700), EPERM);
    assert_fails(chmod(at(m, "orders"), S_ISUID | 0700), EPERM);
    assert_fails(chmod(at(m, ".kqfs"), 0700), EPERM);
    assert_fails(truncate(at(m, "orders/p0"), 0), EPERM);
    assert_int_equal(truncate(at(m, "orders/append"), 0), 0);
    assert_int_equal(utimensat(AT_FDCWD, at(m, "orders/p0"), NULL, 0), 0);
}

static void extended_attributes_are_the_configuration(void **state)
{
    struct mounted *m = *state;
    char value[64];
    const char *topic = "orders", *name = "user.kqfs.retention.ms";
    assert_int_equal(mkdir(at(m, topic), 0755), 0);
    assert_int_equal(getxattr(at(m, topic), name, value, sizeof(value)), 9);
    assert_memory_equal(value, "604800000", 9);
    assert_int_equal(listxattr(at(m, topic), value, sizeof(value)), 0);
    assert_fails(setxattr(at(m, topic), name, "60000", 5, XATTR_REPLACE), ENODATA);
    assert_int_equal(setxattr(at(m, topic), name, "60000", 5, XATTR_CREATE), 0);
    assert_fails(setxattr(at(m, topic), name, "60000", 5, XATTR_CREATE), EEXIST);
    assert_int_equal(listxattr(at(m, topic), value, sizeof(value)), strlen(name) + 1);
    assert_string_equal(value, name);
    assert_int_equal(getxattr(at(m, topic), name, NULL, 0), 5);
    assert_fails(getxattr(at(m, topic), name, value, 4), ERANGE);
    assert_fails(setxattr(at(m, topic), name, "never", 5, 0), EINVAL);
    assert_fails(setxattr(at(m, topic), name, "60000\0", 6, 0), EINVAL);
    assert_fails(setxattr(at(m, topic), "user.kqfs.nothing", "1", 1, 0), EOPNOTSUPP);
    assert_fails(setxattr(at(m, topic), "user.other", "1", 1, 0), EOPNOTSUPP);
    assert_int_equal(removexattr(at(m, topic), name), 0);
    assert_fails(removexattr(at(m, topic), name), ENODATA);
}

static void a_partition_tells_its_bounds_and_takes_none(void **state)
{
    struct mounted *m = *state;
    char value[64] = "";
    assert_int_equal(mkdir(at(m, "orders"), 0755), 0);
    append_text(m, "orders/p0", "one\ntwo\nhalf");
    assert_int_equal(getxattr(at(m, "orders/p0"), "user.kqfs.end", value, sizeof(value)), 1);
    assert_string_equal(value, "3");
    assert_fails(setxattr(at(m, "orders/p0"), "user.kqfs.end", "9", 1, 0), EPERM);
    assert_fails(removexattr(at(m, "orders/p0"), "user.kqfs.start"), EPERM);
    assert_fails(getxattr(at(m, "orders/p0"), "user.kqfs.none", value, 9), EOPNOTSUPP);
}

static void control_files_say_what_runs(void **state)
{
    struct mounted *m = *state;
    char text[32] = "";
    int fd = open(at(m, ".kqfs/version"), O_RDONLY);
    assert_true(fd >= 0);
    assert_int_equal(read(fd, text, sizeof(text)), 10);
    assert_string_equal(text, "kqfs test\n");
    close(fd);
    fd = open(at(m, ".kqfs/metrics"), O_RDONLY);
    assert_int_equal(read(fd, text, 6), 6);
    assert_memory_equal(text, "# HELP", 6);
    close(fd);
    struct statvfs facts;
    assert_int_equal(statvfs(m->path, &facts), 0);
    assert_int_equal(facts.f_namemax, 249);
    assert_true(facts.f_blocks > 0);
}

/* A change that does not come through the mount shows in it. */
static void what_other_front_ends_do_shows(void **state)
{
    struct mounted *m = *state;
    struct kq_topic *topic;
    assert_int_equal(mkdir(at(m, "orders"), 0755), 0);
    append_text(m, "orders/p0", "one\n");
    assert_int_equal(size_of(m, "orders/p0"), 4);
    assert_int_equal(kq_topic_get(m->ground.broker, "orders", &topic), 0);
    struct kq_access access = ground_access(topic, 0);
    assert_int_equal(kq_delete_records(access.partition, &ground_caller, -1), 0);
    /* The notification is on its way; an open meets ESTALE inside the kernel and looks again. */
    int fd = open(at(m, "orders/p0"), O_RDONLY);
    assert_true(fd >= 0);
    char byte;
    assert_int_equal(read(fd, &byte, 1), 0);
    close(fd);
    assert_int_equal(kq_topic_delete(topic, &ground_caller, false), 0);
    assert_fails(open(at(m, "orders/p0"), O_RDONLY), ENOENT);
    kq_topic_unref(topic);
    assert_int_equal(mkdir(at(m, "orders"), 0755), 0);
    assert_int_equal(size_of(m, "orders/p0"), 0);
}

static void watchers_of_the_log_hear_of_appends_from_elsewhere(void **state)
{
    struct mounted *m = *state;
    struct kq_topic *topic;
    struct inotify_event event;
    assert_int_equal(mkdir(at(m, "orders"), 0755), 0);
    int fd = inotify_init();
    assert_true(inotify_add_watch(fd, at(m, "orders/p0.log"), IN_MODIFY) >= 0);
    assert_int_equal(kq_topic_get(m->ground.broker, "orders", &topic), 0);
    struct kq_access access = ground_access(topic, 0);
    struct kq_log_appended appended;
    assert_int_equal(ground_append(&access, "text\n", &appended), 0);
    assert_int_equal(read(fd, &event, sizeof(event)), sizeof(event));
    assert_true(event.mask & IN_MODIFY);
    assert_int_equal(size_of(m, "orders/p0.log"), 5);
    close(fd);
    kq_topic_unref(topic);
}

enum { NAMES = 3000 };

static void *look_names_up(void *argument)
{
    struct mounted *m = argument;
    char path[160];
    struct stat stat_buf;
    for (int i = 0; i < NAMES; i++) {
        snprintf(path, sizeof(path), "%s/orders/by-offset/p0/%d", m->path, i % 5);
        assert_int_equal(stat(path, &stat_buf), 0);
    }
    return NULL;
}

/* Lookups, forgets, notifications and changes at once: nothing deadlocks, nothing gets lost. */
static void everything_at_once_comes_to_an_end(void **state)
{
    struct mounted *m = *state;
    pthread_t threads[3];
    assert_int_equal(mkdir(at(m, "orders"), 0755), 0);
    append_text(m, "orders/p0", "1\n2\n3\n4\n5\n");
    for (int i = 0; i < 3; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, look_names_up, m), 0);
    for (int i = 0; i < 30; i++) {
        char name[32];
        snprintf(name, sizeof(name), "t%d", i % 3);
        assert_int_equal(mkdir(at(m, name), 0755), 0);
        assert_int_equal(chmod(at(m, "orders/p0"), i % 2 ? 0600 : 0644), 0);
        append_text(m, "orders/append", "line\n");
        snprintf(name, sizeof(name), "t%d/p0", i % 3);
        append_text(m, name, "x\n");
        assert_int_equal(unlink(at(m, name)), 0);
        snprintf(name, sizeof(name), "t%d", i % 3);
        assert_int_equal(rmdir(at(m, name)), 0);
    }
    for (int i = 0; i < 3; i++)
        pthread_join(threads[i], NULL);
}

#define MOUNT_TEST(name) cmocka_unit_test_setup_teardown(name, mount_setup, mount_teardown)

int main(void)
{
    if (access("/dev/fuse", R_OK | W_OK) < 0) {
        puts("SKIP: /dev/fuse cannot be opened by this user");
        return 77;
    }
    const struct CMUnitTest tests[] = {
        MOUNT_TEST(directories_are_topics),
        MOUNT_TEST(files_are_partitions_and_come_in_turn),
        MOUNT_TEST(attributes_change_where_they_are_stored_and_show_at_once_elsewhere),
        MOUNT_TEST(extended_attributes_are_the_configuration),
        MOUNT_TEST(a_partition_tells_its_bounds_and_takes_none),
        MOUNT_TEST(control_files_say_what_runs),
        MOUNT_TEST(what_other_front_ends_do_shows),
        MOUNT_TEST(watchers_of_the_log_hear_of_appends_from_elsewhere),
        MOUNT_TEST(everything_at_once_comes_to_an_end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
