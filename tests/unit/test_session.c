/* The receive loop on a real mount, with handlers of the test's own instead of the tree's. */
#include "fs/session.h"

#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <cmocka.h>

#include "broker/base/clock.h"
#include "tests/unit/directory.h"

#define MAX_RECEIVERS 4
#define SLOW_FILE 2  /* its GETATTR waits until the test lets it go */
#define QUICK_FILE 3 /* its GETATTR answers at once */

static struct kq_fs fs;
static char directory[DIRECTORY_BYTES];
static pthread_t loop_thread;
static atomic_int held, let_go, announced, handled_releases, announced_late;

void kq_handle_announce_release(uint64_t fh)
{
    (void)fh;
    atomic_fetch_add(&announced, 1);
}

void kq_handles_unpark_all(struct kq_handles *handles)
{
    (void)handles;
}

static void fill(fuse_ino_t ino, struct stat *st)
{
    memset(st, 0, sizeof(*st));
    st->st_ino = ino;
    st->st_mode = ino == FUSE_ROOT_ID ? S_IFDIR | 0755 : S_IFREG | 0644;
    st->st_nlink = 1;
}

static void op_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
    struct fuse_entry_param entry = {.ino = strcmp(name, "slow") ? QUICK_FILE : SLOW_FILE,
                                     .entry_timeout = 100};
    (void)parent;
    fill(entry.ino, &entry.attr);
    fuse_reply_entry(req, &entry);
}

static void op_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    struct stat st;
    (void)fi;
    if (ino == SLOW_FILE) {
        atomic_fetch_add(&held, 1);
        while (!atomic_load(&let_go))
            usleep(500);
        atomic_fetch_sub(&held, 1);
    }
    fill(ino, &st);
    fuse_reply_attr(req, &st, 0);
}

static void op_release(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    (void)ino;
    (void)fi;
    kq_receivers_barrier(fs.receivers);
    int before = atomic_fetch_add(&handled_releases, 1);
    if (atomic_load(&announced) <= before)
        atomic_fetch_add(&announced_late, 1);
    fuse_reply_err(req, 0);
}

static const struct fuse_lowlevel_ops operations = {
    .lookup = op_lookup,
    .getattr = op_getattr,
    .release = op_release,
};

static void *run_loop(void *argument)
{
    (void)argument;
    kq_receivers_run(fs.receivers);
    return NULL;
}

static char *path_of(const char *name, char *path, size_t size)
{
    snprintf(path, size, "%s/%s", directory, name);
    return path;
}

static void *stat_slow(void *argument)
{
    char path[128];
    struct stat st;
    (void)argument;
    stat(path_of("slow", path, sizeof(path)), &st);
    return NULL;
}

static void wait_for_held(int count)
{
    while (atomic_load(&held) < count)
        usleep(500);
}

static void test_handlers_that_block_do_not_hold_up_other_requests(void **state)
{
    pthread_t clients[MAX_RECEIVERS - 1];
    char path[128];
    struct stat st;
    (void)state;
    path_of("slow", path, sizeof(path));
    for (int i = 0; i < MAX_RECEIVERS - 1; i++) {
        pthread_create(&clients[i], NULL, stat_slow, NULL);
        wait_for_held(i + 1);
        /* Would hang for ever if nobody were left at the queue. */
        assert_int_equal(stat(path_of("quick", path, sizeof(path)), &st), 0);
    }
    atomic_store(&let_go, 1);
    for (int i = 0; i < MAX_RECEIVERS - 1; i++)
        pthread_join(clients[i], NULL);
}

static void *open_and_close(void *argument)
{
    char path[128];
    (void)argument;
    path_of("quick", path, sizeof(path));
    for (int i = 0; i < 500; i++) {
        int fd = open(path, O_RDONLY);
        assert_true(fd >= 0);
        close(fd);
    }
    return NULL;
}

static void test_each_release_is_announced_before_it_is_handled(void **state)
{
    pthread_t clients[4];
    (void)state;
    atomic_store(&let_go, 1);
    for (size_t i = 0; i < 4; i++)
        pthread_create(&clients[i], NULL, open_and_close, NULL);
    for (size_t i = 0; i < 4; i++)
        pthread_join(clients[i], NULL);
    while (atomic_load(&handled_releases) < 2000)
        usleep(500);
    assert_int_equal(atomic_load(&announced), 2000);
    assert_int_equal(atomic_load(&announced_late), 0);
}

static long context_switches(void)
{
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return usage.ru_nvcsw;
}

static void test_an_idle_mount_sleeps(void **state)
{
    char path[128];
    struct stat st;
    (void)state;
    assert_int_equal(stat(path_of("quick", path, sizeof(path)), &st), 0);
    long before, after = context_switches();
    int rounds = 0;
    do { /* until the supervisor has parked; ticking makes 250 switches a round, a sanitizer's own
            thread a few */
        before = after;
        usleep(500000);
        after = context_switches();
    } while (after - before > 50 && ++rounds < 60);
    assert_true(rounds < 60);
    assert_int_equal(stat(path_of("quick", path, sizeof(path)), &st), 0);
}

static int mount_it(void **state)
{
    char *arguments[] = {"test", NULL};
    struct fuse_args args = FUSE_ARGS_INIT(1, arguments);
    (void)state;
    fs.options = (struct kq_fs_options){.poll_us = 50, .max_receivers = MAX_RECEIVERS};
    fs.session = fuse_session_new(&args, &operations, sizeof(operations), &fs);
    fuse_opt_free_args(&args);
    directory_make(directory, NULL);
    if (!fs.session || fuse_session_mount(fs.session, directory) < 0)
        return -1;
    if (kq_receivers_new(&fs, &fs.receivers) < 0)
        return -1;
    return pthread_create(&loop_thread, NULL, run_loop, NULL);
}

static int unmount_it(void **state)
{
    (void)state;
    atomic_store(&let_go, 1);
    kq_receivers_stop(fs.receivers);
    pthread_join(loop_thread, NULL);
    fuse_session_unmount(fs.session);
    kq_receivers_free(fs.receivers);
    fuse_session_destroy(fs.session);
    return rmdir(directory);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_handlers_that_block_do_not_hold_up_other_requests),
        cmocka_unit_test(test_each_release_is_announced_before_it_is_handled),
        cmocka_unit_test(test_an_idle_mount_sleeps),
    };
    if (access("/dev/fuse", R_OK | W_OK) < 0) {
        puts("SKIP: /dev/fuse cannot be opened by this user");
        return 77;
    }
    return cmocka_run_group_tests(tests, mount_it, unmount_it);
}
