/* GSSAPI behind Kerberos, whose library is the test's own: the order of tokens, the choice of a
 * layer, who the client is. */
#include "auth/gssapi.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "broker/base/mem.h"
#include "tests/unit/fakegss.h"

static struct kq_principals *principals;
static struct kq_gssapi *gssapi;
static struct kq_sasl_exchange *exchange;
static char name[1200];    /* of the last outcome; "": none */
static char answer[70000]; /* to the last token */
static size_t answer_length;

static int set_up(void **state)
{
    static const struct kq_principals_options rules = {
        .certificate_rules = "", .kerberos_rules = "", .kerberos_realm = "R", .max_entries = 10};
    static const struct kq_gssapi_options options = {.keytab = "/none", .principal = ""};
    assert_int_equal(kq_principals_new(&rules, &principals), 0);
    assert_int_equal(kq_gssapi_new(&options, principals, &gssapi), 0);
    return kq_gssapi_class.begin(gssapi, &exchange);
}

static int tear_down(void **state)
{
    kq_gssapi_class.end(exchange);
    kq_gssapi_free(gssapi);
    kq_principals_free(principals);
    assert_int_equal(fakegss_held, 0);
    return 0;
}

/* The next client. */
static void again(void)
{
    kq_gssapi_class.end(exchange);
    assert_int_equal(kq_gssapi_class.begin(gssapi, &exchange), 0);
}

static enum kq_sasl_result send(const void *token, size_t length)
{
    kq_autobuf struct kq_buf buf = {0};
    struct kq_sasl_outcome outcome;
    assert_int_equal(kq_gssapi_class.step(exchange, token, length, &buf, &outcome), 0);
    snprintf(name, sizeof(name), "%s", outcome.name ? outcome.name : "");
    answer_length = buf.length;
    if (buf.length)
        memcpy(answer, buf.data, buf.length);
    assert_true(outcome.result != KQ_SASL_FAILED || (outcome.complaint && outcome.reason));
    return outcome.result;
}

/* A token for gss_accept_sec_context, answered with so many bytes, from WHO. */
static enum kq_sasl_result offer(enum fakegss_accept what, uint8_t bytes, const char *who)
{
    char token[1200];
    int length = snprintf(token, sizeof(token), "%c%c%s", 'x', 'x', who);
    token[0] = (char)what;
    token[1] = (char)bytes;
    return send(token, (size_t)length);
}

/* The last token: which layers of how many bytes, as whom. */
static enum kq_sasl_result choose(enum fakegss_unwrap what, uint8_t layers, const char *who)
{
    char token[1200];
    int length = snprintf(token, sizeof(token), "%c%c%c%c%c%s", 'x', 'x', 'x', 'x', 'x', who);
    memset(token, 0, 5);
    token[0] = (char)what;
    token[1] = (char)layers;
    return send(token, (size_t)length);
}

static void greet(void)
{
    again();
    assert_int_equal(offer(FAKEGSS_COMPLETE, 0, "alice/desk@R"), KQ_SASL_MORE);
}

/* --- Tests --- */

static void no_layer_is_offered_and_taken(void **state)
{
    assert_int_equal(offer(FAKEGSS_COMPLETE, 0, "alice@R"), KQ_SASL_MORE);
    assert_int_equal(answer_length, 4);
    assert_memory_equal(answer, "\1\0\0\0", 4);
    assert_int_equal(choose(FAKEGSS_UNWRAP, 1, ""), KQ_SASL_DONE);
    assert_string_equal(name, "alice");
    assert_int_equal(choose(FAKEGSS_UNWRAP, 1, ""), KQ_SASL_FAILED);
}

static void the_last_token_of_kerberos_goes_alone(void **state)
{
    assert_int_equal(offer(FAKEGSS_CONTINUE, 7, ""), KQ_SASL_MORE);
    assert_int_equal(answer_length, 7);
    assert_int_equal(offer(FAKEGSS_COMPLETE, 9, "alice@R"), KQ_SASL_MORE);
    assert_int_equal(answer_length, 9);
    assert_int_equal(send("", 0), KQ_SASL_MORE);
    assert_int_equal(answer_length, 4);
    assert_int_equal(choose(FAKEGSS_UNWRAP, 1, ""), KQ_SASL_DONE);
    again();
    offer(FAKEGSS_COMPLETE, 9, "alice@R");
    assert_int_equal(choose(FAKEGSS_UNWRAP, 1, ""), KQ_SASL_FAILED); /* before it was offered */
}

static void whom_kerberos_does_not_vouch_for_is_refused(void **state)
{
    for (int what = FAKEGSS_REFUSE; what < FAKEGSS_ACCEPTS; what++) {
        again();
        assert_int_equal(offer((enum fakegss_accept)what, 3, "alice@R"), KQ_SASL_FAILED);
        assert_int_equal(answer_length, 0);
        assert_int_equal(offer(FAKEGSS_COMPLETE, 0, "alice@R"), KQ_SASL_FAILED);
    }
    again();
    assert_int_equal(send("", 0), KQ_SASL_FAILED);
}

static void principals_that_no_rule_names_are_refused(void **state)
{
    static const char with_nul[] = "\0\0alice\0@R";
    char large[1100];
    memset(large, 'a', sizeof(large));
    memcpy(large + 1050, "@R", 3);
    const char *const refused[] = {"alice@OTHER", "alice", "@R", "", large};
    for (size_t i = 0; i < kq_array_size(refused); i++) {
        again();
        assert_int_equal(offer(FAKEGSS_COMPLETE, 0, refused[i]), KQ_SASL_FAILED);
    }
    again();
    assert_int_equal(send(with_nul, sizeof(with_nul) - 1), KQ_SASL_FAILED);
}

static void choices_other_than_no_layer_are_refused(void **state)
{
    for (int what = FAKEGSS_TWICE; what < FAKEGSS_UNWRAPS; what++) {
        greet();
        assert_int_equal(choose((enum fakegss_unwrap)what, 1, ""), KQ_SASL_FAILED);
    }
    for (int layers = 0; layers < 256; layers++) {
        greet();
        enum kq_sasl_result wanted = layers == 1 ? KQ_SASL_DONE : KQ_SASL_FAILED;
        assert_int_equal(choose(FAKEGSS_UNWRAP, (uint8_t)layers, ""), wanted);
    }
    for (size_t length = 0; length < 5; length++) {
        greet();
        assert_int_equal(send("\0\1\0\0\0", length), KQ_SASL_FAILED);
    }
}

static void a_client_is_called_by_its_own_names_only(void **state)
{
    static const char *const own[] = {"", "alice", "alice/desk@R"};
    static const char *const others[] = {"eve", "alic", "alicf", "alice@R", "alice/desk", "alice "};
    for (size_t i = 0; i < kq_array_size(own); i++) {
        greet();
        assert_int_equal(choose(FAKEGSS_UNWRAP, 1, own[i]), KQ_SASL_DONE);
        assert_string_equal(name, "alice");
    }
    for (size_t i = 0; i < kq_array_size(others); i++) {
        greet();
        assert_int_equal(choose(FAKEGSS_UNWRAP, 1, others[i]), KQ_SASL_FAILED);
        assert_string_equal(name, "alice/desk@R"); /* for the log */
    }
}

static void a_token_that_is_too_long_is_not_looked_at(void **state)
{
    static char large[65537];
    memcpy(large, "\0\0alice@R", 10);
    assert_int_equal(send(large, sizeof(large)), KQ_SASL_FAILED);
    assert_int_equal(fakegss_held, 1); /* the keytab */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(no_layer_is_offered_and_taken, set_up, tear_down),
        cmocka_unit_test_setup_teardown(the_last_token_of_kerberos_goes_alone, set_up, tear_down),
        cmocka_unit_test_setup_teardown(whom_kerberos_does_not_vouch_for_is_refused, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(principals_that_no_rule_names_are_refused, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(choices_other_than_no_layer_are_refused, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_client_is_called_by_its_own_names_only, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(a_token_that_is_too_long_is_not_looked_at, set_up,
                                        tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
