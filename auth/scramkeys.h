/* What scram.c and scramkeys.c share. */
#pragma once

#include <openssl/evp.h>
#include <openssl/hmac.h>

#include "auth/scram.h"

/* RET has room for KQ_SCRAM_KEY_BYTES. 0; -ENOMEM. */
int kq_scram_hmac(enum kq_scram_hash hash, const uint8_t *key, size_t key_length, const void *bytes,
                  size_t length, uint8_t *ret);
int kq_scram_digest(enum kq_scram_hash hash, const uint8_t *bytes, size_t length, uint8_t *ret);
