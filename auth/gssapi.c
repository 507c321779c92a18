#include "auth/gssapi.h"

#include <gssapi/gssapi_krb5.h>
#include <krb5.h>
#include <string.h>

#include "auth/keytab.h"
#include "broker/base/mem.h"

#define TOKEN_BYTES_MAX 65536
#define PRINCIPAL_BYTES_MAX 1024
#define LAYER_NONE 0x01
#define REFUSED "Authentication failed: Kerberos does not vouch for the client"
#define MALFORMED "Authentication failed: Invalid SASL/GSSAPI message"

struct kq_gssapi {
    struct kq_keytab *keytab;
    struct kq_principals *principals;
};

struct kq_sasl_exchange {
    struct kq_gssapi *gssapi;
    enum {
        ACCEPTING,
        ACCEPTED, /* the last token went to the client, which has nothing to say to it */
        OFFERED,  /* the security layers, of which there is none */
        ENDED,
    } state;
    struct kq_keytab_keys *keys; /* from the first token on */
    gss_ctx_id_t context;
    char principal[PRINCIPAL_BYTES_MAX + 1];
    char *name;
    char reason[256];
};

/* --- The service --- */

int kq_gssapi_new(const struct kq_gssapi_options *options, struct kq_principals *principals,
                  struct kq_gssapi **ret)
{
    struct kq_gssapi *gssapi = kq_zalloc(sizeof(*gssapi));
    if (!gssapi)
        return -ENOMEM;
    gssapi->principals = principals;
    int r = kq_keytab_new(options->keytab, options->principal, &gssapi->keytab);
    if (r < 0) {
        kq_gssapi_free(gssapi);
        return r;
    }
    *ret = gssapi;
    return 0;
}

void kq_gssapi_free(struct kq_gssapi *gssapi)
{
    if (!gssapi)
        return;
    kq_keytab_free(gssapi->keytab);
    free(gssapi);
}

int kq_gssapi_realm(char **ret)
{
    krb5_context context;
    char *realm = NULL, *copy;
    if (krb5_init_context(&context) != 0)
        copy = kq_strdup("");
    else {
        copy = kq_strdup(krb5_get_default_realm(context, &realm) == 0 ? realm : "");
        krb5_free_default_realm(context, realm);
        krb5_free_context(context);
    }
    if (!copy)
        return -ENOMEM;
    *ret = copy;
    return 0;
}

/* --- The exchange --- */

static int fail(struct kq_sasl_exchange *exchange, struct kq_sasl_outcome *ret,
                const char *complaint, const char *reason)
{
    exchange->state = ENDED;
    ret->result = KQ_SASL_FAILED;
    ret->complaint = complaint;
    ret->reason = reason;
    return 0;
}

static int fail_by(struct kq_sasl_exchange *exchange, struct kq_sasl_outcome *ret, OM_uint32 major,
                   OM_uint32 minor)
{
    kq_gssapi_describe(major, minor, exchange->reason, sizeof(exchange->reason));
    return fail(exchange, ret, REFUSED, exchange->reason);
}

/* One octet of the layers that there are, three of how much of them (RFC 4752, section 3.2). */
static int offer(struct kq_sasl_exchange *exchange, struct kq_buf *ret_token,
                 struct kq_sasl_outcome *ret)
{
    static const uint8_t layers[4] = {LAYER_NONE};
    OM_uint32 minor;
    gss_buffer_desc plain = {sizeof(layers), (void *)layers}, wrapped = GSS_C_EMPTY_BUFFER;
    OM_uint32 major =
        gss_wrap(&minor, exchange->context, 0, GSS_C_QOP_DEFAULT, &plain, NULL, &wrapped);
    if (GSS_ERROR(major))
        return fail_by(exchange, ret, major, minor);
    int r = kq_buf_append(ret_token, wrapped.value, wrapped.length);
    gss_release_buffer(&minor, &wrapped);
    exchange->state = OFFERED;
    ret->result = KQ_SASL_MORE;
    return r;
}

/* The client's principal as text; false: it is none that could be mapped. */
static bool take_principal(struct kq_sasl_exchange *exchange, gss_name_t name)
{
    OM_uint32 minor;
    gss_buffer_desc text = GSS_C_EMPTY_BUFFER;
    if (GSS_ERROR(gss_display_name(&minor, name, &text, NULL)))
        return false;
    bool fits = text.length > 0 && text.length <= PRINCIPAL_BYTES_MAX &&
                !memchr(text.value, '\0', text.length);
    if (fits)
        memcpy(exchange->principal, text.value, text.length);
    gss_release_buffer(&minor, &text);
    return fits;
}

/* Who is the client, now that its context stands? */
static int identify(struct kq_sasl_exchange *exchange, gss_name_t client, gss_OID mechanism,
                    OM_uint32 flags, struct kq_sasl_outcome *ret)
{
    bool kerberos = mechanism && mechanism->length == gss_mech_krb5->length &&
                    memcmp(mechanism->elements, gss_mech_krb5->elements, mechanism->length) == 0;
    if (!kerberos || (flags & GSS_C_ANON_FLAG) || !take_principal(exchange, client))
        return fail(exchange, ret, REFUSED, "not a principal of Kerberos");
    ret->name = exchange->principal;
    int r = kq_principals_of_kerberos(exchange->gssapi->principals, exchange->principal,
                                      &exchange->name);
    if (r == -EACCES)
        return fail(exchange, ret, REFUSED,
                    "no rule of sasl.kerberos.principal.to.local.rules gives a name");
    return r;
}

static int accept(struct kq_sasl_exchange *exchange, gss_buffer_desc *token,
                  struct kq_buf *ret_token, struct kq_sasl_outcome *ret)
{
    OM_uint32 minor, ignored, flags = 0;
    gss_buffer_desc answer = GSS_C_EMPTY_BUFFER;
    gss_name_t client = GSS_C_NO_NAME;
    gss_OID mechanism = GSS_C_NO_OID;
    if (!exchange->keys)
        exchange->keys = kq_keytab_keys(exchange->gssapi->keytab);
    OM_uint32 major = gss_accept_sec_context(
        &minor, &exchange->context, kq_keytab_credential(exchange->keys), token,
        GSS_C_NO_CHANNEL_BINDINGS, &client, &mechanism, &answer, &flags, NULL, NULL);
    int r = 0;
    ret->result = KQ_SASL_MORE;
    if (GSS_ERROR(major))
        r = fail_by(exchange, ret, major, minor);
    else if (major != GSS_S_CONTINUE_NEEDED)
        r = identify(exchange, client, mechanism, flags, ret);
    if (r == 0 && ret->result == KQ_SASL_MORE)
        r = kq_buf_append(ret_token, answer.value, answer.length);
    bool answered = answer.length > 0;
    gss_release_buffer(&ignored, &answer);
    gss_release_name(&ignored, &client);
    if (r < 0 || ret->result != KQ_SASL_MORE || major == GSS_S_CONTINUE_NEEDED)
        return r;
    exchange->state = ACCEPTED;
    return answered ? 0 : offer(exchange, ret_token, ret);
}

/* May the client of EXCHANGE be called that? Java's say the principal, others nothing. */
static bool may_be(const struct kq_sasl_exchange *exchange, const char *authzid, size_t length)
{
    return length == 0 ||
           (length == strlen(exchange->name) && memcmp(authzid, exchange->name, length) == 0) ||
           (length == strlen(exchange->principal) &&
            memcmp(authzid, exchange->principal, length) == 0);
}

static int conclude(struct kq_sasl_exchange *exchange, gss_buffer_desc *token,
                    struct kq_sasl_outcome *ret)
{
    OM_uint32 minor;
    gss_buffer_desc plain = GSS_C_EMPTY_BUFFER;
    OM_uint32 major = gss_unwrap(&minor, exchange->context, token, &plain, NULL, NULL);
    const char *bytes = plain.value;
    if (major != GSS_S_COMPLETE) /* not even a token that came twice, or late: they have bytes */
        fail_by(exchange, ret, major, minor);
    else if (plain.length < 4)
        fail(exchange, ret, MALFORMED, "a malformed choice of a security layer");
    else if (bytes[0] != LAYER_NONE)
        fail(exchange, ret, MALFORMED, "a security layer, which there is not");
    else if (!may_be(exchange, bytes + 4, plain.length - 4))
        fail(exchange, ret,
             "Authentication failed: Client requested an authorization id that is different from "
             "its principal",
             "an authorization id that is not the principal");
    else {
        exchange->state = ENDED;
        ret->result = KQ_SASL_DONE;
        ret->name = exchange->name;
    }
    gss_release_buffer(&minor, &plain);
    return 0;
}

static int step(struct kq_sasl_exchange *exchange, const uint8_t *token, size_t length,
                struct kq_buf *ret_token, struct kq_sasl_outcome *ret)
{
    gss_buffer_desc in = {length, (void *)token};
    *ret = (struct kq_sasl_outcome){0};
    if (exchange->principal[0])
        ret->name = exchange->principal;
    if (length > TOKEN_BYTES_MAX)
        return fail(exchange, ret, MALFORMED, "a token of more than 65536 bytes");
    switch (exchange->state) {
    case ACCEPTING:
        return accept(exchange, &in, ret_token, ret);
    case ACCEPTED:
        return length == 0 ? offer(exchange, ret_token, ret)
                           : fail(exchange, ret, MALFORMED, "a token where there is to be none");
    case OFFERED:
        return conclude(exchange, &in, ret);
    default:
        return fail(exchange, ret, MALFORMED, "a token behind the last");
    }
}

static int begin(void *context, struct kq_sasl_exchange **ret)
{
    struct kq_sasl_exchange *exchange = kq_zalloc(sizeof(*exchange));
    if (!exchange)
        return -ENOMEM;
    exchange->gssapi = context;
    exchange->context = GSS_C_NO_CONTEXT;
    *ret = exchange;
    return 0;
}

static void end(struct kq_sasl_exchange *exchange)
{
    OM_uint32 minor;
    if (!exchange)
        return;
    gss_delete_sec_context(&minor, &exchange->context, GSS_C_NO_BUFFER);
    kq_keytab_keys_unref(exchange->keys);
    free(exchange->name);
    free(exchange);
}

const struct kq_sasl_class kq_gssapi_class = {"GSSAPI", false, begin, step, end};
