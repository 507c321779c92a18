/* Mounting, and saying why it did not work. */
#pragma once

#include "fs/internal.h"

/* Makes FS' session and mounts it on FS->mountpoint. 0; -errno with the reason and the remedy
 * reported. Where a helper has the right to (broker/base/privileged.h), it mounts. */
int kq_mount(struct kq_fs *fs, const struct fuse_lowlevel_ops *operations);

/* Unmounts, where it still is mounted, and ends the session. */
void kq_unmount(struct kq_fs *fs);

/* Looks at MOUNTPOINT before anything is mounted there, and makes it absolute (the caller frees
 * RET). 0; -errno with the reason and the remedy reported. */
int kq_mount_check(const char *mountpoint, char **ret);
