#include "auth/principals.h"

#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/queue.h>
#include <sys/random.h>

#include "auth/rules.h"
#include "broker/base/clock.h"
#include "broker/base/mem.h"

#define NS_PER_MS INT64_C(1000000)
#define SHELVES_MOST 16
#define ENTRIES_PER_SHELF 64 /* at least, before there is another shelf */

/* What is remembered of a name. */
struct kq_principal {
    LIST_ENTRY(kq_principal) chain;
    TAILQ_ENTRY(kq_principal) queue; /* `used` or `open` of its shelf */
    uint64_t hash;
    int64_t until_ns;
    _Atomic(const struct kq_identity *) identity; /* changes under the shelf's lock */
    struct kq_principals *principals;
    unsigned openers;
    uint64_t round; /* of the refresh that has had it */
    char name[];
};

LIST_HEAD(chain, kq_principal);
TAILQ_HEAD(queue, kq_principal);

/* A part of what is remembered, by the hash of the names. */
struct shelf {
    pthread_mutex_t lock; /* held for a look into the table, never while the host is asked */
    struct chain *chains;
    struct queue used; /* that nobody has open; longest ago first */
    struct queue open;
    unsigned count; /* of USED */
    char apart[64]; /* from the next one's lock */
};

struct kq_principals {
    struct kq_rules *subjects, *kerberos;
    struct kq_principal_entry *users;  /* by name */
    struct kq_principal_entry *by_uid; /* the same, by uid; names are those of USERS */
    size_t user_count;
    int64_t refresh_ms;
    uint64_t seed;
    uint64_t round;         /* of the thread that refreshes */
    atomic_uint open_count; /* of names in use */
    unsigned shelf_count;   /* a power of two */
    unsigned most;          /* entries of each */
    unsigned chain_count;   /* of each; a power of two */
    struct shelf shelves[SHELVES_MOST];
};

/* --- [users] --- */

static int compare_users(const void *a, const void *b)
{
    const struct kq_principal_entry *left = a, *right = b;
    return strcmp(left->name, right->name);
}

static int compare_uids(const void *a, const void *b)
{
    const struct kq_principal_entry *left = a, *right = b;
    return (left->uid > right->uid) - (left->uid < right->uid);
}

static int compare_both(const void *a, const void *b)
{
    int order = compare_uids(a, b);
    return order ? order : compare_users(a, b);
}

static int copy_users(struct kq_principals *principals, const struct kq_principals_options *options)
{
    if (options->user_count == 0)
        return 0;
    principals->users = kq_zalloc(options->user_count * sizeof(*principals->users));
    principals->by_uid = kq_zalloc(options->user_count * sizeof(*principals->by_uid));
    if (!principals->users || !principals->by_uid)
        return -ENOMEM;
    for (size_t i = 0; i < options->user_count; i++) {
        char *name = kq_strdup(options->users[i].name);
        if (!name)
            return -ENOMEM;
        principals->users[principals->user_count++] =
            (struct kq_principal_entry){name, options->users[i].uid};
    }
    size_t bytes = principals->user_count * sizeof(*principals->users);
    memcpy(principals->by_uid, principals->users, bytes);
    qsort(principals->users, principals->user_count, sizeof(*principals->users), compare_users);
    qsort(principals->by_uid, principals->user_count, sizeof(*principals->by_uid), compare_both);
    return 0;
}

static const struct kq_principal_entry *entry_of(const struct kq_principals *principals,
                                                 const char *name)
{
    struct kq_principal_entry wanted = {.name = name};
    return principals->user_count ? bsearch(&wanted, principals->users, principals->user_count,
                                            sizeof(wanted), compare_users)
                                  : NULL;
}

static uid_t uid_of(const struct kq_principals *principals, const char *name)
{
    const struct kq_principal_entry *found = entry_of(principals, name);
    return found ? found->uid : KQ_UID_UNKNOWN;
}

bool kq_principals_has(const struct kq_principals *principals, const char *name)
{
    return entry_of(principals, name);
}

const char *kq_principals_name_of(const struct kq_principals *principals, uid_t uid)
{
    size_t first = 0, behind = principals->user_count;
    while (first < behind) {
        size_t middle = first + (behind - first) / 2;
        if (principals->by_uid[middle].uid < uid)
            first = middle + 1;
        else
            behind = middle;
    }
    bool found = first < principals->user_count && principals->by_uid[first].uid == uid;
    return found ? principals->by_uid[first].name : NULL;
}

/* --- All of them --- */

static int make_shelves(struct kq_principals *principals, unsigned most)
{
    principals->shelf_count = 1;
    while (principals->shelf_count < SHELVES_MOST &&
           most / (2 * principals->shelf_count) >= ENTRIES_PER_SHELF)
        principals->shelf_count *= 2;
    principals->most = most / principals->shelf_count;
    principals->chain_count = 1;
    while (principals->chain_count < principals->most)
        principals->chain_count *= 2;
    int r = 0;
    for (unsigned i = 0; i < principals->shelf_count; i++) {
        struct shelf *shelf = &principals->shelves[i];
        pthread_mutex_init(&shelf->lock, NULL);
        TAILQ_INIT(&shelf->used);
        TAILQ_INIT(&shelf->open);
        shelf->chains = kq_zalloc(principals->chain_count * sizeof(*shelf->chains));
        if (!shelf->chains)
            r = -ENOMEM;
    }
    return r;
}

int kq_principals_new(const struct kq_principals_options *options, struct kq_principals **ret)
{
    struct kq_principals *principals = kq_zalloc(sizeof(*principals));
    if (!principals)
        return -ENOMEM;
    principals->refresh_ms = options->refresh_ms;
    /* Without it, one who may choose names could choose such as have the same hash. */
    if (getrandom(&principals->seed, sizeof(principals->seed), GRND_NONBLOCK) < 0)
        principals->seed = (uint64_t)kq_clock_mono_ns();
    int r = make_shelves(principals, options->max_entries);
    if (r == 0)
        r = copy_users(principals, options);
    if (r == 0)
        r = kq_rules_new_subject("ssl.principal.mapping.rules", options->certificate_rules,
                                 &principals->subjects);
    if (r == 0)
        r = kq_rules_new_kerberos("sasl.kerberos.principal.to.local.rules", options->kerberos_rules,
                                  options->kerberos_realm, &principals->kerberos);
    if (r < 0) {
        kq_principals_free(principals);
        return r;
    }
    *ret = principals;
    return 0;
}

/* It is in no queue any more. */
static void drop(struct kq_principal *entry)
{
    LIST_REMOVE(entry, chain);
    kq_identity_unref(atomic_load(&entry->identity));
    free(entry);
}

static void drop_oldest(struct shelf *shelf)
{
    struct kq_principal *entry = TAILQ_FIRST(&shelf->used);
    TAILQ_REMOVE(&shelf->used, entry, queue);
    shelf->count--;
    drop(entry);
}

void kq_principals_free(struct kq_principals *principals)
{
    if (!principals)
        return;
    for (unsigned i = 0; i < principals->shelf_count; i++) {
        struct shelf *shelf = &principals->shelves[i];
        while (shelf->count)
            drop_oldest(shelf);
        free(shelf->chains);
        pthread_mutex_destroy(&shelf->lock);
    }
    for (size_t i = 0; i < principals->user_count; i++)
        free((char *)principals->users[i].name);
    free(principals->users);
    free(principals->by_uid);
    kq_rules_free(principals->subjects);
    kq_rules_free(principals->kerberos);
    free(principals);
}

/* --- Who is NAME? --- */

/* FNV-1a, begun at a secret and mixed at the end (the last step of MurmurHash3). */
static uint64_t hash_of(const struct kq_principals *principals, const char *name)
{
    uint64_t hash = principals->seed;
    for (; *name; name++)
        hash = (hash ^ (unsigned char)*name) * UINT64_C(0x100000001b3);
    hash = (hash ^ (hash >> 33)) * UINT64_C(0xff51afd7ed558ccd);
    hash = (hash ^ (hash >> 33)) * UINT64_C(0xc4ceb9fe1a85ec53);
    return hash ^ (hash >> 33);
}

static struct shelf *shelf_of(struct kq_principals *principals, uint64_t hash)
{
    return &principals->shelves[(hash >> 48) & (principals->shelf_count - 1)];
}

static struct chain *chain_of(const struct kq_principals *principals, struct shelf *shelf,
                              uint64_t hash)
{
    return &shelf->chains[hash & (principals->chain_count - 1)];
}

static struct kq_principal *find(const struct kq_principals *principals, struct shelf *shelf,
                                 const char *name, uint64_t hash)
{
    struct kq_principal *entry;
    LIST_FOREACH (entry, chain_of(principals, shelf, hash), chain)
        if (entry->hash == hash && strcmp(entry->name, name) == 0)
            return entry;
    return NULL;
}

static const struct kq_identity *recall(struct kq_principals *principals, const char *name,
                                        uint64_t hash)
{
    const struct kq_identity *found = NULL;
    struct shelf *shelf = shelf_of(principals, hash);
    pthread_mutex_lock(&shelf->lock);
    struct kq_principal *entry = find(principals, shelf, name, hash);
    if (entry && kq_clock_mono_ns() < entry->until_ns) {
        found = kq_identity_ref(atomic_load(&entry->identity));
        if (!entry->openers) {
            TAILQ_REMOVE(&shelf->used, entry, queue);
            TAILQ_INSERT_TAIL(&shelf->used, entry, queue);
        }
    }
    pthread_mutex_unlock(&shelf->lock);
    return found;
}

static bool is_same(const struct kq_identity *a, const struct kq_identity *b)
{
    return a->uid == b->uid && a->gid == b->gid && a->group_count == b->group_count &&
           (a->group_count == 0 ||
            memcmp(a->groups, b->groups, a->group_count * sizeof(*a->groups)) == 0);
}

/* What was looked up is what ENTRY has from now on, with the shelf's lock. Where it is the same, it
 * keeps what it has, so that nobody has to change. True: it has changed. */
static bool renew(struct kq_principal *entry, const struct kq_identity *identity)
{
    const struct kq_identity *before = atomic_load(&entry->identity);
    entry->until_ns = kq_clock_mono_ns() + entry->principals->refresh_ms * NS_PER_MS;
    if (is_same(before, identity))
        return false;
    atomic_store_explicit(&entry->identity, kq_identity_ref(identity), memory_order_release);
    kq_identity_unref(before);
    return true;
}

static struct kq_principal *make(struct kq_principals *principals, const char *name, uint64_t hash,
                                 const struct kq_identity *identity)
{
    size_t length = strlen(name) + 1;
    struct kq_principal *entry = kq_zalloc(sizeof(*entry) + length);
    if (!entry)
        return NULL;
    memcpy(entry->name, name, length);
    entry->hash = hash;
    entry->principals = principals;
    entry->until_ns = kq_clock_mono_ns() + principals->refresh_ms * NS_PER_MS;
    atomic_init(&entry->identity, kq_identity_ref(identity));
    return entry;
}

/* Nobody has it open. */
static void shelve(struct shelf *shelf, struct kq_principal *entry, unsigned most)
{
    if (shelf->count && shelf->count >= most)
        drop_oldest(shelf);
    TAILQ_INSERT_TAIL(&shelf->used, entry, queue);
    shelf->count++;
}

/* What is known of NAME, renewed, made if there is nothing, with the shelf's lock. NULL: no memory.
 */
static struct kq_principal *put(struct kq_principals *principals, struct shelf *shelf,
                                const char *name, uint64_t hash, const struct kq_identity *identity)
{
    struct kq_principal *entry = find(principals, shelf, name, hash);
    if (entry) {
        renew(entry, identity);
        return entry;
    }
    entry = make(principals, name, hash, identity);
    if (!entry)
        return NULL;
    LIST_INSERT_HEAD(chain_of(principals, shelf, hash), entry, chain);
    shelve(shelf, entry, principals->most);
    return entry;
}

/* Without memory for it, it is looked up again the next time. */
static void remember(struct kq_principals *principals, const char *name, uint64_t hash,
                     const struct kq_identity *identity)
{
    struct shelf *shelf = shelf_of(principals, hash);
    pthread_mutex_lock(&shelf->lock);
    put(principals, shelf, name, hash, identity);
    pthread_mutex_unlock(&shelf->lock);
}

int kq_principals_identity(struct kq_principals *principals, const char *name,
                           const struct kq_identity **ret)
{
    uint64_t hash = hash_of(principals, name);
    const struct kq_identity *identity = recall(principals, name, hash);
    if (!identity) {
        int r = kq_identity_of_name(name, uid_of(principals, name), &identity);
        if (r < 0)
            return r;
        remember(principals, name, hash, identity);
    }
    *ret = identity;
    return 0;
}

/* --- Names in use --- */

static void open_it(struct shelf *shelf, struct kq_principal *entry)
{
    if (entry->openers++)
        return;
    TAILQ_REMOVE(&shelf->used, entry, queue);
    shelf->count--;
    TAILQ_INSERT_TAIL(&shelf->open, entry, queue);
    atomic_fetch_add(&entry->principals->open_count, 1);
}

static void close_it(struct shelf *shelf, struct kq_principal *entry)
{
    if (--entry->openers)
        return;
    atomic_fetch_sub(&entry->principals->open_count, 1);
    TAILQ_REMOVE(&shelf->open, entry, queue);
    shelve(shelf, entry, entry->principals->most);
}

int kq_principals_open(struct kq_principals *principals, const char *name,
                       struct kq_principal **ret)
{
    uint64_t hash = hash_of(principals, name);
    struct shelf *shelf = shelf_of(principals, hash);
    const struct kq_identity *identity;
    int r = kq_principals_identity(principals, name, &identity);
    if (r < 0)
        return r;
    pthread_mutex_lock(&shelf->lock);
    struct kq_principal *entry = find(principals, shelf, name, hash);
    if (!entry)
        entry = put(principals, shelf, name, hash, identity);
    if (entry)
        open_it(shelf, entry);
    pthread_mutex_unlock(&shelf->lock);
    kq_identity_unref(identity);
    if (!entry)
        return -ENOMEM;
    *ret = entry;
    return 0;
}

void kq_principal_close(struct kq_principal *principal)
{
    if (!principal)
        return;
    struct shelf *shelf = shelf_of(principal->principals, principal->hash);
    pthread_mutex_lock(&shelf->lock);
    close_it(shelf, principal);
    pthread_mutex_unlock(&shelf->lock);
}

const struct kq_identity *kq_principal_identity(struct kq_principal *principal)
{
    struct shelf *shelf = shelf_of(principal->principals, principal->hash);
    pthread_mutex_lock(&shelf->lock);
    const struct kq_identity *identity = kq_identity_ref(atomic_load(&principal->identity));
    pthread_mutex_unlock(&shelf->lock);
    return identity;
}

bool kq_principal_is(const struct kq_principal *principal, const struct kq_identity *identity)
{
    return atomic_load_explicit(
               (_Atomic(const struct kq_identity *) *)(uintptr_t)&principal->identity,
               memory_order_acquire) == identity;
}

/* One that is due, opened; NULL: none is. */
static struct kq_principal *take_due(struct kq_principals *principals, struct shelf *shelf)
{
    struct kq_principal *entry;
    int64_t before_ns = kq_clock_mono_ns() + principals->refresh_ms * NS_PER_MS / 4;
    pthread_mutex_lock(&shelf->lock);
    TAILQ_FOREACH (entry, &shelf->open, queue)
        if (entry->until_ns <= before_ns && entry->round != principals->round)
            break;
    if (entry) {
        entry->round = principals->round;
        entry->openers++;
        TAILQ_REMOVE(&shelf->open, entry, queue);
        TAILQ_INSERT_TAIL(&shelf->open, entry, queue);
    }
    pthread_mutex_unlock(&shelf->lock);
    return entry;
}

static void refresh(struct kq_principals *principals, struct shelf *shelf,
                    struct kq_principal *entry, struct kq_principals_refreshed *ret)
{
    const struct kq_identity *identity = NULL;
    int r = kq_identity_of_name(entry->name, uid_of(principals, entry->name), &identity);
    pthread_mutex_lock(&shelf->lock);
    if (r < 0)
        ret->failed++;
    else if (renew(entry, identity))
        ret->changed++;
    else
        ret->same++;
    close_it(shelf, entry);
    pthread_mutex_unlock(&shelf->lock);
    kq_identity_unref(identity);
}

void kq_principals_refresh(struct kq_principals *principals, struct kq_principals_refreshed *ret)
{
    *ret = (struct kq_principals_refreshed){0};
    principals->round++;
    for (unsigned i = 0; i < principals->shelf_count; i++) {
        struct shelf *shelf = &principals->shelves[i];
        struct kq_principal *entry;
        while ((entry = take_due(principals, shelf)))
            refresh(principals, shelf, entry, ret);
    }
}

bool kq_principals_in_use(const struct kq_principals *principals)
{
    return atomic_load((atomic_uint *)(uintptr_t)&principals->open_count) > 0;
}

int64_t kq_principals_refresh_ms(const struct kq_principals *principals)
{
    return principals->refresh_ms;
}

/* --- What rules make of it --- */

int kq_principals_of_subject(struct kq_principals *principals, const char *subject, char **ret)
{
    return kq_rules_apply(principals->subjects, subject, ret);
}

int kq_principals_of_kerberos(struct kq_principals *principals, const char *principal, char **ret)
{
    return kq_rules_apply(principals->kerberos, principal, ret);
}
