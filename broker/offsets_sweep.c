/* What goes by itself: offsets that have expired, offsets of topics that are gone, groups that have
 * neither offsets nor members. Source: Kafka's GroupCoordinatorShard.cleanupGroupMetadata,
 * OffsetMetadataManager.cleanupExpiredOffsets and ClassicGroup.offsetExpirationCondition. */
#include "broker/group.h"

#include "broker/base/clock.h"
#include "broker/base/diag.h"

/* One group's tombstones on their way. */
struct sweep_write {
    struct kq_group_write write;
    bool whole; /* the group itself goes */
    size_t count;
    struct sweep_entry {
        struct kq_group_topic *topic;
        struct kq_group_slot *slot;
    } at[];
};

static void swept(struct kq_group_write *write)
{
    struct sweep_write *own = (struct sweep_write *)write;
    struct kq_group *group = write->group;
    kq_group_lock(group);
    for (size_t i = 0; i < own->count; i++) {
        struct sweep_entry *entry = &own->at[i];
        if (write->result == 0)
            kq_group_slot_clear(group, entry->topic, entry->slot);
        entry->slot->queued--;
        kq_group_slot_trim(group, entry->topic, entry->slot);
    }
    if (own->whole)
        kq_group_bury(group, write->result);
    kq_group_unlock(group);
    if (write->result < 0)
        kq_diag_limited(60000, LOG_WARNING,
                        "cannot write to " KQ_GROUPS_TOPIC ": %s; what has expired stays",
                        strerror(-write->result));
    kq_offsets_write_free(write);
}

/* --- What has expired? --- */

/* From when on an offset ages; -1: not while the group is as it is. */
static int64_t ages_from(const struct kq_group *group, const struct kq_group_offset_value *value)
{
    if (group->protocol_type.length < 0)
        return value->committed_ms;
    if (group->state == KQ_GROUP_EMPTY)
        return group->state_ms >= 0 ? group->state_ms : value->committed_ms;
    bool stable = group->state == KQ_GROUP_STABLE;
    return stable && kq_group_is_consumer(group) && group->topics_known ? value->committed_ms : -1;
}

static bool has_expired(const struct kq_group *group, const struct kq_group_slot *slot,
                        int64_t now_ms)
{
    int64_t from_ms = ages_from(group, &slot->value);
    if (slot->value.offset < 0 || slot->queued > 0 || slot->claim || from_ms < 0)
        return false;
    if (slot->value.expires_ms >= 0)
        return now_ms >= slot->value.expires_ms;
    return now_ms - from_ms >= group->groups->options.offsets_retention_ms;
}

/* Is what the group has of TOPIC of one that is no more? */
static bool is_orphan(const struct kq_group *group, const struct kq_group_topic *of)
{
    static const uint8_t unknown[KQ_UUID_BYTES];
    struct kq_topic *topic;
    bool known = memcmp(of->id, unknown, sizeof(unknown)) != 0;
    if (kq_topic_get(group->groups->broker, of->name, &topic) < 0)
        return known;
    bool same = memcmp(of->id, kq_topic_id(topic), sizeof(of->id)) == 0;
    kq_topic_unref(topic);
    return !same;
}

/* --- One group --- */

struct sweep {
    bool expired, topics;
    int64_t now_ms;
};

static int add_topic(struct kq_group *group, struct kq_group_topic *topic,
                     const struct sweep *sweep, struct sweep_write *write)
{
    struct kq_str name = {topic->name, topic->length};
    bool orphan = sweep->topics && is_orphan(group, topic);
    bool ages = sweep->expired && !kq_group_is_subscribed(group, name);
    int r = 0;
    for (size_t i = 0; r == 0 && i < topic->count; i++) {
        struct kq_group_slot *slot = topic->slots[i];
        bool goes = orphan ? slot->value.offset >= 0 || slot->queued > 0
                           : ages && has_expired(group, slot, sweep->now_ms);
        if (!goes)
            continue;
        r = kq_offsets_put_no_offset(&write->write, kq_group_name(group), name, slot->partition);
        if (r == 0)
            write->at[write->count++] = (struct sweep_entry){topic, slot};
    }
    return r;
}

/* Would the group be of no use without what goes? One that was made on the mount stays. */
static bool is_useless(const struct kq_group *group, size_t going)
{
    return !group->pinned && group->state == KQ_GROUP_EMPTY && !group->pending &&
           group->offset_count == going;
}

static bool has_readers(const struct kq_group *group)
{
    for (size_t i = 0; i < group->topic_count; i++)
        for (size_t j = 0; j < group->topics[i]->count; j++)
            if (group->topics[i]->slots[j]->claim || group->topics[i]->slots[j]->queued > 0)
                return true;
    return false;
}

static int queue(struct kq_group *group, const struct sweep *sweep, struct sweep_write *write)
{
    int r = 0;
    write->write.complete = swept;
    write->write.splits = true;
    for (size_t i = 0; r == 0 && i < group->topic_count; i++)
        r = add_topic(group, group->topics[i], sweep, write);
    if (r < 0)
        return r;
    if (sweep->expired && is_useless(group, write->count) && !has_readers(group)) {
        write->whole = true;
        write->count = 0;
        write->write.records.length = 0;
        return kq_group_queue_deletion(group, &write->write);
    }
    if (write->count == 0)
        return KQ_END;
    r = kq_offsets_queue(group->shard, &write->write);
    for (size_t i = 0; r == 0 && i < write->count; i++)
        write->at[i].slot->queued++;
    return r;
}

static size_t count_slots(const struct kq_group *group)
{
    size_t count = 0;
    for (size_t i = 0; i < group->topic_count; i++)
        count += group->topics[i]->count;
    return count;
}

static void sweep_group(struct kq_group *group, const struct sweep *sweep)
{
    kq_group_lock(group);
    struct sweep_write *write = NULL;
    int r = KQ_END;
    if (group->state != KQ_GROUP_DEAD && !group->deleting) {
        write =
            kq_offsets_write_new(sizeof(*write) + count_slots(group) * sizeof(write->at[0]), group);
        r = write ? queue(group, sweep, write) : -ENOMEM;
    }
    kq_group_unlock(group);
    if (r != 0)
        kq_offsets_write_free(write ? &write->write : NULL);
}

/* --- All of them --- */

/* A shard that is not read yet may hold what is newer. */
static bool is_loaded(const struct kq_group *group)
{
    return atomic_load_explicit(&group->shard->state, memory_order_acquire) == KQ_SHARD_LOADED;
}

static void sweep_all(struct kq_groups *groups, const struct sweep *sweep)
{
    struct kq_group *group, *last = NULL;
    while (!atomic_load(&groups->stopping) &&
           kq_group_next(groups->broker, last ? kq_group_name(last) : KQ_STR_NULL, &group) == 0) {
        if (is_loaded(group))
            sweep_group(group, sweep);
        kq_group_unref(last);
        last = group;
    }
    kq_group_unref(last);
}

void kq_groups_sweep(struct kq_groups *groups, bool expired, bool topics)
{
    pthread_mutex_lock(&groups->sweep_lock);
    bool start = !groups->sweeping && !atomic_load(&groups->stopping);
    groups->sweep_expired |= expired;
    groups->sweep_topics |= topics;
    groups->sweeping |= start;
    pthread_mutex_unlock(&groups->sweep_lock);
    if (start)
        kq_pool_submit(groups->pool, &groups->sweep);
}

static bool take_work(struct kq_groups *groups, struct sweep *ret)
{
    pthread_mutex_lock(&groups->sweep_lock);
    *ret = (struct sweep){groups->sweep_expired, groups->sweep_topics, kq_clock_wall_ms()};
    groups->sweep_expired = groups->sweep_topics = false;
    groups->sweeping = ret->expired || ret->topics;
    bool more = groups->sweeping;
    pthread_mutex_unlock(&groups->sweep_lock);
    return more;
}

void kq_groups_run_sweep(struct kq_job *job)
{
    struct kq_groups *groups =
        (struct kq_groups *)((char *)job - offsetof(struct kq_groups, sweep));
    struct sweep sweep;
    while (take_work(groups, &sweep))
        sweep_all(groups, &sweep);
}

void kq_groups_sweep_due(struct kq_timer *timer)
{
    struct kq_groups *groups =
        (struct kq_groups *)((char *)timer - offsetof(struct kq_groups, sweep_timer));
    kq_timers_set(groups->timers, timer,
                  kq_clock_mono_ns() + groups->options.offsets_check_ms * 1000000);
    kq_groups_sweep(groups, true, false);
}
