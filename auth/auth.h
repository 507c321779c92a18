/* Who are you, may you: answers the broker's questions (broker/authz.h) by owner, group, mode and
 * POSIX ACL, exactly as the kernel would for the same act on the mount. */
#pragma once

#include "broker/authz.h"

struct kq_auth;

/* 0; -ENOMEM. */
int kq_auth_new(struct kq_auth **ret);
void kq_auth_free(struct kq_auth *auth); /* NULL is fine */

/* The interface to hand to the broker; valid while AUTH lives. */
struct kq_authz kq_auth_authz(struct kq_auth *auth);

/* --- Identities: who a client is --- */

/* A user of this host under the name that Kafka knows. Never changes; any thread may hold it. */
struct kq_identity {
    uint64_t number; /* > 0; no other of this process had it, or will have it */
    uid_t uid;       /* KQ_UID_UNKNOWN: nobody's */
    gid_t gid;
    const gid_t *groups; /* supplementary */
    size_t group_count;
    const char *principal; /* "User:alice" */
};

const struct kq_identity *kq_identity_ref(const struct kq_identity *identity);
void kq_identity_unref(const struct kq_identity *identity); /* NULL is fine */

/* One who has not said who it is: User:ANONYMOUS, of no uid. -ENOMEM. */
int kq_identity_anonymous(const struct kq_identity **ret);

/* User:ANONYMOUS with the rights of the user NAME, which may be a number. Blocks
 * (nsswitch.conf(5)). -ENOENT, -ENOMEM, -errno. */
int kq_identity_anonymous_as(const char *name, const struct kq_identity **ret);

/* User:NAME with the rights of the user UID; where that is KQ_UID_UNKNOWN, of the user of that
 * NAME, if this host has one that is not uid 0 and NAME is no number, else of nobody. Blocks.
 * -ENOMEM, -errno. */
int kq_identity_of_name(const char *name, uid_t uid, const struct kq_identity **ret);

/* The user with UID and what groups it has now; who has no name is User:#UID. Blocks. -ENOMEM,
 * -errno. */
int kq_identity_of_uid(uid_t uid, const struct kq_identity **ret);

/* Who connected to the other end of the unix socket FD, with the groups it had then (SO_PEERCRED,
 * SO_PEERGROUPS: unix(7), socket(7)). Blocks (for the name). -ENOMEM, -errno. */
int kq_identity_of_peer(int fd, const struct kq_identity **ret);
