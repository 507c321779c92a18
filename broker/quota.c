#include "broker/quota.h"

#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

#include "broker/base/diag.h"
#include "broker/base/io.h"
#include "broker/base/mem.h"
#include "broker/group.h"
#include "broker/internal.h"
#include "broker/metrics.h"
#include "broker/quotaaccount.h"
#include "broker/quotafile.h"
#include "broker/quotarate.h"
#include "broker/quotas.h"

#define NS_PER_MS INT64_C(1000000)
#define NS_PER_S INT64_C(1000000000)
#define DAMAGED KQ_QUOTA_FILE ".damaged"

static const struct kq_quota_options defaults = {
    .windows = 11, .window_s = 1, .max_entities = 10000, .max_accounts = 10000};

struct kq_quotas {
    struct kq_quota_options options;
    struct kq_quota_windows windows;
    int dirfd;
    pthread_mutex_t change; /* who alters; held over disk writes */
    pthread_rwlock_t lock;  /* of BOOK; never held over disk I/O */
    struct kq_quota_book *book;
    atomic_uint types; /* a bit for each type of which there is a quota */
    struct kq_quota_accounts *accounts;
    struct kq_metric_source metrics;
    atomic_uint_fast64_t overdrawn[KQ_QUOTA_TYPES], held_ms[KQ_QUOTA_TYPES];
};

static const char *const names[KQ_QUOTA_TYPES] = {
    [KQ_QUOTA_PRODUCE] = "producer_byte_rate",
    [KQ_QUOTA_FETCH] = "consumer_byte_rate",
    [KQ_QUOTA_REQUEST] = "request_percentage",
};

const char *kq_quota_name(enum kq_quota_type type)
{
    return names[type];
}

enum kq_quota_type kq_quota_type_of(const char *name, size_t length)
{
    int type = 0;
    while (type < KQ_QUOTA_TYPES &&
           (strlen(names[type]) != length || memcmp(names[type], name, length) != 0))
        type++;
    return (enum kq_quota_type)type;
}

struct kq_quotas *kq_broker_quotas(struct kq_broker *broker)
{
    return broker->quotas;
}

/* --- Metrics --- */

static int format_type(struct kq_quotas *quotas, struct kq_buf *ret, const char *name,
                       const char *help, atomic_uint_fast64_t *counters, double unit)
{
    int r = kq_metrics_head(ret, name, help, KQ_COUNTER);
    for (int i = 0; i < KQ_QUOTA_TYPES && r == 0; i++)
        r = kq_buf_printf(ret, "%s{quota=\"%s\"} %.9g\n", name, names[i],
                          (double)atomic_load(&counters[i]) * unit);
    return r;
}

static int format_number(struct kq_buf *ret, const char *name, const char *help,
                         enum kq_metric_type type, uint64_t value)
{
    int r = kq_metrics_head(ret, name, help, type);
    return r < 0 ? r : kq_buf_printf(ret, "%s %llu\n", name, (unsigned long long)value);
}

static int format_metrics(struct kq_metric_source *source, struct kq_buf *ret)
{
    struct kq_quotas *quotas =
        (struct kq_quotas *)((char *)source - offsetof(struct kq_quotas, metrics));
    struct kq_quota_accounts_facts facts;
    pthread_rwlock_rdlock(&quotas->lock);
    size_t entities = kq_quota_book_count(quotas->book);
    pthread_rwlock_unlock(&quotas->lock);
    kq_quota_accounts_facts(quotas->accounts, &facts);
    int r = format_number(ret, "kqfs_quota_entities",
                          "Users, client ids and client ids of users that have quotas.", KQ_GAUGE,
                          entities);
    if (r == 0)
        r = format_number(ret, "kqfs_quota_accounts", "Accounts in use that quotas are charged to.",
                          KQ_GAUGE, facts.count);
    if (r == 0)
        r = format_number(ret, "kqfs_quota_accounts_evicted_total",
                          "Accounts in use that were forgotten: quota.max.accounts.", KQ_COUNTER,
                          facts.evicted);
    if (r == 0)
        r = format_type(quotas, ret, "kqfs_quota_overdrawn_total",
                        "Requests whose client had to hold back.", quotas->overdrawn, 1);
    if (r == 0)
        r = format_type(quotas, ret, "kqfs_quota_held_seconds_total",
                        "For how long clients had to hold back.", quotas->held_ms, 1e-3);
    return r;
}

/* --- Opening and closing --- */

static void note_types(struct kq_quotas *quotas)
{
    unsigned types = 0;
    for (int i = 0; i < KQ_QUOTA_TYPES; i++)
        if (kq_quota_book_has(quotas->book, (enum kq_quota_type)i))
            types |= 1u << i;
    atomic_store(&quotas->types, types);
}

static int read_book(struct kq_quotas *quotas)
{
    int r = kq_quota_file_read(quotas->dirfd, &quotas->book);
    if (r == -EBADMSG) {
        r = kq_io_rename(quotas->dirfd, KQ_QUOTA_FILE, quotas->dirfd, DAMAGED);
        if (r == 0)
            kq_diag(LOG_ERR, KQ_QUOTA_FILE " is damaged and is now called " DAMAGED
                                           ": no quotas apply until they are set again");
    } else if (r != -ENOENT) {
        return r;
    }
    return r < 0 && r != -ENOENT ? r : kq_quota_book_new(&quotas->book);
}

int kq_quotas_open(const struct kq_quota_options *options, int dirfd, struct kq_quotas **ret)
{
    struct kq_quotas *quotas = kq_zalloc(sizeof(*quotas));
    if (!quotas)
        return -ENOMEM;
    quotas->options = options->windows ? *options : defaults;
    quotas->windows = (struct kq_quota_windows){.count = (uint32_t)quotas->options.windows,
                                                .ms = quotas->options.window_s * INT64_C(1000)};
    quotas->dirfd = dirfd;
    pthread_mutex_init(&quotas->change, NULL);
    pthread_rwlock_init(&quotas->lock, NULL);
    quotas->metrics.format = format_metrics;
    int r = read_book(quotas);
    if (r < 0)
        kq_diag(LOG_ERR, "cannot read " KQ_QUOTA_FILE ": %s", strerror(-r));
    if (r == 0)
        r = kq_quota_accounts_new(&quotas->windows, quotas->options.max_accounts,
                                  &quotas->accounts);
    if (r < 0) {
        kq_quotas_close(quotas);
        return r;
    }
    note_types(quotas);
    kq_metric_source_add(&quotas->metrics);
    *ret = quotas;
    return 0;
}

void kq_quotas_close(struct kq_quotas *quotas)
{
    if (!quotas)
        return;
    kq_metric_source_remove(&quotas->metrics);
    kq_quota_accounts_free(quotas->accounts);
    kq_quota_book_free(quotas->book);
    pthread_rwlock_destroy(&quotas->lock);
    pthread_mutex_destroy(&quotas->change);
    free(quotas);
}

/* --- Setting --- */

static bool is_name(const char *name)
{
    return !name || (*name && kq_groups_name_valid(kq_str_of(name)));
}

bool kq_quota_entity_valid(const struct kq_quota_entity *entity)
{
    return (entity->has_user || entity->has_client) && is_name(entity->user) &&
           is_name(entity->client);
}

static bool is_sound(const struct kq_quota_change *change)
{
    return kq_quota_entity_valid(&change->entity) && isfinite(change->value) && change->value >= 0;
}

static int make_book(const struct kq_quotas *quotas, const struct kq_quota_change *changes,
                     size_t count, struct kq_quota_book **ret)
{
    struct kq_quota_book *book;
    int r = kq_quota_book_copy(quotas->book, &book);
    if (r < 0)
        return r;
    for (size_t i = 0; i < count && r == 0; i++)
        r = is_sound(&changes[i])
                ? kq_quota_book_set(book, &changes[i].entity, changes[i].type, changes[i].value)
                : -EINVAL;
    if (r < 0)
        kq_quota_book_free(book);
    else
        *ret = book;
    return r;
}

static void swap_book(struct kq_quotas *quotas, struct kq_quota_book **book)
{
    struct kq_quota_book *before = quotas->book;
    pthread_rwlock_wrlock(&quotas->lock);
    quotas->book = *book;
    note_types(quotas);
    pthread_rwlock_unlock(&quotas->lock);
    *book = before;
    if (atomic_load(&quotas->types) == 0)
        kq_quota_accounts_clear(quotas->accounts);
}

/* From now on what *BOOK says counts, and what counted before is in it. */
static int install(struct kq_quotas *quotas, struct kq_quota_book **book, bool check_only)
{
    kq_autobuf struct kq_buf bytes = {0};
    size_t entities = kq_quota_book_count(*book);
    if (entities > quotas->options.max_entities && entities > kq_quota_book_count(quotas->book))
        return -EDQUOT;
    int r = kq_quota_file_encode(*book, &bytes);
    if (r < 0 || check_only)
        return r == -EFBIG ? -EDQUOT : r;
    r = kq_quota_file_write(quotas->dirfd, &bytes);
    if (r < 0)
        kq_diag_limited(10000, LOG_ERR, "cannot write " KQ_QUOTA_FILE ": %s; the quotas stay",
                        strerror(-r));
    else
        swap_book(quotas, book);
    return r;
}

int kq_quotas_adopt(struct kq_quotas *quotas, const struct kq_quota_book *book)
{
    struct kq_quota_book *all;
    pthread_mutex_lock(&quotas->change);
    int r = kq_quota_book_copy(quotas->book, &all);
    if (r == 0) {
        r = kq_quota_book_merge(book, all);
        if (r == 0)
            r = install(quotas, &all, false);
        kq_quota_book_free(all);
    }
    pthread_mutex_unlock(&quotas->change);
    return r;
}

int kq_quota_alter(struct kq_broker *broker, const struct kq_caller *caller,
                   const struct kq_quota_change *changes, size_t count, bool check_only)
{
    struct kq_quotas *quotas = broker->quotas;
    int r = kq_authorize(broker, caller, KQ_RIGHT_CHANGE_ATTRIBUTES, NULL, NULL);
    if (r < 0 || count == 0)
        return r;
    struct kq_quota_book *book;
    pthread_mutex_lock(&quotas->change);
    r = make_book(quotas, changes, count, &book);
    if (r == 0) {
        r = install(quotas, &book, check_only);
        kq_quota_book_free(book);
    }
    pthread_mutex_unlock(&quotas->change);
    return r;
}

int kq_quota_each(struct kq_broker *broker, const struct kq_caller *caller,
                  int (*step)(void *context, const struct kq_quota_entity *entity,
                              const double *limits),
                  void *context)
{
    struct kq_quotas *quotas = broker->quotas;
    int r = kq_authorize(broker, caller, KQ_RIGHT_CHANGE_ATTRIBUTES, NULL, NULL);
    if (r < 0)
        return r;
    pthread_rwlock_rdlock(&quotas->lock);
    r = kq_quota_book_each(quotas->book, step, context);
    pthread_rwlock_unlock(&quotas->lock);
    return r;
}

/* --- Charging --- */

bool kq_quota_is_set(const struct kq_quotas *quotas, enum kq_quota_type type)
{
    return quotas && atomic_load_explicit(&quotas->types, memory_order_relaxed) & 1u << type;
}

/* A principal is a type and a name: "User:alice". */
static const char *user_of(const struct kq_caller *caller)
{
    const char *colon = caller->principal ? strchr(caller->principal, ':') : NULL;
    return colon ? colon + 1 : "";
}

static const char *client_of(const struct kq_caller *caller)
{
    return caller->client_id ? caller->client_id : "";
}

static bool find(struct kq_quotas *quotas, enum kq_quota_type type, const struct kq_caller *caller,
                 struct kq_quota_match *ret)
{
    if (!kq_quota_is_set(quotas, type))
        return false;
    pthread_rwlock_rdlock(&quotas->lock);
    bool found = kq_quota_book_find(quotas->book, type, user_of(caller), client_of(caller), ret);
    pthread_rwlock_unlock(&quotas->lock);
    return found;
}

static void note_overdrawn(struct kq_quotas *quotas, enum kq_quota_type type, int64_t held_ms)
{
    atomic_fetch_add_explicit(&quotas->overdrawn[type], 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&quotas->held_ms[type], (uint64_t)held_ms, memory_order_relaxed);
}

static int32_t take(struct kq_quotas *quotas, enum kq_quota_type type,
                    const struct kq_caller *caller, int64_t amount, bool always, int64_t now_ns,
                    bool *ret_taken)
{
    struct kq_quota_match match;
    *ret_taken = true;
    if (kq_likely(!find(quotas, type, caller, &match)))
        return 0;
    const struct kq_quota_holder holder = {
        .type = type,
        .user = match.by_user ? user_of(caller) : NULL,
        .client = match.by_client ? client_of(caller) : NULL,
    };
    double much = (double)amount;
    if (type == KQ_QUOTA_REQUEST)
        much = much * 100 / (double)NS_PER_S;
    int64_t excess_ms = kq_quota_accounts_take(quotas->accounts, &holder, match.limit, much, always,
                                               now_ns / NS_PER_MS, ret_taken);
    if (type == KQ_QUOTA_REQUEST)
        excess_ms = kq_min64(excess_ms, quotas->windows.ms);
    if (excess_ms > 0)
        note_overdrawn(quotas, type, excess_ms);
    return (int32_t)kq_min64(excess_ms, INT32_MAX);
}

int32_t kq_quota_charge(struct kq_quotas *quotas, enum kq_quota_type type,
                        const struct kq_caller *caller, int64_t amount, int64_t now_ns)
{
    bool taken;
    return take(quotas, type, caller, amount, true, now_ns, &taken);
}

int32_t kq_quota_try(struct kq_quotas *quotas, enum kq_quota_type type,
                     const struct kq_caller *caller, int64_t amount, int64_t now_ns,
                     bool *ret_taken)
{
    return take(quotas, type, caller, amount, false, now_ns, ret_taken);
}

int64_t kq_quota_at_once(struct kq_quotas *quotas, enum kq_quota_type type,
                         const struct kq_caller *caller)
{
    struct kq_quota_match match;
    if (!find(quotas, type, caller, &match))
        return INT64_MAX;
    int64_t whole = kq_max64(1, (int64_t)quotas->windows.count - 1);
    double most = match.limit * (double)(whole * quotas->windows.ms) / 1000;
    return most < 9e18 ? (int64_t)most : INT64_MAX;
}
