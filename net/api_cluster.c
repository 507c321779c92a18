/* What a cluster's tools ask, as a single broker answers it: DescribeLogDirs (35), ElectLeaders
 * (43), AlterPartitionReassignments (45), ListPartitionReassignments (46), UpdateFeatures (57) and
 * ListConfigResources (74). There is nothing to elect, to move or to upgrade, and they say so. */
#include <string.h>
#include <sys/statvfs.h>

#include "net/admin.h"
#include "net/api.h"
#include "net/errmap.h"
#include "net/message/alter_partition_reassignments.h"
#include "net/message/describe_log_dirs.h"
#include "net/message/elect_leaders.h"
#include "net/message/list_config_resources.h"
#include "net/message/list_partition_reassignments.h"
#include "net/message/update_features.h"
#include "net/topics.h"

static bool may_on_cluster(const struct kq_request *request, unsigned right)
{
    return kq_authorize(request->broker, &request->caller, right, NULL, NULL) == 0;
}

static int count_topic(struct kq_request *request, struct kq_topic *topic, void *context)
{
    ++*(size_t *)context;
    return 0;
}

static struct kq_str name_of(struct kq_request *request, const struct kq_topic *topic)
{
    const char *name = kq_topic_name(topic);
    return kq_str_of(kq_arena_string(&request->arena, name, strlen(name)));
}

/* --- DescribeLogDirs --- */

static bool size_of(struct kq_topic *topic, int32_t number,
                    struct kq_describe_log_dirs_response_partition *ret)
{
    struct kq_partition *partition;
    struct kq_log_bounds bounds;
    if (kq_partition_get(topic, number, &partition) != 0)
        return false;
    kq_bounds(partition, &bounds);
    kq_partition_unref(partition);
    ret->partition_index = number;
    ret->partition_size = bounds.bytes;
    return true;
}

/* NUMBERS NULL: all partitions. Those that do not exist are left out, as Kafka does. */
static int describe_topic(struct kq_request *request, struct kq_topic *topic,
                          const int32_t *numbers, int32_t count,
                          struct kq_describe_log_dirs_response_topic *ret)
{
    if (!numbers)
        count = kq_topic_partition_count(topic);
    ret->name = name_of(request, topic);
    ret->partitions = kq_describe_log_dirs_response_partition_array(&request->arena, (size_t)count);
    if (!ret->partitions || !ret->name.data)
        return -ENOMEM;
    for (int32_t i = 0; i < count; i++)
        if (size_of(topic, numbers ? numbers[i] : i, &ret->partitions[ret->partitions_count]))
            ret->partitions_count++;
    return 0;
}

struct described {
    struct kq_describe_log_dirs_response_result *result;
    size_t room;
};

static int describe_next(struct kq_request *request, struct kq_topic *topic, void *context)
{
    struct described *described = context;
    struct kq_describe_log_dirs_response_result *result = described->result;
    /* Topics made since they were counted are not told of. */
    if ((size_t)result->topics_count == described->room)
        return 0;
    return describe_topic(request, topic, NULL, 0, &result->topics[result->topics_count++]);
}

static int describe_all(struct kq_request *request,
                        struct kq_describe_log_dirs_response_result *ret)
{
    struct described described = {.result = ret};
    kq_topics_each(request, count_topic, &described.room);
    ret->topics = kq_describe_log_dirs_response_topic_array(&request->arena, described.room);
    return ret->topics ? kq_topics_each(request, describe_next, &described) : -ENOMEM;
}

static int describe_asked(struct kq_request *request,
                          struct kq_describe_log_dirs_response_result *ret)
{
    const struct kq_describe_log_dirs_request *body = request->body;
    struct kq_topic *topic;
    ret->topics =
        kq_describe_log_dirs_response_topic_array(&request->arena, (size_t)body->topics_count);
    int r = ret->topics ? 0 : -ENOMEM;
    for (int32_t i = 0; i < body->topics_count && r == 0; i++) {
        const struct kq_describe_log_dirs_request_topic *asked = &body->topics[i];
        if (kq_topics_describe(request, &(struct kq_topic_ref){.name = asked->topic}, &topic))
            continue;
        static const int32_t none;
        r = describe_topic(request, topic, asked->partitions ? asked->partitions : &none,
                           asked->partitions_count, &ret->topics[ret->topics_count++]);
        kq_topic_unref(topic);
    }
    return r;
}

enum kq_handled kq_api_describe_log_dirs(struct kq_request *request)
{
    const struct kq_describe_log_dirs_request *body = request->body;
    struct kq_describe_log_dirs_response *response = request->response;
    struct statvfs space;
    if (!may_on_cluster(request, KQ_RIGHT_LIST)) {
        response->error_code = KQ_ERROR_CLUSTER_AUTHORIZATION_FAILED;
        return KQ_HANDLED_NOW;
    }
    response->results = kq_describe_log_dirs_response_result_array(&request->arena, 1);
    if (!response->results)
        return KQ_HANDLED_CLOSE;
    struct kq_describe_log_dirs_response_result *result = response->results;
    response->results_count = 1;
    result->log_dir = kq_str_of(kq_broker_data_dir(request->broker));
    if (kq_broker_statfs(request->broker, &space) == 0) {
        result->total_bytes = (int64_t)(space.f_blocks * space.f_frsize);
        result->usable_bytes = (int64_t)(space.f_bavail * space.f_frsize);
    }
    int r =
        body->topics_count < 0 ? describe_all(request, result) : describe_asked(request, result);
    return r < 0 ? KQ_HANDLED_CLOSE : KQ_HANDLED_NOW;
}

/* --- ElectLeaders --- */

static int16_t elect(struct kq_request *request, struct kq_str name, int32_t number)
{
    struct kq_topic *topic;
    struct kq_partition *partition;
    int16_t error = kq_topics_describe(request, &(struct kq_topic_ref){.name = name}, &topic);
    if (error)
        return error;
    int r = kq_partition_get(topic, number, &partition);
    if (r == 0)
        kq_partition_unref(partition);
    kq_topic_unref(topic);
    return r == 0 ? KQ_ERROR_ELECTION_NOT_NEEDED : KQ_ERROR_UNKNOWN_TOPIC_OR_PARTITION;
}

enum kq_handled kq_api_elect_leaders(struct kq_request *request)
{
    const struct kq_elect_leaders_request *body = request->body;
    struct kq_elect_leaders_response *response = request->response;
    if (!may_on_cluster(request, KQ_RIGHT_CHANGE_ATTRIBUTES)) {
        response->error_code = KQ_ERROR_CLUSTER_AUTHORIZATION_FAILED;
        return KQ_HANDLED_NOW;
    }
    /* Asked for all (null), those that need no election are left out: that is all of them. */
    int32_t count = body->topic_partitions_count < 0 ? 0 : body->topic_partitions_count;
    response->replica_election_results =
        kq_elect_leaders_response_topic_array(&request->arena, (size_t)count);
    if (!response->replica_election_results)
        return KQ_HANDLED_CLOSE;
    response->replica_election_results_count = count;
    for (int32_t i = 0; i < count; i++) {
        const struct kq_elect_leaders_request_topic *asked = &body->topic_partitions[i];
        struct kq_elect_leaders_response_topic *one = &response->replica_election_results[i];
        one->topic = asked->topic;
        one->partition_result = kq_elect_leaders_response_partition_array(
            &request->arena, (size_t)asked->partitions_count);
        if (!one->partition_result)
            return KQ_HANDLED_CLOSE;
        one->partition_result_count = asked->partitions_count;
        for (int32_t j = 0; j < asked->partitions_count; j++) {
            one->partition_result[j].partition_id = asked->partitions[j];
            one->partition_result[j].error_message = KQ_STR_NULL;
            one->partition_result[j].error_code =
                elect(request, asked->topic, asked->partitions[j]);
        }
    }
    return KQ_HANDLED_NOW;
}

/* --- Reassignments --- */

static int16_t reassign(struct kq_request *request, struct kq_str name,
                        const struct kq_alter_partition_reassignments_request_partition *wanted,
                        struct kq_str *ret_message)
{
    int16_t error = elect(request, name, wanted->partition_index);
    if (error != KQ_ERROR_ELECTION_NOT_NEEDED)
        return error;
    if (wanted->replicas_count < 0)
        return KQ_ERROR_NO_REASSIGNMENT_IN_PROGRESS;
    if (wanted->replicas_count == 1 && wanted->replicas[0] == kq_broker_node_id(request->broker))
        return KQ_ERROR_NONE;
    return kq_admin_refuse(request, KQ_ERROR_INVALID_REPLICA_ASSIGNMENT, ret_message,
                           "Each partition has one replica, on broker %d.",
                           kq_broker_node_id(request->broker));
}

enum kq_handled kq_api_alter_partition_reassignments(struct kq_request *request)
{
    const struct kq_alter_partition_reassignments_request *body = request->body;
    struct kq_alter_partition_reassignments_response *response = request->response;
    response->error_message = KQ_STR_NULL;
    if (!may_on_cluster(request, KQ_RIGHT_CHANGE_ATTRIBUTES)) {
        response->error_code = KQ_ERROR_CLUSTER_AUTHORIZATION_FAILED;
        return KQ_HANDLED_NOW;
    }
    response->responses = kq_alter_partition_reassignments_response_topic_array(
        &request->arena, (size_t)body->topics_count);
    if (!response->responses)
        return KQ_HANDLED_CLOSE;
    response->responses_count = body->topics_count;
    for (int32_t i = 0; i < body->topics_count; i++) {
        const struct kq_alter_partition_reassignments_request_topic *asked = &body->topics[i];
        struct kq_alter_partition_reassignments_response_topic *one = &response->responses[i];
        one->name = asked->name;
        one->partitions = kq_alter_partition_reassignments_response_partition_array(
            &request->arena, (size_t)asked->partitions_count);
        if (!one->partitions)
            return KQ_HANDLED_CLOSE;
        one->partitions_count = asked->partitions_count;
        for (int32_t j = 0; j < asked->partitions_count; j++) {
            one->partitions[j].partition_index = asked->partitions[j].partition_index;
            one->partitions[j].error_message = KQ_STR_NULL;
            one->partitions[j].error_code = reassign(request, asked->name, &asked->partitions[j],
                                                     &one->partitions[j].error_message);
        }
    }
    return KQ_HANDLED_NOW;
}

enum kq_handled kq_api_list_partition_reassignments(struct kq_request *request)
{
    struct kq_list_partition_reassignments_response *response = request->response;
    response->error_message = KQ_STR_NULL;
    if (!may_on_cluster(request, KQ_RIGHT_LIST))
        response->error_code = KQ_ERROR_CLUSTER_AUTHORIZATION_FAILED;
    return KQ_HANDLED_NOW;
}

/* --- Features --- */

enum kq_handled kq_api_update_features(struct kq_request *request)
{
    const struct kq_update_features_request *body = request->body;
    struct kq_update_features_response *response = request->response;
    response->error_message = KQ_STR_NULL;
    if (!may_on_cluster(request, KQ_RIGHT_CHANGE_ATTRIBUTES)) {
        response->error_code = KQ_ERROR_CLUSTER_AUTHORIZATION_FAILED;
        return KQ_HANDLED_NOW;
    }
    if (request->version >= 2) {
        if (body->feature_updates_count > 0)
            response->error_code =
                kq_admin_refuse(request, KQ_ERROR_INVALID_UPDATE_VERSION, &response->error_message,
                                "This broker has no features that have versions.");
        return KQ_HANDLED_NOW;
    }
    response->results = kq_update_features_response_result_array(
        &request->arena, (size_t)body->feature_updates_count);
    if (!response->results)
        return KQ_HANDLED_CLOSE;
    response->results_count = body->feature_updates_count;
    for (int32_t i = 0; i < body->feature_updates_count; i++) {
        struct kq_update_features_response_result *one = &response->results[i];
        one->feature = body->feature_updates[i].feature;
        one->error_code =
            kq_admin_refuse(request, KQ_ERROR_INVALID_UPDATE_VERSION, &one->error_message,
                            "This broker has no features that have versions.");
    }
    return KQ_HANDLED_NOW;
}

/* --- ListConfigResources (KIP-1142; version 0: of client metrics only, of which there are none) */

struct resources {
    struct kq_list_config_resources_response *response;
    size_t room;
};

static int list_topic(struct kq_request *request, struct kq_topic *topic, void *context)
{
    struct resources *resources = context;
    struct kq_list_config_resources_response *response = resources->response;
    if ((size_t)response->config_resources_count == resources->room)
        return 0;
    struct kq_list_config_resources_response_config_resource *one =
        &response->config_resources[response->config_resources_count++];
    one->resource_type = KQ_RESOURCE_TOPIC;
    one->resource_name = name_of(request, topic);
    return one->resource_name.data ? 0 : -ENOMEM;
}

static bool is_known_type(int8_t type)
{
    return type == KQ_RESOURCE_TOPIC || type == KQ_RESOURCE_BROKER ||
           type == KQ_RESOURCE_BROKER_LOGGER || type == KQ_RESOURCE_CLIENT_METRICS ||
           type == KQ_RESOURCE_GROUP;
}

static bool is_wanted(const struct kq_list_config_resources_request *body, int8_t type)
{
    for (int32_t i = 0; i < body->resource_types_count; i++)
        if (body->resource_types[i] == type)
            return true;
    return body->resource_types_count <= 0;
}

static int list_resources(struct kq_request *request)
{
    const struct kq_list_config_resources_request *body = request->body;
    struct resources resources = {.response = request->response};
    bool topics = is_wanted(body, KQ_RESOURCE_TOPIC);
    if (topics)
        kq_topics_each(request, count_topic, &resources.room);
    resources.response->config_resources = kq_list_config_resources_response_config_resource_array(
        &request->arena, resources.room + 1);
    if (!resources.response->config_resources)
        return -ENOMEM;
    int r = topics ? kq_topics_each(request, list_topic, &resources) : 0;
    if (r == 0 && is_wanted(body, KQ_RESOURCE_BROKER)) {
        struct kq_list_config_resources_response_config_resource *one =
            &resources.response->config_resources[resources.response->config_resources_count++];
        one->resource_type = KQ_RESOURCE_BROKER;
        kq_admin_refuse(request, 0, &one->resource_name, "%d", kq_broker_node_id(request->broker));
    }
    return r;
}

enum kq_handled kq_api_list_config_resources(struct kq_request *request)
{
    const struct kq_list_config_resources_request *body = request->body;
    struct kq_list_config_resources_response *response = request->response;
    if (!may_on_cluster(request, KQ_RIGHT_LIST)) {
        response->error_code = KQ_ERROR_CLUSTER_AUTHORIZATION_FAILED;
        return KQ_HANDLED_NOW;
    }
    for (int32_t i = 0; i < body->resource_types_count; i++)
        if (!is_known_type(body->resource_types[i]))
            response->error_code = KQ_ERROR_UNSUPPORTED_VERSION;
    if (request->version == 0 || response->error_code)
        return KQ_HANDLED_NOW;
    return list_resources(request) < 0 ? KQ_HANDLED_CLOSE : KQ_HANDLED_NOW;
}
