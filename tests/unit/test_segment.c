#include "log_kit.h"

#include "broker/segment.h"

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_mutex_t names = PTHREAD_MUTEX_INITIALIZER;

static const struct kq_log_config config = {
    .segment_bytes = 1000, .segment_ms = 500, .segment_index_bytes = 8000};

static struct kq_file_place place_of(struct kit *kit)
{
    mkdirat(kit->shared.dirfd, KIT_LOG, 0700);
    return (struct kq_file_place){
        .dirfd = kit->shared.dirfd, .max_open = 100, .directory = KIT_LOG, .names = &names};
}

static struct kq_segment *new_segment(struct kit *kit, struct kq_file_place *place, int64_t base)
{
    struct kq_segment *segment;
    *place = place_of(kit);
    assert_int_equal(kq_segment_new(place, base, 100, &segment), 0);
    kq_index_set_empty(&segment->offsets);
    kq_index_set_empty(&segment->times);
    kq_index_set_empty(&segment->texts);
    return segment;
}

static void a_segment_is_full_when_kafkas_would_be(void **state)
{
    struct kq_file_place place;
    struct kq_segment *segment = new_segment(*state, &place, 1000);
    bool forced;
    assert_false(kq_segment_is_full(segment, &config, 5000, 1000, 1, &forced)); /* it is empty */
    kq_segment_publish(segment, &(struct kq_published){.next_offset = 1001, .size = 600});
    segment->first_timestamp = 100;
    assert_false(kq_segment_is_full(segment, &config, 400, 1001, 600, &forced));
    assert_true(kq_segment_is_full(segment, &config, 401, 1001, 600, &forced));
    assert_false(forced);
    assert_true(kq_segment_is_full(segment, &config, 1, 1001, 601, &forced));
    assert_false(forced);
    assert_false(kq_segment_is_full(segment, &config, 1, 1001, 50, &forced));
    assert_false(kq_segment_is_full(segment, &config, 1, INT64_C(1000) + INT32_MAX, 1, &forced));
    assert_true(kq_segment_is_full(segment, &config, 1, 1001 + (int64_t)INT32_MAX, 1, &forced));
    assert_true(forced);
    kq_segment_unref(segment);
}

static void index_entries_name_the_last_offset_of_a_batch_and_its_largest_time(void **state)
{
    struct kq_file_place place;
    struct kq_segment *segment = new_segment(*state, &place, 1000);
    struct kq_batch_header header = {.size = 150, .last_offset_delta = 4};
    static const int64_t times[] = {50, 70, 60, 90};
    uint8_t entry[KQ_INDEX_ENTRY_MAX];
    for (int i = 0; i < 4; i++) {
        header.base_offset = 1000 + i * 5;
        header.base_timestamp = header.max_timestamp = times[i];
        kq_segment_index(segment, &lock, &header, i * 150, i * 10);
    }
    assert_int_equal(kq_index_count(&segment->offsets), 3);
    assert_int_equal(kq_index_get(&segment->offsets, &lock, 0, true, entry), 0);
    assert_int_equal(kq_index_offset_key(entry), 9);
    assert_int_equal(kq_index_position_key(entry), 150);
    assert_int_equal(kq_index_count(&segment->times), 2);
    assert_int_equal(kq_index_get(&segment->times, &lock, 1, true, entry), 0);
    assert_int_equal(kq_index_time_key(entry), 90);
    assert_int_equal(kq_index_time_offset_key(entry), 19);
    header.base_offset = 1020;
    header.max_timestamp = 95;
    segment->since_index = 0;
    kq_segment_index(segment, &lock, &header, 600, -1);
    assert_int_equal(kq_segment_flush_indexes(segment, &lock, true), 0);
    assert_int_equal(kq_index_count(&segment->times), 3); /* sealing adds the largest */
    assert_int_equal(kit_size(*state, "00000000000000001000.index"), 3 * KQ_OFFSET_ENTRY);
    assert_int_equal(kit_size(*state, "00000000000000001000.timeindex"), 3 * KQ_TIME_ENTRY);
    kq_segment_unref(segment);
}

static void a_walk_goes_on_behind_a_damaged_place(void **state)
{
    struct kit *kit = *state;
    kq_autobuf struct kq_buf all = {0}, one = {0};
    struct kq_batch_header header;
    struct kq_walk walk;
    char path[128];
    for (int i = 0; i < 3; i++) {
        kit_batch(&one, 1, 5000, 1, i);
        kq_batch_patch(one.data, i, 0);
        assert_int_equal(kq_buf_append(&all, one.data, one.length), 0);
    }
    size_t size = one.length;
    all.data[size + 16] = 9;                /* the second's magic */
    memset(all.data + size + 500, 2, 2000); /* what could be a magic each */
    snprintf(path, sizeof(path), "%s/batches", kit->directory);
    int fd = open(path, O_RDWR | O_CREAT, 0600);
    assert_int_equal(write(fd, all.data, all.length), all.length);
    kq_walk_begin(&walk, fd, 0, 0, (int64_t)all.length, KQ_WALK_NEAR, true);
    assert_int_equal(kq_walk_header(&walk, &header), 0);
    kq_walk_step(&walk, &header);
    assert_int_equal(kq_walk_header(&walk, &header), -EBADMSG);
    assert_int_equal(kq_walk_resync(&walk), 0);
    assert_int_equal(walk.position, 2 * size);
    assert_int_equal(kq_walk_header(&walk, &header), 0);
    assert_int_equal(header.base_offset, 2);
    kq_walk_step(&walk, &header);
    assert_int_equal(kq_walk_header(&walk, &header), KQ_END);
    kq_walk_end(&walk);
    kq_walk_begin(&walk, fd, 0, 0, (int64_t)size - 1, KQ_WALK_NEAR, true);
    assert_int_equal(kq_walk_header(&walk, &header), KQ_PARTIAL);
    assert_int_equal(kq_walk_resync(&walk), KQ_END);
    assert_int_equal(walk.position, 0);
    kq_walk_end(&walk);
    kq_walk_begin(&walk, fd, 5, 0, (int64_t)all.length, KQ_WALK_NEAR, true);
    assert_int_equal(kq_walk_header(&walk, &header), -EBADMSG); /* below the segment's base */
    kq_walk_end(&walk);
    close(fd);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, kit_setup, kit_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_segment_is_full_when_kafkas_would_be),
        TEST(index_entries_name_the_last_offset_of_a_batch_and_its_largest_time),
        TEST(a_walk_goes_on_behind_a_damaged_place),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
