/* The files of .kqfs. */
#include "tests/unit/kernel.h"

static void version_and_configuration_are_what_the_command_said(void **state)
{
    kernel_assert_text(*state, ".kqfs/version", "kqfs test\n");
    kernel_assert_text(*state, ".kqfs/config", "[broker]\n");
}

static void metrics_are_those_of_the_moment_of_open(void **state)
{
    static const char name[] = "\nkqfs_topics ";
    struct kernel *kernel = *state;
    char *text = malloc(1 << 20), *more = malloc(1 << 20);
    uint64_t node, fh = kernel_open_path(kernel, ".kqfs/metrics", O_RDONLY, &node);
    kq_topic_unref(ground_topic(&kernel->ground, "bills", 1));
    ssize_t n = kernel_read(kernel, node, fh, 0, text, (1 << 20) - 1);
    assert_true(n > 0);
    text[n] = '\0';
    const char *value = strstr(text, name);
    assert_non_null(value);
    assert_int_equal(atoi(value + strlen(name)), 1);
    /* Read piece by piece it is the same text. */
    assert_int_equal(kernel_read(kernel, node, fh, 100, more, 50), 50);
    assert_memory_equal(more, text + 100, 50);
    assert_int_equal(kernel_read(kernel, node, fh, n, more, 50), 0);
    assert_int_equal(kernel_close(kernel, node, fh), 0);
    assert_true(kernel_cat(kernel, ".kqfs/metrics", text, 1 << 20) > 0);
    assert_int_equal(atoi(strstr(text, name) + strlen(name)), 2);
    free(text);
    free(more);
}

static void other_views_have_no_such_text(void **state)
{
    struct kernel *kernel = *state;
    struct kq_buf text = {0};
    assert_int_equal(kq_control_text(&kernel->fs, KQ_VIEW_TEXT, &text), -EINVAL);
    assert_int_equal(text.length, 0);
}

static void nothing_there_can_be_written_or_removed(void **state)
{
    struct kernel *kernel = *state;
    uint64_t node = kernel_node(kernel, ".kqfs/version"), fh = 0;
    uint64_t parent = kernel_node(kernel, ".kqfs");
    assert_int_equal(kernel_open(kernel, node, O_WRONLY, &fh), -EPERM);
    assert_int_equal(kernel_open(kernel, node, O_RDONLY | O_TRUNC, &fh), -EPERM);
    assert_int_equal(kernel_simple(kernel, FUSE_UNLINK, parent, NULL, 0, "version"), -EPERM);
    kernel_forget(kernel, node);
    kernel_forget(kernel, parent);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        KERNEL_TEST(version_and_configuration_are_what_the_command_said),
        KERNEL_TEST(metrics_are_those_of_the_moment_of_open),
        KERNEL_TEST(other_views_have_no_such_text),
        KERNEL_TEST(nothing_there_can_be_written_or_removed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
