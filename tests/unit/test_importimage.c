/* What Kafka's metadata amounts to: topics, configurations, what is only counted. */
#include "tests/unit/metadata_kit.h"

#include "broker/base/fault.h"
#include "broker/importimage.h"
#include "tests/unit/directory.h"
#include "tests/unit/said.h"

struct place {
    char directory[DIRECTORY_BYTES];
    struct kq_image image;
};

static int setup(void **state)
{
    static struct place place;
    place = (struct place){0};
    directory_make(place.directory, NULL);
    said_clear();
    kq_diag_set_level(LOG_DEBUG);
    *state = &place;
    return 0;
}

static int teardown(void **state)
{
    struct place *place = *state;
    kq_fault_disarm();
    kq_image_release(&place->image);
    kq_diag_set_tap(NULL);
    return directory_remove(place->directory);
}

static int read_image(struct place *place)
{
    kq_autoclose int fd = open(place->directory, O_RDONLY | O_DIRECTORY);
    kq_image_release(&place->image);
    return kq_image_read(fd, place->directory, &place->image);
}

static void check_topic(struct place *place, const char *name, const char *id, int32_t partitions)
{
    char text[KQ_UUID_TEXT + 1];
    const struct kq_image_topic *topic = kq_image_find(&place->image, name);
    assert_non_null(topic);
    kq_uuid_format(topic->id, text);
    assert_string_equal(text, id);
    assert_int_equal(topic->partitions, partitions);
    for (int32_t i = 0; i < partitions; i++)
        assert_int_equal(topic->at[i].replicas, 1);
}

static void check_setting(struct place *place, enum kq_image_resource_type type,
                          const char *resource, const char *name, const char *value)
{
    size_t count;
    const struct kq_topic_setting *settings =
        kq_image_settings(&place->image, type, resource, &count);
    for (size_t i = 0; i < count; i++) {
        if (strcmp(settings[i].name, name) == 0) {
            assert_string_equal(settings[i].value, value);
            return;
        }
    }
    fail_msg("%s has no %s", resource, name);
}

static void check_all(struct place *place)
{
    size_t count;
    assert_int_equal(HASH_CNT(by_name, place->image.by_name), 3);
    check_topic(place, "orders", "36OQUqnnSyCY1Pg4F2DYHA", 3);
    check_topic(place, "grown", "WChZtqIyQ_GImJG35WG35w", 4);
    check_topic(place, "late", "h1iWT3-_RheGi84weAYQOQ", 1);
    assert_null(kq_image_find(&place->image, "gone"));
    assert_null(kq_image_settings(&place->image, KQ_IMAGE_TOPIC, "gone", &count));
    assert_int_equal(count, 0);
    check_setting(place, KQ_IMAGE_TOPIC, "orders", "cleanup.policy", "compact,delete");
    check_setting(place, KQ_IMAGE_TOPIC, "orders", "segment.bytes", "1000002");
    check_setting(place, KQ_IMAGE_TOPIC, "late", "max.message.bytes", "77");
    check_setting(place, KQ_IMAGE_BROKER, "", "log.retention.ms", "7200000");
    check_setting(place, KQ_IMAGE_BROKER, "7", "message.max.bytes", "2000000");
    assert_int_equal(place->image.next_producer_id, 1000);
    assert_int_equal(place->image.others[KQ_IMAGE_USER], 1);
    assert_int_equal(place->image.others[KQ_IMAGE_QUOTA], 0);
    assert_int_equal(place->image.others[KQ_IMAGE_ACL], 1);
}

static void the_log_and_the_snapshot_say_the_same(void **state)
{
    struct place *place = *state;
    metadata_copy_recorded(place->directory, RECORDED_LOG);
    assert_int_equal(read_image(place), 0);
    check_all(place);
    metadata_copy_recorded(place->directory, RECORDED_SNAPSHOT);
    assert_int_equal(read_image(place), 0);
    check_all(place);
    assert_int_equal(said_count, 0);
}

static void each_lack_of_memory_is_told(void **state)
{
    struct place *place = *state;
    int r;
    metadata_copy_recorded(place->directory, RECORDED_LOG);
    for (long nth = 1;; nth++) {
        kq_fault_arm(KQ_FAULT_MEMORY, nth, ENOMEM, false);
        r = read_image(place);
        if (!kq_fault_disarm())
            break;
        assert_int_equal(r, -ENOMEM);
    }
    assert_int_equal(r, 0);
    check_all(place);
}

/* --- Of the test's own making --- */

static const uint8_t id_a[KQ_UUID_BYTES] = {1}, id_b[KQ_UUID_BYTES] = {2};

static void add_topic(struct metadata *metadata, const char *name, const uint8_t *id)
{
    metadata_begin_record(metadata, 1, 2, 0);
    kq_wire_write_string(&metadata->writer, true, false, kq_str_of(name));
    kq_wire_write_raw(&metadata->writer, id, KQ_UUID_BYTES);
    kq_wire_write_uvarint(&metadata->writer, 0);
    metadata_end_record(metadata);
}

/* Replicas and in-sync replicas 7, 8, …; version 0. */
static void add_partition(struct metadata *metadata, const uint8_t *id, int32_t number,
                          int32_t replicas, int32_t epoch)
{
    struct kq_wire_writer *writer = &metadata->writer;
    metadata_begin_record(metadata, 1, 3, 0);
    kq_wire_write_int32(writer, number);
    kq_wire_write_raw(writer, id, KQ_UUID_BYTES);
    for (int list = 0; list < 2; list++) {
        kq_wire_write_count(writer, true, false, replicas);
        for (int32_t i = 0; i < replicas; i++)
            kq_wire_write_int32(writer, 7 + i);
    }
    kq_wire_write_count(writer, true, false, 0);
    kq_wire_write_count(writer, true, false, 0);
    kq_wire_write_int32(writer, 7);
    kq_wire_write_int32(writer, epoch);
    kq_wire_write_int32(writer, 0);
    kq_wire_write_uvarint(writer, 0);
    metadata_end_record(metadata);
}

/* LEADER -2: stays. REPLICAS 0: stay. */
static void add_change(struct metadata *metadata, const uint8_t *id, int32_t number, int32_t leader,
                       int32_t replicas)
{
    struct kq_wire_writer *writer = &metadata->writer;
    metadata_begin_record(metadata, 1, 5, 0);
    kq_wire_write_int32(writer, number);
    kq_wire_write_raw(writer, id, KQ_UUID_BYTES);
    kq_wire_write_uvarint(writer, (leader != -2) + (replicas > 0));
    if (leader != -2) {
        kq_wire_write_uvarint(writer, 1);
        kq_wire_write_uvarint(writer, 4);
        kq_wire_write_int32(writer, leader);
    }
    if (replicas > 0) {
        kq_wire_write_uvarint(writer, 2);
        kq_wire_write_uvarint(writer, (uint32_t)(1 + 4 * replicas));
        kq_wire_write_count(writer, true, false, replicas);
        for (int32_t i = 0; i < replicas; i++)
            kq_wire_write_int32(writer, 7 + i);
    }
    metadata_end_record(metadata);
}

static void add_config(struct metadata *metadata, const char *topic, const char *name,
                       const char *value)
{
    metadata_begin_record(metadata, 1, 4, 0);
    kq_wire_write_int8(&metadata->writer, KQ_IMAGE_TOPIC);
    kq_wire_write_string(&metadata->writer, true, false, kq_str_of(topic));
    kq_wire_write_string(&metadata->writer, true, false, kq_str_of(name));
    kq_wire_write_string(&metadata->writer, true, true, kq_str_of(value));
    kq_wire_write_uvarint(&metadata->writer, 0);
    metadata_end_record(metadata);
}

static void add_removal(struct metadata *metadata, const uint8_t *id)
{
    metadata_begin_record(metadata, 1, 9, 0);
    kq_wire_write_raw(&metadata->writer, id, KQ_UUID_BYTES);
    kq_wire_write_uvarint(&metadata->writer, 0);
    metadata_end_record(metadata);
}

static int read_made(struct place *place, struct metadata *metadata)
{
    metadata_end_batch(metadata);
    metadata_write(place->directory, RECORDED_LOG, metadata->bytes.data, metadata->bytes.length);
    metadata_release(metadata);
    said_clear();
    return read_image(place);
}

static void leaders_and_replicas_are_followed(void **state)
{
    struct place *place = *state;
    struct metadata metadata = {0};
    metadata_begin_batch(&metadata);
    add_topic(&metadata, "t", id_a);
    add_partition(&metadata, id_a, 2, 3, 5);
    add_partition(&metadata, id_a, 0, 1, 0);
    add_change(&metadata, id_a, 2, -2, 2);
    add_change(&metadata, id_a, 0, -1, 0);
    add_change(&metadata, id_a, 0, 7, 0);
    assert_int_equal(read_made(place, &metadata), 0);
    const struct kq_image_topic *topic = kq_image_find(&place->image, "t");
    assert_int_equal(topic->partitions, 3);
    assert_int_equal(topic->at[2].replicas, 2);
    assert_int_equal(topic->at[2].leader_epoch, 5);
    assert_int_equal(topic->at[1].replicas, 0);
    assert_int_equal(topic->at[0].replicas, 1);
    assert_int_equal(topic->at[0].leader_epoch, 2);
}

static void a_topic_that_is_made_again_is_another(void **state)
{
    struct place *place = *state;
    struct metadata metadata = {0};
    size_t count;
    metadata_begin_batch(&metadata);
    add_topic(&metadata, "t", id_a);
    add_config(&metadata, "t", "retention.ms", "1");
    add_config(&metadata, "t", "segment.ms", "2");
    add_config(&metadata, "t", "segment.ms", NULL);
    add_removal(&metadata, id_a);
    add_topic(&metadata, "t", id_b);
    add_partition(&metadata, id_b, 0, 1, 0);
    add_config(&metadata, "t", "segment.bytes", "3");
    add_config(&metadata, "t", "segment.bytes", "4");
    assert_int_equal(read_made(place, &metadata), 0);
    assert_memory_equal(kq_image_find(&place->image, "t")->id, id_b, KQ_UUID_BYTES);
    const struct kq_topic_setting *settings =
        kq_image_settings(&place->image, KQ_IMAGE_TOPIC, "t", &count);
    assert_int_equal(count, 1);
    assert_string_equal(settings[0].name, "segment.bytes");
    assert_string_equal(settings[0].value, "4");
}

static double quota_of(struct place *place, const char *user, const char *client,
                       enum kq_quota_type type)
{
    struct kq_quota_match match;
    return kq_quota_book_find(place->image.quotas, type, user, client, &match) ? match.limit : 0;
}

static void quotas_are_followed(void **state)
{
    struct place *place = *state;
    struct metadata metadata = {0};
    metadata_begin_batch(&metadata);
    metadata_add_quota(&metadata, "u", NULL, "producer_byte_rate", 5);
    metadata_add_quota(&metadata, "u", NULL, "producer_byte_rate", 6);
    metadata_add_quota(&metadata, "*", "c", "consumer_byte_rate", 7);
    metadata_add_quota(&metadata, NULL, "*", "request_percentage", 12.5);
    metadata_add_quota(&metadata, "gone", NULL, "producer_byte_rate", 8);
    metadata_add_quota(&metadata, "gone", NULL, "producer_byte_rate", 0);
    metadata_add_quota(&metadata, "u", NULL, "controller_mutation_rate", 1);
    metadata_add_quota(&metadata, "u", NULL, "nonsense", 1);
    metadata_add_quota(&metadata, "u", NULL, "nonsense", 0);
    assert_int_equal(read_made(place, &metadata), 0);
    assert_int_equal(kq_quota_book_count(place->image.quotas), 3);
    assert_true(quota_of(place, "u", "", KQ_QUOTA_PRODUCE) == 6);
    assert_true(quota_of(place, "x", "c", KQ_QUOTA_FETCH) == 7);
    assert_true(quota_of(place, "x", "y", KQ_QUOTA_REQUEST) == 12.5);
    assert_true(quota_of(place, "gone", "", KQ_QUOTA_PRODUCE) == 0);
    assert_int_equal(place->image.others[KQ_IMAGE_QUOTA], 1);
}

static void what_makes_no_sense_is_damage(void **state)
{
    struct place *place = *state;
    for (int which = 0; which < 7; which++) {
        struct metadata metadata = {0};
        metadata_begin_batch(&metadata);
        add_topic(&metadata, "t", id_a);
        if (which == 0)
            add_topic(&metadata, "t", id_b);
        if (which == 1)
            add_topic(&metadata, "u", id_a);
        if (which == 2)
            add_removal(&metadata, id_b);
        if (which == 3)
            add_partition(&metadata, id_b, 0, 1, 0);
        if (which == 4)
            add_partition(&metadata, id_a, 1000000, 1, 0);
        if (which == 5)
            add_partition(&metadata, id_a, -1, 1, 0);
        if (which == 6)
            add_change(&metadata, id_a, 0, 7, 0);
        assert_int_equal(read_made(place, &metadata), -EBADMSG);
        assert_int_equal(said_count, 1);
    }
}

static void a_version_that_is_not_known_is_told_from_damage(void **state)
{
    struct place *place = *state;
    struct metadata metadata = {0};
    metadata_begin_batch(&metadata);
    metadata_begin_record(&metadata, 1, 2, 100);
    metadata_end_record(&metadata);
    assert_int_equal(read_made(place, &metadata), -EPROTO);
    assert_non_null(strstr(said, "newer Kafka"));
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        TEST(the_log_and_the_snapshot_say_the_same),
        TEST(each_lack_of_memory_is_told),
        TEST(leaders_and_replicas_are_followed),
        TEST(a_topic_that_is_made_again_is_another),
        TEST(quotas_are_followed),
        TEST(what_makes_no_sense_is_damage),
        TEST(a_version_that_is_not_known_is_told_from_damage),
    };
    if (argc < 2)
        return 1;
    metadata_recorded = argv[1];
    return cmocka_run_group_tests(tests, NULL, NULL);
}
