/* From records back to groups and offsets.
 *
 * The newest record of a key counts; a null value takes it away. Offsets in transactions count from
 * the marker on that commits them, unless a later record has come first. Keys of a version that
 * nobody here knows belong to a newer broker, or to Kafka's other kinds of group: they are left
 * alone, and stay in the log. Source: Kafka's GroupMetadataManager.replay and
 * OffsetMetadataManager.replay. */
#include "broker/group.h"

#include <stdio.h>

#include "broker/base/clock.h"
#include "broker/base/diag.h"
#include "broker/base/mem.h"
#include "broker/message/consumer_offsets.h"

#define CONTROL_COMMIT 1
#define ARENA_BYTES (64 << 20) /* of one record's arrays */
#define OWN_MODE 0770          /* of a group whose owner the log does not tell */

/* An offset of an open transaction. */
struct pending {
    struct pending *next;
    struct kq_group *group; /* referenced */
    struct kq_group_offset_value value;
    int32_t partition;
    int32_t length;
    char topic[];
};

struct transaction {
    UT_hash_handle by_producer;
    int64_t producer_id;
    struct pending *first;
};

struct kq_replay {
    struct kq_group_shard *shard;
    struct transaction *transactions;
    struct kq_buf scratch;
    struct kq_arena arena;
    int64_t producer_id; /* of the batch at hand; -1: no transaction */
    size_t skipped;      /* records that could not be read */
};

int kq_replay_new(struct kq_group_shard *shard, struct kq_replay **ret)
{
    struct kq_replay *replay = kq_zalloc(sizeof(*replay));
    if (!replay)
        return -ENOMEM;
    replay->shard = shard;
    kq_arena_init(&replay->arena, ARENA_BYTES);
    *ret = replay;
    return 0;
}

/* --- Finding the group of a record --- */

static int find(struct kq_replay *replay, struct kq_str name, bool make, struct kq_group **ret)
{
    struct kq_attributes own;
    struct kq_group *group;
    bool created = false;
    if (!kq_groups_name_valid(name))
        return -EBADMSG;
    kq_group_attributes_peek(replay->shard->groups->broker, NULL, &own);
    own.mode = OWN_MODE;
    int r = kq_groups_take(replay->shard, name, make ? &own : NULL, &created, &group);
    if (r == KQ_GROUP_TOO_LARGE)
        kq_diag_limited(60000, LOG_ERR,
                        "there are more groups in " KQ_GROUPS_TOPIC " than group.max.groups "
                        "allows: raise it, some are not served");
    if (r != 0)
        return r;
    if (created) {
        kq_group_lock(group);
        group->unsaved = false;
        kq_group_unlock(group);
    }
    *ret = group;
    return 0;
}

/* --- Offsets --- */

static int copy_value(const struct kq_offset_commit_value *record, int64_t log_offset,
                      struct kq_group_offset_value *ret)
{
    struct kq_str metadata;
    int r = kq_group_copy(record->metadata, &metadata);
    if (r == 0)
        *ret = (struct kq_group_offset_value){
            .offset = record->offset,
            .leader_epoch = record->leader_epoch,
            .metadata = (char *)metadata.data,
            .metadata_length = metadata.length,
            .committed_ms = record->commit_timestamp,
            .expires_ms = record->expire_timestamp,
            .log_offset = log_offset,
        };
    return r;
}

/* Puts VALUE, which is taken over in any case, unless a later one is there. */
static int put(struct kq_group *group, struct kq_str topic_name, int32_t partition,
               const struct kq_group_offset_value *value)
{
    struct kq_group_topic *topic;
    struct kq_group_slot *slot;
    kq_group_lock(group);
    int r = kq_group_topic_make(group, topic_name, &topic);
    if (r == 0)
        r = kq_group_slot_make(group, topic, partition, &slot);
    if (r == 0 && (slot->value.offset < 0 || slot->value.log_offset <= value->log_offset))
        kq_group_slot_put(group, topic, slot, value);
    else
        free(value->metadata);
    kq_group_unlock(group);
    return r;
}

static void clear(struct kq_group *group, struct kq_str topic_name, int32_t partition)
{
    kq_group_lock(group);
    struct kq_group_topic *topic = kq_group_topic(group, topic_name);
    struct kq_group_slot *slot = kq_group_slot(topic, partition);
    if (slot) {
        kq_group_slot_clear(group, topic, slot);
        kq_group_slot_trim(group, topic, slot);
    }
    kq_group_unlock(group);
}

/* --- Transactions --- */

static struct transaction *transaction_of(struct kq_replay *replay, int64_t producer_id, bool make)
{
    struct transaction *transaction;
    HASH_FIND(by_producer, replay->transactions, &producer_id, sizeof(producer_id), transaction);
    if (transaction || !make)
        return transaction;
    transaction = kq_zalloc(sizeof(*transaction));
    if (transaction) {
        transaction->producer_id = producer_id;
        kq_uthash_failed = false;
        HASH_ADD(by_producer, replay->transactions, producer_id, sizeof(producer_id), transaction);
        if (kq_uthash_failed) {
            free(transaction);
            transaction = NULL;
        }
    }
    return transaction;
}

/* Takes VALUE over on success. */
static int pend(struct kq_replay *replay, struct kq_group *group, struct kq_str topic,
                int32_t partition, const struct kq_group_offset_value *value)
{
    struct transaction *transaction = transaction_of(replay, replay->producer_id, true);
    struct pending *pending =
        transaction ? kq_zalloc(sizeof(*pending) + (size_t)topic.length) : NULL;
    if (!pending)
        return -ENOMEM;
    pending->group = kq_group_ref(group);
    pending->value = *value;
    pending->partition = partition;
    pending->length = topic.length;
    memcpy(pending->topic, topic.data, (size_t)topic.length);
    pending->next = transaction->first;
    transaction->first = pending;
    return 0;
}

/* A tombstone takes pending offsets along. */
static void unpend(struct kq_replay *replay, const struct kq_group *group, struct kq_str topic,
                   int32_t partition)
{
    struct transaction *transaction = replay->transactions;
    for (; transaction; transaction = transaction->by_producer.next)
        for (struct pending *at = transaction->first; at; at = at->next)
            if (at->group == group && at->partition == partition &&
                kq_str_is((struct kq_str){at->topic, at->length}, topic))
                at->value.offset = -1;
}

static int end_transaction(struct kq_replay *replay, struct transaction *transaction, bool commit)
{
    int r = 0;
    struct pending *pending = transaction->first, *next;
    for (; pending; pending = next) {
        int32_t length = pending->length;
        next = pending->next;
        if (commit && r == 0 && pending->value.offset >= 0)
            r = put(pending->group, (struct kq_str){pending->topic, length}, pending->partition,
                    &pending->value);
        else
            free(pending->value.metadata);
        kq_group_unref(pending->group);
        free(pending);
    }
    HASH_DELETE(by_producer, replay->transactions, transaction);
    free(transaction);
    return r;
}

/* A marker's key: version, type. */
static int replay_control(struct kq_replay *replay, const struct kq_record *record)
{
    struct transaction *transaction = transaction_of(replay, replay->producer_id, false);
    if (record->key_length < 4)
        return -EBADMSG;
    bool commit = kq_load_be16(record->key + 2) == CONTROL_COMMIT;
    return transaction ? end_transaction(replay, transaction, commit) : 0;
}

/* --- Records of offsets --- */

static int read_offset_value(struct kq_bytes bytes, struct kq_offset_commit_value *ret)
{
    struct kq_wire_reader reader;
    kq_wire_reader_init(&reader, bytes.data, (size_t)bytes.length, NULL);
    int16_t version = kq_wire_read_int16(&reader);
    return kq_offset_commit_value_read(&reader, version, ret);
}

static int replay_offset(struct kq_replay *replay, const struct kq_offset_commit_key *key,
                         struct kq_bytes bytes, int64_t log_offset)
{
    struct kq_offset_commit_value record;
    struct kq_group_offset_value value;
    struct kq_group *group;
    int r = bytes.length < 0 ? 0 : read_offset_value(bytes, &record);
    bool is_none = bytes.length < 0 || (r == 0 && record.offset < 0);
    if (r == 0)
        r = find(replay, key->group, !is_none, &group);
    if (r != 0)
        return r;
    if (is_none) {
        clear(group, key->topic, key->partition);
        unpend(replay, group, key->topic, key->partition);
    } else if ((r = copy_value(&record, log_offset, &value)) == 0) {
        if (replay->producer_id < 0)
            r = put(group, key->topic, key->partition, &value);
        else if ((r = pend(replay, group, key->topic, key->partition, &value)) < 0)
            free(value.metadata);
    }
    kq_group_unref(group);
    return r;
}

/* --- Records of groups --- */

static int make_member(struct kq_group *group, const struct kq_group_metadata_value *value,
                       const struct kq_group_metadata_value_member *record)
{
    struct kq_group_protocol protocol = {value->protocol, record->subscription};
    struct kq_group_member *member;
    int r = kq_group_member_new(group, record->member_id, record->group_instance_id,
                                record->client_id, record->client_host, &member);
    if (r < 0)
        return r;
    member->session_timeout_ms = record->session_timeout;
    member->rebalance_timeout_ms =
        record->rebalance_timeout < 0 ? record->session_timeout : record->rebalance_timeout;
    bool twice = kq_group_member_find(group, record->member_id) ||
                 (record->group_instance_id.length >= 0 &&
                  kq_group_member_static(group, record->group_instance_id));
    r = twice ? -EBADMSG : kq_group_protocols_new(&protocol, 1, &member->protocols);
    if (r == 0)
        r = kq_group_put_assignment(member, record->assignment);
    if (r == 0)
        r = kq_group_add(group, member);
    if (r < 0)
        kq_group_member_unref(member);
    return r;
}

static int take_value(struct kq_group *group, const struct kq_group_metadata_value *value)
{
    struct kq_str type = value->protocol_type.length > 0 ? value->protocol_type : KQ_STR_NULL;
    bool named = value->protocol.length >= 0;
    int r = value->members_count > 0 && !named ? -EBADMSG : kq_group_put_type(group, type);
    if (r == 0)
        r = kq_group_put_protocol(group, value->protocol);
    for (int32_t i = 0; r == 0 && i < value->members_count; i++)
        r = make_member(group, value, &value->members[i]);
    if (r < 0)
        return r;
    group->generation = value->generation;
    group->state = group->members ? KQ_GROUP_STABLE : KQ_GROUP_EMPTY;
    group->state_ms = value->current_state_timestamp;
    struct kq_group_member *leader =
        value->leader.length >= 0 ? kq_group_member_find(group, value->leader) : NULL;
    if (leader)
        group->leader = leader;
    return 0;
}

/* A group whose record cannot be read is one without members, not one with half of them. */
static int put_group(struct kq_group *group, const struct kq_group_metadata_value *value)
{
    kq_group_lock(group);
    kq_group_clear_members(group);
    int r = take_value(group, value);
    if (r < 0) {
        kq_group_clear_members(group);
        group->state = KQ_GROUP_EMPTY;
    }
    kq_group_unlock(group);
    return r;
}

/* Nobody but this has the group yet. Offsets have tombstones of their own: those that are still
 * there stay. Kafka writes a group's alone where it goes on as one of another kind. */
static void remove_group(struct kq_group *group)
{
    kq_group_lock(group);
    kq_group_clear_members(group);
    if (group->offset_count > 0) {
        kq_group_put_type(group, KQ_STR_NULL);
        kq_group_put_protocol(group, KQ_STR_NULL);
        group->generation = 0;
        group->state = KQ_GROUP_EMPTY;
        group->state_ms = -1;
    } else {
        kq_groups_remove(group);
        group->state = KQ_GROUP_DEAD;
    }
    kq_group_unlock(group);
}

static int replay_group(struct kq_replay *replay, struct kq_str name, struct kq_bytes bytes)
{
    struct kq_wire_reader reader;
    struct kq_group_metadata_value value;
    struct kq_group *group;
    int r = 0;
    if (bytes.length >= 0) {
        kq_wire_reader_init(&reader, bytes.data, (size_t)bytes.length, &replay->arena);
        int16_t version = kq_wire_read_int16(&reader);
        r = kq_group_metadata_value_read(&reader, version, &value);
    }
    if (r == 0)
        r = find(replay, name, bytes.length >= 0, &group);
    if (r != 0)
        return r;
    if (bytes.length < 0)
        remove_group(group);
    else
        r = put_group(group, &value);
    kq_group_unref(group);
    return r;
}

/* A null name is .kqfs/groups itself. */
static int replay_attributes(struct kq_replay *replay, struct kq_str name, struct kq_bytes bytes)
{
    struct kq_group *group = NULL;
    struct kq_attributes attributes, copy;
    bool pinned;
    if (bytes.length < 0) /* the group's own tombstone is beside it */
        return 0;
    int r = kq_offsets_read_attributes(bytes, &attributes, &pinned);
    if (r == 0 && name.length >= 0)
        r = find(replay, name, true, &group);
    if (r != 0)
        return r;
    r = kq_attributes_copy(&attributes, &copy);
    if (r == 0)
        kq_group_put_attributes(replay->shard->groups, group, &copy);
    if (group) {
        kq_group_lock(group);
        group->pinned = pinned;
        kq_group_unlock(group);
    }
    kq_group_unref(group);
    return r;
}

/* --- Batches --- */

static int replay_record(struct kq_replay *replay, const struct kq_record *record)
{
    struct kq_wire_reader reader;
    struct kq_offset_commit_key key;
    struct kq_group_metadata_key group;
    struct kq_bytes value = {record->value, record->value_length};
    if (record->key_length < 0)
        return -EBADMSG;
    kq_wire_reader_init(&reader, record->key, (size_t)record->key_length, NULL);
    int16_t version = kq_wire_read_int16(&reader);
    switch (version) {
    case KQ_OFFSETS_KEY_OFFSET_0:
    case KQ_OFFSETS_KEY_OFFSET:
        if (kq_offset_commit_key_read(&reader, version, &key) < 0)
            return -EBADMSG;
        return replay_offset(replay, &key, value, record->offset);
    case KQ_OFFSETS_KEY_ATTRIBUTES:
        if (record->key_length == sizeof(version))
            return replay_attributes(replay, KQ_STR_NULL, value);
        if (kq_group_metadata_key_read(&reader, KQ_OFFSETS_KEY_GROUP, &group) < 0)
            return -EBADMSG;
        return replay_attributes(replay, group.group, value);
    case KQ_OFFSETS_KEY_GROUP:
        if (kq_group_metadata_key_read(&reader, version, &group) < 0)
            return -EBADMSG;
        return replay_group(replay, group.group, value);
    default:
        return reader.error;
    }
}

static int replay_records(struct kq_replay *replay, struct kq_record_reader *reader, bool control)
{
    struct kq_record record;
    int r;
    while ((r = kq_record_next(reader, &record)) == 0) {
        r = control ? replay_control(replay, &record) : replay_record(replay, &record);
        kq_arena_release(&replay->arena);
        if (r == -ENOMEM)
            return r;
        replay->skipped += r < 0;
    }
    return r == KQ_END ? 0 : r;
}

int kq_replay_batch(struct kq_replay *replay, const uint8_t *bytes,
                    const struct kq_batch_header *header)
{
    struct kq_record_reader reader;
    struct kq_topic_config config;
    kq_topic_config(kq_partition_topic(replay->shard->access.partition), &config);
    bool control = header->attributes & KQ_ATTRIBUTE_CONTROL;
    bool transactional = header->attributes & KQ_ATTRIBUTE_TRANSACTIONAL;
    replay->producer_id = transactional ? header->producer_id : -1;
    int r = kq_record_reader_open(&reader, bytes, header, (size_t)config.log.max_batch_bytes,
                                  &replay->scratch);
    if (r == 0)
        r = replay_records(replay, &reader, control);
    if (r == -ENOMEM)
        return r;
    replay->skipped += r < 0;
    return 0;
}

/* --- The end --- */

/* The topic that the offsets are of is the one that has the name now. */
static void identify_topics(struct kq_group *group)
{
    char name[256];
    struct kq_topic *topic;
    for (size_t i = 0; i < group->topic_count; i++) {
        struct kq_group_topic *of = group->topics[i];
        snprintf(name, sizeof(name), "%.*s", of->length, of->name);
        if (of->length >= (int32_t)sizeof(name) ||
            kq_topic_get(group->groups->broker, name, &topic) < 0)
            continue;
        memcpy(of->id, kq_topic_id(topic), sizeof(of->id));
        kq_topic_unref(topic);
    }
}

static void wake_group(struct kq_group *group)
{
    struct kq_group_member *member;
    kq_group_lock(group);
    identify_topics(group);
    kq_group_note_subscription(group);
    if (group->members)
        kq_group_note_owners(group);
    for (member = group->members; member; member = member->by_id.next)
        kq_group_heard(member);
    if (kq_group_member_count(group) > (unsigned)group->groups->options.max_members)
        kq_group_prepare_rebalance(group);
    kq_group_unlock(group);
}

void kq_replay_finish(struct kq_replay *replay)
{
    struct kq_group_shard *shard = replay->shard;
    struct kq_group *group, *next;
    if (replay->skipped)
        kq_diag(LOG_WARNING,
                "%zu records of " KQ_GROUPS_TOPIC "-%d are none that this version can read: left "
                "out",
                replay->skipped, kq_partition_number(shard->access.partition));
    for (group = shard->table; group; group = next) {
        next = group->by_name.next;
        wake_group(group);
    }
}

void kq_replay_free(struct kq_replay *replay)
{
    while (replay->transactions)
        end_transaction(replay, replay->transactions, false);
    kq_buf_release(&replay->scratch);
    kq_arena_release(&replay->arena);
    free(replay);
}
