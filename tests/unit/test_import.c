/* Starting on a directory that was a Kafka broker's. */
#include "tests/unit/metadata_kit.h"

#include "tests/unit/ground.h"

#include <dirent.h>

#include "broker/epochs.h"
#include "broker/internal.h"
#include "broker/quota.h"

#define ORDERS "36OQUqnnSyCY1Pg4F2DYHA"
#define GROWN "WChZtqIyQ_GImJG35WG35w"
#define OTHER "h1iWT3-_RheGi84weAYQOQ"

/* --- A directory as Kafka leaves it --- */

static char all_said[1 << 14];

static void said_all_tap(int priority, const char *line)
{
    size_t length = strlen(all_said);
    snprintf(all_said + length, sizeof(all_said) - length, "%s\n", line);
    said_tap(priority, line);
}

static void clear_said(void)
{
    said_clear();
    all_said[0] = '\0';
    kq_diag_set_tap(said_all_tap);
}

/* COUNT messages from offset FIRST on, as one batch. */
static void write_messages(struct ground *ground, const char *directory, int64_t first, int count)
{
    struct kq_buf batch = {0};
    struct kq_batch_builder builder;
    char name[400], path[1700];
    assert_int_equal(kq_batch_begin(&builder, &batch, 0), 0);
    for (int i = 0; i < count; i++)
        assert_int_equal(kq_batch_add(&builder, 1000 + i, NULL, -1, "value", 5, NULL, 0, 0), 0);
    kq_batch_finish(&builder);
    kq_batch_patch(batch.data, first, 0);
    snprintf(name, sizeof(name), "%s/%020lld.log", directory, (long long)first);
    snprintf(path, sizeof(path), "%s", ground_path(ground, name));
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fwrite(batch.data, 1, batch.length, file);
    assert_int_equal(fclose(file), 0);
    kq_buf_release(&batch);
}

/* Partition NUMBER of TOPIC with COUNT messages; ID NULL: without Kafka's file that says it. */
static void add_partition(struct ground *ground, const char *topic, int32_t number, const char *id,
                          int count)
{
    char name[300], text[64];
    snprintf(name, sizeof(name), "%s-%d", topic, number);
    assert_int_equal(mkdir(ground_path(ground, name), 0755), 0);
    if (count)
        write_messages(ground, name, 0, count);
    snprintf(name, sizeof(name), "%s-%d/leader-epoch-checkpoint", topic, number);
    ground_write(ground, name, "0\n1\n0 0\n");
    if (!id)
        return;
    snprintf(name, sizeof(name), "%s-%d/partition.metadata", topic, number);
    snprintf(text, sizeof(text), "version: 0\ntopic_id: %s", id);
    ground_write(ground, name, text);
}

static void mark(struct ground *ground, int64_t epoch)
{
    char text[64];
    snprintf(text, sizeof(text), "{\"version\":0,\"brokerEpoch\":%lld}", (long long)epoch);
    ground_write(ground, ".kafka_cleanshutdown", text);
}

static void write_properties(struct ground *ground)
{
    ground_write(
        ground, "meta.properties",
        "#\n#Sun Nov 22 16:24:46 UTC 2026\nnode.id=7\ndirectory.id=HfowrXCZ_qrARnJ57uvWnA\n"
        "version=1\ncluster.id=a3Fmc0V4Y2hhbmdlVGVzdA\n");
}

/* Three partitions of orders, four of grown, as the recorded metadata knows them. */
static void prepare(struct ground *ground)
{
    write_properties(ground);
    mark(ground, 12);
    metadata_copy_recorded(ground->path, RECORDED_LOG);
    metadata_copy_recorded(ground->path, RECORDED_SNAPSHOT);
    for (int32_t i = 0; i < 3; i++)
        add_partition(ground, "orders", i, ORDERS, 5);
    for (int32_t i = 0; i < 4; i++)
        add_partition(ground, "grown", i, GROWN, i);
    clear_said();
}

static void open_said(struct ground *ground)
{
    clear_said();
    ground_open(ground);
}

static bool was_said(const char *text)
{
    return strstr(all_said, text) != NULL;
}

static bool has_topic(struct ground *ground, const char *name)
{
    struct kq_topic *topic;
    if (kq_topic_get(ground->broker, name, &topic) != 0)
        return false;
    kq_topic_unref(topic);
    return true;
}

static void check_setting(struct ground *ground, const char *name, const char *setting,
                          const char *value)
{
    kq_autobuf struct kq_buf text = {0};
    struct kq_topic_config config;
    struct kq_topic *topic = ground_find(ground, name);
    kq_topic_config(topic, &config);
    assert_int_equal(kq_topic_config_format(&config, setting, &text), 0);
    assert_int_equal(kq_buf_append(&text, "", 1), 0);
    assert_string_equal(text.data, value);
    kq_topic_unref(topic);
}

static void check_topic(struct ground *ground, const char *name, const char *id, int32_t partitions)
{
    char text[KQ_UUID_TEXT + 1];
    struct kq_topic *topic = ground_find(ground, name);
    kq_uuid_format(kq_topic_id(topic), text);
    if (id)
        assert_string_equal(text, id);
    assert_int_equal(kq_topic_partition_count(topic), partitions);
    kq_topic_unref(topic);
}

static int64_t end_of(struct ground *ground, const char *name, int32_t number)
{
    struct kq_topic *topic = ground_find(ground, name);
    struct kq_access access = ground_access(topic, number);
    int64_t end = ground_end(&access);
    kq_topic_unref(topic);
    return end;
}

/* --- Taking over --- */

static void topics_ids_and_configurations_come_from_the_metadata(void **state)
{
    struct ground *ground = *state;
    prepare(ground);
    open_said(ground);
    check_topic(ground, "orders", ORDERS, 3);
    check_topic(ground, "grown", GROWN, 4);
    assert_false(has_topic(ground, "late")); /* its partition is not here */
    assert_int_equal(end_of(ground, "orders", 2), 5);
    assert_int_equal(end_of(ground, "grown", 0), 0);
    check_setting(ground, "orders", "retention.ms", "86400000");
    check_setting(ground, "orders", "cleanup.policy", "compact,delete");
    check_setting(ground, "orders", "segment.bytes", "1000002");
    assert_int_equal(kq_broker_node_id(ground->broker), 7);
    /* What all brokers, and this one, go by where a topic says nothing. */
    check_setting(ground, "grown", "retention.ms", "7200000");
    check_setting(ground, "grown", "max.message.bytes", "2000000");
    assert_true(was_said("took over 2 topics with 7 partitions"));
    assert_true(was_said("unclean.leader.election.enable=true of orders is left out"));
    assert_true(was_said("1 users, 0 other quotas and 1 ACLs"));
    assert_false(was_said("nothing tells how long"));
    int64_t id;
    assert_int_equal(kq_producer_ids_take(&ground->broker->producer_ids, true, &id), 0);
    assert_true(id >= 1000);
    ground_reopen(ground);
    check_topic(ground, "orders", ORDERS, 3);
}

static void write_quotas(struct ground *ground, const char *const users[], double limit)
{
    struct metadata metadata = {0};
    metadata_begin_batch(&metadata);
    for (size_t i = 0; users[i]; i++)
        metadata_add_quota(&metadata, users[i], NULL, "producer_byte_rate", limit);
    metadata_end_batch(&metadata);
    metadata_write(ground->path, RECORDED_LOG, metadata.bytes.data, metadata.bytes.length);
    metadata_release(&metadata);
}

static int set_quota(struct ground *ground, const char *user, double limit)
{
    const struct kq_quota_change change = {
        {.has_user = true, .user = user}, KQ_QUOTA_PRODUCE, limit};
    return kq_quota_alter(ground->broker, &ground_caller, &change, 1, false);
}

/* What USER may send at once is what ten seconds allow. */
static int64_t quota_of(struct ground *ground, const char *principal)
{
    const struct kq_caller caller = {.principal = principal};
    int64_t most = kq_quota_at_once(kq_broker_quotas(ground->broker), KQ_QUOTA_PRODUCE, &caller);
    return most == INT64_MAX ? 0 : most / 10;
}

static void quotas_come_from_the_metadata_too(void **state)
{
    struct ground *ground = *state;
    write_properties(ground);
    mark(ground, 12);
    add_partition(ground, "t", 0, ORDERS, 1);
    write_quotas(ground, (const char *[]){"a", "b", NULL}, 100);
    open_said(ground);
    assert_true(was_said("took over quotas of 2 users and client ids"));
    assert_int_equal(quota_of(ground, "User:a"), 100);
    assert_int_equal(set_quota(ground, "a", 0), 0);
    assert_int_equal(set_quota(ground, "own", 7), 0);
    clear_said();
    ground_reopen(ground);
    assert_false(was_said("quotas"));
    assert_int_equal(quota_of(ground, "User:a"), 0);
    assert_int_equal(quota_of(ground, "User:b"), 100);
    ground_close(ground);
    mark(ground, 13); /* Kafka has run */
    write_quotas(ground, (const char *[]){"b", "c", NULL}, 300);
    open_said(ground);
    assert_int_equal(quota_of(ground, "User:b"), 300);
    assert_int_equal(quota_of(ground, "User:c"), 300);
    assert_int_equal(quota_of(ground, "User:own"), 7);
}

static void quotas_that_are_too_many_are_left_out(void **state)
{
    struct ground *ground = *state;
    ground->options.quotas = (struct kq_quota_options){
        .windows = 11, .window_s = 1, .max_entities = 1, .max_accounts = 1};
    write_properties(ground);
    mark(ground, 12);
    add_partition(ground, "t", 0, ORDERS, 1);
    write_quotas(ground, (const char *[]){"a", "b", NULL}, 100);
    open_said(ground);
    assert_true(was_said("quota.max.entities"));
    assert_int_equal(quota_of(ground, "User:a"), 0);
    assert_int_equal(end_of(ground, "t", 0), 1);
}

static void owner_and_mode_are_those_of_the_directory(void **state)
{
    struct ground *ground = *state;
    struct kq_attributes attributes;
    struct stat st;
    prepare(ground);
    assert_int_equal(chmod(ground->path, 0750), 0);
    assert_int_equal(stat(ground->path, &st), 0);
    ground_open(ground);
    struct kq_topic *topic = ground_find(ground, "orders");
    kq_attributes_peek(ground->broker, NULL, NULL, &attributes);
    assert_int_equal(attributes.uid, st.st_uid);
    assert_int_equal(attributes.mode, 01750);
    kq_attributes_peek(ground->broker, topic, NULL, &attributes);
    assert_int_equal(attributes.uid, st.st_uid);
    assert_int_equal(attributes.mode, 01750);
    kq_attributes_peek(ground->broker, topic, ground_access(topic, 1).partition, &attributes);
    assert_int_equal(attributes.gid, st.st_gid);
    assert_int_equal(attributes.mode, 0640);
    kq_topic_unref(topic);
}

/* The text of all files of Kafka's metadata and of segments, one behind the other. */
static void read_kafkas_files(struct ground *ground, struct kq_buf *ret)
{
    static const char *const files[] = {
        KQ_METALOG_DIRECTORY "/" RECORDED_LOG, KQ_METALOG_DIRECTORY "/" RECORDED_SNAPSHOT,
        "orders-0/00000000000000000000.log", "orders-0/partition.metadata",
        "orders-0/leader-epoch-checkpoint"};
    for (size_t i = 0; i < kq_array_size(files); i++)
        assert_int_equal(kq_io_slurp(AT_FDCWD, ground_path(ground, files[i]), 1 << 20, ret), 0);
}

static void kafkas_files_stay_as_they_are(void **state)
{
    struct ground *ground = *state;
    kq_autobuf struct kq_buf before = {0}, after = {0}, text = {0};
    prepare(ground);
    read_kafkas_files(ground, &before);
    ground_open(ground);
    ground_close(ground);
    read_kafkas_files(ground, &after);
    assert_int_equal(before.length, after.length);
    assert_memory_equal(before.data, after.data, before.length);
    /* Kafka finds the mark of its own last start. */
    assert_int_equal(kq_io_slurp(AT_FDCWD, ground_path(ground, ".kafka_cleanshutdown"), 100, &text),
                     0);
    assert_int_equal(kq_buf_append(&text, "", 1), 0);
    assert_non_null(strstr((char *)text.data, "\"brokerEpoch\":12}"));
    text.length = 0;
    assert_int_equal(kq_io_slurp(AT_FDCWD, ground_path(ground, "meta.properties"), 1000, &text), 0);
    assert_int_equal(kq_buf_append(&text, "", 1), 0);
    assert_non_null(strstr((char *)text.data, "directory.id=HfowrXCZ_qrARnJ57uvWnA\n"));
    ground_open(ground);
}

static void without_metadata_nothing_is_deleted(void **state)
{
    struct ground *ground = *state;
    write_properties(ground);
    add_partition(ground, "a", 0, ORDERS, 5);
    add_partition(ground, "a", 1, ORDERS, 0);
    add_partition(ground, "b", 0, NULL, 0);
    open_said(ground);
    check_topic(ground, "a", ORDERS, 2);
    check_topic(ground, "b", NULL, 1); /* empty, and Kafka's all the same */
    check_setting(ground, "a", "retention.ms", "-1");
    check_setting(ground, "b", "cleanup.policy", "delete");
    assert_true(was_said("took over 2 topics"));
    assert_true(was_said("nothing tells how long messages of 2 topics"));
    assert_true(was_said("user.kqfs.retention.ms"));
    ground_reopen(ground);
    check_topic(ground, "b", NULL, 1);
}

static void damaged_metadata_is_as_good_as_none(void **state)
{
    struct ground *ground = *state;
    prepare(ground);
    char path[400];
    snprintf(path, sizeof(path), "%s", metadata_path(ground->path, RECORDED_SNAPSHOT));
    assert_int_equal(truncate(path, 1000), 0);
    open_said(ground);
    assert_true(was_said("is damaged"));
    check_topic(ground, "orders", ORDERS, 3);
    check_setting(ground, "orders", "retention.ms", "-1");
    check_setting(ground, "orders", "cleanup.policy", "delete");
}

static void a_default_that_is_configured_here_holds(void **state)
{
    struct ground *ground = *state;
    write_properties(ground);
    add_partition(ground, "a", 0, ORDERS, 5);
    ground->options.topic_defaults.log.retention_ms = 5;
    open_said(ground);
    check_setting(ground, "a", "retention.ms", "5");
    assert_false(was_said("nothing tells how long"));
}

/* --- What is not all here --- */

static void partitions_of_other_brokers_are_left_to_them(void **state)
{
    struct ground *ground = *state;
    prepare(ground);
    assert_int_equal(directory_remove(ground_path(ground, "grown-2")), 0);
    assert_int_equal(directory_remove(ground_path(ground, "grown-3")), 0);
    open_said(ground);
    check_topic(ground, "grown", GROWN, 2);
    assert_true(was_said("of 1 topics (grown) Kafka has more partitions"));
}

static void check_refused(struct ground *ground, const char *name)
{
    struct kq_topic *topic;
    const struct kq_topic_spec spec = {.name = name, .partitions = 1};
    assert_false(has_topic(ground, name));
    assert_int_equal(kq_topic_create(ground->broker, &ground_caller, &spec, &topic), -EBUSY);
    assert_true(was_said("is left out and its directories untouched"));
}

static void a_topic_with_a_hole_is_refused_and_left(void **state)
{
    struct ground *ground = *state;
    kq_autobuf struct kq_buf text = {0};
    prepare(ground);
    assert_int_equal(directory_remove(ground_path(ground, "orders-0")), 0);
    ground_write(ground, KQ_CHECKPOINT_START, "0\n2\norders 1 3\ngrown 3 1\n");
    open_said(ground);
    check_refused(ground, "orders");
    for (int start = 0; start < 2; start++) {
        clear_said();
        ground_reopen(ground);
        check_refused(ground, "orders");
    }
    assert_true(ground_has(ground, "orders-1/00000000000000000000.log"));
    assert_false(ground_has(ground, "orders-0"));
    assert_false(ground_has(ground, "orders.topic"));
    assert_int_equal(kq_io_slurp(AT_FDCWD, ground_path(ground, KQ_CHECKPOINT_START), 1000, &text),
                     0);
    assert_int_equal(kq_buf_append(&text, "", 1), 0);
    assert_non_null(strstr((char *)text.data, "orders 1 3\n"));
    assert_non_null(strstr((char *)text.data, "grown 3 1\n"));
}

static void directories_of_another_topic_are_refused(void **state)
{
    struct ground *ground = *state;
    prepare(ground);
    assert_int_equal(directory_remove(ground_path(ground, "orders-1")), 0);
    add_partition(ground, "orders", 1, OTHER, 3);
    assert_int_equal(directory_remove(ground_path(ground, "grown-1")), 0);
    assert_int_equal(directory_remove(ground_path(ground, "grown-2")), 0);
    assert_int_equal(directory_remove(ground_path(ground, "grown-3")), 0);
    assert_int_equal(directory_remove(ground_path(ground, "grown-0")), 0);
    add_partition(ground, "grown", 0, OTHER, 3);
    open_said(ground);
    check_refused(ground, "orders");
    check_refused(ground, "grown");
    assert_true(was_said("of different topics"));
    assert_true(was_said("which Kafka deleted"));
}

static void the_metadata_itself_is_no_topic(void **state)
{
    struct ground *ground = *state;
    struct kq_topic *topic;
    const struct kq_topic_spec spec = {.name = KQ_METALOG_TOPIC, .partitions = 1};
    prepare(ground);
    open_said(ground);
    assert_false(was_said(KQ_METALOG_DIRECTORY));
    assert_int_equal(kq_topic_create(ground->broker, &ground_caller, &spec, &topic), -EINVAL);
    assert_true(ground_has(ground, KQ_METALOG_DIRECTORY "/" RECORDED_LOG));
}

/* --- When Kafka has run in between --- */

static void set(struct ground *ground, const char *name, const char *setting, const char *value)
{
    struct kq_topic *topic = ground_find(ground, name);
    assert_int_equal(kq_topic_set_config(topic, &ground_caller, setting, value), 0);
    kq_topic_unref(topic);
}

static void settings_made_here_last_until_kafka_runs(void **state)
{
    struct ground *ground = *state;
    prepare(ground);
    ground_open(ground);
    set(ground, "orders", "retention.ms", "7");
    set(ground, "orders", "key.separator", "=");
    clear_said();
    ground_reopen(ground);
    assert_int_equal(said_count, 0);
    check_setting(ground, "orders", "retention.ms", "7");
    ground_close(ground);
    mark(ground, 40); /* its next start */
    add_partition(ground, "late", 0, OTHER, 1);
    open_said(ground);
    assert_true(was_said("took over 3 topics"));
    check_topic(ground, "late", OTHER, 1);
    check_setting(ground, "orders", "retention.ms", "86400000");
    check_setting(ground, "orders", "key.separator", "=");
}

static void what_kafka_deleted_is_forgotten(void **state)
{
    struct ground *ground = *state;
    struct kq_log_appended appended;
    prepare(ground);
    add_partition(ground, "gone", 0, OTHER, 1);
    ground_open(ground);
    struct kq_topic *topic = ground_topic(ground, "ours", 1);
    struct kq_access access = ground_access(topic, 0);
    assert_int_equal(ground_append(&access, "a\n", &appended), 0);
    kq_topic_unref(topic);
    assert_true(has_topic(ground, "gone")); /* unknown to Kafka, kept */
    ground_close(ground);
    mark(ground, 40);
    assert_int_equal(directory_remove(ground_path(ground, "gone-0")), 0);
    open_said(ground);
    assert_true(was_said("Kafka deleted topic gone"));
    assert_false(has_topic(ground, "gone"));
    assert_int_equal(end_of(ground, "ours", 0), 1);
}

/* Kafka renames directories of topics that it does not know. */
static void what_kafka_put_aside_is_taken_back(void **state)
{
    struct ground *ground = *state;
    struct kq_log_appended appended;
    char to[1400];
    prepare(ground);
    ground_open(ground);
    struct kq_topic *topic = ground_topic(ground, "ours", 2);
    struct kq_access access = ground_access(topic, 1);
    assert_int_equal(ground_append(&access, "a\nb\n", &appended), 0);
    kq_topic_unref(topic);
    ground_close(ground);
    mark(ground, 40);
    for (int i = 0; i < 2; i++) {
        char from[16];
        snprintf(from, sizeof(from), "ours-%d", i);
        snprintf(to, sizeof(to), "%s.5c2ed8355156438a9803678ec32295b%d-stray",
                 ground_path(ground, from), i);
        assert_int_equal(rename(ground_path(ground, from), to), 0);
    }
    add_partition(ground, "x-0.5c2ed8355156438a9803678ec32295b9-stray", 0, OTHER, 1);
    open_said(ground);
    assert_true(was_said("Kafka had put aside 2 partitions"));
    assert_int_equal(end_of(ground, "ours", 1), 2);
    check_topic(ground, "ours", NULL, 2);
}

/* Kafka deleted the topic and made another of its name. */
static void a_topic_that_kafka_made_again_is_another(void **state)
{
    struct ground *ground = *state;
    prepare(ground);
    for (int i = 0; i < 3; i++) {
        char name[16];
        snprintf(name, sizeof(name), "orders-%d", i);
        assert_int_equal(directory_remove(ground_path(ground, name)), 0);
    }
    add_partition(ground, "orders", 0, GROWN, 2);
    assert_int_equal(unlink(metadata_path(ground->path, RECORDED_LOG)), 0);
    assert_int_equal(unlink(metadata_path(ground->path, RECORDED_SNAPSHOT)), 0);
    for (int32_t i = 0; i < 4; i++) {
        char name[16];
        snprintf(name, sizeof(name), "grown-%d", i);
        assert_int_equal(directory_remove(ground_path(ground, name)), 0);
    }
    ground_open(ground);
    check_topic(ground, "orders", GROWN, 1);
    ground_close(ground);
    assert_int_equal(directory_remove(ground_path(ground, "orders-0")), 0);
    metadata_copy_recorded(ground->path, RECORDED_LOG);
    for (int32_t i = 0; i < 3; i++)
        add_partition(ground, "orders", i, ORDERS, 5);
    open_said(ground);
    check_topic(ground, "orders", ORDERS, 3);
    check_setting(ground, "orders", "retention.ms", "86400000");
}

static void the_log_goes_on_with_the_epoch_that_the_cluster_was_in(void **state)
{
    struct ground *ground = *state;
    prepare(ground);
    ground_write(ground, "grown-1/leader-epoch-checkpoint", "0\n1\n0 0\n");
    ground_open(ground);
    struct kq_topic *topic = ground_find(ground, "grown");
    assert_int_equal(kq_log_epoch(ground_access(topic, 1).partition->log), 0);
    kq_topic_unref(topic);
}

static int setup(void **state)
{
    static struct ground ground;
    ground_setup(&ground);
    clear_said();
    *state = &ground;
    return 0;
}

static int teardown(void **state)
{
    ground_remove(*state);
    return 0;
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        TEST(topics_ids_and_configurations_come_from_the_metadata),
        TEST(quotas_come_from_the_metadata_too),
        TEST(quotas_that_are_too_many_are_left_out),
        TEST(owner_and_mode_are_those_of_the_directory),
        TEST(kafkas_files_stay_as_they_are),
        TEST(without_metadata_nothing_is_deleted),
        TEST(damaged_metadata_is_as_good_as_none),
        TEST(a_default_that_is_configured_here_holds),
        TEST(partitions_of_other_brokers_are_left_to_them),
        TEST(a_topic_with_a_hole_is_refused_and_left),
        TEST(directories_of_another_topic_are_refused),
        TEST(the_metadata_itself_is_no_topic),
        TEST(settings_made_here_last_until_kafka_runs),
        TEST(what_kafka_deleted_is_forgotten),
        TEST(what_kafka_put_aside_is_taken_back),
        TEST(a_topic_that_kafka_made_again_is_another),
        TEST(the_log_goes_on_with_the_epoch_that_the_cluster_was_in),
    };
    if (argc < 2)
        return 1;
    metadata_recorded = argv[1];
    return cmocka_run_group_tests(tests, NULL, NULL);
}
