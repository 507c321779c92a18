/* Disk set aside behind the end of the active segment, for messages that are still being written.
 */
#include "broker/base/io.h"
#include "broker/log_internal.h"

/* Allocated at once, so that few appends pay for it; the more, the longer the segment is. */
#define STEP_LEAST (256 * 1024)
#define STEP_MOST (8 * 1024 * 1024)
#define STEP_SHARE 8

static int allocate(struct kq_log *log, int fd, int64_t position, int64_t length)
{
    int64_t step = kq_max64(STEP_LEAST, kq_min64(position / STEP_SHARE, STEP_MOST));
    int r = kq_io_reserve(fd, position, length + step);
    if (r == -ENOSPC || r == -EDQUOT || r == -EFBIG)
        r = kq_io_reserve(fd, position, length);
    else if (r == 0)
        length += step;
    if (r == -EOPNOTSUPP) {
        log->cannot_reserve = true;
        return 0;
    }
    if (r == 0)
        kq_log_active(log)->allocated = position + length;
    return r;
}

int kq_log_ensure_reserved(struct kq_log *log, int64_t length, int64_t reserved)
{
    struct kq_segment *segment = kq_log_active(log);
    int64_t need = segment->size + length + reserved;
    int fd;
    if (log->cannot_reserve || need <= segment->allocated)
        return 0;
    int r = kq_file_use(segment->file, 0, &fd);
    if (r < 0)
        return r;
    int64_t from = kq_max64(segment->allocated, segment->size);
    r = allocate(log, fd, from, need - from);
    kq_file_done(segment->file);
    return r;
}

void kq_log_release_reserve(struct kq_log *log, struct kq_segment *segment)
{
    int fd;
    if (segment->allocated <= segment->size || kq_file_use(segment->file, 0, &fd) < 0)
        return;
    /* To its own size: frees the blocks behind it, and no byte that anybody can see. */
    if (kq_io_truncate(fd, segment->size) == 0)
        segment->allocated = 0;
    kq_file_done(segment->file);
}

int kq_log_reserve(struct kq_log *log, int64_t delta)
{
    int r = 0;
    pthread_mutex_lock(&log->lock);
    if (delta > 0) {
        if (log->failed)
            r = -EROFS;
        else if (delta > INT64_MAX / 4 - log->reserved)
            r = -ENOSPC;
        else
            r = kq_log_ensure_reserved(log, 0, log->reserved + delta);
    }
    if (r == 0)
        log->reserved = kq_max64(0, log->reserved + delta);
    pthread_mutex_unlock(&log->lock);
    return r;
}
