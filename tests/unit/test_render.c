#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "chance.h"
#include "fakelog.h"
#include "fs/jsonl.h"
#include "fs/render.h"

static struct kq_buf window, out;
static struct kq_cursor cursor;

static struct kq_lens lens(size_t piece)
{
    return (struct kq_lens){.buf = &window, .fd = -1, .piece = piece, .may_block = true};
}

static int set_up(void **state)
{
    struct kq_access access = fake_access();
    fake_open();
    kq_cursor_init(&cursor, &access);
    return 0;
}

static int tear_down(void **state)
{
    kq_cursor_release(&cursor);
    assert_int_equal(fake_log.held, 0);
    kq_buf_release(&window);
    kq_buf_release(&out);
    fake_close();
    return 0;
}

/* Bytes of a size that meets every way of copying. */
static struct fake_part any_part(char *bytes, size_t room, bool may_be_null)
{
    static const uint32_t sizes[] = {1, 2, 40, 70, 600, 9000, 40000};
    uint64_t length = chance(sizes[chance(7)]);
    if (length > room)
        length = room;
    for (uint64_t i = 0; i < length; i++)
        bytes[i] = (char)('a' + chance(26));
    return (struct fake_part){.bytes = may_be_null && chance(8) == 0 ? NULL : bytes,
                              .length = (int32_t)length};
}

static void append_any(void)
{
    enum { MOST = 40, ROOM = 40000 };
    static char bytes[2 * MOST][ROOM];
    struct fake_part keys[MOST], values[MOST];
    int count = 1 + (int)chance(chance(4) ? 3 : MOST);
    for (int i = 0; i < count; i++) {
        keys[i] = any_part(bytes[2 * i], chance(20) ? 30 : 9000, true);
        values[i] = any_part(bytes[2 * i + 1], ROOM, true);
        if (chance(3))
            keys[i].bytes = NULL;
    }
    fake_append(keys, values, count, chance(4) ? KQ_CODEC_NONE : (enum kq_codec)chance(5));
}

static void build_log(void)
{
    static const char *const marks[] = {"", "\t", "==>"};
    for (int i = 0; i < 60; i++) {
        append_any();
        if (chance(10) == 0)
            fake_append_control();
        if (chance(10) == 0)
            fake_gap(1 + (int)chance(5));
        if (chance(12) == 0 && fake_log.segment_count < FAKE_SEGMENTS)
            fake_roll();
        if (chance(15) == 0 && fake_log.rendering_count < FAKE_RENDERINGS)
            fake_render(marks[chance(3)], chance(2) ? "\n" : "--end--");
    }
}

static void expect_text(int64_t at, size_t room, size_t piece, int expected)
{
    struct kq_lens view = lens(piece);
    size_t length, most = fake_log.text.length - (size_t)at;
    out.length = 0;
    assert_int_equal(kq_buf_reserve(&out, room + KQ_RENDER_SLACK), 0);
    kq_cursor_begin(&cursor, INT64_MAX);
    assert_int_equal(kq_render_text(&cursor, &view, out.data, room, &length), expected);
    assert_int_equal(length, room < most ? room : most);
    assert_memory_equal(out.data, fake_log.text.data + at, length);
    assert_int_equal(cursor.text, at + (int64_t)length);
}

static void text_read_in_order_in_any_sizes_is_the_messages_text(void **state)
{
    static const size_t rooms[] = {1, 7, 100, 4096, 131072};
    for (int round = 0; round < 10; round++) {
        struct kq_lens view = lens(512);
        build_log();
        assert_int_equal(kq_cursor_seek_text(&cursor, &view, 0), 0);
        size_t room = rooms[round % 5], most = round % 5 == 0 ? 20000 : fake_log.text.length;
        for (size_t at = 0; at < most;) {
            size_t n = 1 + chance(room), left = fake_log.text.length - at;
            expect_text((int64_t)at, n, 64 + chance(20000), n <= left ? 0 : KQ_END);
            at += n < left ? n : left;
        }
        tear_down(state);
        set_up(state);
    }
}

static void text_read_from_any_position_is_the_messages_text(void **state)
{
    build_log();
    for (int i = 0; i < 2000; i++) {
        struct kq_lens view = lens(64 + chance(8000));
        int64_t at = (int64_t)chance(fake_log.text.length);
        assert_int_equal(kq_cursor_seek_text(&cursor, &view, at), 0);
        size_t left = fake_log.text.length - (size_t)at, room = 1 + chance(3000);
        expect_text(at, room, 64 + chance(8000), room <= left ? 0 : KQ_END);
    }
}

/* Numbers of one, two and three bytes in all places. */
static void a_long_batch_of_records_of_all_sizes_is_the_messages_text(void **state)
{
    enum { COUNT = 3000 };
    static const int lengths[] = {0, 1, 54, 60, 63, 64, 70, 99, 130, 600, 8183, 8195};
    static struct fake_part keys[COUNT], values[COUNT];
    static char bytes[9000];
    for (size_t i = 0; i < sizeof(bytes); i++)
        bytes[i] = (char)('a' + chance(26));
    for (int i = 0; i < COUNT; i++) {
        bool rare = chance(20) == 0;
        int32_t length = lengths[chance(rare ? kq_array_size(lengths) : 9)] + (int32_t)chance(3);
        values[i] = (struct fake_part){.bytes = bytes + chance(500), .length = length};
        keys[i] = (struct fake_part){.bytes = rare ? bytes : NULL, .length = (int32_t)chance(200)};
    }
    fake_render("\t", "\n");
    fake_append(keys, values, COUNT, KQ_CODEC_NONE);
    int64_t end = (int64_t)fake_log.text.length;
    struct kq_lens view = lens(4096);
    assert_int_equal(kq_cursor_seek_text(&cursor, &view, 0), 0);
    for (int64_t at = 0; at < end;) {
        size_t n = 1 + chance(40000);
        expect_text(at, n, 200 + chance(20000), at + (int64_t)n <= end ? 0 : KQ_END);
        at += (int64_t)n;
    }
}

static void text_from_an_offset_begins_with_that_message_or_the_next(void **state)
{
    build_log();
    for (int i = 0; i < fake_log.message_count; i++) {
        struct kq_lens view = lens(256);
        const struct fake_message *message = &fake_log.messages[i];
        int64_t wanted = i && chance(2) ? fake_log.messages[i - 1].offset + 1 : message->offset;
        assert_int_equal(kq_cursor_seek_offset(&cursor, &view, wanted, true), 0);
        assert_int_equal(cursor.text, message->text_at);
        struct kq_record_head head;
        assert_int_equal(kq_cursor_head(&cursor, &view, &head), 0);
        assert_int_equal(head.offset, message->offset);
        assert_int_equal(head.key_length, message->key_length);
        assert_int_equal(head.value_length, message->value_length);
    }
}

static void text_that_arrives_later_is_read_on_from_the_end(void **state)
{
    struct kq_lens view = lens(4096);
    append_any();
    assert_int_equal(kq_cursor_seek_text(&cursor, &view, 0), 0);
    int64_t at = 0;
    for (int i = 0; i < 100; i++) {
        expect_text(at, 10000000, 4096, KQ_END);
        at = (int64_t)fake_log.text.length;
        append_any();
        if (i % 30 == 29)
            fake_roll();
    }
}

static void batches_from_the_limit_on_do_not_show(void **state)
{
    struct kq_lens view = lens(4096);
    size_t length;
    append_any();
    int64_t limit = fake_log.next_offset;
    size_t expected = fake_log.text.length;
    append_any();
    kq_cursor_begin(&cursor, limit);
    assert_int_equal(kq_cursor_seek_offset(&cursor, &view, 0, false), 0);
    kq_buf_reserve(&out, 10000000 + KQ_RENDER_SLACK);
    assert_int_equal(kq_render_text(&cursor, &view, out.data, 10000000, &length), KQ_END);
    assert_int_equal(length, expected);
}

static void a_damaged_batch_ends_the_text_before_it(void **state)
{
    struct fake_part values[] = {{"one", 3}, {"two", 3}};
    /* The second record's length, then the value's: 61 bytes of header, 10 of the first record. */
    static const struct {
        int into;
        uint8_t byte;
    } damages[] = {{16, 9}, {61 + 10, 0x7f}, {61 + 10 + 5, 0x7e}, {8, 0x7f}};
    for (size_t i = 0; i < kq_array_size(damages); i++) {
        struct kq_lens view = lens(4096);
        size_t length;
        fake_append(NULL, values, 2, KQ_CODEC_NONE);
        fake_append(NULL, values, 2, KQ_CODEC_NONE);
        fake_damage(damages[i].into, damages[i].byte);
        assert_int_equal(kq_cursor_seek_text(&cursor, &view, 0), 0);
        kq_buf_reserve(&out, 1000 + KQ_RENDER_SLACK);
        kq_cursor_begin(&cursor, INT64_MAX);
        assert_int_equal(kq_render_text(&cursor, &view, out.data, 1000, &length), -EBADMSG);
        assert_in_range(length, 8, 12);
        assert_memory_equal(out.data, "one\ntwo\none\n", length);
        assert_int_equal(cursor.text, length);
        tear_down(state);
        set_up(state);
    }
}

static void json_lines_have_every_message_once(void **state)
{
    struct kq_lens view = lens(512);
    struct kq_buf expected = {0};
    build_log();
    for (int i = 0; i < fake_log.message_count; i++) {
        const struct fake_message *message = &fake_log.messages[i];
        struct kq_record record = {
            .offset = message->offset,
            .timestamp = message->timestamp,
            .key = message->key_length < 0 ? NULL : (uint8_t *)(message->key.data ?: (void *)""),
            .key_length = message->key_length,
            .value =
                message->value_length < 0 ? NULL : (uint8_t *)(message->value.data ?: (void *)""),
            .value_length = message->value_length};
        assert_int_equal(kq_jsonl_format(&record, &expected), 0);
    }
    kq_cursor_begin(&cursor, INT64_MAX);
    assert_int_equal(kq_cursor_seek_offset(&cursor, &view, 0, false), 0);
    int r = 0;
    for (size_t until = 1; r == 0; until += 1 + chance(5000))
        r = kq_render_jsonl(&cursor, &view, &out, until);
    assert_int_equal(r, KQ_END);
    assert_int_equal(out.length, expected.length);
    assert_memory_equal(out.data, expected.data, expected.length);
    kq_buf_release(&expected);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(text_read_in_order_in_any_sizes_is_the_messages_text),
        TEST(text_read_from_any_position_is_the_messages_text),
        TEST(a_long_batch_of_records_of_all_sizes_is_the_messages_text),
        TEST(text_from_an_offset_begins_with_that_message_or_the_next),
        TEST(text_that_arrives_later_is_read_on_from_the_end),
        TEST(batches_from_the_limit_on_do_not_show),
        TEST(a_damaged_batch_ends_the_text_before_it),
        TEST(json_lines_have_every_message_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
