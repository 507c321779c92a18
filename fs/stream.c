#include "fs/stream.h"

#include <assert.h>
#include <poll.h>
#include <stddef.h>

#include "broker/base/mem.h"
#include "fs/handle.h"
#include "fs/render.h"
#include "fs/scratch.h"

/* References are counted with atomics. NOLINTBEGIN(clang-analyzer-unix.Malloc) */

#define SERVED_AT_ONCE 4 /* readers that an append serves itself */
#define JSONL_KEEP 4096

enum state {
    ARMING,
    ARMED,
    WOKEN_EARLY,       /* while arming: the parking thread goes on */
    INTERRUPTED_EARLY, /* likewise */
    CLAIMED,
};

struct kq_stream {
    struct kq_handle *handle;
    pthread_mutex_t lock;
    struct kq_cursor cursor;
    struct kq_buf lines; /* JSON lines on their way */
    size_t sent;         /* bytes of LINES that were handed over */
    struct kq_parked *poll;
};

int kq_stream_new(struct kq_handle *handle, int64_t offset, struct kq_stream **ret)
{
    struct kq_stream *stream = kq_zalloc(sizeof(*stream));
    if (!stream)
        return -ENOMEM;
    stream->handle = handle;
    pthread_mutex_init(&stream->lock, NULL);
    kq_cursor_init(&stream->cursor, &handle->access);
    stream->cursor.next_offset = offset;
    *ret = stream;
    return 0;
}

/* --- What there is to hand over --- */

static bool is_over(struct kq_stream *stream)
{
    return atomic_load(&stream->handle->fs->handles->closing) ||
           kq_topic_deleted(stream->handle->topic);
}

static int overtaken(struct kq_stream *stream, int64_t start)
{
    kq_cursor_release(&stream->cursor);
    stream->cursor.next_offset = start;
    stream->lines.length = stream->sent = 0;
    return -ESTALE;
}

/* Behind what is damaged, so that the next read meets what follows. -EBADMSG, once it is;
 * KQ_WOULD_BLOCK. */
static int pass_damage(struct kq_stream *stream, struct kq_lens *lens)
{
    int r = kq_cursor_pass_damage(&stream->cursor, lens);
    if (r == KQ_WOULD_BLOCK)
        return r;
    kq_report_damage(&stream->cursor);
    return -EBADMSG;
}

static int render(struct kq_stream *stream, struct kq_lens *lens, size_t size,
                  struct kq_scratch *scratch)
{
    struct kq_cursor *cursor = &stream->cursor;
    int r = 0;
    if (!kq_cursor_is_placed(cursor))
        r = kq_cursor_seek_offset(cursor, lens, cursor->next_offset, false);
    if (r != 0)
        return r;
    if (stream->handle->row->format == KQ_FORMAT_JSONL)
        return kq_render_jsonl(cursor, lens, &stream->lines, size);
    r = kq_buf_reserve(&scratch->reply, size + KQ_RENDER_SLACK);
    return r < 0 ? r
                 : kq_render_text(cursor, lens, scratch->reply.data, size, &scratch->reply.length);
}

/* JSON lines on their way become the reply. */
static int send_lines(struct kq_stream *stream, size_t size, struct kq_buf *reply)
{
    size_t left = stream->lines.length - stream->sent, length = left < size ? left : size;
    int r = kq_buf_append(reply, stream->lines.data + stream->sent, length);
    if (r < 0)
        return r;
    stream->sent += length;
    if (stream->sent == stream->lines.length) {
        kq_buf_clear(&stream->lines, JSONL_KEEP);
        stream->sent = 0;
    }
    return 0;
}

/* Fills the reply. 0; KQ_END: nothing to hand over yet; KQ_WOULD_BLOCK; -ESTALE; -EIO; -errno. */
static int fill(struct kq_stream *stream, size_t size, bool may_block, struct kq_scratch *scratch)
{
    struct kq_cursor *cursor = &stream->cursor;
    struct kq_log_bounds bounds;
    struct kq_lens lens = {
        .buf = &scratch->window, .fd = -1, .piece = kq_lens_piece(size), .may_block = may_block};
    int r = KQ_END;
    kq_bounds(stream->handle->part->partition, &bounds);
    scratch->reply.length = 0;
    if (cursor->next_offset < bounds.start)
        r = KQ_GONE;
    else if (cursor->next_offset < bounds.last_stable && stream->lines.length < size) {
        kq_cursor_begin(cursor, bounds.last_stable);
        r = render(stream, &lens, size, scratch);
    }
    if (stream->lines.length > 0)
        return send_lines(stream, size, &scratch->reply);
    if (scratch->reply.length > 0)
        return 0;
    if (r == KQ_GONE)
        return overtaken(stream, bounds.start);
    if (r == -EBADMSG)
        r = pass_damage(stream, &lens);
    if (r == KQ_END) /* whatever lies before the end has no text */
        cursor->next_offset = kq_max64(cursor->next_offset, bounds.last_stable);
    return r == KQ_BEYOND ? KQ_END : r;
}

/* --- Parking --- */

static void let_go(struct kq_parked *parked)
{
    if (atomic_fetch_sub(&parked->references, 1) == 1)
        free(parked);
}

static void link_in(struct kq_parked *parked)
{
    struct kq_handles *handles = parked->fs->handles;
    pthread_mutex_lock(&handles->lock);
    LIST_INSERT_HEAD(&handles->parked, parked, entry);
    pthread_mutex_unlock(&handles->lock);
}

static void take_out(struct kq_parked *parked)
{
    struct kq_handles *handles = parked->fs->handles;
    pthread_mutex_lock(&handles->lock);
    LIST_REMOVE(parked, entry);
    pthread_mutex_unlock(&handles->lock);
}

static bool change(struct kq_parked *parked, int from, int to)
{
    return atomic_compare_exchange_strong(&parked->state, &from, to);
}

/* Takes the waiter back from the broker, or lets its call happen, which then lets go itself. */
static void withdraw(struct kq_parked *parked)
{
    if (kq_unwait(&parked->waiter) == 0)
        let_go(parked);
}

static void serve(fuse_req_t req, struct kq_stream *stream, size_t size, bool nonblock,
                  bool may_block);

static void serve_on_worker(struct kq_job *job)
{
    struct kq_parked *parked = (void *)((char *)job - offsetof(struct kq_parked, job));
    serve(parked->req, parked->stream, parked->size, false, true);
    let_go(parked);
}

/* How many readers this thread has served of the append that it is at. */
static bool may_serve_at_once(struct kq_partition *partition)
{
    static _Thread_local int64_t end;
    static _Thread_local const void *last;
    static _Thread_local int served;
    struct kq_log_bounds bounds;
    kq_bounds(partition, &bounds);
    if (last != partition || end != bounds.end)
        served = 0;
    last = partition;
    end = bounds.end;
    return ++served <= SERVED_AT_ONCE;
}

/* With PARKED claimed: its request is answered, unless it has to wait again. */
static void go_on(struct kq_parked *parked, enum kq_wake why)
{
    struct kq_fs *fs = parked->fs;
    if (parked->ph) {
        kq_notify_poll(fs, parked->ph);
        parked->ph = NULL;
        let_go(parked);
        return;
    }
    fuse_req_interrupt_func(parked->req, NULL, NULL);
    if (why == KQ_WAKE_DATA && !may_serve_at_once(parked->stream->handle->part->partition)) {
        parked->job.run = serve_on_worker;
        kq_pool_submit(fs->workers, &parked->job);
        return;
    }
    if (why == KQ_WAKE_DATA)
        serve(parked->req, parked->stream, parked->size, false, false);
    else
        fuse_reply_buf(parked->req, NULL, 0);
    let_go(parked);
}

static void wake(struct kq_waiter *waiter, enum kq_wake why)
{
    struct kq_parked *parked = (void *)((char *)waiter - offsetof(struct kq_parked, waiter));
    if (!change(parked, ARMING, WOKEN_EARLY) && change(parked, ARMED, CLAIMED)) {
        take_out(parked);
        go_on(parked, why);
    }
    let_go(parked);
}

/* libfuse holds the request's lock: the parking thread answers where it still is arming. */
static void interrupted(fuse_req_t req, void *argument)
{
    struct kq_parked *parked = argument;
    if (change(parked, ARMING, INTERRUPTED_EARLY) || !change(parked, ARMED, CLAIMED))
        return;
    take_out(parked);
    withdraw(parked);
    fuse_reply_err(req, EINTR);
    let_go(parked);
}

static struct kq_parked *new_parked(struct kq_stream *stream)
{
    struct kq_parked *parked = kq_zalloc(sizeof(*parked));
    if (!parked)
        return NULL;
    parked->waiter.wake = wake;
    parked->fs = stream->handle->fs;
    parked->stream = stream;
    atomic_init(&parked->state, ARMING);
    atomic_init(&parked->references, 2); /* the waiter's and the claimer's */
    return parked;
}

/* The mount may have begun to end while PARKED was arming, unseen by kq_handles_unpark_all. */
static void end_if_closing(struct kq_parked *parked)
{
    if (!atomic_load(&parked->fs->handles->closing) || !change(parked, ARMED, CLAIMED))
        return;
    take_out(parked);
    withdraw(parked);
    go_on(parked, KQ_WAKE_CLOSING);
}

/* Keeps REQ until there is a message behind OFFSET. 0: it is parked, or answered; KQ_READY: there
 * is something already; -EINTR, -ENOMEM, -errno: to be answered. */
static int park(fuse_req_t req, struct kq_stream *stream, size_t size, int64_t offset)
{
    struct kq_parked *parked = new_parked(stream);
    if (!parked)
        return -ENOMEM;
    parked->req = req;
    parked->size = size;
    fuse_req_interrupt_func(req, interrupted, parked);
    link_in(parked);
    int r = kq_wait(stream->handle->part->partition, &parked->waiter, offset);
    /* From here to the answer PARKED may be claimed and freed by others, unless this fails. */
    atomic_fetch_add(&parked->references, 1);
    if (r == 0 && change(parked, ARMING, ARMED)) {
        end_if_closing(parked);
        let_go(parked);
        return 0;
    }
    bool stopped =
        !change(parked, ARMING, CLAIMED) && atomic_load(&parked->state) == INTERRUPTED_EARLY;
    take_out(parked);
    if (r == 0)
        withdraw(parked);
    else
        let_go(parked);
    fuse_req_interrupt_func(req, NULL, NULL);
    let_go(parked);
    let_go(parked);
    if (stopped)
        return -EINTR;
    if (r != -ESTALE && r != -ESHUTDOWN)
        return r == 0 ? KQ_READY : r;
    fuse_reply_buf(req, NULL, 0);
    return 0;
}

/* --- Serving --- */

struct delayed {
    struct kq_stream *stream;
    size_t size;
    bool nonblock;
};

static void serve_delayed(fuse_req_t req, void *argument)
{
    const struct delayed *delayed = argument;
    serve(req, delayed->stream, delayed->size, delayed->nonblock, true);
}

static void delay(fuse_req_t req, struct kq_stream *stream, size_t size, bool nonblock)
{
    struct delayed delayed = {.stream = stream, .size = size, .nonblock = nonblock};
    kq_fs_offload(req, serve_delayed, &delayed, sizeof(delayed));
}

/* With the stream's lock held. As fill, except that a stream which is over ends: 0 and no bytes.
 * RET_OFFSET: to wait behind after KQ_END. */
static int take(struct kq_stream *stream, size_t size, bool may_block, const uint8_t **ret,
                size_t *ret_length, int64_t *ret_offset)
{
    struct kq_scratch *scratch = kq_scratch();
    int r = scratch ? fill(stream, size, may_block, scratch) : -ENOMEM;
    *ret_offset = stream->cursor.next_offset;
    if ((r == KQ_END || r < 0) && is_over(stream)) {
        *ret_length = 0;
        return 0;
    }
    if (r == 0) {
        *ret = scratch->reply.data;
        *ret_length = scratch->reply.length;
    }
    return r;
}

/* 0: answered or parked; KQ_READY: once more; KQ_WOULD_BLOCK; -errno: to be answered. */
static int try_to_serve(fuse_req_t req, struct kq_stream *stream, size_t size, bool nonblock,
                        bool may_block)
{
    const uint8_t *bytes = NULL;
    size_t length;
    int64_t offset;
    if (may_block)
        pthread_mutex_lock(&stream->lock);
    else if (pthread_mutex_trylock(&stream->lock) != 0)
        return KQ_WOULD_BLOCK;
    int r = take(stream, size, may_block, &bytes, &length, &offset);
    pthread_mutex_unlock(&stream->lock);
    if (r == 0)
        fuse_reply_buf(req, (const char *)bytes, length);
    if (r != KQ_END)
        return r;
    return nonblock ? -EAGAIN : park(req, stream, size, offset);
}

static void serve(fuse_req_t req, struct kq_stream *stream, size_t size, bool nonblock,
                  bool may_block)
{
    int r;
    do
        r = try_to_serve(req, stream, size, nonblock, may_block);
    while (r == KQ_READY);
    if (r == KQ_WOULD_BLOCK)
        delay(req, stream, size, nonblock);
    else if (r < 0)
        fuse_reply_err(req, kq_fs_errno(r));
}

void kq_stream_read(fuse_req_t req, struct kq_stream *stream, size_t size, bool nonblock)
{
    serve(req, stream, size, nonblock, false);
}

/* --- The end of the mount --- */

static struct kq_parked *claim_any(struct kq_handles *handles)
{
    struct kq_parked *parked;
    pthread_mutex_lock(&handles->lock);
    LIST_FOREACH (parked, &handles->parked, entry)
        if (change(parked, ARMED, CLAIMED)) {
            LIST_REMOVE(parked, entry);
            withdraw(parked);
            break;
        }
    pthread_mutex_unlock(&handles->lock);
    return parked;
}

void kq_handles_unpark_all(struct kq_handles *handles)
{
    atomic_store(&handles->closing, true);
    for (struct kq_parked *parked; (parked = claim_any(handles));)
        go_on(parked, KQ_WAKE_CLOSING);
}

/* --- poll(2) --- */

/* Takes back what poll(2) was told last; its handle is replaced or gone. */
static void forget_poll(struct kq_stream *stream)
{
    struct kq_parked *parked = stream->poll;
    stream->poll = NULL;
    if (!parked)
        return;
    if (change(parked, ARMED, CLAIMED)) {
        take_out(parked);
        withdraw(parked);
        fuse_pollhandle_destroy(parked->ph);
        let_go(parked);
    } else {
        /* kq_handles_unpark_all may still need the partition, which this handle keeps. */
        pthread_mutex_lock(&parked->fs->handles->lock);
        pthread_mutex_unlock(&parked->fs->handles->lock);
    }
    let_go(parked);
}

static int arm_poll(struct kq_stream *stream, struct fuse_pollhandle *ph, int64_t offset)
{
    struct kq_parked *parked = new_parked(stream);
    if (!parked)
        return -ENOMEM;
    parked->ph = ph;
    atomic_fetch_add(&parked->references, 1); /* the stream's */
    link_in(parked);
    int r = kq_wait(stream->handle->part->partition, &parked->waiter, offset);
    if (r == 0 && change(parked, ARMING, ARMED)) {
        stream->poll = parked;
        end_if_closing(parked);
        return 0;
    }
    take_out(parked);
    if (r != 0) /* else the waiter was called, and has let go or is about to */
        let_go(parked);
    let_go(parked);
    let_go(parked);
    return r == 0 ? KQ_READY : r;
}

unsigned kq_stream_poll(struct kq_stream *stream, struct fuse_pollhandle *ph)
{
    struct kq_log_bounds bounds;
    kq_bounds(stream->handle->part->partition, &bounds);
    pthread_mutex_lock(&stream->lock);
    bool ready = stream->sent < stream->lines.length ||
                 stream->cursor.next_offset < bounds.last_stable || is_over(stream);
    if (ph) {
        forget_poll(stream);
        /* Behind what there is now: an edge-triggered epoll asks no second time. */
        int r = arm_poll(stream, ph, kq_max64(bounds.last_stable, stream->cursor.next_offset));
        if (r != 0) {
            kq_notify_poll(stream->handle->fs, ph);
            ready |= r == KQ_READY;
        }
    }
    pthread_mutex_unlock(&stream->lock);
    return ready ? POLLIN | POLLRDNORM : 0;
}

void kq_stream_free(struct kq_stream *stream)
{
    if (!stream)
        return;
    pthread_mutex_lock(&stream->lock);
    forget_poll(stream);
    pthread_mutex_unlock(&stream->lock);
    kq_cursor_release(&stream->cursor);
    kq_buf_release(&stream->lines);
    pthread_mutex_destroy(&stream->lock);
    free(stream);
}

/* NOLINTEND(clang-analyzer-unix.Malloc) */
