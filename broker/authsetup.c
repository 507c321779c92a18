#include "broker/authsetup.h"

#include <openssl/crypto.h>
#include <string.h>

#include "broker/base/diag.h"
#include "broker/base/mem.h"
#include "broker/users.h"

static int find_user(void *context, const char *name, enum kq_scram_hash hash,
                     struct kq_scram_credential *ret)
{
    return kq_user_find(context, name, hash, ret);
}

static const struct kq_sasl_class *const classes[] = {
    &kq_scram_sha_256,
    &kq_scram_sha_512,
    &kq_plain,
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

static int add_mechanism(struct kq_authsetup *setup, const char *name, size_t length)
{
    const struct kq_sasl_class *class = find_class(name, length);
    if (!class) {
        kq_diag(LOG_ERR,
                "mechanisms: there is no %.*s here; kqfs.conf(5) lists those that there are",
                (int)length, name);
        return -EINVAL;
    }
    if (!has(setup, class))
        setup->mechanisms[setup->mechanism_count++] =
            (struct kq_sasl_mechanism){class, &setup->users};
    return 0;
}

static int add_mechanisms(struct kq_authsetup *setup, const char *list)
{
    int r = 0;
    while (r == 0 && *(list += strspn(list, " ,"))) {
        size_t length = strcspn(list, " ,");
        r = add_mechanism(setup, list, length);
        list += length;
    }
    return r;
}

int kq_authsetup_init(const struct kq_config *config, struct kq_authsetup *ret)
{
    struct kq_principals_options principals = {.certificate_rules = "",
                                               .kerberos_rules = "",
                                               .kerberos_realm = "",
                                               .refresh_ms = 60000,
                                               .max_entries = 10000};
    *ret = (struct kq_authsetup){.users.find = find_user,
                                 .users.iterations = (int32_t)config->sasl.scram_iterations};
    int r = kq_principals_new(&principals, &ret->principals);
    return r < 0 ? r : add_mechanisms(ret, config->sasl.mechanisms);
}

void kq_authsetup_release(struct kq_authsetup *setup)
{
    kq_principals_free(setup->principals);
    OPENSSL_cleanse(setup->users.secret, sizeof(setup->users.secret));
}

void kq_authsetup_use(struct kq_authsetup *setup, struct kq_broker *broker)
{
    setup->users.context = kq_broker_users(broker);
    kq_users_secret(setup->users.context, setup->users.secret);
}
