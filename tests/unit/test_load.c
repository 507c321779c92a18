/* Starting on a data directory in which something is missing, damaged or half done. */
#include "tests/unit/ground.h"

#include <dirent.h>

#include "broker/internal.h"
#include "broker/store.h"

/* A topic "t" with messages in both partitions; the broker is closed. */
static void prepare(struct ground *ground)
{
    struct kq_log_appended appended;
    ground_open(ground);
    struct kq_topic *topic = ground_topic(ground, "t", 2);
    for (int32_t i = 0; i < 2; i++) {
        struct kq_access access = ground_access(topic, i);
        assert_int_equal(ground_append(&access, "a\nb\n", &appended), 0);
    }
    kq_topic_unref(topic);
    ground_close(ground);
    said_clear();
}

static void check_messages(struct ground *ground, int32_t partitions)
{
    struct kq_topic *topic = ground_find(ground, "t");
    assert_int_equal(kq_topic_partition_count(topic), partitions);
    for (int32_t i = 0; i < 2; i++) {
        struct kq_access access = ground_access(topic, i);
        assert_int_equal(ground_end(&access), 2);
    }
    kq_topic_unref(topic);
}

static void check_adopted(struct ground *ground, const char *id)
{
    struct kq_attributes attributes;
    char text[KQ_UUID_TEXT + 1];
    check_messages(ground, 2);
    struct kq_topic *topic = ground_find(ground, "t");
    struct kq_partition *partition = ground_access(topic, 1).partition;
    kq_attributes_peek(ground->broker, topic, NULL, &attributes);
    assert_int_equal(attributes.uid, geteuid());
    assert_int_equal(attributes.mode, 01700);
    kq_attributes_peek(ground->broker, topic, partition, &attributes);
    assert_int_equal(attributes.mode, 0600);
    kq_uuid_format(kq_topic_id(topic), text);
    assert_string_equal(text, id);
    assert_true(ground_has(ground, "t.topic"));
    kq_topic_unref(topic);
}

static void remember_id(struct ground *ground, char id[KQ_UUID_TEXT + 1])
{
    struct kq_topic_record record;
    kq_autoclose int fd = open(ground->path, O_RDONLY | O_DIRECTORY);
    assert_int_equal(kq_store_read(fd, "t", &record), 0);
    kq_uuid_format(record.id, id);
    kq_topic_record_release(&record);
}

static void without_its_metadata_a_topic_keeps_messages_and_id(void **state)
{
    struct ground *ground = *state;
    char id[KQ_UUID_TEXT + 1];
    prepare(ground);
    remember_id(ground, id);
    assert_int_equal(unlink(ground_path(ground, "t.topic")), 0);
    ground_open(ground);
    assert_non_null(strstr(said, "t.topic is missing"));
    check_adopted(ground, id);
    ground_reopen(ground);
    check_adopted(ground, id);
}

static void damaged_metadata_is_set_aside(void **state)
{
    struct ground *ground = *state;
    struct dirent **found;
    char id[KQ_UUID_TEXT + 1];
    prepare(ground);
    remember_id(ground, id);
    assert_int_equal(truncate(ground_path(ground, "t.topic"), 100), 0);
    ground_open(ground);
    assert_int_equal(said_count, 2);
    check_adopted(ground, id);
    int count = scandir(ground->path, &found, NULL, alphasort), damaged = 0;
    for (int i = 0; i < count; i++) {
        damaged += strstr(found[i]->d_name, ".damaged") != NULL;
        free(found[i]);
    }
    free(found);
    assert_int_equal(damaged, 1);
}

static void a_missing_partition_is_made_anew(void **state)
{
    struct ground *ground = *state;
    struct kq_log_appended appended;
    prepare(ground);
    assert_int_equal(directory_remove(ground_path(ground, "t-0")), 0);
    ground_open(ground);
    assert_int_equal(said_count, 2); /* the directory, the messages */
    struct kq_topic *topic = ground_find(ground, "t");
    struct kq_access access = ground_access(topic, 1);
    assert_int_equal(ground_end(&access), 2);
    access = ground_access(topic, 0);
    assert_int_equal(ground_append(&access, "x\n", &appended), 0);
    assert_int_equal(appended.base_offset, 2); /* no offset is given twice */
    kq_topic_unref(topic);
}

static void what_an_unfinished_creation_left_is_removed(void **state)
{
    struct ground *ground = *state;
    struct kq_topic *topic;
    prepare(ground);
    assert_int_equal(mkdir(ground_path(ground, "new-0"), 0700), 0);
    assert_int_equal(mkdir(ground_path(ground, "new-1"), 0700), 0);
    assert_int_equal(mkdir(ground_path(ground, "t-2"), 0700), 0);
    ground_write(ground, "new-0/00000000000000000000.log", "");
    ground_write(ground, "kqfs-tmp.12.34", "half");
    ground_open(ground);
    assert_int_equal(kq_topic_get(ground->broker, "new", &topic), -ENOENT);
    assert_false(ground_has(ground, "new-0"));
    assert_false(ground_has(ground, "new-1"));
    assert_false(ground_has(ground, "t-2"));
    assert_false(ground_has(ground, "kqfs-tmp.12.34"));
    check_messages(ground, 2);
}

static void messages_in_a_partition_the_metadata_does_not_know_are_kept(void **state)
{
    struct ground *ground = *state;
    char to[128];
    prepare(ground);
    ground_open(ground);
    kq_topic_unref(ground_topic(ground, "other", 1));
    ground_close(ground);
    /* t-3 has messages, t-2 is missing between. */
    snprintf(to, sizeof(to), "%s/t-3", ground->path);
    assert_int_equal(rename(ground_path(ground, "t-1"), to), 0);
    ground_open(ground);
    struct kq_topic *topic = ground_find(ground, "t");
    assert_int_equal(kq_topic_partition_count(topic), 4);
    struct kq_access access = ground_access(topic, 3);
    assert_int_equal(ground_end(&access), 2);
    kq_topic_unref(topic);
    assert_true(ground_has(ground, "t-2"));
}

static void a_decided_deletion_goes_on(void **state)
{
    struct ground *ground = *state;
    struct kq_topic_record record;
    struct kq_topic *topic;
    char to[128];
    prepare(ground);
    int fd = open(ground->path, O_RDONLY | O_DIRECTORY);
    assert_int_equal(kq_store_read(fd, "t", &record), 0);
    record.deleting = true;
    assert_int_equal(kq_store_write(fd, "t", &record), 0);
    kq_topic_record_release(&record);
    close(fd);
    snprintf(to, sizeof(to), "%s/t-0.00112233445566778899aabbccddeeff-delete", ground->path);
    assert_int_equal(rename(ground_path(ground, "t-0"), to), 0);
    ground_open(ground);
    assert_int_equal(kq_topic_get(ground->broker, "t", &topic), -ENOENT);
    assert_false(ground_has(ground, "t.topic"));
    assert_false(ground_has(ground, "t-1"));
    assert_int_equal(access(to, F_OK), -1);
    kq_topic_unref(ground_topic(ground, "t", 1));
}

static void damaged_checkpoints_lose_nothing(void **state)
{
    struct ground *ground = *state;
    prepare(ground);
    ground_write(ground, KQ_CHECKPOINT_RECOVERY, "0\n7\n");
    ground_write(ground, KQ_CHECKPOINT_START, "\xff\xfe");
    ground_open(ground);
    assert_int_equal(said_count, 2);
    check_messages(ground, 2);
}

static void a_damaged_root_is_told_and_replaced(void **state)
{
    struct ground *ground = *state;
    struct kq_attributes root;
    prepare(ground);
    ground_write(ground, KQ_STORE_ROOT, "[");
    ground->options.new_root.uid = 77;
    ground_open(ground);
    assert_non_null(strstr(said, KQ_STORE_ROOT));
    kq_attributes_peek(ground->broker, NULL, NULL, &root);
    assert_int_equal(root.uid, 77);
}

static void settings_at_odds_with_new_defaults_stop_the_start(void **state)
{
    struct ground *ground = *state;
    const struct kq_topic_setting separator = {"key.separator", "="};
    struct kq_topic_spec spec = {
        .name = "t", .partitions = 1, .settings = &separator, .setting_count = 1};
    struct kq_topic *topic;
    ground_open(ground);
    assert_int_equal(kq_topic_create(ground->broker, &ground_caller, &spec, &topic), 0);
    kq_topic_unref(topic);
    ground_close(ground);
    said_clear();
    ground->options.topic_defaults.text.delimiter[0] = '=';
    assert_int_equal(kq_broker_open(&ground->options, &ground->broker), -EINVAL);
    ground->broker = NULL;
    assert_true(said_count >= 1);
    ground->options.topic_defaults.text.delimiter[0] = '\n';
    ground_open(ground);
}

static void kafkas_directories_become_topics(void **state)
{
    struct ground *ground = *state;
    prepare(ground);
    static const char *const ours[] = {"t.topic", KQ_STORE_ROOT, "t-0/partition.metadata",
                                       "t-1/partition.metadata"};
    for (size_t i = 0; i < kq_array_size(ours); i++)
        assert_int_equal(unlink(ground_path(ground, ours[i])), 0);
    ground_write(ground, "meta.properties", "version=1\nnode.id=4\ncluster.id=x\n");
    ground_open(ground);
    check_messages(ground, 2);
    assert_true(ground_has(ground, "t-0/partition.metadata"));
}

static void more_than_the_limits_allow_is_refused(void **state)
{
    struct ground *ground = *state;
    prepare(ground);
    ground->options.max_partitions = 1;
    assert_int_equal(kq_broker_open(&ground->options, &ground->broker), -EDQUOT);
    ground->broker = NULL;
    ground->options.max_partitions = 2;
    ground_open(ground);
    check_messages(ground, 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        GROUND_TEST(without_its_metadata_a_topic_keeps_messages_and_id),
        GROUND_TEST(damaged_metadata_is_set_aside),
        GROUND_TEST(a_missing_partition_is_made_anew),
        GROUND_TEST(what_an_unfinished_creation_left_is_removed),
        GROUND_TEST(messages_in_a_partition_the_metadata_does_not_know_are_kept),
        GROUND_TEST(a_decided_deletion_goes_on),
        GROUND_TEST(damaged_checkpoints_lose_nothing),
        GROUND_TEST(a_damaged_root_is_told_and_replaced),
        GROUND_TEST(settings_at_odds_with_new_defaults_stop_the_start),
        GROUND_TEST(kafkas_directories_become_topics),
        GROUND_TEST(more_than_the_limits_allow_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
