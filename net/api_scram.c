/* DescribeUserScramCredentials and AlterUserScramCredentials (KIP-554): who may log in with a
 * password. What is refused, and in which words, is as Kafka has it. */
#include <string.h>

#include "auth/scram.h"
#include "broker/users.h"
#include "net/admin.h"
#include "net/api.h"
#include "net/errmap.h"
#include "net/internal.h"
#include "net/message/alter_user_scram_credentials.h"
#include "net/message/describe_user_scram_credentials.h"

typedef struct kq_describe_user_scram_credentials_response_result described;
typedef struct kq_alter_user_scram_credentials_response_result altered;
typedef struct kq_alter_user_scram_credentials_request_deletion deletion;
typedef struct kq_alter_user_scram_credentials_request_upsertion upsertion;

/* --- DescribeUserScramCredentials --- */

static int put_infos(struct kq_request *request, described *result,
                     const struct kq_user_facts *facts)
{
    result->credential_infos = kq_describe_user_scram_credentials_response_credential_array(
        &request->arena, KQ_SCRAM_HASHES);
    if (!result->credential_infos)
        return -ENOMEM;
    for (int i = 0; i < KQ_SCRAM_HASHES; i++) {
        if (!facts->iterations[i])
            continue;
        result->credential_infos[result->credential_infos_count].mechanism = (int8_t)(i + 1);
        result->credential_infos[result->credential_infos_count++].iterations =
            facts->iterations[i];
    }
    return 0;
}

struct listing {
    struct kq_request *request;
    int32_t capacity;
};

static int grow(struct listing *listing)
{
    struct kq_describe_user_scram_credentials_response *response = listing->request->response;
    int32_t capacity = listing->capacity ? 2 * listing->capacity : 16;
    described *results = kq_describe_user_scram_credentials_response_result_array(
        &listing->request->arena, (size_t)capacity);
    if (!results)
        return -ENOMEM;
    if (response->results_count > 0)
        memcpy(results, response->results, (size_t)response->results_count * sizeof(*results));
    response->results = results;
    listing->capacity = capacity;
    return 0;
}

static int describe_each(void *context, const char *name, const struct kq_user_facts *facts)
{
    struct listing *listing = context;
    struct kq_describe_user_scram_credentials_response *response = listing->request->response;
    if (response->results_count == listing->capacity && grow(listing) < 0)
        return -ENOMEM;
    char *copy = kq_arena_string(&listing->request->arena, name, strlen(name));
    if (!copy)
        return -ENOMEM;
    described *result = &response->results[response->results_count++];
    result->user = kq_str_of(copy);
    result->error_message = KQ_STR_NULL;
    return put_infos(listing->request, result, facts);
}

static int describe_one(struct kq_request *request, struct kq_str name, bool repeated,
                        described *result)
{
    struct kq_user_facts facts;
    const char *text = kq_admin_string(request, name);
    result->user = name;
    result->error_message = KQ_STR_NULL;
    if (repeated) {
        result->error_code =
            kq_admin_refuse(request, KQ_ERROR_DUPLICATE_RESOURCE, &result->error_message,
                            "Cannot describe SCRAM credentials for the same user twice in a "
                            "single request: %.*s",
                            name.length, name.data);
        return 0;
    }
    if (text && kq_user_facts(kq_broker_users(request->broker), text, &facts) == 0)
        return put_infos(request, result, &facts);
    result->error_code = kq_admin_refuse(
        request, KQ_ERROR_RESOURCE_NOT_FOUND, &result->error_message,
        "Attempt to describe a user credential that does not exist: %.*s", name.length, name.data);
    return 0;
}

/* Each name once, as the first of those that are equal. */
static int describe_named(struct kq_request *request)
{
    const struct kq_describe_user_scram_credentials_request *body = request->body;
    struct kq_describe_user_scram_credentials_response *response = request->response;
    int32_t count = body->users_count, *firsts;
    bool *repeated;
    struct kq_str *names = kq_arena_array(&request->arena, (size_t)count, sizeof(*names));
    response->results =
        kq_describe_user_scram_credentials_response_result_array(&request->arena, (size_t)count);
    if (!names || !response->results)
        return -ENOMEM;
    for (int32_t i = 0; i < count; i++)
        names[i] = body->users[i].name;
    int r = kq_admin_firsts(&request->arena, names, count, &firsts);
    if (r == 0)
        r = kq_admin_repeated(&request->arena, names, count, &repeated);
    for (int32_t i = 0; i < count && r == 0; i++)
        if (firsts[i] == i)
            r = describe_one(request, names[i], repeated[i],
                             &response->results[response->results_count++]);
    return r;
}

enum kq_handled kq_api_describe_user_scram_credentials(struct kq_request *request)
{
    const struct kq_describe_user_scram_credentials_request *body = request->body;
    struct kq_describe_user_scram_credentials_response *response = request->response;
    struct listing listing = {.request = request};
    response->error_message = KQ_STR_NULL;
    if (kq_user_may_list(request->broker, &request->caller) < 0) {
        response->error_code = KQ_ERROR_CLUSTER_AUTHORIZATION_FAILED;
        return KQ_HANDLED_NOW;
    }
    int r = body->users_count > 0
                ? describe_named(request)
                : kq_user_each(kq_broker_users(request->broker), describe_each, &listing);
    return r < 0 ? KQ_HANDLED_CLOSE : KQ_HANDLED_NOW;
}

/* --- AlterUserScramCredentials --- */

/* Deletions first, then upsertions: what one of all that are asked for comes to. */
struct plan {
    struct kq_request *request;
    size_t count;         /* of all */
    struct kq_str *names; /* in that order, and so are the arrays below */
    const char **texts;
    int32_t *firsts; /* the first of those with the same name */
    bool *repeated;
    altered **results; /* of the first ones */
    struct kq_user_change *changes;
    size_t change_count;
    struct kq_scram_credential *credentials; /* of upsertions */
};

static int make_plan(struct plan *plan)
{
    struct kq_request *request = plan->request;
    const struct kq_alter_user_scram_credentials_request *body = request->body;
    struct kq_alter_user_scram_credentials_response *response = request->response;
    size_t deletions = (size_t)body->deletions_count, upserts = (size_t)body->upsertions_count;
    size_t count = plan->count = deletions + upserts;
    struct kq_arena *arena = &request->arena;
    plan->names = kq_arena_array(arena, count + 1, sizeof(*plan->names));
    plan->texts = kq_arena_array(arena, count + 1, sizeof(*plan->texts));
    plan->results = kq_arena_array(arena, count + 1, sizeof(altered *));
    plan->changes = kq_arena_array(arena, count + 1, sizeof(*plan->changes));
    plan->credentials = kq_arena_array(arena, upserts + 1, sizeof(*plan->credentials));
    response->results = kq_alter_user_scram_credentials_response_result_array(arena, count);
    if (!plan->names || !plan->texts || !plan->results || !plan->changes || !plan->credentials ||
        !response->results)
        return -ENOMEM;
    for (size_t i = 0; i < count; i++) {
        plan->names[i] =
            i < deletions ? body->deletions[i].name : body->upsertions[i - deletions].name;
        plan->texts[i] = kq_admin_string(request, plan->names[i]);
    }
    int r = kq_admin_firsts(arena, plan->names, (int32_t)count, &plan->firsts);
    return r < 0 ? r : kq_admin_repeated(arena, plan->names, (int32_t)count, &plan->repeated);
}

static int16_t check_name(struct plan *plan, size_t at, int8_t mechanism, struct kq_str *ret)
{
    struct kq_request *request = plan->request;
    if (plan->names[at].length <= 0)
        return kq_admin_refuse(request, KQ_ERROR_UNACCEPTABLE_CREDENTIAL, ret,
                               "Username must not be empty");
    if (mechanism < 1 || mechanism > KQ_SCRAM_HASHES)
        return kq_admin_refuse(request, KQ_ERROR_UNSUPPORTED_SASL_MECHANISM, ret,
                               "Unknown SCRAM mechanism");
    if (!plan->texts[at] || !kq_user_name_valid(plan->texts[at]))
        return kq_admin_refuse(request, KQ_ERROR_UNACCEPTABLE_CREDENTIAL, ret,
                               "A user name has at most %d bytes of UTF-8 without control "
                               "characters",
                               KQ_USER_NAME_BYTES);
    return KQ_ERROR_NONE;
}

static int16_t plan_deletion(struct plan *plan, size_t at, struct kq_str *ret)
{
    const struct kq_alter_user_scram_credentials_request *body = plan->request->body;
    const deletion *asked = &body->deletions[at];
    struct kq_user_facts facts;
    int16_t error = check_name(plan, at, asked->mechanism, ret);
    if (error)
        return error;
    if (kq_user_facts(kq_broker_users(plan->request->broker), plan->texts[at], &facts) < 0 ||
        !facts.iterations[asked->mechanism - 1])
        return kq_admin_refuse(plan->request, KQ_ERROR_RESOURCE_NOT_FOUND, ret,
                               "Attempt to delete a user credential that does not exist");
    plan->changes[plan->change_count++] =
        (struct kq_user_change){plan->texts[at], (enum kq_scram_hash)(asked->mechanism - 1), NULL};
    return KQ_ERROR_NONE;
}

static int16_t plan_upsertion(struct plan *plan, size_t at, size_t which, struct kq_str *ret)
{
    const struct kq_alter_user_scram_credentials_request *body = plan->request->body;
    const upsertion *asked = &body->upsertions[which];
    struct kq_scram_credential *credential = &plan->credentials[which];
    struct kq_request *request = plan->request;
    int16_t error = check_name(plan, at, asked->mechanism, ret);
    if (error)
        return error;
    enum kq_scram_hash hash = (enum kq_scram_hash)(asked->mechanism - 1);
    if (asked->iterations < KQ_SCRAM_ITERATIONS_LEAST ||
        asked->iterations > KQ_SCRAM_ITERATIONS_MOST)
        return kq_admin_refuse(request, KQ_ERROR_UNACCEPTABLE_CREDENTIAL, ret, "Too %s iterations",
                               asked->iterations < KQ_SCRAM_ITERATIONS_LEAST ? "few" : "many");
    if (asked->salt.length <= 0 || asked->salt.length > KQ_SCRAM_SALT_BYTES ||
        asked->salted_password.length != (int32_t)kq_scram_key_bytes(hash))
        return kq_admin_refuse(request, KQ_ERROR_UNACCEPTABLE_CREDENTIAL, ret,
                               "A salt has from 1 to %d bytes, and a salted password as many as "
                               "the hash of its mechanism",
                               KQ_SCRAM_SALT_BYTES);
    credential->iterations = asked->iterations;
    credential->salt_length = (uint32_t)asked->salt.length;
    memcpy(credential->salt, asked->salt.data, (size_t)asked->salt.length);
    if (kq_scram_set_keys(hash, asked->salted_password.data, credential) < 0)
        return KQ_ERROR_UNKNOWN_SERVER_ERROR;
    plan->changes[plan->change_count++] =
        (struct kq_user_change){plan->texts[at], hash, credential};
    return KQ_ERROR_NONE;
}

static void plan_all(struct plan *plan, bool allowed)
{
    const struct kq_alter_user_scram_credentials_request *body = plan->request->body;
    struct kq_alter_user_scram_credentials_response *response = plan->request->response;
    size_t deletions = (size_t)body->deletions_count;
    for (size_t i = 0; i < plan->count; i++) {
        if (plan->firsts[i] != (int32_t)i)
            continue;
        altered *result = &response->results[response->results_count++];
        result->user = plan->names[i];
        result->error_message = KQ_STR_NULL;
        if (!allowed)
            result->error_code = KQ_ERROR_CLUSTER_AUTHORIZATION_FAILED;
        else if (plan->repeated[i])
            result->error_code =
                kq_admin_refuse(plan->request, KQ_ERROR_DUPLICATE_RESOURCE, &result->error_message,
                                "A user credential cannot be altered twice in the same request");
        else
            result->error_code =
                i < deletions ? plan_deletion(plan, i, &result->error_message)
                              : plan_upsertion(plan, i, i - deletions, &result->error_message);
    }
}

static void refuse_rest(struct kq_request *request, int r)
{
    struct kq_alter_user_scram_credentials_response *response = request->response;
    for (int32_t i = 0; i < response->results_count; i++) {
        altered *result = &response->results[i];
        if (result->error_code)
            continue;
        if (r == -EDQUOT)
            result->error_code = kq_admin_refuse(
                request, KQ_ERROR_POLICY_VIOLATION, &result->error_message,
                "There are more users than the broker allows; see max_users in kqfs.conf(5).");
        else if (r == -ENOENT)
            result->error_code = KQ_ERROR_RESOURCE_NOT_FOUND; /* somebody was faster */
        else if (r == -EACCES || r == -EPERM)
            result->error_code = KQ_ERROR_CLUSTER_AUTHORIZATION_FAILED;
        else
            result->error_code = kq_error_from(r);
    }
}

/* Salted passwords are as good as passwords: they do not stay in memory. */
static void wipe(struct plan *plan)
{
    const struct kq_alter_user_scram_credentials_request *body = plan->request->body;
    if (plan->credentials)
        explicit_bzero(plan->credentials,
                       (size_t)body->upsertions_count * sizeof(*plan->credentials));
    for (int32_t i = 0; i < body->upsertions_count; i++)
        if (body->upsertions[i].salted_password.length > 0)
            explicit_bzero((uint8_t *)body->upsertions[i].salted_password.data,
                           (size_t)body->upsertions[i].salted_password.length);
}

enum kq_handled kq_api_alter_user_scram_credentials(struct kq_request *request)
{
    struct plan plan = {.request = request};
    int r = make_plan(&plan);
    if (r == 0) {
        plan_all(&plan, kq_user_may_alter(request->broker, &request->caller) == 0);
        int outcome =
            kq_user_alter(request->broker, &request->caller, plan.changes, plan.change_count);
        if (outcome < 0)
            refuse_rest(request, outcome);
    }
    wipe(&plan);
    return r < 0 ? KQ_HANDLED_CLOSE : KQ_HANDLED_NOW;
}
