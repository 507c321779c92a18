#include "auth/keytab.h"

#include <gssapi/gssapi_ext.h>
#include <gssapi/gssapi_krb5.h>
#include <krb5.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include "broker/base/diag.h"
#include "broker/base/io.h"
#include "broker/base/mem.h"
#include "broker/base/privileged.h"

#define NAME_BYTES 64

struct kq_keytab_keys {
    atomic_int references;
    gss_cred_id_t credential; /* holds the library's keytab in memory */
};

struct kq_keytab {
    char *path, *principal;
    pthread_mutex_t lock; /* of what follows; held while the file is read: who comes then waits */
    struct kq_file_mark seen; /* the file as it was read last, whether of use or not */
    struct kq_keytab_keys *keys;
};

/* --- What went wrong --- */

/* The first line of what STATUS means, behind what TEXT has. */
static void add_status(char *text, size_t size, OM_uint32 status, int type)
{
    OM_uint32 minor, more = 0;
    gss_buffer_desc message = GSS_C_EMPTY_BUFFER;
    size_t length = strlen(text);
    if (GSS_ERROR(gss_display_status(&minor, status, type, gss_mech_krb5, &more, &message)))
        return;
    snprintf(text + length, size - length, "%s%.*s", length ? ": " : "", (int)message.length,
             (const char *)message.value);
    gss_release_buffer(&minor, &message);
}

void kq_gssapi_describe(OM_uint32 major, OM_uint32 minor, char *text, size_t size)
{
    text[0] = '\0';
    add_status(text, size, major, GSS_C_GSS_CODE);
    if (minor)
        add_status(text, size, minor, GSS_C_MECH_CODE);
}

static int complain(const struct kq_keytab *keytab, const char *reason)
{
    kq_diag(LOG_ERR, "sasl.kerberos.keytab: %s: %s", keytab->path, reason);
    return -EINVAL;
}

static int complain_of(const struct kq_keytab *keytab, krb5_context context, krb5_error_code error)
{
    const char *reason = krb5_get_error_message(context, error);
    int r = complain(keytab, reason);
    krb5_free_error_message(context, reason);
    return r;
}

/* --- Into the library's memory --- */

static krb5_error_code copy_entries(krb5_context context, krb5_keytab from, krb5_keytab to)
{
    krb5_kt_cursor cursor;
    krb5_keytab_entry entry;
    krb5_error_code error = krb5_kt_start_seq_get(context, from, &cursor);
    if (error)
        return error;
    while (!(error = krb5_kt_next_entry(context, from, &entry, &cursor))) {
        error = krb5_kt_add_entry(context, to, &entry);
        krb5_free_keytab_entry_contents(context, &entry);
        if (error)
            break;
    }
    krb5_kt_end_seq_get(context, from, &cursor);
    return error == KRB5_KT_END ? 0 : error;
}

/* The library reads keytabs by name only: FROM is one that FD has. */
static krb5_error_code copy(krb5_context context, int fd, krb5_keytab to)
{
    char name[NAME_BYTES];
    krb5_keytab from;
    snprintf(name, sizeof(name), "FILE:/proc/self/fd/%d", fd);
    krb5_error_code error = krb5_kt_resolve(context, name, &from);
    if (error)
        return error;
    error = copy_entries(context, from, to);
    krb5_kt_close(context, from);
    return error;
}

static int write_all(int fd, const struct kq_buf *bytes)
{
    ssize_t n = kq_io_pwrite(fd, bytes->data, bytes->length, 0);
    return n < 0 ? (int)n : 0;
}

static int fill(const struct kq_keytab *keytab, krb5_context context, const struct kq_buf *bytes,
                krb5_keytab to)
{
    kq_autoclose int fd = memfd_create("keytab", MFD_CLOEXEC);
    int r = fd < 0 ? -errno : write_all(fd, bytes);
    if (r < 0)
        return complain(keytab, strerror(-r));
    krb5_error_code error = copy(context, fd, to);
    return error ? complain_of(keytab, context, error) : 0;
}

/* --- A credential for it --- */

static int complain_of_key(const struct kq_keytab *keytab, const char *reason)
{
    kq_diag(LOG_ERR, "sasl.kerberos.keytab: %s: no key for %s: %s", keytab->path,
            keytab->principal[0] ? keytab->principal : "anybody", reason);
    return -EINVAL;
}

static OM_uint32 import(const char *principal, gss_name_t *ret, OM_uint32 *ret_minor)
{
    gss_buffer_desc text = {strlen(principal), (void *)principal};
    if (!principal[0])
        return GSS_S_COMPLETE;
    return gss_import_name(ret_minor, &text, GSS_KRB5_NT_PRINCIPAL_NAME, ret);
}

static int acquire(const struct kq_keytab *keytab, const char *name, gss_cred_id_t *ret)
{
    OM_uint32 minor = 0, ignored;
    gss_name_t service = GSS_C_NO_NAME;
    gss_key_value_element_desc element = {"keytab", name};
    gss_key_value_set_desc store = {1, &element};
    gss_OID_set_desc kerberos = {1, gss_mech_krb5};
    char reason[256];
    OM_uint32 major = import(keytab->principal, &service, &minor);
    if (!GSS_ERROR(major))
        major = gss_acquire_cred_from(&minor, service, GSS_C_INDEFINITE, &kerberos, GSS_C_ACCEPT,
                                      &store, ret, NULL, NULL);
    gss_release_name(&ignored, &service);
    if (!GSS_ERROR(major))
        return 0;
    kq_gssapi_describe(major, minor, reason, sizeof(reason));
    return complain_of_key(keytab, reason);
}

/* Asked before, since MIT's library loses the name where it finds no key for it. */
static int look_for_key(const struct kq_keytab *keytab, krb5_context context, krb5_keytab memory)
{
    krb5_principal principal;
    krb5_keytab_entry entry;
    if (!keytab->principal[0])
        return 0;
    krb5_error_code error = krb5_parse_name(context, keytab->principal, &principal);
    if (!error) {
        error = krb5_kt_get_entry(context, memory, principal, 0, 0, &entry);
        krb5_free_principal(context, principal);
    }
    if (!error) {
        krb5_free_keytab_entry_contents(context, &entry);
        return 0;
    }
    const char *reason = krb5_get_error_message(context, error);
    int r = complain_of_key(keytab, reason);
    krb5_free_error_message(context, reason);
    return r;
}

/* The keytab in memory goes with the last that holds it: the credential. */
static int make_credential(const struct kq_keytab *keytab, krb5_context context,
                           const struct kq_buf *bytes, gss_cred_id_t *ret)
{
    static atomic_uint count;
    char name[NAME_BYTES];
    krb5_keytab memory;
    snprintf(name, sizeof(name), "MEMORY:kqfs-%u", count++);
    krb5_error_code error = krb5_kt_resolve(context, name, &memory);
    if (error)
        return complain_of(keytab, context, error);
    int r = fill(keytab, context, bytes, memory);
    if (r == 0)
        r = look_for_key(keytab, context, memory);
    if (r == 0)
        r = acquire(keytab, name, ret);
    krb5_kt_close(context, memory);
    return r;
}

static int make_keys(const struct kq_keytab *keytab, const struct kq_buf *bytes,
                     struct kq_keytab_keys **ret)
{
    krb5_context context;
    struct kq_keytab_keys *keys = kq_zalloc(sizeof(*keys));
    if (!keys)
        return -ENOMEM;
    krb5_error_code error = krb5_init_context(&context);
    int r = error ? complain_of(keytab, NULL, error) : 0;
    if (!error) {
        r = make_credential(keytab, context, bytes, &keys->credential);
        krb5_free_context(context);
    }
    if (r < 0)
        free(keys);
    else {
        keys->references = 1;
        *ret = keys;
    }
    return r;
}

/* --- Following the file --- */

static int load(struct kq_keytab *keytab)
{
    struct kq_buf bytes = {0};
    struct kq_keytab_keys *newer = NULL;
    int r = kq_privileged_slurp(keytab->path, KQ_KEYTAB_BYTES_MAX, &bytes, &keytab->seen);
    if (r < 0)
        complain(keytab, r == -EFBIG ? "larger than 1 MiB" : strerror(-r));
    else
        r = make_keys(keytab, &bytes, &newer);
    if (bytes.data)
        explicit_bzero(bytes.data, bytes.length);
    kq_buf_release(&bytes);
    if (r < 0)
        return r;
    kq_keytab_keys_unref(keytab->keys);
    keytab->keys = newer;
    return 0;
}

static void reload(struct kq_keytab *keytab, const struct kq_file_mark *now)
{
    keytab->seen = *now; /* what cannot be used is not read again and again */
    int r = load(keytab);
    if (r == 0)
        kq_diag(LOG_INFO, "%s: clients are met with the keys that are there now", keytab->path);
    else if (r == -ENOMEM)
        keytab->seen = (struct kq_file_mark){0};
}

struct kq_keytab_keys *kq_keytab_keys(struct kq_keytab *keytab)
{
    struct kq_file_mark now = {0};
    pthread_mutex_lock(&keytab->lock);
    if (kq_privileged_look(keytab->path, &now) == 0 && !kq_file_mark_same(&now, &keytab->seen))
        reload(keytab, &now);
    struct kq_keytab_keys *keys = keytab->keys;
    keys->references++;
    pthread_mutex_unlock(&keytab->lock);
    return keys;
}

void kq_keytab_keys_unref(struct kq_keytab_keys *keys)
{
    OM_uint32 minor;
    if (!keys || --keys->references > 0)
        return;
    gss_release_cred(&minor, &keys->credential);
    free(keys);
}

gss_cred_id_t kq_keytab_credential(const struct kq_keytab_keys *keys)
{
    return keys->credential;
}

/* --- Its life --- */

int kq_keytab_new(const char *path, const char *principal, struct kq_keytab **ret)
{
    struct kq_keytab *keytab = kq_zalloc(sizeof(*keytab));
    if (!keytab)
        return -ENOMEM;
    pthread_mutex_init(&keytab->lock, NULL);
    keytab->path = kq_strdup(path);
    keytab->principal = kq_strdup(principal);
    int r = keytab->path && keytab->principal ? load(keytab) : -ENOMEM;
    if (r < 0)
        kq_keytab_free(keytab);
    else
        *ret = keytab;
    return r;
}

void kq_keytab_free(struct kq_keytab *keytab)
{
    if (!keytab)
        return;
    kq_keytab_keys_unref(keytab->keys);
    pthread_mutex_destroy(&keytab->lock);
    free(keytab->path);
    free(keytab->principal);
    free(keytab);
}
