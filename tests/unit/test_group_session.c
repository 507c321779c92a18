/* SyncGroup, Heartbeat and LeaveGroup in every state; sessions that end. */
#include "tests/unit/group_kit.h"

/* A group whose COUNT members know their generation and have not sent SyncGroup. */
static void make_joined(struct kit *kit, const struct kit_join *join, int count,
                        struct kit_member *ret)
{
    static struct kit_wait waits[4];
    struct kit_join old = *join;
    old.old = true;
    for (int i = 0; i < count; i++)
        kit_join(kit, &old, &waits[i]);
    kit_pass_ms(kit, 3000);
    kit_pass_ms(kit, 3000);
    for (int i = 0; i < count; i++)
        kit_take(&waits[i], &ret[i]);
    assert_int_equal(kit_state(kit, "g"), KQ_GROUP_COMPLETING_REBALANCE);
}

static int sync_now(struct kit *kit, const char *member, int32_t generation)
{
    static struct kit_wait wait;
    kit_sync(kit, "g", member, generation, NULL, 0, &wait);
    int r = kit_await(&wait);
    kit_forget(&wait);
    return r;
}

static int sync_saying(struct kit *kit, const char *group, const char *member, const char *type,
                       const char *protocol)
{
    static struct kit_wait wait;
    struct kq_group_sync sync = {
        .group = kq_str_of(group),
        .member_id = kq_str_of(member),
        .instance_id = KQ_STR_NULL,
        .generation = 1,
        .protocol_type = kq_str_of(type),
        .protocol_name = kq_str_of(protocol),
    };
    kit_wait_init(&wait);
    wait.result = kq_group_sync(kit_broker(kit), &kit_caller, &sync, &wait.wait);
    int r = kit_await(&wait);
    kit_forget(&wait);
    return r;
}

/* --- SyncGroup --- */

static void all_get_what_the_leader_assigned(void **state)
{
    struct kit *kit = *state;
    struct kit_member members[3];
    static struct kit_wait waits[3];
    kit_open(kit);
    make_joined(kit, &(struct kit_join){0}, 3, members);
    struct kq_group_assignment assignments[] = {
        {kq_str_of(members[0].id), kit_bytes("first")},
        {kq_str_of(members[1].id), kit_bytes("second")},
        {KQ_STR("stranger"), kit_bytes("none")},
    };
    kit_sync(kit, "g", members[1].id, 1, NULL, 0, &waits[1]);
    kit_sync(kit, "g", members[2].id, 1, NULL, 0, &waits[2]);
    assert_false(kit_is_told(&waits[1]));
    kit_sync(kit, "g", members[0].id, 1, assignments, 3, &waits[0]);
    static const char *const wanted[] = {"first", "second", ""};
    for (int i = 0; i < 3; i++) {
        assert_int_equal(kit_await(&waits[i]), 0);
        const struct kq_group_answer *answer = waits[i].wait.answer;
        assert_int_equal(answer->assignment.length > 0 ? answer->assignment.length : 0,
                         strlen(wanted[i]));
        assert_memory_equal(answer->assignment.data ? answer->assignment.data : (const uint8_t *)"",
                            wanted[i], strlen(wanted[i]));
        assert_true(kq_str_is(answer->protocol_name, KQ_STR("range")));
        kit_forget(&waits[i]);
    }
    assert_int_equal(kit_state(kit, "g"), KQ_GROUP_STABLE);
    /* One who missed it gets it again. */
    kit_sync(kit, "g", members[1].id, 1, NULL, 0, &waits[1]);
    assert_int_equal(waits[1].result, KQ_READY);
    assert_memory_equal(waits[1].wait.answer->assignment.data, "second", 6);
    kit_forget(&waits[1]);
}

static void a_sync_that_does_not_fit_is_refused(void **state)
{
    struct kit *kit = *state;
    struct kit_member members[2];
    static struct kit_wait wait;
    kit_open(kit);
    assert_int_equal(sync_now(kit, "who", 1), KQ_GROUP_UNKNOWN_MEMBER); /* no group */
    make_joined(kit, &(struct kit_join){0}, 2, members);
    assert_int_equal(sync_now(kit, "who", 1), KQ_GROUP_UNKNOWN_MEMBER);
    assert_int_equal(sync_now(kit, members[0].id, 0), KQ_GROUP_ILLEGAL_GENERATION);
    assert_int_equal(sync_now(kit, members[0].id, 2), KQ_GROUP_ILLEGAL_GENERATION);
    assert_int_equal(sync_saying(kit, "g", members[0].id, "other", NULL),
                     KQ_GROUP_INCONSISTENT_PROTOCOL);
    assert_int_equal(sync_saying(kit, "g", members[0].id, NULL, "sticky"),
                     KQ_GROUP_INCONSISTENT_PROTOCOL);
    assert_int_equal(sync_saying(kit, "", members[0].id, NULL, NULL), KQ_GROUP_INVALID_ID);
    kit_join(kit, &(struct kit_join){.old = true}, &wait); /* PreparingRebalance */
    assert_int_equal(sync_now(kit, members[0].id, 1), KQ_GROUP_REBALANCE_IN_PROGRESS);
    assert_int_equal(kit_leave(kit, "g", members[0].id), 0);
    assert_int_equal(kit_leave(kit, "g", members[1].id), 0);
    kit_forget(&wait);
}

static void a_rebalance_sends_those_who_wait_for_the_leader_back(void **state)
{
    struct kit *kit = *state;
    struct kit_member members[2];
    static struct kit_wait follower, third;
    kit_open(kit);
    make_joined(kit, &(struct kit_join){0}, 2, members);
    kit_sync(kit, "g", members[1].id, 1, NULL, 0, &follower);
    kit_join(kit, &(struct kit_join){.old = true}, &third);
    assert_int_equal(kit_await(&follower), KQ_GROUP_REBALANCE_IN_PROGRESS);
    kit_forget(&follower);
    kit_leave(kit, "g", members[0].id);
    kit_leave(kit, "g", members[1].id);
    kit_forget(&third);
}

static void who_sends_no_sync_in_time_is_out(void **state)
{
    struct kit *kit = *state;
    struct kit_member members[2];
    static struct kit_wait wait;
    kit_open(kit);
    make_joined(kit, &(struct kit_join){.rebalance_ms = 20000, .session_ms = 60000}, 2, members);
    kit_sync(kit, "g", members[1].id, 1, NULL, 0, &wait);
    kit_pass_ms(kit, 19900);
    assert_false(kit_is_told(&wait));
    kit_pass_ms(kit, 100);
    assert_int_equal(kit_await(&wait), KQ_GROUP_REBALANCE_IN_PROGRESS);
    kit_forget(&wait);
    assert_int_equal(kit_heartbeat(kit, "g", members[0].id, 1), KQ_GROUP_UNKNOWN_MEMBER);
    kit_join(kit, &(struct kit_join){.member = members[1].id}, &wait);
    kit_take(&wait, &members[1]);
    assert_true(members[1].leads);
}

/* Also one who has its assignment must be asked for: KAFKA-9752. */
static void who_sends_no_sync_although_the_group_is_stable_is_out(void **state)
{
    struct kit *kit = *state;
    struct kit_member members[2];
    kit_open(kit);
    make_joined(kit, &(struct kit_join){.rebalance_ms = 20000, .session_ms = 60000}, 2, members);
    assert_int_equal(sync_now(kit, members[0].id, 1), 0);
    assert_int_equal(kit_state(kit, "g"), KQ_GROUP_STABLE);
    kit_pass_ms(kit, 20000);
    assert_int_equal(kit_state(kit, "g"), KQ_GROUP_PREPARING_REBALANCE);
    assert_int_equal(kit_heartbeat(kit, "g", members[1].id, 1), KQ_GROUP_UNKNOWN_MEMBER);
    assert_int_equal(kit_heartbeat(kit, "g", members[0].id, 1), KQ_GROUP_REBALANCE_IN_PROGRESS);
}

static void an_assignment_too_large_for_the_log_is_told(void **state)
{
    struct kit *kit = *state;
    struct kit_member member;
    static struct kit_wait wait;
    static char large[1100000];
    kit->ground.options.groups.max_metadata_bytes = 2 << 20;
    kit_open(kit);
    make_joined(kit, &(struct kit_join){0}, 1, &member);
    memset(large, 'x', sizeof(large) - 1);
    struct kq_group_assignment assignment = {kq_str_of(member.id), kit_bytes(large)};
    kit_sync(kit, "g", member.id, 1, &assignment, 1, &wait);
    assert_int_equal(kit_await(&wait), KQ_GROUP_COMMIT_LARGE);
    kit_forget(&wait);
    assert_int_equal(kit_state(kit, "g"), KQ_GROUP_PREPARING_REBALANCE);
}

static void what_cannot_be_written_is_not_handed_out(void **state)
{
    struct kit *kit = *state;
    struct kit_member member;
    static struct kit_wait wait;
    kit_open(kit);
    make_joined(kit, &(struct kit_join){0}, 1, &member);
    kq_fault_arm(KQ_FAULT_WRITE, 1, ENOSPC, true);
    kit_sync(kit, "g", member.id, 1, NULL, 0, &wait);
    assert_int_equal(kit_await(&wait), KQ_GROUP_NOT_AVAILABLE);
    assert_true(kq_fault_disarm());
    kit_forget(&wait);
    assert_non_null(strstr(said, "No space left"));
    assert_int_equal(kit_state(kit, "g"), KQ_GROUP_PREPARING_REBALANCE);
    kit_join(kit, &(struct kit_join){.member = member.id}, &wait);
    kit_take(&wait, &member);
    assert_int_equal(sync_now(kit, member.id, 2), 0);
    assert_int_equal(kit_state(kit, "g"), KQ_GROUP_STABLE);
}

/* --- Heartbeat --- */

static void a_heartbeat_tells_the_state(void **state)
{
    struct kit *kit = *state;
    struct kit_member members[2];
    static struct kit_wait wait;
    kit_open(kit);
    assert_int_equal(kit_heartbeat(kit, "g", "who", 1), KQ_GROUP_UNKNOWN_MEMBER);
    assert_int_equal(kit_heartbeat(kit, "", "who", 1), KQ_GROUP_INVALID_ID);
    make_joined(kit, &(struct kit_join){0}, 2, members);
    assert_int_equal(kit_heartbeat(kit, "g", members[0].id, 1), 0); /* CompletingRebalance */
    assert_int_equal(kit_heartbeat(kit, "g", members[0].id, 0), KQ_GROUP_ILLEGAL_GENERATION);
    assert_int_equal(kit_heartbeat(kit, "g", "who", 1), KQ_GROUP_UNKNOWN_MEMBER);
    assert_int_equal(sync_now(kit, members[0].id, 1), 0);
    assert_int_equal(kit_heartbeat(kit, "g", members[1].id, 1), 0);
    kit_join(kit, &(struct kit_join){.old = true}, &wait);
    assert_int_equal(kit_heartbeat(kit, "g", members[1].id, 1), KQ_GROUP_REBALANCE_IN_PROGRESS);
    kit_leave(kit, "g", members[0].id);
    kit_leave(kit, "g", members[1].id);
    kit_forget(&wait);
}

static void a_member_lives_as_long_as_it_is_heard(void **state)
{
    struct kit *kit = *state;
    struct kit_member members[2];
    kit_open(kit);
    kit_make_group(kit, &(struct kit_join){.session_ms = 6000, .rebalance_ms = 30000}, 2, members);
    for (int i = 0; i < 5; i++) {
        kit_pass_ms(kit, 5000);
        assert_int_equal(kit_heartbeat(kit, "g", members[0].id, 1),
                         i == 0 ? 0 : KQ_GROUP_REBALANCE_IN_PROGRESS);
    }
    assert_int_equal(kit_heartbeat(kit, "g", members[1].id, 1), KQ_GROUP_UNKNOWN_MEMBER);
}

static void a_group_whose_members_all_fell_silent_is_empty(void **state)
{
    struct kit *kit = *state;
    struct kit_member members[3];
    kit_open(kit);
    kit_make_group(kit, &(struct kit_join){.session_ms = 6000}, 3, members);
    kit_pass_ms(kit, 6000);
    assert_int_equal(kit_state(kit, "g"), KQ_GROUP_EMPTY);
    assert_int_equal(kit_heartbeat(kit, "g", members[1].id, 1), KQ_GROUP_UNKNOWN_MEMBER);
}

static void those_who_wait_for_others_do_not_expire(void **state)
{
    struct kit *kit = *state;
    struct kit_member members[2];
    static struct kit_wait wait;
    kit_open(kit);
    kit_make_group(kit, &(struct kit_join){.session_ms = 6000, .rebalance_ms = 50000}, 2, members);
    kit_join(kit,
             &(struct kit_join){.member = members[0].id, .session_ms = 6000, .rebalance_ms = 50000},
             &wait);
    for (int i = 0; i < 8; i++) {
        kit_pass_ms(kit, 5000);
        kit_heartbeat(kit, "g", members[1].id, 1);
    }
    assert_false(kit_is_told(&wait));
    kit_pass_ms(kit, 10000);
    kit_take(&wait, &members[0]);
    kit_sync(kit, "g", members[0].id, 2, NULL, 0, &wait);
    assert_int_equal(kit_await(&wait), 0);
    kit_forget(&wait);
    kit_pass_ms(kit, 6000); /* its session begins again with the answer */
    assert_int_equal(kit_heartbeat(kit, "g", members[0].id, 2), KQ_GROUP_UNKNOWN_MEMBER);
}

/* --- LeaveGroup --- */

static void a_member_that_leaves_begins_a_rebalance(void **state)
{
    struct kit *kit = *state;
    struct kit_member members[2];
    static struct kit_wait wait;
    kit_open(kit);
    assert_int_equal(kit_leave(kit, "g", "who"), KQ_GROUP_UNKNOWN_MEMBER);
    kit_make_group(kit, &(struct kit_join){0}, 2, members);
    assert_int_equal(kit_leave(kit, "g", "who"), KQ_GROUP_UNKNOWN_MEMBER);
    assert_int_equal(kit_state(kit, "g"), KQ_GROUP_STABLE);
    assert_int_equal(kit_leave(kit, "g", members[0].id), 0);
    assert_int_equal(kit_state(kit, "g"), KQ_GROUP_PREPARING_REBALANCE);
    kit_join(kit, &(struct kit_join){.member = members[1].id}, &wait);
    kit_take(&wait, &members[1]);
    assert_true(members[1].leads);
    assert_int_equal(kit_leave(kit, "g", members[1].id), 0);
    assert_int_equal(kit_state(kit, "g"), KQ_GROUP_EMPTY);
}

static void several_members_leave_in_one_request(void **state)
{
    struct kit *kit = *state;
    struct kit_member members[3];
    static struct kit_wait wait;
    kit_open(kit);
    kit_make_group(kit, &(struct kit_join){0}, 3, members);
    kit_join(kit, &(struct kit_join){.member = members[2].id, .protocols = {"range"}}, &wait);
    struct kq_group_leaving leaving[] = {
        {.member_id = kq_str_of(members[0].id), .instance_id = KQ_STR_NULL},
        {.member_id = KQ_STR("who"), .instance_id = KQ_STR_NULL},
        {.member_id = KQ_STR(""), .instance_id = KQ_STR("nobody's")},
        {.member_id = kq_str_of(members[1].id), .instance_id = KQ_STR("nobody's")},
        {.member_id = kq_str_of(members[1].id), .instance_id = KQ_STR_NULL},
    };
    assert_int_equal(kq_group_leave(kit_broker(kit), &kit_caller, KQ_STR("g"), leaving, 5), 0);
    assert_int_equal(leaving[0].result, 0);
    assert_int_equal(leaving[1].result, KQ_GROUP_UNKNOWN_MEMBER);
    assert_int_equal(leaving[2].result, KQ_GROUP_UNKNOWN_MEMBER);
    assert_int_equal(leaving[3].result, KQ_GROUP_UNKNOWN_MEMBER);
    assert_int_equal(leaving[4].result, 0);
    kit_take(&wait, &members[2]);
    assert_int_equal(members[2].generation, 2);
}

static void one_who_leaves_while_it_waits_is_answered(void **state)
{
    struct kit *kit = *state;
    struct kit_member members[2];
    static struct kit_wait joins, syncs;
    kit_open(kit);
    kit_make_group(kit, &(struct kit_join){0}, 2, members);
    kit_join(kit, &(struct kit_join){.member = members[0].id}, &joins);
    assert_int_equal(kit_leave(kit, "g", members[0].id), 0);
    assert_int_equal(kit_await(&joins), KQ_GROUP_UNKNOWN_MEMBER);
    kit_forget(&joins);
    kit_join(kit, &(struct kit_join){.old = true}, &joins);
    kit_join(kit, &(struct kit_join){.member = members[1].id}, &syncs);
    kit_take(&syncs, &members[1]);
    kit_take(&joins, &members[0]);
    kit_sync(kit, "g", members[0].id, 2, NULL, 0, &syncs);
    assert_int_equal(kit_leave(kit, "g", members[0].id), 0);
    assert_int_equal(kit_await(&syncs), KQ_GROUP_UNKNOWN_MEMBER);
    kit_forget(&syncs);
}

static void an_id_nobody_joined_with_is_given_back(void **state)
{
    struct kit *kit = *state;
    static struct kit_wait wait;
    char id[128];
    kit_open(kit);
    kit_join(kit, &(struct kit_join){0}, &wait);
    kit_text(wait.wait.answer->member_id, id);
    kit_forget(&wait);
    assert_int_equal(kit_leave(kit, "g", id), 0);
    assert_int_equal(kit_leave(kit, "g", id), KQ_GROUP_UNKNOWN_MEMBER);
    assert_int_equal(kit_state(kit, "g"), KQ_GROUP_EMPTY);
}

/* --- Static members --- */

static const struct kit_join static_a = {.instance = "a", .rebalance_ms = 20000};
static const struct kit_join static_b = {.instance = "b", .rebalance_ms = 20000};

static void make_static(struct kit *kit, struct kit_member *a, struct kit_member *b)
{
    static struct kit_wait waits[2];
    kit_join(kit, &static_a, &waits[0]);
    kit_join(kit, &static_b, &waits[1]);
    kit_pass_ms(kit, 3000);
    kit_pass_ms(kit, 3000);
    kit_take(&waits[0], a);
    kit_take(&waits[1], b);
    assert_memory_equal(a->id, "a-", 2);
    assert_int_equal(sync_now(kit, a->id, 1), 0);
    assert_int_equal(sync_now(kit, b->id, 1), 0);
}

static int heartbeat_as(struct kit *kit, const char *member, const char *instance,
                        int32_t generation)
{
    return kq_group_heartbeat(kit_broker(kit), &kit_caller, KQ_STR("g"), kq_str_of(member),
                              kq_str_of(instance), generation);
}

static void a_static_member_comes_back_without_a_rebalance(void **state)
{
    struct kit *kit = *state;
    struct kit_member a, b, again;
    static struct kit_wait wait;
    kit_open(kit);
    make_static(kit, &a, &b);
    kit_join(kit, &static_b, &wait);
    kit_take(&wait, &again);
    assert_int_equal(again.generation, 1);
    assert_false(again.leads);
    assert_string_not_equal(again.id, b.id);
    assert_int_equal(kit_state(kit, "g"), KQ_GROUP_STABLE);
    assert_int_equal(heartbeat_as(kit, b.id, "b", 1), KQ_GROUP_FENCED_INSTANCE);
    assert_int_equal(heartbeat_as(kit, again.id, "b", 1), 0);
    assert_int_equal(heartbeat_as(kit, again.id, "c", 1), KQ_GROUP_UNKNOWN_MEMBER);
    assert_int_equal(sync_now(kit, again.id, 1), 0);
}

static void a_static_leader_that_comes_back_keeps_the_assignment(void **state)
{
    struct kit *kit = *state;
    struct kit_member a, b;
    static struct kit_wait wait;
    kit_open(kit);
    make_static(kit, &a, &b);
    kit_join(kit, &static_a, &wait);
    assert_int_equal(kit_await(&wait), 0);
    assert_true(wait.wait.answer->skip_assignment);
    assert_int_equal(wait.wait.answer->member_count, 2);
    assert_true(kq_str_is(wait.wait.answer->leader, wait.wait.answer->member_id));
    kit_forget(&wait);
    /* One that knows nothing of that is not told that it leads. */
    struct kit_join old = static_a;
    old.no_skipping = true;
    kit_join(kit, &old, &wait);
    assert_int_equal(kit_await(&wait), 0);
    assert_false(wait.wait.answer->skip_assignment);
    assert_int_equal(wait.wait.answer->member_count, 0);
    assert_false(kq_str_is(wait.wait.answer->leader, wait.wait.answer->member_id));
    kit_forget(&wait);
}

static void a_static_member_with_another_protocol_begins_a_rebalance(void **state)
{
    struct kit *kit = *state;
    struct kit_member a, again;
    static struct kit_wait wait;
    struct kit_join join = static_a;
    kit_open(kit);
    join.protocols[0] = "x";
    join.protocols[1] = "y";
    kit_join(kit, &join, &wait);
    kit_pass_ms(kit, 3000);
    kit_take(&wait, &a);
    assert_int_equal(sync_now(kit, a.id, 1), 0);
    join.protocols[0] = "y";
    join.protocols[1] = NULL;
    kit_join(kit, &join, &wait);
    kit_take(&wait, &again);
    assert_int_equal(again.generation, 2);
}

static void a_static_member_is_replaced_while_it_waits(void **state)
{
    struct kit *kit = *state;
    struct kit_member a, b, again;
    static struct kit_wait first, second, other;
    kit_open(kit);
    make_static(kit, &a, &b);
    struct kit_join rejoin = static_a;
    rejoin.member = a.id;
    rejoin.protocols[0] = "range";
    rejoin.metadata[0] = "more";
    kit_join(kit, &rejoin, &first); /* PreparingRebalance */
    kit_join(kit, &static_a, &second);
    assert_int_equal(kit_await(&first), KQ_GROUP_FENCED_INSTANCE);
    kit_forget(&first);
    rejoin = static_b;
    rejoin.member = b.id;
    kit_join(kit, &rejoin, &other);
    kit_take(&second, &again);
    kit_take(&other, &b);
    assert_int_equal(again.generation, 2);
    /* CompletingRebalance: what the leader has been told of is out of date. */
    kit_sync(kit, "g", b.id, 2, NULL, 0, &other);
    kit_join(kit, &static_b, &second);
    assert_int_equal(kit_await(&other), KQ_GROUP_FENCED_INSTANCE);
    kit_forget(&other);
    assert_int_equal(kit_state(kit, "g"), KQ_GROUP_PREPARING_REBALANCE);
    rejoin = static_a;
    rejoin.member = again.id;
    kit_join(kit, &rejoin, &first);
    kit_take(&first, &again);
    kit_take(&second, &b);
    assert_int_equal(b.generation, 3);
}

static void a_static_member_is_waited_for_until_its_session_ends(void **state)
{
    struct kit *kit = *state;
    struct kit_member a, b;
    static struct kit_wait wait;
    struct kit_join rejoin = static_a;
    kit_open(kit);
    make_static(kit, &a, &b); /* sessions of 10 s, rebalances of 20 s */
    rejoin.member = a.id;
    kit_join(kit, &rejoin, &wait);
    kit_pass_ms(kit, 9000);
    assert_int_equal(heartbeat_as(kit, b.id, "b", 1), KQ_GROUP_REBALANCE_IN_PROGRESS);
    kit_pass_ms(kit, 9900);
    assert_false(kit_is_told(&wait));
    assert_int_equal(heartbeat_as(kit, b.id, "b", 1), KQ_GROUP_REBALANCE_IN_PROGRESS);
    kit_pass_ms(kit, 1200); /* the rebalance goes on without it, and it stays a member */
    kit_take(&wait, &a);
    assert_int_equal(a.generation, 2);
    assert_int_equal(heartbeat_as(kit, b.id, "b", 2), 0);
}

static void an_administrator_removes_a_static_member(void **state)
{
    struct kit *kit = *state;
    struct kit_member a, b;
    kit_open(kit);
    make_static(kit, &a, &b);
    struct kq_group_leaving leaving[] = {
        {.member_id = KQ_STR("other"), .instance_id = KQ_STR("b")},
        {.member_id = KQ_STR(""), .instance_id = KQ_STR("a")},
    };
    assert_int_equal(kq_group_leave(kit_broker(kit), &kit_caller, KQ_STR("g"), leaving, 2), 0);
    assert_int_equal(leaving[0].result, KQ_GROUP_FENCED_INSTANCE);
    assert_int_equal(leaving[1].result, 0);
    assert_int_equal(heartbeat_as(kit, a.id, "a", 1), KQ_GROUP_UNKNOWN_MEMBER);
}

static void a_static_member_that_cannot_be_written_down_is_told(void **state)
{
    struct kit *kit = *state;
    struct kit_member a, b, again;
    static struct kit_wait wait;
    kit_open(kit);
    make_static(kit, &a, &b);
    kq_fault_arm(KQ_FAULT_WRITE, 1, ENOSPC, true);
    kit_join(kit, &static_b, &wait);
    assert_int_equal(kit_await(&wait), KQ_GROUP_NOT_AVAILABLE);
    assert_true(kq_fault_disarm());
    kit_forget(&wait);
    kit_join(kit, &static_b, &wait);
    kit_take(&wait, &again);
    assert_int_equal(again.generation, 1);
    assert_int_equal(kit_state(kit, "g"), KQ_GROUP_STABLE);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, kit_setup, kit_teardown)
    const struct CMUnitTest tests[] = {
        TEST(all_get_what_the_leader_assigned),
        TEST(a_sync_that_does_not_fit_is_refused),
        TEST(a_rebalance_sends_those_who_wait_for_the_leader_back),
        TEST(who_sends_no_sync_in_time_is_out),
        TEST(who_sends_no_sync_although_the_group_is_stable_is_out),
        TEST(an_assignment_too_large_for_the_log_is_told),
        TEST(what_cannot_be_written_is_not_handed_out),
        TEST(a_heartbeat_tells_the_state),
        TEST(a_member_lives_as_long_as_it_is_heard),
        TEST(a_group_whose_members_all_fell_silent_is_empty),
        TEST(those_who_wait_for_others_do_not_expire),
        TEST(a_member_that_leaves_begins_a_rebalance),
        TEST(several_members_leave_in_one_request),
        TEST(one_who_leaves_while_it_waits_is_answered),
        TEST(an_id_nobody_joined_with_is_given_back),
        TEST(a_static_member_comes_back_without_a_rebalance),
        TEST(a_static_leader_that_comes_back_keeps_the_assignment),
        TEST(a_static_member_with_another_protocol_begins_a_rebalance),
        TEST(a_static_member_is_replaced_while_it_waits),
        TEST(a_static_member_is_waited_for_until_its_session_ends),
        TEST(an_administrator_removes_a_static_member),
        TEST(a_static_member_that_cannot_be_written_down_is_told),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
