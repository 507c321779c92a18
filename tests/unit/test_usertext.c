/* Changes of users as text: all of it or nothing, by whom may, on data that nobody else uses. */
#include "tests/unit/ground.h"

#include "broker/base/buf.h"
#include "broker/users.h"

#define SALT "salt=00ff"
#define KEY32 "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
#define SET_256(name)                                                                              \
    "set " name " SCRAM-SHA-256 iterations=4096 " SALT " stored-key=" KEY32 " server-key=" KEY32   \
    "\n"
#define SET_512(name)                                                                              \
    "set " name " SCRAM-SHA-512 iterations=8192 " SALT " stored-key=" KEY32 KEY32                  \
    " server-key=" KEY32 KEY32 "\n"

static int set_up(void **state)
{
    struct ground *ground = calloc(1, sizeof(*ground));
    ground_setup(ground);
    ground->options.max_users = 3;
    ground_open(ground);
    *state = ground;
    return 0;
}

static int tear_down(void **state)
{
    ground_remove(*state);
    free(*state);
    return 0;
}

static int alter(struct ground *ground, const char *text)
{
    return kq_user_alter_text(ground->broker, &ground_caller, text, strlen(text));
}

/* As `256 512`, the iterations of NAME; -1: it is not there. */
static int32_t iterations(struct ground *ground, const char *name, enum kq_scram_hash hash)
{
    struct kq_user_facts facts;
    if (kq_user_facts(kq_broker_users(ground->broker), name, &facts) < 0)
        return -1;
    return facts.iterations[hash];
}

static void lines_set_and_delete(void **state)
{
    struct ground *ground = *state;
    assert_int_equal(alter(ground, SET_256("app1") SET_512("app1") SET_256("b%20b")), 0);
    assert_int_equal(iterations(ground, "app1", KQ_SCRAM_SHA_256), 4096);
    assert_int_equal(iterations(ground, "app1", KQ_SCRAM_SHA_512), 8192);
    assert_int_equal(iterations(ground, "b b", KQ_SCRAM_SHA_512), 0);
    assert_int_equal(alter(ground, "delete app1\n"), 0);
    assert_int_equal(iterations(ground, "app1", KQ_SCRAM_SHA_256), -1);
    ground_reopen(ground);
    assert_int_equal(iterations(ground, "app1", KQ_SCRAM_SHA_512), -1);
    assert_int_equal(iterations(ground, "b b", KQ_SCRAM_SHA_256), 4096);
}

static void all_lines_or_none(void **state)
{
    static const struct {
        const char *text;
        int r;
    } refused[] = {
        {"", -EINVAL},
        {"\n", -EINVAL},
        {"delete ", -EINVAL},
        {"delete\n", -EINVAL},
        {"delete \n", -EINVAL},
        {"delete nobody\n", -ENOENT},
        {"delete there\ndelete there\n", -EINVAL},
        {"delete there SCRAM-SHA-256\n", -EINVAL},
        {"set there\n", -EINVAL},
        {"set there SCRAM-SHA-256\n", -EINVAL},
        {"hello\n", -EINVAL},
        {SET_256("a%0ab"), -EINVAL},
        {SET_256("a%2"), -EINVAL},
        {SET_256("\xff"), -EINVAL},
        {SET_256(""), -EINVAL},
        {SET_256("new") SET_256("new"), -EINVAL},
        {SET_256("new") "delete nobody\n", -ENOENT},
        {SET_256("new") "delete there", -EINVAL},
        {SET_256("new") SET_256("newer") SET_256("newest"), -EDQUOT},
    };
    struct ground *ground = *state;
    assert_int_equal(alter(ground, SET_256("there")), 0);
    for (size_t i = 0; i < kq_array_size(refused); i++) {
        assert_int_equal(alter(ground, refused[i].text), refused[i].r);
        assert_int_equal(iterations(ground, "new", KQ_SCRAM_SHA_256), -1);
        assert_int_equal(iterations(ground, "there", KQ_SCRAM_SHA_256), 4096);
    }
}

static void too_many_lines_and_too_long_ones_are_refused(void **state)
{
    struct ground *ground = *state;
    kq_autobuf struct kq_buf text = {0};
    for (int i = 0; i <= KQ_USER_LINES; i++)
        assert_int_equal(kq_buf_append_string(&text, SET_256("same")), 0);
    assert_int_equal(
        kq_user_alter_text(ground->broker, &ground_caller, (const char *)text.data, text.length),
        -EINVAL);
    text.length = 0;
    assert_int_equal(kq_buf_append_string(&text, "delete "), 0);
    for (int i = 0; i < KQ_USER_LINE_BYTES; i++)
        assert_int_equal(kq_buf_append_string(&text, "a"), 0);
    assert_int_equal(kq_buf_append_string(&text, "\n"), 0);
    assert_int_equal(
        kq_user_alter_text(ground->broker, &ground_caller, (const char *)text.data, text.length),
        -EINVAL);
}

static void who_may_not_alter_the_cluster_changes_nothing(void **state)
{
    struct ground *ground = *state;
    ground->denied = KQ_RIGHT_CHANGE_ATTRIBUTES;
    assert_int_equal(alter(ground, SET_256("app1")), -EACCES);
    assert_int_equal(iterations(ground, "app1", KQ_SCRAM_SHA_256), -1);
}

static void data_that_no_broker_uses_is_changed_in_place(void **state)
{
    static const char text[] = SET_256("app1") SET_512("app1");
    struct ground *ground = *state;
    assert_int_equal(kq_user_alter_stopped(ground->path, 3, text, strlen(text)), -EWOULDBLOCK);
    ground_close(ground);
    assert_int_equal(kq_user_alter_stopped(ground->path, 3, text, strlen(text)), 0);
    assert_int_equal(kq_user_alter_stopped(ground->path, 3, "delete b\n", 9), -ENOENT);
    ground_open(ground);
    assert_int_equal(iterations(ground, "app1", KQ_SCRAM_SHA_512), 8192);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(lines_set_and_delete),
        TEST(all_lines_or_none),
        TEST(too_many_lines_and_too_long_ones_are_refused),
        TEST(who_may_not_alter_the_cluster_changes_nothing),
        TEST(data_that_no_broker_uses_is_changed_in_place),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
