/* A topic, a group or the root as a resource of Kafka's ACLs: who has which operations on it by
 * owner, mode and POSIX ACL, and changing that. What a binding is in bits: auth/aclmap.h.
 *
 * All of it may block (users are looked up, changes are made durable): on a worker. Memory comes
 * from the request's arena.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "auth/aclmap.h"
#include "auth/auth.h"
#include "broker/groups.h"
#include "net/request.h"

#define KQ_ACLS_CLUSTER "kafka-cluster"

/* Users as one request met them. */
struct kq_acls_users;
int kq_acls_users_new(struct kq_acls_users **ret); /* -ENOMEM */
void kq_acls_users_free(struct kq_acls_users *users);

struct kq_acls_resource {
    int type; /* KQ_ACL_TOPIC, _GROUP, _CLUSTER */
    struct kq_str name;
    struct kq_topic *topic; /* referenced; of its type only */
    struct kq_group *group; /* as TOPIC */
};
void kq_acls_release(struct kq_acls_resource *resource);

/* One who has something. */
struct kq_acls_holder {
    struct kq_aclmap_who who; /* its groups are borrowed from the users */
    struct kq_str
        principal;       /* "User:*", "User:app1" (of [users], else of the host), "User:#1234" */
    unsigned operations; /* 1 << enum kq_acl_operation; in normal form */
    unsigned removed;    /* for kq_acls_revoke: those of OPERATIONS that are to go */
    struct kq_aclmap_bits bits;
};

/* The user of PRINCIPAL, "User:…", as one who proves that name is (auth/principals.h), or of
 * "User:#UID". 0; -ENOENT: none; -EINVAL: no principal of a user; -ENOMEM, -errno. */
int kq_acls_user(struct kq_request *request, struct kq_acls_users *users, struct kq_str principal,
                 struct kq_aclmap_who *ret);

/* Everybody, the owners and who is named, in this order and by uid, where they have something. 0;
 * -ESTALE (it is gone); -ENOMEM, -errno. */
int kq_acls_list(struct kq_request *request, struct kq_acls_users *users,
                 const struct kq_acls_resource *resource, struct kq_acls_holder **ret,
                 int32_t *ret_count);

/* Gives WHO the BITS: all at once, durable, or nothing. One of Kafka's error codes. */
int16_t kq_acls_grant(struct kq_request *request, const struct kq_acls_resource *resource,
                      const struct kq_aclmap_who *who, struct kq_aclmap_bits bits);

/* Takes from each of HOLDERS what is to be removed; as kq_acls_grant. */
int16_t kq_acls_revoke(struct kq_request *request, const struct kq_acls_resource *resource,
                       const struct kq_acls_holder *holders, int32_t count);
