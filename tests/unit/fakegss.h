/* A Kerberos of a test's own, in place of the library's functions that auth/gssapi.c calls and of
 * auth/keytab.c. What is said of a token stands in the token:
 *
 *     accept:  what, length of the answer, name of the client
 *     unwrap:  what, bytes inside
 */
#pragma once

#include <gssapi/gssapi_krb5.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "auth/keytab.h"

enum fakegss_accept {
    FAKEGSS_COMPLETE,
    FAKEGSS_CONTINUE,
    FAKEGSS_REFUSE,
    FAKEGSS_ANONYMOUS,
    FAKEGSS_OTHER_MECHANISM,
    FAKEGSS_NO_MECHANISM,
    FAKEGSS_NAMELESS,
    FAKEGSS_ACCEPTS,
};

enum fakegss_unwrap {
    FAKEGSS_UNWRAP,
    FAKEGSS_TWICE, /* a token that has come before: no error by itself */
    FAKEGSS_LATE,
    FAKEGSS_DEFECTIVE,
    FAKEGSS_UNWRAPS,
};

static int fakegss_held; /* that is to be released */

static inline void *fakegss_hold(const void *bytes, size_t length)
{
    void *copy = malloc(length ? length : 1);
    if (length)
        memcpy(copy, bytes, length);
    fakegss_held++;
    return copy;
}

static inline void fakegss_release(void *held)
{
    fakegss_held -= held ? 1 : 0;
    free(held);
}

/* --- auth/keytab.c --- */

int kq_keytab_new(const char *path, const char *principal, struct kq_keytab **ret)
{
    *ret = fakegss_hold("", 1);
    return 0;
}

void kq_keytab_free(struct kq_keytab *keytab)
{
    fakegss_release(keytab);
}

struct kq_keytab_keys *kq_keytab_keys(struct kq_keytab *keytab)
{
    return fakegss_hold("", 1);
}

void kq_keytab_keys_unref(struct kq_keytab_keys *keys)
{
    fakegss_release(keys);
}

gss_cred_id_t kq_keytab_credential(const struct kq_keytab_keys *keys)
{
    return GSS_C_NO_CREDENTIAL;
}

void kq_gssapi_describe(OM_uint32 major, OM_uint32 minor, char *text, size_t size)
{
    snprintf(text, size, "status %u", major);
}

/* --- The library --- */

OM_uint32 gss_release_buffer(OM_uint32 *minor, gss_buffer_t buffer)
{
    fakegss_release(buffer->value);
    *buffer = (gss_buffer_desc)GSS_C_EMPTY_BUFFER;
    return GSS_S_COMPLETE;
}

OM_uint32 gss_release_name(OM_uint32 *minor, gss_name_t *name)
{
    if (*name)
        gss_release_buffer(minor, (gss_buffer_t)*name);
    fakegss_release(*name);
    *name = GSS_C_NO_NAME;
    return GSS_S_COMPLETE;
}

OM_uint32 gss_delete_sec_context(OM_uint32 *minor, gss_ctx_id_t *context, gss_buffer_t token)
{
    fakegss_release(*context);
    *context = GSS_C_NO_CONTEXT;
    return GSS_S_COMPLETE;
}

OM_uint32 gss_accept_sec_context(OM_uint32 *minor, gss_ctx_id_t *context, gss_cred_id_t credential,
                                 gss_buffer_t token, gss_channel_bindings_t bindings,
                                 gss_name_t *name, gss_OID *mechanism, gss_buffer_t answer,
                                 OM_uint32 *flags, OM_uint32 *time, gss_cred_id_t *delegated)
{
    static gss_OID_desc other = {3, (void *)"abc"};
    const uint8_t *bytes = token->value;
    unsigned what = token->length ? bytes[0] % FAKEGSS_ACCEPTS : FAKEGSS_REFUSE;
    size_t answer_length = token->length > 1 ? bytes[1] : 0;
    *minor = 0;
    if (!*context)
        *context = fakegss_hold("", 1);
    if (what == FAKEGSS_REFUSE)
        return GSS_S_DEFECTIVE_TOKEN;
    if (answer_length) {
        answer->value = fakegss_hold(NULL, 0);
        answer->value = realloc(answer->value, answer_length);
        memset(answer->value, 'a', answer->length = answer_length);
    }
    if (what == FAKEGSS_CONTINUE)
        return GSS_S_CONTINUE_NEEDED;
    gss_buffer_desc text = GSS_C_EMPTY_BUFFER;
    if (token->length > 2) {
        text.length = token->length - 2;
        text.value = fakegss_hold(bytes + 2, text.length);
    }
    *name = what == FAKEGSS_NAMELESS ? GSS_C_NO_NAME : fakegss_hold(&text, sizeof(text));
    if (!*name)
        fakegss_release(text.value);
    *mechanism = what == FAKEGSS_OTHER_MECHANISM ? &other
                 : what == FAKEGSS_NO_MECHANISM  ? GSS_C_NO_OID
                                                 : (gss_OID)gss_mech_krb5;
    *flags = what == FAKEGSS_ANONYMOUS ? GSS_C_ANON_FLAG : 0;
    return GSS_S_COMPLETE;
}

OM_uint32 gss_display_name(OM_uint32 *minor, gss_name_t name, gss_buffer_t ret, gss_OID *type)
{
    const gss_buffer_desc *text = (const void *)name;
    *minor = 0;
    if (!name)
        return GSS_S_BAD_NAME;
    *ret = (gss_buffer_desc)GSS_C_EMPTY_BUFFER;
    if (text->length) {
        ret->value = fakegss_hold(text->value, text->length);
        ret->length = text->length;
    }
    return GSS_S_COMPLETE;
}

OM_uint32 gss_wrap(OM_uint32 *minor, gss_ctx_id_t context, int confidential, gss_qop_t quality,
                   gss_buffer_t plain, int *ret_confidential, gss_buffer_t ret)
{
    ret->value = fakegss_hold(plain->value, plain->length);
    ret->length = plain->length;
    return context ? GSS_S_COMPLETE : GSS_S_NO_CONTEXT;
}

OM_uint32 gss_unwrap(OM_uint32 *minor, gss_ctx_id_t context, gss_buffer_t token, gss_buffer_t ret,
                     int *confidential, gss_qop_t *quality)
{
    static const OM_uint32 results[] = {GSS_S_COMPLETE, GSS_S_DUPLICATE_TOKEN, GSS_S_OLD_TOKEN,
                                        GSS_S_DEFECTIVE_TOKEN};
    const uint8_t *bytes = token->value;
    unsigned what = token->length ? bytes[0] % FAKEGSS_UNWRAPS : FAKEGSS_DEFECTIVE;
    *minor = 0;
    if (what != FAKEGSS_DEFECTIVE && token->length > 1) {
        ret->length = token->length - 1;
        ret->value = fakegss_hold(bytes + 1, ret->length);
    }
    return results[what];
}
