/* The accounts that quotas are charged to: what each of their holders has used of late.
 *
 * Their number is bounded. One that nobody has used for as long as the windows last is worth
 * nothing and goes when another one is looked at; where all are in use and one more is wanted, the
 * one that was used longest ago goes, with what it was overdrawn by. Any thread; a lock is held for
 * one look-up, and shared only by accounts whose keys have the same hash.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "broker/quota.h"

struct kq_quota_accounts;

struct kq_quota_holder {
    enum kq_quota_type type;
    const char *user, *client; /* NULL: whoever it is */
};

struct kq_quota_windows;

/* -ENOMEM. */
int kq_quota_accounts_new(const struct kq_quota_windows *windows, unsigned most,
                          struct kq_quota_accounts **ret);
void kq_quota_accounts_free(struct kq_quota_accounts *accounts); /* NULL is fine */

/* Forgets all of them. */
void kq_quota_accounts_clear(struct kq_quota_accounts *accounts);

/* Takes AMOUNT from the account of HOLDER, which is made where there is none. Returns for how many
 * milliseconds nothing may be taken from it then, so that it is within LIMIT a second: 0, it is.
 * Unless ALWAYS, nothing is taken where that would not be 0, but from an account whose windows are
 * empty. Without memory for another account everything is taken and nothing noted. */
int64_t kq_quota_accounts_take(struct kq_quota_accounts *accounts,
                               const struct kq_quota_holder *holder, double limit, double amount,
                               bool always, int64_t now_ms, bool *ret_taken);

struct kq_quota_accounts_facts {
    size_t count;     /* accounts */
    uint64_t evicted; /* that went while they were in use */
};
void kq_quota_accounts_facts(struct kq_quota_accounts *accounts,
                             struct kq_quota_accounts_facts *ret);
