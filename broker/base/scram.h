/* What is kept of a password: enough to check it, and to prove to the client that it was known, not
 * to use it (RFC 5802, section 3). Plain data. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#define KQ_SCRAM_KEY_BYTES 64          /* room for the longest: SHA-512 */
#define KQ_SCRAM_SALT_BYTES 128        /* at most */
#define KQ_SCRAM_ITERATIONS_LEAST 4096 /* RFC 7677; Kafka refuses fewer, and more than the most */
#define KQ_SCRAM_ITERATIONS_MOST 16384
#define KQ_USER_NAME_BYTES 255 /* at most, without a NUL */

/* The mechanisms, in order of Kafka's numbers, which begin with 1. */
enum kq_scram_hash { KQ_SCRAM_SHA_256, KQ_SCRAM_SHA_512, KQ_SCRAM_HASHES };

struct kq_scram_credential {
    int32_t iterations; /* 0: there is none */
    uint32_t salt_length;
    uint8_t salt[KQ_SCRAM_SALT_BYTES];
    uint8_t stored_key[KQ_SCRAM_KEY_BYTES]; /* kq_scram_key_bytes */
    uint8_t server_key[KQ_SCRAM_KEY_BYTES];
};

static inline size_t kq_scram_key_bytes(enum kq_scram_hash hash)
{
    return hash == KQ_SCRAM_SHA_256 ? 32 : 64;
}

static inline const char *kq_scram_name(enum kq_scram_hash hash)
{
    return hash == KQ_SCRAM_SHA_256 ? "SCRAM-SHA-256" : "SCRAM-SHA-512";
}
