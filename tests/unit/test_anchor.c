#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "broker/base/fault.h"
#include "fs/anchor.h"

static void a_place_is_known_as_long_as_somebody_holds_it(void **state)
{
    struct kq_anchors *anchors;
    struct kq_anchor *first, *second;
    struct kq_fspart part = {0}, other = {0};
    assert_int_equal(kq_anchors_new(&anchors), 0);
    assert_int_equal(kq_anchor_find(anchors, &part, 5), -1);
    assert_int_equal(kq_anchor_hold(anchors, &part, 5, 700, &first), 0);
    assert_int_equal(kq_anchor_hold(anchors, &part, 5, 700, &second), 0);
    assert_int_equal(kq_anchor_find(anchors, &part, 5), 700);
    assert_int_equal(kq_anchor_find(anchors, &part, 6), -1);
    assert_int_equal(kq_anchor_find(anchors, &other, 5), -1);
    kq_anchor_drop(anchors, first);
    assert_int_equal(kq_anchor_find(anchors, &part, 5), 700);
    kq_anchor_drop(anchors, second);
    assert_int_equal(kq_anchor_find(anchors, &part, 5), -1);
    kq_anchors_free(anchors);
}

static void places_do_not_mix(void **state)
{
    enum { COUNT = 1000 };
    struct kq_anchors *anchors;
    struct kq_anchor *held[COUNT];
    struct kq_fspart parts[2] = {0};
    assert_int_equal(kq_anchors_new(&anchors), 0);
    for (int i = 0; i < COUNT; i++)
        assert_int_equal(kq_anchor_hold(anchors, &parts[i % 2], i / 2, i, &held[i]), 0);
    for (int i = 0; i < COUNT; i++)
        assert_int_equal(kq_anchor_find(anchors, &parts[i % 2], i / 2), i);
    for (int i = 0; i < COUNT; i++)
        kq_anchor_drop(anchors, held[i]);
    kq_anchors_free(anchors);
}

static void without_memory_nothing_is_held(void **state)
{
    struct kq_anchors *anchors;
    struct kq_anchor *anchor;
    struct kq_fspart part = {0};
    assert_int_equal(kq_anchors_new(&anchors), 0);
    kq_fault_arm(KQ_FAULT_MEMORY, 1, ENOMEM, false);
    assert_int_equal(kq_anchor_hold(anchors, &part, 5, 700, &anchor), -ENOMEM);
    kq_fault_disarm();
    assert_int_equal(kq_anchor_find(anchors, &part, 5), -1);
    kq_anchors_free(anchors);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_place_is_known_as_long_as_somebody_holds_it),
        cmocka_unit_test(places_do_not_mix),
        cmocka_unit_test(without_memory_nothing_is_held),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
