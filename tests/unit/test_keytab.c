/* Keytabs that Kerberos' own library has written. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <fcntl.h>
#include <krb5.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "auth/keytab.h"
#include "broker/base/err.h"
#include "tests/unit/said.h"

static char path[] = "/tmp/kqfs-keytab-XXXXXX";
static char newer[sizeof(path) + 4];

/* A key of PRINCIPAL becomes the only one of the file, which is another one then. */
static void write_key(const char *principal)
{
    char name[64];
    krb5_context context;
    krb5_keytab keytab;
    krb5_keytab_entry entry = {.vno = 1};
    unlink(newer);
    snprintf(name, sizeof(name), "FILE:%s", newer);
    assert_int_equal(krb5_init_context(&context), 0);
    assert_int_equal(krb5_parse_name(context, principal, &entry.principal), 0);
    assert_int_equal(krb5_c_make_random_key(context, ENCTYPE_AES256_CTS_HMAC_SHA1_96, &entry.key),
                     0);
    assert_int_equal(krb5_kt_resolve(context, name, &keytab), 0);
    assert_int_equal(krb5_kt_add_entry(context, keytab, &entry), 0);
    krb5_kt_close(context, keytab);
    krb5_free_keyblock_contents(context, &entry.key);
    krb5_free_principal(context, entry.principal);
    krb5_free_context(context);
    assert_int_equal(rename(newer, path), 0);
}

static void write_bytes(const char *bytes, size_t length)
{
    int fd = open(newer, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    assert_int_equal(write(fd, bytes, length), length);
    close(fd);
    assert_int_equal(rename(newer, path), 0);
}

static int open_keytab(const char *principal, struct kq_keytab **ret)
{
    said_clear();
    return kq_keytab_new(path, principal, ret);
}

static void a_key_is_found_by_its_principal_or_without(void **state)
{
    static const char *const principals[] = {"", "kafka/localhost@KQFS.TEST"};
    write_key(principals[1]);
    for (size_t i = 0; i < kq_array_size(principals); i++) {
        struct kq_keytab *keytab;
        assert_int_equal(open_keytab(principals[i], &keytab), 0);
        struct kq_keytab_keys *keys = kq_keytab_keys(keytab);
        assert_true(kq_keytab_credential(keys) != GSS_C_NO_CREDENTIAL);
        kq_keytab_keys_unref(keys);
        kq_keytab_free(keytab);
    }
}

static void what_has_no_such_key_is_refused_with_its_name(void **state)
{
    static const char broken[] = "\5\2\0\0\0\4none";
    struct kq_keytab *keytab;
    write_key("kafka/localhost@KQFS.TEST");
    assert_int_equal(open_keytab("kafka/elsewhere@KQFS.TEST", &keytab), -EINVAL);
    assert_non_null(strstr(said, path));
    assert_non_null(strstr(said, "no key for kafka/elsewhere@KQFS.TEST"));
    write_bytes("", 0);
    assert_int_equal(open_keytab("", &keytab), -EINVAL);
    write_bytes("text", 4);
    assert_int_equal(open_keytab("", &keytab), -EINVAL);
    write_bytes(broken, sizeof(broken) - 1);
    assert_int_equal(open_keytab("", &keytab), -EINVAL);
    assert_non_null(strstr(said, path));
    unlink(path);
    assert_int_equal(open_keytab("", &keytab), -ENOENT);
}

static void another_file_counts_from_the_next_exchange_on(void **state)
{
    struct kq_keytab *keytab;
    write_key("kafka/localhost@KQFS.TEST");
    assert_int_equal(open_keytab("", &keytab), 0);
    struct kq_keytab_keys *first = kq_keytab_keys(keytab);
    struct kq_keytab_keys *same = kq_keytab_keys(keytab);
    assert_ptr_equal(first, same);
    write_key("kafka/localhost@KQFS.TEST");
    struct kq_keytab_keys *second = kq_keytab_keys(keytab);
    assert_ptr_not_equal(first, second);
    assert_true(kq_keytab_credential(first) != GSS_C_NO_CREDENTIAL); /* for who has begun */
    kq_keytab_keys_unref(same);
    kq_keytab_keys_unref(first);
    kq_keytab_keys_unref(second);
    kq_keytab_free(keytab);
}

static void one_that_is_broken_or_gone_leaves_the_keys_from_before(void **state)
{
    struct kq_keytab *keytab;
    write_key("kafka/localhost@KQFS.TEST");
    assert_int_equal(open_keytab("", &keytab), 0);
    struct kq_keytab_keys *first = kq_keytab_keys(keytab);
    write_bytes("text", 4);
    said_clear();
    for (int i = 0; i < 3; i++) {
        struct kq_keytab_keys *still = kq_keytab_keys(keytab);
        assert_ptr_equal(first, still);
        kq_keytab_keys_unref(still);
        if (i == 0)
            assert_non_null(strstr(said, path));
        else
            assert_string_equal(said, ""); /* it is read once */
        said_clear();
    }
    unlink(path);
    struct kq_keytab_keys *still = kq_keytab_keys(keytab);
    assert_ptr_equal(first, still);
    kq_keytab_keys_unref(still);
    kq_keytab_keys_unref(first);
    kq_keytab_free(keytab);
}

static int set_up(void **state)
{
    int fd = mkstemp(path);
    snprintf(newer, sizeof(newer), "%s.new", path);
    return fd < 0 ? -1 : close(fd);
}

static int tear_down(void **state)
{
    unlink(newer);
    unlink(path);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_key_is_found_by_its_principal_or_without),
        cmocka_unit_test(what_has_no_such_key_is_refused_with_its_name),
        cmocka_unit_test(another_file_counts_from_the_next_exchange_on),
        cmocka_unit_test(one_that_is_broken_or_gone_leaves_the_keys_from_before),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
