/* Topics in memory: references, partitions by number, configuration as it is read. */
#include "broker/internal.h"

#include "broker/base/mem.h"
#include "broker/importlog.h"

bool kq_topic_name_valid(const char *name)
{
    static const char allowed[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
                                  "._-";
    size_t length = strnlen(name, KQ_TOPIC_NAME_MAX + 1);
    return length >= 1 && length <= KQ_TOPIC_NAME_MAX && strspn(name, allowed) == length &&
           strcmp(name, ".") != 0 && strcmp(name, "..") != 0 && strcmp(name, ".kqfs") != 0 &&
           strcmp(name, KQ_METALOG_TOPIC) != 0;
}

bool kq_topic_is_internal(const char *name)
{
    return strcmp(name, "__consumer_offsets") == 0 || strcmp(name, "__transaction_state") == 0 ||
           strcmp(name, "__share_group_state") == 0;
}

int kq_topic_new(struct kq_broker *broker, const char *name, struct kq_topic **ret)
{
    size_t length = strlen(name);
    struct kq_topic *topic = kq_zalloc(sizeof(*topic) + length + 1);
    if (!topic)
        return -ENOMEM;
    memcpy(topic->name, name, length);
    topic->broker = broker;
    atomic_init(&topic->references, 1);
    pthread_mutex_init(&topic->change, NULL);
    pthread_mutex_init(&topic->pause, NULL);
    pthread_mutex_init(&topic->settings_lock, NULL);
    *ret = topic;
    return 0;
}

/* Also of partitions that were added and never became visible. */
static void free_table(struct kq_partition_table *table)
{
    for (int32_t i = 0; table && i < table->capacity; i++)
        kq_partition_free(table->at[i]);
    while (table) {
        struct kq_partition_table *smaller = table->smaller;
        free(table);
        table = smaller;
    }
}

static void free_topic(struct kq_topic *topic)
{
    free_table(atomic_load(&topic->table));
    kq_settings_free(topic->settings, topic->setting_count);
    kq_attributes_release(&topic->attributes);
    pthread_mutex_destroy(&topic->change);
    pthread_mutex_destroy(&topic->pause);
    pthread_mutex_destroy(&topic->settings_lock);
    free(topic);
}

int kq_topic_get(struct kq_broker *broker, const char *name, struct kq_topic **ret)
{
    return kq_registry_get(&broker->registry, name, ret);
}

int kq_topic_find(struct kq_broker *broker, const uint8_t *id, struct kq_topic **ret)
{
    return kq_registry_find(&broker->registry, id, ret);
}

int kq_topic_next(struct kq_broker *broker, const char *after, struct kq_topic **ret)
{
    return kq_registry_next(&broker->registry, after, ret);
}

struct kq_topic *kq_topic_ref(struct kq_topic *topic)
{
    atomic_fetch_add_explicit(&topic->references, 1, memory_order_relaxed);
    return topic;
}

void kq_topic_unref(struct kq_topic *topic)
{
    if (topic && atomic_fetch_sub_explicit(&topic->references, 1, memory_order_acq_rel) == 1)
        free_topic(topic);
}

const char *kq_topic_name(const struct kq_topic *topic)
{
    return topic->name;
}

const uint8_t *kq_topic_id(const struct kq_topic *topic)
{
    return topic->id;
}

int32_t kq_topic_partition_count(const struct kq_topic *topic)
{
    return atomic_load_explicit(&topic->partition_count, memory_order_acquire);
}

bool kq_topic_deleted(const struct kq_topic *topic)
{
    return atomic_load(&topic->deleted);
}

int64_t kq_topic_created_ms(const struct kq_topic *topic)
{
    return topic->created_ms;
}

struct kq_partition *kq_topic_at(const struct kq_topic *topic, int32_t number)
{
    return atomic_load_explicit(&topic->table, memory_order_acquire)->at[number];
}

static int grow_table(struct kq_topic *topic, int32_t capacity)
{
    struct kq_partition_table *old = atomic_load(&topic->table);
    if (old && old->capacity >= capacity)
        return 0;
    capacity = old && 2 * old->capacity > capacity ? 2 * old->capacity : capacity;
    struct kq_partition_table *table =
        kq_zalloc(sizeof(*table) + (size_t)capacity * sizeof(table->at[0]));
    if (!table)
        return -ENOMEM;
    if (old)
        memcpy(table->at, old->at, (size_t)old->capacity * sizeof(table->at[0]));
    table->capacity = capacity;
    table->smaller = old;
    atomic_store_explicit(&topic->table, table, memory_order_release);
    return 0;
}

int kq_topic_add(struct kq_topic *topic, int32_t number, struct kq_attributes *attributes,
                 struct kq_renderings *renderings, struct kq_partition **ret)
{
    struct kq_partition *partition;
    int r = grow_table(topic, number + 1);
    if (r == 0)
        r = kq_partition_new(topic, number, &partition);
    if (r < 0)
        return r;
    partition->attributes = *attributes;
    *attributes = (struct kq_attributes){0};
    kq_partition_put_renderings(partition, renderings);
    atomic_load(&topic->table)->at[number] = partition;
    *ret = partition;
    return 0;
}

void kq_topic_drop(struct kq_topic *topic, int32_t number)
{
    struct kq_partition_table *table = atomic_load(&topic->table);
    kq_partition_free(table->at[number]);
    table->at[number] = NULL;
}

/* --- Configuration --- */

int kq_setting_make(const struct kq_topic_config *config, const char *name,
                    struct kq_topic_setting *ret)
{
    kq_autobuf struct kq_buf value = {0};
    int r = kq_topic_config_format(config, name, &value);
    if (r == 0)
        r = kq_buf_append(&value, "", 1);
    if (r < 0)
        return r;
    struct kq_topic_setting setting = {.name = kq_strdup(name),
                                       .value = kq_strdup((char *)value.data)};
    if (!setting.name || !setting.value) {
        free((char *)setting.name);
        free((char *)setting.value);
        return -ENOMEM;
    }
    *ret = setting;
    return 0;
}

void kq_settings_free(struct kq_topic_setting *settings, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        free((char *)settings[i].name);
        free((char *)settings[i].value);
    }
    free(settings);
}

int kq_settings_copy(const struct kq_topic_setting *from, size_t count, size_t extra,
                     struct kq_topic_setting **ret)
{
    struct kq_topic_setting *copy = kq_zalloc((count + extra + 1) * sizeof(*copy));
    if (!copy)
        return -ENOMEM;
    for (size_t i = 0; i < count; i++) {
        copy[i].name = kq_strdup(from[i].name);
        copy[i].value = kq_strdup(from[i].value);
        if (!copy[i].name || !copy[i].value) {
            kq_settings_free(copy, i + 1);
            return -ENOMEM;
        }
    }
    *ret = copy;
    return 0;
}

void kq_broker_topic_defaults(const struct kq_broker *broker, struct kq_topic_config *ret)
{
    *ret = broker->options.topic_defaults;
}

int32_t kq_broker_default_partitions(const struct kq_broker *broker)
{
    return broker->options.default_partitions;
}

void kq_topic_config(struct kq_topic *topic, struct kq_topic_config *ret)
{
    kq_snapshot_load(&topic->config.sequence, topic->config.words, ret, sizeof(*ret));
}

void kq_topic_put_settings(struct kq_topic *topic, struct kq_topic_setting *settings, size_t count,
                           const struct kq_topic_config *config)
{
    struct kq_topic_setting *old = topic->settings;
    size_t old_count = topic->setting_count;
    pthread_mutex_lock(&topic->settings_lock);
    topic->settings = settings;
    topic->setting_count = count;
    kq_snapshot_store(&topic->config.sequence, topic->config.words, config, sizeof(*config));
    pthread_mutex_unlock(&topic->settings_lock);
    kq_settings_free(old, old_count);
}

bool kq_topic_config_is_own(struct kq_topic *topic, const char *name)
{
    bool own = false;
    pthread_mutex_lock(&topic->settings_lock);
    for (size_t i = 0; i < topic->setting_count && !own; i++)
        own = strcmp(topic->settings[i].name, name) == 0;
    pthread_mutex_unlock(&topic->settings_lock);
    return own;
}

/* --- Metadata --- */

int kq_topic_take(struct kq_topic *topic, const struct kq_topic_record *record)
{
    struct kq_topic_config config = topic->broker->options.topic_defaults;
    struct kq_topic_setting *settings;
    int r = kq_settings_copy(record->settings, record->setting_count, 0, &settings);
    if (r < 0)
        return r;
    r = kq_topic_config_set_all(&config, settings, record->setting_count, NULL, NULL);
    if (r == 0)
        r = kq_attributes_copy(&record->attributes, &topic->attributes);
    if (r < 0) {
        kq_settings_free(settings, record->setting_count);
        return r;
    }
    memcpy(topic->id, record->id, sizeof(topic->id));
    topic->created_ms = record->created_ms;
    kq_topic_put_settings(topic, settings, record->setting_count, &config);
    return 0;
}

int kq_topic_record(struct kq_topic *topic, int32_t extra, struct kq_topic_record *ret)
{
    int32_t count = kq_topic_partition_count(topic);
    struct kq_partition_record *partitions =
        kq_zalloc((size_t)(count + extra + 1) * sizeof(*partitions));
    if (!partitions)
        return -ENOMEM;
    for (int32_t i = 0; i < count; i++) {
        const struct kq_partition *partition = kq_topic_at(topic, i);
        partitions[i].attributes = partition->attributes;
        partitions[i].renderings = partition->renderings;
    }
    *ret = (struct kq_topic_record){
        .created_ms = topic->created_ms,
        .attributes = topic->attributes,
        .settings = topic->settings,
        .setting_count = topic->setting_count,
        .partitions = partitions,
        .partition_count = count,
    };
    memcpy(ret->id, topic->id, sizeof(ret->id));
    return 0;
}

/* --- Pausing --- */

void kq_topic_pause(struct kq_topic *topic)
{
    pthread_mutex_lock(&topic->pause);
    for (int32_t i = 0; i < kq_topic_partition_count(topic); i++)
        kq_cleaner_hold(kq_topic_at(topic, i));
    for (int32_t i = 0; i < kq_topic_partition_count(topic); i++)
        kq_guard_close(&kq_topic_at(topic, i)->guard);
}

void kq_topic_resume(struct kq_topic *topic)
{
    for (int32_t i = 0; i < kq_topic_partition_count(topic); i++) {
        kq_guard_open(&kq_topic_at(topic, i)->guard);
        kq_cleaner_release(kq_topic_at(topic, i));
    }
    pthread_mutex_unlock(&topic->pause);
}
