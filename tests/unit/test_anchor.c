#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "broker/base/fault.h"
#include "fs/anchor.h"

/* The text position that is held; -1: none. */
static int64_t held_at(struct kq_anchors *anchors, const struct kq_fspart *part, int64_t offset,
                       uint64_t layout)
{
    struct kq_text_base base;
    if (!kq_anchor_find(anchors, part, offset, layout, &base))
        return -1;
    return base.text;
}

static int hold(struct kq_anchors *anchors, struct kq_fspart *part, int64_t offset, int64_t text,
                struct kq_anchor **ret)
{
    const struct kq_text_base base = {.text = text};
    return kq_anchor_hold(anchors, part, offset, 3, &base, ret);
}

static void a_place_is_known_as_long_as_somebody_holds_it(void **state)
{
    struct kq_anchors *anchors;
    struct kq_anchor *first, *second;
    struct kq_fspart part = {0}, other = {0};
    assert_int_equal(kq_anchors_new(&anchors), 0);
    assert_int_equal(held_at(anchors, &part, 5, 3), -1);
    assert_int_equal(hold(anchors, &part, 5, 700, &first), 0);
    assert_int_equal(hold(anchors, &part, 5, 700, &second), 0);
    assert_int_equal(held_at(anchors, &part, 5, 3), 700);
    assert_int_equal(held_at(anchors, &part, 6, 3), -1);
    assert_int_equal(held_at(anchors, &other, 5, 3), -1);
    assert_int_equal(held_at(anchors, &part, 5, 2), -1); /* in another layout it is another file */
    kq_anchor_drop(anchors, first);
    assert_int_equal(held_at(anchors, &part, 5, 3), 700);
    kq_anchor_drop(anchors, second);
    assert_int_equal(held_at(anchors, &part, 5, 3), -1);
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
        assert_int_equal(hold(anchors, &parts[i % 2], i / 2, i, &held[i]), 0);
    for (int i = 0; i < COUNT; i++)
        assert_int_equal(held_at(anchors, &parts[i % 2], i / 2, 3), i);
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
    assert_int_equal(hold(anchors, &part, 5, 700, &anchor), -ENOMEM);
    kq_fault_disarm();
    assert_int_equal(held_at(anchors, &part, 5, 3), -1);
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
