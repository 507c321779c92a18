#include "tests/unit/compact_kit.h"

#include "broker/compacttxn.h"

static int set_up(void **state)
{
    static struct ckit ckit;
    ckit_begin(&ckit);
    kit_open(&ckit.kit);
    kq_diag_set_level(LOG_EMERG);
    chance_state = 1;
    *state = &ckit;
    return 0;
}

static int take_down(void **state)
{
    kq_fault_disarm();
    ckit_end(*state);
    return 0;
}

static size_t count_files(struct ckit *ckit, const char *suffix)
{
    char path[256];
    size_t count = 0;
    kit_path(&ckit->kit, "", path);
    DIR *directory = opendir(path);
    for (struct dirent *entry; (entry = readdir(directory));) {
        const char *dot = strchr(entry->d_name, '.');
        count += dot && strcmp(dot, suffix) == 0;
    }
    closedir(directory);
    return count;
}

static void only_the_last_message_of_each_key_is_left_of_what_was_cleaned(void **state)
{
    struct ckit *ckit = *state;
    struct kq_compact_done done = {0};
    ckit_fill(ckit, 300, true);
    int64_t all = ckit_check_messages(ckit);
    assert_int_equal(all, ckit->end);
    assert_int_equal(ckit_compact(ckit, &done), 0);
    assert_true(done.text_changed);
    assert_true(done.first_dirty > ckit->end / 2);
    assert_true(done.keyless > 0);
    assert_true(ckit_check_messages(ckit) < all / 5);
    ckit_check(ckit, 1);
}

static void a_second_run_on_a_clean_log_changes_nothing(void **state)
{
    struct ckit *ckit = *state;
    struct kq_compact_done done = {0};
    struct kq_compact_state look;
    ckit_fill(ckit, 200, false);
    assert_int_equal(ckit_compact(ckit, &done), 0);
    assert_int_equal(
        kq_log_compact_look(ckit->kit.log, &ckit_config, ckit->first_dirty, ckit->now_ms, &look),
        0);
    assert_false(look.due);
    assert_int_equal(look.dirty_bytes, 0);
    assert_int_equal(ckit_compact(ckit, &done), 0);
    assert_false(done.text_changed);
    assert_int_equal(done.bytes_read, 0);
}

static void small_segments_are_put_together(void **state)
{
    struct ckit *ckit = *state;
    ckit_fill(ckit, 300, false);
    assert_int_equal(ckit_compact(ckit, NULL), 0);
    size_t before = count_files(ckit, ".log");
    ckit_fill(ckit, 30, false);
    assert_int_equal(ckit_compact(ckit, NULL), 0); /* they are small only since the first run */
    size_t after = count_files(ckit, ".log");
    assert_true(before > 10 && after < before / 2);
    assert_true(count_files(ckit, ".index") >= after - 1); /* the active one may have none yet */
    assert_true(count_files(ckit, ".index") <= after);
    assert_int_equal(count_files(ckit, ".cleaned") + count_files(ckit, ".swap"), 0);
    ckit_check(ckit, 3);
}

static void text_positions_outlive_stops_and_crashes(void **state)
{
    struct ckit *ckit = *state;
    for (int round = 0; round < 4; round++) {
        ckit_fill(ckit, 60, false);
        assert_int_equal(ckit_compact(ckit, NULL), 0);
        ckit_check(ckit, 2);
        if (round % 2) {
            kit_crash(&ckit->kit);
            ckit->kit.checkpoint.recovery_point = 0;
        } else {
            kit_close(&ckit->kit);
        }
        kit_open(&ckit->kit);
        ckit_check(ckit, 1);
    }
}

static void tombstones_stay_for_their_time_and_then_go(void **state)
{
    struct ckit *ckit = *state;
    int64_t tombstones = 0, left = 0;
    ckit_fill(ckit, 200, false);
    assert_int_equal(ckit_compact(ckit, NULL), 0);
    ckit_check_messages(ckit);
    for (int64_t offset = 0; offset < ckit->first_dirty; offset++)
        tombstones += ckit->at[offset].there && ckit->at[offset].value_length < 0;
    assert_true(tombstones > 0);
    ckit->now_ms += 60001;
    ckit_fill(ckit, 60, false);
    int64_t before = ckit->first_dirty;
    assert_int_equal(ckit_compact(ckit, NULL), 0);
    ckit_check(ckit, 1);
    for (int64_t offset = 0; offset < before; offset++)
        left += ckit->at[offset].there && ckit->at[offset].value_length < 0;
    assert_int_equal(left, 0);
}

static void a_small_map_takes_several_runs(void **state)
{
    struct ckit *ckit = *state;
    int64_t last;
    int runs = 0;
    ckit->map_bytes = 12 * 24;
    ckit_fill(ckit, 200, false);
    do {
        last = ckit->first_dirty;
        assert_int_equal(ckit_compact(ckit, NULL), 0);
        ckit_check(ckit, 13);
    } while (ckit->first_dirty != last && ++runs < 10000);
    assert_true(runs > 10 && runs < 10000);
    assert_true(ckit->first_dirty > ckit->end / 2);
}

static void a_run_that_is_stopped_leaves_what_is_as_good(void **state)
{
    struct ckit *ckit = *state;
    int r = -ECANCELED;
    ckit_fill(ckit, 100, true);
    for (long stop_at = 1; r == -ECANCELED; stop_at += 7) {
        ckit->paces = 0;
        ckit->stop_at = stop_at;
        r = ckit_compact(ckit, NULL);
        assert_true(r == 0 || r == -ECANCELED);
        assert_int_equal(count_files(ckit, ".cleaned") + count_files(ckit, ".log.cleaned"), 0);
        if (r == 0)
            ckit->stop_at = 0;
        ckit_check_messages(ckit);
        ckit_check_text(ckit, 11);
    }
    ckit_check(ckit, 1);
}

static void a_reader_of_an_old_segment_goes_on_with_its_bytes(void **state)
{
    struct ckit *ckit = *state;
    struct kq_extent extent, next;
    ckit_fill(ckit, 200, false);
    assert_int_equal(kq_log_read(ckit->kit.log, 0, UINT32_MAX, false, true, &extent), 0);
    uint8_t *before = malloc(extent.length), *after = malloc(extent.length);
    assert_int_equal(pread(extent.fd, before, extent.length, extent.position), extent.length);
    int64_t behind = extent.next_offset;
    assert_int_equal(ckit_compact(ckit, NULL), 0);
    assert_int_equal(pread(extent.fd, after, extent.length, extent.position), extent.length);
    assert_memory_equal(before, after, extent.length);
    assert_int_equal(kq_log_read_next(ckit->kit.log, &extent, UINT32_MAX, &next), 0);
    assert_true(next.base_offset >= behind || next.next_offset > behind);
    kq_extent_unref(&extent);
    kq_extent_unref(&next);
    free(before);
    free(after);
}

static void the_lags_hold_it_back_and_ask_for_it(void **state)
{
    struct ckit *ckit = *state;
    struct kq_compact_state look;
    struct kq_compact_config config = ckit_config;
    ckit_fill(ckit, 100, false);
    config.min_lag_ms = 5000;
    config.min_dirty_ratio = 0.5;
    assert_int_equal(kq_log_compact_look(ckit->kit.log, &config, -1, ckit->now_ms, &look), 0);
    assert_false(look.due);
    assert_int_equal(look.until, 0);
    assert_true(look.next_ms > ckit->now_ms && look.next_ms <= ckit->now_ms + 6000);
    assert_int_equal(kq_log_compact_look(ckit->kit.log, &config, -1, look.next_ms, &look), 0);
    assert_true(look.due && look.until > 0);
    config.min_lag_ms = 0;
    config.min_dirty_ratio = 1;
    config.max_lag_ms = 7000;
    assert_int_equal(kq_log_compact_look(ckit->kit.log, &config, -1, ckit->now_ms, &look), 0);
    assert_false(look.due);
    assert_true(look.next_ms > ckit->now_ms + 6000);
    assert_int_equal(kq_log_compact_look(ckit->kit.log, &config, -1, look.next_ms, &look), 0);
    assert_true(look.due && look.overdue);
}

static void a_damaged_batch_is_not_copied(void **state)
{
    struct ckit *ckit = *state;
    char path[256];
    ckit_fill(ckit, 200, false);
    kit_close(&ckit->kit);
    kit_path(&ckit->kit, "00000000000000000000.log", path);
    int fd = open(path, O_RDWR);
    assert_int_equal(pwrite(fd, "\x7f", 1, 1000), 1);
    close(fd);
    kit_open(&ckit->kit);
    assert_int_equal(ckit_compact(ckit, NULL), -EBADMSG);
    assert_int_equal(count_files(ckit, ".textholes"), 0);
}

static void retention_and_compaction_go_together(void **state)
{
    struct ckit *ckit = *state;
    struct kq_log_text_bounds bounds, after;
    int64_t text;
    for (int round = 0; round < 6; round++) {
        ckit_fill(ckit, 60, false);
        assert_int_equal(ckit_compact(ckit, NULL), 0);
        assert_int_equal(kq_log_text_bounds(ckit->kit.log, true, &bounds), 0);
        struct kq_log_bounds now;
        kq_log_bounds(ckit->kit.log, &now);
        int64_t start = now.start + (ckit->end - now.start) / 3;
        assert_int_equal(kq_log_delete_before(ckit->kit.log, start), 0);
        /* What is left keeps its place, packed and not. */
        assert_int_equal(kq_log_text_bounds(ckit->kit.log, true, &after), 0);
        assert_int_equal(after.end, ckit->text_end);
        assert_int_equal(after.layout, bounds.layout);
        assert_int_equal(after.removed, bounds.removed);
        struct ckit_reading reading = {.ckit = ckit, .next = 0};
        for (int64_t offset = 0; offset < ckit->end; offset++)
            ckit->at[offset].there = false;
        assert_true(kit_read_all(&ckit->kit, start, ckit_see, &reading) >= 0);
        for (int64_t offset = start; offset < ckit->end; offset++) {
            if (!ckit->at[offset].there)
                continue;
            assert_int_equal(kq_log_text_of_offset(ckit->kit.log, offset, true, &text), 0);
            assert_int_equal(text, ckit->at[offset].text);
        }
        if (round == 3) {
            kit_close(&ckit->kit);
            kit_open(&ckit->kit);
        }
    }
}

/* --- Producers and transactions --- */

struct batches {
    struct kq_batch_header header[64];
    int count;
};

static void collect(void *context, const uint8_t *bytes, const struct kq_batch_header *header)
{
    struct batches *batches = context;
    if (batches->count < 64)
        batches->header[batches->count++] = *header;
}

static struct batches first_batches(struct ckit *ckit)
{
    struct batches batches = {.count = 0};
    assert_true(kit_read_all(&ckit->kit, 0, collect, &batches) >= 0);
    return batches;
}

/* One message `k = v`, or the marker of an aborted transaction where KEY is NULL. */
static void build(struct kq_buf *out, const char *key, int64_t offset, int64_t producer,
                  int32_t sequence, int16_t attributes)
{
    static const uint8_t abort_key[4], abort_value[6];
    struct kq_batch_builder builder;
    struct kq_batch_header header;
    size_t start = out->length;
    assert_int_equal(kq_batch_begin(&builder, out, 0), 0);
    assert_int_equal(kq_batch_add(&builder, 1000000, key ? key : (const char *)abort_key,
                                  key ? (int32_t)strlen(key) : 4,
                                  key ? "v" : (const char *)abort_value, key ? 1 : 6, NULL, 0, 0),
                     0);
    kq_batch_finish(&builder);
    assert_int_equal(kq_batch_header_read(out->data + start, out->length - start, &header), 0);
    header.base_offset = offset;
    header.attributes = attributes;
    header.producer_id = producer;
    header.producer_epoch = 0;
    header.base_sequence = sequence;
    kq_batch_header_write(out->data + start, &header);
}

static void append_built(struct ckit *ckit, struct kq_buf *batch)
{
    struct kq_log_appended appended;
    struct kq_log_append append = {
        .bytes = batch->data, .length = batch->length, .text_length = -1};
    assert_int_equal(kq_log_append(ckit->kit.log, &append, &appended), 0);
    batch->length = 0;
}

/* Seals what was appended so far, and supersedes keys a and b. */
static void append_filler(struct ckit *ckit)
{
    kq_autobuf struct kq_buf batch = {0};
    for (int i = 0; i < 100; i++) {
        char key[8];
        snprintf(key, sizeof(key), i < 2 ? "%c" : "f%c", i < 2 ? 'a' + i : 'a' + i % 20);
        build(&batch, key, 0, -1, -1, 0);
        append_built(ckit, &batch);
    }
}

static void the_last_batch_of_a_producer_is_known_although_its_messages_are_gone(void **state)
{
    struct ckit *ckit = *state;
    kq_autobuf struct kq_buf batch = {0};
    build(&batch, "a", 0, 7, 0, 0);
    append_built(ckit, &batch);
    build(&batch, "b", 0, 7, 1, 0);
    append_built(ckit, &batch);
    append_filler(ckit);
    assert_int_equal(ckit_compact(ckit, NULL), 0);
    struct batches batches = first_batches(ckit);
    assert_int_equal(batches.header[0].base_offset, 1); /* the first one went altogether */
    assert_int_equal(batches.header[0].producer_id, 7);
    assert_int_equal(batches.header[0].base_sequence, 1);
    assert_int_equal(batches.header[0].record_count, 0);
    assert_int_not_equal(batches.header[1].producer_id, 7);
}

static void write_log(struct ckit *ckit, const struct kq_buf *bytes)
{
    char path[256];
    kit_close(&ckit->kit);
    kit_path(&ckit->kit, "00000000000000000000.log", path);
    int fd = open(path, O_WRONLY | O_TRUNC);
    assert_int_equal(write(fd, bytes->data, bytes->length), bytes->length);
    close(fd);
    ckit->kit.checkpoint = (struct kq_log_checkpoint){.log_start = -1};
    kit_open(&ckit->kit);
}

static void aborted_messages_go_and_their_markers_after_them(void **state)
{
    struct ckit *ckit = *state;
    kq_autobuf struct kq_buf log = {0};
    const int16_t transactional = KQ_ATTRIBUTE_TRANSACTIONAL;
    const int16_t marker = transactional | KQ_ATTRIBUTE_CONTROL;
    build(&log, "a", 0, 9, 0, transactional);
    build(&log, "c", 1, -1, -1, 0);
    build(&log, NULL, 2, 9, -1, marker);
    build(&log, "d", 3, 9, 1, 0); /* by this its producer is known, not by the first */
    write_log(ckit, &log);
    assert_int_equal(kit_size(&ckit->kit, "00000000000000000000.txnindex"), KQ_ABORTED_ENTRY);
    append_filler(ckit);
    assert_int_equal(ckit_compact(ckit, NULL), 0);
    struct batches batches = first_batches(ckit);
    assert_int_equal(batches.header[0].base_offset, 1);
    assert_int_equal(batches.header[1].base_offset, 2); /* its message was there until now */
    assert_int_equal(batches.header[1].attributes, marker);
    assert_int_equal(kit_size(&ckit->kit, "00000000000000000000.txnindex"), KQ_ABORTED_ENTRY);
    append_filler(ckit);
    assert_int_equal(ckit_compact(ckit, NULL), 0);
    batches = first_batches(ckit);
    assert_int_equal(batches.header[1].base_offset, 2);
    assert_int_equal(batches.header[1].attributes, marker | KQ_ATTRIBUTE_DELETE_HORIZON);
    assert_int_equal(kit_size(&ckit->kit, "00000000000000000000.txnindex"), 0);
    ckit->now_ms += 60001;
    append_filler(ckit);
    assert_int_equal(ckit_compact(ckit, NULL), 0);
    batches = first_batches(ckit);
    assert_int_equal(batches.header[0].base_offset, 1);
    assert_int_equal(batches.header[1].base_offset, 3);
    kit_close(&ckit->kit);
    kit_open(&ckit->kit);
    assert_int_equal(first_batches(ckit).header[1].base_offset, 3);
}

/* Appends, tombstones, runs, stops and crashes by chance. */
static void whatever_happens_the_last_value_of_each_key_is_there(void **state)
{
    struct ckit *ckit = *state;
    for (int step = 0; step < 120 && ckit->end < CKIT_MESSAGES - 1000; step++) {
        switch (chance(8)) {
        case 0:
            ckit->map_bytes = (size_t)chance(60) * 24;
            ckit->now_ms += (int64_t)chance(90000);
            assert_int_equal(ckit_compact(ckit, NULL), 0);
            break;
        case 1:
            ckit->paces = 0;
            ckit->stop_at = 1 + (long)chance(200);
            ckit_compact(ckit, NULL);
            ckit->stop_at = 0;
            break;
        case 2:
            kit_close(&ckit->kit);
            kit_open(&ckit->kit);
            break;
        case 3:
            kit_crash(&ckit->kit);
            ckit->kit.checkpoint.recovery_point = 0;
            kit_open(&ckit->kit);
            break;
        default:
            ckit_fill(ckit, 1 + (int)chance(30), false);
        }
        ckit_check_messages(ckit);
        ckit_check_text(ckit, 17);
    }
    ckit->map_bytes = 1 << 20;
    assert_int_equal(ckit_compact(ckit, NULL), 0);
    ckit_check(ckit, 1);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, take_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(only_the_last_message_of_each_key_is_left_of_what_was_cleaned),
        TEST(a_second_run_on_a_clean_log_changes_nothing),
        TEST(small_segments_are_put_together),
        TEST(text_positions_outlive_stops_and_crashes),
        TEST(tombstones_stay_for_their_time_and_then_go),
        TEST(a_small_map_takes_several_runs),
        TEST(a_run_that_is_stopped_leaves_what_is_as_good),
        TEST(a_reader_of_an_old_segment_goes_on_with_its_bytes),
        TEST(the_lags_hold_it_back_and_ask_for_it),
        TEST(a_damaged_batch_is_not_copied),
        TEST(retention_and_compaction_go_together),
        TEST(the_last_batch_of_a_producer_is_known_although_its_messages_are_gone),
        TEST(aborted_messages_go_and_their_markers_after_them),
        TEST(whatever_happens_the_last_value_of_each_key_is_there),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
