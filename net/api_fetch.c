/* Fetch: messages from a position on, straight from the log's files.
 *
 * Each partition's records are an extent that the send queue hands to sendfile(2); nothing here
 * copies or decodes. A request without enough of them is parked (fetch_wait.c). A response names
 * every partition that was asked for: sessions (KIP-227) are not kept, which session id 0 says.
 *
 * Source: Kafka's FetchRequest.json and FetchResponse.json, KafkaApis.handleFetchRequest; KIP-516
 * (topic ids), KIP-951 (leader in the response).
 */
#include <string.h>

#include "net/api.h"
#include "net/errmap.h"
#include "net/fetch.h"
#include "net/internal.h"
#include "net/throttle.h"

#define FIRST_WITH_IDS 13
#define FIRST_WITH_REPLICA_STATE 15
#define FIRST_WITH_ZSTD 10
#define READ_COMMITTED 1

static void release(struct kq_request *request)
{
    struct kq_fetch *fetch = request->state;
    for (int32_t i = 0; i < fetch->count; i++) {
        kq_extent_unref(&fetch->parts[i].extent);
        kq_partition_unref(fetch->parts[i].access.partition);
    }
}

/* --- Planning --- */

/* Followers do not read here: nothing replicates. */
static bool is_follower(const struct kq_request *request)
{
    const struct kq_fetch_request *body = request->body;
    int32_t replica = request->version >= FIRST_WITH_REPLICA_STATE ? body->replica_state.replica_id
                                                                   : body->replica_id;
    return replica >= 0;
}

/* A topic whose records are zstd whatever the producer sent, and a client that cannot know it. */
static bool is_unreadable(const struct kq_request *request, struct kq_topic *topic)
{
    struct kq_topic_config config;
    if (request->version >= FIRST_WITH_ZSTD)
        return false;
    kq_topic_config(topic, &config);
    return config.compression == KQ_CODEC_ZSTD;
}

static int16_t find_topic(const struct kq_request *request, const struct kq_topic_ref *ref,
                          struct kq_topic **ret)
{
    if (is_follower(request))
        return KQ_ERROR_TOPIC_AUTHORIZATION_FAILED;
    int16_t error = kq_topics_find(request, ref, ret);
    return !error && is_unreadable(request, *ret) ? KQ_ERROR_UNSUPPORTED_COMPRESSION_TYPE : error;
}

static int plan_topic(struct kq_fetch *fetch, const struct kq_fetch_request_topic *asked,
                      struct kq_topic_ref *ref, struct kq_fetch_response_topic *answer)
{
    struct kq_request *request = fetch->request;
    struct kq_topic *topic = NULL;
    bool by_id = request->version >= FIRST_WITH_IDS;
    *ref = (struct kq_topic_ref){.name = asked->topic, .id = by_id ? asked->topic_id : NULL};
    answer->topic = asked->topic;
    memcpy(answer->topic_id, asked->topic_id, sizeof(answer->topic_id));
    answer->partitions =
        kq_fetch_response_partition_array(&request->arena, (size_t)asked->partitions_count);
    if (!answer->partitions)
        return -ENOMEM;
    answer->partitions_count = asked->partitions_count;
    int16_t error = find_topic(request, ref, &topic);
    for (int32_t i = 0; i < asked->partitions_count; i++) {
        struct kq_fetch_part *part = &fetch->parts[fetch->count++];
        *part = (struct kq_fetch_part){.fetch = fetch,
                                       .ref = ref,
                                       .asked = &asked->partitions[i],
                                       .answer = &answer->partitions[i]};
        part->answer->partition_index = part->asked->partition;
        int16_t refused = error ? error
                                : kq_topics_access(request, ref, topic, part->asked->partition,
                                                   KQ_RIGHT_READ, &part->access);
        if (refused)
            kq_fetch_refuse(part, refused);
    }
    kq_topic_unref(topic);
    return 0;
}

/* The list of what is to be read, in the order of the request. */
static void queue_parts(struct kq_fetch *fetch)
{
    for (int32_t i = fetch->count - 1; i >= 0; i--) {
        struct kq_fetch_part *part = &fetch->parts[i];
        if (!part->access.partition)
            continue;
        part->next = fetch->unread;
        fetch->unread = part;
    }
}

static size_t count_parts(const struct kq_fetch_request *body)
{
    size_t total = 0;
    for (int32_t i = 0; i < body->topics_count; i++)
        total += (size_t)body->topics[i].partitions_count;
    return total;
}

static int allocate(struct kq_request *request, struct kq_fetch *fetch)
{
    const struct kq_fetch_request *body = request->body;
    struct kq_fetch_response *response = request->response;
    size_t total = count_parts(body);
    fetch->parts = kq_arena_array(&request->arena, total, sizeof(*fetch->parts));
    fetch->refs = kq_arena_array(&request->arena, (size_t)body->topics_count, sizeof(*fetch->refs));
    response->responses =
        kq_fetch_response_topic_array(&request->arena, (size_t)body->topics_count);
    return fetch->parts && fetch->refs && response->responses ? 0 : -ENOMEM;
}

static void set_sizes(struct kq_fetch *fetch)
{
    const struct kq_fetch_request *body = fetch->request->body;
    int64_t most = fetch->request->server->options.fetch_max_bytes;
    most = kq_min64(most, kq_throttle_fetch_bytes(fetch->request));
    fetch->max_bytes = kq_max64(0, kq_min64(body->max_bytes, most));
    fetch->min_bytes = kq_min64(body->min_bytes, fetch->max_bytes);
    fetch->committed = body->isolation_level == READ_COMMITTED;
    fetch->due = body->max_wait_ms <= 0;
}

static int plan(struct kq_request *request)
{
    const struct kq_fetch_request *body = request->body;
    struct kq_fetch_response *response = request->response;
    struct kq_fetch *fetch = kq_arena_alloc(&request->arena, sizeof(*fetch));
    if (!fetch || allocate(request, fetch) < 0)
        return -ENOMEM;
    fetch->request = request;
    request->state = fetch;
    request->release = release;
    set_sizes(fetch);
    fetch->attribute_changes = kq_attribute_changes(request->broker);
    fetch->identity_changes = request->identity_changes;
    response->responses_count = body->topics_count;
    for (int32_t i = 0; i < body->topics_count; i++) {
        int r = plan_topic(fetch, &body->topics[i], &fetch->refs[i], &response->responses[i]);
        if (r < 0)
            return r;
    }
    fetch->due = fetch->due || fetch->count == 0;
    queue_parts(fetch);
    return 0;
}

/* --- Sessions --- */

/* A full request may ask for a session (epoch 0), which it does not get, or for none (-1). Any
 * other epoch goes on with a session that does not exist. */
static bool is_full(const struct kq_fetch_request *body)
{
    return body->session_epoch == 0 || body->session_epoch == -1;
}

static enum kq_handled begin_slowly(struct kq_request *request)
{
    if (plan(request) < 0)
        return KQ_HANDLED_CLOSE;
    kq_fetch_prepare(request->state);
    kq_fetch_begin(request->state);
    return KQ_HANDLED_LATER;
}

enum kq_handled kq_api_fetch(struct kq_request *request)
{
    struct kq_fetch_response *response = request->response;
    if (!is_full(request->body)) {
        response->error_code = KQ_ERROR_FETCH_SESSION_ID_NOT_FOUND;
        return KQ_HANDLED_NOW;
    }
    if (count_parts(request->body) > KQ_WIDE_PARTITIONS)
        return kq_request_offload(request, begin_slowly);
    if (plan(request) < 0)
        return KQ_HANDLED_CLOSE;
    kq_fetch_prepare(request->state);
    return kq_fetch_advance(request->state);
}
