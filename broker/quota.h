/* Quotas: what a client of the network may use of the broker in a second (KIP-13, KIP-124,
 * KIP-546).
 *
 * A quota is set for a user, for a client id, or for a client id of a user; each part is a name or
 * the default, which stands for all that have none of their own. Of those that fit a client the
 * most specific one counts, for each type on its own:
 *
 *     user and client id; user, default client id; user;
 *     default user and client id; default user and client id; default user;
 *     client id; default client id
 *
 * All who fall under it by the same names share one account: of a user's quota all clients of that
 * user, of the default user's each user alone. A client that names no client id is "", for which
 * only defaults are set.
 *
 * Quotas are kept in kqfs-quotas.json in the data directory.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "broker/authz.h"
#include "broker/quotaoptions.h"

struct kq_broker;
struct kq_quotas;

enum kq_quota_type {
    KQ_QUOTA_PRODUCE, /* producer_byte_rate: bytes of Produce requests */
    KQ_QUOTA_FETCH,   /* consumer_byte_rate: bytes of messages in Fetch responses */
    KQ_QUOTA_REQUEST, /* request_percentage: of one thread's time */
    KQ_QUOTA_TYPES
};

/* Kafka's name of TYPE; and the type of a name, KQ_QUOTA_TYPES where there is none. */
const char *kq_quota_name(enum kq_quota_type type);
enum kq_quota_type kq_quota_type_of(const char *name, size_t length);

/* --- Setting them --- */

/* Whom a quota is for: at least one part. */
struct kq_quota_entity {
    bool has_user, has_client;
    const char *user, *client; /* UTF-8, not empty; NULL: the default */
};

/* Are its names some that a quota can be for? Any thread. */
bool kq_quota_entity_valid(const struct kq_quota_entity *entity);

struct kq_quota_change {
    struct kq_quota_entity entity;
    enum kq_quota_type type;
    double value; /* > 0; 0: there is none any more */
};

/* All changes or none; what is set last counts. They are durable, and apply to what comes from then
 * on, when this returns. With CHECK_ONLY it says what would happen and changes nothing. Blocks. 0;
 * -EACCES, -EPERM (who alters the cluster may); -EINVAL (an entity that is not valid, a value that
 * is no such number); -EDQUOT (quota.max.entities, or 64 MiB of them); -ENOMEM, -errno. */
int kq_quota_alter(struct kq_broker *broker, const struct kq_caller *caller,
                   const struct kq_quota_change *changes, size_t count, bool check_only);

/* Calls STEP for each entity with its quotas, LIMITS[type] (0: none), until it returns < 0, and
 * returns that. STEP must not call back into the quotas; the strings are valid during the call.
 * Never blocks. -EACCES, -EPERM: as kq_quota_alter. */
int kq_quota_each(struct kq_broker *broker, const struct kq_caller *caller,
                  int (*step)(void *context, const struct kq_quota_entity *entity,
                              const double *limits),
                  void *context);

/* --- Keeping to them: any thread, never blocks --- */

/* Valid as long as the broker. */
struct kq_quotas *kq_broker_quotas(struct kq_broker *broker);

/* Is there any quota of TYPE, so that it is worth the effort to measure? QUOTAS may be NULL here
 * and below: there is none. */
bool kq_quota_is_set(const struct kq_quotas *quotas, enum kq_quota_type type);

/* Takes AMOUNT (bytes; of KQ_QUOTA_REQUEST: nanoseconds) from the account of CALLER, by its
 * principal and client id, at NOW_NS (kq_clock_mono_ns). Returns for how many milliseconds the
 * client is to hold back: 0, unless the account is overdrawn; of KQ_QUOTA_REQUEST one window at
 * most. */
int32_t kq_quota_charge(struct kq_quotas *quotas, enum kq_quota_type type,
                        const struct kq_caller *caller, int64_t amount, int64_t now_ns);

/* As kq_quota_charge, but nothing is taken where the client has to hold back first (*RET_TAKEN
 * false). What is more than all windows allow is taken when they are empty: otherwise it would
 * never be. */
int32_t kq_quota_try(struct kq_quotas *quotas, enum kq_quota_type type,
                     const struct kq_caller *caller, int64_t amount, int64_t now_ns,
                     bool *ret_taken);

/* What CALLER gets at most at once without having to hold back; INT64_MAX: whatever there is. */
int64_t kq_quota_at_once(struct kq_quotas *quotas, enum kq_quota_type type,
                         const struct kq_caller *caller);
