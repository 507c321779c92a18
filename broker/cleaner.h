/* Threads that compact the logs of topics whose cleanup.policy says so, the dirtiest first.
 *
 * A partition is looked at while messages come to it, and again when one of its lags is over; the
 * others cost nothing. How far each is clean stands in Kafka's cleaner-offset-checkpoint.
 *
 * Failure modes: what fails is tried again after a while, other logs go on. A log with a damaged
 * batch is reported once and left alone until the topic's configuration is set or the broker is
 * started anew.
 */
#pragma once

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/queue.h>

#include "broker/cleaneroptions.h"

struct kq_broker;
struct kq_partition;

/* A partition's, under the cleaner's lock. */
struct kq_cleaning_slot {
    TAILQ_ENTRY(kq_partition) entry;
    bool listed;      /* there may be something to do */
    bool busy;        /* a thread is at it */
    bool uncleanable; /* it is damaged */
    bool gone;        /* the topic is */
    unsigned holds;
    atomic_bool stop;    /* whoever is at it shall let go */
    int64_t first_dirty; /* as it is recorded; -1: it is not */
    int64_t due_ms;      /* wall clock: nothing to do before, unless messages come */
};

struct kq_cleaner {
    pthread_mutex_t lock;
    pthread_cond_t wake; /* something was listed, or the end; and of those who keep their pace */
    pthread_cond_t idle; /* a slot is not busy any more */
    pthread_t *threads;
    unsigned thread_count;
    atomic_bool stopping;
    bool recorded; /* there is a record on disk */
    TAILQ_HEAD(kq_cleaning_list, kq_partition) list;
    int64_t pace_ns; /* monotonic: what was read and written so far should take until then */
};

void kq_cleaner_init(struct kq_cleaner *cleaner);

/* Takes over the record and starts the threads. All partitions are there. -ENOMEM, -errno. */
int kq_cleaner_start(struct kq_broker *broker);
void kq_cleaner_stop(struct kq_broker *broker); /* joins the threads; twice is fine */
void kq_cleaner_destroy(struct kq_cleaner *cleaner);

/* There may be something to do in PARTITION. Cheap; any thread. RETRY: also if it was damaged. */
void kq_cleaner_ask(struct kq_partition *partition, bool retry);

/* Nobody cleans PARTITION from here on, until as many calls of release; waits for who is at it,
 * which stops soon. */
void kq_cleaner_hold(struct kq_partition *partition);
void kq_cleaner_release(struct kq_partition *partition);

/* PARTITION goes. */
void kq_cleaner_leave(struct kq_partition *partition);

/* Records how far the logs are clean. -errno. */
int kq_cleaner_write_checkpoint(struct kq_broker *broker);
