/* The quotas' handlers without a network: what memory they lack, and what they then leave behind.
 */
#include <inttypes.h>

#include "broker/base/fault.h"
#include "broker/quota.h"
#include "net/errmap.h"
#include "net/message/alter_client_quotas.h"
#include "net/message/describe_client_quotas.h"
#include "net/message/fetch.h"
#include "net/throttle.h"
#include "tests/unit/handler_kit.h"

#define ENTRIES 40

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

static const struct kq_describe_client_quotas_request_component of_users = {
    .entity_type = KQ_STR("user"), .match_type = 2, .match = KQ_STR_NULL};

/* A limit for each of ENTRIES users. */
static void ask_to_alter(struct kq_request *request, double limit)
{
    struct kq_alter_client_quotas_request *body = request->body;
    struct kq_alter_client_quotas_request_entry *entries =
        kq_alter_client_quotas_request_entry_array(&request->arena, ENTRIES);
    for (int i = 0; i < ENTRIES; i++) {
        char name[16];
        snprintf(name, sizeof(name), "u%d", i);
        struct kq_alter_client_quotas_request_entity *entity =
            kq_alter_client_quotas_request_entity_array(&request->arena, 1);
        struct kq_alter_client_quotas_request_op *op =
            kq_alter_client_quotas_request_op_array(&request->arena, 1);
        entity->entity_type = KQ_STR("user");
        entity->entity_name = kq_str_of(kq_arena_string(&request->arena, name, strlen(name)));
        op->key = KQ_STR("consumer_byte_rate");
        op->value = limit;
        entries[i].entity = entity;
        entries[i].entity_count = 1;
        entries[i].ops = op;
        entries[i].ops_count = 1;
    }
    body->entries = entries;
    body->entries_count = ENTRIES;
}

/* The one limit that all of them have; 0: none has. */
static double limit_of_all(struct ground *ground)
{
    struct kq_request request;
    kit_make(ground, 48, 1, &request);
    struct kq_describe_client_quotas_request *body = request.body;
    const struct kq_describe_client_quotas_response *response = request.response;
    body->components = (void *)&of_users;
    body->components_count = 1;
    assert_int_equal(kq_api_describe_client_quotas(&request), KQ_HANDLED_NOW);
    assert_int_equal(response->error_code, KQ_ERROR_NONE);
    double limit = response->entries_count ? response->entries[0].values[0].value : 0;
    assert_int_equal(response->entries_count, limit > 0 ? ENTRIES : 0);
    for (int32_t i = 0; i < response->entries_count; i++) {
        assert_int_equal(response->entries[i].values_count, 1);
        assert_true(response->entries[i].values[0].value == limit);
    }
    kit_drop(&request);
    return limit;
}

static void whatever_fails_all_entities_have_the_same(void **state)
{
    struct ground *ground = *state;
    bool failed = true;
    double present = 0;
    for (long n = 1; failed; n++) {
        struct kq_request request;
        kit_make(ground, 49, 1, &request);
        ask_to_alter(&request, (double)n);
        const struct kq_alter_client_quotas_response *response = request.response;
        kq_fault_arm(~0u, n, n % 2 ? ENOMEM : EIO, false);
        enum kq_handled r = kq_api_alter_client_quotas(&request);
        failed = kq_fault_disarm();
        bool done = r == KQ_HANDLED_NOW && response->entries[ENTRIES - 1].error_code == 0;
        for (int i = 0; i < ENTRIES && r == KQ_HANDLED_NOW; i++)
            assert_int_equal(response->entries[i].error_code == 0, done);
        assert_true(done || failed);
        present = done ? (double)n : present;
        assert_true(limit_of_all(ground) == present);
        kit_drop(&request);
    }
}

static void what_cannot_be_shown_closes_the_connection(void **state)
{
    struct ground *ground = *state;
    struct kq_request request;
    bool failed = true;
    kit_make(ground, 49, 1, &request);
    ask_to_alter(&request, 5);
    assert_int_equal(kq_api_alter_client_quotas(&request), KQ_HANDLED_NOW);
    kit_drop(&request);
    for (long n = 1; failed; n++) {
        kit_make(ground, 48, 1, &request);
        kq_fault_arm(KQ_FAULT_MEMORY, n, ENOMEM, false);
        enum kq_handled r = kq_api_describe_client_quotas(&request);
        failed = kq_fault_disarm();
        assert_int_equal(r, failed ? KQ_HANDLED_CLOSE : KQ_HANDLED_NOW);
        kit_drop(&request);
    }
    /* Memory that the request may not have is as good as none. */
    kit_make(ground, 48, 1, &request);
    request.arena.limit = kq_arena_left(&request.arena) > 2000 ? 2000 : 0;
    assert_int_equal(kq_api_describe_client_quotas(&request), KQ_HANDLED_CLOSE);
    kit_drop(&request);
}

/* --- Fetches --- */

static void a_fetch_is_charged_where_its_messages_go(void **state)
{
    struct ground *ground = *state;
    const struct kq_quota_change change = {{.has_user = true, .user = "a"}, KQ_QUOTA_FETCH, 1000};
    struct kq_request request;
    assert_int_equal(kq_quota_alter(ground->broker, &ground_caller, &change, 1, false), 0);
    kit_make(ground, 1, 11, &request);
    kit_server.quotas = kq_broker_quotas(ground->broker);
    assert_int_equal(kq_throttle_fetch_bytes(&request), INT64_MAX);
    request.caller.principal = "User:a";
    assert_int_equal(kq_throttle_fetch_bytes(&request), 10000);
    assert_true(kq_throttle_fetch(&request, 10000));
    assert_int_equal(request.throttle_ms, 0);
    assert_false(kq_throttle_fetch(&request, 5000));
    assert_in_range(request.throttle_ms, 4900, 5000);
    int32_t before = request.throttle_ms;
    assert_true(kq_throttle_fetch(&request, 0));
    assert_int_equal(request.throttle_ms, before);
    kit_drop(&request);
    kit_server.quotas = NULL;
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, take_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(whatever_fails_all_entities_have_the_same),
        TEST(what_cannot_be_shown_closes_the_connection),
        TEST(a_fetch_is_charged_where_its_messages_go),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
