#include <poll.h>

#include "fs/handle.h"
#include "fs/stream.h"

/* Files that do not block are always ready, as regular files are. ENOSYS would say so too, but for
 * the streams as well. */
void kq_op_poll(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi,
                struct fuse_pollhandle *ph)
{
    struct kq_handle *handle = kq_handle_of(fi);
    unsigned events = POLLIN | POLLRDNORM | POLLOUT | POLLWRNORM;
    if (handle->stream) {
        events = kq_stream_poll(handle->stream, ph);
        ph = NULL;
    }
    if (ph)
        fuse_pollhandle_destroy(ph);
    fuse_reply_poll(req, events);
}
