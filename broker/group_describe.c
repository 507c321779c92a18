/* What a group looks like: members, offsets, topics, lag. */
#include "broker/group.h"

/* --- Members --- */

static int copy_text(struct kq_arena *arena, struct kq_str from, struct kq_str *ret)
{
    if (from.length > 0) {
        from.data = kq_arena_string(arena, from.data, (size_t)from.length);
        if (!from.data)
            return -ENOMEM;
    }
    *ret = from;
    return 0;
}

static int copy_bytes(struct kq_arena *arena, struct kq_bytes from, struct kq_bytes *ret)
{
    struct kq_str copy;
    int r = copy_text(arena, (struct kq_str){(const char *)from.data, from.length}, &copy);
    if (r == 0)
        *ret = (struct kq_bytes){(const uint8_t *)copy.data, copy.length < 0 ? 0 : copy.length};
    return r;
}

static int copy_member(struct kq_arena *arena, const struct kq_group_member *member,
                       struct kq_group_member_description *ret)
{
    const struct kq_group *group = member->group;
    int r = copy_text(arena, member->id, &ret->member_id);
    if (r == 0)
        r = copy_text(arena, member->instance_id, &ret->instance_id);
    if (r == 0)
        r = copy_text(arena, member->client_id, &ret->client_id);
    if (r == 0)
        r = copy_text(arena, member->client_host, &ret->client_host);
    if (r == 0)
        r = copy_bytes(arena, member->assignment, &ret->assignment);
    if (r == 0 && group->state == KQ_GROUP_STABLE)
        r = copy_bytes(arena, kq_group_member_metadata(member, group->protocol), &ret->metadata);
    return r;
}

static int copy_members(struct kq_arena *arena, const struct kq_group *group,
                        struct kq_group_description *ret)
{
    unsigned count = kq_group_member_count(group);
    int r = 0;
    ret->members = kq_arena_array(arena, count, sizeof(*ret->members));
    if (!ret->members)
        return -ENOMEM;
    for (struct kq_group_member *member = group->members; member && r == 0;
         member = member->by_id.next)
        r = copy_member(arena, member, &ret->members[ret->member_count++]);
    return r;
}

static struct kq_str or_empty(struct kq_str text)
{
    return text.length < 0 ? KQ_STR("") : text;
}

int kq_group_describe(struct kq_group *group, bool with_members, struct kq_arena *arena,
                      struct kq_group_description *ret)
{
    kq_group_lock(group);
    struct kq_group_description description = {.state = group->state};
    bool stable = group->state == KQ_GROUP_STABLE;
    int r = copy_text(arena, or_empty(group->protocol_type), &description.protocol_type);
    if (r == 0)
        r = copy_text(arena, stable ? or_empty(group->protocol) : KQ_STR(""),
                      &description.protocol);
    if (r == 0 && with_members)
        r = copy_members(arena, group, &description);
    kq_group_unlock(group);
    if (r == 0)
        *ret = description;
    return r;
}

/* --- Offsets --- */

static int copy_value(struct kq_arena *arena, const struct kq_group_offset_value *value,
                      struct kq_group_offset *ret)
{
    struct kq_str metadata = {value->metadata, arena ? value->metadata_length : 0};
    *ret = (struct kq_group_offset){
        .offset = value->offset,
        .leader_epoch = value->leader_epoch,
        .committed_ms = value->committed_ms,
    };
    return copy_text(arena, metadata, &ret->metadata);
}

int kq_group_offset_get(struct kq_group *group, struct kq_str topic, int32_t partition,
                        struct kq_arena *arena, struct kq_group_offset *ret)
{
    static const struct kq_group_offset_value none = {.offset = -1, .leader_epoch = -1};
    struct kq_group_offset copy;
    kq_group_lock(group);
    const struct kq_group_slot *slot = kq_group_slot(kq_group_topic(group, topic), partition);
    int r = copy_value(arena, slot && slot->value.offset >= 0 ? &slot->value : &none, &copy);
    kq_group_unlock(group);
    if (r == 0)
        *ret = copy;
    return r;
}

static int copy_topic(struct kq_arena *arena, const struct kq_group_topic *topic,
                      struct kq_group_topic_offsets *ret)
{
    int r = copy_text(arena, (struct kq_str){topic->name, topic->length}, &ret->topic);
    ret->partitions = kq_arena_array(arena, topic->offsets, sizeof(*ret->partitions));
    if (!ret->partitions)
        return -ENOMEM;
    for (size_t i = 0; r == 0 && i < topic->count; i++) {
        if (topic->slots[i]->value.offset < 0)
            continue;
        struct kq_group_partition_offset *at = &ret->partitions[ret->partition_count++];
        at->partition = topic->slots[i]->partition;
        r = copy_value(arena, &topic->slots[i]->value, &at->offset);
    }
    return r;
}

int kq_group_offsets(struct kq_group *group, struct kq_arena *arena,
                     struct kq_group_topic_offsets **ret, int32_t *ret_count)
{
    int32_t count = 0;
    int r = 0;
    kq_group_lock(group);
    struct kq_group_topic_offsets *topics =
        kq_arena_array(arena, group->topic_count, sizeof(*topics));
    for (size_t i = 0; topics && r == 0 && i < group->topic_count; i++)
        if (group->topics[i]->offsets > 0)
            r = copy_topic(arena, group->topics[i], &topics[count++]);
    kq_group_unlock(group);
    if (!topics)
        r = -ENOMEM;
    if (r != 0)
        return r;
    *ret = topics;
    *ret_count = count;
    return 0;
}

/* --- Topics and lag --- */

int kq_group_topic_next(struct kq_group *group, const char *after, struct kq_topic **ret)
{
    char name[256];
    struct kq_str last = kq_str_of(after);
    for (;;) {
        kq_group_lock(group);
        const struct kq_group_topic *topic = kq_group_topic_behind(group, last);
        int32_t length = topic ? topic->length : 0;
        bool fits = topic && length < (int32_t)sizeof(name);
        if (fits)
            memcpy(name, topic->name, (size_t)length + 1);
        kq_group_unlock(group);
        if (!fits)
            return KQ_END;
        if (kq_topic_get(group->groups->broker, name, ret) == 0)
            return 0;
        last = (struct kq_str){name, length};
    }
}

int64_t kq_group_lag(struct kq_group *group, struct kq_partition *partition)
{
    struct kq_log_bounds bounds;
    struct kq_group_offset offset;
    kq_bounds(partition, &bounds);
    kq_group_offset_get(group, kq_str_of(kq_topic_name(kq_partition_topic(partition))),
                        kq_partition_number(partition), NULL, &offset);
    return kq_max64(0, bounds.last_stable - kq_max64(offset.offset, bounds.start));
}
