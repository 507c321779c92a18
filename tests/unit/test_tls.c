/* The files of a TLS listener: what is taken, what is refused or complained of, and what is kept
 * when they change. */
#include "auth/tls.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "tests/unit/directory.h"
#include "tests/unit/said.h"
#include "tests/unit/tls_kit.h"

static char directory[DIRECTORY_BYTES];
static EVP_PKEY *ca_key, *key, *other_key;
static X509 *ca, *own;

/* A path in the directory; good for as many more calls. */
static const char *path(const char *name)
{
    static char paths[8][2 * DIRECTORY_BYTES];
    static unsigned next;
    char *ret = paths[next++ % 8];
    snprintf(ret, sizeof(paths[0]), "%s/%s", directory, name);
    return ret;
}

static void write_text(const char *name, const char *text)
{
    FILE *file = fopen(path(name), "w");
    assert_non_null(file);
    fputs(text, file);
    assert_int_equal(fclose(file), 0);
}

static void write_own(const char *name, long from, long until)
{
    X509 *made = tls_make_certificate(name, key, from, until, ca, ca_key);
    tls_write(path(name), NULL, made, NULL);
    X509_free(made);
}

static void write_list(const char *name, long until)
{
    X509_CRL *list = tls_make_list(ca, ca_key, until, NULL);
    tls_write(path(name), NULL, NULL, list);
    X509_CRL_free(list);
}

static int set_up(void **state)
{
    directory_make(directory, NULL);
    ca_key = tls_make_key();
    key = tls_make_key();
    other_key = tls_make_key();
    ca = tls_make_certificate("ca", ca_key, -TLS_DAY, TLS_DAY, NULL, NULL);
    own = tls_make_certificate("own", key, -TLS_DAY, TLS_DAY, ca, ca_key);
    tls_write(path("key"), key, NULL, NULL);
    tls_write(path("other.key"), other_key, NULL, NULL);
    tls_write(path("ca"), NULL, ca, NULL);
    chmod(path("key"), 0600);
    return 0;
}

static int tear_down(void **state)
{
    X509_free(own);
    X509_free(ca);
    EVP_PKEY_free(other_key);
    EVP_PKEY_free(key);
    EVP_PKEY_free(ca_key);
    return directory_remove(directory);
}

static int begin(void **state)
{
    tls_write(path("own"), NULL, own, NULL);
    said_clear();
    return 0;
}

/* NULL: not set. */
static int make(const char *certificate, const char *with_key, const char *with_ca,
                const char *with_list, enum kq_tls_clients clients, struct kq_tls **ret)
{
    struct kq_tls_files files = {certificate ? path(certificate) : "",
                                 with_key ? path(with_key) : "", with_ca ? path(with_ca) : "",
                                 with_list ? path(with_list) : "", clients};
    return kq_tls_new(&files, "ssl://here", ret);
}

static void is_refused(const char *certificate, const char *with_key, const char *with_ca,
                       const char *with_list, const char *reason)
{
    struct kq_tls *tls = NULL;
    enum kq_tls_clients clients = with_ca ? KQ_TLS_CLIENTS_REQUIRED : KQ_TLS_CLIENTS_NONE;
    said_clear();
    assert_true(make(certificate, with_key, with_ca, with_list, clients, &tls) < 0);
    assert_null(tls);
    assert_int_equal(said_count, 1);
    if (!strstr(said, reason))
        fail_msg("`%s` is not in: %s", reason, said);
}

static void serves_and_says(const char *certificate, const char *with_list, const char *words)
{
    struct kq_tls *tls;
    said_clear();
    assert_int_equal(make(certificate, "key", with_list ? "ca" : NULL, with_list,
                          with_list ? KQ_TLS_CLIENTS_REQUIRED : KQ_TLS_CLIENTS_NONE, &tls),
                     0);
    kq_tls_free(tls);
    assert_int_equal(said_count, words ? 1 : 0);
    if (words && !strstr(said, words))
        fail_msg("`%s` is not in: %s", words, said);
}

/* --- Tests --- */

static void the_words_for_what_is_asked_of_clients(void **state)
{
    enum kq_tls_clients clients;
    assert_true(kq_tls_parse_clients("none", 4, &clients) && clients == KQ_TLS_CLIENTS_NONE);
    assert_true(kq_tls_parse_clients("requested,", 9, &clients));
    assert_int_equal(clients, KQ_TLS_CLIENTS_REQUESTED);
    assert_true(kq_tls_parse_clients("required", 8, &clients));
    assert_int_equal(clients, KQ_TLS_CLIENTS_REQUIRED);
    assert_false(kq_tls_parse_clients("require", 7, &clients));
    assert_false(kq_tls_parse_clients("", 0, &clients));
}

static void what_a_context_allows(void **state)
{
    struct kq_tls *tls;
    assert_int_equal(make("own", "key", "ca", NULL, KQ_TLS_CLIENTS_REQUIRED, &tls), 0);
    SSL_CTX *context = kq_tls_context(tls);
    assert_int_equal(SSL_CTX_get_min_proto_version(context), TLS1_2_VERSION);
    assert_true(SSL_CTX_get_options(context) & SSL_OP_NO_RENEGOTIATION);
    assert_true(SSL_CTX_get_options(context) & SSL_OP_NO_COMPRESSION);
    assert_int_equal(SSL_CTX_get_security_level(context), 2);
    assert_int_equal(SSL_CTX_get_verify_mode(context),
                     SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT);
    STACK_OF(SSL_CIPHER) *ciphers = SSL_CTX_get_ciphers(context);
    for (int i = 0; i < sk_SSL_CIPHER_num(ciphers); i++) {
        const SSL_CIPHER *cipher = sk_SSL_CIPHER_value(ciphers, i);
        assert_true(SSL_CIPHER_is_aead(cipher));
        assert_true(SSL_CIPHER_get_kx_nid(cipher) == NID_kx_ecdhe ||
                    SSL_CIPHER_get_kx_nid(cipher) == NID_kx_any);
    }
    SSL_CTX_free(context);
    kq_tls_free(tls);
}

static void files_that_cannot_be_used_are_refused_in_one_line(void **state)
{
    char cut[200] = "";
    FILE *file = fopen(path("own"), "r");
    assert_non_null(fgets(cut, sizeof(cut), file));
    fclose(file);
    write_text("empty", "");
    write_text("cut", cut);
    write_text("text", "neither key nor certificate\n");
    is_refused(NULL, "key", NULL, NULL, "needs `certificate` and `key`");
    is_refused("own", NULL, NULL, NULL, "needs `certificate` and `key`");
    is_refused("own", "nothing", NULL, NULL, "No such file");
    is_refused("own", ".", NULL, NULL, "is not a file");
    is_refused("own", "other.key", NULL, NULL, "fits the certificate");
    is_refused("own", "empty", NULL, NULL, "is no key in PEM");
    is_refused("empty", "key", NULL, NULL, "no certificate chain");
    is_refused("cut", "key", NULL, NULL, "no certificate chain");
    is_refused("text", "key", NULL, NULL, "no certificate chain");
    is_refused("own", "key", "empty", NULL, "no CA certificates");
    is_refused("own", "key", "key", NULL, "no CA certificates");
    is_refused("own", "key", "ca", "own", "revocation lists");
    is_refused("own", "key", NULL, "ca", "`crl` without `ca`");
}

static void clients_are_not_asked_for_what_nobody_vouches_for(void **state)
{
    struct kq_tls *tls;
    assert_int_equal(make("own", "key", NULL, NULL, KQ_TLS_CLIENTS_REQUESTED, &tls), -EINVAL);
    assert_non_null(strstr(said, "needs `ca`"));
}

static void dates_that_make_files_useless_are_said(void **state)
{
    write_own("expired", -2 * TLS_DAY, -TLS_DAY);
    write_own("early", TLS_DAY, 2 * TLS_DAY);
    write_list("good.list", TLS_DAY);
    write_list("old.list", -TLS_DAY);
    serves_and_says("own", NULL, NULL);
    serves_and_says("own", "good.list", NULL);
    serves_and_says("expired", NULL, "has expired");
    serves_and_says("early", NULL, "is not valid yet");
    serves_and_says("own", "old.list", "is out of date");
}

static void a_key_that_everybody_can_read_is_said(void **state)
{
    chmod(path("key"), 0644);
    serves_and_says("own", NULL, "chmod o-r");
    chmod(path("key"), 0600);
}

/* What the tickets of TLS are encrypted with. */
static void tickets_of(struct kq_tls *tls, uint8_t ret[80])
{
    SSL_CTX *context = kq_tls_context(tls);
    assert_int_equal(SSL_CTX_get_tlsext_ticket_keys(context, ret, 80), 1);
    SSL_CTX_free(context);
}

static bool presents(struct kq_tls *tls, const X509 *certificate)
{
    SSL_CTX *context = kq_tls_context(tls);
    bool same = X509_cmp(SSL_CTX_get0_certificate(context), certificate) == 0;
    SSL_CTX_free(context);
    return same;
}

static void files_that_change_are_read_again_and_tickets_stay_good(void **state)
{
    struct kq_tls *tls;
    uint8_t before[80], after[80];
    bool changed = true;
    assert_int_equal(make("own", "key", "ca", NULL, KQ_TLS_CLIENTS_REQUIRED, &tls), 0);
    tickets_of(tls, before);
    assert_int_equal(kq_tls_reload(tls, false, &changed), 0);
    assert_false(changed);
    X509 *next = tls_make_certificate("next", key, -TLS_DAY, TLS_DAY, ca, ca_key);
    tls_write(path("next"), NULL, next, NULL);
    assert_int_equal(rename(path("next"), path("own")), 0);
    assert_int_equal(kq_tls_reload(tls, false, &changed), 0);
    assert_true(changed && presents(tls, next));
    tickets_of(tls, after);
    assert_memory_equal(before, after, 80);
    X509_free(next);
    kq_tls_free(tls);
}

static void tickets_of_those_whom_another_ca_let_in_are_void(void **state)
{
    struct kq_tls *tls;
    uint8_t before[80], after[80];
    bool changed = false;
    X509 *second = tls_make_certificate("second", other_key, -TLS_DAY, TLS_DAY, NULL, NULL);
    tls_write(path("trust"), NULL, ca, NULL);
    assert_int_equal(make("own", "key", "trust", NULL, KQ_TLS_CLIENTS_REQUIRED, &tls), 0);
    tickets_of(tls, before);
    tls_write(path("second"), NULL, second, NULL);
    assert_int_equal(rename(path("second"), path("trust")), 0);
    assert_int_equal(kq_tls_reload(tls, false, &changed), 0);
    assert_true(changed);
    tickets_of(tls, after);
    assert_memory_not_equal(before, after, 80);
    X509_free(second);
    kq_tls_free(tls);
}

static void what_cannot_be_used_leaves_what_was_there(void **state)
{
    struct kq_tls *tls;
    bool changed = false;
    assert_int_equal(make("own", "key", NULL, NULL, KQ_TLS_CLIENTS_NONE, &tls), 0);
    write_text("broken", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    assert_int_equal(rename(path("broken"), path("own")), 0);
    assert_int_equal(kq_tls_reload(tls, false, &changed), -EINVAL);
    assert_true(said_count == 1 && strstr(said, "no certificate chain"));
    assert_true(presents(tls, own));
    assert_int_equal(kq_tls_reload(tls, false, &changed), 0); /* it has been said once */
    assert_false(changed);
    assert_int_equal(said_count, 1);
    remove(path("own"));
    assert_true(kq_tls_reload(tls, false, &changed) < 0);
    assert_true(presents(tls, own));
    kq_tls_free(tls);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(the_words_for_what_is_asked_of_clients, begin),
        cmocka_unit_test_setup(what_a_context_allows, begin),
        cmocka_unit_test_setup(files_that_cannot_be_used_are_refused_in_one_line, begin),
        cmocka_unit_test_setup(clients_are_not_asked_for_what_nobody_vouches_for, begin),
        cmocka_unit_test_setup(dates_that_make_files_useless_are_said, begin),
        cmocka_unit_test_setup(a_key_that_everybody_can_read_is_said, begin),
        cmocka_unit_test_setup(files_that_change_are_read_again_and_tickets_stay_good, begin),
        cmocka_unit_test_setup(tickets_of_those_whom_another_ca_let_in_are_void, begin),
        cmocka_unit_test_setup(what_cannot_be_used_leaves_what_was_there, begin),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
