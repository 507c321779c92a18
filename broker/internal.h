/* What the files behind the door share: the broker, topics and partitions.
 *
 * Locks, outer before inner:
 *   topic->change       one change of a topic's metadata at a time; held over disk writes
 *   topic->pause        held while the guards of its partitions are closed and the outcome is open
 *   registry.lock       names
 *   attributes_lock     owner, mode, ACL of everything; never held over disk I/O
 *   housekeeper.lock, cleaner.lock, topic->settings_lock, partition->waiters.lock,
 *   ->renderings_lock       innermost
 * The path of an append takes none of them, unless somebody waits for messages.
 */
#pragma once

#include <pthread.h>
#include <stdatomic.h>

#include "broker/broker.h"
#include "broker/checkpoint.h"
#include "broker/cleaner.h"
#include "broker/guard.h"
#include "broker/housekeeper.h"
#include "broker/import.h"
#include "broker/producerid.h"
#include "broker/registry.h"
#include "broker/snapshot.h"
#include "broker/store.h"
#include "broker/uthash.h"
#include "broker/waiter.h"

#define KQ_DIRECTORY_BYTES 288 /* room for `<topic>-<n>` and a suffix */

struct kq_partition {
    struct kq_guard guard; /* open: LOG may be used */
    int32_t number;
    uint64_t serial; /* > 0; no other partition of this process had it, or will have it */
    struct kq_topic *topic;
    struct kq_log *log; /* NULL once the topic is deleted */

    pthread_mutex_t renderings_lock;
    struct kq_renderings *renderings;
    KQ_SNAPSHOT(struct kq_rendering) newest; /* the last of them */

    struct kq_attributes attributes; /* under attributes_lock */
    struct kq_waiters waiters;
    struct kq_appointment appointment; /* with the housekeeper */
    struct kq_cleaning_slot cleaning;  /* the cleaner's */
    _Atomic int64_t appended_batches, appended_messages, appended_bytes, append_errors;
    _Atomic int64_t sent_bytes, sent_messages;
    struct kq_log_bounds last_bounds; /* of a deleted topic's log */
};

static inline void kq_partition_touch(struct kq_partition *partition)
{
    if (kq_unlikely(!atomic_load_explicit(&partition->appointment.active, memory_order_relaxed)))
        kq_housekeeper_touch_slow(partition);
}

/* Partitions by number. A larger table replaces a smaller one, which lives on for those who still
 * look at it until the topic is freed. */
struct kq_partition_table {
    struct kq_partition_table *smaller;
    int32_t capacity;
    struct kq_partition *at[];
};

struct kq_topic {
    struct kq_broker *broker;
    atomic_uint references;
    atomic_bool deleted;
    enum kq_registry_state state; /* the registry's */
    UT_hash_handle by_name;       /* the registry's */
    UT_hash_handle by_id;         /* the registry's */
    uint8_t id[KQ_UUID_BYTES];
    int64_t created_ms;

    pthread_mutex_t change;
    pthread_mutex_t pause;
    pthread_mutex_t settings_lock;
    struct kq_topic_setting *settings; /* own ones; changed under CHANGE and SETTINGS_LOCK */
    size_t setting_count;
    KQ_SNAPSHOT(struct kq_topic_config) config;

    struct kq_attributes attributes; /* under attributes_lock */
    _Atomic(struct kq_partition_table *) table;
    _Atomic int32_t partition_count;
    char name[];
};

#define KQ_EMIT_LINES 16

struct kq_recovery_facts {
    _Atomic int64_t scanned_bytes, truncated_bytes, rebuilt_indexes, damaged_segments;
    int64_t duration_ns;
    bool after_clean_stop;
};

struct kq_broker {
    struct kq_broker_options options;
    char *data_dir;
    int dirfd;
    int lock_fd;
    bool clean; /* the last stop was */
    char *cluster_id;
    int32_t node_id;
    struct kq_pool *syncer;
    struct kq_log_shared shared;
    struct kq_registry registry;
    pthread_rwlock_t attributes_lock;
    struct kq_attributes root;
    atomic_uint_fast64_t attribute_changes; /* under attributes_lock where it is changed */
    pthread_mutex_t root_change;            /* writers of the root's file */
    struct kq_listener *listeners;
    struct kq_emitting {
        atomic_uint threads; /* that tell the listeners something; each has its line */
        char line[60];
    } emitting[KQ_EMIT_LINES];
    struct kq_housekeeper housekeeper;
    struct kq_cleaner cleaner;
    struct kq_producer_ids producer_ids;
    struct kq_quotas *quotas;
    struct kq_users *users;
    struct kq_groups *groups;        /* group.h */
    pthread_mutex_t checkpoint_lock; /* writers of the checkpoint files */
    _Atomic int64_t synced_bytes;    /* since the recovery checkpoint was written */
    struct kq_recovery_facts recovered;
    struct kq_kafka kafka;
    struct kq_partition_totals {
        _Atomic int64_t batches, messages, bytes, errors;
    } deleted_totals; /* of topics that are gone: counters must not fall */
};

/* Which of the broker's counters this thread uses, so that appends to different partitions do not
 * pull one cache line back and forth. */
extern _Thread_local unsigned kq_emit_line;
unsigned kq_emit_choose_line(void);

static inline void kq_broker_emit(struct kq_broker *broker, enum kq_event event,
                                  struct kq_topic *topic, struct kq_partition *partition)
{
    unsigned line = kq_likely(kq_emit_line) ? kq_emit_line : kq_emit_choose_line();
    atomic_uint *threads = &broker->emitting[line % KQ_EMIT_LINES].threads;
    atomic_fetch_add(threads, 1);
    struct kq_listener *listener = __atomic_load_n(&broker->listeners, __ATOMIC_SEQ_CST);
    for (; listener; listener = __atomic_load_n(&listener->next, __ATOMIC_SEQ_CST))
        listener->event(listener, event, topic, partition);
    atomic_fetch_sub(threads, 1);
}

/* --- broker.c, report.c --- */

/* Closes everything and frees, without a word of the stop on disk. */
void kq_broker_abandon(struct kq_broker *broker);
void kq_broker_register_metrics(void);
void kq_broker_count_sync(int64_t bytes);

/* --- datadir.c: the data directory as such --- */

/* Opens, makes and locks it, and no more. Reports. */
int kq_datadir_lock(struct kq_broker *broker);
/* As kq_datadir_lock, and reads meta.properties; fills dirfd, lock_fd, clean. RET_NEW: it held
 * nothing. Reports. */
int kq_datadir_open(struct kq_broker *broker, bool *ret_new);
/* Forgets the mark of a clean stop: from now on an unclean one is possible. */
int kq_datadir_begin(struct kq_broker *broker);
void kq_datadir_mark_clean(struct kq_broker *broker);
void kq_datadir_close(struct kq_broker *broker);

/* --- load.c: everything that is in it --- */

/* Fills the registry and opens every log. Reports what it repairs. */
int kq_load(struct kq_broker *broker);
/* Runs STEP for each partition on a few threads of its own; returns the first failure. */
int kq_each_partition(struct kq_broker *broker, int (*step)(struct kq_partition *, void *context),
                      void *context);

/* --- topic.c, change.c, delete.c --- */

/* A topic without partitions, not registered, one reference; its logs are not open. */
int kq_topic_new(struct kq_broker *broker, const char *name, struct kq_topic **ret);
/* Copies id, creation time, settings and attributes from RECORD. */
int kq_topic_take(struct kq_topic *topic, const struct kq_topic_record *record);
/* Puts a partition into the topic's table; it becomes visible when partition_count passes NUMBER.
 * Takes ATTRIBUTES and RENDERINGS over on success. */
int kq_topic_add(struct kq_topic *topic, int32_t number, struct kq_attributes *attributes,
                 struct kq_renderings *renderings, struct kq_partition **ret);
/* As kq_topic_add, with a copy of ATTRIBUTES and the topic's present rendering from offset 0. */
int kq_topic_add_new(struct kq_topic *topic, int32_t number, const struct kq_attributes *attributes,
                     struct kq_partition **ret);
/* Takes back what kq_topic_add added and what never became visible; its log is closed. */
void kq_topic_drop(struct kq_topic *topic, int32_t number);
struct kq_partition *kq_topic_at(const struct kq_topic *topic, int32_t number);
/* What is to be written of TOPIC: pointers are borrowed, only ret->partitions is to be freed (it
 * has room for EXTRA more). Under CHANGE. */
int kq_topic_record(struct kq_topic *topic, int32_t extra, struct kq_topic_record *ret);
/* Sets the settings and the configuration that follows from them; both must be valid. Takes
 * SETTINGS over; under CHANGE. */
void kq_topic_put_settings(struct kq_topic *topic, struct kq_topic_setting *settings, size_t count,
                           const struct kq_topic_config *config);
int kq_settings_copy(const struct kq_topic_setting *from, size_t count, size_t extra,
                     struct kq_topic_setting **ret);
/* NAME as CONFIG has it, in memory of its own. */
int kq_setting_make(const struct kq_topic_config *config, const char *name,
                    struct kq_topic_setting *ret);
void kq_settings_free(struct kq_topic_setting *settings, size_t count);
/* Nobody can use the logs of TOPIC until resume. Between the two, the other calls wait. */
void kq_topic_pause(struct kq_topic *topic);
void kq_topic_resume(struct kq_topic *topic);
/* Finishes a deletion that is decided: directories, metadata file. Reports. */
int kq_topic_erase(struct kq_broker *broker, const char *name, int32_t partitions);
/* OLD and TEXT from offset FROM on, which is the end of the log. -EDQUOT: too many. */
int kq_renderings_append(const struct kq_renderings *old, const struct kq_rendering *text,
                         int64_t from, struct kq_renderings **ret);
bool kq_rendering_equal(const struct kq_rendering *a, const struct kq_rendering *b);

/* --- partition.c --- */

int kq_partition_new(struct kq_topic *topic, int32_t number, struct kq_partition **ret);
void kq_partition_free(struct kq_partition *partition);
void kq_partition_directory(const char *topic, int32_t number, char ret[KQ_DIRECTORY_BYTES]);
/* Makes its directory with Kafka's small files. -EEXIST is no failure. */
int kq_partition_make_directory(struct kq_partition *partition);
/* Writes Kafka's small files where they are missing. */
int kq_partition_write_metadata(struct kq_partition *partition);
int kq_partition_open(struct kq_partition *partition, const struct kq_log_checkpoint *checkpoint,
                      struct kq_log_recovery *ret);
void kq_partition_put_renderings(struct kq_partition *partition, struct kq_renderings *renderings);
/* What the topic's configuration says for this partition. */
void kq_partition_log_config(const struct kq_partition *partition,
                             const struct kq_topic_config *config, struct kq_log_config *ret);
/* 0: LOG may be used until kq_guard_leave; -ESTALE. */
int kq_partition_enter(struct kq_partition *partition);

/* --- checkpoints.c --- */

int kq_broker_write_recovery_points(struct kq_broker *broker);
int kq_broker_write_starts(struct kq_broker *broker);
/* Keeps house in PARTITION; the wall clock at which it should be done again. */
int64_t kq_partition_housekeep(struct kq_partition *partition, int64_t now_ms);
