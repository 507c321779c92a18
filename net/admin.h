/* What the administration's handlers share: strings, refusals with a reason, configurations. All
 * memory comes from the request's arena. Any thread that runs the request. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "broker/broker.h"
#include "net/request.h"

/* STRING, terminated; NULL for null, where it has a NUL inside, or without memory. */
char *kq_admin_string(struct kq_request *request, struct kq_str string);

/* Sets RET_MESSAGE to the text (left alone without memory) and returns CODE. */
int16_t kq_admin_refuse(struct kq_request *request, int16_t code, struct kq_str *ret_message,
                        const char *format, ...) kq_printf_like(4, 5);

/* Is NAME this broker's number, as a resource of type KQ_RESOURCE_BROKER is named? ("" would mean
 * what all brokers of a cluster get at run time, of which there is nothing.) */
bool kq_admin_is_broker(struct kq_request *request, struct kq_str name);

/* As kq_error_from; what a caller may not do with a topic is TOPIC_AUTHORIZATION_FAILED. */
int16_t kq_admin_error(int result);

/* For each of COUNT keys the index of the first one that is equal to it: its own where none comes
 * before. Null keys (length -1) equal nothing. By sorting: whoever chooses the keys cannot make it
 * slow. 0; -ENOMEM. */
int kq_admin_firsts(struct kq_arena *arena, const struct kq_str *keys, int32_t count,
                    int32_t **ret);

/* Which of COUNT keys occur more than once: Kafka refuses all of them. 0; -ENOMEM. */
int kq_admin_repeated(struct kq_arena *arena, const struct kq_str *keys, int32_t count, bool **ret);

enum kq_admin_mention {
    KQ_MENTIONED_ONCE,
    KQ_MENTIONED_AGAIN,  /* the first of several */
    KQ_MENTIONED_BEFORE, /* one that follows */
};

/* How each of COUNT keys occurs. Kafka answers once to a topic that is named more often, and
 * librdkafka takes no answer that has one twice. 0; -ENOMEM. */
int kq_admin_mentions(struct kq_arena *arena, const struct kq_str *keys, int32_t count,
                      enum kq_admin_mention **ret);

/* The list PRESENT, words with commas between them, with the words of CHANGE that it has not yet
 * behind its own, or (ADD false) without the words of CHANGE. NULL without memory. */
char *kq_admin_change_list(struct kq_arena *arena, const char *present, const char *change,
                           bool add);

/* org.apache.kafka.common.config.ConfigResource.Type */
enum kq_resource_type {
    KQ_RESOURCE_TOPIC = 2,
    KQ_RESOURCE_BROKER = 4,
    KQ_RESOURCE_BROKER_LOGGER = 8,
    KQ_RESOURCE_CLIENT_METRICS = 16,
    KQ_RESOURCE_GROUP = 32,
};

/* org.apache.kafka.clients.admin.ConfigEntry.ConfigSource, as DescribeConfigs says it. */
enum kq_config_source {
    KQ_SOURCE_TOPIC = 1,         /* DYNAMIC_TOPIC_CONFIG: the topic's own */
    KQ_SOURCE_STATIC_BROKER = 4, /* the broker's configuration file or command line */
    KQ_SOURCE_DEFAULT = 5,
};

/* org.apache.kafka.clients.admin.ConfigEntry.ConfigType */
enum kq_config_type {
    KQ_CONFIG_BOOLEAN = 1,
    KQ_CONFIG_STRING = 2,
    KQ_CONFIG_INT = 3,
    KQ_CONFIG_LONG = 5,
    KQ_CONFIG_DOUBLE = 6,
    KQ_CONFIG_LIST = 7,
};

struct kq_admin_config {
    struct kq_str name, value;
    enum kq_config_source source;
    enum kq_config_type type;
    struct kq_str broker_name;                 /* what the broker's own is called */
    struct kq_str broker_value, default_value; /* what it would be without the topic's own, and
                                                  without the broker's */
};

/* All settings of CONFIG, in order of their names; IS_OWN says which of them the topic has set. 0;
 * -ENOMEM. */
int kq_admin_configs(struct kq_request *request, const struct kq_topic_config *config,
                     bool (*is_own)(const void *context, const char *name), const void *context,
                     struct kq_admin_config **ret, int32_t *ret_count);

/* Those of TOPIC. */
int kq_admin_topic_configs(struct kq_request *request, struct kq_topic *topic,
                           struct kq_admin_config **ret, int32_t *ret_count);
