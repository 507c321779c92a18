/* A connection of a listener that asks for a login, driven by one who means harm: handshakes of
 * both versions, tokens with and without a header, other requests in between, all of it split,
 * merged and late. Nothing but what may be is answered before a proof was taken, nothing at all
 * behind one that was refused, and nobody becomes another one by proving anew.
 *
 * The input is steps: a byte that says what, one that says how much, and for what carries bytes, so
 * many. Steps that bring bytes add to what arrives with the next one that delivers. */
#include <sys/epoll.h>
#include <sys/eventfd.h>

#include "auth/principals.h"
#include "auth/scram.h"
#include "broker/base/clock.h"
#include "broker/base/diag.h"
#include "broker/base/endian.h"
#include "broker/base/mem.h"
#include "broker/base/pool.h"
#include "net/admit.h"
#include "net/internal.h"
#include "net/listener.h"
#include "net/message.h"
#include "net/sasl.h"
#include "tests/fuzz/fuzz.h"

#define FRAME_MOST 3000

/* --- Work that may block is done at once --- */

int kq_pool_new(const char *name, unsigned max_threads, struct kq_pool **ret)
{
    return -ENOTSUP;
}

void kq_pool_submit(struct kq_pool *pool, struct kq_job *job)
{
    job->run(job);
}

void kq_pool_free(struct kq_pool *pool)
{
}

/* --- Mechanisms --- */

static int exchanges;    /* that have not ended */
static char proved[8];   /* the first name that was proved; "": none */
static bool was_refused; /* by a mechanism */

/* One that does as its token says: the first byte what, the second who. */
struct kq_sasl_exchange {
    char name[8];
};

static int puppet_begin(void *context, struct kq_sasl_exchange **ret)
{
    exchanges++;
    *ret = kq_zalloc(sizeof(**ret));
    return *ret ? 0 : -ENOMEM;
}

static int puppet_step(struct kq_sasl_exchange *exchange, const uint8_t *token, size_t length,
                       struct kq_buf *ret_token, struct kq_sasl_outcome *ret)
{
    uint8_t what = length > 0 ? token[0] : 0;
    *ret = (struct kq_sasl_outcome){.complaint = "no", .reason = "it says so"};
    snprintf(exchange->name, sizeof(exchange->name), "user%d", length > 1 ? token[1] % 3 : 0);
    ret->name = exchange->name;
    ret->result = what % 4 == 1 ? KQ_SASL_DONE : what % 4 == 2 ? KQ_SASL_FAILED : KQ_SASL_MORE;
    if (what % 4 == 3)
        return -EIO;
    if (ret->result == KQ_SASL_DONE) {
        ret->expires_ms = what & 16 ? kq_clock_wall_ms() + (what >> 5) * 100 - 100 : 0;
        if (!proved[0])
            snprintf(proved, sizeof(proved), "%s", exchange->name);
    }
    was_refused |= ret->result == KQ_SASL_FAILED;
    return what & 8 ? kq_buf_append(ret_token, token, length) : 0;
}

static void puppet_end(struct kq_sasl_exchange *exchange)
{
    exchanges -= exchange ? 1 : 0;
    free(exchange);
}

static int never_begins(void *context, struct kq_sasl_exchange **ret)
{
    MUST(!"a secret would be shown without TLS");
    return -EIO;
}

static const struct kq_sasl_class puppet = {"PUPPET", false, puppet_begin, puppet_step, puppet_end};
static const struct kq_sasl_class shown = {"SHOWN", true, never_begins, puppet_step, puppet_end};

static int find(void *context, const char *name, enum kq_scram_hash hash,
                struct kq_scram_credential *ret)
{
    return -ENOENT;
}

static struct kq_scram_users users = {.find = find, .iterations = 1, .secret = {1}};

static const struct kq_sasl_mechanism mechanisms[] = {
    {&puppet, NULL}, {&shown, NULL}, {&kq_scram_sha_256, &users}, {&kq_plain, &users}};
static const char *const names[] = {"PUPPET", "SHOWN", "SCRAM-SHA-256", "PLAIN", "NONE", ""};

/* --- Requests --- */

static enum kq_handled handle(struct kq_request *request)
{
    MUST(proved[0] && !was_refused);
    MUST(strncmp(request->caller.principal, "User:", 5) == 0);
    MUST(strcmp(request->caller.principal + 5, proved) == 0);
    return KQ_HANDLED_NOW;
}

static struct kq_api rows[] = {
    {3, 0, 1, 0, 0, handle, NULL, 0},
    {17, 0, 1, 0, KQ_API_BEFORE_AUTH, kq_api_sasl_handshake, NULL, 1},
    {18, 0, 4, 0, KQ_API_BEFORE_AUTH, kq_api_versions, NULL, 2},
    {36, 0, 2, 0, KQ_API_BEFORE_AUTH, kq_api_sasl_authenticate, NULL, 3},
};

const struct kq_api *kq_api_row(size_t index)
{
    return index < kq_array_size(rows) ? &rows[index] : NULL;
}

const struct kq_api *kq_api_find(int16_t key)
{
    for (size_t i = 0; i < kq_array_size(rows); i++)
        if (rows[i].key == key)
            return &rows[i];
    return NULL;
}

/* --- The transport: takes what is written, and forgets it --- */

static struct {
    struct kq_buf bytes; /* that have arrived */
    size_t at;
    bool ended;
} line;

static ssize_t line_read(struct kq_transport *transport, void *bytes, size_t length)
{
    size_t left = line.bytes.length - line.at;
    if (left == 0)
        return line.ended ? 0 : -EAGAIN;
    length = length < left ? length : left;
    memcpy(bytes, line.bytes.data + line.at, length);
    line.at += length;
    return (ssize_t)length;
}

static ssize_t line_writev(struct kq_transport *transport, const struct iovec *parts, int count,
                           bool more)
{
    ssize_t done = 0;
    for (int i = 0; i < count; i++)
        done += (ssize_t)parts[i].iov_len;
    return done;
}

static void line_shutdown(struct kq_transport *transport)
{
}

static unsigned line_wants(const struct kq_transport *transport, bool writing)
{
    return writing ? EPOLLOUT : EPOLLIN;
}

static void line_close(struct kq_transport *transport)
{
    close(transport->fd);
}

static const struct kq_transport_class line_class = {
    .read = line_read,
    .writev = line_writev,
    .shutdown = line_shutdown,
    .wants = line_wants,
    .close = line_close,
};

/* --- The server, without threads --- */

static struct kq_server *server;
static struct kq_listener listener = {
    .address = {.is_unix = true, .sasl = true}, .name = "fuzz", .fd = -1};

static void make_server(void)
{
    static const struct kq_principals_options host = {.certificate_rules = "",
                                                      .kerberos_rules = "",
                                                      .kerberos_realm = "",
                                                      .refresh_ms = INT32_MAX,
                                                      .max_entries = 10};
    struct kq_server_options options = {
        .listen = "",
        .plaintext_user = "",
        .threads = 1,
        .max_request_bytes = 20000,
        .max_request_memory = 65536,
        .max_queued_bytes = 40000,
        .max_send_bytes = 1000,
        .max_in_flight = 4,
        .max_connections = 10,
        .max_connections_per_ip = 10,
        .idle_ms = 1000000,
        .request_ms = 1000000,
        .drain_ms = 1000000,
        .mechanisms = mechanisms,
        .mechanism_count = kq_array_size(mechanisms),
        .max_sasl_bytes = FRAME_MOST,
        .sasl_ms = 3000,
        .failed_login_delay_ms = 50,
        .max_reauth_ms = 2000,
    };
    for (size_t i = 0; i < kq_array_size(rows); i++)
        rows[i].message = kq_message_find(rows[i].key);
    kq_diag_set_level(LOG_EMERG);
    MUST(kq_principals_new(&host, &options.principals) == 0);
    MUST(kq_server_new(&options, &server) == 0);
}

static void connect_line(void)
{
    struct sockaddr_storage nobody = {0};
    struct kq_arrived arrived = {.shard = &server->shards[0],
                                 .listener = &listener,
                                 .transport = {.class = &line_class, .fd = eventfd(0, 0)}};
    MUST(kq_admit_enter(server->admit, &nobody, &arrived.admitted) == KQ_ADMIT_YES);
    MUST(kq_identity_anonymous(&arrived.identity) == 0);
    atomic_fetch_add(&server->shards[0].conn_count, 1);
    MUST(kq_conn_start_consume(&arrived) == 0);
    kq_loop_turn(server->shards[0].loop);
}

static struct kq_conn *open_conn(void)
{
    struct kq_conn *conn = LIST_FIRST(&server->shards[0].conns);
    return conn && conn->end != KQ_CONN_CLOSED ? conn : NULL;
}

static void turn(uint32_t events)
{
    struct kq_loop *loop = server->shards[0].loop;
    struct kq_conn *conn = open_conn();
    int turns = 0;
    if (conn && events)
        conn->watch.ready(&conn->watch, events);
    do
        kq_loop_turn(loop);
    while ((!TAILQ_EMPTY(&loop->tasks) || atomic_load(&loop->mail)) && turns++ < 1000);
    MUST(turns < 1000);
    MUST(exchanges <= 1);
    if ((conn = open_conn()))
        MUST(!kq_sasl_is_done(conn->sasl) || proved[0]);
}

/* --- Steps --- */

static int64_t shift_ms; /* of the clock, which never goes back */

static void put(const void *bytes, size_t length)
{
    MUST(kq_buf_append(&line.bytes, bytes, length) == 0);
}

/* SIZE bytes behind a header for KEY follow. */
static void put_head(uint16_t key, uint16_t version, size_t size)
{
    uint8_t head[14];
    kq_store_be32(head, (uint32_t)(10 + size));
    kq_store_be16(head + 4, key);
    kq_store_be16(head + 6, version);
    kq_store_be32(head + 8, 1);
    kq_store_be16(head + 12, 0xffff); /* no client id */
    put(head, sizeof(head));
}

static void put_handshake(uint8_t amount)
{
    const char *name = names[amount / 2 % kq_array_size(names)];
    uint8_t length[2];
    kq_store_be16(length, (uint16_t)strlen(name));
    put_head(17, amount % 2, 2 + strlen(name));
    put(length, 2);
    put(name, strlen(name));
}

static void put_token(uint16_t version, const uint8_t *bytes, size_t length)
{
    uint8_t size[4];
    kq_store_be32(size, (uint32_t)length);
    if (version < 2)
        put_head(36, version, 4 + length);
    put(size, 4);
    put(bytes, length);
}

static void step(struct fuzz_input *input)
{
    uint8_t what = fuzz_byte(input), amount = fuzz_byte(input);
    size_t left = (size_t)(input->end - input->at);
    size_t length = amount < left ? amount : left;
    switch (what % 8) {
    case 0: /* as it is */
        put(input->at, length);
        break;
    case 1:
        put_handshake(amount);
        length = 0;
        break;
    case 2:
    case 3:
    case 4: /* SaslAuthenticate 0 and 1; a bare token */
        put_token(what % 8 - 2, input->at, length);
        break;
    case 5:
        put_head(amount % 2 ? 3 : 18, 0, amount % 2 ? 4 : 0);
        put("\0\0\0", amount % 2 ? 4 : 0);
        length = 0;
        break;
    case 6:
        kq_clock_shift_ms(shift_ms += amount * 16);
        turn(0);
        return;
    default:
        line.ended = amount < 32;
        length = 0;
    }
    input->at += length;
    if (!(what & 32))
        turn(EPOLLIN | (line.ended ? EPOLLRDHUP : 0));
}

static void end(void)
{
    turn(EPOLLIN);
    if (open_conn())
        kq_conn_close(open_conn(), KQ_TALLY_BY_PEER);
    turn(0);
    MUST(LIST_EMPTY(&server->shards[0].conns));
    MUST(exchanges == 0);
    MUST(atomic_load(&server->queued_bytes) == 0);
    MUST(kq_admit_count(server->admit) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
    struct fuzz_input input = {bytes, bytes + length};
    if (!server)
        make_server();
    line.bytes.length = line.at = 0;
    line.ended = was_refused = false;
    proved[0] = '\0';
    connect_line();
    while (input.at < input.end && open_conn())
        step(&input);
    end();
    return 0;
}
