/* The files of a TLS context, in memory and as OpenSSL's objects. */
#pragma once

#include "auth/tls.h"
#include "broker/base/buf.h"

enum kq_tls_file {
    KQ_TLS_CERTIFICATE,
    KQ_TLS_KEY,
    KQ_TLS_CA,
    KQ_TLS_CRL,
    KQ_TLS_FILES,
};

#define KQ_TLS_FILE_BYTES_MAX ((size_t)64 * 1024 * 1024)

/* What PATH holds, up to KQ_TLS_FILE_BYTES_MAX, appended to RET, for kq_tls_file_release. 0;
 * -errno (reported with WHERE); -ENOMEM. May block. */
int kq_tls_file_read(const char *where, const char *path, struct kq_buf *ret);

/* Frees BUF; what it held can be found in no memory afterwards. */
void kq_tls_file_release(struct kq_buf *buf);

/* Puts the PEM text BYTES of the file PATH into CONTEXT: the certificate and its chain, the key
 * (after the certificate, which it must fit), the CAs, the CRLs. A certificate or a list that the
 * date makes useless is used and reported. 0; -EINVAL (reported with WHERE); -ENOMEM. */
int kq_tls_file_use(enum kq_tls_file which, const char *where, const char *path,
                    const struct kq_buf *bytes, SSL_CTX *context);
