/* Making and deleting groups. */
#include "broker/group.h"

#include "broker/base/mem.h"

struct change_write {
    struct kq_group_write write;
    struct kq_group_change *change;
};

static int new_write(struct kq_group *group, struct kq_group_change *change,
                     void (*complete)(struct kq_group_write *), struct change_write **ret)
{
    struct change_write *write = kq_offsets_write_new(sizeof(*write), group);
    if (!write)
        return -ENOMEM;
    write->write.complete = complete;
    write->change = change;
    *ret = write;
    return 0;
}

static void conclude(struct kq_group_write *write)
{
    struct kq_group_change *change = ((struct change_write *)write)->change;
    change->result = write->result;
    kq_offsets_write_free(write);
    change->done(change);
}

/* --- Making one --- */

/* One that could not be written down goes again, unless somebody has come to use it. */
static void take_back(struct kq_group *group)
{
    kq_group_lock(group);
    group->unsaved = true;
    group->pinned = false;
    if (group->state == KQ_GROUP_EMPTY && !group->pending && group->topic_count == 0) {
        group->state = KQ_GROUP_DEAD;
        kq_groups_remove(group);
    }
    kq_group_unlock(group);
}

static void created(struct kq_group_write *write)
{
    if (write->result != 0)
        take_back(write->group);
    conclude(write);
}

static int save_new(struct kq_group *group, struct change_write *write)
{
    kq_group_lock(group);
    group->pinned = true;
    group->unsaved = false;
    int r = kq_group_put_own_attributes(&write->write, group);
    if (r == 0)
        r = kq_offsets_put_group(&write->write, group);
    if (r == 0)
        r = kq_offsets_queue(group->shard, &write->write);
    kq_group_unlock(group);
    return r;
}

int kq_group_create(struct kq_broker *broker, const struct kq_caller *caller, struct kq_str name,
                    const struct kq_attributes *attributes, struct kq_group_change *change)
{
    struct kq_groups *groups = broker->groups;
    struct kq_group_shard *shard;
    struct kq_group *group;
    struct change_write *write;
    bool is_new;
    int r = name.length > 0 ? kq_groups_shard(groups, name, &shard) : KQ_GROUP_INVALID_ID;
    if (r == 0)
        r = kq_group_authorize(groups, NULL, caller, KQ_RIGHT_ALTER);
    if (r == 0)
        r = kq_groups_take(shard, name, attributes, &is_new, &group);
    if (r != 0)
        return r == KQ_GROUP_INVALID_ID ? -EINVAL : r;
    r = is_new ? new_write(group, change, created, &write) : -EEXIST;
    if (r == 0 && (r = save_new(group, write)) != 0)
        kq_offsets_write_free(&write->write);
    if (r != 0 && is_new)
        take_back(group);
    kq_group_unref(group);
    return r;
}

/* --- Deleting one --- */

int kq_group_put_tombstones(struct kq_group_write *write, const struct kq_group *group)
{
    struct kq_str name = kq_group_name(group);
    int r = 0;
    for (size_t i = 0; r == 0 && i < group->topic_count; i++) {
        const struct kq_group_topic *topic = group->topics[i];
        struct kq_str topic_name = {topic->name, topic->length};
        for (size_t j = 0; r == 0 && j < topic->count; j++) {
            const struct kq_group_slot *slot = topic->slots[j];
            if (slot->value.offset >= 0 || slot->queued > 0)
                r = kq_offsets_put_no_offset(write, name, topic_name, slot->partition);
        }
    }
    if (r == 0)
        r = kq_offsets_put_no_attributes(write, name);
    if (r == 0)
        r = kq_offsets_put_no_group(write, name);
    return r;
}

/* Readers on the mount meet the end of what they read for. */
static void lose_claims(struct kq_group *group)
{
    for (size_t i = 0; i < group->topic_count; i++) {
        for (size_t j = 0; j < group->topics[i]->count; j++) {
            struct kq_group_slot *slot = group->topics[i]->slots[j];
            if (slot->claim)
                atomic_store(&slot->claim->lost, true);
            slot->claim = NULL;
        }
    }
}

void kq_group_bury(struct kq_group *group, int result)
{
    group->deleting = false;
    if (result != 0)
        return;
    lose_claims(group);
    kq_group_dismiss(group, KQ_GROUP_NOT_AVAILABLE);
    kq_group_clear_members(group);
    group->state = KQ_GROUP_DEAD;
    kq_groups_remove(group);
}

static void deleted(struct kq_group_write *write)
{
    kq_group_lock(write->group);
    kq_group_bury(write->group, write->result);
    kq_group_unlock(write->group);
    conclude(write);
}

int kq_group_queue_deletion(struct kq_group *group, struct kq_group_write *write)
{
    int r = kq_group_put_tombstones(write, group);
    write->splits = true;
    if (r == 0)
        r = kq_offsets_queue(group->shard, write);
    group->deleting = r == 0;
    return r;
}

static int delete_locked(struct kq_group *group, struct change_write *write)
{
    if (group->state == KQ_GROUP_DEAD || group->deleting)
        return KQ_GROUP_NOT_FOUND;
    if (group->state != KQ_GROUP_EMPTY)
        return KQ_GROUP_NOT_EMPTY;
    return kq_group_queue_deletion(group, &write->write);
}

int kq_group_delete(struct kq_broker *broker, const struct kq_caller *caller, struct kq_str name,
                    struct kq_group_change *change)
{
    struct kq_group *group;
    struct change_write *write;
    int r = kq_group_get(broker, caller, name, 0, &group);
    if (r != 0)
        return r;
    r = kq_group_authorize(broker->groups, group, caller, KQ_RIGHT_DELETE);
    if (r == 0)
        r = new_write(group, change, deleted, &write);
    if (r == 0) {
        kq_group_lock(group);
        r = delete_locked(group, write);
        kq_group_unlock(group);
        if (r != 0)
            kq_offsets_write_free(&write->write);
    }
    kq_group_unref(group);
    return r;
}
