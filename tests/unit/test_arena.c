/* Memory that is released at once. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <string.h>

#include "broker/base/arena.h"
#include "broker/base/fault.h"
#include "tests/unit/chance.h"

static void allocations_are_zeroed_aligned_and_apart(void **state)
{
    kq_autoarena struct kq_arena arena = {0};
    uint8_t *blocks[500];
    size_t sizes[500];
    for (int i = 0; i < 500; i++) {
        sizes[i] = chance(20) ? chance(100) : chance(400000);
        blocks[i] = kq_arena_alloc(&arena, sizes[i]);
        assert_non_null(blocks[i]);
        assert_int_equal((uintptr_t)blocks[i] % 8, 0);
        for (size_t n = 0; n < sizes[i]; n++)
            assert_int_equal(blocks[i][n], 0);
        memset(blocks[i], i, sizes[i]);
    }
    for (int i = 0; i < 500; i++)
        for (size_t n = 0; n < sizes[i]; n++)
            assert_int_equal(blocks[i][n], (uint8_t)i);
}

static void the_limit_is_kept_to_the_byte(void **state)
{
    struct kq_arena arena;
    kq_arena_init(&arena, 64);
    assert_int_equal(kq_arena_left(&arena), 64);
    assert_non_null(kq_arena_alloc(&arena, 1));
    assert_int_equal(kq_arena_left(&arena), 56);
    assert_null(kq_arena_alloc(&arena, 57));
    assert_non_null(kq_arena_alloc(&arena, 0));
    assert_non_null(kq_arena_alloc(&arena, 48));
    assert_null(kq_arena_alloc(&arena, 0));
    kq_arena_release(&arena);
    assert_int_equal(kq_arena_left(&arena), 64);
    assert_null(kq_arena_alloc(&arena, 65));
    assert_non_null(kq_arena_alloc(&arena, 64));
    kq_arena_release(&arena);
    kq_arena_init(&arena, 63);
    assert_null(kq_arena_alloc(&arena, 63)); /* takes 64 */
    kq_arena_release(&arena);
}

static void sizes_that_overflow_get_nothing(void **state)
{
    kq_autoarena struct kq_arena arena = {0};
    assert_null(kq_arena_alloc(&arena, SIZE_MAX));
    assert_null(kq_arena_alloc(&arena, SIZE_MAX - 3));
    assert_null(kq_arena_array(&arena, SIZE_MAX / 2, 3));
    assert_null(kq_arena_array(&arena, (size_t)1 << 32, (size_t)1 << 32));
    assert_null(kq_arena_string(&arena, "", SIZE_MAX));
    assert_int_equal(arena.used, 0);
    uint32_t *array = kq_arena_array(&arena, 1000, sizeof(*array));
    assert_non_null(array);
    assert_int_equal(array[999], 0);
}

static void a_string_ends_with_a_nul(void **state)
{
    kq_autoarena struct kq_arena arena = {0};
    assert_non_null(memset(kq_arena_alloc(&arena, 8), 'x', 8));
    assert_string_equal(kq_arena_string(&arena, "abcdefghij", 8), "abcdefgh");
    assert_string_equal(kq_arena_string(&arena, NULL, 0), "");
}

static void without_memory_nothing_changes(void **state)
{
    kq_autoarena struct kq_arena arena = {0};
    kq_fault_arm(KQ_FAULT_MEMORY, 1, ENOMEM, true);
    assert_null(kq_arena_alloc(&arena, 8));
    assert_true(kq_fault_disarm());
    assert_int_equal(arena.used, 0);
    char *first = kq_arena_string(&arena, "first", 5);
    kq_fault_arm(KQ_FAULT_MEMORY, 1, ENOMEM, true);
    assert_null(kq_arena_alloc(&arena, 1 << 20));
    assert_non_null(kq_arena_alloc(&arena, 8)); /* from what is there */
    assert_true(kq_fault_disarm());
    assert_non_null(kq_arena_alloc(&arena, 1 << 20));
    assert_string_equal(first, "first");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(allocations_are_zeroed_aligned_and_apart),
        cmocka_unit_test(the_limit_is_kept_to_the_byte),
        cmocka_unit_test(sizes_that_overflow_get_nothing),
        cmocka_unit_test(a_string_ends_with_a_nul),
        cmocka_unit_test(without_memory_nothing_changes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
