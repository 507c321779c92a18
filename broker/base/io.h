/* Disk I/O through a seam that a test can make fail (fault.h). Any thread.
 *
 * All return 0 (or a count or a descriptor) or a negated errno; EINTR is retried. */
#pragma once

#include <dirent.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>

#include "broker/base/buf.h"
#include "broker/base/err.h"

/* openat(2) with O_CLOEXEC added; DIRFD may be AT_FDCWD. */
int kq_io_open(int dirfd, const char *path, int flags, mode_t mode);

/* Reads exactly LENGTH bytes at POSITION unless the file ends before: returns how many. */
ssize_t kq_io_pread(int fd, void *bytes, size_t length, int64_t position);

/* As kq_io_pread, but only what the page cache holds (RWF_NOWAIT): may return fewer bytes before
 * the end; -EAGAIN if not even the first is there. Where the file system cannot tell, reads. */
ssize_t kq_io_pread_cached(int fd, void *bytes, size_t length, int64_t position);

/* Writes all LENGTH bytes at POSITION, or fails; what a failed call wrote is undefined. */
int kq_io_pwrite(int fd, const void *bytes, size_t length, int64_t position);
int kq_io_pwritev(int fd, struct iovec *parts, int count, int64_t position); /* changes PARTS */

int kq_io_datasync(int fd);
int kq_io_sync(int fd);
int kq_io_truncate(int fd, int64_t length);

/* Allocates blocks for [position, position + length) without changing the size. -EOPNOTSUPP where
 * the file system has no such call. */
int kq_io_reserve(int fd, int64_t position, int64_t length);

int kq_io_rename(int from_dirfd, const char *from, int to_dirfd, const char *to);
int kq_io_unlink(int dirfd, const char *path, bool directory);
int kq_io_mkdir(int dirfd, const char *path, mode_t mode);

/* Syncs the directory itself, so that names made or removed in it survive power loss. */
int kq_io_sync_dir(int dirfd);

/* Replaces NAME in DIRFD by BYTES: temporary file, fdatasync, rename, directory sync. After 0 the
 * new content survives power loss; after an error the old content stands. MODE for a new file. */
int kq_io_replace(int dirfd, const char *name, const void *bytes, size_t length, mode_t mode);

/* The whole of NAME, appended to RET. -EFBIG above LIMIT bytes; -ENOENT. */
int kq_io_slurp(int dirfd, const char *name, size_t limit, struct kq_buf *ret);
