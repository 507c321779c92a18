/* The FUSE front end: mounts the broker's topics as a tree. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "broker/broker.h"

struct kq_fs;

struct kq_fs_options {
    const char *mountpoint;
    const char *mount_options;     /* for libfuse, comma-separated; default_permissions is added */
    bool debug;                    /* libfuse's trace of requests */
    unsigned poll_us;              /* poll for the next request so long before sleeping; 0: never */
    unsigned max_receivers;        /* threads that take requests from the kernel, at most */
    unsigned max_workers;          /* threads for reads that wait for a disk, at most */
    unsigned attribute_timeout_ms; /* how long the kernel may keep owner and mode; at most 1000 */
    uint32_t max_write;            /* bytes of one request, at most 1 MiB */
    int64_t max_pending_bytes;     /* of half lines and open framing=file messages, all handles */
    const char *version;           /* text of .kqfs/version */
    /* Appends the text of .kqfs/config to RET; any thread. */
    int (*config_text)(void *context, struct kq_buf *ret);
    void *config_context;
};

/* Mounts. 0; -errno with the reason and the remedy reported (no /dev/fuse, allow_other not
 * permitted, dead mount left over, …). OPTIONS' strings must outlive the fs. */
int kq_fs_mount(struct kq_broker *broker, const struct kq_fs_options *options, struct kq_fs **ret);

/* Serves requests until kq_fs_stop or an unmount from outside. On return every parked read has been
 * answered with 0 and no handler runs. 0, or -errno of the kernel's connection. */
int kq_fs_run(struct kq_fs *fs);

/* Makes kq_fs_run return. Async-signal-safe; any thread. */
void kq_fs_stop(struct kq_fs *fs);

/* Unmounts, if it still is mounted, and frees. NULL is fine. */
void kq_fs_free(struct kq_fs *fs);
