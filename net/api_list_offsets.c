/* ListOffsets: which offset a partition begins with, ends with, had at a time.
 *
 * What is in memory is answered on the loop; a look-up by time that may wait for a disk goes to a
 * thread of the pool, with all that are still open.
 *
 * Source: Kafka's ListOffsetsRequest.json, ReplicaManager.fetchOffset,
 * Partition.fetchOffsetForTimestamp; KIP-734 (-3), KIP-405 (-4), KIP-1005 (-5).
 */
#include <stdlib.h>

#include "broker/produce.h"
#include "net/api.h"
#include "net/errmap.h"
#include "net/message/list_offsets.h"
#include "net/topics.h"

typedef const struct kq_list_offsets_request_topic asked_topic;
typedef const struct kq_list_offsets_request_partition asked_partition;
typedef struct kq_list_offsets_response_partition answered_partition;

enum timestamp {
    LATEST = -1,
    EARLIEST = -2,
    NEWEST = -3,         /* the record with the largest timestamp */
    EARLIEST_LOCAL = -4, /* of what is not in tiered storage: there is none */
    LATEST_TIERED = -5,
};

#define READ_COMMITTED 1

struct lookup {
    asked_partition *asked;
    answered_partition *answer;
    struct kq_access access; /* its partition is referenced */
    bool open;               /* no answer yet */
};

struct work {
    struct lookup *lookups;
    int32_t count;
};

static void release(struct kq_request *request)
{
    struct work *work = request->state;
    for (int32_t i = 0; i < work->count; i++)
        kq_partition_unref(work->lookups[i].access.partition);
}

/* --- One partition --- */

static bool is_served(int64_t timestamp, int16_t version)
{
    switch (timestamp) {
    case LATEST:
    case EARLIEST:
        return true;
    case NEWEST:
        return version >= 7;
    case EARLIEST_LOCAL:
        return version >= 8;
    case LATEST_TIERED:
        return version >= 9;
    default:
        return timestamp >= 0;
    }
}

/* What a client that reads at this isolation level can get at: offsets before this. */
static int64_t fetchable_end(const struct kq_request *request, struct kq_partition *partition)
{
    const struct kq_list_offsets_request *body = request->body;
    struct kq_log_bounds bounds;
    kq_bounds(partition, &bounds);
    return body->isolation_level == READ_COMMITTED ? bounds.last_stable : bounds.end;
}

static int64_t log_start(struct kq_partition *partition)
{
    struct kq_log_bounds bounds;
    kq_bounds(partition, &bounds);
    return bounds.start;
}

static void set_epoch(const struct kq_request *request, answered_partition *answer, int32_t epoch)
{
    if (request->version >= 4)
        answer->leader_epoch = epoch;
}

/* 0; KQ_WOULD_BLOCK; -errno. A record that is not there is no error. */
static int find_record(const struct kq_request *request, struct lookup *lookup, bool may_block)
{
    answered_partition *answer = lookup->answer;
    struct kq_partition *partition = lookup->access.partition;
    int64_t offset, timestamp, asked = lookup->asked->timestamp;
    int r = asked == NEWEST ? kq_find_newest(&lookup->access, may_block, &offset, &timestamp)
                            : kq_find_time(&lookup->access, asked, may_block, &offset, &timestamp);
    if (r == 0 && offset < fetchable_end(request, partition)) {
        answer->offset = offset;
        answer->timestamp = timestamp;
        set_epoch(request, answer, kq_leader_epoch_at(partition, offset));
    }
    return r == KQ_END ? 0 : r;
}

static int find(const struct kq_request *request, struct lookup *lookup, bool may_block)
{
    answered_partition *answer = lookup->answer;
    struct kq_partition *partition = lookup->access.partition;
    switch (lookup->asked->timestamp) {
    case LATEST:
        answer->offset = fetchable_end(request, partition);
        set_epoch(request, answer, kq_leader_epoch(partition));
        return 0;
    case EARLIEST:
    case EARLIEST_LOCAL:
        answer->offset = log_start(partition);
        set_epoch(request, answer, kq_leader_epoch_at(partition, answer->offset));
        return 0;
    case LATEST_TIERED:
        return 0;
    default:
        return find_record(request, lookup, may_block);
    }
}

/* Answers what is open, as far as it can be answered. True: all of it is. */
static bool find_all(const struct kq_request *request, bool may_block)
{
    struct work *work = request->state;
    bool complete = true;
    for (int32_t i = 0; i < work->count; i++) {
        struct lookup *lookup = &work->lookups[i];
        if (!lookup->open)
            continue;
        int r = find(request, lookup, may_block);
        lookup->open = r == KQ_WOULD_BLOCK;
        complete = complete && !lookup->open;
        if (r != 0 && !lookup->open)
            lookup->answer->error_code = kq_error_from(r);
    }
    return complete;
}

static enum kq_handled find_slowly(struct kq_request *request)
{
    find_all(request, true);
    return KQ_HANDLED_NOW;
}

/* --- All of them --- */

/* A partition that is named twice gets no answer at all, as Kafka has it. */
static int by_partition(const void *a, const void *b)
{
    const struct kq_partition *first = (*(struct lookup *const *)a)->access.partition;
    const struct kq_partition *second = (*(struct lookup *const *)b)->access.partition;
    return first < second ? -1 : first > second;
}

static void refuse(struct lookup *lookup, int16_t error)
{
    lookup->answer->error_code = error;
    lookup->open = false;
}

static int refuse_repeated(struct kq_request *request)
{
    struct work *work = request->state;
    struct lookup **order =
        kq_arena_array(&request->arena, (size_t)work->count, sizeof(struct lookup *));
    if (!order)
        return -ENOMEM;
    for (int32_t i = 0; i < work->count; i++)
        order[i] = &work->lookups[i];
    qsort(order, (size_t)work->count, sizeof(struct lookup *), by_partition);
    for (int32_t i = 1; i < work->count; i++) {
        struct kq_partition *partition = order[i]->access.partition;
        if (!partition || partition != order[i - 1]->access.partition)
            continue;
        refuse(order[i - 1], KQ_ERROR_INVALID_REQUEST);
        refuse(order[i], KQ_ERROR_INVALID_REQUEST);
    }
    return 0;
}

static void open_lookup(struct kq_request *request, const struct kq_topic_ref *ref,
                        struct kq_topic *topic, int16_t error, struct lookup *lookup)
{
    asked_partition *asked = lookup->asked;
    lookup->answer->partition_index = asked->partition_index;
    lookup->open = true;
    if (!error)
        error = kq_topics_access(request, ref, topic, asked->partition_index, KQ_RIGHT_DESCRIBE,
                                 &lookup->access);
    if (!error && !is_served(asked->timestamp, request->version))
        error = KQ_ERROR_UNSUPPORTED_VERSION;
    if (!error)
        error = kq_topics_fence(lookup->access.partition, asked->current_leader_epoch);
    if (error)
        refuse(lookup, error);
}

static int open_topic(struct kq_request *request, asked_topic *asked,
                      struct kq_list_offsets_response_topic *answer)
{
    struct work *work = request->state;
    struct kq_topic_ref ref = {.name = asked->name};
    struct kq_topic *topic = NULL;
    answer->name = asked->name;
    answer->partitions =
        kq_list_offsets_response_partition_array(&request->arena, (size_t)asked->partitions_count);
    if (!answer->partitions)
        return -ENOMEM;
    answer->partitions_count = asked->partitions_count;
    int16_t error = kq_topics_find(request, &ref, &topic);
    for (int32_t i = 0; i < asked->partitions_count; i++) {
        struct lookup *lookup = &work->lookups[work->count++];
        *lookup = (struct lookup){.asked = &asked->partitions[i], .answer = &answer->partitions[i]};
        open_lookup(request, &ref, topic, error, lookup);
    }
    kq_topic_unref(topic);
    return 0;
}

static int open_all(struct kq_request *request)
{
    const struct kq_list_offsets_request *body = request->body;
    struct kq_list_offsets_response *response = request->response;
    struct work *work = kq_arena_alloc(&request->arena, sizeof(*work));
    size_t total = 0;
    for (int32_t i = 0; i < body->topics_count; i++)
        total += (size_t)body->topics[i].partitions_count;
    response->topics =
        kq_list_offsets_response_topic_array(&request->arena, (size_t)body->topics_count);
    if (!work || !response->topics)
        return -ENOMEM;
    work->lookups = kq_arena_array(&request->arena, total, sizeof(*work->lookups));
    if (!work->lookups)
        return -ENOMEM;
    request->state = work;
    request->release = release;
    response->topics_count = body->topics_count;
    for (int32_t i = 0; i < body->topics_count; i++) {
        int r = open_topic(request, &body->topics[i], &response->topics[i]);
        if (r < 0)
            return r;
    }
    return refuse_repeated(request);
}

enum kq_handled kq_api_list_offsets(struct kq_request *request)
{
    if (open_all(request) < 0)
        return KQ_HANDLED_CLOSE;
    return find_all(request, false) ? KQ_HANDLED_NOW : kq_request_offload(request, find_slowly);
}
