/* OAUTHBEARER (RFC 7628, KIP-255): a token that another party has signed. Kafka's rules where they
 * differ: a failure is told as JSON first, and ends the exchange when the client has answered it.
 *
 * The keys come from a file, which is looked at at most once a second and read again when it has
 * changed; what cannot be used of a new one leaves the keys as they are.
 */
#pragma once

#include "auth/sasl.h"

struct kq_oauth;

struct kq_oauth_options {
    const char *jwks_file;  /* absolute */
    const char *algorithms; /* words; "": all that are known */
    const char *issuer;     /* as in struct kq_jwt_policy */
    const char *audience;
    const char *claim; /* "": "sub" */
    int64_t skew_ms;
    size_t max_bytes; /* of a token */
};

/* Options are copied. 0; -EINVAL (an algorithm, the file's content), -errno (the file): reported in
 * one line; -ENOMEM. */
int kq_oauth_new(const struct kq_oauth_options *options, struct kq_oauth **ret);
void kq_oauth_free(struct kq_oauth *oauth); /* no exchange is left; NULL is fine */

/* The context is a struct kq_oauth. */
extern const struct kq_sasl_class kq_oauthbearer;
