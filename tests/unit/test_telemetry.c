/* What is counted of requests and connections, and how it is shown. */
#include "net/outcome.h"
#include "tests/unit/net_kit.h"

#include "net/message/api_versions.h"
#include "net/message/metadata.h"

static int setup(void **state)
{
    static struct kit fresh;
    kit_setup(&fresh);
    return 0;
}

static int teardown(void **state)
{
    kit_end();
    return 0;
}

/* All metrics; good until the next call. */
static const char *metrics(void)
{
    static struct kq_buf text;
    kq_buf_clear(&text, 0);
    assert_int_equal(kq_metrics_format(&text), 0);
    assert_int_equal(kq_buf_append(&text, "", 1), 0);
    return (const char *)text.data;
}

static bool shows(const char *line)
{
    char with_end[300];
    snprintf(with_end, sizeof(with_end), "%s\n", line);
    return strstr(metrics(), with_end);
}

static void requests_are_counted_by_key_with_their_errors(void **state)
{
    kit_start();
    int fd = kit_connect();
    for (int32_t i = 0; i < 3; i++) {
        kit_ask(fd, "now", 0);
        kit_expect(fd, 0);
    }
    kit_ask(fd, "offload", 25);
    kit_expect(fd, 25);
    kit_ask(fd, "now", -1);
    kit_expect(fd, -1);
    kit_ask(fd, "close", 0);
    kit_expect_closed(fd);
    kit_until(kq_admit_count(kit->server->admit) == 0);
    assert_true(shows("kqfs_requests_total{request=\"Heartbeat\"} 6"));
    assert_true(shows("kqfs_requests_closed_total{request=\"Heartbeat\"} 1"));
    assert_true(shows("kqfs_response_bytes_total{request=\"Heartbeat\"} 50"));
    assert_true(
        shows("kqfs_request_errors_total{request=\"Heartbeat\",error=\"UNKNOWN_MEMBER_ID\"} 1"));
    assert_true(
        shows("kqfs_request_errors_total{request=\"Heartbeat\",error=\"UNKNOWN_SERVER_ERROR\"} 1"));
    assert_true(shows("kqfs_request_duration_seconds_bucket{request=\"Heartbeat\",le=\"+Inf\"} 6"));
    assert_true(shows("kqfs_request_duration_seconds_count{request=\"Heartbeat\"} 6"));
    assert_null(strstr(metrics(), "request=\"Fetch\"")); /* nobody asked for it */
    close(fd);
}

static void connections_and_bytes_are_counted(void **state)
{
    kit_make_file(10000);
    kit_start();
    int fd = kit_connect();
    kq_autobuf struct kq_buf frame = {0};
    kit_fetch_frame(&frame, 1, 0, 10000);
    kit_send(fd, frame.data, frame.length);
    kit_expect_fetch(fd, 1, 0, 10000);
    char line[200];
    snprintf(line, sizeof(line), "kqfs_net_received_bytes_total %zu", frame.length);
    kit_until(shows(line));
    snprintf(line, sizeof(line), "kqfs_net_sent_bytes_total %d", KIT_FETCH_HEAD + 10000);
    kit_until(shows(line));
    kit_until(shows("kqfs_net_sendfile_bytes_total 10000"));
    kit_until(shows("kqfs_net_copied_bytes_total 0"));
    kit_until(shows("kqfs_net_connections 1"));
    kit_until(shows("kqfs_net_connections_accepted_total 1"));
    kit_until(shows("kqfs_net_queued_request_bytes 0"));
    close(fd);
    kit_until(shows("kqfs_net_connections_closed_total{reason=\"peer\"} 1"));
    kit_until(shows("kqfs_net_connections 0"));
}

static void say_software(int fd, const char *name, const char *version, bool valid)
{
    uint8_t head[10], rest[200];
    kq_autobuf struct kq_buf frame = {0};
    struct kq_api_versions_request body = {.client_software_name = kq_str_of(name),
                                           .client_software_version = kq_str_of(version)};
    kit_frame(&frame, 18, 3, 1, &body);
    kit_send(fd, frame.data, frame.length);
    assert_true(kit_receive(fd, head, sizeof(head)));
    assert_int_equal(kq_load_be16(head + 8), valid ? 0 : 42);
    assert_true(kit_receive(fd, rest, kq_load_be32(head) - 6));
}

static void clients_are_counted_by_name_within_bounds(void **state)
{
    kit->options.threads = 1;
    kit_start();
    int fd = kit_connect();
    for (int i = 0; i < 3; i++)
        say_software(fd, "librdkafka", "2.3.0", true);
    say_software(fd, "a", "b", true);
    say_software(fd, "", "1", false);
    say_software(fd, "1", "", false);
    say_software(fd, "-a", "1", false);
    say_software(fd, "a-", "1", false);
    say_software(fd, "a\"b", "1", false);
    say_software(fd, "a b", "1", false);
    say_software(fd, "\xc3\xa4", "1", false);
    say_software(fd, "much-longer-than-anybody-would-call-a-client", "1", true);
    assert_true(shows("kqfs_net_client_software_total{name=\"librdkafka\",version=\"2.3.0\","
                      "loop=\"0\"} 3"));
    assert_true(shows("kqfs_net_client_software_total{name=\"a\",version=\"b\",loop=\"0\"} 1"));
    assert_true(shows("kqfs_net_client_software_total{name=\"other\"} 1"));
    for (int i = 0; i < 100; i++) {
        char name[20];
        snprintf(name, sizeof(name), "client%d", i);
        say_software(fd, name, "1", true);
    }
    assert_true(shows("kqfs_net_client_software_total{name=\"other\"} 39"));
    close(fd);
}

static void a_server_that_has_gone_is_not_shown(void **state)
{
    kit_start();
    assert_non_null(strstr(metrics(), "kqfs_net_connections"));
    kq_server_stop(kit->server);
    assert_null(strstr(metrics(), "kqfs_net_connections"));
}

/* --- What a response says --- */

struct found {
    int count;
    int16_t last;
};

static void note(void *context, int16_t code)
{
    struct found *found = context;
    found->count++;
    found->last = code;
}

static void error_codes_are_found_at_every_depth(void **state)
{
    struct kq_outcome_plan *plan;
    struct kq_metadata_response response;
    struct kq_metadata_response_topic topics[3];
    struct kq_metadata_response_partition partitions[2];
    struct found found = {0};
    assert_int_equal(kq_outcome_plan_new(kq_message_find(3), &plan), 0);
    kq_metadata_response_init(&response);
    memset(topics, 0, sizeof(topics));
    memset(partitions, 0, sizeof(partitions));
    response.topics = topics;
    response.topics_count = 3;
    topics[1].partitions = partitions;
    topics[1].partitions_count = 2;
    assert_int_equal(kq_outcome_walk(plan, &response, note, &found), 0);
    assert_int_equal(found.count, 0);
    partitions[1].error_code = 9;
    kq_outcome_walk(plan, &response, note, &found);
    assert_int_equal(found.count, 1);
    assert_int_equal(found.last, 9);
    topics[2].error_code = 3;
    kq_outcome_walk(plan, &response, note, &found);
    assert_int_equal(found.count, 3);
    assert_int_equal(found.last, 3);
    response.topics_count = -1;
    kq_outcome_walk(plan, &response, note, &found);
    assert_int_equal(found.count, 3);
    kq_outcome_plan_free(plan);
}

static void records_in_memory_are_counted_and_those_in_files_not(void **state)
{
    struct kq_outcome_plan *plan;
    struct kq_fetch_response response;
    struct kq_fetch_response_topic topic = {.partitions_count = 3};
    struct kq_fetch_response_partition partitions[3] = {{0}};
    struct kq_extent extent = {.length = 500};
    struct found found = {0};
    assert_int_equal(kq_outcome_plan_new(kq_message_find(1), &plan), 0);
    kq_fetch_response_init(&response);
    response.responses = &topic;
    response.responses_count = 1;
    topic.partitions = partitions;
    partitions[0].records = (struct kq_wire_records){.extent = &extent, .length = 500};
    partitions[1].records = (struct kq_wire_records){.data = (const uint8_t *)"abc", .length = 3};
    partitions[2].records.length = -1;
    assert_int_equal(kq_outcome_walk(plan, &response, note, &found), 3);
    kq_outcome_plan_free(plan);
}

static void every_message_has_a_plan(void **state)
{
    for (size_t i = 0; i < kq_message_count; i++) {
        struct kq_outcome_plan *plan;
        struct found found = {0};
        assert_int_equal(kq_outcome_plan_new(&kq_messages[i], &plan), 0);
        void *response = malloc(kq_message_response_size(&kq_messages[i]));
        kq_message_init_response(&kq_messages[i], response);
        kq_outcome_walk(plan, response, note, &found);
        assert_int_equal(found.count, 0);
        free(response);
        kq_outcome_plan_free(plan);
    }
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(requests_are_counted_by_key_with_their_errors),
        TEST(connections_and_bytes_are_counted),
        TEST(clients_are_counted_by_name_within_bounds),
        TEST(a_server_that_has_gone_is_not_shown),
        cmocka_unit_test(error_codes_are_found_at_every_depth),
        cmocka_unit_test(records_in_memory_are_counted_and_those_in_files_not),
        cmocka_unit_test(every_message_has_a_plan),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
