#include "broker/base/io.h"

#include <fcntl.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdio.h>

#include "broker/base/fault.h"

int kq_io_open(int dirfd, const char *path, int flags, mode_t mode)
{
    int fd;
    if (kq_fault(KQ_FAULT_OPEN))
        return -errno;
    do
        fd = openat(dirfd, path, flags | O_CLOEXEC, mode);
    while (fd < 0 && errno == EINTR);
    return fd < 0 ? -errno : fd;
}

ssize_t kq_io_pread(int fd, void *bytes, size_t length, int64_t position)
{
    size_t done = 0;
    while (done < length) {
        if (kq_fault(KQ_FAULT_READ))
            return -errno;
        ssize_t n = pread(fd, (char *)bytes + done, length - done, position + (int64_t)done);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        if (n == 0)
            break;
        done += (size_t)n;
    }
    return (ssize_t)done;
}

ssize_t kq_io_pread_cached(int fd, void *bytes, size_t length, int64_t position)
{
    static atomic_bool unsupported;
    if (atomic_load_explicit(&unsupported, memory_order_relaxed))
        return kq_io_pread(fd, bytes, length, position);
    if (kq_fault(KQ_FAULT_READ))
        return -errno;
    struct iovec part = {.iov_base = bytes, .iov_len = length};
    ssize_t n;
    do
        n = preadv2(fd, &part, 1, position, RWF_NOWAIT);
    while (n < 0 && errno == EINTR);
    if (n < 0 && errno == EOPNOTSUPP) {
        atomic_store_explicit(&unsupported, true, memory_order_relaxed);
        return kq_io_pread(fd, bytes, length, position);
    }
    return n < 0 ? -errno : n;
}

int kq_io_pwrite(int fd, const void *bytes, size_t length, int64_t position)
{
    struct iovec part = {.iov_base = (void *)bytes, .iov_len = length};
    return kq_io_pwritev(fd, &part, 1, position);
}

int kq_io_pwritev(int fd, struct iovec *parts, int count, int64_t position)
{
    while (count > 0 && parts->iov_len == 0) {
        parts++;
        count--;
    }
    while (count > 0) {
        if (kq_fault(KQ_FAULT_WRITE))
            return -errno;
        ssize_t n = count == 1 ? pwrite(fd, parts->iov_base, parts->iov_len, position)
                               : pwritev(fd, parts, count < IOV_MAX ? count : IOV_MAX, position);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        if (n == 0)
            return -EIO;
        position += n;
        while (count > 0 && (size_t)n >= parts->iov_len) {
            n -= (ssize_t)parts->iov_len;
            parts++;
            count--;
        }
        if (count > 0) {
            parts->iov_base = (char *)parts->iov_base + n;
            parts->iov_len -= (size_t)n;
        }
    }
    return 0;
}

int kq_io_datasync(int fd)
{
    if (kq_fault(KQ_FAULT_SYNC))
        return -errno;
    return fdatasync(fd) < 0 ? -errno : 0;
}

int kq_io_sync(int fd)
{
    if (kq_fault(KQ_FAULT_SYNC))
        return -errno;
    return fsync(fd) < 0 ? -errno : 0;
}

int kq_io_truncate(int fd, int64_t length)
{
    int r;
    if (kq_fault(KQ_FAULT_TRUNCATE))
        return -errno;
    do
        r = ftruncate(fd, length);
    while (r < 0 && errno == EINTR);
    return r < 0 ? -errno : 0;
}

int kq_io_reserve(int fd, int64_t position, int64_t length)
{
    int r;
    if (kq_fault(KQ_FAULT_ALLOCATE))
        return -errno;
    do
        r = fallocate(fd, FALLOC_FL_KEEP_SIZE, position, length);
    while (r < 0 && errno == EINTR);
    return r < 0 ? -errno : 0;
}

int kq_io_rename(int from_dirfd, const char *from, int to_dirfd, const char *to)
{
    if (kq_fault(KQ_FAULT_RENAME))
        return -errno;
    return renameat(from_dirfd, from, to_dirfd, to) < 0 ? -errno : 0;
}

int kq_io_unlink(int dirfd, const char *path, bool directory)
{
    if (kq_fault(KQ_FAULT_RENAME))
        return -errno;
    return unlinkat(dirfd, path, directory ? AT_REMOVEDIR : 0) < 0 ? -errno : 0;
}

int kq_io_mkdir(int dirfd, const char *path, mode_t mode)
{
    if (kq_fault(KQ_FAULT_RENAME))
        return -errno;
    return mkdirat(dirfd, path, mode) < 0 ? -errno : 0;
}

int kq_io_sync_dir(int dirfd)
{
    return kq_io_sync(dirfd);
}

/* Leaves nothing behind when it fails; the temporary name is unique in this process. */
static int write_temporary(int dirfd, const char *name, const void *bytes, size_t length,
                           mode_t mode)
{
    kq_autoclose int fd = kq_io_open(dirfd, name, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW, mode);
    if (fd < 0)
        return fd;
    int r = kq_io_pwrite(fd, bytes, length, 0);
    return r < 0 ? r : kq_io_datasync(fd);
}

enum replaced {
    CREATED,   /* there was no such name before */
    EXCHANGED, /* the old file has the temporary name now */
    LOST,      /* the file system cannot exchange two names */
};

static int take_place(int dirfd, const char *temporary, const char *name, enum replaced *ret)
{
    if (kq_fault(KQ_FAULT_RENAME))
        return -errno;
    if (renameat2(dirfd, temporary, dirfd, name, RENAME_EXCHANGE) == 0) {
        *ret = EXCHANGED;
        return 0;
    }
    *ret = errno == ENOENT ? CREATED : LOST;
    return renameat(dirfd, temporary, dirfd, name) < 0 ? -errno : 0;
}

/* The directory could not be synced: the old content stands, as the caller is told. */
static void give_place_back(int dirfd, const char *temporary, const char *name, enum replaced how)
{
    if (how == EXCHANGED)
        renameat2(dirfd, temporary, dirfd, name, RENAME_EXCHANGE);
    else if (how == CREATED)
        unlinkat(dirfd, name, 0);
}

int kq_io_replace(int dirfd, const char *name, const void *bytes, size_t length, mode_t mode)
{
    static atomic_uint serial;
    enum replaced how = LOST;
    char temporary[48];
    snprintf(temporary, sizeof(temporary), "kqfs-tmp.%ld.%u", (long)getpid(),
             atomic_fetch_add(&serial, 1));
    int r = write_temporary(dirfd, temporary, bytes, length, mode);
    if (r == 0) {
        r = take_place(dirfd, temporary, name, &how);
        if (r == 0) {
            r = kq_io_sync_dir(dirfd);
            if (r < 0)
                give_place_back(dirfd, temporary, name, how);
        }
    }
    unlinkat(dirfd, temporary, 0);
    return r;
}

int kq_io_slurp(int dirfd, const char *name, size_t limit, struct kq_buf *ret)
{
    kq_autoclose int fd = kq_io_open(dirfd, name, O_RDONLY | O_NOFOLLOW, 0);
    struct stat st;
    if (fd < 0)
        return fd;
    if (fstat(fd, &st) < 0)
        return -errno;
    if (!S_ISREG(st.st_mode))
        return -EINVAL;
    if ((uint64_t)st.st_size > limit)
        return -EFBIG;
    int r = kq_buf_reserve(ret, (size_t)st.st_size + 1);
    if (r < 0)
        return r;
    ssize_t n = kq_io_pread(fd, ret->data + ret->length, (size_t)st.st_size, 0);
    if (n < 0)
        return (int)n;
    ret->length += (size_t)n;
    return 0;
}
