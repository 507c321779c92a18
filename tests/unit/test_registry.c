#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "broker/base/fault.h"
#include "broker/internal.h"

static struct kq_registry registry;

static int set_up(void **state)
{
    kq_registry_init(&registry, 500, 1000);
    return 0;
}

static int take_down(void **state)
{
    while (registry.count)
        kq_registry_remove(&registry, registry.sorted[0]);
    kq_registry_destroy(&registry);
    return 0;
}

static struct kq_topic *make(const char *name)
{
    struct kq_topic *topic;
    assert_int_equal(kq_topic_new(NULL, name, &topic), 0);
    assert_int_equal(kq_uuid_new(topic->id), 0);
    return topic;
}

static int add(const char *name)
{
    struct kq_topic *topic = make(name);
    int r = kq_registry_add(&registry, topic);
    if (r == 0)
        kq_registry_set_state(&registry, topic, KQ_REGISTRY_LIVE);
    kq_topic_unref(topic);
    return r;
}

static void only_live_topics_are_found(void **state)
{
    struct kq_topic *topic = make("a"), *found;
    assert_int_equal(kq_registry_add(&registry, topic), 0);
    assert_int_equal(kq_registry_get(&registry, "a", &found), -ENOENT);
    assert_int_equal(kq_registry_next(&registry, "", &found), KQ_END);
    assert_int_equal(add("a"), -EBUSY);
    kq_registry_set_state(&registry, topic, KQ_REGISTRY_LIVE);
    assert_int_equal(kq_registry_get(&registry, "a", &found), 0);
    kq_topic_unref(found);
    assert_int_equal(add("a"), -EEXIST);
    kq_registry_set_state(&registry, topic, KQ_REGISTRY_DELETING);
    assert_int_equal(kq_registry_get(&registry, "a", &found), -ENOENT);
    assert_int_equal(add("a"), -EBUSY);
    kq_registry_remove(&registry, topic);
    assert_int_equal(add("a"), 0);
    kq_topic_unref(topic);
}

static void a_topic_is_found_by_its_id_while_it_lives(void **state)
{
    struct kq_topic *found;
    uint8_t ids[100][KQ_UUID_BYTES];
    for (unsigned i = 0; i < kq_array_size(ids); i++) {
        char name[16];
        snprintf(name, sizeof(name), "%u", i);
        struct kq_topic *topic = make(name);
        memcpy(ids[i], topic->id, KQ_UUID_BYTES);
        assert_int_equal(kq_registry_add(&registry, topic), 0);
        assert_int_equal(kq_registry_find(&registry, ids[i], &found), -ENOENT);
        kq_registry_set_state(&registry, topic, KQ_REGISTRY_LIVE);
        kq_topic_unref(topic);
    }
    for (unsigned i = 0; i < kq_array_size(ids); i++) {
        assert_int_equal(kq_registry_find(&registry, ids[i], &found), 0);
        assert_int_equal(atoi(found->name), i);
        kq_registry_remove(&registry, found);
        kq_topic_unref(found);
        assert_int_equal(kq_registry_find(&registry, ids[i], &found), -ENOENT);
    }
}

static void the_walk_is_in_order_of_bytes(void **state)
{
    struct kq_topic *found;
    char name[16], last[16] = "";
    size_t count = 0;
    for (unsigned i = 0; i < 500; i++) {
        snprintf(name, sizeof(name), "%u", i * 7919 % 500);
        assert_int_equal(add(name), 0);
    }
    assert_int_equal(add("one more"), -EDQUOT);
    while (kq_registry_next(&registry, last, &found) == 0) {
        assert_true(strcmp(found->name, last) > 0);
        snprintf(last, sizeof(last), "%.15s", found->name);
        assert_int_equal(kq_registry_get(&registry, last, &(struct kq_topic *){NULL}), 0);
        kq_topic_unref(found);
        kq_topic_unref(found);
        count++;
    }
    assert_int_equal(count, 500);
}

static void partitions_are_counted_up_to_the_limit(void **state)
{
    assert_int_equal(kq_registry_count_partitions(&registry, 1000), 0);
    assert_int_equal(kq_registry_count_partitions(&registry, 1), -EDQUOT);
    assert_int_equal(kq_registry_count_partitions(&registry, -1), 0);
    assert_int_equal(kq_registry_count_partitions(&registry, 1), 0);
}

static void what_would_be_said_is_said_and_nothing_taken(void **state)
{
    assert_int_equal(kq_registry_check(&registry, "a", 1000), 0);
    assert_int_equal(kq_registry_check(&registry, "a", 1001), -EDQUOT);
    assert_int_equal(kq_registry_count_partitions(&registry, 999), 0);
    assert_int_equal(kq_registry_check(&registry, "a", 2), -EDQUOT);
    assert_int_equal(kq_registry_check(&registry, "a", INT32_MAX), -EDQUOT);
    struct kq_topic *topic = make("a");
    assert_int_equal(kq_registry_add(&registry, topic), 0);
    assert_int_equal(kq_registry_check(&registry, "a", 1), -EBUSY);
    kq_registry_set_state(&registry, topic, KQ_REGISTRY_LIVE);
    assert_int_equal(kq_registry_check(&registry, "a", 1), -EEXIST);
    kq_topic_unref(topic);
    for (unsigned i = 1; i < 500; i++) {
        char name[16];
        snprintf(name, sizeof(name), "t%u", i);
        assert_int_equal(kq_registry_check(&registry, name, 1), 0);
        assert_int_equal(add(name), 0);
    }
    assert_int_equal(kq_registry_check(&registry, "b", 1), -EDQUOT);
}

static void without_memory_nothing_is_added(void **state)
{
    struct kq_topic *found;
    bool delivered = true;
    for (long nth = 1; delivered; nth++) {
        struct kq_topic *topic = make("a");
        kq_fault_arm(KQ_FAULT_MEMORY, nth, ENOMEM, false);
        int r = kq_registry_add(&registry, topic);
        delivered = kq_fault_disarm();
        assert_int_equal(r, delivered ? -ENOMEM : 0);
        assert_int_equal(registry.count, delivered ? 0 : 1);
        assert_int_equal(kq_registry_get(&registry, "a", &found), -ENOENT);
        kq_topic_unref(topic);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(only_live_topics_are_found, set_up, take_down),
        cmocka_unit_test_setup_teardown(a_topic_is_found_by_its_id_while_it_lives, set_up,
                                        take_down),
        cmocka_unit_test_setup_teardown(the_walk_is_in_order_of_bytes, set_up, take_down),
        cmocka_unit_test_setup_teardown(partitions_are_counted_up_to_the_limit, set_up, take_down),
        cmocka_unit_test_setup_teardown(what_would_be_said_is_said_and_nothing_taken, set_up,
                                        take_down),
        cmocka_unit_test_setup_teardown(without_memory_nothing_is_added, set_up, take_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
