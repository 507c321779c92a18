#include "net/acceptor.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stddef.h>
#include <string.h>
#include <sys/socket.h>

#include "auth/principals.h"
#include "broker/base/clock.h"
#include "broker/base/diag.h"
#include "broker/base/mem.h"
#include "net/admit.h"
#include "net/identify.h"
#include "net/internal.h"
#include "net/listener.h"
#include "net/tcp.h"
#include "net/tlshandshake.h"

#define NS_PER_S INT64_C(1000000000)
#define NS_PER_MS INT64_C(1000000)
#define RETRY_NS (100 * NS_PER_MS)
#define SAY_EACH_MS 10000
#define REFUSED_AT_ONCE 64

struct kq_acceptor {
    struct kq_server *server;
    int reserve; /* closed to take, and close, a connection for which there is no descriptor */
    unsigned next_shard;
    int64_t second_ns; /* when the present second began */
    unsigned in_second;
};

/* A connection whose user is looked up. */
struct arrival {
    struct kq_job job;
    struct kq_server *server;
    struct kq_arrived arrived;
};

int kq_acceptor_new(struct kq_server *server, struct kq_acceptor **ret)
{
    struct kq_acceptor *acceptor = kq_zalloc(sizeof(*acceptor));
    if (!acceptor)
        return -ENOMEM;
    acceptor->server = server;
    acceptor->reserve = open("/dev/null", O_RDONLY | O_CLOEXEC);
    if (acceptor->reserve < 0) {
        free(acceptor);
        return -errno;
    }
    *ret = acceptor;
    return 0;
}

void kq_acceptor_free(struct kq_acceptor *acceptor)
{
    if (!acceptor)
        return;
    if (acceptor->reserve >= 0)
        close(acceptor->reserve);
    free(acceptor);
}

static struct kq_telemetry *telemetry(struct kq_acceptor *acceptor)
{
    return acceptor->server->shards[0].telemetry; /* of the loop that accepts */
}

/* --- When it cannot be taken --- */

/* A client that is closed at once knows where it stands; one in the queue waits for nothing. */
static void use_reserve(struct kq_acceptor *acceptor, struct kq_listener *listener)
{
    int fd;
    if (acceptor->reserve >= 0)
        close(acceptor->reserve);
    for (int i = 0; i < REFUSED_AT_ONCE; i++) {
        fd = accept4(listener->fd, NULL, NULL, SOCK_CLOEXEC);
        if (fd < 0)
            break;
        close(fd);
        kq_tally(telemetry(acceptor), KQ_TALLY_LIMIT_FILES, 1);
    }
    acceptor->reserve = open("/dev/null", O_RDONLY | O_CLOEXEC);
}

static void take_failure(struct kq_acceptor *acceptor, struct kq_listener *listener, int error)
{
    if (error == EMFILE || error == ENFILE) {
        use_reserve(acceptor, listener);
        kq_diag_limited(SAY_EACH_MS, LOG_WARNING,
                        "no descriptor is left for a connection: %s; raise LimitNOFILE or ulimit "
                        "-n, or lower max.connections",
                        strerror(error));
    } else {
        kq_diag_limited(SAY_EACH_MS, LOG_WARNING, "%s: cannot accept a connection: %s",
                        listener->name, strerror(error));
    }
}

static void refuse(struct kq_acceptor *acceptor, enum kq_admission admission)
{
    if (admission == KQ_ADMIT_FULL) {
        kq_tally(telemetry(acceptor), KQ_TALLY_LIMIT_TOTAL, 1);
        kq_diag_limited(SAY_EACH_MS, LOG_WARNING,
                        "a connection was refused: there are max.connections = %u already",
                        acceptor->server->options.max_connections);
    } else if (admission == KQ_ADMIT_FULL_IP) {
        kq_tally(telemetry(acceptor), KQ_TALLY_LIMIT_IP, 1);
        kq_diag_limited(SAY_EACH_MS, LOG_WARNING,
                        "a connection was refused: its address has max.connections.per.ip = %u",
                        acceptor->server->options.max_connections_per_ip);
    } else {
        kq_tally(telemetry(acceptor), KQ_TALLY_NO_MEMORY, 1);
        kq_diag_limited(SAY_EACH_MS, LOG_WARNING, "a connection was refused: out of memory");
    }
}

/* --- When it can --- */

/* The loop with the fewest; in turn where they have the same. */
static struct kq_shard *choose_shard(struct kq_acceptor *acceptor)
{
    struct kq_server *server = acceptor->server;
    struct kq_shard *best = NULL;
    unsigned least = 0;
    for (unsigned i = 0; i < server->shard_count; i++) {
        unsigned index = (acceptor->next_shard + i) % server->shard_count;
        struct kq_shard *shard = &server->shards[index];
        unsigned count = atomic_load_explicit(&shard->conn_count, memory_order_relaxed);
        if (!best || count < least) {
            best = shard;
            least = count;
        }
    }
    acceptor->next_shard++;
    return best;
}

/* Nothing about it can be said to the client, so it is closed. */
void kq_acceptor_drop(struct kq_server *server, struct kq_arrived *arrived)
{
    kq_transport_close(&arrived->transport);
    kq_identity_unref(arrived->identity);
    kq_principal_close(arrived->principal);
    atomic_fetch_sub(&arrived->shard->conn_count, 1);
    kq_admit_leave(server->admit, arrived->admitted);
}

void kq_acceptor_begin(struct kq_server *server, struct kq_arrived *arrived, int r)
{
    if (r == 0)
        r = kq_conn_start_consume(arrived);
    if (r == 0)
        return;
    kq_diag_limited(SAY_EACH_MS, LOG_WARNING, "a connection was refused: its user: %s",
                    strerror(-r));
    atomic_fetch_add(&server->unidentified, 1);
    kq_acceptor_drop(server, arrived);
}

static void look_up(struct kq_job *job)
{
    struct arrival *arrival = (struct arrival *)((char *)job - offsetof(struct arrival, job));
    struct kq_arrived *arrived = &arrival->arrived;
    int r = kq_identify(arrival->server->identify, arrived->transport.fd,
                        arrived->listener->address.is_unix, true, &arrived->identity);
    kq_acceptor_begin(arrival->server, arrived, r);
    free(arrival);
}

static void look_up_elsewhere(struct kq_server *server, struct kq_arrived *arrived)
{
    struct arrival *arrival = kq_alloc(sizeof(*arrival));
    if (!arrival) {
        kq_acceptor_begin(server, arrived, -ENOMEM);
        return;
    }
    *arrival = (struct arrival){.job.run = look_up, .server = server, .arrived = *arrived};
    kq_pool_submit(server->workers, &arrival->job);
}

static void set_tcp_options(int fd)
{
    int on = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
}

static void note_peer(int fd, const struct sockaddr_storage *from, struct kq_conn_peer *ret)
{
    struct ucred process;
    socklen_t length = sizeof(process);
    if (from->ss_family == AF_INET || from->ss_family == AF_INET6)
        memcpy(&ret->address, from, sizeof(ret->address));
    else if (from->ss_family == AF_UNIX &&
             getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &process, &length) == 0)
        ret->pid = process.pid ? process.pid : -1; /* of another PID namespace */
}

static void admit(struct kq_acceptor *acceptor, struct kq_listener *listener, int fd)
{
    struct kq_server *server = acceptor->server;
    struct kq_arrived arrived = {.listener = listener};
    struct sockaddr_storage peer = {0};
    socklen_t length = sizeof(peer);
    if (getpeername(fd, (struct sockaddr *)&peer, &length) < 0)
        peer.ss_family = AF_UNSPEC; /* it has gone already, which the loop will find out */
    enum kq_admission admission = kq_admit_enter(server->admit, &peer, &arrived.admitted);
    if (admission != KQ_ADMIT_YES) {
        close(fd);
        refuse(acceptor, admission);
        return;
    }
    kq_tally(telemetry(acceptor), KQ_TALLY_ACCEPTED, 1);
    if (!listener->address.is_unix)
        set_tcp_options(fd);
    note_peer(fd, &peer, &arrived.peer);
    kq_tcp_init_consume_fd(&arrived.transport, fd);
    arrived.shard = choose_shard(acceptor);
    atomic_fetch_add(&arrived.shard->conn_count, 1);
    if (listener->tls) {
        kq_handshake_start_consume(&arrived);
        return;
    }
    int r = 0;
    if (listener->address.sasl)
        arrived.identity = kq_identify_nobody(server->identify);
    else
        r = kq_identify(server->identify, fd, listener->address.is_unix, false, &arrived.identity);
    if (r == KQ_WOULD_BLOCK)
        look_up_elsewhere(server, &arrived);
    else
        kq_acceptor_begin(server, &arrived, r);
}

/* False: this second has had all that it may have. */
static bool pass_rate(struct kq_acceptor *acceptor, int64_t *retry_ns)
{
    int64_t now = kq_clock_mono_ns();
    if (now - acceptor->second_ns >= NS_PER_S) {
        acceptor->second_ns = now;
        acceptor->in_second = 0;
    }
    if (++acceptor->in_second < acceptor->server->options.max_connection_rate)
        return true;
    *retry_ns = acceptor->second_ns + NS_PER_S;
    kq_tally(telemetry(acceptor), KQ_TALLY_LIMIT_RATE, 1);
    return false;
}

bool kq_acceptor_take(struct kq_listener *listener, int fd, int64_t *retry_ns)
{
    struct kq_acceptor *acceptor = listener->context;
    if (fd < 0) {
        take_failure(acceptor, listener, -fd);
        *retry_ns = kq_clock_mono_ns() + RETRY_NS;
        return false;
    }
    admit(acceptor, listener, fd);
    return pass_rate(acceptor, retry_ns);
}
