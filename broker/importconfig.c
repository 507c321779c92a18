#include "broker/importconfig.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "broker/base/diag.h"
#include "broker/base/mem.h"
#include "broker/internal.h"

#define RETENTION "retention.ms"
#define POLICY "cleanup.policy"

/* A configuration that some topics have and kqfs does not take. */
struct kq_import_odd {
    UT_hash_handle hh;
    size_t topics;
    char *value, *first; /* of the first topic that has it */
    const char *reason;
    char name[];
};

/* --- What is left out --- */

static int remember_odd(struct kq_import_config *config, const char *topic,
                        const struct kq_topic_setting *setting, const char *reason)
{
    struct kq_import_odd *odd;
    size_t length = strlen(setting->name);
    HASH_FIND(hh, config->odds, setting->name, length, odd);
    if (odd) {
        odd->topics++;
        return 0;
    }
    odd = kq_zalloc(sizeof(*odd) + length + 1);
    if (!odd)
        return -ENOMEM;
    memcpy(odd->name, setting->name, length);
    odd->topics = 1;
    odd->reason = reason;
    odd->value = kq_strdup(setting->value);
    odd->first = kq_strdup(topic);
    kq_uthash_failed = !odd->value || !odd->first;
    if (!kq_uthash_failed)
        HASH_ADD_KEYPTR(hh, config->odds, odd->name, length, odd);
    if (!kq_uthash_failed)
        return 0;
    free(odd->value);
    free(odd->first);
    free(odd);
    return -ENOMEM;
}

static int by_name(const struct kq_import_odd *a, const struct kq_import_odd *b)
{
    return strcmp(a->name, b->name);
}

void kq_import_config_report(struct kq_import_config *config)
{
    struct kq_import_odd *odd, *next;
    HASH_SORT(config->odds, by_name);
    HASH_ITER (hh, config->odds, odd, next)
        kq_diag(LOG_NOTICE, "Kafka's configuration %s=%s of %s%s is left out: %s", odd->name,
                odd->value, odd->first, odd->topics > 1 ? " and others" : "", odd->reason);
    if (config->held)
        kq_diag(
            LOG_NOTICE,
            "nothing tells how long messages of %zu topics (%s%s) are to be kept (%s): they are "
            "kept until you set it, with setfattr -n user.kqfs.retention.ms -v MS on the topic",
            config->held, config->first_held, config->held > 1 ? ", …" : "",
            config->image ? "Kafka's metadata has no retention.ms; its server.properties may"
                          : "Kafka's metadata is not here");
}

void kq_import_config_release(struct kq_import_config *config)
{
    struct kq_import_odd *odd, *next;
    HASH_ITER (hh, config->odds, odd, next) {
        HASH_DEL(config->odds, odd);
        free(odd->value);
        free(odd->first);
        free(odd);
    }
    free(config->first_held);
    config->first_held = NULL;
}

/* --- What is taken --- */

static const char *value_in(const struct kq_topic_setting *settings, size_t count, const char *name)
{
    for (size_t i = 0; i < count; i++)
        if (strcmp(settings[i].name, name) == 0)
            return settings[i].value;
    return NULL;
}

static const char *value_of(const struct kq_import_config *config, enum kq_image_resource_type type,
                            const char *resource, const char *name)
{
    size_t count;
    const struct kq_topic_setting *settings =
        kq_image_settings(config->image, type, resource, &count);
    return value_in(settings, count, name);
}

/* What Kafka would go by for NAME, as far as its metadata says. */
static const char *effective(const struct kq_import_config *config, const char *topic,
                             const char *name)
{
    char node[16];
    snprintf(node, sizeof(node), "%d", config->node_id);
    const char *value = value_of(config, KQ_IMAGE_TOPIC, topic, name);
    if (!value)
        value = value_of(config, KQ_IMAGE_BROKER, node, kq_topic_config_broker_name(name));
    return value ? value : value_of(config, KQ_IMAGE_BROKER, "", kq_topic_config_broker_name(name));
}

/* Names that kqfs has not. */
static int leave_unknown(struct kq_import_config *config, const char *topic)
{
    size_t count;
    const struct kq_topic_setting *settings =
        kq_image_settings(config->image, KQ_IMAGE_TOPIC, topic, &count);
    int r = 0;
    for (size_t i = 0; i < count && r == 0; i++)
        if (!kq_topic_config_known(settings[i].name))
            r = remember_odd(config, topic, &settings[i], "kqfs has no such setting");
    return r;
}

/* Those that kqfs has and whose values it takes, into SETTINGS, which borrows from the image. */
static int collect(struct kq_import_config *config, const char *topic,
                   struct kq_topic_setting *settings, size_t *count)
{
    struct kq_topic_config alone;
    const char *name;
    int r = 0;
    for (size_t i = 0; r == 0 && (name = kq_topic_config_name(i)); i++) {
        struct kq_topic_setting setting = {name, effective(config, topic, name)};
        const char *reason = "";
        alone = *config->defaults;
        if (!setting.value)
            continue;
        if (kq_topic_config_set(&alone, name, setting.value, &reason) < 0)
            r = remember_odd(config, topic, &setting, reason);
        else
            settings[(*count)++] = setting;
    }
    return r;
}

/* Leaves out those that do not go together with the others. */
static int make_fit(struct kq_import_config *config, const char *topic,
                    struct kq_topic_setting *settings, size_t *count)
{
    struct kq_topic_config all = *config->defaults;
    const char *name = "", *reason = "";
    int r = 0;
    while (r == 0 && *count > 0 &&
           kq_topic_config_set_all(&all, settings, *count, &name, &reason) < 0) {
        size_t i = 0;
        while (i < *count && strcmp(settings[i].name, name) != 0)
            i++;
        if (i == *count) /* a default is to blame; at the latest without any, all fit */
            i = *count - 1;
        r = remember_odd(config, topic, &settings[i], reason);
        memmove(&settings[i], &settings[i + 1], (*count - i - 1) * sizeof(*settings));
        (*count)--;
    }
    return r;
}

static void put(struct kq_topic_setting *settings, size_t *count, const char *name,
                const char *value)
{
    size_t i = 0;
    while (i < *count && strcmp(settings[i].name, name) != 0)
        i++;
    settings[i] = (struct kq_topic_setting){name, value};
    if (i == *count)
        (*count)++;
}

/* Was it configured here how long messages are kept? Kafka's own default counts as not. */
static bool is_configured(const struct kq_topic_config *defaults)
{
    struct kq_topic_config builtin;
    kq_topic_config_defaults(&builtin);
    return defaults->log.retention_ms != builtin.log.retention_ms;
}

static int hold(struct kq_import_config *config, const char *topic,
                struct kq_topic_setting *settings, size_t *count)
{
    if (!config->image)
        put(settings, count, POLICY, "delete");
    const char *policy = value_in(settings, *count, POLICY);
    if (value_in(settings, *count, RETENTION) || is_configured(config->defaults) ||
        (policy && !strstr(policy, "delete")))
        return 0;
    put(settings, count, RETENTION, "-1");
    if (config->held++ == 0)
        config->first_held = kq_strdup(topic);
    return config->first_held ? 0 : -ENOMEM;
}

/* Copies in the form in which they are kept. */
static int keep(const struct kq_import_config *config, const struct kq_topic_setting *settings,
                size_t count, struct kq_topic_setting **ret)
{
    struct kq_topic_config all = *config->defaults;
    struct kq_topic_setting *kept = kq_zalloc((count + 1) * sizeof(*kept));
    int r = kept ? 0 : -ENOMEM;
    if (r == 0)
        r = kq_topic_config_set_all(&all, settings, count, NULL, NULL);
    for (size_t i = 0; i < count && r == 0; i++)
        r = kq_setting_make(&all, settings[i].name, &kept[i]);
    if (r < 0 && kept)
        kq_settings_free(kept, count);
    else
        *ret = kept;
    return r;
}

int kq_import_settings(struct kq_import_config *config, const char *topic,
                       struct kq_topic_setting **ret, size_t *ret_count)
{
    size_t room = 2, count = 0;
    while (kq_topic_config_name(room - 2))
        room++;
    kq_autofree struct kq_topic_setting *settings = kq_alloc(room * sizeof(*settings));
    int r = settings ? 0 : -ENOMEM;
    if (r == 0 && config->image)
        r = leave_unknown(config, topic);
    if (r == 0 && config->image)
        r = collect(config, topic, settings, &count);
    if (r == 0)
        r = make_fit(config, topic, settings, &count);
    if (r == 0)
        r = hold(config, topic, settings, &count);
    if (r == 0)
        r = keep(config, settings, count, ret);
    if (r == 0)
        *ret_count = count;
    return r;
}
