/* Signed tokens, the keys to them, and OAUTHBEARER. Keys and tokens are made here. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <openssl/core_names.h>
#include <openssl/ec.h>
#include <openssl/evp.h>
#include <openssl/rsa.h>
#include <stdio.h>
#include <string.h>

#include "auth/base64url.h"
#include "auth/jwt.h"
#include "auth/oauthbearer.h"
#include "broker/base/clock.h"
#include "broker/base/fault.h"
#include "broker/base/mem.h"
#include "tests/unit/said.h"

#define NOW_MS INT64_C(1700000000000)
#define TOKEN_BYTES 8192

enum {
    RSA_KEY,
    OTHER_RSA,
    P256,
    P384,
    P521,
    ED25519,
    KEYS,
};

static EVP_PKEY *keys[KEYS];
static char jwks_text[8192];

/* --- Making tokens --- */

static size_t encode(const void *bytes, size_t length, char *to)
{
    size_t n = (size_t)EVP_EncodeBlock((uint8_t *)to, bytes, (int)length);
    while (n && to[n - 1] == '=')
        n--;
    for (size_t i = 0; i < n; i++)
        to[i] = to[i] == '+' ? '-' : to[i] == '/' ? '_' : to[i];
    to[n] = '\0';
    return n;
}

static size_t sign(EVP_PKEY *key, const char *alg, const char *text, uint8_t *ret)
{
    EVP_PKEY_CTX *parameters;
    EVP_MD_CTX *context = EVP_MD_CTX_new();
    char digest[8];
    uint8_t der[2048];
    size_t length = sizeof(der), half = alg[2] == '5' ? 66 : (size_t)atoi(alg + 2) / 8;
    snprintf(digest, sizeof(digest), "SHA%s", alg + 2);
    assert_int_equal(EVP_DigestSignInit_ex(context, &parameters,
                                           strcmp(alg, "EdDSA") == 0 ? NULL : digest, NULL, NULL,
                                           key, NULL),
                     1);
    if (alg[0] == 'P') {
        assert_int_equal(EVP_PKEY_CTX_set_rsa_padding(parameters, RSA_PKCS1_PSS_PADDING), 1);
        assert_int_equal(EVP_PKEY_CTX_set_rsa_pss_saltlen(parameters, RSA_PSS_SALTLEN_DIGEST), 1);
    }
    assert_int_equal(EVP_DigestSign(context, der, &length, (const uint8_t *)text, strlen(text)), 1);
    EVP_MD_CTX_free(context);
    if (alg[0] != 'E' || alg[1] != 'S') {
        memcpy(ret, der, length);
        return length;
    }
    const uint8_t *at = der;
    ECDSA_SIG *both = d2i_ECDSA_SIG(NULL, &at, (long)length);
    assert_int_equal(BN_bn2binpad(ECDSA_SIG_get0_r(both), ret, (int)half), (int)half);
    assert_int_equal(BN_bn2binpad(ECDSA_SIG_get0_s(both), ret + half, (int)half), (int)half);
    ECDSA_SIG_free(both);
    return 2 * half;
}

static void make_token(EVP_PKEY *key, const char *alg, const char *header, const char *claims,
                       char *ret)
{
    uint8_t signature[2048];
    size_t at = encode(header, strlen(header), ret);
    ret[at++] = '.';
    encode(claims, strlen(claims), ret + at);
    size_t length = sign(key, alg, ret, signature);
    at = strlen(ret);
    ret[at++] = '.';
    encode(signature, length, ret + at);
}

static void add_bytes(const char *name, const uint8_t *bytes, size_t length)
{
    char text[1024];
    encode(bytes, length, text);
    size_t at = strlen(jwks_text);
    snprintf(jwks_text + at, sizeof(jwks_text) - at, ",\"%s\":\"%s\"", name, text);
}

static void add_number(const char *name, EVP_PKEY *key, const char *parameter, int size)
{
    BIGNUM *number = NULL;
    uint8_t bytes[512];
    assert_int_equal(EVP_PKEY_get_bn_param(key, parameter, &number), 1);
    int length = size ? size : BN_num_bytes(number);
    BN_bn2binpad(number, bytes, length);
    add_bytes(name, bytes, (size_t)length);
    BN_free(number);
}

static void begin_key(const char *format, ...)
{
    va_list arguments;
    size_t at = strlen(jwks_text);
    va_start(arguments, format);
    vsnprintf(jwks_text + at, sizeof(jwks_text) - at, format, arguments);
    va_end(arguments);
}

static void add_rsa(EVP_PKEY *key, const char *kid)
{
    begin_key("%s{\"kty\":\"RSA\",\"use\":\"sig\",\"kid\":\"%s\"", jwks_text[9] ? "," : "", kid);
    add_number("n", key, OSSL_PKEY_PARAM_RSA_N, 0);
    add_number("e", key, OSSL_PKEY_PARAM_RSA_E, 0);
    strcat(jwks_text, "}");
}

static void add_ec(EVP_PKEY *key, const char *curve, int size)
{
    begin_key(",{\"kty\":\"EC\",\"kid\":\"%s\",\"crv\":\"%s\"", curve, curve);
    add_number("x", key, OSSL_PKEY_PARAM_EC_PUB_X, size);
    add_number("y", key, OSSL_PKEY_PARAM_EC_PUB_Y, size);
    strcat(jwks_text, "}");
}

static int make_keys(void **state)
{
    uint8_t raw[32];
    size_t length = sizeof(raw);
    keys[RSA_KEY] = EVP_RSA_gen(2048);
    keys[OTHER_RSA] = EVP_RSA_gen(2048);
    keys[P256] = EVP_EC_gen("P-256");
    keys[P384] = EVP_EC_gen("P-384");
    keys[P521] = EVP_EC_gen("P-521");
    keys[ED25519] = EVP_PKEY_Q_keygen(NULL, NULL, "ED25519");
    strcpy(jwks_text, "{\"keys\":[");
    add_rsa(keys[RSA_KEY], "r1");
    add_ec(keys[P256], "P-256", 32);
    add_ec(keys[P384], "P-384", 48);
    add_ec(keys[P521], "P-521", 66);
    begin_key(",{\"kty\":\"OKP\",\"crv\":\"Ed25519\"");
    EVP_PKEY_get_raw_public_key(keys[ED25519], raw, &length);
    add_bytes("x", raw, length);
    strcat(jwks_text, "},{\"kty\":\"oct\",\"kid\":\"h\",\"k\":\"AAAA\"},"
                      "{\"kty\":\"RSA\",\"use\":\"enc\",\"kid\":\"r1\"}]}");
    return 0;
}

static int free_keys(void **state)
{
    for (int i = 0; i < KEYS; i++)
        EVP_PKEY_free(keys[i]);
    return 0;
}

/* --- Tokens --- */

static const struct kq_jwt_policy policy = {.algorithms = KQ_JOSE_ALL,
                                            .issuer = "https://issuer",
                                            .audience = "other kafka",
                                            .claim = "sub",
                                            .skew_ms = 30000,
                                            .max_bytes = 4096};

#define CLAIMS "\"iss\":\"https://issuer\",\"aud\":\"kafka\",\"sub\":\"alice\""
#define GOOD "{" CLAIMS ",\"exp\":1700000100}"

static int check_with(const struct kq_jwt_policy *by, const char *token, struct kq_jwt_outcome *ret)
{
    struct kq_jwks *jwks;
    const char *reason;
    assert_int_equal(kq_jwks_parse(jwks_text, strlen(jwks_text), &jwks, &reason), 0);
    int r = kq_jwt_check(jwks, by, token, strlen(token), NOW_MS, ret);
    kq_jwks_unref(jwks);
    return r;
}

static void refused(const char *token, const char *reason)
{
    struct kq_jwt_outcome outcome = {0};
    assert_int_equal(check_with(&policy, token, &outcome), -EACCES);
    assert_non_null(strstr(outcome.reason, reason));
    assert_string_equal(outcome.name, "");
}

static void claims_refused(const char *claims, const char *reason)
{
    char token[TOKEN_BYTES];
    make_token(keys[P256], "ES256", "{\"alg\":\"ES256\"}", claims, token);
    refused(token, reason);
}

static void expect_expiry(const char *claims, int64_t expires_ms)
{
    char token[TOKEN_BYTES];
    struct kq_jwt_outcome outcome = {0};
    make_token(keys[P256], "ES256", "{\"alg\":\"ES256\"}", claims, token);
    assert_int_equal(check_with(&policy, token, &outcome), 0);
    assert_int_equal(outcome.expires_ms, expires_ms);
    assert_string_equal(outcome.name, "alice");
}

static void every_algorithm_is_verified_with_its_kind_of_key(void **state)
{
    static const struct {
        const char *alg, *kid;
        int key;
    } all[] = {{"RS256", "r1", RSA_KEY}, {"RS384", "r1", RSA_KEY}, {"RS512", "r1", RSA_KEY},
               {"PS256", "r1", RSA_KEY}, {"PS384", "r1", RSA_KEY}, {"PS512", "r1", RSA_KEY},
               {"ES256", "P-256", P256}, {"ES384", "P-384", P384}, {"ES512", "P-521", P521},
               {"EdDSA", NULL, ED25519}};
    for (size_t i = 0; i < kq_array_size(all); i++) {
        char header[128], token[TOKEN_BYTES];
        struct kq_jwt_outcome outcome = {0};
        if (all[i].kid)
            snprintf(header, sizeof(header), "{\"alg\":\"%s\",\"kid\":\"%s\"}", all[i].alg,
                     all[i].kid);
        else
            snprintf(header, sizeof(header), "{\"alg\":\"%s\"}", all[i].alg);
        make_token(keys[all[i].key], all[i].alg, header, GOOD, token);
        assert_int_equal(check_with(&policy, token, &outcome), 0);
        assert_string_equal(outcome.name, "alice");
        assert_int_equal(outcome.expires_ms, INT64_C(1700000100000));
        /* The same with a letter of the claims changed, and of the signature. */
        char *claim = strchr(token, '.') + 5, *signature = strrchr(token, '.') + 5;
        *claim ^= 1;
        refused(token, "");
        *claim ^= 1;
        *signature = *signature == 'A' ? 'B' : 'A';
        refused(token, "signature is wrong");
    }
}

static void an_unsigned_or_hmac_token_is_refused(void **state)
{
    char token[TOKEN_BYTES], text[TOKEN_BYTES];
    static const char *const none[] = {"none", "None", "NONE", "", "HS256", "RS1"};
    for (size_t i = 0; i < kq_array_size(none); i++) {
        snprintf(text, sizeof(text), "{\"alg\":\"%s\",\"kid\":\"h\"}", none[i]);
        make_token(keys[P256], "ES256", text, GOOD, token);
        refused(token, "not signed");
        strrchr(token, '.')[1] = '\0';
        refused(token, "not signed");
    }
    make_token(keys[P256], "ES256", "{}", GOOD, token);
    refused(token, "not signed");
    make_token(keys[P256], "ES256", "{\"alg\":\"ES256\"}", GOOD, token);
    strrchr(token, '.')[1] = '\0';
    refused(token, "signature is wrong");
}

static void a_key_is_for_its_own_algorithms_only(void **state)
{
    char token[TOKEN_BYTES];
    make_token(keys[OTHER_RSA], "RS256", "{\"alg\":\"RS256\",\"kid\":\"r1\"}", GOOD, token);
    refused(token, "signature is wrong");
    make_token(keys[RSA_KEY], "RS256", "{\"alg\":\"PS256\",\"kid\":\"r1\"}", GOOD, token);
    refused(token, "signature is wrong");
    make_token(keys[P384], "ES384", "{\"alg\":\"ES256\",\"kid\":\"P-384\"}", GOOD, token);
    refused(token, "no such key");
    make_token(keys[P384], "ES384", "{\"alg\":\"ES384\",\"kid\":\"none\"}", GOOD, token);
    refused(token, "no such key");
    make_token(keys[P384], "ES384", "{\"alg\":\"ES384\",\"kid\":1}", GOOD, token);
    refused(token, "kid is malformed");
    make_token(keys[P384], "ES384", "{\"alg\":\"ES384\",\"crit\":[\"b64\"]}", GOOD, token);
    refused(token, "extensions");
}

static void only_algorithms_of_the_setting_are_taken(void **state)
{
    char token[TOKEN_BYTES];
    struct kq_jwt_outcome outcome = {0};
    struct kq_jwt_policy only = policy;
    only.algorithms = kq_jose_algorithm_bit(kq_jose_algorithm_of("RS256", 5));
    make_token(keys[P256], "ES256", "{\"alg\":\"ES256\"}", GOOD, token);
    assert_int_equal(check_with(&only, token, &outcome), -EACCES);
    assert_non_null(strstr(outcome.reason, "algorithms"));
}

static void times_hold_within_the_skew(void **state)
{
    expect_expiry("{" CLAIMS ",\"exp\":1700000001.5}", INT64_C(1700000001500));
    expect_expiry("{" CLAIMS ",\"exp\":1699999971}", INT64_C(1700000001000));
    claims_refused("{" CLAIMS ",\"exp\":1699999970}", "expired");
    claims_refused("{" CLAIMS "}", "no time at which it expires");
    claims_refused("{" CLAIMS ",\"exp\":\"1700000100\"}", "no time at which it expires");
    claims_refused("{" CLAIMS ",\"exp\":1e300}", "no time at which it expires");
    claims_refused("{" CLAIMS ",\"exp\":-1}", "no time at which it expires");
    expect_expiry("{" CLAIMS ",\"exp\":1700000100,\"nbf\":1700000030}", INT64_C(1700000100000));
    claims_refused("{" CLAIMS ",\"exp\":1700000100,\"nbf\":1700000031}", "not valid yet");
    claims_refused("{" CLAIMS ",\"exp\":1700000100,\"iat\":1700000031}", "from the future");
    claims_refused("{" CLAIMS ",\"exp\":1700000100,\"nbf\":null}", "a time in it is malformed");
}

static void issuer_audience_and_name_are_as_set(void **state)
{
    expect_expiry("{\"iss\":\"https://issuer\",\"aud\":[1,\"x\",\"other\"],\"sub\":\"alice\","
                  "\"exp\":1700000100}",
                  INT64_C(1700000100000));
    claims_refused(
        "{\"iss\":\"https://issuer/\",\"aud\":\"kafka\",\"sub\":\"a\",\"exp\":1700000100}",
        "another one");
    claims_refused("{\"aud\":\"kafka\",\"sub\":\"a\",\"exp\":1700000100}", "another one");
    claims_refused("{\"iss\":\"https://issuer\",\"aud\":\"kaf\",\"sub\":\"a\",\"exp\":1700000100}",
                   "not for this broker");
    claims_refused("{\"iss\":\"https://issuer\",\"sub\":\"a\",\"exp\":1700000100}",
                   "not for this broker");
    claims_refused("{\"iss\":\"https://issuer\",\"aud\":\"kafka\",\"exp\":1700000100}",
                   "names nobody");
    claims_refused("{\"iss\":\"https://issuer\",\"aud\":\"kafka\",\"sub\":\"\",\"exp\":1700000100}",
                   "names nobody");
    claims_refused("{\"iss\":\"https://issuer\",\"aud\":\"kafka\",\"sub\":\"a\\nb\",\"exp\":"
                   "1700000100}",
                   "control");
    claims_refused("{\"sub\":\"root\"," CLAIMS ",\"exp\":1700000100}", "malformed");
    claims_refused("[]", "malformed");
}

static void what_is_not_a_token_is_refused(void **state)
{
    static const char *const bad[] = {
        "", ".", "..", "a.b", "a.b.c.d", "e30.e30.e30=", "!!!.e30.e30"};
    char longer[5000];
    for (size_t i = 0; i < kq_array_size(bad); i++)
        refused(bad[i], "");
    memset(longer, 'a', sizeof(longer) - 1);
    longer[sizeof(longer) - 1] = '\0';
    refused(longer, "longer than");
}

static void base64url_has_one_text_a_value(void **state)
{
    static const char *const bad[] = {"A", "AB", "AA=", "AA==", "A+==", "A/AA", " AAA", "AAAAA"};
    for (size_t i = 0; i < kq_array_size(bad); i++) {
        kq_autobuf struct kq_buf bytes = {0};
        assert_int_equal(kq_base64url_decode(bad[i], strlen(bad[i]), &bytes), -EBADMSG);
    }
    kq_autobuf struct kq_buf bytes = {0};
    assert_int_equal(kq_base64url_decode("-_8A", 4, &bytes), 0);
    assert_int_equal(bytes.length, 3);
    assert_memory_equal(bytes.data, "\xfb\xff\x00", 3);
}

static void a_malformed_set_of_keys_is_refused(void **state)
{
    static const char *const bad[] = {
        "",
        "[]",
        "{}",
        "{\"keys\":1}",
        "{\"keys\":[1]}",
        "{\"keys\":[{}]}",
        "{\"keys\":[{\"kty\":\"RSA\"}]}",
        "{\"keys\":[{\"kty\":\"RSA\",\"n\":\"AQAB\",\"e\":\"AQAB\"}]}",
        ("{\"keys\":[{\"kty\":\"EC\",\"crv\":\"P-256\",\"x\":\"AA\","
         "\"y\":\"AA\"}]}"),
        "{\"keys\":[{\"kty\":\"OKP\",\"crv\":\"Ed25519\",\"x\":\"AA\"}]}"};
    struct kq_jwks *jwks;
    const char *reason;
    for (size_t i = 0; i < kq_array_size(bad); i++)
        assert_int_equal(kq_jwks_parse(bad[i], strlen(bad[i]), &jwks, &reason), -EINVAL);
    assert_int_equal(kq_jwks_parse(jwks_text, strlen(jwks_text), &jwks, &reason), 0);
    assert_int_equal(kq_jwks_count(jwks), 5);
    kq_jwks_unref(jwks);
}

/* --- OAUTHBEARER --- */

static char directory[64], path[96];

static void write_keys(const char *text)
{
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fputs(text, file);
    fclose(file);
}

static struct kq_oauth *open_oauth(void)
{
    struct kq_oauth *oauth;
    struct kq_oauth_options options = {.jwks_file = path,
                                       .algorithms = "",
                                       .issuer = "https://issuer",
                                       .audience = "kafka",
                                       .claim = "",
                                       .skew_ms = 0,
                                       .max_bytes = 4096};
    assert_int_equal(kq_oauth_new(&options, &oauth), 0);
    return oauth;
}

static void make_current_token(EVP_PKEY *key, const char *alg, char *ret, int64_t *ret_expiry)
{
    char claims[256], header[64];
    *ret_expiry = kq_clock_wall_ms() / 1000 + 3600;
    snprintf(claims, sizeof(claims), "{" CLAIMS ",\"exp\":%lld}", (long long)*ret_expiry);
    snprintf(header, sizeof(header), "{\"alg\":\"%s\"}", alg);
    make_token(key, alg, header, claims, ret);
}

static enum kq_sasl_result run(struct kq_oauth *oauth, const char *message,
                               struct kq_sasl_outcome *ret, char *ret_name)
{
    struct kq_sasl_exchange *exchange;
    kq_autobuf struct kq_buf answer = {0};
    assert_int_equal(kq_oauthbearer.begin(oauth, &exchange), 0);
    assert_int_equal(
        kq_oauthbearer.step(exchange, (const uint8_t *)message, strlen(message), &answer, ret), 0);
    enum kq_sasl_result first = ret->result;
    snprintf(ret_name, 64, "%s", ret->name ? ret->name : "");
    if (first == KQ_SASL_MORE) {
        assert_memory_equal(answer.data, "{\"status\":\"invalid_token\"}", answer.length);
        assert_int_equal(kq_oauthbearer.step(exchange, (const uint8_t *)"\x01", 1, &answer, ret),
                         0);
        assert_int_equal(ret->result, KQ_SASL_FAILED);
    } else
        assert_int_equal(answer.length, 0);
    kq_oauthbearer.end(exchange);
    return first;
}

static void a_good_token_says_who_it_is_and_until_when(void **state)
{
    struct kq_oauth *oauth = open_oauth();
    struct kq_sasl_outcome outcome;
    char token[TOKEN_BYTES], message[TOKEN_BYTES + 64], name[64];
    int64_t expiry;
    static const char *const forms[] = {"n,,\x01"
                                        "auth=Bearer %s\x01\x01",
                                        "y,a=alice,\x01"
                                        "auth=bearer  %s\x01\x01",
                                        "n,,\x01host=h\x01"
                                        "auth=Bearer %s\x01port=1\x01\x01"};
    make_current_token(keys[P256], "ES256", token, &expiry);
    for (size_t i = 0; i < kq_array_size(forms); i++) {
        snprintf(message, sizeof(message), forms[i], token);
        assert_int_equal(run(oauth, message, &outcome, name), KQ_SASL_DONE);
        assert_string_equal(name, "alice");
        assert_int_equal(outcome.expires_ms, expiry * 1000);
    }
    snprintf(message, sizeof(message),
             "n,a=bob,\x01"
             "auth=Bearer %s\x01\x01",
             token);
    assert_int_equal(run(oauth, message, &outcome, name), KQ_SASL_MORE);
    kq_oauth_free(oauth);
}

static void a_bad_token_is_told_as_json_and_fails_then(void **state)
{
    struct kq_oauth *oauth = open_oauth();
    struct kq_sasl_outcome outcome;
    char name[64];
    assert_int_equal(run(oauth,
                         "n,,\x01"
                         "auth=Bearer e30.e30.\x01\x01",
                         &outcome, name),
                     KQ_SASL_MORE);
    kq_oauth_free(oauth);
}

static void a_malformed_message_fails_at_once(void **state)
{
    static const char *const bad[] = {"",
                                      "n",
                                      "n,,",
                                      "n,,\x01",
                                      "n,,\x01\x01",
                                      "p=tls,,\x01"
                                      "auth=Bearer a\x01\x01",
                                      "n,b=c,\x01"
                                      "auth=Bearer a\x01\x01",
                                      "n,a=,\x01"
                                      "auth=Bearer a\x01\x01",
                                      "n,,\x01"
                                      "auth=Basic a\x01\x01",
                                      "n,,\x01"
                                      "auth=Bearer \x01\x01",
                                      "n,,\x01"
                                      "auth=Bearer a\x01",
                                      "n,,\x01"
                                      "auth=Bearer a\x01\x01more",
                                      "n,,\x01"
                                      "auth=Bearer a\x01"
                                      "auth=Bearer b\x01\x01",
                                      "n,,\x01=x\x01"
                                      "auth=Bearer a\x01\x01",
                                      "n,,\x01"
                                      "a1=x\x01"
                                      "auth=Bearer a\x01\x01"};
    struct kq_oauth *oauth = open_oauth();
    struct kq_sasl_outcome outcome;
    char name[64];
    for (size_t i = 0; i < kq_array_size(bad); i++)
        assert_int_equal(run(oauth, bad[i], &outcome, name), KQ_SASL_FAILED);
    kq_oauth_free(oauth);
}

static void new_keys_count_and_bad_ones_change_nothing(void **state)
{
    struct kq_oauth *oauth = open_oauth();
    struct kq_sasl_outcome outcome;
    char token[TOKEN_BYTES], message[TOKEN_BYTES + 64], name[64];
    int64_t expiry;
    make_current_token(keys[P256], "ES256", token, &expiry);
    snprintf(message, sizeof(message),
             "n,,\x01"
             "auth=Bearer %s\x01\x01",
             token);
    assert_int_equal(run(oauth, message, &outcome, name), KQ_SASL_DONE);
    write_keys("{\"keys\":");
    said_clear();
    kq_clock_shift_ms(2000);
    assert_int_equal(run(oauth, message, &outcome, name), KQ_SASL_DONE);
    assert_non_null(strstr(said, "it is not JSON"));
    write_keys("{\"keys\":[]}");
    kq_clock_shift_ms(4000);
    assert_int_equal(run(oauth, message, &outcome, name), KQ_SASL_MORE);
    assert_non_null(strstr(outcome.reason, "no such key"));
    kq_clock_shift_ms(0);
    write_keys(jwks_text);
    kq_oauth_free(oauth);
}

static void options_that_cannot_be_are_reported(void **state)
{
    struct kq_oauth *oauth;
    struct kq_oauth_options options = {.jwks_file = path,
                                       .algorithms = "RS256 none",
                                       .issuer = "",
                                       .audience = "",
                                       .claim = "",
                                       .max_bytes = 4096};
    said_clear();
    assert_int_equal(kq_oauth_new(&options, &oauth), -EINVAL);
    assert_non_null(strstr(said, "none"));
    options.algorithms = "RS256";
    options.jwks_file = "/nonexistent/jwks";
    said_clear();
    assert_int_equal(kq_oauth_new(&options, &oauth), -ENOENT);
    assert_non_null(strstr(said, "/nonexistent/jwks"));
}

static void without_memory_nobody_gets_in(void **state)
{
    struct kq_oauth *oauth = open_oauth();
    char token[TOKEN_BYTES], message[TOKEN_BYTES + 64];
    int64_t expiry;
    make_current_token(keys[P256], "ES256", token, &expiry);
    size_t length = (size_t)snprintf(message, sizeof(message),
                                     "n,,\x01"
                                     "auth=Bearer %s\x01\x01",
                                     token);
    int r = -ENOMEM;
    for (int n = 1; r == -ENOMEM; n++) {
        struct kq_sasl_exchange *exchange = NULL;
        struct kq_sasl_outcome outcome = {0};
        kq_autobuf struct kq_buf answer = {0};
        kq_fault_arm(KQ_FAULT_MEMORY, n, ENOMEM, false);
        r = kq_oauthbearer.begin(oauth, &exchange);
        if (r == 0)
            r = kq_oauthbearer.step(exchange, (const uint8_t *)message, length, &answer, &outcome);
        kq_fault_disarm();
        assert_true(r == -ENOMEM || outcome.result == KQ_SASL_DONE);
        kq_oauthbearer.end(exchange);
    }
    assert_int_equal(r, 0);
    kq_oauth_free(oauth);
}

static int set_up(void **state)
{
    make_keys(state);
    strcpy(directory, "/tmp/kqfs-jwt-XXXXXX");
    assert_non_null(mkdtemp(directory));
    snprintf(path, sizeof(path), "%s/jwks.json", directory);
    write_keys(jwks_text);
    return 0;
}

static int tear_down(void **state)
{
    unlink(path);
    rmdir(directory);
    return free_keys(state);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_algorithm_is_verified_with_its_kind_of_key),
        cmocka_unit_test(an_unsigned_or_hmac_token_is_refused),
        cmocka_unit_test(a_key_is_for_its_own_algorithms_only),
        cmocka_unit_test(only_algorithms_of_the_setting_are_taken),
        cmocka_unit_test(times_hold_within_the_skew),
        cmocka_unit_test(issuer_audience_and_name_are_as_set),
        cmocka_unit_test(what_is_not_a_token_is_refused),
        cmocka_unit_test(base64url_has_one_text_a_value),
        cmocka_unit_test(a_malformed_set_of_keys_is_refused),
        cmocka_unit_test(a_good_token_says_who_it_is_and_until_when),
        cmocka_unit_test(a_bad_token_is_told_as_json_and_fails_then),
        cmocka_unit_test(a_malformed_message_fails_at_once),
        cmocka_unit_test(new_keys_count_and_bad_ones_change_nothing),
        cmocka_unit_test(options_that_cannot_be_are_reported),
        cmocka_unit_test(without_memory_nobody_gets_in),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
