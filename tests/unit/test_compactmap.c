#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <stdio.h>
#include <string.h>

#include "broker/base/endian.h"
#include "broker/base/fault.h"
#include "broker/compactmap.h"
#include "tests/unit/chance.h"

/* The first vectors of the reference implementation's vectors.h: key 00…0f, messages 00, 01, …. */
static void the_hash_is_siphash_128(void **state)
{
    static const char *const expected[] = {
        "a3817f04ba25a8e66df67214c7550293",
        "da87c1d86b99af44347659119b22fc45",
        "8177228da4a45dc7fca38bdef60affe4",
    };
    uint8_t secret_bytes[16], message[16], out[16];
    for (size_t i = 0; i < 16; i++)
        secret_bytes[i] = message[i] = (uint8_t)i;
    const uint64_t secret[2] = {kq_load_le64(secret_bytes), kq_load_le64(secret_bytes + 8)};
    for (size_t length = 0; length < 3; length++) {
        uint64_t hash[2];
        char text[33];
        kq_compact_hash(secret, message, length, hash);
        kq_store_le64(out, hash[0]);
        kq_store_le64(out + 8, hash[1]);
        for (size_t i = 0; i < 16; i++)
            snprintf(text + 2 * i, 3, "%02x", out[i]);
        assert_string_equal(text, expected[length]);
    }
}

static void every_byte_and_the_length_count(void **state)
{
    const uint64_t secret[2] = {1, 2};
    uint8_t zeros[40] = {0};
    uint64_t hashes[41 + 40][2];
    size_t count = 0;
    for (size_t length = 0; length <= 40; length++)
        kq_compact_hash(secret, zeros, length, hashes[count++]);
    for (size_t i = 0; i < 40; i++) {
        zeros[i] = 1;
        kq_compact_hash(secret, zeros, 40, hashes[count++]);
        zeros[i] = 0;
    }
    for (size_t i = 0; i < count; i++)
        for (size_t j = 0; j < i; j++)
            assert_memory_not_equal(hashes[i], hashes[j], 16);
}

static void a_key_has_the_offset_that_was_put_last(void **state)
{
    static int64_t model[5000];
    struct kq_compact_map *map;
    assert_int_equal(kq_compact_map_new(6000 * KQ_COMPACT_SLOT, 0.9, &map), 0);
    for (size_t i = 0; i < 5000; i++)
        model[i] = -1;
    for (int64_t offset = 0; offset < 50000; offset++) {
        char key[16];
        size_t number = (size_t)chance(5000);
        int length = snprintf(key, sizeof(key), "k%zu", number);
        assert_true(kq_compact_map_put(map, key, (size_t)length, offset));
        model[number] = offset;
    }
    size_t keys = 0;
    for (size_t i = 0; i < 5000; i++) {
        char key[16];
        int length = snprintf(key, sizeof(key), "k%zu", i);
        keys += model[i] >= 0;
        assert_int_equal(kq_compact_map_get(map, key, (size_t)length), model[i]);
    }
    assert_int_equal(kq_compact_map_count(map), keys);
    assert_int_equal(kq_compact_map_get(map, "other", 5), -1);
    kq_compact_map_free(map);
}

static void a_full_map_refuses_new_keys_and_takes_known_ones(void **state)
{
    struct kq_compact_map *map;
    assert_int_equal(kq_compact_map_new(100 * KQ_COMPACT_SLOT, 0.5, &map), 0);
    assert_int_equal(kq_compact_map_limit(map), 50);
    for (uint32_t i = 0; i < 50; i++)
        assert_true(kq_compact_map_put(map, &i, sizeof(i), i));
    uint32_t another = 50, known = 7;
    assert_false(kq_compact_map_put(map, &another, sizeof(another), 50));
    assert_int_equal(kq_compact_map_get(map, &another, sizeof(another)), -1);
    assert_true(kq_compact_map_put(map, &known, sizeof(known), 51));
    assert_int_equal(kq_compact_map_get(map, &known, sizeof(known)), 51);
    assert_int_equal(kq_compact_map_count(map), 50);
    kq_compact_map_free(map);
}

static void the_empty_key_is_a_key_and_offset_zero_an_offset(void **state)
{
    struct kq_compact_map *map;
    assert_int_equal(kq_compact_map_new(0, 0.9, &map), 0); /* one fits in any case */
    assert_int_equal(kq_compact_map_limit(map), 1);
    assert_int_equal(kq_compact_map_get(map, "", 0), -1);
    assert_true(kq_compact_map_put(map, "", 0, 0));
    assert_int_equal(kq_compact_map_get(map, "", 0), 0);
    assert_false(kq_compact_map_put(map, "a", 1, 1));
    assert_int_equal(kq_compact_map_get(map, "a", 1), -1);
    kq_compact_map_free(map);
}

static void without_memory_there_is_no_map(void **state)
{
    struct kq_compact_map *map;
    kq_fault_arm(KQ_FAULT_MEMORY, 1, ENOMEM, false);
    assert_int_equal(kq_compact_map_new(1000, 0.9, &map), -ENOMEM);
    kq_fault_disarm();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_hash_is_siphash_128),
        cmocka_unit_test(every_byte_and_the_length_count),
        cmocka_unit_test(a_key_has_the_offset_that_was_put_last),
        cmocka_unit_test(a_full_map_refuses_new_keys_and_takes_known_ones),
        cmocka_unit_test(the_empty_key_is_a_key_and_offset_zero_an_offset),
        cmocka_unit_test(without_memory_there_is_no_map),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
