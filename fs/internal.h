/* What the files of fs/ share: the state of one mount, and the seams between its parts. */
#pragma once

#define FUSE_USE_VERSION 314

#include <fuse3/fuse_lowlevel.h>

#include "broker/base/pool.h"
#include "broker/broker.h"
#include "fs/fs.h"
#include "fs/node.h"
#include "fs/removals.h"
#include "fs/views.h"

struct kq_receivers; /* session.c */
struct kq_handles;   /* handle.c */
struct kq_notifier;  /* notify.c */

struct kq_fs {
    struct kq_broker *broker;
    struct kq_fs_options options;
    struct fuse_session *session;
    struct kq_nodes *nodes;
    struct kq_receivers *receivers;
    struct kq_handles *handles;
    struct kq_notifier *notifier;
    struct kq_pool *workers; /* for requests that wait for a disk */
    struct kq_listener listener;
    int64_t started_ms; /* times of files that have none of their own */
    uid_t uid;          /* of the broker's process, owner of .kqfs */
    gid_t gid;
    bool posix_acl;                  /* negotiated */
    char *mountpoint;                /* absolute */
    _Atomic int64_t root_changed_ms; /* a topic came or went */
    atomic_ullong append_serial;     /* numbers the nodes of append */
    atomic_bool log_views;           /* somebody looked up a p<N>.log */
    struct kq_removals removals;
};

static inline struct kq_fs *kq_fs_of(fuse_req_t req)
{
    return fuse_req_userdata(req);
}

/* The caller of REQ as the broker wants it: the kernel has checked owner, mode and ACL. */
struct kq_caller kq_fs_caller(fuse_req_t req);

/* errno for the user from a call's failure: the one place where conditions become errno
 * (KQ_GONE -> ESTALE, KQ_BEYOND -> ENOENT, …) and broker errors are translated. R != 0; returns a
 * positive errno. */
int kq_fs_errno(int r);
void kq_errmap_register_metrics(void);

/* --- Requests that may wait for a disk (offload.c) ---
 * A handler first tries with may_block = false on the receiver. Where that says KQ_WOULD_BLOCK it
 * hands the request over: RUN is called on a worker with the same ARGUMENT and must answer REQ.
 * COPY bytes of ARGUMENT are copied first (0: ARGUMENT is passed as it is). False where it cannot:
 * ENOMEM was answered, and RUN is not called. */
bool kq_fs_offload(fuse_req_t req, void (*run)(fuse_req_t req, void *argument), void *argument,
                   size_t copy);

/* --- Between tree (dir, attr) and data (open, read, write) --- */

/* FUSE operations, by file: op_dir.c, op_attr.c, op_xattr.c (tree); op_open.c, op_read.c,
 * op_write.c, op_poll.c (data). Each answers its request exactly once, now or later. */
void kq_op_lookup(fuse_req_t req, fuse_ino_t parent, const char *name);
void kq_op_forget(fuse_req_t req, fuse_ino_t ino, uint64_t count);
void kq_op_forget_multi(fuse_req_t req, size_t count, struct fuse_forget_data *forgets);
void kq_op_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);
void kq_op_setattr(fuse_req_t req, fuse_ino_t ino, struct stat *attr, int to_set,
                   struct fuse_file_info *fi);
void kq_op_readlink(fuse_req_t req, fuse_ino_t ino);
void kq_op_mknod(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, dev_t rdev);
void kq_op_mkdir(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode);
void kq_op_unlink(fuse_req_t req, fuse_ino_t parent, const char *name);
void kq_op_rmdir(fuse_req_t req, fuse_ino_t parent, const char *name);
void kq_op_symlink(fuse_req_t req, const char *link, fuse_ino_t parent, const char *name);
void kq_op_rename(fuse_req_t req, fuse_ino_t parent, const char *name, fuse_ino_t new_parent,
                  const char *new_name, unsigned int flags);
void kq_op_link(fuse_req_t req, fuse_ino_t ino, fuse_ino_t new_parent, const char *new_name);
void kq_op_opendir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);
void kq_op_readdir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset,
                   struct fuse_file_info *fi);
void kq_op_readdirplus(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset,
                       struct fuse_file_info *fi);
void kq_op_releasedir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);
void kq_op_statfs(fuse_req_t req, fuse_ino_t ino);
void kq_op_setxattr(fuse_req_t req, fuse_ino_t ino, const char *name, const char *value,
                    size_t size, int flags);
void kq_op_getxattr(fuse_req_t req, fuse_ino_t ino, const char *name, size_t size);
void kq_op_listxattr(fuse_req_t req, fuse_ino_t ino, size_t size);
void kq_op_removexattr(fuse_req_t req, fuse_ino_t ino, const char *name);
void kq_op_create(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode,
                  struct fuse_file_info *fi); /* tree: makes or finds the file, then kq_open_node */

void kq_op_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);
void kq_op_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset,
                struct fuse_file_info *fi);
void kq_op_write(fuse_req_t req, fuse_ino_t ino, const char *bytes, size_t size, off_t offset,
                 struct fuse_file_info *fi);
void kq_op_flush(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);
void kq_op_release(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);
void kq_op_fsync(fuse_req_t req, fuse_ino_t ino, int datasync, struct fuse_file_info *fi);
void kq_op_poll(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi,
                struct fuse_pollhandle *ph);
void kq_op_lseek(fuse_req_t req, fuse_ino_t ino, off_t offset, int whence,
                 struct fuse_file_info *fi);

/* Data, for the tree: opens NODE as FI->flags ask and fills FI (fh, direct_io, keep_cache,
 * nonseekable); for CREATE, which opens what it made. 0; KQ_WOULD_BLOCK unless MAY_BLOCK; -errno.
 */
int kq_open_node(struct kq_fs *fs, const struct kq_node *node, const struct kq_caller *caller,
                 bool may_block, struct fuse_file_info *fi);
/* Closes what kq_open_node opened when the answer did not reach the kernel. */
void kq_close_opened(struct kq_fs *fs, struct fuse_file_info *fi);

/* Data, for the tree: st_size and st_blocks (512 bytes each) of a file view. A handle that is open
 * on the node keeps its text start, so that sizes of what retention has overtaken still grow.
 * Waits first for half lines whose RELEASE is under way. 0; KQ_WOULD_BLOCK unless MAY_BLOCK;
 * -ENOENT (offset gone or beyond); -errno. */
int kq_view_size(struct kq_fs *fs, const struct kq_node *node, bool may_block, int64_t *ret_size,
                 int64_t *ret_blocks);

/* Data, for the tree: may a LOOKUP of this offset view succeed? 0; -ENOENT; KQ_WOULD_BLOCK. */
int kq_view_exists(struct kq_fs *fs, const struct kq_node *node, bool may_block);

/* Data, for the session: the raw FUSE_RELEASE of handle FH was just taken from the kernel; called
 * on the receiver before any later request can be looked at (see kq_receivers_barrier). */
void kq_handle_announce_release(uint64_t fh);

/* Data: waits until every RELEASE that the kernel sent before the present request has put its half
 * line into PART's log. Costs one load where there is none. */
void kq_fspart_settle(struct kq_fs *fs, struct kq_fspart *part);

int kq_handles_new(struct kq_fs *fs, struct kq_handles **ret);
void kq_handles_free(struct kq_handles *handles);
/* Answers every parked read with 0 (end of file) and wakes every poll; parks no more. */
void kq_handles_unpark_all(struct kq_handles *handles);
/* Returns when every request that waits for a sync has been answered; no new one may come. */
void kq_handles_drain(struct kq_handles *handles);

/* Session, for data: returns when every other receiver that had taken a request from the kernel
 * before this call has announced it if it is a RELEASE. */
void kq_receivers_barrier(struct kq_receivers *receivers);

/* --- .kqfs (control.c) --- */

/* The text of .kqfs/metrics, version or config, appended to RET. -ENOMEM, -errno. Any thread. */
int kq_control_text(struct kq_fs *fs, enum kq_view view, struct kq_buf *ret);

/* --- What the broker says (event.c) --- */

/* Listens to FS' broker from now on. */
void kq_fs_listen(struct kq_fs *fs);
void kq_fs_unlisten(struct kq_fs *fs); /* also where it never listened */

/* --- Notifications to the kernel (notify.c) --- from a thread that holds no lock and serves no
 * request. Each call queues one and never blocks; a full queue merges them. */
void kq_notify_entry(struct kq_fs *fs, uint64_t parent, const char *name); /* forget this name */
void kq_notify_inode(struct kq_fs *fs, uint64_t node);             /* forget its attributes */
void kq_notify_poll(struct kq_fs *fs, struct fuse_pollhandle *ph); /* consumes PH */
/* Raises inotify's IN_MODIFY on p0.log: at most every 100 ms a partition. References PART itself.
 */
void kq_notify_modified(struct kq_fs *fs, struct kq_fspart *part);

/* As kq_notify_inode, but done when it returns; waits for nothing that a request could hold (no
 * lock of an inode or page), so that a handler may call it. */
void kq_notify_inode_now(struct kq_fs *fs, uint64_t node);

int kq_notifier_new(struct kq_fs *fs, struct kq_notifier **ret); /* starts its thread */
/* Takes no more; returns true once the thread has ended. Until then requests must be served. */
bool kq_notifier_stop(struct kq_notifier *notifier);
void kq_notifier_free(struct kq_notifier *notifier); /* after it stopped; NULL is fine */
/* Is PID (of a request) the thread that raises IN_MODIFY? */
bool kq_notifier_is_self(const struct kq_notifier *notifier, pid_t pid);
