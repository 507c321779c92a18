/* What the files of the server share: the server, its loops and their connections. */
#pragma once

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>

#include "broker/base/err.h"
#include "net/api.h"
#include "net/loop.h"
#include "net/request.h"
#include "net/sendq.h"
#include "net/server.h"
#include "net/transport.h"

struct kq_listener;

/* One loop and the connections that it owns. */
struct kq_shard {
    struct kq_server *server;
    struct kq_loop *loop;
    LIST_HEAD(, kq_conn) conns; /* the loop's */
    atomic_uint conn_count;     /* dealt to it and not freed yet */
    struct kq_mail stop_mail;
    struct kq_timer drain;
    bool stopping;
};

struct kq_server {
    struct kq_server_options options;
    struct kq_broker *broker;
    struct kq_shard *shards;
    unsigned shard_count;
    struct kq_pool *workers, *readers;
    STAILQ_HEAD(, kq_listener) listeners;
    atomic_uint connections;
    atomic_uint_fast64_t queued_bytes; /* of requests and parts of them */
    unsigned next_shard;               /* the accepting loop's */
    pthread_mutex_t lock;
    pthread_cond_t ended; /* a shard has no connection any more */
    bool started;
};

enum kq_conn_end {
    KQ_CONN_OPEN,
    KQ_CONN_DRAINING, /* no more is read; closed when what is under way has been sent */
    KQ_CONN_CLOSED,   /* waits for its requests to come back */
};

struct kq_conn {
    struct kq_watch watch;
    struct kq_transport transport;
    struct kq_shard *shard;
    struct kq_listener *listener;
    struct kq_task task;
    struct kq_timer timer;
    struct kq_mail mail;
    LIST_ENTRY(kq_conn) list;
    struct kq_sendq sendq;
    uint64_t number;

    /* Requests in the order in which they came; those before NEXT were started. */
    TAILQ_HEAD(, kq_request) requests;
    struct kq_request *next;
    struct kq_request *running; /* LATER: those behind it wait */
    unsigned in_flight;

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
    bool readable, writable, hung_up;
    enum kq_conn_end end;
};

/* --- server.c --- */

/* SIZE bytes of requests take memory, or no longer do. Any thread. */
void kq_server_queue(struct kq_server *server, size_t size);
void kq_server_unqueue(struct kq_server *server, size_t size);

/* One connection of LISTENER on SHARD has been freed. The shard's loop. */
void kq_server_ended(struct kq_shard *shard, struct kq_listener *listener);

/* --- conn.c --- */

/* Makes a connection of FD, which it closes in any case, on SHARD; any thread. -ENOMEM. */
int kq_conn_start_consume_fd(struct kq_shard *shard, struct kq_listener *listener, int fd);

/* The loop looks at it again, soon. */
void kq_conn_kick(struct kq_conn *conn);

/* At once: what was not sent is lost. REASON for the log, NULL: nothing to say. */
void kq_conn_close(struct kq_conn *conn, const char *reason);

/* No more is read; it ends when what is under way has been answered, or a while later. */
void kq_conn_drain(struct kq_conn *conn);

/* A deadline of it may be nearer now. */
void kq_conn_watch_deadline(struct kq_conn *conn);

/* Who asks on it; pointers valid as long as the connection. */
void kq_conn_caller(const struct kq_conn *conn, struct kq_caller *ret);

/* Where the client is to connect to reach this broker: what its listener advertises, else the local
 * address of this connection. HOST is in ARENA. 0; -ENOMEM; -ENOTCONN. */
int kq_conn_advertised(struct kq_conn *conn, struct kq_arena *arena, struct kq_str *ret_host,
                       int32_t *ret_port);

/* Queues the response of REQUEST. -ENOMEM, -EINVAL (a value that the version cannot hold). */
int kq_conn_respond(struct kq_conn *conn, struct kq_request *request);

/* --- receive.c --- */

/* Reads what is there, once, and makes requests of it. */
void kq_conn_receive(struct kq_conn *conn);
/* Makes requests of what waits. */
void kq_conn_resume(struct kq_conn *conn);
/* May it be read now? May what has been read become requests? */
bool kq_conn_may_receive(const struct kq_conn *conn);
bool kq_conn_may_take(const struct kq_conn *conn);
void kq_conn_drop_part(struct kq_conn *conn);

/* --- request.c --- */

/* A request of SIZE bytes without their prefix, copied, or in MEMORY, which is taken over where 0
 * is returned. 0; -EBADMSG, -EPROTONOSUPPORT (key, version): close the connection; -ENOMEM. */
int kq_request_new(struct kq_conn *conn, const uint8_t *bytes, uint32_t size, void *memory,
                   struct kq_request **ret);
void kq_request_free(struct kq_request *request);

/* Runs the connection's requests that may run and queues the responses that may go. */
void kq_conn_run(struct kq_conn *conn);

/* The connection is closed: takes back what can be taken back. */
void kq_conn_cancel_requests(struct kq_conn *conn);
