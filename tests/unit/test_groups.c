/* Groups as such: names, order, owner and mode, what is read back from the log and what is not. */
#include "tests/unit/group_kit.h"

/* --- Names --- */

static void names_are_hashed_as_java_does(void **state)
{
    assert_int_equal(kq_groups_hash(KQ_STR("")), 0);
    assert_int_equal(kq_groups_hash(KQ_STR("a")), 97);
    assert_int_equal(kq_groups_hash(KQ_STR("hello")), 99162322);
    assert_int_equal(kq_groups_hash(KQ_STR("console-consumer-12345")), 158455506);
    assert_int_equal(kq_groups_hash(KQ_STR("\xc3\xa4\xc3\xb6\xc3\xbc")), 226986);
    assert_int_equal(kq_groups_hash(KQ_STR("\xf0\x9f\x98\x80")), 1772899); /* U+1F600 */
    assert_int_equal(kq_groups_hash(KQ_STR("polygenelubricants")), INT32_MIN);
}

static void a_name_is_utf_8_without_nul(void **state)
{
    static const char *const bad[] = {"\x80",     "\xc0\x80",         "\xc3", "\xed\xa0\x80",
                                      "\xe2\x82", "\xf5\x80\x80\x80", "\xff", "\xf0\x80\x80\x80"};
    assert_true(kq_groups_name_valid(KQ_STR("")));
    assert_true(kq_groups_name_valid(KQ_STR("a/b \xc3\xa4 \xf0\x9f\x98\x80")));
    assert_false(kq_groups_name_valid(KQ_STR("a\0b")));
    assert_false(kq_groups_name_valid(KQ_STR_NULL));
    for (size_t i = 0; i < kq_array_size(bad); i++)
        assert_false(kq_groups_name_valid(kq_str_of(bad[i])));
}

static void the_smallest_hash_leads_to_a_shard_too(void **state)
{
    struct kit *kit = *state;
    kit_open(kit);
    assert_int_equal(kit_create_group(kit, "polygenelubricants"), 0);
    assert_int_equal(kit_state(kit, "polygenelubricants"), KQ_GROUP_EMPTY);
}

/* --- In order --- */

static void groups_are_walked_in_order_of_their_names(void **state)
{
    struct kit *kit = *state;
    static const char *const names[] = {"b", "a", "aa", "c", "\xc3\xa4", "B"};
    static const char *const sorted[] = {"B", "a", "aa", "b", "c", "\xc3\xa4"};
    struct kq_group *group, *found;
    kit_open(kit);
    for (int i = 0; i < 6; i++)
        assert_int_equal(kit_create_group(kit, names[i]), 0);
    assert_int_equal(kit_create_group(kit, "a"), -EEXIST);
    assert_int_equal(kit_create_group(kit, ""), -EINVAL);
    assert_int_equal(kit_create_group(kit, "\xff"), -EINVAL);
    struct kq_str after = KQ_STR("");
    for (int i = 0; i < 6; i++) {
        assert_int_equal(kq_group_next(kit_broker(kit), after, &group), 0);
        assert_true(kq_str_is(kq_group_name(group), kq_str_of(sorted[i])));
        assert_int_equal(kq_group_find(kit_broker(kit), kq_group_number(group), &found), 0);
        assert_ptr_equal(found, group);
        kq_group_unref(found);
        kq_group_unref(group); /* the table holds it */
        after = kq_group_name(group);
    }
    assert_int_equal(kq_group_next(kit_broker(kit), after, &group), KQ_END);
    assert_int_equal(kit_delete_group(kit, "b"), 0);
    assert_int_equal(kq_group_next(kit_broker(kit), KQ_STR("aa"), &group), 0);
    assert_true(kq_str_is(kq_group_name(group), KQ_STR("c")));
    kq_group_unref(group);
    assert_int_equal(kq_group_find(kit_broker(kit), 1, &group), KQ_GROUP_NOT_FOUND);
}

/* --- What is told of one --- */

static void a_group_is_described(void **state)
{
    struct kit *kit = *state;
    struct kit_member members[2];
    struct kq_group *group;
    struct kq_group_description description;
    struct kq_arena arena = {0};
    kit_open(kit);
    kit_make_group(kit, &(struct kit_join){.client = "app"}, 2, members);
    assert_int_equal(kq_group_get(kit_broker(kit), &kit_caller, KQ_STR("g"), KQ_RIGHT_READ, &group),
                     0);
    assert_int_equal(kq_group_describe(group, true, &arena, &description), 0);
    assert_int_equal(description.state, KQ_GROUP_STABLE);
    assert_string_equal(kq_group_state_name(description.state), "Stable");
    assert_true(kq_str_is(description.protocol_type, KQ_STR("test")));
    assert_true(kq_str_is(description.protocol, KQ_STR("range")));
    assert_int_equal(description.member_count, 2);
    const struct kq_group_member_description *member = &description.members[1];
    assert_true(kq_str_is(member->member_id, kq_str_of(members[1].id)));
    assert_int_equal(member->instance_id.length, -1);
    assert_true(kq_str_is(member->client_id, KQ_STR("app")));
    assert_true(kq_str_is(member->client_host, KQ_STR("/127.0.0.1")));
    assert_memory_equal(member->metadata.data, "subscribed", 10);
    kit_leave(kit, "g", members[0].id);
    assert_int_equal(kq_group_describe(group, true, &arena, &description), 0);
    assert_int_equal(description.state, KQ_GROUP_PREPARING_REBALANCE);
    assert_int_equal(description.member_count, 1);
    assert_int_equal(description.members[0].metadata.length, 0);
    assert_true(kq_str_is(description.protocol, KQ_STR("")));
    kq_arena_release(&arena);
    kq_group_unref(group);
    kit->ground.denied = KQ_RIGHT_READ;
    assert_int_equal(kq_group_get(kit_broker(kit), &kit_caller, KQ_STR("g"), KQ_RIGHT_READ, &group),
                     -EACCES);
}

/* --- Owner and mode --- */

static struct kq_attributes attributes_of(struct kit *kit, const char *name)
{
    struct kq_attributes attributes;
    struct kq_group *group = NULL;
    if (name)
        assert_int_equal(kq_group_get(kit_broker(kit), &kit_caller, kq_str_of(name), 0, &group), 0);
    assert_int_equal(kq_group_attributes_get(kit_broker(kit), group, &attributes), 0);
    kq_group_unref(group);
    return attributes;
}

static int set_attributes(struct kit *kit, const char *name, const struct kq_attributes *to)
{
    struct kit_change change;
    struct kq_group *group = NULL;
    if (name)
        assert_int_equal(kq_group_get(kit_broker(kit), &kit_caller, kq_str_of(name), 0, &group), 0);
    kit_change_init(&change);
    int r = kq_group_attributes_set(kit_broker(kit), group, &kit_caller, to, &change.change);
    r = kit_await_change(&change, r);
    kq_group_unref(group);
    return r;
}

static void a_group_belongs_to_who_made_it(void **state)
{
    struct kit *kit = *state;
    kit_open(kit);
    kit_create_group(kit, "made");
    kit_join_now(kit, &(struct kit_join){.group = "joined"});
    kit_settle(kit);
    for (int i = 0; i < 2; i++) {
        struct kq_attributes made = attributes_of(kit, "made");
        struct kq_attributes joined = attributes_of(kit, "joined");
        struct kq_attributes all = attributes_of(kit, NULL);
        assert_int_equal(made.uid, 1000);
        assert_int_equal(made.gid, 100);
        assert_int_equal(made.mode, 0750);
        assert_int_equal(joined.uid, 1000);
        assert_int_equal(joined.mode, 0770);
        assert_int_equal(all.mode, 01777);
        kit_reopen(kit);
    }
}

static void owner_mode_and_acl_are_changed_for_good(void **state)
{
    struct kit *kit = *state;
    uint8_t acl[] = {2, 0, 0, 0, 1, 2, 3, 4};
    struct kq_attributes to = {
        .uid = 5, .gid = 6, .mode = 0700, .acl = acl, .acl_length = sizeof(acl)};
    kit_open(kit);
    kit_create_group(kit, "g");
    assert_int_equal(set_attributes(kit, "g", &to), 0);
    to.mode = 01770;
    assert_int_equal(set_attributes(kit, NULL, &to), 0);
    for (int i = 0; i < 2; i++) {
        struct kq_attributes group = attributes_of(kit, "g"), all = attributes_of(kit, NULL);
        assert_int_equal(group.uid, 5);
        assert_int_equal(group.gid, 6);
        assert_int_equal(group.mode, 0700);
        assert_int_equal(group.acl_length, sizeof(acl));
        assert_memory_equal(group.acl, acl, sizeof(acl));
        assert_int_equal(all.mode, 01770);
        kq_attributes_release(&group);
        kq_attributes_release(&all);
        kit_reopen(kit);
    }
    kit->ground.denied = KQ_RIGHT_CHANGE_ATTRIBUTES;
    assert_int_equal(set_attributes(kit, "g", &to), -EACCES);
    kit->ground.denied = 0;
    kq_fault_arm(KQ_FAULT_WRITE, 1, ENOSPC, true);
    to.uid = 77;
    assert_int_equal(set_attributes(kit, "g", &to), -ENOSPC);
    assert_int_equal(kit_create_group(kit, "h"), -ENOSPC);
    assert_true(kq_fault_disarm());
    struct kq_attributes group = attributes_of(kit, "g");
    assert_int_equal(group.uid, 5);
    kq_attributes_release(&group);
    assert_int_equal(kit_state(kit, "h"), KQ_GROUP_DEAD);
}

/* Kafka lets anybody commit for the group that has the empty name: it is one like all others. */
static void the_group_without_a_name_is_not_the_directory(void **state)
{
    struct kit *kit = *state;
    kit_open(kit);
    struct kq_topic *topic = ground_topic(&kit->ground, "t", 1);
    assert_int_equal(kit_commit(kit, "", NULL, topic, 0, 42, ""), 0);
    kq_topic_unref(topic);
    kit_reopen(kit);
    struct kq_attributes group = attributes_of(kit, ""), all = attributes_of(kit, NULL);
    assert_int_equal(kit_offset(kit, "", "t", 0), 42);
    assert_int_equal(group.mode, 0770);
    assert_int_equal(group.uid, kit_caller.uid);
    assert_int_equal(all.mode, 01777);
    assert_int_not_equal(all.uid, kit_caller.uid);
}

/* --- What is in the log --- */

/* One record as a batch. */
static void make_batch(struct kq_buf *batch, const void *key, int32_t key_length, const void *value,
                       int32_t value_length)
{
    struct kq_batch_builder builder;
    assert_int_equal(kq_batch_begin(&builder, batch, 0), 0);
    assert_int_equal(
        kq_batch_add(&builder, 1700000000000, key, key_length, value, value_length, NULL, 0, 0), 0);
    kq_batch_finish(&builder);
}

/* Appends one record to the partition of __consumer_offsets that g belongs to. */
static void append(struct kit *kit, const void *key, int32_t key_length, const void *value,
                   size_t value_length)
{
    struct kq_topic *topic = ground_find(&kit->ground, KQ_GROUPS_TOPIC);
    struct kq_access access = ground_access(topic, kq_groups_hash(KQ_STR("g")) % 4);
    struct kq_buf batch = {0};
    struct kq_log_appended appended;
    make_batch(&batch, key, key_length, value, (int32_t)value_length);
    struct kq_log_append whole = {.bytes = batch.data, .length = batch.length, .text_length = -1};
    assert_int_equal(kq_append(&access, &whole, &appended), 0);
    kq_buf_release(&batch);
    kq_topic_unref(topic);
}

/* Bytes as Kafka writes them: OffsetCommitKey 1 and OffsetCommitValue 0, 1, 3 and 4. */
static const uint8_t key_of_g[] = {0, 1, 0, 1, 'g', 0, 1, 't', 0, 0, 0, 1};
static const uint8_t value_0[] = {0, 0,   0, 0, 0, 0,   0,   0,   0,   10, 0,
                                  1, 'm', 0, 0, 1, 139, 207, 229, 104, 0};
static const uint8_t value_1[] = {0, 1,   0,   0,   0,   0, 0, 0, 0, 11,  0,   0,   0,   0,
                                  1, 139, 207, 229, 104, 0, 0, 0, 1, 139, 207, 229, 104, 1};
static const uint8_t value_3[] = {0, 3, 0, 0, 0, 0, 0, 0,   0,   12,  0,   0,
                                  0, 9, 0, 0, 0, 0, 1, 139, 207, 229, 104, 0};
static const uint8_t value_4[] = {0, 4, 0, 0, 0, 0, 0,   0,   0,   13,  0, 0,
                                  0, 9, 1, 0, 0, 1, 139, 207, 229, 104, 0, 0};

static void every_version_of_an_offset_is_read(void **state)
{
    struct kit *kit = *state;
    const struct {
        const uint8_t *bytes;
        size_t length;
        int64_t offset;
    } values[] = {{value_0, sizeof(value_0), 10},
                  {value_1, sizeof(value_1), 11},
                  {value_3, sizeof(value_3), 12},
                  {value_4, sizeof(value_4), 13}};
    kit_open(kit);
    for (int i = 0; i < 4; i++) {
        append(kit, key_of_g, sizeof(key_of_g), values[i].bytes, values[i].length);
        kit_reopen(kit);
        assert_int_equal(kit_offset(kit, "g", "t", 1), values[i].offset);
    }
    uint8_t old_key[sizeof(key_of_g)];
    memcpy(old_key, key_of_g, sizeof(old_key));
    old_key[1] = 0;
    append(kit, old_key, sizeof(old_key), value_0, sizeof(value_0));
    kit_reopen(kit);
    assert_int_equal(kit_offset(kit, "g", "t", 1), 10);
}

static void what_is_written_is_what_kafka_writes(void **state)
{
    struct kit *kit = *state;
    struct kq_group_write write = {0};
    struct kq_group_offset_value value = {
        .offset = 12, .leader_epoch = 9, .committed_ms = 1700000000000, .expires_ms = -1};
    kit_open(kit);
    assert_int_equal(kq_offsets_put_offset(&write, KQ_STR("g"), KQ_STR("t"), 1, &value), 0);
    assert_int_equal(write.records.length, 8 + sizeof(key_of_g) + sizeof(value_3));
    assert_memory_equal(write.records.data + 4, key_of_g, sizeof(key_of_g));
    assert_memory_equal(write.records.data + 8 + sizeof(key_of_g), value_3, 18);
    kq_buf_release(&write.records);
    assert_int_equal(kq_offsets_put_no_group(&write, KQ_STR("g")), 0);
    static const uint8_t tombstone[] = {0, 0, 0, 5, 0, 2, 0, 1, 'g', 255, 255, 255, 255};
    assert_int_equal(write.records.length, sizeof(tombstone));
    assert_memory_equal(write.records.data, tombstone, sizeof(tombstone));
    kq_buf_release(&write.records);
}

static void what_nobody_here_knows_is_left_alone(void **state)
{
    struct kit *kit = *state;
    static const uint8_t newer_key[] = {0, 15, 1, 2, 3};
    static const uint8_t newer_value[] = {0, 9, 0, 0, 0, 0, 0, 0, 0, 10};
    kit_open(kit);
    append(kit, newer_key, sizeof(newer_key), "x", 1);
    append(kit, key_of_g, sizeof(key_of_g), value_0, sizeof(value_0));
    said_clear();
    kit_reopen(kit);
    assert_int_equal(kit_offset(kit, "g", "t", 1), 10);
    assert_null(strstr(said, "left out"));
    append(kit, key_of_g, sizeof(key_of_g), newer_value, sizeof(newer_value));
    append(kit, "x", 1, "x", 1);
    append(kit, NULL, -1, "x", 1);
    kit_reopen(kit);
    assert_int_equal(kit_offset(kit, "g", "t", 1), 10);
    assert_non_null(strstr(said, "3 records"));
}

/* The log takes no transactions yet, but one that Kafka wrote may hold them. */
static void replay(struct kq_replay *replay, int64_t *offset, const void *value,
                   size_t value_length, int64_t producer_id, int16_t attributes)
{
    struct kq_batch_header header;
    struct kq_buf batch = {0};
    make_batch(&batch, key_of_g, sizeof(key_of_g), value, (int32_t)value_length);
    assert_int_equal(kq_batch_header_read(batch.data, batch.length, &header), 0);
    header.base_offset = (*offset)++;
    header.producer_id = producer_id;
    header.attributes = attributes;
    kq_batch_patch(batch.data, header.base_offset, 0);
    assert_int_equal(kq_replay_batch(replay, batch.data, &header), 0);
    kq_buf_release(&batch);
}

static void replay_marker(struct kq_replay *replay, int64_t *offset, bool commits,
                          int64_t producer_id)
{
    struct kq_batch_header header;
    struct kq_buf batch = {0};
    const uint8_t key[] = {0, 0, 0, commits};
    make_batch(&batch, key, sizeof(key), "\0\0\0\0\0\0", 6);
    assert_int_equal(kq_batch_header_read(batch.data, batch.length, &header), 0);
    header.base_offset = (*offset)++;
    header.producer_id = producer_id;
    header.attributes = KQ_ATTRIBUTE_TRANSACTIONAL | KQ_ATTRIBUTE_CONTROL;
    assert_int_equal(kq_replay_batch(replay, batch.data, &header), 0);
    kq_buf_release(&batch);
}

static void offsets_in_transactions_count_once_they_are_committed(void **state)
{
    struct kit *kit = *state;
    struct kq_group_shard *shard;
    struct kq_replay *log;
    int64_t offset = 0;
    const int16_t open = KQ_ATTRIBUTE_TRANSACTIONAL;
    kit_open(kit);
    assert_int_equal(kq_groups_shard(kit_broker(kit)->groups, KQ_STR("g"), &shard), 0);
    assert_int_equal(kq_replay_new(shard, &log), 0);
    replay(log, &offset, value_0, sizeof(value_0), -1, 0);
    replay(log, &offset, value_1, sizeof(value_1), 7, open);
    replay(log, &offset, value_3, sizeof(value_3), 8, open);
    assert_int_equal(kit_offset(kit, "g", "t", 1), 10);
    replay_marker(log, &offset, false, 7);
    assert_int_equal(kit_offset(kit, "g", "t", 1), 10);
    replay_marker(log, &offset, true, 8);
    assert_int_equal(kit_offset(kit, "g", "t", 1), 12);
    replay_marker(log, &offset, true, 7); /* of nothing */
    /* A later commit outside the transaction wins over one pending from before. */
    replay(log, &offset, value_1, sizeof(value_1), 9, open);
    replay(log, &offset, value_4, sizeof(value_4), -1, 0);
    replay_marker(log, &offset, true, 9);
    assert_int_equal(kit_offset(kit, "g", "t", 1), 13);
    /* A tombstone takes along what is pending. */
    replay(log, &offset, value_1, sizeof(value_1), 9, open);
    replay(log, &offset, NULL, (size_t)-1, -1, 0);
    replay_marker(log, &offset, true, 9);
    assert_int_equal(kit_offset(kit, "g", "t", 1), -1);
    /* One that is open at the end is as good as aborted: its producer is gone. */
    replay(log, &offset, value_1, sizeof(value_1), 9, open);
    kq_replay_finish(log);
    kq_replay_free(log);
    assert_int_equal(kit_offset(kit, "g", "t", 1), -1);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, kit_setup, kit_teardown)
    const struct CMUnitTest tests[] = {
        TEST(names_are_hashed_as_java_does),
        TEST(a_name_is_utf_8_without_nul),
        TEST(the_smallest_hash_leads_to_a_shard_too),
        TEST(groups_are_walked_in_order_of_their_names),
        TEST(a_group_is_described),
        TEST(a_group_belongs_to_who_made_it),
        TEST(owner_mode_and_acl_are_changed_for_good),
        TEST(the_group_without_a_name_is_not_the_directory),
        TEST(every_version_of_an_offset_is_read),
        TEST(what_is_written_is_what_kafka_writes),
        TEST(what_nobody_here_knows_is_left_alone),
        TEST(offsets_in_transactions_count_once_they_are_committed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
