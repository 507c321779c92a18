/* A connection over a transport that takes and gives as the input says: frames split and merged,
 * writes cut short, requests that are answered now, later, elsewhere or never, and ends of all
 * kinds.
 *
 * The input is a list of steps: a byte that says what, one that says how much, and for what
 * arrives, so many bytes. Responses must leave in the order of the requests, and nothing may be
 * left. */
#include <sys/epoll.h>
#include <sys/eventfd.h>

#include "broker/base/clock.h"
#include "broker/base/diag.h"
#include "broker/base/endian.h"
#include "net/admit.h"
#include "net/internal.h"
#include "net/listener.h"
#include "net/message.h"
#include "tests/fuzz/fuzz.h"

#define KEYS 128
#define IN_FLIGHT 8
#define ANSWERS 4096
#define LARGEST 20000

static struct kq_api rows[KEYS];
static size_t row_count;

/* --- What the handlers do: the correlation id says --- */

static struct kq_request *waiting[IN_FLIGHT + 1];
static size_t waiting_count;
static int32_t expected[ANSWERS]; /* correlation ids of the responses that are due */
static size_t expected_count;

static void answer(size_t index)
{
    struct kq_request *request = waiting[index];
    waiting[index] = waiting[--waiting_count];
    kq_request_done(request);
}

static void cancel(struct kq_request *request)
{
    for (size_t i = 0; i < waiting_count; i++)
        if (waiting[i] == request) {
            answer(i);
            return;
        }
    MUST(!"cancelled what does not wait");
}

static enum kq_handled answer_now(struct kq_request *request)
{
    return KQ_HANDLED_NOW;
}

static void release(struct kq_request *request)
{
    MUST(request->state == request);
    request->state = NULL;
}

static enum kq_handled handle(struct kq_request *request)
{
    static const enum kq_handled results[] = {KQ_HANDLED_NOW,    KQ_HANDLED_NOW,
                                              KQ_HANDLED_SILENT, KQ_HANDLED_LATER,
                                              KQ_HANDLED_PARKED, KQ_HANDLED_CLOSE};
    size_t what = (uint32_t)request->correlation_id % 8;
    request->state = request;
    request->release = release;
    if (what != 2 && what != 5 && expected_count < ANSWERS)
        expected[expected_count++] = request->correlation_id;
    if (what == 6) { /* posted twice: once is enough */
        kq_request_post(request, answer_now);
        kq_request_post(request, answer_now);
        return KQ_HANDLED_LATER;
    }
    if (what == 7) {
        request->throttle_ms = 1;
        return KQ_HANDLED_NOW;
    }
    if (results[what] == KQ_HANDLED_LATER || results[what] == KQ_HANDLED_PARKED) {
        MUST(waiting_count < kq_array_size(waiting));
        waiting[waiting_count++] = request;
        request->cancel = cancel;
    }
    return results[what];
}

const struct kq_api *kq_api_row(size_t index)
{
    return index < row_count ? &rows[index] : NULL;
}

const struct kq_api *kq_api_find(int16_t key)
{
    for (size_t i = 0; i < row_count; i++)
        if (rows[i].key == key)
            return &rows[i];
    return NULL;
}

static void make_rows(void)
{
    for (size_t i = 0; i < kq_message_count; i++) {
        const struct kq_message *message = &kq_messages[i];
        rows[row_count] = (struct kq_api){.key = message->key,
                                          .lowest = message->lowest,
                                          .highest = message->highest,
                                          .refused_below = message->lowest,
                                          .handle = handle,
                                          .message = message,
                                          .index = (uint16_t)row_count};
        row_count++;
    }
}

/* --- The transport --- */

struct pipe {
    struct fuzz_input arriving;
    bool ended, broken;
    size_t room; /* for what is written */
    uint8_t out[1 << 20];
    size_t out_length;
};

static struct pipe pipe_;

static ssize_t pipe_read(struct kq_transport *transport, void *bytes, size_t length)
{
    size_t left = (size_t)(pipe_.arriving.end - pipe_.arriving.at);
    MUST(length > 0);
    if (pipe_.broken)
        return -ECONNRESET;
    if (left == 0)
        return pipe_.ended ? 0 : -EAGAIN;
    length = length < left ? length : left;
    memcpy(bytes, pipe_.arriving.at, length);
    pipe_.arriving.at += length;
    return (ssize_t)length;
}

static ssize_t pipe_writev(struct kq_transport *transport, const struct iovec *parts, int count,
                           bool more)
{
    size_t done = 0;
    if (pipe_.broken)
        return -EPIPE;
    for (int i = 0; i < count && pipe_.room > 0; i++) {
        size_t part = parts[i].iov_len < pipe_.room ? parts[i].iov_len : pipe_.room;
        MUST(parts[i].iov_len > 0);
        if (part > sizeof(pipe_.out) - pipe_.out_length)
            part = sizeof(pipe_.out) - pipe_.out_length;
        memcpy(pipe_.out + pipe_.out_length, parts[i].iov_base, part);
        pipe_.out_length += part;
        pipe_.room -= part;
        done += part;
        if (part < parts[i].iov_len)
            break;
    }
    return done ? (ssize_t)done : -EAGAIN;
}

static void pipe_shutdown(struct kq_transport *transport)
{
}

static unsigned pipe_wants(const struct kq_transport *transport, bool writing)
{
    return writing ? EPOLLOUT : EPOLLIN;
}

static void pipe_close(struct kq_transport *transport)
{
    close(transport->fd);
}

static const struct kq_transport_class pipe_class = {
    .read = pipe_read,
    .writev = pipe_writev,
    .shutdown = pipe_shutdown,
    .wants = pipe_wants,
    .close = pipe_close,
};

/* --- The server, without threads --- */

static struct kq_server *server;
static struct kq_listener listener = {.address = {.is_unix = true}, .name = "fuzz", .fd = -1};

static void make_server(void)
{
    const struct kq_server_options options = {
        .listen = "",
        .plaintext_user = "",
        .threads = 1,
        .max_request_bytes = LARGEST,
        .max_request_memory = 65536,
        .max_queued_bytes = 2 * LARGEST,
        .max_send_bytes = 1000,
        .max_in_flight = IN_FLIGHT,
        .max_connections = 10,
        .max_connections_per_ip = 10,
        .idle_ms = 1000000,
        .request_ms = 1000000,
        .drain_ms = 1000000,
    };
    make_rows();
    kq_diag_set_level(LOG_EMERG);
    MUST(kq_server_new(&options, &server) == 0);
}

static struct kq_conn *connect_pipe(void)
{
    struct sockaddr_storage nobody = {0};
    struct kq_arrived arrived = {.shard = &server->shards[0],
                                 .listener = &listener,
                                 .transport = {.class = &pipe_class, .fd = eventfd(0, 0)}};
    MUST(kq_admit_enter(server->admit, &nobody, &arrived.admitted) == KQ_ADMIT_YES);
    MUST(kq_identity_anonymous(&arrived.identity) == 0);
    atomic_fetch_add(&server->shards[0].conn_count, 1);
    MUST(kq_conn_start_consume(&arrived) == 0);
    kq_loop_turn(server->shards[0].loop);
    return LIST_FIRST(&server->shards[0].conns);
}

/* Is it still there, and not closed? */
static bool is_open(void)
{
    const struct kq_conn *conn = LIST_FIRST(&server->shards[0].conns);
    return conn && conn->end != KQ_CONN_CLOSED;
}

static void turn(uint32_t events)
{
    struct kq_conn *conn = LIST_FIRST(&server->shards[0].conns);
    if (is_open() && events)
        conn->watch.ready(&conn->watch, events);
    struct kq_loop *loop = server->shards[0].loop;
    int turns = 0;
    do
        kq_loop_turn(loop);
    while ((!TAILQ_EMPTY(&loop->tasks) || atomic_load(&loop->mail)) && turns++ < 1000);
    MUST(turns < 1000);
    conn = LIST_FIRST(&server->shards[0].conns);
    MUST(!conn || conn->in_flight <= IN_FLIGHT);
    MUST(atomic_load(&server->queued_bytes) <= 20 * LARGEST);
}

static void step(struct fuzz_input *input)
{
    uint8_t what = fuzz_byte(input), amount = fuzz_byte(input);
    size_t length = (size_t)amount * (what & 16 ? 64 : 1);
    size_t left = (size_t)(input->end - input->at);
    switch (what % 8) {
    case 0: /* bytes arrive */
    case 1:
    case 2:
        length = length < left ? length : left;
        pipe_.arriving = (struct fuzz_input){input->at, input->at + length};
        input->at += length;
        turn(EPOLLIN);
        break;
    case 3: /* there is room to write */
        pipe_.room = length;
        turn(EPOLLOUT);
        break;
    case 4: /* one that waits is answered */
        if (waiting_count)
            answer(amount % waiting_count);
        turn(0);
        break;
    case 5: /* time goes by */
        kq_clock_shift_ms(amount);
        turn(0);
        break;
    case 6:
        if (amount < 32) {
            pipe_.ended = true;
            turn(EPOLLIN | EPOLLRDHUP);
        }
        break;
    default:
        if (amount < 16) {
            pipe_.broken = true;
            turn(EPOLLERR);
        }
    }
}

static void check_output(void)
{
    size_t at = 0, next = 0;
    while (pipe_.out_length - at >= 8) {
        size_t size = kq_load_be32(pipe_.out + at);
        MUST(next < expected_count);
        MUST((int32_t)kq_load_be32(pipe_.out + at + 4) == expected[next]);
        next++;
        if (size > pipe_.out_length - at - 4)
            break;
        at += 4 + size;
    }
}

static void end(void)
{
    if (is_open())
        turn(EPOLLERR);
    while (waiting_count)
        answer(0);
    turn(0);
    MUST(LIST_EMPTY(&server->shards[0].conns));
    MUST(atomic_load(&server->queued_bytes) == 0);
    MUST(kq_admit_count(server->admit) == 0);
    MUST(TAILQ_EMPTY(&server->shards[0].crowded) && !server->shards[0].favoured);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
    struct fuzz_input input = {bytes, bytes + length};
    if (!server)
        make_server();
    pipe_.arriving = (struct fuzz_input){NULL, NULL};
    pipe_.ended = pipe_.broken = false;
    pipe_.room = sizeof(pipe_.out);
    pipe_.out_length = 0;
    expected_count = waiting_count = 0;
    kq_clock_shift_ms(0);
    connect_pipe();
    while (input.at < input.end && is_open() && expected_count < ANSWERS)
        step(&input);
    if (expected_count < ANSWERS)
        check_output();
    end();
    return 0;
}
