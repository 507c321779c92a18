/* What the files of the server share: the server, its loops and their connections. */
#pragma once

#include <netinet/in.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>

#include "auth/auth.h"
#include "broker/base/err.h"
#include "broker/metrics.h"
#include "net/api.h"
#include "net/loop.h"
#include "net/request.h"
#include "net/sendq.h"
#include "net/server.h"
#include "net/spare.h"
#include "net/telemetry.h"
#include "net/tls.h"
#include "net/transport.h"
#include "net/upkeep.h"

struct kq_admit;
struct kq_admitted;
struct kq_identify;
struct kq_handshake;
struct kq_listener;
struct kq_principal;
struct kq_tls_front;
struct kq_sasl;

/* One loop and the connections that it owns. */
struct kq_shard {
    struct kq_server *server;
    struct kq_loop *loop;
    struct kq_telemetry *telemetry;
    atomic_uint conn_count; /* dealt to it and not gone yet */
    /* The loop's: */
    LIST_HEAD(, kq_conn) conns;
    LIST_HEAD(, kq_handshake) handshakes;
    struct kq_tls_desk tls;
    struct kq_spares spares;
    TAILQ_HEAD(, kq_conn) crowded; /* not read until others' requests have gone */
    struct kq_conn *favoured;      /* may go on with its frame all the same */
    struct kq_mail stop_mail, relief_mail;
    atomic_bool relief_posted;
    struct kq_timer drain;
    bool stopping;
};

struct kq_server {
    struct kq_server_options options;
    struct kq_broker *broker;
    struct kq_quotas *quotas; /* the broker's; NULL: none */
    struct kq_shard *shards;
    unsigned shard_count;
    struct kq_pool *workers, *readers;
    STAILQ_HEAD(, kq_listener) listeners;
    struct kq_acceptor *acceptor;
    struct kq_admit *admit;
    struct kq_identify *identify;
    struct kq_audit *audit; /* NULL: none */
    struct kq_upkeep upkeep;
    struct kq_tls_front *tls;
    struct kq_metric_source metrics;
    atomic_uint_fast64_t queued_bytes; /* of requests and parts of them */
    atomic_uint unidentified;          /* connections whose user could not be looked up */
    bool started;
};

/* Who is at the other end, as it was when it connected. */
struct kq_conn_peer {
    struct sockaddr_in6 address; /* or a sockaddr_in; AF_UNSPEC: not known */
    pid_t pid;                   /* of a unix socket, -1: not known here; else 0 */
};

enum kq_conn_end {
    KQ_CONN_OPEN,
    KQ_CONN_DRAINING, /* no more is read; closed when what is under way has been sent */
    KQ_CONN_FLUSHING, /* nothing more is answered; closed when the responses have been sent */
    KQ_CONN_CLOSED,   /* waits for its requests to come back */
};

struct kq_conn {
    struct kq_watch watch;
    struct kq_transport transport;
    struct kq_shard *shard;
    struct kq_listener *listener;
    struct kq_conn_peer peer;
    const struct kq_identity *identity;
    struct kq_principal *principal; /* whose user it is; NULL: it was when it connected */
    struct kq_admitted *admitted;
    struct kq_sasl *sasl; /* NULL: it need not say who it is */
    struct kq_task task;
    struct kq_timer timer;
    struct kq_mail mail;
    LIST_ENTRY(kq_conn) list;
    TAILQ_ENTRY(kq_conn) crowd;
    struct kq_sendq sendq;
    uint64_t number; /* of all that this process has had */

    /* Requests in the order in which they came; those before NEXT were started. */
    TAILQ_HEAD(, kq_request) requests;
    struct kq_request *next;
    struct kq_request *running; /* LATER: those behind it wait */
    unsigned in_flight;
    size_t waiting_bytes; /* of NEXT and those behind it */

    /* What has come of a frame that is not whole, or of frames that have to wait. */
    uint8_t head[4]; /* of its size */
    uint8_t head_length;
    uint8_t *part;
    uint32_t part_size; /* of the whole, 0: PART is whole frames that wait, from PART_AT on */
    uint32_t part_at, part_length, part_capacity;

    struct kq_warming *warming; /* the next bytes to be sent are being read in */
    int64_t active_ns;          /* bytes came or went */
    int64_t frame_ns;           /* since when part of a frame is here; 0: none is */
    int64_t muted_until_ns;
    int64_t sending_ns; /* of the thread, not charged yet; see throttle.h */
    bool readable, writable, hung_up, is_crowded;
    bool is_full, is_stuffed; /* counted: too many requests in flight, too much to send */
    enum kq_conn_end end;
    enum kq_tally why; /* FLUSHING: for kq_conn_close */
};

/* --- crowd.c: requests of all connections in memory --- */

/* SIZE bytes of requests take memory, or no longer do. Any thread. */
void kq_server_queue(struct kq_server *server, size_t size);
void kq_server_unqueue(struct kq_server *server, size_t size);

/* Is there memory for what CONN sends? False: it is called again when there is. */
bool kq_crowd_may_receive(struct kq_conn *conn);
/* CONN has its frame, or ends: another one may go on. */
void kq_crowd_done(struct kq_conn *conn);
void kq_crowd_init(struct kq_shard *shard);

/* --- conn.c --- */

struct kq_arrived {
    struct kq_shard *shard; /* that counts it already */
    struct kq_listener *listener;
    struct kq_conn_peer peer;
    const struct kq_identity *identity;
    struct kq_principal *principal; /* as in kq_conn */
    struct kq_admitted *admitted;
    struct kq_transport transport;
};

/* Makes a connection of ARRIVED and all that it holds. Any thread. -ENOMEM: it is still the
 * caller's. */
int kq_conn_start_consume(const struct kq_arrived *arrived);

/* The loop looks at it again, soon. */
void kq_conn_kick(struct kq_conn *conn);

/* At once: what was not sent is lost. WHY is counted, and logged where the client or the log is to
 * blame. */
void kq_conn_close(struct kq_conn *conn, enum kq_tally why);

/* No more is read; it ends when what is under way has been answered, or a while later. */
void kq_conn_drain(struct kq_conn *conn);

/* As kq_conn_close, when the responses that are in the queue have been sent. */
void kq_conn_close_later(struct kq_conn *conn, enum kq_tally why);

/* A deadline of it may be nearer now. */
void kq_conn_watch_deadline(struct kq_conn *conn);

/* Its client is not heard for THROTTLE_MS from now on. */
void kq_conn_mute(struct kq_conn *conn, int32_t throttle_ms);

uint64_t kq_conn_number(const struct kq_conn *conn);

/* Where it came in, as that is written. */
const char *kq_conn_listener_name(const struct kq_conn *conn);

/* Who asks on it, with what groups it has by now. Borrowed, until the next call. */
const struct kq_identity *kq_conn_identity(struct kq_conn *conn);

/* Where the client is to connect to reach this broker: what its listener advertises, else the local
 * address of this connection. HOST is in ARENA. 0; -ENOMEM; -ENOTCONN. */
int kq_conn_advertised(struct kq_conn *conn, struct kq_arena *arena, struct kq_str *ret_host,
                       int32_t *ret_port);

/* The client's address as Kafka shows it, "/127.0.0.1"; of a unix socket "/unix". On the loop. 0;
 * -ENOMEM; -ENOTCONN. */
int kq_conn_host(struct kq_conn *conn, struct kq_arena *arena, struct kq_str *ret);

/* --- output.c --- */

/* Queues the response of REQUEST. 0 and its size; -ENOMEM, -EINVAL (a value that the version cannot
 * hold): close the connection. */
int kq_conn_respond(struct kq_conn *conn, struct kq_request *request, uint64_t *ret_bytes);

/* Sends what can be sent. */
void kq_conn_write(struct kq_conn *conn);

/* Forgets what is being read in for it. */
void kq_conn_forget_warming(struct kq_conn *conn);

/* --- receive.c --- */

/* Reads what is there, once, and makes requests of it. */
void kq_conn_receive(struct kq_conn *conn);
/* Makes requests of whole frames that wait. */
void kq_conn_resume(struct kq_conn *conn);
/* May it be read now? May what has been read become requests? */
bool kq_conn_may_receive(const struct kq_conn *conn);
bool kq_conn_may_take(const struct kq_conn *conn);
/* Is it not read as so much of what it sent waits behind a request that takes long? */
bool kq_conn_is_ahead(const struct kq_conn *conn);
/* Requests that it may have in flight. */
unsigned kq_conn_max_in_flight(const struct kq_conn *conn);
void kq_conn_drop_part(struct kq_conn *conn);

/* --- request.c --- */

/* A request of SIZE bytes without their prefix, copied, or in MEMORY, which is taken over where 0
 * is returned. 0; -EBADMSG, -EPROTONOSUPPORT (key, version): close the connection; -ENOMEM. */
int kq_request_new(struct kq_conn *conn, const uint8_t *bytes, uint32_t size, void *memory,
                   struct kq_request **ret);
void kq_request_free(struct kq_request *request);

/* Runs the connection's requests that may run and queues the responses that may go. */
void kq_conn_run(struct kq_conn *conn);
bool kq_conn_may_run(const struct kq_conn *conn); /* is there one that may? */

/* Takes back what can be taken back: those that were not started are dropped, the others are asked
 * to end. */
void kq_conn_cancel_requests(struct kq_conn *conn);
