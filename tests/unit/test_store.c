#include "tests/unit/ground.h"

#include "broker/base/fault.h"
#include "broker/store.h"

static struct kq_renderings *renderings_of(size_t count)
{
    struct kq_renderings *renderings =
        calloc(1, sizeof(*renderings) + count * sizeof(renderings->at[0]));
    assert_non_null(renderings);
    renderings->count = count;
    for (size_t i = 0; i < count; i++) {
        renderings->at[i].from_offset = (int64_t)i * 1000000000000;
        renderings->at[i].framing = i % 3;
        renderings->at[i].delimiter_length = 2;
        renderings->at[i].delimiter[0] = (uint8_t)('0' - i);
        renderings->at[i].delimiter[1] = 0;
        renderings->at[i].separator_length = (uint8_t)i;
        memset(renderings->at[i].separator, 0xfe, i);
    }
    return renderings;
}

struct sample {
    struct kq_topic_record record;
    struct kq_topic_setting settings[2];
    struct kq_partition_record partitions[3];
    uint8_t acl[44];
};

static void make_sample(struct sample *sample)
{
    for (size_t i = 0; i < sizeof(sample->acl); i++)
        sample->acl[i] = (uint8_t)(i * 7);
    sample->settings[0] = (struct kq_topic_setting){"retention.ms", "1000"};
    sample->settings[1] = (struct kq_topic_setting){"key.separator", "\\t"};
    sample->record = (struct kq_topic_record){
        .id = {1, 2, 3, 0xff, 0xfe},
        .created_ms = 1700000000123,
        .attributes = {.uid = 4294967294,
                       .gid = 5,
                       .mode = 01755,
                       .acl = sample->acl,
                       .acl_length = 44,
                       .default_acl = sample->acl,
                       .default_acl_length = 12},
        .settings = sample->settings,
        .setting_count = 2,
        .partitions = sample->partitions,
        .partition_count = 3,
    };
    for (size_t i = 0; i < 3; i++)
        sample->partitions[i] = (struct kq_partition_record){
            .attributes = {.uid = (uid_t)i, .mode = 0640}, .renderings = renderings_of(i + 1)};
}

static void drop_sample(struct sample *sample)
{
    for (size_t i = 0; i < 3; i++)
        free(sample->partitions[i].renderings);
}

static void assert_attributes_equal(const struct kq_attributes *a, const struct kq_attributes *b)
{
    assert_int_equal(a->uid, b->uid);
    assert_int_equal(a->gid, b->gid);
    assert_int_equal(a->mode, b->mode);
    assert_int_equal(a->acl_length, b->acl_length);
    assert_int_equal(a->default_acl_length, b->default_acl_length);
    if (a->acl_length)
        assert_memory_equal(a->acl, b->acl, a->acl_length);
    if (a->default_acl_length)
        assert_memory_equal(a->default_acl, b->default_acl, a->default_acl_length);
}

static void all_of_a_topic_comes_back(void **state)
{
    struct sample sample;
    struct kq_topic_record back;
    kq_autoclose int fd = open(((struct ground *)*state)->path, O_RDONLY | O_DIRECTORY);
    make_sample(&sample);
    assert_int_equal(kq_store_write(fd, "orders", &sample.record), 0);
    assert_int_equal(kq_store_read(fd, "orders", &back), 0);
    assert_memory_equal(back.id, sample.record.id, KQ_UUID_BYTES);
    assert_int_equal(back.created_ms, sample.record.created_ms);
    assert_false(back.deleting);
    assert_attributes_equal(&back.attributes, &sample.record.attributes);
    assert_int_equal(back.setting_count, 2);
    for (size_t i = 0; i < 2; i++) {
        assert_string_equal(back.settings[i].name, sample.settings[i].name);
        assert_string_equal(back.settings[i].value, sample.settings[i].value);
    }
    assert_int_equal(back.partition_count, 3);
    for (size_t i = 0; i < 3; i++) {
        const struct kq_renderings *expected = sample.partitions[i].renderings;
        assert_attributes_equal(&back.partitions[i].attributes, &sample.partitions[i].attributes);
        assert_int_equal(back.partitions[i].renderings->count, expected->count);
        assert_memory_equal(back.partitions[i].renderings->at, expected->at,
                            expected->count * sizeof(expected->at[0]));
    }
    kq_topic_record_release(&back);
    drop_sample(&sample);
}

static void the_file_is_for_the_broker_alone(void **state)
{
    struct sample sample;
    struct stat st;
    struct ground *ground = *state;
    kq_autoclose int fd = open(ground->path, O_RDONLY | O_DIRECTORY);
    make_sample(&sample);
    assert_int_equal(kq_store_write(fd, "orders", &sample.record), 0);
    assert_int_equal(stat(ground_path(ground, "orders.topic"), &st), 0);
    assert_int_equal(st.st_mode & 07777, 0600);
    drop_sample(&sample);
}

/* Every prefix, and every byte turned into another. */
static void damage_is_told_and_never_more(void **state)
{
    struct sample sample;
    struct kq_topic_record back;
    struct kq_buf text = {0};
    make_sample(&sample);
    assert_int_equal(kq_store_encode("orders", &sample.record, &text), 0);
    for (size_t length = 0; length + 2 < text.length; length++)
        assert_int_equal(kq_store_decode("orders", text.data, length, &back), -EBADMSG);
    for (size_t at = 0; at < text.length; at++) {
        for (unsigned bit = 0; bit < 8; bit++) {
            text.data[at] ^= (uint8_t)(1 << bit);
            int r = kq_store_decode("orders", text.data, text.length, &back);
            assert_true(r == 0 || r == -EBADMSG);
            if (r == 0)
                kq_topic_record_release(&back);
            text.data[at] ^= (uint8_t)(1 << bit);
        }
    }
    kq_buf_release(&text);
    drop_sample(&sample);
}

static const char good[] =
    "{\"version\":1,\"name\":\"t\",\"id\":\"AQID__4AAAAAAAAAAAAAAA\",\"created\":1,"
    "\"deleting\":true,\"uid\":0,\"gid\":0,\"mode\":\"1755\",\"settings\":{},\"partitions\":["
    "{\"uid\":0,\"gid\":0,\"mode\":\"0644\",\"renderings\":[{\"from\":0,\"framing\":\"line\","
    "\"delimiter\":\"\\\\n\",\"key.separator\":\"\"}]}]}";

static int decode_with(const char *what, const char *instead)
{
    char text[1024];
    struct kq_topic_record back;
    const char *at = strstr(good, what);
    assert_non_null(at);
    snprintf(text, sizeof(text), "%.*s%s%s", (int)(at - good), good, instead, at + strlen(what));
    int r = kq_store_decode("t", text, strlen(text), &back);
    if (r == 0)
        kq_topic_record_release(&back);
    return r;
}

static void what_makes_no_sense_is_damage(void **state)
{
    static const char *const changes[][2] = {
        {"\"version\":1", "\"version\":2"},
        {"\"name\":\"t\"", "\"name\":\"u\""},
        {"AQID", "AQI"},
        {"AQID", "AQI+"},
        {"\"created\":1", "\"created\":-1"},
        {"\"deleting\":true", "\"deleting\":1"},
        {"\"uid\":0", "\"uid\":4294967296"},
        {"\"mode\":\"1755\"", "\"mode\":\"1758\""},
        {"\"mode\":\"1755\"", "\"mode\":\"755\""},
        {"\"mode\":\"0644\"", "\"mode\":\"0644\",\"acl\":\"0\""},
        {"\"mode\":\"0644\"", "\"mode\":\"0644\",\"acl\":\"zz\""},
        {"\"settings\":{}", "\"settings\":[]"},
        {"\"settings\":{}", "\"settings\":{\"a\":1}"},
        {"\"from\":0", "\"from\":1"},
        {"\"framing\":\"line\"", "\"framing\":\"lines\""},
        {"\"delimiter\":\"\\\\n\"", "\"delimiter\":\"\""},
        {"\"renderings\":[{\"from\":0,\"framing\":\"line\",\"delimiter\":\"\\\\n\","
         "\"key.separator\":\"\"}]",
         "\"renderings\":[]"},
        {"}]}", "}]} x"},
    };
    assert_int_equal(decode_with("t", "t"), 0);
    for (size_t i = 0; i < kq_array_size(changes); i++)
        assert_int_equal(decode_with(changes[i][0], changes[i][1]), -EBADMSG);
}

static void after_any_failure_the_old_file_stands(void **state)
{
    struct sample sample;
    struct kq_topic_record back;
    kq_autoclose int fd = open(((struct ground *)*state)->path, O_RDONLY | O_DIRECTORY);
    make_sample(&sample);
    assert_int_equal(kq_store_write(fd, "orders", &sample.record), 0);
    sample.record.deleting = true;
    bool delivered = true;
    for (long nth = 1; delivered; nth++) {
        kq_fault_arm(~0u, nth, EIO, false);
        int r = kq_store_write(fd, "orders", &sample.record);
        delivered = kq_fault_disarm();
        assert_int_equal(r < 0, delivered);
        assert_int_equal(kq_store_read(fd, "orders", &back), 0);
        assert_int_equal(back.deleting, !delivered);
        kq_topic_record_release(&back);
    }
    drop_sample(&sample);
}

static void reading_passes_failures_on_and_leaks_nothing(void **state)
{
    struct sample sample;
    struct kq_topic_record back;
    kq_autoclose int fd = open(((struct ground *)*state)->path, O_RDONLY | O_DIRECTORY);
    make_sample(&sample);
    assert_int_equal(kq_store_write(fd, "orders", &sample.record), 0);
    bool delivered = true;
    for (long nth = 1; delivered; nth++) {
        kq_fault_arm(~0u, nth, EIO, false);
        int r = kq_store_read(fd, "orders", &back);
        delivered = kq_fault_disarm();
        assert_int_equal(r, delivered ? (r == -EIO ? -EIO : -ENOMEM) : 0);
        if (r == 0)
            kq_topic_record_release(&back);
    }
    drop_sample(&sample);
}

static void the_root_comes_back(void **state)
{
    uint8_t acl[28] = {2};
    struct kq_attributes root = {
        .uid = 7, .gid = 8, .mode = 01777, .default_acl = acl, .default_acl_length = 28};
    struct kq_attributes back;
    struct ground *ground = *state;
    kq_autoclose int fd = open(ground->path, O_RDONLY | O_DIRECTORY);
    assert_int_equal(kq_store_read_root(fd, &back), -ENOENT);
    assert_int_equal(kq_store_write_root(fd, &root), 0);
    assert_int_equal(kq_store_read_root(fd, &back), 0);
    assert_attributes_equal(&root, &back);
    kq_attributes_release(&back);
    ground_write(ground, KQ_STORE_ROOT, "{}");
    assert_int_equal(kq_store_read_root(fd, &back), -EBADMSG);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        GROUND_TEST(all_of_a_topic_comes_back),
        GROUND_TEST(the_file_is_for_the_broker_alone),
        GROUND_TEST(damage_is_told_and_never_more),
        GROUND_TEST(what_makes_no_sense_is_damage),
        GROUND_TEST(after_any_failure_the_old_file_stands),
        GROUND_TEST(reading_passes_failures_on_and_leaks_nothing),
        GROUND_TEST(the_root_comes_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
