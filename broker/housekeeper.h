/* One thread that does for the partitions what is due by time.
 *
 * Each partition has at most one appointment; the thread sleeps until the earliest, so that a
 * broker in which nothing happens costs no CPU. Any thread may make one.
 */
#pragma once

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct kq_broker;
struct kq_partition;

struct kq_appointment {
    int64_t due_ms;     /* wall clock; INT64_MAX: none */
    uint32_t position;  /* in the heap, from 1; 0: not in it */
    atomic_bool active; /* used since it was last kept */
};

struct kq_housekeeper {
    pthread_mutex_t lock;
    pthread_cond_t wake;
    pthread_cond_t idle; /* the partition at hand is done */
    pthread_t thread;
    bool running, stopping;
    struct kq_partition **heap; /* earliest first */
    size_t count, reserved, capacity;
    struct kq_partition *busy; /* the one at hand */
    int64_t checkpoint_due_ms; /* INT64_MAX: nothing changed */
    atomic_bool checkpoint_pending;
};

void kq_housekeeper_init(struct kq_housekeeper *housekeeper);
int kq_housekeeper_start(struct kq_broker *broker);
void kq_housekeeper_stop(struct kq_broker *broker); /* joins the thread */
void kq_housekeeper_destroy(struct kq_housekeeper *housekeeper);

/* Room for COUNT more appointments, so that making one never fails. -ENOMEM. */
int kq_housekeeper_reserve(struct kq_housekeeper *housekeeper, size_t count);
void kq_housekeeper_give_back(struct kq_housekeeper *housekeeper, size_t count);

/* PARTITION is looked after at DUE_MS at the latest; an earlier appointment stands. */
void kq_housekeeper_ask(struct kq_partition *partition, int64_t due_ms);

/* PARTITION was appended to or read: cheap but for the first time since it was looked after. */
void kq_housekeeper_touch_slow(struct kq_partition *partition);

/* No more for PARTITION; waits if it is at hand. */
void kq_housekeeper_leave(struct kq_partition *partition);

/* The recovery checkpoint is out of date: write it within checkpoint_ms, or NOW. */
void kq_housekeeper_checkpoint(struct kq_broker *broker, bool now);
