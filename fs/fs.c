#include "fs/fs.h"

#include <poll.h>
#include <stdlib.h>
#include <string.h>

#include "broker/base/clock.h"
#include "broker/base/mem.h"
#include "broker/metrics.h"
#include "fs/internal.h"
#include "fs/mount.h"
#include "fs/session.h"

#define PAGE 4096
#define LEAST_WRITE (64 * 1024)
#define MOST_WRITE (1024 * 1024)
#define MAX_BACKGROUND 32768 /* no RELEASE ever waits behind the answers of other requests */
#define PUMP_MS 10

/* --- Requests --- */

static void op_init(void *userdata, struct fuse_conn_info *conn)
{
    struct kq_fs *fs = userdata;
    static const unsigned wanted = FUSE_CAP_POSIX_ACL | FUSE_CAP_DONT_MASK |
                                   FUSE_CAP_ATOMIC_O_TRUNC | FUSE_CAP_PARALLEL_DIROPS |
                                   FUSE_CAP_READDIRPLUS | FUSE_CAP_READDIRPLUS_AUTO |
                                   FUSE_CAP_CACHE_SYMLINKS | FUSE_CAP_HANDLE_KILLPRIV |
                                   FUSE_CAP_ASYNC_READ | FUSE_CAP_ASYNC_DIO;
    /* The kernel must not write later, nor drop pages because a time changed: what may be kept
     * never changes. Nothing here is ever setuid, so there is nothing to kill on a write. */
    static const unsigned refused = FUSE_CAP_WRITEBACK_CACHE | FUSE_CAP_AUTO_INVAL_DATA |
                                    FUSE_CAP_SPLICE_READ | FUSE_CAP_SPLICE_WRITE |
                                    FUSE_CAP_SPLICE_MOVE;
    conn->want = (conn->want & ~refused) | (conn->capable & wanted);
    conn->max_write = fs->options.max_write;
    conn->max_background = MAX_BACKGROUND;
    conn->congestion_threshold = MAX_BACKGROUND;
    conn->time_gran = 1000000;
    fs->posix_acl = conn->want & FUSE_CAP_POSIX_ACL;
}

/* One row an operation: counts it and passes it on. */
#define OPERATIONS(X)                                                                              \
    X(lookup, (fuse_req_t r, fuse_ino_t p, const char *n), (r, p, n))                              \
    X(forget, (fuse_req_t r, fuse_ino_t i, uint64_t c), (r, i, c))                                 \
    X(forget_multi, (fuse_req_t r, size_t c, struct fuse_forget_data * f), (r, c, f))              \
    X(getattr, (fuse_req_t r, fuse_ino_t i, struct fuse_file_info * f), (r, i, f))                 \
    X(setattr, (fuse_req_t r, fuse_ino_t i, struct stat * s, int t, struct fuse_file_info *f),     \
      (r, i, s, t, f))                                                                             \
    X(readlink, (fuse_req_t r, fuse_ino_t i), (r, i))                                              \
    X(mknod, (fuse_req_t r, fuse_ino_t p, const char *n, mode_t m, dev_t d), (r, p, n, m, d))      \
    X(mkdir, (fuse_req_t r, fuse_ino_t p, const char *n, mode_t m), (r, p, n, m))                  \
    X(unlink, (fuse_req_t r, fuse_ino_t p, const char *n), (r, p, n))                              \
    X(rmdir, (fuse_req_t r, fuse_ino_t p, const char *n), (r, p, n))                               \
    X(symlink, (fuse_req_t r, const char *l, fuse_ino_t p, const char *n), (r, l, p, n))           \
    X(rename,                                                                                      \
      (fuse_req_t r, fuse_ino_t p, const char *n, fuse_ino_t q, const char *m, unsigned f),        \
      (r, p, n, q, m, f))                                                                          \
    X(link, (fuse_req_t r, fuse_ino_t i, fuse_ino_t p, const char *n), (r, i, p, n))               \
    X(opendir, (fuse_req_t r, fuse_ino_t i, struct fuse_file_info * f), (r, i, f))                 \
    X(readdir, (fuse_req_t r, fuse_ino_t i, size_t s, off_t o, struct fuse_file_info * f),         \
      (r, i, s, o, f))                                                                             \
    X(readdirplus, (fuse_req_t r, fuse_ino_t i, size_t s, off_t o, struct fuse_file_info * f),     \
      (r, i, s, o, f))                                                                             \
    X(releasedir, (fuse_req_t r, fuse_ino_t i, struct fuse_file_info * f), (r, i, f))              \
    X(statfs, (fuse_req_t r, fuse_ino_t i), (r, i))                                                \
    X(setxattr, (fuse_req_t r, fuse_ino_t i, const char *n, const char *v, size_t s, int f),       \
      (r, i, n, v, s, f))                                                                          \
    X(getxattr, (fuse_req_t r, fuse_ino_t i, const char *n, size_t s), (r, i, n, s))               \
    X(listxattr, (fuse_req_t r, fuse_ino_t i, size_t s), (r, i, s))                                \
    X(removexattr, (fuse_req_t r, fuse_ino_t i, const char *n), (r, i, n))                         \
    X(create, (fuse_req_t r, fuse_ino_t p, const char *n, mode_t m, struct fuse_file_info *f),     \
      (r, p, n, m, f))                                                                             \
    X(open, (fuse_req_t r, fuse_ino_t i, struct fuse_file_info * f), (r, i, f))                    \
    X(read, (fuse_req_t r, fuse_ino_t i, size_t s, off_t o, struct fuse_file_info * f),            \
      (r, i, s, o, f))                                                                             \
    X(write,                                                                                       \
      (fuse_req_t r, fuse_ino_t i, const char *b, size_t s, off_t o, struct fuse_file_info *f),    \
      (r, i, b, s, o, f))                                                                          \
    X(flush, (fuse_req_t r, fuse_ino_t i, struct fuse_file_info * f), (r, i, f))                   \
    X(release, (fuse_req_t r, fuse_ino_t i, struct fuse_file_info * f), (r, i, f))                 \
    X(fsync, (fuse_req_t r, fuse_ino_t i, int d, struct fuse_file_info *f), (r, i, d, f))          \
    X(poll, (fuse_req_t r, fuse_ino_t i, struct fuse_file_info * f, struct fuse_pollhandle * h),   \
      (r, i, f, h))                                                                                \
    X(lseek, (fuse_req_t r, fuse_ino_t i, off_t o, int w, struct fuse_file_info *f),               \
      (r, i, o, w, f))

#define DEFINE(op, parameters, arguments)                                                          \
    static struct kq_metric count_##op = {                                                         \
        .name = "kqfs_fuse_" #op "_requests_total",                                                \
        .help = "Requests of the mount, by operation: " #op ".",                                   \
        .type = KQ_COUNTER,                                                                        \
    };                                                                                             \
    static void op_##op parameters                                                                 \
    {                                                                                              \
        kq_metric_add(&count_##op, 1);                                                             \
        kq_op_##op arguments;                                                                      \
    }
OPERATIONS(DEFINE)

#define ROW(op, parameters, arguments) .op = op_##op,
static const struct fuse_lowlevel_ops operations = {.init = op_init, OPERATIONS(ROW)};
#undef ROW

static void register_metrics(void)
{
#define REGISTER(op, parameters, arguments) kq_metric_register(&count_##op);
    OPERATIONS(REGISTER)
#undef REGISTER
    kq_errmap_register_metrics();
}

struct kq_caller kq_fs_caller(fuse_req_t req)
{
    const struct fuse_ctx *ctx = fuse_req_ctx(req);
    return (struct kq_caller){.uid = ctx->uid, .gid = ctx->gid, .kernel_checked = true};
}

/* --- The life of a mount --- */

static uint32_t sane_max_write(uint32_t asked)
{
    if (asked < LEAST_WRITE)
        return LEAST_WRITE;
    return (asked > MOST_WRITE ? MOST_WRITE : asked) & ~(uint32_t)(PAGE - 1);
}

static int make_parts(struct kq_fs *fs)
{
    int r = kq_nodes_new(&fs->nodes);
    if (r == 0)
        r = kq_pool_new("kqfs-worker", fs->options.max_workers, &fs->workers);
    if (r == 0)
        r = kq_handles_new(fs, &fs->handles);
    if (r == 0)
        r = kq_mount(fs, &operations);
    if (r == 0)
        r = kq_receivers_new(fs, &fs->receivers);
    if (r == 0)
        r = kq_notifier_new(fs, &fs->notifier);
    return r;
}

int kq_fs_mount(struct kq_broker *broker, const struct kq_fs_options *options, struct kq_fs **ret)
{
    char *mountpoint;
    int r = kq_mount_check(options->mountpoint, &mountpoint);
    if (r < 0)
        return r;
    struct kq_fs *fs = kq_zalloc(sizeof(*fs));
    if (!fs) {
        free(mountpoint);
        return -ENOMEM;
    }
    fs->broker = broker;
    fs->options = *options;
    fs->options.max_write = sane_max_write(options->max_write);
    fs->mountpoint = mountpoint;
    fs->started_ms = kq_clock_wall_ms();
    atomic_init(&fs->root_changed_ms, fs->started_ms);
    kq_removals_init(&fs->removals);
    fs->uid = geteuid();
    fs->gid = getegid();
    register_metrics();
    r = make_parts(fs);
    if (r < 0) {
        kq_fs_free(fs);
        return r;
    }
    kq_fs_listen(fs);
    *ret = fs;
    return 0;
}

/* The notifier may be inside the mount itself (kq_notify_modified): serve until it is out. */
static void end_notifier(struct kq_fs *fs)
{
    struct fuse_buf buf = {0};
    while (!kq_notifier_stop(fs->notifier)) {
        struct pollfd queue = {.fd = fuse_session_fd(fs->session), .events = POLLIN};
        if (poll(&queue, 1, PUMP_MS) > 0 && fuse_session_receive_buf(fs->session, &buf) > 0)
            fuse_session_process_buf(fs->session, &buf);
    }
    free(buf.mem);
}

int kq_fs_run(struct kq_fs *fs)
{
    int r = kq_receivers_run(fs->receivers);
    end_notifier(fs);
    kq_handles_drain(fs->handles);
    kq_pool_free(fs->workers);
    fs->workers = NULL;
    return r;
}

void kq_fs_stop(struct kq_fs *fs)
{
    kq_receivers_stop(fs->receivers);
}

void kq_fs_free(struct kq_fs *fs)
{
    if (!fs)
        return;
    kq_fs_unlisten(fs);
    kq_notifier_free(fs->notifier);
    kq_receivers_free(fs->receivers);
    kq_pool_free(fs->workers);
    kq_handles_free(fs->handles);
    if (fs->session)
        kq_unmount(fs);
    kq_nodes_free(fs->nodes);
    kq_removals_destroy(&fs->removals);
    free(fs->mountpoint);
    free(fs);
}
