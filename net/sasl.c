#include "net/sasl.h"

#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "auth/principals.h"
#include "broker/base/clock.h"
#include "broker/base/diag.h"
#include "broker/base/mem.h"
#include "net/api.h"
#include "net/auditwalk.h"
#include "net/errmap.h"
#include "net/internal.h"
#include "net/listener.h"
#include "net/message/sasl_authenticate.h"
#include "net/message/sasl_handshake.h"
#include "net/wire.h"

#define NS_PER_MS INT64_C(1000000)
#define AGAIN_AT_LEAST_NS (1000 * NS_PER_MS) /* between two proofs, as Kafka has it */
#define SAY_EACH_MS 1000
#define HANDSHAKE 17
#define AUTHENTICATE 36

enum state {
    HELLO,  /* a handshake is to come */
    TOKENS, /* tokens are to come */
    DONE,
    FAILED,
};

/* What a step has brought. */
enum verdict {
    NOTHING,
    ENOUGH,  /* it is who it says */
    REFUSED, /* it is not */
};

struct kq_sasl {
    const struct kq_server *server;
    const struct kq_sasl_mechanism *mechanism; /* of the last handshake that was in order */
    struct kq_sasl_exchange *exchange;         /* the running step's */
    enum state state;
    bool tls;
    bool raw;             /* tokens have no header */
    bool again;           /* it has been done before */
    bool other_mechanism; /* than before, which will not do */
    bool settling;
    int64_t began_ns, due_ns;
    int64_t expires_ns; /* INT64_MAX: never */
    struct kq_timer delay;
    struct kq_request *delayed;
    /* Of the running step, until it is settled. */
    enum verdict verdict;
    struct kq_principal *principal;
    int64_t session_ms; /* 0: for ever */
};

/* --- Of a connection --- */

int kq_sasl_new(const struct kq_server *server, const struct kq_listener *listener, int64_t now_ns,
                struct kq_sasl **ret)
{
    struct kq_sasl *sasl = NULL;
    if (listener->address.sasl) {
        sasl = kq_zalloc(sizeof(*sasl));
        if (!sasl)
            return -ENOMEM;
        sasl->server = server;
        sasl->tls = listener->address.tls;
        sasl->expires_ns = INT64_MAX;
        sasl->due_ns = now_ns + server->options.sasl_ms * NS_PER_MS;
    }
    *ret = sasl;
    return 0;
}

static void end_exchange(struct kq_sasl *sasl)
{
    if (sasl->exchange)
        sasl->mechanism->class->end(sasl->exchange);
    sasl->exchange = NULL;
}

void kq_sasl_free(struct kq_sasl *sasl)
{
    if (!sasl)
        return;
    end_exchange(sasl);
    kq_principal_close(sasl->principal);
    free(sasl);
}

bool kq_sasl_is_done(const struct kq_sasl *sasl)
{
    return !sasl || sasl->state == DONE || (sasl->again && sasl->state != FAILED);
}

bool kq_sasl_takes_tokens(const struct kq_sasl *sasl)
{
    return sasl && sasl->state == TOKENS && sasl->raw;
}

int64_t kq_sasl_due_ns(const struct kq_sasl *sasl)
{
    return sasl && sasl->state != DONE ? sasl->due_ns : INT64_MAX;
}

bool kq_sasl_is_settling(const struct kq_sasl *sasl)
{
    return sasl && sasl->settling;
}

bool kq_sasl_admits(const struct kq_sasl *sasl, const struct kq_api *api, int64_t now_ns,
                    int *ret_why)
{
    bool ours = api->key == HANDSHAKE || api->key == AUTHENTICATE;
    if (!sasl)
        return true;
    *ret_why = KQ_TALLY_STRANGER;
    switch (sasl->state) {
    case HELLO:
        return (api->flags & KQ_API_BEFORE_AUTH) && api->key != AUTHENTICATE;
    case TOKENS:
        return api->key == AUTHENTICATE;
    case DONE:
        *ret_why = KQ_TALLY_EXPIRED;
        return ours || now_ns < sasl->expires_ns;
    case FAILED:
        break;
    }
    return false;
}

/* --- Mechanisms --- */

static bool is_offered(const struct kq_server *server, const struct kq_sasl_mechanism *mechanism,
                       bool tls)
{
    return tls || !mechanism->class->shows_the_secret || server->options.plain_without_tls;
}

bool kq_sasl_is_offered(const struct kq_server *server, bool tls)
{
    for (size_t i = 0; i < server->options.mechanism_count; i++)
        if (is_offered(server, &server->options.mechanisms[i], tls))
            return true;
    return false;
}

static const struct kq_sasl_mechanism *find_mechanism(const struct kq_sasl *sasl,
                                                      struct kq_str name)
{
    for (size_t i = 0; i < sasl->server->options.mechanism_count; i++) {
        const struct kq_sasl_mechanism *mechanism = &sasl->server->options.mechanisms[i];
        if (kq_str_is(name, kq_str_of(mechanism->class->name)) &&
            is_offered(sasl->server, mechanism, sasl->tls))
            return mechanism;
    }
    return NULL;
}

static int list_mechanisms(const struct kq_sasl *sasl, struct kq_request *request)
{
    struct kq_sasl_handshake_response *response = request->response;
    size_t count = sasl->server->options.mechanism_count;
    response->mechanisms =
        kq_arena_array(&request->arena, count + 1, sizeof(*response->mechanisms));
    if (!response->mechanisms)
        return -ENOMEM;
    for (size_t i = 0; i < count; i++) {
        const struct kq_sasl_mechanism *mechanism = &sasl->server->options.mechanisms[i];
        if (is_offered(sasl->server, mechanism, sasl->tls))
            response->mechanisms[response->mechanisms_count++] = kq_str_of(mechanism->class->name);
    }
    return 0;
}

/* --- An answer that is put off, so that guessing takes time --- */

static void delay_over(struct kq_timer *timer)
{
    struct kq_sasl *sasl = (struct kq_sasl *)((char *)timer - offsetof(struct kq_sasl, delay));
    sasl->delayed->cancel = NULL;
    kq_request_done(sasl->delayed);
}

static void delay_cancelled(struct kq_request *request)
{
    kq_request_cancel_timer(request, &request->conn->sasl->delay);
    kq_request_finish(request, KQ_HANDLED_CLOSE);
}

/* On the loop. */
static enum kq_handled delay(struct kq_request *request)
{
    struct kq_sasl *sasl = request->conn->sasl;
    int64_t delay_ms = sasl->server->options.failed_login_delay_ms;
    if (request->conn->end == KQ_CONN_CLOSED)
        return KQ_HANDLED_CLOSE;
    if (delay_ms == 0)
        return KQ_HANDLED_NOW;
    sasl->delayed = request;
    sasl->delay.expire = delay_over;
    request->cancel = delay_cancelled;
    kq_request_set_timer(request, &sasl->delay,
                         request->conn->shard->loop->now_ns + delay_ms * NS_PER_MS);
    return KQ_HANDLED_LATER;
}

/* --- SaslHandshake --- */

static void say_refused(const struct kq_request *request, int16_t code,
                        const struct kq_sasl_mechanism *mechanism, const char *name,
                        const char *reason)
{
    kq_autofree char *claimed = name ? kq_format("User:%s", name) : NULL;
    kq_audit_login(request, code, claimed, KQ_UID_UNKNOWN,
                   mechanism ? mechanism->class->name : NULL, reason ? reason : "?");
}

enum kq_handled kq_api_sasl_handshake(struct kq_request *request)
{
    const struct kq_sasl_handshake_request *body = request->body;
    struct kq_sasl_handshake_response *response = request->response;
    struct kq_sasl *sasl = request->conn->sasl;
    int64_t now_ns = request->conn->shard->loop->now_ns;
    if (!sasl || (sasl->state == DONE &&
                  (request->version == 0 || now_ns - sasl->began_ns < AGAIN_AT_LEAST_NS))) {
        response->error_code = KQ_ERROR_ILLEGAL_SASL_STATE;
        return KQ_HANDLED_NOW;
    }
    if (list_mechanisms(sasl, request) < 0)
        return KQ_HANDLED_CLOSE;
    const struct kq_sasl_mechanism *mechanism = find_mechanism(sasl, body->mechanism);
    sasl->settling = true;
    if (!mechanism) {
        response->error_code = KQ_ERROR_UNSUPPORTED_SASL_MECHANISM;
        sasl->verdict = REFUSED;
        say_refused(request, response->error_code, NULL, NULL, "a mechanism that is not offered");
        return delay(request);
    }
    sasl->other_mechanism = sasl->again && mechanism != sasl->mechanism;
    sasl->mechanism = mechanism;
    sasl->raw = request->version == 0;
    sasl->began_ns = now_ns;
    if (sasl->again)
        sasl->due_ns = now_ns + sasl->server->options.sasl_ms * NS_PER_MS;
    sasl->state = TOKENS;
    return KQ_HANDLED_NOW;
}

/* --- SaslAuthenticate, on a thread that may block --- */

static enum kq_handled refuse(struct kq_request *request, const struct kq_sasl_outcome *outcome)
{
    struct kq_sasl_authenticate_response *response = request->response;
    struct kq_sasl *sasl = request->conn->sasl;
    const char *complaint = outcome->complaint ? outcome->complaint : "Authentication failed";
    char *text = kq_arena_string(&request->arena, complaint, strlen(complaint));
    say_refused(request, KQ_ERROR_SASL_AUTHENTICATION_FAILED, sasl->mechanism, outcome->name,
                outcome->reason);
    response->error_code = KQ_ERROR_SASL_AUTHENTICATION_FAILED;
    response->error_message = kq_str_of(text);
    sasl->verdict = REFUSED;
    kq_request_post(request, delay);
    return KQ_HANDLED_LATER;
}

/* For how long the proof is good: what the mechanism says, and connections.max.reauth.ms. */
static bool set_session(struct kq_sasl *sasl, const struct kq_sasl_outcome *outcome)
{
    int64_t session_ms = sasl->server->options.max_reauth_ms;
    if (outcome->expires_ms) {
        int64_t left_ms = outcome->expires_ms - kq_clock_wall_ms();
        if (left_ms <= 0)
            return false;
        session_ms = session_ms ? kq_min64(session_ms, left_ms) : left_ms;
    }
    sasl->session_ms = session_ms;
    return true;
}

static bool is_same_name(const struct kq_request *request, const char *name)
{
    const char *principal = request->caller.principal;
    return strncmp(principal, "User:", 5) == 0 && strcmp(principal + 5, name) == 0;
}

static enum kq_handled welcome(struct kq_request *request, struct kq_sasl_outcome *outcome)
{
    struct kq_sasl_authenticate_response *response = request->response;
    struct kq_sasl *sasl = request->conn->sasl;
    struct kq_principal *principal;
    int r = kq_principals_open(sasl->server->options.principals, outcome->name, &principal);
    if (r < 0) {
        kq_diag_limited(SAY_EACH_MS, LOG_WARNING, "cannot look up a user who logs in: %s",
                        strerror(-r));
        return KQ_HANDLED_CLOSE;
    }
    kq_principal_close(sasl->principal);
    sasl->principal = principal;
    if (sasl->again && !is_same_name(request, outcome->name)) {
        outcome->complaint = "Cannot change principals during re-authentication";
        outcome->reason = "another name than before";
        return refuse(request, outcome);
    }
    if (!set_session(sasl, outcome)) {
        outcome->complaint = "Authentication failed: the credentials have expired";
        outcome->reason = "credentials that have expired";
        return refuse(request, outcome);
    }
    response->session_lifetime_ms = sasl->session_ms;
    sasl->verdict = ENOUGH;
    return KQ_HANDLED_NOW;
}

static int run_step(struct kq_request *request, struct kq_sasl_outcome *ret)
{
    const struct kq_sasl_authenticate_request *body = request->body;
    struct kq_sasl_authenticate_response *response = request->response;
    struct kq_sasl *sasl = request->conn->sasl;
    const struct kq_sasl_class *class = sasl->mechanism->class;
    kq_autobuf struct kq_buf token = {0};
    int r = sasl->exchange ? 0 : class->begin(sasl->mechanism->context, &sasl->exchange);
    if (r == 0)
        r = class->step(sasl->exchange, body->auth_bytes.data,
                        (size_t)kq_max64(0, body->auth_bytes.length), &token, ret);
    if (r < 0 || token.length == 0)
        return r;
    uint8_t *copy = kq_arena_alloc(&request->arena, token.length);
    if (!copy)
        return -ENOMEM;
    memcpy(copy, token.data, token.length);
    response->auth_bytes = (struct kq_bytes){copy, (int32_t)token.length};
    return 0;
}

static enum kq_handled step(struct kq_request *request)
{
    const struct kq_sasl *sasl = request->conn->sasl;
    struct kq_sasl_outcome outcome = {0};
    if (sasl->other_mechanism) {
        outcome =
            (struct kq_sasl_outcome){.complaint = "SASL mechanism changed during re-authentication",
                                     .reason = "another mechanism than before"};
        return refuse(request, &outcome);
    }
    int r = run_step(request, &outcome);
    if (r < 0) {
        kq_diag_limited(SAY_EACH_MS, LOG_ERR, "%s: a login failed, and not by the client: %s",
                        sasl->mechanism->class->name, strerror(-r));
        return KQ_HANDLED_CLOSE;
    }
    return outcome.result == KQ_SASL_DONE     ? welcome(request, &outcome)
           : outcome.result == KQ_SASL_FAILED ? refuse(request, &outcome)
                                              : KQ_HANDLED_NOW;
}

enum kq_handled kq_api_sasl_authenticate(struct kq_request *request)
{
    struct kq_sasl_authenticate_response *response = request->response;
    struct kq_sasl *sasl = request->conn->sasl;
    response->error_message = KQ_STR_NULL;
    response->auth_bytes = (struct kq_bytes){(const uint8_t *)"", 0};
    if (!sasl || sasl->state != TOKENS) {
        response->error_code = KQ_ERROR_ILLEGAL_SASL_STATE;
        response->error_message =
            KQ_STR("SaslAuthenticate request received without a SaslHandshake before it");
        return KQ_HANDLED_NOW;
    }
    sasl->settling = true;
    return kq_request_offload(request, step);
}

/* --- What comes of it --- */

static void take_principal(struct kq_conn *conn, struct kq_principal *principal)
{
    kq_principal_close(conn->principal);
    kq_identity_unref(conn->identity);
    conn->principal = principal;
    conn->identity = kq_principal_identity(principal);
}

static void settle_enough(struct kq_conn *conn, struct kq_sasl *sasl,
                          const struct kq_request *request)
{
    kq_tally(conn->shard->telemetry, sasl->again ? KQ_TALLY_LOGIN_AGAIN : KQ_TALLY_LOGIN, 1);
    end_exchange(sasl);
    take_principal(conn, sasl->principal);
    sasl->principal = NULL;
    kq_audit_login(request, KQ_ERROR_NONE, conn->identity->principal, conn->identity->uid,
                   sasl->mechanism->class->name, NULL);
    sasl->state = DONE;
    sasl->again = true;
    sasl->raw = false;
    sasl->expires_ns =
        sasl->session_ms ? conn->shard->loop->now_ns + sasl->session_ms * NS_PER_MS : INT64_MAX;
}

bool kq_sasl_settle(struct kq_conn *conn, struct kq_request *request, int *ret_why)
{
    struct kq_sasl *sasl = conn->sasl;
    bool ours = request->api->key == HANDSHAKE || request->api->key == AUTHENTICATE;
    if (!sasl || !ours || !sasl->settling)
        return false;
    sasl->settling = false;
    bool broken = request->result == KQ_HANDLED_CLOSE;
    if (sasl->verdict == ENOUGH && !broken)
        settle_enough(conn, sasl, request);
    bool refused = sasl->verdict == REFUSED || broken;
    if (refused) {
        kq_tally(conn->shard->telemetry, KQ_TALLY_LOGIN_FAILED, 1);
        sasl->state = FAILED;
        *ret_why = KQ_TALLY_LOGIN_REFUSED;
    }
    sasl->verdict = NOTHING;
    return refused;
}
