/* Signed tokens: JSON Web Tokens (RFC 7519, RFC 8725) in compact form (RFC 7515). */
#pragma once

#include "auth/jwks.h"

struct kq_jwt_policy {
    uint32_t algorithms;  /* kq_jose_algorithm_bit of those that are taken */
    const char *issuer;   /* what iss is; "": anything */
    const char *audience; /* words with blanks between them, one of which aud has; "": anything */
    const char *claim;    /* which is the name: "sub" */
    int64_t skew_ms;      /* by how much the issuer's clock may differ */
    size_t max_bytes;     /* of a token */
};

#define KQ_JWT_NAME_BYTES 1024

struct kq_jwt_outcome {
    char name[KQ_JWT_NAME_BYTES + 1];
    int64_t expires_ms;
    const char *reason; /* static: why it is refused */
};

/* Checks TOKEN at the time NOW_MS (kq_clock_wall_ms). 0 and name and expires_ms; -EACCES and a
 * reason; -ENOMEM. Any thread. */
int kq_jwt_check(const struct kq_jwks *jwks, const struct kq_jwt_policy *policy, const char *token,
                 size_t length, int64_t now_ms, struct kq_jwt_outcome *ret);
