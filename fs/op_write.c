#include <semaphore.h>
#include <stdatomic.h>
#include <stddef.h>
#include <string.h>

#include "broker/base/mem.h"
#include "fs/groups.h"
#include "fs/handle.h"
#include "fs/produce.h"
#include "fs/userfile.h"

/* --- Answers that wait for durability --- */

#define FSYNC (-1)
#define CLOSE (-2)

struct one_sync {
    struct kq_sync sync;
    struct waiting *waiting;
};

/* A request that is answered when its last partition is synced; no thread waits for it. */
struct waiting {
    fuse_req_t req;
    struct kq_handles *handles;
    ssize_t written;          /* bytes, or FSYNC, or CLOSE */
    struct kq_handle *handle; /* CLOSE: it stays until its last message is synced */
    struct kq_job job;        /* CLOSE */
    atomic_int left, error;
    struct one_sync each[];
};

static void close_handle(fuse_req_t req, struct kq_handle *handle)
{
    kq_handle_free(handle);
    fuse_reply_err(req, 0);
}

static void close_synced(struct kq_job *job)
{
    struct waiting *waiting = (void *)((char *)job - offsetof(struct waiting, job));
    close_handle(waiting->req, waiting->handle);
    kq_handles_sync_ends(waiting->handles);
    free(waiting);
}

static void answer(fuse_req_t req, ssize_t written, int r)
{
    if (r < 0 || written == FSYNC)
        fuse_reply_err(req, r < 0 ? kq_fs_errno(r) : 0);
    else
        fuse_reply_write(req, (size_t)written);
}

static void finish_one(struct waiting *waiting, int error)
{
    if (error < 0)
        atomic_store(&waiting->error, error);
    if (atomic_fetch_sub(&waiting->left, 1) > 1)
        return;
    int r = atomic_load(&waiting->error);
    if (waiting->written == CLOSE) {
        /* Not here: a syncer that lets go of the last reference to a log would wait for itself. */
        waiting->job.run = close_synced;
        kq_pool_submit(waiting->handle->fs->workers, &waiting->job);
        return;
    }
    answer(waiting->req, waiting->written, r);
    kq_handles_sync_ends(waiting->handles);
    free(waiting);
}

static void synced(struct kq_sync *sync, int error)
{
    finish_one(((struct one_sync *)sync)->waiting, error);
}

/* --- The same without memory: the thread waits, since what was written is in the log --- */

struct sync_here {
    struct kq_sync sync;
    sem_t ended;
    int error;
};

static void synced_here(struct kq_sync *sync, int error)
{
    struct sync_here *here = (struct sync_here *)sync;
    here->error = error;
    sem_post(&here->ended);
}

static int wait_for_sync(struct kq_partition *partition)
{
    struct sync_here here = {.sync.done = synced_here};
    sem_init(&here.ended, 0, 0);
    int r = kq_sync(partition, &here.sync);
    if (r == 0) {
        while (sem_wait(&here.ended) < 0)
            ;
        r = here.error;
    }
    sem_destroy(&here.ended);
    return r < 0 ? r : 0;
}

/* Syncs all that HANDLE may have written to, one after the other, and answers. */
static void answer_after_sync(fuse_req_t req, struct kq_handle *handle, ssize_t written)
{
    int r = handle->part ? wait_for_sync(handle->part->partition) : 0;
    int32_t count = !handle->part && handle->topic ? kq_topic_partition_count(handle->topic) : 0;
    for (int32_t number = 0; number < count; number++) {
        struct kq_partition *partition;
        if (kq_partition_get(handle->topic, number, &partition) < 0)
            break;
        int one = wait_for_sync(partition);
        r = one < 0 ? one : r;
        kq_partition_unref(partition);
    }
    if (written == CLOSE)
        close_handle(req, handle);
    else
        answer(req, written, r);
}

/* --- fsync(2) and its kin --- */

/* Answers REQ when all PARTITIONS, which HANDLE keeps, are synced up to now. */
static void answer_synced(fuse_req_t req, struct kq_handle *handle, ssize_t written,
                          struct kq_partition **partitions, int32_t count)
{
    struct waiting *waiting =
        kq_zalloc(sizeof(*waiting) + (size_t)count * sizeof(waiting->each[0]));
    if (!waiting) {
        answer_after_sync(req, handle, written);
        return;
    }
    waiting->req = req;
    waiting->handle = handle;
    waiting->handles = handle->fs->handles;
    kq_handles_sync_begins(waiting->handles);
    waiting->written = written;
    atomic_init(&waiting->left, count + 1);
    /* References are counted with atomics. NOLINTBEGIN(clang-analyzer-unix.Malloc) */
    for (int32_t i = 0; i < count; i++) {
        struct one_sync *one = &waiting->each[i];
        one->sync.done = synced;
        one->waiting = waiting;
        int r = kq_sync(partitions[i], &one->sync);
        if (r != 0)
            finish_one(waiting, r < 0 ? r : 0);
    }
    finish_one(waiting, 0);
    /* NOLINTEND(clang-analyzer-unix.Malloc) */
}

/* What HANDLE stands for: its partition; those that it wrote to; or, written to none, all. */
static void sync_handle(fuse_req_t req, struct kq_handle *handle, ssize_t written)
{
    if (handle->part) {
        answer_synced(req, handle, written, &handle->part->partition, 1);
        return;
    }
    int32_t most = handle->topic ? kq_topic_partition_count(handle->topic) : 0, count = 0;
    kq_autofree struct kq_partition **partitions =
        kq_alloc(((size_t)most + 1) * sizeof(*partitions));
    if (!partitions) {
        answer_after_sync(req, handle, written);
        return;
    }
    if (handle->producer) {
        count = kq_produce_written(handle->producer, partitions, most);
        answer_synced(req, handle, written, partitions, count);
        return;
    }
    while (count < most && kq_partition_get(handle->topic, count, &partitions[count]) == 0)
        count++;
    answer_synced(req, handle, written, partitions, count);
    for (int32_t i = 0; i < count; i++)
        kq_partition_unref(partitions[i]);
}

/* --- Operations --- */

#define OFFSET_MOST 64 /* bytes that are worth looking at */

struct group_write {
    struct kq_handle *handle;
    size_t size;
    char bytes[OFFSET_MOST];
};

static void set_offset(fuse_req_t req, void *argument)
{
    const struct group_write *write = argument;
    int r = kq_group_file_write(write->handle->group, write->bytes, write->size);
    if (r != 0)
        fuse_reply_err(req, kq_fs_errno(r));
    else
        fuse_reply_write(req, write->size);
}

/* The offset of a group: committing waits. */
static void write_offset(fuse_req_t req, struct kq_handle *handle, const char *bytes, size_t size)
{
    struct group_write write = {.handle = handle, .size = size};
    if (size > sizeof(write.bytes)) {
        fuse_reply_err(req, kq_fs_errno(-EINVAL));
        return;
    }
    memcpy(write.bytes, bytes, size);
    kq_fs_offload(req, set_offset, &write, sizeof(write));
}

struct user_write {
    struct kq_handle *handle;
    size_t size;
    char bytes[];
};

static void alter_users(fuse_req_t req, void *argument)
{
    struct user_write *write = argument;
    struct kq_caller caller = kq_fs_caller(req);
    caller.kernel_checked = false; /* it looked when the file was opened, maybe for another */
    int r = kq_passwd_file_write(write->handle->passwd, &caller, write->bytes, write->size);
    if (r != 0)
        fuse_reply_err(req, kq_fs_errno(r));
    else
        fuse_reply_write(req, write->size);
    explicit_bzero(write->bytes, write->size);
    free(write);
}

/* Not copied by kq_fs_offload, so that the bytes can be wiped. */
static void write_users(fuse_req_t req, struct kq_handle *handle, const char *bytes, size_t size)
{
    struct user_write *write = kq_alloc(sizeof(*write) + size);
    if (!write) {
        fuse_reply_err(req, kq_fs_errno(-ENOMEM));
        return;
    }
    write->handle = handle;
    write->size = size;
    memcpy(write->bytes, bytes, size);
    if (kq_fs_offload(req, alter_users, write, 0))
        return;
    explicit_bzero(write->bytes, size);
    free(write);
}

void kq_op_write(fuse_req_t req, fuse_ino_t ino, const char *bytes, size_t size, off_t offset,
                 struct fuse_file_info *fi)
{
    struct kq_handle *handle = kq_handle_of(fi);
    if (handle->group) {
        write_offset(req, handle, bytes, size);
        return;
    }
    if (handle->passwd) {
        write_users(req, handle, bytes, size);
        return;
    }
    int r = kq_produce(handle->producer, bytes, size);
    if (r < 0)
        fuse_reply_err(req, kq_fs_errno(r));
    else if (kq_unlikely(r == KQ_MUST_SYNC || (fi->flags & O_DSYNC)))
        sync_handle(req, handle, (ssize_t)size);
    else
        fuse_reply_write(req, size);
}

void kq_op_fsync(fuse_req_t req, fuse_ino_t ino, int datasync, struct fuse_file_info *fi)
{
    sync_handle(req, kq_handle_of(fi), FSYNC);
}

void kq_op_flush(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    struct kq_handle *handle = kq_handle_of(fi);
    if (handle->producer)
        kq_produce_flush(handle->producer);
    if (handle->group)
        kq_group_file_flush(handle->group);
    int r = handle->passwd ? kq_passwd_file_flush(handle->passwd) : 0;
    fuse_reply_err(req, r < 0 ? kq_fs_errno(r) : 0);
}

void kq_op_release(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    struct kq_handle *handle = kq_handle_of(fi);
    int r = handle->producer ? kq_produce_finish(handle->producer) : 0;
    if (r == KQ_MUST_SYNC || (r == 0 && handle->producer && (fi->flags & O_DSYNC)))
        sync_handle(req, handle, CLOSE);
    else
        close_handle(req, handle);
}
