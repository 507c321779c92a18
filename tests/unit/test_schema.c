/* Messages by schema: as Kafka wrote them, all versions there and back, and hostile bytes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>

#include "broker/base/fault.h"
#include "net/message/fetch.h"
#include "net/message/metadata.h"
#include "tests/unit/message_kit.h"
#include "tests/unit/schemas.h"

static const char *recorded_path;

static size_t schema_named(const char *name)
{
    size_t i = 0;
    while (schema_at(i) && strcmp(schema_at(i)->name, name) != 0)
        i++;
    return i;
}

/* A copy that ends where the memory ends, so that the sanitizer sees a step beyond it. */
static void *exact(const void *bytes, size_t length)
{
    void *copy = malloc(length ? length : 1);
    assert_non_null(copy);
    if (length)
        memcpy(copy, bytes, length);
    return copy;
}

static int parse(const struct kq_wire_schema *schema, int16_t version, const void *bytes,
                 size_t length, struct kq_arena *arena, void **ret)
{
    *ret = kq_arena_alloc(arena, schema->shapes[0].size);
    return kq_schema_parse(schema, bytes, length, version, arena, *ret);
}

static int write_message(const struct kq_wire_schema *schema, int16_t version, const void *message,
                         struct kq_buf *ret)
{
    struct kq_wire_writer writer;
    ret->length = 0;
    kq_wire_writer_init(&writer, ret);
    return kq_schema_write(schema, &writer, version, message);
}

/* --- As Kafka writes them --- */

static size_t unhex(const char *line, uint8_t *ret)
{
    size_t length = 0;
    unsigned byte;
    for (; sscanf(line + 2 * length, "%2x", &byte) == 1; length++)
        ret[length] = (uint8_t)byte;
    return length;
}

static void compare_recorded(const struct kq_wire_schema *schema, int version, bool unknown_tags,
                             const char *hex, const char *shown)
{
    static uint8_t bytes[64 << 10];
    kq_autobuf struct kq_buf text = {0}, written = {0};
    kq_autoarena struct kq_arena arena = {0};
    size_t length = unhex(hex, bytes);
    kq_autofree uint8_t *copy = exact(bytes, length);
    void *message;
    int r = parse(schema, (int16_t)version, copy, length, &arena, &message);
    if (r != 0 || strcmp(show_message(schema, message, &text), shown) != 0)
        fail_msg("%s %d: %d\n%s\nread as\n%s", schema->name, version, r, shown, (char *)text.data);
    assert_int_equal(write_message(schema, (int16_t)version, message, &written), 0);
    if (unknown_tags)
        return;
    if (written.length != length || (length && memcmp(written.data, copy, length) != 0))
        fail_msg("%s %d is not written as Kafka does:\n%s", schema->name, version, hex);
}

static void recorded_bytes_read_as_kafka_means_them_and_are_written_the_same(void **state)
{
    static char hex[128 << 10], shown[128 << 10];
    static bool seen[200][32];
    char head[100], name[100], mark[3];
    int version, samples = 0;
    FILE *file = fopen(recorded_path, "r");
    assert_non_null(file);
    while (fgets(head, sizeof(head), file)) {
        mark[0] = '\0';
        if (sscanf(head, "%99s %d %2s", name, &version, mark) < 2)
            continue;
        assert_non_null(fgets(hex, sizeof(hex), file));
        assert_non_null(fgets(shown, sizeof(shown), file));
        shown[strcspn(shown, "\n")] = '\0';
        size_t index = schema_named(name);
        if (!schema_at(index))
            fail_msg("no schema is named %s", name);
        compare_recorded(schema_at(index), version, *mark, hex, shown);
        seen[index][version] = true;
        samples++;
    }
    fclose(file);
    assert_true(samples > 700);
    for (size_t i = 0; schema_at(i); i++)
        for (int16_t v = schema_at(i)->lowest; v <= schema_at(i)->highest; v++)
            if (!seen[i][v])
                fail_msg("%s %d was not recorded", schema_at(i)->name, v);
}

/* --- There and back --- */

static void whatever_is_written_reads_the_same(void **state)
{
    for (size_t i = 0; schema_at(i); i++) {
        const struct kq_wire_schema *schema = schema_at(i);
        for (int round = 0; round < 20; round++) {
            for (int16_t version = schema->lowest; version <= schema->highest; version++) {
                kq_autobuf struct kq_buf before = {0}, after = {0}, bytes = {0}, again = {0};
                kq_autoarena struct kq_arena arena = {0};
                void *read, *message = fill_message(schema, version, &arena);
                assert_int_equal(write_message(schema, version, message, &bytes), 0);
                kq_autofree void *copy = exact(bytes.data, bytes.length);
                assert_int_equal(parse(schema, version, copy, bytes.length, &arena, &read), 0);
                assert_string_equal(show_message(schema, message, &before),
                                    show_message(schema, read, &after));
                assert_int_equal(write_message(schema, version, read, &again), 0);
                assert_int_equal(again.length, bytes.length);
                if (bytes.length)
                    assert_memory_equal(again.data, bytes.data, bytes.length);
            }
        }
    }
}

static void cut_off_anywhere_a_message_is_malformed(void **state)
{
    for (size_t i = 0; schema_at(i); i++) {
        const struct kq_wire_schema *schema = schema_at(i);
        for (int16_t version = schema->lowest; version <= schema->highest; version++) {
            kq_autobuf struct kq_buf bytes = {0};
            kq_autoarena struct kq_arena arena = {0};
            void *read, *message = fill_message(schema, version, &arena);
            assert_int_equal(write_message(schema, version, message, &bytes), 0);
            for (size_t cut = 0; cut < bytes.length; cut++) {
                kq_autofree void *copy = exact(bytes.data, cut);
                assert_int_equal(parse(schema, version, copy, cut, &arena, &read), -EBADMSG);
            }
            kq_buf_append(&bytes, "", 1);
            assert_int_equal(parse(schema, version, bytes.data, bytes.length, &arena, &read),
                             -EBADMSG);
        }
    }
}

static void damaged_bytes_are_refused_or_read_as_something_that_can_be_written(void **state)
{
    for (size_t i = 0; schema_at(i); i++) {
        const struct kq_wire_schema *schema = schema_at(i);
        for (int round = 0; round < 100; round++) {
            kq_autobuf struct kq_buf bytes = {0}, again = {0}, before = {0}, after = {0};
            kq_autoarena struct kq_arena arena;
            int16_t version = (int16_t)(schema->lowest +
                                        chance((uint64_t)(schema->highest - schema->lowest) + 1));
            kq_arena_init(&arena, 1 << 20);
            void *read, *message = fill_message(schema, version, &arena);
            assert_int_equal(write_message(schema, version, message, &bytes), 0);
            for (size_t n = bytes.length ? 1 + chance(3) : 0; n; n--)
                bytes.data[chance(bytes.length)] = (uint8_t)(chance(2) ? chance(256) : 0xff);
            kq_autofree void *copy = exact(bytes.data, bytes.length);
            int r = parse(schema, version, copy, bytes.length, &arena, &read);
            assert_true(r == 0 || r == -EBADMSG || r == -E2BIG);
            if (r < 0)
                continue;
            assert_int_equal(write_message(schema, version, read, &again), 0);
            assert_int_equal(parse(schema, version, again.data, again.length, &arena, &message), 0);
            assert_string_equal(show_message(schema, read, &before),
                                show_message(schema, message, &after));
        }
    }
}

static void without_memory_reading_and_writing_say_so(void **state)
{
    const struct kq_wire_schema *schema = &kq_fetch_response_schema;
    kq_autoarena struct kq_arena arena = {0};
    kq_autobuf struct kq_buf bytes = {0};
    void *message = fill_message(schema, 16, &arena);
    ((struct kq_fetch_response *)message)->error_code = 1;
    assert_int_equal(write_message(schema, 16, message, &bytes), 0);
    for (long nth = 1;; nth++) {
        kq_autoarena struct kq_arena own = {0};
        kq_autobuf struct kq_buf written = {0};
        struct kq_fetch_response read;
        kq_fault_arm(KQ_FAULT_MEMORY, nth, ENOMEM, false);
        int r = kq_schema_parse(schema, bytes.data, bytes.length, 16, &own, &read);
        int w = write_message(schema, 16, message, &written);
        if (!kq_fault_disarm()) {
            assert_true(nth > 2);
            assert_int_equal(r, 0);
            assert_int_equal(w, 0);
            break;
        }
        assert_true((r == -ENOMEM && w == 0) || (r == 0 && w == -ENOMEM));
    }
}

/* --- By hand --- */

#define PARSE(name, version, bytes, arena, ret)                                                    \
    kq_schema_parse(&kq_##name##_schema, bytes, sizeof(bytes) - 1, version, arena, ret)

static void a_count_that_the_bytes_cannot_hold_allocates_nothing(void **state)
{
    kq_autoarena struct kq_arena arena = {0};
    struct kq_metadata_request request;
    assert_int_equal(PARSE(metadata_request, 1, "\x7f\xff\xff\xff", &arena, &request), -EBADMSG);
    assert_int_equal(PARSE(metadata_request, 1, "\0\0\0\4\0\1a\0\0\0", &arena, &request), -EBADMSG);
    assert_int_equal(PARSE(metadata_request, 9, "\xff\xff\xff\xff\x0f", &arena, &request),
                     -EBADMSG);
    assert_int_equal(PARSE(metadata_request, 1, "\xff\xff\xff\xfe", &arena, &request), -EBADMSG);
    assert_int_equal(arena.used, 0);
    assert_int_equal(PARSE(metadata_request, 1, "\0\0\0\2\0\1a\0\0", &arena, &request), 0);
    assert_int_equal(request.topics_count, 2);
}

static void what_exceeds_the_arena_is_too_big(void **state)
{
    struct kq_metadata_request request;
    struct kq_arena arena;
    kq_arena_init(&arena, 2 * sizeof(*request.topics));
    assert_int_equal(PARSE(metadata_request, 1, "\0\0\0\2\0\1a\0\0", &arena, &request), 0);
    kq_arena_release(&arena);
    assert_int_equal(PARSE(metadata_request, 1, "\0\0\0\3\0\1a\0\0\0\0", &arena, &request), -E2BIG);
    assert_null(arena.chunks);
}

static void null_is_refused_where_the_version_has_none(void **state)
{
    kq_autoarena struct kq_arena arena = {0};
    struct kq_metadata_request request;
    assert_int_equal(PARSE(metadata_request, 0, "\xff\xff\xff\xff", &arena, &request), -EBADMSG);
    assert_int_equal(PARSE(metadata_request, 1, "\xff\xff\xff\xff", &arena, &request), 0);
    assert_int_equal(request.topics_count, -1);
    assert_int_equal(PARSE(metadata_request, 1, "\0\0\0\1\xff\xff", &arena, &request), -EBADMSG);
    assert_int_equal(PARSE(metadata_request, 1, "\0\0\0\1\xff\xfe", &arena, &request), -EBADMSG);

    kq_autobuf struct kq_buf bytes = {0};
    request.topics_count = -1;
    assert_int_equal(write_message(&kq_metadata_request_schema, 0, &request, &bytes), -EINVAL);
}

static void absent_fields_have_kafkas_defaults(void **state)
{
    kq_autoarena struct kq_arena arena = {0};
    struct kq_metadata_request request;
    assert_int_equal(PARSE(metadata_request, 0, "\0\0\0\0", &arena, &request), 0);
    assert_true(request.allow_auto_topic_creation);
    struct kq_fetch_response_partition *partitions = kq_fetch_response_partition_array(&arena, 2);
    assert_int_equal(partitions[1].last_stable_offset, -1);
    assert_int_equal(partitions[1].records.length, -1);
    assert_int_equal(partitions[1].diverging_epoch.end_offset, -1);
}

static void a_version_without_the_field_loses_it_only_where_it_may(void **state)
{
    kq_autobuf struct kq_buf bytes = {0};
    struct kq_metadata_response response;
    kq_metadata_response_init(&response);
    response.throttle_time_ms = 5; /* ignorable */
    assert_int_equal(write_message(&kq_metadata_response_schema, 0, &response, &bytes), 0);
    response.cluster_authorized_operations = 0;
    assert_int_equal(write_message(&kq_metadata_response_schema, 0, &response, &bytes), -EINVAL);
    assert_int_equal(write_message(&kq_metadata_response_schema, 8, &response, &bytes), 0);

    struct kq_fetch_request request;
    kq_fetch_request_init(&request);
    request.replica_state.replica_id = 3;
    assert_int_equal(write_message(&kq_fetch_request_schema, 14, &request, &bytes), -EINVAL);
    assert_int_equal(write_message(&kq_fetch_request_schema, 15, &request, &bytes), 0);
}

static void a_version_beyond_the_schema_is_refused(void **state)
{
    kq_autobuf struct kq_buf bytes = {0};
    struct kq_metadata_request request;
    kq_metadata_request_init(&request);
    assert_int_equal(PARSE(metadata_request, 14, "", NULL, &request), -EINVAL);
    assert_int_equal(PARSE(metadata_request, -1, "", NULL, &request), -EINVAL);
    assert_int_equal(write_message(&kq_metadata_request_schema, 14, &request, &bytes), -EINVAL);
}

/* Fetch v16 up to its tagged fields: numbers, no topics, none forgotten, no rack. */
#define FETCH_16 "\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\1\1\1"
#define CLUSTER_ID "\0\2\2c"
#define REPLICA_STATE "\1\15\0\0\0\7\0\0\0\0\0\0\0\5\0"

static void tagged_fields_are_found_among_unknown_ones(void **state)
{
    kq_autoarena struct kq_arena arena = {0};
    struct kq_fetch_request request;
    assert_int_equal(PARSE(fetch_request, 16,
                           FETCH_16 "\4" CLUSTER_ID REPLICA_STATE "\11\3abc"
                                    "\377\377\377\377\17\0",
                           &arena, &request),
                     0);
    assert_true(kq_str_is(request.cluster_id, KQ_STR("c")));
    assert_int_equal(request.replica_state.replica_id, 7);
    assert_int_equal(request.replica_state.replica_epoch, 5);
    assert_int_equal(PARSE(fetch_request, 16, FETCH_16 "\0", &arena, &request), 0);
    assert_int_equal(request.cluster_id.length, -1);
    assert_int_equal(request.replica_state.replica_id, -1);
    /* In v14 that tag is nobody's. */
    assert_int_equal(
        PARSE(fetch_request, 14, "\0\0\0\0" FETCH_16 "\1" REPLICA_STATE, &arena, &request), 0);
    assert_int_equal(request.replica_state.replica_id, -1);
}

static void tagged_fields_come_once_in_order_and_fill_their_size(void **state)
{
    kq_autoarena struct kq_arena arena = {0};
    struct kq_fetch_request request;
#define REFUSED(tags)                                                                              \
    assert_int_equal(PARSE(fetch_request, 16, FETCH_16 tags, &arena, &request), -EBADMSG)
    REFUSED("\2" CLUSTER_ID CLUSTER_ID);
    REFUSED("\2" REPLICA_STATE CLUSTER_ID);
    REFUSED("\2\11\0\11\0");
    REFUSED("\1\0\3\2cc");
    REFUSED("\1\0\1\2");
    REFUSED("\1\0\2\3c");
    REFUSED("\1\0\5\2c");
    REFUSED("\1\377\377\377\377\37\0");
    REFUSED("\377\377\377\377\17" CLUSTER_ID);
}

static void find_knows_each_key_and_no_other(void **state)
{
    size_t found = 0;
    for (int key = INT16_MIN; key <= INT16_MAX; key++) {
        const struct kq_message *message = kq_message_find((int16_t)key);
        if (!message)
            continue;
        found++;
        assert_int_equal(message->key, key);
        assert_int_equal(message->request->lowest, message->lowest);
        assert_int_equal(message->response->highest, message->highest);
    }
    assert_int_equal(found, kq_message_count);
    assert_string_equal(kq_message_find(3)->name, "Metadata");
    assert_null(kq_message_find(4));
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(recorded_bytes_read_as_kafka_means_them_and_are_written_the_same),
        cmocka_unit_test(whatever_is_written_reads_the_same),
        cmocka_unit_test(cut_off_anywhere_a_message_is_malformed),
        cmocka_unit_test(damaged_bytes_are_refused_or_read_as_something_that_can_be_written),
        cmocka_unit_test(without_memory_reading_and_writing_say_so),
        cmocka_unit_test(a_count_that_the_bytes_cannot_hold_allocates_nothing),
        cmocka_unit_test(what_exceeds_the_arena_is_too_big),
        cmocka_unit_test(null_is_refused_where_the_version_has_none),
        cmocka_unit_test(absent_fields_have_kafkas_defaults),
        cmocka_unit_test(a_version_without_the_field_loses_it_only_where_it_may),
        cmocka_unit_test(a_version_beyond_the_schema_is_refused),
        cmocka_unit_test(tagged_fields_are_found_among_unknown_ones),
        cmocka_unit_test(tagged_fields_come_once_in_order_and_fill_their_size),
        cmocka_unit_test(find_knows_each_key_and_no_other),
    };
    recorded_path = argc > 1 ? argv[1] : "tests/unit/messages/recorded.txt";
    return cmocka_run_group_tests(tests, NULL, NULL);
}
