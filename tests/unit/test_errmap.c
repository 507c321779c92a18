/* What the user of the mount reads in errno. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "fs/internal.h"

static void conditions_become_what_the_contract_says(void **state)
{
    assert_int_equal(kq_fs_errno(KQ_GONE), ESTALE);
    assert_int_equal(kq_fs_errno(KQ_BEYOND), ENOENT);
    for (int condition = KQ_END; condition <= KQ_PARTIAL; condition++)
        assert_true(kq_fs_errno(condition) > 0);
}

static void errors_of_the_disk_pass_through(void **state)
{
    static const int errors[] = {ENOSPC, EDQUOT, EPERM,  EACCES,   ENOENT, EINVAL,
                                 EIO,    EROFS,  ESTALE, EMSGSIZE, ENOMEM};
    for (size_t i = 0; i < kq_array_size(errors); i++)
        assert_int_equal(kq_fs_errno(-errors[i]), errors[i]);
}

static void what_a_user_of_files_does_not_know_is_translated(void **state)
{
    assert_int_equal(kq_fs_errno(-EBADMSG), EIO);
    assert_int_equal(kq_fs_errno(-EPROTO), EIO);
    assert_int_equal(kq_fs_errno(-EFBIG), EMSGSIZE);
}

/* One ENOSYS, and the kernel never sends that operation again, for any file. */
static void enosys_never_reaches_the_kernel(void **state)
{
    assert_int_equal(kq_fs_errno(-ENOSYS), EOPNOTSUPP);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(conditions_become_what_the_contract_says),
        cmocka_unit_test(errors_of_the_disk_pass_through),
        cmocka_unit_test(what_a_user_of_files_does_not_know_is_translated),
        cmocka_unit_test(enosys_never_reaches_the_kernel),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
