/* CRC-32C: the known values, and both ways against each other. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "broker/base/crc32c.h"
#include "tests/unit/chance.h"

static void known_values_come_out(void **state)
{
    uint8_t bytes[32];
    assert_int_equal(kq_crc32c(0, "123456789", 9), 0xe3069283); /* the check value */
    assert_int_equal(kq_crc32c(0, "", 0), 0);
    memset(bytes, 0, sizeof(bytes)); /* RFC 3720, B.4 */
    assert_int_equal(kq_crc32c(0, bytes, 32), 0x8a9136aa);
    memset(bytes, 0xff, sizeof(bytes));
    assert_int_equal(kq_crc32c(0, bytes, 32), 0x62a8ab43);
    for (int i = 0; i < 32; i++)
        bytes[i] = (uint8_t)i;
    assert_int_equal(kq_crc32c(0, bytes, 32), 0x46dd794e);
    assert_int_equal(kq_crc32c_portable(0, bytes, 32), 0x46dd794e);
}

/* Every length up to well beyond the longest stride, at every alignment, in two parts. */
static void both_ways_agree(void **state)
{
    static uint8_t bytes[40000];
    for (size_t i = 0; i < sizeof(bytes); i++)
        bytes[i] = (uint8_t)chance(256);
    for (int round = 0; round < 5000; round++) {
        size_t from = chance(9), length = chance(round % 2 ? 2000 : sizeof(bytes) - 8);
        size_t cut = chance(length + 1);
        uint32_t whole = kq_crc32c_portable(0, bytes + from, length);
        assert_int_equal(kq_crc32c(0, bytes + from, length), whole);
        uint32_t first = kq_crc32c(0, bytes + from, cut);
        assert_int_equal(kq_crc32c(first, bytes + from + cut, length - cut), whole);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(known_values_come_out),
        cmocka_unit_test(both_ways_agree),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
