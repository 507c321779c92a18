/* The door: the only way from a front end (fs, net) to topics and their messages.
 *
 * It speaks topics, partitions, offsets and batches. Every call that reads, writes or changes
 * something carries who asks, or an access that was granted to one who asked. Two houses can stand
 * behind it: the embedded log, and later a remote cluster.
 *
 * Threads: any call from any thread. Calls marked "never blocks" touch memory only; the others may
 * wait for a disk, unless they take MAY_BLOCK and it is false: then they return KQ_WOULD_BLOCK
 * instead, and the caller asks again from a thread of its own.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "broker/authz.h"
#include "broker/base/buf.h"
#include "broker/base/err.h"
#include "broker/cleaneroptions.h"
#include "broker/extent.h"
#include "broker/groupoptions.h"
#include "broker/log.h"
#include "broker/quotaoptions.h"
#include "broker/topicconfig.h"

struct kq_broker;
struct kq_topic;
struct kq_partition;

/* --- The broker --- */

struct kq_broker_options {
    const char *data_dir;
    struct kq_topic_config topic_defaults; /* of topics that set nothing themselves */
    int32_t default_partitions;            /* num.partitions */
    int64_t retention_check_ms;            /* log.retention.check.interval.ms */
    int64_t checkpoint_ms;                 /* log.flush.offset.checkpoint.interval.ms */
    int64_t trail_bytes;                   /* the recovery point trails the end by no more */
    int64_t producer_expiry_ms;            /* producer.id.expiration.ms */
    size_t max_producers;                  /* with an id, that are known of one partition */
    unsigned max_topics;
    unsigned max_partitions; /* in all */
    unsigned max_open_files;
    unsigned sync_threads;
    struct kq_cleaner_options cleaner;
    struct kq_group_options groups; /* all zero: the defaults */
    struct kq_quota_options quotas; /* all zero: the defaults */
    unsigned max_users;             /* that have a password; 0: the default */
    struct kq_attributes new_root;  /* of the root, where the data directory is new */
    struct kq_authz authz;
};

/* Locks and opens the data directory (made, 0700, where it is missing), recovers every log, starts
 * the threads. Each failure, and each thing repaired, is reported through kq_diag.
 * 0; -EWOULDBLOCK (in use by another broker, which kept the lock for the 3 s it is given to close);
 * -EPROTO (written by a newer version); -EACCES, -EROFS, …; -errno. */
int kq_broker_open(const struct kq_broker_options *options, struct kq_broker **ret);

/* Wakes every waiter with KQ_WAKE_CLOSING, syncs and closes every log, marks the stop as clean.
 * No call may be under way or follow; extents stay valid until released. */
void kq_broker_close(struct kq_broker *broker);

/* What changed, for front ends that hold caches. From any thread, no lock held, in order for one
 * topic; must not block and must not call back into the broker except for never-blocking calls. */
enum kq_event {
    KQ_EVENT_TOPIC_CREATED,
    KQ_EVENT_TOPIC_DELETED,
    KQ_EVENT_PARTITION_ADDED,
    KQ_EVENT_ATTRIBUTES, /* owner, mode, ACL of the topic, partition or (both NULL) root */
    KQ_EVENT_CONFIG,
    KQ_EVENT_START_MOVED,  /* the first retained offset of the partition */
    KQ_EVENT_APPENDED,     /* hot: after each append, on the appender's thread, after the waiters */
    KQ_EVENT_TEXT_CLEANED, /* compaction took text out of the partition: another layout */
};
struct kq_listener {
    void (*event)(struct kq_listener *listener, enum kq_event event, struct kq_topic *topic,
                  struct kq_partition *partition);
    struct kq_listener *next; /* the broker's own */
};
void kq_broker_listen(struct kq_broker *broker, struct kq_listener *listener); /* before traffic */

/* No event of LISTENER is under way when it returns, and none follows. May wait for one. */
void kq_broker_unlisten(struct kq_broker *broker, struct kq_listener *listener);

/* Bytes of the file system below the data directory, as statvfs(3). */
struct statvfs;
int kq_broker_statfs(struct kq_broker *broker, struct statvfs *ret);

/* Of the cluster that the data directory belongs to (meta.properties: the same after every start),
 * and the broker's own number in it. The string is valid as long as the broker. */
const char *kq_broker_cluster_id(const struct kq_broker *broker);
int32_t kq_broker_node_id(const struct kq_broker *broker);

/* Where its data lies; valid as long as the broker. */
const char *kq_broker_data_dir(const struct kq_broker *broker);

/* The metrics as Prometheus text, appended to RET. Front ends add theirs through metrics.h. */
int kq_broker_metrics(struct kq_broker *broker, struct kq_buf *ret);

/* --- Topics --- */

/* Takes a reference. Never blocks. 0; -ENOENT. */
int kq_topic_get(struct kq_broker *broker, const char *name, struct kq_topic **ret);
/* By its id, of 16 bytes. */
int kq_topic_find(struct kq_broker *broker, const uint8_t *id, struct kq_topic **ret);
struct kq_topic *kq_topic_ref(struct kq_topic *topic);
void kq_topic_unref(struct kq_topic *topic); /* NULL is fine */

/* The topic with the smallest name > AFTER ("" to begin), referenced: a walk in order that survives
 * changes between its steps. Never blocks. 0; KQ_END. Cost O(log n). */
int kq_topic_next(struct kq_broker *broker, const char *after, struct kq_topic **ret);

#define KQ_TOPIC_NAME_MAX 249 /* bytes */

/* Is it a name that Kafka allows: [A-Za-z0-9._-]{1,249}, not ".", ".." or ".kqfs"? */
bool kq_topic_name_valid(const char *name);

/* Is it the name of a topic that only the broker itself writes: __consumer_offsets,
 * __transaction_state, __share_group_state (org.apache.kafka.common.internals.Topic)? */
bool kq_topic_is_internal(const char *name);

struct kq_topic_spec {
    const char *name;
    int32_t partitions;                      /* 0: the default number */
    struct kq_attributes topic;              /* of the directory; the sticky bit is added */
    struct kq_attributes partition;          /* of each partition */
    const struct kq_topic_setting *settings; /* names and values of its own configuration */
    size_t setting_count;
    bool check_only; /* say what would happen, make nothing: RET stays as it is */
};

/* Durable when it returns. Takes a reference. 0; -EINVAL (name, settings), -EEXIST, -EBUSY (being
 * created or deleted at this moment), -EACCES, -ENOSPC, -EDQUOT (max_topics, max_partitions),
 * -errno. */
int kq_topic_create(struct kq_broker *broker, const struct kq_caller *caller,
                    const struct kq_topic_spec *spec, struct kq_topic **ret);

/* Deletes the topic and its data. Waiters get KQ_WAKE_GONE; later calls on it -ESTALE; extents and
 * references stay valid. With ONLY_EMPTY: -ENOTEMPTY where a message is retained. -EACCES, -errno.
 */
int kq_topic_delete(struct kq_topic *topic, const struct kq_caller *caller, bool only_empty);

/* Adds partition NUMBER, which must be the next free one (else -ENOENT; -EEXIST where it is there).
 * ATTRIBUTES of it. -EACCES, -EDQUOT, -errno. Durable when it returns. */
int kq_topic_add_partition(struct kq_topic *topic, const struct kq_caller *caller, int32_t number,
                           const struct kq_attributes *attributes);

/* As kq_topic_add_partition, COUNT (>= 1) of them from FIRST on, all or none. -EDQUOT also where
 * there would be more than a topic can have. ATTRIBUTES NULL: says what would happen, adds none. */
int kq_topic_add_partitions(struct kq_topic *topic, const struct kq_caller *caller, int32_t first,
                            int32_t count, const struct kq_attributes *attributes);

const char *kq_topic_name(const struct kq_topic *topic);        /* valid while referenced */
const uint8_t *kq_topic_id(const struct kq_topic *topic);       /* 16 bytes */
int32_t kq_topic_partition_count(const struct kq_topic *topic); /* never blocks; only grows */
bool kq_topic_deleted(const struct kq_topic *topic);
int64_t kq_topic_created_ms(const struct kq_topic *topic);

/* The topic's whole configuration, defaults included; a snapshot. Never blocks. */
void kq_topic_config(struct kq_topic *topic, struct kq_topic_config *ret);

/* What topics have that set nothing themselves. Never blocks. */
void kq_broker_topic_defaults(const struct kq_broker *broker, struct kq_topic_config *ret);
int32_t kq_broker_default_partitions(const struct kq_broker *broker);

/* Is NAME set by the topic itself? (What getfattr lists.) */
bool kq_topic_config_is_own(struct kq_topic *topic, const char *name);

/* Sets (VALUE NULL: back to the default) one setting; durable when it returns. RENDERING settings
 * (framing, delimiter, key.separator) hold from the present end of each partition.
 * 0; -ENOTSUP (unknown name), -EINVAL (bad value), -EACCES, -errno. */
int kq_topic_set_config(struct kq_topic *topic, const struct kq_caller *caller, const char *name,
                        const char *value);

/* Several at once, all or none. */
struct kq_topic_alteration {
    const struct kq_topic_setting *changes; /* no name twice; a NULL value: back to the default */
    size_t count;
    bool replace;    /* those the topic has and that are not named go back to their defaults */
    bool check_only; /* say what would happen, change nothing */
    /* What the changes were made from; where a value is another one by now, -EAGAIN. */
    const struct kq_topic_setting *expected;
    size_t expected_count;
};
struct kq_topic_refusal {
    const char *name, *reason; /* valid as long as the alteration's strings */
};

/* As kq_topic_set_config. RET_REFUSAL (may be NULL) is set on -ENOTSUP and -EINVAL: which it was
 * and why. */
int kq_topic_alter_config(struct kq_topic *topic, const struct kq_caller *caller,
                          const struct kq_topic_alteration *alteration,
                          struct kq_topic_refusal *ret_refusal);

/* --- Owner, mode, ACL --- */

/* Has CALLER all RIGHTS (of enum kq_right) on PARTITION of TOPIC, on TOPIC (PARTITION NULL), or on
 * the root (both NULL)? For what is shown; the calls that act ask by themselves. Never blocks.
 * 0; -EACCES, -EPERM. */
int kq_authorize(struct kq_broker *broker, const struct kq_caller *caller, unsigned rights,
                 const struct kq_topic *topic, const struct kq_partition *partition);

/* A copy of the attributes of a topic, a partition of it, or the root (TOPIC NULL). Release it with
 * kq_attributes_release. Never blocks. -ENOMEM. */
int kq_attributes_get(struct kq_broker *broker, struct kq_topic *topic,
                      struct kq_partition *partition, struct kq_attributes *ret);

/* As kq_attributes_get without the ACLs' bytes: for stat(2). No allocation. */
void kq_attributes_peek(struct kq_broker *broker, struct kq_topic *topic,
                        struct kq_partition *partition, struct kq_attributes *ret);

/* Replaces them; durable when it returns. Directories keep the sticky bit. -EACCES, -EPERM, -errno.
 */
int kq_attributes_set(struct kq_broker *broker, struct kq_topic *topic,
                      struct kq_partition *partition, const struct kq_caller *caller,
                      const struct kq_attributes *attributes);

/* Reads, changes (CHANGE) and replaces them in one step, so that no other change is lost: CHANGE
 * gets a copy to change; what it refuses comes back. It must not call the broker. */
int kq_attributes_change(struct kq_broker *broker, struct kq_topic *topic,
                         struct kq_partition *partition, const struct kq_caller *caller,
                         int (*change)(struct kq_attributes *attributes, void *argument),
                         void *argument);

/* The same of a topic and all its partitions: all of them or, also after a crash, none. CALLER
 * must own each. CHANGE is called for the topic (PARTITION NULL), then for each partition. */
struct kq_topic_attributes_change {
    int (*change)(const struct kq_topic_attributes_change *change, struct kq_attributes *attributes,
                  const struct kq_partition *partition);
};
int kq_topic_change_attributes(struct kq_topic *topic, const struct kq_caller *caller,
                               const struct kq_topic_attributes_change *change);

/* How often attributes of the root, a topic or a partition were changed: an answer of kq_authorize
 * holds as long as this stays. Never blocks. */
uint64_t kq_attribute_changes(const struct kq_broker *broker);

void kq_attributes_release(struct kq_attributes *attributes);
int kq_attributes_copy(const struct kq_attributes *from, struct kq_attributes *ret);

/* --- Partitions --- */

/* Takes a reference, which holds the topic too. Never blocks. 0; -ENOENT. */
int kq_partition_get(struct kq_topic *topic, int32_t number, struct kq_partition **ret);
struct kq_partition *kq_partition_ref(struct kq_partition *partition);
void kq_partition_unref(struct kq_partition *partition);                   /* NULL is fine */
struct kq_topic *kq_partition_topic(const struct kq_partition *partition); /* borrowed */
int32_t kq_partition_number(const struct kq_partition *partition);

/* The right to read or write one partition, granted after a check. Holds no reference: valid while
 * the partition is referenced. Only kq_partition_access makes one. */
struct kq_access {
    struct kq_partition *partition;
    unsigned rights; /* of enum kq_right */
};

/* Never blocks. 0; -EACCES; -ESTALE (deleted). */
int kq_partition_access(struct kq_partition *partition, const struct kq_caller *caller,
                        unsigned rights, struct kq_access *ret);

/* Appends one batch (log.h, kq_log_append), wakes waiters, tells listeners. The batch is trusted:
 * net checks a client's batch first. Also -EACCES (not granted), -EMSGSIZE (above 2^31 - 1),
 * -ESTALE. */
int kq_append(const struct kq_access *access, const struct kq_log_append *append,
              struct kq_log_appended *ret);

/* Disk set aside for pending bytes: log.h, kq_log_reserve. */
int kq_reserve(const struct kq_access *access, int64_t delta);

/* Group commit: log.h, kq_log_sync. */
int kq_sync(struct kq_partition *partition, struct kq_sync *sync);

/* Offsets and bytes; never blocks. Text bounds may count first. */
void kq_bounds(struct kq_partition *partition, struct kq_log_bounds *ret);
int kq_text_bounds(struct kq_partition *partition, bool may_block, struct kq_log_text_bounds *ret);

/* Where text stands, with holes where compaction took some out: as the calls of log.h. Also
 * -ESTALE. */
int kq_text_of_offset(struct kq_partition *partition, int64_t offset, bool may_block, int64_t *ret);
int kq_text_next(struct kq_partition *partition, int64_t text, bool may_block, int64_t *ret);
int kq_text_pack(struct kq_partition *partition, int64_t text, bool may_block, int64_t *ret_packed,
                 uint64_t *ret_layout);
int kq_text_unpack(struct kq_partition *partition, int64_t packed, uint64_t layout, bool may_block,
                   int64_t *ret_text);

/* Reading: as the calls of log.h of the same names. Also -EACCES, -ESTALE. */
int kq_read(const struct kq_access *access, int64_t offset, uint32_t max_bytes, bool want_text,
            bool may_block, struct kq_extent *ret);
int kq_read_next(const struct kq_access *access, const struct kq_extent *before, uint32_t max_bytes,
                 struct kq_extent *ret);
int kq_read_text(const struct kq_access *access, int64_t text, uint32_t max_bytes, bool may_block,
                 struct kq_extent *ret);
/* Offsets and times, no messages: an access to DESCRIBE will do. */
int kq_find_time(const struct kq_access *access, int64_t timestamp_ms, bool may_block,
                 int64_t *ret_offset, int64_t *ret_timestamp);
int kq_find_newest(const struct kq_access *access, bool may_block, int64_t *ret_offset,
                   int64_t *ret_timestamp);
int kq_next_range(struct kq_partition *partition, int64_t from, bool may_block,
                  struct kq_log_range *ret);

/* A client got what SENT holds, for the metrics: it is not seen again. Messages are counted by
 * offsets, since nothing is decoded: those of the batches that were sent, gaps that compaction left
 * included; where a maximum cut the last batch, their share by bytes. */
void kq_partition_count_sent(struct kq_partition *partition, const struct kq_extent *sent);

/* The rendering of OFFSET, copied, and the first offset it no longer holds for. Never blocks. */
void kq_partition_rendering(struct kq_partition *partition, int64_t offset,
                            struct kq_rendering *ret, int64_t *ret_until);

/* Drops the messages before OFFSET (-1: all there are). 0; KQ_BEYOND; -EACCES, -ESTALE, -errno. */
int kq_delete_records(struct kq_partition *partition, const struct kq_caller *caller,
                      int64_t offset);

/* --- Waiting --- */

enum kq_wake {
    KQ_WAKE_DATA,    /* there are messages behind the offset */
    KQ_WAKE_GONE,    /* the topic was deleted */
    KQ_WAKE_CLOSING, /* the broker stops */
};

/* One reader that waits for messages; lives in its owner's memory. */
struct kq_waiter {
    /* Called once, from the thread that appends, with no lock held; must not block: serve what is
     * quick, hand the rest to a pool. */
    void (*wake)(struct kq_waiter *waiter, enum kq_wake why);
    bool unstable;                      /* messages of open transactions count, too */
    struct kq_waiter *next, **previous; /* the broker's own */
    struct kq_partition *partition;     /* the broker's own */
    int64_t offset;                     /* the broker's own */
    _Atomic int state;                  /* the broker's own */
};

/* Wakes WAITER as soon as the last stable offset (UNSTABLE: the end) is > OFFSET. 0: armed;
 * KQ_READY: it is already, and WAKE is not called; -ESTALE: deleted, not armed; -ESHUTDOWN: the
 * broker is closing, not armed. Cost O(1). */
int kq_wait(struct kq_partition *partition, struct kq_waiter *waiter, int64_t offset);

/* Takes WAITER back. 0: its WAKE will not be called. KQ_GONE: WAKE was called or is about to be;
 * the owner must let it happen. Never blocks, so that WAKE may hold the lock under which this is
 * called. */
int kq_unwait(struct kq_waiter *waiter);
