/* The keys of a Kerberos service. The file may be root's alone: it is read through the helper
 * (broker/base/privileged.h), and what the library sees is a copy in memory. */
#pragma once

#include <gssapi/gssapi.h>
#include <stddef.h>

struct kq_keytab;

/* The keys as they were in the file at a time. */
struct kq_keytab_keys;

#define KQ_KEYTAB_BYTES_MAX ((size_t)1 << 20)

/* PATH, absolute; PRINCIPAL: the service's; "": any that the file has keys of. Both are copied. 0;
 * -EINVAL: no such key; -errno: the file; reported in one line; -ENOMEM. */
int kq_keytab_new(const char *path, const char *principal, struct kq_keytab **ret);
void kq_keytab_free(struct kq_keytab *keytab); /* NULL is fine */

/* The keys that the file has now, to be released. Where it cannot be read any more, or has no such
 * key (reported once), those from before. Any thread; may block. */
struct kq_keytab_keys *kq_keytab_keys(struct kq_keytab *keytab);
void kq_keytab_keys_unref(struct kq_keytab_keys *keys); /* NULL is fine */

/* What gss_accept_sec_context takes; valid as long as KEYS. */
gss_cred_id_t kq_keytab_credential(const struct kq_keytab_keys *keys);

/* What MAJOR and MINOR mean, in one line. */
void kq_gssapi_describe(OM_uint32 major, OM_uint32 minor, char *text, size_t size);
