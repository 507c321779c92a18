/* Tokens and sets of keys: the first line is a JWKS, the rest a token. None is taken: nobody has
 * signed it. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "auth/jwt.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
    static const char known[] = "{\"keys\":[{\"kty\":\"OKP\",\"crv\":\"Ed25519\",\"kid\":\"e\","
                                "\"x\":\"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo\"}]}";
    const struct kq_jwt_policy policy = {
        .algorithms = KQ_JOSE_ALL, .issuer = "", .audience = "", .claim = "sub", .max_bytes = 4096};
    struct kq_jwt_outcome outcome;
    struct kq_jwks *jwks;
    const char *reason;
    const uint8_t *line = memchr(bytes, '\n', length);
    size_t first = line ? (size_t)(line - bytes) : 0;
    if (line && kq_jwks_parse((const char *)bytes, first, &jwks, &reason) == 0)
        kq_jwks_unref(jwks);
    if (kq_jwks_parse(known, sizeof(known) - 1, &jwks, &reason) < 0)
        abort();
    const char *token = line ? (const char *)line + 1 : (const char *)bytes;
    if (kq_jwt_check(jwks, &policy, token, length - (size_t)((const uint8_t *)token - bytes), 0,
                     &outcome) == 0)
        abort();
    kq_jwks_unref(jwks);
    return 0;
}
