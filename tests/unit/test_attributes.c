#include "tests/unit/ground.h"

#include "broker/base/fault.h"

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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_copy_is_of_its_own),
        GROUND_TEST(they_persist_and_directories_keep_the_sticky_bit),
        GROUND_TEST(who_may_not_change_them_changes_nothing),
        GROUND_TEST(a_deleted_topic_has_none_to_change),
        GROUND_TEST(who_looks_while_they_change_sees_one_or_the_other),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
