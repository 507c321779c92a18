/* Who has which partition: members by their assignment, readers on the mount by their claim. */
#include "tests/unit/group_kit.h"

/* Subscribed to t. */
static const uint8_t range_of_t[] = {0, 0, 0, 0, 0, 1, 0, 1, 't', 255, 255, 255, 255};
/* Partition 1 of t, and one of a topic that does not exist. */
static const uint8_t t_1[] = {0, 1, 0, 0,   0, 2, 0, 1, 't', 0, 0, 0, 1,   0,   0,   0,
                              1, 0, 1, 'x', 0, 0, 0, 1, 0,   0, 0, 0, 255, 255, 255, 255};

static const struct kit_join consumer = {
    .type = "consumer", .protocols = {"range"}, .raw = {range_of_t, (int32_t)sizeof(range_of_t)}};

struct stage {
    struct kit *kit;
    struct kq_topic *topic;
    struct kq_partition *partitions[3];
    struct kq_group *group;
};

static struct stage set_up(struct kit *kit)
{
    struct stage stage = {.kit = kit};
    kit_open(kit);
    stage.topic = ground_topic(&kit->ground, "t", 3);
    for (int i = 0; i < 3; i++)
        assert_int_equal(kq_partition_get(stage.topic, i, &stage.partitions[i]), 0);
    assert_int_equal(kit_create_group(kit, "g"), 0);
    assert_int_equal(kq_group_get(kit_broker(kit), &kit_caller, KQ_STR("g"), 0, &stage.group), 0);
    return stage;
}

static void tear_down(struct stage *stage)
{
    for (int i = 0; i < 3; i++)
        kq_partition_unref(stage->partitions[i]);
    kq_group_unref(stage->group);
    kq_topic_unref(stage->topic);
}

/* A member in a stable group whose assignment is ASSIGNMENT. */
static void assign(struct stage *stage, const struct kit_join *join, struct kq_bytes assignment,
                   struct kit_member *ret)
{
    static struct kit_wait wait;
    struct kit_join old = *join;
    old.old = true;
    kit_join(stage->kit, &old, &wait);
    kit_pass_ms(stage->kit, 3000);
    kit_take(&wait, ret);
    struct kq_group_assignment one = {kq_str_of(ret->id), assignment};
    kit_sync(stage->kit, "g", ret->id, ret->generation, &one, 1, &wait);
    assert_int_equal(kit_await(&wait), 0);
    kit_forget(&wait);
}

static int try_claim(struct stage *stage, int32_t number)
{
    struct kq_group_claim claim;
    int r = kq_group_claim(stage->group, stage->partitions[number], &claim);
    if (r == 0)
        kq_group_unclaim(&claim);
    return r;
}

static int commit_claim(struct stage *stage, struct kq_group_claim *claim, int64_t offset)
{
    struct kq_group_committed committed = {
        .topic = stage->topic, .partition = 1, .leader_epoch = -1, .offset = offset};
    struct kit_commit commit = {.commit = {.change.done = kit_committed,
                                           .generation = -1,
                                           .retention_ms = -1,
                                           .claim = claim,
                                           .offsets = &committed,
                                           .offset_count = 1}};
    kit_change_init(&commit.own);
    int r = kq_group_commit(kit_broker(stage->kit), &kit_caller, &commit.commit);
    return kit_await_change(&commit.own, r);
}

static void one_reader_at_a_time_has_a_partition(void **state)
{
    struct stage stage = set_up(*state);
    struct kq_group_claim claim;
    assert_int_equal(kq_group_claim(stage.group, stage.partitions[1], &claim), 0);
    assert_int_equal(try_claim(&stage, 1), KQ_GROUP_OWNED);
    assert_int_equal(try_claim(&stage, 0), 0);
    assert_int_equal(commit_claim(&stage, &claim, 12), 0);
    assert_int_equal(kit_offset(stage.kit, "g", "t", 1), 12);
    kq_group_unclaim(&claim);
    assert_int_equal(try_claim(&stage, 1), 0);
    tear_down(&stage);
}

static void what_a_member_has_no_reader_gets(void **state)
{
    struct stage stage = set_up(*state);
    struct kit_member member;
    assign(&stage, &consumer, (struct kq_bytes){t_1, sizeof(t_1)}, &member);
    assert_int_equal(try_claim(&stage, 1), KQ_GROUP_OWNED);
    assert_int_equal(try_claim(&stage, 0), 0);
    assert_int_equal(kit_leave(stage.kit, "g", member.id), 0);
    assert_int_equal(try_claim(&stage, 1), 0);
    tear_down(&stage);
}

static void a_reader_loses_what_a_member_takes(void **state)
{
    struct stage stage = set_up(*state);
    struct kq_group_claim claims[2];
    struct kit_member member;
    for (int i = 0; i < 2; i++)
        assert_int_equal(kq_group_claim(stage.group, stage.partitions[i], &claims[i]), 0);
    assign(&stage, &consumer, (struct kq_bytes){t_1, sizeof(t_1)}, &member);
    assert_false(atomic_load(&claims[0].lost));
    assert_true(atomic_load(&claims[1].lost));
    assert_int_equal(commit_claim(&stage, &claims[1], 5), KQ_GROUP_OWNED);
    assert_int_equal(kit_offset(stage.kit, "g", "t", 1), -1);
    assert_int_equal(kit_commit(stage.kit, "g", &member, stage.topic, 1, 6, ""), 0);
    for (int i = 0; i < 2; i++)
        kq_group_unclaim(&claims[i]);
    tear_down(&stage);
}

static void in_a_rebalance_what_is_subscribed_is_left_alone(void **state)
{
    struct stage stage = set_up(*state);
    static struct kit_wait wait;
    struct kit_join join = consumer;
    struct kq_topic *other = ground_topic(&stage.kit->ground, "u", 1);
    struct kq_partition *partition;
    struct kq_group_claim claim;
    struct kit_member member;
    assert_int_equal(kq_partition_get(other, 0, &partition), 0);
    assign(&stage, &consumer, (struct kq_bytes){t_1, sizeof(t_1)}, &member);
    join.old = true;
    kit_join(stage.kit, &join, &wait);
    for (int i = 0; i < 3; i++)
        assert_int_equal(try_claim(&stage, i), KQ_GROUP_OWNED);
    assert_int_equal(kq_group_claim(stage.group, partition, &claim), 0);
    kq_group_unclaim(&claim);
    assert_int_equal(kit_leave(stage.kit, "g", member.id), 0);
    kit_forget(&wait);
    kq_partition_unref(partition);
    kq_topic_unref(other);
    tear_down(&stage);
}

static void where_an_assignment_cannot_be_read_members_have_everything(void **state)
{
    static const uint8_t cut[] = {0, 1, 0, 0, 0, 9, 0};
    struct stage stage = set_up(*state);
    struct kq_group_claim claim;
    struct kit_member member;
    assert_int_equal(kq_group_claim(stage.group, stage.partitions[2], &claim), 0);
    assign(&stage, &consumer, (struct kq_bytes){cut, sizeof(cut)}, &member);
    assert_true(atomic_load(&claim.lost));
    kq_group_unclaim(&claim);
    for (int i = 0; i < 3; i++)
        assert_int_equal(try_claim(&stage, i), KQ_GROUP_OWNED);
    tear_down(&stage);
}

static void members_that_are_no_consumers_have_everything(void **state)
{
    struct stage stage = set_up(*state);
    struct kit_member member;
    assign(&stage, &(struct kit_join){.type = "connect"}, (struct kq_bytes){t_1, sizeof(t_1)},
           &member);
    assert_int_equal(try_claim(&stage, 0), KQ_GROUP_OWNED);
    tear_down(&stage);
}

static void owners_outlive_the_broker(void **state)
{
    struct stage stage = set_up(*state);
    struct kit_member member;
    struct kit *kit = stage.kit;
    assign(&stage, &consumer, (struct kq_bytes){t_1, sizeof(t_1)}, &member);
    tear_down(&stage);
    kit_reopen(kit);
    stage.topic = ground_find(&kit->ground, "t");
    for (int i = 0; i < 3; i++)
        assert_int_equal(kq_partition_get(stage.topic, i, &stage.partitions[i]), 0);
    assert_int_equal(kq_group_get(kit_broker(kit), &kit_caller, KQ_STR("g"), 0, &stage.group), 0);
    assert_int_equal(try_claim(&stage, 1), KQ_GROUP_OWNED);
    assert_int_equal(try_claim(&stage, 2), 0);
    tear_down(&stage);
}

static void a_reader_of_a_deleted_group_is_told(void **state)
{
    struct stage stage = set_up(*state);
    struct kq_group_claim claim;
    assert_int_equal(kq_group_claim(stage.group, stage.partitions[1], &claim), 0);
    assert_int_equal(kit_delete_group(stage.kit, "g"), 0);
    assert_true(kq_group_deleted(stage.group));
    assert_true(atomic_load(&claim.lost));
    assert_int_equal(commit_claim(&stage, &claim, 3), -ESTALE);
    kq_group_unclaim(&claim);
    assert_int_equal(try_claim(&stage, 1), -ESTALE);
    tear_down(&stage);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, kit_setup, kit_teardown)
    const struct CMUnitTest tests[] = {
        TEST(one_reader_at_a_time_has_a_partition),
        TEST(what_a_member_has_no_reader_gets),
        TEST(a_reader_loses_what_a_member_takes),
        TEST(in_a_rebalance_what_is_subscribed_is_left_alone),
        TEST(where_an_assignment_cannot_be_read_members_have_everything),
        TEST(members_that_are_no_consumers_have_everything),
        TEST(owners_outlive_the_broker),
        TEST(a_reader_of_a_deleted_group_is_told),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
