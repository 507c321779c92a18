/* Frames: headers of every kind, sizes, bytes of files in between. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "broker/base/fault.h"
#include "net/message.h"
#include "net/message/fetch.h"
#include "net/message/metadata.h"
#include "net/wire.h"

/* --- In place of the broker's extents: how many references there are --- */

static int references;

void kq_extent_ref(const struct kq_extent *extent)
{
    if (extent->owner)
        references++;
}

void kq_extent_unref(struct kq_extent *extent)
{
    if (extent->owner)
        references--;
    extent->owner = NULL;
}

static int setup(void **state)
{
    references = 0;
    return 0;
}

static int nothing_is_held(void **state)
{
    return references;
}

#define BODY(literal) literal, sizeof(literal) - 1

static int read_header(const void *bytes, size_t length, struct kq_wire_header *ret, size_t *ret_at)
{
    struct kq_wire_reader reader;
    kq_wire_reader_init(&reader, bytes, length, NULL);
    int r = kq_wire_header_read(&reader, ret);
    *ret_at = (size_t)(reader.at - (const uint8_t *)bytes);
    return r;
}

static void a_request_header_is_read_up_to_the_body(void **state)
{
    struct kq_wire_header header;
    size_t at;
    /* Metadata v8: header v1 */
    assert_int_equal(read_header(BODY("\0\3\0\x8\0\0\0\7\0\3cat*"), &header, &at), 0);
    assert_int_equal(header.key, 3);
    assert_int_equal(header.version, 8);
    assert_int_equal(header.correlation_id, 7);
    assert_true(kq_str_is(header.client_id, KQ_STR("cat")));
    assert_ptr_equal(header.message, kq_message_find(3));
    assert_int_equal(at, 13);
    /* v9: header v2, with a tagged field of nobody's; no client id */
    assert_int_equal(read_header(BODY("\0\3\0\x9\0\0\0\7\xff\xff\1\5\2xy*"), &header, &at), 0);
    assert_int_equal(header.client_id.length, -1);
    assert_int_equal(at, 15);
    /* a version yet unknown is flexible too */
    assert_int_equal(read_header(BODY("\0\x12\x7f\xff\0\0\0\7\0\0\0*"), &header, &at), 0);
    assert_int_equal(header.version, INT16_MAX);
    assert_int_equal(at, 11);
    /* SaslHandshake never is */
    assert_int_equal(read_header(BODY("\0\x11\0\1\0\0\0\7\0\0*"), &header, &at), 0);
    assert_int_equal(at, 10);
    /* an unknown key */
    assert_int_equal(read_header(BODY("\3\xe8\0\1\0\0\0\7\0\0*"), &header, &at), 0);
    assert_null(header.message);
}

static void a_header_cut_off_is_malformed(void **state)
{
    static const char bytes[] = "\0\3\0\x9\0\0\0\7\0\1c\1\5\2xy";
    struct kq_wire_header header = {.key = 99};
    size_t at;
    for (size_t cut = 0; cut < sizeof(bytes) - 1; cut++) {
        assert_int_equal(read_header(bytes, cut, &header, &at), -EBADMSG);
        assert_int_equal(header.key, 99);
    }
    assert_int_equal(read_header(bytes, sizeof(bytes) - 1, &header, &at), 0);
    assert_int_equal(read_header(BODY("\0\3\0\1\0\0\0\7\xff\xfe"), &header, &at), -EBADMSG);
}

static void response(struct kq_buf *buf, int16_t key, int16_t version, const char *want,
                     size_t length)
{
    struct kq_wire_frame frame;
    struct kq_wire_reader reader;
    int32_t correlation_id;
    const struct kq_message *message = kq_message_find(key);
    buf->length = 0;
    kq_wire_response_begin(&frame, buf, message, version, 0x01020304);
    assert_int_equal(kq_wire_frame_end(&frame), 0);
    kq_wire_frame_release(&frame);
    assert_int_equal(buf->length, length);
    assert_memory_equal(buf->data, want, length);
    kq_wire_reader_init(&reader, buf->data + 4, buf->length - 4, NULL);
    assert_int_equal(kq_wire_response_header_read(&reader, message, version, &correlation_id), 0);
    assert_int_equal(kq_wire_reader_finish(&reader), 0);
    assert_int_equal(correlation_id, 0x01020304);
}

static void a_response_header_has_tags_where_flexible_but_for_api_versions(void **state)
{
    kq_autobuf struct kq_buf buf = {0};
    response(&buf, 3, 8, BODY("\0\0\0\4\1\2\3\4"));
    response(&buf, 3, 9, BODY("\0\0\0\5\1\2\3\4\0"));
    response(&buf, 17, 1, BODY("\0\0\0\4\1\2\3\4"));
    response(&buf, 18, 3, BODY("\0\0\0\4\1\2\3\4"));
}

static void a_request_frame_reads_back(void **state)
{
    for (int16_t version = 0; version <= 13; version++) {
        kq_autobuf struct kq_buf buf = {0};
        kq_autoarena struct kq_arena arena = {0};
        struct kq_wire_frame frame;
        struct kq_wire_header header;
        struct kq_metadata_request request, again;
        size_t at;
        kq_metadata_request_init(&request);
        assert_int_equal(kq_buf_append_string(&buf, "before"), 0);
        kq_wire_request_begin(&frame, &buf, kq_message_find(3), version, 5, KQ_STR("me"));
        kq_metadata_request_write(&frame.writer, version, &request);
        assert_int_equal(kq_wire_frame_end(&frame), 0);
        assert_int_equal(kq_load_be32(buf.data + 6), buf.length - 10);
        assert_int_equal(read_header(buf.data + 10, buf.length - 10, &header, &at), 0);
        assert_int_equal(header.version, version);
        assert_true(kq_str_is(header.client_id, KQ_STR("me")));
        assert_int_equal(kq_schema_parse(&kq_metadata_request_schema, buf.data + 10 + at,
                                         buf.length - 10 - at, version, &arena, &again),
                         0);
        assert_int_equal(again.topics_count, 0);
    }
}

/* A Fetch response of one topic and three partitions: a file's bytes, none, bytes in memory. */
static void make_response(struct kq_fetch_response *response, struct kq_arena *arena,
                          const struct kq_extent *extent)
{
    kq_fetch_response_init(response);
    response->responses = kq_fetch_response_topic_array(arena, response->responses_count = 1);
    struct kq_fetch_response_topic *topic = response->responses;
    topic->partitions = kq_fetch_response_partition_array(arena, topic->partitions_count = 4);
    topic->partitions[0].records = (struct kq_wire_records){.extent = extent, .length = 1000};
    topic->partitions[1].records = (struct kq_wire_records){.extent = extent, .length = 0};
    topic->partitions[2].records =
        (struct kq_wire_records){.data = (const uint8_t *)"memory", .length = 6};
    topic->partitions[3].records = (struct kq_wire_records){.extent = extent, .length = 300};
}

static void bytes_of_a_file_are_counted_and_left_to_the_send_queue(void **state)
{
    struct kq_extent extent = {.fd = 3, .length = 1000, .position = 64, .owner = (void *)state};
    kq_autobuf struct kq_buf buf = {0}, whole = {0};
    kq_autoarena struct kq_arena arena = {0};
    struct kq_fetch_response response, again;
    struct kq_wire_frame frame;
    make_response(&response, &arena, &extent);
    kq_wire_response_begin(&frame, &buf, kq_message_find(1), 12, 9);
    assert_int_equal(kq_fetch_response_write(&frame.writer, 12, &response), 0);
    assert_int_equal(kq_wire_frame_end(&frame), 0);
    assert_int_equal(references, 2);
    assert_int_equal(frame.splice_count, 2);
    assert_int_equal(frame.spliced, 1300);
    assert_int_equal(frame.splices[0].extent.length, 1000);
    assert_int_equal(frame.splices[1].extent.length, 300);
    assert_int_equal(kq_load_be32(buf.data), buf.length - 4 + 1300);

    /* With the file's bytes put where they belong, it is what a client reads. */
    size_t at = 0;
    for (size_t i = 0; i < frame.splice_count; i++) {
        static const uint8_t file[1000] = {'f'};
        kq_buf_append(&whole, buf.data + at, frame.splices[i].position - at);
        kq_buf_append(&whole, file, frame.splices[i].extent.length);
        at = frame.splices[i].position;
    }
    kq_buf_append(&whole, buf.data + at, buf.length - at);
    assert_int_equal(kq_schema_parse(&kq_fetch_response_schema, whole.data + 9, whole.length - 9,
                                     12, &arena, &again),
                     0);
    const struct kq_fetch_response_partition *partitions = again.responses->partitions;
    assert_int_equal(partitions[0].records.length, 1000);
    assert_int_equal(*partitions[0].records.data, 'f');
    assert_int_equal(partitions[1].records.length, 0);
    assert_memory_equal(partitions[2].records.data, "memory", 6);
    assert_int_equal(partitions[3].records.length, 300);

    struct kq_extent taken = kq_wire_frame_take(&frame, 0);
    kq_wire_frame_release(&frame);
    assert_int_equal(references, 1);
    assert_int_equal(taken.position, 64);
    kq_extent_unref(&taken);
}

static void a_frame_that_fails_leaves_the_buffer_and_no_reference(void **state)
{
    struct kq_extent extent = {.fd = 3, .length = 1000, .owner = (void *)state};
    kq_autoarena struct kq_arena arena = {0};
    struct kq_fetch_response response;
    make_response(&response, &arena, &extent);
    for (long nth = 1;; nth++) {
        kq_autobuf struct kq_buf buf = {0};
        struct kq_wire_frame frame;
        kq_buf_append_string(&buf, "before");
        kq_fault_arm(KQ_FAULT_MEMORY, nth, ENOMEM, false);
        kq_wire_response_begin(&frame, &buf, kq_message_find(1), 12, 9);
        kq_fetch_response_write(&frame.writer, 12, &response);
        int r = kq_wire_frame_end(&frame);
        if (!kq_fault_disarm()) {
            assert_int_equal(r, 0);
            assert_true(nth > 2);
            kq_wire_frame_release(&frame);
            break;
        }
        assert_int_equal(r, -ENOMEM);
        assert_int_equal(buf.length, 6);
        assert_int_equal(references, 0);
    }
    /* more than the extent has */
    kq_autobuf struct kq_buf buf = {0};
    struct kq_wire_frame frame;
    response.responses->partitions[3].records.length = 1001;
    kq_wire_response_begin(&frame, &buf, kq_message_find(1), 12, 9);
    kq_fetch_response_write(&frame.writer, 12, &response);
    assert_int_equal(kq_wire_frame_end(&frame), -EINVAL);
}

static void a_frame_ends_at_2_gib(void **state)
{
    struct kq_extent extent = {.fd = 3, .length = INT32_MAX, .owner = (void *)state};
    kq_autobuf struct kq_buf buf = {0};
    kq_autoarena struct kq_arena arena = {0};
    struct kq_fetch_response response;
    struct kq_wire_frame frame;
    make_response(&response, &arena, &extent);
    response.responses->partitions[0].records.length = INT32_MAX;
    kq_wire_response_begin(&frame, &buf, kq_message_find(1), 12, 9);
    kq_fetch_response_write(&frame.writer, 12, &response);
    assert_int_equal(kq_wire_frame_end(&frame), -EMSGSIZE);
    assert_int_equal(buf.length, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_request_header_is_read_up_to_the_body),
        cmocka_unit_test(a_header_cut_off_is_malformed),
        cmocka_unit_test(a_response_header_has_tags_where_flexible_but_for_api_versions),
        cmocka_unit_test(a_request_frame_reads_back),
        cmocka_unit_test_setup_teardown(bytes_of_a_file_are_counted_and_left_to_the_send_queue,
                                        setup, nothing_is_held),
        cmocka_unit_test_setup_teardown(a_frame_that_fails_leaves_the_buffer_and_no_reference,
                                        setup, nothing_is_held),
        cmocka_unit_test_setup_teardown(a_frame_ends_at_2_gib, setup, nothing_is_held),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
