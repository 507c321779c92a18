/* CreateTopics (19), DeleteTopics (20), CreatePartitions (37) and DeleteRecords (21).
 *
 * A topic made here and one made by mkdir(1) are the same. Each entry of a request stands for
 * itself: one that is refused says so, and the others go on. All of it waits for the disk, so it
 * runs on a worker. */
#include <stdio.h>
#include <string.h>

#include "net/admin.h"
#include "net/api.h"
#include "net/errmap.h"
#include "net/message/create_partitions.h"
#include "net/message/create_topics.h"
#include "net/message/delete_records.h"
#include "net/message/delete_topics.h"
#include "net/topics.h"

/* --- CreateTopics --- */

/* Which of COUNT names occur more than once (Kafka refuses all of them). */
static int find_repeated(struct kq_arena *arena, const struct kq_str *names, int32_t count,
                         bool **ret)
{
    struct kq_admin_seen *seen;
    int r = kq_admin_seen_new(arena, (size_t)count, &seen);
    bool *repeated = kq_arena_array(arena, (size_t)count, sizeof(*repeated));
    if (r < 0 || !repeated)
        return -ENOMEM;
    for (int32_t i = 0; i < count; i++) {
        int32_t before = kq_admin_see(seen, names[i].data, names[i].length, i);
        if (before >= 0)
            repeated[i] = repeated[before] = true;
    }
    *ret = repeated;
    return 0;
}

/* Replicas are this broker alone. */
static bool is_here(const struct kq_request *request, const int32_t *broker_ids, int32_t count)
{
    return count == 1 && broker_ids[0] == kq_broker_node_id(request->broker);
}

static int16_t assigned_partitions(struct kq_request *request,
                                   const struct kq_create_topics_request_topic *topic,
                                   int32_t *ret_count, struct kq_str *ret_message)
{
    int32_t count = topic->assignments_count;
    if (topic->num_partitions != -1 || topic->replication_factor != -1)
        return kq_admin_refuse(request, KQ_ERROR_INVALID_REQUEST, ret_message,
                               "Both assignments and a number of partitions or replicas.");
    bool *given = kq_arena_array(&request->arena, (size_t)count, sizeof(*given));
    if (!given)
        return KQ_ERROR_POLICY_VIOLATION;
    for (int32_t i = 0; i < count; i++) {
        const struct kq_create_topics_request_assignment *one = &topic->assignments[i];
        if (one->partition_index < 0 || one->partition_index >= count ||
            given[one->partition_index])
            return kq_admin_refuse(request, KQ_ERROR_INVALID_REPLICA_ASSIGNMENT, ret_message,
                                   "Partitions must be numbered from 0 on, each once.");
        given[one->partition_index] = true;
        if (!is_here(request, one->broker_ids, one->broker_ids_count))
            return kq_admin_refuse(request, KQ_ERROR_INVALID_REPLICA_ASSIGNMENT, ret_message,
                                   "Each partition has one replica, on broker %d.",
                                   kq_broker_node_id(request->broker));
    }
    *ret_count = count;
    return KQ_ERROR_NONE;
}

/* How many partitions are asked for; 0: the default number. */
static int16_t wanted_partitions(struct kq_request *request,
                                 const struct kq_create_topics_request_topic *topic,
                                 int32_t *ret_count, struct kq_str *ret_message)
{
    if (topic->assignments_count > 0)
        return assigned_partitions(request, topic, ret_count, ret_message);
    if (topic->num_partitions != -1 && topic->num_partitions <= 0)
        return kq_admin_refuse(request, KQ_ERROR_INVALID_PARTITIONS, ret_message,
                               "Number of partitions was set to an invalid non-positive value.");
    if (topic->replication_factor != -1 && topic->replication_factor != 1)
        return kq_admin_refuse(request, KQ_ERROR_INVALID_REPLICATION_FACTOR, ret_message,
                               "Replication factor: %d, and there is 1 broker.",
                               topic->replication_factor);
    *ret_count = topic->num_partitions == -1 ? 0 : topic->num_partitions;
    return KQ_ERROR_NONE;
}

static int16_t wanted_settings(struct kq_request *request,
                               const struct kq_create_topics_request_topic *topic,
                               struct kq_topic_spec *spec, struct kq_str *ret_message)
{
    struct kq_topic_config config;
    struct kq_topic_refusal refusal;
    struct kq_topic_setting *settings =
        kq_arena_array(&request->arena, (size_t)topic->configs_count + 1, sizeof(*settings));
    if (!settings)
        return KQ_ERROR_POLICY_VIOLATION;
    for (int32_t i = 0; i < topic->configs_count; i++) {
        const struct kq_create_topics_request_config *one = &topic->configs[i];
        if (one->value.length < 0)
            return kq_admin_refuse(request, KQ_ERROR_INVALID_CONFIG, ret_message,
                                   "Null value not supported for topic configs: %.*s",
                                   one->name.length, one->name.data);
        settings[i].name = kq_admin_string(request, one->name);
        settings[i].value = kq_admin_string(request, one->value);
        if (!settings[i].name || !settings[i].value)
            return KQ_ERROR_INVALID_CONFIG;
    }
    spec->settings = settings;
    spec->setting_count = (size_t)topic->configs_count;
    kq_topic_config_defaults(&config);
    if (kq_topic_config_set_all(&config, settings, spec->setting_count, &refusal.name,
                                &refusal.reason) < 0)
        return kq_admin_refuse(request, KQ_ERROR_INVALID_CONFIG, ret_message, "%s: %s",
                               refusal.name, refusal.reason);
    return KQ_ERROR_NONE;
}

static int16_t create_error(struct kq_request *request, int r, const char *name,
                            struct kq_str *ret_message)
{
    switch (r) {
    case 0:
        return KQ_ERROR_NONE;
    case -EEXIST:
    case -EBUSY:
        return kq_admin_refuse(request, KQ_ERROR_TOPIC_ALREADY_EXISTS, ret_message,
                               r == -EBUSY ? "Topic '%s' is being created or deleted."
                                           : "Topic '%s' already exists.",
                               name);
    case -EINVAL:
        return kq_admin_refuse(request, KQ_ERROR_INVALID_PARTITIONS, ret_message,
                               "Too many partitions.");
    case -EDQUOT:
        return kq_admin_refuse(request, KQ_ERROR_POLICY_VIOLATION, ret_message,
                               "The broker's max.topics or max.partitions is reached.");
    default:
        return kq_admin_error(r);
    }
}

static int create(struct kq_request *request, struct kq_topic_spec *spec, struct kq_topic **ret)
{
    int r = kq_topics_inherit(request, &spec->topic, &spec->partition);
    if (r < 0)
        return r;
    r = kq_topic_create(request->broker, &request->caller, spec, ret);
    kq_attributes_release(&spec->topic);
    kq_attributes_release(&spec->partition);
    return r;
}

/* As kq_topic_create would answer, where nothing fails. */
static int try_create(struct kq_request *request, const struct kq_topic_spec *spec)
{
    struct kq_topic *topic;
    int r = kq_authorize(request->broker, &request->caller, KQ_RIGHT_CREATE, NULL, NULL);
    if (r == 0 && kq_topic_get(request->broker, spec->name, &topic) == 0) {
        kq_topic_unref(topic);
        r = -EEXIST;
    }
    return r;
}

static void describe_created(struct kq_request *request, struct kq_topic *topic,
                             struct kq_create_topics_response_topic *ret)
{
    struct kq_admin_config *configs;
    int32_t count;
    memcpy(ret->topic_id, kq_topic_id(topic), sizeof(ret->topic_id));
    ret->num_partitions = kq_topic_partition_count(topic);
    ret->replication_factor = 1;
    ret->configs_count = -1;
    if (kq_authorize(request->broker, &request->caller, KQ_RIGHT_DESCRIBE_CONFIG, topic, NULL) <
        0) {
        ret->topic_config_error_code = KQ_ERROR_TOPIC_AUTHORIZATION_FAILED;
        return;
    }
    if (kq_admin_topic_configs(request, topic, &configs, &count) < 0)
        return;
    ret->configs = kq_create_topics_response_config_array(&request->arena, (size_t)count);
    if (!ret->configs)
        return;
    ret->configs_count = count;
    for (int32_t i = 0; i < count; i++)
        ret->configs[i] = (struct kq_create_topics_response_config){
            .name = configs[i].name,
            .value = configs[i].value,
            .config_source = (int8_t)configs[i].source,
        };
}

static int16_t create_one(struct kq_request *request,
                          const struct kq_create_topics_request_topic *topic, bool check_only,
                          struct kq_create_topics_response_topic *ret)
{
    struct kq_topic_spec spec = {0};
    struct kq_topic *made = NULL;
    if (!kq_topics_name_valid(topic->name) || !(spec.name = kq_admin_string(request, topic->name)))
        return kq_admin_refuse(request, KQ_ERROR_INVALID_TOPIC_EXCEPTION, &ret->error_message,
                               "A name has 1 to 249 of [a-zA-Z0-9._-], and is not `.` or `..`.");
    if (kq_topic_is_internal(spec.name))
        return kq_admin_refuse(request, KQ_ERROR_INVALID_TOPIC_EXCEPTION, &ret->error_message,
                               "The broker makes '%s' itself.", spec.name);
    int16_t error = wanted_partitions(request, topic, &spec.partitions, &ret->error_message);
    if (!error)
        error = wanted_settings(request, topic, &spec, &ret->error_message);
    if (error)
        return error;
    int r = check_only ? try_create(request, &spec) : create(request, &spec, &made);
    error = create_error(request, r, spec.name, &ret->error_message);
    if (made) {
        describe_created(request, made, ret);
        kq_topic_unref(made);
    }
    return error;
}

enum kq_handled kq_api_create_topics(struct kq_request *request)
{
    const struct kq_create_topics_request *body = request->body;
    struct kq_create_topics_response *response = request->response;
    bool *repeated;
    size_t count = (size_t)body->topics_count;
    struct kq_str *names = kq_arena_array(&request->arena, count, sizeof(*names));
    response->topics = kq_create_topics_response_topic_array(&request->arena, count);
    if (!names || !response->topics)
        return KQ_HANDLED_CLOSE;
    for (int32_t i = 0; i < body->topics_count; i++)
        names[i] = body->topics[i].name;
    if (find_repeated(&request->arena, names, body->topics_count, &repeated) < 0)
        return KQ_HANDLED_CLOSE;
    response->topics_count = body->topics_count;
    for (int32_t i = 0; i < body->topics_count; i++) {
        struct kq_create_topics_response_topic *one = &response->topics[i];
        one->name = names[i];
        one->error_code = repeated[i]
                              ? kq_admin_refuse(request, KQ_ERROR_INVALID_REQUEST,
                                                &one->error_message, "Duplicate topic name.")
                              : create_one(request, &body->topics[i], body->validate_only, one);
    }
    return KQ_HANDLED_NOW;
}

/* --- DeleteTopics --- */

static int16_t delete_one(struct kq_request *request, const struct kq_topic_ref *ref,
                          struct kq_delete_topics_response_topic *ret)
{
    struct kq_topic *topic;
    int16_t error = kq_topics_describe(request, ref, &topic);
    if (error)
        return error;
    const char *name = kq_topic_name(topic);
    memcpy(ret->topic_id, kq_topic_id(topic), sizeof(ret->topic_id));
    char *copy = kq_arena_string(&request->arena, name, strlen(name));
    ret->name = kq_str_of(copy);
    int r = -ENOMEM;
    if (kq_topic_is_internal(name))
        error = kq_admin_refuse(request, KQ_ERROR_INVALID_TOPIC_EXCEPTION, &ret->error_message,
                                "The broker needs '%s' itself.", name);
    else if (copy)
        r = kq_topic_delete(topic, &request->caller, false);
    kq_topic_unref(topic);
    if (error)
        return error;
    return r == -ESTALE ? kq_topics_gone(ref) : kq_admin_error(r);
}

/* Up to v5 topics have names; from v6 on a name or an id. */
static void deletion(const struct kq_delete_topics_request *body, int16_t version, int32_t i,
                     struct kq_topic_ref *ret)
{
    *ret = (struct kq_topic_ref){.name = KQ_STR_NULL};
    if (version < 6)
        ret->name = body->topic_names[i];
    else if (body->topics[i].name.length >= 0)
        ret->name = body->topics[i].name;
    else
        ret->id = body->topics[i].topic_id;
}

/* Topics that are named twice, by whatever; an array of their answers' errors. */
static int find_repeated_deletions(struct kq_request *request, int32_t count, bool **ret)
{
    struct kq_str *keys = kq_arena_array(&request->arena, (size_t)count, sizeof(*keys));
    struct kq_topic_ref ref;
    if (!keys)
        return -ENOMEM;
    for (int32_t i = 0; i < count; i++) {
        deletion(request->body, request->version, i, &ref);
        keys[i] = ref.id ? (struct kq_str){(const char *)ref.id, 16} : ref.name;
    }
    return find_repeated(&request->arena, keys, count, ret);
}

enum kq_handled kq_api_delete_topics(struct kq_request *request)
{
    const struct kq_delete_topics_request *body = request->body;
    struct kq_delete_topics_response *response = request->response;
    int32_t count = request->version < 6 ? body->topic_names_count : body->topics_count;
    struct kq_topic_ref ref;
    bool *repeated;
    response->responses = kq_delete_topics_response_topic_array(&request->arena, (size_t)count);
    if (!response->responses || find_repeated_deletions(request, count, &repeated) < 0)
        return KQ_HANDLED_CLOSE;
    response->responses_count = count;
    for (int32_t i = 0; i < count; i++) {
        struct kq_delete_topics_response_topic *one = &response->responses[i];
        deletion(body, request->version, i, &ref);
        one->name = ref.name;
        if (ref.id)
            memcpy(one->topic_id, ref.id, sizeof(one->topic_id));
        one->error_code = repeated[i] ? KQ_ERROR_INVALID_REQUEST : delete_one(request, &ref, one);
    }
    return KQ_HANDLED_NOW;
}

/* --- CreatePartitions --- */

static int16_t check_added(struct kq_request *request,
                           const struct kq_create_partitions_request_topic *wanted, int32_t present,
                           struct kq_str *ret_message)
{
    if (wanted->count <= present)
        return kq_admin_refuse(request, KQ_ERROR_INVALID_PARTITIONS, ret_message,
                               "The topic currently has %d partitions, which is %s than the "
                               "requested %d.",
                               present, wanted->count == present ? "not less" : "higher",
                               wanted->count);
    if (wanted->assignments_count < 0)
        return KQ_ERROR_NONE;
    if (wanted->assignments_count != wanted->count - present)
        return kq_admin_refuse(request, KQ_ERROR_INVALID_REPLICA_ASSIGNMENT, ret_message,
                               "%d assignments for %d new partitions.", wanted->assignments_count,
                               wanted->count - present);
    for (int32_t i = 0; i < wanted->assignments_count; i++)
        if (!is_here(request, wanted->assignments[i].broker_ids,
                     wanted->assignments[i].broker_ids_count))
            return kq_admin_refuse(request, KQ_ERROR_INVALID_REPLICA_ASSIGNMENT, ret_message,
                                   "Each partition has one replica, on broker %d.",
                                   kq_broker_node_id(request->broker));
    return KQ_ERROR_NONE;
}

static int add(struct kq_request *request, struct kq_topic *topic, int32_t first, int32_t count)
{
    struct kq_attributes attributes;
    int r = kq_topics_inherit_partition(request, topic, &attributes);
    if (r < 0)
        return r;
    r = kq_topic_add_partitions(topic, &request->caller, first, count, &attributes);
    kq_attributes_release(&attributes);
    return r;
}

static int16_t add_to(struct kq_request *request, struct kq_topic *topic,
                      const struct kq_create_partitions_request_topic *wanted, bool check_only,
                      struct kq_str *ret_message)
{
    int r;
    do { /* again where somebody else adds at the same time */
        int32_t present = kq_topic_partition_count(topic);
        int16_t error = check_added(request, wanted, present, ret_message);
        if (error)
            return error;
        r = check_only
                ? kq_authorize(request->broker, &request->caller, KQ_RIGHT_ALTER, topic, NULL)
                : add(request, topic, present, wanted->count - present);
    } while (r == -EEXIST);
    if (r == -EDQUOT)
        return kq_admin_refuse(request, KQ_ERROR_INVALID_PARTITIONS, ret_message,
                               "More partitions than max.partitions or a topic allows.");
    return r == -ESTALE ? KQ_ERROR_UNKNOWN_TOPIC_OR_PARTITION : kq_admin_error(r);
}

static int16_t add_one(struct kq_request *request,
                       const struct kq_create_partitions_request_topic *wanted, bool check_only,
                       struct kq_str *ret_message)
{
    struct kq_topic *topic;
    int16_t error =
        kq_topics_describe(request, &(struct kq_topic_ref){.name = wanted->name}, &topic);
    if (error)
        return error;
    if (kq_topic_is_internal(kq_topic_name(topic)))
        error = kq_admin_refuse(request, KQ_ERROR_INVALID_TOPIC_EXCEPTION, ret_message,
                                "The broker keeps this topic itself.");
    else
        error = add_to(request, topic, wanted, check_only, ret_message);
    kq_topic_unref(topic);
    return error;
}

enum kq_handled kq_api_create_partitions(struct kq_request *request)
{
    const struct kq_create_partitions_request *body = request->body;
    struct kq_create_partitions_response *response = request->response;
    size_t count = (size_t)body->topics_count;
    bool *repeated;
    struct kq_str *names = kq_arena_array(&request->arena, count, sizeof(*names));
    response->results = kq_create_partitions_response_result_array(&request->arena, count);
    if (!names || !response->results)
        return KQ_HANDLED_CLOSE;
    for (int32_t i = 0; i < body->topics_count; i++)
        names[i] = body->topics[i].name;
    if (find_repeated(&request->arena, names, body->topics_count, &repeated) < 0)
        return KQ_HANDLED_CLOSE;
    response->results_count = body->topics_count;
    for (int32_t i = 0; i < body->topics_count; i++) {
        struct kq_create_partitions_response_result *one = &response->results[i];
        one->name = names[i];
        one->error_code =
            repeated[i]
                ? kq_admin_refuse(request, KQ_ERROR_INVALID_REQUEST, &one->error_message,
                                  "Duplicate topic in request.")
                : add_one(request, &body->topics[i], body->validate_only, &one->error_message);
    }
    return KQ_HANDLED_NOW;
}

/* --- DeleteRecords --- */

/* A log that is only compacted keeps the last of each key: taking its front away is no part of
 * that (Kafka: PolicyViolationException). */
static bool only_compacted(struct kq_topic *topic)
{
    struct kq_topic_config config;
    kq_topic_config(topic, &config);
    return config.compact && !config.log.delete_old;
}

static int16_t delete_before(struct kq_request *request, struct kq_topic *topic, int32_t number,
                             int64_t offset, int64_t *ret_low_watermark)
{
    struct kq_partition *partition;
    struct kq_log_bounds bounds;
    if (kq_partition_get(topic, number, &partition) != 0)
        return KQ_ERROR_UNKNOWN_TOPIC_OR_PARTITION;
    int r = offset < -1 ? KQ_BEYOND : kq_delete_records(partition, &request->caller, offset);
    kq_bounds(partition, &bounds);
    kq_partition_unref(partition);
    if (r == 0)
        *ret_low_watermark = bounds.start;
    if (r == KQ_BEYOND)
        return KQ_ERROR_OFFSET_OUT_OF_RANGE;
    return r == -ESTALE ? KQ_ERROR_UNKNOWN_TOPIC_OR_PARTITION : kq_admin_error(r);
}

static int delete_records_of(struct kq_request *request,
                             const struct kq_delete_records_request_topic *wanted,
                             struct kq_delete_records_response_topic *ret)
{
    struct kq_topic *topic = NULL;
    ret->name = wanted->name;
    ret->partitions = kq_delete_records_response_partition_array(&request->arena,
                                                                 (size_t)wanted->partitions_count);
    if (!ret->partitions)
        return -ENOMEM;
    ret->partitions_count = wanted->partitions_count;
    int16_t error =
        kq_topics_describe(request, &(struct kq_topic_ref){.name = wanted->name}, &topic);
    if (!error && kq_topic_is_internal(kq_topic_name(topic)))
        error = KQ_ERROR_INVALID_TOPIC_EXCEPTION;
    if (!error && only_compacted(topic))
        error = KQ_ERROR_POLICY_VIOLATION;
    for (int32_t i = 0; i < wanted->partitions_count; i++) {
        struct kq_delete_records_response_partition *one = &ret->partitions[i];
        one->partition_index = wanted->partitions[i].partition_index;
        one->low_watermark = -1;
        one->error_code = error ? error
                                : delete_before(request, topic, one->partition_index,
                                                wanted->partitions[i].offset, &one->low_watermark);
    }
    kq_topic_unref(topic);
    return 0;
}

enum kq_handled kq_api_delete_records(struct kq_request *request)
{
    const struct kq_delete_records_request *body = request->body;
    struct kq_delete_records_response *response = request->response;
    response->topics =
        kq_delete_records_response_topic_array(&request->arena, (size_t)body->topics_count);
    if (!response->topics)
        return KQ_HANDLED_CLOSE;
    response->topics_count = body->topics_count;
    for (int32_t i = 0; i < body->topics_count; i++)
        if (delete_records_of(request, &body->topics[i], &response->topics[i]) < 0)
            return KQ_HANDLED_CLOSE;
    return KQ_HANDLED_NOW;
}
