/* Changes of topics: create, delete, add a partition, set a setting.
 *
 * Each has one moment at which it counts: when the topic's metadata file is replaced. What has to
 * be there before is made first and taken away again if that moment does not come; what may go
 * goes after it, and goes on at the next start if it is cut short. */
#include "broker/internal.h"

#include <fcntl.h>
#include <limits.h>

#include "broker/base/clock.h"
#include "broker/base/diag.h"
#include "broker/base/io.h"
#include "broker/base/mem.h"

#define MAX_RENDERINGS 4096

/* --- Pieces --- */

static struct kq_renderings *first_rendering(const struct kq_topic_config *config)
{
    struct kq_renderings *renderings = kq_alloc(sizeof(*renderings) + sizeof(renderings->at[0]));
    if (renderings) {
        renderings->count = 1;
        renderings->at[0] = config->text;
        renderings->at[0].from_offset = 0;
    }
    return renderings;
}

int kq_topic_add_new(struct kq_topic *topic, int32_t number, const struct kq_attributes *attributes,
                     struct kq_partition **ret)
{
    struct kq_topic_config config;
    struct kq_attributes copy = {0};
    kq_topic_config(topic, &config);
    struct kq_renderings *renderings = first_rendering(&config);
    int r = renderings ? kq_attributes_copy(attributes, &copy) : -ENOMEM;
    copy.mode &= 07777;
    if (r == 0)
        r = kq_topic_add(topic, number, &copy, renderings, ret);
    if (r < 0) {
        kq_attributes_release(&copy);
        free(renderings);
    }
    return r;
}

/* No topic has this name, so a directory of that name is what an earlier failure left behind. */
static int clear_leftover(struct kq_broker *broker, const char *directory)
{
    struct stat st;
    if (fstatat(broker->dirfd, directory, &st, AT_SYMLINK_NOFOLLOW) < 0)
        return 0;
    kq_diag(LOG_NOTICE, "%s/%s belongs to no topic: removed to make room for a new partition",
            broker->data_dir, directory);
    return kq_log_remove(&broker->shared, directory);
}

/* Directory and log of a partition that nobody can see yet. */
static int build_partition(struct kq_partition *partition)
{
    struct kq_broker *broker = partition->topic->broker;
    const struct kq_log_checkpoint nothing = {.log_start = -1};
    struct kq_log_recovery recovery;
    char directory[KQ_DIRECTORY_BYTES];
    kq_partition_directory(partition->topic->name, partition->number, directory);
    if (strlen(directory) > NAME_MAX)
        return -ENAMETOOLONG;
    int r = clear_leftover(broker, directory);
    if (r == 0)
        r = kq_partition_make_directory(partition);
    if (r == 0)
        r = kq_partition_open(partition, &nothing, &recovery);
    return r;
}

static void unbuild_partition(struct kq_partition *partition)
{
    struct kq_broker *broker = partition->topic->broker;
    char directory[KQ_DIRECTORY_BYTES];
    kq_partition_directory(partition->topic->name, partition->number, directory);
    if (partition->log)
        kq_log_close(partition->log);
    partition->log = NULL;
    int r = kq_log_remove(&broker->shared, directory);
    if (r < 0 && r != -ENOENT)
        kq_diag(LOG_WARNING, "cannot remove %s/%s, which belongs to no topic: %s", broker->data_dir,
                directory, strerror(-r));
}

/* --- Create --- */

/* The settings that SPEC names, as the configuration that came of them says them. */
static int own_settings(const struct kq_topic_spec *spec, const struct kq_topic_config *config,
                        struct kq_topic_setting **ret, size_t *ret_count)
{
    const char *name;
    size_t count = 0;
    struct kq_topic_setting *settings = kq_zalloc((spec->setting_count + 1) * sizeof(*settings));
    int r = settings ? 0 : -ENOMEM;
    for (size_t i = 0; (name = kq_topic_config_name(i)) && r == 0; i++) {
        bool named = false;
        for (size_t j = 0; j < spec->setting_count && !named; j++)
            named = strcmp(spec->settings[j].name, name) == 0;
        if (named)
            r = kq_setting_make(config, name, &settings[count++]);
    }
    if (r < 0) {
        kq_settings_free(settings, count);
        return r;
    }
    *ret = settings;
    *ret_count = count;
    return 0;
}

static int configure_new(struct kq_topic *topic, const struct kq_topic_spec *spec)
{
    struct kq_topic_config config = topic->broker->options.topic_defaults;
    struct kq_topic_setting *settings = NULL;
    size_t count = 0;
    int r = kq_topic_config_set_all(&config, spec->settings, spec->setting_count, NULL, NULL);
    if (r == -ENOTSUP)
        r = -EINVAL;
    if (r == 0)
        r = own_settings(spec, &config, &settings, &count);
    if (r < 0)
        return r;
    kq_topic_put_settings(topic, settings, count, &config);
    r = kq_attributes_copy(&spec->topic, &topic->attributes);
    topic->attributes.mode = (topic->attributes.mode & 07777) | 01000;
    topic->created_ms = kq_clock_wall_ms();
    return r < 0 ? r : kq_uuid_new(topic->id);
}

/* The topic in memory, unregistered. */
static int make_topic(struct kq_broker *broker, const struct kq_topic_spec *spec, int32_t count,
                      struct kq_topic **ret)
{
    struct kq_topic *topic;
    struct kq_partition *partition;
    int r = kq_topic_new(broker, spec->name, &topic);
    if (r < 0)
        return r;
    r = configure_new(topic, spec);
    for (int32_t i = 0; i < count && r == 0; i++)
        r = kq_topic_add_new(topic, i, &spec->partition, &partition);
    if (r != 0)
        kq_topic_unref(topic);
    else
        *ret = topic;
    return r;
}

static int write_new_topic(struct kq_topic *topic)
{
    struct kq_topic_record record;
    int r = kq_io_sync_dir(topic->broker->dirfd);
    if (r == 0)
        r = kq_topic_record(topic, 0, &record);
    if (r != 0)
        return r;
    r = kq_store_write(topic->broker->dirfd, topic->name, &record);
    free(record.partitions);
    return r;
}

/* With the name reserved: everything on disk. All partitions are in the table, none counts yet. */
static int build_topic(struct kq_topic *topic, int32_t count)
{
    int32_t built = 0;
    int r = 0;
    while (built < count && r == 0)
        r = build_partition(kq_topic_at(topic, built++));
    if (r == 0) {
        atomic_store_explicit(&topic->partition_count, count, memory_order_release);
        r = write_new_topic(topic);
    }
    if (r < 0) {
        atomic_store(&topic->partition_count, 0);
        while (built > 0)
            unbuild_partition(kq_topic_at(topic, --built));
    }
    return r;
}

static int reserve(struct kq_broker *broker, int32_t count)
{
    int r = kq_registry_count_partitions(&broker->registry, count);
    if (r < 0)
        return r;
    r = kq_housekeeper_reserve(&broker->housekeeper, (size_t)count);
    if (r < 0)
        kq_registry_count_partitions(&broker->registry, -count);
    return r;
}

static void give_back(struct kq_broker *broker, int32_t count)
{
    kq_housekeeper_give_back(&broker->housekeeper, (size_t)count);
    kq_registry_count_partitions(&broker->registry, -count);
}

static int create_registered(struct kq_topic *topic, int32_t count)
{
    struct kq_broker *broker = topic->broker;
    int r = reserve(broker, count);
    if (r < 0)
        return r;
    pthread_mutex_lock(&topic->change);
    r = build_topic(topic, count);
    if (r < 0) {
        give_back(broker, count);
    } else {
        kq_registry_set_state(&broker->registry, topic, KQ_REGISTRY_LIVE);
        kq_broker_emit(broker, KQ_EVENT_TOPIC_CREATED, topic, NULL);
    }
    pthread_mutex_unlock(&topic->change);
    return r;
}

/* What can be said of SPEC before anything is made. */
static int check_new(struct kq_broker *broker, const struct kq_caller *caller,
                     const struct kq_topic_spec *spec, int32_t count)
{
    struct kq_topic_config config = broker->options.topic_defaults;
    if (!kq_topic_name_valid(spec->name) || count < 1 || count > KQ_STORE_MAX_PARTITIONS)
        return -EINVAL;
    int r = kq_authorize(broker, caller, KQ_RIGHT_CREATE, NULL, NULL);
    if (r == 0)
        r = kq_registry_check(&broker->registry, spec->name, count);
    if (r == 0)
        r = kq_topic_config_set_all(&config, spec->settings, spec->setting_count, NULL, NULL);
    return r == -ENOTSUP ? -EINVAL : r;
}

int kq_topic_create(struct kq_broker *broker, const struct kq_caller *caller,
                    const struct kq_topic_spec *spec, struct kq_topic **ret)
{
    int32_t count = spec->partitions ? spec->partitions : broker->options.default_partitions;
    struct kq_topic *topic = NULL;
    int r = check_new(broker, caller, spec, count);
    if (r == 0 && !spec->check_only)
        r = make_topic(broker, spec, count, &topic);
    if (r != 0 || spec->check_only)
        return r;
    r = kq_registry_add(&broker->registry, topic);
    if (r == 0) {
        r = create_registered(topic, count);
        if (r < 0)
            kq_registry_remove(&broker->registry, topic);
    }
    if (r < 0)
        kq_topic_unref(topic);
    else
        *ret = topic;
    return r;
}

/* --- Add partitions --- */

/* FIRST and the COUNT - 1 behind it are in the table and on disk. */
static int write_added(struct kq_topic *topic, int32_t first, int32_t count)
{
    struct kq_topic_record record;
    int r = kq_io_sync_dir(topic->broker->dirfd);
    if (r == 0)
        r = kq_topic_record(topic, count, &record);
    if (r != 0)
        return r;
    for (int32_t i = 0; i < count; i++) {
        struct kq_partition *partition = kq_topic_at(topic, first + i);
        record.partitions[record.partition_count].attributes = partition->attributes;
        record.partitions[record.partition_count].renderings = partition->renderings;
        record.partition_count++;
    }
    r = kq_store_write(topic->broker->dirfd, topic->name, &record);
    free(record.partitions);
    return r;
}

static int build_added(struct kq_topic *topic, int32_t number,
                       const struct kq_attributes *attributes)
{
    struct kq_partition *partition;
    int r = kq_topic_add_new(topic, number, attributes, &partition);
    if (r < 0)
        return r;
    r = build_partition(partition);
    if (r < 0) {
        unbuild_partition(partition);
        kq_topic_drop(topic, number);
    }
    return r;
}

static int add_locked(struct kq_topic *topic, int32_t first, int32_t count,
                      const struct kq_attributes *attributes)
{
    int32_t built = 0;
    int r = 0;
    while (built < count && r == 0) {
        r = build_added(topic, first + built, attributes);
        if (r == 0)
            built++;
    }
    if (r == 0)
        r = write_added(topic, first, count);
    if (r < 0) {
        while (built > 0) {
            built--;
            unbuild_partition(kq_topic_at(topic, first + built));
            kq_topic_drop(topic, first + built);
        }
        return r;
    }
    atomic_store_explicit(&topic->partition_count, first + count, memory_order_release);
    for (int32_t i = 0; i < count; i++)
        kq_broker_emit(topic->broker, KQ_EVENT_PARTITION_ADDED, topic,
                       kq_topic_at(topic, first + i));
    return 0;
}

static int check_add(struct kq_topic *topic, const struct kq_caller *caller, int32_t first,
                     int32_t count)
{
    int32_t present = kq_topic_partition_count(topic);
    if (atomic_load(&topic->deleted))
        return -ESTALE;
    if (first >= 0 && first < present)
        return -EEXIST;
    if (first != present || count < 1)
        return -ENOENT;
    if (count > KQ_STORE_MAX_PARTITIONS - present)
        return count == 1 ? -ENOENT : -EDQUOT;
    return kq_authorize(topic->broker, caller, KQ_RIGHT_ALTER, topic, NULL);
}

int kq_topic_add_partitions(struct kq_topic *topic, const struct kq_caller *caller, int32_t first,
                            int32_t count, const struct kq_attributes *attributes)
{
    pthread_mutex_lock(&topic->change);
    int r = check_add(topic, caller, first, count);
    if (r == 0)
        r = reserve(topic->broker, count);
    if (r == 0 && !attributes) {
        give_back(topic->broker, count);
    } else if (r == 0) {
        r = add_locked(topic, first, count, attributes);
        if (r < 0)
            give_back(topic->broker, count);
    }
    pthread_mutex_unlock(&topic->change);
    return r;
}

int kq_topic_add_partition(struct kq_topic *topic, const struct kq_caller *caller, int32_t number,
                           const struct kq_attributes *attributes)
{
    return kq_topic_add_partitions(topic, caller, number, 1, attributes);
}

/* --- Set settings --- */

static const struct kq_topic_setting *find_change(const struct kq_topic_alteration *alteration,
                                                  const char *name)
{
    for (size_t i = 0; i < alteration->count; i++)
        if (strcmp(alteration->changes[i].name, name) == 0)
            return &alteration->changes[i];
    return NULL;
}

/* The topic's own settings as ALTERATION leaves them; names and values are borrowed. -ENOMEM. */
static int collect_settings(struct kq_topic *topic, const struct kq_topic_alteration *alteration,
                            struct kq_topic_setting **ret, size_t *ret_count)
{
    size_t most = topic->setting_count + alteration->count + 1, count = 0;
    struct kq_topic_setting *settings = kq_zalloc(most * sizeof(*settings));
    if (!settings)
        return -ENOMEM;
    for (size_t i = 0; i < topic->setting_count && !alteration->replace; i++)
        if (!find_change(alteration, topic->settings[i].name))
            settings[count++] = topic->settings[i];
    for (size_t i = 0; i < alteration->count; i++)
        if (alteration->changes[i].value)
            settings[count++] = alteration->changes[i];
    *ret = settings;
    *ret_count = count;
    return 0;
}

/* COLLECTED in memory of its own, each value as CONFIG, which they make, shows it. */
static int own_copies(const struct kq_topic_setting *collected, size_t count,
                      const struct kq_topic_config *config, struct kq_topic_setting **ret)
{
    struct kq_topic_setting *settings = kq_zalloc((count + 1) * sizeof(*settings));
    if (!settings)
        return -ENOMEM;
    for (size_t i = 0; i < count; i++) {
        int r = kq_setting_make(config, collected[i].name, &settings[i]);
        if (r < 0) {
            kq_settings_free(settings, i);
            return r;
        }
    }
    *ret = settings;
    return 0;
}

/* Own settings after ALTERATION, and the configuration they make. */
static int changed_settings(struct kq_topic *topic, const struct kq_topic_alteration *alteration,
                            struct kq_topic_setting **ret, size_t *ret_count,
                            struct kq_topic_config *ret_config,
                            struct kq_topic_refusal *ret_refusal)
{
    struct kq_topic_config config = topic->broker->options.topic_defaults;
    struct kq_topic_refusal refusal = {0};
    struct kq_topic_setting *collected;
    size_t count;
    int r = collect_settings(topic, alteration, &collected, &count);
    if (r < 0)
        return r;
    r = kq_topic_config_set_all(&config, collected, count, &refusal.name, &refusal.reason);
    if (r < 0 && ret_refusal)
        *ret_refusal = refusal;
    if (r == 0)
        r = own_copies(collected, count, &config, ret);
    free(collected);
    if (r < 0)
        return r;
    *ret_count = count;
    *ret_config = config;
    return 0;
}

int kq_renderings_append(const struct kq_renderings *old, const struct kq_rendering *text,
                         int64_t from, struct kq_renderings **ret)
{
    size_t keep = old->count;
    if (old->at[keep - 1].from_offset >= from)
        keep--;
    if (keep >= MAX_RENDERINGS)
        return -EDQUOT;
    struct kq_renderings *renderings =
        kq_alloc(sizeof(*renderings) + (keep + 1) * sizeof(renderings->at[0]));
    if (!renderings)
        return -ENOMEM;
    memcpy(renderings->at, old->at, keep * sizeof(old->at[0]));
    renderings->at[keep] = *text;
    renderings->at[keep].from_offset = keep ? from : 0;
    renderings->count = keep + 1;
    *ret = renderings;
    return 0;
}

/* RECORD's renderings become new ones from the present ends. The topic is paused. */
static int renew_renderings(struct kq_topic *topic, const struct kq_rendering *text,
                            struct kq_topic_record *record)
{
    struct kq_log_bounds bounds;
    for (int32_t i = 0; i < record->partition_count; i++) {
        struct kq_partition *partition = kq_topic_at(topic, i);
        kq_log_bounds(partition->log, &bounds);
        int r = kq_renderings_append(partition->renderings, text, bounds.end,
                                     &record->partitions[i].renderings);
        if (r < 0) {
            while (i > 0)
                free(record->partitions[--i].renderings);
            return r;
        }
    }
    return 0;
}

/* How text reads changes: from the present end on, so nothing may be appended meanwhile. */
static int write_paused(struct kq_topic *topic, const struct kq_rendering *text,
                        struct kq_topic_record *record)
{
    kq_topic_pause(topic);
    int r = renew_renderings(topic, text, record);
    if (r == 0) {
        r = kq_store_write(topic->broker->dirfd, topic->name, record);
        for (int32_t i = 0; i < record->partition_count; i++) {
            if (r == 0)
                kq_partition_put_renderings(kq_topic_at(topic, i),
                                            record->partitions[i].renderings);
            else
                free(record->partitions[i].renderings);
        }
    }
    kq_topic_resume(topic);
    return r;
}

bool kq_rendering_equal(const struct kq_rendering *a, const struct kq_rendering *b)
{
    return a->framing == b->framing && a->delimiter_length == b->delimiter_length &&
           a->separator_length == b->separator_length &&
           memcmp(a->delimiter, b->delimiter, a->delimiter_length) == 0 &&
           memcmp(a->separator, b->separator, a->separator_length) == 0;
}

static int write_settings(struct kq_topic *topic, struct kq_topic_setting *settings, size_t count,
                          const struct kq_topic_config *config)
{
    struct kq_topic_config old;
    struct kq_topic_record record;
    kq_topic_config(topic, &old);
    int r = kq_topic_record(topic, 0, &record);
    if (r < 0)
        return r;
    record.settings = settings;
    record.setting_count = count;
    if (kq_rendering_equal(&old.text, &config->text))
        r = kq_store_write(topic->broker->dirfd, topic->name, &record);
    else
        r = write_paused(topic, &config->text, &record);
    free(record.partitions);
    return r;
}

/* The logs follow, and what a shorter retention no longer keeps goes soon. */
static void apply_config(struct kq_topic *topic, const struct kq_topic_config *config)
{
    struct kq_log_config log_config;
    for (int32_t i = 0; i < kq_topic_partition_count(topic); i++) {
        struct kq_partition *partition = kq_topic_at(topic, i);
        kq_partition_log_config(partition, config, &log_config);
        kq_log_set_config(partition->log, &log_config);
        kq_housekeeper_ask(partition, kq_clock_wall_ms());
        kq_cleaner_ask(partition, true);
    }
}

static int check_expected(struct kq_topic *topic, const struct kq_topic_alteration *alteration)
{
    struct kq_topic_config config;
    kq_topic_config(topic, &config);
    for (size_t i = 0; i < alteration->expected_count; i++) {
        const struct kq_topic_setting *expected = &alteration->expected[i];
        kq_autobuf struct kq_buf value = {0};
        int r = kq_topic_config_format(&config, expected->name, &value);
        if (r == 0)
            r = kq_buf_append(&value, "", 1);
        if (r < 0)
            return r;
        if (strcmp((const char *)value.data, expected->value) != 0)
            return -EAGAIN;
    }
    return 0;
}

static int alter_locked(struct kq_topic *topic, const struct kq_topic_alteration *alteration,
                        struct kq_topic_refusal *ret_refusal)
{
    struct kq_topic_setting *settings = NULL;
    struct kq_topic_config config;
    size_t count = 0;
    int r = changed_settings(topic, alteration, &settings, &count, &config, ret_refusal);
    if (r < 0)
        return r;
    if (!alteration->check_only)
        r = write_settings(topic, settings, count, &config);
    if (r < 0 || alteration->check_only) {
        kq_settings_free(settings, count);
        return r;
    }
    kq_topic_put_settings(topic, settings, count, &config);
    apply_config(topic, &config);
    kq_broker_emit(topic->broker, KQ_EVENT_CONFIG, topic, NULL);
    return 0;
}

int kq_topic_alter_config(struct kq_topic *topic, const struct kq_caller *caller,
                          const struct kq_topic_alteration *alteration,
                          struct kq_topic_refusal *ret_refusal)
{
    for (size_t i = 0; i < alteration->count; i++) {
        if (kq_topic_config_known(alteration->changes[i].name))
            continue;
        if (ret_refusal)
            *ret_refusal =
                (struct kq_topic_refusal){alteration->changes[i].name, "there is no such setting"};
        return -ENOTSUP;
    }
    pthread_mutex_lock(&topic->change);
    int r = atomic_load(&topic->deleted) ? -ESTALE : 0;
    if (r == 0)
        r = kq_authorize(topic->broker, caller, KQ_RIGHT_ALTER_CONFIG, topic, NULL);
    if (r == 0)
        r = check_expected(topic, alteration);
    if (r == 0)
        r = alter_locked(topic, alteration, ret_refusal);
    pthread_mutex_unlock(&topic->change);
    return r;
}

int kq_topic_set_config(struct kq_topic *topic, const struct kq_caller *caller, const char *name,
                        const char *value)
{
    const struct kq_topic_setting change = {name, value};
    const struct kq_topic_alteration alteration = {.changes = &change, .count = 1};
    return kq_topic_alter_config(topic, caller, &alteration, NULL);
}
