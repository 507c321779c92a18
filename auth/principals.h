/* Kafka's principals and the users of this host: which user's rights a client has that proved a
 * name.
 *
 * `[users] NAME = uid` maps service accounts; a certificate's subject and a Kerberos principal go
 * through lists of rules (auth/rules.h). A name that the host does not know matches `other` only.
 * No name maps to uid 0 without an entry of its own in [users], and none that is a number to the
 * user of that number.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "auth/auth.h"

struct kq_principals;

struct kq_principal_entry {
    const char *name;
    uid_t uid;
};

struct kq_principals_options {
    const char *certificate_rules; /* ssl.principal.mapping.rules; "": DEFAULT */
    const char *kerberos_rules;    /* sasl.kerberos.principal.to.local.rules; "": DEFAULT */
    const char *kerberos_realm;    /* for DEFAULT; "": it matches nobody */
    const struct kq_principal_entry *users; /* [users] */
    size_t user_count;
    int64_t refresh_ms;   /* how long what was looked up of a user holds */
    unsigned max_entries; /* names of which it is remembered, at most */
};

/* Options are copied. 0; -EINVAL (a malformed rule; reported in one line that quotes it);
 * -ENOMEM. */
int kq_principals_new(const struct kq_principals_options *options, struct kq_principals **ret);
void kq_principals_free(struct kq_principals *principals); /* NULL is fine */

/* The user with the rights of NAME, whose principal is User:NAME. Remembered for refresh_ms; blocks
 * where it has to look (nsswitch.conf(5)), which holds up nobody who asks for another name. Any
 * thread. The reference is the caller's. -ENOMEM, -errno. */
int kq_principals_identity(struct kq_principals *principals, const char *name,
                           const struct kq_identity **ret);

/* --- Names that are in use --- */

/* A name whose user is looked up anew from time to time, by kq_principals_refresh. */
struct kq_principal;

/* As kq_principals_identity. *RET is the caller's, for kq_principal_close. */
int kq_principals_open(struct kq_principals *principals, const char *name,
                       struct kq_principal **ret);
void kq_principal_close(struct kq_principal *principal); /* NULL is fine. Any thread */

/* Its user as it is known now; the reference is the caller's. Any thread. */
const struct kq_identity *kq_principal_identity(struct kq_principal *principal);

/* Is that still IDENTITY, of which the caller has a reference? Any thread, one load. */
bool kq_principal_is(const struct kq_principal *principal, const struct kq_identity *identity);

struct kq_principals_refreshed {
    unsigned same, changed;
    unsigned failed; /* they keep what they had */
};

/* Looks up anew, one by one, the users of names in use of which it is more than three quarters of
 * refresh_ms old: so called each quarter of it, none gets older than that. Blocks as long as that
 * takes. One thread at a time. */
void kq_principals_refresh(struct kq_principals *principals, struct kq_principals_refreshed *ret);
bool kq_principals_in_use(const struct kq_principals *principals); /* are there any? */
int64_t kq_principals_refresh_ms(const struct kq_principals *principals);

/* --- What [users] says --- */

/* The name in [users] of UID; of several, the first in order. NULL: none. Valid as long as
 * PRINCIPALS. Any thread. */
const char *kq_principals_name_of(const struct kq_principals *principals, uid_t uid);

/* Has NAME an entry in [users]? Any thread. */
bool kq_principals_has(const struct kq_principals *principals, const char *name);

/* NAME of the subject of a certificate (RFC 2253, as X509_NAME_print_ex writes it with
 * XN_FLAG_RFC2253). *RET is the caller's, free(3). Any thread. 0; -EACCES: no rule applies, or to
 * nothing that could be a name; -ENOMEM. */
int kq_principals_of_subject(struct kq_principals *principals, const char *subject, char **ret);

/* NAME of a Kerberos principal: alice/host@REALM. As kq_principals_of_subject. */
int kq_principals_of_kerberos(struct kq_principals *principals, const char *principal, char **ret);
