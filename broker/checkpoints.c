/* What the broker does for its partitions from time to time: checkpoints and keeping house. */
#include "broker/internal.h"

#include "broker/base/diag.h"

/* Offsets of all partitions into WRITER; those that are 0 say nothing. What Kafka says of topics
 * that were refused stays. */
static int collect(struct kq_broker *broker, bool starts, struct kq_checkpoint_writer *writer)
{
    const struct kq_checkpoint_writer *kept =
        starts ? &broker->kafka.starts : &broker->kafka.recovery;
    struct kq_topic *topic, *previous = NULL;
    int r = kq_buf_append(&writer->lines, kept->lines.data, kept->lines.length);
    writer->count = kept->count;
    while (r == 0 && kq_topic_next(broker, previous ? previous->name : "", &topic) == 0) {
        for (int32_t i = 0; i < kq_topic_partition_count(topic) && r == 0; i++) {
            struct kq_partition *partition = kq_topic_at(topic, i);
            struct kq_log_bounds bounds;
            if (kq_partition_enter(partition) < 0)
                break;
            kq_log_bounds(partition->log, &bounds);
            int64_t offset = starts ? bounds.start : kq_log_checkpoint(partition->log);
            kq_guard_leave(&partition->guard);
            if (offset > 0)
                r = kq_checkpoint_add(writer, topic->name, i, offset);
        }
        kq_topic_unref(previous);
        previous = topic;
    }
    kq_topic_unref(previous);
    return r;
}

static int write_checkpoint(struct kq_broker *broker, bool starts)
{
    struct kq_checkpoint_writer writer = {0};
    pthread_mutex_lock(&broker->checkpoint_lock);
    int r = collect(broker, starts, &writer);
    if (r == 0)
        r = kq_checkpoint_write(&writer, broker->dirfd,
                                starts ? KQ_CHECKPOINT_START : KQ_CHECKPOINT_RECOVERY);
    else
        kq_buf_release(&writer.lines);
    pthread_mutex_unlock(&broker->checkpoint_lock);
    return r;
}

int kq_broker_write_recovery_points(struct kq_broker *broker)
{
    atomic_store(&broker->synced_bytes, 0);
    return write_checkpoint(broker, false);
}

int kq_broker_write_starts(struct kq_broker *broker)
{
    return write_checkpoint(broker, true);
}

int64_t kq_partition_housekeep(struct kq_partition *partition, int64_t now_ms)
{
    struct kq_broker *broker = partition->topic->broker;
    struct kq_log_bounds before, after;
    int64_t next_ms = INT64_MAX;
    bool active = atomic_exchange(&partition->appointment.active, false);
    if (kq_partition_enter(partition) < 0)
        return INT64_MAX;
    kq_log_bounds(partition->log, &before);
    int r = kq_log_housekeep(partition->log, now_ms, &next_ms);
    kq_log_trim(partition->log);
    kq_log_bounds(partition->log, &after);
    kq_guard_leave(&partition->guard);
    if (r < 0)
        kq_diag_limited(60000, LOG_WARNING, "keeping house in %s/%s-%d failed: %s",
                        broker->data_dir, partition->topic->name, partition->number, strerror(-r));
    if (after.start != before.start) {
        kq_housekeeper_checkpoint(broker, false);
        kq_broker_emit(broker, KQ_EVENT_START_MOVED, partition->topic, partition);
    }
    kq_cleaner_ask(partition, false);
    /* Once more when it has been left alone for a while: then its files are closed. */
    if (active || r < 0)
        next_ms = kq_min64(next_ms, now_ms + broker->options.retention_check_ms);
    return kq_max64(next_ms, now_ms + 1);
}
