/* What the broker does, and what of it the kernel hears. */
#include "tests/unit/kernel.h"

/* Makes the kernel know PATH; its number. */
static unsigned long long know(struct kernel *kernel, const char *path)
{
    return kernel_node(kernel, path);
}

static const char *said_of(const char *format, ...) kq_printf_like(1, 2);

static const char *said_of(const char *format, ...)
{
    static char texts[8][128];
    static unsigned turn;
    char *text = texts[turn++ % 8];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof(texts[0]), format, arguments);
    va_end(arguments);
    return text;
}

#define INODE(node) said_of("inode %llu", node)

/* Nothing more has been queued: whatever comes is behind this. */
static void assert_silence(struct kernel *kernel)
{
    kq_notify_inode(&kernel->fs, 12345);
    kernel_assert_notices(kernel, "inode 12345", NULL);
}

static void a_new_topic_changes_the_root(void **state)
{
    struct kernel *kernel = *state;
    int64_t before = atomic_load(&kernel->fs.root_changed_ms);
    kq_topic_unref(ground_topic(&kernel->ground, "bills", 1));
    kernel_assert_notices(kernel, "inode 1", NULL);
    assert_true(atomic_load(&kernel->fs.root_changed_ms) > before);
    assert_silence(kernel);
}

static void a_topic_that_went_is_forgotten_by_name(void **state)
{
    struct kernel *kernel = *state;
    unsigned long long segments = know(kernel, ".kqfs/segments");
    struct kq_topic *topic = ground_find(&kernel->ground, "orders");
    assert_int_equal(kq_topic_delete(topic, &ground_caller, false), 0);
    kernel_assert_notices(kernel, "entry 1 orders", said_of("entry %llu orders", segments),
                          "inode 1", NULL);
    assert_silence(kernel);
    kq_topic_unref(topic);
}

static void a_new_partition_changes_the_directories_of_its_topic(void **state)
{
    struct kernel *kernel = *state;
    const struct kq_attributes attributes = {.mode = 0600};
    unsigned long long topic_node = know(kernel, "orders"),
                       offsets = know(kernel, "orders/by-offset"),
                       times = know(kernel, "orders/by-time"),
                       segments = know(kernel, "orders/by-segment"),
                       control = know(kernel, ".kqfs/segments/orders");
    know(kernel, "orders/by-offset/p0");
    struct kq_topic *topic = ground_find(&kernel->ground, "orders");
    assert_int_equal(kq_topic_add_partition(topic, &ground_caller, 2, &attributes), 0);
    kernel_assert_notices(kernel, INODE(topic_node), INODE(offsets), INODE(times), INODE(segments),
                          INODE(control), NULL);
    assert_silence(kernel);
    kq_topic_unref(topic);
}

static void a_start_that_moved_gives_the_name_a_new_node(void **state)
{
    struct kernel *kernel = *state;
    unsigned long long node = know(kernel, "orders");
    struct kq_topic *topic = ground_find(&kernel->ground, "orders");
    struct kq_access access = ground_access(topic, 1);
    struct kq_log_appended appended;
    assert_int_equal(ground_append(&access, "a\n", &appended), 0);
    assert_int_equal(kq_delete_records(access.partition, &ground_caller, -1), 0);
    kernel_assert_notices(kernel, said_of("entry %llu p1", node), NULL);
    assert_silence(kernel);
    kq_topic_unref(topic);
}

/* All NODES are among what was told before the call returned; others that the kernel may know as
 * well may be. */
static void assert_told_already(struct kernel *kernel, const unsigned long long *nodes,
                                size_t count)
{
    bool told[16] = {false};
    while (kernel_has_notice(kernel)) {
        const char *text = kernel_notice(kernel);
        for (size_t i = 0; i < count; i++)
            told[i] |= strcmp(text, INODE(nodes[i])) == 0;
    }
    for (size_t i = 0; i < count; i++)
        assert_true(told[i]);
}

static void attributes_of_a_topic_are_known_anew_in_all_its_directories(void **state)
{
    struct kernel *kernel = *state;
    const struct kq_attributes attributes = {.mode = 0700};
    const unsigned long long nodes[] = {
        know(kernel, "orders"),
        know(kernel, "orders/by-offset"),
        know(kernel, "orders/by-time"),
        know(kernel, "orders/by-segment"),
        know(kernel, "orders/by-offset/p0"),
        know(kernel, "orders/by-time/p1"),
        know(kernel, "orders/by-segment/p0"),
        know(kernel, ".kqfs/segments/orders"),
        know(kernel, ".kqfs/segments/orders/p1"),
    };
    struct kq_topic *topic = ground_find(&kernel->ground, "orders");
    assert_int_equal(
        kq_attributes_set(kernel->ground.broker, topic, NULL, &ground_caller, &attributes), 0);
    assert_told_already(kernel, nodes, kq_array_size(nodes));
    kq_topic_unref(topic);
}

static void attributes_of_a_partition_are_known_anew_in_the_views_that_are_kept(void **state)
{
    struct kernel *kernel = *state;
    const struct kq_attributes attributes = {.mode = 0600};
    const unsigned long long nodes[] = {
        know(kernel, "orders/p0.stream"),
        know(kernel, "orders/p0.jsonl"),
        know(kernel, "orders/p0.jsonl.stream"),
    };
    know(kernel, "orders/p1.jsonl");
    struct kq_topic *topic = ground_find(&kernel->ground, "orders");
    struct kq_access access = ground_access(topic, 0);
    assert_int_equal(kq_attributes_set(kernel->ground.broker, topic, access.partition,
                                       &ground_caller, &attributes),
                     0);
    assert_told_already(kernel, nodes, kq_array_size(nodes));
    kq_topic_unref(topic);
}

static void attributes_of_the_root_are_told_at_once(void **state)
{
    struct kernel *kernel = *state;
    const struct kq_attributes attributes = {.mode = 0755};
    const unsigned long long root = FUSE_ROOT_ID;
    assert_int_equal(
        kq_attributes_set(kernel->ground.broker, NULL, NULL, &ground_caller, &attributes), 0);
    assert_told_already(kernel, &root, 1);
}

static void appends_and_settings_are_no_news_where_nobody_watches(void **state)
{
    struct kernel *kernel = *state;
    struct kq_topic *topic = ground_find(&kernel->ground, "orders");
    struct kq_access access = ground_access(topic, 0);
    struct kq_log_appended appended;
    know(kernel, "orders/p0");
    assert_int_equal(ground_append(&access, "a\n", &appended), 0);
    assert_int_equal(kq_topic_set_config(topic, &ground_caller, "retention.ms", "60000"), 0);
    assert_silence(kernel);
    kq_topic_unref(topic);
}

static void an_append_is_news_for_the_partition_whose_log_view_is_known(void **state)
{
    struct kernel *kernel = *state;
    struct kq_topic *topic = ground_find(&kernel->ground, "orders");
    struct kq_log_appended appended;
    struct stat st;
    char paths[2][256];
    snprintf(paths[0], sizeof(paths[0]), "%s/orders", kernel->mountpoint);
    assert_int_equal(mkdir(paths[0], 0700), 0);
    for (int32_t i = 0; i < 2; i++) {
        snprintf(paths[i], sizeof(paths[i]), "%s/orders/p%d.log", kernel->mountpoint, i);
        close(open(paths[i], O_WRONLY | O_CREAT, 0600));
    }
    know(kernel, "orders/p1.log");
    know(kernel, "orders/p0");
    for (int32_t i = 0; i < 2; i++) {
        struct kq_access access = ground_access(topic, i);
        assert_int_equal(ground_append(&access, "text\n", &appended), 0);
    }
    while (!kq_notifier_stop(kernel->fs.notifier))
        sched_yield();
    assert_int_equal(stat(paths[0], &st), 0);
    assert_int_equal(st.st_size, 0);
    assert_int_equal(stat(paths[1], &st), 0);
    assert_int_equal(st.st_size, 5);
    kq_topic_unref(topic);
}

static void who_listens_no_more_hears_nothing(void **state)
{
    struct kernel *kernel = *state;
    kq_fs_unlisten(&kernel->fs);
    kq_topic_unref(ground_topic(&kernel->ground, "bills", 1));
    assert_silence(kernel);
    kq_fs_unlisten(&kernel->fs); /* once more is fine */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        KERNEL_TEST(a_new_topic_changes_the_root),
        KERNEL_TEST(a_topic_that_went_is_forgotten_by_name),
        KERNEL_TEST(a_new_partition_changes_the_directories_of_its_topic),
        KERNEL_TEST(a_start_that_moved_gives_the_name_a_new_node),
        KERNEL_TEST(attributes_of_a_topic_are_known_anew_in_all_its_directories),
        KERNEL_TEST(attributes_of_a_partition_are_known_anew_in_the_views_that_are_kept),
        KERNEL_TEST(attributes_of_the_root_are_told_at_once),
        KERNEL_TEST(appends_and_settings_are_no_news_where_nobody_watches),
        KERNEL_TEST(an_append_is_news_for_the_partition_whose_log_view_is_known),
        KERNEL_TEST(who_listens_no_more_hears_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
