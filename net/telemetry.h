/* What the server counts: each loop on its own, so that counting costs no shared cache line; shown
 * together in .kqfs/metrics. With <sys/sdt.h> at build time, also the probes kqfs:request__start
 * and kqfs:request__end. */
#pragma once

#include <stdatomic.h>
#include <stdint.h>

#include "broker/base/buf.h"
#include "broker/base/wire.h"
#include "broker/metrics.h"

struct kq_request;
struct kq_server;
struct kq_telemetry;

/* Of one loop. */
enum kq_tally {
    KQ_TALLY_RECEIVED,      /* bytes */
    KQ_TALLY_SENT,          /* bytes */
    KQ_TALLY_SENDFILE,      /* bytes of SENT: straight from the page cache */
    KQ_TALLY_COPIED,        /* bytes of record batches that went through memory of ours */
    KQ_TALLY_COLD,          /* ranges that had to be read in before they could be sent */
    KQ_TALLY_ACCEPTED,      /* connections */
    KQ_TALLY_LIMIT_TOTAL,   /* refused: max.connections */
    KQ_TALLY_LIMIT_IP,      /* refused: max.connections.per.ip */
    KQ_TALLY_LIMIT_FILES,   /* refused: no descriptor */
    KQ_TALLY_LIMIT_RATE,    /* accepting was put off: max.connection.creation.rate */
    KQ_TALLY_UNIDENTIFIED,  /* refused: its user could not be looked up */
    KQ_TALLY_BY_PEER,       /* closed: the peer was done, or broke it */
    KQ_TALLY_BY_STOP,       /* closed: the broker stops */
    KQ_TALLY_IDLE,          /* closed: connections.max.idle.ms */
    KQ_TALLY_SLOW,          /* closed: socket.request.timeout.ms */
    KQ_TALLY_UNDRAINED,     /* closed: drain.timeout.ms */
    KQ_TALLY_TOO_LARGE,     /* closed: socket.request.max.bytes */
    KQ_TALLY_GREEDY,        /* closed: request.memory.max.bytes */
    KQ_TALLY_MALFORMED,     /* closed: not a request */
    KQ_TALLY_UNSUPPORTED,   /* closed: a key or version that is not served */
    KQ_TALLY_REFUSED,       /* closed: as the request's handler wanted */
    KQ_TALLY_STRANGER,      /* closed: asked before it had said who it is */
    KQ_TALLY_LOGIN_REFUSED, /* closed: it is not who it says */
    KQ_TALLY_LOGIN_SLOW,    /* closed: authentication_timeout_ms */
    KQ_TALLY_EXPIRED,       /* closed: its session had ended */
    KQ_TALLY_LOGIN,         /* clients that have proved who they are */
    KQ_TALLY_LOGIN_AGAIN,   /* that have done so once more */
    KQ_TALLY_LOGIN_FAILED,  /* that have not */
    KQ_TALLY_NO_MEMORY,     /* closed: no memory */
    KQ_TALLY_FAILED,        /* closed: the log's bytes could not be read */
    KQ_TALLY_MUTED,         /* times a connection was not read for a while: a quota */
    KQ_TALLY_CROWDED,       /* the same: queued.max.request.bytes */
    KQ_TALLY_IN_FLIGHT,     /* the same: max.in.flight.requests */
    KQ_TALLY_UNSENT,        /* the same: send.queue.max.bytes */
    KQ_TALLIES,
};

/* Counters of one loop. 0; -ENOMEM. */
int kq_telemetry_new(struct kq_telemetry **ret);
void kq_telemetry_free(struct kq_telemetry *telemetry); /* NULL is fine */

/* --- The loop's thread --- */

void kq_tally(struct kq_telemetry *telemetry, enum kq_tally which, uint64_t amount);

/* A request was read; it is answered with RESPONSE_BYTES (0: it gets no response). */
void kq_telemetry_start(const struct kq_request *request);
void kq_telemetry_end(struct kq_telemetry *telemetry, const struct kq_request *request,
                      uint64_t response_bytes);

/* A client has said what it is; names beyond a bound are counted together. */
void kq_telemetry_software(struct kq_telemetry *telemetry, struct kq_str name,
                           struct kq_str version);

/* --- Any thread --- */

/* Of all loops, from the server's start to its end. */
uint64_t kq_telemetry_sum(const struct kq_server *server, enum kq_tally which);
int kq_telemetry_format(const struct kq_server *server, struct kq_buf *ret);
