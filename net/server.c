/* The server as a whole: its listeners, its loops, what all connections share, start and stop.
 *
 * The first loop accepts and deals connections to the loop that has the fewest. Stopping goes the
 * other way: no more connections, no more reading, what is under way is taken back or answered,
 * then the loops end.
 */
#include "net/server.h"

#include <stdio.h>
#include <string.h>

#include "broker/base/clock.h"
#include "broker/base/diag.h"
#include "broker/base/mem.h"
#include "net/internal.h"
#include "net/listener.h"

#define NS_PER_MS INT64_C(1000000)
#define RETRY_NS (100 * NS_PER_MS)

void kq_server_queue(struct kq_server *server, size_t size)
{
    atomic_fetch_add_explicit(&server->queued_bytes, size, memory_order_relaxed);
}

void kq_server_unqueue(struct kq_server *server, size_t size)
{
    atomic_fetch_sub_explicit(&server->queued_bytes, size, memory_order_relaxed);
}

/* --- Connections come and go --- */

static struct kq_shard *choose_shard(struct kq_server *server)
{
    struct kq_shard *best = NULL;
    unsigned least = 0;
    for (unsigned i = 0; i < server->shard_count; i++) {
        struct kq_shard *shard = &server->shards[(server->next_shard + i) % server->shard_count];
        unsigned count = atomic_load_explicit(&shard->conn_count, memory_order_relaxed);
        if (!best || count < least) {
            best = shard;
            least = count;
        }
    }
    server->next_shard++;
    return best;
}

void kq_server_ended(struct kq_shard *shard, struct kq_listener *listener)
{
    struct kq_server *server = shard->server;
    pthread_mutex_lock(&server->lock);
    atomic_fetch_sub(&shard->conn_count, 1);
    if (atomic_fetch_sub(&server->connections, 1) == 1)
        pthread_cond_broadcast(&server->ended);
    pthread_mutex_unlock(&server->lock);
}

static bool accepted(struct kq_listener *listener, int fd, int64_t *retry_ns)
{
    struct kq_server *server = listener->context;
    if (fd < 0) {
        *retry_ns = kq_clock_mono_ns() + RETRY_NS;
        return false;
    }
    struct kq_shard *shard = choose_shard(server);
    atomic_fetch_add(&server->connections, 1);
    atomic_fetch_add(&shard->conn_count, 1);
    if (kq_conn_start_consume_fd(shard, listener, fd) < 0)
        kq_server_ended(shard, listener);
    return true;
}

/* --- Making it --- */

static int add_listener(struct kq_server *server, const char *text, size_t length)
{
    struct kq_address address;
    struct kq_listener *listener;
    int r = kq_address_parse(text, length, &address);
    if (r == 0)
        r = kq_listener_new(&address, &listener);
    if (r < 0)
        return r;
    listener->context = server;
    listener->accepted = accepted;
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
    for (; server->shard_count < count; server->shard_count++) {
        struct kq_shard *shard = &server->shards[server->shard_count];
        char name[16];
        snprintf(name, sizeof(name), "net-%u", server->shard_count);
        LIST_INIT(&shard->conns);
        shard->server = server;
        int r = kq_loop_new(name, &shard->loop);
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
    pthread_mutex_init(&server->lock, NULL);
    pthread_cond_init(&server->ended, NULL);
    int r = add_listeners(server, options->listen);
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
    for (unsigned i = 0; i < server->shard_count; i++)
        kq_loop_free(server->shards[i].loop);
    free(server->shards);
    pthread_mutex_destroy(&server->lock);
    pthread_cond_destroy(&server->ended);
    free(server);
}

/* --- Start and stop --- */

static int start_listeners(struct kq_server *server)
{
    struct kq_listener *listener;
    STAILQ_FOREACH (listener, &server->listeners, list) {
        int r = kq_listener_start(listener, server->shards[0].loop);
        if (r < 0)
            return r;
    }
    STAILQ_FOREACH (listener, &server->listeners, list)
        kq_diag(LOG_INFO, "listening at %s", listener->name);
    return 0;
}

int kq_server_start(struct kq_server *server, struct kq_broker *broker, struct kq_auth *auth)
{
    server->broker = broker;
    int r = kq_pool_new("net-worker", server->options.workers, &server->workers);
    if (r == 0)
        r = kq_pool_new("net-reader", server->options.readers, &server->readers);
    if (r == 0)
        r = start_listeners(server);
    for (unsigned i = 0; r == 0 && i < server->shard_count; i++)
        r = kq_loop_start(server->shards[i].loop);
    if (r < 0) {
        kq_diag(LOG_ERR, "cannot start to listen: %s", strerror(-r));
        kq_server_stop(server);
        return r;
    }
    server->started = true;
    return 0;
}

static void close_all(struct kq_timer *timer)
{
    struct kq_shard *shard = (struct kq_shard *)((char *)timer - offsetof(struct kq_shard, drain));
    struct kq_conn *conn;
    LIST_FOREACH (conn, &shard->conns, list)
        kq_conn_close(conn, NULL);
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
    pthread_mutex_lock(&server->lock);
    while (atomic_load(&server->connections) > 0)
        pthread_cond_wait(&server->ended, &server->lock);
    pthread_mutex_unlock(&server->lock);
}

void kq_server_stop(struct kq_server *server)
{
    if (server->started)
        end_connections(server);
    for (unsigned i = 0; i < server->shard_count; i++)
        kq_loop_stop(server->shards[i].loop);
    kq_pool_free(server->workers);
    kq_pool_free(server->readers);
    server->workers = server->readers = NULL;
    server->started = false;
}
