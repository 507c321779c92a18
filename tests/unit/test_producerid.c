/* Producer ids: never twice, whatever happens between. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "broker/base/diag.h"
#include "broker/base/err.h"
#include "broker/base/fault.h"
#include "broker/producerid.h"

struct place {
    char path[64];
    int dirfd;
    struct kq_producer_ids ids;
};

static int setup(void **state)
{
    static struct place place;
    snprintf(place.path, sizeof(place.path), "/tmp/kqfs-ids-XXXXXX");
    assert_non_null(mkdtemp(place.path));
    place.dirfd = open(place.path, O_RDONLY | O_DIRECTORY);
    kq_producer_ids_init(&place.ids);
    assert_int_equal(kq_producer_ids_read(&place.ids, place.dirfd), 0);
    kq_diag_set_level(LOG_EMERG);
    *state = &place;
    return 0;
}

static int teardown(void **state)
{
    struct place *place = *state;
    kq_fault_disarm();
    kq_producer_ids_destroy(&place->ids);
    unlinkat(place->dirfd, KQ_PRODUCER_IDS, 0);
    close(place->dirfd);
    return rmdir(place->path);
}

/* As after a crash: nothing is written at the end. */
static void restart(struct place *place)
{
    kq_producer_ids_destroy(&place->ids);
    kq_producer_ids_init(&place->ids);
    assert_int_equal(kq_producer_ids_read(&place->ids, place->dirfd), 0);
}

static int64_t take(struct place *place)
{
    int64_t id = -1;
    assert_int_equal(kq_producer_ids_take(&place->ids, true, &id), 0);
    return id - KQ_PRODUCER_FIRST;
}

static int64_t given(struct place *place)
{
    return kq_producer_ids_given(&place->ids) - KQ_PRODUCER_FIRST;
}

static void write_file(struct place *place, const char *text)
{
    int fd = openat(place->dirfd, KQ_PRODUCER_IDS, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    assert_int_equal(write(fd, text, strlen(text)), strlen(text));
    close(fd);
}

static void ids_ascend_over_restarts(void **state)
{
    struct place *place = *state;
    assert_int_equal(given(place), -1);
    for (int64_t i = 0; i < 2500; i++)
        assert_int_equal(take(place), i);
    assert_int_equal(given(place), 2499);
    restart(place);
    assert_int_equal(take(place), 3000);
    restart(place);
    assert_int_equal(take(place), 4000);
}

static void what_a_log_knows_is_not_given_out(void **state)
{
    struct place *place = *state;
    kq_producer_ids_met(&place->ids, KQ_PRODUCER_FIRST + 777);
    kq_producer_ids_met(&place->ids, 5);
    assert_int_equal(given(place), 777);
    assert_int_equal(take(place), 778);
    kq_producer_ids_met(&place->ids, KQ_PRODUCER_FIRST + 123456);
    assert_int_equal(take(place), 123457);
    restart(place);
    assert_true(take(place) > 123457);
    kq_producer_ids_met(&place->ids, INT64_MAX); /* made up */
    assert_true(take(place) < 200000);
}

static void a_block_is_on_disk_before_its_first_id_is_used(void **state)
{
    struct place *place = *state;
    int64_t id = -7;
    assert_int_equal(kq_producer_ids_take(&place->ids, false, &id), KQ_WOULD_BLOCK);
    for (long nth = 1;; nth++) {
        kq_fault_arm(KQ_FAULT_OPEN | KQ_FAULT_WRITE | KQ_FAULT_SYNC | KQ_FAULT_RENAME, nth, ENOSPC,
                     false);
        int r = kq_producer_ids_take(&place->ids, true, &id);
        if (!kq_fault_disarm()) {
            assert_int_equal(r, 0);
            break;
        }
        assert_int_equal(r, -ENOSPC);
        assert_int_equal(id, -7);
    }
    assert_int_equal(kq_producer_ids_take(&place->ids, false, &id), 0);
    assert_int_equal(id, KQ_PRODUCER_FIRST + 1);
}

static void a_damaged_file_says_nothing(void **state)
{
    static const char *const texts[] = {
        "",       "0",     "0\n",      "0\n5",  "1\n5\n",  "0\n-5\n",
        "0\nx\n", "\n5\n", "0\n5\n\n", "0 5\n", "0\n5x\n", "0\n99999999999999999999\n"};
    struct place *place = *state;
    for (size_t i = 0; i < kq_array_size(texts); i++) {
        write_file(place, texts[i]);
        restart(place);
        assert_int_equal(given(place), -1);
    }
    write_file(place, "0\n1099511627781\n");
    restart(place);
    assert_int_equal(take(place), 5);
    write_file(place, "0\n5\n");
    restart(place);
    assert_int_equal(take(place), 0); /* below are Kafka's */
}

static void *take_many(void *context)
{
    int64_t *ids = malloc(5000 * sizeof(*ids));
    for (int i = 0; i < 5000; i++)
        ids[i] = take(context);
    return ids;
}

static void threads_do_not_share_ids(void **state)
{
    static char seen[30000];
    pthread_t threads[4];
    for (int i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, take_many, *state), 0);
    for (int i = 0; i < 4; i++) {
        int64_t *ids;
        pthread_join(threads[i], (void **)&ids);
        for (int j = 0; j < 5000; j++) {
            assert_in_range(ids[j], 0, 19999);
            assert_int_equal(seen[ids[j]]++, 0);
        }
        free(ids);
    }
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(ids_ascend_over_restarts),
        TEST(what_a_log_knows_is_not_given_out),
        TEST(a_block_is_on_disk_before_its_first_id_is_used),
        TEST(a_damaged_file_says_nothing),
        TEST(threads_do_not_share_ids),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
