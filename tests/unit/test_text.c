#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "broker/text.h"

static struct {
    size_t count;
    struct kq_rendering at[3];
} history = {
    .count = 3,
    .at =
        {
            {.from_offset = 0, .delimiter_length = 1, .delimiter = "\n"},
            {.from_offset = 10,
             .delimiter_length = 2,
             .delimiter = "\r\n",
             .separator_length = 3,
             .separator = " = "},
            {.from_offset = 20, .framing = KQ_FRAMING_WRITE},
        },
};

static const struct kq_renderings *renderings(void)
{
    return (const struct kq_renderings *)(const void *)&history;
}

static void the_rendering_of_an_offset_is_the_last_set_before_it(void **state)
{
    static const struct {
        int64_t offset, from, until;
    } cases[] = {{0, 0, 10}, {9, 0, 10}, {10, 10, 20}, {19, 10, 20}, {20, 20, INT64_MAX}};
    for (size_t i = 0; i < kq_array_size(cases); i++) {
        int64_t until;
        assert_int_equal(kq_rendering_at(renderings(), cases[i].offset, &until)->from_offset,
                         cases[i].from);
        assert_int_equal(until, cases[i].until);
    }
    assert_int_equal(kq_rendering_at(renderings(), 1000, NULL)->from_offset, 20);
}

static void check_text(size_t rendering, const char *key, const char *value, const char *expected)
{
    uint8_t text[64];
    struct kq_record record = {
        .key = (const uint8_t *)key,
        .key_length = key ? (int32_t)strlen(key) : -1,
        .value = (const uint8_t *)value,
        .value_length = value ? (int32_t)strlen(value) : -1,
    };
    uint8_t *end = kq_text_write(&history.at[rendering], &record, text);
    assert_int_equal(end - text, strlen(expected));
    assert_memory_equal(text, expected, strlen(expected));
    assert_int_equal(kq_text_length(&history.at[rendering], &record), strlen(expected));
}

static void a_message_reads_as_key_separator_value_delimiter(void **state)
{
    check_text(0, "k", "value", "value\n");
    check_text(0, NULL, NULL, "\n");
    check_text(1, "k", "value", "k = value\r\n");
    check_text(1, NULL, "value", "value\r\n");
    check_text(1, "", NULL, " = \r\n");
    check_text(2, "k", "value", "value");
}

static void a_batch_across_settings_counts_each_record_by_its_own(void **state)
{
    kq_autobuf struct kq_buf bytes = {0}, scratch = {0};
    struct kq_batch_builder builder;
    struct kq_batch_header header;
    int64_t length;
    assert_int_equal(kq_batch_begin(&builder, &bytes, 0), 0);
    for (int i = 0; i < 4; i++)
        assert_int_equal(kq_batch_add(&builder, 1, "k", 1, "val", 3, NULL, 0, 0), 0);
    kq_batch_finish(&builder);
    kq_batch_patch(bytes.data, 8, 0);
    assert_int_equal(kq_batch_header_read(bytes.data, bytes.length, &header), 0);
    assert_int_equal(kq_text_length_of_batch(renderings(), bytes.data, &header, 0, INT64_MAX, 1000,
                                             &scratch, &length),
                     0);
    assert_int_equal(length, 2 * 4 + 2 * 9);
    assert_int_equal(
        kq_text_length_of_batch(renderings(), bytes.data, &header, 9, 11, 1000, &scratch, &length),
        0);
    assert_int_equal(length, 4 + 9);
    header.attributes |= KQ_ATTRIBUTE_CONTROL;
    assert_int_equal(kq_text_length_of_batch(renderings(), bytes.data, &header, 0, INT64_MAX, 1000,
                                             &scratch, &length),
                     0);
    assert_int_equal(length, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_rendering_of_an_offset_is_the_last_set_before_it),
        cmocka_unit_test(a_message_reads_as_key_separator_value_delimiter),
        cmocka_unit_test(a_batch_across_settings_counts_each_record_by_its_own),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
