/* SyncGroup, Heartbeat and LeaveGroup. */
#include "broker/group.h"

/* The member that MEMBER_ID and INSTANCE_ID (null: dynamic, or not said) name together. */
int kq_group_identify(struct kq_group *group, struct kq_str member_id, struct kq_str instance_id,
                      struct kq_group_member **ret)
{
    if (instance_id.length >= 0) {
        const struct kq_group_member *holder = kq_group_member_static(group, instance_id);
        if (!holder)
            return KQ_GROUP_UNKNOWN_MEMBER;
        if (!kq_str_is(holder->id, member_id))
            return KQ_GROUP_FENCED_INSTANCE;
    }
    struct kq_group_member *member = kq_group_member_find(group, member_id);
    if (!member)
        return KQ_GROUP_UNKNOWN_MEMBER;
    *ret = member;
    return 0;
}

/* The group of a member's request, locked. */
static int enter(struct kq_broker *broker, const struct kq_caller *caller, struct kq_str name,
                 struct kq_group **ret)
{
    struct kq_group *group;
    if (name.length <= 0)
        return KQ_GROUP_INVALID_ID;
    int r = kq_group_get(broker, caller, name, KQ_RIGHT_WRITE, &group);
    if (r != 0)
        return r == KQ_GROUP_NOT_FOUND ? KQ_GROUP_UNKNOWN_MEMBER : r;
    kq_group_lock(group);
    if (!kq_group_is_closed(group)) {
        *ret = group;
        return 0;
    }
    kq_group_unlock(group);
    kq_group_unref(group);
    return KQ_GROUP_NOT_AVAILABLE;
}

static void leave(struct kq_group *group)
{
    kq_group_unlock(group);
    kq_group_unref(group);
}

/* --- SyncGroup --- */

/* Only what both sides say can differ. */
static bool differs(struct kq_str said, struct kq_str have)
{
    return said.length >= 0 && have.length >= 0 && !kq_str_is(said, have);
}

static int check_sync(struct kq_group *group, const struct kq_group_sync *sync,
                      struct kq_group_member **ret)
{
    int r = group->state == KQ_GROUP_EMPTY
                ? KQ_GROUP_UNKNOWN_MEMBER
                : kq_group_identify(group, sync->member_id, sync->instance_id, ret);
    if (r == 0 && sync->generation != group->generation)
        r = KQ_GROUP_ILLEGAL_GENERATION;
    if (r == 0 && (differs(sync->protocol_type, group->protocol_type) ||
                   differs(sync->protocol_name, group->protocol)))
        r = KQ_GROUP_INCONSISTENT_PROTOCOL;
    return r;
}

static int put_assignments(struct kq_group *group, const struct kq_group_sync *sync)
{
    int r = 0;
    struct kq_group_member *member;
    for (member = group->members; member; member = member->by_id.next)
        kq_group_put_assignment(member, (struct kq_bytes){NULL, 0});
    for (int32_t i = 0; r == 0 && i < sync->assignment_count; i++) {
        const struct kq_group_assignment *assignment = &sync->assignments[i];
        member = kq_group_member_find(group, assignment->member_id);
        if (member && assignment->assignment.length > group->groups->options.max_metadata_bytes)
            r = KQ_GROUP_TOO_LARGE;
        else if (member)
            r = kq_group_put_assignment(member, assignment->assignment);
    }
    return r;
}

/* The leader's assignment is written down before anybody is told. */
static int assign(struct kq_group *group, const struct kq_group_sync *sync)
{
    int r = put_assignments(group, sync);
    if (r == 0)
        r = kq_group_save_assignment(group);
    if (r == 0)
        return 0;
    kq_group_reset_assignment(group, r < 0 ? KQ_GROUP_NOT_AVAILABLE : r);
    kq_group_rebalance(group);
    return r;
}

static int sync_locked(struct kq_group *group, const struct kq_group_sync *sync,
                       struct kq_group_wait *wait, bool *ret_parked)
{
    struct kq_group_member *member;
    int r = check_sync(group, sync, &member);
    if (r != 0)
        return r;
    switch (group->state) {
    case KQ_GROUP_COMPLETING_REBALANCE:
        kq_group_await_sync(member, wait);
        *ret_parked = true;
        kq_group_synced(group, member);
        if (member == group->leader)
            assign(group, sync);
        return 0;
    case KQ_GROUP_STABLE:
        kq_group_synced(group, member);
        return kq_group_answer_assignment(member, &wait->answer);
    default:
        return KQ_GROUP_REBALANCE_IN_PROGRESS;
    }
}

int kq_group_sync(struct kq_broker *broker, const struct kq_caller *caller,
                  const struct kq_group_sync *sync, struct kq_group_wait *wait)
{
    struct kq_group *group;
    bool parked = false;
    wait->group = NULL;
    wait->member = NULL;
    wait->answer = NULL;
    int r = enter(broker, caller, sync->group, &group);
    if (r == 0) {
        r = sync_locked(group, sync, wait, &parked);
        bool answered = kq_group_unlock_but(group, wait);
        kq_group_unref(group);
        if (parked)
            return kq_group_parked(wait, answered);
    }
    wait->result = r;
    return KQ_READY;
}

/* --- Heartbeat --- */

static int heartbeat_locked(struct kq_group *group, struct kq_str member_id,
                            struct kq_str instance_id, int32_t generation)
{
    struct kq_group_member *member;
    int r = kq_group_identify(group, member_id, instance_id, &member);
    if (r == 0 && generation != group->generation)
        r = KQ_GROUP_ILLEGAL_GENERATION;
    if (r != 0)
        return r;
    kq_group_heard(member);
    return group->state == KQ_GROUP_PREPARING_REBALANCE ? KQ_GROUP_REBALANCE_IN_PROGRESS : 0;
}

int kq_group_heartbeat(struct kq_broker *broker, const struct kq_caller *caller, struct kq_str name,
                       struct kq_str member_id, struct kq_str instance_id, int32_t generation)
{
    struct kq_group *group;
    int r = enter(broker, caller, name, &group);
    if (r == KQ_GROUP_LOADING) /* its member will be there when that is done */
        return 0;
    if (r != 0)
        return r;
    r = heartbeat_locked(group, member_id, instance_id, generation);
    leave(group);
    return r;
}

/* --- LeaveGroup --- */

static int leave_one(struct kq_group *group, const struct kq_group_leaving *leaving)
{
    struct kq_group_member *member;
    int r = 0;
    if (leaving->member_id.length <= 0) { /* an administrator removes a static member */
        member = leaving->instance_id.length >= 0
                     ? kq_group_member_static(group, leaving->instance_id)
                     : NULL;
        r = member ? 0 : KQ_GROUP_UNKNOWN_MEMBER;
    } else if (!(member = kq_group_member_pending(group, leaving->member_id))) {
        r = kq_group_identify(group, leaving->member_id, leaving->instance_id, &member);
    }
    if (r == 0)
        kq_group_remove(group, member, KQ_GROUP_UNKNOWN_MEMBER);
    return r;
}

int kq_group_leave(struct kq_broker *broker, const struct kq_caller *caller, struct kq_str name,
                   struct kq_group_leaving *leaving, int32_t count)
{
    struct kq_group *group;
    bool left = false;
    int r = enter(broker, caller, name, &group);
    for (int32_t i = 0; r == KQ_GROUP_UNKNOWN_MEMBER && i < count; i++)
        leaving[i].result = r;
    if (r != 0)
        return r == KQ_GROUP_UNKNOWN_MEMBER ? 0 : r;
    for (int32_t i = 0; i < count; i++) {
        leaving[i].result = leave_one(group, &leaving[i]);
        left |= leaving[i].result == 0;
    }
    if (left && group->state != KQ_GROUP_EMPTY)
        kq_group_rebalance(group);
    leave(group);
    return 0;
}
