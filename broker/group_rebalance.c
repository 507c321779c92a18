/* The states of a group, as Kafka's coordinator goes through them:
 *
 *   Empty ── a member joins ──▶ PreparingRebalance ── all have joined, or time is up ──▶
 *   CompletingRebalance ── the leader's assignment is in the log ──▶ Stable
 *
 * and back to PreparingRebalance whenever a member comes, leaves, fails or changes; to Empty when
 * none is left. A group that was empty waits a while for more members before its first generation.
 * Source: Kafka's GroupMetadataManager and ClassicGroup, whose names for the steps are used here.
 *
 * All under the group's lock. */
#include "broker/group.h"

#include "broker/base/clock.h"

void kq_group_become(struct kq_group *group, enum kq_group_state state)
{
    group->previous = group->state;
    group->state = state;
    group->state_ms = kq_clock_wall_ms();
    atomic_store_explicit(&group->changed_ms, group->state_ms, memory_order_relaxed);
}

static int replace(struct kq_str from, struct kq_str *text)
{
    struct kq_str copy;
    int r = kq_group_copy(from, &copy);
    if (r < 0)
        return r;
    free((char *)text->data);
    *text = copy;
    return 0;
}

int kq_group_put_protocol(struct kq_group *group, struct kq_str protocol)
{
    return replace(protocol, &group->protocol);
}

int kq_group_put_type(struct kq_group *group, struct kq_str type)
{
    return replace(type, &group->protocol_type);
}

int kq_group_put_assignment(struct kq_group_member *member, struct kq_bytes assignment)
{
    struct kq_str copy;
    int r = kq_group_copy((struct kq_str){(const char *)assignment.data, assignment.length}, &copy);
    if (r < 0)
        return r;
    free((uint8_t *)member->assignment.data);
    member->assignment = (struct kq_bytes){(const uint8_t *)copy.data, copy.length};
    return 0;
}

static int32_t rebalance_timeout_ms(const struct kq_group *group)
{
    int32_t longest = 0;
    for (struct kq_group_member *member = group->members; member; member = member->by_id.next)
        if (member->rebalance_timeout_ms > longest)
            longest = member->rebalance_timeout_ms;
    return longest;
}

static bool all_have_joined(const struct kq_group *group)
{
    return group->awaiting_join == kq_group_member_count(group) && !group->pending;
}

void kq_group_heard(struct kq_group_member *member)
{
    kq_alarm_set(&member->heartbeat, member->session_timeout_ms);
}

/* --- From PreparingRebalance to CompletingRebalance --- */

/* Static members may take longer: only their session ends them. */
static void remove_absent(struct kq_group *group)
{
    struct kq_group_member *member = group->members, *next;
    for (; member; member = next) {
        next = member->by_id.next;
        if (!member->awaiting_join && member->instance_id.length < 0)
            kq_group_remove(group, member, KQ_GROUP_UNKNOWN_MEMBER);
    }
}

/* A leader that did not come back is replaced. False: nobody came. */
static bool elect_leader(struct kq_group *group)
{
    struct kq_group_member *member = group->leader;
    if (!member || member->awaiting_join)
        return member;
    for (member = group->members; member && !member->awaiting_join; member = member->by_id.next)
        ;
    if (member)
        group->leader = member;
    return member;
}

static void become_empty(struct kq_group *group)
{
    group->generation++;
    kq_group_put_protocol(group, KQ_STR_NULL);
    kq_group_note_subscription(group);
    kq_group_become(group, KQ_GROUP_EMPTY);
    kq_group_save(group);
}

/* Everybody is told the generation, and has the rebalance timeout to send SyncGroup. */
static void tell_generation(struct kq_group *group)
{
    struct kq_group_member *member;
    for (member = group->members; member; member = member->by_id.next) {
        kq_group_answer_join(member, 0);
        kq_group_heard(member);
        member->is_new = false;
        member->pending_sync = true;
    }
    group->pending_syncs = kq_group_member_count(group);
    kq_alarm_set(&group->sync_alarm, rebalance_timeout_ms(group));
}

/* Without memory for the protocol's name the join stays open, and is tried again. */
static void begin_generation(struct kq_group *group)
{
    if (kq_group_put_protocol(group, kq_group_choose_protocol(group)) < 0) {
        kq_alarm_set(&group->join_alarm, 1000);
        return;
    }
    group->generation++;
    kq_group_note_subscription(group);
    kq_group_become(group, KQ_GROUP_COMPLETING_REBALANCE);
    tell_generation(group);
}

static void complete_join(struct kq_group *group)
{
    kq_alarm_cancel(&group->join_alarm);
    remove_absent(group);
    if (!group->members)
        become_empty(group);
    else if (elect_leader(group))
        begin_generation(group);
    else
        kq_alarm_set(&group->join_alarm, rebalance_timeout_ms(group));
}

void kq_group_maybe_complete_join(struct kq_group *group)
{
    if (group->state == KQ_GROUP_PREPARING_REBALANCE && group->previous != KQ_GROUP_EMPTY &&
        all_have_joined(group))
        complete_join(group);
}

/* The initial delay begins again for as long as members come, up to the rebalance timeout. */
static bool extend_delay(struct kq_group *group)
{
    int32_t delay_ms = group->groups->options.initial_rebalance_delay_ms;
    if (group->previous != KQ_GROUP_EMPTY || !group->member_added || group->remaining_ms == 0)
        return false;
    int32_t next_ms = delay_ms < group->remaining_ms ? delay_ms : group->remaining_ms;
    int32_t left_ms = group->remaining_ms - group->delay_ms;
    group->member_added = false;
    group->delay_ms = next_ms;
    group->remaining_ms = left_ms > 0 ? left_ms : 0;
    kq_alarm_set(&group->join_alarm, next_ms);
    return true;
}

void kq_group_join_due(struct kq_alarm *alarm)
{
    struct kq_group *group = alarm->group;
    if (group->state == KQ_GROUP_PREPARING_REBALANCE && !extend_delay(group))
        complete_join(group);
}

/* --- To PreparingRebalance --- */

static void clear_pending_syncs(struct kq_group *group)
{
    struct kq_group_member *member;
    for (member = group->members; member; member = member->by_id.next)
        member->pending_sync = false;
    group->pending_syncs = 0;
    kq_alarm_cancel(&group->sync_alarm);
}

void kq_group_reset_assignment(struct kq_group *group, int result)
{
    struct kq_group_member *member;
    for (member = group->members; member; member = member->by_id.next) {
        bool awaited = member->awaiting_sync;
        kq_group_put_assignment(member, (struct kq_bytes){NULL, 0});
        kq_group_answer_sync(member, result);
        if (awaited)
            kq_group_heard(member);
    }
}

static void begin_delay(struct kq_group *group)
{
    int32_t delay_ms = group->groups->options.initial_rebalance_delay_ms;
    int32_t timeout_ms = rebalance_timeout_ms(group);
    group->member_added = false;
    group->delay_ms = delay_ms;
    group->remaining_ms = timeout_ms > delay_ms ? timeout_ms - delay_ms : 0;
    kq_alarm_set(&group->join_alarm, delay_ms);
}

void kq_group_prepare_rebalance(struct kq_group *group)
{
    if (group->state == KQ_GROUP_COMPLETING_REBALANCE)
        kq_group_reset_assignment(group, KQ_GROUP_REBALANCE_IN_PROGRESS);
    clear_pending_syncs(group);
    bool initial = group->state == KQ_GROUP_EMPTY;
    kq_group_become(group, KQ_GROUP_PREPARING_REBALANCE);
    if (initial)
        begin_delay(group);
    else if (all_have_joined(group))
        complete_join(group);
    else
        kq_alarm_set(&group->join_alarm, rebalance_timeout_ms(group));
}

void kq_group_rebalance(struct kq_group *group)
{
    if (group->state == KQ_GROUP_STABLE || group->state == KQ_GROUP_COMPLETING_REBALANCE ||
        group->state == KQ_GROUP_EMPTY)
        kq_group_prepare_rebalance(group);
    else
        kq_group_maybe_complete_join(group);
}

/* --- Members that go --- */

/* One who had only an id changes nothing but who is waited for. */
static void expire_member(struct kq_group *group, struct kq_group_member *member)
{
    bool was_member = member->protocols;
    kq_group_remove(group, member, KQ_GROUP_UNKNOWN_MEMBER);
    if (was_member &&
        (group->state == KQ_GROUP_STABLE || group->state == KQ_GROUP_COMPLETING_REBALANCE))
        kq_group_prepare_rebalance(group);
    else
        kq_group_maybe_complete_join(group);
}

/* Who waits for the others cannot send heartbeats; but a new member must not wait for ever, since
 * its client may have given up and come back under another id. */
void kq_group_heartbeat_due(struct kq_alarm *alarm)
{
    struct kq_group_member *member = alarm->member;
    struct kq_group *group = alarm->group;
    bool waits = member->awaiting_join || member->awaiting_sync;
    if (group->state == KQ_GROUP_DEAD || (waits && !member->is_new))
        return;
    expire_member(group, member);
}

void kq_group_sync_due(struct kq_alarm *alarm)
{
    struct kq_group *group = alarm->group;
    struct kq_group_member *member = group->members, *next;
    bool expected =
        group->state == KQ_GROUP_COMPLETING_REBALANCE || group->state == KQ_GROUP_STABLE;
    if (!expected || group->pending_syncs == 0)
        return;
    for (; member; member = next) {
        next = member->by_id.next;
        if (member->pending_sync)
            kq_group_remove(group, member, KQ_GROUP_UNKNOWN_MEMBER);
    }
    kq_group_prepare_rebalance(group);
}

void kq_group_dismiss(struct kq_group *group, int result)
{
    struct kq_group_member *member;
    for (member = group->members; member; member = member->by_id.next) {
        kq_group_answer_join(member, result);
        kq_group_answer_sync(member, result);
        kq_alarm_cancel(&member->heartbeat);
    }
    for (member = group->pending; member; member = member->by_id.next)
        kq_alarm_cancel(&member->heartbeat);
    kq_alarm_cancel(&group->join_alarm);
    kq_alarm_cancel(&group->sync_alarm);
}

/* --- To Stable --- */

void kq_group_synced(struct kq_group *group, struct kq_group_member *member)
{
    if (!member->pending_sync)
        return;
    member->pending_sync = false;
    if (--group->pending_syncs == 0)
        kq_alarm_cancel(&group->sync_alarm);
}

void kq_group_stabilize(struct kq_group *group)
{
    struct kq_group_member *member;
    for (member = group->members; member; member = member->by_id.next) {
        bool awaited = member->awaiting_sync;
        kq_group_answer_sync(member, 0);
        if (awaited)
            kq_group_heard(member);
    }
    kq_group_become(group, KQ_GROUP_STABLE);
    kq_group_note_owners(group);
}
