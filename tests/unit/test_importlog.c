/* Kafka's metadata log: what it says, as Kafka wrote it and damaged in every way. */
#include "tests/unit/metadata_kit.h"

#include "broker/base/fault.h"
#include "tests/unit/directory.h"
#include "tests/unit/said.h"

#define MOST_RECORDS 256

enum { BEGIN = 23, END = 24, ABORT = 25, NO_OP = 20, NOT_KNOWN = 99 };

struct seen {
    char directory[DIRECTORY_BYTES];
    int count;
    struct {
        uint32_t type;
        int16_t version;
        size_t length;
    } records[MOST_RECORDS];
    int answer; /* to the next record */
};

static int see(void *context, uint32_t type, int16_t version, struct kq_wire_reader *fields)
{
    struct seen *seen = context;
    assert_true(seen->count < MOST_RECORDS);
    seen->records[seen->count].type = type;
    seen->records[seen->count].version = version;
    seen->records[seen->count++].length = kq_wire_left(fields);
    return seen->answer;
}

static int read_metadata(struct seen *seen)
{
    kq_autoclose int fd = open(seen->directory, O_RDONLY | O_DIRECTORY);
    seen->count = 0;
    return kq_metalog_read(fd, seen->directory, see, seen);
}

static int setup(void **state)
{
    static struct seen seen;
    seen = (struct seen){0};
    directory_make(seen.directory, NULL);
    said_clear();
    kq_diag_set_level(LOG_DEBUG);
    *state = &seen;
    return 0;
}

static int teardown(void **state)
{
    struct seen *seen = *state;
    kq_fault_disarm();
    kq_diag_set_tap(NULL);
    return directory_remove(seen->directory);
}

/* --- As Kafka wrote it --- */

static void without_a_directory_there_is_none(void **state)
{
    struct seen *seen = *state;
    struct kq_metalog_end end;
    kq_autoclose int fd = open(seen->directory, O_RDONLY | O_DIRECTORY);
    assert_int_equal(kq_metalog_look(fd, &end), -ENOENT);
    assert_int_equal(read_metadata(seen), -ENOENT);
    assert_int_equal(mkdir(metadata_path(seen->directory, NULL), 0755), 0);
    assert_int_equal(kq_metalog_look(fd, &end), -ENOENT);
    assert_int_equal(said_count, 0);
}

static void all_records_come_in_order(void **state)
{
    struct seen *seen = *state;
    int topics = 0, partitions = 0, removals = 0;
    metadata_copy_recorded(seen->directory, RECORDED_LOG);
    assert_int_equal(read_metadata(seen), 0);
    for (int i = 0; i < seen->count; i++) {
        uint32_t type = seen->records[i].type;
        assert_true(type != BEGIN && type != END && type != ABORT);
        topics += type == 2;
        partitions += type == 3;
        removals += type == 9;
    }
    assert_int_equal(topics, 4);
    assert_int_equal(partitions, 10);
    assert_int_equal(removals, 1);
    assert_int_equal(said_count, 0);
}

static void the_log_goes_on_where_the_snapshot_ends(void **state)
{
    struct seen *seen = *state;
    struct kq_metalog_end end;
    metadata_copy_recorded(seen->directory, RECORDED_LOG);
    assert_int_equal(read_metadata(seen), 0);
    int whole = seen->count;
    metadata_copy_recorded(seen->directory, RECORDED_SNAPSHOT);
    assert_int_equal(read_metadata(seen), 0);
    assert_true(seen->count < whole);
    kq_autoclose int fd = open(seen->directory, O_RDONLY | O_DIRECTORY);
    assert_int_equal(kq_metalog_look(fd, &end), 0);
    assert_int_equal(end.snapshot, 40);
    assert_int_equal(end.segment, 0);
    assert_int_equal(end.bytes, 5312);
}

static void a_snapshot_behind_the_log_is_enough(void **state)
{
    struct seen *seen = *state;
    metadata_copy_recorded(seen->directory, RECORDED_SNAPSHOT);
    assert_int_equal(read_metadata(seen), 0);
    assert_true(seen->count > 10);
}

/* --- Damage --- */

/* Where the last batch of BYTES begins. */
static size_t last_batch(const struct kq_buf *bytes)
{
    struct kq_batch_header header;
    size_t at = 0, last = 0;
    while (at < bytes->length) {
        assert_int_equal(kq_batch_header_read(bytes->data + at, bytes->length - at, &header), 0);
        last = at;
        at += header.size;
    }
    return last;
}

static void a_torn_end_is_the_end(void **state)
{
    struct seen *seen = *state;
    struct kq_buf bytes = {0};
    metadata_copy_recorded(seen->directory, RECORDED_LOG);
    assert_int_equal(read_metadata(seen), 0);
    int whole = seen->count, before = 0;
    metadata_read_recorded(RECORDED_LOG, &bytes);
    for (size_t length = 1; length < bytes.length; length += 7) {
        metadata_write(seen->directory, RECORDED_LOG, bytes.data, length);
        assert_int_equal(read_metadata(seen), 0);
        assert_true(seen->count >= before && seen->count <= whole);
        before = seen->count;
    }
    kq_buf_release(&bytes);
    assert_int_equal(said_count, 0);
}

static void damage_before_the_end_is_reported_and_refused(void **state)
{
    struct seen *seen = *state;
    struct kq_buf bytes = {0};
    metadata_read_recorded(RECORDED_LOG, &bytes);
    size_t end = last_batch(&bytes);
    for (size_t at = 16; at < end; at += 13) {
        bytes.data[at] ^= 0x40;
        metadata_write(seen->directory, RECORDED_LOG, bytes.data, bytes.length);
        bytes.data[at] ^= 0x40;
        said_clear();
        int r = read_metadata(seen);
        if (r == 0) /* it was in what the checksum does not cover: offset, leader epoch */
            continue;
        assert_int_equal(r, -EBADMSG);
        assert_non_null(strstr(said, RECORDED_LOG));
        assert_int_equal(said_count, 1);
    }
    kq_buf_release(&bytes);
}

static void a_snapshot_is_whole_or_refused(void **state)
{
    struct seen *seen = *state;
    struct kq_buf bytes = {0};
    metadata_copy_recorded(seen->directory, RECORDED_LOG);
    metadata_read_recorded(RECORDED_SNAPSHOT, &bytes);
    for (size_t length = 1; length < bytes.length; length += 11) {
        metadata_write(seen->directory, RECORDED_SNAPSHOT, bytes.data, length);
        assert_int_equal(read_metadata(seen), -EBADMSG);
    }
    metadata_write(seen->directory, RECORDED_SNAPSHOT, bytes.data, last_batch(&bytes));
    assert_int_equal(read_metadata(seen), -EBADMSG);
    bytes.data[bytes.length - 1] ^= 1;
    metadata_write(seen->directory, RECORDED_SNAPSHOT, bytes.data, bytes.length);
    assert_int_equal(read_metadata(seen), -EBADMSG);
    assert_non_null(strstr(said, RECORDED_SNAPSHOT));
    kq_buf_release(&bytes);
}

static void a_missing_piece_is_refused(void **state)
{
    struct seen *seen = *state;
    struct kq_buf bytes = {0};
    metadata_copy_recorded(seen->directory, RECORDED_SNAPSHOT);
    metadata_read_recorded(RECORDED_LOG, &bytes);
    metadata_write(seen->directory, "00000000000000000041.log", bytes.data, bytes.length);
    assert_int_equal(read_metadata(seen), -EBADMSG);
    assert_non_null(strstr(said, "missing"));
    kq_buf_release(&bytes);
}

static void no_failure_of_memory_or_disk_is_taken_for_the_end(void **state)
{
    struct seen *seen = *state;
    int r, whole;
    metadata_copy_recorded(seen->directory, RECORDED_LOG);
    metadata_copy_recorded(seen->directory, RECORDED_SNAPSHOT);
    assert_int_equal(read_metadata(seen), 0);
    whole = seen->count;
    for (long nth = 1;; nth++) {
        kq_fault_arm(KQ_FAULT_OPEN | KQ_FAULT_READ | KQ_FAULT_MEMORY, nth, ENOMEM, false);
        r = read_metadata(seen);
        if (!kq_fault_disarm())
            break;
        assert_int_equal(r, -ENOMEM);
    }
    assert_int_equal(r, 0);
    assert_int_equal(seen->count, whole);
}

/* --- Transactions and frames --- */

static void write_log(struct seen *seen, struct metadata *metadata)
{
    metadata_write(seen->directory, RECORDED_LOG, metadata->bytes.data, metadata->bytes.length);
    metadata_release(metadata);
}

static void what_was_aborted_or_did_not_end_counts_for_nothing(void **state)
{
    static const uint32_t types[] = {50, BEGIN, 51, ABORT, 52, BEGIN, 53, END, 54, BEGIN, 55};
    static const uint32_t wanted[] = {50, 52, 53, 54};
    struct seen *seen = *state;
    struct metadata metadata = {0};
    for (size_t i = 0; i < kq_array_size(types); i++) {
        metadata_begin_batch(&metadata);
        metadata_add_plain(&metadata, types[i]);
        metadata_end_batch(&metadata);
    }
    write_log(seen, &metadata);
    assert_int_equal(read_metadata(seen), 0);
    assert_int_equal(seen->count, kq_array_size(wanted));
    for (size_t i = 0; i < kq_array_size(wanted); i++)
        assert_int_equal(seen->records[i].type, wanted[i]);
}

static void write_frame(struct seen *seen, uint32_t frame, uint32_t type, uint32_t version)
{
    struct metadata metadata = {0};
    metadata_begin_batch(&metadata);
    metadata_begin_record(&metadata, frame, type, version);
    metadata_end_record(&metadata);
    metadata_end_batch(&metadata);
    write_log(seen, &metadata);
    said_clear();
}

static void a_frame_that_is_not_known_is_refused(void **state)
{
    struct seen *seen = *state;
    write_frame(seen, 2, NO_OP, 0);
    assert_int_equal(read_metadata(seen), -EPROTO);
    assert_non_null(strstr(said, "newer Kafka"));
    write_frame(seen, 1, 1 << 20, 0);
    assert_int_equal(read_metadata(seen), -EBADMSG);
    write_frame(seen, 1, NOT_KNOWN, 3);
    assert_int_equal(read_metadata(seen), 0);
    assert_int_equal(seen->records[0].version, 3);
    assert_int_equal(said_count, 0);
}

/* The batch is whole: it is no torn end. */
static void what_the_taker_refuses_is_no_torn_end(void **state)
{
    struct seen *seen = *state;
    write_frame(seen, 1, NO_OP, 0);
    seen->answer = -EBADMSG;
    assert_int_equal(read_metadata(seen), -EBADMSG);
    assert_int_equal(said_count, 1);
    seen->answer = -EPROTO;
    assert_int_equal(read_metadata(seen), -EPROTO);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        TEST(without_a_directory_there_is_none),
        TEST(all_records_come_in_order),
        TEST(the_log_goes_on_where_the_snapshot_ends),
        TEST(a_snapshot_behind_the_log_is_enough),
        TEST(a_torn_end_is_the_end),
        TEST(damage_before_the_end_is_reported_and_refused),
        TEST(a_snapshot_is_whole_or_refused),
        TEST(a_missing_piece_is_refused),
        TEST(no_failure_of_memory_or_disk_is_taken_for_the_end),
        TEST(what_was_aborted_or_did_not_end_counts_for_nothing),
        TEST(a_frame_that_is_not_known_is_refused),
        TEST(what_the_taker_refuses_is_no_torn_end),
    };
    if (argc < 2)
        return 1;
    metadata_recorded = argv[1];
    return cmocka_run_group_tests(tests, NULL, NULL);
}
