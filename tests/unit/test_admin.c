#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "net/admin.h"

static int begin(void **state)
{
    static struct kq_arena arena;
    kq_arena_init(&arena, 64 << 20);
    *state = &arena;
    return 0;
}

static int end(void **state)
{
    kq_arena_release(*state);
    return 0;
}

static struct kq_str string(const char *text)
{
    return kq_str_of(text);
}

/* --- Equal ones --- */

static void each_key_knows_the_first_that_is_equal_to_it(void **state)
{
    const struct kq_str keys[] = {
        string("b"),  string("a"),        string("b"), string(""),  KQ_STR_NULL, {.data = "b\0", 2},
        string("ab"), {.data = "b\0", 2}, string(""),  KQ_STR_NULL, string("b"),
    };
    static const int32_t wanted[] = {0, 1, 0, 3, 4, 5, 6, 5, 3, 9, 0};
    int32_t *firsts;
    assert_int_equal(kq_admin_firsts(*state, keys, kq_array_size(keys), &firsts), 0);
    assert_memory_equal(firsts, wanted, sizeof(wanted));
    assert_int_equal(kq_admin_firsts(*state, keys, 0, &firsts), 0);
    assert_int_equal(kq_admin_firsts(*state, NULL, 0, &firsts), 0);
}

static void all_of_those_that_occur_twice_are_found(void **state)
{
    const struct kq_str keys[] = {string("a"), string("b"), string("a"), KQ_STR_NULL,
                                  string("c"), string("a"), KQ_STR_NULL, string("c")};
    static const bool wanted[] = {true, false, true, false, true, true, false, true};
    bool *repeated;
    assert_int_equal(kq_admin_repeated(*state, keys, kq_array_size(keys), &repeated), 0);
    assert_memory_equal(repeated, wanted, sizeof(wanted));
}

/* Names of equal length whose first bytes are equal: what a comparison dislikes most. */
static void many_names_are_told_apart(void **state)
{
    enum { COUNT = 200000, LENGTH = 32 };
    char *names = malloc((size_t)COUNT * (LENGTH + 1));
    struct kq_str *keys = malloc(COUNT * sizeof(*keys));
    int32_t *firsts;
    assert_non_null(names);
    assert_non_null(keys);
    for (int32_t i = 0; i < COUNT; i++) {
        char *name = names + (size_t)i * (LENGTH + 1);
        snprintf(name, LENGTH + 1, "%0*d", LENGTH, i % (COUNT - 1000));
        keys[i] = (struct kq_str){name, LENGTH};
    }
    assert_int_equal(kq_admin_firsts(*state, keys, COUNT, &firsts), 0);
    for (int32_t i = 0; i < COUNT; i++)
        assert_int_equal(firsts[i], i % (COUNT - 1000));
    free(keys);
    free(names);
}

static void without_memory_nothing_is_said(void **state)
{
    struct kq_arena small;
    const struct kq_str keys[] = {string("a"), string("a")};
    int32_t untouched = 7, *firsts = &untouched;
    bool no = false, *repeated = &no;
    for (size_t limit = 1; limit < 24; limit++) {
        kq_arena_init(&small, limit);
        assert_int_equal(kq_admin_firsts(&small, keys, 2, &firsts), -ENOMEM);
        assert_int_equal(kq_admin_repeated(&small, keys, 2, &repeated), -ENOMEM);
        assert_null(kq_admin_change_list(&small, "a", "b", true));
        kq_arena_release(&small);
    }
    assert_ptr_equal(firsts, &untouched);
    assert_ptr_equal(repeated, &no);
}

/* --- Lists --- */

static void words_are_added_once_behind_those_there_are(void **state)
{
    static const char *const cases[][3] = {
        {"", "", ""},
        {"a", "", "a"},
        {"", "a", "a"},
        {"a,b", "c", "a,b,c"},
        {"a,b", "b,a", "a,b"},
        {"a,b", "c,c,a,c", "a,b,c"},
        {"a", ",,b,,", "a,b"},
        {"a", " b , a ,  ", "a,b"},
        {"ab", "a,b,abc", "ab,a,b,abc"},
        {"a", "two words", "a,two words"},
    };
    for (size_t i = 0; i < kq_array_size(cases); i++)
        assert_string_equal(kq_admin_change_list(*state, cases[i][0], cases[i][1], true),
                            cases[i][2]);
}

static void words_are_taken_away(void **state)
{
    static const char *const cases[][3] = {
        {"", "a", ""},         {"a", "", "a"},      {"a,b,c", "b", "a,c"},
        {"a,b,c", "c,a", "b"}, {"a,b", "b, a", ""}, {"ab,a", "b,abc", "ab,a"},
        {"a,b", "b,b,b", "a"}, {"a", "x,y,z", "a"},
    };
    for (size_t i = 0; i < kq_array_size(cases); i++)
        assert_string_equal(kq_admin_change_list(*state, cases[i][0], cases[i][1], false),
                            cases[i][2]);
}

static void a_list_as_long_as_a_string_can_be_is_changed(void **state)
{
    enum { WORDS = 5000 };
    char *list = malloc(WORDS * 6 + 1);
    assert_non_null(list);
    list[0] = '\0';
    for (int i = 0; i < WORDS; i++)
        sprintf(list + (size_t)i * 6, "%05d%s", i, i + 1 < WORDS ? "," : "");
    for (int round = 0; round < 20; round++) {
        kq_arena_release(*state);
        assert_string_equal(kq_admin_change_list(*state, list, list, true), list);
        assert_string_equal(kq_admin_change_list(*state, list, list, false), "");
        assert_string_equal(kq_admin_change_list(*state, "", list, true), list);
    }
    free(list);
}

/* --- Strings, names --- */

static void a_string_with_a_nul_or_none_at_all_is_null(void **state)
{
    struct kq_request request = {0};
    kq_arena_init(&request.arena, 100);
    assert_string_equal(kq_admin_string(&request, (struct kq_str){"abc", 2}), "ab");
    assert_string_equal(kq_admin_string(&request, (struct kq_str){NULL, 0}), "");
    assert_null(kq_admin_string(&request, KQ_STR_NULL));
    assert_null(kq_admin_string(&request, (struct kq_str){"a\0b", 3}));
    assert_null(kq_admin_string(&request, (struct kq_str){"a\0", 2}));
    kq_arena_release(&request.arena);
}

static void a_refusal_carries_its_reason_if_there_is_room(void **state)
{
    struct kq_request request = {0};
    struct kq_str message = KQ_STR_NULL;
    char many[2000];
    memset(many, 'x', sizeof(many));
    kq_arena_init(&request.arena, 1024);
    assert_int_equal(kq_admin_refuse(&request, 42, &message, "%d is too %s", 7, "much"), 42);
    assert_true(kq_str_is(message, KQ_STR("7 is too much")));
    assert_int_equal(kq_admin_refuse(&request, 42, &message, "%.*s", 2000, many), 42);
    assert_int_equal(message.length, 511);
    assert_int_equal(kq_admin_refuse(&request, 43, &message, "%.*s", 2000, many), 43);
    assert_int_equal(message.length, 511);
    kq_arena_release(&request.arena);
}

static void kafkas_names_of_what_the_broker_sets_are_known(void **state)
{
    assert_string_equal(kq_topic_config_broker_name("retention.ms"), "log.retention.ms");
    assert_string_equal(kq_topic_config_broker_name("max.message.bytes"), "message.max.bytes");
    assert_string_equal(kq_topic_config_broker_name("segment.ms"), "log.roll.ms");
    assert_string_equal(kq_topic_config_broker_name("min.insync.replicas"), "min.insync.replicas");
    assert_string_equal(kq_topic_config_broker_name("framing"), "topic.framing");
    const char *name;
    for (size_t i = 0; (name = kq_topic_config_name(i)); i++)
        for (size_t j = 0; j < i; j++)
            assert_string_not_equal(kq_topic_config_broker_name(name),
                                    kq_topic_config_broker_name(kq_topic_config_name(j)));
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, begin, end)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(each_key_knows_the_first_that_is_equal_to_it),
        TEST(all_of_those_that_occur_twice_are_found),
        TEST(many_names_are_told_apart),
        TEST(without_memory_nothing_is_said),
        TEST(words_are_added_once_behind_those_there_are),
        TEST(words_are_taken_away),
        TEST(a_list_as_long_as_a_string_can_be_is_changed),
        TEST(a_string_with_a_nul_or_none_at_all_is_null),
        TEST(a_refusal_carries_its_reason_if_there_is_room),
        TEST(kafkas_names_of_what_the_broker_sets_are_known),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
