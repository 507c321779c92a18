#include "auth/tlsfiles.h"

#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <string.h>
#include <sys/stat.h>

#include "broker/base/diag.h"
#include "broker/base/io.h"
#include "broker/base/mem.h"
#include "broker/base/privileged.h"

#define REASON_BYTES 160

static int complain(const char *where, const char *path, const char *reason)
{
    kq_diag(LOG_ERR, "%s: %s: %s", where, path, reason);
    return -EINVAL;
}

/* With what OpenSSL says, if anything, in brackets. */
static int complain_of_tls(const char *where, const char *path, const char *reason)
{
    char why[REASON_BYTES];
    if (!ERR_peek_error())
        return complain(where, path, reason);
    kq_tls_error(why, sizeof(why));
    kq_diag(LOG_ERR, "%s: %s: %s (%s)", where, path, reason, why);
    return -EINVAL;
}

void kq_tls_error(char *text, size_t size)
{
    unsigned long error = ERR_peek_error();
    const char *reason = ERR_reason_error_string(error);
    if (error && ERR_SYSTEM_ERROR(error))
        snprintf(text, size, "%s", strerror(ERR_GET_REASON(error)));
    else
        snprintf(text, size, "%s", reason ? reason : "no reason is known");
    ERR_clear_error();
}

static int read_all(int fd, size_t size, struct kq_buf *ret)
{
    int r = kq_buf_reserve(ret, size);
    while (r == 0 && ret->length < size) {
        ssize_t n =
            kq_io_pread(fd, ret->data + ret->length, size - ret->length, (int64_t)ret->length);
        if (n < 0)
            return (int)n;
        if (n == 0)
            break;
        ret->length += (size_t)n;
    }
    return r;
}

int kq_tls_file_read(const char *where, const char *path, struct kq_buf *ret)
{
    struct stat about;
    kq_autoclose int fd = kq_privileged_open(path);
    int r = fd < 0 ? fd : fstat(fd, &about) < 0 ? -errno : 0;
    if (r == 0 && !S_ISREG(about.st_mode))
        return complain(where, path, "is not a file");
    if (r == 0 && (uint64_t)about.st_size > KQ_TLS_FILE_BYTES_MAX)
        return complain(where, path, "is larger than 64 MiB");
    if (r == 0)
        r = read_all(fd, (size_t)about.st_size, ret);
    if (r < 0 && r != -ENOMEM)
        kq_diag(LOG_ERR, "%s: cannot read %s: %s", where, path, strerror(-r));
    return r;
}

void kq_tls_file_release(struct kq_buf *buf)
{
    if (buf->data)
        OPENSSL_cleanse(buf->data, buf->length);
    kq_buf_release(buf);
}

/* A key with a passphrase could not be read again by a service. */
static int no_passphrase(char *text, int size, int writing, void *context)
{
    return -1;
}

/* Was the end of the text what the last PEM_read_ function failed for? */
static bool at_end(void)
{
    unsigned long error = ERR_peek_last_error();
    bool end = ERR_GET_LIB(error) == ERR_LIB_PEM && ERR_GET_REASON(error) == PEM_R_NO_START_LINE;
    if (end)
        ERR_clear_error();
    return end;
}

static int use_chain(BIO *text, SSL_CTX *context)
{
    X509 *certificate = PEM_read_bio_X509_AUX(text, NULL, no_passphrase, NULL);
    if (!certificate)
        return -EINVAL;
    int ok = SSL_CTX_use_certificate(context, certificate);
    X509_free(certificate);
    while (ok && (certificate = PEM_read_bio_X509(text, NULL, no_passphrase, NULL))) {
        ok = SSL_CTX_add0_chain_cert(context, certificate);
        if (!ok)
            X509_free(certificate);
    }
    return ok && at_end() ? 0 : -EINVAL;
}

static int use_key(BIO *text, SSL_CTX *context)
{
    EVP_PKEY *key = PEM_read_bio_PrivateKey(text, NULL, no_passphrase, NULL);
    int ok = key && SSL_CTX_use_PrivateKey(context, key) && SSL_CTX_check_private_key(context);
    EVP_PKEY_free(key);
    return ok ? 0 : -EINVAL;
}

/* Clients are told the names, so that they can choose a certificate (RFC 8446, 4.2.4). */
static int use_authorities(BIO *text, SSL_CTX *context)
{
    X509_STORE *store = SSL_CTX_get_cert_store(context);
    X509 *authority;
    int count = 0, ok = 1;
    while (ok && (authority = PEM_read_bio_X509(text, NULL, no_passphrase, NULL))) {
        ok = X509_STORE_add_cert(store, authority) && SSL_CTX_add_client_CA(context, authority);
        X509_free(authority);
        count++;
    }
    return ok && at_end() && count ? 0 : -EINVAL;
}

static int use_revocations(BIO *text, SSL_CTX *context)
{
    X509_STORE *store = SSL_CTX_get_cert_store(context);
    X509_CRL *revocations;
    int count = 0, ok = 1;
    while (ok && (revocations = PEM_read_bio_X509_CRL(text, NULL, no_passphrase, NULL))) {
        ok = X509_STORE_add_crl(store, revocations);
        X509_CRL_free(revocations);
        count++;
    }
    if (ok)
        ok = X509_STORE_set_flags(store, X509_V_FLAG_CRL_CHECK | X509_V_FLAG_CRL_CHECK_ALL);
    return ok && at_end() && count ? 0 : -EINVAL;
}

/* --- What can be used, and is of no use --- */

static bool is_past(const ASN1_TIME *time)
{
    return time && X509_cmp_current_time(time) < 0;
}

static bool has_old_list(X509_STORE *store)
{
    STACK_OF(X509_OBJECT) *objects = X509_STORE_get0_objects(store);
    for (int i = 0; i < sk_X509_OBJECT_num(objects); i++) {
        const X509_CRL *list = X509_OBJECT_get0_X509_CRL(sk_X509_OBJECT_value(objects, i));
        if (list && is_past(X509_CRL_get0_nextUpdate(list)))
            return true;
    }
    return false;
}

static void warn_of_dates(enum kq_tls_file which, const char *where, const char *path,
                          SSL_CTX *context)
{
    const X509 *own = SSL_CTX_get0_certificate(context);
    if (which == KQ_TLS_CERTIFICATE && is_past(X509_get0_notAfter(own)))
        kq_diag(LOG_WARNING, "%s: %s has expired: clients will not connect; renew it", where, path);
    else if (which == KQ_TLS_CERTIFICATE && !is_past(X509_get0_notBefore(own)))
        kq_diag(LOG_WARNING,
                "%s: %s is not valid yet: clients will not connect; set the clock or renew it",
                where, path);
    else if (which == KQ_TLS_CRL && has_old_list(SSL_CTX_get_cert_store(context)))
        kq_diag(LOG_WARNING,
                "%s: %s is out of date: certificates of that CA are not let in; get a new list",
                where, path);
}

int kq_tls_file_use(enum kq_tls_file which, const char *where, const char *path,
                    const struct kq_buf *bytes, SSL_CTX *context)
{
    static const struct {
        int (*use)(BIO *text, SSL_CTX *context);
        const char *reason;
    } rows[] = {
        [KQ_TLS_CERTIFICATE] = {use_chain, "holds no certificate chain in PEM that can be used"},
        [KQ_TLS_KEY] = {use_key, "is no key in PEM without a passphrase that fits the certificate"},
        [KQ_TLS_CA] = {use_authorities, "holds no CA certificates in PEM"},
        [KQ_TLS_CRL] = {use_revocations, "holds no certificate revocation lists in PEM"},
    };
    ERR_clear_error();
    BIO *text = BIO_new_mem_buf(bytes->length ? (const void *)bytes->data : "", (int)bytes->length);
    if (!text)
        return -ENOMEM;
    int r = rows[which].use(text, context);
    BIO_free(text);
    if (r == 0)
        warn_of_dates(which, where, path, context);
    return r == -EINVAL ? complain_of_tls(where, path, rows[which].reason) : r;
}
