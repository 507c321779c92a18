/* Deadlines: the heap alone, and with a thread. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "broker/base/clock.h"
#include "broker/base/timers.h"
#include "tests/unit/chance.h"

/* --- The heap --- */

#define COUNT 2000

struct deadline {
    struct kq_timer timer;
    struct kq_timer_heap *heap;
    struct deadline *other; /* cancelled by EXPIRE */
    int64_t again_ns;       /* set again by EXPIRE, once */
    int calls;
};

static int64_t last_ns;
static int expired;

static void expire(struct kq_timer *timer)
{
    struct deadline *deadline = (struct deadline *)timer;
    assert_false(timer->set);
    assert_true(timer->at_ns >= last_ns);
    last_ns = timer->at_ns;
    deadline->calls++;
    expired++;
    if (deadline->other)
        kq_timer_heap_cancel(deadline->heap, &deadline->other->timer);
    if (deadline->again_ns) {
        kq_timer_heap_set(deadline->heap, timer, deadline->again_ns);
        deadline->again_ns = 0;
    }
}

static void run_until(struct kq_timer_heap *heap, int64_t now_ns)
{
    expired = 0;
    last_ns = INT64_MIN;
    kq_timer_heap_run(heap, now_ns);
}

static int64_t earliest(const struct deadline *deadlines, size_t count)
{
    int64_t at_ns = INT64_MAX;
    for (size_t i = 0; i < count; i++)
        if (deadlines[i].timer.set && deadlines[i].timer.at_ns < at_ns)
            at_ns = deadlines[i].timer.at_ns;
    return at_ns;
}

static void an_empty_heap_has_no_next(void **state)
{
    struct kq_timer_heap heap = {NULL};
    struct deadline deadline = {.timer.expire = expire};
    assert_int_equal(kq_timer_heap_next_ns(&heap), INT64_MAX);
    kq_timer_heap_cancel(&heap, &deadline.timer);
    run_until(&heap, INT64_MAX);
    assert_int_equal(expired, 0);
}

static void what_is_due_runs_in_order_and_the_rest_stays(void **state)
{
    struct kq_timer_heap heap = {NULL};
    struct deadline *deadlines = calloc(COUNT, sizeof(*deadlines));
    for (int i = 0; i < COUNT; i++) {
        deadlines[i].timer.expire = expire;
        kq_timer_heap_set(&heap, &deadlines[i].timer, (int64_t)chance(1000000));
    }
    int before = 0;
    for (int i = 0; i < COUNT; i++)
        before += deadlines[i].timer.at_ns <= 500000;
    run_until(&heap, 500000);
    assert_int_equal(expired, before);
    for (int i = 0; i < COUNT; i++)
        assert_int_equal(deadlines[i].timer.set, deadlines[i].timer.at_ns > 500000);
    run_until(&heap, INT64_MAX);
    assert_int_equal(expired, COUNT - before);
    assert_int_equal(kq_timer_heap_next_ns(&heap), INT64_MAX);
    free(deadlines);
}

static void the_next_one_is_right_after_any_change(void **state)
{
    struct kq_timer_heap heap = {NULL};
    struct deadline deadlines[64] = {0};
    for (int i = 0; i < 64; i++)
        deadlines[i].timer.expire = expire;
    for (int round = 0; round < 20000; round++) {
        struct kq_timer *timer = &deadlines[chance(64)].timer;
        uint64_t act = chance(8);
        if (act == 0)
            kq_timer_heap_cancel(&heap, timer);
        else if (act == 1)
            run_until(&heap, (int64_t)chance(300));
        else
            kq_timer_heap_set(&heap, timer, (int64_t)chance(1000));
        assert_int_equal(kq_timer_heap_next_ns(&heap), earliest(deadlines, 64));
    }
}

static void a_timer_may_cancel_others_and_set_itself_again(void **state)
{
    struct kq_timer_heap heap = {NULL};
    struct deadline first = {.timer.expire = expire, .heap = &heap};
    struct deadline second = {.timer.expire = expire, .heap = &heap};
    first.other = &second;
    first.again_ns = 5;
    kq_timer_heap_set(&heap, &second.timer, 2);
    kq_timer_heap_set(&heap, &first.timer, 1);
    run_until(&heap, 3);
    assert_int_equal(first.calls, 1);
    assert_int_equal(second.calls, 0);
    assert_int_equal(kq_timer_heap_next_ns(&heap), 5);
    run_until(&heap, 5);
    assert_int_equal(first.calls, 2);
}

static void a_million_in_a_row_need_no_stack(void **state)
{
    enum { MANY = 1000000 };
    struct kq_timer_heap heap = {NULL};
    struct deadline *deadlines = calloc(MANY, sizeof(*deadlines));
    for (int i = 0; i < MANY; i++) {
        deadlines[i].timer.expire = expire;
        kq_timer_heap_set(&heap, &deadlines[i].timer, i);
    }
    run_until(&heap, MANY);
    assert_int_equal(expired, MANY);
    free(deadlines);
}

/* --- The thread --- */

struct waking {
    struct kq_timer timer;
    struct kq_timers *timers;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    int calls;
    int wanted; /* sets itself again until it was called so often */
    bool entered, open;
};

static void wake(struct kq_timer *timer)
{
    struct waking *waking = (struct waking *)timer;
    pthread_mutex_lock(&waking->lock);
    waking->entered = true;
    pthread_cond_broadcast(&waking->changed);
    while (!waking->open)
        pthread_cond_wait(&waking->changed, &waking->lock);
    if (++waking->calls < waking->wanted)
        kq_timers_set(waking->timers, timer, kq_clock_mono_ns());
    pthread_cond_broadcast(&waking->changed);
    pthread_mutex_unlock(&waking->lock);
}

static void waking_init(struct waking *waking, struct kq_timers *timers, bool open)
{
    *waking = (struct waking){.timer.expire = wake, .timers = timers, .wanted = 1, .open = open};
    pthread_mutex_init(&waking->lock, NULL);
    pthread_cond_init(&waking->changed, NULL);
}

static void await_calls(struct waking *waking, int calls)
{
    pthread_mutex_lock(&waking->lock);
    while (waking->calls < calls)
        pthread_cond_wait(&waking->changed, &waking->lock);
    pthread_mutex_unlock(&waking->lock);
}

static void await_entry(struct waking *waking)
{
    pthread_mutex_lock(&waking->lock);
    while (!waking->entered)
        pthread_cond_wait(&waking->changed, &waking->lock);
    pthread_mutex_unlock(&waking->lock);
}

static void open_gate(struct waking *waking)
{
    pthread_mutex_lock(&waking->lock);
    waking->open = true;
    pthread_cond_broadcast(&waking->changed);
    pthread_mutex_unlock(&waking->lock);
}

static void an_earlier_one_wakes_the_thread(void **state)
{
    struct kq_timers *timers;
    struct waking late, soon;
    assert_int_equal(kq_timers_new("test", &timers), 0);
    waking_init(&late, timers, true);
    waking_init(&soon, timers, true);
    int64_t now_ns = kq_clock_mono_ns();
    kq_timers_set(timers, &late.timer, now_ns + 3600000000000);
    kq_timers_set(timers, &soon.timer, now_ns + 1000000);
    await_calls(&soon, 1);
    assert_true(kq_clock_mono_ns() >= now_ns + 1000000);
    assert_int_equal(late.calls, 0);
    assert_true(kq_timers_cancel(timers, &late.timer));
    assert_true(kq_timers_cancel(timers, &late.timer));
    kq_timers_free(timers);
    assert_int_equal(late.calls, 0);
}

static void one_may_set_itself_again(void **state)
{
    struct kq_timers *timers;
    struct waking waking;
    assert_int_equal(kq_timers_new("test", &timers), 0);
    waking_init(&waking, timers, true);
    waking.wanted = 100;
    kq_timers_set(timers, &waking.timer, 0);
    await_calls(&waking, 100);
    kq_timers_free(timers);
    assert_int_equal(waking.calls, 100);
}

static void cancel_says_when_it_runs(void **state)
{
    struct kq_timers *timers;
    struct waking waking;
    assert_int_equal(kq_timers_new("test", &timers), 0);
    waking_init(&waking, timers, false);
    kq_timers_set(timers, &waking.timer, 0);
    await_entry(&waking);
    assert_false(kq_timers_cancel(timers, &waking.timer));
    kq_timers_set(timers, &waking.timer, INT64_MAX - 1); /* again, while it runs */
    assert_false(kq_timers_cancel(timers, &waking.timer));
    open_gate(&waking);
    await_calls(&waking, 1);
    kq_timers_free(timers);
    assert_int_equal(waking.calls, 1);
}

static void take_says_whether_a_call_was_still_to_come(void **state)
{
    struct kq_timers *timers;
    struct waking waking;
    assert_int_equal(kq_timers_new("test", &timers), 0);
    waking_init(&waking, timers, false);
    assert_false(kq_timers_take(timers, &waking.timer));
    kq_timers_set(timers, &waking.timer, INT64_MAX - 1);
    assert_true(kq_timers_take(timers, &waking.timer));
    kq_timers_set(timers, &waking.timer, 0);
    await_entry(&waking);
    assert_false(kq_timers_take(timers, &waking.timer));
    kq_timers_set(timers, &waking.timer, INT64_MAX - 1); /* again, while it runs */
    assert_true(kq_timers_take(timers, &waking.timer));
    open_gate(&waking);
    await_calls(&waking, 1);
    kq_timers_free(timers);
    assert_int_equal(waking.calls, 1);
}

/* The owner frees its timer in EXPIRE, and a new owner gets the same memory before it returns. */
static struct waking reborn;
static _Atomic int cancelled = -1;

static void be_reborn(struct kq_timer *timer)
{
    struct kq_timers *timers = reborn.timers;
    waking_init(&reborn, timers, true);
    cancelled = kq_timers_cancel(timers, &reborn.timer);
    kq_timers_set(timers, &reborn.timer, 0);
}

static void a_new_timer_at_the_same_place_does_not_run_yet(void **state)
{
    struct kq_timers *timers;
    assert_int_equal(kq_timers_new("test", &timers), 0);
    waking_init(&reborn, timers, true);
    reborn.timer.expire = be_reborn;
    kq_timers_set(timers, &reborn.timer, 0);
    while (cancelled < 0)
        sched_yield();
    await_calls(&reborn, 1);
    assert_int_equal(cancelled, true);
    kq_timers_free(timers);
}

static void a_shifted_clock_is_seen_when_the_thread_looks(void **state)
{
    struct kq_timers *timers;
    struct waking late, poke;
    assert_int_equal(kq_timers_new("test", &timers), 0);
    waking_init(&late, timers, true);
    waking_init(&poke, timers, true);
    kq_timers_set(timers, &late.timer, kq_clock_mono_ns() + 3600000000000);
    kq_clock_shift_ms(3600001);
    kq_timers_set(timers, &poke.timer, 0);
    await_calls(&late, 1);
    kq_clock_shift_ms(0);
    kq_timers_free(timers);
}

static struct waking many[8];

static void *hammer(void *argument)
{
    struct kq_timers *timers = argument;
    for (int i = 0; i < 20000; i++) {
        struct waking *waking = &many[i % 8];
        if (i % 3)
            kq_timers_set(timers, &waking->timer, kq_clock_mono_ns() + i % 2000);
        else
            kq_timers_cancel(timers, &waking->timer);
    }
    return NULL;
}

static void many_threads_may_set_and_cancel(void **state)
{
    struct kq_timers *timers;
    pthread_t threads[4];
    assert_int_equal(kq_timers_new("test", &timers), 0);
    for (int i = 0; i < 8; i++)
        waking_init(&many[i], timers, true);
    for (int i = 0; i < 4; i++)
        pthread_create(&threads[i], NULL, hammer, timers);
    for (int i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    for (int i = 0; i < 8; i++)
        kq_timers_set(timers, &many[i].timer, 0);
    for (int i = 0; i < 8; i++)
        await_calls(&many[i], 1);
    kq_timers_free(timers);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_empty_heap_has_no_next),
        cmocka_unit_test(what_is_due_runs_in_order_and_the_rest_stays),
        cmocka_unit_test(the_next_one_is_right_after_any_change),
        cmocka_unit_test(a_timer_may_cancel_others_and_set_itself_again),
        cmocka_unit_test(a_million_in_a_row_need_no_stack),
        cmocka_unit_test(an_earlier_one_wakes_the_thread),
        cmocka_unit_test(one_may_set_itself_again),
        cmocka_unit_test(cancel_says_when_it_runs),
        cmocka_unit_test(take_says_whether_a_call_was_still_to_come),
        cmocka_unit_test(a_new_timer_at_the_same_place_does_not_run_yet),
        cmocka_unit_test(a_shifted_clock_is_seen_when_the_thread_looks),
        cmocka_unit_test(many_threads_may_set_and_cancel),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
