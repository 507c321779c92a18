/* JSON lines: exact bytes, what is refused, and any message there and back. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <pthread.h>
#include <string.h>

#include "broker/base/fault.h"
#include "fs/base64.h"
#include "fs/jsonl.h"
#include "fs/utf8.h"
#include "tests/unit/chance.h"

#define BYTES(text) (const uint8_t *)(text), sizeof(text) - 1

static void check_format(const struct kq_record *record, const char *line)
{
    kq_autobuf struct kq_buf out = {0};
    assert_int_equal(kq_jsonl_format(record, &out), 0);
    assert_int_equal(kq_buf_append(&out, "", 1), 0);
    assert_string_equal((char *)out.data, line);
}

static void a_message_is_one_line_with_its_members_in_order(void **state)
{
    const uint8_t headers[] = {2, 'n', 2, 'v', 2, 'm', 1, 2, 0xff, 2, 0xfe};
    struct kq_record record = {
        .offset = 42,
        .timestamp = INT64_C(1700000000000),
        .key = (const uint8_t *)"k",
        .key_length = 1,
        .value = (const uint8_t *)"v",
        .value_length = 1,
        .headers = headers,
        .headers_length = 7,
        .header_count = 2,
    };
    check_format(&record, "{\"offset\":42,\"timestamp\":1700000000000,\"key\":\"k\",\"headers\":["
                          "{\"name\":\"n\",\"value\":\"v\"},{\"name\":\"m\",\"value\":null}],"
                          "\"value\":\"v\"}\n");
    record = (struct kq_record){
        .offset = INT64_MAX, .timestamp = -1, .key_length = -1, .value_length = -1};
    check_format(&record, "{\"offset\":9223372036854775807,\"timestamp\":-1,\"key\":null,"
                          "\"headers\":[],\"value\":null}\n");
    record = (struct kq_record){.timestamp = INT64_MIN,
                                .key = (const uint8_t *)"",
                                .value = (const uint8_t *)"\xff\x00",
                                .value_length = 2,
                                .headers = headers + 7,
                                .headers_length = 4,
                                .header_count = 1};
    check_format(&record, "{\"offset\":0,\"timestamp\":-9223372036854775808,\"key\":\"\","
                          "\"headers\":[{\"name_base64\":\"/w==\",\"value_base64\":\"/g==\"}],"
                          "\"value_base64\":\"/wA=\"}\n");
}

static void what_json_forbids_in_a_string_is_escaped(void **state)
{
    struct kq_record record = {.key_length = -1,
                               .value = (const uint8_t *)"\"\\/\b\f\n\r\t\x00\x1f\x7f\xc3\xa9",
                               .value_length = 13};
    check_format(&record, "{\"offset\":0,\"timestamp\":0,\"key\":null,\"headers\":[],\"value\":"
                          "\"\\\"\\\\/\\b\\f\\n\\r\\t\\u0000\\u001f\x7f\xc3\xa9\"}\n");
}

static void malformed_headers_are_no_line(void **state)
{
    const uint8_t headers[] = {2, 'n', 20, 'v'};
    struct kq_record record = {.key_length = -1,
                               .value_length = -1,
                               .headers = headers,
                               .headers_length = sizeof(headers),
                               .header_count = 1};
    kq_autobuf struct kq_buf out = {0};
    assert_int_equal(kq_buf_append(&out, "x", 1), 0);
    assert_int_equal(kq_jsonl_format(&record, &out), -EBADMSG);
    assert_int_equal(out.length, 1);
}

static void utf8_is_what_rfc_3629_says(void **state)
{
    static const struct {
        const char *bytes;
        size_t length;
        bool is;
    } cases[] = {
        {"plain ASCII of more than eight bytes", 36, true},
        {"\xc2\x80", 2, true},
        {"\xdf\xbf", 2, true},
        {"\xe0\xa0\x80", 3, true},
        {"\xed\x9f\xbf", 3, true},
        {"\xee\x80\x80", 3, true},
        {"\xf0\x90\x80\x80", 4, true},
        {"\xf4\x8f\xbf\xbf", 4, true},
        {"\x80", 1, false},
        {"\xc0\x80", 2, false},         /* overlong */
        {"\xc1\xbf", 2, false},         /* overlong */
        {"\xe0\x9f\xbf", 3, false},     /* overlong */
        {"\xf0\x8f\xbf\xbf", 4, false}, /* overlong */
        {"\xed\xa0\x80", 3, false},     /* surrogate */
        {"\xf4\x90\x80\x80", 4, false}, /* above U+10FFFF */
        {"\xf5\x80\x80\x80", 4, false},
        {"\xc2", 1, false},
        {"\xe2\x82", 2, false},
        {"\xf0\x9f\x98", 3, false},
        {"\xc2\x41", 2, false},
        {"1234567\xff", 8, false},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        size_t length = 0;
        bool is = kq_utf8_json_length((const uint8_t *)cases[i].bytes, cases[i].length, &length);
        assert_int_equal(is, cases[i].is);
        if (is)
            assert_int_equal(length, cases[i].length);
    }
}

static void base64_is_what_rfc_4648_says(void **state)
{
    static const char *const known[][2] = {{"", ""},
                                           {"f", "Zg=="},
                                           {"fo", "Zm8="},
                                           {"foo", "Zm9v"},
                                           {"foob", "Zm9vYg=="},
                                           {"fooba", "Zm9vYmE="},
                                           {"foobar", "Zm9vYmFy"}};
    static const char *const bad[] = {
        "Z", "Zg", "Zg=", "Zh==", "Zm9=", "Z===", "====", "Zg==Zg==", "Zm9-", "Zm 9", "=Zm9"};
    uint8_t bytes[32];
    int32_t length;
    for (size_t i = 0; i < kq_array_size(known); i++) {
        size_t plain = strlen(known[i][0]), coded = strlen(known[i][1]);
        assert_int_equal(kq_base64_length(plain), coded);
        kq_base64_encode((const uint8_t *)known[i][0], plain, bytes);
        assert_memory_equal(bytes, known[i][1], coded);
        assert_int_equal(kq_base64_measure(known[i][1], coded, &length), 0);
        assert_int_equal(length, plain);
        assert_int_equal(kq_base64_decode(known[i][1], coded, bytes), 0);
        assert_memory_equal(bytes, known[i][0], plain);
    }
    for (size_t i = 0; i < kq_array_size(bad); i++) {
        int r = kq_base64_measure(bad[i], strlen(bad[i]), &length);
        if (r == 0)
            r = kq_base64_decode(bad[i], strlen(bad[i]), bytes);
        if (r != -EINVAL)
            fail_msg("%s was accepted", bad[i]);
    }
}

static int parse(const char *line, struct kq_buf *scratch, struct kq_record *ret)
{
    return kq_jsonl_parse(line, strlen(line), 77, scratch, ret);
}

static void a_line_needs_its_value_only(void **state)
{
    kq_autobuf struct kq_buf scratch = {0};
    struct kq_record record;
    assert_int_equal(parse(" { \"value\" : \"v\\u0000\\u20ac\" } \r\n", &scratch, &record), 0);
    assert_int_equal(record.timestamp, 77);
    assert_null(record.key);
    assert_int_equal(record.key_length, -1);
    assert_int_equal(record.value_length, 5);
    assert_memory_equal(record.value, "v\0\xe2\x82\xac", 5);
    assert_int_equal(record.header_count, 0);
    assert_int_equal(parse("{\"value\":null,\"key\":\"\",\"offset\":9,\"timestamp\":5,"
                           "\"headers\":[{\"value_base64\":\"AA==\",\"name\":\"n\"}]}",
                           &scratch, &record),
                     0);
    assert_null(record.value);
    assert_non_null(record.key);
    assert_int_equal(record.key_length, 0);
    assert_int_equal(record.timestamp, 5);
    assert_int_equal(record.header_count, 1);
    assert_int_equal(record.headers_length, 4);
    assert_memory_equal(record.headers, "\x02n\x02\0", 4);
}

static void malformed_lines_are_refused(void **state)
{
    static const char *const bad[] = {
        "",
        "\n",
        "null",
        "[]",
        "\"value\"",
        "{}",
        "{\"key\":\"k\"}",
        "{\"value\":1}",
        "{\"value\":true}",
        "{\"value\":{}}",
        "{\"value\":\"v\"",
        "{\"value\":\"v\"}}",
        "{\"value\":\"v\"}{\"value\":\"v\"}",
        "{\"value\":\"v\",}",
        "{\"value\":\"v\",\"value\":\"w\"}",
        "{\"value\":\"v\",\"value_base64\":\"dg==\"}",
        "{\"value\":\"v\",\"key\":null,\"key_base64\":\"dg==\"}",
        "{\"value_base64\":\"dg=\"}",
        "{\"value_base64\":null}",
        "{\"value\":\"v\",\"more\":1}",
        "{\"Value\":\"v\"}",
        "{\"value\":\"v\",\"timestamp\":\"5\"}",
        "{\"value\":\"v\",\"timestamp\":5.0}",
        "{\"value\":\"v\",\"timestamp\":-2}",
        "{\"value\":\"v\",\"timestamp\":9223372036854775808}",
        "{\"value\":\"v\",\"offset\":-1}",
        "{\"value\":\"v\",\"offset\":null}",
        "{\"value\":\"v\",\"headers\":{}}",
        "{\"value\":\"v\",\"headers\":null}",
        "{\"value\":\"v\",\"headers\":[[\"n\",\"v\"]]}",
        "{\"value\":\"v\",\"headers\":[{\"name\":\"n\"}]}",
        "{\"value\":\"v\",\"headers\":[{\"value\":\"n\"}]}",
        "{\"value\":\"v\",\"headers\":[{\"name\":null,\"value\":\"n\"}]}",
        "{\"value\":\"v\",\"headers\":[{\"name\":\"n\",\"name_base64\":\"bg==\"}]}",
        "{\"value\":\"v\",\"headers\":[{\"name\":\"n\",\"value\":\"v\",\"x\":1}]}",
        "{\"value\":\"\xff\"}",
        "{\"value\":\"\\ud800\"}",
        "{\"value\":\"a\nb\"}",
        "{'value':'v'}",
    };
    kq_autobuf struct kq_buf scratch = {0};
    struct kq_record record;
    for (size_t i = 0; i < kq_array_size(bad); i++)
        if (parse(bad[i], &scratch, &record) != -EINVAL)
            fail_msg("%s was accepted", bad[i]);
}

static void *parse_deep_line(void *result)
{
    kq_autobuf struct kq_buf scratch = {0};
    struct kq_record record;
    static char line[4001];
    memset(line, '[', 2000);
    memset(line + 2000, ']', 2000);
    *(int *)result = parse(line, &scratch, &record);
    return NULL;
}

/* The library follows them, on as much stack as it takes. */
static void deep_brackets_are_refused_on_a_small_stack(void **state)
{
    kq_autobuf struct kq_buf scratch = {0};
    struct kq_record record;
    pthread_attr_t small;
    pthread_t thread;
    int r = 0;
    pthread_attr_init(&small);
    pthread_attr_setstacksize(&small, 128 * 1024);
    assert_int_equal(pthread_create(&thread, &small, parse_deep_line, &r), 0);
    pthread_join(thread, NULL);
    pthread_attr_destroy(&small);
    assert_int_equal(r, -EINVAL);
    assert_int_equal(parse("{\"value\":\"[[[[[[{{{{\\\"[[[[\"}", &scratch, &record), 0);
    assert_int_equal(record.value_length, 15);
}

/* Bytes by chance: text, or anything. */
static const uint8_t *some_bytes(uint8_t *bytes, size_t most, int32_t *ret_length)
{
    static const char *const pieces[] = {
        "a", "\"", "\\", "\n", "\xc3\xa9", "\xf0\x9f\x98\x80", "12345678", "\x01", "/"};
    size_t length = 0, wanted = chance(most), kind = chance(4);
    if (kind == 0) {
        *ret_length = -1;
        return NULL;
    }
    while (length < wanted) {
        const char *piece = pieces[chance(kq_array_size(pieces))];
        if (kind == 1)
            bytes[length++] = (uint8_t)chance(256);
        else if (strlen(piece) <= most - length)
            length += (size_t)((uint8_t *)stpcpy((char *)bytes + length, piece) - bytes - length);
    }
    *ret_length = (int32_t)length;
    return bytes;
}

static size_t put_bytes(uint8_t *at, const uint8_t *bytes, int32_t length)
{
    size_t size = kq_varint_write(at, length);
    if (length > 0)
        memcpy(at + size, bytes, (size_t)length);
    return size + (length > 0 ? (size_t)length : 0);
}

static void assert_same_bytes(const uint8_t *a, int32_t a_length, const uint8_t *b,
                              int32_t b_length)
{
    assert_int_equal(a_length, b_length);
    assert_int_equal(a == NULL, b == NULL);
    if (a_length > 0)
        assert_memory_equal(a, b, (size_t)a_length);
}

static void any_message_survives_the_way_there_and_back(void **state)
{
    kq_autobuf struct kq_buf out = {0}, scratch = {0};
    uint8_t key[128], value[300], piece[64], headers[1000];
    for (int round = 0; round < 20000; round++) {
        struct kq_record record = {.offset = (int64_t)chance(INT64_MAX),
                                   .timestamp = (int64_t)chance(INT64_MAX) - 1,
                                   .headers = headers},
                         again;
        int32_t length;
        record.key = some_bytes(key, 100, &record.key_length);
        record.value = some_bytes(value, 280, &record.value_length);
        record.header_count = (int32_t)chance(4);
        for (int32_t i = 0; i < record.header_count; i++) {
            const uint8_t *name = some_bytes(piece, 40, &length);
            record.headers_length +=
                put_bytes(headers + record.headers_length, name, name ? length : 0);
            const uint8_t *content = some_bytes(piece, 40, &length);
            record.headers_length += put_bytes(headers + record.headers_length, content, length);
        }
        out.length = 0;
        assert_int_equal(kq_jsonl_format(&record, &out), 0);
        assert_ptr_equal(memchr(out.data, '\n', out.length), out.data + out.length - 1);
        assert_int_equal(kq_jsonl_parse(out.data, out.length, 77, &scratch, &again), 0);
        assert_int_equal(again.timestamp, record.timestamp);
        assert_same_bytes(again.key, again.key_length, record.key, record.key_length);
        assert_same_bytes(again.value, again.value_length, record.value, record.value_length);
        assert_int_equal(again.header_count, record.header_count);
        assert_int_equal(again.headers_length, record.headers_length);
        assert_memory_equal(again.headers, headers, record.headers_length);
    }
}

static void no_memory_is_no_malformed_line(void **state)
{
    const char line[] = "{\"key\":\"k\",\"headers\":[{\"name\":\"n\",\"value\":\"v\"}],"
                        "\"value\":\"a value that is longer than the buffer's first sixty-four "
                        "bytes, so that it has to grow\"}";
    for (long nth = 1;; nth++) {
        kq_autobuf struct kq_buf scratch = {0};
        struct kq_record record;
        kq_fault_arm(KQ_FAULT_MEMORY, nth, ENOMEM, false);
        int r = parse(line, &scratch, &record);
        bool failed = kq_fault_disarm();
        assert_int_equal(r, failed ? -ENOMEM : 0);
        if (!failed)
            break;
        assert_true(nth < 100);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_message_is_one_line_with_its_members_in_order),
        cmocka_unit_test(what_json_forbids_in_a_string_is_escaped),
        cmocka_unit_test(malformed_headers_are_no_line),
        cmocka_unit_test(utf8_is_what_rfc_3629_says),
        cmocka_unit_test(base64_is_what_rfc_4648_says),
        cmocka_unit_test(a_line_needs_its_value_only),
        cmocka_unit_test(malformed_lines_are_refused),
        cmocka_unit_test(deep_brackets_are_refused_on_a_small_stack),
        cmocka_unit_test(any_message_survives_the_way_there_and_back),
        cmocka_unit_test(no_memory_is_no_malformed_line),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
