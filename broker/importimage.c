#include "broker/importimage.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "broker/base/buf.h"
#include "broker/base/mem.h"
#include "broker/importlog.h"
#include "broker/message/cluster_metadata.h"

#define MOST_PARTITIONS 1000000
#define NO_LEADER_CHANGE (-2)
#define MOST_SETTINGS 1024 /* of one resource: Kafka has a few dozen names */

/* A thing that is only counted. */
struct kq_image_thing {
    UT_hash_handle hh;
    size_t length;
    uint8_t key[];
};

/* --- Topics --- */

static struct kq_image_topic *find_id(const struct kq_image *image, const uint8_t *id)
{
    struct kq_image_topic *topic;
    HASH_FIND(by_id, image->by_id, id, KQ_UUID_BYTES, topic);
    return topic;
}

const struct kq_image_topic *kq_image_find(const struct kq_image *image, const char *name)
{
    struct kq_image_topic *topic;
    HASH_FIND(by_name, image->by_name, name, strlen(name), topic);
    return topic;
}

static int insert_topic(struct kq_image *image, struct kq_image_topic *topic)
{
    kq_uthash_failed = false;
    HASH_ADD_KEYPTR(by_name, image->by_name, topic->name, strlen(topic->name), topic);
    if (kq_uthash_failed)
        return -ENOMEM;
    HASH_ADD(by_id, image->by_id, id, KQ_UUID_BYTES, topic);
    if (!kq_uthash_failed)
        return 0;
    HASH_DELETE(by_name, image->by_name, topic);
    return -ENOMEM;
}

static int apply_topic(struct kq_image *image, int16_t version, struct kq_wire_reader *fields)
{
    struct kq_topic_record record;
    int r = kq_topic_record_read(fields, version, &record);
    if (r < 0)
        return r;
    size_t length = (size_t)record.name.length;
    struct kq_image_topic *topic = kq_zalloc(sizeof(*topic) + length + 1);
    if (!topic)
        return -ENOMEM;
    memcpy(topic->name, record.name.data, length);
    memcpy(topic->id, record.topic_id, KQ_UUID_BYTES);
    if (strlen(topic->name) != length || kq_image_find(image, topic->name) ||
        find_id(image, topic->id))
        r = -EBADMSG;
    else
        r = insert_topic(image, topic);
    if (r < 0)
        free(topic);
    return r;
}

static int make_partition(struct kq_image_topic *topic, int32_t number)
{
    if (number < 0 || number >= MOST_PARTITIONS)
        return -EBADMSG;
    if (number >= topic->capacity) {
        int32_t larger = (int32_t)kq_max64(number + 1, 2 * (int64_t)topic->capacity);
        struct kq_image_partition *moved = kq_realloc(topic->at, (size_t)larger * sizeof(*moved));
        if (!moved)
            return -ENOMEM;
        memset(&moved[topic->capacity], 0, (size_t)(larger - topic->capacity) * sizeof(*moved));
        topic->at = moved;
        topic->capacity = larger;
    }
    topic->partitions = (int32_t)kq_max64(topic->partitions, number + 1);
    return 0;
}

static int apply_partition(struct kq_image *image, int16_t version, struct kq_wire_reader *fields)
{
    struct kq_partition_record record;
    int r = kq_partition_record_read(fields, version, &record);
    struct kq_image_topic *topic = r < 0 ? NULL : find_id(image, record.topic_id);
    if (r == 0 && (!topic || record.replicas_count < 1))
        r = -EBADMSG;
    if (r == 0)
        r = make_partition(topic, record.partition_id);
    if (r == 0)
        topic->at[record.partition_id] = (struct kq_image_partition){
            .replicas = record.replicas_count, .leader_epoch = record.leader_epoch};
    return r;
}

/* Another leader, or none, is another epoch; the record does not say which. */
static int apply_partition_change(struct kq_image *image, int16_t version,
                                  struct kq_wire_reader *fields)
{
    struct kq_partition_change_record record;
    int r = kq_partition_change_record_read(fields, version, &record);
    struct kq_image_topic *topic = r < 0 ? NULL : find_id(image, record.topic_id);
    if (r < 0)
        return r;
    if (!topic || record.partition_id < 0 || record.partition_id >= topic->partitions)
        return -EBADMSG;
    struct kq_image_partition *partition = &topic->at[record.partition_id];
    if (record.replicas_count > 0)
        partition->replicas = record.replicas_count;
    if (record.leader != NO_LEADER_CHANGE && partition->leader_epoch < INT32_MAX)
        partition->leader_epoch++;
    return 0;
}

/* --- Configurations --- */

static void free_resource(struct kq_image_resource *resource)
{
    for (size_t i = 0; i < resource->count; i++) {
        free((char *)resource->settings[i].name);
        free((char *)resource->settings[i].value);
    }
    free(resource->settings);
    free(resource);
}

static struct kq_image_resource *find_resource(const struct kq_image *image, int8_t type,
                                               const char *name)
{
    struct kq_image_resource *resource = NULL;
    size_t length = strlen(name);
    char key[512] = {(char)type};
    if (length >= sizeof(key) - 1)
        return NULL;
    memcpy(key + 1, name, length);
    HASH_FIND(hh, image->resources, key, length + 1, resource);
    return resource;
}

static int make_resource(struct kq_image *image, int8_t type, const char *name,
                         struct kq_image_resource **ret)
{
    struct kq_image_resource *resource = find_resource(image, type, name);
    if (!resource) {
        size_t length = strlen(name);
        resource = kq_zalloc(sizeof(*resource) + length + 2);
        if (!resource)
            return -ENOMEM;
        resource->key[0] = (char)type;
        memcpy(resource->key + 1, name, length);
        kq_uthash_failed = false;
        HASH_ADD_KEYPTR(hh, image->resources, resource->key, length + 1, resource);
        if (kq_uthash_failed) {
            free(resource);
            return -ENOMEM;
        }
    }
    *ret = resource;
    return 0;
}

static size_t find_setting(const struct kq_image_resource *resource, const char *name)
{
    size_t i = 0;
    while (i < resource->count && strcmp(resource->settings[i].name, name) != 0)
        i++;
    return i;
}

static void remove_setting(struct kq_image_resource *resource, const char *name)
{
    size_t i = find_setting(resource, name);
    if (i == resource->count)
        return;
    free((char *)resource->settings[i].name);
    free((char *)resource->settings[i].value);
    resource->settings[i] = resource->settings[--resource->count];
}

static int put_setting(struct kq_image_resource *resource, const char *name, const char *value)
{
    struct kq_topic_setting setting = {kq_strdup(name), kq_strdup(value)};
    int r = setting.name && setting.value ? 0 : -ENOMEM;
    remove_setting(resource, name);
    if (r == 0 && resource->count == MOST_SETTINGS)
        r = -EBADMSG;
    if (r == 0 && resource->count == resource->capacity) {
        size_t larger = resource->capacity ? 2 * resource->capacity : 4;
        struct kq_topic_setting *moved = kq_realloc(resource->settings, larger * sizeof(*moved));
        if (moved) {
            resource->settings = moved;
            resource->capacity = larger;
        } else {
            r = -ENOMEM;
        }
    }
    if (r < 0) {
        free((char *)setting.name);
        free((char *)setting.value);
        return r;
    }
    resource->settings[resource->count++] = setting;
    return 0;
}

/* STRING with a NUL behind it. */
static int text_of(struct kq_str string, struct kq_arena *arena, char **ret)
{
    if (string.length < 0 || memchr(string.length ? string.data : "x", '\0', (size_t)string.length))
        return -EBADMSG;
    *ret = kq_arena_string(arena, string.data, (size_t)string.length);
    return *ret ? 0 : -ENOMEM;
}

static int apply_config(struct kq_image *image, int16_t version, struct kq_wire_reader *fields)
{
    struct kq_config_record record;
    struct kq_image_resource *resource;
    char *name = NULL, *setting = NULL, *value = NULL;
    int r = kq_config_record_read(fields, version, &record);
    if (r < 0 ||
        (record.resource_type != KQ_IMAGE_TOPIC && record.resource_type != KQ_IMAGE_BROKER))
        return r;
    r = text_of(record.resource_name, fields->arena, &name);
    if (r == 0)
        r = text_of(record.name, fields->arena, &setting);
    if (r == 0 && record.value.length >= 0)
        r = text_of(record.value, fields->arena, &value);
    if (r == 0)
        r = make_resource(image, record.resource_type, name, &resource);
    if (r < 0)
        return r;
    if (value)
        return put_setting(resource, setting, value);
    remove_setting(resource, setting);
    return 0;
}

const struct kq_topic_setting *kq_image_settings(const struct kq_image *image,
                                                 enum kq_image_resource_type type, const char *name,
                                                 size_t *ret_count)
{
    const struct kq_image_resource *resource = find_resource(image, (int8_t)type, name);
    *ret_count = resource ? resource->count : 0;
    return resource ? resource->settings : NULL;
}

static void free_topic(struct kq_image_topic *topic)
{
    free(topic->at);
    free(topic);
}

/* Its configuration goes with it. */
static int apply_removal(struct kq_image *image, int16_t version, struct kq_wire_reader *fields)
{
    struct kq_remove_topic_record record;
    int r = kq_remove_topic_record_read(fields, version, &record);
    struct kq_image_topic *topic = r < 0 ? NULL : find_id(image, record.topic_id);
    if (!topic)
        return r < 0 ? r : -EBADMSG;
    struct kq_image_resource *resource = find_resource(image, KQ_IMAGE_TOPIC, topic->name);
    if (resource) {
        HASH_DEL(image->resources, resource);
        free_resource(resource);
    }
    HASH_DELETE(by_name, image->by_name, topic);
    HASH_DELETE(by_id, image->by_id, topic);
    free_topic(topic);
    return 0;
}

/* --- Quotas --- */

/* The entity that a quota is for, as kqfs has it. KQ_END: it has no such entities. */
static int read_entity(const struct kq_client_quota_record *record, struct kq_arena *arena,
                       struct kq_quota_entity *ret)
{
    *ret = (struct kq_quota_entity){false};
    for (int32_t i = 0; i < record->entity_count; i++) {
        struct kq_str type = record->entity[i].entity_type, name = record->entity[i].entity_name;
        bool is_user = kq_str_is(type, KQ_STR("user"));
        if (!is_user && !kq_str_is(type, KQ_STR("client-id")))
            return KQ_END;
        char *text = NULL;
        int r = name.length < 0 ? 0 : text_of(name, arena, &text);
        if (r < 0)
            return r;
        *(is_user ? &ret->has_user : &ret->has_client) = true;
        *(is_user ? &ret->user : &ret->client) = text;
    }
    return kq_quota_entity_valid(ret) ? 0 : KQ_END;
}

static int set_quota(struct kq_image *image, const struct kq_quota_entity *entity,
                     enum kq_quota_type type, double value)
{
    int r = image->quotas ? 0 : kq_quota_book_new(&image->quotas);
    return r < 0 ? r : kq_quota_book_set(image->quotas, entity, type, value);
}

/* --- What is only counted --- */

static int note(struct kq_image *image, enum kq_image_other kind, const struct kq_buf *key,
                bool there)
{
    struct kq_image_thing *thing;
    HASH_FIND(hh, image->things, key->data, key->length, thing);
    if (thing && !there) {
        HASH_DEL(image->things, thing);
        free(thing);
        image->others[kind]--;
        return 0;
    }
    if (thing || !there)
        return 0;
    thing = kq_zalloc(sizeof(*thing) + key->length);
    if (!thing)
        return -ENOMEM;
    thing->length = key->length;
    memcpy(thing->key, key->data, key->length);
    kq_uthash_failed = false;
    HASH_ADD_KEYPTR(hh, image->things, thing->key, thing->length, thing);
    if (kq_uthash_failed) {
        free(thing);
        return -ENOMEM;
    }
    image->others[kind]++;
    return 0;
}

static int begin_key(struct kq_buf *key, enum kq_image_other kind)
{
    uint8_t byte = (uint8_t)kind;
    return kq_buf_append(key, &byte, 1);
}

/* With its length, so that two strings never read as one. */
static int add_string(struct kq_buf *key, struct kq_str string)
{
    int r = kq_buf_append(key, &string.length, sizeof(string.length));
    return r < 0 || string.length <= 0 ? r : kq_buf_append(key, string.data, (size_t)string.length);
}

static int note_user(struct kq_image *image, struct kq_str name, int8_t mechanism, bool there)
{
    kq_autobuf struct kq_buf key = {0};
    int r = begin_key(&key, KQ_IMAGE_USER);
    if (r == 0)
        r = kq_buf_append(&key, &mechanism, 1);
    if (r == 0)
        r = add_string(&key, name);
    return r < 0 ? r : note(image, KQ_IMAGE_USER, &key, there);
}

static int apply_user(struct kq_image *image, int16_t version, struct kq_wire_reader *fields)
{
    struct kq_user_scram_credential_record record;
    int r = kq_user_scram_credential_record_read(fields, version, &record);
    return r < 0 ? r : note_user(image, record.name, record.mechanism, true);
}

static int apply_user_removal(struct kq_image *image, int16_t version,
                              struct kq_wire_reader *fields)
{
    struct kq_remove_user_scram_credential_record record;
    int r = kq_remove_user_scram_credential_record_read(fields, version, &record);
    return r < 0 ? r : note_user(image, record.name, record.mechanism, false);
}

static int note_quota(struct kq_image *image, const struct kq_client_quota_record *record)
{
    kq_autobuf struct kq_buf key = {0};
    int r = begin_key(&key, KQ_IMAGE_QUOTA);
    for (int32_t i = 0; r == 0 && i < record->entity_count; i++) {
        r = add_string(&key, record->entity[i].entity_type);
        if (r == 0)
            r = add_string(&key, record->entity[i].entity_name);
    }
    if (r == 0)
        r = add_string(&key, record->key);
    return r < 0 ? r : note(image, KQ_IMAGE_QUOTA, &key, !record->remove);
}

static int apply_quota(struct kq_image *image, int16_t version, struct kq_wire_reader *fields)
{
    struct kq_client_quota_record record;
    struct kq_quota_entity entity;
    int r = kq_client_quota_record_read(fields, version, &record);
    if (r == 0)
        r = read_entity(&record, fields->arena, &entity);
    if (r < 0)
        return r;
    enum kq_quota_type type = kq_quota_type_of(record.key.data, (size_t)record.key.length);
    bool is_limit = record.remove || (isfinite(record.value) && record.value > 0);
    if (r == KQ_END || type == KQ_QUOTA_TYPES || !is_limit)
        return note_quota(image, &record);
    return set_quota(image, &entity, type, record.remove ? 0 : record.value);
}

static int note_acl(struct kq_image *image, const uint8_t *id, bool there)
{
    kq_autobuf struct kq_buf key = {0};
    int r = begin_key(&key, KQ_IMAGE_ACL);
    if (r == 0)
        r = kq_buf_append(&key, id, KQ_UUID_BYTES);
    return r < 0 ? r : note(image, KQ_IMAGE_ACL, &key, there);
}

static int apply_acl(struct kq_image *image, int16_t version, struct kq_wire_reader *fields)
{
    struct kq_access_control_entry_record record;
    int r = kq_access_control_entry_record_read(fields, version, &record);
    return r < 0 ? r : note_acl(image, record.id, true);
}

static int apply_acl_removal(struct kq_image *image, int16_t version, struct kq_wire_reader *fields)
{
    struct kq_remove_access_control_entry_record record;
    int r = kq_remove_access_control_entry_record_read(fields, version, &record);
    return r < 0 ? r : note_acl(image, record.id, false);
}

static int apply_producer_ids(struct kq_image *image, int16_t version,
                              struct kq_wire_reader *fields)
{
    struct kq_producer_ids_record record;
    int r = kq_producer_ids_record_read(fields, version, &record);
    if (r == 0)
        image->next_producer_id = record.next_producer_id;
    return r;
}

/* --- All of it --- */

static const struct {
    uint32_t type; /* the apiKey of Kafka's schema */
    int (*apply)(struct kq_image *image, int16_t version, struct kq_wire_reader *fields);
} appliers[] = {
    {2, apply_topic},         {3, apply_partition},
    {4, apply_config},        {5, apply_partition_change},
    {9, apply_removal},       {11, apply_user},
    {14, apply_quota},        {15, apply_producer_ids},
    {18, apply_acl},          {19, apply_acl_removal},
    {22, apply_user_removal},
};

int kq_image_apply(void *image, uint32_t type, int16_t version, struct kq_wire_reader *fields)
{
    for (size_t i = 0; i < kq_array_size(appliers); i++) {
        if (appliers[i].type != type)
            continue;
        int r = appliers[i].apply(image, version, fields);
        return r == -EINVAL ? -EPROTO : r;
    }
    return 0;
}

int kq_image_read(int dirfd, const char *directory, struct kq_image *ret)
{
    return kq_metalog_read(dirfd, directory, kq_image_apply, ret);
}

void kq_image_release(struct kq_image *image)
{
    struct kq_image_topic *topic, *next_topic;
    struct kq_image_resource *resource, *next_resource;
    struct kq_image_thing *thing, *next_thing;
    HASH_ITER (by_name, image->by_name, topic, next_topic) {
        HASH_DELETE(by_name, image->by_name, topic);
        HASH_DELETE(by_id, image->by_id, topic);
        free_topic(topic);
    }
    HASH_ITER (hh, image->resources, resource, next_resource) {
        HASH_DEL(image->resources, resource);
        free_resource(resource);
    }
    HASH_ITER (hh, image->things, thing, next_thing) {
        HASH_DEL(image->things, thing);
        free(thing);
    }
    kq_quota_book_free(image->quotas);
    *image = (struct kq_image){0};
}
