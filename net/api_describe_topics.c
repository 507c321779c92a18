/* DescribeTopicPartitions: topics in order of their names, some partitions at a time.
 *
 * A response holds a bounded number of partitions and says where the next one begins (cursor).
 * Source: Kafka's DescribeTopicPartitionsRequest.json, DescribeTopicPartitionsRequestHandler;
 * KIP-966.
 */
#include <string.h>

#include "broker/produce.h"
#include "net/api.h"
#include "net/errmap.h"
#include "net/internal.h"
#include "net/message/describe_topic_partitions.h"
#include "net/topics.h"

typedef struct kq_describe_topic_partitions_request_topic asked_topic;
typedef struct kq_describe_topic_partitions_response_topic answered_topic;

struct work {
    int32_t node;
    int32_t left; /* partitions that the response may still hold */
    int32_t capacity;
    struct kq_str from; /* topics before this are not wanted */
    int32_t from_partition;
};

static int compare(struct kq_str a, struct kq_str b)
{
    int32_t shorter = a.length < b.length ? a.length : b.length;
    int order = shorter > 0 ? memcmp(a.data, b.data, (size_t)shorter) : 0;
    return order ? order : (a.length > b.length) - (a.length < b.length);
}

static int by_name(const void *a, const void *b)
{
    const asked_topic *first = a, *second = b;
    return compare(first->name, second->name);
}

/* --- Building --- */

static answered_topic *add_topic(struct kq_request *request, struct kq_str name)
{
    struct kq_describe_topic_partitions_response *response = request->response;
    struct work *work = request->state;
    if (response->topics_count == work->capacity) {
        int32_t larger = work->capacity ? 2 * work->capacity : 16;
        answered_topic *topics =
            kq_describe_topic_partitions_response_topic_array(&request->arena, (size_t)larger);
        if (!topics)
            return NULL;
        if (work->capacity)
            memcpy(topics, response->topics, (size_t)work->capacity * sizeof(*topics));
        response->topics = topics;
        work->capacity = larger;
    }
    char *copy = kq_arena_string(&request->arena, name.data, (size_t)name.length);
    if (!copy)
        return NULL;
    answered_topic *topic = &response->topics[response->topics_count++];
    topic->name = (struct kq_str){copy, name.length};
    topic->is_internal = kq_topic_is_internal(copy);
    return topic;
}

static int go_on_at(struct kq_request *request, struct kq_str name, int32_t partition)
{
    struct kq_describe_topic_partitions_response *response = request->response;
    struct kq_describe_topic_partitions_response_cursor *cursor =
        kq_describe_topic_partitions_response_cursor_array(&request->arena, 1);
    char *copy = kq_arena_string(&request->arena, name.data, (size_t)name.length);
    if (!cursor || !copy)
        return -ENOMEM;
    cursor->topic_name = (struct kq_str){copy, name.length};
    cursor->partition_index = partition;
    response->next_cursor = cursor;
    return 0;
}

static int add_partitions(struct kq_request *request, struct kq_topic *topic, int32_t from,
                          int32_t to, answered_topic *answer)
{
    struct work *work = request->state;
    struct kq_partition *partition;
    if (from >= to)
        return 0;
    answer->partitions =
        kq_describe_topic_partitions_response_partition_array(&request->arena, (size_t)(to - from));
    if (!answer->partitions)
        return -ENOMEM;
    for (int32_t i = from; i < to && kq_partition_get(topic, i, &partition) == 0; i++) {
        struct kq_describe_topic_partitions_response_partition *at = &answer->partitions[i - from];
        at->partition_index = i;
        at->leader_id = work->node;
        at->leader_epoch = kq_leader_epoch(partition);
        at->replica_nodes = at->isr_nodes = &work->node;
        at->replica_nodes_count = at->isr_nodes_count = 1;
        at->eligible_leader_replicas_count = at->last_known_elr_count = 0;
        kq_partition_unref(partition);
    }
    answer->partitions_count = to - from;
    work->left -= to - from;
    return 0;
}

/* 0; KQ_END: the response is full. */
static int describe(struct kq_request *request, struct kq_topic *topic)
{
    struct work *work = request->state;
    struct kq_str name = kq_str_of(kq_topic_name(topic));
    int32_t from = kq_str_is(name, work->from) ? work->from_partition : 0;
    int32_t count = kq_topic_partition_count(topic);
    if (work->left == 0) {
        int r = go_on_at(request, name, 0);
        return r < 0 ? r : KQ_END;
    }
    answered_topic *answer = add_topic(request, name);
    if (!answer)
        return -ENOMEM;
    memcpy(answer->topic_id, kq_topic_id(topic), sizeof(answer->topic_id));
    answer->topic_authorized_operations = kq_topics_operations(request, topic);
    int32_t to = count - from > work->left ? from + work->left : count;
    int r = add_partitions(request, topic, from, to, answer);
    if (r < 0 || to >= count)
        return r;
    r = go_on_at(request, name, to);
    return r < 0 ? r : KQ_END;
}

/* --- Which topics --- */

static int describe_next(struct kq_request *request, struct kq_topic *topic, void *context)
{
    const struct work *work = context;
    return compare(kq_str_of(kq_topic_name(topic)), work->from) < 0 ? 0 : describe(request, topic);
}

static int describe_all(struct kq_request *request)
{
    if (kq_authorize(request->broker, &request->caller, KQ_RIGHT_LIST, NULL, NULL) != 0)
        return 0;
    return kq_topics_each(request, describe_next, request->state);
}

static int describe_one(struct kq_request *request, struct kq_str name)
{
    struct work *work = request->state;
    struct kq_topic *topic;
    int16_t error = kq_topics_name_valid(name) ? KQ_ERROR_NONE : KQ_ERROR_INVALID_TOPIC_EXCEPTION;
    if (!error)
        error = kq_topics_describe(request, &(struct kq_topic_ref){.name = name}, &topic);
    if (error) {
        answered_topic *answer = work->left > 0 ? add_topic(request, name) : NULL;
        if (answer)
            answer->error_code = error;
        return work->left > 0 && !answer ? -ENOMEM : 0;
    }
    int r = describe(request, topic);
    kq_topic_unref(topic);
    return r;
}

static int describe_named(struct kq_request *request)
{
    const struct kq_describe_topic_partitions_request *body = request->body;
    struct work *work = request->state;
    int r = 0;
    for (int32_t i = 0; i < body->topics_count && r == 0; i++) {
        struct kq_str name = body->topics[i].name;
        bool again = i > 0 && kq_str_is(name, body->topics[i - 1].name);
        if (!again && compare(name, work->from) >= 0)
            r = describe_one(request, name);
    }
    return r;
}

static enum kq_handled refuse(struct kq_request *request)
{
    const struct kq_describe_topic_partitions_request *body = request->body;
    for (int32_t i = 0; i < body->topics_count; i++) {
        answered_topic *answer = add_topic(request, body->topics[i].name);
        if (!answer)
            return KQ_HANDLED_CLOSE;
        answer->error_code = KQ_ERROR_INVALID_REQUEST;
    }
    return KQ_HANDLED_NOW;
}

/* A cursor has to be one of the topics that are asked for, where these are named. */
static bool is_cursor_valid(const struct kq_describe_topic_partitions_request *body)
{
    if (!body->cursor)
        return true;
    asked_topic wanted = {.name = body->cursor->topic_name};
    return body->cursor->partition_index >= 0 &&
           (body->topics_count == 0 || bsearch(&wanted, body->topics, (size_t)body->topics_count,
                                               sizeof(*body->topics), by_name));
}

static enum kq_handled run(struct kq_request *request)
{
    const struct kq_describe_topic_partitions_request *body = request->body;
    int r = body->topics_count == 0 ? describe_all(request) : describe_named(request);
    return r < 0 ? KQ_HANDLED_CLOSE : KQ_HANDLED_NOW;
}

enum kq_handled kq_api_describe_topic_partitions(struct kq_request *request)
{
    const struct kq_describe_topic_partitions_request *body = request->body;
    int32_t most = request->server->options.max_described_partitions;
    struct work *work = kq_arena_alloc(&request->arena, sizeof(*work));
    if (!work)
        return KQ_HANDLED_CLOSE;
    request->state = work;
    work->node = kq_broker_node_id(request->broker);
    work->left = body->response_partition_limit < most ? body->response_partition_limit : most;
    if (work->left < 1)
        work->left = 1;
    if (body->topics_count > 0)
        qsort(body->topics, (size_t)body->topics_count, sizeof(*body->topics), by_name);
    if (!is_cursor_valid(body))
        return refuse(request);
    if (body->cursor) {
        work->from = body->cursor->topic_name;
        work->from_partition = body->cursor->partition_index;
    }
    return kq_request_offload(request, run);
}
