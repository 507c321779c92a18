#include "fs/groups.h"
#include "fs/handle.h"
#include "fs/stream.h"

struct reading {
    struct kq_handle *handle;
    int64_t position;
    size_t size;
};

static int try_read(fuse_req_t req, const struct reading *reading, bool may_block)
{
    const uint8_t *bytes;
    size_t length;
    struct kq_group_file *group = reading->handle->group;
    int r = group ? kq_group_file_read(group, reading->position, reading->size, may_block, &bytes,
                                       &length)
                  : kq_read_file(reading->handle, reading->position, reading->size, may_block,
                                 &bytes, &length);
    if (r == KQ_WOULD_BLOCK && !may_block)
        return r;
    if (r != 0) {
        fuse_reply_err(req, kq_fs_errno(r));
        return 0;
    }
    fuse_reply_buf(req, (const char *)bytes, length);
    return 0;
}

static void read_on_worker(fuse_req_t req, void *argument)
{
    try_read(req, argument, true);
}

void kq_op_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset,
                struct fuse_file_info *fi)
{
    struct reading reading = {.handle = kq_handle_of(fi), .position = offset, .size = size};
    struct kq_handle *handle = reading.handle;
    if (handle->part)
        kq_fspart_settle(handle->fs, handle->part);
    if (handle->stream)
        kq_stream_read(req, handle->stream, size, (fi->flags & O_NONBLOCK) != 0);
    else if (try_read(req, &reading, false) == KQ_WOULD_BLOCK)
        kq_fs_offload(req, read_on_worker, &reading, sizeof(reading));
}

/* No view has a hole that SEEK_HOLE should find: the kernel then answers by itself, for ever. */
void kq_op_lseek(fuse_req_t req, fuse_ino_t ino, off_t offset, int whence,
                 struct fuse_file_info *fi)
{
    fuse_reply_err(req, ENOSYS);
}
