/* Kafka's ACL bindings as entries of POSIX ACLs, and back: the pure part, on attributes in memory.
 *
 * What an operation on a resource needs is a few bits of its directory and, of a topic, of each
 * partition. Granting it to a user writes an entry of its own for that user, with what the user has
 * already, or widens the owner's bits where the user is the owner. What a user has of the rights of
 * groups and of `other` stays theirs when its own entry goes.
 *
 * Numbers are those of org.apache.kafka.common.acl and .resource.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "broker/authz.h"
#include "broker/base/acl.h"

enum kq_acl_resource {
    KQ_ACL_ANY_RESOURCE = 1,
    KQ_ACL_TOPIC = 2,
    KQ_ACL_GROUP = 3,
    KQ_ACL_CLUSTER = 4,
    KQ_ACL_TRANSACTIONAL_ID = 5,
};

enum kq_acl_operation {
    KQ_ACL_OP_ANY = 1,
    KQ_ACL_OP_ALL,
    KQ_ACL_OP_READ,
    KQ_ACL_OP_WRITE,
    KQ_ACL_OP_CREATE,
    KQ_ACL_OP_DELETE,
    KQ_ACL_OP_ALTER,
    KQ_ACL_OP_DESCRIBE,
    KQ_ACL_OP_CLUSTER_ACTION,
    KQ_ACL_OP_DESCRIBE_CONFIGS,
    KQ_ACL_OP_ALTER_CONFIGS,
    KQ_ACL_OP_IDEMPOTENT_WRITE,
};

/* Of enum kq_acl_want. */
struct kq_aclmap_bits {
    unsigned directory; /* of the topic, the group, or (the cluster) the root */
    unsigned partition; /* of each partition, and of those to come */
};

/* What OPERATION on a RESOURCE (enum kq_acl_resource) needs; nothing where it comes with others.
 * 0; -EOPNOTSUPP: no entry of an ACL can say it. */
int kq_aclmap_bits(int resource, int operation, struct kq_aclmap_bits *ret);

/* The operations that BITS allow, in normal form: 1 << enum kq_acl_operation. */
unsigned kq_aclmap_operations(int resource, struct kq_aclmap_bits bits);

/* What goes when of the operations BEFORE those of REMOVED are taken away. */
struct kq_aclmap_bits kq_aclmap_taken(int resource, unsigned before, unsigned removed);

/* Whose rights. */
struct kq_aclmap_who {
    bool everybody; /* User:*; else: */
    struct kq_acl_subject user;
};

/* What WHO has of an object with ATTRIBUTES; of everybody, what each owner, user, group and other
 * has. */
unsigned kq_aclmap_rights(const struct kq_attributes *attributes, const struct kq_aclmap_who *who);

/* Gives WHO the BITS. Nobody else gains any: where the mask grows, what it held back from others is
 * taken out of their entries. 0; -E2BIG (KQ_ACL_MAX_ENTRIES), -ENOMEM: nothing is changed. */
int kq_aclmap_grant(struct kq_attributes *attributes, const struct kq_aclmap_who *who,
                    unsigned bits);

/* Takes the BITS from WHO: from a user's own entry, which goes where it says no more than groups
 * and `other` do, and no less; everybody's from groups and `other`, while users that are named and
 * the owner keep theirs. As kq_aclmap_grant. */
int kq_aclmap_revoke(struct kq_attributes *attributes, const struct kq_aclmap_who *who,
                     unsigned bits);

/* The same of what is to come in the directory. A default ACL that is not there yet begins with
 * what UMASK leaves, as new partitions get it without one. Nothing to revoke where there is none.
 */
int kq_aclmap_grant_default(struct kq_attributes *attributes, const struct kq_aclmap_who *who,
                            unsigned bits, mode_t umask);
int kq_aclmap_revoke_default(struct kq_attributes *attributes, const struct kq_aclmap_who *who,
                             unsigned bits);

/* The users that ACL names, one after another: *AT is 0 to begin with. False: no more. */
bool kq_aclmap_next_user(const uint8_t *acl, size_t length, size_t *at, uid_t *ret);
