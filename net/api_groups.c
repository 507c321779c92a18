/* DescribeGroups (15), ListGroups (16) and DeleteGroups (42). */
#include <stdatomic.h>
#include <string.h>
#include <strings.h>

#include "broker/groups.h"
#include "net/api.h"
#include "net/errmap.h"
#include "net/message/delete_groups.h"
#include "net/message/describe_groups.h"
#include "net/message/list_groups.h"

/* org.apache.kafka.common.acl.AclOperation */
enum operation {
    READ = 1 << 3,
    DELETE = 1 << 6,
    DESCRIBE = 1 << 8,
};

static bool may(struct kq_request *request, struct kq_str name, unsigned rights)
{
    struct kq_group *group;
    if (kq_group_get(request->broker, &request->caller, name, rights, &group) != 0)
        return false;
    kq_group_unref(group);
    return true;
}

/* --- DescribeGroups --- */

static int32_t operations(struct kq_request *request, struct kq_group *group)
{
    struct kq_str name = kq_group_name(group);
    return (may(request, name, KQ_RIGHT_WRITE) ? READ : 0) |
           (may(request, name, KQ_RIGHT_READ) ? DESCRIBE : 0) |
           (may(request, name, KQ_RIGHT_DELETE) ? DELETE : 0);
}

static int describe_members(struct kq_request *request,
                            const struct kq_group_description *description,
                            struct kq_describe_groups_response_group *ret)
{
    ret->members = kq_describe_groups_response_member_array(&request->arena,
                                                            (size_t)description->member_count);
    if (!ret->members)
        return -ENOMEM;
    ret->members_count = description->member_count;
    for (int32_t i = 0; i < description->member_count; i++)
        ret->members[i] = (struct kq_describe_groups_response_member){
            .member_id = description->members[i].member_id,
            .group_instance_id = description->members[i].instance_id,
            .client_id = description->members[i].client_id,
            .client_host = description->members[i].client_host,
            .member_metadata = description->members[i].metadata,
            .member_assignment = description->members[i].assignment,
        };
    return 0;
}

static int describe_found(struct kq_request *request, struct kq_group *group,
                          struct kq_describe_groups_response_group *ret)
{
    const struct kq_describe_groups_request *body = request->body;
    struct kq_group_description description;
    int r = kq_group_describe(group, true, &request->arena, &description);
    if (r < 0)
        return r;
    ret->group_state = kq_str_of(kq_group_state_name(description.state));
    ret->protocol_type = description.protocol_type;
    ret->protocol_data = description.protocol;
    if (body->include_authorized_operations)
        ret->authorized_operations = operations(request, group);
    return describe_members(request, &description, ret);
}

static int describe(struct kq_request *request, struct kq_str name,
                    struct kq_describe_groups_response_group *ret)
{
    struct kq_group *group;
    ret->group_id = name;
    int r = kq_group_get(request->broker, &request->caller, name, KQ_RIGHT_READ, &group);
    if (r == 0) {
        r = describe_found(request, group, ret);
        kq_group_unref(group);
        return r;
    }
    /* Before version 6 a group that is not there is a dead one (KIP-1043). */
    if (r == KQ_GROUP_NOT_FOUND || r == KQ_WOULD_BLOCK) {
        ret->group_state = kq_str_of(kq_group_state_name(KQ_GROUP_DEAD));
        r = KQ_GROUP_NOT_FOUND;
        if (request->version >= 6)
            ret->error_message = KQ_STR("The group does not exist.");
        else
            r = 0;
    }
    ret->error_code = kq_error_of_group(r);
    return 0;
}

enum kq_handled kq_api_describe_groups(struct kq_request *request)
{
    const struct kq_describe_groups_request *body = request->body;
    struct kq_describe_groups_response *response = request->response;
    response->groups =
        kq_describe_groups_response_group_array(&request->arena, (size_t)body->groups_count);
    if (!response->groups)
        return KQ_HANDLED_CLOSE;
    response->groups_count = body->groups_count;
    for (int32_t i = 0; i < body->groups_count; i++)
        if (describe(request, body->groups[i], &response->groups[i]) < 0)
            return KQ_HANDLED_CLOSE;
    return KQ_HANDLED_NOW;
}

/* --- ListGroups --- */

static bool is_among(const struct kq_str *words, int32_t count, struct kq_str word)
{
    for (int32_t i = 0; i < count; i++)
        if (word.length > 0 && words[i].length == word.length &&
            strncasecmp(words[i].data, word.data, (size_t)word.length) == 0)
            return true;
    return count <= 0; /* no filter */
}

struct listing {
    struct kq_request *request;
    int32_t capacity;
};

static int grow(struct listing *listing)
{
    struct kq_list_groups_response *response = listing->request->response;
    int32_t capacity = listing->capacity ? 2 * listing->capacity : 64;
    struct kq_list_groups_response_group *groups =
        kq_list_groups_response_group_array(&listing->request->arena, (size_t)capacity);
    if (!groups)
        return -ENOMEM;
    if (response->groups_count)
        memcpy(groups, response->groups, (size_t)response->groups_count * sizeof(*groups));
    response->groups = groups;
    listing->capacity = capacity;
    return 0;
}

static int list(struct listing *listing, struct kq_group *group)
{
    struct kq_request *request = listing->request;
    const struct kq_list_groups_request *body = request->body;
    struct kq_list_groups_response *response = request->response;
    struct kq_group_description description;
    struct kq_str name = kq_group_name(group);
    if (!may(request, name, KQ_RIGHT_READ))
        return 0;
    int r = kq_group_describe(group, false, &request->arena, &description);
    if (r < 0)
        return r;
    struct kq_str state = kq_str_of(kq_group_state_name(description.state));
    if (!is_among(body->states_filter, body->states_filter_count, state))
        return 0;
    if (response->groups_count == listing->capacity && grow(listing) < 0)
        return -ENOMEM;
    const char *copy = kq_arena_string(&request->arena, name.data, (size_t)name.length);
    if (!copy)
        return -ENOMEM;
    response->groups[response->groups_count++] = (struct kq_list_groups_response_group){
        .group_id = {copy, name.length},
        .protocol_type = description.protocol_type,
        .group_state = state,
        .group_type = KQ_STR("classic"),
    };
    return 0;
}

enum kq_handled kq_api_list_groups(struct kq_request *request)
{
    const struct kq_list_groups_request *body = request->body;
    struct kq_list_groups_response *response = request->response;
    struct listing listing = {.request = request};
    struct kq_group *group = NULL, *next;
    if (!kq_groups_loaded(request->broker))
        response->error_code = KQ_ERROR_COORDINATOR_LOAD_IN_PROGRESS;
    if (response->error_code ||
        !is_among(body->types_filter, body->types_filter_count, KQ_STR("classic")))
        return KQ_HANDLED_NOW;
    int r = 0;
    while (r == 0 &&
           kq_group_next(request->broker, group ? kq_group_name(group) : KQ_STR_NULL, &next) == 0) {
        kq_group_unref(group);
        group = next;
        r = list(&listing, group);
    }
    kq_group_unref(group);
    return r < 0 ? KQ_HANDLED_CLOSE : KQ_HANDLED_NOW;
}

/* --- DeleteGroups --- */

struct deleting {
    struct kq_request *request;
    atomic_int pending; /* deletions, and one for who starts them */
};

struct deletion {
    struct kq_group_change change; /* first */
    struct deleting *all;
    struct kq_delete_groups_response_result *result;
};

static bool is_last(struct deleting *all)
{
    return atomic_fetch_sub(&all->pending, 1) == 1;
}

/* From any thread. */
static void deleted(struct kq_group_change *change)
{
    struct deletion *deletion = (struct deletion *)(void *)change;
    struct deleting *all = deletion->all;
    deletion->result->error_code = kq_error_of_group(change->result);
    if (is_last(all))
        kq_request_done(all->request);
}

static void delete_one(struct kq_request *request, struct deletion *deletion, struct kq_str name)
{
    atomic_fetch_add(&deletion->all->pending, 1);
    deletion->change.done = deleted;
    int r = kq_group_delete(request->broker, &request->caller, name, &deletion->change);
    if (r == 0)
        return;
    if (r == KQ_READY)
        r = 0;
    /* Without the topic of the offsets there are no groups. */
    deletion->result->error_code = kq_error_of_group(r == KQ_WOULD_BLOCK ? KQ_GROUP_NOT_FOUND : r);
    atomic_fetch_sub(&deletion->all->pending, 1);
}

enum kq_handled kq_api_delete_groups(struct kq_request *request)
{
    const struct kq_delete_groups_request *body = request->body;
    struct kq_delete_groups_response *response = request->response;
    size_t count = (size_t)body->groups_names_count;
    struct deleting *all = kq_arena_alloc(&request->arena, sizeof(*all));
    struct deletion *deletions = kq_arena_array(&request->arena, count, sizeof(*deletions));
    response->results = kq_delete_groups_response_result_array(&request->arena, count);
    if (!all || !deletions || !response->results)
        return KQ_HANDLED_CLOSE;
    response->results_count = body->groups_names_count;
    all->request = request;
    atomic_init(&all->pending, 1);
    for (size_t i = 0; i < count; i++) {
        deletions[i].all = all;
        deletions[i].result = &response->results[i];
        response->results[i].group_id = body->groups_names[i];
        delete_one(request, &deletions[i], body->groups_names[i]);
    }
    return is_last(all) ? KQ_HANDLED_NOW : KQ_HANDLED_LATER;
}
