/* Transactions of logs that Kafka wrote (kafkalogs/): what was aborted, what is not decided, and
 * that neither has text. */
#include "tests/unit/log_kit.h"

#include "broker/compacttxn.h"
#include "broker/log_internal.h"

static const char *recorded_path;

/* --- The logs --- */

static int nibble(char c)
{
    return c <= '9' ? c - '0' : c - 'a' + 10;
}

static void write_recorded(int dirfd, const char *name, const char *hex)
{
    int fd = openat(dirfd, name, O_WRONLY | O_CREAT | O_EXCL, 0600);
    assert_true(fd >= 0);
    for (; *hex && *hex != '\n'; hex += 2) {
        uint8_t byte = (uint8_t)(nibble(hex[0]) << 4 | nibble(hex[1]));
        assert_int_equal(write(fd, &byte, 1), 1);
    }
    close(fd);
}

/* The recorded log NAME as the test's. */
static void take_recorded(struct kit *kit, const char *name)
{
    FILE *file = fopen(recorded_path, "r");
    char *line = NULL;
    size_t room = 0;
    assert_non_null(file);
    assert_int_equal(mkdirat(kit->shared.dirfd, KIT_LOG, 0700), 0);
    int dirfd = openat(kit->shared.dirfd, KIT_LOG, O_RDONLY | O_DIRECTORY);
    while (getline(&line, &room, file) > 0) {
        const char *hex = strchr(line, ' '); /* an empty file has none */
        line[strcspn(line, " \n")] = '\0';
        if (strncmp(line, name, strlen(name)) == 0)
            write_recorded(dirfd, strchr(line, '/') + 1, hex ? hex + 1 : "");
    }
    close(dirfd);
    free(line);
    fclose(file);
    kit->checkpoint.clean = true;
}

static void remove_file(struct kit *kit, const char *name)
{
    char path[256];
    kit_path(kit, name, path);
    assert_int_equal(unlink(path), 0);
}

static void remove_snapshots(struct kit *kit)
{
    static const char *const names[] = {"00000000000000000009.snapshot",
                                        "00000000000000000018.snapshot",
                                        "00000000000000000021.snapshot"};
    for (size_t i = 0; i < kq_array_size(names); i++)
        remove_file(kit, names[i]);
}

static void overwrite(struct kit *kit, const char *name, const void *bytes, size_t length)
{
    char path[256];
    kit_path(kit, name, path);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    assert_int_equal(write(fd, bytes, length), length);
    close(fd);
}

/* --- What is expected --- */

/* "PID:FIRST-LAST " for each that overlaps. */
static const char *aborted(struct kit *kit, int64_t from, int64_t to)
{
    static char list[256];
    kq_autobuf struct kq_buf found = {0};
    size_t length = 0;
    list[0] = '\0';
    assert_int_equal(kq_aborted_find(kit->log, from, to, true, &found), 0);
    const struct kq_compact_aborted *at = (const void *)found.data;
    for (size_t i = 0; i < found.length / sizeof(*at); i++)
        length += (size_t)snprintf(list + length, sizeof(list) - length, "%d:%d-%d ",
                                   (int)at[i].producer_id, (int)at[i].first_offset,
                                   (int)at[i].last_offset);
    return list;
}

static void assert_aborted(struct kit *kit)
{
    assert_string_equal(aborted(kit, 0, 21), "1:4-5 2:6-17 ");
    assert_string_equal(aborted(kit, 0, 4), "");
    assert_string_equal(aborted(kit, 0, 5), "1:4-5 ");
    assert_string_equal(aborted(kit, 5, 6), "1:4-5 ");
    assert_string_equal(aborted(kit, 6, 7), "2:6-17 ");
    assert_string_equal(aborted(kit, 17, 18), "2:6-17 ");
    assert_string_equal(aborted(kit, 18, 1000), "");
}

/* All of the text, through batches that hold it. */
static const char *text(struct kit *kit)
{
    static char all[1024];
    kq_autobuf struct kq_buf scratch = {0};
    struct kq_log_text_bounds bounds;
    struct kq_extent extent;
    size_t length = 0;
    assert_int_equal(kq_log_text_bounds(kit->log, true, &bounds), 0);
    all[0] = '\0';
    for (int64_t at = bounds.start; at < bounds.end;) {
        struct kq_batch_header header;
        uint8_t bytes[1000];
        int64_t batch_length;
        assert_int_equal(kq_log_read_text(kit->log, at, 1, true, &extent), 0);
        assert_int_equal(extent.text, at);
        assert_int_equal(pread(extent.fd, bytes, extent.length, extent.position), extent.length);
        assert_int_equal(kq_batch_header_read(bytes, extent.length, &header), 0);
        assert_int_equal(kq_log_measure(kit->log, bytes, &header, header.base_offset, INT64_MAX,
                                        &scratch, &batch_length),
                         0);
        struct kq_record_reader reader;
        struct kq_record record;
        assert_int_equal(kq_record_reader_open(&reader, bytes, &header, 1000, &scratch), 0);
        assert_int_equal(kq_record_next(&reader, &record), 0);
        length += (size_t)snprintf(all + length, sizeof(all) - length, "%.*s\n",
                                   record.value_length, (const char *)record.value);
        assert_int_equal(batch_length, record.value_length + 1);
        at += batch_length;
        kq_extent_unref(&extent);
    }
    assert_int_equal(kq_log_read_text(kit->log, bounds.end, 1, true, &extent), KQ_END);
    return all;
}

#define COMMITTED                                                                                  \
    "plain 1\ncommitted 1\ncommitted 2\nplain 2\ncommitted 3\nplain 3\nplain 4\ncommitted 4\n"

/* --- Reading --- */

static void what_kafka_lists_as_aborted_is_known(void **state)
{
    struct kit *kit = *state;
    take_recorded(kit, "txns");
    kit_open(kit);
    assert_aborted(kit);
}

static void files_are_read_by_those_only_who_may_wait(void **state)
{
    struct kit *kit = *state;
    kq_autobuf struct kq_buf found = {0};
    take_recorded(kit, "txns");
    kit_open(kit);
    assert_int_equal(kq_aborted_find(kit->log, 0, 21, false, &found), KQ_WOULD_BLOCK);
    assert_int_equal(kq_aborted_find(kit->log, 0, 21, true, &found), 0);
    found.length = 0;
    assert_int_equal(kq_aborted_find(kit->log, 0, 21, false, &found), 0);
    assert_int_equal(found.length, 2 * sizeof(struct kq_compact_aborted));
}

static void only_a_producers_own_batches_are_aborted(void **state)
{
    struct kit *kit = *state;
    static const struct {
        int64_t producer, offset;
        bool aborted;
    } cases[] = {{1, 1, false}, {1, 2, false}, {1, 4, true},  {2, 6, true},
                 {1, 8, false}, {2, 9, true},  {2, 14, true}, {2, 19, false},
                 {2, 4, false}, {1, 6, false}, {2, 17, true}};
    take_recorded(kit, "txns");
    kit_open(kit);
    for (size_t i = 0; i < kq_array_size(cases); i++) {
        struct kq_batch_header header = {.producer_id = cases[i].producer,
                                         .base_offset = cases[i].offset};
        bool is = !cases[i].aborted;
        assert_int_equal(kq_aborted_has(kit->log, &header, true, &is), 0);
        assert_int_equal(is, cases[i].aborted);
    }
}

static void the_text_is_what_was_committed(void **state)
{
    struct kit *kit = *state;
    take_recorded(kit, "txns");
    kit_open(kit);
    assert_string_equal(text(kit), COMMITTED);
    kit_close(kit);
    kit_open(kit);
    assert_string_equal(text(kit), COMMITTED);
}

static void all_is_stable_where_all_has_ended(void **state)
{
    struct kit *kit = *state;
    struct kq_log_bounds bounds;
    take_recorded(kit, "txns");
    kit_open(kit);
    kq_log_bounds(kit->log, &bounds);
    assert_int_equal(bounds.end, 21);
    assert_int_equal(bounds.last_stable, 21);
    assert_int_equal(kit_append(kit, 1, 10, 0, 0, false, NULL), 0);
    kq_log_bounds(kit->log, &bounds);
    assert_int_equal(bounds.last_stable, 22);
}

static void kafkas_producers_are_known(void **state)
{
    struct kit *kit = *state;
    take_recorded(kit, "txns");
    kit_open(kit);
    const struct kq_producer_entry *plain = kq_producers_find(&kit->log->producers, 0);
    assert_non_null(plain);
    assert_int_equal(plain->batches[plain->batch_count - 1].last_offset, 18);
    assert_int_equal(plain->batches[plain->batch_count - 1].last_sequence, 3);
}

/* --- Made anew --- */

static void without_snapshots_it_is_read_from_the_log(void **state)
{
    struct kit *kit = *state;
    take_recorded(kit, "txns");
    remove_snapshots(kit);
    kit_open(kit);
    assert_aborted(kit);
    assert_string_equal(text(kit), COMMITTED);
}

static void without_any_index_it_is_read_from_the_log(void **state)
{
    struct kit *kit = *state;
    take_recorded(kit, "txns");
    remove_snapshots(kit);
    remove_file(kit, "00000000000000000000.txnindex");
    remove_file(kit, "00000000000000000009.txnindex");
    kit_open(kit);
    assert_aborted(kit);
    assert_int_equal(kit_size(kit, "00000000000000000000.txnindex"), KQ_ABORTED_ENTRY);
    assert_int_equal(kit_size(kit, "00000000000000000009.txnindex"), KQ_ABORTED_ENTRY);
    assert_int_equal(kit_size(kit, "00000000000000000018.txnindex"), -1);
    assert_string_equal(text(kit), COMMITTED);
}

static void a_damaged_index_is_made_anew(void **state)
{
    static const uint8_t wrong[KQ_ABORTED_ENTRY] = {0, 1};
    static const struct {
        const char *name;
        size_t length;
    } cases[] = {{"00000000000000000000.txnindex", 33},
                 {"00000000000000000000.txnindex", 34},
                 {"00000000000000000009.txnindex", 0},
                 {"00000000000000000009.txnindex", 34},
                 {"00000000000000000018.txnindex", 1}};
    for (size_t i = 0; i < kq_array_size(cases); i++) {
        struct kit kit;
        kit_begin_fast(&kit);
        take_recorded(&kit, "txns");
        overwrite(&kit, cases[i].name, wrong, cases[i].length);
        kit_open(&kit);
        if (cases[i].length == 0) /* nothing says that it should not be empty */
            assert_string_equal(aborted(&kit, 0, 21), "1:4-5 ");
        else
            assert_aborted(&kit);
        kit_close(&kit);
        kit_open(&kit);
        if (cases[i].length > 0)
            assert_aborted(&kit);
        kit_end(&kit);
    }
}

static void what_fails_can_be_asked_again(void **state)
{
    struct kit *kit = *state;
    take_recorded(kit, "txns");
    overwrite(kit, "00000000000000000009.txnindex", "damaged", 7);
    kit_open(kit);
    for (long nth = 1;; nth++) {
        kq_autobuf struct kq_buf found = {.data = malloc(4096), .capacity = 4096};
        kq_fault_arm(KQ_FAULT_OPEN | KQ_FAULT_READ | KQ_FAULT_MEMORY, nth, ENOMEM, false);
        int r = kq_aborted_find(kit->log, 0, 21, true, &found);
        bool failed = kq_fault_disarm();
        if (!failed || r == 0)
            break;
        assert_int_equal(r, -ENOMEM);
        assert_true(nth < 100);
    }
    assert_aborted(kit);
}

static void after_a_crash_it_is_as_before(void **state)
{
    struct kit *kit = *state;
    take_recorded(kit, "txns");
    kit_open(kit);
    kit_append(kit, 1, 10, 0, 0, false, NULL);
    kit->checkpoint = (struct kq_log_checkpoint){.recovery_point = 0, .log_start = -1};
    kit_crash(kit);
    kit_open(kit);
    assert_aborted(kit);
}

static void an_index_goes_with_its_segment(void **state)
{
    struct kit *kit = *state;
    take_recorded(kit, "txns");
    kit_open(kit);
    assert_string_equal(text(kit), COMMITTED);
    assert_int_equal(kq_log_delete_before(kit->log, 9), 0);
    assert_int_equal(kit_size(kit, "00000000000000000000.txnindex"), -1);
    assert_int_equal(kit_size(kit, "00000000000000000009.txnindex"), KQ_ABORTED_ENTRY);
    kit_close(kit);
    kit_open(kit);
    assert_string_equal(aborted(kit, 9, 21), "2:6-17 ");
    assert_string_equal(text(kit), "plain 3\nplain 4\ncommitted 4\n");
}

/* --- Not decided --- */

#define STABLE COMMITTED "plain 5\n"

static void an_open_transaction_ends_what_is_stable(void **state)
{
    struct kit *kit = *state;
    struct kq_log_bounds bounds;
    take_recorded(kit, "open");
    kit_open(kit);
    kq_log_bounds(kit->log, &bounds);
    assert_int_equal(bounds.end, 27);
    assert_int_equal(bounds.last_stable, 22);
    assert_string_equal(text(kit), STABLE);
    assert_string_equal(aborted(kit, 22, 27), "1:24-26 ");
    for (int i = 0; i < 30; i++)
        assert_int_equal(kit_append(kit, 1, 40, 0, 0, true, NULL), 0);
    kq_log_bounds(kit->log, &bounds);
    assert_int_equal(bounds.last_stable, 22);
    assert_string_equal(text(kit), STABLE);
    kit_close(kit);
    kit_open(kit);
    kq_log_bounds(kit->log, &bounds);
    assert_int_equal(bounds.last_stable, 22);
    assert_string_equal(text(kit), STABLE);
}

static void over_segments_that_are_not_stable_nothing_is_found(void **state)
{
    struct kit *kit = *state;
    struct kq_log_range range;
    kit->config.segment_bytes = 300;
    take_recorded(kit, "open");
    kit_open(kit);
    for (int i = 0; i < 30; i++)
        assert_int_equal(kit_append(kit, 1, 40, 0, 0, true, NULL), 0);
    assert_string_equal(text(kit), STABLE);
    assert_int_equal(kq_log_next_range(kit->log, 9, true, &range), 0);
    assert_int_equal(range.next_offset, 18);
    assert_int_equal(kq_log_next_range(kit->log, 18, true, &range), KQ_END);
}

static void deleting_what_is_not_decided_decides(void **state)
{
    struct kit *kit = *state;
    struct kq_log_bounds bounds;
    take_recorded(kit, "open");
    kit_open(kit);
    assert_string_equal(text(kit), STABLE);
    assert_int_equal(kq_log_delete_before(kit->log, 22), 0);
    kq_log_bounds(kit->log, &bounds);
    assert_int_equal(bounds.last_stable, 22);
    assert_string_equal(text(kit), "");
    assert_int_equal(kq_log_delete_before(kit->log, 23), 0);
    kq_log_bounds(kit->log, &bounds);
    assert_int_equal(bounds.last_stable, 27);
    assert_string_equal(text(kit), "plain 6\nplain 7\n");
    kit_crash(kit);
    kit->checkpoint.log_start = 23;
    kit_open(kit);
    kq_log_bounds(kit->log, &bounds);
    assert_int_equal(bounds.last_stable, 27);
    assert_string_equal(text(kit), "plain 6\nplain 7\n");
}

static void retention_may_take_what_is_not_decided(void **state)
{
    struct kit *kit = *state;
    struct kq_log_bounds bounds;
    kit->config.segment_bytes = 300;
    take_recorded(kit, "open");
    kit_open(kit);
    for (int i = 0; i < 9; i++)
        assert_int_equal(kit_append(kit, 1, 40, 0, 0, true, NULL), 0);
    assert_int_equal(kq_log_delete_before(kit->log, 30), 0);
    kq_log_bounds(kit->log, &bounds);
    assert_int_equal(bounds.last_stable, 36);
    struct kq_log_text_bounds text_bounds;
    assert_int_equal(kq_log_text_bounds(kit->log, true, &text_bounds), 0);
    assert_int_equal(text_bounds.end - text_bounds.start, 6 * 41);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, kit_setup, kit_teardown)

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        TEST(what_kafka_lists_as_aborted_is_known),
        TEST(files_are_read_by_those_only_who_may_wait),
        TEST(only_a_producers_own_batches_are_aborted),
        TEST(the_text_is_what_was_committed),
        TEST(all_is_stable_where_all_has_ended),
        TEST(kafkas_producers_are_known),
        TEST(without_snapshots_it_is_read_from_the_log),
        TEST(without_any_index_it_is_read_from_the_log),
        TEST(a_damaged_index_is_made_anew),
        TEST(what_fails_can_be_asked_again),
        TEST(after_a_crash_it_is_as_before),
        TEST(an_index_goes_with_its_segment),
        TEST(an_open_transaction_ends_what_is_stable),
        TEST(over_segments_that_are_not_stable_nothing_is_found),
        TEST(deleting_what_is_not_decided_decides),
        TEST(retention_may_take_what_is_not_decided),
    };
    recorded_path = argc > 1 ? argv[1] : "tests/unit/kafkalogs/recorded.txt";
    return cmocka_run_group_tests(tests, NULL, NULL);
}
