#include "broker/store.h"

#include <jansson.h>
#include <stdio.h>

#include "broker/base/io.h"
#include "broker/base/mem.h"
#include "broker/broker.h"

#define VERSION 1
#define LIMIT_BYTES (512u << 20)
#define ACL_LIMIT 65536

/* --- Writing --- */

static json_t *hex(const uint8_t *bytes, size_t length)
{
    kq_autobuf struct kq_buf text = {0};
    if (kq_buf_reserve(&text, 2 * length + 1) < 0)
        return NULL;
    for (size_t i = 0; i < length; i++)
        text.length += (size_t)sprintf((char *)text.data + text.length, "%02x", bytes[i]);
    return json_stringn((char *)text.data, text.length);
}

/* Puts VALUE, whose reference it takes, into OBJECT. Returns false if either is missing. */
static bool put(json_t *object, const char *name, json_t *value)
{
    return object && value && json_object_set_new(object, name, value) == 0;
}

static bool put_attributes(json_t *object, const struct kq_attributes *attributes)
{
    char mode[12];
    snprintf(mode, sizeof(mode), "%04o", (unsigned)attributes->mode & 07777);
    bool ok = put(object, "uid", json_integer(attributes->uid)) &&
              put(object, "gid", json_integer(attributes->gid)) &&
              put(object, "mode", json_string(mode));
    if (ok && attributes->acl_length)
        ok = put(object, "acl", hex(attributes->acl, attributes->acl_length));
    if (ok && attributes->default_acl_length)
        ok = put(object, "default_acl",
                 hex(attributes->default_acl, attributes->default_acl_length));
    return ok;
}

/* The settings of a rendering have the names and the form that the configuration gives them. */
static bool put_setting(json_t *object, const struct kq_topic_config *config, const char *name)
{
    kq_autobuf struct kq_buf value = {0};
    return kq_buf_reserve(&value, 1) == 0 && kq_topic_config_format(config, name, &value) == 0 &&
           put(object, name, json_stringn((char *)value.data, value.length));
}

static json_t *encode_renderings(const struct kq_renderings *renderings)
{
    json_t *list = json_array();
    for (size_t i = 0; list && i < renderings->count; i++) {
        struct kq_topic_config config = {.text = renderings->at[i]};
        json_t *item = json_object();
        bool ok = put(item, "from", json_integer(renderings->at[i].from_offset)) &&
                  put_setting(item, &config, "framing") &&
                  put_setting(item, &config, "delimiter") &&
                  put_setting(item, &config, "key.separator");
        ok = json_array_append_new(list, item) == 0 && ok;
        if (!ok) {
            json_decref(list);
            return NULL;
        }
    }
    return list;
}

static json_t *encode_partitions(const struct kq_topic_record *record)
{
    json_t *list = json_array();
    for (int32_t i = 0; list && i < record->partition_count; i++) {
        json_t *item = json_object();
        bool ok = item && put_attributes(item, &record->partitions[i].attributes) &&
                  put(item, "renderings", encode_renderings(record->partitions[i].renderings));
        ok = json_array_append_new(list, item) == 0 && ok;
        if (!ok) {
            json_decref(list);
            return NULL;
        }
    }
    return list;
}

static json_t *encode_settings(const struct kq_topic_record *record)
{
    json_t *object = json_object();
    for (size_t i = 0; object && i < record->setting_count; i++) {
        if (!put(object, record->settings[i].name, json_string(record->settings[i].value))) {
            json_decref(object);
            return NULL;
        }
    }
    return object;
}

struct dump {
    struct kq_buf *out;
    int error; /* jansson does not pass on every one */
};

static int dump_piece(const char *bytes, size_t length, void *context)
{
    struct dump *dump = context;
    if (dump->error == 0)
        dump->error = kq_buf_append(dump->out, bytes, length);
    return dump->error;
}

/* Appends ROOT as text, if it is whole, and drops it. */
static int dump(json_t *root, bool whole, struct kq_buf *ret)
{
    struct dump dump = {.out = ret};
    size_t before = ret->length;
    if (whole)
        whole = json_dump_callback(root, dump_piece, &dump, JSON_INDENT(1) | JSON_PRESERVE_ORDER) ==
                    0 &&
                dump_piece("\n", 1, &dump) == 0;
    json_decref(root);
    if (!whole)
        ret->length = before;
    return whole ? 0 : -ENOMEM;
}

int kq_store_encode(const char *topic, const struct kq_topic_record *record, struct kq_buf *ret)
{
    char id[KQ_UUID_TEXT + 1];
    kq_uuid_format(record->id, id);
    json_t *root = json_object();
    bool whole = put(root, "version", json_integer(VERSION)) &&
                 put(root, "name", json_string(topic)) && put(root, "id", json_string(id)) &&
                 put(root, "created", json_integer(record->created_ms)) &&
                 put(root, "deleting", json_boolean(record->deleting)) &&
                 put_attributes(root, &record->attributes) &&
                 put(root, "settings", encode_settings(record)) &&
                 put(root, "partitions", encode_partitions(record));
    return dump(root, whole, ret);
}

/* --- Reading --- */

static int get_integer(const json_t *object, const char *name, int64_t minimum, int64_t maximum,
                       int64_t *ret)
{
    const json_t *value = json_object_get(object, name);
    if (!json_is_integer(value) || json_integer_value(value) < minimum ||
        json_integer_value(value) > maximum)
        return -EBADMSG;
    *ret = json_integer_value(value);
    return 0;
}

/* Bytes in hexadecimal; a missing one is empty. */
static int get_hex(const json_t *object, const char *name, uint8_t **ret, size_t *ret_length)
{
    const json_t *value = json_object_get(object, name);
    size_t length = json_string_length(value);
    if (!value)
        return 0;
    if (!json_is_string(value) || length % 2 || length / 2 > ACL_LIMIT)
        return -EBADMSG;
    const char *text = json_string_value(value);
    if (strspn(text, "0123456789abcdef") != length)
        return -EBADMSG;
    uint8_t *bytes = kq_alloc(length / 2 + 1);
    if (!bytes)
        return -ENOMEM;
    for (size_t i = 0; i < length / 2; i++)
        sscanf(text + 2 * i, "%2hhx", &bytes[i]);
    *ret = bytes;
    *ret_length = length / 2;
    return 0;
}

static int get_attributes(const json_t *object, struct kq_attributes *ret)
{
    int64_t uid, gid;
    const char *mode = json_string_value(json_object_get(object, "mode"));
    if (get_integer(object, "uid", 0, UINT32_MAX, &uid) < 0 ||
        get_integer(object, "gid", 0, UINT32_MAX, &gid) < 0)
        return -EBADMSG;
    if (!mode || strlen(mode) != 4 || strspn(mode, "01234567") != 4)
        return -EBADMSG;
    ret->uid = (uid_t)uid;
    ret->gid = (gid_t)gid;
    ret->mode = (mode_t)strtoul(mode, NULL, 8);
    int r = get_hex(object, "acl", &ret->acl, &ret->acl_length);
    return r < 0 ? r : get_hex(object, "default_acl", &ret->default_acl, &ret->default_acl_length);
}

static int get_rendering(const json_t *item, struct kq_rendering *ret)
{
    struct kq_topic_setting settings[] = {
        {"framing", NULL}, {"delimiter", NULL}, {"key.separator", NULL}};
    struct kq_topic_config config = {0};
    int64_t from;
    if (get_integer(item, "from", 0, INT64_MAX, &from) < 0)
        return -EBADMSG;
    for (size_t i = 0; i < kq_array_size(settings); i++) {
        settings[i].value = json_string_value(json_object_get(item, settings[i].name));
        if (!settings[i].value)
            return -EBADMSG;
    }
    if (kq_topic_config_set_all(&config, settings, kq_array_size(settings), NULL, NULL) < 0)
        return -EBADMSG;
    *ret = config.text;
    ret->from_offset = from;
    return 0;
}

static int get_renderings(const json_t *list, struct kq_renderings **ret)
{
    size_t count = json_array_size(list);
    if (count == 0)
        return -EBADMSG;
    struct kq_renderings *renderings =
        kq_alloc(sizeof(*renderings) + count * sizeof(renderings->at[0]));
    if (!renderings)
        return -ENOMEM;
    renderings->count = count;
    for (size_t i = 0; i < count; i++) {
        int64_t after = i ? renderings->at[i - 1].from_offset : -1;
        if (get_rendering(json_array_get(list, i), &renderings->at[i]) < 0 ||
            renderings->at[i].from_offset <= after || (i == 0 && renderings->at[0].from_offset)) {
            free(renderings);
            return -EBADMSG;
        }
    }
    *ret = renderings;
    return 0;
}

static int get_partitions(const json_t *list, struct kq_topic_record *ret)
{
    size_t count = json_array_size(list);
    if (!json_is_array(list) || count > KQ_STORE_MAX_PARTITIONS)
        return -EBADMSG;
    ret->partitions = kq_zalloc((count + 1) * sizeof(*ret->partitions));
    if (!ret->partitions)
        return -ENOMEM;
    ret->partition_count = (int32_t)count;
    for (size_t i = 0; i < count; i++) {
        const json_t *item = json_array_get(list, i);
        int r = get_attributes(item, &ret->partitions[i].attributes);
        if (r == 0)
            r = get_renderings(json_object_get(item, "renderings"), &ret->partitions[i].renderings);
        if (r < 0)
            return r;
    }
    return 0;
}

static int get_settings(json_t *object, struct kq_topic_record *ret)
{
    const char *name;
    json_t *value;
    if (!json_is_object(object))
        return -EBADMSG;
    ret->settings = kq_zalloc((json_object_size(object) + 1) * sizeof(*ret->settings));
    if (!ret->settings)
        return -ENOMEM;
    json_object_foreach(object, name, value)
    {
        struct kq_topic_setting *setting = &ret->settings[ret->setting_count];
        if (!json_is_string(value))
            return -EBADMSG;
        setting->name = kq_strdup(name);
        setting->value = kq_strdup(json_string_value(value));
        ret->setting_count++;
        if (!setting->name || !setting->value)
            return -ENOMEM;
    }
    return 0;
}

static int get_record(const char *topic, json_t *root, struct kq_topic_record *ret)
{
    int64_t version;
    const char *name = json_string_value(json_object_get(root, "name"));
    const char *id = json_string_value(json_object_get(root, "id"));
    const json_t *deleting = json_object_get(root, "deleting");
    if (get_integer(root, "version", VERSION, VERSION, &version) < 0 || !name ||
        strcmp(name, topic) != 0 || !json_is_boolean(deleting))
        return -EBADMSG;
    if (!id || strlen(id) != KQ_UUID_TEXT || kq_uuid_parse(id, ret->id) < 0 ||
        get_integer(root, "created", 0, INT64_MAX, &ret->created_ms) < 0)
        return -EBADMSG;
    ret->deleting = json_is_true(deleting);
    int r = get_attributes(root, &ret->attributes);
    if (r == 0)
        r = get_settings(json_object_get(root, "settings"), ret);
    return r < 0 ? r : get_partitions(json_object_get(root, "partitions"), ret);
}

/* jansson says which of its failures is the machine's and not the file's. */
static int load(const void *bytes, size_t length, json_t **ret)
{
    json_error_t error;
    json_t *root = json_loadb(bytes, length, JSON_REJECT_DUPLICATES, &error);
    if (!root)
        return json_error_code(&error) == json_error_out_of_memory ? -ENOMEM : -EBADMSG;
    *ret = root;
    return 0;
}

int kq_store_decode(const char *topic, const void *bytes, size_t length,
                    struct kq_topic_record *ret)
{
    struct kq_topic_record record = {0};
    json_t *root;
    int r = load(bytes, length, &root);
    if (r < 0)
        return r;
    r = get_record(topic, root, &record);
    json_decref(root);
    if (r < 0)
        kq_topic_record_release(&record);
    else
        *ret = record;
    return r;
}

void kq_topic_record_release(struct kq_topic_record *record)
{
    for (size_t i = 0; i < record->setting_count; i++) {
        free((char *)record->settings[i].name);
        free((char *)record->settings[i].value);
    }
    for (int32_t i = 0; record->partitions && i < record->partition_count; i++) {
        kq_attributes_release(&record->partitions[i].attributes);
        free(record->partitions[i].renderings);
    }
    free(record->settings);
    free(record->partitions);
    kq_attributes_release(&record->attributes);
    *record = (struct kq_topic_record){0};
}

/* --- The files --- */

int kq_store_read(int dirfd, const char *topic, struct kq_topic_record *ret)
{
    kq_autobuf struct kq_buf text = {0};
    char name[NAME_MAX + 1];
    if (snprintf(name, sizeof(name), "%s" KQ_STORE_SUFFIX, topic) >= (int)sizeof(name))
        return -ENAMETOOLONG;
    int r = kq_io_slurp(dirfd, name, LIMIT_BYTES, &text);
    return r < 0 ? r : kq_store_decode(topic, text.data, text.length, ret);
}

int kq_store_write(int dirfd, const char *topic, const struct kq_topic_record *record)
{
    kq_autobuf struct kq_buf text = {0};
    char name[NAME_MAX + 1];
    if (snprintf(name, sizeof(name), "%s" KQ_STORE_SUFFIX, topic) >= (int)sizeof(name))
        return -ENAMETOOLONG;
    int r = kq_store_encode(topic, record, &text);
    return r < 0 ? r : kq_io_replace(dirfd, name, text.data, text.length, 0600);
}

int kq_store_read_root(int dirfd, struct kq_attributes *ret)
{
    kq_autobuf struct kq_buf text = {0};
    struct kq_attributes attributes = {0};
    int64_t version;
    json_t *root = NULL;
    int r = kq_io_slurp(dirfd, KQ_STORE_ROOT, LIMIT_BYTES, &text);
    if (r == 0)
        r = load(text.data, text.length, &root);
    if (r < 0)
        return r;
    r = get_integer(root, "version", VERSION, VERSION, &version);
    if (r == 0)
        r = get_attributes(root, &attributes);
    json_decref(root);
    if (r < 0)
        kq_attributes_release(&attributes);
    else
        *ret = attributes;
    return r;
}

int kq_store_write_root(int dirfd, const struct kq_attributes *attributes)
{
    kq_autobuf struct kq_buf text = {0};
    json_t *root = json_object();
    bool whole = put(root, "version", json_integer(VERSION)) && put_attributes(root, attributes);
    int r = dump(root, whole, &text);
    return r < 0 ? r : kq_io_replace(dirfd, KQ_STORE_ROOT, text.data, text.length, 0600);
}
