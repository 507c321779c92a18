/* JoinGroup. Source of each step: Kafka's GroupMetadataManager, classicGroupJoin… */
#include "broker/group.h"

#include "broker/base/clock.h"
#include "broker/base/mem.h"
#include "broker/uuid.h"

/* A client that gave up on a join leaves a member behind that nobody wants: it goes after this. */
#define NEW_MEMBER_TIMEOUT_MS 300000
#define LONGEST_PREFIX 1000 /* of the client's id in a member id; no instance id is longer */
#define OWN_MODE 0770       /* of a group that a join makes */

/* One request while it is served, under the group's lock. */
struct joining {
    struct kq_group *group;
    const struct kq_group_join *join;
    struct kq_group_wait *wait;
    bool parked; /* WAIT is in a member's hands; its answer comes by DONE */
};

/* --- Is it one that can be served at all? --- */

static int check_protocols(const struct kq_group_options *options, const struct kq_group_join *join)
{
    int64_t bytes = 0;
    if (join->protocol_count > options->max_protocols)
        return KQ_GROUP_TOO_LARGE;
    for (int32_t i = 0; i < join->protocol_count; i++) {
        bytes += join->protocols[i].metadata.length;
        for (int32_t j = 0; j < i; j++)
            if (kq_str_is(join->protocols[i].name, join->protocols[j].name))
                return KQ_GROUP_INCONSISTENT_PROTOCOL;
    }
    return bytes > options->max_metadata_bytes ? KQ_GROUP_TOO_LARGE : 0;
}

static int check(const struct kq_group_options *options, const struct kq_group_join *join)
{
    if (join->group.length <= 0)
        return KQ_GROUP_INVALID_ID;
    if (join->session_timeout_ms < options->min_session_timeout_ms ||
        join->session_timeout_ms > options->max_session_timeout_ms)
        return KQ_GROUP_INVALID_SESSION_TIMEOUT;
    if (join->instance_id.length > LONGEST_PREFIX)
        return -EINVAL;
    return check_protocols(options, join);
}

/* --- Answers that need no waiting --- */

static int tell_generation(struct joining *joining, struct kq_group_member *member)
{
    return kq_group_answer_generation(member, &joining->wait->answer);
}

static int make_id(const struct kq_group_join *join, struct kq_str *ret)
{
    bool is_static = join->instance_id.length >= 0;
    struct kq_str prefix = is_static ? join->instance_id : join->client_id;
    int32_t length = prefix.length < LONGEST_PREFIX ? prefix.length : LONGEST_PREFIX;
    uint8_t id[KQ_UUID_BYTES];
    int r = kq_uuid_new(id);
    if (r < 0)
        return r;
    char *text = kq_format("%.*s-%08x-%04x-%04x-%04x-%04x%08x", length > 0 ? length : 0,
                           length > 0 ? prefix.data : "", kq_load_be32(id), kq_load_be16(id + 4),
                           kq_load_be16(id + 6), kq_load_be16(id + 8), kq_load_be16(id + 10),
                           kq_load_be32(id + 12));
    if (!text)
        return -ENOMEM;
    *ret = kq_str_of(text);
    return 0;
}

/* --- Members that come or change --- */

/* MEMBER, whose protocols are up to date, waits for the others. */
static int park(struct joining *joining, struct kq_group_member *member)
{
    kq_group_await_join(member, joining->wait);
    joining->parked = true;
    return 0;
}

static int update(struct joining *joining, struct kq_group_member *member)
{
    const struct kq_group_join *join = joining->join;
    struct kq_group_protocols *protocols;
    int r = kq_group_protocols_new(join->protocols, join->protocol_count, &protocols);
    if (r < 0)
        return r;
    r = kq_group_update(joining->group, member, protocols, join->session_timeout_ms,
                        join->rebalance_timeout_ms);
    if (r < 0)
        free(protocols);
    return r;
}

static int update_and_rebalance(struct joining *joining, struct kq_group_member *member)
{
    int r = update(joining, member);
    if (r < 0)
        return r;
    park(joining, member);
    kq_group_rebalance(joining->group);
    return 0;
}

static int new_member(struct joining *joining, struct kq_str id, struct kq_group_member **ret)
{
    const struct kq_group_join *join = joining->join;
    struct kq_group_member *member;
    int r = kq_group_member_new(joining->group, id, join->instance_id, join->client_id,
                                join->client_host, &member);
    if (r < 0)
        return r;
    member->session_timeout_ms = join->session_timeout_ms;
    member->rebalance_timeout_ms = join->rebalance_timeout_ms;
    *ret = member;
    return 0;
}

static int add_and_rebalance(struct joining *joining, struct kq_str id)
{
    const struct kq_group_join *join = joining->join;
    struct kq_group *group = joining->group;
    struct kq_group_member *member;
    int r = new_member(joining, id, &member);
    if (r < 0)
        return r;
    r = kq_group_protocols_new(join->protocols, join->protocol_count, &member->protocols);
    if (r == 0 && !group->members)
        r = kq_group_put_type(group, join->protocol_type);
    if (r == 0)
        r = kq_group_add(group, member);
    if (r < 0) {
        kq_group_member_unref(member);
        return r;
    }
    member->is_new = true;
    group->member_added |=
        group->state == KQ_GROUP_PREPARING_REBALANCE && group->previous == KQ_GROUP_EMPTY;
    park(joining, member);
    kq_alarm_set(&member->heartbeat, NEW_MEMBER_TIMEOUT_MS);
    kq_group_rebalance(group);
    return 0;
}

/* --- New ones --- */

static int add_pending(struct joining *joining, struct kq_str id)
{
    struct kq_group *group = joining->group;
    struct kq_group_member *member;
    if (HASH_CNT(by_id, group->pending) >= (unsigned)group->groups->options.max_members)
        return KQ_GROUP_FULL;
    int r = new_member(joining, id, &member);
    if (r < 0)
        return r;
    r = kq_group_add_pending(group, member);
    if (r < 0) {
        kq_group_member_unref(member);
        return r;
    }
    r = kq_group_answer_id(id, &joining->wait->answer);
    if (r < 0) {
        kq_group_remove(group, member, 0);
        return r;
    }
    kq_group_heard(member);
    return KQ_GROUP_MEMBER_ID_REQUIRED;
}

/* Whoever had this instance id is fenced. A stable group whose protocol stays the same goes on. */
static int replace_static(struct joining *joining, struct kq_group_member *member, struct kq_str id)
{
    struct kq_group *group = joining->group;
    struct kq_str old_leader = group->leader ? group->leader->id : KQ_STR("");
    struct kq_str id_copy, leader_copy;
    int r = kq_group_copy(id, &id_copy);
    if (r == 0 && (r = kq_group_copy(old_leader, &leader_copy)) < 0)
        free((char *)id_copy.data);
    if (r < 0)
        return r;
    r = update(joining, member);
    if (r == 0)
        r = kq_group_rename(group, member, id_copy);
    if (r < 0) {
        free((char *)id_copy.data);
        free((char *)leader_copy.data);
        return r;
    }
    kq_group_answer_join(member, KQ_GROUP_FENCED_INSTANCE);
    kq_group_answer_sync(member, KQ_GROUP_FENCED_INSTANCE);
    kq_group_heard(member);
    park(joining, member);
    if (group->state == KQ_GROUP_STABLE &&
        kq_str_is(kq_group_choose_protocol(group), group->protocol)) {
        r = kq_group_save_static(member, leader_copy, joining->join->knows_skipping);
        if (r != 0)
            kq_group_answer_join(member, KQ_GROUP_NOT_AVAILABLE);
    } else if (group->state == KQ_GROUP_STABLE || group->state == KQ_GROUP_COMPLETING_REBALANCE) {
        kq_group_prepare_rebalance(group);
    } else {
        kq_group_maybe_complete_join(group);
    }
    free((char *)leader_copy.data);
    return 0;
}

static int join_new(struct joining *joining)
{
    const struct kq_group_join *join = joining->join;
    struct kq_str id;
    int r = make_id(join, &id);
    if (r < 0)
        return r;
    struct kq_group_member *before = join->instance_id.length >= 0
                                         ? kq_group_member_static(joining->group, join->instance_id)
                                         : NULL;
    if (before)
        r = replace_static(joining, before, id);
    else if (join->instance_id.length < 0 && join->knows_required)
        r = add_pending(joining, id);
    else
        r = add_and_rebalance(joining, id);
    free((char *)id.data);
    return r;
}

/* --- Those that have an id --- */

static int join_pending(struct joining *joining, struct kq_group_member *pending)
{
    struct kq_group *group = joining->group;
    if (joining->join->instance_id.length >= 0)
        return KQ_GROUP_UNKNOWN_MEMBER;
    pending->references++;
    kq_group_remove(group, pending, 0);
    int r = add_and_rebalance(joining, pending->id);
    kq_group_member_unref(pending);
    return r;
}

static int join_again(struct joining *joining, struct kq_group_member *member)
{
    struct kq_group *group = joining->group;
    struct kq_group_protocols *protocols;
    int r =
        kq_group_protocols_new(joining->join->protocols, joining->join->protocol_count, &protocols);
    if (r < 0)
        return r;
    bool same = kq_group_protocols_equal(member->protocols, protocols);
    free(protocols);
    switch (group->state) {
    case KQ_GROUP_PREPARING_REBALANCE:
        return update_and_rebalance(joining, member);
    case KQ_GROUP_COMPLETING_REBALANCE: /* it may not have got the first answer */
        return same ? tell_generation(joining, member) : update_and_rebalance(joining, member);
    case KQ_GROUP_STABLE: /* the leader may know of more partitions */
        return same && group->leader != member ? tell_generation(joining, member)
                                               : update_and_rebalance(joining, member);
    default:
        return KQ_GROUP_UNKNOWN_MEMBER;
    }
}

static int join_known(struct joining *joining)
{
    const struct kq_group_join *join = joining->join;
    struct kq_group_member *member = kq_group_member_pending(joining->group, join->member_id);
    if (member)
        return join_pending(joining, member);
    int r = kq_group_identify(joining->group, join->member_id, join->instance_id, &member);
    return r ? r : join_again(joining, member);
}

/* Where a rebalance is under way, those who are back count: so the last to come are left out when
 * there are too many. */
static bool has_room(struct kq_group *group, struct kq_str member_id)
{
    unsigned most = (unsigned)group->groups->options.max_members;
    const struct kq_group_member *member = kq_group_member_find(group, member_id);
    switch (group->state) {
    case KQ_GROUP_PREPARING_REBALANCE:
        return (member && member->awaiting_join) || group->awaiting_join < most;
    case KQ_GROUP_COMPLETING_REBALANCE:
    case KQ_GROUP_STABLE:
        return member || kq_group_member_count(group) < most;
    default:
        return true;
    }
}

static int join_locked(struct joining *joining)
{
    const struct kq_group_join *join = joining->join;
    struct kq_group *group = joining->group;
    if (kq_group_is_closed(group))
        return KQ_GROUP_NOT_AVAILABLE;
    if (!has_room(group, join->member_id)) {
        struct kq_group_member *member = kq_group_member_find(group, join->member_id);
        if (!member)
            member = kq_group_member_pending(group, join->member_id);
        if (member)
            kq_group_remove(group, member, KQ_GROUP_UNKNOWN_MEMBER);
        return KQ_GROUP_FULL;
    }
    if (!kq_group_supports(group, join->protocol_type, join->protocols, join->protocol_count))
        return KQ_GROUP_INCONSISTENT_PROTOCOL;
    return join->member_id.length > 0 ? join_known(joining) : join_new(joining);
}

/* --- The request --- */

static int find_group(struct kq_groups *groups, const struct kq_caller *caller,
                      const struct kq_group_join *join, struct kq_group **ret)
{
    struct kq_group_shard *shard;
    struct kq_attributes own = {.uid = caller->uid, .gid = caller->gid, .mode = OWN_MODE};
    struct kq_group *group;
    bool created = false;
    int r = kq_groups_shard(groups, join->group, &shard);
    if (r == 0)
        r = kq_groups_take(shard, join->group, NULL, NULL, &group);
    if (r == KQ_GROUP_NOT_FOUND && join->member_id.length > 0)
        return KQ_GROUP_UNKNOWN_MEMBER;
    if (r == KQ_GROUP_NOT_FOUND) {
        r = kq_group_authorize(groups, NULL, caller, KQ_RIGHT_ALTER);
        if (r == 0)
            r = kq_groups_take(shard, join->group, &own, &created, &group);
    }
    if (r != 0)
        return r;
    r = created ? 0 : kq_group_authorize(groups, group, caller, KQ_RIGHT_WRITE);
    if (r == 0)
        *ret = group;
    else
        kq_group_unref(group);
    return r;
}

int kq_group_join(struct kq_broker *broker, const struct kq_caller *caller,
                  const struct kq_group_join *join, struct kq_group_wait *wait)
{
    struct joining joining = {.join = join, .wait = wait};
    wait->group = NULL;
    wait->member = NULL;
    wait->answer = NULL;
    int r = check(&broker->groups->options, join);
    if (r == 0)
        r = find_group(broker->groups, caller, join, &joining.group);
    if (r == KQ_WOULD_BLOCK)
        return r;
    if (r == 0) {
        kq_group_lock(joining.group);
        r = join_locked(&joining);
        if (joining.group->unsaved && joining.group->state != KQ_GROUP_DEAD)
            kq_group_save(joining.group);
        bool answered = kq_group_unlock_but(joining.group, wait);
        kq_group_unref(joining.group);
        if (joining.parked)
            return kq_group_parked(wait, answered);
    }
    wait->result = r;
    return KQ_READY;
}
