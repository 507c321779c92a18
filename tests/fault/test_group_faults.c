/* Groups, with each disk and memory operation of a request failing once: what was refused has not
 * happened, what was answered is there after a restart, and whoever waits is told, once. */
#include "tests/unit/group_kit.h"

#define DISK (~0u & ~KQ_FAULT_MEMORY)
#define LONG_MS 610000 /* by then a member whose client knows nothing of it is gone */
#define SESSION_MS 300000
#define RETRY_MS 10000 /* what could not be loaded is tried again */

/* One kind of request for what prepare() made. */
struct change {
    const char *name;
    int (*make)(struct kit *kit);
    /* Fails the test unless the state is wholly as before or wholly as after. Returns which. */
    bool (*is_made)(struct kit *kit);
};

static const struct kit_join static_join = {.group = "static", .instance = "i"};
static struct kit_member joined; /* by the last join that succeeded */
static struct kit_member before; /* the static member, as prepare() made it */

static struct kit *open_kit(bool flushing)
{
    void *state;
    kit_setup(&state);
    struct kit *kit = state;
    kit->ground.options.groups.initial_rebalance_delay_ms = 0;
    kit->ground.options.groups.offsets_partitions = 2;
    kit->ground.options.groups.offsets_check_ms = INT64_C(1) << 40; /* nothing goes by itself */
    kit_open(kit);
    struct kq_topic *offsets = ground_find(&kit->ground, KQ_GROUPS_TOPIC);
    if (flushing)
        assert_int_equal(kq_topic_set_config(offsets, &kit_caller, "flush.messages", "1"), 0);
    kq_topic_unref(offsets);
    return kit;
}

static int commit(struct kit *kit, const char *group, int32_t partition, int64_t offset,
                  const char *metadata)
{
    struct kq_topic *topic = ground_find(&kit->ground, "t");
    int r = kit_commit(kit, group, NULL, topic, partition, offset, metadata);
    kq_topic_unref(topic);
    return r;
}

static struct kit *prepare(bool flushing)
{
    struct kit *kit = open_kit(flushing);
    kq_topic_unref(ground_topic(&kit->ground, "t", 3));
    assert_int_equal(commit(kit, "g", 0, 1, "old"), 0);
    assert_int_equal(commit(kit, "g", 1, 2, ""), 0);
    kit_make_group(kit, &static_join, 1, &before);
    kit_settle(kit);
    return kit;
}

static void remove_kit(struct kit *kit)
{
    void *state = kit;
    kit_teardown(&state);
}

/* Is there a group, and if so with this owner? */
static bool belongs_to(struct kit *kit, const char *name, uid_t uid)
{
    struct kq_group *group;
    struct kq_attributes attributes;
    if (kq_group_get(kit_broker(kit), &kit_caller, kq_str_of(name), 0, &group) != 0)
        return false;
    kq_group_attributes_peek(kit_broker(kit), group, &attributes);
    kq_group_unref(group);
    return attributes.uid == uid;
}

/* --- Offsets --- */

static int commit_more(struct kit *kit)
{
    return commit(kit, "g", 0, 5, "new");
}

static bool is_more_committed(struct kit *kit)
{
    struct kq_group *group;
    struct kq_group_offset offset;
    struct kq_arena arena = {0};
    assert_int_equal(kit_offset(kit, "g", "t", 1), 2);
    assert_int_equal(kq_group_get(kit_broker(kit), &kit_caller, KQ_STR("g"), 0, &group), 0);
    assert_int_equal(kq_group_offset_get(group, KQ_STR("t"), 0, &arena, &offset), 0);
    bool made = offset.offset == 5;
    assert_int_equal(offset.offset, made ? 5 : 1);
    assert_true(kq_str_is(offset.metadata, made ? KQ_STR("new") : KQ_STR("old")));
    kq_arena_release(&arena);
    kq_group_unref(group);
    return made;
}

static int commit_first(struct kit *kit)
{
    return commit(kit, "new", 2, 3, "first");
}

static bool is_first_committed(struct kit *kit)
{
    int64_t offset = kit_offset(kit, "new", "t", 2);
    assert_true(offset == 3 || offset == -1);
    assert_true(offset == -1 || belongs_to(kit, "new", kit_caller.uid));
    return offset == 3;
}

static int delete_offset(struct kit *kit)
{
    struct kit_change change;
    struct kq_group_partition partition = {.topic = KQ_STR("t"), .partition = 0};
    kit_change_init(&change);
    int r = kq_group_delete_offsets(kit_broker(kit), &kit_caller, KQ_STR("g"), &partition, 1,
                                    &change.change);
    return kit_await_change(&change, r);
}

static bool is_offset_deleted(struct kit *kit)
{
    assert_int_equal(kit_offset(kit, "g", "t", 1), 2);
    int64_t offset = kit_offset(kit, "g", "t", 0);
    assert_true(offset == 1 || offset == -1);
    return offset == -1;
}

/* --- Groups --- */

static int create(struct kit *kit)
{
    return kit_create_group(kit, "made");
}

static bool is_created(struct kit *kit)
{
    bool there = kit_state(kit, "made") != KQ_GROUP_DEAD;
    assert_int_equal(there, belongs_to(kit, "made", 1000));
    return there;
}

static int delete (struct kit *kit)
{
    return kit_delete_group(kit, "g");
}

static bool is_deleted(struct kit *kit)
{
    bool deleted = kit_state(kit, "g") == KQ_GROUP_DEAD;
    assert_int_equal(kit_offset(kit, "g", "t", 0), deleted ? -1 : 1);
    assert_int_equal(kit_offset(kit, "g", "t", 1), deleted ? -1 : 2);
    return deleted;
}

static int give_away(struct kit *kit)
{
    const struct kq_attributes others = {.uid = 42, .gid = 43, .mode = 0711};
    struct kq_group *group;
    struct kit_change change;
    assert_int_equal(kq_group_get(kit_broker(kit), &kit_caller, KQ_STR("g"), 0, &group), 0);
    kit_change_init(&change);
    int r = kq_group_attributes_set(kit_broker(kit), group, &kit_caller, &others, &change.change);
    r = kit_await_change(&change, r);
    kq_group_unref(group);
    return r;
}

static bool is_given_away(struct kit *kit)
{
    assert_int_equal(kit_offset(kit, "g", "t", 0), 1);
    bool given = belongs_to(kit, "g", 42);
    assert_true(given || belongs_to(kit, "g", kit_caller.uid));
    return given;
}

static const struct change changes[] = {
    {"commit", commit_more, is_more_committed},
    {"commit for a new group", commit_first, is_first_committed},
    {"delete an offset", delete_offset, is_offset_deleted},
    {"create", create, is_created},
    {"delete", delete, is_deleted},
    {"change the owner", give_away, is_given_away},
};

/* What was refused must not have happened; a restart does not change what holds. */
static void check(struct kit *kit, const struct change *change, int r)
{
    bool made = change->is_made(kit);
    assert_int_equal(made, r == 0);
    kit_reopen(kit);
    assert_int_equal(change->is_made(kit), made);
    if (!made) {
        assert_int_equal(change->make(kit), 0);
        assert_true(change->is_made(kit));
    }
}

static bool fail_nth(const struct change *change, unsigned kinds, long nth, int error)
{
    struct kit *kit = prepare(false);
    kq_fault_arm(kinds, nth, error, false);
    int r = change->make(kit);
    bool delivered = kq_fault_disarm();
    check(kit, change, r);
    remove_kit(kit);
    return delivered;
}

static void fail_each(unsigned kinds, int error)
{
    for (size_t i = 0; i < kq_array_size(changes); i++) {
        long nth = 1;
        while (fail_nth(&changes[i], kinds, nth, error))
            nth++;
        print_message("%s: %ld operations failed in turn\n", changes[i].name, nth - 1);
        assert_true(nth > 1);
    }
}

static void a_change_that_fails_leaves_the_old_state(void **state)
{
    fail_each(DISK, EIO);
}

static void a_change_without_memory_leaves_the_old_state(void **state)
{
    fail_each(KQ_FAULT_MEMORY, ENOMEM);
}

/* Whoever waits is told that it failed. After a restart the change may be there: the disk had it.
 */
static void what_cannot_be_synced_is_refused(void **state)
{
    for (size_t i = 0; i < kq_array_size(changes); i++) {
        struct kit *kit = prepare(true);
        kq_fault_arm(KQ_FAULT_SYNC, 1, EIO, true);
        int r = changes[i].make(kit);
        assert_true(kq_fault_disarm());
        assert_true(r < 0);
        assert_false(changes[i].is_made(kit));
        kit_reopen(kit);
        if (!changes[i].is_made(kit))
            assert_int_equal(changes[i].make(kit), 0);
        assert_true(changes[i].is_made(kit));
        remove_kit(kit);
    }
}

/* --- Members --- */

static int take(struct kit_wait *wait, struct kit_member *ret)
{
    int r = kit_await(wait);
    if (r == 0 || r == KQ_GROUP_MEMBER_ID_REQUIRED) {
        assert_non_null(wait->wait.answer);
        kit_text(wait->wait.answer->member_id, ret->id);
        ret->generation = wait->wait.answer->generation;
    } else {
        assert_null(wait->wait.answer);
    }
    kit_forget(wait);
    return r;
}

/* Join, and once more if an id is asked for, and sync. */
static int become_member(struct kit *kit, const struct kit_join *as)
{
    static struct kit_wait wait;
    struct kit_join join = *as;
    struct kit_member member;
    kit_join(kit, &join, &wait);
    int r = take(&wait, &member);
    if (r == KQ_GROUP_MEMBER_ID_REQUIRED) {
        join.member = member.id;
        kit_join(kit, &join, &wait);
        r = take(&wait, &member);
    }
    if (r != 0)
        return r;
    kit_sync(kit, join.group, member.id, member.generation, NULL, 0, &wait);
    r = kit_await(&wait);
    assert_int_equal(r == 0, wait.wait.answer != NULL);
    kit_forget(&wait);
    if (r == 0)
        joined = member;
    return r;
}

static bool is_member(struct kit *kit, const char *group)
{
    return kit_state(kit, group) == KQ_GROUP_STABLE &&
           kit_heartbeat(kit, group, joined.id, joined.generation) == 0;
}

static int join_new(struct kit *kit)
{
    return become_member(kit, &(struct kit_join){.group = "joined", .session_ms = SESSION_MS});
}

static bool has_joined(struct kit *kit)
{
    return is_member(kit, "joined");
}

static int join_in_place(struct kit *kit)
{
    return become_member(kit, &static_join);
}

static bool has_replaced(struct kit *kit)
{
    return strcmp(joined.id, before.id) != 0 && is_member(kit, "static");
}

static int leave(struct kit *kit)
{
    return kit_leave(kit, "static", before.id);
}

static bool has_left(struct kit *kit)
{
    return kit_state(kit, "static") != KQ_GROUP_STABLE;
}

static const struct change memberships[] = {
    {"join", join_new, has_joined},
    {"join in a static member's place", join_in_place, has_replaced},
    {"leave", leave, has_left},
};

/* A client that was told of a failure asks again, until it is a member; the one that the broker may
 * believe to be there as well is gone after a while. */
static bool fail_nth_joining(const struct change *change, unsigned kinds, long nth, int error)
{
    struct kit *kit = prepare(false);
    kq_fault_arm(kinds, nth, error, false);
    int r = change->make(kit);
    kit_settle(kit);
    bool delivered = kq_fault_disarm();
    assert_true(r != 0 || change->is_made(kit));
    if (r != 0) {
        kit_pass_ms(kit, LONG_MS);
        kit_pass_ms(kit, LONG_MS);
        r = change->make(kit);
        assert_true(r == 0 || (change->make == leave && r == KQ_GROUP_UNKNOWN_MEMBER));
        assert_true(change->is_made(kit));
    }
    kit_settle(kit);
    kit_reopen(kit);
    assert_true(change->is_made(kit) || change->make == leave);
    assert_int_equal(kit_offset(kit, "g", "t", 0), 1);
    remove_kit(kit);
    return delivered;
}

static void a_join_that_fails_is_answered_and_can_be_repeated(void **state)
{
    for (size_t i = 0; i < kq_array_size(memberships); i++) {
        long disk = 1, memory = 1;
        while (fail_nth_joining(&memberships[i], DISK, disk, EIO))
            disk++;
        while (fail_nth_joining(&memberships[i], KQ_FAULT_MEMORY, memory, ENOMEM))
            memory++;
        print_message("%s: %ld disk operations and %ld allocations failed in turn\n",
                      memberships[i].name, disk - 1, memory - 1);
        assert_true(disk > 1);
        assert_true(memory > 1);
    }
}

/* --- Starting --- */

static void everything_holds(struct kit *kit)
{
    assert_true(is_more_committed(kit));
    assert_true(is_first_committed(kit));
    assert_true(is_created(kit));
    assert_true(has_joined(kit));
    assert_true(belongs_to(kit, "g", 42));
}

static struct kit *prepare_all(void)
{
    struct kit *kit = prepare(false);
    assert_int_equal(commit_more(kit), 0);
    assert_int_equal(commit_first(kit), 0);
    assert_int_equal(create(kit), 0);
    assert_int_equal(join_new(kit), 0);
    struct kq_topic *topic = ground_find(&kit->ground, "t");
    assert_int_equal(kit_commit(kit, "joined", &joined, topic, 0, 8, "member's"), 0);
    kq_topic_unref(topic);
    assert_int_equal(commit(kit, "gone", 0, 1, ""), 0);
    assert_int_equal(kit_delete_group(kit, "gone"), 0);
    assert_int_equal(give_away(kit), 0);
    return kit;
}

/* What could not be loaded is loaded in the end. */
static void await_loaded(struct kit *kit)
{
    while (kq_groups_await_loaded(kit_broker(kit)) != 0)
        kit_pass_ms(kit, RETRY_MS);
}

static void start_with_failures(unsigned kinds, int error, bool clean)
{
    struct kit *kit = prepare_all();
    ground_close(&kit->ground);
    bool delivered = true;
    long nth;
    for (nth = 1; delivered; nth++) {
        if (!clean)
            unlink(ground_path(&kit->ground, ".kafka_cleanshutdown"));
        kq_fault_arm(kinds, nth, error, false);
        int r = kq_broker_open(&kit->ground.options, &kit->ground.broker);
        if (r == 0)
            kq_groups_await_loaded(kit_broker(kit));
        delivered = kq_fault_disarm();
        if (r != 0)
            ground_open(&kit->ground);
        await_loaded(kit);
        everything_holds(kit);
        ground_close(&kit->ground);
    }
    print_message("%ld operations failed in turn\n", nth - 2);
    remove_kit(kit);
}

static void a_start_that_fails_forgets_nothing(void **state)
{
    start_with_failures(DISK, EIO, true);
    start_with_failures(DISK, EIO, false);
    start_with_failures(KQ_FAULT_MEMORY, ENOMEM, true);
    start_with_failures(KQ_FAULT_MEMORY, ENOMEM, false);
}

/* Thousands of syncs, none of which needs a real disk. */
int main(void)
{
    if (!getenv("TMPDIR") && access("/dev/shm", W_OK) == 0)
        setenv("TMPDIR", "/dev/shm", 1);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_change_that_fails_leaves_the_old_state),
        cmocka_unit_test(a_change_without_memory_leaves_the_old_state),
        cmocka_unit_test(what_cannot_be_synced_is_refused),
        cmocka_unit_test(a_join_that_fails_is_answered_and_can_be_repeated),
        cmocka_unit_test(a_start_that_fails_forgets_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
