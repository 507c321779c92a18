#include "net/admin.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
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

bool kq_admin_is_broker(struct kq_request *request, struct kq_str name)
{
    char *text = kq_admin_string(request, name), *end;
    if (!text || !*text)
        return false;
    long number = strtol(text, &end, 10);
    return !*end && number == kq_broker_node_id(request->broker);
}

int16_t kq_admin_error(int result)
{
    if (result == -EACCES || result == -EPERM)
        return KQ_ERROR_TOPIC_AUTHORIZATION_FAILED;
    return kq_error_from(result);
}

/* --- Equal ones --- */

static int compare(const struct kq_str *a, const struct kq_str *b)
{
    if (a->length != b->length)
        return a->length < b->length ? -1 : 1;
    return a->length > 0 ? memcmp(a->data, b->data, (size_t)a->length) : 0;
}

/* Of equal keys the one that comes first in the array. */
static int in_order(const void *left, const void *right)
{
    const struct kq_str *a = *(const struct kq_str *const *)left;
    const struct kq_str *b = *(const struct kq_str *const *)right;
    int order = compare(a, b);
    return order ? order : (a > b) - (a < b);
}

int kq_admin_firsts(struct kq_arena *arena, const struct kq_str *keys, int32_t count, int32_t **ret)
{
    const struct kq_str **sorted = kq_arena_array(arena, (size_t)count, sizeof(const void *));
    int32_t *firsts = kq_arena_array(arena, (size_t)count, sizeof(*firsts));
    if (!sorted || !firsts)
        return -ENOMEM;
    for (int32_t i = 0; i < count; i++)
        sorted[i] = &keys[i];
    qsort(sorted, (size_t)count, sizeof(const void *), in_order);
    for (int32_t i = 0; i < count; i++) {
        bool again = i && sorted[i]->length >= 0 && compare(sorted[i - 1], sorted[i]) == 0;
        int32_t index = (int32_t)(sorted[i] - keys);
        firsts[index] = again ? firsts[sorted[i - 1] - keys] : index;
    }
    *ret = firsts;
    return 0;
}

int kq_admin_repeated(struct kq_arena *arena, const struct kq_str *keys, int32_t count, bool **ret)
{
    int32_t *firsts;
    bool *repeated = kq_arena_array(arena, (size_t)count, sizeof(*repeated));
    if (!repeated || kq_admin_firsts(arena, keys, count, &firsts) < 0)
        return -ENOMEM;
    for (int32_t i = 0; i < count; i++)
        if (firsts[i] != i)
            repeated[i] = repeated[firsts[i]] = true;
    *ret = repeated;
    return 0;
}

int kq_admin_mentions(struct kq_arena *arena, const struct kq_str *keys, int32_t count,
                      enum kq_admin_mention **ret)
{
    int32_t *firsts;
    enum kq_admin_mention *mentions = kq_arena_array(arena, (size_t)count, sizeof(*mentions));
    if (!mentions || kq_admin_firsts(arena, keys, count, &firsts) < 0)
        return -ENOMEM;
    for (int32_t i = 0; i < count; i++) {
        if (firsts[i] == i)
            continue;
        mentions[i] = KQ_MENTIONED_BEFORE;
        mentions[firsts[i]] = KQ_MENTIONED_AGAIN;
    }
    *ret = mentions;
    return 0;
}

/* --- Lists --- */

/* The words of LIST without the blanks around them; RET has room for all. Returns how many. */
static int32_t split(const char *list, struct kq_str *ret)
{
    int32_t count = 0;
    for (const char *at = list; *at;) {
        const char *word = at + strspn(at, ", ");
        at = word + strcspn(word, ",");
        const char *end = at;
        while (end > word && end[-1] == ' ')
            end--;
        if (end > word)
            ret[count++] = (struct kq_str){word, (int32_t)(end - word)};
    }
    return count;
}

static char *join(struct kq_arena *arena, const struct kq_str *words, int32_t count, size_t size)
{
    char *list = kq_arena_alloc(arena, size), *at = list;
    for (int32_t i = 0; list && i < count; i++) {
        if (at != list)
            *at++ = ',';
        memcpy(at, words[i].data, (size_t)words[i].length);
        at += words[i].length;
    }
    return list;
}

char *kq_admin_change_list(struct kq_arena *arena, const char *present, const char *change,
                           bool add)
{
    size_t size = strlen(present) + strlen(change) + 2;
    struct kq_str *words = kq_arena_array(arena, size / 2 + 1, sizeof(*words));
    int32_t *firsts, kept = 0;
    if (!words)
        return NULL;
    /* What is to be taken away comes first, so that all that is equal to it counts as repeated. */
    int32_t start = split(add ? present : change, words);
    int32_t count = start + split(add ? change : present, words + start);
    if (kq_admin_firsts(arena, words, count, &firsts) < 0)
        return NULL;
    for (int32_t i = add ? 0 : start; i < count; i++)
        if (firsts[i] == i)
            words[kept++] = words[i];
    return join(arena, words, kept, size);
}

/* --- Configurations of a topic --- */

static enum kq_config_type type_of(const char *name)
{
    static const enum kq_config_type types[] = {
        [KQ_TOPIC_SETTING_INT] = KQ_CONFIG_INT,
        [KQ_TOPIC_SETTING_LONG] = KQ_CONFIG_LONG,
        [KQ_TOPIC_SETTING_DOUBLE] = KQ_CONFIG_DOUBLE,
        [KQ_TOPIC_SETTING_STRING] = KQ_CONFIG_STRING,
        [KQ_TOPIC_SETTING_BOOLEAN] = KQ_CONFIG_BOOLEAN,
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

int kq_admin_configs(struct kq_request *request, const struct kq_topic_config *config,
                     bool (*is_own)(const void *context, const char *name), const void *context,
                     struct kq_admin_config **ret, int32_t *ret_count)
{
    struct kq_topic_config of_broker, defaults;
    int32_t count = 0;
    while (kq_topic_config_name((size_t)count))
        count++;
    struct kq_admin_config *all = kq_arena_array(&request->arena, (size_t)count, sizeof(*all));
    if (!all)
        return -ENOMEM;
    kq_broker_topic_defaults(request->broker, &of_broker);
    kq_topic_config_defaults(&defaults);
    for (int32_t i = 0; i < count; i++) {
        const char *name = kq_topic_config_name((size_t)i);
        all[i].name = kq_str_of(name);
        all[i].broker_name = kq_str_of(kq_topic_config_broker_name(name));
        all[i].type = type_of(name);
        int r = value_of(request, config, name, &all[i].value);
        if (r == 0)
            r = value_of(request, &of_broker, name, &all[i].broker_value);
        if (r == 0)
            r = value_of(request, &defaults, name, &all[i].default_value);
        if (r < 0)
            return r;
        if (is_own(context, name))
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

static bool is_of_topic(const void *context, const char *name)
{
    struct kq_topic *const *topic = context;
    return kq_topic_config_is_own(*topic, name);
}

int kq_admin_topic_configs(struct kq_request *request, struct kq_topic *topic,
                           struct kq_admin_config **ret, int32_t *ret_count)
{
    struct kq_topic_config config;
    kq_topic_config(topic, &config);
    return kq_admin_configs(request, &config, is_of_topic, &topic, ret, ret_count);
}
