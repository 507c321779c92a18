/* What the files of the helper share. */
#pragma once

#include "broker/base/err.h"
#include "broker/helper.h"

struct kq_helper_id {
    uint32_t major, minor;
    uint64_t mount; /* 0: the kernel does not number mounts (statx(2)) */
};

struct kq_helper {
    struct kq_helper_mount plan;
    char *mountpoint; /* NULL: none */
    int place;        /* the directory below the mount; -1 */
    bool mounted;
    struct kq_helper_id id; /* of what was mounted */
    char **files;
    size_t file_count;
    uid_t uid;
    gid_t gid;
};

/* Mounts once. The descriptor, the caller's; -EPERM: not a second time, or nowhere; -errno. */
int kq_helper_mount(struct kq_helper *helper, uint32_t *ret_device);
int kq_helper_unmount(struct kq_helper *helper); /* 0, also where nothing of ours is mounted */
int kq_helper_modified(const struct kq_helper *helper, const struct kq_helper_request *request);
