/* Who reads what: subscriptions and assignments, where the members are consumers, and the readers
 * on the mount.
 *
 * The coordinator hands both through as bytes; here it looks into them. The fields of version 0
 * come first in every version (Kafka's ConsumerProtocol), so that newer ones are read too. */
#include "broker/group.h"

#include "broker/base/mem.h"

bool kq_group_is_consumer(const struct kq_group *group)
{
    return kq_str_is(group->protocol_type, KQ_STR("consumer"));
}

/* --- Subscriptions --- */

static int compare_names(const void *a, const void *b)
{
    const struct kq_str *one = a, *other = b;
    int32_t common = one->length < other->length ? one->length : other->length;
    int order = memcmp(one->data, other->data, (size_t)common);
    return order ? order : (one->length > other->length) - (one->length < other->length);
}

/* Appends the names in one member's METADATA to NAMES. Strings are never null here. */
static int read_subscription(struct kq_bytes metadata, struct kq_buf *names)
{
    struct kq_wire_reader reader;
    int r = 0;
    kq_wire_reader_init(&reader, metadata.data, (size_t)metadata.length, NULL);
    if (kq_wire_read_int16(&reader) < 0)
        return -EBADMSG;
    int32_t count = kq_wire_read_count(&reader, false, false, 2);
    for (int32_t i = 0; r == 0 && i < count && !reader.error; i++) {
        struct kq_str name = kq_wire_read_string(&reader, false, false);
        if (!reader.error)
            r = kq_buf_append(names, &name, sizeof(name));
    }
    return r ? r : reader.error;
}

/* The names borrow from the members' metadata: a block with their bytes replaces it. */
static struct kq_str *copy_names(const struct kq_str *names, size_t count)
{
    size_t bytes = count * sizeof(*names);
    for (size_t i = 0; i < count; i++)
        bytes += (size_t)names[i].length;
    struct kq_str *copy = kq_alloc(bytes + 1);
    char *at = (char *)(copy + count);
    for (size_t i = 0; copy && i < count; i++) {
        copy[i] = (struct kq_str){at, names[i].length};
        memcpy(at, names[i].data, (size_t)names[i].length);
        at += names[i].length;
    }
    return copy;
}

static size_t sort_names(struct kq_str *names, size_t count)
{
    size_t kept = 0;
    if (count > 0)
        qsort(names, count, sizeof(*names), compare_names);
    for (size_t i = 0; i < count; i++)
        if (kept == 0 || compare_names(&names[kept - 1], &names[i]) != 0)
            names[kept++] = names[i];
    return kept;
}

void kq_group_note_subscription(struct kq_group *group)
{
    kq_autobuf struct kq_buf buf = {0};
    const struct kq_group_member *member;
    int r = 0;
    free(group->subscribed);
    group->subscribed = NULL;
    group->subscribed_count = 0;
    group->topics_known = false;
    if (!kq_group_is_consumer(group))
        return;
    for (member = group->members; member && r == 0; member = member->by_id.next)
        r = read_subscription(kq_group_member_metadata(member, group->protocol), &buf);
    if (r < 0)
        return;
    struct kq_str *names = (struct kq_str *)buf.data;
    size_t count = sort_names(names, buf.length / sizeof(*names));
    group->subscribed = copy_names(names, count);
    group->topics_known = group->subscribed;
    group->subscribed_count = group->subscribed ? count : 0;
}

bool kq_group_is_subscribed(const struct kq_group *group, struct kq_str topic)
{
    if (!group->topics_known)
        return kq_group_is_consumer(group) && group->state != KQ_GROUP_EMPTY;
    return group->subscribed_count > 0 &&
           bsearch(&topic, group->subscribed, group->subscribed_count, sizeof(topic),
                   compare_names);
}

/* --- Assignments --- */

static void own(struct kq_group *group, struct kq_group_slot *slot)
{
    slot->owned = group->assignment;
    if (slot->claim) {
        atomic_store(&slot->claim->lost, true);
        slot->claim = NULL;
    }
}

/* Where there is no such partition, no reader can ask for it. */
static int own_partition(struct kq_group *group, struct kq_str name, int32_t partition)
{
    struct kq_group_topic *topic;
    struct kq_group_slot *slot;
    int r = kq_group_topic_make(group, name, &topic);
    if (r == 0)
        r = kq_group_slot_make(group, topic, partition, &slot);
    if (r == 0)
        own(group, slot);
    return r;
}

static int32_t partitions_of(const struct kq_group *group, struct kq_str name)
{
    char text[256];
    struct kq_topic *topic;
    if (name.length <= 0 || (size_t)name.length >= sizeof(text))
        return 0;
    memcpy(text, name.data, (size_t)name.length);
    text[name.length] = 0;
    if (kq_topic_get(group->groups->broker, text, &topic) < 0)
        return 0;
    int32_t count = kq_topic_partition_count(topic);
    kq_topic_unref(topic);
    return count;
}

static int read_assigned_topic(struct kq_group *group, struct kq_wire_reader *reader)
{
    int r = 0;
    struct kq_str name = kq_wire_read_string(reader, false, false);
    int32_t count = kq_wire_read_count(reader, false, false, 4);
    int32_t there = reader->error ? 0 : partitions_of(group, name);
    for (int32_t i = 0; r == 0 && i < count && !reader->error; i++) {
        int32_t partition = kq_wire_read_int32(reader);
        if (!reader->error && partition >= 0 && partition < there)
            r = own_partition(group, name, partition);
    }
    return r ? r : reader->error;
}

/* An empty assignment is one of nothing. */
static int read_assignment(struct kq_group *group, struct kq_bytes assignment)
{
    struct kq_wire_reader reader;
    int r = 0;
    if (assignment.length <= 0)
        return 0;
    kq_wire_reader_init(&reader, assignment.data, (size_t)assignment.length, NULL);
    if (kq_wire_read_int16(&reader) < 0)
        return -EBADMSG;
    int32_t count = kq_wire_read_count(&reader, false, false, 6);
    for (int32_t i = 0; r == 0 && i < count && !reader.error; i++)
        r = read_assigned_topic(group, &reader);
    return r ? r : reader.error;
}

static void lose_all(struct kq_group *group)
{
    for (size_t i = 0; i < group->topic_count; i++)
        for (size_t j = 0; j < group->topics[i]->count; j++)
            own(group, group->topics[i]->slots[j]);
}

void kq_group_note_owners(struct kq_group *group)
{
    const struct kq_group_member *member;
    int r = kq_group_is_consumer(group) ? 0 : -EBADMSG;
    group->assignment++;
    for (member = group->members; member && r == 0; member = member->by_id.next)
        r = read_assignment(group, member->assignment);
    group->owners_unknown = r < 0;
    if (group->owners_unknown)
        lose_all(group);
    for (size_t i = group->topic_count; i-- > 0;)
        kq_group_topic_trim(group, group->topics[i]);
}

/* --- Readers on the mount --- */

/* While a rebalance is open, a partition is taken to be whose it was, and one of a subscribed topic
 * to be about to be somebody's. */
static bool is_owned(const struct kq_group *group, struct kq_str topic,
                     const struct kq_group_slot *slot)
{
    if (!group->members)
        return false;
    if (group->owners_unknown || slot->owned == group->assignment)
        return true;
    return group->state != KQ_GROUP_STABLE &&
           (!group->topics_known || kq_group_is_subscribed(group, topic));
}

static int claim_locked(struct kq_group *group, struct kq_partition *partition,
                        struct kq_group_claim *claim)
{
    struct kq_group_topic *topic;
    struct kq_group_slot *slot;
    struct kq_str name = kq_str_of(kq_topic_name(kq_partition_topic(partition)));
    if (group->state == KQ_GROUP_DEAD || group->deleting)
        return -ESTALE;
    int r = kq_group_topic_make(group, name, &topic);
    if (r == 0)
        r = kq_group_slot_make(group, topic, kq_partition_number(partition), &slot);
    if (r != 0)
        return r;
    if (slot->claim || is_owned(group, name, slot)) {
        kq_group_slot_trim(group, topic, slot);
        return KQ_GROUP_OWNED;
    }
    slot->claim = claim;
    claim->slot = slot;
    return 0;
}

int kq_group_claim(struct kq_group *group, struct kq_partition *partition,
                   struct kq_group_claim *claim)
{
    *claim = (struct kq_group_claim){.group = group, .partition = partition};
    kq_group_lock(group);
    int r = claim_locked(group, partition, claim);
    kq_group_unlock(group);
    if (r == 0) {
        kq_group_ref(group);
        kq_partition_ref(partition);
    }
    return r;
}

void kq_group_unclaim(struct kq_group_claim *claim)
{
    struct kq_group *group = claim->group;
    kq_group_lock(group);
    if (!atomic_load(&claim->lost)) {
        struct kq_str name = kq_str_of(kq_topic_name(kq_partition_topic(claim->partition)));
        struct kq_group_topic *topic = kq_group_topic(group, name);
        claim->slot->claim = NULL;
        if (topic)
            kq_group_slot_trim(group, topic, claim->slot);
    }
    kq_group_unlock(group);
    kq_partition_unref(claim->partition);
    kq_group_unref(group);
}
