#include "tests/unit/ground.h"

#include "broker/internal.h"

static void a_name_is_what_kafka_allows(void **state)
{
    char longest[251];
    memset(longest, 'a', sizeof(longest));
    longest[249] = '\0';
    assert_true(kq_topic_name_valid(longest));
    assert_true(kq_topic_name_valid("a"));
    assert_true(kq_topic_name_valid("Az09._-"));
    assert_true(kq_topic_name_valid("..."));
    longest[249] = 'a';
    longest[250] = '\0';
    assert_false(kq_topic_name_valid(longest));
    static const char *const bad[] = {"", ".", "..", ".kqfs", "a/b", "a b", "\xc3\xa4", "a\n"};
    for (size_t i = 0; i < kq_array_size(bad); i++)
        assert_false(kq_topic_name_valid(bad[i]));
}

static void a_new_topic_is_there_with_what_was_asked_for(void **state)
{
    struct ground *ground = *state;
    const struct kq_topic_setting settings[] = {{"retention.ms", "1000"}, {"delimiter", "\t"}};
    struct kq_topic_spec spec = {.name = "orders",
                                 .partitions = 3,
                                 .topic = {.uid = 1, .gid = 2, .mode = 0750},
                                 .partition = {.uid = 3, .gid = 4, .mode = 0640},
                                 .settings = settings,
                                 .setting_count = 2};
    struct kq_topic *topic, *found;
    struct kq_topic_config config;
    struct kq_attributes attributes;
    struct kq_partition *partition;
    ground_open(ground);
    assert_int_equal(kq_topic_create(ground->broker, &ground_caller, &spec, &topic), 0);
    assert_int_equal(ground->asked, KQ_RIGHT_CREATE);
    found = ground_find(ground, "orders");
    assert_ptr_equal(found, topic);
    assert_string_equal(kq_topic_name(topic), "orders");
    assert_int_equal(kq_topic_partition_count(topic), 3);
    assert_true(kq_topic_created_ms(topic) > 1700000000000);
    assert_false(kq_topic_deleted(topic));
    kq_topic_config(topic, &config);
    assert_int_equal(config.log.retention_ms, 1000);
    assert_int_equal(config.text.delimiter[0], '\t');
    assert_true(kq_topic_config_is_own(topic, "retention.ms"));
    assert_false(kq_topic_config_is_own(topic, "retention.bytes"));
    kq_attributes_peek(ground->broker, topic, NULL, &attributes);
    assert_int_equal(attributes.mode, 01750);
    assert_int_equal(kq_partition_get(topic, 2, &partition), 0);
    kq_attributes_peek(ground->broker, topic, partition, &attributes);
    assert_int_equal(attributes.uid, 3);
    assert_int_equal(attributes.mode, 0640);
    kq_partition_unref(partition);
    assert_int_equal(kq_partition_get(topic, 3, &partition), -ENOENT);
    assert_int_equal(kq_partition_get(topic, -1, &partition), -ENOENT);
    kq_topic_unref(found);
    kq_topic_unref(topic);
}

static int create(struct ground *ground, const char *name, int32_t partitions,
                  const struct kq_topic_setting *setting)
{
    struct kq_topic_spec spec = {
        .name = name, .partitions = partitions, .settings = setting, .setting_count = !!setting};
    struct kq_topic *topic;
    int r = kq_topic_create(ground->broker, &ground_caller, &spec, &topic);
    if (r == 0)
        kq_topic_unref(topic);
    return r;
}

static int check_only(struct ground *ground, const char *name, int32_t partitions)
{
    struct kq_topic_spec spec = {.name = name, .partitions = partitions, .check_only = true};
    struct kq_topic *topic = NULL;
    int r = kq_topic_create(ground->broker, &ground_caller, &spec, &topic);
    assert_null(topic);
    return r;
}

static void what_cannot_be_created_is_refused_and_leaves_nothing(void **state)
{
    struct ground *ground = *state;
    const struct kq_topic_setting unknown = {"no.such", "1"}, bad = {"retention.ms", "x"};
    ground->options.max_topics = 2;
    ground->options.max_partitions = 5;
    ground_open(ground);
    assert_int_equal(create(ground, "a/b", 1, NULL), -EINVAL);
    assert_int_equal(create(ground, "a", -1, NULL), -EINVAL);
    assert_int_equal(create(ground, "a", 1, &unknown), -EINVAL);
    assert_int_equal(create(ground, "a", 1, &bad), -EINVAL);
    assert_int_equal(create(ground, "a", 6, NULL), -EDQUOT);
    ground->denied = KQ_RIGHT_CREATE;
    assert_int_equal(create(ground, "a", 1, NULL), -EACCES);
    ground->denied = 0;
    assert_int_equal(check_only(ground, "a", 5), 0);
    assert_int_equal(check_only(ground, "a", 6), -EDQUOT);
    assert_int_equal(check_only(ground, "a/b", 1), -EINVAL);
    assert_false(ground_has(ground, "a-0"));
    assert_false(ground_has(ground, "a.topic"));
    assert_int_equal(create(ground, "a", 0, NULL), 0);
    assert_int_equal(create(ground, "a", 1, NULL), -EEXIST);
    assert_int_equal(create(ground, "b", 3, NULL), 0);
    assert_int_equal(create(ground, "c", 1, NULL), -EDQUOT);
    assert_int_equal(check_only(ground, "b", 1), -EEXIST);
    assert_int_equal(check_only(ground, "c", 1), -EDQUOT);
}

static void the_walk_goes_by_name_and_survives_changes(void **state)
{
    struct ground *ground = *state;
    static const char *const names[] = {"m", "a", "z", "b-1", "b"};
    static const char *const order[] = {"a", "b", "m", "n", "z"};
    struct kq_topic *topic;
    char after[250] = "";
    ground_open(ground);
    for (size_t i = 0; i < 5; i++)
        assert_int_equal(create(ground, names[i], 1, NULL), 0);
    for (size_t i = 0; i < 5; i++) {
        assert_int_equal(kq_topic_next(ground->broker, after, &topic), 0);
        assert_string_equal(kq_topic_name(topic), order[i]);
        snprintf(after, sizeof(after), "%s", kq_topic_name(topic));
        kq_topic_unref(topic);
        if (i == 1) {
            struct kq_topic *gone = ground_find(ground, "b-1");
            assert_int_equal(kq_topic_delete(gone, &ground_caller, false), 0);
            kq_topic_unref(gone);
            assert_int_equal(create(ground, "n", 1, NULL), 0);
        }
    }
    assert_int_equal(kq_topic_next(ground->broker, after, &topic), KQ_END);
}

static void a_deleted_topic_is_gone_and_its_name_free(void **state)
{
    struct ground *ground = *state;
    struct kq_log_appended appended;
    struct kq_log_bounds bounds;
    struct kq_topic *found;
    uint8_t id[16];
    ground_open(ground);
    struct kq_topic *topic = ground_topic(ground, "t", 2);
    struct kq_access access = ground_access(topic, 0);
    memcpy(id, kq_topic_id(topic), 16);
    assert_int_equal(ground_append(&access, "x\n", &appended), 0);
    assert_int_equal(kq_topic_delete(topic, &ground_caller, true), -ENOTEMPTY);
    ground->denied = KQ_RIGHT_DELETE;
    assert_int_equal(kq_topic_delete(topic, &ground_caller, false), -EACCES);
    ground->denied = 0;
    assert_int_equal(ground_append(&access, "y\n", &appended), 0);
    assert_int_equal(kq_topic_delete(topic, &ground_caller, false), 0);
    assert_true(kq_topic_deleted(topic));
    assert_int_equal(kq_topic_get(ground->broker, "t", &found), -ENOENT);
    assert_int_equal(ground_append(&access, "z\n", &appended), -ESTALE);
    kq_bounds(access.partition, &bounds);
    assert_int_equal(bounds.end, 2);
    assert_int_equal(kq_topic_delete(topic, &ground_caller, false), -ESTALE);
    assert_int_equal(kq_topic_set_config(topic, &ground_caller, "retention.ms", "1"), -ESTALE);
    assert_false(ground_has(ground, "t-0"));
    assert_false(ground_has(ground, "t.topic"));
    struct kq_topic *again = ground_topic(ground, "t", 1);
    assert_memory_not_equal(kq_topic_id(again), id, 16);
    kq_topic_unref(again);
    kq_topic_unref(topic);
}

static void an_empty_topic_goes_when_only_empty_ones_may(void **state)
{
    struct ground *ground = *state;
    struct kq_log_appended appended;
    ground_open(ground);
    struct kq_topic *topic = ground_topic(ground, "t", 2);
    struct kq_access access = ground_access(topic, 1);
    assert_int_equal(ground_append(&access, "x\n", &appended), 0);
    assert_int_equal(kq_delete_records(access.partition, &ground_caller, -1), 0);
    assert_int_equal(kq_topic_delete(topic, &ground_caller, true), 0);
    kq_topic_unref(topic);
}

/* What the old topic's checkpoints said must not hold for the new one. */
static void a_topic_of_an_old_name_begins_at_0(void **state)
{
    struct ground *ground = *state;
    struct kq_log_appended appended;
    struct kq_log_bounds bounds;
    ground_open(ground);
    struct kq_topic *topic = ground_topic(ground, "t", 1);
    struct kq_access access = ground_access(topic, 0);
    assert_int_equal(ground_append(&access, "a\nb\nc\n", &appended), 0);
    assert_int_equal(kq_delete_records(access.partition, &ground_caller, 2), 0);
    assert_int_equal(kq_topic_delete(topic, &ground_caller, false), 0);
    kq_topic_unref(topic);
    topic = ground_topic(ground, "t", 1);
    access = ground_access(topic, 0);
    assert_int_equal(ground_append(&access, "d\n", &appended), 0);
    kq_topic_unref(topic);
    kq_broker_abandon(ground->broker);
    ground_open(ground);
    topic = ground_find(ground, "t");
    access = ground_access(topic, 0);
    kq_bounds(access.partition, &bounds);
    assert_int_equal(bounds.start, 0);
    assert_int_equal(bounds.end, 1);
    kq_topic_unref(topic);
}

static void only_the_next_partition_can_be_added(void **state)
{
    struct ground *ground = *state;
    const struct kq_attributes attributes = {.uid = 5, .mode = 0600};
    struct kq_attributes back;
    struct kq_log_appended appended;
    ground->options.max_partitions = 4;
    ground_open(ground);
    struct kq_topic *topic = ground_topic(ground, "t", 1);
    assert_int_equal(kq_topic_add_partition(topic, &ground_caller, 0, &attributes), -EEXIST);
    assert_int_equal(kq_topic_add_partition(topic, &ground_caller, 2, &attributes), -ENOENT);
    assert_int_equal(kq_topic_add_partition(topic, &ground_caller, -1, &attributes), -ENOENT);
    ground->denied = KQ_RIGHT_ALTER;
    assert_int_equal(kq_topic_add_partition(topic, &ground_caller, 1, &attributes), -EACCES);
    ground->denied = 0;
    for (int32_t i = 1; i < 4; i++)
        assert_int_equal(kq_topic_add_partition(topic, &ground_caller, i, &attributes), 0);
    assert_int_equal(kq_topic_add_partition(topic, &ground_caller, 4, &attributes), -EDQUOT);
    assert_int_equal(kq_topic_partition_count(topic), 4);
    struct kq_access access = ground_access(topic, 3);
    assert_int_equal(ground_append(&access, "x\n", &appended), 0);
    kq_topic_unref(topic);
    ground_reopen(ground);
    topic = ground_find(ground, "t");
    assert_int_equal(kq_topic_partition_count(topic), 4);
    access = ground_access(topic, 3);
    assert_int_equal(ground_end(&access), 1);
    kq_attributes_peek(ground->broker, topic, access.partition, &back);
    assert_int_equal(back.uid, 5);
    kq_topic_unref(topic);
}

static void several_partitions_are_added_all_or_none(void **state)
{
    struct ground *ground = *state;
    const struct kq_attributes attributes = {.uid = 5, .mode = 0600};
    ground->options.max_partitions = 6;
    ground_open(ground);
    struct kq_topic *topic = ground_topic(ground, "t", 2);
    assert_int_equal(kq_topic_add_partitions(topic, &ground_caller, 1, 2, &attributes), -EEXIST);
    assert_int_equal(kq_topic_add_partitions(topic, &ground_caller, 2, 0, &attributes), -ENOENT);
    assert_int_equal(kq_topic_add_partitions(topic, &ground_caller, 2, INT32_MAX, &attributes),
                     -EDQUOT);
    assert_int_equal(kq_topic_add_partitions(topic, &ground_caller, 2, 5, &attributes), -EDQUOT);
    assert_int_equal(kq_topic_add_partitions(topic, &ground_caller, 2, 5, NULL), -EDQUOT);
    assert_int_equal(kq_topic_add_partitions(topic, &ground_caller, 2, 4, NULL), 0);
    assert_int_equal(kq_topic_partition_count(topic), 2);
    assert_int_equal(kq_topic_add_partitions(topic, &ground_caller, 2, 4, &attributes), 0);
    assert_int_equal(kq_topic_partition_count(topic), 6);
    kq_topic_unref(topic);
    ground_reopen(ground);
    topic = ground_find(ground, "t");
    assert_int_equal(kq_topic_partition_count(topic), 6);
    kq_topic_unref(topic);
}

static void several_settings_are_altered_all_or_none(void **state)
{
    struct ground *ground = *state;
    struct kq_topic_config config;
    struct kq_topic_refusal refusal;
    const struct kq_topic_setting first[] = {{"retention.ms", "5"}, {"segment.bytes", "4096"}};
    const struct kq_topic_setting bad[] = {{"retention.ms", "6"}, {"segment.bytes", "x"}};
    const struct kq_topic_setting second[] = {{"retention.ms", "7"}, {"flush.messages", NULL}};
    ground_open(ground);
    struct kq_topic *topic = ground_topic(ground, "t", 1);
    struct kq_topic_alteration alteration = {.changes = first, .count = 2};
    assert_int_equal(kq_topic_alter_config(topic, &ground_caller, &alteration, &refusal), 0);
    alteration.changes = bad;
    assert_int_equal(kq_topic_alter_config(topic, &ground_caller, &alteration, &refusal), -EINVAL);
    assert_string_equal(refusal.name, "segment.bytes");
    kq_topic_config(topic, &config);
    assert_int_equal(config.log.retention_ms, 5);
    alteration = (struct kq_topic_alteration){.changes = second, .count = 2, .check_only = true};
    assert_int_equal(kq_topic_alter_config(topic, &ground_caller, &alteration, &refusal), 0);
    kq_topic_config(topic, &config);
    assert_int_equal(config.log.retention_ms, 5);
    alteration.check_only = false;
    alteration.replace = true;
    assert_int_equal(kq_topic_alter_config(topic, &ground_caller, &alteration, &refusal), 0);
    assert_false(kq_topic_config_is_own(topic, "segment.bytes"));
    kq_topic_unref(topic);
    ground_reopen(ground);
    topic = ground_find(ground, "t");
    kq_topic_config(topic, &config);
    assert_int_equal(config.log.retention_ms, 7);
    assert_int_equal(config.log.segment_bytes, 1 << 30);
    kq_topic_unref(topic);
}

static void what_was_made_from_an_old_value_is_not_written(void **state)
{
    struct ground *ground = *state;
    ground_open(ground);
    struct kq_topic *topic = ground_topic(ground, "t", 1);
    const struct kq_topic_setting change = {"cleanup.policy", "compact,delete"};
    struct kq_topic_setting expected[] = {{"cleanup.policy", "delete"}, {"flush.ms", "1"}};
    struct kq_topic_alteration alteration = {
        .changes = &change, .count = 1, .expected = expected, .expected_count = 2};
    assert_int_equal(kq_topic_alter_config(topic, &ground_caller, &alteration, NULL), -EAGAIN);
    assert_false(kq_topic_config_is_own(topic, "cleanup.policy"));
    alteration.expected_count = 1;
    assert_int_equal(kq_topic_alter_config(topic, &ground_caller, &alteration, NULL), 0);
    assert_int_equal(kq_topic_alter_config(topic, &ground_caller, &alteration, NULL), -EAGAIN);
    expected[0].value = "compact,delete";
    assert_int_equal(kq_topic_alter_config(topic, &ground_caller, &alteration, NULL), 0);
    kq_topic_unref(topic);
}

static void a_setting_is_set_and_unset_and_persists(void **state)
{
    struct ground *ground = *state;
    struct kq_topic_config config;
    ground_open(ground);
    struct kq_topic *topic = ground_topic(ground, "t", 1);
    assert_int_equal(kq_topic_set_config(topic, &ground_caller, "retention.ms", "5"), 0);
    assert_int_equal(ground->asked, KQ_RIGHT_ALTER_CONFIG);
    assert_int_equal(kq_topic_set_config(topic, &ground_caller, "segment.bytes", "4096"), 0);
    assert_int_equal(kq_topic_set_config(topic, &ground_caller, "retention.ms", "7"), 0);
    assert_int_equal(kq_topic_set_config(topic, &ground_caller, "retention.ms", "x"), -EINVAL);
    assert_int_equal(kq_topic_set_config(topic, &ground_caller, "no.such", "x"), -ENOTSUP);
    assert_int_equal(kq_topic_set_config(topic, &ground_caller, "no.such", NULL), -ENOTSUP);
    ground->denied = KQ_RIGHT_ALTER_CONFIG;
    assert_int_equal(kq_topic_set_config(topic, &ground_caller, "retention.ms", "8"), -EACCES);
    ground->denied = 0;
    kq_topic_unref(topic);
    ground->options.topic_defaults.log.retention_ms = 99;
    ground_reopen(ground);
    topic = ground_find(ground, "t");
    kq_topic_config(topic, &config);
    assert_int_equal(config.log.retention_ms, 7);
    assert_int_equal(config.log.segment_bytes, 4096);
    assert_int_equal(kq_topic_set_config(topic, &ground_caller, "retention.ms", NULL), 0);
    kq_topic_config(topic, &config);
    assert_int_equal(config.log.retention_ms, 99);
    assert_false(kq_topic_config_is_own(topic, "retention.ms"));
    assert_true(kq_topic_config_is_own(topic, "segment.bytes"));
    kq_topic_unref(topic);
}

/* --- Events --- */

struct ear {
    struct kq_listener listener;
    char heard[512];
};

static void hear(struct kq_listener *listener, enum kq_event event, struct kq_topic *topic,
                 struct kq_partition *partition)
{
    static const char letters[] = "CDPAGSM";
    struct ear *ear = (struct ear *)listener;
    size_t length = strlen(ear->heard);
    snprintf(ear->heard + length, sizeof(ear->heard) - length, "%c%s%s ", letters[event],
             topic ? kq_topic_name(topic) : "/", partition ? "*" : "");
}

static void listeners_hear_of_each_change_in_order(void **state)
{
    struct ground *ground = *state;
    struct ear ear = {.listener.event = hear}, other = {.listener.event = hear};
    const struct kq_attributes attributes = {.mode = 0700};
    struct kq_log_appended appended;
    ground_open(ground);
    kq_broker_listen(ground->broker, &ear.listener);
    kq_broker_listen(ground->broker, &other.listener);
    struct kq_topic *topic = ground_topic(ground, "t", 1);
    struct kq_access access = ground_access(topic, 0);
    kq_topic_add_partition(topic, &ground_caller, 1, &attributes);
    kq_topic_set_config(topic, &ground_caller, "retention.ms", "-1");
    kq_attributes_set(ground->broker, NULL, NULL, &ground_caller, &attributes);
    kq_attributes_set(ground->broker, topic, NULL, &ground_caller, &attributes);
    kq_attributes_set(ground->broker, topic, access.partition, &ground_caller, &attributes);
    assert_int_equal(ground_append(&access, "x\n", &appended), 0);
    assert_int_equal(kq_delete_records(access.partition, &ground_caller, -1), 0);
    kq_broker_unlisten(ground->broker, &other.listener);
    assert_int_equal(kq_topic_delete(topic, &ground_caller, false), 0);
    assert_string_equal(ear.heard, "Ct Pt* Gt A/ At At* Mt* St* Dt ");
    assert_string_equal(other.heard, "Ct Pt* Gt A/ At At* Mt* St* ");
    kq_broker_unlisten(ground->broker, &ear.listener);
    kq_topic_unref(topic);
}

/* --- Threads --- */

static void *create_and_delete(void *argument)
{
    struct ground *ground = argument;
    for (int i = 0; i < 15; i++) {
        struct kq_topic_spec spec = {.name = "t", .partitions = 2};
        struct kq_topic *topic;
        int r = kq_topic_create(ground->broker, &ground_caller, &spec, &topic);
        assert_true(r == 0 || r == -EEXIST || r == -EBUSY);
        if (r == 0) {
            r = kq_topic_delete(topic, &ground_caller, false);
            assert_int_equal(r, 0);
            kq_topic_unref(topic);
        }
    }
    return NULL;
}

static void *use_what_is_there(void *argument)
{
    struct ground *ground = argument;
    for (int i = 0; i < 300; i++) {
        struct kq_topic *topic;
        struct kq_log_appended appended;
        struct kq_access access;
        struct kq_partition *partition;
        if (kq_topic_get(ground->broker, "t", &topic) < 0)
            continue;
        assert_int_equal(kq_partition_get(topic, 1, &partition), 0);
        int r = kq_partition_access(partition, &ground_caller, KQ_RIGHT_WRITE, &access);
        if (r == 0)
            r = ground_append(&access, "x\n", &appended);
        assert_true(r == 0 || r == -ESTALE);
        kq_partition_unref(partition);
        kq_topic_unref(topic);
    }
    return NULL;
}

static void creating_deleting_and_using_one_name_may_meet(void **state)
{
    struct ground *ground = *state;
    pthread_t threads[4];
    ground_open(ground);
    for (int i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&threads[i], NULL,
                                        i < 2 ? create_and_delete : use_what_is_there, ground),
                         0);
    for (int i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    assert_false(ground_has(ground, "t-0"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_name_is_what_kafka_allows),
        GROUND_TEST(a_new_topic_is_there_with_what_was_asked_for),
        GROUND_TEST(what_cannot_be_created_is_refused_and_leaves_nothing),
        GROUND_TEST(the_walk_goes_by_name_and_survives_changes),
        GROUND_TEST(a_deleted_topic_is_gone_and_its_name_free),
        GROUND_TEST(an_empty_topic_goes_when_only_empty_ones_may),
        GROUND_TEST(a_topic_of_an_old_name_begins_at_0),
        GROUND_TEST(only_the_next_partition_can_be_added),
        GROUND_TEST(several_partitions_are_added_all_or_none),
        GROUND_TEST(several_settings_are_altered_all_or_none),
        GROUND_TEST(what_was_made_from_an_old_value_is_not_written),
        GROUND_TEST(a_setting_is_set_and_unset_and_persists),
        GROUND_TEST(listeners_hear_of_each_change_in_order),
        GROUND_TEST(creating_deleting_and_using_one_name_may_meet),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
