/* AlterConfigs (33) and IncrementalAlterConfigs (44).
 *
 * A topic's configuration is what getfattr and setfattr on its directory show and set. The broker's
 * own settings are set in its configuration file, so altering them is refused. Each resource of a
 * request stands for itself, with all of its changes or none. */
#include <string.h>

#include "net/admin.h"
#include "net/api.h"
#include "net/errmap.h"
#include "net/message/alter_configs.h"
#include "net/message/incremental_alter_configs.h"
#include "net/topics.h"

/* What a resource is told by. NULL without memory. */
static const char *key_of(struct kq_request *request, int8_t type, struct kq_str name,
                          struct kq_str *ret)
{
    size_t length = name.length > 0 ? (size_t)name.length : 0;
    char *key = kq_arena_alloc(&request->arena, length + 1);
    if (!key)
        return NULL;
    key[0] = (char)type;
    if (length)
        memcpy(key + 1, name.data, length);
    *ret = (struct kq_str){key, (int32_t)length + 1};
    return key;
}

static int16_t refuse_repeated(struct kq_request *request, struct kq_str *ret_message)
{
    return kq_admin_refuse(request, KQ_ERROR_INVALID_REQUEST, ret_message,
                           "Each resource must appear at most once.");
}

static int16_t null_value(struct kq_request *request, struct kq_str name,
                          struct kq_str *ret_message)
{
    return kq_admin_refuse(request, KQ_ERROR_INVALID_REQUEST, ret_message,
                           "Null value not supported for : %.*s", name.length, name.data);
}

static int16_t altered(struct kq_request *request, int r, const struct kq_topic_refusal *refusal,
                       struct kq_str *ret_message)
{
    if (r == -ENOTSUP || r == -EINVAL)
        return kq_admin_refuse(request, KQ_ERROR_INVALID_CONFIG, ret_message, "%s: %s",
                               refusal->name, refusal->reason);
    return r == -ESTALE ? KQ_ERROR_UNKNOWN_TOPIC_OR_PARTITION : kq_admin_error(r);
}

static int16_t refuse_broker(struct kq_request *request, struct kq_str *ret_message)
{
    return kq_admin_refuse(request, KQ_ERROR_INVALID_REQUEST, ret_message,
                           "The broker's settings are set in its configuration file, see "
                           "kqfs.conf(5).");
}

/* A topic that may be altered; only topics may. */
static int16_t find_altered(struct kq_request *request, int8_t type, struct kq_str name,
                            struct kq_topic **ret, struct kq_str *ret_message)
{
    if (type == KQ_RESOURCE_BROKER)
        return refuse_broker(request, ret_message);
    if (type != KQ_RESOURCE_TOPIC)
        return kq_admin_refuse(request, KQ_ERROR_INVALID_REQUEST, ret_message,
                               "Only topics have configurations that can be altered here.");
    int16_t error = kq_topics_describe(request, &(struct kq_topic_ref){.name = name}, ret);
    if (error)
        return error;
    if (!kq_topic_is_internal(kq_topic_name(*ret)))
        return KQ_ERROR_NONE;
    kq_topic_unref(*ret);
    return kq_admin_refuse(request, KQ_ERROR_INVALID_TOPIC_EXCEPTION, ret_message,
                           "The broker keeps this topic itself.");
}

/* NAME in CHANGES, or NULL. */
static const struct kq_topic_setting *find_change(const struct kq_topic_setting *changes,
                                                  size_t count, const char *name)
{
    for (size_t i = 0; i < count; i++)
        if (strcmp(changes[i].name, name) == 0)
            return &changes[i];
    return NULL;
}

static int16_t add_change(struct kq_request *request, struct kq_topic_setting *changes,
                          size_t *count, struct kq_str name, const char *value,
                          struct kq_str *ret_message)
{
    char *copy = kq_admin_string(request, name);
    if (!copy || !kq_topic_config_known(copy))
        return kq_admin_refuse(request, KQ_ERROR_INVALID_CONFIG, ret_message,
                               "Unknown topic config name: %.*s", name.length > 0 ? name.length : 0,
                               name.data ? name.data : "");
    if (find_change(changes, *count, copy))
        return kq_admin_refuse(request, KQ_ERROR_INVALID_REQUEST, ret_message,
                               "Error due to duplicate config keys: %s", copy);
    changes[(*count)++] = (struct kq_topic_setting){copy, value};
    return KQ_ERROR_NONE;
}

/* --- AlterConfigs: what is not named goes back to its default --- */

static int16_t named_changes(struct kq_request *request,
                             const struct kq_alter_configs_request_resource *resource,
                             struct kq_topic_setting *ret, size_t *ret_count,
                             struct kq_str *ret_message)
{
    int16_t error = KQ_ERROR_NONE;
    for (int32_t i = 0; i < resource->configs_count && !error; i++) {
        const struct kq_alter_configs_request_config *one = &resource->configs[i];
        const char *value = kq_admin_string(request, one->value);
        error = value ? add_change(request, ret, ret_count, one->name, value, ret_message)
                      : null_value(request, one->name, ret_message);
    }
    return error;
}

static int16_t replace_configs(struct kq_request *request,
                               const struct kq_alter_configs_request_resource *resource,
                               bool check_only, struct kq_str *ret_message)
{
    struct kq_topic *topic;
    struct kq_topic_refusal refusal = {"", ""};
    struct kq_topic_alteration alteration = {.replace = true, .check_only = check_only};
    struct kq_topic_setting *changes =
        kq_arena_array(&request->arena, (size_t)resource->configs_count + 1, sizeof(*changes));
    if (!changes)
        return KQ_ERROR_POLICY_VIOLATION;
    int16_t error = find_altered(request, resource->resource_type, resource->resource_name, &topic,
                                 ret_message);
    if (error)
        return error;
    error = named_changes(request, resource, changes, &alteration.count, ret_message);
    if (!error) {
        alteration.changes = changes;
        int r = kq_topic_alter_config(topic, &request->caller, &alteration, &refusal);
        error = altered(request, r, &refusal, ret_message);
    }
    kq_topic_unref(topic);
    return error;
}

static int find_repeated(struct kq_request *request, bool **ret)
{
    const struct kq_alter_configs_request *body = request->body;
    struct kq_str *keys =
        kq_arena_array(&request->arena, (size_t)body->resources_count, sizeof(*keys));
    if (!keys)
        return -ENOMEM;
    for (int32_t i = 0; i < body->resources_count; i++)
        if (!key_of(request, body->resources[i].resource_type, body->resources[i].resource_name,
                    &keys[i]))
            return -ENOMEM;
    return kq_admin_repeated(&request->arena, keys, body->resources_count, ret);
}

enum kq_handled kq_api_alter_configs(struct kq_request *request)
{
    const struct kq_alter_configs_request *body = request->body;
    struct kq_alter_configs_response *response = request->response;
    bool *repeated;
    response->responses =
        kq_alter_configs_response_resource_array(&request->arena, (size_t)body->resources_count);
    if (!response->responses || find_repeated(request, &repeated) < 0)
        return KQ_HANDLED_CLOSE;
    response->responses_count = body->resources_count;
    for (int32_t i = 0; i < body->resources_count; i++) {
        const struct kq_alter_configs_request_resource *resource = &body->resources[i];
        struct kq_alter_configs_response_resource *one = &response->responses[i];
        one->resource_type = resource->resource_type;
        one->resource_name = resource->resource_name;
        one->error_message = KQ_STR_NULL;
        one->error_code = repeated[i] ? refuse_repeated(request, &one->error_message)
                                      : replace_configs(request, resource, body->validate_only,
                                                        &one->error_message);
    }
    return KQ_HANDLED_NOW;
}

/* --- IncrementalAlterConfigs (KIP-339) --- */

/* org.apache.kafka.clients.admin.AlterConfigOp.OpType */
enum operation {
    OPERATION_SET,
    OPERATION_DELETE,
    OPERATION_APPEND,
    OPERATION_SUBTRACT,
};

/* What becomes of a topic's settings, and what that was made from. */
struct plan {
    struct kq_topic_setting *changes, *expected;
    size_t count, expected_count;
};

static const char *present_value(struct kq_request *request, struct kq_topic *topic,
                                 const char *name)
{
    struct kq_topic_config config;
    kq_autobuf struct kq_buf value = {0};
    kq_topic_config(topic, &config);
    if (kq_topic_config_format(&config, name, &value) < 0)
        return NULL;
    return kq_arena_string(&request->arena, (const char *)value.data, value.length);
}

static int16_t change_list(struct kq_request *request, struct kq_topic *topic,
                           const struct kq_incremental_alter_configs_request_config *one,
                           struct plan *plan, const char **ret_value, struct kq_str *ret_message)
{
    const char *name = kq_admin_string(request, one->name);
    const char *value = kq_admin_string(request, one->value);
    bool append = one->config_operation == OPERATION_APPEND;
    if (!name || !kq_topic_config_known(name) ||
        kq_topic_config_type(name) != KQ_TOPIC_SETTING_LIST)
        return kq_admin_refuse(request, KQ_ERROR_INVALID_CONFIG, ret_message,
                               "Can't %s to key %.*s because its type is not LIST.",
                               append ? "APPEND" : "SUBTRACT", one->name.length, one->name.data);
    if (!value)
        return null_value(request, one->name, ret_message);
    const char *present = present_value(request, topic, name);
    *ret_value = present ? kq_admin_change_list(&request->arena, present, value, append) : NULL;
    if (!*ret_value)
        return KQ_ERROR_POLICY_VIOLATION;
    plan->expected[plan->expected_count++] = (struct kq_topic_setting){name, present};
    return KQ_ERROR_NONE;
}

static int16_t new_value(struct kq_request *request, struct kq_topic *topic,
                         const struct kq_incremental_alter_configs_request_config *one,
                         struct plan *plan, const char **ret_value, struct kq_str *ret_message)
{
    switch (one->config_operation) {
    case OPERATION_SET:
        *ret_value = kq_admin_string(request, one->value);
        return *ret_value ? KQ_ERROR_NONE : null_value(request, one->name, ret_message);
    case OPERATION_DELETE:
        *ret_value = NULL;
        return KQ_ERROR_NONE;
    case OPERATION_APPEND:
    case OPERATION_SUBTRACT:
        return change_list(request, topic, one, plan, ret_value, ret_message);
    default:
        return kq_admin_refuse(request, KQ_ERROR_INVALID_REQUEST, ret_message,
                               "Unknown operation %d.", one->config_operation);
    }
}

static bool is_known(struct kq_request *request, struct kq_str name)
{
    const char *copy = kq_admin_string(request, name);
    return copy && kq_topic_config_known(copy);
}

static int16_t make_plan(struct kq_request *request, struct kq_topic *topic,
                         const struct kq_incremental_alter_configs_request_resource *resource,
                         struct plan *plan, struct kq_str *ret_message)
{
    size_t most = (size_t)resource->configs_count + 1;
    plan->changes = kq_arena_array(&request->arena, most, sizeof(*plan->changes));
    plan->expected = kq_arena_array(&request->arena, most, sizeof(*plan->expected));
    if (!plan->changes || !plan->expected)
        return KQ_ERROR_POLICY_VIOLATION;
    for (int32_t i = 0; i < resource->configs_count; i++) {
        const struct kq_incremental_alter_configs_request_config *one = &resource->configs[i];
        const char *value;
        if (one->config_operation == OPERATION_DELETE && !is_known(request, one->name))
            continue; /* as Kafka does: such a one is not set, so that is done */
        int16_t error = new_value(request, topic, one, plan, &value, ret_message);
        if (!error)
            error = add_change(request, plan->changes, &plan->count, one->name, value, ret_message);
        if (error)
            return error;
    }
    return KQ_ERROR_NONE;
}

static int16_t change_configs(struct kq_request *request, struct kq_topic *topic,
                              const struct kq_incremental_alter_configs_request_resource *resource,
                              bool check_only, struct kq_str *ret_message)
{
    struct kq_topic_refusal refusal = {"", ""};
    int r;
    do { /* again where somebody else changes a list at the same time */
        struct plan plan = {0};
        int16_t error = make_plan(request, topic, resource, &plan, ret_message);
        if (error)
            return error;
        struct kq_topic_alteration alteration = {.changes = plan.changes,
                                                 .count = plan.count,
                                                 .expected = plan.expected,
                                                 .expected_count = plan.expected_count,
                                                 .check_only = check_only};
        r = kq_topic_alter_config(topic, &request->caller, &alteration, &refusal);
    } while (r == -EAGAIN);
    return altered(request, r, &refusal, ret_message);
}

/* Nothing is set at run time, so that all of it can be taken back: kafka-reassign-partitions
 * --verify does that to its limits of replication. */
static int16_t change_broker(struct kq_request *request,
                             const struct kq_incremental_alter_configs_request_resource *resource,
                             struct kq_str *ret_message)
{
    if (kq_authorize(request->broker, &request->caller, KQ_RIGHT_CHANGE_ATTRIBUTES, NULL, NULL) < 0)
        return KQ_ERROR_CLUSTER_AUTHORIZATION_FAILED;
    if (resource->resource_name.length && !kq_admin_is_broker(request, resource->resource_name))
        return kq_admin_refuse(request, KQ_ERROR_INVALID_REQUEST, ret_message,
                               "There is only broker %d.", kq_broker_node_id(request->broker));
    for (int32_t i = 0; i < resource->configs_count; i++)
        if (resource->configs[i].config_operation != OPERATION_DELETE)
            return refuse_broker(request, ret_message);
    return KQ_ERROR_NONE;
}

static int16_t change_resource(struct kq_request *request,
                               const struct kq_incremental_alter_configs_request_resource *resource,
                               bool check_only, struct kq_str *ret_message)
{
    struct kq_topic *topic;
    if (resource->resource_type == KQ_RESOURCE_BROKER)
        return change_broker(request, resource, ret_message);
    int16_t error = find_altered(request, resource->resource_type, resource->resource_name, &topic,
                                 ret_message);
    if (error)
        return error;
    error = change_configs(request, topic, resource, check_only, ret_message);
    kq_topic_unref(topic);
    return error;
}

static int find_incremental_repeated(struct kq_request *request, bool **ret)
{
    const struct kq_incremental_alter_configs_request *body = request->body;
    struct kq_str *keys =
        kq_arena_array(&request->arena, (size_t)body->resources_count, sizeof(*keys));
    if (!keys)
        return -ENOMEM;
    for (int32_t i = 0; i < body->resources_count; i++)
        if (!key_of(request, body->resources[i].resource_type, body->resources[i].resource_name,
                    &keys[i]))
            return -ENOMEM;
    return kq_admin_repeated(&request->arena, keys, body->resources_count, ret);
}

enum kq_handled kq_api_incremental_alter_configs(struct kq_request *request)
{
    const struct kq_incremental_alter_configs_request *body = request->body;
    struct kq_incremental_alter_configs_response *response = request->response;
    bool *repeated;
    response->responses = kq_incremental_alter_configs_response_resource_array(
        &request->arena, (size_t)body->resources_count);
    if (!response->responses || find_incremental_repeated(request, &repeated) < 0)
        return KQ_HANDLED_CLOSE;
    response->responses_count = body->resources_count;
    for (int32_t i = 0; i < body->resources_count; i++) {
        const struct kq_incremental_alter_configs_request_resource *resource = &body->resources[i];
        struct kq_incremental_alter_configs_response_resource *one = &response->responses[i];
        one->resource_type = resource->resource_type;
        one->resource_name = resource->resource_name;
        one->error_message = KQ_STR_NULL;
        one->error_code = repeated[i] ? refuse_repeated(request, &one->error_message)
                                      : change_resource(request, resource, body->validate_only,
                                                        &one->error_message);
    }
    return KQ_HANDLED_NOW;
}
