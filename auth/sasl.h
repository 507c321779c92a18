/* SASL: a client proves who it is, in one or several steps, by one of the mechanisms below.
 *
 * A mechanism is one table. It knows tokens and secrets; it knows neither sockets nor Kafka's
 * requests. The exchange of one client is used by one thread at a time; steps may block (a lookup
 * of a user, a replay cache, a costly hash) and so never run on a loop.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "auth/auth.h"
#include "broker/base/buf.h"

struct kq_sasl_exchange;

enum kq_sasl_result {
    KQ_SASL_MORE,   /* the client is to send another token */
    KQ_SASL_DONE,   /* it is who it says */
    KQ_SASL_FAILED, /* it is not; where a token was written, it goes to the client first */
};

/* What a step leaves. The strings belong to the exchange and live as long. */
struct kq_sasl_outcome {
    enum kq_sasl_result result;
    const char *name;      /* DONE: who it is, before principals map it to a user of the host; else
                              who it says it is, for the log, or NULL where that is not known yet */
    int64_t expires_ms;    /* DONE: wall clock; the proof is good until then; 0: for ever */
    const char *complaint; /* FAILED: to the client; says no more than it may know */
    const char *reason;    /* FAILED: to the operator's audit log */
};

struct kq_sasl_class {
    const char *name;      /* as SaslHandshake has it: "SCRAM-SHA-256" */
    bool shows_the_secret; /* the secret itself crosses the line: not without TLS */

    /* A new exchange; CONTEXT is the mechanism's own, of kq_sasl_mechanism. -ENOMEM, -errno. */
    int (*begin)(void *context, struct kq_sasl_exchange **ret);

    /* Takes the client's token and appends the answer's to RET_TOKEN (empty: an empty token).
     * 0 and RET; -ENOMEM, -errno: the broker failed, not the client. May block. */
    int (*step)(struct kq_sasl_exchange *exchange, const uint8_t *token, size_t length,
                struct kq_buf *ret_token, struct kq_sasl_outcome *ret);

    void (*end)(struct kq_sasl_exchange *exchange); /* NULL is fine; wipes its secrets */
};

/* A mechanism that is switched on. */
struct kq_sasl_mechanism {
    const struct kq_sasl_class *class;
    void *context;
};
