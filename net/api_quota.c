/* DescribeClientQuotas (48) and AlterClientQuotas (49): see broker/quota.h.
 *
 * Each entity of a request stands for itself, with all of its changes or none; those that are in
 * order become durable together. Source: Kafka's ClientQuotaControlManager and ClientQuotasImage;
 * KIP-546.
 */
#include <math.h>
#include <string.h>

#include "broker/quota.h"
#include "net/admin.h"
#include "net/api.h"
#include "net/errmap.h"
#include "net/message/alter_client_quotas.h"
#include "net/message/describe_client_quotas.h"

static const struct kq_str user_type = KQ_STR("user");
static const struct kq_str client_type = KQ_STR("client-id");
static const struct kq_str ip_type = KQ_STR("ip");

typedef const struct kq_alter_client_quotas_request_entry asked_entry;
typedef const struct kq_alter_client_quotas_request_op asked_op;
typedef struct kq_alter_client_quotas_response_entry answered_entry;

static bool may(const struct kq_request *request)
{
    return kq_authorize(request->broker, &request->caller, KQ_RIGHT_CHANGE_ATTRIBUTES, NULL,
                        NULL) == 0;
}

/* --- AlterClientQuotas: whom for --- */

/* The part of ENTITY that TYPE names: whether it has that, and by which name. False: there is no
 * such part. */
static bool part_of(struct kq_quota_entity *entity, struct kq_str type, bool **ret_has,
                    const char ***ret_name)
{
    bool is_user = kq_str_is(type, user_type);
    *ret_has = is_user ? &entity->has_user : &entity->has_client;
    *ret_name = is_user ? &entity->user : &entity->client;
    return is_user || kq_str_is(type, client_type);
}

static int16_t read_part(struct kq_request *request, struct kq_str type, struct kq_str name,
                         struct kq_quota_entity *entity, struct kq_str *ret_message)
{
    bool *has;
    const char **at;
    if (kq_str_is(type, ip_type))
        return kq_admin_refuse(request, KQ_ERROR_INVALID_REQUEST, ret_message,
                               "Addresses have no quotas here; see max.connections.per.ip and "
                               "max.connection.creation.rate in kqfs.conf(5).");
    if (!part_of(entity, type, &has, &at))
        return kq_admin_refuse(request, KQ_ERROR_INVALID_REQUEST, ret_message,
                               "Unhandled client quota entity type: %.*s", type.length, type.data);
    if (*has)
        return kq_admin_refuse(request, KQ_ERROR_INVALID_REQUEST, ret_message,
                               "Invalid client quota entity, duplicate entity entry %.*s",
                               type.length, type.data);
    *has = true;
    *at = name.length < 0 ? NULL : kq_admin_string(request, name);
    if (name.length == 0)
        return kq_admin_refuse(request, KQ_ERROR_INVALID_REQUEST, ret_message,
                               "Empty %.*s not supported", type.length, type.data);
    if (name.length > 0 && (!*at || !kq_quota_entity_valid(entity)))
        return kq_admin_refuse(request, KQ_ERROR_INVALID_REQUEST, ret_message,
                               "Invalid name of a %.*s", type.length, type.data);
    return KQ_ERROR_NONE;
}

static int16_t read_entity(struct kq_request *request, asked_entry *asked,
                           struct kq_quota_entity *ret, struct kq_str *ret_message)
{
    int16_t error = KQ_ERROR_NONE;
    if (asked->entity_count <= 0)
        return kq_admin_refuse(request, KQ_ERROR_INVALID_REQUEST, ret_message,
                               "Invalid empty client quota entity");
    for (int32_t i = 0; i < asked->entity_count && !error; i++)
        error = read_part(request, asked->entity[i].entity_type, asked->entity[i].entity_name, ret,
                          ret_message);
    return error;
}

/* --- AlterClientQuotas: what --- */

static int16_t check_value(struct kq_request *request, enum kq_quota_type type, double value,
                           struct kq_str *ret_message)
{
    const char *name = kq_quota_name(type);
    if (!(value > 0))
        return kq_admin_refuse(request, KQ_ERROR_INVALID_REQUEST, ret_message,
                               "Quota %s must be greater than 0", name);
    if (!isfinite(value) || (type != KQ_QUOTA_REQUEST && value > (double)INT64_MAX))
        return kq_admin_refuse(request, KQ_ERROR_INVALID_REQUEST, ret_message,
                               "Proposed value for %s is too large.", name);
    if (type != KQ_QUOTA_REQUEST && value < 0x1p53 && value - (double)(int64_t)value > 1e-6)
        return kq_admin_refuse(request, KQ_ERROR_INVALID_REQUEST, ret_message,
                               "%s cannot be a fractional value.", name);
    return KQ_ERROR_NONE;
}

static int16_t unknown_key(struct kq_request *request, struct kq_str key,
                           struct kq_str *ret_message)
{
    if (kq_str_is(key, KQ_STR("controller_mutation_rate")))
        return kq_admin_refuse(request, KQ_ERROR_INVALID_REQUEST, ret_message,
                               "controller_mutation_rate is not kept here.");
    return kq_admin_refuse(request, KQ_ERROR_INVALID_REQUEST, ret_message,
                           "Invalid configuration key %.*s", key.length, key.data);
}

/* Adds what is to become of ENTITY behind the COUNT changes that there are. */
static int16_t read_ops(struct kq_request *request, asked_entry *asked,
                        const struct kq_quota_entity *entity, struct kq_quota_change *changes,
                        size_t *count, struct kq_str *ret_message)
{
    bool seen[KQ_QUOTA_TYPES + 1] = {false};
    size_t before = *count;
    int16_t error = KQ_ERROR_NONE;
    for (int32_t i = 0; i < asked->ops_count && !error; i++) {
        asked_op *op = &asked->ops[i];
        enum kq_quota_type type = kq_quota_type_of(op->key.data, (size_t)op->key.length);
        if (type == KQ_QUOTA_TYPES) { /* as Kafka does: what is not set can be removed */
            error = op->remove ? KQ_ERROR_NONE : unknown_key(request, op->key, ret_message);
            continue;
        }
        if (seen[type])
            error = kq_admin_refuse(request, KQ_ERROR_INVALID_REQUEST, ret_message,
                                    "Duplicate quota key %s", kq_quota_name(type));
        else if (!op->remove)
            error = check_value(request, type, op->value, ret_message);
        seen[type] = true;
        changes[(*count)++] = (struct kq_quota_change){*entity, type, op->remove ? 0 : op->value};
    }
    if (error)
        *count = before;
    return error;
}

/* --- AlterClientQuotas: all of it --- */

struct plan {
    struct kq_quota_entity *entities; /* of the entries that are in order */
    struct kq_quota_change *changes;
    size_t count;
    bool *repeated;
};

static int echo_entity(struct kq_request *request, asked_entry *asked, answered_entry *answer)
{
    answer->error_message = KQ_STR_NULL;
    answer->entity = kq_alter_client_quotas_response_entity_array(
        &request->arena, (size_t)kq_max64(0, asked->entity_count));
    if (!answer->entity)
        return -ENOMEM;
    for (int32_t i = 0; i < asked->entity_count; i++) {
        answer->entity[i].entity_type = asked->entity[i].entity_type;
        answer->entity[i].entity_name = asked->entity[i].entity_name;
    }
    answer->entity_count = (int32_t)kq_max64(0, asked->entity_count);
    return 0;
}

/* What ENTITY is told by, whatever the order of its parts. NULL without memory. */
static char *key_of(struct kq_request *request, const struct kq_quota_entity *entity,
                    struct kq_str *ret)
{
    const char *names[] = {entity->user, entity->client};
    const bool has[] = {entity->has_user, entity->has_client};
    size_t length = 4;
    for (int i = 0; i < 2; i++)
        length += names[i] ? strlen(names[i]) : 0;
    char *key = kq_arena_alloc(&request->arena, length), *at = key;
    for (int i = 0; i < 2 && key; i++) {
        size_t bytes = names[i] ? strlen(names[i]) : 0;
        *at++ = (char)(!has[i] ? 0 : names[i] ? 1 : 2);
        if (bytes)
            memcpy(at, names[i], bytes);
        at += bytes;
        *at++ = '\0';
    }
    *ret = (struct kq_str){key, (int32_t)length};
    return key;
}

static int read_entities(struct kq_request *request, struct plan *plan)
{
    const struct kq_alter_client_quotas_request *body = request->body;
    struct kq_alter_client_quotas_response *response = request->response;
    size_t count = (size_t)kq_max64(0, body->entries_count), ops = 0;
    struct kq_str *keys = kq_arena_array(&request->arena, count + 1, sizeof(*keys));
    plan->entities = kq_arena_array(&request->arena, count + 1, sizeof(*plan->entities));
    response->entries = kq_alter_client_quotas_response_entry_array(&request->arena, count);
    if (!keys || !plan->entities || !response->entries)
        return -ENOMEM;
    response->entries_count = (int32_t)count;
    for (size_t i = 0; i < count; i++) {
        asked_entry *asked = &body->entries[i];
        answered_entry *answer = &response->entries[i];
        if (echo_entity(request, asked, answer) < 0)
            return -ENOMEM;
        plan->entities[i] = (struct kq_quota_entity){false};
        answer->error_code =
            read_entity(request, asked, &plan->entities[i], &answer->error_message);
        keys[i] = KQ_STR_NULL;
        if (!answer->error_code && !key_of(request, &plan->entities[i], &keys[i]))
            return -ENOMEM;
        ops += (size_t)kq_max64(0, asked->ops_count);
    }
    plan->changes = kq_arena_array(&request->arena, ops + 1, sizeof(*plan->changes));
    return plan->changes ? kq_admin_repeated(&request->arena, keys, (int32_t)count, &plan->repeated)
                         : -ENOMEM;
}

static void read_changes(struct kq_request *request, struct plan *plan)
{
    const struct kq_alter_client_quotas_request *body = request->body;
    struct kq_alter_client_quotas_response *response = request->response;
    for (int32_t i = 0; i < response->entries_count; i++) {
        answered_entry *answer = &response->entries[i];
        if (answer->error_code)
            continue;
        answer->error_code =
            plan->repeated[i]
                ? kq_admin_refuse(request, KQ_ERROR_INVALID_REQUEST, &answer->error_message,
                                  "Each entity must appear at most once.")
                : read_ops(request, &body->entries[i], &plan->entities[i], plan->changes,
                           &plan->count, &answer->error_message);
    }
}

static void refuse_rest(struct kq_request *request, int r)
{
    struct kq_alter_client_quotas_response *response = request->response;
    for (int32_t i = 0; i < response->entries_count; i++) {
        answered_entry *answer = &response->entries[i];
        if (answer->error_code)
            continue;
        if (r == -EDQUOT)
            answer->error_code = kq_admin_refuse(
                request, KQ_ERROR_POLICY_VIOLATION, &answer->error_message,
                "There are more quotas than the broker allows; see quota.max.entities in "
                "kqfs.conf(5).");
        else if (r == -EACCES || r == -EPERM)
            answer->error_code = KQ_ERROR_CLUSTER_AUTHORIZATION_FAILED;
        else
            answer->error_code = kq_error_from(r);
    }
}

enum kq_handled kq_api_alter_client_quotas(struct kq_request *request)
{
    const struct kq_alter_client_quotas_request *body = request->body;
    struct plan plan = {0};
    if (read_entities(request, &plan) < 0)
        return KQ_HANDLED_CLOSE;
    int r = may(request) ? 0 : -EACCES;
    if (r == 0) {
        read_changes(request, &plan);
        r = kq_quota_alter(request->broker, &request->caller, plan.changes, plan.count,
                           body->validate_only);
    }
    if (r < 0)
        refuse_rest(request, r);
    return KQ_HANDLED_NOW;
}

/* --- DescribeClientQuotas --- */

enum match {
    MATCH_EXACT,
    MATCH_DEFAULT,
    MATCH_SPECIFIED,
};

/* What a part of an entity has to be like. */
struct wanted {
    bool asked;
    int8_t match;
    const char *name;
};

struct listing {
    struct kq_request *request;
    struct wanted user, client, ip;
    bool strict;
    int32_t capacity;
};

static int16_t read_match(struct kq_request *request,
                          const struct kq_describe_client_quotas_request_component *component,
                          struct wanted *ret, struct kq_str *ret_message)
{
    bool is_null = component->match.length < 0;
    if (component->match_type < MATCH_EXACT || component->match_type > MATCH_SPECIFIED)
        return kq_admin_refuse(request, KQ_ERROR_INVALID_REQUEST, ret_message,
                               "Unknown match type %d", component->match_type);
    if (is_null && component->match_type == MATCH_EXACT)
        return kq_admin_refuse(request, KQ_ERROR_INVALID_REQUEST, ret_message,
                               "Request specified MATCH_TYPE_EXACT, but set match string to null.");
    if (!is_null && component->match_type != MATCH_EXACT)
        return kq_admin_refuse(request, KQ_ERROR_INVALID_REQUEST, ret_message,
                               "Request specified MATCH_TYPE_%s, but also specified a match "
                               "string.",
                               component->match_type == MATCH_DEFAULT ? "DEFAULT" : "SPECIFIED");
    *ret = (struct wanted){.asked = true, .match = component->match_type};
    if (!is_null) {
        /* What cannot be a name is nobody's. */
        const char *name = kq_admin_string(request, component->match);
        ret->name = name ? name : "";
    }
    return KQ_ERROR_NONE;
}

static int16_t read_component(struct listing *listing,
                              const struct kq_describe_client_quotas_request_component *component,
                              struct kq_str *ret_message)
{
    struct kq_str type = component->entity_type;
    struct wanted *wanted = kq_str_is(type, user_type)     ? &listing->user
                            : kq_str_is(type, client_type) ? &listing->client
                            : kq_str_is(type, ip_type)     ? &listing->ip
                                                           : NULL;
    if (type.length == 0)
        return kq_admin_refuse(listing->request, KQ_ERROR_INVALID_REQUEST, ret_message,
                               "Invalid empty entity type.");
    if (!wanted)
        return kq_admin_refuse(listing->request, KQ_ERROR_UNSUPPORTED_VERSION, ret_message,
                               "Unsupported entity type %.*s", type.length, type.data);
    if (wanted->asked)
        return kq_admin_refuse(listing->request, KQ_ERROR_INVALID_REQUEST, ret_message,
                               "Entity type %.*s cannot appear more than once in the filter.",
                               type.length, type.data);
    return read_match(listing->request, component, wanted, ret_message);
}

static int16_t read_filter(struct listing *listing, struct kq_str *ret_message)
{
    const struct kq_describe_client_quotas_request *body = listing->request->body;
    int16_t error = KQ_ERROR_NONE;
    listing->strict = body->strict;
    for (int32_t i = 0; i < body->components_count && !error; i++)
        error = read_component(listing, &body->components[i], ret_message);
    if (!error && listing->ip.asked && (listing->user.asked || listing->client.asked))
        error = kq_admin_refuse(listing->request, KQ_ERROR_INVALID_REQUEST, ret_message,
                                "Invalid entity filter component combination. IP filter component "
                                "should not be used with user or clientId filter component.");
    return error;
}

static bool part_fits(const struct listing *listing, const struct wanted *wanted, bool has,
                      const char *name)
{
    if (!wanted->asked || !has)
        return wanted->asked == has || (has && !listing->strict);
    return wanted->match == MATCH_SPECIFIED || (wanted->match == MATCH_DEFAULT && !name) ||
           (wanted->match == MATCH_EXACT && name && strcmp(name, wanted->name) == 0);
}

static bool fits(const struct listing *listing, const struct kq_quota_entity *entity)
{
    return !listing->ip.asked &&
           part_fits(listing, &listing->user, entity->has_user, entity->user) &&
           part_fits(listing, &listing->client, entity->has_client, entity->client);
}

static int grow(struct listing *listing)
{
    struct kq_describe_client_quotas_response *response = listing->request->response;
    int32_t capacity = listing->capacity ? 2 * listing->capacity : 16;
    struct kq_describe_client_quotas_response_entry *entries =
        kq_describe_client_quotas_response_entry_array(&listing->request->arena, (size_t)capacity);
    if (!entries)
        return -ENOMEM;
    if (response->entries_count > 0)
        memcpy(entries, response->entries, (size_t)response->entries_count * sizeof(*entries));
    response->entries = entries;
    listing->capacity = capacity;
    return 0;
}

static int put_part(struct kq_request *request, struct kq_str type, const char *name,
                    struct kq_describe_client_quotas_response_entry *entry)
{
    struct kq_describe_client_quotas_response_entity *part = &entry->entity[entry->entity_count++];
    part->entity_type = type;
    part->entity_name = KQ_STR_NULL;
    if (!name)
        return 0;
    char *copy = kq_arena_string(&request->arena, name, strlen(name));
    part->entity_name = kq_str_of(copy);
    return copy ? 0 : -ENOMEM;
}

static int put_entity(struct kq_request *request, const struct kq_quota_entity *entity,
                      struct kq_describe_client_quotas_response_entry *entry)
{
    entry->entity = kq_describe_client_quotas_response_entity_array(&request->arena, 2);
    int r = entry->entity ? 0 : -ENOMEM;
    if (r == 0 && entity->has_user)
        r = put_part(request, user_type, entity->user, entry);
    if (r == 0 && entity->has_client)
        r = put_part(request, client_type, entity->client, entry);
    return r;
}

static int put_values(struct kq_request *request, const double *limits,
                      struct kq_describe_client_quotas_response_entry *entry)
{
    entry->values = kq_describe_client_quotas_response_value_array(&request->arena, KQ_QUOTA_TYPES);
    if (!entry->values)
        return -ENOMEM;
    for (int i = 0; i < KQ_QUOTA_TYPES; i++) {
        if (!(limits[i] > 0))
            continue;
        struct kq_describe_client_quotas_response_value *value =
            &entry->values[entry->values_count++];
        value->key = kq_str_of(kq_quota_name((enum kq_quota_type)i));
        value->value = limits[i];
    }
    return 0;
}

static int describe(void *context, const struct kq_quota_entity *entity, const double *limits)
{
    struct listing *listing = context;
    struct kq_describe_client_quotas_response *response = listing->request->response;
    if (!fits(listing, entity))
        return 0;
    if (response->entries_count == listing->capacity && grow(listing) < 0)
        return -ENOMEM;
    struct kq_describe_client_quotas_response_entry *entry =
        &response->entries[response->entries_count++];
    int r = put_entity(listing->request, entity, entry);
    return r < 0 ? r : put_values(listing->request, limits, entry);
}

enum kq_handled kq_api_describe_client_quotas(struct kq_request *request)
{
    struct kq_describe_client_quotas_response *response = request->response;
    struct listing listing = {.request = request};
    response->error_message = KQ_STR_NULL;
    response->entries_count = -1;
    response->error_code = may(request) ? read_filter(&listing, &response->error_message)
                                        : KQ_ERROR_CLUSTER_AUTHORIZATION_FAILED;
    if (response->error_code)
        return KQ_HANDLED_NOW;
    response->entries_count = 0;
    if (grow(&listing) < 0 ||
        kq_quota_each(request->broker, &request->caller, describe, &listing) < 0)
        return KQ_HANDLED_CLOSE;
    return KQ_HANDLED_NOW;
}
