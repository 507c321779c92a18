#include "tests/unit/ground.h"

#include "broker/scan.h"

static void a_partition_directory_is_known_by_its_name(void **state)
{
    static const struct {
        const char *name, *topic;
        int32_t number;
    } names[] = {
        {"a-0", "a", 0},
        {"a-b-12", "a-b", 12},
        {"a.topic-3", "a.topic", 3},
        {"--1", "-", 1},
        {"a-999999", "a", 999999},
        {"a-1000000", "", -1},
        {"a-01", "", -1},
        {"a-", "", -1},
        {"a", "", -1},
        {"-1", "", -1},
        {"a-x", "", -1},
        {"a b-1", "", -1},
        {"a-1x", "", -1},
        {"..-1", "", -1},
    };
    char copy[64];
    for (size_t i = 0; i < kq_array_size(names); i++) {
        snprintf(copy, sizeof(copy), "%s", names[i].name);
        assert_int_equal(kq_scan_split(copy), names[i].number);
        assert_string_equal(copy, names[i].number < 0 ? names[i].name : names[i].topic);
    }
}

static void each_name_is_taken_for_what_it_is(void **state)
{
    static const char *const directories[] = {
        "b-1",        "a-10",    "a-2",
        "lost+found", "strange", "a-3.0123456789abcdef0123456789abcdef-delete",
        "x-delete",
    };
    static const char *const files[] = {
        "b.topic",     "a.topic",         ".topic",
        "a b.topic",   "kqfs-tmp.1.2",    "kqfs-tmp.1.2.topic",
        "kqfs-tmp.1.", "meta.properties", "c-0",
    };
    struct ground *ground = *state;
    struct kq_scan scan = {0};
    for (size_t i = 0; i < kq_array_size(directories); i++)
        assert_int_equal(mkdir(ground_path(ground, directories[i]), 0700), 0);
    for (size_t i = 0; i < kq_array_size(files); i++)
        ground_write(ground, files[i], "");
    kq_autoclose int fd = open(ground->path, O_RDONLY | O_DIRECTORY);
    assert_int_equal(kq_scan_directory(fd, ground->path, &scan), 0);
    assert_int_equal(scan.directory_count, 3);
    assert_string_equal(scan.directories[0].topic, "a");
    assert_int_equal(scan.directories[0].number, 2);
    assert_int_equal(scan.directories[1].number, 10);
    assert_string_equal(scan.directories[2].topic, "b");
    assert_int_equal(scan.topic_count, 3);
    assert_string_equal(scan.topics[0], "a");
    assert_string_equal(scan.topics[1], "b");
    assert_string_equal(scan.topics[2], "kqfs-tmp.1.2");
    assert_int_equal(scan.leftover_count, 1);
    assert_int_equal(scan.temporary_count, 1);
    assert_string_equal(scan.temporaries[0], "kqfs-tmp.1.2");
    assert_int_equal(said_count, 2); /* strange, x-delete */
    kq_scan_release(&scan);
}

static void messages_leave_traces(void **state)
{
    struct ground *ground = *state;
    kq_autoclose int fd = open(ground->path, O_RDONLY | O_DIRECTORY);
    assert_int_equal(kq_scan_holds_messages(fd, "t-0"), -ENOENT);
    assert_int_equal(mkdir(ground_path(ground, "t-0"), 0700), 0);
    assert_int_equal(kq_scan_holds_messages(fd, "t-0"), 0);
    ground_write(ground, "t-0/partition.metadata", "x");
    ground_write(ground, "t-0/00000000000000000000.log", "");
    ground_write(ground, "t-0/00000000000000000000.index", "x");
    assert_int_equal(kq_scan_holds_messages(fd, "t-0"), 0);
    ground_write(ground, "t-0/00000000000000000000.log", "x");
    assert_int_equal(kq_scan_holds_messages(fd, "t-0"), 1);
    ground_write(ground, "t-0/00000000000000000000.log", "");
    ground_write(ground, "t-0/00000000000000000007.log", "");
    assert_int_equal(kq_scan_holds_messages(fd, "t-0"), 1);
    assert_int_equal(unlink(ground_path(ground, "t-0/00000000000000000007.log")), 0);
    ground_write(ground, "t-0/00000000000000000000.log.damaged", "");
    assert_int_equal(kq_scan_holds_messages(fd, "t-0"), 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_partition_directory_is_known_by_its_name),
        GROUND_TEST(each_name_is_taken_for_what_it_is),
        GROUND_TEST(messages_leave_traces),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
