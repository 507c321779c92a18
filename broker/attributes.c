/* Owner, mode and ACLs: copies, reading them, changing them. */
#include "broker/internal.h"

#include "broker/base/mem.h"

#define MODE_BITS 07777
#define STICKY 01000

void kq_attributes_release(struct kq_attributes *attributes)
{
    free(attributes->acl);
    free(attributes->default_acl);
    *attributes = (struct kq_attributes){0};
}

int kq_attributes_copy(const struct kq_attributes *from, struct kq_attributes *ret)
{
    struct kq_attributes copy = *from;
    copy.acl = from->acl_length ? kq_memdup(from->acl, from->acl_length) : NULL;
    copy.default_acl =
        from->default_acl_length ? kq_memdup(from->default_acl, from->default_acl_length) : NULL;
    if ((from->acl_length && !copy.acl) || (from->default_acl_length && !copy.default_acl)) {
        kq_attributes_release(&copy);
        return -ENOMEM;
    }
    *ret = copy;
    return 0;
}

/* Under attributes_lock. */
static struct kq_attributes *which(struct kq_broker *broker, struct kq_topic *topic,
                                   struct kq_partition *partition)
{
    if (partition)
        return &partition->attributes;
    return topic ? &topic->attributes : &broker->root;
}

int kq_attributes_get(struct kq_broker *broker, struct kq_topic *topic,
                      struct kq_partition *partition, struct kq_attributes *ret)
{
    pthread_rwlock_rdlock(&broker->attributes_lock);
    int r = kq_attributes_copy(which(broker, topic, partition), ret);
    pthread_rwlock_unlock(&broker->attributes_lock);
    return r;
}

void kq_attributes_peek(struct kq_broker *broker, struct kq_topic *topic,
                        struct kq_partition *partition, struct kq_attributes *ret)
{
    pthread_rwlock_rdlock(&broker->attributes_lock);
    *ret = *which(broker, topic, partition);
    pthread_rwlock_unlock(&broker->attributes_lock);
    ret->acl = ret->default_acl = NULL;
    ret->acl_length = ret->default_acl_length = 0;
}

int kq_authorize(struct kq_broker *broker, const struct kq_caller *caller, unsigned rights,
                 const struct kq_topic *topic, const struct kq_partition *partition)
{
    const struct kq_authz *authz = &broker->options.authz;
    pthread_rwlock_rdlock(&broker->attributes_lock);
    struct kq_authz_object object = {
        .root = &broker->root,
        .topic = topic ? &topic->attributes : NULL,
        .partition = partition ? &partition->attributes : NULL,
    };
    int r = authz->check(authz->context, caller, rights, &object);
    pthread_rwlock_unlock(&broker->attributes_lock);
    return r;
}

static void replace(struct kq_broker *broker, struct kq_attributes *old,
                    struct kq_attributes *attributes)
{
    struct kq_attributes before;
    pthread_rwlock_wrlock(&broker->attributes_lock);
    before = *old;
    *old = *attributes;
    pthread_rwlock_unlock(&broker->attributes_lock);
    kq_attributes_release(&before);
}

static int write_topic(struct kq_topic *topic, struct kq_partition *partition,
                       const struct kq_attributes *attributes)
{
    struct kq_topic_record record;
    int r = kq_topic_record(topic, 0, &record);
    if (r < 0)
        return r;
    if (partition)
        record.partitions[partition->number].attributes = *attributes;
    else
        record.attributes = *attributes;
    r = kq_store_write(topic->broker->dirfd, topic->name, &record);
    free(record.partitions);
    return r;
}

/* With the lock held that keeps writers of the file apart. Takes ATTRIBUTES over on success. */
static int set_locked(struct kq_broker *broker, struct kq_topic *topic,
                      struct kq_partition *partition, const struct kq_caller *caller,
                      struct kq_attributes *attributes)
{
    if (topic && atomic_load(&topic->deleted))
        return -ESTALE;
    int r = kq_authorize(broker, caller, KQ_RIGHT_CHANGE_ATTRIBUTES, topic, partition);
    if (r == 0)
        r = topic ? write_topic(topic, partition, attributes)
                  : kq_store_write_root(broker->dirfd, attributes);
    if (r < 0)
        return r;
    replace(broker, which(broker, topic, partition), attributes);
    kq_broker_emit(broker, KQ_EVENT_ATTRIBUTES, topic, partition);
    return 0;
}

int kq_attributes_set(struct kq_broker *broker, struct kq_topic *topic,
                      struct kq_partition *partition, const struct kq_caller *caller,
                      const struct kq_attributes *attributes)
{
    struct kq_attributes copy;
    if (partition)
        topic = partition->topic;
    pthread_mutex_t *lock = topic ? &topic->change : &broker->root_change;
    int r = kq_attributes_copy(attributes, &copy);
    if (r < 0)
        return r;
    copy.mode &= MODE_BITS;
    if (!partition)
        copy.mode |= STICKY;
    pthread_mutex_lock(lock);
    r = set_locked(broker, topic, partition, caller, &copy);
    pthread_mutex_unlock(lock);
    if (r < 0)
        kq_attributes_release(&copy);
    return r;
}
