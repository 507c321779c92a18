/* Partitions: the hash that Kafka's own tests know, and the choice for messages without key. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <string.h>

#include "fs/partitioner.h"

static void keys_hash_as_in_kafka(void **state)
{
    static const struct {
        const char *key;
        int32_t hash;
    } known[] = {
        {"21", -973932308},
        {"foobar", -790332482},
        {"a-little-bit-long-string", -985981536},
        {"a-little-bit-longer-string", -1486304829},
        {"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971},
        {"abc", 479470107},
        {"", 275646681},
        {"1", -1993445489},
        {"1234", -1614185708},
    };
    for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++) {
        uint32_t hash = kq_murmur2(known[i].key, strlen(known[i].key));
        assert_int_equal((int32_t)hash, known[i].hash);
        for (int32_t count = 1; count < 100; count += 7)
            assert_int_equal(kq_partition_of_key(known[i].key, strlen(known[i].key), count),
                             (known[i].hash & 0x7fffffff) % count);
    }
    assert_int_equal(kq_partition_of_key("foobar", 6, 50), 16);
}

struct rights {
    int32_t from, to; /* allowed: [from, to) */
    int asked;
};

static bool may(void *context, int32_t partition)
{
    struct rights *rights = context;
    rights->asked++;
    return partition >= rights->from && partition < rights->to;
}

static void a_choice_holds_until_it_has_had_its_bytes(void **state)
{
    struct kq_sticky sticky = {0};
    struct rights all = {0, 1000, 0};
    int32_t first, now;
    int changes = 0;
    assert_int_equal(kq_sticky_choose(&sticky, 1000, 100, may, &all, &first), 0);
    for (int sent = 100; sent < KQ_STICKY_BYTES; sent += 100) {
        assert_int_equal(kq_sticky_choose(&sticky, 1000, 100, may, &all, &now), 0);
        assert_int_equal(now, first);
    }
    for (int i = 0; i < 20; i++, first = now) {
        assert_int_equal(kq_sticky_choose(&sticky, 1000, 1 << 20, may, &all, &now), 0);
        changes += now != first;
    }
    assert_true(changes >= 15);
    assert_true(all.asked < 400);
}

static void only_partitions_that_may_be_written_are_chosen(void **state)
{
    struct kq_sticky sticky = {0};
    struct rights few = {7, 9, 0}, none = {0, 0, 0};
    int32_t got;
    bool seen[2] = {false};
    for (int i = 0; i < 100; i++) {
        assert_int_equal(kq_sticky_choose(&sticky, 500, 1 << 20, may, &few, &got), 0);
        assert_in_range(got, 7, 8);
        seen[got - 7] = true;
    }
    assert_true(seen[0] && seen[1]);
    assert_int_equal(kq_sticky_choose(&sticky, 500, 1, may, &none, &got), -EACCES);
    struct rights moved = {20, 21, 0}; /* the right to the present choice was taken away */
    assert_int_equal(kq_sticky_choose(&sticky, 500, 1, may, &moved, &got), 0);
    assert_int_equal(got, 20);
}

static void every_partition_gets_its_share(void **state)
{
    struct kq_sticky sticky = {0};
    struct rights all = {0, 8, 0};
    int32_t got;
    int counts[8] = {0};
    for (int i = 0; i < 8000; i++) {
        assert_int_equal(kq_sticky_choose(&sticky, 8, KQ_STICKY_BYTES, may, &all, &got), 0);
        counts[got]++;
    }
    for (int i = 0; i < 8; i++)
        assert_in_range(counts[i], 700, 1300);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(keys_hash_as_in_kafka),
        cmocka_unit_test(a_choice_holds_until_it_has_had_its_bytes),
        cmocka_unit_test(only_partitions_that_may_be_written_are_chosen),
        cmocka_unit_test(every_partition_gets_its_share),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
