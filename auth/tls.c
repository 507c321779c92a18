#include "auth/tls.h"

#include <openssl/evp.h>
#include <pthread.h>
#include <string.h>
#include <sys/stat.h>

#include "auth/tlsfiles.h"
#include "broker/base/clock.h"
#include "broker/base/diag.h"
#include "broker/base/mem.h"
#include "broker/base/privileged.h"

#define NS_PER_S INT64_C(1000000000)
#define TICKETS_NS (86400 * NS_PER_S)
#define SESSION_S 7200 /* how long a ticket is taken */
#define TICKET_KEY_BYTES 80
#define CLIENT_CHAIN_BYTES (100 * 1024)

/* All with forward secrecy and authenticated encryption; 128 bits first, as RFC 9325 and most peers
 * have it. */
#define CIPHERS_TLS12                                                                              \
    "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES256-GCM-SHA384:"     \
    "ECDHE-RSA-AES256-GCM-SHA384:ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-RSA-CHACHA20-POLY1305"
#define CIPHERS_TLS13 "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256"

struct kq_tls {
    char *where;
    char *paths[KQ_TLS_FILES]; /* NULL: not set */
    enum kq_tls_clients clients;
    /* Of the thread that reloads: */
    struct kq_file_mark marks[KQ_TLS_FILES];
    uint8_t trust[EVP_MAX_MD_SIZE]; /* digest of CA and CRL */
    int64_t tickets_ns;             /* when the tickets' keys were made */
    pthread_mutex_t lock;
    SSL_CTX *context;
};

bool kq_tls_parse_clients(const char *word, size_t length, enum kq_tls_clients *ret)
{
    static const char *const words[] = {"none", "requested", "required"};
    for (size_t i = 0; i < kq_array_size(words); i++)
        if (strlen(words[i]) == length && memcmp(words[i], word, length) == 0) {
            *ret = (enum kq_tls_clients)i;
            return true;
        }
    return false;
}

/* --- One context --- */

static int set_up(const struct kq_tls *tls, SSL_CTX *context)
{
    /* A ticket of another listener has other keys; this is for what OpenSSL asks of who verifies.
     */
    static const uint8_t session_context[] = "kqfs";
    int verify = tls->clients == KQ_TLS_CLIENTS_NONE ? SSL_VERIFY_NONE
                 : tls->clients == KQ_TLS_CLIENTS_REQUIRED
                     ? SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT
                     : SSL_VERIFY_PEER;
    SSL_CTX_set_options(context, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION |
                                     SSL_OP_CIPHER_SERVER_PREFERENCE | SSL_OP_ENABLE_KTLS |
                                     SSL_OP_IGNORE_UNEXPECTED_EOF);
    SSL_CTX_set_mode(context, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER |
                                  SSL_MODE_RELEASE_BUFFERS);
    /* What is not processed at once is counted: see net/tls.c. */
    SSL_CTX_clear_mode(context, SSL_MODE_AUTO_RETRY);
    SSL_CTX_set_security_level(context, 2);
    SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_OFF);
    SSL_CTX_set_timeout(context, SESSION_S);
    SSL_CTX_set_num_tickets(context, 1);
    SSL_CTX_set_max_cert_list(context, CLIENT_CHAIN_BYTES);
    SSL_CTX_set_verify(context, verify, NULL);
    return SSL_CTX_set_min_proto_version(context, TLS1_2_VERSION) &&
                   SSL_CTX_set_cipher_list(context, CIPHERS_TLS12) &&
                   SSL_CTX_set_ciphersuites(context, CIPHERS_TLS13) &&
                   SSL_CTX_set_session_id_context(context, session_context,
                                                  sizeof(session_context) - 1)
               ? 0
               : -EINVAL;
}

static int use_files(const struct kq_tls *tls, const struct kq_buf *bytes, SSL_CTX *context)
{
    int r = 0;
    for (int i = 0; r == 0 && i < KQ_TLS_FILES; i++)
        if (tls->paths[i])
            r = kq_tls_file_use((enum kq_tls_file)i, tls->where, tls->paths[i], &bytes[i], context);
    return r;
}

static int make_context(const struct kq_tls *tls, const struct kq_buf *bytes, SSL_CTX **ret)
{
    SSL_CTX *context = SSL_CTX_new(TLS_server_method());
    if (!context)
        return -ENOMEM;
    int r = set_up(tls, context);
    if (r < 0) {
        char why[160];
        kq_tls_error(why, sizeof(why));
        kq_diag(LOG_ERR, "%s: OpenSSL of this host does not take the settings: %s", tls->where,
                why);
    }
    if (r == 0)
        r = use_files(tls, bytes, context);
    if (r < 0)
        SSL_CTX_free(context);
    else
        *ret = context;
    return r;
}

/* --- Replacing it --- */

static int digest_trust(const struct kq_buf *bytes, uint8_t *ret)
{
    EVP_MD_CTX *digest = EVP_MD_CTX_new();
    uint64_t length = bytes[KQ_TLS_CA].length; /* where one ends and the other begins */
    int ok = digest && EVP_DigestInit_ex(digest, EVP_sha256(), NULL) &&
             EVP_DigestUpdate(digest, &length, sizeof(length));
    for (int i = KQ_TLS_CA; ok && i <= KQ_TLS_CRL; i++)
        ok = EVP_DigestUpdate(digest, bytes[i].data, bytes[i].length);
    ok = ok && EVP_DigestFinal_ex(digest, ret, NULL);
    EVP_MD_CTX_free(digest);
    return ok ? 0 : -ENOMEM;
}

static void keep_ticket_keys(SSL_CTX *from, SSL_CTX *to)
{
    uint8_t keys[TICKET_KEY_BYTES];
    /* Where it fails, clients make full handshakes. */
    if (SSL_CTX_get_tlsext_ticket_keys(from, keys, sizeof(keys)) == 1)
        SSL_CTX_set_tlsext_ticket_keys(to, keys, sizeof(keys));
    OPENSSL_cleanse(keys, sizeof(keys));
}

static void replace(struct kq_tls *tls, SSL_CTX *context, const uint8_t *trust, int64_t now)
{
    if (tls->context && now - tls->tickets_ns < TICKETS_NS &&
        memcmp(tls->trust, trust, sizeof(tls->trust)) == 0)
        keep_ticket_keys(tls->context, context);
    else
        tls->tickets_ns = now;
    memcpy(tls->trust, trust, sizeof(tls->trust));
    pthread_mutex_lock(&tls->lock);
    SSL_CTX *before = tls->context;
    tls->context = context;
    pthread_mutex_unlock(&tls->lock);
    SSL_CTX_free(before);
}

static int load(struct kq_tls *tls)
{
    struct kq_buf bytes[KQ_TLS_FILES] = {0};
    uint8_t trust[EVP_MAX_MD_SIZE] = {0};
    SSL_CTX *context = NULL;
    int r = 0;
    for (int i = 0; r == 0 && i < KQ_TLS_FILES; i++)
        if (tls->paths[i])
            r = kq_tls_file_read(tls->where, tls->paths[i], &bytes[i]);
    if (r == 0)
        r = digest_trust(bytes, trust);
    if (r == 0)
        r = make_context(tls, bytes, &context);
    if (r == 0)
        replace(tls, context, trust, kq_clock_mono_ns());
    for (int i = 0; i < KQ_TLS_FILES; i++)
        kq_tls_file_release(&bytes[i]);
    return r;
}

int kq_tls_reload(struct kq_tls *tls, bool force, bool *ret_changed)
{
    bool changed = force || kq_clock_mono_ns() - tls->tickets_ns >= TICKETS_NS;
    for (int i = 0; i < KQ_TLS_FILES; i++) {
        /* Before they are read: what changes meanwhile is seen the next time. */
        struct kq_file_mark mark = {0};
        if (tls->paths[i])
            kq_privileged_look(tls->paths[i], &mark);
        changed |= !kq_file_mark_same(&mark, &tls->marks[i]);
        tls->marks[i] = mark;
    }
    int r = changed ? load(tls) : 0;
    if (r < 0 && r != -EINVAL)
        memset(tls->marks, 0, sizeof(tls->marks)); /* it may do the next time as it is */
    if (r == 0)
        *ret_changed = changed;
    return r;
}

SSL_CTX *kq_tls_context(struct kq_tls *tls)
{
    pthread_mutex_lock(&tls->lock);
    SSL_CTX *context = tls->context;
    SSL_CTX_up_ref(context);
    pthread_mutex_unlock(&tls->lock);
    return context;
}

/* --- Making it --- */

static int copy_paths(struct kq_tls *tls, const struct kq_tls_files *files)
{
    const char *const from[KQ_TLS_FILES] = {[KQ_TLS_CERTIFICATE] = files->certificate,
                                            [KQ_TLS_KEY] = files->key,
                                            [KQ_TLS_CA] = files->ca,
                                            [KQ_TLS_CRL] = files->crl};
    for (int i = 0; i < KQ_TLS_FILES; i++)
        if (from[i][0] && !(tls->paths[i] = kq_strdup(from[i])))
            return -ENOMEM;
    return 0;
}

static int check(const struct kq_tls_files *files, const char *where)
{
    const char *wrong = NULL;
    if (!files->certificate[0] || !files->key[0])
        wrong = "TLS needs `certificate` and `key`: PEM files, in the section [tls] or behind it";
    else if (files->clients != KQ_TLS_CLIENTS_NONE && !files->ca[0])
        wrong = "client_authentication needs `ca`: a PEM file of the CAs of clients";
    else if (files->crl[0] && !files->ca[0])
        wrong = "`crl` without `ca` has no effect; set client_authentication and `ca` too";
    if (wrong)
        kq_diag(LOG_ERR, "%s: %s", where, wrong);
    return wrong ? -EINVAL : 0;
}

static void warn_of_readers(const struct kq_tls *tls)
{
    struct stat about;
    const char *key = tls->paths[KQ_TLS_KEY];
    if (stat(key, &about) == 0 && (about.st_mode & S_IROTH))
        kq_diag(LOG_WARNING, "%s: %s can be read by everybody on this host; chmod o-r it",
                tls->where, key);
}

int kq_tls_new(const struct kq_tls_files *files, const char *where, struct kq_tls **ret)
{
    bool changed;
    int r = check(files, where);
    if (r < 0)
        return r;
    struct kq_tls *tls = kq_zalloc(sizeof(*tls));
    if (!tls)
        return -ENOMEM;
    pthread_mutex_init(&tls->lock, NULL);
    tls->clients = files->clients;
    tls->where = kq_strdup(where);
    r = tls->where ? copy_paths(tls, files) : -ENOMEM;
    if (r == 0)
        r = kq_tls_reload(tls, true, &changed);
    if (r < 0) {
        kq_tls_free(tls);
        return r;
    }
    warn_of_readers(tls);
    *ret = tls;
    return 0;
}

void kq_tls_free(struct kq_tls *tls)
{
    if (!tls)
        return;
    SSL_CTX_free(tls->context);
    for (int i = 0; i < KQ_TLS_FILES; i++)
        free(tls->paths[i]);
    free(tls->where);
    pthread_mutex_destroy(&tls->lock);
    free(tls);
}
