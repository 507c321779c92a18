/* Opening and closing the broker. */
#include "broker/internal.h"

#include <sched.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

#include "broker/base/diag.h"
#include "broker/base/mem.h"
#include "broker/group.h"
#include "broker/quotas.h"
#include "broker/userstore.h"

/* --- Opening --- */

/* Half of what may be unchecked after a crash is unsynced, half synced and not yet noted. */
static void note_synced(void *context, int64_t bytes)
{
    struct kq_broker *broker = context;
    kq_broker_count_sync(bytes);
    int64_t sum = atomic_fetch_add(&broker->synced_bytes, bytes) + bytes;
    int64_t limit = broker->options.trail_bytes / 2;
    kq_housekeeper_checkpoint(broker, sum >= limit && sum - bytes < limit);
}

static int set_up(const struct kq_broker_options *options, struct kq_broker **ret)
{
    struct kq_broker *broker = kq_zalloc(sizeof(*broker));
    if (!broker)
        return -ENOMEM;
    broker->options = *options;
    broker->options.new_root = (struct kq_attributes){0};
    broker->dirfd = broker->lock_fd = -1;
    broker->data_dir = kq_strdup(options->data_dir);
    int r = broker->data_dir ? kq_pool_new("kqfs-sync", options->sync_threads, &broker->syncer)
                             : -ENOMEM;
    if (r < 0) {
        free(broker->data_dir);
        free(broker);
        return r;
    }
    broker->options.data_dir = broker->data_dir;
    kq_registry_init(&broker->registry, options->max_topics, options->max_partitions);
    kq_housekeeper_init(&broker->housekeeper);
    kq_cleaner_init(&broker->cleaner);
    pthread_rwlock_init(&broker->attributes_lock, NULL);
    pthread_mutex_init(&broker->root_change, NULL);
    pthread_mutex_init(&broker->checkpoint_lock, NULL);
    kq_producer_ids_init(&broker->producer_ids);
    *ret = broker;
    return 0;
}

static void tear_down(struct kq_broker *broker)
{
    kq_pool_free(broker->syncer);
    kq_quotas_close(broker->quotas);
    kq_users_close(broker->users);
    kq_datadir_close(broker);
    kq_registry_destroy(&broker->registry);
    kq_housekeeper_destroy(&broker->housekeeper);
    kq_cleaner_destroy(&broker->cleaner);
    pthread_rwlock_destroy(&broker->attributes_lock);
    pthread_mutex_destroy(&broker->root_change);
    pthread_mutex_destroy(&broker->checkpoint_lock);
    kq_producer_ids_destroy(&broker->producer_ids);
    kq_attributes_release(&broker->root);
    kq_buf_release(&broker->kafka.recovery.lines);
    kq_buf_release(&broker->kafka.starts.lines);
    free(broker->cluster_id);
    free(broker->data_dir);
    free(broker);
}

static int new_root(struct kq_broker *broker, const struct kq_attributes *attributes)
{
    int r = kq_attributes_copy(attributes, &broker->root);
    broker->root.mode = (broker->root.mode & 07777) | 01000;
    return r < 0 ? r : kq_store_write_root(broker->dirfd, &broker->root);
}

/* Of a directory that was Kafka's, the root is its owner's. */
static int root_of_kafka(struct kq_broker *broker)
{
    struct stat st;
    if (fstat(broker->dirfd, &st) < 0)
        return -errno;
    const struct kq_attributes attributes = {
        .uid = st.st_uid, .gid = st.st_gid, .mode = st.st_mode & 0777};
    return new_root(broker, &attributes);
}

static int load_root(struct kq_broker *broker, bool new, const struct kq_attributes *attributes)
{
    int r = kq_store_read_root(broker->dirfd, &broker->root);
    if (r == -ENOENT && broker->kafka.foreign) {
        r = root_of_kafka(broker);
    } else if (r == -ENOENT || r == -EBADMSG || r == -EFBIG || r == -EINVAL) {
        if (!new)
            kq_diag(LOG_WARNING,
                    "%s/" KQ_STORE_ROOT " is %s: the root has the owner and mode of a new one; set "
                    "them again if they were others",
                    broker->data_dir, r == -ENOENT ? "missing" : "damaged");
        r = new_root(broker, attributes);
    }
    if (r < 0)
        kq_diag(LOG_ERR, "cannot read or write %s/" KQ_STORE_ROOT ": %s", broker->data_dir,
                strerror(-r));
    return r;
}

static void share(struct kq_broker *broker)
{
    broker->shared = (struct kq_log_shared){
        .dirfd = broker->dirfd,
        .syncer = broker->syncer,
        .trail_bytes = broker->options.trail_bytes / 2,
        .max_open_files = broker->options.max_open_files,
        .max_producers = broker->options.max_producers,
        .producer_expiry_ms = broker->options.producer_expiry_ms,
        .producer_ids = &broker->producer_ids,
        .synced = note_synced,
        .context = broker,
    };
}

static int open_data(struct kq_broker *broker, const struct kq_broker_options *options)
{
    bool new;
    int r = kq_datadir_open(broker, &new);
    if (r == 0)
        r = load_root(broker, new, &options->new_root);
    if (r < 0)
        return r;
    share(broker);
    r = kq_producer_ids_read(&broker->producer_ids, broker->dirfd);
    if (r == 0)
        r = kq_quotas_open(&broker->options.quotas, broker->dirfd, &broker->quotas);
    if (r == 0)
        r = kq_users_open(broker->options.max_users, broker->dirfd, &broker->users);
    if (r == 0)
        r = kq_load(broker);
    if (r == 0)
        r = kq_datadir_begin(broker);
    if (r == 0)
        r = kq_housekeeper_start(broker);
    if (r == 0)
        r = kq_cleaner_start(broker);
    if (r == 0)
        r = kq_groups_open(broker);
    if (r < 0)
        kq_diag(LOG_ERR, "cannot start on the data in %s: %s", broker->data_dir, strerror(-r));
    return r;
}

int kq_broker_open(const struct kq_broker_options *options, struct kq_broker **ret)
{
    struct kq_broker *broker;
    int r = set_up(options, &broker);
    if (r < 0)
        return r;
    kq_broker_register_metrics();
    r = open_data(broker, options);
    if (r < 0)
        kq_broker_abandon(broker);
    else
        *ret = broker;
    return r;
}

_Thread_local unsigned kq_emit_line;

unsigned kq_emit_choose_line(void)
{
    static atomic_uint threads;
    do
        kq_emit_line = atomic_fetch_add(&threads, 1) + 1;
    while (kq_emit_line == 0);
    return kq_emit_line;
}

void kq_broker_listen(struct kq_broker *broker, struct kq_listener *listener)
{
    listener->next = NULL;
    struct kq_listener **last = &broker->listeners;
    while (*last)
        last = &(*last)->next;
    __atomic_store_n(last, listener, __ATOMIC_SEQ_CST); /* housekeeping has begun already */
}

/* Who begins to tell something after the listener left the list does not see it; who began before
 * is waited for. */
void kq_broker_unlisten(struct kq_broker *broker, struct kq_listener *listener)
{
    struct kq_listener **at = &broker->listeners;
    while (*at && *at != listener)
        at = &(*at)->next;
    if (*at)
        __atomic_store_n(at, listener->next, __ATOMIC_SEQ_CST);
    for (size_t i = 0; i < KQ_EMIT_LINES; i++)
        while (atomic_load(&broker->emitting[i].threads) > 0)
            sched_yield();
}

int kq_broker_statfs(struct kq_broker *broker, struct statvfs *ret)
{
    struct statvfs facts;
    if (fstatvfs(broker->dirfd, &facts) < 0)
        return -errno;
    *ret = facts;
    return 0;
}

const char *kq_broker_cluster_id(const struct kq_broker *broker)
{
    return broker->cluster_id;
}

int32_t kq_broker_node_id(const struct kq_broker *broker)
{
    return broker->node_id;
}

const char *kq_broker_data_dir(const struct kq_broker *broker)
{
    return broker->data_dir;
}

/* --- Closing --- */

/* Without an allocation: closing must not fail. */
static void for_all(struct kq_broker *broker, void (*step)(struct kq_partition *partition))
{
    for (size_t i = 0; i < broker->registry.count; i++)
        for (int32_t j = 0; j < kq_topic_partition_count(broker->registry.sorted[i]); j++)
            step(kq_topic_at(broker->registry.sorted[i], j));
}

static void end_waiters(struct kq_partition *partition)
{
    kq_waiters_end(&partition->waiters, KQ_WAKE_CLOSING, -ESHUTDOWN);
}

struct last_sync {
    struct kq_sync sync;
    pthread_mutex_t lock;
    pthread_cond_t done;
    bool finished;
    int error;
};

static void synced(struct kq_sync *sync, int error)
{
    struct last_sync *last = (struct last_sync *)sync;
    pthread_mutex_lock(&last->lock);
    last->finished = true;
    last->error = error;
    pthread_cond_signal(&last->done);
    pthread_mutex_unlock(&last->lock);
}

static int sync_log(struct kq_partition *partition, void *context)
{
    struct last_sync last = {.sync = {.done = synced}};
    pthread_mutex_init(&last.lock, NULL);
    pthread_cond_init(&last.done, NULL);
    int r = kq_log_sync(partition->log, &last.sync);
    pthread_mutex_lock(&last.lock);
    while (r == 0 && !last.finished)
        pthread_cond_wait(&last.done, &last.lock);
    pthread_mutex_unlock(&last.lock);
    pthread_mutex_destroy(&last.lock);
    pthread_cond_destroy(&last.done);
    if (r == 0)
        r = last.error;
    if (r < 0)
        kq_diag(LOG_ERR, "cannot sync %s-%d: %s; the next start checks its end",
                partition->topic->name, partition->number, strerror(-r));
    return r < 0 ? r : 0;
}

static void close_log(struct kq_partition *partition)
{
    if (partition->log)
        kq_log_close(partition->log);
    partition->log = NULL;
}

/* Topics that somebody still holds live on without the broker. */
static void forget_topics(struct kq_broker *broker)
{
    while (broker->registry.count > 0)
        kq_registry_remove(&broker->registry, broker->registry.sorted[broker->registry.count - 1]);
}

void kq_broker_abandon(struct kq_broker *broker)
{
    kq_groups_close(broker);
    kq_cleaner_stop(broker);
    kq_housekeeper_stop(broker);
    for_all(broker, close_log);
    forget_topics(broker);
    tear_down(broker);
}

void kq_broker_close(struct kq_broker *broker)
{
    kq_groups_close(broker);
    for_all(broker, end_waiters);
    kq_cleaner_stop(broker);
    kq_housekeeper_stop(broker);
    int r = kq_each_partition(broker, sync_log, NULL);
    if (r == 0)
        r = kq_broker_write_recovery_points(broker);
    if (r == 0)
        r = kq_broker_write_starts(broker);
    for_all(broker, close_log);
    if (r == 0)
        kq_datadir_mark_clean(broker);
    forget_topics(broker);
    tear_down(broker);
}
