#include "net/upkeep.h"

#include <stddef.h>

#include "auth/principals.h"
#include "broker/base/clock.h"
#include "broker/base/diag.h"
#include "broker/metrics.h"
#include "net/audit.h"
#include "net/internal.h"

#define NS_PER_MS INT64_C(1000000)
#define SAY_EACH_MS 60000
#define LONGEST_MS 15000

static int64_t period_ms(const struct kq_server *server)
{
    const struct kq_principals *principals = server->options.principals;
    int64_t quarter_ms = principals ? kq_principals_refresh_ms(principals) / 4 : LONGEST_MS;
    return kq_max64(1, kq_min64(quarter_ms, LONGEST_MS));
}

/* --- On a worker --- */

static void count(atomic_uint_fast64_t *counter, unsigned amount)
{
    atomic_fetch_add_explicit(counter, amount, memory_order_relaxed);
}

static void refresh(struct kq_upkeep *upkeep, struct kq_principals *principals)
{
    struct kq_principals_refreshed refreshed;
    kq_principals_refresh(principals, &refreshed);
    count(&upkeep->same, refreshed.same);
    count(&upkeep->changed, refreshed.changed);
    count(&upkeep->failed, refreshed.failed);
    if (refreshed.failed)
        kq_diag_limited(SAY_EACH_MS, LOG_WARNING,
                        "%u users of open connections cannot be looked up, and keep the groups "
                        "that they had: see nsswitch.conf(5)",
                        refreshed.failed);
}

static void run(struct kq_job *job)
{
    struct kq_upkeep *upkeep = (struct kq_upkeep *)((char *)job - offsetof(struct kq_upkeep, job));
    struct kq_server *server = upkeep->server;
    struct kq_principals *principals = server->options.principals;
    if (principals && kq_principals_in_use(principals))
        refresh(upkeep, principals);
    if (server->audit)
        kq_audit_sum_up(server->audit);
    kq_loop_post(server->shards[0].loop, &upkeep->mail);
}

/* --- On the loop --- */

static void expire(struct kq_timer *timer)
{
    struct kq_upkeep *upkeep =
        (struct kq_upkeep *)((char *)timer - offsetof(struct kq_upkeep, timer));
    kq_pool_submit(upkeep->server->workers, &upkeep->job);
}

static void set_timer(struct kq_mail *mail)
{
    struct kq_upkeep *upkeep =
        (struct kq_upkeep *)((char *)mail - offsetof(struct kq_upkeep, mail));
    struct kq_shard *shard = &upkeep->server->shards[0];
    if (!shard->stopping)
        kq_loop_set_timer(shard->loop, &upkeep->timer,
                          shard->loop->now_ns + period_ms(upkeep->server) * NS_PER_MS);
}

void kq_upkeep_start(struct kq_upkeep *upkeep, struct kq_server *server)
{
    upkeep->server = server;
    upkeep->timer.expire = expire;
    upkeep->mail.deliver = set_timer;
    upkeep->job.run = run;
    kq_loop_post(server->shards[0].loop, &upkeep->mail);
}

void kq_upkeep_stop(struct kq_upkeep *upkeep)
{
    if (upkeep->timer.set)
        kq_loop_cancel_timer(upkeep->server->shards[0].loop, &upkeep->timer);
}

int kq_upkeep_format(const struct kq_upkeep *upkeep, struct kq_buf *ret)
{
    static const struct {
        const char *label;
        size_t offset;
    } shown[] = {{"same", offsetof(struct kq_upkeep, same)},
                 {"changed", offsetof(struct kq_upkeep, changed)},
                 {"failed", offsetof(struct kq_upkeep, failed)}};
    int r = kq_metrics_head(ret, "kqfs_net_users_refreshed_total",
                            "Users of open connections that were looked up anew.", KQ_COUNTER);
    for (size_t i = 0; r == 0 && i < kq_array_size(shown); i++) {
        const char *counter = (const char *)upkeep + shown[i].offset;
        uint64_t value =
            atomic_load_explicit((atomic_uint_fast64_t *)(uintptr_t)counter, memory_order_relaxed);
        r = kq_buf_printf(ret, "kqfs_net_users_refreshed_total{result=\"%s\"} %llu\n",
                          shown[i].label, (unsigned long long)value);
    }
    return r;
}
