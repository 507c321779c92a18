/* What those who wait are told. */
#include "broker/group.h"

#include "broker/base/mem.h"

/* --- Building an answer: one block --- */

struct builder {
    struct kq_group_answer *answer; /* NULL: counting what it takes */
    char *at;
    size_t size;
};

static struct kq_str put(struct builder *builder, struct kq_str text)
{
    size_t length = text.length > 0 ? (size_t)text.length : 0;
    builder->size += length;
    if (!builder->answer)
        return text;
    struct kq_str copy = {builder->at, text.length};
    if (length > 0)
        memcpy(builder->at, text.data, length);
    builder->at += length;
    return copy;
}

static struct kq_bytes put_bytes(struct builder *builder, struct kq_bytes bytes)
{
    struct kq_str copy = put(builder, (struct kq_str){(const char *)bytes.data, bytes.length});
    return (struct kq_bytes){(const uint8_t *)copy.data, copy.length};
}

static void put_members(struct builder *builder, const struct kq_group *group,
                        struct kq_group_answer *answer)
{
    int32_t count = 0;
    for (struct kq_group_member *member = group->members; member; member = member->by_id.next) {
        struct kq_group_answer_member copy = {
            .member_id = put(builder, member->id),
            .instance_id = put(builder, member->instance_id),
            .metadata = put_bytes(builder, kq_group_member_metadata(member, group->protocol)),
        };
        if (builder->answer)
            answer->members[count] = copy;
        count++;
    }
    answer->member_count = count;
}

/* What an answer is of. */
struct subject {
    const struct kq_group_member *member;
    struct kq_str leader;
    bool with_members;
};

static void put_generation(struct builder *builder, const struct subject *subject,
                           struct kq_group_answer *answer)
{
    const struct kq_group *group = subject->member->group;
    answer->generation = group->generation;
    answer->protocol_type = put(builder, group->protocol_type);
    answer->protocol_name = put(builder, group->protocol);
    answer->leader = put(builder, subject->leader);
    answer->member_id = put(builder, subject->member->id);
    if (subject->with_members)
        put_members(builder, group, answer);
}

static void put_assignment(struct builder *builder, const struct subject *subject,
                           struct kq_group_answer *answer)
{
    const struct kq_group *group = subject->member->group;
    answer->protocol_type = put(builder, group->protocol_type);
    answer->protocol_name = put(builder, group->protocol);
    answer->assignment = put_bytes(builder, subject->member->assignment);
}

/* Twice the same walk: to count, and to copy. */
static int build(const struct subject *subject,
                 void (*fill)(struct builder *, const struct subject *, struct kq_group_answer *),
                 struct kq_group_answer **ret)
{
    struct builder builder = {0};
    struct kq_group_answer counted = {0};
    fill(&builder, subject, &counted);
    size_t members = (size_t)counted.member_count * sizeof(*counted.members);
    struct kq_group_answer *answer = kq_zalloc(sizeof(*answer) + members + builder.size);
    if (!answer)
        return -ENOMEM;
    answer->members = (struct kq_group_answer_member *)(answer + 1);
    builder = (struct builder){.answer = answer, .at = (char *)(answer + 1) + members};
    fill(&builder, subject, answer);
    *ret = answer;
    return 0;
}

int kq_group_answer_generation(const struct kq_group_member *member, struct kq_group_answer **ret)
{
    const struct kq_group_member *leader = member->group->leader;
    struct subject subject = {member, leader ? leader->id : KQ_STR(""), leader == member};
    return build(&subject, put_generation, ret);
}

int kq_group_answer_follower(const struct kq_group_member *member, struct kq_str leader,
                             struct kq_group_answer **ret)
{
    struct subject subject = {member, leader, false};
    return build(&subject, put_generation, ret);
}

int kq_group_answer_assignment(const struct kq_group_member *member, struct kq_group_answer **ret)
{
    struct subject subject = {.member = member};
    return build(&subject, put_assignment, ret);
}

int kq_group_answer_id(struct kq_str member_id, struct kq_group_answer **ret)
{
    struct kq_group_answer *answer = kq_zalloc(sizeof(*answer) + (size_t)member_id.length);
    if (!answer)
        return -ENOMEM;
    char *at = (char *)(answer + 1);
    memcpy(at, member_id.data, (size_t)member_id.length);
    answer->member_id = (struct kq_str){at, member_id.length};
    answer->leader = KQ_STR("");
    answer->generation = -1;
    *ret = answer;
    return 0;
}

/* --- Waiting --- */

static void await(struct kq_group_member *member, struct kq_group_wait *wait)
{
    wait->group = kq_group_ref(member->group);
    wait->member = member;
}

/* From the member's hands into the group's: told when it is unlocked. */
static void answer(struct kq_group_wait *wait, int result, struct kq_group_answer *answer)
{
    struct kq_group_wait **last = &wait->group->answered;
    wait->member = NULL;
    wait->result = result;
    wait->answer = answer;
    wait->next = *last;
    *last = wait;
}

void kq_group_await_join(struct kq_group_member *member, struct kq_group_wait *wait)
{
    kq_group_answer_join(member, KQ_GROUP_REBALANCE_IN_PROGRESS);
    await(member, wait);
    member->join = wait;
    member->awaiting_join = true;
    member->group->awaiting_join++;
}

void kq_group_await_sync(struct kq_group_member *member, struct kq_group_wait *wait)
{
    kq_group_answer_sync(member, KQ_GROUP_REBALANCE_IN_PROGRESS);
    await(member, wait);
    member->sync = wait;
    member->awaiting_sync = true;
}

void kq_group_answer_join_with(struct kq_group_member *member, int result,
                               struct kq_group_answer *with)
{
    if (member->join)
        answer(member->join, result, with);
    else
        free(with);
    member->join = NULL;
    member->awaiting_join = false;
    member->group->awaiting_join--;
}

void kq_group_answer_join(struct kq_group_member *member, int result)
{
    struct kq_group_answer *generation = NULL;
    if (!member->awaiting_join)
        return;
    if (member->join && result == 0)
        result = kq_group_answer_generation(member, &generation);
    kq_group_answer_join_with(member, result, generation);
}

void kq_group_answer_sync(struct kq_group_member *member, int result)
{
    struct kq_group_wait *wait = member->sync;
    struct kq_group_answer *assignment = NULL;
    if (!member->awaiting_sync)
        return;
    if (wait && result == 0)
        result = kq_group_answer_assignment(member, &assignment);
    if (wait)
        answer(wait, result, assignment);
    member->sync = NULL;
    member->awaiting_sync = false;
}

bool kq_group_wait_cancel(struct kq_group_wait *wait)
{
    struct kq_group *group = wait->group;
    kq_group_lock(group);
    struct kq_group_member *member = wait->member;
    if (member) {
        if (member->join == wait)
            member->join = NULL;
        if (member->sync == wait)
            member->sync = NULL;
        wait->member = NULL;
    }
    kq_group_unlock(group);
    return member;
}

void kq_group_wait_release(struct kq_group_wait *wait)
{
    kq_group_unref(wait->group);
    wait->group = NULL;
}

int kq_group_parked(struct kq_group_wait *wait, bool answered)
{
    if (!answered)
        return 0;
    kq_group_wait_release(wait);
    return KQ_READY;
}
