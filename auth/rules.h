/* Lists of rules that make a name of what a client proved: the first that matches decides.
 *
 * Of a certificate's subject, as ssl.principal.mapping.rules of Kafka (KIP-371):
 *
 *   RULE:PATTERN/REPLACEMENT/[L|U]  where PATTERN matches the whole subject, that, with what the
 *                                   pattern matches replaced, in lower or upper case
 *   DEFAULT                         the subject as it is
 *
 * Of a Kerberos principal, as sasl.kerberos.principal.to.local.rules of Kafka, which are much like
 * auth_to_local of krb5.conf(5):
 *
 *   RULE:[N:FORMAT](PATTERN)s/FROM/TO/[g][/][L|U]
 *                                   for a principal of N components: FORMAT, in which $0 is the
 *                                   realm and $1 the first component, with FROM replaced, where
 *                                   PATTERN matches all of FORMAT
 *   DEFAULT                         the first component, of our own realm
 *
 * Commas or blanks stand between rules. Patterns: auth/pattern.h; replacements as in
 * kq_pattern_replace. L and U change ASCII letters.
 */
#pragma once

#include "broker/base/err.h"

struct kq_rules;

/* TEXT "" is DEFAULT. -EINVAL: malformed; reported in one line that begins with WHERE, the
 * setting's name, and quotes the rule; -ENOMEM. */
int kq_rules_new_subject(const char *where, const char *text, struct kq_rules **ret);
/* REALM: for DEFAULT; "": that matches none. */
int kq_rules_new_kerberos(const char *where, const char *text, const char *realm,
                          struct kq_rules **ret);
void kq_rules_free(struct kq_rules *rules); /* NULL is fine */

/* A name for PRINCIPAL, the subject or the principal; *RET is the caller's, free(3). Any thread. 0;
 * -EACCES: no rule applies, or what came out is no name; -ENOMEM. */
int kq_rules_apply(const struct kq_rules *rules, const char *principal, char **ret);
