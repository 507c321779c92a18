/* Kafka's ACLs over the wire: what a filter means, what owner, mode and ACL cannot say, an error of
 * its own for each entry, and who may ask. */
#include "auth/auth.h"
#include "auth/principals.h"
#include "broker/groups.h"
#include "net/acls.h"
#include "net/errmap.h"
#include "net/message/create_acls.h"
#include "net/message/delete_acls.h"
#include "net/message/describe_acls.h"
#include "tests/unit/handler_kit.h"

#define OWNER 54001 /* of the root and all topics */
#define APP 54002
#define OTHER 54003

enum { ANY = 1, MATCH, LITERAL, PREFIXED };
enum { DENY = 2, ALLOW = 3 };
#define BIT(OPERATION) (1U << KQ_ACL_OP_##OPERATION)

typedef struct kq_create_acls_request_creation creation;
typedef struct kq_create_acls_response create_response;
typedef struct kq_delete_acls_request_filter filter;
typedef struct kq_delete_acls_response delete_response;
typedef struct kq_delete_acls_response_filter_result filter_result;
typedef struct kq_describe_acls_response describe_response;

static struct kq_auth *auth;
static struct kq_principals *principals;
static struct kq_request request; /* the last one */
static uid_t asking;

static void make_topic(struct ground *ground, const char *name)
{
    struct kq_topic *topic;
    struct kq_caller owner = {.uid = OWNER, .gid = OWNER};
    struct kq_topic_spec spec = {.name = name,
                                 .partitions = 2,
                                 .topic = {.uid = OWNER, .gid = OWNER, .mode = 0700},
                                 .partition = {.uid = OWNER, .gid = OWNER, .mode = 0600}};
    assert_int_equal(kq_topic_create(ground->broker, &owner, &spec, &topic), 0);
    kq_topic_unref(topic);
}

static int set_up(void **state)
{
    static const struct kq_principal_entry users[] = {
        {"owner", OWNER}, {"app1", APP}, {"app1-too", APP}, {"app2", OTHER}};
    static const struct kq_principals_options options = {.certificate_rules = "",
                                                         .kerberos_rules = "",
                                                         .kerberos_realm = "",
                                                         .users = users,
                                                         .user_count = kq_array_size(users),
                                                         .refresh_ms = INT32_MAX,
                                                         .max_entries = 100};
    static struct ground ground;
    ground_setup(&ground);
    assert_int_equal(kq_auth_new(&auth), 0);
    assert_int_equal(kq_principals_new(&options, &principals), 0);
    ground.options.authz = kq_auth_authz(auth);
    ground.options.new_root = (struct kq_attributes){.uid = OWNER, .gid = OWNER, .mode = 01755};
    ground_open(&ground);
    make_topic(&ground, "orders");
    make_topic(&ground, "orders-eu");
    asking = OWNER;
    *state = &ground;
    return 0;
}

static int take_down(void **state)
{
    ground_remove(*state);
    kq_principals_free(principals);
    kq_auth_free(auth);
    return 0;
}

static void make(struct ground *ground, int16_t key)
{
    kit_make(ground, key, 3, &request);
    kit_server.options.principals = principals;
    request.caller = (struct kq_caller){.uid = asking, .gid = asking};
}

/* --- Creating --- */

static creation grant(const char *principal, int operation, const char *topic)
{
    return (creation){.resource_type = KQ_ACL_TOPIC,
                      .resource_name = kq_str_of(topic),
                      .resource_pattern_type = LITERAL,
                      .principal = kq_str_of(principal),
                      .host = KQ_STR("*"),
                      .operation = (int8_t)operation,
                      .permission_type = ALLOW};
}

/* To be dropped with kit_drop. */
static const create_response *create(struct ground *ground, creation *wanted, int32_t count)
{
    make(ground, 30);
    struct kq_create_acls_request *body = request.body;
    body->creations = wanted;
    body->creations_count = count;
    assert_int_equal(kq_api_create_acls(&request), KQ_HANDLED_NOW);
    const create_response *response = request.response;
    assert_int_equal(response->results_count, count);
    return response;
}

/* What comes of one; with WORDS, its message has them. */
static int16_t create_one(struct ground *ground, creation wanted, const char *words)
{
    const create_response *response = create(ground, &wanted, 1);
    int16_t error = response->results[0].error_code;
    struct kq_str message = response->results[0].error_message;
    if (words && (message.length <= 0 ||
                  !memmem(message.data, (size_t)message.length, words, strlen(words))))
        fail_msg("%.*s has no \"%s\"", message.length > 0 ? message.length : 0, message.data,
                 words);
    if (!words)
        assert_true(message.length < 0);
    kit_drop(&request);
    return error;
}

static void allow(struct ground *ground, creation wanted)
{
    assert_int_equal(create_one(ground, wanted, NULL), KQ_ERROR_NONE);
}

/* --- Listing --- */

static const filter everything = {.resource_type_filter = ANY,
                                  .resource_name_filter = KQ_STR_NULL,
                                  .pattern_type_filter = ANY,
                                  .principal_filter = KQ_STR_NULL,
                                  .host_filter = KQ_STR_NULL,
                                  .operation = ANY,
                                  .permission_type = ANY};

/* To be dropped with kit_drop. */
static const describe_response *describe(struct ground *ground, const filter *wanted)
{
    make(ground, 29);
    struct kq_describe_acls_request *body = request.body;
    *body = (struct kq_describe_acls_request){
        wanted->resource_type_filter, wanted->resource_name_filter, wanted->pattern_type_filter,
        wanted->principal_filter,     wanted->host_filter,          wanted->operation,
        wanted->permission_type};
    assert_int_equal(kq_api_describe_acls(&request), KQ_HANDLED_NOW);
    return request.response;
}

/* The operations that are listed of PRINCIPAL on NAME. */
static unsigned listed(struct ground *ground, filter wanted, const char *name,
                       const char *principal)
{
    unsigned operations = 0;
    const describe_response *response = describe(ground, &wanted);
    assert_int_equal(response->error_code, KQ_ERROR_NONE);
    for (int32_t i = 0; i < response->resources_count; i++) {
        const struct kq_describe_acls_response_resource *one = &response->resources[i];
        assert_int_equal(one->pattern_type, LITERAL);
        for (int32_t k = 0; k < one->acls_count; k++) {
            assert_int_equal(one->acls[k].permission_type, ALLOW);
            assert_true(kq_str_is(one->acls[k].host, KQ_STR("*")));
            if (kq_str_is(one->resource_name, kq_str_of(name)) &&
                kq_str_is(one->acls[k].principal, kq_str_of(principal)))
                operations |= 1U << one->acls[k].operation;
        }
    }
    kit_drop(&request);
    return operations;
}

static unsigned has(struct ground *ground, const char *name, const char *principal)
{
    return listed(ground, everything, name, principal);
}

static int32_t count_listed(struct ground *ground, filter wanted)
{
    int32_t count = 0;
    const describe_response *response = describe(ground, &wanted);
    assert_int_equal(response->error_code, KQ_ERROR_NONE);
    for (int32_t i = 0; i < response->resources_count; i++)
        count += response->resources[i].acls_count;
    kit_drop(&request);
    return count;
}

/* --- Deleting --- */

/* To be dropped with kit_drop. */
static const delete_response *delete (struct ground *ground, filter *wanted, int32_t count)
{
    make(ground, 31);
    struct kq_delete_acls_request *body = request.body;
    body->filters = wanted;
    body->filters_count = count;
    assert_int_equal(kq_api_delete_acls(&request), KQ_HANDLED_NOW);
    const delete_response *response = request.response;
    assert_int_equal(response->filter_results_count, count);
    return response;
}

/* --- Tests: filters --- */

static void what_is_null_or_any_matches_all(void **state)
{
    struct ground *ground = *state;
    allow(ground, grant("User:app1", KQ_ACL_OP_READ, "orders"));
    allow(ground, grant("User:app2", KQ_ACL_OP_WRITE, "orders-eu"));
    assert_int_equal(has(ground, "orders", "User:app1"), BIT(READ));
    assert_int_equal(has(ground, "orders-eu", "User:app2"), BIT(WRITE));
    assert_int_equal(has(ground, "orders", "User:app2"), 0);
    assert_true(has(ground, "orders", "User:owner") & BIT(READ));
    assert_true(has(ground, KQ_ACLS_CLUSTER, "User:*") & BIT(DESCRIBE));
}

static void each_part_of_a_filter_narrows_it(void **state)
{
    struct ground *ground = *state;
    allow(ground, grant("User:app1", KQ_ACL_OP_READ, "orders"));
    allow(ground, grant("User:app1", KQ_ACL_OP_WRITE, "orders"));
    allow(ground, grant("User:app1", KQ_ACL_OP_READ, "orders-eu"));
    filter of_app = everything;
    of_app.principal_filter = KQ_STR("User:app1");
    assert_int_equal(listed(ground, of_app, "orders", "User:app1"), BIT(READ) | BIT(WRITE));
    assert_int_equal(listed(ground, of_app, "orders", "User:owner"), 0);
    int32_t all = count_listed(ground, of_app);
    filter one = of_app;
    one.resource_name_filter = KQ_STR("orders");
    assert_int_equal(count_listed(ground, one), 2);
    one.operation = KQ_ACL_OP_WRITE;
    assert_int_equal(count_listed(ground, one), 1);
    one.resource_type_filter = KQ_ACL_GROUP;
    assert_int_equal(count_listed(ground, one), 0);
    one = of_app;
    one.resource_type_filter = KQ_ACL_TOPIC;
    assert_int_equal(count_listed(ground, one), 3);
    one.resource_type_filter = KQ_ACL_CLUSTER;
    assert_int_equal(count_listed(ground, one), all - 3);
    one = of_app;
    one.permission_type = ALLOW;
    one.host_filter = KQ_STR("*");
    assert_int_equal(count_listed(ground, one), all);
}

/* LITERAL, MATCH and ANY find the name itself; what begins alike is no ACL here. */
static void patterns_of_names_are_kafkas(void **state)
{
    struct ground *ground = *state;
    static const struct {
        int8_t pattern;
        int32_t found;
    } rows[] = {{ANY, 1}, {MATCH, 1}, {LITERAL, 1}, {PREFIXED, 0}};
    allow(ground, grant("User:app1", KQ_ACL_OP_READ, "orders"));
    allow(ground, grant("User:app1", KQ_ACL_OP_READ, "orders-eu"));
    filter named = everything;
    named.resource_type_filter = KQ_ACL_TOPIC;
    named.principal_filter = KQ_STR("User:app1");
    for (size_t i = 0; i < kq_array_size(rows); i++) {
        filter all = named;
        named.pattern_type_filter = all.pattern_type_filter = rows[i].pattern;
        named.resource_name_filter = KQ_STR("orders");
        all.resource_name_filter = KQ_STR_NULL;
        assert_int_equal(count_listed(ground, named), rows[i].found);
        assert_int_equal(count_listed(ground, all), 2 * rows[i].found);
        named.resource_name_filter = KQ_STR("order");
        assert_int_equal(count_listed(ground, named), 0);
    }
}

static void what_is_never_granted_is_never_found(void **state)
{
    struct ground *ground = *state;
    filter one = everything;
    one.permission_type = DENY;
    assert_int_equal(count_listed(ground, one), 0);
    one = everything;
    one.host_filter = KQ_STR("10.0.0.1");
    assert_int_equal(count_listed(ground, one), 0);
    one = everything;
    one.principal_filter = KQ_STR("User:nobody-has-this-name");
    assert_int_equal(count_listed(ground, one), 0);
    one.principal_filter = KQ_STR("Group:app1");
    assert_int_equal(count_listed(ground, one), 0);
    one = everything;
    one.resource_type_filter = KQ_ACL_TRANSACTIONAL_ID;
    assert_int_equal(count_listed(ground, one), 0);
    one = everything;
    one.resource_name_filter = KQ_STR("there-is-no-such-topic");
    assert_int_equal(count_listed(ground, one), 0);
}

static void a_user_is_found_by_each_of_its_names(void **state)
{
    struct ground *ground = *state;
    allow(ground, grant("User:app1-too", KQ_ACL_OP_READ, "orders"));
    assert_int_equal(has(ground, "orders", "User:app1"), BIT(READ));
    static const char *const names[] = {"User:app1", "User:app1-too", "User:#54002"};
    for (size_t i = 0; i < kq_array_size(names); i++) {
        filter one = everything;
        one.principal_filter = kq_str_of(names[i]);
        assert_int_equal(listed(ground, one, "orders", names[i]), BIT(READ));
    }
}

static void a_filter_with_an_unknown_number_is_refused(void **state)
{
    struct ground *ground = *state;
    filter bad[12];
    size_t count = 0;
#define BAD(FIELD, NUMBER)                                                                         \
    bad[count] = everything;                                                                       \
    bad[count++].FIELD = NUMBER
    BAD(resource_type_filter, 0);
    BAD(resource_type_filter, 8);
    BAD(resource_type_filter, -1);
    BAD(pattern_type_filter, 0);
    BAD(pattern_type_filter, 5);
    BAD(operation, 0);
    BAD(operation, 16);
    BAD(operation, -128);
    BAD(permission_type, 0);
    BAD(permission_type, 4);
#undef BAD
    for (size_t i = 0; i < count; i++) {
        const describe_response *listed = describe(ground, &bad[i]);
        assert_int_equal(listed->error_code, KQ_ERROR_INVALID_REQUEST);
        assert_true(listed->error_message.length > 0);
        assert_int_equal(listed->resources_count, 0);
        kit_drop(&request);
    }
    const delete_response *deleted = delete (ground, bad, (int32_t)count);
    for (size_t i = 0; i < count; i++)
        assert_int_equal(deleted->filter_results[i].error_code, KQ_ERROR_INVALID_REQUEST);
    kit_drop(&request);
}

/* --- Tests: what Unix cannot say --- */

static void what_unix_cannot_say_is_refused_with_a_reason(void **state)
{
    struct ground *ground = *state;
    int32_t before = count_listed(ground, everything);
#define REFUSED(WORDS, CHANGE)                                                                     \
    do {                                                                                           \
        creation wanted = grant("User:app1", KQ_ACL_OP_READ, "orders");                            \
        wanted.CHANGE;                                                                             \
        assert_int_equal(create_one(ground, wanted, WORDS), KQ_ERROR_INVALID_REQUEST);             \
    } while (0)
    REFUSED("take a right away", permission_type = DENY);
    REFUSED("take a right away", permission_type = ANY);
    REFUSED("host", host = KQ_STR("10.0.0.1"));
    REFUSED("LITERAL", resource_pattern_type = PREFIXED);
    REFUSED("LITERAL", resource_pattern_type = MATCH);
    REFUSED("name each", resource_name = KQ_STR("*"));
    REFUSED("owner", operation = KQ_ACL_OP_ALL);
    REFUSED("owner", operation = KQ_ACL_OP_DELETE);
    REFUSED("owner", operation = KQ_ACL_OP_ALTER_CONFIGS);
    REFUSED("No ACL", operation = KQ_ACL_OP_ANY);
    REFUSED("No ACL", operation = 0);
    REFUSED("No ACL", operation = 99);
    REFUSED("topics, groups and the cluster", resource_type = KQ_ACL_TRANSACTIONAL_ID);
    REFUSED("topics, groups and the cluster", resource_type = ANY);
    REFUSED("User:NAME", principal = KQ_STR("Group:app1"));
    REFUSED("User:NAME", principal = KQ_STR("User:"));
    REFUSED("User:NAME", principal = KQ_STR(""));
    REFUSED("no user", principal = KQ_STR("User:nobody-has-this-name"));
    REFUSED("no user", principal = KQ_STR("User:root"));
    REFUSED("no such resource", resource_name = KQ_STR("there-is-no-such-topic"));
    REFUSED("no such resource", resource_type = KQ_ACL_GROUP);
    REFUSED("comes with other operations", resource_type = KQ_ACL_CLUSTER);
#undef REFUSED
    assert_int_equal(count_listed(ground, everything), before);
}

static void each_entry_has_a_result_of_its_own(void **state)
{
    struct ground *ground = *state;
    creation wanted[] = {
        grant("User:app1", KQ_ACL_OP_READ, "orders"),
        grant("User:app1", KQ_ACL_OP_READ, "there-is-no-such-topic"),
        grant("User:app2", KQ_ACL_OP_WRITE, "orders-eu"),
        grant("User:app2", KQ_ACL_OP_READ, "orders-eu"),
    };
    wanted[3].permission_type = DENY;
    static const int16_t errors[] = {KQ_ERROR_NONE, KQ_ERROR_INVALID_REQUEST, KQ_ERROR_NONE,
                                     KQ_ERROR_INVALID_REQUEST};
    const create_response *response = create(ground, wanted, 4);
    for (size_t i = 0; i < 4; i++)
        assert_int_equal(response->results[i].error_code, errors[i]);
    kit_drop(&request);
    assert_int_equal(has(ground, "orders", "User:app1"), BIT(READ));
    assert_int_equal(has(ground, "orders-eu", "User:app2"), BIT(WRITE));
}

/* kafka-acls --producer --idempotent sends it first, and the Write that it follows from behind. */
static void idempotence_follows_from_a_write_of_the_same_request(void **state)
{
    struct ground *ground = *state;
    creation wanted[] = {grant("User:app1", KQ_ACL_OP_IDEMPOTENT_WRITE, KQ_ACLS_CLUSTER),
                         grant("User:app1", KQ_ACL_OP_WRITE, "orders")};
    wanted[0].resource_type = KQ_ACL_CLUSTER;
    assert_int_equal(create_one(ground, wanted[0], "Write on any topic"), KQ_ERROR_INVALID_REQUEST);
    const create_response *response = create(ground, wanted, 2);
    assert_int_equal(response->results[0].error_code, KQ_ERROR_NONE);
    assert_int_equal(response->results[1].error_code, KQ_ERROR_NONE);
    kit_drop(&request);
}

/* --- Tests: who asks --- */

static void only_an_owner_changes_acls(void **state)
{
    struct ground *ground = *state;
    filter mine = everything;
    mine.principal_filter = KQ_STR("User:app1");
    allow(ground, grant("User:app1", KQ_ACL_OP_READ, "orders"));
    asking = APP;
    make(ground, 30);
    kit_drop(&request);
    creation more = grant("User:app1", KQ_ACL_OP_WRITE, "orders");
    assert_int_equal(create_one(ground, more, NULL), KQ_ERROR_TOPIC_AUTHORIZATION_FAILED);
    more.resource_name = KQ_STR("orders-eu"); /* which it does not even see */
    assert_int_equal(create_one(ground, more, NULL), KQ_ERROR_TOPIC_AUTHORIZATION_FAILED);
    more.resource_type = KQ_ACL_CLUSTER;
    more.resource_name = KQ_STR(KQ_ACLS_CLUSTER);
    more.operation = KQ_ACL_OP_CREATE;
    assert_int_equal(create_one(ground, more, NULL), KQ_ERROR_CLUSTER_AUTHORIZATION_FAILED);
    mine.resource_type_filter = KQ_ACL_TOPIC;
    const filter_result *result = &delete (ground, &mine, 1)->filter_results[0];
    assert_int_equal(result->error_code, KQ_ERROR_NONE);
    assert_int_equal(result->matching_acls_count, 1);
    assert_int_equal(result->matching_acls[0].error_code, KQ_ERROR_TOPIC_AUTHORIZATION_FAILED);
    kit_drop(&request);
    asking = OWNER;
    assert_int_equal(has(ground, "orders", "User:app1"), BIT(READ));
    assert_int_equal(has(ground, "orders-eu", "User:app1"), 0);
}

static void who_asks_sees_of_acls_what_it_sees_of_topics(void **state)
{
    struct ground *ground = *state;
    allow(ground, grant("User:app1", KQ_ACL_OP_READ, "orders"));
    asking = APP;
    assert_int_equal(has(ground, "orders", "User:app1"), BIT(READ));
    assert_int_equal(has(ground, "orders-eu", "User:owner"), 0);
    filter hidden = everything;
    hidden.resource_name_filter = KQ_STR("orders-eu");
    assert_int_equal(count_listed(ground, hidden), 0);
}

static int close_root(struct kq_attributes *attributes, void *argument)
{
    attributes->mode = 01711;
    return 0;
}

static void who_may_not_list_the_root_has_to_say_a_name(void **state)
{
    struct ground *ground = *state;
    struct kq_caller owner = {.uid = OWNER, .gid = OWNER};
    allow(ground, grant("User:app1", KQ_ACL_OP_READ, "orders"));
    assert_int_equal(kq_attributes_change(ground->broker, NULL, NULL, &owner, close_root, NULL), 0);
    asking = APP;
    assert_int_equal(describe(ground, &everything)->error_code,
                     KQ_ERROR_CLUSTER_AUTHORIZATION_FAILED);
    kit_drop(&request);
    filter all = everything;
    assert_int_equal(delete (ground, &all, 1)->filter_results[0].error_code,
                     KQ_ERROR_CLUSTER_AUTHORIZATION_FAILED);
    kit_drop(&request);
    filter named = everything;
    named.resource_name_filter = KQ_STR("orders");
    assert_int_equal(listed(ground, named, "orders", "User:app1"), BIT(READ));
}

/* --- Tests: deleting --- */

static void deleting_takes_what_matches_and_nothing_else(void **state)
{
    struct ground *ground = *state;
    allow(ground, grant("User:app1", KQ_ACL_OP_READ, "orders"));
    allow(ground, grant("User:app1", KQ_ACL_OP_WRITE, "orders"));
    allow(ground, grant("User:app2", KQ_ACL_OP_READ, "orders"));
    filter wanted[2] = {everything, everything};
    wanted[0].operation = 0; /* which spoils this one only */
    wanted[1].principal_filter = KQ_STR("User:app1");
    wanted[1].resource_type_filter = KQ_ACL_TOPIC;
    wanted[1].operation = KQ_ACL_OP_WRITE;
    const delete_response *response = delete (ground, wanted, 2);
    assert_int_equal(response->filter_results[0].error_code, KQ_ERROR_INVALID_REQUEST);
    const filter_result *result = &response->filter_results[1];
    assert_int_equal(result->error_code, KQ_ERROR_NONE);
    assert_int_equal(result->matching_acls_count, 1);
    assert_int_equal(result->matching_acls[0].error_code, KQ_ERROR_NONE);
    assert_int_equal(result->matching_acls[0].operation, KQ_ACL_OP_WRITE);
    assert_int_equal(result->matching_acls[0].pattern_type, LITERAL);
    assert_true(kq_str_is(result->matching_acls[0].resource_name, KQ_STR("orders")));
    kit_drop(&request);
    assert_int_equal(has(ground, "orders", "User:app1"), BIT(READ));
    assert_int_equal(has(ground, "orders", "User:app2"), BIT(READ));
}

static void a_prefix_deletes_nothing(void **state)
{
    struct ground *ground = *state;
    allow(ground, grant("User:app1", KQ_ACL_OP_READ, "orders"));
    filter prefix = everything;
    prefix.resource_name_filter = KQ_STR("orders");
    prefix.pattern_type_filter = PREFIXED;
    const filter_result *result = &delete (ground, &prefix, 1)->filter_results[0];
    assert_int_equal(result->error_code, KQ_ERROR_NONE);
    assert_int_equal(result->matching_acls_count, 0);
    kit_drop(&request);
    assert_int_equal(has(ground, "orders", "User:app1"), BIT(READ));
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, take_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(what_is_null_or_any_matches_all),
        TEST(each_part_of_a_filter_narrows_it),
        TEST(patterns_of_names_are_kafkas),
        TEST(what_is_never_granted_is_never_found),
        TEST(a_user_is_found_by_each_of_its_names),
        TEST(a_filter_with_an_unknown_number_is_refused),
        TEST(what_unix_cannot_say_is_refused_with_a_reason),
        TEST(each_entry_has_a_result_of_its_own),
        TEST(idempotence_follows_from_a_write_of_the_same_request),
        TEST(only_an_owner_changes_acls),
        TEST(who_asks_sees_of_acls_what_it_sees_of_topics),
        TEST(who_may_not_list_the_root_has_to_say_a_name),
        TEST(deleting_takes_what_matches_and_nothing_else),
        TEST(a_prefix_deletes_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
