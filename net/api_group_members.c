/* JoinGroup (11), SyncGroup (14), Heartbeat (12) and LeaveGroup (13): what members of a group ask.
 *
 * A JoinGroup and a SyncGroup wait, without a thread, until the coordinator has an answer for all
 * members; meanwhile the connection's next requests are served. */
#include <stdlib.h>

#include "broker/groups.h"
#include "net/api.h"
#include "net/errmap.h"
#include "net/internal.h"
#include "net/message/heartbeat.h"
#include "net/message/join_group.h"
#include "net/message/leave_group.h"
#include "net/message/sync_group.h"

/* A request whose answer the coordinator has not given yet; in the request's arena. */
struct waiting {
    struct kq_group_wait wait;
    struct kq_request *request;
    struct kq_str host; /* of the client; of a JoinGroup */
    void (*answer)(struct kq_request *request, int result, const struct kq_group_answer *answer);
};

static void free_answer(struct kq_request *request)
{
    struct waiting *waiting = request->state;
    free(waiting->wait.answer);
}

static enum kq_handled finish(struct kq_request *request)
{
    struct waiting *waiting = request->state;
    request->cancel = NULL;
    waiting->answer(request, waiting->wait.result, waiting->wait.answer);
    kq_group_wait_release(&waiting->wait);
    return KQ_HANDLED_NOW;
}

/* From any thread; `cancel` may be under way on the loop, and needs what the wait holds. */
static void answered(struct kq_group_wait *wait)
{
    kq_request_post(((struct waiting *)(void *)wait)->request, finish);
}

static void cancel(struct kq_request *request)
{
    struct waiting *waiting = request->state;
    if (!kq_group_wait_cancel(&waiting->wait))
        return; /* `finish` ends it */
    kq_group_wait_release(&waiting->wait);
    kq_request_done(request);
}

static struct waiting *wait_for_answer(struct kq_request *request,
                                       void (*answer)(struct kq_request *request, int result,
                                                      const struct kq_group_answer *answer))
{
    struct waiting *waiting = kq_arena_alloc(&request->arena, sizeof(*waiting));
    if (!waiting)
        return NULL;
    waiting->wait.done = answered;
    waiting->request = request;
    waiting->answer = answer;
    request->state = waiting;
    request->cancel = cancel;
    request->release = free_answer;
    return waiting;
}

/* What the coordinator said when it was asked. */
static enum kq_handled handled(struct kq_request *request, int r)
{
    struct waiting *waiting = request->state;
    if (r == 0)
        return KQ_HANDLED_PARKED;
    request->cancel = NULL;
    if (r == KQ_READY) {
        waiting->answer(request, waiting->wait.result, waiting->wait.answer);
        kq_group_wait_release(&waiting->wait);
    } else {
        waiting->answer(request, r, NULL);
    }
    return KQ_HANDLED_NOW;
}

/* The names a version cannot leave out are empty where there are none. */
static struct kq_str or_empty(struct kq_str string, bool nullable)
{
    return string.length < 0 && !nullable ? KQ_STR("") : string;
}

/* --- JoinGroup --- */

static void list_members(struct kq_request *request, const struct kq_group_answer *answer)
{
    struct kq_join_group_response *response = request->response;
    response->members =
        kq_join_group_response_member_array(&request->arena, (size_t)answer->member_count);
    if (!response->members) {
        response->error_code = KQ_ERROR_POLICY_VIOLATION;
        return;
    }
    response->members_count = answer->member_count;
    for (int32_t i = 0; i < answer->member_count; i++) {
        response->members[i].member_id = answer->members[i].member_id;
        response->members[i].group_instance_id = answer->members[i].instance_id;
        response->members[i].metadata = answer->members[i].metadata;
    }
}

static void answer_join(struct kq_request *request, int result,
                        const struct kq_group_answer *answer)
{
    const struct kq_join_group_request *body = request->body;
    struct kq_join_group_response *response = request->response;
    response->error_code = kq_error_of_group(result);
    response->generation_id = -1;
    response->member_id = answer ? answer->member_id : body->member_id;
    response->protocol_name = or_empty(KQ_STR_NULL, request->version >= 7);
    if (result != 0 || !answer)
        return;
    response->generation_id = answer->generation;
    response->protocol_type = answer->protocol_type;
    response->protocol_name = or_empty(answer->protocol_name, request->version >= 7);
    response->leader = answer->leader;
    response->skip_assignment = answer->skip_assignment;
    list_members(request, answer);
}

static int join(struct kq_request *request)
{
    const struct kq_join_group_request *body = request->body;
    struct waiting *waiting = request->state;
    struct kq_group_protocol *protocols =
        kq_arena_array(&request->arena, (size_t)body->protocols_count, sizeof(*protocols));
    struct kq_group_join join = {
        .group = body->group_id,
        .member_id = body->member_id,
        .instance_id = body->group_instance_id,
        .client_id = kq_str_of(request->client_id),
        .client_host = waiting->host,
        .protocol_type = body->protocol_type,
        .protocols = protocols,
        .protocol_count = body->protocols_count,
        .session_timeout_ms = body->session_timeout_ms,
        .rebalance_timeout_ms =
            body->rebalance_timeout_ms < 0 ? body->session_timeout_ms : body->rebalance_timeout_ms,
        .knows_required = request->version >= 4,
        .knows_skipping = request->version >= 9,
    };
    if (!protocols)
        return -ENOMEM;
    for (int32_t i = 0; i < body->protocols_count; i++)
        protocols[i] =
            (struct kq_group_protocol){body->protocols[i].name, body->protocols[i].metadata};
    return kq_group_join(request->broker, &request->caller, &join, &waiting->wait);
}

/* The first member that there ever is has to wait for the topic of the offsets. */
static enum kq_handled prepare_and_join(struct kq_request *request)
{
    int r = kq_groups_prepare(request->broker, true);
    return handled(request, r == 0 ? join(request) : r);
}

enum kq_handled kq_api_join_group(struct kq_request *request)
{
    struct waiting *waiting = wait_for_answer(request, answer_join);
    if (!waiting || kq_conn_host(request->conn, &request->arena, &waiting->host) < 0)
        return KQ_HANDLED_CLOSE;
    int r = join(request);
    return r == KQ_WOULD_BLOCK ? kq_request_offload(request, prepare_and_join)
                               : handled(request, r);
}

/* --- SyncGroup --- */

static void answer_sync(struct kq_request *request, int result,
                        const struct kq_group_answer *answer)
{
    struct kq_sync_group_response *response = request->response;
    response->error_code = kq_error_of_group(result);
    if (result != 0 || !answer)
        return;
    response->protocol_type = answer->protocol_type;
    response->protocol_name = answer->protocol_name;
    response->assignment = answer->assignment;
}

enum kq_handled kq_api_sync_group(struct kq_request *request)
{
    const struct kq_sync_group_request *body = request->body;
    struct waiting *waiting = wait_for_answer(request, answer_sync);
    struct kq_group_assignment *assignments =
        kq_arena_array(&request->arena, (size_t)body->assignments_count, sizeof(*assignments));
    if (!waiting || !assignments)
        return KQ_HANDLED_CLOSE;
    for (int32_t i = 0; i < body->assignments_count; i++)
        assignments[i] = (struct kq_group_assignment){body->assignments[i].member_id,
                                                      body->assignments[i].assignment};
    const struct kq_group_sync sync = {
        .group = body->group_id,
        .member_id = body->member_id,
        .instance_id = body->group_instance_id,
        .generation = body->generation_id,
        .protocol_type = body->protocol_type,
        .protocol_name = body->protocol_name,
        .assignments = assignments,
        .assignment_count = body->assignments_count,
    };
    int r = kq_group_sync(request->broker, &request->caller, &sync, &waiting->wait);
    /* Without the topic of the offsets there is no group, and so no member. */
    return handled(request, r == KQ_WOULD_BLOCK ? KQ_GROUP_UNKNOWN_MEMBER : r);
}

/* --- Heartbeat --- */

enum kq_handled kq_api_heartbeat(struct kq_request *request)
{
    const struct kq_heartbeat_request *body = request->body;
    struct kq_heartbeat_response *response = request->response;
    int r = kq_group_heartbeat(request->broker, &request->caller, body->group_id, body->member_id,
                               body->group_instance_id, body->generation_id);
    response->error_code = kq_error_of_group(r == KQ_WOULD_BLOCK ? KQ_GROUP_UNKNOWN_MEMBER : r);
    return KQ_HANDLED_NOW;
}

/* --- LeaveGroup --- */

static int leave(struct kq_request *request, struct kq_group_leaving *leaving, int32_t count)
{
    const struct kq_leave_group_request *body = request->body;
    int r = kq_group_leave(request->broker, &request->caller, body->group_id, leaving, count);
    return r == KQ_WOULD_BLOCK ? KQ_GROUP_UNKNOWN_MEMBER : r;
}

static enum kq_handled leave_all(struct kq_request *request)
{
    const struct kq_leave_group_request *body = request->body;
    struct kq_leave_group_response *response = request->response;
    size_t count = (size_t)body->members_count;
    struct kq_group_leaving *leaving = kq_arena_array(&request->arena, count, sizeof(*leaving));
    response->members = kq_leave_group_response_member_array(&request->arena, count);
    if (!leaving || !response->members)
        return KQ_HANDLED_CLOSE;
    for (size_t i = 0; i < count; i++)
        leaving[i] = (struct kq_group_leaving){.member_id = body->members[i].member_id,
                                               .instance_id = body->members[i].group_instance_id};
    int r = leave(request, leaving, body->members_count);
    response->error_code = kq_error_of_group(r);
    if (r != 0)
        return KQ_HANDLED_NOW;
    response->members_count = body->members_count;
    for (size_t i = 0; i < count; i++) {
        response->members[i].member_id = leaving[i].member_id;
        response->members[i].group_instance_id = leaving[i].instance_id;
        response->members[i].error_code = kq_error_of_group(leaving[i].result);
    }
    return KQ_HANDLED_NOW;
}

enum kq_handled kq_api_leave_group(struct kq_request *request)
{
    const struct kq_leave_group_request *body = request->body;
    struct kq_leave_group_response *response = request->response;
    if (request->version >= 3)
        return leave_all(request);
    struct kq_group_leaving leaving = {.member_id = body->member_id, .instance_id = KQ_STR_NULL};
    int r = leave(request, &leaving, 1);
    response->error_code = kq_error_of_group(r == 0 ? leaving.result : r);
    return KQ_HANDLED_NOW;
}
