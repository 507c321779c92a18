/* Groups of a broker in a directory of its own, and clients of theirs whose clock the test drives.
 */
#pragma once

#include "broker/base/clock.h"
#include "broker/base/fault.h"
#include "broker/group.h"
#include "tests/unit/ground.h"

struct kit {
    struct ground ground;
    int64_t shifted_ms;
};

/* One who waits for JoinGroup or SyncGroup. */
struct kit_wait {
    struct kq_group_wait wait;
    pthread_mutex_t lock;
    pthread_cond_t told;
    int calls;  /* of DONE */
    int result; /* of the request itself */
};

struct kit_change {
    struct kq_group_change change;
    pthread_mutex_t lock;
    pthread_cond_t told;
    int calls;
};

static const struct kq_caller kit_caller = {.uid = 1000, .gid = 1000};

static inline int kit_setup(void **state)
{
    static struct kit kit;
    kit = (struct kit){0};
    ground_setup(&kit.ground);
    kq_group_options_defaults(&kit.ground.options.groups);
    kit.ground.options.groups.offsets_partitions = 4;
    kit.ground.options.groups.min_session_timeout_ms = 1000;
    *state = &kit;
    return 0;
}

static inline int kit_teardown(void **state)
{
    struct kit *kit = *state;
    ground_remove(&kit->ground);
    kq_clock_shift_ms(0);
    return 0;
}

static inline struct kq_broker *kit_broker(struct kit *kit)
{
    return kit->ground.broker;
}

/* Everything there was in the log is in memory. */
static inline void kit_await_loaded(struct kit *kit)
{
    while (!kq_groups_loaded(kit_broker(kit)))
        usleep(1000);
}

static inline void kit_open(struct kit *kit)
{
    ground_open(&kit->ground);
    assert_int_equal(kq_groups_prepare(kit_broker(kit), true), 0);
    kit_await_loaded(kit);
}

static inline void kit_reopen(struct kit *kit)
{
    ground_reopen(&kit->ground);
    kit_await_loaded(kit);
}

/* What was queued is durable, and whoever waited for it was told. */
static inline void kit_settle(struct kit *kit)
{
    struct kq_groups *groups = kit_broker(kit)->groups;
    for (int32_t i = 0; i < groups->shard_count; i++)
        kq_group_shard_drain(&groups->shards[i]);
}

/* --- Time --- */

struct kit_poke {
    struct kq_timer timer;
    _Atomic bool seen;
};

static inline void kit_poked(struct kq_timer *timer)
{
    atomic_store(&((struct kit_poke *)timer)->seen, true);
}

static inline void kit_await_poke(struct kq_timers *timers, int64_t at_ns)
{
    struct kit_poke poke = {.timer.expire = kit_poked};
    kq_timers_set(timers, &poke.timer, at_ns);
    while (!atomic_load(&poke.seen))
        sched_yield();
    while (!kq_timers_cancel(timers, &poke.timer))
        sched_yield();
}

/* Everything that is due by now has happened: the first poke wakes the timers' thread, which does
 * not know that the clock was shifted, the second comes behind what is due. */
static inline void kit_run_timers(struct kit *kit)
{
    struct kq_timers *timers = kit_broker(kit)->groups->timers;
    kit_await_poke(timers, 0);
    kit_await_poke(timers, kq_clock_mono_ns());
    kit_settle(kit);
}

static inline void kit_pass_ms(struct kit *kit, int64_t ms)
{
    kit->shifted_ms += ms;
    kq_clock_shift_ms(kit->shifted_ms);
    kit_run_timers(kit);
}

/* For what sets its next deadline when the last has come. */
static inline void kit_pass_slowly_ms(struct kit *kit, int64_t ms)
{
    for (; ms > 0; ms -= 100)
        kit_pass_ms(kit, 100);
}

/* --- Clients --- */

static inline void kit_told(struct kq_group_wait *wait)
{
    struct kit_wait *own = (struct kit_wait *)wait;
    pthread_mutex_lock(&own->lock);
    own->calls++;
    pthread_cond_broadcast(&own->told);
    pthread_mutex_unlock(&own->lock);
}

static inline void kit_wait_init(struct kit_wait *wait)
{
    *wait = (struct kit_wait){.wait.done = kit_told};
    pthread_mutex_init(&wait->lock, NULL);
    pthread_cond_init(&wait->told, NULL);
}

/* The answer's result; the answer itself is freed by kit_forget. */
static inline int kit_await(struct kit_wait *wait)
{
    if (wait->result == KQ_READY)
        return wait->wait.result;
    assert_int_equal(wait->result, 0);
    pthread_mutex_lock(&wait->lock);
    while (wait->calls == 0)
        pthread_cond_wait(&wait->told, &wait->lock);
    pthread_mutex_unlock(&wait->lock);
    return wait->wait.result;
}

static inline bool kit_is_told(struct kit_wait *wait)
{
    pthread_mutex_lock(&wait->lock);
    bool told = wait->result == KQ_READY || wait->calls > 0;
    pthread_mutex_unlock(&wait->lock);
    return told;
}

static inline void kit_forget(struct kit_wait *wait)
{
    if (wait->result == 0) {
        kit_await(wait);
        assert_int_equal(wait->calls, 1);
        kq_group_wait_release(&wait->wait);
    }
    free(wait->wait.answer);
    wait->wait.answer = NULL;
    wait->result = KQ_READY;
}

struct kit_join {
    const char *group, *member, *instance, *client, *type;
    const char *protocols[4], *metadata[4];
    struct kq_bytes raw; /* the first one's metadata, where it has length */
    int32_t session_ms, rebalance_ms;
    bool old; /* JoinGroup 0: no id is asked for */
    bool no_skipping;
};

static inline struct kq_bytes kit_bytes(const char *text)
{
    struct kq_str string = kq_str_of(text ? text : "");
    return (struct kq_bytes){(const uint8_t *)string.data, string.length};
}

static inline struct kq_str kit_or(const char *text, const char *fallback)
{
    return kq_str_of(text ? text : fallback);
}

static inline void kit_join(struct kit *kit, const struct kit_join *from, struct kit_wait *wait)
{
    struct kq_group_protocol protocols[4];
    int32_t count = 0;
    for (; count < 4 && from->protocols[count]; count++)
        protocols[count] = (struct kq_group_protocol){kq_str_of(from->protocols[count]),
                                                      kit_bytes(from->metadata[count])};
    if (from->raw.length > 0)
        protocols[0].metadata = from->raw;
    if (count == 0)
        protocols[count++] = (struct kq_group_protocol){KQ_STR("range"), kit_bytes("subscribed")};
    struct kq_group_join join = {
        .group = kit_or(from->group, "g"),
        .member_id = kit_or(from->member, ""),
        .instance_id = kq_str_of(from->instance),
        .client_id = kit_or(from->client, "client"),
        .client_host = KQ_STR("/127.0.0.1"),
        .protocol_type = kit_or(from->type, "test"),
        .protocols = protocols,
        .protocol_count = count,
        .session_timeout_ms = from->session_ms ? from->session_ms : 10000,
        .rebalance_timeout_ms = from->rebalance_ms ? from->rebalance_ms : 60000,
        .knows_required = !from->old,
        .knows_skipping = !from->no_skipping,
    };
    kit_wait_init(wait);
    wait->result = kq_group_join(kit_broker(kit), &kit_caller, &join, &wait->wait);
}

/* A request's result where it is answered at once. */
static inline int kit_join_now(struct kit *kit, const struct kit_join *from)
{
    static struct kit_wait wait;
    kit_join(kit, from, &wait);
    assert_int_equal(wait.result, KQ_READY);
    int r = wait.wait.result;
    free(wait.wait.answer);
    return r;
}

static inline void kit_sync(struct kit *kit, const char *group, const char *member,
                            int32_t generation, const struct kq_group_assignment *assignments,
                            int32_t count, struct kit_wait *wait)
{
    struct kq_group_sync sync = {
        .group = kq_str_of(group),
        .member_id = kq_str_of(member),
        .instance_id = KQ_STR_NULL,
        .generation = generation,
        .protocol_type = KQ_STR_NULL,
        .protocol_name = KQ_STR_NULL,
        .assignments = assignments,
        .assignment_count = count,
    };
    kit_wait_init(wait);
    wait->result = kq_group_sync(kit_broker(kit), &kit_caller, &sync, &wait->wait);
}

static inline int kit_heartbeat(struct kit *kit, const char *group, const char *member,
                                int32_t generation)
{
    return kq_group_heartbeat(kit_broker(kit), &kit_caller, kq_str_of(group), kq_str_of(member),
                              KQ_STR_NULL, generation);
}

static inline int kit_leave(struct kit *kit, const char *group, const char *member)
{
    struct kq_group_leaving leaving = {.member_id = kq_str_of(member), .instance_id = KQ_STR_NULL};
    int r = kq_group_leave(kit_broker(kit), &kit_caller, kq_str_of(group), &leaving, 1);
    return r ? r : leaving.result;
}

static inline enum kq_group_state kit_state(struct kit *kit, const char *name)
{
    struct kq_group *group;
    if (kq_group_get(kit_broker(kit), &kit_caller, kq_str_of(name), 0, &group) != 0)
        return KQ_GROUP_DEAD;
    kq_group_lock(group);
    enum kq_group_state state = group->state;
    kq_group_unlock(group);
    kq_group_unref(group);
    return state;
}

static inline void kit_text(struct kq_str from, char ret[128])
{
    assert_in_range(from.length, 0, 127);
    memcpy(ret, from.data, (size_t)from.length);
    ret[from.length] = 0;
}

/* --- Members that are through with a generation --- */

struct kit_member {
    char id[128];
    int32_t generation;
    bool leads;
};

/* The answer to a join that succeeded. */
static inline void kit_take(struct kit_wait *wait, struct kit_member *ret)
{
    assert_int_equal(kit_await(wait), 0);
    kit_text(wait->wait.answer->member_id, ret->id);
    ret->generation = wait->wait.answer->generation;
    ret->leads = kq_str_is(wait->wait.answer->leader, wait->wait.answer->member_id);
    kit_forget(wait);
}

/* A group of COUNT members in its first generation, which is stable; the first leads. */
static inline void kit_make_group(struct kit *kit, const struct kit_join *join, int count,
                                  struct kit_member *ret)
{
    static struct kit_wait waits[8];
    struct kit_join old = *join;
    old.old = true;
    for (int i = 0; i < count; i++)
        kit_join(kit, &old, &waits[i]);
    kit_pass_ms(kit, 3000); /* the initial delay, and what it is extended by */
    kit_pass_ms(kit, 3000);
    for (int i = 0; i < count; i++)
        kit_take(&waits[i], &ret[i]);
    for (int i = count; i-- > 0;)
        kit_sync(kit, join->group ? join->group : "g", ret[i].id, ret[i].generation, NULL, 0,
                 &waits[i]);
    for (int i = 0; i < count; i++) {
        assert_int_equal(kit_await(&waits[i]), 0);
        kit_forget(&waits[i]);
    }
}

/* --- Offsets --- */

static inline void kit_changed(struct kq_group_change *change)
{
    struct kit_change *own = (struct kit_change *)change;
    pthread_mutex_lock(&own->lock);
    own->calls++;
    pthread_cond_broadcast(&own->told);
    pthread_mutex_unlock(&own->lock);
}

static inline void kit_change_init(struct kit_change *change)
{
    *change = (struct kit_change){.change.done = kit_changed};
    pthread_mutex_init(&change->lock, NULL);
    pthread_cond_init(&change->told, NULL);
}

/* R is what the call returned. */
static inline int kit_await_change(struct kit_change *change, int r)
{
    if (r != 0)
        return r == KQ_READY ? 0 : r;
    pthread_mutex_lock(&change->lock);
    while (change->calls == 0)
        pthread_cond_wait(&change->told, &change->lock);
    pthread_mutex_unlock(&change->lock);
    assert_int_equal(change->calls, 1);
    return change->change.result;
}

struct kit_commit {
    struct kq_group_commit commit; /* its change is OWN's */
    struct kit_change own;
};

static inline void kit_committed(struct kq_group_change *change)
{
    struct kit_commit *commit =
        (struct kit_commit *)((char *)change - offsetof(struct kit_commit, commit.change));
    commit->own.change.result = change->result;
    kit_changed(&commit->own.change);
}

/* Commits OFFSET of partition NUMBER of TOPIC as MEMBER (NULL: as nobody). */
static inline int kit_commit(struct kit *kit, const char *group, const struct kit_member *member,
                             struct kq_topic *topic, int32_t number, int64_t offset,
                             const char *metadata)
{
    struct kq_group_committed committed = {.topic = topic,
                                           .partition = number,
                                           .leader_epoch = 3,
                                           .offset = offset,
                                           .metadata = kq_str_of(metadata)};
    struct kit_commit commit = {.commit = {.change.done = kit_committed,
                                           .group = kq_str_of(group),
                                           .member_id = kq_str_of(member ? member->id : ""),
                                           .instance_id = KQ_STR_NULL,
                                           .generation = member ? member->generation : -1,
                                           .knows_not_found = true,
                                           .retention_ms = -1,
                                           .offsets = &committed,
                                           .offset_count = 1}};
    kit_change_init(&commit.own);
    int r = kq_group_commit(kit_broker(kit), &kit_caller, &commit.commit);
    r = kit_await_change(&commit.own, r);
    return r ? r : committed.result;
}

/* The committed offset; -1: none, or no such group. */
static inline int64_t kit_offset(struct kit *kit, const char *name, const char *topic,
                                 int32_t number)
{
    struct kq_group *group;
    struct kq_group_offset offset;
    if (kq_group_get(kit_broker(kit), &kit_caller, kq_str_of(name), 0, &group) != 0)
        return -1;
    assert_int_equal(kq_group_offset_get(group, kq_str_of(topic), number, NULL, &offset), 0);
    kq_group_unref(group);
    return offset.offset;
}

static inline int kit_delete_group(struct kit *kit, const char *name)
{
    struct kit_change change;
    kit_change_init(&change);
    int r = kq_group_delete(kit_broker(kit), &kit_caller, kq_str_of(name), &change.change);
    return kit_await_change(&change, r);
}

static inline int kit_create_group(struct kit *kit, const char *name)
{
    struct kit_change change;
    struct kq_attributes attributes = {.uid = 1000, .gid = 100, .mode = 0750};
    kit_change_init(&change);
    int r =
        kq_group_create(kit_broker(kit), &kit_caller, kq_str_of(name), &attributes, &change.change);
    return kit_await_change(&change, r);
}
