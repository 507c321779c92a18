/* A run of compaction in which the Nth operation of each kind fails, for every N until none is
 * left, once or from there on for good, which is a crash at that point: no last value of a key is
 * lost, offsets and text positions are as they were, in the running log and in one opened anew. */
#include "tests/unit/compact_kit.h"

#define ALL_IO                                                                                     \
    (KQ_FAULT_OPEN | KQ_FAULT_READ | KQ_FAULT_WRITE | KQ_FAULT_SYNC | KQ_FAULT_RENAME |            \
     KQ_FAULT_TRUNCATE | KQ_FAULT_ALLOCATE)

/* A log that has been compacted once, and has more to do. */
static void prepare(struct ckit *ckit)
{
    chance_state = 7;
    ckit_begin(ckit);
    kit_open(&ckit->kit);
    kq_diag_set_level(LOG_EMERG);
    ckit_fill(ckit, 24, true);
    assert_int_equal(ckit_compact(ckit, NULL), 0);
    ckit_fill(ckit, 24, true);
    assert_int_equal(kit_sync(&ckit->kit), 0);
    ckit_check_messages(ckit);
}

static void check(struct ckit *ckit)
{
    ckit_check_messages(ckit);
    ckit_check_text(ckit, 1);
}

/* After a start nothing is left over. */
static void check_files(struct ckit *ckit)
{
    char path[256];
    kit_path(&ckit->kit, "", path);
    DIR *directory = opendir(path);
    for (struct dirent *entry; (entry = readdir(directory));)
        assert_true(!strstr(entry->d_name, ".swap") && !strstr(entry->d_name, ".cleaned"));
    closedir(directory);
}

/* Returns false when no operation was left to fail. */
static bool fail_nth(unsigned kinds, long nth, int error, bool sticky)
{
    struct ckit ckit;
    prepare(&ckit);
    kq_fault_arm(kinds, nth, error, sticky);
    int r = ckit_compact(&ckit, NULL);
    bool delivered = kq_fault_disarm();
    /* Closing a descriptor and making up for what is only a hint may fail unnoticed. */
    assert_true(r == 0 || delivered);
    check(&ckit);
    kit_crash(&ckit.kit);
    ckit.kit.checkpoint.recovery_point = nth % 2 ? 0 : ckit.end;
    kit_open(&ckit.kit);
    check_files(&ckit);
    check(&ckit);
    assert_int_equal(ckit_compact(&ckit, NULL), 0);
    check(&ckit);
    ckit_check_clean(&ckit);
    kit_close(&ckit.kit);
    kit_open(&ckit.kit);
    check(&ckit);
    ckit_end(&ckit);
    return delivered;
}

static void fail_each(unsigned kinds, int error, bool sticky)
{
    long nth = 1;
    while (fail_nth(kinds, nth, error, sticky))
        nth++;
    assert_true(nth > 1);
}

static void each_open_may_fail(void **state)
{
    fail_each(KQ_FAULT_OPEN, EMFILE, false);
}

static void each_read_may_fail(void **state)
{
    fail_each(KQ_FAULT_READ, EIO, false);
}

static void each_write_may_fail(void **state)
{
    fail_each(KQ_FAULT_WRITE, ENOSPC, false);
}

static void each_sync_may_fail(void **state)
{
    fail_each(KQ_FAULT_SYNC, EIO, false);
}

static void each_rename_and_unlink_may_fail(void **state)
{
    fail_each(KQ_FAULT_RENAME, EIO, false);
}

static void each_allocation_may_fail(void **state)
{
    fail_each(KQ_FAULT_MEMORY, ENOMEM, false);
}

static void it_may_crash_at_any_operation(void **state)
{
    fail_each(ALL_IO, EIO, true);
}

static void it_may_crash_again_while_the_next_start_finishes(void **state)
{
    bool delivered = true;
    /* Stop where the replacement is decided and nothing of it is done: the names are there. */
    for (long nth = 1; delivered; nth++) {
        struct ckit ckit;
        prepare(&ckit);
        kq_fault_arm(KQ_FAULT_RENAME, nth, EIO, true);
        ckit_compact(&ckit, NULL);
        delivered = kq_fault_disarm();
        bool again = true;
        for (long second = 1; again; second++) {
            kit_crash(&ckit.kit);
            ckit.kit.checkpoint.recovery_point = ckit.end;
            kq_fault_arm(KQ_FAULT_RENAME, second, EIO, true);
            int r = kit_try_open(&ckit.kit);
            again = kq_fault_disarm();
            assert_true(r == 0 || again);
            if (r < 0)
                kit_open(&ckit.kit);
            check(&ckit);
        }
        ckit_end(&ckit);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_open_may_fail),
        cmocka_unit_test(each_read_may_fail),
        cmocka_unit_test(each_write_may_fail),
        cmocka_unit_test(each_sync_may_fail),
        cmocka_unit_test(each_rename_and_unlink_may_fail),
        cmocka_unit_test(each_allocation_may_fail),
        cmocka_unit_test(it_may_crash_at_any_operation),
        cmocka_unit_test(it_may_crash_again_while_the_next_start_finishes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
