/* The handlers of messages and their places, without a network. */
#include "tests/unit/handler_kit.h"

#include "broker/base/fault.h"
#include "broker/waiter.h"
#include "net/api.h"
#include "net/errmap.h"
#include "net/message/describe_cluster.h"
#include "net/message/describe_topic_partitions.h"
#include "net/message/fetch.h"
#include "net/message/list_offsets.h"
#include "net/message/metadata.h"
#include "net/message/offset_for_leader_epoch.h"
#include "net/message/produce.h"

enum key {
    PRODUCE = 0,
    FETCH = 1,
    LIST_OFFSETS = 2,
    METADATA = 3,
    OFFSET_FOR_LEADER_EPOCH = 23,
    DESCRIBE_CLUSTER = 60,
    DESCRIBE_TOPIC_PARTITIONS = 75,
};

static void append(struct kq_topic *topic, int32_t partition, const char *lines)
{
    struct kq_access access = ground_access(topic, partition);
    struct kq_log_appended appended;
    assert_int_equal(ground_append(&access, lines, &appended), 0);
}

/* --- Fetch --- */

/* Of partition 0 of "t" from OFFSET on, waiting a minute for a message. */
static void make_fetch(struct ground *ground, int64_t offset, struct kq_request *ret)
{
    kit_make(ground, FETCH, 11, ret);
    struct kq_fetch_request *body = ret->body;
    body->max_wait_ms = 60000;
    body->min_bytes = 1;
    body->topics = kq_fetch_request_topic_array(&ret->arena, 1);
    body->topics_count = 1;
    body->topics->topic = KQ_STR("t");
    body->topics->partitions = kq_fetch_request_partition_array(&ret->arena, 1);
    body->topics->partitions_count = 1;
    body->topics->partitions->fetch_offset = offset;
    body->topics->partitions->partition_max_bytes = 1 << 20;
}

static const struct kq_fetch_response_partition *fetched(const struct kq_request *request)
{
    const struct kq_fetch_response *response = request->response;
    assert_int_equal(response->responses_count, 1);
    return &response->responses->partitions[0];
}

static void a_lookup_that_may_block_goes_to_a_thread_that_may(void **state)
{
    struct ground *ground = *state;
    struct kq_request request;
    ground->options.topic_defaults.log.segment_bytes = 4096;
    ground->options.topic_defaults.log.index_interval_bytes = 64;
    ground_open(ground);
    struct kq_topic *topic = ground_topic(ground, "t", 1);
    for (int i = 0; i < 200; i++)
        append(topic, 0, "some line or other that takes its room\n");
    kq_topic_unref(topic);
    ground_reopen(ground);
    for (int times = 1; times >= 0; times--) {
        make_fetch(ground, 7, &request);
        assert_int_equal(kit_finish(&request, kq_api_fetch(&request)), KQ_HANDLED_NOW);
        assert_int_equal(kit_offloads, times);
        assert_int_equal(fetched(&request)->error_code, 0);
        assert_true(fetched(&request)->records.length > 0);
        assert_int_equal(fetched(&request)->high_watermark, 200);
        kit_drop(&request);
    }
}

static void a_parked_fetch_is_answered_by_the_next_message(void **state)
{
    struct ground *ground = *state;
    struct kq_request request;
    ground_open(ground);
    struct kq_topic *topic = ground_topic(ground, "t", 1);
    make_fetch(ground, 0, &request);
    request.received_ns = 5000;
    assert_int_equal(kq_api_fetch(&request), KQ_HANDLED_PARKED);
    assert_int_equal(kit_timer->at_ns, 5000 + 60000 * INT64_C(1000000));
    assert_int_equal(kq_waiters_parked(), 1);
    append(topic, 0, "a\n");
    append(topic, 0, "b\n");
    assert_int_equal(kit_run_posted(&request), KQ_HANDLED_NOW);
    assert_false(kit_is_posted(false));
    assert_int_equal(fetched(&request)->high_watermark, 2);
    assert_int_equal(fetched(&request)->records.extent->next_offset, 2);
    assert_null(kit_timer);
    assert_null(request.cancel);
    assert_int_equal(kq_waiters_parked(), 0);
    kit_drop(&request);
    kq_topic_unref(topic);
}

static void a_parked_fetch_ends_with_its_time(void **state)
{
    struct ground *ground = *state;
    struct kq_request request;
    ground_open(ground);
    kq_topic_unref(ground_topic(ground, "t", 1));
    make_fetch(ground, 0, &request);
    assert_int_equal(kq_api_fetch(&request), KQ_HANDLED_PARKED);
    kit_ring();
    assert_int_equal(kit_run_posted(&request), KQ_HANDLED_NOW);
    assert_int_equal(fetched(&request)->error_code, 0);
    assert_int_equal(fetched(&request)->records.length, 0);
    assert_int_equal(kq_waiters_parked(), 0);
    kit_drop(&request);
}

static void a_parked_fetch_that_is_cancelled_leaves_nothing_behind(void **state)
{
    struct ground *ground = *state;
    struct kq_request request;
    ground_open(ground);
    struct kq_topic *topic = ground_topic(ground, "t", 1);
    for (int woken = 0; woken < 2; woken++) {
        make_fetch(ground, 0, &request);
        assert_int_equal(kq_api_fetch(&request), KQ_HANDLED_PARKED);
        if (woken)
            append(topic, 0, "a\n");
        request.cancel(&request);
        assert_int_equal(kit_run_posted(&request), KQ_HANDLED_NOW);
        assert_false(kit_is_posted(false));
        assert_int_equal(kq_waiters_parked(), 0);
        kit_drop(&request);
    }
    kq_topic_unref(topic);
}

static void a_parked_fetch_of_a_topic_that_goes_is_an_error(void **state)
{
    struct ground *ground = *state;
    struct kq_request request;
    ground_open(ground);
    struct kq_topic *topic = ground_topic(ground, "t", 1);
    make_fetch(ground, 0, &request);
    assert_int_equal(kq_api_fetch(&request), KQ_HANDLED_PARKED);
    assert_int_equal(kq_topic_delete(topic, &ground_caller, false), 0);
    assert_int_equal(kit_run_posted(&request), KQ_HANDLED_NOW);
    assert_int_equal(fetched(&request)->error_code, KQ_ERROR_UNKNOWN_TOPIC_OR_PARTITION);
    kit_drop(&request);
    kq_topic_unref(topic);
}

/* --- Produce --- */

/* One line for partition 0 of TOPIC. BATCH keeps its bytes. */
static void make_produce(struct ground *ground, const char *topic, struct kq_buf *batch,
                         struct kq_request *ret)
{
    struct kq_batch_builder builder;
    batch->length = 0;
    assert_int_equal(kq_batch_begin(&builder, batch, 0), 0);
    assert_int_equal(
        kq_batch_add_lines(&builder, 1700000000000, (const uint8_t *)"x\n", 2, '\n', 10), 0);
    kq_batch_finish(&builder);
    kit_make(ground, PRODUCE, 9, ret);
    struct kq_produce_request *body = ret->body;
    body->acks = -1;
    body->timeout_ms = 1000;
    body->topic_data = kq_produce_request_topic_array(&ret->arena, 1);
    body->topic_data_count = 1;
    body->topic_data->name = kq_str_of(topic);
    body->topic_data->partition_data = kq_produce_request_partition_array(&ret->arena, 1);
    body->topic_data->partition_data_count = 1;
    body->topic_data->partition_data->records =
        (struct kq_wire_records){.data = batch->data, .length = (int32_t)batch->length};
}

static const struct kq_produce_response_partition *produced(const struct kq_request *request)
{
    const struct kq_produce_response *response = request->response;
    return &response->responses->partition_responses[0];
}

static void a_sync_that_is_asked_for_is_waited_for(void **state)
{
    struct ground *ground = *state;
    kq_autobuf struct kq_buf batch = {0};
    struct kq_request request;
    ground->options.topic_defaults.log.flush_messages = 1;
    ground_open(ground);
    kq_topic_unref(ground_topic(ground, "t", 1));
    for (int64_t i = 0; i < 20; i++) {
        make_produce(ground, "t", &batch, &request);
        assert_int_equal(kq_api_produce(&request), KQ_HANDLED_PARKED);
        assert_non_null(kit_timer);
        kit_is_posted(true);
        assert_int_equal(kit_run_posted(&request), KQ_HANDLED_NOW);
        assert_int_equal(produced(&request)->error_code, 0);
        assert_int_equal(produced(&request)->base_offset, i);
        assert_null(kit_timer);
        kit_drop(&request);
    }
}

/* The sync may end at any moment: before it is given up, and after. */
static void a_sync_that_is_given_up_may_end_when_it_likes(void **state)
{
    struct ground *ground = *state;
    kq_autobuf struct kq_buf batch = {0};
    struct kq_request request;
    ground->options.topic_defaults.log.flush_messages = 1;
    ground_open(ground);
    kq_topic_unref(ground_topic(ground, "t", 1));
    for (int i = 0; i < 200; i++) {
        make_produce(ground, "t", &batch, &request);
        assert_int_equal(kq_api_produce(&request), KQ_HANDLED_PARKED);
        if (i % 2 && kit_timer)
            kit_ring();
        assert_int_equal(kit_finish(&request, KQ_HANDLED_PARKED), KQ_HANDLED_NOW);
        int16_t error = produced(&request)->error_code;
        assert_true(error == 0 || error == KQ_ERROR_REQUEST_TIMED_OUT);
        kit_drop(&request);
    }
}

static void a_sync_that_fails_is_no_acknowledgement(void **state)
{
    struct ground *ground = *state;
    kq_autobuf struct kq_buf batch = {0};
    struct kq_request request;
    ground->options.topic_defaults.log.flush_messages = 1;
    ground_open(ground);
    kq_topic_unref(ground_topic(ground, "t", 1));
    kq_fault_arm(KQ_FAULT_SYNC, 1, EIO, true);
    make_produce(ground, "t", &batch, &request);
    assert_int_equal(kq_api_produce(&request), KQ_HANDLED_PARKED);
    kit_is_posted(true);
    kq_fault_disarm();
    assert_int_equal(kit_run_posted(&request), KQ_HANDLED_NOW);
    assert_int_equal(produced(&request)->error_code, KQ_ERROR_KAFKA_STORAGE_ERROR);
    kit_drop(&request);
}

/* --- Without memory --- */

static struct kq_buf spare; /* what a Produce sends */

static void make_named_metadata(struct ground *ground, const char *name, struct kq_request *ret)
{
    kit_make(ground, METADATA, 12, ret);
    struct kq_metadata_request *body = ret->body;
    body->topics = kq_metadata_request_topic_array(&ret->arena, 2);
    body->topics_count = 2;
    body->topics[0].name = kq_str_of(name);
    body->topics[1].name = KQ_STR("t");
    body->include_topic_authorized_operations = true;
}

static void make_known(struct ground *ground, struct kq_request *ret)
{
    make_named_metadata(ground, "t", ret);
}

static void make_unknown(struct ground *ground, struct kq_request *ret)
{
    static char name[24];
    static int serial;
    snprintf(name, sizeof(name), "new-%d", serial++);
    make_named_metadata(ground, name, ret);
}

static void make_all(struct ground *ground, struct kq_request *ret)
{
    kit_make(ground, METADATA, 9, ret);
    ((struct kq_metadata_request *)ret->body)->topics_count = -1;
}

static void make_cluster(struct ground *ground, struct kq_request *ret)
{
    kit_make(ground, DESCRIBE_CLUSTER, 2, ret);
}

static void make_pages(struct ground *ground, struct kq_request *ret)
{
    kit_make(ground, DESCRIBE_TOPIC_PARTITIONS, 0, ret);
}

static void make_offsets(struct ground *ground, struct kq_request *ret)
{
    kit_make(ground, LIST_OFFSETS, 9, ret);
    struct kq_list_offsets_request *body = ret->body;
    body->topics = kq_list_offsets_request_topic_array(&ret->arena, 1);
    body->topics_count = 1;
    body->topics->name = KQ_STR("t");
    body->topics->partitions = kq_list_offsets_request_partition_array(&ret->arena, 2);
    body->topics->partitions_count = 2;
    body->topics->partitions[0].timestamp = 1600000000000;
    body->topics->partitions[1].partition_index = 1;
    body->topics->partitions[1].timestamp = -3;
}

static void make_epochs(struct ground *ground, struct kq_request *ret)
{
    kit_make(ground, OFFSET_FOR_LEADER_EPOCH, 4, ret);
    struct kq_offset_for_leader_epoch_request *body = ret->body;
    body->topics = kq_offset_for_leader_epoch_request_topic_array(&ret->arena, 1);
    body->topics_count = 1;
    body->topics->topic = KQ_STR("t");
    body->topics->partitions = kq_offset_for_leader_epoch_request_partition_array(&ret->arena, 1);
    body->topics->partitions_count = 1;
}

static void make_warm_fetch(struct ground *ground, struct kq_request *ret)
{
    make_fetch(ground, 0, ret);
    ((struct kq_fetch_request *)ret->body)->isolation_level = 1;
}

static void make_long_poll(struct ground *ground, struct kq_request *ret)
{
    make_fetch(ground, 1, ret);
}

static void make_one_produce(struct ground *ground, struct kq_request *ret)
{
    make_produce(ground, "t", &spare, ret);
}

static void make_synced_produce(struct ground *ground, struct kq_request *ret)
{
    make_produce(ground, "synced", &spare, ret);
}

static const struct {
    void (*make)(struct ground *ground, struct kq_request *ret);
    enum kq_handled (*handle)(struct kq_request *request);
} handlers[] = {
    {make_known, kq_api_metadata},
    {make_unknown, kq_api_metadata},
    {make_all, kq_api_metadata},
    {make_cluster, kq_api_describe_cluster},
    {make_pages, kq_api_describe_topic_partitions},
    {make_offsets, kq_api_list_offsets},
    {make_epochs, kq_api_offset_for_leader_epoch},
    {make_warm_fetch, kq_api_fetch},
    {make_long_poll, kq_api_fetch},
    {make_one_produce, kq_api_produce},
    {make_synced_produce, kq_api_produce},
};

static void without_memory_a_request_ends_and_nothing_is_lost(void **state)
{
    struct ground *ground = *state;
    const struct kq_topic_setting flush = {"flush.messages", "1"};
    struct kq_topic_spec spec = {.name = "synced", .settings = &flush, .setting_count = 1};
    struct kq_topic *synced;
    struct kq_request request;
    ground_open(ground);
    struct kq_topic *topic = ground_topic(ground, "t", 2);
    append(topic, 0, "a\n");
    append(topic, 1, "a\nb\n");
    assert_int_equal(kq_topic_create(ground->broker, &ground_caller, &spec, &synced), 0);
    for (size_t i = 0; i < kq_array_size(handlers); i++) {
        bool delivered = true;
        for (long nth = 1; delivered; nth++) {
            handlers[i].make(ground, &request);
            kq_fault_arm(KQ_FAULT_MEMORY, nth, ENOMEM, false);
            enum kq_handled r = handlers[i].handle(&request);
            delivered = kq_fault_disarm();
            r = kit_finish(&request, r);
            assert_true(r == KQ_HANDLED_NOW || (delivered && r == KQ_HANDLED_CLOSE));
            kit_drop(&request);
            assert_int_equal(kq_waiters_parked(), 0);
        }
    }
    kq_buf_release(&spare);
    kq_topic_unref(synced);
    kq_topic_unref(topic);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        GROUND_TEST(a_lookup_that_may_block_goes_to_a_thread_that_may),
        GROUND_TEST(a_parked_fetch_is_answered_by_the_next_message),
        GROUND_TEST(a_parked_fetch_ends_with_its_time),
        GROUND_TEST(a_parked_fetch_that_is_cancelled_leaves_nothing_behind),
        GROUND_TEST(a_parked_fetch_of_a_topic_that_goes_is_an_error),
        GROUND_TEST(a_sync_that_is_asked_for_is_waited_for),
        GROUND_TEST(a_sync_that_is_given_up_may_end_when_it_likes),
        GROUND_TEST(a_sync_that_fails_is_no_acknowledgement),
        GROUND_TEST(without_memory_a_request_ends_and_nothing_is_lost),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
