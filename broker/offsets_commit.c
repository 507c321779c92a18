/* OffsetCommit, and OffsetDelete. */
#include "broker/group.h"

#include "broker/base/clock.h"
#include "broker/base/mem.h"

#define OWN_MODE 0770 /* of a group that a commit makes */

/* --- A commit on its way --- */

struct commit_write {
    struct kq_group_write write;
    struct kq_group_commit *commit;
    size_t count;
    struct commit_entry {
        struct kq_group_topic *topic;
        struct kq_group_slot *slot; /* counted in slot->queued, so that both stay */
        uint8_t id[KQ_UUID_BYTES];  /* of the topic that the offset is of */
        struct kq_group_offset_value value;
    } at[];
};

static void let_go(struct kq_group *group, struct commit_entry *entry)
{
    entry->slot->queued--;
    kq_group_slot_trim(group, entry->topic, entry->slot);
}

/* What was not put is freed; under the lock. */
static void drop_entries(struct kq_group *group, struct commit_write *write)
{
    for (size_t i = 0; i < write->count; i++) {
        free(write->at[i].value.metadata);
        let_go(group, &write->at[i]);
    }
    write->count = 0;
}

/* Later entries of the same partition win, as they do in the log. Offsets of a topic whose name
 * another has by now have tombstones in the log: meet_topic has seen that they were on their way.
 */
static void put_entries(struct kq_group *group, struct commit_write *write)
{
    for (size_t i = 0; i < write->count; i++) {
        struct commit_entry *entry = &write->at[i];
        if (memcmp(entry->id, entry->topic->id, sizeof(entry->id)) == 0)
            kq_group_slot_put(group, entry->topic, entry->slot, &entry->value);
        else
            free(entry->value.metadata);
        let_go(group, entry);
    }
    atomic_store_explicit(&group->changed_ms, kq_clock_wall_ms(), memory_order_relaxed);
}

static void committed(struct kq_group_write *write)
{
    struct commit_write *own = (struct commit_write *)write;
    struct kq_group_change *change = &own->commit->change;
    struct kq_group *group = write->group;
    kq_group_lock(group);
    if (write->result == 0)
        put_entries(group, own);
    else
        drop_entries(group, own);
    group->unsaved |= write->result != 0;
    kq_group_unlock(group);
    change->result = write->result;
    kq_offsets_write_free(write);
    change->done(change);
}

/* --- May it be? --- */

/* As ClassicGroup.validateOffsetCommit. */
static int check_member(struct kq_group *group, const struct kq_group_commit *commit,
                        struct kq_group_member **ret)
{
    bool named =
        commit->generation >= 0 || commit->member_id.length > 0 || commit->instance_id.length >= 0;
    if (commit->generation < 0 && group->state == KQ_GROUP_EMPTY)
        return 0;
    if (!named)
        return KQ_GROUP_UNKNOWN_MEMBER;
    int r = kq_group_identify(group, commit->member_id, commit->instance_id, ret);
    if (r == 0 && commit->generation != group->generation)
        r = KQ_GROUP_ILLEGAL_GENERATION;
    if (r == 0 && group->state == KQ_GROUP_COMPLETING_REBALANCE)
        r = KQ_GROUP_REBALANCE_IN_PROGRESS;
    return r;
}

static int check(struct kq_group *group, const struct kq_group_commit *commit)
{
    struct kq_group_member *member = NULL;
    if (commit->claim && (group->state == KQ_GROUP_DEAD || group->deleting))
        return -ESTALE;
    if (kq_group_is_closed(group))
        return KQ_GROUP_NOT_AVAILABLE;
    if (commit->claim)
        return atomic_load(&commit->claim->lost) ? KQ_GROUP_OWNED : 0;
    int r = check_member(group, commit, &member);
    if (r == 0 && member)
        kq_group_heard(member);
    return r;
}

/* --- Queueing it --- */

/* Offsets of a topic that had this name before are not this one's. */
static int meet_topic(struct kq_group *group, struct kq_group_write *write, struct kq_topic *topic,
                      struct kq_group_topic **ret)
{
    struct kq_group_topic *of;
    struct kq_str name = kq_str_of(kq_topic_name(topic));
    const uint8_t *id = kq_topic_id(topic);
    int r = kq_group_topic_make(group, name, &of);
    if (r < 0)
        return r;
    bool same = memcmp(of->id, id, sizeof(of->id)) == 0;
    for (size_t i = 0; !same && r == 0 && i < of->count; i++) {
        struct kq_group_slot *slot = of->slots[i];
        if (slot->value.offset < 0 && slot->queued == 0)
            continue;
        r = kq_offsets_put_no_offset(write, kq_group_name(group), name, slot->partition);
        kq_group_slot_clear(group, of, slot);
    }
    if (r == 0) {
        memcpy(of->id, id, sizeof(of->id));
        *ret = of;
    }
    return r;
}

static int make_value(const struct kq_group *group, const struct kq_group_commit *commit,
                      const struct kq_group_committed *from, int64_t now_ms,
                      struct kq_group_offset_value *ret)
{
    struct kq_str metadata;
    int r = kq_group_copy(from->metadata.length > 0 ? from->metadata : KQ_STR(""), &metadata);
    if (r < 0)
        return r;
    *ret = (struct kq_group_offset_value){
        .offset = from->offset,
        .leader_epoch = from->leader_epoch,
        .metadata = (char *)metadata.data,
        .metadata_length = metadata.length,
        .committed_ms = now_ms,
        .expires_ms = commit->retention_ms < 0
                          ? -1
                          : now_ms + kq_min64(commit->retention_ms, INT64_MAX - now_ms),
    };
    return 0;
}

static int add_entry(struct kq_group *group, struct commit_write *write,
                     const struct kq_group_committed *from, int64_t now_ms)
{
    struct commit_entry *entry = &write->at[write->count];
    int r = meet_topic(group, &write->write, from->topic, &entry->topic);
    if (r == 0)
        r = kq_group_slot_make(group, entry->topic, from->partition, &entry->slot);
    if (r < 0)
        return r;
    memcpy(entry->id, entry->topic->id, sizeof(entry->id));
    r = make_value(group, write->commit, from, now_ms, &entry->value);
    if (r < 0) {
        kq_group_slot_trim(group, entry->topic, entry->slot);
        return r;
    }
    entry->slot->queued++;
    write->count++;
    return kq_offsets_put_offset(&write->write, kq_group_name(group),
                                 kq_str_of(kq_topic_name(from->topic)), from->partition,
                                 &entry->value);
}

static int queue_commit(struct kq_group *group, struct commit_write *write)
{
    const struct kq_group_commit *commit = write->commit;
    int64_t now_ms = kq_clock_wall_ms();
    int r = group->unsaved ? kq_group_put_own_attributes(&write->write, group) : 0;
    for (int32_t i = 0; r == 0 && i < commit->offset_count; i++)
        if (commit->offsets[i].result == 0)
            r = add_entry(group, write, &commit->offsets[i], now_ms);
    if (r == 0)
        r = kq_offsets_queue(group->shard, &write->write);
    if (r == 0)
        group->unsaved = false;
    else
        drop_entries(group, write);
    return r;
}

/* Each that cannot be kept has its result; how many can. Of a topic that is being deleted nothing
 * is queued any more: the sweep that its end brings about finds what was queued before. */
static int32_t check_offsets(const struct kq_groups *groups, struct kq_group_commit *commit)
{
    int32_t good = 0;
    for (int32_t i = 0; i < commit->offset_count; i++) {
        struct kq_group_committed *at = &commit->offsets[i];
        if (at->result == 0 && at->offset < 0)
            at->result = -EINVAL;
        if (at->result == 0 && kq_topic_deleted(at->topic))
            at->result = -ESTALE;
        if (at->result == 0 && at->metadata.length > groups->options.offset_metadata_max_bytes)
            at->result = KQ_GROUP_OFFSET_METADATA_LARGE;
        good += at->result == 0;
    }
    return good;
}

static int commit_locked(struct kq_group *group, struct kq_group_commit *commit)
{
    int r = check(group, commit);
    if (r != 0)
        return r;
    int32_t good = check_offsets(group->groups, commit);
    if (good == 0)
        return KQ_READY;
    struct commit_write *write =
        kq_offsets_write_new(sizeof(*write) + (size_t)good * sizeof(write->at[0]), group);
    if (!write)
        return -ENOMEM;
    write->write.complete = committed;
    write->commit = commit;
    r = queue_commit(group, write);
    if (r != 0)
        kq_offsets_write_free(&write->write);
    return r;
}

/* --- The requests --- */

/* A group that nobody joined is made by the first commit. */
static int find_group(struct kq_groups *groups, const struct kq_caller *caller,
                      const struct kq_group_commit *commit, struct kq_group **ret)
{
    struct kq_attributes own = {.uid = caller->uid, .gid = caller->gid, .mode = OWN_MODE};
    struct kq_group_shard *shard;
    struct kq_group *group;
    bool created = false;
    int r = kq_groups_shard(groups, commit->group, &shard);
    if (r == 0)
        r = kq_groups_take(shard, commit->group, NULL, NULL, &group);
    if (r == KQ_GROUP_NOT_FOUND && commit->generation >= 0)
        return commit->knows_not_found ? r : KQ_GROUP_ILLEGAL_GENERATION;
    if (r == KQ_GROUP_NOT_FOUND) {
        r = kq_group_authorize(groups, NULL, caller, KQ_RIGHT_ALTER);
        if (r == 0)
            r = kq_groups_take(shard, commit->group, &own, &created, &group);
    }
    if (r == 0 && !created && (r = kq_group_authorize(groups, group, caller, KQ_RIGHT_WRITE)) != 0)
        kq_group_unref(group);
    if (r == 0)
        *ret = group;
    return r;
}

int kq_group_commit(struct kq_broker *broker, const struct kq_caller *caller,
                    struct kq_group_commit *commit)
{
    struct kq_group *group;
    int r = commit->claim ? 0 : find_group(broker->groups, caller, commit, &group);
    if (r != 0)
        return r;
    if (commit->claim)
        group = kq_group_ref(commit->claim->group);
    kq_group_lock(group);
    r = commit_locked(group, commit);
    kq_group_unlock(group);
    kq_group_unref(group);
    return r;
}

/* --- OffsetDelete --- */

struct delete_write {
    struct kq_group_write write;
    struct kq_group_change *change;
    size_t count;
    struct delete_entry {
        struct kq_group_topic *topic;
        struct kq_group_slot *slot;
    } at[];
};

static void finish_delete(struct kq_group *group, struct delete_write *write, bool done)
{
    for (size_t i = 0; i < write->count; i++) {
        struct delete_entry *entry = &write->at[i];
        if (done)
            kq_group_slot_clear(group, entry->topic, entry->slot);
        entry->slot->queued--;
        kq_group_slot_trim(group, entry->topic, entry->slot);
    }
    write->count = 0;
}

static void deleted(struct kq_group_write *write)
{
    struct delete_write *own = (struct delete_write *)write;
    struct kq_group_change *change = own->change;
    kq_group_lock(write->group);
    finish_delete(write->group, own, write->result == 0);
    kq_group_unlock(write->group);
    change->result = write->result;
    kq_offsets_write_free(write);
    change->done(change);
}

static int add_delete(struct kq_group *group, struct delete_write *write,
                      struct kq_group_partition *partition)
{
    partition->result = kq_group_is_subscribed(group, partition->topic) ? KQ_GROUP_SUBSCRIBED : 0;
    struct kq_group_topic *topic = kq_group_topic(group, partition->topic);
    struct kq_group_slot *slot = kq_group_slot(topic, partition->partition);
    if (partition->result != 0 || !slot || (slot->value.offset < 0 && slot->queued == 0))
        return 0;
    slot->queued++;
    write->at[write->count++] = (struct delete_entry){topic, slot};
    return kq_offsets_put_no_offset(&write->write, kq_group_name(group), partition->topic,
                                    partition->partition);
}

static int delete_locked(struct kq_group *group, struct delete_write *write,
                         struct kq_group_partition *partitions, size_t count)
{
    int r = 0;
    if (group->state == KQ_GROUP_DEAD || group->deleting)
        return KQ_GROUP_NOT_FOUND;
    if (group->state != KQ_GROUP_EMPTY && !kq_group_is_consumer(group))
        return KQ_GROUP_NOT_EMPTY;
    for (size_t i = 0; r == 0 && i < count; i++)
        r = add_delete(group, write, &partitions[i]);
    if (r == 0 && write->count == 0)
        return KQ_READY;
    write->write.splits = true;
    if (r == 0)
        r = kq_offsets_queue(group->shard, &write->write);
    if (r != 0)
        finish_delete(group, write, false);
    return r;
}

int kq_group_delete_offsets(struct kq_broker *broker, const struct kq_caller *caller,
                            struct kq_str name, struct kq_group_partition *partitions, size_t count,
                            struct kq_group_change *change)
{
    struct kq_group *group;
    int r = kq_group_get(broker, caller, name, 0, &group);
    if (r != 0)
        return r;
    r = kq_group_authorize(broker->groups, group, caller, KQ_RIGHT_DELETE);
    struct delete_write *write = NULL;
    if (r == 0) {
        write = kq_offsets_write_new(sizeof(*write) + count * sizeof(write->at[0]), group);
        r = write ? 0 : -ENOMEM;
    }
    if (r == 0) {
        write->write.complete = deleted;
        write->change = change;
        kq_group_lock(group);
        r = delete_locked(group, write, partitions, count);
        kq_group_unlock(group);
    }
    if (r != 0)
        kq_offsets_write_free(write ? &write->write : NULL);
    kq_group_unref(group);
    return r;
}
