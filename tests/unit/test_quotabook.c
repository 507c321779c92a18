#include "broker/quotabook.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "broker/base/fault.h"
#include "broker/quotafile.h"
#include "tests/unit/directory.h"

/* Who quotas can be for, where the client is "c" of user "u": the order in which they count. */
static const struct kq_quota_entity levels[] = {
    {true, true, "u", "c"},   {true, true, "u", NULL},   {true, false, "u", NULL},
    {true, true, NULL, "c"},  {true, true, NULL, NULL},  {true, false, NULL, NULL},
    {false, true, NULL, "c"}, {false, true, NULL, NULL},
};

#define LEVELS 8

struct facts {
    struct kq_quota_book *book;
    char path[DIRECTORY_BYTES];
    int dirfd;
};

static int set_up(void **state)
{
    struct facts *facts = calloc(1, sizeof(*facts));
    directory_make(facts->path, NULL);
    facts->dirfd = open(facts->path, O_RDONLY | O_DIRECTORY);
    *state = facts;
    return kq_quota_book_new(&facts->book);
}

static int take_down(void **state)
{
    struct facts *facts = *state;
    kq_quota_book_free(facts->book);
    close(facts->dirfd);
    directory_remove(facts->path);
    free(facts);
    return 0;
}

static void set(struct kq_quota_book *book, int level, enum kq_quota_type type, double value)
{
    assert_int_equal(kq_quota_book_set(book, &levels[level], type, value), 0);
}

/* What counts for client "c" of user "u", with limits that are 1 + their level. */
static int first_of(const struct kq_quota_book *book, enum kq_quota_type type)
{
    struct kq_quota_match match;
    if (!kq_quota_book_find(book, type, "u", "c", &match))
        return LEVELS;
    int level = (int)match.limit - 1;
    assert_int_equal(match.by_user, level < 6);
    assert_int_equal(match.by_client, level != 2 && level != 5);
    return level;
}

static void the_most_specific_quota_counts(void **state)
{
    struct facts *facts = *state;
    for (unsigned which = 0; which < 1 << LEVELS; which++) {
        int first = LEVELS;
        for (int i = LEVELS - 1; i >= 0; i--) {
            bool there = which & 1u << i;
            set(facts->book, i, KQ_QUOTA_FETCH, there ? i + 1 : 0);
            first = there ? i : first;
        }
        assert_int_equal(first_of(facts->book, KQ_QUOTA_FETCH), first);
        assert_int_equal(first_of(facts->book, KQ_QUOTA_PRODUCE), LEVELS);
        assert_int_equal(kq_quota_book_count(facts->book), __builtin_popcount(which));
        assert_int_equal(kq_quota_book_has(facts->book, KQ_QUOTA_FETCH), which != 0);
    }
}

static void each_type_stands_for_itself(void **state)
{
    struct facts *facts = *state;
    set(facts->book, 0, KQ_QUOTA_PRODUCE, 1);
    set(facts->book, 2, KQ_QUOTA_FETCH, 3);
    set(facts->book, 7, KQ_QUOTA_REQUEST, 8);
    assert_int_equal(first_of(facts->book, KQ_QUOTA_PRODUCE), 0);
    assert_int_equal(first_of(facts->book, KQ_QUOTA_FETCH), 2);
    assert_int_equal(first_of(facts->book, KQ_QUOTA_REQUEST), 7);
    set(facts->book, 0, KQ_QUOTA_PRODUCE, 0);
    assert_int_equal(first_of(facts->book, KQ_QUOTA_PRODUCE), LEVELS);
    assert_false(kq_quota_book_has(facts->book, KQ_QUOTA_PRODUCE));
    assert_true(kq_quota_book_has(facts->book, KQ_QUOTA_FETCH));
}

static void quotas_of_others_do_not_count(void **state)
{
    struct facts *facts = *state;
    struct kq_quota_match match;
    for (int i = 0; i < LEVELS; i++)
        set(facts->book, i, KQ_QUOTA_FETCH, i + 1);
    assert_true(kq_quota_book_find(facts->book, KQ_QUOTA_FETCH, "v", "c", &match));
    assert_int_equal(match.limit, 4);
    assert_true(kq_quota_book_find(facts->book, KQ_QUOTA_FETCH, "u", "d", &match));
    assert_int_equal(match.limit, 2);
    assert_true(kq_quota_book_find(facts->book, KQ_QUOTA_FETCH, "v", "", &match));
    assert_int_equal(match.limit, 5);
}

/* --- Listing and the file --- */

struct seen {
    double limits[LEVELS][KQ_QUOTA_TYPES];
    int count;
};

static bool same_name(const char *a, const char *b)
{
    return a && b ? strcmp(a, b) == 0 : a == b;
}

static int note(void *context, const struct kq_quota_entity *entity, const double *limits)
{
    struct seen *seen = context;
    for (int i = 0; i < LEVELS; i++)
        if (levels[i].has_user == entity->has_user && levels[i].has_client == entity->has_client &&
            same_name(levels[i].user, entity->user) && same_name(levels[i].client, entity->client))
            memcpy(seen->limits[i], limits, sizeof(seen->limits[i]));
    seen->count++;
    return 0;
}

static void fill(struct kq_quota_book *book)
{
    for (int i = 0; i < LEVELS; i++)
        for (int type = 0; type < KQ_QUOTA_TYPES; type++)
            if ((i + type) % 3)
                set(book, i, (enum kq_quota_type)type, 1.0 / 3 + i * 10 + type);
}

static void assert_filled(const struct kq_quota_book *book)
{
    struct seen seen = {.count = 0};
    assert_int_equal(kq_quota_book_each(book, note, &seen), 0);
    assert_int_equal(seen.count, LEVELS);
    for (int i = 0; i < LEVELS; i++)
        for (int type = 0; type < KQ_QUOTA_TYPES; type++) {
            double limit = (i + type) % 3 ? 1.0 / 3 + i * 10 + type : 0;
            assert_true(seen.limits[i][type] == limit);
        }
}

static void the_file_brings_back_what_was_written(void **state)
{
    struct facts *facts = *state;
    struct kq_quota_book *book;
    kq_autobuf struct kq_buf bytes = {0};
    assert_int_equal(kq_quota_file_read(facts->dirfd, &book), -ENOENT);
    fill(facts->book);
    assert_filled(facts->book);
    assert_int_equal(kq_quota_file_encode(facts->book, &bytes), 0);
    assert_int_equal(kq_quota_file_write(facts->dirfd, &bytes), 0);
    assert_int_equal(kq_quota_file_read(facts->dirfd, &book), 0);
    assert_filled(book);
    kq_quota_book_free(book);
}

static void any_name_survives_the_file(void **state)
{
    struct facts *facts = *state;
    struct kq_quota_book *book;
    struct kq_quota_match match;
    kq_autobuf struct kq_buf bytes = {0};
    const char *name = "<default> \" \\ \n\x01 \xc3\xa4 \xf0\x9f\x98\x80";
    const struct kq_quota_entity entity = {true, true, name, "\x7f"};
    assert_int_equal(kq_quota_book_set(facts->book, &entity, KQ_QUOTA_FETCH, 1e300), 0);
    assert_int_equal(kq_quota_file_encode(facts->book, &bytes), 0);
    assert_int_equal(kq_quota_file_write(facts->dirfd, &bytes), 0);
    assert_int_equal(kq_quota_file_read(facts->dirfd, &book), 0);
    assert_true(kq_quota_book_find(book, KQ_QUOTA_FETCH, name, "\x7f", &match));
    assert_true(match.limit == 1e300);
    kq_quota_book_free(book);
}

static void a_damaged_file_is_found_out(void **state)
{
    struct facts *facts = *state;
    static const char *const damaged[] = {
        "",
        "{}",
        "[]",
        "{\"version\":2,\"quotas\":[]}",
        "{\"version\":1,\"quotas\":{}}",
        "{\"version\":1,\"quotas\":[{}]}",
        "{\"version\":1,\"quotas\":[[]]}",
        "{\"version\":1,\"quotas\":[{\"producer_byte_rate\":1}]}",
        "{\"version\":1,\"quotas\":[{\"user\":\"\",\"producer_byte_rate\":1}]}",
        "{\"version\":1,\"quotas\":[{\"user\":1,\"producer_byte_rate\":1}]}",
        "{\"version\":1,\"quotas\":[{\"user\":\"u\",\"producer_byte_rate\":0}]}",
        "{\"version\":1,\"quotas\":[{\"user\":\"u\",\"producer_byte_rate\":-1}]}",
        "{\"version\":1,\"quotas\":[{\"user\":\"u\",\"producer_byte_rate\":\"1\"}]}",
        "{\"version\":1,\"quotas\":[{\"user\":\"u\",\"whatever\":1}]}",
        "{\"version\":1,\"quotas\":[{\"user\":\"u\",\"user\":\"v\",\"producer_byte_rate\":1}]}",
    };
    for (size_t i = 0; i < kq_array_size(damaged); i++) {
        struct kq_quota_book *book;
        struct kq_buf bytes = {.data = (uint8_t *)damaged[i], .length = strlen(damaged[i])};
        assert_int_equal(kq_quota_file_write(facts->dirfd, &bytes), 0);
        assert_int_equal(kq_quota_file_read(facts->dirfd, &book), -EBADMSG);
    }
}

/* --- Without memory --- */

static void without_memory_it_is_as_before(void **state)
{
    struct facts *facts = *state;
    bool failed = true;
    for (long n = 1; failed; n++) {
        kq_fault_arm(KQ_FAULT_MEMORY, n, ENOMEM, false);
        int r = kq_quota_book_set(facts->book, &levels[0], KQ_QUOTA_FETCH, 1);
        failed = kq_fault_disarm();
        assert_int_equal(r, failed ? -ENOMEM : 0);
        assert_int_equal(first_of(facts->book, KQ_QUOTA_FETCH), failed ? LEVELS : 0);
        assert_int_equal(kq_quota_book_count(facts->book), !failed);
    }
}

static void a_copy_is_whole_or_not_made(void **state)
{
    struct facts *facts = *state;
    struct kq_quota_book *copy = NULL;
    bool failed = true;
    fill(facts->book);
    for (long n = 1; failed; n++) {
        kq_fault_arm(KQ_FAULT_MEMORY, n, ENOMEM, false);
        int r = kq_quota_book_copy(facts->book, &copy);
        failed = kq_fault_disarm();
        assert_int_equal(r, failed ? -ENOMEM : 0);
    }
    assert_filled(copy);
    for (int i = 0; i < LEVELS; i++)
        for (int type = 0; type < KQ_QUOTA_TYPES; type++)
            set(copy, i, (enum kq_quota_type)type, 0);
    assert_int_equal(kq_quota_book_count(copy), 0);
    assert_filled(facts->book);
    kq_quota_book_free(copy);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, take_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(the_most_specific_quota_counts), TEST(each_type_stands_for_itself),
        TEST(quotas_of_others_do_not_count),  TEST(the_file_brings_back_what_was_written),
        TEST(any_name_survives_the_file),     TEST(a_damaged_file_is_found_out),
        TEST(without_memory_it_is_as_before), TEST(a_copy_is_whole_or_not_made),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
