/* Deleting topics. It counts when the metadata file says `deleting`; whatever is left of the rest
 * is done at the next start. The name is free again when all that bears it is gone. */
#include "broker/internal.h"

#include <limits.h>
#include <stdio.h>

#include "broker/base/diag.h"
#include "broker/base/io.h"

/* Kafka's name for a directory that is being deleted; long names are cut to fit. */
static void deleted_name(const char *topic, int32_t number, const char *unique,
                         char ret[KQ_DIRECTORY_BYTES])
{
    snprintf(ret, KQ_DIRECTORY_BYTES, "%.200s-%d.%s-delete", topic, number, unique);
}

static int make_unique(char ret[2 * KQ_UUID_BYTES + 1])
{
    uint8_t id[KQ_UUID_BYTES];
    int r = kq_uuid_new(id);
    for (size_t i = 0; i < KQ_UUID_BYTES && r == 0; i++)
        sprintf(ret + 2 * i, "%02x", id[i]);
    return r;
}

static int rename_directories(struct kq_broker *broker, const char *topic, int32_t count,
                              const char *unique)
{
    char from[KQ_DIRECTORY_BYTES], to[KQ_DIRECTORY_BYTES];
    for (int32_t i = 0; i < count; i++) {
        kq_partition_directory(topic, i, from);
        deleted_name(topic, i, unique, to);
        int r = kq_io_rename(broker->dirfd, from, broker->dirfd, to);
        if (r < 0 && r != -ENOENT)
            return r;
    }
    return kq_io_sync_dir(broker->dirfd);
}

/* The name is no longer needed for it: what cannot be removed now is removed at the next start. */
static void remove_directories(struct kq_broker *broker, const char *topic, int32_t count,
                               const char *unique)
{
    char name[KQ_DIRECTORY_BYTES];
    for (int32_t i = 0; i < count; i++) {
        deleted_name(topic, i, unique, name);
        int r = kq_log_remove(&broker->shared, name);
        if (r < 0 && r != -ENOENT)
            kq_diag(LOG_WARNING, "cannot remove %s/%s: %s; the next start tries again",
                    broker->data_dir, name, strerror(-r));
    }
}

int kq_topic_erase(struct kq_broker *broker, const char *name, int32_t count)
{
    char unique[2 * KQ_UUID_BYTES + 1], file[NAME_MAX + 1];
    snprintf(file, sizeof(file), "%s" KQ_STORE_SUFFIX, name);
    int r = make_unique(unique);
    if (r == 0)
        r = rename_directories(broker, name, count, unique);
    if (r == 0)
        r = kq_io_unlink(broker->dirfd, file, false);
    if (r == 0)
        r = kq_io_sync_dir(broker->dirfd);
    if (r < 0) {
        kq_diag(LOG_ERR, "cannot finish deleting topic %s in %s: %s; the next start tries again",
                name, broker->data_dir, strerror(-r));
        return r;
    }
    remove_directories(broker, name, count, unique);
    return 0;
}

static bool holds_messages(struct kq_topic *topic)
{
    struct kq_log_bounds bounds;
    bool found = false;
    for (int32_t i = 0; i < kq_topic_partition_count(topic) && !found; i++) {
        kq_log_bounds(kq_topic_at(topic, i)->log, &bounds);
        found = bounds.start < bounds.end;
    }
    return found;
}

static int decide(struct kq_topic *topic, bool only_empty)
{
    struct kq_topic_record record;
    if (only_empty && holds_messages(topic))
        return -ENOTEMPTY;
    int r = kq_topic_record(topic, 0, &record);
    if (r < 0)
        return r;
    record.deleting = true;
    r = kq_store_write(topic->broker->dirfd, topic->name, &record);
    free(record.partitions);
    return r;
}

static void count_out(struct kq_partition *partition)
{
    struct kq_partition_totals *totals = &partition->topic->broker->deleted_totals;
    atomic_fetch_add(&totals->batches, atomic_load(&partition->appended_batches));
    atomic_fetch_add(&totals->messages, atomic_load(&partition->appended_messages));
    atomic_fetch_add(&totals->bytes, atomic_load(&partition->appended_bytes));
    atomic_fetch_add(&totals->errors, atomic_load(&partition->append_errors));
}

/* Nobody is in its log, and nobody comes in any more. */
static void retire(struct kq_partition *partition)
{
    kq_housekeeper_leave(partition);
    kq_cleaner_leave(partition);
    kq_waiters_end(&partition->waiters, KQ_WAKE_GONE, -ESTALE);
    kq_log_close(partition->log);
    partition->log = NULL;
    count_out(partition);
}

/* The checkpoints must not speak of a name that a new topic may take. */
static int forget_checkpoints(struct kq_broker *broker)
{
    int r = kq_broker_write_recovery_points(broker);
    if (r == 0)
        r = kq_broker_write_starts(broker);
    return r < 0 ? r : kq_cleaner_write_checkpoint(broker);
}

static void bury(struct kq_topic *topic)
{
    struct kq_broker *broker = topic->broker;
    int32_t count = kq_topic_partition_count(topic);
    kq_registry_set_state(&broker->registry, topic, KQ_REGISTRY_DELETING);
    for (int32_t i = 0; i < count; i++)
        retire(kq_topic_at(topic, i));
    kq_broker_emit(broker, KQ_EVENT_TOPIC_DELETED, topic, NULL);
    kq_housekeeper_give_back(&broker->housekeeper, (size_t)count);
    kq_registry_count_partitions(&broker->registry, -count);
    int r = forget_checkpoints(broker);
    if (r < 0)
        kq_diag(LOG_ERR, "the name of topic %s stays in use until the next start: %s", topic->name,
                strerror(-r));
    else if (kq_topic_erase(broker, topic->name, count) == 0)
        kq_registry_remove(&broker->registry, topic);
}

static int delete_locked(struct kq_topic *topic, const struct kq_caller *caller, bool only_empty)
{
    if (atomic_load(&topic->deleted))
        return -ESTALE;
    int r = kq_authorize(topic->broker, caller, KQ_RIGHT_DELETE, topic, NULL);
    if (r < 0)
        return r;
    kq_topic_pause(topic);
    r = decide(topic, only_empty);
    if (r < 0) {
        kq_topic_resume(topic);
        return r;
    }
    for (int32_t i = 0; i < kq_topic_partition_count(topic); i++) {
        struct kq_partition *partition = kq_topic_at(topic, i);
        kq_log_bounds(partition->log, &partition->last_bounds);
    }
    atomic_store(&topic->deleted, true);
    pthread_mutex_unlock(&topic->pause); /* the guards stay closed */
    bury(topic);
    return 0;
}

int kq_topic_delete(struct kq_topic *topic, const struct kq_caller *caller, bool only_empty)
{
    kq_topic_ref(topic);
    pthread_mutex_lock(&topic->change);
    int r = delete_locked(topic, caller, only_empty);
    pthread_mutex_unlock(&topic->change);
    kq_topic_unref(topic);
    return r;
}
