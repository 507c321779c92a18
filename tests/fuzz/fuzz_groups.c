/* Records of __consumer_offsets, whatever their bytes: what was made of them can be described and
 * written again, and is then the same.
 *
 * Input, record by record: flags (1 in a transaction, 2 of a marker, 4 no value, 24 the producer),
 * length of the key u8, of the value u16, key, value. */
#include "broker/base/diag.h"
#include "broker/base/endian.h"
#include "broker/group.h"
#include "tests/fuzz/fuzz.h"
#include "tests/unit/directory.h"

#define ARENA_LIMIT (16 << 20)

enum { TRANSACTIONAL = 1, CONTROL = 2, TOMBSTONE = 4 };

static struct kq_broker *broker;
static char directory[DIRECTORY_BYTES];

static int allow(void *context, const struct kq_caller *caller, unsigned rights,
                 const struct kq_authz_object *object)
{
    (void)context, (void)caller, (void)rights, (void)object;
    return 0;
}

static void end_broker(void)
{
    kq_broker_close(broker);
    directory_remove(directory);
}

/* Stopping, it writes nothing any more: not the groups whose members expire at once, either. */
static void begin_broker(void)
{
    struct kq_broker_options options = {
        .data_dir = directory,
        .default_partitions = 1,
        .retention_check_ms = 300000,
        .checkpoint_ms = 60000,
        .trail_bytes = 1 << 20,
        .producer_expiry_ms = 86400000,
        .max_producers = 10,
        .max_topics = 10,
        .max_partitions = 10,
        .max_open_files = 10,
        .sync_threads = 1,
        .new_root = {.mode = 0755},
        .authz = {.check = allow},
    };
    kq_diag_set_level(LOG_EMERG);
    kq_topic_config_defaults(&options.topic_defaults);
    kq_group_options_defaults(&options.groups);
    options.groups.offsets_partitions = 1;
    directory_make(directory, "/dev/shm");
    MUST(atexit(end_broker) == 0);
    MUST(kq_broker_open(&options, &broker) == 0);
    MUST(kq_groups_prepare(broker, true) == 0);
    MUST(kq_groups_await_loaded(broker) == 0);
    atomic_store(&broker->groups->stopping, true);
}

/* --- Records in --- */

static void replay_record(struct kq_replay *replay, int flags, struct kq_bytes key,
                          struct kq_bytes value)
{
    kq_autobuf struct kq_buf batch = {0};
    struct kq_batch_builder builder;
    struct kq_batch_header header;
    MUST(kq_batch_begin(&builder, &batch, 0) == 0);
    MUST(kq_batch_add(&builder, 1700000000000, key.data, key.length,
                      value.length < 0 ? NULL : value.data, value.length, NULL, 0, 0) == 0);
    kq_batch_finish(&builder);
    MUST(kq_batch_header_read(batch.data, batch.length, &header) == 0);
    if (flags & TRANSACTIONAL)
        header.attributes |= KQ_ATTRIBUTE_TRANSACTIONAL;
    if (flags & CONTROL)
        header.attributes |= KQ_ATTRIBUTE_CONTROL;
    header.producer_id = flags >> 3 & 3;
    MUST(kq_replay_batch(replay, batch.data, &header) == 0);
}

static struct kq_bytes take(struct fuzz_input *input, size_t length)
{
    size_t left = (size_t)(input->end - input->at);
    struct kq_bytes bytes = {input->at, (int32_t)(length < left ? length : left)};
    input->at += bytes.length;
    return bytes;
}

static void replay_input(struct kq_replay *replay, struct fuzz_input *input)
{
    while (input->at < input->end) {
        int flags = fuzz_byte(input);
        size_t key_length = fuzz_byte(input), high = fuzz_byte(input);
        size_t value_length = high << 8 | fuzz_byte(input);
        struct kq_bytes key = take(input, key_length), value = take(input, value_length);
        if (flags & TOMBSTONE)
            value.length = -1;
        replay_record(replay, flags, key, value);
    }
}

static void replay_dump(struct kq_replay *replay, const struct kq_buf *records)
{
    const uint8_t *at = records->data, *end = at + records->length;
    while (at < end) {
        struct kq_bytes key = {at + 4, (int32_t)kq_load_be32(at)};
        at += 4 + key.length;
        struct kq_bytes value = {at + 4, (int32_t)kq_load_be32(at)};
        at += 4 + (value.length > 0 ? value.length : 0);
        replay_record(replay, 0, key, value);
    }
}

/* --- Groups out --- */

static void dump_group(struct kq_group *group, struct kq_group_write *ret)
{
    struct kq_str name = kq_group_name(group);
    MUST(kq_offsets_put_attributes(ret, name, &group->attributes, group->pinned) == 0);
    MUST(kq_offsets_put_group(ret, group) == 0);
    for (size_t i = 0; i < group->topic_count; i++) {
        const struct kq_group_topic *topic = group->topics[i];
        struct kq_str topic_name = {topic->name, topic->length};
        for (size_t j = 0; j < topic->count; j++) {
            const struct kq_group_slot *slot = topic->slots[j];
            if (slot->value.offset >= 0)
                MUST(kq_offsets_put_offset(ret, name, topic_name, slot->partition, &slot->value) ==
                     0);
        }
    }
}

static void for_each_group(void (*visit)(struct kq_group *, void *), void *context)
{
    struct kq_group *group, *before = NULL;
    while (kq_group_next(broker, before ? kq_group_name(before) : KQ_STR_NULL, &group) == 0) {
        visit(group, context);
        kq_group_unref(before);
        before = group;
    }
    kq_group_unref(before);
}

static void dump(struct kq_group *group, void *context)
{
    kq_group_lock(group);
    dump_group(group, context);
    kq_group_unlock(group);
}

static void describe(struct kq_group *group, void *context)
{
    struct kq_arena arena;
    struct kq_group_description description;
    struct kq_group_topic_offsets *topics;
    int32_t count;
    (void)context;
    kq_arena_init(&arena, ARENA_LIMIT);
    MUST(kq_group_describe(group, true, &arena, &description) == 0);
    MUST(kq_group_offsets(group, &arena, &topics, &count) == 0);
    for (int32_t i = 0; i < count; i++)
        for (int32_t j = 1; j < topics[i].partition_count; j++)
            MUST(topics[i].partitions[j - 1].partition < topics[i].partitions[j].partition);
    kq_arena_release(&arena);
}

static void forget(struct kq_group *group, void *context)
{
    (void)context;
    kq_group_lock(group);
    kq_group_dismiss(group, KQ_GROUP_NOT_AVAILABLE);
    kq_group_clear_members(group);
    kq_groups_remove(group);
    group->state = KQ_GROUP_DEAD;
    kq_group_unlock(group);
}

static void forget_all(void)
{
    struct kq_attributes root = {.mode = 01777};
    kq_group_put_attributes(broker->groups, NULL, &root);
    for_each_group(forget, NULL);
    MUST(broker->groups->count == 0);
    MUST(!broker->groups->shards->table);
}

/* All there is, as records. */
static struct kq_group_write *dump_all(void)
{
    struct kq_group_write *write = kq_offsets_write_new(sizeof(*write), NULL);
    MUST(write);
    MUST(kq_offsets_put_attributes(write, KQ_STR_NULL, &broker->groups->root, false) == 0);
    for_each_group(dump, write);
    return write;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
    struct kq_replay *first, *second;
    if (!broker)
        begin_broker();
    uint8_t *copy = fuzz_copy(bytes, length);
    struct fuzz_input input = {copy, copy + length};
    MUST(kq_replay_new(broker->groups->shards, &first) == 0);
    replay_input(first, &input);
    free(copy);
    kq_replay_free(first); /* what is still in a transaction was aborted */
    struct kq_group_write *once = dump_all();
    forget_all();
    MUST(kq_replay_new(broker->groups->shards, &second) == 0);
    replay_dump(second, &once->records);
    struct kq_group_write *twice = dump_all();
    MUST(once->records.length == twice->records.length);
    MUST(memcmp(once->records.data, twice->records.data, once->records.length) == 0);
    kq_replay_finish(second);
    kq_replay_free(second);
    for_each_group(describe, NULL);
    forget_all();
    kq_offsets_write_free(once);
    kq_offsets_write_free(twice);
    return 0;
}
