#include "net/admin.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "net/errmap.h"

char *kq_admin_string(struct kq_request *request, struct kq_str string)
{
    if (string.length < 0 || (string.length && memchr(string.data, '\0', (size_t)string.length)))
        return NULL;
    return kq_arena_string(&request->arena, string.data, (size_t)string.length);
}

int16_t kq_admin_refuse(struct kq_request *request, int16_t code, struct kq_str *ret_message,
                        const char *format, ...)
{
    char text[512];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof(text), format, arguments);
    va_end(arguments);
    char *copy = kq_arena_string(&request->arena, text, strlen(text));
    if (copy)
        *ret_message = kq_str_of(copy);
    return code;
}

int16_t kq_admin_error(int result)
{
    if (result == -EACCES || result == -EPERM)
        return KQ_ERROR_TOPIC_AUTHORIZATION_FAILED;
    return kq_error_from(result);
}

/* --- What was seen --- */

struct seen {
    const uint8_t *bytes;
    int32_t length, index, next; /* next: of the same bucket, 0: none */
};

struct kq_admin_seen {
    size_t mask, count;
    int32_t *buckets; /* into `at`, 0: empty */
    struct seen *at;  /* from 1 on */
};

int kq_admin_seen_new(struct kq_arena *arena, size_t count, struct kq_admin_seen **ret)
{
    size_t size = 16;
    while (size < 2 * count)
        size *= 2;
    struct kq_admin_seen *seen = kq_arena_alloc(arena, sizeof(*seen));
    if (!seen)
        return -ENOMEM;
    seen->mask = size - 1;
    seen->buckets = kq_arena_array(arena, size, sizeof(*seen->buckets));
    seen->at = kq_arena_array(arena, count + 1, sizeof(*seen->at));
    if (!seen->buckets || !seen->at)
        return -ENOMEM;
    *ret = seen;
    return 0;
}

/* FNV-1a; who makes names that meet in one bucket waits for himself, on a worker, and no longer
 * than the square of what one request may hold. */
static size_t hash(const uint8_t *bytes, int32_t length)
{
    uint64_t value = 0xcbf29ce484222325u;
    for (int32_t i = 0; i < length; i++)
        value = (value ^ bytes[i]) * 0x100000001b3u;
    return (size_t)(value ^ (value >> 32));
}

int32_t kq_admin_see(struct kq_admin_seen *seen, const void *bytes, int32_t length, int32_t index)
{
    if (length < 0)
        return -1;
    int32_t *bucket = &seen->buckets[hash(bytes, length) & seen->mask];
    for (int32_t i = *bucket; i; i = seen->at[i].next)
        if (seen->at[i].length == length && memcmp(seen->at[i].bytes, bytes, (size_t)length) == 0)
            return seen->at[i].index;
    seen->at[++seen->count] = (struct seen){bytes, length, index, *bucket};
    *bucket = (int32_t)seen->count;
    return -1;
}

/* --- Configurations of a topic --- */

static enum kq_config_type type_of(const char *name)
{
    static const enum kq_config_type types[] = {
        [KQ_TOPIC_SETTING_INT] = KQ_CONFIG_INT,       [KQ_TOPIC_SETTING_LONG] = KQ_CONFIG_LONG,
        [KQ_TOPIC_SETTING_DOUBLE] = KQ_CONFIG_DOUBLE, [KQ_TOPIC_SETTING_STRING] = KQ_CONFIG_STRING,
        [KQ_TOPIC_SETTING_LIST] = KQ_CONFIG_LIST,
    };
    return types[kq_topic_config_type(name)];
}

static int value_of(struct kq_request *request, const struct kq_topic_config *config,
                    const char *name, struct kq_str *ret)
{
    kq_autobuf struct kq_buf text = {0};
    int r = kq_topic_config_format(config, name, &text);
    if (r < 0)
        return r;
    char *copy = kq_arena_string(&request->arena, (const char *)text.data, text.length);
    if (!copy)
        return -ENOMEM;
    *ret = kq_str_of(copy);
    return 0;
}

int kq_admin_topic_configs(struct kq_request *request, struct kq_topic *topic,
                           struct kq_admin_config **ret, int32_t *ret_count)
{
    struct kq_topic_config config, of_broker, defaults;
    int32_t count = 0;
    while (kq_topic_config_name((size_t)count))
        count++;
    struct kq_admin_config *all = kq_arena_array(&request->arena, (size_t)count, sizeof(*all));
    if (!all)
        return -ENOMEM;
    kq_topic_config(topic, &config);
    kq_broker_topic_defaults(request->broker, &of_broker);
    kq_topic_config_defaults(&defaults);
    for (int32_t i = 0; i < count; i++) {
        const char *name = kq_topic_config_name((size_t)i);
        all[i].name = kq_str_of(name);
        all[i].type = type_of(name);
        int r = value_of(request, &config, name, &all[i].value);
        if (r == 0)
            r = value_of(request, &of_broker, name, &all[i].broker_value);
        if (r == 0)
            r = value_of(request, &defaults, name, &all[i].default_value);
        if (r < 0)
            return r;
        if (kq_topic_config_is_own(topic, name))
            all[i].source = KQ_SOURCE_TOPIC;
        else if (!kq_str_is(all[i].broker_value, all[i].default_value))
            all[i].source = KQ_SOURCE_STATIC_BROKER;
        else
            all[i].source = KQ_SOURCE_DEFAULT;
    }
    *ret = all;
    *ret_count = count;
    return 0;
}
