/* Notifications: a thread of its own, which holds no lock and serves no request, since the kernel
 * may answer a notification only after it has finished a request. What is queued is a set, so it
 * never holds more than there are things to name. */
#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "broker/base/clock.h"
#include "broker/base/diag.h"
#include "broker/base/mem.h"
#include "broker/base/privileged.h"
#include "fs/internal.h"

#define HASH_NONFATAL_OOM 1
#define uthash_malloc(size) kq_alloc(size)
#include <uthash.h>

#define MODIFIED_NS 100000000 /* IN_MODIFY at most so often a partition */
#define NAME_BYTES 256
#define PATH_BYTES 4608

enum kind {
    NOTIFY_ENTRY,
    NOTIFY_INODE,
    NOTIFY_POLL,
};

struct notification {
    UT_hash_handle hh;
    /* The key: from KIND to the end of NAME. */
    enum kind kind;
    uint64_t node; /* or the poll handle */
    char name[];
};

struct kq_notifier {
    struct kq_fs *fs;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t work;
    struct notification *queue;
    struct kq_fspart *modified; /* referenced, linked by next_modified */
    int64_t modified_after_ns;  /* when they may be served again */
    bool stopping;
    atomic_bool ended;
    atomic_int thread_id;
};

#define KEY_OFFSET offsetof(struct notification, kind)

static size_t key_length(size_t name_length)
{
    return offsetof(struct notification, name) - KEY_OFFSET + name_length + 1;
}

/* --- On the thread --- */

static void send_one(struct kq_fs *fs, const struct notification *n)
{
    struct fuse_session *session = fs->session;
    switch (n->kind) {
    case NOTIFY_ENTRY:
        fuse_lowlevel_notify_inval_entry(session, n->node, n->name, strlen(n->name));
        break;
    case NOTIFY_INODE:
        fuse_lowlevel_notify_inval_inode(session, n->node, -1, 0);
        break;
    case NOTIFY_POLL:
        fuse_lowlevel_notify_poll((struct fuse_pollhandle *)(uintptr_t)n->node);
        fuse_pollhandle_destroy((struct fuse_pollhandle *)(uintptr_t)n->node);
    }
}

static void send_all(struct kq_fs *fs, struct notification *queue)
{
    struct notification *n, *next;
    HASH_ITER (hh, queue, n, next) {
        HASH_DEL(queue, n); /* NOLINT(clang-analyzer-unix.Malloc) */
        send_one(fs, n);
        free(n);
    }
}

static int touch(const struct kq_fs *fs, const char *topic, int32_t number, int64_t size)
{
    char path[PATH_BYTES];
    const struct kq_privileged *helper = kq_privileged();
    if (helper) /* a broker without rights may not write to what belongs to others */
        return helper->modified(helper->context, topic, number, size);
    int n = snprintf(path, sizeof(path), "%s/%s/p%" PRId32 ".log", fs->mountpoint, topic, number);
    if (n >= (int)sizeof(path))
        return -ENAMETOOLONG;
    return truncate(path, size) < 0 ? -errno : 0;
}

/* A truncate(2) to the size that the file has raises IN_MODIFY and changes nothing. */
static void raise_modified(struct kq_fs *fs, struct kq_fspart *part)
{
    struct kq_log_text_bounds bounds;
    struct kq_topic *topic = kq_partition_topic(part->partition);
    int32_t number = kq_partition_number(part->partition);
    if (kq_text_bounds(part->partition, true, &bounds) != 0)
        return;
    int r = touch(fs, kq_topic_name(topic), number, bounds.end);
    if (r < 0 && r != -ENOENT && r != -ENOTCONN && r != -EPIPE)
        kq_diag_limited(60000, LOG_WARNING, "%s/p%" PRId32 ".log: watchers may miss appends: %s",
                        kq_topic_name(topic), number, strerror(-r));
}

static void raise_all_modified(struct kq_fs *fs, struct kq_fspart *modified)
{
    for (struct kq_fspart *part = modified, *next; part; part = next) {
        next = part->next_modified;
        atomic_store(&part->modified_pending, false);
        raise_modified(fs, part);
        kq_fspart_unref(fs->nodes, part);
    }
}

/* With the lock held: waits for work; takes the partitions that are due. */
static struct kq_fspart *wait_for_work(struct kq_notifier *notifier)
{
    while (!notifier->queue && !notifier->stopping) {
        if (!notifier->modified) {
            pthread_cond_wait(&notifier->work, &notifier->lock);
            continue;
        }
        int64_t due = notifier->modified_after_ns;
        if (kq_clock_mono_ns() >= due)
            break;
        struct timespec until = {.tv_sec = due / 1000000000, .tv_nsec = due % 1000000000};
        pthread_cond_timedwait(&notifier->work, &notifier->lock, &until);
    }
    struct kq_fspart *due = NULL;
    if (notifier->modified && kq_clock_mono_ns() >= notifier->modified_after_ns) {
        due = notifier->modified;
        notifier->modified = NULL;
        notifier->modified_after_ns = kq_clock_mono_ns() + MODIFIED_NS;
    }
    return due;
}

static void *notifier_main(void *argument)
{
    struct kq_notifier *notifier = argument;
    pthread_setname_np(pthread_self(), "kqfs-notify");
    atomic_store(&notifier->thread_id, gettid());
    pthread_mutex_lock(&notifier->lock);
    for (;;) {
        struct kq_fspart *modified = wait_for_work(notifier);
        struct notification *queue = notifier->queue;
        if (!queue && !modified && notifier->stopping)
            break;
        notifier->queue = NULL;
        pthread_mutex_unlock(&notifier->lock);
        send_all(notifier->fs, queue);
        raise_all_modified(notifier->fs, modified);
        pthread_mutex_lock(&notifier->lock);
    }
    pthread_mutex_unlock(&notifier->lock);
    atomic_store(&notifier->ended, true);
    return NULL;
}

/* --- From any thread --- */

/* False where there is no memory. */
static bool enqueue(struct kq_notifier *notifier, enum kind kind, uint64_t node, const char *name)
{
    size_t length = strnlen(name, NAME_BYTES);
    struct notification *n = kq_zalloc(sizeof(*n) + length + 1), *known = NULL;
    if (!n)
        return false;
    n->kind = kind;
    n->node = node;
    memcpy(n->name, name, length);
    bool queued = false;
    pthread_mutex_lock(&notifier->lock);
    if (!notifier->stopping) {
        HASH_FIND(hh, notifier->queue, &n->kind, key_length(length), known);
        if (!known)
            HASH_ADD(hh, notifier->queue, kind, key_length(length), n);
        queued = known || n->hh.tbl;
        pthread_cond_signal(&notifier->work);
    }
    pthread_mutex_unlock(&notifier->lock);
    if (known || !queued)
        free(n);
    return queued;
}

void kq_notify_entry(struct kq_fs *fs, uint64_t parent, const char *name)
{
    if (parent)
        enqueue(fs->notifier, NOTIFY_ENTRY, parent, name);
}

void kq_notify_inode(struct kq_fs *fs, uint64_t node)
{
    if (node)
        enqueue(fs->notifier, NOTIFY_INODE, node, "");
}

void kq_notify_inode_now(struct kq_fs *fs, uint64_t node)
{
    if (node)
        fuse_lowlevel_notify_inval_inode(fs->session, node, -1, 0);
}

/* Nobody would ask again for a wake-up that got lost: where it cannot be queued it is sent from
 * here. The kernel takes no lock for it that a request could hold. */
void kq_notify_poll(struct kq_fs *fs, struct fuse_pollhandle *ph)
{
    if (enqueue(fs->notifier, NOTIFY_POLL, (uintptr_t)ph, ""))
        return;
    fuse_lowlevel_notify_poll(ph);
    fuse_pollhandle_destroy(ph);
}

void kq_notify_modified(struct kq_fs *fs, struct kq_fspart *part)
{
    struct kq_notifier *notifier = fs->notifier;
    if (atomic_load_explicit(&part->modified_pending, memory_order_relaxed) ||
        atomic_exchange(&part->modified_pending, true))
        return;
    pthread_mutex_lock(&notifier->lock);
    bool queue = !notifier->stopping;
    if (queue) {
        part->next_modified = notifier->modified;
        notifier->modified = kq_fspart_ref(part);
        pthread_cond_signal(&notifier->work);
    }
    pthread_mutex_unlock(&notifier->lock);
}

bool kq_notifier_is_self(const struct kq_notifier *notifier, pid_t pid)
{
    const struct kq_privileged *helper = kq_privileged();
    return pid == (helper ? helper->pid : atomic_load(&notifier->thread_id));
}

/* --- Its life --- */

int kq_notifier_new(struct kq_fs *fs, struct kq_notifier **ret)
{
    struct kq_notifier *notifier = kq_zalloc(sizeof(*notifier));
    if (!notifier)
        return -ENOMEM;
    notifier->fs = fs;
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_mutex_init(&notifier->lock, NULL);
    pthread_cond_init(&notifier->work, &monotonic);
    pthread_condattr_destroy(&monotonic);
    sigset_t all, before;
    sigfillset(&all);
    sigdelset(&all, SIGSYS); /* of a system call that is refused: broker/seccomp.c */
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int r = -pthread_create(&notifier->thread, NULL, notifier_main, notifier);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (r < 0) {
        pthread_cond_destroy(&notifier->work);
        pthread_mutex_destroy(&notifier->lock);
        free(notifier);
        return r;
    }
    *ret = notifier;
    return 0;
}

bool kq_notifier_stop(struct kq_notifier *notifier)
{
    pthread_mutex_lock(&notifier->lock);
    notifier->stopping = true;
    pthread_cond_signal(&notifier->work);
    pthread_mutex_unlock(&notifier->lock);
    return atomic_load(&notifier->ended);
}

void kq_notifier_free(struct kq_notifier *notifier)
{
    if (!notifier)
        return;
    kq_notifier_stop(notifier);
    pthread_join(notifier->thread, NULL);
    for (struct kq_fspart *part = notifier->modified, *next; part; part = next) {
        next = part->next_modified;
        kq_fspart_unref(notifier->fs->nodes, part);
    }
    pthread_cond_destroy(&notifier->work);
    pthread_mutex_destroy(&notifier->lock);
    free(notifier);
}
