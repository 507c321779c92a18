#include "broker/quotafile.h"

#include <jansson.h>

#include "broker/base/io.h"

#define VERSION 1
#define USER "user"
#define CLIENT "client-id"

/* --- Writing --- */

/* Puts VALUE, whose reference it takes, into OBJECT. Returns false if either is missing. */
static bool put(json_t *object, const char *name, json_t *value)
{
    return object && value && json_object_set_new(object, name, value) == 0;
}

static bool put_name(json_t *object, const char *part, const char *name)
{
    return put(object, part, name ? json_string(name) : json_null());
}

static int encode_entity(void *context, const struct kq_quota_entity *entity, const double *limits)
{
    json_t *list = context;
    json_t *item = json_object();
    bool whole = (!entity->has_user || put_name(item, USER, entity->user)) &&
                 (!entity->has_client || put_name(item, CLIENT, entity->client));
    for (int i = 0; i < KQ_QUOTA_TYPES && whole; i++)
        if (limits[i] > 0)
            whole = put(item, kq_quota_name((enum kq_quota_type)i), json_real(limits[i]));
    return json_array_append_new(list, item) == 0 && whole ? 0 : -ENOMEM;
}

static int dump(const json_t *root, struct kq_buf *ret)
{
    const size_t flags = JSON_INDENT(1) | JSON_REAL_PRECISION(17);
    size_t length = json_dumpb(root, NULL, 0, flags);
    if (length + 1 > KQ_QUOTA_FILE_BYTES)
        return -EFBIG;
    if (length == 0 || kq_buf_reserve(ret, length + 1) < 0)
        return -ENOMEM;
    if (json_dumpb(root, (char *)ret->data + ret->length, length, flags) != length)
        return -ENOMEM;
    ret->length += length;
    return kq_buf_append(ret, "\n", 1);
}

int kq_quota_file_encode(const struct kq_quota_book *book, struct kq_buf *ret)
{
    json_t *list = json_array(), *root = json_object();
    int r = list ? kq_quota_book_each(book, encode_entity, list) : -ENOMEM;
    bool whole = put(root, "version", json_integer(VERSION));
    whole = put(root, "quotas", list) && whole;
    if (r == 0)
        r = whole ? dump(root, ret) : -ENOMEM;
    json_decref(root);
    return r;
}

int kq_quota_file_write(int dirfd, const struct kq_buf *bytes)
{
    return kq_io_replace(dirfd, KQ_QUOTA_FILE, bytes->data, bytes->length, 0600);
}

/* --- Reading --- */

/* The part NAME of the entity, which may be the default, or not there at all. */
static bool get_part(const json_t *item, const char *name, bool *ret_has, const char **ret)
{
    const json_t *value = json_object_get(item, name);
    *ret_has = value != NULL;
    *ret = json_string_value(value);
    return !value || json_is_null(value) || (*ret && **ret);
}

static int get_limits(struct kq_quota_book *book, const struct kq_quota_entity *entity,
                      json_t *item)
{
    const char *name;
    json_t *value;
    int r = 0;
    json_object_foreach(item, name, value)
    {
        enum kq_quota_type type = kq_quota_type_of(name, strlen(name));
        if (strcmp(name, USER) == 0 || strcmp(name, CLIENT) == 0)
            continue;
        if (type == KQ_QUOTA_TYPES || !json_is_number(value) || !(json_number_value(value) > 0))
            return -EBADMSG;
        r = kq_quota_book_set(book, entity, type, json_number_value(value));
        if (r < 0)
            return r;
    }
    return 0;
}

static int get_quotas(const json_t *root, struct kq_quota_book *book)
{
    const json_t *list = json_object_get(root, "quotas");
    if (json_integer_value(json_object_get(root, "version")) != VERSION || !json_is_array(list))
        return -EBADMSG;
    for (size_t i = 0; i < json_array_size(list); i++) {
        json_t *item = json_array_get(list, i);
        struct kq_quota_entity entity;
        if (!get_part(item, USER, &entity.has_user, &entity.user) ||
            !get_part(item, CLIENT, &entity.has_client, &entity.client) ||
            (!entity.has_user && !entity.has_client))
            return -EBADMSG;
        int r = get_limits(book, &entity, item);
        if (r < 0)
            return r;
    }
    return 0;
}

/* jansson says which of its failures is the machine's and not the file's. */
static int load(const struct kq_buf *bytes, json_t **ret)
{
    json_error_t error;
    json_t *root =
        json_loadb((const char *)bytes->data, bytes->length, JSON_REJECT_DUPLICATES, &error);
    if (!root)
        return json_error_code(&error) == json_error_out_of_memory ? -ENOMEM : -EBADMSG;
    *ret = root;
    return 0;
}

int kq_quota_file_read(int dirfd, struct kq_quota_book **ret)
{
    kq_autobuf struct kq_buf bytes = {0};
    struct kq_quota_book *book = NULL;
    json_t *root = NULL;
    int r = kq_io_slurp(dirfd, KQ_QUOTA_FILE, KQ_QUOTA_FILE_BYTES, &bytes);
    if (r == 0)
        r = load(&bytes, &root);
    if (r < 0)
        return r == -EFBIG ? -EBADMSG : r;
    r = kq_quota_book_new(&book);
    if (r == 0)
        r = get_quotas(root, book);
    json_decref(root);
    if (r < 0)
        kq_quota_book_free(book);
    else
        *ret = book;
    return r;
}
