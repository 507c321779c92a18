/* Files that block at their end: .stream. A reader that has to wait is parked: its request is kept
 * and its thread goes on; an append, an interrupt or the end of the mount answers it.
 *
 * Happy path: the append that brings a message calls the waiter; a few readers an append are served
 * at once, on the appender's thread and from the page cache, the others by workers.
 *
 * Who answers: a parked request is armed or claimed, and who claims it (the append, the interrupt,
 * the end) answers it; its memory goes when the claimer and the waiter have both let go. Once a
 * request is answered the kernel may close the file: nothing of the stream is touched behind that.
 */
#pragma once

#include <stdatomic.h>
#include <sys/queue.h>

#include "fs/internal.h"

struct kq_handle;
struct kq_stream;

/* One request that waits for messages, or one poll(2) that wants to hear of them. */
struct kq_parked {
    struct kq_waiter waiter;
    struct kq_job job;
    struct kq_fs *fs;
    struct kq_stream *stream;   /* valid as long as REQ is not answered */
    fuse_req_t req;             /* NULL for a poll */
    size_t size;                /* of the read */
    struct fuse_pollhandle *ph; /* of a poll */
    atomic_int state, references;
    LIST_ENTRY(kq_parked) entry; /* of kq_handles.parked, while it is armed */
};

/* Of HANDLE, from OFFSET on. -ENOMEM. */
int kq_stream_new(struct kq_handle *handle, int64_t offset, struct kq_stream **ret);

/* No read may be parked on it. NULL is fine. */
void kq_stream_free(struct kq_stream *stream);

/* Answers REQ now or later: with as many bytes as there are, at most SIZE; 0 when the topic is
 * gone or the mount ends; EAGAIN where it would wait and NONBLOCK; EINTR; ESTALE once when
 * retention has taken what would follow, after which the stream goes on at the first retained
 * message. */
void kq_stream_read(fuse_req_t req, struct kq_stream *stream, size_t size, bool nonblock);

/* poll(2)'s events for STREAM; PH (may be NULL) is notified of the next message. Consumes PH. */
unsigned kq_stream_poll(struct kq_stream *stream, struct fuse_pollhandle *ph);
