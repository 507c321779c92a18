#include "tests/unit/ground.h"

#include <sched.h>

#include "auth/auth.h"
#include "broker/base/fault.h"
#include "broker/base/mem.h"

static uint8_t acl[28] = {2, 0, 0, 0, 1, 0, 6, 0};

static const struct kq_attributes full = {.uid = 100,
                                          .gid = 200,
                                          .mode = 0100751,
                                          .acl = acl,
                                          .acl_length = 28,
                                          .default_acl = acl,
                                          .default_acl_length = 12};

static void a_copy_is_of_its_own(void **state)
{
    struct kq_attributes copy;
    assert_int_equal(kq_attributes_copy(&full, &copy), 0);
    assert_ptr_not_equal(copy.acl, full.acl);
    assert_memory_equal(copy.acl, acl, 28);
    assert_memory_equal(copy.default_acl, acl, 12);
    kq_attributes_release(&copy);
    assert_null(copy.acl);
    for (long nth = 1; nth <= 2; nth++) {
        kq_fault_arm(KQ_FAULT_MEMORY, nth, ENOMEM, false);
        assert_int_equal(kq_attributes_copy(&full, &copy), -ENOMEM);
        assert_true(kq_fault_disarm());
    }
}

static void check(struct ground *ground, struct kq_topic *topic, struct kq_partition *partition,
                  mode_t mode)
{
    struct kq_attributes back, peek;
    assert_int_equal(kq_attributes_get(ground->broker, topic, partition, &back), 0);
    assert_int_equal(back.uid, 100);
    assert_int_equal(back.gid, 200);
    assert_int_equal(back.mode, mode);
    assert_int_equal(back.acl_length, 28);
    assert_memory_equal(back.acl, acl, 28);
    assert_int_equal(back.default_acl_length, 12);
    kq_attributes_peek(ground->broker, topic, partition, &peek);
    assert_int_equal(peek.mode, mode);
    assert_null(peek.acl);
    kq_attributes_release(&back);
}

static void they_persist_and_directories_keep_the_sticky_bit(void **state)
{
    struct ground *ground = *state;
    ground_open(ground);
    struct kq_topic *topic = ground_topic(ground, "t", 2);
    struct kq_partition *partition = ground_access(topic, 1).partition;
    assert_int_equal(kq_attributes_set(ground->broker, NULL, NULL, &ground_caller, &full), 0);
    assert_int_equal(ground->asked, KQ_RIGHT_CHANGE_ATTRIBUTES);
    assert_int_equal(kq_attributes_set(ground->broker, topic, NULL, &ground_caller, &full), 0);
    assert_int_equal(kq_attributes_set(ground->broker, topic, partition, &ground_caller, &full), 0);
    for (int i = 0; i < 2; i++) {
        check(ground, NULL, NULL, 01751);
        check(ground, topic, NULL, 01751);
        check(ground, topic, partition, 0751);
        kq_topic_unref(topic);
        ground_reopen(ground);
        topic = ground_find(ground, "t");
        partition = ground_access(topic, 1).partition;
    }
    kq_topic_unref(topic);
}

static void who_may_not_change_them_changes_nothing(void **state)
{
    struct ground *ground = *state;
    struct kq_attributes back;
    ground_open(ground);
    struct kq_topic *topic = ground_topic(ground, "t", 1);
    ground->denied = KQ_RIGHT_CHANGE_ATTRIBUTES;
    assert_int_equal(kq_attributes_set(ground->broker, topic, NULL, &ground_caller, &full),
                     -EACCES);
    assert_int_equal(kq_attributes_set(ground->broker, NULL, NULL, &ground_caller, &full), -EACCES);
    kq_attributes_peek(ground->broker, topic, NULL, &back);
    assert_int_equal(back.uid, 10);
    kq_attributes_peek(ground->broker, NULL, NULL, &back);
    assert_int_equal(back.uid, 1);
    kq_topic_unref(topic);
}

static void a_deleted_topic_has_none_to_change(void **state)
{
    struct ground *ground = *state;
    ground_open(ground);
    struct kq_topic *topic = ground_topic(ground, "t", 1);
    assert_int_equal(kq_topic_delete(topic, &ground_caller, false), 0);
    assert_int_equal(kq_attributes_set(ground->broker, topic, NULL, &ground_caller, &full),
                     -ESTALE);
    assert_false(ground_has(ground, "t.topic"));
    kq_topic_unref(topic);
}

/* --- What has been granted --- */

static struct kq_auth *auth;
static atomic_int questions;

static int counted(void *context, const struct kq_caller *caller, unsigned rights,
                   const struct kq_authz_object *object)
{
    struct kq_authz authz = kq_auth_authz(auth);
    atomic_fetch_add(&questions, 1);
    return authz.check(authz.context, caller, rights, object);
}

static const struct kq_caller owner = {.uid = 10, .gid = 20},
                              somebody = {.uid = 30, .gid = 40, .identity = 1};

static struct kq_topic *open_for_all(struct ground *ground, const char *name)
{
    struct kq_topic *topic;
    struct kq_topic_spec spec = {.name = name,
                                 .partitions = 2,
                                 .topic = {.uid = 10, .gid = 20, .mode = 0777},
                                 .partition = {.uid = 10, .gid = 20, .mode = 0666}};
    assert_int_equal(kq_topic_create(ground->broker, &owner, &spec, &topic), 0);
    return topic;
}

/* The answer, and whether somebody had to be asked for it. */
static int asks(struct kq_topic *topic, int32_t number, const struct kq_caller *caller,
                unsigned rights, bool *ret_asked)
{
    struct kq_partition *partition;
    struct kq_access access;
    int before = atomic_load(&questions);
    assert_int_equal(kq_partition_get(topic, number, &partition), 0);
    int r = kq_partition_access(partition, caller, rights, &access);
    kq_partition_unref(partition);
    *ret_asked = atomic_load(&questions) != before;
    return r;
}

#define ASKED(topic, number, caller, rights, result)                                               \
    do {                                                                                           \
        bool asked_;                                                                               \
        assert_int_equal(asks(topic, number, caller, rights, &asked_), result);                    \
        assert_true(asked_);                                                                       \
    } while (0)

#define REMEMBERED(topic, number, caller, rights)                                                  \
    do {                                                                                           \
        bool asked_;                                                                               \
        assert_int_equal(asks(topic, number, caller, rights, &asked_), 0);                         \
        assert_false(asked_);                                                                      \
    } while (0)

static int set_up_auth(void **state)
{
    set_up_ground(state);
    struct ground *ground = *state;
    assert_int_equal(kq_auth_new(&auth), 0);
    ground->options.authz.check = counted;
    ground->options.new_root = (struct kq_attributes){.uid = 10, .gid = 20, .mode = 01777};
    ground_open(ground);
    return 0;
}

static int take_auth_down(void **state)
{
    take_ground_down(state);
    kq_auth_free(auth);
    return 0;
}

static void what_was_granted_is_not_asked_again(void **state)
{
    struct kq_topic *topic = open_for_all(*state, "t");
    ASKED(topic, 0, &somebody, KQ_RIGHT_READ, 0);
    REMEMBERED(topic, 0, &somebody, KQ_RIGHT_READ);
    ASKED(topic, 0, &somebody, KQ_RIGHT_WRITE, 0);
    REMEMBERED(topic, 0, &somebody, KQ_RIGHT_READ | KQ_RIGHT_WRITE);
    ASKED(topic, 1, &somebody, KQ_RIGHT_READ, 0);
    REMEMBERED(topic, 0, &somebody, KQ_RIGHT_WRITE);
    kq_topic_unref(topic);
}

static void who_has_no_number_is_always_asked_about(void **state)
{
    struct kq_topic *topic = open_for_all(*state, "t");
    struct kq_caller nameless = somebody, other = somebody;
    nameless.identity = 0;
    other.identity = 2;
    ASKED(topic, 0, &nameless, KQ_RIGHT_READ, 0);
    ASKED(topic, 0, &nameless, KQ_RIGHT_READ, 0);
    ASKED(topic, 0, &somebody, KQ_RIGHT_READ, 0);
    ASKED(topic, 0, &other, KQ_RIGHT_READ, 0);
    kq_topic_unref(topic);
}

static void a_refusal_is_asked_about_again(void **state)
{
    struct kq_topic *topic = open_for_all(*state, "t");
    ASKED(topic, 0, &somebody, KQ_RIGHT_DELETE_RECORDS, -EPERM);
    ASKED(topic, 0, &somebody, KQ_RIGHT_DELETE_RECORDS, -EPERM);
    ASKED(topic, 0, &somebody, KQ_RIGHT_READ, 0);
    ASKED(topic, 0, &somebody, KQ_RIGHT_READ | KQ_RIGHT_DELETE_RECORDS, -EPERM);
    REMEMBERED(topic, 0, &somebody, KQ_RIGHT_READ);
    kq_topic_unref(topic);
}

/* user::rwx, user:30:---, group::rwx, mask::rwx, other::rwx */
static uint8_t not_30[] = {
    2,  0, 0, 0,                         /**/
    1,  0, 7, 0, 0xff, 0xff, 0xff, 0xff, /**/
    2,  0, 0, 0, 30,   0,    0,    0,    /**/
    4,  0, 7, 0, 0xff, 0xff, 0xff, 0xff, /**/
    16, 0, 7, 0, 0xff, 0xff, 0xff, 0xff, /**/
    32, 0, 7, 0, 0xff, 0xff, 0xff, 0xff,
};

static const struct kq_attributes without = {.uid = 10, .gid = 20, .mode = 0770},
                                  with_acl = {.uid = 10,
                                              .gid = 20,
                                              .mode = 0777,
                                              .acl = not_30,
                                              .acl_length = sizeof(not_30)},
                                  with = {.uid = 10, .gid = 20, .mode = 0777},
                                  of_somebody = {.uid = 30, .gid = 20, .mode = 0077};

static void whatever_is_changed_counts_for_the_very_next_question(void **state)
{
    struct ground *ground = *state;
    static const struct kq_caller root = {.uid = 0};
    const struct kq_attributes *const changes[] = {&without, &with_acl, &of_somebody};
    struct kq_topic *topic = open_for_all(ground, "t");
    struct kq_partition *partition;
    assert_int_equal(kq_partition_get(topic, 0, &partition), 0);
    for (unsigned i = 0; i < 3 * kq_array_size(changes); i++) {
        struct kq_topic *of = i % 3 > 0 ? topic : NULL;
        struct kq_partition *in = i % 3 > 1 ? partition : NULL;
        ASKED(topic, 0, &somebody, KQ_RIGHT_READ, 0);
        REMEMBERED(topic, 0, &somebody, KQ_RIGHT_READ);
        assert_int_equal(kq_attributes_set(ground->broker, of, in, &root, changes[i / 3]), 0);
        ASKED(topic, 0, &somebody, KQ_RIGHT_READ, -EACCES);
        assert_int_equal(kq_attributes_set(ground->broker, of, in, &root, &with), 0);
    }
    kq_partition_unref(partition);
    kq_topic_unref(topic);
}

static int close_it(const struct kq_topic_attributes_change *change,
                    struct kq_attributes *attributes, const struct kq_partition *partition)
{
    if (partition)
        attributes->mode = 0600;
    return 0;
}

static void a_change_of_all_partitions_counts_too(void **state)
{
    const struct kq_topic_attributes_change change = {close_it};
    struct kq_topic *topic = open_for_all(*state, "t");
    ASKED(topic, 1, &somebody, KQ_RIGHT_READ, 0);
    assert_int_equal(kq_topic_change_attributes(topic, &owner, &change), 0);
    ASKED(topic, 1, &somebody, KQ_RIGHT_READ, -EACCES);
    kq_topic_unref(topic);
}

/* The second may well get the memory of the first. */
static void a_topic_of_the_same_name_is_another(void **state)
{
    struct ground *ground = *state;
    struct kq_topic *topic = open_for_all(ground, "t");
    ASKED(topic, 0, &somebody, KQ_RIGHT_READ, 0);
    assert_int_equal(kq_topic_delete(topic, &owner, false), 0);
    bool asked;
    assert_int_equal(asks(topic, 0, &somebody, KQ_RIGHT_READ, &asked), -ESTALE);
    kq_topic_unref(topic);
    topic = ground_topic(ground, "t", 1);
    ASKED(topic, 0, &somebody, KQ_RIGHT_READ, -EACCES);
    kq_topic_unref(topic);
}

static void another_broker_is_asked_itself(void **state)
{
    struct ground *ground = *state;
    struct kq_topic *topic = open_for_all(ground, "t");
    ASKED(topic, 0, &somebody, KQ_RIGHT_READ, 0);
    kq_topic_unref(topic);
    ground_reopen(ground);
    topic = ground_find(ground, "t");
    ASKED(topic, 0, &somebody, KQ_RIGHT_READ, 0);
    kq_topic_unref(topic);
}

/* --- Threads --- */

static atomic_bool stop;

static void *look(void *argument)
{
    struct ground *ground = argument;
    struct kq_attributes attributes;
    while (!atomic_load(&stop)) {
        assert_int_equal(kq_attributes_get(ground->broker, NULL, NULL, &attributes), 0);
        assert_int_equal(attributes.acl_length, attributes.uid);
        for (size_t i = 0; i < attributes.acl_length; i++)
            assert_int_equal(attributes.acl[i], attributes.uid);
        kq_attributes_release(&attributes);
    }
    return NULL;
}

static void who_looks_while_they_change_sees_one_or_the_other(void **state)
{
    struct ground *ground = *state;
    uint8_t bytes[40];
    pthread_t thread;
    struct kq_attributes attributes = {.acl = bytes};
    ground->options.new_root = (struct kq_attributes){.mode = 0700};
    ground_open(ground);
    atomic_store(&stop, false);
    assert_int_equal(pthread_create(&thread, NULL, look, ground), 0);
    for (unsigned i = 1; i <= 40; i++) {
        memset(bytes, (int)i, sizeof(bytes));
        attributes.uid = i;
        attributes.acl_length = i;
        assert_int_equal(kq_attributes_set(ground->broker, NULL, NULL, &ground_caller, &attributes),
                         0);
    }
    atomic_store(&stop, true);
    pthread_join(thread, NULL);
}

static atomic_int turn;

/* Asks at each odd turn. */
static void *ask_in_turn(void *argument)
{
    struct kq_topic *topic = argument;
    bool asked;
    for (int at = 1; at < 200; at += 2) {
        while (atomic_load(&turn) != at)
            sched_yield();
        int wanted = at % 4 == 1 ? 0 : -EACCES;
        assert_int_equal(asks(topic, 0, &somebody, KQ_RIGHT_READ, &asked), wanted);
        atomic_store(&turn, at + 1);
    }
    return NULL;
}

static void what_one_thread_has_changed_holds_in_all_others(void **state)
{
    struct ground *ground = *state;
    pthread_t thread;
    struct kq_topic *topic = open_for_all(ground, "t");
    atomic_store(&turn, 0);
    assert_int_equal(pthread_create(&thread, NULL, ask_in_turn, topic), 0);
    for (int at = 0; at < 200; at += 2) {
        while (atomic_load(&turn) != at)
            sched_yield();
        assert_int_equal(
            kq_attributes_set(ground->broker, topic, NULL, &owner, at % 4 == 0 ? &with : &without),
            0);
        atomic_store(&turn, at + 1);
    }
    pthread_join(thread, NULL);
    kq_topic_unref(topic);
}

static void *ask_much(void *argument)
{
    bool asked;
    while (!atomic_load(&stop)) {
        int r = asks(argument, 0, &somebody, KQ_RIGHT_READ, &asked);
        assert_true(r == 0 || r == -EACCES);
    }
    return NULL;
}

static void who_asks_while_they_change_gets_an_answer(void **state)
{
    struct ground *ground = *state;
    pthread_t threads[2];
    struct kq_topic *topic = open_for_all(ground, "t");
    atomic_store(&stop, false);
    for (size_t i = 0; i < kq_array_size(threads); i++)
        assert_int_equal(pthread_create(&threads[i], NULL, ask_much, topic), 0);
    for (int i = 0; i < 100; i++)
        assert_int_equal(
            kq_attributes_set(ground->broker, topic, NULL, &owner, i % 2 ? &with : &with_acl), 0);
    atomic_store(&stop, true);
    for (size_t i = 0; i < kq_array_size(threads); i++)
        pthread_join(threads[i], NULL);
    kq_topic_unref(topic);
}

#define AUTH_TEST(name) cmocka_unit_test_setup_teardown(name, set_up_auth, take_auth_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_copy_is_of_its_own),
        GROUND_TEST(they_persist_and_directories_keep_the_sticky_bit),
        GROUND_TEST(who_may_not_change_them_changes_nothing),
        GROUND_TEST(a_deleted_topic_has_none_to_change),
        GROUND_TEST(who_looks_while_they_change_sees_one_or_the_other),
        AUTH_TEST(what_was_granted_is_not_asked_again),
        AUTH_TEST(who_has_no_number_is_always_asked_about),
        AUTH_TEST(a_refusal_is_asked_about_again),
        AUTH_TEST(whatever_is_changed_counts_for_the_very_next_question),
        AUTH_TEST(a_change_of_all_partitions_counts_too),
        AUTH_TEST(a_topic_of_the_same_name_is_another),
        AUTH_TEST(another_broker_is_asked_itself),
        AUTH_TEST(what_one_thread_has_changed_holds_in_all_others),
        AUTH_TEST(who_asks_while_they_change_gets_an_answer),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
