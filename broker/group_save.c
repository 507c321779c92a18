/* A group as a record, and what happens once it is durable. */
#include "broker/group.h"

#include "broker/base/diag.h"

static void complain(const struct kq_group *group, int result)
{
    if (result == KQ_GROUP_NOT_AVAILABLE) /* the broker stops */
        return;
    kq_diag_limited(60000, LOG_ERR,
                    "group %.*s cannot be written to " KQ_GROUPS_TOPIC ": %s; after a restart it "
                    "is as it was before",
                    group->length, group->name,
                    result < 0 ? strerror(-result) : "it is larger than max.message.bytes");
}

/* The last generation stands in the log until the next is complete. */
static bool amid_rebalance(const struct kq_group *group)
{
    return group->state == KQ_GROUP_PREPARING_REBALANCE && group->generation > 0;
}

int kq_group_put_own_attributes(struct kq_group_write *write, struct kq_group *group)
{
    struct kq_broker *broker = group->groups->broker;
    pthread_rwlock_rdlock(&broker->attributes_lock);
    int r =
        kq_offsets_put_attributes(write, kq_group_name(group), &group->attributes, group->pinned);
    pthread_rwlock_unlock(&broker->attributes_lock);
    return r;
}

/* Queues the group as it is. The attributes go with it until they were written once. */
static int queue_group(struct kq_group *group, struct kq_group_write *write)
{
    int r = 0;
    if (!write)
        return -ENOMEM;
    if (group->unsaved)
        r = kq_group_put_own_attributes(write, group);
    if (r == 0 && !amid_rebalance(group))
        r = kq_offsets_put_group(write, group);
    if (r == 0)
        r = kq_offsets_queue(group->shard, write);
    if (r == 0)
        group->unsaved = false;
    else
        kq_offsets_write_free(write);
    return r;
}

/* --- As it is --- */

static void saved(struct kq_group_write *write)
{
    struct kq_group *group = write->group;
    if (write->result != 0) {
        complain(group, write->result);
        kq_group_lock(group);
        group->unsaved = true;
        kq_group_unlock(group);
    }
    kq_offsets_write_free(write);
}

void kq_group_save(struct kq_group *group)
{
    struct kq_group_write *write = kq_offsets_write_new(sizeof(*write), group);
    if (write)
        write->complete = saved;
    int r = queue_group(group, write);
    if (r != 0)
        complain(group, r);
}

/* --- With the assignment --- */

struct assignment_write {
    struct kq_group_write write;
    int32_t generation;
};

/* Another rebalance may have begun meanwhile: then this one is of no use. */
static void assigned(struct kq_group_write *write)
{
    struct kq_group *group = write->group;
    int32_t generation = ((struct assignment_write *)write)->generation;
    if (write->result != 0)
        complain(group, write->result);
    kq_group_lock(group);
    group->unsaved |= write->result != 0;
    if (group->state == KQ_GROUP_COMPLETING_REBALANCE && group->generation == generation) {
        if (write->result == 0) {
            kq_group_stabilize(group);
        } else {
            kq_group_reset_assignment(group, KQ_GROUP_NOT_AVAILABLE);
            kq_group_rebalance(group);
        }
    }
    kq_group_unlock(group);
    kq_offsets_write_free(write);
}

int kq_group_save_assignment(struct kq_group *group)
{
    struct assignment_write *write = kq_offsets_write_new(sizeof(*write), group);
    if (write) {
        write->write.complete = assigned;
        write->generation = group->generation;
    }
    return queue_group(group, write ? &write->write : NULL);
}

/* --- With a static member's new id --- */

struct static_write {
    struct kq_group_write write;
    struct kq_group_member *member; /* referenced */
    struct kq_str old_leader;
    int32_t generation;
    bool knows_skipping;
};

/* The member awaits a join: where a rebalance has begun meanwhile, that is what it has joined. */
static void answer_static(struct static_write *saved)
{
    struct kq_group_member *member = saved->member;
    struct kq_group *group = member->group;
    struct kq_group_answer *answer = NULL;
    int r = saved->write.result;
    if (!member->awaiting_join || group->state != KQ_GROUP_STABLE ||
        group->generation != saved->generation)
        return;
    if (r == 0 && saved->knows_skipping)
        r = kq_group_answer_generation(member, &answer);
    else if (r == 0)
        r = kq_group_answer_follower(member, saved->old_leader, &answer);
    else
        r = KQ_GROUP_NOT_AVAILABLE;
    if (answer)
        answer->skip_assignment = saved->knows_skipping && group->leader == member;
    kq_group_answer_join_with(member, r, answer);
    kq_group_heard(member);
}

static void static_saved(struct kq_group_write *write)
{
    struct static_write *saved = (struct static_write *)write;
    struct kq_group *group = write->group;
    if (write->result != 0)
        complain(group, write->result);
    kq_group_lock(group);
    group->unsaved |= write->result != 0;
    answer_static(saved);
    kq_group_member_unref(saved->member);
    kq_group_unlock(group);
    free((char *)saved->old_leader.data);
    kq_offsets_write_free(write);
}

int kq_group_save_static(struct kq_group_member *member, struct kq_str old_leader,
                         bool knows_skipping)
{
    struct kq_group *group = member->group;
    struct kq_str copy;
    int r = kq_group_copy(old_leader, &copy);
    if (r < 0)
        return r;
    struct static_write *write = kq_offsets_write_new(sizeof(*write), group);
    if (write) {
        write->write.complete = static_saved;
        write->member = member;
        write->old_leader = copy;
        write->generation = group->generation;
        write->knows_skipping = knows_skipping;
    }
    r = queue_group(group, write ? &write->write : NULL);
    if (r == 0)
        member->references++;
    else
        free((char *)copy.data);
    return r;
}
