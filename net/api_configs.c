/* DescribeConfigs (32), AlterConfigs (33) and IncrementalAlterConfigs (44).
 *
 * A topic's configuration is what getfattr and setfattr on its directory show and set. The broker's
 * own settings can be looked at; they are set in its configuration file, so altering them is
 * refused. */
#include <stdlib.h>
#include <string.h>

#include "net/admin.h"
#include "net/api.h"
#include "net/errmap.h"
#include "net/internal.h"
#include "net/message/alter_configs.h"
#include "net/message/describe_configs.h"
#include "net/message/incremental_alter_configs.h"
#include "net/topics.h"

/* org.apache.kafka.common.config.ConfigResource.Type */
enum resource_type {
    RESOURCE_TOPIC = 2,
    RESOURCE_BROKER = 4,
};

/* --- DescribeConfigs --- */

static bool is_asked(const struct kq_describe_configs_request_resource *resource,
                     struct kq_str name)
{
    for (int32_t i = 0; i < resource->configuration_keys_count; i++)
        if (kq_str_is(resource->configuration_keys[i], name))
            return true;
    return resource->configuration_keys_count < 0;
}

/* As Kafka's: where the value comes from, and behind it what it would be without that. */
static int add_synonyms(struct kq_request *request, const struct kq_admin_config *config,
                        struct kq_describe_configs_response_config *ret)
{
    ret->synonyms = kq_describe_configs_response_synonym_array(&request->arena, 3);
    if (!ret->synonyms)
        return -ENOMEM;
    const struct kq_describe_configs_response_synonym all[] = {
        {config->name, config->value, KQ_SOURCE_TOPIC},
        {config->name, config->broker_value, KQ_SOURCE_STATIC_BROKER},
        {config->name, config->default_value, KQ_SOURCE_DEFAULT},
    };
    for (size_t i = 0; i < kq_array_size(all); i++) {
        bool is_set = all[i].source != KQ_SOURCE_STATIC_BROKER ||
                      !kq_str_is(config->broker_value, config->default_value);
        if (all[i].source >= (int8_t)config->source && is_set)
            ret->synonyms[ret->synonyms_count++] = all[i];
    }
    return 0;
}

static int answer_configs(struct kq_request *request,
                          const struct kq_describe_configs_request_resource *resource,
                          const struct kq_admin_config *configs, int32_t count, bool read_only,
                          struct kq_describe_configs_response_result *ret)
{
    const struct kq_describe_configs_request *body = request->body;
    ret->configs = kq_describe_configs_response_config_array(&request->arena, (size_t)count);
    if (!ret->configs)
        return -ENOMEM;
    for (int32_t i = 0; i < count; i++) {
        if (!is_asked(resource, configs[i].name))
            continue;
        struct kq_describe_configs_response_config *one = &ret->configs[ret->configs_count++];
        one->name = configs[i].name;
        one->value = configs[i].value;
        one->read_only = read_only;
        one->config_source = (int8_t)configs[i].source;
        one->config_type = (int8_t)configs[i].type;
        one->documentation = KQ_STR_NULL;
        if (body->include_synonyms && add_synonyms(request, &configs[i], one) < 0)
            return -ENOMEM;
    }
    return 0;
}

static int describe_topic(struct kq_request *request,
                          const struct kq_describe_configs_request_resource *resource,
                          struct kq_describe_configs_response_result *ret)
{
    struct kq_topic *topic;
    struct kq_admin_config *configs;
    int32_t count;
    ret->error_code = kq_topics_describe(
        request, &(struct kq_topic_ref){.name = resource->resource_name}, &topic);
    if (ret->error_code)
        return 0;
    int r = 0;
    if (kq_authorize(request->broker, &request->caller, KQ_RIGHT_DESCRIBE_CONFIG, topic, NULL) < 0)
        ret->error_code = KQ_ERROR_TOPIC_AUTHORIZATION_FAILED;
    else
        r = kq_admin_topic_configs(request, topic, &configs, &count);
    kq_topic_unref(topic);
    return r < 0 || ret->error_code ? r
                                    : answer_configs(request, resource, configs, count, false, ret);
}

/* The name is the broker's number; "" would mean what all brokers of a cluster get at run time, of
 * which there is nothing. */
static bool is_this_broker(struct kq_request *request, struct kq_str name)
{
    char *text = kq_admin_string(request, name), *end;
    if (!text || !*text)
        return false;
    long number = strtol(text, &end, 10);
    return !*end && number == kq_broker_node_id(request->broker);
}

struct gathering {
    struct kq_request *request;
    struct kq_admin_config *configs;
    int32_t count, capacity;
    int r;
};

static int grow(struct gathering *gathering)
{
    int32_t capacity = gathering->capacity ? 2 * gathering->capacity : 64;
    struct kq_admin_config *configs =
        kq_arena_array(&gathering->request->arena, (size_t)capacity, sizeof(*configs));
    if (!configs)
        return -ENOMEM;
    if (gathering->count)
        memcpy(configs, gathering->configs, (size_t)gathering->count * sizeof(*configs));
    gathering->configs = configs;
    gathering->capacity = capacity;
    return 0;
}

static struct kq_str keep(struct gathering *gathering, const char *string)
{
    char *copy = kq_arena_string(&gathering->request->arena, string, strlen(string));
    if (!copy)
        gathering->r = -ENOMEM;
    return kq_str_of(copy);
}

static void gather(void *context, const struct kq_server_setting *setting)
{
    struct gathering *gathering = context;
    if (gathering->count == gathering->capacity && grow(gathering) < 0)
        gathering->r = -ENOMEM;
    if (gathering->r < 0)
        return;
    struct kq_str value = keep(gathering, setting->value);
    gathering->configs[gathering->count++] = (struct kq_admin_config){
        .name = keep(gathering, setting->name),
        .value = value,
        .source = setting->is_default ? KQ_SOURCE_DEFAULT : KQ_SOURCE_STATIC_BROKER,
        .type = setting->is_number ? KQ_CONFIG_LONG : KQ_CONFIG_STRING,
        .broker_value = value,
        .default_value = setting->is_default ? value : keep(gathering, setting->fallback),
    };
}

static int describe_broker(struct kq_request *request,
                           const struct kq_describe_configs_request_resource *resource,
                           struct kq_describe_configs_response_result *ret)
{
    const struct kq_server_options *options = &request->server->options;
    struct gathering gathering = {.request = request};
    if (resource->resource_name.length == 0)
        return 0;
    if (!is_this_broker(request, resource->resource_name)) {
        ret->error_code =
            kq_admin_refuse(request, KQ_ERROR_INVALID_REQUEST, &ret->error_message,
                            "There is only broker %d.", kq_broker_node_id(request->broker));
        return 0;
    }
    if (kq_authorize(request->broker, &request->caller, KQ_RIGHT_LIST, NULL, NULL) < 0) {
        ret->error_code = KQ_ERROR_CLUSTER_AUTHORIZATION_FAILED;
        return 0;
    }
    if (options->each_setting)
        options->each_setting(options->setting_context, gather, &gathering);
    if (gathering.r < 0)
        return gathering.r;
    return answer_configs(request, resource, gathering.configs, gathering.count, true, ret);
}

static int describe(struct kq_request *request,
                    const struct kq_describe_configs_request_resource *resource,
                    struct kq_describe_configs_response_result *ret)
{
    ret->resource_type = resource->resource_type;
    ret->resource_name = resource->resource_name;
    ret->error_message = KQ_STR_NULL;
    if (resource->resource_type == RESOURCE_TOPIC)
        return describe_topic(request, resource, ret);
    if (resource->resource_type == RESOURCE_BROKER)
        return describe_broker(request, resource, ret);
    ret->error_code = kq_admin_refuse(request, KQ_ERROR_INVALID_REQUEST, &ret->error_message,
                                      "Only topics and brokers have configurations here.");
    return 0;
}

enum kq_handled kq_api_describe_configs(struct kq_request *request)
{
    const struct kq_describe_configs_request *body = request->body;
    struct kq_describe_configs_response *response = request->response;
    response->results =
        kq_describe_configs_response_result_array(&request->arena, (size_t)body->resources_count);
    if (!response->results)
        return KQ_HANDLED_CLOSE;
    response->results_count = body->resources_count;
    for (int32_t i = 0; i < body->resources_count; i++)
        if (describe(request, &body->resources[i], &response->results[i]) < 0)
            return KQ_HANDLED_CLOSE;
    return KQ_HANDLED_NOW;
}

/* --- Altering --- */

static int16_t refused(struct kq_request *request, int r, const struct kq_topic_refusal *refusal,
                       struct kq_str *ret_message)
{
    if (r == -ENOTSUP || r == -EINVAL)
        return kq_admin_refuse(request, KQ_ERROR_INVALID_CONFIG, ret_message, "%s: %s",
                               refusal->name, refusal->reason);
    return r == -ESTALE ? KQ_ERROR_UNKNOWN_TOPIC_OR_PARTITION : kq_admin_error(r);
}

/* A topic that may be altered; only topics may. */
static int16_t find_altered(struct kq_request *request, int8_t type, struct kq_str name,
                            struct kq_topic **ret, struct kq_str *ret_message)
{
    if (type == RESOURCE_BROKER)
        return kq_admin_refuse(request, KQ_ERROR_INVALID_REQUEST, ret_message,
                               "The broker's settings are set in its configuration file, see "
                               "kqfs.conf(5).");
    if (type != RESOURCE_TOPIC)
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

static int16_t alter(struct kq_request *request, struct kq_topic *topic,
                     const struct kq_topic_alteration *alteration, struct kq_str *ret_message)
{
    struct kq_topic_refusal refusal = {"", ""};
    int r = kq_topic_alter_config(topic, &request->caller, alteration, &refusal);
    return r == 0 ? KQ_ERROR_NONE : refused(request, r, &refusal, ret_message);
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

static int16_t replace_configs(struct kq_request *request,
                               const struct kq_alter_configs_request_resource *resource,
                               bool check_only, struct kq_str *ret_message)
{
    struct kq_topic *topic;
    struct kq_topic_alteration alteration = {.replace = true, .check_only = check_only};
    struct kq_topic_setting *changes =
        kq_arena_array(&request->arena, (size_t)resource->configs_count + 1, sizeof(*changes));
    if (!changes)
        return KQ_ERROR_POLICY_VIOLATION;
    int16_t error = KQ_ERROR_NONE;
    for (int32_t i = 0; i < resource->configs_count && !error; i++) {
        const struct kq_alter_configs_request_config *one = &resource->configs[i];
        const char *value = kq_admin_string(request, one->value);
        error = value
                    ? add_change(request, changes, &alteration.count, one->name, value, ret_message)
                    : kq_admin_refuse(request, KQ_ERROR_INVALID_REQUEST, ret_message,
                                      "Null value not supported for : %.*s", one->name.length,
                                      one->name.data);
    }
    if (!error)
        error = find_altered(request, resource->resource_type, resource->resource_name, &topic,
                             ret_message);
    if (error)
        return error;
    alteration.changes = changes;
    error = alter(request, topic, &alteration, ret_message);
    kq_topic_unref(topic);
    return error;
}

enum kq_handled kq_api_alter_configs(struct kq_request *request)
{
    const struct kq_alter_configs_request *body = request->body;
    struct kq_alter_configs_response *response = request->response;
    response->responses =
        kq_alter_configs_response_resource_array(&request->arena, (size_t)body->resources_count);
    if (!response->responses)
        return KQ_HANDLED_CLOSE;
    response->responses_count = body->resources_count;
    for (int32_t i = 0; i < body->resources_count; i++) {
        struct kq_alter_configs_response_resource *one = &response->responses[i];
        one->resource_type = body->resources[i].resource_type;
        one->resource_name = body->resources[i].resource_name;
        one->error_message = KQ_STR_NULL;
        one->error_code =
            replace_configs(request, &body->resources[i], body->validate_only, &one->error_message);
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

static bool has_word(const char *list, const char *word, size_t length)
{
    while (*list) {
        size_t one = strcspn(list, ",");
        if (one == length && memcmp(list, word, length) == 0)
            return true;
        list += one + (list[one] == ',');
    }
    return false;
}

static void add_word(char *list, const char *word, size_t length)
{
    if (*list)
        strcat(list, ",");
    strncat(list, word, length);
}

/* The words of PRESENT with those of VALUE, or without them. NULL without memory. */
static char *changed_list(struct kq_request *request, const char *present, const char *value,
                          bool append)
{
    size_t size = strlen(present) + strlen(value) + 2;
    char *list = kq_arena_alloc(&request->arena, size);
    if (!list)
        return NULL;
    for (const char *at = present; *at;) {
        size_t length = strcspn(at, ",");
        if (append || !has_word(value, at, length))
            add_word(list, at, length);
        at += length + (at[length] == ',');
    }
    for (const char *at = value; append && *at;) {
        size_t length = strcspn(at, ",");
        if (!has_word(list, at, length))
            add_word(list, at, length);
        at += length + (at[length] == ',');
    }
    return list;
}

static int16_t change_list(struct kq_request *request, struct kq_topic *topic,
                           const struct kq_incremental_alter_configs_request_config *one,
                           const char **ret_value, struct kq_str *ret_message)
{
    struct kq_topic_config config;
    kq_autobuf struct kq_buf present = {0};
    const char *name = kq_admin_string(request, one->name);
    const char *value = kq_admin_string(request, one->value);
    if (!name || !kq_topic_config_known(name) ||
        kq_topic_config_type(name) != KQ_TOPIC_SETTING_LIST)
        return kq_admin_refuse(request, KQ_ERROR_INVALID_CONFIG, ret_message,
                               "Config value append is not allowed for config key: %.*s",
                               one->name.length, one->name.data);
    kq_topic_config(topic, &config);
    if (!value || kq_topic_config_format(&config, name, &present) < 0 ||
        kq_buf_append(&present, "", 1) < 0)
        return KQ_ERROR_INVALID_REQUEST;
    *ret_value = changed_list(request, (const char *)present.data, value,
                              one->config_operation == OPERATION_APPEND);
    return *ret_value ? KQ_ERROR_NONE : KQ_ERROR_POLICY_VIOLATION;
}

static int16_t new_value(struct kq_request *request, struct kq_topic *topic,
                         const struct kq_incremental_alter_configs_request_config *one,
                         const char **ret_value, struct kq_str *ret_message)
{
    switch (one->config_operation) {
    case OPERATION_SET:
        *ret_value = kq_admin_string(request, one->value);
        if (*ret_value)
            return KQ_ERROR_NONE;
        return kq_admin_refuse(request, KQ_ERROR_INVALID_REQUEST, ret_message,
                               "Null value not supported for : %.*s", one->name.length,
                               one->name.data);
    case OPERATION_DELETE:
        *ret_value = NULL;
        return KQ_ERROR_NONE;
    case OPERATION_APPEND:
    case OPERATION_SUBTRACT:
        return change_list(request, topic, one, ret_value, ret_message);
    default:
        return kq_admin_refuse(request, KQ_ERROR_INVALID_REQUEST, ret_message,
                               "Unknown operation %d.", one->config_operation);
    }
}

static int16_t change_configs(struct kq_request *request, struct kq_topic *topic,
                              const struct kq_incremental_alter_configs_request_resource *resource,
                              bool check_only, struct kq_str *ret_message)
{
    struct kq_topic_alteration alteration = {.check_only = check_only};
    struct kq_topic_setting *changes =
        kq_arena_array(&request->arena, (size_t)resource->configs_count + 1, sizeof(*changes));
    if (!changes)
        return KQ_ERROR_POLICY_VIOLATION;
    for (int32_t i = 0; i < resource->configs_count; i++) {
        const char *value;
        int16_t error = new_value(request, topic, &resource->configs[i], &value, ret_message);
        if (!error)
            error = add_change(request, changes, &alteration.count, resource->configs[i].name,
                               value, ret_message);
        if (error)
            return error;
    }
    alteration.changes = changes;
    return alter(request, topic, &alteration, ret_message);
}

static int16_t change_resource(struct kq_request *request,
                               const struct kq_incremental_alter_configs_request_resource *resource,
                               bool check_only, struct kq_str *ret_message)
{
    struct kq_topic *topic;
    int16_t error = find_altered(request, resource->resource_type, resource->resource_name, &topic,
                                 ret_message);
    if (error)
        return error;
    error = change_configs(request, topic, resource, check_only, ret_message);
    kq_topic_unref(topic);
    return error;
}

enum kq_handled kq_api_incremental_alter_configs(struct kq_request *request)
{
    const struct kq_incremental_alter_configs_request *body = request->body;
    struct kq_incremental_alter_configs_response *response = request->response;
    response->responses = kq_incremental_alter_configs_response_resource_array(
        &request->arena, (size_t)body->resources_count);
    if (!response->responses)
        return KQ_HANDLED_CLOSE;
    response->responses_count = body->resources_count;
    for (int32_t i = 0; i < body->resources_count; i++) {
        struct kq_incremental_alter_configs_response_resource *one = &response->responses[i];
        one->resource_type = body->resources[i].resource_type;
        one->resource_name = body->resources[i].resource_name;
        one->error_message = KQ_STR_NULL;
        one->error_code =
            change_resource(request, &body->resources[i], body->validate_only, &one->error_message);
    }
    return KQ_HANDLED_NOW;
}
