#include "tests/unit/ground.h"

static void rights_that_were_not_granted_are_not_there(void **state)
{
    struct ground *ground = *state;
    struct kq_access access;
    struct kq_log_appended appended;
    struct kq_extent extent;
    int64_t offset, timestamp;
    ground_open(ground);
    struct kq_topic *topic = ground_topic(ground, "t", 1);
    struct kq_access all = ground_access(topic, 0);
    assert_int_equal(ground_append(&all, "a\n", &appended), 0);
    assert_int_equal(kq_partition_access(all.partition, &ground_caller, KQ_RIGHT_READ, &access), 0);
    assert_int_equal(ground_append(&access, "b\n", &appended), -EACCES);
    assert_int_equal(kq_reserve(&access, 10), -EACCES);
    assert_int_equal(kq_partition_access(all.partition, &ground_caller, KQ_RIGHT_WRITE, &access),
                     0);
    assert_int_equal(kq_read(&access, 0, 100, false, true, &extent), -EACCES);
    assert_int_equal(kq_read_text(&access, 0, 100, true, &extent), -EACCES);
    assert_int_equal(kq_find_time(&access, 0, true, &offset, &timestamp), -EACCES);
    ground->denied = KQ_RIGHT_READ;
    assert_int_equal(
        kq_partition_access(all.partition, &ground_caller, KQ_RIGHT_READ | KQ_RIGHT_WRITE, &access),
        -EACCES);
    ground->denied = KQ_RIGHT_DELETE_RECORDS;
    assert_int_equal(kq_delete_records(all.partition, &ground_caller, -1), -EACCES);
    kq_topic_unref(topic);
}

static void what_was_appended_is_read(void **state)
{
    struct ground *ground = *state;
    struct kq_log_appended appended;
    struct kq_log_text_bounds text;
    struct kq_extent extent, next;
    ground_open(ground);
    struct kq_topic *topic = ground_topic(ground, "t", 1);
    struct kq_access access = ground_access(topic, 0);
    assert_int_equal(ground_append(&access, "a\nb\n", &appended), 0);
    assert_int_equal(appended.base_offset, 0);
    assert_int_equal(ground_append(&access, "ccc\n", &appended), 0);
    assert_int_equal(appended.base_offset, 2);
    assert_int_equal(appended.next_offset, 3);
    assert_int_equal(kq_read(&access, 0, 1, true, true, &extent), 0);
    assert_int_equal(extent.text, 0);
    kq_extent_unref(&extent);
    assert_int_equal(kq_read(&access, 2, 1 << 20, true, true, &extent), 0);
    assert_int_equal(extent.base_offset, 2);
    assert_int_equal(extent.text, 4);
    assert_int_equal(kq_read_next(&access, &extent, 1 << 20, &next), KQ_END);
    kq_extent_unref(&extent);
    assert_int_equal(kq_read(&access, 3, 1 << 20, true, true, &extent), KQ_END);
    assert_int_equal(kq_read(&access, 4, 1 << 20, true, true, &extent), KQ_BEYOND);
    assert_int_equal(kq_text_bounds(access.partition, true, &text), 0);
    assert_int_equal(text.end, 8);
    assert_int_equal(kq_delete_records(access.partition, &ground_caller, 4), KQ_BEYOND);
    assert_int_equal(kq_delete_records(access.partition, &ground_caller, 2), 0);
    assert_int_equal(kq_read(&access, 1, 1 << 20, true, true, &extent), KQ_GONE);
    kq_topic_unref(topic);
}

static void dropped_messages_stay_dropped(void **state)
{
    struct ground *ground = *state;
    struct kq_log_appended appended;
    struct kq_log_bounds bounds;
    ground_open(ground);
    struct kq_topic *topic = ground_topic(ground, "t", 1);
    struct kq_access access = ground_access(topic, 0);
    assert_int_equal(ground_append(&access, "a\nb\nc\n", &appended), 0);
    assert_int_equal(kq_delete_records(access.partition, &ground_caller, 2), 0);
    kq_topic_unref(topic);
    ground_reopen(ground);
    topic = ground_find(ground, "t");
    access = ground_access(topic, 0);
    kq_bounds(access.partition, &bounds);
    assert_int_equal(bounds.start, 2);
    assert_int_equal(bounds.end, 3);
    kq_topic_unref(topic);
}

static void a_rendering_holds_from_the_end_at_which_it_was_set(void **state)
{
    struct ground *ground = *state;
    struct kq_log_appended appended;
    struct kq_rendering rendering;
    int64_t until;
    ground_open(ground);
    struct kq_topic *topic = ground_topic(ground, "t", 2);
    struct kq_access access = ground_access(topic, 0), other = ground_access(topic, 1);
    assert_int_equal(ground_append(&access, "a\nb\n", &appended), 0);
    assert_int_equal(kq_topic_set_config(topic, &ground_caller, "delimiter", "||"), 0);
    for (int i = 0; i < 2; i++) {
        kq_partition_rendering(access.partition, 1, &rendering, &until);
        assert_int_equal(rendering.delimiter_length, 1);
        assert_int_equal(until, 2);
        kq_partition_rendering(access.partition, 2, &rendering, &until);
        assert_int_equal(rendering.delimiter_length, 2);
        assert_int_equal(rendering.from_offset, 2);
        assert_int_equal(until, INT64_MAX);
        kq_partition_rendering(other.partition, 0, &rendering, NULL);
        assert_int_equal(rendering.delimiter_length, 2);
        kq_topic_unref(topic);
        ground_reopen(ground);
        topic = ground_find(ground, "t");
        access = ground_access(topic, 0);
        other = ground_access(topic, 1);
    }
    /* Nothing was appended between two changes: the first of them never was. */
    assert_int_equal(kq_topic_set_config(topic, &ground_caller, "delimiter", "x"), 0);
    assert_int_equal(kq_topic_set_config(topic, &ground_caller, "delimiter", "y"), 0);
    kq_partition_rendering(access.partition, 2, &rendering, NULL);
    assert_int_equal(rendering.delimiter[0], 'y');
    kq_topic_unref(topic);
}

static void changed_defaults_hold_from_the_end_on(void **state)
{
    struct ground *ground = *state;
    struct kq_log_appended appended;
    struct kq_log_text_bounds text;
    struct kq_rendering rendering;
    ground_open(ground);
    struct kq_topic *topic = ground_topic(ground, "t", 1);
    struct kq_access access = ground_access(topic, 0);
    assert_int_equal(ground_append(&access, "a\n", &appended), 0);
    kq_topic_unref(topic);
    ground_close(ground);
    ground->options.topic_defaults.text.delimiter_length = 2;
    ground->options.topic_defaults.text.delimiter[1] = ';';
    ground_open(ground);
    topic = ground_find(ground, "t");
    access = ground_access(topic, 0);
    kq_partition_rendering(access.partition, 0, &rendering, NULL);
    assert_int_equal(rendering.delimiter_length, 1);
    kq_partition_rendering(access.partition, 1, &rendering, NULL);
    assert_int_equal(rendering.delimiter_length, 2);
    assert_int_equal(kq_text_bounds(access.partition, true, &text), 0);
    assert_int_equal(text.end, 2);
    kq_topic_unref(topic);
}

/* A writer that counted before the delimiter changed must not move the text behind it. */
static void a_length_counted_under_an_old_rendering_is_counted_again(void **state)
{
    struct ground *ground = *state;
    struct kq_rendering before;
    struct kq_log_appended appended;
    struct kq_log_text_bounds text;
    struct kq_buf batch = {0};
    struct kq_batch_builder builder;
    ground_open(ground);
    struct kq_topic *topic = ground_topic(ground, "t", 1);
    struct kq_access access = ground_access(topic, 0);
    kq_partition_rendering(access.partition, 0, &before, NULL);
    assert_int_equal(kq_batch_begin(&builder, &batch, 0), 0);
    assert_int_equal(kq_batch_add(&builder, 1, NULL, -1, "abc", 3, NULL, 0, 0), 0);
    kq_batch_finish(&builder);
    struct kq_log_append append = {
        .bytes = batch.data, .length = batch.length, .text_length = 4, .rendering = &before};
    assert_int_equal(kq_topic_set_config(topic, &ground_caller, "delimiter", "<->"), 0);
    assert_int_equal(kq_append(&access, &append, &appended), 0);
    assert_int_equal(kq_text_bounds(access.partition, true, &text), 0);
    assert_int_equal(text.end, 6);
    kq_buf_release(&batch);
    kq_topic_unref(topic);
}

struct sleeper {
    struct kq_waiter waiter;
    atomic_int woken;
    enum kq_wake why;
    int64_t end; /* seen from the wake function */
};

static void wake(struct kq_waiter *waiter, enum kq_wake why)
{
    struct sleeper *sleeper = (struct sleeper *)waiter;
    struct kq_log_bounds bounds;
    kq_bounds(waiter->partition, &bounds);
    sleeper->end = bounds.end;
    sleeper->why = why;
    sleeper->woken++;
}

static void an_append_wakes_who_waits_for_it(void **state)
{
    struct ground *ground = *state;
    struct kq_log_appended appended;
    struct sleeper sleeper = {.waiter.wake = wake}, back = {.waiter.wake = wake};
    ground_open(ground);
    struct kq_topic *topic = ground_topic(ground, "t", 2);
    struct kq_access access = ground_access(topic, 0), other = ground_access(topic, 1);
    assert_int_equal(kq_wait(access.partition, &sleeper.waiter, 0), 0);
    assert_int_equal(kq_wait(access.partition, &back.waiter, 0), 0);
    assert_int_equal(kq_unwait(&back.waiter), 0);
    assert_int_equal(ground_append(&other, "x\n", &appended), 0);
    assert_int_equal(sleeper.woken, 0);
    assert_int_equal(ground_append(&access, "x\n", &appended), 0);
    assert_int_equal(sleeper.woken, 1);
    assert_int_equal(sleeper.why, KQ_WAKE_DATA);
    assert_int_equal(sleeper.end, 1);
    assert_int_equal(back.woken, 0);
    assert_int_equal(kq_wait(access.partition, &sleeper.waiter, 0), KQ_READY);
    kq_topic_unref(topic);
}

static void who_waits_hears_that_the_topic_is_gone(void **state)
{
    struct ground *ground = *state;
    struct sleeper sleeper = {.waiter.wake = wake};
    ground_open(ground);
    struct kq_topic *topic = ground_topic(ground, "t", 1);
    struct kq_access access = ground_access(topic, 0);
    assert_int_equal(kq_wait(access.partition, &sleeper.waiter, 0), 0);
    assert_int_equal(kq_topic_delete(topic, &ground_caller, false), 0);
    assert_int_equal(sleeper.woken, 1);
    assert_int_equal(sleeper.why, KQ_WAKE_GONE);
    assert_int_equal(kq_wait(access.partition, &sleeper.waiter, 0), -ESTALE);
    assert_int_equal(kq_partition_access(access.partition, &ground_caller, KQ_RIGHT_READ, &access),
                     -ESTALE);
    kq_topic_unref(topic);
}

struct synced {
    struct kq_sync sync;
    pthread_mutex_t lock;
    pthread_cond_t done;
    int finished, error;
};

static void note(struct kq_sync *sync, int error)
{
    struct synced *synced = (struct synced *)sync;
    pthread_mutex_lock(&synced->lock);
    synced->finished++;
    synced->error = error;
    pthread_cond_signal(&synced->done);
    pthread_mutex_unlock(&synced->lock);
}

static void a_sync_moves_the_recovery_point(void **state)
{
    struct ground *ground = *state;
    struct kq_log_appended appended;
    struct kq_log_bounds bounds;
    struct synced synced = {
        .sync.done = note, .lock = PTHREAD_MUTEX_INITIALIZER, .done = PTHREAD_COND_INITIALIZER};
    ground_open(ground);
    struct kq_topic *topic = ground_topic(ground, "t", 1);
    struct kq_access access = ground_access(topic, 0);
    assert_int_equal(ground_append(&access, "x\n", &appended), 0);
    int r = kq_sync(access.partition, &synced.sync);
    assert_int_equal(r, 0);
    pthread_mutex_lock(&synced.lock);
    while (!synced.finished)
        pthread_cond_wait(&synced.done, &synced.lock);
    pthread_mutex_unlock(&synced.lock);
    assert_int_equal(synced.error, 0);
    kq_bounds(access.partition, &bounds);
    assert_int_equal(bounds.recovery_point, 1);
    assert_int_equal(kq_sync(access.partition, &synced.sync), KQ_READY);
    kq_topic_unref(topic);
}

/* --- Threads --- */

#define WRITERS 3
#define APPENDS 2000

static struct kq_access shared_access;

/* As a front end does it: the length is counted under the rendering it saw. */
static int append_a_word(void)
{
    struct kq_rendering rendering;
    struct kq_log_appended appended;
    struct kq_buf batch = {0};
    struct kq_batch_builder builder;
    kq_partition_rendering(shared_access.partition, INT64_MAX, &rendering, NULL);
    assert_int_equal(kq_batch_begin(&builder, &batch, 0), 0);
    assert_int_equal(kq_batch_add(&builder, 1, NULL, -1, "word", 4, NULL, 0, 0), 0);
    kq_batch_finish(&builder);
    struct kq_log_append append = {.bytes = batch.data,
                                   .length = batch.length,
                                   .text_length = 4 + rendering.delimiter_length,
                                   .rendering = &rendering};
    int r = kq_append(&shared_access, &append, &appended);
    kq_buf_release(&batch);
    return r;
}

static void *append_many(void *argument)
{
    for (int i = 0; i < APPENDS; i++)
        assert_int_equal(append_a_word(), 0);
    return NULL;
}

static int64_t text_of(struct kq_partition *partition, int64_t end)
{
    struct kq_rendering rendering;
    int64_t text = 0;
    for (int64_t offset = 0; offset < end; offset++) {
        kq_partition_rendering(partition, offset, &rendering, NULL);
        text += 4 + rendering.delimiter_length;
    }
    return text;
}

/* Changes of how text reads stop the writers for a moment; none may fail or be counted wrongly. */
static void writers_go_on_while_the_rendering_changes(void **state)
{
    struct ground *ground = *state;
    struct kq_log_text_bounds text;
    struct kq_log_bounds bounds;
    pthread_t threads[WRITERS];
    ground_open(ground);
    struct kq_topic *topic = ground_topic(ground, "t", 1);
    shared_access = ground_access(topic, 0);
    for (int i = 0; i < WRITERS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, append_many, NULL), 0);
    do {
        static int round;
        const char *delimiter = round++ % 2 ? "\n" : "<->";
        assert_int_equal(kq_topic_set_config(topic, &ground_caller, "delimiter", delimiter), 0);
        kq_bounds(shared_access.partition, &bounds);
    } while (bounds.end < WRITERS * APPENDS);
    for (int i = 0; i < WRITERS; i++)
        pthread_join(threads[i], NULL);
    kq_bounds(shared_access.partition, &bounds);
    assert_int_equal(bounds.end, WRITERS * APPENDS);
    assert_int_equal(kq_text_bounds(shared_access.partition, true, &text), 0);
    assert_int_equal(text.end, text_of(shared_access.partition, bounds.end));
    kq_topic_unref(topic);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        GROUND_TEST(rights_that_were_not_granted_are_not_there),
        GROUND_TEST(what_was_appended_is_read),
        GROUND_TEST(dropped_messages_stay_dropped),
        GROUND_TEST(a_rendering_holds_from_the_end_at_which_it_was_set),
        GROUND_TEST(changed_defaults_hold_from_the_end_on),
        GROUND_TEST(a_length_counted_under_an_old_rendering_is_counted_again),
        GROUND_TEST(an_append_wakes_who_waits_for_it),
        GROUND_TEST(who_waits_hears_that_the_topic_is_gone),
        GROUND_TEST(a_sync_moves_the_recovery_point),
        GROUND_TEST(writers_go_on_while_the_rendering_changes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
