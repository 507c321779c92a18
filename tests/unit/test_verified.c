#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <pthread.h>

#include "broker/base/crc32c.h"
#include "broker/verified.h"

#define SIZE 100
#define BATCHES 20000

static struct kq_verified known;

static int set_up(void **state)
{
    kq_verified_init(&known);
    return 0;
}

static int conclude(int64_t position, bool good)
{
    struct kq_batch_header header = {.size = SIZE, .crc = 7};
    return kq_verified_conclude(&known, position, &header, good ? 7 : 8);
}

static void expect_run(int64_t from, int64_t to)
{
    assert_true(kq_verified_has(&known, from, (uint32_t)(to - from)));
    assert_false(kq_verified_has(&known, from - 1, 1));
    assert_false(kq_verified_has(&known, to, 1));
    assert_false(kq_verified_has(&known, to - 1, 2));
}

static void nothing_is_known_of_a_new_file(void **state)
{
    assert_false(kq_verified_has(&known, 0, SIZE));
    assert_false(kq_verified_has(&known, INT32_MAX, SIZE));
}

static void what_the_process_wrote_is_good_and_nothing_before(void **state)
{
    kq_verified_set_tail(&known, 5000);
    assert_true(kq_verified_has(&known, 5000, SIZE));
    assert_true(kq_verified_has(&known, INT32_MAX - SIZE, SIZE));
    assert_false(kq_verified_has(&known, 4999, SIZE));
}

static void a_run_grows_at_both_ends(void **state)
{
    assert_int_equal(conclude(500, true), 0);
    expect_run(500, 600);
    assert_int_equal(conclude(600, true), 0);
    assert_int_equal(conclude(400, true), 0);
    assert_int_equal(conclude(450, true), 0);
    expect_run(400, 700);
}

static void a_wrong_checksum_is_damage_and_not_remembered(void **state)
{
    assert_int_equal(conclude(500, true), 0);
    assert_int_equal(conclude(600, false), -EBADMSG);
    expect_run(500, 600);
}

static void two_readers_on_their_way_do_not_forget_for_each_other(void **state)
{
    for (int64_t i = 0; i < 50; i++) {
        assert_int_equal(conclude(i * SIZE, true), 0);
        assert_int_equal(conclude(100000 + i * SIZE, true), 0);
    }
    assert_true(kq_verified_has(&known, 0, 50 * SIZE));
    assert_true(kq_verified_has(&known, 100000, 50 * SIZE));
}

static void single_lookups_do_not_forget_what_was_read_through(void **state)
{
    for (int64_t i = 0; i < 50; i++)
        assert_int_equal(conclude(i * SIZE, true), 0);
    for (int64_t i = 0; i < 50; i++)
        assert_int_equal(conclude(100000 + 3 * i * SIZE, true), 0);
    expect_run(0, 50 * SIZE);
    assert_true(kq_verified_has(&known, 100000 + 3 * 49 * SIZE, SIZE));
    assert_false(kq_verified_has(&known, 100000, SIZE));
}

static void positions_up_to_the_largest_segment_are_told_apart(void **state)
{
    int64_t end = INT32_MAX;
    assert_int_equal(conclude(end - SIZE, true), 0);
    expect_run(end - SIZE, end);
    assert_false(kq_verified_has(&known, 0, SIZE));
}

static void a_batch_is_computed_once(void **state)
{
    uint8_t bytes[SIZE] = "anything";
    struct kq_batch_header header = {.size = SIZE};
    header.crc = kq_crc32c(0, bytes + KQ_BATCH_CRC_FROM, SIZE - KQ_BATCH_CRC_FROM);
    assert_int_equal(kq_verified_check(&known, 300, &header, bytes), 0);
    bytes[SIZE - 1] ^= 1;
    assert_int_equal(kq_verified_check(&known, 300, &header, bytes), 0);
    assert_int_equal(kq_verified_check(&known, 400, &header, bytes), -EBADMSG);
    bytes[SIZE - 1] ^= 1;
    assert_int_equal(kq_verified_check(&known, 400, &header, bytes), 0);
}

/* Every third batch is bad. */
static void *read_through(void *argument)
{
    int64_t first = *(const int *)argument;
    for (int64_t i = 0; i < BATCHES; i++) {
        int64_t batch = (first + i) % BATCHES;
        if (!kq_verified_has(&known, batch * SIZE, SIZE))
            conclude(batch * SIZE, batch % 3 != 0);
    }
    return NULL;
}

static void many_threads_never_make_a_bad_batch_good(void **state)
{
    int firsts[4] = {0, BATCHES / 2, 10, BATCHES / 2 + 7};
    pthread_t threads[4];
    for (int i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, read_through, &firsts[i]), 0);
    for (int round = 0; round < 20; round++)
        for (int64_t i = 0; i < BATCHES; i += 3)
            assert_false(kq_verified_has(&known, i * SIZE, SIZE));
    for (int i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup(f, set_up)
    const struct CMUnitTest tests[] = {
        TEST(nothing_is_known_of_a_new_file),
        TEST(what_the_process_wrote_is_good_and_nothing_before),
        TEST(a_run_grows_at_both_ends),
        TEST(a_wrong_checksum_is_damage_and_not_remembered),
        TEST(two_readers_on_their_way_do_not_forget_for_each_other),
        TEST(single_lookups_do_not_forget_what_was_read_through),
        TEST(positions_up_to_the_largest_segment_are_told_apart),
        TEST(a_batch_is_computed_once),
        TEST(many_threads_never_make_a_bad_batch_good),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
