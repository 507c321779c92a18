#include "log_kit.h"

#include "broker/index.h"

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static struct kq_file_place place_of(struct kit *kit)
{
    mkdirat(kit->shared.dirfd, KIT_LOG, 0700);
    return (struct kq_file_place){
        .dirfd = kit->shared.dirfd, .max_open = 100, .directory = KIT_LOG};
}

static void add(struct kq_index *index, uint32_t offset, uint32_t position)
{
    uint8_t entry[KQ_OFFSET_ENTRY];
    kq_store_be32(entry, offset);
    kq_store_be32(entry + 4, position);
    assert_int_equal(kq_index_append(index, &lock, entry), 0);
}

static void check_all(struct kq_index *index, uint32_t count)
{
    uint8_t entry[KQ_INDEX_ENTRY_MAX];
    uint32_t number;
    assert_int_equal(kq_index_count(index), count);
    assert_int_equal(kq_index_search(index, &lock, kq_index_offset_key, 4, true, entry, &number),
                     KQ_END);
    for (uint32_t i = 0; i < count; i++) {
        for (uint32_t beside = 0; beside < 10; beside += 9) {
            assert_int_equal(kq_index_search(index, &lock, kq_index_offset_key, i * 10 + 5 + beside,
                                             true, entry, &number),
                             0);
            assert_int_equal(number, i);
            assert_int_equal(kq_index_offset_key(entry), i * 10 + 5);
            assert_int_equal(kq_index_position_key(entry), i * 100);
        }
        assert_int_equal(kq_index_get(index, &lock, i, true, entry), 0);
        assert_int_equal(kq_index_position_key(entry), i * 100);
    }
}

static void every_entry_is_found_in_the_file_and_in_the_buffer(void **state)
{
    struct kit *kit = *state;
    struct kq_file_place place = place_of(kit);
    struct kq_index index;
    static const uint32_t counts[] = {0, 1, 63, 64, 65, 128, 700, 5000};
    for (size_t c = 0; c < kq_array_size(counts); c++) {
        assert_int_equal(kq_index_init(&index, KQ_FILE_INDEX, &place, (int64_t)c), 0);
        kq_index_set_empty(&index);
        for (uint32_t i = 0; i < counts[c]; i++)
            add(&index, i * 10 + 5, i * 100);
        check_all(&index, counts[c]);
        assert_int_equal(kq_index_flush(&index, &lock), 0);
        check_all(&index, counts[c]);
        kq_index_trim(&index, &lock);
        assert_null(index.tail);
        kq_index_release(&index);
        assert_int_equal(kq_index_init(&index, KQ_FILE_INDEX, &place, (int64_t)c), 0);
        assert_int_equal(kq_index_load(&index, &lock, true, NULL), 0);
        check_all(&index, counts[c]);
        kq_index_release(&index);
    }
}

static void entries_lie_in_the_file_as_kafka_writes_them(void **state)
{
    struct kit *kit = *state;
    struct kq_file_place place = place_of(kit);
    struct kq_index index;
    uint8_t bytes[20];
    assert_int_equal(kq_index_init(&index, KQ_FILE_INDEX, &place, 0), 0);
    kq_index_set_empty(&index);
    add(&index, 0x01020304, 0x05060708);
    assert_int_equal(kq_index_flush(&index, &lock), 0);
    int fd = openat(kit->shared.dirfd, KIT_LOG "/00000000000000000000.index", O_RDONLY);
    assert_int_equal(read(fd, bytes, sizeof(bytes)), 8);
    assert_memory_equal(bytes, "\1\2\3\4\5\6\7\10", 8);
    close(fd);
    kq_index_release(&index);
}

static void a_buffer_that_cannot_be_written_stays(void **state)
{
    struct kit *kit = *state;
    struct kq_file_place place = place_of(kit);
    struct kq_index index;
    assert_int_equal(kq_index_init(&index, KQ_FILE_INDEX, &place, 0), 0);
    kq_index_set_empty(&index);
    for (uint32_t i = 0; i < KQ_INDEX_TAIL; i++)
        add(&index, i * 10 + 5, i * 100);
    kq_fault_arm(KQ_FAULT_WRITE, 1, ENOSPC, true);
    uint8_t entry[KQ_OFFSET_ENTRY] = {0};
    assert_int_equal(kq_index_append(&index, &lock, entry), -ENOSPC);
    kq_fault_disarm();
    check_all(&index, KQ_INDEX_TAIL);
    add(&index, KQ_INDEX_TAIL * 10 + 5, KQ_INDEX_TAIL * 100);
    check_all(&index, KQ_INDEX_TAIL + 1);
    kq_index_release(&index);
}

static void a_cut_index_has_what_is_left(void **state)
{
    struct kit *kit = *state;
    struct kq_file_place place = place_of(kit);
    struct kq_index index;
    assert_int_equal(kq_index_init(&index, KQ_FILE_INDEX, &place, 0), 0);
    kq_index_set_empty(&index);
    for (uint32_t i = 0; i < 100; i++)
        add(&index, i * 10 + 5, i * 100);
    assert_int_equal(kq_index_flush(&index, &lock), 0);
    assert_int_equal(kq_index_truncate(&index, 30), 0);
    check_all(&index, 30);
    add(&index, 30 * 10 + 5, 30 * 100);
    check_all(&index, 31);
    kq_index_release(&index);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, kit_setup, kit_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(every_entry_is_found_in_the_file_and_in_the_buffer),
        TEST(entries_lie_in_the_file_as_kafka_writes_them),
        TEST(a_buffer_that_cannot_be_written_stays),
        TEST(a_cut_index_has_what_is_left),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
