#include "broker/base/privileged.h"

#include <fcntl.h>
#include <sys/stat.h>

#include "broker/base/io.h"
#include "broker/base/mem.h"

static const struct kq_privileged *used;

void kq_privileged_use(const struct kq_privileged *privileged)
{
    used = privileged;
}

const struct kq_privileged *kq_privileged(void)
{
    return used;
}

int kq_privileged_open(const char *path)
{
    if (used)
        return used->open(used->context, path);
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    return fd < 0 ? -errno : fd;
}

/* --- Files that may change --- */

static bool same_time(const struct timespec *a, const struct timespec *b)
{
    return a->tv_sec == b->tv_sec && a->tv_nsec == b->tv_nsec;
}

bool kq_file_mark_same(const struct kq_file_mark *a, const struct kq_file_mark *b)
{
    return a->device == b->device && a->inode == b->inode && a->size == b->size &&
           same_time(&a->modified, &b->modified) && same_time(&a->changed, &b->changed);
}

static int mark_of(int fd, struct kq_file_mark *ret)
{
    struct stat about;
    if (fstat(fd, &about) < 0)
        return -errno;
    if (!S_ISREG(about.st_mode))
        return -EINVAL;
    *ret = (struct kq_file_mark){.device = about.st_dev,
                                 .inode = about.st_ino,
                                 .size = about.st_size,
                                 .modified = about.st_mtim,
                                 .changed = about.st_ctim};
    return 0;
}

int kq_privileged_look(const char *path, struct kq_file_mark *ret)
{
    kq_autoclose int fd = kq_privileged_open(path);
    return fd < 0 ? fd : mark_of(fd, ret);
}

/* Where locks are not to be had, the writer has none either. */
static void wait_for_writer(int fd)
{
    struct flock lock = {.l_type = F_RDLCK, .l_whence = SEEK_SET};
    while (fcntl(fd, F_OFD_SETLKW, &lock) < 0 && errno == EINTR)
        ;
}

int kq_privileged_slurp(const char *path, size_t limit, struct kq_buf *ret,
                        struct kq_file_mark *ret_mark)
{
    struct kq_file_mark mark = {0};
    kq_autoclose int fd = kq_privileged_open(path);
    if (fd < 0)
        return fd;
    wait_for_writer(fd);
    int r = mark_of(fd, &mark);
    if (r < 0)
        return r;
    if ((uint64_t)mark.size > limit)
        return -EFBIG;
    r = kq_buf_reserve(ret, (size_t)mark.size + 1);
    if (r < 0)
        return r;
    ssize_t n = kq_io_pread(fd, ret->data + ret->length, (size_t)mark.size, 0);
    if (n < 0)
        return (int)n;
    ret->length += (size_t)n;
    if (ret_mark)
        *ret_mark = mark;
    return 0;
}
