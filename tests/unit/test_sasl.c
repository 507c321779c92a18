/* The login of a connection: what is answered when, who stays connected, and how long. */
#include "net/api.h"

#define KIT_MORE_ROWS                                                                              \
    {17, 0, 1, 0, KQ_API_BEFORE_AUTH, kq_api_sasl_handshake, NULL, 4},                             \
        {36, 0, 2, 0, KQ_API_BEFORE_AUTH, kq_api_sasl_authenticate, NULL, 5},

#include "auth/principals.h"
#include "net/errmap.h"
#include "net/message/sasl_authenticate.h"
#include "net/message/sasl_handshake.h"
#include "net/sasl.h"
#include "tests/unit/net_kit.h"

/* --- A mechanism that does as its token says: m(ore), f(ail), b(roken), or a name --- */

struct kq_sasl_exchange {
    char name[64];
};

static atomic_int exchanges;
static _Atomic int64_t proof_expires_ms;

static int begin(void *context, struct kq_sasl_exchange **ret)
{
    atomic_fetch_add(&exchanges, 1);
    *ret = calloc(1, sizeof(**ret));
    return *ret ? 0 : -ENOMEM;
}

static int step(struct kq_sasl_exchange *exchange, const uint8_t *token, size_t length,
                struct kq_buf *ret_token, struct kq_sasl_outcome *ret)
{
    char what = length == 1 ? (char)token[0] : '\0';
    snprintf(exchange->name, sizeof(exchange->name), "%.*s", (int)length, (const char *)token);
    *ret = (struct kq_sasl_outcome){.result = what == 'm'   ? KQ_SASL_MORE
                                              : what == 'f' ? KQ_SASL_FAILED
                                                            : KQ_SASL_DONE,
                                    .name = exchange->name,
                                    .expires_ms = atomic_load(&proof_expires_ms),
                                    .complaint = "no",
                                    .reason = "it says so"};
    return what == 'b' ? -EIO : kq_buf_append_string(ret_token, what == 'm' ? "go on" : "");
}

static void end(struct kq_sasl_exchange *exchange)
{
    atomic_fetch_sub(&exchanges, 1);
    free(exchange);
}

static const struct kq_sasl_class safe = {"SAFE", false, begin, step, end};
static const struct kq_sasl_class other = {"OTHER", false, begin, step, end};
static const struct kq_sasl_class shown = {"SHOWN", true, begin, step, end};
static const struct kq_sasl_mechanism mechanisms[] = {
    {&safe, NULL}, {&other, NULL}, {&shown, NULL}};

/* --- The server --- */

static int setup(void **state)
{
    static const struct kq_principals_options host = {.certificate_rules = "",
                                                      .kerberos_rules = "",
                                                      .kerberos_realm = "",
                                                      .refresh_ms = INT32_MAX,
                                                      .max_entries = 10};
    static struct kit fresh;
    kit_setup(&fresh);
    snprintf(kit->listen, sizeof(kit->listen), "unix://%s/s sasl_plaintext://127.0.0.1:0",
             kit->path);
    kit->options.mechanisms = mechanisms;
    kit->options.mechanism_count = kq_array_size(mechanisms);
    kit->options.max_sasl_bytes = 1000;
    kit->options.sasl_ms = 600000;
    assert_int_equal(kq_principals_new(&host, &kit->options.principals), 0);
    atomic_store(&proof_expires_ms, 0);
    return 0;
}

static int teardown(void **state)
{
    struct kq_principals *principals = kit->options.principals;
    kit_end();
    kq_principals_free(principals);
    assert_int_equal(atomic_load(&exchanges), 0);
    return 0;
}

/* The clock never goes back. */
static void time_goes_by(int64_t ms)
{
    static int64_t shift_ms;
    kq_clock_shift_ms(shift_ms += ms);
}

/* --- The client --- */

static int64_t lifetime_ms; /* of the last session */

static void send_handshake(int fd, const char *mechanism, int16_t version)
{
    kq_autobuf struct kq_buf frame = {0};
    struct kq_sasl_handshake_request body;
    kq_sasl_handshake_request_init(&body);
    body.mechanism = kq_str_of(mechanism);
    kit_frame(&frame, 17, version, 1, &body);
    kit_send(fd, frame.data, frame.length);
}

static void send_token(int fd, const char *token)
{
    kq_autobuf struct kq_buf frame = {0};
    struct kq_sasl_authenticate_request body;
    kq_sasl_authenticate_request_init(&body);
    body.auth_bytes = (struct kq_bytes){(const uint8_t *)token, (int32_t)strlen(token)};
    kit_frame(&frame, 36, 1, 2, &body);
    kit_send(fd, frame.data, frame.length);
}

/* The error code of what comes; the session's length is its end. */
static int16_t receive_error(int fd)
{
    uint8_t bytes[1000];
    assert_true(kit_receive(fd, bytes, 4));
    size_t size = kq_load_be32(bytes);
    assert_in_range(size, 6, sizeof(bytes));
    assert_true(kit_receive(fd, bytes, size));
    lifetime_ms = size > 8 ? (int64_t)kq_load_be64(bytes + size - 8) : 0;
    return (int16_t)kq_load_be16(bytes + 4);
}

static int16_t shake(int fd, const char *mechanism, int16_t version)
{
    send_handshake(fd, mechanism, version);
    return receive_error(fd);
}

static int16_t prove(int fd, const char *token)
{
    send_token(fd, token);
    return receive_error(fd);
}

static void is_served(int fd)
{
    kit_ask(fd, "now", 7);
    kit_expect(fd, 7);
}

static int log_in(const char *name)
{
    int fd = kit_connect_tcp();
    assert_int_equal(shake(fd, "SAFE", 1), KQ_ERROR_NONE);
    assert_int_equal(prove(fd, name), KQ_ERROR_NONE);
    return fd;
}

static void is_closed(int fd, enum kq_tally why, uint64_t count)
{
    kit_expect_closed(fd);
    close(fd);
    kit_until(kit_tally(why) == count);
}

/* --- Tests --- */

static void a_listener_without_logins_asks_for_none(void **state)
{
    kit_start();
    int fd = kit_connect();
    is_served(fd);
    assert_int_equal(shake(fd, "SAFE", 1), KQ_ERROR_ILLEGAL_SASL_STATE);
    assert_int_equal(prove(fd, "alice"), KQ_ERROR_ILLEGAL_SASL_STATE);
    is_served(fd);
    close(fd);
}

static void nothing_else_is_answered_before_a_login(void **state)
{
    kit_start();
    int fd = kit_connect_tcp();
    kit_ask(fd, "now", 7);
    is_closed(fd, KQ_TALLY_STRANGER, 1);
    send_token(fd = kit_connect_tcp(), "alice");
    is_closed(fd, KQ_TALLY_STRANGER, 2);
    assert_int_equal(shake(fd = kit_connect_tcp(), "SAFE", 1), KQ_ERROR_NONE);
    kit_ask(fd, "now", 7);
    is_closed(fd, KQ_TALLY_STRANGER, 3);
    assert_int_equal(shake(fd = kit_connect_tcp(), "SAFE", 1), KQ_ERROR_NONE);
    send_handshake(fd, "SAFE", 1);
    is_closed(fd, KQ_TALLY_STRANGER, 4);
    assert_int_equal(atomic_load(&kit_ran), 0);
}

static void who_proves_who_it_is_is_served(void **state)
{
    kit_start();
    int fd = kit_connect_tcp();
    assert_int_equal(shake(fd, "SAFE", 1), KQ_ERROR_NONE);
    for (int i = 0; i < 3; i++)
        assert_int_equal(prove(fd, "m"), KQ_ERROR_NONE);
    assert_int_equal(prove(fd, "alice"), KQ_ERROR_NONE);
    assert_int_equal(lifetime_ms, 0);
    is_served(fd);
    assert_int_equal(prove(fd, "alice"), KQ_ERROR_ILLEGAL_SASL_STATE);
    assert_int_equal(kit_tally(KQ_TALLY_LOGIN), 1);
    close(fd);
}

static void a_handshake_of_version_0_makes_frames_tokens(void **state)
{
    uint8_t answer[9];
    kit_start();
    int fd = kit_connect_tcp();
    assert_int_equal(shake(fd, "SAFE", 0), KQ_ERROR_NONE);
    kit_send(fd, "\0\0\0\1m", 5);
    assert_true(kit_receive(fd, answer, 9));
    assert_memory_equal(answer, "\0\0\0\5go on", 9);
    kit_send(fd, "\0\0\0\5alice", 9);
    assert_true(kit_receive(fd, answer, 4));
    assert_memory_equal(answer, "\0\0\0\0", 4);
    is_served(fd);
    assert_int_equal(shake(fd, "SAFE", 0), KQ_ERROR_ILLEGAL_SASL_STATE);
    close(fd);
}

static void what_comes_along_with_a_proof_waits_for_it(void **state)
{
    kit_start();
    int fd = kit_connect_tcp();
    send_handshake(fd, "SAFE", 1);
    send_token(fd, "alice");
    kit_ask(fd, "now", 7);
    assert_int_equal(receive_error(fd), KQ_ERROR_NONE);
    assert_int_equal(receive_error(fd), KQ_ERROR_NONE);
    kit_expect(fd, 7);
    close(fd);
    fd = kit_connect_tcp();
    send_handshake(fd, "SAFE", 1);
    send_token(fd, "f");
    kit_ask(fd, "now", 7);
    assert_int_equal(receive_error(fd), KQ_ERROR_NONE);
    assert_int_equal(receive_error(fd), KQ_ERROR_SASL_AUTHENTICATION_FAILED);
    is_closed(fd, KQ_TALLY_LOGIN_REFUSED, 1);
    assert_int_equal(atomic_load(&kit_ran), 1);
}

static void who_is_refused_is_disconnected(void **state)
{
    kit_start();
    int fd = kit_connect_tcp();
    assert_int_equal(shake(fd, "NONE", 1), KQ_ERROR_UNSUPPORTED_SASL_MECHANISM);
    is_closed(fd, KQ_TALLY_LOGIN_REFUSED, 1);
    assert_int_equal(shake(fd = kit_connect_tcp(), "SHOWN", 1),
                     KQ_ERROR_UNSUPPORTED_SASL_MECHANISM);
    is_closed(fd, KQ_TALLY_LOGIN_REFUSED, 2);
    shake(fd = kit_connect_tcp(), "SAFE", 1);
    assert_int_equal(prove(fd, "f"), KQ_ERROR_SASL_AUTHENTICATION_FAILED);
    is_closed(fd, KQ_TALLY_LOGIN_REFUSED, 3);
    shake(fd = kit_connect_tcp(), "SAFE", 1);
    send_token(fd, "b"); /* the broker's fault, which is not told */
    kit_expect_closed(fd);
    close(fd);
    kit_until(kit_tally(KQ_TALLY_LOGIN_FAILED) == 4);
    assert_int_equal(kit_tally(KQ_TALLY_LOGIN), 0);
}

static void a_secret_is_shown_where_that_was_set(void **state)
{
    kit->options.plain_without_tls = true;
    kit_start();
    int fd = kit_connect_tcp();
    assert_int_equal(shake(fd, "SHOWN", 1), KQ_ERROR_NONE);
    close(fd);
}

static void the_answer_that_refuses_waits_for_nobody_who_has_gone(void **state)
{
    const struct linger at_once = {.l_onoff = 1};
    kit->options.failed_login_delay_ms = 600000;
    kit_start();
    int fd = kit_connect_tcp();
    shake(fd, "SAFE", 1);
    send_token(fd, "f");
    kit_until(atomic_load(&exchanges) == 1);
    assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once)), 0);
    close(fd);
    kit_until(kq_admit_count(kit->server->admit) == 0);
}

static void the_answer_that_refuses_comes_later(void **state)
{
    kit->options.failed_login_delay_ms = 20;
    kit_start();
    int fd = kit_connect_tcp();
    shake(fd, "SAFE", 1);
    assert_int_equal(prove(fd, "f"), KQ_ERROR_SASL_AUTHENTICATION_FAILED);
    is_closed(fd, KQ_TALLY_LOGIN_REFUSED, 1);
}

static void who_takes_too_long_or_says_too_much_is_disconnected(void **state)
{
    kit->options.sasl_ms = 20;
    kit_start();
    int fd = kit_connect_tcp();
    is_closed(fd, KQ_TALLY_LOGIN_SLOW, 1);
    fd = kit_connect_tcp();
    kit_send(fd, "\0\0\3\351", 4); /* 1001 */
    kit_expect_closed(fd);
    close(fd);
}

static void a_session_ends_unless_it_is_renewed(void **state)
{
    kit->options.max_reauth_ms = 5000000;
    kit_start();
    int fd = log_in("alice");
    assert_int_equal(lifetime_ms, 5000000);
    assert_int_equal(shake(fd, "SAFE", 1), KQ_ERROR_ILLEGAL_SASL_STATE); /* within a second */
    time_goes_by(400000);
    assert_int_equal(shake(fd, "SAFE", 1), KQ_ERROR_NONE);
    assert_int_equal(prove(fd, "alice"), KQ_ERROR_NONE);
    assert_int_equal(kit_tally(KQ_TALLY_LOGIN_AGAIN), 1);
    for (int i = 0; i < 12; i++) {
        time_goes_by(400000);
        is_served(fd);
    }
    time_goes_by(400000);
    kit_ask(fd, "now", 7);
    is_closed(fd, KQ_TALLY_EXPIRED, 1);
}

static void a_session_ends_with_its_proof(void **state)
{
    kit->options.max_reauth_ms = 5000000;
    kit_start();
    atomic_store(&proof_expires_ms, kq_clock_wall_ms() + 600000);
    int fd = log_in("alice");
    assert_in_range(lifetime_ms, 1, 600000);
    time_goes_by(2000);
    atomic_store(&proof_expires_ms, kq_clock_wall_ms() - 1);
    shake(fd, "SAFE", 1);
    assert_int_equal(prove(fd, "alice"), KQ_ERROR_SASL_AUTHENTICATION_FAILED);
    is_closed(fd, KQ_TALLY_LOGIN_REFUSED, 1);
}

static void nobody_becomes_another_by_proving_anew(void **state)
{
    kit_start();
    int fd = log_in("alice");
    time_goes_by(2000);
    assert_int_equal(shake(fd, "SAFE", 1), KQ_ERROR_NONE);
    assert_int_equal(prove(fd, "eve"), KQ_ERROR_SASL_AUTHENTICATION_FAILED);
    is_closed(fd, KQ_TALLY_LOGIN_REFUSED, 1);
    fd = log_in("alice");
    time_goes_by(2000);
    assert_int_equal(shake(fd, "OTHER", 1), KQ_ERROR_NONE);
    assert_int_equal(prove(fd, "alice"), KQ_ERROR_SASL_AUTHENTICATION_FAILED);
    is_closed(fd, KQ_TALLY_LOGIN_REFUSED, 2);
}

static void a_listener_that_could_offer_nothing_is_refused(void **state)
{
    kit->options.mechanisms = &mechanisms[2];
    kit->options.mechanism_count = 1;
    assert_int_equal(kq_server_new(&kit->options, &kit->server), -EINVAL);
    assert_non_null(strstr(said, "plain_without_tls"));
    kit->options.plain_without_tls = true;
    kit_start();
    assert_true(kq_sasl_is_offered(kit->server, true) && kq_sasl_is_offered(kit->server, false));
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_listener_without_logins_asks_for_none),
        TEST(nothing_else_is_answered_before_a_login),
        TEST(who_proves_who_it_is_is_served),
        TEST(a_handshake_of_version_0_makes_frames_tokens),
        TEST(what_comes_along_with_a_proof_waits_for_it),
        TEST(who_is_refused_is_disconnected),
        TEST(a_secret_is_shown_where_that_was_set),
        TEST(the_answer_that_refuses_waits_for_nobody_who_has_gone),
        TEST(the_answer_that_refuses_comes_later),
        TEST(who_takes_too_long_or_says_too_much_is_disconnected),
        TEST(a_session_ends_unless_it_is_renewed),
        TEST(a_session_ends_with_its_proof),
        TEST(nobody_becomes_another_by_proving_anew),
        TEST(a_listener_that_could_offer_nothing_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
