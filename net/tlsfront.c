#include "net/tlsfront.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>
#include <string.h>
#include <sys/queue.h>

#include "broker/base/clock.h"
#include "broker/base/diag.h"
#include "broker/base/mem.h"
#include "broker/base/pool.h"
#include "broker/base/timers.h"

#define NS_PER_MS INT64_C(1000000)

struct context {
    SLIST_ENTRY(context) list;
    struct kq_tls *tls;
    char where[];
};

struct kq_tls_front {
    const struct kq_tls_settings *settings;
    SLIST_HEAD(, context) contexts;
    struct kq_tls_counts counts;
    struct kq_metric_source metrics;
    struct kq_pool *pool;
    struct kq_timers *timers;
    struct kq_timer timer;
    atomic_bool forced; /* the files are read even if they look the same */
    pthread_mutex_t lock;
    bool running; /* between start and stop */
};

int kq_tls_front_new(const struct kq_tls_settings *settings, struct kq_tls_front **ret)
{
    struct kq_tls_front *front = kq_zalloc(sizeof(*front));
    if (!front)
        return -ENOMEM;
    front->settings = settings;
    SLIST_INIT(&front->contexts);
    pthread_mutex_init(&front->lock, NULL);
    *ret = front;
    return 0;
}

void kq_tls_front_free(struct kq_tls_front *front)
{
    struct context *context;
    if (!front)
        return;
    while ((context = SLIST_FIRST(&front->contexts))) {
        SLIST_REMOVE_HEAD(&front->contexts, list);
        kq_tls_free(context->tls);
        free(context);
    }
    pthread_mutex_destroy(&front->lock);
    free(front);
}

/* --- Contexts --- */

/* The listener's own, or else the one of the settings, which may be NULL. *RET is the caller's. */
static int choose(struct kq_address_option own, const char *common, char **ret)
{
    char *chosen =
        own.length ? kq_format("%.*s", (int)own.length, own.at) : kq_strdup(common ? common : "");
    if (!chosen)
        return -ENOMEM;
    *ret = chosen;
    return 0;
}

static int parse_clients(const struct kq_tls_front *front, const struct kq_address *address,
                         const char *where, enum kq_tls_clients *ret)
{
    struct kq_address_option word = address->client_authentication;
    const char *common = front->settings->client_authentication;
    if (!word.length && common && common[0])
        word = (struct kq_address_option){common, strlen(common)};
    if (!word.length)
        word = (struct kq_address_option){"none", 4};
    if (kq_tls_parse_clients(word.at, word.length, ret))
        return 0;
    kq_diag(LOG_ERR, "%s: client_authentication `%.*s` is none of none, requested and required",
            where, (int)(word.length < 40 ? word.length : 40), word.at);
    return -EINVAL;
}

static int make_tls(struct kq_tls_front *front, const struct kq_address *address, const char *where,
                    struct kq_tls **ret)
{
    const struct kq_tls_settings *common = front->settings;
    kq_autofree char *certificate = NULL, *key = NULL, *ca = NULL, *crl = NULL;
    enum kq_tls_clients clients = KQ_TLS_CLIENTS_NONE;
    int r = parse_clients(front, address, where, &clients);
    if (r == 0)
        r = choose(address->certificate, common->certificate, &certificate);
    if (r == 0)
        r = choose(address->key, common->key, &key);
    if (r == 0)
        r = choose(address->ca, common->ca, &ca);
    if (r == 0)
        r = choose(address->crl, common->crl, &crl);
    struct kq_tls_files files = {certificate, key, ca, crl, clients};
    return r ? r : kq_tls_new(&files, where, ret);
}

int kq_tls_front_add(struct kq_tls_front *front, const struct kq_address *address,
                     const char *where, struct kq_tls **ret)
{
    size_t size = strlen(where) + 1;
    struct context *context = kq_zalloc(sizeof(*context) + size);
    if (!context)
        return -ENOMEM;
    memcpy(context->where, where, size);
    int r = make_tls(front, address, where, &context->tls);
    if (r < 0) {
        free(context);
        return r;
    }
    SLIST_INSERT_HEAD(&front->contexts, context, list);
    *ret = context->tls;
    return 0;
}

/* --- Following the files --- */

static void reload(struct kq_tls_front *front, struct context *context, bool force)
{
    bool changed = false;
    int r = kq_tls_reload(context->tls, force, &changed);
    if (r < 0) {
        kq_tls_count(&front->counts, KQ_TLS_NOT_RELOADED);
        kq_diag_limited(1000, LOG_WARNING, "%s: goes on with the certificates that it had",
                        context->where);
    } else if (changed) {
        kq_tls_count(&front->counts, KQ_TLS_RELOADED);
        kq_diag(LOG_NOTICE, "%s: new connections get the certificates that are there now",
                context->where);
    }
}

static bool set_timer(struct kq_tls_front *front, int64_t wait_ms)
{
    pthread_mutex_lock(&front->lock);
    bool running = front->running;
    if (running)
        kq_timers_set(front->timers, &front->timer, kq_clock_mono_ns() + wait_ms * NS_PER_MS);
    pthread_mutex_unlock(&front->lock);
    return running;
}

static void look(struct kq_timer *timer)
{
    struct kq_tls_front *front =
        (struct kq_tls_front *)((char *)timer - offsetof(struct kq_tls_front, timer));
    bool force = atomic_exchange(&front->forced, false);
    struct context *context;
    SLIST_FOREACH(context, &front->contexts, list)
    reload(front, context, force);
    set_timer(front, atomic_load(&front->forced) ? 0 : front->settings->reload_ms);
}

bool kq_tls_front_reload(struct kq_tls_front *front)
{
    atomic_store(&front->forced, true);
    return set_timer(front, 0);
}

/* --- Start and stop --- */

static int format(struct kq_metric_source *source, struct kq_buf *ret)
{
    struct kq_tls_front *front =
        (struct kq_tls_front *)((char *)source - offsetof(struct kq_tls_front, metrics));
    return kq_tls_counts_format(&front->counts, ret);
}

int kq_tls_front_start(struct kq_tls_front *front)
{
    if (SLIST_EMPTY(&front->contexts))
        return 0;
    int r = kq_pool_new("tls-handshake", front->settings->threads, &front->pool);
    if (r == 0)
        r = kq_timers_new("tls-files", &front->timers);
    if (r < 0)
        return r;
    front->metrics.format = format;
    kq_metric_source_add(&front->metrics);
    front->timer.expire = look;
    pthread_mutex_lock(&front->lock);
    front->running = true;
    pthread_mutex_unlock(&front->lock);
    set_timer(front, front->settings->reload_ms);
    return 0;
}

void kq_tls_front_stop(struct kq_tls_front *front)
{
    pthread_mutex_lock(&front->lock);
    front->running = false;
    pthread_mutex_unlock(&front->lock);
    kq_metric_source_remove(&front->metrics);
    kq_timers_free(front->timers);
    kq_pool_free(front->pool);
    front->timers = NULL;
    front->pool = NULL;
}

const struct kq_tls_settings *kq_tls_front_settings(const struct kq_tls_front *front)
{
    return front->settings;
}

struct kq_tls_counts *kq_tls_front_counts(struct kq_tls_front *front)
{
    return &front->counts;
}

struct kq_pool *kq_tls_front_pool(struct kq_tls_front *front)
{
    return front->pool;
}
