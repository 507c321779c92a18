/* GSSAPI (RFC 4752): Kerberos 5 by MIT's library, without a security layer, as Kafka's clients
 * expect: TLS protects what follows, or nothing does.
 *
 * The client's ticket is for our service principal, whose key the keytab has; that is looked at
 * when an exchange begins, so that a new key counts at once. The library's replay cache syncs a
 * file to disk.
 */
#pragma once

#include "auth/principals.h"
#include "auth/sasl.h"

struct kq_gssapi;

struct kq_gssapi_options {
    const char *keytab;    /* absolute */
    const char *principal; /* the service's: kafka/HOST@REALM; "": any of the keytab's */
};

/* Options are copied; PRINCIPALS, which makes names of principals, outlives RET. 0; -EINVAL: no key
 * for that; reported in one line; -ENOMEM. */
int kq_gssapi_new(const struct kq_gssapi_options *options, struct kq_principals *principals,
                  struct kq_gssapi **ret);
void kq_gssapi_free(struct kq_gssapi *gssapi); /* no exchange is left; NULL is fine */

/* The default realm of krb5.conf(5); "" where it has none. *RET is the caller's, free(3). -ENOMEM.
 */
int kq_gssapi_realm(char **ret);

/* The context is a struct kq_gssapi. */
extern const struct kq_sasl_class kq_gssapi_class;
