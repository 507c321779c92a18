#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "broker/base/err.h"
#include "broker/textindex.h"

static void a_header_reads_as_it_was_written(void **state)
{
    uint8_t bytes[KQ_TEXT_HEADER];
    int64_t base;
    kq_text_header_write(bytes, 77, INT64_C(1) << 50);
    assert_int_equal(kq_text_header_read(bytes, 77, &base), 0);
    assert_int_equal(base, INT64_C(1) << 50);
    assert_int_equal(kq_text_header_read(bytes, 78, &base), -EBADMSG);
}

static void any_flipped_bit_of_a_header_is_noticed(void **state)
{
    uint8_t bytes[KQ_TEXT_HEADER];
    int64_t base;
    kq_text_header_write(bytes, 77, 12345);
    for (int bit = 0; bit < KQ_TEXT_HEADER * 8; bit++) {
        bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);
        assert_int_equal(kq_text_header_read(bytes, 77, &base), -EBADMSG);
        bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
}

static void an_entry_reads_as_it_was_written(void **state)
{
    uint8_t bytes[KQ_TEXT_ENTRY];
    struct kq_text_entry entry = {
        .text = KQ_TEXT_POSITION_MAX, .position = UINT32_MAX, .offset = 5};
    struct kq_text_entry read;
    kq_text_entry_write(bytes, 9, &entry);
    assert_int_equal(kq_text_entry_read(bytes, 9, &read), 0);
    assert_memory_equal(&read, &entry, sizeof(entry));
    assert_int_equal(kq_text_key(bytes), KQ_TEXT_POSITION_MAX);
    assert_int_equal(kq_text_position_key(bytes), UINT32_MAX);
}

static void any_flipped_bit_of_an_entry_is_noticed(void **state)
{
    uint8_t bytes[KQ_TEXT_ENTRY];
    struct kq_text_entry entry = {.text = 1000, .position = 2000, .offset = 5}, read;
    kq_text_entry_write(bytes, 9, &entry);
    for (int bit = 0; bit < KQ_TEXT_ENTRY * 8; bit++) {
        bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);
        assert_int_equal(kq_text_entry_read(bytes, 9, &read), -EBADMSG);
        bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
}

static void an_entry_of_another_segment_or_of_zeros_is_none(void **state)
{
    uint8_t bytes[KQ_TEXT_ENTRY];
    struct kq_text_entry entry = {.text = 1000, .position = 2000, .offset = 5}, read;
    kq_text_entry_write(bytes, 9, &entry);
    assert_int_equal(kq_text_entry_read(bytes, 10, &read), -EBADMSG);
    memset(bytes, 0, sizeof(bytes));
    assert_int_equal(kq_text_entry_read(bytes, 10, &read), -EBADMSG);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_header_reads_as_it_was_written),
        cmocka_unit_test(any_flipped_bit_of_a_header_is_noticed),
        cmocka_unit_test(an_entry_reads_as_it_was_written),
        cmocka_unit_test(any_flipped_bit_of_an_entry_is_noticed),
        cmocka_unit_test(an_entry_of_another_segment_or_of_zeros_is_none),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
