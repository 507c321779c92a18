/* JoinGroup in every state, and the rebalance it sets off. */
#include "tests/unit/group_kit.h"

static void a_new_member_is_told_its_id_first(void **state)
{
    struct kit *kit = *state;
    static struct kit_wait wait;
    char id[128];
    kit_open(kit);
    kit_join(kit, &(struct kit_join){.client = "app"}, &wait);
    assert_int_equal(wait.result, KQ_READY);
    assert_int_equal(wait.wait.result, KQ_GROUP_MEMBER_ID_REQUIRED);
    kit_text(wait.wait.answer->member_id, id);
    assert_memory_equal(id, "app-", 4);
    assert_int_equal(strlen(id), 4 + 36);
    kit_forget(&wait);
    assert_int_equal(kit_state(kit, "g"), KQ_GROUP_EMPTY);

    kit_join(kit, &(struct kit_join){.member = id}, &wait);
    assert_int_equal(wait.result, 0);
    assert_int_equal(kit_state(kit, "g"), KQ_GROUP_PREPARING_REBALANCE);
    kit_pass_ms(kit, 3000);
    assert_int_equal(kit_await(&wait), 0);
    assert_int_equal(wait.wait.answer->generation, 1);
    assert_int_equal(wait.wait.answer->member_count, 1);
    assert_true(kq_str_is(wait.wait.answer->member_id, kq_str_of(id)));
    assert_true(kq_str_is(wait.wait.answer->leader, kq_str_of(id)));
    assert_true(kq_str_is(wait.wait.answer->protocol_name, KQ_STR("range")));
    assert_true(kq_str_is(wait.wait.answer->protocol_type, KQ_STR("test")));
    kit_forget(&wait);
    assert_int_equal(kit_state(kit, "g"), KQ_GROUP_COMPLETING_REBALANCE);
}

static void a_given_id_expires_with_its_session(void **state)
{
    struct kit *kit = *state;
    static struct kit_wait wait;
    char id[128];
    kit_open(kit);
    kit_join(kit, &(struct kit_join){.session_ms = 6000}, &wait);
    kit_text(wait.wait.answer->member_id, id);
    kit_forget(&wait);
    kit_pass_ms(kit, 6000);
    assert_int_equal(kit_join_now(kit, &(struct kit_join){.member = id}), KQ_GROUP_UNKNOWN_MEMBER);
}

/* Who expires while an empty group waits for more members does not end the waiting. */
static void an_id_that_expires_does_not_cut_the_delay_short(void **state)
{
    struct kit *kit = *state;
    static struct kit_wait wait, given;
    kit->ground.options.groups.initial_rebalance_delay_ms = 3000;
    kit_open(kit);
    kit_join(kit, &(struct kit_join){.session_ms = 1000}, &given);
    kit_forget(&given);
    kit_join(kit, &(struct kit_join){.old = true}, &wait);
    kit_pass_ms(kit, 1000); /* the id goes */
    assert_false(kit_is_told(&wait));
    kit_pass_ms(kit, 2000);
    assert_int_equal(kit_await(&wait), 0);
    kit_forget(&wait);
}

static void what_cannot_be_served_is_refused(void **state)
{
    struct kit *kit = *state;
    kit->ground.options.groups.max_protocols = 2;
    kit->ground.options.groups.max_metadata_bytes = 16;
    kit_open(kit);
    assert_int_equal(kit_join_now(kit, &(struct kit_join){.group = ""}), KQ_GROUP_INVALID_ID);
    assert_int_equal(kit_join_now(kit, &(struct kit_join){.group = "\xff"}), KQ_GROUP_INVALID_ID);
    assert_int_equal(kit_join_now(kit, &(struct kit_join){.session_ms = 999}),
                     KQ_GROUP_INVALID_SESSION_TIMEOUT);
    assert_int_equal(kit_join_now(kit, &(struct kit_join){.session_ms = 1800001}),
                     KQ_GROUP_INVALID_SESSION_TIMEOUT);
    assert_int_equal(kit_join_now(kit, &(struct kit_join){.member = "who"}),
                     KQ_GROUP_UNKNOWN_MEMBER);
    char instance[1002] = {0}; /* no member id could be made of it that fits */
    memset(instance, 'i', sizeof(instance) - 1);
    assert_int_equal(kit_join_now(kit, &(struct kit_join){.instance = instance}), -EINVAL);
    assert_int_equal(kit_join_now(kit, &(struct kit_join){.type = ""}),
                     KQ_GROUP_INCONSISTENT_PROTOCOL);
    assert_int_equal(kit_join_now(kit, &(struct kit_join){.protocols = {"a", "b", "c"}}),
                     KQ_GROUP_TOO_LARGE);
    assert_int_equal(kit_join_now(kit, &(struct kit_join){.protocols = {"a", "a"}}),
                     KQ_GROUP_INCONSISTENT_PROTOCOL);
    assert_int_equal(kit_join_now(kit, &(struct kit_join){.protocols = {"a", "b"},
                                                          .metadata = {"12345678", "123456789"}}),
                     KQ_GROUP_TOO_LARGE);
    kit->ground.denied = KQ_RIGHT_ALTER;
    assert_int_equal(kit_join_now(kit, &(struct kit_join){.group = "new"}), -EACCES);
    assert_int_equal(kit_state(kit, "new"), KQ_GROUP_DEAD);
}

static void one_without_the_right_cannot_join(void **state)
{
    struct kit *kit = *state;
    struct kit_member member;
    kit_open(kit);
    kit_make_group(kit, &(struct kit_join){0}, 1, &member);
    kit->ground.denied = KQ_RIGHT_WRITE;
    assert_int_equal(kit_join_now(kit, &(struct kit_join){0}), -EACCES);
    assert_int_equal(kit_heartbeat(kit, "g", member.id, 1), -EACCES);
    assert_int_equal(kit_leave(kit, "g", member.id), -EACCES);
}

static void without_the_topic_a_join_says_so(void **state)
{
    struct kit *kit = *state;
    static struct kit_wait wait;
    ground_open(&kit->ground);
    kit_join(kit, &(struct kit_join){0}, &wait);
    assert_int_equal(wait.result, KQ_WOULD_BLOCK);
    assert_int_equal(kq_groups_prepare(kit_broker(kit), false), KQ_WOULD_BLOCK);
    assert_int_equal(kq_groups_prepare(kit_broker(kit), true), 0);
    assert_int_equal(kq_groups_prepare(kit_broker(kit), false), 0);
    kit_await_loaded(kit);
    struct kq_topic *topic = ground_find(&kit->ground, KQ_GROUPS_TOPIC);
    struct kq_topic_config config;
    kq_topic_config(topic, &config);
    assert_int_equal(kq_topic_partition_count(topic), 4);
    assert_true(config.compact);
    assert_false(config.log.delete_old);
    assert_int_equal(config.log.segment_bytes, 100 << 20);
    kq_topic_unref(topic);
    assert_int_equal(kit_join_now(kit, &(struct kit_join){0}), KQ_GROUP_MEMBER_ID_REQUIRED);
}

/* --- The initial delay --- */

static void an_empty_group_waits_for_more_members(void **state)
{
    struct kit *kit = *state;
    static struct kit_wait first, second;
    kit_open(kit);
    kit_join(kit, &(struct kit_join){.old = true}, &first);
    kit_pass_ms(kit, 2000);
    kit_join(kit, &(struct kit_join){.old = true}, &second);
    kit_pass_ms(kit, 2000); /* the second one begins the delay anew */
    assert_false(kit_is_told(&first));
    kit_pass_ms(kit, 3000);
    assert_int_equal(kit_await(&first), 0);
    assert_int_equal(kit_await(&second), 0);
    assert_int_equal(first.wait.answer->generation, 1);
    assert_int_equal(first.wait.answer->member_count, 2);
    assert_int_equal(second.wait.answer->member_count, 0);
    kit_forget(&first);
    kit_forget(&second);
}

static void the_delay_ends_with_the_rebalance_timeout(void **state)
{
    struct kit *kit = *state;
    static struct kit_wait waits[5];
    kit_open(kit);
    for (int i = 0; i < 4; i++) {
        kit_join(kit, &(struct kit_join){.old = true, .rebalance_ms = 7000}, &waits[i]);
        kit_pass_slowly_ms(kit, 1700);
        assert_false(kit_is_told(&waits[0]));
    }
    kit_pass_slowly_ms(kit, 500); /* 3 s, 3 s and the 1 s that was left are over */
    assert_true(kit_is_told(&waits[0]));
    for (int i = 0; i < 4; i++)
        kit_forget(&waits[i]);
}

static void without_a_delay_the_first_generation_comes_at_once(void **state)
{
    struct kit *kit = *state;
    static struct kit_wait wait;
    kit->ground.options.groups.initial_rebalance_delay_ms = 0;
    kit_open(kit);
    kit_join(kit, &(struct kit_join){.old = true}, &wait);
    assert_int_equal(kit_await(&wait), 0);
    kit_forget(&wait);
}

/* --- Rebalances --- */

static void a_join_waits_for_those_who_are_members(void **state)
{
    struct kit *kit = *state;
    struct kit_member members[2], third;
    static struct kit_wait waits[3];
    kit_open(kit);
    kit_make_group(kit, &(struct kit_join){0}, 2, members);
    assert_int_equal(kit_state(kit, "g"), KQ_GROUP_STABLE);
    kit_join(kit, &(struct kit_join){.old = true}, &waits[2]);
    assert_int_equal(kit_state(kit, "g"), KQ_GROUP_PREPARING_REBALANCE);
    for (int i = 0; i < 2; i++)
        assert_int_equal(kit_heartbeat(kit, "g", members[i].id, 1), KQ_GROUP_REBALANCE_IN_PROGRESS);
    kit_join(kit, &(struct kit_join){.member = members[0].id}, &waits[0]);
    assert_false(kit_is_told(&waits[0]));
    kit_join(kit, &(struct kit_join){.member = members[1].id}, &waits[1]);
    for (int i = 0; i < 2; i++)
        kit_take(&waits[i], &members[i]);
    kit_take(&waits[2], &third);
    assert_true(members[0].leads);
    assert_false(members[1].leads || third.leads);
    assert_int_equal(third.generation, 2);
    assert_int_equal(members[1].generation, 2);
}

static void who_does_not_rejoin_in_time_is_out(void **state)
{
    struct kit *kit = *state;
    struct kit_member members[2];
    static struct kit_wait wait;
    kit_open(kit);
    kit_make_group(kit, &(struct kit_join){.rebalance_ms = 8000, .session_ms = 9000}, 2, members);
    kit_join(kit,
             &(struct kit_join){.member = members[0].id, .rebalance_ms = 8000, .session_ms = 9000},
             &wait);
    kit_pass_ms(kit, 7900);
    assert_int_equal(kit_heartbeat(kit, "g", members[1].id, 1), KQ_GROUP_REBALANCE_IN_PROGRESS);
    assert_false(kit_is_told(&wait));
    kit_pass_ms(kit, 100);
    kit_take(&wait, &members[0]);
    assert_int_equal(members[0].generation, 2);
    assert_int_equal(kit_heartbeat(kit, "g", members[1].id, 2), KQ_GROUP_UNKNOWN_MEMBER);
}

static void a_leader_who_does_not_rejoin_is_replaced(void **state)
{
    struct kit *kit = *state;
    struct kit_member members[2];
    static struct kit_wait wait;
    kit_open(kit);
    kit_make_group(kit, &(struct kit_join){.rebalance_ms = 8000}, 2, members);
    assert_true(members[0].leads);
    kit_join(kit,
             &(struct kit_join){.member = members[1].id,
                                .metadata = {"other"},
                                .protocols = {"range"},
                                .rebalance_ms = 8000},
             &wait);
    kit_pass_ms(kit, 8000);
    kit_take(&wait, &members[1]);
    assert_true(members[1].leads);
}

static void a_follower_with_the_same_metadata_gets_the_present_generation(void **state)
{
    struct kit *kit = *state;
    struct kit_member members[2];
    static struct kit_wait wait;
    kit_open(kit);
    kit_make_group(kit, &(struct kit_join){0}, 2, members);
    kit_join(kit, &(struct kit_join){.member = members[1].id}, &wait);
    assert_int_equal(wait.result, KQ_READY);
    assert_int_equal(wait.wait.result, 0);
    assert_int_equal(wait.wait.answer->generation, 1);
    assert_int_equal(wait.wait.answer->member_count, 0);
    kit_forget(&wait);
    assert_int_equal(kit_state(kit, "g"), KQ_GROUP_STABLE);
    /* With other metadata, and from the leader, it is a rebalance. */
    kit_join(
        kit,
        &(struct kit_join){.member = members[1].id, .protocols = {"range"}, .metadata = {"more"}},
        &wait);
    assert_int_equal(kit_state(kit, "g"), KQ_GROUP_PREPARING_REBALANCE);
    assert_int_equal(kit_leave(kit, "g", members[0].id), 0);
    kit_take(&wait, &members[1]);
}

static void a_leader_that_joins_again_begins_a_rebalance(void **state)
{
    struct kit *kit = *state;
    struct kit_member member;
    static struct kit_wait wait;
    kit_open(kit);
    kit_make_group(kit, &(struct kit_join){0}, 1, &member);
    kit_join(kit, &(struct kit_join){.member = member.id}, &wait);
    kit_take(&wait, &member);
    assert_int_equal(member.generation, 2);
}

static void a_join_lost_on_its_way_is_answered_again(void **state)
{
    struct kit *kit = *state;
    struct kit_member members[2];
    static struct kit_wait waits[2], again;
    kit_open(kit);
    for (int i = 0; i < 2; i++)
        kit_join(kit, &(struct kit_join){.old = true}, &waits[i]);
    kit_pass_ms(kit, 3000);
    kit_pass_ms(kit, 3000);
    for (int i = 0; i < 2; i++)
        kit_take(&waits[i], &members[i]);
    for (int i = 0; i < 2; i++) { /* CompletingRebalance */
        kit_join(kit, &(struct kit_join){.member = members[i].id}, &again);
        assert_int_equal(again.result, KQ_READY);
        assert_int_equal(again.wait.result, 0);
        assert_int_equal(again.wait.answer->generation, 1);
        assert_int_equal(again.wait.answer->member_count, i == 0 ? 2 : 0);
        kit_forget(&again);
    }
    kit_join(kit,
             &(struct kit_join){
                 .member = members[1].id, .protocols = {"range"}, .metadata = {"changed"}},
             &again);
    assert_int_equal(kit_state(kit, "g"), KQ_GROUP_PREPARING_REBALANCE);
    kit_join(kit, &(struct kit_join){.member = members[0].id}, &waits[0]);
    kit_take(&again, &members[1]);
    kit_take(&waits[0], &members[0]);
    assert_int_equal(members[0].generation, 2);
}

static void the_first_of_two_joins_of_one_member_is_answered_too(void **state)
{
    struct kit *kit = *state;
    struct kit_member members[2];
    static struct kit_wait first, second, other;
    kit_open(kit);
    kit_make_group(kit, &(struct kit_join){0}, 2, members);
    kit_join(kit, &(struct kit_join){.member = members[0].id}, &first);
    kit_join(kit, &(struct kit_join){.member = members[0].id}, &second);
    assert_int_equal(kit_await(&first), KQ_GROUP_REBALANCE_IN_PROGRESS);
    kit_join(kit, &(struct kit_join){.member = members[1].id}, &other);
    assert_int_equal(kit_await(&second), 0);
    kit_forget(&first);
    kit_forget(&second);
    kit_forget(&other);
}

/* --- Protocols --- */

static void the_protocol_is_what_most_prefer_of_what_all_have(void **state)
{
    struct kit *kit = *state;
    static struct kit_wait waits[3];
    const struct kit_join joins[] = {
        {.old = true, .protocols = {"a", "b", "c"}, .metadata = {"1a", "1b", "1c"}},
        {.old = true, .protocols = {"c", "b"}, .metadata = {"2c", "2b"}},
        {.old = true, .protocols = {"c", "x", "b"}, .metadata = {"3c", "3x", "3b"}},
    };
    kit_open(kit);
    for (int i = 0; i < 3; i++)
        kit_join(kit, &joins[i], &waits[i]);
    kit_pass_ms(kit, 3000);
    kit_pass_ms(kit, 3000);
    assert_int_equal(kit_await(&waits[0]), 0);
    const struct kq_group_answer *answer = waits[0].wait.answer;
    assert_true(kq_str_is(answer->protocol_name, KQ_STR("c")));
    assert_int_equal(answer->member_count, 3);
    for (int i = 0; i < 3; i++) {
        char wanted[3] = {(char)('1' + i), 'c', 0};
        assert_int_equal(answer->members[i].metadata.length, 2);
        assert_memory_equal(answer->members[i].metadata.data, wanted, 2);
    }
    for (int i = 0; i < 3; i++)
        kit_forget(&waits[i]);
}

static void one_who_shares_no_protocol_is_refused(void **state)
{
    struct kit *kit = *state;
    struct kit_member members[2];
    kit_open(kit);
    kit_make_group(kit, &(struct kit_join){.protocols = {"a", "b"}}, 2, members);
    assert_int_equal(kit_join_now(kit, &(struct kit_join){.protocols = {"x"}}),
                     KQ_GROUP_INCONSISTENT_PROTOCOL);
    assert_int_equal(kit_join_now(kit, &(struct kit_join){.protocols = {"a"}, .type = "other"}),
                     KQ_GROUP_INCONSISTENT_PROTOCOL);
    assert_int_equal(
        kit_join_now(kit, &(struct kit_join){.protocols = {"x"}, .member = members[1].id}),
        KQ_GROUP_INCONSISTENT_PROTOCOL);
    assert_int_equal(kit_state(kit, "g"), KQ_GROUP_STABLE);
}

/* --- Limits --- */

static void a_full_group_takes_nobody(void **state)
{
    struct kit *kit = *state;
    struct kit_member members[2];
    static struct kit_wait wait;
    kit->ground.options.groups.max_members = 2;
    kit_open(kit);
    kit_make_group(kit, &(struct kit_join){0}, 2, members);
    assert_int_equal(kit_join_now(kit, &(struct kit_join){.old = true}), KQ_GROUP_FULL);
    kit_join(kit, &(struct kit_join){.member = members[0].id}, &wait);
    assert_int_equal(kit_leave(kit, "g", members[1].id), 0);
    kit_take(&wait, &members[0]);
}

static void ids_that_nobody_joins_with_are_limited(void **state)
{
    struct kit *kit = *state;
    kit->ground.options.groups.max_members = 3;
    kit_open(kit);
    for (int i = 0; i < 3; i++)
        assert_int_equal(kit_join_now(kit, &(struct kit_join){0}), KQ_GROUP_MEMBER_ID_REQUIRED);
    assert_int_equal(kit_join_now(kit, &(struct kit_join){0}), KQ_GROUP_FULL);
    kit_pass_ms(kit, 10000);
    assert_int_equal(kit_join_now(kit, &(struct kit_join){0}), KQ_GROUP_MEMBER_ID_REQUIRED);
}

static void groups_are_limited(void **state)
{
    struct kit *kit = *state;
    kit->ground.options.groups.max_groups = 2;
    kit_open(kit);
    assert_int_equal(kit_join_now(kit, &(struct kit_join){.group = "a"}),
                     KQ_GROUP_MEMBER_ID_REQUIRED);
    assert_int_equal(kit_join_now(kit, &(struct kit_join){.group = "b"}),
                     KQ_GROUP_MEMBER_ID_REQUIRED);
    assert_int_equal(kit_join_now(kit, &(struct kit_join){.group = "c"}), KQ_GROUP_TOO_LARGE);
    assert_int_equal(kit_delete_group(kit, "a"), 0);
    assert_int_equal(kit_join_now(kit, &(struct kit_join){.group = "c"}),
                     KQ_GROUP_MEMBER_ID_REQUIRED);
}

/* A client that gave up joined again under another id: the first must not stay for ever. */
static void a_new_member_that_waits_too_long_is_dropped(void **state)
{
    struct kit *kit = *state;
    struct kit_member members[2];
    static struct kit_wait wait;
    kit_open(kit);
    kit_make_group(kit, &(struct kit_join){.rebalance_ms = 900000, .session_ms = 900000}, 1,
                   members);
    kit_join(kit, &(struct kit_join){.old = true}, &wait);
    kit_pass_ms(kit, 299900);
    assert_false(kit_is_told(&wait));
    kit_pass_ms(kit, 100);
    assert_int_equal(kit_await(&wait), KQ_GROUP_UNKNOWN_MEMBER);
    kit_forget(&wait);
}

/* --- Those who go away while they wait --- */

static void a_wait_that_was_taken_back_is_not_answered(void **state)
{
    struct kit *kit = *state;
    struct kit_member members[2];
    static struct kit_wait gone, other;
    kit_open(kit);
    kit_make_group(kit, &(struct kit_join){0}, 2, members);
    kit_join(kit, &(struct kit_join){.member = members[0].id}, &gone);
    assert_true(kq_group_wait_cancel(&gone.wait));
    assert_false(kq_group_wait_cancel(&gone.wait));
    kq_group_wait_release(&gone.wait);
    kit_join(kit, &(struct kit_join){.member = members[1].id}, &other);
    kit_take(&other, &members[1]); /* the member that went counts as joined */
    assert_int_equal(gone.calls, 0);
    assert_int_equal(members[1].generation, 2);
}

static void a_broker_that_stops_answers_everybody(void **state)
{
    struct kit *kit = *state;
    struct kit_member members[2];
    static struct kit_wait wait;
    kit_open(kit);
    kit_make_group(kit, &(struct kit_join){0}, 2, members);
    kit_join(kit, &(struct kit_join){.member = members[0].id}, &wait);
    kq_groups_stop(kit_broker(kit));
    assert_int_equal(kit_await(&wait), KQ_GROUP_NOT_AVAILABLE);
    kit_forget(&wait);
    assert_int_equal(kit_join_now(kit, &(struct kit_join){0}), KQ_GROUP_NOT_AVAILABLE);
    assert_int_equal(kit_heartbeat(kit, "g", members[1].id, 1), KQ_GROUP_NOT_AVAILABLE);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, kit_setup, kit_teardown)
    const struct CMUnitTest tests[] = {
        TEST(a_new_member_is_told_its_id_first),
        TEST(a_given_id_expires_with_its_session),
        TEST(an_id_that_expires_does_not_cut_the_delay_short),
        TEST(what_cannot_be_served_is_refused),
        TEST(one_without_the_right_cannot_join),
        TEST(without_the_topic_a_join_says_so),
        TEST(an_empty_group_waits_for_more_members),
        TEST(the_delay_ends_with_the_rebalance_timeout),
        TEST(without_a_delay_the_first_generation_comes_at_once),
        TEST(a_join_waits_for_those_who_are_members),
        TEST(who_does_not_rejoin_in_time_is_out),
        TEST(a_leader_who_does_not_rejoin_is_replaced),
        TEST(a_follower_with_the_same_metadata_gets_the_present_generation),
        TEST(a_leader_that_joins_again_begins_a_rebalance),
        TEST(a_join_lost_on_its_way_is_answered_again),
        TEST(the_first_of_two_joins_of_one_member_is_answered_too),
        TEST(the_protocol_is_what_most_prefer_of_what_all_have),
        TEST(one_who_shares_no_protocol_is_refused),
        TEST(a_full_group_takes_nobody),
        TEST(ids_that_nobody_joins_with_are_limited),
        TEST(groups_are_limited),
        TEST(a_new_member_that_waits_too_long_is_dropped),
        TEST(a_wait_that_was_taken_back_is_not_answered),
        TEST(a_broker_that_stops_answers_everybody),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
