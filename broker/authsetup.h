/* What the command makes of the settings that say who clients are: mechanisms, and whose rights
 * their names have. */
#pragma once

#include "auth/principals.h"
#include "auth/sasl.h"
#include "auth/scram.h"
#include "broker/config.h"

struct kq_broker;
struct kq_gssapi;
struct kq_oauth;

#define KQ_AUTHSETUP_MECHANISMS 8 /* more than are known */

struct kq_authsetup {
    struct kq_principals *principals;
    struct kq_oauth *oauth;                                       /* NULL: OAUTHBEARER is off */
    struct kq_gssapi *gssapi;                                     /* NULL: GSSAPI is off */
    struct kq_scram_users users;                                  /* of mechanisms with passwords */
    struct kq_sasl_mechanism mechanisms[KQ_AUTHSETUP_MECHANISMS]; /* that are switched on */
    size_t mechanism_count;
};

/* RET stays where it is: mechanisms point into it. To be released after any result. 0; -EINVAL
 * (reported); -ENOMEM. */
int kq_authsetup_init(const struct kq_config *config, struct kq_authsetup *ret);
void kq_authsetup_release(struct kq_authsetup *setup);

/* BROKER has the users from now on: before the first client, and as long as there are any. */
void kq_authsetup_use(struct kq_authsetup *setup, struct kq_broker *broker);
