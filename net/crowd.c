/* Requests take memory before anything is known about who sends them, so there is a limit for all
 * connections together: above it nobody is read until some requests are done.
 *
 * Parts of requests count too, so those alone could fill it, and none of them would ever be
 * whole. So one connection of each loop may go on with its part; when that is a request, or was
 * given up for being too slow, it is the next one's turn.
 */
#include <stddef.h>

#include "net/internal.h"

static uint64_t limit(const struct kq_server *server)
{
    return (uint64_t)server->options.max_queued_bytes;
}

void kq_server_queue(struct kq_server *server, size_t size)
{
    atomic_fetch_add(&server->queued_bytes, size);
}

static void relieve(struct kq_shard *shard)
{
    struct kq_conn *conn;
    while ((conn = TAILQ_FIRST(&shard->crowded))) {
        TAILQ_REMOVE(&shard->crowded, conn, crowd);
        conn->is_crowded = false;
        kq_conn_kick(conn);
    }
}

static void deliver_relief(struct kq_mail *mail)
{
    struct kq_shard *shard =
        (struct kq_shard *)((char *)mail - offsetof(struct kq_shard, relief_mail));
    atomic_store(&shard->relief_posted, false);
    relieve(shard);
}

void kq_crowd_init(struct kq_shard *shard)
{
    TAILQ_INIT(&shard->crowded);
    shard->relief_mail.deliver = deliver_relief;
}

void kq_server_unqueue(struct kq_server *server, size_t size)
{
    uint64_t before = atomic_fetch_sub(&server->queued_bytes, size);
    if (before <= limit(server) || before - size > limit(server))
        return;
    for (unsigned i = 0; i < server->shard_count; i++) {
        struct kq_shard *shard = &server->shards[i];
        if (!atomic_exchange(&shard->relief_posted, true))
            kq_loop_post(shard->loop, &shard->relief_mail);
    }
}

static void leave(struct kq_conn *conn)
{
    if (conn->is_crowded)
        TAILQ_REMOVE(&conn->shard->crowded, conn, crowd);
    conn->is_crowded = false;
}

bool kq_crowd_may_receive(struct kq_conn *conn)
{
    struct kq_shard *shard = conn->shard;
    bool has_room = atomic_load(&shard->server->queued_bytes) <= limit(shard->server);
    bool is_its_turn = conn->part_size && (!shard->favoured || shard->favoured == conn);
    if (has_room || is_its_turn) {
        if (!has_room)
            shard->favoured = conn;
        leave(conn);
        return true;
    }
    if (!conn->is_crowded) {
        conn->is_crowded = true;
        TAILQ_INSERT_TAIL(&shard->crowded, conn, crowd);
        kq_tally(shard->telemetry, KQ_TALLY_CROWDED, 1);
    }
    return false;
}

void kq_crowd_done(struct kq_conn *conn)
{
    leave(conn);
    if (conn->shard->favoured != conn)
        return;
    conn->shard->favoured = NULL;
    relieve(conn->shard);
}
