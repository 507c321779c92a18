/* Producing through the door: what a topic's settings make of a client's batch, what is refused,
 * and the ids of producers. */
#include "tests/unit/ground.h"

#include "broker/base/clock.h"
#include "broker/base/crc32c.h"
#include "broker/base/endian.h"
#include "broker/base/fault.h"
#include "broker/produce.h"

enum { AT_CRC = 17, AT_ATTRIBUTES = 21, AT_PRODUCER_ID = 43, AT_EPOCH = 51, AT_SEQUENCE = 53 };

struct stage {
    struct ground ground;
    struct kq_topic *topic;
    struct kq_access access;
    struct kq_buf bytes, scratch;
    struct kq_produced produced;
    unsigned flags;
};

static int setup(void **state)
{
    static struct stage stage;
    stage = (struct stage){.flags = KQ_PRODUCE_ZSTD | KQ_PRODUCE_MAY_BLOCK};
    ground_setup(&stage.ground);
    ground_open(&stage.ground);
    stage.topic = ground_topic(&stage.ground, "t", 1);
    stage.access = ground_access(stage.topic, 0);
    *state = &stage;
    return 0;
}

static int teardown(void **state)
{
    struct stage *stage = *state;
    kq_fault_disarm();
    kq_topic_unref(stage->topic);
    ground_remove(&stage->ground);
    kq_buf_release(&stage->bytes);
    kq_buf_release(&stage->scratch);
    return 0;
}

static void set(struct stage *stage, const char *name, const char *value)
{
    assert_int_equal(kq_topic_set_config(stage->topic, &ground_caller, name, value), 0);
}

static void make_crc_right(struct stage *stage)
{
    kq_store_be32(stage->bytes.data + AT_CRC, kq_crc32c(0, stage->bytes.data + AT_ATTRIBUTES,
                                                        stage->bytes.length - AT_ATTRIBUTES));
}

/* COUNT messages of LENGTH times the same letter, with time TIMESTAMP. */
static void make(struct stage *stage, int count, size_t length, int64_t timestamp)
{
    struct kq_batch_builder builder;
    char *value = malloc(length + 1);
    memset(value, 'v', length);
    stage->bytes.length = 0;
    assert_int_equal(kq_batch_begin(&builder, &stage->bytes, 0), 0);
    for (int i = 0; i < count; i++)
        assert_int_equal(
            kq_batch_add(&builder, timestamp, "k", 1, value, (int32_t)length, NULL, 0, 0), 0);
    kq_batch_finish(&builder);
    free(value);
}

static void make_idempotent(struct stage *stage, int64_t id, int32_t sequence, int count)
{
    make(stage, count, 10, kq_clock_wall_ms());
    kq_store_be64(stage->bytes.data + AT_PRODUCER_ID, (uint64_t)id);
    kq_store_be16(stage->bytes.data + AT_EPOCH, 0);
    kq_store_be32(stage->bytes.data + AT_SEQUENCE, (uint32_t)sequence);
    make_crc_right(stage);
}

static int produce(struct stage *stage)
{
    struct kq_produce request = {.bytes = stage->bytes.data,
                                 .length = stage->bytes.length,
                                 .flags = stage->flags,
                                 .scratch = &stage->scratch};
    memset(&stage->produced, 0x55, sizeof(stage->produced));
    return kq_produce_batch(&stage->access, &request, &stage->produced);
}

/* The batch at OFFSET as it is in the log, in RET. */
static struct kq_batch_header stored(struct stage *stage, int64_t offset, struct kq_buf *ret)
{
    struct kq_batch_header header;
    struct kq_extent extent;
    assert_int_equal(kq_read(&stage->access, offset, 1, false, true, &extent), 0);
    ret->length = 0;
    assert_int_equal(kq_buf_reserve(ret, extent.length), 0);
    assert_int_equal(pread(extent.fd, ret->data, extent.length, extent.position), extent.length);
    ret->length = extent.length;
    kq_extent_unref(&extent);
    assert_int_equal(kq_batch_header_read(ret->data, ret->length, &header), 0);
    assert_int_equal(kq_batch_check_crc(ret->data, &header), 0);
    return header;
}

static int64_t end_offset(struct stage *stage)
{
    struct kq_log_bounds bounds;
    kq_bounds(stage->access.partition, &bounds);
    return bounds.end;
}

/* --- What is appended --- */

static void a_batch_is_appended_as_it_came(void **state)
{
    struct stage *stage = *state;
    kq_autobuf struct kq_buf sent = {0}, log = {0};
    int64_t now = kq_clock_wall_ms();
    for (int i = 0; i < 3; i++) {
        make(stage, 5, 100, now);
        sent.length = 0;
        assert_int_equal(kq_buf_append(&sent, stage->bytes.data, stage->bytes.length), 0);
        assert_int_equal(produce(stage), 0);
        assert_int_equal(stage->produced.base_offset, 5 * i);
        assert_int_equal(stage->produced.next_offset, 5 * i + 5);
        assert_int_equal(stage->produced.log_append_time, -1);
        assert_int_equal(stage->produced.log_start_offset, 0);
        assert_false(stage->produced.duplicate);
        assert_int_equal(stage->produced.record_index, -1);
        assert_null(stage->produced.reason);
        struct kq_batch_header header = stored(stage, 5 * i, &log);
        assert_int_equal(header.base_offset, 5 * i);
        assert_int_equal(log.length, sent.length);
        assert_memory_equal(log.data + 16, sent.data + 16, sent.length - 16);
    }
}

static void a_largest_timestamp_that_is_wrong_is_made_right(void **state)
{
    struct stage *stage = *state;
    kq_autobuf struct kq_buf log = {0};
    int64_t now = kq_clock_wall_ms();
    make(stage, 2, 10, now);
    kq_store_be64(stage->bytes.data + 35, (uint64_t)now + 5000000);
    make_crc_right(stage);
    assert_int_equal(produce(stage), 0);
    assert_int_equal(stored(stage, 0, &log).max_timestamp, now);
}

static void where_the_log_says_when_it_does(void **state)
{
    struct stage *stage = *state;
    kq_autobuf struct kq_buf log = {0};
    set(stage, "message.timestamp.type", "LogAppendTime");
    int64_t before = kq_clock_wall_ms();
    make(stage, 2, 10, 12345); /* far too old, but nobody looks */
    assert_int_equal(produce(stage), 0);
    assert_in_range(stage->produced.log_append_time, before, kq_clock_wall_ms());
    struct kq_batch_header header = stored(stage, 0, &log);
    assert_int_equal(header.attributes, KQ_ATTRIBUTE_LOG_APPEND_TIME);
    assert_int_equal(header.max_timestamp, stage->produced.log_append_time);
    assert_int_equal(header.base_timestamp, 12345);
}

static void compression_type_decides(void **state)
{
    static const char *const types[] = {"uncompressed", "gzip", "snappy", "lz4", "zstd"};
    struct stage *stage = *state;
    kq_autobuf struct kq_buf log = {0};
    int64_t now = kq_clock_wall_ms();
    for (int i = 0; i < 5; i++) {
        set(stage, "compression.type", types[i]);
        make(stage, 10, 1000, now);
        assert_int_equal(produce(stage), 0);
        struct kq_batch_header header = stored(stage, 10 * i, &log);
        assert_int_equal(header.attributes, i);
        assert_int_equal(header.record_count, 10);
        assert_true(i == 0 ? log.length > 10000 : log.length < 1000);
        assert_int_equal(kq_batch_check_records(log.data, &header, 1 << 20, &stage->scratch), 0);
    }
    /* What is stored so already is not touched. */
    set(stage, "compression.type", "producer");
    stage->bytes.length = 0;
    stored(stage, 40, &stage->bytes);
    kq_store_be64(stage->bytes.data, 0);
    assert_int_equal(produce(stage), 0);
    assert_int_equal(stored(stage, 50, &log).attributes, KQ_CODEC_ZSTD);
    set(stage, "compression.type", "uncompressed");
    kq_store_be64(stage->bytes.data, 0);
    assert_int_equal(produce(stage), 0);
    assert_int_equal(stored(stage, 60, &log).attributes, KQ_CODEC_NONE);
    assert_true(log.length > 10000);
}

static void what_the_mount_wrote_is_compressed_where_that_helps(void **state)
{
    struct stage *stage = *state;
    struct kq_topic_config config;
    struct kq_batch_header header;
    kq_autobuf struct kq_buf out = {0};
    make(stage, 10, 1000, 5);
    kq_topic_config(stage->topic, &config);
    assert_int_equal(kq_produce_compress(&config, stage->bytes.data, stage->bytes.length, &out),
                     KQ_END);
    set(stage, "compression.type", "lz4");
    kq_topic_config(stage->topic, &config);
    assert_int_equal(kq_produce_compress(&config, stage->bytes.data, stage->bytes.length, &out), 0);
    assert_int_equal(kq_batch_header_read(out.data, out.length, &header), 0);
    assert_int_equal(header.attributes, KQ_CODEC_LZ4);
    assert_int_equal(kq_batch_check_records(out.data, &header, 1 << 20, &stage->scratch), 0);
    out.length = 0;
    make(stage, 1, 3, 5);
    assert_int_equal(kq_produce_compress(&config, stage->bytes.data, stage->bytes.length, &out),
                     KQ_END);
    assert_int_equal(out.length, 0);
}

static void what_would_take_long_is_left_to_who_may(void **state)
{
    struct stage *stage = *state;
    kq_autobuf struct kq_buf log = {0}, sent = {0};
    set(stage, "compression.type", "gzip");
    set(stage, "max.message.bytes", "20000000");
    make(stage, 10, 100000, kq_clock_wall_ms());
    assert_int_equal(kq_buf_append(&sent, stage->bytes.data, stage->bytes.length), 0);
    stage->flags = KQ_PRODUCE_ZSTD;
    assert_int_equal(produce(stage), KQ_WOULD_BLOCK); /* to recompress */
    assert_memory_equal(stage->bytes.data, sent.data, sent.length);
    assert_int_equal(end_offset(stage), 0);
    stage->flags |= KQ_PRODUCE_MAY_BLOCK;
    assert_int_equal(produce(stage), 0);
    stored(stage, 0, &log);
    kq_store_be64(log.data, 0);
    stage->bytes.length = 0;
    assert_int_equal(kq_buf_append(&stage->bytes, log.data, log.length), 0);
    stage->flags = 0;
    assert_int_equal(produce(stage), KQ_WOULD_BLOCK); /* to decompress */
    stage->flags = KQ_PRODUCE_MAY_BLOCK;
    assert_int_equal(produce(stage), 0);
    set(stage, "compression.type", "producer");
    stage->flags = 0;
    make(stage, 1, 1000000, kq_clock_wall_ms());
    assert_int_equal(produce(stage), 0);
    make(stage, 1, 5000000, kq_clock_wall_ms());
    assert_int_equal(produce(stage), KQ_WOULD_BLOCK); /* to read all of it */
    stage->flags = KQ_PRODUCE_MAY_BLOCK;
    assert_int_equal(produce(stage), 0);
}

static void what_the_topic_wants_synced_must_be(void **state)
{
    struct stage *stage = *state;
    set(stage, "flush.messages", "1");
    make_idempotent(stage, 5, 0, 3);
    assert_int_equal(produce(stage), KQ_MUST_SYNC);
    make_idempotent(stage, 5, 0, 3);
    assert_int_equal(produce(stage), KQ_MUST_SYNC);
    assert_true(stage->produced.duplicate);
    assert_int_equal(stage->produced.base_offset, 0);
    assert_int_equal(stage->produced.next_offset, 3);
}

static void memory_is_given_back(void **state)
{
    struct stage *stage = *state;
    set(stage, "max.message.bytes", "20000000");
    set(stage, "compression.type", "zstd");
    make(stage, 3, 4000000, kq_clock_wall_ms());
    assert_int_equal(produce(stage), 0);
    kq_autobuf struct kq_buf log = {0};
    stored(stage, 0, &log);
    stage->bytes.length = 0;
    assert_int_equal(kq_buf_append(&stage->bytes, log.data, log.length), 0);
    kq_store_be64(stage->bytes.data, 0);
    assert_int_equal(produce(stage), 0);
    assert_true(stage->scratch.capacity <= KQ_PRODUCE_KEEP);
    assert_int_equal(stage->scratch.length, 0);
}

/* --- What is refused --- */

static void refused(struct stage *stage, int condition, int record)
{
    int64_t end = end_offset(stage);
    assert_int_equal(produce(stage), condition);
    assert_non_null(stage->produced.reason);
    assert_int_equal(stage->produced.record_index, record);
    assert_int_equal(stage->produced.log_start_offset, 0);
    assert_int_equal(end_offset(stage), end);
}

static void settings_of_the_topic_refuse(void **state)
{
    struct stage *stage = *state;
    int64_t now = kq_clock_wall_ms();
    make(stage, 1, 100, now);
    set(stage, "max.message.bytes", "100");
    refused(stage, KQ_TOO_LARGE, -1);
    set(stage, "max.message.bytes", NULL);
    make(stage, 1, 100, now + 3700000);
    refused(stage, KQ_INVALID_TIMESTAMP, 0);
    set(stage, "message.timestamp.after.max.ms", "9223372036854775807");
    assert_int_equal(produce(stage), 0);
    set(stage, "message.timestamp.before.max.ms", "1000");
    make(stage, 1, 100, now - 100000);
    refused(stage, KQ_INVALID_TIMESTAMP, 0);
    set(stage, "message.timestamp.before.max.ms", NULL);
    set(stage, "cleanup.policy", "compact");
    stage->bytes.length = 0;
    struct kq_batch_builder builder;
    assert_int_equal(kq_batch_begin(&builder, &stage->bytes, 0), 0);
    assert_int_equal(kq_batch_add(&builder, now, "k", 1, "v", 1, NULL, 0, 0), 0);
    assert_int_equal(kq_batch_add(&builder, now, NULL, -1, "v", 1, NULL, 0, 0), 0);
    kq_batch_finish(&builder);
    refused(stage, KQ_INVALID_RECORD, 1);
}

static void a_recompressed_batch_must_fit_too(void **state)
{
    struct stage *stage = *state;
    kq_autobuf struct kq_buf log = {0};
    set(stage, "compression.type", "gzip");
    make(stage, 10, 1000, kq_clock_wall_ms());
    assert_int_equal(produce(stage), 0);
    stored(stage, 0, &log);
    set(stage, "compression.type", "uncompressed");
    set(stage, "max.message.bytes", "5000");
    stage->bytes.length = 0;
    assert_int_equal(kq_buf_append(&stage->bytes, log.data, log.length), 0);
    kq_store_be64(stage->bytes.data, 0);
    refused(stage, KQ_TOO_LARGE, -1);
}

static void a_bomb_is_refused(void **state)
{
    struct stage *stage = *state;
    ground_close(&stage->ground);
    kq_topic_unref(stage->topic);
    stage->ground.options.topic_defaults.log.max_batch_bytes = 1 << 20;
    ground_open(&stage->ground);
    stage->topic = ground_find(&stage->ground, "t");
    stage->access = ground_access(stage->topic, 0);
    set(stage, "max.message.bytes", "20000000");
    set(stage, "compression.type", "zstd");
    make(stage, 2, 500000, kq_clock_wall_ms());
    assert_int_equal(produce(stage), 0);
    make(stage, 20, 500000, kq_clock_wall_ms());
    struct kq_batch_header header;
    assert_int_equal(kq_batch_header_read(stage->bytes.data, stage->bytes.length, &header), 0);
    refused(stage, KQ_TOO_LARGE, -1); /* it is not compressed, but could not be read again */
}

static void a_wrong_sequence_is_refused(void **state)
{
    struct stage *stage = *state;
    int64_t id;
    assert_int_equal(kq_producer_id_new(stage->ground.broker, true, &id), 0);
    make_idempotent(stage, id, 1, 1);
    refused(stage, KQ_OUT_OF_ORDER_SEQUENCE, -1);
    make_idempotent(stage, id, 0, 4);
    assert_int_equal(produce(stage), 0);
    make_idempotent(stage, id, 5, 1);
    refused(stage, KQ_OUT_OF_ORDER_SEQUENCE, -1);
    make_idempotent(stage, id, 4, 1);
    kq_store_be16(stage->bytes.data + AT_EPOCH, 1);
    make_crc_right(stage);
    refused(stage, KQ_OUT_OF_ORDER_SEQUENCE, -1);
    make_idempotent(stage, id, 0, 1);
    kq_store_be16(stage->bytes.data + AT_EPOCH, 1);
    make_crc_right(stage);
    assert_int_equal(produce(stage), 0);
    make_idempotent(stage, id, 4, 1);
    refused(stage, KQ_FENCED_PRODUCER, -1);
}

static void without_the_right_or_the_topic_nothing_is_looked_at(void **state)
{
    struct stage *stage = *state;
    make(stage, 1, 10, kq_clock_wall_ms());
    struct kq_access access = stage->access;
    stage->access.rights = KQ_RIGHT_READ;
    assert_int_equal(produce(stage), -EACCES);
    stage->access = access;
    assert_int_equal(kq_topic_delete(stage->topic, &ground_caller, false), 0);
    assert_int_equal(produce(stage), -ESTALE);
}

static void a_disk_error_is_passed_on_and_the_batch_can_be_sent_again(void **state)
{
    struct stage *stage = *state;
    make_idempotent(stage, 5, 0, 4);
    kq_fault_arm(KQ_FAULT_WRITE, 1, ENOSPC, false);
    assert_int_equal(produce(stage), -ENOSPC);
    kq_fault_disarm();
    kq_store_be64(stage->bytes.data, 0);
    assert_int_equal(produce(stage), 0);
    assert_false(stage->produced.duplicate);
    assert_int_equal(stage->produced.base_offset, 0);
}

/* --- Restarts --- */

static void a_batch_sent_again_over_a_restart_is_known(void **state)
{
    struct stage *stage = *state;
    for (int i = 0; i < 3; i++) {
        make_idempotent(stage, 5, 2 * i, 2);
        assert_int_equal(produce(stage), 0);
    }
    kq_topic_unref(stage->topic);
    ground_reopen(&stage->ground);
    stage->topic = ground_find(&stage->ground, "t");
    stage->access = ground_access(stage->topic, 0);
    for (int i = 0; i < 3; i++) {
        make_idempotent(stage, 5, 2 * i, 2);
        assert_int_equal(produce(stage), 0);
        assert_true(stage->produced.duplicate);
        assert_int_equal(stage->produced.base_offset, 2 * i);
    }
    make_idempotent(stage, 5, 6, 2);
    assert_int_equal(produce(stage), 0);
    assert_false(stage->produced.duplicate);
}

/* --- Producer ids, rights, epochs --- */

static void ids_are_given_once_over_restarts(void **state)
{
    struct stage *stage = *state;
    int64_t first, second;
    assert_int_equal(kq_producer_id_new(stage->ground.broker, false, &first), KQ_WOULD_BLOCK);
    assert_int_equal(kq_producer_id_new(stage->ground.broker, true, &first), 0);
    assert_int_equal(kq_producer_id_new(stage->ground.broker, false, &second), 0);
    assert_int_equal(second, first + 1);
    kq_topic_unref(stage->topic);
    ground_reopen(&stage->ground);
    stage->topic = ground_find(&stage->ground, "t");
    assert_int_equal(kq_producer_id_new(stage->ground.broker, true, &first), 0);
    assert_true(first > second);
}

static void who_may_write_somewhere_or_make_a_topic_may_be_idempotent(void **state)
{
    struct stage *stage = *state;
    assert_int_equal(kq_producer_id_access(stage->ground.broker, &ground_caller), 0);
    stage->ground.denied = KQ_RIGHT_CREATE;
    assert_int_equal(kq_producer_id_access(stage->ground.broker, &ground_caller), 0);
    stage->ground.denied = KQ_RIGHT_CREATE | KQ_RIGHT_WRITE;
    assert_int_equal(kq_producer_id_access(stage->ground.broker, &ground_caller), -EACCES);
    stage->ground.denied = KQ_RIGHT_CREATE;
    assert_int_equal(kq_topic_delete(stage->topic, &ground_caller, false), 0);
    assert_int_equal(kq_producer_id_access(stage->ground.broker, &ground_caller), -EACCES);
    stage->ground.denied = 0; /* who may make a topic will write to it */
    assert_int_equal(kq_producer_id_access(stage->ground.broker, &ground_caller), 0);
}

static void a_new_partition_has_epoch_0_and_nothing_aborted(void **state)
{
    struct stage *stage = *state;
    struct kq_partition *partition = stage->access.partition;
    struct kq_aborted *aborted = (void *)1;
    size_t count = 7;
    int32_t epoch;
    int64_t end;
    make(stage, 3, 10, kq_clock_wall_ms());
    assert_int_equal(produce(stage), 0);
    assert_int_equal(kq_leader_epoch(partition), 0);
    assert_int_equal(kq_leader_epoch_at(partition, 2), 0);
    assert_int_equal(kq_leader_epoch_end(partition, 0, &epoch, &end), 0);
    assert_int_equal(epoch, 0);
    assert_int_equal(end, 3);
    assert_int_equal(kq_leader_epoch_end(partition, 1, &epoch, &end), KQ_END);
    assert_int_equal(kq_aborted(&stage->access, 0, 3, false, &aborted, &count), 0);
    assert_null(aborted);
    assert_int_equal(count, 0);
    stage->access.rights = KQ_RIGHT_WRITE;
    assert_int_equal(kq_aborted(&stage->access, 0, 3, false, &aborted, &count), -EACCES);
    assert_int_equal(kq_topic_delete(stage->topic, &ground_caller, false), 0);
    assert_int_equal(kq_leader_epoch(partition), KQ_NO_EPOCH);
    assert_int_equal(kq_leader_epoch_end(partition, 0, &epoch, &end), KQ_END);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_batch_is_appended_as_it_came),
        TEST(a_largest_timestamp_that_is_wrong_is_made_right),
        TEST(where_the_log_says_when_it_does),
        TEST(compression_type_decides),
        TEST(what_the_mount_wrote_is_compressed_where_that_helps),
        TEST(what_would_take_long_is_left_to_who_may),
        TEST(what_the_topic_wants_synced_must_be),
        TEST(memory_is_given_back),
        TEST(settings_of_the_topic_refuse),
        TEST(a_recompressed_batch_must_fit_too),
        TEST(a_bomb_is_refused),
        TEST(a_wrong_sequence_is_refused),
        TEST(without_the_right_or_the_topic_nothing_is_looked_at),
        TEST(a_disk_error_is_passed_on_and_the_batch_can_be_sent_again),
        TEST(a_batch_sent_again_over_a_restart_is_known),
        TEST(ids_are_given_once_over_restarts),
        TEST(who_may_write_somewhere_or_make_a_topic_may_be_idempotent),
        TEST(a_new_partition_has_epoch_0_and_nothing_aborted),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
