/* One request of a client, from the moment its bytes are whole until its response is queued.
 *
 * A handler gets the parsed body and fills the response; what it answers says what happens next.
 * Handlers run on the connection's loop and never block there: what may wait for a disk goes
 * through kq_request_offload. Responses leave in the order in which the requests came.
 *
 * A request is owned by its connection. From the return of KQ_HANDLED_LATER or KQ_HANDLED_PARKED
 * until kq_request_done it is the handler's, also where the connection closes meanwhile: then its
 * `cancel` is called once, on the loop, and the response, still owed, goes nowhere.
 */
#pragma once

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>

#include "broker/authz.h"
#include "broker/base/arena.h"
#include "broker/base/pool.h"
#include "broker/base/timers.h"
#include "broker/base/wire.h"
#include "net/loop.h"

struct kq_api;
struct kq_broker;
struct kq_conn;
struct kq_identity;
struct kq_request;
struct kq_server;

/* A request for more partitions than these goes to a thread of the pool, whatever it wants of them:
 * some µs each would hold up all who share its loop. As many take about as long as that thread
 * takes to wake up a few times. */
#define KQ_WIDE_PARTITIONS 500

enum kq_handled {
    KQ_HANDLED_NOW,    /* the response is complete */
    KQ_HANDLED_SILENT, /* done, and no response is wanted (Produce with acks=0) */
    KQ_HANDLED_LATER,  /* somebody will call kq_request_done; the connection's next request waits */
    KQ_HANDLED_PARKED, /* as LATER, but all effects have happened and only an event is awaited (a
                          sync, more messages): the connection's next request may run */
    KQ_HANDLED_CLOSE,  /* close the connection without a response */
};

typedef enum kq_handled (*kq_handle_fn)(struct kq_request *request);

struct kq_request {
    /* What came. */
    const struct kq_api *api;
    int16_t version;
    int32_t correlation_id;
    const char *client_id;   /* NUL-terminated; "" where null */
    struct kq_caller caller; /* who asks; pointers valid as long as the request, but may be others
                                when the loop next calls the handler */
    int64_t received_ns;     /* kq_clock_mono_ns() */
    size_t size;             /* bytes of the request, with its length prefix */
    uint8_t *bytes;          /* its own memory; the body's strings and records point into it */
    void *body;              /* struct kq_<api>_request, in the arena */

    /* What goes. */
    void *response;   /* struct kq_<api>_response, in the arena, initialised to defaults */
    bool told_by_end; /* KQ_HANDLED_CLOSE: the response is complete, for those who count errors */
    int32_t throttle_ms; /* how long the client is to hold back; set by the quotas */

    struct kq_arena arena; /* gone when the response was written */
    struct kq_broker *broker;
    struct kq_server *server;
    struct kq_conn *conn; /* for kq_conn_… calls on the loop */

    /* The handler's own while the request is LATER or PARKED. */
    void (*cancel)(struct kq_request *request); /* NULL: nothing to take back. Not called while RUN
                                                   of kq_request_offload is under way */
    void *state;

    /* Called once, on the loop, when the response was written or dropped and before the arena goes:
     * lets go of what the response refers to, such as extents (the send queue has references of its
     * own by then). NULL: nothing. */
    void (*release)(struct kq_request *request);

    /* The server's own. */
    TAILQ_ENTRY(kq_request) queue;
    struct kq_mail mail;
    struct kq_job job;
    _Atomic(kq_handle_fn) posted;
    kq_handle_fn offloaded; /* not NULL: it is running, or about to, on another thread */
    atomic_uint news;       /* what MAIL is to tell; of enum news in request.c */
    unsigned told;          /* what it has told and what has to wait */
    enum kq_handled result, job_result;
    _Atomic int64_t busy_ns; /* threads that it has kept busy; where a quota asks for it */
    const struct kq_identity *identity; /* that CALLER is of */
    unsigned identity_changes;          /* since it was started */
    int stage;
    bool cancelled;
    bool is_token;          /* of SASL, without a header, and so is what is answered */
    const uint8_t *body_at; /* in `bytes` */
    void *memory;           /* of `bytes`, where they are not in one piece with the request */
};

/* The response of a LATER or PARKED request is complete. Any thread; the request must not be
 * touched afterwards. */
void kq_request_done(struct kq_request *request);

/* As kq_request_done, but what RESULT says happens. KQ_HANDLED_LATER and PARKED are not allowed. */
void kq_request_finish(struct kq_request *request, enum kq_handled result);

/* Runs RUN on a thread that may block; what it returns counts as the handler's answer (LATER and
 * PARKED are allowed again). The handler returns what this returns: KQ_HANDLED_LATER. */
enum kq_handled kq_request_offload(struct kq_request *request,
                                   enum kq_handled (*run)(struct kq_request *request));

/* Runs RUN on the request's loop, soon; any thread. What it returns counts as the handler's answer.
 * At most one such call may be under way for a request: further ones (with the same RUN) before it
 * ran are merged into it, so that a wake-up that comes again costs nothing. None may follow, or be
 * under way on another thread, when the request is done. */
void kq_request_post(struct kq_request *request,
                     enum kq_handled (*run)(struct kq_request *request));

/* Calls timer->expire on the loop at AT_NS (kq_clock_mono_ns). The request's loop only. */
void kq_request_set_timer(struct kq_request *request, struct kq_timer *timer, int64_t at_ns);
void kq_request_cancel_timer(struct kq_request *request, struct kq_timer *timer);
