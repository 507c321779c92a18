/* The producers of a log by chance: appends, syncs, crashes and power losses in any order, and
 * several threads at once. What is in the log is known, nothing is in it twice. */
#include "tests/unit/chance.h"
#include "tests/unit/producer_kit.h"

#define PRODUCERS 6
#define STEPS 300

/* All that was appended and is in the log. */
struct model {
    struct model_batch {
        int64_t offset;
        int32_t sequence;
        int count;
    } batches[PRODUCERS][STEPS];
    int counts[PRODUCERS];
    int64_t synced_end;  /* of the log */
    int64_t synced_base; /* of its last segment then, */
    int64_t synced_size; /* and its bytes */
    char synced_snapshots[512];
};

static int32_t next_sequence(const struct model *model, size_t who)
{
    if (model->counts[who] == 0)
        return 0;
    const struct model_batch *last = &model->batches[who][model->counts[who] - 1];
    return last->sequence + last->count;
}

static void model_append(struct kit *kit, struct model *model)
{
    struct kq_log_appended appended;
    size_t who = chance(PRODUCERS);
    struct model_batch *batch = &model->batches[who][model->counts[who]];
    batch->sequence = next_sequence(model, who);
    batch->count = 1 + (int)chance(4);
    assert_int_equal(
        append_sized(kit, ID + (int64_t)who, 0, batch->sequence, batch->count, 20, &appended), 0);
    assert_false(appended.duplicate);
    batch->offset = appended.base_offset;
    model->counts[who]++;
}

static void model_check(struct kit *kit, const struct model *model)
{
    for (size_t who = 0; who < PRODUCERS; who++) {
        int count = model->counts[who];
        for (int i = count < KQ_PRODUCER_BATCHES ? 0 : count - KQ_PRODUCER_BATCHES; i < count; i++)
            assert_duplicate(kit, ID + (int64_t)who, model->batches[who][i].sequence,
                             model->batches[who][i].count, model->batches[who][i].offset);
        if (count > 0)
            assert_int_equal(append(kit, ID + (int64_t)who, next_sequence(model, who) + 1, 1),
                             KQ_OUT_OF_ORDER_SEQUENCE);
    }
}

static void file_of(int64_t base, const char *suffix, char ret[48])
{
    snprintf(ret, 48, "%020lld.%s", (long long)base, suffix);
}

static void model_sync(struct kit *kit, struct model *model)
{
    char name[48], before[512];
    assert_int_equal(kit_sync(kit), 0);
    model->synced_end = kit_end_offset(kit);
    model->synced_base = kq_log_active(kit->log)->base;
    file_of(model->synced_base, "log", name);
    model->synced_size = kq_log_active(kit->log)->size;
    if (chance(2))
        return;
    snprintf(before, sizeof(before), "%s", snapshots(kit));
    checkpoint(kit);
    char *list = strdup(snapshots(kit));
    for (char *at = strtok(list, " "); at; at = strtok(NULL, " ")) {
        char one[24];
        snprintf(one, sizeof(one), "%s ", at);
        if (!strstr(before, one) && strlen(model->synced_snapshots) < 480)
            strcat(model->synced_snapshots, one);
    }
    free(list);
}

/* What was not synced may be there or not. */
static void lose_power(struct kit *kit, struct model *model)
{
    char name[48], path[256];
    bool cut = chance(2);
    int64_t end = kit_end_offset(kit), last = kq_log_active(kit->log)->base;
    int64_t keep = cut ? model->synced_end : end;
    kit_crash(kit);
    for (int64_t offset = 0; offset <= end; offset++) {
        char one[24];
        snprintf(one, sizeof(one), "%d ", (int)offset);
        file_of(offset, "snapshot", name);
        if (!strstr(model->synced_snapshots, one) && chance(2))
            remove_file(kit, name);
        static const char *const kinds[] = {"log", "index", "timeindex", "textindex"};
        for (int i = 0; cut && offset > model->synced_base && i < 4; i++) {
            file_of(offset, kinds[i], name);
            remove_file(kit, name);
        }
    }
    if (cut && last >= model->synced_base) {
        file_of(model->synced_base, "log", name);
        kit_path(kit, name, path);
        if (kit_size(kit, name) > model->synced_size)
            assert_int_equal(truncate(path, model->synced_size), 0);
    }
    for (size_t who = 0; who < PRODUCERS; who++)
        while (model->counts[who] > 0 && model->batches[who][model->counts[who] - 1].offset >= keep)
            model->counts[who]--;
    kit_open(kit);
}

static void live(struct kit *kit, struct model *model, bool with_power_losses)
{
    for (int step = 0; step < STEPS; step++) {
        uint64_t what = chance(100);
        if (what < 70)
            model_append(kit, model);
        else if (what < 85)
            append_plain(kit);
        else if (what < 93)
            model_sync(kit, model);
        else if (what < 95 && !with_power_losses)
            assert_int_equal(
                kq_log_delete_before(kit->log, (int64_t)chance((uint64_t)kit_end_offset(kit) + 1)),
                0);
        else if (what < 98 && with_power_losses && chance(2))
            lose_power(kit, model);
        else if (what < 98)
            crash(kit);
        else if (!with_power_losses) {
            kit_close(kit);
            kit_open(kit);
        }
        if (what >= 95)
            model_check(kit, model);
    }
}

static void by_chance_nothing_is_forgotten(void **state)
{
    for (int round = 0; round < 24; round++) {
        struct kit kit;
        struct model model = {0};
        kit_begin_fast(&kit);
        kit.config.segment_bytes = 3000;
        kit_open(&kit);
        live(&kit, &model, round % 2);
        kit_end(&kit);
    }
}

/* --- Several at once --- */

#define BATCHES 300

struct writer {
    struct kit *kit;
    int64_t id;
    pthread_t thread;
};

/* Each batch twice, as one does whose answers are lost. */
static void *write_batches(void *context)
{
    struct writer *writer = context;
    for (int i = 0; i < BATCHES; i++) {
        struct kq_log_appended first, second;
        assert_int_equal(append_sized(writer->kit, writer->id, 0, i, 1, 50, &first), 0);
        assert_int_equal(append_sized(writer->kit, writer->id, 0, i, 1, 50, &second), 0);
        assert_false(first.duplicate);
        assert_true(second.duplicate);
        assert_int_equal(first.base_offset, second.base_offset);
    }
    return NULL;
}

static void *write_plain(void *context)
{
    struct writer *writer = context;
    for (int i = 0; i < BATCHES; i++)
        assert_int_equal(kit_append(writer->kit, 1, 50, 1000, 0, true, NULL), 0);
    return NULL;
}

struct order {
    int32_t next[3];
    int plain;
};

static void check_order(void *context, const uint8_t *bytes, const struct kq_batch_header *header)
{
    struct order *order = context;
    if (header->producer_id < 0)
        order->plain++;
    else
        assert_int_equal(header->base_sequence, order->next[header->producer_id - ID]++);
}

static void many_write_while_snapshots_are_taken(void **state)
{
    struct kit *kit = *state;
    struct writer writers[4];
    struct order order = {0};
    kit->config.segment_bytes = 20000;
    kit_open(kit);
    for (int i = 0; i < 4; i++) {
        writers[i] = (struct writer){.kit = kit, .id = ID + i};
        assert_int_equal(pthread_create(&writers[i].thread, NULL,
                                        i < 3 ? write_batches : write_plain, &writers[i]),
                         0);
    }
    int64_t next_ms;
    for (int i = 0; i < 20; i++) {
        assert_int_equal(kit_sync(kit), 0);
        assert_true(kq_log_checkpoint(kit->log) >= 0);
        assert_int_equal(kq_log_housekeep(kit->log, kq_clock_wall_ms(), &next_ms), 0);
    }
    for (int i = 0; i < 4; i++)
        pthread_join(writers[i].thread, NULL);
    assert_int_equal(kit_read_all(kit, 0, check_order, &order), 4 * BATCHES);
    assert_int_equal(order.plain, BATCHES);
    kit->checkpoint.recovery_point = kq_log_checkpoint(kit->log);
    crash(kit);
    for (int i = 0; i < 3; i++)
        assert_int_equal(append_sized(kit, ID + i, 0, BATCHES, 1, 50, NULL), 0);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, kit_setup, kit_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(by_chance_nothing_is_forgotten),
        TEST(many_write_while_snapshots_are_taken),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
