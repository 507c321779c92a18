/* Keys and values of __consumer_offsets: Kafka's, in the versions that Kafka 4 writes, and one of
 * ours, which Kafka keeps and skips. */
#include "broker/group.h"

#include "broker/base/mem.h"
#include "broker/message/consumer_offsets.h"

#define OFFSET_VALUE_VERSION 3
#define OFFSET_VALUE_EXPIRES 1 /* the only version with a time of its own */
#define GROUP_VALUE_VERSION 3

/* Ours: version, flags, mode, uid, gid; length and bytes of the ACL and of the default ACL. */
#define ATTRIBUTES_VERSION 0
#define ATTRIBUTES_PINNED 1
#define LARGEST_ACL 65536 /* an xattr is not larger: xattr(7) */

/* --- Records of a write --- */

/* Begins a key or value: its length is filled in at the end. */
static size_t begin(struct kq_wire_writer *writer, struct kq_group_write *write, int16_t version)
{
    size_t from = write->records.length;
    kq_wire_writer_init(writer, &write->records);
    kq_wire_write_int32(writer, 0);
    kq_wire_write_int16(writer, version);
    return from;
}

static int end(struct kq_wire_writer *writer, struct kq_group_write *write, size_t from)
{
    if (writer->error)
        return writer->error;
    kq_store_be32(write->records.data + from, (uint32_t)(write->records.length - from - 4));
    return 0;
}

static int put_tombstone(struct kq_group_write *write)
{
    struct kq_wire_writer writer;
    kq_wire_writer_init(&writer, &write->records);
    kq_wire_write_int32(&writer, -1);
    return writer.error;
}

/* A record is whole or not there. */
static int settle(struct kq_group_write *write, size_t from, int r)
{
    if (r < 0)
        write->records.length = from;
    return r;
}

/* --- Offsets --- */

static int put_offset_key(struct kq_group_write *write, struct kq_str group, struct kq_str topic,
                          int32_t partition)
{
    struct kq_wire_writer writer;
    struct kq_offset_commit_key key = {group, topic, partition};
    size_t from = begin(&writer, write, KQ_OFFSETS_KEY_OFFSET);
    kq_offset_commit_key_write(&writer, KQ_OFFSETS_KEY_OFFSET, &key);
    return end(&writer, write, from);
}

int kq_offsets_put_offset(struct kq_group_write *write, struct kq_str group, struct kq_str topic,
                          int32_t partition, const struct kq_group_offset_value *value)
{
    struct kq_wire_writer writer;
    size_t before = write->records.length;
    int16_t version = value->expires_ms >= 0 ? OFFSET_VALUE_EXPIRES : OFFSET_VALUE_VERSION;
    struct kq_offset_commit_value record = {
        .offset = value->offset,
        .leader_epoch = value->leader_epoch,
        .metadata = {value->metadata, value->metadata_length},
        .commit_timestamp = value->committed_ms,
        .expire_timestamp = value->expires_ms,
    };
    int r = put_offset_key(write, group, topic, partition);
    if (r == 0) {
        size_t from = begin(&writer, write, version);
        kq_offset_commit_value_write(&writer, version, &record);
        r = end(&writer, write, from);
    }
    return settle(write, before, r);
}

int kq_offsets_put_no_offset(struct kq_group_write *write, struct kq_str group, struct kq_str topic,
                             int32_t partition)
{
    size_t before = write->records.length;
    int r = put_offset_key(write, group, topic, partition);
    return settle(write, before, r < 0 ? r : put_tombstone(write));
}

/* --- Groups --- */

/* A null: the version alone. */
static int put_group_key(struct kq_group_write *write, int16_t version, struct kq_str group)
{
    struct kq_wire_writer writer;
    struct kq_group_metadata_key key = {group};
    size_t from = begin(&writer, write, version);
    if (group.length >= 0)
        kq_group_metadata_key_write(&writer, KQ_OFFSETS_KEY_GROUP, &key);
    return end(&writer, write, from);
}

static struct kq_bytes not_null(struct kq_bytes bytes)
{
    return bytes.length < 0 ? (struct kq_bytes){NULL, 0} : bytes;
}

static struct kq_group_metadata_value_member member_record(const struct kq_group_member *member)
{
    return (struct kq_group_metadata_value_member){
        .member_id = member->id,
        .group_instance_id = member->instance_id,
        .client_id = member->client_id,
        .client_host = member->client_host,
        .rebalance_timeout = member->rebalance_timeout_ms,
        .session_timeout = member->session_timeout_ms,
        .subscription = not_null(kq_group_member_metadata(member, member->group->protocol)),
        .assignment = not_null(member->assignment),
    };
}

static int put_group_value(struct kq_group_write *write, const struct kq_group *group,
                           struct kq_group_metadata_value_member *members)
{
    struct kq_wire_writer writer;
    struct kq_group_metadata_value value = {
        .protocol_type = group->protocol_type.length < 0 ? KQ_STR("") : group->protocol_type,
        .generation = group->generation,
        .protocol = members ? group->protocol : KQ_STR_NULL,
        .leader = members ? group->leader->id : KQ_STR_NULL,
        .current_state_timestamp = group->state_ms,
        .members = members,
    };
    for (struct kq_group_member *member = group->members; members && member;
         member = member->by_id.next)
        members[value.members_count++] = member_record(member);
    size_t from = begin(&writer, write, GROUP_VALUE_VERSION);
    kq_group_metadata_value_write(&writer, GROUP_VALUE_VERSION, &value);
    return end(&writer, write, from);
}

/* Members count from when their generation is complete. */
int kq_offsets_put_group(struct kq_group_write *write, const struct kq_group *group)
{
    kq_autofree struct kq_group_metadata_value_member *members = NULL;
    size_t before = write->records.length;
    bool complete =
        group->state == KQ_GROUP_STABLE || group->state == KQ_GROUP_COMPLETING_REBALANCE;
    if (complete && group->members) {
        members = kq_zalloc(kq_group_member_count(group) * sizeof(*members));
        if (!members)
            return -ENOMEM;
    }
    int r = put_group_key(write, KQ_OFFSETS_KEY_GROUP, kq_group_name(group));
    return settle(write, before, r < 0 ? r : put_group_value(write, group, members));
}

int kq_offsets_put_no_group(struct kq_group_write *write, struct kq_str group)
{
    size_t before = write->records.length;
    int r = put_group_key(write, KQ_OFFSETS_KEY_GROUP, group);
    return settle(write, before, r < 0 ? r : put_tombstone(write));
}

/* --- Owner, mode and ACL --- */

int kq_offsets_put_attributes(struct kq_group_write *write, struct kq_str group,
                              const struct kq_attributes *attributes, bool pinned)
{
    struct kq_wire_writer writer;
    size_t before = write->records.length;
    int r = put_group_key(write, KQ_OFFSETS_KEY_ATTRIBUTES, group);
    if (r == 0) {
        size_t from = begin(&writer, write, ATTRIBUTES_VERSION);
        kq_wire_write_int16(&writer, pinned ? ATTRIBUTES_PINNED : 0);
        kq_wire_write_int32(&writer, (int32_t)attributes->mode);
        kq_wire_write_int32(&writer, (int32_t)attributes->uid);
        kq_wire_write_int32(&writer, (int32_t)attributes->gid);
        kq_wire_write_bytes(&writer, false, false,
                            (struct kq_bytes){attributes->acl, (int32_t)attributes->acl_length});
        kq_wire_write_bytes(
            &writer, false, false,
            (struct kq_bytes){attributes->default_acl, (int32_t)attributes->default_acl_length});
        r = end(&writer, write, from);
    }
    return settle(write, before, r);
}

int kq_offsets_put_no_attributes(struct kq_group_write *write, struct kq_str group)
{
    size_t before = write->records.length;
    int r = put_group_key(write, KQ_OFFSETS_KEY_ATTRIBUTES, group);
    return settle(write, before, r < 0 ? r : put_tombstone(write));
}

int kq_offsets_read_attributes(struct kq_bytes value, struct kq_attributes *ret, bool *ret_pinned)
{
    struct kq_wire_reader reader;
    kq_wire_reader_init(&reader, value.data, (size_t)value.length, NULL);
    int16_t version = kq_wire_read_int16(&reader);
    int16_t flags = kq_wire_read_int16(&reader);
    struct kq_attributes attributes = {.mode = (mode_t)kq_wire_read_int32(&reader) & 07777};
    attributes.uid = (uid_t)kq_wire_read_int32(&reader);
    attributes.gid = (gid_t)kq_wire_read_int32(&reader);
    struct kq_bytes acl = kq_wire_read_bytes(&reader, false, false);
    struct kq_bytes default_acl = kq_wire_read_bytes(&reader, false, false);
    if (reader.error || version != ATTRIBUTES_VERSION || acl.length > LARGEST_ACL ||
        default_acl.length > LARGEST_ACL)
        return -EBADMSG;
    attributes.acl = (uint8_t *)acl.data;
    attributes.acl_length = (size_t)acl.length;
    attributes.default_acl = (uint8_t *)default_acl.data;
    attributes.default_acl_length = (size_t)default_acl.length;
    *ret = attributes;
    *ret_pinned = flags & ATTRIBUTES_PINNED;
    return 0;
}
