#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "broker/base/mem.h"
#include "broker/octal.h"

static void decodes(enum kq_octal_style style, const char *text, const char *expected)
{
    kq_autofree char *copy = kq_strdup(text);
    kq_octal_decode(copy, style);
    assert_string_equal(copy, expected);
}

static void encodes(enum kq_octal_style style, const char *text, const char *expected)
{
    kq_autobuf struct kq_buf to = {0};
    assert_int_equal(kq_octal_append(&to, text, style), 0);
    assert_int_equal(kq_buf_append(&to, "", 1), 0);
    assert_string_equal((char *)to.data, expected);
}

static void a_path_has_octal_escapes_and_no_others(void **state)
{
    decodes(KQ_OCTAL_PATH, "/a\\040b\\134c", "/a b\\c");
    decodes(KQ_OCTAL_PATH, "/a\\b\\\\c\\", "/a\\b\\\\c\\");
    decodes(KQ_OCTAL_PATH, "\\000\\400\\08\\01", "\\000\\400\\08\\01");
    decodes(KQ_OCTAL_PATH, "\\377", "\377");
    decodes(KQ_OCTAL_PATH, "", "");
}

static void an_option_has_octal_escapes_and_pairs(void **state)
{
    decodes(KQ_OCTAL_OPTION, "a\\,b\\\\040c\\040", "a,b\\040c ");
    decodes(KQ_OCTAL_OPTION, "a\\", "a\\");
}

static void what_ini_would_lose_is_escaped(void **state)
{
    encodes(KQ_OCTAL_PATH, " /a b\t;c ;d ", "\\040/a b\\011;c\\040;d\\040");
    encodes(KQ_OCTAL_PATH, "/\n\x7f\\040", "/\\012\\177\\134040");
    encodes(KQ_OCTAL_OPTION, "a\\,b\\ ;c\\\td ", "a\\,b\\040;c\\011d\\040");
    encodes(KQ_OCTAL_OPTION, "a\\", "a\\");
}

/* All strings of four of the bytes that matter. */
static void every_path_comes_back(void **state)
{
    static const char letters[] = "\\01 ;\n";
    const int count = sizeof(letters) - 1;
    for (int n = 0; n < count * count * count * count; n++) {
        const char text[] = {letters[n % count], letters[n / count % count],
                             letters[n / count / count % count], letters[n / count / count / count],
                             '\0'};
        kq_autobuf struct kq_buf to = {0};
        assert_int_equal(kq_octal_append(&to, text, KQ_OCTAL_PATH), 0);
        assert_int_equal(kq_buf_append(&to, "", 1), 0);
        kq_octal_decode((char *)to.data, KQ_OCTAL_PATH);
        assert_string_equal((char *)to.data, text);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_path_has_octal_escapes_and_no_others),
        cmocka_unit_test(an_option_has_octal_escapes_and_pairs),
        cmocka_unit_test(what_ini_would_lose_is_escaped),
        cmocka_unit_test(every_path_comes_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
