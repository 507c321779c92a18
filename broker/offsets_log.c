/* What is written to one partition of __consumer_offsets: a queue that one thread at a time
 * empties.
 *
 * All that is queued goes into one batch (as far as it may be large); while that is being made
 * durable more gathers for the next. Writes complete in the order in which they were queued, which
 * is the order in the log; a group queues under its lock, so that log and memory agree. */
#include "broker/group.h"

#include "broker/base/clock.h"
#include "broker/base/diag.h"
#include "broker/base/mem.h"

#define BATCH_BYTES (1 << 20)   /* queued writes are gathered up to so much */
#define RECORD_OVERHEAD 32      /* of a record in a batch, at most: varints and attributes */
#define KEEP_BYTES (256 * 1024) /* of the batch's memory between writes */

void *kq_offsets_write_new(size_t size, struct kq_group *group)
{
    struct kq_group_write *write = kq_zalloc(size);
    if (write && group)
        write->group = kq_group_ref(group);
    return write;
}

void kq_offsets_write_free(struct kq_group_write *write)
{
    if (!write)
        return;
    kq_buf_release(&write->records);
    kq_group_unref(write->group);
    free(write);
}

/* --- Queueing --- */

static int64_t batch_limit(const struct kq_group_shard *shard)
{
    struct kq_topic_config config;
    kq_topic_config(kq_partition_topic(shard->access.partition), &config);
    return config.max_message_bytes;
}

/* What WRITE takes in a batch, at most. */
static void measure(struct kq_group_write *write)
{
    const uint8_t *at = write->records.data, *end = at + write->records.length;
    write->size = 0;
    while (at < end) {
        int32_t key = (int32_t)kq_load_be32(at);
        int32_t value = (int32_t)kq_load_be32(at + 4 + key);
        write->size += RECORD_OVERHEAD + key + (value > 0 ? value : 0);
        at += 8 + key + (value > 0 ? value : 0);
    }
}

/* The flag is asked under the lock that the drain takes: what it has not seen does not come. */
int kq_offsets_queue(struct kq_group_shard *shard, struct kq_group_write *write)
{
    measure(write);
    if (write->size + KQ_BATCH_HEADER > batch_limit(shard) && !write->splits)
        return KQ_GROUP_COMMIT_LARGE;
    pthread_mutex_lock(&shard->queue_lock);
    bool stopping = atomic_load(&shard->groups->stopping);
    if (!stopping) {
        write->next = NULL;
        *shard->queue_last = write;
        shard->queue_last = &write->next;
    }
    pthread_mutex_unlock(&shard->queue_lock);
    if (write->group)
        write->group->queued |= !stopping;
    return stopping ? KQ_GROUP_NOT_AVAILABLE : 0;
}

void kq_group_shard_kick(struct kq_group_shard *shard)
{
    pthread_mutex_lock(&shard->queue_lock);
    bool start = !shard->busy && shard->queue;
    shard->busy |= start;
    pthread_mutex_unlock(&shard->queue_lock);
    if (start)
        kq_pool_submit(shard->groups->pool, &shard->job);
}

/* --- Writing --- */

/* The writes of the next batch: as many as fit, at least one. */
static struct kq_group_write *gather(struct kq_group_shard *shard)
{
    int64_t limit = kq_min64(batch_limit(shard), BATCH_BYTES);
    pthread_mutex_lock(&shard->queue_lock);
    struct kq_group_write *first = shard->queue, *last = first;
    int64_t size = first ? first->size + KQ_BATCH_HEADER : 0;
    for (; last && last->next && size + last->next->size <= limit; last = last->next)
        size += last->next->size;
    if (last) {
        shard->queue = last->next;
        last->next = NULL;
    }
    if (!shard->queue)
        shard->queue_last = &shard->queue;
    if (!first) {
        shard->busy = false;
        pthread_cond_broadcast(&shard->idle);
    }
    pthread_mutex_unlock(&shard->queue_lock);
    return first;
}

/* One record of WRITE at *AT, which moves on. */
static int add_record(struct kq_batch_builder *builder, int64_t now_ms, const uint8_t **at)
{
    int32_t key_length = (int32_t)kq_load_be32(*at);
    const uint8_t *key = *at + 4, *value = key + key_length + 4;
    int32_t value_length = (int32_t)kq_load_be32(value - 4);
    *at = value + (value_length > 0 ? value_length : 0);
    return kq_batch_add(builder, now_ms, key, key_length, value_length < 0 ? NULL : value,
                        value_length, NULL, 0, 0);
}

static int append_batch(struct kq_group_shard *shard, struct kq_batch_builder *builder)
{
    struct kq_log_appended appended;
    kq_batch_finish(builder);
    struct kq_log_append batch = {
        .bytes = shard->batch.data, .length = shard->batch.length, .text_length = -1};
    return kq_append(&shard->access, &batch, &appended);
}

/* Appends the batch if it has passed LIMIT, and begins the next. */
static int maybe_split(struct kq_group_shard *shard, struct kq_batch_builder *builder,
                       int64_t limit)
{
    if ((int64_t)shard->batch.length < limit)
        return 0;
    int r = append_batch(shard, builder);
    if (r < 0)
        return r;
    kq_buf_clear(&shard->batch, KEEP_BYTES);
    return kq_batch_begin(builder, &shard->batch, 0);
}

/* One batch, unless there is a write that may be split. */
static int append(struct kq_group_shard *shard, const struct kq_group_write *write)
{
    struct kq_batch_builder builder;
    int64_t now_ms = kq_clock_wall_ms(), limit = batch_limit(shard) / 2;
    kq_buf_clear(&shard->batch, KEEP_BYTES);
    int r = kq_batch_begin(&builder, &shard->batch, 0);
    for (; r == 0 && write; write = write->next) {
        const uint8_t *at = write->records.data, *end = at + write->records.length;
        while (r == 0 && at < end) {
            if (write->splits)
                r = maybe_split(shard, &builder, limit);
            if (r == 0)
                r = add_record(&builder, now_ms, &at);
        }
    }
    return r < 0 ? r : append_batch(shard, &builder);
}

static void complete(struct kq_group_write *write, int result)
{
    for (struct kq_group_write *next; write; write = next) {
        next = write->next;
        write->result = result;
        write->complete(write);
    }
}

/* Durable, or failed. What cannot be made durable may yet be found after a restart: whoever waits
 * is told that it failed, and repeats it. */
static void finish(struct kq_group_shard *shard, int result)
{
    struct kq_group_write *writes = shard->under_way;
    shard->under_way = NULL;
    complete(writes, result);
}

/* True: they are durable or failed, and the next may follow. */
static bool write_one(struct kq_group_shard *shard, struct kq_group_write *writes)
{
    int r = append(shard, writes);
    shard->under_way = writes;
    if (r == KQ_MUST_SYNC) {
        r = kq_sync(shard->access.partition, &shard->sync);
        if (r == 0)
            return false;
    }
    finish(shard, r < 0 ? r : 0);
    return true;
}

void kq_group_shard_run_queue(struct kq_job *job)
{
    struct kq_group_shard *shard =
        (struct kq_group_shard *)((char *)job - offsetof(struct kq_group_shard, job));
    struct kq_group_write *writes;
    while ((writes = gather(shard)) && write_one(shard, writes))
        ;
}

void kq_group_shard_synced(struct kq_sync *sync, int error)
{
    struct kq_group_shard *shard =
        (struct kq_group_shard *)((char *)sync - offsetof(struct kq_group_shard, sync));
    finish(shard, error);
    kq_pool_submit(shard->groups->pool, &shard->job);
}

void kq_group_shard_drain(struct kq_group_shard *shard)
{
    pthread_mutex_lock(&shard->queue_lock);
    while (shard->busy || shard->queue)
        pthread_cond_wait(&shard->idle, &shard->queue_lock);
    pthread_mutex_unlock(&shard->queue_lock);
}
