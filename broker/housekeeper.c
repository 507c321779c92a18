#include "broker/housekeeper.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <time.h>

#include "broker/base/clock.h"
#include "broker/base/diag.h"
#include "broker/base/mem.h"
#include "broker/internal.h"

void kq_housekeeper_init(struct kq_housekeeper *housekeeper)
{
    pthread_condattr_t monotonic;
    *housekeeper = (struct kq_housekeeper){.checkpoint_due_ms = INT64_MAX};
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_mutex_init(&housekeeper->lock, NULL);
    pthread_cond_init(&housekeeper->wake, &monotonic);
    pthread_cond_init(&housekeeper->idle, NULL);
    pthread_condattr_destroy(&monotonic);
}

void kq_housekeeper_destroy(struct kq_housekeeper *housekeeper)
{
    free(housekeeper->heap);
    pthread_cond_destroy(&housekeeper->wake);
    pthread_cond_destroy(&housekeeper->idle);
    pthread_mutex_destroy(&housekeeper->lock);
}

/* --- The heap: positions count from 1, so that 0 says "not in it" --- */

static struct kq_partition **slot(struct kq_housekeeper *housekeeper, size_t position)
{
    return &housekeeper->heap[position - 1];
}

static int64_t due_at(struct kq_housekeeper *housekeeper, size_t position)
{
    return (*slot(housekeeper, position))->appointment.due_ms;
}

static void place(struct kq_housekeeper *housekeeper, struct kq_partition *partition,
                  size_t position)
{
    *slot(housekeeper, position) = partition;
    partition->appointment.position = (uint32_t)position;
}

static void sift_up(struct kq_housekeeper *housekeeper, size_t position)
{
    struct kq_partition *partition = *slot(housekeeper, position);
    while (position > 1 && due_at(housekeeper, position / 2) > partition->appointment.due_ms) {
        place(housekeeper, *slot(housekeeper, position / 2), position);
        position /= 2;
    }
    place(housekeeper, partition, position);
}

static void sift_down(struct kq_housekeeper *housekeeper, size_t position)
{
    struct kq_partition *partition = *slot(housekeeper, position);
    for (size_t child; (child = 2 * position) <= housekeeper->count; position = child) {
        if (child < housekeeper->count &&
            due_at(housekeeper, child + 1) < due_at(housekeeper, child))
            child++;
        if (due_at(housekeeper, child) >= partition->appointment.due_ms)
            break;
        place(housekeeper, *slot(housekeeper, child), position);
    }
    place(housekeeper, partition, position);
}

static void take_out(struct kq_housekeeper *housekeeper, struct kq_partition *partition)
{
    size_t position = partition->appointment.position;
    partition->appointment.position = 0;
    partition->appointment.due_ms = INT64_MAX;
    struct kq_partition *last = *slot(housekeeper, housekeeper->count--);
    if (last == partition)
        return;
    place(housekeeper, last, position);
    sift_up(housekeeper, position);
    sift_down(housekeeper, last->appointment.position);
}

/* With the lock held; an earlier appointment stands. */
static void ask(struct kq_housekeeper *housekeeper, struct kq_partition *partition, int64_t due_ms)
{
    struct kq_appointment *appointment = &partition->appointment;
    if (due_ms >= appointment->due_ms)
        return;
    appointment->due_ms = due_ms;
    if (appointment->position == 0)
        place(housekeeper, partition, ++housekeeper->count);
    sift_up(housekeeper, appointment->position);
    if (appointment->position == 1)
        pthread_cond_signal(&housekeeper->wake);
}

/* --- Asking --- */

int kq_housekeeper_reserve(struct kq_housekeeper *housekeeper, size_t count)
{
    int r = 0;
    pthread_mutex_lock(&housekeeper->lock);
    size_t needed = housekeeper->reserved + count;
    if (needed > housekeeper->capacity) {
        size_t capacity = needed < 2 * housekeeper->capacity ? 2 * housekeeper->capacity : needed;
        struct kq_partition **heap = kq_realloc(housekeeper->heap, capacity * sizeof(*heap));
        if (heap) {
            housekeeper->heap = heap;
            housekeeper->capacity = capacity;
        }
        r = heap ? 0 : -ENOMEM;
    }
    if (r == 0)
        housekeeper->reserved = needed;
    pthread_mutex_unlock(&housekeeper->lock);
    return r;
}

void kq_housekeeper_give_back(struct kq_housekeeper *housekeeper, size_t count)
{
    pthread_mutex_lock(&housekeeper->lock);
    housekeeper->reserved -= count;
    pthread_mutex_unlock(&housekeeper->lock);
}

void kq_housekeeper_ask(struct kq_partition *partition, int64_t due_ms)
{
    struct kq_housekeeper *housekeeper = &partition->topic->broker->housekeeper;
    pthread_mutex_lock(&housekeeper->lock);
    ask(housekeeper, partition, due_ms);
    pthread_mutex_unlock(&housekeeper->lock);
}

void kq_housekeeper_touch_slow(struct kq_partition *partition)
{
    struct kq_topic_config config;
    if (atomic_exchange(&partition->appointment.active, true))
        return;
    kq_topic_config(partition->topic, &config);
    int64_t within_ms =
        kq_min64(partition->topic->broker->options.retention_check_ms, config.log.flush_ms);
    kq_housekeeper_ask(partition, kq_clock_wall_ms() + within_ms);
    if (config.compact)
        kq_cleaner_ask(partition, false);
}

void kq_housekeeper_leave(struct kq_partition *partition)
{
    struct kq_housekeeper *housekeeper = &partition->topic->broker->housekeeper;
    pthread_mutex_lock(&housekeeper->lock);
    while (housekeeper->busy == partition)
        pthread_cond_wait(&housekeeper->idle, &housekeeper->lock);
    if (partition->appointment.position)
        take_out(housekeeper, partition);
    partition->appointment.due_ms = INT64_MIN; /* whoever asks from now on comes too late */
    pthread_mutex_unlock(&housekeeper->lock);
}

void kq_housekeeper_checkpoint(struct kq_broker *broker, bool now)
{
    struct kq_housekeeper *housekeeper = &broker->housekeeper;
    if (!now && atomic_exchange(&housekeeper->checkpoint_pending, true))
        return;
    pthread_mutex_lock(&housekeeper->lock);
    int64_t due_ms = kq_clock_wall_ms() + (now ? 0 : broker->options.checkpoint_ms);
    atomic_store(&housekeeper->checkpoint_pending, true);
    if (due_ms < housekeeper->checkpoint_due_ms) {
        housekeeper->checkpoint_due_ms = due_ms;
        pthread_cond_signal(&housekeeper->wake);
    }
    pthread_mutex_unlock(&housekeeper->lock);
}

/* --- The thread --- */

static void keep_partition(struct kq_housekeeper *housekeeper, struct kq_partition *partition)
{
    take_out(housekeeper, partition);
    housekeeper->busy = partition;
    pthread_mutex_unlock(&housekeeper->lock);
    int64_t next_ms = kq_partition_housekeep(partition, kq_clock_wall_ms());
    pthread_mutex_lock(&housekeeper->lock);
    ask(housekeeper, partition, next_ms);
    housekeeper->busy = NULL;
    pthread_cond_broadcast(&housekeeper->idle);
}

static void write_checkpoints(struct kq_broker *broker)
{
    struct kq_housekeeper *housekeeper = &broker->housekeeper;
    housekeeper->checkpoint_due_ms = INT64_MAX;
    atomic_store(&housekeeper->checkpoint_pending, false);
    pthread_mutex_unlock(&housekeeper->lock);
    int r = kq_broker_write_recovery_points(broker);
    if (r == 0)
        r = kq_broker_write_starts(broker);
    if (r < 0) {
        kq_diag_limited(60000, LOG_WARNING,
                        "cannot write checkpoints in %s: %s; a start after a crash takes longer",
                        broker->data_dir, strerror(-r));
        kq_housekeeper_checkpoint(broker, false);
    }
    pthread_mutex_lock(&housekeeper->lock);
}

/* The wall clock may be set while we sleep on the monotonic one: look at least so often. */
static void sleep_until(struct kq_broker *broker, int64_t due_ms)
{
    struct kq_housekeeper *housekeeper = &broker->housekeeper;
    if (due_ms == INT64_MAX) {
        pthread_cond_wait(&housekeeper->wake, &housekeeper->lock);
        return;
    }
    int64_t left_ms = kq_min64(due_ms - kq_clock_wall_ms(), broker->options.retention_check_ms);
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    left_ms = kq_max64(left_ms, 1);
    until.tv_sec += left_ms / 1000;
    until.tv_nsec += left_ms % 1000 * 1000000;
    until.tv_sec += until.tv_nsec / 1000000000;
    until.tv_nsec %= 1000000000;
    pthread_cond_timedwait(&housekeeper->wake, &housekeeper->lock, &until);
}

static void *keep_house(void *argument)
{
    struct kq_broker *broker = argument;
    struct kq_housekeeper *housekeeper = &broker->housekeeper;
    pthread_setname_np(pthread_self(), "kqfs-keeper");
    pthread_mutex_lock(&housekeeper->lock);
    while (!housekeeper->stopping) {
        int64_t now_ms = kq_clock_wall_ms();
        int64_t due_ms = housekeeper->count ? due_at(housekeeper, 1) : INT64_MAX;
        if (housekeeper->checkpoint_due_ms <= now_ms)
            write_checkpoints(broker);
        else if (due_ms <= now_ms)
            keep_partition(housekeeper, *slot(housekeeper, 1));
        else
            sleep_until(broker, kq_min64(due_ms, housekeeper->checkpoint_due_ms));
    }
    pthread_mutex_unlock(&housekeeper->lock);
    return NULL;
}

int kq_housekeeper_start(struct kq_broker *broker)
{
    struct kq_housekeeper *housekeeper = &broker->housekeeper;
    sigset_t all, before;
    sigfillset(&all);
    sigdelset(&all, SIGSYS); /* of a system call that is refused: broker/seccomp.c */
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int error = pthread_create(&housekeeper->thread, NULL, keep_house, broker);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    housekeeper->running = error == 0;
    return -error;
}

void kq_housekeeper_stop(struct kq_broker *broker)
{
    struct kq_housekeeper *housekeeper = &broker->housekeeper;
    if (!housekeeper->running)
        return;
    pthread_mutex_lock(&housekeeper->lock);
    housekeeper->stopping = true;
    pthread_cond_signal(&housekeeper->wake);
    pthread_mutex_unlock(&housekeeper->lock);
    pthread_join(housekeeper->thread, NULL);
    housekeeper->running = false;
}
