/* A kernel of the test's own in front of the fs: requests go in as the bytes that FUSE defines,
 * answers and notifications are caught. What happens when, and what the kernel takes, is the test's
 * to say; nothing is mounted.
 *
 * The thread of the test is the receiver. Where a handler has handed its request over, the call
 * here waits for the answer all the same. */
#pragma once

#include "tests/unit/ground.h"

#include <errno.h>
#include <linux/fuse.h>
#include <sys/eventfd.h>
#include <sys/queue.h>
#include <time.h>
#include <unistd.h>

#include "fs/internal.h"
#include "fs/session.h"

#define KERNEL_ANSWER (2 << 20) /* bytes of an answer, at most */
#define KERNEL_WAIT_S 30        /* for what must come */

struct kernel_message {
    STAILQ_ENTRY(kernel_message) entry;
    struct fuse_out_header header; /* UNIQUE 0: a notification, whose code is in ERROR */
    size_t length;
    uint8_t bytes[];
};

STAILQ_HEAD(kernel_messages, kernel_message);

struct kernel {
    struct kq_fs fs; /* first: libfuse hands it to the callbacks */
    struct ground ground;
    char mountpoint[128]; /* a plain directory */
    pthread_mutex_t lock;
    pthread_cond_t changed;
    struct kernel_messages answers, notices;
    uint64_t unique;
    int refuse;          /* the errno with which the next answer is not taken; 0 */
    bool gate_is_closed; /* notifications wait */
    int at_gate;         /* of them */
    struct fuse_in_header who;
    void (*hook)(fuse_req_t req); /* BMAP, which the fs does not serve, is the test's own */
    bool keep_polls;              /* POLL is not the fs' either: the handle is kept */
    struct fuse_pollhandle *polled;
};

static inline struct kernel *kernel_of(fuse_req_t req)
{
    return (struct kernel *)kq_fs_of(req);
}

/* --- libfuse's way in and out --- */

static ssize_t kernel_take(int fd, struct iovec *iov, int count, void *userdata)
{
    struct kernel *kernel = userdata;
    size_t length = 0, at = 0;
    for (int i = 0; i < count; i++)
        length += iov[i].iov_len;
    struct kernel_message *message = malloc(sizeof(*message) + length);
    uint8_t *bytes = malloc(length);
    for (int i = 0; i < count; at += iov[i++].iov_len)
        memcpy(bytes + at, iov[i].iov_base, iov[i].iov_len);
    memcpy(&message->header, bytes, sizeof(message->header));
    message->length = length - sizeof(message->header);
    memcpy(message->bytes, bytes + sizeof(message->header), message->length);
    free(bytes);
    pthread_mutex_lock(&kernel->lock);
    bool notice = message->header.unique == 0;
    kernel->at_gate += notice;
    pthread_cond_broadcast(&kernel->changed);
    while (notice && kernel->gate_is_closed)
        pthread_cond_wait(&kernel->changed, &kernel->lock);
    kernel->at_gate -= notice;
    int refused = notice ? 0 : kernel->refuse;
    if (refused)
        kernel->refuse = 0;
    STAILQ_INSERT_TAIL(notice ? &kernel->notices : &kernel->answers, message, entry);
    pthread_cond_broadcast(&kernel->changed);
    pthread_mutex_unlock(&kernel->lock);
    errno = refused;
    return refused ? -1 : (ssize_t)length;
}

static ssize_t kernel_give(int fd, void *bytes, size_t length, void *userdata)
{
    errno = ENODEV; /* requests are handed over directly */
    return -1;
}

/* With the lock held: waits until something changed. */
static inline void kernel_wait(struct kernel *kernel)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += KERNEL_WAIT_S;
    if (pthread_cond_timedwait(&kernel->changed, &kernel->lock, &until) == ETIMEDOUT) {
        fprintf(stderr, "nothing came in %d s\n", KERNEL_WAIT_S);
        abort();
    }
}

/* --- Requests --- */

/* Sends HEAD and TAIL as a request and returns its number; the answer comes sooner or later. */
static inline uint64_t kernel_send(struct kernel *kernel, uint32_t opcode, uint64_t node,
                                   const void *head, size_t head_length, const void *tail,
                                   size_t tail_length)
{
    struct fuse_in_header in = kernel->who;
    in.len = (uint32_t)(sizeof(in) + head_length + tail_length);
    in.opcode = opcode;
    in.unique = __atomic_add_fetch(&kernel->unique, 2, __ATOMIC_RELAXED);
    in.nodeid = node;
    uint8_t *bytes = malloc(in.len);
    memcpy(bytes, &in, sizeof(in));
    if (head_length)
        memcpy(bytes + sizeof(in), head, head_length);
    if (tail_length)
        memcpy(bytes + sizeof(in) + head_length, tail, tail_length);
    struct fuse_buf buf = {.mem = bytes, .size = in.len};
    fuse_session_process_buf(kernel->fs.session, &buf);
    free(bytes);
    return in.unique;
}

static inline struct kernel_message *kernel_find(struct kernel *kernel, uint64_t unique)
{
    struct kernel_message *message;
    STAILQ_FOREACH (message, &kernel->answers, entry)
        if (message->header.unique == unique)
            return message;
    return NULL;
}

static inline bool kernel_is_answered(struct kernel *kernel, uint64_t unique)
{
    pthread_mutex_lock(&kernel->lock);
    bool answered = kernel_find(kernel, unique);
    pthread_mutex_unlock(&kernel->lock);
    return answered;
}

/* The answer to request UNIQUE: its bytes, at most ROOM of them, go into RET. Returns how many
 * there are, or -errno. */
static inline ssize_t kernel_answer(struct kernel *kernel, uint64_t unique, void *ret, size_t room)
{
    struct kernel_message *message;
    pthread_mutex_lock(&kernel->lock);
    while (!(message = kernel_find(kernel, unique)))
        kernel_wait(kernel);
    STAILQ_REMOVE(&kernel->answers, message, kernel_message, entry);
    pthread_mutex_unlock(&kernel->lock);
    ssize_t r = message->header.error ? message->header.error : (ssize_t)message->length;
    if (r > 0 && room > 0)
        memcpy(ret, message->bytes, (size_t)r < room ? (size_t)r : room);
    free(message);
    return r;
}

static inline ssize_t kernel_call(struct kernel *kernel, uint32_t opcode, uint64_t node,
                                  const void *head, size_t head_length, const void *tail,
                                  size_t tail_length, void *ret, size_t room)
{
    uint64_t unique = kernel_send(kernel, opcode, node, head, head_length, tail, tail_length);
    return kernel_answer(kernel, unique, ret, room);
}

static inline int kernel_simple(struct kernel *kernel, uint32_t opcode, uint64_t node,
                                const void *head, size_t head_length, const char *name)
{
    return (int)kernel_call(kernel, opcode, node, head, head_length, name,
                            name ? strlen(name) + 1 : 0, NULL, 0);
}

/* Has HOOK called with a request. */
static inline uint64_t kernel_send_hook(struct kernel *kernel, void (*hook)(fuse_req_t req))
{
    struct fuse_bmap_in in = {.blocksize = 1};
    kernel->hook = hook;
    return kernel_send(kernel, FUSE_BMAP, FUSE_ROOT_ID, &in, sizeof(in), NULL, 0);
}

/* --- Operations, as the kernel would ask: 0 or more, or -errno --- */

static inline void kernel_forget(struct kernel *kernel, uint64_t node)
{
    struct fuse_forget_in in = {.nlookup = 1};
    kernel_send(kernel, FUSE_FORGET, node, &in, sizeof(in), NULL, 0);
}

static inline int kernel_lookup(struct kernel *kernel, uint64_t parent, const char *name,
                                struct fuse_entry_out *ret)
{
    ssize_t n = kernel_call(kernel, FUSE_LOOKUP, parent, NULL, 0, name, strlen(name) + 1, ret,
                            sizeof(*ret));
    return n < 0 ? (int)n : 0;
}

/* The node of PATH, known once to the kernel; its directories are forgotten. 0: not there, with
 * errno. */
static inline uint64_t kernel_walk(struct kernel *kernel, const char *path)
{
    char copy[512], *rest = copy;
    uint64_t node = FUSE_ROOT_ID;
    snprintf(copy, sizeof(copy), "%s", path);
    for (char *name; (name = strsep(&rest, "/"));) {
        struct fuse_entry_out entry;
        int r = kernel_lookup(kernel, node, name, &entry);
        if (node != FUSE_ROOT_ID)
            kernel_forget(kernel, node);
        errno = -r;
        if (r < 0)
            return 0;
        node = entry.nodeid;
    }
    return node;
}

static inline uint64_t kernel_node(struct kernel *kernel, const char *path)
{
    uint64_t node = kernel_walk(kernel, path);
    if (!node)
        fail_msg("%s: %s", path, strerror(errno));
    return node;
}

static inline int kernel_getattr(struct kernel *kernel, uint64_t node, struct fuse_attr_out *ret)
{
    struct fuse_getattr_in in = {0};
    ssize_t n =
        kernel_call(kernel, FUSE_GETATTR, node, &in, sizeof(in), NULL, 0, ret, sizeof(*ret));
    return n < 0 ? (int)n : 0;
}

static inline int kernel_open(struct kernel *kernel, uint64_t node, int flags, uint64_t *ret_fh)
{
    struct fuse_open_in in = {.flags = (uint32_t)flags};
    struct fuse_open_out out;
    ssize_t n = kernel_call(kernel, FUSE_OPEN, node, &in, sizeof(in), NULL, 0, &out, sizeof(out));
    if (n < 0)
        return (int)n;
    *ret_fh = out.fh;
    return 0;
}

/* Opens PATH, which must succeed, and forgets its node. */
static inline uint64_t kernel_open_path(struct kernel *kernel, const char *path, int flags,
                                        uint64_t *ret_node)
{
    uint64_t fh = 0;
    *ret_node = kernel_node(kernel, path);
    int r = kernel_open(kernel, *ret_node, flags, &fh);
    if (r < 0)
        fail_msg("%s: %s", path, strerror(-r));
    return fh;
}

static inline ssize_t kernel_read(struct kernel *kernel, uint64_t node, uint64_t fh, int64_t offset,
                                  void *ret, size_t size)
{
    struct fuse_read_in in = {.fh = fh, .offset = (uint64_t)offset, .size = (uint32_t)size};
    return kernel_call(kernel, FUSE_READ, node, &in, sizeof(in), NULL, 0, ret, size);
}

/* Bytes written, or -errno. */
static inline ssize_t kernel_write(struct kernel *kernel, uint64_t node, uint64_t fh, int flags,
                                   const char *text)
{
    struct fuse_write_in in = {.fh = fh, .size = (uint32_t)strlen(text), .flags = (uint32_t)flags};
    struct fuse_write_out out;
    ssize_t n = kernel_call(kernel, FUSE_WRITE, node, &in, sizeof(in), text, strlen(text), &out,
                            sizeof(out));
    return n < 0 ? n : (ssize_t)out.size;
}

static inline int kernel_fsync(struct kernel *kernel, uint64_t node, uint64_t fh)
{
    struct fuse_fsync_in in = {.fh = fh};
    return kernel_simple(kernel, FUSE_FSYNC, node, &in, sizeof(in), NULL);
}

/* close(2) of the last descriptor: FLUSH, then RELEASE. */
static inline int kernel_close(struct kernel *kernel, uint64_t node, uint64_t fh)
{
    struct fuse_flush_in flush = {.fh = fh};
    struct fuse_release_in release = {.fh = fh};
    int r = kernel_simple(kernel, FUSE_FLUSH, node, &flush, sizeof(flush), NULL);
    kq_handle_announce_release(fh); /* as a receiver does */
    int q = kernel_simple(kernel, FUSE_RELEASE, node, &release, sizeof(release), NULL);
    return r ? r : q;
}

/* Appends TEXT to PATH as a file of its own. 0 or -errno. */
static inline int kernel_append(struct kernel *kernel, const char *path, const char *text)
{
    uint64_t node, fh = kernel_open_path(kernel, path, O_WRONLY | O_APPEND, &node);
    ssize_t n = kernel_write(kernel, node, fh, O_WRONLY | O_APPEND, text);
    int r = kernel_close(kernel, node, fh);
    kernel_forget(kernel, node);
    return n < 0 ? (int)n : r;
}

/* All bytes of PATH, at most ROOM - 1, as a string. Returns its length or -errno. */
static inline ssize_t kernel_cat(struct kernel *kernel, const char *path, char *ret, size_t room)
{
    uint64_t node = kernel_node(kernel, path), fh = 0;
    ssize_t n = kernel_open(kernel, node, O_RDONLY, &fh);
    if (n == 0) {
        n = kernel_read(kernel, node, fh, 0, ret, room - 1);
        assert_int_equal(kernel_close(kernel, node, fh), 0);
    }
    kernel_forget(kernel, node);
    ret[n < 0 ? 0 : n] = '\0';
    return n;
}

static inline void kernel_assert_text(struct kernel *kernel, const char *path, const char *expected)
{
    char text[4096];
    ssize_t n = kernel_cat(kernel, path, text, sizeof(text));
    if (n < 0)
        fail_msg("%s: %s", path, strerror((int)-n));
    assert_string_equal(text, expected);
}

/* poll(2), which is to be told as HANDLE. The events that are there now, or -errno. */
static inline int kernel_poll(struct kernel *kernel, uint64_t node, uint64_t fh, uint64_t handle)
{
    struct fuse_poll_in in = {.fh = fh, .kh = handle, .flags = FUSE_POLL_SCHEDULE_NOTIFY};
    struct fuse_poll_out out;
    ssize_t n = kernel_call(kernel, FUSE_POLL, node, &in, sizeof(in), NULL, 0, &out, sizeof(out));
    return n < 0 ? (int)n : (int)out.revents;
}

/* --- Notifications --- */

static inline void kernel_describe(const struct kernel_message *notice, char ret[128])
{
    const struct fuse_notify_inval_entry_out *entry = (const void *)notice->bytes;
    const struct fuse_notify_inval_inode_out *inode = (const void *)notice->bytes;
    const struct fuse_notify_poll_wakeup_out *poll = (const void *)notice->bytes;
    switch (notice->header.error) {
    case FUSE_NOTIFY_INVAL_ENTRY:
        snprintf(ret, 128, "entry %llu %s", (unsigned long long)entry->parent,
                 (const char *)(entry + 1));
        break;
    case FUSE_NOTIFY_INVAL_INODE:
        snprintf(ret, 128, "inode %llu", (unsigned long long)inode->ino);
        break;
    case FUSE_NOTIFY_POLL:
        snprintf(ret, 128, "poll %llu", (unsigned long long)poll->kh);
        break;
    default:
        snprintf(ret, 128, "code %d", notice->header.error);
    }
}

static inline bool kernel_has_notice(struct kernel *kernel)
{
    pthread_mutex_lock(&kernel->lock);
    bool has = !STAILQ_EMPTY(&kernel->notices);
    pthread_mutex_unlock(&kernel->lock);
    return has;
}

/* The next notification: "entry PARENT NAME", "inode NODE" or "poll HANDLE". Valid until the next
 * call. */
static inline const char *kernel_notice(struct kernel *kernel)
{
    static char text[128];
    struct kernel_message *message;
    pthread_mutex_lock(&kernel->lock);
    while (!(message = STAILQ_FIRST(&kernel->notices)))
        kernel_wait(kernel);
    STAILQ_REMOVE_HEAD(&kernel->notices, entry);
    pthread_mutex_unlock(&kernel->lock);
    kernel_describe(message, text);
    free(message);
    return text;
}

/* Drops what has come so far. */
static inline void kernel_drop_notices(struct kernel *kernel)
{
    struct kernel_message *message;
    pthread_mutex_lock(&kernel->lock);
    while ((message = STAILQ_FIRST(&kernel->notices))) {
        STAILQ_REMOVE_HEAD(&kernel->notices, entry);
        free(message);
    }
    pthread_mutex_unlock(&kernel->lock);
}

/* Fails unless the next notifications are these, in this order; ends with NULL. */
static inline void kernel_assert_notices(struct kernel *kernel, const char *first, ...)
{
    va_list more;
    va_start(more, first);
    for (const char *each = first; each; each = va_arg(more, const char *))
        assert_string_equal(kernel_notice(kernel), each);
    va_end(more);
}

/* The kernel is slow to take notifications. */
static inline void kernel_close_gate(struct kernel *kernel)
{
    pthread_mutex_lock(&kernel->lock);
    kernel->gate_is_closed = true;
    pthread_mutex_unlock(&kernel->lock);
}

static inline void kernel_await_gate(struct kernel *kernel)
{
    pthread_mutex_lock(&kernel->lock);
    while (kernel->at_gate == 0)
        kernel_wait(kernel);
    pthread_mutex_unlock(&kernel->lock);
}

static inline void kernel_open_gate(struct kernel *kernel)
{
    pthread_mutex_lock(&kernel->lock);
    kernel->gate_is_closed = false;
    pthread_cond_broadcast(&kernel->changed);
    pthread_mutex_unlock(&kernel->lock);
}

/* --- Its life --- */

static void kernel_bmap(fuse_req_t req, fuse_ino_t ino, size_t size, uint64_t index)
{
    kernel_of(req)->hook(req);
}

static void kernel_take_poll(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi,
                             struct fuse_pollhandle *ph)
{
    struct kernel *kernel = kernel_of(req);
    if (!kernel->keep_polls) {
        kq_op_poll(req, ino, fi, ph);
        return;
    }
    kernel->polled = ph;
    fuse_reply_poll(req, 0);
}

static const struct fuse_lowlevel_ops kernel_operations = {
    .bmap = kernel_bmap,
    .lookup = kq_op_lookup,
    .forget = kq_op_forget,
    .forget_multi = kq_op_forget_multi,
    .getattr = kq_op_getattr,
    .setattr = kq_op_setattr,
    .readlink = kq_op_readlink,
    .mknod = kq_op_mknod,
    .mkdir = kq_op_mkdir,
    .unlink = kq_op_unlink,
    .rmdir = kq_op_rmdir,
    .symlink = kq_op_symlink,
    .rename = kq_op_rename,
    .link = kq_op_link,
    .opendir = kq_op_opendir,
    .readdir = kq_op_readdir,
    .readdirplus = kq_op_readdirplus,
    .releasedir = kq_op_releasedir,
    .statfs = kq_op_statfs,
    .setxattr = kq_op_setxattr,
    .getxattr = kq_op_getxattr,
    .listxattr = kq_op_listxattr,
    .removexattr = kq_op_removexattr,
    .create = kq_op_create,
    .open = kq_op_open,
    .read = kq_op_read,
    .write = kq_op_write,
    .flush = kq_op_flush,
    .release = kq_op_release,
    .fsync = kq_op_fsync,
    .poll = kernel_take_poll,
    .lseek = kq_op_lseek,
};

static int kernel_config(void *context, struct kq_buf *ret)
{
    return kq_buf_append_string(ret, "[broker]\n");
}

static inline void kernel_make_session(struct kernel *kernel)
{
    static const struct fuse_custom_io io = {.writev = kernel_take, .read = kernel_give};
    char *arguments[] = {"test", NULL};
    struct fuse_args args = FUSE_ARGS_INIT(1, arguments);
    struct fuse_init_in init = {
        .major = FUSE_KERNEL_VERSION, .minor = 31, .max_readahead = 1 << 17, .flags = 0};
    kernel->fs.session =
        fuse_session_new(&args, &kernel_operations, sizeof(kernel_operations), &kernel->fs);
    fuse_opt_free_args(&args);
    assert_non_null(kernel->fs.session);
    assert_int_equal(
        fuse_session_custom_io(kernel->fs.session, &io, eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)), 0);
    assert_true(kernel_call(kernel, FUSE_INIT, 0, &init, sizeof(init), NULL, 0, NULL, 0) > 0);
}

/* A broker with the topic "orders" of two partitions, and the fs above it. Requests come from user
 * and group 0. */
static inline int kernel_setup(void **state)
{
    struct kernel *kernel = calloc(1, sizeof(*kernel));
    ground_setup(&kernel->ground);
    kernel->ground.options.new_root = (struct kq_attributes){.mode = 01777};
    ground_open(&kernel->ground);
    snprintf(kernel->mountpoint, sizeof(kernel->mountpoint), "%s-mnt", kernel->ground.path);
    assert_int_equal(mkdir(kernel->mountpoint, 0700), 0);
    pthread_mutex_init(&kernel->lock, NULL);
    pthread_cond_init(&kernel->changed, NULL);
    STAILQ_INIT(&kernel->answers);
    STAILQ_INIT(&kernel->notices);
    kernel->who.pid = (uint32_t)getpid();
    struct kq_fs *fs = &kernel->fs;
    fs->broker = kernel->ground.broker;
    fs->mountpoint = kernel->mountpoint;
    fs->started_ms = 1234;
    fs->posix_acl = true;
    fs->options = (struct kq_fs_options){.attribute_timeout_ms = 1000,
                                         .max_write = 1 << 20,
                                         .max_pending_bytes = 1 << 20,
                                         .version = "kqfs test\n",
                                         .config_text = kernel_config};
    assert_int_equal(kq_nodes_new(&fs->nodes), 0);
    assert_int_equal(kq_pool_new("worker", 2, &fs->workers), 0);
    assert_int_equal(kq_handles_new(fs, &fs->handles), 0);
    kernel_make_session(kernel);
    assert_int_equal(kq_receivers_new(fs, &fs->receivers), 0);
    assert_int_equal(kq_notifier_new(fs, &fs->notifier), 0);
    kq_topic_unref(ground_topic(&kernel->ground, "orders", 2));
    kq_fs_listen(fs);
    *state = kernel;
    return 0;
}

/* Stops the fs as kq_fs_run and kq_fs_free do. */
static inline int kernel_teardown(void **state)
{
    struct kernel *kernel = *state;
    struct kq_fs *fs = &kernel->fs;
    struct kernel_message *message;
    kernel_open_gate(kernel);
    kq_handles_unpark_all(fs->handles);
    kq_handles_drain(fs->handles);
    kq_fs_unlisten(fs);
    kq_notifier_free(fs->notifier);
    kq_receivers_free(fs->receivers);
    kq_pool_free(fs->workers);
    kq_handles_free(fs->handles);
    fuse_session_destroy(fs->session);
    kq_nodes_free(fs->nodes);
    kernel_drop_notices(kernel);
    while ((message = STAILQ_FIRST(&kernel->answers))) {
        STAILQ_REMOVE_HEAD(&kernel->answers, entry);
        free(message);
    }
    directory_remove(kernel->mountpoint);
    ground_remove(&kernel->ground);
    pthread_cond_destroy(&kernel->changed);
    pthread_mutex_destroy(&kernel->lock);
    free(kernel);
    return 0;
}

#define KERNEL_TEST(name) cmocka_unit_test_setup_teardown(name, kernel_setup, kernel_teardown)
