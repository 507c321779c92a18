/* A connection: a small state machine that its loop steps whenever something about it has changed.
 *
 * A step reads what may be read, runs the requests that may run, queues the responses that are due
 * in order, and writes what can be written; then it waits. Descriptors being ready, requests that
 * are done, deadlines: all of them only ask for the next step.
 *
 * It ends in one of three ways. The peer has sent its last byte, or the broker stops: no more is
 * read, what is under way is answered, within a bounded time (DRAINING). A request is not to be
 * answered: what was answered before it is still sent (FLUSHING). Or it is of no more use: what was
 * to be sent is dropped (CLOSED). Its memory stays until its last request has come back.
 */
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "auth/principals.h"
#include "broker/base/clock.h"
#include "broker/base/diag.h"
#include "broker/base/mem.h"
#include "net/admit.h"
#include "net/internal.h"
#include "net/listener.h"
#include "net/sasl.h"

#define NS_PER_MS INT64_C(1000000)
#define SAY_EACH_MS 10000

uint64_t kq_conn_number(const struct kq_conn *conn)
{
    return conn->number;
}

static const struct kq_server_options *options_of(const struct kq_conn *conn)
{
    return &conn->shard->server->options;
}

/* --- The end --- */

static const char *const blamed[KQ_TALLIES] = {
    [KQ_TALLY_SLOW] = "took longer than socket.request.timeout.ms to send a request",
    [KQ_TALLY_TOO_LARGE] = "sent a request larger than socket.request.max.bytes",
    [KQ_TALLY_GREEDY] = "sent a request that takes more than request.memory.max.bytes",
    [KQ_TALLY_MALFORMED] = "sent what is not a request of Kafka's protocol",
    [KQ_TALLY_UNSUPPORTED] = "asked for a key or version that is not served",
    [KQ_TALLY_NO_MEMORY] = "needs memory that there is not",
    [KQ_TALLY_STRANGER] = "asked for something before it had said who it is",
    [KQ_TALLY_LOGIN_SLOW] = "took longer than authentication_timeout_ms to say who it is",
    [KQ_TALLY_FAILED] = "is to get messages that cannot be read from their file",
};

static void say(const struct kq_conn *conn, enum kq_tally why)
{
    static struct kq_diag_limit limits[KQ_TALLIES];
    struct sockaddr_storage peer;
    socklen_t length = sizeof(peer);
    struct kq_host_port from = {.host = "?"};
    if (!blamed[why] || !kq_diag_limit_pass(&limits[why], SAY_EACH_MS))
        return;
    if (getpeername(conn->transport.fd, (struct sockaddr *)&peer, &length) < 0 ||
        !kq_address_format(&peer, &from))
        snprintf(from.host, sizeof(from.host), "%s", conn->identity->principal);
    kq_diag(LOG_WARNING, "client %s %s: connection closed", from.host, blamed[why]);
}

static void free_conn(struct kq_task *task)
{
    struct kq_conn *conn = (struct kq_conn *)((char *)task - offsetof(struct kq_conn, task));
    struct kq_shard *shard = conn->shard;
    struct kq_admitted *admitted = conn->admitted;
    LIST_REMOVE(conn, list);
    kq_identity_unref(conn->identity);
    kq_principal_close(conn->principal);
    kq_sasl_free(conn->sasl);
    free(conn);
    atomic_fetch_sub(&shard->conn_count, 1);
    kq_admit_leave(shard->server->admit, admitted);
}

static void free_soon(struct kq_conn *conn)
{
    /* Behind the events of this turn, which may still name it. */
    kq_loop_forget(conn->shard->loop, &conn->task);
    conn->task.run = free_conn;
    kq_loop_soon(conn->shard->loop, &conn->task);
}

void kq_conn_close(struct kq_conn *conn, enum kq_tally why)
{
    if (conn->end == KQ_CONN_CLOSED)
        return;
    conn->end = KQ_CONN_CLOSED;
    kq_tally(conn->shard->telemetry, why, 1);
    say(conn, why);
    kq_loop_cancel_timer(conn->shard->loop, &conn->timer);
    kq_transport_close(&conn->transport);
    kq_conn_drop_part(conn);
    kq_crowd_done(conn);
    kq_sendq_release(&conn->sendq);
    kq_conn_forget_warming(conn);
    kq_conn_cancel_requests(conn);
    kq_conn_kick(conn);
}

static void set_drain_timer(struct kq_conn *conn)
{
    kq_loop_set_timer(conn->shard->loop, &conn->timer,
                      conn->shard->loop->now_ns + options_of(conn)->drain_ms * NS_PER_MS);
}

void kq_conn_close_later(struct kq_conn *conn, enum kq_tally why)
{
    if (kq_sendq_left(&conn->sendq) == 0 || conn->end == KQ_CONN_CLOSED) {
        kq_conn_close(conn, why);
        return;
    }
    conn->end = KQ_CONN_FLUSHING;
    conn->why = why;
    kq_conn_drop_part(conn);
    kq_crowd_done(conn);
    kq_conn_cancel_requests(conn);
    set_drain_timer(conn);
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
    kq_crowd_done(conn);
    set_drain_timer(conn);
    kq_conn_kick(conn);
}

/* --- Steps --- */

/* What came before the end of a connection is answered although it is not read any more. */
static bool has_frames(const struct kq_conn *conn)
{
    return conn->part && !conn->part_size;
}

/* Is CONDITION new? Then the client is held for that reason once more. */
static void note_held(struct kq_conn *conn, bool *known, bool condition, enum kq_tally why)
{
    if (condition && !*known)
        kq_tally(conn->shard->telemetry, why, 1);
    *known = condition;
}

static void note_limits(struct kq_conn *conn)
{
    const struct kq_server_options *options = options_of(conn);
    note_held(conn, &conn->is_full, conn->in_flight >= options->max_in_flight, KQ_TALLY_IN_FLIGHT);
    note_held(conn, &conn->is_stuffed,
              kq_sendq_left(&conn->sendq) > (uint64_t)options->max_send_bytes, KQ_TALLY_UNSENT);
}

static bool can_go_on(const struct kq_conn *conn)
{
    return (has_frames(conn) && kq_conn_may_take(conn)) || kq_conn_may_run(conn) ||
           (conn->readable && kq_conn_may_receive(conn) && !conn->is_crowded);
}

static void end_if_done(struct kq_conn *conn)
{
    bool done = TAILQ_EMPTY(&conn->requests) && !has_frames(conn) && !kq_sendq_left(&conn->sendq);
    if (conn->end == KQ_CONN_DRAINING && done) {
        kq_transport_shutdown(&conn->transport);
        kq_conn_close(conn, conn->shard->stopping ? KQ_TALLY_BY_STOP : KQ_TALLY_BY_PEER);
    }
    if (conn->end == KQ_CONN_FLUSHING && !kq_sendq_left(&conn->sendq))
        kq_conn_close(conn, conn->why);
    if (conn->end == KQ_CONN_CLOSED && TAILQ_EMPTY(&conn->requests))
        free_soon(conn);
}

static void step(struct kq_task *task)
{
    struct kq_conn *conn = (struct kq_conn *)((char *)task - offsetof(struct kq_conn, task));
    if (has_frames(conn) && kq_conn_may_take(conn))
        kq_conn_resume(conn);
    if (conn->readable && kq_conn_may_receive(conn) && kq_crowd_may_receive(conn))
        kq_conn_receive(conn);
    kq_conn_run(conn);
    kq_conn_write(conn);
    if (conn->transport.ending)
        kq_conn_drain(conn);
    note_limits(conn);
    if (can_go_on(conn))
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
        kq_conn_close(conn, KQ_TALLY_BY_PEER);
        return;
    }
    /* Behind the end of a unix socket (EPOLLHUP) there may still be bytes to read. */
    if (events & (EPOLLRDHUP | EPOLLHUP))
        conn->hung_up = true;
    uint32_t over = EPOLLRDHUP | EPOLLHUP;
    if (events & (kq_transport_wants(&conn->transport, false) | over))
        conn->readable = true;
    if (events & (kq_transport_wants(&conn->transport, true) | EPOLLHUP))
        conn->writable = true;
    kq_conn_kick(conn);
}

/* --- Deadlines --- */

static int64_t idle_at(const struct kq_conn *conn)
{
    return conn->active_ns + options_of(conn)->idle_ms * NS_PER_MS;
}

static int64_t frame_due_at(const struct kq_conn *conn)
{
    return conn->frame_ns ? conn->frame_ns + options_of(conn)->request_ms * NS_PER_MS : INT64_MAX;
}

/* A timer that rings too early is cheaper than one that is moved with each request. */
void kq_conn_watch_deadline(struct kq_conn *conn)
{
    int64_t at = kq_min64(idle_at(conn), frame_due_at(conn));
    at = kq_min64(at, kq_sasl_due_ns(conn->sasl));
    if (conn->muted_until_ns > conn->shard->loop->now_ns)
        at = kq_min64(at, conn->muted_until_ns);
    if (conn->end == KQ_CONN_OPEN && (!conn->timer.set || conn->timer.at_ns > at))
        kq_loop_set_timer(conn->shard->loop, &conn->timer, at);
}

void kq_conn_mute(struct kq_conn *conn, int32_t throttle_ms)
{
    int64_t until_ns = conn->shard->loop->now_ns + throttle_ms * NS_PER_MS;
    conn->muted_until_ns = kq_max64(conn->muted_until_ns, until_ns);
    /* The rest of a frame cannot come before it is read. */
    if (conn->frame_ns)
        conn->frame_ns = kq_max64(conn->frame_ns, conn->muted_until_ns);
    kq_tally(conn->shard->telemetry, KQ_TALLY_MUTED, 1);
    kq_conn_watch_deadline(conn);
}

static void expire(struct kq_timer *timer)
{
    struct kq_conn *conn = (struct kq_conn *)((char *)timer - offsetof(struct kq_conn, timer));
    int64_t now = conn->shard->loop->now_ns;
    /* It is the broker that lets the client wait, and not the client that does not read. */
    bool awaited = !TAILQ_EMPTY(&conn->requests) && !kq_sendq_left(&conn->sendq);
    if (awaited && now >= idle_at(conn))
        conn->active_ns = now;
    if (conn->frame_ns && kq_conn_is_ahead(conn))
        conn->frame_ns = now;
    if (conn->end == KQ_CONN_DRAINING || conn->end == KQ_CONN_FLUSHING) {
        kq_conn_close(conn, KQ_TALLY_UNDRAINED);
    } else if (now >= frame_due_at(conn)) {
        kq_conn_close(conn, KQ_TALLY_SLOW);
    } else if (now >= kq_sasl_due_ns(conn->sasl)) {
        kq_conn_close(conn, KQ_TALLY_LOGIN_SLOW);
    } else if (now >= idle_at(conn)) {
        kq_conn_close(conn, KQ_TALLY_IDLE);
    } else {
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
        kq_conn_close(conn, r < 0 ? KQ_TALLY_NO_MEMORY : KQ_TALLY_BY_STOP);
        return;
    }
    kq_conn_watch_deadline(conn);
}

int kq_conn_start_consume(const struct kq_arrived *arrived)
{
    static _Atomic uint64_t last_number;
    struct kq_conn *conn = kq_zalloc(sizeof(*conn));
    if (!conn)
        return -ENOMEM;
    int r = kq_sasl_new(arrived->shard->server, arrived->listener, kq_clock_mono_ns(), &conn->sasl);
    if (r < 0) {
        free(conn);
        return r;
    }
    conn->transport = arrived->transport;
    kq_sendq_init(&conn->sendq);
    TAILQ_INIT(&conn->requests);
    conn->shard = arrived->shard;
    conn->listener = arrived->listener;
    conn->peer = arrived->peer;
    conn->identity = arrived->identity;
    conn->principal = arrived->principal;
    conn->admitted = arrived->admitted;
    conn->number = atomic_fetch_add(&last_number, 1) + 1;
    conn->watch.ready = ready;
    conn->task.run = step;
    conn->timer.expire = expire;
    conn->mail.deliver = begin;
    conn->writable = true;
    kq_loop_post(conn->shard->loop, &conn->mail);
    return 0;
}

/* --- What handlers ask --- */

int kq_conn_advertised(struct kq_conn *conn, struct kq_arena *arena, struct kq_str *ret_host,
                       int32_t *ret_port)
{
    struct kq_host_port own = conn->listener->address.advertised;
    struct sockaddr_storage local;
    socklen_t length = sizeof(local);
    if (!own.host[0] && conn->listener->address.is_unix)
        /* Who dials a unix socket has a way of its own to it, and needs any name at all. */
        own = (struct kq_host_port){.host = "localhost", .port = 9092};
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

int kq_conn_host(struct kq_conn *conn, struct kq_arena *arena, struct kq_str *ret)
{
    struct kq_host_port peer = {.host = "unix"};
    struct sockaddr_storage address;
    socklen_t length = sizeof(address);
    if (!conn->listener->address.is_unix &&
        (getpeername(conn->transport.fd, (struct sockaddr *)&address, &length) < 0 ||
         !kq_address_format(&address, &peer)))
        return -ENOTCONN;
    size_t bytes = strlen(peer.host);
    char *host = kq_arena_alloc(arena, bytes + 2);
    if (!host)
        return -ENOMEM;
    host[0] = '/';
    memcpy(host + 1, peer.host, bytes + 1);
    *ret = kq_str_of(host);
    return 0;
}

const char *kq_conn_listener_name(const struct kq_conn *conn)
{
    return conn->listener->name;
}

const struct kq_identity *kq_conn_identity(struct kq_conn *conn)
{
    if (conn->principal && !kq_principal_is(conn->principal, conn->identity)) {
        kq_identity_unref(conn->identity);
        conn->identity = kq_principal_identity(conn->principal);
    }
    return conn->identity;
}
