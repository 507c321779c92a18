/* Which quotas are set, and which of them counts for whom. One writer, before it is shared; then
 * any reader. */
#pragma once

#include "broker/quota.h"

struct kq_quota_book;

int kq_quota_book_new(struct kq_quota_book **ret);   /* -ENOMEM */
void kq_quota_book_free(struct kq_quota_book *book); /* NULL is fine */

/* -ENOMEM */
int kq_quota_book_copy(const struct kq_quota_book *book, struct kq_quota_book **ret);

/* Sets in TO what is set in FROM; what else is set in TO stays. -ENOMEM: part of it. */
int kq_quota_book_merge(const struct kq_quota_book *from, struct kq_quota_book *to);

/* VALUE 0: there is none any more. -ENOMEM: as before. */
int kq_quota_book_set(struct kq_quota_book *book, const struct kq_quota_entity *entity,
                      enum kq_quota_type type, double value);

/* The quota that counts for a client, and by which of its names. */
struct kq_quota_match {
    double limit;
    bool by_user, by_client;
};

/* False: none. Cost: four look-ups at most, however many quotas there are. */
bool kq_quota_book_find(const struct kq_quota_book *book, enum kq_quota_type type, const char *user,
                        const char *client, struct kq_quota_match *ret);

size_t kq_quota_book_count(const struct kq_quota_book *book); /* entities that have quotas */

/* Is any of TYPE set? */
bool kq_quota_book_has(const struct kq_quota_book *book, enum kq_quota_type type);

/* As kq_quota_each. */
int kq_quota_book_each(const struct kq_quota_book *book,
                       int (*step)(void *context, const struct kq_quota_entity *entity,
                                   const double *limits),
                       void *context);
