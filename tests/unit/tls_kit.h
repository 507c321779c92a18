/* Keys, certificates and lists of what was revoked, made while a test runs. */
#pragma once

#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#define TLS_DAY 86400L

static inline EVP_PKEY *tls_make_key(void)
{
    EVP_PKEY *key = EVP_EC_gen("P-256");
    assert_non_null(key);
    return key;
}

/* Of the public KEY of NAME, valid between so many seconds from now; signed by the CA, or, where
 * that is NULL, by itself as a CA. */
static inline X509 *tls_make_certificate(const char *name, EVP_PKEY *key, long from, long until,
                                         X509 *ca, EVP_PKEY *ca_key)
{
    static long serial;
    X509 *made = X509_new();
    X509_NAME *subject = X509_get_subject_name(made);
    X509_set_version(made, 2);
    ASN1_INTEGER_set(X509_get_serialNumber(made), ++serial);
    X509_gmtime_adj(X509_getm_notBefore(made), from);
    X509_gmtime_adj(X509_getm_notAfter(made), until);
    X509_NAME_add_entry_by_txt(subject, "CN", MBSTRING_ASC, (const unsigned char *)name, -1, -1, 0);
    X509_set_issuer_name(made, ca ? X509_get_subject_name(ca) : subject);
    X509_set_pubkey(made, key);
    if (!ca) {
        X509_EXTENSION *extension =
            X509V3_EXT_conf_nid(NULL, NULL, NID_basic_constraints, "critical,CA:TRUE");
        X509_add_ext(made, extension, -1);
        X509_EXTENSION_free(extension);
    }
    assert_true(X509_sign(made, ca ? ca_key : key, EVP_sha256()) > 0);
    return made;
}

/* A list of CA, good until so many seconds from now, with REVOKED in it (NULL: nobody). */
static inline X509_CRL *tls_make_list(X509 *ca, EVP_PKEY *ca_key, long until, const X509 *revoked)
{
    X509_CRL *list = X509_CRL_new();
    ASN1_TIME *now = X509_gmtime_adj(NULL, -2 * TLS_DAY), *next = X509_gmtime_adj(NULL, until);
    X509_CRL_set_version(list, 1);
    X509_CRL_set_issuer_name(list, X509_get_subject_name(ca));
    X509_CRL_set1_lastUpdate(list, now);
    X509_CRL_set1_nextUpdate(list, next);
    if (revoked) {
        X509_REVOKED *entry = X509_REVOKED_new();
        X509_REVOKED_set_serialNumber(entry, (ASN1_INTEGER *)X509_get0_serialNumber(revoked));
        X509_REVOKED_set_revocationDate(entry, now);
        X509_CRL_add0_revoked(list, entry);
    }
    assert_true(X509_CRL_sign(list, ca_key, EVP_sha256()) > 0);
    ASN1_TIME_free(now);
    ASN1_TIME_free(next);
    return list;
}

/* Writes what is not NULL to PATH. */
static inline void tls_write(const char *path, EVP_PKEY *key, X509 *certificate, X509_CRL *list)
{
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    assert_true(!key || PEM_write_PrivateKey(file, key, NULL, NULL, 0, NULL, NULL));
    assert_true(!certificate || PEM_write_X509(file, certificate));
    assert_true(!list || PEM_write_X509_CRL(file, list));
    assert_int_equal(fclose(file), 0);
}
