#include "broker/quotabook.h"

#include <string.h>

#include "broker/base/mem.h"
#include "broker/uthash.h"

struct limits {
    double of[KQ_QUOTA_TYPES]; /* 0: none */
};

struct client {
    struct limits limits;
    UT_hash_handle hh;
    char name[];
};

/* What is set for one user, or for all, or for clients whoever their user is. */
struct page {
    struct limits own;    /* of the user, whatever the client id */
    struct limits others; /* of each client id that has none of its own */
    struct client *clients;
    UT_hash_handle hh;
    char name[];
};

struct kq_quota_book {
    struct page *no_user, *default_user;
    struct page *users;
    size_t entities;
    size_t set[KQ_QUOTA_TYPES]; /* quotas of each type */
};

/* --- Making it --- */

static struct page *new_page(const char *name)
{
    size_t bytes = strlen(name) + 1;
    struct page *page = kq_zalloc(sizeof(*page) + bytes);
    if (page)
        memcpy(page->name, name, bytes);
    return page;
}

static void free_page(struct page *page)
{
    struct client *client, *next;
    if (!page)
        return;
    HASH_ITER (hh, page->clients, client, next) {
        HASH_DEL(page->clients, client);
        free(client);
    }
    free(page);
}

int kq_quota_book_new(struct kq_quota_book **ret)
{
    struct kq_quota_book *book = kq_zalloc(sizeof(*book));
    if (!book)
        return -ENOMEM;
    book->no_user = new_page("");
    book->default_user = new_page("");
    if (!book->no_user || !book->default_user) {
        kq_quota_book_free(book);
        return -ENOMEM;
    }
    *ret = book;
    return 0;
}

void kq_quota_book_free(struct kq_quota_book *book)
{
    struct page *page, *next;
    if (!book)
        return;
    HASH_ITER (hh, book->users, page, next) {
        HASH_DEL(book->users, page);
        free_page(page);
    }
    free_page(book->no_user);
    free_page(book->default_user);
    free(book);
}

static int copy_entity(void *context, const struct kq_quota_entity *entity, const double *limits)
{
    struct kq_quota_book *to = context;
    int r = 0;
    for (int i = 0; i < KQ_QUOTA_TYPES && r == 0; i++)
        if (limits[i] > 0)
            r = kq_quota_book_set(to, entity, (enum kq_quota_type)i, limits[i]);
    return r;
}

int kq_quota_book_merge(const struct kq_quota_book *from, struct kq_quota_book *to)
{
    return kq_quota_book_each(from, copy_entity, to);
}

int kq_quota_book_copy(const struct kq_quota_book *book, struct kq_quota_book **ret)
{
    struct kq_quota_book *copy;
    int r = kq_quota_book_new(&copy);
    if (r < 0)
        return r;
    r = kq_quota_book_merge(book, copy);
    if (r < 0)
        kq_quota_book_free(copy);
    else
        *ret = copy;
    return r;
}

/* --- Setting --- */

static struct client *find_client(const struct page *page, const char *name)
{
    struct client *client = NULL;
    if (page->clients)
        HASH_FIND_STR(page->clients, name, client);
    return client;
}

static struct page *find_user(const struct kq_quota_book *book, const char *name)
{
    struct page *page = NULL;
    if (book->users)
        HASH_FIND_STR(book->users, name, page);
    return page;
}

static struct client *add_client(struct page *page, const char *name)
{
    size_t bytes = strlen(name) + 1;
    struct client *client = kq_zalloc(sizeof(*client) + bytes);
    if (!client)
        return NULL;
    memcpy(client->name, name, bytes);
    kq_uthash_failed = false;
    HASH_ADD_STR(page->clients, name, client);
    if (kq_uthash_failed) {
        free(client);
        return NULL;
    }
    return client;
}

static struct page *add_user(struct kq_quota_book *book, const char *name)
{
    struct page *page = new_page(name);
    if (!page)
        return NULL;
    kq_uthash_failed = false;
    HASH_ADD_STR(book->users, name, page);
    if (kq_uthash_failed) {
        free_page(page);
        return NULL;
    }
    return page;
}

/* NULL: there is no such page. */
static struct page *page_of(const struct kq_quota_book *book, const struct kq_quota_entity *entity)
{
    if (!entity->has_user)
        return book->no_user;
    return entity->user ? find_user(book, entity->user) : book->default_user;
}

static struct limits *limits_in(struct page *page, const struct kq_quota_entity *entity)
{
    if (!entity->has_client)
        return &page->own;
    if (!entity->client)
        return &page->others;
    struct client *client = find_client(page, entity->client);
    return client ? &client->limits : NULL;
}

static bool is_empty(const struct limits *limits)
{
    for (int i = 0; i < KQ_QUOTA_TYPES; i++)
        if (limits->of[i] > 0)
            return false;
    return true;
}

static void drop_client(struct page *page, const char *name)
{
    struct client *client = find_client(page, name);
    if (!client || !is_empty(&client->limits))
        return;
    HASH_DEL(page->clients, client);
    free(client);
}

static void drop_user(struct kq_quota_book *book, struct page *page)
{
    if (page->clients || !is_empty(&page->own) || !is_empty(&page->others))
        return;
    HASH_DEL(book->users, page);
    free_page(page);
}

/* What holds nothing any more. */
static void drop_empty(struct kq_quota_book *book, const struct kq_quota_entity *entity)
{
    struct page *page = page_of(book, entity);
    if (!page)
        return;
    if (entity->has_client && entity->client)
        drop_client(page, entity->client);
    if (entity->has_user && entity->user)
        drop_user(book, page);
}

static struct limits *limits_to_set(struct kq_quota_book *book,
                                    const struct kq_quota_entity *entity)
{
    struct page *page = page_of(book, entity);
    if (!page)
        page = add_user(book, entity->user);
    if (!page)
        return NULL;
    struct limits *limits = limits_in(page, entity);
    if (limits)
        return limits;
    struct client *client = add_client(page, entity->client);
    return client ? &client->limits : NULL;
}

int kq_quota_book_set(struct kq_quota_book *book, const struct kq_quota_entity *entity,
                      enum kq_quota_type type, double value)
{
    struct limits *limits = limits_to_set(book, entity);
    if (limits) {
        bool was_empty = is_empty(limits), was_set = limits->of[type] > 0;
        limits->of[type] = value;
        book->set[type] = book->set[type] - was_set + (value > 0);
        book->entities = book->entities + was_empty - is_empty(limits);
    }
    drop_empty(book, entity);
    return limits ? 0 : -ENOMEM;
}

/* --- Finding --- */

static bool match(const struct limits *limits, enum kq_quota_type type, bool by_user,
                  bool by_client, struct kq_quota_match *ret)
{
    if (!limits || !(limits->of[type] > 0))
        return false;
    *ret = (struct kq_quota_match){limits->of[type], by_user, by_client};
    return true;
}

static bool match_page(const struct page *page, enum kq_quota_type type, const char *client_name,
                       bool by_user, struct kq_quota_match *ret)
{
    const struct client *client = find_client(page, client_name);
    return match(client ? &client->limits : NULL, type, by_user, true, ret) ||
           match(&page->others, type, by_user, true, ret) ||
           match(&page->own, type, by_user, false, ret);
}

bool kq_quota_book_find(const struct kq_quota_book *book, enum kq_quota_type type, const char *user,
                        const char *client, struct kq_quota_match *ret)
{
    const struct page *page = find_user(book, user);
    return (page && match_page(page, type, client, true, ret)) ||
           match_page(book->default_user, type, client, true, ret) ||
           match_page(book->no_user, type, client, false, ret);
}

size_t kq_quota_book_count(const struct kq_quota_book *book)
{
    return book->entities;
}

bool kq_quota_book_has(const struct kq_quota_book *book, enum kq_quota_type type)
{
    return book->set[type] > 0;
}

/* --- Listing --- */

struct listing {
    int (*step)(void *context, const struct kq_quota_entity *entity, const double *limits);
    void *context;
};

static int list(const struct listing *listing, const struct kq_quota_entity *entity,
                const struct limits *limits)
{
    return is_empty(limits) ? 0 : listing->step(listing->context, entity, limits->of);
}

static int list_page(const struct listing *listing, const struct page *page, bool has_user,
                     const char *user)
{
    struct client *client, *next;
    struct kq_quota_entity entity = {.has_user = has_user, .user = user};
    int r = list(listing, &entity, &page->own);
    entity.has_client = true;
    if (r == 0)
        r = list(listing, &entity, &page->others);
    HASH_ITER (hh, page->clients, client, next) {
        entity.client = client->name;
        if (r == 0)
            r = list(listing, &entity, &client->limits);
    }
    return r;
}

int kq_quota_book_each(const struct kq_quota_book *book,
                       int (*step)(void *context, const struct kq_quota_entity *entity,
                                   const double *limits),
                       void *context)
{
    struct page *page, *next;
    const struct listing listing = {step, context};
    int r = list_page(&listing, book->no_user, false, NULL);
    if (r == 0)
        r = list_page(&listing, book->default_user, true, NULL);
    HASH_ITER (hh, book->users, page, next)
        if (r == 0)
            r = list_page(&listing, page, true, page->name);
    return r;
}
