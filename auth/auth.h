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
