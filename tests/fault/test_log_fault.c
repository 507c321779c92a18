/* The Nth operation of each kind fails, for every N until none is left: what was acknowledged stays
 * readable, before and after the log is opened anew; what was refused is not there, or whole. */
#include "tests/unit/log_kit.h"

#include "broker/file.h"

#define BATCHES 60
#define FIRST_SERIAL 1000

/* What the log must hold: the serial of each acknowledged batch by its base offset. */
struct model {
    int serial_at[BATCHES * 4 + 64]; /* by offset; 0: no acknowledged batch begins there */
    int64_t end;
    int64_t text; /* bytes of text of all acknowledged batches */
    int next_serial;
};

static void append_one(struct kit *kit, struct model *model)
{
    struct kq_log_appended appended;
    int serial = model->next_serial++;
    int count = 1 + serial % 3;
    size_t length = 200 + (size_t)serial % 100;
    int r = kit_append(kit, count, length, 1000 + serial, serial, serial % 7 != 0, &appended);
    if (r < 0)
        return;
    assert_true(appended.base_offset >= model->end);
    model->serial_at[appended.base_offset] = serial;
    model->end = appended.next_offset;
    model->text += count * (int64_t)(length + 1);
}

struct check {
    struct model *model;
    int64_t expected; /* the least offset that may come */
};

static void check_batch(void *context, const uint8_t *bytes, const struct kq_batch_header *header)
{
    struct check *check = context;
    struct model *model = check->model;
    assert_true(header->base_offset < model->end);
    for (int64_t o = check->expected; o < header->base_offset; o++)
        assert_int_equal(model->serial_at[o], 0);
    assert_int_equal(model->serial_at[header->base_offset], kit_serial(bytes, header));
    check->expected = kq_batch_next_offset(header);
}

static void check_log(struct kit *kit, struct model *model)
{
    struct kq_log_bounds bounds;
    struct kq_log_text_bounds text;
    struct check check = {.model = model};
    kq_log_bounds(kit->log, &bounds);
    check.expected = bounds.start;
    assert_int_equal(bounds.end, model->end);
    assert_true(kit_read_all(kit, bounds.start, check_batch, &check) >= 0);
    assert_int_equal(check.expected, model->end);
    assert_int_equal(kq_log_text_bounds(kit->log, true, &text), 0);
    assert_true(text.start <= text.end);
    assert_int_equal(text.end, model->text);
    for (int64_t o = bounds.start; o < bounds.end; o++) {
        struct kq_extent extent;
        assert_int_equal(kq_log_read(kit->log, o, 1, true, true, &extent), 0);
        assert_true(extent.base_offset <= o && extent.text >= 0 && extent.text < text.end);
        kq_extent_unref(&extent);
    }
}

/* --- Scenarios: each op may fail --- */

static void do_appends(struct kit *kit, struct model *model)
{
    for (int i = 0; i < 8; i++)
        append_one(kit, model);
}

static void do_rolls(struct kit *kit, struct model *model)
{
    for (int i = 0; i < 24; i++)
        append_one(kit, model);
}

static void do_syncs(struct kit *kit, struct model *model)
{
    for (int i = 0; i < 3; i++) {
        append_one(kit, model);
        kit_sync(kit);
        append_one(kit, model);
    }
}

static void do_retention(struct kit *kit, struct model *model)
{
    int64_t next_ms;
    do_rolls(kit, model);
    kq_log_delete_before(kit->log, model->end / 2);
    kit->config.retention_bytes = 1500;
    kq_log_set_config(kit->log, &kit->config);
    kq_log_housekeep(kit->log, kq_clock_wall_ms(), &next_ms);
    append_one(kit, model);
}

static void do_delete_all(struct kit *kit, struct model *model)
{
    do_appends(kit, model);
    kq_log_delete_before(kit->log, model->end);
    append_one(kit, model);
}

static void do_reserve(struct kit *kit, struct model *model)
{
    bool reserved = kq_log_reserve(kit->log, 5000) == 0;
    do_appends(kit, model);
    if (reserved)
        kq_log_reserve(kit->log, -5000);
    append_one(kit, model);
}

static void do_trim(struct kit *kit, struct model *model)
{
    do_rolls(kit, model);
    kit_sync(kit);
    for (int i = 0; i < 3; i++)
        kq_log_trim(kit->log);
    append_one(kit, model);
}

static void do_reads(struct kit *kit, struct model *model)
{
    struct kq_extent extent;
    struct kq_log_text_bounds text;
    struct kq_log_range range;
    int64_t offset, timestamp;
    for (int i = 0; i < 3; i++)
        kq_log_trim(kit->log);
    for (int64_t o = 0; o < model->end; o += 5) {
        if (kq_log_read(kit->log, o, 1000, o % 2, true, &extent) == 0)
            kq_extent_unref(&extent);
        if (kq_log_read_text(kit->log, o * 100, 1000, true, &extent) == 0)
            kq_extent_unref(&extent);
        kq_log_find_time(kit->log, 1000 + o, true, &offset, &timestamp);
    }
    kq_log_text_bounds(kit->log, true, &text);
    kq_log_next_range(kit->log, 0, true, &range);
    append_one(kit, model);
}

typedef void scenario(struct kit *kit, struct model *model);

/* --- The rounds --- */

static void prepare(struct kit *kit, struct model *model)
{
    kit_begin_fast(kit);
    *model = (struct model){.next_serial = FIRST_SERIAL};
    kit->config.segment_bytes = 2000;
    kit->config.index_interval_bytes = 300;
    kit_open(kit);
    for (int i = 0; i < 10; i++)
        append_one(kit, model);
}

/* Returns whether the fault came. */
static bool run_round(scenario *work, unsigned kinds, long nth, int error, bool sticky)
{
    struct kit kit;
    struct model model;
    struct kq_log_bounds bounds;
    prepare(&kit, &model);
    kq_fault_arm(kinds, nth, error, sticky);
    work(&kit, &model);
    bool delivered = kq_fault_disarm();
    check_log(&kit, &model);
    kq_log_bounds(kit.log, &bounds);
    kit.checkpoint.recovery_point = bounds.recovery_point;
    kit.checkpoint.log_start = bounds.start;
    kit_crash(&kit);
    kit_open(&kit);
    check_log(&kit, &model);
    append_one(&kit, &model);
    kit_close(&kit);
    kit_open(&kit);
    check_log(&kit, &model);
    kit_end(&kit);
    return delivered;
}

static const struct {
    unsigned kinds;
    int error;
} faults[] = {
    {KQ_FAULT_OPEN, EMFILE},  {KQ_FAULT_READ, EIO},        {KQ_FAULT_WRITE, ENOSPC},
    {KQ_FAULT_WRITE, EIO},    {KQ_FAULT_SYNC, EIO},        {KQ_FAULT_RENAME, EIO},
    {KQ_FAULT_TRUNCATE, EIO}, {KQ_FAULT_ALLOCATE, ENOSPC}, {KQ_FAULT_MEMORY, ENOMEM},
};

static void run_all(scenario *work)
{
    for (size_t f = 0; f < kq_array_size(faults); f++) {
        for (int sticky = 0; sticky < 2; sticky++) {
            long n = 1;
            while (run_round(work, faults[f].kinds, n, faults[f].error, sticky))
                n++;
        }
    }
}

#define SCENARIO(name)                                                                             \
    static void whatever_fails_in_##name##_nothing_acknowledged_is_lost(void **state)              \
    {                                                                                              \
        run_all(do_##name);                                                                        \
    }
SCENARIO(appends)
SCENARIO(rolls)
SCENARIO(syncs)
SCENARIO(retention)
SCENARIO(delete_all)
SCENARIO(reserve)
SCENARIO(trim)
SCENARIO(reads)

/* --- Recovery --- */

static void damage_nothing(struct kit *kit)
{
}

static void tear_the_tail(struct kit *kit)
{
    char path[256];
    kit_path(kit, "00000000000000000000.log", path);
    int fd = open(path, O_WRONLY | O_APPEND);
    assert_int_equal(write(fd, "torn", 4), 4);
    close(fd);
}

static void lose_the_indexes(struct kit *kit)
{
    char path[256];
    kit_path(kit, "00000000000000000000.index", path);
    unlink(path);
    kit_path(kit, "00000000000000000000.textindex", path);
    unlink(path);
}

static bool recovery_round(void (*damage)(struct kit *), bool one_segment, unsigned kinds, long nth,
                           int error, bool sticky)
{
    struct kit kit;
    struct model model = {.next_serial = FIRST_SERIAL};
    kit_begin_fast(&kit);
    kit.config.segment_bytes = one_segment ? 1 << 30 : 2000;
    kit.config.index_interval_bytes = 300;
    kit_open(&kit);
    for (int i = 0; i < 40; i++)
        append_one(&kit, &model);
    kit_crash(&kit);
    damage(&kit);
    kq_fault_arm(kinds, nth, error, sticky);
    int r = kit_try_open(&kit);
    bool delivered = kq_fault_disarm();
    if (r < 0) {
        kit.log = NULL;
        kit_open(&kit);
    }
    check_log(&kit, &model);
    kit_crash(&kit);
    kit_open(&kit);
    check_log(&kit, &model);
    kit_end(&kit);
    return delivered;
}

static void whatever_fails_in_recovery_the_next_opening_has_all(void **state)
{
    static void (*const damages[])(struct kit *) = {damage_nothing, tear_the_tail,
                                                    lose_the_indexes};
    for (size_t d = 0; d < kq_array_size(damages); d++) {
        for (size_t f = 0; f < kq_array_size(faults); f++) {
            for (int way = 0; way < 4; way++) {
                if (damages[d] == tear_the_tail && !(way & 1))
                    continue; /* the torn file must be the last one */
                long n = 1;
                while (recovery_round(damages[d], way & 1, faults[f].kinds, n, faults[f].error,
                                      way & 2))
                    n++;
            }
        }
    }
}

static int quiet(void **state)
{
    kq_diag_set_level(LOG_EMERG);
    return 0;
}

#define TEST(name) cmocka_unit_test(whatever_fails_in_##name##_nothing_acknowledged_is_lost)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(appends),
        TEST(rolls),
        TEST(syncs),
        TEST(retention),
        TEST(delete_all),
        TEST(reserve),
        TEST(trim),
        TEST(reads),
        cmocka_unit_test(whatever_fails_in_recovery_the_next_opening_has_all),
    };
    return cmocka_run_group_tests(tests, quiet, NULL);
}
