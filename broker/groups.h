/* Consumer groups: the part of the door (broker.h) behind which the group coordinator sits.
 *
 * It speaks Kafka's classic group protocol as its coordinator answers it: who is a member, which
 * generation it is, who leads, what was assigned, what was committed. Groups and offsets live in
 * memory and in the internal topic __consumer_offsets, from which a start loads them.
 *
 * Threads: any call from any thread. None waits for a disk, but kq_groups_prepare: what is to be
 * durable is queued, and the caller told when it is. Strings and bytes given to a call are borrowed
 * for its length.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "broker/authz.h"
#include "broker/base/arena.h"
#include "broker/base/buf.h"
#include "broker/base/err.h"
#include "broker/base/wire.h"
#include "broker/broker.h"
#include "broker/groupoptions.h"

struct kq_group;

#define KQ_GROUPS_TOPIC "__consumer_offsets"

/* What the coordinator answers beside 0, -errno and enum kq_condition, whose numbers these follow.
 * -EACCES, -EPERM: CALLER may not do this to the group. */
enum kq_group_result {
    KQ_GROUP_LOADING = 100,           /* COORDINATOR_LOAD_IN_PROGRESS */
    KQ_GROUP_NOT_AVAILABLE,           /* COORDINATOR_NOT_AVAILABLE: try again */
    KQ_GROUP_INVALID_ID,              /* INVALID_GROUP_ID */
    KQ_GROUP_NOT_FOUND,               /* GROUP_ID_NOT_FOUND */
    KQ_GROUP_UNKNOWN_MEMBER,          /* UNKNOWN_MEMBER_ID */
    KQ_GROUP_MEMBER_ID_REQUIRED,      /* MEMBER_ID_REQUIRED */
    KQ_GROUP_FENCED_INSTANCE,         /* FENCED_INSTANCE_ID */
    KQ_GROUP_ILLEGAL_GENERATION,      /* ILLEGAL_GENERATION */
    KQ_GROUP_REBALANCE_IN_PROGRESS,   /* REBALANCE_IN_PROGRESS */
    KQ_GROUP_INCONSISTENT_PROTOCOL,   /* INCONSISTENT_GROUP_PROTOCOL */
    KQ_GROUP_INVALID_SESSION_TIMEOUT, /* INVALID_SESSION_TIMEOUT */
    KQ_GROUP_FULL,                    /* GROUP_MAX_SIZE_REACHED */
    KQ_GROUP_TOO_LARGE,               /* POLICY_VIOLATION: beyond max_groups, max_protocols or
                                         max_metadata_bytes */
    KQ_GROUP_NOT_EMPTY,               /* NON_EMPTY_GROUP */
    KQ_GROUP_SUBSCRIBED,              /* GROUP_SUBSCRIBED_TO_TOPIC */
    KQ_GROUP_OFFSET_METADATA_LARGE,   /* OFFSET_METADATA_TOO_LARGE */
    KQ_GROUP_COMMIT_LARGE,            /* INVALID_COMMIT_OFFSET_SIZE: what is to be kept is more than
                                         one batch of __consumer_offsets may hold */
    KQ_GROUP_OWNED,                   /* a member, or another reader, has the partition */
};

enum kq_group_state {
    KQ_GROUP_EMPTY,
    KQ_GROUP_PREPARING_REBALANCE,
    KQ_GROUP_COMPLETING_REBALANCE,
    KQ_GROUP_STABLE,
    KQ_GROUP_DEAD,
};

/* Kafka's name: "PreparingRebalance". */
const char *kq_group_state_name(enum kq_group_state state);

/* --- The coordinator --- */

/* Makes __consumer_offsets where it is missing. MAY_BLOCK false: KQ_WOULD_BLOCK where it is.
 * 0: the other calls answer for real; -errno. */
int kq_groups_prepare(struct kq_broker *broker, bool may_block);

/* Are all groups known, or are some still being read from the disk? */
bool kq_groups_loaded(struct kq_broker *broker);
/* Blocks until they are. 0; KQ_GROUP_NOT_AVAILABLE (some cannot be read now, or the broker stops).
 */
int kq_groups_await_loaded(struct kq_broker *broker);

/* Every waiting request is answered with KQ_GROUP_NOT_AVAILABLE, now and from now on. What was
 * queued is written before this returns. For a front end that stops; the broker's close does it
 * too. */
void kq_groups_stop(struct kq_broker *broker);

/* --- Requests that are answered later --- */

/* What a JoinGroup or SyncGroup is answered with. One block of memory, free(3). */
struct kq_group_answer {
    int32_t generation;
    bool skip_assignment;
    struct kq_str protocol_type, protocol_name; /* null where there is none */
    struct kq_str leader, member_id;
    struct kq_bytes assignment;
    struct kq_group_answer_member {
        struct kq_str member_id, instance_id; /* INSTANCE_ID null: a dynamic member */
        struct kq_bytes metadata;
    } * members; /* of the leader's answer to JoinGroup */
    int32_t member_count;
};

/* One who waits; lives in its owner's memory until it was released. */
struct kq_group_wait {
    /* RESULT and ANSWER are set. Called once, from any thread, no lock held; must not block. */
    void (*done)(struct kq_group_wait *wait);
    int result;                     /* 0; enum kq_group_result; -errno */
    struct kq_group_answer *answer; /* the owner's to free; NULL unless RESULT is 0 or
                                       KQ_GROUP_MEMBER_ID_REQUIRED */
    struct kq_group *group;         /* the coordinator's own */
    struct kq_group_member *member; /* the coordinator's own */
    struct kq_group_wait *next;     /* the coordinator's own */
};

/* Nobody wants the answer any more. True: DONE will not be called. False: it was, or is about to
 * be. The member stays what it is, as for a client that is slow to read. */
bool kq_group_wait_cancel(struct kq_group_wait *wait);

/* Gives back what WAIT holds: after DONE was called, or was taken back by a cancel. */
void kq_group_wait_release(struct kq_group_wait *wait);

/* --- Membership: what the classic protocol asks ---
 * A caller needs `w` on the group; making it needs `wx` on .kqfs/groups, and the group is then
 * CALLER's, 0770. */

struct kq_group_join {
    struct kq_str group, member_id; /* MEMBER_ID "" : new */
    struct kq_str instance_id;      /* null: dynamic */
    struct kq_str client_id, client_host;
    struct kq_str protocol_type;
    const struct kq_group_protocol {
        struct kq_str name;
        struct kq_bytes metadata;
    } * protocols; /* in order of preference */
    int32_t protocol_count;
    int32_t session_timeout_ms, rebalance_timeout_ms;
    bool knows_required; /* JoinGroup >= 4: a new dynamic member is told its id and joins again */
    bool knows_skipping; /* JoinGroup >= 9: a leader may be told to keep the assignment */
};

/* JoinGroup. 0: DONE will be called; KQ_READY: WAIT has the answer already, and DONE is not called;
 * KQ_WOULD_BLOCK: kq_groups_prepare first. */
int kq_group_join(struct kq_broker *broker, const struct kq_caller *caller,
                  const struct kq_group_join *join, struct kq_group_wait *wait);

struct kq_group_sync {
    struct kq_str group, member_id, instance_id;
    int32_t generation;
    struct kq_str protocol_type, protocol_name; /* null: not said */
    const struct kq_group_assignment {
        struct kq_str member_id;
        struct kq_bytes assignment;
    } * assignments; /* from the leader */
    int32_t assignment_count;
};

/* SyncGroup; returns as kq_group_join. */
int kq_group_sync(struct kq_broker *broker, const struct kq_caller *caller,
                  const struct kq_group_sync *sync, struct kq_group_wait *wait);

/* Heartbeat. 0; enum kq_group_result. */
int kq_group_heartbeat(struct kq_broker *broker, const struct kq_caller *caller,
                       struct kq_str group, struct kq_str member_id, struct kq_str instance_id,
                       int32_t generation);

struct kq_group_leaving {
    struct kq_str member_id;   /* "": the static member of INSTANCE_ID */
    struct kq_str instance_id; /* null: not said */
    int result;                /* set: 0; KQ_GROUP_UNKNOWN_MEMBER, … */
};

/* LeaveGroup of COUNT members. 0: each has its result; else none left. */
int kq_group_leave(struct kq_broker *broker, const struct kq_caller *caller, struct kq_str group,
                   struct kq_group_leaving *leaving, int32_t count);

/* --- Groups themselves --- */

/* Takes a reference, after a check that CALLER has RIGHTS: KQ_RIGHT_READ to look at the group,
 * KQ_RIGHT_WRITE to commit for it, 0 for neither. 0; KQ_GROUP_NOT_FOUND, KQ_GROUP_LOADING, …;
 * -EACCES. */
int kq_group_get(struct kq_broker *broker, const struct kq_caller *caller, struct kq_str name,
                 unsigned rights, struct kq_group **ret);
/* By its number (kq_group_number). Unchecked: for one that was looked up by name. */
int kq_group_find(struct kq_broker *broker, int64_t number, struct kq_group **ret);
struct kq_group *kq_group_ref(struct kq_group *group);
void kq_group_unref(struct kq_group *group); /* NULL is fine */

/* The group with the smallest name > AFTER ("" to begin), byte by byte, referenced: as
 * kq_topic_next. Groups that CALLER may not look at are among them. 0; KQ_END. */
int kq_group_next(struct kq_broker *broker, struct kq_str after, struct kq_group **ret);

struct kq_str kq_group_name(const struct kq_group *group); /* valid while referenced */
int64_t kq_group_number(const struct kq_group *group);     /* > 0, < 2^38; as good as always the
                                                              same for a name */
int64_t kq_group_changed_ms(struct kq_group *group); /* of its offsets, members or attributes */
bool kq_group_deleted(struct kq_group *group);

/* Copies in ARENA; what DescribeGroups and ListGroups tell. */
struct kq_group_description {
    enum kq_group_state state;
    struct kq_str protocol_type, protocol; /* "" where there is none */
    struct kq_group_member_description {
        struct kq_str member_id, instance_id, client_id, client_host;
        struct kq_bytes metadata, assignment; /* METADATA is empty unless the group is stable */
    } * members;
    int32_t member_count;
};

/* WITH_MEMBERS false: without them. 0; -ENOMEM (also at ARENA's limit). */
int kq_group_describe(struct kq_group *group, bool with_members, struct kq_arena *arena,
                      struct kq_group_description *ret);

/* Owner, mode and ACL; of .kqfs/groups where GROUP is NULL. As kq_attributes_get and _peek. */
int kq_group_attributes_get(struct kq_broker *broker, struct kq_group *group,
                            struct kq_attributes *ret);
void kq_group_attributes_peek(struct kq_broker *broker, struct kq_group *group,
                              struct kq_attributes *ret);

/* Between the two nobody else who does the same changes the attributes of any group: for one who
 * reads them, changes them and waits until that was done. Blocks. */
void kq_group_attributes_lock(struct kq_broker *broker);
void kq_group_attributes_unlock(struct kq_broker *broker);

/* --- Changes that are durable when they are done --- */

/* One who waits for a change; lives in its owner's memory until DONE was called. */
struct kq_group_change {
    /* RESULT is set: 0; enum kq_group_result; -errno, and nothing has changed. Called once, from
     * any thread, no lock held; must not block. */
    void (*done)(struct kq_group_change *change);
    int result;
};

/* These return 0 where DONE will be called; KQ_READY where there was nothing to write; else why
 * not, and DONE is not called. KQ_WOULD_BLOCK: kq_groups_prepare first. */

/* Makes an empty group that stays until it is deleted (mkdir). -EEXIST, -EINVAL (name), -EACCES,
 * KQ_GROUP_TOO_LARGE. */
int kq_group_create(struct kq_broker *broker, const struct kq_caller *caller, struct kq_str name,
                    const struct kq_attributes *attributes, struct kq_group_change *change);

/* DeleteGroups: the group and its offsets. KQ_GROUP_NOT_EMPTY, KQ_GROUP_NOT_FOUND, -EPERM (neither
 * the owner's nor the directory's owner). */
int kq_group_delete(struct kq_broker *broker, const struct kq_caller *caller, struct kq_str name,
                    struct kq_group_change *change);

/* chown, chmod, setfacl; of .kqfs/groups where GROUP is NULL. */
int kq_group_attributes_set(struct kq_broker *broker, struct kq_group *group,
                            const struct kq_caller *caller, const struct kq_attributes *attributes,
                            struct kq_group_change *change);

struct kq_group_partition {
    struct kq_str topic;
    int32_t partition;
    int result; /* set: 0; KQ_GROUP_SUBSCRIBED */
};

/* OffsetDelete of COUNT partitions. KQ_GROUP_NOT_EMPTY (members that are no consumers). */
int kq_group_delete_offsets(struct kq_broker *broker, const struct kq_caller *caller,
                            struct kq_str group, struct kq_group_partition *partitions,
                            size_t count, struct kq_group_change *change);

/* --- Offsets --- */

struct kq_group_offset {
    int64_t offset; /* the next message to read; -1: none was committed */
    int32_t leader_epoch;
    struct kq_str metadata; /* in the arena; "" */
    int64_t committed_ms;
};

/* METADATA needs ARENA; NULL: it stays "". 0; -ENOMEM. */
int kq_group_offset_get(struct kq_group *group, struct kq_str topic, int32_t partition,
                        struct kq_arena *arena, struct kq_group_offset *ret);

struct kq_group_topic_offsets {
    struct kq_str topic;
    struct kq_group_partition_offset {
        int32_t partition;
        struct kq_group_offset offset;
    } * partitions; /* ascending */
    int32_t partition_count;
};

/* All that is committed, by topic in order of their names, in ARENA. 0; -ENOMEM. */
int kq_group_offsets(struct kq_group *group, struct kq_arena *arena,
                     struct kq_group_topic_offsets **ret, int32_t *ret_count);

/* The topic with the smallest name > AFTER of which the group has an offset, or a member a
 * partition; referenced. 0; KQ_END. For directories. */
int kq_group_topic_next(struct kq_group *group, const char *after, struct kq_topic **ret);

/* Messages of PARTITION the group has not read: all retained where nothing was committed. */
int64_t kq_group_lag(struct kq_group *group, struct kq_partition *partition);

struct kq_group_claim;

struct kq_group_commit {
    struct kq_group_change change;
    struct kq_str group, member_id; /* "": not a member */
    struct kq_str instance_id;      /* null: not said */
    int32_t generation;             /* -1: not a member */
    bool knows_not_found;           /* OffsetCommit >= 9: KQ_GROUP_NOT_FOUND rather than
                                       KQ_GROUP_ILLEGAL_GENERATION */
    int64_t retention_ms;           /* -1: as configured */
    struct kq_group_claim *claim;   /* a reader of the mount, in place of member and generation */
    struct kq_group_committed {
        struct kq_topic *topic; /* referenced by the caller until this call returns */
        int32_t partition;
        int32_t leader_epoch;
        int64_t offset;
        struct kq_str metadata; /* null: "" */
        int result; /* 0 before; set: KQ_GROUP_OFFSET_METADATA_LARGE; -EINVAL (OFFSET < 0);
                       -ESTALE (TOPIC is deleted) */
    } * offsets;
    int32_t offset_count;
};

/* OffsetCommit: all offsets without a result of their own, or none. One who is no member makes the
 * group where it is missing. Durable when it is done, as a produce with acks=all is. */
int kq_group_commit(struct kq_broker *broker, const struct kq_caller *caller,
                    struct kq_group_commit *commit);

/* --- Readers on the mount --- */

/* A reader of one partition for a group; lives in its owner's memory. */
struct kq_group_claim {
    struct kq_group *group;         /* the coordinator's own */
    struct kq_group_slot *slot;     /* the coordinator's own */
    struct kq_partition *partition; /* the coordinator's own */
    _Atomic bool lost;              /* a member took the partition */
};

/* Takes PARTITION for CLAIM until it is given back or a member takes it. Holds references. 0;
 * KQ_GROUP_OWNED; -ESTALE (the group is gone). */
int kq_group_claim(struct kq_group *group, struct kq_partition *partition,
                   struct kq_group_claim *claim);
void kq_group_unclaim(struct kq_group_claim *claim);

/* --- Metrics --- */

/* Groups by state, offsets, lag: appended to RET. -ENOMEM. */
int kq_groups_metrics(struct kq_broker *broker, struct kq_buf *ret);
