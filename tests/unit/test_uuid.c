#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "broker/base/err.h"
#include "broker/uuid.h"

static void the_text_is_url_safe_base64_without_padding(void **state)
{
    static const uint8_t id[KQ_UUID_BYTES] = {0xfb, 0xff, 0xbf, 1, 2,  3,  4,  5,
                                              6,    7,    8,    9, 10, 11, 12, 0xff};
    uint8_t back[KQ_UUID_BYTES];
    char text[KQ_UUID_TEXT + 1];
    kq_uuid_format(id, text);
    assert_string_equal(text, "-_-_AQIDBAUGBwgJCgsM_w");
    assert_int_equal(kq_uuid_parse(text, back), 0);
    assert_memory_equal(back, id, sizeof(id));
}

static void other_characters_are_refused(void **state)
{
    uint8_t id[KQ_UUID_BYTES];
    assert_int_equal(kq_uuid_parse("", id), -EINVAL);
    assert_int_equal(kq_uuid_parse("AAAAAAAAAAAAAAAAAAAAA", id), -EINVAL);
    assert_int_equal(kq_uuid_parse("AAAAAAAAAAAAAAAAAAAAA+", id), -EINVAL);
}

static void new_ids_differ_and_can_be_shown(void **state)
{
    uint8_t last[KQ_UUID_BYTES] = {0}, id[KQ_UUID_BYTES];
    char text[KQ_UUID_TEXT + 1];
    for (int i = 0; i < 1000; i++) {
        assert_int_equal(kq_uuid_new(id), 0);
        assert_memory_not_equal(id, last, sizeof(id));
        kq_uuid_format(id, text);
        assert_int_not_equal(text[0], '-');
        memcpy(last, id, sizeof(id));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_text_is_url_safe_base64_without_padding),
        cmocka_unit_test(other_characters_are_refused),
        cmocka_unit_test(new_ids_differ_and_can_be_shown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
