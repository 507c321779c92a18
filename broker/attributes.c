/* Owner, mode and ACLs: copies, reading them, changing them. */
#include "broker/internal.h"

#include "broker/base/mem.h"

#define MODE_BITS 07777
#define STICKY 01000
#define GRANTED 256 /* answers that a thread remembers */

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

static int ask(struct kq_broker *broker, const struct kq_caller *caller, unsigned rights,
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

/* What was granted, of each thread for itself: nobody waits for anybody, and nothing has to be
 * taken back, since an entry says which state of the attributes it is about. A refusal is not
 * remembered.
 */
struct granted {
    uint64_t partition, identity, changes;
    unsigned rights;
};

static struct granted *granted_to(const struct kq_caller *caller,
                                  const struct kq_partition *partition)
{
    static _Thread_local struct granted remembered[GRANTED];
    uint64_t mixed = (partition->serial * 31 + caller->identity) % GRANTED;
    return &remembered[mixed];
}

int kq_authorize(struct kq_broker *broker, const struct kq_caller *caller, unsigned rights,
                 const struct kq_topic *topic, const struct kq_partition *partition)
{
    if (!partition || !caller->identity)
        return ask(broker, caller, rights, topic, partition);
    /* Before asking: what changes meanwhile makes the answer one of the past. */
    struct granted now = {partition->serial, caller->identity,
                          atomic_load(&broker->attribute_changes), rights};
    struct granted *granted = granted_to(caller, partition);
    if (granted->partition == now.partition && granted->identity == now.identity &&
        granted->changes == now.changes) {
        now.rights |= granted->rights;
        if (now.rights == granted->rights)
            return 0;
    }
    int r = ask(broker, caller, rights, topic, partition);
    if (r == 0)
        *granted = now;
    return r;
}

static void replace(struct kq_broker *broker, struct kq_attributes *old,
                    struct kq_attributes *attributes)
{
    struct kq_attributes before;
    pthread_rwlock_wrlock(&broker->attributes_lock);
    before = *old;
    *old = *attributes;
    atomic_fetch_add(&broker->attribute_changes, 1);
    pthread_rwlock_unlock(&broker->attributes_lock);
    kq_attributes_release(&before);
}

uint64_t kq_attribute_changes(const struct kq_broker *broker)
{
    return atomic_load(&broker->attribute_changes);
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

static mode_t kept_bits(mode_t mode, bool is_partition)
{
    return (mode & MODE_BITS) | (is_partition ? 0 : STICKY);
}

int kq_attributes_change(struct kq_broker *broker, struct kq_topic *topic,
                         struct kq_partition *partition, const struct kq_caller *caller,
                         int (*change)(struct kq_attributes *attributes, void *argument),
                         void *argument)
{
    struct kq_attributes attributes;
    if (partition)
        topic = partition->topic;
    pthread_mutex_t *lock = topic ? &topic->change : &broker->root_change;
    pthread_mutex_lock(lock);
    int r = kq_attributes_get(broker, topic, partition, &attributes);
    if (r == 0) {
        r = change(&attributes, argument);
        attributes.mode = kept_bits(attributes.mode, partition);
        if (r == 0)
            r = set_locked(broker, topic, partition, caller, &attributes);
        if (r != 0)
            kq_attributes_release(&attributes);
    }
    pthread_mutex_unlock(lock);
    return r;
}

static int put(struct kq_attributes *attributes, void *argument)
{
    struct kq_attributes copy;
    int r = kq_attributes_copy(argument, &copy);
    if (r < 0)
        return r;
    kq_attributes_release(attributes);
    *attributes = copy;
    return 0;
}

int kq_attributes_set(struct kq_broker *broker, struct kq_topic *topic,
                      struct kq_partition *partition, const struct kq_caller *caller,
                      const struct kq_attributes *attributes)
{
    return kq_attributes_change(broker, topic, partition, caller, put, (void *)attributes);
}

/* --- A topic with all its partitions --- */

static int check_all(struct kq_topic *topic, const struct kq_caller *caller, int32_t count)
{
    int r = atomic_load(&topic->deleted) ? -ESTALE : 0;
    if (r == 0)
        r = kq_authorize(topic->broker, caller, KQ_RIGHT_CHANGE_ATTRIBUTES, topic, NULL);
    for (int32_t i = 0; i < count && r == 0; i++)
        r = kq_authorize(topic->broker, caller, KQ_RIGHT_CHANGE_ATTRIBUTES, topic,
                         kq_topic_at(topic, i));
    return r;
}

/* ALL is of the topic, then of each partition. */
static int change_all(struct kq_topic *topic, const struct kq_topic_attributes_change *change,
                      int32_t count, struct kq_attributes *all)
{
    int r = 0;
    for (int32_t i = -1; i < count && r == 0; i++) {
        struct kq_partition *partition = i < 0 ? NULL : kq_topic_at(topic, i);
        struct kq_attributes *one = &all[i + 1];
        r = kq_attributes_get(topic->broker, topic, partition, one);
        if (r == 0)
            r = change->change(change, one, partition);
        one->mode = kept_bits(one->mode, partition);
    }
    return r;
}

static int write_all(struct kq_topic *topic, int32_t count, const struct kq_attributes *all)
{
    struct kq_topic_record record;
    int r = kq_topic_record(topic, 0, &record);
    if (r < 0)
        return r;
    record.attributes = all[0];
    for (int32_t i = 0; i < count; i++)
        record.partitions[i].attributes = all[i + 1];
    r = kq_store_write(topic->broker->dirfd, topic->name, &record);
    free(record.partitions);
    return r;
}

/* What was before comes back in ALL. */
static void replace_all(struct kq_topic *topic, int32_t count, struct kq_attributes *all)
{
    struct kq_broker *broker = topic->broker;
    pthread_rwlock_wrlock(&broker->attributes_lock);
    for (int32_t i = -1; i < count; i++) {
        struct kq_attributes *at = which(broker, topic, i < 0 ? NULL : kq_topic_at(topic, i));
        struct kq_attributes before = *at;
        *at = all[i + 1];
        all[i + 1] = before;
    }
    atomic_fetch_add(&broker->attribute_changes, 1);
    pthread_rwlock_unlock(&broker->attributes_lock);
    for (int32_t i = -1; i < count; i++)
        kq_broker_emit(broker, KQ_EVENT_ATTRIBUTES, topic, i < 0 ? NULL : kq_topic_at(topic, i));
}

int kq_topic_change_attributes(struct kq_topic *topic, const struct kq_caller *caller,
                               const struct kq_topic_attributes_change *change)
{
    pthread_mutex_lock(&topic->change);
    int32_t count = kq_topic_partition_count(topic);
    struct kq_attributes *all = kq_zalloc(((size_t)count + 1) * sizeof(*all));
    int r = all ? check_all(topic, caller, count) : -ENOMEM;
    if (r == 0)
        r = change_all(topic, change, count, all);
    if (r == 0)
        r = write_all(topic, count, all);
    if (r == 0)
        replace_all(topic, count, all);
    pthread_mutex_unlock(&topic->change);
    for (int32_t i = 0; all && i <= count; i++)
        kq_attributes_release(&all[i]);
    free(all);
    return r;
}
