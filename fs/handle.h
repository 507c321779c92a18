/* Open files: what a handle keeps from open to release, and what all handles of a mount share.
 *
 * A half line and its readers: whoever looks at a partition after close(2) returned must see the
 * line that the close completed, yet the kernel sends RELEASE behind close's back. So FLUSH, which
 * close waits for, marks the partition when it meets a half line; who then looks waits until no
 * RELEASE that the kernel sent before is unfinished. Where nothing is marked, looking costs one
 * load. */
#pragma once

#include <pthread.h>
#include <sys/queue.h>

#include "fs/anchor.h"
#include "fs/internal.h"
#include "fs/logview.h"
#include "fs/reading.h"

struct kq_passwd_file; /* userfile.h */
struct kq_producer;    /* produce.h */
struct kq_stream;      /* stream.h */

struct kq_handle {
    struct kq_fs *fs;
    enum kq_view view;
    const struct kq_view_row *row;
    struct kq_topic *topic;       /* referenced; NULL where the view has none */
    struct kq_fspart *part;       /* referenced; NULL where the view has none */
    struct kq_access access;      /* where there is a partition */
    struct kq_anchor *anchor;     /* of views whose text begins at an offset */
    struct kq_reading reading;    /* of views that do not block */
    struct kq_producer *producer; /* where it was opened for writing */
    struct kq_stream *stream;     /* of views that block */
    struct kq_group_file *group;  /* of files of groups */
    struct kq_passwd_file *passwd;
    LIST_ENTRY(kq_handle) entry;
};

/* Of one mount. */
struct kq_handles {
    struct kq_fs *fs;
    struct kq_anchors *anchors;
    atomic_llong pending_bytes; /* of half lines and open files, all handles */
    atomic_bool closing;        /* nothing parks any more */
    pthread_mutex_t lock;
    pthread_cond_t released; /* some kq_fspart's RELEASING fell, or SYNCING */
    unsigned syncing;        /* requests that a thread of the broker will answer */
    LIST_HEAD(, kq_handle) open;
    LIST_HEAD(, kq_parked) parked; /* stream.h */
};

/* An empty handle on NODE, in the list of the open ones, with its references. -ENOMEM. */
int kq_handle_new(struct kq_fs *fs, const struct kq_node *node, struct kq_handle **ret);

/* Takes the handle off the list and frees what it holds; its half line must be finished. */
void kq_handle_free(struct kq_handle *handle);

static inline struct kq_handle *kq_handle_of(const struct fuse_file_info *fi)
{
    return (struct kq_handle *)(uintptr_t)fi->fh;
}

/* A request begins, or ends, to wait for a thread of the broker: see kq_handles_drain. */
void kq_handles_sync_begins(struct kq_handles *handles);
void kq_handles_sync_ends(struct kq_handles *handles);

/* A RELEASE that kq_handle_announce_release counted on PART has put its half line into the log. */
void kq_handles_released(struct kq_handles *handles, struct kq_fspart *part);
