/* Committed offsets: who may commit, what is kept over a restart, what goes by itself. */
#include "tests/unit/group_kit.h"

#define DAY_MS (24 * 3600 * 1000LL)

static const uint8_t range_of_t[] = {0, 0, 0, 0, 0, 1, 0, 1, 't', 255, 255, 255, 255};

/* A consumer subscribed to t. */
static struct kit_join consumer(void)
{
    return (struct kit_join){.type = "consumer",
                             .protocols = {"range"},
                             .raw = {range_of_t, (int32_t)sizeof(range_of_t)}};
}

static struct kq_topic *set_up(struct kit *kit)
{
    kit_open(kit);
    return ground_topic(&kit->ground, "t", 3);
}

static struct kq_topic *find_again(struct kit *kit)
{
    return ground_find(&kit->ground, "t");
}

static void await_sweep(struct kit *kit)
{
    struct kq_groups *groups = kit_broker(kit)->groups;
    for (bool busy = true; busy; sched_yield()) {
        pthread_mutex_lock(&groups->sweep_lock);
        busy = groups->sweeping;
        pthread_mutex_unlock(&groups->sweep_lock);
    }
}

static void sweep(struct kit *kit, bool expired, bool topics)
{
    kq_groups_sweep(kit_broker(kit)->groups, expired, topics);
    await_sweep(kit);
    kit_settle(kit);
}

/* --- Committing --- */

static void what_nobody_has_joined_for_is_committed(void **state)
{
    struct kit *kit = *state;
    struct kq_topic *topic = set_up(kit);
    struct kq_group *group;
    struct kq_group_offset offset;
    struct kq_arena arena = {0};
    assert_int_equal(kit_offset(kit, "g", "t", 0), -1);
    assert_int_equal(kit_commit(kit, "g", NULL, topic, 0, 42, "note"), 0);
    assert_int_equal(kit_commit(kit, "g", NULL, topic, 2, 7, NULL), 0);
    assert_int_equal(kit_commit(kit, "g", NULL, topic, 0, 43, "newer"), 0);
    assert_int_equal(kit_state(kit, "g"), KQ_GROUP_EMPTY);
    assert_int_equal(kq_group_get(kit_broker(kit), &kit_caller, KQ_STR("g"), 0, &group), 0);
    assert_int_equal(kq_group_offset_get(group, KQ_STR("t"), 0, &arena, &offset), 0);
    assert_int_equal(offset.offset, 43);
    assert_int_equal(offset.leader_epoch, 3);
    assert_true(kq_str_is(offset.metadata, KQ_STR("newer")));
    assert_in_range(offset.committed_ms, kq_clock_wall_ms() - 60000, kq_clock_wall_ms());
    assert_int_equal(kit_offset(kit, "g", "t", 1), -1);
    assert_int_equal(kit_offset(kit, "g", "t", 2), 7);
    assert_int_equal(kit_offset(kit, "g", "x", 0), -1);
    kq_arena_release(&arena);
    kq_group_unref(group);
    kq_topic_unref(topic);
}

static void all_that_is_committed_can_be_listed(void **state)
{
    struct kit *kit = *state;
    struct kq_topic *topic = set_up(kit), *other = ground_topic(&kit->ground, "a", 1);
    struct kq_group *group;
    struct kq_group_topic_offsets *topics;
    struct kq_arena arena = {0};
    int32_t count;
    kit_commit(kit, "g", NULL, topic, 2, 7, "");
    kit_commit(kit, "g", NULL, topic, 0, 5, "");
    kit_commit(kit, "g", NULL, other, 0, 9, "nine");
    assert_int_equal(kq_group_get(kit_broker(kit), &kit_caller, KQ_STR("g"), 0, &group), 0);
    assert_int_equal(kq_group_offsets(group, &arena, &topics, &count), 0);
    assert_int_equal(count, 2);
    assert_true(kq_str_is(topics[0].topic, KQ_STR("a")));
    assert_int_equal(topics[0].partition_count, 1);
    assert_true(kq_str_is(topics[0].partitions[0].offset.metadata, KQ_STR("nine")));
    assert_true(kq_str_is(topics[1].topic, KQ_STR("t")));
    assert_int_equal(topics[1].partition_count, 2);
    assert_int_equal(topics[1].partitions[0].partition, 0);
    assert_int_equal(topics[1].partitions[1].offset.offset, 7);
    kq_arena_release(&arena);
    struct kq_topic *found;
    assert_int_equal(kq_group_topic_next(group, "", &found), 0);
    assert_ptr_equal(found, other);
    kq_topic_unref(found);
    assert_int_equal(kq_group_topic_next(group, "a", &found), 0);
    assert_ptr_equal(found, topic);
    kq_topic_unref(found);
    assert_int_equal(kq_group_topic_next(group, "t", &found), KQ_END);
    kq_group_unref(group);
    kq_topic_unref(other);
    kq_topic_unref(topic);
}

static void members_commit_in_their_generation_only(void **state)
{
    struct kit *kit = *state;
    struct kq_topic *topic = set_up(kit);
    struct kit_join join = consumer();
    struct kit_member members[2], stale;
    static struct kit_wait wait;
    kit_make_group(kit, &join, 2, members);
    assert_int_equal(kit_commit(kit, "g", &members[0], topic, 0, 1, ""), 0);
    assert_int_equal(kit_commit(kit, "g", NULL, topic, 0, 2, ""), KQ_GROUP_UNKNOWN_MEMBER);
    stale = members[0];
    stale.generation = 0;
    assert_int_equal(kit_commit(kit, "g", &stale, topic, 0, 2, ""), KQ_GROUP_ILLEGAL_GENERATION);
    stale.generation = 1;
    stale.id[0] = '?';
    assert_int_equal(kit_commit(kit, "g", &stale, topic, 0, 2, ""), KQ_GROUP_UNKNOWN_MEMBER);
    assert_int_equal(kit_commit(kit, "new", &stale, topic, 0, 2, ""), KQ_GROUP_NOT_FOUND);
    join.member = members[0].id;
    kit_join(kit, &join, &wait); /* PreparingRebalance: the last chance to commit */
    assert_int_equal(kit_commit(kit, "g", &members[1], topic, 0, 3, ""), 0);
    assert_int_equal(kit_leave(kit, "g", members[1].id), 0);
    kit_take(&wait, &members[0]); /* CompletingRebalance */
    assert_int_equal(kit_commit(kit, "g", &members[0], topic, 0, 4, ""),
                     KQ_GROUP_REBALANCE_IN_PROGRESS);
    assert_int_equal(kit_offset(kit, "g", "t", 0), 3);
    kq_topic_unref(topic);
}

static void a_commit_is_a_sign_of_life(void **state)
{
    struct kit *kit = *state;
    struct kq_topic *topic = set_up(kit);
    struct kit_join join = consumer();
    struct kit_member member;
    join.session_ms = 6000;
    kit_make_group(kit, &join, 1, &member);
    for (int i = 0; i < 4; i++) {
        kit_pass_ms(kit, 4000);
        assert_int_equal(kit_commit(kit, "g", &member, topic, 0, i, ""), 0);
    }
    kq_topic_unref(topic);
}

static void what_cannot_be_kept_is_refused_alone(void **state)
{
    struct kit *kit = *state;
    kit->ground.options.groups.offset_metadata_max_bytes = 8;
    struct kq_topic *topic = set_up(kit);
    assert_int_equal(kit_commit(kit, "g", NULL, topic, 0, 1, "12345678"), 0);
    assert_int_equal(kit_commit(kit, "g", NULL, topic, 0, 2, "123456789"),
                     KQ_GROUP_OFFSET_METADATA_LARGE);
    assert_int_equal(kit_commit(kit, "g", NULL, topic, 0, -2, ""), -EINVAL);
    assert_int_equal(kit_commit(kit, "\xc3", NULL, topic, 0, 3, ""), KQ_GROUP_INVALID_ID);
    assert_int_equal(kit_offset(kit, "g", "t", 0), 1);
    kit->ground.denied = KQ_RIGHT_WRITE;
    assert_int_equal(kit_commit(kit, "g", NULL, topic, 0, 4, ""), -EACCES);
    kit->ground.denied = KQ_RIGHT_ALTER;
    assert_int_equal(kit_commit(kit, "new", NULL, topic, 0, 4, ""), -EACCES);
    kq_topic_unref(topic);
}

static void a_commit_that_cannot_be_written_changes_nothing(void **state)
{
    struct kit *kit = *state;
    struct kq_topic *topic = set_up(kit);
    assert_int_equal(kit_commit(kit, "g", NULL, topic, 0, 1, ""), 0);
    kq_fault_arm(KQ_FAULT_WRITE, 1, ENOSPC, true);
    assert_int_equal(kit_commit(kit, "g", NULL, topic, 0, 2, ""), -ENOSPC);
    assert_true(kq_fault_disarm());
    assert_int_equal(kit_offset(kit, "g", "t", 0), 1);
    assert_int_equal(kit_commit(kit, "g", NULL, topic, 0, 3, ""), 0);
    assert_int_equal(kit_offset(kit, "g", "t", 0), 3);
    kq_topic_unref(topic);
}

static void with_flushing_a_commit_waits_for_the_disk(void **state)
{
    struct kit *kit = *state;
    struct kq_topic *topic = set_up(kit);
    struct kq_topic *offsets = ground_find(&kit->ground, KQ_GROUPS_TOPIC);
    struct kq_log_bounds bounds;
    struct kq_partition *partition;
    int synced = 0;
    assert_int_equal(kq_topic_set_config(offsets, &kit_caller, "flush.messages", "1"), 0);
    for (int i = 0; i < 20; i++)
        assert_int_equal(kit_commit(kit, "g", NULL, topic, 0, i, ""), 0);
    for (int i = 0; i < 4; i++) {
        assert_int_equal(kq_partition_get(offsets, i, &partition), 0);
        kq_bounds(partition, &bounds);
        assert_int_equal(bounds.recovery_point, bounds.end);
        synced += bounds.end > 0;
        kq_partition_unref(partition);
    }
    assert_int_equal(synced, 1);
    kq_fault_arm(KQ_FAULT_SYNC, 1, EIO, true);
    int r = kit_commit(kit, "g", NULL, topic, 0, 99, "");
    assert_true(kq_fault_disarm());
    assert_true(r == -EIO || r == -EROFS); /* who asks for the sync first is told EIO */
    assert_int_equal(kit_offset(kit, "g", "t", 0), 19);
    kq_topic_unref(offsets);
    kq_topic_unref(topic);
}

/* --- Over a restart --- */

static void offsets_and_members_outlive_the_broker(void **state)
{
    struct kit *kit = *state;
    struct kq_topic *topic = set_up(kit);
    struct kit_join join = consumer();
    struct kit_member members[2];
    kit_make_group(kit, &join, 2, members);
    assert_int_equal(kit_commit(kit, "g", &members[0], topic, 1, 77, "m"), 0);
    assert_int_equal(kit_commit(kit, "simple", NULL, topic, 0, 5, ""), 0);
    kq_topic_unref(topic);
    kit_reopen(kit);
    topic = find_again(kit);
    assert_int_equal(kit_offset(kit, "g", "t", 1), 77);
    assert_int_equal(kit_offset(kit, "simple", "t", 0), 5);
    assert_int_equal(kit_state(kit, "g"), KQ_GROUP_STABLE);
    assert_int_equal(kit_state(kit, "simple"), KQ_GROUP_EMPTY);
    for (int i = 0; i < 2; i++)
        assert_int_equal(kit_heartbeat(kit, "g", members[i].id, 1), 0);
    assert_int_equal(kit_commit(kit, "g", &members[1], topic, 1, 78, ""), 0);
    kit_pass_ms(kit, 10000); /* their sessions began anew */
    assert_int_equal(kit_state(kit, "g"), KQ_GROUP_EMPTY);
    kq_topic_unref(topic);
    kit_reopen(kit);
    assert_int_equal(kit_state(kit, "g"), KQ_GROUP_EMPTY);
    assert_int_equal(kit_offset(kit, "g", "t", 1), 78);
}

static void a_static_members_new_id_outlives_the_broker(void **state)
{
    struct kit *kit = *state;
    struct kit_member first, second;
    static struct kit_wait wait;
    const struct kit_join join = {.instance = "i"};
    kit_open(kit);
    kit_make_group(kit, &join, 1, &first);
    kit_join(kit, &join, &wait);
    kit_take(&wait, &second);
    kit_reopen(kit);
    assert_int_equal(kq_group_heartbeat(kit_broker(kit), &kit_caller, KQ_STR("g"),
                                        kq_str_of(first.id), KQ_STR("i"), 1),
                     KQ_GROUP_FENCED_INSTANCE);
    assert_int_equal(kq_group_heartbeat(kit_broker(kit), &kit_caller, KQ_STR("g"),
                                        kq_str_of(second.id), KQ_STR("i"), 1),
                     0);
}

static void a_deleted_group_stays_deleted(void **state)
{
    struct kit *kit = *state;
    struct kq_topic *topic = set_up(kit);
    struct kit_member member;
    kit_commit(kit, "g", NULL, topic, 0, 1, "");
    kit_commit(kit, "g", NULL, topic, 1, 2, "");
    kit_make_group(kit, &(struct kit_join){0}, 1, &member);
    assert_int_equal(kit_delete_group(kit, "g"), KQ_GROUP_NOT_EMPTY);
    assert_int_equal(kit_leave(kit, "g", member.id), 0);
    kit->ground.denied = KQ_RIGHT_DELETE;
    assert_int_equal(kit_delete_group(kit, "g"), -EACCES);
    kit->ground.denied = 0;
    assert_int_equal(kit_delete_group(kit, "g"), 0);
    assert_int_equal(kit_delete_group(kit, "g"), KQ_GROUP_NOT_FOUND);
    assert_int_equal(kit_state(kit, "g"), KQ_GROUP_DEAD);
    assert_int_equal(kit_offset(kit, "g", "t", 0), -1);
    kit_reopen(kit);
    assert_int_equal(kit_state(kit, "g"), KQ_GROUP_DEAD);
    kq_topic_unref(topic);
    topic = find_again(kit);
    assert_int_equal(kit_commit(kit, "g", NULL, topic, 1, 9, ""), 0);
    assert_int_equal(kit_offset(kit, "g", "t", 0), -1);
    kq_topic_unref(topic);
}

/* A group's own tombstone: Kafka writes one, and none for offsets, where the group goes on as one
 * of its other kinds. */
static void a_tombstone_of_the_group_alone_leaves_its_offsets(void **state)
{
    struct kit *kit = *state;
    struct kq_topic *topic = set_up(kit);
    struct kit_member member;
    struct kit_join join = consumer();
    struct kq_group *group;
    kit_make_group(kit, &join, 1, &member);
    assert_int_equal(kit_commit(kit, "g", &member, topic, 0, 42, "note"), 0);
    assert_int_equal(kq_group_get(kit_broker(kit), &kit_caller, KQ_STR("g"), 0, &group), 0);
    struct kq_group_write *write = kq_offsets_write_new(sizeof(*write), group);
    write->complete = kq_offsets_write_free;
    kq_group_lock(group);
    assert_int_equal(kq_offsets_put_no_group(write, KQ_STR("g")), 0);
    assert_int_equal(kq_offsets_queue(group->shard, write), 0);
    kq_group_unlock(group);
    kq_group_unref(group);
    kq_topic_unref(topic);
    kit_settle(kit);
    kit_reopen(kit);
    assert_int_equal(kit_offset(kit, "g", "t", 0), 42);
    assert_int_equal(kit_state(kit, "g"), KQ_GROUP_EMPTY);
    assert_int_equal(kit_heartbeat(kit, "g", member.id, 1), KQ_GROUP_UNKNOWN_MEMBER);
    assert_int_equal(kit_delete_group(kit, "g"), 0);
    kit_reopen(kit);
    assert_int_equal(kit_state(kit, "g"), KQ_GROUP_DEAD);
}

/* Tombstones of one group may be more than a batch may hold. */
static void a_group_with_many_offsets_is_deleted(void **state)
{
    struct kit *kit = *state;
    enum { PARTITIONS = 100 };
    kit_open(kit);
    struct kq_topic *topic = ground_topic(&kit->ground, "wide", PARTITIONS);
    struct kq_topic *offsets = ground_find(&kit->ground, KQ_GROUPS_TOPIC);
    for (int i = PARTITIONS; i-- > 0;)
        assert_int_equal(kit_commit(kit, "g", NULL, topic, i, i, ""), 0);
    assert_int_equal(kq_topic_set_config(offsets, &kit_caller, "max.message.bytes", "2048"), 0);
    assert_int_equal(kit_delete_group(kit, "g"), 0);
    kq_topic_unref(offsets);
    kq_topic_unref(topic);
    kit_reopen(kit);
    assert_int_equal(kit_state(kit, "g"), KQ_GROUP_DEAD);
    topic = ground_find(&kit->ground, "wide");
    assert_int_equal(kit_commit(kit, "g", NULL, topic, 0, 1, ""), 0);
    assert_int_equal(kit_offset(kit, "g", "wide", PARTITIONS - 1), -1);
    kq_topic_unref(topic);
}

/* --- Deleting offsets --- */

static int delete_offset(struct kit *kit, const char *group, const char *topic, int32_t number)
{
    struct kit_change change;
    struct kq_group_partition partition = {.topic = kq_str_of(topic), .partition = number};
    kit_change_init(&change);
    int r = kq_group_delete_offsets(kit_broker(kit), &kit_caller, kq_str_of(group), &partition, 1,
                                    &change.change);
    r = kit_await_change(&change, r);
    return r ? r : partition.result;
}

static void single_offsets_are_deleted(void **state)
{
    struct kit *kit = *state;
    struct kq_topic *topic = set_up(kit), *other = ground_topic(&kit->ground, "u", 1);
    struct kit_join join = consumer();
    struct kit_member member;
    assert_int_equal(delete_offset(kit, "g", "t", 0), KQ_GROUP_NOT_FOUND);
    kit_commit(kit, "g", NULL, topic, 0, 1, "");
    kit_commit(kit, "g", NULL, topic, 1, 2, "");
    kit_commit(kit, "g", NULL, other, 0, 3, "");
    assert_int_equal(delete_offset(kit, "g", "t", 0), 0);
    assert_int_equal(delete_offset(kit, "g", "t", 0), 0); /* nothing is there any more */
    assert_int_equal(kit_offset(kit, "g", "t", 0), -1);
    assert_int_equal(kit_offset(kit, "g", "t", 1), 2);
    kit_make_group(kit, &join, 1, &member);
    assert_int_equal(delete_offset(kit, "g", "t", 1), KQ_GROUP_SUBSCRIBED);
    assert_int_equal(delete_offset(kit, "g", "u", 0), 0);
    assert_int_equal(kit_offset(kit, "g", "t", 1), 2);
    assert_int_equal(kit_offset(kit, "g", "u", 0), -1);
    kit_make_group(kit, &(struct kit_join){.group = "no-consumers"}, 1, &member);
    assert_int_equal(delete_offset(kit, "no-consumers", "t", 1), KQ_GROUP_NOT_EMPTY);
    kq_topic_unref(other);
    kq_topic_unref(topic);
    kit_reopen(kit);
    assert_int_equal(kit_offset(kit, "g", "t", 0), -1);
    assert_int_equal(kit_offset(kit, "g", "t", 1), 2);
}

/* --- What goes by itself --- */

static void offsets_expire_once_nobody_uses_the_group(void **state)
{
    struct kit *kit = *state;
    struct kq_topic *topic = set_up(kit);
    struct kit_join join = consumer();
    struct kit_member member;
    kit_commit(kit, "simple", NULL, topic, 0, 1, "");
    kit_make_group(kit, &join, 1, &member);
    kit_commit(kit, "g", &member, topic, 0, 2, "");
    assert_int_equal(kit_leave(kit, "g", member.id), 0);
    kit_settle(kit);
    kit_pass_ms(kit, 6 * DAY_MS);
    sweep(kit, true, false);
    assert_int_equal(kit_offset(kit, "simple", "t", 0), 1);
    assert_int_equal(kit_offset(kit, "g", "t", 0), 2);
    kit_pass_ms(kit, DAY_MS);
    sweep(kit, true, false);
    assert_int_equal(kit_state(kit, "simple"), KQ_GROUP_DEAD);
    assert_int_equal(kit_state(kit, "g"), KQ_GROUP_DEAD);
    kq_topic_unref(topic);
    kit_reopen(kit);
    assert_int_equal(kit_state(kit, "g"), KQ_GROUP_DEAD);
}

static void what_is_subscribed_does_not_expire(void **state)
{
    struct kit *kit = *state;
    kit->ground.options.groups.offsets_retention_ms = 500000;
    struct kq_topic *topic = set_up(kit), *other = ground_topic(&kit->ground, "u", 1);
    struct kit_join join = consumer();
    struct kit_member member;
    kit_commit(kit, "g", NULL, topic, 0, 1, "");
    kit_commit(kit, "g", NULL, other, 0, 2, "");
    join.session_ms = 1800000;
    kit_make_group(kit, &join, 1, &member);
    kit_pass_ms(kit, 1000000);
    assert_int_equal(kit_heartbeat(kit, "g", member.id, 1), 0);
    sweep(kit, true, false);
    assert_int_equal(kit_offset(kit, "g", "t", 0), 1);
    assert_int_equal(kit_offset(kit, "g", "u", 0), -1);
    kq_topic_unref(other);
    kq_topic_unref(topic);
}

static void a_group_made_on_the_mount_stays_without_offsets(void **state)
{
    struct kit *kit = *state;
    kit_open(kit);
    assert_int_equal(kit_create_group(kit, "kept"), 0);
    assert_int_equal(kit_join_now(kit, &(struct kit_join){.group = "joined"}),
                     KQ_GROUP_MEMBER_ID_REQUIRED);
    kit_pass_ms(kit, 10000);
    sweep(kit, true, false);
    assert_int_equal(kit_state(kit, "kept"), KQ_GROUP_EMPTY);
    assert_int_equal(kit_state(kit, "joined"), KQ_GROUP_DEAD);
    kit_reopen(kit);
    sweep(kit, true, false);
    assert_int_equal(kit_state(kit, "kept"), KQ_GROUP_EMPTY);
}

static void a_topic_takes_its_offsets_with_it(void **state)
{
    struct kit *kit = *state;
    struct kq_topic *topic = set_up(kit), *other = ground_topic(&kit->ground, "u", 1);
    kit_commit(kit, "g", NULL, topic, 0, 5, "");
    kit_commit(kit, "g", NULL, topic, 1, 6, "");
    kit_commit(kit, "g", NULL, other, 0, 7, "");
    assert_int_equal(kq_topic_delete(topic, &kit_caller, false), 0);
    kq_topic_unref(topic);
    sweep(kit, false, true);
    assert_int_equal(kit_offset(kit, "g", "t", 0), -1);
    assert_int_equal(kit_offset(kit, "g", "u", 0), 7);
    kq_topic_unref(other);
    kit_reopen(kit);
    assert_int_equal(kit_offset(kit, "g", "t", 1), -1);
}

/* Even if the sweep has not come by yet. */
static void a_topic_of_the_same_name_begins_without_offsets(void **state)
{
    struct kit *kit = *state;
    struct kq_topic *topic = set_up(kit);
    kit_commit(kit, "g", NULL, topic, 0, 5, "");
    kit_commit(kit, "g", NULL, topic, 1, 6, "");
    kq_broker_unlisten(kit_broker(kit), &kit_broker(kit)->groups->listener);
    assert_int_equal(kq_topic_delete(topic, &kit_caller, false), 0);
    kq_topic_unref(topic);
    topic = ground_topic(&kit->ground, "t", 3);
    assert_int_equal(kit_commit(kit, "g", NULL, topic, 0, 1, ""), 0);
    assert_int_equal(kit_offset(kit, "g", "t", 0), 1);
    assert_int_equal(kit_offset(kit, "g", "t", 1), -1);
    kq_topic_unref(topic);
    kit_reopen(kit);
    assert_int_equal(kit_offset(kit, "g", "t", 0), 1);
    assert_int_equal(kit_offset(kit, "g", "t", 1), -1);
}

/* --- A commit on its way while its topic goes --- */

/* Writes are queued, and none is done, until they are let go. */
static void hold(struct kq_group_shard *shard, bool hold)
{
    pthread_mutex_lock(&shard->queue_lock);
    assert_int_equal(shard->busy, !hold);
    shard->busy = hold;
    pthread_mutex_unlock(&shard->queue_lock);
    if (!hold)
        kq_group_shard_kick(shard);
}

static struct kq_group_shard *hold_group(struct kit *kit)
{
    struct kq_group_shard *shard;
    assert_int_equal(kq_groups_shard(kit_broker(kit)->groups, KQ_STR("g"), &shard), 0);
    await_sweep(kit);
    kit_settle(kit);
    hold(shard, true);
    return shard;
}

/* A commit of partition NUMBER that nobody awaits yet. */
struct pending {
    struct kit_commit own;
    struct kq_group_committed committed;
    int r;
};

static void begin(struct kit *kit, struct kq_topic *topic, int32_t number, int64_t offset,
                  struct pending *ret)
{
    *ret = (struct pending){.committed = {.topic = topic,
                                          .partition = number,
                                          .offset = offset,
                                          .metadata = KQ_STR("")},
                            .own.commit = {.change.done = kit_committed,
                                           .group = KQ_STR("g"),
                                           .member_id = KQ_STR(""),
                                           .instance_id = KQ_STR_NULL,
                                           .generation = -1,
                                           .retention_ms = -1,
                                           .offsets = &ret->committed,
                                           .offset_count = 1}};
    kit_change_init(&ret->own.own);
    ret->r = kq_group_commit(kit_broker(kit), &kit_caller, &ret->own.commit);
}

static int end(struct pending *pending)
{
    int r = kit_await_change(&pending->own.own, pending->r);
    return r ? r : pending->committed.result;
}

static void drop_topic(struct kq_topic *topic)
{
    assert_int_equal(kq_topic_delete(topic, &kit_caller, false), 0);
    kq_topic_unref(topic);
}

/* The sweep of the topic's end comes by before the commit is durable. */
static void a_commit_on_its_way_goes_with_its_topic(void **state)
{
    struct kit *kit = *state;
    struct kq_topic *topic = set_up(kit);
    static struct pending pending;
    assert_int_equal(kit_commit(kit, "g", NULL, topic, 0, 4, ""), 0);
    struct kq_group_shard *shard = hold_group(kit);
    begin(kit, topic, 1, 5, &pending);
    drop_topic(topic);
    topic = ground_topic(&kit->ground, "t", 3);
    await_sweep(kit);
    hold(shard, false);
    assert_int_equal(end(&pending), 0);
    kit_settle(kit);
    assert_int_equal(kit_offset(kit, "g", "t", 0), -1);
    assert_int_equal(kit_offset(kit, "g", "t", 1), -1);
    kq_topic_unref(topic);
    kit_reopen(kit);
    assert_int_equal(kit_offset(kit, "g", "t", 1), -1);
}

/* The new topic has a commit of its own before a sweep comes by. */
static void a_commit_on_its_way_is_none_of_a_new_topics(void **state)
{
    struct kit *kit = *state;
    struct kq_topic *topic = set_up(kit);
    static struct pending old, new;
    assert_int_equal(kit_commit(kit, "g", NULL, topic, 2, 4, ""), 0);
    kq_broker_unlisten(kit_broker(kit), &kit_broker(kit)->groups->listener);
    struct kq_group_shard *shard = hold_group(kit);
    begin(kit, topic, 1, 5, &old);
    drop_topic(topic);
    topic = ground_topic(&kit->ground, "t", 3);
    begin(kit, topic, 0, 6, &new);
    hold(shard, false);
    assert_int_equal(end(&old), 0);
    assert_int_equal(end(&new), 0);
    assert_int_equal(kit_offset(kit, "g", "t", 0), 6);
    assert_int_equal(kit_offset(kit, "g", "t", 1), -1);
    assert_int_equal(kit_offset(kit, "g", "t", 2), -1);
    kq_topic_unref(topic);
    kit_reopen(kit);
    assert_int_equal(kit_offset(kit, "g", "t", 0), 6);
    assert_int_equal(kit_offset(kit, "g", "t", 1), -1);
    assert_int_equal(kit_offset(kit, "g", "t", 2), -1);
}

/* Who still has the old one open takes nothing from the new one. */
static void of_a_topic_that_is_gone_nothing_is_committed(void **state)
{
    struct kit *kit = *state;
    struct kq_topic *old = set_up(kit);
    assert_int_equal(kit_commit(kit, "g", NULL, old, 0, 5, ""), 0);
    kq_topic_ref(old);
    drop_topic(old);
    assert_int_equal(kit_commit(kit, "g", NULL, old, 0, 6, ""), -ESTALE);
    struct kq_topic *topic = ground_topic(&kit->ground, "t", 3);
    assert_int_equal(kit_commit(kit, "g", NULL, topic, 0, 1, ""), 0);
    assert_int_equal(kit_commit(kit, "g", NULL, old, 1, 7, ""), -ESTALE);
    assert_int_equal(kit_offset(kit, "g", "t", 0), 1);
    assert_int_equal(kit_offset(kit, "g", "t", 1), -1);
    kq_topic_unref(old);
    kq_topic_unref(topic);
}

/* --- Lag --- */

static void the_lag_is_what_was_not_committed(void **state)
{
    struct kit *kit = *state;
    struct kq_topic *topic = set_up(kit);
    struct kq_access access = ground_access(topic, 0);
    struct kq_log_appended appended;
    struct kq_group *group;
    struct kq_buf metrics = {0};
    for (int i = 0; i < 10; i++)
        assert_int_equal(ground_append(&access, "x\n", &appended), 0);
    assert_int_equal(kit_create_group(kit, "g\"1"), 0);
    assert_int_equal(kq_group_get(kit_broker(kit), &kit_caller, KQ_STR("g\"1"), 0, &group), 0);
    assert_int_equal(kq_group_lag(group, access.partition), 10);
    kit_commit(kit, "g\"1", NULL, topic, 0, 4, "");
    assert_int_equal(kq_group_lag(group, access.partition), 6);
    assert_int_equal(kq_groups_metrics(kit_broker(kit), &metrics), 0);
    assert_int_equal(kq_buf_append(&metrics, "", 1), 0);
    assert_non_null(strstr((char *)metrics.data,
                           "kqfs_group_lag{group=\"g\\\"1\",topic=\"t\",partition=\"0\"} 6\n"));
    assert_non_null(strstr((char *)metrics.data, "kqfs_groups{state=\"Empty\"} 1\n"));
    kq_buf_release(&metrics);
    assert_int_equal(kq_delete_records(access.partition, &kit_caller, 7), 0);
    assert_int_equal(kq_group_lag(group, access.partition), 3);
    kit_commit(kit, "g\"1", NULL, topic, 0, 99, ""); /* beyond the end, as after a loss */
    assert_int_equal(kq_group_lag(group, access.partition), 0);
    kq_group_unref(group);
    kq_topic_unref(topic);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, kit_setup, kit_teardown)
    const struct CMUnitTest tests[] = {
        TEST(what_nobody_has_joined_for_is_committed),
        TEST(all_that_is_committed_can_be_listed),
        TEST(members_commit_in_their_generation_only),
        TEST(a_commit_is_a_sign_of_life),
        TEST(what_cannot_be_kept_is_refused_alone),
        TEST(a_commit_that_cannot_be_written_changes_nothing),
        TEST(with_flushing_a_commit_waits_for_the_disk),
        TEST(offsets_and_members_outlive_the_broker),
        TEST(a_static_members_new_id_outlives_the_broker),
        TEST(a_deleted_group_stays_deleted),
        TEST(a_tombstone_of_the_group_alone_leaves_its_offsets),
        TEST(a_group_with_many_offsets_is_deleted),
        TEST(single_offsets_are_deleted),
        TEST(offsets_expire_once_nobody_uses_the_group),
        TEST(what_is_subscribed_does_not_expire),
        TEST(a_group_made_on_the_mount_stays_without_offsets),
        TEST(a_topic_takes_its_offsets_with_it),
        TEST(a_topic_of_the_same_name_begins_without_offsets),
        TEST(a_commit_on_its_way_goes_with_its_topic),
        TEST(a_commit_on_its_way_is_none_of_a_new_topics),
        TEST(of_a_topic_that_is_gone_nothing_is_committed),
        TEST(the_lag_is_what_was_not_committed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
