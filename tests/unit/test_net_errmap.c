#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "broker/base/err.h"
#include "net/errmap.h"

static void results_become_the_codes_that_clients_act_on(void **state)
{
    assert_int_equal(kq_error_from(0), KQ_ERROR_NONE);
    assert_int_equal(kq_error_from(KQ_GONE), KQ_ERROR_OFFSET_OUT_OF_RANGE);
    assert_int_equal(kq_error_from(KQ_BEYOND), KQ_ERROR_OFFSET_OUT_OF_RANGE);
    assert_int_equal(kq_error_from(-EACCES), KQ_ERROR_TOPIC_AUTHORIZATION_FAILED);
    assert_int_equal(kq_error_from(-EPERM), KQ_ERROR_TOPIC_AUTHORIZATION_FAILED);
    assert_int_equal(kq_error_from(-ESTALE), KQ_ERROR_UNKNOWN_TOPIC_OR_PARTITION);
    assert_int_equal(kq_error_from(-EBADMSG), KQ_ERROR_CORRUPT_MESSAGE);
    assert_int_equal(kq_error_from(-EMSGSIZE), KQ_ERROR_MESSAGE_TOO_LARGE);
    assert_int_equal(kq_error_from(-ENOSPC), KQ_ERROR_KAFKA_STORAGE_ERROR);
    assert_int_equal(kq_error_from(-EIO), KQ_ERROR_KAFKA_STORAGE_ERROR);
    assert_int_equal(kq_error_from(-EROFS), KQ_ERROR_KAFKA_STORAGE_ERROR);
    assert_int_equal(kq_error_from(-ENOMEM), KQ_ERROR_UNKNOWN_SERVER_ERROR);
    assert_int_equal(kq_error_from(-12345), KQ_ERROR_UNKNOWN_SERVER_ERROR);
}

static void codes_have_kafkas_names(void **state)
{
    assert_string_equal(kq_error_name(0), "NONE");
    assert_string_equal(kq_error_name(-1), "UNKNOWN_SERVER_ERROR");
    assert_string_equal(kq_error_name(2), "CORRUPT_MESSAGE");
    assert_string_equal(kq_error_name(128), "INVALID_REGULAR_EXPRESSION");
    assert_string_equal(kq_error_name(99), "?"); /* Kafka has none */
    assert_string_equal(kq_error_name(-2), "?");
    assert_string_equal(kq_error_name(INT16_MAX), "?");
    assert_string_equal(kq_error_name(INT16_MIN), "?");
    for (int16_t code = 0; code <= 128; code++)
        assert_true(code == 99 || strcmp(kq_error_name(code), "?") != 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(results_become_the_codes_that_clients_act_on),
        cmocka_unit_test(codes_have_kafkas_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
