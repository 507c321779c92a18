/* FindCoordinator (10): which broker looks after a group. It is this one. */
#include "broker/groups.h"
#include "net/admin.h"
#include "net/api.h"
#include "net/errmap.h"
#include "net/internal.h"
#include "net/message/find_coordinator.h"

/* FindCoordinatorRequest.CoordinatorType */
enum key_type {
    GROUP,
    TRANSACTION,
    SHARE,
};

static int16_t check(struct kq_request *request, struct kq_str key, struct kq_str *ret_message)
{
    const struct kq_find_coordinator_request *body = request->body;
    if (body->key_type == TRANSACTION)
        return kq_admin_refuse(request, KQ_ERROR_TRANSACTIONAL_ID_AUTHORIZATION_FAILED, ret_message,
                               "This broker has no transactions.");
    if (body->key_type != GROUP)
        return kq_admin_refuse(request, KQ_ERROR_INVALID_REQUEST, ret_message,
                               "This broker coordinates groups only.");
    return key.length < 0 ? KQ_ERROR_INVALID_GROUP_ID : KQ_ERROR_NONE;
}

static enum kq_handled answer_one(struct kq_request *request)
{
    const struct kq_find_coordinator_request *body = request->body;
    struct kq_find_coordinator_response *response = request->response;
    response->node_id = -1;
    response->error_code = check(request, body->key, &response->error_message);
    if (response->error_code)
        return KQ_HANDLED_NOW;
    response->node_id = kq_broker_node_id(request->broker);
    return kq_conn_advertised(request->conn, &request->arena, &response->host, &response->port) < 0
               ? KQ_HANDLED_CLOSE
               : KQ_HANDLED_NOW;
}

static enum kq_handled answer_all(struct kq_request *request)
{
    const struct kq_find_coordinator_request *body = request->body;
    struct kq_find_coordinator_response *response = request->response;
    struct kq_str host;
    int32_t port;
    size_t count = (size_t)body->coordinator_keys_count;
    response->coordinators = kq_find_coordinator_response_coordinator_array(&request->arena, count);
    if (!response->coordinators ||
        kq_conn_advertised(request->conn, &request->arena, &host, &port) < 0)
        return KQ_HANDLED_CLOSE;
    response->coordinators_count = body->coordinator_keys_count;
    for (size_t i = 0; i < count; i++) {
        struct kq_find_coordinator_response_coordinator *one = &response->coordinators[i];
        one->key = body->coordinator_keys[i];
        one->error_message = KQ_STR_NULL;
        one->error_code = check(request, one->key, &one->error_message);
        one->node_id = one->error_code ? -1 : kq_broker_node_id(request->broker);
        if (!one->error_code) {
            one->host = host;
            one->port = port;
        }
    }
    return KQ_HANDLED_NOW;
}

enum kq_handled kq_api_find_coordinator(struct kq_request *request)
{
    return request->version < 4 ? answer_one(request) : answer_all(request);
}
