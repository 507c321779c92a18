/* Owner, mode and ACL of groups and of .kqfs/groups: who may do what to a group. */
#include "broker/group.h"

#include "broker/base/clock.h"
#include "broker/base/mem.h"

#define MODE_BITS 07777

/* A group is to .kqfs/groups what a partition is to its topic; to be deleted, what a topic is to
 * the root. */
int kq_group_authorize(struct kq_groups *groups, const struct kq_group *group,
                       const struct kq_caller *caller, unsigned rights)
{
    struct kq_broker *broker = groups->broker;
    const struct kq_authz *authz = &broker->options.authz;
    bool deletes = rights & KQ_RIGHT_DELETE;
    if (rights == 0)
        return 0;
    pthread_rwlock_rdlock(&broker->attributes_lock);
    struct kq_authz_object object = {
        .root = deletes ? &groups->root : &broker->root,
        .topic = deletes ? &group->attributes : &groups->root,
        .partition = !deletes && group ? &group->attributes : NULL,
    };
    const struct kq_authz_object root = {.root = &broker->root};
    int r = deletes ? authz->check(authz->context, caller, KQ_RIGHT_DESCRIBE, &root) : 0;
    if (r == 0)
        r = authz->check(authz->context, caller, rights, &object);
    pthread_rwlock_unlock(&broker->attributes_lock);
    return r;
}

static struct kq_attributes *which(struct kq_groups *groups, struct kq_group *group)
{
    return group ? &group->attributes : &groups->root;
}

int kq_group_attributes_get(struct kq_broker *broker, struct kq_group *group,
                            struct kq_attributes *ret)
{
    pthread_rwlock_rdlock(&broker->attributes_lock);
    int r = kq_attributes_copy(which(broker->groups, group), ret);
    pthread_rwlock_unlock(&broker->attributes_lock);
    return r;
}

void kq_group_attributes_peek(struct kq_broker *broker, struct kq_group *group,
                              struct kq_attributes *ret)
{
    pthread_rwlock_rdlock(&broker->attributes_lock);
    *ret = *which(broker->groups, group);
    pthread_rwlock_unlock(&broker->attributes_lock);
    ret->acl = ret->default_acl = NULL;
    ret->acl_length = ret->default_acl_length = 0;
}

void kq_group_put_attributes(struct kq_groups *groups, struct kq_group *group,
                             struct kq_attributes *attributes)
{
    struct kq_broker *broker = groups->broker;
    struct kq_attributes *at = which(groups, group), before;
    pthread_rwlock_wrlock(&broker->attributes_lock);
    before = *at;
    *at = *attributes;
    pthread_rwlock_unlock(&broker->attributes_lock);
    kq_attributes_release(&before);
    if (group)
        atomic_store_explicit(&group->changed_ms, kq_clock_wall_ms(), memory_order_relaxed);
}

/* --- Changing them --- */

void kq_group_attributes_lock(struct kq_broker *broker)
{
    pthread_mutex_lock(&broker->groups->change_lock);
}

void kq_group_attributes_unlock(struct kq_broker *broker)
{
    pthread_mutex_unlock(&broker->groups->change_lock);
}

struct attributes_write {
    struct kq_group_write write;
    struct kq_groups *groups;
    struct kq_attributes attributes;
    struct kq_group_change *change;
};

static void written(struct kq_group_write *write)
{
    struct attributes_write *own = (struct attributes_write *)write;
    struct kq_group_change *change = own->change;
    if (write->result == 0)
        kq_group_put_attributes(own->groups, write->group, &own->attributes);
    else
        kq_attributes_release(&own->attributes);
    change->result = write->result;
    kq_offsets_write_free(write);
    change->done(change);
}

static int new_write(struct kq_groups *groups, struct kq_group *group,
                     const struct kq_attributes *attributes, struct kq_group_change *change,
                     struct attributes_write **ret)
{
    struct attributes_write *write = kq_offsets_write_new(sizeof(*write), group);
    if (!write)
        return -ENOMEM;
    write->write.complete = written;
    write->groups = groups;
    write->change = change;
    int r = kq_attributes_copy(attributes, &write->attributes);
    write->attributes.mode &= MODE_BITS;
    if (r == 0)
        *ret = write;
    else
        kq_offsets_write_free(&write->write);
    return r;
}

static void drop(struct attributes_write *write)
{
    kq_attributes_release(&write->attributes);
    kq_offsets_write_free(&write->write);
}

static int queue_of_group(struct kq_group *group, struct attributes_write *write)
{
    kq_group_lock(group);
    int r = group->state == KQ_GROUP_DEAD || group->deleting ? -ESTALE : 0;
    if (r == 0)
        r = kq_offsets_put_attributes(&write->write, kq_group_name(group), &write->attributes,
                                      group->pinned);
    if (r == 0)
        r = kq_offsets_queue(group->shard, &write->write);
    kq_group_unlock(group);
    return r;
}

/* The directory of all groups is written down where the empty name leads. */
static int queue_of_root(struct kq_groups *groups, struct attributes_write *write)
{
    struct kq_group_shard *shard;
    int r = kq_groups_shard(groups, KQ_STR(""), &shard);
    if (r == 0)
        r = kq_offsets_put_attributes(&write->write, KQ_STR_NULL, &write->attributes, true);
    if (r == 0)
        r = kq_offsets_queue(shard, &write->write);
    if (r == 0)
        kq_group_shard_kick(shard);
    return r;
}

int kq_group_attributes_set(struct kq_broker *broker, struct kq_group *group,
                            const struct kq_caller *caller, const struct kq_attributes *attributes,
                            struct kq_group_change *change)
{
    struct attributes_write *write;
    int r = kq_group_authorize(broker->groups, group, caller, KQ_RIGHT_CHANGE_ATTRIBUTES);
    if (r == 0)
        r = new_write(broker->groups, group, attributes, change, &write);
    if (r != 0)
        return r;
    r = group ? queue_of_group(group, write) : queue_of_root(broker->groups, write);
    if (r != 0)
        drop(write);
    return r;
}
