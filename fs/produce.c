#include "fs/produce.h"

#include <time.h>

#include "broker/base/clock.h"
#include "broker/base/diag.h"
#include "broker/base/mem.h"
#include "broker/produce.h"
#include "fs/frame.h"
#include "fs/partitioner.h"
#include "fs/scratch.h"

#define RESERVE_STEP 4096 /* disk for half lines, so that few of them ask the log */
#define PAGE 4096
#define CLOSE_TRIES 10        /* to get memory for what a close ends: after 1, 2, 4 … 512 ms */
#define OUTPUT_KEEP (4 << 20) /* bytes of a batch that a thread keeps for the next request */

struct target {
    struct kq_partition *partition; /* referenced; NULL: not asked for yet */
    struct kq_access access;        /* without rights where the caller may not write */
    bool written;
};

struct kq_producer {
    pthread_mutex_t lock;
    struct kq_handle *handle;
    struct kq_frame frame;
    bool picks;             /* `append`: by key, or one after the other */
    struct target *targets; /* by partition number where it picks, else one */
    int32_t target_count;
    struct kq_sticky sticky;
    int32_t keyless;         /* the partition for messages without key of this request */
    struct kq_caller caller; /* of open(2); its groups are ours */
    int64_t charged;         /* of the mount's pending bytes */
    int64_t reserved;        /* bytes of disk, on RESERVED_ON */
    struct kq_access reserved_on;
    struct kq_fspart *flushed; /* referenced; counted in its FLUSHED_PENDING */
    bool announced;            /* counted in its RELEASING */
};

/* --- Where messages go --- */

static int grow_targets(struct kq_producer *producer, int32_t count)
{
    struct target *targets = kq_realloc(producer->targets, (size_t)count * sizeof(*targets));
    if (!targets)
        return -ENOMEM;
    for (int32_t i = producer->target_count; i < count; i++)
        targets[i] = (struct target){0};
    producer->targets = targets;
    producer->target_count = count;
    return 0;
}

static int ask_for_target(struct kq_producer *producer, int32_t number, struct target *target)
{
    struct kq_partition *partition;
    int r = kq_partition_get(producer->handle->topic, number, &partition);
    if (r < 0)
        return r;
    r = kq_partition_access(partition, &producer->caller, KQ_RIGHT_WRITE, &target->access);
    if (r < 0 && r != -EACCES && r != -EPERM) {
        kq_partition_unref(partition);
        return r;
    }
    target->partition = partition;
    return 0;
}

/* 0; -EACCES where the caller may not write there. */
static int target_of(struct kq_producer *producer, int32_t number, struct target **ret)
{
    int r = 0;
    if (!producer->picks) {
        *ret = producer->targets;
        return 0;
    }
    if (number >= producer->target_count) {
        int32_t count = kq_topic_partition_count(producer->handle->topic);
        r = grow_targets(producer, count > number ? count : number + 1);
        if (r < 0)
            return r;
    }
    struct target *target = &producer->targets[number];
    if (!target->partition)
        r = ask_for_target(producer, number, target);
    if (r < 0)
        return r;
    if (!(target->access.rights & KQ_RIGHT_WRITE))
        return -EACCES;
    *ret = target;
    return 0;
}

static bool may_write(void *context, int32_t partition)
{
    struct target *target;
    return target_of(context, partition, &target) == 0;
}

/* The partition for a batch of BYTES of messages without key. */
static int choose(struct kq_producer *producer, size_t bytes, int32_t *ret)
{
    if (!producer->picks) {
        *ret = 0;
        return 0;
    }
    return kq_sticky_choose(&producer->sticky, kq_topic_partition_count(producer->handle->topic),
                            bytes, may_write, producer, ret);
}

/* --- Room for what is pending --- */

/* Bytes in memory, of all handles of the mount. */
static int charge(struct kq_producer *producer, int64_t pending)
{
    struct kq_fs *fs = producer->handle->fs;
    int64_t delta = pending - producer->charged;
    if (delta == 0)
        return 0;
    int64_t before = atomic_fetch_add(&fs->handles->pending_bytes, delta);
    if (delta > 0 && before + delta > fs->options.max_pending_bytes) {
        atomic_fetch_sub(&fs->handles->pending_bytes, delta);
        return -ENOBUFS;
    }
    producer->charged = pending;
    return 0;
}

static int set_disk_aside(struct kq_producer *producer, int64_t pending)
{
    int64_t bytes = kq_frame_reserve_bytes(pending);
    struct target *target = NULL;
    int32_t number;
    int r = 0;
    if (bytes <= producer->reserved)
        return 0;
    if (!producer->reserved_on.partition) {
        r = choose(producer, 0, &number);
        if (r == 0)
            r = target_of(producer, number, &target);
        if (r != 0)
            return r;
        producer->reserved_on = target->access;
    }
    bytes = (bytes + RESERVE_STEP - 1) / RESERVE_STEP * RESERVE_STEP;
    r = kq_reserve(&producer->reserved_on, bytes - producer->reserved);
    if (r == 0)
        producer->reserved = bytes;
    return r;
}

static void give_disk_back(struct kq_producer *producer)
{
    if (producer->reserved > 0)
        kq_reserve(&producer->reserved_on, -producer->reserved);
    producer->reserved = 0;
    producer->reserved_on = (struct kq_access){0};
}

/* --- Appending --- */

static int32_t number_of(const struct kq_producer *producer, const struct kq_frame_batch *batch)
{
    return batch->partition < 0 ? producer->keyless : batch->partition;
}

/* Every batch gets its partition before any is appended: a denied one must not leave the others. */
static int direct_batches(struct kq_producer *producer, struct kq_frame_output *output)
{
    for (size_t i = 0; i < output->count; i++) {
        const struct kq_frame_batch *batch = &output->batches[i];
        struct target *target;
        int r = 0;
        if (batch->partition < 0)
            r = choose(producer, batch->bytes.length, &producer->keyless);
        if (r == 0)
            r = target_of(producer, number_of(producer, batch), &target);
        if (r < 0)
            return r;
    }
    return 0;
}

/* LAST: it is the close, nothing will be pending. 0; KQ_MUST_SYNC; -errno. */
static int append_batch(struct kq_producer *producer, const struct kq_topic_config *config,
                        struct kq_frame_batch *batch, bool last)
{
    kq_autobuf struct kq_buf compressed = {0};
    struct target *target;
    struct kq_log_appended appended;
    int r = target_of(producer, number_of(producer, batch), &target);
    if (r < 0)
        return r;
    struct kq_log_append append = {.bytes = batch->bytes.data,
                                   .length = batch->bytes.length,
                                   .text_length = batch->text_length,
                                   .rendering = &config->text};
    if (kq_unlikely(config->compression > 0) &&
        kq_produce_compress(config, append.bytes, append.length, &compressed) == 0) {
        append.bytes = compressed.data;
        append.length = compressed.length;
    }
    if (last && producer->reserved_on.partition == target->access.partition)
        append.unreserve = producer->reserved;
    else if (last)
        give_disk_back(producer);
    r = kq_append(&target->access, &append, &appended);
    if (r < 0)
        return r;
    target->written = true;
    if (append.unreserve) {
        producer->reserved = 0;
        producer->reserved_on = (struct kq_access){0};
    }
    return r;
}

/* 0; KQ_MUST_SYNC; -errno. */
static int append_batches(struct kq_producer *producer, const struct kq_topic_config *config,
                          struct kq_frame_output *output)
{
    int r = direct_batches(producer, output), result = r;
    for (size_t i = 0; i < output->count && r >= 0; i++) {
        r = append_batch(producer, config, &output->batches[i], false);
        result = r != 0 ? r : result;
    }
    return result;
}

static void describe(struct kq_producer *producer, const struct kq_topic_config *config,
                     struct kq_frame_request *ret)
{
    int32_t partitions = producer->picks ? kq_topic_partition_count(producer->handle->topic) : 0;
    *ret = (struct kq_frame_request){
        .rendering = &config->text,
        .max_message_bytes = config->max_message_bytes,
        .timestamp_ms = kq_clock_wall_ms(),
        .attributes = config->log_append_time ? KQ_ATTRIBUTE_LOG_APPEND_TIME : 0,
        .json = producer->handle->row->format == KQ_FORMAT_JSONL,
        .needs_key = config->compact,
        .partitions = partitions > 1 ? partitions : 0,
    };
    kq_timestamp_bounds(ret->timestamp_ms, config->timestamp_before_max_ms,
                        config->timestamp_after_max_ms, &ret->oldest_ms, &ret->newest_ms);
}

static void unmark(struct kq_producer *producer)
{
    struct kq_fspart *part = producer->flushed;
    if (!part)
        return;
    producer->flushed = NULL;
    if (producer->announced)
        kq_handles_released(producer->handle->fs->handles, part);
    producer->announced = false;
    atomic_fetch_sub(&part->flushed_pending, 1);
    kq_fspart_unref(producer->handle->fs->nodes, part);
}

/* OUTPUT is NULL where there is no memory for one. */
static int produce(struct kq_producer *producer, struct kq_frame_output *output, const void *bytes,
                   size_t size)
{
    struct kq_topic_config config;
    struct kq_frame_request request;
    struct kq_frame_result result;
    kq_topic_config(producer->handle->topic, &config);
    describe(producer, &config, &request);
    request.may_be_fragment = size + PAGE >= producer->handle->fs->options.max_write;
    if (!output) {
        kq_frame_refuse(&producer->frame, &request, bytes, size, -ENOMEM);
        charge(producer, 0);
        return -ENOMEM;
    }
    int r = kq_frame_write(&producer->frame, &request, bytes, size, output, &result);
    if (r < 0) {
        charge(producer, kq_frame_pending(&producer->frame));
        return r;
    }
    r = charge(producer, result.pending_after);
    if (r == 0 && result.pending_after > 0)
        r = set_disk_aside(producer, result.pending_after);
    if (r == 0)
        r = append_batches(producer, &config, output);
    if (r < 0) {
        kq_frame_abort(&producer->frame, r);
        charge(producer, 0);
    }
    return r;
}

int kq_produce(struct kq_producer *producer, const void *bytes, size_t size)
{
    struct kq_scratch *scratch = kq_scratch();
    pthread_mutex_lock(&producer->lock);
    unmark(producer);
    int r = produce(producer, scratch ? &scratch->output : NULL, bytes, size);
    pthread_mutex_unlock(&producer->lock);
    if (scratch)
        kq_frame_output_trim(&scratch->output, OUTPUT_KEEP);
    return r;
}

/* --- The close --- */

/* The partition that the pending bytes will go to, if they stay as they are. */
static int pending_partition(struct kq_producer *producer, struct kq_partition **ret)
{
    struct kq_topic_config config;
    const struct kq_buf *pending = &producer->frame.pending;
    struct target *target;
    int32_t number;
    kq_topic_config(producer->handle->topic, &config);
    const uint8_t *separator = producer->picks && config.text.separator_length
                                   ? memmem(pending->data, pending->length, config.text.separator,
                                            config.text.separator_length)
                                   : NULL;
    int r = 0;
    if (separator)
        number = kq_partition_of_key(pending->data, (size_t)(separator - pending->data),
                                     kq_topic_partition_count(producer->handle->topic));
    else
        r = choose(producer, 0, &number);
    if (r == 0)
        r = target_of(producer, number, &target);
    if (r == 0)
        *ret = target->access.partition;
    return r;
}

void kq_produce_flush(struct kq_producer *producer)
{
    struct kq_handle *handle = producer->handle;
    struct kq_partition *partition;
    struct kq_fspart *part = NULL;
    pthread_mutex_lock(&producer->lock);
    unmark(producer);
    if (kq_frame_pending(&producer->frame) > 0) {
        if (handle->part)
            part = kq_fspart_ref(handle->part);
        else if (pending_partition(producer, &partition) == 0)
            kq_fspart_get(handle->fs->nodes, partition, &part);
        if (part)
            atomic_fetch_add(&part->flushed_pending, 1);
        producer->flushed = part;
    }
    pthread_mutex_unlock(&producer->lock);
}

void kq_produce_announce(struct kq_producer *producer)
{
    pthread_mutex_lock(&producer->lock);
    if (producer->flushed) {
        atomic_fetch_add(&producer->flushed->releasing, 1);
        producer->announced = true;
    }
    pthread_mutex_unlock(&producer->lock);
}

/* Who closed has gone and will not try again: what waits is worth waiting for memory. */
static bool try_again(int r, unsigned *tries)
{
    if (r != -ENOMEM || *tries == CLOSE_TRIES)
        return false;
    struct timespec pause = {.tv_nsec = 1000000L << (*tries)++};
    nanosleep(&pause, NULL);
    return true;
}

/* Nothing is appended twice: each step is done before the next begins. */
static int finish(struct kq_producer *producer, struct kq_frame_output *output, unsigned *tries)
{
    struct kq_topic_config config;
    struct kq_frame_request request;
    struct kq_frame_result result;
    int r, must_sync = 0;
    kq_topic_config(producer->handle->topic, &config);
    describe(producer, &config, &request);
    do
        r = kq_frame_finish(&producer->frame, &request, output, &result);
    while (try_again(r, tries));
    while (r == 0 && try_again(r = direct_batches(producer, output), tries))
        r = 0;
    for (size_t i = 0; i < output->count && r >= 0; i++) {
        do
            r = append_batch(producer, &config, &output->batches[i], true);
        while (try_again(r, tries));
        must_sync = r != 0 ? r : must_sync;
    }
    return r < 0 ? r : must_sync;
}

static int finish_pending(struct kq_producer *producer)
{
    unsigned tries = 0;
    struct kq_scratch *scratch;
    while (!(scratch = kq_scratch()))
        if (!try_again(-ENOMEM, &tries))
            return -ENOMEM;
    int r = finish(producer, &scratch->output, &tries);
    kq_frame_output_trim(&scratch->output, OUTPUT_KEEP);
    return r;
}

int kq_produce_finish(struct kq_producer *producer)
{
    pthread_mutex_lock(&producer->lock);
    int64_t pending = kq_frame_pending(&producer->frame);
    int r = pending > 0 ? finish_pending(producer) : 0;
    charge(producer, 0);
    give_disk_back(producer);
    unmark(producer);
    pthread_mutex_unlock(&producer->lock);
    if (r < 0 && r != -ESTALE)
        kq_diag_limited(1000, LOG_ERR,
                        "%s: lost the last %lld bytes of a file that was closed without a "
                        "delimiter: %s",
                        kq_topic_name(producer->handle->topic), (long long)pending, strerror(-r));
    return r;
}

int32_t kq_produce_written(struct kq_producer *producer, struct kq_partition **ret, int32_t max)
{
    int32_t count = 0;
    pthread_mutex_lock(&producer->lock);
    for (int32_t i = 0; i < producer->target_count && count < max; i++)
        if (producer->targets[i].written)
            ret[count++] = producer->targets[i].access.partition;
    pthread_mutex_unlock(&producer->lock);
    return count;
}

/* --- Open and free --- */

static int copy_caller(struct kq_producer *producer, const struct kq_caller *caller)
{
    producer->caller = (struct kq_caller){.uid = caller->uid, .gid = caller->gid};
    if (caller->group_count == 0)
        return 0;
    gid_t *groups = kq_memdup(caller->groups, caller->group_count * sizeof(*groups));
    if (!groups)
        return -ENOMEM;
    producer->caller.groups = groups;
    producer->caller.group_count = caller->group_count;
    return 0;
}

/* `append`: the partitions are asked for as they are needed, one at least now. */
static int open_targets(struct kq_producer *producer, const struct kq_caller *caller)
{
    int32_t any;
    if (producer->picks) {
        int r = copy_caller(producer, caller);
        return r < 0 ? r : choose(producer, 0, &any);
    }
    int r = grow_targets(producer, 1);
    if (r == 0) {
        producer->targets[0].partition = kq_partition_ref(producer->handle->access.partition);
        producer->targets[0].access = producer->handle->access;
    }
    return r;
}

int kq_producer_new(struct kq_handle *handle, const struct kq_caller *caller,
                    struct kq_producer **ret)
{
    struct kq_producer *producer = kq_zalloc(sizeof(*producer));
    if (!producer)
        return -ENOMEM;
    pthread_mutex_init(&producer->lock, NULL);
    producer->handle = handle;
    producer->picks = !handle->part;
    int r = open_targets(producer, caller);
    if (r < 0) {
        kq_producer_free(producer);
        return r;
    }
    *ret = producer;
    return 0;
}

void kq_producer_free(struct kq_producer *producer)
{
    if (!producer)
        return;
    charge(producer, 0);
    give_disk_back(producer);
    unmark(producer);
    for (int32_t i = 0; i < producer->target_count; i++)
        kq_partition_unref(producer->targets[i].partition);
    free(producer->targets);
    free((gid_t *)producer->caller.groups);
    kq_frame_release(&producer->frame);
    pthread_mutex_destroy(&producer->lock);
    free(producer);
}
