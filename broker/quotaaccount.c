#include "broker/quotaaccount.h"

#include <pthread.h>
#include <string.h>
#include <sys/queue.h>

#include "broker/base/mem.h"
#include "broker/quotarate.h"
#include "broker/uthash.h"

#define SHELVES_MOST 16
#define ACCOUNTS_PER_SHELF 64 /* at least, before there is another shelf */
#define KEY_BYTES 256         /* most keys fit */

struct account {
    UT_hash_handle hh;
    TAILQ_ENTRY(account) used;
    int64_t used_ms;
    void *key; /* behind RATE */
    struct kq_quota_rate rate;
};

/* A part of the accounts, by the hash of their keys. */
struct shelf {
    pthread_mutex_t lock;
    struct account *accounts;
    TAILQ_HEAD(, account) used; /* longest ago first */
    unsigned count;
    uint64_t evicted;
    char apart[64]; /* from the next one's lock */
};

struct kq_quota_accounts {
    struct kq_quota_windows windows;
    unsigned shelf_count; /* a power of two */
    unsigned most;        /* of each */
    struct shelf shelves[SHELVES_MOST];
};

/* --- Keys: type and names --- */

struct key {
    char *bytes; /* in ROOM, or allocated */
    size_t length;
    unsigned hash;
    char room[KEY_BYTES];
};

static char *put(char *at, const char *name)
{
    *at++ = name != NULL;
    if (!name)
        return at;
    size_t bytes = strlen(name) + 1;
    memcpy(at, name, bytes);
    return at + bytes;
}

static int make_key(const struct kq_quota_holder *holder, struct key *ret)
{
    size_t user = holder->user ? strlen(holder->user) + 1 : 0;
    size_t client = holder->client ? strlen(holder->client) + 1 : 0;
    ret->length = 3 + user + client;
    ret->bytes = ret->length <= sizeof(ret->room) ? ret->room : kq_alloc(ret->length);
    if (!ret->bytes)
        return -ENOMEM;
    ret->bytes[0] = (char)holder->type;
    put(put(ret->bytes + 1, holder->user), holder->client);
    HASH_JEN(ret->bytes, ret->length, ret->hash);
    return 0;
}

static void release_key(struct key *key)
{
    if (key->bytes != key->room)
        free(key->bytes);
}

/* --- All of them --- */

int kq_quota_accounts_new(const struct kq_quota_windows *windows, unsigned most,
                          struct kq_quota_accounts **ret)
{
    struct kq_quota_accounts *accounts = kq_zalloc(sizeof(*accounts));
    if (!accounts)
        return -ENOMEM;
    accounts->windows = *windows;
    accounts->shelf_count = 1;
    while (accounts->shelf_count < SHELVES_MOST &&
           most / (2 * accounts->shelf_count) >= ACCOUNTS_PER_SHELF)
        accounts->shelf_count *= 2;
    accounts->most = most / accounts->shelf_count;
    for (unsigned i = 0; i < accounts->shelf_count; i++) {
        pthread_mutex_init(&accounts->shelves[i].lock, NULL);
        TAILQ_INIT(&accounts->shelves[i].used);
    }
    *ret = accounts;
    return 0;
}

static void drop(struct shelf *shelf, struct account *account)
{
    HASH_DEL(shelf->accounts, account);
    TAILQ_REMOVE(&shelf->used, account, used);
    shelf->count--;
    free(account);
}

void kq_quota_accounts_clear(struct kq_quota_accounts *accounts)
{
    for (unsigned i = 0; i < accounts->shelf_count; i++) {
        struct shelf *shelf = &accounts->shelves[i];
        pthread_mutex_lock(&shelf->lock);
        struct account *account, *next;
        HASH_ITER (hh, shelf->accounts, account, next) {
            HASH_DEL(shelf->accounts, account);
            free(account);
        }
        TAILQ_INIT(&shelf->used);
        shelf->count = 0;
        pthread_mutex_unlock(&shelf->lock);
    }
}

void kq_quota_accounts_free(struct kq_quota_accounts *accounts)
{
    if (!accounts)
        return;
    kq_quota_accounts_clear(accounts);
    for (unsigned i = 0; i < accounts->shelf_count; i++)
        pthread_mutex_destroy(&accounts->shelves[i].lock);
    free(accounts);
}

void kq_quota_accounts_facts(struct kq_quota_accounts *accounts,
                             struct kq_quota_accounts_facts *ret)
{
    *ret = (struct kq_quota_accounts_facts){0};
    for (unsigned i = 0; i < accounts->shelf_count; i++) {
        struct shelf *shelf = &accounts->shelves[i];
        pthread_mutex_lock(&shelf->lock);
        ret->count += shelf->count;
        ret->evicted += shelf->evicted;
        pthread_mutex_unlock(&shelf->lock);
    }
}

/* --- One of them --- */

static bool is_idle(const struct kq_quota_accounts *accounts, const struct account *account,
                    int64_t now_ms)
{
    return now_ms - account->used_ms >= accounts->windows.count * accounts->windows.ms;
}

static struct account *add(struct kq_quota_accounts *accounts, struct shelf *shelf,
                           const struct key *key)
{
    size_t rate = kq_quota_rate_size(&accounts->windows);
    size_t size = offsetof(struct account, rate) + rate;
    struct account *account = kq_zalloc(size + key->length);
    if (!account)
        return NULL;
    account->key = (char *)account + size;
    memcpy(account->key, key->bytes, key->length);
    kq_uthash_failed = false;
    HASH_ADD_KEYPTR_BYHASHVALUE(hh, shelf->accounts, account->key, key->length, key->hash, account);
    if (kq_uthash_failed) {
        free(account);
        return NULL;
    }
    if (shelf->count == accounts->most) {
        drop(shelf, TAILQ_FIRST(&shelf->used));
        shelf->evicted++;
    }
    shelf->count++;
    return account;
}

/* NULL: no memory. It is the last of those in use then. */
static struct account *get(struct kq_quota_accounts *accounts, struct shelf *shelf,
                           const struct key *key, int64_t now_ms)
{
    struct account *account = NULL, *oldest;
    HASH_FIND_BYHASHVALUE(hh, shelf->accounts, key->bytes, key->length, key->hash, account);
    for (int i = 0; i < 2 && (oldest = TAILQ_FIRST(&shelf->used)); i++)
        if (oldest != account && is_idle(accounts, oldest, now_ms))
            drop(shelf, oldest);
    if (account)
        TAILQ_REMOVE(&shelf->used, account, used);
    else
        account = add(accounts, shelf, key);
    if (!account)
        return NULL;
    TAILQ_INSERT_TAIL(&shelf->used, account, used);
    account->used_ms = now_ms;
    return account;
}

static int64_t take(struct kq_quota_accounts *accounts, struct kq_quota_rate *rate, double limit,
                    double amount, bool always, int64_t now_ms, bool *ret_taken)
{
    int64_t excess_ms = kq_quota_rate_excess_ms(rate, &accounts->windows, amount, limit, now_ms);
    *ret_taken =
        excess_ms == 0 || always || kq_quota_rate_is_empty(rate, &accounts->windows, now_ms);
    if (*ret_taken)
        kq_quota_rate_add(rate, &accounts->windows, amount, now_ms);
    return excess_ms;
}

int64_t kq_quota_accounts_take(struct kq_quota_accounts *accounts,
                               const struct kq_quota_holder *holder, double limit, double amount,
                               bool always, int64_t now_ms, bool *ret_taken)
{
    struct key key;
    int64_t excess_ms = 0;
    *ret_taken = true;
    if (make_key(holder, &key) < 0)
        return 0;
    struct shelf *shelf = &accounts->shelves[(key.hash >> 16) & (accounts->shelf_count - 1)];
    pthread_mutex_lock(&shelf->lock);
    struct account *account = get(accounts, shelf, &key, now_ms);
    if (account)
        excess_ms = take(accounts, &account->rate, limit, amount, always, now_ms, ret_taken);
    pthread_mutex_unlock(&shelf->lock);
    release_key(&key);
    return excess_ms;
}
