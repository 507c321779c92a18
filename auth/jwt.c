#include "auth/jwt.h"

#include <jansson.h>
#include <string.h>

#include "auth/base64url.h"
#include "broker/base/buf.h"

#define SECONDS_MOST 253402300799.0 /* the end of the year 9999 */

static int refuse(struct kq_jwt_outcome *outcome, const char *reason)
{
    outcome->reason = reason;
    return -EACCES;
}

/* HEADER.CLAIMS.SIGNATURE */
struct parts {
    const char *header, *claims, *signature;
    size_t header_length, claims_length, signature_length;
};

static bool split(const char *token, size_t length, struct parts *ret)
{
    const char *end = token + length;
    const char *first = memchr(token, '.', length);
    const char *second = first ? memchr(first + 1, '.', (size_t)(end - first - 1)) : NULL;
    if (!second || memchr(second + 1, '.', (size_t)(end - second - 1)))
        return false;
    *ret = (struct parts){.header = token,
                          .claims = first + 1,
                          .signature = second + 1,
                          .header_length = (size_t)(first - token),
                          .claims_length = (size_t)(second - first - 1),
                          .signature_length = (size_t)(end - second - 1)};
    return true;
}

static int load(const char *text, size_t length, json_t **ret)
{
    kq_autobuf struct kq_buf bytes = {0};
    json_error_t error;
    int r = kq_base64url_decode(text, length, &bytes);
    if (r < 0)
        return r;
    json_t *json =
        json_loadb((const char *)bytes.data, bytes.length, JSON_REJECT_DUPLICATES, &error);
    if (!json)
        return json_error_code(&error) == json_error_out_of_memory ? -ENOMEM : -EBADMSG;
    if (!json_is_object(json)) {
        json_decref(json);
        return -EBADMSG;
    }
    *ret = json;
    return 0;
}

/* --- The signature --- */

static int check_signature(const struct kq_jwks *jwks, const struct kq_jwt_policy *policy,
                           const struct parts *parts, const json_t *header,
                           struct kq_jwt_outcome *outcome)
{
    const json_t *name = json_object_get(header, "alg"), *kid = json_object_get(header, "kid");
    const struct kq_jose_algorithm *algorithm =
        json_is_string(name)
            ? kq_jose_algorithm_of(json_string_value(name), json_string_length(name))
            : NULL;
    if (!algorithm)
        return refuse(outcome, "it is not signed, or not by an algorithm that is safe");
    if (!(policy->algorithms & kq_jose_algorithm_bit(algorithm)))
        return refuse(outcome, "its algorithm is not among sasl.oauthbearer.algorithms");
    if (json_object_get(header, "crit"))
        return refuse(outcome, "its header has extensions that must be understood");
    if (kid && !json_is_string(kid))
        return refuse(outcome, "its kid is malformed");
    kq_autobuf struct kq_buf signature = {0};
    int r = kq_base64url_decode(parts->signature, parts->signature_length, &signature);
    if (r == 0)
        r = kq_jwks_verify(jwks, algorithm, json_string_value(kid), parts->header,
                           parts->header_length + 1 + parts->claims_length, signature.data,
                           signature.length);
    if (r == -ENOENT)
        return refuse(outcome, "the JWKS file has no such key, or several");
    return r == -ENOMEM ? r : r < 0 ? refuse(outcome, "its signature is wrong") : 0;
}

/* --- Claims --- */

/* A NumericDate in milliseconds. */
static bool take_time(const json_t *value, int64_t *ret)
{
    double seconds = json_number_value(value);
    if (!json_is_number(value) || !(seconds >= 0 && seconds <= SECONDS_MOST))
        return false;
    *ret = (int64_t)(seconds * 1000);
    return true;
}

static int check_times(const json_t *claims, const struct kq_jwt_policy *policy, int64_t now_ms,
                       struct kq_jwt_outcome *outcome)
{
    const json_t *before = json_object_get(claims, "nbf"), *issued = json_object_get(claims, "iat");
    int64_t expiry, from = 0, since = 0;
    if (!take_time(json_object_get(claims, "exp"), &expiry))
        return refuse(outcome, "it has no time at which it expires");
    if ((before && !take_time(before, &from)) || (issued && !take_time(issued, &since)))
        return refuse(outcome, "a time in it is malformed");
    if (now_ms >= expiry + policy->skew_ms)
        return refuse(outcome, "it has expired");
    if (now_ms + policy->skew_ms < from)
        return refuse(outcome, "it is not valid yet");
    if (now_ms + policy->skew_ms < since)
        return refuse(outcome, "it is from the future");
    outcome->expires_ms = expiry > now_ms ? expiry : expiry + policy->skew_ms;
    return 0;
}

static bool is_word_of(const char *words, const json_t *value)
{
    if (!json_is_string(value))
        return false;
    const char *wanted = json_string_value(value);
    size_t length = json_string_length(value);
    while (*(words += strspn(words, " "))) {
        size_t word = strcspn(words, " ");
        if (word == length && memcmp(words, wanted, length) == 0)
            return true;
        words += word;
    }
    return false;
}

static bool has_audience(const char *words, const json_t *audience)
{
    size_t i;
    const json_t *one;
    if (!json_is_array(audience))
        return is_word_of(words, audience);
    json_array_foreach(audience, i, one) if (is_word_of(words, one)) return true;
    return false;
}

static int take_name(const json_t *claims, const char *claim, struct kq_jwt_outcome *outcome)
{
    const json_t *value = json_object_get(claims, claim);
    size_t length = json_string_length(value);
    if (!json_is_string(value) || length == 0 || length > KQ_JWT_NAME_BYTES)
        return refuse(outcome, "it names nobody");
    const char *name = json_string_value(value);
    for (size_t i = 0; i < length; i++)
        if ((unsigned char)name[i] < ' ' || name[i] == 127)
            return refuse(outcome, "the name in it has control characters");
    memcpy(outcome->name, name, length + 1);
    return 0;
}

static int check_claims(const json_t *claims, const struct kq_jwt_policy *policy, int64_t now_ms,
                        struct kq_jwt_outcome *outcome)
{
    const char *issuer = json_string_value(json_object_get(claims, "iss"));
    int r = check_times(claims, policy, now_ms, outcome);
    if (r < 0)
        return r;
    if (policy->issuer[0] && (!issuer || strcmp(issuer, policy->issuer) != 0))
        return refuse(outcome, "another one has issued it");
    if (policy->audience[0] && !has_audience(policy->audience, json_object_get(claims, "aud")))
        return refuse(outcome, "it is not for this broker");
    return take_name(claims, policy->claim, outcome);
}

int kq_jwt_check(const struct kq_jwks *jwks, const struct kq_jwt_policy *policy, const char *token,
                 size_t length, int64_t now_ms, struct kq_jwt_outcome *ret)
{
    struct parts parts;
    json_t *header = NULL, *claims = NULL;
    if (length > policy->max_bytes)
        return refuse(ret, "it is longer than sasl.oauthbearer.max.token.bytes");
    if (!split(token, length, &parts))
        return refuse(ret, "it is not a token of three parts");
    int r = load(parts.header, parts.header_length, &header);
    if (r == 0)
        r = check_signature(jwks, policy, &parts, header, ret);
    if (r == 0)
        r = load(parts.claims, parts.claims_length, &claims);
    if (r == 0)
        r = check_claims(claims, policy, now_ms, ret);
    if (r == -EBADMSG)
        r = refuse(ret, "it is malformed");
    json_decref(header);
    json_decref(claims);
    return r;
}
