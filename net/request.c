#include "net/request.h"

#include <stddef.h>
#include <string.h>

#include "broker/base/clock.h"
#include "broker/base/mem.h"
#include "net/auditwalk.h"
#include "net/internal.h"
#include "net/message.h"
#include "net/message/sasl_authenticate.h"
#include "net/sasl.h"
#include "net/throttle.h"
#include "net/wire.h"

/* A request takes part in four things at once that other threads bring about: what was posted for
 * it, its end, the return of what was offloaded, and the end of its connection. All of them reach
 * the loop as one piece of mail; only the loop acts on them. */
enum news {
    ON_ITS_WAY = 1 << 0, /* MAIL is in the loop's mailbox */
    POSTED = 1 << 1,
    DONE = 1 << 2,
    RETURNED = 1 << 3,
};

enum stage {
    WAITING,
    RUNNING, /* LATER */
    PARKED,
    COMPLETE,
};

#define STARTS_AT_ONCE 64

/* --- Coming and going --- */

/* The client id, NUL-terminated in place: the length in front of it is no longer wanted. */
static const char *terminate(uint8_t *bytes, struct kq_str string)
{
    if (string.length <= 0 || !string.data)
        return "";
    char *at = (char *)bytes + (string.data - (char *)bytes) - 2;
    memmove(at, string.data, (size_t)string.length);
    at[string.length] = '\0';
    return at;
}

static bool speaks(const struct kq_api *api, int16_t version)
{
    /* A version of ApiVersions that nobody knows gets an answer (KIP-511). */
    return api->key == KQ_WIRE_API_VERSIONS ||
           (version >= api->refused_below && version <= api->highest);
}

static int read_header(const uint8_t *bytes, uint32_t size, struct kq_wire_header *ret,
                       const uint8_t **ret_body)
{
    struct kq_wire_reader reader;
    kq_wire_reader_init(&reader, bytes, size, NULL);
    int r = kq_wire_header_read(&reader, ret);
    if (r < 0)
        return r;
    const struct kq_api *api = kq_api_find(ret->key);
    if (!api || !ret->message || !speaks(api, ret->version))
        return -EPROTONOSUPPORT;
    *ret_body = reader.at;
    return 0;
}

/* A frame that is a token stands for a request of SaslAuthenticate. */
static int read_frame(const struct kq_conn *conn, const uint8_t *bytes, uint32_t size,
                      struct kq_wire_header *ret, const uint8_t **ret_body)
{
    if (!kq_sasl_takes_tokens(conn->sasl))
        return read_header(bytes, size, ret, ret_body);
    *ret = (struct kq_wire_header){.key = KQ_WIRE_SASL_AUTHENTICATE};
    *ret_body = bytes;
    return 0;
}

int kq_request_new(struct kq_conn *conn, const uint8_t *bytes, uint32_t size, void *memory,
                   struct kq_request **ret)
{
    struct kq_wire_header header;
    const uint8_t *body;
    int r = read_frame(conn, bytes, size, &header, &body);
    if (r < 0)
        return r;
    struct kq_request *request = kq_alloc(sizeof(*request) + (memory ? 0 : size));
    if (!request)
        return -ENOMEM;
    uint8_t *own = memory ? (uint8_t *)bytes : (uint8_t *)(request + 1);
    if (!memory)
        memcpy(own, bytes, size);
    if (header.client_id.data)
        header.client_id.data = (const char *)own + (header.client_id.data - (const char *)bytes);
    *request = (struct kq_request){
        .api = kq_api_find(header.key),
        .version = header.version,
        .correlation_id = header.correlation_id,
        .client_id = terminate(own, header.client_id),
        .received_ns = conn->shard->loop->now_ns,
        .size = (size_t)size + 4,
        .bytes = own,
        .body_at = own + (body - bytes),
        .broker = conn->shard->server->broker,
        .server = conn->shard->server,
        .conn = conn,
        .memory = memory,
        .is_token = kq_sasl_takes_tokens(conn->sasl),
    };
    kq_arena_init(&request->arena, (size_t)request->server->options.max_request_memory);
    kq_server_queue(request->server, request->size);
    kq_telemetry_start(request);
    *ret = request;
    return 0;
}

void kq_request_free(struct kq_request *request)
{
    if (request->release)
        request->release(request);
    kq_arena_release(&request->arena);
    kq_server_unqueue(request->server, request->size);
    kq_identity_unref(request->identity);
    kq_spares_give(&request->conn->shard->spares, request->memory);
    free(request);
}

/* --- News from other threads --- */

static void tell(struct kq_request *request, unsigned news)
{
    unsigned before =
        atomic_fetch_or_explicit(&request->news, news | ON_ITS_WAY, memory_order_acq_rel);
    if (!(before & ON_ITS_WAY))
        kq_loop_post(request->conn->shard->loop, &request->mail);
}

void kq_request_finish(struct kq_request *request, enum kq_handled result)
{
    request->result = result;
    tell(request, DONE);
}

void kq_request_done(struct kq_request *request)
{
    kq_request_finish(request, KQ_HANDLED_NOW);
}

void kq_request_post(struct kq_request *request, kq_handle_fn run)
{
    atomic_store_explicit(&request->posted, run, memory_order_relaxed);
    tell(request, POSTED);
}

/* REQUEST is there afterwards, whatever RUN has told others: it goes on the loop, by mail. */
static enum kq_handled call(struct kq_request *request, kq_handle_fn run)
{
    int64_t began_ns = kq_throttle_clock(request);
    enum kq_handled result = run(request);
    kq_throttle_spent(request, began_ns);
    return result;
}

/* It is asked for by who its client is now. On the loop, while no other thread has it. */
static void identify(struct kq_request *request)
{
    const struct kq_identity *identity = kq_conn_identity(request->conn);
    if (identity == request->identity)
        return;
    if (request->identity)
        request->identity_changes++;
    kq_identity_unref(request->identity);
    request->identity = kq_identity_ref(identity);
    request->caller = (struct kq_caller){.uid = identity->uid,
                                         .gid = identity->gid,
                                         .groups = identity->groups,
                                         .group_count = identity->group_count,
                                         .identity = identity->number,
                                         .principal = identity->principal,
                                         .client_id = request->client_id};
}

static void run_offloaded(struct kq_job *job)
{
    struct kq_request *request =
        (struct kq_request *)((char *)job - offsetof(struct kq_request, job));
    request->job_result = call(request, request->offloaded);
    tell(request, RETURNED);
}

enum kq_handled kq_request_offload(struct kq_request *request, kq_handle_fn run)
{
    request->offloaded = run;
    request->job.run = run_offloaded;
    kq_pool_submit(request->server->workers, &request->job);
    return KQ_HANDLED_LATER;
}

void kq_request_set_timer(struct kq_request *request, struct kq_timer *timer, int64_t at_ns)
{
    kq_loop_set_timer(request->conn->shard->loop, timer, at_ns);
}

void kq_request_cancel_timer(struct kq_request *request, struct kq_timer *timer)
{
    kq_loop_cancel_timer(request->conn->shard->loop, timer);
}

/* --- On the loop --- */

static void complete(struct kq_request *request)
{
    struct kq_conn *conn = request->conn;
    request->stage = COMPLETE;
    if (conn->running == request)
        conn->running = NULL;
    kq_conn_kick(conn);
}

/* What a handler has answered, on the loop. */
static void take_result(struct kq_request *request, enum kq_handled result)
{
    if (result == KQ_HANDLED_LATER)
        return;
    if (result == KQ_HANDLED_PARKED) {
        request->stage = PARKED;
        if (request->conn->running == request)
            request->conn->running = NULL;
        kq_conn_kick(request->conn);
        return;
    }
    request->result = result;
    /* Mail about it that is still to come has to find it alive. */
    unsigned before = atomic_fetch_or_explicit(&request->news, DONE, memory_order_acq_rel);
    if (!(before & ON_ITS_WAY))
        complete(request);
}

static void cancel(struct kq_request *request)
{
    bool out = request->stage == RUNNING || request->stage == PARKED;
    if (!out || request->cancelled || request->offloaded)
        return;
    request->cancelled = true;
    if (request->cancel)
        request->cancel(request);
}

static void take_return(struct kq_request *request)
{
    request->told &= ~(unsigned)RETURNED;
    request->offloaded = NULL;
    enum kq_handled result = request->job_result;
    if (result == KQ_HANDLED_LATER || result == KQ_HANDLED_PARKED) {
        take_result(request, result);
    } else {
        request->result = result;
        request->told |= DONE;
    }
}

static void deliver(struct kq_mail *mail)
{
    struct kq_request *request =
        (struct kq_request *)((char *)mail - offsetof(struct kq_request, mail));
    request->told |=
        atomic_exchange_explicit(&request->news, 0, memory_order_acq_rel) & ~(unsigned)ON_ITS_WAY;
    if (request->told & RETURNED)
        take_return(request);
    if (request->offloaded)
        return;
    if (request->told & DONE) {
        complete(request);
        return;
    }
    if (request->told & POSTED) {
        request->told &= ~(unsigned)POSTED;
        if (request->stage == PARKED)
            identify(request);
        take_result(request,
                    call(request, atomic_load_explicit(&request->posted, memory_order_relaxed)));
    } else if (request->conn->end == KQ_CONN_CLOSED) {
        cancel(request);
    }
}

/* 0; -EBADMSG; -E2BIG; -ENOMEM. */
static int parse(struct kq_request *request)
{
    const struct kq_message *message = request->api->message;
    request->body = kq_arena_alloc(&request->arena, kq_message_request_size(message));
    request->response = kq_arena_alloc(&request->arena, kq_message_response_size(message));
    if (!request->body || !request->response)
        return -ENOMEM;
    kq_message_init_request(message, request->body);
    kq_message_init_response(message, request->response);
    if (request->version < request->api->lowest || request->version > request->api->highest)
        return 0;
    if (request->is_token) {
        ((struct kq_sasl_authenticate_request *)request->body)->auth_bytes =
            (struct kq_bytes){request->bytes, (int32_t)(request->size - 4)};
        return 0;
    }
    struct kq_wire_reader reader;
    size_t size = request->size - 4 - (size_t)(request->body_at - request->bytes);
    kq_wire_reader_init(&reader, request->body_at, size, &request->arena);
    return kq_message_read_request(message, &reader, request->version, request->body);
}

/* 0, or why the connection is to be closed. */
static int prepare(struct kq_conn *conn, struct kq_request *request)
{
    int why;
    if (!kq_sasl_admits(conn->sasl, request->api, conn->shard->loop->now_ns, &why)) {
        kq_audit_turned_away(request, why == KQ_TALLY_EXPIRED ? "the session has ended"
                                                              : "not before the login");
        return why;
    }
    int r = parse(request);
    return r == 0         ? 0
           : r == -E2BIG  ? KQ_TALLY_GREEDY
           : r == -ENOMEM ? KQ_TALLY_NO_MEMORY
                          : KQ_TALLY_MALFORMED;
}

static void start(struct kq_conn *conn)
{
    struct kq_request *request = conn->next;
    conn->next = TAILQ_NEXT(request, queue);
    conn->waiting_bytes -= request->size;
    conn->running = request;
    request->stage = RUNNING;
    request->mail.deliver = deliver;
    identify(request);
    int why = prepare(conn, request);
    if (why)
        kq_conn_close(conn, (enum kq_tally)why);
    if (why)
        take_result(request, KQ_HANDLED_CLOSE);
    else if (request->api->flags & KQ_API_HEAVY)
        kq_request_offload(request, request->api->handle);
    else
        take_result(request, call(request, request->api->handle));
}

/* The first request is complete. */
static void retire(struct kq_conn *conn)
{
    struct kq_request *request = TAILQ_FIRST(&conn->requests);
    uint64_t bytes = 0;
    int r = 0, why;
    TAILQ_REMOVE(&conn->requests, request, queue);
    conn->in_flight--;
    bool heard = conn->end == KQ_CONN_OPEN || conn->end == KQ_CONN_DRAINING;
    if (heard && request->result != KQ_HANDLED_CLOSE)
        kq_throttle(request);
    if (heard && request->result == KQ_HANDLED_NOW)
        r = kq_conn_respond(conn, request, &bytes);
    /* KIP-219: the client learns of it at once, and is not heard for so long. */
    if (heard && r == 0 && request->throttle_ms > 0)
        kq_conn_mute(conn, request->throttle_ms);
    kq_telemetry_end(conn->shard->telemetry, request, bytes);
    if (r < 0)
        kq_conn_close(conn, r == -ENOMEM ? KQ_TALLY_NO_MEMORY : KQ_TALLY_REFUSED);
    else if (heard && kq_sasl_settle(conn, request, &why))
        kq_conn_close_later(conn, (enum kq_tally)why);
    else if (heard && request->result == KQ_HANDLED_CLOSE)
        kq_conn_close_later(conn, KQ_TALLY_REFUSED);
    kq_request_free(request);
}

static void retire_all(struct kq_conn *conn)
{
    struct kq_request *request;
    /* The analyzer does not see what TAILQ_REMOVE does to the first one. */
    while ((request = TAILQ_FIRST(&conn->requests)) &&
           request->stage == COMPLETE) /* NOLINT(clang-analyzer-unix.Malloc) */
        retire(conn);
}

bool kq_conn_may_run(const struct kq_conn *conn)
{
    return conn->next && !conn->running && !kq_sasl_is_settling(conn->sasl) &&
           kq_sendq_left(&conn->sendq) <= (uint64_t)conn->shard->server->options.max_send_bytes &&
           conn->muted_until_ns <= conn->shard->loop->now_ns;
}

void kq_conn_run(struct kq_conn *conn)
{
    retire_all(conn);
    for (int i = 0; i < STARTS_AT_ONCE && kq_conn_may_run(conn); i++) {
        start(conn);
        retire_all(conn);
    }
}

void kq_conn_cancel_requests(struct kq_conn *conn)
{
    struct kq_request *request = conn->next, *after;
    conn->next = NULL;
    conn->waiting_bytes = 0;
    for (; request; request = after) {
        after = TAILQ_NEXT(request, queue);
        TAILQ_REMOVE(&conn->requests, request, queue);
        conn->in_flight--;
        kq_request_free(request);
    }
    TAILQ_FOREACH (request, &conn->requests, queue)
        cancel(request);
}
