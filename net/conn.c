/* A connection: a small state machine that its loop steps whenever something about it has changed.
 *
 * A step reads what may be read, runs the requests that may run, queues the responses that are due
 * in order, and writes what can be written; then it waits. Descriptors being ready, requests that
 * are done, deadlines: all of them only ask for the next step.
 *
 * It ends in one of three ways. The peer has sent its last byte, or the broker stops: no more is
 * read, what is under way is answered, within a bounded time (DRAINING). Or it is of no more use:
 * what was to be sent is dropped (CLOSED). Its memory stays until its last request has come back.
 */
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stddef.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "broker/base/clock.h"
#include "broker/base/diag.h"
#include "broker/base/mem.h"
#include "net/internal.h"
#include "net/listener.h"
#include "net/message.h"
#include "net/resident.h"
#include "net/tcp.h"
#include "net/wire.h"

#define NS_PER_MS INT64_C(1000000)
#define SEND_AT_ONCE ((size_t)2 * 1024 * 1024)

/* A range of a file that is being read in for a connection, which may be gone when that is done. */
struct kq_warming {
    struct kq_job job;
    struct kq_mail mail;
    struct kq_loop *loop;
    struct kq_conn *conn; /* the loop's; NULL: gone */
    struct kq_extent extent;
    int64_t position;
    size_t length;
};

/* --- The end --- */

static void free_conn(struct kq_task *task)
{
    struct kq_conn *conn = (struct kq_conn *)((char *)task - offsetof(struct kq_conn, task));
    kq_sendq_release(&conn->sendq);
    LIST_REMOVE(conn, list);
    kq_server_ended(conn->shard, conn->listener);
    free(conn);
}

static void free_soon(struct kq_conn *conn)
{
    /* Behind the events of this turn, which may still name it. */
    kq_loop_forget(conn->shard->loop, &conn->task);
    conn->task.run = free_conn;
    kq_loop_soon(conn->shard->loop, &conn->task);
}

void kq_conn_close(struct kq_conn *conn, const char *reason)
{
    if (conn->end == KQ_CONN_CLOSED)
        return;
    conn->end = KQ_CONN_CLOSED;
    if (reason)
        kq_diag_limited(10000, LOG_WARNING, "a client %s: connection closed", reason);
    kq_loop_cancel_timer(conn->shard->loop, &conn->timer);
    kq_transport_close(&conn->transport);
    kq_conn_drop_part(conn);
    kq_sendq_release(&conn->sendq);
    if (conn->warming)
        conn->warming->conn = NULL;
    conn->warming = NULL;
    kq_conn_cancel_requests(conn);
    kq_conn_kick(conn);
}

void kq_conn_drain(struct kq_conn *conn)
{
    if (conn->end != KQ_CONN_OPEN)
        return;
    conn->end = KQ_CONN_DRAINING;
    conn->frame_ns = 0;
    if (conn->part_size)
        kq_conn_drop_part(conn);
    int64_t until = conn->shard->loop->now_ns + conn->shard->server->options.drain_ms * NS_PER_MS;
    kq_loop_set_timer(conn->shard->loop, &conn->timer, until);
    kq_conn_kick(conn);
}

/* --- Writing --- */

static void warm(struct kq_job *job)
{
    struct kq_warming *warming =
        (struct kq_warming *)((char *)job - offsetof(struct kq_warming, job));
    /* A page that cannot be read shows when it is sent. */
    kq_resident_make(warming->extent.fd, warming->position, warming->length);
    kq_loop_post(warming->loop, &warming->mail);
}

static void warmed(struct kq_mail *mail)
{
    struct kq_warming *warming =
        (struct kq_warming *)((char *)mail - offsetof(struct kq_warming, mail));
    struct kq_conn *conn = warming->conn;
    if (conn) {
        conn->warming = NULL;
        kq_sendq_warmed(&conn->sendq);
        kq_conn_kick(conn);
    }
    kq_extent_unref(&warming->extent);
    free(warming);
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
                                   .length = cold->length};
    kq_extent_ref(&warming->extent);
    conn->warming = warming;
    kq_pool_submit(conn->shard->server->readers, &warming->job);
    return 0;
}

static void write_out(struct kq_conn *conn)
{
    struct kq_cold cold;
    uint64_t before = conn->sendq.sent;
    int r = kq_sendq_write(&conn->sendq, &conn->transport, SEND_AT_ONCE, &cold);
    if (conn->sendq.sent != before)
        conn->active_ns = conn->shard->loop->now_ns;
    if (r == KQ_SENDQ_COLD)
        r = start_warming(conn, &cold);
    if (r < 0)
        kq_conn_close(conn, NULL);
    else if (r == KQ_SENDQ_FULL)
        conn->writable = false;
    else if (r == KQ_SENDQ_MORE)
        kq_conn_kick(conn);
}

/* Where it fails the connection is closed, which drops what was queued. */
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
    return r;
}

int kq_conn_respond(struct kq_conn *conn, struct kq_request *request)
{
    const struct kq_message *message = request->api->message;
    int16_t version = request->version;
    if (version < request->api->lowest || version > request->api->highest)
        version = 0;
    struct kq_buf buf = {0};
    struct kq_wire_frame frame;
    kq_wire_response_begin(&frame, &buf, message, version, request->correlation_id);
    kq_message_write_response(message, &frame.writer, version, request->response);
    int r = kq_wire_frame_end(&frame);
    if (r == 0)
        r = queue_frame(conn, &frame, &buf);
    kq_wire_frame_release(&frame);
    if (r == 0)
        kq_sendq_own(&conn->sendq, buf.data);
    else
        kq_buf_release(&buf);
    if (request->throttle_ms > 0) {
        conn->muted_until_ns = conn->shard->loop->now_ns + request->throttle_ms * NS_PER_MS;
        kq_conn_watch_deadline(conn);
    }
    return r;
}

/* --- Steps --- */

/* What came before the end of a connection that is not read any more is answered all the same. */
static bool has_frames(const struct kq_conn *conn)
{
    return conn->part && !conn->part_size;
}

static void end_if_done(struct kq_conn *conn)
{
    bool done = TAILQ_EMPTY(&conn->requests) && !has_frames(conn) && !kq_sendq_left(&conn->sendq);
    if (conn->end == KQ_CONN_DRAINING && done) {
        kq_transport_shutdown(&conn->transport);
        kq_conn_close(conn, NULL);
    }
    if (conn->end == KQ_CONN_CLOSED && TAILQ_EMPTY(&conn->requests))
        free_soon(conn);
}

static void step(struct kq_task *task)
{
    struct kq_conn *conn = (struct kq_conn *)((char *)task - offsetof(struct kq_conn, task));
    if (has_frames(conn) && kq_conn_may_take(conn))
        kq_conn_resume(conn);
    if (conn->readable && kq_conn_may_receive(conn))
        kq_conn_receive(conn);
    kq_conn_run(conn);
    if (conn->writable && !conn->warming && kq_sendq_left(&conn->sendq))
        write_out(conn);
    if ((has_frames(conn) && kq_conn_may_take(conn)) ||
        (conn->readable && kq_conn_may_receive(conn)))
        kq_conn_kick(conn);
    end_if_done(conn);
}

void kq_conn_kick(struct kq_conn *conn)
{
    kq_loop_soon(conn->shard->loop, &conn->task);
}

static void ready(struct kq_watch *watch, uint32_t events)
{
    struct kq_conn *conn = (struct kq_conn *)((char *)watch - offsetof(struct kq_conn, watch));
    if (conn->end == KQ_CONN_CLOSED)
        return;
    if (events & EPOLLERR) {
        kq_conn_close(conn, NULL);
        return;
    }
    /* Behind the end of a unix socket (EPOLLHUP) there may still be bytes to read. */
    if (events & (EPOLLRDHUP | EPOLLHUP))
        conn->hung_up = true;
    if (events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP))
        conn->readable = true;
    if (events & (EPOLLOUT | EPOLLHUP))
        conn->writable = true;
    kq_conn_kick(conn);
}

/* --- Deadlines --- */

static int64_t deadline(const struct kq_conn *conn)
{
    const struct kq_server_options *options = &conn->shard->server->options;
    int64_t at = conn->active_ns + options->idle_ms * NS_PER_MS;
    if (conn->frame_ns)
        at = kq_min64(at, conn->frame_ns + options->request_ms * NS_PER_MS);
    if (conn->muted_until_ns > conn->shard->loop->now_ns)
        at = kq_min64(at, conn->muted_until_ns);
    return at;
}

/* A timer that rings too early is cheaper than one that is moved with each request. */
void kq_conn_watch_deadline(struct kq_conn *conn)
{
    int64_t at = deadline(conn);
    if (conn->end == KQ_CONN_OPEN && (!conn->timer.set || conn->timer.at_ns > at))
        kq_loop_set_timer(conn->shard->loop, &conn->timer, at);
}

static void expire(struct kq_timer *timer)
{
    struct kq_conn *conn = (struct kq_conn *)((char *)timer - offsetof(struct kq_conn, timer));
    const struct kq_server_options *options = &conn->shard->server->options;
    int64_t now = conn->shard->loop->now_ns;
    bool awaited = !TAILQ_EMPTY(&conn->requests) && !kq_sendq_left(&conn->sendq);
    if (conn->end == KQ_CONN_DRAINING) {
        kq_conn_close(conn, NULL);
    } else if (conn->frame_ns && now >= conn->frame_ns + options->request_ms * NS_PER_MS) {
        kq_conn_close(conn, "took longer than socket.request.timeout.ms for a request");
    } else if (now >= conn->active_ns + options->idle_ms * NS_PER_MS && !awaited) {
        kq_conn_close(conn, NULL);
    } else {
        if (now >= conn->active_ns + options->idle_ms * NS_PER_MS)
            conn->active_ns = now;
        kq_conn_watch_deadline(conn);
        kq_conn_kick(conn);
    }
}

/* --- The beginning --- */

static void begin(struct kq_mail *mail)
{
    struct kq_conn *conn = (struct kq_conn *)((char *)mail - offsetof(struct kq_conn, mail));
    struct kq_shard *shard = conn->shard;
    LIST_INSERT_HEAD(&shard->conns, conn, list);
    conn->active_ns = shard->loop->now_ns;
    int r = kq_loop_watch(shard->loop, &conn->watch, conn->transport.fd,
                          EPOLLIN | EPOLLOUT | EPOLLRDHUP);
    if (r < 0 || shard->stopping) {
        kq_conn_close(conn, r == -ENOMEM ? "needs memory that there is not" : NULL);
        return;
    }
    kq_conn_watch_deadline(conn);
}

static void set_socket_options(int fd, bool is_tcp)
{
    int on = 1;
    if (!is_tcp)
        return;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
}

int kq_conn_start_consume_fd(struct kq_shard *shard, struct kq_listener *listener, int fd)
{
    struct kq_conn *conn = kq_zalloc(sizeof(*conn));
    if (!conn) {
        close(fd);
        return -ENOMEM;
    }
    set_socket_options(fd, !listener->address.is_unix);
    kq_tcp_init_consume_fd(&conn->transport, fd);
    kq_sendq_init(&conn->sendq);
    TAILQ_INIT(&conn->requests);
    conn->shard = shard;
    conn->listener = listener;
    conn->watch.ready = ready;
    conn->task.run = step;
    conn->timer.expire = expire;
    conn->mail.deliver = begin;
    conn->writable = true;
    kq_loop_post(shard->loop, &conn->mail);
    return 0;
}

/* One who came by a unix socket has its own way to connect and needs any name at all. */
static void advertise_unix(const struct kq_conn *conn, struct kq_host_port *ret)
{
    *ret = (struct kq_host_port){.host = "localhost", .port = 9092};
}

int kq_conn_advertised(struct kq_conn *conn, struct kq_arena *arena, struct kq_str *ret_host,
                       int32_t *ret_port)
{
    struct kq_host_port own = conn->listener->address.advertised;
    struct sockaddr_storage local;
    socklen_t length = sizeof(local);
    if (!own.host[0] && conn->listener->address.is_unix)
        advertise_unix(conn, &own);
    else if (!own.host[0] &&
             (getsockname(conn->transport.fd, (struct sockaddr *)&local, &length) < 0 ||
              !kq_address_format(&local, &own)))
        return -ENOTCONN;
    char *host = kq_arena_string(arena, own.host, strlen(own.host));
    if (!host)
        return -ENOMEM;
    *ret_host = kq_str_of(host);
    *ret_port = own.port;
    return 0;
}

void kq_conn_caller(const struct kq_conn *conn, struct kq_caller *ret)
{
    *ret = (struct kq_caller){.uid = geteuid(), .gid = getegid(), .principal = "User:ANONYMOUS"};
}
