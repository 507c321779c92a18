/* DescribeCluster: the one broker, for administration's tools.
 *
 * Source: Kafka's DescribeClusterRequest.json, DescribeClusterResponse.json; KIP-700, KIP-919.
 */
#include "net/api.h"
#include "net/errmap.h"
#include "net/internal.h"
#include "net/message/describe_cluster.h"
#include "net/topics.h"

enum endpoint_type {
    BROKERS = 1,
    CONTROLLERS = 2,
};

static enum kq_handled refuse(struct kq_request *request, int16_t error, const char *reason)
{
    struct kq_describe_cluster_response *response = request->response;
    response->error_code = error;
    response->error_message = kq_str_of(reason);
    return KQ_HANDLED_NOW;
}

static int add_broker(struct kq_request *request)
{
    struct kq_describe_cluster_response *response = request->response;
    struct kq_describe_cluster_response_broker *broker =
        kq_describe_cluster_response_broker_array(&request->arena, 1);
    if (!broker)
        return -ENOMEM;
    broker->broker_id = response->controller_id = kq_broker_node_id(request->broker);
    response->brokers = broker;
    response->brokers_count = 1;
    return kq_conn_advertised(request->conn, &request->arena, &broker->host, &broker->port);
}

/* On a thread of the pool: it may look at all partitions. */
static enum kq_handled add_operations(struct kq_request *request)
{
    struct kq_describe_cluster_response *response = request->response;
    response->cluster_authorized_operations = kq_topics_operations(request, NULL);
    return KQ_HANDLED_NOW;
}

enum kq_handled kq_api_describe_cluster(struct kq_request *request)
{
    const struct kq_describe_cluster_request *body = request->body;
    struct kq_describe_cluster_response *response = request->response;
    if (body->endpoint_type == CONTROLLERS)
        return refuse(request, KQ_ERROR_MISMATCHED_ENDPOINT_TYPE,
                      "this is a broker, controllers were asked for");
    if (body->endpoint_type != BROKERS)
        return refuse(request, KQ_ERROR_UNSUPPORTED_ENDPOINT_TYPE, "unknown type of endpoint");
    response->endpoint_type = BROKERS;
    response->cluster_id = kq_str_of(kq_broker_cluster_id(request->broker));
    if (add_broker(request) < 0)
        return KQ_HANDLED_CLOSE;
    return body->include_cluster_authorized_operations ? kq_request_offload(request, add_operations)
                                                       : KQ_HANDLED_NOW;
}
