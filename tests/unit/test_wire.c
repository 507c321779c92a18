/* The primitive types of the protocol. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "broker/base/fault.h"
#include "broker/base/wire.h"

/* A reader of a literal. */
#define READER(bytes) ((struct kq_wire_reader){(const uint8_t *)(bytes), END(bytes), NULL, 0})
#define END(bytes) ((const uint8_t *)(bytes) + sizeof(bytes) - 1)

static void numbers_are_big_endian(void **state)
{
    struct kq_wire_reader reader =
        READER("\xfe\2\1\2\xff\xfe\1\2\3\4\xff\xff\xff\xfe\1\2\3\4\5\6\7\10\x3f\xf8\0\0\0\0\0\0");
    assert_int_equal(kq_wire_read_int8(&reader), -2);
    assert_true(kq_wire_read_bool(&reader));
    assert_int_equal(kq_wire_read_uint16(&reader), 0x0102);
    assert_int_equal(kq_wire_read_int16(&reader), -2);
    assert_int_equal(kq_wire_read_uint32(&reader), 0x01020304);
    assert_int_equal(kq_wire_read_int32(&reader), -2);
    assert_int_equal(kq_wire_read_int64(&reader), 0x0102030405060708);
    assert_true(kq_wire_read_float64(&reader) == 1.5);
    assert_int_equal(kq_wire_reader_finish(&reader), 0);
}

static void numbers_written_read_the_same(void **state)
{
    static const int64_t values[] = {0,    1,     -1,        63,        -64,       64,
                                     8191, -8192, INT32_MAX, INT32_MIN, INT64_MAX, INT64_MIN};
    kq_autobuf struct kq_buf buf = {0};
    struct kq_wire_writer writer;
    struct kq_wire_reader reader;
    kq_wire_writer_init(&writer, &buf);
    for (size_t i = 0; i < kq_array_size(values); i++) {
        kq_wire_write_int8(&writer, (int8_t)values[i]);
        kq_wire_write_int16(&writer, (int16_t)values[i]);
        kq_wire_write_int32(&writer, (int32_t)values[i]);
        kq_wire_write_int64(&writer, values[i]);
        kq_wire_write_uvarint(&writer, (uint32_t)values[i]);
        kq_wire_write_varint(&writer, (int32_t)values[i]);
        kq_wire_write_varlong(&writer, values[i]);
        kq_wire_write_float64(&writer, (double)values[i]);
    }
    assert_int_equal(writer.error, 0);
    kq_wire_reader_init(&reader, buf.data, buf.length, NULL);
    for (size_t i = 0; i < kq_array_size(values); i++) {
        assert_int_equal(kq_wire_read_int8(&reader), (int8_t)values[i]);
        assert_int_equal(kq_wire_read_int16(&reader), (int16_t)values[i]);
        assert_int_equal(kq_wire_read_int32(&reader), (int32_t)values[i]);
        assert_int_equal(kq_wire_read_int64(&reader), values[i]);
        assert_int_equal(kq_wire_read_uvarint(&reader), (uint32_t)values[i]);
        assert_int_equal(kq_wire_read_varint(&reader), (int32_t)values[i]);
        assert_int_equal(kq_wire_read_varlong(&reader), values[i]);
        assert_true(kq_wire_read_float64(&reader) == (double)values[i]);
    }
    assert_int_equal(kq_wire_reader_finish(&reader), 0);
}

static void varints_are_those_of_the_protocol_guide(void **state)
{
    struct kq_wire_reader reader = READER("\0\1\2\3\x7f\x80\1\xff\xff\xff\xff\x0f\xac\2\x80\0");
    assert_int_equal(kq_wire_read_varint(&reader), 0);
    assert_int_equal(kq_wire_read_varint(&reader), -1);
    assert_int_equal(kq_wire_read_varint(&reader), 1);
    assert_int_equal(kq_wire_read_varint(&reader), -2);
    assert_int_equal(kq_wire_read_uvarint(&reader), 127);
    assert_int_equal(kq_wire_read_uvarint(&reader), 128);
    assert_int_equal(kq_wire_read_uvarint(&reader), UINT32_MAX);
    assert_int_equal(kq_wire_read_uvarint(&reader), 300);
    assert_int_equal(kq_wire_read_uvarint(&reader), 0); /* longer than need be */
    assert_int_equal(kq_wire_reader_finish(&reader), 0);
}

static void a_varint_that_does_not_fit_or_end_is_malformed(void **state)
{
    struct kq_wire_reader readers[] = {READER("\xff\xff\xff\xff\x1f"),
                                       READER("\x80\x80\x80\x80\x80\0"), READER("\x80"),
                                       READER("")};
    for (size_t i = 0; i < kq_array_size(readers); i++) {
        assert_int_equal(kq_wire_read_uvarint(&readers[i]), 0);
        assert_int_equal(readers[i].error, -EBADMSG);
    }
    struct kq_wire_reader longs[] = {READER("\xff\xff\xff\xff\xff\xff\xff\xff\xff\2"),
                                     READER("\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\0"),
                                     READER("\x80\x80\x80\x80\x80\x80\x80\x80\x80")};
    for (size_t i = 0; i < kq_array_size(longs); i++) {
        assert_int_equal(kq_wire_read_varlong(&longs[i]), 0);
        assert_int_equal(longs[i].error, -EBADMSG);
    }
    struct kq_wire_reader longest = READER("\xff\xff\xff\xff\xff\xff\xff\xff\xff\1");
    assert_int_equal(kq_wire_read_varlong(&longest), INT64_MIN);
    assert_int_equal(longest.error, 0);
}

static void the_first_error_stays_and_nothing_is_read_behind_it(void **state)
{
    uint8_t id[16];
    struct kq_wire_reader reader = READER("\1\2\3");
    assert_int_equal(kq_wire_read_int32(&reader), 0);
    assert_int_equal(kq_wire_left(&reader), 0);
    kq_wire_reader_fail(&reader, -ENOMEM);
    assert_int_equal(reader.error, -EBADMSG);
    assert_int_equal(kq_wire_read_int8(&reader), 0);
    assert_int_equal(kq_wire_read_varlong(&reader), 0);
    kq_wire_read_uuid(&reader, id);
    assert_memory_equal(id, ((uint8_t[16]){0}), 16);
    assert_int_equal(kq_wire_read_string(&reader, true, true).length, -1);
    assert_int_equal(kq_wire_reader_finish(&reader), -EBADMSG);
}

static void bytes_left_over_are_an_error(void **state)
{
    struct kq_wire_reader reader = READER("\1\2\3");
    assert_int_equal(kq_wire_read_int16(&reader), 0x0102);
    assert_int_equal(kq_wire_reader_finish(&reader), -EBADMSG);
}

static void strings_and_bytes_borrow_in_both_forms(void **state)
{
    struct kq_wire_reader reader = READER("\0\2ab\xff\xff\3cd\0\1\0\0\0\1e\xff\xff\xff\xff\2f\0");
    const char *start = (const char *)reader.at;
    struct kq_str string = kq_wire_read_string(&reader, false, false);
    assert_true(kq_str_is(string, KQ_STR("ab")) && string.data == start + 2);
    assert_int_equal(kq_wire_read_string(&reader, false, true).length, -1);
    assert_true(kq_str_is(kq_wire_read_string(&reader, true, false), KQ_STR("cd")));
    assert_int_equal(kq_wire_read_string(&reader, true, true).length, -1);
    assert_true(kq_str_is(kq_wire_read_string(&reader, true, true), KQ_STR("")));
    struct kq_bytes bytes = kq_wire_read_bytes(&reader, false, false);
    assert_true(bytes.length == 1 && *bytes.data == 'e');
    assert_int_equal(kq_wire_read_bytes(&reader, false, true).length, -1);
    bytes = kq_wire_read_bytes(&reader, true, false);
    assert_true(bytes.length == 1 && *bytes.data == 'f');
    assert_int_equal(kq_wire_read_bytes(&reader, true, true).length, -1);
    assert_int_equal(kq_wire_reader_finish(&reader), 0);
}

static void hostile_lengths_are_malformed(void **state)
{
    struct kq_wire_reader wide[] = {READER("\x7f\xff\xff\xff\0"), READER("\x80\0\0\0\0"),
                                    READER("\xff\xff\xff\xff"), READER("\xff\xff\xff\xfe"),
                                    READER("\0\0\0\2a")};
    for (size_t i = 0; i < kq_array_size(wide); i++) {
        assert_int_equal(kq_wire_read_bytes(&wide[i], false, false).length, -1);
        assert_int_equal(wide[i].error, -EBADMSG);
    }
    struct kq_wire_reader compact[] = {READER("\xff\xff\xff\xff\x0f"), READER("\0"), READER("\3a"),
                                       READER("\x80\x80\x80\x80\x08")};
    for (size_t i = 0; i < kq_array_size(compact); i++) {
        struct kq_wire_reader again = compact[i];
        assert_int_equal(kq_wire_read_bytes(&compact[i], true, false).length, -1);
        assert_int_equal(compact[i].error, -EBADMSG);
        assert_int_equal(kq_wire_read_string(&again, true, false).length, -1);
        assert_int_equal(again.error, -EBADMSG);
    }
}

static void a_string_has_at_most_32767_bytes(void **state)
{
    static char bytes[40000];
    kq_autobuf struct kq_buf buf = {0};
    struct kq_wire_writer writer;
    struct kq_wire_reader reader;
    memset(bytes, 'x', sizeof(bytes));
    kq_wire_writer_init(&writer, &buf);
    kq_wire_write_string(&writer, true, false, (struct kq_str){bytes, 32767});
    assert_int_equal(writer.error, 0);
    kq_wire_reader_init(&reader, buf.data, buf.length, NULL);
    assert_int_equal(kq_wire_read_string(&reader, true, false).length, 32767);
    kq_wire_write_string(&writer, true, false, (struct kq_str){bytes, 32768});
    assert_int_equal(writer.error, -EINVAL);

    buf.length = 0;
    kq_wire_writer_init(&writer, &buf);
    kq_wire_write_uvarint(&writer, 32769);
    kq_wire_write_raw(&writer, bytes, 32768);
    kq_wire_reader_init(&reader, buf.data, buf.length, NULL);
    assert_int_equal(kq_wire_read_string(&reader, true, false).length, -1);
    assert_int_equal(reader.error, -EBADMSG);
}

static void a_count_is_held_against_the_bytes_left(void **state)
{
    struct kq_wire_reader fits = READER("\0\0\0\2abcd"), not = READER("\0\0\0\2abc");
    assert_int_equal(kq_wire_read_count(&fits, false, false, 2), 2);
    assert_int_equal(kq_wire_read_count(&not, false, false, 2), -1);
    assert_int_equal(not .error, -EBADMSG);
    struct kq_wire_reader none = READER("\1\0");
    assert_int_equal(kq_wire_read_count(&none, true, false, 100), 0);
    assert_int_equal(kq_wire_read_count(&none, true, true, 100), -1);
    assert_int_equal(kq_wire_reader_finish(&none), 0);
}

static void nulls_are_written_only_where_they_may_be(void **state)
{
    for (int compact = 0; compact < 2; compact++) {
        for (int nullable = 0; nullable < 2; nullable++) {
            kq_autobuf struct kq_buf buf = {0};
            struct kq_wire_writer writers[3];
            for (int i = 0; i < 3; i++)
                kq_wire_writer_init(&writers[i], &buf);
            kq_wire_write_string(&writers[0], compact, nullable, KQ_STR_NULL);
            kq_wire_write_bytes(&writers[1], compact, nullable, (struct kq_bytes){NULL, -1});
            kq_wire_write_count(&writers[2], compact, nullable, -1);
            for (int i = 0; i < 3; i++)
                assert_int_equal(writers[i].error, nullable ? 0 : -EINVAL);
            assert_int_equal(buf.length, !nullable ? 0 : compact ? 3 : 10);
        }
    }
}

static void a_size_goes_in_front_of_what_was_written(void **state)
{
    kq_autobuf struct kq_buf buf = {0};
    struct kq_wire_writer writer;
    kq_wire_writer_init(&writer, &buf);
    kq_wire_write_raw(&writer, "head", 4);
    for (int i = 0; i < 200; i++)
        kq_wire_write_int8(&writer, (int8_t)i);
    kq_wire_write_size_at(&writer, 4);
    assert_int_equal(writer.error, 0);
    assert_int_equal(buf.length, 206);
    assert_memory_equal(buf.data, "head\xc8\1\0\1\2", 9);
    assert_int_equal(buf.data[205], 199);
}

static void records_in_a_file_need_somebody_who_takes_them(void **state)
{
    kq_autobuf struct kq_buf buf = {0};
    struct kq_wire_writer writer;
    struct kq_wire_records records = {.extent = (const struct kq_extent *)&writer, .length = 5};
    kq_wire_writer_init(&writer, &buf);
    kq_wire_write_records(&writer, true, true, records);
    assert_int_equal(writer.error, -EINVAL);
}

static void without_memory_the_writer_says_so(void **state)
{
    kq_autobuf struct kq_buf buf = {0};
    struct kq_wire_writer writer;
    kq_wire_writer_init(&writer, &buf);
    kq_fault_arm(KQ_FAULT_MEMORY, 1, ENOMEM, false);
    kq_wire_write_int32(&writer, 1);
    kq_wire_write_int32(&writer, 2); /* nothing may follow what is missing */
    assert_true(kq_fault_disarm());
    assert_int_equal(writer.error, -ENOMEM);
    assert_int_equal(buf.length, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(numbers_are_big_endian),
        cmocka_unit_test(numbers_written_read_the_same),
        cmocka_unit_test(varints_are_those_of_the_protocol_guide),
        cmocka_unit_test(a_varint_that_does_not_fit_or_end_is_malformed),
        cmocka_unit_test(the_first_error_stays_and_nothing_is_read_behind_it),
        cmocka_unit_test(bytes_left_over_are_an_error),
        cmocka_unit_test(strings_and_bytes_borrow_in_both_forms),
        cmocka_unit_test(hostile_lengths_are_malformed),
        cmocka_unit_test(a_string_has_at_most_32767_bytes),
        cmocka_unit_test(a_count_is_held_against_the_bytes_left),
        cmocka_unit_test(nulls_are_written_only_where_they_may_be),
        cmocka_unit_test(a_size_goes_in_front_of_what_was_written),
        cmocka_unit_test(records_in_a_file_need_somebody_who_takes_them),
        cmocka_unit_test(without_memory_the_writer_says_so),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
