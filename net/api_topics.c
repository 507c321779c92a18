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
    kq_broker_topic_defaults(request->broker, &config);
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

static bool is_of_spec(const void *context, const char *name)
{
    const struct kq_topic_spec *spec = context;
    for (size_t i = 0; i < spec->setting_count; i++)
        if (strcmp(spec->settings[i].name, name) == 0)
            return true;
    return false;
}

/* TOPIC NULL: of what SPEC would make. */
static int configs_of(struct kq_request *request, const struct kq_topic_spec *spec,
                      struct kq_topic *topic, struct kq_admin_config **ret, int32_t *ret_count)
{
    struct kq_topic_config config;
    if (topic)
        return kq_admin_topic_configs(request, topic, ret, ret_count);
    kq_broker_topic_defaults(request->broker, &config);
    int r = kq_topic_config_set_all(&config, spec->settings, spec->setting_count, NULL, NULL);
    return r < 0 ? r : kq_admin_configs(request, &config, is_of_spec, spec, ret, ret_count);
}

static void show_configs(struct kq_request *request, const struct kq_topic_spec *spec,
                         struct kq_topic *topic, struct kq_create_topics_response_topic *ret)
{
    struct kq_admin_config *configs;
    int32_t count;
    if (configs_of(request, spec, topic, &configs, &count) < 0)
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

/* TOPIC NULL: nothing was made, only checked. Without memory the configuration is left out. */
static void describe_created(struct kq_request *request, const struct kq_topic_spec *spec,
                             struct kq_topic *topic, struct kq_create_topics_response_topic *ret)
{
    ret->configs_count = -1;
    if (topic)
        memcpy(ret->topic_id, kq_topic_id(topic), sizeof(ret->topic_id));
    ret->num_partitions = spec->partitions;
    if (ret->num_partitions == 0)
        ret->num_partitions = kq_broker_default_partitions(request->broker);
    ret->replication_factor = 1;
    /* Its owner may, unless the umask or the default ACL took that from him. */
    if (topic &&
        kq_authorize(request->broker, &request->caller, KQ_RIGHT_DESCRIBE_CONFIG, topic, NULL) < 0)
        ret->topic_config_error_code = KQ_ERROR_TOPIC_AUTHORIZATION_FAILED;
    else
        show_configs(request, spec, topic, ret);
}

static int16_t create_one(struct kq_request *request,
                          const struct kq_create_topics_request_topic *topic, bool check_only,
                          struct kq_create_topics_response_topic *ret)
{
    struct kq_topic_spec spec = {.name = kq_admin_string(request, topic->name),
                                 .check_only = check_only};
    struct kq_topic *made = NULL;
    if (!kq_topics_name_valid(topic->name))
        return kq_admin_refuse(request, KQ_ERROR_INVALID_TOPIC_EXCEPTION, &ret->error_message,
                               "A name has 1 to 249 of [a-zA-Z0-9._-], and is not `.` or `..`.");
    if (!spec.name)
        return KQ_ERROR_POLICY_VIOLATION;
    if (kq_topic_is_internal(spec.name))
        return kq_admin_refuse(request, KQ_ERROR_INVALID_TOPIC_EXCEPTION, &ret->error_message,
                               "The broker makes '%s' itself.", spec.name);
    int16_t error = wanted_partitions(request, topic, &spec.partitions, &ret->error_message);
    if (!error)
        error = wanted_settings(request, topic, &spec, &ret->error_message);
    if (error)
        return error;
    error = create_error(request, create(request, &spec, &made), spec.name, &ret->error_message);
    if (!error)
        describe_created(request, &spec, made, ret);
    kq_topic_unref(made);
    return error;
}

enum kq_handled kq_api_create_topics(struct kq_request *request)
{
    const struct kq_create_topics_request *body = request->body;
    struct kq_create_topics_response *response = request->response;
    enum kq_admin_mention *mentions;
    size_t count = (size_t)body->topics_count;
    struct kq_str *names = kq_arena_array(&request->arena, count, sizeof(*names));
    response->topics = kq_create_topics_response_topic_array(&request->arena, count);
    if (!names || !response->topics)
        return KQ_HANDLED_CLOSE;
    for (int32_t i = 0; i < body->topics_count; i++)
        names[i] = body->topics[i].name;
    if (kq_admin_mentions(&request->arena, names, body->topics_count, &mentions) < 0)
        return KQ_HANDLED_CLOSE;
    for (int32_t i = 0; i < body->topics_count; i++) {
        if (mentions[i] == KQ_MENTIONED_BEFORE)
            continue;
        struct kq_create_topics_response_topic *one = &response->topics[response->topics_count++];
        one->name = names[i];
        one->error_message = KQ_STR_NULL;
        one->error_code = mentions[i] == KQ_MENTIONED_AGAIN
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
    int16_t error = kq_topics_find(request, ref, &topic);
    if (error)
        return error;
    if (kq_authorize(request->broker, &request->caller, KQ_RIGHT_DELETE, topic, NULL) < 0) {
        kq_topic_unref(topic);
        return KQ_ERROR_TOPIC_AUTHORIZATION_FAILED;
    }
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

/* Up to v5 topics have names; from v6 on a name or an id, not both. */
static void deletion(const struct kq_delete_topics_request *body, int16_t version, int32_t i,
                     struct kq_topic_ref *ret)
{
    static const uint8_t none[16];
    *ret = (struct kq_topic_ref){.name = version < 6 ? body->topic_names[i] : body->topics[i].name};
    if (version >= 6 && memcmp(body->topics[i].topic_id, none, sizeof(none)) != 0)
        ret->id = body->topics[i].topic_id;
}

static int16_t delete_one_of(struct kq_request *request, const struct kq_topic_ref *ref,
                             bool repeated, struct kq_delete_topics_response_topic *ret)
{
    if (repeated)
        return kq_admin_refuse(request, KQ_ERROR_INVALID_REQUEST, &ret->error_message,
                               "Named twice in one request.");
    if (ref->id && ref->name.length >= 0)
        return kq_admin_refuse(request, KQ_ERROR_INVALID_REQUEST, &ret->error_message,
                               "You may not specify both topic name and topic id.");
    if (!ref->id && ref->name.length < 0)
        return kq_admin_refuse(request, KQ_ERROR_INVALID_REQUEST, &ret->error_message,
                               "Neither topic name nor id were specified.");
    return delete_one(request, ref, ret);
}

/* The id of a topic that the caller may know of, or else its name. */
static struct kq_str id_of(struct kq_request *request, const struct kq_topic_ref *ref)
{
    struct kq_topic *topic;
    if (kq_topics_describe(request, ref, &topic))
        return ref->name;
    const char *id = kq_arena_string(&request->arena, (const char *)kq_topic_id(topic), 16);
    kq_topic_unref(topic);
    return id ? (struct kq_str){id, 16} : ref->name;
}

struct deletions {
    bool *repeated;                  /* named twice, or named and their ids given */
    enum kq_admin_mention *by_names; /* those by id count as mentioned once */
};

static int look_at_deletions(struct kq_request *request, int32_t count, struct deletions *ret)
{
    struct kq_str *keys = kq_arena_array(&request->arena, (size_t)count, sizeof(*keys));
    struct kq_str *names = kq_arena_array(&request->arena, (size_t)count, sizeof(*names));
    struct kq_topic_ref ref;
    if (!keys || !names)
        return -ENOMEM;
    for (int32_t i = 0; i < count; i++) {
        deletion(request->body, request->version, i, &ref);
        keys[i] = ref.id ? (struct kq_str){(const char *)ref.id, 16} : id_of(request, &ref);
        names[i] = ref.id ? KQ_STR_NULL : ref.name;
    }
    int r = kq_admin_repeated(&request->arena, keys, count, &ret->repeated);
    return r < 0 ? r : kq_admin_mentions(&request->arena, names, count, &ret->by_names);
}

enum kq_handled kq_api_delete_topics(struct kq_request *request)
{
    const struct kq_delete_topics_request *body = request->body;
    struct kq_delete_topics_response *response = request->response;
    int32_t count = request->version < 6 ? body->topic_names_count : body->topics_count;
    struct kq_topic_ref ref;
    struct deletions deletions;
    response->responses = kq_delete_topics_response_topic_array(&request->arena, (size_t)count);
    if (!response->responses || look_at_deletions(request, count, &deletions) < 0)
        return KQ_HANDLED_CLOSE;
    for (int32_t i = 0; i < count; i++) {
        if (deletions.by_names[i] == KQ_MENTIONED_BEFORE)
            continue;
        struct kq_delete_topics_response_topic *one =
            &response->responses[response->responses_count++];
        deletion(body, request->version, i, &ref);
        one->name = ref.name;
        if (ref.id)
            memcpy(one->topic_id, ref.id, sizeof(one->topic_id));
        one->error_code = delete_one_of(request, &ref, deletions.repeated[i], one);
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

static int add(struct kq_request *request, struct kq_topic *topic, int32_t first, int32_t count,
               bool check_only)
{
    struct kq_attributes attributes;
    if (check_only)
        return kq_topic_add_partitions(topic, &request->caller, first, count, NULL);
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
        r = add(request, topic, present, wanted->count - present, check_only);
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
    enum kq_admin_mention *mentions;
    struct kq_str *names = kq_arena_array(&request->arena, count, sizeof(*names));
    response->results = kq_create_partitions_response_result_array(&request->arena, count);
    if (!names || !response->results)
        return KQ_HANDLED_CLOSE;
    for (int32_t i = 0; i < body->topics_count; i++)
        names[i] = body->topics[i].name;
    if (kq_admin_mentions(&request->arena, names, body->topics_count, &mentions) < 0)
        return KQ_HANDLED_CLOSE;
    for (int32_t i = 0; i < body->topics_count; i++) {
        if (mentions[i] == KQ_MENTIONED_BEFORE)
            continue;
        struct kq_create_partitions_response_result *one =
            &response->results[response->results_count++];
        one->name = names[i];
        one->error_code =
            mentions[i] == KQ_MENTIONED_AGAIN
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
