/* From responses to bytes on their way: a response becomes memory and ranges of files in the send
 * queue. A range that the page cache lacks is read in by another thread first, so that the loop
 * and its other connections never wait for a disk. */
#include <stddef.h>

#include "broker/base/mem.h"
#include "net/internal.h"
#include "net/message.h"
#include "net/message/sasl_authenticate.h"
#include "net/resident.h"
#include "net/throttle.h"
#include "net/wire.h"

/* Then it is the turn of others: some 50 us (what the disk has just brought takes the longest),
 * which is what one turn of a reader of much may add to the latency of everybody else on the loop.
 * Encrypting takes longer. */
#define SEND_AT_ONCE ((size_t)128 * 1024)
#define ENCRYPT_AT_ONCE ((size_t)64 * 1024)

/* A range of a file that is being read in for a connection, which may be gone when that is done. */
struct kq_warming {
    struct kq_job job;
    struct kq_mail mail;
    struct kq_loop *loop;
    struct kq_conn *conn; /* the loop's; NULL: gone */
    struct kq_extent extent;
    int64_t position;
    size_t length, ahead;
};

static void warm(struct kq_job *job)
{
    struct kq_warming *warming =
        (struct kq_warming *)((char *)job - offsetof(struct kq_warming, job));
    /* A page that cannot be read shows when it is sent. */
    kq_resident_make(warming->extent.fd, warming->position, warming->length, warming->ahead);
    kq_loop_post(warming->loop, &warming->mail);
}

static void warmed(struct kq_mail *mail)
{
    struct kq_warming *warming =
        (struct kq_warming *)((char *)mail - offsetof(struct kq_warming, mail));
    struct kq_conn *conn = warming->conn;
    kq_extent_unref(&warming->extent);
    free(warming);
    if (!conn)
        return;
    conn->warming = NULL;
    kq_sendq_warmed(&conn->sendq);
    kq_conn_kick(conn);
}

static int start_warming(struct kq_conn *conn, const struct kq_cold *cold)
{
    struct kq_warming *warming = kq_alloc(sizeof(*warming));
    if (!warming)
        return -ENOMEM;
    *warming = (struct kq_warming){.job.run = warm,
                                   .mail.deliver = warmed,
                                   .loop = conn->shard->loop,
                                   .conn = conn,
                                   .extent = *cold->extent,
                                   .position = cold->position,
                                   .length = cold->length,
                                   .ahead = cold->ahead};
    kq_extent_ref(&warming->extent);
    conn->warming = warming;
    kq_tally(conn->shard->telemetry, KQ_TALLY_COLD, 1);
    kq_pool_submit(conn->shard->server->readers, &warming->job);
    return 0;
}

void kq_conn_forget_warming(struct kq_conn *conn)
{
    if (conn->warming)
        conn->warming->conn = NULL;
    conn->warming = NULL;
}

static void count_sent(struct kq_conn *conn, uint64_t before, uint64_t from_files)
{
    if (conn->sendq.sent == before)
        return;
    conn->active_ns = conn->shard->loop->now_ns;
    kq_tally(conn->shard->telemetry, KQ_TALLY_SENT, conn->sendq.sent - before);
    if (!conn->transport.class->copies_files)
        kq_tally(conn->shard->telemetry, KQ_TALLY_SENDFILE,
                 conn->sendq.sent_from_files - from_files);
}

void kq_conn_write(struct kq_conn *conn)
{
    struct kq_cold cold;
    size_t budget = conn->transport.class->encrypts ? ENCRYPT_AT_ONCE : SEND_AT_ONCE;
    uint64_t before = conn->sendq.sent, from_files = conn->sendq.sent_from_files;
    if (!conn->writable || conn->warming || kq_sendq_left(&conn->sendq) == 0)
        return;
    int64_t began_ns = kq_throttle_send_clock(conn);
    int r = kq_sendq_write(&conn->sendq, &conn->transport, budget, &cold);
    kq_throttle_sent(conn, began_ns);
    count_sent(conn, before, from_files);
    if (r == KQ_SENDQ_COLD)
        r = start_warming(conn, &cold);
    if (r == -EIO)
        kq_conn_close(conn, KQ_TALLY_FAILED);
    else if (r < 0)
        kq_conn_close(conn, r == -ENOMEM ? KQ_TALLY_NO_MEMORY : KQ_TALLY_BY_PEER);
    else if (r == KQ_SENDQ_FULL)
        conn->writable = false;
    else if (r == KQ_SENDQ_MORE)
        kq_conn_kick(conn);
}

/* --- Responses --- */

/* Where it fails the connection is closed, which drops what was queued of it. */
static int queue_frame(struct kq_conn *conn, struct kq_wire_frame *frame, struct kq_buf *buf)
{
    size_t from = 0;
    int r = 0;
    for (size_t i = 0; r == 0 && i < frame->splice_count; i++) {
        size_t to = frame->splices[i].position;
        if (frame->splices[i].extent.length == 0)
            continue;
        if (to > from)
            r = kq_sendq_add_memory(&conn->sendq, buf->data + from, to - from);
        from = to;
        struct kq_extent extent = kq_wire_frame_take(frame, i);
        if (r == 0)
            r = kq_sendq_add_file_consume(&conn->sendq, &extent);
        if (r < 0)
            kq_extent_unref(&extent);
    }
    if (r == 0 && buf->length > from)
        r = kq_sendq_add_memory(&conn->sendq, buf->data + from, buf->length - from);
    if (r == 0)
        kq_sendq_own(&conn->sendq, buf->data);
    return r;
}

/* A token with its size in front; what went wrong has no way to be said. */
static int respond_token(struct kq_conn *conn, const struct kq_sasl_authenticate_response *response,
                         uint64_t *ret_bytes)
{
    struct kq_bytes token = response->auth_bytes;
    struct kq_buf buf = {0};
    uint8_t prefix[4];
    if (response->error_code && token.length <= 0)
        return 0;
    kq_store_be32(prefix, (uint32_t)token.length);
    int r = kq_buf_append(&buf, prefix, sizeof(prefix));
    if (r == 0)
        r = kq_buf_append(&buf, token.data, (size_t)token.length);
    if (r == 0)
        r = kq_sendq_add_memory(&conn->sendq, buf.data, buf.length);
    if (r < 0) {
        kq_buf_release(&buf);
        return r;
    }
    *ret_bytes = buf.length;
    kq_sendq_own(&conn->sendq, buf.data);
    return 0;
}

int kq_conn_respond(struct kq_conn *conn, struct kq_request *request, uint64_t *ret_bytes)
{
    const struct kq_message *message = request->api->message;
    int16_t version = request->version;
    if (request->is_token)
        return respond_token(conn, request->response, ret_bytes);
    if (version < request->api->lowest || version > request->api->highest)
        version = 0; /* an unknown version of ApiVersions */
    struct kq_buf buf = {0};
    struct kq_wire_frame frame;
    uint64_t before = conn->sendq.added;
    kq_wire_response_begin(&frame, &buf, message, version, request->correlation_id);
    kq_message_write_response(message, &frame.writer, version, request->response);
    int r = kq_wire_frame_end(&frame);
    if (r == 0)
        r = queue_frame(conn, &frame, &buf);
    kq_wire_frame_release(&frame);
    if (r < 0) {
        kq_sendq_release(&conn->sendq);
        kq_buf_release(&buf);
        return r;
    }
    *ret_bytes = conn->sendq.added - before;
    return 0;
}
