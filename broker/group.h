/* What the files of the group coordinator share (groups.c, group_*.c, offsets_*.c).
 *
 * Groups live in shards: one for each partition of __consumer_offsets, to which the hash of a
 * group's name leads. A shard has the table of its groups and the queue of what is to be written.
 *
 * Locks, outer before inner:
 *   group->lock           one group: its members, state, offsets. Never held over disk I/O
 *   shard->lock           the table of names; shard->queue_lock what is to be written
 *   groups->names_lock    the groups in order of their names, and by number
 *   broker->attributes_lock, registry.lock, the lock of the timers
 * Nothing is called back with a lock held: waits that an act answered are collected in the group
 * and told when it is unlocked (kq_group_unlock).
 */
#pragma once

#include <pthread.h>
#include <stdatomic.h>

#include "broker/base/pool.h"
#include "broker/base/timers.h"
#include "broker/batch.h"
#include "broker/groups.h"
#include "broker/internal.h"
#include "broker/uthash.h"

struct kq_group_shard;

/* --- Deadlines of a group (group_alarm.c) --- */

/* Lives in a group or member, which it holds while it is armed. Under the group's lock. */
struct kq_alarm {
    struct kq_timer timer;
    struct kq_group *group;
    struct kq_group_member *member;      /* NULL: the group's own */
    void (*due)(struct kq_alarm *alarm); /* under the group's lock; not armed any more */
    int64_t deadline_ns;
    int64_t queued_ns; /* what the timer is set to; may be earlier than the deadline */
    bool armed;        /* DUE is to be called at the deadline */
    bool stale;        /* a call of the timer is under way that is to be ignored */
};

void kq_alarm_init(struct kq_alarm *alarm, struct kq_group *group, struct kq_group_member *member,
                   void (*due)(struct kq_alarm *alarm));
/* Sets it to AFTER_MS from now, or moves it. One that moves to a later time costs nothing. */
void kq_alarm_set(struct kq_alarm *alarm, int64_t after_ms);
void kq_alarm_cancel(struct kq_alarm *alarm);

/* --- Members --- */

struct kq_group_protocols {
    int32_t count;
    int64_t bytes; /* of metadata, in all */
    struct kq_group_protocol at[];
};

struct kq_group_member {
    UT_hash_handle by_id;       /* of group->members or group->pending */
    UT_hash_handle by_instance; /* of group->statics */
    struct kq_group *group;
    unsigned references; /* under the group's lock: the table, the alarm */
    struct kq_str id, instance_id, client_id, client_host;
    struct kq_group_protocols *protocols; /* NULL: pending */
    int32_t session_timeout_ms, rebalance_timeout_ms;
    struct kq_bytes assignment;
    bool is_new;        /* not yet in a generation: may expire while it awaits the join */
    bool awaiting_join; /* has sent JoinGroup; JOIN is NULL where nobody waits any more */
    bool awaiting_sync;
    bool pending_sync; /* was told the generation and has not sent SyncGroup */
    struct kq_group_wait *join, *sync;
    struct kq_alarm heartbeat;
};

/* How many members have a protocol. */
struct kq_group_supported {
    UT_hash_handle by_name;
    int32_t members;
    int32_t votes;
    int32_t length;
    char name[];
};

/* --- Offsets --- */

struct kq_group_offset_value {
    int64_t offset; /* -1: none */
    int32_t leader_epoch;
    int32_t metadata_length;
    char *metadata; /* NULL: "" */
    int64_t committed_ms;
    int64_t expires_ms; /* -1: by the broker's setting */
    int64_t log_offset; /* of the record, where one was replayed */
};

struct kq_group_slot {
    int32_t partition;
    int32_t queued; /* writes under way */
    uint32_t owned; /* equals group->assignment: a member has the partition */
    struct kq_group_offset_value value;
    struct kq_group_claim *claim;
};

/* What a group has of one topic; ascending partitions. */
struct kq_group_topic {
    uint8_t id[KQ_UUID_BYTES]; /* of the topic that the offsets were committed for; zero: unknown */
    struct kq_group_slot **slots;
    size_t count, capacity;
    size_t offsets; /* slots that have one */
    int32_t length;
    char name[];
};

/* --- A group --- */

struct kq_group {
    struct kq_groups *groups;
    struct kq_group_shard *shard;
    atomic_uint references;
    int64_t number;
    UT_hash_handle by_name, by_number;

    struct kq_attributes attributes; /* under attributes_lock */
    _Atomic int64_t changed_ms;
    atomic_bool dead; /* is in no table any more */

    pthread_mutex_t lock;
    bool pinned;   /* stays where it has no offsets: made on the mount */
    bool unsaved;  /* its attributes are not in the log yet */
    bool deleting; /* the tombstones are on their way */
    enum kq_group_state state, previous;
    int64_t state_ms; /* since when it is in STATE; -1: unknown */
    int32_t generation;
    struct kq_str protocol_type, protocol; /* null: none */
    struct kq_group_member *members;       /* by id, the oldest first */
    struct kq_group_member *statics;       /* by instance id */
    struct kq_group_member *pending;       /* were given an id to join with */
    struct kq_group_member *leader;
    struct kq_group_supported *supported;
    unsigned awaiting_join, pending_syncs; /* members for which that is true */
    bool member_added;                     /* since the initial delay began */
    int32_t delay_ms, remaining_ms;        /* of the initial rebalance */
    struct kq_alarm join_alarm, sync_alarm;
    bool topics_known;         /* SUBSCRIBED says of which topics the members are */
    struct kq_str *subscribed; /* ascending; one block with their bytes */
    size_t subscribed_count;
    struct kq_group_topic **topics; /* ascending names */
    size_t topic_count, topic_capacity;
    size_t offset_count;
    uint32_t assignment; /* counts assignments; slots of the present one have this number */
    bool owners_unknown; /* nobody can tell who has which partition */
    struct kq_group_wait *answered;
    bool queued; /* the shard's queue is to be run: not under the lock */
    int32_t length;
    char name[];
};

/* --- A shard, and the coordinator --- */

enum kq_group_shard_state {
    KQ_SHARD_LOADING,
    KQ_SHARD_LOADED,
    KQ_SHARD_FAILED, /* is tried again after a while */
};

struct kq_group_shard {
    struct kq_groups *groups;
    struct kq_access access; /* to the partition of __consumer_offsets, which is referenced */
    _Atomic int state;       /* enum kq_group_shard_state */
    struct kq_job load;
    struct kq_timer retry;
    pthread_mutex_t lock;
    struct kq_group *table; /* by name */

    pthread_mutex_t queue_lock;
    pthread_cond_t idle;
    struct kq_group_write *queue, **queue_last; /* to be appended */
    struct kq_group_write *under_way;           /* appended or about to be: one batch */
    bool busy;
    struct kq_job job;
    struct kq_sync sync;
    struct kq_buf batch;
};

struct kq_groups {
    struct kq_broker *broker;
    struct kq_group_options options;
    struct kq_timers *timers;
    struct kq_pool *pool;    /* appends, sweeps: waits for disks */
    struct kq_pool *loaders; /* reads what is there at the start */
    struct kq_listener listener;
    atomic_bool stopping;

    pthread_mutex_t create_lock;             /* makes the topic */
    _Atomic(struct kq_group_shard *) shards; /* NULL: there is no __consumer_offsets */
    int32_t shard_count;
    pthread_mutex_t load_lock;
    pthread_cond_t loaded;
    int loading, failed; /* shards that are being loaded; that could not be */

    pthread_rwlock_t names_lock;
    struct kq_group **sorted;
    size_t count, capacity;
    struct kq_group *by_number;

    struct kq_attributes root;   /* of .kqfs/groups; under attributes_lock */
    pthread_mutex_t change_lock; /* who reads, changes and sets attributes; held over disk writes */

    pthread_mutex_t sweep_lock;
    pthread_cond_t swept;
    bool sweeping;      /* a sweep is queued or under way */
    bool sweep_expired; /* it is to look for what has expired */
    bool sweep_topics;  /* for offsets of topics that are gone */
    struct kq_job sweep;
    struct kq_timer sweep_timer;
};

/* --- groups.c --- */

/* Called by kq_broker_open and _close. */
int kq_groups_open(struct kq_broker *broker);
void kq_groups_close(struct kq_broker *broker); /* also where it was not opened */

static inline void kq_group_lock(struct kq_group *group)
{
    pthread_mutex_lock(&group->lock);
}
/* Tells those who were answered. */
void kq_group_unlock(struct kq_group *group);
/* The same, but not OWN: true, if it was. */
bool kq_group_unlock_but(struct kq_group *group, struct kq_group_wait *own);

/* Under the lock: does it serve nobody any more? Where the broker stops, what begins to wait behind
 * kq_groups_stop would never be answered. */
static inline bool kq_group_is_closed(const struct kq_group *group)
{
    return group->state == KQ_GROUP_DEAD || group->deleting ||
           atomic_load_explicit(&group->groups->stopping, memory_order_relaxed);
}

/* The shard that NAME belongs to. 0; KQ_WOULD_BLOCK (no topic yet); KQ_GROUP_INVALID_ID,
 * KQ_GROUP_LOADING, KQ_GROUP_NOT_AVAILABLE. */
int kq_groups_shard(struct kq_groups *groups, struct kq_str name, struct kq_group_shard **ret);

/* The group NAME of SHARD, referenced; made where it is missing and CREATE is not NULL.
 * KQ_GROUP_NOT_FOUND, KQ_GROUP_TOO_LARGE, -ENOMEM. */
int kq_groups_take(struct kq_group_shard *shard, struct kq_str name,
                   const struct kq_attributes *create, bool *ret_created, struct kq_group **ret);

/* So many more shards are being loaded, or could not be. */
void kq_groups_note_load(struct kq_groups *groups, int loading, int failed);

/* Takes GROUP out of all tables; under its lock. */
void kq_groups_remove(struct kq_group *group);

/* Java's String.hashCode of a UTF-8 string. */
int32_t kq_groups_hash(struct kq_str name);
/* Is NAME UTF-8 without NUL? */
bool kq_groups_name_valid(struct kq_str name);

/* May CALLER do RIGHTS to GROUP (NULL: to .kqfs/groups)? 0; -EACCES; -EPERM. */
int kq_group_authorize(struct kq_groups *groups, const struct kq_group *group,
                       const struct kq_caller *caller, unsigned rights);

/* Replaces the attributes in memory; takes ATTRIBUTES over. */
void kq_group_put_attributes(struct kq_groups *groups, struct kq_group *group,
                             struct kq_attributes *attributes);

/* A copy with a NUL behind it, which does not count; null and "" are NULL with that length. */
int kq_group_copy(struct kq_str from, struct kq_str *ret);

/* --- group_member.c: under the group's lock --- */

int kq_group_protocols_new(const struct kq_group_protocol *protocols, int32_t count,
                           struct kq_group_protocols **ret);
bool kq_group_protocols_equal(const struct kq_group_protocols *a,
                              const struct kq_group_protocols *b);
struct kq_bytes kq_group_member_metadata(const struct kq_group_member *member,
                                         struct kq_str protocol);

/* In no table; one reference, the table's. */
int kq_group_member_new(struct kq_group *group, struct kq_str id, struct kq_str instance_id,
                        struct kq_str client_id, struct kq_str client_host,
                        struct kq_group_member **ret);
void kq_group_member_unref(struct kq_group_member *member);
struct kq_group_member *kq_group_member_find(struct kq_group *group, struct kq_str id);
struct kq_group_member *kq_group_member_pending(struct kq_group *group, struct kq_str id);
struct kq_group_member *kq_group_member_static(struct kq_group *group, struct kq_str instance_id);
unsigned kq_group_member_count(const struct kq_group *group);

/* Adds MEMBER, which has protocols. -ENOMEM. */
int kq_group_add(struct kq_group *group, struct kq_group_member *member);
int kq_group_add_pending(struct kq_group *group, struct kq_group_member *member); /* -ENOMEM */
void kq_group_take_pending(struct kq_group *group, struct kq_group_member *member);
/* Removes it, member or pending, and drops the table's reference; if it waits, RESULT is the
 * answer.
 */
void kq_group_remove(struct kq_group *group, struct kq_group_member *member, int result);
void kq_group_clear_members(struct kq_group *group);
/* Replaces protocols and timeouts; takes PROTOCOLS over. -ENOMEM: nothing has changed. */
int kq_group_update(struct kq_group *group, struct kq_group_member *member,
                    struct kq_group_protocols *protocols, int32_t session_timeout_ms,
                    int32_t rebalance_timeout_ms);
/* Changes the id of a static member; takes ID over. -ENOMEM: nothing has changed. */
int kq_group_rename(struct kq_group *group, struct kq_group_member *member, struct kq_str id);
/* Could one with these protocols be a member? */
bool kq_group_supports(struct kq_group *group, struct kq_str type,
                       const struct kq_group_protocol *protocols, int32_t count);
/* What most members prefer of what all have; the group has members. */
struct kq_str kq_group_choose_protocol(struct kq_group *group);

/* --- group_answer.c: under the group's lock --- */

/* MEMBER waits from now on; whoever did before is told KQ_GROUP_REBALANCE_IN_PROGRESS. */
void kq_group_await_join(struct kq_group_member *member, struct kq_group_wait *wait);
void kq_group_await_sync(struct kq_group_member *member, struct kq_group_wait *wait);
/* Answers what MEMBER waits for, if it does: where RESULT is 0 with the present generation, or with
 * its assignment. */
void kq_group_answer_join(struct kq_group_member *member, int result);
void kq_group_answer_sync(struct kq_group_member *member, int result);
/* The same with an answer at hand, which is taken over; MEMBER awaits a join. */
void kq_group_answer_join_with(struct kq_group_member *member, int result,
                               struct kq_group_answer *with);
/* The present generation as MEMBER is told of it; as one is told of it who is to believe that
 * LEADER leads; its assignment; an id alone. 0; -ENOMEM. */
int kq_group_answer_generation(const struct kq_group_member *member, struct kq_group_answer **ret);
int kq_group_answer_follower(const struct kq_group_member *member, struct kq_str leader,
                             struct kq_group_answer **ret);
int kq_group_answer_assignment(const struct kq_group_member *member, struct kq_group_answer **ret);
int kq_group_answer_id(struct kq_str member_id, struct kq_group_answer **ret);

/* What a request returns whose WAIT was parked: it may have been ANSWERED since, and then holds
 * nothing. No lock held. */
int kq_group_parked(struct kq_group_wait *wait, bool answered);

/* --- group_session.c --- */

/* The member that MEMBER_ID and INSTANCE_ID (null: dynamic, or not said) name together; under the
 * group's lock. KQ_GROUP_UNKNOWN_MEMBER, KQ_GROUP_FENCED_INSTANCE. */
int kq_group_identify(struct kq_group *group, struct kq_str member_id, struct kq_str instance_id,
                      struct kq_group_member **ret);

/* --- group_rebalance.c: the states; under the group's lock --- */

/* Copies; null for a null. -ENOMEM: nothing has changed. */
int kq_group_put_protocol(struct kq_group *group, struct kq_str protocol);
int kq_group_put_type(struct kq_group *group, struct kq_str type);
int kq_group_put_assignment(struct kq_group_member *member, struct kq_bytes assignment);

void kq_group_become(struct kq_group *group, enum kq_group_state state);
void kq_group_prepare_rebalance(struct kq_group *group);
/* A rebalance where one can begin; else the join is complete if all are there. */
void kq_group_rebalance(struct kq_group *group);
void kq_group_maybe_complete_join(struct kq_group *group);
/* All who wait are told RESULT, no alarm stays set; the members remain. */
void kq_group_dismiss(struct kq_group *group, int result);
/* A member sent SyncGroup. */
void kq_group_synced(struct kq_group *group, struct kq_group_member *member);
/* The assignment of the present generation is known: all are told, the group is stable. */
void kq_group_stabilize(struct kq_group *group);
/* All who wait for it get RESULT (not 0). */
void kq_group_reset_assignment(struct kq_group *group, int result);
void kq_group_heard(struct kq_group_member *member); /* its session begins anew */
void kq_group_heartbeat_due(struct kq_alarm *alarm);
void kq_group_join_due(struct kq_alarm *alarm);
void kq_group_sync_due(struct kq_alarm *alarm);

/* --- group_save.c: under the group's lock --- */

/* Appends the record of the group's own attributes to WRITE. As kq_offsets_put_attributes. */
int kq_group_put_own_attributes(struct kq_group_write *write, struct kq_group *group);
/* Writes the group down as it is; what fails is reported, and the next write brings it. */
void kq_group_save(struct kq_group *group);
/* Writes down the assignment of the present generation, which makes the group stable once it is
 * durable. -ENOMEM, KQ_GROUP_NOT_AVAILABLE, …: nothing was queued. */
int kq_group_save_assignment(struct kq_group *group);
/* MEMBER, a static one, awaits a join under a new id, while the group is stable: writes that down
 * and answers then. One who does not know KNOWS_SKIPPING is told that OLD_LEADER leads, so that it
 * assigns nothing. */
int kq_group_save_static(struct kq_group_member *member, struct kq_str old_leader,
                         bool knows_skipping);

/* --- group_change.c: under the group's lock --- */

/* Tombstones for all of the group. -ENOMEM. */
int kq_group_put_tombstones(struct kq_group_write *write, const struct kq_group *group);
/* Queues them; from now on the group answers nobody, until WRITE completes and calls kq_group_bury.
 */
int kq_group_queue_deletion(struct kq_group *group, struct kq_group_write *write);
void kq_group_bury(struct kq_group *group, int result);

/* --- group_owner.c: under the group's lock --- */

/* Of what the members are subscribed, by their metadata. */
void kq_group_note_subscription(struct kq_group *group);
bool kq_group_is_subscribed(const struct kq_group *group, struct kq_str topic);
/* Who has what, by their assignments; readers on the mount lose what a member has. */
void kq_group_note_owners(struct kq_group *group);
bool kq_group_is_consumer(const struct kq_group *group); /* protocol type "consumer" */

/* --- offsets_slot.c: under the group's lock --- */

struct kq_group_topic *kq_group_topic(const struct kq_group *group, struct kq_str name);
/* The first whose name is > AFTER. */
struct kq_group_topic *kq_group_topic_behind(const struct kq_group *group, struct kq_str after);
struct kq_group_slot *kq_group_slot(const struct kq_group_topic *topic, int32_t partition);
/* Made where they are missing. -ENOMEM. A topic without slots goes with what fails: make both. */
int kq_group_topic_make(struct kq_group *group, struct kq_str name, struct kq_group_topic **ret);
int kq_group_slot_make(struct kq_group *group, struct kq_group_topic *topic, int32_t partition,
                       struct kq_group_slot **ret);
/* Sets the offset; takes METADATA over. */
void kq_group_slot_put(struct kq_group *group, struct kq_group_topic *topic,
                       struct kq_group_slot *slot, const struct kq_group_offset_value *value);
void kq_group_slot_clear(struct kq_group *group, struct kq_group_topic *topic,
                         struct kq_group_slot *slot);
/* Frees SLOT (all slots) if nobody needs it (them), and the topic if none is left. */
void kq_group_slot_trim(struct kq_group *group, struct kq_group_topic *topic,
                        struct kq_group_slot *slot);
void kq_group_topic_trim(struct kq_group *group, struct kq_group_topic *topic);
void kq_group_topics_free(struct kq_group *group);

/* --- offsets_record.c: keys and values --- */

/* What a key of __consumer_offsets is of. Versions above these are not ours. */
enum kq_offsets_key {
    KQ_OFFSETS_KEY_OFFSET_0 = 0,
    KQ_OFFSETS_KEY_OFFSET = 1,
    KQ_OFFSETS_KEY_GROUP = 2,
    KQ_OFFSETS_KEY_ATTRIBUTES = 0x4b51, /* ours ("KQ"): owner, mode and ACL of a group's directory;
                                           without a name, of .kqfs/groups */
};

/* One or more records that are written and answered together. */
struct kq_group_write {
    struct kq_group_write *next;
    struct kq_group *group; /* referenced; NULL */
    struct kq_buf records;  /* 32-bit length, key; 32-bit length or -1, value; … */
    bool splits;            /* may go into several batches: where a crash leaves the
                               first of them, that is as good as none */
    int64_t size;           /* in a batch, at most; the queue's own */
    int result;
    /* On a thread of the pool or of the syncer, no lock held, in the order of the queue; RESULT is
     * set. Frees the write. */
    void (*complete)(struct kq_group_write *write);
};

/* Each appends one record to WRITE. -ENOMEM, -EINVAL (cannot be said in this format). */
int kq_offsets_put_offset(struct kq_group_write *write, struct kq_str group, struct kq_str topic,
                          int32_t partition, const struct kq_group_offset_value *value);
int kq_offsets_put_no_offset(struct kq_group_write *write, struct kq_str group, struct kq_str topic,
                             int32_t partition);
/* The group as it is, members with their assignments. */
int kq_offsets_put_group(struct kq_group_write *write, const struct kq_group *group);
int kq_offsets_put_no_group(struct kq_group_write *write, struct kq_str group);
/* GROUP null: of .kqfs/groups. */
int kq_offsets_put_attributes(struct kq_group_write *write, struct kq_str group,
                              const struct kq_attributes *attributes, bool pinned);
int kq_offsets_put_no_attributes(struct kq_group_write *write, struct kq_str group);
/* -EBADMSG; what RET points to is borrowed. */
int kq_offsets_read_attributes(struct kq_bytes value, struct kq_attributes *ret, bool *ret_pinned);

/* --- offsets_log.c: the queue --- */

/* A write of at least the size of SIZE's struct, zeroed but for its group, which is referenced. */
void *kq_offsets_write_new(size_t size, struct kq_group *group);
/* Frees it, its records and its reference. */
void kq_offsets_write_free(struct kq_group_write *write);
/* Appends WRITE behind what is queued; under its group's lock, whose kq_group_unlock sets it going.
 * 0: COMPLETE will be called; KQ_GROUP_NOT_AVAILABLE (stopping); KQ_GROUP_COMMIT_LARGE. */
int kq_offsets_queue(struct kq_group_shard *shard, struct kq_group_write *write);
/* Sets it going, no lock held. */
void kq_group_shard_kick(struct kq_group_shard *shard);
void kq_group_shard_run_queue(struct kq_job *job);
void kq_group_shard_synced(struct kq_sync *sync, int error);
/* Waits until nothing is queued. */
void kq_group_shard_drain(struct kq_group_shard *shard);

/* --- offsets_load.c, offsets_replay.c --- */

void kq_group_shard_load(struct kq_job *job);

struct kq_replay;
int kq_replay_new(struct kq_group_shard *shard, struct kq_replay **ret);
/* Takes in one batch whose checksum is right. 0; -ENOMEM. What is malformed is reported and left
 * out. */
int kq_replay_batch(struct kq_replay *replay, const uint8_t *bytes,
                    const struct kq_batch_header *header);
/* Nothing follows: groups get their timers. */
void kq_replay_finish(struct kq_replay *replay);
void kq_replay_free(struct kq_replay *replay);

/* --- offsets_sweep.c --- */

/* Looks for what has expired, or for offsets of topics that are gone; soon. */
void kq_groups_sweep(struct kq_groups *groups, bool expired, bool topics);
void kq_groups_run_sweep(struct kq_job *job);
void kq_groups_sweep_due(struct kq_timer *timer);
