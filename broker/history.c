/* The door's calls on what a partition's log remembers besides its messages: producer ids, aborted
 * transactions, leader epochs. */
#include "broker/aborted.h"
#include "broker/epochs.h"
#include "broker/internal.h"
#include "broker/produce.h"

/* --- Producer ids --- */

int kq_producer_id_new(struct kq_broker *broker, bool may_block, int64_t *ret)
{
    return kq_producer_ids_take(&broker->producer_ids, may_block, ret);
}

static int ask_partitions(struct kq_topic *topic, const struct kq_caller *caller)
{
    int r = -EACCES;
    for (int32_t i = 0; i < kq_topic_partition_count(topic) && r < 0; i++)
        r = kq_authorize(topic->broker, caller, KQ_RIGHT_WRITE, topic, kq_topic_at(topic, i));
    return r;
}

int kq_producer_id_access(struct kq_broker *broker, const struct kq_caller *caller)
{
    struct kq_topic *topic, *previous = NULL;
    int r = kq_authorize(broker, caller, KQ_RIGHT_CREATE, NULL, NULL);
    while (r < 0 && kq_topic_next(broker, previous ? previous->name : "", &topic) == 0) {
        kq_topic_unref(previous);
        r = ask_partitions(topic, caller);
        previous = topic;
    }
    kq_topic_unref(previous);
    return r;
}

/* --- Transactions --- */

static int copy_out(const struct kq_buf *found, struct kq_aborted **ret, size_t *ret_count)
{
    const struct kq_compact_aborted *from = (const void *)found->data;
    size_t count = found->length / sizeof(*from);
    struct kq_aborted *list = count ? kq_alloc(count * sizeof(*list)) : NULL;
    if (count && !list)
        return -ENOMEM;
    for (size_t i = 0; i < count; i++)
        list[i] = (struct kq_aborted){.producer_id = from[i].producer_id,
                                      .first_offset = from[i].first_offset,
                                      .last_offset = from[i].last_offset};
    *ret = list;
    *ret_count = count;
    return 0;
}

int kq_aborted(const struct kq_access *access, int64_t from, int64_t to, bool may_block,
               struct kq_aborted **ret, size_t *ret_count)
{
    kq_autobuf struct kq_buf found = {0};
    struct kq_partition *partition = access->partition;
    if (!(access->rights & KQ_RIGHT_READ))
        return -EACCES;
    int r = kq_partition_enter(partition);
    if (r < 0)
        return r;
    r = kq_aborted_find(partition->log, from, to, may_block, &found);
    kq_guard_leave(&partition->guard);
    return r == 0 ? copy_out(&found, ret, ret_count) : r;
}

int kq_is_aborted(const struct kq_access *access, const struct kq_batch_header *header,
                  bool may_block, bool *ret)
{
    struct kq_partition *partition = access->partition;
    if (!(access->rights & KQ_RIGHT_READ))
        return -EACCES;
    int r = kq_partition_enter(partition);
    if (r < 0)
        return r;
    r = kq_aborted_has(partition->log, header, may_block, ret);
    kq_guard_leave(&partition->guard);
    return r;
}

/* --- Leader epochs --- */

int32_t kq_leader_epoch(struct kq_partition *partition)
{
    if (kq_partition_enter(partition) < 0)
        return KQ_NO_EPOCH;
    int32_t epoch = kq_log_epoch(partition->log);
    kq_guard_leave(&partition->guard);
    return epoch;
}

int32_t kq_leader_epoch_at(struct kq_partition *partition, int64_t offset)
{
    if (kq_partition_enter(partition) < 0)
        return KQ_NO_EPOCH;
    int32_t epoch = kq_log_epoch_at(partition->log, offset);
    kq_guard_leave(&partition->guard);
    return epoch;
}

int kq_leader_epoch_end(struct kq_partition *partition, int32_t epoch, int32_t *ret_epoch,
                        int64_t *ret_end)
{
    if (kq_partition_enter(partition) < 0)
        return KQ_END;
    int r = kq_log_epoch_end(partition->log, epoch, ret_epoch, ret_end);
    kq_guard_leave(&partition->guard);
    return r;
}
