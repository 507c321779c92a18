/* Growable bytes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>

#include "broker/base/buf.h"
#include "broker/base/fault.h"

static void appended_bytes_follow_each_other(void **state)
{
    kq_autobuf struct kq_buf buf = {0};
    for (int i = 0; i < 1000; i++)
        assert_int_equal(kq_buf_printf(&buf, "%d,", i), 0);
    assert_int_equal(kq_buf_append_string(&buf, "end"), 0);
    assert_int_equal(kq_buf_append(&buf, NULL, 0), 0);
    assert_int_equal(kq_buf_append(&buf, "", 1), 0);
    const char *at = (char *)buf.data;
    for (int i = 0; i < 1000; i++) {
        char *end;
        assert_int_equal(strtol(at, &end, 10), i);
        assert_int_equal(*end, ',');
        at = end + 1;
    }
    assert_string_equal(at, "end");
    assert_int_equal((size_t)(at - (char *)buf.data) + 4, buf.length);
}

static void growth_at_least_doubles_and_keeps_the_bytes(void **state)
{
    kq_autobuf struct kq_buf buf = {0};
    assert_int_equal(kq_buf_append(&buf, "abc", 3), 0);
    for (int i = 0; i < 10; i++) {
        size_t before = buf.capacity;
        assert_int_equal(kq_buf_reserve(&buf, before - buf.length + 1), 0);
        assert_true(buf.capacity >= 2 * before);
        assert_int_equal(buf.length, 3);
        assert_memory_equal(buf.data, "abc", 3);
    }
    size_t before = buf.capacity;
    assert_int_equal(kq_buf_reserve(&buf, buf.capacity - buf.length), 0);
    assert_int_equal(buf.capacity, before);
}

static void without_memory_the_buffer_is_as_it_was(void **state)
{
    kq_autobuf struct kq_buf buf = {0};
    char big[200] = {0};
    assert_int_equal(kq_buf_append(&buf, "abc", 3), 0);
    const uint8_t *data = buf.data;
    kq_fault_arm(KQ_FAULT_MEMORY, 1, ENOMEM, true);
    assert_int_equal(kq_buf_append(&buf, big, sizeof(big)), -ENOMEM);
    assert_int_equal(kq_buf_printf(&buf, "%200d", 1), -ENOMEM);
    kq_fault_disarm();
    assert_ptr_equal(buf.data, data);
    assert_int_equal(buf.length, 3);
    assert_int_equal(kq_buf_reserve(&buf, SIZE_MAX), -ENOMEM);
    assert_int_equal(kq_buf_reserve(&buf, SIZE_MAX / 2), -ENOMEM);
    assert_memory_equal(buf.data, "abc", 3);
}

static void the_front_can_be_dropped(void **state)
{
    kq_autobuf struct kq_buf buf = {0};
    assert_int_equal(kq_buf_append(&buf, "0123456789", 10), 0);
    kq_buf_drop_front(&buf, 0);
    kq_buf_drop_front(&buf, 7);
    assert_int_equal(buf.length, 3);
    assert_memory_equal(buf.data, "789", 3);
    kq_buf_drop_front(&buf, 4);
    assert_int_equal(buf.length, 0);
}

static void clearing_keeps_small_memory_and_frees_large(void **state)
{
    kq_autobuf struct kq_buf buf = {0};
    assert_int_equal(kq_buf_reserve(&buf, 1000), 0);
    buf.length = 10;
    const uint8_t *data = buf.data;
    kq_buf_clear(&buf, buf.capacity);
    assert_int_equal(buf.length, 0);
    assert_ptr_equal(buf.data, data);
    kq_buf_clear(&buf, buf.capacity - 1);
    assert_null(buf.data);
    assert_int_equal(kq_buf_append(&buf, "a", 1), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(appended_bytes_follow_each_other),
        cmocka_unit_test(growth_at_least_doubles_and_keeps_the_bytes),
        cmocka_unit_test(without_memory_the_buffer_is_as_it_was),
        cmocka_unit_test(the_front_can_be_dropped),
        cmocka_unit_test(clearing_keeps_small_memory_and_frees_large),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
