/* Public keys of who signs tokens: a JSON Web Key Set (RFC 7517, 7518, 8037), and the signatures
 * made with them (RFC 7515).
 *
 * Only asymmetric ones: no HMAC, whose key would be a secret that the broker could sign with too,
 * and never `none`. Keys that are for something else, or of a kind that is not known here, are left
 * out; what cannot be a key at all makes the whole set malformed.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct kq_jwks;
struct kq_jose_algorithm;

#define KQ_JWKS_KEYS_MAX 1000
#define KQ_JWKS_BYTES_MAX ((size_t)4 << 20)

/* NAME as a token's header has it: "RS256". NULL: not known, or not safe. */
const struct kq_jose_algorithm *kq_jose_algorithm_of(const char *name, size_t length);
/* As a bit of a set of them. */
unsigned kq_jose_algorithm_bit(const struct kq_jose_algorithm *algorithm);
#define KQ_JOSE_ALL UINT32_MAX

/* Parses LENGTH bytes of JSON. -EINVAL: malformed, RET_REASON (static) says how; -ENOMEM. */
int kq_jwks_parse(const char *bytes, size_t length, struct kq_jwks **ret, const char **ret_reason);
struct kq_jwks *kq_jwks_ref(struct kq_jwks *jwks);
void kq_jwks_unref(struct kq_jwks *jwks); /* NULL is fine */
size_t kq_jwks_count(const struct kq_jwks *jwks);

/* Is SIGNATURE one of TEXT, made by ALGORITHM with the key KID, or, where that is NULL, with the
 * only key for that algorithm? 0; -ENOENT: there is no such key; -EACCES: it is not; -ENOMEM. Any
 * thread. */
int kq_jwks_verify(const struct kq_jwks *jwks, const struct kq_jose_algorithm *algorithm,
                   const char *kid, const void *text, size_t text_length, const uint8_t *signature,
                   size_t signature_length);
