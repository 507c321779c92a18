/* SCRAM-SHA-256 and SCRAM-SHA-512 (RFC 5802, RFC 7677), and what is derived from a password.
 *
 * Names and passwords are bytes of UTF-8, compared as they are: no SASLprep, as Kafka's clients and
 * brokers do without it. There is no channel binding: a client that insists on it is refused.
 */
#pragma once

#include <stdbool.h>

#include "auth/sasl.h"
#include "broker/base/scram.h"

#define KQ_SCRAM_TOKEN_BYTES 4096    /* longer ones are refused */
#define KQ_PASSWORD_BYTES 1024       /* likewise */
#define KQ_SCRAM_SALT_CHARACTERS 26u /* of a salt that is made here, as Kafka's tools make them */

/* Where mechanisms with passwords find users: the context of all three. Constant while a server
 * runs. */
struct kq_scram_users {
    /* 0; -ENOENT. Any thread. */
    int (*find)(void *context, const char *name, enum kq_scram_hash hash,
                struct kq_scram_credential *ret);
    void *context;
    /* A name that is not there gets a salt that comes from this, always the same one, and these
     * iterations; so it cannot be told from one that is. */
    uint8_t secret[32];
    int32_t iterations;
};

extern const struct kq_sasl_class kq_scram_sha_256, kq_scram_sha_512;
extern const struct kq_sasl_class kq_plain; /* plain.c: RFC 4616 */

/* --- Credentials; any thread --- */

/* What is to be kept of PASSWORD, with a new salt. Takes milliseconds. 0; -EINVAL (empty, or above
 * KQ_PASSWORD_BYTES; ITERATIONS); -ENOMEM, -EIO (no random bytes). */
int kq_scram_derive(enum kq_scram_hash hash, const void *password, size_t length,
                    int32_t iterations, struct kq_scram_credential *ret);

/* Fills the keys of CREDENTIAL from the SALTED password, of kq_scram_key_bytes. -ENOMEM. */
int kq_scram_set_keys(enum kq_scram_hash hash, const uint8_t *salted,
                      struct kq_scram_credential *credential);

/* Is it the PASSWORD of CREDENTIAL? In constant time as far as the password goes. -ENOMEM. */
int kq_scram_check(enum kq_scram_hash hash, const struct kq_scram_credential *credential,
                   const void *password, size_t length, bool *ret);

/* The credential of NAME, or, where there is none, one that nothing matches. *RET_FAKE says which.
 * The caller wipes it. -ENOMEM, -errno. */
int kq_scram_find(const struct kq_scram_users *users, const char *name, enum kq_scram_hash hash,
                  struct kq_scram_credential *ret, bool *ret_fake);
