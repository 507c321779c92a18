/* What a TLS listener shows and asks for: certificate, key, CA and CRL files as a context of
 * OpenSSL that is replaced when the files change, so that connections made before keep what they
 * have.
 *
 * TLS 1.2 and 1.3 only, forward secrecy and authenticated ciphers only, no renegotiation (RFC
 * 9325), no compression, no ALPN. Sessions resume by tickets, which the server need not remember;
 * the keys of the tickets are new with each context whose CA, CRL or client authentication differ,
 * and at least once a day, so that nobody resumes who could not begin.
 */
#pragma once

#include <openssl/ssl.h>
#include <stdbool.h>

#include "broker/base/buf.h"

enum kq_tls_clients {
    KQ_TLS_CLIENTS_NONE,      /* are not asked for a certificate */
    KQ_TLS_CLIENTS_REQUESTED, /* may have none, but not a bad one */
    KQ_TLS_CLIENTS_REQUIRED,
};

/* Absolute paths of PEM files. */
struct kq_tls_files {
    const char *certificate; /* the listener's own and those that lead to its CA */
    const char *key;         /* without a passphrase */
    const char *ca;          /* who vouches for clients; "": nobody */
    const char *crl;         /* what they have revoked, of each CA; "": not looked at */
    enum kq_tls_clients clients;
};

struct kq_tls;

/* "none", "requested", "required". False: none of them. */
bool kq_tls_parse_clients(const char *word, size_t length, enum kq_tls_clients *ret);

/* Reads FILES, which are copied. WHERE (a listener, as it is written) is for reports. 0; -EINVAL,
 * -errno: reported in one line that names the file; -ENOMEM. */
int kq_tls_new(const struct kq_tls_files *files, const char *where, struct kq_tls **ret);
void kq_tls_free(struct kq_tls *tls); /* NULL is fine */

/* The context for a new connection; the reference is the caller's. Any thread. */
SSL_CTX *kq_tls_context(struct kq_tls *tls);

/* Reads the files again: where FORCE is true, or where one was replaced or changed since, or the
 * tickets' keys are a day old. What cannot be used is reported, and the context stays as it is. 0;
 * -EINVAL, -errno: reported; -ENOMEM. One thread at a time. */
int kq_tls_reload(struct kq_tls *tls, bool force, bool *ret_changed);

/* Why OpenSSL's last call on this thread failed, in a few words; its queue of errors is empty then.
 * TEXT has SIZE (> 0) bytes. */
void kq_tls_error(char *text, size_t size);
