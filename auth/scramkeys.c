/* What SCRAM derives from a password, in the names of RFC 5802:
 *
 *     SaltedPassword = Hi(password, salt, i)        ClientKey = HMAC(SaltedPassword, "Client Key")
 *     StoredKey = H(ClientKey)                      ServerKey = HMAC(SaltedPassword, "Server Key")
 */
#include <errno.h>
#include <openssl/crypto.h>
#include <openssl/rand.h>
#include <stdio.h>
#include <string.h>

#include "auth/scramkeys.h"

static const EVP_MD *md(enum kq_scram_hash hash)
{
    return hash == KQ_SCRAM_SHA_256 ? EVP_sha256() : EVP_sha512();
}

int kq_scram_hmac(enum kq_scram_hash hash, const uint8_t *key, size_t key_length, const void *bytes,
                  size_t length, uint8_t *ret)
{
    return HMAC(md(hash), key, (int)key_length, bytes, length, ret, NULL) ? 0 : -ENOMEM;
}

int kq_scram_digest(enum kq_scram_hash hash, const uint8_t *bytes, size_t length, uint8_t *ret)
{
    return EVP_Digest(bytes, length, ret, NULL, md(hash), NULL) == 1 ? 0 : -ENOMEM;
}

int kq_scram_set_keys(enum kq_scram_hash hash, const uint8_t *salted,
                      struct kq_scram_credential *credential)
{
    uint8_t client[KQ_SCRAM_KEY_BYTES];
    size_t bytes = kq_scram_key_bytes(hash);
    int r = kq_scram_hmac(hash, salted, bytes, "Client Key", strlen("Client Key"), client);
    if (r == 0)
        r = kq_scram_digest(hash, client, bytes, credential->stored_key);
    if (r == 0)
        r = kq_scram_hmac(hash, salted, bytes, "Server Key", strlen("Server Key"),
                          credential->server_key);
    OPENSSL_cleanse(client, sizeof(client));
    return r;
}

static int salt_password(enum kq_scram_hash hash, const struct kq_scram_credential *credential,
                         const void *password, size_t length, uint8_t *ret)
{
    return PKCS5_PBKDF2_HMAC(password, (int)length, credential->salt, (int)credential->salt_length,
                             credential->iterations, md(hash), (int)kq_scram_key_bytes(hash),
                             ret) == 1
               ? 0
               : -ENOMEM;
}

/* Characters as those of a number with the base 36, which is how Kafka's tools write their salts:
 * who set a password cannot be told from its salt, nor whether anybody did. */
static void write_salt(const uint8_t *random, struct kq_scram_credential *ret)
{
    static const char characters[] = "0123456789abcdefghijklmnopqrstuvwxyz";
    for (size_t i = 0; i < KQ_SCRAM_SALT_CHARACTERS; i++)
        ret->salt[i] = (uint8_t)characters[random[i] % 36];
    ret->salt_length = KQ_SCRAM_SALT_CHARACTERS;
}

int kq_scram_derive(enum kq_scram_hash hash, const void *password, size_t length,
                    int32_t iterations, struct kq_scram_credential *ret)
{
    uint8_t random[KQ_SCRAM_SALT_CHARACTERS], salted[KQ_SCRAM_KEY_BYTES];
    if (length == 0 || length > KQ_PASSWORD_BYTES || iterations < KQ_SCRAM_ITERATIONS_LEAST ||
        iterations > KQ_SCRAM_ITERATIONS_MOST)
        return -EINVAL;
    if (RAND_bytes(random, sizeof(random)) != 1)
        return -EIO;
    *ret = (struct kq_scram_credential){.iterations = iterations};
    write_salt(random, ret);
    int r = salt_password(hash, ret, password, length, salted);
    if (r == 0)
        r = kq_scram_set_keys(hash, salted, ret);
    OPENSSL_cleanse(salted, sizeof(salted));
    return r;
}

int kq_scram_check(enum kq_scram_hash hash, const struct kq_scram_credential *credential,
                   const void *password, size_t length, bool *ret)
{
    uint8_t salted[KQ_SCRAM_KEY_BYTES];
    struct kq_scram_credential given;
    int r = salt_password(hash, credential, password, length, salted);
    if (r == 0)
        r = kq_scram_set_keys(hash, salted, &given);
    if (r == 0)
        *ret =
            CRYPTO_memcmp(given.stored_key, credential->stored_key, kq_scram_key_bytes(hash)) == 0;
    OPENSSL_cleanse(salted, sizeof(salted));
    OPENSSL_cleanse(&given, sizeof(given));
    return r;
}

int kq_scram_find(const struct kq_scram_users *users, const char *name, enum kq_scram_hash hash,
                  struct kq_scram_credential *ret, bool *ret_fake)
{
    uint8_t bytes[KQ_SCRAM_KEY_BYTES];
    char text[KQ_USER_NAME_BYTES + 32];
    *ret = (struct kq_scram_credential){0};
    int r = users->find(users->context, name, hash, ret);
    if (r != -ENOENT) {
        *ret_fake = false;
        return r;
    }
    int length = snprintf(text, sizeof(text), "%s %s", kq_scram_name(hash), name);
    r = kq_scram_hmac(KQ_SCRAM_SHA_256, users->secret, sizeof(users->secret), text, (size_t)length,
                      bytes);
    if (r < 0)
        return r;
    ret->iterations = users->iterations;
    write_salt(bytes, ret);
    /* Keys that nobody has: no proof leads to them. */
    if (RAND_bytes(ret->stored_key, sizeof(ret->stored_key)) != 1 ||
        RAND_bytes(ret->server_key, sizeof(ret->server_key)) != 1)
        return -EIO;
    *ret_fake = true;
    return 0;
}
