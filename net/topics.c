#include "net/topics.h"

#include <string.h>
#include <sys/stat.h>

#include "broker/base/acl.h"
#include "broker/produce.h"
#include "net/errmap.h"
#include "net/internal.h"

/* --- Looking up --- */

/* NAME, terminated; false where no topic can have it. */
static bool copy_name(struct kq_str name, char ret[KQ_TOPIC_NAME_MAX + 1])
{
    if (name.length <= 0 || name.length > KQ_TOPIC_NAME_MAX ||
        memchr(name.data, '\0', (size_t)name.length))
        return false;
    memcpy(ret, name.data, (size_t)name.length);
    ret[name.length] = '\0';
    return true;
}

bool kq_topics_name_valid(struct kq_str name)
{
    char copy[KQ_TOPIC_NAME_MAX + 1];
    return copy_name(name, copy) && kq_topic_name_valid(copy);
}

int16_t kq_topics_gone(const struct kq_topic_ref *ref)
{
    return ref->id ? KQ_ERROR_UNKNOWN_TOPIC_ID : KQ_ERROR_UNKNOWN_TOPIC_OR_PARTITION;
}

static bool may(const struct kq_request *request, unsigned rights, const struct kq_topic *topic)
{
    return kq_authorize(request->broker, &request->caller, rights, topic, NULL) == 0;
}

int16_t kq_topics_find(const struct kq_request *request, const struct kq_topic_ref *ref,
                       struct kq_topic **ret)
{
    char name[KQ_TOPIC_NAME_MAX + 1];
    int r = -ENOENT;
    if (ref->id)
        r = kq_topic_find(request->broker, ref->id, ret);
    else if (copy_name(ref->name, name))
        r = kq_topic_get(request->broker, name, ret);
    if (r == 0)
        return KQ_ERROR_NONE;
    /* Ids tell nothing to one who does not know them already. */
    return ref->id || may(request, KQ_RIGHT_DESCRIBE, NULL) ? kq_topics_gone(ref)
                                                            : KQ_ERROR_TOPIC_AUTHORIZATION_FAILED;
}

int16_t kq_topics_describe(const struct kq_request *request, const struct kq_topic_ref *ref,
                           struct kq_topic **ret)
{
    struct kq_topic *topic;
    int16_t error = kq_topics_find(request, ref, &topic);
    if (error)
        return error;
    if (!may(request, KQ_RIGHT_DESCRIBE, topic)) {
        kq_topic_unref(topic);
        return KQ_ERROR_TOPIC_AUTHORIZATION_FAILED;
    }
    *ret = topic;
    return KQ_ERROR_NONE;
}

int kq_topics_each(struct kq_request *request,
                   int (*step)(struct kq_request *request, struct kq_topic *topic, void *context),
                   void *context)
{
    char after[KQ_TOPIC_NAME_MAX + 1] = "";
    struct kq_topic *topic;
    int r = 0;
    while (r == 0 && kq_topic_next(request->broker, after, &topic) == 0) {
        strcpy(after, kq_topic_name(topic));
        if (kq_authorize(request->broker, &request->caller, KQ_RIGHT_DESCRIBE, topic, NULL) == 0)
            r = step(request, topic, context);
        kq_topic_unref(topic);
    }
    return r;
}

int16_t kq_topics_access(const struct kq_request *request, const struct kq_topic_ref *ref,
                         struct kq_topic *topic, int32_t number, unsigned rights,
                         struct kq_access *ret)
{
    struct kq_partition *partition;
    if (kq_partition_get(topic, number, &partition) != 0)
        return may(request, KQ_RIGHT_DESCRIBE, topic) ? KQ_ERROR_UNKNOWN_TOPIC_OR_PARTITION
                                                      : KQ_ERROR_TOPIC_AUTHORIZATION_FAILED;
    int r = kq_partition_access(partition, &request->caller, rights, ret);
    if (r == 0)
        return KQ_ERROR_NONE;
    kq_partition_unref(partition);
    return r == -ESTALE ? kq_topics_gone(ref) : KQ_ERROR_TOPIC_AUTHORIZATION_FAILED;
}

int16_t kq_topics_fence(struct kq_partition *partition, int32_t epoch)
{
    int32_t present = kq_leader_epoch(partition);
    if (epoch < 0 || epoch == present)
        return KQ_ERROR_NONE;
    return epoch < present ? KQ_ERROR_FENCED_LEADER_EPOCH : KQ_ERROR_UNKNOWN_LEADER_EPOCH;
}

/* --- Making --- */

static int inherit(const struct kq_request *request, const struct kq_attributes *parent,
                   bool directory, struct kq_attributes *ret)
{
    const struct kq_caller *caller = &request->caller;
    struct kq_buf acl = {0}, default_acl = {0};
    mode_t mode;
    int r = kq_acl_create(parent->default_acl, parent->default_acl_length, directory,
                          directory ? 0777 : 0666, request->server->options.umask, &acl,
                          &default_acl, &mode);
    if (r < 0)
        return r;
    bool setgid = parent->mode & S_ISGID;
    *ret = (struct kq_attributes){
        .uid = caller->uid,
        .gid = setgid ? parent->gid : caller->gid,
        .mode = directory && setgid ? mode | S_ISGID : mode,
        .acl = acl.data,
        .acl_length = acl.length,
        .default_acl = default_acl.data,
        .default_acl_length = default_acl.length,
    };
    return 0;
}

int kq_topics_inherit(const struct kq_request *request, struct kq_attributes *ret_topic,
                      struct kq_attributes *ret_partition)
{
    struct kq_attributes root, topic, partition;
    int r = kq_attributes_get(request->broker, NULL, NULL, &root);
    if (r < 0)
        return r;
    r = inherit(request, &root, true, &topic);
    kq_attributes_release(&root);
    if (r < 0)
        return r;
    r = inherit(request, &topic, false, &partition);
    if (r < 0) {
        kq_attributes_release(&topic);
        return r;
    }
    *ret_topic = topic;
    *ret_partition = partition;
    return 0;
}

int kq_topics_inherit_partition(const struct kq_request *request, struct kq_topic *topic,
                                struct kq_attributes *ret)
{
    struct kq_attributes parent;
    int r = kq_attributes_get(request->broker, topic, NULL, &parent);
    if (r < 0)
        return r;
    r = inherit(request, &parent, false, ret);
    kq_attributes_release(&parent);
    return r;
}

static int create(const struct kq_request *request, const char *name, struct kq_topic **ret)
{
    struct kq_topic_spec spec = {.name = name};
    int r = kq_topics_inherit(request, &spec.topic, &spec.partition);
    if (r < 0)
        return r;
    r = kq_topic_create(request->broker, &request->caller, &spec, ret);
    kq_attributes_release(&spec.topic);
    kq_attributes_release(&spec.partition);
    return r;
}

int16_t kq_topics_create(const struct kq_request *request, struct kq_str name,
                         struct kq_topic **ret)
{
    char copy[KQ_TOPIC_NAME_MAX + 1];
    if (!copy_name(name, copy) || !kq_topic_name_valid(copy))
        return KQ_ERROR_INVALID_TOPIC_EXCEPTION;
    int r = create(request, copy, ret);
    switch (r) {
    case -EEXIST:
        return kq_topics_describe(request, &(struct kq_topic_ref){.name = name}, ret);
    case -EBUSY:
        return KQ_ERROR_LEADER_NOT_AVAILABLE;
    case -EACCES:
    case -EPERM:
        return KQ_ERROR_TOPIC_AUTHORIZATION_FAILED;
    case -EDQUOT:
        return KQ_ERROR_POLICY_VIOLATION;
    default:
        return kq_error_from(r);
    }
}

/* --- Operations --- */

/* org.apache.kafka.common.acl.AclOperation */
enum operation {
    READ = 1 << 3,
    WRITE = 1 << 4,
    CREATE = 1 << 5,
    DELETE = 1 << 6,
    ALTER = 1 << 7,
    DESCRIBE = 1 << 8,
    CLUSTER_ACTION = 1 << 9,
    DESCRIBE_CONFIGS = 1 << 10,
    ALTER_CONFIGS = 1 << 11,
    IDEMPOTENT_WRITE = 1 << 12,
};

static bool may_with_all(const struct kq_request *request, struct kq_topic *topic, unsigned right)
{
    struct kq_partition *partition;
    struct kq_access access;
    for (int32_t i = 0; kq_partition_get(topic, i, &partition) == 0; i++) {
        int r = kq_partition_access(partition, &request->caller, right, &access);
        kq_partition_unref(partition);
        if (r != 0)
            return false;
    }
    return true;
}

static int32_t topic_operations(const struct kq_request *request, struct kq_topic *topic)
{
    static const struct {
        unsigned right;
        enum operation operation;
    } of_topic[] = {
        {KQ_RIGHT_DELETE, DELETE},
        {KQ_RIGHT_ALTER, ALTER},
        {KQ_RIGHT_DESCRIBE, DESCRIBE},
        {KQ_RIGHT_DESCRIBE_CONFIG, DESCRIBE_CONFIGS},
        {KQ_RIGHT_ALTER_CONFIG, ALTER_CONFIGS},
    };
    int32_t operations = 0;
    for (size_t i = 0; i < kq_array_size(of_topic); i++)
        if (may(request, of_topic[i].right, topic))
            operations |= of_topic[i].operation;
    if (may(request, KQ_RIGHT_CREATE, NULL))
        operations |= CREATE;
    if (may_with_all(request, topic, KQ_RIGHT_READ))
        operations |= READ;
    if (may_with_all(request, topic, KQ_RIGHT_WRITE))
        operations |= WRITE;
    return operations;
}

static int32_t cluster_operations(const struct kq_request *request)
{
    int32_t operations = 0;
    if (may(request, KQ_RIGHT_LIST, NULL))
        operations |= DESCRIBE;
    if (may(request, KQ_RIGHT_CREATE, NULL))
        operations |= CREATE;
    if (may(request, KQ_RIGHT_CHANGE_ATTRIBUTES, NULL))
        operations |= ALTER | CLUSTER_ACTION | DESCRIBE_CONFIGS | ALTER_CONFIGS;
    if (kq_producer_id_access(request->broker, &request->caller) == 0)
        operations |= IDEMPOTENT_WRITE;
    return operations;
}

int32_t kq_topics_operations(const struct kq_request *request, struct kq_topic *topic)
{
    return topic ? topic_operations(request, topic) : cluster_operations(request);
}
