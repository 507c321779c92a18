/* Users' passwords over the wire: what Kafka refuses, all or nothing, and nothing of a password
 * that stays in memory. */
#include "auth/scram.h"
#include "broker/base/fault.h"
#include "broker/users.h"
#include "net/errmap.h"
#include "net/message/alter_user_scram_credentials.h"
#include "net/message/describe_user_scram_credentials.h"
#include "tests/unit/handler_kit.h"

typedef struct kq_alter_user_scram_credentials_request alter_request;
typedef struct kq_alter_user_scram_credentials_request_upsertion upsertion;
typedef struct kq_alter_user_scram_credentials_request_deletion deletion;
typedef struct kq_alter_user_scram_credentials_response alter_response;
typedef struct kq_describe_user_scram_credentials_request describe_request;
typedef struct kq_describe_user_scram_credentials_request_user asked_user;
typedef struct kq_describe_user_scram_credentials_response describe_response;

static struct kq_request request; /* the last one */
static uint8_t password[4][64];   /* salted ones, of upsertions */

static int set_up(void **state)
{
    struct ground *ground = calloc(1, sizeof(*ground));
    ground_setup(ground);
    ground_open(ground);
    *state = ground;
    return 0;
}

static int take_down(void **state)
{
    ground_remove(*state);
    free(*state);
    return 0;
}

static upsertion good(const char *name, int8_t mechanism, int which)
{
    int32_t bytes = mechanism == 1 ? 32 : 64;
    memset(password[which], 'p', sizeof(password[which]));
    return (upsertion){.name = kq_str_of(name),
                       .mechanism = mechanism,
                       .iterations = 4096,
                       .salt = {(const uint8_t *)"salt", 4},
                       .salted_password = {password[which], bytes}};
}

static const alter_response *alter(struct ground *ground, const upsertion *set, int32_t set_count,
                                   const deletion *gone, int32_t gone_count)
{
    kit_make(ground, 51, 0, &request);
    alter_request *body = request.body;
    body->upsertions = (upsertion *)set;
    body->upsertions_count = set_count;
    body->deletions = (deletion *)gone;
    body->deletions_count = gone_count;
    assert_int_equal(kq_api_alter_user_scram_credentials(&request), KQ_HANDLED_NOW);
    for (int32_t i = 0; i < set_count; i++)
        for (int32_t k = 0; k < set[i].salted_password.length; k++)
            assert_int_equal(set[i].salted_password.data[k], 0);
    return request.response;
}

/* The one result of the one upsertion. */
static int16_t set_one(struct ground *ground, upsertion set)
{
    const alter_response *response = alter(ground, &set, 1, NULL, 0);
    assert_int_equal(response->results_count, 1);
    int16_t error = response->results[0].error_code;
    kit_drop(&request);
    return error;
}

static int32_t iterations_of(struct ground *ground, const char *name, int mechanism)
{
    struct kq_user_facts facts;
    int r = kq_user_facts(kq_broker_users(ground->broker), name, &facts);
    return r < 0 ? 0 : facts.iterations[mechanism - 1];
}

/* --- Altering --- */

static void a_user_is_made_and_taken_away(void **state)
{
    struct ground *ground = *state;
    struct kq_scram_credential kept;
    const deletion gone = {KQ_STR("alice"), 1}, other = {KQ_STR("alice"), 2};
    assert_int_equal(set_one(ground, good("alice", 1, 0)), KQ_ERROR_NONE);
    assert_int_equal(set_one(ground, good("alice", 2, 0)), KQ_ERROR_NONE);
    assert_int_equal(
        kq_user_find(kq_broker_users(ground->broker), "alice", KQ_SCRAM_SHA_256, &kept), 0);
    assert_int_equal(kept.salt_length, 4);
    assert_int_equal(alter(ground, NULL, 0, &gone, 1)->results[0].error_code, KQ_ERROR_NONE);
    kit_drop(&request);
    assert_int_equal(iterations_of(ground, "alice", 1), 0);
    assert_int_equal(iterations_of(ground, "alice", 2), 4096);
    assert_int_equal(alter(ground, NULL, 0, &gone, 1)->results[0].error_code,
                     KQ_ERROR_RESOURCE_NOT_FOUND);
    kit_drop(&request);
    assert_int_equal(alter(ground, NULL, 0, &other, 1)->results[0].error_code, KQ_ERROR_NONE);
    kit_drop(&request);
    assert_int_equal(iterations_of(ground, "alice", 2), 0);
}

static void what_kafka_refuses_is_refused(void **state)
{
    struct ground *ground = *state;
    static char large[KQ_USER_NAME_BYTES + 2];
    static uint8_t salt[KQ_SCRAM_SALT_BYTES + 1];
    memset(large, 'a', KQ_USER_NAME_BYTES + 1);
    upsertion bad[12];
    int16_t wanted[12];
    size_t count = 0;
#define BAD(ERROR, CHANGE)                                                                         \
    bad[count] = good("alice", 1, 0);                                                              \
    bad[count].CHANGE;                                                                             \
    wanted[count++] = KQ_ERROR_##ERROR
    BAD(UNACCEPTABLE_CREDENTIAL, name = KQ_STR(""));
    BAD(UNACCEPTABLE_CREDENTIAL, name = kq_str_of(large));
    BAD(UNACCEPTABLE_CREDENTIAL, name = KQ_STR("a\nb"));
    BAD(UNACCEPTABLE_CREDENTIAL, name = ((struct kq_str){"a\0b", 3}));
    BAD(UNSUPPORTED_SASL_MECHANISM, mechanism = 0);
    BAD(UNSUPPORTED_SASL_MECHANISM, mechanism = 3);
    BAD(UNACCEPTABLE_CREDENTIAL, iterations = KQ_SCRAM_ITERATIONS_LEAST - 1);
    BAD(UNACCEPTABLE_CREDENTIAL, iterations = KQ_SCRAM_ITERATIONS_MOST + 1);
    BAD(UNACCEPTABLE_CREDENTIAL, salt.length = 0);
    BAD(UNACCEPTABLE_CREDENTIAL, salt = ((struct kq_bytes){salt, sizeof(salt)}));
    BAD(UNACCEPTABLE_CREDENTIAL, salted_password.length = 31);
    BAD(UNACCEPTABLE_CREDENTIAL, salted_password.length = 33);
#undef BAD
    for (size_t i = 0; i < count; i++) {
        memset(password[0], 'p', sizeof(password[0]));
        int16_t error = set_one(ground, bad[i]);
        if (error != wanted[i])
            fail_msg("%zu: %d", i, error);
    }
    assert_int_equal(iterations_of(ground, "alice", 1), 0);
}

static void a_user_is_not_altered_twice_in_a_request(void **state)
{
    struct ground *ground = *state;
    const upsertion set[] = {good("alice", 1, 0), good("bob", 1, 1), good("alice", 2, 2)};
    const alter_response *response = alter(ground, set, 3, NULL, 0);
    assert_int_equal(response->results_count, 2);
    assert_int_equal(response->results[0].error_code, KQ_ERROR_DUPLICATE_RESOURCE);
    assert_int_equal(response->results[1].error_code, KQ_ERROR_NONE);
    kit_drop(&request);
    assert_int_equal(iterations_of(ground, "alice", 1) + iterations_of(ground, "alice", 2), 0);
    assert_int_equal(iterations_of(ground, "bob", 1), 4096);
}

static void who_may_not_alter_the_cluster_alters_nobody(void **state)
{
    struct ground *ground = *state;
    ground->denied = KQ_RIGHT_CHANGE_ATTRIBUTES;
    const upsertion set[] = {good("alice", 1, 0), good("bob", 1, 1)};
    const alter_response *response = alter(ground, set, 2, NULL, 0);
    assert_int_equal(response->results_count, 2);
    for (int i = 0; i < 2; i++)
        assert_int_equal(response->results[i].error_code, KQ_ERROR_CLUSTER_AUTHORIZATION_FAILED);
    kit_drop(&request);
    assert_int_equal(iterations_of(ground, "alice", 1), 0);
}

static void whatever_fails_all_have_it_or_nobody(void **state)
{
    struct ground *ground = *state;
    bool failed = true;
    int32_t present = 0;
    for (int32_t n = 1; failed; n++) {
        upsertion set[] = {good("alice", 1, 0), good("bob", 2, 1)};
        set[0].iterations = set[1].iterations = 4096 + n;
        kit_make(ground, 51, 0, &request);
        alter_request *body = request.body;
        const alter_response *response = request.response;
        body->upsertions = set;
        body->upsertions_count = 2;
        kq_fault_arm(~0u, n, n % 2 ? ENOMEM : EIO, false);
        enum kq_handled r = kq_api_alter_user_scram_credentials(&request);
        failed = kq_fault_disarm();
        bool done = r == KQ_HANDLED_NOW && response->results[0].error_code == KQ_ERROR_NONE;
        assert_true(done || failed);
        present = done ? 4096 + n : present;
        assert_int_equal(iterations_of(ground, "alice", 1), present);
        assert_int_equal(iterations_of(ground, "bob", 2), present);
        assert_int_equal(password[0][0] | password[1][63], 0);
        kit_drop(&request);
    }
}

/* --- Describing --- */

static const describe_response *describe(struct ground *ground, const asked_user *users,
                                         int32_t count)
{
    kit_make(ground, 50, 0, &request);
    describe_request *body = request.body;
    body->users = (asked_user *)users;
    body->users_count = count;
    assert_int_equal(kq_api_describe_user_scram_credentials(&request), KQ_HANDLED_NOW);
    return request.response;
}

static void users_are_described_without_their_secrets(void **state)
{
    struct ground *ground = *state;
    const asked_user users[] = {
        {KQ_STR("alice")}, {KQ_STR("nobody")}, {KQ_STR("bob")}, {KQ_STR("bob")}};
    set_one(ground, good("alice", 1, 0));
    set_one(ground, good("alice", 2, 0));
    set_one(ground, good("bob", 2, 0));
    const describe_response *response = describe(ground, users, 4);
    assert_int_equal(response->results_count, 3);
    assert_int_equal(response->results[0].credential_infos_count, 2);
    assert_int_equal(response->results[0].credential_infos[1].mechanism, 2);
    assert_int_equal(response->results[0].credential_infos[1].iterations, 4096);
    assert_int_equal(response->results[1].error_code, KQ_ERROR_RESOURCE_NOT_FOUND);
    assert_int_equal(response->results[2].error_code, KQ_ERROR_DUPLICATE_RESOURCE);
    kit_drop(&request);
    response = describe(ground, NULL, -1);
    assert_int_equal(response->results_count, 2);
    kit_drop(&request);
}

static void a_hundred_users_are_listed(void **state)
{
    struct ground *ground = *state;
    char name[16];
    for (int i = 0; i < 100; i++) {
        snprintf(name, sizeof(name), "user%d", i);
        assert_int_equal(set_one(ground, good(name, 1, 0)), KQ_ERROR_NONE);
    }
    assert_int_equal(describe(ground, NULL, 0)->results_count, 100);
    kit_drop(&request);
}

static void who_may_not_list_is_told_nothing(void **state)
{
    struct ground *ground = *state;
    const asked_user alice = {KQ_STR("alice")};
    set_one(ground, good("alice", 1, 0));
    ground->denied = KQ_RIGHT_LIST;
    const describe_response *response = describe(ground, &alice, 1);
    assert_int_equal(response->error_code, KQ_ERROR_CLUSTER_AUTHORIZATION_FAILED);
    assert_int_equal(response->results_count, 0);
    kit_drop(&request);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, take_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_user_is_made_and_taken_away),
        TEST(what_kafka_refuses_is_refused),
        TEST(a_user_is_not_altered_twice_in_a_request),
        TEST(who_may_not_alter_the_cluster_alters_nobody),
        TEST(whatever_fails_all_have_it_or_nobody),
        TEST(users_are_described_without_their_secrets),
        TEST(a_hundred_users_are_listed),
        TEST(who_may_not_list_is_told_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
