/* Reading one partition for a Fetch: never a copy, an extent of the log.
 *
 * Source of the rules: Kafka's Partition.fetchRecords, LocalLog.read and
 * ReplicaManager.readFromLog; KIP-74 (sizes), KIP-320 (epochs), KIP-595 (diverging epochs).
 */
#include "broker/base/mem.h"
#include "broker/produce.h"
#include "net/errmap.h"
#include "net/fetch.h"

#define FIRST_WITH_STORAGE_ERROR 6
#define FIRST_WITH_ENDPOINTS 16

/* What is read before it takes the place of what the part had. */
struct reading {
    struct kq_extent extent;
    struct kq_log_bounds bounds; /* from after the extent was taken */
    struct kq_aborted *aborted;
    size_t aborted_count;
    bool left_out; /* there are records that do not fit */
};

static void drop_records(struct kq_fetch_part *part)
{
    part->fetch->bytes -= part->extent.length;
    kq_extent_unref(&part->extent);
    part->answer->records = (struct kq_wire_records){.length = 0};
    part->answer->aborted_transactions_count = part->fetch->committed ? 0 : -1;
}

void kq_fetch_refuse(struct kq_fetch_part *part, int16_t error)
{
    struct kq_fetch_response_partition *answer = part->answer;
    if (error == KQ_ERROR_KAFKA_STORAGE_ERROR &&
        part->fetch->request->version < FIRST_WITH_STORAGE_ERROR)
        error = KQ_ERROR_NOT_LEADER_OR_FOLLOWER;
    drop_records(part);
    answer->error_code = error;
    answer->high_watermark = answer->last_stable_offset = answer->log_start_offset = -1;
    kq_partition_unref(part->access.partition);
    part->access.partition = NULL;
    part->fetch->due = true;
}

static void refresh(struct kq_fetch_part *part)
{
    struct kq_log_bounds bounds;
    kq_bounds(part->access.partition, &bounds);
    part->answer->high_watermark = bounds.end;
    part->answer->last_stable_offset = bounds.last_stable;
    part->answer->log_start_offset = bounds.start;
}

void kq_fetch_finish(struct kq_fetch_part *part)
{
    if (!part->access.partition)
        return;
    refresh(part);
    if (part->extent.length > 0)
        kq_partition_count_sent(part->access.partition, &part->extent);
}

/* --- Epochs --- */

/* Does the client believe in the leader that there is? Else it is told which that is (KIP-951). */
static int16_t check_leader(struct kq_fetch_part *part)
{
    struct kq_request *request = part->fetch->request;
    struct kq_partition *partition = part->access.partition;
    int16_t error = kq_topics_fence(partition, part->asked->current_leader_epoch);
    if (error == KQ_ERROR_FENCED_LEADER_EPOCH && request->version >= FIRST_WITH_ENDPOINTS) {
        part->answer->current_leader.leader_id = kq_broker_node_id(request->broker);
        part->answer->current_leader.leader_epoch = kq_leader_epoch(partition);
        part->fetch->fenced = true;
    }
    return error;
}

/* Has the client read what this log does not have? Sets the answer's diverging epoch. */
static int16_t find_divergence(struct kq_fetch_part *part, bool *ret)
{
    int32_t known = part->asked->last_fetched_epoch, epoch;
    int64_t end, offset = part->asked->fetch_offset;
    *ret = false;
    if (known < 0)
        return KQ_ERROR_NONE;
    if (kq_leader_epoch_end(part->access.partition, known, &epoch, &end) != 0)
        return KQ_ERROR_OFFSET_OUT_OF_RANGE;
    *ret = epoch < known || end < offset;
    if (*ret) {
        part->answer->diverging_epoch.epoch = epoch;
        part->answer->diverging_epoch.end_offset = end;
    }
    return KQ_ERROR_NONE;
}

/* --- Records --- */

/* What may still be put into the response from this partition. The first records of a response are
 * there whatever their size: WHOLE. */
static int64_t allowance(const struct kq_fetch_part *part, bool *ret_whole)
{
    const struct kq_fetch *fetch = part->fetch;
    int64_t others = fetch->bytes - part->extent.length;
    *ret_whole = others == 0;
    return kq_max64(0, kq_min64(part->asked->partition_max_bytes, fetch->max_bytes - others));
}

static int check_range(const struct kq_fetch_part *part, const struct kq_log_bounds *bounds)
{
    int64_t offset = part->asked->fetch_offset;
    return offset < bounds->start ? KQ_GONE : offset > bounds->end ? KQ_BEYOND : 0;
}

/* Takes away what lies behind the last stable offset, which is where a batch begins. */
static int cut_unstable(struct kq_fetch_part *part, bool may_block, struct reading *reading)
{
    struct kq_extent *extent = &reading->extent, unstable;
    int64_t stable = reading->bounds.last_stable;
    if (stable >= reading->bounds.end ||
        (extent->next_offset >= 0 && extent->next_offset <= stable))
        return 0;
    int r = stable <= part->asked->fetch_offset
                ? KQ_GONE
                : kq_read(&part->access, stable, 0, false, may_block, &unstable);
    if (r == KQ_GONE) {
        kq_extent_unref(extent);
        return 0;
    }
    if (r != 0)
        return r == KQ_END ? 0 : r;
    if (unstable.owner == extent->owner && unstable.position < extent->position + extent->length) {
        extent->length = (uint32_t)(unstable.position - extent->position);
        extent->next_offset = stable;
    }
    kq_extent_unref(&unstable);
    return 0;
}

static int find_aborted(struct kq_fetch_part *part, bool may_block, struct reading *reading)
{
    const struct kq_extent *extent = &reading->extent;
    if (!part->fetch->committed || extent->length == 0)
        return 0;
    int64_t to = extent->next_offset >= 0 ? extent->next_offset : reading->bounds.last_stable;
    return kq_aborted(&part->access, part->asked->fetch_offset, to, may_block, &reading->aborted,
                      &reading->aborted_count);
}

/* 0, with an extent that may be empty; KQ_GONE, KQ_BEYOND; KQ_WOULD_BLOCK; -errno. */
static int read_records(struct kq_fetch_part *part, bool may_block, struct reading *reading)
{
    bool whole;
    struct kq_extent *extent = &reading->extent;
    int64_t allowed = allowance(part, &whole);
    int r = 0;
    if (allowed > 0 || whole) {
        r = kq_read(&part->access, part->asked->fetch_offset, (uint32_t)allowed, false, may_block,
                    extent);
        if (r == KQ_END)
            r = 0;
    }
    kq_bounds(part->access.partition, &reading->bounds);
    if (r == 0)
        r = check_range(part, &reading->bounds);
    if (r == 0 && allowed == 0 && !whole)
        reading->left_out = part->asked->fetch_offset < reading->bounds.end;
    if (r == 0 && part->fetch->committed && extent->length > 0)
        r = cut_unstable(part, may_block, reading);
    if (r == 0 && (int64_t)extent->length > allowed && !whole) {
        kq_extent_unref(extent);
        reading->left_out = true;
    }
    if (r == 0)
        r = find_aborted(part, may_block, reading);
    if (r != 0)
        kq_extent_unref(extent);
    return r;
}

static int list_aborted(struct kq_fetch_part *part, const struct reading *reading)
{
    struct kq_fetch_response_aborted_transaction *list =
        kq_fetch_response_aborted_transaction_array(&part->fetch->request->arena,
                                                    reading->aborted_count);
    if (!list)
        return -ENOMEM;
    for (size_t i = 0; i < reading->aborted_count; i++) {
        list[i].producer_id = reading->aborted[i].producer_id;
        list[i].first_offset = reading->aborted[i].first_offset;
    }
    part->answer->aborted_transactions = list;
    part->answer->aborted_transactions_count = (int32_t)reading->aborted_count;
    return 0;
}

/* Is there more for this reader that it does not get by waiting? */
static bool is_full(const struct kq_fetch_part *part, const struct reading *reading)
{
    const struct kq_extent *extent = &reading->extent;
    return reading->left_out ||
           (extent->length > 0 && (extent->next_offset < 0 ||
                                   (int64_t)extent->length >= part->asked->partition_max_bytes));
}

static int take(struct kq_fetch_part *part, struct reading *reading)
{
    struct kq_fetch *fetch = part->fetch;
    drop_records(part);
    if (reading->aborted_count > 0 && list_aborted(part, reading) < 0)
        return -ENOMEM;
    part->extent = reading->extent;
    reading->extent = (struct kq_extent){.owner = NULL};
    fetch->bytes += part->extent.length;
    if (part->extent.length > 0)
        part->answer->records = (struct kq_wire_records){.extent = &part->extent,
                                                         .length = (int32_t)part->extent.length};
    part->answer->high_watermark = reading->bounds.end;
    part->answer->last_stable_offset = reading->bounds.last_stable;
    part->answer->log_start_offset = reading->bounds.start;
    return 0;
}

static int16_t error_of(const struct kq_fetch_part *part, int r)
{
    switch (r) {
    case KQ_GONE:
    case KQ_BEYOND:
        return KQ_ERROR_OFFSET_OUT_OF_RANGE;
    case -ESTALE:
        return kq_topics_gone(part->ref);
    default:
        return kq_error_from(r);
    }
}

static int read_part(struct kq_fetch_part *part, bool may_block)
{
    struct reading reading = {.extent = {.owner = NULL}};
    int r = read_records(part, may_block, &reading);
    if (r == 0) {
        if (is_full(part, &reading))
            part->fetch->due = true;
        r = take(part, &reading);
    }
    kq_extent_unref(&reading.extent);
    free(reading.aborted);
    return r;
}

/* The client is told from where on it has read what is not there. */
static int16_t answer_diverging(struct kq_fetch_part *part)
{
    drop_records(part);
    refresh(part);
    part->fetch->due = true;
    return part->asked->fetch_offset < part->answer->log_start_offset ? KQ_ERROR_OFFSET_OUT_OF_RANGE
                                                                      : KQ_ERROR_NONE;
}

int kq_fetch_read(struct kq_fetch_part *part, bool may_block)
{
    bool diverges = false;
    int16_t error = check_leader(part);
    if (!error)
        error = find_divergence(part, &diverges);
    if (diverges) {
        error = answer_diverging(part);
    } else if (!error) {
        int r = read_part(part, may_block);
        if (r == KQ_WOULD_BLOCK)
            return r;
        if (r != 0)
            error = error_of(part, r);
    }
    if (error)
        kq_fetch_refuse(part, error);
    return 0;
}
