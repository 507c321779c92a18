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

/* As kq_error_from; what a caller may not do with a topic is TOPIC_AUTHORIZATION_FAILED. */
int16_t kq_admin_error(int result);

/* Names that were seen, to find those that a request has twice in linear time. */
struct kq_admin_seen;

/* For at most COUNT of them. 0; -ENOMEM. */
int kq_admin_seen_new(struct kq_arena *arena, size_t count, struct kq_admin_seen **ret);

/* The index under which the LENGTH bytes (< 0: none) were seen before, or -1: remembered as INDEX.
 * They must stay valid. */
int32_t kq_admin_see(struct kq_admin_seen *seen, const void *bytes, int32_t length, int32_t index);

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
    struct kq_str broker_value, default_value; /* what it would be without the topic's own, and
                                                  without the broker's */
};

/* All settings of TOPIC, in order of their names. 0; -ENOMEM. */
int kq_admin_topic_configs(struct kq_request *request, struct kq_topic *topic,
                           struct kq_admin_config **ret, int32_t *ret_count);
