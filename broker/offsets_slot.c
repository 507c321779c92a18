/* Where a group keeps its offsets: topics by name, in each the partitions by number, both sorted.
 * All under the group's lock. */
#include "broker/group.h"

#include "broker/base/mem.h"

static int compare(const struct kq_group_topic *topic, struct kq_str name)
{
    int32_t common = topic->length < name.length ? topic->length : name.length;
    int order = memcmp(topic->name, name.data, (size_t)common);
    return order ? order : (topic->length > name.length) - (topic->length < name.length);
}

/* The place of the first topic whose name is not before NAME. */
static size_t topic_place(const struct kq_group *group, struct kq_str name)
{
    size_t low = 0, high = group->topic_count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (compare(group->topics[middle], name) >= 0)
            high = middle;
        else
            low = middle + 1;
    }
    return low;
}

static size_t slot_place(const struct kq_group_topic *topic, int32_t partition)
{
    size_t low = 0, high = topic->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (topic->slots[middle]->partition >= partition)
            high = middle;
        else
            low = middle + 1;
    }
    return low;
}

struct kq_group_topic *kq_group_topic(const struct kq_group *group, struct kq_str name)
{
    size_t place = topic_place(group, name);
    bool found = place < group->topic_count && compare(group->topics[place], name) == 0;
    return found ? group->topics[place] : NULL;
}

struct kq_group_topic *kq_group_topic_behind(const struct kq_group *group, struct kq_str after)
{
    size_t place = topic_place(group, after);
    if (place < group->topic_count && compare(group->topics[place], after) == 0)
        place++;
    return place < group->topic_count ? group->topics[place] : NULL;
}

struct kq_group_slot *kq_group_slot(const struct kq_group_topic *topic, int32_t partition)
{
    size_t place = topic ? slot_place(topic, partition) : 0;
    bool found = topic && place < topic->count && topic->slots[place]->partition == partition;
    return found ? topic->slots[place] : NULL;
}

/* Makes room for one more pointer in an array. */
static int grow(void *array, size_t count, size_t *capacity)
{
    void **at = array;
    if (count < *capacity)
        return 0;
    size_t larger = *capacity ? *capacity * 2 : 4;
    void *moved = kq_realloc(*at, larger * sizeof(void *));
    if (!moved)
        return -ENOMEM;
    *at = moved;
    *capacity = larger;
    return 0;
}

int kq_group_topic_make(struct kq_group *group, struct kq_str name, struct kq_group_topic **ret)
{
    size_t place = topic_place(group, name);
    if (place < group->topic_count && compare(group->topics[place], name) == 0) {
        *ret = group->topics[place];
        return 0;
    }
    int r = grow(&group->topics, group->topic_count, &group->topic_capacity);
    struct kq_group_topic *topic =
        r == 0 ? kq_zalloc(sizeof(*topic) + (size_t)name.length + 1) : NULL;
    if (!topic)
        return -ENOMEM;
    memcpy(topic->name, name.data, (size_t)name.length);
    topic->length = name.length;
    memmove(group->topics + place + 1, group->topics + place,
            (group->topic_count - place) * sizeof(*group->topics));
    group->topics[place] = topic;
    group->topic_count++;
    *ret = topic;
    return 0;
}

static void remove_topic(struct kq_group *group, struct kq_group_topic *topic)
{
    size_t place = topic_place(group, (struct kq_str){topic->name, topic->length});
    group->topic_count--;
    memmove(group->topics + place, group->topics + place + 1,
            (group->topic_count - place) * sizeof(*group->topics));
    free(topic->slots);
    free(topic);
}

int kq_group_slot_make(struct kq_group *group, struct kq_group_topic *topic, int32_t partition,
                       struct kq_group_slot **ret)
{
    size_t place = slot_place(topic, partition);
    if (place < topic->count && topic->slots[place]->partition == partition) {
        *ret = topic->slots[place];
        return 0;
    }
    int r = grow(&topic->slots, topic->count, &topic->capacity);
    struct kq_group_slot *slot = r == 0 ? kq_zalloc(sizeof(*slot)) : NULL;
    if (!slot) {
        if (topic->count == 0)
            remove_topic(group, topic);
        return -ENOMEM;
    }
    slot->partition = partition;
    slot->value.offset = -1;
    memmove(topic->slots + place + 1, topic->slots + place,
            (topic->count - place) * sizeof(*topic->slots));
    topic->slots[place] = slot;
    topic->count++;
    *ret = slot;
    return 0;
}

void kq_group_slot_put(struct kq_group *group, struct kq_group_topic *topic,
                       struct kq_group_slot *slot, const struct kq_group_offset_value *value)
{
    bool is_new = slot->value.offset < 0;
    topic->offsets += is_new;
    group->offset_count += is_new;
    free(slot->value.metadata);
    slot->value = *value;
}

void kq_group_slot_clear(struct kq_group *group, struct kq_group_topic *topic,
                         struct kq_group_slot *slot)
{
    bool had_one = slot->value.offset >= 0;
    topic->offsets -= had_one;
    group->offset_count -= had_one;
    free(slot->value.metadata);
    slot->value = (struct kq_group_offset_value){.offset = -1};
}

static bool is_needed(const struct kq_group *group, const struct kq_group_slot *slot)
{
    return slot->value.offset >= 0 || slot->queued > 0 || slot->claim ||
           (slot->owned == group->assignment && group->members);
}

void kq_group_topic_trim(struct kq_group *group, struct kq_group_topic *topic)
{
    size_t kept = 0;
    for (size_t i = 0; i < topic->count; i++) {
        if (is_needed(group, topic->slots[i]))
            topic->slots[kept++] = topic->slots[i];
        else
            free(topic->slots[i]);
    }
    topic->count = kept;
    if (kept == 0)
        remove_topic(group, topic);
}

void kq_group_slot_trim(struct kq_group *group, struct kq_group_topic *topic,
                        struct kq_group_slot *slot)
{
    if (is_needed(group, slot))
        return;
    size_t place = slot_place(topic, slot->partition);
    topic->count--;
    memmove(topic->slots + place, topic->slots + place + 1,
            (topic->count - place) * sizeof(*topic->slots));
    free(slot);
    if (topic->count == 0)
        remove_topic(group, topic);
}

void kq_group_topics_free(struct kq_group *group)
{
    for (size_t i = 0; i < group->topic_count; i++) {
        struct kq_group_topic *topic = group->topics[i];
        for (size_t j = 0; j < topic->count; j++) {
            free(topic->slots[j]->value.metadata);
            free(topic->slots[j]);
        }
        free(topic->slots);
        free(topic);
    }
    free(group->topics);
}
