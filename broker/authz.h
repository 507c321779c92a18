/* Who asks, and the question that the broker puts before it acts. auth/ answers it. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* The uid of one whose name maps to no Unix user: matches `other` only, owns and creates nothing.
 */
#define KQ_UID_UNKNOWN ((uid_t)-1)

struct kq_caller {
    uid_t uid;
    gid_t gid;
    const gid_t *groups; /* supplementary; borrowed */
    size_t group_count;
    /* Of these uid, gid and groups: a number that stood and will stand for no others in this
     * process. 0: none. With one the broker need not ask twice for the same right on the same
     * partition, as long as nobody's attributes change. */
    uint64_t identity;
    /* The mount: the kernel has compared owner, mode and ACL of this very object already. Not so
     * where `append`, which carries those of p0, picks another partition. */
    bool kernel_checked;
    const char *principal; /* for quotas and audit: "User:app1"; borrowed; NULL: from uid */
    const char *client_id; /* quota account; borrowed; NULL */
    int64_t deadline_ns;   /* kq_clock_mono_ns() after which the answer is of no use; 0: none */
};

/* Owner, group, mode and ACLs of the root, a topic or a partition. ACLs are in the kernel's xattr
 * format (system.posix_acl_*: see acl(5), linux/posix_acl_xattr.h), empty where there is none. */
struct kq_attributes {
    uid_t uid;
    gid_t gid;
    mode_t mode; /* permission bits, setuid, setgid and sticky; no file type */
    uint8_t *acl;
    size_t acl_length;
    uint8_t *default_acl; /* directories */
    size_t default_acl_length;
};

enum kq_right {
    KQ_RIGHT_DESCRIBE = 1 << 0,
    KQ_RIGHT_READ = 1 << 1,
    KQ_RIGHT_WRITE = 1 << 2,
    KQ_RIGHT_CREATE = 1 << 3, /* topics in the root */
    KQ_RIGHT_ALTER = 1 << 4,  /* add partitions */
    KQ_RIGHT_DELETE = 1 << 5, /* the topic */
    KQ_RIGHT_DELETE_RECORDS = 1 << 6,
    KQ_RIGHT_DESCRIBE_CONFIG = 1 << 7,
    KQ_RIGHT_ALTER_CONFIG = 1 << 8,
    KQ_RIGHT_CHANGE_ATTRIBUTES = 1 << 9, /* chown, chmod, setfacl; on the root: alter the cluster */
    KQ_RIGHT_LIST = 1 << 10,             /* the names of the topics; describe the cluster */
};

/* What the rights are asked on: from the root down to what is meant, NULL below. */
struct kq_authz_object {
    const struct kq_attributes *root, *topic, *partition;
};

struct kq_authz {
    /* 0 if CALLER has all RIGHTS (of enum kq_right) on OBJECT, else -EACCES or -EPERM. Any thread;
     * never blocks. */
    int (*check)(void *context, const struct kq_caller *caller, unsigned rights,
                 const struct kq_authz_object *object);
    void *context;
};
