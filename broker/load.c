/* Start: topics and logs from the data directory.
 *
 * A topic is what its metadata file says. A directory without one is kept if it holds messages: a
 * lost or damaged metadata file must not lose them. Without messages it is what an unfinished
 * creation left behind, and goes. */
#include "broker/internal.h"

#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "broker/base/clock.h"
#include "broker/base/diag.h"
#include "broker/base/io.h"
#include "broker/base/mem.h"
#include "broker/scan.h"

#define THREADS 4

struct loading {
    struct kq_broker *broker;
    struct kq_scan scan;
    struct kq_checkpoint recovery, starts;
};

static int fail(struct kq_broker *broker, const char *what, const char *name, int r)
{
    kq_diag(LOG_ERR, "cannot %s %s in %s: %s", what, name, broker->data_dir, strerror(-r));
    return r;
}

/* --- Directories --- */

/* One behind the highest directory of TOPIC that holds messages; those behind it go. */
static int count_kept(struct loading *loading, const char *topic, int32_t known, int32_t *ret)
{
    struct kq_broker *broker = loading->broker;
    size_t count;
    const struct kq_found_directory *found = kq_scan_find(&loading->scan, topic, &count);
    char name[KQ_DIRECTORY_BYTES];
    while (count > 0 && found[count - 1].number >= known) {
        kq_partition_directory(topic, found[count - 1].number, name);
        int r = kq_scan_holds_messages(broker->dirfd, name);
        if (r > 0)
            break;
        if (r == 0) {
            kq_diag(LOG_NOTICE, "%s/%s is empty and belongs to no topic: removed", broker->data_dir,
                    name);
            r = kq_log_remove(&broker->shared, name);
        }
        if (r < 0)
            return fail(broker, "clear", name, r);
        count--;
    }
    *ret = count > 0 ? (int32_t)kq_max64(known, found[count - 1].number + 1) : known;
    return 0;
}

static bool was_found(const struct loading *loading, const char *topic, int32_t number)
{
    size_t count, low = 0;
    const struct kq_found_directory *found = kq_scan_find(&loading->scan, topic, &count);
    while (low < count) {
        size_t middle = (low + count) / 2;
        if (found[middle].number == number)
            return true;
        if (found[middle].number < number)
            low = middle + 1;
        else
            count = middle;
    }
    return false;
}

/* Makes what is missing; SURE: that is at most the directory. */
static int complete_directory(struct loading *loading, struct kq_partition *partition, bool sure)
{
    struct kq_broker *broker = loading->broker;
    const char *topic = partition->topic->name;
    if (was_found(loading, topic, partition->number))
        return sure ? 0 : kq_partition_write_metadata(partition);
    kq_diag(LOG_WARNING, "the partition directory %s/%s-%d is missing: made anew, without messages",
            broker->data_dir, topic, partition->number);
    return kq_partition_make_directory(partition);
}

/* --- Topics --- */

static int write_record(struct kq_topic *topic)
{
    struct kq_topic_record record;
    int r = kq_topic_record(topic, 0, &record);
    if (r < 0)
        return r;
    r = kq_store_write(topic->broker->dirfd, topic->name, &record);
    free(record.partitions);
    return r;
}

/* Partitions of RECORD, and behind them as many that it does not know as make COUNT. */
static int add_partitions(struct kq_topic *topic, struct kq_topic_record *record, int32_t count)
{
    const struct kq_attributes adopted = {.uid = geteuid(), .gid = getegid(), .mode = 0600};
    struct kq_partition *partition;
    int r = 0;
    for (int32_t i = 0; i < count && r == 0; i++) {
        if (i >= record->partition_count) {
            r = kq_topic_add_new(topic, i, &adopted, &partition);
            continue;
        }
        r = kq_topic_add(topic, i, &record->partitions[i].attributes,
                         record->partitions[i].renderings, &partition);
        if (r == 0)
            record->partitions[i].renderings = NULL;
    }
    if (r == 0)
        atomic_store_explicit(&topic->partition_count, count, memory_order_release);
    return r;
}

static int register_topic(struct kq_topic *topic, int32_t count)
{
    struct kq_broker *broker = topic->broker;
    int r = kq_registry_count_partitions(&broker->registry, count);
    if (r == 0)
        r = kq_housekeeper_reserve(&broker->housekeeper, (size_t)count);
    if (r == 0)
        r = kq_registry_add(&broker->registry, topic);
    if (r == 0)
        kq_registry_set_state(&broker->registry, topic, KQ_REGISTRY_LIVE);
    if (r == -EDQUOT)
        kq_diag(LOG_ERR,
                "%s holds more topics or partitions than the limits allow: raise "
                "max_topics and max_partitions",
                broker->data_dir);
    return r;
}

/* Its settings may be at odds with the defaults of today. */
static int take_record(struct kq_topic *topic, const struct kq_topic_record *record)
{
    struct kq_topic_config config = topic->broker->options.topic_defaults;
    const char *name = "", *reason = "";
    int r =
        kq_topic_config_set_all(&config, record->settings, record->setting_count, &name, &reason);
    if (r < 0) {
        kq_diag(LOG_ERR, "%s/%s" KQ_STORE_SUFFIX ": setting %s %s; change the defaults or the file",
                topic->broker->data_dir, topic->name, name, reason);
        return r;
    }
    return kq_topic_take(topic, record);
}

/* A registered topic from RECORD, with COUNT partitions, logs not open. */
static int make_topic(struct loading *loading, const char *name, struct kq_topic_record *record,
                      int32_t count)
{
    struct kq_topic *topic;
    bool adopts = count > record->partition_count;
    bool sure = loading->broker->clean && !loading->broker->kafka.image && !adopts;
    int r = kq_topic_new(loading->broker, name, &topic);
    if (r < 0)
        return r;
    r = take_record(topic, record);
    if (r == 0)
        r = add_partitions(topic, record, count);
    for (int32_t i = 0; i < count && r == 0; i++)
        r = complete_directory(loading, kq_topic_at(topic, i), sure);
    if (r == 0 && adopts)
        r = write_record(topic);
    if (r == 0)
        r = register_topic(topic, count);
    kq_topic_unref(topic);
    return r;
}

/* The id that Kafka's file in one of the directories names, or a new one. */
static int find_id(struct loading *loading, const char *topic, uint8_t ret[KQ_UUID_BYTES])
{
    size_t count;
    const struct kq_found_directory *found = kq_scan_find(&loading->scan, topic, &count);
    char name[KQ_DIRECTORY_BYTES];
    for (size_t i = 0; i < count; i++) {
        kq_partition_directory(topic, found[i].number, name);
        if (kq_scan_topic_id(loading->broker->dirfd, name, ret) == 0)
            return 0;
    }
    return kq_uuid_new(ret);
}

/* What its settings were is lost: nothing is deleted or cleaned away until they are set again. */
static int adopt(struct loading *loading, const char *topic)
{
    struct kq_broker *broker = loading->broker;
    struct kq_topic_setting keeping[] = {
        {"cleanup.policy", "delete"}, {"retention.bytes", "-1"}, {"retention.ms", "-1"}};
    struct kq_topic_record record = {
        .created_ms = kq_clock_wall_ms(),
        .attributes = {.uid = geteuid(), .gid = getegid(), .mode = 01700},
        .settings = keeping,
        .setting_count = kq_array_size(keeping),
    };
    int32_t count;
    int r = count_kept(loading, topic, 0, &count);
    if (r < 0 || count == 0)
        return r;
    kq_diag(LOG_WARNING,
            "%s/%s" KQ_STORE_SUFFIX " is missing: the topic's %d partitions were taken over for "
            "their owner alone, and nothing of them is deleted; set owner, mode and settings "
            "(retention.ms, cleanup.policy) again",
            broker->data_dir, topic, count);
    r = find_id(loading, topic, record.id);
    return r < 0 ? r : make_topic(loading, topic, &record, count);
}

static int load_record(struct loading *loading, const char *topic, struct kq_topic_record *record)
{
    struct kq_broker *broker = loading->broker;
    size_t found;
    const struct kq_found_directory *directories = kq_scan_find(&loading->scan, topic, &found);
    int32_t count = record->partition_count;
    if (record->deleting) {
        if (found)
            count = (int32_t)kq_max64(count, directories[found - 1].number + 1);
        return kq_topic_erase(broker, topic, count);
    }
    int r = count_kept(loading, topic, count, &count);
    if (r < 0)
        return r;
    if (count > record->partition_count)
        kq_diag(LOG_WARNING,
                "%s/%s" KQ_STORE_SUFFIX " knows %d partitions, but there are messages in %d: the "
                "others were taken over, for their owner alone",
                broker->data_dir, topic, record->partition_count, count);
    return make_topic(loading, topic, record, count);
}

/* Long names are cut, so that there is room for the suffix. */
static int set_aside(struct kq_broker *broker, const char *file)
{
    char to[NAME_MAX + 1];
    snprintf(to, sizeof(to), "%.220s.%lld.damaged", file, (long long)kq_clock_wall_ms());
    int r = kq_io_rename(broker->dirfd, file, broker->dirfd, to);
    if (r < 0)
        return fail(broker, "set aside the damaged", file, r);
    kq_diag(LOG_ERR, "%s/%s is damaged: kept as %s", broker->data_dir, file, to);
    return 0;
}

static int load_topic(struct loading *loading, const char *topic)
{
    char file[NAME_MAX + 1];
    struct kq_topic_record record;
    snprintf(file, sizeof(file), "%s" KQ_STORE_SUFFIX, topic);
    int r = kq_store_read(loading->broker->dirfd, topic, &record);
    if (r == -EBADMSG || r == -EFBIG || r == -EINVAL) {
        r = set_aside(loading->broker, file);
        return r < 0 ? r : adopt(loading, topic);
    }
    if (r < 0)
        return fail(loading->broker, "read", file, r);
    r = load_record(loading, topic, &record);
    kq_topic_record_release(&record);
    return r < 0 ? fail(loading->broker, "load topic", topic, r) : 0;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* Those that have a metadata file, then the directories that have none. */
static int load_topics(struct loading *loading)
{
    const struct kq_scan *scan = &loading->scan;
    int r = 0;
    for (size_t i = 0; i < scan->topic_count && r == 0; i++)
        if (!kq_registry_taken(&loading->broker->registry, scan->topics[i]))
            r = load_topic(loading, scan->topics[i]);
    for (size_t i = 0; i < scan->directory_count && r == 0; i++) {
        const char *topic = scan->directories[i].topic;
        bool again = i > 0 && strcmp(scan->directories[i - 1].topic, topic) == 0;
        if (!again && !kq_registry_taken(&loading->broker->registry, topic) &&
            !(scan->topic_count &&
              bsearch(&topic, scan->topics, scan->topic_count, sizeof(char *), by_name)))
            r = adopt(loading, topic);
    }
    return r;
}

/* --- Every partition --- */

struct each {
    struct kq_job job;
    struct each_shared {
        struct kq_partition **partitions;
        size_t count;
        atomic_size_t next;
        int (*step)(struct kq_partition *partition, void *context);
        void *context;
        atomic_int result;
    } * shared;
};

static void run_each(struct kq_job *job)
{
    struct each_shared *shared = ((struct each *)job)->shared;
    size_t i;
    while ((i = atomic_fetch_add(&shared->next, 1)) < shared->count) {
        int none = 0;
        int r = shared->step(shared->partitions[i], shared->context);
        if (r < 0)
            atomic_compare_exchange_strong(&shared->result, &none, r);
    }
}

/* Those of topics that are being deleted are closed already. */
static int list_partitions(struct kq_broker *broker, struct kq_partition ***ret, size_t *ret_count)
{
    struct kq_registry *registry = &broker->registry;
    size_t count = 0;
    struct kq_partition **partitions = kq_alloc((registry->partitions + 1) * sizeof(*partitions));
    if (!partitions)
        return -ENOMEM;
    for (size_t i = 0; i < registry->count; i++) {
        const struct kq_topic *topic = registry->sorted[i];
        if (topic->state != KQ_REGISTRY_LIVE)
            continue;
        for (int32_t j = 0; j < kq_topic_partition_count(topic); j++)
            partitions[count++] = kq_topic_at(topic, j);
    }
    *ret = partitions;
    *ret_count = count;
    return 0;
}

int kq_each_partition(struct kq_broker *broker, int (*step)(struct kq_partition *, void *context),
                      void *context)
{
    struct each_shared shared = {.step = step, .context = context};
    struct each workers[THREADS];
    struct kq_pool *pool;
    int r = list_partitions(broker, &shared.partitions, &shared.count);
    if (r < 0)
        return r;
    r = kq_pool_new("kqfs-each", THREADS, &pool);
    if (r == 0) {
        for (size_t i = 0; i < THREADS && i < shared.count; i++) {
            workers[i] = (struct each){.job = {.run = run_each}, .shared = &shared};
            kq_pool_submit(pool, &workers[i].job);
        }
        kq_pool_free(pool);
        r = atomic_load(&shared.result);
    }
    free(shared.partitions);
    return r;
}

/* --- Logs --- */

static void report_recovery(struct kq_partition *partition, const struct kq_log_recovery *recovery)
{
    struct kq_recovery_facts *facts = &partition->topic->broker->recovered;
    atomic_fetch_add(&facts->scanned_bytes, recovery->scanned_bytes);
    atomic_fetch_add(&facts->truncated_bytes, recovery->truncated_bytes);
    atomic_fetch_add(&facts->rebuilt_indexes, recovery->rebuilt_indexes);
    atomic_fetch_add(&facts->damaged_segments, recovery->damaged_segments);
    if (recovery->truncated_bytes || recovery->rebuilt_indexes || recovery->damaged_segments)
        kq_diag(LOG_NOTICE,
                "recovered %s-%d: %lld bytes checked, %lld bytes of an unfinished end cut off, %u "
                "indexes rebuilt, %u damaged segments set aside",
                partition->topic->name, partition->number, (long long)recovery->scanned_bytes,
                (long long)recovery->truncated_bytes, recovery->rebuilt_indexes,
                recovery->damaged_segments);
}

static int open_log(struct kq_partition *partition, void *context)
{
    const struct loading *loading = context;
    const char *topic = partition->topic->name;
    const struct kq_log_checkpoint checkpoint = {
        .clean = loading->broker->clean,
        .recovery_point = kq_checkpoint_find(&loading->recovery, topic, partition->number, 0),
        .log_start = kq_checkpoint_find(&loading->starts, topic, partition->number, -1),
        .epochs_begun = kq_import_epochs(partition->topic, partition->number),
    };
    struct kq_log_recovery recovery = {0};
    int r = kq_partition_open(partition, &checkpoint, &recovery);
    if (r == 0) {
        report_recovery(partition, &recovery);
        kq_housekeeper_ask(partition,
                           kq_clock_wall_ms() + loading->broker->options.retention_check_ms);
    }
    return r;
}

/* Where the defaults changed, text reads anew from the end on. */
static int follow_defaults(struct kq_topic *topic)
{
    struct kq_topic_config config;
    bool changed = false;
    kq_topic_config(topic, &config);
    for (int32_t i = 0; i < kq_topic_partition_count(topic); i++) {
        struct kq_partition *partition = kq_topic_at(topic, i);
        const struct kq_renderings *old = partition->renderings;
        struct kq_renderings *renderings;
        struct kq_log_bounds bounds;
        if (kq_rendering_equal(&old->at[old->count - 1], &config.text))
            continue;
        kq_log_bounds(partition->log, &bounds);
        int r = kq_renderings_append(old, &config.text, bounds.end, &renderings);
        if (r < 0)
            return fail(topic->broker, "change the rendering of", topic->name, r);
        kq_partition_put_renderings(partition, renderings);
        changed = true;
    }
    return changed ? write_record(topic) : 0;
}

static int follow_all_defaults(struct kq_broker *broker)
{
    int r = 0;
    for (size_t i = 0; i < broker->registry.count && r == 0; i++)
        r = follow_defaults(broker->registry.sorted[i]);
    return r;
}

/* --- All of it --- */

static int read_checkpoint(struct kq_broker *broker, const char *name, struct kq_checkpoint *ret)
{
    int r = kq_checkpoint_read(broker->dirfd, name, ret);
    if (r == -EBADMSG || r == -EFBIG) {
        kq_diag(LOG_WARNING, "%s/%s is damaged: ignored, the logs are checked from their beginning",
                broker->data_dir, name);
        broker->clean = false;
        return 0;
    }
    return r == -ENOENT ? 0 : r < 0 ? fail(broker, "read", name, r) : 0;
}

static void clear(struct loading *loading)
{
    struct kq_broker *broker = loading->broker;
    const struct kq_scan *scan = &loading->scan;
    for (size_t i = 0; i < scan->temporary_count; i++)
        kq_io_unlink(broker->dirfd, scan->temporaries[i], false);
    for (size_t i = 0; i < scan->leftover_count; i++) {
        int r = kq_log_remove(&broker->shared, scan->leftovers[i]);
        if (r < 0)
            kq_diag(LOG_WARNING, "cannot remove %s/%s: %s", broker->data_dir, scan->leftovers[i],
                    strerror(-r));
    }
}

/* The checkpoints are written again, for names that are gone may come back as other topics. */
/* The kernel's table of descriptors grows by doubling, and with several threads waits for every CPU
 * (RCU) each time, some ten milliseconds: once is enough. */
static void make_room_for_logs(const struct loading *loading)
{
    size_t count = loading->scan.directory_count;
    int last = count < INT_MAX ? fcntl(loading->broker->dirfd, F_DUPFD_CLOEXEC, (int)count) : -1;
    if (last >= 0)
        close(last);
}

static int load(struct loading *loading)
{
    struct kq_broker *broker = loading->broker;
    int r = read_checkpoint(broker, KQ_CHECKPOINT_RECOVERY, &loading->recovery);
    if (r == 0)
        r = read_checkpoint(broker, KQ_CHECKPOINT_START, &loading->starts);
    if (r == 0)
        r = kq_import(broker, &loading->recovery, &loading->starts);
    if (r == 0)
        r = kq_scan_directory(broker->dirfd, broker->data_dir, &loading->scan);
    if (r < 0)
        return r;
    clear(loading);
    make_room_for_logs(loading);
    r = load_topics(loading);
    if (r == 0)
        r = kq_each_partition(broker, open_log, loading);
    if (r == 0)
        r = follow_all_defaults(broker);
    if (r == 0)
        r = kq_broker_write_recovery_points(broker);
    return r < 0 ? r : kq_broker_write_starts(broker);
}

int kq_load(struct kq_broker *broker)
{
    struct loading loading = {.broker = broker};
    int64_t began_ns = kq_clock_mono_ns();
    int r = load(&loading);
    broker->recovered.after_clean_stop = broker->clean;
    broker->recovered.duration_ns = kq_clock_mono_ns() - began_ns;
    kq_import_end(broker);
    kq_scan_release(&loading.scan);
    kq_checkpoint_release(&loading.recovery);
    kq_checkpoint_release(&loading.starts);
    return r;
}
