#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <stdio.h>

#include "broker/base/fault.h"
#include "chance.h"
#include "fakelog.h"
#include "fs/handle.h"
#include "fs/reading.h"

#define LINES 2000
#define LINE 10 /* bytes of each, delimiter included */

static struct kq_fspart part;
static struct kq_handle handle;

static void append_lines(int from, int to)
{
    char bytes[100][LINE + 1];
    struct fake_part values[100];
    for (int count; from < to; from += count) {
        count = 1 + (int)chance(99);
        if (count > to - from)
            count = to - from;
        for (int i = 0; i < count; i++) {
            snprintf(bytes[i], sizeof(bytes[i]), "%09d", from + i);
            values[i] = (struct fake_part){bytes[i], LINE - 1};
        }
        fake_append(NULL, values, count, chance(5) ? KQ_CODEC_NONE : KQ_CODEC_LZ4);
    }
}

static void open_view(enum kq_view view)
{
    handle = (struct kq_handle){.view = view, .row = kq_view_row(view), .part = &part};
    handle.access = fake_access();
    part.partition = handle.access.partition;
    kq_reading_init(&handle.reading);
}

static int set_up(void **state)
{
    fake_open();
    append_lines(0, LINES);
    open_view(KQ_VIEW_TEXT);
    return 0;
}

static int tear_down(void **state)
{
    kq_reading_release(&handle.reading);
    assert_int_equal(fake_log.held, 0);
    fake_close();
    return 0;
}

static void expect_bytes(int64_t position, size_t size, int64_t text, size_t length)
{
    const uint8_t *bytes;
    size_t got;
    assert_int_equal(kq_read_file(&handle, position, size, true, &bytes, &got), 0);
    assert_int_equal(got, length);
    if (length)
        assert_memory_equal(bytes, fake_log.text.data + text, length);
}

static void expect_error(int64_t position, size_t size, int error)
{
    const uint8_t *bytes;
    size_t length;
    assert_int_equal(kq_read_file(&handle, position, size, true, &bytes, &length), error);
}

static void a_read_gives_all_it_asks_for_unless_the_text_ends(void **state)
{
    size_t end = fake_log.text.length;
    for (int i = 0; i < 3000; i++) {
        size_t at = chance(end), size = 1 + chance(9000);
        expect_bytes((int64_t)at, size, (int64_t)at, size < end - at ? size : end - at);
    }
    expect_bytes((int64_t)end, 100, 0, 0);
    expect_bytes((int64_t)end + 7, 100, 0, 0);
}

static void positions_count_from_the_text_where_the_file_begins(void **state)
{
    handle.reading.base.text = 50 * LINE;
    expect_bytes(0, 100, 50 * LINE, 100);
    append_lines(LINES, LINES + 5);
    expect_bytes((LINES - 50) * LINE, 1000, LINES * LINE, 5 * LINE);
}

static void a_sealed_file_ends_where_it_was_sealed(void **state)
{
    open_view(KQ_VIEW_SEGMENT);
    handle.reading.base.text = 10 * LINE;
    handle.reading.length = 10 * LINE;
    expect_bytes(3, 1000, 10 * LINE + 3, 10 * LINE - 3);
    expect_bytes(10 * LINE, 1000, 0, 0);
}

static void what_the_cache_lacks_is_read_by_who_may_block_from_the_same_place(void **state)
{
    const uint8_t *bytes;
    size_t length;
    fake_log.cold = true;
    assert_int_equal(kq_read_file(&handle, 100, 50, false, &bytes, &length), KQ_WOULD_BLOCK);
    expect_bytes(100, 50, 100, 50);
    assert_int_equal(kq_read_file(&handle, 700, 50, false, &bytes, &length), KQ_WOULD_BLOCK);
    fake_log.cold = false;
    expect_bytes(150, 50, 150, 50);
}

static void bytes_that_the_cache_lost_midway_are_neither_left_out_nor_given_twice(void **state)
{
    const uint8_t *bytes;
    size_t length;
    expect_bytes(0, 100, 0, 100);
    for (int64_t at = 100, nth = 1; nth <= 3; nth++, at += 5000) {
        kq_fault_arm(KQ_FAULT_READ, nth, EAGAIN, false);
        int r = kq_read_file(&handle, at, 5000, false, &bytes, &length);
        assert_int_equal(r, kq_fault_disarm() ? KQ_WOULD_BLOCK : 0);
        expect_bytes(at, 5000, at, 5000);
    }
}

static void text_that_retention_took_is_stale_and_the_rest_stays(void **state)
{
    expect_bytes(0, 100, 0, 100);
    fake_retain(30);
    expect_error(100, 100, -ESTALE);
    expect_bytes(30 * LINE, 100, 30 * LINE, 100);
}

static void the_endless_file_starts_a_run_at_the_first_retained_message(void **state)
{
    open_view(KQ_VIEW_LOG);
    fake_retain(30);
    expect_bytes(0, 100, 30 * LINE, 100);
    expect_bytes(100, 100, 30 * LINE + 100, 100);
    expect_bytes(1000, 100, 1000, 100);
    expect_error(100, 100, -ESTALE);
}

static void damage_is_an_error_at_its_place_and_for_good(void **state)
{
    fake_roll();
    append_lines(LINES, LINES + 1);
    fake_damage(16, 9);
    int64_t place = LINES * LINE;
    append_lines(LINES + 1, LINES + 200);
    expect_bytes(place - 100, 1000, place - 100, 100);
    expect_error(place, 1000, -EBADMSG);
    expect_error(place, 1000, -EBADMSG);
    expect_bytes(place - 50, 1000, place - 50, 50);
}

/* One bit of the value of the last message, in a batch with five others. */
static int64_t damage_a_value(enum kq_codec codec)
{
    char bytes[6][LINE];
    struct fake_part values[6];
    int64_t place = (int64_t)fake_log.text.length;
    for (int i = 0; i < 6; i++) {
        snprintf(bytes[i], sizeof(bytes[i]), "%09d", LINES + i);
        values[i] = (struct fake_part){bytes[i], LINE - 1};
    }
    fake_roll();
    fake_append(NULL, values, 6, codec);
    const struct fake_segment *segment = &fake_log.segments[fake_log.segment_count - 1];
    uint8_t byte;
    int into = (int)segment->length - 6;
    assert_int_equal(pread(segment->fd, &byte, 1, into), 1);
    fake_damage(into, byte ^ 0x01);
    return place;
}

static void a_flipped_bit_in_a_value_is_damage_of_its_whole_batch(void **state)
{
    for (int i = 0; i < 2; i++) {
        int64_t place = damage_a_value(i ? KQ_CODEC_ZSTD : KQ_CODEC_NONE);
        append_lines(LINES + 6, LINES + 200);
        expect_bytes(place - 100, 1000, place - 100, 100);
        expect_error(place, 1000, -EBADMSG);
        expect_error(place + 55, 1, -EBADMSG);
        expect_bytes(place + 6 * LINE, 500, place + 6 * LINE, 500);
        expect_bytes(place - 50, 1000, place - 50, 50);
    }
}

static void messages_of_a_damaged_batch_are_not_read_by_offset_and_others_are(void **state)
{
    const uint8_t *bytes;
    size_t length;
    damage_a_value(KQ_CODEC_NONE);
    append_lines(LINES + 6, LINES + 200);
    for (int i = LINES - 1; i < LINES + 7; i++) {
        bool bad = i >= LINES && i < LINES + 6;
        kq_reading_release(&handle.reading);
        open_view(KQ_VIEW_OFFSET_VALUE);
        handle.reading.first_offset = i;
        assert_int_equal(kq_read_file(&handle, 0, 100, true, &bytes, &length), bad ? -EBADMSG : 0);
        kq_reading_release(&handle.reading);
        open_view(KQ_VIEW_JSONL);
        handle.reading.first_offset = i;
        assert_int_equal(kq_read_file(&handle, 0, 100, true, &bytes, &length), bad ? -EBADMSG : 0);
    }
}

static void an_offset_that_does_not_ascend_is_damage(void **state)
{
    int64_t place = LINES * LINE;
    open_view(KQ_VIEW_JSONL);
    handle.reading.first_offset = LINES - 1;
    append_lines(LINES, LINES + 1);
    fake_damage(6, 1); /* base offset 1000-odd less */
    const uint8_t *bytes;
    size_t length;
    assert_int_equal(kq_read_file(&handle, 0, 4000, true, &bytes, &length), 0);
    assert_non_null(memmem(bytes, length, "{\"offset\":1999,", 15));
    assert_int_equal(memchr(bytes, '\n', length) - (const void *)bytes, length - 1);
    expect_error((int64_t)length, 4000, -EBADMSG);
    kq_reading_release(&handle.reading);
    open_view(KQ_VIEW_TEXT);
    expect_bytes(place - 100, 1000, place - 100, 100);
    expect_error(place, 1000, -EBADMSG);
}

static void what_was_read_once_is_not_verified_again(void **state)
{
    int64_t end = (int64_t)fake_log.text.length;
    for (int64_t at = 0; at < end; at += 700)
        expect_bytes(at, 700, at, (size_t)(end - at < 700 ? end - at : 700));
    int verified = fake_log.verified;
    assert_true(verified > 5);
    for (int64_t at = end - end % 300; at >= 0; at -= 300)
        expect_bytes(at, 300, at, (size_t)(end - at < 300 ? end - at : 300));
    assert_int_equal(fake_log.verified, verified);
    assert_int_equal(verified, fake_log.segments[0].batches.length / sizeof(struct fake_batch));
}

static void text_that_is_missing_between_segments_is_an_error_and_shifts_nothing(void **state)
{
    fake_roll();
    int64_t place = LINES * LINE;
    append_lines(LINES, LINES + 200);
    ((struct fake_batch *)fake_log.segments[fake_log.segment_count - 1].batches.data)->text += 5;
    expect_bytes(place - 100, 1000, place - 100, 100);
    expect_error(place, 1000, -EBADMSG);
    expect_bytes(place - 50, 1000, place - 50, 50);
}

static void a_page_of_a_sealed_file_is_never_cut_short_by_damage(void **state)
{
    open_view(KQ_VIEW_SEGMENT);
    append_lines(LINES, LINES + 1);
    fake_damage(16, 9);
    expect_error(LINES * LINE - 100, 105, -EBADMSG);
    expect_bytes(LINES * LINE - 100, 100, LINES * LINE - 100, 100);
}

static void json_is_read_in_order_and_again_from_the_start_or_the_last_read(void **state)
{
    const uint8_t *bytes;
    size_t length;
    char first[100], line[100];
    open_view(KQ_VIEW_JSONL);
    handle.reading.first_offset = 7;
    assert_int_equal(kq_read_file(&handle, 0, 100, true, &bytes, &length), 0);
    assert_int_equal(length, 100);
    memcpy(first, bytes, 100);
    int expected = snprintf(line, sizeof(line), "{\"offset\":7,\"timestamp\":1007,");
    assert_memory_equal(first, line, expected);
    assert_int_equal(kq_read_file(&handle, 100, 3000, true, &bytes, &length), 0);
    memcpy(line, bytes, 100);
    assert_int_equal(kq_read_file(&handle, 150, 50, true, &bytes, &length), 0);
    assert_memory_equal(bytes, line + 50, 50);
    expect_error(20, 10, -ESPIPE);
    expect_error(1000000, 10, -ESPIPE);
    assert_int_equal(kq_read_file(&handle, 0, 100, true, &bytes, &length), 0);
    assert_memory_equal(bytes, first, 100);
}

static void json_ends_with_the_log_and_goes_on_when_it_grows(void **state)
{
    const uint8_t *bytes;
    size_t length, lines = 0;
    int64_t at = 0;
    open_view(KQ_VIEW_JSONL);
    for (int round = 1; round <= 3; round++) {
        do {
            assert_int_equal(kq_read_file(&handle, at, 5000, true, &bytes, &length), 0);
            for (size_t i = 0; i < length; i++)
                lines += bytes[i] == '\n';
            at += (int64_t)length;
        } while (length > 0);
        assert_int_equal(lines, fake_log.message_count);
        append_lines(round, round + 3);
    }
}

static void json_that_retention_took_is_stale(void **state)
{
    open_view(KQ_VIEW_JSONL);
    fake_retain(5);
    expect_error(0, 100, -ESTALE);
}

static void control_text_is_a_plain_file(void **state)
{
    const uint8_t *bytes;
    size_t length;
    open_view(KQ_VIEW_VERSION);
    kq_buf_append_string(&handle.reading.bytes, "kqfs 1\n");
    assert_int_equal(kq_read_file(&handle, 5, 100, true, &bytes, &length), 0);
    assert_int_equal(length, 2);
    assert_memory_equal(bytes, "1\n", 2);
    assert_int_equal(kq_read_file(&handle, 50, 100, true, &bytes, &length), 0);
    assert_int_equal(length, 0);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(a_read_gives_all_it_asks_for_unless_the_text_ends),
        TEST(positions_count_from_the_text_where_the_file_begins),
        TEST(a_sealed_file_ends_where_it_was_sealed),
        TEST(what_the_cache_lacks_is_read_by_who_may_block_from_the_same_place),
        TEST(bytes_that_the_cache_lost_midway_are_neither_left_out_nor_given_twice),
        TEST(text_that_retention_took_is_stale_and_the_rest_stays),
        TEST(the_endless_file_starts_a_run_at_the_first_retained_message),
        TEST(damage_is_an_error_at_its_place_and_for_good),
        TEST(a_flipped_bit_in_a_value_is_damage_of_its_whole_batch),
        TEST(messages_of_a_damaged_batch_are_not_read_by_offset_and_others_are),
        TEST(an_offset_that_does_not_ascend_is_damage),
        TEST(what_was_read_once_is_not_verified_again),
        TEST(text_that_is_missing_between_segments_is_an_error_and_shifts_nothing),
        TEST(a_page_of_a_sealed_file_is_never_cut_short_by_damage),
        TEST(json_is_read_in_order_and_again_from_the_start_or_the_last_read),
        TEST(json_ends_with_the_log_and_goes_on_when_it_grows),
        TEST(json_that_retention_took_is_stale),
        TEST(control_text_is_a_plain_file),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
