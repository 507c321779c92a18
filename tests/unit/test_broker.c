#include "tests/unit/ground.h"

#include <sys/statvfs.h>
#include <sys/wait.h>

static void a_data_directory_is_made_with_kafkas_files(void **state)
{
    struct ground *ground = *state;
    char path[100], text[400] = "";
    struct stat st;
    snprintf(path, sizeof(path), "%s/deep/er", ground->path);
    ground->options.data_dir = path;
    ground_open(ground);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 07777, 0700);
    FILE *file = fopen(ground_path(ground, "deep/er/meta.properties"), "r");
    assert_non_null(file);
    assert_true(fread(text, 1, sizeof(text) - 1, file) > 0);
    fclose(file);
    assert_non_null(strstr(text, "version=1\n"));
    assert_non_null(strstr(text, "node.id=1\n"));
    assert_non_null(strstr(text, "cluster.id="));
    assert_non_null(strstr(text, "directory.id="));
    assert_non_null(strstr(text, "kqfs.format=1\n"));
    assert_false(ground_has(ground, "deep/er/.kafka_cleanshutdown"));
    ground_close(ground);
    assert_true(ground_has(ground, "deep/er/.kafka_cleanshutdown"));
}

static void a_second_broker_is_refused_and_told_who_has_it(void **state)
{
    struct ground *ground = *state;
    struct kq_broker *second;
    char pid[24];
    ground_open(ground);
    assert_int_equal(kq_broker_open(&ground->options, &second), -EWOULDBLOCK);
    snprintf(pid, sizeof(pid), "process %ld", (long)getpid());
    assert_non_null(strstr(said, ground->path));
    assert_non_null(strstr(said, pid));
    ground_reopen(ground);
}

static void data_of_a_newer_version_is_refused(void **state)
{
    struct ground *ground = *state;
    ground_write(ground, "meta.properties", "version=1\nkqfs.format=2\n");
    assert_int_equal(kq_broker_open(&ground->options, &ground->broker), -EPROTO);
    assert_non_null(strstr(said, "newer version"));
    ground->broker = NULL;
    ground_write(ground, "meta.properties", "#\nversion=1\nkqfs.format=1");
    ground_open(ground);
}

static void kafkas_own_properties_are_kept(void **state)
{
    struct ground *ground = *state;
    static const char kafkas[] = "#Mon\nbroker.id=7\ncluster.id=abc\nversion=0\n";
    char text[400] = "";
    ground_write(ground, "meta.properties", kafkas);
    ground_open(ground);
    FILE *file = fopen(ground_path(ground, "meta.properties"), "r");
    assert_true(fread(text, 1, sizeof(text) - 1, file) > 0);
    fclose(file);
    assert_memory_equal(text, kafkas, sizeof(kafkas) - 1);
    assert_null(strstr(text, "node.id"));
    assert_non_null(strstr(text, "kqfs.format=1\n"));
    assert_string_equal(kq_broker_cluster_id(ground->broker), "abc");
    assert_int_equal(kq_broker_node_id(ground->broker), 7);
}

static void who_the_broker_is_stays_the_same_after_every_start(void **state)
{
    struct ground *ground = *state;
    struct kq_broker *broker;
    char id[100];
    ground_open(ground);
    assert_int_equal(kq_broker_node_id(ground->broker), 1);
    snprintf(id, sizeof(id), "%s", kq_broker_cluster_id(ground->broker));
    assert_int_equal(strlen(id), 22);
    ground_reopen(ground);
    assert_string_equal(kq_broker_cluster_id(ground->broker), id);
    ground_close(ground);
    static const char *const bad[] = {"node.id=\ncluster.id=x\n", "node.id=-1\ncluster.id=x\n",
                                      "node.id=1x\ncluster.id=x\n",
                                      "node.id=2147483648\ncluster.id=x\n"};
    for (size_t i = 0; i < kq_array_size(bad); i++) {
        ground_write(ground, "meta.properties", bad[i]);
        assert_int_equal(kq_broker_open(&ground->options, &broker), -EINVAL);
        assert_non_null(strstr(said, "node.id"));
        said_clear();
    }
}

static void a_directory_that_cannot_be_used_is_named(void **state)
{
    struct ground *ground = *state;
    struct kq_broker *broker;
    char path[100];
    ground_write(ground, "file", "");
    snprintf(path, sizeof(path), "%s/file", ground->path);
    ground->options.data_dir = path;
    assert_int_equal(kq_broker_open(&ground->options, &broker), -ENOTDIR);
    assert_non_null(strstr(said, path));
    assert_non_null(strstr(said, "--data"));
}

static void everything_is_there_after_a_restart(void **state)
{
    struct ground *ground = *state;
    struct kq_log_appended appended;
    uint8_t id[16];
    ground_open(ground);
    struct kq_topic *topic = ground_topic(ground, "t", 2);
    struct kq_access access = ground_access(topic, 1);
    memcpy(id, kq_topic_id(topic), 16);
    int64_t created_ms = kq_topic_created_ms(topic);
    assert_int_equal(ground_append(&access, "a\nb\n", &appended), 0);
    kq_topic_unref(topic);
    ground_reopen(ground);
    topic = ground_find(ground, "t");
    access = ground_access(topic, 1);
    assert_memory_equal(kq_topic_id(topic), id, 16);
    assert_int_equal(kq_topic_created_ms(topic), created_ms);
    assert_int_equal(kq_topic_partition_count(topic), 2);
    assert_int_equal(ground_end(&access), 2);
    assert_int_equal(ground_append(&access, "c\n", &appended), 0);
    assert_int_equal(appended.base_offset, 2);
    kq_topic_unref(topic);
}

/* The child's broker dies without a word. */
static void everything_is_there_after_a_sudden_death(void **state)
{
    struct ground *ground = *state;
    pid_t child = fork();
    if (child == 0) {
        struct kq_log_appended appended;
        ground_open(ground);
        struct kq_topic *topic = ground_topic(ground, "t", 1);
        struct kq_access access = ground_access(topic, 0);
        for (int i = 0; i < 100; i++)
            assert_int_equal(ground_append(&access, "a\n", &appended), 0);
        _exit(0);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    ground_open(ground);
    struct kq_topic *topic = ground_find(ground, "t");
    struct kq_access access = ground_access(topic, 0);
    assert_int_equal(ground_end(&access), 100);
    kq_topic_unref(topic);
}

struct sleeper {
    struct kq_waiter waiter;
    int woken;
    enum kq_wake why;
};

static void wake(struct kq_waiter *waiter, enum kq_wake why)
{
    struct sleeper *sleeper = (struct sleeper *)waiter;
    sleeper->woken++;
    sleeper->why = why;
}

static void who_waits_hears_that_the_broker_closes(void **state)
{
    struct ground *ground = *state;
    struct sleeper sleeper = {.waiter.wake = wake};
    ground_open(ground);
    struct kq_topic *topic = ground_topic(ground, "t", 1);
    struct kq_access access = ground_access(topic, 0);
    assert_int_equal(kq_wait(access.partition, &sleeper.waiter, 0), 0);
    kq_topic_unref(topic);
    ground_close(ground);
    assert_int_equal(sleeper.woken, 1);
    assert_int_equal(sleeper.why, KQ_WAKE_CLOSING);
}

/* What a front end still holds does not die with the broker. */
static void references_outlive_the_broker(void **state)
{
    struct ground *ground = *state;
    struct kq_partition *partition;
    ground_open(ground);
    struct kq_topic *topic = ground_topic(ground, "t", 1);
    assert_int_equal(kq_partition_get(topic, 0, &partition), 0);
    kq_topic_unref(topic);
    ground_close(ground);
    assert_string_equal(kq_topic_name(kq_partition_topic(partition)), "t");
    kq_partition_unref(partition);
}

static void a_new_root_is_as_asked_and_then_stays(void **state)
{
    struct ground *ground = *state;
    struct kq_attributes root;
    ground_open(ground);
    kq_attributes_peek(ground->broker, NULL, NULL, &root);
    assert_int_equal(root.uid, 1);
    assert_int_equal(root.gid, 2);
    assert_int_equal(root.mode, 01755);
    ground_close(ground);
    ground->options.new_root.uid = 99;
    ground_open(ground);
    kq_attributes_peek(ground->broker, NULL, NULL, &root);
    assert_int_equal(root.uid, 1);
}

static void room_on_the_disk_is_that_of_the_data(void **state)
{
    struct ground *ground = *state;
    struct statvfs ours, theirs;
    ground_open(ground);
    assert_int_equal(kq_broker_statfs(ground->broker, &ours), 0);
    assert_int_equal(statvfs(ground->path, &theirs), 0);
    assert_int_equal(ours.f_blocks, theirs.f_blocks);
    assert_int_equal(ours.f_fsid, theirs.f_fsid);
}

static bool shows(struct ground *ground, const char *line)
{
    struct kq_buf text = {0};
    assert_int_equal(kq_broker_metrics(ground->broker, &text), 0);
    assert_int_equal(kq_buf_append(&text, "", 1), 0);
    bool found = strstr((char *)text.data, line) != NULL;
    kq_buf_release(&text);
    return found;
}

static void metrics_show_what_happened_and_totals_never_fall(void **state)
{
    struct ground *ground = *state;
    struct kq_log_appended appended;
    ground_open(ground);
    struct kq_topic *topic = ground_topic(ground, "t", 2);
    struct kq_access access = ground_access(topic, 1);
    assert_int_equal(ground_append(&access, "a\nb\n", &appended), 0);
    assert_int_equal(kq_delete_records(access.partition, &ground_caller, 1), 0);
    assert_true(shows(ground, "\nkqfs_topics 1\n"));
    assert_true(shows(ground, "\nkqfs_partitions 2\n"));
    assert_true(shows(ground, "\nkqfs_appended_messages_total 2\n"));
    assert_true(shows(ground, "\nkqfs_topic_messages_in_total{topic=\"t\"} 2\n"));
    assert_true(shows(ground, "\nkqfs_partition_start_offset{topic=\"t\",partition=\"1\"} 1\n"));
    assert_true(shows(ground, "\nkqfs_partition_end_offset{topic=\"t\",partition=\"1\"} 2\n"));
    assert_true(shows(ground, "\n# TYPE kqfs_appended_batches_total counter\n"));
    assert_int_equal(kq_topic_delete(topic, &ground_caller, false), 0);
    assert_true(shows(ground, "\nkqfs_topics 0\n"));
    assert_true(shows(ground, "\nkqfs_partitions 0\n"));
    assert_true(shows(ground, "\nkqfs_appended_messages_total 2\n"));
    assert_false(shows(ground, "topic=\"t\""));
    kq_topic_unref(topic);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        GROUND_TEST(a_data_directory_is_made_with_kafkas_files),
        GROUND_TEST(a_second_broker_is_refused_and_told_who_has_it),
        GROUND_TEST(data_of_a_newer_version_is_refused),
        GROUND_TEST(kafkas_own_properties_are_kept),
        GROUND_TEST(who_the_broker_is_stays_the_same_after_every_start),
        GROUND_TEST(a_directory_that_cannot_be_used_is_named),
        GROUND_TEST(everything_is_there_after_a_restart),
        GROUND_TEST(everything_is_there_after_a_sudden_death),
        GROUND_TEST(who_waits_hears_that_the_broker_closes),
        GROUND_TEST(references_outlive_the_broker),
        GROUND_TEST(a_new_root_is_as_asked_and_then_stays),
        GROUND_TEST(room_on_the_disk_is_that_of_the_data),
        GROUND_TEST(metrics_show_what_happened_and_totals_never_fall),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
