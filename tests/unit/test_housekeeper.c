#include "tests/unit/ground.h"

#include "broker/base/clock.h"
#include "broker/internal.h"

/* Appointments in a broker without a thread. */
#define PARTITIONS 100

static struct kq_broker broker;
static struct kq_topic topic;
static struct kq_partition partitions[PARTITIONS];

static int set_up(void **state)
{
    broker = (struct kq_broker){0};
    topic = (struct kq_topic){.broker = &broker};
    kq_housekeeper_init(&broker.housekeeper);
    for (size_t i = 0; i < PARTITIONS; i++)
        partitions[i] =
            (struct kq_partition){.topic = &topic, .appointment = {.due_ms = INT64_MAX}};
    return kq_housekeeper_reserve(&broker.housekeeper, PARTITIONS);
}

static int take_down(void **state)
{
    kq_housekeeper_destroy(&broker.housekeeper);
    return 0;
}

static void check_heap(void)
{
    const struct kq_housekeeper *housekeeper = &broker.housekeeper;
    for (size_t i = 0; i < housekeeper->count; i++) {
        assert_int_equal(housekeeper->heap[i]->appointment.position, i + 1);
        if (i > 0)
            assert_true(housekeeper->heap[(i - 1) / 2]->appointment.due_ms <=
                        housekeeper->heap[i]->appointment.due_ms);
    }
}

static void the_earliest_appointment_comes_first(void **state)
{
    for (size_t i = 0; i < PARTITIONS; i++) {
        kq_housekeeper_ask(&partitions[i], (int64_t)(i * 37 % PARTITIONS) + 1000);
        check_heap();
    }
    assert_int_equal(broker.housekeeper.count, PARTITIONS);
    assert_ptr_equal(broker.housekeeper.heap[0], &partitions[0]);
    kq_housekeeper_ask(&partitions[50], 5);
    check_heap();
    assert_ptr_equal(broker.housekeeper.heap[0], &partitions[50]);
    kq_housekeeper_ask(&partitions[50], 5000);
    assert_ptr_equal(broker.housekeeper.heap[0], &partitions[50]);
    for (size_t i = 0; i < PARTITIONS; i += 2) {
        kq_housekeeper_leave(&partitions[i]);
        check_heap();
    }
    assert_int_equal(broker.housekeeper.count, PARTITIONS / 2);
    kq_housekeeper_ask(&partitions[0], 1);
    assert_int_equal(broker.housekeeper.count, PARTITIONS / 2);
}

/* --- With its thread --- */

struct ear {
    struct kq_listener listener;
    pthread_mutex_t lock;
    pthread_cond_t moved;
    int starts_moved;
};

static void hear(struct kq_listener *listener, enum kq_event event, struct kq_topic *about,
                 struct kq_partition *partition)
{
    struct ear *ear = (struct ear *)listener;
    if (event != KQ_EVENT_START_MOVED)
        return;
    pthread_mutex_lock(&ear->lock);
    ear->starts_moved++;
    pthread_cond_signal(&ear->moved);
    pthread_mutex_unlock(&ear->lock);
}

/* Nobody waits for it longer than the test's time limit. */
static void retention_goes_by_itself(void **state)
{
    struct ground *ground = *state;
    struct ear ear = {.listener.event = hear,
                      .lock = PTHREAD_MUTEX_INITIALIZER,
                      .moved = PTHREAD_COND_INITIALIZER};
    struct kq_log_appended appended;
    struct kq_log_bounds bounds;
    ground->options.retention_check_ms = 10;
    ground->options.topic_defaults.log.segment_bytes = 100;
    ground_open(ground);
    kq_broker_listen(ground->broker, &ear.listener);
    struct kq_topic *mine = ground_topic(ground, "t", 1);
    struct kq_access access = ground_access(mine, 0);
    assert_int_equal(kq_topic_set_config(mine, &ground_caller, "retention.ms", "-1"), 0);
    for (int i = 0; i < 10; i++)
        assert_int_equal(ground_append(&access, "0123456789\n", &appended), 0);
    kq_bounds(access.partition, &bounds);
    assert_int_equal(bounds.start, 0);
    assert_int_equal(kq_topic_set_config(mine, &ground_caller, "retention.bytes", "150"), 0);
    pthread_mutex_lock(&ear.lock);
    while (!ear.starts_moved)
        pthread_cond_wait(&ear.moved, &ear.lock);
    pthread_mutex_unlock(&ear.lock);
    kq_bounds(access.partition, &bounds);
    assert_true(bounds.start > 0);
    assert_int_equal(bounds.end, 10);
    kq_broker_unlisten(ground->broker, &ear.listener);
    kq_topic_unref(mine);
}

/* The checkpoint follows what was synced, without a stop of the broker. */
static void the_recovery_point_is_written_once_enough_was_synced(void **state)
{
    struct ground *ground = *state;
    struct kq_log_appended appended;
    struct stat before, now;
    ground->options.trail_bytes = 4096;
    ground_open(ground);
    struct kq_topic *mine = ground_topic(ground, "t", 1);
    struct kq_access access = ground_access(mine, 0);
    assert_int_equal(stat(ground_path(ground, KQ_CHECKPOINT_RECOVERY), &before), 0);
    do {
        assert_int_equal(ground_append(&access, "0123456789\n", &appended), 0);
        assert_int_equal(stat(ground_path(ground, KQ_CHECKPOINT_RECOVERY), &now), 0);
    } while (now.st_ino == before.st_ino);
    assert_true(appended.next_offset > 1);
    kq_topic_unref(mine);
}

static void an_idle_broker_has_nothing_to_do(void **state)
{
    struct ground *ground = *state;
    ground_open(ground);
    struct kq_topic *mine = ground_topic(ground, "t", 3);
    pthread_mutex_lock(&ground->broker->housekeeper.lock);
    assert_int_equal(ground->broker->housekeeper.count, 0);
    assert_true(ground->broker->housekeeper.checkpoint_due_ms == INT64_MAX);
    pthread_mutex_unlock(&ground->broker->housekeeper.lock);
    kq_topic_unref(mine);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(the_earliest_appointment_comes_first, set_up, take_down),
        GROUND_TEST(retention_goes_by_itself),
        GROUND_TEST(the_recovery_point_is_written_once_enough_was_synced),
        GROUND_TEST(an_idle_broker_has_nothing_to_do),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
