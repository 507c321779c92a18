/* Every change of topics, with each of its disk and memory operations failing once: what holds
 * afterwards, at once and after a restart, is the old state or the new one, never a mixture, and
 * the messages that were there are there. */
#include "tests/unit/ground.h"

#include "broker/base/fault.h"

#define MESSAGES 3
#define DISK (~0u & ~KQ_FAULT_MEMORY)

/* One kind of change to the topic "t", which has two partitions with MESSAGES each. */
struct change {
    const char *name;
    int (*make)(struct ground *ground);
    /* Fails the test unless the state is wholly as before or wholly as after. Returns which. */
    bool (*is_made)(struct ground *ground);
};

static void prepare(struct ground *ground)
{
    struct kq_log_appended appended;
    ground_open(ground);
    struct kq_topic *topic = ground_topic(ground, "t", 2);
    for (int32_t i = 0; i < 2; i++) {
        struct kq_access access = ground_access(topic, i);
        for (int j = 0; j < MESSAGES; j++)
            assert_int_equal(ground_append(&access, "x\n", &appended), 0);
    }
    kq_topic_unref(topic);
}

static bool exists(struct ground *ground, const char *name)
{
    struct kq_topic *topic;
    if (kq_topic_get(ground->broker, name, &topic) < 0)
        return false;
    kq_topic_unref(topic);
    return true;
}

static void check_messages(struct ground *ground)
{
    struct kq_topic *topic = ground_find(ground, "t");
    for (int32_t i = 0; i < 2; i++) {
        struct kq_access access = ground_access(topic, i);
        assert_int_equal(ground_end(&access), MESSAGES);
    }
    kq_topic_unref(topic);
}

/* --- The changes --- */

static int create(struct ground *ground)
{
    const struct kq_topic_setting setting = {"retention.ms", "-1"};
    struct kq_topic_spec spec = {.name = "new",
                                 .partitions = 3,
                                 .topic = {.uid = 5, .mode = 0700},
                                 .settings = &setting,
                                 .setting_count = 1};
    struct kq_topic *topic;
    int r = kq_topic_create(ground->broker, &ground_caller, &spec, &topic);
    if (r == 0)
        kq_topic_unref(topic);
    return r;
}

static bool is_created(struct ground *ground)
{
    struct kq_attributes attributes;
    check_messages(ground);
    if (!exists(ground, "new"))
        return false;
    struct kq_topic *topic = ground_find(ground, "new");
    assert_int_equal(kq_topic_partition_count(topic), 3);
    assert_true(kq_topic_config_is_own(topic, "retention.ms"));
    kq_attributes_peek(ground->broker, topic, NULL, &attributes);
    assert_int_equal(attributes.uid, 5);
    kq_topic_unref(topic);
    return true;
}

static int delete (struct ground *ground)
{
    struct kq_topic *topic = ground_find(ground, "t");
    int r = kq_topic_delete(topic, &ground_caller, false);
    kq_topic_unref(topic);
    return r;
}

static bool is_deleted(struct ground *ground)
{
    if (!exists(ground, "t"))
        return true;
    check_messages(ground);
    return false;
}

static int add_partition(struct ground *ground)
{
    const struct kq_attributes attributes = {.uid = 7, .mode = 0600};
    struct kq_topic *topic = ground_find(ground, "t");
    int r = kq_topic_add_partition(topic, &ground_caller, 2, &attributes);
    kq_topic_unref(topic);
    return r;
}

static bool is_added(struct ground *ground)
{
    struct kq_attributes attributes;
    check_messages(ground);
    struct kq_topic *topic = ground_find(ground, "t");
    bool added = kq_topic_partition_count(topic) == 3;
    if (added) {
        struct kq_access access = ground_access(topic, 2);
        kq_attributes_peek(ground->broker, topic, access.partition, &attributes);
        assert_int_equal(attributes.uid, 7);
        assert_int_equal(ground_end(&access), 0);
    }
    kq_topic_unref(topic);
    return added;
}

static int set_retention(struct ground *ground)
{
    struct kq_topic *topic = ground_find(ground, "t");
    int r = kq_topic_set_config(topic, &ground_caller, "retention.bytes", "1000000");
    kq_topic_unref(topic);
    return r;
}

static bool is_retention_set(struct ground *ground)
{
    struct kq_topic_config config;
    check_messages(ground);
    struct kq_topic *topic = ground_find(ground, "t");
    bool own = kq_topic_config_is_own(topic, "retention.bytes");
    kq_topic_config(topic, &config);
    assert_int_equal(config.log.retention_bytes, own ? 1000000 : -1);
    kq_topic_unref(topic);
    return own;
}

static int set_delimiter(struct ground *ground)
{
    struct kq_topic *topic = ground_find(ground, "t");
    int r = kq_topic_set_config(topic, &ground_caller, "delimiter", "||");
    kq_topic_unref(topic);
    return r;
}

static bool is_delimiter_set(struct ground *ground)
{
    struct kq_topic_config config;
    struct kq_rendering rendering;
    check_messages(ground);
    struct kq_topic *topic = ground_find(ground, "t");
    kq_topic_config(topic, &config);
    for (int32_t i = 0; i < 2; i++) {
        struct kq_access access = ground_access(topic, i);
        kq_partition_rendering(access.partition, MESSAGES - 1, &rendering, NULL);
        assert_int_equal(rendering.delimiter_length, 1);
        kq_partition_rendering(access.partition, MESSAGES, &rendering, NULL);
        assert_int_equal(rendering.delimiter_length, config.text.delimiter_length);
    }
    kq_topic_unref(topic);
    return config.text.delimiter_length == 2;
}

static const struct kq_attributes others = {.uid = 42, .gid = 43, .mode = 0711};

static bool are_others(const struct kq_attributes *attributes)
{
    bool changed = attributes->uid == 42;
    assert_int_equal(attributes->gid == 43, changed);
    assert_int_equal((attributes->mode & 0777) == 0711, changed);
    return changed;
}

static int set_partition_attributes(struct ground *ground)
{
    struct kq_topic *topic = ground_find(ground, "t");
    struct kq_access access = ground_access(topic, 1);
    int r = kq_attributes_set(ground->broker, topic, access.partition, &ground_caller, &others);
    kq_topic_unref(topic);
    return r;
}

static bool are_partition_attributes_set(struct ground *ground)
{
    struct kq_attributes attributes;
    check_messages(ground);
    struct kq_topic *topic = ground_find(ground, "t");
    struct kq_access access = ground_access(topic, 1);
    kq_attributes_peek(ground->broker, topic, access.partition, &attributes);
    kq_topic_unref(topic);
    return are_others(&attributes);
}

static int set_root_attributes(struct ground *ground)
{
    return kq_attributes_set(ground->broker, NULL, NULL, &ground_caller, &others);
}

static bool are_root_attributes_set(struct ground *ground)
{
    struct kq_attributes attributes;
    check_messages(ground);
    kq_attributes_peek(ground->broker, NULL, NULL, &attributes);
    return are_others(&attributes);
}

static const struct change changes[] = {
    {"create", create, is_created},
    {"delete", delete, is_deleted},
    {"add a partition", add_partition, is_added},
    {"set retention.bytes", set_retention, is_retention_set},
    {"set delimiter", set_delimiter, is_delimiter_set},
    {"set a partition's attributes", set_partition_attributes, are_partition_attributes_set},
    {"set the root's attributes", set_root_attributes, are_root_attributes_set},
};

/* --- The round --- */

/* What was refused must not have happened; a restart does not change what holds. */
static void check(struct ground *ground, const struct change *change, int r)
{
    bool made = change->is_made(ground);
    assert_int_equal(made, r == 0);
    ground_reopen(ground);
    assert_int_equal(change->is_made(ground), made);
    if (!made) {
        assert_int_equal(change->make(ground), 0);
        assert_true(change->is_made(ground));
    }
}

static bool fail_nth(const struct change *change, unsigned kinds, long nth, int error)
{
    struct ground ground;
    ground_setup(&ground);
    prepare(&ground);
    kq_fault_arm(kinds, nth, error, false);
    int r = change->make(&ground);
    bool delivered = kq_fault_disarm();
    check(&ground, change, r);
    ground_remove(&ground);
    return delivered;
}

static void a_change_that_fails_leaves_the_old_state(void **state)
{
    for (size_t i = 0; i < kq_array_size(changes); i++) {
        long nth = 1;
        while (fail_nth(&changes[i], DISK, nth, EIO))
            nth++;
        print_message("%s: %ld operations failed in turn\n", changes[i].name, nth - 1);
        assert_true(nth > 3);
    }
}

static void a_change_without_memory_leaves_the_old_state(void **state)
{
    for (size_t i = 0; i < kq_array_size(changes); i++) {
        long nth = 1;
        while (fail_nth(&changes[i], KQ_FAULT_MEMORY, nth, ENOMEM))
            nth++;
        print_message("%s: %ld allocations failed in turn\n", changes[i].name, nth - 1);
        assert_true(nth > 1);
    }
}

/* A disk that fails from some moment on: the broker says no, and after its death all is there. */
static void a_disk_that_goes_on_failing_loses_nothing(void **state)
{
    for (size_t i = 0; i < kq_array_size(changes); i++) {
        bool delivered = true;
        for (long nth = 1; delivered; nth++) {
            struct ground ground;
            ground_setup(&ground);
            prepare(&ground);
            kq_fault_arm(DISK, nth, EIO, true);
            int r = changes[i].make(&ground);
            kq_broker_close(ground.broker);
            delivered = kq_fault_disarm() && r < 0;
            ground.broker = NULL;
            ground_open(&ground);
            bool made = changes[i].is_made(&ground);
            assert_true(made || r < 0);
            ground_remove(&ground);
        }
    }
}

/* --- Starting --- */

static void everything_holds(struct ground *ground)
{
    assert_true(is_delimiter_set(ground));
    assert_true(are_partition_attributes_set(ground));
    assert_true(are_root_attributes_set(ground));
    assert_true(is_created(ground));
}

static void start_with_failures(unsigned kinds, int error, bool clean)
{
    struct ground ground;
    ground_setup(&ground);
    prepare(&ground);
    assert_int_equal(set_delimiter(&ground), 0);
    assert_int_equal(set_partition_attributes(&ground), 0);
    assert_int_equal(set_root_attributes(&ground), 0);
    assert_int_equal(create(&ground), 0);
    ground_close(&ground);
    bool delivered = true;
    long nth;
    for (nth = 1; delivered; nth++) {
        if (!clean)
            unlink(ground_path(&ground, ".kafka_cleanshutdown"));
        kq_fault_arm(kinds, nth, error, false);
        int r = kq_broker_open(&ground.options, &ground.broker);
        delivered = kq_fault_disarm();
        if (r == 0)
            everything_holds(&ground);
        else
            ground_open(&ground);
        everything_holds(&ground);
        ground_close(&ground);
    }
    print_message("%ld operations failed in turn\n", nth - 2);
    ground_remove(&ground);
}

static void a_start_that_fails_changes_nothing(void **state)
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
        cmocka_unit_test(a_disk_that_goes_on_failing_loses_nothing),
        cmocka_unit_test(a_start_that_fails_changes_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
