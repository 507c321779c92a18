#include "tests/unit/ground.h"

#include <semaphore.h>
#include <stdlib.h>

#include "broker/base/clock.h"
#include "broker/checkpoint.h"
#include "broker/compact.h"
#include "broker/internal.h"

#define KEYS 10

static struct heard {
    struct kq_listener listener;
    sem_t cleaned;
} heard;

static void hear(struct kq_listener *listener, enum kq_event event, struct kq_topic *topic,
                 struct kq_partition *partition)
{
    if (event == KQ_EVENT_TEXT_CLEANED)
        sem_post(&heard.cleaned);
}

static void open_ground(struct ground *ground)
{
    ground_open(ground);
    heard.listener = (struct kq_listener){.event = hear};
    sem_init(&heard.cleaned, 0, 0);
    kq_broker_listen(ground->broker, &heard.listener);
}

static int set_up(void **state)
{
    set_up_ground(state);
    struct ground *ground = *state;
    ground->options.cleaner = (struct kq_cleaner_options){.threads = 1,
                                                          .dedupe_bytes = 1 << 20,
                                                          .io_bytes = 1 << 16,
                                                          .io_rate = INT64_MAX,
                                                          .backoff_ms = 20};
    open_ground(ground);
    return 0;
}

static struct kq_topic *compacted(struct ground *ground, const char *name)
{
    static const struct kq_topic_setting settings[] = {
        {"cleanup.policy", "compact"},
        {"segment.bytes", "2000"},
        {"min.cleanable.dirty.ratio", "0.01"},
    };
    struct kq_topic *topic;
    struct kq_topic_spec spec = {.name = name,
                                 .partitions = 1,
                                 .topic = {.mode = 0750},
                                 .partition = {.mode = 0640},
                                 .settings = settings,
                                 .setting_count = 3};
    assert_int_equal(kq_topic_create(ground->broker, &ground_caller, &spec, &topic), 0);
    return topic;
}

static void wait_busy(struct ground *ground, struct kq_topic *topic)
{
    struct kq_cleaner *cleaner = &ground->broker->cleaner;
    for (bool busy = false; !busy; sched_yield()) {
        pthread_mutex_lock(&cleaner->lock);
        busy = kq_topic_at(topic, 0)->cleaning.busy;
        pthread_mutex_unlock(&cleaner->lock);
    }
}

static void append(struct kq_topic *topic, int count)
{
    struct kq_access access = ground_access(topic, 0);
    for (int i = 0; i < count; i++) {
        struct kq_buf batch = {0};
        struct kq_batch_builder builder;
        struct kq_log_appended appended;
        char key[8], value[64];
        snprintf(key, sizeof(key), "k%d", i % KEYS);
        snprintf(value, sizeof(value), "%d", i);
        assert_int_equal(kq_batch_begin(&builder, &batch, 0), 0);
        assert_int_equal(kq_batch_add(&builder, kq_clock_wall_ms(), key, (int32_t)strlen(key),
                                      value, (int32_t)strlen(value), NULL, 0, 0),
                         0);
        kq_batch_finish(&builder);
        struct kq_log_append append = {
            .bytes = batch.data, .length = batch.length, .text_length = -1};
        assert_int_equal(kq_append(&access, &append, &appended), 0);
        kq_buf_release(&batch);
    }
}

static void wait_cleaned(void)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += 60;
    while (sem_timedwait(&heard.cleaned, &until) < 0)
        assert_int_equal(errno, EINTR);
}

/* How far TOPIC's partition is recorded as clean; waits until it is up to LEAST. */
static int64_t recorded(struct ground *ground, const char *topic, int64_t least)
{
    struct kq_checkpoint record = {0};
    int64_t offset = -1;
    for (int i = 0; i < 6000 && offset < least; i++) {
        if (kq_checkpoint_read(ground->broker->dirfd, KQ_CHECKPOINT_CLEANER, &record) == 0)
            offset = kq_checkpoint_find(&record, topic, 0, -1);
        kq_checkpoint_release(&record);
        record = (struct kq_checkpoint){0};
        struct timespec pause = {.tv_nsec = 10000000};
        if (offset < least)
            nanosleep(&pause, NULL);
    }
    return offset;
}

static int64_t dirty_bytes(struct kq_topic *topic)
{
    struct kq_partition *partition = kq_topic_at(topic, 0);
    const struct kq_compact_config config = {.max_lag_ms = INT64_MAX};
    struct kq_compact_state state;
    assert_int_equal(kq_log_compact_look(partition->log, &config, partition->cleaning.first_dirty,
                                         kq_clock_wall_ms(), &state),
                     0);
    return state.dirty_bytes;
}

static void a_compacted_topic_is_cleaned_without_being_asked(void **state)
{
    struct ground *ground = *state;
    struct kq_topic *topic = compacted(ground, "t"), *other = ground_topic(ground, "other", 1);
    struct kq_log_text_bounds bounds;
    append(topic, 200);
    append(other, 200);
    wait_cleaned();
    assert_true(recorded(ground, "t", 100) >= 100);
    kq_partition_enter(kq_topic_at(topic, 0));
    assert_int_equal(kq_log_text_bounds(kq_topic_at(topic, 0)->log, true, &bounds), 0);
    assert_true(bounds.removed > 0);
    assert_int_equal(kq_log_text_bounds(kq_topic_at(other, 0)->log, true, &bounds), 0);
    assert_int_equal(bounds.removed, 0);
    kq_guard_leave(&kq_topic_at(topic, 0)->guard);
    kq_topic_unref(topic);
    kq_topic_unref(other);
}

static void how_far_it_is_clean_outlives_a_restart(void **state)
{
    struct ground *ground = *state;
    struct kq_topic *topic = compacted(ground, "t");
    append(topic, 200);
    wait_cleaned();
    assert_true(recorded(ground, "t", 180) >= 180);
    kq_topic_unref(topic);
    ground_close(ground);
    ground->options.cleaner.threads = 0; /* nobody cleans any more */
    open_ground(ground);
    topic = ground_find(ground, "t");
    assert_true(kq_topic_at(topic, 0)->cleaning.first_dirty >= 180);
    assert_true(dirty_bytes(topic) < 2100);
    kq_topic_unref(topic);
}

static void a_topic_that_becomes_compacted_is_cleaned_then(void **state)
{
    struct ground *ground = *state;
    struct kq_topic *topic = ground_topic(ground, "t", 1);
    assert_int_equal(kq_topic_set_config(topic, &ground_caller, "segment.bytes", "2000"), 0);
    append(topic, 200);
    assert_int_equal(kq_topic_set_config(topic, &ground_caller, "cleanup.policy", "compact,delete"),
                     0);
    wait_cleaned();
    kq_topic_unref(topic);
}

static void a_run_gives_way_to_changes_of_the_topic_and_to_its_end(void **state)
{
    struct ground *ground = *state;
    ground_close(ground);
    ground->options.cleaner.io_rate = 1024; /* it would take minutes */
    open_ground(ground);
    struct kq_topic *topic = compacted(ground, "t");
    append(topic, 2000);
    int64_t began_ns = kq_clock_mono_ns();
    wait_busy(ground, topic);
    assert_int_equal(kq_topic_set_config(topic, &ground_caller, "delimiter", ";"), 0);
    assert_int_equal(kq_topic_delete(topic, &ground_caller, false), 0);
    assert_true(kq_clock_mono_ns() - began_ns < 30 * INT64_C(1000000000));
    kq_topic_unref(topic);
}

static void the_broker_closes_while_one_is_under_way(void **state)
{
    struct ground *ground = *state;
    ground_close(ground);
    ground->options.cleaner.io_rate = 1024;
    open_ground(ground);
    struct kq_topic *topic = compacted(ground, "t");
    append(topic, 2000);
    wait_busy(ground, topic);
    kq_topic_unref(topic);
    ground_close(ground);
    ground->options.cleaner.io_rate = INT64_MAX;
    open_ground(ground);
    wait_cleaned();
}

static void a_deleted_topic_leaves_no_record_to_one_of_its_name(void **state)
{
    struct ground *ground = *state;
    struct kq_checkpoint record = {0};
    struct kq_topic *topic = compacted(ground, "t");
    append(topic, 200);
    wait_cleaned();
    assert_true(recorded(ground, "t", 1) > 0);
    assert_int_equal(kq_topic_delete(topic, &ground_caller, false), 0);
    kq_topic_unref(topic);
    assert_int_equal(kq_checkpoint_read(ground->broker->dirfd, KQ_CHECKPOINT_CLEANER, &record), 0);
    assert_int_equal(kq_checkpoint_find(&record, "t", 0, -1), -1);
    kq_checkpoint_release(&record);
    topic = compacted(ground, "t");
    assert_int_equal(kq_topic_at(topic, 0)->cleaning.first_dirty, -1);
    kq_topic_unref(topic);
}

static void a_damaged_log_is_left_alone_and_others_go_on(void **state)
{
    struct ground *ground = *state;
    ground_close(ground);
    ground->options.cleaner.threads = 0;
    open_ground(ground);
    struct kq_topic *bad = compacted(ground, "bad"), *good = compacted(ground, "good");
    append(bad, 200);
    append(good, 200);
    kq_topic_unref(bad);
    kq_topic_unref(good);
    ground_close(ground);
    int fd = open(ground_path(ground, "bad-0/00000000000000000000.log"), O_RDWR);
    assert_int_equal(pwrite(fd, "\x7f", 1, 500), 1);
    close(fd);
    ground->options.cleaner.threads = 1;
    open_ground(ground);
    wait_cleaned();
    assert_true(recorded(ground, "good", 1) > 0);
    bad = ground_find(ground, "bad");
    while (!__atomic_load_n(&kq_topic_at(bad, 0)->cleaning.uncleanable, __ATOMIC_RELAXED))
        sched_yield();
    struct kq_buf metrics = {0};
    assert_int_equal(kq_broker_metrics(ground->broker, &metrics), 0);
    assert_int_equal(kq_buf_append(&metrics, "", 1), 0);
    assert_non_null(strstr((char *)metrics.data, "kqfs_cleaner_uncleanable_partitions 1\n"));
    kq_buf_release(&metrics);
    kq_topic_unref(bad);
}

static void a_record_that_cannot_be_read_costs_time_only(void **state)
{
    struct ground *ground = *state;
    struct kq_topic *topic = compacted(ground, "t");
    append(topic, 200);
    wait_cleaned();
    assert_true(recorded(ground, "t", 1) > 0);
    kq_topic_unref(topic);
    ground_close(ground);
    ground_write(ground, KQ_CHECKPOINT_CLEANER, "0\nnonsense\n");
    open_ground(ground);
    topic = ground_find(ground, "t");
    append(topic, 100);
    assert_true(recorded(ground, "t", 1) > 0);
    kq_topic_unref(topic);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, take_ground_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_compacted_topic_is_cleaned_without_being_asked),
        TEST(how_far_it_is_clean_outlives_a_restart),
        TEST(a_topic_that_becomes_compacted_is_cleaned_then),
        TEST(a_run_gives_way_to_changes_of_the_topic_and_to_its_end),
        TEST(the_broker_closes_while_one_is_under_way),
        TEST(a_deleted_topic_leaves_no_record_to_one_of_its_name),
        TEST(a_damaged_log_is_left_alone_and_others_go_on),
        TEST(a_record_that_cannot_be_read_costs_time_only),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
