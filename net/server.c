/* The server as a whole: its listeners, its loops, what all connections share, start and stop.
 *
 * The first loop accepts and deals connections to the loop that has the fewest. Stopping goes the
 * other way: no more connections, no more reading, what is under way is taken back or answered,
 * then the loops end.
 */
#include "net/server.h"

#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "broker/base/clock.h"
#include "broker/base/diag.h"
#include "broker/base/mem.h"
#include "broker/quota.h"
#include "net/acceptor.h"
#include "net/admit.h"
#include "net/identify.h"
#include "net/internal.h"
#include "net/listener.h"
#include "net/sasl.h"
#include "net/tlsfront.h"
#include "net/tlshandshake.h"

#define NS_PER_MS INT64_C(1000000)

/* --- Making it --- */

/* PLAIN alone, without TLS, leaves nothing to log in with. */
static int check_mechanisms(const struct kq_server *server, const struct kq_address *address,
                            const char *text, size_t length)
{
    if (!address->sasl || kq_sasl_is_offered(server, address->tls))
        return 0;
    kq_diag(LOG_ERR,
            "listen: %.*s: none of `mechanisms` may be used here, since PLAIN shows the password "
            "to the network; add SCRAM-SHA-256, or set plain_without_tls",
            (int)length, text);
    return -EINVAL;
}

static int add_listener(struct kq_server *server, const char *text, size_t length)
{
    struct kq_address address;
    struct kq_listener *listener;
    int r = kq_address_parse(text, length, &address);
    if (r == 0)
        r = check_mechanisms(server, &address, text, length);
    if (r == 0)
        r = kq_listener_new(&address, &listener);
    if (r == 0 && address.tls) {
        r = kq_tls_front_add(server->tls, &address, listener->name, &listener->tls);
        if (r != 0)
            kq_listener_free(listener);
    }
    if (r != 0)
        return r;
    listener->context = server->acceptor;
    listener->accepted = kq_acceptor_take;
    STAILQ_INSERT_TAIL(&server->listeners, listener, list);
    return 0;
}

static int add_listeners(struct kq_server *server, const char *text)
{
    int r = 0;
    while (r == 0 && *(text += strspn(text, " \t"))) {
        size_t length = strcspn(text, " \t");
        r = add_listener(server, text, length);
        text += length;
    }
    return r;
}

static int make_shards(struct kq_server *server)
{
    unsigned count = server->options.threads;
    server->shards = kq_zalloc(count * sizeof(*server->shards));
    if (!server->shards)
        return -ENOMEM;
    while (server->shard_count < count) {
        struct kq_shard *shard = &server->shards[server->shard_count];
        char name[16];
        snprintf(name, sizeof(name), "net-%u", server->shard_count++);
        LIST_INIT(&shard->conns);
        LIST_INIT(&shard->handshakes);
        shard->tls = (struct kq_tls_desk){
            .counts = kq_tls_front_counts(server->tls),
            .buffer_bytes = (size_t)server->options.tls.buffer_bytes,
            .max_records = (uint64_t)server->options.tls.max_records,
        };
        shard->server = server;
        kq_crowd_init(shard);
        int r = kq_loop_new(name, &shard->loop);
        shard->spares.loop = shard->loop;
        if (r == 0)
            r = kq_telemetry_new(&shard->telemetry);
        if (r < 0)
            return r;
    }
    return 0;
}

int kq_server_new(const struct kq_server_options *options, struct kq_server **ret)
{
    struct kq_server *server = kq_zalloc(sizeof(*server));
    if (!server)
        return -ENOMEM;
    server->options = *options;
    STAILQ_INIT(&server->listeners);
    int r = kq_acceptor_new(server, &server->acceptor);
    if (r == 0)
        r = kq_admit_new(options->max_connections, options->max_connections_per_ip, &server->admit);
    if (r == 0)
        r = kq_identify_new(options->plaintext_user, &server->identify);
    if (r == 0 && options->audit.level != KQ_AUDIT_NONE)
        r = kq_audit_new(&options->audit, &server->audit);
    if (r == 0)
        r = kq_tls_front_new(&server->options.tls, &server->tls);
    if (r == 0)
        r = add_listeners(server, options->listen);
    if (r == 0)
        r = make_shards(server);
    if (r < 0) {
        if (r == -ENOMEM)
            kq_diag(LOG_ERR, "out of memory");
        kq_server_free(server);
        return r;
    }
    *ret = server;
    return 0;
}

void kq_server_free(struct kq_server *server)
{
    struct kq_listener *listener;
    if (!server)
        return;
    while ((listener = STAILQ_FIRST(&server->listeners))) {
        STAILQ_REMOVE_HEAD(&server->listeners, list);
        kq_listener_free(listener);
    }
    for (unsigned i = 0; i < server->shard_count; i++) {
        kq_spares_release(&server->shards[i].spares);
        kq_loop_free(server->shards[i].loop);
        kq_telemetry_free(server->shards[i].telemetry);
        kq_tls_desk_release(&server->shards[i].tls);
    }
    kq_tls_front_free(server->tls);
    kq_acceptor_free(server->acceptor);
    kq_admit_free(server->admit);
    kq_identify_free(server->identify);
    kq_audit_free(server->audit);
    free(server->shards);
    free(server);
}

/* --- Start and stop --- */

void kq_server_announce(const struct kq_server *server)
{
    const struct kq_listener *listener;
    STAILQ_FOREACH (listener, &server->listeners, list)
        kq_diag(LOG_INFO, "listening at %s", listener->name);
}

static void warn(const struct kq_server *server, const struct kq_listener *listener)
{
    if (!listener->address.sasl && !listener->address.tls && !listener->address.is_loopback &&
        !server->options.plaintext_user[0])
        kq_diag(LOG_WARNING,
                "%s: clients from other hosts are nobody here, with the rights of `other`; set "
                "plaintext.user to give them those of a user",
                listener->name);
}

static int start_listeners(struct kq_server *server)
{
    struct kq_listener *listener;
    STAILQ_FOREACH (listener, &server->listeners, list) {
        int r = kq_listener_start(listener, server->shards[0].loop);
        if (r < 0)
            return r;
    }
    STAILQ_FOREACH (listener, &server->listeners, list)
        warn(server, listener);
    return 0;
}

static int start_threads(struct kq_server *server)
{
    int r = kq_pool_new("net-worker", server->options.workers, &server->workers);
    if (r == 0)
        r = kq_pool_new("net-reader", server->options.readers, &server->readers);
    if (r == 0)
        r = kq_tls_front_start(server->tls);
    for (unsigned i = 0; r == 0 && i < server->shard_count; i++)
        r = kq_loop_start(server->shards[i].loop);
    if (r < 0)
        kq_diag(LOG_ERR, "cannot start the threads of the network: %s", strerror(-r));
    return r;
}

static int format_metrics(struct kq_metric_source *source, struct kq_buf *ret)
{
    const struct kq_server *server =
        (struct kq_server *)((char *)source - offsetof(struct kq_server, metrics));
    int r = kq_telemetry_format(server, ret);
    if (r == 0)
        r = kq_upkeep_format(&server->upkeep, ret);
    return r == 0 && server->audit ? kq_audit_format(server->audit, ret) : r;
}

int kq_server_start(struct kq_server *server, struct kq_broker *broker)
{
    server->broker = broker;
    server->quotas = broker ? kq_broker_quotas(broker) : NULL;
    int r = start_threads(server);
    server->started = r == 0;
    if (r == 0)
        r = start_listeners(server);
    if (r < 0) {
        kq_server_stop(server);
        return r;
    }
    kq_upkeep_start(&server->upkeep, server);
    server->metrics.format = format_metrics;
    kq_metric_source_add(&server->metrics);
    return 0;
}

static void close_all(struct kq_timer *timer)
{
    struct kq_shard *shard = (struct kq_shard *)((char *)timer - offsetof(struct kq_shard, drain));
    struct kq_conn *conn;
    LIST_FOREACH (conn, &shard->conns, list)
        kq_conn_close(conn, KQ_TALLY_UNDRAINED);
}

static void stop_shard(struct kq_mail *mail)
{
    struct kq_shard *shard =
        (struct kq_shard *)((char *)mail - offsetof(struct kq_shard, stop_mail));
    struct kq_server *server = shard->server;
    struct kq_listener *listener;
    struct kq_conn *conn;
    shard->stopping = true;
    if (shard == &server->shards[0])
        STAILQ_FOREACH (listener, &server->listeners, list)
            kq_listener_stop(listener);
    if (shard == &server->shards[0])
        kq_upkeep_stop(&server->upkeep);
    kq_handshake_end_all(shard);
    LIST_FOREACH (conn, &shard->conns, list) {
        kq_conn_drain(conn);
        kq_conn_cancel_requests(conn);
    }
    shard->drain.expire = close_all;
    kq_loop_set_timer(shard->loop, &shard->drain,
                      kq_clock_mono_ns() + server->options.drain_ms * NS_PER_MS);
}

static void end_connections(struct kq_server *server)
{
    for (unsigned i = 0; i < server->shard_count; i++) {
        server->shards[i].stop_mail.deliver = stop_shard;
        kq_loop_post(server->shards[i].loop, &server->shards[i].stop_mail);
    }
    kq_admit_wait(server->admit);
}

bool kq_server_reload(struct kq_server *server)
{
    return kq_tls_front_reload(server->tls);
}

void kq_server_stop(struct kq_server *server)
{
    kq_metric_source_remove(&server->metrics);
    if (server->started)
        end_connections(server);
    for (unsigned i = 0; i < server->shard_count; i++)
        kq_loop_stop(server->shards[i].loop);
    kq_tls_front_stop(server->tls);
    kq_pool_free(server->workers);
    kq_pool_free(server->readers);
    server->workers = server->readers = NULL;
    server->started = false;
}
