/* DescribeAcls (29), CreateAcls (30) and DeleteAcls (31): Kafka's ACLs are owner, mode and POSIX
 * ACL of topics, groups and the root.
 *
 * What is listed is what there is, whoever set it: setfacl(1), chmod(1) or a request. What these
 * cannot say is refused.
 *
 * Source: Kafka's DescribeAclsRequest.json and its kin, AclBindingFilter, ResourcePatternFilter;
 * KIP-140, KIP-290.
 */
#include <string.h>

#include "broker/produce.h"
#include "net/acls.h"
#include "net/admin.h"
#include "net/api.h"
#include "net/errmap.h"
#include "net/message/create_acls.h"
#include "net/message/delete_acls.h"
#include "net/message/describe_acls.h"
#include "net/topics.h"

#define ANY_HOST "*"

/* org.apache.kafka.common.resource.PatternType */
enum pattern {
    PATTERN_ANY = 1,
    PATTERN_MATCH = 2,
    PATTERN_LITERAL = 3,
    PATTERN_PREFIXED = 4,
};

/* org.apache.kafka.common.acl.AclPermissionType */
enum permission {
    PERMISSION_ANY = 1,
    PERMISSION_DENY = 2,
    PERMISSION_ALLOW = 3,
};

#define LAST_RESOURCE 7   /* USER */
#define LAST_OPERATION 15 /* TWO_PHASE_COMMIT */

/* --- Resources --- */

static int16_t find_topic(struct kq_request *request, struct kq_str name, struct kq_topic **ret)
{
    int16_t error = kq_topics_find(request, &(struct kq_topic_ref){.name = name}, ret);
    if (error)
        return error;
    if (kq_authorize(request->broker, &request->caller, KQ_RIGHT_DESCRIBE, *ret, NULL) == 0 ||
        kq_authorize(request->broker, &request->caller, KQ_RIGHT_CHANGE_ATTRIBUTES, *ret, NULL) ==
            0)
        return KQ_ERROR_NONE;
    kq_topic_unref(*ret);
    return KQ_ERROR_TOPIC_AUTHORIZATION_FAILED;
}

/* Who sees a group: who may read it, and its owner. */
static int16_t find_group(struct kq_request *request, struct kq_str name, struct kq_group **ret)
{
    int r = name.length > 0 ? kq_groups_prepare(request->broker, true) : KQ_GROUP_NOT_FOUND;
    if (r == 0)
        r = kq_group_get(request->broker, &request->caller, name, KQ_RIGHT_READ, ret);
    if (r == -EACCES || r == -EPERM)
        r = kq_group_get(request->broker, &request->caller, name, KQ_RIGHT_CHANGE_ATTRIBUTES, ret);
    return kq_error_of_group(r);
}

static bool may_see_root(struct kq_request *request)
{
    return kq_authorize(request->broker, &request->caller, KQ_RIGHT_DESCRIBE, NULL, NULL) == 0;
}

static int16_t find(struct kq_request *request, int type, struct kq_str name,
                    struct kq_acls_resource *ret)
{
    struct kq_acls_resource resource = {.type = type, .name = name};
    int16_t error = KQ_ERROR_RESOURCE_NOT_FOUND;
    if (type == KQ_ACL_TOPIC)
        error = find_topic(request, name, &resource.topic);
    else if (type == KQ_ACL_GROUP)
        error = find_group(request, name, &resource.group);
    else if (type == KQ_ACL_CLUSTER && kq_str_is(name, KQ_STR(KQ_ACLS_CLUSTER)))
        error = may_see_root(request) ? KQ_ERROR_NONE : KQ_ERROR_CLUSTER_AUTHORIZATION_FAILED;
    if (!error)
        *ret = resource;
    return error;
}

static bool is_absent(int16_t error)
{
    return error == KQ_ERROR_UNKNOWN_TOPIC_OR_PARTITION || error == KQ_ERROR_GROUP_ID_NOT_FOUND ||
           error == KQ_ERROR_RESOURCE_NOT_FOUND;
}

/* --- Filters --- */

struct filter {
    int type, pattern, operation, permission;
    struct kq_str name, principal, host; /* null: any */
    uid_t uid;                           /* of PRINCIPAL; KQ_UID_UNKNOWN: no user's */
};

static int16_t check_filter(struct kq_request *request, const struct filter *filter,
                            struct kq_str *ret_message)
{
    bool known = filter->type >= 1 && filter->type <= LAST_RESOURCE && filter->pattern >= 1 &&
                 filter->pattern <= PATTERN_PREFIXED && filter->operation >= 1 &&
                 filter->operation <= LAST_OPERATION && filter->permission >= 1 &&
                 filter->permission <= PERMISSION_ALLOW;
    return known ? KQ_ERROR_NONE
                 : kq_admin_refuse(request, KQ_ERROR_INVALID_REQUEST, ret_message,
                                   "The filter has an unknown resource type, pattern type, "
                                   "operation or permission type.");
}

/* Nothing here denies, holds for some hosts, or for all names that begin alike. */
static bool can_match(const struct filter *filter)
{
    return filter->pattern != PATTERN_PREFIXED && filter->permission != PERMISSION_DENY &&
           (filter->host.length < 0 || kq_str_is(filter->host, KQ_STR(ANY_HOST)));
}

/* Whose principal is asked for, whichever of its names that is. 0; -ENOMEM, -errno. */
static int find_user(struct kq_request *request, struct kq_acls_users *users, struct filter *filter)
{
    struct kq_aclmap_who who;
    filter->uid = KQ_UID_UNKNOWN;
    if (filter->principal.length < 0)
        return 0;
    int r = kq_acls_user(request, users, filter->principal, &who);
    if (r == 0 && !who.everybody)
        filter->uid = who.user.uid;
    return r == -ENOENT || r == -EINVAL ? 0 : r;
}

/* It is shown by the name that was asked for. */
static bool is_asked_for(const struct filter *filter, struct kq_acls_holder *holder)
{
    if (filter->principal.length < 0 || kq_str_is(filter->principal, holder->principal))
        return true;
    if (filter->uid == KQ_UID_UNKNOWN || holder->who.everybody ||
        holder->who.user.uid != filter->uid)
        return false;
    holder->principal = filter->principal;
    return true;
}

static unsigned matching(const struct filter *filter, struct kq_acls_holder *holder)
{
    if (!is_asked_for(filter, holder))
        return 0;
    return filter->operation == KQ_ACL_OP_ANY ? holder->operations
                                              : holder->operations & 1U << filter->operation;
}

/* --- Walking over what a filter names --- */

struct walk {
    struct kq_request *request;
    struct kq_acls_users *users;
    const struct filter *filter;
    /* What the walk is for: the holders that match have their operations in REMOVED. 0; -ENOMEM,
     * -errno ends the walk. */
    int (*visit)(struct walk *walk, const struct kq_acls_resource *resource,
                 struct kq_acls_holder *holders, int32_t count);
    void *to;
    int32_t capacity; /* of the list that it makes */
};

static bool wants(const struct filter *filter, int type)
{
    return filter->type == KQ_ACL_ANY_RESOURCE || filter->type == type;
}

static int visit(struct walk *walk, const struct kq_acls_resource *resource)
{
    struct kq_acls_holder *holders;
    int32_t count, kept = 0;
    int r = kq_acls_list(walk->request, walk->users, resource, &holders, &count);
    if (r < 0)
        return r == -ESTALE ? 0 : r;
    for (int32_t i = 0; i < count; i++) {
        holders[i].removed = matching(walk->filter, &holders[i]);
        if (holders[i].removed)
            holders[kept++] = holders[i];
    }
    return kept ? walk->visit(walk, resource, holders, kept) : 0;
}

static int visit_named(struct walk *walk, int type)
{
    struct kq_acls_resource resource;
    if (find(walk->request, type, walk->filter->name, &resource))
        return 0;
    int r = visit(walk, &resource);
    kq_acls_release(&resource);
    return r;
}

static struct kq_str copy_name(struct kq_request *request, struct kq_str name)
{
    return (struct kq_str){kq_arena_string(&request->arena, name.data, (size_t)name.length),
                           name.length};
}

static int visit_topics(struct walk *walk)
{
    struct kq_request *request = walk->request;
    struct kq_topic *topic;
    char after[KQ_TOPIC_NAME_MAX + 1] = "";
    int r = 0;
    while (r == 0 && kq_topic_next(request->broker, after, &topic) == 0) {
        strcpy(after, kq_topic_name(topic));
        struct kq_acls_resource resource = {KQ_ACL_TOPIC, copy_name(request, kq_str_of(after)),
                                            topic, NULL};
        if (!resource.name.data)
            r = -ENOMEM;
        else if (kq_authorize(request->broker, &request->caller, KQ_RIGHT_DESCRIBE, topic, NULL) ==
                 0)
            r = visit(walk, &resource);
        kq_topic_unref(topic);
    }
    return r;
}

static int visit_group(struct walk *walk, struct kq_str name)
{
    struct kq_acls_resource resource;
    name = copy_name(walk->request, name);
    if (!name.data)
        return -ENOMEM;
    if (find(walk->request, KQ_ACL_GROUP, name, &resource))
        return 0;
    int r = visit(walk, &resource);
    kq_acls_release(&resource);
    return r;
}

static int visit_groups(struct walk *walk)
{
    struct kq_group *group = NULL, *next;
    int r = kq_groups_await_loaded(walk->request->broker);
    if (r != 0)
        return r < 0 ? r : -EAGAIN;
    while (r == 0 && kq_group_next(walk->request->broker,
                                   group ? kq_group_name(group) : KQ_STR_NULL, &next) == 0) {
        kq_group_unref(group);
        group = next;
        r = visit_group(walk, kq_group_name(group));
    }
    kq_group_unref(group);
    return r;
}

static int visit_root(struct walk *walk)
{
    struct kq_acls_resource resource = {.type = KQ_ACL_CLUSTER, .name = KQ_STR(KQ_ACLS_CLUSTER)};
    return may_see_root(walk->request) ? visit(walk, &resource) : 0;
}

static int visit_all(struct walk *walk)
{
    const struct filter *filter = walk->filter;
    int r = 0;
    if (wants(filter, KQ_ACL_TOPIC))
        r = visit_topics(walk);
    if (r == 0 && wants(filter, KQ_ACL_GROUP))
        r = visit_groups(walk);
    if (r == 0 && wants(filter, KQ_ACL_CLUSTER))
        r = visit_root(walk);
    return r;
}

/* 0; -EACCES: the caller may not see the names of what there is; -EAGAIN; -ENOMEM, -errno. */
static int walk_over(struct walk *walk)
{
    struct kq_request *request = walk->request;
    const struct filter *filter = walk->filter;
    int r = 0;
    if (!can_match(filter))
        return 0;
    if (filter->name.length < 0) {
        r = kq_authorize(request->broker, &request->caller, KQ_RIGHT_LIST, NULL, NULL);
        return r < 0 ? -EACCES : visit_all(walk);
    }
    for (int type = KQ_ACL_TOPIC; type <= KQ_ACL_CLUSTER && r == 0; type++)
        if (wants(filter, type))
            r = visit_named(walk, type);
    return r;
}

static int16_t error_of(int r)
{
    return r == -EACCES   ? KQ_ERROR_CLUSTER_AUTHORIZATION_FAILED
           : r == -EAGAIN ? KQ_ERROR_COORDINATOR_LOAD_IN_PROGRESS
                          : kq_error_from(r);
}

static int count_operations(const struct kq_acls_holder *holders, int32_t count)
{
    int all = 0;
    for (int32_t i = 0; i < count; i++)
        all += __builtin_popcount(holders[i].removed);
    return all;
}

/* --- DescribeAcls --- */

static int describe(struct walk *walk, const struct kq_acls_resource *resource,
                    struct kq_acls_holder *holders, int32_t count)
{
    struct kq_arena *arena = &walk->request->arena;
    struct kq_describe_acls_response *response = walk->to;
    if (response->resources_count == walk->capacity) {
        int32_t larger = walk->capacity ? 2 * walk->capacity : 16;
        struct kq_describe_acls_response_resource *resources =
            kq_describe_acls_response_resource_array(arena, (size_t)larger);
        if (!resources)
            return -ENOMEM;
        if (walk->capacity)
            memcpy(resources, response->resources, (size_t)walk->capacity * sizeof(*resources));
        response->resources = resources;
        walk->capacity = larger;
    }
    struct kq_describe_acls_response_resource *one =
        &response->resources[response->resources_count];
    one->acls =
        kq_describe_acls_response_acl_array(arena, (size_t)count_operations(holders, count));
    if (!one->acls)
        return -ENOMEM;
    response->resources_count++;
    one->resource_type = (int8_t)resource->type;
    one->resource_name = resource->name;
    one->pattern_type = PATTERN_LITERAL;
    for (int32_t i = 0; i < count; i++)
        for (int operation = 0; operation <= LAST_OPERATION; operation++)
            if (holders[i].removed & 1U << operation)
                one->acls[one->acls_count++] = (struct kq_describe_acls_response_acl){
                    .principal = holders[i].principal,
                    .host = KQ_STR(ANY_HOST),
                    .operation = (int8_t)operation,
                    .permission_type = PERMISSION_ALLOW,
                };
    return 0;
}

/* What is said of topics is bounded by what there is, not by what one request may take. */
static int begin(struct kq_request *request, struct kq_acls_users **ret)
{
    request->arena.limit = 0;
    return kq_acls_users_new(ret);
}

enum kq_handled kq_api_describe_acls(struct kq_request *request)
{
    const struct kq_describe_acls_request *body = request->body;
    struct kq_describe_acls_response *response = request->response;
    struct filter filter = {.type = body->resource_type_filter,
                            .pattern = body->pattern_type_filter,
                            .operation = body->operation,
                            .permission = body->permission_type,
                            .name = body->resource_name_filter,
                            .principal = body->principal_filter,
                            .host = body->host_filter};
    struct walk walk = {.request = request, .filter = &filter, .visit = describe, .to = response};
    response->error_message = KQ_STR_NULL;
    response->error_code = check_filter(request, &filter, &response->error_message);
    if (response->error_code)
        return KQ_HANDLED_NOW;
    if (begin(request, &walk.users) < 0)
        return KQ_HANDLED_CLOSE;
    int r = find_user(request, walk.users, &filter);
    if (r == 0)
        r = walk_over(&walk);
    kq_acls_users_free(walk.users);
    if (r == -ENOMEM)
        return KQ_HANDLED_CLOSE;
    response->error_code = error_of(r);
    if (response->error_code)
        response->resources_count = 0;
    return KQ_HANDLED_NOW;
}

/* --- CreateAcls --- */

typedef struct kq_create_acls_request_creation creation;

struct creating {
    struct kq_request *request;
    struct kq_acls_users *users;
    struct kq_str *message; /* of the result */
};

static int16_t refuse(struct creating *creating, const char *reason)
{
    return kq_admin_refuse(creating->request, KQ_ERROR_INVALID_REQUEST, creating->message, "%s",
                           reason);
}

/* What owner, mode and ACL cannot say, whatever it is about. */
static int16_t check_form(struct creating *creating, const creation *wanted)
{
    if (wanted->permission_type != PERMISSION_ALLOW)
        return refuse(creating, "Unix permissions allow; to deny, take a right away.");
    if (!kq_str_is(wanted->host, KQ_STR(ANY_HOST)))
        return refuse(creating, "Unix permissions know users, not hosts: the host must be *.");
    if (wanted->resource_pattern_type != PATTERN_LITERAL)
        return refuse(creating,
                      "Unix permissions are those of one topic or group: the pattern type "
                      "must be LITERAL.");
    if (kq_str_is(wanted->resource_name, KQ_STR("*")))
        return refuse(creating, "Unix permissions are those of one topic or group: name each. For "
                                "topics to come, set the default ACL of the root with setfacl.");
    if (wanted->operation == KQ_ACL_OP_ALL)
        return refuse(creating, "No ACL gives the rights of an owner: name the operations, or give "
                                "the topic away with chown.");
    return KQ_ERROR_NONE;
}

static int16_t check_operation(struct creating *creating, const creation *wanted,
                               struct kq_aclmap_bits *ret)
{
    int8_t type = wanted->resource_type;
    if (type != KQ_ACL_TOPIC && type != KQ_ACL_GROUP && type != KQ_ACL_CLUSTER)
        return refuse(creating, "There are ACLs of topics, groups and the cluster only.");
    if (kq_aclmap_bits(type, wanted->operation, ret) < 0)
        return refuse(creating, "No ACL can allow this operation: it is the owner's, or comes with "
                                "other operations.");
    return KQ_ERROR_NONE;
}

static int16_t check_principal(struct creating *creating, const creation *wanted,
                               struct kq_aclmap_who *ret)
{
    int r = kq_acls_user(creating->request, creating->users, wanted->principal, ret);
    if (r == -EINVAL)
        return refuse(creating, "The principal must be User:NAME or User:*.");
    if (r == -ENOENT)
        return refuse(creating, "This host has no user of the principal's name, or it is uid 0, "
                                "which a name is by an entry in [users] only.");
    return r < 0 ? kq_error_from(r) : KQ_ERROR_NONE;
}

/* It comes with the right to write to any partition; who has that needs nothing more. */
static int16_t allow_idempotence(struct creating *creating, const struct kq_aclmap_who *who)
{
    struct kq_caller user = {.uid = who->everybody ? KQ_UID_UNKNOWN : who->user.uid,
                             .gid = who->everybody ? (gid_t)-1 : who->user.gid,
                             .groups = who->user.groups,
                             .group_count = who->user.group_count};
    if (kq_producer_id_access(creating->request->broker, &user) == 0)
        return KQ_ERROR_NONE;
    return refuse(creating, "IDEMPOTENT_WRITE comes with Write on any topic: allow that.");
}

static int16_t create_on(struct creating *creating, const creation *wanted,
                         const struct kq_aclmap_who *who, struct kq_aclmap_bits bits)
{
    struct kq_acls_resource resource;
    struct kq_request *request = creating->request;
    int16_t error = find(request, wanted->resource_type, wanted->resource_name, &resource);
    if (is_absent(error))
        return refuse(creating, "There is no such resource; permissions are kept with what they "
                                "are about, so make it first.");
    if (error)
        return error;
    if (resource.type == KQ_ACL_CLUSTER && wanted->operation == KQ_ACL_OP_IDEMPOTENT_WRITE)
        error = allow_idempotence(creating, who);
    else
        error = kq_acls_grant(request, &resource, who, bits);
    kq_acls_release(&resource);
    return error;
}

static int16_t create(struct creating *creating, const creation *wanted)
{
    struct kq_aclmap_bits bits;
    struct kq_aclmap_who who;
    int16_t error = check_form(creating, wanted);
    if (!error)
        error = check_operation(creating, wanted, &bits);
    if (!error)
        error = check_principal(creating, wanted, &who);
    return error ? error : create_on(creating, wanted, &who, bits);
}

/* What is about the cluster comes last: IDEMPOTENT_WRITE follows from what is about topics. */
enum kq_handled kq_api_create_acls(struct kq_request *request)
{
    const struct kq_create_acls_request *body = request->body;
    struct kq_create_acls_response *response = request->response;
    struct creating creating = {.request = request};
    response->results =
        kq_create_acls_response_result_array(&request->arena, (size_t)body->creations_count);
    if (!response->results || kq_acls_users_new(&creating.users) < 0)
        return KQ_HANDLED_CLOSE;
    response->results_count = body->creations_count;
    for (int pass = 0; pass < 2; pass++)
        for (int32_t i = 0; i < body->creations_count; i++) {
            bool is_last = body->creations[i].resource_type == KQ_ACL_CLUSTER;
            if (is_last != (pass == 1))
                continue;
            creating.message = &response->results[i].error_message;
            *creating.message = KQ_STR_NULL;
            response->results[i].error_code = create(&creating, &body->creations[i]);
        }
    kq_acls_users_free(creating.users);
    return KQ_HANDLED_NOW;
}

/* --- DeleteAcls --- */

typedef struct kq_delete_acls_response_filter_result deleted;
typedef struct kq_delete_acls_response_matching_acl matched;

static int make_room(struct walk *walk, deleted *result, int extra)
{
    if (result->matching_acls_count + extra <= walk->capacity)
        return 0;
    int32_t larger = 2 * (result->matching_acls_count + extra);
    matched *list =
        kq_delete_acls_response_matching_acl_array(&walk->request->arena, (size_t)larger);
    if (!list)
        return -ENOMEM;
    if (result->matching_acls_count)
        memcpy(list, result->matching_acls, (size_t)result->matching_acls_count * sizeof(*list));
    result->matching_acls = list;
    walk->capacity = larger;
    return 0;
}

static int delete (struct walk *walk, const struct kq_acls_resource *resource,
                   struct kq_acls_holder *holders, int32_t count)
{
    deleted *result = walk->to;
    if (make_room(walk, result, count_operations(holders, count)) < 0)
        return -ENOMEM;
    int16_t error = kq_acls_revoke(walk->request, resource, holders, count);
    for (int32_t i = 0; i < count; i++)
        for (int operation = 0; operation <= LAST_OPERATION; operation++)
            if (holders[i].removed & 1U << operation)
                result->matching_acls[result->matching_acls_count++] =
                    (matched){.error_code = error,
                              .error_message = KQ_STR_NULL,
                              .resource_type = (int8_t)resource->type,
                              .resource_name = resource->name,
                              .pattern_type = PATTERN_LITERAL,
                              .principal = holders[i].principal,
                              .host = KQ_STR(ANY_HOST),
                              .operation = (int8_t)operation,
                              .permission_type = PERMISSION_ALLOW};
    return 0;
}

static int delete_matching(struct kq_request *request, struct kq_acls_users *users,
                           const struct kq_delete_acls_request_filter *asked, deleted *result)
{
    struct filter filter = {.type = asked->resource_type_filter,
                            .pattern = asked->pattern_type_filter,
                            .operation = asked->operation,
                            .permission = asked->permission_type,
                            .name = asked->resource_name_filter,
                            .principal = asked->principal_filter,
                            .host = asked->host_filter};
    struct walk walk = {
        .request = request, .users = users, .filter = &filter, .visit = delete, .to = result};
    result->error_message = KQ_STR_NULL;
    result->error_code = check_filter(request, &filter, &result->error_message);
    if (result->error_code)
        return 0;
    int r = find_user(request, users, &filter);
    if (r == 0)
        r = walk_over(&walk);
    result->error_code = error_of(r);
    return r;
}

enum kq_handled kq_api_delete_acls(struct kq_request *request)
{
    const struct kq_delete_acls_request *body = request->body;
    struct kq_delete_acls_response *response = request->response;
    struct kq_acls_users *users;
    int r = 0;
    if (begin(request, &users) < 0)
        return KQ_HANDLED_CLOSE;
    response->filter_results =
        kq_delete_acls_response_filter_result_array(&request->arena, (size_t)body->filters_count);
    if (!response->filter_results)
        r = -ENOMEM;
    for (int32_t i = 0; i < body->filters_count && r != -ENOMEM; i++)
        r = delete_matching(request, users, &body->filters[i],
                            &response->filter_results[response->filter_results_count++]);
    kq_acls_users_free(users);
    return r == -ENOMEM ? KQ_HANDLED_CLOSE : KQ_HANDLED_NOW;
}
