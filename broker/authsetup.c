#include "broker/authsetup.h"

#include <openssl/crypto.h>
#include <string.h>

#ifdef KQFS_GSSAPI
#include "auth/gssapi.h"
#endif
#include "auth/oauthbearer.h"
#include "broker/base/diag.h"
#include "broker/base/mem.h"
#include "broker/users.h"

static int find_user(void *context, const char *name, enum kq_scram_hash hash,
                     struct kq_scram_credential *ret)
{
    return kq_user_find(context, name, hash, ret);
}

static const struct kq_sasl_class *const classes[] = {
    &kq_scram_sha_256, &kq_scram_sha_512, &kq_plain, &kq_oauthbearer,
#ifdef KQFS_GSSAPI
    &kq_gssapi_class,
#endif
};

static const struct kq_sasl_class *find_class(const char *name, size_t length)
{
    for (size_t i = 0; i < kq_array_size(classes); i++)
        if (strlen(classes[i]->name) == length && memcmp(classes[i]->name, name, length) == 0)
            return classes[i];
    return NULL;
}

static bool has(const struct kq_authsetup *setup, const struct kq_sasl_class *class)
{
    for (size_t i = 0; i < setup->mechanism_count; i++)
        if (setup->mechanisms[i].class == class)
            return true;
    return false;
}

/* --- What mechanisms need --- */

static int missing(const char *mechanism, const char *setting)
{
    kq_diag(LOG_ERR, "mechanisms: %s needs the setting %s", mechanism, setting);
    return -EINVAL;
}

static int open_oauth(struct kq_authsetup *setup, const struct kq_oauth_settings *from)
{
    struct kq_oauth_options options = {.jwks_file = from->jwks,
                                       .algorithms = from->algorithms,
                                       .issuer = from->issuer,
                                       .audience = from->audience,
                                       .claim = from->claim,
                                       .skew_ms = from->skew_s * 1000,
                                       .max_bytes = (size_t)from->max_token_bytes};
    if (!from->jwks)
        return missing("OAUTHBEARER", "sasl.oauthbearer.jwks.file");
    return setup->oauth ? 0 : kq_oauth_new(&options, &setup->oauth);
}

#ifdef KQFS_GSSAPI
static int open_gssapi(struct kq_authsetup *setup, const struct kq_kerberos_settings *from)
{
    struct kq_gssapi_options options = {.keytab = from->keytab, .principal = from->principal};
    if (!from->keytab)
        return missing("GSSAPI", "sasl.kerberos.keytab");
    return setup->gssapi ? 0 : kq_gssapi_new(&options, setup->principals, &setup->gssapi);
}

static int find_realm(char **ret)
{
    return kq_gssapi_realm(ret);
}

static void close_gssapi(struct kq_authsetup *setup)
{
    kq_gssapi_free(setup->gssapi);
}
#else
static int find_realm(char **ret)
{
    *ret = kq_strdup("");
    return *ret ? 0 : -ENOMEM;
}

static void close_gssapi(struct kq_authsetup *setup)
{
}
#endif

/* A reason to stop is one line from below. */
static int find_context(struct kq_authsetup *setup, const struct kq_config *config,
                        const struct kq_sasl_class *class, void **ret)
{
    int r = 0;
    *ret = &setup->users;
    if (class == &kq_oauthbearer) {
        r = open_oauth(setup, &config->oauth);
        *ret = setup->oauth;
    }
#ifdef KQFS_GSSAPI
    if (class == &kq_gssapi_class) {
        r = open_gssapi(setup, &config->kerberos);
        *ret = setup->gssapi;
    }
#endif
    return r < 0 && r != -ENOMEM ? -EINVAL : r;
}

static int add_mechanism(struct kq_authsetup *setup, const struct kq_config *config,
                         const char *name, size_t length)
{
    void *context = NULL;
    const struct kq_sasl_class *class = find_class(name, length);
    if (!class) {
        kq_diag(LOG_ERR,
                "mechanisms: there is no %.*s here; kqfs.conf(5) lists those that there are",
                (int)length, name);
        return -EINVAL;
    }
    if (has(setup, class))
        return 0;
    int r = find_context(setup, config, class, &context);
    if (r == 0)
        setup->mechanisms[setup->mechanism_count++] = (struct kq_sasl_mechanism){class, context};
    return r;
}

static int add_mechanisms(struct kq_authsetup *setup, const struct kq_config *config)
{
    const char *list = config->sasl.mechanisms;
    int r = 0;
    while (r == 0 && *(list += strspn(list, " ,"))) {
        size_t length = strcspn(list, " ,");
        r = add_mechanism(setup, config, list, length);
        list += length;
    }
    return r;
}

/* --- Whose rights names have --- */

struct entries {
    struct kq_principal_entry *all;
    size_t count;
};

static void take_user(void *context, const char *name, uint32_t uid)
{
    struct entries *entries = context;
    entries->all[entries->count++] = (struct kq_principal_entry){name, uid};
}

static int make_principals(const struct kq_config *config, struct kq_principals **ret)
{
    kq_autofree struct kq_principal_entry *users =
        kq_alloc((config->user_count + 1) * sizeof(*users));
    kq_autofree char *realm = NULL;
    struct entries entries = {.all = users};
    if (!users || find_realm(&realm) < 0)
        return -ENOMEM;
    kq_config_each_user(config, take_user, &entries);
    const char *set = config->kerberos.realm;
    struct kq_principals_options options = {.certificate_rules = config->certificate_rules,
                                            .kerberos_rules = config->kerberos.rules,
                                            .kerberos_realm = set[0] ? set : realm,
                                            .users = users,
                                            .user_count = entries.count,
                                            .refresh_ms = config->principal_refresh_ms,
                                            .max_entries = (unsigned)config->max_principals};
    return kq_principals_new(&options, ret);
}

int kq_authsetup_init(const struct kq_config *config, struct kq_authsetup *ret)
{
    *ret = (struct kq_authsetup){.users.find = find_user,
                                 .users.iterations = (int32_t)config->sasl.scram_iterations};
    int r = make_principals(config, &ret->principals);
    return r < 0 ? r : add_mechanisms(ret, config);
}

void kq_authsetup_release(struct kq_authsetup *setup)
{
    kq_oauth_free(setup->oauth);
    close_gssapi(setup);
    kq_principals_free(setup->principals);
    OPENSSL_cleanse(setup->users.secret, sizeof(setup->users.secret));
}

void kq_authsetup_use(struct kq_authsetup *setup, struct kq_broker *broker)
{
    setup->users.context = kq_broker_users(broker);
    kq_users_secret(setup->users.context, setup->users.secret);
}
