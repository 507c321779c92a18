/* Partitions: the door's calls on one, each of which goes to its log. */
#include "broker/internal.h"

#include <fcntl.h>
#include <limits.h>
#include <stdio.h>

#include "broker/base/crc32c.h"
#include "broker/base/io.h"
#include "broker/base/mem.h"

/* --- Making --- */

void kq_partition_directory(const char *topic, int32_t number, char ret[KQ_DIRECTORY_BYTES])
{
    snprintf(ret, KQ_DIRECTORY_BYTES, "%s-%d", topic, number);
}

int kq_partition_new(struct kq_topic *topic, int32_t number, struct kq_partition **ret)
{
    static _Atomic uint64_t last_serial;
    struct kq_partition *partition = kq_zalloc(sizeof(*partition));
    if (!partition)
        return -ENOMEM;
    partition->serial = atomic_fetch_add_explicit(&last_serial, 1, memory_order_relaxed) + 1;
    partition->topic = topic;
    partition->number = number;
    partition->appointment.due_ms = INT64_MAX;
    partition->cleaning.first_dirty = -1;
    pthread_mutex_init(&partition->renderings_lock, NULL);
    kq_waiters_init(&partition->waiters);
    *ret = partition;
    return 0;
}

void kq_partition_free(struct kq_partition *partition)
{
    if (!partition)
        return;
    kq_attributes_release(&partition->attributes);
    kq_waiters_destroy(&partition->waiters);
    pthread_mutex_destroy(&partition->renderings_lock);
    free(partition->renderings);
    free(partition);
}

/* Kafka writes no newline at the end. */
static bool has_content(int dirfd, const char *path, const char *text)
{
    kq_autobuf struct kq_buf now = {0};
    size_t length = strlen(text);
    return kq_io_slurp(dirfd, path, 4096, &now) == 0 &&
           (now.length == length || now.length + 1 == length) &&
           memcmp(now.data, text, now.length) == 0;
}

/* A file that is right stays as it is: a start looks at thousands of them. */
static int write_small_file(int dirfd, const char *directory, const char *name, const char *text,
                            bool replace)
{
    char path[KQ_DIRECTORY_BYTES + 32];
    snprintf(path, sizeof(path), "%s/%s", directory, name);
    if (replace && has_content(dirfd, path, text))
        return 0;
    int flags = O_WRONLY | O_CREAT | O_NOFOLLOW | (replace ? O_TRUNC : O_EXCL);
    kq_autoclose int fd = kq_io_open(dirfd, path, flags, 0600);
    if (fd == -EEXIST && !replace)
        return 0;
    return fd < 0 ? fd : kq_io_pwrite(fd, text, strlen(text), 0);
}

/* None of them is synced: all can be made again from the topic's metadata. */
int kq_partition_write_metadata(struct kq_partition *partition)
{
    char directory[KQ_DIRECTORY_BYTES], id[KQ_UUID_TEXT + 1], text[64];
    kq_partition_directory(partition->topic->name, partition->number, directory);
    kq_uuid_format(partition->topic->id, id);
    snprintf(text, sizeof(text), "version: 0\ntopic_id: %s\n", id);
    int dirfd = partition->topic->broker->dirfd;
    int r = write_small_file(dirfd, directory, "partition.metadata", text, true);
    if (r == 0)
        r = write_small_file(dirfd, directory, "leader-epoch-checkpoint", "0\n1\n0 0\n", false);
    return r;
}

int kq_partition_make_directory(struct kq_partition *partition)
{
    char directory[KQ_DIRECTORY_BYTES];
    kq_partition_directory(partition->topic->name, partition->number, directory);
    int r = kq_io_mkdir(partition->topic->broker->dirfd, directory, 0700);
    return r < 0 && r != -EEXIST ? r : kq_partition_write_metadata(partition);
}

/* Rolls by time of partitions that were filled together are spread over the jitter, always the same
 * way for one partition. */
void kq_partition_log_config(const struct kq_partition *partition,
                             const struct kq_topic_config *config, struct kq_log_config *ret)
{
    int64_t jitter = kq_min64(config->segment_jitter_ms, config->log.segment_ms - 1);
    uint32_t spread = kq_crc32c((uint32_t)partition->number, partition->topic->id, KQ_UUID_BYTES);
    *ret = config->log;
    if (jitter > 0)
        ret->segment_ms -= (int64_t)((double)spread / UINT32_MAX * (double)jitter);
}

int kq_partition_open(struct kq_partition *partition, const struct kq_log_checkpoint *checkpoint,
                      struct kq_log_recovery *ret)
{
    char directory[KQ_DIRECTORY_BYTES];
    struct kq_topic_config topic_config;
    struct kq_log_config config;
    kq_partition_directory(partition->topic->name, partition->number, directory);
    kq_topic_config(partition->topic, &topic_config);
    kq_partition_log_config(partition, &topic_config, &config);
    return kq_log_open(&partition->topic->broker->shared, directory, &config, partition->renderings,
                       checkpoint, ret, &partition->log);
}

void kq_partition_put_renderings(struct kq_partition *partition, struct kq_renderings *renderings)
{
    struct kq_renderings *old = partition->renderings;
    const struct kq_rendering *newest = &renderings->at[renderings->count - 1];
    pthread_mutex_lock(&partition->renderings_lock);
    partition->renderings = renderings;
    kq_snapshot_store(&partition->newest.sequence, partition->newest.words, newest,
                      sizeof(*newest));
    pthread_mutex_unlock(&partition->renderings_lock);
    if (partition->log)
        kq_log_set_renderings(partition->log, renderings);
    free(old);
}

/* --- References --- */

int kq_partition_get(struct kq_topic *topic, int32_t number, struct kq_partition **ret)
{
    if (number < 0 || number >= kq_topic_partition_count(topic))
        return -ENOENT;
    *ret = kq_partition_ref(kq_topic_at(topic, number));
    return 0;
}

/* A partition lives as long as its topic. */
struct kq_partition *kq_partition_ref(struct kq_partition *partition)
{
    kq_topic_ref(partition->topic);
    return partition;
}

void kq_partition_unref(struct kq_partition *partition)
{
    if (partition)
        kq_topic_unref(partition->topic);
}

struct kq_topic *kq_partition_topic(const struct kq_partition *partition)
{
    return partition->topic;
}

int32_t kq_partition_number(const struct kq_partition *partition)
{
    return partition->number;
}

int kq_partition_access(struct kq_partition *partition, const struct kq_caller *caller,
                        unsigned rights, struct kq_access *ret)
{
    struct kq_topic *topic = partition->topic;
    if (atomic_load(&topic->deleted))
        return -ESTALE;
    int r = kq_authorize(topic->broker, caller, rights, topic, partition);
    if (r == 0)
        *ret = (struct kq_access){.partition = partition, .rights = rights};
    return r;
}

/* --- Using the log --- */

/* A closed guard says that the topic is paused or deleted: who holds PAUSE knows which. */
static int enter_slow(struct kq_partition *partition)
{
    struct kq_topic *topic = partition->topic;
    do {
        pthread_mutex_lock(&topic->pause);
        pthread_mutex_unlock(&topic->pause);
        if (atomic_load(&topic->deleted))
            return -ESTALE;
    } while (!kq_guard_enter(&partition->guard));
    return 0;
}

int kq_partition_enter(struct kq_partition *partition)
{
    return kq_likely(kq_guard_enter(&partition->guard)) ? 0 : enter_slow(partition);
}

/* RIGHTS: any of them will do. */
static int enter_as(const struct kq_access *access, unsigned rights)
{
    return kq_likely(access->rights & rights) ? kq_partition_enter(access->partition) : -EACCES;
}

static int leave(struct kq_partition *partition, int r)
{
    kq_guard_leave(&partition->guard);
    return r;
}

static void count(struct kq_partition *partition, size_t length,
                  const struct kq_log_appended *appended)
{
    atomic_fetch_add_explicit(&partition->appended_batches, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&partition->appended_messages,
                              appended->next_offset - appended->base_offset, memory_order_relaxed);
    atomic_fetch_add_explicit(&partition->appended_bytes, (int64_t)length, memory_order_relaxed);
}

int kq_append(const struct kq_access *access, const struct kq_log_append *append,
              struct kq_log_appended *ret)
{
    struct kq_partition *partition = access->partition;
    if (append->length > INT32_MAX)
        return -EMSGSIZE;
    struct kq_log_appended appended;
    struct kq_log_bounds bounds;
    int r = enter_as(access, KQ_RIGHT_WRITE);
    if (r < 0)
        return r;
    r = kq_log_append(partition->log, append, &appended);
    bool done = (r == 0 || r == KQ_MUST_SYNC) && !appended.duplicate;
    bool waited_for = done && kq_unlikely(kq_waiters_any(&partition->waiters));
    if (waited_for)
        kq_log_bounds(partition->log, &bounds);
    kq_guard_leave(&partition->guard);
    if (r < 0) {
        atomic_fetch_add_explicit(&partition->append_errors, 1, memory_order_relaxed);
        return r;
    }
    if (!done) {
        if (r == 0 || r == KQ_MUST_SYNC)
            *ret = appended;
        return r;
    }
    count(partition, append->length, &appended);
    kq_partition_touch(partition);
    if (waited_for)
        kq_waiters_wake(&partition->waiters, bounds.last_stable, bounds.end);
    kq_broker_emit(partition->topic->broker, KQ_EVENT_APPENDED, partition->topic, partition);
    *ret = appended;
    return r;
}

int kq_reserve(const struct kq_access *access, int64_t delta)
{
    int r = enter_as(access, KQ_RIGHT_WRITE);
    return r < 0 ? r : leave(access->partition, kq_log_reserve(access->partition->log, delta));
}

int kq_sync(struct kq_partition *partition, struct kq_sync *sync)
{
    int r = kq_partition_enter(partition);
    return r < 0 ? r : leave(partition, kq_log_sync(partition->log, sync));
}

void kq_bounds(struct kq_partition *partition, struct kq_log_bounds *ret)
{
    if (kq_partition_enter(partition) < 0) {
        *ret = partition->last_bounds;
        return;
    }
    kq_log_bounds(partition->log, ret);
    kq_guard_leave(&partition->guard);
}

int kq_text_bounds(struct kq_partition *partition, bool may_block, struct kq_log_text_bounds *ret)
{
    int r = kq_partition_enter(partition);
    return r < 0 ? r : leave(partition, kq_log_text_bounds(partition->log, may_block, ret));
}

int kq_text_of_offset(struct kq_partition *partition, int64_t offset, bool may_block, int64_t *ret)
{
    int r = kq_partition_enter(partition);
    return r < 0 ? r
                 : leave(partition, kq_log_text_of_offset(partition->log, offset, may_block, ret));
}

int kq_text_next(struct kq_partition *partition, int64_t text, bool may_block, int64_t *ret)
{
    int r = kq_partition_enter(partition);
    return r < 0 ? r : leave(partition, kq_log_next_text(partition->log, text, may_block, ret));
}

int kq_text_pack(struct kq_partition *partition, int64_t text, bool may_block, int64_t *ret_packed,
                 uint64_t *ret_layout)
{
    int r = kq_partition_enter(partition);
    return r < 0 ? r
                 : leave(partition,
                         kq_log_pack(partition->log, text, may_block, ret_packed, ret_layout));
}

int kq_text_unpack(struct kq_partition *partition, int64_t packed, uint64_t layout, bool may_block,
                   int64_t *ret_text)
{
    int r = kq_partition_enter(partition);
    return r < 0 ? r
                 : leave(partition,
                         kq_log_unpack(partition->log, packed, layout, may_block, ret_text));
}

/* --- Reading --- */

static int enter_to_read(const struct kq_access *access, unsigned rights)
{
    int r = enter_as(access, rights);
    if (r == 0)
        kq_partition_touch(access->partition);
    return r;
}

int kq_read(const struct kq_access *access, int64_t offset, uint32_t max_bytes, bool want_text,
            bool may_block, struct kq_extent *ret)
{
    struct kq_partition *partition = access->partition;
    int r = enter_to_read(access, KQ_RIGHT_READ);
    return r < 0 ? r
                 : leave(partition,
                         kq_log_read(partition->log, offset, max_bytes, want_text, may_block, ret));
}

int kq_read_next(const struct kq_access *access, const struct kq_extent *before, uint32_t max_bytes,
                 struct kq_extent *ret)
{
    struct kq_partition *partition = access->partition;
    int r = enter_to_read(access, KQ_RIGHT_READ);
    return r < 0 ? r : leave(partition, kq_log_read_next(partition->log, before, max_bytes, ret));
}

int kq_read_text(const struct kq_access *access, int64_t text, uint32_t max_bytes, bool may_block,
                 struct kq_extent *ret)
{
    struct kq_partition *partition = access->partition;
    int r = enter_to_read(access, KQ_RIGHT_READ);
    return r < 0 ? r
                 : leave(partition,
                         kq_log_read_text(partition->log, text, max_bytes, may_block, ret));
}

int kq_find_time(const struct kq_access *access, int64_t timestamp_ms, bool may_block,
                 int64_t *ret_offset, int64_t *ret_timestamp)
{
    struct kq_partition *partition = access->partition;
    int r = enter_to_read(access, KQ_RIGHT_READ | KQ_RIGHT_DESCRIBE);
    return r < 0 ? r
                 : leave(partition, kq_log_find_time(partition->log, timestamp_ms, may_block,
                                                     ret_offset, ret_timestamp));
}

int kq_find_newest(const struct kq_access *access, bool may_block, int64_t *ret_offset,
                   int64_t *ret_timestamp)
{
    struct kq_partition *partition = access->partition;
    int r = enter_to_read(access, KQ_RIGHT_READ | KQ_RIGHT_DESCRIBE);
    return r < 0 ? r
                 : leave(partition,
                         kq_log_find_newest(partition->log, may_block, ret_offset, ret_timestamp));
}

int kq_next_range(struct kq_partition *partition, int64_t from, bool may_block,
                  struct kq_log_range *ret)
{
    int r = kq_partition_enter(partition);
    return r < 0 ? r : leave(partition, kq_log_next_range(partition->log, from, may_block, ret));
}

void kq_partition_rendering(struct kq_partition *partition, int64_t offset,
                            struct kq_rendering *ret, int64_t *ret_until)
{
    int64_t until = INT64_MAX;
    kq_snapshot_load(&partition->newest.sequence, partition->newest.words, ret, sizeof(*ret));
    if (offset < ret->from_offset) {
        pthread_mutex_lock(&partition->renderings_lock);
        *ret = *kq_rendering_at(partition->renderings, offset, &until);
        pthread_mutex_unlock(&partition->renderings_lock);
    }
    if (ret_until)
        *ret_until = until;
}

/* --- Dropping and waiting --- */

int kq_delete_records(struct kq_partition *partition, const struct kq_caller *caller,
                      int64_t offset)
{
    struct kq_broker *broker = partition->topic->broker;
    struct kq_log_bounds before, after;
    int r = kq_partition_enter(partition);
    if (r < 0)
        return r;
    r = kq_authorize(broker, caller, KQ_RIGHT_DELETE_RECORDS, partition->topic, partition);
    if (r < 0)
        return leave(partition, r);
    kq_log_bounds(partition->log, &before);
    r = kq_log_delete_before(partition->log, offset < 0 ? before.end : offset);
    kq_log_bounds(partition->log, &after);
    kq_guard_leave(&partition->guard);
    if (after.start == before.start)
        return r;
    if (r == 0)
        r = kq_broker_write_starts(broker);
    kq_broker_emit(broker, KQ_EVENT_START_MOVED, partition->topic, partition);
    return r;
}

static int64_t last_stable(void *context)
{
    struct kq_partition *partition = context;
    struct kq_log_bounds bounds;
    kq_log_bounds(partition->log, &bounds);
    return bounds.last_stable;
}

static int64_t end(void *context)
{
    struct kq_partition *partition = context;
    struct kq_log_bounds bounds;
    kq_log_bounds(partition->log, &bounds);
    return bounds.end;
}

int kq_wait(struct kq_partition *partition, struct kq_waiter *waiter, int64_t offset)
{
    int r = kq_partition_enter(partition);
    if (r < 0)
        return r;
    waiter->partition = partition;
    return leave(partition, kq_waiters_arm(&partition->waiters, waiter, offset,
                                           waiter->unstable ? end : last_stable, partition));
}

int kq_unwait(struct kq_waiter *waiter)
{
    return kq_waiters_disarm(&waiter->partition->waiters, waiter);
}
