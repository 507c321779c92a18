#include "auth/jwks.h"

#include <jansson.h>
#include <openssl/bn.h>
#include <openssl/core_names.h>
#include <openssl/ec.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/param_build.h>
#include <openssl/rsa.h>
#include <stdatomic.h>
#include <string.h>

#include "auth/base64url.h"
#include "broker/base/mem.h"

#define RSA_BITS_LEAST 2048
#define RSA_BYTES_MOST                                                                             \
    2048 /* of the modulus; a longer one would make each look at a token costly */

struct kq_jose_algorithm {
    const char *name, *kind, *digest;
    const char *curve; /* of JOSE; NULL: RSA */
    const char *group; /* of OpenSSL */
    size_t half;       /* bytes of r, and of s */
    bool pss;
};

static const struct kq_jose_algorithm algorithms[] = {
    {"RS256", "RSA", "SHA256", NULL, NULL, 0, false},
    {"RS384", "RSA", "SHA384", NULL, NULL, 0, false},
    {"RS512", "RSA", "SHA512", NULL, NULL, 0, false},
    {"PS256", "RSA", "SHA256", NULL, NULL, 0, true},
    {"PS384", "RSA", "SHA384", NULL, NULL, 0, true},
    {"PS512", "RSA", "SHA512", NULL, NULL, 0, true},
    {"ES256", "EC", "SHA256", "P-256", "prime256v1", 32, false},
    {"ES384", "EC", "SHA384", "P-384", "secp384r1", 48, false},
    {"ES512", "EC", "SHA512", "P-521", "secp521r1", 66, false},
    {"EdDSA", "OKP", NULL, "Ed25519", NULL, 0, false},
};

struct key {
    EVP_PKEY *pkey;
    char *kid;                               /* NULL: it has none */
    const struct kq_jose_algorithm *example; /* kind and curve */
    const struct kq_jose_algorithm *only;    /* NULL: any of its kind */
};

struct kq_jwks {
    atomic_int references;
    size_t count;
    struct key keys[];
};

const struct kq_jose_algorithm *kq_jose_algorithm_of(const char *name, size_t length)
{
    for (size_t i = 0; i < kq_array_size(algorithms); i++)
        if (strlen(algorithms[i].name) == length && memcmp(algorithms[i].name, name, length) == 0)
            return &algorithms[i];
    return NULL;
}

unsigned kq_jose_algorithm_bit(const struct kq_jose_algorithm *algorithm)
{
    return 1u << (algorithm - algorithms);
}

/* --- Reading keys --- */

static int take_bytes(const json_t *key, const char *name, struct kq_buf *ret)
{
    const json_t *text = json_object_get(key, name);
    if (!json_is_string(text))
        return -EBADMSG;
    int r = kq_base64url_decode(json_string_value(text), json_string_length(text), ret);
    return r < 0 ? r : ret->length ? 0 : -EBADMSG;
}

static int from_parameters(const char *type, OSSL_PARAM_BLD *builder, EVP_PKEY **ret)
{
    EVP_PKEY_CTX *context = EVP_PKEY_CTX_new_from_name(NULL, type, NULL);
    OSSL_PARAM *parameters = OSSL_PARAM_BLD_to_param(builder);
    int r = context && parameters ? -EBADMSG : -ENOMEM;
    if (r == -EBADMSG && EVP_PKEY_fromdata_init(context) == 1 &&
        EVP_PKEY_fromdata(context, ret, EVP_PKEY_PUBLIC_KEY, parameters) == 1)
        r = 0;
    OSSL_PARAM_free(parameters);
    EVP_PKEY_CTX_free(context);
    return r;
}

static int make_rsa(const json_t *json, EVP_PKEY **ret)
{
    kq_autobuf struct kq_buf n = {0}, e = {0};
    int r = take_bytes(json, "n", &n);
    if (r == 0)
        r = take_bytes(json, "e", &e);
    if (r == 0 && (n.length > RSA_BYTES_MOST || e.length > 8))
        r = -EBADMSG;
    if (r < 0)
        return r;
    OSSL_PARAM_BLD *builder = OSSL_PARAM_BLD_new();
    BIGNUM *modulus = BN_bin2bn(n.data, (int)n.length, NULL);
    BIGNUM *exponent = BN_bin2bn(e.data, (int)e.length, NULL);
    r = -ENOMEM;
    if (builder && modulus && exponent &&
        OSSL_PARAM_BLD_push_BN(builder, OSSL_PKEY_PARAM_RSA_N, modulus) &&
        OSSL_PARAM_BLD_push_BN(builder, OSSL_PKEY_PARAM_RSA_E, exponent))
        r = from_parameters("RSA", builder, ret);
    OSSL_PARAM_BLD_free(builder);
    BN_free(modulus);
    BN_free(exponent);
    return r == 0 && EVP_PKEY_get_bits(*ret) < RSA_BITS_LEAST ? -EKEYREJECTED : r;
}

static int make_ec(const json_t *json, const struct kq_jose_algorithm *algorithm, EVP_PKEY **ret)
{
    kq_autobuf struct kq_buf point = {0};
    int r = kq_buf_append(&point, "\x04", 1); /* uncompressed: SEC 1, 2.3.3 */
    if (r == 0)
        r = take_bytes(json, "x", &point);
    if (r == 0)
        r = point.length == 1 + algorithm->half ? take_bytes(json, "y", &point) : -EBADMSG;
    if (r == 0 && point.length != 1 + 2 * algorithm->half)
        r = -EBADMSG;
    if (r < 0)
        return r;
    OSSL_PARAM_BLD *builder = OSSL_PARAM_BLD_new();
    r = -ENOMEM;
    if (builder &&
        OSSL_PARAM_BLD_push_utf8_string(builder, OSSL_PKEY_PARAM_GROUP_NAME, algorithm->group, 0) &&
        OSSL_PARAM_BLD_push_octet_string(builder, OSSL_PKEY_PARAM_PUB_KEY, point.data,
                                         point.length))
        r = from_parameters("EC", builder, ret);
    OSSL_PARAM_BLD_free(builder);
    return r;
}

static int make_ed25519(const json_t *json, EVP_PKEY **ret)
{
    kq_autobuf struct kq_buf x = {0};
    int r = take_bytes(json, "x", &x);
    if (r < 0)
        return r;
    EVP_PKEY *pkey = EVP_PKEY_new_raw_public_key(EVP_PKEY_ED25519, NULL, x.data, x.length);
    if (!pkey)
        return -EBADMSG;
    *ret = pkey;
    return 0;
}

static const char *text_of(const json_t *object, const char *name)
{
    return json_string_value(json_object_get(object, name));
}

/* Is it for signatures, as far as it says? */
static bool is_for_signatures(const json_t *json)
{
    const char *use = text_of(json, "use");
    const json_t *operations = json_object_get(json, "key_ops"), *operation;
    size_t i;
    if (use && strcmp(use, "sig") != 0)
        return false;
    if (!json_is_array(operations))
        return true;
    json_array_foreach(operations, i, operation) if (json_is_string(operation) &&
                                                     strcmp(json_string_value(operation),
                                                            "verify") == 0) return true;
    return false;
}

static const struct kq_jose_algorithm *example_of(const json_t *json)
{
    const char *kind = text_of(json, "kty"), *curve = text_of(json, "crv");
    for (size_t i = 0; kind && i < kq_array_size(algorithms); i++)
        if (strcmp(algorithms[i].kind, kind) == 0 &&
            (!algorithms[i].curve || (curve && strcmp(algorithms[i].curve, curve) == 0)))
            return &algorithms[i];
    return NULL;
}

static int make_pkey(const json_t *json, const struct kq_jose_algorithm *example, EVP_PKEY **ret)
{
    if (!example->curve)
        return make_rsa(json, ret);
    return example->group ? make_ec(json, example, ret) : make_ed25519(json, ret);
}

/* KQ_END: a key of no use here. */
static int read_key(const json_t *json, struct key *ret)
{
    const char *only = text_of(json, "alg"), *kid = text_of(json, "kid");
    if (!json_is_object(json) || !text_of(json, "kty"))
        return -EBADMSG;
    ret->example = example_of(json);
    ret->only = only ? kq_jose_algorithm_of(only, strlen(only)) : NULL;
    if (!ret->example || !is_for_signatures(json) || (only && !ret->only))
        return KQ_END;
    if (kid && !(ret->kid = kq_strdup(kid)))
        return -ENOMEM;
    return make_pkey(json, ret->example, &ret->pkey);
}

static void release_key(struct key *key)
{
    EVP_PKEY_free(key->pkey);
    free(key->kid);
    *key = (struct key){0};
}

static int read_keys(const json_t *keys, struct kq_jwks *to)
{
    size_t i;
    const json_t *json;
    json_array_foreach(keys, i, json)
    {
        struct key *key = &to->keys[to->count];
        int r = read_key(json, key);
        if (r == 0)
            to->count++;
        else
            release_key(key);
        if (r < 0) {
            ERR_clear_error();
            return r;
        }
    }
    return 0;
}

static int make(const json_t *json, struct kq_jwks **ret, const char **ret_reason)
{
    const json_t *keys = json_object_get(json, "keys");
    size_t count = json_array_size(keys);
    *ret_reason = "it has no array `keys` of at most 1000";
    if (!json_is_array(keys) || count > KQ_JWKS_KEYS_MAX)
        return -EINVAL;
    struct kq_jwks *jwks = kq_zalloc(sizeof(*jwks) + (count + 1) * sizeof(*jwks->keys));
    if (!jwks)
        return -ENOMEM;
    atomic_init(&jwks->references, 1);
    int r = read_keys(keys, jwks);
    if (r < 0) {
        *ret_reason = r == -EKEYREJECTED ? "a key of RSA has less than 2048 bits"
                                         : "one of its keys is malformed";
        kq_jwks_unref(jwks);
        return r == -ENOMEM ? r : -EINVAL;
    }
    *ret = jwks;
    return 0;
}

int kq_jwks_parse(const char *bytes, size_t length, struct kq_jwks **ret, const char **ret_reason)
{
    json_error_t error;
    json_t *json = json_loadb(bytes, length, JSON_REJECT_DUPLICATES, &error);
    if (!json) {
        *ret_reason = "it is not JSON";
        return json_error_code(&error) == json_error_out_of_memory ? -ENOMEM : -EINVAL;
    }
    int r = make(json, ret, ret_reason);
    json_decref(json);
    return r;
}

struct kq_jwks *kq_jwks_ref(struct kq_jwks *jwks)
{
    atomic_fetch_add_explicit(&jwks->references, 1, memory_order_relaxed);
    return jwks;
}

void kq_jwks_unref(struct kq_jwks *jwks)
{
    if (!jwks || atomic_fetch_sub_explicit(&jwks->references, 1, memory_order_acq_rel) != 1)
        return;
    for (size_t i = 0; i < jwks->count; i++)
        release_key(&jwks->keys[i]);
    free(jwks);
}

size_t kq_jwks_count(const struct kq_jwks *jwks)
{
    return jwks->count;
}

/* --- Signatures --- */

static bool fits(const struct key *key, const struct kq_jose_algorithm *algorithm, const char *kid)
{
    const struct kq_jose_algorithm *example = key->example;
    return strcmp(example->kind, algorithm->kind) == 0 &&
           (!algorithm->curve || strcmp(example->curve, algorithm->curve) == 0) &&
           (!key->only || key->only == algorithm) &&
           (!kid || (key->kid && strcmp(key->kid, kid) == 0));
}

static const struct key *find(const struct kq_jwks *jwks, const struct kq_jose_algorithm *algorithm,
                              const char *kid)
{
    const struct key *found = NULL;
    for (size_t i = 0; i < jwks->count; i++)
        if (fits(&jwks->keys[i], algorithm, kid)) {
            if (found)
                return NULL; /* to try them all would be to let a client choose the work */
            found = &jwks->keys[i];
        }
    return found;
}

/* r and s side by side, as JOSE has them, in ASN.1, as OpenSSL wants them. */
static int to_der(const uint8_t *signature, size_t half, uint8_t **ret, int *ret_length)
{
    BIGNUM *r = BN_bin2bn(signature, (int)half, NULL);
    BIGNUM *s = BN_bin2bn(signature + half, (int)half, NULL);
    ECDSA_SIG *both = ECDSA_SIG_new();
    if (!r || !s || !both || !ECDSA_SIG_set0(both, r, s)) {
        BN_free(r);
        BN_free(s);
        ECDSA_SIG_free(both);
        return -ENOMEM;
    }
    *ret = NULL;
    *ret_length = i2d_ECDSA_SIG(both, ret);
    ECDSA_SIG_free(both);
    return *ret_length > 0 ? 0 : -ENOMEM;
}

static bool set_padding(EVP_PKEY_CTX *context, const struct kq_jose_algorithm *algorithm)
{
    return !algorithm->pss ||
           (EVP_PKEY_CTX_set_rsa_padding(context, RSA_PKCS1_PSS_PADDING) == 1 &&
            EVP_PKEY_CTX_set_rsa_pss_saltlen(context, RSA_PSS_SALTLEN_DIGEST) == 1);
}

static int verify(const struct key *key, const struct kq_jose_algorithm *algorithm,
                  const void *text, size_t text_length, const uint8_t *signature,
                  size_t signature_length)
{
    EVP_PKEY_CTX *parameters = NULL; /* belongs to CONTEXT */
    EVP_MD_CTX *context = EVP_MD_CTX_new();
    if (!context)
        return -ENOMEM;
    bool good = EVP_DigestVerifyInit_ex(context, &parameters, algorithm->digest, NULL, NULL,
                                        key->pkey, NULL) == 1 &&
                set_padding(parameters, algorithm) &&
                EVP_DigestVerify(context, signature, signature_length, text, text_length) == 1;
    EVP_MD_CTX_free(context);
    ERR_clear_error();
    return good ? 0 : -EACCES;
}

int kq_jwks_verify(const struct kq_jwks *jwks, const struct kq_jose_algorithm *algorithm,
                   const char *kid, const void *text, size_t text_length, const uint8_t *signature,
                   size_t signature_length)
{
    const struct key *key = find(jwks, algorithm, kid);
    if (!key)
        return -ENOENT;
    if (!algorithm->half)
        return verify(key, algorithm, text, text_length, signature, signature_length);
    if (signature_length != 2 * algorithm->half)
        return -EACCES;
    uint8_t *der;
    int der_length;
    int r = to_der(signature, algorithm->half, &der, &der_length);
    if (r < 0)
        return r;
    r = verify(key, algorithm, text, text_length, der, (size_t)der_length);
    OPENSSL_free(der);
    return r;
}
