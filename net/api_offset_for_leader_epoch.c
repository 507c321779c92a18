/* OffsetForLeaderEpoch: up to which offset a log agrees with what a client has read of it.
 *
 * Source: Kafka's OffsetForLeaderEpochRequest.json, ReplicaManager.lastOffsetForLeaderEpoch;
 * KIP-101, KIP-320. Epochs are in memory: nothing here blocks.
 */
#include "broker/produce.h"
#include "net/api.h"
#include "net/errmap.h"
#include "net/message/offset_for_leader_epoch.h"
#include "net/topics.h"

typedef const struct kq_offset_for_leader_epoch_request_topic asked_topic;
typedef const struct kq_offset_for_leader_epoch_request_partition asked_partition;
typedef struct kq_offset_for_leader_epoch_response_partition answered_partition;

static int16_t find(const struct kq_request *request, const struct kq_topic_ref *ref,
                    struct kq_topic *topic, asked_partition *asked, answered_partition *answer)
{
    struct kq_access access;
    int16_t error =
        kq_topics_access(request, ref, topic, asked->partition, KQ_RIGHT_DESCRIBE, &access);
    if (error)
        return error;
    error = kq_topics_fence(access.partition, asked->current_leader_epoch);
    if (!error)
        kq_leader_epoch_end(access.partition, asked->leader_epoch, &answer->leader_epoch,
                            &answer->end_offset);
    kq_partition_unref(access.partition);
    return error;
}

static int answer_topic(struct kq_request *request, asked_topic *asked,
                        struct kq_offset_for_leader_epoch_response_topic *answer)
{
    struct kq_topic_ref ref = {.name = asked->topic};
    struct kq_topic *topic = NULL;
    answer->topic = asked->topic;
    answer->partitions = kq_offset_for_leader_epoch_response_partition_array(
        &request->arena, (size_t)asked->partitions_count);
    if (!answer->partitions)
        return -ENOMEM;
    answer->partitions_count = asked->partitions_count;
    int16_t error = kq_topics_find(request, &ref, &topic);
    for (int32_t i = 0; i < asked->partitions_count; i++) {
        answered_partition *at = &answer->partitions[i];
        at->partition = asked->partitions[i].partition;
        at->error_code = error ? error : find(request, &ref, topic, &asked->partitions[i], at);
    }
    kq_topic_unref(topic);
    return 0;
}

enum kq_handled kq_api_offset_for_leader_epoch(struct kq_request *request)
{
    const struct kq_offset_for_leader_epoch_request *body = request->body;
    struct kq_offset_for_leader_epoch_response *response = request->response;
    response->topics = kq_offset_for_leader_epoch_response_topic_array(&request->arena,
                                                                       (size_t)body->topics_count);
    if (!response->topics)
        return KQ_HANDLED_CLOSE;
    response->topics_count = body->topics_count;
    for (int32_t i = 0; i < body->topics_count; i++)
        if (answer_topic(request, &body->topics[i], &response->topics[i]) < 0)
            return KQ_HANDLED_CLOSE;
    return KQ_HANDLED_NOW;
}
