/* DescribeConfigs (32): topics' settings, and those of the broker. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "net/admin.h"
#include "net/api.h"
#include "net/errmap.h"
#include "net/internal.h"
#include "net/message/describe_configs.h"
#include "net/topics.h"

static bool is_asked(const struct kq_describe_configs_request_resource *resource,
                     struct kq_str name)
{
    for (int32_t i = 0; i < resource->configuration_keys_count; i++)
        if (kq_str_is(resource->configuration_keys[i], name))
            return true;
    return resource->configuration_keys_count <= 0;
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
        {config->broker_name, config->broker_value, KQ_SOURCE_STATIC_BROKER},
        {config->broker_name, config->default_value, KQ_SOURCE_DEFAULT},
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

/* --- The broker's --- */

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

static bool is_of_nobody(const void *context, const char *name)
{
    return false;
}

static struct kq_str keep(struct gathering *gathering, const char *string)
{
    char *copy = kq_arena_string(&gathering->request->arena, string, strlen(string));
    if (!copy)
        gathering->r = -ENOMEM;
    return kq_str_of(copy);
}

static void add(struct gathering *gathering, const struct kq_admin_config *config)
{
    if (gathering->count == gathering->capacity && grow(gathering) < 0)
        gathering->r = -ENOMEM;
    if (gathering->r == 0)
        gathering->configs[gathering->count++] = *config;
}

static void gather(void *context, const struct kq_server_setting *setting)
{
    struct gathering *gathering = context;
    struct kq_admin_config config = {
        .name = keep(gathering, setting->name),
        .value = keep(gathering, setting->value),
        .source = setting->is_default ? KQ_SOURCE_DEFAULT : KQ_SOURCE_STATIC_BROKER,
        .type = setting->is_number ? KQ_CONFIG_LONG
                : setting->is_flag ? KQ_CONFIG_BOOLEAN
                                   : KQ_CONFIG_STRING,
        .default_value = keep(gathering, setting->fallback),
    };
    config.broker_name = config.name;
    config.broker_value = config.value;
    add(gathering, &config);
}

/* What topics have that set nothing themselves, as Kafka names it for a broker. */
static void gather_topic_defaults(struct gathering *gathering)
{
    struct kq_topic_config config;
    struct kq_admin_config *configs;
    int32_t count;
    kq_broker_topic_defaults(gathering->request->broker, &config);
    if (kq_admin_configs(gathering->request, &config, is_of_nobody, NULL, &configs, &count) < 0) {
        gathering->r = -ENOMEM;
        return;
    }
    for (int32_t i = 0; i < count; i++) {
        configs[i].name = configs[i].broker_name;
        add(gathering, &configs[i]);
    }
}

/* Settings that Kafka's tools ask for and that are what they are here. */
static void gather_facts(struct gathering *gathering)
{
    const struct kq_request *request = gathering->request;
    char number[16];
    snprintf(number, sizeof(number), "%d", kq_broker_node_id(request->broker));
    const struct kq_server_setting facts[] = {
        {.name = "broker.id", .value = number, .is_number = true},
        {.name = "default.replication.factor", .value = "1", .is_number = true},
        {.name = "delete.topic.enable", .value = "true", .is_flag = true},
        {.name = "listeners", .value = request->server->options.listen},
        {.name = "log.dirs", .value = kq_broker_data_dir(request->broker)},
        {.name = "node.id", .value = number, .is_number = true},
    };
    for (size_t i = 0; i < kq_array_size(facts); i++) {
        struct kq_server_setting fact = facts[i];
        fact.is_default = true;
        fact.fallback = fact.value;
        gather(gathering, &fact);
    }
}

static int in_order(const void *left, const void *right)
{
    const struct kq_admin_config *a = left, *b = right;
    return strcmp(a->name.data, b->name.data); /* all of them are terminated */
}

static int gather_all(struct gathering *gathering)
{
    const struct kq_server_options *options = &gathering->request->server->options;
    if (options->each_setting)
        options->each_setting(options->setting_context, gather, gathering);
    gather_topic_defaults(gathering);
    gather_facts(gathering);
    if (gathering->r == 0)
        qsort(gathering->configs, (size_t)gathering->count, sizeof(*gathering->configs), in_order);
    return gathering->r;
}

static int describe_broker(struct kq_request *request,
                           const struct kq_describe_configs_request_resource *resource,
                           struct kq_describe_configs_response_result *ret)
{
    struct gathering gathering = {.request = request};
    if (resource->resource_name.length == 0)
        return 0;
    if (!kq_admin_is_broker(request, resource->resource_name)) {
        ret->error_code =
            kq_admin_refuse(request, KQ_ERROR_INVALID_REQUEST, &ret->error_message,
                            "There is only broker %d.", kq_broker_node_id(request->broker));
        return 0;
    }
    if (kq_authorize(request->broker, &request->caller, KQ_RIGHT_LIST, NULL, NULL) < 0) {
        ret->error_code = KQ_ERROR_CLUSTER_AUTHORIZATION_FAILED;
        return 0;
    }
    int r = gather_all(&gathering);
    if (r < 0)
        return r;
    return answer_configs(request, resource, gathering.configs, gathering.count, true, ret);
}

static int describe(struct kq_request *request,
                    const struct kq_describe_configs_request_resource *resource,
                    struct kq_describe_configs_response_result *ret)
{
    ret->resource_type = resource->resource_type;
    ret->resource_name = resource->resource_name;
    ret->error_message = KQ_STR_NULL;
    if (resource->resource_type == KQ_RESOURCE_TOPIC)
        return describe_topic(request, resource, ret);
    if (resource->resource_type == KQ_RESOURCE_BROKER)
        return describe_broker(request, resource, ret);
    if (resource->resource_type == KQ_RESOURCE_CLIENT_METRICS && resource->resource_name.length > 0)
        return 0; /* nobody has subscribed to any */
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
