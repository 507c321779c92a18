/* Metadata: which topics there are, where their partitions are led (here), and how to get here.
 *
 * A request for what is in memory is answered on the loop. What may take long goes to a thread of
 * the pool: making topics that are used for the first time, and walking all of them.
 *
 * Source: Kafka's MetadataRequest.json and MetadataResponse.json, KafkaApis.handleTopicMetadata;
 * KIP-516 (ids), KIP-204 and KIP-430 (authorised operations).
 */
#include <string.h>

#include "broker/produce.h"
#include "net/api.h"
#include "net/errmap.h"
#include "net/internal.h"
#include "net/message/metadata.h"
#include "net/topics.h"

#define MANY_TOPICS 250   /* which take about as long as a thread takes to wake up */
#define FIRST_WITH_IDS 12 /* requests; responses carry them from 10 on */

/* A topic that was asked for. */
struct wanted {
    struct kq_topic_ref ref;
    struct kq_topic *topic; /* referenced; NULL: see ERROR */
    int16_t error;
    bool twice; /* an earlier one has found the same topic */
};

struct work {
    struct wanted *wanted;
    int32_t count;
    int32_t node;
    bool is_all;
    bool is_heavy; /* looks at many topics, or at all partitions of some */
};

static struct kq_metadata_request *asked(const struct kq_request *request)
{
    return request->body;
}

/* --- What every response has --- */

static int introduce(struct kq_request *request)
{
    struct kq_metadata_response *response = request->response;
    struct kq_metadata_response_broker *broker =
        kq_metadata_response_broker_array(&request->arena, 1);
    if (!broker)
        return -ENOMEM;
    broker->node_id = kq_broker_node_id(request->broker);
    int r = kq_conn_advertised(request->conn, &request->arena, &broker->host, &broker->port);
    if (r < 0)
        return r;
    response->brokers = broker;
    response->brokers_count = 1;
    response->controller_id = broker->node_id;
    response->cluster_id = kq_str_of(kq_broker_cluster_id(request->broker));
    return 0;
}

/* --- One topic --- */

static int add_partitions(struct kq_request *request, struct kq_topic *topic,
                          struct kq_metadata_response_topic *answer)
{
    struct work *work = request->state;
    struct kq_partition *partition;
    int32_t count = kq_topic_partition_count(topic);
    answer->partitions = kq_metadata_response_partition_array(&request->arena, (size_t)count);
    if (!answer->partitions)
        return -ENOMEM;
    for (int32_t i = 0; i < count && kq_partition_get(topic, i, &partition) == 0; i++) {
        struct kq_metadata_response_partition *at = &answer->partitions[i];
        at->partition_index = i;
        at->leader_id = work->node;
        at->leader_epoch = kq_leader_epoch(partition);
        at->replica_nodes = at->isr_nodes = &work->node;
        at->replica_nodes_count = at->isr_nodes_count = 1;
        kq_partition_unref(partition);
    }
    answer->partitions_count = count;
    return 0;
}

static int describe(struct kq_request *request, struct kq_topic *topic,
                    struct kq_metadata_response_topic *answer)
{
    const char *name = kq_topic_name(topic);
    size_t length = strlen(name);
    char *copy = kq_arena_string(&request->arena, name, length);
    if (!copy)
        return -ENOMEM;
    answer->name = (struct kq_str){copy, (int32_t)length};
    memcpy(answer->topic_id, kq_topic_id(topic), sizeof(answer->topic_id));
    answer->is_internal = kq_topic_is_internal(name);
    if (asked(request)->include_topic_authorized_operations)
        answer->topic_authorized_operations = kq_topics_operations(request, topic);
    return add_partitions(request, topic, answer);
}

/* What is said of topics is bounded by what there is, not by what one request may take. */
static void unlimit(struct kq_request *request)
{
    request->arena.limit = 0;
}

/* --- All topics --- */

static int append(struct kq_request *request, struct kq_topic *topic, void *context)
{
    int32_t *capacity = context;
    struct kq_metadata_response *response = request->response;
    if (response->topics_count == *capacity) {
        int32_t larger = *capacity ? 2 * *capacity : 64;
        struct kq_metadata_response_topic *topics =
            kq_metadata_response_topic_array(&request->arena, (size_t)larger);
        if (!topics)
            return -ENOMEM;
        if (*capacity)
            memcpy(topics, response->topics, (size_t)*capacity * sizeof(*topics));
        response->topics = topics;
        *capacity = larger;
    }
    return describe(request, topic, &response->topics[response->topics_count++]);
}

/* As ls(1) shows the root, but without topics that the caller may not look into. */
static enum kq_handled list_all(struct kq_request *request)
{
    int32_t capacity = 0;
    if (kq_authorize(request->broker, &request->caller, KQ_RIGHT_LIST, NULL, NULL) != 0)
        return KQ_HANDLED_NOW;
    unlimit(request);
    return kq_topics_each(request, append, &capacity) < 0 ? KQ_HANDLED_CLOSE : KQ_HANDLED_NOW;
}

/* --- Some topics --- */

static void release(struct kq_request *request)
{
    struct work *work = request->state;
    for (int32_t i = 0; i < work->count; i++)
        kq_topic_unref(work->wanted[i].topic);
}

static int by_topic(const void *a, const void *b)
{
    const struct wanted *const *first = a, *const *second = b;
    if ((*first)->topic != (*second)->topic)
        return (*first)->topic < (*second)->topic ? -1 : 1;
    return *first < *second ? -1 : *first > *second;
}

/* A topic is described once, however often a request names it: a response is no larger than what
 * there is. */
static int find_repeated(struct kq_request *request)
{
    struct work *work = request->state;
    size_t count = (size_t)work->count;
    struct wanted **order = kq_arena_array(&request->arena, count, sizeof(struct wanted *));
    if (!order)
        return -ENOMEM;
    for (size_t i = 0; i < count; i++)
        order[i] = &work->wanted[i];
    qsort(order, count, sizeof(struct wanted *), by_topic);
    for (size_t i = 1; i < count; i++)
        order[i]->twice = order[i]->topic && order[i]->topic == order[i - 1]->topic;
    return 0;
}

/* What is said of a topic that could not be found. */
static void refuse(struct kq_request *request, const struct wanted *wanted,
                   struct kq_metadata_response_topic *answer)
{
    answer->error_code = wanted->error;
    if (wanted->ref.id) {
        answer->name = KQ_STR_NULL;
        memcpy(answer->topic_id, wanted->ref.id, sizeof(answer->topic_id));
    } else if (wanted->ref.name.length >= 0 || request->version >= FIRST_WITH_IDS) {
        answer->name = wanted->ref.name;
    }
}

static enum kq_handled answer_wanted(struct kq_request *request)
{
    struct kq_metadata_response *response = request->response;
    struct work *work = request->state;
    response->topics = kq_metadata_response_topic_array(&request->arena, (size_t)work->count);
    if (!response->topics || find_repeated(request) < 0)
        return KQ_HANDLED_CLOSE;
    unlimit(request);
    for (int32_t i = 0; i < work->count; i++) {
        const struct wanted *wanted = &work->wanted[i];
        if (wanted->twice)
            continue;
        struct kq_metadata_response_topic *answer = &response->topics[response->topics_count++];
        if (!wanted->topic)
            refuse(request, wanted, answer);
        else if (describe(request, wanted->topic, answer) < 0)
            return KQ_HANDLED_CLOSE;
    }
    return KQ_HANDLED_NOW;
}

static bool is_creatable(const struct wanted *wanted)
{
    char name[KQ_TOPIC_NAME_MAX + 1];
    if (wanted->error != KQ_ERROR_UNKNOWN_TOPIC_OR_PARTITION)
        return false;
    memcpy(name, wanted->ref.name.data, (size_t)wanted->ref.name.length);
    name[wanted->ref.name.length] = '\0';
    return !kq_topic_is_internal(name);
}

static enum kq_handled create_missing(struct kq_request *request)
{
    struct work *work = request->state;
    for (int32_t i = 0; i < work->count; i++) {
        struct wanted *wanted = &work->wanted[i];
        if (is_creatable(wanted))
            wanted->error = kq_topics_create(request, wanted->ref.name, &wanted->topic);
    }
    return answer_wanted(request);
}

static void look_up(const struct kq_request *request, const struct kq_metadata_request_topic *from,
                    struct wanted *wanted)
{
    static const uint8_t none[16];
    bool by_id = memcmp(from->topic_id, none, sizeof(none)) != 0;
    wanted->ref = (struct kq_topic_ref){.name = from->name, .id = by_id ? from->topic_id : NULL};
    if (request->version < FIRST_WITH_IDS && (by_id || from->name.length < 0)) {
        wanted->ref.id = NULL;
        wanted->error = KQ_ERROR_INVALID_REQUEST;
    } else if (!by_id && !kq_topics_name_valid(from->name)) {
        wanted->error = KQ_ERROR_INVALID_TOPIC_EXCEPTION;
    } else {
        wanted->error = kq_topics_describe(request, &wanted->ref, &wanted->topic);
    }
}

static bool is_wide(const struct work *work)
{
    int64_t partitions = 0;
    for (int32_t i = 0; i < work->count; i++)
        if (work->wanted[i].topic)
            partitions += kq_topic_partition_count(work->wanted[i].topic);
    return partitions > KQ_WIDE_PARTITIONS;
}

static enum kq_handled look_up_all(struct kq_request *request)
{
    const struct kq_metadata_request *body = request->body;
    struct work *work = request->state;
    bool create = body->allow_auto_topic_creation && request->server->options.auto_create_topics;
    bool missing = false;
    work->wanted =
        kq_arena_array(&request->arena, (size_t)body->topics_count, sizeof(*work->wanted));
    if (!work->wanted)
        return KQ_HANDLED_CLOSE;
    work->count = body->topics_count;
    request->release = release;
    for (int32_t i = 0; i < work->count; i++) {
        look_up(request, &body->topics[i], &work->wanted[i]);
        missing = missing || is_creatable(&work->wanted[i]);
    }
    kq_handle_fn go_on = create && missing ? create_missing : answer_wanted;
    bool is_quick = work->is_heavy || (go_on == answer_wanted && !is_wide(work));
    return is_quick ? go_on(request) : kq_request_offload(request, go_on);
}

/* On a thread of the pool. */
static enum kq_handled answer_slowly(struct kq_request *request)
{
    const struct kq_metadata_request *body = request->body;
    struct kq_metadata_response *response = request->response;
    struct work *work = request->state;
    if (body->include_cluster_authorized_operations)
        response->cluster_authorized_operations = kq_topics_operations(request, NULL);
    return work->is_all ? list_all(request) : look_up_all(request);
}

enum kq_handled kq_api_metadata(struct kq_request *request)
{
    const struct kq_metadata_request *body = request->body;
    struct work *work = kq_arena_alloc(&request->arena, sizeof(*work));
    if (!work || introduce(request) < 0)
        return KQ_HANDLED_CLOSE;
    request->state = work;
    work->node = kq_broker_node_id(request->broker);
    work->is_all = body->topics_count < 0 || (request->version == 0 && body->topics_count == 0);
    work->is_heavy = work->is_all || body->topics_count > MANY_TOPICS ||
                     body->include_cluster_authorized_operations ||
                     body->include_topic_authorized_operations;
    return work->is_heavy ? kq_request_offload(request, answer_slowly) : look_up_all(request);
}
