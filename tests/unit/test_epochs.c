/* Leader epochs: what the file says, what a log that was taken over goes on with. */
#include "tests/unit/log_kit.h"

#include "broker/epochs.h"

static void write_epochs(struct kit *kit, const char *text)
{
    char path[256];
    kit_path(kit, KQ_EPOCHS_FILE, path);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fputs(text, file);
    assert_int_equal(fclose(file), 0);
}

static const char *read_epochs(struct kit *kit)
{
    static char text[200];
    char path[256];
    kit_path(kit, KQ_EPOCHS_FILE, path);
    FILE *file = fopen(path, "r");
    assert_non_null(file);
    text[fread(text, 1, sizeof(text) - 1, file)] = '\0';
    fclose(file);
    return text;
}

/* A log with COUNT messages, closed; nothing in it says who wrote it. */
static void make_foreign(struct kit *kit, int count, const char *epochs)
{
    char path[256];
    kit_open(kit);
    for (int i = 0; i < count; i++)
        assert_int_equal(kit_append(kit, 1, 10, 1000, i, true, NULL), 0);
    kit_close(kit);
    kit_path(kit, "00000000000000000000.snapshot", path);
    assert_int_equal(unlink(path), 0);
    write_epochs(kit, epochs);
}

static void ends(struct kit *kit, int32_t epoch, int32_t expected_epoch, int64_t expected_end)
{
    int32_t found = -7;
    int64_t end = -7;
    assert_int_equal(kq_log_epoch_end(kit->log, epoch, &found, &end), 0);
    assert_int_equal(found, expected_epoch);
    assert_int_equal(end, expected_end);
}

static int32_t epoch_of_last_batch(struct kit *kit)
{
    struct kq_extent extent;
    struct kq_batch_header header;
    uint8_t bytes[200];
    assert_int_equal(kq_log_read(kit->log, kit_end_offset(kit) - 1, 200, false, true, &extent), 0);
    assert_true(pread(extent.fd, bytes, extent.length, extent.position) > 0);
    assert_int_equal(kq_batch_header_read(bytes, extent.length, &header), 0);
    kq_extent_unref(&extent);
    return header.leader_epoch;
}

static void our_own_is_0_for_ever(void **state)
{
    struct kit *kit = *state;
    for (int round = 0; round < 3; round++) {
        kit_open(kit);
        assert_int_equal(kit_append(kit, 1, 10, 1000, 0, true, NULL), 0);
        assert_int_equal(kq_log_epoch(kit->log), 0);
        assert_int_equal(epoch_of_last_batch(kit), 0);
        assert_int_equal(kq_log_epoch_at(kit->log, 0), 0);
        ends(kit, 0, 0, round + 1);
        int32_t epoch = -7;
        int64_t end = -7;
        assert_int_equal(kq_log_epoch_end(kit->log, 1, &epoch, &end), KQ_END);
        assert_int_equal(kq_log_epoch_end(kit->log, -1, &epoch, &end), KQ_END);
        assert_int_equal(epoch, -7);
        assert_string_equal(read_epochs(kit), "0\n1\n0 0\n");
        kit_close(kit);
    }
}

static void a_log_that_was_taken_over_has_a_new_leader_once(void **state)
{
    struct kit *kit = *state;
    make_foreign(kit, 10, "0\n3\n2 0\n4 5\n7 8\n");
    for (int round = 0; round < 2; round++) {
        kit_open(kit);
        assert_int_equal(kq_log_epoch(kit->log), 8);
        assert_string_equal(read_epochs(kit), "0\n4\n2 0\n4 5\n7 8\n8 10\n");
        ends(kit, 0, 0, 0);
        ends(kit, 1, 1, 0);
        ends(kit, 2, 2, 5);
        ends(kit, 3, 2, 5);
        ends(kit, 4, 4, 8);
        ends(kit, 6, 4, 8);
        ends(kit, 7, 7, 10);
        ends(kit, 8, 8, 10 + round);
        assert_int_equal(kq_log_epoch_at(kit->log, 4), 2);
        assert_int_equal(kq_log_epoch_at(kit->log, 5), 4);
        assert_int_equal(kq_log_epoch_at(kit->log, 9), 7);
        assert_int_equal(kit_append(kit, 1, 10, 1000, 0, true, NULL), 0);
        assert_int_equal(epoch_of_last_batch(kit), 8);
        kit_close(kit);
    }
}

static void what_began_behind_the_end_is_forgotten(void **state)
{
    struct kit *kit = *state;
    make_foreign(kit, 10, "0\n3\n2 0\n4 10\n7 11\n");
    kit_open(kit);
    assert_string_equal(read_epochs(kit), "0\n3\n2 0\n4 10\n5 10\n");
    ends(kit, 2, 2, 10);
}

static void before_the_first_there_is_none(void **state)
{
    struct kit *kit = *state;
    make_foreign(kit, 10, "0\n1\n3 4\n");
    kit_open(kit);
    assert_int_equal(kq_log_epoch_at(kit->log, 3), -1);
    assert_int_equal(kq_log_epoch_at(kit->log, 4), 3);
    ends(kit, 1, 1, 4);
}

static void a_damaged_file_is_made_anew(void **state)
{
    static const char *const texts[] = {
        "",
        "0",
        "0\n",
        "0\n1\n",
        "1\n1\n0 0\n",
        "0\n2\n0 0\n",
        "0\n1\n0 0\n1 1\n",
        "0\n2\n1 0\n1 5\n",
        "0\n2\n2 5\n3 4\n",
        "0\n1\n-1 0\n",
        "0\n1\n0 -1\n",
        "0\n1\n0 0",
        "0\n-1\n",
        "0\n1\nx 0\n",
        "0\n1\n0 9999999999999999999\n",
        "0\n1\n2147483648 0\n",
    };
    for (size_t i = 0; i < kq_array_size(texts); i++) {
        struct kit kit;
        kit_begin_fast(&kit);
        kit_open(&kit);
        kit_close(&kit);
        write_epochs(&kit, texts[i]);
        kit_open(&kit);
        assert_int_equal(kq_log_epoch(kit.log), 0);
        assert_string_equal(read_epochs(&kit), "0\n1\n0 0\n");
        kit_end(&kit);
    }
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, kit_setup, kit_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(our_own_is_0_for_ever),
        TEST(a_log_that_was_taken_over_has_a_new_leader_once),
        TEST(what_began_behind_the_end_is_forgotten),
        TEST(before_the_first_there_is_none),
        TEST(a_damaged_file_is_made_anew),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
