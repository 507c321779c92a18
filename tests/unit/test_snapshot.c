#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "broker/snapshot.h"

struct value {
    uint8_t bytes[77]; /* not a multiple of a word */
};

static KQ_SNAPSHOT(struct value) shared;
static atomic_bool stop;

static void put(uint8_t byte)
{
    struct value value;
    memset(&value, byte, sizeof(value));
    kq_snapshot_store(&shared.sequence, shared.words, &value, sizeof(value));
}

static void *look(void *argument)
{
    struct value value;
    long torn = 0;
    while (!atomic_load(&stop)) {
        kq_snapshot_load(&shared.sequence, shared.words, &value, sizeof(value));
        for (size_t i = 1; i < sizeof(value); i++)
            torn += value.bytes[i] != value.bytes[0];
    }
    return (void *)torn;
}

static void readers_never_see_half_a_replacement(void **state)
{
    pthread_t readers[2];
    void *torn;
    put(0);
    for (int i = 0; i < 2; i++)
        assert_int_equal(pthread_create(&readers[i], NULL, look, NULL), 0);
    for (unsigned i = 0; i < 30000; i++)
        put((uint8_t)i);
    atomic_store(&stop, true);
    for (int i = 0; i < 2; i++) {
        pthread_join(readers[i], &torn);
        assert_null(torn);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(readers_never_see_half_a_replacement),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
