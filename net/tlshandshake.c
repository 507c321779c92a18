#include "net/tlshandshake.h"

#include <openssl/err.h>
#include <openssl/x509v3.h>
#include <stddef.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "auth/principals.h"
#include "broker/base/clock.h"
#include "broker/base/diag.h"
#include "broker/base/mem.h"
#include "broker/base/pool.h"
#include "net/acceptor.h"
#include "net/auditwalk.h"
#include "net/listener.h"
#include "net/tls.h"
#include "net/tlsfront.h"

#define NS_PER_MS INT64_C(1000000)
#define SAY_EACH_MS 10000
#define REASON_BYTES 160
#define PARTING_BYTES 65536

/* Belongs to its loop, but for the members that a step writes, while it runs. */
struct kq_handshake {
    LIST_ENTRY(kq_handshake) list;
    struct kq_watch watch;
    struct kq_timer timer;
    struct kq_mail mail;
    struct kq_task task;
    struct kq_job job;
    struct kq_arrived arrived;
    SSL *ssl; /* NULL: no byte has come yet */
    unsigned wants;
    bool running; /* a step */
    bool again;   /* something was ready meanwhile */
    bool ended;
    bool handed_over; /* it has become a connection */
    bool parting;     /* it has failed, and been counted */
    size_t parted;    /* bytes read since */
    /* Of the step: */
    int result; /* 0: done; -EAGAIN; -errno */
    enum kq_tls_count failure;
    char reason[REASON_BYTES];
};

static struct kq_server *server_of(const struct kq_handshake *handshake)
{
    return handshake->arrived.shard->server;
}

static struct kq_tls_counts *counts_of(const struct kq_handshake *handshake)
{
    return kq_tls_front_counts(server_of(handshake)->tls);
}

static struct kq_handshake *of_job(struct kq_job *job)
{
    return (struct kq_handshake *)((char *)job - offsetof(struct kq_handshake, job));
}

/* --- One step, on a thread of the pool --- */

static int fail(struct kq_handshake *handshake, enum kq_tls_count failure, int r,
                const char *reason)
{
    handshake->failure = failure;
    snprintf(handshake->reason, sizeof(handshake->reason), "%s", reason);
    return r;
}

static int name_of(struct kq_principals *principals, X509 *certificate, char **ret)
{
    char *subject = NULL;
    BIO *text = BIO_new(BIO_s_mem());
    if (!text)
        return -ENOMEM;
    int r = -ENOMEM;
    if (X509_NAME_print_ex(text, X509_get_subject_name(certificate), 0, XN_FLAG_RFC2253) >= 0 &&
        BIO_write(text, "", 1) == 1 && BIO_get_mem_data(text, &subject) > 0)
        r = kq_principals_of_subject(principals, subject, ret);
    BIO_free(text);
    return r;
}

/* On a listener with SASL the certificate only opens the door. */
static int identify(struct kq_handshake *handshake)
{
    struct kq_arrived *arrived = &handshake->arrived;
    struct kq_principals *principals = server_of(handshake)->options.principals;
    X509 *certificate = SSL_get0_peer_certificate(handshake->ssl);
    kq_autofree char *name = NULL;
    if (!certificate || !principals || arrived->listener->address.sasl)
        return kq_identity_anonymous(&arrived->identity);
    int r = name_of(principals, certificate, &name);
    if (r == 0)
        r = kq_principals_open(principals, name, &arrived->principal);
    if (r == 0)
        arrived->identity = kq_principal_identity(arrived->principal);
    return r;
}

/* A ticket is taken without looking at the certificate again. */
static bool is_expired(SSL *ssl)
{
    X509 *certificate = SSL_session_reused(ssl) ? SSL_get0_peer_certificate(ssl) : NULL;
    return certificate && X509_cmp_current_time(X509_get0_notAfter(certificate)) <= 0;
}

static int finish(struct kq_handshake *handshake)
{
    if (is_expired(handshake->ssl))
        return fail(handshake, KQ_TLS_BAD_CERTIFICATE, -EACCES,
                    "its session resumes with a certificate that has expired");
    int r = identify(handshake);
    if (r == -EACCES)
        return fail(handshake, KQ_TLS_NO_USER, r,
                    "ssl.principal.mapping.rules have no name for its certificate");
    if (r < 0)
        return fail(handshake, KQ_TLS_NO_USER, r, strerror(-r));
    return 0;
}

static int explain(struct kq_handshake *handshake, int r)
{
    char reason[REASON_BYTES];
    long verified = SSL_get_verify_result(handshake->ssl);
    if (r == 0 || (r < 0 && r != -EPROTO && r != -EAGAIN))
        return fail(handshake, KQ_TLS_BROKEN_OFF, -ECONNRESET, "it went away");
    if (ERR_GET_REASON(ERR_peek_error()) == SSL_R_UNEXPECTED_EOF_WHILE_READING)
        return fail(handshake, KQ_TLS_BROKEN_OFF, -ECONNRESET, "it went away");
    if (verified != X509_V_OK)
        return fail(handshake, KQ_TLS_BAD_CERTIFICATE, -EACCES,
                    X509_verify_cert_error_string(verified));
    bool missing = ERR_GET_REASON(ERR_peek_error()) == SSL_R_PEER_DID_NOT_RETURN_A_CERTIFICATE;
    kq_tls_error(reason, sizeof(reason));
    return fail(handshake, missing ? KQ_TLS_BAD_CERTIFICATE : KQ_TLS_FAILED, -EPROTO, reason);
}

static int begin_tls(struct kq_handshake *handshake)
{
    SSL_CTX *context = kq_tls_context(handshake->arrived.listener->tls);
    handshake->ssl = SSL_new(context);
    SSL_CTX_free(context);
    if (!handshake->ssl || SSL_set_fd(handshake->ssl, handshake->arrived.transport.fd) != 1)
        return -ENOMEM;
    SSL_set_accept_state(handshake->ssl);
    return 0;
}

static int take_step(struct kq_handshake *handshake)
{
    int r = handshake->ssl ? 0 : begin_tls(handshake);
    if (r < 0)
        return fail(handshake, KQ_TLS_NO_USER, r, strerror(-r));
    ERR_clear_error();
    errno = 0;
    int n = SSL_do_handshake(handshake->ssl);
    if (n == 1)
        return finish(handshake);
    r = kq_tls_result(handshake->ssl, n, &handshake->wants);
    return r == -EAGAIN ? r : explain(handshake, r);
}

static void run_step(struct kq_job *job)
{
    struct kq_handshake *handshake = of_job(job);
    handshake->result = take_step(handshake);
    ERR_clear_error();
    kq_loop_post(handshake->arrived.shard->loop, &handshake->mail);
}

/* --- The end, on the loop --- */

static void free_handshake(struct kq_task *task)
{
    struct kq_handshake *handshake =
        (struct kq_handshake *)((char *)task - offsetof(struct kq_handshake, task));
    struct kq_server *server = server_of(handshake);
    struct kq_arrived arrived = handshake->arrived;
    bool handed_over = handshake->handed_over;
    SSL_free(handshake->ssl);
    free(handshake);
    if (!handed_over)
        kq_acceptor_drop(server, &arrived);
}

static void say(const struct kq_handshake *handshake)
{
    struct sockaddr_storage peer;
    socklen_t length = sizeof(peer);
    struct kq_host_port from = {.host = "?"};
    if (getpeername(handshake->arrived.transport.fd, (struct sockaddr *)&peer, &length) == 0)
        kq_address_format(&peer, &from);
    kq_diag_limited(SAY_EACH_MS, LOG_WARNING, "%s: client %s: no TLS connection: %s",
                    handshake->arrived.listener->name, from.host, handshake->reason);
}

/* Its memory stays until the events of this turn, and a step under way, no longer name it. */
static void end(struct kq_handshake *handshake)
{
    struct kq_shard *shard = handshake->arrived.shard;
    LIST_REMOVE(handshake, list);
    kq_loop_cancel_timer(shard->loop, &handshake->timer);
    atomic_fetch_sub(&counts_of(handshake)->under_way, 1);
    handshake->task.run = free_handshake;
    kq_loop_soon(shard->loop, &handshake->task);
}

static void report(struct kq_handshake *handshake, enum kq_tls_count why)
{
    kq_tls_count(counts_of(handshake), why);
    if (why == KQ_TLS_BAD_CERTIFICATE || handshake->result == -EACCES)
        kq_audit_tls(server_of(handshake)->audit, handshake->arrived.listener->name,
                     &handshake->arrived.peer, NULL, KQ_UID_UNKNOWN, handshake->reason);
    else if (why != KQ_TLS_BROKEN_OFF)
        say(handshake);
}

static void give_up(struct kq_handshake *handshake, enum kq_tls_count why)
{
    if (handshake->ended)
        return;
    handshake->ended = true;
    if (!handshake->parting)
        report(handshake, why);
    if (!handshake->running)
        end(handshake);
}

/* Until the client has closed too, or its time is over: with bytes unread, and a client of TLS 1.3
 * has sent its first request by then, close(2) would take back the alert that says why. */
static void part(struct kq_handshake *handshake)
{
    char buffer[4096];
    ssize_t n = 1;
    while (n > 0 && handshake->parted < PARTING_BYTES) {
        n = recv(handshake->arrived.transport.fd, buffer, sizeof(buffer), MSG_DONTWAIT);
        handshake->parted += n > 0 ? (size_t)n : 0;
    }
    if (n >= 0 || (errno != EAGAIN && errno != EINTR))
        give_up(handshake, handshake->failure);
}

static void refuse(struct kq_handshake *handshake)
{
    report(handshake, handshake->failure);
    handshake->parting = true;
    shutdown(handshake->arrived.transport.fd, SHUT_WR);
    part(handshake);
}

static void log_connection(const struct kq_handshake *handshake)
{
    SSL *ssl = handshake->ssl;
    kq_diag(LOG_DEBUG, "%s: %s, %s, %s: %s encrypts", handshake->arrived.listener->name,
            SSL_get_version(ssl), SSL_get_cipher_name(ssl),
            SSL_session_reused(ssl) ? "resumed" : "full handshake",
            kq_tls_is_kernel(ssl) ? "the kernel" : "the broker");
}

/* The connection watches the descriptor itself. */
static void become_connection(struct kq_handshake *handshake)
{
    struct kq_arrived *arrived = &handshake->arrived;
    struct kq_server *server = server_of(handshake);
    struct kq_shard *shard = arrived->shard;
    kq_tls_count(counts_of(handshake),
                 SSL_session_reused(handshake->ssl) ? KQ_TLS_RESUMED : KQ_TLS_FULL);
    log_connection(handshake);
    kq_audit_tls(server->audit, arrived->listener->name, &arrived->peer,
                 arrived->identity->principal, arrived->identity->uid, NULL);
    kq_loop_unwatch(shard->loop, arrived->transport.fd);
    handshake->ended = handshake->handed_over = true;
    end(handshake);
    int r = kq_tls_init_consume(&arrived->transport, handshake->ssl, &shard->tls);
    if (r == 0)
        handshake->ssl = NULL;
    kq_acceptor_begin(server, arrived, r);
}

/* --- In between, on the loop --- */

static void go_on(struct kq_handshake *handshake)
{
    handshake->running = true;
    handshake->again = false;
    kq_pool_submit(kq_tls_front_pool(server_of(handshake)->tls), &handshake->job);
}

static void step_done(struct kq_mail *mail)
{
    struct kq_handshake *handshake =
        (struct kq_handshake *)((char *)mail - offsetof(struct kq_handshake, mail));
    handshake->running = false;
    if (handshake->ended)
        end(handshake);
    else if (handshake->result == 0)
        become_connection(handshake);
    else if (handshake->result != -EAGAIN)
        refuse(handshake);
    else if (handshake->again)
        go_on(handshake);
}

static void ready(struct kq_watch *watch, uint32_t events)
{
    struct kq_handshake *handshake =
        (struct kq_handshake *)((char *)watch - offsetof(struct kq_handshake, watch));
    if (handshake->ended)
        return;
    if (handshake->parting)
        part(handshake);
    else if (handshake->running)
        handshake->again = true;
    else if (events & (handshake->wants | EPOLLERR | EPOLLHUP | EPOLLRDHUP))
        go_on(handshake);
}

static void expire(struct kq_timer *timer)
{
    struct kq_handshake *handshake =
        (struct kq_handshake *)((char *)timer - offsetof(struct kq_handshake, timer));
    snprintf(handshake->reason, sizeof(handshake->reason), "%s",
             "its handshake took longer than tls.handshake.timeout.ms");
    give_up(handshake, KQ_TLS_TIMED_OUT);
}

static void begin(struct kq_mail *mail)
{
    struct kq_handshake *handshake =
        (struct kq_handshake *)((char *)mail - offsetof(struct kq_handshake, mail));
    struct kq_shard *shard = handshake->arrived.shard;
    const struct kq_tls_settings *settings = kq_tls_front_settings(shard->server->tls);
    handshake->mail.deliver = step_done;
    LIST_INSERT_HEAD(&shard->handshakes, handshake, list);
    int r = kq_loop_watch(shard->loop, &handshake->watch, handshake->arrived.transport.fd,
                          EPOLLIN | EPOLLOUT | EPOLLRDHUP);
    if (r < 0 || shard->stopping) {
        snprintf(handshake->reason, sizeof(handshake->reason), "%s",
                 r < 0 ? strerror(-r) : "the broker stops");
        give_up(handshake, r < 0 ? KQ_TLS_NO_USER : KQ_TLS_BROKEN_OFF);
        return;
    }
    kq_loop_set_timer(shard->loop, &handshake->timer,
                      shard->loop->now_ns + settings->handshake_ms * NS_PER_MS);
}

void kq_handshake_end_all(struct kq_shard *shard)
{
    struct kq_handshake *handshake = LIST_FIRST(&shard->handshakes), *next;
    for (; handshake; handshake = next) {
        next = LIST_NEXT(handshake, list);
        give_up(handshake, KQ_TLS_BROKEN_OFF);
    }
}

/* --- The beginning --- */

static bool may_start(struct kq_server *server)
{
    struct kq_tls_counts *counts = kq_tls_front_counts(server->tls);
    unsigned most = kq_tls_front_settings(server->tls)->max_handshakes;
    if (atomic_fetch_add(&counts->under_way, 1) < most)
        return true;
    atomic_fetch_sub(&counts->under_way, 1);
    kq_tls_count(counts, KQ_TLS_TOO_MANY);
    kq_diag_limited(SAY_EACH_MS, LOG_WARNING,
                    "a connection was refused: tls.max.handshakes = %u are under way", most);
    return false;
}

void kq_handshake_start_consume(const struct kq_arrived *arrived)
{
    struct kq_server *server = arrived->shard->server;
    struct kq_arrived refused = *arrived;
    if (!may_start(server)) {
        kq_acceptor_drop(server, &refused);
        return;
    }
    struct kq_handshake *handshake = kq_zalloc(sizeof(*handshake));
    if (!handshake) {
        atomic_fetch_sub(&kq_tls_front_counts(server->tls)->under_way, 1);
        kq_acceptor_begin(server, &refused, -ENOMEM);
        return;
    }
    handshake->arrived = *arrived;
    handshake->wants = EPOLLIN;
    handshake->watch.ready = ready;
    handshake->timer.expire = expire;
    handshake->job.run = run_step;
    handshake->mail.deliver = begin;
    kq_loop_post(arrived->shard->loop, &handshake->mail);
}
