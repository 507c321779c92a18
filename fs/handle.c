#include "fs/handle.h"

#include <assert.h>

#include "broker/base/mem.h"
#include "fs/groups.h"
#include "fs/produce.h"
#include "fs/stream.h"
#include "fs/userfile.h"

int kq_handles_new(struct kq_fs *fs, struct kq_handles **ret)
{
    struct kq_handles *handles = kq_zalloc(sizeof(*handles));
    if (!handles)
        return -ENOMEM;
    int r = kq_anchors_new(&handles->anchors);
    if (r < 0) {
        free(handles);
        return r;
    }
    handles->fs = fs;
    pthread_mutex_init(&handles->lock, NULL);
    pthread_cond_init(&handles->released, NULL);
    LIST_INIT(&handles->open);
    LIST_INIT(&handles->parked);
    *ret = handles;
    return 0;
}

/* A connection that broke sends no RELEASE: its half lines become messages here. */
void kq_handles_free(struct kq_handles *handles)
{
    if (!handles)
        return;
    for (struct kq_handle *handle; (handle = LIST_FIRST(&handles->open));) {
        if (handle->producer) /* NOLINT(clang-analyzer-unix.Malloc) */
            kq_produce_finish(handle->producer);
        kq_handle_free(handle);
    }
    assert(LIST_EMPTY(&handles->parked));
    kq_anchors_free(handles->anchors);
    pthread_cond_destroy(&handles->released);
    pthread_mutex_destroy(&handles->lock);
    free(handles);
}

int kq_handle_new(struct kq_fs *fs, const struct kq_node *node, struct kq_handle **ret)
{
    struct kq_handle *handle = kq_zalloc(sizeof(*handle));
    if (!handle)
        return -ENOMEM;
    handle->fs = fs;
    handle->view = node->view;
    handle->row = kq_view_row(node->view);
    handle->topic = node->topic ? kq_topic_ref(node->topic) : NULL;
    handle->part = node->part ? kq_fspart_ref(node->part) : NULL;
    kq_reading_init(&handle->reading);
    pthread_mutex_lock(&fs->handles->lock);
    LIST_INSERT_HEAD(&fs->handles->open, handle, entry);
    pthread_mutex_unlock(&fs->handles->lock);
    *ret = handle;
    return 0;
}

void kq_handle_free(struct kq_handle *handle)
{
    struct kq_fs *fs = handle->fs;
    pthread_mutex_lock(&fs->handles->lock);
    LIST_REMOVE(handle, entry);
    pthread_mutex_unlock(&fs->handles->lock);
    kq_stream_free(handle->stream);
    kq_group_file_free(handle->group);
    kq_passwd_file_free(handle->passwd);
    kq_producer_free(handle->producer);
    kq_reading_release(&handle->reading);
    kq_anchor_drop(fs->handles->anchors, handle->anchor);
    if (handle->part)
        kq_fspart_unref(fs->nodes, handle->part);
    kq_topic_unref(handle->topic);
    free(handle);
}

void kq_close_opened(struct kq_fs *fs, struct fuse_file_info *fi)
{
    struct kq_handle *handle = kq_handle_of(fi);
    if (handle)
        kq_handle_free(handle);
    fi->fh = 0;
}

/* --- Requests that a thread of the broker answers --- */

void kq_handles_sync_begins(struct kq_handles *handles)
{
    pthread_mutex_lock(&handles->lock);
    handles->syncing++;
    pthread_mutex_unlock(&handles->lock);
}

void kq_handles_sync_ends(struct kq_handles *handles)
{
    pthread_mutex_lock(&handles->lock);
    if (--handles->syncing == 0)
        pthread_cond_broadcast(&handles->released);
    pthread_mutex_unlock(&handles->lock);
}

void kq_handles_drain(struct kq_handles *handles)
{
    pthread_mutex_lock(&handles->lock);
    while (handles->syncing > 0)
        pthread_cond_wait(&handles->released, &handles->lock);
    pthread_mutex_unlock(&handles->lock);
}

/* --- Half lines whose RELEASE is on its way --- */

void kq_handle_announce_release(uint64_t fh)
{
    struct kq_handle *handle = (struct kq_handle *)(uintptr_t)fh;
    if (handle && handle->producer)
        kq_produce_announce(handle->producer);
}

void kq_handles_released(struct kq_handles *handles, struct kq_fspart *part)
{
    pthread_mutex_lock(&handles->lock);
    atomic_fetch_sub(&part->releasing, 1);
    pthread_cond_broadcast(&handles->released);
    pthread_mutex_unlock(&handles->lock);
}

void kq_fspart_settle(struct kq_fs *fs, struct kq_fspart *part)
{
    if (kq_likely(atomic_load(&part->flushed_pending) == 0))
        return;
    kq_receivers_barrier(fs->receivers);
    if (atomic_load(&part->releasing) == 0)
        return;
    pthread_mutex_lock(&fs->handles->lock);
    while (atomic_load(&part->releasing) > 0)
        pthread_cond_wait(&fs->handles->released, &fs->handles->lock);
    pthread_mutex_unlock(&fs->handles->lock);
}
